//! What the hypervisor *means*: domains, vCPUs, scheduling, event channels, grants, guest memory, timers and the
//! hypercalls on them. Knows no processor architecture and reaches the machine only through [`platform`].
//!
//! Everything here runs on a laptop under `cargo test`, with [`testing`] as the machine.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;

pub mod console;
pub mod control;
pub mod domain;
pub mod evtchn;
pub mod frames;
pub mod grant;
pub mod hypercall;
pub mod hypervisor;
pub mod memory;
pub mod ops;
pub mod options;
pub mod p2m;
pub mod platform;
pub mod sched;
pub mod sort;
pub mod sync;
pub mod testing;
pub mod time;
pub mod trace;
pub mod types;
pub mod vcpu;
pub mod watchdog;
