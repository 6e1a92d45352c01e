//! The `credit2` policy: CPU time in proportion to weight, with caps, affinity and load balancing.
//!
//! CPUs are grouped into run queues (those that share a cache). Within a queue the unit with most credit runs next, on
//! whichever CPU is free; credit is paid for time at a rate that depends on weight ([`queue`]). Nothing is divided up
//! in advance, so no CPU of a queue idles while a unit waits that may run there. Between queues:
//! - a unit that wakes goes to another queue if all CPUs of its own are busy and one there is idle,
//! - a CPU that would idle takes a waiting unit from another queue,
//! - whenever credit is given out, a unit may move from the more to the less loaded queue, by load averages over about a
//!   second ([`balance`]).
//!
//! A domain with a cap has a budget of CPU time per period, from which its units draw; with the budget spent they are
//! parked until the next period ([`cap`]).
//!
//! A CPU that runs a unit for which nobody else waits sets no timer at all.
//!
//! Lock protocol: each queue has one lock ([`Rank::RunQueue`]). A unit's home (queue and slot) changes under the locks of
//! both queues; whoever wants a unit's queue reads the home, locks, and reads it again. Two queues are locked by
//! [`lock_pair`]. The idle and waiting counts and the load of a queue are published in atomics as hints for others.

mod balance;
mod cap;
mod load;
mod queue;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use radon_abi::errno::Errno;

use crate::sync::{Guard, Lock, Rank, lock_pair};
use crate::types::{CpuId, Nanoseconds};

use super::cpuset::SharedCpuSet;
use super::policy::{Context, Pick, Policy, PolicyKind};
use super::{CpuSet, DomainSched, Unit};
use queue::{Member, Queue, Slot, Standing};

/// A queue with its lock and what others may know without it, on cache lines of its own.
#[repr(align(128))]
struct Shared {
    /// The CPUs that may be the queue's.
    group: CpuSet,
    /// Those of them that the pool has.
    cpus: SharedCpuSet,
    lock: Lock<Queue>,
    /// Number of CPUs that are idle and not told to look.
    idle: AtomicU32,
    /// Number of units that wait.
    waiting: AtomicU32,
    /// Load average, in units of [`load::ONE`].
    load: AtomicU64,
}

impl Shared {
    fn publish(&self, queue: &Queue, now: Nanoseconds) {
        self.idle.store(queue.idle.without(&queue.tickled).count(), Ordering::Relaxed);
        self.waiting.store(queue.ready().len() as u32, Ordering::Relaxed);
        self.load.store(queue.load.at(now, queue.active), Ordering::Relaxed);
    }

    /// Load average per CPU.
    fn load_per_cpu(&self) -> u64 {
        self.load.load(Ordering::Relaxed).checked_div(u64::from(self.cpus.get().count())).unwrap_or(u64::MAX)
    }
}

/// The policy.
pub struct Credit2 {
    queues: Vec<Shared>,
    /// Queue of each CPU, by CPU number.
    queue_of: Vec<Option<usize>>,
}

/// A unit's home as one number.
fn pack(queue: usize, slot: Slot) -> u64 {
    (queue as u64) << 32 | (slot as u64 & 0xffff_ffff)
}

/// What [`pack`] packed.
fn unpack(home: u64) -> (usize, Slot) {
    ((home >> 32) as usize, (home & 0xffff_ffff) as usize)
}

impl Credit2 {
    /// A policy with a run queue for each of these groups of CPUs, which do not overlap, for a pool of `cpus`.
    #[must_use]
    pub fn new(groups: &[CpuSet], cpus: CpuSet) -> Credit2 {
        let shared = |&group: &CpuSet| {
            let cpus = group.and(&cpus);
            Shared {
                group,
                cpus: SharedCpuSet::new(cpus),
                lock: Lock::new(Rank::RunQueue, Queue::new(group, cpus)),
                idle: AtomicU32::new(cpus.count()),
                waiting: AtomicU32::new(0),
                load: AtomicU64::new(0),
            }
        };
        let last = groups.iter().flat_map(CpuSet::iter).max().map_or(0, |c| c.index().saturating_add(1));
        let queue_of = |cpu: usize| groups.iter().position(|g| g.contains(CpuId(cpu as u32)));
        Credit2 { queues: groups.iter().map(shared).collect(), queue_of: (0..last).map(queue_of).collect() }
    }

