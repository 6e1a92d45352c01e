//! The high precision event timer (IA-PC HPET specification 1.0a): a 64-bit counter at 62.5 MHz and three comparators.
//!
//! A comparator that software sets a little into the past (less than [`SLIPPED`] ticks) fires at once instead of after the
//! counter's next round, since a guest cannot know how long an emulated access takes. Missed periods are one interrupt.
//! Interrupts go to I/O APIC pins 20 to 23 as routed, or with legacy replacement to ISA lines 0 and 8 for timers 0 and
//! 1: the owner disconnects PIT and RTC then ([`Hpet::replaces_legacy`]).

use radon_core::types::Nanoseconds;

use super::bus::{Board, MmioDevice, Timed};
use super::clock::MIN_PERIOD;

/// Bytes of the register block.
pub const MMIO_SIZE: u64 = 0x400;
/// Where a PC has it.
pub const MMIO_BASE: u64 = 0xfed0_0000;
/// Nanoseconds in a tick.
pub const TICK: u64 = 16;

/// Ticks by which a comparator may lie in the past and still fire: a quarter of a second.
pub const SLIPPED: u64 = 1 << 24;

const TIMERS: usize = 3;
/// Period in femtoseconds, vendor, legacy replacement, 64-bit counter, number of timers less one, revision.
const CAPABILITIES: u64 = (TICK * 1_000_000) << 32 | 0x8086_0000 | 1 << 15 | 1 << 13 | (TIMERS as u64 - 1) << 8 | 1;

const ENABLE: u64 = 1 << 0;
const LEGACY: u64 = 1 << 1;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const ROUTE_SHIFT: u32 = 9;
const WRITABLE: u64 = LEVEL | INTERRUPT | PERIODIC | SET_VALUE | MODE_32 | ROUTE;
/// I/O APIC pins 20 to 23; periodic and 64-bit capable.
const TIMER_CAPABILITIES: u64 = 0x00f0_0000 << 32 | 1 << 4 | 1 << 5;

#[derive(Clone, Copy, Debug)]
struct Timer {
    config: u64,
    comparator: u64,
    period: u64,
    /// The tick (of system time) at which it fires next, while the counter runs.
    due: Option<u64>,
    not_before: Nanoseconds,
}

/// Where a timer's interrupt goes.
enum Line {
    Isa(u8),
    Gsi(u32),
}

impl Timer {
    const RESET: Timer =
        Timer { config: TIMER_CAPABILITIES, comparator: u64::MAX, period: 0, due: None, not_before: Nanoseconds(0) };

    const fn has(&self, flag: u64) -> bool {
        self.config & flag != 0
    }

    /// The part of counter and comparator that counts.
    const fn mask(&self) -> u64 {
        if self.has(MODE_32) { 0xffff_ffff } else { u64::MAX }
    }

    /// Works out when the counter, which reads `counter` at tick `now`, meets the comparator; at once if it is less than
    /// `slipped` ticks past it.
    fn arm(&mut self, counter: u64, now: u64, slipped: u64) {
        let ahead = self.comparator.wrapping_sub(counter) & self.mask();
        let behind = counter.wrapping_sub(self.comparator) & self.mask();
        self.due = Some(if behind < slipped { now } else { now.saturating_add(ahead) });
        self.not_before = Nanoseconds(0);
    }

    /// Fires if due by tick `now`. Returns whether it did.
    fn fire(&mut self, now: u64) -> bool {
        let Some(due) = self.due.filter(|due| *due <= now) else { return false };
        let period = self.period & self.mask();
        if self.has(PERIODIC) && period != 0 {
            // The periods that are over, this one included.
            let periods = now.saturating_sub(due).checked_div(period).unwrap_or(0).saturating_add(1);
            let advance = periods.saturating_mul(period);
            self.comparator = self.comparator.wrapping_add(advance) & self.mask();
            self.due = due.checked_add(advance);
            self.not_before = Nanoseconds(now.saturating_mul(TICK)).saturating_add(MIN_PERIOD);
        } else {
            // A 32-bit counter meets it again after its next round; a 64-bit one not in this machine's life.
            let round = if self.has(MODE_32) { Some(1u64 << 32) } else { None };
            let rounds = |r: u64| now.saturating_sub(due).checked_div(r).unwrap_or(0).saturating_add(1);
            self.due = round.and_then(|r| due.checked_add(rounds(r).saturating_mul(r)));
        }
        true
    }
}

