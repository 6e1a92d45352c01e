//! `vcpu_op`: what a domain does with its own vCPUs.

use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::vcpu as abi;
use radon_abi::xen::VcpuTimeInfo;

use crate::evtchn::{Pin, VcpuEvents};
use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, operation};
use crate::time::{Area, VcpuTimer, runstate_size};
use crate::types::{Gfn, GuestVirtAddr, Nanoseconds, VcpuId};
use crate::vcpu::Vcpu;

use super::shutdown::{ShutdownReason, shut_down};

const fn full(number: u32, name: &'static str, handler: fn(&Caller<'_>, Args) -> OpResult) -> Operation {
    Operation { number, name, coverage: Coverage::Full, handler }
}

/// The operations of `vcpu_op`.
pub static VCPU_OPS: &[Operation] = &[
    full(abi::VCPUOP_INITIALISE, "VCPUOP_initialise", initialise),
    full(abi::VCPUOP_UP, "VCPUOP_up", up),
    full(abi::VCPUOP_DOWN, "VCPUOP_down", down),
    full(abi::VCPUOP_IS_UP, "VCPUOP_is_up", is_up),
    full(abi::VCPUOP_GET_RUNSTATE_INFO, "VCPUOP_get_runstate_info", get_runstate_info),
    full(
        abi::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
        "VCPUOP_register_runstate_memory_area",
        register_runstate_memory_area,
    ),
    full(abi::VCPUOP_SET_PERIODIC_TIMER, "VCPUOP_set_periodic_timer", set_periodic_timer),
    full(abi::VCPUOP_STOP_PERIODIC_TIMER, "VCPUOP_stop_periodic_timer", stop_periodic_timer),
    full(abi::VCPUOP_SET_SINGLESHOT_TIMER, "VCPUOP_set_singleshot_timer", set_singleshot_timer),
    full(abi::VCPUOP_STOP_SINGLESHOT_TIMER, "VCPUOP_stop_singleshot_timer", stop_singleshot_timer),
    full(abi::VCPUOP_REGISTER_VCPU_INFO, "VCPUOP_register_vcpu_info", register_vcpu_info),
    full(abi::VCPUOP_SEND_NMI, "VCPUOP_send_nmi", send_nmi),
    full(abi::VCPUOP_GET_PHYSID, "VCPUOP_get_physid", get_physid),
    full(
        abi::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
        "VCPUOP_register_vcpu_time_memory_area",
        register_vcpu_time_memory_area,
    ),
];

/// `vcpu_op(cmd, vcpuid, extra_args)`.
///
/// # Errors
/// `ENOSYS` for a number that does not exist, `ENOENT` for a vCPU that does not; else as the operation's documentation
/// says.
pub fn vcpu_op(caller: &Caller<'_>, args: Args) -> OpResult {
    target(caller, args)?;
    operation(VCPU_OPS, args.u32(0), caller, args)
}

/// The vCPU of the caller's domain that the hypercall names.
fn target<'a>(caller: &Caller<'a>, args: Args) -> Result<&'a Arc<Vcpu>, Errno> {
    caller.domain.vcpu(VcpuId(args.u32(1))).ok_or(Errno::ENOENT)
}

/// As [`target`], if it is the calling vCPU.
///
/// # Errors
/// `EINVAL` if it is another one.
fn own<'a>(caller: &Caller<'a>, args: Args) -> Result<&'a Arc<Vcpu>, Errno> {
    let vcpu = target(caller, args)?;
    if Arc::ptr_eq(vcpu, caller.vcpu) { Ok(vcpu) } else { Err(Errno::EINVAL) }
}

/// `VCPUOP_initialise`: gives a vCPU that is down its first registers.
///
/// # Errors
/// `EINVAL`: it has no `vcpu_info` yet, or such a state cannot be. `EEXIST`: it is initialised.
fn initialise(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    vcpu.events.info().ok_or(Errno::EINVAL)?;
    let state: abi::HvmContext = caller.read(args.handle(2))?;
    vcpu.sched.unit.initialise(|| vcpu.arch.initialise(caller.domain, &state))?;
    SUCCESS
}

/// `VCPUOP_up`: makes an initialised vCPU run. Nothing happens if it is up.
///
/// # Errors
/// `EINVAL`: not initialised.
fn up(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    if !vcpu.sched.unit.is_initialised() {
        return Err(Errno::EINVAL);
    }
    caller.hv.scheduler.bring_up(caller.hv, vcpu);
    SUCCESS
}

/// `VCPUOP_down`: stops a vCPU from running. When the last one goes the domain has powered itself off. Never fails.
fn down(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    caller.hv.scheduler.take_down(caller.hv, vcpu);
    if caller.domain.vcpus().iter().all(|v| v.sched.unit.is_down()) {
        shut_down(caller.hv, caller.domain, ShutdownReason::PowerOff);
    }
    // Only a caller that stopped itself has anything to reschedule, but it does no harm.
    Ok(Outcome::Reschedule)
}

/// `VCPUOP_is_up`: 1 if the vCPU is up. Never fails.
fn is_up(caller: &Caller<'_>, args: Args) -> OpResult {
    let up = !target(caller, args)?.sched.unit.is_down();
    Ok(Outcome::Done(u64::from(up)))
}

/// `VCPUOP_get_runstate_info`: copies the vCPU's run state up to now.
///
/// # Errors
/// `EFAULT`.
fn get_runstate_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let info = target(caller, args)?.runstate_info(caller.hv);
    caller.write(args.handle(2), &info)?;
    SUCCESS
}

