//! Interrupts: the hypervisor's upcall by two ways and NMIs, which are counted. They are off but where a check lets them
//! come.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use radon_abi::{hvm, hypercall, xen};
use radon_guest::hypercall::{must, operate};

/// The vector of the upcall for event channels, which needs no end-of-interrupt.
pub(crate) const UPCALL: u8 = 0xf0;
/// The vector of the upcall by way of the local APIC.
pub(crate) const APIC_UPCALL: u8 = 0xf1;

#[unsafe(no_mangle)]
static UPCALLS: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static APIC_UPCALLS: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
pub(crate) static NMIS: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    fn nmi_entry();
    fn upcall_entry();
    fn apic_upcall_entry();
    fn exception_entry();
}

/// The interrupt descriptor table: 256 gates of 16 bytes.
static GATES: [[AtomicU64; 2]; 256] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; 256];

/// Fills the table and has this vCPU use it; interrupts stay off. The other vCPUs have no need of it.
pub(crate) fn prepare() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    let set = |vector: usize, entry: unsafe extern "C" fn()| {
        let at = entry as *const () as u64;
        // A present interrupt gate of privilege 0 in the code segment 8.
        let low = at & 0xffff | 8 << 16 | 0x8e << 40 | (at >> 16 & 0xffff) << 48;
        GATES[vector][0].store(low, Ordering::Relaxed);
        GATES[vector][1].store(at >> 32, Ordering::Relaxed);
    };
    (0..32).for_each(|vector| set(vector, exception_entry));
    set(2, nmi_entry);
    set(usize::from(UPCALL), upcall_entry);
    set(usize::from(APIC_UPCALL), apic_upcall_entry);
    let pointer = Pointer((256 * 16 - 1) as u16, GATES.as_ptr() as u64);
    // SAFETY: the gates are filled in and stay; their handlers keep all registers.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer) };
}

/// Has the hypervisor interrupt this domain for events. Without, Xen does not even wake a vCPU that waits.
pub(crate) fn want_upcalls() {
    let value = hvm::HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | u64::from(UPCALL);
    let mut way = hvm::HvmParam { domid: xen::DOMID_SELF, pad: 0, index: hvm::HVM_PARAM_CALLBACK_IRQ, value };
    must("set_param", operate(hypercall::HVM_OP, hvm::HVMOP_SET_PARAM, &mut way));
}

/// Lets interrupts come that are pending; returns how many upcalls came by the plain way, and by the local APIC.
pub(crate) fn take() -> (u64, u64) {
    let before = counts();
    // SAFETY: the handlers keep all registers. STI holds interrupts off for one more instruction.
    unsafe { asm!("sti", "nop", "nop", "cli") };
    let after = counts();
    (after.0 - before.0, after.1 - before.1)
}

fn counts() -> (u64, u64) {
    (UPCALLS.load(Ordering::Relaxed), APIC_UPCALLS.load(Ordering::Relaxed))
}

/// Turns this CPU's local APIC on, in x2APIC mode.
pub(crate) fn enable_x2apic() {
    const APIC_BASE: u32 = 0x1b;
    const SPURIOUS: u32 = 0x80f;
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0xc00);
    wrmsr(SPURIOUS, 0x1ff);
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the one register that is read exists on every vCPU with a local APIC, and reading has no side effect.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the registers written are the local APIC's, which this program owns.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}
