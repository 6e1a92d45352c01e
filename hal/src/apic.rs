//! The local APIC, in xAPIC (memory) or x2APIC (MSR) mode: interrupts between CPUs, acknowledgement, the timer.
//!
//! The mode is decided once, on the boot CPU, and holds for all. Takes no locks: each CPU touches its own APIC, with
//! interrupts off, so the two halves of an xAPIC command are not torn apart (an NMI handler sends none, except when the
//! machine is stopped).
// Unsafe: device registers and MSRs.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use radon_core::types::{MachineAddr, Nanoseconds};

use crate::cpu::registers::{cpuid, msr, rdmsr, rdtsc, relax, wrmsr};
use crate::cpu::{self, Features};
use crate::{interrupts, paging, time};

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const EOI: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const REQUESTED: u32 = 0x200;
const ERROR_STATUS: u32 = 0x280;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_PERFORMANCE: u32 = 0x340;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;

const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const TIMER_TSC_DEADLINE: u32 = 2 << 17;
const DIVIDE_BY_16: u32 = 3;

/// `APIC_BASE`: enabled globally, and in x2APIC mode.
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

const COMMAND_FIXED: u32 = 0;
const COMMAND_NMI: u32 = 4 << 8;
const COMMAND_INIT: u32 = 5 << 8;
const COMMAND_STARTUP: u32 = 6 << 8;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_PENDING: u32 = 1 << 12;
const TO_ALL_OTHERS: u32 = 3 << 18;

static X2APIC: AtomicBool = AtomicBool::new(false);
static REGISTERS: AtomicU64 = AtomicU64::new(0);
static TSC_DEADLINE: AtomicBool = AtomicBool::new(false);
/// Timer ticks per second, divided by 16.
static TIMER_HZ: AtomicU64 = AtomicU64::new(0);
static READY: AtomicBool = AtomicBool::new(false);

fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: x2APIC mode is on, and only registers that exist in it are asked for.
        return unsafe { rdmsr(msr::X2APIC_FIRST + (register >> 4)) } as u32;
    }
    let at = REGISTERS.load(Ordering::Relaxed) + u64::from(register);
    // SAFETY: `init` mapped the page of registers before anything reads; registers are 32 bits wide and aligned to 16.
    unsafe { (at as *const u32).read_volatile() }
}

fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: as in `read`; the values written are valid for their registers.
        unsafe { wrmsr(msr::X2APIC_FIRST + (register >> 4), u64::from(value)) };
        return;
    }
    let at = REGISTERS.load(Ordering::Relaxed) + u64::from(register);
    // SAFETY: as in `read`.
    unsafe { (at as *mut u32).write_volatile(value) };
}

/// Decides the mode, maps the registers and enables the boot CPU's APIC. Returns false if that cannot be done.
pub(crate) fn init(address: MachineAddr, features: Features, allow_x2apic: bool) -> bool {
    if cpuid(1, 0).edx & 1 << 9 == 0 {
        return false;
    }
    // SAFETY: APIC_BASE exists where there is an APIC.
    let base = unsafe { rdmsr(msr::APIC_BASE) };
    let firmware_chose_x2apic = base & BASE_X2APIC != 0;
    if features.x2apic && (allow_x2apic || firmware_chose_x2apic) {
        X2APIC.store(true, Ordering::Relaxed);
    } else {
        let address = if address.0 == 0 { MachineAddr(base & 0x000f_ffff_ffff_f000) } else { address };
        let Ok(at) = paging::map_device(address, 4096) else { return false };
        REGISTERS.store(at as u64, Ordering::Relaxed);
    }
    TSC_DEADLINE.store(features.tsc_deadline, Ordering::Relaxed);
    init_cpu();
    READY.store(true, Ordering::Release);
    true
}

/// Enables this CPU's APIC. The timer is one-shot and disarmed, LINT1 delivers NMIs, everything else is masked.
pub(crate) fn init_cpu() {
    let mode = if X2APIC.load(Ordering::Relaxed) { BASE_ENABLED | BASE_X2APIC } else { BASE_ENABLED };
    // SAFETY: enabling the APIC, and x2APIC mode from xAPIC mode, are permitted transitions; with everything masked no
    // interrupt comes that was not asked for.
    unsafe {
        let base = rdmsr(msr::APIC_BASE);
        // Each step is its own transition: from disabled to xAPIC to x2APIC.
        wrmsr(msr::APIC_BASE, base | BASE_ENABLED);
        wrmsr(msr::APIC_BASE, base | mode);
    }
    write(SPURIOUS, 0x100 | u32::from(interrupts::SPURIOUS));
    write(TASK_PRIORITY, 0);
    let timer_mode = if TSC_DEADLINE.load(Ordering::Relaxed) { TIMER_TSC_DEADLINE } else { 0 };
    write(LVT_TIMER, timer_mode | u32::from(interrupts::TIMER));
    write(LVT_PERFORMANCE, MASKED | DELIVER_NMI);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(ERROR_STATUS, 0);
    write(LVT_ERROR, u32::from(interrupts::APIC_ERROR));
    write(DIVIDE, DIVIDE_BY_16);
    // The mode is set before the first deadline is.
    core::sync::atomic::fence(Ordering::SeqCst);
    arm_timer(None);
}

/// This CPU's APIC identifier.
#[must_use]
pub fn id() -> u32 {
    if X2APIC.load(Ordering::Relaxed) { read(ID) } else { read(ID) >> 24 }
}

/// Whether the APICs are in x2APIC mode.
#[must_use]
pub fn is_x2apic() -> bool {
    X2APIC.load(Ordering::Relaxed)
}

