//! Tests of the mechanism and of `sched_op`, `vcpu_op` and timers, on the test host.

use crate::sync::atomic::Ordering;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::sched as sabi;
use radon_abi::vcpu as vabi;
use radon_abi::xen::VIRQ_TIMER;

use super::*;
use crate::hypercall::{Args, OpResult, Outcome, SUCCESS};
use crate::platform::Platform;
use crate::testing::TestHost;
use crate::time::{State, VcpuTimer};
use crate::types::{DomainId, GuestVirtAddr, MachineAddr, Port};

/// Where tests put hypercall arguments.
const ARG: u64 = 0x3000;

/// What a CPU loop keeps.
struct Loop<'a> {
    host: &'a TestHost,
    cpu: CpuId,
    current: Option<Arc<Vcpu>>,
}

impl Loop<'_> {
    fn new(host: &TestHost, cpu: u32) -> Loop<'_> {
        Loop { host, cpu: CpuId(cpu), current: None }
    }

    /// One turn of the CPU loop. Returns the number of the vCPU that runs now.
    fn turn(&mut self) -> Option<u32> {
        let hv = &*self.host.hv;
        self.host.machine.current_cpu.store(self.cpu.0, Ordering::SeqCst);
        let now = hv.platform.now();
        hv.timers.expire(hv, self.cpu, now);
        if hv.scheduler.needs_schedule(self.cpu) {
            let next = hv.scheduler.schedule(hv, self.cpu, now).vcpu;
            let same = match (&self.current, &next) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            };
            let prev = core::mem::replace(&mut self.current, next);
            if let Some(prev) = prev.filter(|_| !same) {
                hv.scheduler.context_saved(hv, &prev);
            }
        }
        hv.timers.program(&*hv.platform, self.cpu);
        self.current.as_ref().map(|v| v.id.0)
    }

    fn turn_at(&mut self, time: u64) -> Option<u32> {
        self.host.machine.time.store(time, Ordering::SeqCst);
        self.turn()
    }

    fn armed(&self) -> Option<u64> {
        self.host.machine.armed.lock()[self.cpu.index()].map(|t| t.0)
    }
}

/// A host with dom0 and one guest of `vcpus`, all of them up.
fn host(cpus: u32, vcpus: u32) -> (TestHost, DomainId) {
    let mut host = TestHost::new(1024, cpus);
    host.add_domain(1);
    let guest = host.add_domain(vcpus);
    for n in 0..vcpus {
        let vcpu = host.vcpu(guest, n);
        host.hv.scheduler.add_vcpu(&host.hv, vcpu).unwrap();
        host.hv.scheduler.bring_up(&host.hv, vcpu);
    }
    (host, guest)
}

fn op<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    host: &TestHost,
    domain: DomainId,
    vcpu: u32,
    (cmd, target): (u32, u32),
    arg: &T,
) -> OpResult {
    let caller = host.caller(domain, vcpu);
    caller.write(GuestVirtAddr(ARG), arg).unwrap();
    vcpu_op::vcpu_op(&caller, Args([u64::from(cmd), u64::from(target), ARG, 0, 0, 0]))
}

fn sched<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    host: &TestHost,
    domain: DomainId,
    vcpu: u32,
    cmd: u32,
    arg: &T,
) -> OpResult {
    let caller = host.caller(domain, vcpu);
    caller.write(GuestVirtAddr(ARG), arg).unwrap();
    ops::sched_op(&caller, Args([u64::from(cmd), ARG, 0, 0, 0, 0]))
}

/// Clears the upcall, as a guest that has looked at its events.
fn look(host: &TestHost, domain: DomainId, vcpu: u32) {
    let info = host.vcpu(domain, vcpu).events.info().unwrap();
    host.hv.platform.memory().fetch_and_u64(info, !0xff);
    host.hv.platform.memory().fetch_and_u64(MachineAddr(info.0 + 8), 0);
}

