//! `hvm_op`: parameters, time, kinds of memory, and the ways in which upcalls come.

use radon_abi::errno::Errno;
use radon_abi::event_channel::{BindIpi, EVTCHNOP_BIND_IPI, EVTCHNOP_CLOSE, EVTCHNOP_SEND, OnePort};
use radon_abi::hvm::{self as abi, HvmEvtchnUpcallVector, HvmGetMemType, HvmGetTime, HvmParam, HvmXentrace};
use radon_abi::{hypercall, xen};

use super::calls::{self, Answer, Refused, hyper, operate};
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::interrupts::{self, APIC_UPCALL, UPCALL};
use super::twin::{SPARE, SPARES, Twin};
use super::{forget, now};

pub(crate) static GROUP: Group = Group {
    number: hypercall::HVM_OP,
    checks: &[
        works(abi::HVMOP_SET_PARAM, "HVMOP_set_param", set_param),
        works(abi::HVMOP_GET_PARAM, "HVMOP_get_param", get_param),
        refused(abi::HVMOP_SET_PCI_INTX_LEVEL, "HVMOP_set_pci_intx_level"),
        refused(abi::HVMOP_SET_ISA_IRQ_LEVEL, "HVMOP_set_isa_irq_level"),
        refused(abi::HVMOP_SET_PCI_LINK_ROUTE, "HVMOP_set_pci_link_route"),
        works(abi::HVMOP_FLUSH_TLBS, "HVMOP_flush_tlbs", flush_tlbs),
        refused(abi::HVMOP_PAGETABLE_DYING, "HVMOP_pagetable_dying"),
        works(abi::HVMOP_GET_TIME, "HVMOP_get_time", get_time),
        works(abi::HVMOP_XENTRACE, "HVMOP_xentrace", xentrace),
        refused(abi::HVMOP_SET_MEM_ACCESS, "HVMOP_set_mem_access"),
        refused(abi::HVMOP_GET_MEM_ACCESS, "HVMOP_get_mem_access"),
        works(abi::HVMOP_GET_MEM_TYPE, "HVMOP_get_mem_type", get_mem_type),
        works(abi::HVMOP_SET_EVTCHN_UPCALL_VECTOR, "HVMOP_set_evtchn_upcall_vector", set_evtchn_upcall_vector),
        works(abi::HVMOP_GUEST_REQUEST_VM_EVENT, "HVMOP_guest_request_vm_event", guest_request_vm_event),
        refused(abi::HVMOP_ALTP2M, "HVMOP_altp2m"),
    ],
};

fn ask<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::HVM_OP, operation, argument)
}

fn set(domid: u16, index: u32, value: u64) -> Answer {
    ask(abi::HVMOP_SET_PARAM, &mut HvmParam { domid, pad: 0, index, value })
}

/// An event to this vCPU, with interrupts on for a moment; returns what [`interrupts::take`] does.
fn upcalls() -> Result<(u64, u64), Differs> {
    let mut bind = BindIpi::default();
    calls::event(EVTCHNOP_BIND_IPI, &mut bind)?;
    forget(bind.port);
    interrupts::take();
    calls::event(EVTCHNOP_SEND, &mut OnePort { port: bind.port })?;
    let came = interrupts::take();
    forget(bind.port);
    calls::event(EVTCHNOP_CLOSE, &mut OnePort { port: bind.port })?;
    Ok(came)
}

/// The way of upcalls, which come so then.
fn set_param(twin: &Twin) -> Outcome {
    let by_vector = abi::HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | u64::from(UPCALL);
    set(xen::DOMID_SELF, abi::HVM_PARAM_CALLBACK_IRQ, by_vector)?;
    same("upcalls by the vector, and by the local APIC", upcalls()?, (1, 0))?;
    refuses("a parameter that is not there", set(twin.domain, abi::HVM_NR_PARAMS, 0), Errno::EINVAL)
}

/// What this domain sets of the other, that one reads.
fn get_param(twin: &Twin) -> Outcome {
    set(twin.domain, abi::HVM_PARAM_STORE_PFN, SPARE + 7)?;
    let mut get = HvmParam { domid: xen::DOMID_SELF, pad: 0, index: abi::HVM_PARAM_STORE_PFN, value: 0 };
    twin.operate(hypercall::HVM_OP, abi::HVMOP_GET_PARAM, &mut get)??;
    same("the parameter", get.value, SPARE + 7)?;
    let mut own = HvmParam { domid: 0, ..get };
    let answer = twin.operate(hypercall::HVM_OP, abi::HVMOP_GET_PARAM, &mut own)?;
    refuses("another domain's, by one without privilege", answer, Errno::EPERM)
}

fn flush_tlbs(_: &Twin) -> Outcome {
    let flush =
        |argument| hyper(hypercall::HVM_OP, abi::HVMOP_FLUSH_TLBS, [u64::from(abi::HVMOP_FLUSH_TLBS), argument]);
    flush(0)?;
    refuses("an argument, of which there is none", flush(4096), Errno::EINVAL)
}

fn get_time(_: &Twin) -> Outcome {
    let time = || -> Result<u64, Refused> {
        let mut time = HvmGetTime::default();
        ask(abi::HVMOP_GET_TIME, &mut time)?;
        Ok(time.now)
    };
    let (first, begin) = (time()?, now());
    while now() - begin < 1_000_000 {}
    let passed = time()? - first;
    holds("it is not 0", first > 0)?;
    holds("it goes on as system time does", (1_000_000..60_000_000_000).contains(&passed))
}

fn xentrace(_: &Twin) -> Outcome {
    let mut record = HvmXentrace { event: 1, extra_bytes: 8, extra: [7; 28] };
    ask(abi::HVMOP_XENTRACE, &mut record)?;
    record.extra_bytes = 29;
    refuses("too much", ask(abi::HVMOP_XENTRACE, &mut record), Errno::EINVAL)
}

fn get_mem_type(twin: &Twin) -> Outcome {
    let kind = |pfn| -> Result<u16, Refused> {
        let mut get = HvmGetMemType { domid: twin.domain, mem_type: 99, pad: [0; 2], pfn };
        ask(abi::HVMOP_GET_MEM_TYPE, &mut get)?;
        Ok(get.mem_type)
    };
    same("memory", kind(SPARE)?, abi::HVMMEM_RAM_RW)?;
    same("nothing", kind(SPARE + SPARES + 64)?, abi::HVMMEM_MMIO_DM)
}

/// From now on upcalls come by way of the local APIC.
fn set_evtchn_upcall_vector(_: &Twin) -> Outcome {
    let set = |vcpu, vector| {
        ask(abi::HVMOP_SET_EVTCHN_UPCALL_VECTOR, &mut HvmEvtchnUpcallVector { vcpu, vector, _pad: [0; 3] })
    };
    refuses("the vector of an exception", set(0, 14), Errno::EINVAL)?;
    refuses("a vCPU that is not there", set(77, APIC_UPCALL), Errno::ENOENT)?;
    interrupts::enable_x2apic();
    set(0, APIC_UPCALL)?;
    // On Xen the other one comes as well.
    same("upcalls by the local APIC", upcalls()?.1, 1)
}

fn guest_request_vm_event(_: &Twin) -> Outcome {
    let number = abi::HVMOP_GUEST_REQUEST_VM_EVENT;
    let request = |argument| hyper(hypercall::HVM_OP, number, [u64::from(number), argument]);
    request(0)?;
    refuses("an argument, of which there is none", request(4096), Errno::EINVAL)
}
