//! `domctl.h`, `sysctl.h`, `hypfs.h`, `trace.h`, `hvm/save.h` and `vcpu_guest_context`.

use radon_abi::{domctl, guest_context, hypfs, save, sysctl, trace};

use super::Facts;

pub(super) fn sysctl_h(facts: &mut Facts) {
    structure!(facts, "struct xen_sysctl_readconsole", sysctl::ReadConsole { clear, incremental, pad = "pad0", index, buffer, count });
    structure!(
        facts,
        "struct xen_sysctl_physinfo",
        sysctl::PhysInfo {
            threads_per_core,
            cores_per_socket,
            nr_cpus,
            max_cpu_id,
            nr_nodes,
            max_node_id,
            cpu_khz,
            capabilities,
            arch_capabilities,
            pad,
            total_pages,
            free_pages,
            scrub_pages,
            outstanding_pages,
            max_mfn,
            hw_cap
        }
    );
    structure!(facts, "struct xen_sysctl_sched_id", sysctl::SchedId { sched_id });
    structure!(
        facts,
        "struct xen_sysctl_getdomaininfolist",
        sysctl::GetDomainInfoList { first_domain, max_domains, buffer, num_domains }
    );
    structure!(facts, "struct xen_sysctl_debug_keys", sysctl::DebugKeys { keys, nr_keys });
    structure!(facts, "struct xen_sysctl_cpuinfo", sysctl::CpuInfo { idletime });
    structure!(facts, "struct xen_sysctl_getcpuinfo", sysctl::GetCpuInfo { max_cpus, info, nr_cpus });
    structure!(
        facts,
        "struct xen_sysctl_availheap",
        sysctl::AvailHeap { min_bitwidth, max_bitwidth, node, avail_bytes }
    );
    structure!(facts, "struct xen_sysctl_cputopo", sysctl::CpuTopo { core, socket, node });
    structure!(facts, "struct xen_sysctl_cputopoinfo", sysctl::CpuTopoInfo { num_cpus, cputopo });
    structure!(facts, "struct xen_sysctl_pcitopoinfo", sysctl::PciTopoInfo { num_devs, devs, nodes });
    structure!(facts, "struct xen_sysctl_tbuf_op", sysctl::TbufOp { cmd, cpu_mask, evt_mask, buffer_mfn, size });
    structure!(facts, "struct xen_sysctl_cpu_hotplug", sysctl::CpuHotplug { cpu, op });
    structure!(facts, "struct xen_sysctl_page_offline_op", sysctl::PageOfflineOp { cmd, start, end, status });
    structure!(facts, "struct xen_sysctl_meminfo", sysctl::MemInfo { memsize, memfree });
    structure!(facts, "struct xen_sysctl_numainfo", sysctl::NumaInfo { num_nodes, meminfo, distance });
    structure!(
        facts,
        "struct xen_sysctl_cpupool_op",
        sysctl::CpupoolOp { op, cpupool_id, sched_id, domid, cpu, n_dom, cpumap }
    );
    structure!(facts, "struct xen_sysctl_cpu_levelling_caps", sysctl::CpuLevellingCaps { caps });
    structure!(facts, "struct xen_sysctl_cpu_featureset", sysctl::CpuFeatureset { index, nr_features, features });
    structure!(facts, "struct xen_sysctl_cpu_policy", sysctl::CpuPolicy { index, nr_leaves, nr_msrs, rsvd = "_rsvd", leaves, msrs });
    let (size, payload) = (size_of::<sysctl::Sysctl>(), core::mem::offset_of!(sysctl::Sysctl, payload));
    facts.insert("sizeof(struct xen_sysctl)".into(), size as i128);
    facts.insert("offsetof(struct xen_sysctl, u)".into(), payload as i128);
    // The union's parts of which only one is described.
    let scheduler = "struct xen_sysctl_scheduler_op, u.sched_credit2.ratelimit_us";
    let ratelimit = core::mem::offset_of!(sysctl::SchedulerOp, ratelimit_us);
    facts.insert(format!("offsetof({scheduler})"), ratelimit as i128);
    facts.insert("offsetof(struct xen_sysctl_get_pmstat, cpuid)".into(), 4);
    facts.insert("offsetof(struct xen_sysctl_pm_op, cpuid)".into(), 4);
    let max = core::mem::offset_of!(sysctl::MaxCstate, max);
    facts.insert("offsetof(struct xen_sysctl_pm_op, u.get_max_cstate)".into(), max as i128);
    macro_rules! idle {
        ($($field:ident),*) => {$(
            let at = core::mem::offset_of!(sysctl::GetCxStat, $field);
            let name = concat!("offsetof(struct xen_sysctl_get_pmstat, u.getcx.", stringify!($field), ")");
            facts.insert(name.into(), at as i128);
        )*};
    }
    idle!(nr, last, idle_time, triggers, residencies, nr_pc, nr_cc, pc, cc);
    constants!(facts, sysctl {
        XEN_SYSCTL_INTERFACE_VERSION,
        XEN_SYSCTL_READCONSOLE = "XEN_SYSCTL_readconsole",
        XEN_SYSCTL_TBUF_OP = "XEN_SYSCTL_tbuf_op",
        XEN_SYSCTL_PHYSINFO = "XEN_SYSCTL_physinfo",
        XEN_SYSCTL_SCHED_ID = "XEN_SYSCTL_sched_id",
        XEN_SYSCTL_PERFC_OP = "XEN_SYSCTL_perfc_op",
        XEN_SYSCTL_GETDOMAININFOLIST = "XEN_SYSCTL_getdomaininfolist",
        XEN_SYSCTL_DEBUG_KEYS = "XEN_SYSCTL_debug_keys",
        XEN_SYSCTL_GETCPUINFO = "XEN_SYSCTL_getcpuinfo",
        XEN_SYSCTL_AVAILHEAP = "XEN_SYSCTL_availheap",
        XEN_SYSCTL_GET_PMSTAT = "XEN_SYSCTL_get_pmstat",
        XEN_SYSCTL_CPU_HOTPLUG = "XEN_SYSCTL_cpu_hotplug",
        XEN_SYSCTL_PM_OP = "XEN_SYSCTL_pm_op",
        XEN_SYSCTL_PAGE_OFFLINE_OP = "XEN_SYSCTL_page_offline_op",
        XEN_SYSCTL_LOCKPROF_OP = "XEN_SYSCTL_lockprof_op",
        XEN_SYSCTL_CPUTOPOINFO = "XEN_SYSCTL_cputopoinfo",
        XEN_SYSCTL_NUMAINFO = "XEN_SYSCTL_numainfo",
        XEN_SYSCTL_CPUPOOL_OP = "XEN_SYSCTL_cpupool_op",
        XEN_SYSCTL_SCHEDULER_OP = "XEN_SYSCTL_scheduler_op",
        XEN_SYSCTL_COVERAGE_OP = "XEN_SYSCTL_coverage_op",
        XEN_SYSCTL_PSR_CMT_OP = "XEN_SYSCTL_psr_cmt_op",
        XEN_SYSCTL_PCITOPOINFO = "XEN_SYSCTL_pcitopoinfo",
        XEN_SYSCTL_PSR_ALLOC = "XEN_SYSCTL_psr_alloc",
        XEN_SYSCTL_GET_CPU_LEVELLING_CAPS = "XEN_SYSCTL_get_cpu_levelling_caps",
        XEN_SYSCTL_GET_CPU_FEATURESET = "XEN_SYSCTL_get_cpu_featureset",
        XEN_SYSCTL_LIVEPATCH_OP = "XEN_SYSCTL_livepatch_op",
        XEN_SYSCTL_GET_CPU_POLICY = "XEN_SYSCTL_get_cpu_policy",
        XEN_SYSCTL_CPU_HOTPLUG_ONLINE,
        XEN_SYSCTL_CPU_HOTPLUG_OFFLINE,
        XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE,
        XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE,
        SYSCTL_PAGE_OFFLINE = "sysctl_page_offline",
        SYSCTL_PAGE_ONLINE = "sysctl_page_online",
        SYSCTL_QUERY_PAGE_OFFLINE = "sysctl_query_page_offline",
        XEN_INVALID_NODE_ID,
        XEN_INVALID_DEV,
        XEN_SYSCTL_TBUFOP_GET_INFO = "XEN_SYSCTL_TBUFOP_get_info",
        XEN_SYSCTL_TBUFOP_SET_CPU_MASK = "XEN_SYSCTL_TBUFOP_set_cpu_mask",
        XEN_SYSCTL_TBUFOP_SET_EVT_MASK = "XEN_SYSCTL_TBUFOP_set_evt_mask",
        XEN_SYSCTL_TBUFOP_SET_SIZE = "XEN_SYSCTL_TBUFOP_set_size",
        XEN_SYSCTL_TBUFOP_ENABLE = "XEN_SYSCTL_TBUFOP_enable",
        XEN_SYSCTL_TBUFOP_DISABLE = "XEN_SYSCTL_TBUFOP_disable",
        XEN_SYSCTL_PHYSCAP_HVM = "XEN_SYSCTL_PHYSCAP_hvm",
        XEN_SYSCTL_PHYSCAP_PV = "XEN_SYSCTL_PHYSCAP_pv",
        XEN_SYSCTL_PHYSCAP_DIRECTIO = "XEN_SYSCTL_PHYSCAP_directio",
        XEN_SYSCTL_PHYSCAP_HAP = "XEN_SYSCTL_PHYSCAP_hap",
        XEN_SYSCTL_PHYSCAP_SHADOW = "XEN_SYSCTL_PHYSCAP_shadow",
        XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE = "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share",
        XEN_SYSCTL_PHYSCAP_VMTRACE = "XEN_SYSCTL_PHYSCAP_vmtrace",
        XEN_SYSCTL_PHYSCAP_VPMU = "XEN_SYSCTL_PHYSCAP_vpmu",
        XEN_SYSCTL_PHYSCAP_GNTTAB_V1 = "XEN_SYSCTL_PHYSCAP_gnttab_v1",
        XEN_SYSCTL_PHYSCAP_GNTTAB_V2 = "XEN_SYSCTL_PHYSCAP_gnttab_v2",
        PMSTAT_CATEGORY_MASK,
        PMSTAT_PX,
        PMSTAT_CX,
        PMSTAT_GET_MAX_CX = "PMSTAT_get_max_cx",
        PMSTAT_GET_CXSTAT = "PMSTAT_get_cxstat",
        PMSTAT_RESET_CXSTAT = "PMSTAT_reset_cxstat",
        PM_PARA_CATEGORY_MASK,
        CPUFREQ_PARA,
        XEN_SYSCTL_PM_OP_GET_MAX_CSTATE = "XEN_SYSCTL_pm_op_get_max_cstate",
        XEN_SYSCTL_PM_OP_SET_MAX_CSTATE = "XEN_SYSCTL_pm_op_set_max_cstate",
        XEN_SYSCTL_PM_OP_ENABLE_TURBO = "XEN_SYSCTL_pm_op_enable_turbo",
        XEN_SYSCTL_PM_OP_DISABLE_TURBO = "XEN_SYSCTL_pm_op_disable_turbo",
        XEN_SYSCTL_CX_UNLIMITED,
        XEN_SYSCTL_CPUPOOL_OP_CREATE,
        XEN_SYSCTL_CPUPOOL_OP_DESTROY,
        XEN_SYSCTL_CPUPOOL_OP_INFO,
        XEN_SYSCTL_CPUPOOL_OP_ADDCPU,
        XEN_SYSCTL_CPUPOOL_OP_RMCPU,
        XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN,
        XEN_SYSCTL_CPUPOOL_OP_FREEINFO,
        XEN_SYSCTL_SCHEDOP_PUTINFO = "XEN_SYSCTL_SCHEDOP_putinfo",
        XEN_SYSCTL_SCHEDOP_GETINFO = "XEN_SYSCTL_SCHEDOP_getinfo",
        XEN_SYSCTL_CPU_FEATURESET_RAW = "XEN_SYSCTL_cpu_featureset_raw",
        XEN_SYSCTL_CPU_FEATURESET_HOST = "XEN_SYSCTL_cpu_featureset_host",
        XEN_SYSCTL_CPU_FEATURESET_PV = "XEN_SYSCTL_cpu_featureset_pv",
        XEN_SYSCTL_CPU_FEATURESET_HVM = "XEN_SYSCTL_cpu_featureset_hvm",
        XEN_SYSCTL_CPU_FEATURESET_PV_MAX = "XEN_SYSCTL_cpu_featureset_pv_max",
        XEN_SYSCTL_CPU_FEATURESET_HVM_MAX = "XEN_SYSCTL_cpu_featureset_hvm_max",
        XEN_SYSCTL_CPU_POLICY_RAW = "XEN_SYSCTL_cpu_policy_raw",
        XEN_SYSCTL_CPU_POLICY_HOST = "XEN_SYSCTL_cpu_policy_host",
        XEN_SYSCTL_CPU_POLICY_PV_MAX = "XEN_SYSCTL_cpu_policy_pv_max",
        XEN_SYSCTL_CPU_POLICY_HVM_MAX = "XEN_SYSCTL_cpu_policy_hvm_max",
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT = "XEN_SYSCTL_cpu_policy_pv_default",
        XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT = "XEN_SYSCTL_cpu_policy_hvm_default",
    });
}

