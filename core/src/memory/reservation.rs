//! Getting and giving back memory: reservations, claims, and what is asked about them.

use radon_abi::errno::Errno;
use radon_abi::memory as abi;
use radon_abi::trace::TRC_MEM_DECREASE_RESERVATION;

use super::{MAX_EXTENTS, continue_at, first_extent};
use crate::domain::Domain;
use crate::frames::{Account, Order, Placement};
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::p2m::{Entry, Kind, Unmapped};
use crate::trace::{frames_word, words};
use crate::types::{Gfn, GuestVirtAddr, Mfn, NodeId};

/// What an operation on extents works on. Its result is always a number of extents, so whatever is wrong with the
/// request itself means that no further extent was done.
struct Request {
    extents: GuestVirtAddr,
    count: u64,
    order: Order,
    flags: u32,
    domain: alloc::sync::Arc<Domain>,
}

/// Reads the request. `Ok(None)` means that there is nothing to do.
///
/// # Errors
/// `EPERM`: another domain, and no privilege.
fn request(caller: &Caller<'_>, args: Args) -> Result<Option<Request>, Errno> {
    let Ok(r) = caller.read::<abi::MemoryReservation>(args.handle(1)) else { return Ok(None) };
    // Guests get 2 MiB at a time at most: an extent is not interrupted.
    let largest = if caller.domain.is_hardware() { Order::HUGE } else { Order::LARGE };
    let order = Order::new(r.extent_order).filter(|&o| o <= largest);
    let domain = match caller.target(r.domid) {
        Err(Errno::ESRCH) => return Ok(None),
        other => other?,
    };
    let Some(order) = order.filter(|_| r.nr_extents <= MAX_EXTENTS && first_extent(args) < r.nr_extents) else {
        return Ok(None);
    };
    let extents = GuestVirtAddr(r.extent_start);
    Ok(Some(Request { extents, count: r.nr_extents, order, flags: r.mem_flags, domain }))
}

/// Does extents one by one until one fails or the budget is spent. The result is how many are done.
fn for_extents(
    caller: &Caller<'_>,
    args: Args,
    request: &Request,
    mut each: impl FnMut(Gfn) -> Result<(), Errno>,
) -> OpResult {
    for n in first_extent(args)..request.count {
        if !caller.spend() {
            return Ok(continue_at(args, n));
        }
        let done = caller.read_at(request.extents, n).and_then(|gfn: u64| each(Gfn(gfn)));
        if done.is_err() {
            return Ok(Outcome::Done(n));
        }
        // A large extent costs about as much as its frames, up to a whole budget.
        for _ in 1..request.order.frames().min(512) {
            if !caller.spend() {
                break;
            }
        }
    }
    Ok(Outcome::Done(request.count))
}

