//! PCI for dom0: it owns the devices and sees their configuration space, but what would let a device disturb the
//! hypervisor is virtual: the messages of MSI and MSI-X. The hypervisor also follows where BARs are, to map them.
//!
//! [`VPci`] holds the state of all functions. It reaches the machine only through [`Backends`]. It has no lock of its own:
//! the caller keeps it under one whose rank is below the p2m's ([`MmioMap`] changes dom0's p2m), for example that of the
//! domain. Work per access is bounded by the number of functions and by 2,048 table entries.
//!
//! dom0 is trusted with its devices, so this module protects it from surprises rather than the machine from dom0; but no
//! value from dom0 or from a device can make it panic or loop.

mod access;
mod bar;
mod config;
mod device;
mod msi;
mod msix;

pub use access::{ADDRESS_PORT, AddressPort, DATA_PORT, Ecam, PortTarget};

use crate::dom0::ranges::RangeSet;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::Range;
use device::Device;
use radon_abi::errno::Errno;
use radon_core::types::{MachineAddr, Mfn, PAGE_SIZE};

/// More functions than any machine has.
const MAX_DEVICES: usize = 4096;

/// The place of a PCI function: segment, bus, device, function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sbdf(u32);

impl Sbdf {
    /// From the segment and the 16-bit number that devices put in their requests.
    #[must_use]
    pub const fn new(segment: u16, bdf: u16) -> Sbdf {
        Sbdf((segment as u32) << 16 | bdf as u32)
    }

    /// From the bus, device (0..=31) and function (0..=7) in a segment; higher bits are ignored.
    #[must_use]
    pub const fn from_parts(segment: u16, bus: u8, device: u8, function: u8) -> Sbdf {
        Sbdf::new(segment, (bus as u16) << 8 | ((device & 31) as u16) << 3 | (function & 7) as u16)
    }

    /// The segment group.
    #[must_use]
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus, device and function as the 16-bit number that devices put in their requests.
    #[must_use]
    pub const fn bdf(self) -> u16 {
        self.0 as u16
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device on its bus, 0..=31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 31
    }

    /// The function, 0..=7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment(), self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The width of an access to configuration space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl Width {
    /// From a number of bytes: 1, 2 or 4.
    #[must_use]
    pub const fn from_bytes(bytes: u8) -> Option<Width> {
        match bytes {
            1 => Some(Width::Byte),
            2 => Some(Width::Word),
            4 => Some(Width::Dword),
            _ => None,
        }
    }

    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u16 {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Dword => 4,
        }
    }

    /// A value with all bits of this width set.
    #[must_use]
    pub const fn mask(self) -> u32 {
        match self {
            Width::Byte => 0xff,
            Width::Word => 0xffff,
            Width::Dword => u32::MAX,
        }
    }
}

/// The machine's configuration space.
pub trait HostPci {
    /// Reads a register; all ones where there is no function. `register` is aligned to `width` and below 4096.
    fn read(&self, at: Sbdf, register: u16, width: Width) -> u32;
    /// Writes a register.
    fn write(&self, at: Sbdf, register: u16, width: Width, value: u32);
}

/// The machine's device memory.
pub trait HostMmio {
    /// One access of 1, 2, 4 or 8 bytes, aligned.
    fn read(&self, at: MachineAddr, bytes: u8) -> u64;
    /// One access of 1, 2, 4 or 8 bytes, aligned.
    fn write(&self, at: MachineAddr, bytes: u8, value: u64);
}

/// dom0's view of device memory, which is at machine addresses.
pub trait MmioMap {
    /// Lets dom0 reach these frames at their own addresses.
    ///
    /// # Errors
    /// The backend must refuse frames that are RAM or the hypervisor's, since devices and dom0 say what they like.
    fn map(&self, frames: Range<Mfn>) -> Result<(), Errno>;
    /// Makes dom0's accesses to these frames trap. Frames that are not mapped are passed over.
    fn unmap(&self, frames: Range<Mfn>);
}

/// A message as the guest programs it: in terms of its own local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMsi {
    /// Address of the write.
    pub address: u64,
    /// The value written. With several MSI messages, the low bits select one.
    pub data: u32,
}

/// A message that a device is programmed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostMsi {
    /// Address of the write.
    pub address: u64,
    /// The value written.
    pub data: u32,
}

/// Connects device interrupts to guest interrupts.
pub trait MsiBackend {
    /// The most messages that can be bound in one block for MSI: a power of two up to 32, or 1.
    fn max_messages(&self) -> u16;
    /// Binds messages `first..first + count` of a function: when the device sends one, the guest gets its own. For
    /// `count` above 1 (a power of two; only MSI) the device adds 0..count to the low bits of the data, the guest
    /// expects the same, and the host's data must have those bits clear. Binding what is bound changes where it goes;
    /// unless the device is `silent`, so that it cannot send half of a new message, the host's message stays the same.
    ///
    /// # Errors
    /// Whatever prevents it. What was bound before is still to be given back.
    fn bind(&self, device: Sbdf, first: u16, count: u16, message: GuestMsi, silent: bool) -> Result<HostMsi, Errno>;
    /// Gives bound messages back.
    fn unbind(&self, device: Sbdf, first: u16, count: u16);
}

