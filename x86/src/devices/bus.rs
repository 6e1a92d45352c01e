//! Which device answers at an address, and what all devices have in common.
//!
//! [`Ranges`] is the dispatch table for ports and for memory: sorted intervals with a small key each, so that the owner
//! of the devices, who knows their types, matches on the key. Looking up allocates nothing.

use alloc::vec::Vec;

use radon_core::types::Nanoseconds;

/// What devices do to the board that they are on: interrupt lines and power.
pub trait Board {
    /// Drives an ISA interrupt line, 0 to 15. Rising edges count; it may be called without a change.
    fn isa_irq(&mut self, irq: u8, asserted: bool);
    /// Drives an I/O APIC pin directly.
    fn gsi(&mut self, gsi: u32, asserted: bool);
    /// The guest asked for a sleep state with this SLP_TYP value (0 to 7), as its ACPI tables name them.
    fn sleep(&mut self, sleep_type: u8);
}

/// A device with I/O ports. Most are byte-wide: an access of more bytes is split over the following ports, as the ISA
/// bus does. The dispatcher sees to it that all of an access lies in the device's range.
pub trait PortDevice {
    /// Reads a byte-wide port.
    fn read_byte(&mut self, port: u16, now: Nanoseconds, board: &mut dyn Board) -> u8;
    /// Writes a byte-wide port.
    fn write_byte(&mut self, port: u16, value: u8, now: Nanoseconds, board: &mut dyn Board);

    /// Reads `len` (1, 2 or 4) bytes.
    fn read(&mut self, port: u16, len: u8, now: Nanoseconds, board: &mut dyn Board) -> u32 {
        let mut bytes = [0; 4];
        for (byte, offset) in bytes.iter_mut().zip(0..u16::from(len)) {
            *byte = self.read_byte(port.wrapping_add(offset), now, board);
        }
        u32::from_le_bytes(bytes)
    }

    /// Writes `len` (1, 2 or 4) bytes.
    fn write(&mut self, port: u16, len: u8, value: u32, now: Nanoseconds, board: &mut dyn Board) {
        for (byte, offset) in value.to_le_bytes().into_iter().zip(0..u16::from(len)) {
            self.write_byte(port.wrapping_add(offset), byte, now, board);
        }
    }
}

/// A device with registers in memory.
pub trait MmioDevice {
    /// Reads `len` (1, 2, 4 or 8) bytes at `offset` from the start of the device's range.
    fn mmio_read(&mut self, offset: u64, len: u8, now: Nanoseconds, board: &mut dyn Board) -> u64;
    /// Writes `len` (1, 2, 4 or 8) bytes at `offset` from the start of the device's range.
    fn mmio_write(&mut self, offset: u64, len: u8, value: u64, now: Nanoseconds, board: &mut dyn Board);
}

/// A device that acts by itself as time goes on.
pub trait Timed {
    /// When [`Timed::run`] has to be called next. May change with every access to the device.
    fn next_deadline(&self) -> Option<Nanoseconds>;
    /// Does what is due by `now`. Calling it late is safe: what was missed happens once.
    fn run(&mut self, now: Nanoseconds, board: &mut dyn Board);
}

/// A range could not be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeError {
    /// It is empty, or ends beyond the address space.
    Invalid,
    /// It overlaps one that is there.
    Overlap,
}

#[derive(Clone, Copy, Debug)]
struct Range<K> {
    first: u64,
    last: u64,
    key: K,
}

/// Disjoint address ranges with a key each. Invariant: sorted, `first <= last`, no overlap.
#[derive(Clone, Debug)]
pub struct Ranges<K> {
    ranges: Vec<Range<K>>,
}

impl<K> Default for Ranges<K> {
    fn default() -> Self {
        Ranges { ranges: Vec::new() }
    }
}

