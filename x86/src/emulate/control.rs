//! What may be written to control registers, and what follows (AMD64 manual volume 2, sections 3.1 and 14.6). Pure.

use super::Exception;
use crate::cpuid::CpuidPolicy;
use crate::virt::{Control, cr0, efer};
use radon_abi::cpufeatureset::Feature;

/// CR0 bits that exist; others below bit 32 are ignored, above they are reserved.
const CR0_DEFINED: u64 = 0xe005_003f;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
/// CR4 bits that change what cached translations mean: PSE, PAE, PGE, PCIDE, SMEP, SMAP.
const CR4_PAGING: u64 = 1 << 4 | CR4_PAE | 1 << 7 | CR4_PCIDE | 1 << 20 | 1 << 21;
const CR0_PAGING: u64 = cr0::PG | cr0::WP | cr0::CD | cr0::NW;

/// CR4 bits that a guest with this CPUID may set.
#[must_use]
pub fn cr4_mask(cpuid: &CpuidPolicy) -> u64 {
    const BITS: &[(Feature, u64)] = &[
        (Feature::VME, 0x3),
        (Feature::TSC, 1 << 2),
        (Feature::DE, 1 << 3),
        (Feature::PSE, 1 << 4),
        (Feature::PAE, CR4_PAE),
        (Feature::MCE, 1 << 6),
        (Feature::PGE, 1 << 7),
        (Feature::FXSR, 1 << 9),
        (Feature::SSE, 1 << 10),
        (Feature::UMIP, 1 << 11),
        (Feature::FSGSBASE, 1 << 16),
        (Feature::PCID, CR4_PCIDE),
        (Feature::XSAVE, 1 << 18),
        (Feature::SMEP, 1 << 20),
        (Feature::SMAP, 1 << 21),
        (Feature::PKU, 1 << 22),
    ];
    // RDPMC by user mode may be allowed though there are no counters.
    BITS.iter().filter(|(f, _)| cpuid.has(*f)).fold(1 << 8, |mask, (_, bits)| mask | bits)
}

/// The control registers after MOV to CR0. `long_code` says whether CS is a 64-bit code segment.
///
/// # Errors
/// #GP(0).
pub fn write_cr0(now: &Control, value: u64, long_code: bool) -> Result<Control, Exception> {
    let has = |bit: u64| value & bit != 0;
    if value >> 32 != 0 || (has(cr0::PG) && !has(cr0::PE)) || (has(cr0::NW) && !has(cr0::CD)) {
        return Err(Exception::GP);
    }
    let mut next = Control { cr0: value & CR0_DEFINED | cr0::ET, ..*now };
    let had_paging = now.cr0 & cr0::PG != 0;
    if has(cr0::PG) && !had_paging && now.efer & efer::LME != 0 {
        if now.cr4 & CR4_PAE == 0 || long_code {
            return Err(Exception::GP);
        }
        next.efer |= efer::LMA;
    } else if !has(cr0::PG) && had_paging {
        let in_64_bit_mode = now.efer & efer::LMA != 0 && long_code;
        if in_64_bit_mode || now.cr4 & CR4_PCIDE != 0 {
            return Err(Exception::GP);
        }
        next.efer &= !efer::LMA;
    }
    Ok(next)
}

/// The control registers after MOV to CR3.
///
/// # Errors
/// #GP(0).
pub fn write_cr3(now: &Control, value: u64, physical_bits: u8) -> Result<Control, Exception> {
    let mut value = value;
    if now.efer & efer::LMA != 0 {
        if now.cr4 & CR4_PCIDE != 0 {
            value &= !(1 << 63); // asks to keep translations, which is only a hint
        }
        if value & u64::MAX.wrapping_shl(u32::from(physical_bits.clamp(32, 52))) != 0 {
            return Err(Exception::GP);
        }
    } else {
        value &= 0xffff_ffff;
    }
    Ok(Control { cr3: value, ..*now })
}

/// The control registers after MOV to CR4. `allowed` is [`cr4_mask`].
///
/// # Errors
/// #GP(0).
pub fn write_cr4(now: &Control, value: u64, allowed: u64) -> Result<Control, Exception> {
    let long = now.efer & efer::LMA != 0;
    let sets_pcide = value & CR4_PCIDE != 0 && now.cr4 & CR4_PCIDE == 0;
    if value & !allowed != 0 || (long && value & CR4_PAE == 0) || (sets_pcide && (!long || now.cr3 & 0xfff != 0)) {
        return Err(Exception::GP);
    }
    Ok(Control { cr4: value, ..*now })
}