pub(super) fn hypfs_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct xen_hypfs_direntry",
        hypfs::DirEntry { kind = "type", encoding, pad, content_len, max_write_len }
    );
    facts.insert("offsetof(struct xen_hypfs_dirlistentry, name)".into(), hypfs::NAME_OFFSET as i128);
    let off_next = core::mem::offset_of!(hypfs::DirListEntry, off_next);
    facts.insert("offsetof(struct xen_hypfs_dirlistentry, off_next)".into(), off_next as i128);
    constants!(facts, hypfs {
        XEN_HYPFS_VERSION, XEN_HYPFS_MAX_PATHLEN,
        XEN_HYPFS_OP_GET_VERSION = "XEN_HYPFS_OP_get_version",
        XEN_HYPFS_OP_READ = "XEN_HYPFS_OP_read",
        XEN_HYPFS_OP_WRITE_CONTENTS = "XEN_HYPFS_OP_write_contents",
        XEN_HYPFS_TYPE_DIR, XEN_HYPFS_TYPE_BLOB, XEN_HYPFS_TYPE_STRING, XEN_HYPFS_TYPE_UINT, XEN_HYPFS_TYPE_INT,
        XEN_HYPFS_TYPE_BOOL, XEN_HYPFS_ENC_PLAIN, XEN_HYPFS_ENC_GZIP,
    });
}

