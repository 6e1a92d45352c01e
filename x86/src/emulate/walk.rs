//! Walks a guest's own page tables: guest-virtual to guest-physical, with the permission checks the processor makes.
//!
//! Covers paging off, 32-bit paging with PSE (and PSE-36), PAE and 4-level long mode (AMD64 Architecture Programmer's
//! Manual volume 2, chapter 5). 5-level paging and protection keys are not offered to guests. Used by the emulator and
//! by hypercall argument copies, so it neither allocates nor reads more than one entry per level.
//!
//! Tables are guest memory: every entry is loaded once, as a value, and may be anything. Takes no locks of its own.

use radon_core::types::GuestPhysAddr;

const CR0_PG: u64 = 1 << 31;
const CR0_WP: u64 = 1 << 16;
const CR4_PSE: u64 = 1 << 4;
const CR4_PAE: u64 = 1 << 5;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12 of a 64-bit entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Page-fault error code: the entry was present (a protection violation).
pub const PF_PRESENT: u32 = 1 << 0;
/// Page-fault error code: the access was a write.
pub const PF_WRITE: u32 = 1 << 1;
/// Page-fault error code: the access was made at CPL 3.
pub const PF_USER: u32 = 1 << 2;
/// Page-fault error code: a reserved bit was set in an entry.
pub const PF_RESERVED: u32 = 1 << 3;
/// Page-fault error code: the access was an instruction fetch.
pub const PF_FETCH: u32 = 1 << 4;

/// How often a walk starts over because another CPU changed an entry under it.
const MAX_RESTARTS: u32 = 8;

/// Guest-physical memory that holds page tables.
pub trait TableMemory {
    /// Why an entry could not be loaded (not RAM, not present now, ...).
    type Error;

    /// Loads the naturally aligned 64-bit value at a guest-physical address, atomically.
    fn load(&mut self, at: GuestPhysAddr) -> Result<u64, Self::Error>;

    /// Stores `new` if the aligned 64-bit value is `old`; says whether it did. Called only if the walk was asked to
    /// set accessed and dirty bits.
    fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, Self::Error>;
}

/// What is done to the memory and with which rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// The access writes (or reads and writes).
    pub write: bool,
    /// The access fetches instructions.
    pub fetch: bool,
    /// The access is made with user rights (CPL 3).
    pub user: bool,
    /// SMAP does not apply: an explicit supervisor access with RFLAGS.AC set.
    pub smap_exempt: bool,
}

impl Access {
    /// A supervisor's data read.
    pub const READ: Access = Access { write: false, fetch: false, user: false, smap_exempt: false };
    /// A supervisor's data write.
    pub const WRITE: Access = Access { write: true, ..Access::READ };
    /// A supervisor's instruction fetch.
    pub const FETCH: Access = Access { fetch: true, ..Access::READ };
}

/// A successful translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Translation {
    /// The guest-physical address of the byte asked for.
    pub address: GuestPhysAddr,
    /// log2 of the size of the page that holds it: 12, 21, 22 or 30 (12 with paging off).
    pub page_shift: u8,
    /// The tables allow writes at user level (CR0.WP not considered).
    pub writable: bool,
    /// The tables allow user accesses.
    pub user: bool,
}

/// Why there is no translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalkError<E> {
    /// The guest gets #PF with this error code (and the linear address in CR2).
    PageFault(u32),
    /// The linear address is not canonical: #GP(0), or #SS(0) for the stack segment.
    NotCanonical,
    /// A table could not be read: it is not in memory that the guest has.
    Table(E),
    /// The guest kept changing the tables during the walk; run the guest and try again.
    Busy,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Off,
    Legacy { pse: bool },
    Pae,
    Long,
}

/// A vCPU's paging mode, taken from its control registers once per operation. Protection keys are not looked at: what the
/// processor does not check before it leaves guest mode (string I/O, a hypercall's user memory) is done whatever they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    kind: Kind,
    cr3: u64,
    write_protect: bool,
    no_execute: bool,
    smep: bool,
    smap: bool,
    gigabyte_pages: bool,
    /// Address bits of a 64-bit entry that must be zero.
    reserved: u64,
}

