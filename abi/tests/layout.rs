//! Compares sizes, offsets and numbers with Xen's public headers: a small C program says what the headers say.
//!
//! The headers are those of Debian's package libxen-dev, in `/usr/include` or in the directory that the environment
//! variable `RADON_XEN_HEADERS` names (the one that holds `xen/xen.h`). Without them or without `gcc` the comparison is
//! skipped, and says so.

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use radon_abi::errno::Errno;
use radon_abi::{
    event_channel as ev, features as feat, grant_table as gnt, hvm, hypercall as hc, memory as mem, physdev as pd,
    platform as pf, sched, vcpu, version as ver, xen,
};

const HEADERS: &[&str] = &[
    "errno.h",
    "xen.h",
    "event_channel.h",
    "features.h",
    "grant_table.h",
    "memory.h",
    "physdev.h",
    "platform.h",
    "sched.h",
    "vcpu.h",
    "version.h",
    "hvm/hvm_op.h",
    "hvm/params.h",
    "hvm/hvm_vcpu.h",
    "hvm/e820.h",
    "hvm/save.h",
    "domctl.h",
    "sysctl.h",
    "hypfs.h",
    "trace.h",
];

/// What is compared: a C expression and the value it has here.
type Facts = BTreeMap<String, i128>;

/// Adds a structure's size and its fields' offsets. A field that has another name in C is `ours = "theirs"`.
macro_rules! structure {
    ($facts:ident, $c:literal, $rust:ty { $($field:ident $(= $name:literal)?),* $(,)? }) => {
        $facts.insert(format!("sizeof({})", $c), size_of::<$rust>() as i128);
        $(
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($field);
            $(name = $name;)?
            $facts.insert(format!("offsetof({}, {name})", $c), core::mem::offset_of!($rust, $field) as i128);
        )*
    };
}

/// Adds constants: our module's, whose name in C is the given prefix and the name as it is here, or given.
macro_rules! constants {
    ($facts:ident, $module:ident { $($name:ident $(= $c:literal)?),* $(,)? }) => {
        $(
            #[allow(unused_mut, unused_assignments)]
            let mut name = stringify!($name);
            $(name = $c;)?
            $facts.insert(name.to_string(), i128::try_from($module::$name).expect("it fits"));
        )*
    };
}

#[path = "layout/control.rs"]
mod control;

fn xen_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct vcpu_time_info",
        xen::VcpuTimeInfo { version, pad0, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags, pad1 }
    );
    structure!(facts, "struct arch_vcpu_info", xen::ArchVcpuInfo { cr2, pad });
    structure!(
        facts,
        "struct vcpu_info",
        xen::VcpuInfo { evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time }
    );
    structure!(
        facts,
        "struct arch_shared_info",
        xen::ArchSharedInfo { max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation }
    );
    structure!(
        facts,
        "struct shared_info",
        xen::SharedInfo { vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch }
    );
    structure!(facts, "struct multicall_entry", xen::MulticallEntry { op, result, args });
    constants!(facts, xen {
        DOMID_FIRST_RESERVED, DOMID_SELF, DOMID_IO, DOMID_XEN, DOMID_COW, DOMID_INVALID, DOMID_IDLE,
        VIRQ_TIMER, VIRQ_DEBUG, VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TBUF, VIRQ_DEBUGGER, VIRQ_XENOPROF, VIRQ_CON_RING,
        VIRQ_PCPU_STATE, VIRQ_MEM_EVENT, VIRQ_ARGO, VIRQ_ENOMEM, VIRQ_XENPMU, VIRQ_ARCH_0, NR_VIRQS,
        CONSOLEIO_WRITE = "CONSOLEIO_write", CONSOLEIO_READ = "CONSOLEIO_read",
        VMASST_CMD_ENABLE = "VMASST_CMD_enable", VMASST_CMD_DISABLE = "VMASST_CMD_disable",
        VMASST_TYPE_RUNSTATE_UPDATE_FLAG = "VMASST_TYPE_runstate_update_flag",
        LEGACY_MAX_VCPUS = "XEN_LEGACY_MAX_VCPUS", XEN_PVCLOCK_TSC_STABLE_BIT, XEN_PVCLOCK_GUEST_STOPPED,
    });
    for number in 0..hc::LIMIT as u32 {
        if let Some(name) = hc::name(number) {
            facts.insert(format!("__HYPERVISOR_{name}"), i128::from(number));
        }
    }
}

