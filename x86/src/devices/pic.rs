//! The pair of 8259A interrupt controllers of a PC, with the edge/level control registers of later chipsets (Intel
//! 8259A data sheet).
//!
//! The slave's output is the master's input 2. Choices where the parts differ: an edge that was latched stays requested
//! when its line falls; input 2 of the master follows the slave's output as a level.

use radon_core::types::Nanoseconds;

use super::bus::{Board, PortDevice};

/// The ports: first and number.
pub const PORT_RANGES: [(u16, u16); 3] = [(0x20, 2), (0xa0, 2), (0x4d0, 2)];

/// The master's input that the slave's output drives.
const CASCADE: u8 = 2;
/// Lines that may be level-triggered, by controller.
const LEVEL_ALLOWED: [u8; 2] = [0xf8, 0xde];

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Init {
    #[default]
    Done,
    Word2,
    Word3,
    Word4,
}

#[derive(Clone, Copy, Debug, Default)]
struct Chip {
    master: bool,
    irr: u8,
    imr: u8,
    isr: u8,
    /// Input lines as last driven.
    lines: u8,
    /// Lines that are level-triggered.
    level: u8,
    base: u8,
    init: Init,
    single: bool,
    needs_word4: bool,
    /// The input of highest priority.
    first: u8,
    read_isr: bool,
    poll: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
}

const fn bit(line: u8) -> u8 {
    1u8.wrapping_shl(line as u32)
}

impl Chip {
    fn reset(&mut self) {
        let level = self.level;
        *self = Chip { master: self.master, lines: self.lines, level, base: self.base, ..Chip::default() };
        self.irr = self.lines & level;
    }

    fn set_line(&mut self, line: u8, asserted: bool) {
        let bit = bit(line);
        let rising = asserted && self.lines & bit == 0;
        self.lines = if asserted { self.lines | bit } else { self.lines & !bit };
        if self.level & bit != 0 {
            self.irr = (self.irr & !bit) | (self.lines & bit);
        } else if rising {
            self.irr |= bit;
        }
    }

    /// The rank (0 is first) and the number of the input of highest priority in `set`.
    fn highest(&self, set: u8) -> Option<(u32, u8)> {
        let rank = set.rotate_right(u32::from(self.first)).trailing_zeros();
        (rank < 8).then(|| (rank, (rank as u8).wrapping_add(self.first) & 7))
    }

    /// The input that asks for service, if one may.
    fn pending(&self) -> Option<u8> {
        let (rank, line) = self.highest(self.irr & !self.imr)?;
        let mut busy = self.isr;
        if self.special_mask {
            busy &= !self.imr;
        }
        if self.special_fully_nested && self.master {
            busy &= !bit(CASCADE);
        }
        match self.highest(busy) {
            Some((in_service, _)) if in_service <= rank => None,
            _ => Some(line),
        }
    }

