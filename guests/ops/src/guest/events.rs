//! `event_channel_op`: ports of every kind, and what the shared page says of them. What ends all of them comes last.

use core::sync::atomic::{AtomicU32, Ordering};

use radon_abi::errno::Errno;
use radon_abi::event_channel::{self as abi, AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, ExpandArray};
use radon_abi::event_channel::{InitControl, OnePort, Reset, SetPriority, Status};
use radon_abi::{hypercall, xen};
use radon_guest::Page;

use super::calls::event;
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::twin::Twin;
use super::{SHARED_INFO, forget, is_pending};

pub(crate) static GROUP: Group = Group {
    number: hypercall::EVENT_CHANNEL_OP,
    checks: &[
        works(abi::EVTCHNOP_ALLOC_UNBOUND, "EVTCHNOP_alloc_unbound", alloc_unbound),
        works(abi::EVTCHNOP_BIND_INTERDOMAIN, "EVTCHNOP_bind_interdomain", bind_interdomain),
        works(abi::EVTCHNOP_BIND_VIRQ, "EVTCHNOP_bind_virq", bind_virq),
        refused(abi::EVTCHNOP_BIND_PIRQ, "EVTCHNOP_bind_pirq"),
        works(abi::EVTCHNOP_CLOSE, "EVTCHNOP_close", close),
        works(abi::EVTCHNOP_SEND, "EVTCHNOP_send", send),
        works(abi::EVTCHNOP_STATUS, "EVTCHNOP_status", status),
        works(abi::EVTCHNOP_BIND_IPI, "EVTCHNOP_bind_ipi", bind_ipi),
        works(abi::EVTCHNOP_BIND_VCPU, "EVTCHNOP_bind_vcpu", bind_vcpu),
        works(abi::EVTCHNOP_UNMASK, "EVTCHNOP_unmask", unmask),
        works(abi::EVTCHNOP_RESET_CONT, "EVTCHNOP_reset_cont", reset_cont),
    ],
};

/// What all ports of this domain are lost by, and the other way in which it can have events.
pub(crate) static LAST: Group = Group {
    number: hypercall::EVENT_CHANNEL_OP,
    checks: &[
        works(abi::EVTCHNOP_RESET, "EVTCHNOP_reset", reset),
        works(abi::EVTCHNOP_INIT_CONTROL, "EVTCHNOP_init_control", init_control),
        works(abi::EVTCHNOP_EXPAND_ARRAY, "EVTCHNOP_expand_array", expand_array),
        works(abi::EVTCHNOP_SET_PRIORITY, "EVTCHNOP_set_priority", set_priority),
    ],
};

/// What the hypervisor says of a port of this domain.
fn status_of(port: u32) -> Result<Status, Differs> {
    let mut status = Status { dom: xen::DOMID_SELF, port, ..Status::default() };
    event(abi::EVTCHNOP_STATUS, &mut status)?;
    Ok(status)
}

/// A port that this domain may bind to.
fn unbound() -> Result<u32, Differs> {
    let mut unbound = AllocUnbound { dom: xen::DOMID_SELF, remote_dom: xen::DOMID_SELF, port: 0 };
    event(abi::EVTCHNOP_ALLOC_UNBOUND, &mut unbound)?;
    Ok(unbound.port)
}

/// Two ports of this domain that are connected, with nothing pending.
fn pair() -> Result<(u32, u32), Differs> {
    let remote_port = unbound()?;
    let mut bind = BindInterdomain { remote_dom: xen::DOMID_SELF, remote_port, ..BindInterdomain::default() };
    event(abi::EVTCHNOP_BIND_INTERDOMAIN, &mut bind)?;
    forget(bind.local_port);
    forget(remote_port);
    Ok((bind.local_port, remote_port))
}

fn close_port(port: u32) -> Outcome {
    event(abi::EVTCHNOP_CLOSE, &mut OnePort { port })?;
    forget(port);
    Ok(())
}

fn send_on(port: u32) -> Outcome {
    event(abi::EVTCHNOP_SEND, &mut OnePort { port })?;
    Ok(())
}

/// For the other domain, whose number the hypervisor says.
fn alloc_unbound(twin: &Twin) -> Outcome {
    let mut unbound = AllocUnbound { dom: xen::DOMID_SELF, remote_dom: twin.domain, port: 0 };
    event(abi::EVTCHNOP_ALLOC_UNBOUND, &mut unbound)?;
    let status = status_of(unbound.port)?;
    close_port(unbound.port)?;
    same("status and domain", (status.status, status.peer), (abi::EVTCHNSTAT_UNBOUND, u32::from(twin.domain)))?;
    unbound.remote_dom = xen::DOMID_INVALID;
    unbound.dom = 77;
    refuses("a port of a domain that is not there", event(abi::EVTCHNOP_ALLOC_UNBOUND, &mut unbound), Errno::ESRCH)
}

