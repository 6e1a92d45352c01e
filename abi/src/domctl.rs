//! `domctl.h`: operations of the control domain on one domain. The interface is versioned; this is the one of Xen 4.17.
//!
//! A caller passes a pointer to [`Header`] followed by 128 bytes, of which each operation uses a beginning: the structure
//! of its name here. Handles are guest-virtual addresses; a handle of 0 is null.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_DOMCTL_INTERFACE_VERSION`.
pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

/// `XEN_DOMCTL_createdomain`.
pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
/// `XEN_DOMCTL_destroydomain`.
pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
/// `XEN_DOMCTL_pausedomain`.
pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
/// `XEN_DOMCTL_unpausedomain`.
pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
/// `XEN_DOMCTL_getdomaininfo`.
pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
/// `XEN_DOMCTL_setvcpuaffinity`.
pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
/// `XEN_DOMCTL_shadow_op`.
pub const XEN_DOMCTL_SHADOW_OP: u32 = 10;
/// `XEN_DOMCTL_max_mem`.
pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
/// `XEN_DOMCTL_setvcpucontext`.
pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
/// `XEN_DOMCTL_getvcpucontext`.
pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
/// `XEN_DOMCTL_getvcpuinfo`.
pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
/// `XEN_DOMCTL_max_vcpus`.
pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
/// `XEN_DOMCTL_scheduler_op`.
pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
/// `XEN_DOMCTL_setdomainhandle`.
pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
/// `XEN_DOMCTL_setdebugging`.
pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
/// `XEN_DOMCTL_irq_permission`.
pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
/// `XEN_DOMCTL_iomem_permission`.
pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
/// `XEN_DOMCTL_ioport_permission`.
pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
/// `XEN_DOMCTL_hypercall_init`.
pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
/// `XEN_DOMCTL_settimeoffset`.
pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
/// `XEN_DOMCTL_getvcpuaffinity`.
pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
/// `XEN_DOMCTL_real_mode_area`.
pub const XEN_DOMCTL_REAL_MODE_AREA: u32 = 26;
/// `XEN_DOMCTL_resumedomain`.
pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
/// `XEN_DOMCTL_sendtrigger`.
pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
/// `XEN_DOMCTL_subscribe`.
pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
/// `XEN_DOMCTL_gethvmcontext`.
pub const XEN_DOMCTL_GETHVMCONTEXT: u32 = 33;
/// `XEN_DOMCTL_sethvmcontext`.
pub const XEN_DOMCTL_SETHVMCONTEXT: u32 = 34;
/// `XEN_DOMCTL_set_address_size`.
pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
/// `XEN_DOMCTL_get_address_size`.
pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
/// `XEN_DOMCTL_assign_device`.
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// `XEN_DOMCTL_bind_pt_irq`.
pub const XEN_DOMCTL_BIND_PT_IRQ: u32 = 38;
/// `XEN_DOMCTL_memory_mapping`.
pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
/// `XEN_DOMCTL_ioport_mapping`.
pub const XEN_DOMCTL_IOPORT_MAPPING: u32 = 40;
/// `XEN_DOMCTL_set_ext_vcpucontext`.
pub const XEN_DOMCTL_SET_EXT_VCPUCONTEXT: u32 = 42;
/// `XEN_DOMCTL_get_ext_vcpucontext`.
pub const XEN_DOMCTL_GET_EXT_VCPUCONTEXT: u32 = 43;
/// `XEN_DOMCTL_set_opt_feature`.
pub const XEN_DOMCTL_SET_OPT_FEATURE: u32 = 44;
/// `XEN_DOMCTL_test_assign_device`.
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// `XEN_DOMCTL_set_target`.
pub const XEN_DOMCTL_SET_TARGET: u32 = 46;
/// `XEN_DOMCTL_deassign_device`.
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// `XEN_DOMCTL_unbind_pt_irq`.
pub const XEN_DOMCTL_UNBIND_PT_IRQ: u32 = 48;
/// `XEN_DOMCTL_get_device_group`.
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
/// `XEN_DOMCTL_debug_op`.
pub const XEN_DOMCTL_DEBUG_OP: u32 = 54;
/// `XEN_DOMCTL_gethvmcontext_partial`.
pub const XEN_DOMCTL_GETHVMCONTEXT_PARTIAL: u32 = 55;
/// `XEN_DOMCTL_vm_event_op`.
pub const XEN_DOMCTL_VM_EVENT_OP: u32 = 56;
/// `XEN_DOMCTL_mem_sharing_op`.
pub const XEN_DOMCTL_MEM_SHARING_OP: u32 = 57;
/// `XEN_DOMCTL_gettscinfo`.
pub const XEN_DOMCTL_GETTSCINFO: u32 = 59;
/// `XEN_DOMCTL_settscinfo`.
pub const XEN_DOMCTL_SETTSCINFO: u32 = 60;
/// `XEN_DOMCTL_getpageframeinfo3`.
pub const XEN_DOMCTL_GETPAGEFRAMEINFO3: u32 = 61;
/// `XEN_DOMCTL_setvcpuextstate`.
pub const XEN_DOMCTL_SETVCPUEXTSTATE: u32 = 62;
/// `XEN_DOMCTL_getvcpuextstate`.
pub const XEN_DOMCTL_GETVCPUEXTSTATE: u32 = 63;
/// `XEN_DOMCTL_set_access_required`.
pub const XEN_DOMCTL_SET_ACCESS_REQUIRED: u32 = 64;
/// `XEN_DOMCTL_audit_p2m`.
pub const XEN_DOMCTL_AUDIT_P2M: u32 = 65;
/// `XEN_DOMCTL_set_virq_handler`.
pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
/// `XEN_DOMCTL_set_broken_page_p2m`.
pub const XEN_DOMCTL_SET_BROKEN_PAGE_P2M: u32 = 67;
/// `XEN_DOMCTL_setnodeaffinity`.
pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
/// `XEN_DOMCTL_getnodeaffinity`.
pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
/// `XEN_DOMCTL_cacheflush`.
pub const XEN_DOMCTL_CACHEFLUSH: u32 = 71;
/// `XEN_DOMCTL_get_vcpu_msrs`.
pub const XEN_DOMCTL_GET_VCPU_MSRS: u32 = 72;
/// `XEN_DOMCTL_set_vcpu_msrs`.
pub const XEN_DOMCTL_SET_VCPU_MSRS: u32 = 73;
/// `XEN_DOMCTL_setvnumainfo`.
pub const XEN_DOMCTL_SETVNUMAINFO: u32 = 74;
/// `XEN_DOMCTL_psr_cmt_op`.
pub const XEN_DOMCTL_PSR_CMT_OP: u32 = 75;
/// `XEN_DOMCTL_monitor_op`.
pub const XEN_DOMCTL_MONITOR_OP: u32 = 77;
/// `XEN_DOMCTL_psr_alloc`.
pub const XEN_DOMCTL_PSR_ALLOC: u32 = 78;
/// `XEN_DOMCTL_soft_reset`.
pub const XEN_DOMCTL_SOFT_RESET: u32 = 79;
/// `XEN_DOMCTL_vuart_op`.
pub const XEN_DOMCTL_VUART_OP: u32 = 81;
/// `XEN_DOMCTL_get_cpu_policy`.
pub const XEN_DOMCTL_GET_CPU_POLICY: u32 = 82;
/// `XEN_DOMCTL_set_cpu_policy`.
pub const XEN_DOMCTL_SET_CPU_POLICY: u32 = 83;
/// `XEN_DOMCTL_get_paging_mempool_size`.
pub const XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE: u32 = 85;
/// `XEN_DOMCTL_set_paging_mempool_size`.
pub const XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
/// `XEN_DOMCTL_gdbsx_guestmemio`.
pub const XEN_DOMCTL_GDBSX_GUESTMEMIO: u32 = 1000;
/// `XEN_DOMCTL_gdbsx_pausevcpu`.
pub const XEN_DOMCTL_GDBSX_PAUSEVCPU: u32 = 1001;
/// `XEN_DOMCTL_gdbsx_unpausevcpu`.
pub const XEN_DOMCTL_GDBSX_UNPAUSEVCPU: u32 = 1002;
/// `XEN_DOMCTL_gdbsx_domstatus`.
pub const XEN_DOMCTL_GDBSX_DOMSTATUS: u32 = 1003;
/// `XEN_DOMCTL_vmtrace_op`.
pub const XEN_DOMCTL_VMTRACE_OP: u32 = 84;

