//! What is kept about one frame: 16 bytes, changed only by single atomic operations.
//!
//! The state word holds kind, owner and reference count together, so that "is it still this domain's, then count one
//! more" is one compare-and-exchange. The link word means something else in each kind: list links of a free block, the
//! gfn of a domain's frame, anything its user likes for a hypervisor frame.

use crate::sync::atomic::{AtomicU64, Ordering};
use core::fmt;

use crate::types::{DomainId, NodeId};

/// What a frame is used for. The numbers are internal; 0 must stay [`Kind::Absent`], so that a zeroed table is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Not RAM that the allocator knows of.
    Absent = 0,
    /// First frame of a free block.
    Free = 1,
    /// A frame of a free or hypervisor block that is not its first.
    Tail = 2,
    /// First frame of a block that the hypervisor uses itself. Guests never see it.
    Hypervisor = 3,
    /// A domain's memory, counted against its limit.
    Domain = 4,
    /// Provided by the hypervisor and shared with its owner (shared information page, grant table); not counted against
    /// the owner's limit.
    Special = 5,
}

/// A frame's state word, as a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct State(u64);

const COUNT_MASK: u64 = (1 << 28) - 1;
const KIND_SHIFT: u32 = 28;
const OWNER_SHIFT: u32 = 32;
const ORDER_SHIFT: u32 = 48;
const DIRTY: u64 = 1 << 53;
const OWNED: u64 = 1 << 54;
const PARKED: u64 = 1 << 55;
const NODE_SHIFT: u32 = 56;

/// References that a frame can have at most; the next one is refused.
pub(super) const MAX_COUNT: u64 = COUNT_MASK;

impl State {
    /// A frame of this kind and node; everything else zero.
    pub(super) const fn new(kind: Kind, node: NodeId) -> State {
        State((kind as u64) << KIND_SHIFT | (node.0 as u64) << NODE_SHIFT)
    }

    pub(super) const fn with_order(self, order: u32) -> State {
        State(self.0 & !(0x1f << ORDER_SHIFT) | ((order as u64 & 0x1f) << ORDER_SHIFT))
    }

    pub(super) const fn with_dirty(self, dirty: bool) -> State {
        State(if dirty { self.0 | DIRTY } else { self.0 & !DIRTY })
    }

    /// Owned by `owner`, whose ownership is the first reference.
    pub(super) const fn with_owner(self, owner: DomainId) -> State {
        State(self.0 | (owner.0 as u64) << OWNER_SHIFT | OWNED | 1)
    }

    pub(super) const fn with_parked(self, parked: bool) -> State {
        State(if parked { self.0 | PARKED } else { self.0 & !PARKED })
    }

    /// One reference more; `None` if that would be too many.
    pub(super) fn incremented(self) -> Option<State> {
        (self.count() < MAX_COUNT).then(|| State(self.0.wrapping_add(1)))
    }

    /// One reference less; `None` if there is none.
    pub(super) fn decremented(self) -> Option<State> {
        (self.count() > 0).then(|| State(self.0.wrapping_sub(1)))
    }

    /// The owner's claim given up; `None` if it was before.
    pub(super) fn disowned(self) -> Option<State> {
        if self.0 & OWNED == 0 { None } else { State(self.0 & !OWNED & !PARKED).decremented() }
    }

    pub(super) const fn count(self) -> u64 {
        self.0 & COUNT_MASK
    }

    pub(super) const fn kind(self) -> Kind {
        match (self.0 >> KIND_SHIFT) & 0xf {
            1 => Kind::Free,
            2 => Kind::Tail,
            3 => Kind::Hypervisor,
            4 => Kind::Domain,
            5 => Kind::Special,
            _ => Kind::Absent,
        }
    }

    /// What it is used for. A frame of a free block that is not its first may have the kind of its last use still.
    pub(super) const fn used_as(self) -> Kind {
        match self.kind() {
            Kind::Domain | Kind::Special if self.count() == 0 => Kind::Tail,
            kind => kind,
        }
    }

    pub(super) const fn owner(self) -> DomainId {
        DomainId((self.0 >> OWNER_SHIFT) as u16)
    }

    pub(super) const fn order(self) -> u32 {
        (self.0 >> ORDER_SHIFT) as u32 & 0x1f
    }

    pub(super) const fn dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    /// Whether the owner's claim is still one of the references.
    pub(super) const fn owned(self) -> bool {
        self.0 & OWNED != 0
    }

    pub(super) const fn parked(self) -> bool {
        self.0 & PARKED != 0
    }

    pub(super) const fn node(self) -> NodeId {
        NodeId((self.0 >> NODE_SHIFT) as u8)
    }

    /// A domain may hold references on the frame.
    pub(super) const fn countable(self) -> bool {
        matches!(self.kind(), Kind::Domain | Kind::Special) && self.count() > 0
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} count {} ({:#x})", self.kind(), self.owner(), self.count(), self.0)
    }
}

/// Metadata of one frame. All zero (the default) means that there is no such frame.
#[derive(Default)]
pub struct FrameInfo {
    state: AtomicU64,
    pub(super) link: AtomicU64,
}

const _: () = assert!(size_of::<FrameInfo>() == 16);

impl FrameInfo {
    /// Metadata of a frame that does not exist, for building tables.
    #[must_use]
    pub const fn absent() -> FrameInfo {
        FrameInfo { state: AtomicU64::new(0), link: AtomicU64::new(0) }
    }

    /// Makes it that of a frame that does not exist, once the allocator that had it is gone: for tests that make many
    /// machines one after the other.
    pub fn clear(&self) {
        self.state.store(0, Ordering::Relaxed);
        self.link.store(0, Ordering::Relaxed);
    }

    pub(super) fn load(&self) -> State {
        State(self.state.load(Ordering::Acquire))
    }

    /// Whether there are references besides the owner's claim. In sequential consistency with [`FrameInfo::update`], for the
    /// log of dirty frames.
    pub(super) fn is_shared(&self) -> bool {
        State(self.state.load(Ordering::SeqCst)).count() > 1
    }

    /// Overwrites the state. Only for frames on which nobody else can act: under the allocator's lock or count zero.
    pub(super) fn store(&self, state: State) {
        self.state.store(state.0, Ordering::Release);
    }

    /// Replaces the state by what `f` makes of it, unless `f` refuses. Returns the old state either way.
    pub(super) fn update(&self, f: impl Fn(State) -> Option<State>) -> Result<State, State> {
        self.state
            .fetch_update(Ordering::SeqCst, Ordering::Acquire, |s| f(State(s)).map(|s| s.0))
            .map(State)
            .map_err(State)
    }
}
