//! What any domain asks for.

use std::sync::Arc;

use radon_abi::event_channel as ev;
use radon_abi::grant_table as gt;
use radon_abi::memory as mem;
use radon_abi::xen::DOMID_SELF;
use radon_abi::{hvm, hypercall, sched, vcpu};
use radon_core::domain::Domain;
use radon_core::types::{DomainId, VcpuId};

use super::{After, Call, Maker, plain};
use crate::model::{LARGE, WINDOW};
use crate::world::{Failure, World};

/// A hypercall, drawn at random. The first ones of a domain make it ready for the others.
pub(super) fn choose(m: &mut Maker<'_>) -> Call {
    if m.vcpu.id.0 == 0
        && let Some(call) = start(m)
    {
        return call;
    }
    match m.rng.below(64) {
        0..22 => event_channel(m),
        22..40 => grant(m),
        40..48 => memory(m),
        48..52 => scheduling(m),
        52..56 => vcpu_op(m),
        56..58 => hvm_op(m),
        58 => version(m),
        59 => multicall(m),
        60 => {
            let deadline = m.world.shared.machine.time() + m.rng.below(5_000_000);
            let deadline = if m.rng.one_in(8) { 0 } else { deadline };
            Call { args: [deadline, 0, 0, 0, 0, 0], ..plain(hypercall::SET_TIMER_OP, 0) }
        }
        61 => {
            let (command, kind) = (m.rng.below(3), m.rng.pick(&[5, 5, 0, 3, 40]));
            Call { args: [command, kind, 0, 0, 0, 0], ..plain(hypercall::VM_ASSIST, command as u32) }
        }
        62 => console(m),
        _ => anything(m),
    }
}

/// What a kernel does first: its grant table, its callback.
fn start(m: &mut Maker<'_>) -> Option<Call> {
    let model = m.world.models.get_mut(&m.domain.id.0)?;
    model.boot += 1;
    match model.boot {
        1 => {
            let value = hvm::HvmParam {
                domid: DOMID_SELF,
                index: hvm::HVM_PARAM_CALLBACK_IRQ,
                value: hvm::HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | 0xf3,
                ..Default::default()
            };
            let call = m.call(hypercall::HVM_OP, hvm::HVMOP_SET_PARAM, &value);
            Some(Call { after: After::Callback, ..call })
        }
        2 | 3 => {
            let idx = u64::from(model.boot - 2);
            let (space, gpfn) = (mem::XENMAPSPACE_GRANT_TABLE, WINDOW.start + idx);
            let value = mem::AddToPhysmap { domid: DOMID_SELF, size: 0, space, idx, gpfn };
            Some(m.call(hypercall::MEMORY_OP, mem::XENMEM_ADD_TO_PHYSMAP, &value))
        }
        4 => {
            let value = ev::BindVirq { virq: 0, vcpu: 0, port: 0 };
            let call = m.call(hypercall::EVENT_CHANNEL_OP, ev::EVTCHNOP_BIND_VIRQ, &value);
            Some(Call { after: After::Port(8), ..call })
        }
        _ => None,
    }
}

