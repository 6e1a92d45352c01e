//! Another domain, which this one builds and which is a copy of itself: what they do together, what memory costs it, and
//! what making and destroying a domain costs.
//!
//! The copy runs `clone_main`. Both have the page `MAILBOX` of the copy: it does what is ordered there, puts its figures
//! there and says by an event that it is done. One processor is enough, since each sleeps while the other works.

use core::ptr;
use core::sync::atomic::Ordering;

use radon_abi::domctl::{self, CreateDomain, Domctl};
use radon_abi::event_channel::{self, AllocUnbound, BindInterdomain};
use radon_abi::memory::{self, AddToPhysmapBatch, MemoryReservation, PodTarget, RemoveFromPhysmap};
use radon_abi::{hypercall, save, xen};
use radon_guest::hypercall::{call, give_way, map_special, operate};
use radon_guest::{Page, rdtsc};
use zerocopy::{FromZeros, IntoBytes};

use super::hypercall::{memory as free_memory, must};
use super::interrupts::{self, halt_while};
use super::micro::{BATCH, BATCHES, HOLE, PATIENCE, SHARED_INFO, acknowledge, measure, median, rest, take_upcalls};
use super::port::result;
use super::second::send;

/// The command line of the copy.
pub(crate) const WORD: &str = "clone";

/// What the copy's start information points to.
static TEXT: &str = "clone\0";
static START_INFO: Page = Page::new();

/// Of the copy; here only the place of it.
static MAILBOX: Page = Page::new();
/// What the copy is to do, and its port.
const ORDER: usize = 0;
const PORT: usize = 1;
/// Where its figures are.
const FIGURES: usize = 8;
/// Only answer.
const ANSWER: u64 = 0;
/// Touch memory that is populated on demand.
const TOUCH: u64 = 1;

/// Guest frames that are populated on demand one by one, as many as are touched before and while it is measured.
const SMALL: u64 = 0x2000;
const SMALL_COUNT: u64 = BATCH * (BATCHES as u64 + 1);
/// And 2 MiB at a time.
const LARGE: u64 = 0x2800;
const LARGE_COUNT: u64 = BATCHES as u64 + 1;
const ORDER_2M: u32 = 9;
/// Guest frames where memory comes and goes: from 1 GiB on, 1 GiB.
const MOVING: u64 = 0x4_0000;
const EXTENTS: u64 = 512;
/// What is populated page by page, in MiB.
const PAGEWISE_MIB: u64 = 64;
/// How long this domain sleeps before it asks for memory, in nanoseconds: an idle hypervisor has its memory in order then. What
/// comes without a rest before it has to take memory as it was left.
const REST: u64 = 1_000_000_000;
/// The size of a domain that is made only to be destroyed.
const SHORT_LIVED_MIB: u64 = 64;
/// What the hypervisor may keep when a domain is gone, in pages.
const KEPT: u64 = 16;

static LIST: Page = Page::new();

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    fn guest_start();
}

/// Measures everything that needs another domain.
pub(crate) fn run() {
    rest(REST);
    let domain = create(1100);
    let target = SMALL_COUNT + (LARGE_COUNT << ORDER_2M);
    let mut pod = PodTarget { target_pages: target, domid: domain, ..PodTarget::new_zeroed() };
    must("set_pod_target", operate(hypercall::MEMORY_OP, memory::XENMEM_SET_POD_TARGET, &mut pod));
    let on_demand = memory::XENMEMF_POPULATE_ON_DEMAND;
    change(domain, memory::XENMEM_POPULATE_PHYSMAP, SMALL, SMALL_COUNT, 0, on_demand);
    change(domain, memory::XENMEM_POPULATE_PHYSMAP, LARGE, LARGE_COUNT, ORDER_2M, on_demand);
    copy_self(domain);
    start(domain);
    let (local, remote) = connect(domain);
    map_foreign(domain, MAILBOX.gfn());
    HOLE.0[PORT].store(u64::from(remote), Ordering::Relaxed);
    let order = |order: u64| {
        HOLE.0[ORDER].store(order, Ordering::Release);
        let before = interrupts::count();
        send(local);
        halt_while(interrupts::count, before);
        acknowledge(0, local);
    };
    must("unpausedomain", domctl(domctl::XEN_DOMCTL_UNPAUSEDOMAIN, domain, &[]).1);
    // The first order waits until the copy takes events.
    order(ANSWER);
    // There and back; each sleeps meanwhile.
    measure("domain_event_round_trip", || order(ANSWER));
    rest(REST);
    order(TOUCH);
    result("first_touch_4k", HOLE.0[FIGURES].load(Ordering::Acquire));
    result("first_touch_2m", HOLE.0[FIGURES + 1].load(Ordering::Acquire));
    unmap();
    reservations(domain);
    destroy(domain);
    short_lived();
}