fn event_channel_h(facts: &mut Facts) {
    structure!(facts, "struct evtchn_alloc_unbound", ev::AllocUnbound { dom, remote_dom, port });
    structure!(facts, "struct evtchn_bind_interdomain", ev::BindInterdomain { remote_dom, remote_port, local_port });
    structure!(facts, "struct evtchn_bind_virq", ev::BindVirq { virq, vcpu, port });
    structure!(facts, "struct evtchn_bind_pirq", ev::BindPirq { pirq, flags, port });
    structure!(facts, "struct evtchn_bind_ipi", ev::BindIpi { vcpu, port });
    structure!(facts, "struct evtchn_close", ev::OnePort { port });
    structure!(facts, "struct evtchn_send", ev::OnePort { port });
    structure!(facts, "struct evtchn_unmask", ev::OnePort { port });
    structure!(facts, "struct evtchn_status", ev::Status {
        dom, port, status, vcpu, peer = "u.unbound.dom", peer_port = "u.interdomain.port",
    });
    structure!(facts, "struct evtchn_bind_vcpu", ev::BindVcpu { port, vcpu });
    structure!(facts, "struct evtchn_reset", ev::Reset { dom });
    structure!(facts, "struct evtchn_init_control", ev::InitControl { control_gfn, offset, vcpu, link_bits });
    structure!(facts, "struct evtchn_expand_array", ev::ExpandArray { array_gfn });
    structure!(facts, "struct evtchn_set_priority", ev::SetPriority { port, priority });
    structure!(facts, "struct evtchn_fifo_control_block", ev::FifoControlBlock { ready, head });
    constants!(facts, ev {
        EVTCHNOP_BIND_INTERDOMAIN = "EVTCHNOP_bind_interdomain", EVTCHNOP_BIND_VIRQ = "EVTCHNOP_bind_virq",
        EVTCHNOP_BIND_PIRQ = "EVTCHNOP_bind_pirq", EVTCHNOP_CLOSE = "EVTCHNOP_close", EVTCHNOP_SEND = "EVTCHNOP_send",
        EVTCHNOP_STATUS = "EVTCHNOP_status", EVTCHNOP_ALLOC_UNBOUND = "EVTCHNOP_alloc_unbound",
        EVTCHNOP_BIND_IPI = "EVTCHNOP_bind_ipi", EVTCHNOP_BIND_VCPU = "EVTCHNOP_bind_vcpu",
        EVTCHNOP_UNMASK = "EVTCHNOP_unmask", EVTCHNOP_RESET = "EVTCHNOP_reset",
        EVTCHNOP_INIT_CONTROL = "EVTCHNOP_init_control", EVTCHNOP_EXPAND_ARRAY = "EVTCHNOP_expand_array",
        EVTCHNOP_SET_PRIORITY = "EVTCHNOP_set_priority",
        EVTCHNSTAT_CLOSED = "EVTCHNSTAT_closed", EVTCHNSTAT_UNBOUND = "EVTCHNSTAT_unbound",
        EVTCHNSTAT_INTERDOMAIN = "EVTCHNSTAT_interdomain", EVTCHNSTAT_PIRQ = "EVTCHNSTAT_pirq",
        EVTCHNSTAT_VIRQ = "EVTCHNSTAT_virq", EVTCHNSTAT_IPI = "EVTCHNSTAT_ipi",
        EVTCHN_2L_NR_CHANNELS, EVTCHN_FIFO_PRIORITY_MAX, EVTCHN_FIFO_PRIORITY_DEFAULT, EVTCHN_FIFO_PRIORITY_MIN,
        EVTCHN_FIFO_MAX_QUEUES, EVTCHN_FIFO_PENDING = "(1u << EVTCHN_FIFO_PENDING)",
        EVTCHN_FIFO_MASKED = "(1u << EVTCHN_FIFO_MASKED)", EVTCHN_FIFO_LINKED = "(1u << EVTCHN_FIFO_LINKED)",
        EVTCHN_FIFO_BUSY = "(1u << EVTCHN_FIFO_BUSY)", EVTCHN_FIFO_LINK_BITS, EVTCHN_FIFO_LINK_MASK,
        EVTCHN_FIFO_NR_CHANNELS,
    });
}