/// The other domain binds to a port of this one's.
fn bind_interdomain(twin: &Twin) -> Outcome {
    let mut unbound = AllocUnbound { dom: xen::DOMID_SELF, remote_dom: twin.domain, port: 0 };
    event(abi::EVTCHNOP_ALLOC_UNBOUND, &mut unbound)?;
    let mut bind = BindInterdomain { remote_dom: 0, remote_port: unbound.port, ..BindInterdomain::default() };
    twin.operate(hypercall::EVENT_CHANNEL_OP, abi::EVTCHNOP_BIND_INTERDOMAIN, &mut bind)??;
    let status = status_of(unbound.port)?;
    close_port(unbound.port)?;
    same(
        "status, domain and port",
        (status.status, status.peer & 0xffff, status.peer_port),
        (abi::EVTCHNSTAT_INTERDOMAIN, u32::from(twin.domain), bind.local_port),
    )?;
    let none = twin.operate(hypercall::EVENT_CHANNEL_OP, abi::EVTCHNOP_BIND_INTERDOMAIN, &mut bind)?;
    refuses("a port that is closed", none, Errno::EINVAL)?;
    // Closing one side unbinds the other.
    let mut port = OnePort { port: bind.local_port };
    twin.operate(hypercall::EVENT_CHANNEL_OP, abi::EVTCHNOP_CLOSE, &mut port)??;
    Ok(())
}

fn bind_virq(_: &Twin) -> Outcome {
    let mut bind = BindVirq { virq: xen::VIRQ_DOM_EXC, vcpu: 0, port: 0 };
    event(abi::EVTCHNOP_BIND_VIRQ, &mut bind)?;
    let status = status_of(bind.port)?;
    let again = event(abi::EVTCHNOP_BIND_VIRQ, &mut { bind });
    close_port(bind.port)?;
    same("status and interrupt", (status.status, status.peer), (abi::EVTCHNSTAT_VIRQ, xen::VIRQ_DOM_EXC))?;
    refuses("the same again", again, Errno::EEXIST)?;
    bind.virq = xen::NR_VIRQS;
    refuses("an interrupt that is not there", event(abi::EVTCHNOP_BIND_VIRQ, &mut bind), Errno::EINVAL)
}

fn close(_: &Twin) -> Outcome {
    let (one, other) = pair()?;
    close_port(one)?;
    same("status", status_of(one)?.status, abi::EVTCHNSTAT_CLOSED)?;
    same("status of the other side", status_of(other)?.status, abi::EVTCHNSTAT_UNBOUND)?;
    close_port(other)?;
    refuses("a port that is closed", event(abi::EVTCHNOP_CLOSE, &mut OnePort { port: other }), Errno::EINVAL)
}

/// A pending bit, the bit of its word, and the vCPU's byte.
fn send(_: &Twin) -> Outcome {
    let (one, other) = pair()?;
    send_on(one)?;
    let pending = (is_pending(other), is_pending(one));
    let selected = SHARED_INFO.0[(xen::vcpu_info::PENDING_SEL / 8) as usize].load(Ordering::Acquire);
    let upcall = SHARED_INFO.0[0].load(Ordering::Acquire) & 0xff;
    close_port(one)?;
    close_port(other)?;
    same("that the other side is pending, and this one", pending, (true, false))?;
    same("the word's bit", selected >> (other / 64) & 1, 1)?;
    same("that an upcall is due", upcall, 1)?;
    refuses("a port that is closed", event(abi::EVTCHNOP_SEND, &mut OnePort { port: one }), Errno::EINVAL)
}

/// The other domain's port, as this one may ask about it.
fn status(twin: &Twin) -> Outcome {
    let mut status = Status { dom: twin.domain, port: twin.its_port, ..Status::default() };
    event(abi::EVTCHNOP_STATUS, &mut status)?;
    let is = (status.status, status.vcpu, status.peer & 0xffff, status.peer_port);
    same("status, vCPU, domain and port", is, (abi::EVTCHNSTAT_INTERDOMAIN, 0, 0, twin.port))?;
    status.port = u32::MAX;
    refuses("a port that cannot be", event(abi::EVTCHNOP_STATUS, &mut status), Errno::EINVAL)?;
    let mut others = Status { dom: 0, port: twin.port, ..Status::default() };
    let answer = twin.operate(hypercall::EVENT_CHANNEL_OP, abi::EVTCHNOP_STATUS, &mut others)?;
    refuses("another domain, by one without privilege", answer, Errno::EPERM)
}

fn bind_ipi(_: &Twin) -> Outcome {
    let mut bind = BindIpi { vcpu: 0, port: 0 };
    event(abi::EVTCHNOP_BIND_IPI, &mut bind)?;
    let status = status_of(bind.port)?;
    forget(bind.port);
    send_on(bind.port)?;
    let pending = is_pending(bind.port);
    close_port(bind.port)?;
    same("status and vCPU", (status.status, status.vcpu), (abi::EVTCHNSTAT_IPI, 0))?;
    holds("it is pending when it was sent", pending)?;
    bind.vcpu = 77;
    refuses("a vCPU that is not there", event(abi::EVTCHNOP_BIND_IPI, &mut bind), Errno::ENOENT)
}