impl Paging {
    /// The mode that these registers select. `physical_bits` is the guest's physical address width (32 to 52) and
    /// `gigabyte_pages` says whether its CPUID offers them.
    #[must_use]
    pub const fn new(cr0: u64, cr3: u64, cr4: u64, efer: u64, physical_bits: u8, gigabyte_pages: bool) -> Paging {
        let kind = if cr0 & CR0_PG == 0 {
            Kind::Off
        } else if efer & EFER_LMA != 0 {
            Kind::Long
        } else if cr4 & CR4_PAE != 0 {
            Kind::Pae
        } else {
            Kind::Legacy { pse: cr4 & CR4_PSE != 0 }
        };
        let bits = if physical_bits < 52 { physical_bits as u32 } else { 52 };
        Paging {
            kind,
            cr3,
            write_protect: cr0 & CR0_WP != 0,
            no_execute: efer & EFER_NXE != 0 && cr4 & CR4_PAE != 0,
            smep: cr4 & CR4_SMEP != 0,
            smap: cr4 & CR4_SMAP != 0,
            gigabyte_pages,
            reserved: ADDRESS & u64::MAX.wrapping_shl(bits),
        }
    }

    /// Whether it is 4-level paging.
    #[must_use]
    pub const fn is_long(&self) -> bool {
        matches!(self.kind, Kind::Long)
    }

    /// Whether paging is on.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        !matches!(self.kind, Kind::Off)
    }
}

/// Whether a 48-bit linear address is canonical.
#[must_use]
pub const fn is_canonical(linear: u64) -> bool {
    let top = linear >> 47;
    top == 0 || top == 0x1_ffff
}

/// Translates a linear address. Changes nothing in memory.
///
/// # Errors
/// See [`WalkError`]; never [`WalkError::Busy`].
pub fn walk<M: TableMemory + ?Sized>(
    memory: &mut M,
    paging: &Paging,
    linear: u64,
    access: Access,
) -> Result<Translation, WalkError<M::Error>> {
    match paging.kind {
        Kind::Off => Ok(untranslated(linear)),
        _ => Walk::run(memory, paging, linear, access).map(|w| w.translation),
    }
}

/// Translates a linear address as an access of the processor would, setting accessed and dirty bits.
///
/// # Errors
/// See [`WalkError`].
pub fn walk_and_mark<M: TableMemory + ?Sized>(
    memory: &mut M,
    paging: &Paging,
    linear: u64,
    access: Access,
) -> Result<Translation, WalkError<M::Error>> {
    walk_and_tell(memory, paging, linear, access).map(|(translation, _)| translation)
}

/// An entry of the tables that led to a translation: its guest-physical address, and the aligned 64-bit word there. A word
/// of zero stands for no entry.
pub type UsedEntry = (GuestPhysAddr, u64);

/// As [`walk_and_mark`], and tells which entries led there. As long as these words are in memory, the same walk has the same
/// result (PAE's four root entries are not told of).
///
/// # Errors
/// See [`WalkError`].
pub fn walk_and_tell<M: TableMemory + ?Sized>(
    memory: &mut M,
    paging: &Paging,
    linear: u64,
    access: Access,
) -> Result<(Translation, [UsedEntry; 4]), WalkError<M::Error>> {
    if paging.kind == Kind::Off {
        return Ok((untranslated(linear), [(GuestPhysAddr(0), 0); 4]));
    }
    for _ in 0..MAX_RESTARTS {
        let walk = Walk::run(memory, paging, linear, access)?;
        if walk.mark(memory, access.write).map_err(WalkError::Table)? {
            let used = walk.steps.map(|step| (GuestPhysAddr(step.at), step.wanted(access.write) | step.word));
            return Ok((walk.translation, used));
        }
    }
    Err(WalkError::Busy)
}

fn untranslated(linear: u64) -> Translation {
    Translation { address: GuestPhysAddr(linear & 0xffff_ffff), page_shift: 12, writable: true, user: true }
}

/// One entry that a walk used: where its 64-bit word is, what the word was, and the bits of the word to set.
#[derive(Clone, Copy, Default)]
struct Step {
    at: u64,
    word: u64,
    accessed: u64,
    dirty: u64,
}

impl Step {
    /// The bits that the processor sets for an access.
    const fn wanted(&self, write: bool) -> u64 {
        self.accessed | if write { self.dirty } else { 0 }
    }
}

