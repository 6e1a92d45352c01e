//! Between run queues: where a unit is placed, moved and taken from.

use alloc::sync::Arc;

use arrayvec::ArrayVec;

use super::load::ONE;
use super::queue::{Queue, Slot, Standing};
use super::{Context, CpuId, CpuSet, Credit2, Guard, Nanoseconds, Ordering, Shared, Unit, lock_pair, pack, unpack};
use crate::sort::sort_by_key;

/// Loads per CPU that differ by less are as good as equal.
const TOLERANCE: u64 = ONE / 8;

impl Credit2 {
    /// The queue with the least load per CPU of those that have a CPU that is allowed, and one that is liked if possible.
    pub(super) fn least_loaded(&self, allowed: &CpuSet, soft: &CpuSet) -> Option<usize> {
        let liked = allowed.and(soft);
        let possible = self.queues.iter().enumerate().filter(|(_, q)| q.cpus.get().intersects(allowed));
        possible.min_by_key(|(_, q)| (!q.cpus.get().intersects(&liked), q.load_per_cpu())).map(|(n, _)| n)
    }

    /// A queue other than `than` that seems to have an idle CPU that is allowed.
    pub(super) fn idle_queue(&self, than: usize, allowed: &CpuSet) -> Option<usize> {
        let others = self.queues.iter().enumerate().filter(|&(n, _)| n != than);
        let idle = others.filter(|(_, q)| q.idle.load(Ordering::Relaxed) > 0 && q.cpus.get().intersects(allowed));
        idle.min_by_key(|(_, q)| q.load_per_cpu()).map(|(n, _)| n)
    }

    /// Moves a unit that is on no CPU and does not wait from one queue to another. Returns the latter, locked, and the
    /// unit's slot; `None` if the unit is no longer like that.
    pub(super) fn relocate(
        &self,
        unit: &Arc<Unit>,
        from: usize,
        to: usize,
        now: Nanoseconds,
    ) -> Option<(Guard<'_, Queue>, Slot)> {
        let (mut source, target) = lock_pair(&self.shared(from)?.lock, &self.shared(to)?.lock);
        let mut target = target?;
        let (index, slot) = unpack(unit.home.load(Ordering::Acquire));
        if index != from || source.get(slot)?.standing != Standing::Off {
            return None;
        }
        let slot = transfer(&mut source, slot, &mut target, to, now)?;
        self.publish(from, &source, now);
        Some((target, slot))
    }

    /// Whether units seem to wait in other queues than `index`.
    pub(super) fn others_wait(&self, index: usize) -> bool {
        self.queues.iter().enumerate().any(|(n, q)| n != index && q.waiting.load(Ordering::Relaxed) > 0)
    }

    /// A CPU of queue `index`, `here`, has nothing to run: fetches a unit that waits in another queue, the most loaded
    /// first. Returns `here`, locked, and the slot of what was fetched.
    pub(super) fn steal<'a>(
        &'a self,
        index: usize,
        here: &'a Shared,
        cpu: CpuId,
        now: Nanoseconds,
    ) -> (Guard<'a, Queue>, Option<Slot>) {
        let mut others: ArrayVec<(u64, usize), 64> = ArrayVec::new();
        for (n, other) in self.queues.iter().enumerate() {
            if n != index && other.waiting.load(Ordering::Relaxed) > 0 {
                // With more queues than that at work, the first will do.
                let _ = others.try_push((other.load_per_cpu(), n));
            }
        }
        sort_by_key(&mut others, |other| *other);
        for (n, other) in others.iter().rev().filter_map(|&(_, n)| Some((n, self.shared(n)?))) {
            let (mut target, source) = lock_pair(&here.lock, &other.lock);
            let Some(mut source) = source else { continue };
            if !target.cpus.contains(cpu) {
                // It was taken out of the queue meanwhile.
                return (target, None);
            }
            let may = |slot: &Slot| source.get(*slot).is_some_and(|m| m.allowed.contains(cpu));
            if let Some(slot) = source.ready().iter().copied().find(may) {
                source.stand(slot, Standing::Off, now);
                let fetched = transfer(&mut source, slot, &mut target, index, now);
                if let Some(slot) = fetched {
                    target.stand(slot, Standing::Ready, now);
                }
                self.publish(n, &source, now);
                return (target, fetched);
            }
        }
        (here.lock.lock(), None)
    }

    /// Moves a unit between queue `index` and the one whose load differs most from it, if that makes them more equal.
    pub(super) fn balance(&self, cx: Context<'_>, index: usize, now: Nanoseconds) {
        let Some(here) = self.shared(index) else { return };
        let own = here.load_per_cpu();
        let others = self.queues.iter().enumerate().filter(|&(n, q)| n != index && !q.cpus.get().is_empty());
        let Some((n, other)) = others.max_by_key(|(_, q)| q.load_per_cpu().abs_diff(own)) else { return };
        if other.load_per_cpu().abs_diff(own) < TOLERANCE {
            return;
        }
        let (from, to) = if other.load_per_cpu() > own { (n, index) } else { (index, n) };
        let (Some(source), Some(target)) = (self.shared(from), self.shared(to)) else { return };
        let (mut source, target) = lock_pair(&source.lock, &target.lock);
        let Some(mut target) = target else { return };
        let Some(slot) = best_to_move(&source, &target, now) else { return };
        let waits = source.get(slot).is_some_and(|m| m.standing == Standing::Ready);
        source.stand(slot, Standing::Off, now);
        let moved = transfer(&mut source, slot, &mut target, to, now);
        self.publish(from, &source, now);
        drop(source);
        if let Some(slot) = moved.filter(|_| waits) {
            self.wait_in(cx, to, target, slot, now);
        }
    }
}

/// Moves a member that neither runs nor waits; both queues are locked. Returns its new slot.
fn transfer(from: &mut Queue, slot: Slot, to: &mut Queue, index: usize, now: Nanoseconds) -> Option<Slot> {
    let member = from.leave(slot, now)?;
    let unit = member.unit.clone();
    let slot = to.join(member, now);
    unit.home.store(pack(index, slot), Ordering::Release);
    Some(slot)
}

/// The unit whose move makes the loads per CPU most equal, if any makes them more equal. What runs stays: if somebody
/// waits behind it, it will wait itself before long.
fn best_to_move(from: &Queue, to: &Queue, now: Nanoseconds) -> Option<Slot> {
    let per_cpu = |load: u64, queue: &Queue| load.checked_div(u64::from(queue.cpus.count())).unwrap_or(0);
    let (heavy, light) = (from.load.at(now, from.active), to.load.at(now, to.active));
    let apart =
        |moved: u64| per_cpu(heavy.saturating_sub(moved), from).abs_diff(per_cpu(light.saturating_add(moved), to));
    let movable = from
        .members()
        .filter(|(_, m)| m.allowed.intersects(&to.cpus) && matches!(m.standing, Standing::Ready | Standing::Off));
    let rated = movable.map(|(slot, m)| (apart(m.load.at(now, m.is_active().into())), slot));
    // Moving costs something, so it has to be worth it.
    rated.min().filter(|&(after, _)| after.saturating_add(TOLERANCE) <= apart(0)).map(|(_, slot)| slot)
}
