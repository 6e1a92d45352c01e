//! The host vectors of devices' messages (MSI, MSI-X), and how a message changes its place without losing an interrupt.
//!
//! When a guest moves an interrupt to another vCPU, the device may have sent the old message already. So a host vector
//! that a device was told of is not given back while it may still arrive: it stands for the new message as well, until
//! the next move or until the device is switched off. A device that can send while it is told of a new message (MSI
//! without a mask) is not told at all: its vector only changes its meaning.
//!
//! Locks: none of its own.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_core::types::CpuId;

use crate::irq::{Binding, Router};
use crate::machine::HostVector;
use crate::pci::Sbdf;

/// Which message: of a function, and its number there.
pub(super) type Key = (Sbdf, u16);

#[derive(Clone, Copy)]
struct Bound {
    at: HostVector,
    /// Where it was before, and where an interrupt may still be on its way to.
    before: Option<HostVector>,
}

/// The bound messages of a domain.
pub(super) struct Messages {
    router: Arc<Router>,
    cpus: u32,
    bound: BTreeMap<Key, Bound>,
}

impl Messages {
    /// None yet, on a machine of `cpus` CPUs.
    pub(super) fn new(router: Arc<Router>, cpus: u32) -> Messages {
        Messages { router, cpus, bound: BTreeMap::new() }
    }

    /// Binds a message, on this CPU if that has a free vector, or changes what it stands for. `silent` says that the
    /// device cannot send it before it is told of the result.
    ///
    /// # Errors
    /// `ENOSPC` if no CPU has a free vector.
    pub(super) fn bind(&mut self, key: Key, cpu: CpuId, binding: &Binding, silent: bool) -> Result<HostVector, Errno> {
        let Some(bound) = self.bound.get_mut(&key) else {
            let others = (1..self.cpus).map(|n| CpuId(cpu.0.wrapping_add(n).checked_rem(self.cpus).unwrap_or(0)));
            let mut found = core::iter::once(cpu).chain(others).filter_map(|c| self.router.allocate(c).ok());
            let at = found.next().ok_or(Errno::ENOSPC)?;
            self.router.bind(at, binding);
            self.bound.insert(key, Bound { at, before: None });
            return Ok(at);
        };
        if silent && bound.at.cpu != cpu {
            if let Some(long_gone) = bound.before.take() {
                self.router.free(long_gone);
            }
            // On a CPU without a free vector it is not worth an error: the old place serves as well.
            if let Ok(at) = self.router.allocate(cpu) {
                bound.before = Some(core::mem::replace(&mut bound.at, at));
            }
        }
        for at in core::iter::once(bound.at).chain(bound.before) {
            self.router.bind(at, binding);
        }
        Ok(bound.at)
    }

    /// Gives a message back; the device does not send it any more.
    pub(super) fn unbind(&mut self, key: Key) {
        if let Some(bound) = self.bound.remove(&key) {
            core::iter::once(bound.at).chain(bound.before).for_each(|at| self.router.free(at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::interrupt::{DeliveryMode, Message, Trigger};
    use crate::irq::{DEVICE_VECTORS, Source};
    use radon_core::types::DomainId;

    const KEY: Key = (Sbdf::new(0, 8), 3);

    fn to(destination: u32) -> Binding {
        let message =
            Message { destination, logical: false, mode: DeliveryMode::Fixed, vector: 0x41, trigger: Trigger::Edge };
        Binding { domain: DomainId(0), source: Source::Message(message) }
    }

    fn messages(cpus: u32) -> (Arc<Router>, Messages) {
        let router = Arc::new(Router::new(cpus));
        (router.clone(), Messages::new(router, cpus))
    }

    /// How many vectors of a CPU are taken.
    fn taken(router: &Router, cpu: CpuId) -> usize {
        DEVICE_VECTORS.filter(|v| router.lookup(HostVector { cpu, vector: *v }).is_some()).count()
    }

    #[test]
    fn an_interrupt_on_its_way_to_the_old_place_is_not_lost() {
        let (router, mut messages) = messages(3);
        let first = messages.bind(KEY, CpuId(0), &to(0), true).unwrap();
        let second = messages.bind(KEY, CpuId(1), &to(1), true).unwrap();
        assert_eq!((first.cpu, second.cpu), (CpuId(0), CpuId(1)));
        assert_eq!(router.lookup(first), Some(to(1)), "also the old vector stands for the new message");
        assert_eq!(router.lookup(second), Some(to(1)));
        let third = messages.bind(KEY, CpuId(2), &to(2), true).unwrap();
        assert_eq!(router.lookup(first), None, "two moves ago");
        assert_eq!([second, third].map(|at| router.lookup(at)), [Some(to(2)); 2]);
        messages.unbind(KEY);
        assert_eq!([0, 1, 2].map(|n| taken(&router, CpuId(n))), [0; 3], "all are given back");
    }

    #[test]
    fn a_device_that_may_send_at_any_time_keeps_its_vector() {
        let (router, mut messages) = messages(2);
        let at = messages.bind(KEY, CpuId(0), &to(0), false).unwrap();
        assert_eq!(messages.bind(KEY, CpuId(1), &to(1), false), Ok(at));
        assert_eq!(router.lookup(at), Some(to(1)));
        assert_eq!(messages.bind(KEY, CpuId(0), &to(0), true), Ok(at), "a message that stays on its CPU keeps it too");
        assert_eq!([0, 1].map(|n| taken(&router, CpuId(n))), [1, 0]);
    }

    #[test]
    fn a_full_cpu_is_no_obstacle() {
        let (router, mut messages) = messages(2);
        let all = DEVICE_VECTORS.count() as u16;
        for n in 0..all {
            assert_eq!(messages.bind((KEY.0, n), CpuId(1), &to(1), true).unwrap().cpu, CpuId(1));
        }
        let spill = messages.bind((KEY.0, all), CpuId(1), &to(1), true).unwrap();
        assert_eq!(spill.cpu, CpuId(0), "another CPU takes it");
        assert_eq!(messages.bind((KEY.0, all), CpuId(1), &to(9), true), Ok(spill), "it cannot move");
        assert_eq!(router.lookup(spill), Some(to(9)));
        for n in 1..all {
            messages.bind((KEY.0, all + n), CpuId(1), &to(1), true).unwrap();
        }
        assert_eq!(messages.bind((KEY.0, 2 * all), CpuId(1), &to(1), true), Err(Errno::ENOSPC));
        (0..=2 * all).for_each(|n| messages.unbind((KEY.0, n)));
        assert_eq!([0, 1].map(|n| taken(&router, CpuId(n))), [0; 2]);
    }
}
