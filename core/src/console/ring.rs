//! The console ring: the last bytes that were printed, for `xl dmesg`.
//!
//! Positions are byte counts since boot and wrap with 32 bits, as the toolstack's index does.

use alloc::vec;
use alloc::vec::Vec;

/// Smallest ring in bytes.
pub(super) const MIN_SIZE: usize = 16 << 10;
/// Largest ring in bytes.
pub(super) const MAX_SIZE: usize = 64 << 20;

/// The last bytes printed.
pub(super) struct Ring {
    /// Its length is a power of two.
    bytes: Vec<u8>,
    /// Position of the first byte that was not cleared.
    consumer: u32,
    /// Position of the next byte.
    producer: u32,
}

impl Ring {
    /// An empty ring of at least `size` bytes, within what is possible.
    pub(super) fn new(size: u64) -> Ring {
        let size = usize::try_from(size).unwrap_or(MAX_SIZE).clamp(MIN_SIZE, MAX_SIZE).next_power_of_two();
        Ring { bytes: vec![0; size], consumer: 0, producer: 0 }
    }

    fn size(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn index(&self, position: u32) -> usize {
        position as usize & self.bytes.len().wrapping_sub(1)
    }

    /// Appends bytes; the oldest are lost.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            let at = self.index(self.producer);
            if let Some(slot) = self.bytes.get_mut(at) {
                *slot = byte;
            }
            self.producer = self.producer.wrapping_add(1);
        }
        if self.producer.wrapping_sub(self.consumer) > self.size() {
            self.consumer = self.producer.wrapping_sub(self.size());
        }
    }

    /// Where reading starts: the oldest byte, or for incremental reading `index` if that is later.
    pub(super) fn start(&self, index: Option<u32>) -> u32 {
        match index {
            // Later than the oldest byte, taking the wrap into account.
            Some(index) if self.consumer.wrapping_sub(index) as i32 <= 0 => index,
            _ => self.consumer,
        }
    }

    /// Copies bytes from `position` on to `to`. Returns how many there were, and the position after them. Bytes that
    /// were lost since `position` are left out.
    pub(super) fn read(&self, position: u32, to: &mut [u8]) -> (usize, u32) {
        let lost =
            self.consumer.wrapping_sub(position) as i32 > 0 && self.producer.wrapping_sub(position) > self.size();
        let mut position = if lost { self.consumer } else { position };
        let mut count = 0;
        for byte in to {
            // A position beyond the end (from a confused reader) reads nothing.
            if self.producer.wrapping_sub(position) as i32 <= 0 {
                break;
            }
            *byte = self.bytes.get(self.index(position)).copied().unwrap_or(0);
            position = position.wrapping_add(1);
            count = usize::saturating_add(count, 1);
        }
        (count, position)
    }

    /// Forgets what is before `position`.
    pub(super) fn clear_to(&mut self, position: u32) {
        let kept = self.producer.wrapping_sub(position);
        self.consumer = if kept > self.size() { self.producer.wrapping_sub(self.size()) } else { position };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(ring: &Ring) -> Vec<u8> {
        let mut to = vec![0; MIN_SIZE];
        let (n, _) = ring.read(ring.start(None), &mut to);
        to.truncate(n);
        to
    }

    #[test]
    fn keeps_the_newest() {
        let mut ring = Ring::new(0);
        ring.push(b"hello");
        assert_eq!(all(&ring), b"hello");
        ring.push(&vec![b'x'; MIN_SIZE]);
        assert_eq!(all(&ring), vec![b'x'; MIN_SIZE]);
        ring.push(b"end");
        assert_eq!(all(&ring).len(), MIN_SIZE);
        assert!(all(&ring).ends_with(b"xend"));
    }

    #[test]
    fn incremental_reading_goes_on_where_it_stopped() {
        let mut ring = Ring::new(0);
        ring.push(b"one two");
        let mut to = [0; 4];
        let (n, next) = ring.read(ring.start(Some(0)), &mut to);
        assert_eq!((n, &to), (4, b"one "));
        let (n, next) = ring.read(ring.start(Some(next)), &mut to);
        assert_eq!((n, &to[..3]), (3, &b"two"[..]));
        assert_eq!(ring.read(ring.start(Some(next)), &mut to).0, 0);
        ring.push(b"!");
        assert_eq!(ring.read(ring.start(Some(next)), &mut to), (1, next + 1));
        // An index of before a clear starts at what is left.
        ring.clear_to(next);
        assert_eq!(ring.start(Some(0)), next);
        assert_eq!(all(&ring), b"!");
    }

    #[test]
    fn a_confused_index_reads_nothing() {
        let mut ring = Ring::new(0);
        ring.push(b"abc");
        let mut to = [0; 8];
        assert_eq!(ring.read(ring.start(Some(1000)), &mut to).0, 0);
    }

    #[test]
    fn sizes_are_powers_of_two_within_bounds() {
        assert_eq!(Ring::new(0).bytes.len(), MIN_SIZE);
        assert_eq!(Ring::new(100_000).bytes.len(), 131_072);
        assert_eq!(Ring::new(u64::MAX).bytes.len(), MAX_SIZE);
    }
}