#[test]
fn a_blocked_vcpu_sleeps_until_it_is_notified() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    assert_eq!(cpu.turn(), Some(0));
    let vcpu = host.vcpu(guest, 0);
    assert_eq!(sched(&host, guest, 0, sabi::SCHEDOP_BLOCK, &0u32), Ok(Outcome::Reschedule));
    assert_eq!(cpu.turn_at(100), None);
    assert_eq!(cpu.armed(), None, "an idle CPU arms nothing");
    assert_eq!(vcpu.sched.unit.runstate().state(), State::Blocked);
    host.machine.advance(Nanoseconds(50));
    assert_eq!(host.hv.scheduler.idle_time(&host.hv, CpuId(0)), Nanoseconds(50));
    vcpu.notify(&host.hv);
    assert_eq!(cpu.turn(), Some(0));
    host.machine.advance(Nanoseconds(7));
    assert_eq!(host.hv.scheduler.idle_time(&host.hv, CpuId(0)), Nanoseconds(50));
    assert_eq!(host.domain(guest).sched.cpu_time(host.hv.platform.now()), Nanoseconds(107));
    assert_eq!(vcpu.runstate_info(&host.hv).time[..3], [107, 0, 50]);
}

#[test]
fn an_event_that_comes_first_prevents_the_block() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let hv = &host.hv;
    let vcpu = host.vcpu(guest, 0);
    assert!(!hv.scheduler.block(hv, vcpu, || true));
    assert_eq!(cpu.turn(), Some(0));
    // One that comes between marking it blocked and looking: the sender wakes it.
    let blocked = hv.scheduler.block(hv, vcpu, || {
        vcpu.notify(hv);
        false
    });
    assert!(blocked);
    assert_eq!(cpu.turn(), Some(0));
    assert!(!vcpu.sched.unit.is_blocked());
}

#[test]
fn notify_kicks_only_another_cpu() {
    let (host, guest) = host(2, 2);
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
    host.machine.kicks.lock().clear();
    host.vcpu(guest, 1).notify(&host.hv);
    assert_eq!(*host.machine.kicks.lock(), []);
    host.vcpu(guest, 0).notify(&host.hv);
    assert_eq!(*host.machine.kicks.lock(), [CpuId(0)]);
    assert!(!host.hv.scheduler.needs_schedule(CpuId(0)), "an event does not make a CPU schedule");
}

#[test]
fn pauses_count_and_wait_for_the_cpu() {
    let (host, guest) = host(2, 2);
    let hv = &host.hv;
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    a.turn();
    b.turn();
    let (v0, v1) = (host.vcpu(guest, 0), host.vcpu(guest, 1));
    hv.scheduler.pause(hv, v0);
    hv.scheduler.pause(hv, v0);
    assert!(v0.sched.unit.loaded_on().is_some(), "not off before the CPU gets to it");
    assert_eq!(a.turn(), None);
    assert_eq!(hv.scheduler.wait_until_off(hv, v0, v1), Ok(()));
    hv.scheduler.unpause(hv, v0);
    assert_eq!(a.turn(), None);
    hv.scheduler.unpause(hv, v0);
    hv.scheduler.unpause(hv, v0);
    assert_eq!(a.turn(), Some(0));
    hv.scheduler.pause_domain(hv, &host.domain(guest).sched);
    assert_eq!((a.turn(), b.turn()), (None, None));
    assert_eq!(v0.sched.unit.runstate().state(), State::Offline);
    assert!(hv.scheduler.unpause_domain(hv, &host.domain(guest).sched));
    assert!(!hv.scheduler.unpause_domain(hv, &host.domain(guest).sched));
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
    let dom0 = host.vcpu(DomainId(0), 0);
    hv.scheduler.bring_up(hv, dom0);
    hv.scheduler.pause_domain(hv, &host.domain(guest).sched);
    a.turn();
    b.turn();
    assert_eq!(hv.scheduler.pause_domain_sync(hv, host.domain(guest), dom0), Ok(()));
    hv.scheduler.unpause_domain(hv, &host.domain(guest).sched);
    assert_eq!((a.turn(), b.turn()), (None, None));
    hv.scheduler.unpause_domain(hv, &host.domain(guest).sched);
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
    // Two that wait for each other: the one that is to stop itself gives up.
    hv.scheduler.pause(hv, v1);
    assert_eq!(hv.scheduler.pause_sync(hv, v0, v1), Err(Errno::EAGAIN));
    hv.scheduler.unpause(hv, v1);
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)), "and takes its pause back");
    assert_eq!(hv.scheduler.remove_vcpu(hv, v0), Err(Errno::EAGAIN));
}

