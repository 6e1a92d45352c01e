//! Page-table walks that were made before, for guest memory that exits use again and again: the code at an intercepted
//! instruction, and hypercall arguments.
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

/// A guest's memory and the machine's, in which it is read without references.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    /// Finds the guest's pages.
    pub phys: GuestPhys<'a>,
    /// Where they are.
    pub machine: &'a dyn PhysMemory,
}

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
    /// What `f` gets of a walk for `goal`: of a kept one, or of one that `make` makes now, in the place of what was kept
    /// for the page or of the older one.
    fn through<R>(
        &mut self,
        goal: &Goal<'_>,
        make: impl FnOnce() -> Option<Walk>,
        mut f: impl FnMut(&Walk) -> Option<R>,
    ) -> Option<R> {
        let [first, second] = &self.walks;
        let kept = [first, second].into_iter().flatten().filter(|walk| walk.serves(goal)).find_map(&mut f);
        if kept.is_some() {
            return kept;
        }
        let same = |walk: &Option<Walk>| walk.as_ref().is_some_and(|walk| walk.linear == goal.page);
        let index = self.walks.iter().position(same).unwrap_or(self.older);
        self.older = index ^ 1;
        let place = self.walks.get_mut(index)?;
        *place = make();
        place.as_ref().and_then(f)
    }
}

/// What a walk is to lead to.
struct Goal<'a> {
    paging: &'a Paging,
    access: Access,
    /// The linear address of the page.
    page: u64,
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
    /// The page, for the guest and in the machine.
    address: GuestPhysAddr,
    page: MachineAddr,
}

impl WalkCache {
    /// Reads `to.len()` bytes at `linear`, which are in one page, as an access of the processor would, except that it has
    /// no effect if it fails. `false`: it cannot be done this way, and the reason (a fault, a device, another paging mode)
    /// is to be found by a real access. `to` may have been written then.
    pub fn read(&mut self, memory: Memory<'_>, paging: &Paging, access: Access, linear: u64, to: &mut [u8]) -> bool {
        let offset = linear & 0xfff;
        if offset.saturating_add(to.len() as u64) > 0x1000 {
            return false;
        }
        let read = |walk: &Walk| walk.read(memory, offset, to).then_some(());
        self.through(memory, paging, access, linear, read).is_some()
    }

    /// Translates `linear` as an access of the processor would. `None` as `false` of [`WalkCache::read`].
    pub fn translate(
        &mut self,
        memory: Memory<'_>,
        paging: &Paging,
        access: Access,
        linear: u64,
    ) -> Option<GuestPhysAddr> {
        let translate = |walk: &Walk| {
            let valid = walk.leads_on(memory) && memory.phys.unchanged_since(walk.generation);
            valid.then_some(GuestPhysAddr(walk.address.0 | (linear & 0xfff)))
        };
        self.through(memory, paging, access, linear, translate)
    }

    fn through<R>(
        &mut self,
        memory: Memory<'_>,
        paging: &Paging,
        access: Access,
        linear: u64,
        f: impl FnMut(&Walk) -> Option<R>,
    ) -> Option<R> {
        if !paging.is_long() {
            return None;
        }
        let goal = Goal { paging, access, page: linear & !0xfff };
        let set = self.0.get_mut(usize::from(access.fetch))?.get_mut((linear >> 12) as usize % SETS)?;
        set.through(&goal, || Walk::make(memory, &goal), f)
    }
}

impl TableMemory for Memory<'_> {
    type Error = Errno;

    fn load(&mut self, at: GuestPhysAddr) -> Result<u64, Errno> {
        self.phys.locate(at).map(|at| self.machine.load_u64(at)).ok_or(Errno::EFAULT)
    }

    fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, Errno> {
        Ok(self.phys.compare_exchange_u64(at, old, new)? == old)
    }
}

impl Walk {
    /// A walk made now. What it read counts only if the generation still is the same when the page has been read.
    fn make(mut memory: Memory<'_>, goal: &Goal<'_>) -> Option<Walk> {
        let &Goal { paging, access, page: linear } = goal;
        let generation = memory.phys.generation();
        let (found, used) = walk_and_tell(&mut memory, paging, linear, access).ok()?;
        let phys = memory.phys;
        let mut entries = [(MachineAddr(0), 0); 4];
        for (entry, (at, word)) in entries.iter_mut().zip(used) {
            if word != 0 {
                *entry = (phys.locate(at)?, word);
            }
        }
        let address = GuestPhysAddr(found.address.0 & !0xfff);
        let page = phys.locate(address)?;
        Some(Walk { linear, paging: *paging, access, generation, entries, address, page })
    }

    /// Whether it is the walk for this goal, while the entries are what they were. One that may write marks at least as
    /// much as one that reads, with the same rights.
    fn serves(&self, goal: &Goal<'_>) -> bool {
        let access = Access { write: self.access.write, ..goal.access };
        self.linear == goal.page
            && self.access == access
            && (self.access.write || !goal.access.write)
            && self.paging == *goal.paging
    }

    /// Whether the entries are what they were. The answer counts if the generation still is the same afterwards.
    fn leads_on(&self, memory: Memory<'_>) -> bool {
        memory.phys.generation() == self.generation
            && self.entries.iter().all(|&(at, word)| word == 0 || memory.machine.load_u64(at) == word)
    }

    /// Whether the walk still leads here and `to` has what is at `offset`.
    fn read(&self, memory: Memory<'_>, offset: u64, to: &mut [u8]) -> bool {
        if !self.leads_on(memory) {
            return false;
        }
        memory.machine.read(MachineAddr(self.page.0 | offset), to);
        memory.phys.unchanged_since(self.generation)
    }
}