struct Walk {
    steps: [Step; 4],
    translation: Translation,
}

/// What one level's entry says.
struct Entry {
    bits: u64,
    step: Step,
}

impl Walk {
    fn run<M: TableMemory + ?Sized>(
        memory: &mut M,
        paging: &Paging,
        linear: u64,
        access: Access,
    ) -> Result<Walk, WalkError<M::Error>> {
        let mut walk = Walk { steps: [Step::default(); 4], translation: untranslated(0) };
        // The level's place in the linear address, and the root table.
        let (mut shift, mut table, legacy) = match paging.kind {
            Kind::Long => {
                if !is_canonical(linear) {
                    return Err(WalkError::NotCanonical);
                }
                (39_u32, paging.cr3 & ADDRESS, false)
            }
            Kind::Pae => (30, paging.cr3 & 0xffff_ffe0, false),
            Kind::Legacy { .. } | Kind::Off => (22, paging.cr3 & 0xffff_f000, true),
        };
        let linear = if paging.kind == Kind::Long { linear } else { linear & 0xffff_ffff };
        let fault = |present: bool, reserved: bool| {
            Err(WalkError::PageFault(paging.error_code(access, present) | if reserved { PF_RESERVED } else { 0 }))
        };

        let (mut writable, mut user, mut executable) = (true, true, true);
        for slot in &mut walk.steps {
            let entry = if legacy {
                load_legacy(memory, table, (linear >> shift) & 0x3ff)
            } else {
                load(memory, table, (linear >> shift) & 0x1ff)
            }
            .map_err(WalkError::Table)?;
            let bits = entry.bits;
            if bits & PRESENT == 0 {
                return fault(false, false);
            }
            let pae_root = paging.kind == Kind::Pae && shift == 30;
            let large = shift != 12 && !pae_root && bits & LARGE != 0 && paging.kind != Kind::Legacy { pse: false };
            if paging.reserved_bits(shift, bits, large, pae_root) {
                return fault(true, true);
            }
            if !pae_root {
                // A PAE page-directory-pointer entry has no permission bits (and no accessed bit).
                *slot = entry.step;
                writable &= bits & WRITABLE != 0;
                user &= bits & USER != 0;
                executable &= !(paging.no_execute && bits & NO_EXECUTE != 0);
            }
            if large || shift == 12 {
                slot.dirty = slot.accessed << 1;
                if !paging.permits(access, writable, user, executable) {
                    return fault(true, false);
                }
                let offset_mask = (1_u64 << shift).wrapping_sub(1);
                let mut frame = bits & ADDRESS & !offset_mask;
                if legacy && large {
                    frame |= (bits & 0x001f_e000) << 19; // PSE-36: bits 20:13 are address bits 39:32
                }
                let address = GuestPhysAddr(frame | (linear & offset_mask));
                walk.translation = Translation { address, page_shift: shift as u8, writable, user };
                return Ok(walk);
            }
            table = bits & ADDRESS;
            shift = shift.saturating_sub(if legacy { 10 } else { 9 });
        }
        // Not reached: the level with shift 12 always ends the walk.
        fault(false, false)
    }

