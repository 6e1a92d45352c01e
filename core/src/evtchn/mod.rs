//! Event channels (under construction).
use crate::domain::Domain;
use crate::types::VcpuId;
use alloc::sync::Arc;

/// A domain's event channels.
#[derive(Default)]
pub struct EventChannels {}
impl EventChannels {
    /// None open.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}
/// A vCPU's event state.
pub struct VcpuEvents {}
impl VcpuEvents {
    /// As at creation.
    #[must_use]
    pub fn new(_domain: &Arc<Domain>, _id: VcpuId) -> Self {
        Self {}
    }
}
