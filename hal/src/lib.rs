//! The mechanism: the only unsafe code of Radon. Boot, paging, traps, interrupt controllers, time, power, and the
//! entry into guests.
//!
//! Everything here offers a safe interface: no sequence of safe calls from outside breaks memory safety. A module that
//! needs unsafe code says so, and why, in its first lines; each unsafe block carries its proof.
//!
//! Execution model: each CPU runs on its own stack to completion with interrupts off. Interrupts are taken only in
//! [`interrupts::poll`] and in the idle halt of [`idle`]; exceptions (which are bugs, or probes with a registered
//! continuation), NMIs and machine checks may come at any time.
#![no_std]
// Numbers here come from the machine and from the hypervisor; guests' input is decoded in core and x86, which deny these.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

extern crate alloc;

pub mod acpi;
pub mod apic;
pub mod boot;
pub mod boot_memory;
pub mod checksum;
pub mod console;
pub mod cpu;
pub mod frames;
pub mod heap;
pub mod host;
pub mod idle;
pub mod interrupts;
pub mod ioapic;
pub mod layout;
mod lock_order;
mod machine_check;
pub mod memory;
pub mod nmi;
pub mod paging;
pub mod pic;
pub mod power;
pub mod report;
pub mod rtc;
pub mod selftest;
pub mod smp;
pub mod svm;
pub mod symbols;
pub mod time;
pub mod traps;
