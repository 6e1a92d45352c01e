//! Time: the time stamp counter, its speed, and system time in nanoseconds since Radon's start.
//!
//! The counter's speed comes from CPUID where it says, else it is measured against the HPET, the ACPI timer or the 8254:
//! for a moment at first, and once more over all the time that the start takes ([`refine`]).
//! All CPUs' counters are taken to run together; the start of each CPU checks that and says when they do not.
//! Takes no locks.
// Unsafe: device registers and ports.
#![allow(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering};
use radon_core::options::ClockSource;
use radon_core::platform::ClockParameters;
use radon_core::types::Nanoseconds;
use radon_x86::acpi::Acpi;
use spin::once::Once;

use crate::cpu::registers::{cpuid, inb, inl, outb, rdtsc, relax};
use crate::paging;

/// Taken as the counter's speed before it is known: only for waiting in an early report.
const GUESS_HZ: u64 = 3_000_000_000;
/// How long the measurement takes.
const MEASURE_MS: u64 = 20;

/// The clock from its start on, and the better one that [`refine`] makes.
static CLOCK: Once<ClockParameters> = Once::new();
static REFINED: Once<ClockParameters> = Once::new();
/// Where the first measurement began.
static BEGINNING: Once<(Reference, Sample)> = Once::new();
static TSC_HZ: AtomicU64 = AtomicU64::new(GUESS_HZ);

/// What the counter's speed was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// CPUID says it.
    Cpuid,
    /// Measured against the HPET.
    Hpet,
    /// Measured against the ACPI power management timer.
    PmTimer,
    /// Measured against the 8254 timer.
    Pit,
}

/// Ticks of the time stamp counter per second.
#[must_use]
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Ordering::Relaxed)
}

fn current() -> Option<&'static ClockParameters> {
    REFINED.get().or_else(|| CLOCK.get())
}

/// System time now. 0 before the clock is set up.
#[must_use]
pub fn now() -> Nanoseconds {
    current().map_or(Nanoseconds(0), |c| from_tsc_with(c, rdtsc()))
}

/// System time at a counter value.
#[must_use]
pub fn from_tsc(tsc: u64) -> Nanoseconds {
    current().map_or(Nanoseconds(0), |c| from_tsc_with(c, tsc))
}

fn from_tsc_with(c: &ClockParameters, tsc: u64) -> Nanoseconds {
    let delta = tsc.saturating_sub(c.tsc_base);
    // The same arithmetic as guests do with these parameters, so that both agree to the nanosecond.
    let shifted = if c.shift >= 0 { delta << c.shift } else { delta >> -c.shift };
    Nanoseconds(c.base_ns.0 + ((u128::from(shifted) * u128::from(c.mul)) >> 32) as u64)
}

/// The first counter value at which system time is at least `at`; for times too far away, the last value.
#[must_use]
pub fn to_tsc(at: Nanoseconds) -> u64 {
    let Some(c) = current() else { return u64::MAX };
    let ticks = u128::from(at.0.saturating_sub(c.base_ns.0)) * u128::from(tsc_hz()) / 1_000_000_000;
    // The clock's multiplication rounds down: some ticks more make sure that `at` has come.
    u64::try_from(ticks + 2 + (ticks >> 31)).unwrap_or(u64::MAX).saturating_add(c.tsc_base)
}

/// How guests can compute system time themselves.
///
/// # Panics
/// If the clock is not set up yet.
#[must_use]
pub fn clock() -> ClockParameters {
    #[expect(clippy::expect_used, reason = "a bug in the order of the start, found at the first boot")]
    *current().expect("the clock is asked for before it is set up")
}

/// Waits.
pub fn spin_us(us: u64) {
    let (start, ticks) = (rdtsc(), us.saturating_mul(tsc_hz()) / 1_000_000);
    while rdtsc().wrapping_sub(start) < ticks {
        relax();
    }
}

/// Waits.
pub fn spin_ms(ms: u64) {
    spin_us(ms.saturating_mul(1000));
}