fn version_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct xen_compile_info",
        ver::CompileInfo { compiler, compile_by, compile_domain, compile_date }
    );
    structure!(facts, "struct xen_platform_parameters", ver::PlatformParameters { virt_start });
    structure!(facts, "struct xen_feature_info", ver::FeatureInfo { submap_idx, submap });
    structure!(facts, "struct xen_build_id", ver::BuildId { len });
    structure!(facts, "xen_extraversion_t", ver::ExtraVersion {});
    structure!(facts, "xen_capabilities_info_t", ver::Capabilities {});
    structure!(facts, "xen_changeset_info_t", ver::Changeset {});
    structure!(facts, "xen_commandline_t", ver::CommandLine {});
    structure!(facts, "xen_domain_handle_t", ver::DomainHandle {});
    constants!(facts, ver {
        XENVER_VERSION = "XENVER_version", XENVER_EXTRAVERSION = "XENVER_extraversion",
        XENVER_COMPILE_INFO = "XENVER_compile_info", XENVER_CAPABILITIES = "XENVER_capabilities",
        XENVER_CHANGESET = "XENVER_changeset", XENVER_PLATFORM_PARAMETERS = "XENVER_platform_parameters",
        XENVER_GET_FEATURES = "XENVER_get_features", XENVER_PAGESIZE = "XENVER_pagesize",
        XENVER_GUEST_HANDLE = "XENVER_guest_handle", XENVER_COMMANDLINE = "XENVER_commandline",
        XENVER_BUILD_ID = "XENVER_build_id", HYPERVISOR_VIRT_START,
    });
    constants!(facts, feat {
        XENFEAT_WRITABLE_PAGE_TABLES = "XENFEAT_writable_page_tables",
        XENFEAT_WRITABLE_DESCRIPTOR_TABLES = "XENFEAT_writable_descriptor_tables",
        XENFEAT_AUTO_TRANSLATED_PHYSMAP = "XENFEAT_auto_translated_physmap",
        XENFEAT_SUPERVISOR_MODE_KERNEL = "XENFEAT_supervisor_mode_kernel",
        XENFEAT_PAE_PGDIR_ABOVE_4GB = "XENFEAT_pae_pgdir_above_4gb",
        XENFEAT_MMU_PT_UPDATE_PRESERVE_AD = "XENFEAT_mmu_pt_update_preserve_ad",
        XENFEAT_HIGHMEM_ASSIST = "XENFEAT_highmem_assist",
        XENFEAT_GNTTAB_MAP_AVAIL_BITS = "XENFEAT_gnttab_map_avail_bits",
        XENFEAT_HVM_CALLBACK_VECTOR = "XENFEAT_hvm_callback_vector",
        XENFEAT_HVM_SAFE_PVCLOCK = "XENFEAT_hvm_safe_pvclock", XENFEAT_HVM_PIRQS = "XENFEAT_hvm_pirqs",
        XENFEAT_DOM0 = "XENFEAT_dom0", XENFEAT_MEMORY_OP_VNODE_SUPPORTED = "XENFEAT_memory_op_vnode_supported",
        XENFEAT_ARM_SMCCC_SUPPORTED = "XENFEAT_ARM_SMCCC_supported",
        XENFEAT_LINUX_RSDP_UNRESTRICTED = "XENFEAT_linux_rsdp_unrestricted",
        XENFEAT_NOT_DIRECT_MAPPED = "XENFEAT_not_direct_mapped", XENFEAT_DIRECT_MAPPED = "XENFEAT_direct_mapped",
        XENFEAT_NR_SUBMAPS,
    });
}

