//! Register files: reset values, modes, reserved bits, priorities, EOI, errors.

use super::*;

#[test]
fn reset_values() {
    let mut l = Lapic::new(5, false, OFFERED);
    let mut read = |offset| l.mmio_read(offset, 4, T0);
    assert_eq!(read(0x20), 5 << 24);
    assert_eq!(read(0x30), 0x0005_0014);
    assert_eq!(read(0x80), 0);
    assert_eq!(read(0xd0), 0);
    assert_eq!(read(0xe0), 0xffff_ffff);
    assert_eq!(read(0xf0), 0xff);
    for lvt in 0x32..0x38 {
        assert_eq!(read(lvt << 4), 0x1_0000);
    }
    assert_eq!(l.base_msr(), 0xfee0_0800);
    assert_eq!(Lapic::new(0, true, OFFERED).base_msr(), 0xfee0_0900);
}

#[test]
fn mode_changes() {
    const DISABLED: u64 = 0xfee0_0000;
    const XAPIC: u64 = 0xfee0_0800;
    const X2APIC: u64 = 0xfee0_0c00;
    let mut l = Lapic::new(0, false, OFFERED);
    let gp = Err(GeneralProtection);
    assert_eq!(l.set_base_msr(0xfee0_0400), gp, "x2APIC without enable");
    assert_eq!(l.set_base_msr(XAPIC), Ok(Effect::None));
    assert_eq!(l.set_base_msr(DISABLED), Ok(Effect::Mode));
    assert_eq!(l.set_base_msr(X2APIC), gp, "disabled to x2APIC");
    assert_eq!(l.set_base_msr(XAPIC), Ok(Effect::Mode));
    assert_eq!(l.set_base_msr(X2APIC), Ok(Effect::Mode));
    assert_eq!(l.set_base_msr(XAPIC), gp, "x2APIC to xAPIC");
    assert_eq!(l.base_msr(), X2APIC);
    assert_eq!(l.set_base_msr(DISABLED), Ok(Effect::Mode));
    assert_eq!(l.set_base_msr(XAPIC), Ok(Effect::Mode));
}

#[test]
fn base_msr_reserved_bits_and_address() {
    let mut l = Lapic::new(0, false, OFFERED);
    for bit in (0..8).chain([9]).chain(12..21).chain(32..64) {
        assert_eq!(l.set_base_msr(0xfee0_0800 ^ 1 << bit), Err(GeneralProtection), "bit {bit}");
    }
    // Whether this is the boot processor cannot be rewritten.
    assert_eq!(l.set_base_msr(0xfee0_0900), Ok(Effect::None));
    assert_eq!(l.base_msr(), 0xfee0_0800);
}

#[test]
fn x2apic_must_be_offered() {
    let mut l = Lapic::new(0, false, LapicConfig { x2apic: false, tsc_deadline: false });
    assert_eq!(l.set_base_msr(0xfee0_0c00), Err(GeneralProtection));
}

#[test]
fn disabling_resets() {
    let mut l = xapic(3);
    edge(&mut l, 0x40);
    l.set_tpr(0x20);
    assert_eq!(l.set_base_msr(0xfee0_0000), Ok(Effect::Mode));
    assert_eq!(l.highest_pending(), None);
    assert!(l.accepts_pic());
    assert_eq!(l.mmio_read(0x80, 4, T0), u64::MAX, "no registers while disabled");
    assert_eq!(l.set_base_msr(0xfee0_0800), Ok(Effect::Mode));
    assert_eq!(l.mmio_read(0x80, 4, T0), 0);
    assert_eq!(l.mmio_read(0xf0, 4, T0), 0xff);
}

#[test]
fn each_mode_has_one_interface() {
    let mut l = xapic(0);
    assert_eq!(l.msr_read(0x802, T0), Err(GeneralProtection));
    assert_eq!(l.msr_write(0x808, 0, T0), Err(GeneralProtection));
    let mut l = x2apic(0);
    assert_eq!(l.mmio_read(0x20, 4, T0), u64::MAX);
    assert_eq!(l.mmio_write(0x80, 4, 0x30, T0), Effect::None);
    assert_eq!(l.tpr(), 0);
}

#[test]
fn x2apic_registers_that_exist() {
    let mut l = x2apic(0x123);
    let readable: &[u32] = &[2, 3, 8, 0xa, 0xd, 0xf, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3e];
    let writable: &[u32] = &[8, 0xb, 0xf, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e];
    for n in 0..0x100 {
        let read = readable.contains(&n) || (0x10..0x28).contains(&n);
        assert_eq!(l.msr_read(0x800 + n, T0).is_ok(), read, "read {n:#x}");
        if n != 0x3f {
            assert_eq!(l.msr_write(0x800 + n, 0, T0).is_ok(), writable.contains(&n), "write {n:#x}");
        }
    }
    assert_eq!(l.msr_write(0x83f, 0x31, T0), Ok(Effect::None));
    assert_eq!(l.msr_read(0x802, T0), Ok(0x123));
    assert_eq!(l.msr_read(0x80d, T0), Ok(0x12 << 16 | 1 << 3));
}

