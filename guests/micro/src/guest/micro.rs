//! What single operations cost, in ticks: the median of some batches, without the loop around the operation.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use radon_abi::event_channel::{self, BindVirq};
use radon_abi::grant_table::{self, CopyPtr, GrantCopy, MapGrantRef, SetupTable, UnmapGrantRef};
use radon_abi::memory::{self, MemoryReservation};
use radon_abi::vcpu::SetSingleshotTimer;
use radon_abi::{hvm, hypercall, vcpu, xen};
use radon_guest::hypercall::{call, give_way, map_special, must, operate};
use radon_guest::{Clock, Page, rdtsc};
use zerocopy::FromZeros;

use super::hypercall::{loopback, set_parameter};
use super::port::{in32, out32, result};
use super::{domain, interrupts, is_asked, second};

/// Operations of a batch, and batches.
pub(crate) const BATCH: u64 = 32;
pub(crate) const BATCHES: usize = 9;
/// How far off a timer is set, in nanoseconds: a short wait, since Radon lets a long one end later by a share of it.
const WAIT: u64 = 100_000;
/// The longest that an interrupt may take: then it is lost.
pub(crate) const PATIENCE: u64 = 1_000_000_000;

const APIC_BASE: u32 = 0x1b;
const X2APIC_TASK_PRIORITY: u32 = 0x808;
const X2APIC_SPURIOUS: u32 = 0x80f;
pub(crate) const X2APIC_COMMAND: u32 = 0x830;
/// PCI's configuration address, which hypervisors keep to themselves.
const PCI_ADDRESS: u16 = 0xcf8;
/// The local APIC's version register, while it is reached through memory.
const APIC_VERSION: *const u32 = 0xfee0_0030 as *const u32;
/// The first grant reference that is free for use.
const REFERENCE: u32 = grant_table::GNTTAB_NR_RESERVED_ENTRIES;

/// The upcall's entry clears its first byte, this vCPU's `evtchn_upcall_pending`: while that is set, Xen interrupts again.
#[unsafe(no_mangle)]
pub(crate) static SHARED_INFO: Page = Page::new();
static GRANT_TABLE: Page = Page::new();
static SOURCE: Page = Page::new();
static TARGET: Page = Page::new();
/// Given back to the hypervisor, so that its address is free to map things at.
pub(crate) static HOLE: Page = Page::new();

/// Measures everything.
pub(crate) fn run() {
    exits();
    // While the local APIC is in memory: reading a register is a nested fault and an instruction to emulate.
    // SAFETY: a device register that is there until x2APIC mode is entered.
    measure("mmio_read", || _ = black_box(unsafe { APIC_VERSION.read_volatile() }));
    must("add_to_physmap", map_special(memory::XENMAPSPACE_SHARED_INFO, 0, &SHARED_INFO));
    take_upcalls();
    local_apic();
    events();
    timers();
    reservations();
    grants();
    second::run();
    domain::run();
}

/// Lets upcalls and other interrupts come to the first CPU, which this is.
pub(crate) fn take_upcalls() {
    set_parameter(
        hvm::HVM_PARAM_CALLBACK_IRQ,
        hvm::HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | u64::from(interrupts::UPCALL),
    );
    interrupts::enable();
}

/// Runs `operation` in batches and prints what one costs. With the words `repeat=` and its name on the command line, runs it
/// for ever instead, for someone who watches.
pub(crate) fn measure(name: &str, mut operation: impl FnMut()) {
    if is_asked("repeat=", name) {
        result("repeats", 1);
        loop {
            operation();
        }
    }
    let overhead = batch(&mut || _ = black_box(0));
    batch(&mut operation);
    let mut costs = [0; BATCHES];
    costs.iter_mut().for_each(|cost| *cost = batch(&mut operation));
    result(name, median(&mut costs).saturating_sub(overhead) / BATCH);
}

#[inline(always)]
fn batch(operation: &mut impl FnMut()) -> u64 {
    let start = rdtsc();
    (0..BATCH).for_each(|_| operation());
    rdtsc() - start
}

pub(crate) fn median(values: &mut [u64; BATCHES]) -> u64 {
    // Few values: the library's sort would be most of this program.
    for end in 1..BATCHES {
        (1..=end).rev().for_each(|n| {
            if values[n] < values[n - 1] {
                values.swap(n, n - 1);
            }
        });
    }
    values[BATCHES / 2]
}

fn rdmsr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the named registers exist on every virtual CPU with a local APIC, and reading has no side effect.
    unsafe { asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

pub(crate) fn wrmsr(msr: u32, value: u64) {
    // SAFETY: the registers written are the local APIC's, which this program owns.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, preserves_flags));
    }
}

