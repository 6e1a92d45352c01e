//! `memory_op`: how domains get and give back memory, and what appears where in their physical memory.
//!
//! The command's low six bits name the operation; the bits above hold the first extent of a continued one. An operation
//! that loops spends the caller's budget per entry and continues with the command rewritten. All removals of one call
//! share one [`crate::p2m::Unmapped`], so they cost one TLB flush per 64 pages.
//!
//! Who may: a domain on itself, the control domain on any.
//!
//! For the identity-mapped hardware domain see [`crate::p2m`]: what it gives up is kept for it, and populating a gfn
//! gives it the frame of that number or nothing.
//!
//! Locks: none of its own but that of [`MemoryMap`].

mod map;
mod physmap;
mod reservation;
mod resource;
#[cfg(test)]
mod tests;

use radon_abi::errno::Errno;
use radon_abi::memory as abi;

use crate::hypercall::{Args, Caller, OpResult, Operation, Outcome, no, op, operation, part};
pub use map::MemoryMap;

/// The operations of `memory_op`.
pub static MEMORY_OPS: &[Operation] = &[
    part(
        abi::XENMEM_INCREASE_RESERVATION,
        "increase_reservation",
        "no extents are added: a translated domain could not reach them",
        reservation::increase,
    ),
    op(abi::XENMEM_DECREASE_RESERVATION, "decrease_reservation", reservation::decrease),
    op(abi::XENMEM_MAXIMUM_RAM_PAGE, "maximum_ram_page", reservation::maximum_ram_page),
    op(abi::XENMEM_CURRENT_RESERVATION, "current_reservation", reservation::current),
    op(abi::XENMEM_MAXIMUM_RESERVATION, "maximum_reservation", reservation::maximum),
    no(abi::XENMEM_MACHPHYS_MFN_LIST, "machphys_mfn_list", Errno::ENOSYS),
    part(abi::XENMEM_POPULATE_PHYSMAP, "populate_physmap", "virtual nodes", reservation::populate),
    part(abi::XENMEM_ADD_TO_PHYSMAP, "add_to_physmap", "moving pages in an identity map", physmap::add),
    op(abi::XENMEM_MEMORY_MAP, "memory_map", map::get),
    no(abi::XENMEM_MACHINE_MEMORY_MAP, "machine_memory_map", Errno::ENOSYS),
    no(abi::XENMEM_EXCHANGE, "exchange", Errno::ENOSYS),
    no(abi::XENMEM_MACHPHYS_MAPPING, "machphys_mapping", Errno::ENOSYS),
    op(abi::XENMEM_SET_MEMORY_MAP, "set_memory_map", map::set),
    op(abi::XENMEM_MAXIMUM_GPFN, "maximum_gpfn", reservation::maximum_gpfn),
    op(abi::XENMEM_REMOVE_FROM_PHYSMAP, "remove_from_physmap", physmap::remove),
    part(
        abi::XENMEM_SET_POD_TARGET,
        "set_pod_target",
        "populated pages that are all zero are not taken back when what was set aside is used up",
        reservation::pod_target,
    ),
    op(abi::XENMEM_GET_POD_TARGET, "get_pod_target", reservation::pod_target),
    no(abi::XENMEM_GET_SHARING_FREED_PAGES, "get_sharing_freed_pages", Errno::ENOSYS),
    no(abi::XENMEM_GET_SHARING_SHARED_PAGES, "get_sharing_shared_pages", Errno::ENOSYS),
    no(abi::XENMEM_PAGING_OP, "paging_op", Errno::ENOSYS),
    no(abi::XENMEM_ACCESS_OP, "access_op", Errno::ENOSYS),
    no(abi::XENMEM_SHARING_OP, "sharing_op", Errno::ENOSYS),
    part(abi::XENMEM_ADD_TO_PHYSMAP_BATCH, "add_to_physmap_batch", "foreign frames of DOMID_IO", physmap::add_batch),
    op(abi::XENMEM_CLAIM_PAGES, "claim_pages", reservation::claim),
    no(abi::XENMEM_MACHPHYS_COMPAT_MFN_LIST, "machphys_compat_mfn_list", Errno::ENOSYS),
    no(abi::XENMEM_GET_VNUMAINFO, "get_vnumainfo", Errno::EOPNOTSUPP),
    op(abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP, "reserved_device_memory_map", map::reserved_device_memory),
    part(abi::XENMEM_ACQUIRE_RESOURCE, "acquire_resource", "only grant tables", resource::acquire),
];

/// Whether an operation is continued by extent. All others have nothing above the operation's number.
const fn continued(number: u32) -> bool {
    matches!(
        number,
        abi::XENMEM_INCREASE_RESERVATION
            | abi::XENMEM_DECREASE_RESERVATION
            | abi::XENMEM_POPULATE_PHYSMAP
            | abi::XENMEM_ADD_TO_PHYSMAP
            | abi::XENMEM_ADD_TO_PHYSMAP_BATCH
            | abi::XENMEM_ACQUIRE_RESOURCE
    )
}

/// `memory_op(command, argument)`.
///
/// # Errors
/// `ENOSYS`: no such operation. `EINVAL`: a first extent for an operation that has none. Else the operation's.
pub fn memory_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let number = args.u32(0) & 0x3f;
    if first_extent(args) != 0 && !continued(number) && MEMORY_OPS.iter().any(|o| o.number == number) {
        return Err(Errno::EINVAL);
    }
    operation(MEMORY_OPS, number, caller, args)
}

/// The extent at which an operation starts or goes on.
fn first_extent(args: Args) -> u64 {
    u64::from(args.u32(0) >> abi::MEMOP_EXTENT_SHIFT)
}

/// Extents that a command can count.
const MAX_EXTENTS: u64 = (u32::MAX >> abi::MEMOP_EXTENT_SHIFT) as u64;

/// The same operation, to go on at `extent` (at most [`MAX_EXTENTS`]).
fn continue_at(args: Args, extent: u64) -> Outcome {
    Outcome::Continue(args.with(0, u64::from(args.u32(0) & 0x3f) | extent << abi::MEMOP_EXTENT_SHIFT))
}
