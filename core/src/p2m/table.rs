//! What a p2m entry says, and the nested page table as `core` sees it.

use radon_abi::errno::Errno;

use crate::frames::{FrameAllocator, Order};
use crate::platform::PhysMemory;
use crate::types::{Gfn, MachineAddr, Mfn};

/// What a guest frame is.
///
/// The numbers are stored in page-table entries. Kinds that are not [`Kind::present`] may carry a word in place of the
/// frame number: the numbers from 12 up are kept for absent frames that have a source (a parent domain, a pager).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Kind {
    /// Nothing.
    #[default]
    Hole = 0,
    /// The domain's own memory; the entry is the owner's claim on the frame.
    RamRw = 1,
    /// The domain's own memory, not writable.
    RamRo = 2,
    /// The domain's own memory; the first write is to be noted before it happens.
    RamLogDirty = 3,
    /// A frame that the hypervisor provides (shared information, grant table); the entry holds a reference.
    Special = 4,
    /// Device memory at this machine address, not cached. No reference.
    Mmio = 5,
    /// Machine memory that is not the allocator's and may be cached: firmware tables, boot data. No reference.
    Firmware = 6,
    /// Another domain's frame, mapped with privilege; the entry holds a reference.
    Foreign = 7,
    /// A frame that another domain granted; the entry holds a reference.
    GrantRw = 8,
    /// As [`Kind::GrantRw`], not writable.
    GrantRo = 9,
    /// The domain's own memory, which has no frame yet: it is given one when it is first touched.
    OnDemand = 12,
}

impl Kind {
    /// The kind of that number.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Kind {
        match bits {
            1 => Kind::RamRw,
            2 => Kind::RamRo,
            3 => Kind::RamLogDirty,
            4 => Kind::Special,
            5 => Kind::Mmio,
            6 => Kind::Firmware,
            7 => Kind::Foreign,
            8 => Kind::GrantRw,
            9 => Kind::GrantRo,
            12 => Kind::OnDemand,
            _ => Kind::Hole,
        }
    }

    /// Whether the guest can reach a frame through the entry.
    #[must_use]
    pub const fn present(self) -> bool {
        !matches!(self, Kind::Hole | Kind::OnDemand)
    }

    /// Whether the guest may write without a fault.
    #[must_use]
    pub const fn writable(self) -> bool {
        matches!(self, Kind::RamRw | Kind::Special | Kind::Mmio | Kind::Firmware | Kind::Foreign | Kind::GrantRw)
    }

    /// Whether others may write on behalf of the guest, who say so to the log.
    #[must_use]
    pub const fn writable_by_reference(self) -> bool {
        self.writable() || matches!(self, Kind::RamLogDirty)
    }

    /// Whether the guest may fetch instructions. Frames of other domains are data.
    #[must_use]
    pub const fn executable(self) -> bool {
        matches!(self, Kind::RamRw | Kind::RamRo | Kind::RamLogDirty | Kind::Special | Kind::Mmio | Kind::Firmware)
    }

    /// Whether the processor may cache it.
    #[must_use]
    pub const fn cacheable(self) -> bool {
        !matches!(self, Kind::Mmio)
    }

    /// The domain's own memory in any form.
    #[must_use]
    pub const fn own_ram(self) -> bool {
        matches!(self, Kind::RamRw | Kind::RamRo | Kind::RamLogDirty)
    }

    /// Memory with an owner and a count, so that a reference can be taken.
    #[must_use]
    pub const fn counted(self) -> bool {
        self.own_ram() || matches!(self, Kind::Special | Kind::Foreign | Kind::GrantRw | Kind::GrantRo)
    }

    /// A mapping of another domain's frame.
    #[must_use]
    pub const fn others(self) -> bool {
        matches!(self, Kind::Foreign | Kind::GrantRw | Kind::GrantRo)
    }
}

/// One p2m entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// What the guest frame is.
    pub kind: Kind,
    /// The machine frame; 0 for a hole.
    pub mfn: Mfn,
}

impl Entry {
    /// No entry.
    pub const HOLE: Entry = Entry { kind: Kind::Hole, mfn: Mfn(0) };

    /// The entry `frames` frames further into a large one.
    #[must_use]
    pub const fn offset(self, frames: u64) -> Entry {
        if self.kind.present() { Entry { mfn: Mfn(self.mfn.0.wrapping_add(frames)), ..self } } else { self }
    }
}

/// What a lookup found: the entry of exactly the frame asked for, and the order of the (aligned) block around it that
/// is mapped alike by one table entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// The entry.
    pub entry: Entry,
    /// Order of the block; may exceed [`Order::HUGE`] for holes.
    pub order: Order,
}

/// A nested page table of some architecture: only storage, all policy is in [`super::P2m`].
///
/// `get` runs at any time without a lock. All other methods run under the p2m's lock. A table page, once linked, holds
/// only entries for its own part of the guest's address space until [`NestedTable::free`]; so a concurrent `get` gives
/// either the old or the new entry.
pub trait NestedTable: Send + Sync {
    /// Machine address of the root, for the processor.
    fn root(&self) -> MachineAddr;

    /// One past the largest guest frame it can hold.
    fn limit(&self) -> Gfn;

    /// The largest mapping it can hold: [`Order::PAGE`], [`Order::LARGE`] or [`Order::HUGE`].
    fn largest(&self) -> Order;

    /// Looks up one frame; a hole at and beyond [`NestedTable::limit`].
    fn get(&self, memory: &dyn PhysMemory, gfn: Gfn) -> Lookup;

    /// Replaces the block of this order at `gfn`, which is aligned to it and below the limit; larger mappings around it
    /// are split. `entry` is that of the first frame. No TLB is flushed.
    ///
    /// # Errors
    /// `ENOMEM` if a table page is missing (none free, or the domain has as many as it may); nothing was changed.
    /// Writing over a block that was last written with the same order cannot fail.
    fn set(
        &self,
        memory: &dyn PhysMemory,
        frames: &FrameAllocator,
        gfn: Gfn,
        order: Order,
        entry: Entry,
    ) -> Result<(), Errno>;

    /// Number of table pages in use.
    fn pages(&self) -> u64;

    /// Number of table pages that it may use.
    fn page_limit(&self) -> u64;

    /// Sets the number of table pages that it may use.
    fn set_page_limit(&self, pages: u64);

    /// Frees up to `pages` table pages, without looking at the entries; returns whether any is left. Only for a table
    /// that no processor will use again and that is not read any more.
    fn free(&self, frames: &FrameAllocator, pages: u64) -> bool;
}