/// Clock parameters for a counter of that speed, for which it is `base_ns` when it shows `tsc_base`.
fn parameters(hz: u64, tsc_base: u64, base_ns: Nanoseconds) -> ClockParameters {
    let (mut scaled, mut shift) = (hz, 0i8);
    // Bring the speed into (1, 2] GHz, so that the factor has all 32 bits.
    while scaled > 2_000_000_000 {
        scaled >>= 1;
        shift -= 1;
    }
    while scaled <= 1_000_000_000 {
        scaled <<= 1;
        shift += 1;
    }
    let mul = ((1_000_000_000u128 << 32) / u128::from(scaled)) as u32;
    ClockParameters { tsc_base, base_ns, mul, shift, khz: ((hz + 500) / 1000) as u32 }
}

/// Finds the counter's speed and starts system time. `wanted` names what it is measured against, if that is there.
pub(crate) fn init(acpi: Option<&Acpi>, wanted: Option<ClockSource>) -> Source {
    let (hz, source) = match from_cpuid().filter(|_| wanted.is_none()) {
        Some(hz) => (hz, Source::Cpuid),
        None => measure(acpi, wanted),
    };
    let hz = hz.clamp(1_000_000, 100_000_000_000);
    TSC_HZ.store(hz, Ordering::Relaxed);
    CLOCK.call_once(|| parameters(hz, rdtsc(), Nanoseconds(0)));
    source
}

/// Measures the counter's speed again, from the beginning of the first measurement until now: the longer, the smaller
/// the error, and a day's clock error is this error times 86,400 s. System time goes on from where it is. To be called
/// once, before guests and other CPUs use the clock. Returns by how many millionths the speed was corrected, if it was.
pub fn refine() -> Option<i64> {
    let (reference, from) = BEGINNING.get()?;
    let to = reference.sample();
    let hz = tsc_hz();
    let ticks = to.tsc.wrapping_sub(from.tsc);
    // The reference must not have started again from zero, and the time must be longer than it was at first.
    let ms = ticks / (hz / 1000).max(1);
    if ms < 2 * MEASURE_MS || u128::from(ms) * u128::from(reference.hz) > u128::from(reference.mask) * 900 {
        return None;
    }
    let better = reference.speed(from, &to)?;
    let correction = (i128::from(better) - i128::from(hz)) * 1_000_000 / i128::from(hz);
    // More than the first measurement can be wrong: then it is the reference that is not to be trusted.
    if correction.abs() > 20_000 {
        return None;
    }
    TSC_HZ.store(better, Ordering::Relaxed);
    REFINED.call_once(|| {
        let tsc = rdtsc();
        let base = CLOCK.get().map_or(Nanoseconds(0), |c| from_tsc_with(c, tsc));
        parameters(better, tsc, base)
    });
    Some(correction as i64)
}

/// CPUID leaf 0x15 (ratio to the core crystal), or the frequency leaf of the hypervisor that Radon runs under.
fn from_cpuid() -> Option<u64> {
    let leaf = cpuid(0x15, 0);
    if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
        return Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax));
    }
    let under_hypervisor = cpuid(1, 0).ecx >> 31 != 0;
    let khz = if under_hypervisor && cpuid(0x4000_0000, 0).eax >= 0x4000_0010 { cpuid(0x4000_0010, 0).eax } else { 0 };
    // In other hypervisors that leaf means something else: take only what can be a frequency.
    (100_000..20_000_000).contains(&khz).then(|| u64::from(khz) * 1000)
}

/// Where a reference counter is.
#[derive(Clone, Copy)]
enum Register {
    /// 32 bits at an address that is mapped for ever.
    Memory(usize),
    /// 32 bits at a port.
    Port(u16),
}

/// A counter of known speed.
#[derive(Clone, Copy)]
struct Reference {
    register: Register,
    hz: u64,
    mask: u64,
}

/// Both counters at one moment.
#[derive(Clone, Copy)]
struct Sample {
    tsc: u64,
    reference: u64,
}

impl Reference {
    fn read(&self) -> u64 {
        match self.register {
            // SAFETY: `measure_hpet` mapped the counter there for ever, aligned; reading it has no effect.
            Register::Memory(at) => u64::from(unsafe { (at as *const u32).read_volatile() }),
            // SAFETY: the firmware says that the ACPI timer is at this port; reading it has no side effect.
            Register::Port(port) => u64::from(unsafe { inl(port) }),
        }
    }

    /// Both counters at one moment: of a few tries the one whose reading took least time.
    fn sample(&self) -> Sample {
        let mut best = (u64::MAX, Sample { tsc: 0, reference: 0 });
        for _ in 0..8 {
            let before = rdtsc();
            let reference = self.read();
            let width = rdtsc().wrapping_sub(before);
            if width < best.0 {
                best = (width, Sample { tsc: before.wrapping_add(width / 2), reference });
            }
        }
        best.1
    }

