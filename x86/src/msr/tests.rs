//! Tests of the MSR policy.

use super::*;
use crate::cpuid::{HostCpuid, Kind, XenLeaves};
use proptest::prelude::*;

struct Host {
    intel: bool,
    /// 0x80000008 EBX.
    e8b: u32,
}

impl HostCpuid for Host {
    fn cpuid(&self, leaf: u32, _: u32) -> [u32; 4] {
        let vendor = if self.intel { *b"Genu" } else { *b"Auth" };
        match leaf {
            0 => [0xd, u32::from_le_bytes(vendor), 0, 0],
            1 => [0x0080_0f12, 0, u32::MAX, u32::MAX],
            7 => [0, u32::MAX, 0, 0],
            0xd => [7, 0, 0, 0],
            0x8000_0000 => [0x8000_0021, 0, 0, 0],
            0x8000_0001 => [0, 0, u32::MAX, u32::MAX],
            0x8000_0008 => [0x3028, self.e8b, 0, 0],
            _ => [0; 4],
        }
    }
}

fn cpuid(intel: bool, e8b: u32) -> CpuidPolicy {
    let xen = XenLeaves { version: 0, hvm_flags: 0, domain: 1, machine_address_bits: 40 };
    CpuidPolicy::new(&Host { intel, e8b }, Kind::Default, 7, 2, xen)
}

#[derive(Default)]
struct Fake {
    control: Control,
    switched: [u64; 16],
    bases: [u64; 16],
}

impl Registers for Fake {
    fn control(&self) -> Control {
        self.control
    }
    fn set_efer(&mut self, value: u64) {
        self.control.efer = value;
    }
    fn switched(&self, which: SwitchedMsr) -> u64 {
        self.switched[which as usize]
    }
    fn set_switched(&mut self, which: SwitchedMsr, value: u64) {
        self.switched[which as usize] = value;
    }
    fn base(&self, segment: SegmentName) -> u64 {
        self.bases[segment as usize]
    }
    fn set_base(&mut self, segment: SegmentName, value: u64) {
        self.bases[segment as usize] = value;
    }
}

struct Vcpu {
    state: MsrState,
    registers: Fake,
    cpuid: CpuidPolicy,
}

impl Vcpu {
    fn amd() -> Vcpu {
        Vcpu {
            state: MsrState::new(MsrPolicy { microcode: 0x0830_1055, cpuid_faulting: true, relaxed: false }),
            registers: Fake::default(),
            cpuid: cpuid(false, u32::MAX),
        }
    }
    fn get(&self, number: u32) -> Result<Read, GeneralProtection> {
        self.state.read(number, &self.cpuid, &self.registers)
    }
    fn set(&mut self, number: u32, value: u64) -> Result<Effect, GeneralProtection> {
        self.state.write(number, value, &self.cpuid, &mut self.registers)
    }
    fn value(&self, number: u32) -> u64 {
        match self.get(number) {
            Ok(Read::Value(v)) => v,
            other => panic!("{number:#x}: {other:?}"),
        }
    }
    /// Writes and reads back.
    fn holds(&mut self, number: u32, value: u64) {
        assert_eq!(self.set(number, value), Ok(Effect::None), "{number:#x}");
        assert_eq!(self.value(number), value, "{number:#x}");
    }
    fn refuses(&mut self, number: u32, value: u64) {
        let before = (self.state.clone(), self.registers.switched, self.registers.control);
        assert_eq!(self.set(number, value), Err(GeneralProtection), "{number:#x} = {value:#x}");
        assert_eq!(before, (self.state.clone(), self.registers.switched, self.registers.control));
    }
}

const NOT_CANONICAL: u64 = 0x8000_0000_0000;

#[test]
fn switched_registers() {
    let mut v = Vcpu::amd();
    v.holds(msr::STAR, 0x23_0010_0000_0000);
    v.holds(msr::SFMASK, 0x47700);
    v.holds(msr::SYSENTER_CS, 0x10);
    for number in
        [msr::LSTAR, msr::CSTAR, msr::KERNEL_GS_BASE, msr::SYSENTER_ESP, msr::SYSENTER_EIP, msr::FS_BASE, msr::GS_BASE]
    {
        v.holds(number, 0xffff_8000_1234_5678);
        v.refuses(number, NOT_CANONICAL);
    }
    assert_ne!(v.registers.bases[SegmentName::Fs as usize], 0);
    v.holds(msr::TSC_AUX, 0xffff_ffff);
    v.refuses(msr::TSC_AUX, 1 << 32);
    v.holds(msr::PAT, 0x0007_0406_0007_0401);
    v.refuses(msr::PAT, 0x0007_0406_0007_0402);
    v.refuses(msr::PAT, 8);
    v.holds(msr::DEBUGCTL, 2);
    v.refuses(msr::DEBUGCTL, 4);
}

