//! Each domctl from the control domain on the test machine.

use radon_abi::domctl as abi;
use radon_abi::domctl::{Bitmap, CreateDomain, DomainInfo};
use radon_abi::errno::Errno;
use radon_abi::event_channel as evtchn_abi;
use radon_abi::memory::{MemoryReservation, XENMEM_CLAIM_PAGES};

use super::*;
use crate::control::testing::{AT, BUFFER, domctl_op, host, policy};
use crate::frames::{Order, Placement};
use crate::hypercall::dispatch;
use crate::p2m::{Access, Kind};
use crate::platform::PolicySource;
use crate::testing::TestHost;
use crate::types::Gfn;

const DOM0: DomainId = DomainId(0);

fn config() -> CreateDomain {
    CreateDomain {
        handle: [7; 16],
        flags: abi::XEN_DOMCTL_CDF_HVM | abi::XEN_DOMCTL_CDF_HAP,
        max_vcpus: 2,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 2,
        ..CreateDomain::default()
    }
}

/// Creates a domain; returns its number.
fn create(host: &TestHost, number: u16, config: &CreateDomain) -> Result<u16, Errno> {
    domctl_op(host, abi::XEN_DOMCTL_CREATEDOMAIN, number, config).0?;
    Ok(host.caller(DOM0, 0).read(at(Args([AT, 0, 0, 0, 0, 0]), DOMAIN)).unwrap())
}

/// A domain with vCPUs and a little memory.
pub(super) fn built(host: &TestHost) -> u16 {
    let id = create(host, 0, &config()).unwrap();
    assert_eq!(domctl_op(host, abi::XEN_DOMCTL_MAX_VCPUS, id, &abi::MaxVcpus { max: 2 }).0, SUCCESS);
    assert_eq!(domctl_op(host, abi::XEN_DOMCTL_MAX_MEM, id, &abi::MaxMem { max_memkb: 256 }).0, SUCCESS);
    let hv = &host.hv;
    let domain = hv.domains.get(DomainId(id)).unwrap();
    let mut batch = domain.p2m.unmapped(hv);
    for gfn in 0..64 {
        let memory = hv.platform.memory();
        let frame = hv.frames.alloc_domain(memory, DomainId(id), Order::PAGE, Placement::default()).unwrap();
        domain.p2m.add_ram(hv, Gfn(gfn), frame, &mut batch).unwrap();
    }
    id
}

fn destroy(host: &TestHost, id: u16) -> OpResult {
    domctl_op(host, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &0u64).0
}

fn info(host: &TestHost, id: u16) -> Result<DomainInfo, Errno> {
    let (result, info) = domctl_op(host, abi::XEN_DOMCTL_GETDOMAININFO, id, &DomainInfo::default());
    result.map(|_| info)
}

#[test]
fn a_new_domain_is_paused_and_empty() {
    let host = host();
    let id = create(&host, 0, &config()).unwrap();
    let info = info(&host, id).unwrap();
    assert_eq!((id, info.domain, info.handle), (1, 1, [7; 16]));
    assert_eq!(info.flags, abi::XEN_DOMINF_PAUSED | abi::XEN_DOMINF_HVM_GUEST | abi::XEN_DOMINF_HAP);
    assert_eq!((info.tot_pages, info.max_pages, info.max_vcpu_id), (0, 0, u32::MAX));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_MAX_VCPUS, id, &abi::MaxVcpus { max: 3 }).0, Err(Errno::EINVAL));
    for _ in 0..2 {
        assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_MAX_VCPUS, id, &abi::MaxVcpus { max: 2 }).0, SUCCESS);
    }
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    assert_eq!(domain.vcpus().len(), 2);
    assert!(domain.sched.is_paused());
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_UNPAUSEDOMAIN, id, &0u64).0, SUCCESS);
    assert!(!domain.sched.is_paused());
}

