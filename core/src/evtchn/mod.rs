//! Event channels: how domains notify each other, and the hypervisor notifies them.
//!
//! A port is a domain's name for one end of a channel. An end is bound to a port of another domain, to a virtual
//! interrupt or to an inter-processor interrupt. An event that arrives at a port is made *pending* in memory shared with
//! the guest, by one of two ABIs (`two_level`, `fifo`), and the vCPU that the port names is told.
//!
//! This module may touch the domain's shared information page, the frames that the guest registered for events
//! ([`Pin`]) and, through [`crate::platform::ArchVcpu::raise_upcall`] and [`Vcpu::notify`], the vCPU.
//!
//! Lock protocol. A domain's `Table` ([`Rank::EventChannel`]) says which ports are in use; each channel has a small
//! lock of its own ([`Rank::Channel`]). Bindings change only under both, and under the tables of both domains for an
//! interdomain channel (taken together with [`crate::sync::lock_pair`]). Sending takes channel locks only, one at a
//! time: first that of the sender's end, to learn the other end, then that of the other end, which has to name the
//! sender's end still. An end that was closed or bound anew in between swallows the event, as if it had been sent after.
//! No channel's lock is held while a vCPU or an in-hypervisor consumer is told.
//!
//! Invariant: memory that belongs to the guest is touched only for an open channel that the guest holds, under its lock,
//! or under the table lock. Closing all of these channels therefore makes it safe to give the memory back.

mod bind;
mod channel;
mod fifo;
#[cfg(any(test, feature = "testing"))]
mod inspect;
mod ops;
mod pin;
mod table;
#[cfg(test)]
mod tests;
mod two_level;
mod vcpu;

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use alloc::sync::Arc;
use core::fmt;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{EVTCHN_FIFO_MASKED, EVTCHN_FIFO_PENDING};
use radon_abi::xen::{NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU};

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::sync::{Guard, Lock, Rank};
use crate::types::{DomainId, Port, VcpuId};
use crate::vcpu::Vcpu;
use channel::{Binding, Channel, ChannelState, Channels};
use fifo::{EventArray, News};
use table::Table;

pub use bind::{
    alloc_unbound, alloc_unbound_for_hypervisor, bind_interdomain, bind_ipi, bind_vcpu, bind_virq, close,
    close_for_hypervisor, destroy, expand_array, init_control, reset, set_priority, set_virq_handler, status,
};
pub use ops::{OPERATIONS, event_channel_op};
pub use pin::Pin;
pub use vcpu::VcpuEvents;

/// A part of the hypervisor that has an event channel's end of its own, in the name of a domain: it is called for each
/// event that arrives there. No locks are held during the call; the channel may have been closed meanwhile.
pub trait Consumer: Send + Sync {
    /// An event arrived at `port` of `domain`.
    fn notify(&self, hv: &Hypervisor, domain: &Arc<Domain>, port: Port);
}

/// A domain's event channels.
pub struct EventChannels {
    /// What is open; see the module's lock protocol.
    table: Lock<Table>,
    /// The channels themselves, found without a lock.
    channels: Channels,
    /// FIFO ABI: the event array.
    array: EventArray,
    /// Whether the guest's shared pages have the 32-bit layout.
    compat: AtomicBool,
    /// vCPUs in `SCHEDOP_poll`.
    pollers: AtomicU32,
}

impl Default for EventChannels {
    fn default() -> Self {
        EventChannels::new()
    }
}

impl EventChannels {
    /// None open.
    #[must_use]
    pub fn new() -> Self {
        EventChannels {
            table: Lock::new(Rank::EventChannel, Table::new()),
            channels: Channels::new(),
            array: EventArray::new(),
            compat: AtomicBool::new(false),
            pollers: AtomicU32::new(0),
        }
    }

    /// Limits the domain's ports: `port` is the highest that it can get (`max_evtchn_port` at domain creation).
    pub fn set_max_port(&self, port: u32) {
        self.table.lock().max_port = port;
    }

    /// Whether the guest's shared information page and `vcpu_info` have the layout of 32-bit guests.
    #[must_use]
    pub fn is_compat(&self) -> bool {
        self.compat.load(Ordering::Relaxed)
    }

    /// Chooses the layout of the shared information page, when the guest says what it is (it sets its callback, or
    /// writes the hypercall page) in 32-bit or 64-bit mode. Pending events are not converted.
    pub fn set_compat(&self, compat: bool) {
        self.compat.store(compat, Ordering::Relaxed);
    }

    /// Whether the guest uses the FIFO ABI.
    #[must_use]
    pub fn is_fifo(&self) -> bool {
        self.array.is_active()
    }

