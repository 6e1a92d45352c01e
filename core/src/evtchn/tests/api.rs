//! What each operation does and refuses.

use super::*;
use crate::evtchn::{self, Consumer, Pin, VcpuEvents};
use crate::hypervisor::Hypervisor;
use crate::sync::atomic::AtomicU32;
use crate::types::{Gfn, Mfn};
use radon_abi::errno::Errno;
use radon_abi::event_channel::*;
use radon_abi::xen::*;
use zerocopy::IntoBytes;

/// An interdomain channel: the port in `a` and the port in `b`. `a`'s first event is consumed.
fn connect(host: &TestHost, a: DomainId, b: DomainId) -> (Port, Port) {
    let (da, db) = (host.domain(a), host.domain(b));
    let offered = evtchn::alloc_unbound(&host.hv, db, a).unwrap();
    let bound = evtchn::bind_interdomain(&host.hv, da, db, offered).unwrap();
    consume(host, a, 0);
    (bound, offered)
}

fn peer(host: &TestHost, domain: DomainId, port: Port) -> (u32, u32, u32) {
    let s = evtchn::status(host.domain(domain), port).unwrap();
    (s.status, s.peer, s.peer_port)
}

#[test]
fn ports_are_given_from_one_up_and_reused() {
    let (host, dom0, one, _) = host();
    let alloc = || evtchn::alloc_unbound(&host.hv, host.domain(one), dom0);
    assert_eq!([alloc(), alloc(), alloc()], [Ok(Port(1)), Ok(Port(2)), Ok(Port(3))]);
    assert_eq!(evtchn::close(&host.hv, host.domain(one), Port(2)), Ok(()));
    assert_eq!(evtchn::close(&host.hv, host.domain(one), Port(2)), Err(Errno::EINVAL));
    assert_eq!([alloc(), alloc()], [Ok(Port(2)), Ok(Port(4))]);
}

#[test]
fn limits() {
    let (host, dom0, one, two) = host();
    host.domain(one).events.set_max_port(2);
    let alloc = |d| evtchn::alloc_unbound(&host.hv, host.domain(d), dom0);
    assert_eq!([alloc(one), alloc(one), alloc(one)], [Ok(Port(1)), Ok(Port(2)), Err(Errno::ENOSPC)]);
    for port in 1..EVTCHN_2L_NR_CHANNELS {
        assert_eq!(alloc(two), Ok(Port(port)));
    }
    assert_eq!(alloc(two), Err(Errno::ENOSPC));
}

#[test]
fn an_event_crosses_domains() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    assert_eq!(peer(&host, dom0, near), (EVTCHNSTAT_INTERDOMAIN, u32::from(one.0), far.0));
    assert_eq!(peer(&host, one, far), (EVTCHNSTAT_INTERDOMAIN, u32::from(dom0.0), near.0));
    let before = upcalls(&host, one, 0);
    assert_eq!(evtchn::send(&host.hv, host.domain(dom0), near), Ok(()));
    assert_eq!(upcalls(&host, one, 0), before + 1);
    // Pending already: nobody is told again.
    assert_eq!(evtchn::send(&host.hv, host.domain(dom0), near), Ok(()));
    assert_eq!(upcalls(&host, one, 0), before + 1);
    assert_eq!(consume(&host, one, 0), [far]);
    assert_eq!(evtchn::send(&host.hv, host.domain(one), far), Ok(()));
    assert_eq!(consume(&host, dom0, 0), [near]);
}

#[test]
fn binding_gives_an_event_at_once() {
    let (host, dom0, one, _) = host();
    let offered = evtchn::alloc_unbound(&host.hv, host.domain(one), dom0).unwrap();
    assert_eq!(evtchn::send(&host.hv, host.domain(one), offered), Ok(()), "swallowed");
    let bound = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), offered).unwrap();
    assert_eq!(consume(&host, dom0, 0), [bound]);
    assert_eq!(consume(&host, one, 0), []);
}

