//! dom0's memory plan: which machine memory becomes dom0's, what its memory map says, and where the kernel's
//! companions (initial RAM disk, start information, ACPI tables) are placed.
//!
//! dom0 sees machine addresses: its RAM is machine RAM at the same addresses, so that it can drive devices that do DMA
//! without an IOMMU. It gets low memory first, since that is what devices can reach. Pure computation; touches nothing.

use super::ranges::{RangeSet, length};
use super::start_info::{MAX_MEMMAP, MemmapEntry};
use crate::boot_info::{MemoryKind, MemoryRegion};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use radon_core::options::{Dom0Memory, MemoryAmount};
use radon_core::sort::sort_by_key;
use radon_core::types::PAGE_SIZE;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// The size of the large pages that the plan prefers.
const LARGE: u64 = 2 * MIB;
/// Where 32-bit addresses end: the kernel is entered in 32-bit mode and must reach all that it is handed.
const BELOW_4G: Range<u64> = 0..4 * GIB;
/// What Linux's first page tables map: it reads the start information's memory map before it makes others.
const BELOW_1G: Range<u64> = 0..GIB;
/// What the hypervisor needs beside dom0 at least, whatever `dom0_mem` says: this, and dom0's share of nested page tables
/// at their largest.
const LEAST_LEFT: u64 = 8 * MIB;
const PAGE_TABLE_SHARE: u64 = 512;
/// What is left for guests unless `dom0_mem` says otherwise: a sixteenth, at most this.
const MOST_LEFT: u64 = 128 * MIB;
/// Memory above 1 MiB that a kernel needs beside its image to come up at all.
const KERNEL_ROOM: u64 = 32 * MIB;

/// What a plan is made from. All ranges are machine addresses.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The machine's memory map, without overlaps.
    pub map: &'a [MemoryRegion],
    /// What the hypervisor keeps: its image, its heap, its frame table, the page in which other CPUs start.
    pub kept: &'a [Range<u64>],
    /// `dom0_mem=`.
    pub size: Dom0Memory,
    /// Where the kernel's segments go.
    pub kernel: Range<u64>,
    /// The initial RAM disk as the boot loader placed it.
    pub initrd: Option<Range<u64>>,
    /// Where the unpacked kernel file is: the scratch place, or its module if it needed no unpacking.
    pub unpacked: Range<u64>,
    /// What may be part of dom0's memory in the end, but holds data while dom0 is built: other boot modules. Nothing is
    /// placed there but the kernel.
    pub busy: &'a [Range<u64>],
    /// Bytes needed for the start information.
    pub start_info: u64,
    /// Bytes needed for dom0's own ACPI tables.
    pub acpi: u64,
}

/// A memory plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The machine memory that becomes dom0's RAM, in whole frames; all the places below are in it.
    pub ram: RangeSet,
    /// Its memory map, ascending; at most [`MAX_MEMMAP`] entries.
    pub memmap: Vec<MemmapEntry>,
    /// Where the initial RAM disk must be: move it there, before the kernel is loaded, if it is elsewhere.
    pub initrd: Option<Range<u64>>,
    /// Where the start information goes.
    pub start_info: Range<u64>,
    /// Where dom0's ACPI tables go; the memory map has it as ACPI memory.
    pub acpi: Range<u64>,
    /// dom0's memory in bytes.
    pub size: u64,
    /// The most that dom0 may ever have in bytes, or `None` if not limited.
    pub max: Option<u64>,
}

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// `dom0_mem` asks for more than there is.
    TooMuch {
        /// Bytes asked for.
        wanted: u64,
        /// Bytes that dom0 can have.
        available: u64,
    },
    /// The memory dom0 is to get (or that the machine has) is too little for the kernel and its companions.
    TooLittle {
        /// Bytes that dom0 would get.
        size: u64,
        /// Bytes needed at least.
        needs: u64,
    },
    /// The kernel's place is not free RAM.
    KernelPlace {
        /// The kernel's place.
        kernel: Range<u64>,
        /// The first part of it that cannot be used.
        conflict: Range<u64>,
    },
    /// No free place below 4 GiB for one of the companions.
    NoRoom {
        /// What should have been placed.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes.div_ceil(MIB);
        match self {
            PlanError::TooMuch { wanted, available } => write!(
                f,
                "dom0_mem asks for {} MiB, but dom0 can have {} MiB on this machine; give a smaller dom0_mem",
                mib(wanted),
                available / MIB
            ),
            PlanError::TooLittle { size, needs } => write!(
                f,
                "dom0 would get {} MiB, but its kernel and initial RAM disk need at least {} MiB; give a larger dom0_mem",
                mib(size),
                mib(needs)
            ),
            PlanError::KernelPlace { kernel, conflict } => write!(
                f,
                "the dom0 kernel must be at {:#x}-{:#x}, but {:#x}-{:#x} is not free RAM on this machine",
                kernel.start, kernel.end, conflict.start, conflict.end
            ),
            PlanError::NoRoom { what, size } => write!(
                f,
                "no room for the {what} ({} KiB in one piece) beside the kernel in dom0's memory below 4 GiB; give a larger \
                 dom0_mem or a smaller file",
                size.div_ceil(1024)
            ),
        }
    }
}