    /// The channel of a port that is within what was ever allocated.
    fn channel(&self, port: Port) -> Result<&Channel, Errno> {
        self.channels.get(port).ok_or(Errno::EINVAL)
    }
}

/// Whether a virtual interrupt exists once per domain (bound on vCPU 0) rather than once per vCPU.
#[must_use]
pub const fn virq_is_global(virq: u32) -> bool {
    !matches!(virq, VIRQ_TIMER | VIRQ_DEBUG | VIRQ_XENOPROF | VIRQ_XENPMU)
}

/// Sends an event through a domain's port to whatever it is bound to (`EVTCHNOP_send`). A port that waits for its
/// connection swallows it.
///
/// # Errors
/// `EINVAL`: no such port, one that receives only, or one that the hypervisor itself holds.
pub fn send(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    send_from(hv, domain, port, false)
}

/// Sends an event through a port that the hypervisor holds in the name of `domain` (see
/// [`alloc_unbound_for_hypervisor`]).
///
/// # Errors
/// `EINVAL`: no such port.
pub fn notify(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    send_from(hv, domain, port, true)
}

fn send_from(hv: &Hypervisor, domain: &Arc<Domain>, port: Port, as_hypervisor: bool) -> Result<(), Errno> {
    let state = domain.events.channel(port)?.state.lock();
    if state.consumer.is_some() != as_hypervisor {
        return Err(Errno::EINVAL);
    }
    match &state.binding {
        Binding::Interdomain { remote, remote_port, .. } => {
            let (remote, remote_port) = (remote.upgrade(), *remote_port);
            drop(state);
            if let Some(remote) = remote {
                arrive(hv, &remote, remote_port, domain.id, port);
            }
            Ok(())
        }
        Binding::Ipi => {
            deliver(hv, domain, port, state);
            Ok(())
        }
        Binding::Unbound { .. } => Ok(()),
        Binding::Free | Binding::Virq { .. } => Err(Errno::EINVAL),
    }
}

/// An event from another port arrives at this one, if the two are connected still.
fn arrive(hv: &Hypervisor, domain: &Arc<Domain>, port: Port, from: DomainId, from_port: Port) {
    let Ok(channel) = domain.events.channel(port) else { return };
    let state = channel.state.lock();
    match state.binding {
        Binding::Interdomain { remote_id, remote_port, .. } if remote_id == from && remote_port == from_port => {}
        _ => return,
    }
    if let Some(consumer) = state.consumer.clone() {
        drop(state);
        consumer.notify(hv, domain, port);
    } else {
        deliver(hv, domain, port, state);
    }
}

/// Makes an open channel's event pending and tells its vCPU, with the channel unlocked again.
fn deliver(hv: &Hypervisor, domain: &Arc<Domain>, port: Port, mut state: Guard<'_, ChannelState>) {
    let news = set_pending(hv, domain, port, &mut state);
    let vcpu = state.vcpu;
    drop(state);
    tell(hv, domain, port, vcpu, news);
}

/// Makes an event pending by the domain's ABI.
fn set_pending(hv: &Hypervisor, domain: &Domain, port: Port, state: &mut ChannelState) -> News {
    let memory = hv.platform.memory();
    if domain.events.is_fifo() {
        fifo::set_pending(memory, domain, port, state)
    } else {
        two_level::set_pending(memory, domain, port, state)
    }
}

/// Tells a vCPU, and those that poll, of news. No channel's lock is held.
fn tell(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: VcpuId, news: News) {
    if news.upcall
        && let Some(vcpu) = domain.vcpu(vcpu)
    {
        vcpu.arch.raise_upcall();
        vcpu.notify(hv);
    }
    if news.first && domain.events.pollers.load(Ordering::SeqCst) != 0 {
        for vcpu in domain.vcpus() {
            if vcpu.events.end_poll_of(domain, port) {
                vcpu.notify(hv);
            }
        }
    }
}

/// Unmasks a port, and tells its vCPU if an event is pending there (`EVTCHNOP_unmask`).
///
/// # Errors
/// `EINVAL`: no such port.
pub fn unmask(hv: &Hypervisor, domain: &Arc<Domain>, port: Port) -> Result<(), Errno> {
    let mut state = domain.events.channel(port)?.state.lock();
    if !state.is_guests() {
        return Ok(());
    }
    let memory = hv.platform.memory();
    let news = if domain.events.is_fifo() {
        fifo::unmask(memory, domain, port, &mut state)
    } else {
        two_level::unmask(memory, domain, port, &state)
    };
    let vcpu = state.vcpu;
    drop(state);
    tell(hv, domain, port, vcpu, news);
    Ok(())
}

