//! One run queue: its members, who of them waits, who runs where, and the arithmetic of credit.
//!
//! Credit is measured in nanoseconds of a unit of the highest weight in the queue: a unit of half that weight pays twice
//! as much for its time. The unit with most credit runs. When the best has none left, all get more ([`Queue::reset`]).
//!
//! Nothing here locks or tells CPUs; the callers in the parent module do, and hold the queue's lock.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::sched::{Context, CpuSet, Unit};
use crate::sort::sort_by_key;
use crate::types::{CpuId, Nanoseconds};

use super::load::Load;

/// Credit that a reset gives.
pub(super) const CREDIT_INIT: i64 = 10_000_000;
/// Credit that one that sleeps may have left over from before a reset: a reward, too small to starve anyone with.
const CARRY_ASLEEP: i64 = 500_000;
/// Credit that one that runs or waits may have left over: it had no turn yet, and has a right to it.
const CARRY_ACTIVE: i64 = CREDIT_INIT;
/// Longest time slice.
const SLICE_MAX: u64 = 10_000_000;
/// Shortest time slice, when the rate limit is off or shorter.
const SLICE_MIN: u64 = 500_000;
/// How much more credit than what runs a unit needs that last ran on another CPU: what a cold cache costs.
const MIGRATION_RESISTANCE: i64 = 500_000;
/// Longest time that is charged at once (18 minutes), so that products fit.
const CHARGE_MAX: u64 = 1 << 40;

/// Where a member stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Does not want to run, or may not.
    Off,
    /// Is in the list of those that wait.
    Ready,
    /// Runs on this CPU.
    Running(CpuId),
    /// Ran on this CPU, which has yet to save its context.
    Leaving(CpuId),
}

/// A unit in a run queue.
pub(super) struct Member {
    pub(super) unit: Arc<Unit>,
    pub(super) standing: Standing,
    pub(super) credit: i64,
    /// Weight of its domain.
    pub(super) weight: u32,
    /// Where it may run, and where it should.
    pub(super) allowed: CpuSet,
    pub(super) soft: CpuSet,
    /// When it was put on its CPU.
    pub(super) started: Nanoseconds,
    /// Up to when it was charged.
    charged: Nanoseconds,
    /// What the last charge's division left over.
    residue: u64,
    /// It asked to give way once.
    pub(super) yielded: bool,
    /// Time (ns) that it may still run of what it drew from its domain's budget. Capped domains only.
    pub(super) quota: i64,
    /// Its domain's budget is spent.
    pub(super) parked: bool,
    pub(super) load: Load,
}

impl Member {
    pub(super) fn new(unit: &Arc<Unit>, now: Nanoseconds) -> Member {
        let affinity = unit.affinity();
        Member {
            unit: unit.clone(),
            standing: Standing::Off,
            credit: CREDIT_INIT,
            weight: unit.domain.weight().max(1),
            allowed: affinity.allowed(),
            soft: affinity.soft,
            started: now,
            charged: now,
            residue: 0,
            yielded: false,
            quota: 0,
            parked: false,
            load: Load::new(now),
        }
    }

    /// Whether it wants to run and may.
    pub(super) fn is_eligible(&self) -> bool {
        !self.parked && self.unit.is_runnable()
    }

    /// Whether it counts as load.
    pub(super) fn is_active(&self) -> bool {
        self.standing != Standing::Off
    }
}

/// Index of a member, stable while it is in the queue.
pub(super) type Slot = usize;

/// A run queue.
pub(super) struct Queue {
    /// Its CPUs, as far as they are the pool's now.
    pub(super) cpus: CpuSet,
    members: Vec<Option<Member>>,
    /// Slots that wait, most credit first, in order of arrival among equals.
    ready: Vec<Slot>,
    /// What runs on each CPU, by CPU number.
    current: Vec<Option<Slot>>,
    /// CPUs that run nothing.
    pub(super) idle: CpuSet,
    /// CPUs that were told to schedule and have not done so yet.
    pub(super) tickled: CpuSet,
    /// CPUs that run a unit without an end to its slice, because nobody waited.
    pub(super) endless: CpuSet,
    /// Highest weight of a member.
    max_weight: u32,
    /// Number of members that run or wait, and its average.
    pub(super) active: u32,
    pub(super) load: Load,
}

