//! dom0's ACPI tables: a root of its own over the machine's tables, without those that describe what the hypervisor
//! owns, and with a MADT that lists dom0's vCPUs. dom0 reads all other tables where the firmware put them.
//!
//! Takes the machine's tables as plain values and returns bytes; touches nothing. The machine's MADT is not trusted:
//! its lengths are checked, and entries that are cut off end the list.
//!
//! Sources: ACPI 6.4 sections 5.2.5 (RSDP), 5.2.8 (XSDT), 5.2.12 (MADT); the Status Override Table specification of
//! the Xen project (STAO).

use crate::acpi::TableLocation;
use alloc::vec::Vec;

/// Bytes of a system description table header.
const HEADER: usize = 36;
const RSDP: usize = 36;
type Signature = [u8; 4];

const MADT: Signature = *b"APIC";
/// Tables that describe what the hypervisor drives or decides itself: interrupt controllers, timers, IOMMUs, and the
/// distances and powers of memory and CPUs, which dom0's own differ from.
const OWNED: [&Signature; 11] =
    [b"APIC", b"HPET", b"DMAR", b"IVRS", b"SRAT", b"SLIT", b"HMAT", b"MSCT", b"MPST", b"PMTT", b"WAET"];
/// Tables that the FADT points at and the root must not list, and one that is always the hypervisor's to make.
const UNLISTED: [&Signature; 3] = [b"DSDT", b"FACS", b"STAO"];
/// A table that invites dom0 to use the serial port as a debug port.
const DEBUG_PORT: Signature = *b"DBG2";
/// The table that names the serial port which the STAO hides. A STAO without it makes Linux complain.
const CONSOLE: Signature = *b"SPCR";

const MADT_IO_APIC: u8 = 1;
const MADT_OVERRIDE: u8 = 2;
const MADT_X2APIC: u8 = 9;
/// Local APICs are at this address; ACPI's default as well.
const LOCAL_APIC: u32 = 0xfee0_0000;

/// What dom0's tables are made from.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'a> {
    /// The machine's tables in the order of its XSDT; a DSDT among them is passed over.
    pub host: &'a [TableLocation],
    /// The machine's MADT, whole; empty if there is none.
    pub madt: &'a [u8],
    /// Number of dom0's vCPUs. Their local APIC numbers are twice their vCPU numbers.
    pub vcpus: u32,
    /// Whether the hypervisor uses the serial port, so that dom0 must not.
    pub hide_uart: bool,
    /// Whether dom0 has a pair of 8259 interrupt controllers.
    pub has_pic: bool,
}

impl Builder<'_> {
    /// Bytes that the tables take.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.build(0).len() as u64
    }

    /// The tables as bytes that go to `base`, a multiple of 16. The RSDP is the first.
    #[must_use]
    pub fn build(&self, base: u64) -> Vec<u8> {
        let kept: Vec<u64> = self.host.iter().filter(|t| self.keeps(&t.signature.0)).map(|t| t.at.0).collect();
        let mut own = Vec::from([self.madt()]);
        if self.hide_uart && self.host.iter().any(|t| t.signature.0 == CONSOLE) {
            // One byte that says: ignore the serial port that SPCR names.
            own.push(table(b"STAO", 1, &[1]));
        }

        let xsdt_at = base.saturating_add(RSDP.next_multiple_of(16) as u64);
        let entries = kept.len().saturating_add(own.len());
        let mut at = place_after(xsdt_at, HEADER.saturating_add(entries.saturating_mul(8)));
        let mut addresses = kept;
        for bytes in &own {
            addresses.push(at);
            at = place_after(at, bytes.len());
        }
        let body: Vec<u8> = addresses.iter().flat_map(|a| a.to_le_bytes()).collect();

        let mut out = rsdp(xsdt_at);
        for bytes in [table(b"XSDT", 1, &body)].iter().chain(&own) {
            out.resize(out.len().next_multiple_of(16), 0);
            out.extend_from_slice(bytes);
        }
        out
    }

    /// Whether dom0 sees one of the machine's tables.
    fn keeps(&self, signature: &Signature) -> bool {
        let hidden = OWNED.contains(&signature) || (self.hide_uart && *signature == DEBUG_PORT);
        !hidden && !UNLISTED.contains(&signature)
    }

    fn madt(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.extend_from_slice(&LOCAL_APIC.to_le_bytes());
        body.extend_from_slice(&u32::from(self.has_pic).to_le_bytes());
        for vcpu in 0..self.vcpus {
            body.extend_from_slice(&[MADT_X2APIC, 16, 0, 0]);
            for field in [vcpu.saturating_mul(2), 1, vcpu] {
                body.extend_from_slice(&field.to_le_bytes());
            }
        }
        for entry in madt_entries(self.madt) {
            if let [MADT_IO_APIC | MADT_OVERRIDE, ..] = entry {
                body.extend_from_slice(entry);
            }
        }
        table(&MADT, 4, &body)
    }
}

