//! The hypervisor's own page tables.
//!
//! One set of four-level tables for all CPUs: the direct map of memory (writable, no-execute, in the largest pages), the
//! image by permission (nothing is both writable and executable), stacks above unmapped guard pages, and device
//! registers, uncached, where the direct map has their machine addresses. Nothing is mapped for user mode, and nothing
//! at low addresses. The image's code and constants are left out of the direct map, so no writable alias of them exists.
//!
//! Entries only ever go from absent to present, so no TLB flush is needed after the start.
//!
//! Lock protocol: `TABLES` is held while entries are added; frames are allocated under it. To be called with no lock
//! of rank `Frames` or higher held.
// Unsafe: writes page tables.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::ops::Range;
use radon_core::types::{MachineAddr, PAGE_SIZE};
use spin::mutex::TicketMutex;

use crate::cpu::Features;
use crate::cpu::registers::write_cr3;
use crate::frames;
use crate::layout::{self, DIRECT_MAP, DIRECT_MAP_SIZE, STACKS};
use crate::memory::direct_map_pointer;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Address space between two stacks: the largest stack and its guard page fit.
const STACK_SLOT: u64 = 256 << 10;
/// Size of the region of stacks.
const STACKS_SIZE: u64 = 512 << 30;

#[repr(C, align(4096))]
struct Root(UnsafeCell<[u64; 512]>);

// SAFETY: accessed through raw pointers only, by whoever holds `TABLES`, and by the processor.
unsafe impl Sync for Root {}

static ROOT: Root = Root(UnsafeCell::new([0; 512]));

struct Tables {
    /// NX where the processor has it, else 0.
    no_execute: u64,
    huge_pages: bool,
    /// Machine addresses that table frames must stay below: what is mapped now.
    limit: u64,
    stacks: u64,
}

static TABLES: TicketMutex<Tables> =
    TicketMutex::new(Tables { no_execute: 0, huge_pages: false, limit: 1 << 32, stacks: 0 });

/// Why a mapping could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// No frame for a table.
    OutOfMemory,
    /// The machine address is beyond the direct map.
    OutOfRange,
}

impl Tables {
    /// The table that an entry leads to, made if there is none. `None` if the entry maps a large page.
    fn next(&mut self, entry: *mut u64) -> Result<Option<*mut u64>, MapError> {
        // SAFETY: `entry` lies in a page table: the root, or a frame from this function (mapped in the direct map); we
        // hold the lock. The processor may set the accessed bit meanwhile, hence volatile.
        let value = unsafe { entry.read_volatile() };
        if value & PRESENT != 0 {
            return Ok((value & LARGE == 0).then(|| direct_map_pointer(MachineAddr(value & ADDRESS)).cast()));
        }
        let frame = frames::allocate_below(1, self.limit).ok_or(MapError::OutOfMemory)?;
        let table = direct_map_pointer(frame).cast::<u64>();
        // SAFETY: the frame is ours alone and mapped (below `limit`); it is zeroed before it is linked.
        unsafe {
            table.write_bytes(0, 512);
            entry.write_volatile(frame.0 | PRESENT | WRITABLE | ACCESSED);
        }
        Ok(Some(table))
    }

    /// Maps `length` bytes (whole pages); what is mapped already stays as it is.
    fn map(&mut self, virt: u64, phys: u64, length: u64, flags: u64) -> Result<(), MapError> {
        let flags = (flags & !NO_EXECUTE) | (flags & self.no_execute) | PRESENT | ACCESSED | DIRTY | GLOBAL;
        let mut done = 0;
        while done < length {
            done += self.map_one(virt + done, phys + done, length - done, flags)?;
        }
        Ok(())
    }

    /// Has a table of level 1 map the 2 MiB at `virt`, where nothing is mapped.
    fn link(&mut self, virt: u64, table: u64) -> Result<(), MapError> {
        let mut at: *mut u64 = ROOT.0.get().cast();
        for level in [3u32, 2] {
            // SAFETY: the index is below 512, so the entry lies in the table.
            let entry = unsafe { at.add((virt >> (12 + 9 * level)) as usize & 511) };
            at = self.next(entry)?.ok_or(MapError::OutOfRange)?;
        }
        // SAFETY: as in `next`; the index is below 512.
        unsafe { at.add((virt >> 21) as usize & 511).write_volatile(table | PRESENT | WRITABLE | ACCESSED) };
        Ok(())
    }

