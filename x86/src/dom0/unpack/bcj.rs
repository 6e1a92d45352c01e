//! The x86 branch filter of .xz: undoes the conversion of relative CALL and JMP targets to absolute ones that makes
//! code compress better. Works in place and touches nothing but its argument.
//!
//! The filter has to repeat the encoder's decisions exactly. It looks at each 0xe8 or 0xe9 byte and decides by the top
//! byte of the operand (which must be 0x00 or 0xff) and by what it decided about such bytes among the three before it.
//! Source: the .xz file format 1.1, section 5.3.2, and the behaviour of its reference implementation.

/// The operand's top byte is one that a call within 16 MiB has.
const fn is_sign(byte: u8) -> bool {
    byte == 0 || byte == 0xff
}

const fn is_branch(byte: u8) -> bool {
    byte & 0xfe == 0xe8
}

/// Decodes a whole stream in place. Positions count from the start of `data`.
pub(super) fn decode_x86(data: &mut [u8]) {
    // Unconverted branch bytes among the last three: bit 0 is the nearest.
    let mut recent = 0u8;
    let mut last: Option<usize> = None;
    let mut at = 0usize;
    while let Some(found) = next_branch(data, at) {
        let Some(window) = data.get_mut(found..).and_then(|d| d.first_chunk_mut::<5>()) else { return };
        let [_, b1, b2, b3, top] = *window;
        let gap = last.map_or(usize::MAX, |l| found.wrapping_sub(l));
        recent = match gap {
            1..=3 => (recent << gap.saturating_sub(1)) & 7,
            _ => 0,
        };
        last = Some(found);
        at = found.wrapping_add(1);
        // With branch bytes before this one, the bytes of this operand that an earlier candidate shares decide too.
        let (allowed, shared) = match recent {
            0 => (true, 0),
            1 => (true, 1),
            2 => (true, 2),
            4 => (true, 3),
            _ => (false, 0),
        };
        let shared_byte = match shared {
            1 => b3,
            2 => b2,
            3 => b1,
            _ => 1,
        };
        if !is_sign(top) || !allowed || (shared != 0 && is_sign(shared_byte)) {
            recent = (recent << 1) | 1;
            continue;
        }
        let mut target = u32::from_le_bytes([b1, b2, b3, top]);
        let next = (found as u32).wrapping_add(5);
        loop {
            target = target.wrapping_sub(next);
            if shared == 0 {
                break;
            }
            let byte = target.to_be_bytes().get(shared).copied().unwrap_or(1);
            if !is_sign(byte) {
                break;
            }
            // The encoder went around for the same reason: once more with the shared bytes inverted.
            target ^= match shared {
                1 => 0x00ff_ffff,
                2 => 0x0000_ffff,
                _ => 0x0000_00ff,
            };
        }
        // The top byte repeats bit 24.
        let sign = if target & 0x0100_0000 == 0 { 0 } else { 0xff };
        let [d1, d2, d3, _] = target.to_le_bytes();
        *window = [window[0], d1, d2, d3, sign];
        at = found.wrapping_add(5);
        last = Some(at.wrapping_sub(1));
        recent = 0;
    }
}

/// The first branch byte at or behind `at`, 32 bytes at a time.
fn next_branch(data: &[u8], at: usize) -> Option<usize> {
    let rest = data.get(at..)?;
    let (words, tail) = rest.as_chunks::<8>();
    let (groups, last) = words.as_chunks::<4>();
    let mut skipped = 0usize;
    for group in groups {
        let [a, b, c, d] = group.map(u64::from_le_bytes);
        // Kernels hold large areas of zeros.
        if a | b | c | d != 0 {
            let hits = [a, b, c, d].map(branches);
            if hits.iter().fold(0, |all, h| all | h) != 0 {
                let (before, hit) = hits.iter().enumerate().find(|(_, h)| **h != 0)?;
                return at.checked_add(skipped)?.checked_add(before.checked_mul(8)?)?.checked_add(first_byte(*hit));
            }
        }
        skipped = skipped.wrapping_add(32);
    }
    for word in last {
        let hit = branches(u64::from_le_bytes(*word));
        if hit != 0 {
            return at.checked_add(skipped)?.checked_add(first_byte(hit));
        }
        skipped = skipped.wrapping_add(8);
    }
    tail.iter().position(|b| is_branch(*b)).and_then(|i| at.checked_add(skipped)?.checked_add(i))
}

/// Has the top bit of the lowest branch byte set and no lower one; 0 if there is none.
#[inline(always)]
fn branches(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // A byte is zero exactly where the word has a branch byte; then the usual subtraction finds the lowest.
    let zero_if_branch = (word ^ ONES.wrapping_mul(0xe8)) & ONES.wrapping_mul(0xfe);
    zero_if_branch.wrapping_sub(ONES) & !zero_if_branch & ONES.wrapping_mul(0x80)
}

fn first_byte(hit: u64) -> usize {
    (hit.trailing_zeros() / 8) as usize
}
