//! `grant_table.h`: the shared tables of versions 1 and 2 and the operations on them.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `GNTTABOP_map_grant_ref`.
pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
/// `GNTTABOP_unmap_grant_ref`.
pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
/// `GNTTABOP_setup_table`.
pub const GNTTABOP_SETUP_TABLE: u32 = 2;
/// `GNTTABOP_dump_table`.
pub const GNTTABOP_DUMP_TABLE: u32 = 3;
/// `GNTTABOP_transfer`.
pub const GNTTABOP_TRANSFER: u32 = 4;
/// `GNTTABOP_copy`.
pub const GNTTABOP_COPY: u32 = 5;
/// `GNTTABOP_query_size`.
pub const GNTTABOP_QUERY_SIZE: u32 = 6;
/// `GNTTABOP_unmap_and_replace`.
pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
/// `GNTTABOP_set_version`.
pub const GNTTABOP_SET_VERSION: u32 = 8;
/// `GNTTABOP_get_status_frames`.
pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
/// `GNTTABOP_get_version`.
pub const GNTTABOP_GET_VERSION: u32 = 10;
/// `GNTTABOP_swap_grant_ref`.
pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
/// `GNTTABOP_cache_flush`.
pub const GNTTABOP_CACHE_FLUSH: u32 = 12;

/// The bits of an entry's flags that say what it is.
pub const GTF_TYPE_MASK: u16 = 3;
/// Grants nothing.
pub const GTF_INVALID: u16 = 0;
/// Grants access to a frame.
pub const GTF_PERMIT_ACCESS: u16 = 1;
/// Accepts the transfer of a frame (PV guests).
pub const GTF_ACCEPT_TRANSFER: u16 = 2;
/// Grants what another domain granted to the granter (version 2).
pub const GTF_TRANSITIVE: u16 = 3;
/// Read access only.
pub const GTF_READONLY: u16 = 1 << 2;
/// Set while the grant is in use.
pub const GTF_READING: u16 = 1 << 3;
/// Set while the grant is in use for writing.
pub const GTF_WRITING: u16 = 1 << 4;
/// Grants a part of a frame, for copying only (version 2).
pub const GTF_SUB_PAGE: u16 = 1 << 8;

/// Entries that survive a change of version.
pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;

/// Bytes of a version 1 entry: flags (16 bits), domain (16), frame (32).
pub const GRANT_ENTRY_V1_SIZE: u64 = 8;
/// Bytes of a version 2 entry: flags (16 bits), domain (16), then by type: padding (32), frame (64); or offset (16),
/// length (16), frame (64); or transitive domain (16), padding (16), reference (32), padding (32).
pub const GRANT_ENTRY_V2_SIZE: u64 = 16;
/// Bytes of a version 2 status word.
pub const GRANT_STATUS_SIZE: u64 = 2;

/// Map for devices.
pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
/// Map for the processor.
pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
/// Map read-only.
pub const GNTMAP_READONLY: u32 = 1 << 2;
/// Map for user mode too (PV guests).
pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
/// The address is that of a page-table entry (PV guests).
pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;

/// The source of a copy is a grant.
pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
/// The destination of a copy is a grant.
pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;

/// Done.
pub const GNTST_OKAY: i16 = 0;
/// Some error.
pub const GNTST_GENERAL_ERROR: i16 = -1;
/// No such domain.
pub const GNTST_BAD_DOMAIN: i16 = -2;
/// No such grant reference.
pub const GNTST_BAD_GNTREF: i16 = -3;
/// No such handle.
pub const GNTST_BAD_HANDLE: i16 = -4;
/// Nothing can be mapped at this address.
pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
/// Not the address of a device mapping.
pub const GNTST_BAD_DEV_ADDR: i16 = -6;
/// No space in the IOMMU.
pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
/// Not permitted.
pub const GNTST_PERMISSION_DENIED: i16 = -8;
/// The page is not fit.
pub const GNTST_BAD_PAGE: i16 = -9;
/// A copy crosses the end of a page.
pub const GNTST_BAD_COPY_ARG: i16 = -10;
/// The address is too large.
pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
/// Try again.
pub const GNTST_EAGAIN: i16 = -12;
/// Out of handles.
pub const GNTST_NO_SPACE: i16 = -13;

/// `gnttab_map_grant_ref`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct MapGrantRef {
    /// In: where to; a guest-physical address for translated callers.
    pub host_addr: u64,
    /// In: `GNTMAP_*`.
    pub flags: u32,
    /// In: the grant.
    pub gref: u32,
    /// In: the domain that granted it.
    pub dom: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Out: what names the mapping.
    pub handle: u32,
    /// Out: the address for devices, if mapped for them.
    pub dev_bus_addr: u64,
}

const _: () = assert!(size_of::<MapGrantRef>() == 32 && offset_of!(MapGrantRef, handle) == 20);

/// `gnttab_unmap_grant_ref`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct UnmapGrantRef {
    /// In: where it is mapped; 0 if not to be unmapped.
    pub host_addr: u64,
    /// In: its address for devices; 0 if not to be unmapped.
    pub dev_bus_addr: u64,
    /// In: what names the mapping.
    pub handle: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Ignored.
    pub _pad: u16,
}

const _: () = assert!(size_of::<UnmapGrantRef>() == 24);

/// `gnttab_setup_table`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetupTable {
    /// In: the domain.
    pub dom: u16,
    /// Ignored.
    pub _pad: u16,
    /// In: frames to have at least.
    pub nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Ignored.
    pub _pad2: [u16; 3],
    /// In: handle of the frame numbers to be written (64 bits each).
    pub frame_list: u64,
}

const _: () = assert!(size_of::<SetupTable>() == 24 && offset_of!(SetupTable, frame_list) == 16);

/// One side of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CopyPtr {
    /// In: a frame number, or a grant reference in the low half.
    pub frame: u64,
    /// In: the domain.
    pub domid: u16,
    /// In: offset in the frame.
    pub offset: u16,
    /// Ignored.
    pub _pad: u32,
}

/// `gnttab_copy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrantCopy {
    /// In: from where.
    pub source: CopyPtr,
    /// In: where to.
    pub dest: CopyPtr,
    /// In: bytes.
    pub len: u16,
    /// In: `GNTCOPY_*`.
    pub flags: u16,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Ignored.
    pub _pad: u16,
}

const _: () = assert!(size_of::<GrantCopy>() == 40 && offset_of!(GrantCopy, status) == 36);

/// `gnttab_query_size`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct QuerySize {
    /// In: the domain.
    pub dom: u16,
    /// Ignored.
    pub _pad: u16,
    /// Out: frames of its table.
    pub nr_frames: u32,
    /// Out: frames it may have.
    pub max_nr_frames: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Ignored.
    pub _pad2: u16,
}

const _: () = assert!(size_of::<QuerySize>() == 16);

/// `gnttab_set_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetVersion {
    /// In: 1 or 2. Out: the version now.
    pub version: u32,
}

/// `gnttab_get_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetVersion {
    /// In: the domain.
    pub dom: u16,
    /// Ignored.
    pub pad: u16,
    /// Out: the version of its table.
    pub version: u32,
}

/// `gnttab_swap_grant_ref`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SwapGrantRef {
    /// In: one entry.
    pub ref_a: u32,
    /// In: the other.
    pub ref_b: u32,
    /// Out: `GNTST_*`.
    pub status: i16,
    /// Ignored.
    pub _pad: u16,
}

const _: () = assert!(size_of::<SwapGrantRef>() == 12);
