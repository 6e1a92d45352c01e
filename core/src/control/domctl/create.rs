//! A domain is made, and given its vCPUs.

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::domctl as abi;
use radon_abi::domctl::{CreateDomain, MaxVcpus};
use radon_abi::errno::Errno;
use radon_abi::trace::TRC_DOM0_DOM_ADD;
use radon_abi::xen::DOMID_FIRST_RESERVED;

use super::{DOMAIN, at, number, read, request};
use crate::domain::{Domain, DomainParts, Role};
use crate::hypercall::{Args, Caller, OpResult, Privilege, SUCCESS};
use crate::hypervisor::Hypervisor;
use crate::p2m::P2m;
use crate::platform::NewDomain;
use crate::types::{DomainId, VcpuId};
use crate::vcpu::Vcpu;

/// Most vCPUs of a domain, as Xen's of an HVM guest.
const VCPUS_MAX: u32 = 128;
const GRANT_VERSION_MAX: u32 = 2;

/// `XEN_DOMCTL_createdomain`: makes a domain, paused, with a number, no memory and no vCPUs. The number is that asked for,
/// or the first free one after that given last; it is written back.
///
/// Work: a search for a number. Errors: `EINVAL`: a configuration that cannot be, PV among them. `EOPNOTSUPP`: one that
/// cannot be here. `EEXIST`: the number is taken. `ENOENT`: no such CPU pool. `EBUSY`: it has no CPUs.
/// `ENOMEM`: no number, or no memory.
pub(super) fn create(caller: &Caller<'_>, args: Args) -> OpResult {
    let privilege = caller.privileged()?;
    let wanted = number(caller, args)?;
    let config: CreateDomain = read(caller, args)?;
    caller.hv.control.reap(caller.hv, &mut || caller.spend());
    let id = create_domain(caller.hv, privilege, wanted, &config)?;
    caller.write(at(args, DOMAIN), &id.0)?;
    SUCCESS
}

/// Makes a domain; see [`create`]. Nothing is left of one that could not be made.
fn create_domain(hv: &Hypervisor, _: Privilege, wanted: DomainId, config: &CreateDomain) -> Result<DomainId, Errno> {
    check(hv, config)?;
    let factory = hv.control.factory()?;
    factory.check(config)?;
    if !hv.frames.has_room() {
        return Err(Errno::ENOMEM);
    }
    let (frames, maptrack) = grant_limits(hv, config)?;
    let id = free_number(hv, wanted)?;
    let NewDomain { table, tag, arch } = factory.new_domain(hv, id, config)?;
    let p2m = P2m::new(id, table, tag, false);
    let shared_info = match hv.frames.alloc_special(hv.platform.memory(), id) {
        Ok(frame) => frame,
        Err(errno) => {
            while p2m.table().free(&hv.frames, u64::MAX) {}
            return Err(errno);
        }
    };
    let domain = Domain::new(DomainParts { id, role: Role::Guest, p2m, shared_info, arch });
    domain.control.begin(config);
    domain.sched.set_pool(config.cpupool_id);
    hv.scheduler.pause_domain(hv, &domain.sched);
    domain.events.set_max_port(config.max_evtchn_port);
    domain.grants.set_limits(frames, maptrack);
    hv.frames.open_account(id);
    hv.domains.insert(domain.clone()).inspect_err(|_| hv.frames.close_account(id))?;
    crate::time::clock::publish_wall_clock(hv, &domain);
    if wanted != id {
        hv.control.last_number.store(id.0, Ordering::Relaxed);
    }
    hv.trace.note(&*hv.platform, TRC_DOM0_DOM_ADD, || [id.0.into()]);
    log::info!("{id} created: {} vCPUs", config.max_vcpus);
    Ok(id)
}

