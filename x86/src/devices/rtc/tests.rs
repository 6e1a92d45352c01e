//! The real-time clock: the time it shows, alarms, periodic interrupts.

use super::*;
use crate::devices::test_board::TestBoard;
use proptest::prelude::*;

/// 2024-02-29 13:59:58 UTC, a Thursday.
const EPOCH: i64 = 1_709_215_198 * SECOND;

fn rtc() -> (Rtc, TestBoard) {
    (Rtc::new(EPOCH, Nanoseconds(0)), TestBoard::default())
}

fn s(seconds: u64) -> Nanoseconds {
    Nanoseconds(seconds * 1_000_000_000)
}

fn read(r: &mut Rtc, b: &mut TestBoard, index: u8, now: Nanoseconds) -> u8 {
    r.write(0x70, 1, u32::from(index), now, b);
    r.read(0x71, 1, now, b) as u8
}

/// One word access writes index and data.
fn write(r: &mut Rtc, b: &mut TestBoard, index: u8, value: u8, now: Nanoseconds) {
    r.write(0x70, 2, u32::from(value) << 8 | u32::from(index), now, b);
}

fn time(r: &mut Rtc, b: &mut TestBoard, now: Nanoseconds) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|i| read(r, b, i, now))
}

#[test]
fn decimal_24_hours() {
    let (mut r, mut b) = rtc();
    assert_eq!(time(&mut r, &mut b, s(0)), [0x20, 0x24, 2, 0x29, 5, 0x13, 0x59, 0x58]);
    assert_eq!(time(&mut r, &mut b, s(2)), [0x20, 0x24, 2, 0x29, 5, 0x14, 0, 0]);
    assert_eq!(time(&mut r, &mut b, s(86_402)), [0x20, 0x24, 3, 1, 6, 0x14, 0, 0]);
}

#[test]
fn binary_and_12_hours() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, REG_B, B_BINARY, s(0));
    assert_eq!(time(&mut r, &mut b, s(0)), [20, 24, 2, 29, 5, 0x81, 59, 58]);
    let midnight = s(2 + 10 * 3600);
    assert_eq!(read(&mut r, &mut b, HOURS, midnight), 12);
    let noon = s(2 + 22 * 3600);
    assert_eq!(read(&mut r, &mut b, HOURS, noon), 0x8c);
    write(&mut r, &mut b, REG_B, 0, s(0));
    assert_eq!(read(&mut r, &mut b, HOURS, noon), 0x92, "decimal");
    write(&mut r, &mut b, HOURS, 0x12, s(0));
    write(&mut r, &mut b, REG_B, B_24_HOURS, s(0));
    assert_eq!(read(&mut r, &mut b, HOURS, s(0)), 0);
}

#[test]
fn setting_the_time() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, REG_B, B_SET | B_24_HOURS | UPDATE, s(1));
    assert_eq!(read(&mut r, &mut b, REG_B, s(1)), B_SET | B_24_HOURS, "updates are off");
    for (index, value) in
        [(CENTURY, 0x19), (YEAR, 0x99), (MONTH, 0x12), (DAY, 0x31), (HOURS, 0x23), (MINUTES, 0x59), (SECONDS, 0x59)]
    {
        write(&mut r, &mut b, index, value, s(2));
    }
    assert_eq!(read(&mut r, &mut b, SECONDS, s(5)), 0x59, "stands still");
    write(&mut r, &mut b, REG_B, B_24_HOURS, s(5));
    assert_eq!(time(&mut r, &mut b, s(5)), [0x19, 0x99, 0x12, 0x31, 6, 0x23, 0x59, 0x59]);
    assert_eq!(time(&mut r, &mut b, s(6)), [0x20, 0, 1, 1, 7, 0, 0, 0]);
    assert_eq!(r.base(), (946_684_800 - 6) * SECOND);
}

#[test]
fn weekday_can_be_set() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, WEEKDAY, 1, s(0));
    assert_eq!(read(&mut r, &mut b, WEEKDAY, s(0)), 1);
    assert_eq!(read(&mut r, &mut b, WEEKDAY, s(86_400)), 2);
}

#[test]
fn update_in_progress() {
    let (mut r, mut b) = rtc();
    assert_eq!(read(&mut r, &mut b, REG_A, s(1)), 0x26);
    assert_eq!(read(&mut r, &mut b, REG_A, Nanoseconds(1_999_755_999)), 0x26);
    assert_eq!(read(&mut r, &mut b, REG_A, Nanoseconds(1_999_756_000)), 0xa6);
    assert_eq!(read(&mut r, &mut b, REG_A, s(2)), 0x26);
    assert_eq!(read(&mut r, &mut b, REG_D, s(2)), 0x80);
}

#[test]
fn update_interrupt() {
    let (mut r, mut b) = rtc();
    assert_eq!(r.next_deadline(), None);
    write(&mut r, &mut b, REG_B, B_24_HOURS | UPDATE, Nanoseconds(500));
    assert_eq!(r.next_deadline(), Some(s(1)));
    r.run(Nanoseconds(999_999_999), &mut b);
    assert_eq!(b.take_isa(8), 0);
    r.run(s(1), &mut b);
    assert_eq!(b.take_isa(8), 1);
    assert_eq!(r.next_deadline(), None, "until register C is read");
    assert_eq!(read(&mut r, &mut b, REG_C, s(1)), 0x90 | PERIODIC);
    assert!(!b.isa[8]);
    assert_eq!(read(&mut r, &mut b, REG_C, s(1)), 0);
    assert_eq!(r.next_deadline(), Some(s(2)));
}

