//! The simulator: `core` and `x86`, the real ones, under a machine that is made of plain data, on one host thread.
//!
//! M CPUs run N guests. dom0 makes guests and destroys them; all of them issue hypercalls, good ones and nonsense, through
//! the real exits and the real dispatcher, touch memory through TLBs and the real nested page tables, send interrupts and
//! sleep. Time is a number. Everything is drawn from one seed, so a run that failed fails again in the same way.
//!
//! After each step what is cheap is checked; after some, everything ([`radon_core::testing::audit`]).
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a wrong index here ends a test, not a machine"
)]

pub mod config;
pub mod coverage;
pub mod machine;
pub mod model;
pub mod ops;
pub mod order;
pub mod rng;
pub mod run;
pub mod shared;
pub mod shares;
pub mod world;
