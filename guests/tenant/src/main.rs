//! A PVH kernel of a few kilobytes for guests of which there are many, or that are bad. The words of its command line say
//! what it does:
//!
//! - `beat`: prints a line each second, until it is destroyed.
//! - `spin`: uses all the CPU time that its vCPUs can get.
//! - `attack SEED`: calls every hypercall with random arguments, and runs random instructions, on all vCPUs at once;
//!   with `trace` after the seed it prints each before it is done.
//!
//! First it brings up all its vCPUs and says how many run. It owns its virtual machine entirely, has no heap, and speaks
//! through the console that the toolstack set up.
// Unsafe: a kernel of its own, which talks to hardware and hypervisor.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "there is no guest below this one, and a panic is its way to report"
)]

#[cfg(target_os = "none")]
mod guest;

/// On an operating system there is nothing to do.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This program is a kernel for guests: cargo xtask test boots it.");
}