#[test]
fn vcpus_go_down_and_up() {
    let (host, guest) = host(2, 2);
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    a.turn();
    b.turn();
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_IS_UP, 1), &0u32), Ok(Outcome::Done(1)));
    op(&host, guest, 0, (vabi::VCPUOP_DOWN, 1), &0u32).unwrap();
    assert_eq!((a.turn(), b.turn()), (Some(0), None));
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_IS_UP, 1), &0u32), Ok(Outcome::Done(0)));
    op(&host, guest, 0, (vabi::VCPUOP_UP, 1), &0u32).unwrap();
    assert_eq!(b.turn(), Some(1));
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_UP, 2), &0u32), Err(Errno::ENOENT));
    assert_eq!(op(&host, guest, 0, (99, 0), &0u32), Err(Errno::ENOSYS));
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_INITIALISE, 1), &[0u64; 16]), Err(Errno::EEXIST));
    op(&host, guest, 0, (vabi::VCPUOP_DOWN, 1), &0u32).unwrap();
    assert_eq!(host.domain(guest).shutdown_reason(), None);
    op(&host, guest, 0, (vabi::VCPUOP_DOWN, 0), &0u32).unwrap();
    assert_eq!(host.domain(guest).shutdown_reason(), Some(sabi::SHUTDOWN_POWEROFF));
    let caller = host.caller(guest, 0);
    let send_nmi = |arg| vcpu_op::vcpu_op(&caller, Args([vabi::VCPUOP_SEND_NMI.into(), 0, arg, 0, 0, 0]));
    assert_eq!((send_nmi(1), send_nmi(0)), (Err(Errno::EINVAL), SUCCESS));
    assert_eq!(host.arch(guest, 0).nmis.load(Ordering::SeqCst), 1);
}

#[test]
fn the_runstate_area_follows_across_a_page_border() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let area = 0x5000 - 12;
    let register = |addr| {
        let area = vabi::RegisterArea { addr };
        op(&host, guest, 0, (vabi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, 0), &area)
    };
    assert_eq!(register(0xdead_0000), Err(Errno::EFAULT));
    assert_eq!(register(area), SUCCESS);
    let read = || host.caller(guest, 0).read::<vabi::RunstateInfo>(GuestVirtAddr(area)).unwrap();
    assert_eq!(read().state, vabi::RUNSTATE_RUNNING);
    host.domain(guest).vm_assist.store(1 << 5, Ordering::SeqCst);
    sched(&host, guest, 0, sabi::SCHEDOP_BLOCK, &0u32).unwrap();
    cpu.turn_at(1000);
    let info = read();
    assert_eq!((info.state, info.state_entry_time, info.time[0]), (vabi::RUNSTATE_BLOCKED, 1000, 1000));
    op(&host, guest, 0, (vabi::VCPUOP_GET_RUNSTATE_INFO, 0), &0u32).unwrap();
    assert_eq!(host.caller(guest, 0).read::<vabi::RunstateInfo>(GuestVirtAddr(ARG)).unwrap(), info);
    // No longer written once given up.
    assert_eq!(register(0), SUCCESS);
    host.vcpu(guest, 0).notify(&host.hv);
    cpu.turn_at(2000);
    assert_eq!(read(), info);
}

#[test]
fn the_clock_is_published_wherever_the_guest_wants_it() {
    let (host, guest) = host(1, 1);
    let vcpu = host.vcpu(guest, 0);
    let memory = host.hv.platform.memory();
    let version = |at: u64| memory.load_u32(MachineAddr(at));
    let first = vcpu.events.info().unwrap().0 + 32;
    assert!(version(first) % 2 == 0 && version(first) > 0);
    assert_eq!(memory.load_u32(MachineAddr(first + 24)), host.machine.clock().mul);
    let info = vabi::RegisterVcpuInfo { mfn: 7, offset: 64, rsvd: 0 };
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_REGISTER_VCPU_INFO, 0), &info), SUCCESS);
    let second = vcpu.events.info().unwrap().0 + 32;
    assert_ne!(first, second);
    assert_eq!(version(second), version(first) + 2);
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_REGISTER_VCPU_INFO, 0), &info), Err(Errno::EINVAL));
    let area = vabi::RegisterArea { addr: 0x6ff4 };
    assert_eq!(op(&host, guest, 0, (vabi::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, 0), &area), SUCCESS);
    let copy: [u8; 32] = host.caller(guest, 0).read(GuestVirtAddr(0x6ff4)).unwrap();
    let mut primary = [0u8; 32];
    memory.read(MachineAddr(second), &mut primary);
    assert_eq!(copy, primary);
    assert_eq!(copy[29], 1, "the TSC is stable");
}

