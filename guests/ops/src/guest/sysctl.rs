//! `sysctl`: what the toolstack asks of the machine.

use radon_abi::domctl::{Bitmap, DomainInfo, XEN_SCHEDULER_CREDIT2};
use radon_abi::errno::Errno;
use radon_abi::hypercall;
use radon_abi::physdev::PciDevice;
use radon_abi::sysctl::{self as abi, AvailHeap, CpuFeatureset, CpuHotplug, CpuInfo, CpuLevellingCaps, CpuPolicy};
use radon_abi::sysctl::{CpuTopo, CpuTopoInfo, CpupoolOp, DebugKeys, GetCpuInfo, GetCxStat, GetDomainInfoList};
use radon_abi::sysctl::{GetPmStat, MaxCstate, MemInfo, NumaInfo, PageOfflineOp, PciTopoInfo, PhysInfo, PmOp};
use radon_abi::sysctl::{ReadConsole, SchedId, SchedulerOp, TbufOp};
use zerocopy::FromZeros;

use super::calls::{Answer, Refused, sysctl};
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::twin::Twin;
use super::{CPUS, domctl, now};

pub(crate) static GROUP: Group = Group {
    number: hypercall::SYSCTL,
    checks: &[
        works(abi::XEN_SYSCTL_READCONSOLE, "XEN_SYSCTL_readconsole", readconsole),
        works(abi::XEN_SYSCTL_TBUF_OP, "XEN_SYSCTL_tbuf_op", tbuf_op),
        works(abi::XEN_SYSCTL_PHYSINFO, "XEN_SYSCTL_physinfo", physinfo),
        works(abi::XEN_SYSCTL_SCHED_ID, "XEN_SYSCTL_sched_id", sched_id),
        refused(abi::XEN_SYSCTL_PERFC_OP, "XEN_SYSCTL_perfc_op"),
        works(abi::XEN_SYSCTL_GETDOMAININFOLIST, "XEN_SYSCTL_getdomaininfolist", getdomaininfolist),
        works(abi::XEN_SYSCTL_DEBUG_KEYS, "XEN_SYSCTL_debug_keys", debug_keys),
        works(abi::XEN_SYSCTL_GETCPUINFO, "XEN_SYSCTL_getcpuinfo", getcpuinfo),
        works(abi::XEN_SYSCTL_AVAILHEAP, "XEN_SYSCTL_availheap", availheap),
        works(abi::XEN_SYSCTL_GET_PMSTAT, "XEN_SYSCTL_get_pmstat", get_pmstat),
        works(abi::XEN_SYSCTL_CPU_HOTPLUG, "XEN_SYSCTL_cpu_hotplug", cpu_hotplug),
        works(abi::XEN_SYSCTL_PM_OP, "XEN_SYSCTL_pm_op", pm_op),
        works(abi::XEN_SYSCTL_PAGE_OFFLINE_OP, "XEN_SYSCTL_page_offline_op", page_offline_op),
        refused(abi::XEN_SYSCTL_LOCKPROF_OP, "XEN_SYSCTL_lockprof_op"),
        works(abi::XEN_SYSCTL_CPUTOPOINFO, "XEN_SYSCTL_cputopoinfo", cputopoinfo),
        works(abi::XEN_SYSCTL_NUMAINFO, "XEN_SYSCTL_numainfo", numainfo),
        works(abi::XEN_SYSCTL_CPUPOOL_OP, "XEN_SYSCTL_cpupool_op", cpupool_op),
        works(abi::XEN_SYSCTL_SCHEDULER_OP, "XEN_SYSCTL_scheduler_op", scheduler_op),
        refused(abi::XEN_SYSCTL_COVERAGE_OP, "XEN_SYSCTL_coverage_op"),
        refused(abi::XEN_SYSCTL_PSR_CMT_OP, "XEN_SYSCTL_psr_cmt_op"),
        works(abi::XEN_SYSCTL_PCITOPOINFO, "XEN_SYSCTL_pcitopoinfo", pcitopoinfo),
        refused(abi::XEN_SYSCTL_PSR_ALLOC, "XEN_SYSCTL_psr_alloc"),
        works(abi::XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, "XEN_SYSCTL_get_cpu_levelling_caps", get_cpu_levelling_caps),
        works(abi::XEN_SYSCTL_GET_CPU_FEATURESET, "XEN_SYSCTL_get_cpu_featureset", get_cpu_featureset),
        refused(abi::XEN_SYSCTL_LIVEPATCH_OP, "XEN_SYSCTL_livepatch_op"),
        works(abi::XEN_SYSCTL_GET_CPU_POLICY, "XEN_SYSCTL_get_cpu_policy", get_cpu_policy),
    ],
};

