//! Grant operations between domains of the test machine.

use super::table::Purpose;
use super::*;
use crate::frames::Order;
use crate::hypercall::{Args, Outcome};
use crate::p2m::{Entry, Kind};
use crate::testing::{DOMAIN_FRAMES, TestHost};
use crate::types::{Gfn, GrantRef, GuestPhysAddr, GuestVirtAddr, MachineAddr};
use alloc::vec::Vec;
use proptest::prelude::*;
use radon_abi::grant_table::*;
use radon_abi::xen::DOMID_SELF;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const ARG: u64 = 0x1000;
/// Where the granter has its table.
const TABLE: u64 = 0x100;
const STATUS: u64 = 0x180;

struct Fixture {
    host: TestHost,
    dom0: DomainId,
    guest: DomainId,
    other: DomainId,
}

fn fixture() -> Fixture {
    let mut host = TestHost::new(2048, 1);
    let (dom0, guest, other) = (host.add_domain(1), host.add_domain(1), host.add_domain(1));
    let f = Fixture { host, dom0, guest, other };
    for d in [dom0, guest, other] {
        f.map_table(d, 0);
    }
    f
}

impl Fixture {
    fn domain(&self, d: DomainId) -> &Arc<Domain> {
        self.host.domain(d)
    }

    fn map_table(&self, d: DomainId, index: u64) {
        let (hv, domain) = (&self.host.hv, self.domain(d));
        let page = domain.grants.frame_to_map(hv, d, index).unwrap();
        let gfn = if index >> 31 == 0 { TABLE + index } else { STATUS + (index & 0xff) };
        domain.p2m.add_page(hv, Gfn(gfn), page, Kind::Special, &mut domain.p2m.unmapped(hv)).unwrap();
    }

    fn put(&self, d: DomainId, at: u64, value: u64) {
        self.host.guest_phys(d).write(GuestPhysAddr(at), &value.to_le_bytes()).unwrap();
    }

    fn get(&self, d: DomainId, at: u64) -> u64 {
        self.host.guest_phys(d).load_u64(GuestPhysAddr(at)).unwrap()
    }

    /// Writes a version 1 entry.
    fn grant(&self, granter: DomainId, gref: u32, to: DomainId, frame: u64, flags: u16) {
        let entry = frame << 32 | u64::from(to.0) << 16 | u64::from(flags);
        self.put(granter, (TABLE << 12) + u64::from(gref) * 8, entry);
    }

    fn flags(&self, granter: DomainId, gref: u32) -> u16 {
        self.get(granter, (TABLE << 12) + u64::from(gref) * 8) as u16
    }

    /// Writes a version 2 entry.
    fn grant2(&self, granter: DomainId, gref: u32, to: DomainId, flags: u16, extra: u32, value: u64) {
        let at = (TABLE << 12) + u64::from(gref) * 16;
        self.put(granter, at + 8, value);
        self.put(granter, at, u64::from(extra) << 32 | u64::from(to.0) << 16 | u64::from(flags));
    }

    fn status(&self, granter: DomainId, gref: u32) -> u16 {
        let at = (STATUS << 12) + u64::from(gref) * 2;
        (self.get(granter, at & !7) >> (at % 8 * 8)) as u16
    }

    /// Issues an operation on an array to its end; returns the array.
    fn call<T: IntoBytes + Immutable + FromBytes + FromZeros + Copy>(
        &self,
        who: DomainId,
        op: u32,
        requests: &[T],
    ) -> Result<Vec<T>, Errno> {
        for (n, r) in requests.iter().enumerate() {
            self.host.caller(who, 0).write_at(GuestVirtAddr(ARG), n as u64, r).unwrap();
        }
        let mut args = Args([u64::from(op), ARG, requests.len() as u64, 0, 0, 0]);
        while let Outcome::Continue(next) = grant_table_op(&self.host.caller(who, 0), args)? {
            assert!(next.get(2) < args.get(2), "progress");
            args = next;
        }
        let caller = self.host.caller(who, 0);
        Ok((0..requests.len()).map(|n| caller.read_at(GuestVirtAddr(ARG), n as u64).unwrap()).collect())
    }

    fn map(&self, who: DomainId, dom: DomainId, gref: u32, gfn: u64, flags: u32) -> Result<u32, i16> {
        let request =
            MapGrantRef { host_addr: gfn << 12, flags, gref, dom: dom.0, handle: 0xdead, ..Default::default() };
        let r = self.call(who, GNTTABOP_MAP_GRANT_REF, &[request]).unwrap()[0];
        if r.status == 0 { Ok(r.handle) } else { Err(r.status) }
    }

    fn unmap(&self, who: DomainId, handle: u32, gfn: u64) -> i16 {
        let request = UnmapGrantRef { host_addr: gfn << 12, handle, ..Default::default() };
        self.call(who, GNTTABOP_UNMAP_GRANT_REF, &[request]).unwrap()[0].status
    }

    fn copy(&self, who: DomainId, source: CopyPtr, dest: CopyPtr, len: u16, flags: u16) -> i16 {
        let request = GrantCopy { source, dest, len, flags, ..Default::default() };
        self.call(who, GNTTABOP_COPY, &[request]).unwrap()[0].status
    }

    fn set_version(&self, d: DomainId, version: u32) -> Result<u32, Errno> {
        Ok(self.call(d, GNTTABOP_SET_VERSION, &[SetVersion { version }])?[0].version)
    }