/// What every `struct xen_domctl` begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// `XEN_DOMCTL_*`.
    pub cmd: u32,
    /// [`XEN_DOMCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The domain.
    pub domain: u16,
    /// Padding.
    pub _pad: [u16; 3],
}

/// `struct xen_domctl`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Domctl {
    /// Which operation on which domain.
    pub header: Header,
    /// The operation's structure, and what of the 128 bytes it does not use.
    pub payload: [u8; 128],
}

/// `struct xenctl_bitmap`: a set that the caller has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Bitmap {
    /// Array of bytes, the first member in bit 0 of the first.
    pub bitmap: u64,
    /// Size of the set.
    pub nr_bits: u32,
    /// Padding.
    pub _pad: u32,
}

/// A `xen_domain_handle_t`: a UUID.
pub type DomainHandle = [u8; 16];

/// Flag of [`CreateDomain`]: HVM rather than PV.
pub const XEN_DOMCTL_CDF_HVM: u32 = 1 << 0;
/// Flag of [`CreateDomain`]: nested paging.
pub const XEN_DOMCTL_CDF_HAP: u32 = 1 << 1;
/// Flag of [`CreateDomain`]: memory integrity is checked around suspend to RAM.
pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 1 << 2;
/// Flag of [`CreateDomain`]: no out-of-sync shadow page tables.
pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 1 << 3;
/// Flag of [`CreateDomain`]: it will run xenstore.
pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 1 << 4;
/// Flag of [`CreateDomain`]: devices may be given to it.
pub const XEN_DOMCTL_CDF_IOMMU: u32 = 1 << 5;
/// Flag of [`CreateDomain`]: nested virtualization.
pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 1 << 6;
/// Flag of [`CreateDomain`]: performance counters.
pub const XEN_DOMCTL_CDF_VPMU: u32 = 1 << 7;
/// All flags of [`CreateDomain`].
pub const XEN_DOMCTL_CDF_ALL: u32 = (XEN_DOMCTL_CDF_VPMU << 1) - 1;

