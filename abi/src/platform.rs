//! `platform.h`: what the hardware domain asks of the machine.
//!
//! A platform operation is a [`PlatformOp`]: a command and 128 bytes that hold one of the structures below.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Every operation carries this number.
pub const XENPF_INTERFACE_VERSION: u32 = 0x0300_0001;

/// `XENPF_settime32`.
pub const XENPF_SETTIME32: u32 = 17;
/// `XENPF_add_memtype`.
pub const XENPF_ADD_MEMTYPE: u32 = 31;
/// `XENPF_del_memtype`.
pub const XENPF_DEL_MEMTYPE: u32 = 32;
/// `XENPF_read_memtype`.
pub const XENPF_READ_MEMTYPE: u32 = 33;
/// `XENPF_microcode_update`.
pub const XENPF_MICROCODE_UPDATE: u32 = 35;
/// `XENPF_platform_quirk`.
pub const XENPF_PLATFORM_QUIRK: u32 = 39;
/// `XENPF_get_cpu_version`.
pub const XENPF_GET_CPU_VERSION: u32 = 48;
/// `XENPF_efi_runtime_call`.
pub const XENPF_EFI_RUNTIME_CALL: u32 = 49;
/// `XENPF_firmware_info`.
pub const XENPF_FIRMWARE_INFO: u32 = 50;
/// `XENPF_enter_acpi_sleep`.
pub const XENPF_ENTER_ACPI_SLEEP: u32 = 51;
/// `XENPF_change_freq`.
pub const XENPF_CHANGE_FREQ: u32 = 52;
/// `XENPF_getidletime`.
pub const XENPF_GETIDLETIME: u32 = 53;
/// `XENPF_set_processor_pminfo`.
pub const XENPF_SET_PROCESSOR_PMINFO: u32 = 54;
/// `XENPF_get_cpuinfo`.
pub const XENPF_GET_CPUINFO: u32 = 55;
/// `XENPF_cpu_online`.
pub const XENPF_CPU_ONLINE: u32 = 56;
/// `XENPF_cpu_offline`.
pub const XENPF_CPU_OFFLINE: u32 = 57;
/// `XENPF_cpu_hotadd`.
pub const XENPF_CPU_HOTADD: u32 = 58;
/// `XENPF_mem_hotadd`.
pub const XENPF_MEM_HOTADD: u32 = 59;
/// `XENPF_core_parking`.
pub const XENPF_CORE_PARKING: u32 = 60;
/// `XENPF_resource_op`.
pub const XENPF_RESOURCE_OP: u32 = 61;
/// `XENPF_settime64`.
pub const XENPF_SETTIME64: u32 = 62;
/// `XENPF_get_symbol`.
pub const XENPF_GET_SYMBOL: u32 = 63;

/// `xen_platform_op`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PlatformOp {
    /// In: `XENPF_*`.
    pub cmd: u32,
    /// In: [`XENPF_INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The operation's structure.
    pub u: [u8; 128],
}

/// Where the union of [`PlatformOp`] starts, in bytes.
pub const UNION_OFFSET: u64 = core::mem::offset_of!(PlatformOp, u) as u64;

/// `xenpf_settime32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetTime32 {
    /// In: seconds since 1970.
    pub secs: u32,
    /// In: nanoseconds.
    pub nsecs: u32,
    /// In: at this system time.
    pub system_time: u64,
}

/// `xenpf_settime64`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetTime64 {
    /// In: seconds since 1970.
    pub secs: u64,
    /// In: nanoseconds.
    pub nsecs: u32,
    /// In: zero.
    pub mbz: u32,
    /// In: at this system time.
    pub system_time: u64,
}

/// `xenpf_firmware_info` up to its union.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FirmwareInfo {
    /// In: `XEN_FW_*`.
    pub kind: u32,
    /// In: which of them.
    pub index: u32,
    /// The answer.
    pub u: [u64; 4],
}

/// BIOS disk information.
pub const XEN_FW_DISK_INFO: u32 = 1;
/// MBR signature of a disk.
pub const XEN_FW_DISK_MBR_SIGNATURE: u32 = 2;
/// Monitor identification.
pub const XEN_FW_VBEDDC_INFO: u32 = 3;
/// EFI tables.
pub const XEN_FW_EFI_INFO: u32 = 4;
/// BIOS keyboard flags.
pub const XEN_FW_KBD_SHIFT_FLAGS: u32 = 5;

/// `xenpf_enter_acpi_sleep`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnterAcpiSleep {
    /// In: value for PM1a_CNT, or for the sleep control register.
    pub val_a: u16,
    /// In: value for PM1b_CNT, or for the sleep status register.
    pub val_b: u16,
    /// In: sleep state.
    pub sleep_state: u32,
    /// In: [`XENPF_ACPI_SLEEP_EXTENDED`].
    pub flags: u32,
}

