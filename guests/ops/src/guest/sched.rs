//! `sched_op`: giving up the CPU, waiting, and the ends of domains. It is the other domain that ends, and is resumed.

use radon_abi::domctl;
use radon_abi::errno::Errno;
use radon_abi::hypercall;
use radon_abi::sched::{self as abi, PinOverride, Poll, RemoteShutdown, Shutdown, Watchdog};
use radon_abi::vcpu::{SetSingleshotTimer, VCPUOP_SET_SINGLESHOT_TIMER};

use super::calls::{self, Answer, domain_info, domctl, hyper, operate};
use super::check::{Differs, Group, Outcome, holds, refuses, same, works};
use super::twin::Twin;
use super::{PATIENCE, now};

pub(crate) static GROUP: Group = Group {
    number: hypercall::SCHED_OP,
    checks: &[
        works(abi::SCHEDOP_YIELD, "SCHEDOP_yield", give_way),
        works(abi::SCHEDOP_BLOCK, "SCHEDOP_block", block),
        works(abi::SCHEDOP_POLL, "SCHEDOP_poll", poll),
        works(abi::SCHEDOP_SHUTDOWN, "SCHEDOP_shutdown", shutdown),
        works(abi::SCHEDOP_REMOTE_SHUTDOWN, "SCHEDOP_remote_shutdown", remote_shutdown),
        works(abi::SCHEDOP_SHUTDOWN_CODE, "SCHEDOP_shutdown_code", shutdown_code),
        works(abi::SCHEDOP_WATCHDOG, "SCHEDOP_watchdog", watchdog),
        works(abi::SCHEDOP_PIN_OVERRIDE, "SCHEDOP_pin_override", pin_override),
    ],
};

fn ask<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::SCHED_OP, operation, argument)
}

fn give_way(_: &Twin) -> Outcome {
    hyper(hypercall::SCHED_OP, abi::SCHEDOP_YIELD, [u64::from(abi::SCHEDOP_YIELD), 0])?;
    Ok(())
}

/// Blocks until the timer's event.
fn block(_: &Twin) -> Outcome {
    super::vcpu::with_timer(|port| {
        let mut at = 0;
        super::vcpu::in_time(|until| {
            at = until;
            let mut timer = SetSingleshotTimer { timeout_abs_ns: at, flags: 0, _pad: 0 };
            calls::vcpu(VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut timer)?;
            super::forget(port);
            Ok(())
        })?;
        let block = || hyper(hypercall::SCHED_OP, abi::SCHEDOP_BLOCK, [u64::from(abi::SCHEDOP_BLOCK), 0]);
        while !super::is_pending(port) {
            block()?;
        }
        holds("it waits", now() >= at)
    })
}

/// Waits for a time, and not at all for an event that has come.
fn poll(twin: &Twin) -> Outcome {
    let until = now() + 3_000_000;
    let mut port = twin.port;
    let mut poll = Poll { ports: &raw mut port as u64, nr_ports: 1, _pad: 0, timeout: until };
    ask(abi::SCHEDOP_POLL, &mut poll)?;
    holds("it waits until the time comes", now() >= until)?;
    let mut many = Poll { nr_ports: abi::POLL_PORTS_MAX + 1, ..poll };
    refuses("too many ports", ask(abi::SCHEDOP_POLL, &mut many), Errno::EINVAL)?;
    twin.read(Twin::structure())?;
    Ok(())
}

/// Waits until the other domain has shut down, which must be for this reason, and resumes it.
fn ends_with(twin: &Twin, reason: u32) -> Outcome {
    let begin = now();
    loop {
        let flags = domain_info(twin.domain)?.flags;
        if flags & domctl::XEN_DOMINF_SHUTDOWN != 0 {
            domctl(domctl::XEN_DOMCTL_RESUMEDOMAIN, twin.domain, &mut [0u8; 8])?;
            return same("reason", flags >> domctl::XEN_DOMINF_SHUTDOWN_SHIFT & 0xff, reason);
        }
        holds("the other domain shuts down", now() - begin < PATIENCE)?;
        // Its call has to be carried out first.
        super::vcpu::rest(1_000_000);
    }
}

/// The other domain ends itself; its call comes back when it is resumed.
fn shutdown(twin: &Twin) -> Outcome {
    let operation = abi::SCHEDOP_SHUTDOWN;
    twin.place(&mut Shutdown { reason: abi::SHUTDOWN_SUSPEND });
    calls::note(hypercall::SCHED_OP, operation);
    twin.send(u64::from(hypercall::SCHED_OP), [u64::from(operation), Twin::structure(), 0, 0, 0]);
    ends_with(twin, abi::SHUTDOWN_SUSPEND)?;
    twin.wait()?;
    Ok(())
}

fn remote_shutdown(twin: &Twin) -> Outcome {
    let mut remote = RemoteShutdown { domain_id: twin.domain, _pad: 0, reason: abi::SHUTDOWN_REBOOT };
    ask(abi::SCHEDOP_REMOTE_SHUTDOWN, &mut remote)?;
    ends_with(twin, abi::SHUTDOWN_REBOOT)?;
    twin.read(Twin::structure())?;
    remote.domain_id = 77;
    refuses("a domain that is not there", ask(abi::SCHEDOP_REMOTE_SHUTDOWN, &mut remote), Errno::ESRCH)
}

/// The reason that the domain has noted before counts.
fn shutdown_code(twin: &Twin) -> Outcome {
    let mut noted = Shutdown { reason: abi::SHUTDOWN_CRASH };
    twin.operate(hypercall::SCHED_OP, abi::SCHEDOP_SHUTDOWN_CODE, &mut noted)??;
    let mut remote = RemoteShutdown { domain_id: twin.domain, _pad: 0, reason: abi::SHUTDOWN_POWEROFF };
    ask(abi::SCHEDOP_REMOTE_SHUTDOWN, &mut remote)?;
    ends_with(twin, abi::SHUTDOWN_CRASH)
}

/// A watchdog of the other domain that nobody calms, after one that is.
fn watchdog(twin: &Twin) -> Outcome {
    let set = |id, timeout| -> Result<Answer, Differs> {
        twin.operate(hypercall::SCHED_OP, abi::SCHEDOP_WATCHDOG, &mut Watchdog { id, timeout })
    };
    let id = set(0, 100)??;
    holds("it has a number", id > 0)?;
    set(id as u32, 0)??;
    refuses("a watchdog that is not there", set(99, 1)?, Errno::EINVAL)?;
    // The answer may come too late.
    calls::note(hypercall::SCHED_OP, abi::SCHEDOP_WATCHDOG);
    twin.place(&mut Watchdog { id: 0, timeout: 1 });
    let arguments = [u64::from(abi::SCHEDOP_WATCHDOG), Twin::structure(), 0, 0, 0];
    twin.send(u64::from(hypercall::SCHED_OP), arguments);
    ends_with(twin, abi::SHUTDOWN_WATCHDOG)?;
    twin.wait()?;
    Ok(())
}

fn pin_override(_: &Twin) -> Outcome {
    let pin = |pcpu| ask(abi::SCHEDOP_PIN_OVERRIDE, &mut PinOverride { pcpu });
    pin(0)?;
    refuses("a second one", pin(1), Errno::EBUSY)?;
    pin(-1)?;
    refuses("a CPU that is not there", pin(99), Errno::EINVAL)
}
