//! The MSI capability, virtualised: the guest's address and data are kept here and never reach the device, which gets
//! the message that the backend chooses. The mask bits are the device's own.
//!
//! Source: PCI Local Bus specification 3.0, section 6.8.1.

use super::config::{self, CAPABILITY_MSI};
use super::{Backends, GuestMsi, Sbdf, Width};

const ENABLE: u16 = 1;
const CAPABLE_SHIFT: u32 = 1;
const ENABLED_SHIFT: u32 = 4;
const COUNT_MASK: u16 = 0b111;
const WIDE: u16 = 1 << 7;
const PER_VECTOR_MASK: u16 = 1 << 8;
/// The extension to 32 bits of data, which is not offered.
const EXTENDED_DATA: u16 = 0b11 << 9;

/// A register of the capability that is not the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Control,
    AddressLow,
    AddressHigh,
    Data,
}

/// The state of one capability.
#[derive(Clone, Debug)]
pub(super) struct Msi {
    capability: u16,
    wide: bool,
    /// log2 of the most messages that the device and the backend can have.
    capable: u16,
    /// What the guest wrote.
    enabled: bool,
    /// log2 of the number of messages that the guest enabled.
    order: u16,
    address: u64,
    data: u16,
    /// How many messages are bound; 0 while the device is off.
    bound: u16,
}

impl Msi {
    /// Finds the capability and switches it off.
    pub(super) fn probe(backends: &Backends<'_>, at: Sbdf) -> Option<Msi> {
        let capability = config::capability(backends.pci, at, CAPABILITY_MSI)?;
        let control = backends.pci.read(at, capability.checked_add(2)?, Width::Word) as u16;
        let wide = control & WIDE != 0;
        let length = match (wide, control & PER_VECTOR_MASK != 0) {
            (false, false) => 10,
            (true, false) => 14,
            (false, true) => 20,
            (true, true) => 24,
        };
        if capability.checked_add(length)? > 0x100 {
            return None;
        }
        let most = backends.msi.max_messages().max(1).ilog2() as u16;
        let capable = ((control >> CAPABLE_SHIFT) & COUNT_MASK).min(5).min(most);
        let msi = Msi { capability, wide, capable, enabled: false, order: 0, address: 0, data: 0, bound: 0 };
        backends.pci.write(at, capability.wrapping_add(2), Width::Word, u32::from(control & !ENABLE));
        Some(msi)
    }

    /// The virtual register at this offset of configuration space, with its size in bytes.
    pub(super) fn register(&self, offset: u16) -> Option<(Register, u16)> {
        match (offset.checked_sub(self.capability)?, self.wide) {
            (2, _) => Some((Register::Control, 2)),
            (4, _) => Some((Register::AddressLow, 4)),
            (8, true) => Some((Register::AddressHigh, 4)),
            (8, false) | (12, true) => Some((Register::Data, 2)),
            _ => None,
        }
    }

    pub(super) fn read(&self, backends: &Backends<'_>, at: Sbdf, register: Register) -> u32 {
        match register {
            Register::AddressLow => self.address as u32,
            Register::AddressHigh => (self.address >> 32) as u32,
            Register::Data => u32::from(self.data),
            Register::Control => {
                let host = backends.pci.read(at, self.control_register(), Width::Word) as u16;
                let fixed = host & (WIDE | PER_VECTOR_MASK);
                let counts = self.capable << CAPABLE_SHIFT | self.order << ENABLED_SHIFT;
                u32::from(fixed | counts | u16::from(self.enabled))
            }
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// The guest writes a register. `allowed` says whether the capability may be enabled.
    pub(super) fn write(&mut self, backends: &Backends<'_>, at: Sbdf, register: Register, value: u32, allowed: bool) {
        match register {
            Register::AddressLow => self.address = (self.address & !0xffff_ffff) | u64::from(value & !3),
            Register::AddressHigh => self.address = (self.address & 0xffff_ffff) | u64::from(value) << 32,
            Register::Data => self.data = value as u16,
            Register::Control => {
                let order = ((value as u16 >> ENABLED_SHIFT) & COUNT_MASK).min(self.capable);
                self.enabled = allowed && value as u16 & ENABLE != 0;
                if order != self.order || !self.enabled {
                    self.stop(backends, at);
                }
                self.order = order;
                if !self.enabled {
                    return;
                }
            }
        }
        if self.enabled {
            self.start(backends, at);
        }
    }

    /// Binds the guest's message and switches the device on with the host's; also after a change of the message.
    fn start(&mut self, backends: &Backends<'_>, at: Sbdf) {
        let count = 1u16 << self.order.min(5);
        let message = GuestMsi { address: self.address, data: u32::from(self.data) };
        let host = match backends.msi.bind(at, 0, count, message, self.bound == 0) {
            Ok(host) => host,
            Err(error) => {
                log::debug!("{at}: MSI {message:x?} is not bound: {error:?}");
                self.stop(backends, at);
                return;
            }
        };
        self.bound = count;
        let write =
            |offset: u16, width, value| backends.pci.write(at, self.capability.wrapping_add(offset), width, value);
        write(4, Width::Dword, host.address as u32);
        if self.wide {
            write(8, Width::Dword, (host.address >> 32) as u32);
        }
        write(if self.wide { 12 } else { 8 }, Width::Word, host.data & 0xffff);
        self.set_control(backends, at, true);
    }

    /// Switches the device off and gives the binding back.
    pub(super) fn stop(&mut self, backends: &Backends<'_>, at: Sbdf) {
        self.set_control(backends, at, false);
        let count = core::mem::take(&mut self.bound);
        if count != 0 {
            backends.msi.unbind(at, 0, count);
        }
    }

    fn set_control(&self, backends: &Backends<'_>, at: Sbdf, on: bool) {
        let register = self.control_register();
        let rest = backends.pci.read(at, register, Width::Word) as u16;
        let rest = rest & !(ENABLE | COUNT_MASK << ENABLED_SHIFT | EXTENDED_DATA);
        let value = rest | self.order << ENABLED_SHIFT | u16::from(on);
        backends.pci.write(at, register, Width::Word, u32::from(value));
    }

    fn control_register(&self) -> u16 {
        self.capability.wrapping_add(2)
    }
}
