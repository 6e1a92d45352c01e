//! Guest-physical memory and ports as an emulated instruction reaches them: RAM, or an emulated device.

use arrayvec::ArrayVec;
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::GuestPhys;
use radon_core::types::{GuestPhysAddr, Nanoseconds};

use crate::devices::interrupt::Message;
use crate::devices::lapic::{self, ApicMode, Effect, Lapic};
use crate::domain::X86Domain;
use crate::emulate::{Fault, Physical, Width};
use crate::ports::Ports;

/// Most effects on interrupt controllers that one instruction causes before it has to be continued.
const MAX_EFFECTS: usize = 8;

/// What device accesses asked for, to be carried out after the instruction.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) lapic: ArrayVec<Effect, MAX_EFFECTS>,
    pub(super) messages: alloc::vec::Vec<Message>,
}

/// [`Physical`] memory of a vCPU.
pub(super) struct EmulatedMemory<'a> {
    pub(super) hv: &'a Hypervisor,
    pub(super) domain: &'a Domain,
    pub(super) x86: &'a X86Domain,
    pub(super) phys: GuestPhys<'a>,
    pub(super) lapic: &'a mut Lapic,
    pub(super) ports: Ports<'a>,
    pub(super) now: Nanoseconds,
    pub(super) effects: Effects,
}

impl EmulatedMemory<'_> {
    /// Reads from an emulated device; all ones where there is none.
    fn device_read(&mut self, at: GuestPhysAddr, to: &mut [u8]) {
        let len = to.len().min(8) as u8;
        let value = if let Some(offset) = self.lapic_offset(at) {
            self.lapic.mmio_read(offset, len, self.now)
        } else if let Some(hardware) = &self.x86.hardware {
            hardware.mmio_read(self.hv, self.domain, at, len)
        } else {
            u64::MAX
        };
        to.fill(0xff);
        for (byte, v) in to.iter_mut().zip(value.to_le_bytes()) {
            *byte = v;
        }
    }

    fn device_write(&mut self, at: GuestPhysAddr, from: &[u8]) -> Result<(), Fault> {
        let mut bytes = [0; 8];
        for (byte, v) in bytes.iter_mut().zip(from) {
            *byte = *v;
        }
        let (len, value) = (from.len().min(8) as u8, u64::from_le_bytes(bytes));
        if let Some(offset) = self.lapic_offset(at) {
            if self.effects.lapic.is_full() {
                return Err(Fault::Retry);
            }
            let effect = self.lapic.mmio_write(offset, len, value as u32, self.now);
            let _ = self.effects.lapic.try_push(effect);
        } else if let Some(hardware) = &self.x86.hardware {
            hardware.mmio_write(self.hv, self.domain, at, len, value, &mut self.effects.messages);
        }
        Ok(())
    }

    fn lapic_offset(&self, at: GuestPhysAddr) -> Option<u16> {
        let offset = at.0.checked_sub(lapic::MMIO_BASE.0).filter(|o| *o < lapic::MMIO_SIZE)?;
        (self.lapic.mode() == ApicMode::XApic).then_some(offset as u16)
    }
}

impl Physical for EmulatedMemory<'_> {
    fn read(&mut self, at: GuestPhysAddr, to: &mut [u8]) -> Result<(), Fault> {
        // What is not RAM is a device.
        if self.phys.read(at, to).is_err() {
            self.device_read(at, to);
        }
        Ok(())
    }

    fn write(&mut self, at: GuestPhysAddr, from: &[u8]) -> Result<(), Fault> {
        match self.phys.write(at, from) {
            Ok(()) => Ok(()),
            Err(_) => self.device_write(at, from),
        }
    }

    fn compare_exchange(&mut self, at: GuestPhysAddr, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
        let size = usize::from(width.bytes());
        // The aligned 64-bit word around it; other bytes keep what they have.
        let shift = (at.0 % 8).wrapping_mul(8) as u32;
        let mask = width.mask().wrapping_shl(shift);
        let word = GuestPhysAddr(at.0 & !7);
        let within_word = ((at.0 % 8) as usize).saturating_add(size) <= 8;
        match self.phys.load_u64(word) {
            Ok(found) if within_word => {
                if found & mask != old.wrapping_shl(shift) & mask {
                    return Ok(false);
                }
                let wanted = (found & !mask) | (new.wrapping_shl(shift) & mask);
                match self.phys.compare_exchange_u64(word, found, wanted) {
                    Ok(before) if before == found => Ok(true),
                    Ok(before) if before & mask != found & mask => Ok(false),
                    // The bytes around it changed meanwhile, or the page became read-only: again.
                    _ => Err(Fault::Retry),
                }
            }
            Ok(_) => Err(Fault::Unhandleable("a misaligned locked access to memory came to the emulator")),
            Err(_) => {
                // A device register: read and write, as the bus does it.
                let mut bytes = [0; 8];
                self.device_read(at, bytes.get_mut(..size).unwrap_or(&mut []));
                if u64::from_le_bytes(bytes) != old & width.mask() {
                    return Ok(false);
                }
                self.device_write(at, new.to_le_bytes().get(..size).unwrap_or(&[]))?;
                Ok(true)
            }
        }
    }

    fn load_entry(&mut self, at: GuestPhysAddr) -> Result<u64, Fault> {
        self.phys.load_u64(at).map_err(|_| Fault::Unhandleable("its page tables are not in its memory"))
    }

    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        Ok(self.ports.read(self.hv, self.domain, self.x86, port, width.bytes()))
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        self.ports.write(self.hv, self.domain, self.x86, port, width.bytes(), value);
        Ok(())
    }
}