/// Instructions that leave guest mode, and the shortest hypercall.
fn exits() {
    measure("null_hypercall", || _ = must("xen_version", call(hypercall::XEN_VERSION, [0; 2])));
    measure("cpuid", || _ = black_box(__cpuid(1)));
    measure("rdmsr_apic_base", || _ = black_box(rdmsr(APIC_BASE)));
    let base = rdmsr(APIC_BASE);
    measure("wrmsr_apic_base", || wrmsr(APIC_BASE, base));
    measure("port_read", || _ = black_box(in32(PCI_ADDRESS)));
    measure("port_write", || out32(PCI_ADDRESS, 0));
    measure("yield", || {
        must("yield", give_way());
    });
}

/// Waits until there have been more interrupts than `before`.
#[inline(always)]
fn wait(before: u64) {
    // What is measured needs no second look.
    if interrupts::count() != before {
        return;
    }
    let start = rdtsc();
    while interrupts::count() == before {
        assert!(rdtsc() - start < PATIENCE, "an interrupt was lost");
    }
}

/// Turns this CPU's local APIC on, in x2APIC mode.
pub(crate) fn enable_x2apic() {
    wrmsr(APIC_BASE, rdmsr(APIC_BASE) | 0xc00);
    wrmsr(X2APIC_SPURIOUS, 0x1ff);
}

/// Interrupts of the local APIC in x2APIC mode.
fn local_apic() {
    enable_x2apic();
    measure("wrmsr_x2apic", || wrmsr(X2APIC_TASK_PRIORITY, 0));
    // From the command to the handler's end, the end-of-interrupt included.
    measure("self_ipi", || {
        let before = interrupts::count();
        wrmsr(X2APIC_COMMAND, 1 << 18 | u64::from(interrupts::APIC));
        wait(before);
    });
}

/// Forgets an event of this vCPU, so that the next one on this port causes an upcall again.
pub(crate) fn acknowledge(vcpu: u64, port: u32) {
    let info = vcpu * xen::vcpu_info::SIZE;
    let base = SHARED_INFO.0.as_ptr() as u64 + info;
    // SAFETY: the page is mapped, and hypervisor and guest share it by atomic operations.
    unsafe {
        AtomicU8::from_ptr((base + xen::vcpu_info::UPCALL_PENDING) as *mut u8).store(0, Ordering::Relaxed);
    }
    SHARED_INFO.0[((info + xen::vcpu_info::PENDING_SEL) / 8) as usize].store(0, Ordering::Relaxed);
    let word = (xen::shared_info::EVTCHN_PENDING / 8) as usize + port as usize / 64;
    SHARED_INFO.0[word].fetch_and(!(1 << (port % 64)), Ordering::Relaxed);
}

/// Event channels.
fn events() {
    let (local, remote) = loopback();
    // Binding may have notified the port that was bound.
    acknowledge(0, local);
    acknowledge(0, remote);
    let send = || {
        let mut send = event_channel::OnePort { port: local };
        must("send", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_SEND, &mut send));
    };
    // With the upcall.
    measure("event_to_self", || {
        let before = interrupts::count();
        send();
        wait(before);
        acknowledge(0, remote);
    });
    let mask = (xen::shared_info::EVTCHN_MASK / 8) as usize + remote as usize / 64;
    SHARED_INFO.0[mask].fetch_or(1 << (remote % 64), Ordering::Relaxed);
    measure("event_masked", || {
        send();
        acknowledge(0, remote);
    });
}

/// The port of the timer.
static TIMER: AtomicU32 = AtomicU32::new(0);

fn set(at: u64) {
    let mut timer = SetSingleshotTimer { timeout_abs_ns: at, ..SetSingleshotTimer::new_zeroed() };
    let arguments = [u64::from(vcpu::VCPUOP_SET_SINGLESHOT_TIMER), 0, &raw mut timer as u64];
    must("set_singleshot_timer", call(hypercall::VCPU_OP, arguments));
}

/// Sleeps for so many nanoseconds. A hypervisor may tidy up meanwhile.
pub(crate) fn rest(time: u64) {
    let before = interrupts::count();
    set(Clock::read(&SHARED_INFO).now() + time);
    interrupts::halt_while(interrupts::count, before);
    acknowledge(0, TIMER.load(Ordering::Relaxed));
}

