//! A vCPU's timers and the memory areas it registered.
//!
//! Timers wait in the queue of the CPU where the vCPU last ran and move with it, so that their interrupt arrives where
//! the vCPU is.
//!
//! Lock protocol: `timers` and `areas` are of [`Rank::Vcpu`]; queue locks nest inside `timers`. Nothing is delivered
//! under them.

use crate::sync::atomic::{AtomicU32, Ordering};
use alloc::sync::Arc;

use radon_abi::vcpu::RunstateInfo;
use radon_abi::xen::{VIRQ_TIMER, VcpuTimeInfo};

use crate::hypervisor::Hypervisor;
use crate::sync::{Lock, Rank};
use crate::types::{CpuId, Nanoseconds};
use crate::vcpu::Vcpu;

use super::area::Area;
use super::queue::{Armed, Owner};

/// Number of timers that the architecture layer has for its own use.
pub const ARCH_TIMERS: u8 = 4;

const TIMERS: usize = 3 + ARCH_TIMERS as usize;

/// A vCPU's timers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VcpuTimer {
    /// `VCPUOP_set_periodic_timer`.
    Periodic,
    /// `VCPUOP_set_singleshot_timer`, `set_timer_op`.
    Singleshot,
    /// The end of a `SCHEDOP_poll`.
    Poll,
    /// A device of the architecture layer, below [`ARCH_TIMERS`]: see [`crate::platform::ArchVcpu::timer_expired`].
    Arch(u8),
}

impl VcpuTimer {
    fn index(self) -> usize {
        match self {
            VcpuTimer::Periodic => 0,
            VcpuTimer::Singleshot => 1,
            VcpuTimer::Poll => 2,
            VcpuTimer::Arch(n) => usize::from(n).saturating_add(3),
        }
    }

    /// How much later than asked it may fire, if it is to fire in `wait`: enough to share an interrupt, too little to
    /// matter for what it is used for; at most `most`.
    fn slack(self, wait: Nanoseconds, most: Nanoseconds) -> Nanoseconds {
        match self {
            // A device timer is a clock; its interrupt is late enough as it is.
            VcpuTimer::Arch(_) => Nanoseconds(0),
            _ => Nanoseconds(wait.0 / 64).min(most),
        }
    }
}

#[derive(Default)]
struct Armings {
    armed: [Option<Armed>; TIMERS],
    /// Period of the periodic timer and when it fires next.
    period: Option<(Nanoseconds, Nanoseconds)>,
}

impl Armings {
    fn slot(&mut self, which: VcpuTimer) -> Option<&mut Option<Armed>> {
        self.armed.get_mut(which.index())
    }
}

#[derive(Default)]
struct Areas {
    runstate: Option<Area>,
    time: Option<Area>,
    /// Version of the time information, even between updates.
    time_version: u32,
}

/// A vCPU's timers and areas.
pub struct VcpuTime {
    timers: Lock<Armings>,
    /// The CPU in whose queue the timers are.
    cpu: AtomicU32,
    areas: Lock<Areas>,
}

impl Default for VcpuTime {
    fn default() -> Self {
        VcpuTime {
            timers: Lock::new(Rank::Vcpu, Armings::default()),
            cpu: AtomicU32::new(0),
            areas: Lock::new(Rank::Vcpu, Areas::default()),
        }
    }
}

impl VcpuTime {
    /// Nothing armed, nothing registered.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The registered place of the run state, if there is one, with what to do to the one before.
    pub(crate) fn set_runstate_area(&self, area: Option<Area>) -> Option<Area> {
        core::mem::replace(&mut self.areas.lock().runstate, area)
    }

    /// The frames that are held for registered areas, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn pins(&self) -> alloc::vec::Vec<crate::types::Mfn> {
        let areas = self.areas.lock();
        [&areas.runstate, &areas.time].into_iter().flatten().flat_map(Area::pins).collect()
    }

    /// As [`VcpuTime::set_runstate_area`], for the time information.
    pub(crate) fn set_time_area(&self, area: Option<Area>) -> Option<Area> {
        core::mem::replace(&mut self.areas.lock().time, area)
    }
}

impl Vcpu {
    /// Arms one of its timers for `deadline`, instead of what it was armed for before.
    pub fn arm_timer(self: &Arc<Self>, hv: &Hypervisor, which: VcpuTimer, deadline: Nanoseconds) {
        let slack = which.slack(deadline.saturating_sub(hv.platform.now()), hv.timers.slop());
        let mut timers = self.time.timers.lock();
        let Some(slot) = timers.slot(which) else { return };
        if let Some(armed) = slot.take() {
            hv.timers.cancel(armed);
        }
        let cpu = CpuId(self.time.cpu.load(Ordering::Relaxed));
        let owner = Owner::Vcpu(Arc::downgrade(self), which);
        *slot = Some(hv.timers.arm(&*hv.platform, cpu, deadline, slack, owner));
    }

    /// Disarms one of its timers. It does not fire after this, unless it was already being delivered.
    pub fn cancel_timer(&self, hv: &Hypervisor, which: VcpuTimer) {
        let mut timers = self.time.timers.lock();
        if which == VcpuTimer::Periodic {
            timers.period = None;
        }
        if let Some(armed) = timers.slot(which).and_then(Option::take) {
            hv.timers.cancel(armed);
        }
    }

    /// Starts its periodic timer, first firing one period from now.
    pub fn start_periodic_timer(self: &Arc<Self>, hv: &Hypervisor, period: Nanoseconds) {
        let first = hv.platform.now().saturating_add(period);
        self.time.timers.lock().period = Some((period, first));
        self.arm_timer(hv, VcpuTimer::Periodic, first);
    }

