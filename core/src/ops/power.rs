//! `XENPF_set_processor_pminfo`: what dom0's kernel reads from the firmware's code about the power states of a processor.
//!
//! It is checked and kept, and the debug key `c` shows it. Nothing uses it yet: an idle CPU halts, and the processor's
//! speed is the firmware's business.
//!
//! Lock protocol: one lock of rank [`Rank::Domain`], held for a few instructions.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::platform::{
    self as abi, ProcessorCx, ProcessorPerformance, ProcessorPower, ProcessorPx, SetProcessorPminfo,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::hypercall::{Args, Caller, OpResult, SUCCESS};
use crate::hypervisor::Hypervisor;
use crate::sync::{Lock, Rank};
use crate::types::{CpuId, GuestVirtAddr};

/// Most C states of a processor (as ACPI processor drivers have it).
const CX_MAX: u32 = 8;
/// Most P states of a processor.
const PX_MAX: u32 = 256;
/// The address space of a register that is a port.
const SPACE_SYSTEM_IO: u32 = 1;
/// The only revision of _PDC.
const PDC_REVISION: u32 = 1;
/// All parts of [`ProcessorPerformance`].
const PX_ALL: u32 = abi::XEN_PX_PCT | abi::XEN_PX_PSS | abi::XEN_PX_PPC | abi::XEN_PX_PSD;

/// A processor's C states.
#[derive(Clone, Debug, Default)]
struct Idle {
    states: Vec<ProcessorCx>,
}

/// A processor's P states, and which parts of them are known.
#[derive(Clone, Debug, Default)]
struct Performance {
    known: u32,
    info: ProcessorPerformance,
    states: Vec<ProcessorPx>,
}

#[derive(Default)]
struct PerCpu {
    idle: Idle,
    performance: Performance,
}

/// What is known of all processors' power states.
pub(crate) struct PowerTables(Lock<BTreeMap<CpuId, PerCpu>>);

impl Default for PowerTables {
    fn default() -> Self {
        PowerTables(Lock::new(Rank::Domain, BTreeMap::new()))
    }
}

/// `XENPF_set_processor_pminfo`. The processor goes by its ACPI identifier.
///
/// Work: the states given, at most 256. Errors: `EINVAL`: no such processor or kind, or what cannot be; `ENOSYS`: about
/// T states; `EFAULT`.
pub(super) fn set_processor_pminfo(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: SetProcessorPminfo = super::platform::read(caller, args)?;
    match a.kind {
        abi::XEN_PM_CX => set_idle(caller, cpu_of(caller, a.id)?, &part(&a)?),
        abi::XEN_PM_PX => set_performance(caller, cpu_of(caller, a.id)?, &part(&a)?),
        abi::XEN_PM_TX => Err(Errno::ENOSYS),
        abi::XEN_PM_PDC => check_capabilities(caller, GuestVirtAddr(part(&a)?)),
        _ => Err(Errno::EINVAL),
    }
}

/// The structure in the operation's union.
fn part<T: FromBytes>(a: &SetProcessorPminfo) -> Result<T, Errno> {
    T::read_from_prefix(a.u.as_bytes()).map(|(value, _)| value).map_err(|_| Errno::EINVAL)
}

/// The CPU with this ACPI identifier.
fn cpu_of(caller: &Caller<'_>, acpi_id: u32) -> Result<CpuId, Errno> {
    let platform = &caller.hv.platform;
    let acpi = |cpu: CpuId| platform.physical_id(cpu).map_or(cpu.0, |id| (id >> 32) as u32);
    (0..platform.cpu_count()).map(CpuId).find(|&cpu| acpi(cpu) == acpi_id).ok_or(Errno::EINVAL)
}

fn array<T: FromBytes + IntoBytes>(caller: &Caller<'_>, at: u64, count: u32) -> Result<Vec<T>, Errno> {
    (0..u64::from(count)).map(|n| caller.read_at(GuestVirtAddr(at), n)).collect()
}

/// C states. Those that nobody could enter are left out.
fn set_idle(caller: &Caller<'_>, cpu: CpuId, given: &ProcessorPower) -> OpResult {
    let mut states: Vec<ProcessorCx> = array(caller, given.states, given.count.min(CX_MAX))?;
    states.retain(|s| matches!(s.kind, 1..=3) && !(s.reg.space_id == SPACE_SYSTEM_IO && s.reg.address == 0));
    caller.hv.control.power.0.lock().entry(cpu).or_default().idle = Idle { states };
    SUCCESS
}

