//! The feature table: what Radon makes of each CPU feature, bit by bit.
//!
//! [`radon_abi::cpufeatureset::FEATURES`] says which guests a feature is for. Here stands where Radon deviates, why, and
//! which features need which others.

use radon_abi::cpufeatureset::{Exposure, FEATURES, FEATURESET_WORDS, Feature, FeatureInfo};

/// A featureset: the words that [`radon_abi::cpufeatureset`] numbers.
pub type FeatureWords = [u32; FEATURESET_WORDS];

/// Features that guests have whatever the machine has: Radon emulates them in full.
const EMULATED: &[Feature] = &[Feature::HYPERVISOR, Feature::APIC, Feature::X2APIC, Feature::TSC_DEADLINE];

/// Features that depend on a guest's registers or topology; the policy computes them.
const COMPUTED: &[Feature] = &[Feature::OSXSAVE, Feature::OSPKE, Feature::HTT, Feature::CMP_LEGACY];

/// Features that the ABI would allow and Radon does not offer, with the reason beside each.
const WITHHELD: &[Feature] = &[
    // No nested virtualization.
    Feature::VMX,
    Feature::SVM,
    // The address masks of the debug registers are not switched with the guest.
    Feature::DBEXT,
    // Bound registers have left the architecture.
    Feature::MPX,
    // Transactional memory is broken or off on all current processors.
    Feature::HLE,
    Feature::RTM,
    Feature::RTM_ALWAYS_ABORT,
    Feature::TSXLDTRK,
    // An emulation of AMD's SSBD interface, for processors that lack the architectural one.
    Feature::VIRT_SSBD,
    // Intel's list of what a processor is not vulnerable to.
    Feature::ARCH_CAPS,
    // Performance and prediction controls that have MSRs of their own.
    Feature::IPRED_CTRL,
    Feature::RRSBA_CTRL,
    Feature::BHI_CTRL,
    Feature::L1D_FLUSH,
];

/// `(feature, needs)`: without the second there cannot be the first. Ordered so that one pass from top to bottom
/// suffices: what a feature needs is settled before it.
const REQUIREMENTS: &[(Feature, Feature)] = &[
    (Feature::PAE, Feature::CX8),
    (Feature::LM, Feature::PAE),
    (Feature::LM, Feature::NX),
    (Feature::SSE, Feature::FXSR),
    (Feature::FFXSR, Feature::FXSR),
    (Feature::MMXEXT, Feature::MMX),
    (Feature::AMD_3DNOW, Feature::MMX),
    (Feature::AMD_3DNOWEXT, Feature::AMD_3DNOW),
    (Feature::SSE2, Feature::SSE),
    (Feature::LM, Feature::SSE2),
    (Feature::SSE3, Feature::SSE2),
    (Feature::SSSE3, Feature::SSE3),
    (Feature::SSE4A, Feature::SSE3),
    (Feature::SSE4_1, Feature::SSSE3),
    (Feature::SSE4_2, Feature::SSE4_1),
    (Feature::MISALIGNSSE, Feature::SSE),
    (Feature::AESNI, Feature::SSE2),
    (Feature::PCLMULQDQ, Feature::SSE2),
    (Feature::SHA, Feature::SSE2),
    (Feature::GFNI, Feature::SSE2),
    (Feature::PSE36, Feature::PSE),
    (Feature::TSC_ADJUST, Feature::TSC),
    (Feature::ITSC, Feature::TSC),
    (Feature::RDTSCP, Feature::TSC),
    (Feature::X2APIC, Feature::APIC),
    (Feature::TSC_DEADLINE, Feature::TSC),
    (Feature::CX16, Feature::LM),
    (Feature::LAHF_LM, Feature::LM),
    (Feature::PAGE1GB, Feature::LM),
    (Feature::PCID, Feature::LM),
    (Feature::FSGSBASE, Feature::LM),
    (Feature::INVPCID, Feature::PCID),
    (Feature::XSAVE, Feature::FXSR),
    (Feature::PKU, Feature::XSAVE),
    (Feature::XSAVEOPT, Feature::XSAVE),
    (Feature::XSAVEC, Feature::XSAVE),
    (Feature::XGETBV1, Feature::XSAVE),
    (Feature::XSAVES, Feature::XSAVEC),
    (Feature::AVX, Feature::XSAVE),
    (Feature::AVX, Feature::SSE4_2),
    (Feature::F16C, Feature::AVX),
    (Feature::FMA, Feature::AVX),
    (Feature::FMA4, Feature::AVX),
    (Feature::XOP, Feature::AVX),
    (Feature::AVX2, Feature::AVX),
    (Feature::VAES, Feature::AVX),
    (Feature::VPCLMULQDQ, Feature::AVX),
    (Feature::AVX_VNNI, Feature::AVX2),
    (Feature::AVX512F, Feature::AVX2),
    (Feature::AVX512CD, Feature::AVX512F),
    (Feature::AVX512PF, Feature::AVX512F),
    (Feature::AVX512ER, Feature::AVX512F),
    (Feature::AVX512DQ, Feature::AVX512F),
    (Feature::AVX512VL, Feature::AVX512F),
    (Feature::AVX512BW, Feature::AVX512F),
    (Feature::AVX512_IFMA, Feature::AVX512F),
    (Feature::AVX512_VNNI, Feature::AVX512F),
    (Feature::AVX512_VPOPCNTDQ, Feature::AVX512F),
    (Feature::AVX512_4VNNIW, Feature::AVX512F),
    (Feature::AVX512_4FMAPS, Feature::AVX512F),
    (Feature::AVX512_VP2INTERSECT, Feature::AVX512F),
    (Feature::AVX512_VBMI, Feature::AVX512BW),
    (Feature::AVX512_VBMI2, Feature::AVX512BW),
    (Feature::AVX512_BITALG, Feature::AVX512BW),
    (Feature::AVX512_BF16, Feature::AVX512BW),
    (Feature::AVX512_FP16, Feature::AVX512BW),
    (Feature::AMD_STIBP, Feature::IBRS),
    (Feature::AMD_SSBD, Feature::IBRS),
    (Feature::PSFD, Feature::AMD_SSBD),
    (Feature::IBRS_ALWAYS, Feature::IBRS),
    (Feature::IBRS_FAST, Feature::IBRS),
    (Feature::IBRS_SAME_MODE, Feature::IBRS),
    (Feature::STIBP_ALWAYS, Feature::AMD_STIBP),
    (Feature::IBPB_RET, Feature::IBPB),
    (Feature::STIBP, Feature::IBRSB),
    (Feature::SSBD, Feature::IBRSB),
    (Feature::INTEL_PSFD, Feature::SSBD),
];

