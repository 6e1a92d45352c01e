//! `hvm_op(cmd, arg)`: parameters of a domain and the guest's side of its emulated platform.
//!
//! Parameters are plain values (`Domain::hvm_params`, lock [`crate::sync::Rank::Domain`]); who may set and read which,
//! and what a value means to the hypervisor, is here. Parameters that nobody set read as 0.

use radon_abi::errno::Errno;
use radon_abi::hvm::{self as abi, HvmEvtchnUpcallVector, HvmGetMemType, HvmGetTime, HvmParam, HvmXentrace};
use radon_abi::xen::DOMID_SELF;
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, SUCCESS, no, op, operation};
use crate::p2m::Kind;
use crate::time::clock::set_guest_mode;
use crate::types::{Gfn, VcpuId};

/// The highest `SHUTDOWN_*` reason.
const SHUTDOWN_MAX: u64 = 5;
/// First vector that is not an exception.
const FIRST_VECTOR: u8 = 16;
/// Size of a 32-bit TSS without I/O bitmap.
const TSS_SIZE: u64 = 104;
/// The size that a TSS has if the guest does not say.
const TSS_DEFAULT_SIZE: u64 = 128;

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    Operation {
        number: abi::HVMOP_SET_PARAM,
        name: "HVMOP_set_param",
        coverage: Coverage::Partial("ACPI_S_STATE and viridian features are refused; ALTP2M only as disabled"),
        handler: set_param,
    },
    op(abi::HVMOP_GET_PARAM, "HVMOP_get_param", get_param),
    no(abi::HVMOP_SET_PCI_INTX_LEVEL, "HVMOP_set_pci_intx_level", Errno::ENOSYS),
    no(abi::HVMOP_SET_ISA_IRQ_LEVEL, "HVMOP_set_isa_irq_level", Errno::ENOSYS),
    no(abi::HVMOP_SET_PCI_LINK_ROUTE, "HVMOP_set_pci_link_route", Errno::ENOSYS),
    op(abi::HVMOP_FLUSH_TLBS, "HVMOP_flush_tlbs", flush_tlbs),
    // Of use with shadow paging only, which does not exist here; guests that see it fail do not call it again.
    no(abi::HVMOP_PAGETABLE_DYING, "HVMOP_pagetable_dying", Errno::ENOSYS),
    op(abi::HVMOP_GET_TIME, "HVMOP_get_time", get_time),
    op(abi::HVMOP_XENTRACE, "HVMOP_xentrace", xentrace),
    no(abi::HVMOP_SET_MEM_ACCESS, "HVMOP_set_mem_access", Errno::ENOSYS),
    no(abi::HVMOP_GET_MEM_ACCESS, "HVMOP_get_mem_access", Errno::ENOSYS),
    op(abi::HVMOP_GET_MEM_TYPE, "HVMOP_get_mem_type", get_mem_type),
    op(abi::HVMOP_SET_EVTCHN_UPCALL_VECTOR, "HVMOP_set_evtchn_upcall_vector", set_evtchn_upcall_vector),
    Operation {
        number: abi::HVMOP_GUEST_REQUEST_VM_EVENT,
        name: "HVMOP_guest_request_vm_event",
        coverage: Coverage::Partial("nobody can monitor domains yet, so nobody hears the request"),
        handler: guest_request_vm_event,
    },
    no(abi::HVMOP_ALTP2M, "HVMOP_altp2m", Errno::EOPNOTSUPP),
];

