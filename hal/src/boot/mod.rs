//! From the boot loader's entry to a machine that is ready: the order of the start.
//!
//! [`crate::entry`] names the image's main function, which gets a [`Handover`]. [`Handover::start`] gives console and
//! command line, [`Early::bring_up`] everything else on the boot CPU, [`Booted::start_cpus`] the other CPUs.
// Unsafe: entered by assembly; sets up what all other modules' proofs rest on.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::arch::global_asm;
use core::ops::Range;
use core::ptr::NonNull;
use radon_core::options::{self, Options, Timestamps};
use radon_core::platform::PhysMemory;
use radon_core::sort::sort_by_key;
use radon_core::types::{MachineAddr, PAGE_SIZE};
use radon_x86::acpi::Acpi;
use radon_x86::boot_info::{self, BootInfo, BootInfoError, MemoryKind};

use crate::cpu::{self, Features, PerCpu};
use crate::layout::{self, DIRECT_MAP_SIZE};
use crate::memory::{self, DirectMap, direct_map_pointer};
use crate::{
    acpi, apic, console, frames, heap, interrupts, ioapic, lock_order, machine_check, nmi, paging, pic, power, report,
    rtc, smp, time, traps,
};

global_asm!(include_str!("entry.S"), options(att_syntax, raw));

/// Names the function that the image starts with: `fn(Handover) -> !`.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[allow(unsafe_code, reason = "hal's entry calls it by this name, and the type is checked here")]
        const _: () = {
            #[unsafe(no_mangle)]
            fn radon_main(handover: $crate::boot::Handover) -> ! {
                let main: fn($crate::boot::Handover) -> ! = $main;
                main(handover)
            }
        };
    };
}

unsafe extern "Rust" {
    fn radon_main(handover: Handover) -> !;
}

/// What the boot loader's registers held.
#[derive(Debug)]
pub struct Handover {
    magic: u32,
    info: MachineAddr,
    cpu: &'static PerCpu,
}

/// Where the assembly of the entry leads, on the boot CPU's stack, at high addresses.
#[unsafe(no_mangle)]
extern "C" fn radon_boot_entry(magic: u32, info: u64, load_offset: u64) -> ! {
    layout::set_load_offset(load_offset);
    traps::init();
    heap::init();
    let cpu = cpu::init_boot_cpu();
    lock_order::init();
    // SAFETY: `entry!` defines it with this type.
    unsafe { radon_main(Handover { magic, info: MachineAddr(info), cpu }) }
}

/// The start so far: console and command line work, the page tables are still those of the start.
#[derive(Debug)]
pub struct Early {
    /// What the boot loader said.
    pub info: BootInfo,
    /// The command line.
    pub options: Options,
    cpu: &'static PerCpu,
}

/// The machine is ready, on the boot CPU.
#[derive(Debug)]
pub struct Booted {
    /// What the boot loader said.
    pub info: BootInfo,
    /// The command line.
    pub options: Options,
    /// The firmware's tables, if there are any that can be used.
    pub acpi: Option<Acpi>,
    /// What the processor can do.
    pub features: Features,
    /// Wall-clock time at system time 0, in nanoseconds since 1970-01-01 UTC; 0 if there is no clock.
    pub wall_clock_at_boot: u64,
    /// Machine addresses that must not be given to anyone: image, start page of CPUs. Frames that hal took since are
    /// simply not in what [`frames::hand_over`] returns.
    pub reserved: Vec<Range<u64>>,
    start_page: Option<MachineAddr>,
}

/// The ranges of machine memory of some kinds, in bytes.
fn ranges(info: &BootInfo, kinds: &[MemoryKind]) -> Vec<Range<u64>> {
    info.memory_map.iter().filter(|r| kinds.contains(&r.kind)).map(|r| r.start.0..r.end().0).collect()
}

