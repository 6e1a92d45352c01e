//! The kernel: the order of checks, what they share, panics.

mod calls;
mod check;
mod domctl;
mod events;
mod grants;
mod hvm;
mod interrupts;
mod memory;
mod physdev;
mod platform;
mod sched;
mod small;
mod sysctl;
mod twin;
mod vcpu;
mod version;

use core::arch::global_asm;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use check::{Group, say};
use radon_abi::memory::{XENMAPSPACE_SHARED_INFO, XENMEM_DECREASE_RESERVATION};
use radon_abi::{hypercall, sched as abi, xen};
use radon_guest::hypercall::{give_way, map_special, must, operate};
use radon_guest::{Clock, Page, command_line, domain};
use twin::Twin;

global_asm!(include_str!("entry.S"), options(att_syntax, raw));

/// What the hypervisor shares; the upcall's entry clears its first byte.
#[unsafe(no_mangle)]
pub(crate) static SHARED_INFO: Page = Page::new();

/// Given back to the hypervisor, so that there is a place to map things at.
pub(crate) static HOLE: Page = Page::new();

/// All checks, in this order: the last ones end what the others need.
static GROUPS: &[&Group] = &[
    &version::GROUP,
    &small::CONSOLE,
    &small::MULTICALL,
    &small::SET_TIMER,
    &small::VM_ASSIST,
    &small::HYPFS,
    &small::XSM,
    &small::XENPMU,
    &vcpu::GROUP,
    &sched::GROUP,
    &events::GROUP,
    &grants::GROUP,
    &memory::GROUP,
    &hvm::GROUP,
    &physdev::GROUP,
    &platform::GROUP,
    &sysctl::GROUP,
    &domctl::GROUP,
    &events::LAST,
    &platform::LAST,
];

/// CPUs of the machine.
pub(crate) const CPUS: u32 = 3;
/// How long something may take that has to happen, in nanoseconds: it is lost then.
pub(crate) const PATIENCE: u64 = 20_000_000_000;

#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u32) -> ! {
    if command_line(start_info).split(' ').any(|word| word == twin::WORD) {
        twin::run();
    }
    interrupts::prepare();
    must("add_to_physmap", map_special(XENMAPSPACE_SHARED_INFO, 0, &SHARED_INFO));
    interrupts::want_upcalls();
    domain::change(xen::DOMID_SELF, XENMEM_DECREASE_RESERVATION, HOLE.gfn(), 1, 0, 0);
    match Twin::build() {
        Ok(twin) => GROUPS.iter().for_each(|group| check::run(group, &twin)),
        Err(differs) => panic!("no other domain: {}", differs.text()),
    }
    end(abi::SHUTDOWN_POWEROFF)
}

/// System time in nanoseconds.
pub(crate) fn now() -> u64 {
    Clock::read(&SHARED_INFO).now()
}

/// Whether an event is pending on a port.
pub(crate) fn is_pending(port: u32) -> bool {
    let word = (xen::shared_info::EVTCHN_PENDING / 8) as usize + port as usize / 64;
    SHARED_INFO.0[word].load(Ordering::Acquire) >> (port % 64) & 1 != 0
}

/// Forgets an event of the first vCPU, so that the next one is seen.
pub(crate) fn forget(port: u32) {
    let base = SHARED_INFO.0.as_ptr() as u64;
    // SAFETY: the page is mapped, and hypervisor and guest share it by atomic operations.
    unsafe {
        AtomicU8::from_ptr((base + xen::vcpu_info::UPCALL_PENDING) as *mut u8).store(0, Ordering::Relaxed);
    }
    SHARED_INFO.0[(xen::vcpu_info::PENDING_SEL / 8) as usize].store(0, Ordering::Relaxed);
    let word = (xen::shared_info::EVTCHN_PENDING / 8) as usize + port as usize / 64;
    SHARED_INFO.0[word].fetch_and(!(1 << (port % 64)), Ordering::Relaxed);
}

unsafe extern "C" {
    static second_stack_top: u8;
}

/// The stack of the second vCPU.
pub(crate) fn second_stack() -> u64 {
    &raw const second_stack_top as u64
}

/// What a further vCPU does: it counts, and gives way.
pub(crate) static COUNTED: AtomicU64 = AtomicU64::new(0);

#[unsafe(no_mangle)]
extern "C" fn further_main(_number: u64) -> ! {
    loop {
        COUNTED.fetch_add(1, Ordering::Relaxed);
        give_way();
    }
}

/// Ends the domain.
fn end(reason: u32) -> ! {
    loop {
        operate(hypercall::SCHED_OP, abi::SCHEDOP_SHUTDOWN, &mut abi::Shutdown { reason });
    }
}

/// An exception, of which nothing is known but what the processor pushed.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(stack: &[u64; 4]) -> ! {
    panic!("exception; the stack is {stack:x?}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say(format_args!("OPERATIONS FAILED: {info}"));
    end(abi::SHUTDOWN_CRASH)
}
