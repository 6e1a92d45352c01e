//! Per-CPU timer queues.
//!
//! A timer has a deadline and a slack: it fires at `deadline + slack` at the latest and not before `deadline`. The
//! queue is ordered by the latest time; when the first one is due, all that follow and whose deadline has come fire
//! with it, so one interrupt serves several.
//!
//! Lock protocol: each queue has one lock ([`Rank::Timer`]), held only to insert and remove. Nothing fires under it.
//! A timer that was taken out to fire may be re-armed or cancelled by its owner before it does; its owner knows by the
//! [`Armed`] it holds, which names one arming and no other.

use crate::sync::atomic::{AtomicU64, Ordering};
use alloc::collections::BTreeMap;
use alloc::sync::Weak;
use alloc::vec::Vec;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::platform::Platform;
use crate::sched::DomainSched;
use crate::sync::{Lock, Rank};
use crate::types::{CpuId, Nanoseconds};
use crate::vcpu::Vcpu;

use super::VcpuTimer;
use super::clock::WallClock;

/// Whom a timer belongs to, and so what happens when it fires.
#[derive(Clone, Debug)]
pub enum Owner {
    /// A timer of a vCPU.
    Vcpu(Weak<Vcpu>, VcpuTimer),
    /// A watchdog of a domain, by number less one.
    Watchdog(Weak<Domain>, u8),
    /// The end of a capped domain's accounting period.
    Budget(Weak<DomainSched>),
    /// A task of the hypervisor's own, which is given the time it fires at.
    Hypervisor(fn(&Hypervisor, Nanoseconds)),
}

/// One arming of a timer: what it takes to cancel it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Armed {
    cpu: CpuId,
    latest: Nanoseconds,
    number: u64,
}

struct Entry {
    deadline: Nanoseconds,
    owner: Owner,
}

#[derive(Default)]
struct Entries {
    /// By latest time, then by number of arming.
    by_time: BTreeMap<(Nanoseconds, u64), Entry>,
    armings: u64,
}

/// "Never" in atomics.
const NEVER: u64 = u64::MAX;

/// One CPU's queue, on cache lines of its own.
#[repr(align(128))]
struct Queue {
    entries: Lock<Entries>,
    /// Latest time of the first entry, or [`NEVER`].
    next: AtomicU64,
    /// When the scheduler wants to choose again, or [`NEVER`].
    slice_end: AtomicU64,
}

impl Queue {
    fn new() -> Queue {
        Queue {
            entries: Lock::new(Rank::Timer, Entries::default()),
            next: AtomicU64::new(NEVER),
            slice_end: AtomicU64::new(NEVER),
        }
    }

    /// Publishes the first entry's time; the queue is locked.
    fn publish(&self, entries: &Entries) {
        let next = entries.by_time.first_key_value().map_or(NEVER, |((latest, _), _)| latest.0);
        self.next.store(next, Ordering::SeqCst);
    }
}

/// As Xen's `timer_slop`.
const SLOP_DEFAULT: u64 = 50_000;

/// All timer queues of a machine.
pub struct Timers {
    queues: Vec<Queue>,
    /// See [`Timers::slop`], in nanoseconds.
    slop: AtomicU64,
    /// The machine's wall clock.
    pub(super) wall_clock: WallClock,
}

impl Timers {
    /// Empty queues for this many CPUs.
    #[must_use]
    pub fn new(cpus: u32) -> Timers {
        let queues = (0..cpus).map(|_| Queue::new()).collect();
        Timers { queues, slop: AtomicU64::new(SLOP_DEFAULT), wall_clock: WallClock::default() }
    }

    /// The most slack that a vCPU's timer has.
    pub(super) fn slop(&self) -> Nanoseconds {
        Nanoseconds(self.slop.load(Ordering::Relaxed))
    }

    /// Sets the most slack that a vCPU's timer has (option `timer_slop`). More of it lets idle guests share wake-ups.
    pub fn set_slop(&self, slop: Nanoseconds) {
        self.slop.store(slop.0, Ordering::Relaxed);
    }

    fn queue(&self, cpu: CpuId) -> Option<&Queue> {
        self.queues.get(cpu.index())
    }

    /// Arms a timer on `cpu` (one that does not exist stands for CPU 0). If it is now the first there, the CPU's
    /// hardware timer follows: at once if it is the caller's, else the CPU is kicked to do so.
    pub fn arm(
        &self,
        platform: &dyn Platform,
        cpu: CpuId,
        deadline: Nanoseconds,
        slack: Nanoseconds,
        owner: Owner,
    ) -> Armed {
        let (cpu, queue) = match self.queue(cpu) {
            Some(queue) => (cpu, Some(queue)),
            None => (CpuId(0), self.queues.first()),
        };
        let latest = deadline.saturating_add(slack);
        let Some(queue) = queue else { return Armed { cpu, latest, number: 0 } };
        let (armed, first) = {
            let mut entries = queue.entries.lock();
            entries.armings = entries.armings.wrapping_add(1);
            let number = entries.armings;
            entries.by_time.insert((latest, number), Entry { deadline, owner });
            let first = latest.0 < queue.next.load(Ordering::Relaxed);
            queue.publish(&entries);
            (Armed { cpu, latest, number }, first)
        };
        if first {
            if cpu == platform.this_cpu() {
                self.program(platform, cpu);
            } else {
                platform.kick(cpu);
            }
        }
        armed
    }

