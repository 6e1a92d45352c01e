//! The processor's registers and the instructions that touch them: control registers, MSRs, I/O ports, CPUID, TSC.
//!
//! Functions that can break memory safety are `unsafe` and stay inside hal. The fault-tolerant forms return an error
//! where the plain instruction would raise #GP (see the exception table in [`crate::traps`]).
// Unsafe: privileged instructions exist only as inline assembly.
#![allow(unsafe_code)]

use core::arch::asm;

/// MSR numbers (AMD APM volume 2 appendix A, Intel SDM volume 4).
pub mod msr {
    /// Local APIC base address and mode.
    pub const APIC_BASE: u32 = 0x1b;
    /// Deadline of the local APIC timer in TSC units.
    pub const TSC_DEADLINE: u32 = 0x6e0;
    /// First of the x2APIC registers.
    pub const X2APIC_FIRST: u32 = 0x800;
    /// Page attribute table.
    pub const PAT: u32 = 0x277;
    /// Extended features: SCE, LME, NXE, SVME.
    pub const EFER: u32 = 0xc000_0080;
    /// Base of GS: the per-CPU data.
    pub const GS_BASE: u32 = 0xc000_0101;
}

/// Bits of CR0.
pub mod cr0 {
    /// Monitor coprocessor.
    pub const MP: u64 = 1 << 1;
    /// Emulation: no x87.
    pub const EM: u64 = 1 << 2;
    /// Task switched: x87 and SSE raise #NM.
    pub const TS: u64 = 1 << 3;
    /// Native x87 errors.
    pub const NE: u64 = 1 << 5;
    /// Write protection holds in ring 0.
    pub const WP: u64 = 1 << 16;
}

/// Bits of CR4.
pub mod cr4 {
    /// Debugging extensions.
    pub const DE: u64 = 1 << 3;
    /// Physical address extension.
    pub const PAE: u64 = 1 << 5;
    /// Machine check.
    pub const MCE: u64 = 1 << 6;
    /// Global pages.
    pub const PGE: u64 = 1 << 7;
    /// FXSAVE and SSE.
    pub const OSFXSR: u64 = 1 << 9;
    /// SSE exceptions.
    pub const OSXMMEXCPT: u64 = 1 << 10;
    /// User-mode instruction prevention.
    pub const UMIP: u64 = 1 << 11;
    /// XSAVE and extended states.
    pub const OSXSAVE: u64 = 1 << 18;
    /// Supervisor-mode execution prevention.
    pub const SMEP: u64 = 1 << 20;
    /// Supervisor-mode access prevention.
    pub const SMAP: u64 = 1 << 21;
}

/// EFER's no-execute enable bit.
pub const EFER_NXE: u64 = 1 << 11;

/// A fault was raised by an instruction that is allowed to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faulted;

/// The four result registers of CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// Executes CPUID, and leaves out what the command line hides (`cpuid=`). A leaf beyond the highest of its range gives zeros (the instruction would repeat some other leaf).
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let highest = core::arch::x86_64::__cpuid(leaf & 0xffff_0000).eax;
    if leaf & 0xffff != 0 && (highest < leaf || highest & 0xffff_0000 != leaf & 0xffff_0000) {
        return CpuidResult::default();
    }
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    let [eax, ebx, ecx, edx] = super::hidden::without(leaf, subleaf, [r.eax, r.ebx, r.ecx, r.edx]);
    CpuidResult { eax, ebx, ecx, edx }
}

/// Reads the time stamp counter, not before earlier instructions have completed.
#[must_use]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: LFENCE and RDTSC touch no memory.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Tells the processor that this is a spin loop.
pub fn relax() {
    core::hint::spin_loop();
}

/// Reads an MSR that exists.
///
/// # Safety
/// The MSR exists, and reading it has no side effect that others rely on.
pub unsafe fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: by the caller's promise the instruction does not fault; it touches no memory.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Writes an MSR that exists.
///
/// # Safety
/// The MSR exists, accepts the value, and the change breaks no assumption of running code.
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: by the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Reads any MSR; [`Faulted`] if the processor refuses.
///
/// # Errors
/// [`Faulted`] if the instruction raised #GP.
pub fn rdmsr_safe(msr: u32) -> Result<u64, Faulted> {
    let (low, high, failed): (u32, u32, u32);
    // SAFETY: a fault continues at label 3 through the exception table with `failed` still 1. Reading an MSR does not
    // change what other code relies on.
    unsafe {
        asm!(
            "2: rdmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .ex_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            failed = inout(reg) 1u32 => failed,
            in("ecx") msr, inout("eax") 0u32 => low, inout("edx") 0u32 => high,
            options(nostack, nomem),
        );
    }
    if failed == 0 { Ok(u64::from(high) << 32 | u64::from(low)) } else { Err(Faulted) }
}

