//! The second CPU. It shares the machine's only processor with the first one, so what they do together includes that one
//! of them gives way to the other.

use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::{event_channel, hypercall};
use radon_guest::hypercall::{give_way, must, operate};
use radon_guest::start_vcpu;

use super::interrupts::{self, halt_while};
use super::micro::{X2APIC_COMMAND, acknowledge, enable_x2apic, measure, wrmsr};
use super::scale;

/// What the second CPU does when an interrupt wakes it.
static ORDER: AtomicU32 = AtomicU32::new(NOTHING);
const NOTHING: u32 = 0;
/// Interrupt the first CPU.
const ANSWER_IPI: u32 = 1;
/// Send the first CPU an event.
const ANSWER_EVENT: u32 = 2;
/// Yield, again and again, while this is the order.
const YIELD: u32 = 3;

/// Its local APIC's number, one more than that; 0 until it runs.
static APIC_ID: AtomicU64 = AtomicU64::new(0);
/// How often it has yielded.
static YIELDS: AtomicU64 = AtomicU64::new(0);
/// The port that it sends on, and the one that wakes it.
static TO_FIRST: AtomicU32 = AtomicU32::new(0);
static TO_SECOND: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    static second_stack: u8;
}

/// Starts the second CPU and measures what both do together.
pub(crate) fn run() {
    start();
    let wake = || wrmsr(X2APIC_COMMAND, (APIC_ID.load(Ordering::Relaxed) - 1) << 32 | u64::from(interrupts::APIC));
    // There and back; each sleeps meanwhile.
    ORDER.store(ANSWER_IPI, Ordering::Release);
    measure("ipi_round_trip", || {
        let before = interrupts::count();
        wake();
        halt_while(interrupts::count, before);
    });
    let [to_first, to_second] = [0, 1].map(|vcpu| {
        let mut bind = event_channel::BindIpi { vcpu, port: 0 };
        must("bind_ipi", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_BIND_IPI, &mut bind));
        bind.port
    });
    TO_FIRST.store(to_first, Ordering::Relaxed);
    TO_SECOND.store(to_second, Ordering::Relaxed);
    ORDER.store(ANSWER_EVENT, Ordering::Release);
    measure("event_round_trip", || {
        let before = interrupts::count();
        send(to_second);
        halt_while(interrupts::count, before);
        acknowledge(0, to_first);
    });
    // To the other one and back, which is two switches.
    ORDER.store(YIELD, Ordering::Release);
    wake();
    measure("context_switches", || {
        let before = YIELDS.load(Ordering::Relaxed);
        while YIELDS.load(Ordering::Relaxed) == before {
            must("yield", give_way());
        }
    });
    ORDER.store(NOTHING, Ordering::Release);
}

pub(crate) fn send(port: u32) {
    let mut send = event_channel::OnePort { port };
    must("send", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_SEND, &mut send));
}

fn start() {
    must("start_vcpu", start_vcpu(1, stack_of(1)));
    while APIC_ID.load(Ordering::Acquire) == 0 {
        must("yield", give_way());
    }
}

/// The number of this CPU's local APIC.
pub(crate) fn apic_id() -> u64 {
    u64::from(black_box(__cpuid(1)).ebx >> 24)
}

/// Where the stack of a further CPU begins.
pub(crate) fn stack_of(number: u64) -> u64 {
    /// As `entry.S` has them.
    const SIZE: u64 = 16384;
    &raw const second_stack as u64 + (number - 1) * SIZE
}

#[unsafe(no_mangle)]
extern "C" fn further_main(number: u64) -> ! {
    interrupts::enable_second();
    enable_x2apic();
    if scale::is_wanted() {
        scale::further(number);
    }
    let mut seen = interrupts::second_count();
    APIC_ID.store(apic_id() + 1, Ordering::Release);
    loop {
        halt_while(interrupts::second_count, seen);
        seen = interrupts::second_count();
        match ORDER.load(Ordering::Acquire) {
            // The first CPU's local APIC is number 0.
            ANSWER_IPI => wrmsr(X2APIC_COMMAND, u64::from(interrupts::APIC)),
            ANSWER_EVENT => {
                acknowledge(1, TO_SECOND.load(Ordering::Relaxed));
                send(TO_FIRST.load(Ordering::Relaxed));
            }
            YIELD => {
                while ORDER.load(Ordering::Acquire) == YIELD {
                    YIELDS.fetch_add(1, Ordering::Relaxed);
                    must("yield", give_way());
                }
            }
            _ => {}
        }
    }
}
