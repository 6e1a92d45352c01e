//! `grant_table_op`: what domains do with grants. Most operations take an array of requests, each with a status of its
//! own, spend the caller's budget per request and continue with the rest of the array.

use alloc::sync::Arc;

use arrayvec::ArrayVec;
use radon_abi::errno::Errno;
use radon_abi::grant_table as abi;
use radon_abi::trace::{TRC_MEM_PAGE_GRANT_MAP, TRC_MEM_PAGE_GRANT_UNMAP};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::handles::Mapping;
use super::table::{Granted, Purpose, Status};
use super::{Part, copy};
use crate::domain::Domain;
use crate::frames::Order;
use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, op, operation, refused};
use crate::hypervisor::Hypervisor;
use crate::p2m::{Entry, Kind, Unmapped};
use crate::types::{DomainId, GrantRef, GuestPhysAddr, GuestVirtAddr};

/// Operations that Xen refuses to translated callers.
const fn no(number: u32, name: &'static str) -> Operation {
    Operation { number, name, coverage: Coverage::Refused(Errno::ENOSYS), handler: refused }
}

/// The operations of `grant_table_op`.
pub static GRANT_TABLE_OPS: &[Operation] = &[
    op(abi::GNTTABOP_MAP_GRANT_REF, "map_grant_ref", map_grant_ref),
    op(abi::GNTTABOP_UNMAP_GRANT_REF, "unmap_grant_ref", unmap_grant_ref),
    op(abi::GNTTABOP_SETUP_TABLE, "setup_table", setup_table),
    no(abi::GNTTABOP_DUMP_TABLE, "dump_table"),
    no(abi::GNTTABOP_TRANSFER, "transfer"),
    op(abi::GNTTABOP_COPY, "copy", copy::copy),
    op(abi::GNTTABOP_QUERY_SIZE, "query_size", query_size),
    no(abi::GNTTABOP_UNMAP_AND_REPLACE, "unmap_and_replace"),
    op(abi::GNTTABOP_SET_VERSION, "set_version", set_version),
    no(abi::GNTTABOP_GET_STATUS_FRAMES, "get_status_frames"),
    op(abi::GNTTABOP_GET_VERSION, "get_version", get_version),
    op(abi::GNTTABOP_SWAP_GRANT_REF, "swap_grant_ref", swap_grant_ref),
    no(abi::GNTTABOP_CACHE_FLUSH, "cache_flush"),
];

/// `grant_table_op(command, array, count)`.
///
/// # Errors
/// `ENOSYS`: no such operation. `EINVAL`: a negative count. Else the operation's.
pub fn grant_table_op(caller: &Caller<'_>, args: Args) -> OpResult {
    if args.u32(2) > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    operation(GRANT_TABLE_OPS, args.u32(0), caller, args)
}

/// Handles each request of the array: copies it in, lets `each` fill in the results, copies it out.
///
/// # Errors
/// `EFAULT`.
pub(super) fn for_requests<T: FromBytes + FromZeros + IntoBytes + Immutable>(
    caller: &Caller<'_>,
    args: Args,
    mut each: impl FnMut(&mut T),
) -> OpResult {
    let (array, count) = (args.handle(1), args.u32(2));
    for n in 0..u64::from(count) {
        if !caller.spend() {
            let done = n.wrapping_mul(size_of::<T>() as u64);
            let left = u64::from(count).saturating_sub(n);
            return Ok(Outcome::Continue(args.with(1, array.0.wrapping_add(done)).with(2, left)));
        }
        let mut request: T = caller.read_at(array, n)?;
        each(&mut request);
        caller.write_at(array, n, &request)?;
    }
    SUCCESS
}

/// The status number of a result.
pub(super) fn number(result: Result<(), Status>) -> i16 {
    result.err().map_or(abi::GNTST_OKAY, |s| s.0)
}

const GENERAL: Status = Status(abi::GNTST_GENERAL_ERROR);

/// `GNTTABOP_map_grant_ref`: maps granted frames into the caller's physical memory.
///
/// # Errors
/// `EFAULT`. Status: `GNTST_bad_domain`, `GNTST_bad_gntref` (also for no kind of mapping), `GNTST_no_space` (handles),
/// `GNTST_bad_page` (the granter names no RAM), `GNTST_general_error` (not granted, a kind of mapping that translated
/// callers cannot have, or no place for it).
fn map_grant_ref(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut batch = caller.domain.p2m.unmapped(caller.hv);
    for_requests(caller, args, |request: &mut abi::MapGrantRef| {
        request.dev_bus_addr = 0;
        request.status = match map_one(caller, request, &mut batch) {
            Ok(handle) => {
                request.handle = handle;
                abi::GNTST_OKAY
            }
            Err(status) => status.0,
        };
    })
}