#[test]
fn numbers_go_on_from_the_last_and_are_not_given_twice() {
    let host = host();
    assert_eq!(create(&host, 0, &config()), Ok(1));
    assert_eq!(create(&host, 0x7ff4, &config()), Ok(2));
    assert_eq!(create(&host, 9, &config()), Ok(9));
    assert_eq!(create(&host, 9, &config()), Err(Errno::EEXIST));
    assert_eq!(destroy(&host, 1), SUCCESS);
    assert_eq!(create(&host, 0, &config()), Ok(3));
    host.hv.control.last_number.store(0x7fef, crate::sync::atomic::Ordering::Relaxed);
    assert_eq!(create(&host, 0, &config()), Ok(1));
}

#[test]
fn configurations_that_cannot_be_are_refused_and_leave_nothing() {
    let host = host();
    let good = config();
    let free = host.hv.frames.free_frames();
    let bad = [
        (CreateDomain { flags: abi::XEN_DOMCTL_CDF_HAP, ..good }, Errno::EINVAL),
        (CreateDomain { flags: good.flags | 1 << 20, ..good }, Errno::EINVAL),
        (CreateDomain { flags: good.flags | abi::XEN_DOMCTL_CDF_IOMMU, ..good }, Errno::EINVAL),
        (CreateDomain { max_vcpus: 0, ..good }, Errno::EINVAL),
        (CreateDomain { max_vcpus: 129, ..good }, Errno::EINVAL),
        (CreateDomain { grant_opts: 3, ..good }, Errno::EINVAL),
        (CreateDomain { grant_opts: 0, ..good }, Errno::EINVAL),
        (CreateDomain { max_grant_frames: 65, ..good }, Errno::EINVAL),
        (CreateDomain { cpupool_id: 1, ..good }, Errno::ENOENT),
        (CreateDomain { arch: abi::ArchDomainConfig { misc_flags: 2, ..good.arch }, ..good }, Errno::EINVAL),
    ];
    for (config, errno) in bad {
        assert_eq!(create(&host, 0, &config), Err(errno), "{config:?}");
    }
    assert_eq!(info(&host, 1), Err(Errno::ESRCH));
    assert_eq!(host.hv.frames.free_frames(), free);
}

#[test]
fn nothing_is_left_of_a_destroyed_domain() {
    let host = host();
    let free = host.hv.frames.free_frames();
    for round in 1..4 {
        let id = built(&host);
        assert_eq!(id, round);
        let domain = host.hv.domains.get(DomainId(id)).unwrap();
        let weak = Arc::downgrade(&domain);
        // It has an event channel from dom0 and a grant table.
        let unbound = crate::evtchn::alloc_unbound(&host.hv, &domain, DOM0).unwrap();
        let dom0_port = crate::evtchn::bind_interdomain(&host.hv, host.domain(DOM0), &domain, unbound).unwrap();
        let frame = domain.grants.frame(&host.hv, domain.id, crate::grant::Part::Shared, 0).unwrap();
        let mut batch = domain.p2m.unmapped(&host.hv);
        domain.p2m.add_page(&host.hv, Gfn(100), frame, Kind::Special, &mut batch).unwrap();
        drop((batch, domain));
        assert_eq!(destroy(&host, id), SUCCESS);
        assert!(weak.upgrade().is_none());
        assert_eq!(info(&host, id), Err(Errno::ESRCH));
        assert_eq!(host.hv.frames.free_frames(), free);
        let status = crate::evtchn::status(host.domain(DOM0), dom0_port).unwrap();
        assert_eq!(status.status, evtchn_abi::EVTCHNSTAT_UNBOUND);
        crate::evtchn::close(&host.hv, host.domain(DOM0), dom0_port).unwrap();
    }
    assert_eq!(destroy(&host, 0), Err(Errno::EINVAL));
    assert_eq!(destroy(&host, 1), Err(Errno::ESRCH));
}

#[test]
fn a_domain_whose_frames_are_in_use_stays_until_they_are_not() {
    let host = host();
    let free = host.hv.frames.free_frames();
    let id = built(&host);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let page = domain.p2m.get_page(&host.hv, Gfn(5), Access::Write).unwrap();
    drop(domain);
    assert_eq!(destroy(&host, id), SUCCESS);
    let zombie = info(&host, id).unwrap();
    assert_eq!((zombie.flags & abi::XEN_DOMINF_DYING, zombie.tot_pages), (abi::XEN_DOMINF_DYING, 1));
    assert_eq!(destroy(&host, id), SUCCESS);
    assert_eq!(create(&host, id, &config()), Err(Errno::EEXIST));
    let max_vcpus = domctl_op(&host, abi::XEN_DOMCTL_MAX_VCPUS, id, &abi::MaxVcpus { max: 2 });
    assert_eq!(max_vcpus.0, Err(Errno::EINVAL));
    drop(page);
    assert_eq!(info(&host, id), Err(Errno::ESRCH));
    assert_eq!(host.hv.frames.free_frames(), free);
}

