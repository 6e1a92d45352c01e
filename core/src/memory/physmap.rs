//! What appears where in a domain's physical memory: shared information, grant table, own and foreign frames.

use radon_abi::errno::Errno;
use radon_abi::memory as abi;
use radon_abi::xen::{DOMID_SELF, DOMID_XEN};

use super::{continue_at, first_extent};
use crate::domain::Domain;
use crate::frames::Order;
use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::p2m::{Access, Kind, Unmapped};
use crate::types::{DomainId, Gfn, GuestVirtAddr, Mfn};

/// Maps one frame of `space` at `gfn`.
fn add_one(
    caller: &Caller<'_>,
    domain: &Domain,
    space: u32,
    index: u64,
    gfn: Gfn,
    batch: &mut Unmapped<'_>,
) -> Result<(), Errno> {
    let hv = caller.hv;
    let page = match space {
        abi::XENMAPSPACE_SHARED_INFO if index == 0 => {
            hv.frames.get(domain.shared_info, domain.id).ok_or(Errno::EINVAL)?
        }
        abi::XENMAPSPACE_GRANT_TABLE => domain.grants.frame_to_map(hv, domain.id, index)?,
        abi::XENMAPSPACE_GMFN | abi::XENMAPSPACE_GMFN_RANGE => {
            return domain.p2m.move_ram(hv, Gfn(index), gfn, batch);
        }
        _ => return Err(Errno::EINVAL),
    };
    domain.p2m.add_page(hv, gfn, page, Kind::Special, batch)
}

/// Maps a frame of another domain at `gfn` of the hardware domain.
fn add_foreign(
    caller: &Caller<'_>,
    domain: &Domain,
    foreign: u16,
    index: u64,
    gfn: Gfn,
    batch: &mut Unmapped<'_>,
) -> Result<(), Errno> {
    let hv = caller.hv;
    if !domain.is_hardware() {
        return Err(Errno::EPERM);
    }
    if foreign == DOMID_SELF || foreign == domain.id.0 {
        return Err(Errno::EINVAL);
    }
    if foreign == DOMID_XEN {
        // By machine frame number: what the hypervisor shares with the control domain (trace buffers).
        caller.privileged()?;
        let page = hv.frames.get(Mfn(index), DomainId(DOMID_XEN)).ok_or(Errno::EINVAL)?;
        return domain.p2m.add_page(hv, gfn, page, Kind::Foreign, batch);
    }
    let other = hv.domains.get(DomainId(foreign))?;
    caller.privileged()?;
    let page = other.p2m.get_page(hv, Gfn(index), Access::Read).map_err(|_| Errno::EINVAL)?;
    if !page.kind.own_ram() && page.kind != Kind::Special {
        return Err(Errno::EINVAL);
    }
    domain.p2m.add_page(hv, gfn, page.page, Kind::Foreign, batch)
}

/// `XENMEM_add_to_physmap`: maps a frame of some space in a domain; of the caller's own frames also a range.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`. `ENOSYS`: foreign frames are mapped in batches only. `EINVAL`: nothing of that index.
/// `EILSEQ`: a continuation beyond the range. Else as [`crate::p2m::P2m::add_page`].
pub(super) fn add(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::AddToPhysmap = caller.read(args.handle(1))?;
    if request.space == abi::XENMAPSPACE_GMFN_FOREIGN {
        return Err(Errno::ENOSYS);
    }
    let domain = caller.target(request.domid)?;
    let mut batch = domain.p2m.unmapped(caller.hv);
    let first = first_extent(args);
    if request.space != abi::XENMAPSPACE_GMFN_RANGE {
        if first != 0 {
            return Err(Errno::EINVAL);
        }
        add_one(caller, &domain, request.space, request.idx, Gfn(request.gpfn), &mut batch)?;
        return SUCCESS;
    }
    if first > u64::from(request.size) {
        return Err(Errno::EILSEQ);
    }
    for n in first..u64::from(request.size) {
        if !caller.spend() {
            return Ok(continue_at(args, n));
        }
        let index = request.idx.checked_add(n).ok_or(Errno::EINVAL)?;
        let gfn = Gfn(request.gpfn).checked_add(n).ok_or(Errno::EINVAL)?;
        add_one(caller, &domain, request.space, index, gfn, &mut batch)?;
    }
    SUCCESS
}

/// `XENMEM_add_to_physmap_batch`: maps frames one by one, each with an error number of its own.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`. `EACCES`: device memory, which is Arm's. `EILSEQ`: a continuation beyond the end. Entries'
/// errors are in `errs` and do not end the batch.
pub(super) fn add_batch(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::AddToPhysmapBatch = caller.read(args.handle(1))?;
    let domain = caller.target(request.domid)?;
    let first = first_extent(args);
    let size = u64::from(request.size);
    if first > size || (first == size && first != 0) {
        return Err(Errno::EILSEQ);
    }
    let space = u32::from(request.space);
    if space == abi::XENMAPSPACE_DEV_MMIO {
        return Err(Errno::EACCES);
    }
    let mut batch = domain.p2m.unmapped(caller.hv);
    for n in first..size {
        if !caller.spend() {
            return Ok(continue_at(args, n));
        }
        let index: u64 = caller.read_at(GuestVirtAddr(request.idxs), n)?;
        let gfn = Gfn(caller.read_at(GuestVirtAddr(request.gpfns), n)?);
        let result = match space {
            abi::XENMAPSPACE_GMFN_FOREIGN => {
                add_foreign(caller, &domain, request.foreign_domid, index, gfn, &mut batch)
            }
            // Ranges exist in the single operation only.
            abi::XENMAPSPACE_GMFN_RANGE => Err(Errno::EINVAL),
            _ => add_one(caller, &domain, space, index, gfn, &mut batch),
        };
        let error = result.err().map_or(0, |e| e.to_return() as i32);
        caller.write_at(GuestVirtAddr(request.errs), n, &error)?;
    }
    SUCCESS
}

/// `XENMEM_remove_from_physmap`: removes one page. The domain's own RAM is given back with it.
///
/// # Errors
/// `EFAULT`, `ESRCH`, `EPERM`. `ENOENT`: no memory is there, or a grant, which is unmapped by its handle.
pub(super) fn remove(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::RemoveFromPhysmap = caller.read(args.handle(1))?;
    let domain = caller.target(request.domid)?;
    let mut batch = domain.p2m.unmapped(caller.hv);
    let removable = |kind: Kind| kind.own_ram() || matches!(kind, Kind::Special | Kind::Foreign);
    domain.p2m.remove(
        caller.hv,
        Gfn(request.gpfn),
        Order::PAGE,
        |e| if removable(e.kind) { Ok(()) } else { Err(Errno::ENOENT) },
        &mut batch,
    )?;
    SUCCESS
}
