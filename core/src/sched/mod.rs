//! Scheduling (under construction).
use crate::hypervisor::Hypervisor;
use crate::vcpu::Vcpu;
use alloc::sync::Arc;

/// The scheduler.
#[derive(Default)]
pub struct Scheduler {}
impl Scheduler {
    /// Wakes or kicks a vCPU.
    pub fn notify(&self, _hv: &Hypervisor, _vcpu: &Arc<Vcpu>) {}
}
/// A vCPU's scheduling state.
#[derive(Default)]
pub struct VcpuSched {}
impl VcpuSched {
    /// Down.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}
