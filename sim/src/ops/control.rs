//! What dom0 does as the toolstack: makes domains, looks after them, destroys them.

use std::sync::Arc;

use radon_abi::domctl as abi;
use radon_abi::guest_context::{VGCF_ONLINE, VcpuGuestContext};
use radon_abi::memory as mem;
use radon_abi::{hypercall, platform, sched, sysctl};
use radon_core::domain::Domain;
use radon_core::p2m::Kind;
use radon_core::testing::audit;
use radon_core::types::DomainId;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use super::{After, Call, Maker, guest, plain};
use crate::model::{FIRST, LARGE, VCPUS};
use crate::shared::EMULATION;
use crate::world::World;

/// A step of a longer business of the toolstack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Makes a domain.
    Create,
    /// Says how much memory it may have.
    MaxMemory(u16, u64),
    /// Says how many table pages it may have.
    TablePages(u16),
    /// Gives it its vCPUs.
    Vcpus(u16, u32),
    /// Gives it memory from this frame on.
    Populate(u16, u64, u64),
    /// Gives it 2 MiB in one piece.
    PopulateLarge(u16),
    /// Leaves 2 MiB to be populated on demand, and sets some memory aside.
    OnDemand(u16, bool),
    /// Sets the registers of a vCPU.
    Context(u16, u32),
    /// Lets it run.
    Unpause(u16),
    /// Destroys it.
    Destroy(u16),
    /// Removes what dom0 has mapped of others at this place.
    Forget(u64),
    /// Unmaps a grant from this address.
    Unmap(u32, u64),
}

/// What has to be done for nothing to be left.
pub fn ending(world: &World) -> Vec<Task> {
    let guests = world.ids.iter().filter(|&&id| id != 0).map(|&id| Task::Destroy(id));
    guests.chain(letting_go(world)).collect()
}

/// What dom0 has to do to hold nothing of others any more.
fn letting_go(world: &World) -> Vec<Task> {
    let mut tasks = Vec::new();
    let hv = world.hv();
    let Ok(dom0) = hv.domains.get(crate::shared::DOM0) else { return tasks };
    let mut at = 0;
    while at < dom0.p2m.limit().0 {
        let found = dom0.p2m.query(hv, radon_core::types::Gfn(at));
        if found.entry.kind == Kind::Foreign {
            tasks.push(Task::Forget(at));
        }
        at = (at | found.order.mask()).saturating_add(1);
    }
    // Of some grants dom0 lost the handle, with the structure that had it.
    // Any address in the page will do, but 0 says that nothing is to be unmapped.
    let handles = audit::grants_mapped(&dom0).into_iter();
    tasks.extend(handles.map(|(handle, gfn)| Task::Unmap(handle, gfn.0 << 12 | 8)));
    // A look at the list buries the dead.
    tasks
}

/// Calls a domctl.
fn domctl<T: IntoBytes + Immutable>(m: &mut Maker<'_>, cmd: u32, domain: u16, value: &T) -> Call {
    let at = m.at();
    let version = abi::XEN_DOMCTL_INTERFACE_VERSION;
    m.world.store(m.domain, at, &abi::Header { cmd, interface_version: version, domain, _pad: [0; 3] });
    m.world.store(m.domain, at + 16, value);
    Call { args: [at, 0, 0, 0, 0, 0], ..plain(hypercall::DOMCTL, cmd) }
}

fn sysctl_op<T: IntoBytes + Immutable>(m: &mut Maker<'_>, cmd: u32, value: &T) -> Call {
    let at = m.at();
    m.world.store(m.domain, at, &sysctl::Header { cmd, interface_version: sysctl::XEN_SYSCTL_INTERFACE_VERSION });
    m.world.store(m.domain, at + 8, value);
    Call { args: [at, 0, 0, 0, 0, 0], ..plain(hypercall::SYSCTL, cmd) }
}