/// The area that the argument names; `None` for address 0.
fn registered_area(caller: &Caller<'_>, args: Args, len: usize) -> Result<Option<Area>, Errno> {
    let area: abi::RegisterArea = caller.read(args.handle(2))?;
    match area.addr {
        0 => Ok(None),
        addr => Area::register(caller, GuestVirtAddr(addr), len).map(Some),
    }
}

/// `VCPUOP_register_runstate_memory_area`: the vCPU's run state is written there at every switch, and now. Address 0
/// ends that.
///
/// # Errors
/// `EFAULT`: not the domain's own writable memory.
fn register_runstate_memory_area(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    let area = registered_area(caller, args, runstate_size(caller))?;
    if let Some(old) = vcpu.time.set_runstate_area(area) {
        old.release(caller.hv);
    }
    vcpu.publish_runstate(caller.hv);
    SUCCESS
}

/// `VCPUOP_register_vcpu_time_memory_area`: a second place for the vCPU's time information, such as a page that the
/// guest maps into its processes. Address 0 ends that.
///
/// # Errors
/// `EFAULT`: not the domain's own writable memory.
fn register_vcpu_time_memory_area(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    let area = registered_area(caller, args, size_of::<VcpuTimeInfo>())?;
    if let Some(old) = vcpu.time.set_time_area(area) {
        old.release(caller.hv);
    }
    vcpu.publish_clock(caller.hv);
    SUCCESS
}

/// Shortest period of a periodic timer.
const PERIOD_MIN: u64 = 1_000_000;
/// Longest period of a periodic timer.
const PERIOD_MAX: u64 = u64::MAX >> 2;

/// `VCPUOP_set_periodic_timer`: `VIRQ_TIMER` each period.
///
/// # Errors
/// `EINVAL`: a period below 1 ms or above 146 years.
fn set_periodic_timer(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    let set: abi::SetPeriodicTimer = caller.read(args.handle(2))?;
    if !(PERIOD_MIN..=PERIOD_MAX).contains(&set.period_ns) {
        return Err(Errno::EINVAL);
    }
    vcpu.start_periodic_timer(caller.hv, Nanoseconds(set.period_ns));
    SUCCESS
}

/// `VCPUOP_stop_periodic_timer`. Never fails.
fn stop_periodic_timer(caller: &Caller<'_>, args: Args) -> OpResult {
    target(caller, args)?.cancel_timer(caller.hv, VcpuTimer::Periodic);
    SUCCESS
}

/// `VCPUOP_set_singleshot_timer`: `VIRQ_TIMER` at a system time; at once if that has passed. So it is also for a caller that
/// asks for an error then (`VCPU_SSHOTTMR_future`): Xen gave up the error because kernels try again in a circle.
///
/// # Errors
/// `EINVAL`: not the calling vCPU.
fn set_singleshot_timer(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = own(caller, args)?;
    let set: abi::SetSingleshotTimer = caller.read(args.handle(2))?;
    vcpu.arm_timer(caller.hv, VcpuTimer::Singleshot, Nanoseconds(set.timeout_abs_ns));
    SUCCESS
}

/// `VCPUOP_stop_singleshot_timer`.
///
/// # Errors
/// `EINVAL`: not the calling vCPU.
fn stop_singleshot_timer(caller: &Caller<'_>, args: Args) -> OpResult {
    own(caller, args)?.cancel_timer(caller.hv, VcpuTimer::Singleshot);
    SUCCESS
}

/// `VCPUOP_register_vcpu_info`: the vCPU's `vcpu_info` moves to memory of the guest's choice, once.
///
/// # Errors
/// `EINVAL`: not the calling vCPU and not down; registered before; not the domain's own writable memory; does not fit
/// the page.
fn register_vcpu_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let (hv, domain) = (caller.hv, caller.domain);
    let vcpu = target(caller, args)?;
    let info: abi::RegisterVcpuInfo = caller.read(args.handle(2))?;
    if !Arc::ptr_eq(vcpu, caller.vcpu) && !vcpu.sched.unit.is_down() {
        return Err(Errno::EINVAL);
    }
    VcpuEvents::register_info(hv, vcpu, Pin::new(hv, domain, Gfn(info.mfn))?, info.offset)?;
    vcpu.publish_clock(hv);
    SUCCESS
}

/// `VCPUOP_send_nmi`.
///
/// # Errors
/// `EINVAL`: an argument was given.
fn send_nmi(caller: &Caller<'_>, args: Args) -> OpResult {
    let vcpu = target(caller, args)?;
    if args.get(2) != 0 {
        return Err(Errno::EINVAL);
    }
    vcpu.arch.raise_nmi();
    vcpu.notify(caller.hv);
    SUCCESS
}

/// `VCPUOP_get_physid`: the firmware's names of the CPU that a vCPU of dom0 is pinned to.
///
/// # Errors
/// `EINVAL`: not dom0, not pinned, or the names are not known.
fn get_physid(caller: &Caller<'_>, args: Args) -> OpResult {
    let allowed = target(caller, args)?.sched.unit.affinity().allowed();
    let cpu = allowed.lowest().filter(|_| allowed.count() == 1 && caller.domain.is_hardware());
    let phys_id = cpu.and_then(|c| caller.hv.platform.physical_id(c)).ok_or(Errno::EINVAL)?;
    caller.write(args.handle(2), &abi::GetPhysid { phys_id })?;
    SUCCESS
}
