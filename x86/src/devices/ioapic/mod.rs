//! The virtual I/O APIC (Intel 82093AA data sheet; version 0x20 adds the EOI register of later chipsets).
//!
//! A domain has one or more, each with its own range of global system interrupts (GSIs). Messages are returned or given
//! to a callback, for [`super::lapic::deliver`].
//!
//! The hardware domain's I/O APICs stand for real ones: what the guest writes into a redirection entry is told to a
//! [`PinBackend`], which programs the real pin, and the real pin's interrupts come in by [`IoApic::interrupt`]. A real
//! level-triggered interrupt is held (not ended at the real I/O APIC) until the guest's own EOI clears the remote IRR;
//! then [`PinBackend::eoi`] releases it, and if the line is still asserted it simply comes again.
//!
//! Invariants: remote IRR is set only in level-triggered entries. With a backend, a pin's `line` is set exactly while the
//! real interrupt is held.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use radon_core::types::GuestPhysAddr;

use super::interrupt::{DeliveryMode, Message, Trigger};

mod save;
#[cfg(test)]
mod tests;

pub use save::{HVM_IOAPIC_PINS, HVM_IOAPIC_SIZE, InvalidState};

/// Bytes of the register window.
pub const MMIO_SIZE: u64 = 0x1000;
/// The most pins that one I/O APIC can have.
pub const MAX_PINS: u32 = 240;

// Offsets in the window.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

// Indirect registers.
const REG_ID: u32 = 0;
const REG_VERSION: u32 = 1;
const REG_ARBITRATION: u32 = 2;
const REG_FIRST_ENTRY: u32 = 0x10;

const LOGICAL: u64 = 1 << 11;
const ACTIVE_LOW: u64 = 1 << 13;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const WRITABLE_LOW: u64 = 0x1_afff;
const DESTINATION: u64 = 0xff << 56;
/// Destination bits 14:8, where the guest was told of extended destination ids.
const EXTENDED_DESTINATION: u64 = 0x7f << 49;

/// How the guest wants a pin to behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinConfig {
    /// Edge or level.
    pub trigger: Trigger,
    /// Whether the line is asserted when low.
    pub active_low: bool,
    /// What an interrupt sends in the guest: its destination is a hint where the real interrupt is best taken.
    pub message: Message,
}

/// The real pins behind the hardware domain's I/O APICs. Called with the I/O APIC's lock held.
pub trait PinBackend: Send + Sync {
    /// The guest unmasked a pin for the first time, or changed the configuration of one that is unmasked. To be done with
    /// the real pin masked, which stays so until [`PinBackend::unmask`] or [`PinBackend::eoi`].
    fn route(&self, gsi: u32, config: &PinConfig);
    /// The guest masked a pin.
    fn mask(&self, gsi: u32);
    /// The guest unmasked a pin, after [`PinBackend::route`] if that was needed.
    fn unmask(&self, gsi: u32);
    /// The held level-triggered interrupt of a pin is over: end it at the real I/O APIC.
    fn eoi(&self, gsi: u32);
}

/// What an I/O APIC is built with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApicConfig {
    /// Its id, as in the MADT.
    pub id: u8,
    /// 0x11, or 0x20 for one with an EOI register.
    pub version: u8,
    /// Where its window lies.
    pub base: GuestPhysAddr,
    /// The GSI of pin 0.
    pub gsi_base: u32,
    /// Number of pins, 1 to [`MAX_PINS`].
    pub pins: u32,
    /// Whether the guest was told of 15-bit destination ids (Xen's CPUID leaf 4).
    pub extended_destination: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pin {
    entry: u64,
    /// Virtual line: asserted. With a backend: a real interrupt is held.
    line: bool,
    /// What the backend was last told.
    routed: Option<PinConfig>,
    unmasked: bool,
}

impl Pin {
    const RESET: Pin = Pin { entry: MASKED, line: false, routed: None, unmasked: false };

    fn trigger(&self) -> Trigger {
        if self.entry & LEVEL != 0 { Trigger::Level } else { Trigger::Edge }
    }

