//! The 8254 programmable interval timer and the speaker port 0x61 (Intel 8254 data sheet).
//!
//! A channel's counter is computed from the time since it was loaded. Choice: a new count takes effect at once in every
//! mode, also where the part would first finish its period. Channel 0's output is ISA line 0; channel 2's gate is bit 0
//! of port 0x61; the gates of 0 and 1 are always on.

use radon_core::types::Nanoseconds;

use super::bus::{Board, PortDevice, Timed};
use super::clock::{MIN_PERIOD, Rate};

/// The ports: first and number.
pub const PORT_RANGES: [(u16, u16); 2] = [(0x40, 4), (0x61, 1)];
/// The input clock.
pub const HZ: u32 = 1_193_182;

const RATE: Rate = Rate::from_hz(HZ);
const IRQ: u8 = 0;

const GATE2: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// 0: output rises when the count ends.
    TerminalCount,
    /// 1: as 0, started by the gate.
    OneShot,
    /// 2: output falls for one tick per period.
    RateGenerator,
    /// 3: output is high for half of each period.
    SquareWave,
    /// 4: output falls for one tick when the count ends.
    SoftwareStrobe,
    /// 5: as 4, started by the gate.
    HardwareStrobe,
}

impl Mode {
    const fn from_bits(bits: u8) -> Mode {
        match bits & 7 {
            0 => Mode::TerminalCount,
            1 => Mode::OneShot,
            2 | 6 => Mode::RateGenerator,
            3 | 7 => Mode::SquareWave,
            4 => Mode::SoftwareStrobe,
            _ => Mode::HardwareStrobe,
        }
    }

    const fn bits(self) -> u8 {
        self as u8
    }

    const fn is_periodic(self) -> bool {
        matches!(self, Mode::RateGenerator | Mode::SquareWave)
    }

    const fn starts_by_gate(self) -> bool {
        matches!(self, Mode::OneShot | Mode::HardwareStrobe)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    Low,
    High,
    Both,
}

#[derive(Clone, Copy, Debug)]
struct Channel {
    mode: Mode,
    bcd: bool,
    access: Access,
    /// The count, 1 to 65536.
    count: u32,
    /// Whether a count was written since the mode was.
    loaded: bool,
    gate: bool,
    /// The clock tick at which counting (re)started; `None` before that, and `held` while the gate stops it.
    start: Option<u64>,
    /// Ticks counted when the gate stopped the counter.
    held: Option<u64>,
    /// Output edges that were passed on.
    edges: u64,
    not_before: Nanoseconds,
    write_low: Option<u8>,
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

impl Channel {
    const fn new(gate: bool) -> Channel {
        Channel {
            mode: Mode::SquareWave,
            bcd: false,
            access: Access::Both,
            count: 0x10000,
            loaded: false,
            gate,
            start: None,
            held: None,
            edges: 0,
            not_before: Nanoseconds(0),
            write_low: None,
            read_high: false,
            latched: None,
            latched_status: None,
        }
    }

    fn elapsed(&self, ticks: u64) -> Option<u64> {
        self.held.or_else(|| self.start.map(|start| ticks.saturating_sub(start)))
    }

    fn restart(&mut self, ticks: u64) {
        self.start = Some(ticks);
        self.held = None;
        self.edges = 0;
        self.not_before = Nanoseconds(0);
    }

