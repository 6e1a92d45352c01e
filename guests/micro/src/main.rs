//! A PVH kernel of a few kilobytes that measures the hypervisor below it, be it Radon or Xen, in ticks of the time stamp
//! counter. Under `-icount` a tick is an instruction. `cargo xtask bench` boots it as dom0 and reads its results.
//!
//! It prints `name value` lines: when its first instruction ran, what memory the hypervisor has left, and, with the word
//! `micro` on its command line, what single operations cost (`repeat=NAME` repeats one of them); for that it needs two CPUs.
//! It has no heap and owns its virtual machine entirely.
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

/// On an operating system there is nothing to measure.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This program is a kernel: cargo xtask bench boots it.");
}