#[test]
fn efer_rules() {
    let mut v = Vcpu::amd();
    assert_eq!(v.set(msr::EFER, efer::LME | efer::SCE | efer::NXE), Ok(Effect::Efer));
    assert_eq!(v.value(msr::EFER), efer::LME | efer::SCE | efer::NXE);
    v.registers.control.cr0 = cr0::PG;
    v.registers.control.efer |= efer::LMA;
    v.refuses(msr::EFER, efer::SCE);
    assert_eq!(v.set(msr::EFER, efer::LME | efer::NXE), Ok(Effect::Efer));
    assert_eq!(v.value(msr::EFER), efer::LME | efer::LMA | efer::NXE, "LMA is kept");
    v.refuses(msr::EFER, v.value(msr::EFER) | efer::SVME);
    v.refuses(msr::EFER, v.value(msr::EFER) | 1 << 13);
    v.refuses(msr::EFER, v.value(msr::EFER) | 1 << 63);
}

#[test]
fn memory_type_ranges() {
    let mut v = Vcpu::amd();
    assert_eq!(v.value(msr::MTRR_CAP), 0x508);
    v.refuses(msr::MTRR_CAP, 0x508);
    v.holds(msr::MTRR_DEF_TYPE, 0xc06);
    v.refuses(msr::MTRR_DEF_TYPE, 0xc02);
    v.refuses(msr::MTRR_DEF_TYPE, 0x1000);
    for number in [0x250, 0x258, 0x259, 0x268, 0x26b, 0x26f] {
        v.holds(number, 0x0606_0606_0505_0400);
        v.refuses(number, 0x0606_0306_0505_0400);
    }
    for n in 0..8 {
        v.holds(0x200 + 2 * n, 0xf0_0000_0006);
        v.holds(0x201 + 2 * n, 0xff_c000_0800);
    }
    v.refuses(0x200, 1 << 40);
    v.refuses(0x201, 0x400);
    for absent in [0x210, 0x211, 0x251, 0x260, 0x270, 0x2fe] {
        assert_eq!(v.get(absent), Err(GeneralProtection), "{absent:#x}");
        v.refuses(absent, 0);
    }
    assert_eq!(MemoryTypes::write_back().read(msr::MTRR_DEF_TYPE), Some(0x806));
}

#[test]
fn memory_types_of_the_machine() {
    // As SeaBIOS leaves them: all write-back, but for the hole below 4 GiB and the areas below 1 MiB.
    let machine = |number| match number {
        msr::MTRR_CAP => Some(0x50a),
        msr::MTRR_DEF_TYPE => Some(0xc06),
        0x250 | 0x258 => Some(0x0606_0606_0606_0606),
        0x259 => Some(0),
        0x268..=0x26f => Some(0x0505_0505_0505_0505),
        0x200 => Some(0xc000_0000),
        0x201 => Some(0xff_c000_0800),
        0x210 => Some(6),
        0x202..=0x213 => Some(0),
        _ => None,
    };
    let types = MemoryTypes::of_machine(machine);
    let expected = [(0x2ff, 0xc06), (0x250, 0x0606_0606_0606_0606), (0x259, 0), (0x26f, 0x0505_0505_0505_0505)];
    for (number, value) in expected.into_iter().chain([(0x200, 0xc000_0000), (0x201, 0xff_c000_0800), (0x20f, 0)]) {
        assert_eq!(types.read(number), Some(value), "{number:#x}");
    }
    assert_eq!(types.read(0x210), None, "there are eight variable ranges");
    assert_eq!(types.read(msr::SYSCFG), None, "this machine is not AMD's");
    // AMD's firmware leaves memory above 4 GiB to TOP_MEM2 where it can.
    let with = |syscfg| {
        move |number| match number {
            msr::SYSCFG => Some(syscfg),
            msr::TOP_MEM2 => Some(0x8_5000_0000),
            _ => machine(number),
        }
    };
    let mut v = Vcpu::amd();
    v.state.memory_types = MemoryTypes::of_machine(with(0x74_0000));
    assert_eq!((v.value(msr::SYSCFG), v.value(msr::TOP_MEM2)), (0x60_0000, 0x8_5000_0000));
    assert_eq!(v.set(msr::SYSCFG, 0), Ok(Effect::None));
    assert_eq!(v.set(msr::TOP_MEM2, 0), Ok(Effect::None));
    assert_eq!((v.value(msr::SYSCFG), v.value(msr::TOP_MEM2)), (0x60_0000, 0x8_5000_0000));
    v.state.memory_types = MemoryTypes::of_machine(with(0x30_0000));
    assert_eq!((v.value(msr::SYSCFG), v.value(msr::TOP_MEM2)), (0, 0), "not in force");
    // Switched off, or none at all.
    assert_eq!(MemoryTypes::of_machine(|n| (n == msr::MTRR_DEF_TYPE).then_some(6)), MemoryTypes::write_back());
    assert_eq!(MemoryTypes::of_machine(|_| None), MemoryTypes::write_back());
}