/// The event timer block.
#[derive(Clone, Debug)]
pub struct Hpet {
    config: u64,
    status: u64,
    /// The counter while halted; its value at tick 0 of system time (modulo 2^64) while it runs.
    counter: u64,
    timers: [Timer; TIMERS],
}

impl Default for Hpet {
    fn default() -> Self {
        Hpet::new()
    }
}

const fn ticks(now: Nanoseconds) -> u64 {
    now.0 / TICK
}

impl Hpet {
    /// The block after reset: halted at zero.
    #[must_use]
    pub fn new() -> Hpet {
        Hpet { config: 0, status: 0, counter: 0, timers: [Timer::RESET; TIMERS] }
    }

    /// Whether timers 0 and 1 stand in for PIT and RTC, whose interrupts have to be disconnected meanwhile.
    #[must_use]
    pub fn replaces_legacy(&self) -> bool {
        self.config & LEGACY != 0
    }

    fn runs(&self) -> bool {
        self.config & ENABLE != 0
    }

    fn counter(&self, now: u64) -> u64 {
        if self.runs() { self.counter.wrapping_add(now) } else { self.counter }
    }

    fn line(&self, number: usize) -> Line {
        match number {
            0 if self.replaces_legacy() => Line::Isa(0),
            1 if self.replaces_legacy() => Line::Isa(8),
            _ => {
                let config = self.timers.get(number).map_or(0, |t| t.config);
                Line::Gsi(((config & ROUTE) >> ROUTE_SHIFT) as u32)
            }
        }
    }

    fn drive(&self, number: usize, asserted: bool, board: &mut dyn Board) {
        match self.line(number) {
            Line::Isa(irq) => board.isa_irq(irq, asserted),
            Line::Gsi(gsi @ 20..=23) => board.gsi(gsi, asserted),
            Line::Gsi(_) => {}
        }
    }

    /// Drives each level-triggered timer's line by its status. The status bit is the interrupt; the line is it, enabled.
    fn drive_levels(&self, board: &mut dyn Board) {
        for (number, timer) in self.timers.iter().enumerate() {
            if timer.has(LEVEL) {
                let pending = self.status & 1u64.wrapping_shl(number as u32) != 0;
                self.drive(number, pending && timer.has(INTERRUPT), board);
            }
        }
    }

    fn read(&self, register: u64, now: u64) -> u64 {
        match register {
            0x00 => CAPABILITIES,
            0x10 => self.config,
            0x20 => self.status,
            0xf0 => self.counter(now),
            _ => {
                let Some(timer) = timer_of(register).and_then(|n| self.timers.get(n)) else { return 0 };
                match register & 0x1f {
                    0x00 => timer.config,
                    0x08 => timer.comparator,
                    _ => 0,
                }
            }
        }
    }

    /// Writes a register; `written` are the bits that the access covers, `value` has the others as they were.
    fn write(&mut self, register: u64, value: u64, written: u64, now: u64, board: &mut dyn Board) {
        match register {
            0x10 => self.write_config(value & (ENABLE | LEGACY), now, board),
            0x20 => {
                self.status &= !(value & written);
                self.drive_levels(board);
            }
            0xf0 if !self.runs() => self.counter = value,
            _ => {
                let counter = self.counter(now);
                let Some(number) = timer_of(register) else { return };
                if register & 0x1f == 0 {
                    // Whatever the old configuration asserted is released.
                    self.drive(number, false, board);
                }
                let runs = self.runs();
                let Some(timer) = self.timers.get_mut(number) else { return };
                match register & 0x1f {
                    0x00 => {
                        timer.config = (value & WRITABLE) | TIMER_CAPABILITIES;
                        timer.comparator &= timer.mask();
                        if !timer.has(LEVEL) {
                            self.status &= !1u64.wrapping_shl(number as u32);
                        }
                    }
                    0x08 => {
                        let value = value & timer.mask();
                        // A periodic timer's comparator takes the value only if that was asked for; the period always.
                        if !timer.has(PERIODIC) || timer.has(SET_VALUE) {
                            timer.comparator = value;
                        }
                        timer.period = value;
                        timer.config &= !SET_VALUE;
                    }
                    _ => return,
                }
                if runs {
                    let slipped = if register & 0x1f == 0x08 { SLIPPED } else { 0 };
                    timer.arm(counter, now, slipped);
                }
                self.fire(now, board);
                self.drive_levels(board);
            }
        }
    }

