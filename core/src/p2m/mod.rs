//! A domain's map of guest frames to machine frames, and the references that its entries stand for.
//!
//! # References
//!
//! An entry of kind RAM *is* the owner's claim on its frame: a domain's own frame is mapped at one place, and removing
//! it there frees the frame. Entries for frames of others (foreign, granted) and for frames that the hypervisor
//! provides hold one counted reference each. What leaves the map is collected in [`Unmapped`], which flushes TLBs
//! before it gives references back; there is no other way for a mapping's reference to end.
//!
//! # Lookups without a lock
//!
//! The map has a generation, which changes after an entry was taken away or replaced, and before the frame can be used
//! for anything else. [`P2m::get_page`] reads the entry, takes a reference on the frame, and looks whether the generation
//! is what it was before (or the entry still the same): then the frame was not freed before the reference was taken, and
//! cannot be from then on. A frame that was freed or changed hands in between is noticed so and put back.
//!
//! Reads that are made again and again ([`GuestPhys::unchanged_since`]) take no reference: they look whether the
//! generation is the same before and after.
//!
//! # The identity-mapped hardware domain
//!
//! dom0 drives devices that address memory by machine address, and without an IOMMU nothing translates for them. Its
//! RAM is mapped gfn == mfn ([`P2m::new`] with `identity`), and the map keeps that so:
//!
//! - A frame that dom0 gives up (balloon, or something else mapped in its place) is *parked*: off its account, but kept
//!   for it. Filling that gfn again gives back the same frame. So memory that dom0 gives up is not free for guests;
//!   the size of dom0 is chosen on the command line.
//! - Nothing is mapped at a gfn whose machine frame is RAM of anybody else. So a device that is handed the guest-physical
//!   address of a foreign or granted page misses that page, but can hit only a frame kept for dom0 or no memory at all:
//!   no other domain's memory, nor the hypervisor's, is touched. The transfer itself does not arrive. The remedy is on
//!   dom0's command line: `swiotlb=force` makes Linux copy such transfers through its own memory.
//!
//! # Locks
//!
//! Changes are made under one lock per p2m (rank [`Rank::P2m`]). [`P2m::get_page`] and [`P2m::query`] take none and may
//! be called anywhere. Two p2ms are never locked together: the reference on a peer's frame is taken by lookup before.

pub mod dirty;
mod guest_phys;
#[cfg(test)]
mod sizes_tests;
mod table;
#[cfg(test)]
mod tests;
mod unmapped;

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use alloc::boxed::Box;

use radon_abi::errno::Errno;
use radon_abi::trace::TRC_MEM_POD_POPULATE;

use crate::frames::{self, Account, Order, OwnedFrames, PageRef};
use crate::hypervisor::Hypervisor;
use crate::sync::{Lock, Rank};
use crate::trace::{frames_word, words};
use crate::types::{DomainId, Gfn, MachineAddr, Mfn};
pub use guest_phys::GuestPhys;
pub use table::{Entry, Kind, Lookup, NestedTable};
use unmapped::End;
pub use unmapped::Unmapped;

/// What a page is wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reading.
    Read,
    /// Writing, perhaps reading too.
    Write,
}

/// Why there is no page to access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageError {
    /// Nothing is mapped.
    Hole,
    /// It may not be written.
    ReadOnly,
    /// It is device or firmware memory, which is nobody's to count.
    NotMemory,
}

impl From<PageError> for Errno {
    fn from(_: PageError) -> Errno {
        Errno::EFAULT
    }
}

/// A guest page found by lookup, held by a counted reference.
pub struct Page<'a> {
    /// The reference.
    pub page: PageRef<'a>,
    /// What the guest frame was when it was looked up.
    pub kind: Kind,
}

impl Page<'_> {
    /// The machine frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.page.mfn()
    }
}

/// Lookups of an entry that keeps changing before giving up. Each retry means that another CPU changed this very entry.
const RETRIES: u32 = 100;
/// Table entries that one insertion looks at to see whether its range is free.
const SEARCH: u32 = 2048;

