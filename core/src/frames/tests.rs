//! The frame allocator: owners, counts, claims, and the buddy lists against a model.

use super::*;
use crate::testing::TestMemory;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

fn allocator(frames: u64) -> (FrameAllocator, TestMemory) {
    let table: Vec<FrameInfo> = (0..frames).map(|_| FrameInfo::absent()).collect();
    let allocator = FrameAllocator::new(Box::leak(table.into_boxed_slice()), Mfn(0), 1);
    allocator.add_region(Mfn(0), frames, NodeId(0));
    (allocator, TestMemory::new(frames))
}

const D: DomainId = DomainId(3);

#[test]
fn all_memory_comes_and_goes() {
    let (a, m) = allocator(4096);
    assert_eq!(a.free_frames(), 4095, "frame 0 is not handed in");
    a.account(D).set_limit(10_000);
    let mut held = Vec::new();
    while let Ok(f) = a.alloc_domain(&m, D, Order(3), Placement::default()) {
        assert!(Order(3).aligns(f.start().0));
        held.push(f);
    }
    assert_eq!(a.free_frames(), 7, "what is left beside frame 0");
    assert_eq!(a.account(D).pages(), 4088);
    held.clear();
    assert_eq!((a.free_frames(), a.account(D).pages()), (4095, 0));
    assert!(a.alloc_domain(&m, D, Order(11), Placement::default()).is_err(), "dirty and above 2 MiB");
    while a.scrub_some(&m) {}
    assert_eq!(a.dirty_frames(), 0);
    assert_eq!(a.alloc_domain(&m, D, Order(11), Placement::default()).unwrap().start(), Mfn(2048));
}

#[test]
fn limits_and_claims() {
    let (a, m) = allocator(64);
    a.account(D).set_limit(8);
    let other = DomainId(4);
    a.account(other).set_limit(1000);
    let f = a.alloc_domain(&m, D, Order(2), Placement::default()).unwrap();
    assert!(a.alloc_domain(&m, D, Order(3), Placement::default()).is_err());
    assert_eq!(a.account(D).pages(), 4);
    assert_eq!(a.claim(D, 9), Err(Errno::EINVAL));
    assert_eq!(a.claim(D, 4), Err(Errno::EINVAL), "it has that");
    assert_eq!(a.claim(other, 1000), Err(Errno::ENOMEM));
    a.claim(D, 8).unwrap();
    assert_eq!(a.claim(D, 7), Err(Errno::EINVAL), "one at a time");
    assert_eq!(a.claimed_frames(), 4);
    let mut rest = Vec::new();
    while let Ok(f) = a.alloc_domain(&m, other, Order::PAGE, Placement::default()) {
        rest.push(f);
    }
    assert_eq!(a.free_frames(), 4, "left for the claim");
    assert!(a.alloc_hypervisor(&m, Order::PAGE, Placement::default()).is_err());
    let g = a.alloc_domain(&m, D, Order::PAGE, Placement::default()).unwrap();
    assert_eq!(a.claimed_frames(), 3);
    a.claim(D, 0).unwrap();
    assert!(a.alloc_hypervisor(&m, Order::PAGE, Placement::default()).is_ok());
    drop((f, g, rest));
    assert_eq!(a.account(other).pages(), 0);
}

#[test]
fn the_last_frames_are_the_heap_s() {
    let (a, m) = allocator(64);
    a.account(D).set_limit(1000);
    a.keep(16);
    assert_eq!(a.claim(D, 48), Err(Errno::ENOMEM), "63 are free");
    assert_eq!(a.set_reserve(D, 48), Err(Errno::ENOMEM));
    a.claim(D, 47).unwrap();
    // What is promised to others does not count for what cannot fail.
    let chunk = a.alloc_kept(11).unwrap();
    assert_eq!((a.free_frames(), chunk.0 % 16), (52, 0));
    assert!(!a.free_kept(chunk, 10) && !a.free_kept(Mfn(chunk.0 + 1), 11));
    assert!(a.free_kept(chunk, 11) && !a.free_kept(chunk, 11));
    assert_eq!(a.free_frames(), 63);
    a.claim(D, 0).unwrap();
    let mut all = Vec::new();
    while let Ok(f) = a.alloc_domain(&m, D, Order::PAGE, Placement::default()) {
        all.push(f);
    }
    assert_eq!((a.free_frames(), a.has_room()), (16, false));
    assert!(a.alloc_hypervisor(&m, Order::PAGE, Placement::default()).is_err());
    assert!(a.alloc_special(&m, D).is_err());
    assert!(a.take_range(D, Mfn(1), 1).is_err());
    let last: Vec<_> = core::iter::from_fn(|| a.alloc_kept(1).ok()).collect();
    assert_eq!((last.len(), a.free_frames()), (16, 0));
    assert!(last.into_iter().all(|mfn| a.free_kept(mfn, 1)));
    all.pop();
    assert!(a.has_room() && a.alloc_special(&m, D).is_ok());
}