    /// Maps the largest page that fits; returns its size.
    fn map_one(&mut self, virt: u64, phys: u64, length: u64, flags: u64) -> Result<u64, MapError> {
        let mut table: *mut u64 = ROOT.0.get().cast();
        for level in (1..4u32).rev() {
            let size = PAGE_SIZE << (9 * level);
            // SAFETY: the index is below 512, so the entry lies in the table.
            let entry = unsafe { table.add((virt >> (12 + 9 * level)) as usize & 511) };
            let allowed = level == 1 || level == 2 && self.huge_pages;
            if allowed && (virt | phys) & (size - 1) == 0 && length >= size {
                // SAFETY: as in `next`.
                let value = unsafe { entry.read_volatile() };
                if value & PRESENT == 0 {
                    // SAFETY: as in `next`.
                    unsafe { entry.write_volatile(phys | flags | LARGE) };
                    return Ok(size);
                }
            }
            match self.next(entry)? {
                Some(next) => table = next,
                // A larger page is here already: skip to its end.
                None => return Ok((size - (virt & (size - 1))).min(length)),
            }
        }
        // SAFETY: the index is below 512.
        let entry = unsafe { table.add((virt >> 12) as usize & 511) };
        // SAFETY: as in `next`.
        unsafe {
            if entry.read_volatile() & PRESENT == 0 {
                entry.write_volatile(phys | flags);
            }
        }
        Ok(PAGE_SIZE)
    }
}

/// Machine address of the root table, which CR3 takes.
#[must_use]
pub fn root() -> MachineAddr {
    layout::machine_address(ROOT.0.get() as u64)
}

/// Builds the page tables and loads them. `memory` are the ranges of machine addresses, on page boundaries, that the
/// direct map is to cover.
///
/// # Safety
/// To be called once, on the boot CPU, before others run, with the page tables of the start in use. `memory` is memory
/// that may be cached (no device registers).
pub(crate) unsafe fn init(memory: &[Range<u64>], features: Features) -> Result<(), MapError> {
    {
        let mut tables = TABLES.lock();
        tables.no_execute = if features.nx { NO_EXECUTE } else { 0 };
        tables.huge_pages = features.huge_pages;
        let (text, rodata, data, symbols) = (layout::text(), layout::rodata(), layout::data(), layout::symbols());
        for (section, flags) in [(text, 0), (rodata.clone(), NO_EXECUTE), (symbols, NO_EXECUTE)] {
            let start = section.start;
            tables.map(start, layout::machine_address(start).0, section.end - start, flags)?;
        }
        let guard = layout::boot_stack_guard();
        for part in [data.start..guard, guard + PAGE_SIZE..data.end] {
            let start = part.start;
            tables.map(start, layout::machine_address(start).0, part.end - start, WRITABLE | NO_EXECUTE)?;
        }
        for range in without_constants(memory) {
            let end = range.end.min(DIRECT_MAP_SIZE);
            if range.start < end {
                tables.map(DIRECT_MAP + range.start, range.start, end - range.start, WRITABLE | NO_EXECUTE)?;
            }
        }
    }
    // SAFETY: the new tables map the running code, its data and this stack at the same addresses as before.
    unsafe { write_cr3(root().0) };
    TABLES.lock().limit = u64::MAX;
    Ok(())
}

/// Ranges without the image's code and constants.
pub(crate) fn without_constants(memory: &[Range<u64>]) -> Vec<Range<u64>> {
    let hole = layout::machine_address(layout::text().start).0..layout::machine_address(layout::rodata().end).0;
    let parts = memory.iter().flat_map(|r| [r.start..r.end.min(hole.start), r.start.max(hole.end)..r.end]);
    parts.filter(|r| r.start < r.end).collect()
}

/// Maps device registers uncached, where the direct map has their addresses, and returns the first one's pointer. What
/// is mapped there already (memory) stays as it is.
///
/// # Errors
/// If there is no frame for the tables, or the address is beyond the direct map.
pub(crate) fn map_device(at: MachineAddr, length: u64) -> Result<*mut u8, MapError> {
    let end = at.0.checked_add(length).filter(|&e| e <= DIRECT_MAP_SIZE).ok_or(MapError::OutOfRange)?;
    let start = at.0 & !(PAGE_SIZE - 1);
    let length = end.next_multiple_of(PAGE_SIZE) - start;
    const UNCACHED: u64 = WRITABLE | NO_EXECUTE | WRITE_THROUGH | CACHE_DISABLE;
    TABLES.lock().map(DIRECT_MAP + start, start, length, UNCACHED)?;
    Ok(direct_map_pointer(at))
}

