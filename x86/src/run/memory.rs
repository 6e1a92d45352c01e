//! Memory and ports as an emulated instruction reaches them: page-table walk, then RAM or an emulated device.

use arrayvec::ArrayVec;
use radon_core::domain::Domain;
use radon_core::p2m::GuestPhys;
use radon_core::types::{GuestPhysAddr, Nanoseconds, PAGE_SIZE};

use super::guest::Tables;
use crate::devices::interrupt::Message;
use crate::devices::lapic::{self, ApicMode, Effect, Lapic};
use crate::domain::X86Domain;
use crate::emulate::walk::{Access, Paging, WalkError, walk_and_mark};
use crate::emulate::{AccessKind, Exception, Fault, Memory, Width};
use crate::ports::Ports;

/// Most effects on interrupt controllers that one instruction causes before it has to be continued.
const MAX_EFFECTS: usize = 8;

/// What device accesses asked for, to be carried out after the instruction.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) lapic: ArrayVec<Effect, MAX_EFFECTS>,
    pub(super) messages: alloc::vec::Vec<Message>,
}

/// [`Memory`] of a vCPU.
pub(super) struct EmulatedMemory<'a> {
    pub(super) domain: &'a Domain,
    pub(super) x86: &'a X86Domain,
    pub(super) phys: GuestPhys<'a>,
    pub(super) paging: Paging,
    pub(super) user: bool,
    pub(super) smap_exempt: bool,
    pub(super) lapic: &'a mut Lapic,
    pub(super) ports: Ports<'a>,
    pub(super) now: Nanoseconds,
    pub(super) effects: Effects,
}

impl EmulatedMemory<'_> {
    fn translate(&mut self, linear: u64, kind: AccessKind) -> Result<GuestPhysAddr, Fault> {
        let access = Access {
            write: matches!(kind, AccessKind::Write | AccessKind::ReadForWrite),
            fetch: kind == AccessKind::Fetch,
            user: self.user,
            smap_exempt: self.smap_exempt,
        };
        let found = walk_and_mark(&mut Tables(self.phys), &self.paging, linear, access);
        found.map(|t| t.address).map_err(|e| match e {
            WalkError::PageFault(code) => Exception::page_fault(code, linear).into(),
            WalkError::NotCanonical => Exception::GP.into(),
            WalkError::Busy => Fault::Retry,
            WalkError::Table(_) => Fault::Unhandleable("its page tables are not in its memory"),
        })
    }

    /// Calls `f` with the guest-physical address and range of each part of `len` bytes at `linear` that lies in one page.
    /// All parts are translated before the first call, so that a fault comes before any effect.
    fn for_parts(
        &mut self,
        linear: u64,
        len: usize,
        kind: AccessKind,
        mut f: impl FnMut(&mut Self, GuestPhysAddr, core::ops::Range<usize>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let in_first = PAGE_SIZE.saturating_sub(linear % PAGE_SIZE) as usize;
        let first = self.translate(linear, kind)?;
        if len <= in_first {
            return f(self, first, 0..len);
        }
        let second = self.translate(linear.wrapping_add(in_first as u64), kind)?;
        f(self, first, 0..in_first)?;
        f(self, second, in_first..len)
    }

    /// Reads from an emulated device; all ones where there is none.
    fn device_read(&mut self, at: GuestPhysAddr, to: &mut [u8]) {
        let len = to.len().min(8) as u8;
        let value = if let Some(offset) = self.lapic_offset(at) {
            self.lapic.mmio_read(offset, len, self.now)
        } else if let Some(hardware) = &self.x86.hardware {
            hardware.mmio_read(at, len)
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
            hardware.mmio_write(at, len, value, &mut self.effects.messages);
        }
        Ok(())
    }

    fn lapic_offset(&self, at: GuestPhysAddr) -> Option<u16> {
        let offset = at.0.checked_sub(lapic::MMIO_BASE.0).filter(|o| *o < lapic::MMIO_SIZE)?;
        (self.lapic.mode() == ApicMode::XApic).then_some(offset as u16)
    }
}

impl Memory for EmulatedMemory<'_> {
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault> {
        let len = to.len();
        self.for_parts(linear, len, kind, |this, at, range| {
            let part = to.get_mut(range).unwrap_or(&mut []);
            // What is not RAM is a device.
            if this.phys.read(at, part).is_err() {
                this.device_read(at, part);
            }
            Ok(())
        })
    }

    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault> {
        self.for_parts(linear, from.len(), AccessKind::Write, |this, at, range| {
            let part = from.get(range).unwrap_or(&[]);
            match this.phys.write(at, part) {
                Ok(()) => Ok(()),
                Err(_) => this.device_write(at, part),
            }
        })
    }

    fn compare_exchange(&mut self, linear: u64, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
        let at = self.translate(linear, AccessKind::ReadForWrite)?;
        let size = u64::from(width.bytes());
        if linear % size != 0 {
            // A locked access across an alignment boundary: not to a device, and RAM does not come here.
            return Err(Fault::Unhandleable("misaligned locked access to something that is not RAM"));
        }
        // The aligned 64-bit word around it; other bytes keep what they have.
        let shift = (linear % 8).wrapping_mul(8) as u32;
        let mask =
            u64::MAX.wrapping_shr(64u32.saturating_sub(u32::from(width.bytes()).wrapping_mul(8))).wrapping_shl(shift);
        let word = GuestPhysAddr(at.0 & !7);
        let Ok(found) = self.phys.load_u64(word) else {
            // A device register: read and write, as the bus does it.
            let mut bytes = [0; 8];
            let field = bytes.get_mut(..size as usize).unwrap_or(&mut []);
            self.device_read(at, field);
            if u64::from_le_bytes(bytes) != old {
                return Ok(false);
            }
            let new = new.to_le_bytes();
            self.device_write(at, new.get(..size as usize).unwrap_or(&[]))?;
            return Ok(true);
        };
        if (found & mask) != (old.wrapping_shl(shift) & mask) {
            return Ok(false);
        }
        let wanted = (found & !mask) | (new.wrapping_shl(shift) & mask);
        let before = self.phys.compare_exchange_u64(word, found, wanted);
        // Changed meanwhile in the bytes around it: the instruction is tried again.
        match before {
            Ok(v) if v == found => Ok(true),
            Ok(v) if v & mask != found & mask => Ok(false),
            _ => Err(Fault::Retry),
        }
    }

    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        Ok(self.ports.read(self.domain, self.x86, port, width.bytes()))
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        self.ports.write(self.domain, self.x86, port, width.bytes(), value);
        Ok(())
    }
}