/// The next thing that dom0 does for others.
pub(super) fn choose(m: &mut Maker<'_>) -> Call {
    if let Some(task) = m.world.tasks.pop_front() {
        return perform(m, task);
    }
    if m.world.ending {
        return domctl(m, abi::XEN_DOMCTL_GETDOMAININFO, 0, &abi::DomainInfo::default());
    }
    let (live, dying) = guests(m.world);
    if live.len() < m.world.config.guests && m.rng.one_in(8) {
        return perform(m, Task::Create);
    }
    match m.rng.below(64) {
        0..3 if !live.is_empty() => {
            let (id, over) = m.rng.pick(&live);
            // What came to its end goes, and sometimes another.
            if over || m.rng.one_in(16) { perform(m, Task::Destroy(id)) } else { life(m, id) }
        }
        // What is dying can go when dom0 holds nothing of it any more.
        3 if !dying.is_empty() => {
            let tasks = letting_go(m.world);
            m.world.tasks.extend(tasks);
            perform(m, Task::Destroy(m.rng.clone().pick(&dying)))
        }
        0..12 => {
            let id = guest_of(m);
            life(m, id)
        }
        12..24 => memory(m),
        24..40 => properties(m),
        40..50 => queries(m),
        50..56 => machine(m),
        56..58 => platform_op(m),
        _ => foreign(m),
    }
}

/// The guests, with whether each has shut down or can never run again; and those that are being destroyed.
fn guests(world: &World) -> (Vec<(u16, bool)>, Vec<u16>) {
    let (mut live, mut dying) = (Vec::new(), Vec::new());
    for &id in world.ids.iter().filter(|&&id| id != 0) {
        let Ok(domain) = world.hv().domains.get(DomainId(id)) else { continue };
        if domain.control.is_dying() {
            dying.push(id);
        } else {
            let down = domain.vcpus().iter().all(|v| v.sched.unit.is_down());
            live.push((id, down || domain.shutdown_reason().is_some()));
        }
    }
    (live, dying)
}

/// A guest, mostly.
fn guest_of(m: &mut Maker<'_>) -> u16 {
    if m.rng.one_in(24) {
        return m.rng.hostile() as u16;
    }
    m.rng.pick(&m.world.ids)
}

/// A domain was made: builds it.
pub(super) fn created(world: &mut World, dom0: &Arc<Domain>, at: u64) {
    let Some(header) = world.load::<abi::Header>(dom0, at) else { return };
    let Some(config) = world.load::<abi::CreateDomain>(dom0, at + 16) else { return };
    let id = header.domain;
    let mut rng = crate::rng::Rng::new(world.config.seed, u64::from(id) ^ 0xb111d);
    let large = rng.one_in(3);
    let demand = !large && rng.one_in(3);
    let limit = 64 + rng.below(64) + if large || demand { 600 } else { 0 };
    let tasks = &mut world.tasks;
    tasks.push_back(Task::MaxMemory(id, limit));
    tasks.push_back(Task::TablePages(id));
    if demand {
        tasks.push_back(Task::OnDemand(id, true));
    }
    tasks.push_back(Task::Vcpus(id, config.max_vcpus));
    tasks.push_back(Task::Populate(id, 0, 48));
    if large {
        tasks.push_back(Task::PopulateLarge(id));
    }
    if demand {
        tasks.push_back(Task::OnDemand(id, false));
    }
    tasks.push_back(Task::Context(id, 0));
    tasks.push_back(Task::Unpause(id));
}

