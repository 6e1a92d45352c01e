//! A limit on how often guests can make the hypervisor print.

use crate::types::Nanoseconds;

/// Messages that may come at once.
const BURST: u64 = 10;
/// Time that earns one message more.
const PERIOD: Nanoseconds = Nanoseconds::from_millis(500);

/// Tokens that messages spend and time earns.
pub(super) struct RateLimit {
    tokens: u64,
    /// Time up to which tokens were earned.
    since: Nanoseconds,
    /// Messages suppressed since the last that passed.
    missed: u32,
}

impl RateLimit {
    pub(super) const fn new() -> RateLimit {
        RateLimit { tokens: BURST, since: Nanoseconds(0), missed: 0 }
    }

    /// Asks to print a message now. `None`: do not. `Some(n)`: do, and say that `n` were suppressed before.
    pub(super) fn pass(&mut self, now: Nanoseconds) -> Option<u32> {
        let earned = now.saturating_sub(self.since).0.checked_div(PERIOD.0).unwrap_or(0);
        self.since = self.since.saturating_add(Nanoseconds(earned.saturating_mul(PERIOD.0)));
        self.tokens = self.tokens.saturating_add(earned).min(BURST);
        if self.tokens == 0 {
            self.missed = self.missed.saturating_add(1);
            return None;
        }
        self.tokens = self.tokens.saturating_sub(1);
        Some(core::mem::take(&mut self.missed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_per_period() {
        let mut limit = RateLimit::new();
        let start = Nanoseconds::from_millis(10_000);
        for _ in 0..BURST {
            assert_eq!(limit.pass(start), Some(0));
        }
        assert_eq!(limit.pass(start), None);
        assert_eq!(limit.pass(start), None);
        let later = start.saturating_add(PERIOD);
        assert_eq!(limit.pass(later), Some(2));
        assert_eq!(limit.pass(later), None);
        let much_later = start.saturating_add(Nanoseconds::from_millis(1_000_000));
        assert_eq!((0..100).filter(|_| limit.pass(much_later).is_some()).count() as u64, BURST);
    }
}
