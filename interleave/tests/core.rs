//! The lock-free protocols of core, in many interleavings: each test is two or three threads at the code itself, and what must
//! hold when all have ended.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "tests")]

use radon_abi::hypercall::SCHED_OP;
use radon_abi::sched::{Poll, SCHEDOP_BLOCK, SCHEDOP_POLL};
use radon_abi::xen::{shared_info, vcpu_info};
use radon_core::evtchn::{self, Pin, VcpuEvents};
use radon_core::frames::Order;
use radon_core::hypercall::{Args, OpResult, dispatch};
use radon_core::p2m::{Access, Kind};
use radon_core::platform::PhysMemory;
use radon_core::testing::TestHost;
use radon_core::types::{CpuId, DomainId, Gfn, GuestVirtAddr, MachineAddr, Port, VcpuId};
use radon_interleave::atomic::{AtomicBool, Ordering};
use radon_interleave::{explore, race, step, wait};

const DOM0: DomainId = DomainId(0);
const GUEST: DomainId = DomainId(1);

/// dom0 and a guest, with a channel between them.
struct Rig {
    host: TestHost,
    /// dom0's end.
    near: Port,
    /// The guest's end.
    port: Port,
}

impl Rig {
    fn new() -> Rig {
        // Small, since it is made for each interleaving.
        let mut host = TestHost::new(64, 2);
        host.add_domain_with(2, 8);
        host.add_domain_with(2, 8);
        let port = evtchn::alloc_unbound(&host.hv, host.domain(GUEST), DOM0).unwrap();
        let near = evtchn::bind_interdomain(&host.hv, host.domain(DOM0), host.domain(GUEST), port).unwrap();
        let rig = Rig { host, near, port };
        rig.look();
        rig
    }

    fn memory(&self) -> &dyn PhysMemory {
        self.host.hv.platform.memory()
    }

    fn send(&self) {
        evtchn::send(&self.host.hv, self.host.domain(DOM0), self.near).unwrap();
    }

    /// A bitmap's word in the guest's shared page. All ports here are below 64.
    fn word(&self, bitmap: u64) -> MachineAddr {
        MachineAddr(self.host.domain(GUEST).shared_info.addr().0 + bitmap)
    }

    fn mask(&self) {
        self.memory().fetch_or_u64(self.word(shared_info::EVTCHN_MASK), 1 << self.port.0);
    }

    /// Takes the event as a guest that polls does.
    fn take(&self) -> bool {
        let bit = 1 << self.port.0;
        self.memory().fetch_and_u64(self.word(shared_info::EVTCHN_PENDING), !bit) & bit != 0
    }

    fn is_pending(&self) -> bool {
        self.memory().load_u64(self.word(shared_info::EVTCHN_PENDING)) >> self.port.0 & 1 != 0
    }

    fn upcall_pending(&self) -> bool {
        self.host.vcpu(GUEST, 0).events.upcall_pending(self.memory())
    }

    /// Takes all events as a guest's handler does: upcall, selector, pending. Returns whether the event was there.
    fn look(&self) -> bool {
        let info = self.host.vcpu(GUEST, 0).events.info().unwrap();
        self.memory().fetch_and_u64(info, !0xff);
        let words = self.memory().fetch_and_u64(MachineAddr(info.0 + vcpu_info::PENDING_SEL), 0);
        words & 1 != 0 && self.take()
    }

    /// Brings the guest's first vCPU up, on CPU 0.
    fn run_guest(&self) {
        let (hv, vcpu) = (&self.host.hv, self.host.vcpu(GUEST, 0));
        hv.scheduler.add_vcpu(hv, vcpu).unwrap();
        hv.scheduler.bring_up(hv, vcpu);
        assert!(hv.scheduler.schedule(hv, CpuId(0), hv.platform.now()).vcpu.is_some());
    }

    fn is_blocked(&self) -> bool {
        self.host.vcpu(GUEST, 0).sched.unit.is_blocked()
    }

    fn sched_op(&self, operation: u32, argument: GuestVirtAddr) -> OpResult {
        let args = Args([u64::from(operation), argument.0, 0, 0, 0, 0]);
        dispatch(&self.host.caller(GUEST, 0), SCHED_OP, args)
    }

    /// Sends twice, the second time when the first event was taken.
    fn send_twice(&self) {
        for _ in 0..2 {
            self.send();
            while self.is_pending() {
                wait();
            }
        }
    }
}

/// An event that comes while its port is unmasked is told.
#[test]
fn an_event_and_its_unmasking() {
    explore(|| {
        let rig = Rig::new();
        rig.mask();
        race(vec![
            Box::new(|| rig.send()),
            // As a guest does it that need not ask, but for what is pending already.
            Box::new(|| {
                let bit = 1 << rig.port.0;
                rig.memory().fetch_and_u64(rig.word(shared_info::EVTCHN_MASK), !bit);
                if rig.is_pending() {
                    rig.mask();
                    evtchn::unmask(&rig.host.hv, rig.host.domain(GUEST), rig.port).unwrap();
                }
            }),
        ]);
        assert!(rig.upcall_pending());
        assert!(rig.look());
    });
}

/// The same, if the guest asks in any case: it is told once.
#[test]
fn an_event_and_its_unmasking_by_hypercall() {
    explore(|| {
        let rig = Rig::new();
        rig.mask();
        race(vec![
            Box::new(|| rig.send()),
            Box::new(|| evtchn::unmask(&rig.host.hv, rig.host.domain(GUEST), rig.port).unwrap()),
        ]);
        assert!(rig.upcall_pending());
        assert_eq!(rig.host.arch(GUEST, 0).upcalls.load(Ordering::SeqCst), 1);
        assert!(rig.look());
    });
}

