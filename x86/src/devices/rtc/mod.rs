//! The CMOS real-time clock of a PC (Motorola MC146818A data sheet) and its battery-backed memory.
//!
//! The clock is an offset to system time: nothing ticks. Flags of register C are *settled* (made true for all that
//! happened since the last look) before any access, and by the owner at [`Timed::next_deadline`]. The interrupt is ISA
//! line 8, asserted until register C is read.
//!
//! Choices: the oscillator is always running; a time that software sets takes effect at the next second of system time's
//! phase at once; impossible dates carry over (31 February is 2 or 3 March). The century is a memory byte at 0x32.

use radon_core::types::Nanoseconds;

use super::bus::{Board, PortDevice, Timed};
use super::clock::Rate;

mod calendar;
#[cfg(test)]
mod tests;

use calendar::{DateTime, weekday};

/// The ports: index and data.
pub const PORT: u16 = 0x70;
/// How many.
pub const PORTS: u16 = 2;
/// Bytes of memory, registers included.
pub const CMOS_SIZE: usize = 128;

const IRQ: u8 = 8;
const SECOND: i64 = 1_000_000_000;
/// For how long before the clock advances UIP announces it.
const UPDATE_WARNING: i64 = 244_000;
const OSCILLATOR: Rate = Rate::from_hz(32_768);

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
const CENTURY: u8 = 0x32;

const A_UPDATING: u8 = 1 << 7;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
/// Register C's interrupt flags have the places of their enables in register B.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
const C_INTERRUPT: u8 = 1 << 7;
const D_VALID: u8 = 1 << 7;
/// In 12-hour mode: afternoon.
const PM: u8 = 1 << 7;
/// Alarm values from here on mean "any".
const ANY: u8 = 0xc0;

/// The real-time clock.
#[derive(Clone, Debug)]
pub struct Rtc {
    /// The clock's nanoseconds since 1970 at system time zero.
    base: i64,
    /// The time that is being set, while register B says so.
    frozen: Option<DateTime>,
    weekday_shift: i64,
    index: u8,
    a: u8,
    b: u8,
    c: u8,
    memory: [u8; CMOS_SIZE],
    /// Up to when `c` is settled.
    settled: Nanoseconds,
}

impl Rtc {
    /// A clock that reads `epoch` (nanoseconds since 1970-01-01, in the guest's time zone) at system time zero.
    #[must_use]
    pub fn new(epoch: i64, now: Nanoseconds) -> Rtc {
        Rtc {
            base: epoch,
            frozen: None,
            weekday_shift: 0,
            index: 0,
            a: 0x26,
            b: B_24_HOURS,
            c: 0,
            memory: [0; CMOS_SIZE],
            settled: now,
        }
    }

    /// The clock's time in nanoseconds since 1970, without the offset that system time adds: what has to be kept for the
    /// guest when it set its clock.
    #[must_use]
    pub fn base(&self) -> i64 {
        self.base
    }

    /// Sets a byte of the battery-backed memory from outside, as firmware settings are. Clock registers are not affected.
    pub fn set_memory(&mut self, index: u8, value: u8) {
        if let Some(byte) = self.memory.get_mut(usize::from(index)) {
            *byte = value;
        }
    }

    fn memory(&self, index: u8) -> u8 {
        self.memory.get(usize::from(index)).copied().unwrap_or(0xff)
    }

    /// The clock in nanoseconds since 1970.
    fn clock(&self, now: Nanoseconds) -> i64 {
        self.base.saturating_add_unsigned(now.0)
    }

    fn seconds(&self, now: Nanoseconds) -> i64 {
        self.clock(now).div_euclid(SECOND)
    }

    /// The system time at which the clock reaches `seconds`.
    fn time_of(&self, seconds: i64) -> Nanoseconds {
        let at = i128::from(seconds).saturating_mul(i128::from(SECOND)).saturating_sub(i128::from(self.base));
        Nanoseconds(u64::try_from(at.max(0)).unwrap_or(u64::MAX))
    }

    fn encode(&self, value: i64) -> u8 {
        let value = value.rem_euclid(100) as u8;
        if self.b & B_BINARY != 0 { value } else { ((value / 10) << 4) | (value % 10) }
    }

