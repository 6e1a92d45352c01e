//! What the test guests that are kernels share: the way from the PVH entry to long mode (`start.S`) and the layout in memory
//! (`link.ld`), further vCPUs, hypercalls, another domain, and the clock that the hypervisor publishes.
//!
//! The program provides `guest_main(start_info: u32)`, `further_main(number: u64)` for further vCPUs, and the symbol
//! `boot_stack_top` in its own assembly code.
// Unsafe: part of kernels of their own, which talk to hardware and hypervisor.
#![cfg_attr(target_os = "none", no_std)]
#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "there is no guest below this one, and a panic is its way to report"
)]

#[cfg(target_os = "none")]
mod clock;
#[cfg(target_os = "none")]
pub mod domain;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
pub use clock::{Clock, rdtsc};
#[cfg(target_os = "none")]
pub use start::{Page, command_line, entry_counter, start_vcpu};