fn event_channel(m: &mut Maker<'_>) -> Call {
    let number = hypercall::EVENT_CHANNEL_OP;
    let own = if m.rng.one_in(16) { m.some_domain() } else { DOMID_SELF };
    match m.rng.below(32) {
        0..3 => {
            let value = ev::AllocUnbound { dom: own, remote_dom: m.some_domain(), port: 0 };
            let call = m.call(number, ev::EVTCHNOP_ALLOC_UNBOUND, &value);
            Call { after: After::Port(4), ..call }
        }
        3..7 => {
            let remote_dom = m.another_domain();
            let remote = m.world.models.get(&remote_dom);
            let remote_port = remote.map_or(1, |r| r.ports.pick(m.rng));
            let value = ev::BindInterdomain { remote_dom, remote_port, ..Default::default() };
            let call = m.call(number, ev::EVTCHNOP_BIND_INTERDOMAIN, &value);
            Call { after: After::Port(8), ..call }
        }
        7 => {
            let virq = m.rng.pick(&[0, 0, 1, 2, 3, 8, 12, 16, 24]);
            let value = ev::BindVirq { virq, vcpu: m.some_vcpu(), port: 0 };
            let call = m.call(number, ev::EVTCHNOP_BIND_VIRQ, &value);
            Call { after: After::Port(8), ..call }
        }
        8 | 9 => {
            let value = ev::BindIpi { vcpu: m.some_vcpu(), port: 0 };
            let call = m.call(number, ev::EVTCHNOP_BIND_IPI, &value);
            Call { after: After::Port(4), ..call }
        }
        10..13 => {
            let value = ev::OnePort { port: m.some_port() };
            m.call(number, ev::EVTCHNOP_CLOSE, &value)
        }
        13..24 => {
            let port = m.some_port();
            let call = m.call(number, ev::EVTCHNOP_SEND, &ev::OnePort { port });
            Call { after: After::Sent(port), ..call }
        }
        24 => {
            let value = ev::Status { dom: own, port: m.some_port(), ..Default::default() };
            m.call(number, ev::EVTCHNOP_STATUS, &value)
        }
        25 | 26 => {
            let value = ev::BindVcpu { port: m.some_port(), vcpu: m.some_vcpu() };
            m.call(number, ev::EVTCHNOP_BIND_VCPU, &value)
        }
        27 | 28 => {
            let value = ev::OnePort { port: m.some_port() };
            m.call(number, ev::EVTCHNOP_UNMASK, &value)
        }
        29 => match m.rng.below(16) {
            0 => {
                let value = ev::Reset { dom: own };
                m.call(number, ev::EVTCHNOP_RESET, &value)
            }
            1..8 => {
                let vcpu = m.some_vcpu();
                let offset = m.rng.pick(&[0, 0, 512, 1024, 4088, 3, 5000]);
                let value = ev::InitControl {
                    control_gfn: m.control_gfn(),
                    offset: offset + vcpu.min(4) * 72,
                    vcpu,
                    ..Default::default()
                };
                m.call(number, ev::EVTCHNOP_INIT_CONTROL, &value)
            }
            _ => {
                let value = ev::ExpandArray { array_gfn: m.control_gfn() };
                m.call(number, ev::EVTCHNOP_EXPAND_ARRAY, &value)
            }
        },
        30 => {
            let value = ev::SetPriority { port: m.some_port(), priority: m.rng.below(18) as u32 };
            m.call(number, ev::EVTCHNOP_SET_PRIORITY, &value)
        }
        _ => {
            let value = ev::BindPirq { pirq: m.rng.hostile() as u32, ..Default::default() };
            m.call(number, ev::EVTCHNOP_BIND_PIRQ, &value)
        }
    }
}

/// An event was sent without an error: it is pending at the other end, and that end's vCPU does not sleep.
pub(super) fn check_sent(world: &World, domain: &Arc<Domain>, port: u32) -> Result<(), Failure> {
    let hv = world.hv();
    let Ok(status) = radon_core::evtchn::status(domain, radon_core::types::Port(port)) else { return Ok(()) };
    let (target, port) = match status.status {
        ev::EVTCHNSTAT_INTERDOMAIN if status.peer as u16 != DOMID_SELF => {
            (hv.domains.get(DomainId(status.peer as u16)).ok(), status.peer_port)
        }
        ev::EVTCHNSTAT_INTERDOMAIN => (Some(domain.clone()), status.peer_port),
        ev::EVTCHNSTAT_IPI => (Some(domain.clone()), port),
        _ => return Ok(()),
    };
    let Some(target) = target else { return Ok(()) };
    let Ok(there) = radon_core::evtchn::status(&target, radon_core::types::Port(port)) else { return Ok(()) };
    let pending = radon_core::evtchn::is_pending(hv, &target, radon_core::types::Port(port));
    // A FIFO port beyond the array remembers the event until there is a word for it.
    if pending == Ok(false) && !target.events.is_fifo() {
        return Err(format!("an event sent to port {port} of {} is not pending", target.id));
    }
    let Some(vcpu) = target.vcpu(VcpuId(there.vcpu)) else { return Ok(()) };
    let chosen = world.models.get(&target.id.0).is_some_and(|m| m.has_callback);
    if chosen
        && !crate::world::has_own_vector(vcpu)
        && vcpu.sched.unit.is_blocked()
        && vcpu.events.upcall_pending(hv.platform.memory())
    {
        return Err(format!("{} sleeps though an event came at port {port}", vcpu.sched.unit));
    }
    Ok(())
}