#[test]
fn the_wall_clock_is_what_was_set_plus_the_domains_offset() {
    let (host, guest) = host(1, 1);
    let domain = host.domain(guest);
    let memory = host.hv.platform.memory();
    let field = |n: u64| memory.load_u32(MachineAddr(domain.shared_info.addr().0 + 3072 + n));
    crate::time::clock::publish_wall_clock(&host.hv, domain);
    assert_eq!((field(0), field(4), field(8), field(12)), (2, 1_700_000_000, 0, 0));
    let at = Nanoseconds(3_000_000_000);
    crate::time::clock::set_wall_clock(&host.hv, 5_000_000_003, 17, at).unwrap();
    assert_eq!((field(0), field(4), field(8), field(12)), (4, 5_000_000_000u64 as u32, 17, 1));
    assert_eq!(crate::time::clock::set_wall_clock(&host.hv, 1, 1_000_000_000, at), Err(Errno::EINVAL));
    assert_eq!(crate::time::clock::set_wall_clock(&host.hv, 2, 0, at), Err(Errno::EINVAL), "before 1970");
    crate::time::clock::set_wall_clock_offset(&host.hv, domain, -100);
    assert_eq!(field(4), 4_999_999_900u64 as u32);
    host.machine.time.store(5, Ordering::SeqCst);
    assert_eq!(crate::time::clock::wall_clock_now(&host.hv), 5_000_000_000_000_000_022);
}

fn bind_timer(host: &TestHost, domain: DomainId, vcpu: u32) -> Port {
    let caller = host.caller(domain, vcpu);
    let bind = [VIRQ_TIMER, vcpu, 0];
    caller.write(GuestVirtAddr(ARG), &bind).unwrap();
    let done = crate::evtchn::event_channel_op(&caller, Args([1, ARG, 0, 0, 0, 0]));
    assert_eq!(done, SUCCESS);
    Port(caller.read::<[u32; 3]>(GuestVirtAddr(ARG)).unwrap()[2])
}

fn pending(host: &TestHost, domain: DomainId, port: Port) -> bool {
    crate::evtchn::is_pending(&host.hv, host.domain(domain), port).unwrap()
}

#[test]
fn timers_wake_a_blocked_vcpu() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let port = bind_timer(&host, guest, 0);
    let set = |timeout_abs_ns, flags| {
        let timer = vabi::SetSingleshotTimer { timeout_abs_ns, flags, _pad: 0 };
        op(&host, guest, 0, (vabi::VCPUOP_SET_SINGLESHOT_TIMER, 0), &timer)
    };
    host.machine.time.store(1000, Ordering::SeqCst);
    assert_eq!(set(999, vabi::VCPU_SSHOTTMR_FUTURE), SUCCESS, "a time that has passed is no error");
    assert_eq!(set(7400, vabi::VCPU_SSHOTTMR_FUTURE), SUCCESS);
    assert_eq!(cpu.armed(), Some(7500), "1/64 of the wait is slack");
    look(&host, guest, 0);
    sched(&host, guest, 0, sabi::SCHEDOP_BLOCK, &0u32).unwrap();
    assert_eq!(cpu.turn_at(7399), None);
    assert_eq!(cpu.turn_at(7500), Some(0));
    assert!(pending(&host, guest, port));
    assert_eq!(cpu.armed(), None);
    // set_timer_op is the same timer; 0 stops it.
    let caller = host.caller(guest, 0);
    ops::set_timer_op(&caller, Args([9000, 0, 0, 0, 0, 0])).unwrap();
    assert!(host.hv.timers.next_deadline(CpuId(0)).is_some());
    ops::set_timer_op(&caller, Args([0; 6])).unwrap();
    assert!(host.hv.timers.next_deadline(CpuId(0)).is_none());
}