fn perform(m: &mut Maker<'_>, task: Task) -> Call {
    let limits = |m: &mut Maker<'_>, most: u64| if m.rng.one_in(4) { -1 } else { m.rng.below(most) as i32 };
    match task {
        Task::Create => {
            let config = abi::CreateDomain {
                handle: [m.rng.next() as u8; 16],
                flags: abi::XEN_DOMCTL_CDF_HVM | abi::XEN_DOMCTL_CDF_HAP,
                max_vcpus: 1 + m.rng.below(u64::from(VCPUS)) as u32,
                max_evtchn_port: m.rng.pick(&[u32::MAX, 1023, 40]),
                max_grant_frames: limits(m, 20),
                max_maptrack_frames: limits(m, 4),
                grant_opts: 1 + m.rng.below(2) as u32,
                cpupool_id: 0,
                arch: abi::ArchDomainConfig { emulation_flags: EMULATION, misc_flags: 0 },
                ..Default::default()
            };
            let call = domctl(m, abi::XEN_DOMCTL_CREATEDOMAIN, 0, &config);
            Call { after: After::Created, ..call }
        }
        Task::MaxMemory(id, frames) => domctl(m, abi::XEN_DOMCTL_MAX_MEM, id, &abi::MaxMem { max_memkb: frames * 4 }),
        Task::TablePages(id) => {
            let size = (16 + m.rng.below(100)) << 12;
            domctl(m, abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, id, &abi::PagingMempool { size })
        }
        Task::Vcpus(id, max) => domctl(m, abi::XEN_DOMCTL_MAX_VCPUS, id, &abi::MaxVcpus { max }),
        Task::Populate(id, first, count) => {
            let gfns: Vec<u64> = (first..first + count).collect();
            let value = guest::reservation(m, id, &gfns, 0);
            m.call(hypercall::MEMORY_OP, mem::XENMEM_POPULATE_PHYSMAP, &value)
        }
        Task::PopulateLarge(id) => {
            let value = guest::reservation(m, id, &[LARGE], 9);
            m.call(hypercall::MEMORY_OP, mem::XENMEM_POPULATE_PHYSMAP, &value)
        }
        Task::OnDemand(id, true) => {
            let value = mem::PodTarget { target_pages: 60, domid: id, ..Default::default() };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_SET_POD_TARGET, &value)
        }
        Task::OnDemand(id, false) => {
            let mut value = guest::reservation(m, id, &[LARGE], 9);
            value.mem_flags = mem::XENMEMF_POPULATE_ON_DEMAND;
            m.call(hypercall::MEMORY_OP, mem::XENMEM_POPULATE_PHYSMAP, &value)
        }
        Task::Context(id, vcpu) => {
            let mut context = Box::new(VcpuGuestContext::new_zeroed());
            context.flags = VGCF_ONLINE;
            context.user_regs.rflags = 2;
            let at = FIRST << 12;
            m.world.store(m.domain, at, &*context);
            domctl(m, abi::XEN_DOMCTL_SETVCPUCONTEXT, id, &abi::VcpuContext { vcpu, _pad: 0, ctxt: at })
        }
        Task::Unpause(id) => domctl(m, abi::XEN_DOMCTL_UNPAUSEDOMAIN, id, &0u64),
        Task::Destroy(id) => {
            let call = domctl(m, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &0u64);
            Call { after: After::Destroyed, ..call }
        }
        Task::Forget(gpfn) => {
            let value = mem::RemoveFromPhysmap { domid: 0, gpfn, ..Default::default() };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_REMOVE_FROM_PHYSMAP, &value)
        }
        Task::Unmap(handle, host_addr) => {
            use radon_abi::grant_table as gt;
            let value = gt::UnmapGrantRef { host_addr, handle, ..Default::default() };
            let call = m.call(hypercall::GRANT_TABLE_OP, gt::GNTTABOP_UNMAP_GRANT_REF, &value);
            Call { args: [call.args[0], call.args[1], 1, 0, 0, 0], ..call }
        }
    }
}

