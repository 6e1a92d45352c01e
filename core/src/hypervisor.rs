//! The hypervisor as one value: everything that exists once per machine. Passed down as a parameter, so that a test can
//! have several.

use alloc::boxed::Box;

use crate::console::Console;
use crate::control::Control;
use crate::domain::DomainList;
use crate::frames::FrameAllocator;
use crate::platform::Platform;
use crate::sched::Scheduler;
use crate::time::Timers;
use crate::trace::Trace;
use crate::watchdog::Watchdog;

/// One machine's hypervisor.
pub struct Hypervisor {
    /// The machine.
    pub platform: Box<dyn Platform>,
    /// All frames of machine memory and who owns them.
    pub frames: FrameAllocator,
    /// All domains.
    pub domains: DomainList,
    /// Which vCPU runs where.
    pub scheduler: Scheduler,
    /// What happens later.
    pub timers: Timers,
    /// The console: ring buffer, input focus.
    pub console: Console,
    /// What control operations keep.
    pub control: Control,
    /// Who looks after CPUs that hang.
    pub watchdog: Watchdog,
    /// What happened, for who wants to know.
    pub trace: Trace,
}