    /// Sets accessed and dirty bits where they are missing. False if an entry changed since the walk.
    fn mark<M: TableMemory + ?Sized>(&self, memory: &mut M, write: bool) -> Result<bool, M::Error> {
        for step in &self.steps {
            let wanted = step.wanted(write);
            if step.word & wanted != wanted
                && !memory.compare_exchange(GuestPhysAddr(step.at), step.word, step.word | wanted)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Paging {
    /// The error code for a fault of this access, without the reserved-bit flag.
    fn error_code(&self, access: Access, present: bool) -> u32 {
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        flag(present, PF_PRESENT)
            | flag(access.write, PF_WRITE)
            | flag(access.user, PF_USER)
            | flag(access.fetch && (self.no_execute || self.smep), PF_FETCH)
    }

    fn reserved_bits(&self, shift: u32, bits: u64, large: bool, pae_root: bool) -> bool {
        if let Kind::Legacy { .. } = self.kind {
            // Bit 21 of a 4 MiB entry; physical bits above 39 do not exist there.
            return large && bits & (1 << 21) != 0;
        }
        let no_execute = bits & NO_EXECUTE != 0 && !self.no_execute;
        let shape = match shift {
            39 => bits & LARGE != 0,
            30 if pae_root => bits & 0x8000_0000_0000_01e6 != 0,
            30 if large => !self.gigabyte_pages || bits & 0x3fff_e000 != 0,
            21 if large => bits & 0x001f_e000 != 0,
            _ => false,
        };
        no_execute || shape || bits & self.reserved != 0
    }

    fn permits(&self, access: Access, writable: bool, user: bool, executable: bool) -> bool {
        if access.fetch && (!executable || (self.smep && user && !access.user)) {
            return false;
        }
        if access.user {
            return user && (writable || !access.write);
        }
        let smap = self.smap && user && !access.fetch && !access.smap_exempt;
        !smap && (writable || !access.write || !self.write_protect)
    }
}

/// Loads entry `index` (below 512) of a table of 64-bit entries.
fn load<M: TableMemory + ?Sized>(memory: &mut M, table: u64, index: u64) -> Result<Entry, M::Error> {
    let at = table | (index << 3);
    let word = memory.load(GuestPhysAddr(at))?;
    Ok(Entry { bits: word, step: Step { at, word, accessed: ACCESSED, dirty: 0 } })
}

/// Loads entry `index` (below 1024) of a table of 32-bit entries.
fn load_legacy<M: TableMemory + ?Sized>(memory: &mut M, table: u64, index: u64) -> Result<Entry, M::Error> {
    let at = table | ((index & !1) << 2);
    let word = memory.load(GuestPhysAddr(at))?;
    let high = index & 1 != 0;
    let (bits, accessed) = if high { (word >> 32, ACCESSED << 32) } else { (word & 0xffff_ffff, ACCESSED) };
    Ok(Entry { bits, step: Step { at, word, accessed, dirty: 0 } })
}

const _: () = assert!(DIRTY == ACCESSED << 1);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Tables(BTreeMap<u64, u64>);

    impl TableMemory for Tables {
        type Error = u64;
        fn load(&mut self, at: GuestPhysAddr) -> Result<u64, u64> {
            assert_eq!(at.0 & 7, 0);
            if at.0 >= 1 << 40 {
                return Err(at.0);
            }
            Ok(self.0.get(&at.0).copied().unwrap_or(0))
        }
        fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, u64> {
            let word = self.0.entry(at.0).or_default();
            let same = *word == old;
            if same {
                *word = new;
            }
            Ok(same)
        }
    }

    const LINEAR: u64 = 0xffff_8123_4567_8abc;

    fn long(flags: [u64; 4]) -> Tables {
        let mut t = Tables::default();
        let ix = |s: u32| ((LINEAR >> s) & 0x1ff) * 8;
        t.0.insert(0x1000 + ix(39), 0x2000 | flags[0]);
        t.0.insert(0x2000 + ix(30), 0x3000 | flags[1]);
        t.0.insert(0x3000 + ix(21), 0x4000 | flags[2]);
        t.0.insert(0x4000 + ix(12), 0x12_3456_7000 | flags[3]);
        t
    }

    fn long_paging(cr4: u64) -> Paging {
        Paging::new(CR0_PG | CR0_WP, 0x1000, CR4_PAE | cr4, EFER_LMA | EFER_NXE, 40, true)
    }

    const USER_ACCESS: Access = Access { user: true, ..Access::READ };

    #[test]
    fn four_levels() {
        let mut t = long([7; 4]);
        let got = walk(&mut t, &long_paging(0), LINEAR, Access::WRITE).unwrap();
        assert_eq!(got.address, GuestPhysAddr(0x12_3456_7abc));
        assert_eq!((got.page_shift, got.writable, got.user), (12, true, true));
        assert_eq!(t.0, long([7; 4]).0, "a plain walk changes nothing");
        walk_and_mark(&mut t, &long_paging(0), LINEAR, Access::READ).unwrap();
        assert_eq!(t.0, long([0x27; 4]).0);
        walk_and_mark(&mut t, &long_paging(0), LINEAR, Access::WRITE).unwrap();
        assert_eq!(t.0, long([0x27, 0x27, 0x27, 0x67]).0);
    }

    #[test]
    fn permissions() {
        let pf = |flags, cr4, access| match walk(&mut long(flags), &long_paging(cr4), LINEAR, access) {
            Ok(_) => None,
            Err(WalkError::PageFault(code)) => Some(code),
            Err(e) => panic!("{e:?}"),
        };
        let user_write = Access { write: true, ..USER_ACCESS };
        assert_eq!(pf([7, 7, 6, 7], 0, Access::READ), Some(0));
        assert_eq!(pf([7, 7, 6, 7], 0, user_write), Some(6));
        assert_eq!(pf([7, 5, 7, 7], 0, user_write), Some(7));
        assert_eq!(pf([7, 5, 7, 7], 0, Access::WRITE), Some(3));
        assert_eq!(pf([3, 7, 7, 7], 0, USER_ACCESS), Some(5));
        assert_eq!(pf([3, 7, 7, 7], 0, Access::WRITE), None);
        assert_eq!(pf([7 | NO_EXECUTE, 7, 7, 7], 0, Access::FETCH), Some(0x11));
        assert_eq!(pf([7; 4], CR4_SMEP, Access::FETCH), Some(0x11));
        assert_eq!(pf([7; 4], CR4_SMEP, Access { user: true, ..Access::FETCH }), None);
        assert_eq!(pf([7; 4], CR4_SMAP, Access::READ), Some(1));
        assert_eq!(pf([7; 4], CR4_SMAP, Access { smap_exempt: true, ..Access::READ }), None);
        assert_eq!(pf([7; 4], CR4_SMAP, USER_ACCESS), None);
        assert_eq!(pf([7 | 1 << 41, 7, 7, 7], 0, Access::READ), Some(9), "beyond the physical width");
        assert_eq!(pf([7 | LARGE, 7, 7, 7], 0, Access::READ), Some(9));
        let no_wp = Paging::new(CR0_PG, 0x1000, CR4_PAE, EFER_LMA, 40, true);
        assert!(walk(&mut long([5; 4]), &no_wp, LINEAR, Access::WRITE).is_ok());
        assert_eq!(
            walk(&mut long([7, 7, 7, 7 | NO_EXECUTE]), &no_wp, LINEAR, Access::READ),
            Err(WalkError::PageFault(9)),
            "NX is reserved without EFER.NXE"
        );
    }

    #[test]
    fn large_pages() {
        let mut t = long([7, 7, 7 | LARGE, 0]);
        t.0.insert(0x3000 + ((LINEAR >> 21) & 0x1ff) * 8, 0x4000_0000 | 7 | LARGE);
        let got = walk(&mut t, &long_paging(0), LINEAR, Access::READ).unwrap();
        assert_eq!((got.address.0, got.page_shift), (0x4000_0000 | (LINEAR & 0x1f_ffff), 21));
        t.0.insert(0x2000 + ((LINEAR >> 30) & 0x1ff) * 8, 0x8000_0000 | 7 | LARGE);
        let got = walk(&mut t, &long_paging(0), LINEAR, Access::READ).unwrap();
        assert_eq!((got.address.0, got.page_shift), (0x8000_0000 | (LINEAR & 0x3fff_ffff), 30));
        let no_gb = Paging::new(CR0_PG, 0x1000, CR4_PAE, EFER_LMA, 40, false);
        assert_eq!(walk(&mut t, &no_gb, LINEAR, Access::READ), Err(WalkError::PageFault(9)));
    }

    #[test]
    fn not_canonical_and_missing_tables() {
        assert_eq!(walk(&mut long([7; 4]), &long_paging(0), 1 << 47, Access::READ), Err(WalkError::NotCanonical));
        let far = Paging::new(CR0_PG, 1 << 41, CR4_PAE, EFER_LMA, 52, true);
        assert!(matches!(walk(&mut long([7; 4]), &far, 0, Access::READ), Err(WalkError::Table(_))));
    }

    #[test]
    fn pae_and_legacy() {
        let mut t = Tables::default();
        let linear = 0xc060_1234_u64;
        t.0.insert(0x1020 + 3 * 8, 0x2001);
        t.0.insert(0x2000 + 3 * 8, 0x3007);
        t.0.insert(0x3000 + 8, 0x7_0000_0007);
        let pae = Paging::new(CR0_PG, 0x1020, CR4_PAE, 0, 40, true);
        let got = walk_and_mark(&mut t, &pae, linear, Access::WRITE).unwrap();
        assert_eq!(got.address.0, 0x7_0000_0234);
        assert_eq!((t.0[&0x1038], t.0[&0x2018], t.0[&0x3008]), (0x2001, 0x3027, 0x7_0000_0067));
        t.0.insert(0x1038, 0x2003);
        assert_eq!(walk(&mut t, &pae, linear, Access::READ), Err(WalkError::PageFault(9)));

        let mut t = Tables::default();
        // Directory entry 0x301 is the high half of its word.
        t.0.insert(0x1000 + 0x300 * 4, 0x0000_3007_0000_0000);
        t.0.insert(0x3000 + 0x200 * 4, 0x0000_5005_0000_9007);
        let plain = Paging::new(CR0_PG, 0x1000, 0, 0, 40, true);
        let got = walk_and_mark(&mut t, &plain, 0xc060_1234, Access::READ).unwrap();
        assert_eq!((got.address.0, got.writable), (0x5234, false));
        assert_eq!(t.0[&0x1c00], 0x0000_3027_0000_0000);
        assert_eq!(t.0[&0x3800], 0x0000_5025_0000_9007);

        let big = 0x0040_0000 | (0x12 << 13) | 7 | LARGE;
        t.0.insert(0x1000 + 0x300 * 4, big << 32);
        let pse = Paging::new(CR0_PG, 0x1000, CR4_PSE, 0, 40, true);
        let got = walk_and_mark(&mut t, &pse, 0xc060_1234, Access::WRITE).unwrap();
        assert_eq!((got.address.0, got.page_shift), (0x12_0060_1234, 22));
        assert_eq!(t.0[&0x1c00], (big | 0x60) << 32);
    }

    #[test]
    fn paging_off_is_identity() {
        let off = Paging::new(0, 0, 0, 0, 40, true);
        let got = walk(&mut Tables::default(), &off, 0x1_2345_6789, Access::WRITE).unwrap();
        assert_eq!(got.address.0, 0x2345_6789);
    }

    /// A memory whose every entry changes after it was read.
    struct Restless;
    impl TableMemory for Restless {
        type Error = ();
        fn load(&mut self, _: GuestPhysAddr) -> Result<u64, ()> {
            Ok(7)
        }
        fn compare_exchange(&mut self, _: GuestPhysAddr, _: u64, _: u64) -> Result<bool, ()> {
            Ok(false)
        }
    }

    #[test]
    fn restless_tables_end() {
        assert_eq!(walk_and_mark(&mut Restless, &long_paging(0), 0, Access::READ), Err(WalkError::Busy));
    }

    proptest! {
        /// Random tables: the walk ends, and its permission answer agrees with a direct statement of the rules.
        #[test]
        fn agrees_with_the_rules(flags in prop::array::uniform4(0u64..8), nx in 0usize..8, cr4 in 0u64..4,
                                 wp: bool, write: bool, fetch: bool, user: bool, ac: bool) {
            let mut f = flags;
            if nx < 4 { f[nx] |= NO_EXECUTE; }
            let access = Access { write: write && !fetch, fetch, user, smap_exempt: ac };
            let p = Paging::new(CR0_PG | if wp { CR0_WP } else { 0 }, 0x1000, CR4_PAE | cr4 << 20,
                                EFER_LMA | EFER_NXE, 40, true);
            let all = |bit: u64| f.iter().all(|e| e & bit != 0);
            let present = all(1);
            let (w, u, x) = (all(2), all(4), f.iter().all(|e| e & NO_EXECUTE == 0));
            let allowed = present
                && (!access.write || w || (!user && !wp))
                && (!user || u)
                && (!fetch || x)
                && !(fetch && !user && u && cr4 & 1 != 0)
                && !(!fetch && !user && u && cr4 & 2 != 0 && !ac);
            let got = walk(&mut long(f), &p, LINEAR, access);
            prop_assert_eq!(got.is_ok(), allowed);
            if let Err(WalkError::PageFault(code)) = got {
                prop_assert_eq!(code & 1 != 0, present);
            }
        }
    }
}
