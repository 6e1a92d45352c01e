//! The bootable image: from the boot loader to dom0.
#![no_std]
#![no_main]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "start-up code without guests: an overflow here is a defect that stops the machine with a report"
)]

extern crate alloc;

mod dom0;
mod guests;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_core::console::{Console, Settings};
use radon_core::domain::{Domain, DomainList};
use radon_core::frames::{FrameAllocator, FrameInfo, KEPT};
use radon_core::hypervisor::Hypervisor;
use radon_core::options::Options;
use radon_core::platform::{PciAddress, PhysicalDevices, Platform as _};
use radon_core::sched::{self, CpuSet, PolicyKind, Scheduler};
use radon_core::time::{Owner, Timers};
use radon_core::types::{CpuId, DomainId, MachineAddr, Mfn, Nanoseconds, NodeId, PAGE_SIZE, VcpuId};
use radon_core::watchdog;
use radon_hal::boot::{Booted, Handover};
use radon_hal::host::BareMetal;
use radon_hal::report::{self, BuildId};
use radon_hal::{apic, console, cpu, frames, heap, idle, interrupts, ioapic, selftest, svm, time};
use radon_x86::boot_info::MemoryKind;
use radon_x86::domain::X86Domain;
use radon_x86::hwdom::{Pci, physical_interrupt};
use radon_x86::irq::{DEVICE_VECTORS, Router};
use radon_x86::machine::HostVector;
use radon_x86::pci::{Ecam, Sbdf};
use radon_x86::run::{ForcedEmulation, System, cpu_loop};
use spin::once::Once;

radon_hal::entry!(main);

/// The one system of this machine: interrupt handlers, which are plain functions, find it here.
static SYSTEM: Once<System> = Once::new();

fn main(handover: Handover) -> ! {
    let sys = start(handover);
    cpu_loop(sys, CpuId(0))
}

/// All that happens before dom0 runs. A function of its own, and its parts as well, so that what they have on the stack
/// is gone when the CPU loop begins, which never returns.
#[inline(never)]
fn start(handover: Handover) -> &'static System {
    let early = handover.start();
    log::info!("Radon {}, build id {}", env!("CARGO_PKG_VERSION"), BuildId);
    log::info!("Loader: {} ({:?})", early.info.loader, early.info.protocol);
    log::info!("Command line: {}", early.info.command_line);
    log::info!("Processor: {}", cpu::brand());
    log::info!("Memory map:");
    for region in &early.info.memory_map {
        log::info!(" {:016x}-{:016x} {}", region.start.0, region.end().0.saturating_sub(1), region.kind.name());
    }
    for (i, module) in early.info.modules.iter().enumerate() {
        log::info!("Module {i}: {} bytes at {:#x}: {}", module.length, module.start.0, module.arguments);
    }
    let machine = early.bring_up();
    match svm::enable_on_this_cpu() {
        Ok(features) => log::info!("SVM: {features}"),
        // The tests in ring 0 that need no guest run on any processor.
        Err(e) if machine.options.selftest => log::warn!("{e}"),
        Err(e) => report::stop(format_args!("{e}")),
    }
    let cpus = machine.start_cpus(ap_main);
    log::info!("{cpus} CPUs online, {} GSIs", ioapic::gsi_count());
    if machine.options.selftest {
        selftest::run(&[], machine.options.selftest_filter.as_deref());
    }

    if machine.options.iommu.enabled && machine.options.iommu.force {
        report::stop(format_args!(
            "'iommu=force' (or 'required') asks for an IOMMU, which this version cannot drive; remove it from the command \
             line: dom0's memory is at machine addresses, so its devices work without"
        ));
    }
    let kernel = dom0::unpack_kernel(&machine).unwrap_or_else(|e| report::stop(format_args!("{e}")));
    if let Some(correction) = time::refine() {
        log::info!("Time: TSC at {} kHz, corrected by {correction} ppm", time::tsc_hz() / 1000);
    }
    let (sys, free) = make_system(&machine, cpus);
    sys.hv.console.register(b'C', "stop with a report, as after a defect", |_| report::crash_on_purpose());
    if machine.options.debug_exit {
        sys.hv.console.register(b'H', "hang this CPU (for tests of the watchdog)", |_| report::hang_on_purpose());
    }
    let own_gsi = take_serial_input(&machine, sys);
    guests::prepare(&machine, sys);
    let parts = dom0::Parts { machine: &machine, kernel, free: &free, own_ports: own_ports(&machine), own_gsi };
    if let Err(e) = dom0::build(sys, parts) {
        report::stop(format_args!("{e}"));
    }
    log::info!("{} MiB free, heap {} KiB; starting dom0", sys.hv.frames.free_frames() >> 8, heap::size() >> 10);
    sys.hv.frames.keep(KEPT);
    if machine.options.tidies {
        sys.hv.frames.tidy_when_idle();
    }
    sys.hv.console.end_boot(&sys.hv);
    if machine.options.watchdog {
        watchdog::start(&sys.hv, machine.options.watchdog_timeout);
    }
    CPUS_MAY_RUN.call_once(|| ());
    (1..cpus).for_each(|n| cpu::send_kick(CpuId(n)));
    sys
}

