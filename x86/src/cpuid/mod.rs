//! CPUID policy: what a guest's processors say they can do.
//!
//! A [`CpuidPolicy`] is made once per domain from the machine's CPUID ([`HostCpuid`]), the feature [`table`] and the
//! number of vCPUs, and may then be changed by the toolstack leaf by leaf. [`CpuidPolicy::query`] answers a guest's CPUID
//! instruction: it looks up arrays, fills in what depends on the vCPU's state ([`Dynamic`]) and allocates nothing.
//!
//! Invariants: a policy never has a feature that the maximum policy for its machine lacks, nor one whose requirements
//! are missing. Leaves and bits that nobody has decided on read as zero. Takes no locks: policies do not change while
//! their domain runs.

pub mod hidden;
pub mod table;
pub mod xen_leaves;

use radon_abi::cpufeatureset::{FEATURESET_WORDS, Feature};
pub use table::FeatureWords;
pub use xen_leaves::{TimeInfo, XenLeaves};

/// EAX, EBX, ECX, EDX.
pub type Registers = [u32; 4];

/// The machine's own CPUID.
pub trait HostCpuid {
    /// Executes CPUID with EAX = `leaf` and ECX = `subleaf`.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers;
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;
const D: usize = 3;

const ZERO: Registers = [0; 4];

/// First hypervisor leaf.
pub const XEN_FIRST_LEAF: u32 = 0x4000_0000;
const EXTENDED: u32 = 0x8000_0000;

/// Sub-leaf number in a [`PolicyLeaf`] of a leaf that has no sub-leaves.
pub const NO_SUBLEAF: u32 = 0xffff_ffff;

const BASIC_LEAVES: usize = 14;
const CACHE_SUBLEAVES: usize = 6;
const FEATURE_SUBLEAVES: usize = 3;
const STATE_SUBLEAVES: usize = 20;
const EXTENDED_LEAVES: usize = 0x22;

/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4.PKE.
const CR4_PKE: u64 = 1 << 22;

/// Features of leaf 1 EDX that AMD repeats in 0x80000001 EDX.
const COMMON_1D: u32 = 0x0183_f3ff;

/// Bytes of the XSAVE area before its extended components.
const XSAVE_HEADER_END: u32 = 576;

/// Who made the processor, as far as policy differs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vendor {
    /// AMD or Hygon.
    Amd,
    /// Intel or another.
    Intel,
}

impl Vendor {
    /// From leaf 0.
    #[must_use]
    pub fn of(leaf0: Registers) -> Vendor {
        const AUTH: u32 = u32::from_le_bytes(*b"Auth");
        const HYGO: u32 = u32::from_le_bytes(*b"Hygo");
        if matches!(leaf0[B], AUTH | HYGO) { Vendor::Amd } else { Vendor::Intel }
    }
}

/// What of a vCPU's state shows in CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dynamic {
    /// The vCPU's number.
    pub vcpu: u32,
    /// CR4 as the guest set it.
    pub cr4: u64,
    /// XCR0 as the guest set it.
    pub xcr0: u64,
    /// The local APIC is enabled in its base MSR.
    pub apic_enabled: bool,
    /// The domain's time parameters.
    pub time: TimeInfo,
}

/// The local APIC identifier of a vCPU: Xen leaves odd numbers to sibling threads that do not exist.
#[must_use]
pub const fn apic_id(vcpu: u32) -> u32 {
    vcpu.wrapping_mul(2)
}

/// Which kind of policy to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// What a guest gets if the toolstack says nothing.
    Default,
    /// All that a guest may be given.
    Maximum,
    /// Dom0: as a guest, and what only a domain that never migrates can have.
    Dom0,
}

/// One leaf as the toolstack reads and writes it (`xen_cpuid_leaf_t`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PolicyLeaf {
    /// Leaf.
    pub leaf: u32,
    /// Sub-leaf or [`NO_SUBLEAF`].
    pub subleaf: u32,
    /// Contents.
    pub registers: Registers,
}

/// A leaf that a policy cannot take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadLeaf;