#[test]
fn only_the_named_domain_can_bind() {
    let (host, dom0, one, two) = host();
    let offered = evtchn::alloc_unbound(&host.hv, host.domain(one), dom0).unwrap();
    let bind = |d, port| evtchn::bind_interdomain(&host.hv, host.domain(d), host.domain(one), port);
    assert_eq!(bind(two, offered), Err(Errno::EINVAL));
    assert_eq!(bind(dom0, Port(0)), Err(Errno::EINVAL));
    assert_eq!(bind(dom0, Port(99_999)), Err(Errno::EINVAL));
    assert!(bind(dom0, offered).is_ok());
    assert_eq!(bind(dom0, offered), Err(Errno::EINVAL), "taken");
    // The refused attempts kept no port.
    assert_eq!(evtchn::alloc_unbound(&host.hv, host.domain(two), dom0), Ok(Port(1)));
}

#[test]
fn a_domain_connects_to_itself() {
    let (host, _, one, _) = host();
    let (near, far) = connect(&host, one, one);
    evtchn::send(&host.hv, host.domain(one), near).unwrap();
    assert_eq!(consume(&host, one, 0), [far]);
    assert_eq!(evtchn::close(&host.hv, host.domain(one), near), Ok(()));
    assert_eq!(peer(&host, one, far), (EVTCHNSTAT_UNBOUND, u32::from(one.0), 0));
}

#[test]
fn closing_one_end_leaves_the_other_waiting() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    evtchn::send(&host.hv, host.domain(one), far).unwrap();
    assert_eq!(evtchn::close(&host.hv, host.domain(dom0), near), Ok(()));
    assert_eq!(peer(&host, dom0, near), (EVTCHNSTAT_CLOSED, 0, 0));
    assert_eq!(peer(&host, one, far), (EVTCHNSTAT_UNBOUND, u32::from(dom0.0), 0));
    assert!(!bit(&host, dom0, shared_info::EVTCHN_PENDING, near), "no old event for the port's next user");
    assert_eq!(evtchn::send(&host.hv, host.domain(dom0), near), Err(Errno::EINVAL));
    assert_eq!(evtchn::send(&host.hv, host.domain(one), far), Ok(()));
    let again = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), far);
    assert_eq!(again, Ok(near));
}

#[test]
fn virtual_interrupts() {
    let (host, dom0, one, _) = host();
    let domain = host.domain(one);
    let bind = |virq, vcpu| evtchn::bind_virq(&host.hv, domain, virq, VcpuId(vcpu));
    assert_eq!(bind(NR_VIRQS, 0), Err(Errno::EINVAL));
    assert_eq!(bind(VIRQ_CONSOLE, 1), Err(Errno::EINVAL), "global ones are bound on vCPU 0");
    assert_eq!(bind(VIRQ_TIMER, 2), Err(Errno::ENOENT));
    let timers = [bind(VIRQ_TIMER, 0).unwrap(), bind(VIRQ_TIMER, 1).unwrap()];
    assert_eq!(bind(VIRQ_TIMER, 1), Err(Errno::EEXIST));
    evtchn::send_timer_virq(&host.hv, host.vcpu(one, 1));
    assert_eq!(consume(&host, one, 0), []);
    assert_eq!(consume(&host, one, 1), [timers[1]]);
    assert_eq!(evtchn::send(&host.hv, domain, timers[0]), Err(Errno::EINVAL));
    assert_eq!(evtchn::bind_vcpu(domain, timers[0], VcpuId(1)), Err(Errno::EINVAL));
    let global = bind(VIRQ_ARGO, 0).unwrap();
    assert_eq!(evtchn::bind_vcpu(domain, global, VcpuId(1)), Ok(()));
    evtchn::send_domain_virq(&host.hv, domain, VIRQ_ARGO);
    assert_eq!(consume(&host, one, 1), [global]);
    // Unbound ones go nowhere, and a closed one can be bound again.
    evtchn::send_vcpu_virq(&host.hv, host.vcpu(one, 0), VIRQ_DEBUG);
    evtchn::send_global_virq(&host.hv, VIRQ_DOM_EXC);
    evtchn::close(&host.hv, domain, timers[1]).unwrap();
    evtchn::send_vcpu_virq(&host.hv, host.vcpu(one, 1), VIRQ_TIMER);
    assert_eq!(consume(&host, one, 1), []);
    assert_eq!(bind(VIRQ_TIMER, 1), Ok(timers[1]));
    // A global one goes to dom0 unless another domain handles it.
    let in_dom0 = evtchn::bind_virq(&host.hv, host.domain(dom0), VIRQ_DOM_EXC, VcpuId(0)).unwrap();
    let in_guest = bind(VIRQ_DOM_EXC, 0).unwrap();
    evtchn::send_global_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!((consume(&host, dom0, 0), consume(&host, one, 0)), (alloc::vec![in_dom0], alloc::vec![]));
    evtchn::set_virq_handler(&host.hv, domain, VIRQ_DOM_EXC).unwrap();
    evtchn::send_global_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!((consume(&host, dom0, 0), consume(&host, one, 0)), (alloc::vec![], alloc::vec![in_guest]));
    assert_eq!(evtchn::set_virq_handler(&host.hv, domain, VIRQ_TIMER), Err(Errno::EINVAL));
    assert!(evtchn::destroy(&host.hv, domain, || true));
    evtchn::send_global_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!(consume(&host, dom0, 0), [in_dom0]);
}

