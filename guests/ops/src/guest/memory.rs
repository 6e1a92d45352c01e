//! `memory_op`: memory that comes and goes, and what is mapped where.

use core::sync::atomic::Ordering;

use radon_abi::domctl::{self, DomainInfo};
use radon_abi::errno::Errno;
use radon_abi::memory::ReservedDeviceMemoryMap;
use radon_abi::memory::{self as abi, AcquireResource, AddToPhysmap, AddToPhysmapBatch, E820Entry, ForeignMemoryMap};
use radon_abi::memory::{MemoryDomain, MemoryMap, MemoryReservation, PodTarget, RemoveFromPhysmap};
use radon_abi::{hvm, hypercall, xen};
use radon_guest::{Page, domain};

use super::HOLE;
use super::calls::{self, Answer, Refused, domain_info, hyper, memory};
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::twin::{MIB, SPARE, SPARES, Twin};

pub(crate) static GROUP: Group = Group {
    number: hypercall::MEMORY_OP,
    checks: &[
        works(abi::XENMEM_INCREASE_RESERVATION, "increase_reservation", increase_reservation),
        works(abi::XENMEM_DECREASE_RESERVATION, "decrease_reservation", decrease_reservation),
        works(abi::XENMEM_MAXIMUM_RAM_PAGE, "maximum_ram_page", maximum_ram_page),
        works(abi::XENMEM_CURRENT_RESERVATION, "current_reservation", current_reservation),
        works(abi::XENMEM_MAXIMUM_RESERVATION, "maximum_reservation", maximum_reservation),
        refused(abi::XENMEM_MACHPHYS_MFN_LIST, "machphys_mfn_list"),
        works(abi::XENMEM_POPULATE_PHYSMAP, "populate_physmap", populate_physmap),
        works(abi::XENMEM_ADD_TO_PHYSMAP, "add_to_physmap", add_to_physmap),
        works(abi::XENMEM_MEMORY_MAP, "memory_map", memory_map),
        refused(abi::XENMEM_MACHINE_MEMORY_MAP, "machine_memory_map"),
        refused(abi::XENMEM_EXCHANGE, "exchange"),
        refused(abi::XENMEM_MACHPHYS_MAPPING, "machphys_mapping"),
        works(abi::XENMEM_SET_MEMORY_MAP, "set_memory_map", set_memory_map),
        works(abi::XENMEM_MAXIMUM_GPFN, "maximum_gpfn", maximum_gpfn),
        works(abi::XENMEM_ADD_TO_PHYSMAP_BATCH, "add_to_physmap_batch", add_to_physmap_batch),
        works(abi::XENMEM_REMOVE_FROM_PHYSMAP, "remove_from_physmap", remove_from_physmap),
        works(abi::XENMEM_SET_POD_TARGET, "set_pod_target", set_pod_target),
        works(abi::XENMEM_GET_POD_TARGET, "get_pod_target", get_pod_target),
        refused(abi::XENMEM_GET_SHARING_FREED_PAGES, "get_sharing_freed_pages"),
        refused(abi::XENMEM_GET_SHARING_SHARED_PAGES, "get_sharing_shared_pages"),
        refused(abi::XENMEM_PAGING_OP, "paging_op"),
        refused(abi::XENMEM_ACCESS_OP, "access_op"),
        refused(abi::XENMEM_SHARING_OP, "sharing_op"),
        works(abi::XENMEM_CLAIM_PAGES, "claim_pages", claim_pages),
        refused(abi::XENMEM_MACHPHYS_COMPAT_MFN_LIST, "machphys_compat_mfn_list"),
        refused(abi::XENMEM_GET_VNUMAINFO, "get_vnumainfo"),
        works(abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP, "reserved_device_memory_map", reserved_device_memory_map),
        works(abi::XENMEM_ACQUIRE_RESOURCE, "acquire_resource", acquire_resource),
    ],
};

/// A frame of the other domain that has no memory at first.
const EMPTY: u64 = SPARE + SPARES;

/// One extent of a domain's.
fn reserve(operation: u32, domain: u16, frame: u64) -> Answer {
    let mut frame = [frame];
    let mut reservation = MemoryReservation {
        extent_start: frame.as_mut_ptr() as u64,
        nr_extents: 1,
        domid: domain,
        ..MemoryReservation::default()
    };
    memory(operation, &mut reservation)
}

