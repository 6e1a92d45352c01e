//! Where an access to configuration space goes: decoding of the ports 0xcf8-0xcff and of memory-mapped configuration
//! space (ECAM). Pure.
//!
//! Sources: PCI Local Bus specification 3.0, section 3.2.2.3.2 (configuration mechanism #1); PCI Express base
//! specification, section 7.2.2 (ECAM); AMD's extension of mechanism #1 to 4 KiB (bits 27:24 of the address).

use super::{Sbdf, Width};
use crate::acpi::EcamRegion;

/// The address port.
pub const ADDRESS_PORT: u16 = 0xcf8;
/// The first of four data ports.
pub const DATA_PORT: u16 = 0xcfc;
const ENABLE: u32 = 1 << 31;
const ECAM_FUNCTION: u64 = 4096;

/// What an access to one of the ports 0xcf8-0xcff means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortTarget {
    /// The address register itself, as a whole.
    Address,
    /// Configuration space at this register. The access may go beyond the register's aligned four bytes only if the
    /// guest's did; see [`super::VPci::read`].
    Config(Sbdf, u16),
    /// A data port without an address that is enabled: reads give all ones, writes nothing.
    Nothing,
    /// Not a PCI port with this width: for example the reset register at 0xcf9.
    NotPci,
}

/// The latch behind port 0xcf8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressPort(u32);

impl AddressPort {
    /// The address as the guest wrote it.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Stores what the guest wrote.
    pub const fn set(&mut self, value: u32) {
        self.0 = value;
    }

    /// Decodes an access of `width` to `port`.
    #[must_use]
    pub fn decode(self, port: u16, width: Width) -> PortTarget {
        match port {
            ADDRESS_PORT if width == Width::Dword => PortTarget::Address,
            DATA_PORT..=0xcff if self.0 & ENABLE == 0 => PortTarget::Nothing,
            DATA_PORT..=0xcff => {
                let device = Sbdf::new(0, (self.0 >> 8) as u16);
                let register = (self.0 & 0xfc) | ((self.0 >> 16) & 0xf00) | u32::from(port & 3);
                PortTarget::Config(device, register as u16)
            }
            _ => PortTarget::NotPci,
        }
    }
}

/// A range of memory-mapped configuration space, as ACPI's MCFG table lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// The address that bus 0 of the segment has (or would have).
    pub base: u64,
    /// PCI segment group.
    pub segment: u16,
    /// First bus that is decoded.
    pub first_bus: u8,
    /// Last bus that is decoded.
    pub last_bus: u8,
}

impl From<EcamRegion> for Ecam {
    fn from(region: EcamRegion) -> Ecam {
        let (first_bus, last_bus) = region.buses;
        Ecam { base: region.address.0, segment: region.segment, first_bus, last_bus }
    }
}

impl Ecam {
    /// The addresses that the range takes. Empty if the table is nonsense.
    #[must_use]
    pub fn addresses(&self) -> core::ops::Range<u64> {
        let bus = |n: u64| self.base.saturating_add(n << 20);
        bus(u64::from(self.first_bus))..bus(u64::from(self.last_bus).saturating_add(1))
    }

    /// The function and register at a machine address.
    #[must_use]
    pub fn decode(&self, address: u64) -> Option<(Sbdf, u16)> {
        if !self.addresses().contains(&address) {
            return None;
        }
        let offset = address.wrapping_sub(self.base);
        let bdf = u16::try_from(offset / ECAM_FUNCTION).ok()?;
        Some((Sbdf::new(self.segment, bdf), (offset % ECAM_FUNCTION) as u16))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latched(value: u32) -> AddressPort {
        let mut port = AddressPort::default();
        port.set(value);
        port
    }

    #[test]
    fn ports_decode_bus_device_function_register_and_byte() {
        let port = latched(0x8000_0000 | 0x12 << 16 | 0x1f << 11 | 3 << 8 | 0x40);
        let device = Sbdf::new(0, 0x12fb);
        assert_eq!(port.decode(0xcfc, Width::Dword), PortTarget::Config(device, 0x40));
        assert_eq!(port.decode(0xcfe, Width::Word), PortTarget::Config(device, 0x42));
        assert_eq!(port.decode(0xcff, Width::Byte), PortTarget::Config(device, 0x43));
        assert_eq!((device.segment(), device.bus(), device.device(), device.function()), (0, 0x12, 0x1f, 3));
    }

    #[test]
    fn the_low_two_address_bits_do_not_count_and_extended_registers_do() {
        assert_eq!(latched(0x8300_0003).decode(0xcfd, Width::Byte), PortTarget::Config(Sbdf::new(0, 0), 0x301));
    }

    #[test]
    fn only_whole_writes_reach_the_address() {
        let port = latched(0);
        assert_eq!(port.decode(0xcf8, Width::Dword), PortTarget::Address);
        assert_eq!(port.decode(0xcf8, Width::Word), PortTarget::NotPci);
        assert_eq!(port.decode(0xcf9, Width::Byte), PortTarget::NotPci, "the reset register");
        assert_eq!(port.decode(0xd00, Width::Byte), PortTarget::NotPci);
        assert_eq!(port.decode(0xcfc, Width::Dword), PortTarget::Nothing, "not enabled");
    }

    #[test]
    fn ecam_decodes_within_its_buses_only() {
        let ecam = Ecam { base: 0xb000_0000, segment: 2, first_bus: 0x10, last_bus: 0x1f };
        assert_eq!(ecam.addresses(), 0xb100_0000..0xb200_0000);
        assert_eq!(ecam.decode(0xb100_0000), Some((Sbdf::new(2, 0x1000), 0)));
        assert_eq!(ecam.decode(0xb1f0_b123), Some((Sbdf::new(2, 0x1f0b), 0x123)));
        assert_eq!(ecam.decode(0xb0ff_ffff), None);
        assert_eq!(ecam.decode(0xb200_0000), None);
        let nonsense = Ecam { base: u64::MAX - 5, segment: 0, first_bus: 0, last_bus: 255 };
        assert_eq!(nonsense.decode(u64::MAX - 3), Some((Sbdf::new(0, 0), 2)));
        assert_eq!(nonsense.decode(5), None);
    }
}
