//! Nested page tables: entries of all sizes, splitting, and what a walk of the processor sees.

use super::*;
use alloc::boxed::Box;
use alloc::vec::Vec;
use proptest::prelude::*;
use radon_core::frames::FrameInfo;
use radon_core::p2m::Kind;
use radon_core::testing::{TestMemory, TestTable};
use radon_core::types::NodeId;

struct Machine {
    memory: TestMemory,
    frames: FrameAllocator,
}

fn machine(frames: u64) -> Machine {
    let table: Vec<FrameInfo> = (0..frames).map(|_| FrameInfo::absent()).collect();
    let allocator = FrameAllocator::new(Box::leak(table.into_boxed_slice()), Mfn(0), 1);
    allocator.add_region(Mfn(0), frames, NodeId(0));
    Machine { memory: TestMemory::new(frames), frames: allocator }
}

fn npt(m: &Machine) -> Npt {
    Npt::new(&m.memory, &m.frames, 48, Order::HUGE, u64::MAX).unwrap()
}

fn ram(mfn: u64) -> Entry {
    Entry { kind: Kind::RamRw, mfn: Mfn(mfn) }
}

/// Walks as the processor does: the frame and the leaf's bits.
fn walk(m: &Machine, npt: &Npt, gfn: u64) -> Option<(u64, u64)> {
    let mut table = npt.root().0;
    for level in (0..4).rev() {
        let raw = m.memory.load_u64(MachineAddr(table + (gfn >> (9 * level) & 511) * 8));
        if raw & 1 == 0 {
            return None;
        }
        let address = raw & 0x000f_ffff_ffff_f000;
        if level == 0 || raw & 0x80 != 0 {
            let mask = (1u64 << (9 * level)) - 1;
            assert_eq!(address >> 12 & mask, 0, "address bits below a large leaf");
            return Some((address >> 12 | gfn & mask, raw));
        }
        table = address;
    }
    None
}

#[test]
fn splits_and_merges_in_the_same_pages() {
    let m = machine(64);
    let t = npt(&m);
    assert_eq!(t.get(&m.memory, Gfn(0)), Lookup { entry: Entry::HOLE, order: Order::new(27).unwrap() });
    t.set(&m.memory, &m.frames, Gfn(0x40000), Order::HUGE, ram(0x80000)).unwrap();
    assert_eq!(t.get(&m.memory, Gfn(0x40123)), Lookup { entry: ram(0x80123), order: Order::HUGE });
    let used = t.pages();
    t.set(&m.memory, &m.frames, Gfn(0x40123), Order::PAGE, Entry::HOLE).unwrap();
    assert_eq!(t.get(&m.memory, Gfn(0x40123)), Lookup { entry: Entry::HOLE, order: Order::PAGE });
    assert_eq!(t.get(&m.memory, Gfn(0x40124)), Lookup { entry: ram(0x80124), order: Order::PAGE });
    assert_eq!(t.get(&m.memory, Gfn(0x40200)), Lookup { entry: ram(0x80200), order: Order::LARGE });
    assert_eq!(walk(&m, &t, 0x40200).unwrap().0, 0x80200);
    let split = t.pages();
    assert!(split > used);
    for _ in 0..3 {
        t.set(&m.memory, &m.frames, Gfn(0x40000), Order::HUGE, ram(0x80000)).unwrap();
        assert_eq!(t.get(&m.memory, Gfn(0x40123)), Lookup { entry: ram(0x80123), order: Order::HUGE });
        t.set(&m.memory, &m.frames, Gfn(0x40123), Order::PAGE, ram(7)).unwrap();
        assert_eq!(walk(&m, &t, 0x40123).unwrap().0, 7);
        assert_eq!(walk(&m, &t, 0x40122).unwrap().0, 0x80122);
    }
    assert_eq!(t.pages(), split, "the pages are used again");
}

