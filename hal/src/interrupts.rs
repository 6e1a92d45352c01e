//! Interrupt vectors and their handlers.
//!
//! Interrupts are off everywhere but in two windows: [`poll`] and the idle halt. In them an interrupt's handler runs on
//! the stack of whoever opened the window, so a handler may take any lock that the opener does not hold; windows are
//! opened with no locks held. A handler acknowledges its interrupt itself ([`crate::apic::eoi`]), because when it may do
//! so depends on the kind of interrupt.
//!
//! | vectors | for |
//! |---|---|
//! | 0x20-0x2f | spurious interrupts of the (disabled) 8259 controllers |
//! | 0x30-0xef | devices, given out by the interrupt router |
//! | 0xf0-0xff | the hypervisor's own |
// Unsafe: opens the interrupt window.
#![allow(unsafe_code)]

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::once::Once;

use crate::apic;

/// First and last vector for devices.
pub const DEVICE_VECTORS: core::ops::RangeInclusive<u8> = 0x30..=0xef;
/// Makes a CPU look for work.
pub const KICK: u8 = 0xf1;
/// The local APIC timer.
pub const TIMER: u8 = 0xf2;
/// This CPU got an NMI that dom0 is to hear of.
pub const NMI_RELAY: u8 = 0xf4;
/// The local APIC met an error.
pub const APIC_ERROR: u8 = 0xfe;
/// The local APIC had an interrupt that went away.
pub const SPURIOUS: u8 = 0xff;

/// What an interrupt calls. Gets the vector.
pub type Handler = fn(u8);

static HANDLERS: [Once<Handler>; 256] = [const { Once::new() }; 256];
static UNEXPECTED: AtomicU64 = AtomicU64::new(0);

/// Registers the handler of a vector. The first registration holds; returns whether this was it.
pub fn register(vector: u8, handler: Handler) -> bool {
    let mut first = false;
    HANDLERS[usize::from(vector)].call_once(|| {
        first = true;
        handler
    });
    first
}

/// Interrupts that no handler was registered for, since start.
#[must_use]
pub fn unexpected() -> u64 {
    UNEXPECTED.load(Ordering::Relaxed)
}

/// Registers the handlers of the hypervisor's own vectors.
pub(crate) fn init() {
    register(KICK, |_| apic::eoi());
    register(TIMER, |_| apic::eoi());
    register(APIC_ERROR, |_| {
        log::warn!("Local APIC error, status {:#x}", apic::error_status());
        apic::eoi();
    });
    // A spurious interrupt is not acknowledged.
    register(SPURIOUS, |_| ());
}

/// Calls the handler of an interrupt that has arrived.
pub(crate) fn dispatch(vector: u8) {
    match HANDLERS[usize::from(vector)].get() {
        Some(handler) => handler(vector),
        // The 8259 controllers are masked, but can still signal spurious interrupts, which need no acknowledgement.
        None if (0x20..0x30).contains(&vector) => (),
        None => {
            if UNEXPECTED.fetch_add(1, Ordering::Relaxed) < 16 {
                log::warn!("Interrupt with vector {vector:#x} that nobody expects");
            }
            apic::eoi();
        }
    }
}

/// Takes the interrupts that are pending on this CPU. To be called with no locks held.
pub fn poll() {
    // SAFETY: handlers run on this stack as if called here; the asm is a compiler barrier for memory.
    unsafe { asm!("sti", "nop", "nop", "cli") };
}
