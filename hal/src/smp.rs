//! Starting the other CPUs.
//!
//! One after the other: each gets its stacks and data made by the boot CPU, is sent INIT and STARTUP, and reports back.
//! A CPU that does not is left out, and said.
// Unsafe: copies code to low memory and starts CPUs in it.
#![allow(unsafe_code)]

use core::arch::global_asm;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use radon_core::types::{CpuId, MachineAddr};
use radon_x86::acpi::Madt;
use spin::mutex::TicketMutex;
use spin::once::Once;

use crate::cpu::registers::{rdtsc, relax};
use crate::cpu::{self, Features, MAX_CPUS, PerCpu};
use crate::layout::{self, IST_STACK_SIZE, STACK_SIZE};
use crate::memory::direct_map_pointer;
use crate::paging::{self, MapError};
use crate::{apic, machine_check, report, time, traps};

global_asm!(include_str!("boot/trampoline.S"), options(att_syntax, raw));

/// How long a CPU may take to report back.
const PATIENCE_MS: u64 = 3_000;
/// How long two CPUs compare their time stamp counters.
const WARP_CHECK_US: u64 = 300;

/// What the CPU being started loads first. Read by assembly.
#[unsafe(no_mangle)]
static AP_CR3: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static AP_STACK: AtomicU64 = AtomicU64::new(0);
static AP_CPU: AtomicPtr<PerCpu> = AtomicPtr::new(core::ptr::null_mut());
/// Counts steps that the boot CPU and the CPU being started take together.
static STEP: AtomicU64 = AtomicU64::new(0);
static MAIN: Once<fn() -> !> = Once::new();

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_gdt_pointer: u8;
    static trampoline_far: u8;
    static trampoline_cr3: u8;
    static trampoline_efer: u8;
    static trampoline_end: u8;
}

/// Makes a CPU's stacks for NMI, double fault and machine check.
pub(crate) fn make_interrupt_stacks(cpu: &PerCpu) -> Result<(), MapError> {
    let top = || paging::allocate_stack(IST_STACK_SIZE).map(|s| s.end);
    let (nmi, double_fault, machine_check) = (top()?, top()?, top()?);
    cpu.set_interrupt_stacks(nmi, double_fault, machine_check);
    Ok(())
}

/// Copies the start code to its page below 1 MiB.
///
/// # Safety
/// The page is RAM that nothing else uses.
unsafe fn install_trampoline(page: MachineAddr, features: Features) {
    let start = (&raw const trampoline_start) as u64;
    let length = (&raw const trampoline_end) as u64 - start;
    let target = direct_map_pointer(page);
    let patch = |symbol: *const u8, more: u64, value: u32| {
        // SAFETY: the symbols lie in the copy; the page is ours.
        unsafe { target.add((symbol as u64 - start + more) as usize).cast::<u32>().write_unaligned(value) };
    };
    let relocate = |symbol: *const u8, more: u64| {
        // SAFETY: as above.
        let offset = unsafe { target.add((symbol as u64 - start + more) as usize).cast::<u32>().read_unaligned() };
        patch(symbol, more, offset + page.0 as u32);
    };
    // SAFETY: the source is in read-only data of the image; the page is ours, and the code is shorter than a page.
    unsafe { core::ptr::copy_nonoverlapping(start as *const u8, target, length as usize) };
    relocate(&raw const trampoline_gdt_pointer, 2);
    relocate(&raw const trampoline_far, 0);
    patch(&raw const trampoline_cr3, 0, layout::boot_page_tables() as u32);
    const LONG_MODE: u32 = 1 << 8;
    const NO_EXECUTE: u32 = 1 << 11;
    patch(&raw const trampoline_efer, 0, if features.nx { LONG_MODE | NO_EXECUTE } else { LONG_MODE });
}