#[test]
fn the_periodic_timer_goes_on_until_stopped() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let port = bind_timer(&host, guest, 0);
    let set =
        |period_ns| op(&host, guest, 0, (vabi::VCPUOP_SET_PERIODIC_TIMER, 0), &vabi::SetPeriodicTimer { period_ns });
    assert_eq!((set(999_999), set(u64::MAX)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    assert_eq!(set(1_000_000), SUCCESS);
    let mut times = Vec::new();
    for _ in 0..3 {
        let next = cpu.armed().unwrap();
        cpu.turn_at(next);
        assert!(pending(&host, guest, port));
        times.push(next / 1_000_000);
    }
    assert_eq!(times, [1, 2, 3]);
    op(&host, guest, 0, (vabi::VCPUOP_STOP_PERIODIC_TIMER, 0), &0u32).unwrap();
    cpu.turn();
    assert_eq!(cpu.armed(), None);
}

#[test]
fn timers_follow_their_vcpu() {
    let (host, guest) = host(2, 1);
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    assert_eq!((a.turn(), b.turn()), (Some(0), None));
    let vcpu = host.vcpu(guest, 0);
    vcpu.arm_timer(&host.hv, VcpuTimer::Arch(0), Nanoseconds(500));
    assert_eq!(host.hv.timers.next_deadline(CpuId(0)), Some(Nanoseconds(500)));
    host.hv.scheduler.set_affinity(&host.hv, vcpu, Some(CpuSet::only(CpuId(1))), None).unwrap();
    assert_eq!(host.hv.scheduler.set_affinity(&host.hv, vcpu, Some(CpuSet::only(CpuId(7))), None), Err(Errno::EINVAL));
    assert_eq!(b.turn(), None, "not while CPU 0 has its context");
    assert_eq!((a.turn(), b.turn()), (None, Some(0)));
    assert_eq!(host.hv.timers.next_deadline(CpuId(0)), None);
    assert_eq!(host.hv.timers.next_deadline(CpuId(1)), Some(Nanoseconds(500)));
    vcpu.stop_time(&host.hv);
    assert_eq!(host.hv.timers.next_deadline(CpuId(1)), None);
}

#[test]
fn what_a_vcpu_cannot_take_does_not_end_its_poll() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    bind_timer(&host, guest, 0);
    crate::evtchn::send_vcpu_virq(&host.hv, host.vcpu(guest, 0), VIRQ_TIMER);
    let poll = |interrupts| {
        let caller = host.caller(guest, 0).with_interrupts(interrupts);
        caller.write(GuestVirtAddr(ARG), &sabi::Poll { ports: 0, nr_ports: 0, _pad: 0, timeout: 64_000 }).unwrap();
        ops::sched_op(&caller, Args([u64::from(sabi::SCHEDOP_POLL), ARG, 0, 0, 0, 0]))
    };
    assert_eq!(poll(true), SUCCESS, "the upcall comes at once");
    assert_eq!(poll(false), Ok(Outcome::Reschedule));
    assert_eq!(cpu.turn_at(60_000), None);
    assert_eq!(cpu.turn_at(65_000), Some(0), "the time is over");
}

#[test]
fn poll_ends_with_an_event_or_a_time() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let port = bind_timer(&host, guest, 0);
    // Masked, as polled ports are.
    let mask = MachineAddr(host.domain(guest).shared_info.addr().0 + 2048 + 512);
    host.hv.platform.memory().fetch_or_u64(mask, 1 << port.0);
    let caller = host.caller(guest, 0);
    caller.write(GuestVirtAddr(0x3800), &port.0).unwrap();
    let poll = |nr_ports, timeout| {
        look(&host, guest, 0);
        let poll = sabi::Poll { ports: 0x3800, nr_ports, _pad: 0, timeout };
        sched(&host, guest, 0, sabi::SCHEDOP_POLL, &poll)
    };
    assert_eq!(poll(129, 0), Err(Errno::EINVAL));
    assert_eq!(poll(1, 64_000), Ok(Outcome::Reschedule));
    assert_eq!(cpu.turn_at(60_000), None);
    assert_eq!(cpu.turn_at(65_000), Some(0), "the time is over");
    assert_eq!(poll(1, 1_000_000_000), Ok(Outcome::Reschedule));
    assert_eq!(cpu.turn(), None);
    crate::evtchn::send_vcpu_virq(&host.hv, host.vcpu(guest, 0), VIRQ_TIMER);
    assert_eq!(cpu.turn(), Some(0), "the event came");
    assert_eq!(host.hv.timers.next_deadline(CpuId(0)), None, "its timer is gone");
    assert_eq!(poll(1, 0), SUCCESS, "it is pending already");
    caller.write(GuestVirtAddr(0x3800), &4095u32).unwrap();
    assert_eq!(poll(1, 0), Err(Errno::EINVAL));
    assert_eq!(cpu.turn(), Some(0));
}

