//! The PCI devices of the hardware domain: its configuration accesses by port and by memory, and what [`VPci`] needs of
//! the machine.
//!
//! Device memory is not mapped when a BAR is set but when it is first touched (`map_on_demand` of the run module), so
//! giving a BAR to dom0 means only that nothing else traps there.
//!
//! Locks: [`Pci`]'s state has rank `Domain`, since moving a BAR changes the p2m under it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use radon_abi::errno::Errno;
use radon_core::domain::Domain;
use radon_core::frames::Order;
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::Kind;
use radon_core::sync::{Lock, Rank};
use radon_core::types::{Gfn, GuestPhysAddr, MachineAddr, Mfn};

use super::Targets;
use super::messages::Messages;
use crate::devices::msi;
use crate::irq::{Binding, Source};
use crate::machine::Machine;
use crate::pci::{
    ADDRESS_PORT, AddressPort, Backends, DATA_PORT, Ecam, GuestMsi, HostMmio, HostMsi, HostPci, MmioMap, MsiBackend,
    PortTarget, Sbdf, VPci, Width,
};

/// The hardware domain's PCI devices.
pub struct Pci {
    targets: Arc<Targets>,
    ecam: Vec<Ecam>,
    state: Lock<State>,
    messages: Lock<Messages>,
    /// Serialises the machine's address and data ports.
    ports: Lock<()>,
}

struct State {
    address: AddressPort,
    functions: VPci,
}

/// dom0's p2m for the time of one access.
struct Access<'a> {
    hv: &'a Hypervisor,
    domain: &'a Domain,
}

impl Pci {
    /// The devices behind these ranges of configuration space (and behind the ports). [`Pci::scan`] finds them.
    #[must_use]
    pub(super) fn new(targets: Arc<Targets>, ecam: Vec<Ecam>) -> Pci {
        let messages = Messages::new(targets.router.clone(), targets.cpus);
        let state = State { address: AddressPort::default(), functions: VPci::new() };
        Pci {
            targets,
            ecam,
            state: Lock::new(Rank::Domain, state),
            messages: Lock::new(Rank::Vcpu, messages),
            ports: Lock::new(Rank::Console, ()),
        }
    }

    fn with<R>(&self, hv: &Hypervisor, domain: &Domain, f: impl FnOnce(&mut State, &Backends<'_>) -> R) -> R {
        let access = Access { hv, domain };
        let backends = Backends { pci: self, mmio: self, map: &access, msi: self };
        f(&mut self.state.lock(), &backends)
    }

    /// The ranges of memory-mapped configuration space.
    #[must_use]
    pub fn ecam(&self) -> &[Ecam] {
        &self.ecam
    }

    /// Finds all functions. Returns how many there are.
    pub(super) fn scan(&self, hv: &Hypervisor, domain: &Domain) -> usize {
        let by_ports = [Ecam { base: 0, segment: 0, first_bus: 0, last_bus: 255 }];
        let buses = if self.ecam.is_empty() { &by_ports[..] } else { &self.ecam };
        self.with(hv, domain, |state, backends| state.functions.scan(backends, buses))
    }

    /// Notes a function that dom0 reports (`PHYSDEVOP_pci_device_add`).
    ///
    /// # Errors
    /// See [`VPci::add`].
    pub fn add(&self, hv: &Hypervisor, domain: &Domain, at: Sbdf) -> Result<(), Errno> {
        self.with(hv, domain, |state, backends| state.functions.add(backends, at))
    }

    /// Forgets a function (`PHYSDEVOP_pci_device_remove`).
    ///
    /// # Errors
    /// See [`VPci::remove`].
    pub fn remove(&self, hv: &Hypervisor, domain: &Domain, at: Sbdf) -> Result<(), Errno> {
        self.with(hv, domain, |state, backends| state.functions.remove(backends, at))
    }

    /// Whether this function is one of them.
    #[must_use]
    pub fn knows(&self, at: Sbdf) -> bool {
        self.state.lock().functions.functions().any(|f| f == at)
    }

    /// Reads one of the ports 0xcf8-0xcff.
    pub(super) fn port_read(&self, hv: &Hypervisor, domain: &Domain, port: u16, size: u8) -> u32 {
        let Some(width) = Width::from_bytes(size) else { return u32::MAX };
        self.with(hv, domain, |state, backends| match state.address.decode(port, width) {
            PortTarget::Address => state.address.get(),
            PortTarget::Config(at, register) => state.functions.read(backends, at, register, width),
            PortTarget::Nothing => u32::MAX,
            PortTarget::NotPci => self.machine().port_in(port, size),
        })
    }

    /// Writes one of the ports 0xcf8-0xcff.
    pub(super) fn port_write(&self, hv: &Hypervisor, domain: &Domain, port: u16, size: u8, value: u32) {
        let Some(width) = Width::from_bytes(size) else { return };
        self.with(hv, domain, |state, backends| match state.address.decode(port, width) {
            PortTarget::Address => state.address.set(value),
            PortTarget::Config(at, register) => state.functions.write(backends, at, register, width, value),
            PortTarget::Nothing => {}
            PortTarget::NotPci => self.machine().port_out(port, size, value),
        });
    }

    fn decode(&self, at: GuestPhysAddr) -> Option<(Sbdf, u16)> {
        self.ecam.iter().find_map(|e| e.decode(at.0))
    }

    /// Whether dom0's accesses to this address are emulated: configuration space, or a page with an MSI-X table.
    pub(super) fn is_emulated(&self, at: GuestPhysAddr) -> bool {
        self.decode(at).is_some() || self.state.lock().functions.traps(MachineAddr(at.0))
    }

    /// Reads from configuration space or from a page with an MSI-X table. `None` if the address is neither.
    pub(super) fn mmio_read(&self, hv: &Hypervisor, domain: &Domain, at: GuestPhysAddr, len: u8) -> Option<u64> {
        self.with(hv, domain, |state, backends| match (self.decode(at), Width::from_bytes(len)) {
            (Some((function, register)), Some(width)) => {
                Some(u64::from(state.functions.read(backends, function, register, width)))
            }
            (Some((function, register)), None) if len == 8 => {
                let mut read = |r| u64::from(state.functions.read(backends, function, r, Width::Dword));
                Some(read(register) | read(register.saturating_add(4)) << 32)
            }
            (Some(_), None) => Some(u64::MAX),
            (None, _) => state.functions.mmio_read(backends, MachineAddr(at.0), len),
        })
    }

    /// Writes to configuration space or to a page with an MSI-X table. `false` if the address is neither.
    pub(super) fn mmio_write(&self, hv: &Hypervisor, domain: &Domain, at: GuestPhysAddr, len: u8, value: u64) -> bool {
        self.with(hv, domain, |state, backends| match (self.decode(at), Width::from_bytes(len)) {
            (Some((function, register)), Some(width)) => {
                state.functions.write(backends, function, register, width, value as u32);
                true
            }
            (Some((function, register)), None) => {
                if len == 8 {
                    let high = register.saturating_add(4);
                    state.functions.write(backends, function, register, Width::Dword, value as u32);
                    state.functions.write(backends, function, high, Width::Dword, (value >> 32) as u32);
                }
                true
            }
            (None, _) => state.functions.mmio_write(backends, MachineAddr(at.0), len, value),
        })
    }

    fn machine(&self) -> &'static dyn Machine {
        self.targets.machine
    }

