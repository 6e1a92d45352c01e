//! Timers and clocks (under construction).
/// All timer queues.
#[derive(Default)]
pub struct Timers {}
/// A vCPU's timers and areas.
#[derive(Default)]
pub struct VcpuTime {}
impl VcpuTime {
    /// Nothing armed.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}
