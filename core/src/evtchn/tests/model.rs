//! Random operations against a model that says which events have to arrive: those sent to a connected port since it was
//! last taken or closed, once each, at the vCPU that the port notifies, and not while masked.

use super::fifo::FifoGuest;
use super::*;
use crate::evtchn;
use alloc::collections::{BTreeMap, BTreeSet};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A new channel from dom0 to the guest, notifying this vCPU.
    Open(u32),
    /// Closes the guest's end of a channel; dom0 closes its end, too.
    Close(usize),
    /// dom0 sends.
    Send(usize),
    /// The guest masks, unmasks.
    Mask(usize),
    Unmask(usize),
    /// The guest moves the channel to another vCPU.
    Move(usize, u32),
    /// The guest changes its priority (FIFO).
    Priority(usize, u32),
    /// A vCPU takes some events.
    Consume(u32, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..2u32).prop_map(Step::Open),
        1 => any::<usize>().prop_map(Step::Close),
        6 => any::<usize>().prop_map(Step::Send),
        2 => any::<usize>().prop_map(Step::Mask),
        3 => any::<usize>().prop_map(Step::Unmask),
        1 => (any::<usize>(), 0..2u32).prop_map(|(n, v)| Step::Move(n, v)),
        1 => (any::<usize>(), 0..16u32).prop_map(|(n, p)| Step::Priority(n, p)),
        3 => (0..2u32, 1..4usize).prop_map(|(v, n)| Step::Consume(v, n)),
    ]
}

/// How a guest of either ABI behaves.
trait Guest {
    fn mask(&mut self, host: &TestHost, id: DomainId, port: Port);
    fn unmask(&mut self, host: &TestHost, id: DomainId, port: Port);
    fn take(&mut self, host: &TestHost, id: DomainId, vcpu: u32, budget: usize) -> Vec<Port>;
    /// Whether an event stays at the vCPU it was queued for when its port moves.
    const QUEUED: bool;
}

struct TwoLevel;

impl Guest for TwoLevel {
    fn mask(&mut self, host: &TestHost, id: DomainId, port: Port) {
        set_mask(host, id, port, true);
    }
    fn unmask(&mut self, host: &TestHost, id: DomainId, port: Port) {
        evtchn::unmask(&host.hv, host.domain(id), port).unwrap();
    }
    fn take(&mut self, host: &TestHost, id: DomainId, vcpu: u32, _: usize) -> Vec<Port> {
        consume(host, id, vcpu)
    }
    const QUEUED: bool = false;
}

impl Guest for FifoGuest<'_> {
    fn mask(&mut self, _: &TestHost, _: DomainId, port: Port) {
        FifoGuest::mask(self, port);
    }
    fn unmask(&mut self, host: &TestHost, id: DomainId, port: Port) {
        FifoGuest::unmask(self, host, id, port);
    }
    fn take(&mut self, host: &TestHost, id: DomainId, vcpu: u32, budget: usize) -> Vec<Port> {
        self.consume(host, id, vcpu as usize, budget)
    }
    const QUEUED: bool = true;
}

#[derive(Default)]
struct Model {
    /// The guest's port to dom0's.
    channels: BTreeMap<Port, Port>,
    pending: BTreeSet<Port>,
    masked: BTreeSet<Port>,
    vcpu: BTreeMap<Port, u32>,
}

impl Model {
    fn pick(&self, n: usize) -> Option<(Port, Port)> {
        let n = n.checked_rem(self.channels.len())?;
        self.channels.iter().nth(n).map(|(a, b)| (*a, *b))
    }
}

fn run<G: Guest>(host: &TestHost, dom0: DomainId, one: DomainId, mut guest: G, steps: &[Step]) {
    let (control, domain) = (host.domain(dom0), host.domain(one));
    let mut model = Model::default();
    let hv = &host.hv;
    for step in steps {
        match *step {
            Step::Open(vcpu) => {
                let port = evtchn::alloc_unbound(hv, domain, dom0).unwrap();
                let near = evtchn::bind_interdomain(hv, control, domain, port).unwrap();
                evtchn::bind_vcpu(domain, port, VcpuId(vcpu)).unwrap();
                guest.unmask(host, one, port);
                model.channels.insert(port, near);
                model.vcpu.insert(port, vcpu);
            }
            Step::Close(n) => {
                let Some((port, near)) = model.pick(n) else { continue };
                evtchn::close(hv, domain, port).unwrap();
                evtchn::close(hv, control, near).unwrap();
                model.channels.remove(&port);
                model.pending.remove(&port);
                model.masked.remove(&port);
            }
            Step::Send(n) => {
                let Some((port, near)) = model.pick(n) else { continue };
                evtchn::send(hv, control, near).unwrap();
                model.pending.insert(port);
            }
            Step::Mask(n) => {
                let Some((port, _)) = model.pick(n) else { continue };
                guest.mask(host, one, port);
                model.masked.insert(port);
            }
            Step::Unmask(n) => {
                let Some((port, _)) = model.pick(n) else { continue };
                guest.unmask(host, one, port);
                model.masked.remove(&port);
            }
            Step::Move(n, vcpu) => {
                let Some((port, _)) = model.pick(n) else { continue };
                evtchn::bind_vcpu(domain, port, VcpuId(vcpu)).unwrap();
                model.vcpu.insert(port, vcpu);
            }
            Step::Priority(n, priority) => {
                let Some((port, _)) = model.pick(n) else { continue };
                let _ = evtchn::set_priority(domain, port, priority);
            }
            Step::Consume(vcpu, budget) => {
                for port in guest.take(host, one, vcpu, budget) {
                    assert!(model.pending.remove(&port), "{port} came without being sent");
                    assert!(!model.masked.contains(&port), "{port} came masked");
                }
            }
        }
        for port in model.channels.keys() {
            let pending = evtchn::is_pending(hv, domain, *port).unwrap();
            assert_eq!(pending, model.pending.contains(port), "{port}");
        }
    }
    // In the end everything unmasked arrives without any further help, if the vCPUs look while they are told to.
    for vcpu in [0, 1] {
        if host.vcpu(one, vcpu).events.upcall_pending(memory(host)) || G::QUEUED {
            for port in guest.take(host, one, vcpu, usize::MAX) {
                assert!(model.pending.remove(&port));
            }
        }
    }
    // A 2-level guest that moves a port looks at all words then, which this one does not.
    if G::QUEUED || !steps.iter().any(|s| matches!(s, Step::Move(..))) {
        let lost: Vec<_> = model.pending.difference(&model.masked).collect();
        assert!(lost.is_empty(), "{lost:?} did not arrive");
    }
    for (port, near) in &model.channels {
        assert_eq!(evtchn::status(domain, *port).unwrap().peer_port, near.0);
        assert_eq!(evtchn::status(control, *near).unwrap().peer_port, port.0);
        assert_eq!(evtchn::status(domain, *port).unwrap().vcpu, model.vcpu[port]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn two_level_follows_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let (host, dom0, one, _) = host();
        run(&host, dom0, one, TwoLevel, &steps);
    }

    #[test]
    fn fifo_follows_the_model(steps in prop::collection::vec(step(), 1..80)) {
        let (host, dom0, one, _) = host();
        let guest = FifoGuest::new(&host, one, 1);
        run(&host, dom0, one, guest, &steps);
    }
}
