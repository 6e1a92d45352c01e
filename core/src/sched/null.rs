//! The `null` policy: each vCPU has a CPU to itself; those for which there is none wait until one is free.
//!
//! For machines that have at least as many CPUs as vCPUs: no decision is ever made when a vCPU runs or blocks.
//!
//! Lock protocol: `waiting` ([`Rank::Pool`]) serializes who is assigned to which CPU; each CPU's [`Slot`]
//! ([`Rank::RunQueue`]) guards what runs there. A unit's home is its CPU while it is assigned to one, which changes
//! under both locks.

use crate::sync::atomic::Ordering;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use radon_abi::errno::Errno;

use crate::sync::{Lock, Rank};
use crate::types::{CpuId, Nanoseconds};

use super::cpuset::SharedCpuSet;
use super::policy::{Context, Pick, Policy, PolicyKind};
use super::{CpuSet, DomainSched, Unit};

/// A unit's home when it is assigned to no CPU.
const UNASSIGNED: u64 = u64::MAX;

/// One CPU.
#[derive(Default)]
struct Slot {
    /// The unit that this CPU is for.
    assigned: Option<Arc<Unit>>,
    /// The unit that runs here.
    current: Option<Arc<Unit>>,
}

/// A slot on cache lines of its own.
#[repr(align(128))]
struct Padded(Lock<Slot>);

/// The policy.
pub struct Null {
    cpus: SharedCpuSet,
    slots: Vec<Padded>,
    waiting: Lock<VecDeque<Arc<Unit>>>,
}

impl Null {
    /// A policy for a machine of `count` CPUs and a pool of `cpus`.
    #[must_use]
    pub fn new(count: u32, cpus: CpuSet) -> Null {
        let slot = |_| Padded(Lock::new(Rank::RunQueue, Slot::default()));
        Null {
            cpus: SharedCpuSet::new(cpus),
            slots: (0..count).map(slot).collect(),
            waiting: Lock::new(Rank::Pool, VecDeque::new()),
        }
    }

    fn slot(&self, cpu: CpuId) -> Option<&Lock<Slot>> {
        self.slots.get(cpu.index()).map(|p| &p.0)
    }

    /// The slot that a unit is assigned to.
    fn home(&self, unit: &Unit) -> Option<(CpuId, &Lock<Slot>)> {
        let cpu = CpuId(u32::try_from(unit.home.load(Ordering::SeqCst)).ok()?);
        Some((cpu, self.slot(cpu)?))
    }

    /// Gives the unit a free CPU that it may use, one that it should use if possible. `waiting` is locked.
    fn assign(&self, cx: Context<'_>, unit: &Arc<Unit>) -> bool {
        let affinity = unit.affinity();
        let allowed = self.cpus.get().and(&affinity.allowed());
        let wanted = allowed.and(&affinity.soft);
        let candidates = wanted.iter().chain(allowed.without(&wanted).iter());
        for (cpu, slot) in candidates.filter_map(|c| Some((c, self.slot(c)?))) {
            let mut slot = slot.lock();
            if slot.assigned.is_none() {
                slot.assigned = Some(unit.clone());
                unit.home.store(u64::from(cpu.0), Ordering::SeqCst);
                unit.refresh_runstate(cx, cx.platform.now());
                drop(slot);
                cx.tickle(cpu);
                return true;
            }
        }
        false
    }

    /// Takes the unit's CPU away from it and gives the CPU to one that waits. `waiting` is locked.
    fn unassign(&self, cx: Context<'_>, unit: &Arc<Unit>, waiting: &mut VecDeque<Arc<Unit>>) {
        waiting.retain(|u| !Arc::ptr_eq(u, unit));
        let Some((cpu, slot)) = self.home(unit) else { return };
        {
            let mut slot = slot.lock();
            slot.assigned = None;
            unit.home.store(UNASSIGNED, Ordering::SeqCst);
        }
        cx.tickle(cpu);
        if self.cpus.get().contains(cpu)
            && let Some(n) = waiting.iter().position(|u| u.affinity().allowed().contains(cpu))
            && let Some(next) = waiting.remove(n)
        {
            self.assign(cx, &next);
        }
    }
}