/// What [`VPci`] needs of the machine.
#[derive(Clone, Copy)]
pub struct Backends<'a> {
    /// Configuration space.
    pub pci: &'a dyn HostPci,
    /// Device memory.
    pub mmio: &'a dyn HostMmio,
    /// dom0's view of device memory.
    pub map: &'a dyn MmioMap,
    /// Interrupts.
    pub msi: &'a dyn MsiBackend,
}

/// All PCI functions as dom0 sees them.
#[derive(Debug, Default)]
pub struct VPci {
    devices: BTreeMap<Sbdf, Device>,
    /// The pages that hold an MSI-X table, with its function.
    traps: Vec<(Range<u64>, Sbdf)>,
}

impl VPci {
    /// Without any function.
    #[must_use]
    pub const fn new() -> VPci {
        VPci { devices: BTreeMap::new(), traps: Vec::new() }
    }

    /// Finds all functions on the given buses, before dom0 runs. Returns how many are known afterwards.
    pub fn scan(&mut self, backends: &Backends<'_>, buses: &[Ecam]) -> usize {
        for range in buses {
            for bus in range.first_bus..=range.last_bus {
                for device in 0..32 {
                    let first = Sbdf::from_parts(range.segment, bus, device, 0);
                    if !is_present(backends, first) {
                        continue;
                    }
                    let many = backends.pci.read(first, config::HEADER_TYPE, Width::Byte) & 0x80 != 0;
                    for function in 0..if many { 8 } else { 1 } {
                        let at = Sbdf::from_parts(range.segment, bus, device, function);
                        if is_present(backends, at) {
                            let _ = self.add(backends, at);
                        }
                    }
                }
            }
        }
        self.devices.len()
    }

    /// Takes note of a function: one that dom0 reports (also a virtual one, which does not answer for itself) or that
    /// it touches first. It must be idle. Nothing happens if it is known.
    ///
    /// # Errors
    /// ENOSPC when there are far too many.
    pub fn add(&mut self, backends: &Backends<'_>, at: Sbdf) -> Result<(), Errno> {
        if self.devices.contains_key(&at) {
            return Ok(());
        }
        if self.devices.len() >= MAX_DEVICES {
            return Err(Errno::ENOSPC);
        }
        self.devices.insert(at, Device::probe(backends, at));
        self.refresh(backends, at);
        Ok(())
    }

    /// Forgets a function that left the machine, or that dom0 gives up.
    ///
    /// # Errors
    /// ENODEV if it is not known; EPERM if it is the hypervisor's.
    pub fn remove(&mut self, backends: &Backends<'_>, at: Sbdf) -> Result<(), Errno> {
        let device = self.devices.get_mut(&at).ok_or(Errno::ENODEV)?;
        if device.protected {
            return Err(Errno::EPERM);
        }
        device.stop(backends);
        self.set_places(backends, at, &[]);
        self.devices.remove(&at);
        Ok(())
    }

    /// Reserves a function for the hypervisor (a serial card, an IOMMU): dom0 can read its configuration, but its writes
    /// are dropped. To be called before [`VPci::scan`].
    pub fn protect(&mut self, at: Sbdf) {
        self.devices.insert(at, Device::protected(at));
    }

