//! `platform_op`: what the hardware domain asks of the machine.

use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use core::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::platform::{self as abi, CpuOl, EnterAcpiSleep, FirmwareInfo, GetIdleTime, PcpuInfo, PcpuVersion};
use radon_abi::platform::{ProcessorCx, ProcessorPower, ResourceEntry, ResourceOp, SetProcessorPminfo};
use radon_abi::platform::{SetTime32, SetTime64, SymData};
use radon_abi::sysctl::{self, GetCxStat, GetPmStat};
use radon_abi::{hypercall, xen};
use zerocopy::{FromZeros, IntoBytes};

use super::calls::{platform, sysctl};
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, say, works};
use super::twin::Twin;
use super::{CPUS, SHARED_INFO, now};

pub(crate) static GROUP: Group = Group {
    number: hypercall::PLATFORM_OP,
    checks: &[
        works(abi::XENPF_SETTIME32, "XENPF_settime32", settime32),
        refused(abi::XENPF_ADD_MEMTYPE, "XENPF_add_memtype"),
        refused(abi::XENPF_DEL_MEMTYPE, "XENPF_del_memtype"),
        refused(abi::XENPF_READ_MEMTYPE, "XENPF_read_memtype"),
        refused(abi::XENPF_MICROCODE_UPDATE, "XENPF_microcode_update"),
        refused(abi::XENPF_PLATFORM_QUIRK, "XENPF_platform_quirk"),
        works(abi::XENPF_GET_CPU_VERSION, "XENPF_get_cpu_version", get_cpu_version),
        refused(abi::XENPF_EFI_RUNTIME_CALL, "XENPF_efi_runtime_call"),
        works(abi::XENPF_FIRMWARE_INFO, "XENPF_firmware_info", firmware_info),
        refused(abi::XENPF_CHANGE_FREQ, "XENPF_change_freq"),
        works(abi::XENPF_GETIDLETIME, "XENPF_getidletime", getidletime),
        works(abi::XENPF_SET_PROCESSOR_PMINFO, "XENPF_set_processor_pminfo", set_processor_pminfo),
        works(abi::XENPF_GET_CPUINFO, "XENPF_get_cpuinfo", get_cpuinfo),
        works(abi::XENPF_CPU_ONLINE, "XENPF_cpu_online", cpu_online),
        // The first CPU, which is there and stays, no memory, and an operation that does not exist.
        refused(abi::XENPF_CPU_OFFLINE, "XENPF_cpu_offline"),
        refused(abi::XENPF_CPU_HOTADD, "XENPF_cpu_hotadd"),
        refused(abi::XENPF_MEM_HOTADD, "XENPF_mem_hotadd"),
        refused(abi::XENPF_CORE_PARKING, "XENPF_core_parking"),
        works(abi::XENPF_RESOURCE_OP, "XENPF_resource_op", resource_op),
        works(abi::XENPF_SETTIME64, "XENPF_settime64", settime64),
        works(abi::XENPF_GET_SYMBOL, "XENPF_get_symbol", get_symbol),
    ],
};

/// What switches the machine off: the last check of all.
pub(crate) static LAST: Group = Group {
    number: hypercall::PLATFORM_OP,
    checks: &[works(abi::XENPF_ENTER_ACPI_SLEEP, "XENPF_enter_acpi_sleep", enter_acpi_sleep)],
};

/// Seconds and nanoseconds that the wall clock had when system time was 0, as the shared page has them.
fn wall_clock() -> (u64, u32) {
    let word = |at: u64| SHARED_INFO.0[(at / 8) as usize].load(Ordering::Acquire) >> (at % 8 * 8) & 0xffff_ffff;
    let seconds = word(xen::shared_info::WC_SEC) | word(xen::shared_info::WC_SEC_HI) << 32;
    (seconds, word(xen::shared_info::WC_NSEC) as u32)
}

fn settime32(_: &Twin) -> Outcome {
    let was = wall_clock();
    platform(abi::XENPF_SETTIME32, &mut SetTime32 { secs: 1_000_000_000, nsecs: 5, system_time: 0 })?;
    let is = wall_clock();
    let mut back = SetTime64 { secs: was.0, nsecs: was.1, mbz: 0, system_time: 0 };
    platform(abi::XENPF_SETTIME64, &mut back)?;
    same("the wall clock in the shared page", is, (1_000_000_000, 5))
}