impl Handover {
    /// Reads what the boot loader left, and sets up the console. Stops the machine with a report if the loader left
    /// nothing that can be started with.
    #[must_use]
    #[inline(never)] // what it has on the stack is gone when it returns
    pub fn start(self) -> Early {
        console::init(&console::Settings::default());
        // SAFETY: the page tables of the start are in use; it is used to read only.
        let early = unsafe { DirectMap::early() };
        let read = |at: MachineAddr, to: &mut [u8]| early.read(at, to);
        let info = boot_info::parse(&read, self.magic, self.info).and_then(|info| add_efi_map(info, &early));
        let info = info.unwrap_or_else(|e| report::stop(format_args!("{e}")));
        let mut options = options::parse(&info.command_line);
        options.problems.extend(cpu::hidden::hide(&options.cpuid));
        console::init(&console_settings(&options));
        report::set_no_reboot(options.noreboot);
        options.reboot.into_iter().for_each(power::set_reboot_method);
        nmi::set_policy(options.nmi);
        if options.selftest || options.debug_exit {
            crate::selftest::activate();
        }
        Early { info, options, cpu: self.cpu }
    }
}

/// Takes the EFI memory map that the start-up code was given when it ended boot services.
fn add_efi_map(info: BootInfo, memory: &DirectMap) -> Result<BootInfo, BootInfoError> {
    let [map, size, entry] = layout::efi_memory_map();
    let mut bytes = alloc::vec![0; memory.load_u64(size) as usize];
    memory.read(map, &mut bytes);
    info.with_efi_map(&bytes, memory.load_u64(entry) as usize)
}

fn console_settings(options: &Options) -> console::Settings {
    let port = if options.console.com2 && !options.console.com1 { options.com2 } else { options.com1 };
    console::Settings {
        port: port.io_base,
        baud: port.baud,
        framing: console::Framing { data_bits: port.data_bits, parity: port.parity, stop_bits: port.stop_bits },
        enabled: options.console.com1 || options.console.com2,
        timestamps: options.console_timestamps != Timestamps::None,
        host_level: options.host_level,
        guest_level: options.guest_level,
    }
}

impl Early {
    /// Brings the machine up on this CPU. Stops with a report if something that Radon cannot do without fails.
    #[must_use]
    pub fn bring_up(self) -> Booted {
        let Early { info, options, cpu } = self;
        for problem in &options.problems {
            log::warn!("Command line: {problem}");
        }
        show_loading(&info);
        let features = cpu::features();
        cpu::set_control_registers(features);
        if !features.nx {
            report::stop(format_args!(
                "the processor has no NX, which Radon and nested page tables need (CPUID 0x80000001 EDX bit 20 is clear); \
                 enable 'NX mode' or 'No-execute memory protection' in the firmware's setup"
            ));
        }
        // SAFETY: the page tables of the start are in use; it is used to read only.
        let early = unsafe { DirectMap::early() };
        let acpi = match acpi::read(&info, &early) {
            Ok(acpi) => {
                acpi::show(&acpi);
                Some(acpi)
            }
            // The tests in ring 0 do without.
            Err(e) if options.selftest => {
                log::warn!("{e}");
                None
            }
            Err(e) => report::stop(format_args!("{e}; neither Radon nor dom0 can run without these tables")),
        };
        if let Some(problem) = acpi.as_ref().and_then(Acpi::missing_part).filter(|_| !options.selftest) {
            report::stop(format_args!("{problem}; neither Radon nor dom0 can run without this table"));
        }
        let start_page = find_start_page(&info);
        let reserved = set_up_memory(&info, acpi.as_ref(), features);
        if let Err(e) = smp::make_interrupt_stacks(cpu) {
            report::fatal(None, format_args!("no memory for the boot CPU's stacks ({e:?})"));
        }
        traps::use_own_stacks();
        machine_check::init_cpu();
        pic::disable();
        interrupts::init();
        let madt = acpi.as_ref().and_then(|a| a.madt.as_ref());
        if !apic::init(madt.map_or(MachineAddr(0), |m| m.local_apic_address), features, options.x2apic) {
            report::stop(format_args!(
                "the processor has no local APIC that can be used; enable it in the firmware's setup, or under QEMU use a \
                 CPU model that has it"
            ));
        }
        ioapic::init(madt.map_or(&[], |m| &m.io_apics));
        let mode = if apic::is_x2apic() { "x2APIC" } else { "xAPIC" };
        log::info!("Interrupts: local APICs in {mode} mode, I/O APICs take {} interrupts", ioapic::gsi_count());
        let source = time::init(acpi.as_ref(), options.clock_source);
        apic::calibrate_timer();
        show_time(features, source);
        if let Some(acpi) = &acpi {
            power::init(acpi);
        }
        let century = acpi.as_ref().and_then(|a| a.fadt.as_ref()).map_or(0, |f| f.century);
        let wall_clock_at_boot = rtc::wall_clock_at_start(century);
        cpu.set_online();
        Booted { info, options, acpi, features, wall_clock_at_boot, reserved, start_page }
    }
}