#[test]
fn ipis_stay_on_their_vcpu() {
    let (host, _, one, _) = host();
    let domain = host.domain(one);
    assert_eq!(evtchn::bind_ipi(&host.hv, domain, VcpuId(2)), Err(Errno::ENOENT));
    let port = evtchn::bind_ipi(&host.hv, domain, VcpuId(1)).unwrap();
    assert_eq!(evtchn::send(&host.hv, domain, port), Ok(()));
    assert_eq!(consume(&host, one, 1), [port]);
    assert_eq!(evtchn::bind_vcpu(domain, port, VcpuId(0)), Err(Errno::EINVAL));
    assert_eq!(evtchn::bind_vcpu(domain, port, VcpuId(7)), Err(Errno::ENOENT));
}

#[test]
fn an_event_follows_bind_vcpu() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    assert_eq!(evtchn::bind_vcpu(host.domain(one), far, VcpuId(1)), Ok(()));
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    assert_eq!((consume(&host, one, 0), consume(&host, one, 1)), (alloc::vec![], alloc::vec![far]));
    assert_eq!((upcalls(&host, one, 0), upcalls(&host, one, 1)), (0, 1));
}

#[test]
fn masked_events_wait_for_unmask() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    set_mask(&host, one, far, true);
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    assert_eq!(upcalls(&host, one, 0), 0);
    assert_eq!(consume(&host, one, 0), []);
    assert_eq!(evtchn::unmask(&host.hv, host.domain(one), far), Ok(()));
    assert_eq!(upcalls(&host, one, 0), 1);
    assert_eq!(consume(&host, one, 0), [far]);
    assert_eq!(evtchn::unmask(&host.hv, host.domain(one), Port(77_777)), Err(Errno::EINVAL));
}

#[test]
fn unmasking_what_was_not_masked_tells_nobody() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    let info = host.vcpu(one, 0).events.info().unwrap();
    memory(&host).store_u64(info, 0);
    memory(&host).store_u64(MachineAddr(info.0 + vcpu_info::PENDING_SEL), 0);
    evtchn::unmask(&host.hv, host.domain(one), far).unwrap();
    assert_eq!(upcalls(&host, one, 0), 1, "for the send");
}

#[test]
fn an_end_that_was_bound_anew_swallows_late_events() {
    let (host, dom0, one, two) = host();
    let (near, far) = connect(&host, dom0, one);
    let arrive = |from, from_port| {
        evtchn::arrive(&host.hv, host.domain(one), far, from, from_port);
        consume(&host, one, 0).len()
    };
    assert_eq!([arrive(dom0, near), arrive(two, near), arrive(dom0, Port(near.0 + 1))], [1, 0, 0]);
    evtchn::close(&host.hv, host.domain(dom0), near).unwrap();
    assert_eq!(arrive(dom0, near), 0);
}