/// A flag of [`EnterAcpiSleep`]: hardware-reduced ACPI.
pub const XENPF_ACPI_SLEEP_EXTENDED: u32 = 1;

/// `xenpf_getidletime`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetIdleTime {
    /// In and out: bitmap of CPUs.
    pub cpumap_bitmap: u64,
    /// In: its bits.
    pub cpumap_nr_cpus: u32,
    /// Ignored.
    pub _pad: u32,
    /// In: where each CPU's idle time goes.
    pub idletime: u64,
    /// Out: system time.
    pub now: u64,
}

/// `xenpf_set_processor_pminfo` up to its union.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetProcessorPminfo {
    /// In: ACPI identifier of the processor.
    pub id: u32,
    /// In: `XEN_PM_*`.
    pub kind: u32,
    /// In: [`ProcessorPower`], [`ProcessorPerformance`] or a handle.
    pub u: [u64; 13],
}

/// Type of [`SetProcessorPminfo`]: C states.
pub const XEN_PM_CX: u32 = 0;
/// Type of [`SetProcessorPminfo`]: P states.
pub const XEN_PM_PX: u32 = 1;
/// Type of [`SetProcessorPminfo`]: T states.
pub const XEN_PM_TX: u32 = 2;
/// Type of [`SetProcessorPminfo`]: _PDC bits.
pub const XEN_PM_PDC: u32 = 3;

/// `xen_power_register`: an ACPI generic address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PowerRegister {
    /// Address space.
    pub space_id: u32,
    /// Width in bits.
    pub bit_width: u32,
    /// Offset in bits.
    pub bit_offset: u32,
    /// Access size.
    pub access_size: u32,
    /// Address.
    pub address: u64,
}

/// `xen_processor_csd`: an entry of _CSD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessorCsd {
    /// Dependency domain.
    pub domain: u32,
    /// Coordination type.
    pub coord_type: u32,
    /// Processors in the domain.
    pub num: u32,
}

/// `xen_processor_cx`: a C state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessorCx {
    /// How it is entered.
    pub reg: PowerRegister,
    /// Its type: 1 to 3.
    pub kind: u8,
    /// Ignored.
    pub _pad: [u8; 3],
    /// Worst latency in microseconds.
    pub latency: u32,
    /// Average power in milliwatts.
    pub power: u32,
    /// Entries of `dp`.
    pub dpcnt: u32,
    /// Handle of [`ProcessorCsd`]s.
    pub dp: u64,
}

/// `xen_processor_power`: a processor's C states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessorPower {
    /// Entries of `states`.
    pub count: u32,
    /// Bits: bm_control, bm_check, has_cst, power_setup_done, bm_rld_set.
    pub flags: u32,
    /// Handle of [`ProcessorCx`]s.
    pub states: u64,
}

/// `xen_pct_register`: a resource of _PCT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PctRegister {
    /// Descriptor type.
    pub descriptor: u8,
    /// Ignored.
    pub _pad: u8,
    /// Its length.
    pub length: u16,
    /// Address space.
    pub space_id: u8,
    /// Width in bits.
    pub bit_width: u8,
    /// Offset in bits.
    pub bit_offset: u8,
    /// Reserved.
    pub reserved: u8,
    /// Address.
    pub address: u64,
}

/// `xen_processor_px`: a P state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessorPx {
    /// Megahertz.
    pub core_frequency: u64,
    /// Milliwatts.
    pub power: u64,
    /// Microseconds.
    pub transition_latency: u64,
    /// Microseconds.
    pub bus_master_latency: u64,
    /// Value for the control register.
    pub control: u64,
    /// Value of the status register.
    pub status: u64,
}

/// `xen_psd_package`: an entry of _PSD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PsdPackage {
    /// Number of entries.
    pub num_entries: u64,
    /// Revision.
    pub revision: u64,
    /// Dependency domain.
    pub domain: u64,
    /// Coordination type.
    pub coord_type: u64,
    /// Processors in the domain.
    pub num_processors: u64,
}

/// `xen_processor_performance`: a processor's P states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProcessorPerformance {
    /// Which parts are valid: `XEN_PX_*`.
    pub flags: u32,
    /// Value of _PPC.
    pub platform_limit: u32,
    /// Control register.
    pub control_register: PctRegister,
    /// Status register.
    pub status_register: PctRegister,
    /// Entries of `states`.
    pub state_count: u32,
    /// Ignored.
    pub _pad0: u32,
    /// Handle of [`ProcessorPx`]s.
    pub states: u64,
    /// Dependencies.
    pub domain_info: PsdPackage,
    /// Coordination type: 1 to 3.
    pub shared_type: u32,
    /// Ignored.
    pub _pad1: u32,
}

