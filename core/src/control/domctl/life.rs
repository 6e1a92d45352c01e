//! A domain is paused and goes on, and goes on after it shut down.

use radon_abi::errno::Errno;

use super::domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};

/// Most pauses by the toolstack, as Xen's.
const PAUSES_MAX: u32 = i32::MAX as u32;

/// `XEN_DOMCTL_pausedomain`: pauses a domain until it is unpaused as often, and waits until none of its vCPUs runs.
///
/// Work: the domain's vCPUs. Errors: `EINVAL`: the caller's own domain. `EOVERFLOW`: too many pauses.
pub(super) fn pause(caller: &Caller<'_>, args: Args) -> OpResult {
    let domain = domain(caller, args)?;
    let hv = caller.hv;
    if domain.id == caller.domain.id {
        return Err(Errno::EINVAL);
    }
    if hv.scheduler.pause_domain_sync(hv, &domain, caller.vcpu).is_err() {
        // The caller itself has to leave its CPU first.
        return Ok(Outcome::Continue(args));
    }
    let counted = {
        let mut state = domain.control.state.lock();
        let more = state.pauses.checked_add(1).filter(|&n| n <= PAUSES_MAX);
        more.map(|n| state.pauses = n)
    };
    if counted.is_none() {
        hv.scheduler.unpause_domain(hv, &domain.sched);
        return Err(Errno::EOVERFLOW);
    }
    SUCCESS
}

/// `XEN_DOMCTL_unpausedomain`: takes one pause back.
///
/// Errors: `EINVAL`: the toolstack has not paused it.
pub(super) fn unpause(caller: &Caller<'_>, args: Args) -> OpResult {
    let domain = domain(caller, args)?;
    {
        let mut state = domain.control.state.lock();
        state.pauses = state.pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
        state.has_run = true;
    }
    caller.hv.scheduler.unpause_domain(caller.hv, &domain.sched);
    SUCCESS
}

/// `XEN_DOMCTL_resumedomain`: lets a domain that shut down go on (after it was saved). Nothing happens if it has not.
///
/// Errors: `EINVAL`: the caller's own domain.
pub(super) fn resume(caller: &Caller<'_>, args: Args) -> OpResult {
    let domain = domain(caller, args)?;
    if domain.id == caller.domain.id {
        return Err(Errno::EINVAL);
    }
    if crate::sched::resume(caller.hv, &domain).is_err() {
        log::debug!("{} is resumed and had not shut down", domain.id);
    }
    SUCCESS
}
