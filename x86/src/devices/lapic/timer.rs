//! The APIC timer: one-shot, periodic and TSC-deadline (AMD APM vol. 2, 16.4.1; Intel SDM vol. 3, *APIC Timer*).
//!
//! The counter is never ticked. It is a count at a reference time, and what it reads now is computed. The input clock is
//! 100 MHz, as Xen's. A masked timer needs no deadline, so expiry is *settled* before anything that could tell the
//! difference: a register read or write, and [`Timer::settle`] by the owner at the deadline.

use radon_core::platform::ClockParameters;
use radon_core::types::Nanoseconds;

/// Nanoseconds in a tick of the timer's input clock.
pub const TICK: Nanoseconds = Nanoseconds(10);

/// The shortest interval between two wake-ups for a periodic timer, so that a guest cannot keep the hypervisor busy with
/// its timer alone. The current count is exact all the same.
pub const MIN_PERIOD: Nanoseconds = Nanoseconds(50_000);

/// The timer mode of LVT bits 18:17.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    /// The reserved value 3 (and 2 where TSC-deadline is not offered): the timer stands still.
    Reserved,
}

/// The guest's time stamp counter as it relates to system time.
#[derive(Clone, Copy, Debug)]
pub struct GuestTsc {
    /// What the guest would read at `now`.
    pub value: u64,
    /// Now.
    pub now: Nanoseconds,
    /// The rate: only `mul` and `shift` are used.
    pub clock: ClockParameters,
}

impl GuestTsc {
    /// When the counter reaches `value`, rounded up; `now` if it already has.
    #[must_use]
    pub fn time_of(&self, value: u64) -> Nanoseconds {
        let ticks = value.saturating_sub(self.value);
        if ticks == 0 {
            return self.now;
        }
        let shift = u32::from(self.clock.shift.unsigned_abs()).min(63);
        // 64 bits of ticks, shifted up by less than 32 and times 32 bits, fit 128 bits.
        let scaled = if self.clock.shift < 0 {
            u128::from(ticks.wrapping_shr(shift)).wrapping_add(1)
        } else {
            u128::from(ticks).wrapping_shl(shift.min(31))
        };
        let length = scaled.saturating_mul(u128::from(self.clock.mul)) >> 32;
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.now.saturating_add(Nanoseconds(length)).saturating_add(Nanoseconds(1))
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Timer {
    mode: Mode,
    /// Divide configuration register: bits 3, 1 and 0.
    divide: u32,
    /// Initial count register.
    initial: u32,
    /// The count at `reference`, 0 if the counter has stopped.
    remaining: u32,
    reference: Nanoseconds,
    /// When a periodic timer last asked for a wake-up at the earliest.
    not_before: Nanoseconds,
    /// The armed TSC deadline and the time that it stands for; 0 if not armed.
    tsc_deadline: u64,
    tsc_deadline_at: Nanoseconds,
}

impl Timer {
    pub(super) const fn new() -> Timer {
        Timer {
            mode: Mode::OneShot,
            divide: 0,
            initial: 0,
            remaining: 0,
            reference: Nanoseconds(0),
            not_before: Nanoseconds(0),
            tsc_deadline: 0,
            tsc_deadline_at: Nanoseconds(0),
        }
    }

    pub(super) const fn divide(&self) -> u32 {
        self.divide
    }

    pub(super) const fn initial(&self) -> u32 {
        self.initial
    }

    /// log2 of the divisor. Bits 3, 1, 0 count 2, 4, 8, ... 128, then 1.
    pub(super) const fn divisor_log2(divide: u32) -> u32 {
        let n = (divide & 3) | (divide >> 1 & 4);
        (n.wrapping_add(1)) & 7
    }

    /// The length of one count: never zero.
    const fn count_length(&self) -> u64 {
        TICK.0.wrapping_shl(Timer::divisor_log2(self.divide))
    }

    fn after(&self, counts: u64) -> Nanoseconds {
        self.reference.saturating_add(Nanoseconds(counts.saturating_mul(self.count_length())))
    }

    fn counts(&self) -> bool {
        matches!(self.mode, Mode::OneShot | Mode::Periodic) && self.remaining != 0
    }

    /// The current count register.
    pub(super) fn current(&self, now: Nanoseconds) -> u32 {
        if !self.counts() {
            return 0;
        }
        let elapsed = now.saturating_sub(self.reference).0.checked_div(self.count_length()).unwrap_or(0);
        let remaining = u64::from(self.remaining);
        if let Some(left) = remaining.checked_sub(elapsed)
            && left != 0
        {
            return left as u32;
        }
        if self.mode == Mode::OneShot {
            return 0;
        }
        let initial = u64::from(self.initial);
        let into = elapsed.saturating_sub(remaining).checked_rem(initial).unwrap_or(0);
        initial.saturating_sub(into) as u32
    }

    /// Lets expiries up to `now` happen. Returns whether there was one.
    pub(super) fn settle(&mut self, now: Nanoseconds) -> bool {
        match self.mode {
            Mode::TscDeadline => {
                let due = self.tsc_deadline != 0 && self.tsc_deadline_at <= now;
                if due {
                    self.tsc_deadline = 0;
                }
                due
            }
            Mode::OneShot | Mode::Periodic => {
                let expiry = self.after(u64::from(self.remaining));
                if self.remaining == 0 || expiry > now {
                    return false;
                }
                if self.mode == Mode::OneShot {
                    self.remaining = 0;
                } else {
                    let late = now.saturating_sub(expiry).0;
                    let period = u64::from(self.initial).saturating_mul(self.count_length());
                    let into = late.checked_rem(period).unwrap_or(0);
                    self.reference = now.saturating_sub(Nanoseconds(into));
                    self.remaining = self.initial;
                    self.not_before = now.saturating_add(MIN_PERIOD);
                }
                true
            }
            Mode::Reserved => false,
        }
    }

    /// When [`Timer::settle`] will next report an expiry (for a fast periodic timer: when it needs to be called next).
    pub(super) fn deadline(&self) -> Option<Nanoseconds> {
        match self.mode {
            Mode::TscDeadline => (self.tsc_deadline != 0).then_some(self.tsc_deadline_at),
            Mode::OneShot if self.remaining != 0 => Some(self.after(u64::from(self.remaining))),
            Mode::Periodic if self.remaining != 0 => Some(self.after(u64::from(self.remaining)).max(self.not_before)),
            _ => None,
        }
    }

    /// Changes the mode; settle first. Entering or leaving TSC-deadline mode disarms the timer.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        if (mode == Mode::TscDeadline) != (self.mode == Mode::TscDeadline) {
            self.initial = 0;
            self.remaining = 0;
            self.tsc_deadline = 0;
        }
        self.mode = mode;
    }

