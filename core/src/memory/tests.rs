//! Operations of `memory_op` on the test machine.

use super::{Args, Errno, Outcome, abi, memory_op};
use crate::frames::{Kind as FrameKind, Order};
use crate::p2m::{Access, Entry, Kind};
use crate::sync::atomic::Ordering;
use crate::testing::{DOMAIN_FRAMES, TestHost};
use crate::types::{DomainId, Gfn, GuestPhysAddr, GuestVirtAddr, Mfn};
use abi::{MemoryMap, *};
use alloc::vec::Vec;
use radon_abi::xen::DOMID_SELF;
use zerocopy::{Immutable, IntoBytes};

/// Where tests put requests and arrays.
const ARG: u64 = 0x1000;
const LIST: u64 = 0x2000;
const LIST2: u64 = 0x4000;
const ERRS: u64 = 0x6000;

struct Fixture {
    host: TestHost,
    dom0: DomainId,
    guest: DomainId,
}

fn fixture() -> Fixture {
    let mut host = TestHost::new(4096, 1);
    let (dom0, guest) = (host.add_domain(1), host.add_domain(1));
    Fixture { host, dom0, guest }
}

impl Fixture {
    /// Issues an operation to its end, as the guest would see it.
    fn call<T: IntoBytes + Immutable>(&self, who: DomainId, op: u32, request: &T) -> Result<u64, Errno> {
        self.host.caller(who, 0).write(GuestVirtAddr(ARG), request).unwrap();
        let mut args = Args([u64::from(op), ARG, 0, 0, 0, 0]);
        for _ in 0..1000 {
            match memory_op(&self.host.caller(who, 0), args)? {
                Outcome::Continue(next) => args = next,
                Outcome::Done(n) => return Ok(n),
                Outcome::Reschedule => panic!(),
            }
        }
        panic!("no end")
    }

    fn list(&self, who: DomainId, at: u64, values: impl IntoIterator<Item = u64>) {
        for (n, v) in values.into_iter().enumerate() {
            self.host.caller(who, 0).write_at(GuestVirtAddr(at), n as u64, &v).unwrap();
        }
    }

    fn reserve(&self, who: DomainId, op: u32, dom: u16, order: u32, gfns: &[u64]) -> Result<u64, Errno> {
        self.list(who, LIST, gfns.iter().copied());
        self.call(
            who,
            op,
            &MemoryReservation {
                extent_start: LIST,
                nr_extents: gfns.len() as u64,
                extent_order: order,
                domid: dom,
                ..Default::default()
            },
        )
    }

    fn pages(&self, d: DomainId) -> u64 {
        self.host.hv.frames.account(d).pages()
    }

    fn limit(&self, d: DomainId, limit: u64) {
        self.host.hv.frames.account(d).set_limit(limit);
    }

    fn entry(&self, d: DomainId, gfn: u64) -> Entry {
        self.host.domain(d).p2m.query(&self.host.hv, Gfn(gfn)).entry
    }
}

#[test]
fn decrease_and_populate() {
    let f = fixture();
    let free = f.host.hv.frames.free_frames();
    assert_eq!(f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[40, 41, 1000, 42]), Ok(2));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES - 2);
    assert_eq!(f.host.hv.frames.free_frames(), free + 2);
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[41, 40, 1000]), Ok(3));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 1);
    // Populating what is populated gives a new frame there; the old one is free again.
    let old = f.entry(f.guest, 40).mfn;
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[40]), Ok(1));
    assert_ne!(f.entry(f.guest, 40).mfn, old);
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 1);
    f.limit(f.guest, DOMAIN_FRAMES + 2);
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[2000, 2001, 2002]), Ok(1));
    assert_eq!(f.call(f.guest, XENMEM_CURRENT_RESERVATION, &DOMID_SELF), Ok(DOMAIN_FRAMES + 2));
    assert_eq!(f.call(f.guest, XENMEM_MAXIMUM_RESERVATION, &f.guest.0), Ok(DOMAIN_FRAMES + 2));
    assert_eq!(f.call(f.guest, XENMEM_MAXIMUM_GPFN, &DOMID_SELF), Ok(2000));
    assert_eq!(f.call(f.guest, XENMEM_MAXIMUM_RAM_PAGE, &0u16), Ok(4096));
}