#[test]
fn a_poll_that_a_slow_sender_ended_does_not_sleep() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let port = bind_timer(&host, guest, 0);
    host.caller(guest, 0).write(GuestVirtAddr(0x3800), &port.0).unwrap();
    look(&host, guest, 0);
    // A sender whose event was seen by an earlier poll of the port gets on only now, and takes this poll for that one.
    let (domain, vcpu) = (host.domain(guest).clone(), host.vcpu(guest, 0).clone());
    let slow_sender = move || {
        assert!(vcpu.events.end_poll(&domain));
    };
    *host.arch(guest, 0).meanwhile.lock() = Some(alloc::boxed::Box::new(slow_sender));
    let poll = sabi::Poll { ports: 0x3800, nr_ports: 1, _pad: 0, timeout: 0 };
    assert_eq!(sched(&host, guest, 0, sabi::SCHEDOP_POLL, &poll), SUCCESS, "or no later event would wake it");
    assert_eq!(cpu.turn(), Some(0));
}

#[test]
fn a_watchdog_that_is_not_poked_shuts_the_domain_down() {
    let (host, guest) = host(1, 1);
    let mut cpu = Loop::new(&host, 0);
    cpu.turn();
    let watchdog = |id, timeout| sched(&host, guest, 0, sabi::SCHEDOP_WATCHDOG, &sabi::Watchdog { id, timeout });
    assert_eq!(watchdog(0, 0), Err(Errno::EINVAL));
    assert_eq!(watchdog(0, 10), Ok(Outcome::Done(1)));
    assert_eq!(watchdog(0, 20), Ok(Outcome::Done(2)));
    assert_eq!(watchdog(0, 20), Err(Errno::ENOSPC));
    assert_eq!(watchdog(3, 20), Err(Errno::EINVAL));
    assert_eq!(watchdog(1, 0), SUCCESS);
    assert_eq!(watchdog(1, 5), Err(Errno::EEXIST));
    cpu.turn_at(15_000_000_000);
    assert_eq!(watchdog(2, 20), SUCCESS);
    assert_eq!(cpu.turn_at(30_000_000_000), Some(0));
    assert_eq!(cpu.turn_at(36_000_000_000), None);
    assert_eq!(host.domain(guest).shutdown_reason(), Some(sabi::SHUTDOWN_WATCHDOG));
}

#[test]
fn a_shutdown_keeps_its_first_reason_and_can_be_undone() {
    let (host, guest) = host(2, 2);
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    a.turn();
    b.turn();
    let shutdown = |op, reason| sched(&host, guest, 0, op, &sabi::Shutdown { reason });
    assert_eq!(shutdown(sabi::SCHEDOP_SHUTDOWN, 9), Err(Errno::EINVAL));
    assert_eq!(resume(&host.hv, host.domain(guest)), Err(Errno::EINVAL));
    assert_eq!(shutdown(sabi::SCHEDOP_SHUTDOWN, sabi::SHUTDOWN_SUSPEND), Ok(Outcome::Reschedule));
    assert_eq!((a.turn(), b.turn()), (None, None));
    let remote = |domain, reason| {
        let arg = sabi::RemoteShutdown { domain_id: guest.0, _pad: 0, reason };
        sched(&host, domain, 0, sabi::SCHEDOP_REMOTE_SHUTDOWN, &arg)
    };
    assert_eq!(remote(guest, sabi::SHUTDOWN_CRASH), Err(Errno::EPERM));
    assert_eq!(remote(DomainId(0), sabi::SHUTDOWN_CRASH), SUCCESS);
    assert_eq!(host.domain(guest).shutdown_reason(), Some(sabi::SHUTDOWN_SUSPEND));
    resume(&host.hv, host.domain(guest)).unwrap();
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
    assert_eq!(shutdown(sabi::SCHEDOP_SHUTDOWN_CODE, sabi::SHUTDOWN_CRASH), SUCCESS);
    assert_eq!(remote(DomainId(0), sabi::SHUTDOWN_REBOOT), SUCCESS);
    assert_eq!(host.domain(guest).shutdown_reason(), Some(sabi::SHUTDOWN_CRASH), "the domain had said so");
}

