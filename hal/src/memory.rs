//! Machine memory through the direct map: the implementation of [`PhysMemory`].
//!
//! Guest memory is never a Rust reference here: bytes move by string instructions in assembly, which the compiler knows
//! nothing about, and by atomic operations. Addresses outside of [`DirectMap`]'s ranges read as all ones and swallow
//! writes. The ranges are fixed before other CPUs start.
// Unsafe: raw memory access.
#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use radon_core::platform::PhysMemory;
use radon_core::sort::sort_by_key;
use radon_core::types::{MachineAddr, Mfn, PAGE_SIZE};
use spin::once::Once;

use crate::layout::{DIRECT_MAP, DIRECT_MAP_SIZE};

/// Most separate ranges of memory.
pub const MAX_RANGES: usize = 256;

/// Ranges of machine memory that the direct map covers.
#[derive(Debug)]
pub struct DirectMap {
    /// Largest first, so that the first comparison nearly always decides.
    ranges: ArrayVec<Range<u64>, MAX_RANGES>,
}

static MEMORY: Once<DirectMap> = Once::new();

/// Machine memory. To be asked for after the page tables are up.
///
/// # Panics
/// If called before [`crate::boot`] has set the page tables up.
#[must_use]
pub fn memory() -> &'static DirectMap {
    #[expect(clippy::expect_used, reason = "a bug in the order of the start, found at the first boot")]
    MEMORY.get().expect("memory is asked for before it is set up")
}

/// Fixes the ranges, once.
///
/// # Safety
/// The page tables map each of the ranges writable in the direct map for ever, and no Rust object lies in them but those
/// whose owner accounts for it (heap chunks, page tables and stacks taken from the frame allocator).
pub(crate) unsafe fn init(ranges: &[Range<u64>]) {
    MEMORY.call_once(|| DirectMap::new(ranges));
}

impl DirectMap {
    /// The first 4 GiB, as the page tables of the start map them.
    ///
    /// # Safety
    /// Those page tables are in use, and the object is used only to read what firmware and boot loader left.
    pub(crate) unsafe fn early() -> DirectMap {
        DirectMap::new(core::slice::from_ref(&(0..1 << 32)))
    }

    fn new(ranges: &[Range<u64>]) -> DirectMap {
        let mut sorted: ArrayVec<_, MAX_RANGES> = ranges.iter().take(MAX_RANGES).cloned().collect();
        sort_by_key(&mut sorted, |r| core::cmp::Reverse(r.end - r.start));
        DirectMap { ranges: sorted }
    }

    /// The ranges, largest first.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Whether all of `length` bytes at `at` are memory.
    #[must_use]
    #[inline(always)]
    pub fn contains(&self, at: MachineAddr, length: u64) -> bool {
        let Some(end) = at.0.checked_add(length) else { return false };
        self.ranges.iter().any(|r| r.start <= at.0 && end <= r.end)
    }

    /// The pointer to `length` bytes at `at`, if all are memory.
    #[inline(always)]
    fn pointer(&self, at: MachineAddr, length: u64) -> Option<*mut u8> {
        self.contains(at, length).then(|| direct_map_pointer(at))
    }

    /// Runs `f` on each piece of an area that lies in one frame: (offset, pointer or `None` outside of memory, length).
    fn pieces(&self, at: MachineAddr, length: usize, mut f: impl FnMut(usize, Option<*mut u8>, usize)) {
        if let Some(p) = self.pointer(at, length as u64) {
            return f(0, Some(p), length);
        }
        let mut offset = 0;
        while offset < length {
            // Beyond the end of all addresses there is nothing.
            let Some(here) = at.checked_add(offset as u64) else { return f(offset, None, length - offset) };
            let n = ((PAGE_SIZE - here.offset()) as usize).min(length - offset);
            // A range may start or end within a frame: then byte by byte.
            match self.pointer(here, n as u64) {
                Some(p) => f(offset, Some(p), n),
                None => (0..n as u64).for_each(|i| {
                    let byte = here.checked_add(i).and_then(|at| self.pointer(at, 1));
                    f(offset + i as usize, byte, 1);
                }),
            }
            offset += n;
        }
    }
}

/// Where the direct map has a machine address. Valid to use only where something is mapped.
#[must_use]
pub fn direct_map_pointer(at: MachineAddr) -> *mut u8 {
    debug_assert!(at.0 < DIRECT_MAP_SIZE);
    (DIRECT_MAP + (at.0 & (DIRECT_MAP_SIZE - 1))) as *mut u8
}

/// Copies bytes without telling the compiler what they are.
///
/// # Safety
/// Both areas are mapped, the target is writable and holds no Rust object that anyone refers to (but the caller).
unsafe fn copy_bytes(to: *mut u8, from: *const u8, length: usize) {
    // SAFETY: by the caller's promise. The direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {tail:e}",
            "rep movsb",
            tail = in(reg) length & 7,
            inout("rcx") length / 8 => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags),
        );
    }
}

