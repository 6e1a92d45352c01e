//! `domctl(op)`: what the control domain does with one domain.
//!
//! The structure behind the handle names operation and interface version in its first 8 bytes, the domain in the next 8;
//! the rest is the operation's. The dispatcher copies the first part, the operation the others, so every byte is copied
//! in once. What an operation returns is written back to where its structure came from.
//!
//! Who may: the control domain only. An operation that changes a domain runs alone ([`crate::control::Control::enter`]);
//! if another is under way the caller tries again. Long ones spend the caller's budget and are continued.

mod context;
mod create;
mod destroy;
mod life;
mod log_dirty;
mod memory;
mod query;
mod settings;
mod vcpus;

use alloc::sync::Arc;

use radon_abi::domctl as abi;
use radon_abi::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Operation, Outcome, SUCCESS, no, op, operation, part};
use crate::types::{DomainId, GuestVirtAddr, VcpuId};
use crate::vcpu::Vcpu;

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    part(
        abi::XEN_DOMCTL_CREATEDOMAIN,
        "XEN_DOMCTL_createdomain",
        "devices, nested virtualization, performance counters, hardware tracing",
        create::create,
    ),
    op(abi::XEN_DOMCTL_DESTROYDOMAIN, "XEN_DOMCTL_destroydomain", destroy::destroy),
    op(abi::XEN_DOMCTL_PAUSEDOMAIN, "XEN_DOMCTL_pausedomain", life::pause),
    op(abi::XEN_DOMCTL_UNPAUSEDOMAIN, "XEN_DOMCTL_unpausedomain", life::unpause),
    op(abi::XEN_DOMCTL_GETDOMAININFO, "XEN_DOMCTL_getdomaininfo", query::get_domain_info),
    op(abi::XEN_DOMCTL_SETVCPUAFFINITY, "XEN_DOMCTL_setvcpuaffinity", vcpus::set_affinity),
    op(abi::XEN_DOMCTL_SHADOW_OP, "XEN_DOMCTL_shadow_op", memory::shadow_op),
    op(abi::XEN_DOMCTL_MAX_MEM, "XEN_DOMCTL_max_mem", memory::max_mem),
    part(abi::XEN_DOMCTL_SETVCPUCONTEXT, "XEN_DOMCTL_setvcpucontext", "resetting a vCPU", vcpus::set_context),
    op(abi::XEN_DOMCTL_GETVCPUCONTEXT, "XEN_DOMCTL_getvcpucontext", vcpus::get_context),
    op(abi::XEN_DOMCTL_GETVCPUINFO, "XEN_DOMCTL_getvcpuinfo", query::get_vcpu_info),
    op(abi::XEN_DOMCTL_MAX_VCPUS, "XEN_DOMCTL_max_vcpus", create::max_vcpus),
    op(abi::XEN_DOMCTL_SCHEDULER_OP, "XEN_DOMCTL_scheduler_op", settings::scheduler_op),
    op(abi::XEN_DOMCTL_SETDOMAINHANDLE, "XEN_DOMCTL_setdomainhandle", settings::set_domain_handle),
    no(abi::XEN_DOMCTL_SETDEBUGGING, "XEN_DOMCTL_setdebugging", Errno::EOPNOTSUPP),
    part(
        abi::XEN_DOMCTL_IRQ_PERMISSION,
        "XEN_DOMCTL_irq_permission",
        "devices are the hardware domain's",
        settings::irq_permission,
    ),
    part(
        abi::XEN_DOMCTL_IOMEM_PERMISSION,
        "XEN_DOMCTL_iomem_permission",
        "devices are the hardware domain's",
        settings::iomem_permission,
    ),
    part(
        abi::XEN_DOMCTL_IOPORT_PERMISSION,
        "XEN_DOMCTL_ioport_permission",
        "devices are the hardware domain's",
        settings::ioport_permission,
    ),
    op(abi::XEN_DOMCTL_HYPERCALL_INIT, "XEN_DOMCTL_hypercall_init", context::hypercall_init),
    op(abi::XEN_DOMCTL_SETTIMEOFFSET, "XEN_DOMCTL_settimeoffset", settings::set_time_offset),
    op(abi::XEN_DOMCTL_GETVCPUAFFINITY, "XEN_DOMCTL_getvcpuaffinity", vcpus::get_affinity),
    op(abi::XEN_DOMCTL_RESUMEDOMAIN, "XEN_DOMCTL_resumedomain", life::resume),
    op(abi::XEN_DOMCTL_SENDTRIGGER, "XEN_DOMCTL_sendtrigger", settings::send_trigger),
    no(abi::XEN_DOMCTL_SUBSCRIBE, "XEN_DOMCTL_subscribe", Errno::EOPNOTSUPP),
    op(abi::XEN_DOMCTL_GETHVMCONTEXT, "XEN_DOMCTL_gethvmcontext", context::get_hvm_context),
    op(abi::XEN_DOMCTL_SETHVMCONTEXT, "XEN_DOMCTL_sethvmcontext", context::set_hvm_context),
    op(abi::XEN_DOMCTL_SET_ADDRESS_SIZE, "XEN_DOMCTL_set_address_size", settings::set_address_size),
    op(abi::XEN_DOMCTL_GET_ADDRESS_SIZE, "XEN_DOMCTL_get_address_size", settings::get_address_size),
    no(abi::XEN_DOMCTL_ASSIGN_DEVICE, "XEN_DOMCTL_assign_device", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_BIND_PT_IRQ, "XEN_DOMCTL_bind_pt_irq", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_MEMORY_MAPPING, "XEN_DOMCTL_memory_mapping", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_IOPORT_MAPPING, "XEN_DOMCTL_ioport_mapping", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_SET_EXT_VCPUCONTEXT, "XEN_DOMCTL_set_ext_vcpucontext", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_GET_EXT_VCPUCONTEXT, "XEN_DOMCTL_get_ext_vcpucontext", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_TEST_ASSIGN_DEVICE, "XEN_DOMCTL_test_assign_device", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_SET_TARGET, "XEN_DOMCTL_set_target", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_DEASSIGN_DEVICE, "XEN_DOMCTL_deassign_device", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_UNBIND_PT_IRQ, "XEN_DOMCTL_unbind_pt_irq", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_GET_DEVICE_GROUP, "XEN_DOMCTL_get_device_group", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_DEBUG_OP, "XEN_DOMCTL_debug_op", Errno::EOPNOTSUPP),
    op(abi::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, "XEN_DOMCTL_gethvmcontext_partial", context::get_hvm_context_partial),
    no(abi::XEN_DOMCTL_VM_EVENT_OP, "XEN_DOMCTL_vm_event_op", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_MEM_SHARING_OP, "XEN_DOMCTL_mem_sharing_op", Errno::ENOSYS),
    op(abi::XEN_DOMCTL_GETTSCINFO, "XEN_DOMCTL_gettscinfo", context::get_tsc_info),
    op(abi::XEN_DOMCTL_SETTSCINFO, "XEN_DOMCTL_settscinfo", context::set_tsc_info),
    op(abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, "XEN_DOMCTL_getpageframeinfo3", memory::get_page_frame_info3),
    no(abi::XEN_DOMCTL_SETVCPUEXTSTATE, "XEN_DOMCTL_setvcpuextstate", Errno::EINVAL),
    no(abi::XEN_DOMCTL_GETVCPUEXTSTATE, "XEN_DOMCTL_getvcpuextstate", Errno::EINVAL),
    op(abi::XEN_DOMCTL_SET_ACCESS_REQUIRED, "XEN_DOMCTL_set_access_required", settings::set_access_required),
    no(abi::XEN_DOMCTL_AUDIT_P2M, "XEN_DOMCTL_audit_p2m", Errno::ENOSYS),
    op(abi::XEN_DOMCTL_SET_VIRQ_HANDLER, "XEN_DOMCTL_set_virq_handler", settings::set_virq_handler),
    no(abi::XEN_DOMCTL_SET_BROKEN_PAGE_P2M, "XEN_DOMCTL_set_broken_page_p2m", Errno::EOPNOTSUPP),
    part(abi::XEN_DOMCTL_SETNODEAFFINITY, "XEN_DOMCTL_setnodeaffinity", "one node only", vcpus::set_node_affinity),
    part(abi::XEN_DOMCTL_GETNODEAFFINITY, "XEN_DOMCTL_getnodeaffinity", "one node only", vcpus::get_node_affinity),
    no(abi::XEN_DOMCTL_CACHEFLUSH, "XEN_DOMCTL_cacheflush", Errno::ENOSYS),
    no(abi::XEN_DOMCTL_GET_VCPU_MSRS, "XEN_DOMCTL_get_vcpu_msrs", Errno::EINVAL),
    no(abi::XEN_DOMCTL_SET_VCPU_MSRS, "XEN_DOMCTL_set_vcpu_msrs", Errno::EINVAL),
    no(abi::XEN_DOMCTL_SETVNUMAINFO, "XEN_DOMCTL_setvnumainfo", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_PSR_CMT_OP, "XEN_DOMCTL_psr_cmt_op", Errno::ENODEV),
    no(abi::XEN_DOMCTL_MONITOR_OP, "XEN_DOMCTL_monitor_op", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_PSR_ALLOC, "XEN_DOMCTL_psr_alloc", Errno::ENODEV),
    no(abi::XEN_DOMCTL_SOFT_RESET, "XEN_DOMCTL_soft_reset", Errno::EOPNOTSUPP),
    no(abi::XEN_DOMCTL_VUART_OP, "XEN_DOMCTL_vuart_op", Errno::ENOSYS),
    op(abi::XEN_DOMCTL_GET_CPU_POLICY, "XEN_DOMCTL_get_cpu_policy", context::get_cpu_policy),
    op(abi::XEN_DOMCTL_SET_CPU_POLICY, "XEN_DOMCTL_set_cpu_policy", context::set_cpu_policy),
    no(abi::XEN_DOMCTL_VMTRACE_OP, "XEN_DOMCTL_vmtrace_op", Errno::EINVAL),
    op(abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, "XEN_DOMCTL_get_paging_mempool_size", memory::get_paging_mempool_size),
    op(abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, "XEN_DOMCTL_set_paging_mempool_size", memory::set_paging_mempool_size),
    no(abi::XEN_DOMCTL_GDBSX_GUESTMEMIO, "XEN_DOMCTL_gdbsx_guestmemio", Errno::ENOSYS),
    no(abi::XEN_DOMCTL_GDBSX_PAUSEVCPU, "XEN_DOMCTL_gdbsx_pausevcpu", Errno::ENOSYS),
    no(abi::XEN_DOMCTL_GDBSX_UNPAUSEVCPU, "XEN_DOMCTL_gdbsx_unpausevcpu", Errno::ENOSYS),
    no(abi::XEN_DOMCTL_GDBSX_DOMSTATUS, "XEN_DOMCTL_gdbsx_domstatus", Errno::ENOSYS),
];