    /// Switches a domain to version 2 and maps its status words.
    fn version2(&self, d: DomainId) {
        assert_eq!(self.set_version(d, 2), Ok(2));
        self.map_table(d, 0x8000_0000);
    }
}

fn ptr(dom: DomainId, frame: u64, offset: u16) -> CopyPtr {
    CopyPtr { frame, domid: dom.0, offset, _pad: 0 }
}

fn own(frame: u64, offset: u16) -> CopyPtr {
    CopyPtr { frame, domid: DOMID_SELF, offset, _pad: 0 }
}

const RW: u32 = GNTMAP_HOST_MAP;
const RO: u32 = GNTMAP_HOST_MAP | GNTMAP_READONLY;
const SRC: u16 = GNTCOPY_SOURCE_GREF;
const DST: u16 = GNTCOPY_DEST_GREF;

#[test]
fn map_write_unmap() {
    let f = fixture();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    let h = f.map(f.dom0, f.guest, 9, 0x300, RW).unwrap();
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS | GTF_READING | GTF_WRITING);
    let frame = f.domain(f.guest).p2m.query(&f.host.hv, Gfn(20)).entry.mfn;
    assert_eq!(f.domain(f.dom0).p2m.query(&f.host.hv, Gfn(0x300)).entry, Entry { kind: Kind::GrantRw, mfn: frame });
    f.put(f.dom0, 0x300_008, 77);
    assert_eq!(f.get(f.guest, 20 << 12 | 8), 77);
    let ro = f.map(f.dom0, f.guest, 9, 0x301, RO).unwrap();
    assert!(f.host.guest_phys(f.dom0).write(GuestPhysAddr(0x301_000), &[1]).is_err());
    assert_eq!(f.unmap(f.dom0, h, 0x301), GNTST_GENERAL_ERROR, "another handle's place");
    assert_eq!(f.unmap(f.dom0, h, 0x300), 0);
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS | GTF_READING, "still read");
    assert_eq!(f.unmap(f.dom0, h, 0x300), GNTST_BAD_HANDLE);
    assert_eq!(f.unmap(f.dom0, ro, 0x301), 0);
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS);
    assert_eq!(f.domain(f.dom0).p2m.query(&f.host.hv, Gfn(0x300)).entry, Entry::HOLE);
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x300, RW), Ok(ro), "handles are used again");
}

#[test]
fn mappings_that_are_refused() {
    let f = fixture();
    let map = |gref, flags| f.map(f.dom0, f.guest, gref, 0x300, flags).unwrap_err();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS | GTF_READONLY);
    assert_eq!(map(9, RW), GNTST_GENERAL_ERROR);
    assert_eq!(map(9, 0), GNTST_BAD_GNTREF);
    assert_eq!(map(9, RO | GNTMAP_DEVICE_MAP), GNTST_GENERAL_ERROR);
    assert_eq!(map(9, RO | GNTMAP_CONTAINS_PTE), GNTST_GENERAL_ERROR);
    assert_eq!(map(512, RO), GNTST_BAD_GNTREF);
    assert_eq!(map(u32::MAX, RO), GNTST_BAD_GNTREF);
    assert_eq!(f.map(f.dom0, DomainId(55), 9, 0x300, RO), Err(GNTST_BAD_DOMAIN));
    assert_eq!(f.map(f.other, f.guest, 9, 0x300, RO), Err(GNTST_GENERAL_ERROR), "granted to dom0");
    for (gref, flags, frame, status) in [
        (10, GTF_INVALID, 20, GNTST_GENERAL_ERROR),
        (11, GTF_ACCEPT_TRANSFER, 20, GNTST_GENERAL_ERROR),
        (12, GTF_TRANSITIVE, 20, GNTST_GENERAL_ERROR),
        (13, GTF_PERMIT_ACCESS, 0x7777, GNTST_BAD_PAGE),
        (14, GTF_PERMIT_ACCESS, TABLE, GNTST_BAD_PAGE),
        (15, GTF_PERMIT_ACCESS | 1 << 6, 20, GNTST_GENERAL_ERROR),
    ] {
        f.grant(f.guest, gref, f.dom0, frame, flags);
        assert_eq!(map(gref, RO), status, "entry {gref}");
        assert_eq!(f.flags(f.guest, gref), flags, "no marks are left");
    }
    let limit = f.domain(f.dom0).p2m.limit().0;
    assert_eq!(f.map(f.dom0, f.guest, 9, limit, RO), Err(GNTST_GENERAL_ERROR));
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS | GTF_READONLY, "no marks are left");
    f.map(f.dom0, f.guest, 9, 0x300, RO).unwrap();
    assert_eq!(map(9, RO), GNTST_GENERAL_ERROR, "a grant is there already");
    assert_eq!(f.flags(f.guest, 9) & (GTF_READING | GTF_WRITING), GTF_READING);

    let caller = f.host.caller(f.dom0, 0);
    let op = |cmd, at, count| grant_table_op(&caller, Args([cmd, at, count, 0, 0, 0]));
    assert_eq!(op(0, 1 << 50, 1), Err(Errno::EFAULT));
    assert_eq!(op(0, ARG, 1 << 31), Err(Errno::EINVAL));
    assert_eq!(op(0, 1 << 50, 0), Ok(Outcome::Done(0)));
    for cmd in [3, 4, 7, 9, 12, 13] {
        assert_eq!(op(cmd, ARG, 1), Err(Errno::ENOSYS));
    }
}

