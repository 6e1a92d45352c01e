//! Base address registers: what a function has, how large, and where it is now.
//!
//! Addresses are not virtualised, since the guest's physical addresses are the machine's. While the function does not
//! decode memory, its registers are the guest's. While it does, a BAR stays where it is, and only the common game of
//! writing all ones to learn the size is played with a latch instead of the device.
//!
//! Source: PCI Local Bus specification 3.0, section 6.2.5.

use super::config::{BRIDGE_ROM, COMMAND, COMMAND_IO, COMMAND_MEMORY, FIRST_BAR, HEADER_TYPE, ROM};
use super::{HostPci, Sbdf, Width};
use arrayvec::ArrayVec;
use core::ops::Range;

const IO: u32 = 1;
const MEMORY_64: u32 = 0b100;
const MEMORY_TYPE: u32 = 0b110;
const MEMORY_FLAGS: u32 = 0xf;
const ROM_ENABLE: u32 = 1;
const ROM_FLAGS: u32 = 0x7ff;

/// A function has at most six BARs and a ROM.
pub(super) const MAX_BARS: usize = 7;

/// A memory BAR (or the ROM's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bar {
    /// Its register's number: 0..=5, or [`Bar::ROM`].
    pub(super) index: u8,
    register: u16,
    /// Whether the next register holds the upper half.
    wide: bool,
    /// Size in bytes, a power of two.
    pub(super) size: u64,
    /// Per half: whether the guest wrote all ones while the BAR could not move, and so reads its size.
    sizing: [bool; 2],
}

impl Bar {
    pub(super) const ROM: u8 = 6;

    /// Whether the BAR covers this register; if so, which half.
    pub(super) fn half(&self, register: u16) -> Option<usize> {
        match register.checked_sub(self.register)? {
            0 => Some(0),
            4 if self.wide => Some(1),
            _ => None,
        }
    }

    fn flags(&self) -> u32 {
        if self.index == Bar::ROM { ROM_FLAGS } else { MEMORY_FLAGS }
    }

    /// The addresses that the function decodes for this BAR, when it decodes memory. `None` if it is not placed (or,
    /// for the ROM, not enabled).
    pub(super) fn place(&self, host: &dyn HostPci, at: Sbdf) -> Option<Range<u64>> {
        let low = host.read(at, self.register, Width::Dword);
        let high = if self.wide { host.read(at, self.register.wrapping_add(4), Width::Dword) } else { 0 };
        if self.index == Bar::ROM && low & ROM_ENABLE == 0 {
            return None;
        }
        let start = (u64::from(high) << 32 | u64::from(low & !self.flags())) & !self.size.wrapping_sub(1);
        let end = start.checked_add(self.size)?;
        (start != 0).then_some(start..end)
    }

    /// The register's value as the guest sees it.
    pub(super) fn read(&self, host: &dyn HostPci, at: Sbdf, half: usize) -> u32 {
        let register = self.register.wrapping_add(if half == 0 { 0 } else { 4 });
        let value = host.read(at, register, Width::Dword);
        if !self.sizing.get(half).is_some_and(|s| *s) {
            return value;
        }
        let mask = !self.size.wrapping_sub(1);
        if half == 0 { (mask as u32 & !self.flags()) | (value & self.flags()) } else { (mask >> 32) as u32 }
    }

    /// The guest writes the register. Returns whether the function's place for this BAR may have changed: only the ROM
    /// can come and go while the function decodes memory.
    pub(super) fn write(&mut self, host: &dyn HostPci, at: Sbdf, half: usize, value: u32) -> bool {
        let register = self.register.wrapping_add(if half == 0 { 0 } else { 4 });
        let decodes = host.read(at, COMMAND, Width::Word) as u16 & COMMAND_MEMORY != 0;
        let Some(sizing) = self.sizing.get_mut(half) else { return false };
        *sizing = false;
        if !decodes {
            host.write(at, register, Width::Dword, value);
            return false;
        }
        let now = host.read(at, register, Width::Dword);
        let flags = self.flags();
        if self.index == Bar::ROM {
            // A ROM that is off may move.
            if now & ROM_ENABLE == 0 || value & ROM_ENABLE == 0 || (now ^ value) & !flags == 0 {
                host.write(at, register, Width::Dword, value);
                return true;
            }
        } else if value | flags == u32::MAX {
            if let Some(sizing) = self.sizing.get_mut(half) {
                *sizing = true;
            }
        } else if (now ^ value) & !flags != 0 {
            log::debug!("{at}: BAR {} is not moved while the device decodes memory", self.index);
        }
        false
    }
}

/// Finds a function's memory BARs and their sizes. The function must be idle: it stops to decode for a moment.
pub(super) fn probe(host: &dyn HostPci, at: Sbdf) -> ArrayVec<Bar, MAX_BARS> {
    let (count, rom) = match host.read(at, HEADER_TYPE, Width::Byte) & 0x7f {
        0 => (6u8, Some(ROM)),
        1 => (2, Some(BRIDGE_ROM)),
        _ => (0, None),
    };
    let command = host.read(at, COMMAND, Width::Word);
    host.write(at, COMMAND, Width::Word, command & !u32::from(COMMAND_MEMORY | COMMAND_IO));
    let mut bars = ArrayVec::new();
    let mut index = 0u8;
    while index < count {
        let register = FIRST_BAR.wrapping_add(u16::from(index).wrapping_mul(4));
        let value = host.read(at, register, Width::Dword);
        let wide = value & IO == 0 && value & MEMORY_TYPE == MEMORY_64 && index.saturating_add(1) < count;
        if value & IO == 0 {
            let size = size_of_bar(host, at, register, wide, MEMORY_FLAGS);
            if size != 0 {
                let _ = bars.try_push(Bar { index, register, wide, size, sizing: [false; 2] });
            }
        }
        index = index.saturating_add(if wide { 2 } else { 1 });
    }
    if let Some(register) = rom {
        let size = size_of_bar(host, at, register, false, ROM_FLAGS);
        if size != 0 {
            let _ = bars.try_push(Bar { index: Bar::ROM, register, wide: false, size, sizing: [false; 2] });
        }
    }
    host.write(at, COMMAND, Width::Word, command);
    bars
}

/// Writes all ones, looks which address bits stick, and restores. 0 if there is no BAR (or one that is not sane).
fn size_of_bar(host: &dyn HostPci, at: Sbdf, register: u16, wide: bool, flags: u32) -> u64 {
    let probe = |register: u16, ones: u32| {
        let old = host.read(at, register, Width::Dword);
        host.write(at, register, Width::Dword, ones);
        let stuck = host.read(at, register, Width::Dword);
        host.write(at, register, Width::Dword, old);
        stuck
    };
    // A ROM is not enabled on the way.
    let low = probe(register, if flags == ROM_FLAGS { !ROM_FLAGS } else { u32::MAX }) & !flags;
    let high = if wide { probe(register.wrapping_add(4), u32::MAX) } else { u32::MAX };
    let mask = u64::from(high) << 32 | u64::from(low);
    let size = mask.wrapping_neg();
    let sane = low | high != 0 && (low != 0 || wide) && size.is_power_of_two() && size <= 1 << 48;
    if sane { size } else { 0 }
}