/// Pauses, resumes, shuts down.
fn life(m: &mut Maker<'_>, id: u16) -> Call {
    match m.rng.below(8) {
        0 | 1 => {
            m.world.tasks.push_back(Task::Unpause(id));
            domctl(m, abi::XEN_DOMCTL_PAUSEDOMAIN, id, &0u64)
        }
        2 | 3 => domctl(m, abi::XEN_DOMCTL_UNPAUSEDOMAIN, id, &0u64),
        4 => domctl(m, abi::XEN_DOMCTL_RESUMEDOMAIN, id, &0u64),
        5 if id != 0 => {
            let value = sched::RemoteShutdown { domain_id: id, _pad: 0, reason: m.rng.below(6) as u32 };
            m.call(hypercall::SCHED_OP, sched::SCHEDOP_REMOTE_SHUTDOWN, &value)
        }
        6 => {
            let vcpu = m.rng.below(u64::from(VCPUS)) as u32;
            perform(m, Task::Context(id, vcpu))
        }
        _ => {
            let value = abi::SendTrigger { trigger: m.rng.pick(&[0, 0, 3, 4, 9]), vcpu: m.rng.below(5) as u32 };
            domctl(m, abi::XEN_DOMCTL_SENDTRIGGER, id, &value)
        }
    }
}

fn memory(m: &mut Maker<'_>) -> Call {
    let id = guest_of(m);
    match m.rng.below(16) {
        0 | 1 => {
            let first = m.some_gfn();
            perform(m, Task::Populate(id, first, m.rng.clone().below(8) + 1))
        }
        // Seldom: it is much to be zeroed.
        2 if m.rng.one_in(4) => perform(m, Task::PopulateLarge(id)),
        3 => perform(m, Task::OnDemand(id, false)),
        4 => {
            let target_pages = m.rng.below(700);
            let value = mem::PodTarget { target_pages, domid: id, ..Default::default() };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_SET_POD_TARGET, &value)
        }
        5 => {
            let frames = m.rng.below(1200);
            perform(m, Task::MaxMemory(id, frames))
        }
        6 => {
            let nr_extents = m.rng.pick(&[0, 0, 50, 100, 400, 9000]);
            let value = mem::MemoryReservation { nr_extents, domid: id, ..Default::default() };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_CLAIM_PAGES, &value)
        }
        7 => {
            let gfns = [m.some_gfn(), m.some_gfn()];
            let value = guest::reservation(m, id, &gfns, 0);
            m.call(hypercall::MEMORY_OP, mem::XENMEM_DECREASE_RESERVATION, &value)
        }
        8 => {
            let value = mem::MemoryMap { nr_entries: m.rng.below(6) as u32, buffer: m.list(), ..Default::default() };
            let value = mem::ForeignMemoryMap { domid: id, map: value, ..Default::default() };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_SET_MEMORY_MAP, &value)
        }
        9 => perform(m, Task::TablePages(id)),
        10 => {
            let gfns: Vec<u64> = (0..8).map(|_| m.some_gfn()).collect();
            let array = m.put_list(&gfns);
            domctl(m, abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, id, &abi::GetPageFrameInfo3 { num: 8, array })
        }
        _ => {
            let op = m.rng.pick(&[
                abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY,
                abi::XEN_DOMCTL_SHADOW_OP_OFF,
                abi::XEN_DOMCTL_SHADOW_OP_CLEAN,
                abi::XEN_DOMCTL_SHADOW_OP_CLEAN,
                abi::XEN_DOMCTL_SHADOW_OP_PEEK,
                abi::XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
                abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
            ]);
            let value = abi::ShadowOp { op, mb: 1, pages: 1024, dirty_bitmap: m.list(), ..Default::default() };
            domctl(m, abi::XEN_DOMCTL_SHADOW_OP, id, &value)
        }
    }
}