/// How far the hypervisor's messages go, counted from its start.
fn messages_end() -> Result<u32, Refused> {
    let mut place = [0u8; 4096];
    let mut index = 0;
    loop {
        let (buffer, count) = (place.as_mut_ptr() as u64, place.len() as u32);
        let mut read = ReadConsole { incremental: 1, index, buffer, count, ..ReadConsole::default() };
        sysctl(abi::XEN_SYSCTL_READCONSOLE, &mut read)?;
        index = read.index;
        if read.count == 0 {
            return Ok(index);
        }
    }
}

/// A message that a key makes is there then, and not twice.
fn readconsole(_: &Twin) -> Outcome {
    let before = messages_end()?;
    same("messages without a cause", messages_end()?, before)?;
    press(b'h')?;
    let mut place = [0u8; 64];
    let (buffer, count) = (place.as_mut_ptr() as u64, place.len() as u32);
    let mut read = ReadConsole { incremental: 1, index: before, buffer, count, ..ReadConsole::default() };
    sysctl(abi::XEN_SYSCTL_READCONSOLE, &mut read)?;
    same("bytes, and where to go on", (read.count, read.index), (64, before + 64))?;
    holds("it is text", place.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()))
}

fn press(key: u8) -> Answer {
    let mut keys = [key];
    let mut request = DebugKeys { keys: keys.as_mut_ptr() as u64, nr_keys: 1, _pad: 0 };
    sysctl(abi::XEN_SYSCTL_DEBUG_KEYS, &mut request)
}

/// A key that explains the others.
fn debug_keys(_: &Twin) -> Outcome {
    let before = messages_end()?;
    press(b'h')?;
    holds("something is printed", messages_end()? > before)
}

/// Buffers are made, a mask is set and read, and recording begins and ends.
fn tbuf_op(_: &Twin) -> Outcome {
    let tbuf = |cmd, evt_mask, size| -> Result<TbufOp, Refused> {
        let mut op = TbufOp { cmd, evt_mask, size, ..TbufOp::default() };
        sysctl(abi::XEN_SYSCTL_TBUF_OP, &mut op)?;
        Ok(op)
    };
    let info = || tbuf(abi::XEN_SYSCTL_TBUFOP_GET_INFO, 0, 0);
    tbuf(abi::XEN_SYSCTL_TBUFOP_SET_SIZE, 0, 4)?;
    let made = info()?;
    holds("there are buffers, and their description has a size", made.buffer_mfn != 0 && made.size > 0)?;
    tbuf(abi::XEN_SYSCTL_TBUFOP_SET_EVT_MASK, 0x0002_f000, 0)?;
    same("the mask", info()?.evt_mask, 0x0002_f000)?;
    tbuf(abi::XEN_SYSCTL_TBUFOP_ENABLE, 0, 0)?;
    tbuf(abi::XEN_SYSCTL_TBUFOP_DISABLE, 0, 0)?;
    let mut none = TbufOp { cmd: 99, ..TbufOp::default() };
    refuses("a command that is not there", sysctl(abi::XEN_SYSCTL_TBUF_OP, &mut none), Errno::EINVAL)
}

fn machine() -> Result<PhysInfo, Refused> {
    let mut info = PhysInfo::default();
    sysctl(abi::XEN_SYSCTL_PHYSINFO, &mut info)?;
    Ok(info)
}

fn physinfo(_: &Twin) -> Outcome {
    let info = machine()?;
    same("CPUs, and nodes", (info.nr_cpus, info.nr_nodes), (CPUS, 1))?;
    let wanted = abi::XEN_SYSCTL_PHYSCAP_HVM | abi::XEN_SYSCTL_PHYSCAP_HAP;
    same("capabilities for guests of kind HVM", info.capabilities & wanted, wanted)?;
    holds("the machine has nearly 3 GiB", (700_000..=3 << 18).contains(&info.total_pages))?;
    holds("some of it is free, some not", (1..info.total_pages).contains(&info.free_pages))?;
    holds("the clock's frequency is known", info.cpu_khz > 1000)
}

fn sched_id(_: &Twin) -> Outcome {
    let mut id = SchedId::default();
    sysctl(abi::XEN_SYSCTL_SCHED_ID, &mut id)?;
    same("the scheduler", id.sched_id, XEN_SCHEDULER_CREDIT2)
}

