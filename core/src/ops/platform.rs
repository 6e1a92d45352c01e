//! `platform_op(arg)`: what the hardware domain asks of the machine.

use alloc::string::String;
use alloc::vec::Vec;

use log::Level;
use radon_abi::errno::Errno;
use radon_abi::platform::{
    self as abi, CpuOl, EnterAcpiSleep, FirmwareInfo, GetIdleTime, PcpuInfo, PcpuVersion, ResourceEntry, ResourceOp,
    SetTime32, SetTime64, SymData,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::power::set_processor_pminfo;
use crate::hypercall::{Args, Caller, OpResult, Operation, Outcome, SUCCESS, no, op, operation, part};
use crate::sched::CPUS_MAX;
use crate::time::clock::set_wall_clock;
use crate::types::{CpuId, GuestVirtAddr, Nanoseconds};

/// Most entries of a `XENPF_resource_op`, as Xen has it.
const RESOURCE_ENTRIES_MAX: u32 = 3;
/// The time stamp counter.
const MSR_TSC: u64 = 0x10;
/// Longest name of a symbol that is given, its end included.
const SYMBOL_NAME_MAX: usize = 512;

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    op(abi::XENPF_SETTIME32, "XENPF_settime32", settime32),
    no(abi::XENPF_ADD_MEMTYPE, "XENPF_add_memtype", Errno::ENOSYS),
    no(abi::XENPF_DEL_MEMTYPE, "XENPF_del_memtype", Errno::ENOSYS),
    no(abi::XENPF_READ_MEMTYPE, "XENPF_read_memtype", Errno::ENOSYS),
    no(abi::XENPF_MICROCODE_UPDATE, "XENPF_microcode_update", Errno::EOPNOTSUPP),
    no(abi::XENPF_PLATFORM_QUIRK, "XENPF_platform_quirk", Errno::EINVAL),
    op(abi::XENPF_GET_CPU_VERSION, "XENPF_get_cpu_version", get_cpu_version),
    no(abi::XENPF_EFI_RUNTIME_CALL, "XENPF_efi_runtime_call", Errno::ENOSYS),
    part(
        abi::XENPF_FIRMWARE_INFO,
        "XENPF_firmware_info",
        "nothing was asked of the firmware: every table is empty",
        firmware_info,
    ),
    part(
        abi::XENPF_ENTER_ACPI_SLEEP,
        "XENPF_enter_acpi_sleep",
        "suspend to RAM; hardware-reduced ACPI",
        enter_acpi_sleep,
    ),
    no(abi::XENPF_CHANGE_FREQ, "XENPF_change_freq", Errno::ENOSYS),
    op(abi::XENPF_GETIDLETIME, "XENPF_getidletime", getidletime),
    part(
        abi::XENPF_SET_PROCESSOR_PMINFO,
        "XENPF_set_processor_pminfo",
        "states are checked, kept and shown, but not used: an idle CPU halts, and the speed is the firmware's business",
        set_processor_pminfo,
    ),
    op(abi::XENPF_GET_CPUINFO, "XENPF_get_cpuinfo", get_cpuinfo),
    part(abi::XENPF_CPU_ONLINE, "XENPF_cpu_online", "all CPUs are online always", cpu_online),
    no(abi::XENPF_CPU_OFFLINE, "XENPF_cpu_offline", Errno::EOPNOTSUPP),
    no(abi::XENPF_CPU_HOTADD, "XENPF_cpu_hotadd", Errno::EOPNOTSUPP),
    no(abi::XENPF_MEM_HOTADD, "XENPF_mem_hotadd", Errno::EOPNOTSUPP),
    no(abi::XENPF_CORE_PARKING, "XENPF_core_parking", Errno::EOPNOTSUPP),
    part(
        abi::XENPF_RESOURCE_OP,
        "XENPF_resource_op",
        "only system time (as the TSC) can be read: monitoring counters are not driven",
        resource_op,
    ),
    op(abi::XENPF_SETTIME64, "XENPF_settime64", settime64),
    op(abi::XENPF_GET_SYMBOL, "XENPF_get_symbol", get_symbol),
];

/// `platform_op(arg)`: the operation's number is in its structure.
///
/// # Errors
/// `EPERM` for callers other than dom0; `EACCES` for another version of the interface; `ENOSYS` for an unknown operation;
/// `EFAULT`; else see there.
pub fn platform_op(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    // Command and version; each operation copies its own structure, all of them once.
    let [cmd, version]: [u32; 2] = caller.read(args.handle(0))?;
    if version != abi::XENPF_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    operation(OPERATIONS, cmd, caller, args)
}

