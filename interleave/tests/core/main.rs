//! The lock-free protocols of core and x86, in many interleavings: each test is two to four threads at the code itself, and
//! what must hold when all have ended.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

mod cpus;
mod events;
mod fifo;
mod grants;
mod memory;
mod sched;
mod time;
mod trace;
mod x86;

use std::sync::Arc;

use cpus::{CPUS, Cpus};
use radon_abi::hypercall::SCHED_OP;
use radon_abi::xen::{shared_info, vcpu_info};
use radon_core::evtchn;
use radon_core::hypercall::{Args, OpResult, dispatch};
use radon_core::platform::PhysMemory;
use radon_core::sched::{CpuSet, PolicyKind, Scheduler};
use radon_core::testing::TestHost;
use radon_core::types::{CpuId, DomainId, GuestVirtAddr, MachineAddr, Port};
use radon_interleave::wait;

const DOM0: DomainId = DomainId(0);
const GUEST: DomainId = DomainId(1);

/// dom0 and a guest, with a channel between them. CPU n is part n of the race.
struct Rig {
    host: TestHost,
    cpus: Cpus,
    /// dom0's end.
    near: Port,
    /// The guest's end.
    port: Port,
}

impl Rig {
    fn new() -> Rig {
        Rig::with(PolicyKind::Null)
    }

    fn with(policy: PolicyKind) -> Rig {
        // Small, since it is made for each interleaving.
        let mut host = TestHost::new(24, CPUS as u32);
        let cpus = Cpus::new(host.machine.clone());
        let hv = Arc::get_mut(&mut host.hv).unwrap();
        hv.platform = Box::new(cpus.clone());
        // A run queue for each CPU, so that vCPUs change queues.
        let groups: Vec<_> = (0..CPUS as u32).map(|cpu| CpuSet::only(CpuId(cpu))).collect();
        hv.scheduler = Scheduler::with_groups(policy, CPUS as u32, &groups);
        host.add_domain_with(2, 3);
        host.add_domain_with(2, 6);
        let port = evtchn::alloc_unbound(&host.hv, host.domain(GUEST), DOM0).unwrap();
        let near = evtchn::bind_interdomain(&host.hv, host.domain(DOM0), host.domain(GUEST), port).unwrap();
        let rig = Rig { host, cpus, near, port };
        rig.look();
        rig
    }

    fn memory(&self) -> &dyn PhysMemory {
        self.host.hv.platform.memory()
    }

    fn send(&self) {
        evtchn::send(&self.host.hv, self.host.domain(DOM0), self.near).unwrap();
    }

    /// A bitmap's word in the guest's shared page. All ports here are below 64.
    fn word(&self, bitmap: u64) -> MachineAddr {
        MachineAddr(self.host.domain(GUEST).shared_info.addr().0 + bitmap)
    }

    fn mask(&self) {
        self.memory().fetch_or_u64(self.word(shared_info::EVTCHN_MASK), 1 << self.port.0);
    }

    /// Takes the event as a guest that polls does.
    fn take(&self) -> bool {
        let bit = 1 << self.port.0;
        self.memory().fetch_and_u64(self.word(shared_info::EVTCHN_PENDING), !bit) & bit != 0
    }

    fn is_pending(&self) -> bool {
        self.memory().load_u64(self.word(shared_info::EVTCHN_PENDING)) >> self.port.0 & 1 != 0
    }

    fn upcall_pending(&self) -> bool {
        self.host.vcpu(GUEST, 0).events.upcall_pending(self.memory())
    }

    /// Takes all events as a guest's handler does: upcall, selector, pending. Returns whether the event was there.
    fn look(&self) -> bool {
        let info = self.host.vcpu(GUEST, 0).events.info().unwrap();
        self.memory().fetch_and_u64(info, !0xff);
        let words = self.memory().fetch_and_u64(MachineAddr(info.0 + vcpu_info::PENDING_SEL), 0);
        words & 1 != 0 && self.take()
    }

    /// Brings the guest's first vCPU up, for CPU 0 and no other.
    fn bring_up(&self) {
        let (hv, vcpu) = (&self.host.hv, self.host.vcpu(GUEST, 0));
        hv.scheduler.add_vcpu(hv, vcpu).unwrap();
        hv.scheduler.set_affinity(hv, vcpu, Some(CpuSet::only(CpuId(0))), None).unwrap();
        hv.scheduler.bring_up(hv, vcpu);
    }

    /// As [`Rig::bring_up`], and CPU 0 runs it.
    fn run_guest(&self) {
        let hv = &self.host.hv;
        self.bring_up();
        assert!(hv.scheduler.schedule(hv, CpuId(0), hv.platform.now()).vcpu.is_some());
    }

    fn is_blocked(&self) -> bool {
        self.host.vcpu(GUEST, 0).sched.unit.is_blocked()
    }

    fn sched_op(&self, operation: u32, argument: GuestVirtAddr) -> OpResult {
        let args = Args([u64::from(operation), argument.0, 0, 0, 0, 0]);
        dispatch(&self.host.caller(GUEST, 0), SCHED_OP, args)
    }

    /// Sends twice, the second time when the first event was taken.
    fn send_twice(&self) {
        for _ in 0..2 {
            self.send();
            while self.is_pending() {
                wait();
            }
        }
    }
}