/// Both domains, then those from the second on.
fn getdomaininfolist(twin: &Twin) -> Outcome {
    let mut domains = [DomainInfo::default(); 4];
    let mut list = |first_domain| -> Result<([u16; 2], u32), Refused> {
        let (max_domains, buffer) = (4, domains.as_mut_ptr() as u64);
        let mut list = GetDomainInfoList { first_domain, max_domains, buffer, ..GetDomainInfoList::default() };
        sysctl(abi::XEN_SYSCTL_GETDOMAININFOLIST, &mut list)?;
        Ok(([domains[0].domain, domains[1].domain], list.num_domains))
    };
    same("all domains", list(0)?, ([0, twin.domain], 2))?;
    let (numbers, count) = list(1)?;
    same("from the second on", (numbers[0], count), (twin.domain, 1))
}

fn getcpuinfo(_: &Twin) -> Outcome {
    let mut infos = [CpuInfo { idletime: u64::MAX }; 8];
    let mut get = GetCpuInfo { max_cpus: 8, info: infos.as_mut_ptr() as u64, ..GetCpuInfo::default() };
    sysctl(abi::XEN_SYSCTL_GETCPUINFO, &mut get)?;
    same("CPUs", get.nr_cpus, CPUS)?;
    holds("the third, which has little to do, was idle", (1..now()).contains(&infos[2].idletime))?;
    same("what is beyond", infos[3].idletime, u64::MAX)
}

fn availheap(_: &Twin) -> Outcome {
    let mut heap = AvailHeap { node: -1, ..AvailHeap::default() };
    sysctl(abi::XEN_SYSCTL_AVAILHEAP, &mut heap)?;
    let free = machine()?.free_pages * 4096;
    holds("it is about what is free", heap.avail_bytes.abs_diff(free) < 64 << 20)?;
    heap.node = 77;
    sysctl(abi::XEN_SYSCTL_AVAILHEAP, &mut heap)?;
    same("what is free of a node that is not there", heap.avail_bytes, 0)
}

fn get_pmstat(_: &Twin) -> Outcome {
    let ask = |kind, cpuid| -> Result<GetCxStat, Refused> {
        let mut stat = GetCxStat { head: GetPmStat { kind, cpuid }, ..GetCxStat::default() };
        sysctl(abi::XEN_SYSCTL_GET_PMSTAT, &mut stat)?;
        Ok(stat)
    };
    let states = ask(abi::PMSTAT_GET_MAX_CX, 0)?.nr;
    holds("a CPU runs or halts", states >= 2)?;
    let (mut triggers, mut residencies) = ([0u64; 8], [0u64; 8]);
    let mut stat = GetCxStat {
        head: GetPmStat { kind: abi::PMSTAT_GET_CXSTAT, cpuid: 0 },
        nr: 8,
        triggers: triggers.as_mut_ptr() as u64,
        residencies: residencies.as_mut_ptr() as u64,
        ..GetCxStat::default()
    };
    sysctl(abi::XEN_SYSCTL_GET_PMSTAT, &mut stat)?;
    same("states", stat.nr, states)?;
    holds("it has halted", triggers[1] > 0 && residencies[1] > 0)?;
    refuses("frequencies", ask(abi::PMSTAT_PX | 1, 0).map(|_| 0), Errno::ENODEV)?;
    refuses("a CPU that is not there", ask(abi::PMSTAT_GET_MAX_CX, 99).map(|_| 0), Errno::EINVAL)
}

fn cpu_hotplug(_: &Twin) -> Outcome {
    let hotplug = |op, cpu| sysctl(abi::XEN_SYSCTL_CPU_HOTPLUG, &mut CpuHotplug { cpu, op });
    refuses("a CPU that is not there", hotplug(abi::XEN_SYSCTL_CPU_HOTPLUG_ONLINE, 99), Errno::EINVAL)?;
    refuses("another operation", hotplug(99, 0), Errno::EOPNOTSUPP)
}

/// The deepest state is set and read.
fn pm_op(_: &Twin) -> Outcome {
    let ask = |cmd, max| -> Result<u32, Refused> {
        let mut limit = MaxCstate { head: PmOp { cmd, cpuid: 0 }, max, _pad: 0 };
        sysctl(abi::XEN_SYSCTL_PM_OP, &mut limit)?;
        Ok(limit.max)
    };
    let get = || ask(abi::XEN_SYSCTL_PM_OP_GET_MAX_CSTATE, 0);
    let was = get()?;
    ask(abi::XEN_SYSCTL_PM_OP_SET_MAX_CSTATE, 2)?;
    let is = get()?;
    ask(abi::XEN_SYSCTL_PM_OP_SET_MAX_CSTATE, was)?;
    same("the deepest state", is, 2)?;
    let frequencies = ask(abi::CPUFREQ_PARA | 1, 0).map(|_| 0);
    refuses("frequencies", frequencies, Errno::EINVAL)
}

