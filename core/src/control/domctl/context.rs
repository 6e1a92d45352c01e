//! What the architecture layer keeps of a domain: saved state, CPU policy, time.

use alloc::sync::Arc;
use alloc::vec;

use radon_abi::domctl::{CpuPolicy, CpuidLeaf, HvmContext, HvmContextPartial, HypercallInit, MsrEntry, TscInfo};
use radon_abi::errno::Errno;

use super::{request, write};
use crate::control::sysctl::copy_policy_part;
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::platform::CpuPolicyData;
use crate::types::{Gfn, GuestVirtAddr};

/// Most bytes of saved state that are taken: some KiB for each of 128 vCPUs.
const CONTEXT_MAX: u32 = 4 << 20;
/// Names no leaf and no MSR.
const NOBODY: u32 = u32::MAX;

/// Does something while none of the domain's vCPUs runs. `None`: the caller has to leave its CPU first, and tries again.
fn while_paused<R>(caller: &Caller<'_>, domain: &Arc<Domain>, f: impl FnOnce() -> R) -> Option<R> {
    let hv = caller.hv;
    hv.scheduler.pause_domain_sync(hv, domain, caller.vcpu).ok()?;
    let result = f();
    hv.scheduler.unpause_domain(hv, &domain.sched);
    Some(result)
}

/// A domain other than the caller's, which could not be paused.
fn other<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    caller: &Caller<'_>,
    args: Args,
) -> Result<(Arc<Domain>, T), Errno> {
    let (domain, r) = request(caller, args)?;
    if domain.id == caller.domain.id { Err(Errno::EINVAL) } else { Ok((domain, r)) }
}

/// `XEN_DOMCTL_gethvmcontext`: the state of vCPUs and devices. For a null buffer, the most room that it needs.
///
/// Work: some KiB per vCPU. Errors: `EINVAL`: the caller's own domain. `ENOSPC`: not enough room. `EFAULT`.
pub(super) fn get_hvm_context(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, HvmContext) = other(caller, args)?;
    let size = domain.arch.context_size(&domain);
    if r.buffer == 0 {
        r.size = size;
        return write(caller, args, &r);
    }
    if r.size < size {
        return Err(Errno::ENOSPC);
    }
    let Some(saved) = while_paused(caller, &domain, || domain.arch.save_context(caller.hv, &domain)) else {
        return Ok(Outcome::Continue(args));
    };
    let saved = saved?;
    caller.memory.write(GuestVirtAddr(r.buffer), &saved)?;
    r.size = saved.len() as u32;
    write(caller, args, &r)
}

/// `XEN_DOMCTL_gethvmcontext_partial`: one record of that state. For a null buffer, its size.
///
/// Errors: `EINVAL`: the caller's own domain, a dying one, or no such type. `ENOENT`: no such instance. `ENOBUFS`: not
/// enough room. `EFAULT`.
pub(super) fn get_hvm_context_partial(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, HvmContextPartial) = other(caller, args)?;
    if domain.control.is_dying() {
        return Err(Errno::EINVAL);
    }
    let save = || domain.arch.save_record(caller.hv, &domain, r.kind, r.instance);
    let Some(record) = while_paused(caller, &domain, save) else { return Ok(Outcome::Continue(args)) };
    let record = record?;
    if r.buffer != 0 {
        if r.bufsz < record.len() as u64 {
            return Err(Errno::ENOBUFS);
        }
        caller.memory.write(GuestVirtAddr(r.buffer), &record)?;
    }
    r.bufsz = record.len() as u64;
    write(caller, args, &r)
}

/// `XEN_DOMCTL_sethvmcontext`: sets the state of vCPUs and devices. All vCPUs go down; those with a CPU record come up.
///
/// Work: the buffer, 4 MiB at most. Errors: `EINVAL`: the caller's own domain, a dying one, or a record that cannot be.
/// `ENODATA`: records are missing. `ENOMEM`: too large. `EFAULT`. The domain is as it was then.
pub(super) fn set_hvm_context(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, HvmContext) = other(caller, args)?;
    if domain.control.is_dying() {
        return Err(Errno::EINVAL);
    }
    if r.size > CONTEXT_MAX {
        return Err(Errno::ENOMEM);
    }
    let mut records = vec![0; r.size as usize];
    caller.memory.read(GuestVirtAddr(r.buffer), &mut records)?;
    let load = || domain.arch.load_context(caller.hv, &domain, &records);
    let Some(loaded) = while_paused(caller, &domain, load) else { return Ok(Outcome::Continue(args)) };
    loaded?;
    SUCCESS
}

