//! The firmware's ACPI tables (ACPI specification 6.5): found, checked, and the few parsed that a hypervisor needs. The
//! rest is dom0's business.
//!
//! Tables are read through a function that the caller gives and are copied; lengths are bounded and checksums verified.
//! A table that is broken is left out and named in [`Acpi::problems`]; the caller decides what it can do without.

pub mod fadt;
pub mod madt;
pub mod root;
pub mod s5;
mod small;

use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use radon_core::types::MachineAddr;

pub use crate::boot_info::Read;
pub use fadt::{Fadt, GenericAddress};
pub use madt::{IoApic, LocalApic, Madt, SourceOverride};
pub use root::{RootPointer, find_root_pointer};
pub use s5::SleepType;
pub use small::{EcamRegion, Hpet};

/// A table's four-letter name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&b| write!(f, "{}", char::from(b).escape_default()))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes of the header that every table but the oldest starts with.
pub const HEADER: usize = 36;
/// Longest table that is taken, in bytes.
pub const MAX_TABLE: u32 = 16 << 20;
/// Most tables that are taken.
pub const MAX_TABLES: usize = 256;

/// What is wrong with a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Problem {
    /// It was not found.
    Missing,
    /// Its length is impossible.
    BadLength(u32),
    /// Its bytes do not sum to 0.
    BadChecksum,
    /// A part that it must have is not there or makes no sense.
    BadContents(&'static str),
}

/// A table that cannot be used, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcpiError {
    /// The table.
    pub table: Signature,
    /// Where it is, if that is known.
    pub at: MachineAddr,
    /// Why.
    pub problem: Problem,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACPI table {} ", self.table)?;
        match self.problem {
            Problem::Missing => f.write_str("is missing: look for a firmware setting that turns ACPI on"),
            Problem::BadLength(n) => {
                write!(f, "at {:#x} has an impossible length ({n} bytes): a firmware update may help", self.at.0)
            }
            Problem::BadChecksum => {
                write!(f, "at {:#x} has a wrong checksum: a firmware update may help", self.at.0)
            }
            Problem::BadContents(what) => {
                write!(f, "at {:#x} is broken: {what}; a firmware update may help", self.at.0)
            }
        }
    }
}

impl core::error::Error for AcpiError {}

/// A table that was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableLocation {
    /// Its name.
    pub signature: Signature,
    /// Where it starts.
    pub at: MachineAddr,
    /// Its bytes, header included.
    pub length: u32,
    /// Its revision.
    pub revision: u8,
    /// Its maker.
    pub oem: [u8; 6],
}

/// Everything taken from the firmware's tables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acpi {
    /// Where the tables start.
    pub root: RootPointer,
    /// The tables listed in the root table, and the DSDT.
    pub tables: Vec<TableLocation>,
    /// Interrupt controllers and processors.
    pub madt: Option<Madt>,
    /// Power management.
    pub fadt: Option<Fadt>,
    /// Values that switch the machine off.
    pub s5: Option<SleepType>,
    /// The high precision event timer.
    pub hpet: Option<Hpet>,
    /// PCI configuration space in memory.
    pub ecam: Vec<EcamRegion>,
    /// What was wrong.
    pub problems: Vec<AcpiError>,
}

impl Acpi {
    /// What is wrong with a table that no system can do without: those of interrupt controllers and of power management.
    #[must_use]
    pub fn missing_part(&self) -> Option<&AcpiError> {
        let lacks = [(b"APIC", self.madt.is_none()), (b"FACP", self.fadt.is_none())];
        // A broken table is told before the lack of it.
        lacks.iter().find(|(_, lacks)| *lacks).and_then(|(name, _)| self.problems.iter().find(|p| p.table.0 == **name))
    }

    /// The first table of a name.
    #[must_use]
    pub fn find(&self, signature: &[u8; 4]) -> Option<&TableLocation> {
        self.tables.iter().find(|t| t.signature.0 == *signature)
    }
}