/// Writes an entry of the domain's grant table.
fn grant_access(m: &mut Maker<'_>) -> u32 {
    let gref = m.rng.below(40) as u32;
    let Some(model) = m.world.models.get(&m.domain.id.0) else { return gref };
    let version = model.grant_version;
    let (domid, gfn) = (m.another_domain(), m.ram_gfn());
    let gfn = if m.rng.one_in(8) { m.some_gfn() } else { gfn };
    let flags = match m.rng.below(16) {
        0 => gt::GTF_INVALID,
        1..4 => gt::GTF_PERMIT_ACCESS | gt::GTF_READONLY,
        4 if version == 2 => gt::GTF_TRANSITIVE,
        5 if version == 2 => gt::GTF_PERMIT_ACCESS | gt::GTF_SUB_PAGE,
        6 => m.rng.next() as u16,
        _ => gt::GTF_PERMIT_ACCESS,
    };
    let head = u64::from(flags) | u64::from(domid) << 16;
    // Entries in use are left alone, as drivers do: seldom not.
    if version == 1 {
        let at = (WINDOW.start << 12) + u64::from(gref) * gt::GRANT_ENTRY_V1_SIZE;
        let used = m.world.load::<u16>(m.domain, at).unwrap_or(0) & (gt::GTF_READING | gt::GTF_WRITING) != 0;
        if !used || m.rng.one_in(16) {
            m.world.store(m.domain, at, &(head | (gfn & 0xffff_ffff) << 32));
        }
    } else {
        let at = (WINDOW.start << 12) + u64::from(gref) * gt::GRANT_ENTRY_V2_SIZE;
        let extra = if flags & gt::GTF_TYPE_MASK == gt::GTF_TRANSITIVE {
            u64::from(m.another_domain())
        } else {
            m.rng.below(2048) | m.rng.below(2048) << 16
        };
        let value = if flags & gt::GTF_TYPE_MASK == gt::GTF_TRANSITIVE { m.rng.below(40) } else { gfn };
        m.world.store(m.domain, at + 8, &value);
        m.world.store(m.domain, at, &(head | extra << 32));
    }
    gref
}

