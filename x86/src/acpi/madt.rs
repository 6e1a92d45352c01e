//! The multiple APIC description table (ACPI 5.2.12): processors and interrupt controllers.

use alloc::vec::Vec;
use radon_core::types::MachineAddr;

use crate::boot_info::{u16_at, u32_at, u64_at};

/// Most entries of each kind that are taken.
const MAX_ENTRIES: usize = 4096;

/// A processor's local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalApic {
    /// The processor's number in the firmware's code (its UID).
    pub processor: u32,
    /// The APIC's identifier.
    pub id: u32,
    /// Whether it can be used now.
    pub enabled: bool,
    /// Whether it may be enabled later.
    pub online_capable: bool,
}

/// An I/O APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoApic {
    /// Its identifier.
    pub id: u8,
    /// Where its registers are.
    pub address: MachineAddr,
    /// The global interrupt number of its first pin.
    pub gsi_base: u32,
}

/// An ISA interrupt that is not wired one to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SourceOverride {
    /// ISA interrupt, 0 to 15.
    pub isa_irq: u8,
    /// The global interrupt number that it arrives at.
    pub gsi: u32,
    /// Bits 0-1 polarity, 2-3 trigger mode: 0 as the bus has it, 1 high or edge, 3 low or level.
    pub flags: u16,
}

impl SourceOverride {
    /// Whether the signal is active low. ISA's own is high.
    #[must_use]
    pub const fn active_low(&self) -> bool {
        self.flags & 3 == 3
    }

    /// Whether it is level-triggered. ISA's own is edge.
    #[must_use]
    pub const fn level(&self) -> bool {
        self.flags >> 2 & 3 == 3
    }
}

/// A local APIC pin that an NMI is wired to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalNmi {
    /// The processor's UID; `None` means all.
    pub processor: Option<u32>,
    /// LINT pin, 0 or 1.
    pub pin: u8,
    /// As in [`SourceOverride::flags`].
    pub flags: u16,
}

/// The table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Madt {
    /// Where the local APICs' registers are.
    pub local_apic_address: MachineAddr,
    /// Whether there are 8259 controllers too.
    pub has_8259: bool,
    /// Processors, in the firmware's order, each once.
    pub local_apics: Vec<LocalApic>,
    /// I/O APICs.
    pub io_apics: Vec<IoApic>,
    /// ISA interrupts that are not wired one to one.
    pub overrides: Vec<SourceOverride>,
    /// Local NMI pins.
    pub local_nmis: Vec<LocalNmi>,
    /// I/O APIC pins that are NMIs: (global interrupt number, flags).
    pub nmi_sources: Vec<(u32, u16)>,
}

impl Madt {
    /// Where an ISA interrupt arrives: (global interrupt number, active low, level).
    #[must_use]
    pub fn isa_irq(&self, irq: u8) -> (u32, bool, bool) {
        match self.overrides.iter().find(|o| o.isa_irq == irq) {
            Some(o) => (o.gsi, o.active_low(), o.level()),
            None => (u32::from(irq), false, false),
        }
    }
}

/// Parses a table whose checksum is right.
pub(super) fn parse(table: &[u8]) -> Result<Madt, &'static str> {
    let address = u32_at(table, 36).ok_or("it is too short")?;
    let flags = u32_at(table, 40).ok_or("it is too short")?;
    let mut madt =
        Madt { local_apic_address: MachineAddr(u64::from(address)), has_8259: flags & 1 != 0, ..Madt::default() };
    let mut rest = table.get(44..).unwrap_or_default();
    for _ in 0..MAX_ENTRIES {
        let Some(&[kind, length]) = rest.get(..2) else { break };
        if length < 2 {
            return Err("an entry has a length below 2");
        }
        let entry = rest.get(..usize::from(length)).ok_or("its last entry is cut off")?;
        rest = rest.get(usize::from(length)..).unwrap_or_default();
        // An entry that is too short for its kind is left out.
        madt.take(kind, entry);
    }
    if madt.local_apics.iter().any(|a| a.enabled) { Ok(madt) } else { Err("it lists no enabled processor") }
}

impl Madt {
    fn take(&mut self, kind: u8, e: &[u8]) -> Option<()> {
        let byte = |at: usize| e.get(at).copied();
        match kind {
            0 => {
                let id = u32::from(byte(3)?);
                // 0xff names no APIC.
                if id != 0xff {
                    self.add_processor(u32::from(byte(2)?), id, u32_at(e, 4)?);
                }
            }
            1 => self.io_apics.push(IoApic {
                id: byte(2)?,
                address: MachineAddr(u64::from(u32_at(e, 4)?)),
                gsi_base: u32_at(e, 8)?,
            }),
            2 => {
                let (bus, isa_irq) = (byte(2)?, byte(3)?);
                let entry = SourceOverride { isa_irq, gsi: u32_at(e, 4)?, flags: u16_at(e, 8)? };
                if bus == 0 && isa_irq < 16 {
                    self.overrides.push(entry);
                }
            }
            3 => self.nmi_sources.push((u32_at(e, 4)?, u16_at(e, 2)?)),
            4 => {
                let processor = Some(u32::from(byte(2)?)).filter(|&p| p != 0xff);
                self.local_nmis.push(LocalNmi { processor, flags: u16_at(e, 3)?, pin: byte(5)? });
            }
            5 => self.local_apic_address = MachineAddr(u64_at(e, 4)?),
            9 => {
                let id = u32_at(e, 4)?;
                if id != u32::MAX {
                    self.add_processor(u32_at(e, 12)?, id, u32_at(e, 8)?);
                }
            }
            10 => {
                let processor = Some(u32_at(e, 4)?).filter(|&p| p != u32::MAX);
                self.local_nmis.push(LocalNmi { processor, flags: u16_at(e, 2)?, pin: byte(8)? });
            }
            _ => (),
        }
        Some(())
    }

    /// A processor may be listed both as local APIC and as x2APIC.
    fn add_processor(&mut self, processor: u32, id: u32, flags: u32) {
        if !self.local_apics.iter().any(|a| a.id == id) {
            let (enabled, online_capable) = (flags & 1 != 0, flags & 2 != 0);
            self.local_apics.push(LocalApic { processor, id, enabled, online_capable });
        }
    }
}