#[test]
fn destruction_stops_when_its_budget_is_spent_and_goes_on() {
    let host = host();
    let id = built(&host);
    let header = abi::Header {
        cmd: abi::XEN_DOMCTL_DESTROYDOMAIN,
        interface_version: abi::XEN_DOMCTL_INTERFACE_VERSION,
        domain: id,
        _pad: [0; 3],
    };
    host.caller(DOM0, 0).write(GuestVirtAddr(BUFFER), &header).unwrap();
    let args = Args([BUFFER, 0, 0, 0, 0, 0]);
    let mut rounds = 0;
    loop {
        let caller = host.caller(DOM0, 0);
        // All but ten units are gone.
        while caller.budget() > 10 {
            let _ = caller.spend();
        }
        match dispatch(&caller, radon_abi::hypercall::DOMCTL, args) {
            Ok(Outcome::Continue(next)) => assert_eq!(next, args),
            done => break assert_eq!(done, SUCCESS),
        }
        rounds += 1;
        let now = info(&host, id).unwrap();
        assert_ne!(now.flags & abi::XEN_DOMINF_DYING, 0);
        assert!(rounds < 100);
    }
    assert!(rounds >= 5, "{rounds}");
    assert_eq!(info(&host, id), Err(Errno::ESRCH));
}

#[test]
fn want_of_memory_leaves_what_was_there() {
    let host = host();
    let mut held = alloc::vec::Vec::new();
    host.hv.frames.keep(20);
    // Takes memory away bit by bit until everything works out; each failure is complete.
    while let Ok(frame) = host.hv.frames.alloc_hypervisor(host.hv.platform.memory(), Order::PAGE, Placement::default())
    {
        held.push(frame);
    }
    let mut failures = 0;
    let id = loop {
        let before = (host.hv.frames.free_frames(), host.hv.domains.count(|_| true));
        match create(&host, 0, &config()) {
            Ok(id) => break id,
            Err(errno) => assert_eq!(errno, Errno::ENOMEM),
        }
        assert_eq!((host.hv.frames.free_frames(), host.hv.domains.count(|_| true)), before);
        failures += 1;
        host.hv.frames.free_hypervisor(held.pop().unwrap());
    };
    assert!(failures > 0, "{failures}");
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    while host.hv.frames.has_room() {
        held.push(
            host.hv.frames.alloc_hypervisor(host.hv.platform.memory(), Order::PAGE, Placement::default()).unwrap(),
        );
    }
    let ask = abi::MaxVcpus { max: 2 };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_MAX_VCPUS, id, &ask).0, Err(Errno::ENOMEM));
    assert_eq!((domain.vcpus().len(), domain.sched.unit_count()), (0, 0));
    held.into_iter().for_each(|f| host.hv.frames.free_hypervisor(f));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_MAX_VCPUS, id, &ask).0, SUCCESS);
}

