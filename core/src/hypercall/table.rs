//! The table of all hypercalls and their operations. Adding an operation means adding a line to the table of its
//! module; the ledger in the book is rendered from these tables.

use radon_abi::errno::Errno;
use radon_abi::hypercall as number;

use super::{Args, Caller, OpResult, Outcome, compat};
use crate::control::{domctl, sysctl};
use crate::sched::{ops as sched, vcpu_op};
use crate::{console, evtchn, grant, memory, ops};

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
    /// How much of it is done, if it is one operation.
    pub coverage: Coverage,
}

const fn call(
    number: u32,
    name: &'static str,
    handler: fn(&Caller<'_>, Args) -> OpResult,
    operations: &'static [Operation],
) -> Hypercall {
    Hypercall { number, name, handler, operations, coverage: Coverage::Full }
}

/// One that is always refused with this error, which is what `handler` says.
const fn refuse(
    number: u32,
    name: &'static str,
    handler: fn(&Caller<'_>, Args) -> OpResult,
    errno: Errno,
) -> Hypercall {
    Hypercall { number, name, handler, operations: &[], coverage: Coverage::Refused(errno) }
}

/// All hypercalls. Those that are not here do not exist for domains of this hypervisor (`ENOSYS`): calls of PV guests,
/// and `nmi_op`, `callback_op`, `xenoprof_op`, `kexec_op` and `mca`, which Xen 4.17 does not offer to HVM domains either.
pub static HYPERCALLS: &[Hypercall] = &[
    call(number::PLATFORM_OP, "platform_op", ops::platform::platform_op, ops::platform::OPERATIONS),
    call(number::MEMORY_OP, "memory_op", memory::memory_op, memory::MEMORY_OPS),
    call(number::MULTICALL, "multicall", ops::multicall::multicall, &[]),
    call(number::SET_TIMER_OP, "set_timer_op", sched::set_timer_op, &[]),
    call(number::XEN_VERSION, "xen_version", ops::version::xen_version, ops::version::OPERATIONS),
    call(number::CONSOLE_IO, "console_io", console::console_io, console::OPERATIONS),
    call(number::GRANT_TABLE_OP, "grant_table_op", grant::grant_table_op, grant::GRANT_TABLE_OPS),
    call(number::VM_ASSIST, "vm_assist", ops::vm_assist::vm_assist, ops::vm_assist::OPERATIONS),
    call(number::VCPU_OP, "vcpu_op", vcpu_op::vcpu_op, vcpu_op::VCPU_OPS),
    call(number::SCHED_OP, "sched_op", sched::sched_op, sched::SCHED_OPS),
    call(number::EVENT_CHANNEL_OP, "event_channel_op", evtchn::event_channel_op, evtchn::OPERATIONS),
    call(number::PHYSDEV_OP, "physdev_op", ops::physdev::physdev_op, ops::physdev::OPERATIONS),
    call(number::HVM_OP, "hvm_op", ops::hvm::hvm_op, ops::hvm::OPERATIONS),
    call(number::SYSCTL, "sysctl", sysctl::sysctl, sysctl::OPERATIONS),
    call(number::DOMCTL, "domctl", domctl::domctl, domctl::OPERATIONS),
    refuse(number::XSM_OP, "xsm_op", ops::xsm_op, Errno::ENOSYS),
    call(number::HYPFS_OP, "hypfs_op", ops::hypfs::hypfs_op, ops::hypfs::OPERATIONS),
    refuse(number::XENPMU_OP, "xenpmu_op", ops::xenpmu_op, Errno::EOPNOTSUPP),
];

/// The hypercalls at their numbers, so that dispatch is one load.
static BY_NUMBER: [Option<&Hypercall>; number::LIMIT] = by_number();

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "evaluated by the compiler")]
const fn by_number() -> [Option<&'static Hypercall>; number::LIMIT] {
    let mut table: [Option<&Hypercall>; number::LIMIT] = [None; number::LIMIT];
    let mut n = 0;
    while n < HYPERCALLS.len() {
        let slot = HYPERCALLS[n].number as usize;
        assert!(table[slot].is_none(), "two hypercalls of one number");
        table[slot] = Some(&HYPERCALLS[n]);
        n += 1;
    }
    table
}

