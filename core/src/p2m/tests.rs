//! The p2m: references, removal with a flush, and its pages of all sizes against a model.

use super::*;
use crate::frames::Placement;
use crate::sync::atomic::Ordering;
use crate::testing::{DOMAIN_FRAMES, TestHost};
use crate::types::GuestPhysAddr;
use alloc::collections::BTreeMap;
use proptest::prelude::*;

fn host() -> (TestHost, DomainId, DomainId) {
    let mut host = TestHost::new(2048, 1);
    let (a, b) = (host.add_domain(1), host.add_domain(1));
    (host, a, b)
}

#[test]
fn foreign_mappings_keep_frames() {
    let (host, a, b) = host();
    let (hv, p2m, peer) = (&host.hv, &host.domain(a).p2m, &host.domain(b).p2m);
    let free = hv.frames.free_frames();
    let page = peer.get_page(hv, Gfn(5), Access::Write).unwrap();
    let mfn = page.mfn();
    let mut batch = p2m.unmapped(hv);
    p2m.add_page(hv, Gfn(1000), page.page, Kind::Foreign, &mut batch).unwrap();
    drop(batch);
    host.guest_phys(a).write(GuestPhysAddr(1000 << 12), b"hello").unwrap();
    let mut seen = [0; 5];
    host.guest_phys(b).read(GuestPhysAddr(5 << 12), &mut seen).unwrap();
    assert_eq!(&seen, b"hello");

    // The owner gives it up: the frame stays until the mapping goes.
    assert_eq!(peer.remove(hv, Gfn(5), Order::PAGE, |_| Ok(()), &mut peer.unmapped(hv)), Ok(Order::PAGE));
    assert_eq!(hv.frames.free_frames(), free);
    assert_eq!(hv.frames.owner(mfn), Some(b));
    assert_eq!(peer.get_page(hv, Gfn(5), Access::Read).err(), Some(PageError::Hole));
    let flushes = host.machine.flushes.load(Ordering::SeqCst);
    let mut batch = p2m.unmapped(hv);
    p2m.remove(hv, Gfn(1000), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    assert_eq!(hv.frames.free_frames(), free, "not before the flush");
    drop(batch);
    assert_eq!(hv.frames.free_frames(), free + 1);
    assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 1);
}