/// `XEN_DOMCTL_get_cpu_policy`: the domain's CPUID leaves and MSRs. For a null handle, the most there can be.
///
/// Errors: `ENOBUFS`: not enough room. `EFAULT`.
pub(super) fn get_cpu_policy(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, CpuPolicy) = request(caller, args)?;
    let policy = domain.arch.cpu_policy()?;
    let (most_leaves, most_msrs) = caller.hv.control.factory()?.policy_limits();
    r.nr_leaves = copy_policy_part(caller, r.leaves, r.nr_leaves, &policy.leaves, most_leaves)?;
    r.nr_msrs = copy_policy_part(caller, r.msrs, r.nr_msrs, &policy.msrs, most_msrs)?;
    write(caller, args, &r)
}

/// `XEN_DOMCTL_set_cpu_policy`: changes the leaves and MSRs that are given. What cannot be is named in the structure.
///
/// Work: the leaves, limited to as many as a policy can have. Errors: `EINVAL`: the caller's own domain, or a policy that
/// cannot be. `E2BIG`: too many entries. `EEXIST`: the domain has run. `EFAULT`.
pub(super) fn set_cpu_policy(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, CpuPolicy) = other(caller, args)?;
    if domain.control.has_run() {
        return Err(Errno::EEXIST);
    }
    let (most_leaves, most_msrs) = caller.hv.control.factory()?.policy_limits();
    if r.nr_leaves > most_leaves || r.nr_msrs > most_msrs {
        return Err(Errno::E2BIG);
    }
    let leaf = |n| caller.read_at::<CpuidLeaf>(GuestVirtAddr(r.leaves), n);
    let msr = |n| caller.read_at::<MsrEntry>(GuestVirtAddr(r.msrs), n);
    let policy = CpuPolicyData {
        leaves: (0..u64::from(r.nr_leaves)).map(leaf).collect::<Result<_, _>>()?,
        msrs: (0..u64::from(r.nr_msrs)).map(msr).collect::<Result<_, _>>()?,
    };
    let set = || domain.arch.set_cpu_policy(caller.hv, &domain, &policy);
    let Some(result) = while_paused(caller, &domain, set) else { return Ok(Outcome::Continue(args)) };
    let Err(error) = result else { return SUCCESS };
    (r.err_leaf, r.err_subleaf) = error.leaf.unwrap_or((NOBODY, NOBODY));
    r.err_msr = error.msr.unwrap_or(NOBODY);
    write(caller, args, &r)?;
    Err(error.errno)
}

/// `XEN_DOMCTL_gettscinfo`: how its vCPUs see time pass.
///
/// Errors: `EINVAL`: the caller's own domain.
pub(super) fn get_tsc_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, _): (_, TscInfo) = other(caller, args)?;
    let Some(info) = while_paused(caller, &domain, || domain.arch.tsc_info(caller.hv)) else {
        return Ok(Outcome::Continue(args));
    };
    write(caller, args, &info?)
}

/// `XEN_DOMCTL_settscinfo`: sets how its vCPUs see time pass.
///
/// Errors: `EINVAL`: the caller's own domain, or what cannot be. `EOPNOTSUPP`: what cannot be here.
pub(super) fn set_tsc_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, TscInfo) = other(caller, args)?;
    let set = || domain.arch.set_tsc_info(caller.hv, &domain, &r);
    let Some(result) = while_paused(caller, &domain, set) else { return Ok(Outcome::Continue(args)) };
    result?;
    SUCCESS
}

/// `XEN_DOMCTL_hypercall_init`: fills a guest frame with hypercall stubs.
///
/// Errors: `EINVAL`: it is not writable memory.
pub(super) fn hypercall_init(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, HypercallInit) = request(caller, args)?;
    domain.arch.fill_hypercall_page(caller.hv, &domain, Gfn(r.gmfn))?;
    SUCCESS
}