    /// Its timers follow it to `cpu`, the caller's, where it is about to run.
    pub(crate) fn move_timers(&self, hv: &Hypervisor, cpu: CpuId) {
        if self.time.cpu.load(Ordering::Relaxed) == cpu.0 {
            return;
        }
        let mut timers = self.time.timers.lock();
        self.time.cpu.store(cpu.0, Ordering::Relaxed);
        for slot in &mut timers.armed {
            // One that is being fired elsewhere keeps its arming: the owner has to recognise it.
            if let Some(moved) = slot.and_then(|armed| hv.timers.move_here(armed, cpu)) {
                *slot = Some(moved);
            }
        }
    }

    /// Disarms everything and gives the registered areas back, when the vCPU goes.
    pub fn stop_time(&self, hv: &Hypervisor) {
        let armed = {
            let mut timers = self.time.timers.lock();
            timers.period = None;
            core::mem::take(&mut timers.armed)
        };
        for armed in armed.into_iter().flatten() {
            hv.timers.cancel(armed);
        }
        let areas = [self.time.set_runstate_area(None), self.time.set_time_area(None)];
        areas.into_iter().flatten().for_each(|area| area.release(hv));
    }

    /// Writes its run state to the area it registered, as of the last change.
    pub(crate) fn publish_runstate(&self, hv: &Hypervisor) {
        let areas = self.time.areas.lock();
        if let Some(area) = &areas.runstate {
            let marked = self.domain().is_some_and(|d| super::area::wants_update_mark(&d));
            area.write_runstate(hv, &self.sched.unit.runstate().snapshot(), marked);
        }
    }

    /// Its run state up to now.
    #[must_use]
    pub fn runstate_info(&self, hv: &Hypervisor) -> RunstateInfo {
        self.sched.unit.runstate().info(hv.platform.now())
    }

    /// Writes how to compute system time from the TSC to `vcpu_info` and to the area it registered. Called when either
    /// place or the clock changed.
    pub fn publish_clock(&self, hv: &Hypervisor) {
        let clock = self.domain().map_or_else(|| hv.platform.clock(), |d| d.arch.clock(hv));
        let mut areas = self.time.areas.lock();
        areas.time_version = areas.time_version.wrapping_add(2);
        let mut info = VcpuTimeInfo { version: areas.time_version, ..super::clock::time_info(&clock) };
        info.tsc_timestamp = info.tsc_timestamp.wrapping_add(self.arch.tsc_offset());
        if let Some(at) = self.events.info() {
            super::clock::write_time_info(hv.platform.memory(), at, &info);
        }
        if let Some(area) = &areas.time {
            area.write_time(hv, &info);
        }
    }
}

/// A timer of `vcpu` fires, unless it was re-armed or cancelled since it was taken from the queue.
pub(super) fn fired(hv: &Hypervisor, vcpu: &Arc<Vcpu>, which: VcpuTimer, armed: Armed, now: Nanoseconds) {
    let again = {
        let mut timers = vcpu.time.timers.lock();
        match timers.slot(which) {
            Some(slot) if *slot == Some(armed) => *slot = None,
            _ => return,
        }
        if which == VcpuTimer::Periodic { timers.period.as_mut().map(|p| next_period(p, now)) } else { None }
    };
    if let Some(next) = again {
        vcpu.arm_timer(hv, which, next);
    }
    match which {
        VcpuTimer::Periodic | VcpuTimer::Singleshot => crate::evtchn::send_vcpu_virq(hv, vcpu, VIRQ_TIMER),
        VcpuTimer::Poll => hv.scheduler.wake(hv, vcpu),
        VcpuTimer::Arch(n) => {
            vcpu.arch.timer_expired(n);
            vcpu.notify(hv);
        }
    }
}

/// Advances the time of a periodic timer to the first one after `now`: periods that were missed are not made up for.
fn next_period((period, next): &mut (Nanoseconds, Nanoseconds), now: Nanoseconds) -> Nanoseconds {
    let missed = now.saturating_sub(*next).0.checked_div(period.0).unwrap_or(0);
    let step = Nanoseconds(period.0.saturating_mul(missed.saturating_add(1)));
    *next = next.saturating_add(step);
    *next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timers;

    #[test]
    fn a_late_periodic_timer_keeps_its_phase() {
        let mut timer = (Nanoseconds(10), Nanoseconds(100));
        assert_eq!(next_period(&mut timer, Nanoseconds(100)), Nanoseconds(110));
        assert_eq!(next_period(&mut timer, Nanoseconds(119)), Nanoseconds(120));
        assert_eq!(next_period(&mut timer, Nanoseconds(155)), Nanoseconds(160));
    }

    #[test]
    fn slack_is_a_small_share_of_the_wait() {
        let slack = |w, ns| VcpuTimer::slack(w, Nanoseconds(ns), Timers::new(1).slop()).0;
        assert_eq!(slack(VcpuTimer::Singleshot, 640), 10);
        assert_eq!(slack(VcpuTimer::Singleshot, 1_000_000_000), 50_000);
        assert_eq!(slack(VcpuTimer::Arch(0), 1_000_000_000), 0);
        let timers = Timers::new(1);
        timers.set_slop(Nanoseconds(4_000_000));
        assert_eq!(VcpuTimer::Poll.slack(Nanoseconds(128_000_000), timers.slop()).0, 2_000_000);
        assert_eq!(VcpuTimer::Poll.slack(Nanoseconds(1_000_000_000), timers.slop()).0, 4_000_000);
    }
}