#[test]
fn page_limit_and_no_memory() {
    let m = machine(16);
    let t = Npt::new(&m.memory, &m.frames, 40, Order::LARGE, 6).unwrap();
    assert_eq!((t.limit(), t.largest()), (Gfn(1 << 28), Order::LARGE));
    t.set(&m.memory, &m.frames, Gfn(0), Order::PAGE, ram(1)).unwrap();
    assert_eq!(t.pages(), 6);
    assert_eq!(t.set(&m.memory, &m.frames, Gfn(512), Order::PAGE, ram(2)), Err(Errno::ENOMEM));
    t.set(&m.memory, &m.frames, Gfn(512), Order::LARGE, ram(512)).unwrap();
    assert_eq!(t.set(&m.memory, &m.frames, Gfn(513), Order::PAGE, Entry::HOLE), Err(Errno::ENOMEM));
    assert_eq!(t.get(&m.memory, Gfn(513)).entry, ram(513));
    t.set_page_limit(7);
    assert_eq!(t.set(&m.memory, &m.frames, Gfn(513), Order::PAGE, Entry::HOLE), Ok(()));
    assert_eq!((t.pages(), t.page_limit()), (7, 7));
    t.set_page_limit(u64::MAX);
    t.set(&m.memory, &m.frames, Gfn(1024), Order::LARGE, ram(1024)).unwrap();
    let mut taken = Vec::new();
    while let Ok(f) = m.frames.alloc_hypervisor(&m.memory, Order::PAGE, Placement::default()) {
        taken.push(f);
    }
    assert_eq!(t.set(&m.memory, &m.frames, Gfn(1025), Order::PAGE, Entry::HOLE), Err(Errno::ENOMEM));
    assert_eq!(t.set(&m.memory, &m.frames, Gfn(1 << 20), Order::PAGE, Entry::HOLE), Ok(()), "a hole needs no table");
}

#[test]
fn all_pages_come_back() {
    let m = machine(128);
    let free = m.frames.free_frames();
    let t = npt(&m);
    for gfn in [0, 1 << 20, 1 << 30, (1 << 36) - 1] {
        t.set(&m.memory, &m.frames, Gfn(gfn), Order::PAGE, ram(1)).unwrap();
    }
    t.set(&m.memory, &m.frames, Gfn(0), Order::HUGE, ram(0)).unwrap();
    let mut calls = 0;
    while t.free(&m.frames, 2) {
        calls += 1;
    }
    assert!(calls > 3);
    assert!(!t.free(&m.frames, 1));
    assert_eq!(m.frames.free_frames(), free);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The table, the processor's view of it and a sorted map agree after every change.
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec((0u64..3 << 18, 0usize..8, 0u8..10), 1..40),
                         probes in prop::collection::vec(0u64..3 << 18, 16)) {
        let m = machine(1024);
        let (t, model) = (npt(&m), TestTable::default());
        for (at, size, kind) in steps {
            let order = [Order::PAGE, Order::PAGE, Order::PAGE, Order::LARGE, Order::LARGE, Order::LARGE, Order::HUGE,
                         Order::PAGE][size];
            // Crowd the steps so that they meet.
            let gfn = Gfn((at & !0x1f0) & !order.mask());
            let kind = Kind::from_bits(kind);
            let mfn = if kind == Kind::Hole { Mfn(0) } else { Mfn(gfn.0 ^ 1 << 20) };
            let entry = Entry { kind, mfn };
            t.set(&m.memory, &m.frames, gfn, order, entry).unwrap();
            model.set(&m.memory, &m.frames, gfn, order, entry).unwrap();
            let near = [gfn.0, gfn.0 | order.mask(), gfn.0 ^ 1, gfn.0 ^ 512, gfn.0.saturating_sub(1)];
            for g in near.into_iter().chain(probes.iter().copied()) {
                let (got, want) = (t.get(&m.memory, Gfn(g)), model.get(&m.memory, Gfn(g)));
                prop_assert_eq!(got.entry, want.entry, "at {:#x}", g);
                if want.entry.kind.present() {
                    prop_assert_eq!(got.order, want.order);
                }
                let hardware = walk(&m, &t, g);
                prop_assert_eq!(hardware.map(|h| h.0), want.entry.kind.present().then_some(want.entry.mfn.0));
                if let Some((_, raw)) = hardware {
                    prop_assert_eq!(raw & 2 != 0, want.entry.kind.writable());
                    prop_assert_eq!(raw >> 63 == 0, want.entry.kind.executable());
                }
            }
        }
    }
}
