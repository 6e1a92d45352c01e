//! Linear memory of a vCPU: a page-table walk, then guest-physical accesses.

use super::forced::SystemMemory;
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

impl LinearMemory<'_> {
    /// Calls `f` with the rights of the processor's own accesses.
    fn as_processor<R>(&mut self, f: impl FnOnce(&mut Self) -> R) -> R {
        let rights = (self.user, self.smap_exempt);
        (self.user, self.smap_exempt) = (false, false);
        // Translations were found with other rights.
        self.cache = [None; 3];
        let result = f(self);
        self.cache = [None; 3];
        (self.user, self.smap_exempt) = rights;
        result
    }
}

impl SystemMemory for LinearMemory<'_> {
    fn read_system(&mut self, linear: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.as_processor(|memory| memory.read(linear, to, AccessKind::Read))
    }

    fn exchange_system(&mut self, linear: u64, old: u64, new: u64) -> Result<bool, Fault> {
        self.as_processor(|memory| memory.compare_exchange(linear, Width::Qword, old, new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec::Vec;

    /// Guest-physical bytes, and a log of accesses that are not of page tables.
    #[derive(Default)]
    struct Machine {
        bytes: BTreeMap<u64, u8>,
        log: Vec<(char, u64, usize)>,
        loads: u32,
    }

    impl Machine {
        fn put(&mut self, at: u64, value: u64) {
            for (n, b) in value.to_le_bytes().into_iter().enumerate() {
                self.bytes.insert(at + n as u64, b);
            }
        }
        fn get(&self, at: u64) -> u64 {
            u64::from_le_bytes(core::array::from_fn(|n| self.bytes.get(&(at + n as u64)).copied().unwrap_or(0)))
        }
    }

    impl Physical for Machine {
        fn read(&mut self, at: GuestPhysAddr, to: &mut [u8]) -> Result<(), Fault> {
            assert!((at.0 & 0xfff) + to.len() as u64 <= 0x1000, "crosses a page");
            self.log.push(('r', at.0, to.len()));
            for (n, b) in to.iter_mut().enumerate() {
                *b = self.bytes.get(&(at.0 + n as u64)).copied().unwrap_or(0);
            }
            Ok(())
        }
        fn write(&mut self, at: GuestPhysAddr, from: &[u8]) -> Result<(), Fault> {
            assert!((at.0 & 0xfff) + from.len() as u64 <= 0x1000, "crosses a page");
            self.log.push(('w', at.0, from.len()));
            for (n, b) in from.iter().enumerate() {
                self.bytes.insert(at.0 + n as u64, *b);
            }
            Ok(())
        }
        fn compare_exchange(&mut self, at: GuestPhysAddr, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
            let found = self.get(at.0);
            let same = found & width.mask() == old;
            if same {
                self.put(at.0, found & !width.mask() | new & width.mask());
            }
            Ok(same)
        }
        fn load_entry(&mut self, at: GuestPhysAddr) -> Result<u64, Fault> {
            self.loads += 1;
            if at.0 >= 1 << 30 { Err(Fault::Unhandleable("no RAM")) } else { Ok(self.get(at.0)) }
        }
        fn port_in(&mut self, _: u16, _: Width) -> Result<u32, Fault> {
            Ok(0)
        }
        fn port_out(&mut self, _: u16, _: Width, _: u32) -> Result<(), Fault> {
            Ok(())
        }
    }

    const LINEAR: u64 = 0x40_0000;

    /// Two pages at LINEAR that are not neighbours in guest-physical memory, then one that is read-only, then nothing.
    fn machine() -> (Machine, Paging) {
        let mut m = Machine::default();
        m.put(0x1000, 0x2007);
        m.put(0x2000, 0x3007);
        m.put(0x3000 + 2 * 8, 0x4007);
        m.put(0x4000, 0x9007);
        m.put(0x4008, 0x7007);
        m.put(0x4010, 0x8005);
        let paging = Paging::new(0x8001_0001, 0x1000, 0x20, 0x500, 40, true);
        (m, paging)
    }

    #[test]
    fn accesses_are_split_at_pages() {
        let (mut m, paging) = machine();
        m.put(0x9ffc, 0x2211_0000_0000_0000);
        let mut memory = LinearMemory::new(&mut m, paging, 0, 2);
        memory.write(LINEAR + 0xffe, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        memory.read(LINEAR + 0xffe, &mut back, AccessKind::Read).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        assert_eq!(m.log, [('w', 0x9ffe, 2), ('w', 0x7000, 2), ('r', 0x9ffe, 2), ('r', 0x7000, 2)]);
        assert_eq!((m.get(0x4000), m.get(0x4008)), (0x9067, 0x7067), "accessed and dirty");
    }

    #[test]
    fn faults_come_before_effects() {
        let (mut m, paging) = machine();
        let mut memory = LinearMemory::new(&mut m, paging, 0, 2);
        let fault = |code, linear| Err(Exception::page_fault(code, linear).into());
        assert_eq!(memory.write(LINEAR + 0x1ffe, &[0; 4]), fault(3, LINEAR + 0x2000));
        assert_eq!(memory.check_write(LINEAR + 0x1ffe, 4), fault(3, LINEAR + 0x2000));
        assert_eq!(memory.check_write(LINEAR + 0x1ffc, 4), Ok(()));
        let mut four = [0; 4];
        assert_eq!(memory.read(LINEAR + 0x2ffe, &mut four, AccessKind::Read), fault(0, LINEAR + 0x3000));
        assert_eq!(memory.read(LINEAR + 0x2000, &mut four, AccessKind::ReadForWrite), fault(3, LINEAR + 0x2000));
        assert_eq!(memory.read(LINEAR + 0x2000, &mut four, AccessKind::Read), Ok(()));
        assert_eq!(m.log, [('r', 0x8000, 4)]);
        let mut memory = LinearMemory::new(&mut m, paging, 3, 2);
        assert_eq!(memory.check_write(LINEAR + 0x3000, 1), fault(6, LINEAR + 0x3000));
    }

    #[test]
    fn exchanges_and_errors() {
        let (mut m, paging) = machine();
        m.put(0x9000, 5);
        let mut memory = LinearMemory::new(&mut m, paging, 0, 2);
        assert_eq!(memory.compare_exchange(LINEAR, Width::Dword, 5, 6), Ok(true));
        assert_eq!(memory.compare_exchange(LINEAR, Width::Dword, 5, 7), Ok(false));
        assert_eq!(memory.compare_exchange(LINEAR + 0xffe, Width::Dword, 0, 0x0403_0201), Ok(true));
        assert_eq!(memory.compare_exchange(LINEAR + 0xffe, Width::Dword, 0, 1), Ok(false));
        assert_eq!((m.get(0x9000), m.get(0x7000)), (6, 0x0403));
        m.put(0x1000, 1 << 30 | 7);
        let mut memory = LinearMemory::new(&mut m, paging, 0, 2);
        assert_eq!(memory.check_write(LINEAR, 1), Err(Fault::Unhandleable("no RAM")));
    }

    #[test]
    fn a_page_is_walked_once() {
        let (mut m, paging) = machine();
        let mut memory = LinearMemory::new(&mut m, paging, 0, 2);
        for n in 0..100 {
            memory.write(LINEAR + n, &[0]).unwrap();
        }
        assert_eq!(m.loads, 4);
    }
}