/// Features that need a component of the XSAVE area, as a mask of XCR0.
const NEEDS_STATE: &[(Feature, u64)] = &[(Feature::AVX, 0x7), (Feature::AVX512F, 0xe7), (Feature::PKU, 0x200)];

/// The components of the XSAVE area that a guest with these features may have.
pub(super) fn states(words: &FeatureWords) -> u64 {
    let of = |(feature, states): &(Feature, u64)| if has(words, *feature) { *states } else { 0 };
    NEEDS_STATE.iter().map(of).fold(0x3, |all, states| all | states)
}

/// Whether a featureset has a feature.
#[must_use]
pub fn has(words: &FeatureWords, feature: Feature) -> bool {
    words.get(feature.word()).is_some_and(|w| w & feature.mask() != 0)
}

/// Sets or clears a feature.
pub fn set(words: &mut FeatureWords, feature: Feature, on: bool) {
    if let Some(w) = words.get_mut(feature.word()) {
        *w = if on { *w | feature.mask() } else { *w & !feature.mask() };
    }
}

/// The features that a guest gets by default (or may get, with `optional`) on a machine with features `host` whose
/// hypervisor switches the XSAVE components of `xcr0`.
#[must_use]
pub(super) fn offered(host: &FeatureWords, xcr0: u64, optional: bool) -> FeatureWords {
    let mut words = [0; FEATURESET_WORDS];
    for FeatureInfo { feature, exposure, .. } in FEATURES {
        let wanted = match exposure {
            Exposure::Default => true,
            Exposure::Optional => optional,
            Exposure::Hidden => false,
        };
        let kept_back = WITHHELD.contains(feature) || COMPUTED.contains(feature);
        if wanted && !kept_back && has(host, *feature) {
            set(&mut words, *feature, true);
        }
    }
    for feature in EMULATED {
        set(&mut words, *feature, true);
    }
    for (feature, state) in NEEDS_STATE {
        if xcr0 & state != *state {
            set(&mut words, *feature, false);
        }
    }
    settle(&mut words);
    words
}

/// Clears every feature whose requirements are not met.
pub(super) fn settle(words: &mut FeatureWords) {
    // Twice, since LM gains its last requirement after others that need LM could stand before it in the table.
    for _ in 0..2 {
        for (feature, needs) in REQUIREMENTS {
            if !has(words, *needs) {
                set(words, *feature, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settling_is_complete() {
        for missing in FEATURES {
            let mut words = [u32::MAX; FEATURESET_WORDS];
            set(&mut words, missing.feature, false);
            settle(&mut words);
            let once = words;
            settle(&mut words);
            assert_eq!(once, words, "{} leaves something open", missing.name);
            for (feature, needs) in REQUIREMENTS {
                assert!(!has(&words, *feature) || has(&words, *needs), "{feature:?} without {needs:?}");
            }
        }
    }

    #[test]
    fn what_is_offered() {
        let host = [u32::MAX; FEATURESET_WORDS];
        let guest = offered(&host, 0x7, false);
        for f in
            [Feature::SSE2, Feature::AVX, Feature::AVX2, Feature::X2APIC, Feature::SMEP, Feature::LM, Feature::XSAVES]
        {
            assert!(has(&guest, f), "{f:?}");
        }
        for f in [
            Feature::SVM,
            Feature::VMX,
            Feature::MONITOR,
            Feature::MONITORX,
            Feature::AVX512F,
            Feature::AVX512_BF16,
            Feature::ITSC,
            Feature::OSXSAVE,
            Feature::OSPKE,
            Feature::IBS,
            Feature::LWP,
            Feature::TOPOEXT,
            Feature::PDCM,
            Feature::DS,
            Feature::CET_SS,
            Feature::PROC_TRACE,
            Feature::HTT,
            Feature::WDT,
            Feature::SKINIT,
        ] {
            assert!(!has(&guest, f), "{f:?}");
        }
        assert!(has(&offered(&host, 0x7, true), Feature::ITSC));
        assert!(has(&offered(&host, 0xe7, false), Feature::AVX512_BF16));
        let none = offered(&[0; FEATURESET_WORDS], 0x7, false);
        assert_eq!(none.iter().map(|w| w.count_ones()).sum::<u32>(), 3, "HYPERVISOR, APIC and x2APIC: {none:x?}");
    }
}