fn properties(m: &mut Maker<'_>) -> Call {
    let id = guest_of(m);
    let vcpu = m.rng.below(u64::from(VCPUS)) as u32;
    let (list, cpus) = (m.list(), m.world.config.cpus);
    match m.rng.below(18) {
        0..3 if m.world.config.credit2 || id != 0 => {
            let maps = [m.rng.next() as u8 & 15, m.rng.next() as u8 & 15];
            m.world.store(m.domain, list, &maps);
            let map = |at| abi::Bitmap { bitmap: at, nr_bits: 8, _pad: 0 };
            let flags = m.rng.below(8) as u32;
            let value = abi::VcpuAffinity { vcpu, flags, cpumap_hard: map(list), cpumap_soft: map(list + 1) };
            let op = m.rng.pick(&[abi::XEN_DOMCTL_SETVCPUAFFINITY, abi::XEN_DOMCTL_GETVCPUAFFINITY]);
            domctl(m, op, id, &value)
        }
        3..6 => {
            let value = abi::SchedulerOp {
                sched_id: m.rng.pick(&[
                    abi::XEN_SCHEDULER_CREDIT2,
                    abi::XEN_SCHEDULER_CREDIT2,
                    abi::XEN_SCHEDULER_NULL,
                ]),
                cmd: m.rng.below(4) as u32,
                weight: m.rng.pick(&[0, 64, 256, 512, 1024]),
                cap: m.rng.pick(&[0, 0, 30, 80, u16::MAX]),
                _pad: 0,
            };
            domctl(m, abi::XEN_DOMCTL_SCHEDULER_OP, id, &value)
        }
        6 => domctl(m, abi::XEN_DOMCTL_SETDOMAINHANDLE, id, &abi::SetDomainHandle { handle: [1; 16] }),
        7 => {
            let value = abi::SetTimeOffset { time_offset_seconds: m.rng.hostile() as i64 };
            domctl(m, abi::XEN_DOMCTL_SETTIMEOFFSET, id, &value)
        }
        8 => {
            let value = abi::SetVirqHandler { virq: m.rng.below(24) as u32 };
            domctl(m, abi::XEN_DOMCTL_SET_VIRQ_HANDLER, id, &value)
        }
        9 => {
            let value = abi::SetAccessRequired { access_required: m.rng.below(2) as u8 };
            domctl(m, abi::XEN_DOMCTL_SET_ACCESS_REQUIRED, id, &value)
        }
        10 => {
            let value = abi::TscInfo { tsc_mode: m.rng.below(4) as u32, gtsc_khz: 1_000_000, ..Default::default() };
            domctl(m, abi::XEN_DOMCTL_SETTSCINFO, id, &value)
        }
        11 => {
            let op = m.rng.pick(&[
                abi::XEN_DOMCTL_IRQ_PERMISSION,
                abi::XEN_DOMCTL_IOMEM_PERMISSION,
                abi::XEN_DOMCTL_IOPORT_PERMISSION,
                abi::XEN_DOMCTL_SET_ADDRESS_SIZE,
                abi::XEN_DOMCTL_SETNODEAFFINITY,
            ]);
            let words = [m.rng.pick(&[64, 1, 0x3f8]), m.rng.below(4), m.rng.below(2)];
            domctl(m, op, id, &words)
        }
        12 => domctl(m, abi::XEN_DOMCTL_HYPERCALL_INIT, id, &abi::HypercallInit { gmfn: FIRST + 4 }),
        13 => {
            // What was saved last, or what else is there.
            let value = abi::HvmContext { size: 4096, buffer: list, ..Default::default() };
            domctl(m, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &value)
        }
        14 => {
            let size = m.world.load::<u32>(m.domain, m.at() + 16).unwrap_or(0).min(4096);
            domctl(m, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &abi::HvmContext { size, buffer: list, ..Default::default() })
        }
        15 => {
            let value = abi::CpuPolicy { nr_leaves: m.rng.below(3) as u32, leaves: list, ..Default::default() };
            domctl(m, abi::XEN_DOMCTL_SET_CPU_POLICY, id, &value)
        }
        16 if m.world.config.credit2 => {
            let value = sched::PinOverride { pcpu: m.rng.below(u64::from(cpus) + 1) as i32 - 1 };
            m.call(hypercall::SCHED_OP, sched::SCHEDOP_PIN_OVERRIDE, &value)
        }
        _ => perform(m, Task::Vcpus(id, vcpu + 1)),
    }
}