/// Set once dom0 is built: the other CPUs enter the scheduler.
static CPUS_MAY_RUN: Once<()> = Once::new();

fn ap_main() -> ! {
    if svm::is_enabled()
        && let Err(e) = svm::enable_on_this_cpu()
    {
        report::stop(format_args!("CPU{}: {e}", cpu::this_cpu().id().0));
    }
    while !CPUS_MAY_RUN.is_completed() {
        idle::halt_until_interrupt(|| CPUS_MAY_RUN.is_completed());
    }
    let sys = SYSTEM.wait();
    cpu_loop(sys, cpu::this_cpu().id())
}

/// Makes the hypervisor and hands it all memory that is free; returns that memory's ranges as well.
#[inline(never)]
fn make_system(machine: &Booted, cpus: u32) -> (&'static System, Vec<core::ops::Range<u64>>) {
    let options = &machine.options;
    let kind = match PolicyKind::from_name(options.sched.as_deref().unwrap_or("credit2")) {
        Ok(kind) => kind,
        Err(name) => {
            log::warn!("Command line: sched={name} is not a scheduler of Radon (credit2, credit, null); using credit2");
            PolicyKind::Credit2
        }
    };
    let ram = machine.info.memory_map.iter().filter(|r| r.kind == MemoryKind::Ram);
    let ram: Vec<_> = ram.map(|r| r.start.0..r.end().0).collect();
    let table: &'static [FrameInfo] = frames::frame_table(&ram);
    let forced = forced_emulation(options);
    let platform = BareMetal {
        wall_clock_at_boot: machine.wall_clock_at_boot,
        command_line: alloc::string::String::leak(machine.info.command_line.clone()),
        devices: Some(&Dom0Devices),
        intercept_undefined: forced.is_some(),
    };
    let sys = SYSTEM.call_once(|| System {
        hv: Hypervisor {
            platform: Box::new(platform),
            frames: FrameAllocator::new(table, Mfn(0), 1),
            domains: DomainList::default(),
            scheduler: Scheduler::with_groups(kind, cpus, &run_queues(options, cpus)),
            timers: Timers::new(cpus),
            console: Console::new(Settings::from(options)),
            control: radon_core::control::Control::default(),
            watchdog: radon_core::watchdog::Watchdog::default(),
            trace: radon_core::trace::Trace::default(),
        },
        machine: Box::leak(Box::new(platform)),
        router: Arc::new(Router::new(cpus)),
        forced,
    });
    if let Some(limit) = options.ratelimit
        && sys.hv.scheduler.set_ratelimit_us(limit).is_err()
    {
        log::warn!("Command line: sched_ratelimit_us={limit} is not 0 or 100 to 500000; ignored");
    }
    if let Some(slop) = options.timer_slop {
        sys.hv.timers.set_slop(Nanoseconds(slop.into()));
    }
    interrupts::register(interrupts::NMI_RELAY, relay_nmi);
    for vector in DEVICE_VECTORS {
        interrupts::register(vector, device_interrupt);
    }
    console::set_hook(keep_log);
    let free = frames::hand_over(frames::Source { forever: more_frames, take: heap_block, give_back: free_heap_block });
    for range in &free {
        let first = range.start / PAGE_SIZE;
        sys.hv.frames.add_region(Mfn(first), range.end / PAGE_SIZE - first, NodeId(0));
    }
    for range in machine.low_memory() {
        let first = range.start / PAGE_SIZE;
        sys.hv.frames.add_region(Mfn(first), range.end / PAGE_SIZE - first, NodeId(0));
    }
    // All other RAM is the hypervisor's: nobody maps it, and nothing else is put at its addresses. But page 0 is the BIOS's,
    // which dom0 reaches.
    for region in machine.info.memory_map.iter().filter(|r| r.kind == MemoryKind::Ram) {
        let first = region.start.0.div_ceil(PAGE_SIZE).max(1);
        sys.hv.frames.reserve(Mfn(first), (region.end().0 / PAGE_SIZE).saturating_sub(first), NodeId(0));
    }
    (sys, free)
}

