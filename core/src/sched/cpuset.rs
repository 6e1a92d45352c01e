//! Sets of physical CPUs.

use crate::sync::atomic::{AtomicU64, Ordering};
use core::fmt;

use crate::types::CpuId;

/// Most CPUs a machine may have.
pub const CPUS_MAX: usize = 256;

const WORDS: usize = CPUS_MAX / 64;

/// A set of physical CPUs below [`CPUS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuSet([u64; WORDS]);

impl CpuSet {
    /// No CPU.
    pub const EMPTY: CpuSet = CpuSet([0; WORDS]);
    /// All CPUs, including those that do not exist.
    pub const ALL: CpuSet = CpuSet([u64::MAX; WORDS]);

    /// The first `count` CPUs.
    #[must_use]
    pub fn first(count: u32) -> CpuSet {
        (0..count).map(CpuId).collect()
    }

    /// Just this CPU.
    #[must_use]
    pub fn only(cpu: CpuId) -> CpuSet {
        [cpu].into_iter().collect()
    }

    /// A set from its bitmap, CPU 0 in bit 0 of the first byte; bits beyond [`CPUS_MAX`] are ignored.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        for (word, chunk) in set.0.iter_mut().zip(bytes.chunks(8)) {
            let mut le = [0; 8];
            le.iter_mut().zip(chunk).for_each(|(to, &from)| *to = from);
            *word = u64::from_le_bytes(le);
        }
        set
    }

    /// The bitmap, CPU 0 in bit 0 of the first byte.
    pub fn to_bytes(self) -> impl Iterator<Item = u8> {
        self.0.into_iter().flat_map(u64::to_le_bytes)
    }

    /// Adds a CPU; one beyond [`CPUS_MAX`] is ignored.
    pub fn insert(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word |= 1u64.wrapping_shl(cpu.0 % 64);
        }
    }

    /// Takes a CPU out.
    pub fn remove(&mut self, cpu: CpuId) {
        if let Some(word) = self.0.get_mut(cpu.index() / 64) {
            *word &= !1u64.wrapping_shl(cpu.0 % 64);
        }
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.get(cpu.index() / 64).is_some_and(|w| w & 1u64.wrapping_shl(cpu.0 % 64) != 0)
    }

    /// CPUs that are in both sets.
    #[must_use]
    pub fn and(mut self, other: &CpuSet) -> CpuSet {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= b);
        self
    }

    /// CPUs that are in this set and not in the other.
    #[must_use]
    pub fn without(mut self, other: &CpuSet) -> CpuSet {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a &= !b);
        self
    }

    /// Whether any CPU is in both sets.
    #[must_use]
    pub fn intersects(&self, other: &CpuSet) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// Whether there is no CPU in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; WORDS]
    }

    /// Number of CPUs in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().fold(0, |n: u32, w| n.saturating_add(w.count_ones()))
    }

    /// The CPU with the lowest number.
    #[must_use]
    pub fn lowest(&self) -> Option<CpuId> {
        self.iter().next()
    }

    /// The lowest CPU above `cpu`, else the lowest at all: for going round.
    #[must_use]
    pub fn cycle(&self, cpu: CpuId) -> Option<CpuId> {
        self.iter().find(|&c| c > cpu).or_else(|| self.lowest())
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + use<> {
        let words = self.0;
        words.into_iter().enumerate().flat_map(|(n, word)| {
            let base = (n as u32).saturating_mul(64);
            Bits(word).map(move |bit| CpuId(base.saturating_add(bit)))
        })
    }
}

/// The numbers of the bits that are set, ascending.
struct Bits(u64);

impl Iterator for Bits {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        Some(bit)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        cpus.into_iter().for_each(|c| set.insert(c));
        set
    }
}

impl fmt::Display for CpuSet {
    /// As ranges: `0-3,8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == CpuSet::ALL {
            return f.write_str("all");
        }
        let mut separator = "";
        for start in self.iter().filter(|c| c.0 == 0 || !self.contains(CpuId(c.0.wrapping_sub(1)))) {
            let length = (start.0..).take_while(|&c| self.contains(CpuId(c))).count() as u32;
            write!(f, "{separator}{}", start.0)?;
            if length > 1 {
                write!(f, "-{}", start.0.saturating_add(length.saturating_sub(1)))?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// A set of physical CPUs that is read without a lock. A reader that meets a change may see some of it only.
#[derive(Default)]
pub(super) struct SharedCpuSet([AtomicU64; WORDS]);

impl SharedCpuSet {
    pub(super) fn new(set: CpuSet) -> SharedCpuSet {
        SharedCpuSet(set.0.map(AtomicU64::new))
    }

    pub(super) fn get(&self) -> CpuSet {
        let mut set = CpuSet::EMPTY;
        set.0.iter_mut().zip(&self.0).for_each(|(to, from)| *to = from.load(Ordering::SeqCst));
        set
    }

    pub(super) fn set(&self, set: CpuSet) {
        self.0.iter().zip(set.0).for_each(|(to, from)| to.store(from, Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec::Vec;

    #[test]
    fn holds_what_was_inserted() {
        let set: CpuSet = [0, 1, 2, 63, 64, 255, 256].map(CpuId).into_iter().collect();
        assert_eq!(set.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2, 63, 64, 255]);
        assert_eq!(set.to_string(), "0-2,63-64,255");
        assert_eq!(set.count(), 6);
        assert_eq!(set.cycle(CpuId(255)), Some(CpuId(0)));
        assert_eq!(set.cycle(CpuId(2)), Some(CpuId(63)));
        let bytes: Vec<u8> = set.to_bytes().collect();
        assert_eq!(CpuSet::from_bytes(&bytes), set);
        assert_eq!(CpuSet::from_bytes(&bytes[..1]), CpuSet::first(3));
    }

    #[test]
    fn combines() {
        let (a, b) = (CpuSet::first(4), [2, 9].map(CpuId).into_iter().collect());
        assert_eq!(a.and(&b), CpuSet::only(CpuId(2)));
        assert_eq!(a.without(&b).count(), 3);
        assert!(a.intersects(&b) && !CpuSet::only(CpuId(9)).intersects(&a));
        assert_eq!(CpuSet::ALL.to_string(), "all");
        assert!(CpuSet::EMPTY.is_empty() && CpuSet::EMPTY.lowest().is_none());
    }
}