#[test]
fn affinity_is_told_as_set_and_as_it_takes_effect() {
    let host = host();
    let id = built(&host);
    let caller = host.caller(DOM0, 0);
    let map = |at| Bitmap { bitmap: at, nr_bits: 8, _pad: 0 };
    let both = abi::XEN_VCPUAFFINITY_HARD | abi::XEN_VCPUAFFINITY_SOFT;
    let ask = abi::VcpuAffinity { vcpu: 1, flags: both, cpumap_hard: map(BUFFER), cpumap_soft: map(BUFFER + 1) };
    caller.write(GuestVirtAddr(BUFFER), &[0xfeu8, 0x0f]).unwrap();
    let maps = || caller.read::<[u8; 2]>(GuestVirtAddr(BUFFER)).unwrap();
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SETVCPUAFFINITY, id, &ask).0, SUCCESS);
    assert_eq!(maps(), [0x02, 0x02]);
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETVCPUAFFINITY, id, &ask).0, SUCCESS);
    assert_eq!(maps(), [0xfe, 0x0f]);
    caller.write(GuestVirtAddr(BUFFER), &[0xf0u8, 0x0f]).unwrap();
    let set = |ask: &abi::VcpuAffinity| domctl_op(&host, abi::XEN_DOMCTL_SETVCPUAFFINITY, id, ask).0;
    assert_eq!(set(&ask), Err(Errno::EINVAL));
    assert_eq!(set(&abi::VcpuAffinity { vcpu: 2, ..ask }), Err(Errno::EINVAL));
    assert_eq!(set(&abi::VcpuAffinity { flags: 0, ..ask }), Err(Errno::EINVAL));
    assert_eq!(set(&abi::VcpuAffinity { cpumap_hard: map(0), ..ask }), Err(Errno::EINVAL));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETVCPUAFFINITY, id, &ask).0, SUCCESS);
    assert_eq!(maps(), [0xfe, 0x0f]);
}

#[test]
fn vcpus_are_described() {
    let host = host();
    let id = built(&host);
    let get =
        |vcpu| domctl_op(&host, abi::XEN_DOMCTL_GETVCPUINFO, id, &abi::GetVcpuInfo { vcpu, ..Default::default() });
    assert_eq!(get(0).0, SUCCESS);
    assert_eq!((get(0).1.online, get(0).1.running), (0, 0));
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    host.hv.scheduler.bring_up(&host.hv, &domain.vcpus()[0]);
    assert_eq!(get(0).1.online, 1);
    assert_eq!(get(2).0, Err(Errno::EINVAL));
    let bare = create(&host, 0, &config()).unwrap();
    let missing = domctl_op(&host, abi::XEN_DOMCTL_GETVCPUINFO, bare, &abi::GetVcpuInfo::default()).0;
    assert_eq!(missing, Err(Errno::ESRCH));
}

#[test]
fn frames_are_told_apart() {
    let host = host();
    let id = built(&host);
    let caller = host.caller(DOM0, 0);
    caller.write(GuestVirtAddr(BUFFER), &[5u64, 63, 64, u64::MAX]).unwrap();
    let ask = abi::GetPageFrameInfo3 { num: 4, array: BUFFER };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, id, &ask).0, SUCCESS);
    let none = u64::from(abi::XEN_DOMCTL_PFINFO_XTAB);
    assert_eq!(caller.read::<[u64; 4]>(GuestVirtAddr(BUFFER)).unwrap(), [0, 0, none, none]);
    let ask = abi::GetPageFrameInfo3 { num: 1025, array: BUFFER };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, id, &ask).0, Err(Errno::E2BIG));
    // More than one budget.
    let many: alloc::vec::Vec<u8> = (0..1024u64).flat_map(|n| (n % 128).to_le_bytes()).collect();
    caller.memory.write(GuestVirtAddr(BUFFER), &many).unwrap();
    let ask = abi::GetPageFrameInfo3 { num: 1024, array: BUFFER };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, id, &ask).0, SUCCESS);
    for n in 0..1024 {
        let want = if n % 128 < 64 { 0 } else { none };
        assert_eq!(caller.read_at::<u64>(GuestVirtAddr(BUFFER), n).unwrap(), want, "{n}");
    }
}

#[test]
fn a_dying_domain_is_promised_nothing() {
    let mut host = host();
    let other = host.add_domain(1);
    let id = built(&host);
    let claim = |nr_extents| {
        let caller = host.caller(DOM0, 0);
        let request = MemoryReservation { nr_extents, domid: id, ..Default::default() };
        caller.write(GuestVirtAddr(AT), &request).unwrap();
        dispatch(&caller, radon_abi::hypercall::MEMORY_OP, Args([XENMEM_CLAIM_PAGES.into(), AT, 0, 0, 0, 0]))
    };
    let most = abi::MaxMem { max_memkb: 1024 };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_MAX_MEM, id, &most).0, SUCCESS);
    assert_eq!(claim(100), SUCCESS);
    // Somebody has a frame of it, so it stays for a while.
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let held = domain.p2m.get_page(&host.hv, Gfn(3), Access::Read).unwrap();
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &0u64).0, SUCCESS);
    assert_eq!((claim(90), host.hv.frames.claimed_frames()), (Err(Errno::EINVAL), 0));
    // A promise that was under way meanwhile ends with the domain.
    host.hv.frames.claim(DomainId(id), 90).unwrap();
    drop((held, domain));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_GETDOMAININFO, other.0, &abi::DomainInfo::default()).0, SUCCESS);
    assert!(host.hv.domains.get(DomainId(id)).is_err());
    assert_eq!(host.hv.frames.claimed_frames(), 0);
}