/// An operation on a domain; returns the domain's number, which creation sets, and the result.
fn domctl(cmd: u32, domain: u16, payload: &[u8]) -> (u16, i64) {
    let mut request = Domctl::new_zeroed();
    request.header.cmd = cmd;
    request.header.interface_version = domctl::XEN_DOMCTL_INTERFACE_VERSION;
    request.header.domain = domain;
    request.payload[..payload.len()].copy_from_slice(payload);
    let result = call(hypercall::DOMCTL, [ptr::from_mut(&mut request) as u64]);
    (request.header.domain, result)
}

/// A domain with one vCPU that may have so many MiB and has none.
fn create(mib: u64) -> u16 {
    let config = CreateDomain::pvh(1);
    let (domain, result) = domctl(domctl::XEN_DOMCTL_CREATEDOMAIN, 0, config.as_bytes());
    must("createdomain", result);
    let set = |what, cmd, payload: &[u8]| must(what, domctl(cmd, domain, payload).1);
    set("max_vcpus", domctl::XEN_DOMCTL_MAX_VCPUS, &1u32.to_le_bytes());
    // As the toolstack has it: a MiB for each vCPU, and two pages for each MiB.
    let tables = (1 << 20) + mib * 8192;
    set("set_paging_mempool_size", domctl::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, &tables.to_le_bytes());
    set("max_mem", domctl::XEN_DOMCTL_MAX_MEM, &((mib + 1) * 1024).to_le_bytes());
    domain
}

/// Populates or releases `count` extents, at most a page's list of them.
fn change(domain: u16, operation: u32, first: u64, count: u64, order: u32, mem_flags: u32) {
    (0..count).for_each(|n| LIST.0[n as usize].store(first + (n << order), Ordering::Relaxed));
    let mut reservation = MemoryReservation {
        extent_start: LIST.0.as_ptr() as u64,
        nr_extents: count,
        extent_order: order,
        mem_flags,
        domid: domain,
        ..MemoryReservation::new_zeroed()
    };
    let done = operate(hypercall::MEMORY_OP, operation, &mut reservation);
    assert_eq!(done, count as i64, "memory_op {operation} of order {order}");
}

/// Maps a frame of another domain at `HOLE`.
fn map_foreign(domain: u16, frame: u64) {
    let (mut at, mut error) = (HOLE.gfn(), -1i32);
    let mut batch = AddToPhysmapBatch {
        domid: xen::DOMID_SELF,
        space: memory::XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: domain,
        idxs: ptr::from_ref(&frame) as u64,
        gpfns: ptr::from_mut(&mut at) as u64,
        errs: ptr::from_mut(&mut error) as u64,
    };
    must("map foreign", operate(hypercall::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch));
    // SAFETY: the hypervisor may have written it.
    let error = unsafe { ptr::from_ref(&error).read_volatile() };
    assert_eq!(error, 0, "map foreign");
}

/// Takes away what is mapped at `HOLE`.
fn unmap() {
    let mut remove = RemoveFromPhysmap { domid: xen::DOMID_SELF, gpfn: HOLE.gfn(), ..RemoveFromPhysmap::new_zeroed() };
    must("unmap", operate(hypercall::MEMORY_OP, memory::XENMEM_REMOVE_FROM_PHYSMAP, &mut remove));
}