macro_rules! atomic {
    ($self:ident, $at:ident, $ty:ty, $atomic:ty, $absent:expr, |$a:ident| $then:expr) => {{
        const SIZE: u64 = size_of::<$ty>() as u64;
        match $self.pointer(MachineAddr($at.0 & !(SIZE - 1)), SIZE) {
            Some(p) => {
                // SAFETY: mapped (it is in a range) and aligned (rounded down above; the direct map's base is aligned).
                // All of Radon accesses such memory by atomics or assembly only.
                let $a = unsafe { <$atomic>::from_ptr(p.cast()) };
                $then
            }
            None => $absent,
        }
    }};
}

impl PhysMemory for DirectMap {
    fn read(&self, from: MachineAddr, to: &mut [u8]) {
        let target = to.as_mut_ptr();
        let length = to.len();
        self.pieces(from, length, |offset, source, n| {
            // SAFETY: `pieces` stays within `length`; a pointer it gives is mapped for `n` bytes.
            unsafe {
                match source {
                    Some(p) => copy_bytes(target.add(offset), p, n),
                    None => target.add(offset).write_bytes(0xff, n),
                }
            }
        });
    }

    fn write(&self, to: MachineAddr, from: &[u8]) {
        self.pieces(to, from.len(), |offset, target, n| {
            if let Some(p) = target {
                // SAFETY: `pieces` stays within the slice; a pointer it gives is mapped for `n` bytes.
                unsafe { copy_bytes(p, from.as_ptr().add(offset), n) };
            }
        });
    }

    fn copy(&self, to: MachineAddr, from: MachineAddr, length: u64) {
        if let (Some(t), Some(f)) = (self.pointer(to, length), self.pointer(from, length)) {
            // SAFETY: both are mapped for `length` bytes.
            unsafe { copy_bytes(t, f, length as usize) };
            return;
        }
        let mut piece = [0u8; 256];
        let mut offset = 0;
        while offset < length {
            let n = (length - offset).min(piece.len() as u64);
            let part = &mut piece[..n as usize];
            self.read(MachineAddr(from.0.wrapping_add(offset)), part);
            self.write(MachineAddr(to.0.wrapping_add(offset)), part);
            offset += n;
        }
    }

    fn zero_frame(&self, frame: Mfn) {
        if let Some(p) = self.pointer(frame.addr(), PAGE_SIZE) {
            // SAFETY: the frame is mapped; the direction flag is clear by the ABI.
            unsafe {
                asm!("rep stosq", inout("rcx") PAGE_SIZE / 8 => _, inout("rdi") p => _, in("rax") 0u64,
                    options(nostack, preserves_flags));
            }
        }
    }

    fn load_u32(&self, at: MachineAddr) -> u32 {
        atomic!(self, at, u32, AtomicU32, u32::MAX, |a| a.load(Ordering::Acquire))
    }

    fn store_u32(&self, at: MachineAddr, value: u32) {
        atomic!(self, at, u32, AtomicU32, (), |a| a.store(value, Ordering::Release));
    }

    fn load_u64(&self, at: MachineAddr) -> u64 {
        atomic!(self, at, u64, AtomicU64, u64::MAX, |a| a.load(Ordering::Acquire))
    }

    fn store_u64(&self, at: MachineAddr, value: u64) {
        atomic!(self, at, u64, AtomicU64, (), |a| a.store(value, Ordering::Release));
    }

    fn fetch_or_u8(&self, at: MachineAddr, bits: u8) -> u8 {
        atomic!(self, at, u8, AtomicU8, u8::MAX, |a| a.fetch_or(bits, Ordering::SeqCst))
    }

    fn fetch_or_u32(&self, at: MachineAddr, bits: u32) -> u32 {
        atomic!(self, at, u32, AtomicU32, u32::MAX, |a| a.fetch_or(bits, Ordering::SeqCst))
    }

    fn fetch_or_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        atomic!(self, at, u64, AtomicU64, u64::MAX, |a| a.fetch_or(bits, Ordering::SeqCst))
    }

    fn fetch_and_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        atomic!(self, at, u64, AtomicU64, u64::MAX, |a| a.fetch_and(bits, Ordering::SeqCst))
    }

    fn compare_exchange_u16(&self, at: MachineAddr, old: u16, new: u16) -> u16 {
        atomic!(self, at, u16, AtomicU16, u16::MAX, |a| {
            a.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found)
        })
    }

    fn compare_exchange_u32(&self, at: MachineAddr, old: u32, new: u32) -> u32 {
        atomic!(self, at, u32, AtomicU32, u32::MAX, |a| {
            a.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found)
        })
    }

    fn compare_exchange_u64(&self, at: MachineAddr, old: u64, new: u64) -> u64 {
        atomic!(self, at, u64, AtomicU64, u64::MAX, |a| {
            a.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|found| found)
        })
    }
}