    fn queue_of(&self, cpu: CpuId) -> Option<usize> {
        self.queue_of.get(cpu.index()).copied().flatten()
    }

    fn shared(&self, index: usize) -> Option<&Shared> {
        self.queues.get(index)
    }

    /// Locks the queue that a unit is in.
    fn lock_home(&self, unit: &Unit) -> Option<(usize, Guard<'_, Queue>, Slot)> {
        loop {
            let home = unit.home.load(Ordering::Acquire);
            let (index, slot) = unpack(home);
            let guard = self.shared(index)?.lock.lock();
            if unit.home.load(Ordering::Acquire) == home {
                // Its home is in another pool's policy while its domain moves.
                let is_here = guard.get(slot).is_some_and(|m| core::ptr::eq(&raw const *m.unit, unit));
                return is_here.then_some((index, guard, slot));
            }
        }
    }

    /// A unit that is on no CPU begins to wait, if it is eligible: here, or where a CPU is idle. Takes over the lock.
    fn enqueue(&self, cx: Context<'_>, index: usize, queue: Guard<'_, Queue>, slot: Slot, now: Nanoseconds) {
        let Some(member) = queue.get(slot) else { return };
        member.unit.refresh_runstate(cx, now);
        if member.standing != Standing::Off || !member.is_eligible() {
            self.publish(index, &queue, now);
            return;
        }
        let (unit, allowed) = (member.unit.clone(), member.allowed);
        let stranded = !queue.cpus.intersects(&allowed);
        let elsewhere = if stranded {
            self.idle_queue(index, &allowed).or_else(|| self.least_loaded(&allowed, &member.soft))
        } else if queue.idle.without(&queue.tickled).intersects(&allowed) {
            None
        } else {
            self.idle_queue(index, &allowed)
        };
        let Some(other) = elsewhere else {
            self.wait_in(cx, index, queue, slot, now);
            return;
        };
        drop(queue);
        let moved = self.relocate(&unit, index, other, now).map(|(guard, slot)| (other, guard, slot));
        // If somebody else moved it meanwhile, it may still have to begin to wait there.
        if let Some((index, guard, slot)) = moved.or_else(|| self.lock_home(&unit)) {
            self.wait_in(cx, index, guard, slot, now);
        }
    }

    /// A unit that is off and eligible begins to wait in this queue, and a CPU hears of it.
    fn wait_in(&self, cx: Context<'_>, index: usize, mut queue: Guard<'_, Queue>, slot: Slot, now: Nanoseconds) {
        if queue.get(slot).is_some_and(|m| m.standing == Standing::Off && m.is_eligible()) {
            queue.stand(slot, Standing::Ready, now);
        }
        self.announce(cx, index, &mut queue, slot, now);
    }

    /// Makes a CPU look at a unit that waits, if one should.
    fn announce(&self, cx: Context<'_>, index: usize, queue: &mut Queue, slot: Slot, now: Nanoseconds) {
        if queue.get(slot).is_some_and(|m| m.standing == Standing::Ready) {
            queue.charge_all(now);
            // If it is nobody's turn to make room yet, all that would run on and on have to set an end to that.
            let allowed = queue.get(slot).map_or(CpuSet::EMPTY, |m| m.allowed);
            let cpus = queue.cpu_for(slot).map_or(queue.endless.and(&allowed), CpuSet::only);
            for cpu in cpus.without(&queue.tickled).iter() {
                queue.tickled.insert(cpu);
                cx.tickle(cpu);
            }
        }
        self.publish(index, queue, now);
    }

    fn publish(&self, index: usize, queue: &Queue, now: Nanoseconds) {
        if let Some(shared) = self.shared(index) {
            shared.publish(queue, now);
        }
    }

