//! `sysctl.h`: operations of the control domain on the machine as a whole. The interface is versioned; this is the one of
//! Xen 4.17.
//!
//! A caller passes a pointer to [`Header`] followed by 128 bytes, of which each operation uses a beginning: the structure
//! of its name here. Handles are guest-virtual addresses; a handle of 0 is null.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::domctl::Bitmap;

/// `XEN_SYSCTL_INTERFACE_VERSION`.
pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

/// `XEN_SYSCTL_readconsole`.
pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
/// `XEN_SYSCTL_tbuf_op`.
pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
/// `XEN_SYSCTL_physinfo`.
pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
/// `XEN_SYSCTL_sched_id`.
pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
/// `XEN_SYSCTL_perfc_op`.
pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
/// `XEN_SYSCTL_getdomaininfolist`.
pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
/// `XEN_SYSCTL_debug_keys`.
pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
/// `XEN_SYSCTL_getcpuinfo`.
pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
/// `XEN_SYSCTL_availheap`.
pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
/// `XEN_SYSCTL_get_pmstat`.
pub const XEN_SYSCTL_GET_PMSTAT: u32 = 10;
/// `XEN_SYSCTL_cpu_hotplug`.
pub const XEN_SYSCTL_CPU_HOTPLUG: u32 = 11;
/// `XEN_SYSCTL_pm_op`.
pub const XEN_SYSCTL_PM_OP: u32 = 12;
/// `XEN_SYSCTL_page_offline_op`.
pub const XEN_SYSCTL_PAGE_OFFLINE_OP: u32 = 14;
/// `XEN_SYSCTL_lockprof_op`.
pub const XEN_SYSCTL_LOCKPROF_OP: u32 = 15;
/// `XEN_SYSCTL_cputopoinfo`.
pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
/// `XEN_SYSCTL_numainfo`.
pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
/// `XEN_SYSCTL_cpupool_op`.
pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
/// `XEN_SYSCTL_scheduler_op`.
pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;
/// `XEN_SYSCTL_coverage_op`.
pub const XEN_SYSCTL_COVERAGE_OP: u32 = 20;
/// `XEN_SYSCTL_psr_cmt_op`.
pub const XEN_SYSCTL_PSR_CMT_OP: u32 = 21;
/// `XEN_SYSCTL_pcitopoinfo`.
pub const XEN_SYSCTL_PCITOPOINFO: u32 = 22;
/// `XEN_SYSCTL_psr_alloc`.
pub const XEN_SYSCTL_PSR_ALLOC: u32 = 23;
/// `XEN_SYSCTL_get_cpu_levelling_caps`.
pub const XEN_SYSCTL_GET_CPU_LEVELLING_CAPS: u32 = 25;
/// `XEN_SYSCTL_get_cpu_featureset`.
pub const XEN_SYSCTL_GET_CPU_FEATURESET: u32 = 26;
/// `XEN_SYSCTL_livepatch_op`.
pub const XEN_SYSCTL_LIVEPATCH_OP: u32 = 27;
/// `XEN_SYSCTL_get_cpu_policy`.
pub const XEN_SYSCTL_GET_CPU_POLICY: u32 = 29;

/// What every `struct xen_sysctl` begins with.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// `XEN_SYSCTL_*`.
    pub cmd: u32,
    /// [`XEN_SYSCTL_INTERFACE_VERSION`].
    pub interface_version: u32,
}

/// `struct xen_sysctl`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Sysctl {
    /// Which operation.
    pub header: Header,
    /// The operation's structure, and what of the 128 bytes it does not use.
    pub payload: [u8; 128],
}

/// `xen_sysctl_readconsole`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReadConsole {
    /// Not 0: clear after reading.
    pub clear: u8,
    /// Not 0: start at `index`.
    pub incremental: u8,
    /// Not used.
    pub pad: [u8; 2],
    /// Where to start (in), where to go on (out).
    pub index: u32,
    /// Where to write.
    pub buffer: u64,
    /// Room (in), bytes written (out).
    pub count: u32,
    /// Padding.
    pub _pad: u32,
}

