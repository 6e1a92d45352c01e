//! AMD's nested page table: the storage of a p2m in the format that the processor walks (AMD64 Architecture
//! Programmer's Manual volume 2, section 15.25), in safe code over untyped machine memory.
//!
//! Four levels; leaves of 4 KiB, 2 MiB and, if the processor has them, 1 GiB. All policy is in [`radon_core::p2m`].
//!
//! A table page belongs to its place in the guest's address space from its first use until [`NestedTable::free`]: when
//! a large leaf takes its place, a note of it is kept, and a later split uses the same page again. So a walk that reads
//! without the lock, and a processor that has cached a reference to the table, can only meet entries for the addresses
//! they look for. The notes are in a second frame behind each directory that can hold large leaves: its word `n` is the
//! machine address of the table once made for slot `n`, or 0.
//!
//! All pages of a table hang on a list through [`FrameAllocator::note`]. Changes are made under the p2m's lock.

mod entry;
#[cfg(test)]
mod tests;

use core::sync::atomic::{AtomicU64, Ordering};

use radon_abi::errno::Errno;
use radon_core::frames::{FrameAllocator, Order, Placement};
use radon_core::p2m::{Entry, Lookup, NestedTable};
use radon_core::platform::PhysMemory;
use radon_core::types::{Gfn, MachineAddr, Mfn, PAGE_SIZE};

use entry::Raw;

/// Levels are numbered by what an entry covers: 2^(9 * level) frames.
const ROOT_LEVEL: u32 = 3;
const SLOTS: u64 = 512;
/// Guest-physical addresses that four levels can translate.
const ADDRESS_BITS: u32 = 48;

/// A nested page table.
pub struct Npt {
    root: Mfn,
    largest: Order,
    limit: Gfn,
    /// First page of the list of all pages.
    list: AtomicU64,
    pages: AtomicU64,
    page_limit: AtomicU64,
}

/// A table page and its level.
#[derive(Clone, Copy)]
struct Table {
    mfn: Mfn,
    level: u32,
}

impl Table {
    /// The slot for a guest frame.
    const fn slot(self, gfn: Gfn) -> u64 {
        gfn.0.wrapping_shr(self.level.wrapping_mul(9)) & (SLOTS - 1)
    }

    /// Machine address of a slot.
    const fn at(self, slot: u64) -> MachineAddr {
        MachineAddr(self.mfn.addr().0.wrapping_add(slot.wrapping_mul(8)))
    }

    /// Machine address of the note about a slot's table. Only for tables with [`Table::has_notes`].
    const fn note_at(self, slot: u64) -> MachineAddr {
        MachineAddr(self.at(slot).0.wrapping_add(PAGE_SIZE))
    }

    /// Whether slots can hold large leaves, so that tables may be displaced.
    const fn has_notes(self) -> bool {
        self.level == 1 || self.level == 2
    }

    /// Order of the frame block that makes such a table.
    const fn block(self) -> Order {
        match Order::new(if self.has_notes() { 1 } else { 0 }) {
            Some(order) => order,
            None => Order::PAGE,
        }
    }
}

const fn order_of(level: u32) -> Order {
    match Order::new(level.wrapping_mul(9)) {
        Some(order) => order,
        None => Order::PAGE,
    }
}

