//! `memory.h`: memory reservations, the guest-physical map, resources. Frame numbers and handles are 64 bits.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of the command below the first extent of a continued operation.
pub const MEMOP_EXTENT_SHIFT: u32 = 6;

/// `XENMEM_increase_reservation`.
pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
/// `XENMEM_decrease_reservation`.
pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
/// `XENMEM_maximum_ram_page`.
pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
/// `XENMEM_current_reservation`.
pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
/// `XENMEM_maximum_reservation`.
pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
/// `XENMEM_machphys_mfn_list`.
pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
/// `XENMEM_populate_physmap`.
pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
/// `XENMEM_add_to_physmap`.
pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
/// `XENMEM_memory_map`.
pub const XENMEM_MEMORY_MAP: u32 = 9;
/// `XENMEM_machine_memory_map`.
pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
/// `XENMEM_exchange`.
pub const XENMEM_EXCHANGE: u32 = 11;
/// `XENMEM_machphys_mapping`.
pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
/// `XENMEM_set_memory_map`.
pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
/// `XENMEM_maximum_gpfn`.
pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
/// `XENMEM_remove_from_physmap`.
pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
/// `XENMEM_set_pod_target`.
pub const XENMEM_SET_POD_TARGET: u32 = 16;
/// `XENMEM_get_pod_target`.
pub const XENMEM_GET_POD_TARGET: u32 = 17;
/// `XENMEM_get_sharing_freed_pages`.
pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
/// `XENMEM_get_sharing_shared_pages`.
pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
/// `XENMEM_paging_op`.
pub const XENMEM_PAGING_OP: u32 = 20;
/// `XENMEM_access_op`.
pub const XENMEM_ACCESS_OP: u32 = 21;
/// `XENMEM_sharing_op`.
pub const XENMEM_SHARING_OP: u32 = 22;
/// `XENMEM_add_to_physmap_batch`.
pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
/// `XENMEM_claim_pages`.
pub const XENMEM_CLAIM_PAGES: u32 = 24;
/// `XENMEM_machphys_compat_mfn_list`.
pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
/// `XENMEM_get_vnumainfo`.
pub const XENMEM_GET_VNUMAINFO: u32 = 26;
/// `XENMEM_reserved_device_memory_map`.
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
/// `XENMEM_acquire_resource`.
pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

/// The bits of [`MemoryReservation::mem_flags`] that limit machine addresses (0: no limit).
pub const XENMEMF_ADDRESS_BITS: u32 = 0xff;
/// Where the NUMA node, plus one, starts in [`MemoryReservation::mem_flags`]; 8 bits.
pub const XENMEMF_NODE_SHIFT: u32 = 8;
/// Make entries that are populated on demand.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// No node but the one named.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// The node is a virtual one.
pub const XENMEMF_VNODE: u32 = 1 << 18;

/// `xen_memory_reservation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryReservation {
    /// In: handle of the first frame number of each extent.
    pub extent_start: u64,
    /// In: number of extents.
    pub nr_extents: u64,
    /// In: log2 of the frames of each extent.
    pub extent_order: u32,
    /// In: `XENMEMF_*`.
    pub mem_flags: u32,
    /// In: the domain.
    pub domid: u16,
    /// Ignored.
    pub _pad: [u16; 3],
}

const _: () = assert!(size_of::<MemoryReservation>() == 32 && offset_of!(MemoryReservation, domid) == 24);

/// `xen_memory_domain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryDomain {
    /// In: the domain asked about.
    pub domid: u16,
}

/// The shared information page.
pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
/// A frame of the grant table.
pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
/// Another frame of the domain.
pub const XENMAPSPACE_GMFN: u32 = 2;
/// A range of frames of the domain.
pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
/// A frame of another domain (in batches only).
pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
/// Device memory (Arm only).
pub const XENMAPSPACE_DEV_MMIO: u32 = 5;

/// In an index into [`XENMAPSPACE_GRANT_TABLE`]: a status frame of a version 2 table.
pub const XENMAPIDX_GRANT_TABLE_STATUS: u64 = 0x8000_0000;

/// `xen_add_to_physmap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmap {
    /// In: the domain whose map is changed.
    pub domid: u16,
    /// In: number of frames of a range.
    pub size: u16,
    /// In: `XENMAPSPACE_*`.
    pub space: u32,
    /// In: what of the space.
    pub idx: u64,
    /// In: where to.
    pub gpfn: u64,
}

const _: () = assert!(size_of::<AddToPhysmap>() == 24 && offset_of!(AddToPhysmap, idx) == 8);

