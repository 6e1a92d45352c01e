//! The I/O APIC: pins in each mode, delivery, end of interrupt.

use super::*;
use alloc::format;
use alloc::string::String;
use proptest::prelude::*;
use radon_core::sync::{Lock, Rank};

const BASE: GuestPhysAddr = GuestPhysAddr(0xfec0_0000);

fn config() -> IoApicConfig {
    IoApicConfig { id: 3, version: 0x20, base: BASE, gsi_base: 24, pins: 48, extended_destination: false }
}

fn ioapic() -> IoApic {
    IoApic::new(config(), None).unwrap()
}

fn write(io: &mut IoApic, register: u32, value: u32) -> Vec<Message> {
    let mut out = Vec::new();
    io.mmio_write(0, 4, register, |_| panic!());
    io.mmio_write(0x10, 4, value, |m| out.push(m));
    out
}

fn read(io: &mut IoApic, register: u32) -> u32 {
    io.mmio_write(0, 4, register, |_| panic!());
    io.mmio_read(0x10, 4) as u32
}

/// Writes an entry the way software does: high half first.
fn entry(io: &mut IoApic, gsi: u32, value: u64) -> Vec<Message> {
    let low = 0x10 + 2 * (gsi - io.config().gsi_base);
    assert!(write(io, low + 1, (value >> 32) as u32).is_empty());
    write(io, low, value as u32)
}

fn eoi(io: &mut IoApic, vector: u8) -> Vec<Message> {
    let mut out = Vec::new();
    io.eoi(vector, |m| out.push(m));
    out
}

fn vectors(messages: impl IntoIterator<Item = Message>) -> Vec<u8> {
    messages.into_iter().map(|m| m.vector).collect()
}

#[test]
fn registers() {
    let mut io = ioapic();
    assert_eq!(read(&mut io, 0), 3 << 24);
    assert_eq!(read(&mut io, 1), 47 << 16 | 0x20);
    assert_eq!(read(&mut io, 2), 3 << 24);
    assert_eq!(read(&mut io, 0x10), 0x1_0000);
    assert_eq!(read(&mut io, 0x11), 0);
    assert_eq!(read(&mut io, 0x10 + 96), u32::MAX, "past the last pin");
    assert_eq!(read(&mut io, 5), u32::MAX);
    write(&mut io, 0, 0x0700_0000);
    assert_eq!(read(&mut io, 0), 7 << 24);
    write(&mut io, 1, 0);
    assert_eq!(read(&mut io, 1), 47 << 16 | 0x20);
    write(&mut io, 0x12, u32::MAX);
    write(&mut io, 0x13, u32::MAX);
    assert_eq!(read(&mut io, 0x12), 0x1_afff);
    assert_eq!(read(&mut io, 0x13), 0xff00_0000);
    assert_eq!(io.mmio_read(0x20, 4), u64::MAX);
}

#[test]
fn data_window_takes_32_bits_only() {
    let mut io = ioapic();
    io.mmio_write(0, 1, 0x10, |_| panic!());
    io.mmio_write(0x10, 1, 0x55, |_| panic!());
    assert_eq!(io.mmio_read(0x10, 4), 0x1_0000);
}

#[test]
fn limits() {
    for pins in [0, 241] {
        assert!(IoApic::new(IoApicConfig { pins, ..config() }, None).is_none());
    }
    assert!(IoApic::new(IoApicConfig { gsi_base: u32::MAX, ..config() }, None).is_none());
    let mut io = IoApic::new(IoApicConfig { pins: 120, ..config() }, None).unwrap();
    assert_eq!(read(&mut io, 0x10 + 238), 0x1_0000);
    assert!(io.contains_gsi(24) && io.contains_gsi(143));
    assert!(!io.contains_gsi(23) && !io.contains_gsi(144));
    assert_eq!(io.set_line(23, true), None);
}