fn grant(m: &mut Maker<'_>) -> Call {
    let number = hypercall::GRANT_TABLE_OP;
    let count = |call: Call, n: u64| Call { args: [call.args[0], call.args[1], n, 0, 0, 0], ..call };
    // Each call is a chance to grant something, too.
    grant_access(m);
    match m.rng.below(32) {
        0..9 => {
            let flags = gt::GNTMAP_HOST_MAP | if m.rng.one_in(4) { gt::GNTMAP_READONLY } else { 0 };
            let host_addr = if m.rng.one_in(32) { m.ram_gfn() << 12 } else { m.window_gfn() << 12 };
            let (dom, gref) = (m.another_domain(), m.rng.below(40) as u32);
            let value = gt::MapGrantRef { host_addr, flags, gref, dom, ..Default::default() };
            let call = m.call(number, gt::GNTTABOP_MAP_GRANT_REF, &value);
            count(Call { after: After::Mapped, ..call }, 1)
        }
        9..17 => {
            let (handle, host_addr) = m.world.models.get(&m.domain.id.0).map_or((0, 0), |x| x.handles.pick(m.rng));
            let value = gt::UnmapGrantRef { host_addr, handle, ..Default::default() };
            let call = m.call(number, gt::GNTTABOP_UNMAP_GRANT_REF, &value);
            count(call, 1)
        }
        17 => {
            let frame_list = m.list();
            let value = gt::SetupTable {
                dom: if m.rng.one_in(2) { DOMID_SELF } else { m.some_domain() },
                nr_frames: m.rng.below(5) as u32,
                frame_list,
                ..Default::default()
            };
            let call = m.call(number, gt::GNTTABOP_SETUP_TABLE, &value);
            count(call, 1)
        }
        18..28 => {
            let side = |m: &mut Maker<'_>, granted: bool| {
                if granted {
                    gt::CopyPtr {
                        frame: m.rng.below(40),
                        domid: m.another_domain(),
                        offset: m.rng.below(2000) as u16,
                        _pad: 0,
                    }
                } else {
                    gt::CopyPtr { frame: m.ram_gfn(), domid: DOMID_SELF, offset: m.rng.below(2000) as u16, _pad: 0 }
                }
            };
            let (from, to) = (m.rng.one_in(2), m.rng.one_in(2));
            let flags = if from { gt::GNTCOPY_SOURCE_GREF } else { 0 } | if to { gt::GNTCOPY_DEST_GREF } else { 0 };
            let len = if m.rng.one_in(8) { m.rng.below(5000) as u16 } else { m.rng.below(100) as u16 };
            let (source, dest) = (side(m, from), side(m, to));
            let value = gt::GrantCopy { source, dest, len, flags, ..Default::default() };
            let call = m.call(number, gt::GNTTABOP_COPY, &value);
            count(call, 1)
        }
        28 => {
            let value = gt::QuerySize { dom: m.some_domain(), ..Default::default() };
            let call = m.call(number, gt::GNTTABOP_QUERY_SIZE, &value);
            count(call, 1)
        }
        29 => {
            let version = if m.rng.one_in(16) { m.rng.below(4) as u32 } else { 1 + m.rng.below(2) as u32 };
            let call = m.call(number, gt::GNTTABOP_SET_VERSION, &gt::SetVersion { version });
            count(Call { after: After::Version, ..call }, 1)
        }
        30 => {
            let value = gt::GetVersion { dom: m.some_domain(), ..Default::default() };
            let call = m.call(number, gt::GNTTABOP_GET_VERSION, &value);
            count(call, 1)
        }
        _ => {
            let (ref_a, ref_b) = (m.rng.below(40) as u32, m.rng.below(40) as u32);
            let call =
                m.call(number, gt::GNTTABOP_SWAP_GRANT_REF, &gt::SwapGrantRef { ref_a, ref_b, ..Default::default() });
            count(call, 1)
        }
    }
}

/// Extents in the list.
pub(super) fn reservation(m: &mut Maker<'_>, domid: u16, gfns: &[u64], extent_order: u32) -> mem::MemoryReservation {
    let extent_start = m.put_list(gfns);
    mem::MemoryReservation { extent_start, nr_extents: gfns.len() as u64, extent_order, domid, ..Default::default() }
}

