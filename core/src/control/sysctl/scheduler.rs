//! Schedulers and CPU pools.

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::{CpupoolOp, SchedId, SchedulerOp};

use super::{read, write};
use crate::control::bitmap;
use crate::hypercall::{Args, Caller, OpResult};
use crate::sched::{CpuSet, PolicyKind};

/// `XEN_SYSCTL_sched_id`: the scheduler of Pool-0. Never fails.
pub(super) fn sched_id(caller: &Caller<'_>, args: Args) -> OpResult {
    write(caller, args, &SchedId { sched_id: caller.hv.scheduler.kind() as u32 })
}

/// `XEN_SYSCTL_cpupool_op`: describes the first pool with the number asked for or a higher one; names the CPUs in no
/// pool (none).
///
/// Work: the list of domains is counted. Errors: `ENOENT`: no such pool. `EOPNOTSUPP`: pools cannot be changed. `ENOSYS`:
/// no such operation. `EFAULT`.
pub(super) fn cpupool_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: CpupoolOp = read(caller, args)?;
    let hv = caller.hv;
    match r.op {
        abi::XEN_SYSCTL_CPUPOOL_OP_INFO => {
            let pool = r.cpupool_id;
            let cpus = hv.scheduler.pool_cpus(pool).ok_or(Errno::ENOENT)?;
            r.sched_id = hv.scheduler.kind() as u32;
            r.n_dom = hv.domains.count(|d| d.sched.pool() == pool);
            bitmap::write(caller, &r.cpumap, cpus)?;
        }
        abi::XEN_SYSCTL_CPUPOOL_OP_FREEINFO => bitmap::write(caller, &r.cpumap, CpuSet::EMPTY)?,
        abi::XEN_SYSCTL_CPUPOOL_OP_CREATE
        | abi::XEN_SYSCTL_CPUPOOL_OP_DESTROY
        | abi::XEN_SYSCTL_CPUPOOL_OP_ADDCPU
        | abi::XEN_SYSCTL_CPUPOOL_OP_RMCPU
        | abi::XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN => return Err(Errno::EOPNOTSUPP),
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
    if r.sched_id != PolicyKind::Credit2 as u32 || scheduler.kind() != PolicyKind::Credit2 {
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
