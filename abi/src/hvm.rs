//! `hvm/hvm_op.h` and `hvm/params.h`: operations and parameters of HVM (and PVH) domains.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `HVMOP_set_param`.
pub const HVMOP_SET_PARAM: u32 = 0;
/// `HVMOP_get_param`.
pub const HVMOP_GET_PARAM: u32 = 1;
/// `HVMOP_set_pci_intx_level`, superseded by a device model operation.
pub const HVMOP_SET_PCI_INTX_LEVEL: u32 = 2;
/// `HVMOP_set_isa_irq_level`, superseded by a device model operation.
pub const HVMOP_SET_ISA_IRQ_LEVEL: u32 = 3;
/// `HVMOP_set_pci_link_route`, superseded by a device model operation.
pub const HVMOP_SET_PCI_LINK_ROUTE: u32 = 4;
/// `HVMOP_flush_tlbs`.
pub const HVMOP_FLUSH_TLBS: u32 = 5;
/// `HVMOP_pagetable_dying`.
pub const HVMOP_PAGETABLE_DYING: u32 = 9;
/// `HVMOP_get_time`.
pub const HVMOP_GET_TIME: u32 = 10;
/// `HVMOP_xentrace`.
pub const HVMOP_XENTRACE: u32 = 11;
/// `HVMOP_set_mem_access`, superseded by a memory operation.
pub const HVMOP_SET_MEM_ACCESS: u32 = 12;
/// `HVMOP_get_mem_access`, superseded by a memory operation.
pub const HVMOP_GET_MEM_ACCESS: u32 = 13;
/// `HVMOP_get_mem_type`.
pub const HVMOP_GET_MEM_TYPE: u32 = 15;
/// `HVMOP_set_evtchn_upcall_vector`.
pub const HVMOP_SET_EVTCHN_UPCALL_VECTOR: u32 = 23;
/// `HVMOP_guest_request_vm_event`.
pub const HVMOP_GUEST_REQUEST_VM_EVENT: u32 = 24;
/// `HVMOP_altp2m`.
pub const HVMOP_ALTP2M: u32 = 25;

/// `xen_hvm_param`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmParam {
    /// In: the domain.
    pub domid: u16,
    /// Ignored.
    pub pad: u16,
    /// In: `HVM_PARAM_*`.
    pub index: u32,
    /// In or out: the value.
    pub value: u64,
}

/// `xen_hvm_get_time`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmGetTime {
    /// Out: nanoseconds.
    pub now: u64,
}

/// `xen_hvm_xentrace` without what the hypervisor would use.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmXentrace {
    /// In: the event.
    pub event: u16,
    /// In: bytes of `extra` in use.
    pub extra_bytes: u16,
    /// In: the data.
    pub extra: [u8; 28],
}

/// `xen_hvm_pagetable_dying`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmPagetableDying {
    /// In: the domain.
    pub domid: u16,
    /// Ignored.
    pub pad: [u16; 3],
    /// In: address of the page table.
    pub gpa: u64,
}

/// `xen_hvm_get_mem_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmGetMemType {
    /// In: the domain.
    pub domid: u16,
    /// Out: `HVMMEM_*`.
    pub mem_type: u16,
    /// Ignored.
    pub pad: [u16; 2],
    /// In: the guest frame.
    pub pfn: u64,
}

/// `HVMMEM_ram_rw`: ordinary memory.
pub const HVMMEM_RAM_RW: u16 = 0;
/// `HVMMEM_ram_ro`: read-only memory.
pub const HVMMEM_RAM_RO: u16 = 1;
/// `HVMMEM_mmio_dm`: accesses go to the device model.
pub const HVMMEM_MMIO_DM: u16 = 2;

/// `xen_hvm_evtchn_upcall_vector`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmEvtchnUpcallVector {
    /// In: the vCPU.
    pub vcpu: u32,
    /// In: the vector.
    pub vector: u8,
    /// Ignored.
    pub _pad: [u8; 3],
}

