//! Power states of processors, as far as there are any: a CPU runs or halts.

use crate::sync::atomic::{AtomicU32, Ordering};

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::{GetCxStat, GetPmStat, MaxCstate, PmOp};

use super::{read, write};
use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::types::{CpuId, GuestVirtAddr};

/// The deepest state there is: an idle CPU halts.
const C1: u32 = 1;
/// States, running included.
const STATES: u32 = 2;

/// The deepest idle state that was asked for. It keeps nothing from halting, which the least of them allows.
pub(in crate::control) struct IdleLimit(AtomicU32);

impl Default for IdleLimit {
    fn default() -> Self {
        IdleLimit(AtomicU32::new(C1))
    }
}

fn online(caller: &Caller<'_>, cpu: u32) -> Result<CpuId, Errno> {
    if cpu < caller.hv.platform.cpu_count() { Ok(CpuId(cpu)) } else { Err(Errno::EINVAL) }
}

/// `XEN_SYSCTL_get_pmstat`: how long and how often a CPU halted.
///
/// Errors: `EINVAL`: no such CPU. `ENODEV`: about frequencies, or anything else. `EFAULT`.
pub(super) fn get_pm_stat(caller: &Caller<'_>, args: Args) -> OpResult {
    let head: GetPmStat = read(caller, args)?;
    let cpu = online(caller, head.cpuid)?;
    match head.kind {
        abi::PMSTAT_GET_MAX_CX | abi::PMSTAT_GET_CXSTAT => {}
        // Nothing is kept apart from the sums since the start.
        abi::PMSTAT_RESET_CXSTAT => return SUCCESS,
        _ => return Err(Errno::ENODEV),
    }
    let mut r: GetCxStat = read(caller, args)?;
    if head.kind == abi::PMSTAT_GET_CXSTAT {
        let (hv, room) = (caller.hv, r.nr);
        let now = hv.platform.now();
        let (idle, entries) = (hv.scheduler.idle_time(hv, cpu), hv.scheduler.idle_entries(cpu));
        let states = [(entries, now.saturating_sub(idle).0), (entries, idle.0)];
        for ((count, time), n) in states.into_iter().zip(0..room) {
            if r.triggers != 0 {
                caller.write_at(GuestVirtAddr(r.triggers), n.into(), &count)?;
            }
            if r.residencies != 0 {
                caller.write_at(GuestVirtAddr(r.residencies), n.into(), &time)?;
            }
        }
        (r.last, r.idle_time, r.nr_pc, r.nr_cc) = (0, idle.0, 0, 0);
    }
    r.nr = STATES;
    write(caller, args, &r)
}

/// `XEN_SYSCTL_pm_op`: the deepest idle state. Frequencies are not managed.
///
/// Errors: `EINVAL`: no such CPU, no state that a CPU can be kept in, or about frequencies. `EACCES`: about turbo
/// mode, which goes with them. `EOPNOTSUPP`: about the scheduler. `ENOSYS`: else.
pub(super) fn pm_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let head: PmOp = read(caller, args)?;
    online(caller, head.cpuid)?;
    let limit = &caller.hv.control.idle_limit.0;
    let state = head.cpuid == 0;
    match head.cmd {
        abi::XEN_SYSCTL_PM_OP_GET_MAX_CSTATE => {
            let max = if state { limit.load(Ordering::Relaxed) } else { abi::XEN_SYSCTL_CX_UNLIMITED };
            write(caller, args, &MaxCstate { head, max, _pad: 0 })
        }
        abi::XEN_SYSCTL_PM_OP_SET_MAX_CSTATE => {
            let r: MaxCstate = read(caller, args)?;
            if state {
                if r.max < C1 {
                    return Err(Errno::EINVAL);
                }
                limit.store(r.max, Ordering::Relaxed);
            }
            SUCCESS
        }
        abi::XEN_SYSCTL_PM_OP_ENABLE_TURBO | abi::XEN_SYSCTL_PM_OP_DISABLE_TURBO => Err(Errno::EACCES),
        c if c & abi::PM_PARA_CATEGORY_MASK == abi::CPUFREQ_PARA => Err(Errno::EINVAL),
        0x21 | 0x24 | 0x25 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOSYS),
    }
}
