//! `xen.h` and `arch-x86/xen.h`: reserved domain numbers, virtual interrupts, `vm_assist`, multicalls and the pages that
//! the hypervisor shares with a guest, in the layout of 64-bit guests.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The first reserved domain number: real domains are below.
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// The calling domain itself.
pub const DOMID_SELF: u16 = 0x7ff0;
/// Owner of memory-mapped I/O.
pub const DOMID_IO: u16 = 0x7ff1;
/// Owner of the hypervisor's shared frames.
pub const DOMID_XEN: u16 = 0x7ff2;
/// Owner of frames shared copy-on-write.
pub const DOMID_COW: u16 = 0x7ff3;
/// No domain.
pub const DOMID_INVALID: u16 = 0x7ff4;
/// The idle domain.
pub const DOMID_IDLE: u16 = 0x7fff;

/// Timer of a vCPU (per vCPU).
pub const VIRQ_TIMER: u32 = 0;
/// Request to dump state (per vCPU).
pub const VIRQ_DEBUG: u32 = 1;
/// Bytes arrived on the console (global, dom0).
pub const VIRQ_CONSOLE: u32 = 2;
/// A domain died or shut down (global, dom0).
pub const VIRQ_DOM_EXC: u32 = 3;
/// Trace buffers hold records (global, dom0).
pub const VIRQ_TBUF: u32 = 4;
/// A domain paused for debugging (global, dom0).
pub const VIRQ_DEBUGGER: u32 = 6;
/// Profiling samples (per vCPU).
pub const VIRQ_XENOPROF: u32 = 7;
/// New text in the console ring (global, dom0).
pub const VIRQ_CON_RING: u32 = 8;
/// A physical CPU came or went (global, dom0).
pub const VIRQ_PCPU_STATE: u32 = 9;
/// Memory event (global, dom0).
pub const VIRQ_MEM_EVENT: u32 = 10;
/// Argo message (global).
pub const VIRQ_ARGO: u32 = 11;
/// Memory runs low (global, dom0).
pub const VIRQ_ENOMEM: u32 = 12;
/// Performance monitoring (per vCPU).
pub const VIRQ_XENPMU: u32 = 13;
/// First of the architecture's eight.
pub const VIRQ_ARCH_0: u32 = 16;
/// A machine check was logged (global, dom0; x86).
pub const VIRQ_MCA: u32 = VIRQ_ARCH_0;
/// Number of virtual interrupts.
pub const NR_VIRQS: u32 = 24;

/// `CONSOLEIO_write`.
pub const CONSOLEIO_WRITE: u32 = 0;
/// `CONSOLEIO_read`.
pub const CONSOLEIO_READ: u32 = 1;

/// `VMASST_CMD_enable`.
pub const VMASST_CMD_ENABLE: u32 = 0;
/// `VMASST_CMD_disable`.
pub const VMASST_CMD_DISABLE: u32 = 1;
/// Run-state areas carry the update flag.
pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;

/// vCPUs that have their `vcpu_info` in the shared information page.
pub const LEGACY_MAX_VCPUS: u32 = 32;

/// `vcpu_time_info`: relates the TSC to system time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuTimeInfo {
    /// Odd while the hypervisor updates the rest.
    pub version: u32,
    /// Zero.
    pub pad0: u32,
    /// TSC at `system_time`.
    pub tsc_timestamp: u64,
    /// Nanoseconds since boot.
    pub system_time: u64,
    /// 32.32 fixed-point nanoseconds per shifted tick.
    pub tsc_to_system_mul: u32,
    /// Left shift of ticks; negative: right shift.
    pub tsc_shift: i8,
    /// `XEN_PVCLOCK_*`.
    pub flags: u8,
    /// Zero.
    pub pad1: [u8; 2],
}

/// The TSC is the same on all vCPUs (a flag of [`VcpuTimeInfo`]).
pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
/// The guest was stopped (a flag of [`VcpuTimeInfo`]).
pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

/// `arch_vcpu_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchVcpuInfo {
    /// Fault address (PV guests).
    pub cr2: u64,
    /// Zero.
    pub pad: u64,
}

/// `vcpu_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VcpuInfo {
    /// Not 0: an event is pending for this vCPU.
    pub evtchn_upcall_pending: u8,
    /// Not 0: upcalls are masked (PV guests).
    pub evtchn_upcall_mask: u8,
    /// Zero.
    pub _pad: [u8; 6],
    /// A bit per word of [`SharedInfo::evtchn_pending`] with news.
    pub evtchn_pending_sel: u64,
    /// The architecture's part.
    pub arch: ArchVcpuInfo,
    /// The clock.
    pub time: VcpuTimeInfo,
}

/// `arch_shared_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ArchSharedInfo {
    /// Size of the p2m (PV guests).
    pub max_pfn: u64,
    /// Frame of the p2m's list of lists (PV guests).
    pub pfn_to_mfn_frame_list_list: u64,
    /// Why an NMI was raised.
    pub nmi_reason: u64,
    /// Where the p2m is mapped (PV guests).
    pub p2m_cr3: u64,
    /// Where the p2m is mapped (PV guests).
    pub p2m_vaddr: u64,
    /// Odd while the p2m changes (PV guests).
    pub p2m_generation: u64,
}

