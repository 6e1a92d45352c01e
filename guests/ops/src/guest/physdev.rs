//! `physdev_op`: physical devices, as dom0 finds them.

use radon_abi::errno::Errno;
use radon_abi::hypercall;
use radon_abi::physdev::{self as abi, DbgpOp, PciDevice, PciDeviceAdd, PciMmcfgReserved};
use radon_abi::sysctl::{self, PciTopoInfo};

use super::calls::{Answer, Refused, operate, sysctl};
use super::check::{Group, Outcome, holds, refused, refuses, same, works};
use super::twin::Twin;

pub(crate) static GROUP: Group = Group {
    number: hypercall::PHYSDEV_OP,
    checks: &[
        refused(abi::PHYSDEVOP_IRQ_STATUS_QUERY, "PHYSDEVOP_irq_status_query"),
        refused(abi::PHYSDEVOP_SET_IOPL, "PHYSDEVOP_set_iopl"),
        refused(abi::PHYSDEVOP_SET_IOBITMAP, "PHYSDEVOP_set_iobitmap"),
        refused(abi::PHYSDEVOP_APIC_READ, "PHYSDEVOP_apic_read"),
        refused(abi::PHYSDEVOP_APIC_WRITE, "PHYSDEVOP_apic_write"),
        refused(abi::PHYSDEVOP_ALLOC_IRQ_VECTOR, "PHYSDEVOP_alloc_irq_vector"),
        refused(abi::PHYSDEVOP_EOI, "PHYSDEVOP_eoi"),
        refused(abi::PHYSDEVOP_MAP_PIRQ, "PHYSDEVOP_map_pirq"),
        refused(abi::PHYSDEVOP_UNMAP_PIRQ, "PHYSDEVOP_unmap_pirq"),
        refused(abi::PHYSDEVOP_MANAGE_PCI_ADD, "PHYSDEVOP_manage_pci_add"),
        refused(abi::PHYSDEVOP_MANAGE_PCI_REMOVE, "PHYSDEVOP_manage_pci_remove"),
        refused(abi::PHYSDEVOP_PIRQ_EOI_GMFN_V1, "PHYSDEVOP_pirq_eoi_gmfn_v1"),
        refused(abi::PHYSDEVOP_RESTORE_MSI, "PHYSDEVOP_restore_msi"),
        refused(abi::PHYSDEVOP_MANAGE_PCI_ADD_EXT, "PHYSDEVOP_manage_pci_add_ext"),
        refused(abi::PHYSDEVOP_SETUP_GSI, "PHYSDEVOP_setup_gsi"),
        refused(abi::PHYSDEVOP_GET_FREE_PIRQ, "PHYSDEVOP_get_free_pirq"),
        works(abi::PHYSDEVOP_PCI_MMCFG_RESERVED, "PHYSDEVOP_pci_mmcfg_reserved", pci_mmcfg_reserved),
        works(abi::PHYSDEVOP_PCI_DEVICE_REMOVE, "PHYSDEVOP_pci_device_remove", pci_device_remove),
        works(abi::PHYSDEVOP_PCI_DEVICE_ADD, "PHYSDEVOP_pci_device_add", pci_device_add),
        refused(abi::PHYSDEVOP_RESTORE_MSI_EXT, "PHYSDEVOP_restore_msi_ext"),
        refused(abi::PHYSDEVOP_PIRQ_EOI_GMFN_V2, "PHYSDEVOP_pirq_eoi_gmfn_v2"),
        works(abi::PHYSDEVOP_DBGP_OP, "PHYSDEVOP_dbgp_op", dbgp_op),
        refused(abi::PHYSDEVOP_PREPARE_MSIX, "PHYSDEVOP_prepare_msix"),
        refused(abi::PHYSDEVOP_RELEASE_MSIX, "PHYSDEVOP_release_msix"),
    ],
};

fn ask<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::PHYSDEV_OP, operation, argument)
}

/// Where QEMU's machine has its configuration space.
const CONFIGURATION: u64 = 0xb000_0000;
/// A device that QEMU's machine has and nothing here needs: the SMBus controller.
const DEVICE: PciDevice = PciDevice { seg: 0, bus: 0, devfn: 0x1f << 3 | 3 };

fn pci_mmcfg_reserved(_: &Twin) -> Outcome {
    let flags = abi::XEN_PCI_MMCFG_RESERVED;
    let mut area = PciMmcfgReserved { address: CONFIGURATION, segment: 0, start_bus: 0, end_bus: 255, flags };
    ask(abi::PHYSDEVOP_PCI_MMCFG_RESERVED, &mut area)?;
    area.segment = 7;
    let answer = ask(abi::PHYSDEVOP_PCI_MMCFG_RESERVED, &mut area);
    refuses("a segment that is not there", answer, Errno::ENODEV)
}

/// The node that the hypervisor says a device belongs to.
fn node_of(device: PciDevice) -> Result<u32, Refused> {
    let (mut devices, mut nodes) = ([device], [99u32]);
    let mut info = PciTopoInfo {
        num_devs: 1,
        devs: devices.as_mut_ptr() as u64,
        nodes: nodes.as_mut_ptr() as u64,
        ..PciTopoInfo::default()
    };
    sysctl(sysctl::XEN_SYSCTL_PCITOPOINFO, &mut info)?;
    Ok(nodes[0])
}

fn pci_device_remove(_: &Twin) -> Outcome {
    holds("the device is known", node_of(DEVICE)? != sysctl::XEN_INVALID_DEV)?;
    ask(abi::PHYSDEVOP_PCI_DEVICE_REMOVE, &mut { DEVICE })?;
    same("the node of a device that is gone", node_of(DEVICE)?, sysctl::XEN_INVALID_DEV)?;
    refuses("the same again", ask(abi::PHYSDEVOP_PCI_DEVICE_REMOVE, &mut { DEVICE }), Errno::ENODEV)
}

/// The device that was removed comes back.
fn pci_device_add(_: &Twin) -> Outcome {
    let mut add = PciDeviceAdd { seg: DEVICE.seg, bus: DEVICE.bus, devfn: DEVICE.devfn, ..PciDeviceAdd::default() };
    ask(abi::PHYSDEVOP_PCI_DEVICE_ADD, &mut add)?;
    holds("the device is known", node_of(DEVICE)? != sysctl::XEN_INVALID_DEV)
}

fn dbgp_op(_: &Twin) -> Outcome {
    // Of a controller that is no PCI device; there is none that the hypervisor uses.
    ask(abi::PHYSDEVOP_DBGP_OP, &mut DbgpOp { op: abi::PHYSDEVOP_DBGP_RESET_PREPARE, ..DbgpOp::default() })?;
    ask(abi::PHYSDEVOP_DBGP_OP, &mut DbgpOp { op: abi::PHYSDEVOP_DBGP_RESET_DONE, ..DbgpOp::default() })?;
    Ok(())
}
