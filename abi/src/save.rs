//! `hvm/save.h` and `arch-x86/hvm/save.h`: the records in which the state of an HVM domain is saved, apart from its
//! memory. Each record follows a [`Descriptor`]; the last is [`HVM_SAVE_CODE_END`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The end of the records.
pub const HVM_SAVE_CODE_END: u16 = 0;
/// [`Header`].
pub const HVM_SAVE_CODE_HEADER: u16 = 1;
/// [`Cpu`].
pub const HVM_SAVE_CODE_CPU: u16 = 2;
/// Interrupt controllers of the PC/AT.
pub const HVM_SAVE_CODE_PIC: u16 = 3;
/// I/O APIC.
pub const HVM_SAVE_CODE_IOAPIC: u16 = 4;
/// Local APIC, what is not in its register page.
pub const HVM_SAVE_CODE_LAPIC: u16 = 5;
/// Local APIC, the register page.
pub const HVM_SAVE_CODE_LAPIC_REGS: u16 = 6;
/// PCI interrupt lines.
pub const HVM_SAVE_CODE_PCI_IRQ: u16 = 7;
/// ISA interrupt lines.
pub const HVM_SAVE_CODE_ISA_IRQ: u16 = 8;
/// PCI interrupt router.
pub const HVM_SAVE_CODE_PCI_LINK: u16 = 9;
/// Interval timer.
pub const HVM_SAVE_CODE_PIT: u16 = 10;
/// Real-time clock.
pub const HVM_SAVE_CODE_RTC: u16 = 11;
/// HPET.
pub const HVM_SAVE_CODE_HPET: u16 = 12;
/// Power management timer.
pub const HVM_SAVE_CODE_PMTIMER: u16 = 13;
/// [`Mtrr`].
pub const HVM_SAVE_CODE_MTRR: u16 = 14;
/// Viridian enlightenments of the domain.
pub const HVM_SAVE_CODE_VIRIDIAN_DOMAIN: u16 = 15;
/// [`CpuXsave`].
pub const HVM_SAVE_CODE_CPU_XSAVE: u16 = 16;
/// Viridian enlightenments of a vCPU.
pub const HVM_SAVE_CODE_VIRIDIAN_VCPU: u16 = 17;
/// Machine check registers of a vCPU.
pub const HVM_SAVE_CODE_VMCE_VCPU: u16 = 18;
/// [`TscAdjust`].
pub const HVM_SAVE_CODE_TSC_ADJUST: u16 = 19;
/// [`Msrs`].
pub const HVM_SAVE_CODE_CPU_MSR: u16 = 20;
/// The largest of them.
pub const HVM_SAVE_CODE_MAX: u16 = 20;

/// [`Header::magic`].
pub const HVM_FILE_MAGIC: u32 = 0x5438_1286;
/// [`Header::version`].
pub const HVM_FILE_VERSION: u32 = 1;

/// `struct hvm_save_descriptor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Descriptor {
    /// `HVM_SAVE_CODE_*`.
    pub typecode: u16,
    /// Which of that type: the vCPU, mostly.
    pub instance: u16,
    /// Bytes of the record, this descriptor not counted.
    pub length: u32,
}

/// `struct hvm_save_header`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// [`HVM_FILE_MAGIC`].
    pub magic: u32,
    /// [`HVM_FILE_VERSION`].
    pub version: u32,
    /// Version of the hypervisor that saved.
    pub changeset: u64,
    /// CPUID leaf 1 EAX of the machine.
    pub cpuid: u32,
    /// The guest's TSC frequency in kHz.
    pub gtsc_khz: u32,
}

/// Flag of [`Cpu`]: the FPU's registers are valid.
pub const XEN_X86_FPU_INITIALISED: u32 = 1 << 0;