/// What the p2m's lock guards beside the table.
struct State {
    /// The domain is being destroyed: nothing is added any more.
    closed: bool,
    /// Where [`P2m::relinquish`] goes on.
    cursor: Gfn,
    /// Where [`P2m::start_logging`] and [`P2m::stop_logging`] go on.
    log_cursor: Gfn,
}

/// A domain's map of guest frames to machine frames.
pub struct P2m {
    owner: DomainId,
    tag: u64,
    identity: bool,
    table: Box<dyn NestedTable>,
    state: Lock<State>,
    log: dirty::DirtyLog,
    /// The highest gfn that was ever mapped.
    max_gfn: AtomicU64,
    /// Number of frames that are [`Kind::OnDemand`]; changed under the lock.
    demand: AtomicU64,
    /// There was one at some time.
    had_demand: AtomicBool,
    /// See [`P2m::generation`].
    generation: AtomicU64,
}

impl P2m {
    /// An empty map of domain `owner` in `table`. `tag` names its translations to
    /// [`crate::platform::Platform::flush_guest_tlb`]. `identity` keeps gfn == mfn for RAM, see the module's text.
    #[must_use]
    pub fn new(owner: DomainId, table: Box<dyn NestedTable>, tag: u64, identity: bool) -> P2m {
        let state = Lock::new(Rank::P2m, State { closed: false, cursor: Gfn(0), log_cursor: Gfn(0) });
        let log = dirty::DirtyLog::default();
        let [max_gfn, demand, generation] = [const { AtomicU64::new(0) }; 3];
        let had_demand = AtomicBool::new(false);
        P2m { owner, tag, identity, table, state, log, max_gfn, demand, had_demand, generation }
    }

    /// Machine address of the nested page table.
    #[must_use]
    pub fn root(&self) -> MachineAddr {
        self.table.root()
    }

    /// What [`crate::platform::Platform::flush_guest_tlb`] knows the translations by.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether RAM is mapped gfn == mfn.
    #[must_use]
    pub fn identity(&self) -> bool {
        self.identity
    }

    /// One past the largest gfn that can be mapped.
    #[must_use]
    pub fn limit(&self) -> Gfn {
        self.table.limit()
    }

    /// The highest gfn that was ever mapped.
    #[must_use]
    pub fn max_gfn(&self) -> Gfn {
        Gfn(self.max_gfn.load(Ordering::Acquire))
    }

    /// The storage, for what concerns table pages.
    #[must_use]
    pub fn table(&self) -> &dyn NestedTable {
        &*self.table
    }

