//! What changes bindings: allocating, binding, closing, the switch to the FIFO ABI, reset and destruction.

use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{
    EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN, EVTCHNSTAT_CLOSED, EVTCHNSTAT_INTERDOMAIN, EVTCHNSTAT_IPI,
    EVTCHNSTAT_UNBOUND, EVTCHNSTAT_VIRQ, FifoControlBlock, Status,
};
use radon_abi::xen::NR_VIRQS;

use super::channel::{Binding, Channel};
use super::fifo::{ARRAY_PAGES, WORDS_PER_PAGE};
use super::table::Table;
use super::vcpu::field;
use super::{Consumer, Pin, deliver, fifo, set_pending, tell, two_level, virq_is_global};
use crate::sync::atomic::Ordering;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::sync::lock_pair;
use crate::types::{DomainId, PAGE_SIZE, Port, VcpuId};

/// Attempts to lock both ends of a channel whose other end changes meanwhile.
const CLOSE_ATTEMPTS: u32 = 16;

/// Allocates a port of `domain` that waits for domain `remote` to bind to it.
///
/// # Errors
/// `ENOSPC`: no port left. `EINVAL`: the domain is being destroyed. `ENOMEM`.
pub fn alloc_unbound(hv: &Hypervisor, domain: &Arc<Domain>, remote: DomainId) -> Result<Port, Errno> {
    bind(hv, domain, VcpuId(0), Binding::Unbound { remote }, None)
}

/// As [`alloc_unbound`], but the hypervisor holds the port: events that arrive at it go to `consumer`, and the guest
/// can neither close it nor send through it. The hypervisor sends with [`super::notify`] and closes with
/// [`close_for_hypervisor`].
///
/// # Errors
/// As [`alloc_unbound`].
pub fn alloc_unbound_for_hypervisor(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    remote: DomainId,
    consumer: Arc<dyn Consumer>,
) -> Result<Port, Errno> {
    bind(hv, domain, VcpuId(0), Binding::Unbound { remote }, Some(consumer))
}

/// Binds a fresh port to an inter-processor interrupt of `vcpu`.
///
/// # Errors
/// `ENOENT`: no such vCPU. Else as [`alloc_unbound`].
pub fn bind_ipi(hv: &Hypervisor, domain: &Arc<Domain>, vcpu: VcpuId) -> Result<Port, Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    bind(hv, domain, vcpu, Binding::Ipi, None)
}

/// Allocates a port and binds it.
fn bind(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    vcpu: VcpuId,
    binding: Binding,
    consumer: Option<Arc<dyn Consumer>>,
) -> Result<Port, Errno> {
    let mut table = domain.events.table.lock();
    let (port, channel) = table.allocate(hv, domain)?;
    if consumer.is_some() {
        table.consumers = table.consumers.saturating_add(1);
    }
    let mut state = channel.state.lock();
    state.binding = binding;
    state.vcpu = vcpu;
    state.consumer = consumer;
    Ok(port)
}

/// Binds a fresh port to a virtual interrupt.
///
/// # Errors
/// `EINVAL`: no such virtual interrupt, or a global one on a vCPU other than 0. `ENOENT`: no such vCPU. `EEXIST`: it is
/// bound. Else as [`alloc_unbound`].
pub fn bind_virq(hv: &Hypervisor, domain: &Arc<Domain>, virq: u32, vcpu: VcpuId) -> Result<Port, Errno> {
    if virq >= NR_VIRQS || (virq_is_global(virq) && vcpu != VcpuId(0)) {
        return Err(Errno::EINVAL);
    }
    let slot = domain.vcpu(vcpu).ok_or(Errno::ENOENT)?.events.virqs.get(virq as usize).ok_or(Errno::EINVAL)?;
    let mut table = domain.events.table.lock();
    if slot.load(Ordering::Acquire) != 0 {
        return Err(Errno::EEXIST);
    }
    let (port, channel) = table.allocate(hv, domain)?;
    let mut state = channel.state.lock();
    state.binding = Binding::Virq { virq };
    state.vcpu = vcpu;
    slot.store(port.0, Ordering::Release);
    Ok(port)
}

/// Connects a fresh port of `domain` to a port of `remote` that waits for it. The new port gets an event at once, since
/// some may have been sent before there was a connection.
///
/// # Errors
/// `EINVAL`: the remote port does not wait for this domain. Else as [`alloc_unbound`].
pub fn bind_interdomain(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    remote: &Arc<Domain>,
    remote_port: Port,
) -> Result<Port, Errno> {
    let (mut table, remote_table) = lock_pair(&domain.events.table, &remote.events.table);
    let (port, channel) = table.allocate(hv, domain)?;
    if let Err(errno) = connect(domain, port, remote, remote_port) {
        table.release(port);
        return Err(errno);
    }
    let mut state = channel.state.lock();
    state.binding = Binding::Interdomain { remote: Arc::downgrade(remote), remote_id: remote.id, remote_port };
    drop((table, remote_table));
    deliver(hv, domain, port, state);
    Ok(port)
}

