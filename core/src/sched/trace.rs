//! What the scheduler records in trace buffers. Nothing here is called while nothing is recorded, but [`about`], which is
//! a branch then.
//!
//! Readers expect a switch before the changes of run states that it causes, and these in the order in which they are: a
//! change is stamped under the lock of the run queue, so that other CPUs' records of the same vCPU are before or after it.
//! So what a CPU's choice changes is kept until it is known what the CPU switched to. Changes that have another cause are
//! recorded at once.

use radon_abi::trace as abi;
use radon_abi::xen::DOMID_IDLE;

use crate::hypervisor::Hypervisor;
use crate::sync::{Lock, Rank};
use crate::time::{Runstate, State};
use crate::trace::vcpu_word;
use crate::types::{CpuId, DomainId, Nanoseconds, VcpuId};

use super::policy::{CpuFlags, Pick};
use super::{Context, Unit};

/// A vCPU, or the idle one of a CPU, which readers expect though there is none here.
type Who = (DomainId, VcpuId);

const IDLE: DomainId = DomainId(DOMID_IDLE);

fn who(unit: &Unit) -> Who {
    (unit.domain_id, unit.vcpu_id)
}

/// A change of a run state.
#[derive(Clone, Copy, Debug)]
struct Change {
    who: Who,
    old: State,
    new: State,
    /// The time stamp counter.
    time: u64,
    /// Nanoseconds in the old state.
    lasted: u64,
}

/// The changes that a CPU's choice made.
#[derive(Clone, Copy, Debug, Default)]
struct Changes {
    /// Of what ran before.
    stopped: Option<Change>,
    /// Of what runs now.
    started: Option<Change>,
}

/// Where a CPU keeps them. Only that CPU takes the lock.
pub(super) struct Kept(Lock<Changes>);

impl Default for Kept {
    fn default() -> Self {
        Kept(Lock::new(Rank::Console, Changes::default()))
    }
}

/// Records an event about a vCPU.
#[inline]
pub(super) fn about(hv: &Hypervisor, event: u32, unit: &Unit) {
    hv.trace.note(&*hv.platform, event, || [unit.domain_id.0.into(), unit.vcpu_id.0]);
}

/// A vCPU's run state is about to change. Under the lock of its run queue.
#[cold]
pub(super) fn runstate(cx: Context<'_>, unit: &Unit, run: &Runstate, new: State, now: Nanoseconds) {
    let old = run.state();
    if old == new {
        return;
    }
    let lasted = now.saturating_sub(run.since()).0;
    let change = Change { who: who(unit), old, new, time: cx.platform.cycles(), lasted };
    let mine = cx.flags.get(cx.platform.this_cpu().index()).map(|f| &f.changes);
    match (old, new, mine) {
        (State::Running, _, Some(mine)) => mine.0.lock().stopped = Some(change),
        (_, State::Running, Some(mine)) => mine.0.lock().started = Some(change),
        _ => cx.trace.note_at(cx.platform, change.time, event(change), [vcpu_word(change.who.0, change.who.1)]),
    }
}

fn event(change: Change) -> u32 {
    abi::TRC_SCHED_RUNSTATE_CHANGE | (change.old as u32 & 3) << 8 | (change.new as u32 & 3) << 4
}

/// Records what a CPU picked.
#[cold]
pub(super) fn switch(hv: &Hypervisor, cpu: CpuId, flags: &CpuFlags, pick: &Pick) {
    let (trace, platform) = (&hv.trace, &*hv.platform);
    let changes = core::mem::take(&mut *flags.changes.0.lock());
    let idle = (IDLE, VcpuId(cpu.0));
    let next = pick.unit.as_deref().map_or(idle, who);
    if !pick.switched {
        trace.note(platform, abi::TRC_SCHED_CONTINUE_RUNNING, || [vcpu_word(next.0, next.1)]);
        return;
    }
    // All of it happened at the time of the changes.
    let time = changes.stopped.or(changes.started).map_or_else(|| platform.cycles(), |c| c.time);
    let (old, ran) = changes.stopped.map_or((idle, 0), |c| (c.who, c.lasted));
    let (old_domain, old_vcpu) = (u32::from(old.0.0), old.1.0);
    let ran = ran.min(u64::from(u32::MAX)) as u32;
    trace.note_at(platform, time, abi::TRC_SCHED_SWITCH_INFPREV, [old_domain, old_vcpu, ran, u32::MAX]);
    trace.note_at(platform, time, abi::TRC_SCHED_SWITCH, [old_domain, old_vcpu, next.0.0.into(), next.1.0]);
    let stands_by = Change { who: idle, old: State::Running, new: State::Runnable, time, lasted: 0 };
    let goes_on = Change { old: State::Runnable, new: State::Running, ..stands_by };
    let stopped = changes.stopped.unwrap_or(stands_by);
    // Without a record of what runs now, recording began in the midst of the choice.
    let started = if next.0 == IDLE { Some(goes_on) } else { changes.started };
    for change in [Some(stopped), started].into_iter().flatten() {
        trace.note_at(platform, change.time, event(change), [vcpu_word(change.who.0, change.who.1)]);
    }
}
