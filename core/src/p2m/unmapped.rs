//! References that left a p2m, on their way back: first every TLB forgets the translation, then the reference is put.

use arrayvec::ArrayVec;

use crate::hypervisor::Hypervisor;
use crate::types::{DomainId, Mfn};

/// What becomes of frames after the flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The owner's claim ends.
    Release,
    /// The reference of a mapping ends.
    Put,
    /// The frame is set aside for its owner.
    Park(DomainId),
    /// Nothing: only the translation is gone.
    Nothing,
}

/// A run of frames with the same end.
#[derive(Clone, Copy, Debug)]
struct Run {
    start: Mfn,
    count: u64,
    end: End,
}

/// Translations removed from one domain's p2m: the flush that is owed and the references to be put after it. This is
/// the *flush token*: dropping it (or [`Unmapped::flush`]) flushes once for all and then puts. Collect as many removals
/// as possible in one.
#[must_use = "drop it after the last removal of a batch"]
pub struct Unmapped<'a> {
    hv: &'a Hypervisor,
    tag: u64,
    /// A translation was taken away or narrowed since the last flush.
    stale: bool,
    runs: ArrayVec<Run, 64>,
}

impl<'a> Unmapped<'a> {
    pub(super) fn new(hv: &'a Hypervisor, tag: u64) -> Unmapped<'a> {
        Unmapped { hv, tag, stale: false, runs: ArrayVec::new() }
    }

    /// From now on the batch collects removals from the p2m of this tag; what it holds of another is flushed first.
    pub(super) fn belong_to(&mut self, tag: u64) {
        if self.tag != tag {
            self.flush();
            self.tag = tag;
        }
    }

    pub(super) fn push(&mut self, start: Mfn, count: u64, end: End) {
        self.stale = true;
        if let Some(last) = self.runs.last_mut()
            && last.end == end
            && last.start.checked_add(last.count) == Some(start)
        {
            last.count = last.count.saturating_add(count);
            return;
        }
        if end == End::Nothing {
            return;
        }
        if self.runs.is_full() {
            self.flush();
        }
        // There is room now.
        _ = self.runs.try_push(Run { start, count, end });
    }

    /// Flushes and puts what was collected so far. May be called under the p2m's lock.
    pub fn flush(&mut self) {
        if self.stale {
            self.hv.platform.flush_guest_tlb(self.tag);
            self.stale = false;
        }
        let frames = &self.hv.frames;
        for run in self.runs.drain(..) {
            match run.end {
                End::Release => frames.release(run.start, run.count),
                End::Put | End::Park(_) => {
                    for mfn in (0..run.count).filter_map(|n| run.start.checked_add(n)) {
                        match run.end {
                            End::Park(owner) => {
                                frames.park(mfn, owner);
                            }
                            _ => frames.put(mfn),
                        }
                    }
                }
                End::Nothing => {}
            }
        }
    }
}

impl Drop for Unmapped<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}