/// Where the operation's structure is.
fn structure(args: Args) -> GuestVirtAddr {
    GuestVirtAddr(args.get(0).wrapping_add(abi::UNION_OFFSET))
}

/// Copies the operation's structure in.
pub(super) fn read<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<T, Errno> {
    caller.read(structure(args))
}

/// Copies the operation's structure out.
fn write<T: IntoBytes + Immutable>(caller: &Caller<'_>, args: Args, value: &T) -> OpResult {
    caller.write(structure(args), value)?;
    SUCCESS
}

/// Number of the last CPU.
fn last_cpu(caller: &Caller<'_>) -> u32 {
    caller.hv.platform.cpu_count().saturating_sub(1)
}

/// `XENPF_settime64`: the wall clock had this value at that system time. Errors: `EINVAL`.
fn settime64(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: SetTime64 = read(caller, args)?;
    if a.mbz != 0 {
        return Err(Errno::EINVAL);
    }
    set_wall_clock(caller.hv, a.secs, a.nsecs, Nanoseconds(a.system_time))?;
    SUCCESS
}

/// `XENPF_settime32`: as `XENPF_settime64`.
fn settime32(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: SetTime32 = read(caller, args)?;
    set_wall_clock(caller.hv, u64::from(a.secs), a.nsecs, Nanoseconds(a.system_time))?;
    SUCCESS
}

/// `XENPF_get_cpuinfo`: how firmware names a CPU. A CPU that does not exist is said to be invalid.
fn get_cpuinfo(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: PcpuInfo = read(caller, args)?;
    let last = last_cpu(caller);
    a.max_present = last;
    if a.xen_cpuid > last {
        a.flags = abi::XEN_PCPU_FLAGS_INVALID;
    } else {
        let id = caller.hv.platform.physical_id(CpuId(a.xen_cpuid)).unwrap_or(u64::from(a.xen_cpuid));
        // The halves of the physical identifier.
        a.apic_id = id as u32;
        a.acpi_id = (id >> 32) as u32;
        a.flags = abi::XEN_PCPU_FLAGS_ONLINE;
    }
    write(caller, args, &a)
}

/// `XENPF_get_cpu_version`: a CPU's model; all zero if there is no such CPU.
fn get_cpu_version(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: PcpuVersion = read(caller, args)?;
    let cpu = caller.hv.platform.cpu_identity(CpuId(a.xen_cpuid)).unwrap_or_default();
    let answer = PcpuVersion {
        xen_cpuid: a.xen_cpuid,
        max_present: last_cpu(caller),
        vendor_id: cpu.vendor,
        family: cpu.family,
        model: cpu.model,
        stepping: cpu.stepping,
    };
    write(caller, args, &answer)
}

/// `XENPF_cpu_online`: brings a CPU up. Errors: `EINVAL` for one that does not exist.
fn cpu_online(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: CpuOl = read(caller, args)?;
    if a.cpuid > last_cpu(caller) { Err(Errno::EINVAL) } else { SUCCESS }
}

/// `XENPF_getidletime`: how long each CPU of a bitmap was idle since boot. CPUs that do not exist leave the bitmap.
fn getidletime(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: GetIdleTime = read(caller, args)?;
    let bits = a.cpumap_nr_cpus.min(CPUS_MAX as u32);
    for n in 0..bits.div_ceil(8) {
        let at = GuestVirtAddr(a.cpumap_bitmap.wrapping_add(u64::from(n)));
        let asked: u8 = caller.read(at)?;
        let mut found = 0u8;
        for bit in (0..8).filter(|bit| asked >> bit & 1 != 0) {
            let cpu = n.saturating_mul(8).saturating_add(bit);
            if cpu < bits && cpu <= last_cpu(caller) {
                let idle = caller.hv.scheduler.idle_time(caller.hv, CpuId(cpu));
                caller.write_at(GuestVirtAddr(a.idletime), u64::from(cpu), &idle.0)?;
                found |= 1u8.wrapping_shl(bit);
            }
        }
        caller.write(at, &found)?;
    }
    a.now = caller.hv.platform.now().0;
    write(caller, args, &a)
}