/// All flags of [`CreateDomain::iommu_opts`].
pub const XEN_DOMCTL_IOMMU_ALL: u32 = 1;
/// The bits of [`CreateDomain::grant_opts`] that hold the largest grant table version.
pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;

/// Emulated device: local APIC.
pub const XEN_X86_EMU_LAPIC: u32 = 1 << 0;
/// Emulated device: HPET.
pub const XEN_X86_EMU_HPET: u32 = 1 << 1;
/// Emulated device: power management registers.
pub const XEN_X86_EMU_PM: u32 = 1 << 2;
/// Emulated device: real-time clock.
pub const XEN_X86_EMU_RTC: u32 = 1 << 3;
/// Emulated device: I/O APIC.
pub const XEN_X86_EMU_IOAPIC: u32 = 1 << 4;
/// Emulated device: interrupt controllers of the PC/AT.
pub const XEN_X86_EMU_PIC: u32 = 1 << 5;
/// Emulated device: frame buffer of the VGA.
pub const XEN_X86_EMU_VGA: u32 = 1 << 6;
/// Emulated device: IOMMU.
pub const XEN_X86_EMU_IOMMU: u32 = 1 << 7;
/// Emulated device: interval timer.
pub const XEN_X86_EMU_PIT: u32 = 1 << 8;
/// Interrupts can be routed through event channels.
pub const XEN_X86_EMU_USE_PIRQ: u32 = 1 << 9;
/// Emulated PCI configuration space.
pub const XEN_X86_EMU_VPCI: u32 = 1 << 10;
/// All of them.
pub const XEN_X86_EMU_ALL: u32 = (XEN_X86_EMU_VPCI << 1) - 1;
/// Accesses to unknown MSRs do not fault.
pub const XEN_X86_MSR_RELAXED: u32 = 1 << 0;

