//! A machine with PCI functions made of byte arrays, which records what is done to it.

use super::*;
use alloc::boxed::Box;
use core::cell::RefCell;

/// A function's configuration space: every bit is fixed, writable, or cleared by writing a one.
#[derive(Clone)]
pub(super) struct Function {
    pub(super) bytes: Box<[u8; 4096]>,
    writable: Box<[u8; 4096]>,
    write_one_to_clear: Box<[u8; 4096]>,
}

impl Function {
    /// A plain function: a vendor, a COMMAND register, a STATUS register whose upper bits clear by writing ones.
    pub(super) fn new() -> Function {
        let mut f = Function {
            bytes: Box::new([0; 4096]),
            writable: Box::new([0; 4096]),
            write_one_to_clear: Box::new([0; 4096]),
        };
        f.set(0, 4, 0x1042_1af4);
        f.writable[4..6].copy_from_slice(&[0x47, 0x05]);
        f.write_one_to_clear[7] = 0xf9;
        f.writable[0x3c] = 0xff;
        f
    }

    pub(super) fn set(&mut self, at: usize, len: usize, value: u64) {
        self.bytes[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
    }

    pub(super) fn get(&self, at: usize, len: usize) -> u64 {
        (0..len).rev().fold(0, |n, i| n << 8 | u64::from(self.bytes[at + i]))
    }

    fn writable(&mut self, at: usize, len: usize, mask: u64) {
        self.writable[at..at + len].copy_from_slice(&mask.to_le_bytes()[..len]);
    }

    /// A memory BAR with its size and first address.
    pub(super) fn with_bar(mut self, index: usize, wide: bool, size: u64, start: u64) -> Function {
        let (at, len) = (0x10 + 4 * index, if wide { 8 } else { 4 });
        self.set(at, len, start | if wide { 4 } else { 0 });
        self.writable(at, len, !(size - 1));
        self
    }

    pub(super) fn with_rom(mut self, size: u64, start: u64) -> Function {
        self.set(0x30, 4, start);
        self.writable(0x30, 4, !(size - 1) | 1);
        self
    }

    fn with_capability(mut self, at: usize, id: u8) -> Function {
        let first = self.bytes[0x34];
        (self.bytes[at], self.bytes[at + 1], self.bytes[0x34]) = (id, first, at as u8);
        self.bytes[6] |= 0x10;
        self
    }

    /// MSI with 64-bit addresses, mask bits and 2^order messages.
    pub(super) fn with_msi(self, at: usize, order: u64) -> Function {
        let mut f = self.with_capability(at, 5);
        f.set(at + 2, 2, 0x180 | order << 1);
        f.writable(at + 2, 2, 0x71);
        f.writable(at + 4, 8, !3);
        f.writable(at + 12, 2, 0xffff);
        f.writable(at + 16, 4, 0xffff_ffff);
        f
    }

    /// MSI with 32-bit addresses, without mask bits.
    pub(super) fn with_small_msi(self, at: usize) -> Function {
        let mut f = self.with_capability(at, 5);
        f.writable(at + 2, 2, 0x71);
        f.writable(at + 4, 4, !3 & 0xffff_ffff);
        f.writable(at + 8, 2, 0xffff);
        f
    }

    pub(super) fn with_msix(self, at: usize, entries: u64, bar: u64, table: u64) -> Function {
        let mut f = self.with_capability(at, 0x11);
        f.set(at + 2, 2, entries - 1);
        f.writable(at + 2, 2, 0xc000);
        f.set(at + 4, 4, table | bar);
        f.set(at + 8, 4, (table + 0x800) | bar);
        f
    }

    pub(super) fn with_multifunction(mut self) -> Function {
        self.bytes[0xe] |= 0x80;
        self
    }
}

/// The machine.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) functions: RefCell<BTreeMap<Sbdf, Function>>,
    /// Device memory that was written, in pieces of four bytes.
    pub(super) memory: RefCell<BTreeMap<u64, u32>>,
    pub(super) mapped: RefCell<RangeSet>,
    /// (function, first message) -> (count, message)
    pub(super) bound: RefCell<BTreeMap<(Sbdf, u16), (u16, GuestMsi)>>,
    /// Number of calls of `bind`.
    pub(super) binds: RefCell<usize>,
    /// How many of them said that the device may send meanwhile.
    pub(super) loud_binds: RefCell<usize>,
    pub(super) refuse_msi: RefCell<bool>,
    /// Every word written to configuration space, and every access to device memory as `None`.
    pub(super) log: RefCell<Vec<Option<(u16, u32)>>>,
}

