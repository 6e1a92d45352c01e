//! What the scheduler records in trace buffers. Each function is a branch while nothing is recorded.

use core::sync::atomic::Ordering;

use radon_abi::trace as abi;
use radon_abi::xen::DOMID_IDLE;

use crate::hypervisor::Hypervisor;
use crate::platform::Platform;
use crate::time::State;
use crate::trace::{Trace, vcpu_word};
use crate::types::{CpuId, DomainId, Nanoseconds, VcpuId};

use super::policy::{CpuFlags, Pick};
use super::{Context, Unit};

/// A vCPU, or the idle one of a CPU, which readers expect though there is none here.
type Who = (DomainId, VcpuId);

const IDLE: DomainId = DomainId(DOMID_IDLE);

fn who(unit: &Unit) -> Who {
    (unit.domain_id, unit.vcpu_id)
}

const fn idle(cpu: CpuId) -> Who {
    (IDLE, VcpuId(cpu.0))
}

/// Records an event about a vCPU.
pub(super) fn about(hv: &Hypervisor, event: u32, unit: &Unit) {
    hv.trace.note(&*hv.platform, event, || [unit.domain_id.0.into(), unit.vcpu_id.0]);
}

/// A change of a run state, and when it was: told under the lock of its run queue, so that records of one vCPU are in
/// order whatever CPU writes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// The state before.
    pub(super) old: State,
    /// The state after.
    pub(super) new: State,
    /// The time stamp counter; 0 if nothing is recorded.
    time: u64,
}

impl Change {
    pub(super) fn new(cx: Context<'_>, old: State, new: State) -> Change {
        let time = if cx.trace.wants(abi::TRC_SCHED_RUNSTATE_CHANGE) { cx.platform.cycles() } else { 0 };
        Change { old, new, time }
    }
}

/// The changes that a pick made. They are recorded when it is known what the CPU switched to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    /// Of what ran before.
    pub(super) stopped: Option<Change>,
    /// Of what runs now.
    pub(super) started: Option<Change>,
}

/// Records a change of a run state.
pub(super) fn runstate(trace: &Trace, platform: &dyn Platform, (domain, vcpu): Who, change: Change) {
    let event = abi::TRC_SCHED_RUNSTATE_CHANGE | (change.old as u32 & 3) << 8 | (change.new as u32 & 3) << 4;
    // 0: recording began in between.
    let time = if change.time == 0 { platform.cycles() } else { change.time };
    trace.note_at(platform, time, event, [vcpu_word(domain, vcpu)]);
}

/// Records what a CPU picked, and keeps it, also while nothing is recorded: it is what ran before the next time.
pub(super) fn switch(hv: &Hypervisor, cpu: CpuId, flags: &CpuFlags, pick: &Pick, now: Nanoseconds) {
    let next = pick.unit.as_deref().map_or(idle(cpu), who);
    let word = vcpu_word(next.0, next.1);
    let before = (flags.runs.load(Ordering::Relaxed), flags.runs_since.load(Ordering::Relaxed));
    if before.0 != word {
        flags.runs.store(word, Ordering::Relaxed);
        flags.runs_since.store(now.0, Ordering::Relaxed);
    }
    if hv.trace.wants(abi::TRC_SCHED_MIN) || hv.trace.wants(abi::TRC_SCHED_VERBOSE) {
        record(hv, before, next, pick.changes, now);
    }
}

#[cold]
fn record(hv: &Hypervisor, (before, since): (u32, u64), next: Who, changes: Changes, now: Nanoseconds) {
    let (trace, platform) = (&hv.trace, &*hv.platform);
    let word = vcpu_word(next.0, next.1);
    if before == word {
        trace.note(platform, abi::TRC_SCHED_CONTINUE_RUNNING, || [word]);
        return;
    }
    let old = (DomainId((before >> 16) as u16), VcpuId(before & 0xffff));
    let (old_domain, old_vcpu) = (u32::from(old.0.0), old.1.0);
    // All of it happened at the time of the changes.
    let told = [changes.stopped, changes.started].into_iter().flatten().map(|c| c.time).find(|&t| t != 0);
    let time = told.unwrap_or_else(|| platform.cycles());
    let ran = now.0.saturating_sub(since).min(u64::from(u32::MAX)) as u32;
    let previous = [old_domain, old_vcpu, ran, u32::MAX];
    trace.note_at(platform, time, abi::TRC_SCHED_SWITCH_INFPREV, previous);
    trace.note_at(platform, time, abi::TRC_SCHED_SWITCH, [old_domain, old_vcpu, next.0.0.into(), next.1.0]);
    let stands_by = Change { old: State::Running, new: State::Runnable, time };
    let goes_on = Change { old: State::Runnable, new: State::Running, time };
    let stopped = if old.0 == IDLE { Some(stands_by) } else { changes.stopped };
    let started = if next.0 == IDLE { Some(goes_on) } else { changes.started };
    for (who, change) in [(old, stopped), (next, started)] {
        if let Some(change) = change.filter(|c| c.old != c.new) {
            runstate(trace, platform, who, change);
        }
    }
}
