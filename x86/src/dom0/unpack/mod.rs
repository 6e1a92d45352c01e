//! Unpacking of compressed kernels: xz, zstd, gzip and lz4 into one flat buffer given by the caller.
//!
//! The buffer must have room for the whole result (whose size the packed kernel states), since it serves as the
//! dictionary too: so the data is written once and never moved by a decoder. Heap is only used for decoder state, at
//! most about 300 KiB (xz; zstd needs 150 KiB, gzip 11 KiB, lz4 none). Nothing else is touched, and damaged input gives an
//! error.
//!
//! What it costs, for Debian 12's kernel of 66 MB (counted with callgrind on x86-64, checksums included): xz 2.2 billion
//! instructions (8.1 MB packed), zstd -22 1.1 (9.7 MB), gzip 0.7 (11.3 MB), lz4 0.2 (14.8 MB). Nearly all of xz's are for
//! 75 million binary decisions, which depend on each other.

use core::fmt;
use crc32::Crc32;

mod bcj;
mod copy;
pub mod crc32;
mod gzip;
mod lz4;
mod lzma;
#[cfg(test)]
pub(in crate::dom0) mod tests;
mod xz;
mod zstd;

/// How a payload is compressed, told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed: an ELF file.
    None,
    /// gzip (DEFLATE).
    Gzip,
    /// xz (LZMA2).
    Xz,
    /// lz4, legacy format.
    Lz4,
    /// Zstandard.
    Zstd,
    /// bzip2 (recognised to be refused by name).
    Bzip2,
    /// LZMA alone (recognised to be refused by name).
    Lzma,
    /// LZO (recognised to be refused by name).
    Lzo,
}

impl Compression {
    /// Whether [`unpack`] knows the format.
    #[must_use]
    pub fn is_supported(self) -> bool {
        !matches!(self, Compression::Bzip2 | Compression::Lzma | Compression::Lzo)
    }

    /// Tells the format of data that begins with `bytes`.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Compression> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (&[0x1f, 0x8b], Compression::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Compression::Xz),
            (&[0x02, 0x21, 0x4c, 0x18], Compression::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Compression::Zstd),
            (b"BZh", Compression::Bzip2),
            (&[0x5d, 0, 0], Compression::Lzma),
            (&[0x89, b'L', b'Z', b'O'], Compression::Lzo),
        ];
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, c)| *c)
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Xz => "xz",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
            Compression::Bzip2 => "bzip2",
            Compression::Lzma => "lzma",
            Compression::Lzo => "lzo",
        })
    }
}

/// Why data could not be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnpackError {
    /// The data ends before it is complete.
    Truncated,
    /// The data contradicts its format.
    Corrupt(&'static str),
    /// What was unpacked (the part is named) does not have the checksum that the data states.
    Checksum(&'static str),
    /// The data is larger than it states to be, or than the buffer.
    TooLarge,
    /// A form of the format that is not supported.
    Unsupported(&'static str),
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnpackError::Truncated => f.write_str("the compressed data ends too early"),
            UnpackError::Corrupt(what) => write!(f, "the compressed data is damaged: {what}"),
            UnpackError::Checksum(part) => write!(f, "the compressed data is damaged: wrong checksum of the {part}"),
            UnpackError::TooLarge => f.write_str("the data is larger than the size that the kernel states"),
            UnpackError::Unsupported(what) => f.write_str(what),
        }
    }
}

/// Unpacks `input` to the front of `out` and returns the number of bytes written. `out` should be at least 16 bytes
/// longer than the result (the fast path of match copying needs the room); what lies behind the result is undefined.
/// `crc32` checks the result.
///
/// # Errors
/// See [`UnpackError`]. `out` then holds nothing useful.
pub fn unpack(compression: Compression, input: &[u8], out: &mut [u8], crc32: Crc32) -> Result<usize, UnpackError> {
    match compression {
        Compression::None => {
            out.get_mut(..input.len()).ok_or(UnpackError::TooLarge)?.copy_from_slice(input);
            Ok(input.len())
        }
        Compression::Gzip => gzip::unpack(input, out, crc32),
        Compression::Xz => xz::unpack(input, out, crc32),
        Compression::Lz4 => lz4::unpack(input, out),
        Compression::Zstd => zstd::unpack(input, out),
        Compression::Bzip2 | Compression::Lzma | Compression::Lzo => {
            Err(UnpackError::Unsupported("the format cannot be unpacked"))
        }
    }
}