fn settime64(_: &Twin) -> Outcome {
    let was = wall_clock();
    let mut time = SetTime64 { secs: 5_000_000_010, nsecs: 7, mbz: 0, system_time: 10_000_000_000 };
    platform(abi::XENPF_SETTIME64, &mut time)?;
    let is = wall_clock();
    platform(abi::XENPF_SETTIME64, &mut SetTime64 { secs: was.0, nsecs: was.1, mbz: 0, system_time: 0 })?;
    same("the wall clock in the shared page", is, (5_000_000_000, 7))?;
    same("the wall clock that was set back", wall_clock(), was)?;
    time.mbz = 1;
    refuses("a field that must be zero", platform(abi::XENPF_SETTIME64, &mut time), Errno::EINVAL)
}

fn get_cpu_version(_: &Twin) -> Outcome {
    let mut version = PcpuVersion { xen_cpuid: 1, ..PcpuVersion::default() };
    platform(abi::XENPF_GET_CPU_VERSION, &mut version)?;
    let (vendor, signature) = (black_box(__cpuid(0)), black_box(__cpuid(1)).eax);
    same("the last CPU", version.max_present, CPUS - 1)?;
    let words = [vendor.ebx, vendor.edx, vendor.ecx];
    same("the vendor", &version.vendor_id[..], words.as_bytes())?;
    let family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
    same("the family", version.family, family)?;
    same("the stepping", version.stepping, signature & 0xf)?;
    let mut none = PcpuVersion { xen_cpuid: 99, family: 1, ..PcpuVersion::default() };
    platform(abi::XENPF_GET_CPU_VERSION, &mut none)?;
    same("the family of a CPU that is not there", none.family, 0)
}

fn firmware_info(_: &Twin) -> Outcome {
    let info = |kind, index| FirmwareInfo { kind, index, ..FirmwareInfo::default() };
    platform(abi::XENPF_FIRMWARE_INFO, &mut info(abi::XEN_FW_KBD_SHIFT_FLAGS, 0))?;
    let ask = |kind, index| platform(abi::XENPF_FIRMWARE_INFO, &mut info(kind, index));
    refuses("a second keyboard", ask(abi::XEN_FW_KBD_SHIFT_FLAGS, 1), Errno::ESRCH)?;
    refuses("a disk that is not there", ask(abi::XEN_FW_DISK_INFO, 99), Errno::ESRCH)?;
    refuses("a table that is not there", ask(99, 0), Errno::EINVAL)
}

/// QEMU's value for the register that switches the machine off: the type of sleep (0) and the bit that begins it.
const SLEEP_S5: u16 = 1 << 13;

/// Ends the machine, if all is well; so it says before that it is.
fn enter_acpi_sleep(_: &Twin) -> Outcome {
    let mut sleep = EnterAcpiSleep { val_a: SLEEP_S5, sleep_state: 1, ..EnterAcpiSleep::default() };
    refuses("a state that is not there", platform(abi::XENPF_ENTER_ACPI_SLEEP, &mut sleep), Errno::EINVAL)?;
    sleep.sleep_state = 5;
    let (number, operation) = (hypercall::PLATFORM_OP, abi::XENPF_ENTER_ACPI_SLEEP);
    say(format_args!("OPERATION {number} {operation} platform_op XENPF_enter_acpi_sleep ok"));
    say(format_args!("OPERATIONS END"));
    platform(abi::XENPF_ENTER_ACPI_SLEEP, &mut sleep)?;
    let begin = now();
    while now() - begin < 1_000_000_000 {}
    Err(Differs::new(format_args!("the machine goes on")))
}

fn getidletime(_: &Twin) -> Outcome {
    let mut asked = [0b1000_0110u8];
    let mut times = [u64::MAX; 8];
    let mut idle = GetIdleTime {
        cpumap_bitmap: asked.as_mut_ptr() as u64,
        cpumap_nr_cpus: 8,
        idletime: times.as_mut_ptr() as u64,
        ..GetIdleTime::default()
    };
    let before = now();
    platform(abi::XENPF_GETIDLETIME, &mut idle)?;
    same("CPUs", asked[0], 0b110)?;
    same("the time of a CPU that was not asked for", times[0], u64::MAX)?;
    holds("the third CPU, which has nothing to do, was idle for some time", (1..idle.now).contains(&times[2]))?;
    holds("system time goes on", (before..before + 60_000_000_000).contains(&idle.now))
}