/// Reads all that is needed, starting from the root pointer.
///
/// # Errors
/// An [`AcpiError`] if there is no usable root table. Anything less is noted in [`Acpi::problems`].
pub fn read_tables(read: Read<'_>, root: RootPointer) -> Result<Acpi, AcpiError> {
    let mut problems = Vec::new();
    let mut tables = Vec::new();
    for at in root::entries(read, &root)? {
        match locate(read, at) {
            Ok(table) => tables.push(table),
            Err(problem) => problems.push(problem),
        }
    }
    let mut acpi = Acpi { root, tables, madt: None, fadt: None, s5: None, hpet: None, ecam: Vec::new(), problems };
    acpi.madt = acpi.parse(read, b"APIC", madt::parse);
    acpi.fadt = acpi.parse(read, b"FACP", fadt::parse);
    acpi.hpet = acpi.find(b"HPET").is_some().then(|| acpi.parse(read, b"HPET", small::hpet)).flatten();
    acpi.ecam = match acpi.find(b"MCFG") {
        Some(_) => acpi.parse(read, b"MCFG", small::mcfg).unwrap_or_default(),
        None => Vec::new(),
    };
    acpi.read_dsdt(read);
    Ok(acpi)
}

impl Acpi {
    /// Parses the first table of a name; a failure is noted.
    fn parse<T>(&mut self, read: Read<'_>, name: &[u8; 4], parser: fn(&[u8]) -> Result<T, &'static str>) -> Option<T> {
        let missing = AcpiError { table: Signature(*name), at: MachineAddr(0), problem: Problem::Missing };
        let result = self.find(name).ok_or(missing).and_then(|table| {
            parser(&contents(read, table)).map_err(|what| AcpiError {
                table: table.signature,
                at: table.at,
                problem: Problem::BadContents(what),
            })
        });
        result.map_err(|e| self.problems.push(e)).ok()
    }

    /// Finds the DSDT through the FADT, and in it, or else in an SSDT, the values that switch the machine off.
    fn read_dsdt(&mut self, read: Read<'_>) {
        let Some(at) = self.fadt.as_ref().map(|f| f.dsdt).filter(|at| at.0 != 0) else { return };
        match locate(read, at) {
            Ok(table) => self.tables.push(table),
            Err(problem) => self.problems.push(problem),
        }
        let code = |t: &&TableLocation| matches!(&t.signature.0, b"DSDT" | b"SSDT");
        self.s5 = self.tables.iter().rev().filter(code).find_map(|t| s5::find(&contents(read, t)));
    }
}

/// Reads and checks the header and the checksum of the table at an address.
fn locate(read: Read<'_>, at: MachineAddr) -> Result<TableLocation, AcpiError> {
    let mut header = [0u8; HEADER];
    read(at, &mut header);
    let [s0, s1, s2, s3, l0, l1, l2, l3, revision, _, o0, o1, o2, o3, o4, o5, ..] = header;
    let signature = Signature([s0, s1, s2, s3]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let error = |problem| AcpiError { table: signature, at, problem };
    if !(HEADER as u32..=MAX_TABLE).contains(&length) {
        return Err(error(Problem::BadLength(length)));
    }
    let mut sum = 0u8;
    let mut piece = [0u8; 256];
    let mut offset = 0u32;
    while offset < length {
        let n = (length.saturating_sub(offset) as usize).min(piece.len());
        let Some(part) = piece.get_mut(..n) else { break };
        read(MachineAddr(at.0.saturating_add(u64::from(offset))), part);
        sum = part.iter().fold(sum, |s, &b| s.wrapping_add(b));
        offset = offset.saturating_add(n as u32);
    }
    // The FACS has no checksum, but is never listed.
    if sum != 0 {
        return Err(error(Problem::BadChecksum));
    }
    Ok(TableLocation { signature, at, length, revision, oem: [o0, o1, o2, o3, o4, o5] })
}

/// Copies a table that was located.
#[must_use]
pub fn contents(read: Read<'_>, table: &TableLocation) -> Vec<u8> {
    let mut bytes = vec![0u8; table.length as usize];
    read(table.at, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