#[test]
fn address_width() {
    let (a, m) = allocator(1024);
    let low = Placement { address_bits: Some(12 + 5), ..Placement::default() };
    let mut seen = 0;
    while let Ok(mfn) = a.alloc_hypervisor(&m, Order::PAGE, low) {
        assert!(mfn.0 < 32);
        seen += 1;
    }
    assert_eq!(seen, 31);
    assert!(a.alloc_hypervisor(&m, Order::PAGE, Placement::default()).unwrap().0 >= 512, "high memory first");
}

#[test]
fn references_outlive_the_owner() {
    let (a, m) = allocator(64);
    a.account(D).set_limit(64);
    let free = a.free_frames();
    let f = a.alloc_domain(&m, D, Order::PAGE, Placement::default()).unwrap();
    let mfn = f.start();
    assert!(a.get(mfn, DomainId(9)).is_none());
    let r = a.get(mfn, D).unwrap();
    let r2 = a.get_any(mfn).unwrap();
    drop(f);
    assert_eq!((a.free_frames(), a.account(D).pages()), (free - 1, 1), "charged until the last reference goes");
    drop(r);
    let r3 = a.get(mfn, D).unwrap();
    drop(r2);
    a.release(mfn, 1); // a second release changes nothing
    assert_eq!(r3.owner(), D);
    drop(r3);
    assert_eq!((a.free_frames(), a.account(D).pages()), (free, 0));
    assert!(a.get(mfn, D).is_none());
    a.put(mfn);
    a.release(mfn, 1);
    a.free_hypervisor(mfn);
    assert_eq!(a.free_frames(), free, "double frees change nothing");
}

#[test]
fn special_frames_are_not_charged() {
    let (a, m) = allocator(64);
    let free = a.free_frames();
    let mfn = a.alloc_special(&m, D).unwrap();
    assert_eq!((a.kind(mfn), a.owner(mfn), a.account(D).pages()), (Kind::Special, Some(D), 0));
    a.release(mfn, 1);
    assert_eq!((a.free_frames(), a.account(D).pages()), (free, 0));
}

#[test]
fn ranges() {
    let (a, m) = allocator(2048);
    let taken = a.take_range(D, Mfn(100), 700).unwrap();
    assert_eq!(a.free_frames(), 2047 - 700);
    assert!(matches!(a.take_range(D, Mfn(50), 51), Err(Errno::EBUSY)));
    assert_eq!((a.free_frames(), a.account(D).pages()), (2047 - 700, 700));
    assert!(a.take_range(D, Mfn(0), 2).is_err(), "frame 0 is nobody's");
    assert!(a.take_range(D, Mfn(2047), 2).is_err(), "beyond the end");
    drop(taken);
    assert_eq!(a.account(D).pages(), 0);
    while a.scrub_some(&m) {}
    a.account(D).set_limit(1024);
    assert!(a.alloc_domain(&m, D, Order(10), Placement::default()).is_ok(), "all merged again");
}

#[test]
fn parking() {
    let (a, _) = allocator(64);
    a.account(D).set_limit(1);
    let f = a.take_range(D, Mfn(5), 1).unwrap();
    f.mapped();
    assert!(!a.park(Mfn(5), DomainId(4)));
    assert!(a.park(Mfn(5), D));
    assert!(!a.park(Mfn(5), D));
    assert_eq!((a.account(D).pages(), a.free_frames()), (0, 62));
    assert!(a.unpark(Mfn(5), DomainId(4)).is_none());
    a.account(D).set_limit(0);
    assert!(a.unpark(Mfn(5), D).is_none());
    a.account(D).set_limit(1);
    let f = a.unpark(Mfn(5), D).unwrap();
    assert!(a.unpark(Mfn(5), D).is_none());
    f.mapped();
    assert!(a.park(Mfn(5), D));
    a.release(Mfn(5), 1);
    assert_eq!((a.account(D).pages(), a.free_frames()), (0, 63));
}

#[test]
fn reserved_and_holes() {
    let table: Vec<FrameInfo> = (0..100).map(|_| FrameInfo::absent()).collect();
    let a = FrameAllocator::new(Box::leak(table.into_boxed_slice()), Mfn(1000), 1);
    a.reserve(Mfn(1010), 5, NodeId(0));
    assert_eq!(a.add_region(Mfn(990), 60, NodeId(0)), 45);
    assert_eq!(a.add_region(Mfn(990), 60, NodeId(0)), 0, "known already");
    assert_eq!((a.kind(Mfn(1012)), a.kind(Mfn(1060)), a.kind(Mfn(5))), (Kind::Hypervisor, Kind::Absent, Kind::Absent));
    a.free_reserved(Mfn(1010), 5);
    assert_eq!(a.free_frames(), 50);
}

