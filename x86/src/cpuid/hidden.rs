//! Features that the command line hides (`cpuid=`): the hypervisor does not use them, nor are they offered to guests.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use radon_abi::cpufeatureset::{FEATURES, FEATURESET_WORDS, FeatureInfo};

use super::{COMMON_1D, FeatureWords, Registers, WORD_PLACES, table};

/// The features of `host` that these wishes (name, wanted) hide, those included that cannot be without one of them; and
/// what was not understood. As in Xen, a wish only has an effect when it hides something.
#[must_use]
pub fn hidden(host: &FeatureWords, wishes: &[(String, bool)]) -> (FeatureWords, Vec<String>) {
    let mut hidden = [0; FEATURESET_WORDS];
    let mut problems = Vec::new();
    for (name, wanted) in wishes {
        match FEATURES.iter().find(|f| is_name(f, name)) {
            Some(f) => table::set(&mut hidden, f.feature, !wanted),
            None => problems.push(format!("'cpuid=': there is no feature '{name}'; ignored")),
        }
    }
    // What is not settled anyway is the machine's own affair.
    let (mut before, mut after) = (*host, *host);
    after.iter_mut().zip(hidden).for_each(|(word, bits)| *word &= !bits);
    table::settle(&mut before);
    table::settle(&mut after);
    for ((word, before), after) in hidden.iter_mut().zip(before).zip(after) {
        *word |= before & !after;
    }
    (hidden, problems)
}

/// Names have hyphens on the command line, underscores in the header.
fn is_name(feature: &FeatureInfo, name: &str) -> bool {
    let plain = |c: char| if matches!(c, '_' | '.') { '-' } else { c.to_ascii_lowercase() };
    feature.name.chars().map(plain).eq(name.chars().map(plain))
}

/// What CPUID says, without the features that are hidden.
#[must_use]
pub fn without(hidden: &FeatureWords, leaf: u32, subleaf: u32, mut registers: Registers) -> Registers {
    for (bits, place) in hidden.iter().zip(WORD_PLACES) {
        if let Some((l, s, register)) = *place
            && l == leaf
            // Leaves 1 and 0x8000_xxxx have no sub-leaves.
            && (s == subleaf || !matches!(leaf, 7 | 0xd))
            && let Some(value) = registers.get_mut(register)
        {
            *value &= !bits;
        }
    }
    // AMD repeats some features of leaf 1 there.
    if let (0x8000_0001, [basic, ..]) = (leaf, hidden) {
        registers[3] &= !(basic & COMMON_1D);
    }
    registers
}

#[cfg(test)]
mod tests {
    use super::*;
    use radon_abi::cpufeatureset::Feature;

    fn wish(list: &[(&str, bool)]) -> (FeatureWords, Vec<String>) {
        let list: Vec<_> = list.iter().map(|(name, on)| (String::from(*name), *on)).collect();
        hidden(&[u32::MAX; FEATURESET_WORDS], &list)
    }

    #[test]
    fn a_hidden_feature_takes_its_dependents_along() {
        let (words, problems) = wish(&[("avx", false), ("avx512-vnni", true)]);
        assert!(problems.is_empty());
        for f in [Feature::AVX, Feature::AVX2, Feature::FMA, Feature::AVX512F, Feature::AVX512_VNNI] {
            assert!(table::has(&words, f), "{f:?}");
        }
        for f in [Feature::XSAVE, Feature::SSE4_2, Feature::SMEP] {
            assert!(!table::has(&words, f), "{f:?}");
        }
    }

    #[test]
    fn the_last_wish_holds_and_unknown_names_are_told() {
        let (words, problems) = wish(&[("smep", false), ("smap", false), ("smep", true), ("warp", false)]);
        assert!(!table::has(&words, Feature::SMEP) && table::has(&words, Feature::SMAP));
        assert!(problems.len() == 1 && problems[0].contains("'warp'"), "{problems:?}");
        assert_eq!(wish(&[("avx2", true)]).0, [0; FEATURESET_WORDS]);
        assert_eq!(wish(&[("AVX512_BW", false)]).0, wish(&[("avx512-bw", false)]).0, "as the header has it");
    }

    #[test]
    fn a_requirement_that_the_machine_lacks_hides_nothing() {
        // AVX without SSE4.2 is no machine, but not for us to judge.
        let mut host = [0; FEATURESET_WORDS];
        table::set(&mut host, Feature::AVX, true);
        assert_eq!(hidden(&host, &[(String::from("smep"), false)]).0.iter().map(|w| w.count_ones()).sum::<u32>(), 1);
    }

    #[test]
    fn leaves_lose_what_is_hidden() {
        let all = [u32::MAX; 4];
        let (words, _) = wish(&[("smep", false), ("mmx", false), ("svm", false)]);
        let [_, b, ..] = without(&words, 7, 0, all);
        assert_eq!(b, !Feature::SMEP.mask());
        assert_eq!(without(&words, 7, 1, all), all);
        let [.., c, d] = without(&words, 0x8000_0001, 0, all);
        assert_eq!(c & Feature::SVM.mask(), 0);
        assert_eq!(d & Feature::MMX.mask(), 0, "AMD's copy of it");
        assert_eq!(without(&words, 1, 0, all)[3] & Feature::MMX.mask(), 0);
        assert_eq!(without(&words, 2, 0, all), all);
    }

    #[test]
    fn a_guest_s_policy_has_none_of_it() {
        let mut host = [u32::MAX; FEATURESET_WORDS];
        let (words, _) = wish(&[("rdtscp", false), ("sse4.1", false)]);
        host.iter_mut().zip(words).for_each(|(word, bits)| *word &= !bits);
        let offered = table::offered(&host, 7, true);
        for f in [Feature::RDTSCP, Feature::SSE4_1, Feature::SSE4_2, Feature::AVX] {
            assert!(!table::has(&offered, f), "{f:?}");
        }
        assert!(table::has(&offered, Feature::SSSE3));
    }
}
