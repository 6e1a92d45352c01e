//! How a guest's time stamp counter counts: as the machine's, or emulated at a frequency of its own.
//!
//! A vCPU reads the domain's count ([`DomainTsc::count`]) plus its own offset. The domain's count is the machine's counter
//! ([`Settings::emulated_khz`] 0: nothing is trapped), or system time in units of the guest's frequency: then reading the
//! counter is trapped, and the clock that the guest computes from it ([`DomainTsc::clock`]) is in these units too.
//!
//! Modes, as the toolstack numbers them: 0 emulates only where the guest came from a machine whose counter differs in
//! frequency, 1 always, 2 never.
//!
//! Locks: the settings change while the domain is paused, under a lock of rank `Device`.

use radon_abi::domctl::TscInfo;
use radon_abi::errno::Errno;
use radon_core::hypervisor::Hypervisor;
use radon_core::platform::ClockParameters;
use radon_core::sync::{Lock, Rank};
use radon_core::types::Nanoseconds;

use crate::machine::Machine;

const MODE_DEFAULT: u32 = 0;
const MODE_EMULATE: u32 = 1;
const MODE_NATIVE: u32 = 2;
/// Frequencies that can be emulated: the clock's multiplier has to fit its 32 bits with a sensible shift.
const KHZ_RANGE: core::ops::RangeInclusive<u32> = 1_000..=100_000_000;
const SECOND: u128 = 1_000_000_000;

/// How a domain's counter counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// The mode that was asked for.
    pub mode: u32,
    /// How often it was set: at creation and by each restore.
    pub incarnation: u32,
    /// The frequency of the emulated counter; 0: it is the machine's.
    pub emulated_khz: u32,
    /// System time at which the emulated counter was 0; before the machine started, for a guest that came from elsewhere.
    zero: Nanoseconds,
    /// System time at which this was set.
    since: Nanoseconds,
}

/// A domain's counter.
pub struct DomainTsc(Lock<Settings>);

impl Default for DomainTsc {
    fn default() -> Self {
        DomainTsc(Lock::new(Rank::Device, Settings::default()))
    }
}

/// Ticks of a counter of this frequency in a time.
fn ticks(time: Nanoseconds, khz: u32) -> u64 {
    // 64 and 32 bits fit 128; the quotient wraps as the counter would.
    (u128::from(time.0).wrapping_mul(u128::from(khz)) / 1_000_000) as u64
}

/// Multiplier and shift by which ticks of this frequency become nanoseconds: `((ticks << shift) * mul) >> 32`.
fn scale(khz: u32) -> (u32, i8) {
    let hertz = u128::from(khz.max(1)).wrapping_mul(1000);
    let quotient = |n: u128, shift: u32| n.checked_div(hertz.wrapping_shl(shift)).unwrap_or(0);
    let one = SECOND.wrapping_shl(32);
    // The multiplier is the nanoseconds of a shifted tick, with the uppermost of its 32 bits set.
    let mut shift: i8 = 0;
    let mut mul = quotient(one, 0);
    while mul > u128::from(u32::MAX) {
        shift = shift.saturating_add(1);
        mul = quotient(one, u32::from(shift.unsigned_abs()));
    }
    while mul < 1 << 31 {
        shift = shift.saturating_sub(1);
        mul = quotient(one.wrapping_shl(u32::from(shift.unsigned_abs())), 0);
    }
    (u32::try_from(mul).unwrap_or(u32::MAX), shift)
}

impl DomainTsc {
    /// How it counts now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        *self.0.lock()
    }

    /// The domain's count now.
    #[must_use]
    pub fn count(&self, hv: &Hypervisor, machine: &dyn Machine) -> u64 {
        let s = self.settings();
        match s.emulated_khz {
            0 => machine.tsc(),
            khz => ticks(Nanoseconds(hv.platform.now().0.wrapping_sub(s.zero.0)), khz),
        }
    }

    /// How to compute system time from the domain's count.
    #[must_use]
    pub fn clock(&self, hv: &Hypervisor) -> ClockParameters {
        let s = self.settings();
        if s.emulated_khz == 0 {
            return hv.platform.clock();
        }
        let (mul, shift) = scale(s.emulated_khz);
        let tsc_base = ticks(Nanoseconds(s.since.0.wrapping_sub(s.zero.0)), s.emulated_khz);
        ClockParameters { tsc_base, base_ns: s.since, mul, shift, khz: s.emulated_khz }
    }

    /// What the toolstack saves of it.
    #[must_use]
    pub fn info(&self, hv: &Hypervisor) -> TscInfo {
        let s = self.settings();
        let now = hv.platform.now().0;
        let (gtsc_khz, elapsed_nsec) = match (s.emulated_khz, s.mode) {
            (0, MODE_NATIVE) => (0, 0),
            (0, _) => (hv.platform.clock().khz, now),
            (khz, _) => (khz, now.wrapping_sub(s.zero.0)),
        };
        TscInfo { tsc_mode: s.mode, gtsc_khz, incarnation: s.incarnation, pad: 0, elapsed_nsec }
    }

    /// Decides how it counts. Returns whether reading it is to be trapped.
    ///
    /// # Errors
    /// `EINVAL`: no such mode, or a frequency that no machine has.
    pub fn set(&self, hv: &Hypervisor, info: &TscInfo) -> Result<bool, Errno> {
        let machine = hv.platform.clock().khz;
        let khz = if info.gtsc_khz == 0 { machine } else { info.gtsc_khz };
        if info.tsc_mode > MODE_NATIVE || !KHZ_RANGE.contains(&khz) {
            return Err(Errno::EINVAL);
        }
        // A tenth of a percent is what measuring a frequency is good for.
        let emulated = match info.tsc_mode {
            MODE_DEFAULT => khz.abs_diff(machine) > machine / 1000,
            mode => mode == MODE_EMULATE,
        };
        let since = hv.platform.now();
        *self.0.lock() = Settings {
            mode: info.tsc_mode,
            incarnation: info.incarnation.wrapping_add(1),
            emulated_khz: if emulated { khz } else { 0 },
            zero: Nanoseconds(since.0.wrapping_sub(info.elapsed_nsec)),
            since,
        };
        Ok(emulated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Ticks that become time again are the same time, but for less than a tick and the multiplier's last bit.
        #[test]
        fn scale_undoes_ticks(khz in 1_000_u32..100_000_000, ns in 0_u64..1 << 50) {
            let (mul, shift) = scale(khz);
            prop_assert!(mul >= 1 << 31);
            let t = u128::from(ticks(Nanoseconds(ns), khz));
            let shifted = if shift < 0 { t >> shift.unsigned_abs() } else { t << shift };
            let back = (shifted * u128::from(mul)) >> 32;
            let error = u128::from(ns) - back;
            let tick = 1_000_000_u128.div_ceil(u128::from(khz));
            let coarse = if shift < 0 { tick << shift.unsigned_abs() } else { tick };
            prop_assert!(error <= coarse + 2 + (u128::from(ns) >> 30), "{error}");
        }
    }
}