#[test]
fn idle_cpus_zero_memory_if_they_are_to() {
    let (a, m) = allocator(64);
    assert_eq!((a.tidy(&m), a.dirty_frames()), (false, 63), "frame 0 is not handed in");
    a.tidy_when_idle();
    assert!(a.tidy(&m));
    assert!(a.dirty_frames() < 63);
    while a.tidy(&m) {}
    assert_eq!(a.dirty_frames(), 0);
}

#[test]
fn frames_are_zeroed_before_use() {
    let (a, m) = allocator(64);
    a.account(D).set_limit(64);
    for n in 0..64 * 512 {
        m.store_u64(crate::types::MachineAddr(n * 8), u64::MAX);
    }
    a.scrub_some(&m);
    for order in [0, 1, 2, 3] {
        let f = a.alloc_domain(&m, D, Order(order), Placement::default()).unwrap();
        for n in 0..f.count() * 512 {
            assert_eq!(m.load_u64(crate::types::MachineAddr(f.start().addr().0 + n * 8)), 0);
        }
        f.mapped();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Alloc(u8, bool),
    Free(usize),
    Take(u64, u64),
    Scrub,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..8, any::<bool>()).prop_map(|(o, h)| Step::Alloc(o, h)),
        any::<usize>().prop_map(Step::Free),
        (1u64..600, 1u64..40).prop_map(|(s, c)| Step::Take(s, c)),
        Just(Step::Scrub),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Against a set of frames: nothing is handed out twice, nothing is lost, a free range can be taken, and in the
    /// end all merges into the blocks it started as.
    #[test]
    fn agrees_with_a_set(steps in prop::collection::vec(step(), 1..60)) {
        const FRAMES: u64 = 600;
        let (a, m) = allocator(FRAMES);
        a.account(D).set_limit(u64::MAX);
        let mut used: BTreeMap<u64, usize> = BTreeMap::new();
        let mut held: BTreeMap<usize, (Mfn, u64, bool)> = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            let taken = matches!(step, Step::Take(..));
            let got = match step {
                Step::Alloc(order, false) => a.alloc_domain(&m, D, Order(order), Placement::default()).ok().map(|f| {
                    let r = (f.start(), f.count(), false);
                    f.mapped();
                    r
                }),
                Step::Alloc(order, true) => {
                    a.alloc_hypervisor(&m, Order(order), Placement::default()).ok().map(|f| (f, 1 << order, true))
                }
                Step::Take(start, count) => {
                    let free = start + count <= FRAMES && (start..start + count).all(|f| !used.contains_key(&f));
                    let got = a.take_range(D, Mfn(start), count);
                    prop_assert_eq!(got.is_ok(), free);
                    got.ok().map(|f| { f.mapped(); (Mfn(start), count, false) })
                }
                Step::Free(which) => {
                    if let Some(&key) = held.keys().nth(which % held.len().max(1)) {
                        let (start, count, hypervisor) = held.remove(&key).unwrap();
                        used.retain(|_, k| *k != key);
                        if hypervisor { a.free_hypervisor(start) } else { a.release(start, count) }
                    }
                    None
                }
                Step::Scrub => { a.scrub_some(&m); None }
            };
            if let Some((start, count, hypervisor)) = got {
                for f in start.0..start.0 + count {
                    // What was written to a frame is gone when it is allocated again (a range is taken as it is).
                    let word = Mfn(f).addr();
                    prop_assert!(taken || m.load_u64(word) == 0, "frame {} is not zero", f);
                    m.store_u64(word, !0);
                    prop_assert!(f != 0 && f < FRAMES);
                    prop_assert!(used.insert(f, n).is_none(), "frame {} handed out twice", f);
                }
                held.insert(n, (start, count, hypervisor));
            }
            prop_assert_eq!(a.free_frames(), FRAMES - 1 - used.len() as u64);
        }
        for (_, (start, count, hypervisor)) in held {
            if hypervisor { a.free_hypervisor(start) } else { a.release(start, count) }
        }
        while a.scrub_some(&m) {}
        prop_assert_eq!((a.free_frames(), a.account(D).pages(), a.dirty_frames()), (FRAMES - 1, 0, 0));
        prop_assert!(a.alloc_domain(&m, D, Order(8), Placement::default()).is_ok(), "merged");
    }
}