fn queries(m: &mut Maker<'_>) -> Call {
    let id = guest_of(m);
    let list = m.list();
    let vcpu = m.rng.below(u64::from(VCPUS)) as u32;
    match m.rng.below(10) {
        0 | 1 => domctl(m, abi::XEN_DOMCTL_GETDOMAININFO, id, &abi::DomainInfo::default()),
        2 => domctl(m, abi::XEN_DOMCTL_GETVCPUINFO, id, &abi::GetVcpuInfo { vcpu, ..Default::default() }),
        3 => domctl(m, abi::XEN_DOMCTL_GETVCPUCONTEXT, id, &abi::VcpuContext { vcpu, _pad: 0, ctxt: FIRST << 12 }),
        4 => {
            let value =
                abi::HvmContextPartial { kind: m.rng.below(20) as u32, instance: vcpu, bufsz: 2048, buffer: list };
            domctl(m, abi::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, id, &value)
        }
        5 => domctl(m, abi::XEN_DOMCTL_GETTSCINFO, id, &abi::TscInfo::default()),
        6 => {
            let value =
                abi::CpuPolicy { nr_leaves: 128, nr_msrs: 2, leaves: list, msrs: list + 3900, ..Default::default() };
            domctl(m, abi::XEN_DOMCTL_GET_CPU_POLICY, id, &value)
        }
        7 => domctl(m, abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, id, &abi::PagingMempool::default()),
        8 => {
            let op = m.rng.pick(&[abi::XEN_DOMCTL_GET_ADDRESS_SIZE, abi::XEN_DOMCTL_GETNODEAFFINITY]);
            domctl(m, op, id, &abi::Bitmap { bitmap: list, nr_bits: 8, _pad: 0 })
        }
        _ => domctl(m, m.rng.clone().below(90) as u32, 0x7fee, &[0u64; 4]),
    }
}

fn machine(m: &mut Maker<'_>) -> Call {
    let list = m.list();
    let (cpus, id) = (u64::from(m.world.config.cpus), guest_of(m));
    match m.rng.below(16) {
        0 => sysctl_op(m, sysctl::XEN_SYSCTL_PHYSINFO, &[0u64; 16]),
        1 => sysctl_op(m, sysctl::XEN_SYSCTL_SCHED_ID, &0u64),
        2 => {
            let words = [u64::from(m.rng.below(4) as u32) | 8 << 32, list, 0];
            sysctl_op(m, sysctl::XEN_SYSCTL_GETDOMAININFOLIST, &words)
        }
        3 => sysctl_op(m, sysctl::XEN_SYSCTL_AVAILHEAP, &[0u64; 3]),
        4 => {
            m.world.store(m.domain, list, &m.rng.pick(b"redmqth"));
            sysctl_op(m, sysctl::XEN_SYSCTL_DEBUG_KEYS, &[list, 1])
        }
        5 => sysctl_op(m, sysctl::XEN_SYSCTL_GETCPUINFO, &[8u64, list, 0]),
        6 => sysctl_op(
            m,
            m.rng.clone().pick(&[sysctl::XEN_SYSCTL_CPUTOPOINFO, sysctl::XEN_SYSCTL_NUMAINFO]),
            &[4u64, list, 0, 0],
        ),
        7 => {
            let rate = m.rng.pick(&[0u64, 100, 1000, 5]);
            let value = [u64::from(abi::XEN_SCHEDULER_CREDIT2) << 32, m.rng.below(2), rate << 32, 0];
            sysctl_op(m, sysctl::XEN_SYSCTL_SCHEDULER_OP, &value)
        }
        8..12 if m.world.config.credit2 => {
            let pool = m.rng.below(3) as u32;
            let value = sysctl::CpupoolOp {
                op: 1 + m.rng.below(7) as u32,
                cpupool_id: if m.rng.one_in(4) { sysctl::XEN_SYSCTL_CPUPOOL_PAR_ANY } else { pool },
                sched_id: m.rng.pick(&[abi::XEN_SCHEDULER_CREDIT2, abi::XEN_SCHEDULER_NULL]),
                domid: u32::from(id),
                cpu: m.rng.below(cpus) as u32,
                n_dom: 0,
                cpumap: abi::Bitmap { bitmap: list, nr_bits: 8, _pad: 0 },
            };
            sysctl_op(m, sysctl::XEN_SYSCTL_CPUPOOL_OP, &value)
        }
        12 => sysctl_op(m, sysctl::XEN_SYSCTL_READCONSOLE, &[0u64, list, 100, 0]),
        13 => {
            let words = [m.rng.below(6) | 64 << 32, list, 0];
            sysctl_op(
                m,
                m.rng.clone().pick(&[sysctl::XEN_SYSCTL_GET_CPU_FEATURESET, sysctl::XEN_SYSCTL_GET_CPU_POLICY]),
                &words,
            )
        }
        14 => sysctl_op(m, sysctl::XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, &0u64),
        _ => {
            let cmd = m.rng.below(32) as u32;
            // Keys are pressed with care.
            let cmd = if cmd == sysctl::XEN_SYSCTL_DEBUG_KEYS { 0 } else { cmd };
            let words = [m.rng.below(4), list, m.rng.below(8), 0];
            sysctl_op(m, cmd, &words)
        }
    }
}

