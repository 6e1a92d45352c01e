//! One PCI function as the guest sees it: the hardware's configuration space, with a few registers in between.
//!
//! An access is cut into pieces: registers that are virtual get whole values (merged from what they read as and what
//! the guest wrote), and everything else reaches the hardware in the guest's own widths, so that registers in which
//! writing a one clears a bit are not disturbed.

use super::bar::{self, Bar, MAX_BARS};
use super::config::{self, COMMAND, COMMAND_MEMORY};
use super::msi::{self, Msi};
use super::msix::{self, Msix};
use super::{Backends, Sbdf, Width};
use arrayvec::ArrayVec;
use core::ops::Range;

/// Bytes of configuration space of a function.
const CONFIG_SIZE: u16 = 4096;

/// A register that is not simply the hardware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Command,
    /// Position in [`Device::bars`] and which half.
    Bar(usize, usize),
    Msi(msi::Register),
    MsixControl,
    /// The control register of a capability that cannot be used: writes are dropped.
    BrokenMsix,
}

/// A function and its state.
#[derive(Clone, Debug)]
pub(super) struct Device {
    at: Sbdf,
    bars: ArrayVec<Bar, MAX_BARS>,
    msi: Option<Msi>,
    pub(super) msix: Option<Msix>,
    broken_msix: Option<u16>,
    resizable: bool,
    /// The hypervisor uses the function: the guest may look but not touch.
    pub(super) protected: bool,
    /// The ranges that the guest should be able to reach, less what is trapped. Kept by [`super::VPci`].
    pub(super) decoded: ArrayVec<Range<u64>, MAX_BARS>,
}

impl Device {
    /// Looks at a function, which must be idle. MSI and MSI-X are off afterwards.
    pub(super) fn probe(backends: &Backends<'_>, at: Sbdf) -> Device {
        let bars = bar::probe(backends.pci, at);
        let (msix, broken_msix) = match Msix::probe(backends, at, &bars) {
            msix::Probe::None => (None, None),
            msix::Probe::Broken(capability) => {
                log::warn!("{at}: the MSI-X table is not within a BAR; MSI-X stays off");
                (None, Some(capability))
            }
            msix::Probe::Usable(msix) => (Some(msix), None),
        };
        let msi = Msi::probe(backends, at);
        let resizable = config::has_resizable_bars(backends.pci, at);
        Device { at, bars, msi, msix, broken_msix, resizable, protected: false, decoded: ArrayVec::new() }
    }

    /// A function of the hypervisor's own, which is not even probed.
    pub(super) fn protected(at: Sbdf) -> Device {
        Device {
            at,
            bars: ArrayVec::new(),
            msi: None,
            msix: None,
            broken_msix: None,
            resizable: false,
            protected: true,
            decoded: ArrayVec::new(),
        }
    }

    /// Whether the function decodes memory.
    fn decodes(&self, backends: &Backends<'_>) -> bool {
        backends.pci.read(self.at, COMMAND, Width::Word) as u16 & COMMAND_MEMORY != 0
    }

    /// The addresses that the function decodes now, by BAR number.
    pub(super) fn places(&self, backends: &Backends<'_>) -> ArrayVec<(u8, Range<u64>), MAX_BARS> {
        if !self.decodes(backends) {
            return ArrayVec::new();
        }
        // There are no more BARs than there is room for.
        self.bars.iter().filter_map(|b| Some((b.index, b.place(backends.pci, self.at)?))).take(MAX_BARS).collect()
    }

    pub(super) fn read(&self, backends: &Backends<'_>, register: u16, width: Width) -> u32 {
        let mut value = [0xff; 4];
        let end = register.saturating_add(width.bytes()).min(CONFIG_SIZE);
        let mut at = register;
        while at < end {
            let (piece, bytes) = match self.slot(at) {
                Some((range, slot)) => {
                    let bytes = self.read_slot(backends, slot).to_le_bytes();
                    let skip = usize::from(at.saturating_sub(range.start));
                    let len = range.end.min(end).saturating_sub(at);
                    (len, shifted(bytes, skip))
                }
                None => {
                    let piece = self.hardware_piece(at, end);
                    (piece.bytes(), backends.pci.read(self.at, at, piece).to_le_bytes())
                }
            };
            put(&mut value, at.saturating_sub(register), &bytes, piece);
            at = at.saturating_add(piece.max(1));
        }
        u32::from_le_bytes(value) & width.mask()
    }

    /// Returns whether the function's place in memory may have changed.
    pub(super) fn write(&mut self, backends: &Backends<'_>, register: u16, width: Width, value: u32) -> bool {
        if self.protected {
            return false;
        }
        let bytes = value.to_le_bytes();
        let end = register.saturating_add(width.bytes()).min(CONFIG_SIZE);
        let mut at = register;
        let mut moved = false;
        while at < end {
            let given = shifted(bytes, usize::from(at.saturating_sub(register)));
            let piece = match self.slot(at) {
                Some((range, slot)) => {
                    let mut merged = self.read_slot(backends, slot).to_le_bytes();
                    let len = range.end.min(end).saturating_sub(at);
                    put(&mut merged, at.saturating_sub(range.start), &given, len);
                    moved |= self.write_slot(backends, slot, u32::from_le_bytes(merged));
                    len
                }
                None => {
                    let piece = self.hardware_piece(at, end);
                    backends.pci.write(self.at, at, piece, u32::from_le_bytes(given) & piece.mask());
                    piece.bytes()
                }
            };
            at = at.saturating_add(piece.max(1));
        }
        moved
    }

