//! Single properties of a domain.

use radon_abi::domctl as abi;
use radon_abi::domctl::{
    AddressSize, IomemPermission, IoportPermission, IrqPermission, SchedulerOp, SendTrigger, SetAccessRequired,
    SetDomainHandle, SetTimeOffset, SetVirqHandler,
};
use radon_abi::errno::Errno;

use super::{domain, request, vcpu_of, write};
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::sched::PolicyKind;
use crate::time::clock::set_wall_clock_offset;

/// In [`SchedulerOp::cap`]: leave it.
const CAP_UNCHANGED: u16 = u16::MAX;
/// Ports that there are.
const PORTS: u32 = 1 << 16;

/// `XEN_DOMCTL_setdomainhandle`: the toolstack's name for the domain. Never fails.
pub(super) fn set_domain_handle(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, SetDomainHandle) = request(caller, args)?;
    domain.control.state.lock().handle = r.handle;
    SUCCESS
}

/// `XEN_DOMCTL_set_virq_handler`: makes the domain the one that handles a global virtual interrupt.
///
/// Errors: `EINVAL`: no such virtual interrupt, or not a global one.
pub(super) fn set_virq_handler(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, SetVirqHandler) = request(caller, args)?;
    crate::evtchn::set_virq_handler(caller.hv, &domain, r.virq)?;
    SUCCESS
}

/// `XEN_DOMCTL_settimeoffset`: how far the domain's wall clock is ahead of the machine's. Never fails.
pub(super) fn set_time_offset(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, SetTimeOffset) = request(caller, args)?;
    set_wall_clock_offset(caller.hv, &domain, r.time_offset_seconds);
    SUCCESS
}

/// `XEN_DOMCTL_get_address_size`: 64: the width of the hypervisor's interfaces, whatever the guest runs. Never fails.
pub(super) fn get_address_size(caller: &Caller<'_>, args: Args) -> OpResult {
    domain(caller, args)?;
    write(caller, args, &AddressSize { size: 64 })
}

/// `XEN_DOMCTL_set_address_size`: it is 64.
///
/// Errors: `EINVAL`: another.
pub(super) fn set_address_size(caller: &Caller<'_>, args: Args) -> OpResult {
    let (_, r): (_, AddressSize) = request(caller, args)?;
    if r.size == 64 { SUCCESS } else { Err(Errno::EINVAL) }
}

/// `XEN_DOMCTL_set_access_required`: whether violations of memory access rules wait for somebody who looks at them.
///
/// Errors: `EPERM`: the caller's own domain.
pub(super) fn set_access_required(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, SetAccessRequired) = request(caller, args)?;
    if domain.id == caller.domain.id {
        return Err(Errno::EPERM);
    }
    domain.control.state.lock().access_required = r.access_required != 0;
    SUCCESS
}

/// `XEN_DOMCTL_scheduler_op`: the domain's weight and cap.
///
/// Errors: `EINVAL`: another scheduler than the domain's, or one without parameters; parameters of single vCPUs.
pub(super) fn scheduler_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, SchedulerOp) = request(caller, args)?;
    let hv = caller.hv;
    let kind = hv.scheduler.pool_kind(domain.sched.pool()).unwrap_or(PolicyKind::Null);
    if r.sched_id != kind as u32 {
        return Err(Errno::EINVAL);
    }
    match r.cmd {
        abi::XEN_DOMCTL_SCHEDOP_GETINFO | abi::XEN_DOMCTL_SCHEDOP_PUTINFO if kind == PolicyKind::Null => {
            // It knows neither weights nor caps, and says so by having none.
        }
        abi::XEN_DOMCTL_SCHEDOP_GETINFO => {
            r.weight = domain.sched.weight() as u16;
            r.cap = domain.sched.cap() as u16;
        }
        abi::XEN_DOMCTL_SCHEDOP_PUTINFO => {
            let weight = (r.weight != 0).then_some(r.weight);
            let cap = (r.cap != CAP_UNCHANGED).then_some(r.cap);
            hv.scheduler.set_parameters(hv, &domain.sched, weight, cap)?;
        }
        _ => return Err(Errno::EINVAL),
    }
    write(caller, args, &r)
}

/// `XEN_DOMCTL_sendtrigger`: an NMI for a vCPU, or a press on the domain's power or sleep button.
///
/// Errors: `ESRCH`: no such vCPU. `ENOSYS`: no such trigger. A domain without buttons takes no notice of them, as under
/// Xen.
pub(super) fn send_trigger(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, SendTrigger) = request(caller, args)?;
    let hv = caller.hv;
    match r.trigger {
        abi::XEN_DOMCTL_SENDTRIGGER_NMI => {
            let vcpu = vcpu_of(&domain, r.vcpu, Errno::ESRCH)?;
            vcpu.arch.raise_nmi();
            vcpu.notify(hv);
        }
        abi::XEN_DOMCTL_SENDTRIGGER_POWER | abi::XEN_DOMCTL_SENDTRIGGER_SLEEP => {
            match domain.arch.press_button(hv, &domain, r.trigger == abi::XEN_DOMCTL_SENDTRIGGER_SLEEP) {
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(errno),
            }
        }
        _ => return Err(Errno::ENOSYS),
    }
    SUCCESS
}

/// Devices are the hardware domain's. To allow it what it has, or to forbid others what they never had, changes nothing.
fn device_permission(domain: &Domain, allow: u8) -> OpResult {
    if (allow != 0) == domain.is_hardware() { SUCCESS } else { Err(Errno::EOPNOTSUPP) }
}

/// `XEN_DOMCTL_irq_permission`: who may use a device's interrupt.
///
/// Errors: `EOPNOTSUPP`: a change.
pub(super) fn irq_permission(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, IrqPermission) = request(caller, args)?;
    device_permission(&domain, r.allow_access)
}

/// `XEN_DOMCTL_iomem_permission`: who may map a device's memory.
///
/// Errors: `EINVAL`: no such range. `EOPNOTSUPP`: a change.
pub(super) fn iomem_permission(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, IomemPermission) = request(caller, args)?;
    let last = r.nr_mfns.checked_sub(1).and_then(|n| r.first_mfn.checked_add(n));
    last.ok_or(Errno::EINVAL)?;
    device_permission(&domain, r.allow_access)
}

/// `XEN_DOMCTL_ioport_permission`: who may use ports.
///
/// Errors: `EINVAL`: no such range. `EOPNOTSUPP`: a change.
pub(super) fn ioport_permission(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, IoportPermission) = request(caller, args)?;
    let end = r.first_port.checked_add(r.nr_ports).filter(|&e| e <= PORTS && r.nr_ports != 0);
    end.ok_or(Errno::EINVAL)?;
    device_permission(&domain, r.allow_access)
}