#[test]
fn x2apic_reserved_bits() {
    let mut l = x2apic(0);
    for (n, allowed) in [
        (0x8, 0xff),
        (0xb, 0),
        (0xf, 0x3ff),
        (0x28, 0),
        (0x30, 0xffff_ffff_000c_dfffu64),
        (0x32, 0x7_50ff),
        (0x33, 0x1_57ff),
        (0x34, 0x1_57ff),
        (0x35, 0x1_f7ff),
        (0x36, 0x1_f7ff),
        (0x37, 0x1_50ff),
        (0x38, 0xffff_ffff),
        (0x3e, 0b1011),
        (0x3f, 0xff),
    ] {
        for bit in 0..64 {
            let ok = l.msr_write(0x800 + n, 1 << bit, T0).is_ok();
            assert_eq!(ok, allowed & 1 << bit != 0, "register {n:#x} bit {bit}");
        }
    }
}

#[test]
fn xapic_drops_reserved_bits() {
    let mut l = xapic(0);
    for (offset, value) in [
        (0x80, 0xff),
        (0xd0, 0xff00_0000),
        (0xe0, 0xffff_ffff),
        (0xf0, 0x3ff),
        (0x310, 0xff00_0000u64),
        (0x320, 0x7_00ff),
        (0x330, 0x1_07ff),
        (0x350, 0x1_a7ff),
        (0x370, 0x1_00ff),
        (0x3e0, 0b1011),
    ] {
        let _ = l.mmio_write(offset, 4, u32::MAX, T0);
        assert_eq!(l.mmio_read(offset, 4, T0), value, "offset {offset:#x}");
    }
}

#[test]
fn xapic_access_sizes() {
    let mut l = xapic(0xab);
    assert_eq!(l.mmio_read(0x23, 1, T0), 0xab);
    assert_eq!(l.mmio_read(0x22, 2, T0), 0xab00);
    assert_eq!(l.mmio_read(0x20, 8, T0), 0xab00_0000);
    assert_eq!(l.mmio_read(0x28, 4, T0), 0);
    assert_eq!(l.mmio_write(0x80, 1, 0x30, T0), Effect::None);
    assert_eq!(l.mmio_write(0x84, 4, 0x30, T0), Effect::None);
    assert_eq!(l.tpr(), 0);
}

#[test]
fn priorities() {
    let mut l = xapic(0);
    edge(&mut l, 0x41);
    edge(&mut l, 0x92);
    assert_eq!(l.highest_pending(), Some(0x92));
    l.accept(0x92);
    assert_eq!(l.ppr(), 0x90);
    assert_eq!(l.highest_pending(), None);
    edge(&mut l, 0x9f);
    assert_eq!(l.highest_pending(), None, "same class");
    edge(&mut l, 0xa0);
    assert_eq!(l.highest_pending(), Some(0xa0));
    l.accept(0xa0);
    assert_eq!(l.eoi(), Effect::None);
    assert_eq!(l.ppr(), 0x90);
    assert_eq!(l.eoi(), Effect::None);
    assert_eq!(l.highest_pending(), Some(0x9f));
    l.set_tpr(0x95);
    assert_eq!(l.ppr(), 0x95);
    assert_eq!(l.highest_pending(), None);
    assert_eq!(l.highest_ignoring_tpr(), Some(0x9f));
    l.set_tpr(0x8f);
    assert_eq!(l.highest_pending(), Some(0x9f));
}

#[test]
fn task_priority_within_the_class_in_service() {
    let mut l = xapic(0);
    edge(&mut l, 0x45);
    l.accept(0x45);
    l.set_tpr(0x42);
    assert_eq!(l.ppr(), 0x42, "equal classes: the TPR with its sub-class");
    l.set_tpr(0x3f);
    assert_eq!(l.ppr(), 0x40);
}

#[test]
fn pending_and_in_service_at_once() {
    let mut l = xapic(0);
    edge(&mut l, 0x50);
    l.accept(0x50);
    edge(&mut l, 0x50);
    assert_eq!(l.highest_pending(), None);
    assert_eq!(l.eoi(), Effect::None);
    assert_eq!(l.highest_pending(), Some(0x50));
}

