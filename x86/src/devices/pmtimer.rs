//! The ACPI fixed hardware: PM timer, PM1 event registers and PM1 control (ACPI specification, chapter 4.8).
//!
//! The timer is 32 bits wide at 3.579545 MHz (TMR_VAL_EXT is set in the FADT). The machine is always in ACPI mode. The
//! system control interrupt is a level: asserted while an enabled status bit is set.
//!
//! Port layout from the block's base: PM1 status (2 bytes), PM1 enable (2), PM1 control (2), 2 unused, PM timer (4).

use radon_core::types::Nanoseconds;

use super::bus::{Board, PortDevice, Timed};
use super::clock::Rate;

/// Ports that the block takes.
pub const PORTS: u16 = 12;
/// The timer's rate.
pub const HZ: u32 = 3_579_545;

const RATE: Rate = Rate::from_hz(HZ);

/// Half the counter's range.
const HALF: u32 = 1 << 31;

const TIMER: u16 = 1 << 0;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const WAKE: u16 = 1 << 15;
const STATUS_BITS: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | WAKE;
const ENABLE_BITS: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;

const SCI_ENABLE: u16 = 1 << 0;
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;

/// The ACPI fixed hardware of a guest.
#[derive(Clone, Debug)]
pub struct PmTimer {
    base: u16,
    sci: u8,
    /// The counter at system time zero.
    offset: u32,
    status: u16,
    enable: u16,
    control: u16,
    /// Ticks since system time zero up to which the timer status is accounted for.
    settled: u64,
}

impl PmTimer {
    /// The block at ports `base` on, interrupting by ISA line `sci`; the counter starts at 0 at `now`.
    #[must_use]
    pub fn new(base: u16, sci: u8, now: Nanoseconds) -> PmTimer {
        let settled = RATE.ticks(now);
        let offset = 0u32.wrapping_sub(settled as u32);
        PmTimer { base, sci, offset, status: 0, enable: 0, control: SCI_ENABLE, settled }
    }

    /// The timer's value.
    #[must_use]
    pub fn counter(&self, now: Nanoseconds) -> u32 {
        (RATE.ticks(now) as u32).wrapping_add(self.offset)
    }

    /// Someone pressed the power button.
    pub fn press_power_button(&mut self, board: &mut dyn Board) {
        self.status |= POWER_BUTTON;
        self.drive(board);
    }

    /// Someone pressed the sleep button.
    pub fn press_sleep_button(&mut self, board: &mut dyn Board) {
        self.status |= SLEEP_BUTTON;
        self.drive(board);
    }

    /// The machine woke from a sleep state.
    pub fn wake(&mut self) {
        self.status |= WAKE;
    }

    /// Counter, status and enable, as Xen's `hvm_hw_pmtimer` holds them.
    #[must_use]
    pub fn save(&self, now: Nanoseconds) -> (u32, u16, u16) {
        (self.counter(now), self.status, self.enable)
    }

    /// Takes over what [`PmTimer::save`] gave.
    pub fn restore(&mut self, saved: (u32, u16, u16), now: Nanoseconds, board: &mut dyn Board) {
        let (counter, status, enable) = saved;
        self.settled = RATE.ticks(now);
        self.offset = counter.wrapping_sub(self.settled as u32);
        self.status = status & STATUS_BITS;
        self.enable = enable & ENABLE_BITS;
        self.drive(board);
    }

    fn drive(&self, board: &mut dyn Board) {
        board.isa_irq(self.sci, self.status & self.enable != 0);
    }

    /// The tick at which the counter's top bit changes next, which sets the timer status.
    fn next_change(&self) -> u64 {
        let counter = (self.settled as u32).wrapping_add(self.offset);
        let left = HALF.saturating_sub(counter & HALF.wrapping_sub(1));
        self.settled.saturating_add(u64::from(left))
    }

    fn settle(&mut self, now: Nanoseconds) {
        let ticks = RATE.ticks(now);
        if ticks >= self.next_change() {
            self.status |= TIMER;
        }
        self.settled = self.settled.max(ticks);
    }

    /// The bytes of the event and control registers.
    fn registers(&self) -> [u8; 6] {
        let [s0, s1] = self.status.to_le_bytes();
        let [e0, e1] = self.enable.to_le_bytes();
        let [c0, c1] = self.control.to_le_bytes();
        [s0, s1, e0, e1, c0, c1]
    }
}

impl PortDevice for PmTimer {
    fn read_byte(&mut self, port: u16, now: Nanoseconds, _: &mut dyn Board) -> u8 {
        self.settle(now);
        let offset = port.wrapping_sub(self.base);
        match offset {
            8..12 => {
                let byte = usize::from(offset).saturating_sub(8);
                self.counter(now).to_le_bytes().get(byte).copied().unwrap_or(0)
            }
            _ => self.registers().get(usize::from(offset)).copied().unwrap_or(0),
        }
    }

    fn write_byte(&mut self, port: u16, value: u8, now: Nanoseconds, board: &mut dyn Board) {
        self.settle(now);
        let offset = port.wrapping_sub(self.base);
        let high = offset & 1 != 0;
        let wide = if high { u16::from(value) << 8 } else { u16::from(value) };
        let kept = if high { 0x00ff } else { 0xff00 };
        match offset {
            0 | 1 => self.status &= !wide,
            2 | 3 => self.enable = (self.enable & kept) | (wide & ENABLE_BITS),
            4 | 5 => {
                // Sleep enable is write-only; the machine stays in ACPI mode.
                self.control = (self.control & kept) | (wide & !SLEEP_ENABLE) | SCI_ENABLE;
                if wide & SLEEP_ENABLE != 0 {
                    board.sleep(((self.control & SLEEP_TYPE) >> 10) as u8);
                }
            }
            _ => return,
        }
        self.drive(board);
    }
}

