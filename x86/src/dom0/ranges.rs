//! Sets of addresses, as sorted ranges that neither touch nor overlap. Plain arithmetic; quadratic at worst, for the
//! few dozen ranges of a memory map.

use alloc::vec::Vec;
use core::ops::Range;

/// A set of addresses in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<Range<u64>>);

impl RangeSet {
    /// The set of no addresses.
    #[must_use]
    pub const fn new() -> RangeSet {
        RangeSet(Vec::new())
    }

    /// The ranges, in ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.0.iter().cloned()
    }

    /// Number of addresses.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, r| sum.saturating_add(length(r)))
    }

    /// Whether all of `range` is in the set. An empty range is.
    #[must_use]
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.0.iter().any(|r| r.start <= range.start && range.end <= r.end)
    }

    /// Whether any of `range` is in the set.
    #[must_use]
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.0.iter().any(|r| r.start < range.end && range.start < r.end)
    }

    /// Adds a range; an empty one adds nothing.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let mut new = range;
        self.0.retain(|r| {
            let joins = r.start <= new.end && new.start <= r.end;
            if joins {
                new = new.start.min(r.start)..new.end.max(r.end);
            }
            !joins
        });
        let at = self.0.partition_point(|r| r.start < new.start);
        self.0.insert(at, new);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        let old = core::mem::take(&mut self.0);
        for r in old {
            let below = r.start..r.end.min(range.start);
            let above = r.start.max(range.end)..r.end;
            self.0.extend([below, above].into_iter().filter(|part| !part.is_empty()));
        }
    }

    /// The addresses that are in `range` too.
    #[must_use]
    pub fn within(&self, range: &Range<u64>) -> RangeSet {
        let parts = self.0.iter().map(|r| r.start.max(range.start)..r.end.min(range.end));
        RangeSet(parts.filter(|r| !r.is_empty()).collect())
    }

    /// The part of each range that begins and ends at a multiple of `align` (a power of two).
    #[must_use]
    pub fn aligned(&self, align: u64) -> RangeSet {
        let parts =
            self.0.iter().filter_map(|r| Some(r.start.checked_next_multiple_of(align)?..align_down(r.end, align)));
        RangeSet(parts.filter(|r| !r.is_empty()).collect())
    }

    /// The highest `size` bytes in one piece, beginning at a multiple of `align` (a power of two).
    #[must_use]
    pub fn highest(&self, size: u64, align: u64) -> Option<Range<u64>> {
        self.0.iter().rev().find_map(|r| {
            let start = align_down(r.end.checked_sub(size)?, align);
            (start >= r.start).then(|| start..start.saturating_add(size))
        })
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> RangeSet {
        let mut set = RangeSet::new();
        ranges.into_iter().for_each(|r| set.insert(r));
        set
    }
}

/// The number of addresses in a range.
#[must_use]
pub fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

fn align_down(address: u64, align: u64) -> u64 {
    address & !align.wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0u64..60, 0u64..12).prop_map(|(start, len)| start..start + len)
    }

    fn check(set: &RangeSet, model: &BTreeSet<u64>) {
        let members: BTreeSet<u64> = set.iter().flatten().collect();
        assert_eq!(&members, model);
        assert!(set.0.windows(2).all(|w| w[0].end < w[1].start), "{set:?} touches itself");
        assert_eq!(set.total(), model.len() as u64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_addresses(steps in prop::collection::vec((any::<bool>(), range()), 0..20), probe in range(), size in 1u64..9) {
            let (mut set, mut model) = (RangeSet::new(), BTreeSet::new());
            for (add, range) in steps {
                if add {
                    set.insert(range.clone());
                    model.extend(range);
                } else {
                    set.remove(&range);
                    range.for_each(|a| { model.remove(&a); });
                }
                check(&set, &model);
            }
            prop_assert_eq!(set.contains(&probe), probe.clone().all(|a| model.contains(&a)));
            prop_assert_eq!(set.overlaps(&probe), probe.clone().any(|a| model.contains(&a)));
            check(&set.within(&probe), &model.iter().copied().filter(|a| probe.contains(a)).collect());
            let fits = |start: &u64| (*start..start + size).all(|a| model.contains(&a));
            let best = (0..80u64).step_by(4).filter(fits).max();
            prop_assert_eq!(set.highest(size, 4), best.map(|start| start..start + size));
            let blocks = (0..80u64).step_by(4).filter(|s| (*s..s + 4).all(|a| model.contains(&a)));
            check(&set.aligned(4), &blocks.flat_map(|s| s..s + 4).collect());
        }
    }
}
