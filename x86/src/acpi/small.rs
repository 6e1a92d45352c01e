//! Two small tables: HPET and MCFG.

use alloc::vec::Vec;
use radon_core::types::MachineAddr;

use super::fadt::generic;
use crate::boot_info::{u16_at, u64_at};

/// The high precision event timer (IA-PC HPET specification 3.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hpet {
    /// Where its registers are.
    pub address: MachineAddr,
}

/// A part of PCI configuration space that is mapped to memory (PCI Firmware specification 4.1.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EcamRegion {
    /// Where bus 0 of the segment is or would be.
    pub address: MachineAddr,
    /// PCI segment group.
    pub segment: u16,
    /// First and last bus.
    pub buses: (u8, u8),
}

pub(super) fn hpet(table: &[u8]) -> Result<Hpet, &'static str> {
    match generic(table, 40) {
        Some(a) if a.space == 0 => Ok(Hpet { address: MachineAddr(a.address) }),
        _ => Err("its registers are not in memory"),
    }
}

pub(super) fn mcfg(table: &[u8]) -> Result<Vec<EcamRegion>, &'static str> {
    let regions = table.get(44..).unwrap_or_default().chunks_exact(16).filter_map(|e| {
        let [.., start, end, _, _, _, _] = *e else { return None };
        let address = MachineAddr(u64_at(e, 0)?);
        (start <= end).then_some(EcamRegion { address, segment: u16_at(e, 8)?, buses: (start, end) })
    });
    Ok(regions.collect())
}