fn platform_op(m: &mut Maker<'_>) -> Call {
    let operations = [
        platform::XENPF_SETTIME32,
        platform::XENPF_SETTIME64,
        platform::XENPF_GET_CPU_VERSION,
        platform::XENPF_FIRMWARE_INFO,
        platform::XENPF_GETIDLETIME,
        platform::XENPF_SET_PROCESSOR_PMINFO,
        platform::XENPF_GET_CPUINFO,
        platform::XENPF_CPU_ONLINE,
        platform::XENPF_RESOURCE_OP,
        platform::XENPF_GET_SYMBOL,
        platform::XENPF_CORE_PARKING,
    ];
    let operation = if m.rng.one_in(16) { m.rng.below(64) as u32 } else { m.rng.pick(&operations) };
    // The machine is not to be put to sleep.
    let operation = if operation == platform::XENPF_ENTER_ACPI_SLEEP { 0 } else { operation };
    let list = m.list();
    let mut words = [0u64; 16];
    words[0] = u64::from(operation) | u64::from(platform::XENPF_INTERFACE_VERSION) << 32;
    for word in &mut words[1..] {
        *word = m.rng.pick(&[0, 1, 2, list, list + 512]);
    }
    let at = m.put(&words);
    Call { args: [at, 0, 0, 0, 0, 0], hostile: true, ..plain(hypercall::PLATFORM_OP, operation) }
}

/// Maps what a guest has, for a while.
fn foreign(m: &mut Maker<'_>) -> Call {
    let id = guest_of(m);
    let gpfn = m.window_gfn();
    match m.rng.below(4) {
        0 | 1 => {
            let (idxs, gpfns, errs) = (m.list(), m.list() + 64, m.list() + 128);
            let index = m.some_gfn();
            m.world.store(m.domain, idxs, &index);
            m.world.store(m.domain, gpfns, &gpfn);
            let space = mem::XENMAPSPACE_GMFN_FOREIGN as u16;
            let value = mem::AddToPhysmapBatch { domid: 0, space, size: 1, foreign_domid: id, idxs, gpfns, errs };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_ADD_TO_PHYSMAP_BATCH, &value)
        }
        2 => perform(m, Task::Forget(gpfn)),
        _ => {
            let frame_list = m.put_list(&[gpfn]);
            let value = mem::AcquireResource {
                domid: id,
                kind: mem::XENMEM_RESOURCE_GRANT_TABLE,
                nr_frames: m.rng.below(2) as u32,
                frame: m.rng.below(3),
                frame_list,
                ..Default::default()
            };
            m.call(hypercall::MEMORY_OP, mem::XENMEM_ACQUIRE_RESOURCE, &value)
        }
    }
}