/// Forced emulation, if this is an image for tests and the command line asks for it. In others there is no trace of it.
#[inline(never)]
fn forced_emulation(options: &Options) -> Option<ForcedEmulation> {
    match (cfg!(feature = "hvm_fep"), options.hvm_fep) {
        (true, true) => {
            log::warn!("Guests may force the emulation of instructions ('hvm_fep'): for tests only");
            Some(ForcedEmulation::new())
        }
        (false, true) => {
            log::warn!("Command line: option 'hvm_fep' has no effect: forced emulation is in images for tests only");
            None
        }
        (_, false) => None,
    }
}

/// The groups of CPUs that share run queues.
fn run_queues(options: &Options, cpus: u32) -> Vec<CpuSet> {
    let machine = BareMetal::default();
    let places: Vec<_> = (0..cpus).map(|n| machine.cpu_topology(CpuId(n))).collect();
    let most = options.queue_cpus.unwrap_or(sched::QUEUE_CPUS_DEFAULT);
    let groups = sched::groups(options.run_queues, &places, most);
    log::info!("Scheduling: {} run queues for {cpus} CPUs", groups.len());
    groups
}

/// This CPU got an NMI that dom0 is to hear of: its first vCPU gets one.
fn relay_nmi(_: u8) {
    apic::eoi();
    log::warn!("NMI: the hardware may report an error; dom0 is told ('nmi=fatal' stops the machine instead)");
    if let Some(sys) = SYSTEM.get()
        && let Ok(dom0) = sys.hv.domains.get(DomainId(0))
        && let Some(vcpu) = dom0.vcpu(VcpuId(0))
    {
        vcpu.arch.raise_nmi();
        sys.hv.scheduler.notify(&sys.hv, vcpu);
    }
}

/// The PCI devices that dom0 reports.
struct Dom0Devices;

impl Dom0Devices {
    fn with<R>(f: impl FnOnce(&System, &Domain, &Pci) -> Result<R, Errno>) -> Result<R, Errno> {
        let sys = SYSTEM.get().ok_or(Errno::ENODEV)?;
        let domain = sys.hv.domains.get(DomainId(0))?;
        let x86 = X86Domain::of(&domain).ok_or(Errno::ENODEV)?;
        f(sys, &domain, x86.hardware.as_ref().ok_or(Errno::ENODEV)?.pci())
    }
}

impl PhysicalDevices for Dom0Devices {
    fn add(&self, device: PciAddress, _function: Option<PciAddress>, _node: Option<u32>) -> Result<(), Errno> {
        Dom0Devices::with(|sys, domain, pci| pci.add(&sys.hv, domain, function(device)))
    }

    fn remove(&self, device: PciAddress) -> Result<(), Errno> {
        Dom0Devices::with(|sys, domain, pci| pci.remove(&sys.hv, domain, function(device)))
    }

    fn node(&self, device: PciAddress) -> Option<Option<u32>> {
        // The firmware's word on nodes is not read: the machine is one node.
        let known = Dom0Devices::with(|_, _, pci| Ok(pci.knows(function(device))));
        known.is_ok_and(|known| known).then_some(None)
    }