#[test]
fn edge() {
    let mut io = ioapic();
    entry(&mut io, 25, 0x0500_0000_0000_0041);
    let expected =
        Message { destination: 5, logical: false, mode: DeliveryMode::Fixed, vector: 0x41, trigger: Trigger::Edge };
    assert_eq!(io.set_line(25, true), Some(expected));
    assert_eq!(io.set_line(25, true), None, "no second edge");
    assert_eq!(io.set_line(25, false), None);
    assert_eq!(io.pulse(25), Some(expected));
    assert_eq!(io.pulse(25), Some(expected));
}

#[test]
fn an_edge_on_a_masked_pin_is_lost() {
    let mut io = ioapic();
    assert_eq!(io.set_line(25, true), None);
    assert!(entry(&mut io, 25, 0x41).is_empty());
    assert_eq!(io.set_line(25, true), None);
}

#[test]
fn level_waits_for_eoi() {
    let mut io = ioapic();
    entry(&mut io, 30, 0x8052);
    assert_eq!(io.set_line(30, true).unwrap().trigger, Trigger::Level);
    assert_eq!(read(&mut io, 0x10 + 12), 0xc052, "remote IRR");
    io.set_line(30, false);
    assert_eq!(io.set_line(30, true), None, "not before EOI");
    assert!(eoi(&mut io, 0x53).is_empty());
    assert_eq!(vectors(eoi(&mut io, 0x52)), [0x52], "still asserted");
    io.set_line(30, false);
    assert!(eoi(&mut io, 0x52).is_empty());
    assert_eq!(read(&mut io, 0x10 + 12), 0x8052);
}

#[test]
fn level_fires_when_unmasked() {
    let mut io = ioapic();
    entry(&mut io, 30, 0x1_8052);
    assert_eq!(io.set_line(30, true), None);
    assert_eq!(vectors(entry(&mut io, 30, 0x8052)), [0x52]);
    assert!(entry(&mut io, 30, 0x8052).is_empty(), "once until EOI");
}

#[test]
fn shared_vectors_end_together() {
    let mut io = ioapic();
    entry(&mut io, 30, 0x8052);
    entry(&mut io, 31, 0x8052);
    io.set_line(30, true);
    io.set_line(31, true);
    assert_eq!(vectors(eoi(&mut io, 0x52)), [0x52, 0x52]);
}

#[test]
fn eoi_register() {
    let mut io = ioapic();
    entry(&mut io, 30, 0x8052);
    io.set_line(30, true);
    let mut out = Vec::new();
    io.mmio_write(0x40, 4, 0x52, |m| out.push(m));
    assert_eq!(vectors(out), [0x52]);
    let mut old = IoApic::new(IoApicConfig { version: 0x11, ..config() }, None).unwrap();
    entry(&mut old, 30, 0x8052);
    old.set_line(30, true);
    old.mmio_write(0x40, 4, 0x52, |_| panic!("no such register"));
}

#[test]
fn edge_and_back_clears_remote_irr() {
    let mut io = ioapic();
    entry(&mut io, 30, 0x8052);
    io.set_line(30, true);
    io.set_line(30, false);
    entry(&mut io, 30, 0x1_0052);
    entry(&mut io, 30, 0x8052);
    assert_eq!(read(&mut io, 0x10 + 12), 0x8052);
    assert!(io.set_line(30, true).is_some());
}

#[test]
fn software_cannot_set_read_only_bits() {
    let mut io = ioapic();
    entry(&mut io, 30, 0xd052);
    assert_eq!(read(&mut io, 0x10 + 12), 0x8052);
}

#[test]
fn delivery_modes() {
    let mut io = ioapic();
    entry(&mut io, 24, 0x0f00_0000_0000_0c41);
    let m = io.pulse(24).unwrap();
    assert_eq!((m.mode, m.logical, m.destination), (DeliveryMode::Nmi, true, 15));
    entry(&mut io, 24, 0x0341);
    assert_eq!(io.pulse(24), None, "reserved mode");
    entry(&mut io, 24, 0x8441);
    assert!(io.set_line(24, true).is_some());
    assert_eq!(read(&mut io, 0x10), 0x8441, "an NMI has no EOI, so no remote IRR");
}

