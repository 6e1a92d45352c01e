//! The legacy lz4 stream format, which Linux packs kernels in: blocks of at most 8 MiB, each by itself, without
//! checksums. The `lz4_flex` crate decodes the blocks straight into the output. Touches nothing but its arguments; no
//! heap.

use super::UnpackError;

const MAGIC: [u8; 4] = 0x184c_2102u32.to_le_bytes();
/// Unpacked size of every block but the last.
const BLOCK: usize = 8 << 20;

/// Unpacks `input`, which must end with the last block, to the front of `out` and returns the number of bytes.
pub(super) fn unpack(input: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    let mut rest = input.strip_prefix(&MAGIC).ok_or(UnpackError::Corrupt("the lz4 header is damaged"))?;
    let mut filled = 0usize;
    while !rest.is_empty() {
        let (size, more) = rest.split_first_chunk::<4>().ok_or(UnpackError::Truncated)?;
        rest = more;
        if *size == MAGIC {
            continue;
        }
        let block = rest.split_off(..u32::from_le_bytes(*size) as usize).ok_or(UnpackError::Truncated)?;
        let space = out.get_mut(filled..).ok_or(UnpackError::TooLarge)?;
        let room = space.len().min(BLOCK);
        let space = space.get_mut(..room).ok_or(UnpackError::TooLarge)?;
        filled = match lz4_flex::block::decompress_into(block, space) {
            Ok(len) => filled.saturating_add(len),
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) => return Err(UnpackError::TooLarge),
            Err(_) => return Err(UnpackError::Corrupt("invalid lz4 data")),
        };
    }
    Ok(filled)
}