/// Pages that a domain has, or may have.
fn count(operation: u32, domain: u16) -> Result<u64, Refused> {
    memory(operation, &mut MemoryDomain { domid: domain })
}

fn increase_reservation(twin: &Twin) -> Outcome {
    let before = count(abi::XENMEM_CURRENT_RESERVATION, twin.domain)?;
    same("extents", reserve(abi::XENMEM_INCREASE_RESERVATION, twin.domain, EMPTY)?, 0)?;
    same("the domain's pages", count(abi::XENMEM_CURRENT_RESERVATION, twin.domain)?, before)
}

/// A page that has no use is given back.
fn decrease_reservation(twin: &Twin) -> Outcome {
    static PAGE: Page = Page::new();
    let before = count(abi::XENMEM_CURRENT_RESERVATION, xen::DOMID_SELF)?;
    same("extents", reserve(abi::XENMEM_DECREASE_RESERVATION, xen::DOMID_SELF, PAGE.gfn())?, 1)?;
    same("the domain's pages", count(abi::XENMEM_CURRENT_RESERVATION, xen::DOMID_SELF)?, before - 1)?;
    same("extents where nothing is", reserve(abi::XENMEM_DECREASE_RESERVATION, twin.domain, EMPTY + 64)?, 0)
}

fn maximum_ram_page(_: &Twin) -> Outcome {
    let last = hyper(hypercall::MEMORY_OP, abi::XENMEM_MAXIMUM_RAM_PAGE, [u64::from(abi::XENMEM_MAXIMUM_RAM_PAGE), 0])?;
    // The machine has 3 GiB, a part of them above 4 GiB.
    holds("it is above 4 GiB, and not far", (1 << 20..1 << 21).contains(&last))
}

/// The same as the toolstack is told.
fn current_reservation(twin: &Twin) -> Outcome {
    let pages = count(abi::XENMEM_CURRENT_RESERVATION, twin.domain)?;
    same("the other domain's pages", pages, domain_info(twin.domain)?.tot_pages)?;
    let none = memory(abi::XENMEM_CURRENT_RESERVATION, &mut MemoryDomain { domid: 77 });
    refuses("a domain that is not there", none, Errno::ESRCH)
}

fn maximum_reservation(twin: &Twin) -> Outcome {
    same("pages that the other domain may have", count(abi::XENMEM_MAXIMUM_RESERVATION, twin.domain)?, (MIB + 1) << 8)
}

/// The other domain gets a page, finds it clear, and keeps what it writes there.
fn populate_physmap(twin: &Twin) -> Outcome {
    let before = domain_info(twin.domain)?.tot_pages;
    same("extents", reserve(abi::XENMEM_POPULATE_PHYSMAP, twin.domain, EMPTY)?, 1)?;
    same("its pages", domain_info(twin.domain)?.tot_pages, before + 1)?;
    same("what is in the new page", twin.read(EMPTY * 4096 + 8)?, 0)?;
    twin.write(EMPTY * 4096 + 8, 5)?;
    same("what was written", twin.read(EMPTY * 4096 + 8)?, 5)
}

fn add(twin: &Twin, space: u32, idx: u64, gpfn: u64) -> Result<Answer, Differs> {
    let mut add = AddToPhysmap { domid: xen::DOMID_SELF, size: 0, space, idx, gpfn };
    twin.operate(hypercall::MEMORY_OP, abi::XENMEM_ADD_TO_PHYSMAP, &mut add)
}

/// The other domain moves a page of its memory.
fn add_to_physmap(twin: &Twin) -> Outcome {
    let (from, to) = (SPARE + 4, SPARE + SPARES + 8);
    twin.write(from * 4096, 77)?;
    add(twin, abi::XENMAPSPACE_GMFN, from, to)??;
    same("what is at the new place", twin.read(to * 4096)?, 77)?;
    // And back, so that nothing is left.
    add(twin, abi::XENMAPSPACE_GMFN, to, from)??;
    same("what is at the old place", twin.read(from * 4096)?, 77)?;
    refuses("a space that is not there", add(twin, 99, 0, to)?, Errno::EINVAL)
}

