//! Multiboot 2 information (specification 2.0, section 3.6): one block of tags, each {type: u32, size: u32, data},
//! aligned to 8 bytes.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use radon_core::types::MachineAddr;

use super::memory_map::{MemoryKind, MemoryRegion, normalise};
use super::{
    BootInfo, BootInfoError, Efi, EfiDescriptor, MAX_MODULES, MAX_REGIONS, Module, Protocol, Read, arguments,
    framebuffer, text, u32_at, u64_at,
};

/// What EAX holds at entry.
pub const MAGIC: u32 = 0x36d7_6289;

/// Longest block that is taken, in bytes.
const MAX_LENGTH: u32 = 1 << 20;

/// Parses the block at `at`.
///
/// # Errors
/// As [`super::parse`].
pub fn parse(read: Read<'_>, at: MachineAddr) -> Result<BootInfo, BootInfoError> {
    let mut head = [0u8; 8];
    read(at, &mut head);
    let length = u32_at(&head, 0).unwrap_or(0);
    if !(16..=MAX_LENGTH).contains(&length) {
        return Err(BootInfoError::BadLength(length));
    }
    let mut block = vec![0u8; length as usize];
    read(at, &mut block);
    parse_block(&block)
}

/// Parses a copy of the block.
///
/// # Errors
/// As [`super::parse`].
pub fn parse_block(block: &[u8]) -> Result<BootInfo, BootInfoError> {
    let mut loader = String::new();
    let mut command_line = String::new();
    let mut memory_map = Vec::new();
    let mut basic = Vec::new();
    let mut lines: Vec<(MachineAddr, u64, String)> = Vec::new();
    let (mut rsdp_old, mut rsdp_new) = (None, None);
    let mut efi: Option<Efi> = None;
    let mut screen = None;

    for (kind, data) in tags(block) {
        match kind {
            1 => command_line = text(data),
            2 => loader = text(data),
            3 => {
                if lines.len() == MAX_MODULES {
                    return Err(BootInfoError::TooManyModules(MAX_MODULES.saturating_add(1) as u32));
                }
                let (Some(start), Some(end)) = (u32_at(data, 0), u32_at(data, 4)) else {
                    return Err(BootInfoError::BadModule(lines.len()));
                };
                let length = end.checked_sub(start).ok_or(BootInfoError::BadModule(lines.len()))?;
                let line = text(data.get(8..).unwrap_or_default());
                lines.push((MachineAddr(u64::from(start)), u64::from(length), line));
            }
            4 => basic = basic_memory(data),
            6 => memory_map = e820(data),
            8 => screen = framebuffer(data, data.get(24..).unwrap_or_default()),
            12 => efi.get_or_insert_default().system_table = u64_at(data, 0).map(MachineAddr),
            14 => rsdp_old = copy_rsdp(data, 20),
            15 => rsdp_new = copy_rsdp(data, 36),
            17 => efi.get_or_insert_default().memory_map = efi_map(data),
            18 => efi.get_or_insert_default().boot_services_running = true,
            20 => efi.get_or_insert_default().image_handle = u64_at(data, 0),
            _ => (),
        }
    }
    // The firmware's own map is preferred to what the loader made of it, since that may lump kinds together.
    let mut regions = efi.as_ref().map_or(Vec::new(), |e| efi_regions(&e.memory_map));
    if regions.is_empty() {
        regions = if memory_map.is_empty() { basic } else { memory_map };
    }
    let memory_map = normalise(&regions);
    if memory_map.is_empty() && !efi.as_ref().is_some_and(|e| e.boot_services_running) {
        return Err(BootInfoError::NoMemoryMap);
    }
    let modules = lines
        .into_iter()
        .map(|(start, length, line)| Module { start, length, arguments: arguments(&line, &loader) })
        .collect();
    Ok(BootInfo {
        protocol: Protocol::Multiboot2,
        command_line: arguments(&command_line, &loader),
        loader,
        memory_map,
        modules,
        rsdp: rsdp_new.or(rsdp_old),
        efi,
        framebuffer: screen,
    })
}

/// The tags up to the end tag or the first broken one: (type, data).
fn tags(block: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let mut rest = block.get(8..).unwrap_or_default();
    core::iter::from_fn(move || {
        let kind = u32_at(rest, 0)?;
        let size = u32_at(rest, 4)? as usize;
        if kind == 0 || size < 8 {
            return None;
        }
        let data = rest.get(8..size)?;
        // The last tag may lack its padding.
        let next = size.checked_next_multiple_of(8)?;
        rest = rest.get(next..).unwrap_or_default();
        Some((kind, data))
    })
}

fn basic_memory(data: &[u8]) -> Vec<MemoryRegion> {
    let kib = |at: usize| u64::from(u32_at(data, at).unwrap_or(0)).saturating_mul(1024);
    vec![
        MemoryRegion { start: MachineAddr(0), length: kib(0).min(640 << 10), kind: MemoryKind::Ram },
        MemoryRegion { start: MachineAddr(1 << 20), length: kib(4), kind: MemoryKind::Ram },
    ]
}

/// {entry size: u32, version: u32}, then entries of {start: u64, length: u64, kind: u32, ...}.
fn e820(data: &[u8]) -> Vec<MemoryRegion> {
    entries(data, 24)
        .filter_map(|e| {
            Some(MemoryRegion {
                start: MachineAddr(u64_at(e, 0)?),
                length: u64_at(e, 8)?,
                kind: MemoryKind::from_e820(u32_at(e, 16)?),
            })
        })
        .collect()
}

/// {entry size: u32, version: u32}, then entries of {kind: u32, padding, start, virtual, pages, attributes: u64}.
fn efi_map(data: &[u8]) -> Vec<EfiDescriptor> {
    efi_entries(data.get(8..).unwrap_or_default(), u32_at(data, 0).map_or(0, |s| s as usize))
}

/// An EFI memory map as memory regions.
pub(super) fn efi_regions(map: &[EfiDescriptor]) -> Vec<MemoryRegion> {
    let region = |d: &EfiDescriptor| MemoryRegion {
        start: d.start,
        length: d.pages.saturating_mul(4096),
        kind: MemoryKind::from_efi(d.kind),
    };
    map.iter().map(region).collect()
}

/// The entries of an EFI memory map; none if their size is impossible.
pub(super) fn efi_entries(bytes: &[u8], size: usize) -> Vec<EfiDescriptor> {
    table(bytes, size, 40)
        .filter_map(|e| {
            Some(EfiDescriptor {
                kind: u32_at(e, 0)?,
                start: MachineAddr(u64_at(e, 8)?),
                virtual_start: u64_at(e, 16)?,
                pages: u64_at(e, 24)?,
                attributes: u64_at(e, 32)?,
            })
        })
        .collect()
}

/// The entries of a table that states its entry size; none if that is below `least`.
fn entries(data: &[u8], least: usize) -> impl Iterator<Item = &[u8]> {
    table(data.get(8..).unwrap_or_default(), u32_at(data, 0).map_or(0, |s| s as usize), least)
}

fn table(bytes: &[u8], size: usize, least: usize) -> impl Iterator<Item = &[u8]> {
    let bytes = if size < least { &[] } else { bytes };
    bytes.chunks_exact(size.max(1)).take(MAX_REGIONS)
}

/// Copies the root pointer if its length fits.
fn copy_rsdp(data: &[u8], least: usize) -> Option<ArrayVec<u8, 36>> {
    ArrayVec::try_from(data.get(..least)?).ok()
}
