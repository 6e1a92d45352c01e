//! Frames, guest memory and accounts.

use radon_core::frames::{Order, Placement};
use radon_core::p2m::{Access, Kind};
use radon_core::types::{DomainId, Gfn, GuestPhysAddr};
use radon_interleave::atomic::{AtomicU32, Ordering};
use radon_interleave::{explore, explore_more, race, step, wait};

use super::{DOM0, GUEST, Rig};

/// A frame that its owner gives up while another takes references stays as long as one is held, and is free once afterwards.
#[test]
fn a_frame_and_its_last_reference() {
    explore(|| {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let p2m = &rig.host.domain(GUEST).p2m;
        let before = hv.frames.free_frames();
        let mfn = p2m.query(hv, Gfn(3)).entry.mfn;
        let held = AtomicU32::new(0);
        let hold = || {
            if let Ok(page) = p2m.get_page(hv, Gfn(3), Access::Write) {
                for _ in 0..3 {
                    step();
                    assert_eq!(page.page.owner(), GUEST);
                }
            }
            held.fetch_add(1, Ordering::SeqCst);
        };
        race(vec![
            Box::new(|| {
                assert!(p2m.remove(hv, Gfn(3), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).is_ok());
                // Another domain gets it next, if it is free, and has it for as long as it likes.
                let next = hv.frames.take_range(DOM0, mfn, 1);
                while held.load(Ordering::SeqCst) != 2 {
                    wait();
                }
                drop(next);
            }),
            Box::new(hold),
            Box::new(hold),
        ]);
        assert_eq!(hv.frames.free_frames(), before + 1);
    });
}

/// What is written while a domain's memory is copied round by round is in the copy in the end.
#[test]
fn a_write_and_the_log_of_writes() {
    explore(|| {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let p2m = &rig.host.domain(GUEST).p2m;
        while !p2m.start_logging(hv, &mut || true).unwrap() {}
        let at = p2m.query(hv, Gfn(3)).entry.mfn.addr();
        let round = || {
            let noted = p2m.collect_log(hv, 0, u64::MAX, true, &mut p2m.unmapped(hv));
            (noted & 1 << 3 != 0).then(|| rig.memory().load_u64(at))
        };
        let copy = std::sync::Mutex::new(0);
        let keep = |found: Option<u64>| {
            if let Some(value) = found {
                *copy.lock().unwrap() = value;
            }
        };
        race(vec![
            Box::new(|| {
                for value in 1..3 {
                    let page = p2m.get_page(hv, Gfn(3), Access::Write).unwrap();
                    rig.memory().store_u64(page.mfn().addr(), value);
                    drop(page);
                }
            }),
            Box::new(|| (0..3).for_each(|_| keep(round()))),
        ]);
        keep(round());
        assert_eq!(*copy.lock().unwrap(), 2);
        assert_eq!(p2m.query(hv, Gfn(3)).entry.kind, Kind::RamLogDirty);
    });
}

/// Reads without a reference count only while the map is as it was.
#[test]
fn a_read_without_a_reference() {
    const OWN: u64 = 1;
    explore_more(8, || {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let p2m = &rig.host.domain(GUEST).p2m;
        let mfn = p2m.query(hv, Gfn(3)).entry.mfn;
        rig.memory().store_u64(mfn.addr(), OWN);
        race(vec![
            Box::new(|| {
                assert!(p2m.remove(hv, Gfn(3), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).is_ok());
                let next = hv.frames.take_range(DOM0, mfn, 1).unwrap();
                rig.memory().fetch_or_u64(next.start().addr(), 2);
            }),
            Box::new(|| {
                let guest = rig.host.guest_phys(GUEST);
                for _ in 0..4 {
                    let generation = guest.generation();
                    let Some(at) = guest.locate(GuestPhysAddr(3 << 12)) else { break };
                    // It takes its time.
                    let value = (0..12).fold(OWN, |value, _| value | rig.memory().load_u64(at));
                    assert!(value == OWN || !guest.unchanged_since(generation));
                }
            }),
        ]);
    });
}

/// What an account says stays, though the last domain around it goes and the memory for them is given back.
#[test]
fn an_account_and_the_last_domain_around_it() {
    const LAST: [DomainId; 2] = [DomainId(300), DomainId(600)];
    explore_more(2, || {
        let rig = Rig::new();
        let frames = &rig.host.hv.frames;
        for last in LAST {
            frames.open_account(last);
            assert_eq!(frames.account(last).pages(), 0);
        }
        // Another says something that was not opened, or a new domain of that number comes.
        let other = DomainId(301);
        race(vec![Box::new(|| frames.close_account(LAST[0])), Box::new(|| frames.account(other).set_limit(5))]);
        race(vec![
            Box::new(|| frames.close_account(LAST[1])),
            Box::new(|| {
                frames.open_account(LAST[1]);
                frames.account(LAST[1]).set_limit(7);
            }),
        ]);
        assert_eq!((frames.account(other).limit(), frames.account(LAST[1]).limit()), (5, 7));
    });
}

/// Two that allocate for one domain get no more than it may have, together; what is freed meanwhile may be had.
#[test]
fn allocations_up_to_the_limit() {
    explore(|| {
        let rig = Rig::new();
        let frames = &rig.host.hv.frames;
        let before = frames.account(GUEST).pages();
        frames.account(GUEST).set_limit(before + 1);
        let allocate = || frames.alloc_domain(rig.memory(), GUEST, Order::PAGE, Placement::default());
        race(vec![
            Box::new(|| {
                let had = allocate();
                step();
                assert!(frames.account(GUEST).pages() <= before + 1);
                drop(had);
            }),
            Box::new(|| drop(allocate())),
        ]);
        assert_eq!(frames.account(GUEST).pages(), before);
        assert!(allocate().is_ok());
    });
}
