//! CRC-32 (IEEE 802.3, as .xz and gzip use it), a byte at a time: for what is short, and for processors that have no
//! carry-less multiplication, with which hal does the same faster. Touches nothing but its argument.

/// Reversed polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// The remainder of each byte.
static TABLE: [u32; 256] = table();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut r = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            r = if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 };
            bit += 1;
        }
        table[byte] = r;
        byte += 1;
    }
    table
}

/// Something that computes the checksum of data: [`crc32`], or what the processor is faster at.
pub type Crc32 = fn(&[u8]) -> u32;

/// The checksum of `data`.
#[must_use]
pub fn crc32(data: &[u8]) -> u32 {
    !update(u32::MAX, data)
}

/// Goes on with a checksum, of which `crc` is the remainder so far (the checksum inverted).
#[must_use]
#[expect(clippy::indexing_slicing, reason = "a byte cannot exceed the table")]
pub fn update(crc: u32, data: &[u8]) -> u32 {
    data.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn bitwise(data: &[u8]) -> u32 {
        !data.iter().fold(u32::MAX, |crc, b| {
            (0..8).fold(crc ^ u32::from(*b), |r, _| if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 })
        })
    }

    #[test]
    fn standard_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn agrees_with_the_definition() {
        let data: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(crc32(&data), bitwise(&data));
        assert_eq!(!update(!crc32(&data[..777]), &data[777..]), bitwise(&data));
    }
}