/// Executes hypercall `number`. Unknown ones are refused with `ENOSYS`.
///
/// # Errors
/// As the operation's documentation says.
pub fn dispatch(caller: &Caller<'_>, number: u32, args: Args) -> OpResult {
    if caller.compat {
        return compat::dispatch(caller, number, args);
    }
    let call = lookup(number).ok_or(Errno::ENOSYS)?;
    (call.handler)(caller, args)
}

/// The hypercall of this number.
pub(super) fn lookup(number: u32) -> Option<&'static Hypercall> {
    BY_NUMBER.get(number as usize).copied().flatten()
}

/// Executes the operation of `table` that has this number; `ENOSYS` if there is none. Operations that stand at their
/// number's place in the table are found at once; that should be so for those that are called often.
///
/// # Errors
/// As the operation's documentation says.
pub fn operation(table: &'static [Operation], number: u32, caller: &Caller<'_>, args: Args) -> OpResult {
    let at_place = table.get(number as usize).filter(|o| o.number == number);
    let op = at_place.or_else(|| table.iter().find(|o| o.number == number)).ok_or(Errno::ENOSYS)?;
    match op.coverage {
        Coverage::Refused(errno) => Err(errno),
        Coverage::Full | Coverage::Partial(_) => (op.handler)(caller, args),
    }
}

/// An entry of a table whose operation does all that the ABI says.
pub(crate) const fn op(number: u32, name: &'static str, handler: fn(&Caller<'_>, Args) -> OpResult) -> Operation {
    Operation { number, name, coverage: Coverage::Full, handler }
}

/// An entry of a table whose operation does some of it; `missing` says what it does not.
pub(crate) const fn part(
    number: u32,
    name: &'static str,
    missing: &'static str,
    handler: fn(&Caller<'_>, Args) -> OpResult,
) -> Operation {
    Operation { number, name, coverage: Coverage::Partial(missing), handler }
}

/// An entry of a table whose operation is always refused.
pub(crate) const fn no(number: u32, name: &'static str, errno: Errno) -> Operation {
    Operation { number, name, coverage: Coverage::Refused(errno), handler: refused }
}

/// The handler of refused operations; never reached, since [`operation`] answers for it.
pub fn refused(_: &Caller<'_>, _: Args) -> Result<Outcome, Errno> {
    Err(Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;
    use alloc::collections::BTreeSet;

    #[test]
    fn numbers_and_names_are_the_abis_and_not_given_twice() {
        for call in HYPERCALLS {
            assert_eq!(number::name(call.number), Some(call.name));
            let mut numbers = BTreeSet::new();
            let mut names = BTreeSet::new();
            for op in call.operations {
                assert!(numbers.insert(op.number), "{} {} is there twice", call.name, op.number);
                assert!(names.insert(op.name), "{} {} is there twice", call.name, op.name);
            }
        }
    }

    #[test]
    fn the_ledger_says_what_is_missing() {
        for op in HYPERCALLS.iter().flat_map(|c| c.operations) {
            if let Coverage::Partial(what) = op.coverage {
                assert!(!what.is_empty(), "{}", op.name);
            }
        }
    }

    #[test]
    fn unknown_hypercalls_and_operations_are_enosys() {
        let mut host = TestHost::new(256, 1);
        let dom0 = host.add_domain(1);
        let caller = host.caller(dom0, 0);
        let known: BTreeSet<u32> = HYPERCALLS.iter().map(|c| c.number).collect();
        let args = |op: u32| Args([u64::from(op), 0, 0, 0, 0, 0]);
        for number in (0..200).chain([u32::MAX]).filter(|n| !known.contains(n)) {
            assert_eq!(dispatch(&caller, number, args(0)), Err(Errno::ENOSYS), "{number}");
        }
        for call in HYPERCALLS.iter().filter(|c| c.operations.is_empty()) {
            if let Coverage::Refused(errno) = call.coverage {
                assert_eq!(dispatch(&caller, call.number, args(0)), Err(errno), "{}", call.name);
            }
        }
        // The number of some operations is in their structure.
        let elsewhere = ["platform_op", "sysctl", "domctl"];
        for call in HYPERCALLS.iter().filter(|c| !c.operations.is_empty() && !elsewhere.contains(&c.name)) {
            assert_eq!(dispatch(&caller, call.number, args(0xffff)), Err(Errno::ENOSYS), "{}", call.name);
            for op in call.operations {
                if let Coverage::Refused(errno) = op.coverage {
                    assert_eq!(dispatch(&caller, call.number, args(op.number)), Err(errno), "{}", op.name);
                }
            }
        }
    }
}
