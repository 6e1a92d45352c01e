//! The machine's memory map: regions sorted and free of overlaps, whatever the firmware said.

use alloc::vec::Vec;
use radon_core::sort::sort_by_key;
use radon_core::types::MachineAddr;

/// What a region is. Ordered by how strongly it forbids use: where regions overlap, the greater kind holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MemoryKind {
    /// Usable RAM.
    Ram,
    /// ACPI tables; RAM once they were read.
    AcpiReclaimable,
    /// Memory that ACPI uses for ever.
    AcpiNvs,
    /// Not to be touched: devices, firmware.
    Reserved,
    /// Broken RAM.
    Unusable,
}

impl MemoryKind {
    /// From the number in the BIOS's (E820) and Multiboot's maps. Unknown numbers are reserved.
    #[must_use]
    pub const fn from_e820(number: u32) -> MemoryKind {
        match number {
            1 => MemoryKind::Ram,
            3 => MemoryKind::AcpiReclaimable,
            4 => MemoryKind::AcpiNvs,
            5 => MemoryKind::Unusable,
            _ => MemoryKind::Reserved,
        }
    }

    /// The number in E820 maps.
    #[must_use]
    pub const fn to_e820(self) -> u32 {
        match self {
            MemoryKind::Ram => 1,
            MemoryKind::Reserved => 2,
            MemoryKind::AcpiReclaimable => 3,
            MemoryKind::AcpiNvs => 4,
            MemoryKind::Unusable => 5,
        }
    }

    /// From the EFI memory type (UEFI specification 7.2), after boot services have ended.
    #[must_use]
    pub const fn from_efi(kind: u32) -> MemoryKind {
        match kind {
            1..=4 | 7 => MemoryKind::Ram,
            8 => MemoryKind::Unusable,
            9 => MemoryKind::AcpiReclaimable,
            10 => MemoryKind::AcpiNvs,
            _ => MemoryKind::Reserved,
        }
    }

    /// How it is shown.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            MemoryKind::Ram => "usable",
            MemoryKind::AcpiReclaimable => "ACPI data",
            MemoryKind::AcpiNvs => "ACPI NVS",
            MemoryKind::Reserved => "reserved",
            MemoryKind::Unusable => "unusable",
        }
    }
}

/// A region of machine addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryRegion {
    /// First address.
    pub start: MachineAddr,
    /// Bytes; never 0 in a normalised map.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRegion {
    /// The address after the last byte, at most the end of the address space.
    #[must_use]
    pub const fn end(&self) -> MachineAddr {
        MachineAddr(self.start.0.saturating_add(self.length))
    }
}

/// Sorts regions, resolves overlaps in favour of the more forbidding kind, joins neighbours of one kind, drops empty
/// regions. Work is quadratic in the number of regions, which the parsers bound.
#[must_use]
pub fn normalise(regions: &[MemoryRegion]) -> Vec<MemoryRegion> {
    let mut edges: Vec<u64> = regions.iter().flat_map(|r| [r.start.0, r.end().0]).collect();
    sort_by_key(&mut edges, |edge| *edge);
    edges.dedup();
    let mut out: Vec<MemoryRegion> = Vec::new();
    for (&start, &end) in edges.iter().zip(edges.iter().skip(1)) {
        let covering = regions.iter().filter(|r| r.start.0 <= start && end <= r.end().0);
        let Some(kind) = covering.map(|r| r.kind).max() else { continue };
        let length = end.saturating_sub(start);
        match out.last_mut() {
            Some(last) if last.kind == kind && last.end().0 == start => {
                last.length = last.length.saturating_add(length)
            }
            _ => out.push(MemoryRegion { start: MachineAddr(start), length, kind }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn region(start: u64, length: u64, kind: MemoryKind) -> MemoryRegion {
        MemoryRegion { start: MachineAddr(start), length, kind }
    }

    #[test]
    fn reserved_cuts_a_hole_into_ram() {
        let map = normalise(&[region(0x1000, 0x9000, MemoryKind::Ram), region(0x3000, 0x1000, MemoryKind::Reserved)]);
        assert_eq!(
            map,
            vec![
                region(0x1000, 0x2000, MemoryKind::Ram),
                region(0x3000, 0x1000, MemoryKind::Reserved),
                region(0x4000, 0x6000, MemoryKind::Ram)
            ]
        );
    }

    #[test]
    fn neighbours_join_and_empty_regions_vanish() {
        let map = normalise(&[
            region(0x2000, 0x1000, MemoryKind::Ram),
            region(0x1000, 0x1000, MemoryKind::Ram),
            region(0x9000, 0, MemoryKind::Reserved),
        ]);
        assert_eq!(map, vec![region(0x1000, 0x2000, MemoryKind::Ram)]);
    }

    fn kind() -> impl Strategy<Value = MemoryKind> {
        (0u32..7).prop_map(MemoryKind::from_e820)
    }

    proptest! {
        #[test]
        fn agrees_with_a_map_byte_by_byte(regions in prop::collection::vec((0u64..64, 0u64..20, kind()), 0..12)) {
            let regions: Vec<_> = regions.into_iter().map(|(s, l, k)| region(s, l, k)).collect();
            let map = normalise(&regions);
            for at in 0..100u64 {
                let holds = |r: &&MemoryRegion| r.start.0 <= at && at < r.end().0;
                let expected = regions.iter().filter(holds).map(|r| r.kind).max();
                let found: Vec<_> = map.iter().filter(holds).map(|r| r.kind).collect();
                prop_assert!(found.len() <= 1);
                prop_assert_eq!(found.first().copied(), expected);
            }
            prop_assert!(map.windows(2).all(|w| w[0].end().0 <= w[1].start.0));
        }

        #[test]
        fn survives_wrapping_regions(start in any::<u64>(), length in any::<u64>(), k in kind()) {
            let map = normalise(&[region(start, length, k), region(0, u64::MAX, MemoryKind::Ram)]);
            prop_assert!(map.iter().all(|r| r.length > 0));
        }
    }
}