/// Checks what of a configuration does not depend on the architecture.
fn check(hv: &Hypervisor, config: &CreateDomain) -> Result<(), Errno> {
    let has = |flag| config.flags & flag != 0;
    let never = config.flags & !abi::XEN_DOMCTL_CDF_ALL != 0
        || !has(abi::XEN_DOMCTL_CDF_HVM)
        || !has(abi::XEN_DOMCTL_CDF_HAP)
        // Without an IOMMU no devices can be given to it; nor are there counters or trace buffers.
        || has(abi::XEN_DOMCTL_CDF_IOMMU | abi::XEN_DOMCTL_CDF_VPMU | abi::XEN_DOMCTL_CDF_NESTED_VIRT)
        || config.iommu_opts != 0
        || config.vmtrace_size != 0
        || config.grant_opts & !abi::XEN_DOMCTL_GRANT_VERSION_MASK != 0
        || !(1..=GRANT_VERSION_MAX).contains(&config.grant_opts)
        || !(1..=VCPUS_MAX).contains(&config.max_vcpus);
    if never {
        return Err(Errno::EINVAL);
    }
    grant_limits(hv, config)?;
    let cpus = hv.scheduler.pool_cpus(config.cpupool_id).ok_or(Errno::ENOENT)?;
    if cpus.is_empty() { Err(Errno::EBUSY) } else { Ok(()) }
}

/// Frames of grant table and of mappings that the domain may have.
///
/// # Errors
/// `EINVAL`: more than the hypervisor allows.
fn grant_limits(hv: &Hypervisor, config: &CreateDomain) -> Result<(u32, u32), Errno> {
    let limit = |wanted: i32, most: u32| match u32::try_from(wanted) {
        Err(_) => Ok(most),
        Ok(n) if n <= most => Ok(n),
        Ok(_) => Err(Errno::EINVAL),
    };
    let (frames, maptrack) = hv.control.grant_limits();
    Ok((limit(config.max_grant_frames, frames)?, limit(config.max_maptrack_frames, maptrack)?))
}

/// The number asked for, or the first free one after that given last.
fn free_number(hv: &Hypervisor, wanted: DomainId) -> Result<DomainId, Errno> {
    // Frames stay on the account of a domain that is gone until nobody refers to them.
    let free = |id: DomainId| hv.domains.get(id).is_err() && hv.frames.account(id).pages() == 0;
    if wanted.0 != 0 && wanted.0 < DOMID_FIRST_RESERVED {
        return if free(wanted) { Ok(wanted) } else { Err(Errno::EEXIST) };
    }
    let last = hv.control.last_number.load(Ordering::Relaxed);
    let after = last.saturating_add(1)..DOMID_FIRST_RESERVED;
    after.chain(1..=last).map(DomainId).find(|&id| free(id)).ok_or(Errno::ENOMEM)
}

/// `XEN_DOMCTL_max_vcpus`: gives the domain its vCPUs, all of them, in the state after reset and down. Nothing happens if it
/// has them.
///
/// Work: the vCPUs, 128 at most. Errors: `EINVAL`: the caller's own domain, another number than at its creation, or a
/// dying domain. `ENOMEM`; the domain has no vCPUs then.
pub(super) fn max_vcpus(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, MaxVcpus) = request(caller, args)?;
    let config = domain.control.config();
    if domain.id == caller.domain.id || r.max != config.max_vcpus || domain.control.is_dying() {
        return Err(Errno::EINVAL);
    }
    if !domain.vcpus().is_empty() {
        return SUCCESS;
    }
    let hv = caller.hv;
    let factory = hv.control.factory()?;
    let new = |n| -> Result<Arc<Vcpu>, Errno> {
        if !hv.frames.has_room() {
            return Err(Errno::ENOMEM);
        }
        Ok(Vcpu::new(&domain, VcpuId(n), factory.new_vcpu(hv, &domain, VcpuId(n))?))
    };
    let vcpus = (0..r.max).map(new).collect::<Result<Vec<_>, _>>()?;
    for (n, vcpu) in vcpus.iter().enumerate() {
        if let Err(errno) = hv.scheduler.add_vcpu(hv, vcpu) {
            for added in vcpus.iter().take(n) {
                // They are paused and have never run.
                let _ = hv.scheduler.remove_vcpu(hv, added);
            }
            return Err(errno);
        }
    }
    domain.set_vcpus(vcpus);
    factory.vcpus_made(hv, &domain);
    SUCCESS
}
