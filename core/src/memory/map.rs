//! Memory maps: the E820 that a domain's builder gave it, and device memory that the toolstack should avoid.

use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::memory::{self as abi, E820Entry};

use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::sync::{Lock, Rank};
use crate::types::GuestVirtAddr;

/// Ranges that a map may have.
const MAX_ENTRIES: u32 = 128;

/// A domain's memory map as the guest may ask for it.
pub struct MemoryMap {
    entries: Lock<Vec<E820Entry>>,
}

impl Default for MemoryMap {
    fn default() -> Self {
        MemoryMap { entries: Lock::new(Rank::Domain, Vec::new()) }
    }
}

impl MemoryMap {
    /// Replaces the map.
    pub fn set(&self, entries: Vec<E820Entry>) {
        *self.entries.lock() = entries;
    }

    /// A copy of the map.
    #[must_use]
    pub fn entries(&self) -> Vec<E820Entry> {
        self.entries.lock().clone()
    }
}

/// `XENMEM_memory_map`: copies out the caller's map, as much as the buffer holds.
///
/// # Errors
/// `EFAULT`. `ENOSYS`: it has none.
pub(super) fn get(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut map: abi::MemoryMap = caller.read(args.handle(1))?;
    let entries = caller.domain.memory_map.entries();
    if entries.is_empty() {
        return Err(Errno::ENOSYS);
    }
    map.nr_entries = map.nr_entries.min(entries.len() as u32);
    for (n, entry) in entries.iter().take(map.nr_entries as usize).enumerate() {
        caller.write_at(GuestVirtAddr(map.buffer), n as u64, entry)?;
    }
    caller.write(args.handle(1), &map)?;
    SUCCESS
}

/// `XENMEM_set_memory_map`: sets a domain's map.
///
/// # Errors
/// `EFAULT`. `EINVAL`: more than 128 entries. `ESRCH`, `EPERM`: see [`Caller::target`].
pub(super) fn set(caller: &Caller<'_>, args: Args) -> OpResult {
    let request: abi::ForeignMemoryMap = caller.read(args.handle(1))?;
    if request.map.nr_entries > MAX_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let domain = caller.target(request.domid)?;
    let buffer = GuestVirtAddr(request.map.buffer);
    let entries: Result<Vec<E820Entry>, Errno> =
        (0..request.map.nr_entries).map(|n| caller.read_at(buffer, u64::from(n))).collect();
    domain.memory_map.set(entries?);
    SUCCESS
}

/// `XENMEM_reserved_device_memory_map`: the regions that firmware reserves for devices behind an IOMMU. There are none
/// without one.
///
/// # Errors
/// `EFAULT`. `EINVAL`: unknown flags.
pub(super) fn reserved_device_memory(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut request: abi::ReservedDeviceMemoryMap = caller.read(args.handle(1))?;
    if request.flags & !abi::XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL);
    }
    request.nr_entries = 0;
    caller.write(args.handle(1), &request)?;
    SUCCESS
}
