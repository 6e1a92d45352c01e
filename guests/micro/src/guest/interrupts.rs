//! Two interrupts: the hypervisor's upcall and one of the local APIC. Their handlers, in `entry.S`, note when they ran.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

/// The vector of the upcall for event channels, which needs no end-of-interrupt.
pub(crate) const UPCALL: u8 = 0xf0;
/// The vector of interrupts that come through the local APIC.
pub(crate) const APIC: u8 = 0xf1;

/// Interrupts so far.
#[unsafe(no_mangle)]
static INTERRUPTS: AtomicU64 = AtomicU64::new(0);
/// The counter when the last one was taken.
#[unsafe(no_mangle)]
static LAST_INTERRUPT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn upcall_entry();
    fn apic_entry();
    fn exception_entry();
}

/// The interrupt descriptor table: 256 gates of 16 bytes.
static mut GATES: [[u64; 2]; 256] = [[0; 2]; 256];

/// Loads the table and lets interrupts come.
pub(crate) fn enable() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let gates = &raw mut GATES;
    let set = |vector: usize, entry: unsafe extern "C" fn()| {
        let at = entry as *const () as u64;
        // A present interrupt gate of privilege 0 in the code segment 8.
        let low = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        // SAFETY: the only use of the table before it is loaded; this program has one CPU.
        unsafe { (*gates)[vector] = [low, at >> 32] };
    };
    (0..32).for_each(|vector| set(vector, exception_entry));
    set(usize::from(UPCALL), upcall_entry);
    set(usize::from(APIC), apic_entry);
    let pointer = Pointer((256 * 16 - 1) as u16, gates as u64);
    // SAFETY: the gates are filled in and stay; their handlers keep all registers.
    unsafe { asm!("lidt [{}]", "sti", in(reg) ptr::from_ref(&pointer)) };
}

/// Interrupts so far.
#[inline(always)]
pub(crate) fn count() -> u64 {
    INTERRUPTS.load(Ordering::Relaxed)
}

/// The counter when the last interrupt was taken.
pub(crate) fn last() -> u64 {
    LAST_INTERRUPT.load(Ordering::Relaxed)
}

/// Waits for an interrupt.
pub(crate) fn halt() {
    // SAFETY: handlers keep all registers.
    unsafe { asm!("hlt", options(nostack)) };
}
