//! A nested page table that is a sorted map: the model that real ones are compared with.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use radon_abi::errno::Errno;

use crate::frames::{FrameAllocator, Order};
use crate::p2m::{Entry, Lookup, NestedTable};
use crate::platform::PhysMemory;
use crate::sync::{Lock, Rank};
use crate::types::{Gfn, MachineAddr};

/// A nested page table of plain data. Holds gfns below 2^36.
pub struct TestTable {
    /// Mapped blocks by first gfn.
    blocks: Lock<BTreeMap<u64, (Order, Entry)>>,
    /// [`NestedTable::set`] fails with `ENOMEM` while this is set.
    pub fail: AtomicBool,
    limit: AtomicU64,
}

impl Default for TestTable {
    fn default() -> Self {
        TestTable {
            blocks: Lock::new(Rank::Console, BTreeMap::new()),
            fail: AtomicBool::new(false),
            limit: AtomicU64::new(u64::MAX),
        }
    }
}

fn covering(blocks: &BTreeMap<u64, (Order, Entry)>, gfn: u64) -> Option<(u64, Order, Entry)> {
    let (&base, &(order, entry)) = blocks.range(..=gfn).next_back()?;
    (gfn.wrapping_sub(base) < order.frames()).then_some((base, order, entry))
}

impl NestedTable for TestTable {
    fn root(&self) -> MachineAddr {
        MachineAddr(0)
    }

    fn limit(&self) -> Gfn {
        Gfn(1 << 36)
    }

    fn largest(&self) -> Order {
        Order::HUGE
    }

    fn get(&self, _: &dyn PhysMemory, gfn: Gfn) -> Lookup {
        let blocks = self.blocks.lock();
        if let Some((base, order, entry)) = covering(&blocks, gfn.0) {
            return Lookup { entry: entry.offset(gfn.0.wrapping_sub(base)), order };
        }
        // The largest order that a real table could have a hole of.
        let empty = |bits: &u32| {
            let order = Order::new(*bits).unwrap_or_default();
            let base = gfn.0 & !order.mask();
            covering(&blocks, base).is_none() && blocks.range(base..=base | order.mask()).next().is_none()
        };
        let bits = [36, 27, 18, 9].into_iter().find(empty).unwrap_or(0);
        Lookup { entry: Entry::HOLE, order: Order::new(bits).unwrap_or_default() }
    }

    fn set(&self, _: &dyn PhysMemory, _: &FrameAllocator, gfn: Gfn, order: Order, entry: Entry) -> Result<(), Errno> {
        if self.fail.load(Ordering::SeqCst) {
            return Err(Errno::ENOMEM);
        }
        let mut blocks = self.blocks.lock();
        // Split what is larger, down to the order wanted.
        while let Some((base, big, old)) = covering(&blocks, gfn.0).filter(|b| b.1 > order) {
            let small = Order::new(big.bits().saturating_sub(9)).unwrap_or_default();
            blocks.remove(&base);
            for n in 0..512u64 {
                let offset = n.wrapping_mul(small.frames());
                blocks.insert(base.wrapping_add(offset), (small, old.offset(offset)));
            }
        }
        let inside: alloc::vec::Vec<u64> = blocks.range(gfn.0..=gfn.0 | order.mask()).map(|b| *b.0).collect();
        for base in inside {
            blocks.remove(&base);
        }
        if entry.kind.present() {
            blocks.insert(gfn.0, (order, entry));
        }
        Ok(())
    }

    fn pages(&self) -> u64 {
        0
    }

    fn page_limit(&self) -> u64 {
        self.limit.load(Ordering::SeqCst)
    }

    fn set_page_limit(&self, pages: u64) {
        self.limit.store(pages, Ordering::SeqCst);
    }

    fn free(&self, _: &FrameAllocator, _: u64) -> bool {
        false
    }
}
