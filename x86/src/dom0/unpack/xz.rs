//! The .xz container: one or more blocks, each LZMA2 with or without the x86 branch filter, checked by CRC-32; the
//! form in which Linux packs kernels. Touches nothing but its arguments; heap as [`super::lzma`].
//!
//! Source: the .xz file format, version 1.1.

use super::crc32::{Crc32, crc32};
use super::{UnpackError, bcj, lzma};

const HEADER_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const FILTER_X86: u64 = 4;
const FILTER_LZMA2: u64 = 0x21;
const CHECK_NONE: u8 = 0;
const CHECK_CRC32: u8 = 1;

/// Unpacks the first stream in `input` to the front of `out` and returns the number of bytes.
pub(super) fn unpack(input: &[u8], out: &mut [u8], check_data: Crc32) -> Result<usize, UnpackError> {
    let mut rest = input;
    let header = take(&mut rest, 12)?;
    if header.get(..6) != Some(&HEADER_MAGIC[..]) {
        return Err(UnpackError::Corrupt("the xz header is damaged"));
    }
    let flags = header.get(6..8).unwrap_or_default();
    if crc32(flags) != le32(header.get(8..).unwrap_or_default()) {
        return Err(UnpackError::Checksum("xz header"));
    }
    let check = match flags {
        [0, check @ (CHECK_NONE | CHECK_CRC32)] => *check,
        _ => return Err(UnpackError::Unsupported("the xz data has an integrity check other than CRC-32")),
    };
    let mut filled = 0usize;
    loop {
        if rest.first() == Some(&0) {
            // The index. Each block was checked by itself; what remains says nothing new about the data.
            return Ok(filled);
        }
        let space = out.get_mut(filled..).ok_or(UnpackError::TooLarge)?;
        filled = filled.saturating_add(block(&mut rest, space, (check == CHECK_CRC32).then_some(check_data))?);
    }
}

fn block(rest: &mut &[u8], out: &mut [u8], check: Option<Crc32>) -> Result<usize, UnpackError> {
    let size = usize::from(*rest.first().ok_or(UnpackError::Truncated)?).saturating_add(1).saturating_mul(4);
    let header = take(rest, size)?;
    let (body, sum) = header.split_last_chunk::<4>().ok_or(UnpackError::Truncated)?;
    if crc32(body) != u32::from_le_bytes(*sum) {
        return Err(UnpackError::Checksum("xz block header"));
    }
    let mut fields = body.get(2..).unwrap_or_default();
    let flags = body.get(1).copied().unwrap_or(0);
    if flags & 0x3c != 0 {
        return Err(UnpackError::Unsupported("the xz block header has unknown flags"));
    }
    if flags & 0x40 != 0 {
        number(&mut fields)?;
    }
    if flags & 0x80 != 0 {
        number(&mut fields)?;
    }
    let mut branches = false;
    for index in 0..=(flags & 3) {
        let id = number(&mut fields)?;
        let len = usize::try_from(number(&mut fields)?).map_err(|_| UnpackError::Truncated)?;
        let properties = take(&mut fields, len)?;
        match (id, index == flags & 3) {
            (FILTER_LZMA2, true) => {}
            (FILTER_X86, false) if properties.iter().all(|b| *b == 0) => branches = true,
            _ => return Err(UnpackError::Unsupported("the xz data uses a filter other than x86 and LZMA2")),
        }
    }
    let (used, len) = lzma::decode(rest, out)?;
    take(rest, used.next_multiple_of(4))?;
    let data = out.get_mut(..len).ok_or(UnpackError::TooLarge)?;
    if branches {
        bcj::decode_x86(data);
    }
    if let Some(check) = check
        && check(data) != le32(take(rest, 4)?)
    {
        return Err(UnpackError::Checksum("xz data"));
    }
    Ok(len)
}

/// A variable-length integer of at most nine bytes.
fn number(rest: &mut &[u8]) -> Result<u64, UnpackError> {
    let mut value = 0u64;
    for shift in (0..63).step_by(7) {
        let byte = *rest.split_off_first().ok_or(UnpackError::Truncated)?;
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(UnpackError::Corrupt("a number in the xz block header is too long"))
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], UnpackError> {
    rest.split_off(..len).ok_or(UnpackError::Truncated)
}

fn le32(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u32::from(*b))
}
