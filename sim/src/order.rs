//! Checks the order of locks, for each simulated CPU by itself.

use std::cell::{Cell, RefCell};

use radon_core::sync::{OrderChecker, Rank, set_order_checker};

use crate::machine::CPUS;

thread_local! {
    static CPU: Cell<usize> = const { Cell::new(0) };
    static HELD: RefCell<[Vec<Rank>; CPUS]> = const { RefCell::new([const { Vec::new() }; CPUS]) };
}

struct Checker;

impl OrderChecker for Checker {
    fn acquire(&self, rank: Rank) {
        HELD.with_borrow_mut(|held| {
            let held = &mut held[CPU.get()];
            // A second lock of this rank is taken by `try_lock` only.
            let again = rank == Rank::VcpuState;
            let wrong = held.iter().any(|&h| h > rank || (h == rank && !again));
            assert!(!wrong || std::thread::panicking(), "lock order: {rank:?} is taken while {held:?} are held");
            held.push(rank);
        });
    }

    fn release(&self, rank: Rank) {
        HELD.with_borrow_mut(|held| {
            let held = &mut held[CPU.get()];
            // The second lock of a pair is not announced.
            if let Some(n) = held.iter().rposition(|&h| h == rank) {
                held.remove(n);
            }
        });
    }
}

/// Starts checking, in builds with debug assertions.
pub fn check() {
    set_order_checker(&Checker);
}

/// The thread plays this CPU from now on.
pub fn become_cpu(cpu: u32) {
    CPU.set(cpu as usize);
}

/// Forgets what is held, at the start of a run.
pub fn forget() {
    HELD.with_borrow_mut(|held| held.iter_mut().for_each(Vec::clear));
}

/// The locks that a CPU holds, if any.
pub fn held() -> Option<String> {
    HELD.with_borrow(|held| held.iter().any(|h| !h.is_empty()).then(|| format!("{held:?}")))
}
