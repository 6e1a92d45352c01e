//! Grants that their granter takes back.

use radon_abi::grant_table::{
    GNTMAP_HOST_MAP, GNTST_OKAY, GNTTABOP_MAP_GRANT_REF, GNTTABOP_SET_VERSION, GTF_PERMIT_ACCESS, GTF_READING,
    GTF_WRITING, MapGrantRef,
};
use radon_abi::hypercall::GRANT_TABLE_OP;
use radon_core::grant::Part;
use radon_core::hypercall::{Args, dispatch};
use radon_core::types::{GuestVirtAddr, MachineAddr};
use radon_interleave::atomic::{AtomicBool, Ordering, fence};
use radon_interleave::{explore_more, race};

use super::{DOM0, GUEST, Rig};

const GREF: u32 = 9;
const IN_USE: u64 = (GTF_READING | GTF_WRITING) as u64;

fn part(rig: &Rig, part: Part) -> u64 {
    rig.host.domain(GUEST).grants.frame(&rig.host.hv, GUEST, part, 0).unwrap().mfn().addr().0
}

/// dom0 asks to map what the guest grants. Returns whether it was mapped.
fn map(rig: &Rig) -> bool {
    let request = MapGrantRef {
        host_addr: 0x10_0000,
        flags: GNTMAP_HOST_MAP,
        gref: GREF,
        dom: GUEST.0,
        status: 1,
        handle: 0,
        dev_bus_addr: 0,
    };
    let caller = rig.host.caller(DOM0, 0);
    caller.write(GuestVirtAddr(0x1000), &request).unwrap();
    dispatch(&caller, GRANT_TABLE_OP, Args([GNTTABOP_MAP_GRANT_REF.into(), 0x1000, 1, 0, 0, 0])).unwrap();
    caller.read::<MapGrantRef>(GuestVirtAddr(0x1000)).unwrap().status == GNTST_OKAY
}

/// dom0 maps what the guest grants, while the guest takes it back by `revoke`, which says whether it is nobody's any more.
fn race_of(rig: &Rig, revoke: impl Fn() -> bool + Sync) {
    let [mapped, revoked] = [const { AtomicBool::new(false) }; 2];
    race(vec![
        Box::new(|| mapped.store(map(rig), Ordering::SeqCst)),
        Box::new(|| revoked.store(revoke(), Ordering::SeqCst)),
    ]);
    let [mapped, revoked] = [mapped, revoked].map(|b| b.load(Ordering::SeqCst));
    assert!(!mapped || !revoked, "mapped, though the granter has it back");
}

/// The guest grants its frame 3 in version 1. Returns where the entry is.
fn grant(rig: &Rig) -> MachineAddr {
    let at = MachineAddr(part(rig, Part::Shared) + u64::from(GREF) * 8);
    rig.memory().store_u64(at, 3 << 32 | u64::from(DOM0.0) << 16 | u64::from(GTF_PERMIT_ACCESS));
    at
}

/// What is mapped for writing is told by the log, also if it is collected just then: others write from now on.
#[test]
fn a_grant_that_is_mapped_and_the_log_of_writes() {
    explore_more(4, || {
        let rig = Rig::new();
        grant(&rig);
        let (hv, p2m) = (&rig.host.hv, &rig.host.domain(GUEST).p2m);
        while !p2m.start_logging(hv, &mut || true).unwrap() {}
        let collect = || p2m.collect_log(hv, 0, u64::MAX, true, &mut p2m.unmapped(hv));
        race(vec![Box::new(|| assert!(map(&rig))), Box::new(|| _ = collect())]);
        assert_ne!(collect() & 1 << 3, 0);
    });
}

/// Version 1: the granter exchanges the flags for none, unless they say that the entry is in use.
#[test]
fn a_grant_that_is_mapped_and_taken_back() {
    explore_more(4, || {
        let rig = Rig::new();
        let at = grant(&rig);
        race_of(&rig, || {
            let flags = rig.memory().load_u64(at) as u16;
            u64::from(flags) & IN_USE == 0 && rig.memory().compare_exchange_u16(at, flags, 0) == flags
        });
    });
}

/// Version 2: the granter clears the entry, and looks then whether its status says that it is in use.
#[test]
fn a_grant_of_version_2_that_is_mapped_and_taken_back() {
    explore_more(4, || {
        let rig = Rig::new();
        let caller = rig.host.caller(GUEST, 0);
        caller.write(GuestVirtAddr(0x1000), &2u32).unwrap();
        dispatch(&caller, GRANT_TABLE_OP, Args([GNTTABOP_SET_VERSION.into(), 0x1000, 1, 0, 0, 0])).unwrap();
        let at = part(&rig, Part::Shared) + u64::from(GREF) * 16;
        let status = part(&rig, Part::Status) + u64::from(GREF) * 2;
        let head = u64::from(DOM0.0) << 16 | u64::from(GTF_PERMIT_ACCESS);
        rig.memory().store_u64(MachineAddr(at + 8), 3);
        rig.memory().store_u64(MachineAddr(at), head);
        race_of(&rig, || {
            rig.memory().store_u64(MachineAddr(at), head & !0xffff);
            fence(Ordering::SeqCst);
            rig.memory().load_u64(MachineAddr(status & !7)) >> (status % 8 * 8) & IN_USE == 0
        });
    });
}
