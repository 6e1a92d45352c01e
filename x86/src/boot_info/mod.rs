//! What the boot loader hands over, in one neutral form: [`BootInfo`].
//!
//! Parsers for Multiboot 1 ([`multiboot1`], specification 0.6.96) and Multiboot 2 ([`multiboot2`], specification 2.0).
//! They read machine memory only through a function that the caller gives, copy everything they keep, and take no value
//! on trust: counts and lengths are bounded, and a broken part is left out or refused by name.

pub mod memory_map;
pub mod multiboot1;
pub mod multiboot2;

use alloc::string::String;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use radon_core::types::MachineAddr;

pub use memory_map::{MemoryKind, MemoryRegion};

/// Copies bytes out of machine memory; outside of memory it gives all ones.
pub type Read<'a> = &'a dyn Fn(MachineAddr, &mut [u8]);

/// Most modules that are taken.
pub const MAX_MODULES: usize = 64;
/// Most entries of a memory map that are taken.
pub const MAX_REGIONS: usize = 1024;
/// Longest string that is taken, in bytes.
pub const MAX_STRING: usize = 4096;

/// Which protocol the loader spoke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Multiboot 1.
    Multiboot1,
    /// Multiboot 2.
    Multiboot2,
}

/// A file that the loader put into memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// Address of its first byte.
    pub start: MachineAddr,
    /// Its length in bytes.
    pub length: u64,
    /// Its arguments, without the file's name.
    pub arguments: String,
}

/// The linear screen buffer that the loader set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Framebuffer {
    /// Where it starts.
    pub address: MachineAddr,
    /// Bytes per line.
    pub pitch: u32,
    /// Pixels (or characters) per line.
    pub width: u32,
    /// Lines.
    pub height: u32,
    /// Bits per pixel.
    pub bits_per_pixel: u8,
    /// How a pixel is made.
    pub kind: FramebufferKind,
}

/// How a pixel is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FramebufferKind {
    /// Palette entries.
    Indexed,
    /// Fields of (position, size) in bits.
    Rgb {
        /// Red.
        red: (u8, u8),
        /// Green.
        green: (u8, u8),
        /// Blue.
        blue: (u8, u8),
    },
    /// EGA text: character and attribute.
    Text,
}

/// One entry of the EFI memory map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EfiDescriptor {
    /// EFI memory type (UEFI specification 7.2).
    pub kind: u32,
    /// First address.
    pub start: MachineAddr,
    /// Virtual address given to it.
    pub virtual_start: u64,
    /// Pages of 4 KiB.
    pub pages: u64,
    /// Attribute bits.
    pub attributes: u64,
}

/// What EFI firmware left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Efi {
    /// The 64-bit system table.
    pub system_table: Option<MachineAddr>,
    /// The handle of the loaded image.
    pub image_handle: Option<u64>,
    /// Whether boot services still run, so that memory still belongs to the firmware.
    pub boot_services_running: bool,
    /// The memory map, as given.
    pub memory_map: Vec<EfiDescriptor>,
}

/// Everything the boot loader said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BootInfo {
    /// The protocol.
    pub protocol: Protocol,
    /// The loader's name.
    pub loader: String,
    /// Radon's own arguments, without the file's name.
    pub command_line: String,
    /// Memory: sorted, no two regions overlap.
    pub memory_map: Vec<MemoryRegion>,
    /// Modules, in the order given. The first is dom0's kernel.
    pub modules: Vec<Module>,
    /// A copy of ACPI's root pointer, if the loader gave one.
    pub rsdp: Option<ArrayVec<u8, 36>>,
    /// What EFI firmware left, if there is EFI.
    pub efi: Option<Efi>,
    /// The screen, if the loader set one up.
    pub framebuffer: Option<Framebuffer>,
}