impl core::error::Error for PlanError {}

/// The RAM of a machine without `kept`, in whole frames.
#[must_use]
pub fn free_ram(map: &[MemoryRegion], kept: &[Range<u64>]) -> RangeSet {
    let ram = map.iter().filter(|r| r.kind == MemoryKind::Ram);
    let mut free = ram.map(|r| r.start.0..r.end().0).collect::<RangeSet>();
    kept.iter().for_each(|k| free.remove(k));
    free.aligned(PAGE_SIZE)
}

/// A place of `size` bytes in the highest free RAM, for the unpacked kernel while dom0 is built. `taken` is what must
/// not be touched: what the hypervisor keeps and the boot modules.
#[must_use]
pub fn scratch(map: &[MemoryRegion], taken: &[Range<u64>], size: u64) -> Option<Range<u64>> {
    free_ram(map, taken).highest(size.checked_next_multiple_of(PAGE_SIZE)?, LARGE)
}

/// Makes the plan.
///
/// # Errors
/// See [`PlanError`].
pub fn plan(request: &Request<'_>) -> Result<Plan, PlanError> {
    let free = free_ram(request.map, request.kept);
    let (size, max) = amount(&request.size, most_for_dom0(free.total()))?;

    let kernel = frames(&request.kernel);
    if !free.contains(&kernel) {
        let mut conflict = RangeSet::from_iter([kernel.clone()]);
        free.iter().for_each(|r| conflict.remove(&r));
        let conflict = conflict.iter().next().unwrap_or(kernel.clone());
        return Err(PlanError::KernelPlace { kernel, conflict });
    }

    if RangeSet::from_iter([kernel.clone()]).overlaps(&request.unpacked) {
        return Err(PlanError::NoRoom { what: "unpacked kernel", size: length(&request.unpacked) });
    }

    // What dom0 cannot do without: low memory (for the firmware's data and for starting its CPUs) and the kernel.
    let mut ram = free.within(&(0..LARGE));
    ram.insert(kernel.clone());
    let initrd_size = request.initrd.as_ref().map_or(0, length);
    let needs = [initrd_size, request.start_info, request.acpi, KERNEL_ROOM];
    let needs = needs.iter().fold(ram.total(), |sum, n| sum.saturating_add(*n));
    if size < needs {
        return Err(PlanError::TooLittle { size, needs });
    }
    // Then from the bottom up: whole large pages first, and the pieces between them only if those do not suffice.
    for candidates in [free.aligned(LARGE), free.clone()] {
        for range in candidates.iter() {
            let mut fresh = RangeSet::from_iter([range]);
            ram.iter().for_each(|r| fresh.remove(&r));
            for part in fresh.iter() {
                let missing = size.saturating_sub(ram.total());
                ram.insert(part.start..part.end.min(part.start.saturating_add(missing)));
            }
        }
    }

    // Companions go to the top of what a 32-bit address reaches, out of the way of everything in use.
    let mut room = ram.within(&BELOW_4G);
    room.remove(&(0..MIB));
    room.remove(&kernel);
    let in_place = |i: &Range<u64>| room.contains(&frames(i)) && i.start & (PAGE_SIZE - 1) == 0;
    let stays = request.initrd.as_ref().is_some_and(in_place);
    request.busy.iter().chain(&request.initrd).chain([&request.unpacked]).for_each(|b| room.remove(&frames(b)));
    let mut place = |what, size: u64, limit| {
        let whole = size.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        let found = room.within(limit).highest(whole, PAGE_SIZE).ok_or(PlanError::NoRoom { what, size })?;
        room.remove(&found);
        Ok(found.start..found.start.saturating_add(size))
    };
    let start_info = place("start information", request.start_info, &BELOW_1G)?;
    let acpi = frames(&place("ACPI tables", request.acpi, &BELOW_4G)?);
    let initrd = match &request.initrd {
        Some(at) if !stays => Some(place("initial RAM disk", length(at), &BELOW_4G)?),
        at => at.clone(),
    };
    let memmap = memory_map(request.map, &ram, &acpi);
    Ok(Plan { size: ram.total(), ram, memmap, initrd, start_info, acpi, max })
}