impl Policy for Null {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Null
    }

    fn add(&self, cx: Context<'_>, unit: &Arc<Unit>) -> Result<(), Errno> {
        if !self.cpus.get().intersects(&unit.affinity().allowed()) {
            return Err(Errno::EINVAL);
        }
        let mut waiting = self.waiting.lock();
        if !self.assign(cx, unit) {
            log::warn!("{unit} waits for a CPU: the null scheduler has none free that it may use");
            waiting.push_back(unit.clone());
        }
        Ok(())
    }

    fn remove(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        self.unassign(cx, unit, &mut self.waiting.lock());
    }

    fn set_cpus(&self, cx: Context<'_>, cpus: CpuSet) {
        let mut waiting = self.waiting.lock();
        let old = self.cpus.get();
        self.cpus.set(cpus);
        for slot in old.without(&cpus).iter().filter_map(|c| self.slot(c)) {
            let unit = slot.lock().assigned.clone();
            if let Some(unit) = unit {
                self.unassign(cx, &unit, &mut waiting);
                waiting.push_back(unit);
            }
        }
        waiting.retain(|unit| !self.assign(cx, unit));
    }

    fn update(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let Some((cpu, slot)) = self.home(unit) else { return };
        let tickle = {
            let slot = slot.lock();
            let runs = slot.current.as_ref().is_some_and(|c| Arc::ptr_eq(c, unit));
            unit.refresh_runstate(cx, cx.platform.now());
            runs != unit.is_runnable()
        };
        if tickle {
            cx.tickle(cpu);
        }
    }

    fn give_way(&self, _: Context<'_>, _: &Arc<Unit>) {
        // Nobody else wants the CPU.
    }

    fn affinity_changed(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        let allowed = unit.affinity().allowed();
        let mut waiting = self.waiting.lock();
        if self.home(unit).is_none_or(|(cpu, _)| !allowed.contains(cpu)) {
            self.unassign(cx, unit, &mut waiting);
            if !self.assign(cx, unit) {
                waiting.push_back(unit.clone());
            }
        }
    }

    fn parameters_changed(&self, _: Context<'_>, _: &Arc<Unit>) {}

    fn schedule(&self, cx: Context<'_>, cpu: CpuId, now: Nanoseconds) -> Pick {
        let Some(slot) = self.slot(cpu) else { return Pick::IDLE };
        let mut slot = slot.lock();
        let may_run = |u: &Unit| u.is_runnable() && u.loaded_on().is_none_or(|on| on == cpu);
        let next = slot.assigned.clone().filter(|u| may_run(u));
        let same = match (&slot.current, &next) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same {
            if let Some(unit) = &slot.current {
                unit.stop(cx, now);
            }
            if let Some(unit) = &next {
                unit.start(cx, cpu, now);
            }
            slot.current.clone_from(&next);
        }
        Pick { unit: next, until: None, switched: !same }
    }

    fn context_saved(&self, cx: Context<'_>, unit: &Arc<Unit>) {
        unit.saved();
        // It may have been given another CPU meanwhile, which could not take it on before.
        if let Some((cpu, _)) = self.home(unit)
            && unit.is_runnable()
        {
            cx.tickle(cpu);
        }
    }

    fn replenish(&self, _: Context<'_>, domain: &Arc<DomainSched>, _: Nanoseconds) {
        // There are no caps here; another pool begins anew.
        domain.budget_armed.store(false, Ordering::SeqCst);
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for cpu in self.cpus.get().iter() {
            let Some(slot) = self.slot(cpu).and_then(Lock::try_lock) else { continue };
            let running = if slot.current.is_some() { "running" } else { "idle" };
            match &slot.assigned {
                Some(unit) => writeln!(out, "  {cpu}: {unit} ({running}, {:?})", unit.runstate().state())?,
                None => writeln!(out, "  {cpu}: free")?,
            }
        }
        if let Some(waiting) = self.waiting.try_lock() {
            waiting.iter().try_for_each(|unit| writeln!(out, "  {unit} waits for a CPU"))?;
        }
        Ok(())
    }
}
