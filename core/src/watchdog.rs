//! The watchdog (`watchdog`): finds a CPU that hangs in the hypervisor.
//!
//! Each CPU has a timer that fires once a second where the CPU goes through its loop. It notes the time, and looks
//! whether the next CPU has done the same of late; if not, that one is made to say where it is
//! ([`crate::platform::Platform::report_stuck`]), and the machine stops. A CPU that idles or runs a guest is woken by its
//! timer, so only one that hangs is late. The CPUs form a ring: as long as one of them runs, some CPU that hangs has
//! one that runs before it. A machine of one CPU is not watched.
//!
//! Takes no locks but the timer queue's.

use crate::sync::atomic::{AtomicU64, Ordering};
use alloc::vec::Vec;

use spin::once::Once;

use crate::hypervisor::Hypervisor;
use crate::time::Owner;
use crate::types::{CpuId, Nanoseconds};

const PERIOD: Nanoseconds = Nanoseconds::from_millis(1000);
const SLACK: Nanoseconds = Nanoseconds::from_millis(250);

struct Watched {
    timeout: Nanoseconds,
    /// When each CPU was last seen.
    seen: Vec<AtomicU64>,
}

/// The watchdog of a machine; off until it is started.
#[derive(Default)]
pub struct Watchdog(Once<Watched>);

/// Starts watching all CPUs; one that is not seen for `timeout_s` seconds hangs. To be called once, just before the CPUs
/// enter their loops.
pub fn start(hv: &Hypervisor, timeout_s: u32) {
    let cpus = hv.platform.cpu_count();
    let now = hv.platform.now();
    // Shorter than two periods, a CPU could be late by chance.
    let timeout = Nanoseconds::from_millis(u64::from(timeout_s.max(2)).saturating_mul(1000));
    hv.watchdog.0.call_once(|| Watched { timeout, seen: (0..cpus).map(|_| AtomicU64::new(now.0)).collect() });
    for cpu in (0..cpus).map(CpuId) {
        arm(hv, cpu, now);
    }
}

fn arm(hv: &Hypervisor, cpu: CpuId, now: Nanoseconds) {
    hv.timers.arm(&*hv.platform, cpu, now.saturating_add(PERIOD), SLACK, Owner::Hypervisor(tick));
}

/// What the timer of each CPU calls, on that CPU.
fn tick(hv: &Hypervisor, now: Nanoseconds) {
    let Some(watched) = hv.watchdog.0.get() else { return };
    let cpu = hv.platform.this_cpu();
    if let Some(own) = watched.seen.get(cpu.index()) {
        own.store(now.0, Ordering::Relaxed);
    }
    let next = CpuId(cpu.0.saturating_add(1).checked_rem(hv.platform.cpu_count()).unwrap_or(0));
    let last = watched.seen.get(next.index()).map_or(now.0, |seen| seen.load(Ordering::Relaxed));
    if next != cpu && now.0.saturating_sub(last) > watched.timeout.0 {
        hv.platform.report_stuck(next);
    }
    arm(hv, cpu, now);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;

    /// Lets a second pass in which these CPUs go through their loops.
    fn second(host: &TestHost, cpus: &[u32]) {
        host.machine.advance(Nanoseconds::from_millis(1300));
        for &cpu in cpus {
            host.machine.current_cpu.store(cpu, Ordering::SeqCst);
            host.hv.timers.expire(&host.hv, CpuId(cpu), host.hv.platform.now());
        }
    }

    #[test]
    fn cpus_that_run_are_left_alone() {
        let host = TestHost::new(64, 3);
        start(&host.hv, 5);
        (0..30).for_each(|_| second(&host, &[0, 1, 2]));
    }

    #[test]
    #[should_panic(expected = "CPU1 is stuck")]
    fn one_that_hangs_is_found() {
        let host = TestHost::new(64, 3);
        start(&host.hv, 5);
        (0..30).for_each(|_| second(&host, &[0, 1, 2]));
        (0..6).for_each(|_| second(&host, &[0, 2]));
    }

    #[test]
    #[should_panic(expected = "CPU0 is stuck")]
    fn one_cpu_that_runs_is_enough() {
        let host = TestHost::new(64, 3);
        start(&host.hv, 5);
        (0..6).for_each(|_| second(&host, &[2]));
    }

    #[test]
    fn a_short_delay_is_none() {
        let host = TestHost::new(64, 2);
        start(&host.hv, 5);
        (0..3).for_each(|_| second(&host, &[0]));
        second(&host, &[1, 0]);
        (0..3).for_each(|_| second(&host, &[0]));
    }

    #[test]
    fn a_single_cpu_has_nobody_to_watch_it_and_nothing_to_fear() {
        let host = TestHost::new(64, 1);
        start(&host.hv, 5);
        host.machine.advance(Nanoseconds::from_millis(60_000));
        second(&host, &[0]);
    }
}