#[test]
fn registering_vcpu_info_moves_what_is_pending() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    let before = upcalls(&host, one, 0);
    let pin = || Pin::new(&host.hv, host.domain(one), Gfn(5)).unwrap();
    let vcpu = host.vcpu(one, 0);
    assert_eq!(VcpuEvents::register_info(&host.hv, vcpu, pin(), 4096 - 63), Err(Errno::EINVAL));
    assert_eq!(VcpuEvents::register_info(&host.hv, vcpu, pin(), 4), Err(Errno::EINVAL));
    let frame = pin();
    let mfn = frame.mfn();
    assert_eq!(VcpuEvents::register_info(&host.hv, vcpu, frame, 4096 - 64), Ok(()));
    assert_eq!(vcpu.events.info(), Some(MachineAddr(mfn.addr().0 + 4096 - 64)));
    assert_eq!(upcalls(&host, one, 0), before + 1);
    assert!(vcpu.events.upcall_pending(memory(&host)));
    assert_eq!(consume(&host, one, 0), [far]);
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    assert_eq!(consume(&host, one, 0), [far]);
    assert_eq!(VcpuEvents::register_info(&host.hv, vcpu, pin(), 0), Err(Errno::EINVAL), "only once");
    assert_eq!(Pin::new(&host.hv, host.domain(one), Gfn(1 << 40)).err(), Some(Errno::EINVAL));
}

/// The shared information page has places for 32; the others begin with upcalls masked, for what that is worth.
#[test]
fn a_vcpu_that_had_no_place_for_events() {
    let mut host = TestHost::new(320, 1);
    let d = host.add_domain(33);
    for (id, masked) in [(31, 0), (32, 1)] {
        let vcpu = host.vcpu(d, id);
        assert_eq!(vcpu.events.info().is_some(), id == 31);
        let pin = Pin::new(&host.hv, host.domain(d), Gfn(5)).unwrap();
        assert_eq!(VcpuEvents::register_info(&host.hv, vcpu, pin, 64 * (id - 31)), Ok(()));
        let mut info = VcpuInfo::default();
        memory(&host).read(vcpu.events.info().unwrap(), info.as_mut_bytes());
        assert_eq!((info.evtchn_upcall_mask, info.evtchn_upcall_pending), (masked, 1));
    }
}

#[test]
fn a_frame_stays_while_events_may_be_written_to_it() {
    let (host, _, one, _) = host();
    let domain = host.domain(one);
    let free = host.hv.frames.free_frames();
    let pin = Pin::new(&host.hv, domain, Gfn(5)).unwrap();
    VcpuEvents::register_info(&host.hv, host.vcpu(one, 0), pin, 0).unwrap();
    assert!(domain.p2m.relinquish(&host.hv, &mut || true));
    let kept = host.hv.frames.free_frames();
    assert_eq!(kept, free + crate::testing::DOMAIN_FRAMES - 1);
    assert!(evtchn::destroy(&host.hv, domain, || true));
    assert_eq!(host.hv.frames.free_frames(), kept + 1);
    assert_eq!(host.vcpu(one, 0).events.info(), Some(domain.shared_info.addr()));
}

#[test]
fn pollers_are_woken() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    let domain = host.domain(one);
    let other = evtchn::bind_ipi(&host.hv, domain, VcpuId(0)).unwrap();
    set_mask(&host, one, far, true);
    let events = &host.vcpu(one, 1).events;
    events.begin_poll(domain, Some(far));
    assert_eq!(evtchn::is_pending(&host.hv, domain, far), Ok(false));
    evtchn::send(&host.hv, domain, other).unwrap();
    assert!(events.end_poll(domain), "another port does not end the poll");
    events.begin_poll(domain, Some(far));
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    assert!(!events.end_poll(domain), "the event did");
    assert_eq!(evtchn::is_pending(&host.hv, domain, far), Ok(true));
    events.begin_poll(domain, None);
    consume(&host, one, 0);
    evtchn::send(&host.hv, domain, other).unwrap();
    assert!(!events.end_poll(domain));
    assert_eq!(evtchn::is_pending(&host.hv, domain, Port(1 << 20)), Err(Errno::EINVAL));
}

/// The first poll of all, by both ABIs.
#[test]
fn a_poller_is_woken_once_for_an_event() {
    for fifo in [false, true] {
        let (host, dom0, one, _) = host();
        let (near, far) = connect(&host, dom0, one);
        consume(&host, one, 0);
        let _guest = fifo.then(|| super::fifo::FifoGuest::new(&host, one, 1));
        let domain = host.domain(one);
        let events = &host.vcpu(one, 1).events;
        events.begin_poll(domain, Some(far));
        evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
        assert!(!events.end_poll(domain), "the event ended it");
        // It is pending still, so it is no news.
        events.begin_poll(domain, Some(far));
        evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
        assert!(events.end_poll(domain));
    }
}