    fn config_space(&self, _at: MachineAddr, segment: u16, first: u8, last: u8, _reserved: bool) -> Result<(), Errno> {
        // Found in the firmware's tables already; dom0 only confirms it.
        let known = |e: &Ecam| e.segment == segment && e.first_bus <= first && last <= e.last_bus;
        Dom0Devices::with(|_, _, pci| if pci.ecam().iter().any(known) { Ok(()) } else { Err(Errno::ENODEV) })
    }
}

fn function(at: PciAddress) -> Sbdf {
    Sbdf::new(at.segment, u16::from(at.bus) << 8 | u16::from(at.devfn))
}

/// Frames for the hypervisor's own heap and tables, for ever.
fn more_frames(count: u64) -> Option<MachineAddr> {
    let at = heap_block(count)?;
    // Not to be freed, whatever lies there.
    SYSTEM.get()?.hv.frames.set_note(at.mfn(), 0);
    Some(at)
}

/// Frames for one large thing on the hypervisor's heap.
fn heap_block(count: u64) -> Option<MachineAddr> {
    Some(SYSTEM.get()?.hv.frames.alloc_kept(count).ok()?.addr())
}

/// Takes back what [`heap_block`] gave, if it did.
fn free_heap_block(at: MachineAddr, count: u64) -> bool {
    SYSTEM.get().is_some_and(|sys| sys.hv.frames.free_kept(at.mfn(), count))
}

/// Lines that hal has printed go into the ring that `xl dmesg` shows.
fn keep_log(lines: &[u8]) {
    if let Some(sys) = SYSTEM.get() {
        sys.hv.console.keep(lines);
    }
}

/// Vector of the serial port's interrupt.
const SERIAL: u8 = 0xf3;

/// How often a serial port without an interrupt is asked for input, in nanoseconds, and how late that may be.
const SERIAL_POLL: Nanoseconds = Nanoseconds(20_000_000);
const SERIAL_POLL_SLACK: Nanoseconds = Nanoseconds(5_000_000);

/// Has the serial port interrupt the boot CPU for each byte that arrives, or polls it if it has no interrupt. Returns the
/// GSI that it uses.
fn take_serial_input(machine: &Booted, sys: &System) -> Option<u32> {
    let options = &machine.options;
    if !options.console.com1 && !options.console.com2 {
        return None;
    }
    let irq = if options.console.com1 { options.com1.irq } else { options.com2.irq };
    let madt = machine.acpi.as_ref().and_then(|a| a.madt.as_ref());
    let pin = madt.filter(|_| irq != 0).map(|madt| madt.isa_irq(irq));
    interrupts::register(SERIAL, |_| {
        if let Some(sys) = SYSTEM.get()
            && console::receive(|byte| sys.hv.console.receive(&sys.hv, byte))
        {
            console::enable_receive_interrupt();
        }
        apic::eoi();
    });
    if let Some((gsi, active_low, level)) = pin {
        let target = cpu::this_cpu().apic_id();
        let route = ioapic::Route { vector: SERIAL, target, active_low, level, masked: false };
        if ioapic::set_route(gsi, route) {
            console::enable_receive_interrupt();
            return Some(gsi);
        }
    }
    log::info!("The serial port has no interrupt: polled for input");
    poll_serial(&sys.hv, sys.hv.platform.now());
    None
}

/// Takes what has arrived at a serial port without an interrupt, and comes again.
fn poll_serial(hv: &Hypervisor, now: Nanoseconds) {
    console::receive(|byte| hv.console.receive(hv, byte));
    let next = now.saturating_add(SERIAL_POLL);
    hv.timers.arm(&*hv.platform, CpuId(0), next, SERIAL_POLL_SLACK, Owner::Hypervisor(poll_serial));
}

/// A device vector interrupted this CPU.
fn device_interrupt(vector: u8) {
    if let Some(sys) = SYSTEM.get() {
        let at = HostVector { cpu: cpu::this_cpu().id(), vector };
        physical_interrupt(&sys.hv, sys.machine, &sys.router, at);
    }
}

/// Ports of the serial console, which dom0 must not touch.
fn own_ports(machine: &Booted) -> Vec<(u16, u16)> {
    let options = &machine.options;
    let ports = [(options.console.com1, options.com1.io_base), (options.console.com2, options.com2.io_base)];
    ports.into_iter().filter(|(used, _)| *used).map(|(_, base)| (base, base.saturating_add(7))).collect()
}
