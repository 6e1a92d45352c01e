//! The maps that tell the processor which ports and MSRs a guest may touch without an exit (APM volume 2, 15.10, 15.11).
//! Filled before the first vCPU uses them, constant from then on.

use alloc::boxed::Box;
use core::ops::RangeInclusive;

use super::machine_address;

const IOPM_BYTES: usize = 3 * 4096;
const MSRPM_BYTES: usize = 2 * 4096;

#[repr(C, align(4096))]
struct Iopm([u8; IOPM_BYTES]);
#[repr(C, align(4096))]
struct Msrpm([u8; MSRPM_BYTES]);

/// Which accesses to an MSR a guest makes directly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MsrAccess {
    /// Reads only.
    Read,
    /// Reads and writes.
    ReadWrite,
}

/// The two permission maps of a domain. Starts with everything intercepted.
pub struct PermissionMaps {
    io: Box<Iopm>,
    msr: Box<Msrpm>,
}

impl Default for PermissionMaps {
    fn default() -> Self {
        PermissionMaps { io: Box::new(Iopm([0xff; IOPM_BYTES])), msr: Box::new(Msrpm([0xff; MSRPM_BYTES])) }
    }
}

impl PermissionMaps {
    /// The guest touches these ports directly.
    pub fn allow_ports(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.io.0[usize::from(port / 8)] &= !(1 << (port % 8));
        }
    }

    /// The guest exits on these ports.
    pub fn intercept_ports(&mut self, ports: RangeInclusive<u16>) {
        for port in ports {
            self.io.0[usize::from(port / 8)] |= 1 << (port % 8);
        }
    }

    /// The guest touches this MSR directly. MSRs outside the ranges that the map covers always exit.
    pub fn allow_msr(&mut self, msr: u32, access: MsrAccess) {
        let base = match msr {
            0..=0x1fff => 0,
            0xc000_0000..=0xc000_1fff => 0x800,
            0xc001_0000..=0xc001_1fff => 0x1000,
            _ => return,
        };
        let n = (msr & 0x1fff) as usize;
        let bits = if access == MsrAccess::Read { 0b01 } else { 0b11 };
        self.msr.0[base + n / 4] &= !(bits << (2 * (n % 4)));
    }

    pub(super) fn io_address(&self) -> u64 {
        machine_address(&*self.io)
    }

    pub(super) fn msr_address(&self) -> u64 {
        machine_address(&*self.msr)
    }
}
