//! `sched_op` and `set_timer_op`.

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::sched as abi;
use zerocopy::IntoBytes;

use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, operation};
use crate::hypervisor::Hypervisor;
use crate::time::VcpuTimer;
use crate::types::{CpuId, Nanoseconds, Port};
use crate::vcpu::Vcpu;

use super::shutdown::{ShutdownReason, shut_down, watchdog};

/// The operations of `sched_op`.
pub static SCHED_OPS: &[Operation] = &[
    Operation { number: abi::SCHEDOP_YIELD, name: "SCHEDOP_yield", coverage: Coverage::Full, handler: yield_now },
    Operation { number: abi::SCHEDOP_BLOCK, name: "SCHEDOP_block", coverage: Coverage::Full, handler: block },
    Operation { number: abi::SCHEDOP_SHUTDOWN, name: "SCHEDOP_shutdown", coverage: Coverage::Full, handler: shutdown },
    Operation { number: abi::SCHEDOP_POLL, name: "SCHEDOP_poll", coverage: Coverage::Full, handler: poll },
    Operation {
        number: abi::SCHEDOP_REMOTE_SHUTDOWN,
        name: "SCHEDOP_remote_shutdown",
        coverage: Coverage::Full,
        handler: remote_shutdown,
    },
    Operation {
        number: abi::SCHEDOP_SHUTDOWN_CODE,
        name: "SCHEDOP_shutdown_code",
        coverage: Coverage::Full,
        handler: shutdown_code,
    },
    Operation {
        number: abi::SCHEDOP_WATCHDOG,
        name: "SCHEDOP_watchdog",
        coverage: Coverage::Full,
        handler: watchdog_op,
    },
    Operation {
        number: abi::SCHEDOP_PIN_OVERRIDE,
        name: "SCHEDOP_pin_override",
        coverage: Coverage::Full,
        handler: pin_override,
    },
];

/// `sched_op(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for a number that does not exist; else as the operation's documentation says.
pub fn sched_op(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(SCHED_OPS, args.u32(0), caller, args)
}

/// `SCHEDOP_yield`: others that wait go first. Never fails.
fn yield_now(caller: &Caller<'_>, _: Args) -> OpResult {
    caller.hv.scheduler.yield_now(caller.hv, caller.vcpu);
    Ok(Outcome::Reschedule)
}

/// Whether there is something that the calling vCPU should see before it sleeps.
fn something_pending(caller: &Caller<'_>) -> bool {
    caller.vcpu.arch.interrupt_pending() || caller.vcpu.events.upcall_pending(caller.hv.platform.memory())
}

/// `SCHEDOP_block`: sleeps until an event. Returns at once if one is pending. Never fails.
fn block(caller: &Caller<'_>, _: Args) -> OpResult {
    if caller.hv.scheduler.block(caller.hv, caller.vcpu, || something_pending(caller)) {
        Ok(Outcome::Reschedule)
    } else {
        SUCCESS
    }
}

/// `SCHEDOP_shutdown`: shuts the calling domain down; dom0's shutdown is the machine's.
///
/// # Errors
/// `EINVAL`: no such reason.
fn shutdown(caller: &Caller<'_>, args: Args) -> OpResult {
    let shutdown: abi::Shutdown = caller.read(args.handle(1))?;
    shut_down(caller.hv, caller.domain, ShutdownReason::from_abi(shutdown.reason)?);
    Ok(Outcome::Reschedule)
}