/// P states, in parts.
fn set_performance(caller: &Caller<'_>, cpu: CpuId, given: &ProcessorPerformance) -> OpResult {
    let has = |part: u32| given.flags & part != 0;
    if has(abi::XEN_PX_PCT) && given.control_register.space_id != given.status_register.space_id {
        return Err(Errno::EINVAL);
    }
    if has(abi::XEN_PX_PSS) && !(2..=PX_MAX).contains(&given.state_count) {
        return Err(Errno::EINVAL);
    }
    let coordinated = abi::XEN_CPUPERF_SHARED_TYPE_HW..=abi::XEN_CPUPERF_SHARED_TYPE_ANY;
    if has(abi::XEN_PX_PSD) && !coordinated.contains(&given.shared_type) {
        return Err(Errno::EINVAL);
    }
    let states = if has(abi::XEN_PX_PSS) { array(caller, given.states, given.state_count)? } else { Vec::new() };
    let mut all = caller.hv.control.power.0.lock();
    let known = &mut all.entry(cpu).or_default().performance;
    known.known |= given.flags & PX_ALL;
    if has(abi::XEN_PX_PCT) {
        known.info.control_register = given.control_register;
        known.info.status_register = given.status_register;
    }
    if has(abi::XEN_PX_PSS) {
        known.info.state_count = given.state_count;
        known.states = states;
    }
    if has(abi::XEN_PX_PSD) {
        known.info.domain_info = given.domain_info;
        known.info.shared_type = given.shared_type;
    }
    if has(abi::XEN_PX_PPC) {
        known.info.platform_limit = given.platform_limit;
    }
    SUCCESS
}

/// What dom0 is about to tell the firmware that the system can do (_PDC: revision, size, bits). The hypervisor adds
/// nothing: it enters no state but C1.
fn check_capabilities(caller: &Caller<'_>, at: GuestVirtAddr) -> OpResult {
    let [revision, count]: [u32; 2] = caller.read(at)?;
    if revision != PDC_REVISION || count == 0 {
        return Err(Errno::EINVAL);
    }
    let bits: u32 = caller.read_at(at, 2)?;
    caller.write_at(at, 2, &bits)?;
    SUCCESS
}