/// Whether an event is pending at a port, for `SCHEDOP_poll`. See [`VcpuEvents::begin_poll`].
///
/// # Errors
/// `EINVAL`: no such port.
pub fn is_pending(hv: &Hypervisor, domain: &Domain, port: Port) -> Result<bool, Errno> {
    let state = domain.events.channel(port)?.state.lock();
    Ok(state.is_guests() && pending_and_masked(hv, domain, port).0)
}

/// Whether an event is pending, and whether it is masked. The caller holds the channel's lock and the channel is open.
fn pending_and_masked(hv: &Hypervisor, domain: &Domain, port: Port) -> (bool, bool) {
    let memory = hv.platform.memory();
    if domain.events.is_fifo() {
        let word = fifo::word_value(memory, domain, port);
        (word & EVTCHN_FIFO_PENDING != 0, word & EVTCHN_FIFO_MASKED != 0)
    } else {
        (two_level::is_pending(memory, domain, port), two_level::is_masked(memory, domain, port))
    }
}

/// Raises a virtual interrupt of one vCPU ([`VIRQ_TIMER`], ...), if the guest has bound it.
pub fn send_vcpu_virq(hv: &Hypervisor, vcpu: &Vcpu, virq: u32) {
    if let Some(domain) = vcpu.domain() {
        raise_virq(hv, &domain, vcpu, virq);
    }
}

/// Raises a vCPU's [`VIRQ_TIMER`], if the guest has bound it.
pub fn send_timer_virq(hv: &Hypervisor, vcpu: &Vcpu) {
    send_vcpu_virq(hv, vcpu, VIRQ_TIMER);
}

/// Raises a global virtual interrupt in one domain, if the guest has bound it.
pub fn send_domain_virq(hv: &Hypervisor, domain: &Arc<Domain>, virq: u32) {
    // The port is kept with vCPU 0, whichever vCPU it notifies.
    if let Some(vcpu) = domain.vcpu(VcpuId(0)) {
        raise_virq(hv, domain, vcpu, virq);
    }
}

/// Raises a global virtual interrupt in the domain that handles it: dom0, unless [`set_virq_handler`] named another.
/// Takes the lock of the domain list, so no lock may be held.
pub fn send_global_virq(hv: &Hypervisor, virq: u32) {
    let Ok(hardware) = hv.domains.get(DomainId(0)) else { return };
    let handler = hardware.events.table.lock().virq_handler(virq);
    let handler = handler.filter(|d| !d.events.table.lock().dying);
    send_domain_virq(hv, handler.as_ref().unwrap_or(&hardware), virq);
}

fn raise_virq(hv: &Hypervisor, domain: &Arc<Domain>, vcpu: &Vcpu, virq: u32) {
    let Some(port) = vcpu.events.virqs.get(virq as usize) else { return };
    let port = Port(port.load(Ordering::Acquire));
    let Some(channel) = domain.events.channels.get(port) else { return };
    let state = channel.state.lock();
    if matches!(state.binding, Binding::Virq { virq: bound } if bound == virq) {
        deliver(hv, domain, port, state);
    }
}

/// Writes one line per open channel of a domain to `line`, for the debug key `e`. Holds the table lock meanwhile, so
/// `line` may take locks of higher rank only.
pub fn dump(hv: &Hypervisor, domain: &Domain, line: &mut dyn FnMut(fmt::Arguments<'_>)) {
    let table = domain.events.table.lock();
    let abi = if domain.events.is_fifo() { "FIFO" } else { "2-level" };
    line(format_args!("Event channel information for domain {} ({abi}):", domain.id.0));
    for port in table.open_ports() {
        let Some(channel) = domain.events.channels.get(port) else { continue };
        let state = channel.state.lock();
        let (pending, masked) = pending_and_masked(hv, domain, port);
        let (p, m) = (u8::from(pending), u8::from(masked));
        let (vcpu, x) = (state.vcpu.0, if state.consumer.is_some() { " x" } else { "" });
        match &state.binding {
            Binding::Free => {}
            Binding::Unbound { remote } => {
                line(format_args!("{:5} [{p}/{m}]: unbound v={vcpu} d={}{x}", port.0, remote.0));
            }
            Binding::Interdomain { remote_id, remote_port, .. } => line(format_args!(
                "{:5} [{p}/{m}]: interdomain v={vcpu} d={} p={}{x}",
                port.0, remote_id.0, remote_port.0
            )),
            Binding::Virq { virq } => line(format_args!("{:5} [{p}/{m}]: virq v={vcpu} {virq}{x}", port.0)),
            Binding::Ipi => line(format_args!("{:5} [{p}/{m}]: ipi v={vcpu}{x}", port.0)),
        }
    }
}

const _: () = assert!(NR_VIRQS <= u32::BITS);
