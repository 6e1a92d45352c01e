//! The table of all hypercalls and their operations. Adding an operation means adding a line to the table of its
//! module; the ledger in the book is rendered from these tables.

use radon_abi::errno::Errno;
use radon_abi::hypercall::{SCHED_OP, SET_TIMER_OP, VCPU_OP};

use super::{Args, Caller, OpResult, Outcome};
use crate::sched::ops::{SCHED_OPS, sched_op, set_timer_op};
use crate::sched::vcpu_op::{VCPU_OPS, vcpu_op};

/// How much of an operation is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coverage {
    /// All of it.
    Full,
    /// Some of it; the text says what is missing.
    Partial(&'static str),
    /// Always refused with this error.
    Refused(Errno),
}

/// One operation of a hypercall: a sub-operation number and what handles it.
pub struct Operation {
    /// The ABI's number (`EVTCHNOP_*`, `XENMEM_*`, ...).
    pub number: u32,
    /// The ABI's name.
    pub name: &'static str,
    /// How much of it is done.
    pub coverage: Coverage,
    /// The handler. Gets all arguments of the hypercall, the first of which names the operation.
    pub handler: fn(&Caller<'_>, Args) -> OpResult,
}

/// One hypercall.
pub struct Hypercall {
    /// The ABI's number (`__HYPERVISOR_*`).
    pub number: u32,
    /// The ABI's name without the prefix.
    pub name: &'static str,
    /// The handler.
    pub handler: fn(&Caller<'_>, Args) -> OpResult,
    /// Its operations, for the ledger; empty if the hypercall is one operation.
    pub operations: &'static [Operation],
}

/// All hypercalls, by number.
pub static HYPERCALLS: &[Hypercall] = &[
    Hypercall { number: SET_TIMER_OP, name: "set_timer_op", handler: set_timer_op, operations: &[] },
    Hypercall { number: VCPU_OP, name: "vcpu_op", handler: vcpu_op, operations: VCPU_OPS },
    Hypercall { number: SCHED_OP, name: "sched_op", handler: sched_op, operations: SCHED_OPS },
];

/// Executes hypercall `number`. Unknown ones are refused with `ENOSYS`.
///
/// # Errors
/// As the operation's documentation says.
pub fn dispatch(caller: &Caller<'_>, number: u32, args: Args) -> OpResult {
    match HYPERCALLS.iter().find(|h| h.number == number) {
        Some(h) => (h.handler)(caller, args),
        None => Err(Errno::ENOSYS),
    }
}

/// Executes the operation of `table` that has this number; `ENOSYS` if there is none.
///
/// # Errors
/// As the operation's documentation says.
pub fn operation(table: &'static [Operation], number: u32, caller: &Caller<'_>, args: Args) -> OpResult {
    let op = table.iter().find(|o| o.number == number).ok_or(Errno::ENOSYS)?;
    match op.coverage {
        Coverage::Refused(errno) => Err(errno),
        Coverage::Full | Coverage::Partial(_) => (op.handler)(caller, args),
    }
}

/// The handler of refused operations; never reached, since [`operation`] answers for it.
pub fn refused(_: &Caller<'_>, _: Args) -> Result<Outcome, Errno> {
    Err(Errno::ENOSYS)
}
