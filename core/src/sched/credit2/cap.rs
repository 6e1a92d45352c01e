//! Caps: a limit on a domain's CPU time, in percent of one CPU.
//!
//! A capped domain has a budget for each period of 10 ms. A unit that is put on a CPU draws a part of it, its quota, so
//! that the others of its domain can run elsewhere at the same time; what it has left when it leaves it gives back. An
//! overrun (a slice ends when the CPU gets to it, a little late) counts against the next period. The timer of the period
//! runs only while the domain draws. Periods follow one another at their times, also when the timer comes late: otherwise
//! a domain would lose by each delay, and get less than its cap says.

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;

use crate::sched::DomainSched;
use crate::sched::policy::Context;
use crate::time::Owner;
use crate::types::Nanoseconds;

use super::queue::Member;

/// Length of a period.
const PERIOD: Nanoseconds = Nanoseconds(10_000_000);
/// Periods that are made up for at most, when the timer came so late that they went by unused.
const MISSED_MAX: u64 = 10;
/// Smallest quota, if that much is left.
const QUOTA_MIN: i64 = 500_000;

/// A domain's budget for one period, in nanoseconds of CPU time; 0 if it has no cap.
fn budget(domain: &DomainSched) -> i64 {
    i64::from(domain.cap()).saturating_mul(PERIOD.0 as i64) / 100
}

/// Sees to it that a unit of a capped domain has a quota before it runs. `false` if there is nothing left.
pub(super) fn draw(cx: Context<'_>, member: &mut Member, now: Nanoseconds) -> bool {
    let domain = &member.unit.domain;
    let total = budget(domain);
    if total == 0 {
        member.quota = 0;
        return true;
    }
    if member.quota > 0 {
        return true;
    }
    if !domain.budget_armed.swap(true, Ordering::SeqCst) {
        domain.budget.fetch_add(total, Ordering::SeqCst);
        domain.budget.fetch_min(total, Ordering::SeqCst);
        domain.budget_end.store(now.0, Ordering::SeqCst);
        arm(cx, domain, now);
    }
    // What it ran beyond its last quota was somebody's budget.
    give_back(member);
    let domain = &member.unit.domain;
    let units = i64::try_from(domain.unit_count()).unwrap_or(i64::MAX);
    let share = total.checked_div(units).unwrap_or(total).max(QUOTA_MIN);
    let mut drawn = 0;
    let _ = domain.budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        drawn = left.min(share).max(0);
        left.checked_sub(drawn)
    });
    member.quota = drawn;
    drawn > 0
}

/// A unit leaves its CPU: what is left of its quota goes back.
pub(super) fn give_back(member: &mut Member) {
    let quota = core::mem::take(&mut member.quota);
    if quota != 0 && member.unit.domain.cap() != 0 {
        member.unit.domain.budget.fetch_add(quota, Ordering::SeqCst);
    }
}

/// When the quota of a unit that runs is used up.
pub(super) fn until(member: &Member, now: Nanoseconds) -> Option<Nanoseconds> {
    let capped = member.unit.domain.cap() != 0;
    capped.then(|| now.saturating_add(Nanoseconds(member.quota.max(0).unsigned_abs())))
}

/// A period of the domain is over. Returns whether units may have been waiting for that.
pub(super) fn replenish(cx: Context<'_>, domain: &Arc<DomainSched>, now: Nanoseconds) -> bool {
    let total = budget(domain);
    if total == 0 {
        domain.budget_armed.store(false, Ordering::SeqCst);
        return true;
    }
    let untouched = domain.budget.load(Ordering::SeqCst) >= total;
    // This period, and those that have gone by as well.
    let late = now.0.saturating_sub(domain.budget_end.load(Ordering::SeqCst));
    let periods = late.checked_div(PERIOD.0).unwrap_or(0).saturating_add(1).min(MISSED_MAX);
    let total = total.saturating_mul(periods as i64);
    domain.budget.fetch_add(total, Ordering::SeqCst);
    domain.budget.fetch_min(total, Ordering::SeqCst);
    if untouched {
        domain.budget_armed.store(false, Ordering::SeqCst);
    } else {
        arm(cx, domain, now);
    }
    true
}

/// Arms the timer for the end of the period that is under way at `now`.
fn arm(cx: Context<'_>, domain: &Arc<DomainSched>, now: Nanoseconds) {
    let cpu = cx.platform.this_cpu();
    let last = domain.budget_end.load(Ordering::SeqCst);
    let into = now.0.saturating_sub(last).checked_rem(PERIOD.0).unwrap_or(0);
    let end = Nanoseconds(now.0.saturating_sub(into)).saturating_add(PERIOD);
    domain.budget_end.store(end.0, Ordering::SeqCst);
    cx.timers.arm(cx.platform, cpu, end, Nanoseconds(0), Owner::Budget(Arc::downgrade(domain)));
}
