//! The time stamp counter, and the system time that the hypervisor relates to it in `vcpu_info`.

use core::arch::asm;
use core::sync::atomic::Ordering;

use radon_abi::xen::vcpu_info;

use crate::Page;

/// The time stamp counter.
#[inline(always)]
#[must_use]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

/// The clock that the hypervisor publishes: system time at some value of the counter, and the counter's speed. What is
/// read may be anything (a guest that attacks writes it, too), and only gives wrong times then.
pub struct Clock {
    /// The counter's value at `system_time`.
    tsc_base: u64,
    system_time: u64,
    multiplier: u64,
    shift: i8,
}

impl Clock {
    /// Reads the first vCPU's clock in the shared information page.
    #[must_use]
    pub fn read(shared: &Page) -> Clock {
        let word = |n: usize| shared.0[(vcpu_info::TIME / 8) as usize + n].load(Ordering::Relaxed);
        Clock {
            tsc_base: word(1),
            system_time: word(2),
            multiplier: word(3) & 0xffff_ffff,
            shift: (word(3) >> 32) as i8,
        }
    }

    /// The counter's speed as the hypervisor writes it: multiplier, and above it the shift's byte.
    #[must_use]
    pub fn speed(&self) -> u64 {
        self.multiplier | u64::from(self.shift as u8) << 32
    }

    /// System time now, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        let delta = rdtsc().wrapping_sub(self.tsc_base);
        let delta = if self.shift < 0 { delta >> (-self.shift & 63) } else { delta << (self.shift & 63) };
        self.system_time.wrapping_add(((u128::from(delta) * u128::from(self.multiplier)) >> 32) as u64)
    }

    /// What the counter will be at a later system time.
    #[must_use]
    pub fn tsc_at(&self, time: u64) -> u64 {
        let delta = (u128::from(time - self.system_time) << 32) / u128::from(self.multiplier);
        let delta = if self.shift < 0 { delta << -self.shift } else { delta >> self.shift };
        self.tsc_base + delta as u64
    }
}
