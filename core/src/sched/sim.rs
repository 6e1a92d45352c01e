//! A deterministic machine of M CPUs that runs units under a policy, for tests: the CPU loop without guests.
//!
//! What it checks at every step, whatever the policy: a unit runs on one CPU at a time, only where it is allowed and
//! only if it is runnable.

use crate::sync::atomic::Ordering;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::policy::{Context, CpuFlags, Policy};
use super::{CpuSet, DomainSched, Unit};
use crate::testing::TestMachine;
use crate::time::{Owner, State, Timers};
use crate::trace::Trace;
use crate::types::{CpuId, DomainId, Nanoseconds, VcpuId};

pub(super) const MS: u64 = 1_000_000;

/// What a unit does with its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Job {
    /// Always wants to run.
    Hog,
    /// Runs for so long (ns of CPU time), then sleeps for so long.
    Periodic { run: u64, sleep: u64 },
}

pub(super) struct Worker {
    pub(super) unit: Arc<Unit>,
    job: Job,
    /// CPU time until it sleeps.
    left: u64,
    wakes: Option<u64>,
    /// CPU time that it had.
    pub(super) ran: u64,
    /// Longest time that it wanted to run and did not.
    pub(super) longest_wait: u64,
    waiting_since: u64,
}

#[derive(Clone, Default)]
struct Cpu {
    current: Option<usize>,
    /// Taken off and not yet saved.
    unsaved: Option<usize>,
    until: Option<u64>,
}

pub(super) struct Sim {
    pub(super) policy: Box<dyn Policy>,
    machine: Arc<TestMachine>,
    timers: Timers,
    trace: Trace,
    flags: Vec<CpuFlags>,
    cpus: Vec<Cpu>,
    pub(super) workers: Vec<Worker>,
    domains: Vec<Arc<DomainSched>>,
    /// CPUs of the pool.
    pool: CpuSet,
    ratelimit: u64,
    /// By how much timers come late.
    pub(super) timers_late: u64,
    /// Steps for which a context stays unsaved, in turn.
    pub(super) save_delays: Vec<u8>,
    saves: usize,
    pub(super) now: u64,
    /// CPU time (ns) that was idle although somebody could have used it.
    pub(super) wasted: u64,
    pub(super) switches: u64,
    pub(super) schedules: u64,
}

impl Sim {
    pub(super) fn new(policy: Box<dyn Policy>, cpus: u32) -> Sim {
        let flags: Vec<CpuFlags> = (0..cpus).map(|_| CpuFlags::default()).collect();
        Sim {
            policy,
            machine: Arc::new(TestMachine::new(0, cpus)),
            timers: Timers::new(cpus),
            trace: Trace::default(),
            flags,
            cpus: (0..cpus).map(|_| Cpu::default()).collect(),
            workers: Vec::new(),
            domains: Vec::new(),
            pool: CpuSet::first(cpus),
            ratelimit: MS,
            timers_late: 0,
            save_delays: Vec::new(),
            saves: 0,
            now: 0,
            wasted: 0,
            switches: 0,
            schedules: 0,
        }
    }

    pub(super) fn domain(&mut self, weight: u16, cap: u16) -> usize {
        let domain = Arc::new(DomainSched::default());
        domain.set(Some(weight), Some(cap));
        self.domains.push(domain);
        self.domains.len() - 1
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&dyn Policy, Context<'_>) -> R) -> R {
        let cx = Context {
            platform: &self.machine,
            timers: &self.timers,
            trace: &self.trace,
            ratelimit: Nanoseconds(self.ratelimit),
            flags: &self.flags,
        };
        f(&*self.policy, cx)
    }

    pub(super) fn add(&mut self, domain: usize, job: Job, allowed: CpuSet) -> usize {
        let n = self.workers.len();
        let unit = Unit::new(DomainId(domain as u16), VcpuId(n as u32), &self.domains[domain]);
        unit.change_affinity(|a| a.hard = allowed);
        self.with(|p, cx| p.add(cx, &unit)).unwrap();
        self.domains[domain].join(&unit);
        unit.set_down(false);
        self.with(|p, cx| p.update(cx, &unit));
        let left = match job {
            Job::Hog => u64::MAX,
            Job::Periodic { run, .. } => run,
        };
        let worker = Worker { unit, job, left, wakes: None, ran: 0, longest_wait: 0, waiting_since: self.now };
        self.workers.push(worker);
        n
    }