/// The machine can run HVM guests.
pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1 << 0;
/// The machine can run PV guests.
pub const XEN_SYSCTL_PHYSCAP_PV: u32 = 1 << 1;
/// Devices can be given to guests, through an IOMMU.
pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 1 << 2;
/// The machine has nested paging.
pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 1 << 3;
/// The hypervisor has shadow paging.
pub const XEN_SYSCTL_PHYSCAP_SHADOW: u32 = 1 << 4;
/// Nested page tables can be the IOMMU's.
pub const XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 1 << 5;
/// Guests can be traced by hardware.
pub const XEN_SYSCTL_PHYSCAP_VMTRACE: u32 = 1 << 6;
/// Performance counters are virtualised.
pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 1 << 7;
/// Grant tables of version 1.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
/// Grant tables of version 2.
pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;

/// `xen_sysctl_physinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PhysInfo {
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a package.
    pub cores_per_socket: u32,
    /// CPUs that are online.
    pub nr_cpus: u32,
    /// The largest number that a CPU can have.
    pub max_cpu_id: u32,
    /// NUMA nodes that are online.
    pub nr_nodes: u32,
    /// The largest number that a node can have.
    pub max_node_id: u32,
    /// Frequency of a CPU's clock in kHz.
    pub cpu_khz: u32,
    /// `XEN_SYSCTL_PHYSCAP_*`.
    pub capabilities: u32,
    /// Further capabilities; none on x86.
    pub arch_capabilities: u32,
    /// Not used.
    pub pad: u32,
    /// RAM, in frames.
    pub total_pages: u64,
    /// Of that, free.
    pub free_pages: u64,
    /// Of that, to be zeroed first.
    pub scrub_pages: u64,
    /// Frames promised to domains.
    pub outstanding_pages: u64,
    /// The largest frame number.
    pub max_mfn: u64,
    /// The first words of the machine's featureset.
    pub hw_cap: [u32; 8],
}

/// `xen_sysctl_sched_id`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedId {
    /// `XEN_SCHEDULER_*`.
    pub sched_id: u32,
}

/// `xen_sysctl_getdomaininfolist`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetDomainInfoList {
    /// The lowest number of interest.
    pub first_domain: u16,
    /// Padding.
    pub _pad0: u16,
    /// Room in `buffer`.
    pub max_domains: u32,
    /// Array of [`crate::domctl::DomainInfo`].
    pub buffer: u64,
    /// Entries written (out).
    pub num_domains: u32,
    /// Padding.
    pub _pad1: u32,
}

/// `xen_sysctl_debug_keys`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DebugKeys {
    /// The keys.
    pub keys: u64,
    /// Their number.
    pub nr_keys: u32,
    /// Padding.
    pub _pad: u32,
}

/// `xen_sysctl_cpuinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuInfo {
    /// Time (ns) that the CPU had nothing to run.
    pub idletime: u64,
}

/// `xen_sysctl_getcpuinfo`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetCpuInfo {
    /// Room in `info`.
    pub max_cpus: u32,
    /// Padding.
    pub _pad0: u32,
    /// Array of [`CpuInfo`].
    pub info: u64,
    /// Entries written (out).
    pub nr_cpus: u32,
    /// Padding.
    pub _pad1: u32,
}

/// `xen_sysctl_availheap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AvailHeap {
    /// Smallest address width of interest; 0 for any.
    pub min_bitwidth: u32,
    /// Largest address width of interest; 0 for any.
    pub max_bitwidth: u32,
    /// Node of interest; -1 for all.
    pub node: i32,
    /// Padding.
    pub _pad: u32,
    /// Free bytes there (out).
    pub avail_bytes: u64,
}

/// `struct xen_sysctl_get_pmstat`, the part before the union.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetPmStat {
    /// `PMSTAT_*`.
    pub kind: u32,
    /// The CPU.
    pub cpuid: u32,
}