/// Writes an MSR; [`Faulted`] if the processor refuses.
///
/// # Safety
/// If the MSR exists, the change breaks no assumption of running code.
///
/// # Errors
/// [`Faulted`] if the instruction raised #GP; nothing was changed.
pub unsafe fn wrmsr_safe(msr: u32, value: u64) -> Result<(), Faulted> {
    let failed: u32;
    // SAFETY: a fault continues at label 3 through the exception table with `failed` still 1; otherwise by the caller's
    // promise.
    unsafe {
        asm!(
            "2: wrmsr",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .ex_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            failed = inout(reg) 1u32 => failed,
            in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    if failed == 0 { Ok(()) } else { Err(Faulted) }
}

/// Reads 8 bytes at an address that may not be mapped.
///
/// # Errors
/// [`Faulted`] if the address is not mapped or not canonical.
pub(crate) fn probe_read_u64(at: u64) -> Result<u64, Faulted> {
    let (value, failed): (u64, u32);
    // SAFETY: a fault continues at label 3 through the exception table. A successful load of plain bytes into a register
    // makes no Rust reference and so no aliasing claim; callers give addresses in stacks, not device registers.
    unsafe {
        asm!(
            "2: mov {value}, [{at}]",
            "xor {failed:e}, {failed:e}",
            "3:",
            ".pushsection .ex_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            at = in(reg) at, value = inout(reg) 0u64 => value, failed = inout(reg) 1u32 => failed,
            options(nostack, readonly),
        );
    }
    if failed == 0 { Ok(value) } else { Err(Faulted) }
}

macro_rules! port_access {
    ($read:ident, $write:ident, $ty:ty, $reg:tt) => {
        /// Reads an I/O port.
        ///
        /// # Safety
        /// The read's side effects on the device disturb no other driver.
        pub unsafe fn $read(port: u16) -> $ty {
            let value: $ty;
            // SAFETY: IN touches no memory of ours; the rest is the caller's promise.
            unsafe {
                asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value,
                    options(nostack, preserves_flags));
            }
            value
        }

        /// Writes an I/O port.
        ///
        /// # Safety
        /// The device behind the port cannot be made to write memory that Rust owns by this value.
        pub unsafe fn $write(port: u16, value: $ty) {
            // SAFETY: by the caller's promise.
            unsafe {
                asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value, options(nostack, preserves_flags));
            }
        }
    };
}
port_access!(inb, outb, u8, "al");
port_access!(inw, outw, u16, "ax");
port_access!(inl, outl, u32, "eax");

macro_rules! control_register {
    ($read:ident, $write:ident, $reg:literal) => {
        /// Reads the control register.
        #[must_use]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading a control register in ring 0 has no side effect.
            unsafe {
                asm!(concat!("mov {}, ", $reg), out(reg) value, options(nostack, nomem, preserves_flags));
            }
            value
        }

        /// Writes the control register.
        ///
        /// # Safety
        /// The value keeps all mappings and modes that running code relies on.
        pub unsafe fn $write(value: u64) {
            // SAFETY: by the caller's promise.
            unsafe { asm!(concat!("mov ", $reg, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}
control_register!(read_cr0, write_cr0, "cr0");
control_register!(read_cr3, write_cr3, "cr3");
control_register!(read_cr4, write_cr4, "cr4");

/// Reads CR2: the address of the last page fault.
#[must_use]
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 in ring 0 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value
}

/// Disables interrupts on this CPU. They are off already everywhere but in the two windows of [`crate::interrupts`].
pub fn interrupts_off() {
    // SAFETY: with interrupts off less can happen, not more.
    unsafe { asm!("cli", options(nostack)) };
}

/// Stops this CPU for good. NMIs and machine checks are still taken.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: the CPU does nothing more; nothing can be broken.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}