/// `xen_add_to_physmap_batch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AddToPhysmapBatch {
    /// In: the domain whose map is changed.
    pub domid: u16,
    /// In: `XENMAPSPACE_*`.
    pub space: u16,
    /// In: number of entries.
    pub size: u16,
    /// In: the domain whose frames are mapped; 0 in other spaces.
    pub foreign_domid: u16,
    /// In: handle of what of the space (64 bits each).
    pub idxs: u64,
    /// In: handle of where to (64 bits each).
    pub gpfns: u64,
    /// Out: handle of error numbers (32 bits each).
    pub errs: u64,
}

const _: () = assert!(size_of::<AddToPhysmapBatch>() == 32 && offset_of!(AddToPhysmapBatch, idxs) == 8);

/// `xen_remove_from_physmap`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoveFromPhysmap {
    /// In: the domain whose map is changed.
    pub domid: u16,
    /// Ignored.
    pub _pad: [u16; 3],
    /// In: the frame.
    pub gpfn: u64,
}

const _: () = assert!(size_of::<RemoveFromPhysmap>() == 16);

/// `xen_memory_map`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MemoryMap {
    /// In: room in the buffer. Out: entries stored.
    pub nr_entries: u32,
    /// Ignored.
    pub _pad: u32,
    /// In: handle of [`E820Entry`]s.
    pub buffer: u64,
}

const _: () = assert!(size_of::<MemoryMap>() == 16);

/// `xen_foreign_memory_map`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ForeignMemoryMap {
    /// In: the domain.
    pub domid: u16,
    /// Ignored.
    pub _pad: [u16; 3],
    /// In: its map.
    pub map: MemoryMap,
}

const _: () = assert!(size_of::<ForeignMemoryMap>() == 24 && offset_of!(ForeignMemoryMap, map) == 8);

/// One range of a memory map, as the BIOS's INT 0x15 function 0xe820 gives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct E820Entry {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub size: u64,
    /// 1 RAM, 2 reserved, 3 ACPI, 4 NVS, 5 unusable.
    pub kind: u32,
}

const _: () = assert!(size_of::<E820Entry>() == 20);

/// `xen_pod_target`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PodTarget {
    /// In: wanted frames.
    pub target_pages: u64,
    /// Out: frames the domain has.
    pub tot_pages: u64,
    /// Out: frames in the cache.
    pub pod_cache_pages: u64,
    /// Out: entries not populated.
    pub pod_entries: u64,
    /// In: the domain.
    pub domid: u16,
    /// Ignored.
    pub _pad: [u16; 3],
}

const _: () = assert!(size_of::<PodTarget>() == 40);

/// `xen_reserved_device_memory_map`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ReservedDeviceMemoryMap {
    /// In: [`XENMEM_RDM_ALL`] or 0.
    pub flags: u32,
    /// In: room. Out: entries there are.
    pub nr_entries: u32,
    /// Handle of the entries.
    pub buffer: u64,
    /// In: the PCI device (segment, bus, devfn).
    pub pci: [u8; 4],
    /// Ignored.
    pub _pad: u32,
}

const _: () = assert!(size_of::<ReservedDeviceMemoryMap>() == 24);

/// All regions, not those of one device.
pub const XENMEM_RDM_ALL: u32 = 1;

/// Pages of an ioreq server.
pub const XENMEM_RESOURCE_IOREQ_SERVER: u16 = 0;
/// Frames of the grant table.
pub const XENMEM_RESOURCE_GRANT_TABLE: u16 = 1;
/// Buffers of processor trace.
pub const XENMEM_RESOURCE_VMTRACE_BUF: u16 = 2;
/// `id` for the shared frames of [`XENMEM_RESOURCE_GRANT_TABLE`].
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
/// `id` for the status frames of [`XENMEM_RESOURCE_GRANT_TABLE`].
pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;

/// `xen_mem_acquire_resource`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AcquireResource {
    /// In: whose resource.
    pub domid: u16,
    /// In: `XENMEM_RESOURCE_*`.
    pub kind: u16,
    /// In: which one.
    pub id: u32,
    /// In: number of frames. Out, if `frame_list` is 0: how many there are.
    pub nr_frames: u32,
    /// In: zero.
    pub pad: u32,
    /// In: index of the first frame.
    pub frame: u64,
    /// In: handle of the caller's frame numbers to map them at.
    pub frame_list: u64,
}

const _: () = assert!(size_of::<AcquireResource>() == 32 && offset_of!(AcquireResource, frame) == 16);