    /// Writes the initial count, which starts the counter (0 stops it). Ignored in TSC-deadline mode.
    pub(super) fn set_initial(&mut self, value: u32, now: Nanoseconds) {
        if self.mode != Mode::TscDeadline {
            self.initial = value;
            self.remaining = value;
            self.reference = now;
            self.not_before = Nanoseconds(0);
        }
    }

    /// Writes the divide configuration; settle first. A running counter goes on from its current count.
    pub(super) fn set_divide(&mut self, value: u32, now: Nanoseconds) {
        if self.counts() {
            self.remaining = self.current(now);
            self.reference = now;
        }
        self.divide = value & 0b1011;
    }

    /// Restores a counter that read `current` when it was saved. Xen leaves zero there and counts from the beginning again,
    /// also where the counter had come to its end.
    pub(super) fn restore(&mut self, mode: Mode, divide: u32, initial: u32, current: u32, now: Nanoseconds) {
        *self = Timer::new();
        self.mode = mode;
        self.divide = divide & 0b1011;
        if mode != Mode::TscDeadline {
            self.initial = initial;
            self.remaining = if current == 0 { initial } else { current.min(initial) };
            self.reference = now;
        }
    }

    /// The TSC deadline MSR: 0 unless armed; settle first.
    pub(super) const fn tsc_deadline(&self) -> u64 {
        self.tsc_deadline
    }

    /// Writes the TSC deadline MSR; 0 disarms. Ignored outside TSC-deadline mode.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, tsc: &GuestTsc) {
        if self.mode == Mode::TscDeadline {
            self.tsc_deadline = value;
            self.tsc_deadline_at = tsc.time_of(value);
        }
    }
}