    pub(super) fn set_parameters(&mut self, domain: usize, weight: u16, cap: u16) {
        self.domains[domain].set(Some(weight), Some(cap));
        for unit in self.domains[domain].units() {
            self.with(|p, cx| p.parameters_changed(cx, &unit));
        }
    }

    pub(super) fn set_affinity(&mut self, worker: usize, allowed: CpuSet) {
        let unit = self.workers[worker].unit.clone();
        unit.change_affinity(|a| a.hard = allowed);
        self.with(|p, cx| p.affinity_changed(cx, &unit));
    }

    /// The pool has only these CPUs from now on. Workers that may not run there may then run anywhere.
    pub(super) fn set_cpus(&mut self, cpus: CpuSet) {
        self.pool = cpus;
        self.with(|p, cx| p.set_cpus(cx, cpus));
        for w in 0..self.workers.len() {
            let allowed = self.workers[w].unit.affinity().allowed();
            self.set_affinity(w, if allowed.intersects(&cpus) { allowed } else { CpuSet::ALL });
        }
    }

    pub(super) fn set_paused(&mut self, worker: usize, paused: bool) {
        let unit = self.workers[worker].unit.clone();
        if paused {
            unit.add_pause();
        } else {
            unit.drop_pause();
        }
        self.with(|p, cx| p.update(cx, &unit));
    }

    /// Runs until `end`.
    pub(super) fn run_to(&mut self, end: u64) {
        self.settle();
        while self.now < end {
            let next = self.next_event().min(end);
            assert!(next >= self.now);
            self.pass(next - self.now);
            self.events();
            self.settle();
        }
    }

    fn next_event(&self) -> u64 {
        let slices = self.cpus.iter().filter_map(|c| c.until);
        let timers = (0..self.cpus.len())
            .filter_map(|c| self.timers.next_deadline(CpuId(c as u32)))
            .map(|t| t.0.saturating_add(self.timers_late));
        let wakes = self.workers.iter().filter_map(|w| w.wakes);
        let sleeps = self.cpus.iter().filter_map(|c| self.now.checked_add(self.workers[c.current?].left));
        slices.chain(timers).chain(wakes).chain(sleeps).min().unwrap_or(u64::MAX).max(self.now)
    }

    /// Lets time pass, in which nothing happens.
    fn pass(&mut self, time: u64) {
        for c in 0..self.cpus.len() {
            match self.cpus[c].current {
                Some(w) => {
                    let worker = &mut self.workers[w];
                    worker.ran += time;
                    if worker.left != u64::MAX {
                        worker.left -= time;
                    }
                }
                None if self.could_use(CpuId(c as u32)) => self.wasted += time,
                None => (),
            }
        }
        self.now += time;
        self.machine.advance(Nanoseconds(time));
    }

    /// Whether somebody waits that may run on this CPU. Capped domains do not count.
    fn could_use(&self, cpu: CpuId) -> bool {
        if !self.pool.contains(cpu) {
            return false;
        }
        let runs = |n| self.cpus.iter().any(|c| c.current == Some(n) || c.unsaved == Some(n));
        self.workers.iter().enumerate().any(|(n, w)| {
            w.unit.is_runnable() && !runs(n) && w.unit.affinity().allowed().contains(cpu) && w.unit.domain.cap() == 0
        })
    }

    fn events(&mut self) {
        for c in 0..self.cpus.len() {
            self.machine.current_cpu.store(c as u32, Ordering::SeqCst);
            let cpu = CpuId(c as u32);
            while let Some((_, owner)) =
                self.timers.pop_due(cpu, Nanoseconds(self.now.saturating_sub(self.timers_late)))
            {
                let Owner::Budget(domain) = owner else { panic!("only budgets have timers here") };
                let domain = domain.upgrade().unwrap();
                self.with(|p, cx| p.replenish(cx, &domain, Nanoseconds(self.now)));
            }
            if self.cpus[c].until.is_some_and(|t| t <= self.now) {
                self.with(|_, cx| cx.tickle(cpu));
            }
            if let Some(w) = self.cpus[c].current.filter(|&w| self.workers[w].left == 0) {
                let worker = &mut self.workers[w];
                let Job::Periodic { run, sleep } = worker.job else { unreachable!() };
                (worker.left, worker.wakes) = (run, Some(self.now + sleep));
                worker.unit.set_blocked(true);
                self.with(|_, cx| cx.tickle(cpu));
            }
        }
        for w in 0..self.workers.len() {
            if self.workers[w].wakes.is_some_and(|t| t <= self.now) {
                self.workers[w].wakes = None;
                self.workers[w].waiting_since = self.now;
                self.workers[w].unit.set_blocked(false);
                let unit = self.workers[w].unit.clone();
                self.with(|p, cx| p.update(cx, &unit));
            }
        }
    }

