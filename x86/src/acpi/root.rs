//! The root pointer (RSDP, ACPI 5.2.5) and the root tables (RSDT and XSDT).

use alloc::vec::Vec;
use radon_core::types::MachineAddr;

use super::{AcpiError, HEADER, MAX_TABLES, Problem, Read, Signature, contents, locate};
use crate::boot_info::{u16_at, u32_at, u64_at};

/// Where the tables start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RootPointer {
    /// Where the root pointer itself is, if it was found by searching.
    pub at: Option<MachineAddr>,
    /// 0 for ACPI 1.0, 2 for later.
    pub revision: u8,
    /// The table of 32-bit addresses.
    pub rsdt: MachineAddr,
    /// The table of 64-bit addresses, if there is one.
    pub xsdt: Option<MachineAddr>,
}

fn error(at: MachineAddr, problem: Problem) -> AcpiError {
    AcpiError { table: Signature(*b"RSDP"), at, problem }
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0u8, |s, &b| s.wrapping_add(b)) == 0
}

/// Checks a copy of the root pointer: 20 bytes for ACPI 1.0, 36 for later.
///
/// # Errors
/// An [`AcpiError`] that says what is wrong.
pub fn parse_root_pointer(bytes: &[u8], at: Option<MachineAddr>) -> Result<RootPointer, AcpiError> {
    let fail = |problem| error(at.unwrap_or_default(), problem);
    let old = bytes.get(..20).ok_or(fail(Problem::BadLength(bytes.len() as u32)))?;
    if !old.starts_with(b"RSD PTR ") {
        return Err(fail(Problem::Missing));
    }
    if !sums_to_zero(old) {
        return Err(fail(Problem::BadChecksum));
    }
    let revision = old.get(15).copied().unwrap_or(0);
    let rsdt = MachineAddr(u64::from(u32_at(old, 16).unwrap_or(0)));
    // A broken second half leaves the first one usable.
    let new = bytes.get(..36).filter(|new| revision >= 2 && sums_to_zero(new));
    let xsdt = new.and_then(|new| u64_at(new, 24)).filter(|&x| x != 0).map(MachineAddr);
    if xsdt.is_none() && rsdt.0 == 0 {
        return Err(fail(Problem::BadContents("it names no root table")));
    }
    Ok(RootPointer { at, revision, rsdt, xsdt })
}

/// Finds the root pointer where the BIOS keeps it (ACPI 5.2.5.1): the first KiB of the extended BIOS data area, or
/// 0xe0000 to 0xfffff, on a 16-byte boundary.
///
/// # Errors
/// [`Problem::Missing`] if there is none with a right checksum.
pub fn find_root_pointer(read: Read<'_>) -> Result<RootPointer, AcpiError> {
    let mut segment = [0u8; 2];
    read(MachineAddr(0x40e), &mut segment);
    let ebda = u64::from(u16_at(&segment, 0).unwrap_or(0)).saturating_mul(16);
    let areas = [(ebda, 1024), (0xe_0000, 0x2_0000)];
    for (start, length) in areas.into_iter().filter(|&(start, _)| (0x400..0x10_0000).contains(&start)) {
        for offset in (0..length).step_by(16) {
            let at = MachineAddr(u64::saturating_add(start, offset));
            let mut bytes = [0u8; 36];
            read(at, &mut bytes);
            if let Ok(found) = parse_root_pointer(&bytes, Some(at)) {
                return Ok(found);
            }
        }
    }
    Err(error(MachineAddr(0), Problem::Missing))
}

/// The addresses that the root table lists: the XSDT's if it is sound, else the RSDT's.
pub(super) fn entries(read: Read<'_>, root: &RootPointer) -> Result<Vec<MachineAddr>, AcpiError> {
    let from = |at: MachineAddr, name: &[u8; 4], width: usize| {
        let table = locate(read, at)?;
        if table.signature.0 != *name {
            let problem = Problem::BadContents("another table is where it should be");
            return Err(AcpiError { table: Signature(*name), at, problem });
        }
        let bytes = contents(read, &table);
        let list = bytes.get(HEADER..).unwrap_or_default().chunks_exact(width).take(MAX_TABLES);
        let address = |e: &[u8]| u64_at(e, 0).or_else(|| u32_at(e, 0).map(u64::from)).map(MachineAddr);
        Ok(list.filter_map(address).filter(|a| a.0 != 0).collect())
    };
    match root.xsdt.map(|at| from(at, b"XSDT", 8)) {
        Some(Ok(list)) => Ok(list),
        Some(Err(e)) if root.rsdt.0 == 0 => Err(e),
        _ => from(root.rsdt, b"RSDT", 4),
    }
}
