//! Another domain, which this one builds and which is a copy of itself: what they do together, what memory costs it, and
//! what making and destroying a domain costs.
//!
//! The copy runs `clone_main`. Both have the page `MAILBOX` of the copy: it does what is ordered there, puts its figures
//! there and says by an event that it is done. One processor is enough, since each sleeps while the other works.

use core::sync::atomic::Ordering;

use radon_abi::memory::{self, PodTarget};
use radon_abi::{domctl, hypercall};
use radon_guest::domain::{self, EXTENTS, change, domctl as operate_domain};
use radon_guest::hypercall::{give_way, map_special, must, operate};
use radon_guest::{Page, rdtsc};
use zerocopy::FromZeros;

use super::hypercall::memory as free_memory;
use super::interrupts::{self, halt_while};
use super::micro::{BATCH, BATCHES, HOLE, PATIENCE, SHARED_INFO, acknowledge, measure, median, rest, take_upcalls};
use super::port::result;
use super::second::send;

/// The command line of the copy.
pub(crate) const WORD: &str = "clone";

/// The same as the copy gets it.
static TEXT: &str = "clone\0";

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
/// What is populated page by page, in MiB.
const PAGEWISE_MIB: u64 = 64;
/// How long this domain sleeps before it asks for memory, in nanoseconds: an idle hypervisor has its memory in order then. What
/// comes without a rest before it has to take memory as it was left.
const REST: u64 = 1_000_000_000;
/// The size of a domain that is made only to be destroyed.
const SHORT_LIVED_MIB: u64 = 64;
/// What the hypervisor may keep when a domain is gone, in pages.
const KEPT: u64 = 16;

/// Measures everything that needs another domain.
pub(crate) fn run() {
    rest(REST);
    let domain = domain::create(1100);
    let target = SMALL_COUNT + (LARGE_COUNT << ORDER_2M);
    let mut pod = PodTarget { target_pages: target, domid: domain, ..PodTarget::new_zeroed() };
    must("set_pod_target", operate(hypercall::MEMORY_OP, memory::XENMEM_SET_POD_TARGET, &mut pod));
    let on_demand = memory::XENMEMF_POPULATE_ON_DEMAND;
    change(domain, memory::XENMEM_POPULATE_PHYSMAP, SMALL, SMALL_COUNT, 0, on_demand);
    change(domain, memory::XENMEM_POPULATE_PHYSMAP, LARGE, LARGE_COUNT, ORDER_2M, on_demand);
    domain::copy_self(domain, TEXT, &HOLE);
    domain::start(domain);
    let (local, remote) = domain::connect(domain);
    acknowledge(0, local);
    domain::map_foreign(domain, MAILBOX.gfn(), &HOLE);
    HOLE.0[PORT].store(u64::from(remote), Ordering::Relaxed);
    let order = |order: u64| {
        HOLE.0[ORDER].store(order, Ordering::Release);
        let before = interrupts::count();
        send(local);
        halt_while(interrupts::count, before);
        acknowledge(0, local);
    };
    must("unpausedomain", operate_domain(domctl::XEN_DOMCTL_UNPAUSEDOMAIN, domain, &[]).1);
    // The first order waits until the copy takes events.
    order(ANSWER);
    // There and back; each sleeps meanwhile.
    measure("domain_event_round_trip", || order(ANSWER));
    rest(REST);
    order(TOUCH);
    result("first_touch_4k", HOLE.0[FIGURES].load(Ordering::Acquire));
    result("first_touch_2m", HOLE.0[FIGURES + 1].load(Ordering::Acquire));
    domain::unmap(&HOLE);
    reservations(domain);
    destroy(domain);
    short_lived();
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
    must("destroydomain", operate_domain(domctl::XEN_DOMCTL_DESTROYDOMAIN, domain, &[]).1);
}

/// What the hypervisor does when a toolstack makes a guest and destroys it: with the guest's memory, but nothing in it.
fn short_lived() {
    let (mut creations, mut ends) = ([0; BATCHES], [0; BATCHES]);
    for (creation, end) in creations.iter_mut().zip(&mut ends) {
        rest(REST);
        let before = free_memory().free;
        let begin = rdtsc();
        let domain = domain::create(SHORT_LIVED_MIB);
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