    /// Lets all CPUs schedule that were told to, until none is.
    fn settle(&mut self) {
        let mut rounds = 0;
        while self.flags.iter().any(|f| f.needs_schedule.load(Ordering::SeqCst))
            || self.cpus.iter().any(|c| c.unsaved.is_some())
        {
            rounds += 1;
            assert!(rounds < 200, "CPUs keep telling each other to schedule");
            for c in 0..self.cpus.len() {
                self.machine.current_cpu.store(c as u32, Ordering::SeqCst);
                self.save(c);
                if self.cpus[c].unsaved.is_none() && self.flags[c].needs_schedule.swap(false, Ordering::SeqCst) {
                    self.schedule(c);
                }
            }
        }
    }

    fn save(&mut self, c: usize) {
        let Some(w) = self.cpus[c].unsaved else { return };
        self.saves += 1;
        if let Some(delay) = self.save_delays.get(self.saves % self.save_delays.len().max(1))
            && *delay > 0
            && !self.saves.is_multiple_of(*delay as usize + 1)
        {
            return;
        }
        self.cpus[c].unsaved = None;
        let unit = self.workers[w].unit.clone();
        self.with(|p, cx| p.context_saved(cx, &unit));
    }

    fn schedule(&mut self, c: usize) {
        self.schedules += 1;
        let cpu = CpuId(c as u32);
        let pick = self.with(|p, cx| p.schedule(cx, cpu, Nanoseconds(self.now)));
        let next = pick.unit.map(|u| self.workers.iter().position(|w| Arc::ptr_eq(&w.unit, &u)).unwrap());
        let before = self.cpus[c].current;
        assert_eq!(pick.switched, before != next);
        if before != next {
            self.switches += 1;
            if let Some(w) = before {
                self.workers[w].waiting_since = self.now;
                self.cpus[c].unsaved = Some(w);
            }
            if let Some(w) = next {
                let waited = self.now - self.workers[w].waiting_since;
                self.workers[w].longest_wait = self.workers[w].longest_wait.max(waited);
                for other in &self.cpus {
                    assert!(other.current != Some(w) && other.unsaved != Some(w), "on two CPUs at once");
                }
            }
            self.cpus[c].current = next;
        }
        if let Some(w) = next {
            let unit = &self.workers[w].unit;
            assert!(unit.affinity().allowed().contains(cpu), "{unit} on {cpu}, where it may not be");
            assert!(self.pool.contains(cpu), "{unit} on {cpu}, which is not the pool's");
            assert!(unit.is_runnable());
            assert_eq!(unit.loaded_on(), Some(cpu));
            assert_eq!(unit.runstate().state(), State::Running);
        }
        self.cpus[c].until = pick.until.map(|t| t.0);
        assert!(pick.until.is_none_or(|t| t.0 > self.now), "a slice of no length");
    }

    /// The share of one CPU that each worker had since `since`, when it had run `ran`.
    pub(super) fn shares(&self, since: u64, ran: &[u64]) -> Vec<f64> {
        let time = (self.now - since) as f64;
        self.workers.iter().zip(ran).map(|(w, r)| (w.ran - r) as f64 / time).collect()
    }

    pub(super) fn ran(&self) -> Vec<u64> {
        self.workers.iter().map(|w| w.ran).collect()
    }

    /// Whether any CPU has a time to schedule again at.
    pub(super) fn any_timer(&self) -> bool {
        self.cpus.iter().any(|c| c.until.is_some())
            || (0..self.cpus.len()).any(|c| self.timers.next_deadline(CpuId(c as u32)).is_some())
    }

    pub(super) fn running(&self, worker: usize) -> Option<usize> {
        self.cpus.iter().position(|c| c.current == Some(worker))
    }
}

/// The model of a perfect scheduler: CPU time is a fluid. Each of `units` (weight, cap) that always wants to run gets a
/// share of a CPU in proportion to its weight, but at most its cap and at most one CPU; what one cannot use the others
/// share.
pub(super) fn fluid(cpus: f64, units: &[(f64, f64)]) -> Vec<f64> {
    let given = |level: f64| units.iter().map(|&(w, cap)| (level * w).min(cap)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1e6);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if given(middle) < cpus { low = middle } else { high = middle }
    }
    units.iter().map(|&(w, cap)| (low * w).min(cap)).collect()
}