impl Queue {
    /// A queue for CPUs of `group`, of which the pool has `cpus`.
    pub(super) fn new(group: CpuSet, cpus: CpuSet) -> Queue {
        let count = group.iter().last().map_or(0, |c| c.index().saturating_add(1));
        Queue {
            cpus,
            members: Vec::new(),
            ready: Vec::new(),
            current: (0..count).map(|_| None).collect(),
            idle: cpus,
            tickled: CpuSet::EMPTY,
            endless: CpuSet::EMPTY,
            max_weight: 1,
            active: 0,
            load: Load::new(Nanoseconds(0)),
        }
    }

    // Members.

    pub(super) fn get(&self, slot: Slot) -> Option<&Member> {
        self.members.get(slot).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Member> {
        self.members.get_mut(slot).and_then(Option::as_mut)
    }

    /// All members.
    pub(super) fn members(&self) -> impl Iterator<Item = (Slot, &Member)> {
        self.members.iter().enumerate().filter_map(|(n, m)| Some((n, m.as_ref()?)))
    }

    /// Takes a member in, with its share of the load, that neither runs nor waits.
    pub(super) fn join(&mut self, member: Member, now: Nanoseconds) -> Slot {
        self.load.shift(now, self.active, member.load.at(now, 0), 0);
        self.max_weight = self.max_weight.max(member.weight);
        match self.members.iter().position(Option::is_none) {
            Some(slot) => {
                if let Some(place) = self.members.get_mut(slot) {
                    *place = Some(member);
                }
                slot
            }
            None => {
                self.members.push(Some(member));
                self.members.len().saturating_sub(1)
            }
        }
    }

    /// Lets a member go, taking it off the list of those that wait.
    pub(super) fn leave(&mut self, slot: Slot, now: Nanoseconds) -> Option<Member> {
        self.stand(slot, Standing::Off, now);
        let member = self.members.get_mut(slot)?.take()?;
        self.load.shift(now, self.active, 0, member.load.at(now, 0));
        self.reweigh();
        Some(member)
    }

    /// Finds the highest weight again.
    pub(super) fn reweigh(&mut self) {
        self.max_weight = self.members().map(|(_, m)| m.weight).max().unwrap_or(1);
    }

    /// Changes where a member stands, and all that follows from it: the list, what runs where, the loads.
    pub(super) fn stand(&mut self, slot: Slot, standing: Standing, now: Nanoseconds) {
        if standing == Standing::Ready && self.ready.is_empty() {
            // What ran up to now ran at nobody's expense; see `charge`.
            self.charge_all(now);
        }
        let Some(member) = self.get_mut(slot) else { return };
        let old = core::mem::replace(&mut member.standing, standing);
        let was_active = old != Standing::Off;
        let is_active = member.is_active();
        member.load.update(now, was_active.into());
        let credit = member.credit;
        if was_active != is_active {
            self.load.update(now, self.active);
            self.active = if is_active { self.active.saturating_add(1) } else { self.active.saturating_sub(1) };
        }
        match old {
            Standing::Ready => self.ready.retain(|&s| s != slot),
            Standing::Running(cpu) => self.set_current(cpu, None),
            Standing::Off | Standing::Leaving(_) => (),
        }
        match standing {
            Standing::Ready => {
                let members = &self.members;
                let at = self
                    .ready
                    .partition_point(|&s| members.get(s).and_then(Option::as_ref).is_some_and(|m| m.credit >= credit));
                self.ready.insert(at, slot);
            }
            Standing::Running(cpu) => self.set_current(cpu, Some(slot)),
            Standing::Off | Standing::Leaving(_) => (),
        }
    }

    fn set_current(&mut self, cpu: CpuId, slot: Option<Slot>) {
        if let Some(current) = self.current.get_mut(cpu.index()) {
            *current = slot;
        }
    }

    /// What runs on a CPU.
    pub(super) fn current(&self, cpu: CpuId) -> Option<Slot> {
        self.current.get(cpu.index()).copied().flatten()
    }

    /// Those that wait, best first.
    pub(super) fn ready(&self) -> &[Slot] {
        &self.ready
    }

    /// The pool has these of the queue's CPUs from now on. What runs on one that it has no more, its CPU takes off.
    pub(super) fn set_cpus(&mut self, cpus: CpuSet) {
        self.idle = self.idle.and(&cpus);
        cpus.without(&self.cpus).iter().for_each(|cpu| self.idle.insert(cpu));
        self.tickled = self.tickled.and(&cpus);
        self.endless = self.endless.and(&cpus);
        self.cpus = cpus;
    }

    // Credit.

    /// Charges what runs on a CPU for its time up to `now`.
    pub(super) fn charge(&mut self, cpu: CpuId, now: Nanoseconds) {
        let contested = !self.ready.is_empty();
        let max_weight = u64::from(self.max_weight);
        let Some(member) = self.current(cpu).and_then(|s| self.get_mut(s)) else { return };
        let time = now.saturating_sub(member.charged).0.min(CHARGE_MAX);
        member.charged = member.charged.max(now);
        let price = time.saturating_mul(max_weight).saturating_add(member.residue);
        let weight = u64::from(member.weight);
        member.residue = price.checked_rem(weight).unwrap_or(0);
        let price = price.checked_div(weight).unwrap_or(0);
        member.credit = member.credit.saturating_sub_unsigned(price);
        if !contested {
            // Nobody missed that time. A unit that ran alone for an hour must not owe it to all who come, only a slice.
            let slice = SLICE_MAX.saturating_mul(max_weight).checked_div(weight).unwrap_or(0);
            member.credit = member.credit.max(0i64.saturating_sub_unsigned(slice));
        }
        if member.unit.domain.cap() != 0 {
            member.quota = member.quota.saturating_sub_unsigned(time);
        }
    }

    /// Charges all that run.
    pub(super) fn charge_all(&mut self, now: Nanoseconds) {
        self.cpus.iter().for_each(|cpu| self.charge(cpu, now));
    }

    /// Gives all members more credit, so that `slot` has some.
    pub(super) fn reset(&mut self, slot: Slot, now: Nanoseconds) {
        self.charge_all(now);
        let lowest = self.get(slot).map_or(0, |m| m.credit);
        let rounds = lowest.saturating_neg().max(0).saturating_div(CREDIT_INIT).saturating_add(1);
        let more = CREDIT_INIT.saturating_mul(rounds);
        for member in self.members.iter_mut().flatten() {
            let carry = if member.is_active() { CARRY_ACTIVE } else { CARRY_ASLEEP };
            member.credit = member.credit.saturating_add(more).min(CREDIT_INIT.saturating_add(carry));
        }
        let members = &self.members;
        let credit = |s: &Slot| members.get(*s).and_then(Option::as_ref).map_or(0, |m| m.credit);
        // Stable: equals stay in order of arrival.
        sort_by_key(&mut self.ready, |s| core::cmp::Reverse(credit(s)));
    }

    // Choices.

    /// The best unit for `cpu` of those that wait and of what runs there, which is charged up to `now`. What runs stays
    /// if it has not run for the rate limit yet.
    pub(super) fn best(&self, cpu: CpuId, now: Nanoseconds, ratelimit: Nanoseconds) -> Option<Slot> {
        let running = self.current(cpu).and_then(|slot| Some((slot, self.get(slot)?)));
        let stays = running.filter(|(_, m)| m.is_eligible() && self.may_stay(m, cpu));
        if let Some((slot, member)) = stays
            && !member.yielded
            && now.saturating_sub(member.started) < ratelimit
        {
            return Some(slot);
        }
        let waits = self.ready.iter().filter_map(|&slot| Some((slot, self.get(slot)?)));
        let better = waits.filter(|(_, m)| m.allowed.contains(cpu)).find(|(_, m)| match stays {
            Some((_, running)) if !running.yielded => {
                let resistance = if m.unit.cpu() == cpu { 0 } else { MIGRATION_RESISTANCE };
                m.credit > running.credit.saturating_add(resistance)
            }
            _ => true,
        });
        better.or(stays).map(|(slot, _)| slot)
    }

    /// Whether what runs on `cpu` may go on there: it is allowed to, and no CPU that it likes better is idle.
    fn may_stay(&self, member: &Member, cpu: CpuId) -> bool {
        let better_idle = || self.idle.without(&self.tickled).and(&member.allowed).intersects(&member.soft);
        member.allowed.contains(cpu) && (member.soft.contains(cpu) || !better_idle())
    }

    /// When a unit that is put on (or left on) `cpu` at `now` has to make room, if somebody waits for it.
    pub(super) fn slice_end(
        &self,
        slot: Slot,
        cpu: CpuId,
        now: Nanoseconds,
        ratelimit: Nanoseconds,
    ) -> Option<Nanoseconds> {
        let member = self.get(slot)?;
        let waits = self.ready.iter().filter_map(|&s| self.get(s)).find(|m| m.allowed.contains(cpu))?;
        // Until its credit is down to that of the next, or is used up.
        let credit = member.credit.saturating_sub(waits.credit.max(0)).max(0).unsigned_abs();
        let time = credit.saturating_mul(u64::from(member.weight)).checked_div(u64::from(self.max_weight)).unwrap_or(0);
        // What is left of the time in which nothing preempts it, or enough to be worth a switch.
        let limited = member.started.saturating_add(ratelimit).saturating_sub(now).0.min(SLICE_MAX);
        let shortest = if limited > 0 { limited } else { SLICE_MIN };
        Some(now.saturating_add(Nanoseconds(time.clamp(shortest, SLICE_MAX))))
    }

    /// The CPU that should look at a unit that has begun to wait: one that is idle, else the one that runs the unit of
    /// least credit, if that is less than this one's. All that run must be charged.
    pub(super) fn cpu_for(&self, slot: Slot) -> Option<CpuId> {
        let member = self.get(slot)?;
        let may = self.cpus.and(&member.allowed).without(&self.tickled);
        let idle = may.and(&self.idle);
        let last = member.unit.cpu();
        for set in [idle.and(&member.soft), idle] {
            if let Some(cpu) = if set.contains(last) { Some(last) } else { set.cycle(last) } {
                return Some(cpu);
            }
        }
        let running = may.iter().filter_map(|cpu| Some((cpu, self.get(self.current(cpu)?)?.credit)));
        // Where it ran last it needs no more than what runs there has; see `best`.
        let cost = |cpu, credit: i64| if cpu == last { credit } else { credit.saturating_add(MIGRATION_RESISTANCE) };
        let cheapest = running.map(|(cpu, credit)| (cpu, cost(cpu, credit))).min_by_key(|&(_, credit)| credit);
        cheapest.filter(|&(_, credit)| credit < member.credit).map(|(cpu, _)| cpu)
    }

    /// Puts a unit on a CPU. What ran there is off it.
    pub(super) fn run(&mut self, cx: Context<'_>, slot: Slot, cpu: CpuId, now: Nanoseconds) {
        self.stand(slot, Standing::Running(cpu), now);
        if let Some(member) = self.get_mut(slot) {
            (member.started, member.charged) = (now, now);
            member.unit.start(cx, cpu, now);
        }
    }
}