fn hvm_h(facts: &mut Facts) {
    structure!(facts, "struct xen_hvm_param", hvm::HvmParam { domid, index, value });
    structure!(facts, "struct xen_hvm_get_time", hvm::HvmGetTime { now });
    structure!(facts, "struct xen_hvm_xentrace", hvm::HvmXentrace { event, extra_bytes, extra });
    structure!(facts, "struct xen_hvm_pagetable_dying", hvm::HvmPagetableDying { domid, gpa });
    structure!(facts, "struct xen_hvm_get_mem_type", hvm::HvmGetMemType { domid, mem_type, pfn });
    structure!(facts, "struct xen_hvm_evtchn_upcall_vector", hvm::HvmEvtchnUpcallVector { vcpu, vector });
    constants!(facts, hvm {
        HVMOP_SET_PARAM = "HVMOP_set_param", HVMOP_GET_PARAM = "HVMOP_get_param", HVMOP_FLUSH_TLBS = "HVMOP_flush_tlbs",
        HVMOP_PAGETABLE_DYING = "HVMOP_pagetable_dying", HVMOP_GET_TIME = "HVMOP_get_time",
        HVMOP_XENTRACE = "HVMOP_xentrace", HVMOP_SET_MEM_ACCESS = "HVMOP_set_mem_access",
        HVMOP_GET_MEM_ACCESS = "HVMOP_get_mem_access", HVMOP_GET_MEM_TYPE = "HVMOP_get_mem_type",
        HVMOP_SET_EVTCHN_UPCALL_VECTOR = "HVMOP_set_evtchn_upcall_vector",
        HVMOP_GUEST_REQUEST_VM_EVENT = "HVMOP_guest_request_vm_event", HVMOP_ALTP2M = "HVMOP_altp2m",
        HVMMEM_RAM_RW = "HVMMEM_ram_rw", HVMMEM_RAM_RO = "HVMMEM_ram_ro", HVMMEM_MMIO_DM = "HVMMEM_mmio_dm",
        HVM_PARAM_CALLBACK_IRQ, HVM_PARAM_CALLBACK_TYPE_GSI, HVM_PARAM_CALLBACK_TYPE_PCI_INTX,
        HVM_PARAM_CALLBACK_TYPE_VECTOR, HVM_PARAM_STORE_PFN, HVM_PARAM_STORE_EVTCHN, HVM_PARAM_PAE_ENABLED,
        HVM_PARAM_IOREQ_PFN, HVM_PARAM_BUFIOREQ_PFN, HVM_PARAM_VIRIDIAN, HVM_PARAM_TIMER_MODE, HVM_PARAM_HPET_ENABLED,
        HVM_PARAM_IDENT_PT, HVM_PARAM_DM_DOMAIN, HVM_PARAM_ACPI_S_STATE, HVM_PARAM_VM86_TSS, HVM_PARAM_VPT_ALIGN,
        HVM_PARAM_CONSOLE_PFN, HVM_PARAM_CONSOLE_EVTCHN, HVM_PARAM_ACPI_IOPORTS_LOCATION, HVM_PARAM_MEMORY_EVENT_CR0,
        HVM_PARAM_MEMORY_EVENT_CR3, HVM_PARAM_MEMORY_EVENT_CR4, HVM_PARAM_MEMORY_EVENT_INT3, HVM_PARAM_NESTEDHVM,
        HVM_PARAM_MEMORY_EVENT_SINGLE_STEP, HVM_PARAM_BUFIOREQ_EVTCHN, HVM_PARAM_PAGING_RING_PFN,
        HVM_PARAM_MONITOR_RING_PFN, HVM_PARAM_SHARING_RING_PFN, HVM_PARAM_MEMORY_EVENT_MSR,
        HVM_PARAM_TRIPLE_FAULT_REASON, HVM_PARAM_IOREQ_SERVER_PFN, HVM_PARAM_NR_IOREQ_SERVER_PAGES,
        HVM_PARAM_VM_GENERATION_ID_ADDR, HVM_PARAM_ALTP2M, XEN_ALTP2M_LIMITED = "XEN_ALTP2M_limited",
        HVM_PARAM_X87_FIP_WIDTH, HVM_PARAM_VM86_TSS_SIZED, HVM_PARAM_MCA_CAP, XEN_HVM_MCA_CAP_MASK, HVM_NR_PARAMS,
        HVMPV_FEATURE_MASK = "HVMPV_feature_mask", HVMPV_BASE_FREQ = "HVMPV_base_freq",
    });
}

