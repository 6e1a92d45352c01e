//! The HPET: registers, timers in each mode, interrupts.

use super::*;
use crate::devices::test_board::TestBoard;
use proptest::prelude::*;

const CONFIG: u64 = 0x10;
const STATUS: u64 = 0x20;
const COUNTER: u64 = 0xf0;
const T0_CONFIG: u64 = 0x100;
const T0_COMPARATOR: u64 = 0x108;

fn at(tick: u64) -> Nanoseconds {
    Nanoseconds(tick * TICK)
}

fn new() -> (Hpet, TestBoard) {
    (Hpet::new(), TestBoard::default())
}

fn w(h: &mut Hpet, b: &mut TestBoard, offset: u64, value: u64, tick: u64) {
    h.mmio_write(offset, 8, value, at(tick), b);
}

fn r(h: &mut Hpet, offset: u64, tick: u64) -> u64 {
    h.mmio_read(offset, 8, at(tick), &mut TestBoard::default())
}

#[test]
fn capabilities() {
    let (mut h, mut b) = new();
    assert_eq!(r(&mut h, 0, 0), 0x00f4_2400_8086_a201);
    w(&mut h, &mut b, 0, 0, 0);
    assert_eq!(r(&mut h, 0, 0) >> 32, 16_000_000);
    for timer in 0..3 {
        assert_eq!(r(&mut h, T0_CONFIG + 0x20 * timer, 0), 0x00f0_0000_0000_0030);
        assert_eq!(r(&mut h, T0_COMPARATOR + 0x20 * timer, 0), u64::MAX);
    }
    assert_eq!(r(&mut h, 0x160, 0), 0, "no fourth timer");
    w(&mut h, &mut b, T0_CONFIG, u64::MAX, 0);
    assert_eq!(r(&mut h, T0_CONFIG, 0), 0x00f0_0000_0000_3f7e, "no FSB delivery");
}

#[test]
fn counter_runs_when_enabled() {
    let (mut h, mut b) = new();
    assert_eq!(r(&mut h, COUNTER, 100), 0);
    w(&mut h, &mut b, COUNTER, 5000, 100);
    w(&mut h, &mut b, CONFIG, ENABLE, 200);
    assert_eq!(r(&mut h, COUNTER, 250), 5050);
    w(&mut h, &mut b, COUNTER, 0, 250);
    assert_eq!(r(&mut h, COUNTER, 260), 5060, "read-only while it runs");
    w(&mut h, &mut b, CONFIG, 0, 300);
    assert_eq!(r(&mut h, COUNTER, 900), 5100);
    w(&mut h, &mut b, CONFIG, ENABLE, 1000);
    assert_eq!(r(&mut h, COUNTER, 1001), 5101);
}

#[test]
fn access_sizes() {
    let (mut h, mut b) = new();
    h.mmio_write(COUNTER + 4, 4, 0x1234, at(0), &mut b);
    h.mmio_write(COUNTER, 4, 0x5678, at(0), &mut b);
    assert_eq!(r(&mut h, COUNTER, 0), 0x1234_0000_5678);
    assert_eq!(h.mmio_read(COUNTER + 4, 4, at(0), &mut b), 0x1234);
    assert_eq!(h.mmio_read(COUNTER, 4, at(0), &mut b), 0x5678);
    h.mmio_write(COUNTER, 2, 1, at(0), &mut b);
    assert_eq!(r(&mut h, COUNTER, 0), 0x1234_0000_5678);
    assert_eq!(h.mmio_read(COUNTER, 2, at(0), &mut b), u64::MAX);
}

/// Timer 0 to pin 20 with these flags, counter running from 0 at tick 0.
fn running(flags: u64, comparator: u64) -> (Hpet, TestBoard) {
    let (mut h, mut b) = new();
    w(&mut h, &mut b, T0_CONFIG, 20 << 9 | INTERRUPT | flags, 0);
    w(&mut h, &mut b, T0_COMPARATOR, comparator, 0);
    w(&mut h, &mut b, CONFIG, ENABLE, 0);
    (h, b)
}

#[test]
fn one_shot_edge() {
    let (mut h, mut b) = running(0, 1000);
    assert_eq!(h.next_deadline(), Some(at(1000)));
    h.run(at(999), &mut b);
    assert_eq!(b.take_gsi(20), 0);
    h.run(at(1000), &mut b);
    assert_eq!(b.take_gsi(20), 1);
    assert_eq!(r(&mut h, STATUS, 1000), 0, "edges leave no status");
    assert_eq!(h.next_deadline(), None);
    w(&mut h, &mut b, T0_COMPARATOR, 3000, 1500);
    assert_eq!(h.next_deadline(), Some(at(3000)));
}

#[test]
fn level_until_status_is_cleared() {
    let (mut h, mut b) = running(LEVEL, 1000);
    h.run(at(1000), &mut b);
    assert!(b.gsi[20]);
    assert_eq!(r(&mut h, STATUS, 1001), 1);
    w(&mut h, &mut b, STATUS, 6, 1002);
    assert!(b.gsi[20], "another timer's bits");
    w(&mut h, &mut b, STATUS, 1, 1003);
    assert!(!b.gsi[20]);
}

#[test]
fn partial_status_writes_clear_what_they_cover() {
    let (mut h, mut b) = running(LEVEL, 1000);
    h.run(at(1000), &mut b);
    h.mmio_write(STATUS + 4, 4, 0, at(1001), &mut b);
    assert_eq!(r(&mut h, STATUS, 1001), 1, "the other half was not written");
}