fn map_one(caller: &Caller<'_>, request: &abi::MapGrantRef, batch: &mut Unmapped<'_>) -> Result<u32, Status> {
    let (hv, domain) = (caller.hv, caller.domain);
    if request.flags & (abi::GNTMAP_DEVICE_MAP | abi::GNTMAP_HOST_MAP) == 0 {
        return Err(Status(abi::GNTST_BAD_GNTREF));
    }
    if request.flags & !abi::GNTMAP_READONLY != abi::GNTMAP_HOST_MAP {
        return Err(GENERAL);
    }
    let write = request.flags & abi::GNTMAP_READONLY == 0;
    let granter = hv.domains.get(DomainId(request.dom)).map_err(|_| Status(abi::GNTST_BAD_DOMAIN))?;
    let handle = domain.grants.handles.lock().reserve(|| hv.frames.has_room()).ok_or(Status(abi::GNTST_NO_SPACE))?;

    hv.trace.note(&*hv.platform, TRC_MEM_PAGE_GRANT_MAP, || [request.dom.into()]);
    let gref = GrantRef(request.gref);
    let gfn = GuestPhysAddr(request.host_addr).gfn();
    let pinned = granter.grants.table.lock().pin(hv, &granter, gref, domain.id, Purpose::Map, write);
    let mapped = pinned.and_then(|granted| {
        let kind = if write { Kind::GrantRw } else { Kind::GrantRo };
        let added = match granted {
            Granted::Frame { page, .. } => domain.p2m.add_page(hv, gfn, page, kind, batch).map_err(|_| GENERAL),
            Granted::Transitive(..) => Err(GENERAL),
        };
        added.inspect_err(|_| granter.grants.table.lock().unpin(hv.platform.memory(), gref, write))
    });
    let mut handles = domain.grants.handles.lock();
    match mapped {
        Ok(()) => handles.fill(handle, Mapping { granter, gref, gfn, write }),
        Err(_) => handles.release(handle),
    }
    mapped.map(|()| handle)
}

/// Mappings on their way out: removed from the p2m, pinned until the flush.
struct Unmapping<'a> {
    hv: &'a Hypervisor,
    domain: &'a Domain,
    batch: Unmapped<'a>,
    done: ArrayVec<(u32, Mapping), 32>,
}

impl<'a> Unmapping<'a> {
    fn new(hv: &'a Hypervisor, domain: &'a Domain) -> Unmapping<'a> {
        Unmapping { hv, domain, batch: domain.p2m.unmapped(hv), done: ArrayVec::new() }
    }

    /// Removes the mapping that a handle names, if `wanted`.
    fn remove(&mut self, handle: u32, wanted: impl Fn(&Mapping) -> bool) -> Result<(), Status> {
        let taken = self.domain.grants.handles.lock().take(handle, wanted);
        let mapping = taken.map_err(|()| Status(abi::GNTST_BAD_HANDLE))?.ok_or(GENERAL)?;
        let grant = |e: Entry| match e.kind {
            Kind::GrantRw | Kind::GrantRo => Ok(()),
            _ => Err(Errno::EINVAL),
        };
        // Nothing but its handle removes a grant's entry, so it is there; and it was written as a single frame, so this
        // needs no memory.
        if let Err(errno) = self.domain.p2m.remove(self.hv, mapping.gfn, Order::PAGE, grant, &mut self.batch) {
            log::error!("{}: grant at {} could not be unmapped: {errno}", self.domain.id, mapping.gfn);
        }
        self.hv.trace.note(&*self.hv.platform, TRC_MEM_PAGE_GRANT_UNMAP, || [mapping.granter.id.0.into()]);
        if self.done.is_full() {
            self.finish();
        }
        // There is room now.
        _ = self.done.try_push((handle, mapping));
        Ok(())
    }

    /// Flushes, then ends the pins and frees the handles.
    fn finish(&mut self) {
        self.batch.flush();
        for (handle, mapping) in self.done.drain(..) {
            let table = &mapping.granter.grants.table;
            table.lock().unpin(self.hv.platform.memory(), mapping.gref, mapping.write);
            self.domain.grants.handles.lock().release(handle);
        }
    }
}

impl Drop for Unmapping<'_> {
    fn drop(&mut self) {
        self.finish();
    }
}

/// `GNTTABOP_unmap_grant_ref`: ends mappings. When it returns, no processor can use them any more.
///
/// # Errors
/// `EFAULT`. Status: `GNTST_bad_handle`, `GNTST_bad_dev_addr` (nothing is mapped for devices), `GNTST_general_error` (the
/// handle's mapping is somewhere else).
fn unmap_grant_ref(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut unmapping = Unmapping::new(caller.hv, caller.domain);
    for_requests(caller, args, |request: &mut abi::UnmapGrantRef| {
        let result = if request.dev_bus_addr != 0 {
            Err(Status(abi::GNTST_BAD_DEV_ADDR))
        } else if request.host_addr == 0 {
            // By the ABI nothing is to be unmapped then; the handle must be good all the same.
            let named = caller.domain.grants.handles.lock().take(request.handle, |_| false);
            named.map(|_| ()).map_err(|()| Status(abi::GNTST_BAD_HANDLE))
        } else {
            let gfn = GuestPhysAddr(request.host_addr).gfn();
            unmapping.remove(request.handle, |m| m.gfn == gfn)
        };
        request.status = number(result);
    })
}

