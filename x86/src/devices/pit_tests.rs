//! The PIT: each mode of its channels, and what is read back.

use super::*;
use crate::devices::test_board::TestBoard;
use proptest::prelude::*;

/// The first moment of a clock tick.
fn at(tick: u64) -> Nanoseconds {
    RATE.time_of(tick)
}

const T0: u64 = 1000;

fn out(p: &mut Pit, b: &mut TestBoard, port: u16, value: u8, tick: u64) {
    p.write_byte(port, value, at(tick), b);
}

fn inb(p: &mut Pit, port: u16, tick: u64) -> u8 {
    p.read_byte(port, at(tick), &mut TestBoard::default())
}

/// Programs a channel, low byte then high byte, at tick T0.
fn program(channel: u16, mode: u8, count: u16) -> (Pit, TestBoard) {
    let (mut p, mut b) = (Pit::new(), TestBoard::default());
    if channel == 2 {
        out(&mut p, &mut b, 0x61, 1, T0);
    }
    out(&mut p, &mut b, 0x43, (channel as u8) << 6 | 0x30 | mode << 1, T0);
    out(&mut p, &mut b, 0x40 + channel, count as u8, T0);
    out(&mut p, &mut b, 0x40 + channel, (count >> 8) as u8, T0);
    b.take_isa(0);
    (p, b)
}

fn counter(p: &mut Pit, channel: u16, tick: u64) -> u16 {
    out(p, &mut TestBoard::default(), 0x43, (channel as u8) << 6, tick);
    u16::from_le_bytes([inb(p, 0x40 + channel, tick), inb(p, 0x40 + channel, tick)])
}

#[test]
fn nothing_counts_after_reset() {
    let p = Pit::new();
    assert_eq!(p.next_deadline(), None);
}

#[test]
fn terminal_count() {
    let (mut p, mut b) = program(0, 0, 100);
    assert_eq!(counter(&mut p, 0, T0 + 1), 99);
    assert!(!b.isa[0]);
    assert_eq!(p.next_deadline(), Some(at(T0 + 100)));
    p.run(at(T0 + 99), &mut b);
    assert_eq!(b.take_isa(0), 0);
    p.run(at(T0 + 100), &mut b);
    assert_eq!(b.take_isa(0), 1);
    assert_eq!(p.next_deadline(), None);
    p.run(at(T0 + 70_000), &mut b);
    assert_eq!(b.take_isa(0), 0, "once");
    assert_eq!(counter(&mut p, 0, T0 + 101), 0xffff, "goes on counting");
    out(&mut p, &mut b, 0x40, 50, T0 + 200);
    out(&mut p, &mut b, 0x40, 0, T0 + 200);
    assert!(!b.isa[0], "a new count lowers the output");
    assert_eq!(p.next_deadline(), Some(at(T0 + 250)));
}

#[test]
fn rate_generator() {
    let (mut p, mut b) = program(0, 2, 1000);
    for n in 1..4 {
        assert_eq!(p.next_deadline(), Some(at(T0 + n * 1000)));
        p.run(at(T0 + n * 1000 + 3), &mut b);
        assert_eq!(b.take_isa(0), 1);
        assert_eq!(counter(&mut p, 0, T0 + n * 1000 + 10), 990);
    }
    p.run(at(T0 + 9500), &mut b);
    assert_eq!(b.take_isa(0), 1, "missed periods are one interrupt");
    assert_eq!(p.next_deadline(), Some(at(T0 + 10_000)));
}

#[test]
fn square_wave() {
    let (mut p, mut b) = program(0, 3, 1000);
    assert_eq!(counter(&mut p, 0, T0 + 1), 998);
    assert_eq!(counter(&mut p, 0, T0 + 499), 2);
    assert_eq!(counter(&mut p, 0, T0 + 500), 1000);
    p.run(at(T0 + 1000), &mut b);
    assert_eq!(b.take_isa(0), 1);
    let (mut p, _) = program(2, 3, 5);
    let outputs: alloc::vec::Vec<u8> = (0..6).map(|t| inb(&mut p, 0x61, T0 + t) >> 5 & 1).collect();
    assert_eq!(outputs, [1, 1, 1, 0, 0, 1], "odd counts are high one tick longer");
}

#[test]
fn zero_is_the_longest_count() {
    for (mode, count) in [(0, 65_536), (2, 65_536)] {
        assert_eq!(program(0, mode, 0).0.next_deadline(), Some(at(T0 + count)));
    }
}

#[test]
fn count_of_one_in_square_wave() {
    let (mut p, _) = program(0, 3, 1);
    assert_eq!(counter(&mut p, 0, T0 + 1), 0);
}

#[test]
fn strobe() {
    let (mut p, mut b) = program(2, 4, 100);
    assert_eq!(inb(&mut p, 0x61, T0 + 99) & 0x20, 0x20);
    assert_eq!(inb(&mut p, 0x61, T0 + 100) & 0x20, 0);
    assert_eq!(inb(&mut p, 0x61, T0 + 101) & 0x20, 0x20);
    let (p, _) = program(0, 4, 100);
    assert_eq!(p.next_deadline(), Some(at(T0 + 101)));
    b.take_isa(0);
}

#[test]
fn gate_holds_and_resumes() {
    let (mut p, mut b) = program(2, 0, 100);
    out(&mut p, &mut b, 0x61, 0, T0 + 40);
    assert_eq!(counter(&mut p, 2, T0 + 90), 60);
    out(&mut p, &mut b, 0x61, 1, T0 + 200);
    assert_eq!(counter(&mut p, 2, T0 + 210), 50);
    assert_eq!(inb(&mut p, 0x61, T0 + 259) & 0x20, 0);
    assert_eq!(inb(&mut p, 0x61, T0 + 260) & 0x21, 0x21);
}