fn physdev_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct physdev_pci_mmcfg_reserved",
        pd::PciMmcfgReserved { address, segment, start_bus, end_bus, flags }
    );
    structure!(facts, "struct physdev_pci_device_add", pd::PciDeviceAdd {
        seg, bus, devfn, flags, physfn_bus = "physfn.bus", physfn_devfn = "physfn.devfn",
    });
    structure!(facts, "struct physdev_pci_device", pd::PciDevice { seg, bus, devfn });
    structure!(facts, "struct physdev_dbgp_op", pd::DbgpOp { op, bus, pci = "u.pci" });
    constants!(facts, pd {
        PHYSDEVOP_IRQ_STATUS_QUERY = "PHYSDEVOP_irq_status_query", PHYSDEVOP_SET_IOPL = "PHYSDEVOP_set_iopl",
        PHYSDEVOP_SET_IOBITMAP = "PHYSDEVOP_set_iobitmap", PHYSDEVOP_APIC_READ = "PHYSDEVOP_apic_read",
        PHYSDEVOP_APIC_WRITE = "PHYSDEVOP_apic_write", PHYSDEVOP_ALLOC_IRQ_VECTOR = "PHYSDEVOP_alloc_irq_vector",
        PHYSDEVOP_EOI = "PHYSDEVOP_eoi", PHYSDEVOP_MAP_PIRQ = "PHYSDEVOP_map_pirq",
        PHYSDEVOP_UNMAP_PIRQ = "PHYSDEVOP_unmap_pirq", PHYSDEVOP_MANAGE_PCI_ADD = "PHYSDEVOP_manage_pci_add",
        PHYSDEVOP_MANAGE_PCI_REMOVE = "PHYSDEVOP_manage_pci_remove", PHYSDEVOP_PIRQ_EOI_GMFN_V1 =
        "PHYSDEVOP_pirq_eoi_gmfn_v1", PHYSDEVOP_RESTORE_MSI = "PHYSDEVOP_restore_msi",
        PHYSDEVOP_MANAGE_PCI_ADD_EXT = "PHYSDEVOP_manage_pci_add_ext", PHYSDEVOP_SETUP_GSI = "PHYSDEVOP_setup_gsi",
        PHYSDEVOP_GET_FREE_PIRQ = "PHYSDEVOP_get_free_pirq",
        PHYSDEVOP_PCI_MMCFG_RESERVED = "PHYSDEVOP_pci_mmcfg_reserved",
        PHYSDEVOP_PCI_DEVICE_ADD = "PHYSDEVOP_pci_device_add",
        PHYSDEVOP_PCI_DEVICE_REMOVE = "PHYSDEVOP_pci_device_remove",
        PHYSDEVOP_RESTORE_MSI_EXT = "PHYSDEVOP_restore_msi_ext",
        PHYSDEVOP_PIRQ_EOI_GMFN_V2 = "PHYSDEVOP_pirq_eoi_gmfn_v2", PHYSDEVOP_DBGP_OP = "PHYSDEVOP_dbgp_op",
        PHYSDEVOP_PREPARE_MSIX = "PHYSDEVOP_prepare_msix", PHYSDEVOP_RELEASE_MSIX = "PHYSDEVOP_release_msix",
        XEN_PCI_MMCFG_RESERVED, XEN_PCI_DEV_EXTFN, XEN_PCI_DEV_VIRTFN, XEN_PCI_DEV_PXM,
        PHYSDEVOP_DBGP_RESET_PREPARE, PHYSDEVOP_DBGP_RESET_DONE,
    });
}

