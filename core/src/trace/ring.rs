//! One CPU's ring of records.
//!
//! Positions count bytes modulo twice the size, so that an empty ring differs from a full one; the size need not be a
//! power of two. A record does not wrap: what is left at the end is filled by a record that says so. When there is no room
//! records are counted instead, and the count becomes a record as soon as there is.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;

use radon_abi::trace as abi;
use radon_abi::xen::DOMID_IDLE;

use crate::platform::{PhysMemory, Platform};
use crate::types::{MachineAddr, Mfn, PAGE_SIZE};

/// A record's parts.
#[derive(Clone, Copy)]
pub(super) struct Record<'a> {
    pub(super) event: u32,
    pub(super) time: Option<u64>,
    /// At most seven words; more are left out.
    pub(super) extra: &'a [u32],
}

/// What became of a ring by a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filled {
    /// It has just become half full.
    Half,
    /// Nothing to be told.
    Not,
}

const WORD: u32 = 4;
const PAGE: u32 = PAGE_SIZE as u32;
/// Words of the largest record.
const WORDS_MAX: usize = 3 + abi::TRACE_EXTRA_MAX as usize;

impl Record<'_> {
    fn extra(&self) -> &[u32] {
        self.extra.get(..abi::TRACE_EXTRA_MAX as usize).unwrap_or(self.extra)
    }

    fn size(&self) -> u32 {
        let stamp = if self.time.is_some() { 2 * WORD } else { 0 };
        WORD.saturating_add(stamp).saturating_add((self.extra().len() as u32).saturating_mul(WORD))
    }

    /// The words in order; returns their number.
    fn words(&self, to: &mut [u32; WORDS_MAX]) -> usize {
        let header = abi::header(self.event, self.time.is_some(), self.extra().len() as u32);
        let stamp = self.time.into_iter().flat_map(super::words);
        let all = [header].into_iter().chain(stamp).chain(self.extra().iter().copied());
        to.iter_mut().zip(all).map(|(to, word)| *to = word).count()
    }
}

/// One CPU's ring. On cache lines of its own, since no other CPU writes it.
#[repr(align(128))]
pub(super) struct Ring {
    frames: Box<[Mfn]>,
    /// This CPU records.
    on: AtomicBool,
    /// The position of the next record. The copy in the ring's first page can be written by others.
    produced: AtomicU32,
    /// Records for which there was no room.
    lost: AtomicU32,
    /// The time of the first of them.
    lost_since: AtomicU64,
}

impl Ring {
    /// An empty ring in these frames, which are zeroed and at least one.
    pub(super) fn new(memory: &dyn PhysMemory, frames: Box<[Mfn]>) -> Ring {
        let ring = Ring {
            frames,
            on: AtomicBool::new(true),
            produced: AtomicU32::new(0),
            lost: AtomicU32::new(0),
            lost_since: AtomicU64::new(0),
        };
        ring.publish(memory, 0);
        ring
    }

    pub(super) fn frames(&self) -> &[Mfn] {
        &self.frames
    }

