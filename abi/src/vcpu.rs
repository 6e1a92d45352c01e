//! `vcpu.h`: the operations of `vcpu_op` and their structures.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gives a vCPU its first state: [`HvmContext`] for HVM domains.
pub const VCPUOP_INITIALISE: u32 = 0;
/// Makes an initialised vCPU run.
pub const VCPUOP_UP: u32 = 1;
/// Stops a vCPU from running.
pub const VCPUOP_DOWN: u32 = 2;
/// Whether a vCPU is up (1) or down (0).
pub const VCPUOP_IS_UP: u32 = 3;
/// Copies [`RunstateInfo`] out.
pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
/// Registers the area of a [`RunstateInfo`]: [`RegisterArea`].
pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// Starts the periodic timer: [`SetPeriodicTimer`].
pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
/// Stops the periodic timer.
pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
/// Arms the single-shot timer: [`SetSingleshotTimer`].
pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
/// Disarms the single-shot timer.
pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
/// Places `vcpu_info`: [`RegisterVcpuInfo`].
pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
/// Sends an NMI.
pub const VCPUOP_SEND_NMI: u32 = 11;
/// Which physical CPU a pinned vCPU is on: [`GetPhysid`].
pub const VCPUOP_GET_PHYSID: u32 = 12;
/// Registers a second place for the time information: [`RegisterArea`].
pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;

/// The vCPU runs on a physical CPU.
pub const RUNSTATE_RUNNING: u32 = 0;
/// It could run, but no CPU has time for it.
pub const RUNSTATE_RUNNABLE: u32 = 1;
/// It waits for an event.
pub const RUNSTATE_BLOCKED: u32 = 2;
/// It may not run: down, paused.
pub const RUNSTATE_OFFLINE: u32 = 3;

/// Set in [`RunstateInfo::state_entry_time`] while the area changes, if the guest asked for it
/// ([`crate::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG`]).
pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;

/// Flag of [`SetSingleshotTimer`]: refuse a time in the past with `ETIME`. Xen ignores it since 4.17.3.
pub const VCPU_SSHOTTMR_FUTURE: u32 = 1 << 0;

/// `struct vcpu_runstate_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RunstateInfo {
    /// `RUNSTATE_*` now.
    pub state: u32,
    /// Padding.
    pub _pad: u32,
    /// System time (ns) when the state was entered; see [`XEN_RUNSTATE_UPDATE`].
    pub state_entry_time: u64,
    /// Time (ns) spent in each `RUNSTATE_*`.
    pub time: [u64; 4],
}

/// `struct vcpu_register_runstate_memory_area` and `struct vcpu_register_time_memory_area`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterArea {
    /// Guest-virtual address; 0 ends the registration.
    pub addr: u64,
}

/// `struct vcpu_set_periodic_timer`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPeriodicTimer {
    /// The period in nanoseconds.
    pub period_ns: u64,
}

/// `struct vcpu_set_singleshot_timer`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSingleshotTimer {
    /// System time (ns) to fire at.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
    /// Padding.
    pub _pad: u32,
}

/// `struct vcpu_register_vcpu_info`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RegisterVcpuInfo {
    /// The guest frame.
    pub mfn: u64,
    /// Offset within the frame.
    pub offset: u32,
    /// Not used.
    pub rsvd: u32,
}

/// `struct vcpu_get_physid`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetPhysid {
    /// APIC identifier in the lower half, ACPI identifier in the upper.
    pub phys_id: u64,
}

/// `struct vcpu_hvm_x86_32` (`hvm/hvm_vcpu.h`): the first state of a vCPU that starts in 32-bit mode.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers of these names")]
pub struct HvmContext32 {
    pub eax: u32,
    pub ecx: u32,
    pub edx: u32,
    pub ebx: u32,
    pub esp: u32,
    pub ebp: u32,
    pub esi: u32,
    pub edi: u32,
    pub eip: u32,
    pub eflags: u32,
    pub cr0: u32,
    pub cr3: u32,
    pub cr4: u32,
    pub pad1: u32,
    pub efer: u64,
    pub cs_base: u32,
    pub ds_base: u32,
    pub ss_base: u32,
    pub es_base: u32,
    pub tr_base: u32,
    pub cs_limit: u32,
    pub ds_limit: u32,
    pub ss_limit: u32,
    pub es_limit: u32,
    pub tr_limit: u32,
    pub cs_ar: u16,
    pub ds_ar: u16,
    pub ss_ar: u16,
    pub es_ar: u16,
    pub tr_ar: u16,
    pub pad2: [u16; 3],
}

/// `struct vcpu_hvm_x86_64` (`hvm/hvm_vcpu.h`): the first state of a vCPU that starts in 64-bit mode.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
#[allow(missing_docs, reason = "the fields are the registers of these names")]
pub struct HvmContext64 {
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rbx: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rip: u64,
    pub rflags: u64,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// [`HvmContext::mode`]: [`HvmContext32`] follows.
pub const VCPU_HVM_MODE_32B: u32 = 0;
/// [`HvmContext::mode`]: [`HvmContext64`] follows.
pub const VCPU_HVM_MODE_64B: u32 = 1;

/// `struct vcpu_hvm_context` (`hvm/hvm_vcpu.h`), the argument of [`VCPUOP_INITIALISE`].
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct HvmContext {
    /// `VCPU_HVM_MODE_*`.
    pub mode: u32,
    /// Padding.
    pub pad: u32,
    /// [`HvmContext32`] or [`HvmContext64`].
    pub regs: [u8; 120],
}

const _: () = {
    assert!(size_of::<RunstateInfo>() == 48);
    assert!(core::mem::offset_of!(RunstateInfo, state_entry_time) == 8);
    assert!(core::mem::offset_of!(RunstateInfo, time) == 16);
    assert!(size_of::<RegisterArea>() == 8);
    assert!(size_of::<SetPeriodicTimer>() == 8);
    assert!(size_of::<SetSingleshotTimer>() == 16);
    assert!(core::mem::offset_of!(SetSingleshotTimer, flags) == 8);
    assert!(size_of::<RegisterVcpuInfo>() == 16);
    assert!(core::mem::offset_of!(RegisterVcpuInfo, offset) == 8);
    assert!(size_of::<GetPhysid>() == 8);
    assert!(size_of::<HvmContext64>() == 112);
    assert!(size_of::<HvmContext32>() == 120);
    assert!(core::mem::offset_of!(HvmContext32, efer) == 56);
    assert!(core::mem::offset_of!(HvmContext32, cs_base) == 64);
    assert!(core::mem::offset_of!(HvmContext32, cs_ar) == 104);
    assert!(size_of::<HvmContext>() == 128);
    assert!(core::mem::offset_of!(HvmContext, regs) == 8);
};
