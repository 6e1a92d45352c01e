//! The APIC timer.

use super::*;
use proptest::prelude::*;

const TIMER: u16 = 0x320;
const INITIAL: u16 = 0x380;
const CURRENT: u16 = 0x390;
const DIVIDE: u16 = 0x3e0;

fn at(ns: u64) -> Nanoseconds {
    Nanoseconds(T0.0 + ns)
}

fn started(mode: u32, divide: u32, initial: u32) -> Lapic {
    let mut l = xapic(0);
    assert_eq!(l.mmio_write(TIMER, 4, mode << 17 | 0xec, T0), Effect::Timer);
    assert_eq!(l.mmio_write(DIVIDE, 4, divide, T0), Effect::Timer);
    assert_eq!(l.mmio_write(INITIAL, 4, initial, T0), Effect::Timer);
    l
}

fn take(l: &mut Lapic) -> bool {
    match l.highest_pending() {
        Some(v) => {
            l.accept(v);
            let _ = l.eoi();
            true
        }
        None => false,
    }
}

#[test]
fn divisors() {
    for (bits, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        let l = started(0, bits, 100);
        assert_eq!(l.next_deadline(), Some(at(100 * 10 * divisor)), "{bits:#b}");
    }
}

#[test]
fn one_shot() {
    let mut l = started(0, 0b1011, 1000);
    assert_eq!(l.mmio_read(CURRENT, 4, T0), 1000);
    assert_eq!(l.mmio_read(CURRENT, 4, at(15)), 999);
    assert_eq!(l.next_deadline(), Some(at(10_000)));
    l.run_timer(at(9_999));
    assert!(!take(&mut l));
    l.run_timer(at(10_000));
    assert!(take(&mut l));
    assert_eq!(l.next_deadline(), None);
    assert_eq!(l.mmio_read(CURRENT, 4, at(10_001)), 0);
    l.run_timer(at(1_000_000));
    assert!(!take(&mut l));
    let _ = l.mmio_write(INITIAL, 4, 5, at(2_000_000));
    assert_eq!(l.next_deadline(), Some(at(2_000_050)));
}

#[test]
fn zero_stops() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(INITIAL, 4, 0, at(5));
    assert_eq!(l.next_deadline(), None);
    assert_eq!(l.mmio_read(CURRENT, 4, at(6)), 0);
}

#[test]
fn periodic() {
    let mut l = started(1, 0b1011, 100_000);
    for n in 1..4u64 {
        assert_eq!(l.next_deadline(), Some(at(n * 1_000_000)));
        l.run_timer(at(n * 1_000_000 + 7));
        assert!(take(&mut l));
        assert_eq!(l.mmio_read(CURRENT, 4, at(n * 1_000_000 + 25)), 99_998);
    }
    // Missed periods are one interrupt and leave the phase alone.
    l.run_timer(at(9_500_000));
    assert!(take(&mut l));
    assert!(!take(&mut l));
    assert_eq!(l.next_deadline(), Some(at(10_000_000)));
}

#[test]
fn fast_periodic_timers_are_held_back() {
    let mut l = started(1, 0b1011, 1);
    l.run_timer(at(10));
    assert!(take(&mut l));
    assert_eq!(l.next_deadline(), Some(Nanoseconds(at(10).0 + MIN_PERIOD.0)));
    l.run_timer(at(10).saturating_add(MIN_PERIOD));
    assert!(take(&mut l));
}

#[test]
fn masked_timers_count_but_need_no_deadline() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(TIMER, 4, 0x1_00ec, at(0));
    assert_eq!(l.next_deadline(), None);
    assert_eq!(l.mmio_read(CURRENT, 4, at(5_000)), 500);
    // Expired while masked: unmasking later brings no interrupt.
    let _ = l.mmio_write(TIMER, 4, 0xec, at(20_000));
    l.run_timer(at(30_000));
    assert!(!take(&mut l));
    assert_eq!(l.next_deadline(), None);
}

#[test]
fn expired_before_masking_still_interrupts() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(TIMER, 4, 0x1_00ec, at(20_000));
    assert!(take(&mut l));
}

#[test]
fn no_deadline_while_its_interrupt_waits() {
    let mut l = started(1, 0b1011, 100_000);
    l.run_timer(at(1_000_000));
    assert_eq!(l.next_deadline(), None);
    assert!(take(&mut l));
    assert_eq!(l.next_deadline(), Some(at(2_000_000)));
}

#[test]
fn changing_the_divisor_goes_on_from_the_current_count() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(DIVIDE, 4, 0b0000, at(4_000));
    assert_eq!(l.mmio_read(CURRENT, 4, at(4_000)), 600);
    assert_eq!(l.next_deadline(), Some(at(4_000 + 600 * 20)));
}

#[test]
fn one_shot_becomes_periodic() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(TIMER, 4, 1 << 17 | 0xec, at(100));
    l.run_timer(at(10_000));
    assert!(take(&mut l));
    assert_eq!(l.mmio_read(CURRENT, 4, at(10_010)), 999);
}