impl Timed for PmTimer {
    fn next_deadline(&self) -> Option<Nanoseconds> {
        let wanted = self.enable & TIMER != 0 && self.status & TIMER == 0;
        wanted.then(|| RATE.time_of(self.next_change()))
    }

    fn run(&mut self, now: Nanoseconds, board: &mut dyn Board) {
        self.settle(now);
        self.drive(board);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_board::TestBoard;

    const BASE: u16 = 0xb000;
    const SCI: usize = 9;
    const T0: Nanoseconds = Nanoseconds(5_000_000_000);

    fn pm() -> (PmTimer, TestBoard) {
        (PmTimer::new(BASE, SCI as u8, T0), TestBoard::default())
    }

    fn after(s: u64) -> Nanoseconds {
        Nanoseconds(T0.0 + s * 1_000_000_000)
    }

    #[test]
    fn counts() {
        let (mut pm, mut b) = pm();
        assert_eq!(pm.read(BASE + 8, 4, T0, &mut b), 0);
        assert_eq!(pm.read(BASE + 8, 4, after(2), &mut b), 2 * HZ);
        assert_eq!(pm.read(BASE + 9, 1, after(2), &mut b), ((2 * HZ) >> 8) & 0xff);
        assert_eq!(pm.read(BASE + 8, 4, after(1200), &mut b), (1200u64 * u64::from(HZ)) as u32);
        pm.write(BASE + 8, 4, 77, after(1200), &mut b);
        assert_eq!(pm.read(BASE + 8, 4, T0, &mut b), 0, "read-only");
    }

    #[test]
    fn timer_status() {
        let (mut pm, mut b) = pm();
        assert_eq!(pm.next_deadline(), None, "not enabled");
        pm.write(BASE + 2, 2, 1, T0, &mut b);
        let due = pm.next_deadline().unwrap();
        assert_eq!(due, RATE.time_of(RATE.ticks(T0) + (1 << 31)));
        pm.run(Nanoseconds(due.0 - 1), &mut b);
        assert_eq!(b.take_isa(SCI), 0);
        pm.run(due, &mut b);
        assert_eq!(b.take_isa(SCI), 1);
        assert_eq!(pm.read(BASE, 2, due, &mut b), 1);
        assert_eq!(pm.next_deadline(), None, "until acknowledged");
        pm.write(BASE, 2, 1, due, &mut b);
        assert!(!b.isa[SCI]);
        assert_eq!(pm.next_deadline(), Some(RATE.time_of(RATE.ticks(T0) + (2 << 31))));
    }

    #[test]
    fn both_changes_between_two_looks_count() {
        let (mut pm, mut b) = pm();
        assert_eq!(pm.read(BASE, 2, after(1300), &mut b), 1);
    }

    #[test]
    fn power_button() {
        let (mut pm, mut b) = pm();
        pm.press_power_button(&mut b);
        assert!(!b.isa[SCI], "not enabled");
        assert_eq!(pm.read(BASE, 2, T0, &mut b), 0x100);
        pm.write(BASE + 2, 2, 0x100, T0, &mut b);
        assert!(b.isa[SCI]);
        pm.write(BASE, 2, 0, T0, &mut b);
        assert!(b.isa[SCI], "zeros clear nothing");
        pm.write(BASE, 2, 0x100, T0, &mut b);
        assert!(!b.isa[SCI]);
        assert_eq!(pm.read(BASE, 2, T0, &mut b), 0);
    }

    #[test]
    fn sleep_request() {
        let (mut pm, mut b) = pm();
        assert_eq!(pm.read(BASE + 4, 2, T0, &mut b), 1, "in ACPI mode");
        pm.write(BASE + 4, 2, 5 << 10, T0, &mut b);
        assert!(b.sleeps.is_empty());
        pm.write(BASE + 4, 2, 5 << 10 | 1 << 13, T0, &mut b);
        assert_eq!(b.sleeps, [5]);
        assert_eq!(pm.read(BASE + 4, 2, T0, &mut b), 5 << 10 | 1);
    }

    #[test]
    fn reserved_bits() {
        let (mut pm, mut b) = pm();
        pm.write(BASE + 2, 2, 0xffff, T0, &mut b);
        assert_eq!(pm.read(BASE + 2, 2, T0, &mut b), 0x0721);
        assert_eq!(pm.read(BASE + 6, 2, T0, &mut b), 0);
    }

    #[test]
    fn save_and_restore() {
        let (mut a, mut b) = pm();
        a.write(BASE + 2, 2, 0x100, T0, &mut b);
        a.press_power_button(&mut b);
        let saved = a.save(after(10));
        assert_eq!(saved, (10 * HZ, 0x100, 0x100));
        let mut c = PmTimer::new(BASE, SCI as u8, T0);
        let mut board = TestBoard::default();
        c.restore(saved, Nanoseconds(7), &mut board);
        assert!(board.isa[SCI]);
        assert_eq!(c.counter(Nanoseconds(1_000_000_007)), 11 * HZ);
    }
}