pub(super) fn trace_h(facts: &mut Facts) {
    facts.insert("sizeof(struct t_buf)".into(), trace::TBUF_HEADER.into());
    facts.insert("offsetof(struct t_buf, cons)".into(), trace::TBUF_CONS.into());
    facts.insert("offsetof(struct t_buf, prod)".into(), trace::TBUF_PROD.into());
    facts.insert("offsetof(struct t_info, tbuf_size)".into(), trace::TINFO_SIZE.into());
    facts.insert("offsetof(struct t_info, mfn_offset)".into(), trace::TINFO_OFFSETS.into());
    constants!(facts, trace {
        TRACE_EXTRA_MAX, TRACE_EXTRA_SHIFT, TRC_CLS_SHIFT, TRC_SUBCLS_SHIFT, TRC_HD_CYCLE_FLAG,
        EVENT_MASK = "TRC_HD_TO_EVENT(-1)",
        TRC_GEN, TRC_SCHED, TRC_DOM0OP, TRC_HVM, TRC_MEM, TRC_GUEST, TRC_ALL,
        TRC_LOST_RECORDS, TRC_TRACE_WRAP_BUFFER,
        TRC_SCHED_MIN, TRC_SCHED_VERBOSE, TRC_SCHED_RUNSTATE_CHANGE, TRC_SCHED_CONTINUE_RUNNING, TRC_SCHED_DOM_ADD,
        TRC_SCHED_DOM_REM, TRC_SCHED_SLEEP, TRC_SCHED_WAKE, TRC_SCHED_YIELD, TRC_SCHED_BLOCK, TRC_SCHED_SHUTDOWN,
        TRC_SCHED_ADJDOM, TRC_SCHED_SWITCH, TRC_SCHED_SWITCH_INFPREV,
        TRC_DOM0_DOMOPS, TRC_DOM0_DOM_ADD, TRC_DOM0_DOM_REM,
        TRC_MEM_PAGE_GRANT_MAP, TRC_MEM_PAGE_GRANT_UNMAP, TRC_MEM_DECREASE_RESERVATION, TRC_MEM_POD_POPULATE,
        TRC_HVM_ENTRYEXIT, TRC_HVM_HANDLER, TRC_64_FLAG, TRC_HVM_VMENTRY, TRC_HVM_VMEXIT, TRC_HVM_VMEXIT64,
        TRC_HVM_INJ_EXC, TRC_HVM_INJ_VIRQ, TRC_HVM_MSR_READ, TRC_HVM_MSR_WRITE, TRC_HVM_CPUID, TRC_HVM_INTR,
        TRC_HVM_VMMCALL, TRC_HVM_HLT, TRC_HVM_IOPORT_READ, TRC_HVM_IOPORT_WRITE, TRC_HVM_RDTSC, TRC_HVM_NPF,
    });
}

