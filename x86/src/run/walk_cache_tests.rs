//! Whatever changes between two reads, the cache answers as a new walk does.

use proptest::prelude::*;
use radon_core::frames::{Order, Placement};
use radon_core::types::{Gfn, GuestPhysAddr};

use super::tests::{DATA, GUEST, Rig, rig};
use super::walk_cache::{Memory, WalkCache};
use super::*;
use crate::emulate::walk::{Access, Paging, walk_and_mark};
use crate::virt::{cr0, efer};
use radon_core::p2m::GuestPhys;

/// Page tables of 4 KiB pages for the linear addresses from [`BASE`], in guest pages that the rig does not use.
const TABLES: [u64; 4] = [0x1_0000, 0x1_1000, 0x1_2000, 0x1_3000];
const BASE: u64 = 0xffff_8000_0000_0000;
const RW: u64 = 3;
const USER: u64 = 4;

fn paging(root: u64) -> Paging {
    Paging::new(cr0::PE | cr0::PG, root, 1 << 5, efer::LME | efer::LMA | efer::NXE, 52, true)
}

/// A guest whose pages `0x2_0000 + n * 0x1000` are mapped from [`BASE`] on; each begins with its number.
fn paged() -> Rig {
    let rig = rig();
    for (level, &table) in TABLES.iter().enumerate().take(3) {
        let index = if level == 0 { 256 } else { 0 };
        rig.put(table + index * 8, &(TABLES[level + 1] | RW | USER).to_le_bytes());
    }
    for n in 0..8_u64 {
        rig.put(TABLES[3] + n * 8, &((0x2_0000 + n * 0x1000) | RW).to_le_bytes());
        rig.put(0x2_0000 + n * 0x1000, &n.to_le_bytes());
    }
    rig
}