/// `struct xen_arch_domainconfig` of x86.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchDomainConfig {
    /// `XEN_X86_EMU_*`.
    pub emulation_flags: u32,
    /// `XEN_X86_MSR_RELAXED`.
    pub misc_flags: u32,
}

/// `xen_domctl_createdomain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CreateDomain {
    /// Security label.
    pub ssidref: u32,
    /// The toolstack's name for it.
    pub handle: DomainHandle,
    /// `XEN_DOMCTL_CDF_*`.
    pub flags: u32,
    /// `XEN_DOMCTL_IOMMU_*`.
    pub iommu_opts: u32,
    /// Number of vCPUs.
    pub max_vcpus: u32,
    /// The highest event channel port.
    pub max_evtchn_port: u32,
    /// Most frames of grant table; negative: the default.
    pub max_grant_frames: i32,
    /// Most frames of grant mappings; negative: the default.
    pub max_maptrack_frames: i32,
    /// Largest grant table version.
    pub grant_opts: u32,
    /// Bytes of trace buffer per vCPU.
    pub vmtrace_size: u32,
    /// CPU pool.
    pub cpupool_id: u32,
    /// The architecture's part.
    pub arch: ArchDomainConfig,
}

impl CreateDomain {
    /// What `xl` asks for when it makes a PVH guest with so many vCPUs.
    #[must_use]
    pub fn pvh(max_vcpus: u32) -> CreateDomain {
        CreateDomain {
            flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP,
            max_vcpus,
            max_evtchn_port: 1023,
            max_grant_frames: 64,
            max_maptrack_frames: 1024,
            grant_opts: 2,
            arch: ArchDomainConfig { emulation_flags: XEN_X86_EMU_LAPIC, misc_flags: 0 },
            ..CreateDomain::default()
        }
    }
}

/// The domain is being destroyed.
pub const XEN_DOMINF_DYING: u32 = 1 << 0;
/// It is HVM.
pub const XEN_DOMINF_HVM_GUEST: u32 = 1 << 1;
/// It has shut down.
pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;
/// The toolstack has paused it.
pub const XEN_DOMINF_PAUSED: u32 = 1 << 3;
/// All its vCPUs wait for events.
pub const XEN_DOMINF_BLOCKED: u32 = 1 << 4;
/// One of its vCPUs runs.
pub const XEN_DOMINF_RUNNING: u32 = 1 << 5;
/// It is being debugged.
pub const XEN_DOMINF_DEBUGGED: u32 = 1 << 6;
/// It runs xenstore.
pub const XEN_DOMINF_XS_DOMAIN: u32 = 1 << 7;
/// It has nested paging.
pub const XEN_DOMINF_HAP: u32 = 1 << 8;
/// Where the shutdown reason (8 bits) is.
pub const XEN_DOMINF_SHUTDOWN_SHIFT: u32 = 16;
/// The domain has no vCPUs.
pub const XEN_INVALID_MAX_VCPU_ID: u32 = u32::MAX;

