//! Scheduling: which vCPU runs where, and what keeps it from running.
//!
//! Mechanism and policy are apart. [`Scheduler`] is the mechanism: causes of not running (blocked, down, paused), wake-up,
//! the flag that makes a CPU schedule, what happens around a switch. A [`Policy`] chooses: [`credit2`] or [`null`]. CPUs
//! and domains belong to pools, each with a policy of its own ([`pool`]); at the start all are in `Pool-0`.
//!
//! The CPU loop, on each CPU:
//!
//! ```text
//! loop {
//!     timers.expire(hv, cpu, now);
//!     if scheduler.needs_schedule(cpu) {
//!         next = scheduler.schedule(hv, cpu, now).vcpu;
//!         if next is not prev {
//!             save prev; scheduler.context_saved(hv, prev); load next;
//!         }
//!     }
//!     timers.program(platform, cpu);
//!     run the guest, or halt, until an interrupt or until needs_schedule(cpu)
//! }
//! ```
//!
//! No wake-up is lost: whoever makes something pending does so before [`Scheduler::notify`], and [`Scheduler::block`]
//! looks again after it has marked the vCPU blocked. Both sides write, then read what the other wrote, in sequentially
//! consistent order, so at least one of them sees the other.
//!
//! Lock protocol: this module holds no lock over a call of a policy. Policies use [`crate::sync::Rank::Pool`] and
//! [`crate::sync::Rank::RunQueue`].

mod cpuset;
pub mod credit2;
mod groups;
#[cfg(test)]
mod host_tests;
mod null;
pub mod ops;
mod policy;
mod pool;
mod shutdown;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
mod trace;
mod unit;
pub mod vcpu_op;

use crate::sync::atomic::{AtomicU32, Ordering, fence};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use radon_abi::errno::Errno;
use radon_abi::trace::{
    TRC_SCHED_ADJDOM, TRC_SCHED_BLOCK, TRC_SCHED_DOM_ADD, TRC_SCHED_DOM_REM, TRC_SCHED_SLEEP, TRC_SCHED_WAKE,
    TRC_SCHED_YIELD,
};

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::types::{CpuId, Nanoseconds, VcpuId};
use crate::vcpu::Vcpu;

pub use cpuset::{CPUS_MAX, CpuSet};
pub use credit2::Credit2;
pub use groups::{QUEUE_CPUS_DEFAULT, groups};
pub use null::Null;
pub use policy::{Context, Pick, Policy, PolicyKind};
pub(crate) use shutdown::watchdog_fired;
pub use shutdown::{ShutdownReason, resume, shut_down};
pub use unit::{Affinity, DomainSched, Unit, WEIGHT_DEFAULT};

use policy::CpuFlags;
use pool::{POOLS_MAX, Pool};

/// What a CPU is to do.
pub struct Decision {
    /// The vCPU to run; `None` to idle.
    pub vcpu: Option<Arc<Vcpu>>,
    /// When to schedule again at the latest. [`crate::time::Timers`] knows it, too.
    pub until: Option<Nanoseconds>,
}

/// The scheduler of a machine.
pub struct Scheduler {
    pools: [Pool; POOLS_MAX],
    /// CPUs that may share a run queue.
    groups: Vec<CpuSet>,
    cpus: Vec<CpuFlags>,
    /// Shortest time (µs) that a vCPU runs before another preempts it.
    ratelimit: AtomicU32,
}

/// A vCPU's scheduling state.
pub struct VcpuSched {
    /// What is scheduled.
    pub unit: Arc<Unit>,
}

impl VcpuSched {
    /// Of a vCPU that is down.
    #[must_use]
    pub fn new(domain: &Domain, id: VcpuId) -> Self {
        VcpuSched { unit: Unit::new(domain.id, id, &domain.sched) }
    }
}

impl Scheduler {
    /// A scheduler for the first `cpus` CPUs, all in Pool-0 under this policy.
    #[must_use]
    pub fn new(kind: PolicyKind, cpus: u32) -> Scheduler {
        Scheduler::with_groups(kind, cpus, &[CpuSet::first(cpus)])
    }

