//! The virtual machine control block: layout and bit names (AMD64 Architecture Programmer's Manual volume 2,
//! appendix B).

use core::mem::offset_of;

/// A segment register as the VMCB stores it.
#[derive(Clone, Copy, Debug, Default, zerocopy::FromZeros)]
#[repr(C)]
pub(crate) struct VmcbSegment {
    /// Selector.
    pub(crate) selector: u16,
    /// Packed attributes.
    pub(crate) attributes: u16,
    /// Limit.
    pub(crate) limit: u32,
    /// Base.
    pub(crate) base: u64,
}

/// Control and save area. Plain data: all zeros and any other bit pattern are valid values of the type.
#[derive(Clone, Copy, zerocopy::FromZeros)]
#[repr(C, align(4096))]
pub(crate) struct Vmcb {
    /// Intercepted reads (low half) and writes (high half) of control registers.
    pub(crate) intercept_cr: u32,
    /// Intercepted reads and writes of debug registers.
    pub(crate) intercept_dr: u32,
    /// Intercepted exceptions, by vector.
    pub(crate) intercept_exceptions: u32,
    /// Intercepts, see [`misc1`].
    pub(crate) intercept_misc1: u32,
    /// Intercepts, see [`misc2`].
    pub(crate) intercept_misc2: u32,
    /// Further intercepts.
    pub(crate) intercept_misc3: u32,
    _reserved_18: [u8; 0x3c - 0x18],
    /// Pause filter threshold, in cycles.
    pub(crate) pause_filter_threshold: u16,
    /// Number of PAUSEs before an exit.
    pub(crate) pause_filter_count: u16,
    /// Machine address of the I/O permission map.
    pub(crate) iopm_base: u64,
    /// Machine address of the MSR permission map.
    pub(crate) msrpm_base: u64,
    /// Added to the TSC.
    pub(crate) tsc_offset: u64,
    /// Address space identifier, never 0.
    pub(crate) asid: u32,
    /// What to flush at entry, see [`tlb`].
    pub(crate) tlb_control: u32,
    /// Virtual interrupt control, see [`vintr`].
    pub(crate) vintr: u64,
    /// Bit 0: interrupt shadow.
    pub(crate) interrupt_shadow: u64,
    /// Why the guest left.
    pub(crate) exit_code: u64,
    /// Detail.
    pub(crate) exit_info1: u64,
    /// Detail.
    pub(crate) exit_info2: u64,
    /// The event whose delivery was interrupted, in the form of [`Vmcb::event_injection`].
    pub(crate) exit_int_info: u64,
    /// Bit 0: nested paging.
    pub(crate) nested_control: u64,
    _avic_apic_bar: u64,
    _ghcb: u64,
    /// Event to deliver at entry.
    pub(crate) event_injection: u64,
    /// Machine address of the nested page table's root.
    pub(crate) nested_cr3: u64,
    /// LBR virtualisation.
    pub(crate) virt_ext: u64,
    /// State that is unchanged since the last exit on this CPU, see [`clean`].
    pub(crate) clean: u32,
    _reserved_c4: u32,
    /// Next instruction, if the processor says it.
    pub(crate) next_rip: u64,
    /// Number of valid bytes in `instruction`.
    pub(crate) fetched: u8,
    /// Bytes of the faulting instruction, if the processor says them.
    pub(crate) instruction: [u8; 15],
    _reserved_e0: [u8; 0x400 - 0xe0],
    /// ES.
    pub(crate) es: VmcbSegment,
    /// CS.
    pub(crate) cs: VmcbSegment,
    /// SS.
    pub(crate) ss: VmcbSegment,
    /// DS.
    pub(crate) ds: VmcbSegment,
    /// FS.
    pub(crate) fs: VmcbSegment,
    /// GS.
    pub(crate) gs: VmcbSegment,
    /// GDTR.
    pub(crate) gdtr: VmcbSegment,
    /// LDTR.
    pub(crate) ldtr: VmcbSegment,
    /// IDTR.
    pub(crate) idtr: VmcbSegment,
    /// TR.
    pub(crate) tr: VmcbSegment,
    _reserved_4a0: [u8; 0x4cb - 0x4a0],
    /// Current privilege level.
    pub(crate) cpl: u8,
    _reserved_4cc: u32,
    /// EFER with SVME set.
    pub(crate) efer: u64,
    _reserved_4d8: [u8; 0x548 - 0x4d8],
    /// CR4.
    pub(crate) cr4: u64,
    /// CR3.
    pub(crate) cr3: u64,
    /// CR0.
    pub(crate) cr0: u64,
    /// DR7.
    pub(crate) dr7: u64,
    /// DR6.
    pub(crate) dr6: u64,
    /// RFLAGS.
    pub(crate) rflags: u64,
    /// RIP.
    pub(crate) rip: u64,
    _reserved_580: [u8; 0x5d8 - 0x580],
    /// RSP.
    pub(crate) rsp: u64,
    _cet: [u64; 3],
    /// RAX.
    pub(crate) rax: u64,
    /// STAR.
    pub(crate) star: u64,
    /// LSTAR.
    pub(crate) lstar: u64,
    /// CSTAR.
    pub(crate) cstar: u64,
    /// SFMASK.
    pub(crate) sfmask: u64,
    /// KERNEL_GS_BASE.
    pub(crate) kernel_gs_base: u64,
    /// SYSENTER_CS.
    pub(crate) sysenter_cs: u64,
    /// SYSENTER_ESP.
    pub(crate) sysenter_esp: u64,
    /// SYSENTER_EIP.
    pub(crate) sysenter_eip: u64,
    /// CR2.
    pub(crate) cr2: u64,
    _reserved_648: [u8; 0x668 - 0x648],
    /// Guest PAT.
    pub(crate) pat: u64,
    /// DEBUGCTL.
    pub(crate) debugctl: u64,
    _lbr: [u64; 4],
    _reserved_698: [u8; 0x6e0 - 0x698],
    /// The guest's SPEC_CTRL, in force together with the host's, if the processor virtualises it.
    pub(crate) spec_ctrl: u64,
    _reserved_6e8: [u8; 0x1000 - 0x6e8],
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
    assert!(offset_of!(Vmcb, spec_ctrl) == 0x6e0);
};

