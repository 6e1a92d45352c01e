//! Checks the order of locks at every acquisition, in builds with debug assertions: a deadlock that could happen is
//! reported at the first wrong order, not when it does happen.
//!
//! Each CPU counts the locks it holds by rank. Taking a rank below one that is held stops the machine, and so does taking
//! one rank twice, except for `VcpuState`, which is taken a second time by `try_lock` only.

use core::sync::atomic::{AtomicU8, Ordering};
use radon_core::sync::{OrderChecker, Rank, set_order_checker};

use crate::cpu;

/// More than there are ranks.
const RANKS: usize = 32;

/// The locks that a CPU holds, by rank. Touched by that CPU alone.
#[derive(Debug)]
pub(crate) struct Held([AtomicU8; RANKS]);

impl Held {
    pub(crate) const fn new() -> Held {
        Held([const { AtomicU8::new(0) }; RANKS])
    }

    /// The highest rank that is held, as a number.
    fn highest(&self) -> Option<usize> {
        (0..RANKS).rev().find(|&r| self.0[r].load(Ordering::Relaxed) > 0)
    }
}

struct Checker;

impl OrderChecker for Checker {
    fn acquire(&self, rank: Rank) {
        let Some(cpu) = cpu::try_this_cpu() else { return };
        let number = rank as usize;
        let again_allowed = matches!(rank, Rank::VcpuState);
        if let Some(highest) = cpu.held.highest()
            && (highest > number || highest == number && !again_allowed)
            && !crate::report::stopping()
        {
            crate::report::fatal(
                None,
                format_args!("lock order: {rank:?} (rank {number}) is taken while rank {highest} is held"),
            );
        }
        cpu.held.0[number].fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, rank: Rank) {
        let Some(cpu) = cpu::try_this_cpu() else { return };
        // The second lock of a pair is not announced, so a count may be zero here.
        let count = &cpu.held.0[rank as usize];
        count.store(count.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }
}

/// Starts checking.
pub(crate) fn init() {
    set_order_checker(&Checker);
}
