//! What the toolstack asks about a domain and its vCPUs.

use radon_abi::domctl::GetVcpuInfo;
use radon_abi::errno::Errno;
use radon_abi::xen::DOMID_FIRST_RESERVED;

use super::{DOMAIN, at, number, request, vcpu_of, write};
use crate::control::domain_info;
use crate::hypercall::{Args, Caller, OpResult};
use crate::time::State;

/// `XEN_DOMCTL_getdomaininfo`: describes the domain of that number, or else of the next higher one; its number is written
/// back.
///
/// Work: the domain's vCPUs. Errors: `EINVAL`: a reserved number. `ESRCH`: no domain from there on.
pub(super) fn get_domain_info(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let hv = caller.hv;
    let from = number(caller, args)?;
    if from.0 >= DOMID_FIRST_RESERVED {
        return Err(Errno::EINVAL);
    }
    hv.control.reap(hv, &mut || caller.spend());
    let domain = hv.domains.next_from(from).ok_or(Errno::ESRCH)?;
    let info = domain_info(hv, &domain);
    caller.write(at(args, DOMAIN), &domain.id.0)?;
    write(caller, args, &info)
}

/// `XEN_DOMCTL_getvcpuinfo`: what a vCPU does and where.
///
/// Errors: `EINVAL`: a number that the domain's vCPUs cannot have. `ESRCH`: no such vCPU.
pub(super) fn get_vcpu_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, GetVcpuInfo) = request(caller, args)?;
    let most = domain.control.config().max_vcpus.max(domain.vcpus().len() as u32);
    let errno = if r.vcpu < most { Errno::ESRCH } else { Errno::EINVAL };
    let unit = &vcpu_of(&domain, r.vcpu, errno)?.sched.unit;
    r.online = u8::from(!unit.is_down());
    r.blocked = u8::from(unit.is_blocked());
    let runstate = unit.runstate();
    r.running = u8::from(runstate.state() == State::Running);
    r.cpu_time = runstate.running(caller.hv.platform.now()).0;
    r.cpu = unit.cpu().0;
    write(caller, args, &r)
}
