//! Saved state in the form of Xen's HVM context record IOAPIC (`hvm_hw_vioapic` of xen/arch-x86/hvm/save.h): base
//! address, register select, id, and 48 redirection entries, little-endian. Line states are not part of it: devices
//! set their lines again after a restore.

use super::{DESTINATION, EXTENDED_DESTINATION, IoApic, LEVEL, MASKED, REMOTE_IRR, WRITABLE_LOW};

/// Pins in the record.
pub const HVM_IOAPIC_PINS: usize = 48;
/// Bytes of `hvm_hw_vioapic`.
pub const HVM_IOAPIC_SIZE: usize = 16 + 8 * HVM_IOAPIC_PINS;

/// A saved state that does not fit this I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState;

impl IoApic {
    /// The state as `hvm_hw_vioapic`. Pins that do not exist are saved as masked; pins past the 48th are left out.
    #[must_use]
    pub fn save(&self) -> [u8; HVM_IOAPIC_SIZE] {
        let ids = u64::from(self.select) | u64::from(self.id) << 32;
        let entries = self.pins.iter().map(|pin| pin.entry).chain(core::iter::repeat(MASKED)).take(HVM_IOAPIC_PINS);
        let mut out = [0; HVM_IOAPIC_SIZE];
        for (to, value) in out.chunks_exact_mut(8).zip([self.config.base.0, ids].into_iter().chain(entries)) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    /// Takes over a saved state; all lines count as released.
    ///
    /// # Errors
    /// [`InvalidState`] if it was saved for another address, or if this I/O APIC stands for a real one. Entries are cut
    /// to what software could have written.
    pub fn restore(&mut self, saved: &[u8; HVM_IOAPIC_SIZE]) -> Result<(), InvalidState> {
        let mut values = saved.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let (Some(base), Some(ids)) = (values.next(), values.next()) else { return Err(InvalidState) };
        if base != self.config.base.0 || self.backend.is_some() {
            return Err(InvalidState);
        }
        self.select = ids as u32 & 0xff;
        self.id = (ids >> 32) as u8;
        let extended = if self.config.extended_destination { EXTENDED_DESTINATION } else { 0 };
        let writable = WRITABLE_LOW | DESTINATION | extended;
        for (pin, value) in self.pins.iter_mut().zip(values) {
            let kept = if value & LEVEL != 0 { writable | REMOTE_IRR } else { writable };
            pin.entry = value & kept;
            pin.line = false;
        }
        Ok(())
    }
}