#[test]
fn a_grant_is_removed_by_its_handle_only() {
    let f = fixture();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    let h = f.map(f.dom0, f.guest, 9, 0x300, RW).unwrap();
    let (hv, p2m) = (&f.host.hv, &f.domain(f.dom0).p2m);
    let page = hv.frames.get(f.domain(f.dom0).shared_info, f.dom0).unwrap();
    assert_eq!(p2m.add_page(hv, Gfn(0x300), page, Kind::Special, &mut p2m.unmapped(hv)), Err(Errno::EBUSY));
    assert_eq!(p2m.move_ram(hv, Gfn(5), Gfn(0x300), &mut p2m.unmapped(hv)), Err(Errno::EBUSY));
    assert_eq!(p2m.move_ram(hv, Gfn(0x300), Gfn(5), &mut p2m.unmapped(hv)), Err(Errno::EINVAL));
    assert_eq!(f.unmap(f.dom0, h, 0), 0, "no address: nothing to do");
    assert_eq!(f.unmap(f.dom0, h + 1, 0), GNTST_BAD_HANDLE);
    assert_eq!(f.unmap(f.dom0, u32::MAX, 0x300), GNTST_BAD_HANDLE);
    let device = UnmapGrantRef { dev_bus_addr: 1, handle: h, ..Default::default() };
    assert_eq!(f.call(f.dom0, GNTTABOP_UNMAP_GRANT_REF, &[device]).unwrap()[0].status, GNTST_BAD_DEV_ADDR);
    assert_eq!(f.unmap(f.dom0, h, 0x300), 0);
}

#[test]
fn changes_of_an_entry_in_use_have_no_effect() {
    let f = fixture();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    f.map(f.dom0, f.guest, 9, 0x300, RO).unwrap();
    f.grant(f.guest, 9, f.other, 21, GTF_PERMIT_ACCESS);
    assert_eq!(f.map(f.other, f.guest, 9, 0x300, RO), Err(GNTST_GENERAL_ERROR), "dom0 uses it");
    // dom0 has it pinned, so this is the frame that was granted to it.
    f.map(f.dom0, f.guest, 9, 0x301, RO).unwrap();
    let entry = |gfn| f.domain(f.dom0).p2m.query(&f.host.hv, Gfn(gfn)).entry;
    assert_eq!(entry(0x300), entry(0x301));
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x302, RW), Err(GNTST_GENERAL_ERROR), "not granted any more");
}

#[test]
fn copies() {
    let f = fixture();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS | GTF_READONLY);
    f.grant(f.other, 10, f.dom0, 30, GTF_PERMIT_ACCESS);
    f.put(f.guest, 20 << 12 | 16, 0x1122_3344_5566_7788);
    // Grant to own frame, grant to grant, own to own, own to grant.
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 9, 16), own(5, 0), 8, SRC), 0);
    assert_eq!(f.get(f.dom0, 5 << 12), 0x1122_3344_5566_7788);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 9, 16), ptr(f.other, 10, 4088), 8, SRC | DST), 0);
    assert_eq!(f.get(f.other, (31 << 12) - 8), 0x1122_3344_5566_7788);
    assert_eq!(f.copy(f.dom0, own(5, 0), own(6, 8), 8, 0), 0);
    assert_eq!(f.copy(f.dom0, own(6, 8), ptr(f.other, 10, 0), 8, DST), 0);
    assert_eq!(f.get(f.other, 30 << 12), 0x1122_3344_5566_7788);
    assert_eq!(f.copy(f.dom0, own(5, 0), own(5, 4), 4000, 0), 0, "overlapping");
    assert_eq!(f.get(f.dom0, 5 << 12 | 8) as u32, 0x1122_3344);
    assert_eq!((f.flags(f.guest, 9), f.flags(f.other, 10)), (GTF_PERMIT_ACCESS | GTF_READONLY, GTF_PERMIT_ACCESS));

    assert_eq!(f.copy(f.dom0, own(5, 0), ptr(f.guest, 9, 0), 8, DST), GNTST_GENERAL_ERROR, "read-only");
    assert_eq!(f.copy(f.dom0, own(5, 4090), own(6, 0), 8, 0), GNTST_BAD_COPY_ARG);
    assert_eq!(f.copy(f.dom0, own(5, 0), own(6, 65535), 8, 0), GNTST_BAD_COPY_ARG);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 5, 0), own(6, 0), 8, 0), GNTST_PERMISSION_DENIED);
    assert_eq!(f.copy(f.dom0, own(0x999, 0), own(6, 0), 8, 0), GNTST_BAD_PAGE);
    assert_eq!(f.copy(f.dom0, own(5, 0), own(TABLE, 0), 8, 0), GNTST_BAD_PAGE, "not its RAM");
    assert_eq!(f.copy(f.dom0, ptr(DomainId(66), 9, 0), own(6, 0), 8, SRC), GNTST_BAD_DOMAIN);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 9999, 0), own(6, 0), 8, SRC), GNTST_BAD_GNTREF);
    assert_eq!(f.copy(f.other, ptr(f.guest, 9, 0), own(6, 0), 8, SRC), GNTST_GENERAL_ERROR);
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS | GTF_READONLY);
}

