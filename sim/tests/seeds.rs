//! Some seeds, in whatever build the tests are; `cargo xtask sim` runs many, and faster.

#![allow(clippy::arithmetic_side_effects, reason = "a sum")]

use radon_sim::run::{self, Plan};

#[test]
fn some_seeds_find_nothing() {
    run::prepare();
    let mut calls = 0;
    for seed in 1..=12 {
        let outcome = run::run(&Plan { audit_every: 256, ..Plan::new(seed, 3000) });
        assert!(outcome.failure.is_none(), "seed {seed}: {:?}", outcome.failure);
        assert_eq!(outcome.coverage.stopped, 0, "seed {seed} ended early");
        calls += outcome.coverage.calls;
    }
    assert!(calls > 1000, "{calls} calls are no test");
}

#[test]
fn a_seed_does_the_same_again() {
    run::prepare();
    let plan = Plan { trace: true, ..Plan::new(7, 2000) };
    let (first, second) = (run::run(&plan), run::run(&plan));
    assert!(first.trace.len() > 20);
    assert_eq!(first.trace, second.trace);
}