    /// A batch for removals from this map.
    pub fn unmapped<'a>(&self, hv: &'a Hypervisor) -> Unmapped<'a> {
        Unmapped::new(hv, self.tag)
    }

    /// Number of guest frames that are to be populated on demand.
    #[must_use]
    pub fn demand(&self) -> u64 {
        self.demand.load(Ordering::Acquire)
    }

    /// Whether some were to be populated on demand at any time: what is not there may have been populated just now.
    #[must_use]
    pub fn had_demand(&self) -> bool {
        self.had_demand.load(Ordering::Acquire)
    }

    /// A number that changes whenever something that was mapped is mapped no more or otherwise, before the frame can be
    /// used for anything else.
    /// What was read from a frame that [`P2m::query`] gave is the guest's own if the number is the same before the query
    /// and after the read (see [`GuestPhys::unchanged_since`]); so readers need no reference.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What a guest frame is now. Takes no lock and no reference: fit to decide about a fault, not to touch the frame.
    #[must_use]
    pub fn query(&self, hv: &Hypervisor, gfn: Gfn) -> Lookup {
        self.table.get(hv.platform.memory(), gfn)
    }

    /// Takes a reference on the page at `gfn`. One that is to be populated on demand is; this takes the p2m's lock.
    ///
    /// # Errors
    /// See [`PageError`].
    pub fn get_page<'a>(&self, hv: &'a Hypervisor, gfn: Gfn, access: Access) -> Result<Page<'a>, PageError> {
        for _ in 0..RETRIES {
            let generation = self.generation();
            let entry = self.query(hv, gfn).entry;
            if entry.kind == Kind::OnDemand {
                self.populate(hv, gfn).map_err(|_| PageError::Hole)?;
                continue;
            }
            if !entry.kind.present() {
                return Err(PageError::Hole);
            }
            if !entry.kind.counted() {
                return Err(PageError::NotMemory);
            }
            if access == Access::Write && !entry.kind.writable_by_reference() {
                return Err(PageError::ReadOnly);
            }
            // The frame may have gone and be used anew before the reference was taken. Nearly always nothing has changed.
            if let Some(page) = hv.frames.get_any(entry.mfn)
                && (self.generation() == generation || self.query(hv, gfn).entry == entry)
            {
                if access == Access::Write && entry.kind.own_ram() {
                    self.log.note(gfn, 1);
                }
                return Ok(Page { page, kind: entry.kind });
            }
        }
        Err(PageError::Hole)
    }

    /// Maps frames of the domain's own as RAM. One frame takes the place of what was mapped; more of them need an empty
    /// range.
    ///
    /// # Errors
    /// `EINVAL`: beyond [`P2m::limit`], not this domain's frames, or the domain is dying. `EEXIST`: part of the range is
    /// in use. `ENOMEM`: no table page. `EPERM`, `EBUSY`: see [`P2m::add_page`]. The frames are freed then.
    pub fn add_ram(
        &self,
        hv: &Hypervisor,
        gfn: Gfn,
        frames: OwnedFrames<'_>,
        batch: &mut Unmapped<'_>,
    ) -> Result<(), Errno> {
        let (start, count) = (frames.start(), frames.count());
        if frames.owner() != self.owner {
            return Err(Errno::EINVAL);
        }
        let state = self.state.lock();
        self.check_range(&state, gfn, count)?;
        if self.identity && (gfn.0 != start.0) {
            return Err(Errno::EBUSY);
        }
        self.log.prepare(gfn, count)?;
        let entry = Entry { kind: Kind::RamRw, mfn: start };
        if count == 1 {
            self.replace(hv, gfn, entry, batch)?;
        } else {
            self.fill(hv, gfn, count, entry)?;
        }
        hv.frames.set_gfn(start, count, Some(gfn));
        self.log.note(gfn, count);
        frames.mapped();
        Ok(())
    }

    /// Makes an empty block of the domain's memory one that is populated on demand.
    ///
    /// # Errors
    /// `EINVAL`: beyond the limit, not aligned, an identity map, or the domain is dying. `EEXIST`: part of it is in use.
    /// `ENOMEM`: no table page.
    pub fn add_on_demand(&self, hv: &Hypervisor, gfn: Gfn, order: Order) -> Result<(), Errno> {
        let state = self.state.lock();
        self.check_range(&state, gfn, order.frames())?;
        if self.identity || !order.aligns(gfn.0) {
            return Err(Errno::EINVAL);
        }
        self.fill(hv, gfn, order.frames(), Entry { kind: Kind::OnDemand, mfn: Mfn(0) })?;
        self.demand.fetch_add(order.frames(), Ordering::AcqRel);
        self.had_demand.store(true, Ordering::Release);
        Ok(())
    }

    /// Gives a frame, or a large block around it, to a guest frame that is populated on demand. Nothing happens to any
    /// other. Returns whether something is mapped there now.
    ///
    /// # Errors
    /// `ENOMEM`: what was set aside for the domain is used up, or there is no table page. `EINVAL`: the domain is dying.
    pub fn populate(&self, hv: &Hypervisor, gfn: Gfn) -> Result<bool, Errno> {
        let state = self.state.lock();
        if state.closed {
            return Err(Errno::EINVAL);
        }
        let found = self.query(hv, gfn);
        if found.entry.kind != Kind::OnDemand {
            // Present, if another CPU was faster.
            return Ok(found.entry.kind.present());
        }
        let large = [Order::LARGE].into_iter().filter(|&o| o <= found.order && o <= self.table.largest());
        let mut result = Err(Errno::ENOMEM);
        for order in large.chain([Order::PAGE]) {
            let frames = match hv.frames.alloc_reserved(hv.platform.memory(), self.owner, order) {
                Ok(frames) => frames,
                Err(errno) => {
                    result = Err(errno);
                    continue;
                }
            };
            let (start, count) = (frames.start(), frames.count());
            let first = Gfn(gfn.0 & !order.mask());
            let entry = Entry { kind: Kind::RamRw, mfn: start };
            let set = self.log.prepare(first, count).and_then(|()| self.set_empty(hv, first, order, entry));
            if let Err(errno) = set {
                result = Err(errno);
                drop(frames);
                // It was free a moment ago; if it is not any more, the domain has lost it.
                let _ =
                    hv.frames.set_reserve(self.owner, hv.frames.account(self.owner).reserved().saturating_add(count));
                continue;
            }
            hv.trace.detail(&*hv.platform, TRC_MEM_POD_POPULATE, || {
                let ([gfn_low, gfn_high], [mfn_low, mfn_high]) = (words(first.0), words(start.0));
                [gfn_low, gfn_high, mfn_low, mfn_high, frames_word(self.owner, order)]
            });
            hv.frames.set_gfn(start, count, Some(first));
            self.log.note(first, count);
            frames.mapped();
            self.demand.fetch_sub(count, Ordering::AcqRel);
            return Ok(true);
        }
        result
    }

    /// Sets aside frames to be populated on demand: as many as `wanted` makes of those that are set aside now, but not more
    /// than may be needed.
    ///
    /// # Errors
    /// `ENOMEM`: not that much is free.
    pub fn reserve_for_demand(&self, hv: &Hypervisor, wanted: impl FnOnce(&Account) -> u64) -> Result<(), Errno> {
        // None are populated meanwhile.
        let _state = self.state.lock();
        let frames = wanted(&hv.frames.account(self.owner));
        hv.frames.set_reserve(self.owner, frames.min(self.demand()))
    }

    /// Maps machine memory that the allocator does not have ([`Kind::Mmio`], [`Kind::Firmware`]) into an empty range.
    ///
    /// # Errors
    /// `EINVAL`: beyond the limit, another kind, or some of it is RAM in a domain's or the allocator's hands. `EEXIST`:
    /// part of the range is in use. `ENOMEM`: no table page.
    pub fn add_direct(&self, hv: &Hypervisor, gfn: Gfn, mfn: Mfn, count: u64, kind: Kind) -> Result<(), Errno> {
        if !matches!(kind, Kind::Mmio | Kind::Firmware) {
            return Err(Errno::EINVAL);
        }
        let known = |m: u64| hv.frames.kind(Mfn(m)) != frames::Kind::Absent;
        let end = mfn.0.checked_add(count).ok_or(Errno::EINVAL)?;
        if (mfn.0..end.min(hv.frames.end().0)).any(known) {
            return Err(Errno::EINVAL);
        }
        let state = self.state.lock();
        self.check_range(&state, gfn, count)?;
        self.fill(hv, gfn, count, Entry { kind, mfn })
    }

    /// Maps one page by reference: a frame that the hypervisor provides ([`Kind::Special`]; it leaves the place where
    /// it was mapped before), or one of another domain. What was mapped at `gfn` goes.
    ///
    /// # Errors
    /// `EINVAL`: beyond the limit, another kind or owner, or the domain is dying. `EPERM`: device memory is there. `EBUSY`: a
    /// grant is mapped there, or in an identity map the address is RAM of somebody else. `ENOMEM`: no table page.
    pub fn add_page(
        &self,
        hv: &Hypervisor,
        gfn: Gfn,
        page: PageRef<'_>,
        kind: Kind,
        batch: &mut Unmapped<'_>,
    ) -> Result<(), Errno> {
        let fits = kind.others() || (kind == Kind::Special && page.owner() == self.owner);
        if !fits {
            return Err(Errno::EINVAL);
        }
        let state = self.state.lock();
        self.check_range(&state, gfn, 1)?;
        let mfn = page.mfn();
        let before = hv.frames.gfn(mfn).filter(|&g| kind == Kind::Special && g != gfn);
        self.replace(hv, gfn, Entry { kind, mfn }, batch)?;
        if let Some(old) = before
            && self.query(hv, old).entry == (Entry { kind, mfn })
        {
            // Written as a single frame, so this cannot fail. It held a reference, as the new mapping does.
            self.clear_moved(hv, old, Entry { kind, mfn }, batch);
            batch.push(mfn, 1, End::Put);
        }
        if kind == Kind::Special {
            hv.frames.set_gfn(mfn, 1, Some(gfn));
        }
        page.keep();
        Ok(())
    }

    /// Moves a page of the domain's own RAM from one gfn to another. What was at `to` goes.
    ///
    /// # Errors
    /// `EINVAL`: `from` is not own RAM; else as [`P2m::add_page`].
    pub fn move_ram(&self, hv: &Hypervisor, from: Gfn, to: Gfn, batch: &mut Unmapped<'_>) -> Result<(), Errno> {
        let state = self.state.lock();
        self.check_range(&state, to, 1)?;
        let entry = self.query(hv, from).entry;
        if !entry.kind.own_ram() || self.identity {
            return Err(Errno::EINVAL);
        }
        if from == to {
            return Ok(());
        }
        self.log.prepare(to, 1)?;
        // Split what is around `from` before anything changes, so that the last write cannot fail.
        self.set(hv, from, Order::PAGE, entry)?;
        self.replace(hv, to, entry, batch)?;
        self.clear_moved(hv, from, entry, batch);
        hv.frames.set_gfn(entry.mfn, 1, Some(to));
        self.log.note(to, 1);
        Ok(())
    }

    /// Removes the mapping at `gfn` if `accept` agrees with what it is. Of a large mapping it removes the largest block
    /// that starts at `gfn` and is not above `most`. Returns the order of what was removed.
    ///
    /// # Errors
    /// `ENOENT`: a hole. `ENOMEM`: a large mapping had to be split and no table page was free. Or `accept`'s error.
    pub fn remove(
        &self,
        hv: &Hypervisor,
        gfn: Gfn,
        most: Order,
        accept: impl FnOnce(Entry) -> Result<(), Errno>,
        batch: &mut Unmapped<'_>,
    ) -> Result<Order, Errno> {
        let _state = self.state.lock();
        let found = self.query(hv, gfn);
        if found.entry.kind == Kind::Hole {
            return Err(Errno::ENOENT);
        }
        accept(found.entry)?;
        let fits = |o: &Order| *o <= most && *o <= found.order && o.aligns(gfn.0);
        let order = [Order::HUGE, Order::LARGE].into_iter().find(fits).unwrap_or(Order::PAGE);
        self.clear(hv, gfn, order, batch)?;
        Ok(order)
    }

    /// Changes the kind of one page of the domain's own RAM.
    ///
    /// # Errors
    /// `EINVAL`: it is not own RAM, or `kind` is not. `ENOMEM`: no table page to split a large mapping.
    pub fn change_ram(&self, hv: &Hypervisor, gfn: Gfn, kind: Kind, batch: &mut Unmapped<'_>) -> Result<(), Errno> {
        let _state = self.state.lock();
        let entry = self.query(hv, gfn).entry;
        if !entry.kind.own_ram() || !kind.own_ram() {
            return Err(Errno::EINVAL);
        }
        self.set(hv, gfn, Order::PAGE, Entry { kind, ..entry })?;
        self.log.note(gfn, 1);
        batch.belong_to(self.tag);
        batch.push(entry.mfn, 1, End::Nothing);
        Ok(())
    }

    /// Removes everything, for a domain that will not run again; nothing is added any more from the first call on.
    /// `spend` is asked before each step (at most a large mapping); when it refuses, the call returns `false` and is to
    /// be made again. After `true`, [`NestedTable::free`] may follow.
    #[must_use]
    pub fn relinquish(&self, hv: &Hypervisor, spend: &mut dyn FnMut() -> bool) -> bool {
        let mut batch = self.unmapped(hv);
        let mut state = self.state.lock();
        state.closed = true;
        while state.cursor < self.table.limit() {
            if !spend() {
                return false;
            }
            let at = state.cursor;
            let found = self.query(hv, at);
            // Look-ups beyond a large hole's start lie within it; so does a cursor that stands on a mapping's start.
            let next = (at.0 | found.order.mask()).saturating_add(1);
            if found.entry.kind.present() && self.clear(hv, at, found.order, &mut batch).is_err() {
                // Mappings are removed as they were made, which needs no table page.
                log::error!("{}: {at} could not be unmapped", self.owner);
            }
            state.cursor = Gfn(next);
        }
        true
    }

    /// Writes an entry over whatever is there.
    fn set(&self, hv: &Hypervisor, gfn: Gfn, order: Order, entry: Entry) -> Result<(), Errno> {
        let result = self.set_empty(hv, gfn, order, entry);
        self.generation.fetch_add(1, Ordering::AcqRel);
        result
    }

    /// Writes an entry where no frame is mapped, so that no reader can have one from here.
    fn set_empty(&self, hv: &Hypervisor, gfn: Gfn, order: Order, entry: Entry) -> Result<(), Errno> {
        self.table.set(hv.platform.memory(), &hv.frames, gfn, order, entry)
    }

    fn check_range(&self, state: &State, gfn: Gfn, count: u64) -> Result<(), Errno> {
        let end = gfn.checked_add(count).filter(|&e| e <= self.table.limit() && count > 0);
        match end {
            Some(_) if !state.closed => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Whether what is at `gfn` may give way to one page.
    fn check_replaceable(&self, hv: &Hypervisor, gfn: Gfn) -> Result<(), Errno> {
        match self.query(hv, gfn).entry.kind {
            Kind::Mmio | Kind::Firmware => return Err(Errno::EPERM),
            Kind::GrantRw | Kind::GrantRo => return Err(Errno::EBUSY),
            _ => {}
        }
        let namesake = Mfn(gfn.0);
        let somebodys =
            hv.frames.kind(namesake) != frames::Kind::Absent && hv.frames.owner(namesake) != Some(self.owner);
        if self.identity && somebodys { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Writes one page's entry in place of another; the old one goes to the batch.
    fn replace(&self, hv: &Hypervisor, gfn: Gfn, entry: Entry, batch: &mut Unmapped<'_>) -> Result<(), Errno> {
        self.check_replaceable(hv, gfn)?;
        let old = self.query(hv, gfn).entry;
        if old.kind.present() {
            self.set(hv, gfn, Order::PAGE, entry)?;
        } else {
            self.set_empty(hv, gfn, Order::PAGE, entry)?;
        }
        self.retire(hv, gfn, Order::PAGE, old, batch);
        self.max_gfn.fetch_max(gfn.0, Ordering::AcqRel);
        Ok(())
    }

    /// Writes entries for `count` frames, with the largest blocks that fit, into a range that is empty.
    fn fill(&self, hv: &Hypervisor, gfn: Gfn, count: u64, entry: Entry) -> Result<(), Errno> {
        let end = gfn.0.saturating_add(count);
        let mut at = gfn.0;
        let mut smallest = Order::HUGE;
        for _ in 0..SEARCH {
            let found = self.query(hv, Gfn(at));
            if found.entry.kind != Kind::Hole {
                return Err(Errno::EEXIST);
            }
            smallest = smallest.min(found.order);
            at = (at | found.order.mask()).saturating_add(1);
            if at >= end {
                break;
            }
        }
        if at < end {
            return Err(Errno::EEXIST);
        }
        let mut done = 0;
        let mut largest = Order::PAGE;
        while done < count {
            let (g, e) = (gfn.0.wrapping_add(done), entry.offset(done));
            let left = count.wrapping_sub(done);
            let fits = |o: &Order| *o <= self.table.largest() && o.aligns(g) && o.aligns(e.mfn.0) && o.frames() <= left;
            let order = [Order::HUGE, Order::LARGE].into_iter().find(fits).unwrap_or(Order::PAGE);
            if let Err(errno) = self.set_empty(hv, Gfn(g), order, e) {
                // Nobody has a reference through the new entries that matters: the frames are the caller's still.
                self.unfill(hv, gfn, done);
                return Err(errno);
            }
            done = done.saturating_add(order.frames());
            largest = largest.max(order);
        }
        if smallest < largest {
            // A large mapping took the place of an empty table, to which a processor may have kept a pointer.
            hv.platform.flush_guest_tlb(self.tag);
        }
        self.max_gfn.fetch_max(end.saturating_sub(1), Ordering::AcqRel);
        Ok(())
    }

    /// Undoes a part of [`P2m::fill`].
    fn unfill(&self, hv: &Hypervisor, gfn: Gfn, count: u64) {
        let mut batch = self.unmapped(hv);
        let end = gfn.0.saturating_add(count);
        let mut at = gfn.0;
        while at < end {
            let found = self.query(hv, Gfn(at));
            if self.set(hv, Gfn(at), found.order, Entry::HOLE).is_err() {
                log::error!("{}: {at:#x} could not be unmapped", self.owner);
            }
            batch.push(found.entry.mfn, found.order.frames(), End::Nothing);
            at = (at | found.order.mask()).saturating_add(1);
        }
    }

    /// Makes a hole of a mapped block; what it stood for goes to the batch.
    fn clear(&self, hv: &Hypervisor, gfn: Gfn, order: Order, batch: &mut Unmapped<'_>) -> Result<(), Errno> {
        let old = self.query(hv, gfn).entry;
        self.set(hv, gfn, order, Entry::HOLE)?;
        self.retire(hv, gfn, order, old, batch);
        Ok(())
    }

    /// Makes a hole of a page that is mapped elsewhere now.
    fn clear_moved(&self, hv: &Hypervisor, gfn: Gfn, entry: Entry, batch: &mut Unmapped<'_>) {
        if self.set(hv, gfn, Order::PAGE, Entry::HOLE).is_err() {
            log::error!("{}: {gfn} could not be unmapped", self.owner);
        }
        batch.belong_to(self.tag);
        batch.push(entry.mfn, 1, End::Nothing);
    }

    /// Hands what an entry stood for to the batch.
    fn retire(&self, hv: &Hypervisor, gfn: Gfn, order: Order, old: Entry, batch: &mut Unmapped<'_>) {
        batch.belong_to(self.tag);
        let end = match old.kind {
            Kind::Hole => return,
            Kind::OnDemand => {
                self.demand.fetch_sub(order.frames(), Ordering::AcqRel);
                return;
            }
            Kind::RamRw | Kind::RamRo | Kind::RamLogDirty if self.identity => End::Park(self.owner),
            Kind::RamRw | Kind::RamRo | Kind::RamLogDirty => End::Release,
            Kind::Special | Kind::Foreign | Kind::GrantRw | Kind::GrantRo => End::Put,
            Kind::Mmio | Kind::Firmware => End::Nothing,
        };
        if old.kind.own_ram() || (old.kind == Kind::Special && hv.frames.gfn(old.mfn) == Some(gfn)) {
            hv.frames.set_gfn(old.mfn, order.frames(), None);
        }
        batch.push(old.mfn, order.frames(), end);
    }
}
