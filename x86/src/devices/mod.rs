//! The interrupt controllers and platform devices that a guest sees.
//!
//! Every device is a plain state machine: time comes in as an argument, effects go out as return values or through a
//! small trait. Nothing here locks; the owner of a device decides how it is shared. The one exception is
//! [`lapic::LapicShared`], which other CPUs write with single atomic operations.

pub mod bus;
pub mod clock;
pub mod hpet;
pub mod interrupt;
pub mod ioapic;
pub mod lapic;
pub mod msi;
pub mod pic;
pub mod pit;
pub mod pmtimer;
pub mod rtc;

#[cfg(test)]
mod test_board;