#[test]
fn the_hardware_domain_can_drop_firmware_memory() {
    let f = fixture();
    let p2m = &f.host.domain(f.dom0).p2m;
    p2m.add_direct(&f.host.hv, Gfn(3000), Mfn(0x10_0000), 2, Kind::Firmware).unwrap();
    let (pages, free) = (f.pages(f.dom0), f.host.hv.frames.free_frames());
    assert_eq!(f.reserve(f.dom0, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[3000, 3000]), Ok(1));
    assert_eq!((f.entry(f.dom0, 3000).kind, f.entry(f.dom0, 3001).kind), (Kind::Hole, Kind::Firmware));
    // It was nobody's frame.
    assert_eq!((f.pages(f.dom0), f.host.hv.frames.free_frames()), (pages, free));
}

#[test]
fn large_extents() {
    let f = fixture();
    f.limit(f.guest, 2048);
    assert_eq!(f.reserve(f.dom0, XENMEM_POPULATE_PHYSMAP, f.guest.0, 9, &[512, 1024]), Ok(2));
    assert_eq!(f.host.domain(f.guest).p2m.query(&f.host.hv, Gfn(600)).order, Order::LARGE);
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 1024);
    // Not over something, and not beyond what guests may ask for at a time.
    assert_eq!(f.reserve(f.dom0, XENMEM_POPULATE_PHYSMAP, f.guest.0, 9, &[512]), Ok(0));
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 10, &[0x10000]), Ok(0));
    assert_eq!(f.reserve(f.dom0, XENMEM_POPULATE_PHYSMAP, f.guest.0, 64, &[0x10000]), Ok(0));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 1024);
    assert_eq!(f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 3, &[512, 520]), Ok(2));
    assert_eq!(f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 9, &[1024]), Ok(1));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 512 - 16);
}

#[test]
fn reservations_are_checked() {
    let f = fixture();
    let free = f.host.hv.frames.free_frames();
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, f.dom0.0, 0, &[100]), Err(Errno::EPERM));
    assert_eq!(f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, f.dom0.0, 0, &[1]), Err(Errno::EPERM));
    assert_eq!(f.reserve(f.dom0, XENMEM_POPULATE_PHYSMAP, 77, 0, &[100]), Ok(0));
    assert_eq!(f.reserve(f.guest, XENMEM_INCREASE_RESERVATION, DOMID_SELF, 0, &[0]), Ok(0));
    let limit = f.host.domain(f.guest).p2m.limit().0;
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[limit, u64::MAX]), Ok(0));
    assert_eq!(f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 1, &[u64::MAX]), Ok(0));
    let mut r = MemoryReservation { extent_start: LIST, nr_extents: 1 << 40, domid: DOMID_SELF, ..Default::default() };
    assert_eq!(f.call(f.guest, XENMEM_POPULATE_PHYSMAP, &r), Ok(0));
    (r.nr_extents, r.mem_flags) = (1, XENMEMF_POPULATE_ON_DEMAND);
    assert_eq!(f.call(f.guest, XENMEM_POPULATE_PHYSMAP, &r), Ok(0));
    (r.extent_start, r.mem_flags) = (1 << 50, 0);
    assert_eq!(f.call(f.guest, XENMEM_POPULATE_PHYSMAP, &r), Ok(0));
    assert_eq!(f.host.hv.frames.free_frames(), free);
    let caller = f.host.caller(f.guest, 0);
    let args = |op: u64, at| Args([op, at, 0, 0, 0, 0]);
    assert_eq!(memory_op(&caller, args(6 | 5 << 6, 1 << 50)), Ok(Outcome::Done(5)), "as far as it had come");
    assert_eq!(memory_op(&caller, args(3, 1 << 50)), Err(Errno::EFAULT));
    assert_eq!(memory_op(&caller, args(3 | 1 << 6, ARG)), Err(Errno::EINVAL));
    assert_eq!(memory_op(&caller, args(63, ARG)), Err(Errno::ENOSYS));
    for op in [5, 10, 11, 12, 20, 21, 22] {
        assert_eq!(memory_op(&caller, args(op, ARG)), Err(Errno::ENOSYS));
    }
}

#[test]
fn long_lists_are_continued() {
    let f = fixture();
    f.limit(f.guest, 4096);
    let gfns: Vec<u64> = (0..1000).map(|n| 0x1000 + n).collect();
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &gfns), Ok(1000));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES + 1000);
    let request = MemoryReservation { extent_start: LIST, nr_extents: 1000, domid: DOMID_SELF, ..Default::default() };
    let caller = f.host.caller(f.guest, 0);
    caller.write(GuestVirtAddr(ARG), &request).unwrap();
    let args = Args([u64::from(XENMEM_DECREASE_RESERVATION), ARG, 0, 0, 0, 0]);
    let flushes = f.host.machine.flushes.load(Ordering::SeqCst);
    let Ok(Outcome::Continue(next)) = memory_op(&caller, args) else { panic!("not interrupted") };
    assert_eq!(next.get(0), u64::from(XENMEM_DECREASE_RESERVATION) | 512 << 6);
    let flushed = f.host.machine.flushes.load(Ordering::SeqCst) - flushes;
    assert!((1..=512 / 64 + 1).contains(&flushed), "{flushed} flushes");
    assert_eq!(memory_op(&f.host.caller(f.guest, 0), next), Ok(Outcome::Done(1000)));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES);
}