/// Accepts for removal the domain's own RAM, populated or not, and what the hardware domain reaches of the machine: it
/// takes that for RAM where the firmware does.
fn own_memory(entry: Entry) -> Result<(), Errno> {
    let removable = entry.kind.own_ram() || matches!(entry.kind, Kind::OnDemand | Kind::Mmio | Kind::Firmware);
    if removable { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `XENMEM_increase_reservation`: would allocate frames without mapping them; a translated domain has no use for that
/// and gets no extents. Returns the number of extents done.
///
/// # Errors
/// `EPERM`.
pub(super) fn increase(caller: &Caller<'_>, args: Args) -> OpResult {
    request(caller, args)?;
    Ok(Outcome::Done(first_extent(args)))
}

/// `XENMEM_decrease_reservation`: gives back own RAM by gfn. Returns the number of extents done, which ends at the first
/// that is not all own RAM. While more frames are to be populated on demand than memory is set aside for them, what is
/// given back is set aside.
///
/// # Errors
/// `EPERM`.
pub(super) fn decrease(caller: &Caller<'_>, args: Args) -> OpResult {
    let Some(request) = request(caller, args)? else { return Ok(Outcome::Done(first_extent(args))) };
    let p2m = &request.domain.p2m;
    let account = caller.hv.frames.account(request.domain.id);
    let mut freed = 0u64;
    let mut batch = p2m.unmapped(caller.hv);
    let result = for_extents(caller, args, &request, |gfn| {
        caller.hv.trace.detail(&*caller.hv.platform, TRC_MEM_DECREASE_RESERVATION, || {
            let [low, high] = words(gfn.0);
            [low, high, frames_word(request.domain.id, request.order)]
        });
        let mut done = 0;
        while done < request.order.frames() {
            let at = gfn.checked_add(done).ok_or(Errno::EINVAL)?;
            let left = request.order.frames().saturating_sub(done);
            let most = Order::new(left.ilog2()).unwrap_or_default();
            let mut populated = false;
            let accept = |entry: Entry| {
                populated = entry.kind.own_ram();
                own_memory(entry)
            };
            let removed = p2m.remove(caller.hv, at, most, accept, &mut batch)?;
            done = done.saturating_add(removed.frames());
            if populated {
                freed = freed.saturating_add(removed.frames());
            }
        }
        Ok(())
    });
    drop(batch);
    if p2m.demand() != 0 || account.reserved() != 0 {
        // If others were faster with what was freed, the domain goes without.
        let _ = p2m.reserve_for_demand(caller.hv, |account| {
            // What others hold still is the domain's. What is set aside already stays so, whatever the limit is now.
            let (had, has) = (account.reserved(), account.pages());
            had.saturating_add(freed.min(account.limit().saturating_sub(has).saturating_sub(had)))
        });
    }
    result
}

/// `XENMEM_populate_physmap`: gives a domain new memory by gfn. Returns the number of extents done; it ends at the first
/// for which there is no memory, or where something is mapped already (single frames replace it). Of another domain the
/// memory may be left to be populated on demand, from what `XENMEM_set_pod_target` set aside.
///
/// # Errors
/// `EPERM`.
pub(super) fn populate(caller: &Caller<'_>, args: Args) -> OpResult {
    let Some(request) = request(caller, args)? else { return Ok(Outcome::Done(first_extent(args))) };
    let Some(placement) = placement(request.flags) else { return Ok(Outcome::Done(first_extent(args))) };
    let domain = &request.domain;
    let on_demand = request.flags & abi::XENMEMF_POPULATE_ON_DEMAND != 0;
    if on_demand && domain.id == caller.domain.id {
        return Ok(Outcome::Done(first_extent(args)));
    }
    let mut batch = domain.p2m.unmapped(caller.hv);
    for_extents(caller, args, &request, |gfn| {
        if on_demand {
            return domain.p2m.add_on_demand(caller.hv, gfn, request.order);
        }
        if domain.p2m.identity() {
            return populate_identity(caller, domain, gfn, request.order, &mut batch);
        }
        let memory = caller.hv.platform.memory();
        let frames = caller.hv.frames.alloc_domain(memory, domain.id, request.order, placement)?;
        domain.p2m.add_ram(caller.hv, gfn, frames, &mut batch)
    })
}

/// Gives an identity-mapped domain the frames that have the numbers asked for, all or none.
fn populate_identity(
    caller: &Caller<'_>,
    domain: &Domain,
    gfn: Gfn,
    order: Order,
    batch: &mut Unmapped<'_>,
) -> Result<(), Errno> {
    let hv = caller.hv;
    for n in 0..order.frames() {
        let result = gfn.checked_add(n).ok_or(Errno::EINVAL).and_then(|at| {
            // In this map RAM is never replaced, so a frame in use stays where it is.
            if hv.frames.owner(Mfn(at.0)) == Some(domain.id) && !hv.frames.is_parked(Mfn(at.0), domain.id) {
                return Err(Errno::EEXIST);
            }
            if domain.p2m.query(hv, at).entry.kind.present() {
                return Err(Errno::EEXIST);
            }
            let frame = hv.frames.alloc_exactly(hv.platform.memory(), domain.id, Mfn(at.0))?;
            domain.p2m.add_ram(hv, at, frame, batch)
        });
        if result.is_err() {
            for undo in (0..n).filter_map(|n| gfn.checked_add(n)) {
                // These were mapped just now; if the guest has changed one in between, that stays.
                let _ = domain.p2m.remove(hv, undo, Order::PAGE, own_memory, batch);
            }
            return result;
        }
    }
    Ok(())
}

/// Where memory should come from; `None` for what cannot be had.
fn placement(flags: u32) -> Option<Placement> {
    let bits = flags & abi::XENMEMF_ADDRESS_BITS;
    if (1..=12).contains(&bits) || flags & abi::XENMEMF_VNODE != 0 {
        return None;
    }
    let node = ((flags >> abi::XENMEMF_NODE_SHIFT) as u8).checked_sub(1).map(NodeId);
    Some(Placement {
        node,
        exact_node: node.is_some() && flags & abi::XENMEMF_EXACT_NODE_REQUEST != 0,
        address_bits: (bits != 0).then_some(bits),
    })
}

/// `XENMEM_maximum_ram_page`: one past the highest frame that can be RAM. Never fails.
pub(super) fn maximum_ram_page(caller: &Caller<'_>, _: Args) -> OpResult {
    Ok(Outcome::Done(caller.hv.frames.end().0))
}

fn about(caller: &Caller<'_>, args: Args) -> Result<alloc::sync::Arc<Domain>, Errno> {
    let request: abi::MemoryDomain = caller.read(args.handle(1))?;
    caller.target(request.domid)
}

/// `XENMEM_current_reservation`: frames that a domain has.
///
/// # Errors
/// `EFAULT`, and as [`Caller::target`].
pub(super) fn current(caller: &Caller<'_>, args: Args) -> OpResult {
    let account = caller.hv.frames.account(about(caller, args)?.id);
    Ok(Outcome::Done(account.pages().saturating_add(account.reserved())))
}

/// `XENMEM_maximum_reservation`: frames that a domain may have.
///
/// # Errors
/// `EFAULT`, and as [`Caller::target`].
pub(super) fn maximum(caller: &Caller<'_>, args: Args) -> OpResult {
    Ok(Outcome::Done(caller.hv.frames.account(about(caller, args)?.id).limit()))
}

/// `XENMEM_maximum_gpfn`: the highest gfn that was ever mapped.
///
/// # Errors
/// `EFAULT`, and as [`Caller::target`].
pub(super) fn maximum_gpfn(caller: &Caller<'_>, args: Args) -> OpResult {
    Ok(Outcome::Done(about(caller, args)?.p2m.max_gfn().0))
}

/// `XENMEM_claim_pages`: promises a domain memory that it has yet to allocate.
///
/// # Errors
/// `EFAULT`. `EINVAL`: fields that must be zero are not, the domain is dying, or see
/// [`crate::frames::FrameAllocator::claim`], as for `ENOMEM`. `ESRCH`. `EPERM`: the caller is not privileged.
pub(super) fn claim(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::MemoryReservation = caller.read(args.handle(1))?;
    if request.extent_start != 0 || request.extent_order != 0 || request.mem_flags != 0 {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(request.domid)?;
    caller.privileged()?;
    if domain.control.is_dying() {
        return Err(Errno::EINVAL);
    }
    caller.hv.frames.claim(domain.id, request.nr_extents)?;
    SUCCESS
}

/// `XENMEM_set_pod_target` and `XENMEM_get_pod_target`: how many frames a domain is to have, those counted that are set aside
/// for population on demand. What is set aside is adapted; once the domain is built, to no more than may be needed. It is
/// not reduced to reach a lower target, since the balloon driver touches what it gives back.
///
/// # Errors
/// `EFAULT`. `ESRCH`. `EPERM`: the caller is not privileged. `EINVAL`: a target above the domain's limit. `ENOMEM`: not
/// enough is free.
pub(super) fn pod_target(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::PodTarget = caller.read(args.handle(1))?;
    let domain = caller.target(request.domid)?;
    caller.privileged()?;
    let hv = caller.hv;
    let account = hv.frames.account(domain.id);
    if args.u32(0) == abi::XENMEM_SET_POD_TARGET {
        if request.target_pages > account.limit() || domain.control.is_dying() {
            return Err(Errno::EINVAL);
        }
        let wanted = |a: &Account| request.target_pages.saturating_sub(a.pages()).max(a.reserved());
        if account.pages() == 0 {
            hv.frames.set_reserve(domain.id, request.target_pages)?;
        } else {
            domain.p2m.reserve_for_demand(hv, wanted)?;
        }
    }
    request.pod_cache_pages = account.reserved();
    request.pod_entries = domain.p2m.demand();
    request.tot_pages = account.pages().saturating_add(request.pod_cache_pages);
    caller.write(args.handle(1), &request)?;
    SUCCESS
}
