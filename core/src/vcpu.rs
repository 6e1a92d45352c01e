//! A virtual CPU: what `core` keeps of it. Registers and interrupt controllers are in [`Vcpu::arch`].

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};

use crate::domain::Domain;
use crate::evtchn::VcpuEvents;
use crate::hypervisor::Hypervisor;
use crate::platform::ArchVcpu;
use crate::sched::VcpuSched;
use crate::time::VcpuTime;
use crate::types::{DomainId, VcpuId};

/// One virtual CPU.
pub struct Vcpu {
    /// Its number within its domain.
    pub id: VcpuId,
    /// The number of its domain.
    pub domain_id: DomainId,
    /// Its domain.
    domain: Weak<Domain>,
    /// Scheduling state.
    pub sched: VcpuSched,
    /// Event-channel state: where its `vcpu_info` is, FIFO control block.
    pub events: VcpuEvents,
    /// Timers, run state, registered time areas.
    pub time: VcpuTime,
    /// The architecture's part.
    pub arch: Box<dyn ArchVcpu>,
}

impl Vcpu {
    /// A vCPU of `domain` that is down (not runnable until brought up).
    #[must_use]
    pub fn new(domain: &Arc<Domain>, id: VcpuId, arch: Box<dyn ArchVcpu>) -> Arc<Vcpu> {
        Arc::new(Vcpu {
            id,
            domain_id: domain.id,
            domain: Arc::downgrade(domain),
            sched: VcpuSched::new(domain, id),
            events: VcpuEvents::new(domain, id),
            time: VcpuTime::new(),
            arch,
        })
    }

    /// Its domain; `None` once the domain is gone.
    #[must_use]
    pub fn domain(&self) -> Option<Arc<Domain>> {
        self.domain.upgrade()
    }

    /// Something may be pending for this vCPU (an event, an interrupt): wakes it if it is blocked, makes it leave guest
    /// mode if it runs on another CPU. Whatever is pending was made visible before the call.
    pub fn notify(self: &Arc<Self>, hv: &Hypervisor) {
        hv.scheduler.notify(hv, self);
    }
}
