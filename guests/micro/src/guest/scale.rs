//! The same hypercall from one, two or four CPUs at once: whether they hinder each other.
//!
//! With the word `scale=N` on the command line. Each CPU has a processor of its own, unlike in the other measurements.
//! What is printed is the time from the moment when the CPUs are called to the moment when all have made their calls. Where
//! all processors are emulated in turns, that is the work of all of them; where they run at once, it is that of the slowest.

use core::sync::atomic::{AtomicU64, Ordering};

use radon_abi::hypercall;
use radon_guest::hypercall::{call, must};
use radon_guest::{rdtsc, start_vcpu};

use super::interrupts::{self, halt_while};
use super::micro::{X2APIC_COMMAND, enable_x2apic, wrmsr};
use super::port::result;
use super::second::{apic_id, stack_of};

/// Calls of each CPU in a round.
const CALLS: u64 = 20_000;
/// Rounds of one, then of more CPUs.
const ROUNDS: usize = 5;
const CPUS: usize = 4;

/// The number of the round. Each that is new calls the CPUs.
static ROUND: AtomicU64 = AtomicU64::new(0);
/// CPUs with a smaller number take part.
static TAKE_PART: AtomicU64 = AtomicU64::new(0);
/// Those that have made their calls.
static DONE: AtomicU64 = AtomicU64::new(0);
/// Numbers of local APICs, one more than that; 0 until a CPU is there.
static APIC_IDS: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];

/// How many CPUs are to call at once.
fn wanted() -> Option<u64> {
    super::number("scale=")
}

/// Whether that is to be measured.
pub(crate) fn is_wanted() -> bool {
    wanted().is_some()
}

/// Measures it.
pub(crate) fn run() {
    let cpus = wanted().unwrap_or(1).min(CPUS as u64);
    interrupts::enable();
    enable_x2apic();
    APIC_IDS[0].store(apic_id() + 1, Ordering::Release);
    for number in 1..cpus {
        must("start_vcpu", start_vcpu(number, stack_of(number)));
        while APIC_IDS[number as usize].load(Ordering::Acquire) == 0 {
            core::hint::spin_loop();
        }
    }
    for n in 0..ROUNDS {
        for (count, name) in [(1, "one"), (2, "two"), (4, "four")] {
            if count <= cpus {
                let ticks = round(count);
                // The first round is for what happens only once.
                if n > 0 {
                    result(name, ticks);
                }
            }
        }
    }
}

/// Has `count` CPUs make their calls, this one included; returns how long that took.
fn round(count: u64) -> u64 {
    DONE.store(0, Ordering::Relaxed);
    TAKE_PART.store(count, Ordering::Release);
    let begin = rdtsc();
    ROUND.fetch_add(1, Ordering::Release);
    (1..count).for_each(interrupt);
    calls();
    while DONE.load(Ordering::Acquire) < count {
        let before = interrupts::count();
        // The last one's interrupt may have come, or comes.
        if DONE.load(Ordering::Acquire) < count {
            halt_while(interrupts::count, before);
        }
    }
    rdtsc() - begin
}

fn interrupt(number: u64) {
    let apic = APIC_IDS[number as usize].load(Ordering::Acquire) - 1;
    wrmsr(X2APIC_COMMAND, apic << 32 | u64::from(interrupts::APIC));
}

fn calls() {
    for _ in 0..CALLS {
        must("xen_version", call(hypercall::XEN_VERSION, [0; 2]));
    }
    DONE.fetch_add(1, Ordering::AcqRel);
}

/// A further CPU.
pub(crate) fn further(number: u64) -> ! {
    let round = || ROUND.load(Ordering::Acquire);
    let mut seen = round();
    APIC_IDS[number as usize].store(apic_id() + 1, Ordering::Release);
    loop {
        halt_while(round, seen);
        seen = round();
        if number < TAKE_PART.load(Ordering::Acquire) {
            calls();
            interrupt(0);
        }
    }
}