fn platform_h(facts: &mut Facts) {
    structure!(facts, "struct xen_platform_op", pf::PlatformOp { cmd, interface_version, u });
    structure!(facts, "struct xenpf_settime32", pf::SetTime32 { secs, nsecs, system_time });
    structure!(facts, "struct xenpf_settime64", pf::SetTime64 { secs, nsecs, mbz, system_time });
    structure!(facts, "struct xenpf_firmware_info", pf::FirmwareInfo { kind = "type", index, u });
    structure!(facts, "struct xenpf_enter_acpi_sleep", pf::EnterAcpiSleep { val_a, val_b, sleep_state, flags });
    structure!(facts, "struct xenpf_getidletime", pf::GetIdleTime { cpumap_bitmap, cpumap_nr_cpus, idletime, now });
    structure!(facts, "struct xenpf_set_processor_pminfo", pf::SetProcessorPminfo { id, kind = "type", u });
    structure!(
        facts,
        "struct xen_power_register",
        pf::PowerRegister { space_id, bit_width, bit_offset, access_size, address }
    );
    structure!(facts, "struct xen_processor_csd", pf::ProcessorCsd { domain, coord_type, num });
    structure!(facts, "struct xen_processor_cx", pf::ProcessorCx { reg, kind = "type", latency, power, dpcnt, dp });
    structure!(facts, "struct xen_processor_power", pf::ProcessorPower { count, flags, states });
    structure!(
        facts,
        "struct xen_pct_register",
        pf::PctRegister { descriptor, length, space_id, bit_width, bit_offset, reserved, address }
    );
    structure!(
        facts,
        "struct xen_processor_px",
        pf::ProcessorPx { core_frequency, power, transition_latency, bus_master_latency, control, status }
    );
    structure!(
        facts,
        "struct xen_psd_package",
        pf::PsdPackage { num_entries, revision, domain, coord_type, num_processors }
    );
    structure!(
        facts,
        "struct xen_processor_performance",
        pf::ProcessorPerformance {
            flags,
            platform_limit,
            control_register,
            status_register,
            state_count,
            states,
            domain_info,
            shared_type,
        }
    );
    structure!(facts, "struct xenpf_pcpuinfo", pf::PcpuInfo { xen_cpuid, max_present, flags, apic_id, acpi_id });
    structure!(
        facts,
        "struct xenpf_pcpu_version",
        pf::PcpuVersion { xen_cpuid, max_present, vendor_id, family, model, stepping }
    );
    structure!(facts, "struct xenpf_cpu_ol", pf::CpuOl { cpuid });
    structure!(facts, "struct xenpf_resource_op", pf::ResourceOp { nr_entries, cpu, entries });
    structure!(facts, "struct xenpf_resource_entry", pf::ResourceEntry { cmd = "u.cmd", rsvd, idx, val });
    structure!(facts, "struct xenpf_symdata", pf::SymData { namelen, symnum, name, address, kind = "type" });
    constants!(facts, pf {
        XENPF_INTERFACE_VERSION, XENPF_SETTIME32 = "XENPF_settime32", XENPF_ADD_MEMTYPE = "XENPF_add_memtype",
        XENPF_DEL_MEMTYPE = "XENPF_del_memtype", XENPF_READ_MEMTYPE = "XENPF_read_memtype",
        XENPF_MICROCODE_UPDATE = "XENPF_microcode_update", XENPF_PLATFORM_QUIRK = "XENPF_platform_quirk",
        XENPF_GET_CPU_VERSION = "XENPF_get_cpu_version", XENPF_EFI_RUNTIME_CALL = "XENPF_efi_runtime_call",
        XENPF_FIRMWARE_INFO = "XENPF_firmware_info", XENPF_ENTER_ACPI_SLEEP = "XENPF_enter_acpi_sleep",
        XENPF_CHANGE_FREQ = "XENPF_change_freq", XENPF_GETIDLETIME = "XENPF_getidletime",
        XENPF_SET_PROCESSOR_PMINFO = "XENPF_set_processor_pminfo", XENPF_GET_CPUINFO = "XENPF_get_cpuinfo",
        XENPF_CPU_ONLINE = "XENPF_cpu_online", XENPF_CPU_OFFLINE = "XENPF_cpu_offline",
        XENPF_CPU_HOTADD = "XENPF_cpu_hotadd", XENPF_MEM_HOTADD = "XENPF_mem_hotadd",
        XENPF_CORE_PARKING = "XENPF_core_parking", XENPF_RESOURCE_OP = "XENPF_resource_op",
        XENPF_SETTIME64 = "XENPF_settime64", XENPF_GET_SYMBOL = "XENPF_get_symbol",
        XEN_FW_DISK_INFO, XEN_FW_DISK_MBR_SIGNATURE, XEN_FW_VBEDDC_INFO, XEN_FW_EFI_INFO, XEN_FW_KBD_SHIFT_FLAGS,
        XENPF_ACPI_SLEEP_EXTENDED, XEN_PM_CX, XEN_PM_PX, XEN_PM_TX, XEN_PM_PDC, XEN_PX_PCT, XEN_PX_PSS, XEN_PX_PPC,
        XEN_CPUPERF_SHARED_TYPE_HW, XEN_CPUPERF_SHARED_TYPE_ALL, XEN_CPUPERF_SHARED_TYPE_ANY,
        XEN_RESOURCE_OP_MSR_READ, XEN_RESOURCE_OP_MSR_WRITE, XEN_PX_PSD, XEN_PCPU_FLAGS_ONLINE, XEN_PCPU_FLAGS_INVALID,
    });
}