/// A domain's CPUID.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CpuidPolicy {
    basic: [Registers; BASIC_LEAVES],
    /// Leaf 4.
    cache: [Registers; CACHE_SUBLEAVES],
    /// Leaf 7.
    features: [Registers; FEATURE_SUBLEAVES],
    /// Leaf 0xD.
    state: [Registers; STATE_SUBLEAVES],
    extended: [Registers; EXTENDED_LEAVES],
    xen: XenLeaves,
    vcpus: u32,
    vendor: Vendor,
}

/// The features of a machine, as a featureset. The words that stand for MSRs are zero.
#[must_use]
pub fn host_features(host: &dyn HostCpuid) -> FeatureWords {
    let mut words = [0; FEATURESET_WORDS];
    for (word, place) in words.iter_mut().zip(WORD_PLACES) {
        if let Some((leaf, subleaf, register)) = place {
            *word = host_leaf(host, *leaf, *subleaf).get(*register).copied().unwrap_or(0);
        }
    }
    words
}

/// A host leaf, or zeros if the host does not have it (Intel answers with another one then).
fn host_leaf(host: &dyn HostCpuid, leaf: u32, subleaf: u32) -> Registers {
    let [max, ..] = host.cpuid(leaf & EXTENDED, 0);
    let subleaf_exists = leaf != 7 || subleaf == 0 || subleaf <= host.cpuid(7, 0)[A];
    if leaf <= max && subleaf_exists { host.cpuid(leaf, subleaf) } else { ZERO }
}

/// Where each word of a featureset is: leaf, sub-leaf, register. `None` are MSRs.
const WORD_PLACES: &[Option<(u32, u32, usize)>; FEATURESET_WORDS] = &[
    Some((1, 0, D)),
    Some((1, 0, C)),
    Some((0x8000_0001, 0, D)),
    Some((0x8000_0001, 0, C)),
    Some((0xd, 1, A)),
    Some((7, 0, B)),
    Some((7, 0, C)),
    Some((0x8000_0007, 0, D)),
    Some((0x8000_0008, 0, B)),
    Some((7, 0, D)),
    Some((7, 1, A)),
    Some((0x8000_0021, 0, A)),
    Some((7, 1, B)),
    Some((7, 2, D)),
    Some((7, 1, C)),
    Some((7, 1, D)),
    None,
    None,
    Some((0x8000_0021, 0, C)),
];

impl CpuidPolicy {
    /// The policy of a domain with `vcpus` vCPUs on this machine. `xcr0` are the XSAVE components that the hypervisor
    /// switches, `xen` what the hypervisor leaves say.
    #[must_use]
    pub fn new(host: &dyn HostCpuid, kind: Kind, xcr0: u64, vcpus: u32, xen: XenLeaves) -> CpuidPolicy {
        let vendor = Vendor::of(host.cpuid(0, 0));
        let mut p = CpuidPolicy {
            basic: [ZERO; BASIC_LEAVES],
            cache: [ZERO; CACHE_SUBLEAVES],
            features: [ZERO; FEATURE_SUBLEAVES],
            state: [ZERO; STATE_SUBLEAVES],
            extended: [ZERO; EXTENDED_LEAVES],
            xen,
            vcpus: vcpus.max(1),
            vendor,
        };
        p.copy_identity(host);
        let host_words = host_features(host);
        let mut words = table::offered(&host_words, xcr0, kind == Kind::Maximum);
        if kind == Kind::Dom0 {
            table::set(&mut words, Feature::ITSC, table::has(&host_words, Feature::ITSC));
        }
        p.set_features(&words);
        p.copy_states(host, xcr0);
        p.set_topology();
        p
    }