    /// As [`Scheduler::new`]; a policy with run queues has one for each of these groups of CPUs ([`groups()`]).
    #[must_use]
    pub fn with_groups(kind: PolicyKind, cpus: u32, groups: &[CpuSet]) -> Scheduler {
        let flags: Vec<CpuFlags> = (0..cpus).map(|_| CpuFlags::default()).collect();
        for cpu in &flags {
            cpu.needs_schedule.store(true, Ordering::SeqCst);
        }
        let scheduler = Scheduler {
            pools: core::array::from_fn(|_| Pool::default()),
            groups: groups.to_vec(),
            cpus: flags,
            ratelimit: AtomicU32::new(RATELIMIT_DEFAULT),
        };
        if let Some(first) = scheduler.pools.first() {
            first.open(kind, groups, cpus, CpuSet::first(cpus));
        }
        scheduler
    }

    /// The policy of Pool-0.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        self.pool_kind(0).unwrap_or(PolicyKind::Null)
    }

    fn context<'a>(&'a self, hv: &'a Hypervisor) -> Context<'a> {
        let ratelimit = Nanoseconds::from_micros(u64::from(self.ratelimit_us()));
        Context { platform: &*hv.platform, timers: &hv.timers, trace: &hv.trace, ratelimit, flags: &self.cpus }
    }

    fn policy_of(&self, unit: &Unit) -> Option<&dyn Policy> {
        self.policy_of_pool(unit.domain.pool())
    }

    fn update(&self, hv: &Hypervisor, unit: &Arc<Unit>) {
        if let Some(policy) = self.policy_of(unit) {
            policy.update(self.context(hv), unit);
        }
    }

    // What the CPU loop calls.

    /// Whether `cpu` has to call [`Scheduler::schedule`] before it enters a guest. One load; for every exit.
    #[must_use]
    pub fn needs_schedule(&self, cpu: CpuId) -> bool {
        self.cpus.get(cpu.index()).is_some_and(|c| c.needs_schedule.load(Ordering::Acquire))
    }

    /// Makes `cpu` schedule soon.
    pub fn request(&self, hv: &Hypervisor, cpu: CpuId) {
        self.context(hv).tickle(cpu);
    }

    /// Picks what `cpu`, the caller's, runs next. If that is not what ran before, the caller saves what ran before and
    /// then calls [`Scheduler::context_saved`], at once.
    pub fn schedule(&self, hv: &Hypervisor, cpu: CpuId, now: Nanoseconds) -> Decision {
        if let Some(flags) = self.cpus.get(cpu.index()) {
            // Before looking at anything: a request from now on stands for the next time.
            flags.needs_schedule.swap(false, Ordering::SeqCst);
        }
        let pick = self.policy_of_cpu(cpu).map_or(Pick::IDLE, |p| p.schedule(self.context(hv), cpu, now));
        hv.timers.set_slice_end(cpu, pick.until);
        if let Some(flags) = self.cpus.get(cpu.index()) {
            flags.note_idle(pick.unit.is_none(), now);
            if hv.trace.is_on() {
                trace::switch(hv, cpu, flags, &pick);
            }
        }
        let vcpu = pick.unit.and_then(|u| u.vcpu());
        if let Some(vcpu) = vcpu.as_ref().filter(|_| pick.switched) {
            vcpu.move_timers(hv, cpu);
            vcpu.publish_runstate(hv);
        }
        Decision { vcpu, until: pick.until }
    }

    /// The registers of a vCPU that [`Scheduler::schedule`] took off this CPU are in memory: it may run elsewhere.
    pub fn context_saved(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        // The guest's other vCPUs may look at how long this one waits. Before it can run again, so that this does not
        // overwrite what the next CPU publishes.
        vcpu.publish_runstate(hv);
        let unit = &vcpu.sched.unit;
        match self.policy_of(unit) {
            Some(policy) => policy.context_saved(self.context(hv), unit),
            None => unit.saved(),
        }
    }

    // vCPUs come and go.

    /// Takes a new vCPU on. It is down.
    ///
    /// # Errors
    /// `EINVAL` if no CPU of its domain's pool is allowed by its affinity.
    pub fn add_vcpu(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        let unit = &vcpu.sched.unit;
        unit.attach(vcpu, hv.platform.now());
        self.policy_of(unit).ok_or(Errno::EINVAL)?.add(self.context(hv), unit)?;
        unit.domain.join(unit);
        trace::about(hv, TRC_SCHED_DOM_ADD, unit);
        vcpu.publish_clock(hv);
        Ok(())
    }

    /// Forgets a vCPU, with its timers and areas. It must be paused for good.
    ///
    /// # Errors
    /// `EAGAIN` while a CPU still holds its context.
    pub fn remove_vcpu(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) -> Result<(), Errno> {
        let unit = &vcpu.sched.unit;
        if unit.loaded_on().is_some() {
            return Err(Errno::EAGAIN);
        }
        unit.domain.leave(unit);
        trace::about(hv, TRC_SCHED_DOM_REM, unit);
        if let Some(policy) = self.policy_of(unit) {
            policy.remove(self.context(hv), unit);
        }
        vcpu.stop_time(hv);
        Ok(())
    }

    // Blocking and waking.

    /// Something may be pending for the vCPU: wakes it if it is blocked, makes it leave guest mode if it runs on another
    /// CPU. Whatever is pending was made visible before the call.
    pub fn notify(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        let unit = &vcpu.sched.unit;
        // What is pending was written before what is read now: see the module's documentation.
        fence(Ordering::SeqCst);
        if unit.is_blocked() {
            self.wake(hv, vcpu);
        } else if let Some(cpu) = unit.loaded_on()
            && cpu != hv.platform.this_cpu()
        {
            hv.platform.kick(cpu);
        }
    }

    /// Ends a vCPU's block or poll, if it is in one.
    pub fn wake(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        let unit = &vcpu.sched.unit;
        if !unit.is_blocked() {
            return;
        }
        ops::end_poll(hv, vcpu);
        if unit.set_blocked(false) {
            self.update(hv, unit);
            trace::about(hv, TRC_SCHED_WAKE, unit);
        }
    }

    /// The vCPU, which is the one that runs on this CPU, waits until [`Scheduler::notify`], unless `pending` finds
    /// something to do. Returns whether it blocked; the CPU then schedules before it enters a guest again.
    pub fn block(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>, pending: impl FnOnce() -> bool) -> bool {
        let unit = &vcpu.sched.unit;
        unit.set_blocked(true);
        fence(Ordering::SeqCst);
        if pending() {
            unit.set_blocked(false);
            return false;
        }
        trace::about(hv, TRC_SCHED_BLOCK, unit);
        self.request(hv, hv.platform.this_cpu());
        true
    }

    /// The vCPU, which is the one that runs on this CPU, gives way to others that wait now.
    pub fn yield_now(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        let unit = &vcpu.sched.unit;
        if let Some(policy) = self.policy_of(unit) {
            policy.give_way(self.context(hv), unit);
        }
        trace::about(hv, TRC_SCHED_YIELD, unit);
        self.request(hv, hv.platform.this_cpu());
    }

    // Pausing and hotplug.

    /// Brings a vCPU up, which has been given its first registers. Returns whether it was down.
    pub fn bring_up(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) -> bool {
        // Those who set registers themselves (domain building, an INIT-SIPI) come here directly.
        let _ = vcpu.sched.unit.initialise(|| Ok(()));
        let was_down = vcpu.sched.unit.set_down(false);
        if was_down {
            self.update(hv, &vcpu.sched.unit);
        }
        was_down
    }

    /// Brings a vCPU down. It may run on for a moment, unless it is the caller's.
    pub fn take_down(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        if !vcpu.sched.unit.set_down(true) {
            self.update(hv, &vcpu.sched.unit);
        }
    }

    /// Pauses a vCPU until [`Scheduler::unpause`]; pauses count. It may run on for a moment, unless it is the caller's.
    pub fn pause(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        vcpu.sched.unit.add_pause();
        self.update(hv, &vcpu.sched.unit);
        trace::about(hv, TRC_SCHED_SLEEP, &vcpu.sched.unit);
    }

    /// Takes one pause of a vCPU back.
    pub fn unpause(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
        if vcpu.sched.unit.drop_pause() {
            self.update(hv, &vcpu.sched.unit);
            trace::about(hv, TRC_SCHED_WAKE, &vcpu.sched.unit);
        }
    }

    /// Pauses a vCPU and waits until no CPU holds its context. Must not be called for the caller's own vCPU, nor with a
    /// lock held. See [`Scheduler::wait_until_off`] for `caller`.
    ///
    /// # Errors
    /// As [`Scheduler::wait_until_off`]; the vCPU is then not paused.
    pub fn pause_sync(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>, caller: &Vcpu) -> Result<(), Errno> {
        self.pause(hv, vcpu);
        self.wait_until_off(hv, vcpu, caller).inspect_err(|_| self.unpause(hv, vcpu))
    }

    /// Pauses all vCPUs of a domain until [`Scheduler::unpause_domain`]; pauses count.
    pub fn pause_domain(&self, hv: &Hypervisor, domain: &DomainSched) {
        domain.add_pause();
        domain.units().for_each(|u| {
            self.update(hv, &u);
            trace::about(hv, TRC_SCHED_SLEEP, &u);
        });
    }

    /// Pauses all vCPUs of a domain, not the caller's, and waits until no CPU holds the context of one. No lock may be
    /// held. See [`Scheduler::wait_until_off`] for `caller`.
    ///
    /// # Errors
    /// As [`Scheduler::wait_until_off`]; the domain is then not paused.
    pub fn pause_domain_sync(&self, hv: &Hypervisor, domain: &Domain, caller: &Vcpu) -> Result<(), Errno> {
        self.pause_domain(hv, &domain.sched);
        let off = domain.vcpus().iter().try_for_each(|v| self.wait_until_off(hv, v, caller));
        off.inspect_err(|_| {
            self.unpause_domain(hv, &domain.sched);
        })
    }

    /// Takes one pause of a domain back. `false` if it was not paused.
    pub fn unpause_domain(&self, hv: &Hypervisor, domain: &DomainSched) -> bool {
        let was_paused = domain.drop_pause();
        if was_paused {
            domain.units().for_each(|u| {
                self.update(hv, &u);
                trace::about(hv, TRC_SCHED_WAKE, &u);
            });
        }
        was_paused
    }

    /// Waits until no CPU holds the context of a vCPU that was paused. No lock may be held. `caller` is the vCPU on whose
    /// behalf this CPU waits: if something wants that one off this CPU, too, two CPUs could wait for each other for
    /// ever, so waiting is given up. A vCPU does not wait for itself.
    ///
    /// # Errors
    /// `EAGAIN`: given up. The caller backs out and lets its vCPU try again.
    pub fn wait_until_off(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>, caller: &Vcpu) -> Result<(), Errno> {
        let unit = &vcpu.sched.unit;
        if core::ptr::eq(Arc::as_ptr(vcpu), caller) {
            return Ok(());
        }
        while unit.loaded_on().is_some() {
            if !caller.sched.unit.is_runnable() {
                return Err(Errno::EAGAIN);
            }
            if unit.is_runnable() {
                // Somebody else took the pause back: nothing to wait for.
                return Err(Errno::EAGAIN);
            }
            hv.platform.relax();
        }
        Ok(())
    }

    // Parameters.

    /// Says where a vCPU may and should run, as far as given.
    ///
    /// # Errors
    /// `EINVAL` if that leaves no CPU of its pool; nothing has changed.
    pub fn set_affinity(
        &self,
        hv: &Hypervisor,
        vcpu: &Arc<Vcpu>,
        hard: Option<CpuSet>,
        soft: Option<CpuSet>,
    ) -> Result<(), Errno> {
        self.change_affinity(hv, vcpu, |a| {
            a.hard = hard.unwrap_or(a.hard);
            a.soft = soft.unwrap_or(a.soft);
        })
    }

    /// Pins a vCPU to a CPU whatever its affinity, or ends that.
    ///
    /// # Errors
    /// `EINVAL` if the CPU is not of its pool, or there was no pin to end. `EBUSY` if it is pinned so already.
    pub fn pin_override(&self, hv: &Hypervisor, vcpu: &Arc<Vcpu>, cpu: Option<CpuId>) -> Result<(), Errno> {
        match (vcpu.sched.unit.affinity().pinned, cpu) {
            (Some(_), Some(_)) => return Err(Errno::EBUSY),
            (None, None) => return Err(Errno::EINVAL),
            _ => (),
        }
        self.change_affinity(hv, vcpu, |a| a.pinned = cpu)
    }

    fn change_affinity(
        &self,
        hv: &Hypervisor,
        vcpu: &Arc<Vcpu>,
        change: impl FnOnce(&mut Affinity),
    ) -> Result<(), Errno> {
        let unit = &vcpu.sched.unit;
        let policy = self.policy_of(unit).ok_or(Errno::EINVAL)?;
        let cpus = self.pool_cpus(unit.domain.pool()).ok_or(Errno::EINVAL)?;
        unit.change_affinity(|a| {
            let mut new = *a;
            change(&mut new);
            if !new.allowed().intersects(&cpus) {
                return Err(Errno::EINVAL);
            }
            *a = new;
            Ok(())
        })?;
        policy.affinity_changed(self.context(hv), unit);
        Ok(())
    }

    /// Sets weight and cap of a domain, as far as given.
    ///
    /// # Errors
    /// `EINVAL` for a weight of 0. `EOPNOTSUPP` if its policy knows neither.
    pub fn set_parameters(
        &self,
        hv: &Hypervisor,
        domain: &DomainSched,
        weight: Option<u16>,
        cap: Option<u16>,
    ) -> Result<(), Errno> {
        if self.pool_kind(domain.pool()) == Some(PolicyKind::Null) {
            return Err(Errno::EOPNOTSUPP);
        }
        if weight == Some(0) {
            return Err(Errno::EINVAL);
        }
        domain.set(weight, cap);
        if let Some(unit) = domain.units().next() {
            hv.trace.note(&*hv.platform, TRC_SCHED_ADJDOM, || [unit.domain_id.0.into()]);
        }
        for unit in domain.units() {
            if let Some(policy) = self.policy_of(&unit) {
                policy.parameters_changed(self.context(hv), &unit);
            }
        }
        Ok(())
    }

    /// Shortest time (µs) that a vCPU runs before another preempts it; 0 for no limit.
    #[must_use]
    pub fn ratelimit_us(&self) -> u32 {
        self.ratelimit.load(Ordering::Relaxed)
    }

    /// Sets [`Scheduler::ratelimit_us`].
    ///
    /// # Errors
    /// `EINVAL` unless it is 0 or 100 to 500,000 (`XEN_SYSCTL_SCHED_RATELIMIT_*`).
    pub fn set_ratelimit_us(&self, limit: u32) -> Result<(), Errno> {
        if limit != 0 && !(100..=500_000).contains(&limit) {
            return Err(Errno::EINVAL);
        }
        self.ratelimit.store(limit, Ordering::Relaxed);
        Ok(())
    }

    /// How long a CPU was idle up to now.
    #[must_use]
    pub fn idle_time(&self, hv: &Hypervisor, cpu: CpuId) -> Nanoseconds {
        let now = hv.platform.now();
        self.cpus.get(cpu.index()).map_or(Nanoseconds(0), |c| c.idle_time(now))
    }

    /// How often a CPU became idle.
    #[must_use]
    pub fn idle_entries(&self, cpu: CpuId) -> u64 {
        self.cpus.get(cpu.index()).map_or(0, |c| c.idle_entries.load(Ordering::Relaxed))
    }

    /// A new period of a capped domain starts.
    pub(crate) fn replenish(&self, hv: &Hypervisor, domain: &Arc<DomainSched>, now: Nanoseconds) {
        if let Some(policy) = self.policy_of_pool(domain.pool()) {
            policy.replenish(self.context(hv), domain, now);
        }
    }

    /// Writes the state of all run queues, for debug key `r`.
    ///
    /// # Errors
    /// As `out`.
    pub fn dump(&self, hv: &Hypervisor, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "scheduling at {}", hv.platform.now())?;
        for (n, pool) in self.pools.iter().enumerate() {
            if let Some(policy) = pool.policy() {
                writeln!(out, "Pool-{n}: {}, CPUs {}", policy.kind().name(), pool.cpus())?;
                policy.dump(out)?;
            }
        }
        Ok(())
    }
}

/// [`Scheduler::ratelimit_us`] when nobody set another (as Xen's `sched_ratelimit_us`).
pub const RATELIMIT_DEFAULT: u32 = 1000;
