//! The shutdown of a domain, and the watchdogs that bring one about.
//!
//! A domain that shuts down stays as it is, its vCPUs paused, until the toolstack destroys or resumes it. When dom0
//! shuts down the machine does.

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::sched as abi;
use radon_abi::trace::TRC_SCHED_SHUTDOWN;
use radon_abi::xen::VIRQ_DOM_EXC;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::platform::PowerAction;
use crate::time::{Armed, Owner};
use crate::types::Nanoseconds;

/// Why a domain shuts down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ShutdownReason {
    /// It ended as it should.
    PowerOff = abi::SHUTDOWN_POWEROFF,
    /// It wants to start anew.
    Reboot = abi::SHUTDOWN_REBOOT,
    /// It is ready to be saved.
    Suspend = abi::SHUTDOWN_SUSPEND,
    /// It failed.
    Crash = abi::SHUTDOWN_CRASH,
    /// Its watchdog ran out.
    Watchdog = abi::SHUTDOWN_WATCHDOG,
    /// It wants its interfaces to Xen reset.
    SoftReset = abi::SHUTDOWN_SOFT_RESET,
}

impl ShutdownReason {
    /// The reason that the ABI gives this number.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn from_abi(reason: u32) -> Result<ShutdownReason, Errno> {
        Ok(match reason {
            abi::SHUTDOWN_POWEROFF => ShutdownReason::PowerOff,
            abi::SHUTDOWN_REBOOT => ShutdownReason::Reboot,
            abi::SHUTDOWN_SUSPEND => ShutdownReason::Suspend,
            abi::SHUTDOWN_CRASH => ShutdownReason::Crash,
            abi::SHUTDOWN_WATCHDOG => ShutdownReason::Watchdog,
            abi::SHUTDOWN_SOFT_RESET => ShutdownReason::SoftReset,
            _ => return Err(Errno::EINVAL),
        })
    }
}

/// Shuts a domain down: it keeps its first reason, its vCPUs pause, dom0 hears of it (`VIRQ_DOM_EXC`). For dom0 the
/// machine stops, and this does not return. No lock may be held.
pub fn shut_down(hv: &Hypervisor, domain: &Arc<Domain>, reason: ShutdownReason) {
    // A reason that the domain noted before overrides.
    let noted = domain.sched.shutdown_code.load(Ordering::Acquire).checked_sub(1);
    let reason = noted.and_then(|r| ShutdownReason::from_abi(r).ok()).unwrap_or(reason);
    if domain.is_hardware() {
        stop_machine(hv, reason);
    }
    if !domain.note_shutdown(reason as u32) {
        return;
    }
    // Who it was is not known here: the domain, and its first vCPU.
    hv.trace.note(&*hv.platform, TRC_SCHED_SHUTDOWN, || [domain.id.0.into(), 0, reason as u32]);
    log::info!("{} shut down: {reason:?}", domain.id);
    for watchdog in domain.sched.watchdogs.lock().iter_mut() {
        if let Some(armed) = watchdog.take() {
            hv.timers.cancel(armed);
        }
    }
    hv.scheduler.pause_domain(hv, &domain.sched);
    crate::evtchn::send_global_virq(hv, VIRQ_DOM_EXC);
}

/// Lets a domain that shut down go on (after it was saved).
///
/// # Errors
/// `EINVAL` if it has not shut down.
pub fn resume(hv: &Hypervisor, domain: &Arc<Domain>) -> Result<(), Errno> {
    if !domain.clear_shutdown() {
        return Err(Errno::EINVAL);
    }
    domain.sched.shutdown_code.store(0, Ordering::Release);
    hv.scheduler.unpause_domain(hv, &domain.sched);
    Ok(())
}

fn stop_machine(hv: &Hypervisor, reason: ShutdownReason) -> ! {
    let (said, action) = match reason {
        ShutdownReason::PowerOff => ("halted: switching the machine off", PowerAction::PowerOff),
        ShutdownReason::Reboot => ("wants to reboot: restarting the machine", PowerAction::Reboot),
        ShutdownReason::Watchdog => ("let its watchdog run out: restarting the machine", PowerAction::Reboot),
        ShutdownReason::Crash => ("crashed: what it printed before says why", PowerAction::Crash),
        ShutdownReason::Suspend | ShutdownReason::SoftReset => {
            ("shut down in a way that only guests can: restarting the machine", PowerAction::Reboot)
        }
    };
    log::warn!("Hardware domain {said}");
    hv.platform.power(action)
}

/// How much later than asked a watchdog may bark.
const WATCHDOG_SLACK: Nanoseconds = Nanoseconds::from_millis(50);

/// `SCHEDOP_watchdog`: starts (`id` 0), pokes or stops (`timeout` 0) a watchdog, in seconds. Returns its number when
/// started.
///
/// # Errors
/// `EINVAL`: no such watchdog, or one to be started without a time. `ENOSPC`: all are in use. `EEXIST`: to be poked,
/// but not started.
pub(super) fn watchdog(hv: &Hypervisor, domain: &Arc<Domain>, id: u32, timeout: u32) -> Result<u32, Errno> {
    let mut watchdogs = domain.sched.watchdogs.lock();
    let arm = |number: u8| {
        let deadline =
            hv.platform.now().saturating_add(Nanoseconds::from_millis(u64::from(timeout).saturating_mul(1000)));
        let owner = Owner::Watchdog(Arc::downgrade(domain), number);
        hv.timers.arm(&*hv.platform, hv.platform.this_cpu(), deadline, WATCHDOG_SLACK, owner)
    };
    let Some(index) = id.checked_sub(1) else {
        if timeout == 0 {
            return Err(Errno::EINVAL);
        }
        let free = watchdogs.iter_mut().zip(0u8..).find(|(w, _)| w.is_none());
        let (slot, number) = free.ok_or(Errno::ENOSPC)?;
        *slot = Some(arm(number));
        return Ok(u32::from(number).saturating_add(1));
    };
    let slot = watchdogs.get_mut(index as usize).ok_or(Errno::EINVAL)?;
    let armed = slot.take().ok_or(Errno::EEXIST)?;
    hv.timers.cancel(armed);
    if timeout != 0 {
        *slot = Some(arm(index as u8));
    }
    Ok(0)
}

/// A watchdog's time is over, unless it was poked since.
pub(crate) fn watchdog_fired(hv: &Hypervisor, domain: &Arc<Domain>, number: u8, armed: Armed) {
    let barks = {
        let mut watchdogs = domain.sched.watchdogs.lock();
        match watchdogs.get_mut(usize::from(number)) {
            Some(slot) if *slot == Some(armed) => {
                *slot = None;
                true
            }
            _ => false,
        }
    };
    if barks {
        log::warn!("watchdog {} of {} ran out", u32::from(number).saturating_add(1), domain.id);
        shut_down(hv, domain, ShutdownReason::Watchdog);
    }
}