/// Category of [`GetPmStat::kind`].
pub const PMSTAT_CATEGORY_MASK: u32 = 0xf0;
/// Category: performance states.
pub const PMSTAT_PX: u32 = 0x10;
/// Category: idle states.
pub const PMSTAT_CX: u32 = 0x20;
/// Number of idle states.
pub const PMSTAT_GET_MAX_CX: u32 = PMSTAT_CX | 1;
/// Statistics of idle states.
pub const PMSTAT_GET_CXSTAT: u32 = PMSTAT_CX | 2;
/// Resets statistics of idle states.
pub const PMSTAT_RESET_CXSTAT: u32 = PMSTAT_CX | 3;

/// `struct xen_sysctl_get_pmstat` with the union's part about idle states.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetCxStat {
    /// What comes before the union.
    pub head: GetPmStat,
    /// Room in the arrays (in); number of states, running included (out).
    pub nr: u32,
    /// The state that the CPU was in last.
    pub last: u32,
    /// Nanoseconds in all states but the first.
    pub idle_time: u64,
    /// Array of 64-bit counts: how often each state was entered.
    pub triggers: u64,
    /// Array of 64-bit nanoseconds in each state.
    pub residencies: u64,
    /// Room in `pc` (in), entries used (out).
    pub nr_pc: u32,
    /// Room in `cc` (in), entries used (out).
    pub nr_cc: u32,
    /// Array of 64-bit times in the states of the package.
    pub pc: u64,
    /// Array of 64-bit times in the states of the core.
    pub cc: u64,
}

/// `struct xen_sysctl_pm_op`, the part before the union.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PmOp {
    /// `GET_CPUFREQ_PARA` and others.
    pub cmd: u32,
    /// The CPU.
    pub cpuid: u32,
}

/// `struct xen_sysctl_pm_op` with the union's part about the deepest idle state.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MaxCstate {
    /// What comes before the union. The CPU's number says what is meant: 0 the state, 1 the sub-state.
    pub head: PmOp,
    /// The state.
    pub max: u32,
    /// Padding.
    pub _pad: u32,
}

/// Deepest idle state: asked for.
pub const XEN_SYSCTL_PM_OP_GET_MAX_CSTATE: u32 = 0x22;
/// Deepest idle state: set.
pub const XEN_SYSCTL_PM_OP_SET_MAX_CSTATE: u32 = 0x23;
/// Turbo mode: on.
pub const XEN_SYSCTL_PM_OP_ENABLE_TURBO: u32 = 0x26;
/// Turbo mode: off.
pub const XEN_SYSCTL_PM_OP_DISABLE_TURBO: u32 = 0x27;
/// Any state, as deep as it goes.
pub const XEN_SYSCTL_CX_UNLIMITED: u32 = u32::MAX;

/// Category of [`PmOp::cmd`].
pub const PM_PARA_CATEGORY_MASK: u32 = 0xf0;
/// Category: frequencies.
pub const CPUFREQ_PARA: u32 = 0x10;

/// `xen_sysctl_cputopo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuTopo {
    /// The core.
    pub core: u32,
    /// The package.
    pub socket: u32,
    /// The node.
    pub node: u32,
}

/// `xen_sysctl_cputopoinfo`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuTopoInfo {
    /// Room in the array (in); entries written, or needed (out).
    pub num_cpus: u32,
    /// Padding.
    pub _pad: u32,
    /// Array of [`CpuTopo`].
    pub cputopo: u64,
}

/// `xen_sysctl_pcitopoinfo`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciTopoInfo {
    /// Entries of both arrays (in); entries done (out).
    pub num_devs: u32,
    /// Padding.
    pub _pad: u32,
    /// Array of [`crate::physdev::PciDevice`].
    pub devs: u64,
    /// Array of 32-bit node numbers.
    pub nodes: u64,
}

/// Nobody knows the node.
pub const XEN_INVALID_NODE_ID: u32 = u32::MAX;
/// Nobody knows the device.
pub const XEN_INVALID_DEV: u32 = XEN_INVALID_NODE_ID - 1;

/// Asks about trace buffers.
pub const XEN_SYSCTL_TBUFOP_GET_INFO: u32 = 0;
/// Sets which CPUs record.
pub const XEN_SYSCTL_TBUFOP_SET_CPU_MASK: u32 = 1;
/// Sets which events are recorded.
pub const XEN_SYSCTL_TBUFOP_SET_EVT_MASK: u32 = 2;
/// Makes the buffers.
pub const XEN_SYSCTL_TBUFOP_SET_SIZE: u32 = 3;
/// Begins to record.
pub const XEN_SYSCTL_TBUFOP_ENABLE: u32 = 4;
/// Ends recording.
pub const XEN_SYSCTL_TBUFOP_DISABLE: u32 = 5;

