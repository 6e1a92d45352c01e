//! What the machine is and how much of it is in use.

use radon_abi::errno::Errno;
use radon_abi::physdev::PciDevice;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::{
    AvailHeap, CpuHotplug, CpuInfo, CpuTopo, CpuTopoInfo, GetCpuInfo, MemInfo, NumaInfo, PageOfflineOp, PciTopoInfo,
    PhysInfo,
};

use super::{read, write};
use crate::frames::Kind;
use crate::hypercall::{Args, Caller, OpResult};
use crate::platform::{MachineInfo, PciAddress};
use crate::types::{CpuId, GuestVirtAddr, Mfn, PAGE_SIZE};

/// Distance of a node from itself.
const LOCAL_DISTANCE: u32 = 10;

fn machine(caller: &Caller<'_>) -> Result<MachineInfo, Errno> {
    Ok(caller.hv.control.factory()?.machine())
}

/// `XEN_SYSCTL_physinfo`: processors, memory, abilities. What destroyed domains still have is freed before. Never fails.
pub(super) fn physinfo(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.hv.control.reap(caller.hv, &mut || caller.spend());
    let machine = machine(caller)?;
    let frames = &caller.hv.frames;
    let cpus = caller.hv.platform.cpu_count();
    let info = PhysInfo {
        threads_per_core: machine.threads_per_core,
        cores_per_socket: machine.cores_per_socket,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: machine.cpu_khz,
        capabilities: abi::XEN_SYSCTL_PHYSCAP_HVM
            | abi::XEN_SYSCTL_PHYSCAP_HAP
            | abi::XEN_SYSCTL_PHYSCAP_GNTTAB_V1
            | abi::XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
        total_pages: machine.total_frames,
        free_pages: frames.free_frames(),
        scrub_pages: frames.dirty_frames(),
        outstanding_pages: frames.claimed_frames(),
        max_mfn: frames.end().0.saturating_sub(1),
        hw_cap: machine.hw_cap,
        ..PhysInfo::default()
    };
    write(caller, args, &info)
}

/// `XEN_SYSCTL_getcpuinfo`: how long each CPU had nothing to run.
///
/// Work: the machine's CPUs. Errors: `EFAULT`.
pub(super) fn get_cpu_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: GetCpuInfo = read(caller, args)?;
    let hv = caller.hv;
    r.nr_cpus = r.max_cpus.min(hv.platform.cpu_count());
    for n in 0..r.nr_cpus {
        let idletime = hv.scheduler.idle_time(hv, CpuId(n)).0;
        caller.write_at(GuestVirtAddr(r.info), u64::from(n), &CpuInfo { idletime })?;
    }
    write(caller, args, &r)
}

/// `XEN_SYSCTL_availheap`: free memory of a node, or of all. A node that is not there has none.
pub(super) fn avail_heap(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: AvailHeap = read(caller, args)?;
    let there = matches!(r.node, -1 | 0);
    r.avail_bytes = if there { caller.hv.frames.free_frames().saturating_mul(PAGE_SIZE) } else { 0 };
    write(caller, args, &r)
}

/// `XEN_SYSCTL_cputopoinfo`: where each CPU is. For a null handle, the number of CPUs.
///
/// Work: the machine's CPUs. Errors: `EFAULT`.
pub(super) fn cpu_topo_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: CpuTopoInfo = read(caller, args)?;
    let cpus = caller.hv.platform.cpu_count();
    if r.cputopo != 0 {
        for n in 0..r.num_cpus.min(cpus) {
            let t = caller.hv.platform.cpu_topology(CpuId(n));
            let topo = CpuTopo { core: t.core, socket: t.socket, node: t.node };
            caller.write_at(GuestVirtAddr(r.cputopo), u64::from(n), &topo)?;
        }
    }
    // More than there is room for says how much room is needed.
    r.num_cpus = cpus;
    write(caller, args, &r)
}

