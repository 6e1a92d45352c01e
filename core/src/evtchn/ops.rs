//! The hypercall `event_channel_op(cmd, arg)`: each operation copies its structure in, acts, and copies it out.

use radon_abi::errno::Errno;
use radon_abi::event_channel::{
    AllocUnbound, BindInterdomain, BindIpi, BindVcpu, BindVirq, EVTCHN_FIFO_LINK_BITS, EVTCHNOP_RESET,
    EVTCHNOP_RESET_CONT, ExpandArray, InitControl, OnePort, Reset, SetPriority, Status,
};
use radon_abi::xen::DOMID_SELF;
use zerocopy::{Immutable, IntoBytes};

use super::Pin;
use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, op, operation, refused};
use crate::types::{DomainId, Gfn, GuestVirtAddr, Port, VcpuId};

/// All operations, at their numbers' places.
pub static OPERATIONS: &[Operation] = &[
    op(0, "EVTCHNOP_bind_interdomain", bind_interdomain),
    op(1, "EVTCHNOP_bind_virq", bind_virq),
    // No domain has physical interrupts of its own, so every number is out of range.
    Operation { number: 2, name: "EVTCHNOP_bind_pirq", coverage: Coverage::Refused(Errno::EINVAL), handler: refused },
    op(3, "EVTCHNOP_close", close),
    op(4, "EVTCHNOP_send", send),
    op(5, "EVTCHNOP_status", status),
    op(6, "EVTCHNOP_alloc_unbound", alloc_unbound),
    op(7, "EVTCHNOP_bind_ipi", bind_ipi),
    op(8, "EVTCHNOP_bind_vcpu", bind_vcpu),
    op(9, "EVTCHNOP_unmask", unmask),
    op(10, "EVTCHNOP_reset", reset),
    op(11, "EVTCHNOP_init_control", init_control),
    op(12, "EVTCHNOP_expand_array", expand_array),
    op(13, "EVTCHNOP_set_priority", set_priority),
    op(14, "EVTCHNOP_reset_cont", reset),
];

/// `event_channel_op(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation; else as the operation's function in this module's parent says.
pub fn event_channel_op(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// Tells the caller of its new port. If it cannot be told, the port is closed again.
fn give<T: IntoBytes + Immutable>(caller: &Caller<'_>, at: GuestVirtAddr, answer: &T, port: Port) -> OpResult {
    if let Err(errno) = caller.write(at, answer) {
        // Only the caller itself could have closed it in between.
        let _ = super::close(caller.hv, caller.domain, port);
        return Err(errno);
    }
    SUCCESS
}

fn named(caller: &Caller<'_>, id: u16) -> DomainId {
    if id == DOMID_SELF { caller.domain.id } else { DomainId(id) }
}

fn alloc_unbound(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: AllocUnbound = caller.read(args.handle(1))?;
    let domain = caller.target(a.dom)?;
    let port = super::alloc_unbound(caller.hv, &domain, named(caller, a.remote_dom))?;
    a.port = port.0;
    if let Err(errno) = caller.write(args.handle(1), &a) {
        let _ = super::close(caller.hv, &domain, port);
        return Err(errno);
    }
    SUCCESS
}

fn bind_interdomain(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: BindInterdomain = caller.read(args.handle(1))?;
    let id = named(caller, a.remote_dom);
    // Binding needs no privilege: that the remote port waits for this domain is the permission.
    let remote = if id == caller.domain.id { caller.domain.clone() } else { caller.hv.domains.get(id)? };
    let port = super::bind_interdomain(caller.hv, caller.domain, &remote, Port(a.remote_port))?;
    a.local_port = port.0;
    give(caller, args.handle(1), &a, port)
}

fn bind_virq(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: BindVirq = caller.read(args.handle(1))?;
    let port = super::bind_virq(caller.hv, caller.domain, a.virq, VcpuId(a.vcpu))?;
    a.port = port.0;
    give(caller, args.handle(1), &a, port)
}

fn bind_ipi(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: BindIpi = caller.read(args.handle(1))?;
    let port = super::bind_ipi(caller.hv, caller.domain, VcpuId(a.vcpu))?;
    a.port = port.0;
    give(caller, args.handle(1), &a, port)
}

fn close(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: OnePort = caller.read(args.handle(1))?;
    super::close(caller.hv, caller.domain, Port(a.port))?;
    SUCCESS
}

fn send(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: OnePort = caller.read(args.handle(1))?;
    super::send(caller.hv, caller.domain, Port(a.port))?;
    SUCCESS
}

fn status(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: Status = caller.read(args.handle(1))?;
    let found = super::status(&caller.target(a.dom)?, Port(a.port))?;
    caller.write(args.handle(1), &Status { dom: a.dom, ..found })?;
    SUCCESS
}

fn bind_vcpu(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: BindVcpu = caller.read(args.handle(1))?;
    super::bind_vcpu(caller.domain, Port(a.port), VcpuId(a.vcpu))?;
    SUCCESS
}

fn unmask(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: OnePort = caller.read(args.handle(1))?;
    super::unmask(caller.hv, caller.domain, Port(a.port))?;
    SUCCESS
}

fn reset(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: Reset = caller.read(args.handle(1))?;
    let domain = caller.target(a.dom)?;
    // Another domain's vCPUs may not bind ports meanwhile.
    if domain.id != caller.domain.id && !domain.sched.is_paused() {
        return Err(Errno::EINVAL);
    }
    let resumed = args.u32(0) != EVTCHNOP_RESET;
    if super::reset(caller.hv, &domain, resumed, || caller.spend())? {
        SUCCESS
    } else {
        Ok(Outcome::Continue(args.with(0, u64::from(EVTCHNOP_RESET_CONT))))
    }
}

fn init_control(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: InitControl = caller.read(args.handle(1))?;
    caller.domain.vcpu(VcpuId(a.vcpu)).ok_or(Errno::ENOENT)?;
    let frame = Pin::new(caller.hv, caller.domain, Gfn(a.control_gfn))?;
    super::init_control(caller.hv, caller.domain, VcpuId(a.vcpu), frame, a.offset)?;
    a.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
    caller.write(args.handle(1), &a)?;
    SUCCESS
}

fn expand_array(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: ExpandArray = caller.read(args.handle(1))?;
    let frame = Pin::new(caller.hv, caller.domain, Gfn(a.array_gfn))?;
    super::expand_array(caller.hv, caller.domain, frame)?;
    SUCCESS
}

fn set_priority(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: SetPriority = caller.read(args.handle(1))?;
    super::set_priority(caller.domain, Port(a.port), a.priority)?;
    SUCCESS
}
