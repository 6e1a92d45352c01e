//! The Xen public ABI as Rust types: operation numbers, error numbers, structures and their layouts, as Xen 4.17's
//! public headers define them for x86-64. No logic lives here.
//!
//! Invariants: every structure is `repr(C)`, made of plain integers (so every bit pattern is a valid value) and has its
//! size and offsets pinned by a compile-time assertion; `tests/` compares them with the C headers of libxen-dev.
//! Structures with implicit padding in C have explicit `_pad` fields here, so that copying one out leaks nothing.
#![no_std]
#![forbid(unsafe_code)]

pub mod cpufeatureset;
pub mod domctl;
pub mod errno;
pub mod event_channel;
pub mod features;
pub mod grant_table;
pub mod guest_context;
pub mod hvm;
pub mod hypercall;
pub mod hypfs;
pub mod memory;
pub mod physdev;
pub mod platform;
pub mod save;
pub mod sched;
pub mod sysctl;
pub mod trace;
pub mod vcpu;
pub mod version;
pub mod xen;