fn page_offline_op(_: &Twin) -> Outcome {
    let mut status = [99u32; 2];
    let mut op = PageOfflineOp {
        cmd: abi::SYSCTL_QUERY_PAGE_OFFLINE,
        start: 0x1_0000,
        end: 0x1_0001,
        _pad: 0,
        status: status.as_mut_ptr() as u64,
    };
    sysctl(abi::XEN_SYSCTL_PAGE_OFFLINE_OP, &mut op)?;
    same("that they are off line", status, [0, 0])?;
    op.end = 0;
    refuses("a range that ends before it begins", sysctl(abi::XEN_SYSCTL_PAGE_OFFLINE_OP, &mut op), Errno::EINVAL)
}

fn cputopoinfo(_: &Twin) -> Outcome {
    let mut places = [CpuTopo { core: 99, socket: 99, node: 99 }; 8];
    let mut info = CpuTopoInfo { num_cpus: 8, _pad: 0, cputopo: places.as_mut_ptr() as u64 };
    sysctl(abi::XEN_SYSCTL_CPUTOPOINFO, &mut info)?;
    holds("all CPUs have a place", info.num_cpus >= CPUS)?;
    let cpus = &places[..CPUS as usize];
    holds("all are on the only node", cpus.iter().all(|place| place.node == 0))?;
    holds("no two are at the same place", cpus[0] != cpus[1] && cpus[1] != cpus[2])
}

fn numainfo(_: &Twin) -> Outcome {
    let (mut memory, mut distances) = ([MemInfo::default(); 2], [99u32; 4]);
    let mut info = NumaInfo {
        num_nodes: 2,
        _pad: 0,
        meminfo: memory.as_mut_ptr() as u64,
        distance: distances.as_mut_ptr() as u64,
    };
    sysctl(abi::XEN_SYSCTL_NUMAINFO, &mut info)?;
    holds("there is a node", info.num_nodes >= 1)?;
    holds("it has memory, some of it free", (1..memory[0].memsize).contains(&memory[0].memfree))?;
    same("its distance from itself", distances[0], 10)
}

/// The last CPU gets a pool of its own, and for a while the other domain.
fn cpupool_op(twin: &Twin) -> Outcome {
    const CPU: u32 = CPUS - 1;
    let mut cpus = [0u8; 8];
    let cpumap = Bitmap { bitmap: cpus.as_mut_ptr() as u64, nr_bits: 64, _pad: 0 };
    let ask = |op, cpupool_id, domid| -> Result<CpupoolOp, Refused> {
        let sched_id = XEN_SCHEDULER_CREDIT2;
        let mut pool = CpupoolOp { op, cpupool_id, sched_id, domid, cpu: CPU, n_dom: 99, cpumap };
        sysctl(abi::XEN_SYSCTL_CPUPOOL_OP, &mut pool)?;
        Ok(pool)
    };
    let members = || {
        // SAFETY: the hypervisor may have written it.
        unsafe { (cpumap.bitmap as *const u64).read_volatile() }
    };
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU, 0, 0)?;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_FREEINFO, 0, 0)?;
    same("free CPUs", members(), 1 << CPU)?;
    let pool = ask(abi::XEN_SYSCTL_CPUPOOL_OP_CREATE, abi::XEN_SYSCTL_CPUPOOL_PAR_ANY, 0)?.cpupool_id;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU, pool, 0)?;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, pool, u32::from(twin.domain))?;
    twin.read(Twin::structure())?;
    let info = ask(abi::XEN_SYSCTL_CPUPOOL_OP_INFO, pool, 0)?;
    let is = (info.cpupool_id, info.sched_id, info.n_dom, members());
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, 0, u32::from(twin.domain))?;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU, pool, 0)?;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_DESTROY, pool, 0)?;
    ask(abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU, 0, 0)?;
    twin.read(Twin::structure())?;
    same("the pool, its scheduler, domains and CPUs", is, (pool, XEN_SCHEDULER_CREDIT2, 1, 1 << CPU))?;
    let gone = ask(abi::XEN_SYSCTL_CPUPOOL_OP_INFO, pool, 0).map(|_| 0);
    refuses("a pool that is not there any more", gone, Errno::ENOENT)
}

