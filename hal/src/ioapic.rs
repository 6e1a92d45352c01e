//! The I/O APICs: where device interrupts come in, by global system interrupt number (GSI).
//!
//! Offers single pins; which vector goes where is the interrupt router's business. All pins start masked.
//!
//! Lock protocol: one innermost lock around the index and data registers; nothing else is taken under it.
// Unsafe: device registers.
#![allow(unsafe_code)]

use arrayvec::ArrayVec;
use radon_x86::acpi;
use spin::mutex::TicketMutex;

use crate::paging;

/// Most I/O APICs.
const MAX: usize = 64;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const REGISTER_VERSION: u32 = 0x01;
const REGISTER_FIRST_PIN: u32 = 0x10;

const ENTRY_ACTIVE_LOW: u64 = 1 << 13;
const ENTRY_LEVEL: u64 = 1 << 15;
const ENTRY_MASKED: u64 = 1 << 16;

struct IoApic {
    registers: u64,
    gsi_base: u32,
    pins: u32,
}

static ALL: TicketMutex<ArrayVec<IoApic, MAX>> = TicketMutex::new(ArrayVec::new_const());

/// Where a pin's interrupts go. Delivery is fixed, to one CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Vector.
    pub vector: u8,
    /// APIC identifier of the CPU, below 256.
    pub target: u32,
    /// Whether the signal is active low.
    pub active_low: bool,
    /// Whether it is level-triggered.
    pub level: bool,
    /// Whether it is held back.
    pub masked: bool,
}

impl Route {
    fn to_entry(self) -> u64 {
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        u64::from(self.vector)
            | bit(self.active_low, ENTRY_ACTIVE_LOW)
            | bit(self.level, ENTRY_LEVEL)
            | bit(self.masked, ENTRY_MASKED)
            | u64::from(self.target & 0xff) << 56
    }

    fn from_entry(entry: u64) -> Route {
        Route {
            vector: entry as u8,
            target: (entry >> 56) as u32,
            active_low: entry & ENTRY_ACTIVE_LOW != 0,
            level: entry & ENTRY_LEVEL != 0,
            masked: entry & ENTRY_MASKED != 0,
        }
    }
}

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: `init` mapped the registers; the caller holds the lock, so index and data belong together.
        unsafe {
            ((self.registers + SELECT) as *mut u32).write_volatile(register);
            ((self.registers + WINDOW) as *const u32).read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            ((self.registers + SELECT) as *mut u32).write_volatile(register);
            ((self.registers + WINDOW) as *mut u32).write_volatile(value);
        }
    }

    fn read_entry(&self, pin: u32) -> u64 {
        let register = REGISTER_FIRST_PIN + pin * 2;
        u64::from(self.read(register)) | u64::from(self.read(register + 1)) << 32
    }

    fn write_entry(&self, pin: u32, entry: u64) {
        let register = REGISTER_FIRST_PIN + pin * 2;
        // Masked while the halves do not belong together.
        self.write(register, self.read(register) | ENTRY_MASKED as u32);
        self.write(register + 1, (entry >> 32) as u32);
        self.write(register, entry as u32);
    }
}

/// Maps the I/O APICs and masks all their pins.
pub(crate) fn init(found: &[acpi::IoApic]) {
    let mut all = ALL.lock();
    for apic in found {
        let Ok(at) = paging::map_device(apic.address, 32) else {
            log::error!("The I/O APIC at {} cannot be mapped and is not used", apic.address);
            continue;
        };
        let mut this = IoApic { registers: at as u64, gsi_base: apic.gsi_base, pins: 0 };
        let version = this.read(REGISTER_VERSION);
        if version == u32::MAX {
            log::error!("No I/O APIC answers at {}, where the ACPI table APIC has one", apic.address);
            continue;
        }
        this.pins = (version >> 16 & 0xff) + 1;
        for pin in 0..this.pins {
            this.write_entry(pin, ENTRY_MASKED);
        }
        if all.try_push(this).is_err() {
            log::error!("More than {MAX} I/O APICs: the one at {} is not used", apic.address);
        }
    }
}

/// Runs `f` on the I/O APIC and pin of a GSI.
fn with_pin<T>(gsi: u32, f: impl FnOnce(&IoApic, u32) -> T) -> Option<T> {
    let all = ALL.lock();
    let apic = all.iter().find(|a| gsi.checked_sub(a.gsi_base).is_some_and(|pin| pin < a.pins))?;
    Some(f(apic, gsi - apic.gsi_base))
}

/// One more than the highest GSI.
#[must_use]
pub fn gsi_count() -> u32 {
    ALL.lock().iter().map(|a| a.gsi_base + a.pins).max().unwrap_or(0)
}

/// Number of pins of the I/O APIC whose first GSI this is.
#[must_use]
pub fn pins_from(gsi_base: u32) -> Option<u32> {
    ALL.lock().iter().find(|a| a.gsi_base == gsi_base).map(|a| a.pins)
}

/// Whether some I/O APIC has this GSI.
#[must_use]
pub fn has(gsi: u32) -> bool {
    with_pin(gsi, |_, _| ()).is_some()
}

/// Where a GSI's interrupts go now; `None` if there is no such GSI.
#[must_use]
pub fn route(gsi: u32) -> Option<Route> {
    with_pin(gsi, |apic, pin| Route::from_entry(apic.read_entry(pin)))
}

/// Sets where a GSI's interrupts go. Returns whether there is such a GSI.
pub fn set_route(gsi: u32, route: Route) -> bool {
    with_pin(gsi, |apic, pin| apic.write_entry(pin, route.to_entry())).is_some()
}

/// Holds a GSI's interrupts back, or lets them come. Returns whether there is such a GSI.
pub fn set_masked(gsi: u32, masked: bool) -> bool {
    with_pin(gsi, |apic, pin| {
        let register = REGISTER_FIRST_PIN + pin * 2;
        let low = apic.read(register) & !(ENTRY_MASKED as u32);
        apic.write(register, if masked { low | ENTRY_MASKED as u32 } else { low });
        // Reading back makes sure that the write has arrived when this returns.
        apic.read(register);
    })
    .is_some()
}
