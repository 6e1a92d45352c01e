//! How much of something there was over the last second or so.

use crate::types::Nanoseconds;

/// Length of the window.
const WINDOW: u64 = 1 << 30;
/// One, as a load.
pub(super) const ONE: u64 = 1 << 16;

/// A number that changes, and its average with older times counting less.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    average: u64,
    at: Nanoseconds,
}

impl Load {
    /// Nothing so far.
    pub(super) const fn new(now: Nanoseconds) -> Load {
        Load { average: 0, at: now }
    }

    /// The number was `before` since the last change, and changes at `now`.
    pub(super) fn update(&mut self, now: Nanoseconds, before: u32) {
        self.average = self.at(now, before);
        self.at = self.at.max(now);
    }

    /// Adds to the average, and takes away from it: a part that came or went has a past of its own.
    pub(super) fn shift(&mut self, now: Nanoseconds, current: u32, more: u64, less: u64) {
        self.update(now, current);
        self.average = self.average.saturating_add(more).saturating_sub(less);
    }

    /// The average at `now`, in units of [`ONE`], if the number has been `current` since the last change.
    pub(super) fn at(&self, now: Nanoseconds, current: u32) -> u64 {
        let current = u64::from(current).saturating_mul(ONE);
        let passed = now.saturating_sub(self.at).0.min(WINDOW);
        // Products fit: a load is below 2^16 units of 2^16, the window 2^30.
        let old = self.average.saturating_mul(WINDOW.saturating_sub(passed));
        let new = current.saturating_mul(passed);
        old.saturating_add(new) / WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_approaches_what_is_there() {
        let mut load = Load::new(Nanoseconds(0));
        load.update(Nanoseconds(0), 0);
        assert_eq!(load.at(Nanoseconds(WINDOW / 2), 2), ONE);
        load.update(Nanoseconds(WINDOW / 2), 2);
        assert_eq!(load.at(Nanoseconds(WINDOW), 0), ONE / 2);
        assert_eq!(load.at(Nanoseconds(5 * WINDOW), 0), 0);
        assert_eq!(load.at(Nanoseconds(0), 7), ONE, "time that goes back changes nothing");
    }
}
