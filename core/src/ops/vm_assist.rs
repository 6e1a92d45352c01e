//! `vm_assist(cmd, type)`: optional behaviour that a guest turns on.

use crate::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::xen::{VMASST_CMD_DISABLE, VMASST_CMD_ENABLE, VMASST_TYPE_RUNSTATE_UPDATE_FLAG};

use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, SUCCESS, operation};

/// The types that HVM domains may turn on, a bit each. The others change how PV guests are handled.
const VALID: u64 = 1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG;

/// All operations, at their numbers' places.
pub static OPERATIONS: &[Operation] = &[
    Operation { number: VMASST_CMD_ENABLE, name: "VMASST_CMD_enable", coverage: Coverage::Full, handler: enable },
    Operation { number: VMASST_CMD_DISABLE, name: "VMASST_CMD_disable", coverage: Coverage::Full, handler: disable },
];

/// `vm_assist(cmd, type)`.
///
/// # Errors
/// `EINVAL` for a type that HVM domains do not have, `ENOSYS` for an unknown command.
pub fn vm_assist(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(OPERATIONS, args.u32(0), caller, args)
}

fn bit(args: Args) -> Result<u64, Errno> {
    let bit = 1u64.checked_shl(args.u32(1)).unwrap_or(0);
    if bit & VALID == 0 { Err(Errno::EINVAL) } else { Ok(bit) }
}

fn enable(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.domain.vm_assist.fetch_or(bit(args)?, Ordering::AcqRel);
    SUCCESS
}

fn disable(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.domain.vm_assist.fetch_and(!bit(args)?, Ordering::AcqRel);
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;

    #[test]
    fn only_the_update_flag_can_be_set() {
        let mut host = TestHost::new(512, 1);
        let guest = host.add_domain(1);
        let call = |cmd, kind| vm_assist(&host.caller(guest, 0), Args([cmd, kind, 0, 0, 0, 0]));
        assert_eq!(call(0, 5), SUCCESS);
        assert_eq!(host.domain(guest).vm_assist.load(Ordering::Relaxed), 1 << 5);
        for kind in [0, 1, 2, 3, 4, 6, 32, 63, 64, u64::from(u32::MAX)] {
            assert_eq!(call(0, kind), Err(Errno::EINVAL), "{kind}");
        }
        assert_eq!(call(1, 5), SUCCESS);
        assert_eq!(host.domain(guest).vm_assist.load(Ordering::Relaxed), 0);
        assert_eq!(call(2, 5), Err(Errno::ENOSYS));
    }
}
