//! Machine frames: who owns each of them, who refers to it, which are free.
//!
//! **A frame has an owner and a reason** ([`Kind`]). Frames of domains carry a count of references: the owner's claim
//! is one, each mapping in a p2m that is not the owner's own RAM mapping is one, each [`PageRef`] in a handler is one.
//! A frame goes back to the free lists when the last reference is put, and stays on its owner's [`Account`] until then.
//! A reference that stood for a mapping may be put only after the TLBs were flushed; [`crate::p2m::Unmapped`] sees to it.
//!
//! **Who may end what**: [`OwnedFrames`] holds owner's claims that are in nobody's p2m yet (dropping frees them); the
//! p2m takes them over as RAM mappings. [`PageRef`] holds one reference. Both are values that cannot be copied, so a
//! frame cannot be freed twice; the metadata checks it anyway and reports what does not fit.
//!
//! **No frame reaches a guest with old contents**: freed frames are dirty, and dirty blocks are zeroed either by an
//! idle CPU ([`FrameAllocator::tidy`]) or at allocation. Allocation prefers clean blocks. Blocks above 2 MiB are
//! handed out only when clean, which bounds the work of one call; callers fall back to smaller orders.
//!
//! **The hypervisor's heap does not run dry because guests took all memory**: the last frames are kept for it
//! ([`FrameAllocator::keep`]), whatever is promised to others. What a guest can make the heap grow for asks first whether
//! there is room ([`FrameAllocator::has_room`]), and fails without.
//!
//! Locks: one lock (rank [`Rank::Frames`]) guards the free lists; reference counts are changed without it. Nothing is
//! allocated on the Rust heap while it is held, so that a heap may itself draw frames from here.

mod account;
mod buddy;
mod info;
#[cfg(test)]
mod tests;

use crate::sync::atomic::{AtomicBool, Ordering};
use core::mem;

use radon_abi::errno::Errno;

use crate::platform::PhysMemory;
use crate::sync::{Lock, Rank};
use crate::types::{DomainId, Gfn, Mfn, NodeId};
use account::Accounts;
pub use account::{Account, AccountRef};
use buddy::{Block, Heap, Table};
use info::State;
pub use info::{FrameInfo, Kind};

/// How many frames a machine keeps ([`FrameAllocator::keep`]): two chunks of the heap.
pub const KEPT: u64 = 2 * Order::LARGE.frames();

/// log2 of a number of frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Order(u8);

impl Order {
    /// One frame: 4 KiB.
    pub const PAGE: Order = Order(0);
    /// 512 frames: 2 MiB.
    pub const LARGE: Order = Order(9);
    /// 512 * 512 frames: 1 GiB.
    pub const HUGE: Order = Order(18);
    /// The largest block that is allocated.
    pub const MAX: Order = Order::HUGE;

    /// An order up to 63.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Order> {
        if bits < 64 { Some(Order(bits as u8)) } else { None }
    }

    /// The number itself.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Number of frames.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1u64.wrapping_shl(self.0 as u32)
    }

    /// The low bits of a frame number that lie within a block of this order.
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.frames().wrapping_sub(1)
    }

    /// Whether a frame number is aligned to this order.
    #[must_use]
    pub const fn aligns(self, frame: u64) -> bool {
        frame & self.mask() == 0
    }
}

/// Where an allocation should come from. The default is: anywhere, high addresses first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Placement {
    /// The preferred node; `None` is node 0.
    pub node: Option<NodeId>,
    /// No other node will do.
    pub exact_node: bool,
    /// Machine addresses must fit this many bits.
    pub address_bits: Option<u32>,
}

/// gfn of a domain's frame that is not mapped in its owner's p2m.
const NOT_MAPPED: u64 = u64::MAX;

/// Largest order that is zeroed within one allocation.
const MAX_SCRUB: Order = Order::LARGE;
/// Order of the pieces in which idle CPUs zero memory, under the lock: some 2 µs.
const SCRUB_STEP: u32 = 2;
/// Pieces between which an idle CPU does not look whether it has something better to do.
const SCRUB_STEPS: u32 = 2;

