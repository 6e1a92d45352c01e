//! Tests of the CPUID policy against a made-up Zen processor.

use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

struct Host(BTreeMap<(u32, u32), Registers>);

impl HostCpuid for Host {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        self.0.get(&(leaf, subleaf)).or_else(|| self.0.get(&(leaf, NO_SUBLEAF))).copied().unwrap_or(ZERO)
    }
}

fn zen() -> Host {
    let text = |s: &[u8; 4]| u32::from_le_bytes(*s);
    let vendor = [text(b"Auth"), text(b"cAMD"), text(b"enti")];
    let mut m = BTreeMap::new();
    let mut put = |leaf, sub, r| m.insert((leaf, sub), r);
    put(0, NO_SUBLEAF, [0xd, vendor[0], vendor[1], vendor[2]]);
    put(1, NO_SUBLEAF, [0x0080_0f12, 0x0310_0800, 0xffff_ffff, 0xffff_ffff]);
    put(5, NO_SUBLEAF, [64, 64, 3, 0x11]);
    put(6, NO_SUBLEAF, [4, 0, 1, 0]);
    put(7, 0, [0, 0xffff_ffff, 0xffff_ffff, 0xffff_ffff]);
    put(0xd, 0, [0x207, 0x988, 0x988, 0]);
    put(0xd, 1, [0xf, 0x340, 0x800, 0]);
    put(0xd, 2, [0x100, 0x240, 0, 0]);
    put(0xd, 9, [8, 0x980, 0, 0]);
    put(0x8000_0000, NO_SUBLEAF, [0x8000_0021, vendor[0], vendor[1], vendor[2]]);
    put(0x8000_0001, NO_SUBLEAF, [0x0080_0f12, 0x4000_0000, 0xffff_ffff, 0xffff_ffff]);
    put(0x8000_0002, NO_SUBLEAF, [text(b"AMD "), text(b"EPYC"), 0, 0]);
    put(0x8000_0007, NO_SUBLEAF, [0, 0x1b, 0, 0x6799]);
    put(0x8000_0008, NO_SUBLEAF, [0x3030, 0xffff_ffff, 0x6007, 0x1_0000]);
    put(0x8000_000a, NO_SUBLEAF, [1, 0x8000, 0, 0x1bcff]);
    put(0x8000_001d, 0, [0x121, 0x3f, 0x3f, 0]);
    put(0x8000_001e, NO_SUBLEAF, [1, 0x100, 0, 0]);
    put(0x8000_001f, NO_SUBLEAF, [0xf, 0, 0, 0]);
    put(0x8000_0021, NO_SUBLEAF, [0x4d, 7, 6, 0]);
    Host(m)
}

const XEN: XenLeaves =
    XenLeaves { version: 0x0004_0011, hvm_flags: xen_leaves::HVM_UPCALL_VECTOR, domain: 5, machine_address_bits: 40 };

fn policy(kind: Kind, vcpus: u32) -> CpuidPolicy {
    CpuidPolicy::new(&zen(), kind, 7, vcpus, XEN)
}

fn vcpu(n: u32) -> Dynamic {
    Dynamic { vcpu: n, cr4: 0, xcr0: 1, apic_enabled: true, time: TimeInfo::default() }
}

#[test]
fn identity_and_limits() {
    let p = policy(Kind::Default, 4);
    assert_eq!(p.query(0, 0, &vcpu(0)), zen().cpuid(0, 0));
    assert_eq!(p.query(0x8000_0000, 0, &vcpu(0)), zen().cpuid(0x8000_0000, 0));
    assert_eq!(p.query(1, 0, &vcpu(3))[A], 0x0080_0f12);
    assert_eq!((p.vendor(), p.family(), p.physical_bits()), (Vendor::Amd, 0x17, 48));
    assert_eq!(p.query(0x8000_0002, 0, &vcpu(0)), zen().cpuid(0x8000_0002, 0));
    for leaf in [
        2,
        3,
        4,
        5,
        6,
        8,
        9,
        0xa,
        0xc,
        0xe,
        0x14,
        0x1000,
        0x8000_000a,
        0x8000_001b,
        0x8000_001d,
        0x8000_001e,
        0x8000_001f,
        0x8000_0022,
        0x8000_ffff,
        0x4000_0006,
        0x4000_0100,
        0x2000_0000,
        0xc000_0000,
        u32::MAX,
    ] {
        assert_eq!(p.query(leaf, 0, &vcpu(0)), ZERO, "{leaf:#x}");
    }
    assert_eq!(p.query(0x8000_0008, 0, &vcpu(0))[A], 0x3030);
}

