//! Names for code addresses in backtraces.
//!
//! The build fills the image's `.symbols` section after linking: "RSYM", its size in bytes, a count, that many addresses
//! (less [`KERNEL_BASE`]) in order, all as little-endian 32 bits, then the names, each as the number of bytes it shares
//! with the one before, the others, and a NUL. A table that is missing or broken only costs the names.
// Unsafe: turns a section of the image into a slice.
#![allow(unsafe_code)]

use core::fmt;

use arrayvec::ArrayVec;

use crate::layout::{self, KERNEL_BASE};

/// The name of a function, cut at the longest that the table can have.
#[derive(Clone, Debug)]
pub struct Name(ArrayVec<u8, 256>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A cut may have split a character.
        self.0.utf8_chunks().try_for_each(|chunk| f.write_str(chunk.valid()))
    }
}

/// The function that holds `at`: its name and the offset from its start.
#[must_use]
pub fn lookup(at: u64) -> Option<(Name, u64)> {
    if !layout::text().contains(&at) {
        return None;
    }
    find(section(), u32::try_from(at - KERNEL_BASE).ok()?)
}

/// A function by its place in the order of addresses: its name and where it starts.
#[must_use]
pub fn nth(index: u32) -> Option<(Name, u64)> {
    entry(section(), index as usize).map(|(name, offset)| (name, KERNEL_BASE + u64::from(offset)))
}

fn section() -> &'static [u8] {
    let section = layout::symbols();
    // SAFETY: the section is a read-only segment of whole pages that stays mapped.
    unsafe { core::slice::from_raw_parts(section.start as *const u8, (section.end - section.start) as usize) }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes)
}

/// Number of entries, if this is a table.
fn count(bytes: &[u8]) -> Option<usize> {
    (bytes.get(..4)? == b"RSYM").then(|| word(bytes, 8)).flatten().map(|n| n as usize)
}

/// Name and offset of an entry.
fn entry(bytes: &[u8], index: usize) -> Option<(Name, u32)> {
    let count = count(bytes)?;
    if index >= count {
        return None;
    }
    let start = word(bytes, 12 + index * 4)?;
    let mut names = bytes.get(12 + count * 4..)?;
    let mut name = Name(ArrayVec::new());
    for _ in 0..=index {
        name.0.truncate(usize::from(*names.split_off_first()?));
        let rest = names.split_off(..names.iter().position(|&b| b == 0)?)?;
        name.0.try_extend_from_slice(rest).ok()?;
        names.split_off_first()?;
    }
    Some((name, start))
}

fn find(bytes: &[u8], offset: u32) -> Option<(Name, u64)> {
    // Binary search for the last entry at or below the offset.
    let (mut low, mut high) = (0, count(bytes)?);
    while low < high {
        let middle = low + (high - low) / 2;
        if word(bytes, 12 + middle * 4)? <= offset { low = middle + 1 } else { high = middle }
    }
    let (name, start) = entry(bytes, low.checked_sub(1)?)?;
    Some((name, u64::from(offset - start)))
}

/// Whether the image has any names.
#[must_use]
pub fn present() -> bool {
    lookup(layout::text().end - 1).is_some()
}
