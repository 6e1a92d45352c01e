//! Two interrupts on each CPU: the hypervisor's upcall and one of the local APIC. Their handlers, in `entry.S`, note that
//! they ran.

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

/// Interrupts that the second CPU took.
#[unsafe(no_mangle)]
static SECOND_INTERRUPTS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn upcall_entry();
    fn apic_entry();
    fn second_upcall_entry();
    fn second_apic_entry();
    fn exception_entry();
}

/// An interrupt descriptor table: 256 gates of 16 bytes.
type Gates = [[u64; 2]; 256];
static mut GATES: Gates = [[0; 2]; 256];
static mut SECOND_GATES: Gates = [[0; 2]; 256];

/// Lets interrupts come to the first CPU, which this is.
pub(crate) fn enable() {
    load(&raw mut GATES, upcall_entry, apic_entry);
}

/// Lets interrupts come to the second CPU, which this is.
pub(crate) fn enable_second() {
    load(&raw mut SECOND_GATES, second_upcall_entry, second_apic_entry);
}

/// Fills a table that no CPU uses yet, and lets the calling one use it.
fn load(gates: *mut Gates, upcall: unsafe extern "C" fn(), apic: unsafe extern "C" fn()) {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let set = |vector: usize, entry: unsafe extern "C" fn()| {
        let at = entry as *const () as u64;
        // A present interrupt gate of privilege 0 in the code segment 8.
        let low = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        // SAFETY: one of the two tables above, each filled once, by the CPU that then uses it.
        unsafe { (*gates)[vector] = [low, at >> 32] };
    };
    (0..32).for_each(|vector| set(vector, exception_entry));
    set(usize::from(UPCALL), upcall);
    set(usize::from(APIC), apic);
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

/// Interrupts that the second CPU took so far.
pub(crate) fn second_count() -> u64 {
    SECOND_INTERRUPTS.load(Ordering::Relaxed)
}

/// Halts until `count` is not `before` any more. Only an interrupt of this CPU changes it.
#[inline(always)]
pub(crate) fn halt_while(count: fn() -> u64, before: u64) {
    loop {
        // SAFETY: interrupts are off only until the next instructions; STI lets none come before the HLT.
        unsafe {
            asm!("cli", options(nostack));
            if count() != before {
                asm!("sti", options(nostack));
                return;
            }
            asm!("sti", "hlt", options(nostack));
        }
    }
}

/// Waits for an interrupt.
pub(crate) fn halt() {
    // SAFETY: handlers keep all registers.
    unsafe { asm!("hlt", options(nostack)) };
}
