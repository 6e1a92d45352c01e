//! A PVH kernel that calls every operation of every hypercall, each by its number and with the structures of `radon-abi`,
//! and checks what comes of it: that what was set can be read back, that what was mapped is there, that what was sent
//! arrives. `cargo xtask test system/operations` boots it in dom0's place and compares what it prints with the ledger.
//!
//! A check is a function of a few lines in the file of its hypercall, and a line of that file's table. Operations that
//! the hypervisor refuses need only the line: the kernel says which error came, the ledger says which should have come.
//! Some checks need another domain: the kernel builds a copy of itself (`twin.rs`), which makes hypercalls on demand.
// Unsafe: a kernel of its own, which talks to hardware and hypervisor.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(unsafe_code)]
#![allow(clippy::result_large_err, reason = "there is no heap, and what differs has to be said in full")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "there is no guest below this one, and a panic is its way to report"
)]

#[cfg(target_os = "none")]
mod guest;

/// On an operating system there is nothing to check.
#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("This program is a kernel: cargo xtask test system/operations boots it.");
}