/// `xen_domctl_getdomaininfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DomainInfo {
    /// Its number.
    pub domain: u16,
    /// Not used.
    pub pad1: u16,
    /// `XEN_DOMINF_*`.
    pub flags: u32,
    /// Frames it has.
    pub tot_pages: u64,
    /// Frames it may have.
    pub max_pages: u64,
    /// Frames promised to it.
    pub outstanding_pages: u64,
    /// Frames it shares copy-on-write.
    pub shr_pages: u64,
    /// Frames that are paged out.
    pub paged_pages: u64,
    /// Guest frame of its shared information page; all ones if it is nowhere.
    pub shared_info_frame: u64,
    /// CPU time (ns) of its vCPUs.
    pub cpu_time: u64,
    /// vCPUs that are up.
    pub nr_online_vcpus: u32,
    /// The highest vCPU number.
    pub max_vcpu_id: u32,
    /// Security label.
    pub ssidref: u32,
    /// The toolstack's name for it.
    pub handle: DomainHandle,
    /// CPU pool.
    pub cpupool: u32,
    /// Width of guest-physical addresses.
    pub gpaddr_bits: u8,
    /// Not used.
    pub pad2: [u8; 7],
    /// How it was created.
    pub arch_config: ArchDomainConfig,
}

/// Page type of [`GetPageFrameInfo3`]: nothing to be saved.
pub const XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf << 28;
/// Page type of [`GetPageFrameInfo3`]: ordinary memory.
pub const XEN_DOMCTL_PFINFO_NOTAB: u32 = 0;
/// Page type of [`GetPageFrameInfo3`]: broken memory.
pub const XEN_DOMCTL_PFINFO_BROKEN: u32 = 0xd << 28;

/// `xen_domctl_getpageframeinfo3`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetPageFrameInfo3 {
    /// Number of frames.
    pub num: u64,
    /// Array of 64-bit gfns (in), page types (out).
    pub array: u64,
}

/// `xen_domctl_nodeaffinity`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NodeAffinity {
    /// Nodes.
    pub nodemap: Bitmap,
}

/// Flag of [`VcpuAffinity`]: where it may run.
pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
/// Flag of [`VcpuAffinity`]: where it should run.
pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// Flag of [`VcpuAffinity`]: ends a pin that the guest asked for.
pub const XEN_VCPUAFFINITY_FORCE: u32 = 1 << 2;

/// `xen_domctl_vcpuaffinity`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuAffinity {
    /// The vCPU.
    pub vcpu: u32,
    /// `XEN_VCPUAFFINITY_*`.
    pub flags: u32,
    /// Where it may run.
    pub cpumap_hard: Bitmap,
    /// Where it should run.
    pub cpumap_soft: Bitmap,
}

/// Ends log-dirty mode.
pub const XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
/// Starts a mode of shadow paging, by flags.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE: u32 = 32;
/// Copies the bitmap of dirty frames out and cleans it.
pub const XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
/// Copies the bitmap of dirty frames out.
pub const XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
/// Reads the number of MiB of paging memory.
pub const XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION: u32 = 30;
/// Sets the number of MiB of paging memory.
pub const XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION: u32 = 31;
/// Starts log-dirty mode.
pub const XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
/// Flag of [`XEN_DOMCTL_SHADOW_OP_ENABLE`]: log-dirty mode.
pub const XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY: u32 = 1 << 2;

/// `xen_domctl_shadow_op`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShadowOp {
    /// `XEN_DOMCTL_SHADOW_OP_*`.
    pub op: u32,
    /// Flags.
    pub mode: u32,
    /// MiB of paging memory.
    pub mb: u32,
    /// Padding.
    pub _pad: u32,
    /// Where the bitmap goes.
    pub dirty_bitmap: u64,
    /// Its size in frames (in), the number of frames described (out).
    pub pages: u64,
    /// Faults since the last cleaning (out).
    pub fault_count: u32,
    /// Dirty frames since the last cleaning (out).
    pub dirty_count: u32,
}

/// `xen_domctl_max_mem`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MaxMem {
    /// KiB that it may have.
    pub max_memkb: u64,
}

/// `xen_domctl_vcpucontext`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuContext {
    /// The vCPU.
    pub vcpu: u32,
    /// Padding.
    pub _pad: u32,
    /// A [`crate::guest_context::VcpuGuestContext`].
    pub ctxt: u64,
}