#[test]
fn handed_on() {
    let mut v = Vcpu::amd();
    assert_eq!(v.get(msr::TSC), Ok(Read::Tsc));
    assert_eq!(v.set(msr::TSC, 7), Ok(Effect::Tsc(7)));
    assert_eq!(v.get(msr::APIC_BASE), Ok(Read::ApicBase));
    assert_eq!(v.set(msr::APIC_BASE, 0xfee0_0900), Ok(Effect::ApicBase(0xfee0_0900)));
    assert_eq!(v.set(msr::TSC_DEADLINE, 9), Ok(Effect::TscDeadline(9)));
    assert_eq!(v.get(msr::TSC_DEADLINE), Ok(Read::TscDeadline));
    assert_eq!(v.get(0x802), Ok(Read::X2Apic(0x802)));
    assert_eq!(v.set(0x830, 5), Ok(Effect::X2Apic(0x830, 5)));
    assert_eq!(v.set(0x4000_0000, 0x1234_5000), Ok(Effect::HypercallPage(Gfn(0x12345))));
    v.refuses(0x4000_0000, 0x1234_5001);
    v.refuses(0x4000_0001, 0);
}

#[test]
fn time_stamp_adjustment() {
    let mut v = Vcpu::amd();
    assert_eq!(v.set(msr::TSC_ADJUST, 100), Ok(Effect::TscAdd(100)));
    v.state.moved_tsc(u64::MAX);
    assert_eq!(v.value(msr::TSC_ADJUST), 99);
    assert_eq!(v.set(msr::TSC_ADJUST, 0), Ok(Effect::TscAdd(99_u64.wrapping_neg())));
}

#[test]
fn speculation_controls() {
    let mut v = Vcpu::amd();
    assert_eq!(v.set(msr::SPEC_CTRL, 0x87), Ok(Effect::SpecCtrl(0x87)));
    assert_eq!(v.value(msr::SPEC_CTRL), 0x87);
    v.refuses(msr::SPEC_CTRL, 8);
    assert_eq!(v.set(msr::PRED_CMD, 1), Ok(Effect::PredCmd(1)));
    assert_eq!(v.set(msr::PRED_CMD, 0), Ok(Effect::None));
    assert_eq!(v.get(msr::PRED_CMD), Err(GeneralProtection));
    v.refuses(msr::PRED_CMD, 2);
    v.refuses(0xc001_011f, 0);
    v.cpuid = cpuid(false, 1 << 12); // IBPB alone
    v.refuses(msr::SPEC_CTRL, 0);
    assert_eq!(v.get(msr::SPEC_CTRL), Err(GeneralProtection));
    assert_eq!(v.set(msr::PRED_CMD, 1), Ok(Effect::PredCmd(1)));
    v.cpuid = cpuid(false, 0);
    v.refuses(msr::PRED_CMD, 1);
}

#[test]
fn cpuid_faulting() {
    let mut v = Vcpu::amd();
    assert_eq!(v.value(msr::PLATFORM_INFO), PLATFORM_CPUID_FAULTING);
    assert!(!v.state.cpuid_faults(3));
    v.holds(msr::MISC_FEATURES_ENABLES, 1);
    assert!(v.state.cpuid_faults(3) && !v.state.cpuid_faults(0));
    v.refuses(msr::MISC_FEATURES_ENABLES, 2);
    v.state = MsrState::new(MsrPolicy::default());
    v.refuses(msr::MISC_FEATURES_ENABLES, 0);
    assert_eq!(v.get(msr::PLATFORM_INFO), Err(GeneralProtection));
}