/// `xen_sysctl_cpu_hotplug`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuHotplug {
    /// The CPU.
    pub cpu: u32,
    /// `XEN_SYSCTL_CPU_HOTPLUG_*`.
    pub op: u32,
}

/// Brings a CPU up.
pub const XEN_SYSCTL_CPU_HOTPLUG_ONLINE: u32 = 0;
/// Takes a CPU down.
pub const XEN_SYSCTL_CPU_HOTPLUG_OFFLINE: u32 = 1;
/// Brings all second threads of cores up.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE: u32 = 2;
/// Takes all second threads of cores down.
pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE: u32 = 3;

/// `xen_sysctl_page_offline_op`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PageOfflineOp {
    /// `SYSCTL_PAGE_*`.
    pub cmd: u32,
    /// First frame.
    pub start: u32,
    /// Last frame.
    pub end: u32,
    /// Padding.
    pub _pad: u32,
    /// Array of 32-bit results.
    pub status: u64,
}

/// Takes frames out of use.
pub const SYSCTL_PAGE_OFFLINE: u32 = 1;
/// Takes frames into use again.
pub const SYSCTL_PAGE_ONLINE: u32 = 2;
/// Asks whether frames are in use.
pub const SYSCTL_QUERY_PAGE_OFFLINE: u32 = 3;

/// `xen_sysctl_tbuf_op`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct TbufOp {
    /// `XEN_SYSCTL_TBUFOP_*`.
    pub cmd: u32,
    /// Padding.
    pub _pad0: u32,
    /// Which CPUs.
    pub cpu_mask: crate::domctl::Bitmap,
    /// Which events, by class.
    pub evt_mask: u32,
    /// Padding.
    pub _pad1: u32,
    /// The frame that describes the buffers (out).
    pub buffer_mfn: u64,
    /// Pages of a CPU's buffer (in); bytes of the description (out).
    pub size: u32,
    /// Padding.
    pub _pad2: u32,
}

/// `xen_sysctl_meminfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemInfo {
    /// Bytes.
    pub memsize: u64,
    /// Of these, free.
    pub memfree: u64,
}

/// `xen_sysctl_numainfo`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct NumaInfo {
    /// Room in the arrays (in); entries written, or needed (out).
    pub num_nodes: u32,
    /// Padding.
    pub _pad: u32,
    /// Array of [`MemInfo`].
    pub meminfo: u64,
    /// Matrix of 32-bit distances.
    pub distance: u64,
}

/// Makes a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
/// Ends a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
/// Describes the first pool from a number on.
pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
/// Adds a CPU to a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
/// Takes a CPU out of a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
/// Moves a domain to a pool.
pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
/// CPUs in no pool.
pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
/// Any pool, or any CPU.
pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = 0xffff_ffff;

/// `xen_sysctl_cpupool_op`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpupoolOp {
    /// `XEN_SYSCTL_CPUPOOL_OP_*`.
    pub op: u32,
    /// The pool (in, out for CREATE and INFO).
    pub cpupool_id: u32,
    /// `XEN_SCHEDULER_*` (in for CREATE, out for INFO).
    pub sched_id: u32,
    /// The domain (in for MOVEDOMAIN).
    pub domid: u32,
    /// The CPU (in for ADDCPU and RMCPU).
    pub cpu: u32,
    /// Number of domains in the pool (out for INFO).
    pub n_dom: u32,
    /// CPUs (out for INFO and FREEINFO).
    pub cpumap: Bitmap,
}

/// Sets parameters of a scheduler.
pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
/// Reads parameters of a scheduler.
pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;

