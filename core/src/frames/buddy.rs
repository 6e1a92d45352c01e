//! The buddy allocator: free blocks of 2^order frames, aligned to their size, in lists by node, cleanliness, zone and
//! order. List links live in [`FrameInfo`], so free frames themselves are never touched.
//!
//! Zones are bit lengths of frame numbers, so that "below 2^n" is "in zone n or less". Frame 0 is never handed in, so
//! that every block lies in one zone. Dirty and clean buddies do not merge until the dirty one is zeroed.
//!
//! Invariants: a block is in exactly one list, that of its state; only its first frame has kind `Free`; two free
//! buddies of the same node and cleanliness are never apart. All of it is guarded by the lock of
//! [`super::FrameAllocator`]; nothing here allocates.

use crate::sync::atomic::Ordering;
use alloc::boxed::Box;
use alloc::vec::Vec;

use super::info::{FrameInfo, Kind, State};
use super::{Order, Placement};
use crate::types::{Mfn, NodeId};

const ORDERS: usize = Order::MAX.bits() as usize + 1;
/// Machine addresses have 52 bits at most, frame numbers 40.
const ZONES: usize = 41;
/// End of a list.
const NIL: u32 = u32::MAX;

/// The frame table: metadata of all frames from `base` on.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) infos: &'static [FrameInfo],
    pub(super) base: u64,
}

impl Table {
    pub(super) fn get(&self, mfn: Mfn) -> Option<&'static FrameInfo> {
        self.infos.get(usize::try_from(mfn.0.checked_sub(self.base)?).ok()?)
    }

    /// What there is about frames in a row: as many of them as the table has from `start` on.
    pub(super) fn range(&self, start: Mfn, count: u64) -> &'static [FrameInfo] {
        let first = start.0.checked_sub(self.base).and_then(|first| usize::try_from(first).ok());
        let rest = first.and_then(|first| self.infos.get(first..)).unwrap_or_default();
        rest.get(..usize::try_from(count).unwrap_or(usize::MAX)).unwrap_or(rest)
    }

    fn index(&self, mfn: Mfn) -> u32 {
        // The table has less than 2^32 entries.
        mfn.0.wrapping_sub(self.base) as u32
    }

    fn mfn(&self, index: u32) -> Mfn {
        Mfn(self.base.wrapping_add(u64::from(index)))
    }
}

/// Free blocks of one node and cleanliness.
struct Lists {
    /// First block by zone and order.
    heads: [[u32; ORDERS]; ZONES],
    /// A bit for each order whose list is not empty, by zone.
    filled: [u32; ZONES],
    frames: u64,
}

/// A free block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) mfn: Mfn,
    pub(super) order: u32,
    pub(super) dirty: bool,
    pub(super) node: NodeId,
}

impl Block {
    const fn frames(self) -> u64 {
        1u64.wrapping_shl(self.order)
    }

    fn zone(self) -> usize {
        let last = self.mfn.0 | self.frames().wrapping_sub(1);
        (64u32.wrapping_sub(last.leading_zeros()) as usize).min(ZONES - 1)
    }

    fn buddy(self) -> Mfn {
        Mfn(self.mfn.0 ^ self.frames())
    }

    /// Makes this the lower half of itself and returns the upper half.
    fn split(&mut self) -> Block {
        self.order = self.order.saturating_sub(1);
        Block { mfn: Mfn(self.mfn.0 | self.frames()), ..*self }
    }
}

impl Lists {
    fn new() -> Lists {
        Lists { heads: [[NIL; ORDERS]; ZONES], filled: [0; ZONES], frames: 0 }
    }

    fn set_head(&mut self, zone: usize, order: u32, index: u32) -> u32 {
        let Some(head) = self.heads.get_mut(zone).and_then(|z| z.get_mut(order as usize)) else { return NIL };
        let old = core::mem::replace(head, index);
        if let Some(filled) = self.filled.get_mut(zone) {
            let bit = 1u32.wrapping_shl(order);
            *filled = if index == NIL { *filled & !bit } else { *filled | bit };
        }
        old
    }

    fn push(&mut self, table: &Table, block: Block) {
        let Some(info) = table.get(block.mfn) else { return };
        info.store(State::new(Kind::Free, block.node).with_order(block.order).with_dirty(block.dirty));
        let index = table.index(block.mfn);
        let next = self.set_head(block.zone(), block.order, index);
        set_link(info, next, NIL);
        if let Some(n) = table.get(table.mfn(next)).filter(|_| next != NIL) {
            set_link(n, links(n).0, index);
        }
        self.frames = self.frames.saturating_add(block.frames());
    }

