//! `physdev.h`: physical devices, as dom0 reports and configures them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `PHYSDEVOP_irq_status_query`.
pub const PHYSDEVOP_IRQ_STATUS_QUERY: u32 = 5;
/// `PHYSDEVOP_set_iopl`.
pub const PHYSDEVOP_SET_IOPL: u32 = 6;
/// `PHYSDEVOP_set_iobitmap`.
pub const PHYSDEVOP_SET_IOBITMAP: u32 = 7;
/// `PHYSDEVOP_apic_read`.
pub const PHYSDEVOP_APIC_READ: u32 = 8;
/// `PHYSDEVOP_apic_write`.
pub const PHYSDEVOP_APIC_WRITE: u32 = 9;
/// `PHYSDEVOP_alloc_irq_vector`.
pub const PHYSDEVOP_ALLOC_IRQ_VECTOR: u32 = 10;
/// `PHYSDEVOP_eoi`.
pub const PHYSDEVOP_EOI: u32 = 12;
/// `PHYSDEVOP_map_pirq`.
pub const PHYSDEVOP_MAP_PIRQ: u32 = 13;
/// `PHYSDEVOP_unmap_pirq`.
pub const PHYSDEVOP_UNMAP_PIRQ: u32 = 14;
/// `PHYSDEVOP_manage_pci_add`.
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// `PHYSDEVOP_manage_pci_remove`.
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// `PHYSDEVOP_pirq_eoi_gmfn_v1`.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V1: u32 = 17;
/// `PHYSDEVOP_restore_msi`.
pub const PHYSDEVOP_RESTORE_MSI: u32 = 19;
/// `PHYSDEVOP_manage_pci_add_ext`.
pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
/// `PHYSDEVOP_setup_gsi`.
pub const PHYSDEVOP_SETUP_GSI: u32 = 21;
/// `PHYSDEVOP_get_free_pirq`.
pub const PHYSDEVOP_GET_FREE_PIRQ: u32 = 23;
/// `PHYSDEVOP_pci_mmcfg_reserved`.
pub const PHYSDEVOP_PCI_MMCFG_RESERVED: u32 = 24;
/// `PHYSDEVOP_pci_device_add`.
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// `PHYSDEVOP_pci_device_remove`.
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;
/// `PHYSDEVOP_restore_msi_ext`.
pub const PHYSDEVOP_RESTORE_MSI_EXT: u32 = 27;
/// `PHYSDEVOP_pirq_eoi_gmfn_v2`.
pub const PHYSDEVOP_PIRQ_EOI_GMFN_V2: u32 = 28;
/// `PHYSDEVOP_dbgp_op`.
pub const PHYSDEVOP_DBGP_OP: u32 = 29;
/// `PHYSDEVOP_prepare_msix`.
pub const PHYSDEVOP_PREPARE_MSIX: u32 = 30;
/// `PHYSDEVOP_release_msix`.
pub const PHYSDEVOP_RELEASE_MSIX: u32 = 31;

/// A flag of [`PciMmcfgReserved`]: firmware reserved the area.
pub const XEN_PCI_MMCFG_RESERVED: u32 = 1;
/// A flag of [`PciDeviceAdd`]: an extended function (ARI).
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// A flag of [`PciDeviceAdd`]: a virtual function; `physfn_*` is valid.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// A flag of [`PciDeviceAdd`]: the first optional word is the proximity domain.
pub const XEN_PCI_DEV_PXM: u32 = 4;

/// `physdev_pci_mmcfg_reserved`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciMmcfgReserved {
    /// In: machine address of the configuration space.
    pub address: u64,
    /// In: PCI segment.
    pub segment: u16,
    /// In: first bus.
    pub start_bus: u8,
    /// In: last bus.
    pub end_bus: u8,
    /// In: `XEN_PCI_MMCFG_*`.
    pub flags: u32,
}

/// `physdev_pci_device_add` without its optional words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDeviceAdd {
    /// In: segment.
    pub seg: u16,
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
    /// In: `XEN_PCI_DEV_*`.
    pub flags: u32,
    /// In: bus of the physical function.
    pub physfn_bus: u8,
    /// In: device and function of the physical function.
    pub physfn_devfn: u8,
    /// Ignored.
    pub _pad: [u8; 2],
}

/// `physdev_pci_device`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PciDevice {
    /// In: segment.
    pub seg: u16,
    /// In: bus.
    pub bus: u8,
    /// In: device and function.
    pub devfn: u8,
}

/// `physdev_dbgp_op`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DbgpOp {
    /// In: `PHYSDEVOP_DBGP_RESET_*`.
    pub op: u8,
    /// In: `PHYSDEVOP_DBGP_BUS_*`.
    pub bus: u8,
    /// In: the controller, if it is a PCI device.
    pub pci: PciDevice,
}

/// The controller is about to be reset.
pub const PHYSDEVOP_DBGP_RESET_PREPARE: u8 = 1;
/// The controller was reset.
pub const PHYSDEVOP_DBGP_RESET_DONE: u8 = 2;

const _: () = {
    assert!(size_of::<PciMmcfgReserved>() == 16);
    assert!(size_of::<PciDeviceAdd>() == 12);
    assert!(size_of::<PciDevice>() == 4);
    assert!(size_of::<DbgpOp>() == 6);
};