/// A part of [`ProcessorPerformance`]: control and status register.
pub const XEN_PX_PCT: u32 = 1;
/// A part of [`ProcessorPerformance`]: states.
pub const XEN_PX_PSS: u32 = 2;
/// A part of [`ProcessorPerformance`]: platform limit.
pub const XEN_PX_PPC: u32 = 4;
/// A part of [`ProcessorPerformance`]: dependencies.
pub const XEN_PX_PSD: u32 = 8;

/// [`ProcessorPerformance::shared_type`]: the hardware coordinates.
pub const XEN_CPUPERF_SHARED_TYPE_HW: u32 = 1;
/// [`ProcessorPerformance::shared_type`]: all CPUs that depend on each other set the frequency.
pub const XEN_CPUPERF_SHARED_TYPE_ALL: u32 = 2;
/// [`ProcessorPerformance::shared_type`]: one of them does.
pub const XEN_CPUPERF_SHARED_TYPE_ANY: u32 = 3;

/// `xenpf_pcpuinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PcpuInfo {
    /// In: the CPU.
    pub xen_cpuid: u32,
    /// Out: the highest CPU that is present.
    pub max_present: u32,
    /// Out: `XEN_PCPU_FLAGS_*`.
    pub flags: u32,
    /// Out.
    pub apic_id: u32,
    /// Out.
    pub acpi_id: u32,
}

/// A flag of [`PcpuInfo`]: online.
pub const XEN_PCPU_FLAGS_ONLINE: u32 = 1;
/// A flag of [`PcpuInfo`]: there is no such CPU.
pub const XEN_PCPU_FLAGS_INVALID: u32 = 2;

/// `xenpf_pcpu_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PcpuVersion {
    /// In: the CPU.
    pub xen_cpuid: u32,
    /// Out: the highest CPU that is present.
    pub max_present: u32,
    /// Out: CPUID's vendor text.
    pub vendor_id: [u8; 12],
    /// Out.
    pub family: u32,
    /// Out.
    pub model: u32,
    /// Out.
    pub stepping: u32,
}

/// `xenpf_cpu_ol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuOl {
    /// In: the CPU.
    pub cpuid: u32,
}

/// `xenpf_resource_op`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceOp {
    /// In: entries of `entries`.
    pub nr_entries: u32,
    /// In: the CPU whose resources they are.
    pub cpu: u32,
    /// Handle of [`ResourceEntry`]s.
    pub entries: u64,
}

/// `xenpf_resource_entry`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ResourceEntry {
    /// In: `XEN_RESOURCE_OP_*`. Out: an error of an entry that failed.
    pub cmd: u32,
    /// In: zero.
    pub rsvd: u32,
    /// In: the MSR.
    pub idx: u64,
    /// In or out: its value.
    pub val: u64,
}

/// A command of [`ResourceEntry`]: read an MSR.
pub const XEN_RESOURCE_OP_MSR_READ: u32 = 0;
/// A command of [`ResourceEntry`]: write an MSR.
pub const XEN_RESOURCE_OP_MSR_WRITE: u32 = 1;

/// `xenpf_symdata`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SymData {
    /// In and out: room for, then length of the name.
    pub namelen: u32,
    /// In and out: which symbol, then the next.
    pub symnum: u32,
    /// Handle of the name.
    pub name: u64,
    /// Out.
    pub address: u64,
    /// Out: as `nm` prints it.
    pub kind: u8,
    /// Ignored.
    pub _pad: [u8; 7],
}

const _: () = {
    assert!(size_of::<PlatformOp>() == 136);
    assert!(size_of::<SetTime32>() == 16);
    assert!(size_of::<SetTime64>() == 24);
    assert!(size_of::<FirmwareInfo>() == 40);
    assert!(size_of::<EnterAcpiSleep>() == 12);
    assert!(size_of::<GetIdleTime>() == 32);
    assert!(size_of::<SetProcessorPminfo>() == 112);
    assert!(size_of::<PowerRegister>() == 24);
    assert!(size_of::<ProcessorCsd>() == 12);
    assert!(size_of::<ProcessorCx>() == 48);
    assert!(size_of::<ProcessorPower>() == 16);
    assert!(size_of::<PctRegister>() == 16);
    assert!(size_of::<ProcessorPx>() == 48);
    assert!(size_of::<PsdPackage>() == 40);
    assert!(size_of::<ProcessorPerformance>() == 104);
    assert!(size_of::<PcpuInfo>() == 20);
    assert!(size_of::<PcpuVersion>() == 32);
    assert!(size_of::<CpuOl>() == 4);
    assert!(size_of::<ResourceOp>() == 16);
    assert!(size_of::<ResourceEntry>() == 24);
    assert!(size_of::<SymData>() == 32);
};
