//! hal's own ring-0 tests.
// Unsafe: some tests do on purpose what must be refused.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use radon_core::options::NmiPolicy;
use radon_core::platform::PhysMemory as _;
use radon_core::types::{MachineAddr, Nanoseconds};
use radon_x86::dom0::unpack::crc32;

use super::Test;
use crate::cpu::registers::{self, cr0, cr4, msr, probe_read_u64, rdmsr_safe, wrmsr_safe};
use crate::svm::{Features, Unavailable};
use crate::{apic, cpu, frames, idle, interrupts, layout, memory, nmi, paging, symbols, time};

pub(super) const TESTS: &[Test] = &[
    Test { name: "registers::a_missing_msr_is_an_error", run: missing_msr },
    Test { name: "registers::probing_an_unmapped_address_is_an_error", run: probe_unmapped },
    Test { name: "paging::image_is_mapped_by_permission", run: image_permissions },
    Test { name: "paging::nothing_is_mapped_low", run: nothing_low },
    Test { name: "paging::stacks_have_guards", run: stack_guards },
    Test { name: "paging::protection_is_on", run: protection },
    Test { name: "memory::reads_and_writes", run: memory_access },
    Test { name: "memory::outside_is_all_ones", run: memory_outside },
    Test { name: "memory::atomics", run: memory_atomics },
    Test { name: "host::device_accesses_reach_no_memory", run: device_accesses },
    Test { name: "heap::grows_and_aligns", run: heap },
    Test { name: "time::runs_forward_at_the_right_speed", run: time_runs },
    Test { name: "apic::timer_fires_when_due", run: timer },
    Test { name: "apic::kick_wakes_every_cpu", run: kick },
    Test { name: "traps::nmi_double_fault_and_machine_check_have_stacks_of_their_own", run: own_stacks },
    Test { name: "nmi::an_unclaimed_one_is_counted_and_relayed", run: nmi_unclaimed },
    Test { name: "apic::an_idle_cpu_takes_no_periodic_tick", run: no_tick },
    Test { name: "svm::what_firmware_disabled_is_said_with_a_remedy", run: svm_disabled },
    Test { name: "symbols::find_this_function", run: symbol },
    Test { name: "checksum::agrees_with_tables", run: checksum },
];

fn missing_msr() -> Result<(), String> {
    const PKRS: u32 = 0x6e1;
    const UNKNOWN: u32 = 0x4000_1234;
    let efer = rdmsr_safe(msr::EFER).map_err(|_| "EFER cannot be read")?;
    // Emulators let most unknown MSRs pass, each another set, so several are tried. Reserved bits are refused by each
    // processor, and ignored by the emulators that do not refuse them.
    let refused = rdmsr_safe(UNKNOWN).is_err()
        // SAFETY: nothing is changed: the upper half of PKRS and bit 62 of EFER are reserved.
        || unsafe { wrmsr_safe(PKRS, 1 << 40).is_err() || wrmsr_safe(msr::EFER, efer | 1 << 62).is_err() };
    check!(refused, "neither a missing MSR nor a reserved bit was refused");
    check!(rdmsr_safe(msr::EFER) == Ok(efer));
    Ok(())
}

fn probe_unmapped() -> Result<(), String> {
    check!(probe_read_u64(0x1000).is_err());
    check!(probe_read_u64(0x8000_0000_0000_0000).is_err(), "a non-canonical address was read");
    let value = 0x1234_5678_9abc_def0u64;
    check!(probe_read_u64(&raw const value as u64) == Ok(value));
    Ok(())
}

fn image_permissions() -> Result<(), String> {
    let at = |address: u64| paging::translate(address).map(|(_, w, x)| (w, x));
    let nx = !cpu::features().nx;
    check!(at(layout::text().start) == Some((false, true)));
    check!(at(layout::rodata().start) == Some((false, nx)));
    check!(at(layout::data().start) == Some((true, nx)));
    check!(at(layout::DIRECT_MAP + 0x1000) == Some((true, nx)));
    let alias = layout::DIRECT_MAP + layout::machine_address(layout::text().start).0;
    check!(at(alias).is_none(), "code has a second mapping");
    Ok(())
}

fn nothing_low() -> Result<(), String> {
    for address in [0, 0x1000, layout::image_phys().start, 0xfee0_0000] {
        check!(paging::translate(address).is_none(), "{address:#x} is mapped");
    }
    Ok(())
}

fn stack_guards() -> Result<(), String> {
    for cpu in cpu::online() {
        let stack = cpu.stack();
        check!(probe_read_u64(stack.start).is_ok());
        check!(probe_read_u64(stack.start - 8).is_err(), "{} has no guard", cpu.id());
        check!(cpu::is_stack_guard(stack.start - 8));
    }
    Ok(())
}