#[test]
fn version_two() {
    let f = fixture();
    assert_eq!(f.set_version(f.guest, 3), Err(Errno::EINVAL));
    f.grant(f.guest, 1, f.dom0, 20, GTF_PERMIT_ACCESS);
    f.grant(f.guest, 9, f.dom0, 21, GTF_PERMIT_ACCESS);
    f.grant(f.guest, 7, f.other, 22, GTF_PERMIT_ACCESS);
    let works = |gref| f.map(f.other, f.guest, gref, 0x300, RW).map(|h| f.unmap(f.other, h, 0x300));
    assert_eq!(works(7), Ok(0));
    let h = f.map(f.dom0, f.guest, 9, 0x300, RW).unwrap();
    assert_eq!(f.set_version(f.guest, 2), Err(Errno::EBUSY));
    f.unmap(f.dom0, h, 0x300);
    // One of the first eight may be in use.
    let h = f.map(f.dom0, f.guest, 1, 0x300, RW).unwrap();
    f.grant(f.guest, 2, f.dom0, 23, GTF_PERMIT_ACCESS);
    let even = f.map(f.dom0, f.guest, 2, 0x301, RO).unwrap();
    f.version2(f.guest);
    assert_eq!(f.domain(f.guest).grants.table_frames().len(), 2, "entries and status words");
    let marks = [0, 1, 2, 3, 7].map(|gref| f.status(f.guest, gref));
    assert_eq!(marks, [0, GTF_READING | GTF_WRITING, GTF_READING, 0, 0]);
    assert_eq!(f.unmap(f.dom0, even, 0x301), 0);
    assert_eq!(f.get(f.guest, (TABLE << 12) + 16) as u16, GTF_PERMIT_ACCESS);
    assert_eq!(f.get(f.guest, (TABLE << 12) + 24), 20);
    assert_eq!(f.get(f.guest, (TABLE << 12) + 9 * 16), 0, "others are emptied");
    assert_eq!(f.unmap(f.dom0, h, 0x300), 0);
    assert_eq!(f.status(f.guest, 1), 0);
    assert_eq!(works(7), Ok(0));

    for gref in [20, 21, 22, 23] {
        f.grant2(f.guest, gref, f.dom0, GTF_PERMIT_ACCESS, 0, 25);
    }
    let h = f.map(f.dom0, f.guest, 21, 0x300, RW).unwrap();
    assert_eq!([20, 21, 22, 23].map(|g| f.status(f.guest, g)), [0, GTF_READING | GTF_WRITING, 0, 0]);
    f.unmap(f.dom0, h, 0x300);
    assert_eq!(f.status(f.guest, 21), 0);
    assert_eq!(f.map(f.other, f.guest, 21, 0x300, RW), Err(GNTST_GENERAL_ERROR));
    assert_eq!(f.status(f.guest, 21), 0);
    assert_eq!(f.map(f.dom0, f.guest, 256, 0x300, RW), Err(GNTST_BAD_GNTREF), "the table holds half as many");

    // The table's frames and those of the status words have places of their own.
    let (hv, grants) = (&f.host.hv, &f.domain(f.guest).grants);
    let mapped = |index| grants.frame_to_map(hv, f.guest, index).map(|page| page.mfn());
    for (index, part) in [(0, Part::Shared), (XENMAPIDX_GRANT_TABLE_STATUS, Part::Status)] {
        assert_eq!(mapped(index), grants.frame(hv, f.guest, part, 0).map(|page| page.mfn()));
    }

    // Part of a frame: to copy, not to map.
    f.grant2(f.guest, 30, f.dom0, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 100 | 50 << 16, 25);
    assert_eq!(f.map(f.dom0, f.guest, 30, 0x300, RO), Err(GNTST_GENERAL_ERROR));
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 30, 100), own(5, 0), 50, SRC), 0);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 30, 99), own(5, 0), 50, SRC), GNTST_GENERAL_ERROR);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 30, 101), own(5, 0), 50, SRC), GNTST_GENERAL_ERROR);
    f.grant2(f.guest, 31, f.dom0, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 4000 | 97 << 16, 25);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 31, 4000), own(5, 0), 1, SRC), GNTST_GENERAL_ERROR, "beyond the frame");

    // Back: frames of status words go from the map.
    for (flags, frame) in [(0, 1 << 32), (GTF_SUB_PAGE, 25), (GTF_TRANSITIVE ^ GTF_PERMIT_ACCESS, 25)] {
        f.grant2(f.guest, 2, f.dom0, GTF_PERMIT_ACCESS ^ flags, 0, frame);
        assert_eq!(f.set_version(f.guest, 1), Err(Errno::ERANGE));
    }
    f.grant2(f.guest, 2, f.dom0, GTF_INVALID, 0, 0);
    f.grant2(f.guest, 3, f.dom0, GTF_INVALID, 0, 1 << 32);
    f.grant2(f.guest, 6, f.dom0, GTF_PERMIT_ACCESS, 0, 25);
    let h = f.map(f.dom0, f.guest, 6, 0x300, RO).unwrap();
    assert_eq!(f.set_version(f.guest, 1), Ok(1));
    assert_eq!(f.domain(f.guest).p2m.query(&f.host.hv, Gfn(STATUS)).entry, Entry::HOLE);
    assert_eq!(f.flags(f.guest, 1), GTF_PERMIT_ACCESS);
    assert_eq!(f.flags(f.guest, 6), GTF_PERMIT_ACCESS | GTF_READING);
    assert_eq!(f.unmap(f.dom0, h, 0x300), 0);
    assert_eq!(f.flags(f.guest, 6), GTF_PERMIT_ACCESS);
    assert_eq!(works(7), Ok(0));
    assert_eq!(f.get(f.guest, (TABLE << 12) + 8) >> 32, 20);
    let v = f.call(f.guest, GNTTABOP_GET_VERSION, &[GetVersion { dom: DOMID_SELF, ..Default::default() }]).unwrap();
    assert_eq!(v[0].version, 1);
    let of = GetVersion { dom: f.dom0.0, ..Default::default() };
    assert_eq!(f.call(f.guest, GNTTABOP_GET_VERSION, &[of]).err(), Some(Errno::EPERM));
}