impl BootInfo {
    /// Adds the EFI memory map that was read when boot services were ended after the loader: `bytes` are entries of
    /// `entry_size` bytes each. Without a map everything stays as the loader said.
    ///
    /// # Errors
    /// [`BootInfoError::NoMemoryMap`] if there is no map, but boot services ran so that the loader could not give one.
    pub fn with_efi_map(mut self, bytes: &[u8], entry_size: usize) -> Result<BootInfo, BootInfoError> {
        let entries = multiboot2::efi_entries(bytes, entry_size);
        if !entries.is_empty() {
            self.memory_map = memory_map::normalise(&multiboot2::efi_regions(&entries));
            let efi = self.efi.get_or_insert_default();
            efi.memory_map = entries;
            efi.boot_services_running = false;
        }
        let running = self.efi.as_ref().is_some_and(|e| e.boot_services_running);
        if running || self.memory_map.is_empty() { Err(BootInfoError::NoMemoryMap) } else { Ok(self) }
    }
}

/// Why the information is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootInfoError {
    /// The magic number in EAX belongs to no protocol that Radon speaks.
    UnknownMagic(u32),
    /// The information has an impossible length.
    BadLength(u32),
    /// The loader gave no memory map.
    NoMemoryMap,
    /// There are more modules than [`MAX_MODULES`].
    TooManyModules(u32),
    /// A module ends before it starts.
    BadModule(usize),
}

impl fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootInfoError::UnknownMagic(m) => write!(
                f,
                "the boot loader's magic number {m:#x} is none of Multiboot 1 (0x2badb002) and 2 (0x36d76289); \
                 load Radon with GRUB's multiboot2 command"
            ),
            BootInfoError::BadLength(n) => write!(f, "the boot information has an impossible length ({n} bytes)"),
            BootInfoError::NoMemoryMap => f.write_str("the boot loader gave no memory map"),
            BootInfoError::TooManyModules(n) => write!(f, "the boot loader gave {n} modules; at most {MAX_MODULES}"),
            BootInfoError::BadModule(i) => write!(f, "boot module {i} ends before it starts"),
        }
    }
}

impl core::error::Error for BootInfoError {}

/// Parses what the boot loader left: `magic` was in EAX at entry, `at` in EBX.
///
/// # Errors
/// [`BootInfoError`] says what Radon cannot start with.
pub fn parse(read: Read<'_>, magic: u32, at: MachineAddr) -> Result<BootInfo, BootInfoError> {
    match magic {
        multiboot1::MAGIC => multiboot1::parse(read, at),
        multiboot2::MAGIC => multiboot2::parse(read, at),
        other => Err(BootInfoError::UnknownMagic(other)),
    }
}

/// A little-endian 16-bit value.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A little-endian 32-bit value.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A little-endian 64-bit value.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Bytes up to a NUL or the end, as text.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()).min(MAX_STRING);
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

/// The framebuffer's fields, which both protocols lay out alike: `common` starts at the address, `colour` at the colour
/// information.
fn framebuffer(common: &[u8], colour: &[u8]) -> Option<Framebuffer> {
    let kind = match *common.get(21)? {
        0 => FramebufferKind::Indexed,
        1 => match *colour.get(..6)? {
            [rp, rs, gp, gs, bp, bs] => FramebufferKind::Rgb { red: (rp, rs), green: (gp, gs), blue: (bp, bs) },
            _ => return None,
        },
        2 => FramebufferKind::Text,
        _ => return None,
    };
    Some(Framebuffer {
        address: MachineAddr(u64_at(common, 0)?),
        pitch: u32_at(common, 8)?,
        width: u32_at(common, 12)?,
        height: u32_at(common, 16)?,
        bits_per_pixel: *common.get(20)?,
        kind,
    })
}

/// Takes the file's name off a command line. GRUB 2 passes arguments only, others put the name first. Debian's GRUB
/// scripts add the word `placeholder` where others have the name.
fn arguments(line: &str, loader: &str) -> String {
    let line = line.trim();
    let grub2 = loader.strip_prefix("GRUB ").is_some_and(|version| !version.starts_with('0'));
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if !grub2 || first == "placeholder" { rest.trim_start().into() } else { line.into() }
}

#[cfg(test)]
mod tests;