/// The allocator of machine frames, and the table of all of them.
pub struct FrameAllocator {
    table: Table,
    heap: Lock<Heap>,
    accounts: Accounts,
    /// Idle CPUs zero free memory.
    tidies: AtomicBool,
    /// One of them is at it.
    tidying: AtomicBool,
    /// How many more blocks may be taken before all are refused.
    #[cfg(feature = "testing")]
    lucky: crate::sync::atomic::AtomicU64,
}

impl FrameAllocator {
    /// An allocator without memory. `table` describes the frames from `base` on (all absent, less than 2^32 of them);
    /// frames beyond it do not exist. What describes frames that are never added or reserved is only read. `nodes` is the number of NUMA nodes, at least 1.
    #[must_use]
    pub fn new(table: &'static [FrameInfo], base: Mfn, nodes: u8) -> FrameAllocator {
        let infos = table.get(..u32::MAX as usize).unwrap_or(table);
        FrameAllocator {
            table: Table { infos, base: base.0 },
            heap: Lock::new(Rank::Frames, Heap::new(nodes)),
            accounts: Accounts::new(),
            tidies: AtomicBool::new(false),
            tidying: AtomicBool::new(false),
            #[cfg(feature = "testing")]
            lucky: crate::sync::atomic::AtomicU64::new(u64::MAX),
        }
    }

    /// After this many more allocations all are refused with `ENOMEM`, until this is set anew. Returns how many were
    /// left.
    #[cfg(feature = "testing")]
    pub fn fail_after(&self, allocations: u64) -> u64 {
        self.lucky.swap(allocations, Ordering::Relaxed)
    }

    /// Counts an allocation that is about to be made.
    ///
    /// # Errors
    /// `ENOMEM`: it is to fail.
    fn allow_allocation(&self) -> Result<(), Errno> {
        #[cfg(feature = "testing")]
        self.lucky
            .fetch_update(
                Ordering::Relaxed,
                Ordering::Relaxed,
                |n| if n == u64::MAX { Some(n) } else { n.checked_sub(1) },
            )
            .map_err(|_| Errno::ENOMEM)?;
        Ok(())
    }

    /// Adds RAM that nobody uses. Frame 0, frames outside the table and frames that are known already are left out.
    /// Returns how many frames were added.
    pub fn add_region(&self, start: Mfn, count: u64, node: NodeId) -> u64 {
        let end = start.0.saturating_add(count);
        let first = start.0.max(self.table.base).max(1);
        let end = end.min(self.table.base.saturating_add(self.table.infos.len() as u64));
        let mut added = 0u64;
        let mut heap = self.heap.lock();
        // Collects runs of new frames; a known frame ends a run.
        let mut run = first;
        let mut finish = |run: u64, end: u64| {
            let frames = end.saturating_sub(run);
            heap.free_range(&self.table, Mfn(run), frames, true, node);
            added = added.saturating_add(frames);
        };
        for (mfn, info) in (first..end).zip(self.table.range(Mfn(first), end.saturating_sub(first))) {
            if info.load().kind() == Kind::Absent {
                info.store(State::new(Kind::Tail, node));
            } else {
                finish(run, mfn);
                run = mfn.saturating_add(1);
            }
        }
        finish(run, end);
        added
    }

    /// Notes that frames are RAM in the hypervisor's own use (its image, boot modules, this table), so that nothing
    /// else is put at their addresses. They can be given to the allocator later with [`FrameAllocator::free_reserved`].
    pub fn reserve(&self, start: Mfn, count: u64, node: NodeId) {
        for info in self.table.range(start, count) {
            if info.load().kind() == Kind::Absent {
                info.store(State::new(Kind::Hypervisor, node));
            }
        }
    }

    /// Gives single frames that were reserved to the allocator.
    pub fn free_reserved(&self, start: Mfn, count: u64) {
        for n in 0..count {
            if let Some(mfn) = start.checked_add(n).filter(|m| m.0 != 0) {
                self.free_hypervisor(mfn);
            }
        }
    }

