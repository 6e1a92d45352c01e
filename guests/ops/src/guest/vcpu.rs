//! `vcpu_op`: the vCPUs of dom0, of which the second one counts when it runs.

use core::ptr;
use core::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{BindVirq, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, OnePort};
use radon_abi::sched::{Poll, SCHEDOP_POLL};
use radon_abi::vcpu::{self as abi, GetPhysid, RegisterArea, RegisterVcpuInfo, RunstateInfo};
use radon_abi::vcpu::{SetPeriodicTimer, SetSingleshotTimer};
use radon_abi::{hypercall, xen};
use radon_guest::{Page, hypercall::give_way, start_vcpu};

use super::calls::{self, Answer, hyper, vcpu};
use super::check::{Differs, Group, Outcome, holds, refuses, same, works};
use super::interrupts::NMIS;
use super::twin::{Twin, poll};
use super::{COUNTED, PATIENCE, forget, is_pending, now, second_stack};

pub(crate) static GROUP: Group = Group {
    number: hypercall::VCPU_OP,
    checks: &[
        works(abi::VCPUOP_REGISTER_VCPU_INFO, "VCPUOP_register_vcpu_info", register_vcpu_info),
        works(abi::VCPUOP_INITIALISE, "VCPUOP_initialise", initialise),
        works(abi::VCPUOP_DOWN, "VCPUOP_down", down),
        works(abi::VCPUOP_UP, "VCPUOP_up", up),
        works(abi::VCPUOP_IS_UP, "VCPUOP_is_up", is_up),
        works(abi::VCPUOP_GET_RUNSTATE_INFO, "VCPUOP_get_runstate_info", get_runstate_info),
        works(
            abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
            "VCPUOP_register_runstate_memory_area",
            register_runstate_memory_area,
        ),
        works(abi::VCPUOP_SET_PERIODIC_TIMER, "VCPUOP_set_periodic_timer", set_periodic_timer),
        works(abi::VCPUOP_STOP_PERIODIC_TIMER, "VCPUOP_stop_periodic_timer", stop_periodic_timer),
        works(abi::VCPUOP_SET_SINGLESHOT_TIMER, "VCPUOP_set_singleshot_timer", set_singleshot_timer),
        works(abi::VCPUOP_STOP_SINGLESHOT_TIMER, "VCPUOP_stop_singleshot_timer", stop_singleshot_timer),
        works(abi::VCPUOP_SEND_NMI, "VCPUOP_send_nmi", send_nmi),
        works(abi::VCPUOP_GET_PHYSID, "VCPUOP_get_physid", get_physid),
        works(
            abi::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
            "VCPUOP_register_vcpu_time_memory_area",
            register_vcpu_time_memory_area,
        ),
    ],
};

/// An operation without a structure.
fn plain(operation: u32, number: u64) -> Answer {
    hyper(hypercall::VCPU_OP, operation, [u64::from(operation), number, 0])
}

/// A while in which a few hypercalls are made, unless the machine is very slow.
pub(crate) const SOON: u64 = 100_000_000;

/// Does something that has to be done before a system time, [`SOON`] from now: again until it was.
pub(crate) fn in_time(mut operation: impl FnMut(u64) -> Outcome) -> Outcome {
    loop {
        let until = now() + SOON;
        operation(until)?;
        if now() < until {
            return Ok(());
        }
    }
}

/// Where the second vCPU has its information.
static INFO: Page = Page::new();

fn register_vcpu_info(_: &Twin) -> Outcome {
    const OFFSET: u32 = 512;
    let mut place = RegisterVcpuInfo { mfn: INFO.gfn(), offset: OFFSET, rsvd: 0 };
    vcpu(abi::VCPUOP_REGISTER_VCPU_INFO, 1, &mut place)?;
    let time = (u64::from(OFFSET) + xen::vcpu_info::TIME) / 8;
    // Multiplier of the clock; written when the place is registered or when the vCPU runs.
    vcpu_runs(true)?;
    vcpu_runs(false)?;
    holds("its clock is there", INFO.0[time as usize + 3].load(Ordering::Acquire) != 0)?;
    let again = vcpu(abi::VCPUOP_REGISTER_VCPU_INFO, 1, &mut place);
    refuses("a second place", again, Errno::EINVAL)
}