    fn unlink(&mut self, table: &Table, block: Block) {
        let Some(info) = table.get(block.mfn) else { return };
        let (next, prev) = links(info);
        if prev == NIL {
            self.set_head(block.zone(), block.order, next);
        } else if let Some(p) = table.get(table.mfn(prev)) {
            set_link(p, next, links(p).1);
        }
        if let Some(n) = table.get(table.mfn(next)).filter(|_| next != NIL) {
            set_link(n, links(n).0, prev);
        }
        info.store(State::new(Kind::Tail, block.node));
        self.frames = self.frames.saturating_sub(block.frames());
    }

    /// The smallest block of at least `order` in the highest zone up to `zone`.
    fn find(&self, table: &Table, order: u32, zone: usize) -> Option<Mfn> {
        for (z, &filled) in self.filled.iter().enumerate().take(zone.saturating_add(1)).rev() {
            let fitting = filled & u32::MAX.wrapping_shl(order);
            if fitting != 0 {
                let head = self.heads.get(z)?.get(fitting.trailing_zeros() as usize)?;
                return Some(table.mfn(*head));
            }
        }
        None
    }
}

/// `(next, previous)` in a free list.
fn links(info: &FrameInfo) -> (u32, u32) {
    let link = info.link.load(Ordering::Relaxed);
    (link as u32, (link >> 32) as u32)
}

fn set_link(info: &FrameInfo, next: u32, prev: u32) {
    info.link.store(u64::from(prev) << 32 | u64::from(next), Ordering::Relaxed);
}

struct Node {
    clean: Lists,
    dirty: Lists,
}

/// All free memory.
pub(super) struct Heap {
    nodes: Vec<Box<Node>>,
    /// Frames promised by claims and reserves, all domains together.
    pub(super) claimed: u64,
    /// Those of them that are set aside as reserves.
    pub(super) reserved: u64,
    /// Frames that only [`super::FrameAllocator::alloc_kept`] takes.
    pub(super) kept: u64,
}

impl Heap {
    pub(super) fn new(nodes: u8) -> Heap {
        let node = |_| Box::new(Node { clean: Lists::new(), dirty: Lists::new() });
        Heap { nodes: (0..nodes.max(1)).map(node).collect(), claimed: 0, reserved: 0, kept: 0 }
    }

    fn lists(&mut self, node: NodeId, dirty: bool) -> Option<&mut Lists> {
        self.nodes.get_mut(node.index()).map(|n| if dirty { &mut n.dirty } else { &mut n.clean })
    }