    fn decode(&self, value: u8) -> i64 {
        let value = i64::from(value);
        if self.b & B_BINARY != 0 { value } else { (value >> 4).wrapping_mul(10).wrapping_add(value & 0xf) }
    }

    fn encode_hour(&self, hour: i64) -> u8 {
        if self.b & B_24_HOURS != 0 {
            return self.encode(hour);
        }
        let twelve = match hour % 12 {
            0 => 12,
            h => h,
        };
        self.encode(twelve) | if hour >= 12 { PM } else { 0 }
    }

    fn decode_hour(&self, value: u8) -> i64 {
        if self.b & B_24_HOURS != 0 {
            return self.decode(value);
        }
        let hour = self.decode(value & !PM) % 12;
        if value & PM != 0 { hour.wrapping_add(12) } else { hour }
    }

    fn date_time(&self, now: Nanoseconds) -> DateTime {
        self.frozen.unwrap_or_else(|| DateTime::from_seconds(self.seconds(now)))
    }

    fn read_register(&mut self, now: Nanoseconds) -> u8 {
        let t = self.date_time(now);
        match self.index {
            SECONDS => self.encode(t.second),
            MINUTES => self.encode(t.minute),
            HOURS => self.encode_hour(t.hour),
            WEEKDAY => {
                let day = weekday(t.to_seconds()).wrapping_add(self.weekday_shift).rem_euclid(7);
                self.encode(day.wrapping_add(1))
            }
            DAY => self.encode(t.day),
            MONTH => self.encode(t.month),
            YEAR => self.encode(t.year),
            CENTURY => self.encode(t.year / 100),
            REG_A => {
                let left = SECOND.wrapping_sub(self.clock(now).rem_euclid(SECOND));
                let updating = self.frozen.is_none() && left <= UPDATE_WARNING;
                self.a | if updating { A_UPDATING } else { 0 }
            }
            REG_B => self.b,
            REG_C => {
                let flags = self.c | self.interrupt();
                self.c = 0;
                flags
            }
            REG_D => D_VALID,
            index => self.memory(index),
        }
    }

    fn write_register(&mut self, value: u8, now: Nanoseconds) {
        match self.index {
            SECONDS | MINUTES | HOURS | DAY | MONTH | YEAR | CENTURY => self.write_time(value, now),
            WEEKDAY => {
                let own = weekday(self.date_time(now).to_seconds());
                self.weekday_shift = self.decode(value).wrapping_sub(1).wrapping_sub(own);
            }
            REG_A => self.a = value & !A_UPDATING,
            REG_B => self.write_b(value, now),
            REG_C | REG_D => {}
            index => self.set_memory(index, value),
        }
    }

    fn write_time(&mut self, value: u8, now: Nanoseconds) {
        let number = self.decode(value);
        let mut t = self.date_time(now);
        match self.index {
            SECONDS => t.second = number,
            MINUTES => t.minute = number,
            HOURS => t.hour = self.decode_hour(value),
            DAY => t.day = number,
            MONTH => t.month = number,
            YEAR => t.year = t.year.wrapping_sub(t.year.rem_euclid(100)).wrapping_add(number),
            _ => t.year = number.wrapping_mul(100).wrapping_add(t.year.rem_euclid(100)),
        }
        if self.frozen.is_some() {
            self.frozen = Some(t);
        } else {
            self.set_clock(t, now);
        }
    }

    /// Moves the clock to `t`; the fraction of the running second stays.
    fn set_clock(&mut self, t: DateTime, now: Nanoseconds) {
        let change = t.to_seconds().saturating_sub(self.seconds(now)).saturating_mul(SECOND);
        self.base = self.base.saturating_add(change);
    }

    fn write_b(&mut self, value: u8, now: Nanoseconds) {
        match (self.frozen, value & B_SET != 0) {
            (None, true) => self.frozen = Some(self.date_time(now)),
            (Some(t), false) => {
                self.frozen = None;
                self.set_clock(t, now);
            }
            _ => {}
        }
        // Setting the time stops updates and their interrupt.
        self.b = if value & B_SET != 0 { value & !UPDATE } else { value };
    }

    /// Register C's interrupt flag.
    fn interrupt(&self) -> u8 {
        if self.b & self.c & (PERIODIC | ALARM | UPDATE) != 0 { C_INTERRUPT } else { 0 }
    }

