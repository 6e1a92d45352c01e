//! Machine frames for the hypervisor itself, and what is left for the frame allocator of core.
//!
//! While the machine starts, frames come from a list of free regions, from the top of memory down (so that low memory
//! stays whole for dom0, which is mapped one to one). [`hand_over`] gives the rest away; from then on
//! its source is asked.
//!
//! Lock protocol: the list is behind a lock of rank `Frames`; the source is called with it released. The source must
//! hand out frames that nothing else uses: hal's soundness rests on core's frame accounting here.
// Unsafe: makes the frame table from raw memory.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::ops::Range;
use radon_core::frames::FrameInfo;
use radon_core::sort::sort_by_key;
use radon_core::sync::{Lock, Rank};
use radon_core::types::{MachineAddr, PAGE_SIZE};
use spin::once::Once;

use crate::layout::FRAME_TABLE;
use crate::paging;

/// Most free regions while starting. A memory map has some dozens of entries; more than this many lose their smallest.
const MAX_REGIONS: usize = 512;

static FREE: Lock<ArrayVec<Range<u64>, MAX_REGIONS>> = Lock::new(Rank::Frames, ArrayVec::new_const());
static SOURCE: Once<Source> = Once::new();

/// Where frames come from once the machine runs.
pub struct Source {
    /// Gives a number of frames in a row, aligned to that number, which is a power of two; for ever.
    pub forever: fn(frames: u64) -> Option<MachineAddr>,
    /// Gives a number of frames in a row until they are given back.
    pub take: fn(frames: u64) -> Option<MachineAddr>,
    /// Takes back what `take` gave; `false`, and nothing is done, for all else.
    pub give_back: fn(at: MachineAddr, frames: u64) -> bool,
}

/// The whole frames of `usable` that no part of `reserved` lies in. All addresses in bytes.
pub(crate) fn whole_frames(usable: &[Range<u64>], reserved: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut free: Vec<Range<u64>> = Vec::new();
    for region in usable {
        let whole = region.start.next_multiple_of(PAGE_SIZE)..region.end & !(PAGE_SIZE - 1);
        let mut rest: Vec<_> = core::iter::once(whole).collect();
        for hole in reserved {
            let hole = hole.start & !(PAGE_SIZE - 1)..hole.end.next_multiple_of(PAGE_SIZE);
            let parts = rest.into_iter().flat_map(|r| [r.start..r.end.min(hole.start), r.start.max(hole.end)..r.end]);
            rest = parts.filter(|r| r.start < r.end).collect();
        }
        free.extend(rest.into_iter().filter(|r| r.start < r.end));
    }
    free
}

/// Takes the machine's usable memory without the reserved ranges. All addresses in bytes.
pub(crate) fn init(usable: &[Range<u64>], reserved: &[Range<u64>]) {
    let mut free = whole_frames(usable, reserved);
    if free.len() > MAX_REGIONS {
        sort_by_key(&mut free, |r| core::cmp::Reverse(r.end - r.start));
        free.truncate(MAX_REGIONS);
    }
    sort_by_key(&mut free, |r| r.start);
    *FREE.lock() = free.into_iter().collect();
}

/// Takes `frames` contiguous frames (a power of two), aligned to their size. Their contents are undefined. The caller
/// owns them for ever. `None` if there are none, or none below `limit` while starting.
pub(crate) fn allocate_below(frames: u64, limit: u64) -> Option<MachineAddr> {
    if let Some(source) = SOURCE.get() {
        return (source.forever)(frames);
    }
    let size = frames.checked_mul(PAGE_SIZE)?;
    let mut free = FREE.lock();
    for i in (0..free.len()).rev() {
        let region = free[i].clone();
        let Some(start) = region.end.min(limit).checked_sub(size).map(|s| s & !(size - 1)) else { continue };
        if start < region.start {
            continue;
        }
        let tail = start + size..region.end;
        free[i].end = start;
        if free[i].is_empty() {
            free.remove(i);
        }
        if !tail.is_empty() {
            let at = free.partition_point(|r| r.start < tail.start);
            // Without room in the list the tail is lost, not used twice.
            let _ = free.try_insert(at, tail);
        }
        return Some(MachineAddr(start));
    }
    None
}

/// As [`allocate_below`] without a limit.
pub(crate) fn allocate(frames: u64) -> Option<MachineAddr> {
    allocate_below(frames, u64::MAX)
}

/// The table that describes all machine frames up to the end of `ram` (in bytes) for core's allocator. It has memory only
/// where it describes RAM; elsewhere it reads as zeros, frames that do not exist, and cannot be written. To be called
/// once, before [`hand_over`].
///
/// # Panics
/// If there is not enough memory for it.
#[must_use]
pub fn frame_table(ram: &[Range<u64>]) -> &'static [FrameInfo] {
    const SIZE: u64 = size_of::<FrameInfo>() as u64;
    let count = ram.iter().map(|r| r.end.div_ceil(PAGE_SIZE)).max().unwrap_or(0);
    let bytes = (count * SIZE).next_multiple_of(PAGE_SIZE);
    let describes_ram = |page: Range<u64>| {
        let frames = (page.start - FRAME_TABLE) / SIZE..(page.end - FRAME_TABLE).div_ceil(SIZE);
        ram.iter().any(|r| r.start < frames.end * PAGE_SIZE && frames.start * PAGE_SIZE < r.end)
    };
    if let Err(e) = paging::map_sparse(FRAME_TABLE, bytes, &describes_ram) {
        crate::report::fatal(None, format_args!("no memory for the frame table of {} KiB ({e:?})", bytes >> 10));
    }
    // SAFETY: mapped just now, for ever, and used for this alone. All zeros is a valid `FrameInfo` (atomics; its
    // documentation says so), and core only reads what describes frames that it was not told of.
    unsafe { core::slice::from_raw_parts(FRAME_TABLE as *const FrameInfo, count as usize) }
}

/// Takes contiguous frames from the top of the highest free region that has them, without rounding the number up.
pub(crate) fn allocate_exactly(frames: u64) -> Option<MachineAddr> {
    let size = frames.checked_mul(PAGE_SIZE)?;
    let mut free = FREE.lock();
    let region = free.iter_mut().rev().find(|r| r.end - r.start > size)?;
    region.end -= size;
    Some(MachineAddr(region.end))
}

/// Bytes that are free now, before [`hand_over`].
#[must_use]
pub fn free_bytes() -> u64 {
    FREE.lock().iter().map(|r| r.end - r.start).sum()
}

/// Gives all free memory away, as ranges of machine addresses on frame boundaries, sorted. To be called once; from then
/// on hal gets frames from `source` only.
#[must_use]
pub fn hand_over(source: Source) -> Vec<Range<u64>> {
    let free = core::mem::take(&mut *FREE.lock());
    // SAFETY: the source hands out frames of RAM that nothing else uses (see the top of this file).
    unsafe { crate::heap::set_blocks(source.take, source.give_back) };
    SOURCE.call_once(|| source);
    free.into_iter().collect()
}
