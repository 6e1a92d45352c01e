//! Where vCPUs run, and their registers.

use crate::sync::atomic::Ordering;
use alloc::boxed::Box;

use radon_abi::domctl as abi;
use radon_abi::domctl::{NodeAffinity, VcpuAffinity, VcpuContext};
use radon_abi::errno::Errno;
use radon_abi::guest_context::{VGCF_ONLINE, VcpuGuestContext};
use zerocopy::{FromZeros, IntoBytes};

use super::{request, vcpu_of, write};
use crate::control::bitmap;
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::sched::CpuSet;
use crate::types::{CpuId, GuestVirtAddr};

const HARD: u32 = abi::XEN_VCPUAFFINITY_HARD;
const SOFT: u32 = abi::XEN_VCPUAFFINITY_SOFT;
const FORCE: u32 = abi::XEN_VCPUAFFINITY_FORCE;

/// What a vCPU that does not exist means: one that the domain could have is `ESRCH`.
fn missing(domain: &Domain, vcpu: u32) -> Errno {
    if vcpu < domain.control.config().max_vcpus { Errno::ESRCH } else { Errno::EINVAL }
}

/// Whether a request about affinity makes sense.
fn check_affinity(r: &VcpuAffinity) -> Result<(), Errno> {
    let absent = |flag: u32, map: &abi::Bitmap| r.flags & flag != 0 && map.bitmap == 0;
    let nonsense = r.flags & (HARD | SOFT) == 0
        || r.flags & !(HARD | SOFT | FORCE) != 0
        || absent(HARD, &r.cpumap_hard)
        || absent(SOFT, &r.cpumap_soft);
    if nonsense { Err(Errno::EINVAL) } else { Ok(()) }
}

/// `XEN_DOMCTL_setvcpuaffinity`: where a vCPU may and should run. What takes effect of it, as the pool has the CPUs, is
/// written back.
///
/// Errors: `EINVAL`: no such number, nothing to set, or no CPU left. `ESRCH`: no such vCPU. `EFAULT`; affinities have
/// changed if it comes when they are written back.
pub(super) fn set_affinity(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, VcpuAffinity) = request(caller, args)?;
    let vcpu = vcpu_of(&domain, r.vcpu, missing(&domain, r.vcpu))?;
    check_affinity(&r)?;
    let hv = caller.hv;
    let hard = if r.flags & HARD != 0 { Some(bitmap::read(caller, &r.cpumap_hard)?) } else { None };
    let soft = if r.flags & SOFT != 0 { Some(bitmap::read(caller, &r.cpumap_soft)?) } else { None };
    if r.flags & FORCE != 0 {
        // There may be no pin to end.
        let _ = hv.scheduler.pin_override(hv, vcpu, None);
    }
    hv.scheduler.set_affinity(hv, vcpu, hard, soft)?;
    let cpus = hv.scheduler.pool_cpus(domain.sched.pool()).unwrap_or(CpuSet::EMPTY);
    let now = vcpu.sched.unit.affinity();
    let effective = now.hard.and(&cpus);
    if hard.is_some() {
        bitmap::write(caller, &r.cpumap_hard, effective)?;
    }
    if soft.is_some() {
        bitmap::write(caller, &r.cpumap_soft, now.soft.and(&effective))?;
    }
    write(caller, args, &r)
}

/// `XEN_DOMCTL_getvcpuaffinity`: where a vCPU may and should run, as it was set.
///
/// Errors: as [`set_affinity`].
pub(super) fn get_affinity(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, VcpuAffinity) = request(caller, args)?;
    let affinity = vcpu_of(&domain, r.vcpu, missing(&domain, r.vcpu))?.sched.unit.affinity();
    check_affinity(&r)?;
    if r.flags & HARD != 0 {
        bitmap::write(caller, &r.cpumap_hard, affinity.hard)?;
    }
    if r.flags & SOFT != 0 {
        bitmap::write(caller, &r.cpumap_soft, affinity.soft)?;
    }
    write(caller, args, &r)
}

/// The nodes of the machine: one.
fn nodes() -> CpuSet {
    CpuSet::only(CpuId(0))
}

/// `XEN_DOMCTL_setnodeaffinity`: which nodes its memory should be on; there is one.
///
/// Errors: `EINVAL`: a set without it. `EFAULT`.
pub(super) fn set_node_affinity(caller: &Caller<'_>, args: Args) -> OpResult {
    let (_, r): (_, NodeAffinity) = request(caller, args)?;
    if bitmap::read(caller, &r.nodemap)?.intersects(&nodes()) { SUCCESS } else { Err(Errno::EINVAL) }
}

/// `XEN_DOMCTL_getnodeaffinity`: which nodes its memory should be on.
///
/// Errors: `EFAULT`.
pub(super) fn get_node_affinity(caller: &Caller<'_>, args: Args) -> OpResult {
    let (_, r): (_, NodeAffinity) = request(caller, args)?;
    bitmap::write(caller, &r.nodemap, nodes())?;
    SUCCESS
}

/// `XEN_DOMCTL_getvcpucontext`: a vCPU's registers. It is paused meanwhile.
///
/// Errors: `EINVAL`: no such number, or the caller itself. `ESRCH`: no such vCPU. `ENODATA`: it was never up. `EFAULT`.
pub(super) fn get_context(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, VcpuContext) = request(caller, args)?;
    let vcpu = vcpu_of(&domain, r.vcpu, missing(&domain, r.vcpu))?;
    if core::ptr::eq(&raw const **vcpu, &raw const **caller.vcpu) {
        return Err(Errno::EINVAL);
    }
    if !vcpu.sched.unit.is_initialised() {
        return Err(Errno::ENODATA);
    }
    let hv = caller.hv;
    if hv.scheduler.pause_sync(hv, vcpu, caller.vcpu).is_err() {
        return Ok(Outcome::Continue(args));
    }
    let context = vcpu.arch.guest_context();
    hv.scheduler.unpause(hv, vcpu);
    let mut context = context?;
    context.vm_assist = domain.vm_assist.load(Ordering::Relaxed);
    if !vcpu.sched.unit.is_down() {
        context.flags |= VGCF_ONLINE;
    }
    caller.write(GuestVirtAddr(r.ctxt), &*context)?;
    write(caller, args, &r)
}

/// `XEN_DOMCTL_setvcpucontext`: sets a vCPU's registers, and brings it up or down as they say. The domain is paused
/// meanwhile.
///
/// Errors: `EINVAL`: no such vCPU, the caller's own domain, or a state that cannot be. `EOPNOTSUPP`: no state at all, which
/// would be a reset. `EFAULT`.
pub(super) fn set_context(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, VcpuContext) = request(caller, args)?;
    let vcpu = vcpu_of(&domain, r.vcpu, Errno::EINVAL)?;
    if domain.id == caller.domain.id {
        return Err(Errno::EINVAL);
    }
    if r.ctxt == 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mut context = Box::new(VcpuGuestContext::new_zeroed());
    caller.memory.read(GuestVirtAddr(r.ctxt), context.as_mut_bytes())?;
    let hv = caller.hv;
    if hv.scheduler.pause_domain_sync(hv, &domain, caller.vcpu).is_err() {
        return Ok(Outcome::Continue(args));
    }
    let set = vcpu.arch.set_guest_context(&context);
    if set.is_ok() && context.flags & VGCF_ONLINE != 0 {
        hv.scheduler.bring_up(hv, vcpu);
    } else if set.is_ok() {
        hv.scheduler.take_down(hv, vcpu);
    }
    hv.scheduler.unpause_domain(hv, &domain.sched);
    set?;
    SUCCESS
}
