//! Events of the 2-level ABI, and what waits for them.

use radon_abi::sched::{Poll, SCHEDOP_BLOCK, SCHEDOP_POLL};
use radon_abi::xen::shared_info;
use radon_core::evtchn::{self, Pin, VcpuEvents};
use radon_core::types::{Gfn, GuestVirtAddr, VcpuId};
use radon_interleave::atomic::{AtomicBool, Ordering};
use radon_interleave::{explore, explore_more, race, wait};

use super::{GUEST, Rig};

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

/// The guest moves its `vcpu_info`, and if it `looks` there, takes what it finds. Returns whether it found the event.
fn vcpu_info_moves(rig: &Rig, looks: bool) -> bool {
    let taken = AtomicBool::new(false);
    race(vec![
        Box::new(|| rig.send()),
        Box::new(|| {
            let hv = &rig.host.hv;
            let pin = Pin::new(hv, rig.host.domain(GUEST), Gfn(5)).unwrap();
            VcpuEvents::register_info(hv, rig.host.vcpu(GUEST, 0), pin, 64).unwrap();
            taken.store(looks && rig.look(), Ordering::SeqCst);
        }),
    ]);
    taken.load(Ordering::SeqCst)
}

/// A guest that moves its `vcpu_info` and then looks there finds an event that was under way, or is told of it.
#[test]
fn an_event_and_a_vcpu_info_that_moves() {
    explore(|| {
        let rig = Rig::new();
        assert!(vcpu_info_moves(&rig, true) || rig.upcall_pending() && rig.look());
    });
}

/// One that does not look is told.
#[test]
fn an_event_and_a_vcpu_info_that_moves_unseen() {
    explore(|| {
        let rig = Rig::new();
        vcpu_info_moves(&rig, false);
        assert!(rig.upcall_pending() && rig.look());
    });
}

const ARGUMENT: GuestVirtAddr = GuestVirtAddr(0x3000);

/// The guest runs, and has said in its memory that it polls its port.
fn poller() -> Rig {
    let rig = Rig::new();
    rig.mask();
    rig.run_guest();
    let caller = rig.host.caller(GUEST, 0);
    caller.write(GuestVirtAddr(0x3800), &rig.port.0).unwrap();
    caller.write(ARGUMENT, &Poll { ports: 0x3800, nr_ports: 1, _pad: 0, timeout: 0 }).unwrap();
    rig
}

/// Polls until the event comes. The vCPU may wake without an event, as the interface allows.
fn poll(rig: &Rig) {
    while !rig.take() {
        rig.sched_op(SCHEDOP_POLL, ARGUMENT).unwrap();
        while rig.is_blocked() {
            wait();
        }
    }
}

/// A vCPU that polls a port is woken by each event, also by one that comes just then.
#[test]
fn an_event_and_a_poll() {
    explore(|| {
        let rig = poller();
        race(vec![Box::new(|| (0..2).for_each(|_| poll(&rig))), Box::new(|| rig.send_twice())]);
    });
}

/// However late the sender of the event before gets on, which another vCPU took: it takes the poll for one that its event
/// ended.
#[test]
fn a_slow_sender_and_a_poll() {
    explore_more(12, || {
        let rig = poller();
        race(vec![
            Box::new(|| poll(&rig)),
            Box::new(|| rig.send_twice()),
            Box::new(|| {
                while !rig.take() {
                    wait();
                }
            }),
        ]);
    });
}

/// A vCPU that polls is told, though another one's poll ends just as it begins.
#[test]
fn two_that_poll() {
    explore_more(12, || {
        let rig = Rig::new();
        let (hv, guest) = (&rig.host.hv, rig.host.domain(GUEST));
        let ipi = evtchn::bind_ipi(hv, guest, VcpuId(1)).unwrap();
        let [first, second] = [0, 1].map(|n| &rig.host.vcpu(GUEST, n).events);
        second.begin_poll(guest, Some(ipi));
        race(vec![
            Box::new(|| first.begin_poll(guest, Some(rig.port))),
            Box::new(|| rig.send()),
            Box::new(|| evtchn::send(hv, guest, ipi).unwrap()),
        ]);
        assert!(!second.is_polling());
    });
}

/// A vCPU that blocks is woken by each event, also by one that comes just then.
#[test]
fn an_event_and_a_block() {
    explore(|| {
        let rig = Rig::new();
        rig.run_guest();
        race(vec![
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
            Box::new(|| rig.send_twice()),
        ]);
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