/// The singleshot timer.
fn timers() {
    let mut bind = BindVirq { virq: xen::VIRQ_TIMER, vcpu: 0, port: 0 };
    must("bind_virq", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_BIND_VIRQ, &mut bind));
    TIMER.store(bind.port, Ordering::Relaxed);
    // What an idle hypervisor does for the first time is over then.
    rest(PATIENCE);
    let far = Clock::read(&SHARED_INFO).now() + 10_000_000_000;
    measure("timer_set", || set(far));
    // From the deadline to the handler: with the CPU at work, and out of HLT.
    for (name, idle) in [("timer_fire", false), ("timer_wake", true)] {
        let mut late = [0; BATCHES];
        for late in &mut late {
            let clock = Clock::read(&SHARED_INFO);
            let at = clock.now() + WAIT;
            let before = interrupts::count();
            set(at);
            while interrupts::count() == before {
                if idle {
                    interrupts::halt();
                }
            }
            *late = interrupts::last().saturating_sub(clock.tsc_at(at));
            acknowledge(0, bind.port);
        }
        result(name, median(&mut late));
    }
}

/// Gives a page back and gets a new one.
fn reservations() {
    let mut gfn = HOLE.gfn();
    let mut change = |operation| {
        let mut reservation = MemoryReservation {
            extent_start: &raw mut gfn as u64,
            nr_extents: 1,
            domid: xen::DOMID_SELF,
            ..MemoryReservation::new_zeroed()
        };
        assert_eq!(operate(hypercall::MEMORY_OP, operation, &mut reservation), 1, "memory_op {operation}");
    };
    measure("release_populate", || {
        change(memory::XENMEM_DECREASE_RESERVATION);
        change(memory::XENMEM_POPULATE_PHYSMAP);
    });
    change(memory::XENMEM_DECREASE_RESERVATION);
}

/// Grants to this domain itself.
fn grants() {
    let mut frame = 0u64;
    let mut setup = SetupTable {
        dom: xen::DOMID_SELF,
        nr_frames: 1,
        frame_list: &raw mut frame as u64,
        ..SetupTable::new_zeroed()
    };
    grant_operation(grant_table::GNTTABOP_SETUP_TABLE, core::slice::from_mut(&mut setup));
    assert_eq!(setup.status, grant_table::GNTST_OKAY, "setup_table");
    must("add_to_physmap", map_special(memory::XENMAPSPACE_GRANT_TABLE, 0, &GRANT_TABLE));
    // An entry is flags, domain 0 and frame.
    let entry = u64::from(grant_table::GTF_PERMIT_ACCESS) | SOURCE.gfn() << 32;
    GRANT_TABLE.0[REFERENCE as usize].store(entry, Ordering::Release);

    let place = |frame| CopyPtr { frame, domid: xen::DOMID_SELF, ..CopyPtr::new_zeroed() };
    let copy = GrantCopy {
        source: place(u64::from(REFERENCE)),
        dest: place(TARGET.gfn()),
        len: 4096,
        flags: grant_table::GNTCOPY_SOURCE_GREF,
        ..GrantCopy::new_zeroed()
    };
    let mut copies = [copy; 64];
    measure("grant_copy", || grant_operation(grant_table::GNTTABOP_COPY, &mut copies[..1]));
    measure("grant_copy_64", || grant_operation(grant_table::GNTTABOP_COPY, &mut copies));
    assert!(copies.iter().all(|copy| copy.status == grant_table::GNTST_OKAY), "grant copy");
    let map = || {
        let mut map = MapGrantRef {
            host_addr: HOLE.gfn() * 4096,
            flags: grant_table::GNTMAP_HOST_MAP,
            gref: REFERENCE,
            ..MapGrantRef::new_zeroed()
        };
        grant_operation(grant_table::GNTTABOP_MAP_GRANT_REF, core::slice::from_mut(&mut map));
        map
    };
    let unmap = |map: MapGrantRef| {
        assert_eq!(map.status, grant_table::GNTST_OKAY, "map_grant_ref");
        let mut unmap = UnmapGrantRef { host_addr: map.host_addr, handle: map.handle, ..UnmapGrantRef::new_zeroed() };
        grant_operation(grant_table::GNTTABOP_UNMAP_GRANT_REF, core::slice::from_mut(&mut unmap));
        assert_eq!(unmap.status, grant_table::GNTST_OKAY, "unmap_grant_ref");
    };
    // Xen lets a domain map a grant of its own once, not again: then there is nothing to measure.
    let works = || {
        let map = map();
        let mapped = map.status == grant_table::GNTST_OKAY;
        if mapped {
            unmap(map);
        }
        mapped
    };
    if works() && works() {
        measure("grant_map_unmap", || unmap(map()));
    }
}

fn grant_operation<T>(operation: u32, operations: &mut [T]) {
    let arguments = [u64::from(operation), operations.as_mut_ptr() as u64, operations.len() as u64];
    must("grant_table_op", call(hypercall::GRANT_TABLE_OP, arguments));
}