#[test]
fn paging_memory_is_a_limit() {
    let host = host();
    let id = built(&host);
    let set = |size| domctl_op(&host, abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, id, &abi::PagingMempool { size }).0;
    let get = || domctl_op(&host, abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, id, &abi::PagingMempool::default()).1.size;
    assert_eq!(set(3 << 20), SUCCESS);
    assert_eq!(get(), 3 << 20);
    assert_eq!(set(5), Err(Errno::EINVAL));
    let ask = abi::ShadowOp { op: abi::XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION, ..Default::default() };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SHADOW_OP, id, &ask).1.mb, 3);
}

#[test]
fn single_properties() {
    let mut host = host();
    let guest = host.add_domain(1);
    let id = built(&host);
    let handle = abi::SetDomainHandle { handle: [3; 16] };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SETDOMAINHANDLE, id, &handle).0, SUCCESS);
    assert_eq!(info(&host, id).unwrap().handle, [3; 16]);
    let offset = abi::SetTimeOffset { time_offset_seconds: -5 };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SETTIMEOFFSET, id, &offset).0, SUCCESS);
    assert_eq!(host.hv.domains.get(DomainId(id)).unwrap().time.offset(), -5);
    let size = domctl_op(&host, abi::XEN_DOMCTL_GET_ADDRESS_SIZE, id, &abi::AddressSize::default()).1.size;
    assert_eq!(size, 64);
    let trigger =
        |trigger, vcpu| domctl_op(&host, abi::XEN_DOMCTL_SENDTRIGGER, id, &abi::SendTrigger { trigger, vcpu }).0;
    assert_eq!(trigger(abi::XEN_DOMCTL_SENDTRIGGER_NMI, 1), SUCCESS);
    assert_eq!(trigger(abi::XEN_DOMCTL_SENDTRIGGER_NMI, 2), Err(Errno::ESRCH));
    assert_eq!(trigger(77, 0), Err(Errno::ENOSYS));
    let ports = |d, allow, first, count| {
        let ask =
            abi::IoportPermission { first_port: first, nr_ports: count, allow_access: allow, ..Default::default() };
        domctl_op(&host, abi::XEN_DOMCTL_IOPORT_PERMISSION, d, &ask).0
    };
    assert_eq!((ports(0, 1, 0x60, 8), ports(id, 0, 0x60, 8)), (SUCCESS, SUCCESS));
    assert_eq!((ports(id, 1, 0x60, 8), ports(0, 1, 0xffff, 2)), (Err(Errno::EOPNOTSUPP), Err(Errno::EINVAL)));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_VUART_OP, id, &0u64).0, Err(Errno::ENOSYS));
    assert_eq!(domctl_op(&host, 4711, id, &0u64).0, Err(Errno::ENOSYS));
    let args = Args([AT, 0, 0, 0, 0, 0]);
    assert_eq!(dispatch(&host.caller(guest, 0), radon_abi::hypercall::DOMCTL, args), Err(Errno::EPERM));
}