#[test]
fn ports_of_every_word_are_found() {
    let (host, dom0, one, _) = host();
    let ports: Vec<_> = (0..200).map(|_| connect(&host, dom0, one)).collect();
    consume(&host, one, 0);
    for n in [0, 62, 63, 64, 127, 199] {
        evtchn::send(&host.hv, host.domain(dom0), ports[n].0).unwrap();
        assert_eq!(consume(&host, one, 0), [ports[n].1]);
    }
}

#[derive(Default)]
struct Counter(AtomicU32);

impl Consumer for Counter {
    fn notify(&self, _: &Hypervisor, _: &Arc<Domain>, port: Port) {
        self.0.fetch_add(port.0, Ordering::SeqCst);
    }
}

#[test]
fn the_hypervisor_holds_ports_of_its_own() {
    let (host, dom0, one, _) = host();
    let (guest, control) = (host.domain(one), host.domain(dom0));
    let counter = Arc::new(Counter::default());
    let port = evtchn::alloc_unbound_for_hypervisor(&host.hv, guest, dom0, counter.clone()).unwrap();
    let near = evtchn::bind_interdomain(&host.hv, control, guest, port).unwrap();
    consume(&host, dom0, 0);
    evtchn::send(&host.hv, control, near).unwrap();
    assert_eq!(counter.0.load(Ordering::SeqCst), port.0);
    assert_eq!(consume(&host, one, 0), []);
    assert_eq!(evtchn::notify(&host.hv, guest, port), Ok(()));
    assert_eq!(consume(&host, dom0, 0), [near]);
    // It is none of the guest's business.
    assert_eq!(evtchn::send(&host.hv, guest, port), Err(Errno::EINVAL));
    assert_eq!(evtchn::close(&host.hv, guest, port), Err(Errno::EINVAL));
    assert_eq!(evtchn::bind_vcpu(guest, port, VcpuId(1)), Err(Errno::EINVAL));
    assert_eq!(evtchn::notify(&host.hv, control, near), Err(Errno::EINVAL));
    let pending = shared(guest, shared_info::EVTCHN_PENDING);
    memory(&host).fetch_or_u64(pending, 1 << port.0);
    set_mask(&host, one, port, true);
    assert_eq!(evtchn::is_pending(&host.hv, guest, port), Ok(false), "what a guest wrote");
    assert_eq!(evtchn::unmask(&host.hv, guest, port), Ok(()));
    assert!(bit(&host, one, shared_info::EVTCHN_MASK, port));
    assert_eq!(evtchn::reset(&host.hv, guest, false, || true), Ok(true));
    assert_eq!(peer(&host, one, port).0, EVTCHNSTAT_INTERDOMAIN, "reset leaves it");
    assert_eq!(evtchn::close_for_hypervisor(&host.hv, guest, port), Ok(()));
    assert_eq!(peer(&host, dom0, near).0, EVTCHNSTAT_UNBOUND);
    assert_eq!(Arc::strong_count(&counter), 1);
    memory(&host).fetch_or_u64(pending, 1 << port.0);
    assert_eq!(evtchn::is_pending(&host.hv, guest, port), Ok(false), "a free port");
}

#[test]
fn reset_is_done_in_parts() {
    let (host, dom0, one, _) = host();
    let domain = host.domain(one);
    let ports: Vec<_> = (0..10).map(|_| connect(&host, dom0, one)).collect();
    let mut budget = 4;
    let mut spend = || {
        budget -= 1;
        budget >= 0
    };
    assert_eq!(evtchn::reset(&host.hv, domain, false, &mut spend), Ok(false));
    assert_eq!(evtchn::reset(&host.hv, domain, false, || true), Err(Errno::EBUSY));
    assert_eq!(evtchn::reset(&host.hv, domain, true, || true), Ok(true));
    for (near, far) in ports {
        assert_eq!(peer(&host, one, far).0, EVTCHNSTAT_CLOSED);
        assert_eq!(peer(&host, dom0, near), (EVTCHNSTAT_UNBOUND, u32::from(one.0), 0));
    }
    assert_eq!(evtchn::alloc_unbound(&host.hv, domain, dom0), Ok(Port(1)));
}