/// `XENPF_resource_op`: reads and writes MSRs of a CPU, of those that may be. The number of entries done is the result;
/// the entry that failed has its error.
///
/// Work: three entries. Errors: `EINVAL`: more entries, or set bits that must be zero; `ENODEV`: no such CPU; `EFAULT`.
fn resource_op(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: ResourceOp = read(caller, args)?;
    if a.nr_entries == 0 || a.nr_entries > RESOURCE_ENTRIES_MAX {
        return Err(Errno::EINVAL);
    }
    if a.cpu > last_cpu(caller) {
        return Err(Errno::ENODEV);
    }
    for n in 0..u64::from(a.nr_entries) {
        let mut entry: ResourceEntry = caller.read_at(GuestVirtAddr(a.entries), n)?;
        if entry.rsvd != 0 {
            return Err(Errno::EINVAL);
        }
        let done = match entry.cmd {
            // By the ABI, system time stands for the counter; it is the same on all CPUs.
            abi::XEN_RESOURCE_OP_MSR_READ if entry.idx == MSR_TSC => Ok(caller.hv.platform.now().0),
            abi::XEN_RESOURCE_OP_MSR_READ | abi::XEN_RESOURCE_OP_MSR_WRITE if entry.idx >> 32 != 0 => {
                Err(Errno::EINVAL)
            }
            abi::XEN_RESOURCE_OP_MSR_READ | abi::XEN_RESOURCE_OP_MSR_WRITE => Err(Errno::EPERM),
            _ => Err(Errno::EOPNOTSUPP),
        };
        match done {
            Ok(value) => entry.val = value,
            // The C field is a negative int.
            Err(errno) => entry.cmd = errno.to_return() as u32,
        }
        caller.write_at(GuestVirtAddr(a.entries), n, &entry)?;
        if done.is_err() {
            return Ok(Outcome::Done(n));
        }
    }
    Ok(Outcome::Done(u64::from(a.nr_entries)))
}

/// `XENPF_get_symbol`: a symbol of the hypervisor by number; the next number comes back. Past the last one the number
/// stays and the name is empty. A name that is cut tells its whole length.
///
/// Errors: `ERANGE` for numbers that never were; `EFAULT`.
fn get_symbol(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: SymData = read(caller, args)?;
    let platform = &caller.hv.platform;
    let (name, address) = match platform.symbol(a.symnum) {
        Some(found) => found,
        None if a.symnum == 0 || platform.symbol(a.symnum.saturating_sub(1)).is_some() => (String::new(), 0),
        None => return Err(Errno::ERANGE),
    };
    if !name.is_empty() {
        a.symnum = a.symnum.saturating_add(1);
        (a.address, a.kind) = (address, b't');
    }
    let room = (a.namelen as usize).min(SYMBOL_NAME_MAX);
    let text: Vec<u8> = name.bytes().chain(core::iter::once(0)).take(room).collect();
    caller.memory.write(GuestVirtAddr(a.name), &text)?;
    a.namelen = u32::try_from(name.len().saturating_add(1)).unwrap_or(u32::MAX);
    write(caller, args, &a)
}

