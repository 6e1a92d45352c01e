//! What the machine's processors can do, and what guests may have of it.

use radon_abi::errno::Errno;
use radon_abi::sysctl as abi;
use radon_abi::sysctl::{CpuFeatureset, CpuLevellingCaps, CpuPolicy};

use super::{read, write};
use crate::hypercall::{Args, Caller, OpResult};
use crate::platform::PolicySource;
use crate::types::GuestVirtAddr;

/// `XEN_SYSCTL_get_cpu_levelling_caps`: none, since guests' CPUID is answered in software. Never fails.
pub(super) fn get_cpu_levelling_caps(caller: &Caller<'_>, args: Args) -> OpResult {
    write(caller, args, &CpuLevellingCaps { caps: 0 })
}

fn featureset_source(index: u32) -> Result<PolicySource, Errno> {
    match index {
        abi::XEN_SYSCTL_CPU_FEATURESET_RAW => Ok(PolicySource::Raw),
        abi::XEN_SYSCTL_CPU_FEATURESET_HOST => Ok(PolicySource::Host),
        abi::XEN_SYSCTL_CPU_FEATURESET_HVM => Ok(PolicySource::Default),
        abi::XEN_SYSCTL_CPU_FEATURESET_HVM_MAX => Ok(PolicySource::Maximum),
        abi::XEN_SYSCTL_CPU_FEATURESET_PV | abi::XEN_SYSCTL_CPU_FEATURESET_PV_MAX => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

fn policy_source(index: u32) -> Result<PolicySource, Errno> {
    match index {
        abi::XEN_SYSCTL_CPU_POLICY_RAW => Ok(PolicySource::Raw),
        abi::XEN_SYSCTL_CPU_POLICY_HOST => Ok(PolicySource::Host),
        abi::XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => Ok(PolicySource::Default),
        abi::XEN_SYSCTL_CPU_POLICY_HVM_MAX => Ok(PolicySource::Maximum),
        abi::XEN_SYSCTL_CPU_POLICY_PV_DEFAULT | abi::XEN_SYSCTL_CPU_POLICY_PV_MAX => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// `XEN_SYSCTL_get_cpu_featureset`: the words of a featureset, or with a null handle their number.
///
/// Work: some twenty words. Errors: `EINVAL`: no such featureset. `EOPNOTSUPP`: one of PV guests. `ENOBUFS`: not enough
/// room; what fitted was written. `EFAULT`.
pub(super) fn get_cpu_featureset(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: CpuFeatureset = read(caller, args)?;
    let factory = caller.hv.control.factory()?;
    if r.features == 0 {
        r.nr_features = factory.featureset(PolicySource::Host).len() as u32;
        return write(caller, args, &r);
    }
    let words = factory.featureset(featureset_source(r.index)?);
    let fitting = (r.nr_features as usize).min(words.len());
    for (n, word) in (0..).zip(words.iter().take(fitting)) {
        caller.write_at(GuestVirtAddr(r.features), n, word)?;
    }
    r.nr_features = fitting as u32;
    let written = write(caller, args, &r);
    if fitting < words.len() { Err(Errno::ENOBUFS) } else { written }
}

/// `XEN_SYSCTL_get_cpu_policy`: the leaves and MSRs of a policy. For a null handle, the most there can be.
///
/// Work: some hundred leaves. Errors: `EINVAL`: no such policy. `EOPNOTSUPP`: one of PV guests. `ENOBUFS`: not enough
/// room. `EFAULT`.
pub(super) fn get_cpu_policy(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: CpuPolicy = read(caller, args)?;
    if r.rsvd != 0 {
        return Err(Errno::EINVAL);
    }
    let source = policy_source(r.index)?;
    let factory = caller.hv.control.factory()?;
    let policy = factory.policy(source);
    let (most_leaves, most_msrs) = factory.policy_limits();
    r.nr_leaves = copy_policy_part(caller, r.leaves, r.nr_leaves, &policy.leaves, most_leaves)?;
    r.nr_msrs = copy_policy_part(caller, r.msrs, r.nr_msrs, &policy.msrs, most_msrs)?;
    write(caller, args, &r)
}

/// Copies leaves or MSRs out. Returns their number; for a null handle, the most there can be.
///
/// # Errors
/// `ENOBUFS`: not enough room. `EFAULT`.
pub(in crate::control) fn copy_policy_part<T: zerocopy::IntoBytes + zerocopy::Immutable>(
    caller: &Caller<'_>,
    to: u64,
    room: u32,
    entries: &[T],
    most: u32,
) -> Result<u32, Errno> {
    if to == 0 {
        return Ok(most);
    }
    let count = entries.len() as u32;
    if count > room {
        return Err(Errno::ENOBUFS);
    }
    for (n, entry) in (0..).zip(entries) {
        caller.write_at(GuestVirtAddr(to), n, entry)?;
    }
    Ok(count)
}