/// The rate limit is set and read.
fn scheduler_op(_: &Twin) -> Outcome {
    let ask = |cmd, ratelimit_us| -> Result<u32, Refused> {
        let sched_id = XEN_SCHEDULER_CREDIT2;
        let mut op = SchedulerOp { sched_id, cmd, ratelimit_us, ..SchedulerOp::default() };
        sysctl(abi::XEN_SYSCTL_SCHEDULER_OP, &mut op)?;
        Ok(op.ratelimit_us)
    };
    let was = ask(abi::XEN_SYSCTL_SCHEDOP_GETINFO, 0)?;
    ask(abi::XEN_SYSCTL_SCHEDOP_PUTINFO, was + 500)?;
    let is = ask(abi::XEN_SYSCTL_SCHEDOP_GETINFO, 0)?;
    ask(abi::XEN_SYSCTL_SCHEDOP_PUTINFO, was)?;
    same("the rate limit", is, was + 500)?;
    refuses("too low a limit", ask(abi::XEN_SYSCTL_SCHEDOP_PUTINFO, 1).map(|_| 0), Errno::EINVAL)
}

/// The first device, and one that is not there.
fn pcitopoinfo(_: &Twin) -> Outcome {
    let mut devices = [PciDevice::default(), PciDevice { seg: 0, bus: 77, devfn: 0 }];
    let mut nodes = [99u32; 2];
    let (devs, nodes_at) = (devices.as_mut_ptr() as u64, nodes.as_mut_ptr() as u64);
    let mut info = PciTopoInfo { num_devs: 2, _pad: 0, devs, nodes: nodes_at };
    sysctl(abi::XEN_SYSCTL_PCITOPOINFO, &mut info)?;
    same("devices done", info.num_devs, 2)?;
    holds("the first is known", nodes[0] == 0 || nodes[0] == abi::XEN_INVALID_NODE_ID)?;
    same("the node of one that is not there", nodes[1], abi::XEN_INVALID_DEV)
}

fn get_cpu_levelling_caps(_: &Twin) -> Outcome {
    let mut caps = CpuLevellingCaps { caps: u32::MAX };
    sysctl(abi::XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, &mut caps)?;
    holds("not all registers can be masked, as no processor has them", caps.caps != u32::MAX)
}

/// Guests may have no more than the machine.
fn get_cpu_featureset(_: &Twin) -> Outcome {
    let words = |index| -> Result<[u32; 32], Differs> {
        let mut words = [0u32; 32];
        let mut set = CpuFeatureset { index, nr_features: 32, features: words.as_mut_ptr() as u64 };
        sysctl(abi::XEN_SYSCTL_GET_CPU_FEATURESET, &mut set)?;
        holds("there are words", (1..=32).contains(&set.nr_features))?;
        Ok(words)
    };
    let (host, guest) = (words(abi::XEN_SYSCTL_CPU_FEATURESET_RAW)?, words(abi::XEN_SYSCTL_CPU_FEATURESET_HVM)?);
    same("that guests have an FPU", guest[0] & 1, 1)?;
    same("what guests have in the first word beyond the machine", guest[0] & !host[0], 0)?;
    let mut set = CpuFeatureset { index: 99, nr_features: 1, features: [0u32; 1].as_mut_ptr() as u64 };
    refuses("a set that is not there", sysctl(abi::XEN_SYSCTL_GET_CPU_FEATURESET, &mut set), Errno::EINVAL)
}

fn get_cpu_policy(_: &Twin) -> Outcome {
    let mut leaves = FromZeros::new_zeroed();
    let mut msrs = FromZeros::new_zeroed();
    let (leaves, msrs): (&mut domctl::Leaves, &mut domctl::Msrs) = (&mut leaves, &mut msrs);
    let mut policy = CpuPolicy {
        index: abi::XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT,
        nr_leaves: leaves.len() as u32,
        nr_msrs: msrs.len() as u32,
        rsvd: 0,
        leaves: leaves.as_mut_ptr() as u64,
        msrs: msrs.as_mut_ptr() as u64,
    };
    sysctl(abi::XEN_SYSCTL_GET_CPU_POLICY, &mut policy)?;
    holds("there are leaves", (2..=leaves.len() as u32).contains(&policy.nr_leaves))?;
    // EBX of leaf 0 is the beginning of the vendor's name.
    same("the vendor", leaves[0].b, u32::from_le_bytes(*b"Auth"))?;
    policy.nr_leaves = 1;
    refuses("little room", sysctl(abi::XEN_SYSCTL_GET_CPU_POLICY, &mut policy), Errno::ENOBUFS)
}
