//! One event channel, and the store that finds it by port without a lock.
//!
//! Invariant: a channel is allocated once and stays where it is until its domain goes, so a reference to it needs no
//! lock; what it is bound to is in [`ChannelState`] under the channel's own lock ([`Rank::Channel`]). A binding changes
//! only while the domain's table lock is held as well (for interdomain channels: that of both domains), so either lock
//! suffices to read it.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_DEFAULT};
use spin::once::Once;

use super::Consumer;
use crate::domain::Domain;
use crate::sync::{Lock, Rank};
use crate::types::{DomainId, Port, VcpuId};

/// What a port is bound to.
#[derive(Clone)]
pub(super) enum Binding {
    /// Nothing: the port is not in use.
    Free,
    /// Waits for this domain to connect.
    Unbound { remote: DomainId },
    /// Connected to a port of another domain (or another port of this one).
    Interdomain { remote: Weak<Domain>, remote_id: DomainId, remote_port: Port },
    /// A virtual interrupt.
    Virq { virq: u32 },
    /// A virtual inter-processor interrupt.
    Ipi,
}

/// Where an event of the FIFO ABI was queued last: vCPU and priority.
pub(super) type QueueName = (VcpuId, u8);

/// What is known of one port.
pub(super) struct ChannelState {
    pub(super) binding: Binding,
    /// The vCPU that is notified.
    pub(super) vcpu: VcpuId,
    /// In-hypervisor receiver of the events that arrive at this port; the guest may then not use the port.
    pub(super) consumer: Option<Arc<dyn Consumer>>,
    /// FIFO ABI: priority.
    pub(super) priority: u8,
    /// FIFO ABI: the queue it was linked into last.
    pub(super) last_queue: Option<QueueName>,
    /// FIFO ABI: an event arrived while the port had no event word yet.
    pub(super) missed: bool,
}

impl ChannelState {
    const FREE: ChannelState = ChannelState {
        binding: Binding::Free,
        vcpu: VcpuId(0),
        consumer: None,
        priority: EVTCHN_FIFO_PRIORITY_DEFAULT as u8,
        last_queue: None,
        missed: false,
    };

    /// Frees the port. The queue it may still be linked into stays known, for its next user.
    pub(super) fn free(&mut self) {
        let last_queue = self.last_queue;
        *self = ChannelState { last_queue, ..ChannelState::FREE };
    }

    /// Whether the port is in use by the guest, so that the guest's memory may be touched for it.
    pub(super) fn is_guests(&self) -> bool {
        !matches!(self.binding, Binding::Free) && self.consumer.is_none()
    }
}

/// One event channel.
pub(super) struct Channel {
    pub(super) state: Lock<ChannelState>,
}

impl Channel {
    const fn new() -> Channel {
        Channel { state: Lock::new(Rank::Channel, ChannelState::FREE) }
    }
}

/// Channels that are allocated at once.
const BUCKET: usize = 128;
/// Buckets in a group.
const GROUP: usize = 16;
/// Groups of a domain.
const GROUPS: usize = EVTCHN_FIFO_NR_CHANNELS as usize / (BUCKET * GROUP);

type Bucket = Vec<Channel>;
type Group = Vec<Once<Bucket>>;

/// A domain's channels by port.
pub(super) struct Channels {
    groups: [Once<Group>; GROUPS],
}

impl Channels {
    pub(super) const fn new() -> Channels {
        Channels { groups: [const { Once::new() }; GROUPS] }
    }

    /// The channel of a port; `None` if none was ever allocated near it.
    pub(super) fn get(&self, port: Port) -> Option<&Channel> {
        let port = port.index();
        let group = self.groups.get(port / (BUCKET * GROUP))?.get()?;
        group.get((port / BUCKET) % GROUP)?.get()?.get(port % BUCKET)
    }

    /// The channel of a port, allocated if need be and if there is room. Calls are serialised by the domain's table lock.
    pub(super) fn ensure(&self, port: Port, room: impl FnOnce() -> bool) -> Result<&Channel, Errno> {
        if let Some(channel) = self.get(port) {
            return Ok(channel);
        }
        if !room() {
            return Err(Errno::ENOMEM);
        }
        let port = port.index();
        let group = self
            .groups
            .get(port / (BUCKET * GROUP))
            .ok_or(Errno::ENOSPC)?
            .try_call_once(|| filled(GROUP, Once::new))?;
        let bucket =
            group.get((port / BUCKET) % GROUP).ok_or(Errno::ENOSPC)?.try_call_once(|| filled(BUCKET, Channel::new))?;
        bucket.get(port % BUCKET).ok_or(Errno::ENOSPC)
    }
}

/// A vector of `n` values; `ENOMEM` if there is no memory for it.
fn filled<T>(n: usize, make: impl FnMut() -> T) -> Result<Vec<T>, Errno> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).map_err(|_| Errno::ENOMEM)?;
    v.resize_with(n, make);
    Ok(v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_found_at_every_edge() {
        let channels = Channels::new();
        for port in [1, 127, 128, 2047, 2048, 131_071] {
            assert!(channels.ensure(Port(port), || true).is_ok());
            let found = channels.get(Port(port)).unwrap();
            assert!(core::ptr::eq(found, channels.ensure(Port(port), || true).unwrap()));
        }
        assert!(channels.get(Port(4096)).is_none());
        assert_eq!(channels.ensure(Port(131_072), || true).err(), Some(Errno::ENOSPC));
        assert!(channels.get(Port(u32::MAX)).is_none());
    }
}
