//! A nested page table that is a sorted map: the model that real ones are compared with.

use crate::sync::atomic::{AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use radon_abi::errno::Errno;

use crate::frames::{FrameAllocator, Order};
use crate::p2m::{Entry, Lookup, NestedTable};
use crate::platform::PhysMemory;
use crate::sync::{Lock, Rank};
use crate::types::{Gfn, MachineAddr};

/// A nested page table of plain data. Holds gfns below 2^36. A clone is the same table.
#[derive(Clone)]
pub struct TestTable(Arc<Inner>);

struct Inner {
    /// Mapped blocks by first gfn.
    blocks: Lock<BTreeMap<u64, (Order, Entry)>>,
    /// How many more changes that need memory succeed before one fails; then none does.
    lucky: AtomicU64,
    limit: AtomicU64,
    after_get: spin::once::Once<Box<dyn Fn() + Send + Sync>>,
}

impl Default for TestTable {
    fn default() -> Self {
        TestTable(Arc::new(Inner {
            blocks: Lock::new(Rank::Console, BTreeMap::new()),
            lucky: AtomicU64::new(u64::MAX),
            limit: AtomicU64::new(u64::MAX),
            after_get: spin::once::Once::new(),
        }))
    }
}

impl TestTable {
    /// After this many more changes that may need a table page, all of them fail with `ENOMEM`.
    pub fn fail_after(&self, changes: u64) {
        self.0.lucky.store(changes, Ordering::SeqCst);
    }

    /// Has this happen after each lookup, as if another CPU did it between the lookup and what follows it.
    pub fn after_get(&self, f: impl Fn() + Send + Sync + 'static) {
        self.0.after_get.call_once(|| Box::new(f));
    }

    fn lookup(&self, gfn: Gfn) -> Lookup {
        let blocks = self.0.blocks.lock();
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
}

fn covering(blocks: &BTreeMap<u64, (Order, Entry)>, gfn: u64) -> Option<(u64, Order, Entry)> {
    let (&base, &(order, entry)) = blocks.range(..=gfn).next_back()?;
    (gfn.wrapping_sub(base) < order.frames()).then_some((base, order, entry))
}

impl NestedTable for TestTable {
    fn root(&self) -> MachineAddr {
        // As good as any other number that no other table has.
        MachineAddr(Arc::as_ptr(&self.0).addr() as u64)
    }

    fn limit(&self) -> Gfn {
        Gfn(1 << 36)
    }

    fn largest(&self) -> Order {
        Order::HUGE
    }

    fn get(&self, _: &dyn PhysMemory, gfn: Gfn) -> Lookup {
        let found = self.lookup(gfn);
        if let Some(f) = self.0.after_get.get() {
            f();
        }
        found
    }

    fn set(&self, _: &dyn PhysMemory, _: &FrameAllocator, gfn: Gfn, order: Order, entry: Entry) -> Result<(), Errno> {
        let found = self.lookup(gfn);
        // A real table needs a page then, unless it has one in reserve. Holes in holes are there already.
        if found.order > order && (found.entry, entry) != (Entry::HOLE, Entry::HOLE) {
            let lucky = self.0.lucky.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            lucky.map_err(|_| Errno::ENOMEM)?;
        }
        let mut blocks = self.0.blocks.lock();
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
        if entry != Entry::HOLE {
            blocks.insert(gfn.0, (order, entry));
        }
        Ok(())
    }

    fn pages(&self) -> u64 {
        0
    }

    fn page_limit(&self) -> u64 {
        self.0.limit.load(Ordering::SeqCst)
    }

    fn set_page_limit(&self, pages: u64) {
        self.0.limit.store(pages, Ordering::SeqCst);
    }

    fn free(&self, _: &FrameAllocator, _: u64) -> bool {
        false
    }
}