impl<K: Copy> Ranges<K> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Ranges<K> {
        Ranges::default()
    }

    /// Adds `len` addresses from `first` on.
    ///
    /// # Errors
    /// See [`RangeError`]; the table is unchanged then.
    pub fn insert(&mut self, first: u64, len: u64, key: K) -> Result<(), RangeError> {
        let last = len.checked_sub(1).and_then(|n| first.checked_add(n)).ok_or(RangeError::Invalid)?;
        // All before `at` end before the new range begins.
        let at = self.ranges.partition_point(|r| r.last < first);
        if self.ranges.get(at).is_some_and(|r| r.first <= last) {
            return Err(RangeError::Overlap);
        }
        self.ranges.insert(at, Range { first, last, key });
        Ok(())
    }

    /// Removes the range that starts at `first` and returns its key.
    pub fn remove(&mut self, first: u64) -> Option<K> {
        let at = self.ranges.binary_search_by_key(&first, |r| r.first).ok()?;
        Some(self.ranges.remove(at).key)
    }

    /// Who answers an access of `len` bytes at `address`: the key, and the offset in its range. `None` if no range has
    /// all of it.
    #[must_use]
    pub fn lookup(&self, address: u64, len: u8) -> Option<(K, u64)> {
        let at = self.ranges.partition_point(|r| r.last < address);
        let range = self.ranges.get(at)?;
        let offset = address.checked_sub(range.first)?;
        let last = address.checked_add(u64::from(len.saturating_sub(1)))?;
        (last <= range.last).then_some((range.key, offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        let mut t = Ranges::new();
        t.insert(0x40, 4, 'a').unwrap();
        t.insert(0x61, 1, 'b').unwrap();
        t.insert(0x20, 2, 'c').unwrap();
        assert_eq!(t.lookup(0x3f, 1), None);
        assert_eq!(t.lookup(0x40, 1), Some(('a', 0)));
        assert_eq!(t.lookup(0x43, 1), Some(('a', 3)));
        assert_eq!(t.lookup(0x43, 2), None, "across the end");
        assert_eq!(t.lookup(0x42, 2), Some(('a', 2)));
        assert_eq!(t.lookup(0x44, 1), None);
        assert_eq!(t.lookup(0x21, 1), Some(('c', 1)));
        assert_eq!(t.remove(0x41), None);
        assert_eq!(t.remove(0x40), Some('a'));
        assert_eq!(t.lookup(0x40, 1), None);
    }

    #[test]
    fn refused_ranges() {
        let mut t = Ranges::new();
        assert_eq!(t.insert(5, 0, ()), Err(RangeError::Invalid));
        assert_eq!(t.insert(u64::MAX, 2, ()), Err(RangeError::Invalid));
        t.insert(u64::MAX, 1, ()).unwrap();
        assert_eq!(t.lookup(u64::MAX, 2), None);
        t.insert(10, 10, ()).unwrap();
        for (first, len) in [(9, 2), (19, 1), (12, 2), (0, 100), (10, 10)] {
            assert_eq!(t.insert(first, len, ()), Err(RangeError::Overlap), "{first} {len}");
        }
        t.insert(20, 1, ()).unwrap();
        t.insert(9, 1, ()).unwrap();
    }

    proptest! {
        #[test]
        fn agrees_with_a_list(
            inserts in prop::collection::vec((0u64..200, 1u64..20), 0..20),
            at in 0u64..220,
            len in 1u8..5,
        ) {
            let mut table = Ranges::new();
            let mut list: Vec<(u64, u64, usize)> = Vec::new();
            for (key, (first, n)) in inserts.into_iter().enumerate() {
                let overlaps = list.iter().any(|(f, m, _)| *f < first + n && first < f + m);
                prop_assert_eq!(table.insert(first, n, key).is_err(), overlaps);
                if !overlaps {
                    list.push((first, n, key));
                }
            }
            let expected = list.iter().find(|(f, n, _)| *f <= at && at + u64::from(len) <= f + n);
            prop_assert_eq!(table.lookup(at, len), expected.map(|(f, _, k)| (*k, at - f)));
        }
    }
}
