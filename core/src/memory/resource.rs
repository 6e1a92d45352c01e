//! `XENMEM_acquire_resource`: the toolstack maps frames that the hypervisor made for a domain.

use radon_abi::errno::Errno;
use radon_abi::memory as abi;

use super::{MAX_EXTENTS, continue_at, first_extent};
use crate::domain::Domain;
use crate::frames::PageRef;
use crate::grant::Part;
use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::p2m::Kind;
use crate::types::{Gfn, GuestVirtAddr};

/// A resource that exists: how many frames it can have, and each of them.
fn part(request: &abi::AcquireResource) -> Option<Part> {
    match (request.kind, request.id) {
        (abi::XENMEM_RESOURCE_GRANT_TABLE, abi::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) => Some(Part::Shared),
        (abi::XENMEM_RESOURCE_GRANT_TABLE, abi::XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS) => Some(Part::Status),
        _ => None,
    }
}

fn frame<'a>(caller: &Caller<'a>, domain: &Domain, part: Part, index: u64) -> Result<PageRef<'a>, Errno> {
    domain.grants.frame(caller.hv, domain.id, part, index)
}

/// `XENMEM_acquire_resource`: maps frames of a domain's resource at gfns of the caller, or tells how many there can be.
///
/// # Errors
/// `EACCES`: the caller is not the hardware domain. `EFAULT`. `EINVAL`: no such resource, a frame beyond it, or fields
/// that must be zero are not. `ESRCH`. `EPERM`: its own. `E2BIG`: too many at once. `EIO`: some were mapped.
pub(super) fn acquire(caller: &Caller<'_>, args: Args) -> OpResult {
    if !caller.domain.is_hardware() {
        return Err(Errno::EACCES);
    }
    let mut request: abi::AcquireResource = caller.read(args.handle(1))?;
    let end = request.frame.checked_add(u64::from(request.nr_frames));
    if request.pad != 0 || end.is_none_or(|e| e > u64::from(u32::MAX)) {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(request.domid)?;
    if domain.id == caller.domain.id {
        return Err(Errno::EPERM);
    }
    let part = part(&request).ok_or(Errno::EINVAL)?;
    let first = first_extent(args);
    if request.frame_list == 0 {
        if request.nr_frames != 0 || first != 0 {
            return Err(Errno::EINVAL);
        }
        request.nr_frames = domain.grants.max_frames(part);
        caller.write(args.handle(1), &request)?;
        return SUCCESS;
    }
    let count = u64::from(request.nr_frames);
    if count > MAX_EXTENTS {
        return Err(Errno::E2BIG);
    }
    let mut batch = caller.domain.p2m.unmapped(caller.hv);
    for n in first..count {
        if !caller.spend() {
            return Ok(continue_at(args, n));
        }
        let gfn = caller.read_at(GuestVirtAddr(request.frame_list), n);
        let mapped = gfn.and_then(|gfn| {
            let page = frame(caller, &domain, part, request.frame.saturating_add(n))?;
            caller.domain.p2m.add_page(caller.hv, Gfn(gfn), page, Kind::Foreign, &mut batch)
        });
        mapped.map_err(|e| if n == 0 { e } else { Errno::EIO })?;
    }
    SUCCESS
}
