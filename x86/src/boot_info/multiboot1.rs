//! Multiboot 1 information (specification 0.6.96, section 3.3): a structure with flags that say which fields are valid,
//! and pointers to strings and tables anywhere below 4 GiB.

use alloc::string::String;
use alloc::vec::Vec;
use radon_core::types::MachineAddr;

use super::memory_map::{MemoryKind, MemoryRegion, normalise};
use super::{
    BootInfo, BootInfoError, MAX_MODULES, MAX_REGIONS, MAX_STRING, Module, Protocol, Read, arguments, framebuffer,
    text, u32_at, u64_at,
};

/// What EAX holds at entry.
pub const MAGIC: u32 = 0x2bad_b002;

const FLAG_MEMORY: u32 = 1 << 0;
const FLAG_COMMAND_LINE: u32 = 1 << 2;
const FLAG_MODULES: u32 = 1 << 3;
const FLAG_MEMORY_MAP: u32 = 1 << 6;
const FLAG_LOADER_NAME: u32 = 1 << 9;
const FLAG_FRAMEBUFFER: u32 = 1 << 12;

/// Bytes of the structure up to the end of the framebuffer's fields.
const LENGTH: usize = 116;

/// Parses the structure at `at`.
///
/// # Errors
/// As [`super::parse`].
pub fn parse(read: Read<'_>, at: MachineAddr) -> Result<BootInfo, BootInfoError> {
    let mut info = [0u8; LENGTH];
    read(at, &mut info);
    let word = |offset: usize| u32_at(&info, offset).unwrap_or(0);
    let flags = word(0);
    let has = |flag: u32| flags & flag != 0;

    let loader = if has(FLAG_LOADER_NAME) { string(read, word(64)) } else { String::new() };
    let command_line = if has(FLAG_COMMAND_LINE) { string(read, word(16)) } else { String::new() };
    let memory_map = if has(FLAG_MEMORY_MAP) {
        memory_map(read, word(48), word(44))
    } else if has(FLAG_MEMORY) {
        let kib = |offset: usize| u64::from(word(offset)).saturating_mul(1024);
        Vec::from([
            MemoryRegion { start: MachineAddr(0), length: kib(4).min(640 << 10), kind: MemoryKind::Ram },
            MemoryRegion { start: MachineAddr(1 << 20), length: kib(8), kind: MemoryKind::Ram },
        ])
    } else {
        Vec::new()
    };
    let memory_map = normalise(&memory_map);
    if memory_map.is_empty() {
        return Err(BootInfoError::NoMemoryMap);
    }
    let modules = if has(FLAG_MODULES) { modules(read, word(24), word(20), &loader)? } else { Vec::new() };
    let framebuffer = has(FLAG_FRAMEBUFFER)
        .then(|| framebuffer(info.get(88..).unwrap_or_default(), info.get(110..).unwrap_or_default()))
        .flatten();
    Ok(BootInfo {
        protocol: Protocol::Multiboot1,
        command_line: arguments(&command_line, &loader),
        loader,
        memory_map,
        modules,
        rsdp: None,
        efi: None,
        framebuffer,
    })
}

/// The NUL-terminated string at an address, cut at [`MAX_STRING`].
fn string(read: Read<'_>, at: u32) -> String {
    let mut bytes: Vec<u8> = Vec::new();
    let mut piece = [0u8; 64];
    while bytes.len() < MAX_STRING && !bytes.contains(&0) {
        read(MachineAddr(u64::from(at).saturating_add(bytes.len() as u64)), &mut piece);
        bytes.extend_from_slice(&piece);
    }
    text(&bytes)
}

/// Entries of {size of the rest: u32, start: u64, length: u64, kind: u32}; a size may be more than that.
fn memory_map(read: Read<'_>, at: u32, length: u32) -> Vec<MemoryRegion> {
    let mut regions = Vec::new();
    let mut offset: u32 = 0;
    while offset < length && regions.len() < MAX_REGIONS {
        let mut entry = [0u8; 24];
        read(MachineAddr(u64::from(at).saturating_add(u64::from(offset))), &mut entry);
        let (Some(size), Some(start), Some(length), Some(kind)) =
            (u32_at(&entry, 0), u64_at(&entry, 4), u64_at(&entry, 12), u32_at(&entry, 20))
        else {
            break;
        };
        if size < 20 {
            break;
        }
        regions.push(MemoryRegion { start: MachineAddr(start), length, kind: MemoryKind::from_e820(kind) });
        let Some(next) = offset.checked_add(size).and_then(|o| o.checked_add(4)) else { break };
        offset = next;
    }
    regions
}

/// Entries of {start, end, string, reserved}, all u32.
fn modules(read: Read<'_>, at: u32, count: u32, loader: &str) -> Result<Vec<Module>, BootInfoError> {
    if count as usize > MAX_MODULES {
        return Err(BootInfoError::TooManyModules(count));
    }
    (0..count as usize)
        .map(|i| {
            let mut entry = [0u8; 16];
            read(MachineAddr(u64::from(at).saturating_add((i as u64).saturating_mul(16))), &mut entry);
            let word = |offset: usize| u32_at(&entry, offset).unwrap_or(0);
            let length = word(4).checked_sub(word(0)).ok_or(BootInfoError::BadModule(i))?;
            let line = if word(8) == 0 { String::new() } else { string(read, word(8)) };
            Ok(Module {
                start: MachineAddr(u64::from(word(0))),
                length: u64::from(length),
                arguments: arguments(&line, loader),
            })
        })
        .collect()
}