/// Makes memory that reads as zeros at `start..start + length`, a region that is not in use. It can be written where `used`
/// says so of the addresses of a page; all other pages are one page that can only be read.
pub(crate) fn map_sparse(start: u64, length: u64, used: &dyn Fn(Range<u64>) -> bool) -> Result<(), MapError> {
    const LARGE_PAGE: u64 = PAGE_SIZE << 9;
    let mut tables = TABLES.lock();
    let zeroed = |frames: u64| -> Result<u64, MapError> {
        let at = frames::allocate(frames).ok_or(MapError::OutOfMemory)?;
        // SAFETY: fresh RAM in the direct map, ours for ever.
        unsafe { direct_map_pointer(at).write_bytes(0, (frames * PAGE_SIZE) as usize) };
        Ok(at.0)
    };
    // One table of level 1 serves all holes of its size.
    let (zeros, hole) = (zeroed(1)?, zeroed(1)?);
    let flags = NO_EXECUTE & tables.no_execute | PRESENT | ACCESSED | DIRTY | GLOBAL;
    for n in 0..512 {
        // SAFETY: within the frame, which nothing else uses.
        unsafe { direct_map_pointer(MachineAddr(hole)).cast::<u64>().add(n).write(zeros | flags) };
    }
    for block in (start..start + length).step_by(LARGE_PAGE as usize) {
        let block = block..(block + LARGE_PAGE).min(start + length);
        let pages = || block.clone().step_by(PAGE_SIZE as usize).map(|at| at..at + PAGE_SIZE);
        let count = pages().filter(|page| used(page.clone())).count() as u64;
        let whole = block.end - block.start == LARGE_PAGE;
        if count == 0 && whole {
            tables.link(block.start, hole)?;
        } else if count * PAGE_SIZE >= LARGE_PAGE - LARGE_PAGE / 16 {
            tables.map(block.start, zeroed(512)?, LARGE_PAGE, WRITABLE | NO_EXECUTE)?;
        } else {
            for page in pages() {
                let (frame, flags) = if used(page.clone()) { (zeroed(1)?, WRITABLE) } else { (zeros, 0) };
                tables.map(page.start, frame, PAGE_SIZE, flags | NO_EXECUTE)?;
            }
        }
    }
    Ok(())
}

/// Makes a stack of `size` bytes with an unmapped guard below it, and returns its addresses. Stacks are never freed.
pub(crate) fn allocate_stack(size: u64) -> Result<Range<u64>, MapError> {
    let mut tables = TABLES.lock();
    let slot = STACKS + tables.stacks * STACK_SLOT;
    if size >= STACK_SLOT || slot + STACK_SLOT > STACKS + STACKS_SIZE {
        return Err(MapError::OutOfRange);
    }
    tables.stacks += 1;
    let stack = slot + STACK_SLOT - size..slot + STACK_SLOT;
    for page in stack.clone().step_by(PAGE_SIZE as usize) {
        let frame = frames::allocate(1).ok_or(MapError::OutOfMemory)?;
        tables.map(page, frame.0, PAGE_SIZE, WRITABLE | NO_EXECUTE)?;
    }
    Ok(stack)
}

/// Whether a faulting address lies in the region of stacks, where only guards are unmapped.
pub(crate) fn is_stack_guard(at: u64) -> bool {
    (STACKS..STACKS + STACKS_SIZE).contains(&at)
}

/// What the tables say of a virtual address: (machine address, writable, executable). For tests and reports.
#[must_use]
pub fn translate(virt: u64) -> Option<(MachineAddr, bool, bool)> {
    let _tables = TABLES.lock();
    let mut table: *const u64 = ROOT.0.get().cast();
    let (mut writable, mut executable) = (true, true);
    for level in (0..4u32).rev() {
        // SAFETY: the index is below 512, and tables are mapped; see `Tables::next`.
        let value = unsafe { table.add((virt >> (12 + 9 * level)) as usize & 511).read_volatile() };
        if value & PRESENT == 0 {
            return None;
        }
        writable &= value & WRITABLE != 0;
        executable &= value & NO_EXECUTE == 0;
        if level == 0 || value & LARGE != 0 {
            let mask = (PAGE_SIZE << (9 * level)) - 1;
            return Some((MachineAddr((value & ADDRESS & !mask) | (virt & mask)), writable, executable));
        }
        table = direct_map_pointer(MachineAddr(value & ADDRESS)).cast();
    }
    None
}