    /// One past the highest frame of the table.
    #[must_use]
    pub fn end(&self) -> Mfn {
        Mfn(self.table.base.saturating_add(self.table.infos.len() as u64))
    }

    /// Number of free frames, those not counted that are set aside for population on demand.
    #[must_use]
    pub fn free_frames(&self) -> u64 {
        let heap = self.heap.lock();
        heap.free().saturating_sub(heap.reserved)
    }

    /// Number of free frames of one node.
    #[must_use]
    pub fn free_frames_on(&self, node: NodeId) -> u64 {
        self.heap.lock().free_on(node)
    }

    /// Number of free frames that are yet to be zeroed.
    #[must_use]
    pub fn dirty_frames(&self) -> u64 {
        self.heap.lock().dirty()
    }

    /// Number of frames promised to domains by claims.
    #[must_use]
    pub fn claimed_frames(&self) -> u64 {
        let heap = self.heap.lock();
        heap.claimed.saturating_sub(heap.reserved)
    }

    /// A domain's account, which is empty if the domain has none.
    #[must_use]
    pub fn account(&self, domain: DomainId) -> AccountRef<'_> {
        self.accounts.get(domain)
    }

    /// A domain of this number begins. Ends with [`FrameAllocator::close_account`].
    pub fn open_account(&self, domain: DomainId) {
        self.accounts.open(domain);
    }

    /// The domain has gone; its account is empty, and has no limit. The memory for it may be given back.
    pub fn close_account(&self, domain: DomainId) {
        self.accounts.close(domain);
    }

    /// All that is known of a frame, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn inspect(&self, mfn: Mfn) -> FrameView {
        let state = self.table.get(mfn).map_or(State::new(Kind::Absent, NodeId(0)), FrameInfo::load);
        FrameView {
            kind: state.used_as(),
            owner: state.owner(),
            count: state.count(),
            order: state.order(),
            owned: state.owned(),
            parked: state.parked(),
        }
    }

    /// Frames that are free, promised, and set aside, whatever the promises, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn totals(&self) -> (u64, u64, u64) {
        let heap = self.heap.lock();
        (heap.free(), heap.claimed, heap.reserved)
    }

    /// What a frame is used for.
    #[must_use]
    pub fn kind(&self, mfn: Mfn) -> Kind {
        self.table.get(mfn).map_or(Kind::Absent, |i| i.load().used_as())
    }

    /// Who owns a frame, if a domain does.
    #[must_use]
    pub fn owner(&self, mfn: Mfn) -> Option<DomainId> {
        let state = self.table.get(mfn)?.load();
        state.countable().then(|| state.owner())
    }

    /// Allocates zeroed frames for the hypervisor's own use: 2^order of them, aligned.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn alloc_hypervisor(&self, memory: &dyn PhysMemory, order: Order, placement: Placement) -> Result<Mfn, Errno> {
        let block = self.take_block(order, placement, Promise::None)?;
        self.scrub(memory, block);
        if let Some(info) = self.table.get(block.mfn) {
            info.store(State::new(Kind::Hypervisor, block.node).with_order(order.bits()));
            info.link.store(0, Ordering::Relaxed);
        }
        Ok(block.mfn)
    }

    /// From now on, all allocations but those of [`FrameAllocator::alloc_kept`] leave so many frames free.
    pub fn keep(&self, frames: u64) {
        self.heap.lock().kept = frames;
    }

    /// Whether there is more free than what is kept, so that something that need not be may use memory.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let heap = self.heap.lock();
        heap.free() > heap.kept
    }

    /// Allocates so many frames in a row, not zeroed, for what cannot do without: the hypervisor's heap. They are aligned
    /// to the next power of two. Ends with [`FrameAllocator::free_kept`].
    ///
    /// # Errors
    /// `ENOMEM`: there are not so many in a row; fewer may be left.
    pub fn alloc_kept(&self, frames: u64) -> Result<Mfn, Errno> {
        let size = frames.max(1).checked_next_power_of_two().ok_or(Errno::ENOMEM)?;
        let order = Order::new(size.trailing_zeros()).filter(|&o| o <= Order::MAX).ok_or(Errno::ENOMEM)?;
        let mut heap = self.heap.lock();
        let block = heap.alloc(&self.table, order, Placement::default()).ok_or(Errno::ENOMEM)?;
        if let Some(info) = self.table.get(block.mfn) {
            info.store(State::new(Kind::Hypervisor, block.node));
            info.link.store(frames, Ordering::Relaxed);
        }
        if let Some(rest) = block.mfn.checked_add(frames) {
            heap.free_range(&self.table, rest, size.saturating_sub(frames), block.dirty, block.node);
        }
        Ok(block.mfn)
    }

    /// Frees what [`FrameAllocator::alloc_kept`] gave. `false`, and nothing is done, if it gave no so many frames there, or
    /// if their user has changed the note.
    pub fn free_kept(&self, mfn: Mfn, frames: u64) -> bool {
        let mut heap = self.heap.lock();
        let Some(info) = self.hypervisor_info(mfn).filter(|i| i.link.load(Ordering::Relaxed) == frames) else {
            return false;
        };
        let node = info.load().node();
        heap.free_range(&self.table, mfn, frames, true, node);
        true
    }

    /// Frees what [`FrameAllocator::alloc_hypervisor`] gave. Freeing anything else is refused and logged.
    pub fn free_hypervisor(&self, mfn: Mfn) {
        let mut heap = self.heap.lock();
        let Some(info) = self.table.get(mfn) else { return };
        let state = info.load();
        if state.kind() != Kind::Hypervisor {
            drop(heap);
            log::error!("{mfn} freed, but it is {state:?}");
            return;
        }
        heap.free_block(&self.table, Block { mfn, order: state.order(), dirty: true, node: state.node() });
    }

    /// A word that the user of a hypervisor block may keep with it; 0 at first.
    #[must_use]
    pub fn note(&self, mfn: Mfn) -> u64 {
        self.hypervisor_info(mfn).map_or(0, |i| i.link.load(Ordering::Relaxed))
    }

    /// Sets the word of [`FrameAllocator::note`].
    pub fn set_note(&self, mfn: Mfn, note: u64) {
        if let Some(info) = self.hypervisor_info(mfn) {
            info.link.store(note, Ordering::Relaxed);
        }
    }

    fn hypervisor_info(&self, mfn: Mfn) -> Option<&'static FrameInfo> {
        self.table.get(mfn).filter(|i| i.load().kind() == Kind::Hypervisor)
    }

    /// Allocates zeroed memory for a domain, within its limit: 2^order frames, aligned.
    ///
    /// # Errors
    /// `ENOMEM`: no such block is free (or clean, above 2 MiB), it is promised to others, or the domain would have more
    /// than it may.
    pub fn alloc_domain(
        &self,
        memory: &dyn PhysMemory,
        owner: DomainId,
        order: Order,
        placement: Placement,
    ) -> Result<OwnedFrames<'_>, Errno> {
        self.alloc_from(memory, owner, order, placement, |account| Promise::Claim(account))
    }

    /// As [`FrameAllocator::alloc_domain`], from what was set aside for the domain ([`FrameAllocator::set_reserve`]).
    ///
    /// # Errors
    /// `ENOMEM`: not that much is set aside, or there is no such block. The domain's limit was looked at when it was set
    /// aside.
    pub fn alloc_reserved(
        &self,
        memory: &dyn PhysMemory,
        owner: DomainId,
        order: Order,
    ) -> Result<OwnedFrames<'_>, Errno> {
        self.alloc_from(memory, owner, order, Placement::default(), |account| Promise::Reserve(account))
    }

    fn alloc_from(
        &self,
        memory: &dyn PhysMemory,
        owner: DomainId,
        order: Order,
        placement: Placement,
        promise: impl FnOnce(&Account) -> Promise<'_>,
    ) -> Result<OwnedFrames<'_>, Errno> {
        let account = self.account(owner);
        let promise = promise(&account);
        if let Promise::Reserve(_) = promise {
            account.charge_always(order.frames());
        } else if !account.charge(order.frames()) {
            return Err(Errno::ENOMEM);
        }
        let block = self.take_block(order, placement, promise).inspect_err(|_| {
            account.discharge(order.frames());
        })?;
        self.scrub(memory, block);
        Ok(self.own(owner, Kind::Domain, block.mfn, order.frames()))
    }

    /// Sets aside this many free frames for a domain, to be allocated as it needs them; what was set aside before counts.
    ///
    /// # Errors
    /// `ENOMEM`: not enough is free; nothing has changed.
    pub fn set_reserve(&self, domain: DomainId, frames: u64) -> Result<(), Errno> {
        // First, since it may be allocated, and so draw frames.
        let account = self.account(domain);
        let mut heap = self.heap.lock();
        let had = account.reserved();
        if frames.saturating_sub(had) > heap.unpromised() {
            return Err(Errno::ENOMEM);
        }
        heap.claimed = heap.claimed.saturating_sub(had).saturating_add(frames);
        heap.reserved = heap.reserved.saturating_sub(had).saturating_add(frames);
        account.reserve.store(frames, Ordering::Release);
        Ok(())
    }

    /// Allocates one zeroed frame that the hypervisor provides to `owner`; not counted against the owner's limit. Ends
    /// with [`FrameAllocator::release`].
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn alloc_special(&self, memory: &dyn PhysMemory, owner: DomainId) -> Result<Mfn, Errno> {
        let block = self.take_block(Order::PAGE, Placement::default(), Promise::None)?;
        self.scrub(memory, block);
        mem::forget(self.own(owner, Kind::Special, block.mfn, 1));
        Ok(block.mfn)
    }

    /// Gives a domain exactly these free frames, whatever its limit, without zeroing them: the identity-mapped memory
    /// of dom0.
    ///
    /// # Errors
    /// `EBUSY`: not all of them are free; nothing was done. `ENOMEM`: they are promised to others.
    pub fn take_range(&self, owner: DomainId, start: Mfn, count: u64) -> Result<OwnedFrames<'_>, Errno> {
        let account = self.account(owner);
        self.allow_allocation()?;
        let mut heap = self.heap.lock();
        if !within_claims(&heap, count, Promise::Claim(&account)) {
            return Err(Errno::ENOMEM);
        }
        if !heap.take_range(&self.table, start, count) {
            return Err(Errno::EBUSY);
        }
        settle(&mut heap, count, Promise::Claim(&account));
        drop(heap);
        account.charge_always(count);
        Ok(self.own(owner, Kind::Domain, start, count))
    }

    /// Promises a domain that it can have `frames` frames in all: allocations for others leave that much free until it
    /// has them. 0 ends the promise. Source: `XENMEM_claim_pages` in Xen's `memory.h`.
    ///
    /// # Errors
    /// `EINVAL`: it has a claim, has as many frames already, or may not have that many. `ENOMEM`: not enough is free.
    pub fn claim(&self, domain: DomainId, frames: u64) -> Result<(), Errno> {
        // First, since it may be allocated, and so draw frames.
        let account = self.account(domain);
        let mut heap = self.heap.lock();
        let had = account.claimed();
        if frames == 0 {
            heap.claimed = heap.claimed.saturating_sub(had);
            account.claim.store(0, Ordering::Release);
            return Ok(());
        }
        let missing = frames.saturating_sub(account.pages());
        if had != 0 || missing == 0 || frames > account.limit() {
            return Err(Errno::EINVAL);
        }
        if missing > heap.unpromised() {
            return Err(Errno::ENOMEM);
        }
        heap.claimed = heap.claimed.saturating_add(missing);
        account.claim.store(missing, Ordering::Release);
        Ok(())
    }

    /// Has idle CPUs zero free memory ahead, so that whoever needs it need not wait.
    pub fn tidy_when_idle(&self) {
        self.tidies.store(true, Ordering::Relaxed);
    }

    /// For idle CPUs: zeroes some free memory that needs it, if idle CPUs do so and no other one is at it. Returns whether there
    /// may be more to do.
    pub fn tidy(&self, memory: &dyn PhysMemory) -> bool {
        if !self.tidies.load(Ordering::Relaxed) || self.tidying.swap(true, Ordering::Acquire) {
            return false;
        }
        let more = (0..SCRUB_STEPS).all(|_| self.scrub_some(memory));
        self.tidying.store(false, Ordering::Release);
        more
    }

    /// Zeroes a little free memory that needs it. It stays free memory meanwhile, since the lock is held: nobody is refused
    /// memory for it. Returns whether there was some.
    pub fn scrub_some(&self, memory: &dyn PhysMemory) -> bool {
        let mut heap = self.heap.lock();
        let Some(block) = heap.take_dirty(&self.table, SCRUB_STEP) else { return false };
        self.scrub(memory, block);
        heap.free_block(&self.table, Block { dirty: false, ..block });
        true
    }

    /// Takes a reference on a frame that `owner` owns (or gave up while others still hold it).
    #[must_use]
    pub fn get(&self, mfn: Mfn, owner: DomainId) -> Option<PageRef<'_>> {
        self.get_if(mfn, |s| s.owner() == owner)
    }

    /// Takes a reference on a frame that some domain owns.
    #[must_use]
    pub fn get_any(&self, mfn: Mfn) -> Option<PageRef<'_>> {
        self.get_if(mfn, |_| true)
    }

    fn get_if(&self, mfn: Mfn, wanted: impl Fn(State) -> bool) -> Option<PageRef<'_>> {
        let info = self.table.get(mfn)?;
        info.update(|s| if s.countable() && wanted(s) { s.incremented() } else { None }).ok()?;
        Some(PageRef { frames: self, mfn })
    }

    /// Whether a domain's frame has references besides its owner's claim.
    pub(crate) fn is_shared(&self, mfn: Mfn) -> bool {
        self.table.get(mfn).is_some_and(FrameInfo::is_shared)
    }

    /// Ends a reference that was [`PageRef::keep`]t.
    pub(crate) fn put(&self, mfn: Mfn) {
        // Nearly always it is not the last one, and nothing follows.
        let others = |s: State| if s.countable() && s.count() > 1 { s.decremented() } else { None };
        if self.table.get(mfn).is_none_or(|info| info.update(others).is_err()) {
            self.drop_references(mfn, 1, State::decremented);
        }
    }

    /// Ends the owner's claims on frames; each frees when nobody else refers to it. Frames that the owner has released
    /// before are left alone and logged.
    pub fn release(&self, start: Mfn, count: u64) {
        self.drop_references(start, count, State::disowned);
    }

    /// Takes one reference off each frame as `change` says and frees those that have none left, in runs.
    fn drop_references(&self, start: Mfn, count: u64, change: fn(State) -> Option<State>) {
        // The run of frames `run..` whose last reference has gone, all of one owner, kind and node.
        let mut run: Option<(Mfn, u64, State)> = None;
        for n in 0..count {
            let Some(mfn) = start.checked_add(n) else { break };
            let Some(info) = self.table.get(mfn) else { continue };
            let before = match info.update(|s| if s.countable() { change(s) } else { None }) {
                Ok(before) => before,
                Err(state) => {
                    log::error!("a reference on {mfn} ended that nobody held: {state:?}");
                    continue;
                }
            };
            if before.parked() && !info.load().parked() {
                // Parked frames are off the account; the frame's end takes it off again.
                self.account(before.owner()).charge_always(1);
            }
            if before.count() != 1 {
                continue;
            }
            let same = |s: State| (s.owner(), s.kind(), s.node()) == (before.owner(), before.kind(), before.node());
            run = match run {
                Some((first, frames, s)) if first.checked_add(frames) == Some(mfn) && same(s) => {
                    Some((first, frames.saturating_add(1), s))
                }
                ended => {
                    self.free_run(ended);
                    Some((mfn, 1, before))
                }
            };
        }
        self.free_run(run);
    }

    fn free_run(&self, run: Option<(Mfn, u64, State)>) {
        let Some((start, count, state)) = run else { return };
        self.heap.lock().free_range(&self.table, start, count, true, state.node());
        if state.kind() == Kind::Domain {
            self.account(state.owner()).discharge(count);
        }
    }

    /// Sets a frame of `owner` aside: off its account, but kept for it ([`crate::p2m`] says why). False if it is not
    /// the owner's or is parked already.
    pub(crate) fn park(&self, mfn: Mfn, owner: DomainId) -> bool {
        let parked = self.table.get(mfn).is_some_and(|info| {
            let own = |s: State| s.kind() == Kind::Domain && s.owned() && s.owner() == owner && !s.parked();
            info.update(|s| own(s).then(|| s.with_parked(true))).is_ok()
        });
        if parked {
            self.set_gfn(mfn, 1, None);
            self.account(owner).discharge(1);
        }
        parked
    }

    /// Takes a parked frame of `owner` back into use, within the owner's limit; `None` if it is not parked or the limit
    /// is reached.
    fn unpark(&self, mfn: Mfn, owner: DomainId) -> Option<OwnedFrames<'_>> {
        let info = self.table.get(mfn)?;
        if !self.account(owner).charge(1) {
            return None;
        }
        let own = |s: State| s.kind() == Kind::Domain && s.owned() && s.owner() == owner && s.parked();
        if info.update(|s| own(s).then(|| s.with_parked(false))).is_err() {
            self.account(owner).discharge(1);
            return None;
        }
        Some(OwnedFrames { frames: self, owner, start: mfn, count: 1 })
    }

    /// Gives `owner` exactly this frame, within its limit: one that was parked for it, with its old contents, or a free
    /// one, zeroed. For identity maps.
    ///
    /// # Errors
    /// `ENOMEM`: the limit is reached. `EBUSY`: the frame is in use.
    pub(crate) fn alloc_exactly(
        &self,
        memory: &dyn PhysMemory,
        owner: DomainId,
        mfn: Mfn,
    ) -> Result<OwnedFrames<'_>, Errno> {
        let account = self.account(owner);
        if account.pages() >= account.limit() {
            return Err(Errno::ENOMEM);
        }
        if let Some(parked) = self.unpark(mfn, owner) {
            return Ok(parked);
        }
        let frame = self.take_range(owner, mfn, 1)?;
        memory.zero_frame(mfn);
        Ok(frame)
    }

    /// Whether a frame is set aside for `owner`.
    #[must_use]
    pub fn is_parked(&self, mfn: Mfn, owner: DomainId) -> bool {
        self.table.get(mfn).is_some_and(|i| {
            let s = i.load();
            s.parked() && s.owner() == owner
        })
    }

    /// Where the owner's p2m maps a frame.
    #[must_use]
    pub fn gfn(&self, mfn: Mfn) -> Option<Gfn> {
        let info = self.table.get(mfn)?;
        let gfn = info.link.load(Ordering::Acquire);
        (info.load().countable() && gfn != NOT_MAPPED).then_some(Gfn(gfn))
    }

    /// Notes where the owner's p2m maps frames (in sequence), under that p2m's lock.
    pub(crate) fn set_gfn(&self, start: Mfn, count: u64, gfn: Option<Gfn>) {
        let (first, step) = gfn.map_or((NOT_MAPPED, 0), |gfn| (gfn.0, 1));
        let mut at = first;
        for info in self.table.range(start, count) {
            info.link.store(at, Ordering::Release);
            at = at.wrapping_add(step);
        }
    }

    /// Takes a block from the free lists that may be handed out: clean, or small enough to be zeroed at once.
    fn take_block(&self, order: Order, placement: Placement, promise: Promise<'_>) -> Result<Block, Errno> {
        if order > Order::MAX {
            return Err(Errno::ENOMEM);
        }
        self.allow_allocation()?;
        let mut heap = self.heap.lock();
        if !within_claims(&heap, order.frames(), promise) {
            return Err(Errno::ENOMEM);
        }
        let block = heap.alloc(&self.table, order, placement).ok_or(Errno::ENOMEM)?;
        if block.dirty && order > MAX_SCRUB {
            heap.free_block(&self.table, block);
            return Err(Errno::ENOMEM);
        }
        settle(&mut heap, order.frames(), promise);
        Ok(block)
    }

    fn scrub(&self, memory: &dyn PhysMemory, block: Block) {
        if block.dirty {
            for n in 0..1u64.wrapping_shl(block.order) {
                memory.zero_frame(Mfn(block.mfn.0.wrapping_add(n)));
            }
        }
    }

    /// Makes frames that were taken from the free lists `owner`'s.
    fn own(&self, owner: DomainId, kind: Kind, start: Mfn, count: u64) -> OwnedFrames<'_> {
        for info in self.table.range(start, count) {
            info.link.store(NOT_MAPPED, Ordering::Release);
            info.store(State::new(kind, info.load().node()).with_owner(owner));
        }
        OwnedFrames { frames: self, owner, start, count }
    }
}

