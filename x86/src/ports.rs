//! Port accesses that left guest mode.
//!
//! The hardware domain owns the machine's ports: what is not virtualised is passed through, except the ports of devices
//! that Radon itself uses. Other domains have no ports but those of their device models.

use alloc::vec::Vec;

use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::sort::sort_by_key;

use crate::domain::X86Domain;
use crate::machine::Machine;

/// Ports of the hardware domain that never reach the machine: reads give ones, writes are dropped.
const HIDDEN: [(u16, u16); 4] = [
    (0x20, 0x21), // 8259, masked for good
    (0xa0, 0xa1),
    (0x40, 0x43), // 8254: Radon may use it, dom0's clock is the hypervisor's
    (0x4d0, 0x4d1),
];

/// PCI configuration access by port.
const PCI_CONFIG: core::ops::RangeInclusive<u16> = 0xcf8..=0xcff;

/// The ports at which the hardware domain switches the machine off (PM1a_CNT and PM1b_CNT, ACPI 4.8.3.2). Its writes are
/// seen, so that the end can be announced, and so that all processors stop for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SleepPorts {
    /// PM1a_CNT.
    pub control_a: Option<u16>,
    /// PM1b_CNT.
    pub control_b: Option<u16>,
    /// The sleep types of state S5 for the two registers, if they are known.
    pub off: Option<(u8, u8)>,
}

impl SleepPorts {
    /// Each register, in the form of a range.
    pub fn ranges(&self) -> impl Iterator<Item = (u16, u16)> {
        [self.control_a, self.control_b].into_iter().flatten().map(|port| (port, port.saturating_add(1)))
    }

    /// Whether this write switches the machine off. Other sleep states are what the machine makes of them.
    #[must_use]
    pub fn is_power_off(&self, port: u16, size: u8, value: u32) -> bool {
        const ENABLE: u32 = 1 << 13;
        let kind = (value >> 10 & 7) as u8;
        let register = |control: Option<u16>, off: Option<u8>| control == Some(port) && off == Some(kind);
        let (a, b) = (self.off.map(|off| off.0), self.off.map(|off| off.1));
        size >= 2 && value & ENABLE != 0 && (register(self.control_a, a) || register(self.control_b, b))
    }
}

/// The ports of a machine as a domain reaches them.
#[derive(Clone, Copy)]
pub struct Ports<'a> {
    machine: &'a dyn Machine,
}

impl<'a> Ports<'a> {
    /// The ports of `machine`.
    #[must_use]
    pub fn new(machine: &'a dyn Machine) -> Ports<'a> {
        Ports { machine }
    }

    /// Reads a port of 1, 2 or 4 bytes.
    #[must_use]
    pub fn read(&self, hv: &Hypervisor, domain: &Domain, x86: &X86Domain, port: u16, size: u8) -> u32 {
        if !domain.is_hardware() || is_hidden(x86, port, size) {
            return u32::MAX;
        }
        match &x86.hardware {
            Some(hardware) if PCI_CONFIG.contains(&port) => hardware.pci_port_read(hv, domain, port, size),
            _ => self.machine.port_in(port, size),
        }
    }

    /// Writes a port of 1, 2 or 4 bytes.
    pub fn write(&self, hv: &Hypervisor, domain: &Domain, x86: &X86Domain, port: u16, size: u8, value: u32) {
        if !domain.is_hardware() || is_hidden(x86, port, size) {
            return;
        }
        match &x86.hardware {
            Some(hardware) if PCI_CONFIG.contains(&port) => hardware.pci_port_write(hv, domain, port, size, value),
            // The one register's values serve for both: this does not return.
            Some(hardware) if hardware.sleep_ports().is_power_off(port, size, value) => {
                if hv.platform.acpi_sleep(5, value as u16, value as u16).is_err() {
                    self.machine.port_out(port, size, value);
                }
            }
            _ => self.machine.port_out(port, size, value),
        }
    }
}

/// Whether an access touches a hidden port, or reaches into PCI's from below.
fn is_hidden(x86: &X86Domain, port: u16, size: u8) -> bool {
    let end = port.saturating_add(u16::from(size).saturating_sub(1));
    let within = |&(first, last): &(u16, u16)| port <= last && first <= end;
    if port < *PCI_CONFIG.start() && end >= *PCI_CONFIG.start() {
        return true;
    }
    HIDDEN.iter().any(within) || x86.hardware.as_ref().is_some_and(|h| h.hidden_ports().iter().any(within))
}

/// The ranges of ports that the hardware domain touches without an exit: all but the hidden ones, `own` (those of
/// devices that Radon uses or watches) and PCI configuration.
#[must_use]
pub fn direct_ranges(own: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut trapped: Vec<(u16, u16)> = HIDDEN.iter().chain(own).copied().collect();
    trapped.push((*PCI_CONFIG.start(), *PCI_CONFIG.end()));
    sort_by_key(&mut trapped, |range| *range);
    let mut direct = Vec::new();
    let mut next = 0_u32;
    for (first, last) in trapped {
        if u32::from(first) > next {
            direct.push((next as u16, first.saturating_sub(1)));
        }
        next = next.max(u32::from(last).saturating_add(1));
    }
    if next <= 0xffff {
        direct.push((next as u16, 0xffff));
    }
    direct
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switching_off_is_told_from_other_writes() {
        let ports = SleepPorts { control_a: Some(0x604), control_b: Some(0x804), off: Some((5, 7)) };
        let off = |port, size, kind: u32| ports.is_power_off(port, size, kind << 10 | 1 << 13 | 1);
        assert!(off(0x604, 2, 5) && off(0x604, 4, 5) && off(0x804, 2, 7));
        assert!(!off(0x604, 2, 7) && !off(0x804, 2, 5), "the other register's type");
        assert!(!off(0x604, 2, 1), "another state");
        assert!(!off(0x604, 1, 5) && !off(0x606, 2, 5));
        assert!(!ports.is_power_off(0x604, 2, 5 << 10 | 1), "no state is entered");
        assert!(!SleepPorts { off: None, ..ports }.is_power_off(0x604, 2, 5 << 10 | 1 << 13));
        assert_eq!(ports.ranges().collect::<Vec<_>>(), [(0x604, 0x605), (0x804, 0x805)]);
    }

    #[test]
    fn direct_ports_and_trapped_ports_cover_all_and_do_not_overlap() {
        let own = [(0x3f8, 0x3ff), (0xcf8, 0xcf8)];
        let direct = direct_ranges(&own);
        for port in 0..=0xffff_u16 {
            let within = |&(a, b): &(u16, u16)| (a..=b).contains(&port);
            let trapped = HIDDEN.iter().any(within) || own.iter().any(within) || PCI_CONFIG.contains(&port);
            assert_eq!(direct.iter().filter(|r| within(r)).count(), usize::from(!trapped), "port {port:#x}");
        }
    }

    #[test]
    fn an_access_is_hidden_with_any_of_its_ports() {
        let machine: &'static crate::testing::Zen = alloc::boxed::Box::leak(alloc::boxed::Box::default());
        let x86 = X86Domain::new(0, crate::testing::policy(machine, crate::cpuid::Kind::Dom0, 7), None);
        for (port, size, hidden) in [
            (0x1f, 1, false),
            (0x1f, 2, true),
            (0x1e, 4, true),
            (0x22, 4, false),
            (0x4cf, 2, true),
            (0xcf7, 1, false),
            (0xcf7, 2, true),
            (0xcf8, 4, false),
            (0xffff, 4, false),
        ] {
            assert_eq!(is_hidden(&x86, port, size), hidden, "{port:#x} {size}");
        }
    }
}