    fn write_config(&mut self, config: u64, now: u64, board: &mut dyn Board) {
        let counter = self.counter(now);
        for number in 0..TIMERS {
            self.drive(number, false, board);
        }
        self.config = config;
        self.counter = if self.runs() { counter.wrapping_sub(now) } else { counter };
        let runs = self.runs();
        for timer in &mut self.timers {
            if runs {
                timer.arm(counter, now, 0);
            } else {
                timer.due = None;
            }
        }
        self.fire(now, board);
        self.drive_levels(board);
    }

    fn fire(&mut self, now: u64, board: &mut dyn Board) {
        for number in 0..TIMERS {
            let Some(timer) = self.timers.get_mut(number) else { continue };
            // A timer without interrupt does nothing that could be seen but advance its comparator.
            if !timer.fire(now) {
                continue;
            }
            let (level, enabled) = (timer.has(LEVEL), timer.has(INTERRUPT));
            if level {
                self.status |= 1u64.wrapping_shl(number as u32);
            } else if enabled {
                self.drive(number, true, board);
                self.drive(number, false, board);
            }
        }
        self.drive_levels(board);
    }
}

/// The timer that a register belongs to.
fn timer_of(register: u64) -> Option<usize> {
    let n = register.checked_sub(0x100)? >> 5;
    (n < TIMERS as u64).then_some(n as usize)
}

impl MmioDevice for Hpet {
    /// Registers are read by aligned accesses of 32 or 64 bits; others give ones.
    fn mmio_read(&mut self, offset: u64, len: u8, now: Nanoseconds, board: &mut dyn Board) -> u64 {
        let now = ticks(now);
        self.fire(now, board);
        match (len, offset & 7) {
            (8, 0) => self.read(offset, now),
            (4, 0) => self.read(offset, now) & 0xffff_ffff,
            (4, 4) => self.read(offset & !7, now) >> 32,
            _ => u64::MAX,
        }
    }

    /// Registers are written by aligned accesses of 32 or 64 bits; others are dropped.
    fn mmio_write(&mut self, offset: u64, len: u8, value: u64, now: Nanoseconds, board: &mut dyn Board) {
        let now = ticks(now);
        self.fire(now, board);
        let register = offset & !7;
        let old = self.read(register, now);
        let (value, written) = match (len, offset & 7) {
            (8, 0) => (value, u64::MAX),
            (4, 0) => ((old & !0xffff_ffff) | (value & 0xffff_ffff), 0xffff_ffff),
            (4, 4) => ((old & 0xffff_ffff) | value << 32, !0xffff_ffff),
            _ => return,
        };
        self.write(register, value, written, now, board);
    }
}

impl Timed for Hpet {
    fn next_deadline(&self) -> Option<Nanoseconds> {
        let pending = |number: usize| self.status & 1u64.wrapping_shl(number as u32) != 0;
        self.timers
            .iter()
            .enumerate()
            .filter(|(n, t)| t.has(INTERRUPT) && !(t.has(LEVEL) && pending(*n)))
            .filter_map(|(_, t)| t.due.map(|due| Nanoseconds(due.saturating_mul(TICK)).max(t.not_before)))
            .min()
    }

    fn run(&mut self, now: Nanoseconds, board: &mut dyn Board) {
        self.fire(ticks(now), board);
    }
}

#[cfg(test)]
#[path = "hpet_tests.rs"]
mod tests;