    /// Takes the best for `cpu` that its domain's budget allows; parks those that it does not.
    fn choose(&self, cx: Context<'_>, queue: &mut Queue, cpu: CpuId, now: Nanoseconds) -> Option<Slot> {
        if !queue.cpus.contains(cpu) {
            // It is leaving the pool.
            return None;
        }
        loop {
            let slot = queue.best(cpu, now, cx.ratelimit)?;
            let member = queue.get_mut(slot)?;
            if cap::draw(cx, member, now) {
                return Some(slot);
            }
            member.parked = true;
            if member.standing == Standing::Ready {
                queue.stand(slot, Standing::Off, now);
            }
        }
    }
}

impl Policy for Credit2 {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Credit2
    }

    fn add(&self, cx: Context<'_>, unit: &Arc<Unit>) -> Result<(), Errno> {
        let now = cx.platform.now();
        let member = Member::new(unit, now);
        let index = self.least_loaded(&member.allowed, &member.soft).ok_or(Errno::EINVAL)?;
        let shared = self.shared(index).ok_or(Errno::EINVAL)?;
        let mut queue = shared.lock.lock();
        let slot = queue.join(member, now);
        unit.home.store(pack(index, slot), Ordering::Release);
        self.enqueue(cx, index, queue, slot, now);
        Ok(())
    }

    fn remove(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((index, mut queue, slot)) = self.lock_home(unit) else { return };
        if let Some(mut member) = queue.leave(slot, cx.platform.now()) {
            cap::give_back(&mut member);
        }
        unit.home.store(u64::MAX, Ordering::Release);
        self.publish(index, &queue, cx.platform.now());
    }

    fn set_cpus(&self, cx: Context<'_>, cpus: CpuSet) {
        for (index, shared) in self.queues.iter().enumerate() {
            let mut queue = shared.lock.lock();
            let (old, new) = (queue.cpus, shared.group.and(&cpus));
            if old != new {
                queue.set_cpus(new);
                shared.cpus.set(new);
                self.publish(index, &queue, cx.platform.now());
            }
            drop(queue);
            old.without(&new).iter().chain(new.without(&old).iter()).for_each(|cpu| cx.tickle(cpu));
        }
    }

    fn update(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((index, mut queue, slot)) = self.lock_home(unit) else { return };
        let now = cx.platform.now();
        let runnable = unit.is_runnable();
        match queue.get(slot).map(|m| m.standing) {
            Some(Standing::Off) => return self.enqueue(cx, index, queue, slot, now),
            Some(Standing::Ready) if !runnable => queue.stand(slot, Standing::Off, now),
            Some(Standing::Running(cpu)) if !runnable => cx.tickle(cpu),
            _ => (),
        }
        unit.refresh_runstate(cx, now);
        self.publish(index, &queue, now);
    }

    fn give_way(&self, _: Context<'_>, unit: &Arc<Unit>) {
        if let Some((_, mut queue, slot)) = self.lock_home(unit)
            && let Some(member) = queue.get_mut(slot)
        {
            member.yielded = true;
        }
    }

    fn affinity_changed(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((index, mut queue, slot)) = self.lock_home(unit) else { return };
        let now = cx.platform.now();
        let affinity = unit.affinity();
        let Some(member) = queue.get_mut(slot) else { return };
        (member.allowed, member.soft) = (affinity.allowed(), affinity.soft);
        match member.standing {
            // Scheduling finds out by itself whether it may stay.
            Standing::Running(cpu) => cx.tickle(cpu),
            Standing::Leaving(_) => (),
            Standing::Ready | Standing::Off => {
                queue.stand(slot, Standing::Off, now);
                self.enqueue(cx, index, queue, slot, now);
            }
        }
    }

    fn parameters_changed(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((index, mut queue, slot)) = self.lock_home(unit) else { return };
        let now = cx.platform.now();
        queue.charge_all(now);
        let Some(member) = queue.get_mut(slot) else { return };
        member.weight = unit.domain.weight().max(1);
        cap::give_back(member);
        member.parked = false;
        let standing = member.standing;
        queue.reweigh();
        match standing {
            Standing::Off => self.enqueue(cx, index, queue, slot, now),
            // To be given a new slice.
            Standing::Running(cpu) => cx.tickle(cpu),
            Standing::Ready | Standing::Leaving(_) => (),
        }
    }

    fn schedule(&self, cx: Context<'_>, cpu: CpuId, now: Nanoseconds) -> Pick {
        let Some((index, shared)) = self.queue_of(cpu).and_then(|n| Some((n, self.shared(n)?))) else {
            return Pick::IDLE;
        };
        let mut queue = shared.lock.lock();
        queue.tickled.remove(cpu);
        queue.charge(cpu, now);
        let before = queue.current(cpu);
        let mut next = self.choose(cx, &mut queue, cpu, now);
        if let Some(slot) = before {
            if let Some(member) = queue.get_mut(slot) {
                member.yielded = false;
            }
            if next != before {
                queue.stand(slot, Standing::Leaving(cpu), now);
                if let Some(member) = queue.get_mut(slot) {
                    cap::give_back(member);
                    member.unit.stop(cx, now);
                }
            }
        }
        if next.is_none() && queue.cpus.contains(cpu) && self.others_wait(index) {
            drop(queue);
            let fetched;
            (queue, fetched) = self.steal(index, shared, cpu, now);
            next = self.choose(cx, &mut queue, cpu, now);
            if let Some(slot) = fetched.filter(|_| fetched != next) {
                // A better one came meanwhile.
                self.announce(cx, index, &mut queue, slot, now);
            }
        }
        let mut given = false;
        if let Some(slot) = next {
            if queue.get(slot).is_some_and(|m| m.credit <= 0) {
                queue.reset(slot, now);
                given = true;
            }
            if next != before {
                queue.run(cx, slot, cpu, now);
            }
            queue.idle.remove(cpu);
        } else if queue.cpus.contains(cpu) {
            queue.idle.insert(cpu);
        }
        let member = next.and_then(|slot| queue.get(slot));
        let unit = member.map(|m| m.unit.clone());
        let slice = next.and_then(|slot| queue.slice_end(slot, cpu, now, cx.ratelimit));
        let until = [slice, member.and_then(|m| cap::until(m, now))].into_iter().flatten().min();
        queue.endless.remove(cpu);
        if next.is_some() && until.is_none() {
            queue.endless.insert(cpu);
        }
        shared.publish(&queue, now);
        drop(queue);
        if given {
            self.balance(cx, index, now);
        }
        Pick { unit, until, switched: next != before }
    }

    fn context_saved(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((index, mut queue, slot)) = self.lock_home(unit) else { return unit.saved() };
        let now = cx.platform.now();
        unit.saved();
        if let Some(Standing::Leaving(_)) = queue.get(slot).map(|m| m.standing) {
            queue.stand(slot, Standing::Off, now);
            self.enqueue(cx, index, queue, slot, now);
        }
    }

    fn replenish(&self, cx: Context<'_>, domain: &Arc<DomainSched>, now: Nanoseconds) {
        if !cap::replenish(cx, domain, now) {
            return;
        }
        for unit in domain.units() {
            let Some((index, mut queue, slot)) = self.lock_home(&unit) else { continue };
            if queue.get(slot).is_some_and(|m| m.parked) {
                if let Some(member) = queue.get_mut(slot) {
                    member.parked = false;
                }
                self.enqueue(cx, index, queue, slot, now);
            }
        }
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for (n, shared) in self.queues.iter().enumerate() {
            let Some(queue) = shared.lock.try_lock() else {
                writeln!(out, "  queue {n}: busy")?;
                continue;
            };
            let load = shared.load.load(Ordering::Relaxed).saturating_mul(100) / load::ONE;
            writeln!(out, "  queue {n}: CPUs {}, idle {}, load {load} %", queue.cpus, queue.idle)?;
            for (_, m) in queue.members() {
                let parked = if m.parked { ", parked" } else { "" };
                let cap = m.unit.domain.cap();
                writeln!(
                    out,
                    "    {}: {:?}, credit {}, weight {}, cap {cap} %{parked}, CPUs {}",
                    m.unit, m.standing, m.credit, m.weight, m.allowed
                )?;
            }
        }
        Ok(())
    }
}
