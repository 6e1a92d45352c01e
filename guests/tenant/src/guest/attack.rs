//! The attack: the first vCPU calls hypercalls and sees to it that the others go on, these also run random instructions.

use core::fmt::Write;
use core::sync::atomic::Ordering;

use radon_abi::memory;
use radon_guest::hypercall::map_special;
use radon_guest::rdtsc;

use super::calls::{Caller, GRANTS};
use super::hypercall::{Console, Counter};
use super::random::Random;
use super::{SECOND, cpu, instructions};

/// Attempts of each vCPU.
static ATTEMPTS: [Counter; cpu::MAX as usize] = [const { Counter::new(0) }; cpu::MAX as usize];
/// Hypercalls that succeeded, and instructions that raised no exception but the breakpoint behind them.
static CALLS_DONE: Counter = Counter::new(0);
static INSTRUCTIONS_DONE: Counter = Counter::new(0);

const BREAKPOINT: u64 = 3;

/// Maps what the attack writes to.
pub(crate) fn prepare() {
    for (number, page) in GRANTS.iter().enumerate() {
        map_special(memory::XENMAPSPACE_GRANT_TABLE, number as u64, page);
    }
}

/// One attempt of a vCPU.
fn attempt(caller: &Caller, random: &mut Random, number: u64, instructions: bool) {
    ATTEMPTS[number as usize].fetch_add(1, Ordering::Relaxed);
    match random.below(32) {
        0 => caller.scatter(random),
        1 => caller.grants(random),
        2..16 if instructions => {
            if instructions::attack(random, number) == BREAKPOINT {
                INSTRUCTIONS_DONE.fetch_add(1, Ordering::Relaxed);
            }
        }
        _ => {
            if caller.attack(random) >= 0 {
                CALLS_DONE.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Watches over the progress of vCPUs. The area with the time is a target, too, so the clock is the counter.
struct Watch {
    seen: [u64; cpu::MAX as usize],
    next: u64,
    ticks: u64,
}

impl Watch {
    /// `ticks` between two looks.
    fn new(ticks: u64) -> Watch {
        Watch { seen: [0; cpu::MAX as usize], next: rdtsc().wrapping_add(ticks), ticks }
    }

    /// Whether it is time to look again.
    fn due(&mut self) -> bool {
        let now = rdtsc();
        if self.next.wrapping_sub(now) < self.ticks {
            return false;
        }
        self.next = now.wrapping_add(self.ticks);
        true
    }

    /// Looks after a vCPU that should have gone on; returns whether it had not.
    fn look_after(&mut self, number: u64) -> bool {
        let attempts = ATTEMPTS[number as usize].load(Ordering::Relaxed);
        let stuck = attempts == self.seen[number as usize];
        if stuck {
            cpu::rescue(number);
        }
        self.seen[number as usize] = attempts;
        stuck
    }
}

/// What a vCPU does, for ever. The first one attacks by hypercalls only, looks after the others and reports; the second
/// one looks after the first.
pub(crate) fn run(seed: u64, number: u64, cpus: u64, console: &mut Option<Console>) -> ! {
    // One that starts again does something new.
    let again = ATTEMPTS[number as usize].load(Ordering::Relaxed);
    let mut random = Random::new(seed ^ number << 32 ^ again << 40);
    let caller = Caller::new(cpus);
    let mut watch = Watch::new(if number == 0 { SECOND } else { 8 * SECOND });
    let mut stuck = 0u64;
    loop {
        attempt(&caller, &mut random, number, number != 0);
        if number > 1 || !watch.due() {
            continue;
        }
        if number == 1 {
            watch.look_after(0);
            continue;
        }
        stuck += (1..cpus).map(|other| u64::from(watch.look_after(other))).sum::<u64>();
        let all: u64 = ATTEMPTS.iter().map(|attempts| attempts.load(Ordering::Relaxed)).sum();
        if let Some(console) = console {
            // Writing to the console cannot fail.
            let _ = writeln!(
                console,
                "tenant: seed {seed}: {all} attempts, {} calls and {} instructions succeeded, {stuck} rescues",
                CALLS_DONE.load(Ordering::Relaxed),
                INSTRUCTIONS_DONE.load(Ordering::Relaxed),
            );
        }
    }
}
