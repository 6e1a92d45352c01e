//! What the scheduler and its store buffers show, on the smallest examples.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use radon_interleave::atomic::{AtomicU32, Ordering, fence};
use radon_interleave::{explore, race, wait};

/// Two that each write, then read what the other wrote. Returns whether neither saw the other.
fn both_miss(order: Ordering, fenced: bool) -> bool {
    let words = [AtomicU32::new(0), AtomicU32::new(0)];
    let seen = [AtomicU32::new(9), AtomicU32::new(9)];
    let side = |mine: usize| {
        let (words, seen) = (&words, &seen);
        move || {
            let other = 1 - mine;
            words.get(mine).unwrap().store(1, order);
            if fenced {
                fence(Ordering::SeqCst);
            }
            seen.get(mine).unwrap().store(words.get(other).unwrap().load(order_of_load(order)), Ordering::SeqCst);
        }
    };
    race(vec![Box::new(side(0)), Box::new(side(1))]);
    seen.iter().all(|seen| seen.load(Ordering::SeqCst) == 0)
}

fn order_of_load(store: Ordering) -> Ordering {
    if store == Ordering::Release { Ordering::Acquire } else { store }
}

#[test]
fn sequential_consistency_lets_one_see_the_other() {
    explore(|| assert!(!both_miss(Ordering::SeqCst, false)));
}

#[test]
fn so_do_fences() {
    explore(|| assert!(!both_miss(Ordering::Relaxed, true)));
}

#[test]
#[should_panic(expected = "missed")]
fn release_and_acquire_do_not() {
    explore(|| assert!(!both_miss(Ordering::Release, false), "missed"));
}

#[test]
fn stores_are_seen_in_their_order() {
    explore(|| {
        let (data, flag) = (AtomicU32::new(0), AtomicU32::new(0));
        race(vec![
            Box::new(|| {
                data.store(7, Ordering::Relaxed);
                flag.store(1, Ordering::Release);
            }),
            Box::new(|| {
                while flag.load(Ordering::Acquire) == 0 {
                    wait();
                }
                assert_eq!(data.load(Ordering::Relaxed), 7);
            }),
        ]);
    });
}

#[test]
#[should_panic(expected = "lost")]
fn a_load_and_a_store_are_no_addition() {
    explore(|| {
        let sum = AtomicU32::new(0);
        let add = || sum.store(sum.load(Ordering::SeqCst).wrapping_add(1), Ordering::SeqCst);
        race(vec![Box::new(add), Box::new(add)]);
        assert_eq!(sum.load(Ordering::SeqCst), 2, "lost");
    });
}

#[test]
fn an_addition_is_one() {
    explore(|| {
        let sum = AtomicU32::new(0);
        let add = || {
            sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sum| sum.checked_add(1)).unwrap();
        };
        race(vec![Box::new(add), Box::new(add), Box::new(add)]);
        assert_eq!(sum.load(Ordering::SeqCst), 3);
    });
}