/// The entries of a MADT, each from its type byte on.
pub fn madt_entries(madt: &[u8]) -> impl Iterator<Item = &[u8]> {
    let stated = madt.get(4..).and_then(|m| m.first_chunk()).map_or(0, |l| u32::from_le_bytes(*l) as usize);
    let mut rest = madt.get(HEADER.saturating_add(8)..stated.min(madt.len())).unwrap_or_default();
    core::iter::from_fn(move || {
        let len = usize::from(*rest.get(1)?);
        if len < 2 {
            return None;
        }
        rest.split_off(..len)
    })
}

/// Where the next table begins after one of `len` bytes at `at`.
fn place_after(at: u64, len: usize) -> u64 {
    at.saturating_add(len.next_multiple_of(16) as u64)
}

fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(RSDP);
    out.extend_from_slice(b"RSD PTR \0RADON \x02");
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(RSDP as u32).to_le_bytes());
    out.extend_from_slice(&xsdt.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // The first checksum is over the part that ACPI 1.0 knew, the second over all.
    set_checksum(out.get_mut(..20), 8);
    set_checksum(out.get_mut(..), 32);
    out
}

fn table(signature: &Signature, revision: u8, body: &[u8]) -> Vec<u8> {
    let len = HEADER.saturating_add(body.len());
    let mut out = Vec::with_capacity(len);
    out.extend_from_slice(signature);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    out.extend_from_slice(&[revision, 0]);
    out.extend_from_slice(b"RADON RADONDM0");
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(b"RDN ");
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(body);
    set_checksum(out.get_mut(..), 9);
    out
}

