//! The MSI-X capability, virtualised: the table of messages that the guest writes is kept here, and the device's table
//! gets the messages that the backend chooses. The pages of the table are trapped; what else they hold is the device's.
//!
//! An entry is bound when it can fire for the first time (enabled, not masked) and stays bound until the capability is
//! switched off. Whatever the guest writes is written to the device again, so that a reset behind our back is healed by
//! the guest's own restoring.
//!
//! Source: PCI Local Bus specification 3.0, section 6.8.2.

use super::bar::Bar;
use super::config::{self, CAPABILITY_MSIX};
use super::{Backends, GuestMsi, Sbdf, Width};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use radon_core::types::{MachineAddr, PAGE_SIZE};

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;
const COUNT_MASK: u16 = 0x7ff;
const ENTRY: u64 = 16;
const ENTRY_MASKED: u32 = 1;
const CONTROL_OFFSET: u64 = 12;

/// A message as the guest wrote it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    message: GuestMsi,
    masked: bool,
    bound: bool,
    /// Whether the device's entry holds the host's message for this one.
    programmed: bool,
}

/// The state of one capability.
#[derive(Clone, Debug)]
pub(super) struct Msix {
    capability: u16,
    bar: u8,
    /// Offset of the table in its BAR.
    offset: u64,
    entries: Vec<Entry>,
    enabled: bool,
    mask_all: bool,
    /// Where the table is while the function decodes memory.
    table: Option<u64>,
}

/// Whether there is a capability, and a usable one.
pub(super) enum Probe {
    None,
    /// The capability at this offset contradicts the function's BARs: it must stay off.
    Broken(u16),
    Usable(Msix),
}

impl Msix {
    /// Finds the capability and switches it off.
    pub(super) fn probe(backends: &Backends<'_>, at: Sbdf, bars: &[Bar]) -> Probe {
        let Some(capability) = config::capability(backends.pci, at, CAPABILITY_MSIX) else { return Probe::None };
        let register = capability.wrapping_add(2);
        let control = backends.pci.read(at, register, Width::Word) as u16;
        backends.pci.write(at, register, Width::Word, u32::from(control & !(ENABLE | MASK_ALL)));
        let count = usize::from(control & COUNT_MASK).saturating_add(1);
        let place = backends.pci.read(at, capability.wrapping_add(4), Width::Dword);
        let (bar, offset) = ((place & 7) as u8, u64::from(place & !7));
        let end = offset.saturating_add((count as u64).saturating_mul(ENTRY));
        let fits = bars.iter().any(|b| b.index == bar && bar != Bar::ROM && end <= b.size);
        if !fits || capability > 0xf4 {
            return Probe::Broken(capability);
        }
        let entry = Entry { message: GuestMsi { address: 0, data: 0 }, masked: true, bound: false, programmed: false };
        Probe::Usable(Msix {
            capability,
            bar,
            offset,
            entries: vec![entry; count],
            enabled: false,
            mask_all: false,
            table: None,
        })
    }

    /// The number of the BAR that holds the table.
    pub(super) fn bar(&self) -> u8 {
        self.bar
    }

    /// Whether this offset of configuration space is the control register.
    pub(super) fn is_control(&self, offset: u16) -> bool {
        offset == self.capability.wrapping_add(2)
    }

    /// The function starts (with the address of the table's BAR) or stops to decode memory.
    pub(super) fn set_place(&mut self, backends: &Backends<'_>, at: Sbdf, bar: Option<u64>) {
        let table = bar.and_then(|b| b.checked_add(self.offset));
        if table != self.table {
            self.table = table;
            self.update_all(backends, at);
        }
    }

    /// The addresses of the table, while the function decodes memory.
    pub(super) fn table(&self) -> Option<Range<u64>> {
        let size = (self.entries.len() as u64).saturating_mul(ENTRY);
        self.table.map(|t| t..t.saturating_add(size))
    }

    /// The whole pages around the table: those that are trapped.
    pub(super) fn trapped(&self) -> Option<Range<u64>> {
        let table = self.table()?;
        Some(table.start & !(PAGE_SIZE - 1)..table.end.checked_next_multiple_of(PAGE_SIZE)?)
    }