    fn acknowledge(&mut self, line: u8) {
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.first = line.wrapping_add(1) & 7;
            }
        } else {
            self.isr |= bit(line);
        }
        if self.level & bit(line) == 0 {
            self.irr &= !bit(line);
        }
    }

    fn end(&mut self, line: u8, rotate: bool) {
        self.isr &= !bit(line);
        if rotate {
            self.first = line.wrapping_add(1) & 7;
        }
    }

    /// A write to the even port.
    fn command(&mut self, value: u8) {
        if value & 0x10 != 0 {
            self.reset();
            self.init = Init::Word2;
            self.single = value & 2 != 0;
            self.needs_word4 = value & 1 != 0;
        } else if value & 0x08 != 0 {
            self.poll = value & 4 != 0;
            if value & 2 != 0 {
                self.read_isr = value & 1 != 0;
            }
            if value & 0x40 != 0 {
                self.special_mask = value & 0x20 != 0;
            }
        } else {
            let line = value & 7;
            // With special masks, masked lines do not count for a non-specific EOI.
            let ending = if self.special_mask { self.isr & !self.imr } else { self.isr };
            match value >> 5 {
                0 => self.rotate_on_auto_eoi = false,
                4 => self.rotate_on_auto_eoi = true,
                operation @ (1 | 5) => {
                    if let Some((_, line)) = self.highest(ending) {
                        self.end(line, operation == 5);
                    }
                }
                operation @ (3 | 7) => self.end(line, operation == 7),
                6 => self.first = line.wrapping_add(1) & 7,
                _ => {}
            }
        }
    }

    /// A write to the odd port.
    fn data(&mut self, value: u8) {
        let last = if self.needs_word4 { Init::Word4 } else { Init::Done };
        match self.init {
            Init::Done => self.imr = value,
            Init::Word2 => {
                self.base = value & 0xf8;
                self.init = if self.single { last } else { Init::Word3 };
            }
            Init::Word3 => self.init = last,
            Init::Word4 => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 2 != 0;
                self.init = Init::Done;
            }
        }
    }

    /// The selected status register; a poll is an acknowledge cycle by software.
    fn status(&mut self) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.pending() {
                Some(line) => {
                    self.acknowledge(line);
                    0x80 | line
                }
                None => 0,
            };
        }
        if self.read_isr { self.isr } else { self.irr }
    }
}

/// Both controllers.
#[derive(Clone, Debug)]
pub struct Pic {
    master: Chip,
    slave: Chip,
}

impl Default for Pic {
    fn default() -> Self {
        Pic::new()
    }
}

impl Pic {
    /// The controllers after reset.
    #[must_use]
    pub fn new() -> Pic {
        Pic { master: Chip { master: true, ..Chip::default() }, slave: Chip::default() }
    }

    /// Drives ISA line `irq` (0 to 15; line 2 is the cascade and cannot be driven).
    pub fn set_line(&mut self, irq: u8, asserted: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set_line(irq, asserted),
            8..16 => self.slave.set_line(irq & 7, asserted),
            _ => {}
        }
        self.cascade();
    }

    /// Whether the controllers interrupt the processor.
    #[must_use]
    pub fn output(&self) -> bool {
        self.master.pending().is_some()
    }

    /// Whether a line is masked, by its own mask bit or the cascade's: its device need not be precise then.
    #[must_use]
    pub fn is_masked(&self, irq: u8) -> bool {
        if irq < 8 {
            self.master.imr & bit(irq) != 0
        } else {
            self.master.imr & bit(CASCADE) != 0 || self.slave.imr & bit(irq & 7) != 0
        }
    }

    /// The processor's acknowledge cycle: the vector to take. A request that is gone gives the spurious vector of the
    /// lowest line.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.master.pending() {
            Some(CASCADE) => {
                self.master.acknowledge(CASCADE);
                let line = self.slave.pending();
                if let Some(line) = line {
                    self.slave.acknowledge(line);
                }
                self.slave.base | line.unwrap_or(7)
            }
            Some(line) => {
                self.master.acknowledge(line);
                self.master.base | line
            }
            None => self.master.base | 7,
        };
        self.cascade();
        vector
    }

    fn cascade(&mut self) {
        let asserted = self.slave.pending().is_some();
        let bit = bit(CASCADE);
        self.master.irr = if asserted { self.master.irr | bit } else { self.master.irr & !bit };
    }
}

impl PortDevice for Pic {
    fn read_byte(&mut self, port: u16, _: Nanoseconds, _: &mut dyn Board) -> u8 {
        let value = match port {
            0x20 => self.master.status(),
            0xa0 => self.slave.status(),
            0x21 => self.master.imr,
            0xa1 => self.slave.imr,
            0x4d0 => self.master.level,
            0x4d1 => self.slave.level,
            _ => 0xff,
        };
        // A poll may have changed what the slave asks for.
        self.cascade();
        value
    }