/// `struct hvm_hw_cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "most fields are the registers of these names")]
pub struct Cpu {
    /// FXSAVE area.
    pub fpu_regs: [u8; 512],
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub dr0: u64,
    pub dr1: u64,
    pub dr2: u64,
    pub dr3: u64,
    pub dr6: u64,
    pub dr7: u64,
    pub cs_sel: u32,
    pub ds_sel: u32,
    pub es_sel: u32,
    pub fs_sel: u32,
    pub gs_sel: u32,
    pub ss_sel: u32,
    pub tr_sel: u32,
    pub ldtr_sel: u32,
    pub cs_limit: u32,
    pub ds_limit: u32,
    pub es_limit: u32,
    pub fs_limit: u32,
    pub gs_limit: u32,
    pub ss_limit: u32,
    pub tr_limit: u32,
    pub ldtr_limit: u32,
    pub idtr_limit: u32,
    pub gdtr_limit: u32,
    pub cs_base: u64,
    pub ds_base: u64,
    pub es_base: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ss_base: u64,
    pub tr_base: u64,
    pub ldtr_base: u64,
    pub idtr_base: u64,
    pub gdtr_base: u64,
    /// Attributes: the descriptor's bits 8 to 15 and 20 to 23, without the gap.
    pub cs_arbytes: u32,
    pub ds_arbytes: u32,
    pub es_arbytes: u32,
    pub fs_arbytes: u32,
    pub gs_arbytes: u32,
    pub ss_arbytes: u32,
    pub tr_arbytes: u32,
    pub ldtr_arbytes: u32,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    /// KERNEL_GS_BASE.
    pub shadow_gs: u64,
    /// Not used.
    pub msr_flags: u64,
    pub msr_lstar: u64,
    pub msr_star: u64,
    pub msr_cstar: u64,
    pub msr_syscall_mask: u64,
    pub msr_efer: u64,
    pub msr_tsc_aux: u64,
    /// What RDTSC would return.
    pub tsc: u64,
    /// The event that was being delivered: vector 0 to 7, type 8 to 10, error code valid 11, valid 31.
    pub pending_event: u32,
    /// Its error code.
    pub error_code: u32,
    /// `XEN_X86_FPU_INITIALISED`.
    pub flags: u32,
    /// Zero.
    pub pad0: u32,
}

/// `struct hvm_hw_mtrr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Mtrr {
    /// PAT.
    pub msr_pat_cr: u64,
    /// Base and mask of each variable range.
    pub msr_mtrr_var: [u64; 16],
    /// Fixed ranges, by MSR number.
    pub msr_mtrr_fixed: [u64; 11],
    /// MTRR_CAP.
    pub msr_mtrr_cap: u64,
    /// MTRR_DEF_TYPE.
    pub msr_mtrr_def_type: u64,
}

/// `struct hvm_hw_cpu_xsave` up to the extended components, which follow in the layout of XSAVE's standard format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuXsave {
    /// Components that the hypervisor knows; ignored on restore.
    pub xfeature_mask: u64,
    /// XCR0.
    pub xcr0: u64,
    /// All components that were ever enabled.
    pub xcr0_accum: u64,
    /// FXSAVE area.
    pub fpu_sse: [u8; 512],
    /// Components that are not in their initial state.
    pub xstate_bv: u64,
    /// Compaction: zero in standard format.
    pub xcomp_bv: u64,
    /// Zero.
    pub reserved: [u64; 6],
}

/// `struct hvm_tsc_adjust`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TscAdjust {
    /// TSC_ADJUST.
    pub tsc_adjust: u64,
}

/// `struct hvm_msr`, which `count` [`OneMsr`] follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Msrs {
    /// Number of entries.
    pub count: u32,
    /// Padding.
    pub _pad: u32,
}

/// `struct hvm_one_msr`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OneMsr {
    /// MSR.
    pub index: u32,
    /// Must be zero.
    pub rsvd: u32,
    /// Value.
    pub val: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Descriptor>() == 8);
    assert!(size_of::<Header>() == 24);
    assert!(size_of::<Cpu>() == 1032);
    assert!(offset_of!(Cpu, cs_sel) == 736 && offset_of!(Cpu, cs_base) == 808 && offset_of!(Cpu, tsc) == 1008);
    assert!(size_of::<Mtrr>() == 240);
    assert!(size_of::<CpuXsave>() == 600);
    assert!(size_of::<Msrs>() == 8 && size_of::<OneMsr>() == 16);
};