/// The debug key: what is known.
pub(crate) fn show(hv: &Hypervisor) {
    for cpu in (0..hv.platform.cpu_count()).map(CpuId) {
        let (idle, performance) = {
            let all = hv.control.power.0.lock();
            all.get(&cpu).map(|p| (p.idle.clone(), p.performance.clone())).unwrap_or_default()
        };
        let idle_ms = hv.scheduler.idle_time(hv, cpu).0 / 1_000_000;
        hv.console.say(hv, format_args!("{cpu}: idle for {idle_ms} ms, halts (C1)"));
        for s in &idle.states {
            let (at, latency) = (s.reg.address, s.latency);
            hv.console.say(hv, format_args!("    C{}: space {} address {at:#x}, {latency} us", s.kind, s.reg.space_id));
        }
        for (n, s) in performance.states.iter().enumerate() {
            let (mhz, control) = (s.core_frequency, s.control);
            hv.console.say(hv, format_args!("    P{n}: {mhz} MHz, {} mW, control {control:#x}", s.power));
        }
        if performance.known != 0 {
            let limit = performance.info.platform_limit;
            hv.console.say(hv, format_args!("    parts known {:#x}, limit P{limit}", performance.known));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::{Outcome, dispatch};
    use crate::testing::TestHost;
    use crate::types::DomainId;
    use alloc::string::String;

    const AT: u64 = 0x1000;
    const STATES: u64 = 0x3000;

    fn set<T: IntoBytes + zerocopy::Immutable>(host: &TestHost, id: u32, kind: u32, value: &T) -> OpResult {
        let caller = host.caller(DomainId(0), 0);
        let mut a = SetProcessorPminfo { id, kind, ..Default::default() };
        value.write_to_prefix(a.u.as_mut_bytes()).unwrap();
        caller.write(GuestVirtAddr(AT), &[abi::XENPF_SET_PROCESSOR_PMINFO, abi::XENPF_INTERFACE_VERSION]).unwrap();
        caller.write(GuestVirtAddr(AT + abi::UNION_OFFSET), &a).unwrap();
        dispatch(&caller, radon_abi::hypercall::PLATFORM_OP, Args([AT, 0, 0, 0, 0, 0]))
    }

    fn host() -> TestHost {
        let mut host = TestHost::new(1024, 2);
        host.add_domain(1);
        host
    }

    fn shown(host: &TestHost) -> String {
        host.machine.output.lock().clear();
        show(&host.hv);
        String::from_utf8(host.machine.output.lock().clone()).unwrap()
    }

    #[test]
    fn idle_states_are_kept_without_those_that_cannot_be() {
        let host = host();
        let caller = host.caller(DomainId(0), 0);
        let reg = |space_id, address| abi::PowerRegister { space_id, address, ..Default::default() };
        let cx = |kind, reg, latency| ProcessorCx { reg, kind, latency, ..Default::default() };
        let states = [cx(1, reg(0x7f, 0), 1), cx(2, reg(1, 0x814), 77), cx(3, reg(1, 0), 9), cx(9, reg(0x7f, 0), 9)];
        for (n, state) in states.iter().enumerate() {
            caller.write_at(GuestVirtAddr(STATES), n as u64, state).unwrap();
        }
        let power = ProcessorPower { count: 4, flags: 0, states: STATES };
        assert_eq!(set(&host, 1, abi::XEN_PM_CX, &power), SUCCESS);
        let text = shown(&host);
        assert!(
            text.contains("C2: space 1 address 0x814, 77 us") && !text.contains("C3") && !text.contains("C9"),
            "{text}"
        );
        // Told again, the new ones hold.
        assert_eq!(set(&host, 1, abi::XEN_PM_CX, &ProcessorPower { count: 1, ..power }), SUCCESS);
        assert!(!shown(&host).contains("C2:"));
        assert_eq!(set(&host, 2, abi::XEN_PM_CX, &power), Err(Errno::EINVAL), "no such processor");
        assert_eq!(set(&host, 0, abi::XEN_PM_CX, &ProcessorPower { states: 1 << 40, ..power }), Err(Errno::EFAULT));
        // A count that lies costs no more than eight.
        assert_eq!(set(&host, 0, abi::XEN_PM_CX, &ProcessorPower { count: u32::MAX, ..power }), SUCCESS);
    }

    #[test]
    fn performance_states_come_in_parts() {
        let host = host();
        let caller = host.caller(DomainId(0), 0);
        for (n, mhz) in [3400, 2800, 2200].into_iter().enumerate() {
            let state = ProcessorPx { core_frequency: mhz, control: n as u64, ..Default::default() };
            caller.write_at(GuestVirtAddr(STATES), n as u64, &state).unwrap();
        }
        let px = |flags| ProcessorPerformance {
            flags,
            state_count: 3,
            states: STATES,
            shared_type: 2,
            platform_limit: 1,
            ..Default::default()
        };
        let try_px = |info: ProcessorPerformance| set(&host, 0, abi::XEN_PM_PX, &info);
        assert_eq!(try_px(px(abi::XEN_PX_PSS | abi::XEN_PX_PPC)), SUCCESS);
        let text = shown(&host);
        assert!(text.contains("P1: 2800 MHz") && text.contains("parts known 0x6, limit P1"), "{text}");
        assert_eq!(try_px(px(PX_ALL)), SUCCESS);
        assert!(shown(&host).contains("parts known 0xf"));
        // Nothing that cannot be is taken, and nothing of it.
        assert_eq!(try_px(ProcessorPerformance { state_count: 1, ..px(abi::XEN_PX_PSS) }), Err(Errno::EINVAL));
        assert_eq!(try_px(ProcessorPerformance { state_count: 257, ..px(abi::XEN_PX_PSS) }), Err(Errno::EINVAL));
        for shared_type in [0, 4] {
            assert_eq!(try_px(ProcessorPerformance { shared_type, ..px(abi::XEN_PX_PSD) }), Err(Errno::EINVAL));
        }
        let mut torn = px(abi::XEN_PX_PCT);
        torn.control_register.space_id = 1;
        assert_eq!(try_px(torn), Err(Errno::EINVAL));
        assert_eq!(try_px(ProcessorPerformance { states: 1 << 40, ..px(abi::XEN_PX_PSS) }), Err(Errno::EFAULT));
        assert!(shown(&host).contains("P2: 2200 MHz"));
    }

    #[test]
    fn other_kinds() {
        let host = host();
        let caller = host.caller(DomainId(0), 0);
        assert_eq!(set(&host, 0, abi::XEN_PM_TX, &0u64), Err(Errno::ENOSYS));
        assert_eq!(set(&host, 0, 9, &0u64), Err(Errno::EINVAL));
        caller.write(GuestVirtAddr(STATES), &[1u32, 1, 0x1f]).unwrap();
        assert_eq!(set(&host, 0, abi::XEN_PM_PDC, &STATES), Ok(Outcome::Done(0)));
        assert_eq!(caller.read::<[u32; 3]>(GuestVirtAddr(STATES)), Ok([1, 1, 0x1f]));
        caller.write(GuestVirtAddr(STATES), &[2u32, 1, 0]).unwrap();
        assert_eq!(set(&host, 0, abi::XEN_PM_PDC, &STATES), Err(Errno::EINVAL));
    }
}