#[test]
fn identity_domains_get_their_own_frames_back() {
    let mut host = TestHost::new(2048, 1);
    let dom0 = host.add_identity_domain(1, Mfn(1), 600);
    let guest = host.add_domain(1);
    let f = Fixture { host, dom0, guest };
    let hv = &f.host.hv;
    let free = hv.frames.free_frames();
    f.host.guest_phys(dom0).write(GuestPhysAddr(100 << 12), b"kept").unwrap();
    assert_eq!(f.reserve(dom0, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[100, 101]), Ok(2));
    assert_eq!((f.pages(dom0), hv.frames.free_frames()), (598, free), "parked, not free");
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[101, 100]), Ok(2));
    assert_eq!(f.entry(dom0, 100), Entry { kind: Kind::RamRw, mfn: Mfn(100) });
    assert_eq!((f.pages(dom0), hv.frames.free_frames()), (600, free));
    f.limit(dom0, 2000);
    // Free RAM of that number will do, and is zero; others' will not; nor will no RAM.
    assert_eq!(hv.frames.kind(Mfn(1000)), FrameKind::Tail);
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[1000]), Ok(1));
    assert_eq!(f.entry(dom0, 1000).mfn, Mfn(1000));
    let theirs = f.entry(guest, 3).mfn.0;
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[theirs]), Ok(0));
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[9999]), Ok(0));
    // All of a large extent or nothing.
    assert_eq!(f.reserve(dom0, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[8, 9, 10, 11]), Ok(4));
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 2, &[8]), Ok(1));
    assert_eq!(f.reserve(dom0, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[8, 9, 10]), Ok(3));
    let before = f.pages(dom0);
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 2, &[8]), Ok(0), "11 is in use");
    assert_eq!(f.pages(dom0), before);
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[8, 9, 10]), Ok(3), "undone well");
}