    /// log2 of the periodic interrupt's period in ticks of the oscillator; `None` if it is off.
    fn period_log2(&self) -> Option<u32> {
        match u32::from(self.a & 0xf) {
            0 => None,
            // The first two rates repeat later ones.
            rate @ (1 | 2) => Some(rate.wrapping_add(6)),
            rate => Some(rate.wrapping_sub(1)),
        }
    }

    /// The first second after `seconds` at which the alarm registers match; `None` if they never do. Steps over what
    /// cannot match: at most 25 hours, 60 minutes and 60 seconds are tried.
    fn next_alarm(&self, seconds: i64) -> Option<i64> {
        let wanted = |index: u8| Some(self.memory(index)).filter(|v| *v < ANY);
        let second = wanted(SECONDS_ALARM).map(|v| self.decode(v));
        let minute = wanted(MINUTES_ALARM).map(|v| self.decode(v));
        // In 12-hour mode the afternoon's hours have bit 7 but not bit 6.
        let hour = wanted(HOURS_ALARM).map(|v| self.decode_hour(v));
        let is = |wanted: Option<i64>, value: i64| wanted.is_none_or(|w| w == value);
        let mut at = seconds.checked_add(1)?;
        for _ in 0..(25 + 60 + 60) {
            let of_day = at.rem_euclid(calendar::DAY);
            let step = if !is(hour, of_day / 3600) {
                3600i64.wrapping_sub(of_day % 3600)
            } else if !is(minute, of_day / 60 % 60) {
                60i64.wrapping_sub(of_day % 60)
            } else if !is(second, of_day % 60) {
                1
            } else {
                return Some(at);
            };
            at = at.checked_add(step)?;
        }
        None
    }

    /// Makes register C's flags true for all that happened up to `now`.
    fn settle(&mut self, now: Nanoseconds) {
        let before = self.settled;
        self.settled = now.max(before);
        if let Some(log2) = self.period_log2() {
            let periods = |t| OSCILLATOR.ticks(t).wrapping_shr(log2);
            if periods(now) > periods(before) {
                self.c |= PERIODIC;
            }
        }
        let (from, to) = (self.seconds(before), self.seconds(now));
        if self.frozen.is_none() && to > from {
            self.c |= UPDATE;
            if self.c & ALARM == 0 && self.next_alarm(from).is_some_and(|at| at <= to) {
                self.c |= ALARM;
            }
        }
    }

    fn drive(&self, board: &mut dyn Board) {
        board.isa_irq(IRQ, self.interrupt() != 0);
    }
}

impl PortDevice for Rtc {
    fn read_byte(&mut self, port: u16, now: Nanoseconds, board: &mut dyn Board) -> u8 {
        if port == PORT {
            // The index register is write-only.
            return 0xff;
        }
        self.settle(now);
        let value = self.read_register(now);
        self.drive(board);
        value
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Nanoseconds, board: &mut dyn Board) {
        if port == PORT {
            // Bit 7 masks NMIs on a PC, which is not modelled.
            self.index = value & 0x7f;
            return;
        }
        self.settle(now);
        self.write_register(value, now);
        self.drive(board);
    }
}

impl Timed for Rtc {
    fn next_deadline(&self) -> Option<Nanoseconds> {
        if self.interrupt() != 0 {
            // The line is asserted; nothing more can be noticed until register C is read.
            return None;
        }
        let seconds = self.seconds(self.settled);
        let runs = self.frozen.is_none();
        let periodic = self.period_log2().filter(|_| self.b & PERIODIC != 0).map(|log2| {
            let next = OSCILLATOR.ticks(self.settled).wrapping_shr(log2).wrapping_add(1);
            OSCILLATOR.time_of(next.wrapping_shl(log2))
        });
        let update = (runs && self.b & UPDATE != 0).then(|| self.time_of(seconds.saturating_add(1)));
        let alarm = if runs && self.b & ALARM != 0 { self.next_alarm(seconds) } else { None };
        [periodic, update, alarm.map(|at| self.time_of(at))].into_iter().flatten().min()
    }

    fn run(&mut self, now: Nanoseconds, board: &mut dyn Board) {
        self.settle(now);
        self.drive(board);
    }
}