fn sched_and_vcpu_h(facts: &mut Facts) {
    structure!(facts, "struct sched_shutdown", sched::Shutdown { reason });
    structure!(facts, "struct sched_poll", sched::Poll { ports, nr_ports, timeout });
    structure!(facts, "struct sched_remote_shutdown", sched::RemoteShutdown { domain_id, reason });
    structure!(facts, "struct sched_watchdog", sched::Watchdog { id, timeout });
    structure!(facts, "struct sched_pin_override", sched::PinOverride { pcpu });
    structure!(facts, "struct vcpu_runstate_info", vcpu::RunstateInfo { state, state_entry_time, time });
    structure!(facts, "struct vcpu_register_runstate_memory_area", vcpu::RegisterArea { addr });
    structure!(facts, "struct vcpu_register_time_memory_area", vcpu::RegisterArea { addr });
    structure!(facts, "struct vcpu_set_periodic_timer", vcpu::SetPeriodicTimer { period_ns });
    structure!(facts, "struct vcpu_set_singleshot_timer", vcpu::SetSingleshotTimer { timeout_abs_ns, flags });
    structure!(facts, "struct vcpu_register_vcpu_info", vcpu::RegisterVcpuInfo { mfn, offset, rsvd });
    structure!(facts, "struct vcpu_get_physid", vcpu::GetPhysid { phys_id });
    structure!(
        facts,
        "struct vcpu_hvm_x86_32",
        vcpu::HvmContext32 {
            eax,
            ecx,
            edx,
            ebx,
            esp,
            ebp,
            esi,
            edi,
            eip,
            eflags,
            cr0,
            cr3,
            cr4,
            efer,
            cs_base,
            ds_base,
            ss_base,
            es_base,
            tr_base,
            cs_limit,
            ds_limit,
            ss_limit,
            es_limit,
            tr_limit,
            cs_ar,
            ds_ar,
            ss_ar,
            es_ar,
            tr_ar,
        }
    );
    structure!(
        facts,
        "struct vcpu_hvm_x86_64",
        vcpu::HvmContext64 { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags, cr0, cr3, cr4, efer }
    );
    structure!(facts, "struct vcpu_hvm_context", vcpu::HvmContext { mode, regs = "cpu_regs" });
}

fn memory_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct xen_memory_reservation",
        mem::MemoryReservation { extent_start, nr_extents, extent_order, mem_flags, domid }
    );
    structure!(facts, "struct xen_memory_domain", mem::MemoryDomain { domid });
    structure!(facts, "struct xen_add_to_physmap", mem::AddToPhysmap { domid, size, space, idx, gpfn });
    structure!(facts, "struct xen_add_to_physmap_batch", mem::AddToPhysmapBatch {
        domid, space, size, foreign_domid = "u.foreign_domid", idxs, gpfns, errs,
    });
    structure!(facts, "struct xen_remove_from_physmap", mem::RemoveFromPhysmap { domid, gpfn });
    structure!(facts, "struct xen_memory_map", mem::MemoryMap { nr_entries, buffer });
    structure!(facts, "struct xen_foreign_memory_map", mem::ForeignMemoryMap { domid, map });
    structure!(
        facts,
        "struct xen_pod_target",
        mem::PodTarget { target_pages, tot_pages, pod_cache_pages, pod_entries, domid }
    );
    structure!(facts, "struct xen_reserved_device_memory_map", mem::ReservedDeviceMemoryMap {
        flags, nr_entries, buffer, pci = "dev.pci",
    });
    structure!(facts, "struct xen_mem_acquire_resource", mem::AcquireResource {
        domid, kind = "type", id, nr_frames, frame, frame_list,
    });
}

fn grant_table_h(facts: &mut Facts) {
    structure!(facts, "struct gnttab_map_grant_ref", gnt::MapGrantRef {
        host_addr, flags, gref = "ref", dom, status, handle, dev_bus_addr,
    });
    structure!(facts, "struct gnttab_unmap_grant_ref", gnt::UnmapGrantRef { host_addr, dev_bus_addr, handle, status });
    structure!(facts, "struct gnttab_setup_table", gnt::SetupTable { dom, nr_frames, status, frame_list });
    structure!(facts, "struct gnttab_copy_ptr", gnt::CopyPtr { frame = "u", domid, offset });
    structure!(facts, "struct gnttab_copy", gnt::GrantCopy { source, dest, len, flags, status });
    structure!(facts, "struct gnttab_query_size", gnt::QuerySize { dom, nr_frames, max_nr_frames, status });
    structure!(facts, "struct gnttab_set_version", gnt::SetVersion { version });
    structure!(facts, "struct gnttab_get_version", gnt::GetVersion { dom, version });
    structure!(facts, "struct gnttab_swap_grant_ref", gnt::SwapGrantRef { ref_a, ref_b, status });
}

