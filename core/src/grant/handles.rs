//! A domain's mappings of others' grants, by handle.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem;

use crate::domain::Domain;
use crate::types::{Gfn, GrantRef};

/// A mapping: what is to be undone when it ends.
pub(super) struct Mapping {
    /// Who granted the frame.
    pub(super) granter: Arc<Domain>,
    /// By which entry.
    pub(super) gref: GrantRef,
    /// Where it is mapped.
    pub(super) gfn: Gfn,
    /// Whether it can be written.
    pub(super) write: bool,
}

enum Slot {
    /// Not in use; the next free slot.
    Free(u32),
    /// Being mapped or unmapped by some CPU.
    Busy,
    Used(Mapping),
}

/// Slots per chunk, and the unit of the limit.
const CHUNK: u32 = 256;
/// End of the list of free slots. Never a handle.
const NONE: u32 = u32::MAX;

/// All mappings of a domain. A handle is a slot number.
pub(super) struct Handles {
    chunks: Vec<Vec<Slot>>,
    free: u32,
    limit: u32,
}

impl Handles {
    pub(super) const fn new(limit: u32) -> Handles {
        Handles { chunks: Vec::new(), free: NONE, limit }
    }

    pub(super) fn set_limit(&mut self, chunks: u32) {
        self.limit = chunks;
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        self.chunks.get_mut((handle / CHUNK) as usize)?.get_mut((handle % CHUNK) as usize)
    }

    /// A handle for a mapping that is about to be made; `None` if there are too many or no `room` for more.
    pub(super) fn reserve(&mut self, room: impl FnOnce() -> bool) -> Option<u32> {
        if self.free == NONE {
            if !room() {
                return None;
            }
            self.grow()?;
        }
        let handle = self.free;
        let Slot::Free(next) = mem::replace(self.slot(handle)?, Slot::Busy) else { return None };
        self.free = next;
        Some(handle)
    }

    fn grow(&mut self) -> Option<()> {
        let n = u32::try_from(self.chunks.len()).ok().filter(|&n| n < self.limit.min(NONE / CHUNK))?;
        let first = n.checked_mul(CHUNK)?;
        let last = first.checked_add(CHUNK)?.checked_sub(1)?;
        self.chunks.try_reserve(1).ok()?;
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(CHUNK as usize).ok()?;
        chunk.extend((first..last).map(|h| Slot::Free(h.wrapping_add(1))));
        chunk.push(Slot::Free(self.free));
        self.chunks.push(chunk);
        self.free = first;
        Some(())
    }

    /// Notes the mapping that a reserved handle stands for.
    pub(super) fn fill(&mut self, handle: u32, mapping: Mapping) {
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Used(mapping);
        }
    }

    /// Takes the mapping of a handle to unmap it, if `wanted`; the handle stays reserved until [`Handles::release`].
    /// `Ok(None)` if it is not wanted.
    ///
    /// # Errors
    /// `()`: no such mapping.
    pub(super) fn take(&mut self, handle: u32, wanted: impl Fn(&Mapping) -> bool) -> Result<Option<Mapping>, ()> {
        let slot = self.slot(handle).ok_or(())?;
        match mem::replace(slot, Slot::Busy) {
            Slot::Used(mapping) if wanted(&mapping) => Ok(Some(mapping)),
            other => {
                let used = matches!(other, Slot::Used(_));
                *slot = other;
                if used { Ok(None) } else { Err(()) }
            }
        }
    }

    /// Frees a reserved handle.
    pub(super) fn release(&mut self, handle: u32) {
        let next = self.free;
        if let Some(slot) = self.slot(handle) {
            *slot = Slot::Free(next);
            self.free = handle;
        }
    }

    /// The mapping of a handle, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn used(&self, handle: u32) -> Option<&Mapping> {
        match self.chunks.get((handle / CHUNK) as usize)?.get((handle % CHUNK) as usize)? {
            Slot::Used(mapping) => Some(mapping),
            _ => None,
        }
    }

    /// A handle in use at or after `from`.
    pub(super) fn next_used(&self, from: u32) -> Option<u32> {
        let total = u32::try_from(self.chunks.len()).ok()?.checked_mul(CHUNK)?;
        (from..total).find(|h| {
            let slot = self.chunks.get((h / CHUNK) as usize).and_then(|c| c.get((h % CHUNK) as usize));
            matches!(slot, Some(Slot::Used(_)))
        })
    }
}