impl Default for Vmcb {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

/// In the word of control register intercepts: writes of CR4.
pub(crate) const INTERCEPT_CR4_WRITE: u32 = 1 << 20;
/// In the word of control register intercepts: writes of CR8.
pub(crate) const INTERCEPT_CR8_WRITE: u32 = 1 << 24;

/// First word of miscellaneous intercepts.
pub(crate) mod misc1 {
    #![allow(missing_docs, reason = "named after the instructions they intercept")]
    pub(crate) const INTR: u32 = 1 << 0;
    pub(crate) const NMI: u32 = 1 << 1;
    pub(crate) const SMI: u32 = 1 << 2;
    pub(crate) const INIT: u32 = 1 << 3;
    pub(crate) const VINTR: u32 = 1 << 4;
    pub(crate) const RDTSC: u32 = 1 << 14;
    pub(crate) const RDPMC: u32 = 1 << 15;
    pub(crate) const CPUID: u32 = 1 << 18;
    pub(crate) const IRET: u32 = 1 << 20;
    pub(crate) const INVD: u32 = 1 << 22;
    pub(crate) const PAUSE: u32 = 1 << 23;
    pub(crate) const HLT: u32 = 1 << 24;
    pub(crate) const INVLPGA: u32 = 1 << 26;
    pub(crate) const IOIO: u32 = 1 << 27;
    pub(crate) const MSR: u32 = 1 << 28;
    pub(crate) const SHUTDOWN: u32 = 1 << 31;
}

/// Second word of miscellaneous intercepts.
pub(crate) mod misc2 {
    #![allow(missing_docs, reason = "named after the instructions they intercept")]
    pub(crate) const VMRUN: u32 = 1 << 0;
    pub(crate) const VMMCALL: u32 = 1 << 1;
    pub(crate) const VMLOAD: u32 = 1 << 2;
    pub(crate) const VMSAVE: u32 = 1 << 3;
    pub(crate) const STGI: u32 = 1 << 4;
    pub(crate) const CLGI: u32 = 1 << 5;
    pub(crate) const SKINIT: u32 = 1 << 6;
    pub(crate) const RDTSCP: u32 = 1 << 7;
    pub(crate) const ICEBP: u32 = 1 << 8;
    pub(crate) const WBINVD: u32 = 1 << 9;
    pub(crate) const MONITOR: u32 = 1 << 10;
    pub(crate) const MWAIT: u32 = 1 << 11;
    pub(crate) const MWAIT_ARMED: u32 = 1 << 12;
    pub(crate) const XSETBV: u32 = 1 << 13;
    pub(crate) const RDPRU: u32 = 1 << 14;
}

/// Exit codes.
pub(crate) mod exit {
    #![allow(missing_docs, reason = "named after the intercepts that cause them")]
    pub(crate) const CR4_WRITE: u64 = 0x14;
    pub(crate) const CR8_WRITE: u64 = 0x18;
    pub(crate) const DR_FIRST: u64 = 0x20;
    pub(crate) const DR_LAST: u64 = 0x3f;
    pub(crate) const EXCEPTION_FIRST: u64 = 0x40;
    pub(crate) const EXCEPTION_LAST: u64 = 0x5f;
    pub(crate) const MACHINE_CHECK: u64 = 0x52;
    pub(crate) const INTR: u64 = 0x60;
    pub(crate) const NMI: u64 = 0x61;
    pub(crate) const SMI: u64 = 0x62;
    pub(crate) const INIT: u64 = 0x63;
    pub(crate) const VINTR: u64 = 0x64;
    pub(crate) const RDTSC: u64 = 0x6e;
    pub(crate) const RDPMC: u64 = 0x6f;
    pub(crate) const CPUID: u64 = 0x72;
    pub(crate) const IRET: u64 = 0x74;
    pub(crate) const INVD: u64 = 0x76;
    pub(crate) const PAUSE: u64 = 0x77;
    pub(crate) const HLT: u64 = 0x78;
    pub(crate) const INVLPGA: u64 = 0x7a;
    pub(crate) const IOIO: u64 = 0x7b;
    pub(crate) const MSR: u64 = 0x7c;
    pub(crate) const SHUTDOWN: u64 = 0x7f;
    pub(crate) const VMRUN: u64 = 0x80;
    pub(crate) const VMMCALL: u64 = 0x81;
    pub(crate) const VMLOAD: u64 = 0x82;
    pub(crate) const SKINIT: u64 = 0x86;
    pub(crate) const RDTSCP: u64 = 0x87;
    pub(crate) const ICEBP: u64 = 0x88;
    pub(crate) const WBINVD: u64 = 0x89;
    pub(crate) const MONITOR: u64 = 0x8a;
    pub(crate) const MWAIT: u64 = 0x8b;
    pub(crate) const MWAIT_ARMED: u64 = 0x8c;
    pub(crate) const XSETBV: u64 = 0x8d;
    pub(crate) const RDPRU: u64 = 0x8e;
    pub(crate) const NPF: u64 = 0x400;
}

/// EXITINFO1 of a nested page fault.
pub(crate) mod npf {
    /// The entry is present: a permission fault.
    pub(crate) const PRESENT: u64 = 1 << 0;
    /// A write.
    pub(crate) const WRITE: u64 = 1 << 1;
    /// A reserved bit is set in a nested entry.
    pub(crate) const RESERVED: u64 = 1 << 3;
    /// An instruction fetch.
    pub(crate) const FETCH: u64 = 1 << 4;
    /// In the guest's own page-table walk.
    pub(crate) const TABLE_WALK: u64 = 1 << 33;
}

/// TLB control.
pub(crate) mod tlb {
    /// Flush nothing.
    pub(crate) const NONE: u32 = 0;
    /// Flush the whole TLB.
    pub(crate) const FLUSH_ALL: u32 = 1;
}

/// Virtual interrupt control.
pub(crate) mod vintr {
    /// Task priority of the guest.
    pub(crate) const TPR_MASK: u64 = 0xff;
    /// A virtual interrupt is pending.
    pub(crate) const IRQ: u64 = 1 << 8;
    /// Shift of the pending interrupt's priority.
    pub(crate) const PRIORITY_SHIFT: u32 = 16;
    /// The pending interrupt ignores the task priority.
    pub(crate) const IGNORE_TPR: u64 = 1 << 20;
    /// RFLAGS.IF of the host decides about physical interrupts.
    pub(crate) const MASKING: u64 = 1 << 24;
    /// Shift of the pending interrupt's vector.
    pub(crate) const VECTOR_SHIFT: u32 = 32;
    /// All that describes the pending interrupt.
    pub(crate) const PENDING: u64 = IRQ | IGNORE_TPR | (0xf << PRIORITY_SHIFT) | (0xff << VECTOR_SHIFT);
}

/// Clean bits: state the processor may keep from the last exit.
pub(crate) mod clean {
    /// Intercept vectors, TSC offset, pause filter.
    pub(crate) const INTERCEPTS: u32 = 1 << 0;
    /// ASID.
    pub(crate) const ASID: u32 = 1 << 2;
    /// Virtual interrupt state.
    pub(crate) const VINTR: u32 = 1 << 3;
    /// Nested paging: root and PAT.
    pub(crate) const NESTED: u32 = 1 << 4;
    /// Control registers and EFER.
    pub(crate) const CONTROL: u32 = 1 << 5;
    /// DR6, DR7.
    pub(crate) const DEBUG: u32 = 1 << 6;
    /// GDTR, IDTR.
    pub(crate) const TABLES: u32 = 1 << 7;
    /// CS, DS, SS, ES and CPL.
    pub(crate) const SEGMENTS: u32 = 1 << 8;
    /// CR2.
    pub(crate) const CR2: u32 = 1 << 9;
    /// DEBUGCTL and last branch records.
    pub(crate) const LBR: u32 = 1 << 10;
    /// All that are defined here.
    pub(crate) const ALL: u32 = (1 << 11) - 1;
}

/// Fields of EVENTINJ and EXITINTINFO.
pub(crate) mod event {
    /// Shift of the type.
    pub(crate) const TYPE_SHIFT: u32 = 8;
    /// External interrupt.
    pub(crate) const TYPE_INTERRUPT: u64 = 0;
    /// NMI.
    pub(crate) const TYPE_NMI: u64 = 2;
    /// Exception.
    pub(crate) const TYPE_EXCEPTION: u64 = 3;
    /// Software interrupt.
    pub(crate) const TYPE_SOFTWARE: u64 = 4;
    /// An error code is given.
    pub(crate) const ERROR_CODE: u64 = 1 << 11;
    /// The field is valid.
    pub(crate) const VALID: u64 = 1 << 31;
}
