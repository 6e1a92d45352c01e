//! Each sysctl from the control domain on the test machine.

use radon_abi::domctl::{Bitmap, CpuidLeaf, DomainInfo};
use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;

use super::*;
use crate::control::testing::{AT, BUFFER, host, policy, sysctl_op};
use crate::hypercall::dispatch;
use crate::platform::PolicySource;
use crate::testing::TestHost;
use crate::types::{DomainId, GuestVirtAddr};

fn get<T: FromBytes + IntoBytes>(host: &TestHost, at: u64, n: u64) -> T {
    host.caller(DomainId(0), 0).read_at(GuestVirtAddr(at), n).unwrap()
}

#[test]
fn only_dom0_and_only_this_version() {
    let mut host = host();
    let guest = host.add_domain(1);
    let args = Args([AT, 0, 0, 0, 0, 0]);
    assert_eq!(dispatch(&host.caller(guest, 0), radon_abi::hypercall::SYSCTL, args), Err(Errno::EPERM));
    assert_eq!(dispatch(&host.caller(DomainId(0), 0), radon_abi::hypercall::SYSCTL, args), Err(Errno::EACCES));
    assert_eq!(sysctl_op(&host, 999, &0u64).0, Err(Errno::ENOSYS));
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_LIVEPATCH_OP, &0u64).0, Err(Errno::ENOSYS));
}

#[test]
fn physinfo_describes_the_machine() {
    let host = host();
    let (result, info) = sysctl_op(&host, abi::XEN_SYSCTL_PHYSINFO, &abi::PhysInfo::default());
    assert_eq!(result, SUCCESS);
    assert_eq!((info.nr_cpus, info.max_cpu_id, info.nr_nodes), (2, 1, 1));
    assert_eq!((info.threads_per_core, info.cores_per_socket, info.cpu_khz), (2, 4, 2_000_000));
    assert_eq!(info.total_pages, 5000);
    assert_eq!(info.free_pages, host.hv.frames.free_frames());
    assert_ne!(info.capabilities & abi::XEN_SYSCTL_PHYSCAP_HVM, 0);
    assert_eq!(info.capabilities & abi::XEN_SYSCTL_PHYSCAP_PV, 0);
    assert_eq!(info.hw_cap, [7; 8]);
}

#[test]
fn domains_are_listed_from_a_number_on_and_as_room_allows() {
    let mut host = host();
    for _ in 0..3 {
        host.add_domain(2);
    }
    let list = |first, max| {
        let ask =
            abi::GetDomainInfoList { first_domain: first, max_domains: max, buffer: BUFFER, ..Default::default() };
        let (result, answer) = sysctl_op(&host, abi::XEN_SYSCTL_GETDOMAININFOLIST, &ask);
        assert_eq!(result, SUCCESS);
        (0..u64::from(answer.num_domains)).map(|n| get::<DomainInfo>(&host, BUFFER, n)).collect::<alloc::vec::Vec<_>>()
    };
    let numbers = |l: &[DomainInfo]| l.iter().map(|i| i.domain).collect::<alloc::vec::Vec<_>>();
    let all = list(0, 100);
    assert_eq!(numbers(&all), [0, 1, 2, 3]);
    assert_eq!(numbers(&list(2, 1)), [2]);
    assert_eq!(numbers(&list(4, 10)), []);
    assert_eq!(numbers(&list(u16::MAX, 10)), []);
    assert_eq!((all[1].tot_pages, all[1].max_pages), (64, 128));
    assert_eq!((all[1].max_vcpu_id, all[1].nr_online_vcpus), (1, 0));
    let bad = abi::GetDomainInfoList { max_domains: 1, buffer: u64::MAX - 8, ..Default::default() };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_GETDOMAININFOLIST, &bad).0, Err(Errno::EFAULT));
}

#[test]
fn topology_says_how_much_room_it_needs() {
    let host = host();
    let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_CPUTOPOINFO, &abi::CpuTopoInfo::default());
    assert_eq!((result, r.num_cpus), (SUCCESS, 2));
    let ask = abi::CpuTopoInfo { num_cpus: 2, cputopo: BUFFER, _pad: 0 };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_CPUTOPOINFO, &ask).1.num_cpus, 2);
    assert_eq!(get::<abi::CpuTopo>(&host, BUFFER, 1), abi::CpuTopo { core: 0, socket: 0, node: 0 });
    let ask = abi::NumaInfo { num_nodes: 1, meminfo: BUFFER, distance: BUFFER + 64, _pad: 0 };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_NUMAINFO, &ask).1.num_nodes, 1);
    assert_eq!(get::<abi::MemInfo>(&host, BUFFER, 0).memsize, 5000 * 4096);
    assert_eq!(get::<u32>(&host, BUFFER + 64, 0), 10);
}

