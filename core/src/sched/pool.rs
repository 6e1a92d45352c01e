//! CPU pools: which CPUs are scheduled by which policy, and which domains run there.
//!
//! A CPU is in one pool or in none, a domain is in one. Pools are slots of a fixed table, so that finding the policy of a
//! CPU or a unit takes no lock. A slot keeps the policies that it ever had: they are empty when the pool is given up.
//!
//! Who changes pools ([`Scheduler::create_pool`] and below) sees to it that nobody else does at the same time
//! ([`crate::control::Control::enter`]). A CPU leaves its pool in steps: the policy picks nothing for it any more; the
//! CPU itself takes off what runs there; then it is free.

use crate::sync::atomic::{AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use spin::once::Once;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::types::CpuId;
use crate::vcpu::Vcpu;

use super::cpuset::SharedCpuSet;
use super::{CpuSet, Credit2, Null, Policy, PolicyKind, Scheduler};

/// Most pools at a time.
pub(super) const POOLS_MAX: usize = 16;
/// The number of no pool, in [`super::policy::CpuFlags`].
const NO_POOL: u32 = u32::MAX;
/// The number of no policy.
const NONE: u32 = 0;

/// CPUs with a policy of their own, or room for such.
#[derive(Default)]
pub(super) struct Pool {
    /// The number of its [`PolicyKind`], or [`NONE`] if there is no such pool.
    kind: AtomicU32,
    cpus: SharedCpuSet,
    credit2: Once<Box<Credit2>>,
    null: Once<Box<Null>>,
}

impl Pool {
    /// Makes it a pool of `cpus`, on a machine of `count` CPUs of which these groups may share a run queue.
    pub(super) fn open(&self, kind: PolicyKind, groups: &[CpuSet], count: u32, cpus: CpuSet) {
        match kind {
            PolicyKind::Credit2 => _ = self.credit2.call_once(|| Box::new(Credit2::new(groups, cpus))),
            PolicyKind::Null => _ = self.null.call_once(|| Box::new(Null::new(count, cpus))),
        }
        self.cpus.set(cpus);
        self.kind.store(kind as u32, Ordering::SeqCst);
    }

    pub(super) fn policy(&self) -> Option<&dyn Policy> {
        match PolicyKind::from_number(self.kind.load(Ordering::SeqCst))? {
            PolicyKind::Credit2 => self.credit2.get().map(|p| &**p as &dyn Policy),
            PolicyKind::Null => self.null.get().map(|p| &**p as &dyn Policy),
        }
    }

    pub(super) fn cpus(&self) -> CpuSet {
        self.cpus.get()
    }
}

impl Scheduler {
    fn pool(&self, pool: u32) -> Option<&Pool> {
        self.pools.get(pool as usize).filter(|p| p.kind.load(Ordering::SeqCst) != NONE)
    }

    pub(super) fn policy_of_pool(&self, pool: u32) -> Option<&dyn Policy> {
        self.pools.get(pool as usize).and_then(Pool::policy)
    }

    pub(super) fn policy_of_cpu(&self, cpu: CpuId) -> Option<&dyn Policy> {
        self.policy_of_pool(self.cpus.get(cpu.index())?.pool.load(Ordering::SeqCst))
    }

    /// The policy of a pool; `None` if there is no such pool.
    #[must_use]
    pub fn pool_kind(&self, pool: u32) -> Option<PolicyKind> {
        self.pool(pool).and_then(Pool::policy).map(Policy::kind)
    }

    /// The CPUs of a pool; `None` if there is no such pool.
    #[must_use]
    pub fn pool_cpus(&self, pool: u32) -> Option<CpuSet> {
        self.pool(pool).map(Pool::cpus)
    }

    /// The first pool of this number or a higher one.
    #[must_use]
    pub fn pool_from(&self, pool: u32) -> Option<u32> {
        (pool..POOLS_MAX as u32).find(|&n| self.pool(n).is_some())
    }

    /// The CPUs that are in no pool.
    #[must_use]
    pub fn free_cpus(&self) -> CpuSet {
        let free = |&(_, f): &(usize, &super::CpuFlags)| f.pool.load(Ordering::SeqCst) == NO_POOL;
        self.cpus.iter().enumerate().filter(free).map(|(n, _)| CpuId(n as u32)).collect()
    }

    /// Makes a pool without CPUs, of a number that is wanted or the lowest free one.
    ///
    /// # Errors
    /// `EEXIST`: there is one of that number. `EINVAL`: no pool can have it. `ENOSPC`: there are as many as can be.
    pub fn create_pool(&self, wanted: Option<u32>, kind: PolicyKind) -> Result<u32, Errno> {
        let number = match wanted {
            Some(n) if n as usize >= POOLS_MAX => return Err(Errno::EINVAL),
            Some(n) if self.pool(n).is_some() => return Err(Errno::EEXIST),
            Some(n) => n,
            None => (0..POOLS_MAX as u32).find(|&n| self.pool(n).is_none()).ok_or(Errno::ENOSPC)?,
        };
        let pool = self.pools.get(number as usize).ok_or(Errno::EINVAL)?;
        pool.open(kind, &self.groups, self.cpus.len() as u32, CpuSet::EMPTY);
        Ok(number)
    }

    /// Gives a pool up.
    ///
    /// # Errors
    /// `ENOENT`: there is none. `EBUSY`: it has CPUs or domains, or it is Pool-0.
    pub fn destroy_pool(&self, hv: &Hypervisor, number: u32) -> Result<(), Errno> {
        let pool = self.pool(number).ok_or(Errno::ENOENT)?;
        let leaving = self.cpus.iter().any(|c| c.pool.load(Ordering::SeqCst) == number);
        if number == 0 || leaving || !pool.cpus().is_empty() || hv.domains.count(|d| d.sched.pool() == number) != 0 {
            return Err(Errno::EBUSY);
        }
        pool.kind.store(NONE, Ordering::SeqCst);
        Ok(())
    }

    /// Puts a CPU that is in no pool into one; the lowest if none is named.
    ///
    /// # Errors
    /// `ENOENT`: no such pool. `EBUSY`: the CPU is not free, or none is. `EINVAL`: no such CPU.
    pub fn add_pool_cpu(&self, hv: &Hypervisor, number: u32, cpu: Option<CpuId>) -> Result<(), Errno> {
        let pool = self.pool(number).ok_or(Errno::ENOENT)?;
        let cpu = cpu.or_else(|| self.free_cpus().lowest()).ok_or(Errno::EBUSY)?;
        let flags = self.cpus.get(cpu.index()).ok_or(Errno::EINVAL)?;
        if flags.pool.load(Ordering::SeqCst) != NO_POOL {
            return Err(Errno::EBUSY);
        }
        flags.pool.store(number, Ordering::SeqCst);
        let mut cpus = pool.cpus();
        cpus.insert(cpu);
        self.set_pool_cpus(hv, number, cpus);
        Ok(())
    }

    /// Takes a CPU out of its pool. vCPUs that may run nowhere else may then run anywhere.
    /// `caller` asks for it.
    ///
    /// # Errors
    /// `ENOENT`: no such pool. `EINVAL`: the CPU is not in it. `EBUSY`: it is the last, and domains need it. `EAGAIN`: it
    /// has to take off what it runs first, which may be `caller`; to be tried again with the same CPU.
    pub fn remove_pool_cpu(&self, hv: &Hypervisor, number: u32, cpu: CpuId, caller: &Vcpu) -> Result<(), Errno> {
        let pool = self.pool(number).ok_or(Errno::ENOENT)?;
        let mut cpus = pool.cpus();
        let flags = self.cpus.get(cpu.index()).ok_or(Errno::EINVAL)?;
        if flags.pool.load(Ordering::SeqCst) != number {
            return Err(Errno::EINVAL);
        }
        if cpus.contains(cpu) {
            cpus.remove(cpu);
            if cpus.is_empty() && self.domains_of(hv, number).iter().any(|d| !d.control.is_dying()) {
                return Err(Errno::EBUSY);
            }
            self.set_pool_cpus(hv, number, cpus);
        }
        self.request(hv, cpu);
        while self.is_used(hv, cpu) {
            if cpu == hv.platform.this_cpu() || !caller.sched.unit.is_runnable() {
                return Err(Errno::EAGAIN);
            }
            hv.platform.relax();
        }
        flags.pool.store(NO_POOL, Ordering::SeqCst);
        Ok(())
    }

    /// Whether some vCPU's context is on a CPU.
    fn is_used(&self, hv: &Hypervisor, cpu: CpuId) -> bool {
        hv.domains.count(|d| d.vcpus().iter().any(|v| v.sched.unit.loaded_on() == Some(cpu))) != 0
    }

    fn set_pool_cpus(&self, hv: &Hypervisor, number: u32, cpus: CpuSet) {
        let Some(pool) = self.pool(number) else { return };
        let Some(policy) = pool.policy() else { return };
        pool.cpus.set(cpus);
        policy.set_cpus(self.context(hv), cpus);
        for domain in self.domains_of(hv, number) {
            for unit in domain.sched.units() {
                if !cpus.is_empty() && !unit.affinity().allowed().intersects(&cpus) {
                    log::info!("{unit} may run on any CPU from now on: its pool has none of those it was for");
                    unit.change_affinity(|a| (a.hard, a.pinned) = (CpuSet::ALL, None));
                }
                policy.affinity_changed(self.context(hv), &unit);
            }
        }
    }

    fn domains_of(&self, hv: &Hypervisor, pool: u32) -> Vec<Arc<Domain>> {
        let mut found = Vec::new();
        let mut next = Some(crate::types::DomainId(0));
        while let Some(from) = next
            && let Some(domain) = hv.domains.next_from(from)
        {
            next = domain.id.0.checked_add(1).map(crate::types::DomainId);
            if domain.sched.pool() == pool {
                found.push(domain);
            }
        }
        found
    }

    /// Moves a domain, which is not the caller's, to another pool. Its vCPUs may then run on any CPU of that.
    ///
    /// # Errors
    /// `ENOENT`: no such pool. `EBUSY`: it has no CPUs. `EAGAIN`: as [`Scheduler::wait_until_off`]. `ESRCH`: the domain
    /// is dying.
    pub fn move_domain(&self, hv: &Hypervisor, domain: &Domain, number: u32, caller: &Vcpu) -> Result<(), Errno> {
        let new = self.pool(number).ok_or(Errno::ENOENT)?;
        let policy = new.policy().ok_or(Errno::ENOENT)?;
        if domain.sched.pool() == number {
            return Ok(());
        }
        if domain.control.is_dying() {
            return Err(Errno::ESRCH);
        }
        if new.cpus().is_empty() {
            return Err(Errno::EBUSY);
        }
        self.pause_domain_sync(hv, domain, caller)?;
        let old = self.policy_of_pool(domain.sched.pool());
        let units: Vec<_> = domain.sched.units().collect();
        for unit in &units {
            if let Some(old) = old {
                old.remove(self.context(hv), unit);
            }
            unit.change_affinity(|a| (a.hard, a.soft, a.pinned) = (CpuSet::ALL, CpuSet::ALL, None));
        }
        // Before whether they are runnable is looked at: who changes that afterwards tells the new policy.
        domain.sched.pool.store(number, Ordering::SeqCst);
        for unit in &units {
            // The pool has CPUs and the unit may run on all.
            let _ = policy.add(self.context(hv), unit);
        }
        self.unpause_domain(hv, &domain.sched);
        Ok(())
    }
}