/// How much of the free memory dom0 can have.
fn most_for_dom0(free: u64) -> u64 {
    free.saturating_sub(LEAST_LEFT).saturating_sub(free / PAGE_TABLE_SHARE) & !(PAGE_SIZE - 1)
}

/// dom0's size and upper limit from `dom0_mem` and the memory that is available.
fn amount(option: &Dom0Memory, available: u64) -> Result<(u64, Option<u64>), PlanError> {
    let resolve = |a: &MemoryAmount| a.resolve(available) & !(PAGE_SIZE - 1);
    let (wanted, min) = (option.size.as_ref().map(resolve), option.min.as_ref().map(resolve));
    let max = option.max.as_ref().map(resolve);
    let left = (available / 16).min(MOST_LEFT);
    let size = wanted.unwrap_or(available.saturating_sub(left) & !(PAGE_SIZE - 1));
    let size = size.max(min.unwrap_or(0)).min(max.unwrap_or(u64::MAX));
    if size > available {
        return Err(PlanError::TooMuch { wanted: size, available });
    }
    Ok((size, max))
}

/// The smallest range of whole frames around a range.
fn frames(range: &Range<u64>) -> Range<u64> {
    range.start & !(PAGE_SIZE - 1)..range.end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX)
}

/// The machine's map as dom0 sees it: RAM that is not dom0's is reserved, so that it is never used for anything else.
fn memory_map(map: &[MemoryRegion], ram: &RangeSet, acpi: &Range<u64>) -> Vec<MemmapEntry> {
    let mut own = ram.clone();
    own.remove(acpi);
    let mut parts: Vec<(Range<u64>, MemoryKind)> = Vec::new();
    for region in map {
        let range = region.start.0..region.end().0;
        if region.kind != MemoryKind::Ram {
            parts.push((range, region.kind));
            continue;
        }
        let mut rest = RangeSet::from_iter([range.clone()]);
        for (set, kind) in [
            (own.within(&range), MemoryKind::Ram),
            (RangeSet::from_iter([acpi.clone()]).within(&range), MemoryKind::AcpiReclaimable),
        ] {
            set.iter().for_each(|r| rest.remove(&r));
            parts.extend(set.iter().map(|r| (r, kind)));
        }
        parts.extend(rest.iter().map(|r| (r, MemoryKind::Reserved)));
    }
    sort_by_key(&mut parts, |(range, _)| range.start);
    let mut out: Vec<(Range<u64>, MemoryKind)> = Vec::new();
    for (range, kind) in parts {
        match out.last_mut() {
            Some((last, k)) if *k == kind && last.end == range.start => last.end = range.end,
            _ => out.push((range, kind)),
        }
    }
    // Linux takes only so many entries. Reserved ranges inside the map are the ones to lose (what is not listed is not
    // used as RAM either); RAM beyond that would have to be lost from the top.
    if out.len() > MAX_MEMMAP {
        out.retain(|(_, kind)| *kind != MemoryKind::Reserved);
        out.truncate(MAX_MEMMAP);
    }
    let entry = |(range, kind): (Range<u64>, MemoryKind)| MemmapEntry {
        addr: range.start,
        size: length(&range),
        kind: kind.to_e820(),
        reserved: 0,
    };
    out.into_iter().map(entry).collect()
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