#[test]
#[should_panic(expected = "the machine was stopped: Reboot")]
fn dom0s_shutdown_is_the_machines() {
    let (host, _) = host(1, 1);
    let _ = sched(&host, DomainId(0), 0, sabi::SCHEDOP_SHUTDOWN, &sabi::Shutdown { reason: sabi::SHUTDOWN_REBOOT });
}

#[test]
fn pin_override_is_dom0s_and_ends() {
    let (host, guest) = host(2, 1);
    let vcpu = host.vcpu(DomainId(0), 0);
    host.hv.scheduler.add_vcpu(&host.hv, vcpu).unwrap();
    let pin = |domain, pcpu| sched(&host, domain, 0, sabi::SCHEDOP_PIN_OVERRIDE, &sabi::PinOverride { pcpu });
    assert_eq!(pin(guest, 1), Err(Errno::EPERM));
    assert_eq!(pin(DomainId(0), -1), Err(Errno::EINVAL));
    assert_eq!(pin(DomainId(0), 2), Err(Errno::EINVAL));
    assert_eq!(pin(DomainId(0), 1), Ok(Outcome::Reschedule));
    assert_eq!(vcpu.sched.unit.affinity().allowed(), CpuSet::only(CpuId(1)));
    assert_eq!(pin(DomainId(0), 0), Err(Errno::EBUSY));
    assert_eq!(pin(DomainId(0), -1), Ok(Outcome::Reschedule));
    assert_eq!(vcpu.sched.unit.affinity().allowed(), CpuSet::ALL);
}

/// The period of a cap that ends where there are no caps is over: in another pool the next one begins.
#[test]
fn a_period_ends_in_a_pool_without_caps() {
    let (host, guest) = host(2, 2);
    let domain = &host.domain(guest).sched;
    domain.budget_armed.store(true, Ordering::SeqCst);
    host.hv.scheduler.replenish(&host.hv, domain, Nanoseconds(0));
    assert!(!domain.budget_armed.load(Ordering::SeqCst));
}

#[test]
fn policies_are_found_by_name_and_dumped() {
    assert_eq!(PolicyKind::from_name("credit2"), Ok(PolicyKind::Credit2));
    assert_eq!(PolicyKind::from_name("credit"), Ok(PolicyKind::Credit2));
    assert_eq!(PolicyKind::from_name("null"), Ok(PolicyKind::Null));
    assert_eq!(PolicyKind::from_name("rtds"), Err("rtds"));
    let (host, guest) = host(2, 2);
    let mut text = String::new();
    host.hv.scheduler.dump(&host.hv, &mut text).unwrap();
    assert!(text.contains("Pool-0: null, CPUs 0-1") && text.contains("d1v1"), "{text}");
    let parameters = host.hv.scheduler.set_parameters(&host.hv, &host.domain(guest).sched, Some(5), None);
    assert_eq!(parameters, Err(Errno::EOPNOTSUPP));
}