fn memory(m: &mut Maker<'_>) -> Call {
    let number = hypercall::MEMORY_OP;
    match m.rng.below(32) {
        0..7 => {
            let gfns: Vec<u64> = (0..1 + m.rng.below(3)).map(|_| m.some_gfn()).collect();
            let value = reservation(m, DOMID_SELF, &gfns, 0);
            m.call(number, mem::XENMEM_DECREASE_RESERVATION, &value)
        }
        7..15 => {
            let (gfns, order): (Vec<u64>, u32) = if m.rng.one_in(24) {
                (vec![LARGE], 9)
            } else {
                ((0..1 + m.rng.below(4)).map(|_| m.some_gfn()).collect(), m.rng.pick(&[0, 0, 0, 0, 1, 3]))
            };
            let mut value = reservation(m, DOMID_SELF, &gfns, order);
            value.mem_flags = m.rng.pick(&[0, 0, 0, 0, 24, 1 << 8, 1 << 17 | 2 << 8]);
            m.call(number, mem::XENMEM_POPULATE_PHYSMAP, &value)
        }
        15..21 => {
            let space = m.rng.pick(&[mem::XENMAPSPACE_GMFN, mem::XENMAPSPACE_GMFN, 0, 1, 1, 3, 4, 5]);
            let idx = match space {
                mem::XENMAPSPACE_GRANT_TABLE => m.rng.pick(&[0, 1, 2, 3, 0x8000_0000, 0x8000_0001]),
                mem::XENMAPSPACE_SHARED_INFO => m.rng.below(8) / 7,
                _ => m.some_gfn(),
            };
            let gpfn = match (space, idx) {
                (mem::XENMAPSPACE_GRANT_TABLE, 0 | 1) => WINDOW.start + idx,
                (0 | 1, _) => m.window_gfn(),
                _ => m.some_gfn(),
            };
            let size = if space == mem::XENMAPSPACE_GMFN_RANGE { m.rng.below(8) as u16 } else { 0 };
            let value = mem::AddToPhysmap { domid: DOMID_SELF, size, space, idx, gpfn };
            m.call(number, mem::XENMEM_ADD_TO_PHYSMAP, &value)
        }
        21 => {
            let value = mem::RemoveFromPhysmap { domid: DOMID_SELF, gpfn: m.some_gfn(), ..Default::default() };
            m.call(number, mem::XENMEM_REMOVE_FROM_PHYSMAP, &value)
        }
        22 => {
            let value = mem::MemoryMap { nr_entries: m.rng.below(8) as u32, buffer: m.list(), ..Default::default() };
            m.call(number, mem::XENMEM_MEMORY_MAP, &value)
        }
        23 => {
            let (idxs, gpfns, errs) = (m.list(), m.list() + 64, m.list() + 128);
            let indices: Vec<u64> = (0..3).map(|_| m.some_gfn()).collect();
            let places: Vec<u64> = (0..3).map(|_| m.some_gfn()).collect();
            for (n, (index, place)) in (0..).zip(indices.iter().zip(&places)) {
                m.world.store(m.domain, idxs + n * 8, index);
                m.world.store(m.domain, gpfns + n * 8, place);
            }
            let value = mem::AddToPhysmapBatch {
                domid: DOMID_SELF,
                space: m.rng.pick(&[2, 2, 0, 1, 4]),
                size: m.rng.below(4) as u16,
                foreign_domid: m.another_domain(),
                idxs,
                gpfns,
                errs,
            };
            m.call(number, mem::XENMEM_ADD_TO_PHYSMAP_BATCH, &value)
        }
        24 => {
            let gfns = [m.some_gfn()];
            let value = reservation(m, DOMID_SELF, &gfns, 0);
            m.call(number, mem::XENMEM_INCREASE_RESERVATION, &value)
        }
        n => {
            let ask = [
                mem::XENMEM_MAXIMUM_RAM_PAGE,
                mem::XENMEM_CURRENT_RESERVATION,
                mem::XENMEM_MAXIMUM_RESERVATION,
                mem::XENMEM_MAXIMUM_GPFN,
                mem::XENMEM_GET_POD_TARGET,
                mem::XENMEM_RESERVED_DEVICE_MEMORY_MAP,
                mem::XENMEM_ACQUIRE_RESOURCE,
            ];
            let domid = m.some_domain();
            m.call(number, ask[(n - 25) as usize], &mem::AcquireResource { domid, ..Default::default() })
        }
    }
}

fn scheduling(m: &mut Maker<'_>) -> Call {
    let number = hypercall::SCHED_OP;
    match m.rng.below(32) {
        0..8 => plain(number, sched::SCHEDOP_YIELD),
        8..14 => plain(number, sched::SCHEDOP_BLOCK),
        14..22 => {
            let ports: Vec<u32> = (0..1 + m.rng.below(3)).map(|_| m.some_port()).collect();
            let list = m.put_list(&ports);
            let now = m.world.shared.machine.time();
            let timeout = if m.rng.one_in(4) { 0 } else { now + m.rng.below(2_000_000) };
            let value = sched::Poll { ports: list, nr_ports: ports.len() as u32, _pad: 0, timeout };
            m.call(number, sched::SCHEDOP_POLL, &value)
        }
        22..25 => {
            // dom0's would end the run.
            let unit = if m.domain.is_hardware() { 1 << 20 } else { 10 };
            let value = sched::Watchdog { id: m.rng.below(3) as u32, timeout: m.rng.below(4) as u32 * unit };
            m.call(number, sched::SCHEDOP_WATCHDOG, &value)
        }
        25 => m.call(number, sched::SCHEDOP_SHUTDOWN_CODE, &sched::Shutdown { reason: 2 }),
        // The null scheduler has one CPU for a vCPU: it could wait for ever.
        26 if m.world.config.credit2 => {
            let value = sched::PinOverride { pcpu: m.rng.below(6) as i32 - 1 };
            m.call(number, sched::SCHEDOP_PIN_OVERRIDE, &value)
        }
        27 if !m.domain.is_hardware() && m.rng.one_in(4) => {
            let value = sched::Shutdown { reason: m.rng.below(7) as u32 };
            m.call(number, sched::SCHEDOP_SHUTDOWN, &value)
        }
        28 => {
            let value = sched::RemoteShutdown { domain_id: m.another_domain(), _pad: 0, reason: m.rng.below(7) as u32 };
            // dom0 shuts others down as control operations.
            let value =
                if m.domain.is_hardware() { sched::RemoteShutdown { domain_id: 0x7fef, ..value } } else { value };
            m.call(number, sched::SCHEDOP_REMOTE_SHUTDOWN, &value)
        }
        _ => plain(number, m.rng.below(12) as u32 + 8),
    }
}

