//! `GNTTABOP_copy`: copies bytes between granted frames and frames of the caller.

use alloc::sync::Arc;

use arrayvec::ArrayVec;
use radon_abi::grant_table as abi;
use radon_abi::xen::DOMID_SELF;

use super::ops::{for_requests, number};
use super::table::{Granted, Purpose, Status};
use crate::domain::Domain;
use crate::frames::PageRef;
use crate::hypercall::{Args, Caller, OpResult};
use crate::p2m::Access;
use crate::types::{DomainId, Gfn, GrantRef, MachineAddr, PAGE_SIZE};

/// One side of a copy: a frame by reference, the part of it that may be used, and what is pinned for it.
struct Side<'a> {
    caller: &'a Caller<'a>,
    page: Option<PageRef<'a>>,
    start: u16,
    len: u16,
    write: bool,
    /// A grant, and the one that it refers to if it is transitive.
    pins: ArrayVec<(Arc<Domain>, GrantRef), 2>,
}

impl Drop for Side<'_> {
    fn drop(&mut self) {
        self.page = None;
        let memory = self.caller.hv.platform.memory();
        for (domain, gref) in self.pins.drain(..) {
            domain.grants.table.lock().unpin(memory, gref, self.write);
        }
    }
}

impl<'a> Side<'a> {
    /// A whole frame of the caller's own.
    fn own(caller: &'a Caller<'a>, ptr: &abi::CopyPtr, write: bool) -> Result<Side<'a>, Status> {
        if ptr.domid != DOMID_SELF {
            return Err(Status(abi::GNTST_PERMISSION_DENIED));
        }
        let access = if write { Access::Write } else { Access::Read };
        let found = caller.domain.p2m.get_page(caller.hv, Gfn(ptr.frame), access);
        let page = found.ok().filter(|p| p.kind.own_ram()).ok_or(Status(abi::GNTST_BAD_PAGE))?;
        let len = PAGE_SIZE as u16;
        Ok(Side { caller, page: Some(page.page), start: 0, len, write, pins: ArrayVec::new() })
    }

    /// What a grant gives to the caller.
    fn granted(caller: &'a Caller<'a>, ptr: &abi::CopyPtr, write: bool) -> Result<Side<'a>, Status> {
        let mut side = Side { caller, page: None, start: 0, len: 0, write, pins: ArrayVec::new() };
        let own = ptr.domid == DOMID_SELF;
        let mut granter = if own { caller.domain.clone() } else { side.domain(DomainId(ptr.domid))? };
        // A reference is 32 bits; the rest of the union is ignored.
        let mut gref = GrantRef(ptr.frame as u32);
        let mut user = caller.domain.id;
        loop {
            let (hv, last) = (caller.hv, side.pins.remaining_capacity() == 1);
            let granted = granter.grants.table.lock().pin(hv, &granter, gref, user, Purpose::Copy, write)?;
            user = granter.id;
            // There is room: the step before the last one is the last that goes on.
            _ = side.pins.try_push((granter, gref));
            match granted {
                Granted::Frame { page, start, len } => {
                    (side.page, side.start, side.len) = (Some(page), start, len);
                    return Ok(side);
                }
                // One step only, and not back to the same table.
                Granted::Transitive(next, next_ref) if !last && next != user => {
                    granter = side.domain(next)?;
                    gref = next_ref;
                }
                Granted::Transitive(..) => return Err(Status(abi::GNTST_GENERAL_ERROR)),
            }
        }
    }

    fn domain(&self, id: DomainId) -> Result<Arc<Domain>, Status> {
        self.caller.hv.domains.get(id).map_err(|_| Status(abi::GNTST_BAD_DOMAIN))
    }

    /// Machine address of `len` bytes at an offset that the grant covers.
    fn address(&self, offset: u16, len: u16) -> Result<MachineAddr, Status> {
        let end = u32::from(offset).saturating_add(u32::from(len));
        let covered = u32::from(self.start).saturating_add(u32::from(self.len));
        let page = self.page.as_ref().filter(|_| offset >= self.start && end <= covered);
        let page = page.ok_or(Status(abi::GNTST_GENERAL_ERROR))?;
        page.mfn().addr().checked_add(u64::from(offset)).ok_or(Status(abi::GNTST_GENERAL_ERROR))
    }
}

/// `GNTTABOP_copy`.
///
/// # Errors
/// `EFAULT`. Status: `GNTST_bad_domain`, `GNTST_permission_denied` (a frame of another domain without a grant),
/// `GNTST_bad_gntref`, `GNTST_bad_page`, `GNTST_bad_copy_arg` (beyond the end of a frame), `GNTST_general_error` (not
/// granted, or beyond what is).
pub(super) fn copy(caller: &Caller<'_>, args: Args) -> OpResult {
    for_requests(caller, args, |request: &mut abi::GrantCopy| {
        request.status = number(copy_one(caller, request));
    })
}

fn copy_one(caller: &Caller<'_>, request: &abi::GrantCopy) -> Result<(), Status> {
    let side = |ptr: &abi::CopyPtr, gref: u16, write: bool| {
        if request.flags & gref != 0 { Side::granted(caller, ptr, write) } else { Side::own(caller, ptr, write) }
    };
    let source = side(&request.source, abi::GNTCOPY_SOURCE_GREF, false)?;
    let dest = side(&request.dest, abi::GNTCOPY_DEST_GREF, true)?;
    for offset in [request.source.offset, request.dest.offset] {
        if u64::from(offset).saturating_add(u64::from(request.len)) > PAGE_SIZE {
            return Err(Status(abi::GNTST_BAD_COPY_ARG));
        }
    }
    let from = source.address(request.source.offset, request.len)?;
    let to = dest.address(request.dest.offset, request.len)?;
    let memory = caller.hv.platform.memory();
    let len = u64::from(request.len);
    if from.0.abs_diff(to.0) >= len {
        memory.copy(to, from, len);
        return Ok(());
    }
    // Within one frame and overlapping: what the bytes come to is unspecified, as with memcpy, but all come from there.
    let mut buffer = [0u8; 256];
    let mut done = 0;
    while done < len {
        let part = len.saturating_sub(done).min(buffer.len() as u64);
        if let Some(bytes) = buffer.get_mut(..part as usize) {
            memory.read(MachineAddr(from.0.wrapping_add(done)), bytes);
            memory.write(MachineAddr(to.0.wrapping_add(done)), bytes);
        }
        done = done.saturating_add(part);
    }
    Ok(())
}