/// Has the second vCPU run, or not, without noting what is called for it.
fn vcpu_runs(run: bool) -> Outcome {
    if run {
        let result = start_vcpu(1, second_stack());
        // It may have been initialised before.
        if result != 0 && result != Errno::EEXIST.to_return() {
            return Err(Differs::new(format_args!("vCPU 1 cannot be started: {result}")));
        }
        radon_guest::hypercall::call(hypercall::VCPU_OP, [u64::from(abi::VCPUOP_UP), 1]);
        return counts(true);
    }
    radon_guest::hypercall::call(hypercall::VCPU_OP, [u64::from(abi::VCPUOP_DOWN), 1]);
    counts(false)
}

/// Whether the second vCPU counts, which must be so or not.
fn counts(should: bool) -> Outcome {
    let before = COUNTED.load(Ordering::Acquire);
    let begin = now();
    let patience = if should { PATIENCE } else { 20_000_000 };
    while now() - begin < patience {
        if COUNTED.load(Ordering::Acquire) > before + 1 {
            break;
        }
        give_way();
    }
    same("that the second vCPU runs", COUNTED.load(Ordering::Acquire) > before + 1, should)
}

fn initialise(_: &Twin) -> Outcome {
    // The shared start does that, and brings the vCPU up.
    calls::note(hypercall::VCPU_OP, abi::VCPUOP_INITIALISE);
    let result = start_vcpu(1, second_stack());
    same("a second initialisation", result, Errno::EEXIST.to_return())?;
    vcpu_runs(true)
}

fn down(_: &Twin) -> Outcome {
    plain(abi::VCPUOP_DOWN, 1)?;
    let begin = now();
    while plain(abi::VCPUOP_IS_UP, 1)? != 0 && now() - begin < PATIENCE {}
    counts(false)
}

fn up(_: &Twin) -> Outcome {
    plain(abi::VCPUOP_UP, 1)?;
    counts(true)?;
    refuses("a vCPU that is not there", plain(abi::VCPUOP_UP, 77), Errno::ENOENT)
}

fn is_up(_: &Twin) -> Outcome {
    same("that the second vCPU is up", plain(abi::VCPUOP_IS_UP, 1)?, 1)?;
    plain(abi::VCPUOP_DOWN, 1)?;
    same("that it is up when it is not", plain(abi::VCPUOP_IS_UP, 1)?, 0)
}

/// It must be what a vCPU that runs has.
fn is_running(info: &RunstateInfo) -> Outcome {
    same("state", info.state, abi::RUNSTATE_RUNNING)?;
    let entered = info.state_entry_time & !abi::XEN_RUNSTATE_UPDATE;
    holds("it began some time ago", entered <= now())?;
    holds("it has run", info.time[abi::RUNSTATE_RUNNING as usize] > 0)
}

fn get_runstate_info(_: &Twin) -> Outcome {
    let mut info = RunstateInfo::default();
    vcpu(abi::VCPUOP_GET_RUNSTATE_INFO, 0, &mut info)?;
    is_running(&info)?;
    let begin = now();
    while info.state == abi::RUNSTATE_RUNNING && now() - begin < PATIENCE {
        rest(1_000_000);
        vcpu(abi::VCPUOP_GET_RUNSTATE_INFO, 1, &mut info)?;
    }
    same("state of the second vCPU, which is down", info.state, abi::RUNSTATE_OFFLINE)
}

static AREA: Page = Page::new();

fn register_runstate_memory_area(_: &Twin) -> Outcome {
    let word = |n: usize| AREA.0[n].load(Ordering::Acquire);
    let mut area = RegisterArea { addr: AREA.0.as_ptr() as u64 };
    vcpu(abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area)?;
    same("state", word(0) as u32, abi::RUNSTATE_RUNNING)?;
    holds("the time is there at once", word(1) != 0)?;
    let before = word(1);
    // A switch to another and back.
    rest(2_000_000);
    holds("the area follows", word(1) > before)?;
    is_running(&RunstateInfo { state: word(0) as u32, _pad: 0, state_entry_time: word(1), time: [word(2), 0, 0, 0] })?;
    holds("the time of waiting counts", word(2 + abi::RUNSTATE_BLOCKED as usize) > 0)?;
    area.addr = 0;
    vcpu(abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0, &mut area)?;
    Ok(())
}

/// Sleeps for so many nanoseconds.
pub(crate) fn rest(time: u64) {
    let mut poll = Poll { ports: 0, nr_ports: 0, _pad: 0, timeout: now() + time };
    radon_guest::hypercall::operate(hypercall::SCHED_OP, SCHEDOP_POLL, &mut poll);
}