/// The first CPU gets an idle state, which can be asked for then.
fn set_processor_pminfo(_: &Twin) -> Outcome {
    let halt = ProcessorCx { kind: 1, latency: 1, power: 1000, ..ProcessorCx::default() };
    let mut states = [ProcessorCx {
        // "Functional fixed hardware": the processor's own way, by HLT.
        reg: abi::PowerRegister { space_id: 0x7f, bit_width: 1, ..abi::PowerRegister::default() },
        ..halt
    }];
    let power = ProcessorPower { count: 1, flags: 1 << 2, states: states.as_mut_ptr() as u64 };
    let mut info = SetProcessorPminfo { id: 0, kind: abi::XEN_PM_CX, ..SetProcessorPminfo::new_zeroed() };
    info.u.as_mut_bytes()[..size_of::<ProcessorPower>()].copy_from_slice(power.as_bytes());
    platform(abi::XENPF_SET_PROCESSOR_PMINFO, &mut info)?;
    let head = GetPmStat { kind: sysctl::PMSTAT_GET_MAX_CX, cpuid: 0 };
    let mut stat = GetCxStat { head, ..GetCxStat::default() };
    sysctl(sysctl::XEN_SYSCTL_GET_PMSTAT, &mut stat)?;
    same("states of the first CPU", stat.nr, 2)?;
    info.kind = 99;
    refuses("states that are not there", platform(abi::XENPF_SET_PROCESSOR_PMINFO, &mut info), Errno::EINVAL)
}

fn get_cpuinfo(_: &Twin) -> Outcome {
    let mut info = PcpuInfo { xen_cpuid: 1, apic_id: 99, ..PcpuInfo::default() };
    platform(abi::XENPF_GET_CPUINFO, &mut info)?;
    same("the last CPU", info.max_present, CPUS - 1)?;
    same("flags of the second", info.flags, abi::XEN_PCPU_FLAGS_ONLINE)?;
    same("its local APIC", info.apic_id, 1)?;
    info.xen_cpuid = CPUS;
    platform(abi::XENPF_GET_CPUINFO, &mut info)?;
    same("flags of one that is not there", info.flags, abi::XEN_PCPU_FLAGS_INVALID)
}

fn cpu_online(_: &Twin) -> Outcome {
    platform(abi::XENPF_CPU_ONLINE, &mut CpuOl { cpuid: CPUS - 1 })?;
    let none = platform(abi::XENPF_CPU_ONLINE, &mut CpuOl { cpuid: 99 });
    refuses("a CPU that is not there", none, Errno::EINVAL)
}

fn resource_op(_: &Twin) -> Outcome {
    const MSR_TSC: u64 = 0x10;
    const MSR_EFER: u64 = 0xc000_0080;
    let read = |idx| ResourceEntry { cmd: abi::XEN_RESOURCE_OP_MSR_READ, idx, ..ResourceEntry::default() };
    let mut entries = [read(MSR_EFER)];
    let mut op = ResourceOp { nr_entries: 1, cpu: 0, entries: entries.as_mut_ptr() as u64 };
    same("entries done", platform(abi::XENPF_RESOURCE_OP, &mut op)?, 0)?;
    same("the error of a register that is nobody's business", entries[0].cmd as i32, Errno::EPERM.to_return() as i32)?;
    entries[0] = read(MSR_TSC);
    op.cpu = 99;
    refuses("a CPU that is not there", platform(abi::XENPF_RESOURCE_OP, &mut op), Errno::ENODEV)?;
    op.cpu = 1;
    same("entries done", platform(abi::XENPF_RESOURCE_OP, &mut op)?, 1)?;
    holds("the counter counts", entries[0].val > 0)
}

/// The first symbols, until the names end or there were some.
fn get_symbol(_: &Twin) -> Outcome {
    let mut name = [0u8; 128];
    let mut symbol = SymData::default();
    let mut last = 0;
    for n in 0..8 {
        symbol.namelen = name.len() as u32;
        symbol.name = name.as_mut_ptr() as u64;
        platform(abi::XENPF_GET_SYMBOL, &mut symbol)?;
        same("the next symbol", symbol.symnum > n, true)?;
        holds("it has a name", name[0].is_ascii_graphic() && symbol.namelen > 1)?;
        holds("addresses rise", symbol.address >= last)?;
        last = symbol.address;
    }
    symbol.symnum = u32::MAX;
    refuses("a symbol that is not there", platform(abi::XENPF_GET_SYMBOL, &mut symbol), Errno::ERANGE)
}
