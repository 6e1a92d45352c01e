//! `physdev_op(cmd, arg)`: physical devices, as dom0 finds and configures them.
//!
//! What dom0 reports goes to [`crate::platform::PhysicalDevices`]. Where there is none, there is no IOMMU to be programmed
//! and the report is only checked. Other domains have no such operations, and nobody has physical interrupts (PIRQs): dom0
//! programs interrupt controllers and message-signalled interrupts, which are intercepted.

use radon_abi::errno::Errno;
use radon_abi::physdev::{self as abi, DbgpOp, PciDevice, PciDeviceAdd, PciMmcfgReserved};

use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, SUCCESS, op, operation, refused};
use crate::platform::PciAddress;
use crate::types::{GuestVirtAddr, MachineAddr};

const fn no(number: u32, name: &'static str) -> Operation {
    Operation { number, name, coverage: Coverage::Refused(Errno::ENOSYS), handler: refused }
}

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    no(abi::PHYSDEVOP_IRQ_STATUS_QUERY, "PHYSDEVOP_irq_status_query"),
    no(abi::PHYSDEVOP_SET_IOPL, "PHYSDEVOP_set_iopl"),
    no(abi::PHYSDEVOP_SET_IOBITMAP, "PHYSDEVOP_set_iobitmap"),
    no(abi::PHYSDEVOP_APIC_READ, "PHYSDEVOP_apic_read"),
    no(abi::PHYSDEVOP_APIC_WRITE, "PHYSDEVOP_apic_write"),
    no(abi::PHYSDEVOP_ALLOC_IRQ_VECTOR, "PHYSDEVOP_alloc_irq_vector"),
    no(abi::PHYSDEVOP_EOI, "PHYSDEVOP_eoi"),
    no(abi::PHYSDEVOP_MAP_PIRQ, "PHYSDEVOP_map_pirq"),
    no(abi::PHYSDEVOP_UNMAP_PIRQ, "PHYSDEVOP_unmap_pirq"),
    no(abi::PHYSDEVOP_MANAGE_PCI_ADD, "PHYSDEVOP_manage_pci_add"),
    no(abi::PHYSDEVOP_MANAGE_PCI_REMOVE, "PHYSDEVOP_manage_pci_remove"),
    no(abi::PHYSDEVOP_PIRQ_EOI_GMFN_V1, "PHYSDEVOP_pirq_eoi_gmfn_v1"),
    no(abi::PHYSDEVOP_RESTORE_MSI, "PHYSDEVOP_restore_msi"),
    no(abi::PHYSDEVOP_MANAGE_PCI_ADD_EXT, "PHYSDEVOP_manage_pci_add_ext"),
    no(abi::PHYSDEVOP_SETUP_GSI, "PHYSDEVOP_setup_gsi"),
    no(abi::PHYSDEVOP_GET_FREE_PIRQ, "PHYSDEVOP_get_free_pirq"),
    op(abi::PHYSDEVOP_PCI_MMCFG_RESERVED, "PHYSDEVOP_pci_mmcfg_reserved", pci_mmcfg_reserved),
    op(abi::PHYSDEVOP_PCI_DEVICE_ADD, "PHYSDEVOP_pci_device_add", pci_device_add),
    op(abi::PHYSDEVOP_PCI_DEVICE_REMOVE, "PHYSDEVOP_pci_device_remove", pci_device_remove),
    no(abi::PHYSDEVOP_RESTORE_MSI_EXT, "PHYSDEVOP_restore_msi_ext"),
    no(abi::PHYSDEVOP_PIRQ_EOI_GMFN_V2, "PHYSDEVOP_pirq_eoi_gmfn_v2"),
    op(abi::PHYSDEVOP_DBGP_OP, "PHYSDEVOP_dbgp_op", dbgp_op),
    no(abi::PHYSDEVOP_PREPARE_MSIX, "PHYSDEVOP_prepare_msix"),
    no(abi::PHYSDEVOP_RELEASE_MSIX, "PHYSDEVOP_release_msix"),
];

/// `physdev_op(cmd, arg)`.
///
/// # Errors
/// `ENOSYS` for an unknown operation and for callers other than dom0; `EFAULT`; else see there.
pub fn physdev_op(caller: &Caller<'_>, args: Args) -> OpResult {
    if !caller.domain.is_hardware() {
        return Err(Errno::ENOSYS);
    }
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// `PHYSDEVOP_pci_mmcfg_reserved`: whether a configuration space area is usable. Errors: the backend's.
fn pci_mmcfg_reserved(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: PciMmcfgReserved = caller.read(args.handle(1))?;
    if a.start_bus > a.end_bus {
        return Err(Errno::EINVAL);
    }
    if let Some(devices) = caller.hv.platform.physical_devices() {
        let reserved = a.flags & abi::XEN_PCI_MMCFG_RESERVED != 0;
        devices.config_space(MachineAddr(a.address), a.segment, a.start_bus, a.end_bus, reserved)?;
    }
    SUCCESS
}

/// `PHYSDEVOP_pci_device_add`: dom0 found a device. Errors: the backend's.
fn pci_device_add(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: PciDeviceAdd = caller.read(args.handle(1))?;
    let node = if a.flags & abi::XEN_PCI_DEV_PXM != 0 {
        // The first optional word is where the C structure ends but for its padding.
        let at = args.get(1).wrapping_add(size_of::<PciDeviceAdd>() as u64);
        Some(caller.read::<u32>(GuestVirtAddr(at))?)
    } else {
        None
    };
    let address = |bus, devfn| PciAddress { segment: a.seg, bus, devfn };
    let physical = a.flags & abi::XEN_PCI_DEV_VIRTFN != 0;
    if let Some(devices) = caller.hv.platform.physical_devices() {
        devices.add(address(a.bus, a.devfn), physical.then(|| address(a.physfn_bus, a.physfn_devfn)), node)?;
    }
    SUCCESS
}

/// `PHYSDEVOP_pci_device_remove`: a device is gone. Errors: the backend's.
fn pci_device_remove(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: PciDevice = caller.read(args.handle(1))?;
    if let Some(devices) = caller.hv.platform.physical_devices() {
        devices.remove(PciAddress { segment: a.seg, bus: a.bus, devfn: a.devfn })?;
    }
    SUCCESS
}

/// `PHYSDEVOP_dbgp_op`: a USB controller with a debug port is being reset. The hypervisor's console uses none, so there is
/// nothing to save. Errors: `EINVAL` for an unknown step.
fn dbgp_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: DbgpOp = caller.read(args.handle(1))?;
    match a.op {
        abi::PHYSDEVOP_DBGP_RESET_PREPARE | abi::PHYSDEVOP_DBGP_RESET_DONE => SUCCESS,
        _ => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;

    #[test]
    fn dom0_reports_devices_and_others_have_no_such_call() {
        let mut host = TestHost::new(1024, 1);
        let (dom0, guest) = (host.add_domain(1), host.add_domain(1));
        for op in [abi::PHYSDEVOP_PCI_DEVICE_ADD, abi::PHYSDEVOP_PCI_DEVICE_REMOVE, abi::PHYSDEVOP_PCI_MMCFG_RESERVED] {
            let args = Args([u64::from(op), 0x1000, 0, 0, 0, 0]);
            assert_eq!(physdev_op(&host.caller(dom0, 0), args), SUCCESS);
            assert_eq!(physdev_op(&host.caller(guest, 0), args), Err(Errno::ENOSYS));
            assert_eq!(physdev_op(&host.caller(dom0, 0), args.with(1, u64::MAX)), Err(Errno::EFAULT));
        }
    }
}