/// `xen_domctl_getvcpuinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVcpuInfo {
    /// The vCPU.
    pub vcpu: u32,
    /// It is up.
    pub online: u8,
    /// It waits for an event.
    pub blocked: u8,
    /// It runs.
    pub running: u8,
    /// Padding.
    pub _pad0: u8,
    /// CPU time (ns).
    pub cpu_time: u64,
    /// The CPU that it runs on or ran on last.
    pub cpu: u32,
    /// Padding.
    pub _pad1: u32,
}

/// `xen_domctl_max_vcpus`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MaxVcpus {
    /// Number of vCPUs: that of the domain's creation.
    pub max: u32,
}

/// The scheduler that shares by weight, of old.
pub const XEN_SCHEDULER_CREDIT: u32 = 5;
/// The scheduler that shares by weight.
pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
/// The scheduler with a vCPU per CPU.
pub const XEN_SCHEDULER_NULL: u32 = 9;
/// Sets parameters of the domain.
pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
/// Reads parameters of the domain.
pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;
/// Sets parameters of vCPUs.
pub const XEN_DOMCTL_SCHEDOP_PUTVCPUINFO: u32 = 2;
/// Reads parameters of vCPUs.
pub const XEN_DOMCTL_SCHEDOP_GETVCPUINFO: u32 = 3;

/// `xen_domctl_scheduler_op` with the union's `xen_domctl_sched_credit2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedulerOp {
    /// `XEN_SCHEDULER_*`: must be that of the domain's pool.
    pub sched_id: u32,
    /// `XEN_DOMCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// Weight; 0: leave.
    pub weight: u16,
    /// Cap in percent of a CPU; all ones: leave.
    pub cap: u16,
    /// Padding.
    pub _pad: u32,
}

/// `xen_domctl_setdomainhandle`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetDomainHandle {
    /// The toolstack's name for it.
    pub handle: DomainHandle,
}

/// `xen_domctl_irq_permission`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IrqPermission {
    /// The interrupt.
    pub pirq: u32,
    /// Grant rather than revoke.
    pub allow_access: u8,
    /// Not used.
    pub pad: [u8; 3],
}

/// `xen_domctl_iomem_permission`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IomemPermission {
    /// First machine frame.
    pub first_mfn: u64,
    /// Number of frames.
    pub nr_mfns: u64,
    /// Grant rather than revoke.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 7],
}

/// `xen_domctl_ioport_permission`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoportPermission {
    /// First port.
    pub first_port: u32,
    /// Number of ports.
    pub nr_ports: u32,
    /// Grant rather than revoke.
    pub allow_access: u8,
    /// Padding.
    pub _pad: [u8; 3],
}

/// `xen_domctl_memory_mapping`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMapping {
    /// First guest frame.
    pub first_gfn: u64,
    /// First machine frame.
    pub first_mfn: u64,
    /// Number of frames.
    pub nr_mfns: u64,
    /// Map rather than unmap.
    pub add_mapping: u32,
    /// Not used.
    pub padding: u32,
}

/// `xen_domctl_hypercall_init`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HypercallInit {
    /// Guest frame to be filled.
    pub gmfn: u64,
}

/// `xen_domctl_settimeoffset`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetTimeOffset {
    /// Seconds that its wall clock is ahead of the machine's.
    pub time_offset_seconds: i64,
}

/// `xen_domctl_hvmcontext`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmContext {
    /// Bytes of room (in), bytes written or needed (out).
    pub size: u32,
    /// Padding.
    pub _pad: u32,
    /// Records of [`crate::save`].
    pub buffer: u64,
}

/// `xen_domctl_hvmcontext_partial`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmContextPartial {
    /// The record's type.
    pub kind: u32,
    /// The record's instance.
    pub instance: u32,
    /// Bytes of room (in), bytes of the record (out).
    pub bufsz: u64,
    /// Where the record goes, without its descriptor.
    pub buffer: u64,
}

