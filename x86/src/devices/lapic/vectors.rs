//! A set of interrupt vectors, as in IRR, ISR and TMR: eight 32-bit words and a summary of which are not empty, so that
//! the highest member is found with two loads.

/// A set of vectors 0 to 255. Invariant: bit `w` of `summary` is set exactly if word `w` is not zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct VectorSet {
    words: [u32; 8],
    summary: u8,
}

/// The word that holds a vector, and the vector's bit in it.
pub(super) const fn place(vector: u8) -> (usize, u32) {
    ((vector >> 5) as usize, 1u32.wrapping_shl(vector as u32))
}

impl VectorSet {
    pub(super) fn insert(&mut self, vector: u8) {
        let (w, bit) = place(vector);
        self.insert_word(w, bit);
    }

    pub(super) fn remove(&mut self, vector: u8) {
        let (w, bit) = place(vector);
        self.set_word(w, self.word(w) & !bit);
    }

    pub(super) fn contains(&self, vector: u8) -> bool {
        let (w, bit) = place(vector);
        self.word(w) & bit != 0
    }

    /// The highest member.
    pub(super) fn highest(&self) -> Option<u8> {
        let w = self.summary.checked_ilog2()?;
        let bit = self.word(w as usize).checked_ilog2()?;
        Some((w << 5 | bit) as u8)
    }

    /// Word `w` (0 to 7).
    pub(super) fn word(&self, w: usize) -> u32 {
        self.words.get(w).copied().unwrap_or(0)
    }

    /// Replaces word `w` (0 to 7).
    pub(super) fn set_word(&mut self, w: usize, value: u32) {
        if let Some(word) = self.words.get_mut(w) {
            *word = value;
            let bit = 1u8.wrapping_shl(w as u32);
            self.summary = if value == 0 { self.summary & !bit } else { self.summary | bit };
        }
    }

    /// Adds all vectors of `bits` in word `w`.
    pub(super) fn insert_word(&mut self, w: usize, bits: u32) {
        self.set_word(w, self.word(w) | bits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn behaves_like_a_set(ops in prop::collection::vec((any::<bool>(), any::<u8>()), 0..200)) {
            let mut set = VectorSet::default();
            let mut model = BTreeSet::new();
            for (insert, v) in ops {
                if insert {
                    set.insert(v);
                    model.insert(v);
                } else {
                    set.remove(v);
                    model.remove(&v);
                }
                prop_assert_eq!(set.highest(), model.last().copied());
                prop_assert_eq!(set.contains(v), model.contains(&v));
            }
        }
    }
}
