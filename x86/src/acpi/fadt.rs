//! The fixed ACPI description table (ACPI 5.2.9): power management registers.

use radon_core::types::MachineAddr;

use crate::boot_info::{u16_at, u32_at, u64_at};

/// Where a register is (ACPI 5.2.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GenericAddress {
    /// 0 memory, 1 I/O ports, 2 PCI configuration space, others.
    pub space: u8,
    /// Width of the register in bits.
    pub bits: u8,
    /// The access size: 0 undefined, 1 byte, 2 word, 3 dword, 4 qword.
    pub access: u8,
    /// Its address in that space.
    pub address: u64,
}

impl GenericAddress {
    /// The I/O port, if that is what it is.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        (self.space == 1).then(|| u16::try_from(self.address).ok()).flatten().filter(|&p| p != 0)
    }
}

/// The table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fadt {
    /// The differentiated system description table.
    pub dsdt: MachineAddr,
    /// Interrupt (ISA or global number) that signals power management events.
    pub sci: u16,
    /// Port to write [`Fadt::acpi_enable`] to, to take the machine over from the firmware; 0: none needed.
    pub smi_command: u16,
    /// See [`Fadt::smi_command`].
    pub acpi_enable: u8,
    /// Event block A: status, then enable, each half of its bytes.
    pub pm1a_event: Option<GenericAddress>,
    /// Control block A: sleep type and enable.
    pub pm1a_control: Option<GenericAddress>,
    /// Control block B.
    pub pm1b_control: Option<GenericAddress>,
    /// The 3.579545 MHz timer.
    pub pm_timer: Option<GenericAddress>,
    /// Whether that timer has 32 bits rather than 24.
    pub pm_timer_32_bit: bool,
    /// Writing the value restarts the machine.
    pub reset: Option<(GenericAddress, u8)>,
    /// Sleep control register of hardware-reduced machines.
    pub sleep_control: Option<GenericAddress>,
    /// Whether there are no PM1 registers at all.
    pub hardware_reduced: bool,
    /// CMOS index of the century; 0: none.
    pub century: u8,
    /// IA-PC boot flags: bit 0 legacy devices, bit 1 8042 keyboard controller, bit 5 no CMOS clock.
    pub boot_flags: u16,
}

/// Parses a table whose checksum is right.
pub(super) fn parse(table: &[u8]) -> Result<Fadt, &'static str> {
    if table.len() < 116 {
        return Err("it is shorter than ACPI 1.0's");
    }
    let byte = |at: usize| table.get(at).copied().unwrap_or(0);
    let word = |at: usize| u16_at(table, at).unwrap_or(0);
    let dword = |at: usize| u32_at(table, at).unwrap_or(0);
    let flags = dword(112);
    // The wide fields of later revisions win where they say something.
    let register = |wide: usize, narrow: usize, length: usize| {
        generic(table, wide).or_else(|| {
            let bits = byte(length).saturating_mul(8);
            let address = u64::from(dword(narrow));
            (address != 0).then_some(GenericAddress { space: 1, bits, access: 0, address })
        })
    };
    let wide_dsdt = u64_at(table, 140).filter(|&a| a != 0);
    let reset = (flags & 1 << 10 != 0).then(|| generic(table, 116)).flatten().map(|r| (r, byte(128)));
    Ok(Fadt {
        dsdt: MachineAddr(wide_dsdt.unwrap_or(u64::from(dword(40)))),
        sci: word(46),
        smi_command: u16::try_from(dword(48)).unwrap_or(0),
        acpi_enable: byte(52),
        pm1a_event: register(148, 56, 88),
        pm1a_control: register(172, 64, 89),
        pm1b_control: register(184, 68, 89),
        pm_timer: register(208, 76, 91),
        pm_timer_32_bit: flags & 1 << 8 != 0,
        reset,
        sleep_control: generic(table, 244),
        hardware_reduced: flags & 1 << 20 != 0,
        century: byte(108),
        boot_flags: word(109),
    })
}

/// A generic address at an offset; `None` if the table ends before or the address is 0.
pub(super) fn generic(table: &[u8], at: usize) -> Option<GenericAddress> {
    let [space, bits, _, access, ..] = *table.get(at..)? else { return None };
    let address = u64_at(table, at.checked_add(4)?)?;
    (address != 0).then_some(GenericAddress { space, bits, access, address })
}
