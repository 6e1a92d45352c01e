//! Memory that boot loader and builder share while dom0 is built: boot modules, and a scratch place for the unpacked
//! kernel. As byte slices, since decompressors and parsers want those.
//!
//! Soundness: a [`BootBytes`] is made once for each module (its frames are reserved) or from frames that hal allocated,
//! so no other owner exists until [`BootBytes::release`]. While a slice is lent, only the closure runs: the other CPUs
//! have not started. The closure may write machine memory through `PhysMemory` elsewhere; the memory plan has checked
//! that it never targets these frames (`radon_x86::dom0::memory::plan` refuses an overlap with the unpacked kernel).
// Unsafe: makes slices of machine memory.
#![allow(unsafe_code)]

use core::ops::Range;

use radon_core::types::{MachineAddr, PAGE_SIZE};
use radon_x86::boot_info::Module;

use crate::frames;
use crate::memory::{direct_map_pointer, memory};

/// Memory in the hands of the code that builds dom0.
#[derive(Debug)]
pub struct BootBytes {
    range: Range<u64>,
}

impl BootBytes {
    /// A boot module. `None` if it is not in memory that exists.
    #[must_use]
    pub fn module(module: &Module) -> Option<BootBytes> {
        let range = module.start.0..module.start.0.checked_add(module.length)?;
        memory().contains(module.start, module.length).then_some(BootBytes { range })
    }

    /// Fresh memory of at least this many bytes, from the machine's memory before it is handed over. `None` if there is
    /// not so much in one piece.
    #[must_use]
    pub fn scratch(bytes: u64) -> Option<BootBytes> {
        let frames = (bytes.checked_add(PAGE_SIZE - 1)? / PAGE_SIZE).max(1);
        let start = frames::allocate_exactly(frames)?;
        let length = frames * PAGE_SIZE;
        Some(BootBytes { range: start.0..start.0 + length })
    }

    /// Its machine addresses.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Lends the bytes.
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        let length = (self.range.end - self.range.start) as usize;
        // SAFETY: RAM in the direct map (checked in the constructors), owned by `self`; see the module's text for why
        // nothing writes it meanwhile.
        f(unsafe { core::slice::from_raw_parts(direct_map_pointer(MachineAddr(self.range.start)), length) })
    }

    /// Lends the bytes to be written.
    pub fn with_mut<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let length = (self.range.end - self.range.start) as usize;
        // SAFETY: as in `with`, borrowed exclusively.
        f(unsafe { core::slice::from_raw_parts_mut(direct_map_pointer(MachineAddr(self.range.start)), length) })
    }

    /// Gives the memory up: the caller now decides what becomes of these machine addresses.
    #[must_use]
    pub fn release(self) -> Range<u64> {
        self.range
    }
}