/// What kinds of entries, and flags of version 2 only, allow a copy.
#[test]
fn kinds_of_entries_to_copy_from() {
    let f = fixture();
    f.put(f.guest, 25 << 12, 0x1234);
    let copy = |gref| f.copy(f.dom0, ptr(f.guest, gref, 0), own(5, 0), 8, SRC);
    f.grant(f.guest, 20, f.dom0, 25, GTF_PERMIT_ACCESS | GTF_SUB_PAGE);
    assert_eq!((copy(20), f.get(f.dom0, 5 << 12)), (0, 0x1234), "whole frames in version 1");
    f.grant(f.guest, 21, f.dom0, 25, GTF_TRANSITIVE);
    assert_eq!(copy(21), GNTST_GENERAL_ERROR);
    f.version2(f.guest);
    for flags in [GTF_INVALID, GTF_ACCEPT_TRANSFER] {
        f.grant2(f.guest, 22, f.dom0, flags, 0, 25);
        assert_eq!(copy(22), GNTST_GENERAL_ERROR);
    }
    f.put(f.guest, 25 << 12, 0x5678);
    f.grant2(f.guest, 22, f.dom0, GTF_PERMIT_ACCESS, 0, 25);
    assert_eq!((copy(22), f.get(f.dom0, 5 << 12)), (0, 0x5678));
}

/// While one CPU copies by it, another may not map what is no whole frame.
#[test]
fn parts_of_frames_that_are_in_use() {
    let f = fixture();
    f.version2(f.guest);
    f.grant2(f.guest, 30, f.dom0, GTF_PERMIT_ACCESS | GTF_SUB_PAGE, 100 | 50 << 16, 25);
    f.grant2(f.guest, 31, f.dom0, GTF_TRANSITIVE, u32::from(f.other.0), 40);
    let (hv, granter) = (&f.host.hv, f.domain(f.guest));
    for gref in [30, 31] {
        let pin = |purpose| {
            let mut table = granter.grants.table.lock();
            table.pin(hv, granter, GrantRef(gref), f.dom0, purpose, false).map(|_| ()).map_err(|status| status.0)
        };
        let unpin = || granter.grants.table.lock().unpin(hv.platform.memory(), GrantRef(gref), false);
        assert_eq!([pin(Purpose::Copy), pin(Purpose::Copy)], [Ok(()); 2]);
        assert_eq!(f.map(f.dom0, f.guest, gref, 0x300, RO), Err(GNTST_GENERAL_ERROR));
        unpin();
        assert_eq!(f.status(f.guest, gref), GTF_READING);
        unpin();
        assert_eq!(f.status(f.guest, gref), 0);
    }
}

#[test]
fn transitive_grants() {
    let f = fixture();
    f.version2(f.guest);
    // other grants to guest, guest lets dom0 use that.
    f.grant(f.other, 40, f.guest, 30, GTF_PERMIT_ACCESS | GTF_READONLY);
    f.grant2(f.guest, 20, f.dom0, GTF_TRANSITIVE, u32::from(f.other.0), 40);
    f.put(f.other, 30 << 12, 0xabcd);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 20, 0), own(5, 0), 8, SRC), 0);
    assert_eq!(f.get(f.dom0, 5 << 12), 0xabcd);
    assert_eq!((f.status(f.guest, 20), f.flags(f.other, 40)), (0, GTF_PERMIT_ACCESS | GTF_READONLY));
    assert_eq!(f.copy(f.dom0, own(5, 0), ptr(f.guest, 20, 0), 8, DST), GNTST_GENERAL_ERROR);
    assert_eq!(f.map(f.dom0, f.guest, 20, 0x300, RO), Err(GNTST_GENERAL_ERROR));
    // To itself, to nobody, to another transitive one.
    f.grant2(f.guest, 21, f.dom0, GTF_TRANSITIVE, u32::from(f.guest.0), 20);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 21, 0), own(5, 0), 8, SRC), GNTST_GENERAL_ERROR);
    f.grant2(f.guest, 22, f.dom0, GTF_TRANSITIVE, 88, 20);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 22, 0), own(5, 0), 8, SRC), GNTST_BAD_DOMAIN);
    f.version2(f.other);
    f.grant2(f.other, 41, f.guest, GTF_TRANSITIVE, u32::from(f.guest.0), 20);
    f.grant2(f.guest, 23, f.dom0, GTF_TRANSITIVE, u32::from(f.other.0), 41);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 23, 0), own(5, 0), 8, SRC), GNTST_GENERAL_ERROR);
    // Nor if it ends at a frame: to itself, or two steps further.
    f.grant2(f.guest, 24, f.dom0, GTF_TRANSITIVE, u32::from(f.guest.0), 25);
    f.grant2(f.guest, 25, f.guest, GTF_PERMIT_ACCESS, 0, 30);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 24, 0), own(5, 0), 8, SRC), GNTST_GENERAL_ERROR);
    f.grant2(f.guest, 26, f.dom0, GTF_TRANSITIVE, u32::from(f.other.0), 42);
    f.grant2(f.other, 42, f.guest, GTF_TRANSITIVE, u32::from(f.dom0.0), 43);
    f.grant(f.dom0, 43, f.other, 30, GTF_PERMIT_ACCESS);
    assert_eq!(f.copy(f.dom0, ptr(f.guest, 26, 0), own(5, 0), 8, SRC), GNTST_GENERAL_ERROR);
    assert_eq!([24, 25, 26].map(|g| f.status(f.guest, g)), [0; 3]);
    assert_eq!((f.status(f.other, 42), f.flags(f.dom0, 43)), (0, GTF_PERMIT_ACCESS));
    assert_eq!([20, 21, 22, 23].map(|g| f.status(f.guest, g)), [0; 4]);
    assert_eq!(f.status(f.other, 41), 0);
}

