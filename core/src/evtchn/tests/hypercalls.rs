//! `event_channel_op` as guests call it.

use super::*;
use crate::evtchn::{self, event_channel_op};
use crate::hypercall::{Args, OpResult, Outcome, SUCCESS};
use crate::p2m::Kind;
use crate::types::{Gfn, GuestVirtAddr};
use radon_abi::errno::Errno;
use radon_abi::event_channel::*;
use radon_abi::xen::DOMID_SELF;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const AT: u64 = 0x3000;

fn raw(host: &TestHost, by: DomainId, op: u32, at: u64) -> OpResult {
    event_channel_op(&host.caller(by, 0), Args([u64::from(op), at, 0, 0, 0, 0]))
}

/// Calls with a structure and returns what became of it.
fn call<T: IntoBytes + FromBytes + Immutable>(host: &TestHost, by: DomainId, op: u32, value: T) -> Result<T, Errno> {
    host.caller(by, 0).write(GuestVirtAddr(AT), &value).unwrap();
    raw(host, by, op, AT)?;
    host.caller(by, 0).read(GuestVirtAddr(AT))
}

fn unbound(dom: u16, remote_dom: u16) -> AllocUnbound {
    AllocUnbound { dom, remote_dom, port: 99 }
}

#[test]
fn a_channel_from_end_to_end() {
    let (host, dom0, one, _) = host();
    let offered = call(&host, one, EVTCHNOP_ALLOC_UNBOUND, unbound(DOMID_SELF, dom0.0)).unwrap().port;
    let bind = BindInterdomain { remote_dom: one.0, _pad: 0, remote_port: offered, local_port: 0 };
    let near = call(&host, dom0, EVTCHNOP_BIND_INTERDOMAIN, bind).unwrap().local_port;
    assert_eq!(consume(&host, dom0, 0), [Port(near)]);
    call(&host, dom0, EVTCHNOP_SEND, OnePort { port: near }).unwrap();
    assert_eq!(consume(&host, one, 0), [Port(offered)]);
    let ask = Status { dom: DOMID_SELF, port: near, ..Status::default() };
    let status = call(&host, dom0, EVTCHNOP_STATUS, ask).unwrap();
    assert_eq!((status.status, status.peer, status.peer_port), (EVTCHNSTAT_INTERDOMAIN, u32::from(one.0), offered));
    assert_eq!((status.dom, status.port), (DOMID_SELF, near));
    call(&host, one, EVTCHNOP_BIND_VCPU, BindVcpu { port: offered, vcpu: 1 }).unwrap();
    call(&host, one, EVTCHNOP_UNMASK, OnePort { port: offered }).unwrap();
    call(&host, one, EVTCHNOP_CLOSE, OnePort { port: offered }).unwrap();
    assert_eq!(call(&host, one, EVTCHNOP_SEND, OnePort { port: offered }), Err(Errno::EINVAL));
}

#[test]
fn only_dom0_acts_for_others() {
    let (host, dom0, one, two) = host();
    assert_eq!(call(&host, one, EVTCHNOP_ALLOC_UNBOUND, unbound(two.0, one.0)), Err(Errno::EPERM));
    assert_eq!(call(&host, dom0, EVTCHNOP_ALLOC_UNBOUND, unbound(77, one.0)), Err(Errno::ESRCH));
    let port = call(&host, dom0, EVTCHNOP_ALLOC_UNBOUND, unbound(two.0, DOMID_SELF)).unwrap().port;
    let ask = |dom: DomainId| Status { dom: dom.0, port, ..Status::default() };
    let status = call(&host, dom0, EVTCHNOP_STATUS, ask(two)).unwrap();
    assert_eq!((status.status, status.peer), (EVTCHNSTAT_UNBOUND, u32::from(dom0.0)), "SELF is the caller");
    assert_eq!(call(&host, one, EVTCHNOP_STATUS, ask(two)).err(), Some(Errno::EPERM));
    assert_eq!(call(&host, one, EVTCHNOP_RESET, Reset { dom: two.0 }), Err(Errno::EPERM));
    // Another domain is reset only while it cannot bind ports.
    assert_eq!(call(&host, dom0, EVTCHNOP_RESET, Reset { dom: two.0 }), Err(Errno::EINVAL));
    host.hv.scheduler.pause_domain(&host.hv, &host.domain(two).sched);
    assert!(call(&host, dom0, EVTCHNOP_RESET, Reset { dom: two.0 }).is_ok());
    assert_eq!(call(&host, dom0, EVTCHNOP_STATUS, ask(two)).unwrap().status, EVTCHNSTAT_CLOSED);
}