impl Npt {
    /// An empty table for guest-physical addresses of `address_bits` bits (at most 48). `largest` is the largest leaf the
    /// processor knows; `page_limit` is how many pages the table may use.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn new(
        memory: &dyn PhysMemory,
        frames: &FrameAllocator,
        address_bits: u32,
        largest: Order,
        page_limit: u64,
    ) -> Result<Npt, Errno> {
        let root = frames.alloc_hypervisor(memory, Order::PAGE, Placement::default())?;
        let bits = address_bits.clamp(12, ADDRESS_BITS).wrapping_sub(12);
        Ok(Npt {
            root,
            largest: largest.clamp(Order::PAGE, Order::HUGE),
            limit: Gfn(1u64.wrapping_shl(bits)),
            list: AtomicU64::new(root.0),
            pages: AtomicU64::new(1),
            page_limit: AtomicU64::new(page_limit),
        })
    }

    const fn root_table(&self) -> Table {
        Table { mfn: self.root, level: ROOT_LEVEL }
    }

    /// A new table with all entries absent.
    fn alloc(&self, memory: &dyn PhysMemory, frames: &FrameAllocator, level: u32) -> Result<Table, Errno> {
        let order = Table { mfn: Mfn(0), level }.block();
        let pages = self.pages().saturating_add(order.frames());
        if pages > self.page_limit() {
            return Err(Errno::ENOMEM);
        }
        let mfn = frames.alloc_hypervisor(memory, order, Placement::default())?;
        frames.set_note(mfn, self.list.load(Ordering::Relaxed));
        self.list.store(mfn.0, Ordering::Relaxed);
        self.pages.store(pages, Ordering::Relaxed);
        Ok(Table { mfn, level })
    }

    /// Makes the slot refer to a table that says what the slot's leaf said: the one made for it before, or a new one.
    fn split(
        &self,
        memory: &dyn PhysMemory,
        frames: &FrameAllocator,
        table: Table,
        slot: u64,
        leaf: Entry,
    ) -> Result<Table, Errno> {
        let level = table.level.saturating_sub(1);
        let kept = if table.has_notes() { memory.load_u64(table.note_at(slot)) } else { 0 };
        let child =
            if kept == 0 { self.alloc(memory, frames, level)? } else { Table { mfn: MachineAddr(kept).mfn(), level } };
        let order = order_of(level);
        // A new table is all zero, which says hole already.
        if kept != 0 || leaf != Entry::HOLE {
            for n in 0..SLOTS {
                let part = leaf.offset(n.wrapping_mul(order.frames()));
                memory.store_u64(child.at(n), Raw::leaf(part, order).0);
            }
        }
        if table.has_notes() {
            memory.store_u64(table.note_at(slot), child.mfn.addr().0);
        }
        memory.store_u64(table.at(slot), Raw::table(child.mfn).0);
        Ok(child)
    }
}

impl NestedTable for Npt {
    fn root(&self) -> MachineAddr {
        self.root.addr()
    }

    fn limit(&self) -> Gfn {
        self.limit
    }

    fn largest(&self) -> Order {
        self.largest
    }

    fn get(&self, memory: &dyn PhysMemory, gfn: Gfn) -> Lookup {
        let mut table = self.root_table();
        if gfn >= self.limit {
            return Lookup { entry: Entry::HOLE, order: order_of(ROOT_LEVEL) };
        }
        loop {
            let raw = Raw(memory.load_u64(table.at(table.slot(gfn))));
            match raw.as_table(table.level) {
                Some(mfn) => table = Table { mfn, level: table.level.saturating_sub(1) },
                None => {
                    let order = order_of(table.level);
                    return Lookup { entry: raw.entry().offset(gfn.0 & order.mask()), order };
                }
            }
        }
    }

    fn set(
        &self,
        memory: &dyn PhysMemory,
        frames: &FrameAllocator,
        gfn: Gfn,
        order: Order,
        entry: Entry,
    ) -> Result<(), Errno> {
        let mut table = self.root_table();
        loop {
            let slot = table.slot(gfn);
            if order_of(table.level) <= order {
                memory.store_u64(table.at(slot), Raw::leaf(entry, order_of(table.level)).0);
                return Ok(());
            }
            let raw = Raw(memory.load_u64(table.at(slot)));
            table = match raw.as_table(table.level) {
                Some(mfn) => Table { mfn, level: table.level.saturating_sub(1) },
                None if raw.entry() == Entry::HOLE && entry == Entry::HOLE => return Ok(()),
                None => self.split(memory, frames, table, slot, raw.entry())?,
            };
        }
    }

    fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    fn page_limit(&self) -> u64 {
        self.page_limit.load(Ordering::Relaxed)
    }

    fn set_page_limit(&self, pages: u64) {
        self.page_limit.store(pages, Ordering::Relaxed);
    }

    fn free(&self, frames: &FrameAllocator, pages: u64) -> bool {
        for _ in 0..pages {
            // Frame 0 is never allocated, so it ends the list.
            let first = Mfn(self.list.load(Ordering::Relaxed));
            if first.0 == 0 {
                return false;
            }
            self.list.store(frames.note(first), Ordering::Relaxed);
            frames.free_hypervisor(first);
        }
        self.list.load(Ordering::Relaxed) != 0
    }
}
