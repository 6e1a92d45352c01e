//! CRC-32 (IEEE 802.3, as .xz and gzip use it), eight bytes at a time, with a short cut for the long runs of zeros
//! that a kernel image contains. Touches nothing but its argument.

/// Reversed polynomial.
const POLYNOMIAL: u32 = 0xedb8_8320;
/// Blocks of this many bytes are checked for being all zero.
const BLOCK: usize = 4096;

/// `TABLES[k][b]`: the remainder of byte `b` followed by `k` zero bytes.
static TABLES: [[u32; 256]; 8] = tables();
/// What [`BLOCK`] zero bytes do to each byte of the remainder.
static ZERO_BLOCK: [[u32; 256]; 4] = zero_block();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0u32; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut r = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            r = if r & 1 == 1 { (r >> 1) ^ POLYNOMIAL } else { r >> 1 };
            bit += 1;
        }
        tables[0][byte] = r;
        byte += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut byte = 0;
        while byte < 256 {
            let r = tables[k - 1][byte];
            tables[k][byte] = (r >> 8) ^ tables[0][(r & 0xff) as usize];
            byte += 1;
        }
        k += 1;
    }
    tables
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn zero_block() -> [[u32; 256]; 4] {
    let bytes = tables();
    // The effect is linear: start with what eight zero bytes do to each bit, and double.
    let mut effect = [0u32; 32];
    let mut bit = 0;
    while bit < 32 {
        let mut r = 1u32 << bit;
        let mut n = 0;
        while n < 8 {
            r = (r >> 8) ^ bytes[0][(r & 0xff) as usize];
            n += 1;
        }
        effect[bit] = r;
        bit += 1;
    }
    let mut length = 8;
    while length < BLOCK {
        let mut doubled = [0u32; 32];
        let mut bit = 0;
        while bit < 32 {
            doubled[bit] = apply(&effect, effect[bit]);
            bit += 1;
        }
        effect = doubled;
        length *= 2;
    }
    let mut tables = [[0u32; 256]; 4];
    let mut k = 0;
    while k < 4 {
        let mut byte = 0;
        while byte < 256 {
            tables[k][byte] = apply(&effect, (byte as u32) << (8 * k));
            byte += 1;
        }
        k += 1;
    }
    tables
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn apply(effect: &[u32; 32], value: u32) -> u32 {
    let mut result = 0;
    let mut bit = 0;
    while bit < 32 {
        if value >> bit & 1 == 1 {
            result ^= effect[bit];
        }
        bit += 1;
    }
    result
}

/// Something that computes the checksum of data: [`crc32`], or what the processor is faster at.
pub type Crc32 = fn(&[u8]) -> u32;

/// The checksum of `data`.
#[must_use]
pub fn crc32(data: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let (blocks, rest) = data.as_chunks::<BLOCK>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        let (groups, _) = words.as_chunks::<4>();
        if groups.iter().all(|[a, b, c, d]| {
            (u64::from_ne_bytes(*a) | u64::from_ne_bytes(*b) | u64::from_ne_bytes(*c) | u64::from_ne_bytes(*d)) == 0
        }) {
            let [t0, t1, t2, t3] = &ZERO_BLOCK;
            let [b0, b1, b2, b3] = crc.to_le_bytes();
            crc = at(t0, b0) ^ at(t1, b1) ^ at(t2, b2) ^ at(t3, b3);
        } else {
            crc = update(crc, block);
        }
    }
    !update(crc, rest)
}

/// Goes on with a checksum, of which `crc` is the remainder so far (the checksum inverted).
#[must_use]
pub fn update(mut crc: u32, data: &[u8]) -> u32 {
    let [t0, t1, t2, t3, t4, t5, t6, t7] = &TABLES;
    let (words, rest) = data.as_chunks::<8>();
    for word in words {
        let [b0, b1, b2, b3, b4, b5, b6, b7] = (u64::from_le_bytes(*word) ^ u64::from(crc)).to_le_bytes();
        crc = at(t7, b0) ^ at(t6, b1) ^ at(t5, b2) ^ at(t4, b3) ^ at(t3, b4) ^ at(t2, b5) ^ at(t1, b6) ^ at(t0, b7);
    }
    for byte in rest {
        crc = (crc >> 8) ^ at(t0, crc as u8 ^ byte);
    }
    crc
}

#[expect(clippy::indexing_slicing, reason = "a byte cannot exceed the table")]
#[inline(always)]
fn at(table: &[u32; 256], index: u8) -> u32 {
    table[usize::from(index)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
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
    fn agrees_with_the_definition_with_and_without_zero_blocks() {
        let mut data: Vec<u8> = (0..20_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(crc32(&data), bitwise(&data));
        data[4096..3 * 4096].fill(0);
        assert_eq!(crc32(&data), bitwise(&data));
        assert_eq!(crc32(&vec![0; 3 * BLOCK]), bitwise(&vec![0; 3 * BLOCK]));
    }
}