#[test]
fn a_port_that_cannot_be_told_is_not_kept() {
    let (host, dom0, one, _) = host();
    for op in 0..15 {
        let result = raw(&host, one, op, u64::MAX - 1);
        let expected = if op == EVTCHNOP_BIND_PIRQ { Errno::EINVAL } else { Errno::EFAULT };
        assert_eq!(result, Err(expected), "{op}");
    }
    let offered = evtchn::alloc_unbound(&host.hv, host.domain(dom0), one).unwrap();
    let bind = BindInterdomain { remote_dom: dom0.0, _pad: 0, remote_port: offered.0, local_port: 0 };
    let caller = host.caller(one, 0);
    let tries: [(u32, Vec<u8>); 4] = [
        (EVTCHNOP_ALLOC_UNBOUND, unbound(DOMID_SELF, dom0.0).as_bytes().to_vec()),
        (EVTCHNOP_BIND_INTERDOMAIN, bind.as_bytes().to_vec()),
        (EVTCHNOP_BIND_VIRQ, BindVirq::default().as_bytes().to_vec()),
        (EVTCHNOP_BIND_IPI, BindIpi::default().as_bytes().to_vec()),
    ];
    for (n, (op, bytes)) in tries.iter().enumerate() {
        // Each in a page that can be read only by the time of the call.
        let gfn = 20 + n as u64;
        caller.memory.write(GuestVirtAddr(gfn * 4096), bytes).unwrap();
        let p2m = &host.domain(one).p2m;
        p2m.change_ram(&host.hv, Gfn(gfn), Kind::RamRo, &mut p2m.unmapped(&host.hv)).unwrap();
        assert_eq!(raw(&host, one, *op, gfn * 4096), Err(Errno::EFAULT), "{op}");
    }
    let ask = Status { dom: DOMID_SELF, port: offered.0, ..Status::default() };
    assert_eq!(call(&host, dom0, EVTCHNOP_STATUS, ask).unwrap().status, EVTCHNSTAT_UNBOUND, "as it was");
    assert_eq!(call(&host, one, EVTCHNOP_ALLOC_UNBOUND, unbound(DOMID_SELF, dom0.0)).unwrap().port, 1);
    assert!(call(&host, one, EVTCHNOP_BIND_VIRQ, BindVirq::default()).is_ok());
}

#[test]
fn physical_interrupts_are_refused() {
    let (host, dom0, _, _) = host();
    assert_eq!(call(&host, dom0, EVTCHNOP_BIND_PIRQ, BindPirq::default()), Err(Errno::EINVAL));
    assert_eq!(raw(&host, dom0, 15, AT), Err(Errno::ENOSYS));
}

#[test]
fn virqs_and_ipis() {
    let (host, _, one, _) = host();
    let port = call(&host, one, EVTCHNOP_BIND_VIRQ, BindVirq { virq: 0, vcpu: 1, port: 0 }).unwrap().port;
    let ipi = call(&host, one, EVTCHNOP_BIND_IPI, BindIpi { vcpu: 1, port: 0 }).unwrap().port;
    assert_eq!((port, ipi), (1, 2));
    call(&host, one, EVTCHNOP_SEND, OnePort { port: ipi }).unwrap();
    assert_eq!(consume(&host, one, 1), [Port(ipi)]);
}

#[test]
fn the_fifo_abi_by_hypercall() {
    let (host, _, one, _) = host();
    let init = |gfn, vcpu, offset| InitControl { control_gfn: gfn, offset, vcpu, link_bits: 0, _pad: [0; 7] };
    assert_eq!(call(&host, one, EVTCHNOP_INIT_CONTROL, init(8, 9, 0)), Err(Errno::ENOENT));
    assert_eq!(call(&host, one, EVTCHNOP_INIT_CONTROL, init(1 << 50, 0, 0)), Err(Errno::EINVAL));
    assert_eq!(call(&host, one, EVTCHNOP_EXPAND_ARRAY, ExpandArray { array_gfn: 9 }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(&host, one, EVTCHNOP_INIT_CONTROL, init(8, 0, 0)).unwrap().link_bits, 17);
    assert!(call(&host, one, EVTCHNOP_EXPAND_ARRAY, ExpandArray { array_gfn: 9 }).is_ok());
    let ipi = call(&host, one, EVTCHNOP_BIND_IPI, BindIpi { vcpu: 0, port: 0 }).unwrap().port;
    assert!(call(&host, one, EVTCHNOP_SET_PRIORITY, SetPriority { port: ipi, priority: 3 }).is_ok());
    call(&host, one, EVTCHNOP_SEND, OnePort { port: ipi }).unwrap();
    let block: FifoControlBlock = host.caller(one, 0).read(GuestVirtAddr(8 * 4096)).unwrap();
    assert_eq!((block.ready, block.head[3]), (1 << 3, ipi));
}

#[test]
fn a_long_reset_is_continued() {
    let (host, dom0, one, _) = host();
    for _ in 0..1500 {
        evtchn::alloc_unbound(&host.hv, host.domain(one), dom0).unwrap();
    }
    host.caller(one, 0).write(GuestVirtAddr(AT), &Reset { dom: DOMID_SELF }).unwrap();
    let mut args = Args([u64::from(EVTCHNOP_RESET), AT, 0, 0, 0, 0]);
    let mut rounds = 0;
    while let Outcome::Continue(again) = event_channel_op(&host.caller(one, 0), args).unwrap() {
        assert_eq!(again.u32(0), EVTCHNOP_RESET_CONT);
        args = again;
        rounds += 1;
    }
    assert!((1..10).contains(&rounds), "{rounds}");
    assert_eq!(raw(&host, one, EVTCHNOP_RESET, AT), SUCCESS);
    assert_eq!(evtchn::alloc_unbound(&host.hv, host.domain(one), dom0), Ok(Port(1)));
}
