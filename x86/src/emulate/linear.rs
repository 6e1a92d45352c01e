//! Linear memory of a vCPU: a page-table walk, then guest-physical accesses.

use super::instruction::Width;
use super::walk::{Access, Paging, TableMemory, WalkError, walk_and_mark};
use super::{AccessKind, Exception, Fault, Memory};
use radon_core::types::GuestPhysAddr;

/// Guest-physical memory, devices and ports as the emulator reaches them. Accesses do not cross a 4 KiB page.
pub trait Physical {
    /// Reads from RAM or from the device that is there.
    fn read(&mut self, at: GuestPhysAddr, to: &mut [u8]) -> Result<(), Fault>;
    /// Writes to RAM or to the device that is there.
    fn write(&mut self, at: GuestPhysAddr, from: &[u8]) -> Result<(), Fault>;
    /// Atomically replaces a value in RAM (or, not atomically, in a device) if it is `old`; says whether it did.
    fn compare_exchange(&mut self, at: GuestPhysAddr, width: Width, old: u64, new: u64) -> Result<bool, Fault>;
    /// Loads an aligned page-table entry; tables are in RAM.
    fn load_entry(&mut self, at: GuestPhysAddr) -> Result<u64, Fault>;
    /// Reads an I/O port.
    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault>;
    /// Writes an I/O port.
    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault>;
}

/// The [`Memory`] of a vCPU for the time of one instruction.
pub struct LinearMemory<'a> {
    physical: &'a mut dyn Physical,
    paging: Paging,
    user: bool,
    smap_exempt: bool,
    /// The last translations of a read, a write and a fetch: linear and guest-physical page addresses. A string
    /// instruction walks once per page, not once per element.
    cache: [Option<(u64, u64)>; 3],
}

struct Tables<'a>(&'a mut dyn Physical);

impl TableMemory for Tables<'_> {
    type Error = Fault;

    fn load(&mut self, at: GuestPhysAddr) -> Result<u64, Fault> {
        self.0.load_entry(at)
    }

    fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, Fault> {
        self.0.compare_exchange(at, Width::Qword, old, new)
    }
}

/// A piece of an access within one page.
type Piece = (GuestPhysAddr, usize);

impl<'a> LinearMemory<'a> {
    /// Memory as a vCPU sees it that is in paging mode `paging`, at privilege level `cpl` and has these flags.
    pub fn new(physical: &'a mut dyn Physical, paging: Paging, cpl: u8, rflags: u64) -> LinearMemory<'a> {
        let smap_exempt = rflags & super::rflags::AC != 0;
        LinearMemory { physical, paging, user: cpl == 3, smap_exempt, cache: [None; 3] }
    }

    fn translate(&mut self, linear: u64, kind: AccessKind) -> Result<GuestPhysAddr, Fault> {
        let write = matches!(kind, AccessKind::Write | AccessKind::ReadForWrite);
        let fetch = kind == AccessKind::Fetch;
        let slot = if fetch { 2 } else { usize::from(write) };
        let (page, offset) = (linear & !0xfff, linear & 0xfff);
        if let Some(Some((from, to))) = self.cache.get(slot)
            && *from == page
        {
            return Ok(GuestPhysAddr(to | offset));
        }
        let access = Access { write, fetch, user: self.user, smap_exempt: self.smap_exempt };
        let found = walk_and_mark(&mut Tables(self.physical), &self.paging, linear, access).map_err(|e| match e {
            WalkError::PageFault(code) => Exception::page_fault(code, linear).into(),
            WalkError::NotCanonical => Exception::GP.into(),
            WalkError::Table(fault) => fault,
            WalkError::Busy => Fault::Retry,
        })?;
        if let Some(entry) = self.cache.get_mut(slot) {
            *entry = Some((page, found.address.0 & !0xfff));
        }
        Ok(found.address)
    }

    /// Splits an access at the page boundary and translates both parts.
    fn pieces(&mut self, linear: u64, length: usize, kind: AccessKind) -> Result<(Piece, Option<Piece>), Fault> {
        let first = (0x1000_u64.wrapping_sub(linear & 0xfff) as usize).min(length);
        let start = (self.translate(linear, kind)?, first);
        let rest = length.saturating_sub(first);
        if rest == 0 {
            return Ok((start, None));
        }
        let next = linear.wrapping_add(first as u64);
        Ok((start, Some((self.translate(next, kind)?, rest))))
    }
}

impl Memory for LinearMemory<'_> {
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault> {
        let ((at, length), rest) = self.pieces(linear, to.len(), kind)?;
        let (low, high) = to.split_at_mut_checked(length).ok_or(Fault::Unhandleable("split"))?;
        self.physical.read(at, low)?;
        match rest {
            Some((at, _)) => self.physical.read(at, high),
            None => Ok(()),
        }
    }

    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault> {
        let ((at, length), rest) = self.pieces(linear, from.len(), AccessKind::Write)?;
        let (low, high) = from.split_at_checked(length).ok_or(Fault::Unhandleable("split"))?;
        self.physical.write(at, low)?;
        match rest {
            Some((at, _)) => self.physical.write(at, high),
            None => Ok(()),
        }
    }

    fn check_write(&mut self, linear: u64, length: u8) -> Result<(), Fault> {
        self.pieces(linear, usize::from(length), AccessKind::Write).map(|_| ())
    }

    fn compare_exchange(&mut self, linear: u64, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
        let length = usize::from(width.bytes());
        let ((at, _), rest) = self.pieces(linear, length, AccessKind::Write)?;
        if rest.is_none() {
            return self.physical.compare_exchange(at, width, old, new);
        }
        // A locked access across two pages, one of which is a device's: no processor makes that atomic for a device.
        let mut bytes = [0_u8; 8];
        if let Some(to) = bytes.get_mut(..length) {
            self.read(linear, to, AccessKind::ReadForWrite)?;
        }
        if u64::from_le_bytes(bytes) != old & width.mask() {
            return Ok(false);
        }
        let (from, bytes) = (new.to_le_bytes(), length);
        self.write(linear, from.get(..bytes).unwrap_or(&[]))?;
        Ok(true)
    }

    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        self.physical.port_in(port, width)
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        self.physical.port_out(port, width, value)
    }
}
