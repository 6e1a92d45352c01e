//! `arch-x86/xen.h` and `arch-x86/xen-x86_64.h`: a vCPU's registers as `XEN_DOMCTL_getvcpucontext` shows them. Most of it
//! is about PV guests; of HVM guests only registers and flags count.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Flag of [`VcpuGuestContext`]: the FPU's registers are valid.
pub const VGCF_I387_VALID: u64 = 1 << 0;
/// Flag of [`VcpuGuestContext`]: it runs its kernel.
pub const VGCF_IN_KERNEL: u64 = 1 << 2;
/// Flag of [`VcpuGuestContext`]: the vCPU is up.
pub const VGCF_ONLINE: u64 = 1 << 5;

/// `struct cpu_user_regs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers of these names")]
pub struct CpuUserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub error_code: u32,
    pub entry_vector: u32,
    pub rip: u64,
    pub cs: u16,
    pub _pad0: u16,
    pub saved_upcall_mask: u8,
    pub _pad1: [u8; 3],
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub _pad2: [u16; 3],
    pub es: u16,
    pub _pad3: [u16; 3],
    pub ds: u16,
    pub _pad4: [u16; 3],
    pub fs: u16,
    pub _pad5: [u16; 3],
    pub gs: u16,
    pub _pad6: [u16; 3],
}

/// `struct trap_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "of PV guests only")]
pub struct TrapInfo {
    pub vector: u8,
    pub flags: u8,
    pub cs: u16,
    pub _pad: u32,
    pub address: u64,
}

/// `struct vcpu_guest_context`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuGuestContext {
    /// FXSAVE area.
    pub fpu_ctxt: [u8; 512],
    /// `VGCF_*`.
    pub flags: u64,
    /// Registers.
    pub user_regs: CpuUserRegs,
    /// Virtual IDT (PV guests).
    pub trap_ctxt: [TrapInfo; 256],
    /// LDT (PV guests).
    pub ldt_base: u64,
    /// LDT (PV guests).
    pub ldt_ents: u64,
    /// GDT (PV guests).
    pub gdt_frames: [u64; 16],
    /// GDT (PV guests).
    pub gdt_ents: u64,
    /// Virtual TSS (PV guests).
    pub kernel_ss: u64,
    /// Virtual TSS (PV guests).
    pub kernel_sp: u64,
    /// CR0 to CR7.
    pub ctrlreg: [u64; 8],
    /// DR0 to DR7.
    pub debugreg: [u64; 8],
    /// Event callback (PV guests).
    pub event_callback_eip: u64,
    /// Failsafe callback (PV guests).
    pub failsafe_callback_eip: u64,
    /// System call callback (PV guests).
    pub syscall_callback_eip: u64,
    /// Enabled `VMASST_TYPE_*`.
    pub vm_assist: u64,
    /// Base of FS.
    pub fs_base: u64,
    /// The base of GS that SWAPGS exchanges while user code runs.
    pub gs_base_kernel: u64,
    /// The base of GS that user code has.
    pub gs_base_user: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<CpuUserRegs>() == 200);
    assert!(size_of::<TrapInfo>() == 16);
    assert!(size_of::<VcpuGuestContext>() == 5168);
    assert!(offset_of!(VcpuGuestContext, user_regs) == 520);
    assert!(offset_of!(VcpuGuestContext, ctrlreg) == 4984);
};
