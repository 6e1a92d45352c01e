//! Names for code addresses in backtraces.
//!
//! The build fills the image's `.symbols` section after linking: "RSYM", a count, that many pairs of (offset from
//! [`KERNEL_BASE`], offset of the name), sorted by address, then the NUL-terminated names. Everything little-endian 32
//! bits. A table that is missing or broken only costs the names.
// Unsafe: turns a section of the image into a slice.
#![allow(unsafe_code)]

use crate::layout::{self, KERNEL_BASE};

/// The function that holds `at`: its name and the offset from its start.
#[must_use]
pub fn lookup(at: u64) -> Option<(&'static str, u64)> {
    if !layout::text().contains(&at) {
        return None;
    }
    let section = layout::symbols();
    // SAFETY: the linker script reserves the section between the two symbols in a read-only segment that stays mapped.
    let bytes =
        unsafe { core::slice::from_raw_parts(section.start as *const u8, (section.end - section.start) as usize) };
    find(bytes, u32::try_from(at - KERNEL_BASE).ok()?)
}

fn find(bytes: &[u8], offset: u32) -> Option<(&str, u64)> {
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    if bytes.get(..4)? != b"RSYM" {
        return None;
    }
    let count = word(4)? as usize;
    // Binary search for the last entry at or below the offset.
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(8 + middle * 8)? <= offset { low = middle + 1 } else { high = middle }
    }
    let entry = 8 + low.checked_sub(1)? * 8;
    let start = word(entry)?;
    let name = bytes.get(8 + count * 8 + word(entry + 4)? as usize..)?;
    let name = name.get(..name.iter().position(|&b| b == 0)?)?;
    Some((core::str::from_utf8(name).ok()?, u64::from(offset - start)))
}

/// Whether the image has any names.
#[must_use]
pub fn present() -> bool {
    lookup(layout::text().end - 1).is_some()
}