    /// The known functions, in order.
    pub fn functions(&self) -> impl Iterator<Item = Sbdf> + '_ {
        self.devices.keys().copied()
    }

    /// dom0 reads configuration space. Bytes beyond the end of the space are all ones; `register` need not be aligned.
    pub fn read(&mut self, backends: &Backends<'_>, at: Sbdf, register: u16, width: Width) -> u32 {
        match self.known(backends, at) {
            Some(device) => device.read(backends, register, width),
            // Nobody is there. What a function that is not known may say (a virtual one) is read as it is.
            None if register.is_multiple_of(width.bytes()) && register < 4096 => backends.pci.read(at, register, width),
            None => width.mask(),
        }
    }

    /// dom0 writes configuration space.
    pub fn write(&mut self, backends: &Backends<'_>, at: Sbdf, register: u16, width: Width, value: u32) {
        let Some(device) = self.known(backends, at) else { return };
        if device.write(backends, register, width, value) {
            self.refresh(backends, at);
        }
    }

    /// Whether an address is on a page that is trapped because it holds an MSI-X table.
    #[must_use]
    pub fn traps(&self, address: MachineAddr) -> bool {
        self.traps.iter().any(|(range, _)| range.contains(&address.0))
    }

    /// dom0 reads 1, 2, 4 or 8 aligned bytes on a trapped page. `None` if the page is not.
    pub fn mmio_read(&mut self, backends: &Backends<'_>, address: MachineAddr, bytes: u8) -> Option<u64> {
        if !self.traps(address) {
            return None;
        }
        let Some((device, offset)) = self.table_at(address) else { return Some(backends.mmio.read(address, bytes)) };
        let msix = self.devices.get(&device).and_then(|d| d.msix.as_ref())?;
        Some(match (bytes, offset % 4) {
            (4, 0) => u64::from(msix.read_table(offset)),
            (8, 0) => u64::from(msix.read_table(offset)) | u64::from(msix.read_table(offset.saturating_add(4))) << 32,
            // Only these widths are defined for the table.
            _ => u64::MAX,
        })
    }

    /// dom0 writes 1, 2, 4 or 8 aligned bytes on a trapped page. Returns whether the page is trapped.
    pub fn mmio_write(&mut self, backends: &Backends<'_>, address: MachineAddr, bytes: u8, value: u64) -> bool {
        if !self.traps(address) {
            return false;
        }
        let Some((at, offset)) = self.table_at(address) else {
            backends.mmio.write(address, bytes, value);
            return true;
        };
        let Some(msix) = self.devices.get_mut(&at).and_then(|d| d.msix.as_mut()) else { return true };
        if matches!(bytes, 4 | 8) && offset % 4 == 0 {
            msix.write_table(backends, at, offset, value as u32);
            if bytes == 8 {
                msix.write_table(backends, at, offset.saturating_add(4), (value >> 32) as u32);
            }
        }
        true
    }

    /// The function whose MSI-X table is at an address, and the offset in the table.
    fn table_at(&self, address: MachineAddr) -> Option<(Sbdf, u64)> {
        self.traps.iter().find_map(|(_, at)| {
            let table = self.devices.get(at)?.msix.as_ref()?.table()?;
            table.contains(&address.0).then(|| (*at, address.0.wrapping_sub(table.start)))
        })
    }

    /// The state of a function, which is created when it is touched first.
    fn known(&mut self, backends: &Backends<'_>, at: Sbdf) -> Option<&mut Device> {
        if !self.devices.contains_key(&at) {
            if !is_present(backends, at) {
                return None;
            }
            self.add(backends, at).ok()?;
        }
        self.devices.get_mut(&at)
    }

    /// Follows a function's BARs after a change.
    fn refresh(&mut self, backends: &Backends<'_>, at: Sbdf) {
        let Some(device) = self.devices.get(&at) else { return };
        let places = device.places(backends);
        self.set_places(backends, at, &places);
    }

    /// Makes the function's BARs accessible to dom0 at these places, and no longer where they were.
    fn set_places(&mut self, backends: &Backends<'_>, at: Sbdf, places: &[(u8, Range<u64>)]) {
        let Some(device) = self.devices.get_mut(&at) else { return };
        let new = places.iter().map(|(_, range)| pages(range)).take(bar::MAX_BARS);
        let new: ArrayVec<_, { bar::MAX_BARS }> = new.collect();
        let old = core::mem::replace(&mut device.decoded, new.clone());
        let trapped = |device: &Device| device.msix.as_ref().and_then(msix::Msix::trapped);
        let old_trap = trapped(device);
        if let Some(msix) = &mut device.msix {
            let bar = places.iter().find(|(index, _)| *index == msix.bar());
            msix.set_place(backends, at, bar.map(|(_, range)| range.start));
        }
        let new_trap = trapped(device);
        if old == new && old_trap == new_trap {
            return;
        }
        self.traps.retain(|(_, owner)| *owner != at);
        self.traps.extend(new_trap.clone().map(|range| (range, at)));

        let mut gone: RangeSet = old.into_iter().collect();
        let mut fresh: RangeSet = new.iter().cloned().collect();
        let mut reachable = gone.clone();
        old_trap.iter().for_each(|r| reachable.remove(r));
        reachable.iter().for_each(|r| fresh.remove(&r));
        new.iter().for_each(|r| gone.remove(r));
        // Small BARs of several functions may share a page: it stays as long as one of them decodes.
        for other in self.devices.iter().filter(|(other, _)| **other != at).map(|(_, d)| d) {
            for range in &other.decoded {
                gone.remove(range);
                old_trap.iter().for_each(|t| fresh.insert(common(range, t)));
            }
        }
        self.traps.iter().for_each(|(range, _)| fresh.remove(range));
        for range in gone.iter().chain(new_trap) {
            backends.map.unmap(frames(&range));
        }
        for range in fresh.iter() {
            if let Err(error) = backends.map.map(frames(&range)) {
                log::warn!("{at}: the BAR at {range:#x?} cannot be given to dom0: {error:?}");
            }
        }
    }
}

/// What two ranges have in common; empty if nothing.
fn common(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// Whether a function answers.
fn is_present(backends: &Backends<'_>, at: Sbdf) -> bool {
    let vendor = backends.pci.read(at, config::VENDOR, Width::Word);
    vendor != 0xffff && vendor != 0
}

/// The whole pages around a range of addresses.
fn pages(range: &Range<u64>) -> Range<u64> {
    range.start & !(PAGE_SIZE - 1)..range.end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(!(PAGE_SIZE - 1))
}

fn frames(range: &Range<u64>) -> Range<Mfn> {
    Mfn(range.start / PAGE_SIZE)..Mfn(range.end / PAGE_SIZE)
}

#[cfg(test)]
mod mock;
#[cfg(test)]
mod tests;