#[test]
fn features_shown() {
    let p = policy(Kind::Default, 2);
    let [_, _, c, d] = p.query(1, 0, &vcpu(0));
    for f in [Feature::SSE3, Feature::CX16, Feature::X2APIC, Feature::XSAVE, Feature::HYPERVISOR, Feature::TSC_DEADLINE]
    {
        assert_ne!(c & f.mask(), 0, "{f:?}");
    }
    for f in [Feature::MONITOR, Feature::VMX, Feature::OSXSAVE, Feature::SMX, Feature::PDCM] {
        assert_eq!(c & f.mask(), 0, "{f:?}");
    }
    assert_ne!(d & Feature::APIC.mask(), 0);
    let [.., ec, ed] = p.query(0x8000_0001, 0, &vcpu(0));
    assert_eq!(ec & Feature::SVM.mask(), 0);
    assert_ne!(ed & Feature::LM.mask(), 0);
    assert_eq!(ed & COMMON_1D, d & COMMON_1D);
    assert!(
        !p.has(Feature::ITSC)
            && policy(Kind::Dom0, 1).has(Feature::ITSC)
            && policy(Kind::Maximum, 1).has(Feature::ITSC)
    );
    assert!(!p.has(Feature::AVX512F), "the hypervisor does not switch its state");
    assert!(p.has(Feature::AVX2));
}

#[test]
fn dynamic_bits() {
    let p = policy(Kind::Default, 2);
    let on = Dynamic { cr4: CR4_OSXSAVE, xcr0: 7, ..vcpu(1) };
    assert_ne!(p.query(1, 0, &on)[C] & Feature::OSXSAVE.mask(), 0);
    let off = Dynamic { apic_enabled: false, ..vcpu(1) };
    assert_eq!(p.query(1, 0, &off)[D] & Feature::APIC.mask(), 0);
    assert_eq!(p.query(0x8000_0001, 0, &off)[D] & Feature::APIC.mask(), 0);
    assert_eq!(p.query(1, 0, &vcpu(1))[B] >> 24, 2);
}

#[test]
fn xsave_sizes() {
    let p = policy(Kind::Default, 1);
    assert_eq!(p.xcr0_mask(), 7);
    assert_eq!(p.query(0xd, 0, &vcpu(0)), [7, 576, 0x340, 0]);
    let avx = Dynamic { xcr0: 7, ..vcpu(0) };
    assert_eq!(p.query(0xd, 0, &avx), [7, 0x340, 0x340, 0]);
    assert_eq!(p.query(0xd, 1, &avx), [0xf, 0x340, 0, 0]);
    assert_eq!(p.query(0xd, 1, &vcpu(0)), [0xf, 576, 0, 0]);
    assert_eq!(p.query(0xd, 2, &avx), [0x100, 0x240, 0, 0]);
    assert_eq!(p.query(0xd, 9, &avx), ZERO);
    assert_eq!(p.query(0xd, 63, &avx), ZERO);
    let none = CpuidPolicy::new(&zen(), Kind::Default, 0x3, 1, XEN);
    assert!(!none.has(Feature::AVX) && none.has(Feature::XSAVE));
    let mut host = zen();
    host.0.get_mut(&(1, NO_SUBLEAF)).unwrap()[C] &= !Feature::XSAVE.mask();
    let p = CpuidPolicy::new(&host, Kind::Default, 7, 1, XEN);
    for subleaf in 0..4 {
        assert_eq!(p.query(0xd, subleaf, &avx), ZERO);
    }
}