/// Makes a waiting port name `port` of `domain` as its other end. Under both tables' locks.
fn connect(domain: &Arc<Domain>, port: Port, remote: &Arc<Domain>, remote_port: Port) -> Result<(), Errno> {
    let mut state = remote.events.channel(remote_port)?.state.lock();
    match state.binding {
        Binding::Unbound { remote } if remote == domain.id => {}
        _ => return Err(Errno::EINVAL),
    }
    state.binding = Binding::Interdomain { remote: Arc::downgrade(domain), remote_id: domain.id, remote_port: port };
    Ok(())
}

/// Closes a port. The other end of an interdomain channel goes back to waiting for this domain.
///
/// # Errors
/// `EINVAL`: the port is not in use, or the hypervisor holds it. `EAGAIN`: the other end changes hands all the time.
pub fn close(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    close_any(hv, domain, port, Some(false))
}

/// Closes a port that the hypervisor holds in the name of `domain`.
///
/// # Errors
/// `EINVAL`: the port is not in use, or the guest holds it. `EAGAIN` as [`close`].
pub fn close_for_hypervisor(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    close_any(hv, domain, port, Some(true))
}

/// Closes a port; `hypervisors` says whether it has to be one that the hypervisor holds (`None`: either).
fn close_any(hv: &Hypervisor, domain: &Arc<Domain>, port: Port, hypervisors: Option<bool>) -> Result<(), Errno> {
    let channel = domain.events.channel(port)?;
    for _ in 0..CLOSE_ATTEMPTS {
        let peer = match &channel.state.lock().binding {
            Binding::Interdomain { remote, .. } => remote.upgrade(),
            _ => None,
        };
        // Dropped after the guards: the other domain may go with this reference.
        let other = peer.as_ref().unwrap_or(domain);
        let (mut table, other_table) = lock_pair(&domain.events.table, &other.events.table);
        let binding = {
            let state = channel.state.lock();
            if hypervisors.is_some_and(|h| h != state.consumer.is_some()) {
                return Err(Errno::EINVAL);
            }
            state.binding.clone()
        };
        match binding {
            Binding::Free => return Err(Errno::EINVAL),
            Binding::Interdomain { remote, remote_port, .. } => match remote.upgrade() {
                Some(now) if Arc::ptr_eq(&now, other) => disconnect(domain, port, &now, remote_port),
                // Bound to another domain since we looked.
                Some(_) => continue,
                None => {}
            },
            Binding::Virq { virq } => {
                for vcpu in domain.vcpus() {
                    if let Some(slot) = vcpu.events.virqs.get(virq as usize) {
                        // Fails if it is another port's.
                        let _ = slot.compare_exchange(port.0, 0, Ordering::AcqRel, Ordering::Relaxed);
                    }
                }
            }
            Binding::Unbound { .. } | Binding::Ipi => {}
        }
        release(hv, domain, &mut table, port, channel);
        drop(other_table);
        return Ok(());
    }
    Err(Errno::EAGAIN)
}

/// The other end of a channel that is being closed waits for this domain again. Under both tables' locks.
fn disconnect(domain: &Arc<Domain>, port: Port, remote: &Arc<Domain>, remote_port: Port) {
    let Ok(channel) = remote.events.channel(remote_port) else { return };
    let mut state = channel.state.lock();
    match state.binding {
        Binding::Interdomain { remote_id, remote_port, .. } if remote_id == domain.id && remote_port == port => {
            state.binding = Binding::Unbound { remote: domain.id };
        }
        _ => {}
    }
}

/// Frees a port whose binding was dissolved.
fn release(hv: &Hypervisor, domain: &Domain, table: &mut Table, port: Port, channel: &Channel) {
    let memory = hv.platform.memory();
    let mut state = channel.state.lock();
    if state.consumer.is_some() {
        table.consumers = table.consumers.saturating_sub(1);
    }
    // A later user of the port starts without an old event.
    if domain.events.is_fifo() {
        fifo::clear_pending(memory, domain, port);
    } else {
        two_level::clear_pending(memory, domain, port);
    }
    state.free();
    table.release(port);
}

/// Makes a port notify another vCPU.
///
/// # Errors
/// `ENOENT`: no such vCPU. `EINVAL`: no such port, one that the hypervisor holds, or one whose vCPU is fixed (IPIs,
/// virtual interrupts of a vCPU).
pub fn bind_vcpu(domain: &Arc<Domain>, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let mut state = domain.events.channel(port)?.state.lock();
    if state.consumer.is_some() {
        return Err(Errno::EINVAL);
    }
    match state.binding {
        Binding::Unbound { .. } | Binding::Interdomain { .. } => {}
        Binding::Virq { virq } if virq_is_global(virq) => {}
        _ => return Err(Errno::EINVAL),
    }
    state.vcpu = vcpu;
    Ok(())
}