    /// The leaves and registers that a guest sees as the machine has them.
    fn copy_identity(&mut self, host: &dyn HostCpuid) {
        let leaf = |n| host_leaf(host, n, 0);
        let [max, vendor_b, vendor_c, vendor_d] = leaf(0);
        let [signature, misc, ..] = leaf(1);
        self.set_basic(0, [max.min(0xd), vendor_b, vendor_c, vendor_d]);
        self.set_basic(1, [signature, misc & 0x0000_ffff, 0, 0]); // brand index, CLFLUSH size
        if self.vendor == Vendor::Intel {
            self.set_basic(2, leaf(2));
            for (subleaf, slot) in self.cache.iter_mut().enumerate() {
                *slot = host_leaf(host, 4, subleaf as u32);
                if slot[A] & 0x1f == 0 {
                    *slot = ZERO;
                    break;
                }
            }
        }
        self.features[0][A] = leaf(7)[A].min(FEATURE_SUBLEAVES.saturating_sub(1) as u32);

        let [max, b, c, d] = leaf(EXTENDED);
        self.set_extended(0, [max.clamp(EXTENDED, EXTENDED | 0x21), b, c, d]);
        let [signature, brand, ..] = leaf(0x8000_0001);
        self.set_extended(1, [signature, brand, 0, 0]);
        for n in [2, 3, 4] {
            self.set_extended(n, leaf(EXTENDED | n)); // the name
        }
        let [.., l2, _] = leaf(0x8000_0006);
        match self.vendor {
            Vendor::Amd => {
                for n in [5, 6, 0x19, 0x1a] {
                    self.set_extended(n, leaf(EXTENDED | n)); // caches, TLBs, vector width hints
                }
            }
            Vendor::Intel => self.set_extended(6, [0, 0, l2, 0]),
        }
        // Address widths: physical as the machine, at most 52; linear at most 48, as there is no 5-level paging.
        let [sizes, ..] = leaf(0x8000_0008);
        let physical = if sizes & 0xff == 0 { 36 } else { (sizes & 0xff).min(52) };
        let linear = if sizes >> 8 & 0xff == 0 { 32 } else { (sizes >> 8 & 0xff).min(48) };
        self.set_extended(8, [physical | linear << 8, 0, 0, 0]);
    }

    /// Leaf 0xD for the components that are offered: those that the machine has, the hypervisor switches and a feature
    /// of the guest uses.
    fn copy_states(&mut self, host: &dyn HostCpuid, xcr0: u64) {
        let [low, _, _, high] = host_leaf(host, 0xd, 0);
        let states = (u64::from(low) | u64::from(high) << 32) & xcr0 & table::states(&self.features());
        for (n, slot) in self.state.iter_mut().enumerate().skip(2) {
            if states & 1_u64.wrapping_shl(n as u32) != 0 {
                let [size, offset, flags, _] = host_leaf(host, 0xd, n as u32);
                *slot = [size, offset, flags & 2, 0];
            }
        }
        self.set_states(states);
    }

    /// Sets leaf 0xD, sub-leaf 0, for a set of components whose sub-leaves are filled in, and drops the others.
    fn set_states(&mut self, states: u64) {
        let states = if self.has(Feature::XSAVE) { states | 3 } else { 0 };
        for (n, slot) in self.state.iter_mut().enumerate().skip(2) {
            if states & 1_u64.wrapping_shl(n as u32) == 0 {
                *slot = ZERO;
            }
        }
        let size = if states == 0 { 0 } else { self.state_size(states) };
        self.state[0] = [states as u32, 0, size, (states >> 32) as u32];
    }

    /// XCR0 bits that the guest may set.
    #[must_use]
    pub fn xcr0_mask(&self) -> u64 {
        u64::from(self.state[0][A]) | u64::from(self.state[0][D]) << 32
    }

    /// Bytes of an XSAVE area in standard format for these components.
    pub(crate) fn state_size(&self, states: u64) -> u32 {
        let mut size = XSAVE_HEADER_END;
        for (n, [bytes, offset, ..]) in self.state.iter().enumerate().skip(2) {
            if states & 1_u64.wrapping_shl(n as u32) != 0 {
                size = size.max(offset.saturating_add(*bytes));
            }
        }
        size
    }

    /// Bytes of an XSAVE area in compacted format for these components.
    fn compact_size(&self, states: u64) -> u32 {
        let mut size = XSAVE_HEADER_END;
        for (n, [bytes, _, flags, _]) in self.state.iter().enumerate().skip(2) {
            if states & 1_u64.wrapping_shl(n as u32) != 0 {
                if flags & 2 != 0 {
                    size = size.saturating_add(63) & !63;
                }
                size = size.saturating_add(*bytes);
            }
        }
        size
    }

