//! The console ring and the debug keys.

use radon_abi::errno::Errno;
use radon_abi::sysctl::{DebugKeys, ReadConsole};

use super::{read, write};
use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::types::GuestVirtAddr;

/// Most bytes that one reading of the ring returns; who wants more goes on incrementally.
const READ_MAX: u32 = 256 << 10;
/// Most keys pressed at once.
const KEYS_MAX: u32 = 64;

/// `XEN_SYSCTL_readconsole`: copies the console ring out, from the beginning or from an index, and clears it if asked.
///
/// Work: 256 KiB at most. Errors: `EFAULT`; nothing is cleared then.
pub(super) fn read_console(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: ReadConsole = read(caller, args)?;
    let index = (r.incremental != 0).then_some(r.index);
    let out = |offset: u32, bytes: &[u8]| {
        let to = r.buffer.checked_add(u64::from(offset)).ok_or(Errno::EFAULT)?;
        caller.memory.write(GuestVirtAddr(to), bytes)
    };
    let (count, next) = caller.hv.console.read_ring(r.count.min(READ_MAX), index, r.clear != 0, out)?;
    r.count = count;
    r.index = next;
    write(caller, args, &r)
}

/// `XEN_SYSCTL_debug_keys`: as if the keys were pressed on the console.
///
/// Work: 64 keys at most. Errors: `E2BIG` for more keys; `EFAULT`.
pub(super) fn debug_keys(caller: &Caller<'_>, args: Args) -> OpResult {
    let r: DebugKeys = read(caller, args)?;
    if r.nr_keys > KEYS_MAX {
        return Err(Errno::E2BIG);
    }
    for n in 0..r.nr_keys {
        let key: u8 = caller.read_at(GuestVirtAddr(r.keys), u64::from(n))?;
        caller.hv.console.press(caller.hv, key);
    }
    SUCCESS
}