/// CR0, CR4, EFER, PAT of each CPU that was asked.
static CONTROLS: [[AtomicU64; 4]; cpu::MAX_CPUS] = [const { [const { AtomicU64::new(0) }; 4] }; cpu::MAX_CPUS];
static TOLD: AtomicU32 = AtomicU32::new(0);
const TELL_VECTOR: u8 = 0xf9;

fn protection() -> Result<(), String> {
    interrupts::register(TELL_VECTOR, |_| {
        let msr = |n| rdmsr_safe(n).unwrap_or(0);
        let values = [registers::read_cr0(), registers::read_cr4(), msr(msr::EFER), msr(msr::PAT)];
        for (to, value) in CONTROLS[cpu::this_cpu().id().index()].iter().zip(values) {
            to.store(value, Ordering::SeqCst);
        }
        TOLD.fetch_add(1, Ordering::SeqCst);
        apic::eoi();
    });
    let features = cpu::features();
    let wanted = [(features.smep, cr4::SMEP), (features.smap, cr4::SMAP), (features.umip, cr4::UMIP), (true, cr4::MCE)];
    let wanted = wanted.iter().filter(|w| w.0).fold(0, |all, w| all | w.1);
    for cpu in cpu::online() {
        let before = TOLD.load(Ordering::SeqCst);
        apic::send_ipi(cpu.apic_id(), TELL_VECTOR);
        let start = time::now();
        while TOLD.load(Ordering::SeqCst) == before {
            interrupts::poll();
            check!(time::now().saturating_sub(start).0 < 1_000_000_000, "{} does not answer", cpu.id());
        }
        let [cr0, cr4, efer, pat] = CONTROLS[cpu.id().index()].each_ref().map(|v| v.load(Ordering::SeqCst));
        check!(cr0 & cr0::WP != 0 && cr0 & (cr0::EM | cr0::TS) == 0, "{}: CR0 {cr0:#x}", cpu.id());
        check!(cr4 & wanted == wanted, "{}: CR4 {cr4:#x} lacks some of {wanted:#x}", cpu.id());
        check!(!features.nx || efer & registers::EFER_NXE != 0, "{}: EFER {efer:#x}", cpu.id());
        check!(pat == 0x0007_0406_0007_0406, "{}: PAT {pat:#x}", cpu.id());
    }
    Ok(())
}

/// Some frames to play with.
fn some_frames(n: u64) -> Result<MachineAddr, String> {
    frames::allocate(n).ok_or_else(|| "no frames".into())
}

fn memory_access() -> Result<(), String> {
    let m = memory::memory();
    let at = some_frames(2)?;
    m.zero_frame(at.mfn());
    m.zero_frame(radon_core::types::Mfn(at.mfn().0 + 1));
    // Lengths and offsets around the word size, and across the frames' border.
    for length in [0usize, 1, 3, 7, 8, 9, 15, 16, 63, 300] {
        for offset in [0u64, 1, 4090] {
            let data: Vec<u8> = (0..length).map(|i| (i as u8) ^ 0x5a).collect();
            m.write(MachineAddr(at.0 + offset), &data);
            let mut back = alloc::vec![0u8; length];
            m.read(MachineAddr(at.0 + offset), &mut back);
            check!(back == data, "length {length} at offset {offset}");
        }
    }
    m.copy(MachineAddr(at.0 + 512), MachineAddr(at.0 + 4090), 6);
    let mut back = [0u8; 6];
    m.read(MachineAddr(at.0 + 512), &mut back);
    check!(back == [0x5a, 0x5b, 0x58, 0x59, 0x5e, 0x5f]);
    Ok(())
}

fn memory_outside() -> Result<(), String> {
    let m = memory::memory();
    let end = m.ranges().iter().map(|r| r.end).max().unwrap_or(0);
    for at in [end + 0x1000, 1 << 51, u64::MAX - 2, layout::machine_address(layout::text().start).0] {
        let mut back = [0u8; 16];
        m.read(MachineAddr(at), &mut back);
        check!(back == [0xff; 16], "{at:#x}");
        m.write(MachineAddr(at), &[0; 16]);
        check!(m.load_u64(MachineAddr(at)) == u64::MAX);
    }
    let mut across = [0u8; 16];
    m.read(MachineAddr(end - 8), &mut across);
    check!(across[8..] == [0xff; 8]);
    Ok(())
}

fn device_accesses() -> Result<(), String> {
    let ram = some_frames(1)?;
    let image = layout::image_phys();
    let size = layout::DIRECT_MAP_SIZE;
    for at in [ram.0, image.start, image.end - 8, ram.0 + size, image.start + size, 3 * size + ram.0, u64::MAX - 7] {
        check!(crate::host::device_pointer(MachineAddr(at), 8).is_none(), "{at:#x} is taken for a device");
    }
    Ok(())
}