/// The map of this domain has memory where this program is.
fn memory_map(_: &Twin) -> Outcome {
    let mut entries = [E820Entry::default(); 64];
    let mut map = MemoryMap { nr_entries: 64, _pad: 0, buffer: entries.as_mut_ptr() as u64 };
    memory(abi::XENMEM_MEMORY_MAP, &mut map)?;
    holds("there are entries", (1..=64).contains(&map.nr_entries))?;
    let here = HOLE.gfn() * 4096;
    let covers = |entry: &E820Entry| entry.kind == 1 && (entry.addr..entry.addr + entry.size).contains(&here);
    holds("one has this program", entries.iter().take(map.nr_entries as usize).any(covers))
}

/// The other domain reads the map that this one gives it.
fn set_memory_map(twin: &Twin) -> Outcome {
    let mut entries =
        [E820Entry { addr: 0, size: 4096, kind: 2 }, E820Entry { addr: 4096, size: (MIB << 20) - 4096, kind: 1 }];
    let map = MemoryMap { nr_entries: 2, _pad: 0, buffer: entries.as_mut_ptr() as u64 };
    let mut foreign = ForeignMemoryMap { domid: twin.domain, _pad: [0; 3], map };
    memory(abi::XENMEM_SET_MEMORY_MAP, &mut foreign)?;
    let mut read = MemoryMap { nr_entries: 8, _pad: 0, buffer: Twin::structure() + 64 };
    twin.operate(hypercall::MEMORY_OP, abi::XENMEM_MEMORY_MAP, &mut read)??;
    same("entries", read.nr_entries, 2)?;
    same("the second one's address", twin.read(Twin::structure() + 64 + 20)?, 4096)?;
    same("its length", twin.read(Twin::structure() + 64 + 28)?, (MIB << 20) - 4096)
}

fn maximum_gpfn(twin: &Twin) -> Outcome {
    let last = count(abi::XENMEM_MAXIMUM_GPFN, twin.domain)?;
    holds("it is that of the last memory", (EMPTY..EMPTY + 64).contains(&last))
}

/// Frames of the other domain: one that is there, and one that is not.
fn add_to_physmap_batch(twin: &Twin) -> Outcome {
    let mut frames = [SPARE + 1, EMPTY + 64];
    let mut places = [HOLE.gfn(), HOLE.gfn()];
    let mut errors = [99i32; 2];
    let mut batch = AddToPhysmapBatch {
        domid: xen::DOMID_SELF,
        space: abi::XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 2,
        foreign_domid: twin.domain,
        idxs: frames.as_mut_ptr() as u64,
        gpfns: places.as_mut_ptr() as u64,
        errs: errors.as_mut_ptr() as u64,
    };
    twin.write((SPARE + 1) * 4096, 1234)?;
    memory(abi::XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch)?;
    same("that only the first is mapped", errors.map(|error| error == 0), [true, false])?;
    same("what is there", HOLE.0[0].load(Ordering::Acquire), 1234)?;
    HOLE.0[0].store(4321, Ordering::Release);
    same("what was written to it", twin.read((SPARE + 1) * 4096)?, 4321)
}

/// What the check before mapped is taken away.
fn remove_from_physmap(_: &Twin) -> Outcome {
    let mut remove = RemoveFromPhysmap { domid: xen::DOMID_SELF, gpfn: HOLE.gfn(), ..RemoveFromPhysmap::default() };
    memory(abi::XENMEM_REMOVE_FROM_PHYSMAP, &mut remove)?;
    let mut kind = hvm::HvmGetMemType { domid: 0, mem_type: 99, pad: [0; 2], pfn: HOLE.gfn() };
    calls::operate(hypercall::HVM_OP, hvm::HVMOP_GET_MEM_TYPE, &mut kind)?;
    same("the kind of memory", kind.mem_type, hvm::HVMMEM_MMIO_DM)?;
    let again = memory(abi::XENMEM_REMOVE_FROM_PHYSMAP, &mut remove);
    refuses("the same again", again, Errno::ENOENT)
}

/// Lends a domain that never runs to a check.
pub(crate) fn with_domain(mib: u64, check: impl FnOnce(u16) -> Outcome) -> Outcome {
    let domain = domain::create(mib);
    let outcome = check(domain);
    calls::domctl(domctl::XEN_DOMCTL_DESTROYDOMAIN, domain, &mut [0u8; 8])?;
    outcome
}