/// Starts the other CPUs that the firmware lists, up to `max` in all, without second threads of cores unless `smt`. Each ends up in `main`. Returns how many run.
///
/// # Safety
/// `page` is a page of RAM below 640 KiB that nothing else uses, ever.
pub(crate) unsafe fn start(madt: &Madt, page: MachineAddr, max: u32, smt: bool, main: fn() -> !) -> u32 {
    MAIN.call_once(|| main);
    let features = cpu::features();
    let own = apic::id();
    let limit = if apic::is_x2apic() { u32::MAX } else { 0xff };
    // SAFETY: by the caller's promise.
    unsafe { install_trampoline(page, features) };
    AP_CR3.store(paging::root().0, Ordering::Relaxed);
    let layout = cpu::hidden::apic_layout();
    let is_wanted = |id: u32| smt || layout.is_first_thread(id);
    let enabled = || madt.local_apics.iter().filter(|a| a.enabled && a.id != own && a.id < limit);
    let others = || enabled().filter(|a| is_wanted(a.id));
    if let Some(apic) = madt.local_apics.iter().find(|a| a.id == own) {
        cpu::this_cpu().set_acpi_id(apic.processor);
    }
    let wanted = (max.min(MAX_CPUS as u32) as usize).saturating_sub(1);
    for apic in others().take(wanted) {
        apic::send_init(apic.id);
    }
    if others().next().is_some() && wanted > 0 {
        time::spin_ms(10);
    }
    for apic in others().take(wanted) {
        // SAFETY: the page holds the start code.
        match unsafe { start_one(apic.id, apic.processor, (page.0 >> 12) as u8) } {
            Ok(warp) if warp > 0 => {
                log::warn!("The time stamp counter of APIC {} is {warp} ticks behind: time may run backwards", apic.id);
            }
            Ok(_) => (),
            Err(why) => log::error!("The CPU with APIC {} is left out: {why}", apic.id),
        }
    }
    let listed = enabled().count() as u32 + 1;
    if listed > cpu::count() {
        log::info!("{} of {listed} CPUs are used", cpu::count());
    }
    // Nobody starts there any more.
    // SAFETY: the page is ours.
    unsafe { direct_map_pointer(page).write_bytes(0, 4096) };
    cpu::count()
}

/// Starts one CPU; returns by how many ticks its time stamp counter went backwards compared to ours.
///
/// # Safety
/// The page holds the start code.
unsafe fn start_one(apic_id: u32, acpi_id: u32, page: u8) -> Result<u64, &'static str> {
    let stack = paging::allocate_stack(STACK_SIZE).map_err(|_| "no memory for its stack")?;
    let top = stack.end;
    let cpu = PerCpu::new(CpuId(cpu::count()), apic_id, stack);
    cpu.set_acpi_id(acpi_id);
    make_interrupt_stacks(cpu).map_err(|_| "no memory for its stacks")?;
    AP_STACK.store(top, Ordering::Relaxed);
    AP_CPU.store(core::ptr::from_ref(cpu).cast_mut(), Ordering::Relaxed);
    STEP.store(0, Ordering::SeqCst);
    for attempt in 0..2 {
        // SAFETY: by the caller's promise; the CPU waits after INIT.
        unsafe { apic::send_startup(apic_id, page) };
        // The second command is for old processors that missed the first.
        let wait = if attempt == 0 { 10 } else { PATIENCE_MS };
        if wait_for_step(1, wait) {
            break;
        }
    }
    if STEP.load(Ordering::SeqCst) < 1 {
        // It may still come late; taking its data away makes it stop.
        AP_CPU.store(core::ptr::null_mut(), Ordering::SeqCst);
        apic::send_init(apic_id);
        return Err("it does not start");
    }
    STEP.store(2, Ordering::SeqCst);
    let warp = compare_counters();
    let other = if wait_for_step(3, PATIENCE_MS) { WARP.load(Ordering::SeqCst) } else { return Err("it hangs") };
    Ok(warp.max(other))
}

fn wait_for_step(step: u64, ms: u64) -> bool {
    let start = rdtsc();
    let ticks = ms * (time::tsc_hz() / 1000);
    while STEP.load(Ordering::SeqCst) < step {
        if rdtsc().wrapping_sub(start) > ticks {
            return false;
        }
        relax();
    }
    true
}

static LAST: TicketMutex<u64> = TicketMutex::new(0);
static WARP: AtomicU64 = AtomicU64::new(0);

/// Both CPUs read their counters in turn, under a lock: none may read less than the other did before. Returns the
/// greatest step back that this CPU saw.
fn compare_counters() -> u64 {
    let mut worst = 0;
    let start = rdtsc();
    let ticks = WARP_CHECK_US * time::tsc_hz() / 1_000_000;
    loop {
        let now = {
            let mut last = LAST.lock();
            let now = rdtsc();
            worst = worst.max(last.saturating_sub(now));
            *last = now;
            now
        };
        if now.wrapping_sub(start) > ticks {
            return worst;
        }
        relax();
    }
}

/// Where the assembly of the start code leads, on the CPU's own stack, with the final page tables.
#[unsafe(no_mangle)]
extern "C" fn ap_entry() -> ! {
    let cpu = AP_CPU.load(Ordering::SeqCst);
    if cpu.is_null() {
        report::park();
    }
    // SAFETY: `start_one` stored a `'static` reference.
    let cpu: &'static PerCpu = unsafe { &*cpu };
    cpu.load();
    traps::load();
    cpu::set_control_registers(cpu::features());
    machine_check::init_cpu();
    apic::init_cpu();
    STEP.store(1, Ordering::SeqCst);
    while STEP.load(Ordering::SeqCst) < 2 {
        relax();
    }
    WARP.store(compare_counters(), Ordering::SeqCst);
    cpu.set_online();
    STEP.store(3, Ordering::SeqCst);
    match MAIN.get() {
        Some(main) => main(),
        None => report::park(),
    }
}
