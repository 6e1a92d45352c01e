//! A domain is taken apart.
//!
//! The order matters: first its vCPUs leave the CPUs and the scheduler; then nobody notifies it any more (event channels)
//! and it holds nothing of others (grants); then its memory goes, what others have mapped of it excepted. What is left of
//! it then are its number and its page tables, which [`crate::control::Control::reap`] takes when nobody refers to it any
//! more.

use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::trace::TRC_DOM0_DOM_REM;
use radon_abi::xen::VIRQ_DOM_EXC;

use super::domain;
use crate::control::Phase;
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::hypervisor::Hypervisor;

/// `XEN_DOMCTL_destroydomain`: takes everything from a domain. Whoever watches `VIRQ_DOM_EXC` hears of it.
///
/// Work: all that the domain has, in steps, continued. Errors: `EINVAL`: the caller's own domain, or the hardware domain.
pub(super) fn destroy(caller: &Caller<'_>, args: Args) -> OpResult {
    let domain = domain(caller, args)?;
    let hv = caller.hv;
    if domain.id == caller.domain.id || domain.is_hardware() {
        return Err(Errno::EINVAL);
    }
    let phase = domain.control.state.lock().phase;
    if phase == Phase::Alive {
        // For good: this pause is never taken back.
        if hv.scheduler.pause_domain_sync(hv, &domain, caller.vcpu).is_err() {
            return Ok(Outcome::Continue(args));
        }
        domain.control.state.lock().phase = Phase::Dying;
    }
    if phase != Phase::Dead {
        if !relinquish(hv, &domain, &mut || caller.spend()) {
            return Ok(Outcome::Continue(args));
        }
        domain.control.state.lock().phase = Phase::Dead;
        hv.control.died();
        hv.trace.note(&*hv.platform, TRC_DOM0_DOM_REM, || [domain.id.0.into()]);
        log::info!("{} destroyed", domain.id);
        crate::evtchn::send_global_virq(hv, VIRQ_DOM_EXC);
    }
    drop(domain);
    // What cannot be done now is done when the control domain next asks for anything.
    hv.control.reap(hv, &mut || caller.spend());
    SUCCESS
}

/// Takes from the domain what it has. `spend` is asked before each step; `false` means that there is more to do. Steps
/// that were done find nothing to do when they come again.
fn relinquish(hv: &Hypervisor, domain: &Arc<Domain>, spend: &mut dyn FnMut() -> bool) -> bool {
    for watchdog in domain.sched.watchdogs.lock().iter_mut() {
        if let Some(armed) = watchdog.take() {
            hv.timers.cancel(armed);
        }
    }
    for vcpu in domain.vcpus() {
        if hv.scheduler.remove_vcpu(hv, vcpu).is_err() {
            return false;
        }
    }
    if !crate::evtchn::destroy(hv, domain, &mut *spend)
        || !domain.grants.relinquish(hv, domain, spend)
        || !domain.arch.relinquish(hv, domain, spend)
        || !domain.p2m.relinquish(hv, spend)
    {
        return false;
    }
    // Ending promises cannot fail.
    let _ = hv.frames.claim(domain.id, 0);
    let _ = hv.frames.set_reserve(domain.id, 0);
    true
}