    /// Disarms a timer. `false` if it was about to fire or has fired. The hardware timer is left as it is: at worst it
    /// interrupts once for nothing, which is cheaper than setting it each time.
    pub fn cancel(&self, armed: Armed) -> bool {
        let Some(queue) = self.queue(armed.cpu) else { return false };
        let mut entries = queue.entries.lock();
        let found = entries.by_time.remove(&(armed.latest, armed.number)).is_some();
        queue.publish(&entries);
        found
    }

    /// Moves a timer that is armed to the queue of `cpu`, the caller's. `None` if it was about to fire or has fired.
    pub(crate) fn move_here(&self, armed: Armed, cpu: CpuId) -> Option<Armed> {
        let entry = {
            let queue = self.queue(armed.cpu)?;
            let mut entries = queue.entries.lock();
            let entry = entries.by_time.remove(&(armed.latest, armed.number))?;
            queue.publish(&entries);
            entry
        };
        let queue = self.queue(cpu)?;
        let mut entries = queue.entries.lock();
        entries.armings = entries.armings.wrapping_add(1);
        let number = entries.armings;
        entries.by_time.insert((armed.latest, number), entry);
        queue.publish(&entries);
        Some(Armed { cpu, latest: armed.latest, number })
    }

    /// Takes out the next timer of `cpu` that fires at `now`.
    pub fn pop_due(&self, cpu: CpuId, now: Nanoseconds) -> Option<(Armed, Owner)> {
        // Without the lock if there is nothing at all.
        self.next_deadline(cpu)?;
        let queue = self.queue(cpu)?;
        let mut entries = queue.entries.lock();
        let first = entries.by_time.first_entry()?;
        if first.get().deadline > now {
            return None;
        }
        let ((latest, number), entry) = first.remove_entry();
        queue.publish(&entries);
        Some((Armed { cpu, latest, number }, entry.owner))
    }

    /// When the next timer of `cpu` has to fire at the latest.
    #[must_use]
    pub fn next_deadline(&self, cpu: CpuId) -> Option<Nanoseconds> {
        let next = self.queue(cpu)?.next.load(Ordering::SeqCst);
        (next != NEVER).then_some(Nanoseconds(next))
    }

    /// Notes when the scheduler wants to choose again on `cpu`.
    pub(crate) fn set_slice_end(&self, cpu: CpuId, until: Option<Nanoseconds>) {
        if let Some(queue) = self.queue(cpu) {
            queue.slice_end.store(until.map_or(NEVER, |t| t.0), Ordering::SeqCst);
        }
    }

    /// When the scheduler wants to choose again on `cpu`.
    #[must_use]
    pub fn slice_end(&self, cpu: CpuId) -> Option<Nanoseconds> {
        let end = self.queue(cpu)?.slice_end.load(Ordering::SeqCst);
        (end != NEVER).then_some(Nanoseconds(end))
    }

    /// Sets the hardware timer of `cpu`, the caller's, to the earliest of the next timer and the end of the time slice.
    pub fn program(&self, platform: &dyn Platform, cpu: CpuId) {
        let times = [self.next_deadline(cpu), self.slice_end(cpu)];
        platform.arm_timer(times.into_iter().flatten().min());
    }

    /// Fires what is due at `now` on `cpu`, the caller's, and asks for scheduling if the time slice is over. No lock may
    /// be held. Cheap if nothing is due.
    pub fn expire(&self, hv: &Hypervisor, cpu: CpuId, now: Nanoseconds) {
        while let Some((armed, owner)) = self.pop_due(cpu, now) {
            fire(hv, armed, owner, now);
        }
        if self.slice_end(cpu).is_some_and(|end| end <= now) {
            hv.scheduler.request(hv, cpu);
        }
    }
}

