//! Scheduling: pauses, wake-ups and kicks.

use radon_abi::sched::{Poll, SCHEDOP_BLOCK, SCHEDOP_POLL};
use radon_core::hypercall::Outcome;
use radon_core::sched::{CpuSet, PolicyKind};
use radon_core::types::{CpuId, GuestVirtAddr};
use radon_interleave::atomic::{AtomicBool, AtomicU32, Ordering};
use radon_interleave::{explore, explore_more, part, race, step, wait};

use super::{DOM0, GUEST, Rig};

/// Who pauses a vCPU and waits for it does not see it run.
#[test]
fn a_pause_that_waits() {
    explore(|| {
        let rig = Rig::new();
        rig.run_guest();
        let (hv, vcpu) = (&rig.host.hv, rig.host.vcpu(GUEST, 0));
        let caller = rig.host.vcpu(DOM0, 0);
        hv.scheduler.add_vcpu(hv, caller).unwrap();
        hv.scheduler.bring_up(hv, caller);
        let (runs, done) = (AtomicBool::new(false), AtomicBool::new(false));
        race(vec![
            Box::new(|| {
                // The loop of CPU 0.
                let mut current = Some(vcpu.clone());
                while !done.load(Ordering::SeqCst) {
                    if hv.scheduler.needs_schedule(CpuId(0)) {
                        let next = hv.scheduler.schedule(hv, CpuId(0), hv.platform.now()).vcpu;
                        if let Some(before) = std::mem::replace(&mut current, next)
                            && current.is_none()
                        {
                            hv.scheduler.context_saved(hv, &before);
                        }
                    }
                    runs.store(current.is_some(), Ordering::SeqCst);
                    step();
                    runs.store(false, Ordering::SeqCst);
                    wait();
                }
            }),
            Box::new(|| {
                for _ in 0..2 {
                    if hv.scheduler.pause_sync(hv, vcpu, caller).is_ok() {
                        for _ in 0..3 {
                            step();
                            assert!(!runs.load(Ordering::SeqCst));
                        }
                        hv.scheduler.unpause(hv, vcpu);
                    }
                }
                done.store(true, Ordering::SeqCst);
            }),
        ]);
    });
}

/// The loop of the CPU that calls this, as it is on the machine: fires timers, schedules when it is asked to, then runs the
/// guest or idles until an interrupt. `run` is what the guest does each time it is entered.
fn cpu_loop(rig: &Rig, end: &AtomicBool, mut run: impl FnMut()) {
    let (hv, cpu) = (&rig.host.hv, CpuId(part() as u32));
    let mut current = rig.host.vcpu(GUEST, 0).sched.unit.loaded_on().filter(|&on| on == cpu);
    while !end.load(Ordering::SeqCst) {
        if hv.scheduler.needs_schedule(cpu) {
            let now = hv.platform.now();
            hv.timers.expire(hv, cpu, now);
            let next = hv.scheduler.schedule(hv, cpu, now).vcpu.map(|_| cpu);
            hv.timers.program(&*hv.platform, cpu);
            if current.is_some() && next.is_none() {
                hv.scheduler.context_saved(hv, rig.host.vcpu(GUEST, 0));
            }
            current = next;
            continue;
        }
        if current.is_some() {
            run();
        }
        // A guest's exit for its own doing is none for an interrupt: it is entered again.
        if !hv.scheduler.needs_schedule(cpu) {
            rig.cpus.wait_for_interrupt(end);
            hv.timers.expire(hv, cpu, hv.platform.now());
        }
    }
}

/// The guest takes the event if it is told. The test is at its end when two were taken, and all else is done.
struct Handler<'a> {
    rig: &'a Rig,
    /// Events that are to be taken, and other things to be done.
    left: AtomicU32,
    /// How often somebody is in the guest.
    inside: AtomicU32,
    end: AtomicBool,
}