    pub(super) fn read_control(&self) -> u32 {
        let count = (self.entries.len() as u16).wrapping_sub(1) & COUNT_MASK;
        let flags = if self.enabled { ENABLE } else { 0 } | if self.mask_all { MASK_ALL } else { 0 };
        u32::from(count | flags)
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The guest writes the control register. `allowed` says whether the capability may be enabled.
    pub(super) fn write_control(&mut self, backends: &Backends<'_>, at: Sbdf, value: u32, allowed: bool) {
        let (was_enabled, was_masked) = (self.enabled, self.mask_all);
        let value = if allowed { value as u16 } else { value as u16 & !ENABLE };
        self.enabled = value & ENABLE != 0;
        self.mask_all = value & MASK_ALL != 0;
        if was_enabled && !self.enabled {
            self.stop(backends, at);
        }
        if self.enabled && !(was_enabled && was_masked == self.mask_all) {
            // Nothing fires while the table is being filled.
            self.write_host_control(backends, at, ENABLE | MASK_ALL);
            self.update_all(backends, at);
        }
        self.write_host_control(backends, at, value & (ENABLE | MASK_ALL));
    }

    /// Switches the device off and gives all bindings back.
    pub(super) fn stop(&mut self, backends: &Backends<'_>, at: Sbdf) {
        self.enabled = false;
        self.write_host_control(backends, at, 0);
        for (number, entry) in (0u16..).zip(self.entries.iter_mut()) {
            entry.programmed = false;
            if core::mem::take(&mut entry.bound) {
                backends.msi.unbind(at, number, 1);
            }
        }
    }

    /// The guest reads four bytes of the table.
    pub(super) fn read_table(&self, offset: u64) -> u32 {
        let Some(entry) = self.entry(offset) else { return u32::MAX };
        match offset % ENTRY {
            0 => entry.message.address as u32,
            4 => (entry.message.address >> 32) as u32,
            8 => entry.message.data,
            _ => u32::from(entry.masked),
        }
    }

    /// The guest writes four bytes of the table.
    pub(super) fn write_table(&mut self, backends: &Backends<'_>, at: Sbdf, offset: u64, value: u32) {
        let number = offset / ENTRY;
        let Some(entry) = usize::try_from(number).ok().and_then(|n| self.entries.get_mut(n)) else { return };
        let address = entry.message.address;
        entry.programmed &= offset % ENTRY == CONTROL_OFFSET;
        match offset % ENTRY {
            0 => entry.message.address = (address & !0xffff_ffff) | u64::from(value & !3),
            4 => entry.message.address = (address & 0xffff_ffff) | u64::from(value) << 32,
            8 => entry.message.data = value,
            _ => entry.masked = value & ENTRY_MASKED != 0,
        }
        self.update(backends, at, number);
    }

    fn entry(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset / ENTRY).ok()?)
    }

    fn update_all(&mut self, backends: &Backends<'_>, at: Sbdf) {
        if self.enabled && self.table.is_some() {
            self.entries.iter_mut().for_each(|e| e.programmed = false);
            (0..self.entries.len() as u64).for_each(|number| self.update(backends, at, number));
        }
    }

    /// Brings the device's entry in line with the guest's.
    fn update(&mut self, backends: &Backends<'_>, at: Sbdf, number: u64) {
        let (true, Some(table)) = (self.enabled, self.table) else { return };
        let Some(entry) = usize::try_from(number).ok().and_then(|n| self.entries.get_mut(n)) else { return };
        let place = table.saturating_add(number.saturating_mul(ENTRY));
        let write = |offset: u64, value: u32| {
            backends.mmio.write(MachineAddr(place.saturating_add(offset)), 4, u64::from(value));
        };
        let silent = entry.masked || self.mask_all;
        // A message is changed while it is masked, so that the device never sends half of it.
        if silent || !entry.programmed {
            write(CONTROL_OFFSET, ENTRY_MASKED);
        }
        if silent {
            return;
        }
        if entry.programmed {
            write(CONTROL_OFFSET, 0);
            return;
        }
        match backends.msi.bind(at, number as u16, 1, entry.message, true) {
            Ok(host) => {
                (entry.bound, entry.programmed) = (true, true);
                write(0, host.address as u32);
                write(4, (host.address >> 32) as u32);
                write(8, host.data);
                write(CONTROL_OFFSET, 0);
            }
            Err(error) => log::debug!("{at}: MSI-X entry {number} {:x?} is not bound: {error:?}", entry.message),
        }
    }

    fn write_host_control(&self, backends: &Backends<'_>, at: Sbdf, flags: u16) {
        backends.pci.write(at, self.capability.wrapping_add(2), Width::Word, u32::from(flags));
    }
}