/// `struct xen_sysctl_scheduler_op` with the union's `xen_sysctl_credit2_schedule`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SchedulerOp {
    /// The pool whose scheduler it is.
    pub cpupool_id: u32,
    /// `XEN_SCHEDULER_*`: must be the pool's.
    pub sched_id: u32,
    /// `XEN_SYSCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// Padding.
    pub _pad: u32,
    /// Least time (µs) between two preemptions of a vCPU.
    pub ratelimit_us: u32,
    /// Padding.
    pub _pad1: u32,
}

/// `xen_sysctl_cpu_levelling_caps`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuLevellingCaps {
    /// Registers of CPUID that the processor can mask.
    pub caps: u32,
}

/// Featureset of the processor as it is.
pub const XEN_SYSCTL_CPU_FEATURESET_RAW: u32 = 0;
/// Featureset that the hypervisor uses.
pub const XEN_SYSCTL_CPU_FEATURESET_HOST: u32 = 1;
/// Default featureset of PV guests.
pub const XEN_SYSCTL_CPU_FEATURESET_PV: u32 = 2;
/// Default featureset of HVM guests.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM: u32 = 3;
/// Largest featureset of PV guests.
pub const XEN_SYSCTL_CPU_FEATURESET_PV_MAX: u32 = 4;
/// Largest featureset of HVM guests.
pub const XEN_SYSCTL_CPU_FEATURESET_HVM_MAX: u32 = 5;

/// `xen_sysctl_cpu_featureset`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuFeatureset {
    /// `XEN_SYSCTL_CPU_FEATURESET_*`.
    pub index: u32,
    /// Room in `features` (in), words written or needed (out).
    pub nr_features: u32,
    /// Array of 32-bit words.
    pub features: u64,
}

/// Policy of the processor as it is.
pub const XEN_SYSCTL_CPU_POLICY_RAW: u32 = 0;
/// Policy that the hypervisor uses.
pub const XEN_SYSCTL_CPU_POLICY_HOST: u32 = 1;
/// Largest policy of PV guests.
pub const XEN_SYSCTL_CPU_POLICY_PV_MAX: u32 = 2;
/// Largest policy of HVM guests.
pub const XEN_SYSCTL_CPU_POLICY_HVM_MAX: u32 = 3;
/// Default policy of PV guests.
pub const XEN_SYSCTL_CPU_POLICY_PV_DEFAULT: u32 = 4;
/// Default policy of HVM guests.
pub const XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT: u32 = 5;

/// `xen_sysctl_cpu_policy`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuPolicy {
    /// `XEN_SYSCTL_CPU_POLICY_*`.
    pub index: u32,
    /// Room in `leaves` (in), entries written or needed (out).
    pub nr_leaves: u32,
    /// Room in `msrs` (in), entries written or needed (out).
    pub nr_msrs: u32,
    /// Must be zero.
    pub rsvd: u32,
    /// Array of [`crate::domctl::CpuidLeaf`].
    pub leaves: u64,
    /// Array of [`crate::domctl::MsrEntry`].
    pub msrs: u64,
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Sysctl>() == 136 && offset_of!(Sysctl, payload) == 8);
    assert!(size_of::<ReadConsole>() == 24 && offset_of!(ReadConsole, buffer) == 8);
    assert!(size_of::<PhysInfo>() == 112 && offset_of!(PhysInfo, total_pages) == 40);
    assert!(offset_of!(PhysInfo, hw_cap) == 80);
    assert!(size_of::<GetDomainInfoList>() == 24 && offset_of!(GetDomainInfoList, buffer) == 8);
    assert!(size_of::<DebugKeys>() == 16);
    assert!(size_of::<GetCpuInfo>() == 24);
    assert!(size_of::<AvailHeap>() == 24);
    assert!(size_of::<CpuTopo>() == 12);
    assert!(size_of::<CpuTopoInfo>() == 16);
    assert!(size_of::<NumaInfo>() == 24);
    assert!(size_of::<CpupoolOp>() == 40 && offset_of!(CpupoolOp, cpumap) == 24);
    assert!(size_of::<SchedulerOp>() == 24 && offset_of!(SchedulerOp, ratelimit_us) == 16);
    assert!(size_of::<CpuFeatureset>() == 16);
    assert!(size_of::<CpuPolicy>() == 32);
};