    fn write_byte(&mut self, port: u16, value: u8, _: Nanoseconds, _: &mut dyn Board) {
        let [master_level, slave_level] = LEVEL_ALLOWED;
        match port {
            0x20 => self.master.command(value),
            0xa0 => self.slave.command(value),
            0x21 => self.master.data(value),
            0xa1 => self.slave.data(value),
            0x4d0 => self.master.level = value & master_level,
            0x4d1 => self.slave.level = value & slave_level,
            _ => {}
        }
        self.cascade();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_board::TestBoard;

    fn out(p: &mut Pic, port: u16, value: u8) {
        p.write_byte(port, value, Nanoseconds(0), &mut TestBoard::default());
    }

    fn inb(p: &mut Pic, port: u16) -> u8 {
        p.read_byte(port, Nanoseconds(0), &mut TestBoard::default())
    }

    /// As a PC's firmware sets them up: vectors 0x20 and 0x28, nothing masked.
    fn pc() -> Pic {
        let mut p = Pic::new();
        for (port, base, icw3) in [(0x20, 0x20, 4), (0xa0, 0x28, 2)] {
            out(&mut p, port, 0x11);
            out(&mut p, port + 1, base);
            out(&mut p, port + 1, icw3);
            out(&mut p, port + 1, 1);
        }
        p
    }

    #[test]
    fn edge() {
        let mut p = pc();
        assert!(!p.output());
        p.set_line(1, true);
        assert!(p.output());
        assert_eq!(p.acknowledge(), 0x21);
        assert!(!p.output());
        p.set_line(1, true);
        out(&mut p, 0x20, 0x20);
        assert!(!p.output(), "no new edge");
        p.set_line(1, false);
        p.set_line(1, true);
        assert!(p.output());
    }

    #[test]
    fn level() {
        let mut p = pc();
        out(&mut p, 0x4d1, 1 << 3);
        p.set_line(11, true);
        assert_eq!(p.acknowledge(), 0x2b);
        assert!(!p.output(), "in service");
        out(&mut p, 0xa0, 0x20);
        out(&mut p, 0x20, 0x20);
        assert!(p.output(), "still asserted");
        p.set_line(11, false);
        assert!(!p.output());
    }

    #[test]
    fn level_control_is_limited() {
        let mut p = pc();
        out(&mut p, 0x4d0, 0xff);
        out(&mut p, 0x4d1, 0xff);
        assert_eq!((inb(&mut p, 0x4d0), inb(&mut p, 0x4d1)), (0xf8, 0xde));
    }

    #[test]
    fn priorities_and_nesting() {
        let mut p = pc();
        p.set_line(4, true);
        assert_eq!(p.acknowledge(), 0x24);
        p.set_line(5, true);
        assert!(!p.output(), "lower");
        p.set_line(9, true);
        assert_eq!(p.acknowledge(), 0x29, "the slave is above line 3");
        p.set_line(8, true);
        assert!(!p.output(), "the cascade is in service at the master");
        out(&mut p, 0xa0, 0x20);
        out(&mut p, 0x20, 0x20);
        assert_eq!(p.acknowledge(), 0x28);
    }

    #[test]
    fn special_fully_nested() {
        let mut p = pc();
        out(&mut p, 0x20, 0x11);
        for word in [0x20, 4, 0x11] {
            out(&mut p, 0x21, word);
        }
        p.set_line(9, true);
        assert_eq!(p.acknowledge(), 0x29);
        p.set_line(8, true);
        assert!(p.output());
        assert_eq!(p.acknowledge(), 0x28);
    }

    #[test]
    fn masks() {
        let mut p = pc();
        out(&mut p, 0x21, 0xfb);
        out(&mut p, 0xa1, 0xfe);
        p.set_line(3, true);
        assert!(!p.output());
        p.set_line(8, true);
        assert!(p.output());
        assert!(p.is_masked(3) && p.is_masked(9) && !p.is_masked(8));
        out(&mut p, 0x21, 0xff);
        assert!(p.is_masked(8));
        assert!(!p.output());
        assert_eq!(inb(&mut p, 0x21), 0xff);
        out(&mut p, 0x21, 0xf7);
        assert_eq!(p.acknowledge(), 0x23, "a masked edge is remembered");
    }

    #[test]
    fn spurious() {
        let mut p = pc();
        assert_eq!(p.acknowledge(), 0x27);
        out(&mut p, 0x20, 0x0b);
        assert_eq!(inb(&mut p, 0x20), 0, "nothing in service");
    }

    #[test]
    fn status_and_poll() {
        let mut p = pc();
        p.set_line(6, true);
        out(&mut p, 0x20, 0x0a);
        assert_eq!(inb(&mut p, 0x20), 0x40);
        out(&mut p, 0x20, 0x0c);
        assert_eq!(inb(&mut p, 0x20), 0x86);
        assert!(!p.output());
        out(&mut p, 0x20, 0x0b);
        assert_eq!(inb(&mut p, 0x20), 0x40, "in service");
        out(&mut p, 0x20, 0x0c);
        assert_eq!(inb(&mut p, 0x20), 0, "nothing to poll");
    }

    #[test]
    fn polling_the_slave_takes_back_its_request() {
        let mut p = pc();
        p.set_line(12, true);
        assert!(p.output());
        out(&mut p, 0xa0, 0x0c);
        assert_eq!(inb(&mut p, 0xa0), 0x84);
        assert!(!p.output());
    }

    #[test]
    fn specific_end_and_rotation() {
        let mut p = pc();
        p.set_line(3, true);
        p.acknowledge();
        p.set_line(1, true);
        p.acknowledge();
        out(&mut p, 0x20, 0x63);
        out(&mut p, 0x20, 0x0b);
        assert_eq!(inb(&mut p, 0x20), 0x02);
        // End line 1 and make it the lowest: now 5 is above it.
        out(&mut p, 0x20, 0xa0);
        p.set_line(1, false);
        p.set_line(1, true);
        p.set_line(5, true);
        assert_eq!(p.acknowledge(), 0x25);
        out(&mut p, 0x20, 0x20);
        // Line 7 lowest again.
        out(&mut p, 0x20, 0xc7);
        p.set_line(5, false);
        p.set_line(5, true);
        assert_eq!(p.acknowledge(), 0x21);
    }

    #[test]
    fn automatic_end() {
        let mut p = pc();
        out(&mut p, 0x20, 0x11);
        for word in [0x20, 4, 0x03] {
            out(&mut p, 0x21, word);
        }
        p.set_line(0, true);
        assert_eq!(p.acknowledge(), 0x20);
        p.set_line(1, true);
        assert!(p.output());
        out(&mut p, 0x20, 0x80);
        assert_eq!(p.acknowledge(), 0x21);
        p.set_line(0, false);
        p.set_line(0, true);
        p.set_line(3, true);
        assert_eq!(p.acknowledge(), 0x23, "line 1 is the lowest after rotation");
    }

    #[test]
    fn special_mask() {
        let mut p = pc();
        p.set_line(2, true);
        p.set_line(1, true);
        p.acknowledge();
        out(&mut p, 0x20, 0x68);
        out(&mut p, 0x21, 0x02);
        p.set_line(4, true);
        assert_eq!(p.acknowledge(), 0x24, "the masked line in service does not block");
    }

    #[test]
    fn initialisation_clears() {
        let mut p = pc();
        out(&mut p, 0x21, 0xff);
        p.set_line(1, true);
        out(&mut p, 0x20, 0x13);
        out(&mut p, 0x21, 0x48);
        out(&mut p, 0x21, 0x01);
        assert_eq!(inb(&mut p, 0x21), 0);
        assert!(!p.output(), "edges are forgotten");
        p.set_line(1, false);
        p.set_line(1, true);
        assert_eq!(p.acknowledge(), 0x49);
    }
}