impl Machine {
    pub(super) fn with(functions: impl IntoIterator<Item = (Sbdf, Function)>) -> Machine {
        let machine = Machine::default();
        machine.functions.borrow_mut().extend(functions);
        machine
    }

    pub(super) fn backends(&self) -> Backends<'_> {
        Backends { pci: self, mmio: self, map: self, msi: self }
    }

    /// What the hardware's configuration space holds.
    pub(super) fn config(&self, at: Sbdf, register: usize, len: usize) -> u64 {
        self.functions.borrow()[&at].get(register, len)
    }

    pub(super) fn dword(&self, address: u64) -> Option<u32> {
        self.memory.borrow().get(&address).copied()
    }

    /// The message that this machine gives out.
    pub(super) fn host_message(device: Sbdf, first: u16) -> HostMsi {
        HostMsi { address: 0xfee0_0000 | u64::from(device.bdf()) << 12 & 0xff000, data: 0x8000 | u32::from(first) << 5 }
    }
}

impl HostPci for Machine {
    fn read(&self, at: Sbdf, register: u16, width: Width) -> u32 {
        assert!(register.is_multiple_of(width.bytes()) && register < 4096);
        let functions = self.functions.borrow();
        functions.get(&at).map_or(width.mask(), |f| f.get(register.into(), width.bytes().into()) as u32)
    }

    fn write(&self, at: Sbdf, register: u16, width: Width, value: u32) {
        assert!(register.is_multiple_of(width.bytes()) && register < 4096);
        self.log.borrow_mut().push(Some((register, value)));
        let mut functions = self.functions.borrow_mut();
        let Some(f) = functions.get_mut(&at) else { return };
        for (i, byte) in value.to_le_bytes().into_iter().take(width.bytes().into()).enumerate() {
            let at = usize::from(register) + i;
            let writable = f.writable[at];
            f.bytes[at] = (f.bytes[at] & !writable & !(byte & f.write_one_to_clear[at])) | (byte & writable);
        }
    }
}

impl HostMmio for Machine {
    fn read(&self, at: MachineAddr, bytes: u8) -> u64 {
        let word = |at| u64::from(self.dword(at).unwrap_or(0));
        (word(at.0) | word(at.0 + 4) << 32) & (u64::MAX >> (64 - 8 * u32::from(bytes)))
    }
    fn write(&self, at: MachineAddr, bytes: u8, value: u64) {
        self.log.borrow_mut().push(None);
        let mut memory = self.memory.borrow_mut();
        memory.insert(at.0, value as u32);
        if bytes == 8 {
            memory.insert(at.0 + 4, (value >> 32) as u32);
        }
    }
}

impl MmioMap for Machine {
    fn map(&self, frames: Range<Mfn>) -> Result<(), Errno> {
        if frames.start.0 < 0x100 {
            return Err(Errno::EPERM);
        }
        self.mapped.borrow_mut().insert(frames.start.0 * PAGE_SIZE..frames.end.0 * PAGE_SIZE);
        Ok(())
    }
    fn unmap(&self, frames: Range<Mfn>) {
        self.mapped.borrow_mut().remove(&(frames.start.0 * PAGE_SIZE..frames.end.0 * PAGE_SIZE));
    }
}

impl MsiBackend for Machine {
    fn max_messages(&self) -> u16 {
        16
    }
    fn bind(&self, device: Sbdf, first: u16, count: u16, message: GuestMsi, silent: bool) -> Result<HostMsi, Errno> {
        *self.loud_binds.borrow_mut() += usize::from(!silent);
        assert!(silent || self.bound.borrow().contains_key(&(device, first)), "what is not bound is not sent");
        *self.binds.borrow_mut() += 1;
        if *self.refuse_msi.borrow() {
            self.bound.borrow_mut().remove(&(device, first));
            return Err(Errno::ENOSPC);
        }
        let before = self.bound.borrow_mut().insert((device, first), (count, message));
        assert!(before.is_none_or(|(c, _)| c == count), "a block is given back before its size changes");
        Ok(Machine::host_message(device, first))
    }
    fn unbind(&self, device: Sbdf, first: u16, count: u16) {
        let bound = self.bound.borrow_mut().remove(&(device, first));
        assert!(
            *self.refuse_msi.borrow() || bound.is_some_and(|(c, _)| c == count),
            "{device} {first} was not bound so"
        );
    }
}