/// Whether going from `old` to `new` invalidates cached translations.
#[must_use]
pub fn flushes_tlb(old: &Control, new: &Control) -> bool {
    (old.cr0 ^ new.cr0) & CR0_PAGING != 0
        || (old.cr4 ^ new.cr4) & CR4_PAGING != 0
        || old.cr3 != new.cr3
        || old.efer != new.efer
}

/// Whether XSETBV may set XCR0 to `value`; `allowed` is the policy's mask of components.
#[must_use]
pub fn xcr0_valid(value: u64, allowed: u64) -> bool {
    const X87: u64 = 1;
    const SSE: u64 = 2;
    const AVX: u64 = 4;
    const AVX512: u64 = 0xe0;
    value & !allowed == 0
        && value & X87 != 0
        && (value & AVX == 0 || value & SSE != 0)
        && (value & AVX512 == 0 || value & (AVX512 | AVX) == AVX512 | AVX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Control = Control {
        cr0: cr0::PG | cr0::PE | cr0::ET | cr0::WP,
        cr2: 0,
        cr3: 0x1000,
        cr4: CR4_PAE,
        efer: efer::LME | efer::LMA,
    };

    #[test]
    fn cr0_rules() {
        let off = Control { cr0: cr0::PE | cr0::ET, efer: efer::LME, ..LONG };
        let on = write_cr0(&off, cr0::PE | cr0::PG, false).unwrap();
        assert_eq!((on.cr0, on.efer), (cr0::PE | cr0::PG | cr0::ET, efer::LME | efer::LMA));
        assert_eq!(write_cr0(&off, cr0::PE | cr0::PG, true), Err(Exception::GP));
        assert_eq!(write_cr0(&Control { cr4: 0, ..off }, cr0::PE | cr0::PG, false), Err(Exception::GP));
        assert_eq!(write_cr0(&off, cr0::PG, false), Err(Exception::GP));
        assert_eq!(write_cr0(&off, cr0::PE | cr0::NW, false), Err(Exception::GP));
        assert_eq!(write_cr0(&off, cr0::PE | 1 << 32, false), Err(Exception::GP));
        assert_eq!(write_cr0(&LONG, cr0::PE, true), Err(Exception::GP));
        assert_eq!(write_cr0(&LONG, cr0::PE, false).unwrap().efer, efer::LME);
        assert_eq!(write_cr0(&Control { cr4: CR4_PAE | CR4_PCIDE, ..LONG }, cr0::PE, false), Err(Exception::GP));
        assert_eq!(write_cr0(&LONG, LONG.cr0 | 1 << 6, true), Ok(LONG), "an undefined bit is ignored");
    }

    #[test]
    fn cr3_and_cr4_rules() {
        assert_eq!(write_cr3(&LONG, 1 << 40, 40), Err(Exception::GP));
        assert_eq!(write_cr3(&LONG, 0x5000, 40).unwrap().cr3, 0x5000);
        let pcid = Control { cr4: CR4_PAE | CR4_PCIDE, ..LONG };
        assert_eq!(write_cr3(&pcid, 1 << 63 | 0x5001, 40).unwrap().cr3, 0x5001);
        assert_eq!(write_cr3(&LONG, 1 << 63, 40), Err(Exception::GP));
        let allowed = CR4_PAE | CR4_PCIDE | 1 << 7;
        assert_eq!(write_cr4(&LONG, 0, allowed), Err(Exception::GP));
        assert_eq!(write_cr4(&LONG, CR4_PAE | 1 << 20, allowed), Err(Exception::GP));
        assert_eq!(write_cr4(&LONG, CR4_PAE | CR4_PCIDE, allowed).unwrap().cr4, CR4_PAE | CR4_PCIDE);
        assert_eq!(write_cr4(&Control { cr3: 1, ..LONG }, CR4_PAE | CR4_PCIDE, allowed), Err(Exception::GP));
        assert!(flushes_tlb(&LONG, &Control { cr4: CR4_PAE | 1 << 7, ..LONG }));
        assert!(!flushes_tlb(&LONG, &Control { cr4: CR4_PAE | 1 << 9, cr2: 5, ..LONG }));
    }

    #[test]
    fn xcr0_rules() {
        for (value, valid) in [
            (1, true),
            (3, true),
            (7, true),
            (0, false),
            (2, false),
            (5, false),
            (9, false),
            (0x27, false),
            (0xe7, false),
        ] {
            assert_eq!(xcr0_valid(value, 7), valid, "{value:#x}");
        }
        assert!(xcr0_valid(0xe7, 0xe7) && !xcr0_valid(0xe3, 0xe7) && !xcr0_valid(0x67, 0xe7));
    }
}