impl<'a> Handler<'a> {
    fn new(rig: &'a Rig, others: u32) -> Handler<'a> {
        let [left, inside] = [2 + others, 0].map(AtomicU32::new);
        Handler { rig, left, inside, end: AtomicBool::new(false) }
    }

    /// One thing is done.
    fn done(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.end.store(true, Ordering::SeqCst);
        }
    }

    fn run(&self) {
        assert_eq!(self.inside.fetch_add(1, Ordering::SeqCst), 0, "it runs on one CPU at a time");
        if self.rig.upcall_pending() && self.rig.look() {
            self.done();
        }
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }

    /// It blocks whenever it has nothing to do.
    fn run_or_block(&self) {
        self.run();
        if self.rig.sched_op(SCHEDOP_BLOCK, GuestVirtAddr(0)).unwrap() != Outcome::Reschedule {
            // There is something: it goes on.
            self.run();
        }
    }
}

/// An event for a vCPU interrupts it where it is about to enter the guest, or is there, and wakes it where it blocks when it
/// has nothing to do, also while its CPU schedules.
fn is_told(policy: PolicyKind, run: fn(&Handler<'_>)) {
    let rig = Rig::with(policy);
    rig.bring_up();
    let handler = Handler::new(&rig, 0);
    race(vec![Box::new(|| cpu_loop(&rig, &handler.end, || run(&handler))), Box::new(|| rig.send_twice())]);
}

#[test]
fn an_event_and_a_vcpu_that_enters_the_guest() {
    explore(|| is_told(PolicyKind::Null, |guest| guest.run()));
}

#[test]
fn an_event_and_a_vcpu_that_enters_the_guest_under_credit2() {
    explore(|| is_told(PolicyKind::Credit2, |guest| guest.run()));
}

#[test]
fn an_event_and_a_cpu_that_schedules() {
    explore(|| is_told(PolicyKind::Null, |guest| guest.run_or_block()));
}

#[test]
fn an_event_and_a_cpu_that_schedules_under_credit2() {
    explore(|| is_told(PolicyKind::Credit2, |guest| guest.run_or_block()));
}

/// A vCPU that is sent from CPU to CPU runs on one of them at a time, and hears of each event.
fn moves(policy: PolicyKind) {
    let rig = Rig::with(policy);
    rig.bring_up();
    let handler = Handler::new(&rig, 0);
    let (hv, vcpu) = (&rig.host.hv, rig.host.vcpu(GUEST, 0));
    let run = || cpu_loop(&rig, &handler.end, || handler.run());
    race(vec![
        Box::new(run),
        Box::new(run),
        Box::new(|| {
            for cpu in [1, 0] {
                rig.send();
                hv.scheduler.set_affinity(hv, vcpu, Some(CpuSet::only(CpuId(cpu))), None).unwrap();
                while rig.is_pending() {
                    wait();
                }
            }
        }),
    ]);
}

#[test]
fn an_event_and_a_vcpu_that_changes_cpus() {
    explore(|| moves(PolicyKind::Null));
}

#[test]
fn an_event_and_a_vcpu_that_changes_cpus_under_credit2() {
    explore(|| moves(PolicyKind::Credit2));
}

/// A vCPU that is sent to another CPU while it sleeps, and while an event wakes it.
fn moves_asleep(policy: PolicyKind) {
    let rig = Rig::with(policy);
    rig.bring_up();
    let handler = Handler::new(&rig, 0);
    let (hv, vcpu) = (&rig.host.hv, rig.host.vcpu(GUEST, 0));
    let run = || cpu_loop(&rig, &handler.end, || handler.run_or_block());
    race(vec![
        Box::new(run),
        Box::new(run),
        Box::new(|| rig.send_twice()),
        Box::new(|| {
            for cpu in [1, 0, 1] {
                hv.scheduler.set_affinity(hv, vcpu, Some(CpuSet::only(CpuId(cpu))), None).unwrap();
            }
        }),
    ]);
}

#[test]
fn an_event_and_a_vcpu_that_changes_cpus_asleep() {
    explore(|| moves_asleep(PolicyKind::Null));
}

#[test]
fn an_event_and_a_vcpu_that_changes_cpus_asleep_under_credit2() {
    explore(|| moves_asleep(PolicyKind::Credit2));
}

/// A domain that changes pools while an event wakes its vCPU.
fn changes_pools(from: PolicyKind, to: PolicyKind) {
    let rig = Rig::with(from);
    rig.bring_up();
    let (hv, caller) = (&rig.host.hv, rig.host.vcpu(DOM0, 0));
    hv.scheduler.add_vcpu(hv, caller).unwrap();
    hv.scheduler.set_affinity(hv, caller, Some(CpuSet::only(CpuId(3))), None).unwrap();
    hv.scheduler.bring_up(hv, caller);
    let pool = hv.scheduler.create_pool(None, to).unwrap();
    hv.scheduler.remove_pool_cpu(hv, 0, CpuId(1), caller).unwrap();
    hv.scheduler.add_pool_cpu(hv, pool, Some(CpuId(1))).unwrap();
    let handler = Handler::new(&rig, 1);
    let run = || cpu_loop(&rig, &handler.end, || handler.run_or_block());
    race(vec![
        Box::new(run),
        Box::new(run),
        Box::new(|| rig.send_twice()),
        Box::new(|| {
            while hv.scheduler.move_domain(hv, rig.host.domain(GUEST), pool, caller).is_err() {
                wait();
            }
            handler.done();
        }),
    ]);
}

#[test]
fn an_event_and_a_domain_that_changes_pools() {
    explore(|| changes_pools(PolicyKind::Null, PolicyKind::Credit2));
}

#[test]
fn an_event_and_a_domain_that_changes_pools_back() {
    explore(|| changes_pools(PolicyKind::Credit2, PolicyKind::Null));
}

/// A poll with a time ends, by an event or by its time, and leaves the time of the next poll alone.
#[test]
fn an_event_and_the_end_of_a_poll() {
    const POLLS: [u64; 2] = [0x3000, 0x3040];
    explore(|| {
        let rig = Rig::new();
        rig.mask();
        rig.run_guest();
        let caller = rig.host.caller(GUEST, 0);
        caller.write(GuestVirtAddr(0x3800), &rig.port.0).unwrap();
        for (at, timeout) in POLLS.into_iter().zip([1000, 2000]) {
            caller.write(GuestVirtAddr(at), &Poll { ports: 0x3800, nr_ports: 1, _pad: 0, timeout }).unwrap();
        }
        let end = AtomicBool::new(false);
        let mut left = POLLS.into_iter();
        let run = || {
            rig.take();
            let asleep = left.next().map(|at| rig.sched_op(SCHEDOP_POLL, GuestVirtAddr(at)).unwrap());
            end.store(asleep.is_none(), Ordering::SeqCst);
        };
        race(vec![Box::new(|| cpu_loop(&rig, &end, run)), Box::new(|| rig.send())]);
    });
}

/// Two that wake a vCPU from a poll, one of them so slowly that it polls again: that has its time, or ends.
#[test]
fn two_that_end_a_poll() {
    explore_more(30, || {
        let rig = Rig::new();
        let (hv, vcpu) = (&rig.host.hv, rig.host.vcpu(GUEST, 0));
        rig.mask();
        rig.run_guest();
        let poll = Poll { ports: 0, nr_ports: 0, _pad: 0, timeout: 1000 };
        rig.host.caller(GUEST, 0).write(GuestVirtAddr(0x3000), &poll).unwrap();
        let poll = || rig.sched_op(SCHEDOP_POLL, GuestVirtAddr(0x3000)).unwrap();
        assert_eq!(poll(), Outcome::Reschedule);
        race(vec![
            Box::new(|| {
                hv.scheduler.wake(hv, vcpu);
                poll();
            }),
            Box::new(|| hv.scheduler.wake(hv, vcpu)),
        ]);
        assert!(!rig.is_blocked() || hv.timers.next_deadline(CpuId(0)).is_some());
    });
}
