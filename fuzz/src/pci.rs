//! PCI configuration space as dom0 reaches it, before devices that may be anything: their registers are bytes of the
//! input, and so is which of their bits stick.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::Range;

use radon_abi::errno::Errno;
use radon_core::types::{MachineAddr, Mfn};
use radon_x86::pci::{Backends, Ecam, GuestMsi, HostMmio, HostMsi, HostPci, MmioMap, MsiBackend, Sbdf, VPci, Width};

use crate::input::Input;

/// Bytes of configuration space of a device; the rest reads as zeros.
const SPACE: usize = 256;
/// Frames below this are RAM: dom0 must not get them as a device's.
const RAM: u64 = 0x100;

struct Device {
    bytes: [u8; SPACE],
    writable: [u8; SPACE],
}

#[derive(Default)]
struct Machine {
    devices: RefCell<Vec<Device>>,
    mapped: RefCell<BTreeSet<u64>>,
    bound: RefCell<BTreeSet<(Sbdf, u16, u16)>>,
    refuse: bool,
}

impl Machine {
    fn place(at: Sbdf, register: u16, width: Width) -> Option<(usize, Range<usize>)> {
        assert!(register.is_multiple_of(width.bytes()) && register < 4096, "{at} {register:#x} {width:?}");
        let number = (0..2).find(|n| Sbdf::from_parts(0, 0, *n, 0) == at)?;
        let start = usize::from(register);
        Some((number.into(), start..start + usize::from(width.bytes())))
    }
}

impl HostPci for Machine {
    fn read(&self, at: Sbdf, register: u16, width: Width) -> u32 {
        let Some((number, range)) = Machine::place(at, register, width) else { return width.mask() };
        let devices = self.devices.borrow();
        let Some(device) = devices.get(number) else { return width.mask() };
        let mut value = [0; 4];
        for (to, from) in value.iter_mut().zip(range) {
            *to = device.bytes.get(from).copied().unwrap_or(0);
        }
        u32::from_le_bytes(value)
    }
    fn write(&self, at: Sbdf, register: u16, width: Width, value: u32) {
        let Some((number, range)) = Machine::place(at, register, width) else { return };
        let mut devices = self.devices.borrow_mut();
        let Some(device) = devices.get_mut(number) else { return };
        for (to, byte) in range.zip(value.to_le_bytes()).filter(|(to, _)| *to < SPACE) {
            device.bytes[to] = device.bytes[to] & !device.writable[to] | byte & device.writable[to];
        }
    }
}

impl HostMmio for Machine {
    fn read(&self, at: MachineAddr, bytes: u8) -> u64 {
        assert!(at.0.is_multiple_of(bytes.into()));
        0x1234_5678_9abc_def0
    }
    fn write(&self, at: MachineAddr, bytes: u8, _: u64) {
        assert!(at.0.is_multiple_of(bytes.into()));
    }
}

impl MmioMap for Machine {
    fn map(&self, frames: Range<Mfn>) -> Result<(), Errno> {
        if frames.start.0 < RAM {
            return Err(Errno::EPERM);
        }
        // A BAR may be huge; its ends are enough here.
        self.mapped.borrow_mut().extend([frames.start.0, frames.end.0.saturating_sub(1)]);
        Ok(())
    }
    fn unmap(&self, frames: Range<Mfn>) {
        assert!(frames.start.0 <= frames.end.0);
    }
}

impl MsiBackend for Machine {
    fn max_messages(&self) -> u16 {
        32
    }
    fn bind(&self, device: Sbdf, first: u16, count: u16, _: GuestMsi, _: bool) -> Result<HostMsi, Errno> {
        assert!(count.is_power_of_two() && count <= 32, "{count} messages");
        if self.refuse {
            return Err(Errno::ENOSPC);
        }
        let mut bound = self.bound.borrow_mut();
        let overlap = |other: &&(Sbdf, u16, u16)| {
            other.0 == device && other.1 < first.saturating_add(count) && first < other.1.saturating_add(other.2)
        };
        let before = bound.iter().find(overlap).copied();
        assert!(before.is_none_or(|other| other == (device, first, count)), "{before:?} is bound still");
        bound.insert((device, first, count));
        Ok(HostMsi { address: 0xfee0_0000, data: 0x4000 })
    }
    fn unbind(&self, device: Sbdf, first: u16, count: u16) {
        assert!(self.bound.borrow_mut().remove(&(device, first, count)) || self.refuse, "{first} was not bound so");
    }
}

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let machine = Machine { refuse: how & 1 != 0, ..Machine::default() };
    for _ in 0..=how >> 1 & 1 {
        let mut device = Device { bytes: [0; SPACE], writable: [0; SPACE] };
        let length = usize::from(input.u8());
        let bytes = input.bytes(length);
        device.bytes[..bytes.len()].copy_from_slice(bytes);
        // Something is there, with registers in memory and a status that says capabilities.
        device.bytes[..4].copy_from_slice(&[0xf4, 0x1a, 0x42, 0x10]);
        device.bytes[0xe] &= 0x7f;
        for (to, mask) in device.writable.iter_mut().skip(4).zip(input.bytes(SPACE / 2)) {
            *to = *mask;
        }
        machine.devices.borrow_mut().push(device);
    }
    let backends = Backends { pci: &machine, mmio: &machine, map: &machine, msi: &machine };
    let ecam = Ecam { base: 0xe000_0000, segment: 0, first_bus: 0, last_bus: 0 };
    let mut pci = VPci::new();
    pci.scan(&backends, &[ecam]);
    for _ in 0..64 {
        if input.is_empty() {
            break;
        }
        let at = Sbdf::from_parts(0, 0, input.u8() % 3, 0);
        let what = input.u8();
        let width = [Width::Byte, Width::Word, Width::Dword][usize::from(what >> 6) % 3];
        match what & 7 {
            0..=1 => {
                let value = pci.read(&backends, at, (input.u16() % 4096) & !(width.bytes() - 1), width);
                assert_eq!(value & !width.mask(), 0);
            }
            2..=4 => {
                let register = u16::from(input.u8()) & !(width.bytes() - 1);
                let value = input.number() as u32;
                pci.write(&backends, at, register, width, value);
            }
            5 => _ = pci.remove(&backends, at),
            6 => _ = pci.add(&backends, at),
            _ => {
                let bytes = 1 << (what >> 3 & 3);
                let address = MachineAddr(input.number() << 12 | u64::from(input.u16() % 4096) & !u64::from(bytes - 1));
                if pci.traps(address) && what & 0x20 != 0 {
                    let value = input.number();
                    pci.mmio_write(&backends, address, bytes, value);
                } else {
                    _ = pci.mmio_read(&backends, address, bytes);
                }
            }
        }
    }
    assert!(machine.mapped.borrow().iter().all(|frame| *frame >= RAM));
    let all: Vec<Sbdf> = pci.functions().collect();
    for at in all {
        assert_eq!(pci.remove(&backends, at), Ok(()));
    }
    assert!(machine.bound.borrow().is_empty(), "{:?} are bound by nobody", machine.bound.borrow());
}