#[test]
fn flags_need_no_enable() {
    let (mut r, mut b) = rtc();
    assert_eq!(read(&mut r, &mut b, REG_C, s(10)), UPDATE | PERIODIC);
    assert_eq!(read(&mut r, &mut b, REG_C, s(86_400)), UPDATE | PERIODIC | ALARM, "alarm at midnight");
    assert_eq!(b.take_isa(8), 0);
}

#[test]
fn enabling_a_set_flag_interrupts() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, REG_B, B_24_HOURS | UPDATE, s(3));
    assert_eq!(b.take_isa(8), 1);
}

#[test]
fn periodic_interrupt() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, REG_B, B_24_HOURS | PERIODIC, s(0));
    // Rate 6: 1024 Hz.
    for n in 1..4 {
        let due = r.next_deadline().unwrap();
        assert_eq!(due, Nanoseconds((n * 1_000_000_000u64).div_ceil(1024)));
        r.run(due, &mut b);
        assert_eq!(b.take_isa(8), 1);
        assert_eq!(read(&mut r, &mut b, REG_C, due), 0xc0);
    }
    for (rate, hz) in [(1, 256), (2, 128), (3, 8192), (4, 4096), (15, 2)] {
        let now = s(60);
        write(&mut r, &mut b, REG_A, 0x20 | rate, now);
        read(&mut r, &mut b, REG_C, now);
        assert_eq!(r.next_deadline().unwrap().0 - now.0, 1_000_000_000u64.div_ceil(hz), "rate {rate}");
    }
    write(&mut r, &mut b, REG_A, 0x20, s(60));
    read(&mut r, &mut b, REG_C, s(60));
    assert_eq!(r.next_deadline(), None);
}

fn set_alarm(r: &mut Rtc, b: &mut TestBoard, alarm: [u8; 3]) {
    for (index, value) in [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM].into_iter().zip(alarm) {
        write(r, b, index, value, s(0));
    }
    let register_b = read(r, b, REG_B, s(0));
    write(r, b, REG_B, register_b | ALARM, s(0));
}

#[test]
fn alarm() {
    // The clock reads 13:59:58 at 0.
    for (alarm, due) in [
        ([0x14, 0x00, 0x00], 2),
        ([0x13, 0x59, 0x59], 1),
        ([0x13, 0x59, 0x58], 86_400),
        ([0xff, 0x00, 0x05], 7),
        ([0xff, 0xff, 0x30], 32),
        ([0xff, 0xff, 0xff], 1),
        ([0x00, 0x00, 0x00], 2 + 10 * 3600),
        ([0xc0, 0x30, 0xc0], 2 + 30 * 60),
    ] {
        let (mut r, mut b) = rtc();
        set_alarm(&mut r, &mut b, alarm);
        assert_eq!(r.next_deadline(), Some(s(due)), "{alarm:x?}");
        r.run(s(due - 1), &mut b);
        assert_eq!(b.take_isa(8), 0);
        r.run(s(due), &mut b);
        assert_eq!(b.take_isa(8), 1);
    }
}

#[test]
fn an_alarm_that_cannot_be_never_comes() {
    for alarm in [[0x25, 0, 0], [0xff, 0x60, 0], [0xff, 0xff, 0x77]] {
        let (mut r, mut b) = rtc();
        set_alarm(&mut r, &mut b, alarm);
        assert_eq!(r.next_deadline(), None);
        r.run(s(200_000), &mut b);
        assert_eq!(b.take_isa(8), 0);
    }
}

#[test]
fn afternoon_alarm_in_12_hour_mode() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, REG_B, 0, s(0));
    set_alarm(&mut r, &mut b, [0x82, 0, 0]);
    assert_eq!(r.next_deadline(), Some(s(2)));
}

#[test]
fn memory() {
    let (mut r, mut b) = rtc();
    write(&mut r, &mut b, 0x7f, 0x5a, s(0));
    assert_eq!(read(&mut r, &mut b, 0xff, s(0)), 0x5a, "bit 7 of the index is not part of it");
    r.set_memory(0x34, 0x12);
    assert_eq!(read(&mut r, &mut b, 0x34, s(0)), 0x12);
    write(&mut r, &mut b, REG_C, 0xff, s(0));
    assert_eq!(read(&mut r, &mut b, REG_C, s(0)), 0);
}

proptest! {
    #[test]
    fn next_alarm_is_the_first_match(at in 0i64..200_000, h in 0u8..26, m in 0u8..62, sec in 0u8..62) {
        let (mut r, mut b) = rtc();
        write(&mut r, &mut b, REG_B, B_24_HOURS | B_BINARY, s(0));
        let pick = |v: u8, limit: u8| if v >= limit { 0xff } else { v };
        let alarm = [pick(h, 24), pick(m, 60), pick(sec, 60)];
        for (index, value) in [HOURS_ALARM, MINUTES_ALARM, SECONDS_ALARM].into_iter().zip(alarm) {
            r.set_memory(index, value);
        }
        let is = |a: u8, v: i64| a == 0xff || i64::from(a) == v;
        let expected = (at + 1..).find(|t| {
            is(alarm[0], t / 3600 % 24) && is(alarm[1], t / 60 % 60) && is(alarm[2], t % 60)
        });
        prop_assert_eq!(r.next_alarm(at), expected);
    }

    #[test]
    fn any_port_traffic_is_safe(epoch: i64, ops in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u64>()), 0..60)) {
        let mut r = Rtc::new(epoch, Nanoseconds(0));
        let mut b = TestBoard::default();
        let mut now = 0u64;
        for (index, value, pause) in ops {
            now = now.saturating_add(pause >> (value % 64));
            write(&mut r, &mut b, index % 16, value, Nanoseconds(now));
            read(&mut r, &mut b, index, Nanoseconds(now));
            r.next_deadline();
        }
    }
}