#[test]
fn foreign_batches() {
    let f = fixture();
    let (a, b) = (f.entry(f.guest, 7).mfn, f.entry(f.guest, 8).mfn);
    f.list(f.dom0, LIST, [7, 5000, 8]);
    f.list(f.dom0, LIST2, [0x500, 0x501, 0x502]);
    let mut batch = AddToPhysmapBatch {
        domid: DOMID_SELF,
        space: XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 3,
        foreign_domid: f.guest.0,
        idxs: LIST,
        gpfns: LIST2,
        errs: ERRS,
    };
    assert_eq!(f.call(f.dom0, XENMEM_ADD_TO_PHYSMAP_BATCH, &batch), Ok(0));
    let errs: [i32; 3] = f.host.caller(f.dom0, 0).read(GuestVirtAddr(ERRS)).unwrap();
    assert_eq!(errs, [0, -22, 0]);
    assert_eq!(f.entry(f.dom0, 0x500), Entry { kind: Kind::Foreign, mfn: a });
    assert_eq!(f.entry(f.dom0, 0x502), Entry { kind: Kind::Foreign, mfn: b });

    let err = |f: &Fixture, who, batch: &AddToPhysmapBatch| {
        assert_eq!(f.call(who, XENMEM_ADD_TO_PHYSMAP_BATCH, batch), Ok(0));
        f.host.caller(who, 0).read::<i32>(GuestVirtAddr(ERRS)).unwrap()
    };
    batch.size = 1;
    batch.foreign_domid = f.dom0.0;
    assert_eq!(err(&f, f.dom0, &batch), -22, "itself");
    batch.foreign_domid = 99;
    assert_eq!(err(&f, f.dom0, &batch), -3);
    f.list(f.guest, LIST, [7]);
    f.list(f.guest, LIST2, [0x500]);
    assert_eq!(err(&f, f.guest, &batch), -1, "only the hardware domain");
    batch.foreign_domid = f.guest.0;
    batch.space = XENMAPSPACE_DEV_MMIO as u16;
    assert_eq!(f.call(f.dom0, XENMEM_ADD_TO_PHYSMAP_BATCH, &batch), Err(Errno::EACCES));
    batch.space = XENMAPSPACE_GMFN_FOREIGN as u16;
    batch.errs = 1 << 50;
    assert_eq!(f.call(f.dom0, XENMEM_ADD_TO_PHYSMAP_BATCH, &batch), Err(Errno::EFAULT));
    batch.domid = f.dom0.0;
    assert_eq!(f.call(f.guest, XENMEM_ADD_TO_PHYSMAP_BATCH, &batch), Err(Errno::EPERM));
    assert_eq!(f.call(f.dom0, XENMEM_ADD_TO_PHYSMAP_BATCH | 1 << 6, &batch), Err(Errno::EILSEQ));

    // What the guest itself has mapped from others is not its to pass on.
    let (hv, p2m) = (&f.host.hv, &f.host.domain(f.guest).p2m);
    let page = f.host.domain(f.dom0).p2m.get_page(hv, Gfn(9), Access::Write).unwrap().page;
    p2m.add_page(hv, Gfn(0x100), page, Kind::GrantRw, &mut p2m.unmapped(hv)).unwrap();
    f.list(f.dom0, LIST, [0x100]);
    f.list(f.dom0, LIST2, [0x600]);
    let granted = AddToPhysmapBatch { domid: DOMID_SELF, errs: ERRS, ..batch };
    assert_eq!(err(&f, f.dom0, &granted), -22);
    p2m.remove(hv, Gfn(0x100), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).unwrap();

    let remove = |gpfn| RemoveFromPhysmap { domid: DOMID_SELF, gpfn, ..Default::default() };
    assert_eq!(f.call(f.dom0, XENMEM_REMOVE_FROM_PHYSMAP, &remove(0x502)), Ok(0));
    assert_eq!(f.call(f.dom0, XENMEM_REMOVE_FROM_PHYSMAP, &remove(0x502)), Err(Errno::ENOENT));
    assert_eq!(f.entry(f.guest, 8).mfn, b, "the owner keeps it");
    // The domain's frames stay while they are mapped.
    let free = f.host.hv.frames.free_frames();
    assert!(f.host.domain(f.guest).p2m.relinquish(&f.host.hv, &mut || true));
    assert_eq!(f.pages(f.guest), 1);
    assert_eq!(f.call(f.dom0, XENMEM_REMOVE_FROM_PHYSMAP, &remove(0x500)), Ok(0));
    assert_eq!(f.pages(f.guest), 0);
    assert_eq!(f.host.hv.frames.free_frames(), free + DOMAIN_FRAMES);
}

#[test]
fn spaces() {
    let f = fixture();
    let add = |space, idx, gpfn| AddToPhysmap { domid: DOMID_SELF, size: 0, space, idx, gpfn };
    let map = |space, idx, gpfn| f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &add(space, idx, gpfn));
    assert_eq!(map(XENMAPSPACE_SHARED_INFO, 0, 3), Ok(0));
    assert_eq!(f.entry(f.guest, 3), Entry { kind: Kind::Special, mfn: f.host.domain(f.guest).shared_info });
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES - 1);
    assert_eq!(map(XENMAPSPACE_SHARED_INFO, 1, 3), Err(Errno::EINVAL));
    assert_eq!(map(XENMAPSPACE_GRANT_TABLE, 2, 0x100), Ok(0));
    assert_eq!(map(XENMAPSPACE_GRANT_TABLE, 0x8000_0000, 0x100), Err(Errno::EINVAL), "version 1");
    assert_eq!(map(XENMAPSPACE_GRANT_TABLE, 64, 0x100), Err(Errno::EINVAL));
    let moved = f.entry(f.guest, 20).mfn;
    assert_eq!(map(XENMAPSPACE_GMFN, 20, 0x200), Ok(0));
    assert_eq!((f.entry(f.guest, 20), f.entry(f.guest, 0x200).mfn), (Entry::HOLE, moved));
    assert_eq!(map(XENMAPSPACE_GMFN, 20, 0x200), Err(Errno::EINVAL), "a hole");
    assert_eq!(map(XENMAPSPACE_GMFN, 3, 0x200), Err(Errno::EINVAL), "not its RAM");
    assert_eq!(map(XENMAPSPACE_GMFN_FOREIGN, 3, 0x200), Err(Errno::ENOSYS));
    assert_eq!(map(9, 3, 0x200), Err(Errno::EINVAL));
    let range = AddToPhysmap { size: 8, ..add(XENMAPSPACE_GMFN_RANGE, 30, 0x300) };
    assert_eq!(f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &range), Ok(0));
    assert_eq!(f.entry(f.guest, 30), Entry::HOLE);
    assert_eq!(f.entry(f.guest, 0x307).kind, Kind::RamRw);
    assert_eq!(f.call(f.guest, XENMEM_ADD_TO_PHYSMAP | 9 << 6, &range), Err(Errno::EILSEQ));
    let other = AddToPhysmap { domid: f.dom0.0, ..add(0, 0, 3) };
    assert_eq!(f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &other), Err(Errno::EPERM));
    assert_eq!(f.pages(f.guest), DOMAIN_FRAMES - 1);
}