/// A guest that moves its `vcpu_info` and then looks there finds an event that was under way, or is told of it.
#[test]
fn an_event_and_a_vcpu_info_that_moves() {
    explore(|| {
        let rig = Rig::new();
        let taken = AtomicBool::new(false);
        race(vec![
            Box::new(|| rig.send()),
            Box::new(|| {
                let hv = &rig.host.hv;
                let pin = Pin::new(hv, rig.host.domain(GUEST), Gfn(5)).unwrap();
                VcpuEvents::register_info(hv, rig.host.vcpu(GUEST, 0), pin, 64).unwrap();
                taken.store(rig.look(), Ordering::SeqCst);
            }),
        ]);
        assert!(taken.load(Ordering::SeqCst) || rig.upcall_pending() && rig.look());
    });
}

/// A vCPU that polls a port is woken by each event, also by one that comes just then, and however late the sender of the
/// one before gets on.
#[test]
fn an_event_and_a_poll() {
    const ARGUMENT: GuestVirtAddr = GuestVirtAddr(0x3000);
    explore(|| {
        let rig = Rig::new();
        rig.mask();
        rig.run_guest();
        let caller = rig.host.caller(GUEST, 0);
        caller.write(GuestVirtAddr(0x3800), &rig.port.0).unwrap();
        caller.write(ARGUMENT, &Poll { ports: 0x3800, nr_ports: 1, _pad: 0, timeout: 0 }).unwrap();
        race(vec![
            Box::new(|| rig.send_twice()),
            Box::new(|| {
                for _ in 0..2 {
                    // It may wake without an event, as the interface allows.
                    while !rig.take() {
                        rig.sched_op(SCHEDOP_POLL, ARGUMENT).unwrap();
                        while rig.is_blocked() {
                            wait();
                        }
                    }
                }
            }),
        ]);
    });
}

/// A vCPU that blocks is woken by each event, also by one that comes just then.
#[test]
fn an_event_and_a_block() {
    explore(|| {
        let rig = Rig::new();
        rig.run_guest();
        race(vec![
            Box::new(|| rig.send_twice()),
            Box::new(|| {
                for _ in 0..2 {
                    while !rig.look() {
                        rig.sched_op(SCHEDOP_BLOCK, GuestVirtAddr(0)).unwrap();
                        while rig.is_blocked() {
                            wait();
                        }
                    }
                }
            }),
        ]);
    });
}

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
        ]);
    });
}

/// A frame that its owner gives up while another takes references stays as long as one is held, and is free once afterwards.
#[test]
fn a_frame_and_its_last_reference() {
    explore(|| {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let p2m = &rig.host.domain(GUEST).p2m;
        let before = hv.frames.free_frames();
        let mfn = p2m.query(hv, Gfn(3)).entry.mfn;
        let hold = || {
            if let Ok(page) = p2m.get_page(hv, Gfn(3), Access::Write) {
                for _ in 0..3 {
                    step();
                    assert_eq!(page.page.owner(), GUEST);
                }
            }
        };
        race(vec![
            Box::new(|| {
                assert!(p2m.remove(hv, Gfn(3), Order::PAGE, |_| Ok(()), &mut p2m.unmapped(hv)).is_ok());
                // Another domain gets it next, if it is free.
                drop(hv.frames.take_range(DOM0, mfn, 1));
            }),
            Box::new(hold),
            Box::new(hold),
        ]);
        assert_eq!(hv.frames.free_frames(), before + 1);
    });
}

/// What is written while a domain's memory is copied round by round is in the copy in the end.
#[test]
fn a_write_and_the_log_of_writes() {
    explore(|| {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let p2m = &rig.host.domain(GUEST).p2m;
        while !p2m.start_logging(hv, &mut || true).unwrap() {}
        let at = p2m.query(hv, Gfn(3)).entry.mfn.addr();
        let round = || {
            let noted = p2m.collect_log(hv, 0, u64::MAX, true, &mut p2m.unmapped(hv));
            (noted & 1 << 3 != 0).then(|| rig.memory().load_u64(at))
        };
        let copy = std::sync::Mutex::new(0);
        let keep = |found: Option<u64>| {
            if let Some(value) = found {
                *copy.lock().unwrap() = value;
            }
        };
        race(vec![
            Box::new(|| {
                for value in 1..3 {
                    let page = p2m.get_page(hv, Gfn(3), Access::Write).unwrap();
                    rig.memory().store_u64(page.mfn().addr(), value);
                    drop(page);
                }
            }),
            Box::new(|| (0..3).for_each(|_| keep(round()))),
        ]);
        keep(round());
        assert_eq!(*copy.lock().unwrap(), 2);
        assert_eq!(p2m.query(hv, Gfn(3)).entry.kind, Kind::RamLogDirty);
    });
}

/// Two that notify different vCPUs of one domain, while a channel changes its vCPU: each event is told to somebody.
#[test]
fn events_while_a_channel_moves() {
    explore(|| {
        let rig = Rig::new();
        let ipi = evtchn::bind_ipi(&rig.host.hv, rig.host.domain(GUEST), VcpuId(1)).unwrap();
        race(vec![
            Box::new(|| rig.send()),
            Box::new(|| evtchn::send(&rig.host.hv, rig.host.domain(GUEST), ipi).unwrap()),
            Box::new(|| evtchn::bind_vcpu(rig.host.domain(GUEST), rig.port, VcpuId(1)).unwrap()),
        ]);
        let pending = |vcpu| rig.host.vcpu(GUEST, vcpu).events.upcall_pending(rig.memory());
        assert!(pending(1));
        assert!(rig.is_pending());
    });
}
