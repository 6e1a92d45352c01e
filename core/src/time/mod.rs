//! Timers, run states and the clocks that guests see.
//!
//! - [`Timers`]: one queue of deadlines per CPU; nothing ticks.
//! - [`VcpuTime`]: a vCPU's timers, which follow it from CPU to CPU, and the areas it registered.
//! - [`Runstate`]: how long a vCPU was in which state; kept by the scheduler.
//! - [`clock`]: `vcpu_time_info` and the wall clock.
//!
//! The CPU loop calls [`Timers::expire`] at its top, whatever made the guest exit, and [`Timers::program`] before it
//! enters a guest or idles.

mod area;
pub mod clock;
mod queue;
mod runstate;
mod vcpu;

pub use area::Area;
pub(crate) use area::runstate_size;
pub use queue::{Armed, Owner, Timers};
pub use runstate::{Runstate, State};
pub use vcpu::{ARCH_TIMERS, VcpuTime, VcpuTimer};