#[test]
fn sizes_and_setup() {
    let f = fixture();
    let query = |dom| f.call(f.guest, GNTTABOP_QUERY_SIZE, &[QuerySize { dom, ..Default::default() }]).unwrap()[0];
    let q = query(DOMID_SELF);
    assert_eq!((q.status, q.nr_frames, q.max_nr_frames), (0, 1, 64));
    assert_eq!(query(f.dom0.0).status, GNTST_PERMISSION_DENIED);
    assert_eq!(query(99).status, GNTST_BAD_DOMAIN);
    let setup = |nr_frames| SetupTable { dom: DOMID_SELF, nr_frames, frame_list: 0x2000, ..Default::default() };
    assert_eq!(f.call(f.guest, GNTTABOP_SETUP_TABLE, &[setup(3)]).unwrap()[0].status, 0);
    assert_eq!((f.get(f.guest, 0x2000), f.get(f.guest, 0x2008)), (TABLE, u64::MAX));
    assert_eq!(query(DOMID_SELF).nr_frames, 3);
    assert_eq!(f.call(f.guest, GNTTABOP_SETUP_TABLE, &[setup(65)]).unwrap()[0].status, GNTST_GENERAL_ERROR);
    assert_eq!(f.call(f.guest, GNTTABOP_SETUP_TABLE, &[setup(1), setup(1)]).err(), Some(Errno::EINVAL));
    let (hv, grants) = (&f.host.hv, &f.domain(f.guest).grants);
    let frame = |part, index| grants.frame(hv, f.guest, part, index).map(|_| ());
    assert_eq!(frame(Part::Status, 1), Err(Errno::EINVAL), "not in version 1");
    assert_eq!(query(DOMID_SELF).nr_frames, 3);
    assert_eq!(grants.table_frames().len(), 3);
    assert_eq!((frame(Part::Shared, 64), frame(Part::Shared, 1 << 32)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    f.version2(f.guest);
    assert_eq!((frame(Part::Status, 7), frame(Part::Status, 8)), (Ok(()), Err(Errno::EINVAL)));
    assert_eq!(f.call(f.guest, GNTTABOP_SETUP_TABLE, &[setup(64)]).unwrap()[0].status, 0);
    assert_eq!(grants.table_frames().len(), 64 + 8);
    grants.set_limits(2, 1);
    assert_eq!(query(DOMID_SELF).max_nr_frames, 2);
}

#[test]
fn counts_are_not_negative() {
    let f = fixture();
    let call = |count| grant_table_op(&f.host.caller(f.guest, 0), Args([GNTTABOP_COPY.into(), ARG, count, 0, 0, 0]));
    assert!(matches!(call(i32::MAX as u64), Ok(Outcome::Continue(_))));
    assert!(matches!(call(i32::MAX as u64 + 1), Err(Errno::EINVAL)));
}

#[test]
fn swapping_entries() {
    let f = fixture();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    f.grant(f.guest, 10, f.other, 21, GTF_PERMIT_ACCESS | GTF_READONLY);
    let swap = |a, b| {
        let request = SwapGrantRef { ref_a: a, ref_b: b, ..Default::default() };
        f.call(f.guest, GNTTABOP_SWAP_GRANT_REF, &[request]).unwrap()[0].status
    };
    let (a, b) = (f.get(f.guest, (TABLE << 12) + 72), f.get(f.guest, (TABLE << 12) + 80));
    assert_eq!(swap(9, 10), 0);
    assert_eq!((f.get(f.guest, (TABLE << 12) + 72), f.get(f.guest, (TABLE << 12) + 80)), (b, a));
    assert_eq!(swap(9, 9999), GNTST_BAD_GNTREF);
    f.map(f.dom0, f.guest, 10, 0x300, RO).unwrap();
    assert_eq!(swap(9, 10), GNTST_EAGAIN);
}

#[test]
fn handles_have_a_limit_and_arrays_are_continued() {
    let f = fixture();
    f.domain(f.dom0).grants.set_limits(64, 2);
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    let request = |n: u64| MapGrantRef {
        host_addr: (0x1000 + n) << 12,
        flags: RO,
        gref: 9,
        dom: f.guest.0,
        ..Default::default()
    };
    // More than one budget, in memory of 64 frames.
    let all: Vec<MapGrantRef> = (0..600).map(request).collect();
    let done = f.call(f.dom0, GNTTABOP_MAP_GRANT_REF, &all).unwrap();
    assert!(done[..512].iter().all(|r| r.status == 0));
    assert!(done[512..].iter().all(|r| r.status == GNTST_NO_SPACE));
    let seen: Vec<(u32, u64)> =
        f.domain(f.dom0).grants.mapped().into_iter().map(|m| (m.handle, m.gfn.0 << 12)).collect();
    let made: Vec<(u32, u64)> = done[..512].iter().map(|r| (r.handle, r.host_addr)).collect();
    assert_eq!(seen, made, "what audits see");
    let unmap = |r: &MapGrantRef| UnmapGrantRef { host_addr: r.host_addr, handle: r.handle, ..Default::default() };
    let unmaps: Vec<UnmapGrantRef> = done[..512].iter().map(unmap).collect();
    let flushes = f.host.machine.flushes.load(crate::sync::atomic::Ordering::SeqCst);
    let done = f.call(f.dom0, GNTTABOP_UNMAP_GRANT_REF, &unmaps).unwrap();
    assert!(done.iter().all(|r| r.status == 0));
    let flushed = f.host.machine.flushes.load(crate::sync::atomic::Ordering::SeqCst) - flushes;
    assert_eq!(flushed, 512 / 32);
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS);
}

/// As many as the limit says, also beyond the default.
#[test]
fn a_handle_for_each_mapping() {
    let mut handles = handles::Handles::new(300);
    let all = core::iter::from_fn(|| handles.reserve(|| true));
    assert!(all.eq(0..300 * 256));
}

#[test]
fn the_granter_may_go_first() {
    let f = fixture();
    let (hv, guest) = (&f.host.hv, f.domain(f.guest).clone());
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    let h = f.map(f.dom0, f.guest, 9, 0x300, RW).unwrap();
    // First it gives the frame away, then it is destroyed.
    guest.p2m.remove(hv, Gfn(20), Order::PAGE, |_| Ok(()), &mut guest.p2m.unmapped(hv)).unwrap();
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x301, RW).map(|_| ()), Ok(()), "still pinned, still its frame");
    hv.domains.remove(f.guest);
    assert!(guest.grants.relinquish(hv, &guest, &mut || true));
    assert!(guest.p2m.relinquish(hv, &mut || true));
    assert_eq!(hv.frames.account(f.guest).pages(), 1);
    f.put(f.dom0, 0x300_000, 5);
    assert_eq!(f.get(f.dom0, 0x301_000), 5);
    assert_eq!(f.unmap(f.dom0, h, 0x300), 0);
    // The user goes too.
    let dom0 = f.domain(f.dom0);
    let mut calls = 0;
    while !dom0.grants.relinquish(hv, dom0, &mut || {
        calls += 1;
        calls > 1
    }) {}
    assert_eq!(hv.frames.account(f.guest).pages(), 0);
    assert_eq!(f.map(f.other, f.guest, 9, 0x300, RW), Err(GNTST_BAD_DOMAIN));
}

