//! Tests of the local APIC, by subject.

mod delivery;
mod model;
mod registers;
mod save;
mod timers;

use super::*;
use radon_core::platform::ClockParameters;

const T0: Nanoseconds = Nanoseconds(1_000_000);
const OFFERED: LapicConfig = LapicConfig { x2apic: true, tsc_deadline: true };

/// An xAPIC-mode APIC, software-enabled with spurious vector 0xff.
fn xapic(id: u32) -> Lapic {
    let mut l = Lapic::new(id, id == 0, OFFERED);
    assert_eq!(l.mmio_write(0xf0, 4, 0x1ff, T0), Effect::Timer);
    l
}

/// The same in x2APIC mode.
fn x2apic(id: u32) -> Lapic {
    let mut l = xapic(id);
    assert_eq!(l.set_base_msr(0xfee0_0c00), Ok(Effect::Mode));
    l
}

fn edge(l: &mut Lapic, vector: u8) {
    l.shared().post(vector, Trigger::Edge);
}

/// A guest counter at 1 GHz (one tick a nanosecond) that reads 5000 at `now`.
fn tsc(now: Nanoseconds) -> GuestTsc {
    let clock = ClockParameters { tsc_base: 0, base_ns: Nanoseconds(0), mul: 0x8000_0000, shift: 1, khz: 1_000_000 };
    GuestTsc { value: 5000, now, clock }
}
