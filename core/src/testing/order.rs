//! Checks the order of locks in this crate's tests, for each thread by itself.

extern crate std;

use alloc::vec::Vec;
use core::cell::RefCell;

use crate::sync::{OrderChecker, Rank, set_order_checker};

std::thread_local! {
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

struct Checker;

impl OrderChecker for Checker {
    fn acquire(&self, rank: Rank) {
        HELD.with_borrow_mut(|held| {
            // A second lock of this rank is taken by `try_lock` only.
            let again = rank == Rank::VcpuState;
            let wrong = held.iter().find(|&&h| h > rank || (h == rank && !again));
            assert!(wrong.is_none() || std::thread::panicking(), "{rank:?} is taken while {held:?} are held");
            held.push(rank);
        });
    }

    fn release(&self, rank: Rank) {
        HELD.with_borrow_mut(|held| {
            // The second lock of a pair is not announced.
            if let Some(n) = held.iter().rposition(|&h| h == rank) {
                held.remove(n);
            }
        });
    }
}

/// Starts checking.
pub(super) fn check() {
    set_order_checker(&Checker);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Lock;

    #[test]
    #[should_panic(expected = "P2m is taken while [Frames] are held")]
    fn a_wrong_order_is_noticed() {
        check();
        let (low, high) = (Lock::new(Rank::P2m, ()), Lock::new(Rank::Frames, ()));
        let _high = high.lock();
        let _low = low.lock();
    }
}