#[test]
fn a_port_that_is_opened_during_a_reset_is_told() {
    let (host, dom0, one, _) = host();
    let domain = host.domain(one);
    for _ in 0..2 {
        connect(&host, dom0, one);
    }
    let mut closed = 0;
    let spend = || {
        closed += 1;
        // The first is closed then, and its number is taken again.
        if closed == 2 {
            assert_eq!(evtchn::alloc_unbound(&host.hv, domain, dom0), Ok(Port(1)));
        }
        true
    };
    assert_eq!(evtchn::reset(&host.hv, domain, false, spend), Err(Errno::EAGAIN));
    assert_eq!(evtchn::reset(&host.hv, domain, false, || true), Ok(true));
}

#[test]
fn destruction_closes_both_ends_and_admits_nobody() {
    let (host, dom0, one, two) = host();
    let (near, _) = connect(&host, dom0, one);
    let (_, other) = connect(&host, one, two);
    evtchn::bind_virq(&host.hv, host.domain(one), VIRQ_TIMER, VcpuId(0)).unwrap();
    assert!(!evtchn::destroy(&host.hv, host.domain(one), || false));
    assert_eq!(evtchn::alloc_unbound(&host.hv, host.domain(one), dom0), Err(Errno::EINVAL));
    assert!(evtchn::destroy(&host.hv, host.domain(one), || true));
    assert_eq!(peer(&host, dom0, near), (EVTCHNSTAT_UNBOUND, u32::from(one.0), 0));
    assert_eq!(peer(&host, two, other), (EVTCHNSTAT_UNBOUND, u32::from(one.0), 0));
    let late = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), Port(1));
    assert_eq!(late, Err(Errno::EINVAL));
    evtchn::send_vcpu_virq(&host.hv, host.vcpu(one, 0), VIRQ_TIMER);
}

#[test]
fn a_32_bit_guest_has_its_own_layout() {
    let (host, dom0, one, _) = host();
    host.domain(one).events.set_compat(true);
    let mut last = (Port(0), Port(0));
    for _ in 0..40 {
        last = connect(&host, dom0, one);
    }
    assert_eq!(last.1, Port(40));
    evtchn::send(&host.hv, host.domain(dom0), last.0).unwrap();
    let info = host.vcpu(one, 0).events.info().unwrap();
    let selector = MachineAddr(info.0 + vcpu_info::COMPAT_PENDING_SEL);
    assert_eq!(memory(&host).load_u32(selector), 1 << 1);
    assert_eq!(memory(&host).load_u32(info) & 0xff, 1);
    assert_eq!(memory(&host).load_u32(shared(host.domain(one), shared_info::EVTCHN_PENDING + 4)), 1 << 8);
    // Masked by the 32-bit guest's mask.
    memory(&host).fetch_or_u32(shared(host.domain(one), shared_info::COMPAT_EVTCHN_MASK), 1 << 1);
    let before = upcalls(&host, one, 0);
    memory(&host).store_u64(info, 0);
    evtchn::send(&host.hv, host.domain(dom0), Port(1)).unwrap();
    assert_eq!(upcalls(&host, one, 0), before);
}

#[test]
fn the_debug_key_names_every_channel() {
    let (host, dom0, one, _) = host();
    let (near, far) = connect(&host, dom0, one);
    evtchn::bind_virq(&host.hv, host.domain(one), VIRQ_TIMER, VcpuId(1)).unwrap();
    evtchn::send(&host.hv, host.domain(dom0), near).unwrap();
    let mut lines = Vec::new();
    evtchn::dump(&host.hv, host.domain(one), &mut |line| lines.push(alloc::format!("{line}")));
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[1], alloc::format!("{:5} [1/0]: interdomain v=0 d=0 p={}", far.0, near.0));
    assert_eq!(lines[2], alloc::format!("{:5} [0/0]: virq v=1 0", far.0 + 1));
}

#[test]
fn frames_of_others_cannot_be_used() {
    let (host, _, one, _) = host();
    let other = host.hv.frames.alloc_special(host.hv.platform.memory(), DomainId(0)).unwrap();
    assert_ne!(other, Mfn(0));
    assert_eq!(Pin::new(&host.hv, host.domain(one), Gfn(other.0 + 4096)).err(), Some(Errno::EINVAL));
}