/// Ends all mappings of a domain that will not run again. Returns whether none is left.
pub(super) fn unmap_all(hv: &Hypervisor, domain: &Domain, spend: &mut dyn FnMut() -> bool) -> bool {
    let mut unmapping = Unmapping::new(hv, domain);
    let mut from = 0;
    loop {
        let Some(handle) = domain.grants.handles.lock().next_used(from) else { return true };
        if !spend() {
            return false;
        }
        // Nobody else acts for the domain any more, so the handle still names its mapping.
        let _ = unmapping.remove(handle, |_| true);
        from = handle.saturating_add(1);
    }
}

/// The domain that a table operation names.
fn target(caller: &Caller<'_>, dom: u16) -> Result<Arc<Domain>, Status> {
    caller
        .target(dom)
        .map_err(|e| Status(if e == Errno::EPERM { abi::GNTST_PERMISSION_DENIED } else { abi::GNTST_BAD_DOMAIN }))
}

/// A single request: the count must be 1.
fn single<T: FromBytes + FromZeros + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<T, Errno> {
    if args.u32(2) == 1 { caller.read(args.handle(1)) } else { Err(Errno::EINVAL) }
}

/// `GNTTABOP_setup_table`: makes a table at least so large and tells where its frames are mapped (all ones where they are
/// not, since the caller maps them itself by `XENMEM_add_to_physmap`).
///
/// # Errors
/// `EFAULT`. `EINVAL`: not exactly one request. Status: `GNTST_bad_domain`, `GNTST_permission_denied`,
/// `GNTST_general_error` (too many frames, or no memory).
fn setup_table(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::SetupTable = single(caller, args)?;
    let result = target(caller, request.dom).and_then(|domain| {
        let grown = domain.grants.table.lock().grow(caller.hv, domain.id, request.nr_frames);
        grown.map(|()| domain).map_err(|_| GENERAL)
    });
    let result = match result {
        Err(status) => Err(status),
        Ok(domain) => {
            for n in 0..request.nr_frames {
                // Copying out may touch the caller's map, so not under the table's lock.
                let mfn = domain.grants.table.lock().shared().get(n as usize).copied();
                let gfn = mfn.and_then(|m| caller.hv.frames.gfn(m)).map_or(u64::MAX, |g| g.0);
                caller.write_at(GuestVirtAddr(request.frame_list), u64::from(n), &gfn)?;
            }
            Ok(())
        }
    };
    request.status = number(result);
    caller.write(args.handle(1), &request)?;
    SUCCESS
}

/// `GNTTABOP_query_size`: how many frames a table has (at least one) and may have.
///
/// # Errors
/// `EFAULT`. `EINVAL`: not exactly one request. Status: `GNTST_bad_domain`, `GNTST_permission_denied`,
/// `GNTST_general_error` (no memory for the first frame).
fn query_size(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::QuerySize = single(caller, args)?;
    let result = target(caller, request.dom).and_then(|domain| {
        let mut table = domain.grants.table.lock();
        table.grow(caller.hv, domain.id, 1).map_err(|_| GENERAL)?;
        request.nr_frames = table.frames();
        request.max_nr_frames = table.max_frames(Part::Shared);
        Ok(())
    });
    request.status = number(result);
    caller.write(args.handle(1), &request)?;
    SUCCESS
}

/// `GNTTABOP_set_version`: changes the version of the caller's table.
///
/// # Errors
/// `EFAULT`. Else as [`super::table::Table::set_version`].
fn set_version(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::SetVersion = caller.read(args.handle(1))?;
    let mut batch = caller.domain.p2m.unmapped(caller.hv);
    let mut table = caller.domain.grants.table.lock();
    let result = table.set_version(caller.hv, caller.domain, request.version, &mut batch);
    request.version = table.version_number();
    drop(table);
    drop(batch);
    caller.write(args.handle(1), &request)?;
    result.map(|()| Outcome::Done(0))
}

/// `GNTTABOP_get_version`: the version of a domain's table.
///
/// # Errors
/// `EFAULT`, and as [`Caller::target`].
fn get_version(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::GetVersion = caller.read(args.handle(1))?;
    let domain = caller.target(request.dom)?;
    request.version = domain.grants.table.lock().version_number();
    caller.write(args.handle(1), &request)?;
    SUCCESS
}

/// `GNTTABOP_swap_grant_ref`: exchanges two entries of the caller's table.
///
/// # Errors
/// `EFAULT`. Status: `GNTST_bad_gntref`, `GNTST_eagain` (one is in use).
fn swap_grant_ref(caller: &Caller<'_>, args: Args) -> OpResult {
    let memory = caller.hv.platform.memory();
    for_requests(caller, args, |request: &mut abi::SwapGrantRef| {
        let (a, b) = (GrantRef(request.ref_a), GrantRef(request.ref_b));
        request.status = number(caller.domain.grants.table.lock().swap(memory, a, b));
    })
}