#[test]
fn extended_destinations() {
    let mut io = IoApic::new(IoApicConfig { extended_destination: true, ..config() }, None).unwrap();
    entry(&mut io, 24, 0x34 << 56 | 0x12 << 49 | 1 << 48 | 0x41);
    assert_eq!(io.pulse(24).unwrap().destination, 0x1234);
    assert_eq!(read(&mut io, 0x11), 0x34 << 24 | 0x12 << 17);
    let mut io = ioapic();
    entry(&mut io, 24, 0x34 << 56 | 0x12 << 49 | 0x41);
    assert_eq!(io.pulse(24).unwrap().destination, 0x34);
}

/// Writes down what it is told.
struct Pins(Lock<Vec<String>>);

impl PinBackend for Pins {
    fn route(&self, gsi: u32, c: &PinConfig) {
        let polarity = if c.active_low { "low" } else { "high" };
        self.0.lock().push(format!("route {gsi} {:?} {polarity} to {}", c.trigger, c.message.destination));
    }
    fn mask(&self, gsi: u32) {
        self.0.lock().push(format!("mask {gsi}"));
    }
    fn unmask(&self, gsi: u32) {
        self.0.lock().push(format!("unmask {gsi}"));
    }
    fn eoi(&self, gsi: u32) {
        self.0.lock().push(format!("eoi {gsi}"));
    }
}

fn hardware() -> (Arc<Pins>, IoApic) {
    let pins = Arc::new(Pins(Lock::new(Rank::Device, Vec::new())));
    let io = IoApic::new(config(), Some(pins.clone())).unwrap();
    (pins, io)
}

fn told(pins: &Pins) -> Vec<String> {
    core::mem::take(&mut *pins.0.lock())
}

#[test]
fn hardware_pin_is_programmed_when_unmasked() {
    let (pins, mut io) = hardware();
    entry(&mut io, 40, 0x0200_0000_0001_a052);
    assert!(told(&pins).is_empty(), "masked: nothing to do yet");
    entry(&mut io, 40, 0x0200_0000_0000_a052);
    assert_eq!(told(&pins), ["route 40 Level low to 2", "unmask 40"]);
    entry(&mut io, 40, 0x0200_0000_0001_a052);
    assert_eq!(told(&pins), ["mask 40"]);
    entry(&mut io, 40, 0x0200_0000_0000_a052);
    assert_eq!(told(&pins), ["unmask 40"]);
    entry(&mut io, 40, 0x0400_0000_0000_a052);
    assert_eq!(told(&pins), ["route 40 Level low to 4", "unmask 40"]);
    entry(&mut io, 40, 0x0400_0000_0000_a052);
    assert!(told(&pins).is_empty());
}

#[test]
fn hardware_level_is_held_until_the_guest_ends_it() {
    let (pins, mut io) = hardware();
    entry(&mut io, 40, 0x8052);
    told(&pins);
    assert_eq!(io.interrupt(40).unwrap().trigger, Trigger::Level);
    assert!(told(&pins).is_empty());
    assert!(eoi(&mut io, 0x52).is_empty(), "the real pin fires again by itself");
    assert_eq!(told(&pins), ["eoi 40"]);
    assert!(eoi(&mut io, 0x52).is_empty());
    assert!(told(&pins).is_empty(), "ended once");
    assert!(io.interrupt(40).is_some());
    entry(&mut io, 40, 0x0400_0000_0000_8052);
    assert_eq!(told(&pins), ["route 40 Level high to 4"], "held: masked until it is over");
    eoi(&mut io, 0x52);
    assert_eq!(told(&pins), ["eoi 40"]);
    assert!(io.interrupt(40).is_some());
}

#[test]
fn hardware_level_that_meets_a_masked_pin_waits() {
    let (pins, mut io) = hardware();
    entry(&mut io, 40, 0x8052);
    entry(&mut io, 40, 0x1_8052);
    assert_eq!(io.interrupt(40), None);
    told(&pins);
    assert_eq!(vectors(entry(&mut io, 40, 0x8052)), [0x52]);
    assert_eq!(told(&pins), ["unmask 40"]);
    eoi(&mut io, 0x52);
    assert_eq!(told(&pins), ["eoi 40"]);
}

