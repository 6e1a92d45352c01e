//! The layout of configuration space: registers that matter and the walk over capability lists, which is bounded
//! whatever the device says.
//!
//! Source: PCI Local Bus specification 3.0, sections 6.1, 6.2 and 6.7; PCI Express base specification, section 7.

use super::{HostPci, Sbdf, Width};

pub(super) const VENDOR: u16 = 0x00;
pub(super) const COMMAND: u16 = 0x04;
pub(super) const STATUS: u16 = 0x06;
pub(super) const HEADER_TYPE: u16 = 0x0e;
pub(super) const FIRST_BAR: u16 = 0x10;
pub(super) const ROM: u16 = 0x30;
pub(super) const BRIDGE_ROM: u16 = 0x38;
const CAPABILITIES: u16 = 0x34;

/// COMMAND: the device answers to memory addresses.
pub(super) const COMMAND_MEMORY: u16 = 1 << 1;
/// COMMAND: the device answers to I/O ports.
pub(super) const COMMAND_IO: u16 = 1 << 0;
const STATUS_CAPABILITIES: u32 = 1 << 4;

pub(super) const CAPABILITY_MSI: u8 = 0x05;
pub(super) const CAPABILITY_MSIX: u8 = 0x11;
const EXTENDED_RESIZABLE_BAR: u32 = 0x15;

/// Most capabilities that fit between 0x40 and 0xff.
const MAX_CAPABILITIES: usize = 48;
/// Most extended capabilities that fit between 0x100 and 0xfff.
const MAX_EXTENDED: usize = 480;

/// The offset of the first capability with this number. Lists with loops end.
pub(super) fn capability(host: &dyn HostPci, at: Sbdf, id: u8) -> Option<u16> {
    if host.read(at, STATUS, Width::Word) & STATUS_CAPABILITIES == 0 {
        return None;
    }
    let mut next = host.read(at, CAPABILITIES, Width::Byte) as u16 & 0xfc;
    for _ in 0..MAX_CAPABILITIES {
        if next < 0x40 {
            return None;
        }
        let header = host.read(at, next, Width::Word);
        if header & 0xff == u32::from(id) {
            return Some(next);
        }
        next = (header >> 8) as u16 & 0xfc;
    }
    None
}

/// Whether the device can change the sizes of its BARs.
pub(super) fn has_resizable_bars(host: &dyn HostPci, at: Sbdf) -> bool {
    let mut next = 0x100u16;
    for _ in 0..MAX_EXTENDED {
        let header = host.read(at, next, Width::Dword);
        // A function without extended space shows its ordinary space again, or all ones.
        if header == 0 || header == u32::MAX {
            return false;
        }
        if header & 0xffff == EXTENDED_RESIZABLE_BAR {
            return true;
        }
        next = (header >> 20) as u16 & 0xffc;
        if next < 0x100 {
            return false;
        }
    }
    false
}