#[test]
fn there_is_one_pool() {
    let mut host = host();
    host.add_domain(1);
    let cpumap = Bitmap { bitmap: BUFFER, nr_bits: 20, _pad: 0 };
    let caller = host.caller(DomainId(0), 0);
    caller.write(GuestVirtAddr(BUFFER), &[0xffu8; 4]).unwrap();
    let ask = abi::CpupoolOp { op: abi::XEN_SYSCTL_CPUPOOL_OP_INFO, cpumap, ..Default::default() };
    let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_CPUPOOL_OP, &ask);
    assert_eq!((result, r.cpupool_id, r.n_dom), (SUCCESS, 0, 2));
    // Zeroed as far as there is room, and no further.
    assert_eq!(get::<[u8; 4]>(&host, BUFFER, 0), [3, 0, 0, 0xff]);
    let ask = abi::CpupoolOp { cpupool_id: 1, ..ask };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_CPUPOOL_OP, &ask).0, Err(Errno::ENOENT));
    let huge = Bitmap { nr_bits: u32::MAX, ..cpumap };
    let ask = abi::CpupoolOp { cpupool_id: 0, cpumap: huge, ..ask };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_CPUPOOL_OP, &ask).0, Err(Errno::EINVAL));
}

#[test]
fn pools_are_made_and_changed() {
    let mut host = host();
    host.add_domain(1);
    let cpumap = Bitmap { bitmap: BUFFER, nr_bits: 8, _pad: 0 };
    let none = abi::XEN_SYSCTL_CPUPOOL_PAR_ANY;
    let op = |op, cpupool_id, cpu, domid| {
        let ask = abi::CpupoolOp { op, cpupool_id, cpu, domid, sched_id: 6, cpumap, ..Default::default() };
        sysctl_op(&host, abi::XEN_SYSCTL_CPUPOOL_OP, &ask)
    };
    let free = || {
        assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0, 0, 0).0, SUCCESS);
        get::<u8>(&host, BUFFER, 0)
    };
    let (result, r) = op(abi::XEN_SYSCTL_CPUPOOL_OP_CREATE, none, 0, 0);
    assert_eq!((result, r.cpupool_id, free()), (SUCCESS, 1, 0));
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 1, none, 0).0, Err(Errno::EBUSY));
    let (result, r) = op(abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, none, 0);
    assert_eq!((result, r.cpu, free()), (SUCCESS, 1, 2));
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 1, 1, 0).0, SUCCESS);
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 1, 0, 1).0, SUCCESS);
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 1, 0, 0).0, Err(Errno::EPERM));
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 1, 0, 0x10001).0, Err(Errno::ESRCH));
    let (result, r) = op(abi::XEN_SYSCTL_CPUPOOL_OP_INFO, 1, 0, 0);
    assert_eq!((result, r.sched_id, r.n_dom, get::<u8>(&host, BUFFER, 0)), (SUCCESS, 6, 1, 2));
    assert_eq!(op(abi::XEN_SYSCTL_CPUPOOL_OP_DESTROY, 1, 0, 0).0, Err(Errno::EBUSY));
    assert_eq!(op(77, 1, 0, 0).0, Err(Errno::ENOSYS));
}

#[test]
fn policies_tell_how_much_room_they_need() {
    let host = host();
    let most = sysctl_op(&host, abi::XEN_SYSCTL_GET_CPU_POLICY, &abi::CpuPolicy { index: 5, ..Default::default() });
    assert_eq!((most.0, most.1.nr_leaves, most.1.nr_msrs), (SUCCESS, 8, 2));
    let ask = abi::CpuPolicy { index: 5, nr_leaves: 3, nr_msrs: 1, leaves: BUFFER, msrs: BUFFER + 512, rsvd: 0 };
    let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_GET_CPU_POLICY, &ask);
    assert_eq!((result, r.nr_leaves, r.nr_msrs), (SUCCESS, 3, 1));
    assert_eq!(get::<CpuidLeaf>(&host, BUFFER, 2), policy(PolicySource::Default).leaves[2]);
    let op = abi::XEN_SYSCTL_GET_CPU_POLICY;
    assert_eq!(sysctl_op(&host, op, &abi::CpuPolicy { nr_leaves: 2, ..ask }).0, Err(Errno::ENOBUFS));
    assert_eq!(sysctl_op(&host, op, &abi::CpuPolicy { index: 4, ..ask }).0, Err(Errno::EOPNOTSUPP));
    assert_eq!(sysctl_op(&host, op, &abi::CpuPolicy { index: 6, ..ask }).0, Err(Errno::EINVAL));
    assert_eq!(sysctl_op(&host, op, &abi::CpuPolicy { rsvd: 1, ..ask }).0, Err(Errno::EINVAL));

    let op = abi::XEN_SYSCTL_GET_CPU_FEATURESET;
    assert_eq!(sysctl_op(&host, op, &abi::CpuFeatureset::default()).1.nr_features, 19);
    let ask = abi::CpuFeatureset { index: 3, nr_features: 19, features: BUFFER };
    assert_eq!(sysctl_op(&host, op, &ask).0, SUCCESS);
    assert_eq!(get::<u32>(&host, BUFFER, 18), PolicySource::Default as u32);
    assert_eq!(sysctl_op(&host, op, &abi::CpuFeatureset { nr_features: 1, ..ask }).0, Err(Errno::ENOBUFS));
}

