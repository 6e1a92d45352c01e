//! Schedulers and CPU pools.

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::{CpupoolOp, SchedId, SchedulerOp};

use super::{read, write};
use crate::control::bitmap;
use crate::hypercall::{Args, Caller, OpResult, Outcome};
use crate::sched::PolicyKind;
use crate::types::{CpuId, DomainId};

/// `XEN_SYSCTL_sched_id`: the scheduler of Pool-0. Never fails.
pub(super) fn sched_id(caller: &Caller<'_>, args: Args) -> OpResult {
    write(caller, args, &SchedId { sched_id: caller.hv.scheduler.kind() as u32 })
}

/// Any pool, or any CPU.
const ANY: u32 = abi::XEN_SYSCTL_CPUPOOL_PAR_ANY;

/// A CPU that is named, or any.
fn cpu(number: u32) -> Option<CpuId> {
    (number != ANY).then_some(CpuId(number))
}

/// `XEN_SYSCTL_cpupool_op`: makes, changes, describes and gives up CPU pools, moves domains between them, and names the
/// CPUs that are in none. A description is of the first pool with the number asked for or a higher one.
///
/// Work: the list of domains, and their vCPUs. Errors: `ENOENT`: no such pool. `EINVAL`: no such CPU or scheduler, or the
/// CPU is not in the pool. `EEXIST`, `ENOSPC`: no pool can be made of that number, or at all. `EBUSY`: a pool that is in use,
/// a CPU that is not free or needed by domains, a pool without CPUs. `ESRCH`: no such domain, or a dying one. `EPERM`: the
/// caller's own domain. `ENOSYS`: no such operation. `EFAULT`.
pub(super) fn cpupool_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: CpupoolOp = read(caller, args)?;
    let hv = caller.hv;
    // Pools change one at a time, and not while a domain is made in one.
    let Some(_alone) = hv.control.enter() else { return Ok(Outcome::Continue(args)) };
    let scheduler = &hv.scheduler;
    let pool = r.cpupool_id;
    match r.op {
        abi::XEN_SYSCTL_CPUPOOL_OP_CREATE => {
            let kind = PolicyKind::from_number(r.sched_id).ok_or(Errno::EINVAL)?;
            r.cpupool_id = scheduler.create_pool((pool != ANY).then_some(pool), kind)?;
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_DESTROY => scheduler.destroy_pool(hv, pool)?,
        abi::XEN_SYSCTL_CPUPOOL_OP_INFO => {
            let pool = scheduler.pool_from(pool).ok_or(Errno::ENOENT)?;
            r.cpupool_id = pool;
            r.sched_id = scheduler.pool_kind(pool).ok_or(Errno::ENOENT)? as u32;
            r.n_dom = hv.domains.count(|d| d.sched.pool() == pool);
            bitmap::write(caller, &r.cpumap, scheduler.pool_cpus(pool).ok_or(Errno::ENOENT)?)?;
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU => scheduler.add_pool_cpu(hv, pool, cpu(r.cpu))?,
        abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU => {
            if r.cpu == ANY {
                // One and the same when this is continued.
                r.cpu = scheduler.pool_cpus(pool).ok_or(Errno::ENOENT)?.iter().last().ok_or(Errno::EINVAL)?.0;
                write(caller, args, &r)?;
            }
            match scheduler.remove_pool_cpu(hv, pool, CpuId(r.cpu), caller.vcpu) {
                Err(Errno::EAGAIN) => return Ok(Outcome::Continue(args)),
                result => result?,
            }
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => {
            if DomainId(r.domid as u16) == caller.domain.id {
                return Err(Errno::EPERM);
            }
            let domain = u16::try_from(r.domid).map_err(|_| Errno::ESRCH).and_then(|d| hv.domains.get(DomainId(d)))?;
            match scheduler.move_domain(hv, &domain, pool, caller.vcpu) {
                Err(Errno::EAGAIN) => return Ok(Outcome::Continue(args)),
                result => result?,
            }
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_FREEINFO => bitmap::write(caller, &r.cpumap, scheduler.free_cpus())?,
        _ => return Err(Errno::ENOSYS),
    }
    write(caller, args, &r)
}

/// `XEN_SYSCTL_scheduler_op`: reads or sets what a pool's scheduler lets be set: credit2's rate limit.
///
/// Errors: `ESRCH`: no such pool. `EINVAL`: another scheduler than the pool's, a limit out of range, no such command, or
/// a scheduler without parameters.
pub(super) fn scheduler_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: SchedulerOp = read(caller, args)?;
    let scheduler = &caller.hv.scheduler;
    scheduler.pool_cpus(r.cpupool_id).ok_or(Errno::ESRCH)?;
    let kind = scheduler.pool_kind(r.cpupool_id);
    if r.sched_id != PolicyKind::Credit2 as u32 || kind != Some(PolicyKind::Credit2) {
        return Err(Errno::EINVAL);
    }
    match r.cmd {
        abi::XEN_SYSCTL_SCHEDOP_GETINFO => {}
        abi::XEN_SYSCTL_SCHEDOP_PUTINFO => scheduler.set_ratelimit_us(r.ratelimit_us)?,
        _ => return Err(Errno::EINVAL),
    }
    r.ratelimit_us = scheduler.ratelimit_us();
    write(caller, args, &r)
}
