//! The map with mappings of both sizes and memory on demand, against a model that is a sorted map of single frames.

use super::*;
use crate::frames::Placement;
use crate::testing::{TestHost, audit};
use crate::types::GuestPhysAddr;
use alloc::collections::BTreeMap;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A frame at a place, whatever is there.
    One(u64),
    /// 2 MiB at an empty place.
    Large(u64),
    Remove(u64),
    /// As much as one mapping has, from the start of a block.
    RemoveBlock(u64),
    Move(u64, u64),
    /// 2 MiB to be populated on demand.
    OnDemand(u64),
    /// Sets memory aside, and touches a frame.
    Touch(u64),
    /// Logs writes, or ends that.
    Log(bool),
    /// The guest writes.
    Write(u64),
}

/// Blocks of 2 MiB that are in play, and the frames of each that are.
const BLOCKS: u64 = 3;
const EDGES: [u64; 5] = [0, 1, 2, 255, 511];
const FIRST: u64 = 0x200;

fn places() -> impl Iterator<Item = u64> {
    (0..BLOCKS).flat_map(|b| EDGES.map(|e| FIRST + b * 512 + e))
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..BLOCKS, 0..EDGES.len()).prop_map(|(b, e)| FIRST + b * 512 + EDGES[e]);
    let block = || (0..BLOCKS).prop_map(|b| FIRST + b * 512);
    prop_oneof![
        3 => place().prop_map(Step::One),
        2 => block().prop_map(Step::Large),
        3 => place().prop_map(Step::Remove),
        1 => block().prop_map(Step::RemoveBlock),
        3 => (place(), place()).prop_map(|(a, b)| Step::Move(a, b)),
        1 => block().prop_map(Step::OnDemand),
        2 => place().prop_map(Step::Touch),
        1 => any::<bool>().prop_map(Step::Log),
        4 => place().prop_map(Step::Write),
    ]
}

/// What the model knows of a guest frame.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Is {
    /// Own memory with this word in it.
    Own(u64),
    OnDemand,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn agrees_with_a_map_of_frames(steps in prop::collection::vec(step(), 1..50)) {
        let mut host = TestHost::new(4096, 1);
        let id = host.add_domain_with(1, 1);
        let hv = &host.hv;
        hv.frames.account(id).set_limit(u64::MAX);
        let p2m = &host.domain(id).p2m;
        let memory = hv.platform.memory();
        let mut model: BTreeMap<u64, Is> = BTreeMap::new();
        let mut words = 0;
        for step in steps {
            let mut batch = p2m.unmapped(hv);
            let empty = |model: &BTreeMap<u64, Is>, b: u64| model.range(b..b + 512).next().is_none();
            match step {
                Step::One(g) => {
                    let frame = hv.frames.alloc_domain(memory, id, Order::PAGE, Placement::default()).unwrap();
                    prop_assert_eq!(p2m.add_ram(hv, Gfn(g), frame, &mut batch), Ok(()));
                    model.insert(g, Is::Own(0));
                }
                Step::Large(b) => {
                    // There may be no block left in one piece.
                    if let Ok(frames) = hv.frames.alloc_domain(memory, id, Order::LARGE, Placement::default()) {
                        let added = p2m.add_ram(hv, Gfn(b), frames, &mut batch);
                        prop_assert_eq!(added.is_ok(), empty(&model, b));
                        if added.is_ok() {
                            model.extend((b..b + 512).map(|g| (g, Is::Own(0))));
                        }
                    }
                }
                Step::Remove(g) => {
                    let removed = p2m.remove(hv, Gfn(g), Order::PAGE, |_| Ok(()), &mut batch);
                    prop_assert_eq!(removed.is_ok(), model.remove(&g).is_some());
                }
                Step::RemoveBlock(b) => {
                    let removed = p2m.remove(hv, Gfn(b), Order::LARGE, |_| Ok(()), &mut batch);
                    prop_assert_eq!(removed.is_ok(), model.contains_key(&b));
                    for g in b..b + removed.map_or(0, Order::frames) {
                        prop_assert!(model.remove(&g).is_some());
                    }
                }
                Step::Move(a, b) => {
                    let own = matches!(model.get(&a), Some(Is::Own(_)));
                    prop_assert_eq!(p2m.move_ram(hv, Gfn(a), Gfn(b), &mut batch).is_ok(), own);
                    if own {
                        let is = model.remove(&a).unwrap();
                        model.insert(b, is);
                    }
                }
                Step::OnDemand(b) => {
                    prop_assert_eq!(p2m.add_on_demand(hv, Gfn(b), Order::LARGE).is_ok(), empty(&model, b));
                    if empty(&model, b) {
                        model.extend((b..b + 512).map(|g| (g, Is::OnDemand)));
                    }
                }
                Step::Touch(g) => {
                    let _ = p2m.reserve_for_demand(hv, |_| 600);
                    if model.get(&g) == Some(&Is::OnDemand) && p2m.populate(hv, Gfn(g)).is_ok() {
                        let order = p2m.query(hv, Gfn(g)).order;
                        let first = g & !order.mask();
                        model.extend((first..first + order.frames()).map(|g| (g, Is::Own(0))));
                    }
                    let _ = p2m.reserve_for_demand(hv, |_| 0);
                }
                Step::Log(true) => while p2m.start_logging(hv, &mut || true) == Ok(false) {},
                Step::Log(false) => while !p2m.stop_logging(hv, &mut || true) {},
                Step::Write(g) => {
                    let own = matches!(model.get(&g), Some(Is::Own(_)));
                    if own && p2m.query(hv, Gfn(g)).entry.kind == Kind::RamLogDirty {
                        prop_assert!(p2m.write_faulted(hv, Gfn(g)));
                        prop_assert_eq!(p2m.query(hv, Gfn(g)).entry.kind, Kind::RamRw);
                    }
                    words += 1;
                    let written = host.guest_phys(id).write(GuestPhysAddr(g << 12 | 8), &u64::to_le_bytes(words));
                    prop_assert_eq!(written.is_ok(), own);
                    if own {
                        model.insert(g, Is::Own(words));
                    }
                }
            }
            drop(batch);
            for g in places() {
                let found = p2m.query(hv, Gfn(g)).entry;
                match model.get(&g) {
                    None => prop_assert_eq!(found, Entry::HOLE),
                    Some(Is::OnDemand) => prop_assert_eq!(found.kind, Kind::OnDemand),
                    Some(Is::Own(word)) => {
                        prop_assert!(found.kind.own_ram(), "{:#x} is {:?}", g, found);
                        let mut bytes = [0; 8];
                        host.guest_phys(id).read(GuestPhysAddr(g << 12 | 8), &mut bytes).unwrap();
                        prop_assert_eq!(u64::from_le_bytes(bytes), *word, "at {:#x}", g);
                    }
                }
            }
            let own = model.values().filter(|i| matches!(i, Is::Own(_))).count() as u64;
            // One is at gfn 0.
            prop_assert_eq!(hv.frames.account(id).pages(), own + 1);
            prop_assert_eq!(p2m.demand(), model.len() as u64 - own);
            prop_assert_eq!(audit::audit(hv).err(), None);
        }
    }
}