/// All that is known of a frame.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameView {
    pub(crate) kind: Kind,
    pub(crate) owner: DomainId,
    pub(crate) count: u64,
    pub(crate) order: u32,
    pub(crate) owned: bool,
    pub(crate) parked: bool,
}

/// The promise that an allocation redeems.
#[derive(Clone, Copy)]
enum Promise<'a> {
    /// None.
    None,
    /// The domain's claim, as far as it has one.
    Claim(&'a Account),
    /// What is set aside for it, and nothing else.
    Reserve(&'a Account),
}

/// Whether taking `frames` leaves what others were promised, and what is kept.
fn within_claims(heap: &Heap, frames: u64, promise: Promise<'_>) -> bool {
    let own = match promise {
        Promise::None => 0,
        Promise::Claim(account) => account.claimed(),
        Promise::Reserve(account) => return frames <= account.reserved().min(heap.free().saturating_sub(heap.kept)),
    };
    frames <= heap.free().saturating_sub(heap.claimed.saturating_sub(own)).saturating_sub(heap.kept)
}

/// Counts an allocation against what was promised.
fn settle(heap: &mut Heap, frames: u64, promise: Promise<'_>) {
    let part = match promise {
        Promise::None => 0,
        Promise::Claim(account) => {
            let part = account.claimed().min(frames);
            account.claim.fetch_sub(part, Ordering::AcqRel);
            part
        }
        Promise::Reserve(account) => {
            let part = account.reserved().min(frames);
            account.reserve.fetch_sub(part, Ordering::AcqRel);
            heap.reserved = heap.reserved.saturating_sub(part);
            part
        }
    };
    heap.claimed = heap.claimed.saturating_sub(part);
}

/// Frames that a domain owns and nobody maps yet. Dropping them ends the ownership.
pub struct OwnedFrames<'a> {
    frames: &'a FrameAllocator,
    owner: DomainId,
    start: Mfn,
    count: u64,
}

