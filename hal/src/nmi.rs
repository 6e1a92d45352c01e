//! Non-maskable interrupts: another CPU stops the machine, the watchdog wants to know where this CPU hangs, or the
//! hardware reports an error (`nmi=` says what then).
//!
//! An NMI may come at any time, with any lock held: only atomics here, and the report past the console's lock. What dom0
//! is to hear of goes through an ordinary interrupt that the CPU sends itself.
// Unsafe: reads the port that says why the NMI came.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use radon_core::options::NmiPolicy;
use radon_core::types::CpuId;

use crate::cpu::registers::inb;
use crate::traps::Frame;
use crate::{apic, cpu, interrupts, report, time};

const NOBODY: u32 = u32::MAX;
/// How long a CPU that hangs may take to answer.
const PATIENCE_MS: u64 = 1000;

static POLICY: AtomicU8 = AtomicU8::new(NmiPolicy::Dom0 as u8);
/// The CPU that the watchdog asks where it is.
static STUCK: AtomicU32 = AtomicU32::new(NOBODY);
/// NMIs that nobody claimed.
static UNCLAIMED: AtomicU32 = AtomicU32::new(0);

/// Sets what an NMI that nobody expects does.
pub fn set_policy(policy: NmiPolicy) {
    POLICY.store(policy as u8, Ordering::Relaxed);
}

/// NMIs since start that nobody claimed.
#[must_use]
pub fn unclaimed() -> u32 {
    UNCLAIMED.load(Ordering::Relaxed)
}

/// Makes a CPU that hangs report where it is, which stops the machine. If it does not answer, this CPU reports.
pub(crate) fn report_stuck(id: CpuId) {
    let Some(target) = cpu::get(id) else { return };
    STUCK.store(id.0, Ordering::SeqCst);
    apic::send_nmi(target.apic_id());
    time::spin_ms(PATIENCE_MS);
    report::fatal(None, format_args!("watchdog: {id} hangs and does not even take an NMI; look at the hardware"));
}

/// Handles an NMI on the CPU that got it.
pub(crate) fn handle(frame: &Frame) {
    if report::stopping() {
        report::park();
    }
    let here = cpu::try_this_cpu().map_or(0, |c| c.id().0);
    if STUCK.load(Ordering::SeqCst) == here {
        report::fatal(Some(frame), format_args!("watchdog: CPU{here} hangs"));
    }
    UNCLAIMED.fetch_add(1, Ordering::Relaxed);
    let policy = POLICY.load(Ordering::Relaxed);
    if policy == NmiPolicy::Fatal as u8 {
        // SAFETY: the system control port by the PC architecture; reading it changes nothing.
        let status = unsafe { inb(0x61) };
        let why = match status {
            s if s & 0x80 != 0 => "a PCI device or the memory reports an error (SERR)",
            s if s & 0x40 != 0 => "an I/O card reports an error (IOCHK)",
            _ => "the hardware does not say why",
        };
        report::fatal(Some(frame), format_args!("NMI: {why}; with 'nmi=dom0' or 'nmi=ignore' the machine goes on"));
    }
    if policy == NmiPolicy::Dom0 as u8 {
        apic::send_to_self(interrupts::NMI_RELAY);
    }
}