/// `hvm_op(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation; else see there.
pub fn hvm_op(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// `HVMOP_set_param`.
///
/// Errors: `EINVAL` for no such parameter or a bad value; `ESRCH`; `EPERM` for another domain without privilege, and for
/// one of the many parameters that only a domain's builder sets; `EEXIST` for one that is set once; `EOPNOTSUPP`.
fn set_param(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: HvmParam = caller.read(args.handle(1))?;
    if a.index >= abi::HVM_NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(a.domid)?;
    if domain.id == caller.domain.id && !guest_may_set(a.index) {
        return Err(Errno::EPERM);
    }
    let (index, value) = checked(caller, a.index, a.value)?;
    if index == abi::HVM_PARAM_CALLBACK_IRQ {
        domain.arch.set_callback_via(value)?;
        if domain.id == caller.domain.id {
            set_guest_mode(caller.hv, &domain, caller.compat);
        }
    }
    let mut params = domain.hvm_params.lock();
    let slot = params.get_mut(index as usize).ok_or(Errno::EINVAL)?;
    if set_once(index) && *slot != 0 && *slot != value {
        return Err(Errno::EEXIST);
    }
    *slot = value;
    SUCCESS
}

/// Whether a domain may set this parameter of its own.
fn guest_may_set(index: u32) -> bool {
    matches!(
        index,
        abi::HVM_PARAM_CALLBACK_IRQ
            | abi::HVM_PARAM_VM86_TSS
            | abi::HVM_PARAM_VM86_TSS_SIZED
            | abi::HVM_PARAM_ACPI_IOPORTS_LOCATION
            | abi::HVM_PARAM_VM_GENERATION_ID_ADDR
    )
}

/// Whether a domain may read this parameter of its own.
fn guest_may_get(index: u32) -> bool {
    matches!(
        index,
        abi::HVM_PARAM_CALLBACK_IRQ
            | abi::HVM_PARAM_VM86_TSS
            | abi::HVM_PARAM_VM86_TSS_SIZED
            | abi::HVM_PARAM_VM_GENERATION_ID_ADDR
            | abi::HVM_PARAM_STORE_PFN
            | abi::HVM_PARAM_STORE_EVTCHN
            | abi::HVM_PARAM_CONSOLE_PFN
            | abi::HVM_PARAM_CONSOLE_EVTCHN
            | abi::HVM_PARAM_ALTP2M
            | abi::HVM_PARAM_X87_FIP_WIDTH
    )
}

/// Whether this parameter keeps the first value (other than 0) that it gets.
fn set_once(index: u32) -> bool {
    matches!(
        index,
        abi::HVM_PARAM_VIRIDIAN
            | abi::HVM_PARAM_IOREQ_SERVER_PFN
            | abi::HVM_PARAM_NR_IOREQ_SERVER_PAGES
            | abi::HVM_PARAM_ALTP2M
            | abi::HVM_PARAM_MCA_CAP
    )
}

/// The parameter and value to store for those asked for.
fn checked(caller: &Caller<'_>, index: u32, value: u64) -> Result<(u32, u64), Errno> {
    let only_if = |good: bool| if good { Ok((index, value)) } else { Err(Errno::EINVAL) };
    match index {
        abi::HVM_PARAM_TIMER_MODE => only_if(value <= 3),
        abi::HVM_PARAM_VIRIDIAN => {
            let known = value & !abi::HVMPV_FEATURE_MASK == 0 && value & abi::HVMPV_BASE_FREQ != 0;
            Err(if known { Errno::EOPNOTSUPP } else { Errno::EINVAL })
        }
        abi::HVM_PARAM_DM_DOMAIN => {
            // The only value that makes sense names the setter.
            if value == u64::from(DOMID_SELF) { Ok((index, u64::from(caller.domain.id.0))) } else { only_if(false) }
        }
        abi::HVM_PARAM_ACPI_S_STATE => match value {
            // It is awake.
            0 => Ok((index, 0)),
            3 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        },
        abi::HVM_PARAM_ACPI_IOPORTS_LOCATION => only_if(value <= 1),
        abi::HVM_PARAM_PAE_ENABLED
        | abi::HVM_PARAM_MEMORY_EVENT_CR0
        | abi::HVM_PARAM_MEMORY_EVENT_CR3
        | abi::HVM_PARAM_MEMORY_EVENT_CR4
        | abi::HVM_PARAM_MEMORY_EVENT_INT3
        | abi::HVM_PARAM_NESTEDHVM
        | abi::HVM_PARAM_MEMORY_EVENT_SINGLE_STEP
        | abi::HVM_PARAM_BUFIOREQ_EVTCHN
        | abi::HVM_PARAM_MEMORY_EVENT_MSR => Err(Errno::EOPNOTSUPP),
        abi::HVM_PARAM_TRIPLE_FAULT_REASON => only_if(value <= SHUTDOWN_MAX),
        abi::HVM_PARAM_NR_IOREQ_SERVER_PAGES => only_if(value > 0 && value <= 64),
        abi::HVM_PARAM_ALTP2M => match value {
            0 => Ok((index, 0)),
            1..=abi::XEN_ALTP2M_LIMITED => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        },
        abi::HVM_PARAM_X87_FIP_WIDTH => only_if(matches!(value, 0 | 4 | 8)),
        abi::HVM_PARAM_VM86_TSS => {
            if value > u64::from(u32::MAX) {
                return Err(Errno::EINVAL);
            }
            // Kept in the form that says the size, too.
            Ok((abi::HVM_PARAM_VM86_TSS_SIZED, if value == 0 { 0 } else { value | TSS_DEFAULT_SIZE << 32 }))
        }
        abi::HVM_PARAM_VM86_TSS_SIZED => only_if(value >> 32 >= TSS_SIZE),
        abi::HVM_PARAM_MCA_CAP => only_if(value & !abi::XEN_HVM_MCA_CAP_MASK == 0),
        _ => Ok((index, value)),
    }
}

/// `HVMOP_get_param`.
///
/// Errors: as for setting it.
fn get_param(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: HvmParam = caller.read(args.handle(1))?;
    if a.index >= abi::HVM_NR_PARAMS {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(a.domid)?;
    if domain.id == caller.domain.id && !guest_may_get(a.index) {
        return Err(Errno::EPERM);
    }
    a.value = param(&domain, a.index);
    caller.write(args.handle(1), &a)?;
    SUCCESS
}

/// The value of a parameter; 0 if it was never set.
#[must_use]
pub fn param(domain: &Domain, index: u32) -> u64 {
    let params = domain.hvm_params.lock();
    let get = |index: u32| params.get(index as usize).copied().unwrap_or(0);
    match index {
        abi::HVM_PARAM_VM86_TSS => get(abi::HVM_PARAM_VM86_TSS_SIZED) & u64::from(u32::MAX),
        _ => get(index),
    }
}

/// `HVMOP_flush_tlbs`: forgets cached translations of all vCPUs. Errors: `EINVAL` unless the handle is null.
fn flush_tlbs(caller: &Caller<'_>, args: Args) -> OpResult {
    if args.get(1) != 0 {
        return Err(Errno::EINVAL);
    }
    caller.hv.platform.flush_guest_tlb(caller.domain.p2m.tag());
    SUCCESS
}

/// `HVMOP_get_time`: system time.
fn get_time(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.write(args.handle(1), &HvmGetTime { now: caller.hv.platform.now().0 })?;
    SUCCESS
}

/// `HVMOP_xentrace`: a trace record of the guest's own. Errors: `EINVAL` for one that is too long, or an event beyond the
/// class that guests have.
fn xentrace(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: HvmXentrace = caller.read(args.handle(1))?;
    let used = a.extra.get(..usize::from(a.extra_bytes)).ok_or(Errno::EINVAL)?;
    if u32::from(a.event) >= 1 << radon_abi::trace::TRC_SUBCLS_SHIFT {
        return Err(Errno::EINVAL);
    }
    let mut extra = [0u32; radon_abi::trace::TRACE_EXTRA_MAX as usize];
    // The last word is filled up with zeros.
    extra.as_mut_bytes().iter_mut().zip(used).for_each(|(to, byte)| *to = *byte);
    let words = extra.get(..used.len().div_ceil(4)).unwrap_or_default();
    caller.hv.trace.guest_event(&*caller.hv.platform, a.event.into(), words);
    SUCCESS
}

/// `HVMOP_get_mem_type`: what a guest frame is, as far as it concerns guests.
fn get_mem_type(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: HvmGetMemType = caller.read(args.handle(1))?;
    let domain = caller.target(a.domid)?;
    let kind = domain.p2m.query(caller.hv, Gfn(a.pfn)).entry.kind;
    a.mem_type = match kind {
        Kind::RamRo | Kind::GrantRo => abi::HVMMEM_RAM_RO,
        kind if kind.counted() => abi::HVMMEM_RAM_RW,
        _ => abi::HVMMEM_MMIO_DM,
    };
    caller.write(args.handle(1), &a)?;
    SUCCESS
}

/// `HVMOP_set_evtchn_upcall_vector`: a vCPU's event upcalls come as this vector of its local APIC.
///
/// Errors: `EINVAL` for an exception's vector; `ENOENT` for no such vCPU.
fn set_evtchn_upcall_vector(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: HvmEvtchnUpcallVector = caller.read(args.handle(1))?;
    if a.vector < FIRST_VECTOR {
        return Err(Errno::EINVAL);
    }
    let vcpu = caller.domain.vcpu(VcpuId(a.vcpu)).ok_or(Errno::ENOENT)?;
    vcpu.arch.set_upcall_vector(a.vector)?;
    // What was pending before is delivered by the new way.
    if vcpu.events.upcall_pending(caller.hv.platform.memory()) {
        vcpu.arch.raise_upcall();
        vcpu.notify(caller.hv);
    }
    SUCCESS
}

/// `HVMOP_guest_request_vm_event`. Errors: `EINVAL` unless the handle is null.
fn guest_request_vm_event(_: &Caller<'_>, args: Args) -> OpResult {
    if args.get(1) == 0 { SUCCESS } else { Err(Errno::EINVAL) }
}

const _: () = assert!(crate::domain::HVM_PARAMS == abi::HVM_NR_PARAMS as usize);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::Outcome;
    use crate::sync::atomic::Ordering;
    use crate::testing::{TestArchDomain, TestHost};
    use crate::types::{DomainId, GuestVirtAddr};

    const AT: u64 = 0x1000;

    fn host() -> (TestHost, DomainId, DomainId) {
        let mut host = TestHost::new(1024, 1);
        let (dom0, guest) = (host.add_domain(1), host.add_domain(2));
        (host, dom0, guest)
    }

    fn set(host: &TestHost, by: DomainId, domid: u16, index: u32, value: u64) -> OpResult {
        let caller = host.caller(by, 0);
        caller.write(GuestVirtAddr(AT), &HvmParam { domid, pad: 0, index, value }).unwrap();
        hvm_op(&caller, Args([u64::from(abi::HVMOP_SET_PARAM), AT, 0, 0, 0, 0]))
    }

    fn get(host: &TestHost, by: DomainId, domid: u16, index: u32) -> Result<u64, Errno> {
        let caller = host.caller(by, 0);
        caller.write(GuestVirtAddr(AT), &HvmParam { domid, pad: 0, index, value: 99 }).unwrap();
        hvm_op(&caller, Args([u64::from(abi::HVMOP_GET_PARAM), AT, 0, 0, 0, 0]))?;
        Ok(caller.read::<HvmParam>(GuestVirtAddr(AT))?.value)
    }

    #[test]
    fn the_builder_sets_what_the_guest_reads() {
        let (host, dom0, guest) = host();
        assert_eq!(get(&host, guest, DOMID_SELF, abi::HVM_PARAM_STORE_PFN), Ok(0));
        assert_eq!(set(&host, dom0, guest.0, abi::HVM_PARAM_STORE_PFN, 7), SUCCESS);
        assert_eq!(get(&host, guest, DOMID_SELF, abi::HVM_PARAM_STORE_PFN), Ok(7));
        assert_eq!(get(&host, dom0, guest.0, abi::HVM_PARAM_STORE_PFN), Ok(7));
        assert_eq!(set(&host, guest, DOMID_SELF, abi::HVM_PARAM_STORE_PFN, 8), Err(Errno::EPERM));
        assert_eq!(set(&host, guest, dom0.0, abi::HVM_PARAM_STORE_PFN, 8), Err(Errno::EPERM));
        assert_eq!(get(&host, guest, dom0.0, abi::HVM_PARAM_STORE_PFN), Err(Errno::EPERM));
        assert_eq!(get(&host, guest, DOMID_SELF, abi::HVM_PARAM_IOREQ_PFN), Err(Errno::EPERM));
        assert_eq!(get(&host, dom0, 77, abi::HVM_PARAM_STORE_PFN), Err(Errno::ESRCH));
        assert_eq!(get(&host, dom0, guest.0, 39), Err(Errno::EINVAL));
    }

    #[test]
    fn the_callback_goes_to_the_architecture() {
        let (host, _, guest) = host();
        let via = 2 << 56 | 0xf3;
        assert_eq!(set(&host, guest, DOMID_SELF, abi::HVM_PARAM_CALLBACK_IRQ, via), SUCCESS);
        let arch = host.domain(guest).arch.as_any().downcast_ref::<TestArchDomain>().unwrap();
        assert_eq!(arch.callback_via.load(Ordering::Relaxed), via);
        assert_eq!(get(&host, guest, DOMID_SELF, abi::HVM_PARAM_CALLBACK_IRQ), Ok(via));
    }

    #[test]
    fn values_are_checked() {
        let (host, dom0, guest) = host();
        let try_set = |index, value| set(&host, dom0, guest.0, index, value);
        assert_eq!(try_set(abi::HVM_PARAM_TIMER_MODE, 3), SUCCESS);
        assert_eq!(try_set(abi::HVM_PARAM_TIMER_MODE, 4), Err(Errno::EINVAL));
        assert_eq!(try_set(abi::HVM_PARAM_TRIPLE_FAULT_REASON, 6), Err(Errno::EINVAL));
        assert_eq!(try_set(abi::HVM_PARAM_NESTEDHVM, 1), Err(Errno::EOPNOTSUPP));
        assert_eq!(try_set(abi::HVM_PARAM_ALTP2M, 0), SUCCESS);
        assert_eq!(try_set(abi::HVM_PARAM_ALTP2M, 4), Err(Errno::EINVAL));
        assert_eq!(try_set(abi::HVM_PARAM_DM_DOMAIN, u64::from(DOMID_SELF)), SUCCESS);
        assert_eq!(get(&host, dom0, guest.0, abi::HVM_PARAM_DM_DOMAIN), Ok(0));
        assert_eq!(try_set(abi::HVM_PARAM_DM_DOMAIN, 3), Err(Errno::EINVAL));
        assert_eq!(try_set(abi::HVM_PARAM_IOREQ_SERVER_PFN, 5), SUCCESS);
        assert_eq!(try_set(abi::HVM_PARAM_IOREQ_SERVER_PFN, 6), Err(Errno::EEXIST));
        assert_eq!(try_set(abi::HVM_PARAM_IOREQ_SERVER_PFN, 5), SUCCESS);
        assert_eq!(try_set(abi::HVM_PARAM_VM86_TSS, 0x1_0000_0000), Err(Errno::EINVAL));
        assert_eq!(try_set(abi::HVM_PARAM_VM86_TSS, 0x9000), SUCCESS);
        assert_eq!(get(&host, dom0, guest.0, abi::HVM_PARAM_VM86_TSS), Ok(0x9000));
        assert_eq!(get(&host, dom0, guest.0, abi::HVM_PARAM_VM86_TSS_SIZED), Ok(0x80_0000_9000));
    }

    #[test]
    fn small_operations() {
        let (host, _, guest) = host();
        let caller = host.caller(guest, 0);
        let call = |cmd: u32, arg| hvm_op(&caller, Args([u64::from(cmd), arg, 0, 0, 0, 0]));
        let flushes = host.machine.flushes.load(Ordering::SeqCst);
        assert_eq!(call(abi::HVMOP_FLUSH_TLBS, 0), Ok(Outcome::Done(0)));
        assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 1);
        assert_eq!(call(abi::HVMOP_FLUSH_TLBS, 1), Err(Errno::EINVAL));
        assert_eq!(call(abi::HVMOP_ALTP2M, AT), Err(Errno::EOPNOTSUPP));
        assert_eq!(call(abi::HVMOP_PAGETABLE_DYING, AT), Err(Errno::ENOSYS));
        for (pfn, expected) in [(3, abi::HVMMEM_RAM_RW), (0x10_0000, abi::HVMMEM_MMIO_DM)] {
            let ask = HvmGetMemType { domid: DOMID_SELF, pfn, ..HvmGetMemType::default() };
            caller.write(GuestVirtAddr(AT), &ask).unwrap();
            assert_eq!(call(abi::HVMOP_GET_MEM_TYPE, AT), SUCCESS);
            assert_eq!(caller.read::<HvmGetMemType>(GuestVirtAddr(AT)).unwrap().mem_type, expected);
        }
        caller.write(GuestVirtAddr(AT), &HvmEvtchnUpcallVector { vcpu: 0, vector: 15, _pad: [0; 3] }).unwrap();
        assert_eq!(call(abi::HVMOP_SET_EVTCHN_UPCALL_VECTOR, AT), Err(Errno::EINVAL));
        caller.write(GuestVirtAddr(AT), &HvmEvtchnUpcallVector { vcpu: 9, vector: 99, _pad: [0; 3] }).unwrap();
        assert_eq!(call(abi::HVMOP_SET_EVTCHN_UPCALL_VECTOR, AT), Err(Errno::ENOENT));
    }
}
