//! The physical devices of the hardware domain: its I/O APICs with the real pins behind them, and its PCI devices.
//!
//! A physical interrupt arrives on the vector that [`crate::irq::Router`] gave its source. Edges and messages are
//! acknowledged at once and delivered to the domain's local APICs. A level-triggered pin is masked until the guest has
//! ended the interrupt in its own local APIC, so that it cannot storm.
//!
//! Locks: [`HardwareDevices`]' own, rank `Device`; delivery to vCPUs happens after they are released.

mod messages;
mod pci;

use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::sync::{Lock, Rank};
use radon_core::types::{CpuId, DomainId, GuestPhysAddr};
use spin::once::Once;

use crate::devices::interrupt::{Message, Trigger};
use crate::devices::ioapic::{IoApic, IoApicConfig, MMIO_SIZE, PinBackend, PinConfig};
use crate::devices::lapic::{self, LapicShared};
use crate::domain::deliver;
use crate::irq::{Binding, Router, Source};
use crate::machine::{HostVector, Machine, PinMode};
use crate::pci::Ecam;
use crate::ports::SleepPorts;
pub use pci::Pci;

/// Where the hardware domain's interrupts are best taken: follows the guest's choice of vCPU.
pub struct Targets {
    machine: &'static dyn Machine,
    router: Arc<Router>,
    domain: DomainId,
    cpus: u32,
    apics: Once<Vec<Arc<LapicShared>>>,
}

impl Targets {
    /// For the domain of this number on a machine of `cpus` CPUs.
    #[must_use]
    pub fn new(machine: &'static dyn Machine, router: Arc<Router>, domain: DomainId, cpus: u32) -> Arc<Targets> {
        Arc::new(Targets { machine, router, domain, cpus, apics: Once::new() })
    }

    /// Tells which local APICs the domain has. Only the first call counts.
    pub fn set_apics(&self, apics: Vec<Arc<LapicShared>>) {
        self.apics.call_once(|| apics);
    }

    /// A CPU for an interrupt of this destination: vCPU n's interrupts go to CPU n (modulo), where it runs unless the
    /// scheduler moved it.
    fn cpu_for(&self, message: &Message) -> CpuId {
        let apics = self.apics.get().map_or(&[][..], Vec::as_slice);
        let index = apics.iter().position(|a| a.matches(message.destination, message.logical)).unwrap_or(0);
        CpuId((index as u32).checked_rem(self.cpus).unwrap_or(0))
    }

    /// Takes a host vector for `source`.
    fn bind(&self, source: Source, message: &Message) -> Option<HostVector> {
        let at = self.router.allocate(self.cpu_for(message)).ok()?;
        self.router.bind(at, &Binding { domain: self.domain, source });
        Some(at)
    }
}

/// The real pins behind the virtual I/O APICs.
struct Pins {
    targets: Arc<Targets>,
    /// The GSI of a device that Radon keeps for itself: nothing the domain does to its pin has an effect.
    hidden: Option<u32>,
    /// Host vector of each GSI that was ever unmasked.
    vectors: Lock<Vec<Option<HostVector>>>,
}

impl Pins {
    fn is_hidden(&self, gsi: u32) -> bool {
        self.hidden == Some(gsi)
    }

    fn set_masked(&self, gsi: u32, masked: bool) {
        if !self.is_hidden(gsi) {
            self.targets.machine.mask_pin(gsi, masked);
        }
    }
}

impl PinBackend for Pins {
    fn route(&self, gsi: u32, config: &PinConfig) {
        let level = config.trigger == Trigger::Level;
        let mut vectors = self.vectors.lock();
        let Some(slot) = vectors.get_mut(gsi as usize).filter(|_| !self.is_hidden(gsi)) else { return };
        let Targets { machine, router, .. } = &*self.targets;
        machine.mask_pin(gsi, true);
        if let Some(old) = slot.take() {
            router.free(old);
        }
        let Some(at) = self.targets.bind(Source::Pin { gsi, level }, &config.message) else {
            log::error!("GSI {gsi} stays silent: no free interrupt vector on any CPU it may go to");
            return;
        };
        *slot = Some(at);
        if machine.route_pin(gsi, PinMode { level, active_low: config.active_low }, at, true).is_err() {
            log::warn!("GSI {gsi} was configured by the hardware domain but no I/O APIC has it");
        }
    }