pub(super) use log_dirty::Progress;

/// `domctl(op)`.
///
/// # Errors
/// `EPERM` for callers other than the control domain; `EFAULT`; `EACCES` for another version of the interface; `ENOSYS`
/// for an unknown operation; `ESRCH` for an unknown domain; else see there.
pub fn domctl(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let [cmd, version]: [u32; 2] = caller.read(args.handle(0))?;
    if version != abi::XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    // Operations that change nothing need not be alone, but they are short.
    let Some(_alone) = caller.hv.control.enter() else { return Ok(Outcome::Continue(args)) };
    operation(OPERATIONS, cmd, caller, args)
}

/// An address within the caller's structure.
fn at(args: Args, offset: usize) -> GuestVirtAddr {
    GuestVirtAddr(args.get(0).wrapping_add(offset as u64))
}

/// Where the number of the domain is.
const DOMAIN: usize = core::mem::offset_of!(abi::Header, domain);

/// The number of the domain that the caller names.
fn number(caller: &Caller<'_>, args: Args) -> Result<DomainId, Errno> {
    caller.read(at(args, DOMAIN)).map(DomainId)
}

/// The domain that the caller names, for operations without a structure.
///
/// # Errors
/// `EPERM`: not the control domain. `ESRCH`: no such domain (reserved numbers name none here). `EFAULT`.
fn domain(caller: &Caller<'_>, args: Args) -> Result<Arc<Domain>, Errno> {
    caller.privileged()?;
    caller.hv.domains.get(number(caller, args)?)
}

/// The domain that the caller names, and the operation's structure.
///
/// # Errors
/// As [`domain`].
fn request<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<(Arc<Domain>, T), Errno> {
    Ok((domain(caller, args)?, read(caller, args)?))
}

/// Copies the operation's structure in.
fn read<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<T, Errno> {
    caller.read(at(args, size_of::<abi::Header>()))
}

/// Copies the operation's structure out.
fn write<T: IntoBytes + Immutable>(caller: &Caller<'_>, args: Args, value: &T) -> OpResult {
    caller.write(at(args, size_of::<abi::Header>()), value)?;
    SUCCESS
}

/// A vCPU of a domain.
///
/// # Errors
/// `errno` if there is none of that number: operations differ in it.
fn vcpu_of(domain: &Domain, number: u32, errno: Errno) -> Result<&Arc<Vcpu>, Errno> {
    domain.vcpu(VcpuId(number)).ok_or(errno)
}

#[cfg(test)]
mod tests;
