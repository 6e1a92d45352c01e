//! `xenctl_bitmap`: sets of CPUs or nodes that the toolstack passes with the size it has room for.

use radon_abi::domctl::Bitmap;
use radon_abi::errno::Errno;

use crate::hypercall::Caller;
use crate::sched::{CPUS_MAX, CpuSet};
use crate::types::GuestVirtAddr;

const BYTES: usize = CPUS_MAX / 8;
/// Most bits of a bitmap that is written. What the toolstack passes is sized by the machine.
const BITS_MAX: u32 = 1 << 15;

/// Copies a set out. Room beyond the set is zeroed; what does not fit is left out.
///
/// # Errors
/// `EFAULT`; `EINVAL` for a bitmap of more than 32768 bits.
pub(super) fn write(caller: &Caller<'_>, to: &Bitmap, set: CpuSet) -> Result<(), Errno> {
    if to.nr_bits > BITS_MAX {
        return Err(Errno::EINVAL);
    }
    let mut bytes = set.to_bytes();
    let mut left = to.nr_bits.div_ceil(8) as usize;
    let mut at = to.bitmap;
    while left > 0 {
        let mut chunk = [0; BYTES];
        chunk.iter_mut().zip(bytes.by_ref()).for_each(|(to, from)| *to = from);
        let part = chunk.get(..left.min(BYTES)).unwrap_or(&chunk);
        caller.memory.write(GuestVirtAddr(at), part)?;
        at = at.wrapping_add(part.len() as u64);
        left = left.saturating_sub(part.len());
    }
    Ok(())
}

/// Copies a set in. Bits beyond those that exist are ignored.
///
/// # Errors
/// `EFAULT`.
pub(super) fn read(caller: &Caller<'_>, from: &Bitmap) -> Result<CpuSet, Errno> {
    let mut bytes = [0; BYTES];
    let length = (from.nr_bits.div_ceil(8) as usize).min(BYTES);
    let part = bytes.get_mut(..length).unwrap_or_default();
    caller.memory.read(GuestVirtAddr(from.bitmap), part)?;
    let set = CpuSet::from_bytes(&bytes);
    // The last byte may have more bits than the bitmap.
    Ok(set.and(&CpuSet::first(from.nr_bits.min(CPUS_MAX as u32))))
}