#[test]
fn resources() {
    let f = fixture();
    let ask = AcquireResource { domid: f.guest.0, kind: XENMEM_RESOURCE_GRANT_TABLE, ..Default::default() };
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &ask), Ok(0));
    assert_eq!(f.host.caller(f.dom0, 0).read::<AcquireResource>(GuestVirtAddr(ARG)).unwrap().nr_frames, 64);
    f.list(f.dom0, LIST, [0x700, 0x701]);
    let take = AcquireResource { nr_frames: 2, frame_list: LIST, ..ask };
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &take), Ok(0));
    let table = f.host.domain(f.guest).grants.frame(&f.host.hv, f.guest, crate::grant::Part::Shared, 1).unwrap();
    assert_eq!(f.entry(f.dom0, 0x701), Entry { kind: Kind::Foreign, mfn: table.mfn() });
    assert_eq!(f.call(f.guest, XENMEM_ACQUIRE_RESOURCE, &take), Err(Errno::EACCES));
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &AcquireResource { pad: 1, ..take }), Err(Errno::EINVAL));
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &AcquireResource { id: 1, ..take }), Err(Errno::EINVAL));
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &AcquireResource { kind: 0, ..take }), Err(Errno::EINVAL));
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &AcquireResource { domid: 0, ..take }), Err(Errno::EPERM));
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &AcquireResource { domid: 9, ..take }), Err(Errno::ESRCH));
    let beyond = AcquireResource { frame: 63, ..take };
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &beyond), Err(Errno::EIO), "one was mapped");
    let far = AcquireResource { frame: u64::MAX, ..take };
    assert_eq!(f.call(f.dom0, XENMEM_ACQUIRE_RESOURCE, &far), Err(Errno::EINVAL));
}

#[test]
fn memory_maps() {
    let f = fixture();
    let get = MemoryMap { nr_entries: 10, buffer: LIST, ..Default::default() };
    assert_eq!(f.call(f.guest, XENMEM_MEMORY_MAP, &get), Err(Errno::ENOSYS));
    let ranges = [
        E820Entry { addr: 0, size: 0xa0000, kind: 1 },
        E820Entry { addr: 0xa0000, size: 0x60000, kind: 2 },
        E820Entry { addr: 0x10_0000, size: 0x700_0000, kind: 1 },
    ];
    f.host.caller(f.dom0, 0).write(GuestVirtAddr(LIST), &ranges).unwrap();
    let map = MemoryMap { nr_entries: 3, buffer: LIST, ..Default::default() };
    let set = ForeignMemoryMap { domid: f.guest.0, map, ..Default::default() };
    assert_eq!(f.call(f.dom0, XENMEM_SET_MEMORY_MAP, &set), Ok(0));
    assert_eq!(f.call(f.guest, XENMEM_MEMORY_MAP, &MemoryMap { nr_entries: 2, ..get }), Ok(0));
    let caller = f.host.caller(f.guest, 0);
    assert_eq!(caller.read::<MemoryMap>(GuestVirtAddr(ARG)).unwrap().nr_entries, 2);
    assert_eq!(caller.read::<[E820Entry; 3]>(GuestVirtAddr(LIST)).unwrap()[..2], ranges[..2]);
    let big = ForeignMemoryMap { map: MemoryMap { nr_entries: 129, ..map }, ..set };
    assert_eq!(f.call(f.dom0, XENMEM_SET_MEMORY_MAP, &big), Err(Errno::EINVAL));
    let dom0s = ForeignMemoryMap { domid: f.dom0.0, ..set };
    assert_eq!(f.call(f.guest, XENMEM_SET_MEMORY_MAP, &dom0s), Err(Errno::EPERM));
    let none = ReservedDeviceMemoryMap { flags: 1, nr_entries: 7, ..Default::default() };
    assert_eq!(f.call(f.dom0, XENMEM_RESERVED_DEVICE_MEMORY_MAP, &none), Ok(0));
    let none = ReservedDeviceMemoryMap { flags: 2, ..none };
    assert_eq!(f.call(f.dom0, XENMEM_RESERVED_DEVICE_MEMORY_MAP, &none), Err(Errno::EINVAL));
}