fn memory_atomics() -> Result<(), String> {
    let m = memory::memory();
    let at = some_frames(1)?;
    m.store_u64(at, 0x10);
    check!(m.fetch_or_u64(at, 1) == 0x10 && m.load_u64(at) == 0x11);
    check!(m.compare_exchange_u32(at, 0x11, 0x22) == 0x11 && m.load_u32(at) == 0x22);
    check!(m.compare_exchange_u32(at, 0x11, 0x33) == 0x22 && m.load_u32(at) == 0x22);
    check!(m.fetch_and_u64(at, 2) == 0x22 && m.load_u64(MachineAddr(at.0 + 3)) == 2);
    Ok(())
}

fn heap() -> Result<(), String> {
    let before = crate::heap::size();
    let big: Vec<Vec<u8>> = (0..6).map(|i| alloc::vec![i as u8; 1 << 20]).collect();
    check!(crate::heap::size() > before, "6 MiB fitted into {before} bytes");
    check!(big.iter().enumerate().all(|(i, v)| v.iter().all(|&b| b == i as u8)));
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let page = Box::new(Page([7; 4096]));
    check!(((&raw const *page) as usize).is_multiple_of(4096) && page.0[4095] == 7);
    Ok(())
}

fn time_runs() -> Result<(), String> {
    let start = time::now();
    time::spin_ms(2);
    let took = time::now().saturating_sub(start).0;
    // An emulator may stop for a while, but never run fast.
    check!((1_990_000..1_000_000_000).contains(&took), "2 ms took {took} ns");
    let at = Nanoseconds(time::now().0 + 1_000_000_000);
    let there = time::from_tsc(time::to_tsc(at)).0;
    check!((at.0..at.0 + 1000).contains(&there), "to TSC and back: {} to {there}", at.0);
    Ok(())
}

fn timer() -> Result<(), String> {
    for wait in [100_000, 3_000_000] {
        let due = Nanoseconds(time::now().0 + wait);
        apic::arm_timer(Some(due));
        let mut wakes = 0;
        while time::now() < due && wakes < 100 {
            idle::halt_until_interrupt(|| false);
            wakes += 1;
        }
        check!(wakes < 100, "woken {wakes} times before {wait} ns had passed");
    }
    // Disarmed, it does not fire; armed, it does.
    interrupts::poll();
    apic::arm_timer(Some(Nanoseconds(time::now().0 + 20_000_000)));
    apic::arm_timer(None);
    time::spin_ms(40);
    check!(!apic::is_pending(interrupts::TIMER), "a disarmed timer fired");
    apic::arm_timer(Some(Nanoseconds(time::now().0 + 1_000)));
    // An emulator's timers are late on a busy host.
    let patience = time::now().0 + 2_000_000_000;
    while !apic::is_pending(interrupts::TIMER) && time::now().0 < patience {
        time::spin_ms(1);
    }
    check!(apic::is_pending(interrupts::TIMER), "an armed timer did not fire");
    interrupts::poll();
    check!(!apic::is_pending(interrupts::TIMER));
    Ok(())
}

/// Kicks that came back from other CPUs, through the test vector.
static ANSWERS: AtomicU32 = AtomicU32::new(0);
static SEEN: AtomicU64 = AtomicU64::new(0);
const TEST_VECTOR: u8 = 0xf8;

fn kick() -> Result<(), String> {
    interrupts::register(TEST_VECTOR, |_| {
        SEEN.fetch_or(1 << (cpu::this_cpu().id().0 & 63), Ordering::SeqCst);
        ANSWERS.fetch_add(1, Ordering::SeqCst);
        apic::eoi();
    });
    for cpu in cpu::online() {
        let before = ANSWERS.load(Ordering::SeqCst);
        apic::send_ipi(cpu.apic_id(), TEST_VECTOR);
        let start = time::now();
        while ANSWERS.load(Ordering::SeqCst) == before {
            interrupts::poll();
            check!(time::now().saturating_sub(start).0 < 1_000_000_000, "{} does not answer", cpu.id());
        }
        check!(SEEN.load(Ordering::SeqCst) >> (cpu.id().0 & 63) & 1 != 0, "another CPU than {} answered", cpu.id());
    }
    Ok(())
}