    pub(super) fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Records that are lost and not told of yet.
    #[cfg(test)]
    pub(super) fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }

    pub(super) fn forget_lost(&self) {
        self.lost.store(0, Ordering::Relaxed);
    }

    /// Bytes that records can have.
    fn size(&self) -> u32 {
        (self.frames.len() as u32).saturating_mul(PAGE).saturating_sub(abi::TBUF_HEADER)
    }

    /// The sum of a position and a length up to the size.
    fn advance(&self, position: u32, by: u32) -> u32 {
        let (sum, end) = (position.saturating_add(by), self.size().saturating_mul(2));
        if sum >= end { sum.saturating_sub(end) } else { sum }
    }

    /// Bytes that are not consumed yet; the whole ring if what the control domain says cannot be.
    fn unconsumed(&self, memory: &dyn PhysMemory) -> u32 {
        let (size, produced) = (self.size(), self.produced.load(Ordering::Relaxed));
        let consumed = self.first().map_or(u32::MAX, |at| memory.load_u32(at));
        if consumed >= size.saturating_mul(2) {
            return size;
        }
        let used = match produced.checked_sub(consumed) {
            Some(used) => used,
            None => produced.saturating_add(size.saturating_mul(2)).saturating_sub(consumed),
        };
        used.min(size)
    }

    fn first(&self) -> Option<MachineAddr> {
        self.frames.first().map(|f| f.addr())
    }

    /// Lets readers see all up to this position.
    fn publish(&self, memory: &dyn PhysMemory, position: u32) {
        self.produced.store(position, Ordering::Relaxed);
        if let Some(first) = self.first() {
            memory.store_u32(MachineAddr(first.0.saturating_add(abi::TBUF_PROD)), position);
        }
    }

    /// Bytes up to the end of the ring.
    fn to_end(&self, position: u32) -> u32 {
        let at = position.checked_rem(self.size()).unwrap_or(0);
        self.size().saturating_sub(at)
    }

    /// Appends a record, or counts it as lost. Only this ring's CPU calls this.
    pub(super) fn push(&self, platform: &dyn Platform, record: Record<'_>) -> Filled {
        if !self.on.load(Ordering::Relaxed) {
            return Filled::Not;
        }
        let memory = platform.memory();
        let before = self.unconsumed(memory);
        let lost = self.lost.load(Ordering::Relaxed);
        let [low, high] = super::words(self.lost_since.load(Ordering::Relaxed));
        let loss = [lost, u32::from(DOMID_IDLE), low, high];
        let told = Record { event: abi::TRC_LOST_RECORDS, time: Some(platform.cycles()), extra: &loss };
        let both = [told, record];
        let records = if lost == 0 { both.get(1..).unwrap_or_default() } else { &both };

        // Room for all of it, with what has to be filled up at the end of the ring.
        let mut end = self.produced.load(Ordering::Relaxed);
        let mut needed: u32 = 0;
        for record in records {
            let (size, to_end) = (record.size(), self.to_end(end));
            let filler = if size > to_end { to_end } else { 0 };
            needed = needed.saturating_add(size).saturating_add(filler);
            end = self.advance(end, size.saturating_add(filler));
        }
        if needed > self.size().saturating_sub(before) {
            if lost == 0 {
                self.lost_since.store(record.time.unwrap_or_else(|| platform.cycles()), Ordering::Relaxed);
            }
            self.lost.store(lost.saturating_add(1), Ordering::Relaxed);
            return Filled::Not;
        }
        let mut position = self.produced.load(Ordering::Relaxed);
        for record in records {
            let to_end = self.to_end(position);
            if record.size() > to_end {
                position = self.fill(memory, position, to_end);
            }
            position = self.put(memory, position, record);
        }
        self.publish(memory, position);
        self.lost.store(0, Ordering::Relaxed);
        let half = self.size() / 2;
        if before < half && before.saturating_add(needed) >= half { Filled::Half } else { Filled::Not }
    }

    /// Fills the end of the ring, which is less than a record.
    fn fill(&self, memory: &dyn PhysMemory, position: u32, bytes: u32) -> u32 {
        let words = (bytes / WORD).saturating_sub(1) as usize;
        // A time stamp takes two of them where they are too many.
        let timed = words > abi::TRACE_EXTRA_MAX as usize;
        let zeros = [0; abi::TRACE_EXTRA_MAX as usize];
        let extra = zeros.get(..words.saturating_sub(if timed { 2 } else { 0 })).unwrap_or(&zeros);
        let time = timed.then_some(0);
        self.put(memory, position, &Record { event: abi::TRC_TRACE_WRAP_BUFFER, time, extra })
    }

    /// Writes a record that fits before the end of the ring; returns the position after it.
    fn put(&self, memory: &dyn PhysMemory, position: u32, record: &Record<'_>) -> u32 {
        let mut words = [0; WORDS_MAX];
        let count = record.words(&mut words);
        let start = position.checked_rem(self.size()).unwrap_or(0).saturating_add(abi::TBUF_HEADER);
        // All is in whole words, so none lies across the border of two pages.
        for (word, n) in words.iter().take(count).zip(0u32..) {
            let at = start.saturating_add(n.saturating_mul(WORD));
            if let Some(frame) = self.frames.get((at / PAGE) as usize) {
                let at = frame.addr().0.saturating_add(u64::from(at % PAGE));
                memory.write(MachineAddr(at), &word.to_le_bytes());
            }
        }
        self.advance(position, record.size())
    }
}