/// What a walk of its own reads.
fn afresh(rig: &Rig, paging: &Paging, access: Access, linear: u64) -> Option<u64> {
    let phys = GuestPhys::new(&rig.sys.hv, &rig.domain.p2m);
    let found = walk_and_mark(&mut guest::Tables(phys), paging, linear, access).ok()?;
    let mut bytes = [0; 8];
    phys.read(found.address, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn cached(rig: &Rig, cache: &mut WalkCache, paging: &Paging, access: Access, linear: u64) -> Option<u64> {
    let phys = GuestPhys::new(&rig.sys.hv, &rig.domain.p2m);
    let mut bytes = [0; 8];
    let memory = Memory { phys, machine: rig.sys.hv.platform.memory() };
    cache.read(memory, paging, access, linear, &mut bytes).then(|| u64::from_le_bytes(bytes))
}

/// Where a walk of its own leads, if there is memory.
fn leads(rig: &Rig, paging: &Paging, access: Access, linear: u64) -> Option<GuestPhysAddr> {
    let phys = GuestPhys::new(&rig.sys.hv, &rig.domain.p2m);
    let found = walk_and_mark(&mut guest::Tables(phys), paging, linear, access).ok()?;
    phys.locate(found.address).map(|_| found.address)
}

fn translated(rig: &Rig, cache: &mut WalkCache, paging: &Paging, access: Access, linear: u64) -> Option<GuestPhysAddr> {
    let phys = GuestPhys::new(&rig.sys.hv, &rig.domain.p2m);
    cache.translate(Memory { phys, machine: rig.sys.hv.platform.memory() }, paging, access, linear)
}

#[test]
fn only_what_lies_in_one_page_of_a_long_mode_guest() {
    let (rig, mut cache) = (paged(), WalkCache::default());
    let long = paging(TABLES[0]);
    assert_eq!(cached(&rig, &mut cache, &long, Access::READ, BASE), Some(0));
    assert_eq!(cached(&rig, &mut cache, &long, Access::READ, BASE + 0xff9), None, "two pages");
    let off = Paging::new(0, 0, 0, 0, 52, true);
    assert_eq!(cached(&rig, &mut cache, &off, Access::READ, DATA), None);
}

#[test]
fn a_kept_walk_marks_what_a_new_one_would() {
    let (rig, mut cache) = (paged(), WalkCache::default());
    let long = paging(TABLES[0]);
    let accessed = |rig: &Rig| afresh_word(rig, TABLES[3]) & 0x20 != 0;
    assert!(!accessed(&rig));
    assert_eq!(cached(&rig, &mut cache, &long, Access::FETCH, BASE), Some(0));
    assert!(accessed(&rig));
    rig.put(TABLES[3], &(0x2_0000 | RW).to_le_bytes());
    assert_eq!(cached(&rig, &mut cache, &long, Access::FETCH, BASE), Some(0));
    assert!(accessed(&rig), "the guest had cleared the bit");
}

#[test]
fn a_walk_that_writes_marks_the_page_dirty_and_serves_reads() {
    let (rig, mut cache) = (paged(), WalkCache::default());
    let long = paging(TABLES[0]);
    let dirty = |rig: &Rig| afresh_word(rig, TABLES[3]) & 0x40 != 0;
    assert_eq!(cached(&rig, &mut cache, &long, Access::READ, BASE), Some(0));
    assert!(!dirty(&rig));
    for _ in 0..2 {
        let to = translated(&rig, &mut cache, &long, Access::WRITE, BASE + 5);
        assert_eq!(to, Some(GuestPhysAddr(0x2_0005)));
        assert!(dirty(&rig), "also after the guest had cleared the bit");
        assert_eq!(cached(&rig, &mut cache, &long, Access::READ, BASE), Some(0));
        rig.put(TABLES[3], &(0x2_0000 | RW).to_le_bytes());
    }
    rig.put(TABLES[3], &(0x2_0000_u64 | 1).to_le_bytes());
    assert_eq!(translated(&rig, &mut cache, &paging(TABLES[0]), Access { user: true, ..Access::WRITE }, BASE), None);
}

fn afresh_word(rig: &Rig, at: u64) -> u64 {
    GuestPhys::new(&rig.sys.hv, &rig.domain.p2m).load_u64(GuestPhysAddr(at)).unwrap()
}

/// Something that happens between reads.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// The guest writes an entry of table `level`.
    Entry { level: usize, index: u64, to: u64, flags: u64 },
    /// The guest writes data.
    Data(u64, u64),
    /// The frame of a guest page goes away.
    Remove(u64),
    /// A frame full of zeros comes in its place.
    Add(u64),
}

fn change() -> impl Strategy<Value = Change> {
    let pages = 0x10..0x28_u64;
    let flags =
        prop_oneof![4 => Just(RW), 2 => Just(RW | USER), 1 => Just(0), 1 => Just(1 | 1 << 63), 1 => Just(RW | 0x80)];
    prop_oneof![
        4 => (0..4_usize, 0..8_u64, pages.clone(), flags).prop_map(|(level, index, page, flags)| {
            let index = if level == 0 { 256 } else { index };
            Change::Entry { level, index, to: page << 12, flags }
        }),
        3 => (pages.clone(), any::<u64>()).prop_map(|(page, value)| Change::Data(page, value)),
        1 => pages.clone().prop_map(Change::Remove),
        2 => pages.prop_map(Change::Add),
    ]
}

fn apply(rig: &Rig, change: Change) {
    let hv = &rig.sys.hv;
    let phys = GuestPhys::new(hv, &rig.domain.p2m);
    match change {
        // A table may be gone by now.
        Change::Entry { level, index, to, flags } => {
            let _ = phys.write(GuestPhysAddr(TABLES[level] + index * 8), &(to | flags).to_le_bytes());
        }
        Change::Data(page, value) => {
            let _ = phys.write(GuestPhysAddr(page << 12), &value.to_le_bytes());
        }
        Change::Remove(page) => {
            let mut batch = rig.domain.p2m.unmapped(hv);
            let _ = rig.domain.p2m.remove(hv, Gfn(page), Order::PAGE, |_| Ok(()), &mut batch);
        }
        Change::Add(page) => {
            let mut batch = rig.domain.p2m.unmapped(hv);
            let memory = hv.platform.memory();
            if let Ok(frame) = hv.frames.alloc_domain(memory, GUEST, Order::PAGE, Placement::default()) {
                let _ = rig.domain.p2m.add_ram(hv, Gfn(page), frame, &mut batch);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn answers_as_a_new_walk(
        steps in prop::collection::vec((prop::option::weighted(0.6, change()), 0..12_u64, 0..3_u64, 0..3_u8), 1..60)
    ) {
        let (rig, mut cache) = (paged(), WalkCache::default());
        for (changed, page, root, kind) in steps {
            let (fetch, write) = (kind == 1, kind == 2);
            if let Some(changed) = changed {
                apply(&rig, changed);
            }
            let access = if fetch { Access::FETCH } else { Access { user: root == 2, ..Access::READ } };
            let paging = paging(if root == 1 { 0x1000 } else { TABLES[0] });
            // The rig's own tables map the low addresses.
            let linear = if root == 1 { page << 12 } else { BASE + (page << 12) };
            let found = cached(&rig, &mut cache, &paging, access, linear);
            prop_assert_eq!(found, afresh(&rig, &paging, access, linear));
            if write {
                let access = Access { write, ..access };
                let found = translated(&rig, &mut cache, &paging, access, linear);
                prop_assert_eq!(found, leads(&rig, &paging, access, linear));
            }
        }
    }
}