#[test]
fn policies_belong_to_domains_that_have_not_run() {
    let host = host();
    let id = built(&host);
    let caller = host.caller(DOM0, 0);
    for (n, leaf) in (0..).zip(policy(PolicySource::Default).leaves) {
        caller.write_at(GuestVirtAddr(BUFFER), n, &leaf).unwrap();
    }
    let ask = abi::CpuPolicy { nr_leaves: 3, leaves: BUFFER, ..Default::default() };
    let set = |ask: &abi::CpuPolicy| domctl_op(&host, abi::XEN_DOMCTL_SET_CPU_POLICY, id, ask);
    // The test architecture has no policies; the error is told.
    assert_eq!(set(&ask).0, Err(Errno::EOPNOTSUPP));
    assert_eq!(set(&ask).1.err_leaf, u32::MAX);
    assert_eq!(set(&abi::CpuPolicy { nr_leaves: 9, ..ask }).0, Err(Errno::E2BIG));
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_UNPAUSEDOMAIN, id, &0u64).0, SUCCESS);
    assert_eq!(set(&ask).0, Err(Errno::EEXIST));
}

#[test]
fn the_scheduler_has_to_be_the_domains() {
    let host = host();
    let id = built(&host);
    let ask = abi::SchedulerOp { sched_id: 6, cmd: abi::XEN_DOMCTL_SCHEDOP_GETINFO, ..Default::default() };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SCHEDULER_OP, id, &ask).0, Err(Errno::EINVAL));
    let ask = abi::SchedulerOp { sched_id: 9, ..ask };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SCHEDULER_OP, id, &ask).0, SUCCESS);
    let ask = abi::SchedulerOp { cmd: abi::XEN_DOMCTL_SCHEDOP_GETVCPUINFO, ..ask };
    assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SCHEDULER_OP, id, &ask).0, Err(Errno::EINVAL));
}

#[test]
fn a_domain_is_described_by_its_number_or_the_next() {
    let mut host = host();
    host.add_domain(1);
    let info = |n| domctl_op(&host, abi::XEN_DOMCTL_GETDOMAININFO, n, &abi::DomainInfo::default());
    assert_eq!((info(0).0, info(0).1.domain), (SUCCESS, 0));
    assert_eq!(info(1).1.domain, 1);
    assert_eq!(info(2).0, Err(Errno::ESRCH));
    assert_eq!(info(0x7ff0).0, Err(Errno::EINVAL));
}

#[test]
fn pauses_count() {
    let mut host = host();
    host.add_domain(1);
    let call = |cmd, n| domctl_op(&host, cmd, n, &0u64).0;
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), Err(Errno::EINVAL));
    assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 0), Err(Errno::EINVAL));
    assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 9), Err(Errno::ESRCH));
    for _ in 0..2 {
        assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 1), SUCCESS);
    }
    let flags = || domctl_op(&host, abi::XEN_DOMCTL_GETDOMAININFO, 1, &abi::DomainInfo::default()).1.flags;
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), SUCCESS);
    assert_ne!(flags() & abi::XEN_DOMINF_PAUSED, 0);
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), SUCCESS);
    assert_eq!(flags() & abi::XEN_DOMINF_PAUSED, 0);
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), Err(Errno::EINVAL));
}

/// What is to be saved is populated first, or the question fails.
#[test]
fn frames_on_demand_are_memory_when_they_are_asked_for() {
    let host = host();
    let id = built(&host);
    let hv = &host.hv;
    let domain = hv.domains.get(DomainId(id)).unwrap();
    domain.p2m.add_on_demand(hv, Gfn(100), Order::PAGE).unwrap();
    domain.p2m.add_on_demand(hv, Gfn(101), Order::PAGE).unwrap();
    domain.p2m.reserve_for_demand(hv, |_| 1).unwrap();
    let caller = host.caller(DOM0, 0);
    let ask = |gfns: [u64; 3]| {
        caller.write(GuestVirtAddr(BUFFER), &gfns).unwrap();
        let r = abi::GetPageFrameInfo3 { num: 3, array: BUFFER };
        let result = domctl_op(&host, abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, id, &r).0;
        result.map(|_| caller.read::<[u64; 3]>(GuestVirtAddr(BUFFER)).unwrap())
    };
    let none = u64::from(abi::XEN_DOMCTL_PFINFO_XTAB);
    assert_eq!(ask([5, 100, 200]), Ok([0, 0, none]));
    assert_eq!(domain.p2m.query(hv, Gfn(100)).entry.kind, Kind::RamRw);
    assert_eq!(ask([5, 101, 200]), Err(Errno::ENOMEM));
}