/// `XEN_SYSCTL_numainfo`: memory of each node and the distances between them. For null handles, the number of nodes.
///
/// Errors: `EFAULT`.
pub(super) fn numa_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: NumaInfo = read(caller, args)?;
    if r.num_nodes > 0 && r.meminfo != 0 {
        let frames = &caller.hv.frames;
        let memory = MemInfo {
            memsize: machine(caller)?.total_frames.saturating_mul(PAGE_SIZE),
            memfree: frames.free_frames().saturating_mul(PAGE_SIZE),
        };
        caller.write(GuestVirtAddr(r.meminfo), &memory)?;
    }
    if r.num_nodes > 0 && r.distance != 0 {
        caller.write(GuestVirtAddr(r.distance), &LOCAL_DISTANCE)?;
    }
    r.num_nodes = 1;
    write(caller, args, &r)
}

/// `XEN_SYSCTL_pcitopoinfo`: the node of each of some PCI devices. What is done when the budget is spent counts; the caller
/// asks for the rest.
///
/// Errors: `EINVAL`: no devices are named. `EFAULT`.
pub(super) fn pci_topo_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: PciTopoInfo = read(caller, args)?;
    if r.devs == 0 || r.nodes == 0 {
        return Err(Errno::EINVAL);
    }
    let devices = caller.hv.platform.physical_devices();
    let mut done = 0;
    while done < r.num_devs && caller.spend() {
        let at: PciDevice = caller.read_at(GuestVirtAddr(r.devs), u64::from(done))?;
        let address = PciAddress { segment: at.seg, bus: at.bus, devfn: at.devfn };
        let node: u32 = match devices.and_then(|d| d.node(address)) {
            Some(node) => node.unwrap_or(abi::XEN_INVALID_NODE_ID),
            None => abi::XEN_INVALID_DEV,
        };
        caller.write_at(GuestVirtAddr(r.nodes), u64::from(done), &node)?;
        done = done.saturating_add(1);
    }
    r.num_devs = done;
    write(caller, args, &r)
}

/// `XEN_SYSCTL_cpu_hotplug`: all CPUs are in use always.
///
/// Errors: `EINVAL`: no such CPU, or one to be brought up, which it is. `EOPNOTSUPP`: to take one down.
pub(super) fn cpu_hotplug(caller: &Caller<'_>, args: Args) -> OpResult {
    let r: CpuHotplug = read(caller, args)?;
    let exists = r.cpu < caller.hv.platform.cpu_count();
    Err(match r.op {
        abi::XEN_SYSCTL_CPU_HOTPLUG_OFFLINE if exists => Errno::EOPNOTSUPP,
        abi::XEN_SYSCTL_CPU_HOTPLUG_ONLINE | abi::XEN_SYSCTL_CPU_HOTPLUG_OFFLINE => Errno::EINVAL,
        _ => Errno::EOPNOTSUPP,
    })
}

/// Most frames that are asked about at once.
const FRAMES_MAX: u64 = 512;

/// `XEN_SYSCTL_page_offline_op`: whether frames are in use, which all RAM is.
///
/// Work: 512 frames at most. Errors: `EINVAL`: the last is before the first, or one is not RAM. `E2BIG`: more frames.
/// `EOPNOTSUPP`: to change it. `EFAULT`.
pub(super) fn page_offline_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let r: PageOfflineOp = read(caller, args)?;
    let count = u64::from(r.end).checked_sub(r.start.into()).ok_or(Errno::EINVAL)?.saturating_add(1);
    match r.cmd {
        abi::SYSCTL_QUERY_PAGE_OFFLINE => {}
        abi::SYSCTL_PAGE_OFFLINE | abi::SYSCTL_PAGE_ONLINE => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    if count > FRAMES_MAX {
        return Err(Errno::E2BIG);
    }
    for n in 0..count {
        if caller.hv.frames.kind(Mfn(u64::from(r.start).saturating_add(n))) == Kind::Absent {
            return Err(Errno::EINVAL);
        }
        // None of the flags: in use, and nothing wrong with it.
        caller.write_at(GuestVirtAddr(r.status), n, &0u32)?;
    }
    write(caller, args, &r)
}