#[test]
fn pages_that_the_granter_cannot_write() {
    let f = fixture();
    let p2m = &f.domain(f.guest).p2m;
    p2m.change_ram(&f.host.hv, Gfn(20), Kind::RamRo, &mut p2m.unmapped(&f.host.hv)).unwrap();
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x300, RW), Err(GNTST_BAD_PAGE));
    f.map(f.dom0, f.guest, 9, 0x300, RO).unwrap();
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x301, RW), Err(GNTST_BAD_PAGE));
    assert_eq!(f.copy(f.dom0, own(5, 0), ptr(f.guest, 9, 0), 8, DST), GNTST_BAD_PAGE);
    assert_eq!(f.flags(f.guest, 9), GTF_PERMIT_ACCESS | GTF_READING);
}

/// While writes are logged, a page that is mapped for reading can be mapped for writing, too, and is told from then on.
#[test]
fn a_second_use_for_writing_while_writes_are_logged() {
    let f = fixture();
    let (hv, p2m) = (&f.host.hv, &f.domain(f.guest).p2m);
    f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
    assert!(p2m.start_logging(hv, &mut || true).unwrap());
    let told = || p2m.collect_log(hv, 0, u64::MAX, true, &mut p2m.unmapped(hv)) & 1 << 20 != 0;
    f.map(f.dom0, f.guest, 9, 0x300, RO).unwrap();
    assert!(!told());
    let handle = f.map(f.dom0, f.guest, 9, 0x301, RW).unwrap();
    assert!(told() && told());
    assert_eq!(f.unmap(f.dom0, handle, 0x301), 0);
    assert!(told());
}

/// The granter takes its entry back just before it is marked, some times in a row: no pin is lost and no mark stays.
#[test]
fn a_granter_that_races() {
    use crate::platform::PhysMemory;
    use crate::sync::atomic::{AtomicU32, Ordering};
    for (two, times) in [(false, 1), (false, 4), (false, 5), (true, 1)] {
        let f = fixture();
        let guest = f.domain(f.guest);
        if two {
            f.version2(f.guest);
            f.grant2(f.guest, 9, f.dom0, GTF_PERMIT_ACCESS, 0, 20);
        } else {
            f.grant(f.guest, 9, f.dom0, 20, GTF_PERMIT_ACCESS);
        }
        let table = guest.grants.frame(&f.host.hv, f.guest, Part::Shared, 0).unwrap().mfn().addr().0;
        let at = MachineAddr(table + 9 * if two { 16 } else { 8 });
        let left = Arc::new(AtomicU32::new(0));
        let count = left.clone();
        f.host.machine.memory.before_change.call_once(|| {
            alloc::boxed::Box::new(move |memory| {
                if count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                    // Read-only and back in version 1, so that the exchange fails but the entry stays good.
                    let entry = memory.load_u64(at);
                    memory.store_u64(at, if two { 0 } else { entry ^ u64::from(GTF_READONLY) });
                }
            })
        });
        left.store(times, Ordering::SeqCst);
        let pinned = f.map(f.dom0, f.guest, 9, 0x300, RO);
        let marks = |f: &Fixture| {
            let word = if two { f.status(f.guest, 9) } else { f.flags(f.guest, 9) };
            word & (GTF_READING | GTF_WRITING)
        };
        if two || times == 5 {
            assert_eq!(pinned, Err(GNTST_GENERAL_ERROR));
        } else {
            assert_eq!(marks(&f), GTF_READING);
            assert_eq!(f.unmap(f.dom0, pinned.unwrap(), 0x300), 0);
        }
        assert_eq!(marks(&f), 0);
    }
}