impl OwnedFrames<'_> {
    /// The first frame.
    #[must_use]
    pub fn start(&self) -> Mfn {
        self.start
    }

    /// Number of frames, consecutive.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their owner.
    #[must_use]
    pub fn owner(&self) -> DomainId {
        self.owner
    }

    /// Passes the owner's claims on to a p2m.
    pub(crate) fn mapped(self) {
        mem::forget(self);
    }
}

impl Drop for OwnedFrames<'_> {
    fn drop(&mut self) {
        self.frames.release(self.start, self.count);
    }
}

/// One counted reference on a frame that a domain owns: it will not be freed or given to anyone else. Dropping it ends
/// the reference.
pub struct PageRef<'a> {
    frames: &'a FrameAllocator,
    mfn: Mfn,
}

impl PageRef<'_> {
    /// The frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.mfn
    }

    /// The owner of the frame.
    #[must_use]
    pub fn owner(&self) -> DomainId {
        // A frame with references always has one.
        self.frames.owner(self.mfn).unwrap_or_default()
    }

    /// What the frame is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.frames.kind(self.mfn)
    }

    /// Passes the reference on to a longer-lived holder, who ends it with [`FrameAllocator::put`].
    pub(crate) fn keep(self) -> Mfn {
        let mfn = self.mfn;
        mem::forget(self);
        mfn
    }
}

impl Drop for PageRef<'_> {
    fn drop(&mut self) {
        self.frames.put(self.mfn);
    }
}