/// Lends the port of the timer to a check.
pub(crate) fn with_timer(check: impl FnOnce(u32) -> Outcome) -> Outcome {
    let mut bind = BindVirq { virq: xen::VIRQ_TIMER, vcpu: 0, port: 0 };
    calls::event(EVTCHNOP_BIND_VIRQ, &mut bind)?;
    forget(bind.port);
    let outcome = check(bind.port);
    calls::event(EVTCHNOP_CLOSE, &mut OnePort { port: bind.port })?;
    forget(bind.port);
    outcome
}

/// Whether the timer's event comes within a time.
fn comes(port: u32, within: u64) -> bool {
    poll(port, now() + within);
    let came = is_pending(port);
    forget(port);
    came
}

fn set_periodic_timer(_: &Twin) -> Outcome {
    with_timer(|port| {
        let begin = now();
        vcpu(abi::VCPUOP_SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: 2_000_000 })?;
        let came = (0..3).all(|_| comes(port, PATIENCE));
        let took = now() - begin;
        plain(abi::VCPUOP_STOP_PERIODIC_TIMER, 0)?;
        holds("it comes again and again", came)?;
        holds("there is a period between two", took >= 2 * 2_000_000)?;
        let short = vcpu(abi::VCPUOP_SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: 1 });
        refuses("too short a period", short, Errno::EINVAL)
    })
}

fn stop_periodic_timer(_: &Twin) -> Outcome {
    with_timer(|port| {
        in_time(|_| {
            vcpu(abi::VCPUOP_SET_PERIODIC_TIMER, 0, &mut SetPeriodicTimer { period_ns: SOON })?;
            plain(abi::VCPUOP_STOP_PERIODIC_TIMER, 0)?;
            forget(port);
            Ok(())
        })?;
        holds("it does not come any more", !comes(port, 2 * SOON))
    })
}

fn singleshot(at: u64, flags: u32) -> Answer {
    let mut timer = SetSingleshotTimer { timeout_abs_ns: at, flags, _pad: 0 };
    vcpu(abi::VCPUOP_SET_SINGLESHOT_TIMER, 0, &mut timer)
}

fn set_singleshot_timer(_: &Twin) -> Outcome {
    with_timer(|port| {
        let at = now() + 3_000_000;
        singleshot(at, 0)?;
        holds("it comes", comes(port, PATIENCE))?;
        holds("it does not come early", now() >= at)?;
        holds("it does not come again", !comes(port, 10_000_000))?;
        singleshot(1, 0)?;
        holds("a time that has passed comes at once", comes(port, PATIENCE))?;
        singleshot(1, abi::VCPU_SSHOTTMR_FUTURE)?;
        holds("it comes also if the caller would have an error", comes(port, PATIENCE))
    })
}

fn stop_singleshot_timer(_: &Twin) -> Outcome {
    with_timer(|port| {
        in_time(|until| {
            singleshot(until, 0)?;
            plain(abi::VCPUOP_STOP_SINGLESHOT_TIMER, 0)?;
            forget(port);
            Ok(())
        })?;
        holds("it does not come", !comes(port, 2 * SOON))
    })
}

fn send_nmi(_: &Twin) -> Outcome {
    let before = NMIS.load(Ordering::Acquire);
    plain(abi::VCPUOP_SEND_NMI, 0)?;
    let begin = now();
    while NMIS.load(Ordering::Acquire) == before && now() - begin < PATIENCE {}
    same("NMIs", NMIS.load(Ordering::Acquire) - before, 1)
}

/// dom0's vCPUs are pinned to the CPUs of their numbers.
fn get_physid(_: &Twin) -> Outcome {
    let mut id = GetPhysid { phys_id: u64::MAX };
    vcpu(abi::VCPUOP_GET_PHYSID, 1, &mut id)?;
    same("the local APIC", id.phys_id as u32, 1)
}

fn register_vcpu_time_memory_area(_: &Twin) -> Outcome {
    static TIME: Page = Page::new();
    let word = |n: usize| TIME.0[n].load(Ordering::Acquire);
    let mut area = RegisterArea { addr: ptr::from_ref(&TIME) as u64 };
    vcpu(abi::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut area)?;
    rest(2_000_000);
    same("that the version is even", word(0) & 1, 0)?;
    holds("there is a counter's value and a system time", word(1) != 0 && word(2) != 0)?;
    let clock = radon_guest::Clock::read(&super::SHARED_INFO);
    // The multiplier and the shift, which the shared page has as well.
    same("the clock's speed", word(3) & 0xff_ffff_ffff, clock.speed())?;
    area.addr = 0;
    // Xen does not take the area back.
    let _ = vcpu(abi::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0, &mut area);
    Ok(())
}