#[test]
fn the_ring_is_read_on_from_an_index() {
    let host = host();
    host.hv.console.say(&host.hv, format_args!("hello"));
    let ask = abi::ReadConsole { incremental: 1, buffer: BUFFER, count: 100, ..Default::default() };
    let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_READCONSOLE, &ask);
    assert_eq!(result, SUCCESS);
    assert!(r.count >= 6 && r.index == r.count);
    let (_, again) = sysctl_op(&host, abi::XEN_SYSCTL_READCONSOLE, &abi::ReadConsole { index: r.index, ..ask });
    assert_eq!((again.count, again.index), (0, r.index));
    let keys = abi::DebugKeys { keys: BUFFER, nr_keys: 1000, _pad: 0 };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_DEBUG_KEYS, &keys).0, Err(Errno::E2BIG));
}

#[test]
fn idle_time_grows_while_nothing_runs() {
    let host = host();
    let ask = abi::GetCpuInfo { max_cpus: 9, info: BUFFER, ..Default::default() };
    host.hv.scheduler.schedule(&host.hv, crate::types::CpuId(0), host.hv.platform.now());
    host.machine.advance(crate::types::Nanoseconds(500));
    let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_GETCPUINFO, &ask);
    assert_eq!((result, r.nr_cpus), (SUCCESS, 2));
    assert_eq!(get::<abi::CpuInfo>(&host, BUFFER, 0).idletime, 500);
}

#[test]
fn a_cpu_runs_or_halts() {
    let host = host();
    let head = |kind| abi::GetPmStat { kind, cpuid: 0 };
    let stat = |kind, nr| {
        let ask =
            abi::GetCxStat { head: head(kind), nr, triggers: BUFFER, residencies: BUFFER + 64, ..Default::default() };
        sysctl_op(&host, abi::XEN_SYSCTL_GET_PMSTAT, &ask)
    };
    assert_eq!(stat(abi::PMSTAT_GET_MAX_CX, 0).1.nr, 2);
    host.machine.advance(crate::types::Nanoseconds(100));
    host.hv.scheduler.schedule(&host.hv, crate::types::CpuId(0), host.hv.platform.now());
    host.machine.advance(crate::types::Nanoseconds(500));
    let (result, r) = stat(abi::PMSTAT_GET_CXSTAT, 2);
    assert_eq!((result, r.nr, r.idle_time), (SUCCESS, 2, 500));
    assert_eq!((get::<u64>(&host, BUFFER, 0), get::<u64>(&host, BUFFER, 1)), (1, 1));
    let running = host.hv.platform.now().0 - 500;
    assert_eq!((get::<u64>(&host, BUFFER + 64, 0), get::<u64>(&host, BUFFER + 64, 1)), (running, 500));
    // No more is written than there is room for.
    host.caller(DomainId(0), 0).write_at(GuestVirtAddr(BUFFER), 1, &77u64).unwrap();
    assert_eq!(stat(abi::PMSTAT_GET_CXSTAT, 1).1.nr, 2);
    assert_eq!(get::<u64>(&host, BUFFER, 1), 77);
    assert_eq!(stat(abi::PMSTAT_RESET_CXSTAT, 0).0, SUCCESS);
    assert_eq!(stat(abi::PMSTAT_PX | 1, 0).0, Err(Errno::ENODEV));
    let other = abi::GetPmStat { cpuid: 2, ..head(abi::PMSTAT_GET_MAX_CX) };
    assert_eq!(sysctl_op(&host, abi::XEN_SYSCTL_GET_PMSTAT, &other).0, Err(Errno::EINVAL));
}