    fn control(&mut self, value: u8) {
        self.mode = Mode::from_bits(value >> 1);
        self.bcd = value & 1 != 0;
        self.access = match value >> 4 & 3 {
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        self.loaded = false;
        self.start = None;
        self.held = None;
        self.edges = 0;
        self.write_low = None;
        self.read_high = false;
        self.latched = None;
        self.latched_status = None;
    }

    fn load(&mut self, raw: u16, ticks: u64) {
        self.count = match (raw, self.bcd) {
            (0, false) => 0x10000,
            (0, true) => 10_000,
            (_, false) => u32::from(raw),
            (_, true) => from_bcd(raw).max(1),
        };
        self.loaded = true;
        if !self.mode.starts_by_gate() {
            self.restart(ticks);
            if !self.gate {
                self.held = Some(0);
            }
        }
    }

    fn set_gate(&mut self, gate: bool, ticks: u64) {
        if gate == self.gate {
            return;
        }
        self.gate = gate;
        if !self.loaded {
            return;
        }
        match self.mode {
            Mode::TerminalCount | Mode::SoftwareStrobe => {
                if gate {
                    self.start = self.held.take().map(|held| ticks.saturating_sub(held));
                } else {
                    self.held = self.elapsed(ticks);
                }
            }
            Mode::RateGenerator | Mode::SquareWave => {
                if gate {
                    self.restart(ticks);
                } else {
                    self.held = Some(0);
                }
            }
            Mode::OneShot | Mode::HardwareStrobe => {
                if gate {
                    self.restart(ticks);
                }
            }
        }
    }

    fn write(&mut self, value: u8, ticks: u64) {
        match (self.access, self.write_low.take()) {
            (Access::Low, _) => self.load(u16::from(value), ticks),
            (Access::High, _) => self.load(u16::from(value) << 8, ticks),
            (Access::Both, None) => self.write_low = Some(value),
            (Access::Both, Some(low)) => self.load(u16::from_le_bytes([low, value]), ticks),
        }
    }

    /// What the counter reads.
    fn counter(&self, ticks: u64) -> u16 {
        let count = u64::from(self.count);
        let value = match self.elapsed(ticks) {
            None => count,
            Some(elapsed) => match self.mode {
                Mode::RateGenerator => count.saturating_sub(elapsed.checked_rem(count).unwrap_or(0)),
                // Counts down by two, twice a period.
                Mode::SquareWave => {
                    let even = count & !1;
                    even.saturating_sub((elapsed << 1).checked_rem(even).unwrap_or(0))
                }
                _ => {
                    let modulus = if self.bcd { 10_000 } else { 0x10000 };
                    // Goes on below zero.
                    let over = elapsed.checked_rem(modulus).unwrap_or(0);
                    count.wrapping_add(modulus).wrapping_sub(over).checked_rem(modulus).unwrap_or(0)
                }
            },
        };
        if self.bcd { to_bcd(value) } else { value as u16 }
    }

    fn output(&self, ticks: u64) -> bool {
        let count = u64::from(self.count);
        let Some(elapsed) = self.elapsed(ticks) else { return self.mode != Mode::TerminalCount };
        match self.mode {
            Mode::TerminalCount | Mode::OneShot => elapsed >= count,
            Mode::RateGenerator => elapsed.checked_rem(count).unwrap_or(0) != count.wrapping_sub(1) || !self.gate,
            Mode::SquareWave => elapsed.checked_rem(count).unwrap_or(0) < count.wrapping_add(1) >> 1 || !self.gate,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => elapsed != count,
        }
    }

    /// The clock tick of the first rising edge of the output that was not passed on yet.
    fn next_edge(&self) -> Option<u64> {
        if self.held.is_some() {
            return None;
        }
        let (start, count) = (self.start?, u64::from(self.count));
        let after = match self.mode {
            Mode::RateGenerator | Mode::SquareWave => self.edges.checked_add(1)?.checked_mul(count)?,
            _ if self.edges != 0 => return None,
            Mode::TerminalCount | Mode::OneShot => count,
            Mode::SoftwareStrobe | Mode::HardwareStrobe => count.checked_add(1)?,
        };
        start.checked_add(after)
    }

    /// Passes on the edges up to `ticks`. Returns whether there were any.
    fn settle(&mut self, ticks: u64, now: Nanoseconds) -> bool {
        if self.next_edge().is_none_or(|edge| edge > ticks) {
            return false;
        }
        self.edges = 1;
        if self.mode.is_periodic() {
            self.edges = self.elapsed(ticks).and_then(|e| e.checked_div(u64::from(self.count))).unwrap_or(1);
            self.not_before = now.saturating_add(MIN_PERIOD);
        }
        true
    }

    fn status(&self, ticks: u64) -> u8 {
        let access = match self.access {
            Access::Low => 1,
            Access::High => 2,
            Access::Both => 3,
        };
        let output = u8::from(self.output(ticks));
        output << 7 | u8::from(!self.loaded) << 6 | access << 4 | self.mode.bits() << 1 | u8::from(self.bcd)
    }

    fn latch(&mut self, ticks: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.counter(ticks));
        }
    }