#[test]
fn level_eoi_is_reported() {
    let mut l = xapic(0);
    l.shared().post(0x60, Trigger::Level);
    assert_eq!(l.highest_pending(), Some(0x60));
    assert_eq!(l.mmio_read(0x180 + 0x30, 4, T0), 1, "TMR bit");
    l.accept(0x60);
    assert_eq!(l.mmio_write(0xb0, 4, 0, T0), Effect::LevelEoi(0x60));
    assert_eq!(l.eoi(), Effect::None, "nothing in service");
    edge(&mut l, 0x60);
    let _ = l.highest_pending();
    l.accept(0x60);
    assert_eq!(l.eoi(), Effect::None, "edge again");
}

#[test]
fn bitmap_registers() {
    let mut l = x2apic(0);
    edge(&mut l, 0x21);
    edge(&mut l, 0xff);
    assert_eq!(l.msr_read(0x821, T0), Ok(2));
    assert_eq!(l.msr_read(0x827, T0), Ok(1 << 31));
    l.accept(0xff);
    assert_eq!(l.msr_read(0x827, T0), Ok(0));
    assert_eq!(l.msr_read(0x817, T0), Ok(1 << 31));
    assert_eq!(l.msr_read(0x80a, T0), Ok(0xf0));
}

#[test]
fn software_disable() {
    let mut l = xapic(0);
    edge(&mut l, 0x40);
    let _ = l.mmio_write(0x370, 4, 0xfe, T0);
    let _ = l.mmio_write(0xf0, 4, 0xff, T0);
    assert_eq!(l.mmio_read(0x370, 4, T0), 0x1_00fe, "LVT entries are masked");
    let _ = l.mmio_write(0x370, 4, 0xfe, T0);
    assert_eq!(l.mmio_read(0x370, 4, T0), 0x1_00fe, "and cannot be unmasked");
    assert!(!l.shared().post(0x41, Trigger::Edge));
    assert_eq!(l.highest_pending(), Some(0x40), "what was requested stays");
    let _ = l.mmio_write(0xf0, 4, 0x1ff, T0);
    assert_eq!(l.highest_pending(), Some(0x40));
    assert_eq!(l.mmio_read(0x370, 4, T0), 0x1_00fe, "still masked");
}

#[test]
fn illegal_vectors() {
    let mut l = xapic(0);
    let _ = l.mmio_write(0x370, 4, 0xfe, T0);
    assert!(l.shared().post(0x0f, Trigger::Edge));
    assert_eq!(l.highest_pending(), Some(0xfe), "error interrupt");
    assert_eq!(l.mmio_read(0x280, 4, T0), 0, "latched by a write only");
    assert_eq!(l.mmio_write(0x280, 4, 0, T0), Effect::None);
    assert_eq!(l.mmio_read(0x280, 4, T0), 1 << 6);
    assert_eq!(l.mmio_write(0x300, 4, 0x0004_000f, T0), Effect::None);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 1 << 5);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 0);
}

#[test]
fn illegal_error_vector_ends() {
    let mut l = xapic(0);
    let _ = l.mmio_write(0x370, 4, 0x05, T0);
    l.shared().post(0x01, Trigger::Edge);
    assert_eq!(l.highest_pending(), None);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 1 << 6);
}

#[test]
fn illegal_register() {
    let mut l = xapic(0);
    assert_eq!(l.mmio_read(0x40, 4, T0), 0);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 1 << 7);
    let _ = l.mmio_write(0x3f0, 4, 0, T0);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 1 << 7);
    let _ = l.mmio_write(0x30, 4, 0, T0);
    let _ = l.mmio_write(0x280, 4, 0, T0);
    assert_eq!(l.mmio_read(0x280, 4, T0), 0, "a read-only register exists");
}

#[test]
fn local_sources() {
    let mut l = xapic(0);
    assert!(!l.accepts_pic());
    let _ = l.mmio_write(0x350, 4, 0x700, T0);
    assert!(l.accepts_pic());
    let _ = l.mmio_write(0x360, 4, 0x400, T0);
    assert!(l.raise(LocalSource::Lint1), "NMI");
    let _ = l.mmio_write(0x340, 4, 0x4e, T0);
    assert!(!l.raise(LocalSource::Performance));
    assert_eq!(l.highest_pending(), Some(0x4e));
    assert!(!l.raise(LocalSource::Thermal), "masked");
    assert!(!l.raise(LocalSource::Lint0), "ExtINT is the 8259's");
    assert_eq!(l.highest_pending(), Some(0x4e));
}

#[test]
fn init_keeps_identity_and_mode() {
    let mut l = x2apic(7);
    edge(&mut l, 0x44);
    l.set_tpr(0x50);
    l.init();
    assert_eq!(l.mode(), ApicMode::X2Apic);
    assert_eq!(l.msr_read(0x802, T0), Ok(7));
    assert_eq!(l.msr_read(0x80f, T0), Ok(0xff));
    assert_eq!(l.tpr(), 0);
    assert_eq!(l.highest_pending(), None);
}
