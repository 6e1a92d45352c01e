//! What the scheduler schedules: one [`Unit`] per vCPU, and what the units of a domain share ([`DomainSched`]).
//!
//! Whether a unit may run follows from independent causes, each an atomic of its own: it is down, it waits for an event
//! (blocked), it is paused, its domain is paused. Whoever changes a cause then calls [`super::Policy::update`], which
//! looks at all of them under the lock of the unit's run queue. So causes need no lock and no change is lost.

use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use radon_abi::errno::Errno;

use crate::sync::{Lock, Rank};
use crate::time::{Armed, Runstate, State};
use crate::types::{CpuId, DomainId, Nanoseconds, VcpuId};
use crate::vcpu::Vcpu;

use super::{Context, CpuSet, trace};

/// The weight of a domain that nobody gave another (as Xen's).
pub const WEIGHT_DEFAULT: u16 = 256;

/// "No CPU" in atomics.
const NOWHERE: u32 = u32::MAX;

/// How a domain is scheduled, and what its units share.
pub struct DomainSched {
    /// Its units, by vCPU number.
    units: Lock<Vec<Weak<Unit>>>,
    /// Index of its CPU pool.
    pub(super) pool: AtomicU32,
    /// Number of pauses in force for the whole domain.
    pause: AtomicU32,
    /// Its share of CPU time in relation to others', 1 to 65535.
    weight: AtomicU32,
    /// Most CPU time that it may have, in percent of one CPU; 0 for no limit.
    cap: AtomicU32,
    /// Reason that [`radon_abi::sched::SCHEDOP_SHUTDOWN_CODE`] asked for: 1 + the reason, or 0.
    pub(crate) shutdown_code: AtomicU32,
    /// Nanoseconds of CPU time left in this period, when capped. Negative after an overrun.
    pub(super) budget: AtomicI64,
    /// When the period ends that the budget is for (system time), while the timer is armed.
    pub(super) budget_end: AtomicU64,
    /// Whether the timer that fills the budget is armed.
    pub(super) budget_armed: AtomicBool,
    /// Watchdogs, by number less one.
    pub(crate) watchdogs: Lock<[Option<Armed>; 2]>,
}

impl Default for DomainSched {
    fn default() -> Self {
        DomainSched {
            units: Lock::new(Rank::Timer, Vec::new()),
            pool: AtomicU32::new(0),
            pause: AtomicU32::new(0),
            weight: AtomicU32::new(u32::from(WEIGHT_DEFAULT)),
            cap: AtomicU32::new(0),
            shutdown_code: AtomicU32::new(0),
            budget: AtomicI64::new(0),
            budget_end: AtomicU64::new(0),
            budget_armed: AtomicBool::new(false),
            watchdogs: Lock::new(Rank::Vcpu, [None, None]),
        }
    }
}

impl DomainSched {
    /// Notes a unit as one of its own.
    pub(super) fn join(&self, unit: &Arc<Unit>) {
        self.units.lock().push(Arc::downgrade(unit));
    }

    /// Forgets a unit.
    pub(super) fn leave(&self, unit: &Arc<Unit>) {
        self.units.lock().retain(|u| !core::ptr::eq(u.as_ptr(), Arc::as_ptr(unit)));
    }

    /// CPU time that its units had up to `now`.
    #[must_use]
    pub fn cpu_time(&self, now: Nanoseconds) -> Nanoseconds {
        self.units().fold(Nanoseconds(0), |sum, u| sum.saturating_add(u.runstate().running(now)))
    }

    /// How many units it has.
    #[must_use]
    pub fn unit_count(&self) -> usize {
        self.units.lock().len()
    }

