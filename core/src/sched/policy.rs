//! The interface between the scheduler's mechanism ([`super::Scheduler`]) and a policy: which unit runs where, for how
//! long.
//!
//! A policy owns its run queues and their locks. Its obligations:
//! - A unit is picked by one CPU at a time, and by another only after [`Policy::context_saved`].
//! - [`Policy::update`] looks at the causes of being runnable under the lock that [`Policy::schedule`] picks under.
//! - Run states change under that lock: [`super::Unit::start`] when picked, `refresh_runstate` when not running.

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use alloc::sync::Arc;
use core::fmt;

use radon_abi::errno::Errno;

use crate::platform::Platform;
use crate::time::Timers;
use crate::trace::Trace;
use crate::types::{CpuId, Nanoseconds};

use super::trace::Kept;
use super::{CpuSet, DomainSched, Unit};

/// Which policy. The numbers are the ABI's `XEN_SCHEDULER_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum PolicyKind {
    /// Fair shares by weight, with caps and load balancing.
    Credit2 = 6,
    /// One vCPU per CPU, the rest wait.
    Null = 9,
}

impl PolicyKind {
    /// The policy that `sched=` names. `credit` is served by credit2: it has all that credit has.
    ///
    /// # Errors
    /// The name, if there is no such policy here.
    pub fn from_name(name: &str) -> Result<PolicyKind, &str> {
        match name {
            "credit2" => Ok(PolicyKind::Credit2),
            "credit" => {
                log::warn!("sched=credit: using credit2, which takes its place");
                Ok(PolicyKind::Credit2)
            }
            "null" => Ok(PolicyKind::Null),
            other => Err(other),
        }
    }

    /// The policy of that number in the ABI.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<PolicyKind> {
        match number {
            6 => Some(PolicyKind::Credit2),
            9 => Some(PolicyKind::Null),
            _ => None,
        }
    }

    /// The name that `sched=` knows it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PolicyKind::Credit2 => "credit2",
            PolicyKind::Null => "null",
        }
    }
}

/// What a CPU keeps for the scheduler, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct CpuFlags {
    /// The CPU has to call [`super::Scheduler::schedule`] before it enters a guest again.
    pub(super) needs_schedule: AtomicBool,
    /// When the CPU had nothing to run any more (1 + nanoseconds), or 0 while it has.
    pub(super) idle_since: AtomicU64,
    /// Nanoseconds that it had nothing to run, up to `idle_since`.
    pub(super) idle_time: AtomicU64,
    /// How often it had nothing to run any more.
    pub(super) idle_entries: AtomicU64,
    /// The pool it belongs to; any other number for none.
    pub(super) pool: AtomicU32,
    /// Run states that this CPU's choice changed, while that is recorded.
    pub(super) changes: Kept,
}

impl CpuFlags {
    /// The CPU, which is the caller's, has or has not something to run from `now` on.
    pub(super) fn note_idle(&self, idle: bool, now: Nanoseconds) {
        let since = self.idle_since.load(Ordering::Relaxed);
        if idle == (since != 0) {
            return;
        }
        let start = now.0.saturating_add(1);
        // The sum grows before the interval ends, and an interval starts after: a reader counts none twice for long.
        self.idle_time.fetch_add(if idle { 0 } else { start.saturating_sub(since) }, Ordering::Relaxed);
        self.idle_since.store(if idle { start } else { 0 }, Ordering::Release);
        if idle {
            self.idle_entries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How long the CPU had nothing to run, up to `now`.
    pub(super) fn idle_time(&self, now: Nanoseconds) -> Nanoseconds {
        let since = self.idle_since.load(Ordering::Acquire);
        let open = if since == 0 { 0 } else { now.0.saturating_add(1).saturating_sub(since) };
        Nanoseconds(self.idle_time.load(Ordering::Relaxed).saturating_add(open))
    }
}

/// What a policy reaches of its surroundings.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The machine.
    pub platform: &'a dyn Platform,
    /// Timer queues, for budgets.
    pub timers: &'a Timers,
    /// Where changes of run states are recorded.
    pub trace: &'a Trace,
    /// Shortest time that a unit runs before another preempts it.
    pub ratelimit: Nanoseconds,
    pub(super) flags: &'a [CpuFlags],
}

impl Context<'_> {
    /// Makes `cpu` schedule soon.
    pub fn tickle(&self, cpu: CpuId) {
        let Some(flags) = self.flags.get(cpu.index()) else { return };
        // Once set, whoever set it kicked; the CPU clears it before it looks at its queue.
        if !flags.needs_schedule.swap(true, Ordering::SeqCst) && cpu != self.platform.this_cpu() {
            self.platform.kick(cpu);
        }
    }
}

/// What a policy chose for a CPU.
pub struct Pick {
    /// The unit to run; `None` to idle.
    pub unit: Option<Arc<Unit>>,
    /// When to choose again at the latest; `None` if nothing needs that.
    pub until: Option<Nanoseconds>,
    /// Whether it is another unit than before.
    pub switched: bool,
}

impl Pick {
    /// Nothing to run.
    pub const IDLE: Pick = Pick { unit: None, until: None, switched: false };
}

/// A scheduling policy for the CPUs of one pool.
pub trait Policy: Send + Sync {
    /// Which one it is.
    fn kind(&self) -> PolicyKind;

    /// Takes a unit on and places it. It is not loaded anywhere.
    ///
    /// # Errors
    /// `EINVAL` if no CPU of the pool is allowed by its affinity.
    fn add(&self, cx: Context<'_>, unit: &Arc<Unit>) -> Result<(), Errno>;

    /// Forgets a unit, which is not loaded anywhere.
    fn remove(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// The pool has these CPUs from now on. No unit is picked for another any more, and those that have changed are
    /// tickled. Afterwards [`Policy::affinity_changed`] is called for each unit.
    fn set_cpus(&self, cx: Context<'_>, cpus: CpuSet);

    /// Whether the unit is runnable may have changed: queues it and tickles a CPU, or takes it off.
    fn update(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// The unit, which runs, gives way to the others that wait now.
    fn give_way(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// The unit's affinity changed (some CPU of the pool is allowed): moves it if it may no longer be where it is.
    fn affinity_changed(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// Weight or cap of the domain changed; called for each of its units.
    fn parameters_changed(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// Picks what `cpu` (the calling one) runs next, and charges what ran.
    fn schedule(&self, cx: Context<'_>, cpu: CpuId, now: Nanoseconds) -> Pick;

    /// The context of a unit that [`Policy::schedule`] took off is in memory.
    fn context_saved(&self, cx: Context<'_>, unit: &Arc<Unit>);

    /// A new period of a capped domain starts at `now`; its units may go on.
    fn replenish(&self, cx: Context<'_>, domain: &Arc<DomainSched>, now: Nanoseconds);

    /// Writes its state for a person to read.
    ///
    /// # Errors
    /// As `out`.
    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result;
}