    /// The message of the entry; `None` if it is masked or has the reserved delivery mode.
    fn message(&self) -> Option<Message> {
        if self.entry & MASKED != 0 {
            return None;
        }
        // The extended bits are zero unless they can be written.
        let destination = self.entry >> 56 | (self.entry & EXTENDED_DESTINATION) >> 49 << 8;
        Some(Message {
            destination: destination as u32,
            logical: self.entry & LOGICAL != 0,
            mode: DeliveryMode::from_bits((self.entry >> 8) as u32)?,
            vector: self.entry as u8,
            trigger: self.trigger(),
        })
    }

    /// The message to send if the pin is level-triggered, asserted, and its last interrupt is over.
    fn fire_level(&mut self) -> Option<Message> {
        if !self.line || self.entry & LEVEL == 0 || self.entry & REMOTE_IRR != 0 {
            return None;
        }
        let message = self.message()?;
        if message.mode.carries_vector() {
            self.entry |= REMOTE_IRR;
        }
        Some(message)
    }
}

/// A virtual I/O APIC.
pub struct IoApic {
    config: IoApicConfig,
    id: u8,
    select: u32,
    pins: Vec<Pin>,
    backend: Option<Arc<dyn PinBackend>>,
}

impl fmt::Debug for IoApic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoApic").field("config", &self.config).field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl IoApic {
    /// An I/O APIC after reset, all pins masked. `backend` makes it stand for a real one. `None` if the number of pins is
    /// out of range or the GSIs do not fit 32 bits.
    #[must_use]
    pub fn new(config: IoApicConfig, backend: Option<Arc<dyn PinBackend>>) -> Option<IoApic> {
        if config.pins == 0 || config.pins > MAX_PINS || config.gsi_base.checked_add(config.pins).is_none() {
            return None;
        }
        let pins = core::iter::repeat_n(Pin::RESET, config.pins as usize).collect();
        Some(IoApic { config, id: config.id, select: 0, pins, backend })
    }

    /// What it was built with.
    #[must_use]
    pub fn config(&self) -> &IoApicConfig {
        &self.config
    }

    /// Whether a GSI is one of its pins.
    #[must_use]
    pub fn contains_gsi(&self, gsi: u32) -> bool {
        gsi.checked_sub(self.config.gsi_base).is_some_and(|pin| pin < self.config.pins)
    }

    /// A virtual device changes a line: `asserted` is the logical state, whatever the polarity. Returns the message to
    /// deliver, if any. GSIs of other I/O APICs are ignored. Not for pins of the hardware domain.
    pub fn set_line(&mut self, gsi: u32, asserted: bool) -> Option<Message> {
        let pin = self.pin_mut(gsi)?;
        let rising = asserted && !pin.line;
        pin.line = asserted;
        match pin.trigger() {
            // An edge on a masked pin is lost, as the data sheet says.
            Trigger::Edge if rising => pin.message(),
            Trigger::Edge => None,
            Trigger::Level => pin.fire_level(),
        }
    }

    /// A line is asserted and released at once: one interrupt of an edge-triggered pin.
    pub fn pulse(&mut self, gsi: u32) -> Option<Message> {
        let message = self.set_line(gsi, true);
        self.set_line(gsi, false);
        message
    }

    /// The real pin behind `gsi` interrupted. If the guest has it as level-triggered it counts as held from now until
    /// [`PinBackend::eoi`]; an edge is over at once.
    pub fn interrupt(&mut self, gsi: u32) -> Option<Message> {
        let pin = self.pins.get_mut(gsi.checked_sub(self.config.gsi_base)? as usize)?;
        if pin.trigger() == Trigger::Edge {
            return pin.message();
        }
        pin.line = true;
        let message = pin.fire_level();
        if let Some(backend) = &self.backend {
            release_unended(backend.as_ref(), gsi, pin, message.as_ref());
        }
        message
    }

    /// A level-triggered interrupt of this vector ended in a local APIC. Lines that are still asserted fire again.
    pub fn eoi(&mut self, vector: u8, mut emit: impl FnMut(Message)) {
        for (gsi, pin) in (self.config.gsi_base..).zip(&mut self.pins) {
            if pin.entry & REMOTE_IRR == 0 || pin.entry as u8 != vector {
                continue;
            }
            pin.entry &= !REMOTE_IRR;
            match &self.backend {
                Some(backend) => {
                    pin.line = false;
                    backend.eoi(gsi);
                }
                None => {
                    if let Some(message) = pin.fire_level() {
                        emit(message);
                    }
                }
            }
        }
    }

    /// Reads `len` bytes at `offset` of the window. Only registers at their own offset answer; the rest reads as ones.
    #[must_use]
    pub fn mmio_read(&self, offset: u64, len: u8) -> u64 {
        let value = match offset {
            SELECT => self.select,
            WINDOW => self.read(self.select),
            _ => return u64::MAX,
        };
        match len {
            1 => u64::from(value & 0xff),
            2 => u64::from(value & 0xffff),
            _ => u64::from(value),
        }
    }

    /// Writes to the window. The data window takes 32-bit writes only, as on hardware; the others are a byte wide.
    pub fn mmio_write(&mut self, offset: u64, len: u8, value: u32, emit: impl FnMut(Message)) {
        match offset {
            SELECT => self.select = value & 0xff,
            WINDOW if len >= 4 => self.write(self.select, value, emit),
            EOI if self.config.version >= 0x20 => self.eoi(value as u8, emit),
            _ => {}
        }
    }

    fn pin_mut(&mut self, gsi: u32) -> Option<&mut Pin> {
        self.pins.get_mut(gsi.checked_sub(self.config.gsi_base)? as usize)
    }

    fn read(&self, register: u32) -> u32 {
        match register {
            REG_ID | REG_ARBITRATION => u32::from(self.id) << 24,
            REG_VERSION => self.config.pins.saturating_sub(1) << 16 | u32::from(self.config.version),
            _ => {
                let entry = register
                    .checked_sub(REG_FIRST_ENTRY)
                    .and_then(|n| self.pins.get((n >> 1) as usize))
                    .map_or(u64::MAX, |pin| pin.entry);
                if register & 1 == 0 { entry as u32 } else { (entry >> 32) as u32 }
            }
        }
    }

    fn write(&mut self, register: u32, value: u32, mut emit: impl FnMut(Message)) {
        if register == REG_ID {
            self.id = (value >> 24) as u8;
            return;
        }
        let Some(number) = register.checked_sub(REG_FIRST_ENTRY).map(|n| n >> 1) else { return };
        let Some(pin) = self.pins.get_mut(number as usize) else { return };
        if register & 1 == 0 {
            pin.entry = (pin.entry & !WRITABLE_LOW) | (u64::from(value) & WRITABLE_LOW);
        } else {
            let extended = if self.config.extended_destination { EXTENDED_DESTINATION } else { 0 };
            let writable = DESTINATION | extended;
            pin.entry = (pin.entry & !writable) | (u64::from(value) << 32 & writable);
        }
        if pin.trigger() == Trigger::Edge {
            // Switching an entry to edge and back is how software clears a remote IRR without an EOI register.
            pin.entry &= !REMOTE_IRR;
        }
        if let Some(backend) = &self.backend {
            let gsi = self.config.gsi_base.saturating_add(number);
            if pin.trigger() == Trigger::Edge && pin.line {
                pin.line = false;
                backend.eoi(gsi);
            }
            tell(backend.as_ref(), gsi, pin);
        }
        let message = pin.fire_level();
        if let Some(backend) = &self.backend {
            release_unended(backend.as_ref(), self.config.gsi_base.saturating_add(number), pin, message.as_ref());
        }
        if let Some(message) = message {
            emit(message);
        }
    }
}

/// A level-triggered NMI or the like was sent: the guest will not end it, so the real pin is released at once.
fn release_unended(backend: &dyn PinBackend, gsi: u32, pin: &mut Pin, sent: Option<&Message>) {
    if sent.is_some_and(|message| !message.mode.carries_vector()) {
        pin.line = false;
        backend.eoi(gsi);
    }
}

/// Tells the backend what changed since it was told last.
fn tell(backend: &dyn PinBackend, gsi: u32, pin: &mut Pin) {
    let Some(message) = pin.message() else {
        if pin.unmasked {
            pin.unmasked = false;
            backend.mask(gsi);
        }
        return;
    };
    let config = PinConfig { trigger: pin.trigger(), active_low: pin.entry & ACTIVE_LOW != 0, message };
    let moves = pin.routed != Some(config);
    if moves {
        pin.routed = Some(config);
        backend.route(gsi, &config);
    }
    // The real pin was masked for that. One whose interrupt is held stays so until that is over.
    if !pin.unmasked || moves && !pin.line {
        pin.unmasked = true;
        backend.unmask(gsi);
    }
}