#[test]
fn compacted_components_are_aligned() {
    let mut host = zen();
    host.0.insert((0xd, 0), [0xe7, 0, 0, 0]);
    host.0.insert((0xd, 2), [0x101, 0x240, 0, 0]);
    for (n, offset) in [(5, 0x440), (6, 0x480), (7, 0x680)] {
        host.0.insert((0xd, n), [0x40, offset, 2, 0]);
    }
    let p = CpuidPolicy::new(&host, Kind::Default, 0xe7, 1, XEN);
    let all = Dynamic { xcr0: 0xe7, ..vcpu(0) };
    assert_eq!(p.query(0xd, 1, &all)[B], 0x380 + 3 * 0x40);
    assert_eq!(p.query(0xd, 0, &all)[B], 0x6c0);
}

#[test]
fn topology() {
    let p = policy(Kind::Default, 3);
    let [_, b, _, d] = p.query(1, 0, &vcpu(2));
    assert_eq!((b >> 16 & 0xff, b >> 24), (6, 4));
    assert_ne!(d & Feature::HTT.mask(), 0);
    assert_eq!(p.query(0x8000_0008, 0, &vcpu(0))[C], 0x3005);
    assert_eq!(p.query(0xb, 0, &vcpu(2)), [1, 1, 0x100, 4]);
    assert_eq!(p.query(0xb, 1, &vcpu(2)), [3, 3, 0x201, 4]);
    assert_eq!(p.query(0xb, 2, &vcpu(2)), [0, 0, 2, 4]);
    let single = policy(Kind::Default, 1);
    assert_eq!(single.query(1, 0, &vcpu(0))[D] & Feature::HTT.mask(), 0);
    assert_eq!(single.query(0x8000_0008, 0, &vcpu(0))[C], 0);
    assert_eq!(single.query(0xb, 1, &vcpu(0)), [1, 1, 0x201, 0]);
}

#[test]
fn xen_leaves_read() {
    let p = policy(Kind::Default, 2);
    let time = TimeInfo {
        reliable: true,
        guest_khz: 2_000_000,
        offset: 0x1_0000_0002,
        mul: 7,
        shift: -1,
        host_khz: 3,
        incarnation: 4,
        ..TimeInfo::default()
    };
    let v = Dynamic { time, ..vcpu(1) };
    let [max, b, c, d] = p.query(0x4000_0000, 0, &v);
    let mut signature = Vec::new();
    for r in [b, c, d] {
        signature.extend(r.to_le_bytes());
    }
    assert_eq!((max, signature.as_slice()), (0x4000_0005, &b"XenVMMXenVMM"[..]));
    assert_eq!(p.query(0x4000_0001, 0, &v), [0x0004_0011, 0, 0, 0]);
    assert_eq!(p.query(0x4000_0002, 0, &v), [1, 0x4000_0000, 0, 0]);
    assert_eq!(p.query(0x4000_0003, 0, &v), [6, 0, 2_000_000, 4]);
    assert_eq!(p.query(0x4000_0003, 1, &v), [2, 1, 7, 0xff]);
    assert_eq!(p.query(0x4000_0003, 2, &v), [3, 0, 0, 0]);
    assert_eq!(p.query(0x4000_0004, 0, &v), [0x58, 1, 5, 0]);
    assert_eq!(p.query(0x4000_0005, 0, &v), [0, 40, 0, 0]);
}

#[test]
fn toolstack_round_trip() {
    let maximum = policy(Kind::Maximum, 1);
    for kind in [Kind::Default, Kind::Maximum] {
        let original = policy(kind, 4);
        let mut copy = policy(Kind::Default, 4);
        for leaf in original.leaves() {
            copy.set_leaf(leaf).unwrap();
        }
        copy.restrict(&maximum).unwrap();
        assert_eq!(copy, original);
    }
    let leaves: Vec<_> = maximum.leaves().collect();
    assert!(leaves.len() < 90, "{}", leaves.len());
}