    /// One package, a core per vCPU, one thread per core; APIC identifiers have an unused low bit.
    fn set_topology(&mut self) {
        let ids = self.vcpus.saturating_mul(2);
        let many = self.vcpus > 1;
        let [_, misc, _, edx] = &mut self.basic[1];
        *misc = *misc & 0xff00_ffff | if many { ids.min(255) << 16 } else { 0 };
        *edx = *edx & !Feature::HTT.mask() | if many { Feature::HTT.mask() } else { 0 };
        if self.vendor == Vendor::Amd {
            let bits = ids.saturating_sub(1).checked_ilog2().map_or(0, |n| n.saturating_add(1));
            self.extended[8][C] = if many { ids.saturating_sub(1) & 0xff | bits.min(15) << 12 } else { 0 };
        } else {
            for [a, ..] in &mut self.cache {
                if *a & 0x1f != 0 {
                    let sharers = if *a >> 5 & 7 == 3 && many { ids.saturating_sub(1).min(0xfff) } else { 1 };
                    *a = *a & 0x3fff | sharers << 14 | ids.saturating_sub(1).min(0x3f) << 26;
                }
            }
        }
    }

    fn set_basic(&mut self, leaf: u32, registers: Registers) {
        if let Some(slot) = self.basic.get_mut(leaf as usize) {
            *slot = registers;
        }
    }

    fn set_extended(&mut self, leaf: u32, registers: Registers) {
        if let Some(slot) = self.extended.get_mut(leaf as usize) {
            *slot = registers;
        }
    }

    /// The register that holds a word of the featureset.
    fn word_mut(&mut self, place: (u32, u32, usize)) -> Option<&mut u32> {
        let (leaf, subleaf, register) = place;
        let slot = match leaf {
            7 => self.features.get_mut(subleaf as usize),
            0xd => self.state.get_mut(subleaf as usize),
            _ if leaf & EXTENDED != 0 => self.extended.get_mut((leaf & !EXTENDED) as usize),
            _ => self.basic.get_mut(leaf as usize),
        };
        slot?.get_mut(register)
    }

    /// The policy's features as a featureset. The words that stand for MSRs are zero, and so are dynamic bits.
    #[must_use]
    pub fn features(&self) -> FeatureWords {
        let mut words = [0; FEATURESET_WORDS];
        for (word, place) in words.iter_mut().zip(WORD_PLACES) {
            if let Some((leaf, subleaf, register)) = *place {
                *word = self.stored(leaf, subleaf).get(register).copied().unwrap_or(0);
            }
        }
        words
    }

    fn set_features(&mut self, words: &FeatureWords) {
        for (word, place) in words.iter().zip(WORD_PLACES) {
            if let Some(place) = *place
                && let Some(register) = self.word_mut(place)
            {
                *register = *word;
            }
        }
        if self.vendor == Vendor::Amd {
            self.extended[1][D] = self.extended[1][D] & !COMMON_1D | self.basic[1][D] & COMMON_1D;
        }
    }