/// `SCHEDOP_poll`: sleeps until one of up to 128 ports is pending, or until a time.
///
/// # Errors
/// `EINVAL`: too many ports, or one that cannot exist.
fn poll(caller: &Caller<'_>, args: Args) -> OpResult {
    let poll: abi::Poll = caller.read(args.handle(1))?;
    let mut all = [0u32; abi::POLL_PORTS_MAX as usize];
    let ports = all.get_mut(..poll.nr_ports as usize).ok_or(Errno::EINVAL)?;
    caller.memory.read(crate::types::GuestVirtAddr(poll.ports), ports.as_mut_bytes())?;

    let (hv, domain, vcpu) = (caller.hv, caller.domain, caller.vcpu);
    let only = match *ports {
        [port] => Some(Port(port)),
        _ => None,
    };
    // From here on a sender wakes this vCPU, so each port has to be looked at after this.
    vcpu.events.begin_poll(domain, only);
    vcpu.sched.unit.polling.store(true, Ordering::SeqCst);
    let look = || -> Result<bool, Errno> {
        // A caller with interrupts off cannot take what is pending, and would ask again in a circle.
        if caller.interrupts && something_pending(caller) || !vcpu.events.is_polling() {
            return Ok(true);
        }
        for &port in ports.iter() {
            if crate::evtchn::is_pending(hv, domain, Port(port))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if poll.timeout != 0 {
        vcpu.arm_timer(hv, VcpuTimer::Poll, Nanoseconds(poll.timeout));
    }
    let mut error = None;
    let asleep = hv.scheduler.block(hv, vcpu, || {
        look().unwrap_or_else(|e| {
            error = Some(e);
            true
        })
    });
    if !asleep {
        end_poll(hv, vcpu);
        return error.map_or(SUCCESS, Err);
    }
    Ok(Outcome::Reschedule)
}

/// Whatever the vCPU polls, it polls no more. Who calls this for another vCPU marks it as not blocked after that. As soon as it
/// is, it may poll again, so a slow caller may end that poll instead: it then wakes the vCPU from it as well, or the vCPU sees
/// that its poll was ended before it sleeps.
pub(super) fn end_poll(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let polling = &vcpu.sched.unit.polling;
    if polling.load(Ordering::SeqCst) {
        // Before the poll is over: the timer of one that begins after that stays.
        vcpu.cancel_timer(hv, VcpuTimer::Poll);
        if polling.swap(false, Ordering::SeqCst)
            && let Some(domain) = vcpu.domain()
        {
            vcpu.events.end_poll(&domain);
        }
    }
}

/// `SCHEDOP_remote_shutdown`: shuts another domain down, as its device model asks for.
///
/// # Errors
/// `EPERM`: not privileged. `ESRCH`: no such domain. `EINVAL`: the caller itself, or no such reason.
fn remote_shutdown(caller: &Caller<'_>, args: Args) -> OpResult {
    let shutdown: abi::RemoteShutdown = caller.read(args.handle(1))?;
    caller.privileged()?;
    let domain = caller.target(shutdown.domain_id)?;
    if Arc::ptr_eq(&domain, caller.domain) {
        return Err(Errno::EINVAL);
    }
    shut_down(caller.hv, &domain, ShutdownReason::from_abi(shutdown.reason)?);
    SUCCESS
}

/// `SCHEDOP_shutdown_code`: notes the reason that the domain's shutdown will have, whatever brings it about.
///
/// # Errors
/// `EINVAL`: no such reason.
fn shutdown_code(caller: &Caller<'_>, args: Args) -> OpResult {
    let shutdown: abi::Shutdown = caller.read(args.handle(1))?;
    let reason = ShutdownReason::from_abi(shutdown.reason)?;
    caller.domain.sched.shutdown_code.store((reason as u32).saturating_add(1), Ordering::Release);
    SUCCESS
}

/// `SCHEDOP_watchdog`: starts, pokes or stops one of the domain's two watchdogs. Returns the number of one it started.
///
/// # Errors
/// As [`watchdog`].
fn watchdog_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::Watchdog = caller.read(args.handle(1))?;
    let id = watchdog(caller.hv, caller.domain, request.id, request.timeout)?;
    Ok(Outcome::Done(u64::from(id)))
}

/// `SCHEDOP_pin_override`: pins the calling vCPU to a CPU for a while, whatever its affinity, or ends that.
///
/// # Errors
/// `EPERM`: not dom0. Else as [`super::Scheduler::pin_override`].
fn pin_override(caller: &Caller<'_>, args: Args) -> OpResult {
    if !caller.domain.is_hardware() {
        return Err(Errno::EPERM);
    }
    let pin: abi::PinOverride = caller.read(args.handle(1))?;
    let cpu = u32::try_from(pin.pcpu).ok().map(CpuId);
    caller.hv.scheduler.pin_override(caller.hv, caller.vcpu, cpu)?;
    Ok(Outcome::Reschedule)
}

/// `set_timer_op(timeout)`: arms the single-shot timer for a system time in nanoseconds; 0 disarms it. A time that has
/// passed fires at once. Never fails.
pub fn set_timer_op(caller: &Caller<'_>, args: Args) -> OpResult {
    match args.get(0) {
        0 => caller.vcpu.cancel_timer(caller.hv, VcpuTimer::Singleshot),
        timeout => caller.vcpu.arm_timer(caller.hv, VcpuTimer::Singleshot, Nanoseconds(timeout)),
    }
    SUCCESS
}