/// Pages that are set aside, and frames that get them when they are touched.
const SET_ASIDE: u64 = 32;
const ON_DEMAND: u64 = 64;

/// A domain's memory on demand, as one of the two operations tells it.
fn pod(operation: u32, domain: u16, target_pages: u64) -> Result<PodTarget, Refused> {
    let mut target = PodTarget { target_pages, domid: domain, ..PodTarget::default() };
    memory(operation, &mut target)?;
    Ok(target)
}

fn set_pod_target(_: &Twin) -> Outcome {
    with_domain(4, |domain| {
        // A domain with frames on demand, for which memory is set aside then.
        pod(abi::XENMEM_SET_POD_TARGET, domain, SET_ASIDE)?;
        domain::change(domain, abi::XENMEM_POPULATE_PHYSMAP, 0, ON_DEMAND, 0, abi::XENMEMF_POPULATE_ON_DEMAND);
        let is = pod(abi::XENMEM_GET_POD_TARGET, domain, 0)?;
        same("pages set aside, and frames", (is.pod_cache_pages, is.pod_entries), (SET_ASIDE, ON_DEMAND))?;
        let is = pod(abi::XENMEM_SET_POD_TARGET, domain, SET_ASIDE + 8)?;
        same("pages set aside, and all pages", (is.pod_cache_pages, is.tot_pages), (SET_ASIDE + 8, SET_ASIDE + 8))
    })
}

fn get_pod_target(twin: &Twin) -> Outcome {
    let is = pod(abi::XENMEM_GET_POD_TARGET, twin.domain, 0)?;
    same("pages of a domain without any", (is.pod_cache_pages, is.pod_entries), (0, 0))?;
    same("all its pages", is.tot_pages, domain_info(twin.domain)?.tot_pages)
}

fn claim_pages(_: &Twin) -> Outcome {
    with_domain(4, |domain| {
        let claim = |pages| {
            let mut claim = MemoryReservation { nr_extents: pages, domid: domain, ..MemoryReservation::default() };
            memory(abi::XENMEM_CLAIM_PAGES, &mut claim)
        };
        let promised = || domain_info(domain).map(|info: DomainInfo| info.outstanding_pages);
        claim(600)?;
        same("pages promised", promised()?, 600)?;
        domain::change(domain, abi::XENMEM_POPULATE_PHYSMAP, 0, 100, 0, 0);
        same("pages promised when 100 are there", promised()?, 500)?;
        claim(0)?;
        same("pages promised at the end", promised()?, 0)?;
        refuses("more than it may have", claim(1 << 32), Errno::EINVAL)
    })
}

fn reserved_device_memory_map(_: &Twin) -> Outcome {
    let mut map = ReservedDeviceMemoryMap { flags: abi::XENMEM_RDM_ALL, ..ReservedDeviceMemoryMap::default() };
    memory(abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP, &mut map)?;
    same("entries", map.nr_entries, 0)
}

/// The other domain's grant table, of which it has written an entry.
fn acquire_resource(twin: &Twin) -> Outcome {
    const ENTRY: usize = 30;
    let mut place = [HOLE.gfn()];
    let mut acquire = AcquireResource {
        domid: twin.domain,
        kind: abi::XENMEM_RESOURCE_GRANT_TABLE,
        id: abi::XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED,
        nr_frames: 1,
        frame_list: place.as_mut_ptr() as u64,
        ..AcquireResource::default()
    };
    memory(abi::XENMEM_ACQUIRE_RESOURCE, &mut acquire)?;
    HOLE.0[ENTRY].store(2, Ordering::Release);
    let seen = twin.read(super::grants::entry_at(ENTRY as u32))?;
    HOLE.0[ENTRY].store(0, Ordering::Release);
    domain::unmap(&HOLE);
    same("an entry that was written here", seen, 2)?;
    acquire.frame_list = 0;
    acquire.nr_frames = 0;
    memory(abi::XENMEM_ACQUIRE_RESOURCE, &mut acquire)?;
    same("frames that there may be", acquire.nr_frames, 64)?;
    acquire.kind = 99;
    acquire.nr_frames = 1;
    acquire.frame_list = place.as_mut_ptr() as u64;
    let none = memory(abi::XENMEM_ACQUIRE_RESOURCE, &mut acquire);
    holds("a resource that is not there is refused", none.is_err())
}
