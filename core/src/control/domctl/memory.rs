//! How much memory a domain may have, what is in it, and which of it was written to.

use radon_abi::domctl as abi;
use radon_abi::domctl::{GetPageFrameInfo3, MaxMem, PagingMempool, ShadowOp};
use radon_abi::errno::Errno;
use zerocopy::IntoBytes;

use super::{log_dirty, request, write};
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::p2m::Kind;
use crate::types::{Gfn, GuestVirtAddr, PAGE_SIZE};

/// Most frames that are described at once.
const FRAMES_MAX: u64 = 1024;
/// Frames whose numbers are copied in and whose types are copied out at once: the caller's tables are walked for each copy.
const CHUNK: usize = 64;
/// What populating a frame costs, which may mean that 2 MiB are zeroed.
const POPULATE_COST: u32 = 64;
/// Table pages in a MiB.
const PAGES_PER_MIB: u64 = (1 << 20) / PAGE_SIZE;

/// `XEN_DOMCTL_max_mem`: how much memory the domain may have. What it has beyond that it keeps.
pub(super) fn max_mem(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, MaxMem) = request(caller, args)?;
    caller.hv.frames.account(domain.id).set_limit(r.max_memkb / (PAGE_SIZE / 1024));
    SUCCESS
}

/// `XEN_DOMCTL_getpageframeinfo3`: whether guest frames are memory that has to be saved. Each gfn is replaced by a type.
/// Frames that are populated on demand are populated: what was no memory when it was saved is none when it is restored.
///
/// Work: 1024 frames at most, continued. Errors: `E2BIG`: more frames. `EFAULT`. `ENOMEM`: the domain has used up what was
/// set aside for it.
pub(super) fn get_page_frame_info3(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, GetPageFrameInfo3) = request(caller, args)?;
    if r.num > FRAMES_MAX {
        return Err(Errno::E2BIG);
    }
    if log_dirty::wait_for_the_last(caller, &domain).is_err() {
        return Ok(Outcome::Continue(args));
    }
    while r.num > 0 {
        let mut chunk = [0_u64; CHUNK];
        let part = chunk.iter_mut().take(r.num as usize);
        let affordable = part.take_while(|_| caller.spend()).count();
        let Some(frames) = chunk.get_mut(..affordable).filter(|f| !f.is_empty()) else {
            write(caller, args, &r)?;
            return Ok(Outcome::Continue(args));
        };
        caller.memory.read(GuestVirtAddr(r.array), frames.as_mut_bytes())?;
        for frame in &mut *frames {
            let mut kind = domain.p2m.query(caller.hv, Gfn(*frame)).entry.kind;
            if kind == Kind::OnDemand {
                domain.p2m.populate(caller.hv, Gfn(*frame))?;
                caller.overdraw(POPULATE_COST);
                kind = domain.p2m.query(caller.hv, Gfn(*frame)).entry.kind;
            }
            let memory = kind.own_ram();
            let kind = if memory { abi::XEN_DOMCTL_PFINFO_NOTAB } else { abi::XEN_DOMCTL_PFINFO_XTAB };
            *frame = u64::from(kind);
        }
        caller.memory.write(GuestVirtAddr(r.array), frames.as_bytes())?;
        r.array = r.array.wrapping_add(size_of_val(frames) as u64);
        r.num = r.num.saturating_sub(affordable as u64);
    }
    SUCCESS
}

/// Table pages that the domain may have, as far as there is a limit.
fn table_pages(domain: &Domain) -> u64 {
    let table = domain.p2m.table();
    if table.page_limit() == u64::MAX { table.pages() } else { table.page_limit() }
}

/// Sets how many table pages the domain may have.
///
/// # Errors
/// `ENOMEM`: it has more.
fn set_table_pages(domain: &Domain, pages: u64) -> Result<(), Errno> {
    if pages < domain.p2m.table().pages() {
        return Err(Errno::ENOMEM);
    }
    domain.p2m.table().set_page_limit(pages);
    Ok(())
}

/// `XEN_DOMCTL_get_paging_mempool_size`: how many bytes of page tables the domain may have.
pub(super) fn get_paging_mempool_size(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, _): (_, PagingMempool) = request(caller, args)?;
    write(caller, args, &PagingMempool { size: table_pages(&domain).saturating_mul(PAGE_SIZE) })
}

/// `XEN_DOMCTL_set_paging_mempool_size`: how many bytes of page tables the domain may have. They are not set aside: table
/// pages come from free memory when they are needed.
///
/// Errors: `EINVAL`: not whole pages. `ENOMEM`: it has more.
pub(super) fn set_paging_mempool_size(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, r): (_, PagingMempool) = request(caller, args)?;
    if r.size % PAGE_SIZE != 0 {
        return Err(Errno::EINVAL);
    }
    set_table_pages(&domain, r.size / PAGE_SIZE)?;
    SUCCESS
}

/// `XEN_DOMCTL_shadow_op`: memory for page tables in MiB, and the log of frames that are written to ([`log_dirty`]).
///
/// Errors: `EINVAL`: the caller's own domain, a dying one, one without vCPUs, or no such operation. `ENOMEM`: it has more
/// page tables.
pub(super) fn shadow_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let (domain, mut r): (_, ShadowOp) = request(caller, args)?;
    if domain.id == caller.domain.id || domain.vcpus().is_empty() || domain.control.is_dying() {
        return Err(Errno::EINVAL);
    }
    match r.op {
        abi::XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION => {
            r.mb = u32::try_from(table_pages(&domain).div_ceil(PAGES_PER_MIB)).unwrap_or(u32::MAX);
        }
        abi::XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION => {
            set_table_pages(&domain, u64::from(r.mb).saturating_mul(PAGES_PER_MIB))?;
        }
        abi::XEN_DOMCTL_SHADOW_OP_ENABLE if r.mode == abi::XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY => {
            return log_dirty::enable(caller, args, &domain, &r);
        }
        abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY => return log_dirty::enable(caller, args, &domain, &r),
        abi::XEN_DOMCTL_SHADOW_OP_CLEAN | abi::XEN_DOMCTL_SHADOW_OP_PEEK => {
            return log_dirty::collect(caller, args, &domain, r);
        }
        abi::XEN_DOMCTL_SHADOW_OP_OFF => return log_dirty::disable(caller, args, &domain, &r),
        _ => return Err(Errno::EINVAL),
    }
    write(caller, args, &r)
}
