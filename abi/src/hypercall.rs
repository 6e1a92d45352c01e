//! `xen.h`: hypercall numbers (`__HYPERVISOR_*`).

macro_rules! hypercalls {
    ($($name:ident = $number:literal, $c:literal;)*) => {
        $(#[doc = concat!("`__HYPERVISOR_", $c, "`.")] pub const $name: u32 = $number;)*

        /// The name of a hypercall without the prefix `__HYPERVISOR_`, for messages.
        #[must_use]
        pub const fn name(number: u32) -> Option<&'static str> {
            match number {
                $($number => Some($c),)*
                _ => None,
            }
        }
    };
}

hypercalls! {
    SET_TRAP_TABLE = 0, "set_trap_table";
    MMU_UPDATE = 1, "mmu_update";
    SET_GDT = 2, "set_gdt";
    STACK_SWITCH = 3, "stack_switch";
    SET_CALLBACKS = 4, "set_callbacks";
    FPU_TASKSWITCH = 5, "fpu_taskswitch";
    SCHED_OP_COMPAT = 6, "sched_op_compat";
    PLATFORM_OP = 7, "platform_op";
    SET_DEBUGREG = 8, "set_debugreg";
    GET_DEBUGREG = 9, "get_debugreg";
    UPDATE_DESCRIPTOR = 10, "update_descriptor";
    MEMORY_OP = 12, "memory_op";
    MULTICALL = 13, "multicall";
    UPDATE_VA_MAPPING = 14, "update_va_mapping";
    SET_TIMER_OP = 15, "set_timer_op";
    EVENT_CHANNEL_OP_COMPAT = 16, "event_channel_op_compat";
    XEN_VERSION = 17, "xen_version";
    CONSOLE_IO = 18, "console_io";
    PHYSDEV_OP_COMPAT = 19, "physdev_op_compat";
    GRANT_TABLE_OP = 20, "grant_table_op";
    VM_ASSIST = 21, "vm_assist";
    UPDATE_VA_MAPPING_OTHERDOMAIN = 22, "update_va_mapping_otherdomain";
    IRET = 23, "iret";
    VCPU_OP = 24, "vcpu_op";
    SET_SEGMENT_BASE = 25, "set_segment_base";
    MMUEXT_OP = 26, "mmuext_op";
    XSM_OP = 27, "xsm_op";
    NMI_OP = 28, "nmi_op";
    SCHED_OP = 29, "sched_op";
    CALLBACK_OP = 30, "callback_op";
    XENOPROF_OP = 31, "xenoprof_op";
    EVENT_CHANNEL_OP = 32, "event_channel_op";
    PHYSDEV_OP = 33, "physdev_op";
    HVM_OP = 34, "hvm_op";
    SYSCTL = 35, "sysctl";
    DOMCTL = 36, "domctl";
    KEXEC_OP = 37, "kexec_op";
    TMEM_OP = 38, "tmem_op";
    ARGO_OP = 39, "argo_op";
    XENPMU_OP = 40, "xenpmu_op";
    DM_OP = 41, "dm_op";
    HYPFS_OP = 42, "hypfs_op";
    MCA = 48, "arch_0";
    PAGING_DOMCTL_CONT = 49, "arch_1";
}

/// One more than the highest hypercall number that the ABI reserves (`__HYPERVISOR_arch_7` + 1, rounded up).
pub const LIMIT: usize = 64;