/// What happens when a timer fires. Owners that are gone have nothing to do.
fn fire(hv: &Hypervisor, armed: Armed, owner: Owner, now: Nanoseconds) {
    match owner {
        Owner::Vcpu(vcpu, which) => {
            if let Some(vcpu) = vcpu.upgrade() {
                super::vcpu::fired(hv, &vcpu, which, armed, now);
            }
        }
        Owner::Watchdog(domain, number) => {
            if let Some(domain) = domain.upgrade() {
                crate::sched::watchdog_fired(hv, &domain, number, armed);
            }
        }
        Owner::Budget(domain) => {
            if let Some(domain) = domain.upgrade() {
                hv.scheduler.replenish(hv, &domain, now);
            }
        }
        Owner::Hypervisor(task) => task(hv, now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestMachine;
    use alloc::sync::Arc;
    use proptest::prelude::*;

    fn owner(n: u8) -> Owner {
        Owner::Watchdog(Weak::new(), n)
    }

    fn number(owner: &Owner) -> u8 {
        match owner {
            Owner::Watchdog(_, n) => *n,
            _ => panic!("another owner"),
        }
    }

    fn drain(timers: &Timers, cpu: CpuId, now: u64) -> Vec<u8> {
        core::iter::from_fn(|| timers.pop_due(cpu, Nanoseconds(now))).map(|(_, o)| number(&o)).collect()
    }

    #[test]
    fn slack_lets_timers_fire_together() {
        let machine = Arc::new(TestMachine::new(0, 1));
        let timers = Timers::new(1);
        let cpu = CpuId(0);
        let arm = |at, slack, n| timers.arm(&machine, cpu, Nanoseconds(at), Nanoseconds(slack), owner(n));
        arm(100, 50, 1);
        arm(140, 0, 2);
        arm(160, 0, 3);
        assert_eq!(timers.next_deadline(cpu), Some(Nanoseconds(140)));
        assert_eq!(machine.armed.lock()[0], Some(Nanoseconds(140)));
        assert_eq!(drain(&timers, cpu, 99), []);
        assert_eq!(drain(&timers, cpu, 140), [2, 1]);
        assert_eq!(timers.next_deadline(cpu), Some(Nanoseconds(160)));
    }

    #[test]
    fn a_cancelled_timer_never_fires_and_cannot_be_cancelled_twice() {
        let machine = Arc::new(TestMachine::new(0, 2));
        let timers = Timers::new(2);
        let a = timers.arm(&machine, CpuId(1), Nanoseconds(5), Nanoseconds(0), owner(1));
        assert_eq!(*machine.kicks.lock(), [CpuId(1)], "the other CPU has to set its timer");
        assert!(timers.cancel(a));
        assert!(!timers.cancel(a));
        let b = timers.arm(&machine, CpuId(1), Nanoseconds(5), Nanoseconds(0), owner(2));
        assert_ne!(a, b);
        let moved = timers.move_here(b, CpuId(0)).unwrap();
        assert!(!timers.cancel(b));
        assert_eq!(drain(&timers, CpuId(1), 9), []);
        assert_eq!(drain(&timers, CpuId(0), 9), [2]);
        assert!(timers.move_here(moved, CpuId(1)).is_none());
        assert_eq!(timers.next_deadline(CpuId(0)), None);
    }

    #[test]
    fn the_hardware_timer_is_set_to_the_earlier_of_timer_and_slice() {
        let machine = Arc::new(TestMachine::new(0, 1));
        let timers = Timers::new(1);
        let armed = || machine.armed.lock()[0];
        timers.program(&machine, CpuId(0));
        assert_eq!(armed(), None);
        timers.set_slice_end(CpuId(0), Some(Nanoseconds(10)));
        timers.arm(&machine, CpuId(0), Nanoseconds(20), Nanoseconds(0), owner(1));
        assert_eq!(armed(), Some(Nanoseconds(10)));
        timers.set_slice_end(CpuId(0), None);
        timers.program(&machine, CpuId(0));
        assert_eq!(armed(), Some(Nanoseconds(20)));
    }

    proptest! {
        /// Against a list that is searched: each timer fires once, not before its deadline and not after its latest
        /// time, if the queue is looked at whenever it asks to be.
        #[test]
        fn fires_in_time(
            steps in proptest::collection::vec((0u8..3, 0u64..200, 0u64..50), 1..60)
        ) {
            let machine = Arc::new(TestMachine::new(0, 1));
            let timers = Timers::new(1);
            let cpu = CpuId(0);
            let mut now = 0;
            let mut model: Vec<(u8, u64, u64, Armed)> = Vec::new();
            for (n, (what, a, b)) in steps.into_iter().enumerate() {
                match what {
                    0 => {
                        let n = n as u8;
                        let armed = timers.arm(&machine, cpu, Nanoseconds(now + a), Nanoseconds(b), owner(n));
                        model.push((n, now + a, now + a + b, armed));
                    }
                    1 if !model.is_empty() => {
                        let (.., armed) = model.remove(a as usize % model.len());
                        prop_assert!(timers.cancel(armed));
                    }
                    _ => {
                        let end = now + a;
                        while let Some(next) = timers.next_deadline(cpu).filter(|t| t.0 <= end) {
                            now = now.max(next.0);
                            for fired in drain(&timers, cpu, now) {
                                let at = model.iter().position(|m| m.0 == fired).expect("armed");
                                let (_, earliest, latest, _) = model.remove(at);
                                prop_assert!(earliest <= now && now <= latest);
                            }
                        }
                        now = end;
                        prop_assert!(model.iter().all(|m| m.2 > now));
                    }
                }
            }
        }
    }
}
