//! `sysctl(op)`: what the control domain asks of the machine as a whole.
//!
//! The structure behind the handle names operation and interface version in its first 8 bytes; the dispatcher copies
//! those, and each operation copies the rest of its own structure, so every byte is copied in once. What an operation
//! returns is written back to where its structure came from.
//!
//! Who may: the control domain only. Loops are over what the machine has (CPUs, domains), never over what a caller says.

mod console;
mod cpu_policy;
mod domains;
mod machine;
pub(super) mod power;
mod scheduler;
mod trace;

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hypercall::{Args, Caller, OpResult, Operation, SUCCESS, no, op, operation, part};
use crate::types::GuestVirtAddr;

pub(in crate::control) use cpu_policy::copy_policy_part;

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    op(abi::XEN_SYSCTL_READCONSOLE, "XEN_SYSCTL_readconsole", console::read_console),
    op(abi::XEN_SYSCTL_TBUF_OP, "XEN_SYSCTL_tbuf_op", trace::tbuf_op),
    op(abi::XEN_SYSCTL_PHYSINFO, "XEN_SYSCTL_physinfo", machine::physinfo),
    op(abi::XEN_SYSCTL_SCHED_ID, "XEN_SYSCTL_sched_id", scheduler::sched_id),
    no(abi::XEN_SYSCTL_PERFC_OP, "XEN_SYSCTL_perfc_op", Errno::ENOSYS),
    op(abi::XEN_SYSCTL_GETDOMAININFOLIST, "XEN_SYSCTL_getdomaininfolist", domains::get_domain_info_list),
    op(abi::XEN_SYSCTL_DEBUG_KEYS, "XEN_SYSCTL_debug_keys", console::debug_keys),
    op(abi::XEN_SYSCTL_GETCPUINFO, "XEN_SYSCTL_getcpuinfo", machine::get_cpu_info),
    part(
        abi::XEN_SYSCTL_AVAILHEAP,
        "XEN_SYSCTL_availheap",
        "all memory counts as of the address width asked for",
        machine::avail_heap,
    ),
    part(
        abi::XEN_SYSCTL_GET_PMSTAT,
        "XEN_SYSCTL_get_pmstat",
        "a CPU runs or halts; frequencies are not managed (ENODEV)",
        power::get_pm_stat,
    ),
    part(
        abi::XEN_SYSCTL_CPU_HOTPLUG,
        "XEN_SYSCTL_cpu_hotplug",
        "all CPUs are online always: EOPNOTSUPP for one that should not be",
        machine::cpu_hotplug,
    ),
    part(
        abi::XEN_SYSCTL_PM_OP,
        "XEN_SYSCTL_pm_op",
        "the deepest idle state only; frequencies are not managed (EINVAL), nor does the scheduler save power",
        power::pm_op,
    ),
    part(
        abi::XEN_SYSCTL_PAGE_OFFLINE_OP,
        "XEN_SYSCTL_page_offline_op",
        "frames can be asked about, but not taken out of use",
        machine::page_offline_op,
    ),
    no(abi::XEN_SYSCTL_LOCKPROF_OP, "XEN_SYSCTL_lockprof_op", Errno::ENOSYS),
    op(abi::XEN_SYSCTL_CPUTOPOINFO, "XEN_SYSCTL_cputopoinfo", machine::cpu_topo_info),
    part(abi::XEN_SYSCTL_NUMAINFO, "XEN_SYSCTL_numainfo", "one node only", machine::numa_info),
    part(
        abi::XEN_SYSCTL_CPUPOOL_OP,
        "XEN_SYSCTL_cpupool_op",
        "more than 16 pools; schedulers other than credit2 and null",
        scheduler::cpupool_op,
    ),
    op(abi::XEN_SYSCTL_SCHEDULER_OP, "XEN_SYSCTL_scheduler_op", scheduler::scheduler_op),
    no(abi::XEN_SYSCTL_COVERAGE_OP, "XEN_SYSCTL_coverage_op", Errno::EOPNOTSUPP),
    no(abi::XEN_SYSCTL_PSR_CMT_OP, "XEN_SYSCTL_psr_cmt_op", Errno::ENODEV),
    op(abi::XEN_SYSCTL_PCITOPOINFO, "XEN_SYSCTL_pcitopoinfo", machine::pci_topo_info),
    no(abi::XEN_SYSCTL_PSR_ALLOC, "XEN_SYSCTL_psr_alloc", Errno::ENODEV),
    op(abi::XEN_SYSCTL_GET_CPU_LEVELLING_CAPS, "XEN_SYSCTL_get_cpu_levelling_caps", cpu_policy::get_cpu_levelling_caps),
    op(abi::XEN_SYSCTL_GET_CPU_FEATURESET, "XEN_SYSCTL_get_cpu_featureset", cpu_policy::get_cpu_featureset),
    no(abi::XEN_SYSCTL_LIVEPATCH_OP, "XEN_SYSCTL_livepatch_op", Errno::ENOSYS),
    op(abi::XEN_SYSCTL_GET_CPU_POLICY, "XEN_SYSCTL_get_cpu_policy", cpu_policy::get_cpu_policy),
];

/// `sysctl(op)`.
///
/// # Errors
/// `EPERM` for callers other than the control domain; `EFAULT`; `EACCES` for another version of the interface; `ENOSYS`
/// for an unknown operation; else see there.
pub fn sysctl(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let header: abi::Header = caller.read(args.handle(0))?;
    if header.interface_version != abi::XEN_SYSCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    operation(OPERATIONS, header.cmd, caller, args)
}

/// Where the operation's structure is.
fn structure(args: Args) -> GuestVirtAddr {
    GuestVirtAddr(args.get(0).wrapping_add(size_of::<abi::Header>() as u64))
}

/// Copies the operation's structure in.
fn read<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<T, Errno> {
    caller.read(structure(args))
}

/// Copies the operation's structure out.
fn write<T: IntoBytes + Immutable>(caller: &Caller<'_>, args: Args, value: &T) -> OpResult {
    caller.write(structure(args), value)?;
    SUCCESS
}

#[cfg(test)]
mod tests;