#[test]
fn claims_and_targets() {
    let f = fixture();
    let claim = |nr_extents| MemoryReservation { nr_extents, domid: f.guest.0, ..Default::default() };
    assert_eq!(f.call(f.guest, XENMEM_CLAIM_PAGES, &claim(80)), Err(Errno::EPERM));
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &claim(DOMAIN_FRAMES)), Err(Errno::EINVAL));
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &claim(1000)), Err(Errno::EINVAL), "above its limit");
    let odd = MemoryReservation { extent_order: 1, ..claim(80) };
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &odd), Err(Errno::EINVAL));
    f.limit(f.guest, 100_000);
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &claim(100_000)), Err(Errno::ENOMEM));
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &claim(80)), Ok(0));
    assert_eq!(f.host.hv.frames.claimed_frames(), 16);
    assert_eq!(f.call(f.dom0, XENMEM_CLAIM_PAGES, &claim(0)), Ok(0));
    let target = PodTarget { target_pages: 10, domid: f.guest.0, ..Default::default() };
    assert_eq!(f.call(f.dom0, XENMEM_SET_POD_TARGET, &target), Ok(0));
    let caller = f.host.caller(f.dom0, 0);
    assert_eq!(caller.read::<PodTarget>(GuestVirtAddr(ARG)).unwrap().tot_pages, DOMAIN_FRAMES);
    assert_eq!(f.call(f.guest, XENMEM_GET_POD_TARGET, &target), Err(Errno::EPERM));
    let far = PodTarget { target_pages: 100_001, ..target };
    assert_eq!(f.call(f.dom0, XENMEM_SET_POD_TARGET, &far), Err(Errno::EINVAL));
}

