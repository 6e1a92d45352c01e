//! The bits of a nested page-table entry (AMD64 Architecture Programmer's Manual volume 2, sections 5.3 and 15.25).

use radon_core::frames::Order;
use radon_core::p2m::{Entry, Kind};
use radon_core::types::Mfn;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
/// Nested walks count as user accesses.
const USER: u64 = 1 << 2;
/// With PWT and PAT clear this selects the third type of the host's PAT, UC- at reset: uncached, unless the guest's own
/// tables ask for write combining.
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// The kind of a leaf is in bits 55:52, which are software's in present and absent entries alike.
const KIND_SHIFT: u32 = 52;
const KIND_MASK: u64 = 0xf;

/// An entry as it stands in a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Raw(pub(super) u64);

impl Raw {
    /// A leaf. An absent one keeps its kind and word, but neither has address bits beyond 51:12.
    pub(super) const fn leaf(entry: Entry, order: Order) -> Raw {
        let word = (entry.mfn.0 << 12) & ADDRESS | ((entry.kind as u64) & KIND_MASK) << KIND_SHIFT;
        if !entry.kind.present() {
            return Raw(word);
        }
        let mut bits = word | PRESENT | USER | ACCESSED | DIRTY;
        if entry.kind.writable() {
            bits |= WRITABLE;
        }
        if !entry.kind.executable() {
            bits |= NO_EXECUTE;
        }
        if !entry.kind.cacheable() {
            bits |= CACHE_DISABLE;
        }
        if order.bits() > 0 {
            bits |= LARGE;
        }
        Raw(bits)
    }

    /// A reference to a table. Permissions are the leaf's alone.
    pub(super) const fn table(mfn: Mfn) -> Raw {
        Raw((mfn.0 << 12) & ADDRESS | PRESENT | WRITABLE | USER | ACCESSED)
    }

    /// The table that an entry at `level` (0 for the lowest) refers to.
    pub(super) const fn as_table(self, level: u32) -> Option<Mfn> {
        if level > 0 && self.0 & (PRESENT | LARGE) == PRESENT { Some(Mfn((self.0 & ADDRESS) >> 12)) } else { None }
    }

    /// What a leaf says.
    pub(super) const fn entry(self) -> Entry {
        let kind = Kind::from_bits(((self.0 >> KIND_SHIFT) & KIND_MASK) as u8);
        Entry { kind, mfn: Mfn((self.0 & ADDRESS) >> 12) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits() {
        let raw = |kind, order| Raw::leaf(Entry { kind, mfn: Mfn(0x12345) }, order).0;
        assert_eq!(raw(Kind::RamRw, Order::PAGE), 0x0010_0000_1234_5067);
        assert_eq!(raw(Kind::RamRo, Order::PAGE), 0x0020_0000_1234_5065);
        assert_eq!(raw(Kind::Mmio, Order::PAGE), 0x0050_0000_1234_5077);
        assert_eq!(raw(Kind::Foreign, Order::PAGE), 0x8070_0000_1234_5067);
        assert_eq!(raw(Kind::GrantRo, Order::PAGE), 0x8090_0000_1234_5065);
        let large = Entry { kind: Kind::RamRw, mfn: Mfn(0x40000) };
        assert_eq!(Raw::leaf(large, Order::LARGE).0, 0x0010_0000_4000_00e7);
        assert_eq!(Raw::leaf(Entry::HOLE, Order::HUGE).0, 0);
        assert_eq!(Raw::table(Mfn(5)).0, 0x5027);
        assert_eq!(Raw::table(Mfn(5)).as_table(1), Some(Mfn(5)));
        assert_eq!(Raw::table(Mfn(5)).as_table(0), None);
        assert_eq!(Raw::leaf(large, Order::LARGE).as_table(1), None);
        for bits in 0..16 {
            let entry = Entry { kind: Kind::from_bits(bits), mfn: Mfn(0x40000) };
            assert_eq!(Raw::leaf(entry, Order::LARGE).entry(), entry);
        }
    }
}
