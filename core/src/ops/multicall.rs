//! `multicall(calls, n)`: several hypercalls in one.

use radon_abi::errno::Errno;
use radon_abi::hypercall::MULTICALL;
use radon_abi::xen::MulticallEntry;

use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS, dispatch};

/// Executes each entry and writes its result into it. A call that has to be continued is written back with the arguments
/// it goes on with, and the multicall goes on with it.
///
/// A vCPU that gives up its CPU in one of the calls goes on with the rest when it runs again.
///
/// # Errors
/// `EFAULT` if an entry cannot be read or written. Errors of the calls are their results. A multicall within a multicall
/// is refused with `EINVAL`.
pub fn multicall(caller: &Caller<'_>, args: Args) -> OpResult {
    let (mut list, mut count) = (args.get(0), args.u32(1));
    let rest = |list, count| Args([list, u64::from(count), 0, 0, 0, 0]);
    while count > 0 {
        if !caller.spend() {
            return Ok(Outcome::Continue(rest(list, count)));
        }
        let at = crate::types::GuestVirtAddr(list);
        let mut entry: MulticallEntry = caller.read(at)?;
        // The number is a C `unsigned int`, as in a register.
        let number = entry.op as u32;
        let result = if number == MULTICALL { Err(Errno::EINVAL) } else { dispatch(caller, number, Args(entry.args)) };
        let mut reschedule = false;
        match result {
            Ok(Outcome::Done(value)) => entry.result = value,
            Ok(Outcome::Reschedule) => {
                entry.result = 0;
                reschedule = true;
            }
            Ok(Outcome::Continue(again)) => {
                entry.args = again.0;
                caller.write(at, &entry)?;
                return Ok(Outcome::Continue(rest(list, count)));
            }
            Err(errno) => entry.result = errno.to_return() as u64,
        }
        caller.write(at, &entry)?;
        list = list.wrapping_add(size_of::<MulticallEntry>() as u64);
        count = count.saturating_sub(1);
        if reschedule {
            return if count == 0 { Ok(Outcome::Reschedule) } else { Ok(Outcome::Continue(rest(list, count))) };
        }
    }
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;
    use crate::types::GuestVirtAddr;
    use radon_abi::hypercall::{EVENT_CHANNEL_OP, XEN_VERSION};

    const LIST: u64 = 0x1000;

    fn entry(op: u32, args: [u64; 6]) -> MulticallEntry {
        MulticallEntry { op: u64::from(op), result: 0xdead, args }
    }

    #[test]
    fn every_call_gets_its_result() {
        let mut host = TestHost::new(512, 1);
        let guest = host.add_domain(1);
        let caller = host.caller(guest, 0);
        let calls = [
            entry(XEN_VERSION, [0; 6]),
            entry(99, [0; 6]),
            entry(MULTICALL, [LIST, 4, 0, 0, 0, 0]),
            entry(EVENT_CHANNEL_OP, [77, 0, 0, 0, 0, 0]),
        ];
        for (n, call) in calls.iter().enumerate() {
            caller.write_at(GuestVirtAddr(LIST), n as u64, call).unwrap();
        }
        assert_eq!(dispatch(&caller, MULTICALL, Args([LIST, 4, 0, 0, 0, 0])), SUCCESS);
        let results = [0, 1, 2, 3].map(|n| caller.read_at::<MulticallEntry>(GuestVirtAddr(LIST), n).unwrap().result);
        let [enosys, einval] = [Errno::ENOSYS, Errno::EINVAL].map(|e| e.to_return() as u64);
        assert_eq!(results, [0x0004_0011, enosys, einval, enosys]);
    }

    #[test]
    fn a_long_list_is_continued_and_a_bad_one_faults() {
        let mut host = TestHost::new(512, 1);
        let guest = host.add_domain(1);
        let n = 600u64;
        for i in 0..n {
            host.caller(guest, 0).write_at(GuestVirtAddr(LIST), i, &entry(XEN_VERSION, [0; 6])).unwrap();
        }
        let first = dispatch(&host.caller(guest, 0), MULTICALL, Args([LIST, n, 0, 0, 0, 0]));
        let Ok(Outcome::Continue(args)) = first else { panic!("{first:?}") };
        assert!(args.get(1) < n && args.get(1) > 0);
        assert_eq!(dispatch(&host.caller(guest, 0), MULTICALL, args), SUCCESS);
        let last: MulticallEntry = host.caller(guest, 0).read_at(GuestVirtAddr(LIST), n - 1).unwrap();
        assert_eq!(last.result, 0x0004_0011);
        let bad = Args([u64::MAX - 64, 1 << 31, 0, 0, 0, 0]);
        assert_eq!(dispatch(&host.caller(guest, 0), MULTICALL, bad), Err(Errno::EFAULT));
    }
}