/// What a port is bound to, in the ABI's words. `dom` is the caller's to fill in.
///
/// # Errors
/// `EINVAL`: no such port.
pub fn status(domain: &Arc<Domain>, port: Port) -> Result<Status, Errno> {
    let state = domain.events.channel(port)?.state.lock();
    let mut status = Status { port: port.0, ..Status::default() };
    (status.status, status.peer, status.peer_port) = match &state.binding {
        Binding::Free => (EVTCHNSTAT_CLOSED, 0, 0),
        Binding::Unbound { remote } => (EVTCHNSTAT_UNBOUND, u32::from(remote.0), 0),
        Binding::Interdomain { remote_id, remote_port, .. } => {
            (EVTCHNSTAT_INTERDOMAIN, u32::from(remote_id.0), remote_port.0)
        }
        Binding::Virq { virq } => (EVTCHNSTAT_VIRQ, *virq, 0),
        Binding::Ipi => (EVTCHNSTAT_IPI, 0, 0),
    };
    status.vcpu = state.vcpu.0;
    Ok(status)
}

/// Gives a vCPU a FIFO control block at `offset` within a frame. The domain's first switches it to the FIFO ABI, and
/// events pending by then become pending there as the guest provides the event array. The frame is kept on success and
/// given back on failure.
///
/// # Errors
/// `ENOENT`: no such vCPU. `EINVAL`: the block does not fit the frame at `offset`, is not aligned to 8 bytes, or the
/// vCPU has one. `ENOMEM`.
pub fn init_control(hv: &Hypervisor, domain: &Arc<Domain>, vcpu: VcpuId, frame: Pin, offset: u32) -> Result<(), Errno> {
    match try_init_control(hv, domain, vcpu, frame, offset) {
        Ok(()) => Ok(()),
        Err((errno, frame)) => {
            frame.release(hv);
            Err(errno)
        }
    }
}

fn try_init_control(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    vcpu: VcpuId,
    frame: Pin,
    offset: u32,
) -> Result<(), (Errno, Pin)> {
    let Some(vcpu) = domain.vcpu(vcpu) else { return Err((Errno::ENOENT, frame)) };
    let last = PAGE_SIZE.saturating_sub(size_of::<FifoControlBlock>() as u64);
    if u64::from(offset) > last || !offset.is_multiple_of(8) {
        return Err((Errno::EINVAL, frame));
    }
    let mut table = domain.events.table.lock();
    if table.dying || vcpu.events.queues.has_control() {
        return Err((Errno::EINVAL, frame));
    }
    if table.controls.try_reserve(1).is_err() || domain.events.array.prepare().is_err() {
        return Err((Errno::ENOMEM, frame));
    }
    vcpu.events.queues.set_control(field(frame.mfn().addr(), u64::from(offset)));
    table.controls.push(frame);
    if !domain.events.is_fifo() {
        domain.events.array.activate();
        let memory = hv.platform.memory();
        for port in table.open_ports() {
            let Some(channel) = domain.events.channels.get(port) else { continue };
            let mut state = channel.state.lock();
            // There is no event word yet: remember what is pending until there is one, and what has come since FIFO is on.
            state.missed |= two_level::is_pending(memory, domain, port);
            state.priority = EVTCHN_FIFO_PRIORITY_DEFAULT as u8;
        }
    }
    Ok(())
}

/// Adds the next frame to a domain's FIFO event array. Events that came for its ports before become pending. The frame
/// is kept on success and given back on failure.
///
/// # Errors
/// `EOPNOTSUPP`: the domain does not use the FIFO ABI. `ENOSPC`: the array is complete. `ENOMEM`.
pub fn expand_array(hv: &Hypervisor, domain: &Arc<Domain>, frame: Pin) -> Result<(), Errno> {
    let mut table = domain.events.table.lock();
    let slot = table.array.len();
    let refused = if table.dying {
        Some(Errno::EINVAL)
    } else if !domain.events.is_fifo() {
        Some(Errno::EOPNOTSUPP)
    } else if slot >= ARRAY_PAGES {
        Some(Errno::ENOSPC)
    } else {
        table.array.try_reserve(1).err().map(|_| Errno::ENOMEM)
    };
    if let Some(errno) = refused {
        drop(table);
        frame.release(hv);
        return Err(errno);
    }
    domain.events.array.set_page(slot, frame.mfn());
    table.array.push(frame);
    let first = (slot as u32).saturating_mul(WORDS_PER_PAGE);
    for n in 0..WORDS_PER_PAGE {
        let port = Port(first.saturating_add(n));
        let Some(channel) = domain.events.channels.get(port) else { continue };
        let mut state = channel.state.lock();
        if state.is_guests() && core::mem::take(&mut state.missed) {
            let news = set_pending(hv, domain, port, &mut state);
            let vcpu = state.vcpu;
            drop(state);
            tell(hv, domain, port, vcpu, news);
        }
    }
    Ok(())
}

