//! The idle halt.
// Unsafe: halts with interrupts on.
#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::Ordering;

use crate::cpu;
use crate::cpu::registers::rdtsc;

/// Halts this CPU until an interrupt comes, unless `has_work` says that there is something to do. Handlers of pending
/// interrupts have run on return. To be called with no locks held.
///
/// No wake-up is lost: `has_work` is asked with interrupts off, and STI takes effect only after the instruction that
/// follows it, so an interrupt that was sent after the question is pending when HLT starts and ends it at once.
pub fn halt_until_interrupt(has_work: impl FnOnce() -> bool) {
    if has_work() {
        return;
    }
    let start = rdtsc();
    // SAFETY: handlers run on this stack as if called here; the asm is a compiler barrier for memory.
    unsafe { asm!("sti", "hlt", "cli") };
    let idle = &cpu::this_cpu().idle_ticks;
    idle.fetch_add(rdtsc().wrapping_sub(start), Ordering::Relaxed);
}