    /// The TSC's speed from two samples.
    fn speed(&self, from: &Sample, to: &Sample) -> Option<u64> {
        let elapsed = to.reference.wrapping_sub(from.reference) & self.mask;
        let ticks = u128::from(to.tsc.wrapping_sub(from.tsc));
        u64::try_from(ticks * u128::from(self.hz) / u128::from(elapsed.max(1))).ok()
    }
}

fn measure(acpi: Option<&Acpi>, wanted: Option<ClockSource>) -> (u64, Source) {
    let may = |source| wanted.is_none_or(|w| w == source);
    if may(ClockSource::Hpet)
        && let Some(hz) = acpi.and_then(|a| a.hpet).and_then(|h| measure_hpet(h.address))
    {
        return (hz, Source::Hpet);
    }
    let fadt = acpi.and_then(|a| a.fadt.as_ref());
    if may(ClockSource::Acpi)
        && let Some((port, wide)) = fadt.and_then(|f| Some((f.pm_timer?.port()?, f.pm_timer_32_bit)))
    {
        let mask = if wide { 0xffff_ffff } else { 0x00ff_ffff };
        if let Some(hz) = against(Reference { register: Register::Port(port), hz: 3_579_545, mask }) {
            return (hz, Source::PmTimer);
        }
    }
    (measure_pit().unwrap_or(GUESS_HZ), Source::Pit)
}

fn measure_hpet(address: radon_core::types::MachineAddr) -> Option<u64> {
    const CAPABILITIES: usize = 0;
    const CONFIGURATION: usize = 0x10;
    const COUNTER: usize = 0xf0;
    let base = paging::map_device(address, 1024).ok()?;
    // SAFETY: the registers of the HPET are mapped (1 KiB), aligned, and used by nobody else now. 32-bit reads work on
    // every HPET. Bit 0 of the configuration lets the counter run; it is left running, as firmware usually has it.
    let read = |at: usize| unsafe { base.add(at).cast::<u32>().read_volatile() };
    let period_fs = u64::from(read(CAPABILITIES + 4));
    // The specification allows at most 100 ns; all ones means that nothing is there.
    if !(100_000..=100_000_000).contains(&period_fs) {
        return None;
    }
    let configuration = read(CONFIGURATION);
    // SAFETY: as above.
    unsafe { base.add(CONFIGURATION).cast::<u32>().write_volatile(configuration | 1) };
    let register = Register::Memory(base.wrapping_add(COUNTER) as usize);
    against(Reference { register, hz: 1_000_000_000_000_000 / period_fs, mask: 0xffff_ffff })
}

/// Measures the TSC's speed. `None` if the reference does not run.
fn against(reference: Reference) -> Option<u64> {
    let wanted = reference.hz * MEASURE_MS / 1000;
    let from = reference.sample();
    // A reference that stands still must not hang the start: ten billion ticks are a second or more.
    while reference.read().wrapping_sub(from.reference) & reference.mask < wanted {
        if rdtsc().wrapping_sub(from.tsc) > 10_000_000_000 {
            return None;
        }
        relax();
    }
    BEGINNING.call_once(|| (reference, from));
    reference.speed(&from, &reference.sample())
}

/// Measures against channel 2 of the 8254, whose output can be read at port 0x61.
fn measure_pit() -> Option<u64> {
    const HZ: u64 = 1_193_182;
    const COUNT: u64 = HZ * MEASURE_MS / 1000;
    // SAFETY: the ports are the 8254's and the system control port by the PC architecture; the speaker stays off.
    unsafe {
        let gate = inb(0x61) & !3;
        outb(0x61, gate);
        outb(0x43, 0xb0); // channel 2, both bytes, mode 0: output goes high at the end
        outb(0x42, COUNT as u8);
        outb(0x42, (COUNT >> 8) as u8);
        outb(0x61, gate | 1);
        let start = rdtsc();
        while inb(0x61) & 0x20 == 0 {
            if rdtsc().wrapping_sub(start) > 10_000_000_000 {
                return None;
            }
        }
        let ticks = rdtsc().wrapping_sub(start);
        outb(0x61, gate);
        Some((u128::from(ticks) * u128::from(HZ) / u128::from(COUNT)) as u64)
    }
}