/// `shared_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SharedInfo {
    /// The first 32 vCPUs' information.
    pub vcpu_info: [VcpuInfo; LEGACY_MAX_VCPUS as usize],
    /// Pending events, 2-level ABI.
    pub evtchn_pending: [u64; 64],
    /// Masked events, 2-level ABI.
    pub evtchn_mask: [u64; 64],
    /// Odd while the wall clock is updated.
    pub wc_version: u32,
    /// Wall clock at boot: seconds since 1970, low half.
    pub wc_sec: u32,
    /// Wall clock at boot: nanoseconds.
    pub wc_nsec: u32,
    /// Wall clock at boot: seconds since 1970, high half.
    pub wc_sec_hi: u32,
    /// The architecture's part.
    pub arch: ArchSharedInfo,
}

/// `multicall_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Its result (out).
    pub result: u64,
    /// Its arguments.
    pub args: [u64; 6],
}

/// Where fields of [`VcpuInfo`] are, in bytes.
pub mod vcpu_info {
    use super::VcpuInfo;
    use core::mem::offset_of;

    /// Bytes of one, for 64-bit and 32-bit guests alike.
    pub const SIZE: u64 = size_of::<VcpuInfo>() as u64;
    /// `evtchn_upcall_pending`, one byte.
    pub const UPCALL_PENDING: u64 = offset_of!(VcpuInfo, evtchn_upcall_pending) as u64;
    /// `evtchn_upcall_mask`, one byte.
    pub const UPCALL_MASK: u64 = offset_of!(VcpuInfo, evtchn_upcall_mask) as u64;
    /// `evtchn_pending_sel`, 8 bytes.
    pub const PENDING_SEL: u64 = offset_of!(VcpuInfo, evtchn_pending_sel) as u64;
    /// `evtchn_pending_sel` of a 32-bit guest, 4 bytes.
    pub const COMPAT_PENDING_SEL: u64 = 4;
    /// `time`, for 64-bit and 32-bit guests alike.
    pub const TIME: u64 = offset_of!(VcpuInfo, time) as u64;
}

/// Where fields of [`SharedInfo`] are, in bytes.
pub mod shared_info {
    use super::SharedInfo;
    use core::mem::offset_of;

    /// `vcpu_info[0]`.
    pub const VCPU_INFO: u64 = offset_of!(SharedInfo, vcpu_info) as u64;
    /// `evtchn_pending`: 512 bytes (128 bytes at the same place for 32-bit guests).
    pub const EVTCHN_PENDING: u64 = offset_of!(SharedInfo, evtchn_pending) as u64;
    /// `evtchn_mask`: 512 bytes.
    pub const EVTCHN_MASK: u64 = offset_of!(SharedInfo, evtchn_mask) as u64;
    /// `evtchn_mask` of a 32-bit guest: 128 bytes.
    pub const COMPAT_EVTCHN_MASK: u64 = EVTCHN_PENDING + 128;
    /// `wc_version` of a 32-bit guest; `wc_sec` and `wc_nsec` follow, 4 bytes each.
    pub const COMPAT_WC_VERSION: u64 = COMPAT_EVTCHN_MASK + 128;
    /// `arch.wc_sec_hi` of a 32-bit guest.
    pub const COMPAT_WC_SEC_HI: u64 = COMPAT_WC_VERSION + 36;
    /// `wc_version`; `wc_sec`, `wc_nsec` and `wc_sec_hi` follow, 4 bytes each.
    pub const WC_VERSION: u64 = offset_of!(SharedInfo, wc_version) as u64;
    /// `wc_sec`.
    pub const WC_SEC: u64 = offset_of!(SharedInfo, wc_sec) as u64;
    /// `wc_nsec`.
    pub const WC_NSEC: u64 = offset_of!(SharedInfo, wc_nsec) as u64;
    /// `wc_sec_hi`.
    pub const WC_SEC_HI: u64 = offset_of!(SharedInfo, wc_sec_hi) as u64;
    /// `arch`.
    pub const ARCH: u64 = offset_of!(SharedInfo, arch) as u64;
}

const _: () = {
    assert!(size_of::<VcpuTimeInfo>() == 32);
    assert!(size_of::<ArchVcpuInfo>() == 16);
    assert!(size_of::<VcpuInfo>() == 64);
    assert!(size_of::<ArchSharedInfo>() == 48);
    assert!(size_of::<SharedInfo>() == 3136);
    assert!(size_of::<MulticallEntry>() == 64);
    assert!(vcpu_info::PENDING_SEL == 8 && vcpu_info::TIME == 32);
    assert!(shared_info::EVTCHN_PENDING == 2048 && shared_info::EVTCHN_MASK == 2560);
    assert!(shared_info::WC_VERSION == 3072 && shared_info::ARCH == 3088);
};