fn show_loading(info: &BootInfo) {
    let image = layout::image_phys();
    log::debug!("Image at {:#x}-{:#x}", image.start, image.end);
    let Some(efi) = &info.efi else { return };
    let ended_by = if efi.image_handle.is_some() { "Radon" } else { "the loader" };
    let table = efi.system_table.unwrap_or_default();
    let entries = efi.memory_map.len();
    log::info!(
        "EFI: boot services ended by {ended_by}, system table at {:#x}, memory map of {entries} entries",
        table.0
    );
}

fn show_time(features: Features, source: time::Source) {
    let hz = time::tsc_hz();
    log::info!(
        "Time: TSC at {}.{:03} MHz (by {source:?}){}, local APIC timer {}",
        hz / 1_000_000,
        hz / 1000 % 1000,
        if features.invariant_tsc { ", invariant" } else { "" },
        if apic::has_tsc_deadline() { "by TSC deadline" } else { "one-shot" },
    );
    if !features.invariant_tsc {
        log::warn!("The TSC is not said to be invariant: time may change its speed with the processor's");
    }
}

/// Sets up frame allocation, page tables, machine memory and the growth of the heap; returns what is reserved.
fn set_up_memory(info: &BootInfo, acpi: Option<&Acpi>, features: Features) -> Vec<Range<u64>> {
    const LOW: Range<u64> = 0..1 << 20;
    let ram = ranges(info, &[MemoryKind::Ram]);
    let mut reserved = alloc::vec![LOW, layout::image_phys()];
    reserved.extend(info.modules.iter().map(|m| m.start.0..m.start.0.saturating_add(m.length)));
    frames::init(&ram, &reserved);

    // The direct map: whole pages of RAM, and of what firmware left in memory for us.
    let inside = |r: &Range<u64>| r.start.next_multiple_of(PAGE_SIZE)..r.end & !(PAGE_SIZE - 1);
    let around = |r: Range<u64>| r.start & !(PAGE_SIZE - 1)..r.end.saturating_add(PAGE_SIZE - 1) & !(PAGE_SIZE - 1);
    let mut mapped: Vec<Range<u64>> = ram.iter().map(inside).collect();
    mapped.push(LOW);
    mapped.extend(ranges(info, &[MemoryKind::AcpiReclaimable, MemoryKind::AcpiNvs]).into_iter().map(around));
    let tables = acpi.iter().flat_map(|a| &a.tables);
    mapped.extend(tables.map(|t| around(t.at.0..t.at.0 + u64::from(t.length))));
    let roots = acpi.iter().flat_map(|a| [Some(a.root.rsdt), a.root.xsdt]).flatten().filter(|at| at.0 != 0);
    mapped.extend(roots.map(|at| around(at.0..at.0 + 4096)));
    let mapped = merge(mapped);
    // SAFETY: called once, on the boot CPU, with the page tables of the start in use. The ranges are RAM and tables
    // kept in RAM.
    if let Err(e) = unsafe { paging::init(&mapped, features) } {
        report::fatal(None, format_args!("the page tables cannot be made: {e:?}"));
    }
    let image = layout::image_phys();
    let without_image = mapped.iter().flat_map(|r| [r.start..r.end.min(image.start), r.start.max(image.end)..r.end]);
    let accessible: Vec<_> = without_image.filter(|r| r.start < r.end).collect();
    if accessible.len() > memory::MAX_RANGES {
        log::warn!("The memory map has {} pieces: some of the smallest are not used", accessible.len());
    }
    // SAFETY: all of them were mapped writable just now (the image's constants are not among them), for ever.
    unsafe { memory::init(&accessible) };
    // SAFETY: frames come from the allocator, which gives each to one owner, and the direct map has all of them.
    unsafe { heap::set_provider(more_heap) };
    reserved
}