    fn mask(&self, gsi: u32) {
        self.set_masked(gsi, true);
    }

    fn unmask(&self, gsi: u32) {
        self.set_masked(gsi, false);
    }

    fn eoi(&self, gsi: u32) {
        self.set_masked(gsi, false);
    }
}

/// The hardware domain's devices.
pub struct HardwareDevices {
    targets: Arc<Targets>,
    pci: Pci,
    /// Ports of devices that Radon itself uses.
    hidden_ports: Vec<(u16, u16)>,
    sleep_ports: SleepPorts,
    /// Windows of the I/O APICs (first byte), for decisions without the lock.
    io_apic_windows: Vec<GuestPhysAddr>,
    io_apics: Lock<Vec<IoApic>>,
    /// A page of registers that Radon keeps for itself: for the domain nothing is there.
    kept_page: Option<GuestPhysAddr>,
}

impl HardwareDevices {
    /// Devices with virtual I/O APICs like the host's. `hidden_ports` and `hidden_gsi` are those of devices that Radon
    /// keeps for itself.
    #[must_use]
    pub fn new(
        targets: Arc<Targets>,
        io_apics: &[IoApicConfig],
        ecam: Vec<Ecam>,
        hidden_ports: Vec<(u16, u16)>,
        hidden_gsi: Option<u32>,
    ) -> HardwareDevices {
        let gsis = io_apics.iter().map(|c| c.gsi_base.saturating_add(c.pins)).max().unwrap_or(0);
        // A rank of its own below the I/O APICs' lock, which is held when the backend is called.
        let vectors = Lock::new(Rank::Vcpu, (0..gsis).map(|_| None).collect());
        let pins: Arc<dyn PinBackend> = Arc::new(Pins { targets: targets.clone(), hidden: hidden_gsi, vectors });
        let io_apic_windows = io_apics.iter().map(|c| c.base).collect();
        let io_apics = io_apics.iter().filter_map(|c| IoApic::new(*c, Some(pins.clone()))).collect();
        let pci = Pci::new(targets.clone(), ecam);
        HardwareDevices {
            targets,
            pci,
            hidden_ports,
            sleep_ports: SleepPorts::default(),
            io_apic_windows,
            io_apics: Lock::new(Rank::Device, io_apics),
            kept_page: None,
        }
    }

    /// The same, with the ports at which the machine is switched off.
    #[must_use]
    pub fn with_sleep_ports(self, sleep_ports: SleepPorts) -> HardwareDevices {
        HardwareDevices { sleep_ports, ..self }
    }

    /// The ports at which the machine is switched off.
    #[must_use]
    pub fn sleep_ports(&self) -> &SleepPorts {
        &self.sleep_ports
    }

    /// The same without the registers in the page at `page`, which Radon keeps for itself: reads give all ones, so that a
    /// kernel that looks there finds no device.
    #[must_use]
    pub fn without(mut self, page: Option<GuestPhysAddr>) -> HardwareDevices {
        self.kept_page = page;
        self
    }

    /// Who takes interrupts.
    #[must_use]
    pub fn targets(&self) -> &Arc<Targets> {
        &self.targets
    }

    /// Ports of devices that Radon keeps for itself.
    #[must_use]
    pub fn hidden_ports(&self) -> &[(u16, u16)] {
        &self.hidden_ports
    }

    /// Whether the domain must not touch this address directly: a device that Radon emulates, or keeps, is there.
    #[must_use]
    pub fn is_emulated(&self, at: GuestPhysAddr) -> bool {
        let within = |base: GuestPhysAddr| at.0.checked_sub(base.0).is_some_and(|o| o < MMIO_SIZE);
        let windows = self.io_apic_windows.iter().chain(&self.kept_page);
        within(lapic::MMIO_BASE) || windows.into_iter().any(|w| within(*w)) || self.pci.is_emulated(at)
    }

