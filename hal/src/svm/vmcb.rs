//! The virtual machine control block: layout and bit names (AMD64 Architecture Programmer's Manual volume 2,
//! appendix B).

use core::mem::offset_of;

/// A segment register as the VMCB stores it.
#[derive(Clone, Copy, Debug, Default, zerocopy::FromZeros)]
#[repr(C)]
pub struct VmcbSegment {
    /// Selector.
    pub selector: u16,
    /// Packed attributes.
    pub attributes: u16,
    /// Limit.
    pub limit: u32,
    /// Base.
    pub base: u64,
}

/// Control and save area. Plain data: all zeros and any other bit pattern are valid values of the type.
#[derive(Clone, Copy, zerocopy::FromZeros)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// Intercepted reads (low half) and writes (high half) of control registers.
    pub intercept_cr: u32,
    /// Intercepted reads and writes of debug registers.
    pub intercept_dr: u32,
    /// Intercepted exceptions, by vector.
    pub intercept_exceptions: u32,
    /// Intercepts, see [`misc1`].
    pub intercept_misc1: u32,
    /// Intercepts, see [`misc2`].
    pub intercept_misc2: u32,
    /// Further intercepts.
    pub intercept_misc3: u32,
    _reserved_18: [u8; 0x3c - 0x18],
    /// Pause filter threshold, in cycles.
    pub pause_filter_threshold: u16,
    /// Number of PAUSEs before an exit.
    pub pause_filter_count: u16,
    /// Machine address of the I/O permission map.
    pub iopm_base: u64,
    /// Machine address of the MSR permission map.
    pub msrpm_base: u64,
    /// Added to the TSC.
    pub tsc_offset: u64,
    /// Address space identifier, never 0.
    pub asid: u32,
    /// What to flush at entry, see [`tlb`].
    pub tlb_control: u32,
    /// Virtual interrupt control, see [`vintr`].
    pub vintr: u64,
    /// Bit 0: interrupt shadow.
    pub interrupt_shadow: u64,
    /// Why the guest left.
    pub exit_code: u64,
    /// Detail.
    pub exit_info1: u64,
    /// Detail.
    pub exit_info2: u64,
    /// The event whose delivery was interrupted, in the form of [`Vmcb::event_injection`].
    pub exit_int_info: u64,
    /// Bit 0: nested paging.
    pub nested_control: u64,
    _avic_apic_bar: u64,
    _ghcb: u64,
    /// Event to deliver at entry.
    pub event_injection: u64,
    /// Machine address of the nested page table's root.
    pub nested_cr3: u64,
    /// LBR virtualisation.
    pub virt_ext: u64,
    /// State that is unchanged since the last exit on this CPU, see [`clean`].
    pub clean: u32,
    _reserved_c4: u32,
    /// Next instruction, if the processor says it.
    pub next_rip: u64,
    /// Number of valid bytes in `instruction`.
    pub fetched: u8,
    /// Bytes of the faulting instruction, if the processor says them.
    pub instruction: [u8; 15],
    _reserved_e0: [u8; 0x400 - 0xe0],
    /// ES.
    pub es: VmcbSegment,
    /// CS.
    pub cs: VmcbSegment,
    /// SS.
    pub ss: VmcbSegment,
    /// DS.
    pub ds: VmcbSegment,
    /// FS.
    pub fs: VmcbSegment,
    /// GS.
    pub gs: VmcbSegment,
    /// GDTR.
    pub gdtr: VmcbSegment,
    /// LDTR.
    pub ldtr: VmcbSegment,
    /// IDTR.
    pub idtr: VmcbSegment,
    /// TR.
    pub tr: VmcbSegment,
    _reserved_4a0: [u8; 0x4cb - 0x4a0],
    /// Current privilege level.
    pub cpl: u8,
    _reserved_4cc: u32,
    /// EFER with SVME set.
    pub efer: u64,
    _reserved_4d8: [u8; 0x548 - 0x4d8],
    /// CR4.
    pub cr4: u64,
    /// CR3.
    pub cr3: u64,
    /// CR0.
    pub cr0: u64,
    /// DR7.
    pub dr7: u64,
    /// DR6.
    pub dr6: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// RIP.
    pub rip: u64,
    _reserved_580: [u8; 0x5d8 - 0x580],
    /// RSP.
    pub rsp: u64,
    _cet: [u64; 3],
    /// RAX.
    pub rax: u64,
    /// STAR.
    pub star: u64,
    /// LSTAR.
    pub lstar: u64,
    /// CSTAR.
    pub cstar: u64,
    /// SFMASK.
    pub sfmask: u64,
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub sysenter_eip: u64,
    /// CR2.
    pub cr2: u64,
    _reserved_648: [u8; 0x668 - 0x648],
    /// Guest PAT.
    pub pat: u64,
    /// DEBUGCTL.
    pub debugctl: u64,
    _lbr: [u64; 4],
    _reserved_698: [u8; 0x1000 - 0x698],
}

