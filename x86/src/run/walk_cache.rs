//! Page-table walks that were made before, for reads of guest memory that exits make again and again: the code at an
//! intercepted instruction, and hypercall arguments.
//!
//! This is no TLB, which may be stale: a walk is used again only after every table entry that it took was read again and
//! is what it was, so the answer is that of a new walk. What is saved is finding the tables' machine addresses (a nested
//! walk and a reference for each level). Those hold while the generation of the domain's p2m is the same before and after,
//! see [`GuestPhys::unchanged_since`]; no reference is taken.
//!
//! Belongs to one vCPU and is used by the CPU that runs it. Takes no locks. Only 4-level paging is served.

use radon_abi::errno::Errno;
use radon_core::p2m::GuestPhys;
use radon_core::platform::PhysMemory;
use radon_core::types::{GuestPhysAddr, MachineAddr};

use crate::emulate::walk::{Access, Paging, TableMemory, walk_and_tell};

/// Sets of walks for data, and as many for code: an exit that needs both finds both, wherever they are.
const SETS: usize = 4;

/// The walks of a vCPU.
#[derive(Default)]
pub struct WalkCache([[Set; SETS]; 2]);

/// Two walks, of which the older one makes room.
#[derive(Default)]
struct Set {
    walks: [Option<Walk>; 2],
    older: usize,
}

impl Set {
    /// Puts a walk in the place of the older one.
    fn keep(&mut self, walk: Option<Walk>) -> Option<&Walk> {
        let place = self.walks.get_mut(self.older)?;
        self.older ^= 1;
        *place = walk;
        place.as_ref()
    }
}

/// A walk that ended at a page.
struct Walk {
    /// The linear address of the page.
    linear: u64,
    paging: Paging,
    access: Access,
    /// The p2m's, before the addresses below were found.
    generation: u64,
    /// Where the entries are, and what they were.
    entries: [(MachineAddr, u64); 4],
    /// The page.
    page: MachineAddr,
}

impl WalkCache {
    /// Reads `to.len()` bytes at `linear`, which are in one page, as an access of the processor would, except that it has
    /// no effect if it fails. `false`: it cannot be done this way, and the reason (a fault, a device, another paging mode)
    /// is to be found by a real access. `to` may have been written then.
    pub fn read(
        &mut self,
        phys: GuestPhys<'_>,
        memory: &dyn PhysMemory,
        paging: &Paging,
        access: Access,
        linear: u64,
        to: &mut [u8],
    ) -> bool {
        let offset = linear & 0xfff;
        if !paging.is_long() || offset.saturating_add(to.len() as u64) > 0x1000 {
            return false;
        }
        let page = linear & !0xfff;
        let sets = self.0.get_mut(usize::from(access.fetch));
        let Some(set) = sets.and_then(|sets| sets.get_mut((linear >> 12) as usize % SETS)) else { return false };
        let mut usable = |walk: &Walk| {
            walk.linear == page
                && walk.access == access
                && walk.paging == *paging
                && walk.read(phys, memory, offset, to)
        };
        let [first, second] = &set.walks;
        if first.as_ref().is_some_and(&mut usable) || second.as_ref().is_some_and(&mut usable) {
            return true;
        }
        set.keep(Walk::make(phys, memory, paging, access, page)).is_some_and(usable)
    }
}

/// Page tables, read without references.
struct Tables<'a> {
    phys: GuestPhys<'a>,
    memory: &'a dyn PhysMemory,
}

impl TableMemory for Tables<'_> {
    type Error = Errno;

    fn load(&mut self, at: GuestPhysAddr) -> Result<u64, Errno> {
        self.phys.locate(at).map(|at| self.memory.load_u64(at)).ok_or(Errno::EFAULT)
    }

    fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, Errno> {
        Ok(self.phys.compare_exchange_u64(at, old, new)? == old)
    }
}

impl Walk {
    /// A walk made now. What it read counts only if the generation still is the same when the page has been read.
    fn make(
        phys: GuestPhys<'_>,
        memory: &dyn PhysMemory,
        paging: &Paging,
        access: Access,
        linear: u64,
    ) -> Option<Walk> {
        let generation = phys.generation();
        let (found, used) = walk_and_tell(&mut Tables { phys, memory }, paging, linear, access).ok()?;
        let mut entries = [(MachineAddr(0), 0); 4];
        for (entry, (at, word)) in entries.iter_mut().zip(used) {
            if word != 0 {
                *entry = (phys.locate(at)?, word);
            }
        }
        let page = phys.locate(GuestPhysAddr(found.address.0 & !0xfff))?;
        Some(Walk { linear, paging: *paging, access, generation, entries, page })
    }

    /// Whether the walk still leads here and `to` has what is at `offset`.
    fn read(&self, phys: GuestPhys<'_>, memory: &dyn PhysMemory, offset: u64, to: &mut [u8]) -> bool {
        if phys.generation() != self.generation {
            return false;
        }
        let same = self.entries.iter().all(|&(at, word)| word == 0 || memory.load_u64(at) == word);
        if !same {
            return false;
        }
        memory.read(MachineAddr(self.page.0 | offset), to);
        phys.unchanged_since(self.generation)
    }
}
