//! ACPI tables with a defect, for an emulated machine to boot with.
//!
//! QEMU mends the checksums of tables that it is given by `-acpitable`. So its own tables are switched off, and the
//! firmware (SeaBIOS) is given ours as the files of QEMU's interface between the two: `etc/acpi/rsdp`, `etc/acpi/tables`
//! and `etc/table-loader`, a list of commands that place the files in memory and put addresses into them. SeaBIOS carries
//! out what is in the list and nothing else, so only the root pointer gets its checksum there, without which it would
//! not be found.

use std::path::PathBuf;

use anyhow::Result;

use crate::initrd;

/// Where the tables are named.
const TABLES: &str = "etc/acpi/tables";
const ROOT: &str = "etc/acpi/rsdp";
/// Bytes of a table's header.
const HEADER: usize = 36;

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A wrong checksum.
    Checksum,
    /// A length shorter than the header.
    Length,
}

/// A table's name and what is wrong with it.
pub(crate) type Defect = (&'static str, Flaw);

/// A table with a right checksum.
fn table(name: &str, revision: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.extend(((HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend([revision, 0]);
    bytes.extend(b"RADON TEST    \x01\0\0\0TEST\x01\0\0\0");
    bytes.extend(body);
    mend(&mut bytes);
    bytes
}

fn mend(bytes: &mut [u8]) {
    bytes[9] = 0;
    bytes[9] = bytes.iter().fold(0u8, |sum, &b| sum.wrapping_sub(b));
}

/// One processor, an I/O APIC, the timer's interrupt at pin 2: as QEMU's own.
fn madt() -> Vec<u8> {
    let mut body = 0xfee0_0000u32.to_le_bytes().to_vec();
    body.extend(1u32.to_le_bytes());
    body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
    body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    table("APIC", 1, &body)
}

/// The fixed description of QEMU's q35 machine (ACPI 1.0); the DSDT's address is put in by the firmware.
fn fadt() -> Vec<u8> {
    let mut body = vec![0u8; 116 - HEADER];
    let mut put = |at: usize, bytes: &[u8]| body[at - HEADER..at - HEADER + bytes.len()].copy_from_slice(bytes);
    put(46, &9u16.to_le_bytes());
    put(48, &0xb2u32.to_le_bytes());
    put(52, &[2, 3]);
    put(56, &0x600u32.to_le_bytes());
    put(64, &0x604u32.to_le_bytes());
    put(76, &0x608u32.to_le_bytes());
    put(88, &[4, 2, 0, 4]);
    table("FACP", 1, &body)
}

fn hpet() -> Vec<u8> {
    let mut body = 0x8086_a201u32.to_le_bytes().to_vec();
    body.extend([0, 0, 0, 0]);
    body.extend(0xfed0_0000u64.to_le_bytes());
    body.extend([0, 0, 0, 0]);
    table("HPET", 1, &body)
}

/// A command of the loader: 128 bytes.
fn command(number: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = number.to_le_bytes().to_vec();
    parts.iter().for_each(|part| bytes.extend(*part));
    bytes.resize(128, 0);
    bytes
}

/// A file's name in a field of 56 bytes.
fn field(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(56, 0);
    bytes
}

/// The files for tables with this defect, by name.
fn files((broken, flaw): Defect) -> [(&'static str, Vec<u8>); 3] {
    let (high, low, pointer_size) = ([1u8], [2u8], [4u8]);
    let mut loader = command(1, &[&field(TABLES), &64u32.to_le_bytes(), &high]);
    loader.extend(command(1, &[&field(ROOT), &16u32.to_le_bytes(), &low]));
    let mut place = |into: &str, at: usize| {
        loader.extend(command(2, &[&field(into), &field(TABLES), &(at as u32).to_le_bytes(), &pointer_size]));
    };
    let mut all: Vec<u8> = Vec::new();
    let mut starts = Vec::new();
    for table in [table("DSDT", 1, &[]), fadt(), madt(), hpet()] {
        starts.push(all.len());
        all.extend(table);
    }
    let rsdt = all.len();
    // The firmware adds the file's address to what is in a field, and makes the checksums of these tables right then.
    let addresses: Vec<u8> = starts[1..].iter().flat_map(|&start| (start as u32).to_le_bytes()).collect();
    all.extend(table("RSDT", 1, &addresses));
    let fadt_at = starts[1];
    all[fadt_at + 40..fadt_at + 44].copy_from_slice(&0u32.to_le_bytes());
    place(TABLES, fadt_at + 40);
    (0..starts.len() - 1).for_each(|n| place(TABLES, rsdt + HEADER + 4 * n));
    let mut root = b"RSD PTR \0RADON \0".to_vec();
    root.extend((rsdt as u32).to_le_bytes());
    place(ROOT, 16);
    let mut checksum = |file: &str, at: usize, start: usize, length: usize| {
        let numbers = [at, start, length].map(|n| (n as u32).to_le_bytes());
        loader.extend(command(3, &[&field(file), &numbers[0], &numbers[1], &numbers[2]]));
    };
    for (name, start, length) in [("FACP", fadt_at, 116), ("RSDT", rsdt, HEADER + addresses.len())] {
        if name != broken {
            checksum(TABLES, start + 9, start, length);
        }
    }
    checksum(ROOT, 8, 0, 20);
    let at = all.windows(4).position(|name| name == broken.as_bytes()).unwrap_or(0);
    match flaw {
        Flaw::Checksum => all[at + 9] ^= 0x5a,
        Flaw::Length => all[at + 4..at + 8].copy_from_slice(&20u32.to_le_bytes()),
    }
    [(ROOT, root), (TABLES, all), ("etc/table-loader", loader)]
}

/// QEMU's arguments for a machine with this defect. The files are stored with `name` in theirs.
pub(crate) fn arguments(name: &str, defect: Defect) -> Result<Vec<String>> {
    let mut arguments = vec!["-machine".to_owned(), "acpi=off".to_owned()];
    for (kind, (inside, bytes)) in ["rsdp", "tables", "loader"].into_iter().zip(files(defect)) {
        let file: PathBuf = initrd::store(&format!("{name}.{kind}"), &bytes)?;
        arguments.extend(["-fw_cfg".to_owned(), format!("name={inside},file={}", file.display())]);
    }
    Ok(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b))
    }

    #[test]
    fn tables_are_right_but_for_the_defect() {
        assert_eq!((sum(&madt()), sum(&hpet()), fadt().len()), (0, 0, 116));
        let [_, (_, wrong), (_, loader)] = files(("APIC", Flaw::Checksum));
        let [_, (_, short), _] = files(("APIC", Flaw::Length));
        let at = wrong.windows(4).position(|name| name == b"APIC").unwrap();
        assert_ne!(sum(&wrong[at..at + madt().len()]), 0);
        assert_eq!(short[at + 4..at + 8], 20u32.to_le_bytes());
        assert_eq!(loader.len() % 128, 0);
    }

    #[test]
    fn a_table_whose_checksum_is_to_be_wrong_gets_none_from_the_firmware() {
        let checksums = |defect| files(defect)[2].1.chunks(128).filter(|c| c[0] == 3).count();
        assert_eq!(checksums(("APIC", Flaw::Checksum)), 3);
        assert_eq!(checksums(("RSDT", Flaw::Checksum)), 2);
    }
}