/// Gives the domain a copy of this program's memory, at the same addresses.
fn copy_self(domain: u16) {
    START_INFO.0[3].store(TEXT.as_ptr() as u64, Ordering::Relaxed);
    let first = &raw const image_start as u64 / 4096;
    let end = (&raw const image_end as u64).div_ceil(4096);
    let mut at = first;
    while at < end {
        let count = EXTENTS.min(end - at);
        change(domain, memory::XENMEM_POPULATE_PHYSMAP, at, count, 0, 0);
        at += count;
    }
    for frame in (first..end).filter(|frame| *frame != HOLE.gfn()) {
        map_foreign(domain, frame);
        // SAFETY: a page of this program, every one of which is mapped but HOLE; all are read as words that may change.
        let from = unsafe { &*((frame * 4096) as *const Page) };
        for (to, from) in HOLE.0.iter().zip(&from.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        unmap();
    }
}

/// Has the domain's vCPU begin as the PVH protocol says.
fn start(domain: u16) {
    #[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
    #[repr(C)]
    struct Records {
        header_at: save::Descriptor,
        header: save::Header,
        cpu_at: save::Descriptor,
        cpu: save::Cpu,
        end: save::Descriptor,
    }
    let at = |typecode, size: usize| save::Descriptor { typecode, instance: 0, length: size as u32 };
    const CODE: u32 = 0xc9b;
    const DATA: u32 = 0xc93;
    let records = Records {
        header_at: at(save::HVM_SAVE_CODE_HEADER, size_of::<save::Header>()),
        header: save::Header {
            magic: save::HVM_FILE_MAGIC,
            version: save::HVM_FILE_VERSION,
            changeset: 0,
            cpuid: 0,
            gtsc_khz: 0,
        },
        cpu_at: at(save::HVM_SAVE_CODE_CPU, size_of::<save::Cpu>()),
        cpu: save::Cpu {
            rip: guest_start as *const () as u64,
            rbx: START_INFO.0.as_ptr() as u64,
            rflags: 2,
            cr0: 0x11,
            cs_limit: u32::MAX,
            ds_limit: u32::MAX,
            es_limit: u32::MAX,
            ss_limit: u32::MAX,
            tr_limit: 0x67,
            cs_arbytes: CODE,
            ds_arbytes: DATA,
            es_arbytes: DATA,
            ss_arbytes: DATA,
            tr_arbytes: 0x8b,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..save::Cpu::new_zeroed()
        },
        end: at(save::HVM_SAVE_CODE_END, 0),
    };
    let mut payload = [0; 16];
    payload[..4].copy_from_slice(&(size_of::<Records>() as u32).to_le_bytes());
    payload[8..].copy_from_slice(&(ptr::from_ref(&records) as u64).to_le_bytes());
    must("sethvmcontext", domctl(domctl::XEN_DOMCTL_SETHVMCONTEXT, domain, &payload).1);
}

/// An event channel to the domain: the port here and the one there.
fn connect(domain: u16) -> (u32, u32) {
    let mut unbound = AllocUnbound::new_zeroed();
    unbound.dom = domain;
    unbound.remote_dom = xen::DOMID_SELF;
    let number = hypercall::EVENT_CHANNEL_OP;
    must("alloc_unbound", operate(number, event_channel::EVTCHNOP_ALLOC_UNBOUND, &mut unbound));
    let mut bind = BindInterdomain::new_zeroed();
    bind.remote_dom = domain;
    bind.remote_port = unbound.port;
    must("bind_interdomain", operate(number, event_channel::EVTCHNOP_BIND_INTERDOMAIN, &mut bind));
    // Binding may have notified this side.
    acknowledge(0, bind.local_port);
    (bind.local_port, unbound.port)
}

/// The copy: does what the mailbox orders.
pub(crate) fn clone_main() -> ! {
    must("add_to_physmap", map_special(memory::XENMAPSPACE_SHARED_INFO, 0, &SHARED_INFO));
    let port = MAILBOX.0[PORT].load(Ordering::Acquire) as u32;
    let mut seen = interrupts::count();
    // An event that has come already is taken here.
    take_upcalls();
    loop {
        halt_while(interrupts::count, seen);
        seen = interrupts::count();
        acknowledge(0, port);
        if MAILBOX.0[ORDER].load(Ordering::Acquire) == TOUCH {
            touch();
        }
        send(port);
    }
}

/// Touches memory for the first time, page by page and then 2 MiB by 2 MiB.
fn touch() {
    for (n, (first, count, each, order)) in
        [(SMALL, SMALL_COUNT, BATCH, 0), (LARGE, LARGE_COUNT, 1, ORDER_2M)].into_iter().enumerate()
    {
        let mut costs = [0; BATCHES];
        for batch in 0..count / each {
            let begin = rdtsc();
            for page in batch * each..(batch + 1) * each {
                let at = ((first + (page << order)) * 4096) as *const u64;
                // SAFETY: memory that nothing else uses.
                assert_eq!(unsafe { at.read_volatile() }, 0, "new memory is not clear");
            }
            // The first batch is for what happens only once.
            if let Some(cost) = (batch as usize).checked_sub(1).and_then(|n| costs.get_mut(n)) {
                *cost = (rdtsc() - begin) / each;
            }
        }
        MAILBOX.0[FIGURES + n].store(median(&mut costs), Ordering::Release);
    }
}

/// Memory comes to the domain and is taken away.
fn reservations(domain: u16) {
    const ADD: u32 = memory::XENMEM_POPULATE_PHYSMAP;
    const TAKE: u32 = memory::XENMEM_DECREASE_RESERVATION;
    measure("release_populate_2m", || {
        change(domain, ADD, MOVING, 1, ORDER_2M, 0);
        change(domain, TAKE, MOVING, 1, ORDER_2M, 0);
    });
    // Whole: 1 GiB, 2 MiB at a time.
    let gib = |operation| timed(|| change(domain, operation, MOVING, EXTENTS, ORDER_2M, 0));
    gib(ADD);
    gib(TAKE);
    rest(REST);
    result("populate_1gib", gib(ADD));
    result("release_1gib", gib(TAKE));
    let pagewise = |operation| {
        timed(|| {
            let lists = (PAGEWISE_MIB << 8) / EXTENTS;
            (0..lists).for_each(|n| change(domain, operation, MOVING + n * EXTENTS, EXTENTS, 0, 0));
        })
    };
    pagewise(ADD);
    pagewise(TAKE);
    result("populate_64mib_by_4k", pagewise(ADD));
    result("release_64mib_by_4k", pagewise(TAKE));
}

fn timed(operation: impl FnOnce()) -> u64 {
    let begin = rdtsc();
    operation();
    rdtsc() - begin
}

fn destroy(domain: u16) {
    must("destroydomain", domctl(domctl::XEN_DOMCTL_DESTROYDOMAIN, domain, &[]).1);
}

/// What the hypervisor does when a toolstack makes a guest and destroys it: with the guest's memory, but nothing in it.
fn short_lived() {
    let (mut creations, mut ends) = ([0; BATCHES], [0; BATCHES]);
    for (creation, end) in creations.iter_mut().zip(&mut ends) {
        rest(REST);
        let before = free_memory().free;
        let begin = rdtsc();
        let domain = create(SHORT_LIVED_MIB);
        change(domain, memory::XENMEM_POPULATE_PHYSMAP, 0, SHORT_LIVED_MIB / 2, ORDER_2M, 0);
        *creation = rdtsc() - begin;
        let begin = rdtsc();
        destroy(domain);
        // The last of it may go later.
        while free_memory().free + KEPT < before {
            assert!(rdtsc() - begin < PATIENCE, "memory of a domain is lost");
            must("yield", give_way());
        }
        *end = rdtsc() - begin;
    }
    result("domain_create_64mib", median(&mut creations));
    result("domain_destroy_64mib", median(&mut ends));
}
