//! gzip members: the header of RFC 1952 around DEFLATE data, which the `miniz_oxide` crate decodes straight into the
//! output. Touches nothing but its arguments and about 11 KiB of heap.

use super::UnpackError;
use super::crc32::Crc32;
use alloc::boxed::Box;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

const HAS_HEADER_CRC: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;

/// Unpacks the first member in `input` to the front of `out` and returns the number of bytes.
pub(super) fn unpack(input: &[u8], out: &mut [u8], crc32: Crc32) -> Result<usize, UnpackError> {
    let mut rest = input;
    let [0x1f, 0x8b, method, flags, ..] = *rest.split_off(..10).ok_or(UnpackError::Truncated)? else {
        return Err(UnpackError::Corrupt("the gzip header is damaged"));
    };
    if method != 8 || flags & 0xe0 != 0 {
        return Err(UnpackError::Unsupported("the gzip data is not DEFLATE"));
    }
    if flags & HAS_EXTRA != 0 {
        let len = rest.split_off(..2).and_then(|b| b.first_chunk::<2>()).ok_or(UnpackError::Truncated)?;
        rest.split_off(..usize::from(u16::from_le_bytes(*len))).ok_or(UnpackError::Truncated)?;
    }
    for present in [HAS_NAME, HAS_COMMENT] {
        if flags & present != 0 {
            let zero = rest.iter().position(|b| *b == 0).ok_or(UnpackError::Truncated)?;
            rest.split_off(..zero.saturating_add(1)).ok_or(UnpackError::Truncated)?;
        }
    }
    if flags & HAS_HEADER_CRC != 0 {
        rest.split_off(..2).ok_or(UnpackError::Truncated)?;
    }
    let mut state = Box::<DecompressorOxide>::default();
    let (status, used, len) = decompress(&mut state, rest, out, 0, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF);
    match status {
        TINFLStatus::Done => {}
        TINFLStatus::HasMoreOutput => return Err(UnpackError::TooLarge),
        TINFLStatus::NeedsMoreInput | TINFLStatus::FailedCannotMakeProgress => return Err(UnpackError::Truncated),
        _ => return Err(UnpackError::Corrupt("invalid DEFLATE data")),
    }
    let (sum, _) = rest.get(used..).and_then(|r| r.split_first_chunk::<4>()).ok_or(UnpackError::Truncated)?;
    if crc32(out.get(..len).unwrap_or_default()) != u32::from_le_bytes(*sum) {
        return Err(UnpackError::Checksum("gzip data"));
    }
    Ok(len)
}