#[test]
fn the_deepest_idle_state_can_be_limited_but_not_to_none() {
    let host = host();
    let op = |cmd, cpuid, max| {
        let ask = abi::MaxCstate { head: abi::PmOp { cmd, cpuid }, max, _pad: 0 };
        let (result, r) = sysctl_op(&host, abi::XEN_SYSCTL_PM_OP, &ask);
        result.map(|_| r.max)
    };
    let (get, set) = (abi::XEN_SYSCTL_PM_OP_GET_MAX_CSTATE, abi::XEN_SYSCTL_PM_OP_SET_MAX_CSTATE);
    assert_eq!((op(get, 0, 0), op(get, 1, 0)), (Ok(1), Ok(abi::XEN_SYSCTL_CX_UNLIMITED)));
    assert!(op(set, 0, 2).is_ok() && op(set, 1, 2).is_ok());
    assert_eq!(op(set, 0, 0), Err(Errno::EINVAL));
    assert_eq!((op(get, 0, 0), op(get, 2, 0)), (Ok(2), Err(Errno::EINVAL)));
    assert_eq!((op(0x11, 0, 0), op(0x21, 0, 0)), (Err(Errno::EINVAL), Err(Errno::EOPNOTSUPP)));
    assert_eq!((op(0x26, 0, 0), op(0x99, 0, 0)), (Err(Errno::EACCES), Err(Errno::ENOSYS)));
}

#[test]
fn devices_that_nobody_knows_have_no_node() {
    let host = host();
    let ask = |num_devs, nodes| {
        let ask = abi::PciTopoInfo { num_devs, devs: BUFFER, nodes, _pad: 0 };
        sysctl_op(&host, abi::XEN_SYSCTL_PCITOPOINFO, &ask)
    };
    let (result, r) = ask(3, BUFFER + 64);
    assert_eq!((result, r.num_devs), (SUCCESS, 3));
    assert_eq!(get::<[u32; 3]>(&host, BUFFER + 64, 0), [abi::XEN_INVALID_DEV; 3]);
    assert_eq!(ask(3, 0).0, Err(Errno::EINVAL));
    assert_eq!(ask(3, u64::MAX - 8).0, Err(Errno::EFAULT));
    // What a caller says costs no more than a budget; the caller asks for the rest.
    let many = ask(u32::MAX, BUFFER + 64);
    assert!(many.0 == Err(Errno::EFAULT) || many.1.num_devs < 1000);
}

#[test]
fn cpus_and_frames_are_all_in_use() {
    let host = host();
    let cpu = |cpu, op| sysctl_op(&host, abi::XEN_SYSCTL_CPU_HOTPLUG, &abi::CpuHotplug { cpu, op }).0;
    assert_eq!((cpu(1, 0), cpu(2, 0), cpu(2, 1)), (Err(Errno::EINVAL), Err(Errno::EINVAL), Err(Errno::EINVAL)));
    assert_eq!((cpu(1, 1), cpu(0, 3)), (Err(Errno::EOPNOTSUPP), Err(Errno::EOPNOTSUPP)));
    let ask = |cmd, start, end| {
        let ask = abi::PageOfflineOp { cmd, start, end, status: BUFFER, _pad: 0 };
        host.caller(DomainId(0), 0).write_at(GuestVirtAddr(BUFFER), 1, &7u32).unwrap();
        (sysctl_op(&host, abi::XEN_SYSCTL_PAGE_OFFLINE_OP, &ask).0, get::<u32>(&host, BUFFER, 1))
    };
    assert_eq!(ask(abi::SYSCTL_QUERY_PAGE_OFFLINE, 10, 11), (SUCCESS, 0));
    assert_eq!(ask(abi::SYSCTL_QUERY_PAGE_OFFLINE, 10, 10), (SUCCESS, 7));
    assert_eq!(ask(abi::SYSCTL_QUERY_PAGE_OFFLINE, 10, 9).0, Err(Errno::EINVAL));
    assert_eq!(ask(abi::SYSCTL_QUERY_PAGE_OFFLINE, 1 << 30, 1 << 30).0, Err(Errno::EINVAL));
    assert_eq!(ask(abi::SYSCTL_QUERY_PAGE_OFFLINE, 10, u32::MAX).0, Err(Errno::E2BIG));
    assert_eq!(ask(abi::SYSCTL_PAGE_OFFLINE, 10, 10).0, Err(Errno::EOPNOTSUPP));
}