/// Whether the timer counts in TSC units.
#[must_use]
pub fn has_tsc_deadline() -> bool {
    TSC_DEADLINE.load(Ordering::Relaxed)
}

/// Acknowledges the interrupt that is being handled on this CPU.
pub fn eoi() {
    write(EOI, 0);
}

/// Whether an interrupt has arrived at this CPU and waits to be taken.
#[must_use]
pub fn is_pending(vector: u8) -> bool {
    read(REQUESTED + u32::from(vector / 32) * 0x10) >> (vector % 32) & 1 != 0
}

/// Reads and clears the error status.
pub(crate) fn error_status() -> u32 {
    write(ERROR_STATUS, 0);
    read(ERROR_STATUS)
}

fn command(target: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // Unlike a write to memory, this MSR write may pass earlier stores: order them.
        core::sync::atomic::fence(Ordering::SeqCst);
        // SAFETY: x2APIC mode is on; the command register takes any target.
        unsafe {
            core::arch::asm!("lfence", options(nostack, preserves_flags));
            wrmsr(msr::X2APIC_FIRST + (COMMAND_LOW >> 4), u64::from(target) << 32 | u64::from(low));
        }
        return;
    }
    wait_for_command();
    write(COMMAND_HIGH, target << 24);
    write(COMMAND_LOW, low);
}

/// Waits until the last command has been sent.
fn wait_for_command() {
    if !X2APIC.load(Ordering::Relaxed) {
        // It takes microseconds; a broken APIC must not hang the machine here.
        for _ in 0..1_000_000 {
            if read(COMMAND_LOW) & COMMAND_PENDING == 0 {
                break;
            }
            relax();
        }
    }
}

/// Sends an interrupt to the CPU with this APIC identifier.
pub fn send_ipi(target: u32, vector: u8) {
    command(target, COMMAND_FIXED | COMMAND_ASSERT | u32::from(vector));
}

/// Sends an NMI to every other CPU. Only to stop the machine or to ask who hangs.
pub(crate) fn send_nmi_to_others() {
    if READY.load(Ordering::Acquire) && cpu::count() > 1 {
        command(0, COMMAND_NMI | COMMAND_ASSERT | TO_ALL_OTHERS);
        wait_for_command();
    }
}

/// Sends an NMI to the CPU with this APIC identifier. Not from an NMI handler, which may have interrupted a command.
pub(crate) fn send_nmi(target: u32) {
    command(target, COMMAND_NMI | COMMAND_ASSERT);
    wait_for_command();
}

/// Sends an interrupt to this CPU itself; may be called in an NMI handler, since it takes a single write.
pub(crate) fn send_to_self(vector: u8) {
    const TO_SELF: u32 = 1 << 18;
    const SELF_IPI: u32 = 0x3f0;
    if X2APIC.load(Ordering::Relaxed) {
        write(SELF_IPI, u32::from(vector));
    } else {
        write(COMMAND_LOW, COMMAND_FIXED | COMMAND_ASSERT | TO_SELF | u32::from(vector));
    }
}

/// Resets another CPU so that it waits for its start command.
pub(crate) fn send_init(target: u32) {
    command(target, COMMAND_INIT | COMMAND_ASSERT | 1 << 15);
    wait_for_command();
    if !X2APIC.load(Ordering::Relaxed) {
        command(target, COMMAND_INIT | 1 << 15);
        wait_for_command();
    }
}

/// Starts another CPU in real mode at a page below 1 MiB.
///
/// # Safety
/// The page holds code that is made for that, and the CPU waits after [`send_init`].
pub(crate) unsafe fn send_startup(target: u32, page: u8) {
    command(target, COMMAND_STARTUP | COMMAND_ASSERT | u32::from(page));
    wait_for_command();
}

/// Sets this CPU's timer: [`interrupts::TIMER`] comes at or after `deadline`, or earlier if that is further away than the
/// hardware counts (who is woken must look at the time). `None` disarms.
pub fn arm_timer(deadline: Option<Nanoseconds>) {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        let tsc = deadline.map_or(0, |at| time::to_tsc(at).max(1));
        // SAFETY: the MSR exists (CPUID says so); an interrupt at some time is what handlers are for.
        unsafe { wrmsr(msr::TSC_DEADLINE, tsc) };
        return;
    }
    let count = deadline.map_or(0, |at| {
        let wait = at.saturating_sub(time::now()).0;
        let ticks = u128::from(wait) * u128::from(TIMER_HZ.load(Ordering::Relaxed)) / 1_000_000_000;
        // One more tick, so that it is not early by rounding; at least one, since zero would disarm.
        u32::try_from(ticks + 1).unwrap_or(u32::MAX)
    });
    write(INITIAL_COUNT, count);
}

/// Measures the timer's speed against the TSC. To be called once, on the boot CPU, when the TSC's speed is known.
pub(crate) fn calibrate_timer() {
    if TSC_DEADLINE.load(Ordering::Relaxed) {
        return;
    }
    write(INITIAL_COUNT, u32::MAX);
    let (start_count, start) = (read(CURRENT_COUNT), rdtsc());
    time::spin_ms(5);
    let (end_count, end) = (read(CURRENT_COUNT), rdtsc());
    write(INITIAL_COUNT, 0);
    let ticks = u64::from(start_count.wrapping_sub(end_count));
    let hz = u128::from(ticks) * u128::from(time::tsc_hz()) / u128::from(end.wrapping_sub(start).max(1));
    TIMER_HZ.store((hz as u64).max(1), Ordering::Relaxed);
}

/// Ticks of the timer per second; 0 if it counts in TSC units.
#[must_use]
pub fn timer_hz() -> u64 {
    TIMER_HZ.load(Ordering::Relaxed)
}