#[test]
fn tsc_deadline() {
    let mut l = started(2, 0, 77);
    assert_eq!(l.mmio_read(INITIAL, 4, T0), 0, "the initial count is ignored");
    assert_eq!(l.next_deadline(), None);
    assert_eq!(l.set_tsc_deadline(6000, &tsc(T0)), Effect::Timer);
    let due = l.next_deadline().unwrap();
    assert!(due >= at(1000) && due <= at(1002), "{due}");
    assert_eq!(l.tsc_deadline(at(999)), 6000);
    l.run_timer(due);
    assert!(take(&mut l));
    assert_eq!(l.tsc_deadline(due), 0, "disarmed by firing");
    assert_eq!(l.next_deadline(), None);
}

#[test]
fn tsc_deadline_in_the_past_fires_at_once() {
    let mut l = started(2, 0, 0);
    let _ = l.set_tsc_deadline(5000, &tsc(T0));
    assert!(take(&mut l));
    assert_eq!(l.tsc_deadline(T0), 0);
}

#[test]
fn tsc_deadline_is_disarmed_by_zero_and_by_mode() {
    let mut l = started(2, 0, 0);
    let _ = l.set_tsc_deadline(9000, &tsc(T0));
    let _ = l.set_tsc_deadline(0, &tsc(T0));
    assert_eq!(l.next_deadline(), None);
    let _ = l.set_tsc_deadline(9000, &tsc(T0));
    let _ = l.mmio_write(TIMER, 4, 0xec, T0);
    let _ = l.mmio_write(TIMER, 4, 2 << 17 | 0xec, T0);
    assert_eq!(l.tsc_deadline(T0), 0);
    let _ = l.mmio_write(TIMER, 4, 0xec, T0);
    let _ = l.set_tsc_deadline(9000, &tsc(T0));
    assert_eq!(l.tsc_deadline(T0), 0, "ignored in other modes");
}

#[test]
fn tsc_deadline_must_be_offered() {
    let mut l = Lapic::new(0, false, LapicConfig { x2apic: true, tsc_deadline: false });
    let _ = l.mmio_write(0xf0, 4, 0x1ff, T0);
    let _ = l.mmio_write(TIMER, 4, 2 << 17 | 0xec, T0);
    let _ = l.set_tsc_deadline(9000, &tsc(T0));
    assert_eq!(l.next_deadline(), None);
    assert_eq!(l.tsc_deadline(T0), 0);
}

#[test]
fn software_disable_masks_the_timer() {
    let mut l = started(0, 0b1011, 1000);
    let _ = l.mmio_write(0xf0, 4, 0xff, at(1));
    assert_eq!(l.next_deadline(), None);
    l.run_timer(at(20_000));
    assert!(!take(&mut l));
}

#[test]
fn far_deadlines_saturate() {
    let mut l = started(2, 0, 0);
    let _ = l.set_tsc_deadline(u64::MAX, &tsc(T0));
    assert!(l.next_deadline().unwrap() > Nanoseconds(1 << 62));
    assert!(!take(&mut l));
}

proptest! {
    /// The current count against a counter that is ticked one by one.
    #[test]
    fn current_count(periodic: bool, log2 in 0u32..8, initial in 1u32..50, elapsed in 0u64..5000) {
        let bits = [0b1011, 0, 1, 2, 3, 8, 9, 10][log2 as usize];
        let mut l = started(u32::from(periodic), bits, initial);
        let mut count = initial;
        for _ in 0..elapsed / (10 << log2) {
            if count == 0 {
                break;
            }
            count -= 1;
            if count == 0 && periodic {
                count = initial;
            }
        }
        prop_assert_eq!(l.mmio_read(CURRENT, 4, at(elapsed)), u64::from(count));
    }

    /// A TSC deadline never fires early and at most a few ticks late.
    #[test]
    fn time_of(khz in 100_000u32..10_000_000, ticks in 0u64..1 << 50) {
        // mul and shift such that ns = (ticks << shift) * mul >> 32.
        let (mut shift, mut khz_shifted) = (0i8, u64::from(khz));
        while khz_shifted > 2_000_000 { khz_shifted >>= 1; shift -= 1; }
        while khz_shifted <= 1_000_000 { khz_shifted <<= 1; shift += 1; }
        let scaled = if shift < 0 { u128::from(khz) >> -shift } else { u128::from(khz) << shift };
        let mul = ((1_000_000u128 << 32) / scaled) as u32;
        let clock = ClockParameters { tsc_base: 0, base_ns: Nanoseconds(0), mul, shift, khz };
        let tsc = GuestTsc { value: 12345, now: T0, clock };
        let due = tsc.time_of(12345 + ticks).0 - T0.0;
        let up = |t: u64| {
            let t = if shift < 0 { u128::from(t >> -shift) } else { u128::from(t) << shift };
            ((t * u128::from(mul)) >> 32) as u64
        };
        prop_assert!(due >= up(ticks));
        prop_assert!(due <= up(ticks + (2 << (-shift).max(0))) + 2);
    }
}