#[test]
fn hardware_level_is_released_by_a_change_to_edge() {
    let (pins, mut io) = hardware();
    entry(&mut io, 40, 0x8052);
    io.interrupt(40);
    told(&pins);
    entry(&mut io, 40, 0x1_0052);
    assert_eq!(told(&pins), ["eoi 40", "mask 40"]);
    entry(&mut io, 40, 0x1_8052);
    assert!(entry(&mut io, 40, 0x8052).is_empty(), "nothing is held any more");
}

#[test]
fn hardware_level_nmi_is_released_at_once() {
    let (pins, mut io) = hardware();
    entry(&mut io, 40, 0x8400);
    told(&pins);
    assert_eq!(io.interrupt(40).unwrap().mode, DeliveryMode::Nmi);
    assert_eq!(told(&pins), ["eoi 40"]);
}

#[test]
fn hardware_edge_needs_no_end() {
    let (pins, mut io) = hardware();
    entry(&mut io, 26, 0x41);
    told(&pins);
    assert_eq!(io.interrupt(26).unwrap().trigger, Trigger::Edge);
    assert_eq!(io.interrupt(26).unwrap().vector, 0x41);
    assert!(told(&pins).is_empty());
}

#[test]
fn save_and_restore() {
    let mut a = ioapic();
    entry(&mut a, 24, 0x0500_0000_0000_0041);
    entry(&mut a, 71, 0x8052);
    a.set_line(71, true);
    a.mmio_write(0, 4, 0x6e, |_| panic!());
    let saved = a.save();
    assert_eq!(saved.len(), 400);
    assert_eq!(saved[..16], [0, 0, 0xc0, 0xfe, 0, 0, 0, 0, 0x6e, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(saved[392..], [0x52, 0xc0, 0, 0, 0, 0, 0, 0]);
    let mut b = ioapic();
    b.restore(&saved).unwrap();
    assert_eq!(b.save(), saved);
    b.set_line(71, true);
    assert_eq!(vectors(eoi(&mut b, 0x52)), [0x52]);

    let mut bad = saved;
    bad[1] = 0x10;
    assert_eq!(b.restore(&bad), Err(InvalidState));
    assert_eq!(hardware().1.restore(&saved), Err(InvalidState));
    // A remote IRR in an edge-triggered entry cannot be.
    bad = saved;
    bad[16..24].copy_from_slice(&0x4041u64.to_le_bytes());
    b.restore(&bad).unwrap();
    assert_eq!(read(&mut b, 0x10), 0x41);
}

proptest! {
    /// A level-triggered interrupt is sent once until it ended, whatever happens to the entry in between.
    #[test]
    fn remote_irr_guards_every_level_message(
        ops in prop::collection::vec((0u8..5, 0u32..2, any::<u32>()), 0..100),
        real: bool,
    ) {
        let (pins, mut io) = if real { hardware() } else { (hardware().0, ioapic()) };
        for (op, pin, value) in ops {
            let before = read(&mut io, 0x10 + 2 * pin);
            let sent: Vec<Message> = match op {
                0 => write(&mut io, 0x10 + 2 * pin, value),
                1 => write(&mut io, 0x11 + 2 * pin, value),
                2 if real => io.interrupt(24 + pin).into_iter().collect(),
                2 => io.set_line(24 + pin, value & 1 != 0).into_iter().collect(),
                3 => eoi(&mut io, before as u8),
                _ => eoi(&mut io, value as u8),
            };
            for pin in 0..2 {
                let low = read(&mut io, 0x10 + 2 * pin);
                prop_assert!(low & 0x8000 != 0 || low & 0x4000 == 0, "remote IRR in an edge entry");
            }
            if op < 3 && before & 0xc000 == 0xc000 && read(&mut io, 0x10 + 2 * pin) & 0xc000 == 0xc000 {
                prop_assert!(sent.is_empty(), "not over yet");
            }
            if op == 3 && real && before & 0x4000 != 0 {
                let line = format!("eoi {}", 24 + pin);
                prop_assert!(told(&pins).contains(&line));
            }
            told(&pins);
        }
    }
}
