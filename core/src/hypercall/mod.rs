//! Hypercalls: who calls ([`Caller`]), with what ([`Args`]), what comes of it ([`Outcome`]), and the table of all
//! operations, which is at once the dispatcher's data and the coverage ledger.

mod caller;
mod compat;
#[cfg(test)]
mod ledger;
mod table;

pub use caller::{Caller, Privilege};
pub use table::{Coverage, HYPERCALLS, Hypercall, Operation, dispatch, operation, refused};
pub(crate) use table::{no, op, part};

use crate::types::GuestVirtAddr;
use radon_abi::errno::Errno;

/// The registers of a hypercall. Callers in 64-bit mode pass up to six.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Args(pub [u64; 6]);

impl Args {
    /// Argument `n` as it is; 0 beyond the sixth.
    #[must_use]
    pub fn get(&self, n: usize) -> u64 {
        self.0.get(n).copied().unwrap_or(0)
    }

    /// Argument `n` as a C `unsigned int`: the ABI ignores the upper half.
    #[must_use]
    pub fn u32(&self, n: usize) -> u32 {
        // Truncation is the ABI's rule.
        self.get(n) as u32
    }

    /// Argument `n` as a guest handle.
    #[must_use]
    pub fn handle(&self, n: usize) -> GuestVirtAddr {
        GuestVirtAddr(self.get(n))
    }

    /// The same arguments with argument `n` replaced, for a continuation.
    #[must_use]
    pub fn with(mut self, n: usize, value: u64) -> Args {
        if let Some(a) = self.0.get_mut(n) {
            *a = value;
        }
        self
    }
}

/// What a hypercall came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done; this value goes to the caller (non-negative by the ABI).
    Done(u64),
    /// Its budget is spent: the caller executes the same hypercall again with these arguments once pending work was
    /// looked at.
    Continue(Args),
    /// It is done with 0 and the vCPU gives up its CPU (blocked, yielded, shut down): the CPU loop reschedules.
    Reschedule,
}

/// Result of an operation.
pub type OpResult = Result<Outcome, Errno>;

/// `Ok(Done(0))`, the result of most operations.
pub const SUCCESS: OpResult = Ok(Outcome::Done(0));
