//! The two bit streams of Zstandard: read forwards (table descriptions) and backwards (everything that is entropy coded).

/// A stream that is written forwards and read from its last bit on. Bits before the beginning are zero; having read any
/// shows in [`Backward::left`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Backward<'a> {
    data: &'a [u8],
    /// Bits not taken yet; negative when more were taken than there are.
    left: i64,
    /// The next bits, from the top.
    next: u64,
}

impl<'a> Backward<'a> {
    /// `None` if the end mark (the highest set bit of the last byte) is not there.
    pub(super) fn new(data: &'a [u8]) -> Option<Backward<'a>> {
        let mark = data.last()?.checked_ilog2()?;
        let whole = i64::try_from(data.len()).ok()?.checked_sub(1)?.checked_mul(8)?;
        let mut bits = Backward { data, left: whole.checked_add(i64::from(mark))?, next: 0 };
        bits.refill();
        Some(bits)
    }

    /// Bits not taken yet; negative when more were taken than there are.
    pub(super) fn left(&self) -> i64 {
        self.left
    }

    /// Makes the next 56 bits available.
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        let left = self.left.max(0) as usize;
        let end = left.div_ceil(8);
        let unused = (end.wrapping_mul(8).wrapping_sub(left) & 7) as u32;
        let word = match end.checked_sub(8).and_then(|start| self.data.get(start..end)).and_then(|b| b.first_chunk()) {
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => self.first_bytes(end),
        };
        self.next = word.wrapping_shl(unused);
    }

    /// The first few bytes of the stream, followed (that is, lower) by zeros.
    #[cold]
    fn first_bytes(&self, end: usize) -> u64 {
        let bytes = self.data.get(..end.min(8)).unwrap_or_default();
        bytes.iter().fold(0, |word, byte| (word >> 8) | u64::from(*byte) << 56)
    }

    /// The next bits without taking them; `count` is 1..=56.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> u64 {
        self.next.wrapping_shr(64u32.wrapping_sub(count))
    }

    /// Takes what was peeked at.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.next = self.next.wrapping_shl(count);
        self.left = self.left.wrapping_sub(i64::from(count));
    }

    /// Takes bits; `count` is 0..=56, and at most 56 in all since the last refill.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u64 {
        // Two shifts, since shifting by 64 is none.
        let value = (self.next >> 1).wrapping_shr(63u32.wrapping_sub(count));
        self.skip(count);
        value
    }
}

/// A stream that is read from its first bit on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forward<'a> {
    data: &'a [u8],
    taken: usize,
}

impl<'a> Forward<'a> {
    pub(super) fn new(data: &'a [u8]) -> Forward<'a> {
        Forward { data, taken: 0 }
    }

    /// The next bits (at most 16) without taking them; bits behind the end are zero.
    pub(super) fn peek(&self, count: u32) -> u32 {
        let bytes = self.data.get(self.taken / 8..).unwrap_or_default();
        let word = bytes.iter().take(4).rev().fold(0u32, |word, byte| (word << 8) | u32::from(*byte));
        let mask = 1u32.wrapping_shl(count).wrapping_sub(1);
        word.wrapping_shr((self.taken % 8) as u32) & mask
    }

    pub(super) fn skip(&mut self, count: u32) {
        self.taken = self.taken.saturating_add(count as usize);
    }

    pub(super) fn take(&mut self, count: u32) -> u32 {
        let value = self.peek(count);
        self.skip(count);
        value
    }

    /// What follows, from the next whole byte on. `None` if more bits were taken than there are.
    pub(super) fn rest(self) -> Option<&'a [u8]> {
        self.data.get(self.taken.div_ceil(8)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        /// Both directions agree with the list of bits.
        #[test]
        fn both_directions_agree_with_the_list_of_bits(data in prop::collection::vec(any::<u8>(), 1..40), counts in prop::collection::vec(0u32..17, 1..30)) {
            let bits: Vec<u64> = data.iter().flat_map(|b| (0..8).map(move |i| u64::from(b >> i & 1))).collect();
            let mut forward = Forward::new(&data);
            let mut at = 0;
            for &count in &counts {
                let expected = (0..count as usize).fold(0, |v, i| v | bits.get(at + i).copied().unwrap_or(0) << i);
                prop_assert_eq!(u64::from(forward.take(count)), expected);
                at += count as usize;
            }
            prop_assert_eq!(forward.rest().is_some(), at.div_ceil(8) <= data.len());

            let Some(mut backward) = Backward::new(&data) else {
                prop_assert_eq!(data.last(), Some(&0));
                return Ok(());
            };
            let mut left = bits.iter().rposition(|b| *b == 1).unwrap() as i64;
            prop_assert_eq!(backward.left(), left);
            for &count in &counts {
                backward.refill();
                let expected = (0..i64::from(count)).fold(0, |v, i| {
                    let at = left - 1 - i;
                    v << 1 | if at >= 0 { bits[at as usize] } else { 0 }
                });
                if count > 0 {
                    prop_assert_eq!(backward.peek(count), expected);
                }
                prop_assert_eq!(backward.take(count), expected);
                left -= i64::from(count);
                prop_assert_eq!(backward.left(), left);
            }
        }
    }
}