#[test]
fn memory_on_demand() {
    let f = fixture();
    let hv = &f.host.hv;
    let (guest, dom0) = (f.guest, f.dom0);
    let p2m = &f.host.domain(guest).p2m;
    f.limit(guest, 2048);
    // It has its first frames already, so what is set aside follows what is needed.
    let free = hv.frames.free_frames();
    let on_demand = |gfns: &[u64], order| {
        f.list(dom0, LIST, gfns.iter().copied());
        let request = MemoryReservation {
            extent_start: LIST,
            nr_extents: gfns.len() as u64,
            extent_order: order,
            mem_flags: XENMEMF_POPULATE_ON_DEMAND,
            domid: guest.0,
            ..Default::default()
        };
        f.call(dom0, XENMEM_POPULATE_PHYSMAP, &request)
    };
    assert_eq!(on_demand(&[0x200], 9), Ok(1));
    assert_eq!(on_demand(&[0x400, 0x401, 0x402], 0), Ok(3));
    assert_eq!(on_demand(&[0x402, 0x403], 0), Ok(0), "in use");
    assert_eq!((p2m.demand(), f.pages(guest)), (515, DOMAIN_FRAMES));
    assert!(p2m.populate(hv, Gfn(0x200)).is_err(), "nothing is set aside");
    let target = |pages| {
        let target = PodTarget { target_pages: pages, domid: guest.0, ..Default::default() };
        f.call(dom0, XENMEM_SET_POD_TARGET, &target)?;
        let told: PodTarget = f.host.caller(dom0, 0).read(GuestVirtAddr(ARG)).unwrap();
        Ok((told.tot_pages - DOMAIN_FRAMES, told.pod_cache_pages, told.pod_entries))
    };
    assert_eq!(target(DOMAIN_FRAMES + 100), Ok((100, 100, 515)));
    assert_eq!(hv.frames.free_frames(), free - 100);
    assert_eq!(hv.frames.claimed_frames(), 0);
    assert_eq!(target(5000), Err(Errno::EINVAL));
    assert_eq!(target(DOMAIN_FRAMES + 10), Ok((100, 100, 515)), "the balloon driver has to do that");
    // A lower limit does not keep it from what is set aside, but what is set aside counts.
    f.limit(guest, DOMAIN_FRAMES + 100);
    assert_eq!(f.reserve(dom0, XENMEM_POPULATE_PHYSMAP, guest.0, 0, &[0x900]), Ok(0));
    f.limit(guest, DOMAIN_FRAMES);
    // Touched through a foreign mapping or by the guest: a single frame, since too little is left for 2 MiB.
    assert!(p2m.get_page(hv, Gfn(0x234), Access::Write).is_ok());
    assert_eq!(f.entry(guest, 0x234).kind, Kind::RamRw);
    assert_eq!(f.entry(guest, 0x235).kind, Kind::OnDemand);
    assert_eq!((p2m.demand(), hv.frames.account(guest).reserved()), (514, 99));
    f.limit(guest, 2048);
    // The balloon driver gives back what was never touched, and then what was.
    let give_back = |gfns: &[u64]| f.reserve(guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, gfns);
    assert_eq!(give_back(&[0x400, 0x401]), Ok(2));
    assert_eq!((p2m.demand(), hv.frames.account(guest).reserved()), (512, 99));
    assert_eq!(give_back(&[0x234, 3]), Ok(2));
    assert_eq!((p2m.demand(), hv.frames.account(guest).reserved()), (512, 101));
    // What others hold still is the domain's, and nothing is set aside in its place beyond the limit.
    let held = p2m.get_page(hv, Gfn(4), Access::Read).unwrap();
    f.limit(guest, f.pages(guest) + 101);
    assert_eq!(give_back(&[4]), Ok(1));
    assert_eq!(hv.frames.account(guest).reserved(), 101);
    f.limit(guest, 10);
    assert_eq!(give_back(&[5]), Ok(1));
    assert_eq!(hv.frames.account(guest).reserved(), 101, "a lower limit takes nothing of it");
    drop(held);
    f.limit(guest, 2048);
    // Never more is set aside than can be needed.
    assert_eq!(target(2000), Ok((509, 512, 512)));
    assert_eq!(on_demand(&[0x600], 9), Ok(1));
    assert!(p2m.populate(hv, Gfn(0x6ff)).is_ok());
    assert_eq!((f.entry(guest, 0x600).kind, p2m.demand()), (Kind::RamRw, 512));
    assert_eq!(hv.frames.account(guest).reserved(), 0);
    assert!(p2m.populate(hv, Gfn(0x300)).is_err());
    assert_eq!(p2m.get_page(hv, Gfn(0x300), Access::Read).err(), Some(crate::p2m::PageError::Hole));
    let all: Vec<u64> = (0x201..0x400).filter(|g| *g != 0x234).collect();
    for part in all.chunks(256) {
        assert_eq!(give_back(part), Ok(part.len() as u64));
    }
    assert_eq!(p2m.demand(), 2);
    // A guest cannot ask for it itself.
    let own = MemoryReservation {
        extent_start: LIST,
        nr_extents: 1,
        mem_flags: XENMEMF_POPULATE_ON_DEMAND,
        domid: DOMID_SELF,
        ..Default::default()
    };
    assert_eq!(f.call(guest, XENMEM_POPULATE_PHYSMAP, &own), Ok(0));
}

#[test]
fn a_guest_that_is_paused_and_torn_down_leaks_nothing() {
    let mut host = TestHost::new(2048, 1);
    let dom0 = host.add_domain(1);
    let free = host.hv.frames.free_frames();
    let guest = host.add_domain(1);
    let f = Fixture { host, dom0, guest };
    f.reserve(guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[10, 11]).unwrap();
    f.reserve(guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[900, 10]).unwrap();
    let shared = AddToPhysmap { domid: DOMID_SELF, gpfn: 901, ..Default::default() };
    f.call(guest, XENMEM_ADD_TO_PHYSMAP, &shared).unwrap();
    f.call(guest, XENMEM_ADD_TO_PHYSMAP, &AddToPhysmap { space: 1, idx: 5, gpfn: 902, ..shared }).unwrap();
    let domain = f.host.domain(guest);
    let held = domain.p2m.get_page(&f.host.hv, Gfn(900), Access::Read).unwrap();
    assert!(domain.grants.relinquish(&f.host.hv, domain, &mut || true));
    assert!(domain.p2m.relinquish(&f.host.hv, &mut || true));
    f.host.hv.frames.release(domain.shared_info, 1);
    assert_eq!(f.pages(guest), 1);
    drop(held);
    assert_eq!((f.pages(guest), f.host.hv.frames.free_frames()), (0, free));
}

impl Fixture {
    /// All that an operation could change.
    fn snapshot(&self) -> (Vec<Entry>, Vec<u64>, Vec<Option<Gfn>>) {
        let domains = [self.dom0, self.guest];
        let entries = domains.iter().flat_map(|&d| (0..0x800).map(move |g| self.entry(d, g))).collect();
        let frames = &self.host.hv.frames;
        let mut counts = Vec::from([frames.free_frames(), frames.claimed_frames()]);
        counts.extend(domains.iter().map(|&d| self.pages(d)));
        let places = (0..4096).map(|m| frames.gfn(Mfn(m))).collect();
        (entries, counts, places)
    }
}

