//! The hypervisor's file system (`public/hypfs.h`).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The interface's version.
pub const XEN_HYPFS_VERSION: u64 = 1;
/// Longest path, its NUL included.
pub const XEN_HYPFS_MAX_PATHLEN: u32 = 1024;

/// The interface's version is asked for.
pub const XEN_HYPFS_OP_GET_VERSION: u32 = 0;
/// An entry is read.
pub const XEN_HYPFS_OP_READ: u32 = 1;
/// An entry is written.
pub const XEN_HYPFS_OP_WRITE_CONTENTS: u32 = 2;

/// A directory.
pub const XEN_HYPFS_TYPE_DIR: u8 = 0;
/// Bytes.
pub const XEN_HYPFS_TYPE_BLOB: u8 = 1;
/// A text with its NUL.
pub const XEN_HYPFS_TYPE_STRING: u8 = 2;
/// A number of 1, 2, 4 or 8 bytes.
pub const XEN_HYPFS_TYPE_UINT: u8 = 3;
/// A number with a sign.
pub const XEN_HYPFS_TYPE_INT: u8 = 4;
/// 0 or 1.
pub const XEN_HYPFS_TYPE_BOOL: u8 = 5;

/// As it is.
pub const XEN_HYPFS_ENC_PLAIN: u8 = 0;
/// Compressed.
pub const XEN_HYPFS_ENC_GZIP: u8 = 1;

/// `struct xen_hypfs_direntry`: what an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirEntry {
    /// `XEN_HYPFS_TYPE_*`.
    pub kind: u8,
    /// `XEN_HYPFS_ENC_*`.
    pub encoding: u8,
    /// 0.
    pub pad: u16,
    /// Bytes of its contents.
    pub content_len: u32,
    /// Most bytes that can be written; 0 if none can.
    pub max_write_len: u32,
}

/// `struct xen_hypfs_dirlistentry` up to the name, which follows at once and ends with a NUL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DirListEntry {
    /// What it is.
    pub e: DirEntry,
    /// Bytes from here to the next one; 0 in the last.
    pub off_next: u16,
    /// The name's first two bytes, so that the structure has no padding.
    pub name: [u8; 2],
}

const _: () = assert!(size_of::<DirEntry>() == 12 && size_of::<DirListEntry>() == 16);
/// Where the name begins in [`DirListEntry`].
pub const NAME_OFFSET: usize = core::mem::offset_of!(DirListEntry, name);