/// What Linux 6.1 touches on a Zen processor without catching faults.
#[test]
fn linux_on_zen_sees_no_fault() {
    let mut v = Vcpu::amd();
    assert_eq!(v.value(msr::PATCH_LEVEL), 0x0830_1055);
    assert_eq!(v.value(msr::HWCR), HWCR_TSC_FREQ_SEL);
    assert_eq!(v.value(msr::DE_CFG), DE_CFG_LFENCE);
    assert_eq!(v.value(msr::MCG_CAP), 0);
    v.holds(msr::MCG_STATUS, 0);
    for number in [
        msr::SYSCFG,
        msr::TOP_MEM,
        msr::TOP_MEM2,
        msr::NB_CFG,
        msr::INT_PENDING,
        0xc001_0000,
        0xc001_0004,
        0xc001_0200,
        0x400,
        0x401,
        0x47f,
        msr::MMIO_CONF_BASE,
    ] {
        assert_eq!(v.value(number), 0, "{number:#x}");
        assert_eq!(v.set(number, 1 << 46), Ok(Effect::None), "{number:#x}");
        assert_eq!(v.value(number), 0, "{number:#x}");
    }
    for number in [msr::HWCR, msr::DE_CFG, msr::PATCH_LOADER] {
        assert_eq!(v.set(number, u64::MAX), Ok(Effect::None));
    }
    assert_eq!(v.value(msr::HWCR), HWCR_TSC_FREQ_SEL);
}

#[test]
fn relaxed_is_unknown_reads_zero() {
    let mut v = Vcpu::amd();
    let unknown = [0xc001_1020, 0x1fff, 0x34];
    for number in unknown {
        v.refuses(number, 1);
        assert_eq!(v.get(number), Err(GeneralProtection), "{number:#x}");
    }
    v.state = MsrState::new(MsrPolicy { relaxed: true, ..MsrPolicy::default() });
    for number in unknown {
        assert_eq!(v.set(number, u64::MAX), Ok(Effect::None), "{number:#x}");
        assert_eq!(v.value(number), 0, "{number:#x}");
    }
    // No processor has them; and what is known stays as it is.
    for number in [0x2000, 0x4000_0001, 0xc000_2000, 0xc001_2000, u32::MAX] {
        v.refuses(number, 0);
        assert_eq!(v.get(number), Err(GeneralProtection), "{number:#x}");
    }
    v.refuses(msr::LSTAR, NOT_CANONICAL);
}

#[test]
fn unknown_and_other_vendor() {
    let mut v = Vcpu::amd();
    // LS_CFG and VM_CR among them: a kernel that can read them believes it may write them.
    for number in [
        0xc001_1020,
        0xc001_0114,
        0xc001_0117,
        0x1a0,
        0x3a,
        0x17,
        0x10a,
        0x10b,
        0xd90,
        0x17b,
        0x480,
        0x900,
        0xc000_2000,
        0xc001_0140,
        0xc001_1027,
        0xc001_0061,
        0xe7,
        0xe8,
        0x606,
        u32::MAX,
    ] {
        assert_eq!(v.get(number), Err(GeneralProtection), "{number:#x}");
        v.refuses(number, 0);
    }
    v.cpuid = cpuid(true, 0);
    assert_eq!(v.value(msr::MISC_ENABLE), MISC_ENABLE_VALUE);
    assert_eq!(v.value(msr::FEATURE_CONTROL), 1);
    v.refuses(msr::FEATURE_CONTROL, 5);
    for number in [msr::HWCR, msr::SYSCFG, msr::DE_CFG, msr::K7_EVNTSEL0] {
        assert_eq!(v.get(number), Err(GeneralProtection), "{number:#x}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A write that succeeds leaves a readable state; one that fails changes nothing.
    #[test]
    fn random_accesses(accesses in prop::collection::vec((prop_oneof![0u32..0x900, 0xc000_0080u32..0xc000_0110,
        0xc001_0000u32..0xc001_0300, 0xc001_1000u32..0xc001_1100, any::<u32>()], any::<u64>(), any::<bool>()), 0..60)) {
        let mut v = Vcpu::amd();
        for (number, value, small) in accesses {
            let value = if small { value & 0x7f } else { value };
            let before = (v.state.clone(), v.registers.switched, v.registers.control);
            let result = v.set(number, value);
            if result.is_err() {
                prop_assert_eq!(&before, &(v.state.clone(), v.registers.switched, v.registers.control));
            } else if ![msr::PRED_CMD, msr::PATCH_LOADER].contains(&number) {
                prop_assert!(v.get(number).is_ok(), "{:#x}", number);
            }
        }
    }
}
