//! Saved state.

use super::*;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

#[test]
fn round_trip() {
    let mut a = x2apic(6);
    a.shared().post(0x33, Trigger::Level);
    edge(&mut a, 0x91);
    let _ = a.highest_pending();
    a.accept(0x91);
    a.set_tpr(0x20);
    for (msr, value) in
        [(0x830, 0x5_0000_00fdu64), (0x835, 0x1_0700), (0x832, 2 << 17 | 0xec), (0x837, 0xfe), (0x83e, 3)]
    {
        assert!(a.msr_write(msr, value, T0).is_ok());
    }
    let _ = a.set_tsc_deadline(7000, &tsc(T0));

    let (record, page) = (a.save(), a.save_registers(T0));
    assert_eq!(u32_at(&record, 0), 0xfee0_0c00);
    assert_eq!(u32_at(&record, 8), 0);
    assert_eq!(u32_at(&record, 12), 16);
    assert_eq!(u32_at(&record, 16), 7000);
    assert_eq!(u32_at(&page, 0x20), 6);
    assert_eq!(u32_at(&page, 0x210), 1 << 19);
    assert_eq!(u32_at(&page, 0x190), 1 << 19);
    assert_eq!(u32_at(&page, 0x140), 1 << 17);
    assert_eq!(u32_at(&page, 0xa0), 0x90);

    let later = Nanoseconds(99_000_000);
    let mut b = Lapic::new(6, false, OFFERED);
    b.restore(&record, &page, &tsc(later)).unwrap();
    assert_eq!(b.save(), record);
    assert_eq!(b.save_registers(later), page);
    assert_eq!(b.mode(), ApicMode::X2Apic);
    assert!(b.shared().is_software_enabled());
    assert_eq!(b.ppr(), 0x90);
    let due = b.next_deadline().unwrap().0 - later.0;
    assert!((2000..2003).contains(&due));
    let _ = b.eoi();
    assert_eq!(b.highest_pending(), Some(0x33));
    b.accept(0x33);
    assert_eq!(b.eoi(), Effect::LevelEoi(0x33));
}

#[test]
fn a_running_timer_goes_on() {
    let mut a = xapic(0);
    let _ = a.mmio_write(0x320, 4, 0xec, T0);
    let _ = a.mmio_write(0x3e0, 4, 0b1011, T0);
    let _ = a.mmio_write(0x380, 4, 1000, T0);
    let half = Nanoseconds(T0.0 + 5_000);
    let (record, page) = (a.save(), a.save_registers(half));
    let mut b = Lapic::new(0, true, OFFERED);
    b.restore(&record, &page, &tsc(Nanoseconds(70_000))).unwrap();
    assert_eq!(b.next_deadline(), Some(Nanoseconds(75_000)));
    assert_eq!(b.mmio_read(0x380, 4, Nanoseconds(70_000)), 1000);
}

#[test]
fn states_that_cannot_be_are_refused() {
    let mut a = xapic(0);
    let page = a.save_registers(T0);
    for base in [0xfee0_0400u64, 0xfed0_0800, 0xfee0_0801, 0xfee0_0c00] {
        let mut record = a.save();
        record[..8].copy_from_slice(&base.to_le_bytes());
        let mut b = Lapic::new(0, true, LapicConfig { x2apic: false, tsc_deadline: true });
        b.set_tpr(0x44);
        assert_eq!(b.restore(&record, &page, &tsc(T0)), Err(InvalidState), "{base:#x}");
        assert_eq!(b.tpr(), 0x44, "unchanged");
    }
}

#[test]
fn hostile_registers_are_cut_to_size() {
    let mut a = xapic(0);
    let page = [0xff; HVM_LAPIC_REGS_SIZE];
    let record = a.save();
    a.restore(&record, &page, &tsc(T0)).unwrap();
    assert_eq!(a.mmio_read(0xf0, 4, T0), 0x3ff);
    assert_eq!(a.mmio_read(0x100, 4, T0), 0xffff_0000, "vectors 0 to 15 cannot be in service");
    assert_eq!(a.mmio_read(0x350, 4, T0), 0x1_a7ff);
    assert_eq!(a.next_deadline(), None);
    assert_eq!(a.highest_pending(), None);
}
