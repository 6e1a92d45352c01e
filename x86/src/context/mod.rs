//! The state of a guest apart from its memory, in the ABI's forms: the records of `XEN_DOMCTL_gethvmcontext` and
//! `sethvmcontext` ([`save()`], [`load()`]), a debugger's view of registers ([`registers`]), and the state in which a domain
//! starts another vCPU of its own ([`start()`]).
//!
//! The domain is paused and its vCPUs are off their CPUs. Their state locks are taken with `try_lock` only: the caller
//! holds that of its own vCPU.
//!
//! Records are read whole and checked before anything is changed. A local APIC that cannot be is found only when it is
//! set, by when vCPUs of lower number have been changed.

mod cpu;
mod load;
mod record;
pub mod registers;
mod save;
mod start;
#[cfg(test)]
mod tests;

pub use load::load;
pub use save::{save, save_one, size};
pub use start::start;