pub(super) fn domctl_h(facts: &mut Facts) {
    structure!(facts, "struct xenctl_bitmap", domctl::Bitmap { bitmap, nr_bits });
    structure!(facts, "struct xen_arch_domainconfig", domctl::ArchDomainConfig { emulation_flags, misc_flags });
    structure!(
        facts,
        "struct xen_domctl_createdomain",
        domctl::CreateDomain {
            ssidref,
            handle,
            flags,
            iommu_opts,
            max_vcpus,
            max_evtchn_port,
            max_grant_frames,
            max_maptrack_frames,
            grant_opts,
            vmtrace_size,
            cpupool_id,
            arch
        }
    );
    structure!(
        facts,
        "struct xen_domctl_getdomaininfo",
        domctl::DomainInfo {
            domain,
            pad1,
            flags,
            tot_pages,
            max_pages,
            outstanding_pages,
            shr_pages,
            paged_pages,
            shared_info_frame,
            cpu_time,
            nr_online_vcpus,
            max_vcpu_id,
            ssidref,
            handle,
            cpupool,
            gpaddr_bits,
            pad2,
            arch_config
        }
    );
    structure!(facts, "struct xen_domctl_getpageframeinfo3", domctl::GetPageFrameInfo3 { num, array });
    structure!(facts, "struct xen_domctl_nodeaffinity", domctl::NodeAffinity { nodemap });
    structure!(facts, "struct xen_domctl_vcpuaffinity", domctl::VcpuAffinity { vcpu, flags, cpumap_hard, cpumap_soft });
    structure!(facts, "struct xen_domctl_shadow_op", domctl::ShadowOp { op, mode, mb, dirty_bitmap, pages, fault_count = "stats.fault_count", dirty_count = "stats.dirty_count" });
    structure!(facts, "struct xen_domctl_max_mem", domctl::MaxMem { max_memkb });
    structure!(facts, "struct xen_domctl_vcpucontext", domctl::VcpuContext { vcpu, ctxt });
    structure!(
        facts,
        "struct xen_domctl_getvcpuinfo",
        domctl::GetVcpuInfo { vcpu, online, blocked, running, cpu_time, cpu }
    );
    structure!(facts, "struct xen_domctl_max_vcpus", domctl::MaxVcpus { max });
    structure!(facts, "struct xen_domctl_setdomainhandle", domctl::SetDomainHandle { handle });
    structure!(facts, "struct xen_domctl_irq_permission", domctl::IrqPermission { pirq, allow_access, pad });
    structure!(
        facts,
        "struct xen_domctl_iomem_permission",
        domctl::IomemPermission { first_mfn, nr_mfns, allow_access }
    );
    structure!(
        facts,
        "struct xen_domctl_ioport_permission",
        domctl::IoportPermission { first_port, nr_ports, allow_access }
    );
    structure!(
        facts,
        "struct xen_domctl_memory_mapping",
        domctl::MemoryMapping { first_gfn, first_mfn, nr_mfns, add_mapping, padding }
    );
    structure!(facts, "struct xen_domctl_hypercall_init", domctl::HypercallInit { gmfn });
    structure!(facts, "struct xen_domctl_settimeoffset", domctl::SetTimeOffset { time_offset_seconds });
    structure!(facts, "struct xen_domctl_hvmcontext", domctl::HvmContext { size, buffer });
    structure!(facts, "struct xen_domctl_hvmcontext_partial", domctl::HvmContextPartial { kind = "type", instance, bufsz, buffer });
    structure!(facts, "struct xen_domctl_address_size", domctl::AddressSize { size });
    structure!(facts, "struct xen_domctl_sendtrigger", domctl::SendTrigger { trigger, vcpu });
    structure!(facts, "struct xen_domctl_set_target", domctl::SetTarget { target });
    structure!(facts, "xen_cpuid_leaf_t", domctl::CpuidLeaf { leaf, subleaf, a, b, c, d });
    structure!(facts, "xen_msr_entry_t", domctl::MsrEntry { idx, flags, val });
    structure!(
        facts,
        "struct xen_domctl_cpu_policy",
        domctl::CpuPolicy { nr_leaves, nr_msrs, leaves, msrs, err_leaf, err_subleaf, err_msr }
    );
    structure!(
        facts,
        "struct xen_domctl_tsc_info",
        domctl::TscInfo { tsc_mode, gtsc_khz, incarnation, pad, elapsed_nsec }
    );
    structure!(facts, "struct xen_domctl_set_virq_handler", domctl::SetVirqHandler { virq });
    structure!(facts, "struct xen_domctl_set_access_required", domctl::SetAccessRequired { access_required });
    structure!(facts, "struct xen_domctl_paging_mempool", domctl::PagingMempool { size });
    let (size, payload) = (size_of::<domctl::Domctl>(), core::mem::offset_of!(domctl::Domctl, payload));
    facts.insert("sizeof(struct xen_domctl)".into(), size as i128);
    facts.insert("offsetof(struct xen_domctl, u)".into(), payload as i128);
    facts.insert("offsetof(struct xen_domctl, domain)".into(), core::mem::offset_of!(domctl::Header, domain) as i128);
    // The union's parts of which only one is described.
    let weight = core::mem::offset_of!(domctl::SchedulerOp, weight);
    facts.insert("offsetof(struct xen_domctl_scheduler_op, u.credit2.weight)".into(), weight as i128);
    let cap = core::mem::offset_of!(domctl::SchedulerOp, cap);
    facts.insert("offsetof(struct xen_domctl_scheduler_op, u.credit2.cap)".into(), cap as i128);
    constants!(facts, domctl {
        XEN_DOMCTL_INTERFACE_VERSION,
        XEN_DOMCTL_CREATEDOMAIN = "XEN_DOMCTL_createdomain",
        XEN_DOMCTL_DESTROYDOMAIN = "XEN_DOMCTL_destroydomain",
        XEN_DOMCTL_PAUSEDOMAIN = "XEN_DOMCTL_pausedomain",
        XEN_DOMCTL_UNPAUSEDOMAIN = "XEN_DOMCTL_unpausedomain",
        XEN_DOMCTL_GETDOMAININFO = "XEN_DOMCTL_getdomaininfo",
        XEN_DOMCTL_SETVCPUAFFINITY = "XEN_DOMCTL_setvcpuaffinity",
        XEN_DOMCTL_SHADOW_OP = "XEN_DOMCTL_shadow_op",
        XEN_DOMCTL_MAX_MEM = "XEN_DOMCTL_max_mem",
        XEN_DOMCTL_SETVCPUCONTEXT = "XEN_DOMCTL_setvcpucontext",
        XEN_DOMCTL_GETVCPUCONTEXT = "XEN_DOMCTL_getvcpucontext",
        XEN_DOMCTL_GETVCPUINFO = "XEN_DOMCTL_getvcpuinfo",
        XEN_DOMCTL_MAX_VCPUS = "XEN_DOMCTL_max_vcpus",
        XEN_DOMCTL_SCHEDULER_OP = "XEN_DOMCTL_scheduler_op",
        XEN_DOMCTL_SETDOMAINHANDLE = "XEN_DOMCTL_setdomainhandle",
        XEN_DOMCTL_SETDEBUGGING = "XEN_DOMCTL_setdebugging",
        XEN_DOMCTL_IRQ_PERMISSION = "XEN_DOMCTL_irq_permission",
        XEN_DOMCTL_IOMEM_PERMISSION = "XEN_DOMCTL_iomem_permission",
        XEN_DOMCTL_IOPORT_PERMISSION = "XEN_DOMCTL_ioport_permission",
        XEN_DOMCTL_HYPERCALL_INIT = "XEN_DOMCTL_hypercall_init",
        XEN_DOMCTL_SETTIMEOFFSET = "XEN_DOMCTL_settimeoffset",
        XEN_DOMCTL_GETVCPUAFFINITY = "XEN_DOMCTL_getvcpuaffinity",
        XEN_DOMCTL_REAL_MODE_AREA = "XEN_DOMCTL_real_mode_area",
        XEN_DOMCTL_RESUMEDOMAIN = "XEN_DOMCTL_resumedomain",
        XEN_DOMCTL_SENDTRIGGER = "XEN_DOMCTL_sendtrigger",
        XEN_DOMCTL_SUBSCRIBE = "XEN_DOMCTL_subscribe",
        XEN_DOMCTL_GETHVMCONTEXT = "XEN_DOMCTL_gethvmcontext",
        XEN_DOMCTL_SETHVMCONTEXT = "XEN_DOMCTL_sethvmcontext",
        XEN_DOMCTL_SET_ADDRESS_SIZE = "XEN_DOMCTL_set_address_size",
        XEN_DOMCTL_GET_ADDRESS_SIZE = "XEN_DOMCTL_get_address_size",
        XEN_DOMCTL_ASSIGN_DEVICE = "XEN_DOMCTL_assign_device",
        XEN_DOMCTL_BIND_PT_IRQ = "XEN_DOMCTL_bind_pt_irq",
        XEN_DOMCTL_MEMORY_MAPPING = "XEN_DOMCTL_memory_mapping",
        XEN_DOMCTL_IOPORT_MAPPING = "XEN_DOMCTL_ioport_mapping",
        XEN_DOMCTL_SET_EXT_VCPUCONTEXT = "XEN_DOMCTL_set_ext_vcpucontext",
        XEN_DOMCTL_GET_EXT_VCPUCONTEXT = "XEN_DOMCTL_get_ext_vcpucontext",
        XEN_DOMCTL_SET_OPT_FEATURE = "XEN_DOMCTL_set_opt_feature",
        XEN_DOMCTL_TEST_ASSIGN_DEVICE = "XEN_DOMCTL_test_assign_device",
        XEN_DOMCTL_SET_TARGET = "XEN_DOMCTL_set_target",
        XEN_DOMCTL_DEASSIGN_DEVICE = "XEN_DOMCTL_deassign_device",
        XEN_DOMCTL_UNBIND_PT_IRQ = "XEN_DOMCTL_unbind_pt_irq",
        XEN_DOMCTL_GET_DEVICE_GROUP = "XEN_DOMCTL_get_device_group",
        XEN_DOMCTL_DEBUG_OP = "XEN_DOMCTL_debug_op",
        XEN_DOMCTL_GETHVMCONTEXT_PARTIAL = "XEN_DOMCTL_gethvmcontext_partial",
        XEN_DOMCTL_VM_EVENT_OP = "XEN_DOMCTL_vm_event_op",
        XEN_DOMCTL_MEM_SHARING_OP = "XEN_DOMCTL_mem_sharing_op",
        XEN_DOMCTL_GETTSCINFO = "XEN_DOMCTL_gettscinfo",
        XEN_DOMCTL_SETTSCINFO = "XEN_DOMCTL_settscinfo",
        XEN_DOMCTL_GETPAGEFRAMEINFO3 = "XEN_DOMCTL_getpageframeinfo3",
        XEN_DOMCTL_SETVCPUEXTSTATE = "XEN_DOMCTL_setvcpuextstate",
        XEN_DOMCTL_GETVCPUEXTSTATE = "XEN_DOMCTL_getvcpuextstate",
        XEN_DOMCTL_SET_ACCESS_REQUIRED = "XEN_DOMCTL_set_access_required",
        XEN_DOMCTL_AUDIT_P2M = "XEN_DOMCTL_audit_p2m",
        XEN_DOMCTL_SET_VIRQ_HANDLER = "XEN_DOMCTL_set_virq_handler",
        XEN_DOMCTL_SET_BROKEN_PAGE_P2M = "XEN_DOMCTL_set_broken_page_p2m",
        XEN_DOMCTL_SETNODEAFFINITY = "XEN_DOMCTL_setnodeaffinity",
        XEN_DOMCTL_GETNODEAFFINITY = "XEN_DOMCTL_getnodeaffinity",
        XEN_DOMCTL_CACHEFLUSH = "XEN_DOMCTL_cacheflush",
        XEN_DOMCTL_GET_VCPU_MSRS = "XEN_DOMCTL_get_vcpu_msrs",
        XEN_DOMCTL_SET_VCPU_MSRS = "XEN_DOMCTL_set_vcpu_msrs",
        XEN_DOMCTL_SETVNUMAINFO = "XEN_DOMCTL_setvnumainfo",
        XEN_DOMCTL_PSR_CMT_OP = "XEN_DOMCTL_psr_cmt_op",
        XEN_DOMCTL_MONITOR_OP = "XEN_DOMCTL_monitor_op",
        XEN_DOMCTL_PSR_ALLOC = "XEN_DOMCTL_psr_alloc",
        XEN_DOMCTL_SOFT_RESET = "XEN_DOMCTL_soft_reset",
        XEN_DOMCTL_VUART_OP = "XEN_DOMCTL_vuart_op",
        XEN_DOMCTL_GET_CPU_POLICY = "XEN_DOMCTL_get_cpu_policy",
        XEN_DOMCTL_SET_CPU_POLICY = "XEN_DOMCTL_set_cpu_policy",
        XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_get_paging_mempool_size",
        XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_set_paging_mempool_size",
        XEN_DOMCTL_GDBSX_GUESTMEMIO = "XEN_DOMCTL_gdbsx_guestmemio",
        XEN_DOMCTL_GDBSX_PAUSEVCPU = "XEN_DOMCTL_gdbsx_pausevcpu",
        XEN_DOMCTL_GDBSX_UNPAUSEVCPU = "XEN_DOMCTL_gdbsx_unpausevcpu",
        XEN_DOMCTL_GDBSX_DOMSTATUS = "XEN_DOMCTL_gdbsx_domstatus",
        XEN_DOMCTL_VMTRACE_OP = "XEN_DOMCTL_vmtrace_op",
        XEN_DOMCTL_CDF_HVM = "XEN_DOMCTL_CDF_hvm",
        XEN_DOMCTL_CDF_HAP = "XEN_DOMCTL_CDF_hap",
        XEN_DOMCTL_CDF_S3_INTEGRITY = "XEN_DOMCTL_CDF_s3_integrity",
        XEN_DOMCTL_CDF_OOS_OFF = "XEN_DOMCTL_CDF_oos_off",
        XEN_DOMCTL_CDF_XS_DOMAIN = "XEN_DOMCTL_CDF_xs_domain",
        XEN_DOMCTL_CDF_IOMMU = "XEN_DOMCTL_CDF_iommu",
        XEN_DOMCTL_CDF_NESTED_VIRT = "XEN_DOMCTL_CDF_nested_virt",
        XEN_DOMCTL_CDF_VPMU = "XEN_DOMCTL_CDF_vpmu",
        XEN_DOMCTL_CDF_ALL = "(XEN_DOMCTL_CDF_MAX * 2 - 1)",
        XEN_DOMCTL_IOMMU_ALL = "(XEN_DOMCTL_IOMMU_MAX * 2 - 1)",
        XEN_DOMCTL_GRANT_VERSION_MASK = "XEN_DOMCTL_GRANT_version_mask",
        XEN_X86_EMU_LAPIC,
        XEN_X86_EMU_HPET,
        XEN_X86_EMU_PM,
        XEN_X86_EMU_RTC,
        XEN_X86_EMU_IOAPIC,
        XEN_X86_EMU_PIC,
        XEN_X86_EMU_VGA,
        XEN_X86_EMU_IOMMU,
        XEN_X86_EMU_PIT,
        XEN_X86_EMU_USE_PIRQ,
        XEN_X86_EMU_VPCI,
        XEN_X86_EMU_ALL,
        XEN_X86_MSR_RELAXED,
        XEN_DOMINF_DYING = "XEN_DOMINF_dying",
        XEN_DOMINF_HVM_GUEST = "XEN_DOMINF_hvm_guest",
        XEN_DOMINF_SHUTDOWN = "XEN_DOMINF_shutdown",
        XEN_DOMINF_PAUSED = "XEN_DOMINF_paused",
        XEN_DOMINF_BLOCKED = "XEN_DOMINF_blocked",
        XEN_DOMINF_RUNNING = "XEN_DOMINF_running",
        XEN_DOMINF_DEBUGGED = "XEN_DOMINF_debugged",
        XEN_DOMINF_XS_DOMAIN = "XEN_DOMINF_xs_domain",
        XEN_DOMINF_HAP = "XEN_DOMINF_hap",
        XEN_DOMINF_SHUTDOWN_SHIFT = "XEN_DOMINF_shutdownshift",
        XEN_INVALID_MAX_VCPU_ID,
        XEN_DOMCTL_PFINFO_XTAB,
        XEN_DOMCTL_PFINFO_NOTAB,
        XEN_DOMCTL_PFINFO_BROKEN,
        XEN_VCPUAFFINITY_HARD,
        XEN_VCPUAFFINITY_SOFT,
        XEN_VCPUAFFINITY_FORCE,
        XEN_DOMCTL_SHADOW_OP_OFF,
        XEN_DOMCTL_SHADOW_OP_ENABLE,
        XEN_DOMCTL_SHADOW_OP_CLEAN,
        XEN_DOMCTL_SHADOW_OP_PEEK,
        XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION,
        XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION,
        XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY,
        XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY,
        XEN_SCHEDULER_CREDIT,
        XEN_SCHEDULER_CREDIT2,
        XEN_SCHEDULER_NULL,
        XEN_DOMCTL_SCHEDOP_PUTINFO = "XEN_DOMCTL_SCHEDOP_putinfo",
        XEN_DOMCTL_SCHEDOP_GETINFO = "XEN_DOMCTL_SCHEDOP_getinfo",
        XEN_DOMCTL_SCHEDOP_PUTVCPUINFO = "XEN_DOMCTL_SCHEDOP_putvcpuinfo",
        XEN_DOMCTL_SCHEDOP_GETVCPUINFO = "XEN_DOMCTL_SCHEDOP_getvcpuinfo",
        XEN_DOMCTL_SENDTRIGGER_NMI,
        XEN_DOMCTL_SENDTRIGGER_POWER,
        XEN_DOMCTL_SENDTRIGGER_SLEEP,
    });
}