    /// Switches all messages off, as before the function leaves.
    pub(super) fn stop(&mut self, backends: &Backends<'_>) {
        if let Some(msi) = &mut self.msi {
            msi.stop(backends, self.at);
        }
        if let Some(msix) = &mut self.msix {
            msix.stop(backends, self.at);
        }
    }

    /// The virtual register that a byte belongs to, with the bytes that it takes.
    fn slot(&self, byte: u16) -> Option<(Range<u16>, Slot)> {
        let (word, dword) = (byte & !1, byte & !3);
        let range = |start: u16, len: u16| start..start.saturating_add(len);
        if self.protected {
            return None;
        }
        if word == COMMAND {
            return Some((range(word, 2), Slot::Command));
        }
        for (position, bar) in self.bars.iter().enumerate() {
            if let Some(half) = bar.half(dword) {
                return Some((range(dword, 4), Slot::Bar(position, half)));
            }
        }
        if let Some(msi) = &self.msi {
            for start in [dword, word] {
                if let Some((register, len)) = msi.register(start)
                    && range(start, len).contains(&byte)
                {
                    return Some((range(start, len), Slot::Msi(register)));
                }
            }
        }
        if self.msix.as_ref().is_some_and(|m| m.is_control(word)) {
            return Some((range(word, 2), Slot::MsixControl));
        }
        if self.broken_msix.is_some_and(|c| c.wrapping_add(2) == word) {
            return Some((range(word, 2), Slot::BrokenMsix));
        }
        None
    }

    /// The largest aligned piece from `at` on that belongs to the hardware alone. `at` does.
    fn hardware_piece(&self, at: u16, end: u16) -> Width {
        let fits = |width: Width| {
            let stop = at.saturating_add(width.bytes());
            at.is_multiple_of(width.bytes()) && stop <= end && (at..stop).all(|byte| self.slot(byte).is_none())
        };
        [Width::Dword, Width::Word].into_iter().find(|w| fits(*w)).unwrap_or(Width::Byte)
    }

    fn read_slot(&self, backends: &Backends<'_>, slot: Slot) -> u32 {
        match slot {
            Slot::Command => backends.pci.read(self.at, COMMAND, Width::Word),
            Slot::Bar(position, half) => self.bars.get(position).map_or(0, |b| b.read(backends.pci, self.at, half)),
            Slot::Msi(register) => self.msi.as_ref().map_or(0, |m| m.read(backends, self.at, register)),
            Slot::MsixControl => self.msix.as_ref().map_or(0, Msix::read_control),
            Slot::BrokenMsix => 0,
        }
    }

    fn write_slot(&mut self, backends: &Backends<'_>, slot: Slot, value: u32) -> bool {
        match slot {
            Slot::Command => {
                let starts = value as u16 & COMMAND_MEMORY != 0 && !self.decodes(backends);
                if starts && self.resizable {
                    self.bars = bar::probe(backends.pci, self.at);
                }
                backends.pci.write(self.at, COMMAND, Width::Word, value);
                true
            }
            Slot::Bar(position, half) => {
                self.bars.get_mut(position).is_some_and(|b| b.write(backends.pci, self.at, half, value))
            }
            // MSI and MSI-X exclude each other: what is enabled second stays off.
            Slot::Msi(register) => {
                let allowed = !self.msix.as_ref().is_some_and(Msix::is_enabled);
                if let Some(msi) = &mut self.msi {
                    msi.write(backends, self.at, register, value, allowed);
                }
                false
            }
            Slot::MsixControl => {
                let allowed = !self.msi.as_ref().is_some_and(Msi::is_enabled);
                if let Some(msix) = &mut self.msix {
                    msix.write_control(backends, self.at, value, allowed);
                }
                false
            }
            Slot::BrokenMsix => false,
        }
    }
}

/// The bytes from `skip` on, followed by zeros.
fn shifted(bytes: [u8; 4], skip: usize) -> [u8; 4] {
    let bits = u32::try_from(skip.saturating_mul(8)).unwrap_or(32);
    u32::from_le_bytes(bytes).checked_shr(bits).unwrap_or(0).to_le_bytes()
}

/// Copies the first `len` of `bytes` into `value` from `at` on.
fn put(value: &mut [u8; 4], at: u16, bytes: &[u8; 4], len: u16) {
    let places = value.iter_mut().skip(usize::from(at)).take(usize::from(len));
    places.zip(bytes).for_each(|(place, byte)| *place = *byte);
}
