//! The CPU loop in steps, for a simulator that plays several CPUs on one thread. The steps are those of
//! [`super::cpu_loop`]; only the lock of the vCPU's state is taken for each step anew, since nothing else runs between.

use alloc::sync::Arc;

use radon_core::types::CpuId;
use radon_core::vcpu::Vcpu;

use super::{Cx, System, choose};
use crate::domain::X86Domain;
use crate::vcpu::X86Vcpu;

/// Where one CPU is in its loop.
pub struct Stepper {
    cpu: CpuId,
    current: Option<Arc<Vcpu>>,
}

impl Stepper {
    /// A CPU that has run nothing yet.
    #[must_use]
    pub fn new(cpu: CpuId) -> Stepper {
        Stepper { cpu, current: None }
    }

    /// What runs.
    #[must_use]
    pub fn current(&self) -> Option<&Arc<Vcpu>> {
        self.current.as_ref()
    }

    /// Schedules, as before each entry into a guest and after each halt, and switches to what was chosen.
    pub fn schedule(&mut self, sys: &System) {
        let next = choose(sys, self.cpu);
        let same = match (&self.current, &next) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        if let Some(before) = core::mem::replace(&mut self.current, next) {
            if let Some(arch) = X86Vcpu::of(&before) {
                arch.state.lock().cpu.save();
            }
            sys.hv.scheduler.context_saved(&sys.hv, &before);
        }
        if let Some(arch) = self.current.as_ref().and_then(|v| X86Vcpu::of(v)) {
            arch.state.lock().cpu.load();
        }
    }

    /// Enters the guest once and handles its exit. Nothing to do without one.
    pub fn enter(&mut self, sys: &System) {
        let Some(vcpu) = &self.current else { return };
        let (Some(domain), Some(arch)) = (vcpu.domain(), X86Vcpu::of(vcpu)) else {
            // The domain went away while this vCPU was queued.
            sys.hv.scheduler.pause(&sys.hv, vcpu);
            return;
        };
        let Some(x86) = X86Domain::of(&domain) else { return };
        let mut state = arch.state.lock();
        Cx { sys, cpu: self.cpu, domain: &domain, x86, vcpu, arch, state: &mut state }.enter_once();
    }
}