    /// Its units under the scheduler's care. Holds no lock while the caller looks at one.
    pub fn units(&self) -> impl Iterator<Item = Arc<Unit>> + '_ {
        let at = |n: usize| self.units.lock().get(n).map(Weak::upgrade);
        (0..).map_while(at).flatten()
    }

    /// Weight (1 to 65535).
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.load(Ordering::Relaxed)
    }

    /// Cap in percent of one CPU; 0 for none.
    #[must_use]
    pub fn cap(&self) -> u32 {
        self.cap.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, weight: Option<u16>, cap: Option<u16>) {
        if let Some(weight) = weight {
            self.weight.store(u32::from(weight), Ordering::Relaxed);
        }
        if let Some(cap) = cap {
            self.cap.store(u32::from(cap), Ordering::Relaxed);
        }
    }

    /// Number of its CPU pool.
    #[must_use]
    pub fn pool(&self) -> u32 {
        // Ordered with the causes of not running: see `Scheduler::move_domain`.
        self.pool.load(Ordering::SeqCst)
    }

    /// Says which pool a new domain is in.
    pub(crate) fn set_pool(&self, pool: u32) {
        self.pool.store(pool, Ordering::SeqCst);
    }

    /// Whether the whole domain is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.pause.load(Ordering::SeqCst) != 0
    }

    pub(super) fn add_pause(&self) {
        self.pause.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one pause back; `false` if there was none.
    pub(super) fn drop_pause(&self) -> bool {
        self.pause.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }
}

/// On which CPUs a vCPU may and should run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// Where it may run.
    pub hard: CpuSet,
    /// Where it should run if there is room.
    pub soft: CpuSet,
    /// A pin that overrides `hard` for a while (`SCHEDOP_pin_override`).
    pub pinned: Option<CpuId>,
}

impl Affinity {
    /// Where it may run, the override considered.
    #[must_use]
    pub fn allowed(&self) -> CpuSet {
        self.pinned.map_or(self.hard, CpuSet::only)
    }
}

/// Whether a vCPU has registers to start with: no, they are being set, yes.
const NEVER: u8 = 0;
const BUSY: u8 = 1;
const DONE: u8 = 2;

/// One vCPU as the scheduler sees it.
pub struct Unit {
    /// The number of its domain, for reports.
    pub domain_id: DomainId,
    /// Its number within the domain, for reports.
    pub vcpu_id: VcpuId,
    /// What it shares with the others of its domain.
    pub domain: Arc<DomainSched>,
    vcpu: spin::once::Once<Weak<Vcpu>>,
    /// [`DONE`] if it has registers to start with.
    initialised: AtomicU8,
    /// Not brought up (`VPF_down`).
    down: AtomicBool,
    /// Waits for an event (`VPF_blocked`).
    blocked: AtomicBool,
    /// The wait is a `SCHEDOP_poll`.
    pub(super) polling: AtomicBool,
    /// Number of pauses in force.
    pause: AtomicU32,
    /// The CPU whose registers hold its context, from being picked until it was saved.
    loaded: AtomicU32,
    /// The CPU that it ran on last.
    last_cpu: AtomicU32,
    /// Where its policy keeps it; the policy's own encoding.
    pub(super) home: AtomicU64,
    /// Run state: changed under the lock of the run queue only.
    runstate: Lock<Runstate>,
    affinity: Lock<Affinity>,
}

impl Unit {
    /// A unit that is down.
    #[must_use]
    pub fn new(domain_id: DomainId, vcpu_id: VcpuId, domain: &Arc<DomainSched>) -> Arc<Unit> {
        Arc::new(Unit {
            domain_id,
            vcpu_id,
            domain: domain.clone(),
            vcpu: spin::once::Once::new(),
            initialised: AtomicU8::new(NEVER),
            down: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
            polling: AtomicBool::new(false),
            pause: AtomicU32::new(0),
            loaded: AtomicU32::new(NOWHERE),
            last_cpu: AtomicU32::new(0),
            home: AtomicU64::new(u64::MAX),
            runstate: Lock::new(Rank::Timer, Runstate::new(Nanoseconds(0))),
            affinity: Lock::new(Rank::Timer, Affinity { hard: CpuSet::ALL, soft: CpuSet::ALL, pinned: None }),
        })
    }

    /// Says which vCPU this is, once, as it comes under the scheduler's care at `now`.
    pub(super) fn attach(&self, vcpu: &Arc<Vcpu>, now: Nanoseconds) {
        self.vcpu.call_once(|| Arc::downgrade(vcpu));
        *self.runstate.lock() = Runstate::new(now);
    }

    /// Its vCPU; `None` if that is gone.
    #[must_use]
    pub fn vcpu(&self) -> Option<Arc<Vcpu>> {
        self.vcpu.get().and_then(Weak::upgrade)
    }