/// `XENPF_firmware_info`: what the boot code asked of the BIOS or of EFI.
///
/// Errors: `ESRCH` for a disk or monitor that is not known; `ENODEV`: not booted by EFI; `EINVAL`.
fn firmware_info(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut a: FirmwareInfo = read(caller, args)?;
    match a.kind {
        abi::XEN_FW_DISK_INFO | abi::XEN_FW_DISK_MBR_SIGNATURE | abi::XEN_FW_VBEDDC_INFO => Err(Errno::ESRCH),
        abi::XEN_FW_EFI_INFO => Err(Errno::ENODEV),
        abi::XEN_FW_KBD_SHIFT_FLAGS if a.index != 0 => Err(Errno::ESRCH),
        abi::XEN_FW_KBD_SHIFT_FLAGS => {
            // No key is held down.
            a.u = [0; 4];
            write(caller, args, &a)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `XENPF_enter_acpi_sleep`: the last step of dom0's suspend or power-off.
///
/// Errors: `EINVAL` for another state or registers that contradict each other; `EOPNOTSUPP` where the machine cannot do
/// it.
fn enter_acpi_sleep(caller: &Caller<'_>, args: Args) -> OpResult {
    let a: EnterAcpiSleep = read(caller, args)?;
    if a.flags & !abi::XENPF_ACPI_SLEEP_EXTENDED != 0 || !matches!(a.sleep_state, 3 | 5) {
        return Err(Errno::EINVAL);
    }
    if a.flags & abi::XENPF_ACPI_SLEEP_EXTENDED != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let text = format_args!("Preparing system for ACPI S{} state.", a.sleep_state);
    caller.hv.console.log(&*caller.hv.platform, Level::Info, text);
    caller.hv.platform.acpi_sleep(a.sleep_state, a.val_a, a.val_b)?;
    SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestHost;
    use crate::types::DomainId;

    const AT: u64 = 0x1000;

    fn call<T: IntoBytes + Immutable + FromBytes>(
        host: &TestHost,
        domain: DomainId,
        cmd: u32,
        value: T,
    ) -> Result<T, Errno> {
        let caller = host.caller(domain, 0);
        caller.write(GuestVirtAddr(AT), &[cmd, abi::XENPF_INTERFACE_VERSION]).unwrap();
        caller.write(GuestVirtAddr(AT + 8), &value).unwrap();
        assert_eq!(platform_op(&caller, Args([AT, 0, 0, 0, 0, 0]))?, Outcome::Done(0));
        caller.read(GuestVirtAddr(AT + 8))
    }

    #[test]
    fn cpus_are_described() {
        let mut host = TestHost::new(1024, 2);
        let dom0 = host.add_domain(1);
        let info = call(&host, dom0, abi::XENPF_GET_CPUINFO, PcpuInfo { xen_cpuid: 1, ..Default::default() }).unwrap();
        assert_eq!((info.max_present, info.flags), (1, abi::XEN_PCPU_FLAGS_ONLINE));
        let info = call(&host, dom0, abi::XENPF_GET_CPUINFO, PcpuInfo { xen_cpuid: 2, ..Default::default() }).unwrap();
        assert_eq!((info.max_present, info.flags), (1, abi::XEN_PCPU_FLAGS_INVALID));
        let none = PcpuVersion { xen_cpuid: 7, family: 99, ..Default::default() };
        assert_eq!(call(&host, dom0, abi::XENPF_GET_CPU_VERSION, none).unwrap().family, 0);
        assert!(call(&host, dom0, abi::XENPF_CPU_ONLINE, CpuOl { cpuid: 1 }).is_ok());
        assert_eq!(call(&host, dom0, abi::XENPF_CPU_ONLINE, CpuOl { cpuid: 2 }), Err(Errno::EINVAL));
    }

    #[test]
    fn idle_times_are_given_for_cpus_that_exist() {
        let mut host = TestHost::new(1024, 2);
        let dom0 = host.add_domain(1);
        let caller = host.caller(dom0, 0);
        host.machine.advance(Nanoseconds(1000));
        caller.write(GuestVirtAddr(0x2000), &[0xfeu8, 0xff]).unwrap();
        caller.write(GuestVirtAddr(0x3000), &[7u64; 3]).unwrap();
        let ask = GetIdleTime { cpumap_bitmap: 0x2000, cpumap_nr_cpus: 12, idletime: 0x3000, ..Default::default() };
        assert_eq!(call(&host, dom0, abi::XENPF_GETIDLETIME, ask).unwrap().now, 1000);
        assert_eq!(caller.read::<[u8; 2]>(GuestVirtAddr(0x2000)).unwrap(), [2, 0]);
        let times: [u64; 3] = caller.read(GuestVirtAddr(0x3000)).unwrap();
        assert_eq!((times[0], times[2]), (7, 7), "not asked for, not there");
        assert_ne!(times[1], 7);
    }

    #[test]
    fn symbols_are_given_one_by_one() {
        let mut host = TestHost::new(1024, 1);
        let dom0 = host.add_domain(1);
        let get = |symnum, namelen| {
            call(&host, dom0, abi::XENPF_GET_SYMBOL, SymData { symnum, namelen, name: 0x2000, ..Default::default() })
        };
        let name = || host.caller(dom0, 0).read::<[u8; 8]>(GuestVirtAddr(0x2000)).unwrap();
        let first = get(0, 8).unwrap();
        assert_eq!((first.symnum, first.address, first.kind, first.namelen), (1, 0x1000, b't', 6));
        assert_eq!(&name()[..6], b"entry\0");
        // Cut: the caller learns how much room it takes.
        assert_eq!(get(0, 3).unwrap().namelen, 6);
        assert_eq!(get(1, 8).unwrap().symnum, 2);
        assert_eq!(&name()[..5], b"main\0");
        let end = get(2, 8).unwrap();
        assert_eq!((end.symnum, end.namelen, name()[0]), (2, 1, 0));
        assert_eq!(get(3, 8), Err(Errno::ERANGE));
    }

    #[test]
    fn resources_are_system_time_only() {
        let mut host = TestHost::new(1024, 2);
        let dom0 = host.add_domain(1);
        let caller = host.caller(dom0, 0);
        host.machine.advance(Nanoseconds(77));
        let ask = |entries: &[ResourceEntry], cpu| {
            for (n, entry) in entries.iter().enumerate() {
                caller.write_at(GuestVirtAddr(0x2000), n as u64, entry).unwrap();
            }
            let op = ResourceOp { nr_entries: entries.len() as u32, cpu, entries: 0x2000 };
            caller.write(GuestVirtAddr(AT), &[abi::XENPF_RESOURCE_OP, abi::XENPF_INTERFACE_VERSION]).unwrap();
            caller.write(GuestVirtAddr(AT + 8), &op).unwrap();
            let result = platform_op(&caller, Args([AT, 0, 0, 0, 0, 0]));
            (result, caller.read::<[ResourceEntry; 2]>(GuestVirtAddr(0x2000)).unwrap())
        };
        let tsc = ResourceEntry { idx: 0x10, ..Default::default() };
        let (result, done) = ask(&[tsc, ResourceEntry { idx: 0xc8d, cmd: 1, ..tsc }], 1);
        assert_eq!((result, done[0].val), (Ok(Outcome::Done(1)), 77));
        assert_eq!(done[1].cmd as i32, Errno::EPERM.to_return() as i32);
        assert_eq!(ask(&[tsc, tsc], 0).0, Ok(Outcome::Done(2)));
        assert_eq!(ask(&[ResourceEntry { cmd: 1, ..tsc }], 0).0, Ok(Outcome::Done(0)), "it cannot be written");
        assert_eq!(ask(&[ResourceEntry { rsvd: 1, ..tsc }], 0).0, Err(Errno::EINVAL));
        assert_eq!(ask(&[tsc], 2).0, Err(Errno::ENODEV));
        assert_eq!(ask(&[tsc; 4], 0).0, Err(Errno::EINVAL));
        assert_eq!(ask(&[], 0).0, Err(Errno::EINVAL));
    }

    #[test]
    fn the_clock_can_be_set() {
        let mut host = TestHost::new(1024, 1);
        let dom0 = host.add_domain(1);
        let time = SetTime64 { secs: 1_800_000_000, nsecs: 5, mbz: 0, system_time: 0 };
        call(&host, dom0, abi::XENPF_SETTIME64, time).unwrap();
        let at = host.domain(dom0).shared_info.addr().0 + radon_abi::xen::shared_info::WC_SEC;
        assert_eq!(host.hv.platform.memory().load_u32(crate::types::MachineAddr(at)), 1_800_000_000);
        assert_eq!(call(&host, dom0, abi::XENPF_SETTIME64, SetTime64 { mbz: 1, ..time }), Err(Errno::EINVAL));
    }

    #[test]
    fn callers_and_versions_are_checked() {
        let mut host = TestHost::new(1024, 1);
        let (dom0, guest) = (host.add_domain(1), host.add_domain(1));
        assert_eq!(call(&host, guest, abi::XENPF_GET_CPUINFO, PcpuInfo::default()), Err(Errno::EPERM));
        assert_eq!(call(&host, dom0, 1000, [0u8; 128]), Err(Errno::ENOSYS));
        host.caller(dom0, 0).write(GuestVirtAddr(AT), &[abi::XENPF_GET_CPUINFO, 1]).unwrap();
        assert_eq!(platform_op(&host.caller(dom0, 0), Args([AT, 0, 0, 0, 0, 0])), Err(Errno::EACCES));
    }

    #[test]
    fn firmware_and_sleep() {
        let mut host = TestHost::new(1024, 1);
        let dom0 = host.add_domain(1);
        let ask = |kind, index| FirmwareInfo { kind, index, u: [1; 4] };
        let info = |kind, index| call(&host, dom0, abi::XENPF_FIRMWARE_INFO, ask(kind, index));
        assert_eq!(info(abi::XEN_FW_EFI_INFO, 0), Err(Errno::ENODEV));
        assert_eq!(info(abi::XEN_FW_DISK_INFO, 0), Err(Errno::ESRCH));
        assert_eq!(info(abi::XEN_FW_KBD_SHIFT_FLAGS, 0).map(|a| a.u[0]), Ok(0));
        assert_eq!(info(99, 0), Err(Errno::EINVAL));
        let sleep = |sleep_state| EnterAcpiSleep { sleep_state, ..Default::default() };
        assert_eq!(call(&host, dom0, abi::XENPF_ENTER_ACPI_SLEEP, sleep(5)), Err(Errno::EOPNOTSUPP));
        assert_eq!(call(&host, dom0, abi::XENPF_ENTER_ACPI_SLEEP, sleep(1)), Err(Errno::EINVAL));
    }
}