    fn read(&mut self, ticks: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let [low, high] = self.latched.unwrap_or_else(|| self.counter(ticks)).to_le_bytes();
        let (value, done) = match self.access {
            Access::Low => (low, true),
            Access::High => (high, true),
            Access::Both => {
                self.read_high = !self.read_high;
                if self.read_high { (low, false) } else { (high, true) }
            }
        };
        if done {
            self.latched = None;
        }
        value
    }
}

/// The value of four decimal digits; digits above 9 count as they are.
fn from_bcd(raw: u16) -> u32 {
    let digit = |shift: u32| u32::from(raw.wrapping_shr(shift) & 0xf);
    let high = digit(12).wrapping_mul(1000).wrapping_add(digit(8).wrapping_mul(100));
    high.wrapping_add(digit(4).wrapping_mul(10)).wrapping_add(digit(0))
}

fn to_bcd(value: u64) -> u16 {
    let digit = |unit: u64| value.checked_div(unit).unwrap_or(0) % 10;
    (digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)) as u16
}

/// The interval timer.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    speaker: bool,
}

impl Default for Pit {
    fn default() -> Self {
        Pit::new()
    }
}

impl Pit {
    /// The timer after reset: no channel counts.
    #[must_use]
    pub fn new() -> Pit {
        Pit { channels: [Channel::new(true), Channel::new(true), Channel::new(false)], speaker: false }
    }

    fn channel(&mut self, number: u16) -> Option<&mut Channel> {
        self.channels.get_mut(usize::from(number))
    }

    fn control(&mut self, value: u8, ticks: u64) {
        let select = value >> 6;
        if select == 3 {
            // Read-back: bits 5 and 4 are active low.
            for (number, channel) in self.channels.iter_mut().enumerate() {
                if value & 2u8.wrapping_shl(number as u32) != 0 {
                    if value & 0x20 == 0 {
                        channel.latch(ticks);
                    }
                    if value & 0x10 == 0 && channel.latched_status.is_none() {
                        channel.latched_status = Some(channel.status(ticks));
                    }
                }
            }
        } else if let Some(channel) = self.channel(u16::from(select)) {
            if value & 0x30 == 0 {
                channel.latch(ticks);
            } else {
                channel.control(value);
            }
        }
    }

    /// Drives line 0 with what channel 0's output is now.
    fn drive(&self, ticks: u64, board: &mut dyn Board) {
        let [channel, ..] = &self.channels;
        board.isa_irq(IRQ, channel.output(ticks));
    }
}

impl PortDevice for Pit {
    fn read_byte(&mut self, port: u16, now: Nanoseconds, _: &mut dyn Board) -> u8 {
        let ticks = RATE.ticks(now);
        match port {
            0x40..=0x42 => self.channel(port & 3).map_or(0xff, |c| c.read(ticks)),
            0x61 => {
                let [.., channel] = &self.channels;
                // Bit 4 shows the memory refresh of a PC/AT: it changes every 15 µs.
                let refresh = (ticks.checked_div(18).unwrap_or(0) & 1) as u8;
                u8::from(channel.gate)
                    | if self.speaker { SPEAKER } else { 0 }
                    | refresh << 4
                    | u8::from(channel.output(ticks)) << 5
            }
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Nanoseconds, board: &mut dyn Board) {
        // What is due by now happens under the old programming.
        self.run(now, board);
        let ticks = RATE.ticks(now);
        match port {
            0x40..=0x42 => {
                if let Some(channel) = self.channel(port & 3) {
                    channel.write(value, ticks);
                }
            }
            0x43 => self.control(value, ticks),
            0x61 => {
                self.speaker = value & SPEAKER != 0;
                let [.., channel] = &mut self.channels;
                channel.set_gate(value & GATE2 != 0, ticks);
            }
            _ => return,
        }
        if port != 0x61 {
            self.drive(ticks, board);
        }
    }
}

impl Timed for Pit {
    /// Channel 0's next edge. The owner need not wake for it while line 0 is masked everywhere.
    fn next_deadline(&self) -> Option<Nanoseconds> {
        let [channel, ..] = &self.channels;
        channel.next_edge().map(|edge| RATE.time_of(edge).max(channel.not_before))
    }

    fn run(&mut self, now: Nanoseconds, board: &mut dyn Board) {
        let ticks = RATE.ticks(now);
        let [channel, ..] = &mut self.channels;
        if channel.settle(ticks, now) {
            board.isa_irq(IRQ, false);
            board.isa_irq(IRQ, true);
        }
    }
}

#[cfg(test)]
#[path = "pit_tests.rs"]
mod tests;