fn vcpu_op(m: &mut Maker<'_>) -> Call {
    let number = hypercall::VCPU_OP;
    let target = m.some_vcpu();
    let with = |m: &mut Maker<'_>, operation: u32| Call {
        args: [operation.into(), target.into(), m.at(), 0, 0, 0],
        ..plain(number, operation)
    };
    let now = m.world.shared.machine.time();
    match m.rng.below(16) {
        0 => {
            let mut regs = [0u8; 120];
            regs[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0]);
            let value = vcpu::HvmContext { mode: m.rng.below(3) as u32, pad: 0, regs };
            m.put(&value);
            with(m, vcpu::VCPUOP_INITIALISE)
        }
        1 | 2 => with(m, vcpu::VCPUOP_UP),
        // dom0's first vCPU stays: without any the machine is off.
        3 if m.rng.one_in(3) && !(m.domain.is_hardware() && target == 0) => with(m, vcpu::VCPUOP_DOWN),
        4 => with(m, vcpu::VCPUOP_IS_UP),
        5 => with(m, vcpu::VCPUOP_GET_RUNSTATE_INFO),
        6 => {
            let value = vcpu::RegisterArea { addr: (m.control_gfn() << 12) + m.rng.below(4096) };
            m.put(&value);
            with(m, vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA)
        }
        7 => {
            let value = vcpu::RegisterArea { addr: (m.control_gfn() << 12) + m.rng.below(4096) };
            m.put(&value);
            with(m, vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA)
        }
        8 => {
            let value = vcpu::SetPeriodicTimer { period_ns: m.rng.pick(&[1_000_000, 3_000_000, 10, 100_000_000]) };
            m.put(&value);
            with(m, vcpu::VCPUOP_SET_PERIODIC_TIMER)
        }
        9 => with(m, vcpu::VCPUOP_STOP_PERIODIC_TIMER),
        10 | 11 => {
            let timeout_abs_ns = (now + m.rng.below(3_000_000)).saturating_sub(500_000);
            let value = vcpu::SetSingleshotTimer { timeout_abs_ns, flags: m.rng.below(2) as u32, _pad: 0 };
            m.put(&value);
            with(m, vcpu::VCPUOP_SET_SINGLESHOT_TIMER)
        }
        12 => with(m, vcpu::VCPUOP_STOP_SINGLESHOT_TIMER),
        13 => {
            let value = vcpu::RegisterVcpuInfo { mfn: m.control_gfn(), offset: m.rng.below(70) as u32 * 64, rsvd: 0 };
            m.put(&value);
            with(m, vcpu::VCPUOP_REGISTER_VCPU_INFO)
        }
        14 => with(m, vcpu::VCPUOP_SEND_NMI),
        _ => with(m, vcpu::VCPUOP_GET_PHYSID),
    }
}