    /// The PCI devices.
    #[must_use]
    pub fn pci(&self) -> &Pci {
        &self.pci
    }

    /// Finds the PCI devices, before the domain runs. Returns how many functions there are.
    pub fn scan_pci(&self, hv: &Hypervisor, domain: &Domain) -> usize {
        self.pci.scan(hv, domain)
    }

    /// Reads `len` bytes (1 to 8) of an emulated device. All ones where there is none.
    #[must_use]
    pub fn mmio_read(&self, hv: &Hypervisor, domain: &Domain, at: GuestPhysAddr, len: u8) -> u64 {
        let io_apic = self.io_apics.lock().iter().find_map(|a| Some(a.mmio_read(within(a, at)?, len)));
        io_apic.or_else(|| self.pci.mmio_read(hv, domain, at, len)).unwrap_or(u64::MAX)
    }

    /// Writes to an emulated device; adds the messages that have to be delivered.
    pub fn mmio_write(
        &self,
        hv: &Hypervisor,
        domain: &Domain,
        at: GuestPhysAddr,
        len: u8,
        value: u64,
        messages: &mut Vec<Message>,
    ) {
        for a in self.io_apics.lock().iter_mut() {
            if let Some(offset) = within(a, at) {
                a.mmio_write(offset, len, value as u32, |m| messages.push(m));
                return;
            }
        }
        self.pci.mmio_write(hv, domain, at, len, value);
    }

    /// Reads a PCI configuration port.
    #[must_use]
    pub fn pci_port_read(&self, hv: &Hypervisor, domain: &Domain, port: u16, size: u8) -> u32 {
        self.pci.port_read(hv, domain, port, size)
    }

    /// Writes a PCI configuration port.
    pub fn pci_port_write(&self, hv: &Hypervisor, domain: &Domain, port: u16, size: u8, value: u32) {
        self.pci.port_write(hv, domain, port, size, value);
    }

    /// A level-triggered interrupt of this vector was ended in a local APIC.
    pub fn end_of_interrupt(&self, hv: &Hypervisor, domain: &Domain, vector: u8) {
        let mut messages = Vec::new();
        for a in self.io_apics.lock().iter_mut() {
            a.eoi(vector, |m| messages.push(m));
        }
        for message in &messages {
            deliver(hv, domain, message);
        }
    }

    /// A pin interrupted.
    fn pin_interrupt(&self, gsi: u32) -> Option<Message> {
        self.io_apics.lock().iter_mut().find(|a| a.contains_gsi(gsi))?.interrupt(gsi)
    }
}

/// The offset of a guest-physical address in an I/O APIC's window.
fn within(io_apic: &IoApic, at: GuestPhysAddr) -> Option<u64> {
    at.0.checked_sub(io_apic.config().base.0).filter(|offset| *offset < MMIO_SIZE)
}

/// A physical interrupt arrived on a device vector: acknowledges it and passes it on to the domain it belongs to.
pub fn physical_interrupt(hv: &Hypervisor, machine: &dyn Machine, router: &Router, at: HostVector) {
    let Some(binding) = router.lookup(at) else {
        // It was freed while the interrupt was on its way.
        machine.end_of_interrupt();
        return;
    };
    if let Source::Pin { gsi, level: true } = binding.source {
        machine.mask_pin(gsi, true);
    }
    machine.end_of_interrupt();
    let Ok(domain) = hv.domains.get(binding.domain) else { return };
    let message = match binding.source {
        Source::Message(message) => Some(message),
        Source::Pin { gsi, .. } => crate::domain::X86Domain::of(&domain)
            .and_then(|x86| x86.hardware.as_ref())
            .and_then(|hardware| hardware.pin_interrupt(gsi)),
    };
    if let Some(message) = message {
        deliver(hv, &domain, &message);
    }
}