/// Each operation that needs memory, with every table page it needs refused in turn: it either succeeds or has changed
/// nothing.
#[test]
fn failures_change_nothing() {
    type Operation = (&'static str, fn(&Fixture) -> bool);
    let operations: [Operation; 8] = [
        ("populate one", |f| f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[0x400]) == Ok(1)),
        ("populate in a large page", |f| f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[0x210]) == Ok(1)),
        ("populate four at an odd place", |f| {
            f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 2, &[0x5fe]) == Ok(1)
        }),
        ("decrease in a large page", |f| {
            f.reserve(f.guest, XENMEM_DECREASE_RESERVATION, DOMID_SELF, 0, &[0x210]) == Ok(1)
        }),
        ("shared information", |f| {
            let a = AddToPhysmap { domid: DOMID_SELF, size: 0, space: XENMAPSPACE_SHARED_INFO, idx: 0, gpfn: 0x220 };
            f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &a).is_ok()
        }),
        ("move out of a large page", |f| {
            let a = AddToPhysmap { domid: DOMID_SELF, size: 0, space: XENMAPSPACE_GMFN, idx: 0x230, gpfn: 0x600 };
            f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &a).is_ok()
        }),
        ("move into a large page", |f| {
            let a = AddToPhysmap { domid: DOMID_SELF, size: 0, space: XENMAPSPACE_GMFN, idx: 5, gpfn: 0x230 };
            f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &a).is_ok()
        }),
        ("foreign", |f| {
            f.list(f.dom0, LIST, [0x240]);
            f.list(f.dom0, LIST2, [0x500]);
            let batch = AddToPhysmapBatch {
                domid: DOMID_SELF,
                space: XENMAPSPACE_GMFN_FOREIGN as u16,
                size: 1,
                foreign_domid: f.guest.0,
                idxs: LIST,
                gpfns: LIST2,
                errs: ERRS,
            };
            f.call(f.dom0, XENMEM_ADD_TO_PHYSMAP_BATCH, &batch).unwrap();
            f.host.caller(f.dom0, 0).read::<i32>(GuestVirtAddr(ERRS)).unwrap() == 0
        }),
    ];
    let prepared = || {
        let f = fixture();
        f.limit(f.guest, 2048);
        assert_eq!(f.reserve(f.dom0, XENMEM_POPULATE_PHYSMAP, f.guest.0, 9, &[0x200]), Ok(1));
        f
    };
    for (name, operation) in operations {
        let f = prepared();
        let before = f.snapshot();
        assert!(operation(&f), "{name} fails without reason");
        let after = f.snapshot();
        assert!(after != before, "{name} does nothing");
        for lucky in 0.. {
            let f = prepared();
            let refuse = |after| [f.dom0, f.guest].map(|d| f.host.table(d).fail_after(after));
            refuse(lucky);
            let done = operation(&f);
            refuse(u64::MAX);
            let result = f.snapshot();
            if done {
                assert!(result == after, "{name} says that it is done, and is not, with {lucky} table pages");
                // What needs no table page is not interesting here.
                assert!(lucky > 0 || name == "populate in a large page", "{name} met no failure");
                break;
            }
            assert!(result == before, "{name} changed something before it failed, with {lucky} table pages");
            assert!(lucky < 10, "{name} never succeeds");
        }
    }
}

/// With no frame left, nothing is gained and nothing lost.
#[test]
fn no_memory_changes_nothing() {
    let f = fixture();
    f.limit(f.guest, 4096);
    let memory = f.host.hv.platform.memory();
    while f.host.hv.frames.alloc_hypervisor(memory, Order::PAGE, crate::frames::Placement::default()).is_ok() {}
    let before = f.snapshot();
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 0, &[0x400, 3]), Ok(0));
    assert_eq!(f.reserve(f.guest, XENMEM_POPULATE_PHYSMAP, DOMID_SELF, 9, &[0x400]), Ok(0));
    let grant = AddToPhysmap { domid: DOMID_SELF, space: XENMAPSPACE_GRANT_TABLE, gpfn: 5, ..Default::default() };
    assert_eq!(f.call(f.guest, XENMEM_ADD_TO_PHYSMAP, &grant), Err(Errno::ENOMEM));
    assert!(f.snapshot() == before);
}