#[test]
fn gate_restarts_periodic_modes() {
    let (mut p, mut b) = program(2, 2, 100);
    out(&mut p, &mut b, 0x61, 0, T0 + 99);
    assert_eq!(inb(&mut p, 0x61, T0 + 99) & 0x20, 0x20, "high without the gate");
    out(&mut p, &mut b, 0x61, 1, T0 + 150);
    assert_eq!(counter(&mut p, 2, T0 + 160), 90);
}

#[test]
fn gate_triggers_the_one_shot() {
    let (mut p, mut b) = program(2, 1, 100);
    assert_eq!(inb(&mut p, 0x61, T0 + 500) & 0x20, 0x20, "idle high");
    out(&mut p, &mut b, 0x61, 0, T0 + 500);
    out(&mut p, &mut b, 0x61, 1, T0 + 600);
    assert_eq!(inb(&mut p, 0x61, T0 + 699) & 0x20, 0);
    assert_eq!(inb(&mut p, 0x61, T0 + 700) & 0x20, 0x20);
}

#[test]
fn latches() {
    let (mut p, mut b) = program(0, 2, 1000);
    out(&mut p, &mut b, 0x43, 0x00, T0 + 10);
    out(&mut p, &mut b, 0x43, 0x00, T0 + 20);
    assert_eq!(inb(&mut p, 0x40, T0 + 30), (990u16 & 0xff) as u8, "the first latch counts");
    assert_eq!(inb(&mut p, 0x40, T0 + 40), (990u16 >> 8) as u8);
    assert_eq!(inb(&mut p, 0x40, T0 + 50), (950u16 & 0xff) as u8, "and is used up");
}

#[test]
fn read_back() {
    let (mut p, mut b) = program(0, 2, 1000);
    out(&mut p, &mut b, 0x43, 0xc2, T0 + 10);
    assert_eq!(inb(&mut p, 0x40, T0 + 20), 0b1011_0100, "output, both bytes, mode 2");
    assert_eq!(inb(&mut p, 0x40, T0 + 20), (990u16 & 0xff) as u8);
    assert_eq!(inb(&mut p, 0x40, T0 + 20), (990u16 >> 8) as u8);
    out(&mut p, &mut b, 0x43, 0x36, T0 + 30);
    out(&mut p, &mut b, 0x43, 0xe2, T0 + 30);
    assert_eq!(inb(&mut p, 0x40, T0 + 30) & 0x40, 0x40, "no count yet");
}

#[test]
fn single_byte_access() {
    let (mut p, mut b) = (Pit::new(), TestBoard::default());
    out(&mut p, &mut b, 0x43, 0x14, T0);
    out(&mut p, &mut b, 0x40, 200, T0);
    assert_eq!(p.next_deadline(), Some(at(T0 + 200)));
    assert_eq!(inb(&mut p, 0x40, T0 + 50), 150);
    out(&mut p, &mut b, 0x43, 0x24, T0);
    out(&mut p, &mut b, 0x40, 2, T0);
    assert_eq!(p.next_deadline(), Some(at(T0 + 512)));
    assert_eq!(inb(&mut p, 0x40, T0 + 12), 1);
}

#[test]
fn decimal() {
    let (mut p, mut b) = (Pit::new(), TestBoard::default());
    out(&mut p, &mut b, 0x43, 0x31, T0);
    out(&mut p, &mut b, 0x40, 0x34, T0);
    out(&mut p, &mut b, 0x40, 0x12, T0);
    assert_eq!(p.next_deadline(), Some(at(T0 + 1234)));
    assert_eq!(counter(&mut p, 0, T0 + 5), 0x1229);
    assert_eq!(counter(&mut p, 0, T0 + 1235), 0x9999);
}

#[test]
fn fast_periods_are_held_back() {
    let (mut p, mut b) = program(0, 2, 2);
    p.run(at(T0 + 2), &mut b);
    assert_eq!(p.next_deadline(), Some(at(T0 + 2).saturating_add(MIN_PERIOD)));
}

#[test]
fn speaker_port() {
    let (mut p, mut b) = (Pit::new(), TestBoard::default());
    out(&mut p, &mut b, 0x61, 0xff, T0);
    assert_eq!(inb(&mut p, 0x61, T0) & 0xcf & !0x20, 0x03);
    assert_ne!(inb(&mut p, 0x61, 0) & 0x10, inb(&mut p, 0x61, 18) & 0x10, "refresh");
}

proptest! {
    /// The square wave's counter and output against one that is ticked.
    #[test]
    fn rate_generator_counter(count in 2u16..300, elapsed in 0u64..2000) {
        let (mut p, _) = program(0, 2, count);
        let mut n = count;
        for _ in 0..elapsed {
            n = if n == 1 { count } else { n - 1 };
        }
        prop_assert_eq!(counter(&mut p, 0, T0 + elapsed), n);
    }

    #[test]
    fn any_port_traffic_is_safe(ops in prop::collection::vec((0u8..6, any::<u8>(), 0u64..5000), 0..60)) {
        let (mut p, mut b) = (Pit::new(), TestBoard::default());
        let mut tick = 0;
        for (port, value, pause) in ops {
            tick += pause;
            let port = [0x40, 0x41, 0x42, 0x43, 0x61, 0x99][usize::from(port)];
            out(&mut p, &mut b, port, value, tick);
            inb(&mut p, port, tick);
            if let Some(due) = p.next_deadline() {
                prop_assert!(due >= at(tick), "deadlines are never in the past after a write");
            }
        }
    }
}