    /// Number of free frames.
    pub(super) fn free(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, n| sum.saturating_add(n.clean.frames).saturating_add(n.dirty.frames))
    }

    /// Number of free frames that are neither promised to anybody nor kept for the hypervisor.
    pub(super) fn unpromised(&self) -> u64 {
        self.free().saturating_sub(self.claimed).saturating_sub(self.kept)
    }

    /// Number of free frames of a node.
    pub(super) fn free_on(&self, node: NodeId) -> u64 {
        self.nodes.get(node.index()).map_or(0, |n| n.clean.frames.saturating_add(n.dirty.frames))
    }

    /// Number of free frames that wait to be zeroed.
    pub(super) fn dirty(&self) -> u64 {
        self.nodes.iter().fold(0, |sum, n| sum.saturating_add(n.dirty.frames))
    }

    fn push(&mut self, table: &Table, block: Block) {
        if let Some(lists) = self.lists(block.node, block.dirty) {
            lists.push(table, block);
        }
    }

    fn unlink(&mut self, table: &Table, block: Block) {
        if let Some(lists) = self.lists(block.node, block.dirty) {
            lists.unlink(table, block);
        }
    }

    /// Takes a block of exactly `order`: clean if there is one, of the wanted node if possible (or only of it).
    pub(super) fn alloc(&mut self, table: &Table, order: Order, placement: Placement) -> Option<Block> {
        let zone = match placement.address_bits {
            Some(bits) => (bits.saturating_sub(12) as usize).min(ZONES - 1),
            None => ZONES - 1,
        };
        let wanted = placement.node.unwrap_or_default();
        let others = if placement.exact_node { 0 } else { self.nodes.len() };
        let others = (0..others).map(|n| NodeId(n as u8)).filter(|&n| n != wanted);
        for node in core::iter::once(wanted).chain(others) {
            for dirty in [false, true] {
                let found = self.lists(node, dirty).and_then(|l| l.find(table, order.bits(), zone));
                if let Some(mut block) = found.and_then(|mfn| block_at(table, mfn)) {
                    self.unlink(table, block);
                    while block.order > order.bits() {
                        let upper = block.split();
                        self.push(table, upper);
                    }
                    return Some(block);
                }
            }
        }
        None
    }

    /// Takes a dirty block of at most `order` to be zeroed.
    pub(super) fn take_dirty(&mut self, table: &Table, order: u32) -> Option<Block> {
        for node in 0..self.nodes.len() {
            let found = self.lists(NodeId(node as u8), true).and_then(|l| l.find(table, 0, ZONES - 1));
            if let Some(mut block) = found.and_then(|mfn| block_at(table, mfn)) {
                self.unlink(table, block);
                while block.order > order {
                    let upper = block.split();
                    self.push(table, upper);
                }
                return Some(block);
            }
        }
        None
    }

    /// Returns a block, merging it with free buddies.
    pub(super) fn free_block(&mut self, table: &Table, mut block: Block) {
        while block.order < Order::MAX.bits() {
            let Some(buddy) = block_at(table, block.buddy()) else { break };
            if buddy.order != block.order || buddy.dirty != block.dirty || buddy.node != block.node {
                break;
            }
            self.unlink(table, buddy);
            if let Some(info) = table.get(block.mfn) {
                info.store(State::new(Kind::Tail, block.node));
            }
            block.mfn = Mfn(block.mfn.0.min(buddy.mfn.0));
            block.order = block.order.saturating_add(1);
        }
        self.push(table, block);
    }

    /// Returns frames `start..start+count`, all of one node, as the largest aligned blocks.
    pub(super) fn free_range(&mut self, table: &Table, start: Mfn, count: u64, dirty: bool, node: NodeId) {
        for (mfn, order) in aligned_pieces(start, count) {
            self.free_block(table, Block { mfn, order, dirty, node });
        }
    }

    /// Takes exactly the frames `start..start+count` out of the free lists, or none.
    pub(super) fn take_range(&mut self, table: &Table, start: Mfn, count: u64) -> bool {
        let end = start.0.saturating_add(count);
        let mut at = start.0;
        while at < end {
            let Some(mut block) = block_around(table, Mfn(at)) else {
                self.give_back(table, start, at.wrapping_sub(start.0));
                return false;
            };
            self.unlink(table, block);
            // Halve the block until what is left starts here and does not reach beyond the range.
            while block.mfn.0 != at || block.mfn.0.saturating_add(block.frames()) > end {
                let mut upper = block.split();
                if at >= upper.mfn.0 {
                    core::mem::swap(&mut block, &mut upper);
                }
                self.push(table, upper);
            }
            at = at.saturating_add(block.frames());
        }
        true
    }

    /// Undoes a partial [`Heap::take_range`]; the frames count as dirty from now on.
    fn give_back(&mut self, table: &Table, start: Mfn, count: u64) {
        for n in 0..count {
            let mfn = Mfn(start.0.wrapping_add(n));
            if let Some(info) = table.get(mfn) {
                self.free_block(table, Block { mfn, order: 0, dirty: true, node: info.load().node() });
            }
        }
    }
}

/// The free block that starts at `mfn`.
fn block_at(table: &Table, mfn: Mfn) -> Option<Block> {
    let state = table.get(mfn)?.load();
    (state.kind() == Kind::Free).then(|| Block { mfn, order: state.order(), dirty: state.dirty(), node: state.node() })
}

/// The free block that contains `mfn`.
fn block_around(table: &Table, mfn: Mfn) -> Option<Block> {
    (0..=Order::MAX.bits()).find_map(|order| {
        let head = Mfn(mfn.0 & u64::MAX.wrapping_shl(order));
        block_at(table, head).filter(|b| b.order >= order)
    })
}

/// Cuts a range of frames into the fewest blocks that are aligned to their size.
pub(super) fn aligned_pieces(start: Mfn, count: u64) -> impl Iterator<Item = (Mfn, u32)> {
    let (mut at, mut left) = (start.0, count);
    core::iter::from_fn(move || {
        let largest = left.checked_ilog2()?;
        let order = largest.min(at.trailing_zeros()).min(Order::MAX.bits());
        let piece = (Mfn(at), order);
        let frames = 1u64.wrapping_shl(order);
        (at, left) = (at.wrapping_add(frames), left.saturating_sub(frames));
        Some(piece)
    })
}