fn own_stacks() -> Result<(), String> {
    /// Offset of the first interrupt stack in a task state segment.
    const FIRST: u64 = 0x24;
    let read = |at: u64| probe_read_u64(at).map_err(|_| format!("{at:#x} cannot be read"));
    let mut pointer = [0u8; 10];
    // SAFETY: stores ten bytes.
    unsafe { core::arch::asm!("sidt [{}]", in(reg) pointer.as_mut_ptr(), options(nostack, preserves_flags)) };
    let table = u64::from_le_bytes(pointer[2..].try_into().unwrap_or_default());
    let mut tops = Vec::new();
    for vector in [2, 8, 18] {
        let slot = read(table + vector * 16)? >> 32 & 7;
        check!(slot != 0, "vector {vector} runs on the interrupted stack");
        for cpu in cpu::online() {
            let top = read(cpu.tss_address() + FIRST + (slot - 1) * 8)?;
            check!(probe_read_u64(top - 8).is_ok(), "{} has no stack for vector {vector}", cpu.id());
            let guard = top - layout::IST_STACK_SIZE - 8;
            check!(probe_read_u64(guard).is_err() && cpu::is_stack_guard(guard), "no guard below {top:#x}");
            check!(!tops.contains(&top), "two of them share {top:#x}");
            tops.push(top);
        }
    }
    Ok(())
}

static RELAYED: AtomicU32 = AtomicU32::new(0);

fn nmi_unclaimed() -> Result<(), String> {
    interrupts::register(interrupts::NMI_RELAY, |_| {
        RELAYED.fetch_add(1, Ordering::SeqCst);
        apic::eoi();
    });
    for (policy, relayed) in [(NmiPolicy::Ignore, 0), (NmiPolicy::Dom0, 1)] {
        nmi::set_policy(policy);
        let before = (nmi::unclaimed(), RELAYED.load(Ordering::SeqCst));
        apic::send_nmi(apic::id());
        let start = time::now();
        while nmi::unclaimed() == before.0 {
            check!(time::now().saturating_sub(start).0 < 1_000_000_000, "the NMI does not come");
        }
        interrupts::poll();
        check!(nmi::unclaimed() == before.0 + 1);
        check!(RELAYED.load(Ordering::SeqCst) == before.1 + relayed, "{policy:?}");
    }
    Ok(())
}

/// Counts what ends an idle CPU's halts in a time in which a tick of 100 Hz would come thirty times.
fn no_tick() -> Result<(), String> {
    let until = Nanoseconds(time::now().0 + 300_000_000);
    apic::arm_timer(Some(until));
    let mut wakes = 0;
    while time::now() < until && wakes < 1000 {
        idle::halt_until_interrupt(|| false);
        wakes += 1;
    }
    // One is the timer's own; an emulator may wake a CPU once or twice for nothing.
    check!(wakes <= 5, "an idle CPU was woken {wakes} times in 300 ms");
    Ok(())
}

fn svm_disabled() -> Result<(), String> {
    const NESTED_PAGING: u32 = 1;
    const LOCK: u32 = 1 << 2;
    const SVMDIS: u64 = 1 << 4;
    check!(Features::from_registers(16, NESTED_PAGING, 0).is_ok_and(|f| f.asids == 16 && !f.nrip_save));
    check!(Features::from_registers(16, LOCK, 0) == Err(Unavailable::NoNestedPaging));
    for locked in [false, true] {
        let edx = if locked { NESTED_PAGING | LOCK } else { NESTED_PAGING };
        let Err(error) = Features::from_registers(16, edx, SVMDIS) else { return Err("taken as usable".into()) };
        check!(error == Unavailable::Disabled { locked });
        let text = format!("{error}");
        check!(text.contains("enable 'SVM'") && text.contains("locked") == locked, "{text}");
    }
    Ok(())
}

fn checksum() -> Result<(), String> {
    let data: Vec<u8> = (0..1000u32).map(|n| (n.wrapping_mul(0x9e37_79b9) >> 11) as u8).collect();
    check!(crate::checksum::crc32(b"123456789") == 0xcbf4_3926);
    for length in [0, 1, 63, 64, 65, 127, 128, 200, 256, 1000] {
        let (found, expected) = (crate::checksum::crc32(&data[..length]), crc32::crc32(&data[..length]));
        check!(found == expected, "{found:#x} for {length} bytes, not {expected:#x}");
    }
    Ok(())
}

fn symbol() -> Result<(), String> {
    let at = symbol as fn() -> Result<(), String> as usize as u64;
    if !symbols::present() {
        log::warn!("RING0-TEST symbols: SKIPPED, the image has no symbol table (built without xtask)");
        return Ok(());
    }
    let found = symbols::lookup(at).map(|(name, offset)| format!("{name}+{offset}"));
    check!(found.as_deref().is_some_and(|n| n.contains("symbol") && n.ends_with("+0")), "found {found:?}");
    Ok(())
}