pub(super) fn save_h(facts: &mut Facts) {
    structure!(facts, "struct hvm_save_descriptor", save::Descriptor { typecode, instance, length });
    structure!(facts, "struct hvm_save_header", save::Header { magic, version, changeset, cpuid, gtsc_khz });
    structure!(
        facts,
        "struct hvm_hw_cpu",
        save::Cpu {
            fpu_regs,
            rax,
            rbx,
            rcx,
            rdx,
            rbp,
            rsi,
            rdi,
            rsp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
            cr0,
            cr2,
            cr3,
            cr4,
            dr0,
            dr1,
            dr2,
            dr3,
            dr6,
            dr7,
            cs_sel,
            ds_sel,
            es_sel,
            fs_sel,
            gs_sel,
            ss_sel,
            tr_sel,
            ldtr_sel,
            cs_limit,
            ds_limit,
            es_limit,
            fs_limit,
            gs_limit,
            ss_limit,
            tr_limit,
            ldtr_limit,
            idtr_limit,
            gdtr_limit,
            cs_base,
            ds_base,
            es_base,
            fs_base,
            gs_base,
            ss_base,
            tr_base,
            ldtr_base,
            idtr_base,
            gdtr_base,
            cs_arbytes,
            ds_arbytes,
            es_arbytes,
            fs_arbytes,
            gs_arbytes,
            ss_arbytes,
            tr_arbytes,
            ldtr_arbytes,
            sysenter_cs,
            sysenter_esp,
            sysenter_eip,
            shadow_gs,
            msr_flags,
            msr_lstar,
            msr_star,
            msr_cstar,
            msr_syscall_mask,
            msr_efer,
            msr_tsc_aux,
            tsc,
            pending_event,
            error_code,
            flags,
            pad0
        }
    );
    structure!(
        facts,
        "struct hvm_hw_mtrr",
        save::Mtrr { msr_pat_cr, msr_mtrr_var, msr_mtrr_fixed, msr_mtrr_cap, msr_mtrr_def_type }
    );
    structure!(facts, "struct hvm_hw_cpu_xsave", save::CpuXsave { xfeature_mask, xcr0, xcr0_accum, fpu_sse = "save_area.fpu_sse", xstate_bv = "save_area.xsave_hdr.xstate_bv", xcomp_bv = "save_area.xsave_hdr.xcomp_bv", reserved = "save_area.xsave_hdr.reserved" });
    structure!(facts, "struct hvm_tsc_adjust", save::TscAdjust { tsc_adjust });
    structure!(facts, "struct hvm_one_msr", save::OneMsr { index, rsvd = "_rsvd", val });
    facts.insert("offsetof(struct hvm_msr, msr)".into(), size_of::<save::Msrs>() as i128);
    constants!(facts, save {
        HVM_SAVE_CODE_END = "HVM_SAVE_CODE(END)",
        HVM_SAVE_CODE_HEADER = "HVM_SAVE_CODE(HEADER)",
        HVM_SAVE_CODE_CPU = "HVM_SAVE_CODE(CPU)",
        HVM_SAVE_CODE_PIC = "HVM_SAVE_CODE(PIC)",
        HVM_SAVE_CODE_IOAPIC = "HVM_SAVE_CODE(IOAPIC)",
        HVM_SAVE_CODE_LAPIC = "HVM_SAVE_CODE(LAPIC)",
        HVM_SAVE_CODE_LAPIC_REGS = "HVM_SAVE_CODE(LAPIC_REGS)",
        HVM_SAVE_CODE_PCI_IRQ = "HVM_SAVE_CODE(PCI_IRQ)",
        HVM_SAVE_CODE_ISA_IRQ = "HVM_SAVE_CODE(ISA_IRQ)",
        HVM_SAVE_CODE_PCI_LINK = "HVM_SAVE_CODE(PCI_LINK)",
        HVM_SAVE_CODE_PIT = "HVM_SAVE_CODE(PIT)",
        HVM_SAVE_CODE_RTC = "HVM_SAVE_CODE(RTC)",
        HVM_SAVE_CODE_HPET = "HVM_SAVE_CODE(HPET)",
        HVM_SAVE_CODE_PMTIMER = "HVM_SAVE_CODE(PMTIMER)",
        HVM_SAVE_CODE_MTRR = "HVM_SAVE_CODE(MTRR)",
        HVM_SAVE_CODE_VIRIDIAN_DOMAIN = "HVM_SAVE_CODE(VIRIDIAN_DOMAIN)",
        HVM_SAVE_CODE_CPU_XSAVE = "CPU_XSAVE_CODE",
        HVM_SAVE_CODE_VIRIDIAN_VCPU = "HVM_SAVE_CODE(VIRIDIAN_VCPU)",
        HVM_SAVE_CODE_VMCE_VCPU = "HVM_SAVE_CODE(VMCE_VCPU)",
        HVM_SAVE_CODE_TSC_ADJUST = "HVM_SAVE_CODE(TSC_ADJUST)",
        HVM_SAVE_CODE_CPU_MSR = "CPU_MSR_CODE",
        HVM_SAVE_CODE_MAX,
        HVM_FILE_MAGIC,
        HVM_FILE_VERSION,
        XEN_X86_FPU_INITIALISED,
    });
}

pub(super) fn guest_context_h(facts: &mut Facts) {
    structure!(
        facts,
        "struct cpu_user_regs",
        guest_context::CpuUserRegs {
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            error_code,
            entry_vector,
            rip,
            cs,
            saved_upcall_mask,
            rflags,
            rsp,
            ss,
            es,
            ds,
            fs,
            gs
        }
    );
    structure!(facts, "struct trap_info", guest_context::TrapInfo { vector, flags, cs, address });
    structure!(
        facts,
        "struct vcpu_guest_context",
        guest_context::VcpuGuestContext {
            fpu_ctxt,
            flags,
            user_regs,
            trap_ctxt,
            ldt_base,
            ldt_ents,
            gdt_frames,
            gdt_ents,
            kernel_ss,
            kernel_sp,
            ctrlreg,
            debugreg,
            event_callback_eip,
            failsafe_callback_eip,
            syscall_callback_eip,
            vm_assist,
            fs_base,
            gs_base_kernel,
            gs_base_user
        }
    );
    constants!(facts, guest_context {
        VGCF_I387_VALID,
        VGCF_IN_KERNEL,
        VGCF_ONLINE = "VGCF_online",
    });
}