#[test]
fn periodic() {
    let (mut h, mut b) = new();
    w(&mut h, &mut b, T0_CONFIG, 21 << 9 | INTERRUPT | PERIODIC | SET_VALUE, 0);
    w(&mut h, &mut b, T0_COMPARATOR, 5000, 0);
    assert_eq!(r(&mut h, T0_CONFIG, 0) & SET_VALUE, 0);
    w(&mut h, &mut b, T0_COMPARATOR, 10_000, 0);
    assert_eq!(r(&mut h, T0_COMPARATOR, 0), 5000, "only the period changed");
    w(&mut h, &mut b, CONFIG, ENABLE, 0);
    for n in 0..3 {
        assert_eq!(h.next_deadline(), Some(at(5000 + n * 10_000)));
        h.run(at(5000 + n * 10_000 + 1), &mut b);
        assert_eq!(b.take_gsi(21), 1);
        assert_eq!(r(&mut h, T0_COMPARATOR, 5000 + n * 10_000 + 1), 15_000 + n * 10_000);
    }
    h.run(at(99_000), &mut b);
    assert_eq!(b.take_gsi(21), 1, "missed periods are one interrupt");
    assert_eq!(h.next_deadline(), Some(at(105_000)));
}

#[test]
fn fast_periods_are_held_back() {
    let (mut h, mut b) = running(PERIODIC | SET_VALUE, 1);
    // Writing again set the value and the period to 1.
    w(&mut h, &mut b, T0_CONFIG, 20 << 9 | INTERRUPT | PERIODIC | SET_VALUE, 0);
    w(&mut h, &mut b, T0_COMPARATOR, 1, 0);
    h.run(at(10), &mut b);
    assert_eq!(b.take_gsi(20), 1);
    assert_eq!(h.next_deadline(), Some(at(10).saturating_add(MIN_PERIOD)));
}

#[test]
fn a_comparator_just_missed_fires_at_once() {
    let (mut h, mut b) = running(0, u64::MAX);
    w(&mut h, &mut b, T0_COMPARATOR, 9_000, 10_000);
    assert_eq!(b.take_gsi(20), 1);
    assert_eq!(h.next_deadline(), None);
}

#[test]
fn comparator_of_all_ones_is_far_away() {
    let (h, mut b) = running(0, 1 << 62);
    assert!(h.next_deadline().unwrap() > Nanoseconds(1 << 61));
    assert_eq!(b.take_gsi(20), 0);
}

#[test]
fn mode_32_wraps() {
    let (mut h, mut b) = new();
    w(&mut h, &mut b, COUNTER, 0xffff_f000, 0);
    w(&mut h, &mut b, T0_CONFIG, 20 << 9 | INTERRUPT | MODE_32, 0);
    w(&mut h, &mut b, T0_COMPARATOR, 0xaaaa_0000_0000_1000, 0);
    assert_eq!(r(&mut h, T0_COMPARATOR, 0), 0x1000);
    w(&mut h, &mut b, CONFIG, ENABLE, 0);
    assert_eq!(h.next_deadline(), Some(at(0x2000)));
    h.run(at(0x2000), &mut b);
    assert_eq!(b.take_gsi(20), 1);
    assert_eq!(h.next_deadline(), Some(at(0x1_0000_2000)), "again after a round");
}

#[test]
fn legacy_replacement() {
    let (mut h, mut b) = new();
    for (timer, comparator) in [(0, 100), (1, 200), (2, 300)] {
        w(&mut h, &mut b, T0_CONFIG + 0x20 * timer, 22 << 9 | INTERRUPT, 0);
        w(&mut h, &mut b, T0_COMPARATOR + 0x20 * timer, comparator, 0);
    }
    assert!(!h.replaces_legacy());
    w(&mut h, &mut b, CONFIG, ENABLE | LEGACY, 0);
    assert!(h.replaces_legacy());
    for (tick, isa0, isa8, gsi) in [(100, 1, 0, 0), (200, 0, 1, 0), (300, 0, 0, 1)] {
        h.run(at(tick), &mut b);
        assert_eq!((b.take_isa(0), b.take_isa(8), b.take_gsi(22)), (isa0, isa8, gsi));
    }
}

#[test]
fn disabled_interrupts_and_bad_routes() {
    let (mut h, mut b) = running(0, 100);
    w(&mut h, &mut b, T0_CONFIG, 20 << 9, 0);
    assert_eq!(h.next_deadline(), None);
    h.run(at(200), &mut b);
    w(&mut h, &mut b, T0_CONFIG, 3 << 9 | INTERRUPT, 300);
    h.run(at(1000), &mut b);
    assert_eq!(b.gsi_edges, [0; 32]);
    assert_eq!(b.isa_edges, [0; 16]);
}

#[test]
fn disabling_an_asserted_level_releases_it() {
    let (mut h, mut b) = running(LEVEL, 100);
    h.run(at(100), &mut b);
    assert!(b.gsi[20]);
    w(&mut h, &mut b, T0_CONFIG, 20 << 9 | LEVEL, 150);
    assert!(!b.gsi[20]);
}

proptest! {
    #[test]
    fn any_traffic_is_safe(ops in prop::collection::vec((0u64..0x200, any::<bool>(), any::<u64>(), 0u64..1 << 40), 0..60)) {
        let (mut h, mut b) = new();
        let mut now = 0;
        for (offset, wide, value, pause) in ops {
            now += pause;
            let len = if wide { 8 } else { 4 };
            h.mmio_write(offset & !3, len, value, Nanoseconds(now), &mut b);
            h.mmio_read(offset & !3, len, Nanoseconds(now), &mut b);
            h.run(Nanoseconds(now), &mut b);
            h.next_deadline();
        }
    }
}
