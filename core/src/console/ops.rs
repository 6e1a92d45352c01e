//! The hypercall `console_io(cmd, count, buffer)`.

use radon_abi::errno::Errno;
use radon_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, operation};
use crate::types::GuestVirtAddr;

/// Bytes copied at a time: one unit of a call's budget.
const CHUNK: usize = 256;

/// Its operations.
pub static OPERATIONS: &[Operation] = &[
    Operation { number: CONSOLEIO_WRITE, name: "CONSOLEIO_write", coverage: Coverage::Full, handler: write },
    Operation { number: CONSOLEIO_READ, name: "CONSOLEIO_read", coverage: Coverage::Full, handler: read },
];

/// `console_io(cmd, count, buffer)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation; else see there.
pub fn console_io(caller: &Caller<'_>, args: Args) -> OpResult {
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// `CONSOLEIO_write`: dom0's bytes go out as they are; other domains' lines are logged as theirs, at debug level and
/// rate-limited (what a debug build of Xen does; a release build refuses them).
fn write(caller: &Caller<'_>, args: Args) -> OpResult {
    let (mut count, mut buffer) = (args.u32(1), args.get(2));
    while count > 0 {
        if !caller.spend() {
            return Ok(Outcome::Continue(args.with(1, u64::from(count)).with(2, buffer)));
        }
        let mut bytes = [0; CHUNK];
        let n = (count as usize).min(CHUNK);
        let bytes = bytes.get_mut(..n).unwrap_or_default();
        caller.memory.read(GuestVirtAddr(buffer), bytes)?;
        if caller.domain.is_hardware() {
            caller.hv.console.write_raw(caller.hv, bytes);
        } else {
            caller.hv.console.guest_write(caller.hv, caller.domain.id, bytes);
        }
        count = count.saturating_sub(n as u32);
        buffer = buffer.wrapping_add(n as u64);
    }
    SUCCESS
}

/// `CONSOLEIO_read`: what was typed for dom0. Returns the number of bytes.
///
/// Errors: `EPERM` for others than dom0; `E2BIG` if more is asked for than a result can say; `EFAULT`.
fn read(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let count = args.u32(1);
    if count > i32::MAX as u32 {
        return Err(Errno::E2BIG);
    }
    let mut done: u32 = 0;
    while done < count && caller.spend() {
        let mut bytes = [0; CHUNK];
        let room = (count.saturating_sub(done) as usize).min(CHUNK);
        let n = caller.hv.console.take_input(bytes.get_mut(..room).unwrap_or_default());
        if n == 0 {
            break;
        }
        let to = GuestVirtAddr(args.get(2).wrapping_add(u64::from(done)));
        caller.memory.write(to, bytes.get(..n).unwrap_or_default())?;
        done = done.saturating_add(n as u32);
    }
    Ok(Outcome::Done(u64::from(done)))
}