/// A chunk for the heap: a whole one, or, where memory is in pieces, half of it or less.
fn more_heap(least: usize) -> Option<(NonNull<u8>, usize)> {
    let least = (least as u64).div_ceil(PAGE_SIZE).checked_next_power_of_two()?;
    let mut count = least.max(heap::CHUNK as u64 / PAGE_SIZE);
    loop {
        if let Some(at) = frames::allocate(count) {
            return Some((NonNull::new(direct_map_pointer(at))?, (count * PAGE_SIZE) as usize));
        }
        count /= 2;
        if count < least {
            return None;
        }
    }
}

/// Sorts ranges and joins those that touch; cuts what the direct map cannot hold.
fn merge(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    sort_by_key(&mut ranges, |r| r.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let range = range.start..range.end.min(DIRECT_MAP_SIZE);
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ if range.start < range.end => merged.push(range),
            _ => (),
        }
    }
    merged
}

/// The page that the other CPUs start in: the highest one of RAM below 640 KiB that no module lies in.
fn find_start_page(info: &BootInfo) -> Option<MachineAddr> {
    let free = |page: u64| {
        let module = |m: &boot_info::Module| m.start.0 < page + PAGE_SIZE && page < m.start.0.saturating_add(m.length);
        !info.modules.iter().any(module)
    };
    let usable = |page: u64| {
        info.memory_map.iter().any(|r| r.kind == MemoryKind::Ram && r.start.0 <= page && page + PAGE_SIZE <= r.end().0)
    };
    // Page 0 holds the BIOS's data.
    (1..0xa0).rev().map(|n| n * PAGE_SIZE).find(|&page| usable(page) && free(page)).map(MachineAddr)
}

impl Booted {
    /// The page below 640 KiB in which other CPUs start: stays the hypervisor's.
    #[must_use]
    pub fn start_page(&self) -> Option<MachineAddr> {
        self.start_page
    }

    /// Free RAM below 1 MiB, which was kept back while CPUs started in it, in whole frames: without the first one (the
    /// BIOS's data), the start page, and boot modules.
    #[must_use]
    pub fn low_memory(&self) -> Vec<Range<u64>> {
        let ram = ranges(&self.info, &[MemoryKind::Ram]);
        let low: Vec<_> = ram.into_iter().map(|r| r.start..r.end.min(1 << 20)).filter(|r| r.start < r.end).collect();
        let modules = self.info.modules.iter().map(|m| m.start.0..m.start.0.saturating_add(m.length));
        let start_page = self.start_page.map(|p| p.0..p.0 + PAGE_SIZE);
        let taken: Vec<_> = modules.chain(core::iter::once(0..PAGE_SIZE)).chain(start_page).collect();
        frames::whole_frames(&low, &taken)
    }

    /// Machine memory.
    #[must_use]
    pub fn memory(&self) -> &'static DirectMap {
        memory::memory()
    }

    /// Starts the other CPUs, as many as the command line allows; each runs `main` on its own stack with interrupts off.
    /// Returns the number of CPUs that are online. To be called once.
    pub fn start_cpus(&self, main: fn() -> !) -> u32 {
        let madt = self.acpi.as_ref().and_then(|a| a.madt.as_ref());
        let (Some(madt), Some(page)) = (madt, self.start_page) else {
            log::warn!("Only the boot CPU is used: the firmware lists no others, or no memory below 640 KiB is free");
            return cpu::count();
        };
        // SAFETY: the page is RAM below 640 KiB, and the first MiB is reserved: nobody else gets it.
        unsafe { smp::start(madt, page, self.options.maxcpus, self.options.smt, main) }
    }
}