/// The marks of an earlier mapping stay when a later one loses such a race.
#[test]
fn a_granter_that_races_later() {
    use crate::platform::PhysMemory;
    use crate::sync::atomic::{AtomicBool, Ordering};
    let f = fixture();
    f.version2(f.guest);
    f.grant2(f.guest, 9, f.dom0, GTF_PERMIT_ACCESS, 0, 20);
    let handle = f.map(f.dom0, f.guest, 9, 0x300, RO).unwrap();
    let table = f.domain(f.guest).grants.frame(&f.host.hv, f.guest, Part::Shared, 0).unwrap().mfn().addr().0;
    let races = Arc::new(AtomicBool::new(true));
    let racing = races.clone();
    f.host.machine.memory.before_change.call_once(|| {
        alloc::boxed::Box::new(move |memory| {
            if racing.load(Ordering::SeqCst) {
                memory.store_u64(MachineAddr(table + 9 * 16), 0);
            }
        })
    });
    assert_eq!(f.map(f.dom0, f.guest, 9, 0x301, RW), Err(GNTST_GENERAL_ERROR));
    races.store(false, Ordering::SeqCst);
    assert_eq!(f.status(f.guest, 9), GTF_READING);
    assert_eq!(f.unmap(f.dom0, handle, 0x300), 0);
    assert_eq!(f.status(f.guest, 9), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Grant(u32, u64, bool),
    Map(u32, u64, bool),
    Unmap(usize),
    Copy(u32, bool),
    GiveUp(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (8u32..16, 10u64..20, any::<bool>()).prop_map(|(g, p, w)| Step::Grant(g, p, w)),
        (8u32..16, 0x300u64..0x310, any::<bool>()).prop_map(|(g, p, w)| Step::Map(g, p, w)),
        any::<usize>().prop_map(Step::Unmap),
        (8u32..16, any::<bool>()).prop_map(|(g, w)| Step::Copy(g, w)),
        (10u64..20).prop_map(Step::GiveUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Random use of grants in both versions: an entry is marked exactly while it is in use, and in the end no frame is
    /// lost.
    #[test]
    fn marks_follow_use(steps in prop::collection::vec(step(), 1..60), two: bool) {
        let f = fixture();
        if two {
            f.version2(f.guest);
        }
        let hv = &f.host.hv;
        let total = hv.frames.free_frames() + hv.frames.account(f.guest).pages();
        let mut mapped: Vec<(u32, u32, u64, bool)> = Vec::new();
        for step in steps {
            match step {
                Step::Grant(gref, gfn, write) => {
                    // A well-behaved granter: does not touch what is in use.
                    if mapped.iter().all(|m| m.1 != gref) {
                        let flags = GTF_PERMIT_ACCESS | if write { 0 } else { GTF_READONLY };
                        if two {
                            f.grant2(f.guest, gref, f.dom0, flags, 0, gfn);
                        } else {
                            f.grant(f.guest, gref, f.dom0, gfn, flags);
                        }
                    }
                }
                Step::Map(gref, gfn, write) => {
                    if let Ok(h) = f.map(f.dom0, f.guest, gref, gfn, if write { RW } else { RO }) {
                        prop_assert!(mapped.iter().all(|m| m.0 != h && m.2 != gfn));
                        mapped.push((h, gref, gfn, write));
                    }
                }
                Step::Unmap(n) => {
                    if !mapped.is_empty() {
                        let (h, _, gfn, _) = mapped.swap_remove(n % mapped.len());
                        prop_assert_eq!(f.unmap(f.dom0, h, gfn), 0);
                    }
                }
                Step::Copy(gref, write) => {
                    let (s, d, flag) = if write {
                        (own(5, 0), ptr(f.guest, u64::from(gref), 0), DST)
                    } else {
                        (ptr(f.guest, u64::from(gref), 0), own(5, 0), SRC)
                    };
                    f.copy(f.dom0, s, d, 64, flag);
                }
                Step::GiveUp(gfn) => {
                    let p2m = &f.domain(f.guest).p2m;
                    let _ = p2m.remove(hv, Gfn(gfn), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv));
                }
            }
            for gref in 8..16 {
                let uses = || mapped.iter().filter(|m| m.1 == gref);
                let want = if uses().any(|m| m.3) { GTF_READING | GTF_WRITING }
                    else if uses().count() > 0 { GTF_READING } else { 0 };
                let marks = if two { f.status(f.guest, gref) } else { f.flags(f.guest, gref) };
                prop_assert_eq!(marks & (GTF_READING | GTF_WRITING), want, "entry {}", gref);
            }
            prop_assert_eq!(hv.frames.free_frames() + hv.frames.account(f.guest).pages(), total);
        }
        let dom0 = f.domain(f.dom0);
        prop_assert!(dom0.grants.relinquish(hv, dom0, &mut || true));
        let own = (0..DOMAIN_FRAMES).filter(|&g| f.domain(f.guest).p2m.query(hv, Gfn(g)).entry.kind == Kind::RamRw);
        prop_assert_eq!(hv.frames.account(f.guest).pages(), own.count() as u64);
    }
}