    /// Where a register of a function is in memory.
    fn ecam_address(&self, at: Sbdf, register: u16) -> Option<MachineAddr> {
        let covers = |e: &&Ecam| e.segment == at.segment() && (e.first_bus..=e.last_bus).contains(&at.bus());
        let range = self.ecam.iter().find(covers)?;
        let offset = (u64::from(at.bdf()) << 12) | u64::from(register & 0xfff);
        Some(MachineAddr(range.base.checked_add(offset)?))
    }

    /// Selects a register for the data port: enable, function, register.
    fn select(&self, at: Sbdf, register: u16) {
        let address = 1 << 31 | u32::from(at.bdf()) << 8 | u32::from(register & 0xfc);
        self.machine().port_out(ADDRESS_PORT, 4, address);
    }
}

impl HostPci for Pci {
    fn read(&self, at: Sbdf, register: u16, width: Width) -> u32 {
        let bytes = width.bytes() as u8;
        if let Some(address) = self.ecam_address(at, register) {
            return self.machine().device_read(address, bytes) as u32;
        }
        if at.segment() != 0 || register > 0xff {
            return width.mask();
        }
        let _ports = self.ports.lock();
        self.select(at, register);
        self.machine().port_in(DATA_PORT | (register & 3), bytes)
    }

    fn write(&self, at: Sbdf, register: u16, width: Width, value: u32) {
        let bytes = width.bytes() as u8;
        if let Some(address) = self.ecam_address(at, register) {
            self.machine().device_write(address, bytes, u64::from(value));
        } else if at.segment() == 0 && register <= 0xff {
            let _ports = self.ports.lock();
            self.select(at, register);
            self.machine().port_out(DATA_PORT | (register & 3), bytes, value);
        }
    }
}

impl HostMmio for Pci {
    fn read(&self, at: MachineAddr, bytes: u8) -> u64 {
        self.machine().device_read(at, bytes)
    }

    fn write(&self, at: MachineAddr, bytes: u8, value: u64) {
        self.machine().device_write(at, bytes, value);
    }
}

impl MsiBackend for Pci {
    fn max_messages(&self) -> u16 {
        // Several messages of plain MSI need a block of aligned vectors on one CPU; drivers that want several interrupts
        // use MSI-X.
        1
    }

    fn bind(&self, device: Sbdf, first: u16, _count: u16, message: GuestMsi, silent: bool) -> Result<HostMsi, Errno> {
        let message = msi::decode(message.address, message.data, false).ok_or(Errno::EINVAL)?;
        let cpu = self.targets.cpu_for(&message);
        let binding = Binding { domain: self.targets.domain, source: Source::Message(message) };
        let at = self.messages.lock().bind((device, first), cpu, &binding, silent)?;
        let host = self.machine().msi_message(at);
        Ok(HostMsi { address: host.address, data: host.data })
    }

    fn unbind(&self, device: Sbdf, first: u16, count: u16) {
        let mut messages = self.messages.lock();
        (first..first.saturating_add(count)).for_each(|n| messages.unbind((device, n)));
    }
}

impl MmioMap for Access<'_> {
    fn map(&self, _frames: Range<Mfn>) -> Result<(), Errno> {
        Ok(())
    }

    fn unmap(&self, frames: Range<Mfn>) {
        let mut batch = self.domain.p2m.unmapped(self.hv);
        let mut at = frames.start;
        while at < frames.end {
            let found = self.domain.p2m.query(self.hv, Gfn(at.0));
            let size = 1u64.wrapping_shl(found.order.bits());
            if found.entry.kind == Kind::Mmio {
                let is_device =
                    |e: radon_core::p2m::Entry| if e.kind == Kind::Mmio { Ok(()) } else { Err(Errno::EBUSY) };
                let _ = self.domain.p2m.remove(self.hv, Gfn(at.0), Order::PAGE, is_device, &mut batch);
                at = Mfn(at.0.saturating_add(1));
            } else {
                // On to the end of what is there, or of the hole.
                at = Mfn((at.0 | size.saturating_sub(1)).saturating_add(1));
            }
        }
    }
}