/// All error numbers but those that the headers keep to themselves (`EINTR`, `ERESTART`, `EUSERS`).
fn errno_h(facts: &mut Facts) {
    macro_rules! errnos {
        ($($name:ident)*) => {
            $(facts.insert(concat!("XEN_", stringify!($name)).to_string(), i128::from(Errno::$name.number()));)*
        };
    }
    errnos! {
        EPERM ENOENT ESRCH EIO ENXIO E2BIG ENOEXEC EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST EXDEV ENODEV EISDIR EINVAL ENFILE ENOSPC EROFS EMLINK EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY ENODATA ETIME EBADMSG EOVERFLOW EILSEQ EOPNOTSUPP EADDRINUSE EADDRNOTAVAIL ENOBUFS EISCONN ENOTCONN ETIMEDOUT ECONNREFUSED
    }
}

/// The directory that holds `xen/xen.h`.
fn headers() -> Option<PathBuf> {
    let dir = std::env::var_os("RADON_XEN_HEADERS").map_or_else(|| PathBuf::from("/usr/include"), PathBuf::from);
    dir.join("xen/xen.h").exists().then_some(dir)
}

/// Compiles and runs a program that prints each expression's value, in order.
fn ask_c(include: &Path, expressions: &[&String]) -> Vec<i128> {
    let mut source = String::from(
        "#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n\
         #define __XEN_TOOLS__\n#define __XEN_INTERFACE_VERSION__ 0x00041100\n",
    );
    for header in HEADERS {
        source.push_str(&format!("#include <xen/{header}>\n"));
    }
    source.push_str("int main(void) {\n");
    for expression in expressions {
        source.push_str(&format!("  printf(\"%lld\\n\", (long long)({expression}));\n"));
    }
    source.push_str("  return 0;\n}\n");

    let program = std::env::temp_dir().join(format!("radon-abi-layout-{}", std::process::id()));
    let mut gcc = Command::new("gcc")
        .args(["-x", "c", "-", "-o"])
        .arg(&program)
        .arg("-isystem")
        .arg(include)
        .stdin(Stdio::piped())
        .spawn()
        .expect("gcc was found before");
    gcc.stdin.take().expect("it is piped").write_all(source.as_bytes()).expect("gcc reads its input");
    assert!(gcc.wait().expect("gcc ends").success(), "gcc refused the program");
    let output = Command::new(&program).output();
    std::fs::remove_file(&program).expect("the program was made");
    let output = output.expect("the program runs");
    let text = String::from_utf8(output.stdout).expect("numbers");
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn layouts_and_numbers_are_those_of_the_headers() {
    let gcc = Command::new("gcc").arg("--version").output().is_ok_and(|o| o.status.success());
    let Some(include) = headers().filter(|_| gcc) else {
        // Not through the captured output of a test: who runs the tests has to see it.
        let _ = writeln!(
            std::io::stderr(),
            "\n*** SKIPPED: comparison of the ABI with C, for want of gcc or of Xen's headers (libxen-dev) ***\n"
        );
        return;
    };
    let mut facts = Facts::new();
    for add in [
        xen_h,
        event_channel_h,
        version_h,
        hvm_h,
        physdev_h,
        platform_h,
        sched_and_vcpu_h,
        memory_h,
        grant_table_h,
        errno_h,
        control::sysctl_h,
        control::hypfs_h,
        control::trace_h,
        control::domctl_h,
        control::save_h,
        control::guest_context_h,
    ] {
        add(&mut facts);
    }
    let expressions: Vec<&String> = facts.keys().collect();
    let answers = ask_c(&include, &expressions);
    assert_eq!(answers.len(), facts.len());
    let wrong: Vec<String> = facts
        .iter()
        .zip(answers)
        .filter(|((_, here), c)| **here as i64 != *c as i64)
        .map(|((expression, here), c)| format!("{expression} is {c} in C and {here} here"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