fn hvm_op(m: &mut Maker<'_>) -> Call {
    let number = hypercall::HVM_OP;
    let domid = m.some_domain();
    match m.rng.below(8) {
        0 => {
            let index = m.rng.below(40) as u32;
            // The way upcalls come stays as it was chosen.
            let index = if index == hvm::HVM_PARAM_CALLBACK_IRQ { 1 } else { index };
            let value = hvm::HvmParam { domid, index, value: m.rng.hostile(), ..Default::default() };
            m.call(number, hvm::HVMOP_SET_PARAM, &value)
        }
        1 | 2 => {
            let value = hvm::HvmParam { domid, index: m.rng.below(40) as u32, ..Default::default() };
            m.call(number, hvm::HVMOP_GET_PARAM, &value)
        }
        3 => Call { args: [hvm::HVMOP_FLUSH_TLBS.into(), 0, 0, 0, 0, 0], ..plain(number, hvm::HVMOP_FLUSH_TLBS) },
        4 => m.call(number, hvm::HVMOP_GET_TIME, &hvm::HvmGetTime::default()),
        5 => {
            let value = hvm::HvmGetMemType { domid, pfn: m.some_gfn(), ..Default::default() };
            m.call(number, hvm::HVMOP_GET_MEM_TYPE, &value)
        }
        6 => {
            let value =
                hvm::HvmEvtchnUpcallVector { vcpu: m.some_vcpu(), vector: m.rng.next() as u8, ..Default::default() };
            m.call(number, hvm::HVMOP_SET_EVTCHN_UPCALL_VECTOR, &value)
        }
        _ => {
            let operation = m.rng.pick(&[hvm::HVMOP_XENTRACE, hvm::HVMOP_GUEST_REQUEST_VM_EVENT, 2, 9, 12, 25]);
            let value = [m.rng.below(8); 4];
            m.call(number, operation, &value)
        }
    }
}

fn version(m: &mut Maker<'_>) -> Call {
    let operation = m.rng.below(12) as u32;
    let value = [m.rng.below(8); 4];
    m.call(hypercall::XEN_VERSION, operation, &value)
}

fn console(m: &mut Maker<'_>) -> Call {
    let operation = m.rng.below(3) as u32;
    let (count, at) = (m.rng.below(300), m.list());
    Call { args: [operation.into(), count, at, 0, 0, 0], ..plain(hypercall::CONSOLE_IO, operation) }
}

/// Several calls in one.
fn multicall(m: &mut Maker<'_>) -> Call {
    let entries = 1 + m.rng.below(5);
    for n in 0..entries {
        let call = match m.rng.below(4) {
            0 => plain(hypercall::XEN_VERSION, 0),
            1 => plain(hypercall::SCHED_OP, m.rng.below(2) as u32),
            2 => event_channel(m),
            _ => grant(m),
        };
        let mut entry = [0u64; 8];
        entry[0] = call.number.into();
        entry[2..8].copy_from_slice(&call.args);
        let at = m.list() + n * 64;
        m.world.store(m.domain, at, &entry);
    }
    Call { args: [m.list(), entries, 0, 0, 0, 0], ..plain(hypercall::MULTICALL, 0) }
}

/// Any call of any number with any arguments, structures included.
fn anything(m: &mut Maker<'_>) -> Call {
    let call = m.rng.pick(radon_core::hypercall::HYPERCALLS.iter().map(|c| c.number).collect::<Vec<_>>().as_slice());
    let number = if m.rng.one_in(8) { m.rng.below(66) as u32 } else { call };
    let privileged = matches!(number, hypercall::DOMCTL | hypercall::SYSCTL | hypercall::PLATFORM_OP);
    // What would stop the machine, or is chosen with care elsewhere.
    let chosen = matches!(number, hypercall::SCHED_OP | hypercall::MEMORY_OP | hypercall::MULTICALL);
    if m.domain.is_hardware() && (privileged || chosen) {
        return version(m);
    }
    let operation = m.rng.below(32) as u32;
    let words: [u64; 8] =
        std::array::from_fn(|_| m.rng.hostile()).map(|w| if (8 << 12..16 << 12).contains(&w) { 1 } else { w });
    let at = m.put(&words);
    let args = [operation.into(), at, m.rng.below(4), m.rng.hostile(), 0, 0];
    Call { args, hostile: true, ..plain(number, operation) }
}