    /// Whether the policy has a feature (other than the dynamic OSXSAVE, OSPKE and those in MSRs).
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        let Some(Some((leaf, subleaf, register))) = WORD_PLACES.get(feature.word()).copied() else { return false };
        self.stored(leaf, subleaf).get(register).is_some_and(|w| w & feature.mask() != 0)
    }

    /// The guest's physical address width in bits.
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        (self.extended[8][A] & 0xff) as u8
    }

    /// Whose processor it is.
    #[must_use]
    pub fn vendor(&self) -> Vendor {
        self.vendor
    }

    /// Processor family, extended family added.
    #[must_use]
    pub fn family(&self) -> u8 {
        let signature = self.basic[1][A];
        let base = (signature >> 8 & 0xf) as u8;
        if base == 0xf { base.saturating_add((signature >> 20) as u8) } else { base }
    }

    /// A leaf as it is stored: without what depends on a vCPU.
    fn stored(&self, leaf: u32, subleaf: u32) -> Registers {
        let found = match leaf {
            4 => self.cache.get(subleaf as usize),
            7 => self.features.get(subleaf as usize),
            0xd => self.state.get(subleaf as usize),
            _ if leaf & EXTENDED != 0 => self.extended.get((leaf & !EXTENDED) as usize),
            _ => self.basic.get(leaf as usize),
        };
        found.copied().unwrap_or(ZERO)
    }

    /// What CPUID returns to a vCPU.
    #[must_use]
    pub fn query(&self, leaf: u32, subleaf: u32, vcpu: &Dynamic) -> Registers {
        if leaf & 0xffff_ff00 == XEN_FIRST_LEAF {
            return self.xen.query(leaf & 0xff, subleaf, vcpu, self.has(Feature::RDTSCP));
        }
        let max = if leaf & EXTENDED != 0 { self.extended[0][A] } else { self.basic[0][A] };
        if leaf > max {
            return ZERO;
        }
        let mut out = self.stored(leaf, subleaf);
        match leaf {
            1 => {
                out[B] |= apic_id(vcpu.vcpu) << 24;
                if vcpu.cr4 & CR4_OSXSAVE != 0 && self.has(Feature::XSAVE) {
                    out[C] |= Feature::OSXSAVE.mask();
                }
                if !vcpu.apic_enabled {
                    out[D] &= !Feature::APIC.mask();
                }
            }
            7 if subleaf == 0 && vcpu.cr4 & CR4_PKE != 0 && self.has(Feature::PKU) => {
                out[C] |= Feature::OSPKE.mask();
            }
            0xb => out = self.x2apic_topology(subleaf, vcpu.vcpu),
            0xd if self.xcr0_mask() == 0 => out = ZERO,
            0xd if subleaf == 0 => out[B] = self.state_size(vcpu.xcr0 & self.xcr0_mask()),
            0xd if subleaf == 1 => {
                // Supervisor components are not offered, so XCR0 alone decides.
                let compact = self.has(Feature::XSAVEC) || self.has(Feature::XSAVES);
                out = [out[A], if compact { self.compact_size(vcpu.xcr0 & self.xcr0_mask()) } else { 0 }, 0, 0];
            }
            0x8000_0001 if !vcpu.apic_enabled && self.vendor == Vendor::Amd => {
                out[D] &= !Feature::APIC.mask();
            }
            _ => {}
        }
        out
    }

    /// Leaf 0xB: the levels of the APIC identifier.
    fn x2apic_topology(&self, subleaf: u32, vcpu: u32) -> Registers {
        if !self.has(Feature::X2APIC) {
            return ZERO;
        }
        let ids = self.vcpus.saturating_mul(2);
        let bits = ids.saturating_sub(1).checked_ilog2().map_or(0, |n| n.saturating_add(1));
        let (shift, count, kind) = match subleaf {
            0 => (1, 1, 1),                                // threads of a core
            1 => (bits.max(1), self.vcpus.min(0xffff), 2), // cores of the package
            _ => (0, 0, 0),
        };
        [shift, count, subleaf & 0xff | kind << 8, apic_id(vcpu)]
    }

    /// The policy's leaves in the order in which the toolstack reads them, without what depends on a vCPU.
    pub fn leaves(&self) -> impl Iterator<Item = PolicyLeaf> + '_ {
        let one = |leaf: u32| PolicyLeaf { leaf, subleaf: NO_SUBLEAF, registers: self.stored(leaf, 0) };
        let sub = move |leaf: u32, count: usize| {
            (0..count as u32).map(move |n| PolicyLeaf { leaf, subleaf: n, registers: self.stored(leaf, n) })
        };
        let caches = self.cache.iter().take_while(|c| c[A] & 0x1f != 0).count().saturating_add(1).min(CACHE_SUBLEAVES);
        let features = (self.features[0][A] as usize).saturating_add(1).min(FEATURE_SUBLEAVES);
        let last_state = u64::BITS.saturating_sub(self.xcr0_mask().leading_zeros()) as usize;
        let states = last_state.clamp(2, STATE_SUBLEAVES);
        let last = self.basic[0][A];
        let extended = self.extended[0][A];
        [0, 1, 2, 3]
            .into_iter()
            .map(one)
            .chain(sub(4, caches))
            .chain([5, 6].into_iter().map(one))
            .chain(sub(7, features))
            .chain([8, 9, 0xa, 0xc].into_iter().map(one))
            .chain(sub(0xd, states))
            .filter(move |l| l.leaf <= last)
            .chain([PolicyLeaf { leaf: XEN_FIRST_LEAF, subleaf: NO_SUBLEAF, registers: self.xen.signature() }])
            .chain((EXTENDED..=extended).take(EXTENDED_LEAVES).map(one))
    }

    /// Takes a leaf from the toolstack into the policy. Afterwards [`CpuidPolicy::restrict`] must be called.
    ///
    /// # Errors
    /// [`BadLeaf`] if a policy has no such leaf.
    pub fn set_leaf(&mut self, given: PolicyLeaf) -> Result<(), BadLeaf> {
        let PolicyLeaf { leaf, subleaf, registers } = given;
        let has_subleaves = matches!(leaf, 4 | 7 | 0xb | 0xd);
        if has_subleaves == (subleaf == NO_SUBLEAF) {
            return Err(BadLeaf);
        }
        let slot = match leaf {
            4 => self.cache.get_mut(subleaf as usize),
            7 => self.features.get_mut(subleaf as usize),
            // Made up anew at each query.
            0xb if subleaf < 2 => return Ok(()),
            0xb => None,
            0xd => self.state.get_mut(subleaf as usize),
            0x4000_0000 | 0x4000_0100 => return Ok(()),
            _ if leaf & EXTENDED != 0 => self.extended.get_mut((leaf & !EXTENDED) as usize),
            _ => self.basic.get_mut(leaf as usize),
        };
        *slot.ok_or(BadLeaf)? = registers;
        Ok(())
    }

    /// Makes a policy that was changed leaf by leaf consistent, and reduces it to what `maximum` allows.
    ///
    /// # Errors
    /// [`BadLeaf`] if it names more leaves than `maximum` or another vendor; it must not be used then.
    pub fn restrict(&mut self, maximum: &CpuidPolicy) -> Result<(), BadLeaf> {
        if self.basic[0][A] > maximum.basic[0][A]
            || self.features[0][A] > maximum.features[0][A]
            || self.extended[0][A] > maximum.extended[0][A]
            || self.extended[0][A] < EXTENDED
            || Vendor::of(self.basic[0]) != maximum.vendor
        {
            return Err(BadLeaf);
        }
        let mut words = self.features();
        for (word, most) in words.iter_mut().zip(maximum.features()) {
            *word &= most;
        }
        let topology = (self.has(Feature::HTT), self.has(Feature::CMP_LEGACY));
        // Computed features are not in the maximum; HTT and CMP_LEGACY describe the topology that the toolstack chose.
        table::set(&mut words, Feature::HTT, topology.0);
        table::set(&mut words, Feature::CMP_LEGACY, topology.1);
        table::set(&mut words, Feature::HYPERVISOR, true);
        table::settle(&mut words);
        self.vendor = maximum.vendor;
        self.set_features(&words);

        let states = self.xcr0_mask() & maximum.xcr0_mask() & table::states(&words);
        for (slot, most) in self.state.iter_mut().zip(&maximum.state).skip(2) {
            *slot = *most; // sizes and offsets are the machine's
        }
        self.set_states(states);

        let [sizes, ..] = self.extended[8];
        let [most, ..] = maximum.extended[8];
        let field = |shift: u32| (sizes >> shift & 0xff).min(most >> shift & 0xff);
        self.extended[8][A] = field(0).max(32) | field(8).max(32) << 8;
        self.extended[8][D] = 0;
        self.basic[1][B] &= 0x00ff_ffff;
        // Leaves that no policy has an opinion on.
        for leaf in [3, 5, 6, 8, 9, 0xa, 0xb, 0xc] {
            self.set_basic(leaf, ZERO);
        }
        self.extended[7] = [0, 0, 0, self.extended[7][D]];
        for leaf in (9..0x19).chain(0x1b..0x21) {
            self.set_extended(leaf, ZERO);
        }
        let [eax, _, ecx, _] = self.extended[0x21];
        self.extended[0x21] = [eax, 0, ecx, 0];
        Ok(())
    }
}

#[cfg(test)]
mod tests;