/// How event upcalls are delivered: type in bits 63:56.
pub const HVM_PARAM_CALLBACK_IRQ: u32 = 0;
/// Type of [`HVM_PARAM_CALLBACK_IRQ`]: a GSI.
pub const HVM_PARAM_CALLBACK_TYPE_GSI: u64 = 0;
/// Type of [`HVM_PARAM_CALLBACK_IRQ`]: a PCI interrupt line.
pub const HVM_PARAM_CALLBACK_TYPE_PCI_INTX: u64 = 1;
/// Type of [`HVM_PARAM_CALLBACK_IRQ`]: a vector.
pub const HVM_PARAM_CALLBACK_TYPE_VECTOR: u64 = 2;
/// Guest frame of the xenstore ring.
pub const HVM_PARAM_STORE_PFN: u32 = 1;
/// Port of xenstore.
pub const HVM_PARAM_STORE_EVTCHN: u32 = 2;
/// Deprecated.
pub const HVM_PARAM_PAE_ENABLED: u32 = 4;
/// Guest frame of the default I/O request page.
pub const HVM_PARAM_IOREQ_PFN: u32 = 5;
/// Guest frame of the default buffered I/O request page.
pub const HVM_PARAM_BUFIOREQ_PFN: u32 = 6;
/// Viridian feature mask.
pub const HVM_PARAM_VIRIDIAN: u32 = 9;
/// Mode of virtual timers, 0 to 3.
pub const HVM_PARAM_TIMER_MODE: u32 = 10;
/// Whether there is an HPET.
pub const HVM_PARAM_HPET_ENABLED: u32 = 11;
/// Guest-physical address of an identity page directory (VMX without unrestricted guest).
pub const HVM_PARAM_IDENT_PT: u32 = 12;
/// Deprecated.
pub const HVM_PARAM_DM_DOMAIN: u32 = 13;
/// ACPI sleep state: 0 or 3.
pub const HVM_PARAM_ACPI_S_STATE: u32 = 14;
/// TSS for real mode (VMX without unrestricted guest).
pub const HVM_PARAM_VM86_TSS: u32 = 15;
/// Whether periodic timers are aligned.
pub const HVM_PARAM_VPT_ALIGN: u32 = 16;
/// Guest frame of the console ring.
pub const HVM_PARAM_CONSOLE_PFN: u32 = 17;
/// Port of the console.
pub const HVM_PARAM_CONSOLE_EVTCHN: u32 = 18;
/// Where ACPI's PM1a and timer ports are: 0 or 1.
pub const HVM_PARAM_ACPI_IOPORTS_LOCATION: u32 = 19;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_CR0: u32 = 20;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_CR3: u32 = 21;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_CR4: u32 = 22;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_INT3: u32 = 23;
/// Deprecated.
pub const HVM_PARAM_NESTEDHVM: u32 = 24;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_SINGLE_STEP: u32 = 25;
/// Deprecated: port of buffered I/O requests.
pub const HVM_PARAM_BUFIOREQ_EVTCHN: u32 = 26;
/// Guest frame of the paging ring.
pub const HVM_PARAM_PAGING_RING_PFN: u32 = 27;
/// Guest frame of the monitor ring.
pub const HVM_PARAM_MONITOR_RING_PFN: u32 = 28;
/// Guest frame of the sharing ring.
pub const HVM_PARAM_SHARING_RING_PFN: u32 = 29;
/// Deprecated.
pub const HVM_PARAM_MEMORY_EVENT_MSR: u32 = 30;
/// `SHUTDOWN_*` reason of a triple fault.
pub const HVM_PARAM_TRIPLE_FAULT_REASON: u32 = 31;
/// First guest frame for I/O request servers.
pub const HVM_PARAM_IOREQ_SERVER_PFN: u32 = 32;
/// Number of guest frames for I/O request servers.
pub const HVM_PARAM_NR_IOREQ_SERVER_PAGES: u32 = 33;
/// Guest-physical address of the VM generation identifier.
pub const HVM_PARAM_VM_GENERATION_ID_ADDR: u32 = 34;
/// Who may use alternate p2ms: 0 (nobody) to 3.
pub const HVM_PARAM_ALTP2M: u32 = 35;
/// Highest value of [`HVM_PARAM_ALTP2M`] (`XEN_ALTP2M_limited`).
pub const XEN_ALTP2M_LIMITED: u64 = 3;
/// Width of FIP and FDP on save: 0, 4 or 8.
pub const HVM_PARAM_X87_FIP_WIDTH: u32 = 36;
/// TSS for real mode with its size in the high half.
pub const HVM_PARAM_VM86_TSS_SIZED: u32 = 37;
/// Machine check capabilities offered to the guest.
pub const HVM_PARAM_MCA_CAP: u32 = 38;
/// All bits of [`HVM_PARAM_MCA_CAP`].
pub const XEN_HVM_MCA_CAP_MASK: u64 = 1;
/// Number of parameters.
pub const HVM_NR_PARAMS: u32 = 39;

/// All feature bits of [`HVM_PARAM_VIRIDIAN`].
pub const HVMPV_FEATURE_MASK: u64 = 0x1fff;
/// The feature that all others of [`HVM_PARAM_VIRIDIAN`] need.
pub const HVMPV_BASE_FREQ: u64 = 1;

const _: () = {
    assert!(size_of::<HvmParam>() == 16);
    assert!(size_of::<HvmGetTime>() == 8);
    assert!(size_of::<HvmXentrace>() == 32);
    assert!(size_of::<HvmPagetableDying>() == 16);
    assert!(size_of::<HvmGetMemType>() == 16);
    assert!(size_of::<HvmEvtchnUpcallVector>() == 8);
};