    /// Whether nothing keeps it from running.
    #[must_use]
    pub fn is_runnable(&self) -> bool {
        !self.is_down() && !self.is_blocked() && self.pause.load(Ordering::SeqCst) == 0 && !self.domain.is_paused()
    }

    /// Whether it was given registers to start with.
    #[must_use]
    pub fn is_initialised(&self) -> bool {
        self.initialised.load(Ordering::Acquire) == DONE
    }

    /// Gives it registers to start with by `how`, once.
    ///
    /// # Errors
    /// `EEXIST` if it has them; else those of `how`.
    pub(super) fn initialise(&self, how: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
        // No lock: `how` takes that of the registers, which comes before all others.
        if self.initialised.compare_exchange(NEVER, BUSY, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return Err(Errno::EEXIST);
        }
        let result = how();
        self.initialised.store(if result.is_ok() { DONE } else { NEVER }, Ordering::Release);
        result
    }

    /// Whether it is down: not brought up, or brought down.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down.load(Ordering::SeqCst)
    }

    /// Marks it down or up; returns what it was.
    pub(super) fn set_down(&self, down: bool) -> bool {
        self.down.swap(down, Ordering::SeqCst)
    }

    /// Whether it waits for an event.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::SeqCst)
    }

    /// Marks it blocked or not; returns what it was.
    pub(super) fn set_blocked(&self, blocked: bool) -> bool {
        self.blocked.swap(blocked, Ordering::SeqCst)
    }

    pub(super) fn add_pause(&self) {
        self.pause.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes one pause back; `false` if there was none.
    pub(super) fn drop_pause(&self) -> bool {
        self.pause.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    /// The CPU that holds its context now: it runs there, or was just taken off and is not yet saved.
    #[must_use]
    pub fn loaded_on(&self) -> Option<CpuId> {
        match self.loaded.load(Ordering::SeqCst) {
            NOWHERE => None,
            cpu => Some(CpuId(cpu)),
        }
    }

    /// The CPU it runs on or ran on last.
    #[must_use]
    pub fn cpu(&self) -> CpuId {
        CpuId(self.last_cpu.load(Ordering::Relaxed))
    }

    /// Where it may and should run.
    #[must_use]
    pub fn affinity(&self) -> Affinity {
        *self.affinity.lock()
    }

    pub(super) fn change_affinity<R>(&self, change: impl FnOnce(&mut Affinity) -> R) -> R {
        change(&mut self.affinity.lock())
    }

    /// Its run state.
    #[must_use]
    pub fn runstate(&self) -> Runstate {
        *self.runstate.lock()
    }

    /// `cpu` takes it on. Under the lock of its run queue, and only if no CPU holds its context.
    pub(super) fn start(&self, cx: Context<'_>, cpu: CpuId, now: Nanoseconds) {
        self.loaded.store(cpu.0, Ordering::SeqCst);
        self.last_cpu.store(cpu.0, Ordering::Relaxed);
        self.change_runstate(cx, &mut self.runstate.lock(), State::Running, now);
    }

    /// Its context is saved: another CPU may take it on.
    pub(super) fn saved(&self) {
        self.loaded.store(NOWHERE, Ordering::SeqCst);
    }

    /// Its CPU runs something else from now on. Under the lock of its run queue.
    pub(super) fn stop(&self, cx: Context<'_>, now: Nanoseconds) {
        self.change_runstate(cx, &mut self.runstate.lock(), self.waiting_state(), now);
    }

    /// Brings the run state of a unit up to date if it is not running. Under the lock of its run queue.
    pub(super) fn refresh_runstate(&self, cx: Context<'_>, now: Nanoseconds) {
        let state = self.waiting_state();
        let mut run = self.runstate.lock();
        if run.state() != State::Running {
            self.change_runstate(cx, &mut run, state, now);
        }
    }

    fn change_runstate(&self, cx: Context<'_>, run: &mut Runstate, state: State, now: Nanoseconds) {
        if cx.trace.is_on() {
            trace::runstate(cx, self, run, state, now);
        }
        run.change(state, now);
    }

    /// The run state while not running.
    fn waiting_state(&self) -> State {
        if self.is_runnable() {
            State::Runnable
        } else if self.is_blocked() {
            State::Blocked
        } else {
            State::Offline
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.domain_id, self.vcpu_id)
    }
}

impl fmt::Debug for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