/// The second vCPU, which is down, is notified.
fn bind_vcpu(_: &Twin) -> Outcome {
    let (one, other) = pair()?;
    event(abi::EVTCHNOP_BIND_VCPU, &mut BindVcpu { port: other, vcpu: 1 })?;
    let vcpu = status_of(other)?.vcpu;
    let none = event(abi::EVTCHNOP_BIND_VCPU, &mut BindVcpu { port: other, vcpu: 77 });
    close_port(one)?;
    close_port(other)?;
    same("the vCPU", vcpu, 1)?;
    refuses("a vCPU that is not there", none, Errno::ENOENT)
}

fn unmask(_: &Twin) -> Outcome {
    let (one, other) = pair()?;
    let mask = &SHARED_INFO.0[(xen::shared_info::EVTCHN_MASK / 8) as usize + other as usize / 64];
    let bit = 1 << (other % 64);
    let upcall = || SHARED_INFO.0[0].load(Ordering::Acquire) & 0xff;
    mask.fetch_or(bit, Ordering::AcqRel);
    send_on(one)?;
    let masked = upcall();
    event(abi::EVTCHNOP_UNMASK, &mut OnePort { port: other })?;
    let (unmasked, left) = (upcall(), mask.load(Ordering::Acquire) & bit);
    close_port(one)?;
    close_port(other)?;
    same("upcalls due while it is masked, and then", (masked, unmasked), (0, 1))?;
    same("the mask's bit", left, 0)
}

/// The continuation of a reset is nothing that a domain may begin with.
fn reset_cont(twin: &Twin) -> Outcome {
    let begin = event(abi::EVTCHNOP_RESET_CONT, &mut Reset { dom: twin.domain });
    refuses("a continuation of nothing", begin, Errno::EINVAL)
}

fn reset(_: &Twin) -> Outcome {
    let (one, other) = pair()?;
    event(abi::EVTCHNOP_RESET, &mut Reset { dom: xen::DOMID_SELF })?;
    same("status", status_of(one)?.status, abi::EVTCHNSTAT_CLOSED)?;
    same("status", status_of(other)?.status, abi::EVTCHNSTAT_CLOSED)?;
    refuses("a domain that is not there", event(abi::EVTCHNOP_RESET, &mut Reset { dom: 77 }), Errno::ESRCH)
}

static CONTROL: Page = Page::new();
static ARRAY: Page = Page::new();

/// A word of 32 bits in a page.
fn word(page: &'static Page, at: u64) -> &'static AtomicU32 {
    // SAFETY: the page is shared with the hypervisor by atomic accesses; the place lies in it and is aligned.
    unsafe { AtomicU32::from_ptr((page.0.as_ptr() as u64 + at) as *mut u32) }
}

fn init_control(_: &Twin) -> Outcome {
    let mut control = InitControl { control_gfn: CONTROL.gfn(), offset: 4, vcpu: 0, ..InitControl::default() };
    refuses("a place across words", event(abi::EVTCHNOP_INIT_CONTROL, &mut control), Errno::EINVAL)?;
    control.offset = 0;
    event(abi::EVTCHNOP_INIT_CONTROL, &mut control)?;
    same("bits of a link", u32::from(control.link_bits), abi::EVTCHN_FIFO_LINK_BITS)
}

/// Now there are ports, and their words say what is pending.
fn expand_array(_: &Twin) -> Outcome {
    event(abi::EVTCHNOP_EXPAND_ARRAY, &mut ExpandArray { array_gfn: ARRAY.gfn() })?;
    check_queue(abi::EVTCHN_FIFO_PRIORITY_DEFAULT, |_| Ok(()))
}

/// Sends an event and looks whether it is at the head of this priority's queue.
fn check_queue(priority: u32, prepare: impl FnOnce(u32) -> Outcome) -> Outcome {
    // Binding this kind notifies nobody, so that all queues are empty.
    let mut bind = BindIpi::default();
    event(abi::EVTCHNOP_BIND_IPI, &mut bind)?;
    let port = bind.port;
    prepare(port)?;
    let event = word(&ARRAY, u64::from(port) * 4);
    event.store(0, Ordering::Release);
    send_on(port)?;
    let bits = event.load(Ordering::Acquire);
    let ready = word(&CONTROL, abi::FIFO_READY_OFFSET).swap(0, Ordering::AcqRel);
    let head = word(&CONTROL, abi::FIFO_HEAD_OFFSET + u64::from(priority) * 4).swap(0, Ordering::AcqRel);
    // It leaves the queue.
    event.store(0, Ordering::Release);
    close_port(port)?;
    same("the event's word", bits, abi::EVTCHN_FIFO_PENDING | abi::EVTCHN_FIFO_LINKED)?;
    same("ready queues", ready, 1 << priority)?;
    same("the queue's head", head, port)
}

fn set_priority(_: &Twin) -> Outcome {
    const PRIORITY: u32 = 3;
    let set = |port, priority| event(abi::EVTCHNOP_SET_PRIORITY, &mut SetPriority { port, priority });
    check_queue(PRIORITY, |port| {
        set(port, PRIORITY)?;
        refuses("a priority that is not there", set(port, abi::EVTCHN_FIFO_PRIORITY_MIN + 1), Errno::EINVAL)
    })
}