/// `xen_domctl_address_size`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddressSize {
    /// 32 or 64.
    pub size: u32,
}

/// Trigger: an NMI.
pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
/// Trigger: the power button.
pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
/// Trigger: the sleep button.
pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

/// `xen_domctl_sendtrigger`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SendTrigger {
    /// `XEN_DOMCTL_SENDTRIGGER_*`.
    pub trigger: u32,
    /// The vCPU.
    pub vcpu: u32,
}

/// `xen_domctl_set_target`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetTarget {
    /// The domain that it may control.
    pub target: u16,
}

/// `xen_cpuid_leaf_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuidLeaf {
    /// Leaf.
    pub leaf: u32,
    /// Sub-leaf, or all ones.
    pub subleaf: u32,
    /// EAX.
    pub a: u32,
    /// EBX.
    pub b: u32,
    /// ECX.
    pub c: u32,
    /// EDX.
    pub d: u32,
}

/// `xen_msr_entry_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MsrEntry {
    /// MSR.
    pub idx: u32,
    /// Must be zero.
    pub flags: u32,
    /// Value.
    pub val: u64,
}

/// `struct xen_domctl_cpu_policy`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuPolicy {
    /// Entries of `leaves`: room (in), written or needed (out).
    pub nr_leaves: u32,
    /// Entries of `msrs`: room (in), written or needed (out).
    pub nr_msrs: u32,
    /// Array of [`CpuidLeaf`].
    pub leaves: u64,
    /// Array of [`MsrEntry`].
    pub msrs: u64,
    /// The leaf that cannot be (out, after an error), or all ones.
    pub err_leaf: u32,
    /// Its sub-leaf.
    pub err_subleaf: u32,
    /// The MSR that cannot be (out, after an error), or all ones.
    pub err_msr: u32,
    /// Padding.
    pub _pad: u32,
}

/// `xen_domctl_tsc_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TscInfo {
    /// `TSC_MODE_*`: 0 default, 1 always emulate, 2 never emulate.
    pub tsc_mode: u32,
    /// The guest's frequency in kHz.
    pub gtsc_khz: u32,
    /// How often it was restored.
    pub incarnation: u32,
    /// Not used.
    pub pad: u32,
    /// Nanoseconds that its counter has counted.
    pub elapsed_nsec: u64,
}

/// `xen_domctl_set_virq_handler`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVirqHandler {
    /// `VIRQ_*`.
    pub virq: u32,
}

/// `xen_domctl_set_access_required`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAccessRequired {
    /// Violations wait for a listener.
    pub access_required: u8,
}

/// `xen_domctl_paging_mempool`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PagingMempool {
    /// Bytes.
    pub size: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Domctl>() == 144 && offset_of!(Domctl, payload) == 16);
    assert!(size_of::<Bitmap>() == 16);
    assert!(size_of::<CreateDomain>() == 64 && offset_of!(CreateDomain, arch) == 56);
    assert!(size_of::<DomainInfo>() == 112 && offset_of!(DomainInfo, handle) == 76);
    assert!(offset_of!(DomainInfo, arch_config) == 104);
    assert!(size_of::<VcpuAffinity>() == 40);
    assert!(size_of::<ShadowOp>() == 40 && offset_of!(ShadowOp, dirty_bitmap) == 16);
    assert!(size_of::<GetVcpuInfo>() == 24 && offset_of!(GetVcpuInfo, cpu_time) == 8);
    assert!(size_of::<SchedulerOp>() == 16);
    assert!(size_of::<IomemPermission>() == 24);
    assert!(size_of::<MemoryMapping>() == 32);
    assert!(size_of::<HvmContextPartial>() == 24);
    assert!(size_of::<CpuidLeaf>() == 24 && size_of::<MsrEntry>() == 16);
    assert!(size_of::<CpuPolicy>() == 40);
    assert!(size_of::<TscInfo>() == 24);
};