/// At the moment of the flush, the frames that are leaving still are where a stale translation expects them.
#[test]
fn frames_leave_after_the_flush() {
    let (host, a, b) = host();
    let hv = host.hv.clone();
    let seen = alloc::sync::Arc::new(crate::sync::Lock::new(crate::sync::Rank::Console, alloc::vec::Vec::new()));
    let (at_flush, frames) = (seen.clone(), hv.clone());
    host.machine.on_flush.call_once(|| {
        alloc::boxed::Box::new(move || {
            let free = frames.frames.free_frames();
            at_flush.lock().push(free);
        })
    });
    let (p2m, peer) = (&host.domain(a).p2m, &host.domain(b).p2m);
    let free = hv.frames.free_frames();
    let page = peer.get_page(&hv, Gfn(5), Access::Write).unwrap().page;
    let mut batch = p2m.unmapped(&hv);
    p2m.add_page(&hv, Gfn(70), page, Kind::Foreign, &mut batch).unwrap();
    p2m.remove(&hv, Gfn(7), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    drop(batch);
    peer.remove(&hv, Gfn(5), Order::PAGE, |_| Ok(()), &mut peer.unmapped(&hv)).unwrap();
    p2m.remove(&hv, Gfn(70), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(&hv)).unwrap();
    assert_eq!(*seen.lock(), [free, free + 1, free + 1]);
    assert_eq!(hv.frames.free_frames(), free + 2);
}

#[test]
fn large_mappings_split() {
    let mut host = TestHost::new(4096, 1);
    let d = host.add_domain_with(1, 0);
    let (hv, p2m) = (&host.hv, &host.domain(d).p2m);
    hv.frames.account(d).set_limit(1024);
    let mut batch = p2m.unmapped(hv);
    let block = hv.frames.alloc_domain(hv.platform.memory(), d, Order::LARGE, Placement::default()).unwrap();
    let mfn = block.start();
    p2m.add_ram(hv, Gfn(512), block, &mut batch).unwrap();
    assert_eq!(
        p2m.query(hv, Gfn(700)),
        Lookup { entry: Entry { kind: Kind::RamRw, mfn: Mfn(mfn.0 + 188) }, order: Order::LARGE }
    );
    assert_eq!(hv.frames.gfn(Mfn(mfn.0 + 188)), Some(Gfn(700)));
    let again = hv.frames.alloc_domain(hv.platform.memory(), d, Order::LARGE, Placement::default()).unwrap();
    assert_eq!(p2m.add_ram(hv, Gfn(512), again, &mut batch), Err(Errno::EEXIST));
    assert_eq!(hv.frames.account(d).pages(), 512);
    assert_eq!(p2m.remove(hv, Gfn(700), Order::HUGE, |_| Ok(()), &mut batch), Ok(Order::PAGE));
    assert_eq!(p2m.remove(hv, Gfn(700), Order::HUGE, |_| Ok(()), &mut batch), Err(Errno::ENOENT));
    drop(batch);
    assert_eq!(hv.frames.account(d).pages(), 511);
    assert!(p2m.relinquish(hv, &mut || true));
    assert_eq!(hv.frames.account(d).pages(), 0);
    let mut batch = p2m.unmapped(hv);
    let late = hv.frames.alloc_domain(hv.platform.memory(), d, Order::PAGE, Placement::default()).unwrap();
    assert_eq!(p2m.add_ram(hv, Gfn(0), late, &mut batch), Err(Errno::EINVAL), "a dying domain gets nothing");
}

#[test]
fn relinquish_in_steps() {
    let (host, _, b) = host();
    let (hv, p2m) = (&host.hv, &host.domain(b).p2m);
    let free = hv.frames.free_frames();
    let mut calls = 0;
    loop {
        let mut budget = 10;
        calls += 1;
        if p2m.relinquish(hv, &mut || {
            budget -= 1;
            budget > 0
        }) {
            break;
        }
    }
    assert!(calls > 5);
    assert_eq!(hv.frames.free_frames(), free + DOMAIN_FRAMES);
}

/// Whoever keeps translations learns that they are old.
#[test]
fn each_change_is_a_new_generation() {
    let (host, a, _) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    let before = p2m.generation();
    assert_eq!(p2m.generation(), before);
    p2m.remove(hv, Gfn(5), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).unwrap();
    assert_ne!(p2m.generation(), before);
}

/// One flush would be for another p2m than the one that the first removal was from.
#[test]
fn a_batch_is_flushed_between_two_p2ms() {
    let (host, a, b) = host();
    let hv = &host.hv;
    let flushes = || host.machine.flushes.load(Ordering::SeqCst);
    let before = flushes();
    let mut batch = host.domain(a).p2m.unmapped(hv);
    for (id, gfn) in [(a, 1), (a, 2), (b, 1)] {
        host.domain(id).p2m.remove(hv, Gfn(gfn), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    }
    assert_eq!(flushes(), before + 1);
    drop(batch);
    assert_eq!(flushes(), before + 2);
}

#[test]
fn special_pages_move() {
    let (host, a, _) = host();
    let (hv, d) = (&host.hv, host.domain(a));
    let count = hv.frames.account(a).pages();
    let mut batch = d.p2m.unmapped(hv);
    for gfn in [900, 3, 901] {
        let page = hv.frames.get(d.shared_info, a).unwrap();
        d.p2m.add_page(hv, Gfn(gfn), page, Kind::Special, &mut batch).unwrap();
        assert_eq!(d.p2m.query(hv, Gfn(gfn)).entry.mfn, d.shared_info);
    }
    assert_eq!(d.p2m.query(hv, Gfn(900)).entry, Entry::HOLE);
    assert_eq!(d.p2m.query(hv, Gfn(3)).entry, Entry::HOLE);
    assert_eq!(hv.frames.gfn(d.shared_info), Some(Gfn(901)));
    d.p2m.remove(hv, Gfn(901), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    assert_eq!(hv.frames.gfn(d.shared_info), None);
    drop(batch);
    assert_eq!(hv.frames.account(a).pages(), count - 1, "the page that was at 3 is gone");
}

/// A page by reference is a special one of the domain's own, or one of another domain.
#[test]
fn pages_of_the_wrong_kind_are_refused() {
    let (host, a, b) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    let mut batch = p2m.unmapped(hv);
    let shared = |id| hv.frames.get(host.domain(id).shared_info, id).unwrap();
    assert_eq!(p2m.add_page(hv, Gfn(900), shared(a), Kind::RamRw, &mut batch), Err(Errno::EINVAL));
    assert_eq!(p2m.add_page(hv, Gfn(900), shared(b), Kind::Special, &mut batch), Err(Errno::EINVAL));
    assert_eq!(p2m.query(hv, Gfn(900)).entry, Entry::HOLE);
    // What changes stays own memory.
    assert_eq!(p2m.change_ram(hv, Gfn(900), Kind::RamRo, &mut batch), Err(Errno::EINVAL));
    assert_eq!(p2m.change_ram(hv, Gfn(5), Kind::Special, &mut batch), Err(Errno::EINVAL));
}

/// Only special pages have one place; that is still theirs if they are mapped there again.
#[test]
fn pages_that_stay() {
    let (host, a, b) = host();
    let (hv, d, peer) = (&host.hv, host.domain(a), &host.domain(b).p2m);
    let mut batch = d.p2m.unmapped(hv);
    for _ in 0..2 {
        let page = hv.frames.get(d.shared_info, a).unwrap();
        d.p2m.add_page(hv, Gfn(900), page, Kind::Special, &mut batch).unwrap();
        assert_eq!(d.p2m.query(hv, Gfn(900)).entry.mfn, d.shared_info);
    }
    // The first one is at the number that the frame has in its owner's map.
    for gfn in [5, 901] {
        let page = peer.get_page(hv, Gfn(5), Access::Write).unwrap().page;
        d.p2m.add_page(hv, Gfn(gfn), page, Kind::Foreign, &mut batch).unwrap();
    }
    let foreign = Entry { kind: Kind::Foreign, mfn: peer.query(hv, Gfn(5)).entry.mfn };
    assert_eq!([5, 901].map(|gfn| d.p2m.query(hv, Gfn(gfn)).entry), [foreign; 2]);
    // Where its owner has it is no business of others.
    d.p2m.remove(hv, Gfn(5), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    assert_eq!(hv.frames.gfn(foreign.mfn), Some(Gfn(5)));
}

/// No processor keeps anything of a hole, but for a pointer to an empty table where a large mapping comes.
#[test]
fn filling_a_hole_needs_no_flush() {
    let mut host = TestHost::new(2048, 1);
    let d = host.add_domain_with(1, 0);
    let (hv, p2m) = (&host.hv, &host.domain(d).p2m);
    let flushes = || host.machine.flushes.load(Ordering::SeqCst);
    let before = flushes();
    for (gfn, order) in [(0x8000, Order::LARGE), (0x8201, Order::PAGE), (0x8200 + 0x200, Order::LARGE)] {
        p2m.add_on_demand(hv, Gfn(gfn), order).unwrap();
    }
    // Between two blocks: the hole is as large as what fills it.
    p2m.add_on_demand(hv, Gfn(0x8800), Order::LARGE).unwrap();
    assert_eq!(p2m.query(hv, Gfn(0x8600)).order, Order::LARGE);
    p2m.add_on_demand(hv, Gfn(0x8600), Order::LARGE).unwrap();
    assert_eq!(flushes(), before);
}

#[test]
fn what_cannot_be_populated_on_demand() {
    let mut host = TestHost::new(2048, 1);
    let identity = host.add_identity_domain(1, Mfn(512), 64);
    let d = host.add_domain(1);
    let (hv, p2m) = (&host.hv, &host.domain(d).p2m);
    assert_eq!(host.domain(identity).p2m.add_on_demand(hv, Gfn(0x8000), Order::PAGE), Err(Errno::EINVAL));
    assert_eq!(p2m.add_on_demand(hv, Gfn(0x8001), Order::LARGE), Err(Errno::EINVAL), "not aligned");
    assert_eq!(p2m.add_on_demand(hv, Gfn(0x8000), Order::LARGE), Ok(()));
}

/// The log has its memory in pieces of pieces.
#[test]
fn writes_far_apart_are_noted_apart() {
    let (host, a, b) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    hv.frames.account(a).set_limit(DOMAIN_FRAMES + 8);
    let places = [5, 5 | 1 << 15, 5 | 1 << 25, 5 | 1 << 25 | 1 << 15];
    for gfn in &places[1..] {
        let frame = hv.frames.alloc_domain(hv.platform.memory(), a, Order::PAGE, Placement::default()).unwrap();
        p2m.add_ram(hv, Gfn(*gfn), frame, &mut p2m.unmapped(hv)).unwrap();
    }
    assert_eq!(p2m.start_logging(hv, &mut || true), Ok(true));
    // Whoever maps a page by privilege copies it out. That is no write, whatever is written beside it.
    let page = p2m.get_page(hv, Gfn(6), Access::Read).unwrap().page;
    let peer = &host.domain(b).p2m;
    peer.add_page(hv, Gfn(900), page, Kind::Foreign, &mut peer.unmapped(hv)).unwrap();
    let noted = |clean| places.map(|gfn| p2m.collect_log(hv, gfn / 64, u64::MAX, clean, &mut p2m.unmapped(hv)));
    for n in 0..places.len() {
        host.guest_phys(a).write(GuestPhysAddr(places[n] << 12), b"x").unwrap();
        let mut expected = [0; 4];
        expected[n] = 1 << 5;
        assert_eq!([noted(false), noted(true), noted(true)], [expected, expected, [0; 4]]);
    }
    // What comes while writes are logged has a place, too, and is noted.
    let frame = hv.frames.alloc_domain(hv.platform.memory(), a, Order::PAGE, Placement::default()).unwrap();
    p2m.add_ram(hv, Gfn(3 | 7 << 15), frame, &mut p2m.unmapped(hv)).unwrap();
    assert_eq!(p2m.collect_log(hv, 7 << 15 >> 6, u64::MAX, false, &mut p2m.unmapped(hv)), 1 << 3);
}

/// Where no table page is left to split a block, it becomes writable, and read-only again, as a whole.
#[test]
fn a_logged_block_that_cannot_be_split() {
    let mut host = TestHost::new(4096, 1);
    let d = host.add_domain_with(1, 0);
    let (hv, p2m) = (&host.hv, &host.domain(d).p2m);
    hv.frames.account(d).set_limit(1024);
    let frames = hv.frames.alloc_domain(hv.platform.memory(), d, Order::LARGE, Placement::default()).unwrap();
    let start = frames.start().0;
    p2m.add_ram(hv, Gfn(0x200), frames, &mut p2m.unmapped(hv)).unwrap();
    let is = |kind| {
        for n in [0, 5, 511] {
            let found = p2m.query(hv, Gfn(0x200 + n));
            assert_eq!((found.order, found.entry), (Order::LARGE, Entry { kind, mfn: Mfn(start + n) }));
        }
    };
    // Nothing is split for a log that is about to end.
    assert_eq!(p2m.start_logging(hv, &mut || true), Ok(true));
    is(Kind::RamLogDirty);
    assert!(!p2m.stop_logging(hv, &mut || false));
    assert!(p2m.write_faulted(hv, Gfn(0x205)));
    is(Kind::RamRw);
    assert!(p2m.stop_logging(hv, &mut || true));

    assert_eq!(p2m.start_logging(hv, &mut || true), Ok(true));
    host.table(d).fail_after(0);
    is(Kind::RamLogDirty);
    assert!(p2m.write_faulted(hv, Gfn(0x205)));
    is(Kind::RamRw);
    // A processor that still knows the page as read-only may go on as well, but has to forget it.
    let flushes = host.machine.flushes.load(Ordering::SeqCst);
    assert!(p2m.write_faulted(hv, Gfn(0x205)));
    assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 1);
    let word = |n| p2m.collect_log(hv, n, u64::MAX, true, &mut p2m.unmapped(hv));
    assert_eq!((word(0x200 / 64), word(0x3c0 / 64)), (u64::MAX, u64::MAX));
    is(Kind::RamLogDirty);
    assert!(p2m.stop_logging(hv, &mut || true));
    is(Kind::RamRw);
}

/// Where memory is, for readers that take no reference and look afterwards whether it is still there.
#[test]
fn memory_is_located() {
    let (host, a, _) = host();
    let (hv, p2m, memory) = (&host.hv, &host.domain(a).p2m, host.guest_phys(a));
    let generation = memory.generation();
    let mfn = p2m.query(hv, Gfn(5)).entry.mfn;
    assert_eq!(memory.locate(GuestPhysAddr(5 << 12 | 0x123)), Some(MachineAddr(mfn.addr().0 + 0x123)));
    assert_eq!(memory.locate(GuestPhysAddr(0x8000 << 12)), None);
    assert!(memory.unchanged_since(generation));
    p2m.remove(hv, Gfn(6), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).unwrap();
    assert!(!memory.unchanged_since(generation));
    assert_ne!(memory.generation(), generation);
    assert!(memory.unchanged_since(memory.generation()));
}

#[test]
fn words_of_the_guest_are_exchanged() {
    let (host, a, _) = host();
    let memory = host.guest_phys(a);
    let at = GuestPhysAddr(5 << 12 | 8);
    memory.write(at, &7u64.to_le_bytes()).unwrap();
    assert_eq!([memory.compare_exchange_u64(at, 7, 9), memory.compare_exchange_u64(at, 7, 5)], [Ok(7), Ok(9)]);
    assert_eq!([memory.compare_exchange_u32(at, 9, 11), memory.compare_exchange_u32(at, 9, 5)], [Ok(9), Ok(11)]);
    assert_eq!(memory.load_u64(at), Ok(11));
    assert_eq!(memory.compare_exchange_u64(GuestPhysAddr(0x8000 << 12), 0, 0), Err(Errno::EFAULT));
    assert_eq!(memory.compare_exchange_u32(GuestPhysAddr(0x8000 << 12), 0, 0), Err(Errno::EFAULT));
}

/// An entry of a page table says what its kind is by a number.
#[test]
fn kinds_have_numbers() {
    use Kind::{Firmware, Foreign, GrantRo, GrantRw, Hole, Mmio, OnDemand, RamLogDirty, RamRo, RamRw, Special};
    let kinds = [Hole, RamRw, RamRo, RamLogDirty, Special, Mmio, Firmware, Foreign, GrantRw, GrantRo, OnDemand];
    for bits in 0..=u8::MAX {
        let kind = kinds.into_iter().find(|&kind| kind as u8 == bits).unwrap_or(Hole);
        assert_eq!(Kind::from_bits(bits), kind);
        // Data of other domains is not run, and only devices are not cached.
        let own = [RamRw, RamRo, RamLogDirty, Special, Mmio, Firmware];
        assert_eq!((kind.executable(), kind.cacheable()), (own.contains(&kind), kind != Mmio), "{kind:?}");
    }
}

/// What the processor is told: where the table is, and by which name its translations go.
#[test]
fn each_map_has_its_table_and_tag() {
    let (host, a, b) = host();
    let (one, two) = (&host.domain(a).p2m, &host.domain(b).p2m);
    assert_eq!(one.root(), host.table(a).root());
    assert_ne!(one.root(), two.root());
    assert_ne!(one.tag(), two.tag());
}

/// Changes elsewhere do not keep a lookup from coming to an end.
#[test]
fn a_lookup_amid_other_changes() {
    let (host, a, _) = host();
    let (hv, domain) = (host.hv.clone(), host.domain(a).clone());
    let within = crate::sync::atomic::AtomicBool::new(false);
    host.table(a).after_get(move || {
        if !within.swap(true, Ordering::SeqCst) {
            let batch = &mut domain.p2m.unmapped(&hv);
            domain.p2m.remove(&hv, Gfn(6), Order::PAGE, |_| Ok(()), batch).unwrap();
            let frame = hv.frames.alloc_domain(hv.platform.memory(), domain.id, Order::PAGE, Placement::default());
            domain.p2m.add_ram(&hv, Gfn(6), frame.unwrap(), batch).unwrap();
            within.store(false, Ordering::SeqCst);
        }
    });
    assert!(host.domain(a).p2m.get_page(&host.hv, Gfn(5), Access::Read).is_ok());
}

#[test]
fn identity_map_parks() {
    let mut host = TestHost::new(2048, 1);
    let d = host.add_identity_domain(1, Mfn(512), 1024);
    let guest = host.add_domain(1);
    let (hv, p2m) = (&host.hv, &host.domain(d).p2m);
    let free = hv.frames.free_frames();
    let mut batch = p2m.unmapped(hv);
    assert_eq!(p2m.query(hv, Gfn(600)).entry.mfn, Mfn(600));

    // Nothing may hide another's RAM.
    let page = || host.domain(guest).p2m.get_page(hv, Gfn(1), Access::Write).unwrap().page;
    let theirs = page().mfn();
    assert_eq!(p2m.add_page(hv, Gfn(theirs.0), page(), Kind::Foreign, &mut batch), Err(Errno::EBUSY));
    assert_eq!(p2m.add_page(hv, Gfn(100), page(), Kind::Foreign, &mut batch), Err(Errno::EBUSY), "free RAM");
    p2m.add_page(hv, Gfn(5000), page(), Kind::Foreign, &mut batch).unwrap();

    // Its own pages give way and are kept.
    p2m.add_page(hv, Gfn(700), page(), Kind::Foreign, &mut batch).unwrap();
    batch.flush();
    assert!(hv.frames.is_parked(Mfn(700), d));
    assert_eq!((hv.frames.account(d).pages(), hv.frames.free_frames()), (1023, free));
    p2m.remove(hv, Gfn(700), Order::PAGE, |_| Ok(()), &mut batch).unwrap();
    batch.flush();
    let back = hv.frames.alloc_exactly(hv.platform.memory(), d, Mfn(700)).unwrap();
    assert_eq!(p2m.add_ram(hv, Gfn(701), back, &mut batch), Err(Errno::EBUSY), "only at its own address");
    // The refused frame was freed, since its claim was passed in.
    assert_eq!(hv.frames.free_frames(), free + 1);
    assert_eq!(p2m.move_ram(hv, Gfn(800), Gfn(9000), &mut batch), Err(Errno::EINVAL));
}

#[test]
fn direct_mappings() {
    let (host, a, b) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    let mut batch = p2m.unmapped(hv);
    assert_eq!(p2m.add_direct(hv, Gfn(100), Mfn(100), 4, Kind::Mmio), Err(Errno::EINVAL), "RAM");
    assert_eq!(p2m.add_direct(hv, Gfn(10), Mfn(0xfee00), 1, Kind::Mmio), Err(Errno::EEXIST));
    assert_eq!(p2m.add_direct(hv, Gfn(0xfee00), Mfn(0xfee00), 0, Kind::Mmio), Err(Errno::EINVAL), "nothing");
    p2m.add_direct(hv, Gfn(0xfee00), Mfn(0xfee00), 1024, Kind::Mmio).unwrap();
    assert_eq!(p2m.query(hv, Gfn(0xff000)).order, Order::LARGE);
    assert_eq!(p2m.get_page(hv, Gfn(0xfee01), Access::Read).err(), Some(PageError::NotMemory));
    let page = host.domain(b).p2m.get_page(hv, Gfn(1), Access::Write).unwrap().page;
    assert_eq!(p2m.add_page(hv, Gfn(0xfee01), page, Kind::Foreign, &mut batch), Err(Errno::EPERM));
    let limit = p2m.limit();
    let page = host.domain(b).p2m.get_page(hv, Gfn(1), Access::Write).unwrap().page;
    assert_eq!(p2m.add_page(hv, limit, page, Kind::Foreign, &mut batch), Err(Errno::EINVAL));
    assert_eq!(p2m.max_gfn(), Gfn(0xfee00 + 1023));
}

#[test]
fn read_only_pages() {
    let (host, a, _) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    p2m.change_ram(hv, Gfn(2), Kind::RamRo, &mut p2m.unmapped(hv)).unwrap();
    assert_eq!(p2m.get_page(hv, Gfn(2), Access::Write).err(), Some(PageError::ReadOnly));
    let mem = host.guest_phys(a);
    assert_eq!(mem.write(GuestPhysAddr(0x1ffe), b"1234"), Err(Errno::EFAULT));
    assert_eq!(mem.read(GuestPhysAddr(0x1ffe), &mut [0; 4]), Ok(()));
    assert_eq!(mem.read(GuestPhysAddr(u64::MAX - 1), &mut [0; 4]), Err(Errno::EFAULT));
}

/// Between a lookup's read of the entry and its reference, the frame becomes another domain's.
#[test]
fn a_lookup_notices_that_the_frame_went() {
    let (host, a, b) = host();
    let (hv, a_domain, b_domain) = (host.hv.clone(), host.domain(a).clone(), host.domain(b).clone());
    let mfn = a_domain.p2m.query(&hv, Gfn(5)).entry.mfn;
    let calls = crate::sync::atomic::AtomicU32::new(0);
    host.table(a).after_get(move || {
        if calls.fetch_add(1, Ordering::SeqCst) != 0 {
            return;
        }
        let p2m = &a_domain.p2m;
        p2m.remove(&hv, Gfn(5), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(&hv)).unwrap();
        let frame = hv.frames.take_range(b_domain.id, mfn, 1).unwrap();
        b_domain.p2m.add_ram(&hv, Gfn(100), frame, &mut b_domain.p2m.unmapped(&hv)).unwrap();
    });
    assert_eq!(host.domain(a).p2m.get_page(&host.hv, Gfn(5), Access::Write).err(), Some(PageError::Hole));
    // The reference that was taken by mistake was put back.
    let peer = &host.domain(b).p2m;
    peer.remove(&host.hv, Gfn(100), Order::PAGE, |_| Ok(()), &mut peer.unmapped(&host.hv)).unwrap();
    assert_eq!(host.hv.frames.owner(mfn), None);
}

#[derive(Debug, Clone)]
enum Step {
    Populate(u64),
    Foreign(u64, u64),
    Remove(u64),
    PeerRemove(u64),
    Move(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let gfn = || 0u64..80;
    prop_oneof![
        gfn().prop_map(Step::Populate),
        (gfn(), 0..DOMAIN_FRAMES).prop_map(|(g, p)| Step::Foreign(g, p)),
        gfn().prop_map(Step::Remove),
        (0..DOMAIN_FRAMES).prop_map(Step::PeerRemove),
        (gfn(), gfn()).prop_map(|(a, b)| Step::Move(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Against a map of gfns: what is mapped is what the model says, and the number of free frames follows from who
    /// owns and who maps what.
    #[test]
    fn agrees_with_a_map(steps in prop::collection::vec(step(), 1..60)) {
        let (host, a, b) = host();
        let (hv, p2m, peer) = (&host.hv, &host.domain(a).p2m, &host.domain(b).p2m);
        let total = hv.frames.free_frames() + 2 * DOMAIN_FRAMES;
        let mut model: BTreeMap<u64, (Mfn, bool)> =
            (0..DOMAIN_FRAMES).map(|g| (g, (p2m.query(hv, Gfn(g)).entry.mfn, true))).collect();
        let mut theirs: BTreeMap<u64, Mfn> =
            (0..DOMAIN_FRAMES).map(|g| (g, peer.query(hv, Gfn(g)).entry.mfn)).collect();
        for step in steps {
            let mut batch = p2m.unmapped(hv);
            match step {
                Step::Populate(g) => {
                    let memory = hv.platform.memory();
                    let f = hv.frames.alloc_domain(memory, a, Order::PAGE, Placement::default()).unwrap();
                    let mfn = f.start();
                    p2m.add_ram(hv, Gfn(g), f, &mut batch).unwrap();
                    model.insert(g, (mfn, true));
                }
                Step::Foreign(g, p) => {
                    let got = peer.get_page(hv, Gfn(p), Access::Write);
                    prop_assert_eq!(got.is_ok(), theirs.contains_key(&p));
                    if let Ok(page) = got {
                        model.insert(g, (page.mfn(), false));
                        p2m.add_page(hv, Gfn(g), page.page, Kind::Foreign, &mut batch).unwrap();
                    }
                }
                Step::Remove(g) => {
                    let got = p2m.remove(hv, Gfn(g), Order::PAGE, |_| Ok(()), &mut batch);
                    prop_assert_eq!(got.is_ok(), model.remove(&g).is_some());
                }
                Step::PeerRemove(g) => {
                    let got = peer.remove(hv, Gfn(g), Order::PAGE, |_| Ok(()), &mut batch);
                    prop_assert_eq!(got.is_ok(), theirs.remove(&g).is_some());
                }
                Step::Move(x, y) => {
                    let own = model.get(&x).is_some_and(|m| m.1);
                    prop_assert_eq!(p2m.move_ram(hv, Gfn(x), Gfn(y), &mut batch).is_ok(), own);
                    if own {
                        let e = model.remove(&x).unwrap();
                        model.insert(y, e);
                    }
                }
            }
            drop(batch);
            let mut live: alloc::collections::BTreeSet<u64> = theirs.values().map(|m| m.0).collect();
            for g in 0..80 {
                let want = model.get(&g).map_or(Entry::HOLE, |&(mfn, own)| {
                    Entry { kind: if own { Kind::RamRw } else { Kind::Foreign }, mfn }
                });
                prop_assert_eq!(p2m.query(hv, Gfn(g)).entry, want);
            }
            live.extend(model.values().map(|m| m.0.0));
            prop_assert_eq!(hv.frames.free_frames(), total - live.len() as u64);
        }
        prop_assert!(p2m.relinquish(hv, &mut || true) && peer.relinquish(hv, &mut || true));
        prop_assert_eq!(hv.frames.free_frames(), total);
        prop_assert_eq!((hv.frames.account(a).pages(), hv.frames.account(b).pages()), (0, 0));
    }
}

/// Nothing is given to a domain that is taken apart, whoever touches its memory.
#[test]
fn a_dying_domain_is_not_populated() {
    let (host, a, _) = host();
    let (hv, p2m) = (&host.hv, &host.domain(a).p2m);
    p2m.add_on_demand(hv, Gfn(0x200), Order::PAGE).unwrap();
    p2m.reserve_for_demand(hv, |_| 1).unwrap();
    // Not even where it was gone through already.
    assert!(p2m.relinquish(hv, &mut || true));
    assert_eq!(p2m.populate(hv, Gfn(0x200)), Err(Errno::EINVAL));
    assert_eq!(p2m.get_page(hv, Gfn(0x200), Access::Read).err(), Some(PageError::Hole));
    assert_eq!(hv.frames.account(a).pages(), 0);
}