const _: () = {
    assert!(size_of::<Vmcb>() == 4096);
    assert!(offset_of!(Vmcb, pause_filter_threshold) == 0x3c);
    assert!(offset_of!(Vmcb, asid) == 0x58);
    assert!(offset_of!(Vmcb, exit_code) == 0x70);
    assert!(offset_of!(Vmcb, event_injection) == 0xa8);
    assert!(offset_of!(Vmcb, clean) == 0xc0);
    assert!(offset_of!(Vmcb, next_rip) == 0xc8);
    assert!(offset_of!(Vmcb, es) == 0x400);
    assert!(offset_of!(Vmcb, cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, efer) == 0x4d0);
    assert!(offset_of!(Vmcb, cr4) == 0x548);
    assert!(offset_of!(Vmcb, rip) == 0x578);
    assert!(offset_of!(Vmcb, rsp) == 0x5d8);
    assert!(offset_of!(Vmcb, rax) == 0x5f8);
    assert!(offset_of!(Vmcb, cr2) == 0x640);
    assert!(offset_of!(Vmcb, pat) == 0x668);
};

impl Default for Vmcb {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// First word of miscellaneous intercepts.
pub mod misc1 {
    #![allow(missing_docs, reason = "named after the instructions they intercept")]
    pub const INTR: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const SMI: u32 = 1 << 2;
    pub const INIT: u32 = 1 << 3;
    pub const VINTR: u32 = 1 << 4;
    pub const RDTSC: u32 = 1 << 14;
    pub const RDPMC: u32 = 1 << 15;
    pub const CPUID: u32 = 1 << 18;
    pub const IRET: u32 = 1 << 20;
    pub const INVD: u32 = 1 << 22;
    pub const PAUSE: u32 = 1 << 23;
    pub const HLT: u32 = 1 << 24;
    pub const INVLPGA: u32 = 1 << 26;
    pub const IOIO: u32 = 1 << 27;
    pub const MSR: u32 = 1 << 28;
    pub const SHUTDOWN: u32 = 1 << 31;
}

/// Second word of miscellaneous intercepts.
pub mod misc2 {
    #![allow(missing_docs, reason = "named after the instructions they intercept")]
    pub const VMRUN: u32 = 1 << 0;
    pub const VMMCALL: u32 = 1 << 1;
    pub const VMLOAD: u32 = 1 << 2;
    pub const VMSAVE: u32 = 1 << 3;
    pub const STGI: u32 = 1 << 4;
    pub const CLGI: u32 = 1 << 5;
    pub const SKINIT: u32 = 1 << 6;
    pub const RDTSCP: u32 = 1 << 7;
    pub const WBINVD: u32 = 1 << 9;
    pub const MONITOR: u32 = 1 << 10;
    pub const MWAIT: u32 = 1 << 11;
    pub const MWAIT_ARMED: u32 = 1 << 12;
    pub const XSETBV: u32 = 1 << 13;
    pub const RDPRU: u32 = 1 << 14;
}

/// Exit codes.
pub mod exit {
    #![allow(missing_docs, reason = "named after the intercepts that cause them")]
    pub const DR_FIRST: u64 = 0x20;
    pub const DR_LAST: u64 = 0x3f;
    pub const EXCEPTION_FIRST: u64 = 0x40;
    pub const EXCEPTION_LAST: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const NPF: u64 = 0x400;
}

/// TLB control.
pub mod tlb {
    /// Flush nothing.
    pub const NONE: u32 = 0;
    /// Flush the whole TLB.
    pub const FLUSH_ALL: u32 = 1;
}

/// Virtual interrupt control.
pub mod vintr {
    /// Task priority of the guest.
    pub const TPR_MASK: u64 = 0xff;
    /// A virtual interrupt is pending.
    pub const IRQ: u64 = 1 << 8;
    /// Shift of the pending interrupt's priority.
    pub const PRIORITY_SHIFT: u32 = 16;
    /// The pending interrupt ignores the task priority.
    pub const IGNORE_TPR: u64 = 1 << 20;
    /// RFLAGS.IF of the host decides about physical interrupts.
    pub const MASKING: u64 = 1 << 24;
}

/// Clean bits: state the processor may keep from the last exit.
pub mod clean {
    /// Intercept vectors, TSC offset, pause filter.
    pub const INTERCEPTS: u32 = 1 << 0;
    /// I/O and MSR permission maps.
    pub const PERMISSION_MAPS: u32 = 1 << 1;
    /// ASID.
    pub const ASID: u32 = 1 << 2;
    /// Virtual interrupt state.
    pub const VINTR: u32 = 1 << 3;
    /// Nested paging: root and PAT.
    pub const NESTED: u32 = 1 << 4;
    /// Control registers and EFER.
    pub const CONTROL: u32 = 1 << 5;
    /// DR6, DR7.
    pub const DEBUG: u32 = 1 << 6;
    /// GDTR, IDTR.
    pub const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES and CPL.
    pub const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub const CR2: u32 = 1 << 9;
    /// DEBUGCTL and last branch records.
    pub const LBR: u32 = 1 << 10;
    /// All that are defined here.
    pub const ALL: u32 = (1 << 11) - 1;
}

/// Fields of EVENTINJ and EXITINTINFO.
pub mod event {
    /// Shift of the type.
    pub const TYPE_SHIFT: u32 = 8;
    /// External interrupt.
    pub const TYPE_INTERRUPT: u64 = 0;
    /// NMI.
    pub const TYPE_NMI: u64 = 2;
    /// Exception.
    pub const TYPE_EXCEPTION: u64 = 3;
    /// Software interrupt.
    pub const TYPE_SOFTWARE: u64 = 4;
    /// An error code is given.
    pub const ERROR_CODE: u64 = 1 << 11;
    /// The field is valid.
    pub const VALID: u64 = 1 << 31;
}