/// Sets a port's priority, 0 (highest) to 15. Takes effect when the event is queued next.
///
/// # Errors
/// `EINVAL`: no such port or priority. `ENOSYS`: the domain does not use the FIFO ABI.
pub fn set_priority(domain: &Arc<Domain>, port: Port, priority: u32) -> Result<(), Errno> {
    let mut state = domain.events.channel(port)?.state.lock();
    if !domain.events.is_fifo() {
        return Err(Errno::ENOSYS);
    }
    if priority > EVTCHN_FIFO_PRIORITY_MIN {
        return Err(Errno::EINVAL);
    }
    state.priority = priority as u8;
    Ok(())
}

/// Closes all ports that the guest holds and goes back to the 2-level ABI. `spend` is asked before each port; once it
/// says no, the result is `false` and the caller comes back with `resumed` set.
///
/// # Errors
/// `EBUSY`: another reset is under way (and this call does not resume it). `EAGAIN`: ports came up meanwhile.
pub fn reset(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    resumed: bool,
    mut spend: impl FnMut() -> bool,
) -> Result<bool, Errno> {
    let mut next = {
        let table = domain.events.table.lock();
        if table.reset_next != 0 && !resumed {
            return Err(Errno::EBUSY);
        }
        Port(table.reset_next.max(1))
    };
    loop {
        let open = domain.events.table.lock().open_from(next);
        let Some(port) = open else { break };
        if !spend() {
            domain.events.table.lock().reset_next = port.0;
            return Ok(false);
        }
        // Ports that the hypervisor holds stay.
        let _ = close(hv, domain, port);
        next = Port(port.0.saturating_add(1));
    }
    let mut table = domain.events.table.lock();
    table.reset_next = 0;
    if table.open > table.consumers {
        return Err(Errno::EAGAIN);
    }
    let pins = leave_fifo(domain, &mut table);
    drop(table);
    give_back(hv, pins);
    Ok(true)
}

/// Frames that event delivery no longer writes to.
type Released = (alloc::vec::Vec<Pin>, alloc::vec::Vec<Pin>);

/// Goes back to the 2-level ABI. No channel is open but the hypervisor's, at which nothing becomes pending.
fn leave_fifo(domain: &Arc<Domain>, table: &mut Table) -> Released {
    domain.events.array.reset();
    for vcpu in domain.vcpus() {
        vcpu.events.queues.reset();
    }
    (core::mem::take(&mut table.array), core::mem::take(&mut table.controls))
}

fn give_back(hv: &Hypervisor, (array, controls): Released) {
    for pin in array.into_iter().chain(controls) {
        pin.release(hv);
    }
}

/// Closes all ports of a domain that is being destroyed, the hypervisor's included, and gives back all frames that events
/// were written to. New ports are refused from the first call on. `spend` is asked before each port; once it says no,
/// the result is `false` and the caller comes back later. The domain's vCPUs do not run.
pub fn destroy(hv: &Hypervisor, domain: &Arc<Domain>, mut spend: impl FnMut() -> bool) -> bool {
    domain.events.table.lock().dying = true;
    let mut next = Port(1);
    loop {
        let open = domain.events.table.lock().open_from(next);
        let Some(port) = open else { break };
        if !spend() {
            return false;
        }
        if close_any(hv, domain, port, None) != Err(Errno::EAGAIN) {
            next = Port(port.0.saturating_add(1));
        }
    }
    let pins = leave_fifo(domain, &mut domain.events.table.lock());
    give_back(hv, pins);
    for vcpu in domain.vcpus() {
        vcpu.events.unregister_info(hv, domain, vcpu.id);
    }
    true
}

/// Makes a domain the handler of a global virtual interrupt, in dom0's place.
///
/// # Errors
/// `EINVAL`: no such virtual interrupt, or not a global one. `ESRCH`: there is no dom0.
pub fn set_virq_handler(hv: &Hypervisor, domain: &Arc<Domain>, virq: u32) -> Result<(), Errno> {
    if virq >= NR_VIRQS || !virq_is_global(virq) {
        return Err(Errno::EINVAL);
    }
    let hardware = hv.domains.get(DomainId(0))?;
    let handler = (!Arc::ptr_eq(&hardware, domain)).then(|| Arc::downgrade(domain));
    hardware.events.table.lock().set_virq_handler(virq, handler);
    Ok(())
}