#[test]
fn toolstack_cannot_exceed() {
    let maximum = policy(Kind::Maximum, 1);
    let mut p = policy(Kind::Default, 1);
    let all = [u32::MAX; 4];
    for (leaf, subleaf) in [
        (7, 0),
        (7, 1),
        (0xd, 0),
        (0xd, 1),
        (0xd, 9),
        (0x8000_0001, NO_SUBLEAF),
        (0x8000_0008, NO_SUBLEAF),
        (0x8000_000a, NO_SUBLEAF),
        (1, NO_SUBLEAF),
        (0x8000_0021, NO_SUBLEAF),
    ] {
        p.set_leaf(PolicyLeaf { leaf, subleaf, registers: all }).unwrap();
    }
    assert_eq!(p.restrict(&maximum), Err(BadLeaf), "too many sub-leaves of leaf 7");
    p.set_leaf(PolicyLeaf { leaf: 7, subleaf: 0, registers: [0, u32::MAX, u32::MAX, u32::MAX] }).unwrap();
    p.restrict(&maximum).unwrap();
    for (have, may) in p.features().iter().zip(maximum.features()) {
        let topology = Feature::HTT.mask() | COMMON_1D;
        assert_eq!(have & !may & !topology & !Feature::CMP_LEGACY.mask(), 0);
    }
    assert_eq!(p.query(0x8000_0008, 0, &vcpu(0))[A], 0x3030);
    assert_eq!(p.xcr0_mask(), 7);
    assert_eq!(p.query(0x8000_000a, 0, &vcpu(0)), ZERO);
    for bad in [(0xe, NO_SUBLEAF), (7, NO_SUBLEAF), (7, 3), (1, 0), (0xd, 63), (0x8000_0022, NO_SUBLEAF), (0xb, 2)] {
        let leaf = PolicyLeaf { leaf: bad.0, subleaf: bad.1, registers: ZERO };
        assert_eq!(p.set_leaf(leaf), Err(BadLeaf), "{bad:x?}");
    }
}

#[test]
fn intel_host() {
    let mut host = zen();
    let text = |s: &[u8; 4]| u32::from_le_bytes(*s);
    host.0.insert((0, NO_SUBLEAF), [0x1b, text(b"Genu"), text(b"ntel"), text(b"ineI")]);
    host.0.insert((4, 0), [0x1c00_4121, 1, 2, 3]);
    host.0.insert((4, 1), [0x1c03_c163, 1, 2, 3]);
    let p = CpuidPolicy::new(&host, Kind::Default, 7, 4, XEN);
    assert_eq!(p.vendor(), Vendor::Intel);
    assert_eq!(p.query(0, 0, &vcpu(0))[A], 0xd);
    assert_eq!(p.query(4, 0, &vcpu(0))[A], 0x1c00_4121 & 0x3fff | 1 << 14 | 7 << 26);
    assert_eq!(p.query(4, 1, &vcpu(0))[A], 0x1c03_c163 & 0x3fff | 7 << 14 | 7 << 26);
    assert_eq!(p.query(4, 2, &vcpu(0)), ZERO);
    assert_eq!(p.query(0x8000_0001, 0, &vcpu(0))[D] & COMMON_1D & !Feature::SYSCALL.mask(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the toolstack writes, the result is within the maximum or refused, and every query answers.
    #[test]
    fn random_policies(leaves in prop::collection::vec((0usize..60, any::<[u32; 4]>()), 0..20), query: u32, sub: u32) {
        let maximum = policy(Kind::Maximum, 1);
        let mut p = policy(Kind::Default, 2);
        let all: Vec<_> = p.leaves().collect();
        for (n, registers) in leaves {
            if let Some(leaf) = all.get(n) {
                p.set_leaf(PolicyLeaf { registers, ..*leaf }).unwrap();
            }
        }
        let on = Dynamic { cr4: u64::MAX, xcr0: u64::MAX, ..vcpu(1) };
        for leaf in (0..0x20).chain(0x8000_0000..0x8000_0030).chain([query]) {
            let _ = p.query(leaf, sub, &on);
        }
        if p.restrict(&maximum).is_ok() {
            prop_assert_eq!(p.xcr0_mask() & !maximum.xcr0_mask(), 0);
            prop_assert!(p.query(0xd, 0, &on)[B] <= maximum.query(0xd, 0, &on)[C]);
            prop_assert!(p.has(Feature::HYPERVISOR));
            prop_assert!(!p.has(Feature::SVM));
            let mut again = p.clone();
            again.restrict(&maximum).unwrap();
            prop_assert_eq!(again, p);
        }
    }
}
