//! Conversion between system time and the ticks of a device's clock. Pure arithmetic.

use radon_core::types::Nanoseconds;

const SECOND: u128 = 1_000_000_000;

/// The shortest interval at which a periodic device asks to be woken, so that a guest cannot keep the hypervisor busy
/// with a device's timer alone. What the guest reads from the device is exact all the same.
pub const MIN_PERIOD: Nanoseconds = Nanoseconds(50_000);

/// A clock's rate, below 1 GHz.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Ticks per nanosecond, times 2^64, rounded up so that whole periods give whole ticks.
    scale: u64,
}

impl Rate {
    /// A clock of `hz` ticks a second; rates of 1 GHz and above, and zero, count as 1 Hz.
    #[must_use]
    pub const fn from_hz(hz: u32) -> Rate {
        let hz = if hz == 0 || hz >= 1_000_000_000 { 1 } else { hz };
        Rate { scale: ((hz as u128) << 64).div_ceil(SECOND) as u64 }
    }

    /// Whole ticks from system time zero to `now`.
    #[must_use]
    pub const fn ticks(self, now: Nanoseconds) -> u64 {
        ((now.0 as u128).wrapping_mul(self.scale as u128) >> 64) as u64
    }

    /// The first moment at which [`Rate::ticks`] gives `ticks` or more; the end of time if that does not fit.
    #[must_use]
    pub fn time_of(self, ticks: u64) -> Nanoseconds {
        let scale = u128::from(self.scale);
        // The scale is at least 2^64 / 10^9, so never zero.
        let ns = (u128::from(ticks) << 64).checked_add(scale.saturating_sub(1)).and_then(|n| n.checked_div(scale));
        Nanoseconds(ns.and_then(|n| u64::try_from(n).ok()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn whole_seconds_are_whole_ticks() {
        for hz in [32_768, 1_193_182, 3_579_545, 62_500_000] {
            for s in [1u64, 60, 86_400, 31_536_000] {
                assert_eq!(
                    Rate::from_hz(hz).ticks(Nanoseconds(s * 1_000_000_000)),
                    s * u64::from(hz),
                    "{hz} Hz, {s} s"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn time_of_is_the_first_moment(hz in 1u32..1_000_000_000, ticks in 1u64..1 << 40) {
            let rate = Rate::from_hz(hz);
            let at = rate.time_of(ticks);
            if at.0 != u64::MAX {
                prop_assert!(rate.ticks(at) >= ticks);
                prop_assert!(rate.ticks(Nanoseconds(at.0 - 1)) < ticks);
            }
        }
    }
}