#[test]
fn a_pool_is_made_filled_and_given_up() {
    let (host, guest) = host(2, 2);
    let hv = &*host.hv;
    let s = &hv.scheduler;
    let (dom0, domain) = (host.vcpu(DomainId(0), 0), host.domain(guest));
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
    assert_eq!(s.create_pool(None, PolicyKind::Credit2), Ok(1));
    assert_eq!(s.create_pool(Some(1), PolicyKind::Null), Err(Errno::EEXIST));
    assert_eq!(s.create_pool(Some(99), PolicyKind::Null), Err(Errno::EINVAL));
    assert_eq!(s.move_domain(hv, domain, 1, dom0), Err(Errno::EBUSY));
    assert_eq!(s.move_domain(hv, domain, 2, dom0), Err(Errno::ENOENT));
    assert_eq!(s.add_pool_cpu(hv, 1, Some(CpuId(1))), Err(Errno::EBUSY));
    assert_eq!(s.add_pool_cpu(hv, 1, None), Err(Errno::EBUSY));
    assert_eq!(s.remove_pool_cpu(hv, 1, CpuId(1), dom0), Err(Errno::EINVAL));

    // It is asked for on the CPU itself, which has to take off what it runs first.
    assert_eq!(s.remove_pool_cpu(hv, 0, CpuId(1), dom0), Err(Errno::EAGAIN));
    assert_eq!((a.turn(), b.turn()), (Some(0), None));
    assert_eq!(s.remove_pool_cpu(hv, 0, CpuId(1), dom0), Ok(()));
    assert_eq!((s.free_cpus(), s.pool_cpus(0)), (CpuSet::only(CpuId(1)), Some(CpuSet::first(1))));
    assert_eq!(s.remove_pool_cpu(hv, 0, CpuId(0), dom0), Err(Errno::EBUSY));
    assert_eq!(s.add_pool_cpu(hv, 1, None), Ok(()));
    assert_eq!((a.turn(), b.turn()), (Some(0), None));

    let move_to = |pool, a: &mut Loop<'_>, b: &mut Loop<'_>| {
        assert_eq!(s.move_domain(hv, domain, pool, dom0), Err(Errno::EAGAIN), "it runs");
        s.pause_domain(hv, &domain.sched);
        assert_eq!((a.turn(), b.turn()), (None, None));
        assert_eq!(s.move_domain(hv, domain, pool, dom0), Ok(()));
        s.unpause_domain(hv, &domain.sched);
    };
    move_to(1, &mut a, &mut b);
    assert_eq!(a.turn(), None);
    let first = b.turn().unwrap();
    // Both share the CPU, as credit2 does it.
    host.machine.advance(Nanoseconds(30_000_000));
    s.request(hv, CpuId(1));
    assert_eq!(b.turn(), Some(1 - first));
    assert_eq!(s.set_parameters(hv, &domain.sched, Some(5), None), Ok(()));
    assert_eq!(s.destroy_pool(hv, 1), Err(Errno::EBUSY));
    assert_eq!(s.remove_pool_cpu(hv, 1, CpuId(1), dom0), Err(Errno::EBUSY));
    move_to(0, &mut a, &mut b);
    assert_eq!(s.destroy_pool(hv, 1), Err(Errno::EBUSY));
    assert_eq!(s.remove_pool_cpu(hv, 1, CpuId(1), dom0), Ok(()));
    assert_eq!(s.destroy_pool(hv, 1), Ok(()));
    assert_eq!((s.pool_from(1), s.destroy_pool(hv, 0)), (None, Err(Errno::EBUSY)));
    assert_eq!(s.create_pool(None, PolicyKind::Null), Ok(1));
    assert_eq!(s.pool_kind(1), Some(PolicyKind::Null));
    assert_eq!(s.add_pool_cpu(hv, 0, Some(CpuId(1))), Ok(()));
    assert_eq!((a.turn(), b.turn()), (Some(0), Some(1)));
}

#[test]
fn a_vcpu_whose_cpus_leave_the_pool_may_run_anywhere() {
    let (host, guest) = host(2, 1);
    let hv = &*host.hv;
    let vcpu = host.vcpu(guest, 0);
    let only = Some(CpuSet::only(CpuId(1)));
    hv.scheduler.set_affinity(hv, vcpu, only, None).unwrap();
    let (mut a, mut b) = (Loop::new(&host, 0), Loop::new(&host, 1));
    assert_eq!((a.turn(), b.turn()), (None, Some(0)));
    let remove = || hv.scheduler.remove_pool_cpu(hv, 0, CpuId(1), host.vcpu(DomainId(0), 0));
    assert_eq!(remove(), Err(Errno::EAGAIN));
    assert_eq!((b.turn(), a.turn()), (None, Some(0)));
    assert_eq!(remove(), Ok(()));
    assert_eq!(vcpu.sched.unit.affinity().hard, CpuSet::ALL);
    assert_eq!(hv.scheduler.set_affinity(hv, vcpu, only, None), Err(Errno::EINVAL));
}