/// Sets the byte at `at` such that all bytes add up to 0.
fn set_checksum(bytes: Option<&mut [u8]>, at: usize) {
    let Some(bytes) = bytes else { return };
    let sum = bytes.iter().fold(0u8, |s, b| s.wrapping_add(*b));
    if let Some(place) = bytes.get_mut(at) {
        *place = place.wrapping_sub(sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acpi::Signature;
    use alloc::vec;
    use proptest::prelude::*;
    use radon_core::types::MachineAddr;

    const BASE: u64 = 0x7fe0_0000;

    fn host_madt() -> Vec<u8> {
        let mut body = vec![0, 0, 0xe0, 0xfe, 1, 0, 0, 0];
        body.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
        body.extend_from_slice(&[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend_from_slice(&[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
        body.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
        table(&MADT, 3, &body)
    }

    fn host() -> Vec<TableLocation> {
        [b"FACP", b"APIC", b"HPET", b"MCFG", b"SRAT", b"SSDT", b"IVRS", b"SPCR", b"WAET", b"SSDT", b"DSDT"]
            .iter()
            .enumerate()
            .map(|(n, s)| TableLocation {
                signature: Signature(**s),
                at: MachineAddr(0xf_0000 + 0x100 * n as u64),
                length: 100,
                revision: 1,
                oem: [0; 6],
            })
            .collect()
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |s, b| s.wrapping_add(*b))
    }

    fn table_at(all: &[u8], address: u64) -> &[u8] {
        let at = (address - BASE) as usize;
        let len = u32::from_le_bytes(all[at + 4..at + 8].try_into().unwrap()) as usize;
        &all[at..at + len]
    }

    /// Follows the root as a kernel would; returns what the XSDT lists.
    fn entries(all: &[u8]) -> Vec<u64> {
        assert_eq!(&all[..8], b"RSD PTR ");
        assert_eq!((sum(&all[..20]), sum(&all[..36])), (0, 0));
        assert_eq!((all[15], all[20]), (2, 36));
        let xsdt = table_at(all, u64::from_le_bytes(all[24..32].try_into().unwrap()));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        xsdt[36..].chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
    }

    fn builder<'a>(host: &'a [TableLocation], madt: &'a [u8]) -> Builder<'a> {
        Builder { host, madt, vcpus: 3, hide_uart: true, has_pic: false }
    }

    #[test]
    fn tables_that_the_hypervisor_owns_are_hidden_and_replaced() {
        let (host, madt) = (host(), host_madt());
        let all = builder(&host, &madt).build(BASE);
        let listed = entries(&all);
        let kept = [0xf_0000, 0xf_0300, 0xf_0500, 0xf_0700, 0xf_0900];
        assert_eq!(listed[..5], kept, "FACP, MCFG, SSDT, SPCR and SSDT, in order");
        assert_eq!(listed.len(), 7);
        let own: Vec<&[u8]> = listed[5..].iter().map(|a| table_at(&all, *a)).collect();
        assert_eq!(own.iter().map(|t| &t[..4]).collect::<Vec<_>>(), [&b"APIC"[..], b"STAO"]);
        assert!(own.iter().all(|t| sum(t) == 0));
        assert_eq!(own[1][36..], [1]);
        assert!(listed[5..].iter().all(|a| a % 16 == 0));
    }

    #[test]
    fn the_madt_lists_vcpus_and_the_machines_io_apics() {
        let (host, madt) = (host(), host_madt());
        let all = builder(&host, &madt).build(BASE);
        let own = table_at(&all, entries(&all)[5]);
        let list: Vec<&[u8]> = madt_entries(own).collect();
        assert_eq!(list.len(), 5);
        for (vcpu, entry) in list[..3].iter().enumerate() {
            let vcpu = vcpu as u8;
            assert_eq!(**entry, [9, 16, 0, 0, 2 * vcpu, 0, 0, 0, 1, 0, 0, 0, vcpu, 0, 0, 0]);
        }
        assert_eq!(list[3], [1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(list[4], [2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
        assert_eq!(own[36..44], [0, 0, 0xe0, 0xfe, 0, 0, 0, 0]);
    }

    #[test]
    fn the_serial_port_is_dom0s_if_the_hypervisor_does_not_use_it() {
        let (host, madt) = (host(), host_madt());
        let all = Builder { hide_uart: false, has_pic: true, ..builder(&host, &madt) }.build(BASE);
        let listed = entries(&all);
        assert_eq!(listed.len(), 6);
        assert!(listed.contains(&0xf_0700), "SPCR");
        assert_eq!(table_at(&all, listed[5])[40], 1);
    }

    #[test]
    fn the_size_does_not_depend_on_the_place() {
        let (host, madt) = (host(), host_madt());
        let builder = builder(&host, &madt);
        assert_eq!(builder.size(), builder.build(BASE).len() as u64);
        assert!(entries(&Builder { host: &[], ..builder }.build(BASE)).len() == 1);
    }

    proptest! {
        #[test]
        fn any_madt_is_survived(madt in prop::collection::vec(any::<u8>(), 0..300), length in any::<u8>()) {
            let mut madt = madt;
            if let Some(bytes) = madt.get_mut(4..8) {
                bytes.copy_from_slice(&u32::from(length).to_le_bytes());
            }
            prop_assert!(madt_entries(&madt).all(|e| e.len() >= 2));
            let all = builder(&[], &madt).build(BASE);
            prop_assert_eq!(entries(&all).len(), 1);
        }
    }
}
