//! Builds dom0: kernel, memory, tables, domain and vCPUs. The steps and their reasons are in `radon_x86::dom0`.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::fmt;
use core::ops::Range;

use radon_abi::memory::E820Entry;
use radon_core::domain::{Domain, DomainParts, Role};
use radon_core::frames::Order;
use radon_core::p2m::{Kind, P2m};
use radon_core::platform::PhysMemory;
use radon_core::sched::CpuSet;
use radon_core::types::{CpuId, DomainId, Gfn, GuestPhysAddr, MachineAddr, Mfn, NodeId, PAGE_SIZE, VcpuId};
use radon_core::vcpu::Vcpu;
use radon_hal::boot::Booted;
use radon_hal::boot_memory::BootBytes;
use radon_hal::{cpu, ioapic};
use radon_x86::acpi::TableLocation;
use radon_x86::boot_info::{MemoryKind, Module};
use radon_x86::cpuid::{CpuidPolicy, Kind as PolicyKind, XenLeaves, apic_id};
use radon_x86::devices::ioapic::IoApicConfig;
use radon_x86::devices::lapic::{Lapic, LapicConfig};
use radon_x86::dom0::image::{self, Image, Kernel};
use radon_x86::dom0::start_info::{self, EntryState};
use radon_x86::dom0::{acpi, memory};
use radon_x86::domain::X86Domain;
use radon_x86::hwdom::{HardwareDevices, Targets};
use radon_x86::machine::DirectAccess;
use radon_x86::msr::{MemoryTypes, MsrPolicy, MsrState};
use radon_x86::npt::Npt;
use radon_x86::pci::Ecam;
use radon_x86::ports::{SleepPorts, direct_ranges};
use radon_x86::run::System;
use radon_x86::vcpu::{VcpuState, X86Vcpu};
use radon_x86::virt::{SegmentName, gpr};

/// dom0's number.
const DOM0: DomainId = DomainId(0);
/// dom0's guest-physical address width: what its page tables and frame numbers may use.
const ADDRESS_BITS: u32 = 48;
/// The radon version in hypervisor CPUID leaves: that of the Xen ABI it speaks, 4.17.
const XEN_VERSION: u32 = 4 << 16 | 17;

/// Why dom0 cannot be built, for a person to read.
#[derive(Debug)]
pub(crate) struct BuildError(String);

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dom0 cannot be built: {}", self.0)
    }
}

fn failed(what: impl fmt::Display) -> BuildError {
    BuildError(what.to_string())
}

/// The kernel, unpacked and checked, and where its file is.
pub(crate) struct UnpackedKernel {
    kernel: Kernel,
    /// The ELF file is the first `length` bytes of `place`.
    length: usize,
    place: BootBytes,
    /// The scratch memory, if the file had to be unpacked.
    scratch: Option<Range<u64>>,
}

/// Finds the kernel in the first boot module and unpacks it. To be called before machine memory is handed over, so that
/// scratch memory can be had in one piece.
///
/// # Errors
/// No module, not a kernel, a damaged one, too little memory: with what to do about it.
#[inline(never)]
pub(crate) fn unpack_kernel(machine: &Booted) -> Result<UnpackedKernel, BuildError> {
    let module = machine.info.modules.first().ok_or_else(|| {
        failed(
            "the boot loader passed no module; give the dom0 kernel as the first module (GRUB: 'module2 /boot/vmlinuz ...', \
             QEMU: -initrd \"vmlinuz ...,initrd\")",
        )
    })?;
    let bytes = module_bytes(module)?;
    let size = bytes.with(|b| Image::find(b).map(|i| i.scratch_size())).map_err(failed)?;
    if size == 0 {
        let kernel = bytes.with(Kernel::parse).map_err(failed)?;
        let length = module.length as usize;
        return Ok(UnpackedKernel { kernel, length, place: bytes, scratch: None });
    }
    let mut place = BootBytes::scratch(size).ok_or_else(|| {
        failed(format!(
            "no {} MiB of memory in one piece to unpack the kernel; the machine needs more memory",
            size >> 20
        ))
    })?;
    let unpacked = bytes.with(|packed| {
        place.with_mut(|scratch| {
            let elf = Image::find(packed)?.unpack(scratch, radon_hal::checksum::crc32)?;
            Ok((Kernel::parse(elf)?, elf.len()))
        })
    });
    let (kernel, length) = unpacked.map_err(|e: radon_x86::dom0::image::ImageError| failed(e))?;
    let scratch = Some(place.range());
    Ok(UnpackedKernel { kernel, length, place, scratch })
}

fn module_bytes(module: &Module) -> Result<BootBytes, BuildError> {
    BootBytes::module(module).ok_or_else(|| {
        failed(format!("the boot module at {:#x} ({} bytes) is not in memory", module.start.0, module.length))
    })
}

/// Whole frames around a range of machine addresses: first frame and number.
fn frames_of(range: &Range<u64>) -> (Mfn, u64) {
    let first = range.start / PAGE_SIZE;
    (Mfn(first), range.end.div_ceil(PAGE_SIZE).saturating_sub(first))
}

/// What the hypervisor keeps for itself: all RAM that is neither free nor on loan.
fn kept_ranges(machine: &Booted, free: &[Range<u64>], lent: &[Range<u64>]) -> Vec<Range<u64>> {
    let ram = machine.info.memory_map.iter().filter(|r| r.kind == MemoryKind::Ram);
    let mut kept = ram.map(|r| r.start.0..r.end().0).collect::<radon_x86::dom0::ranges::RangeSet>();
    // Below 1 MiB everything is dom0's but the page in which CPUs start.
    free.iter().chain(lent).for_each(|f| kept.remove(f));
    kept.remove(&(0..1 << 20));
    // Page 0, the BIOS's data area, is mapped but is nobody's RAM.
    let start_page = machine.start_page().map(|p| p.0..p.0 + PAGE_SIZE);
    kept.iter().chain(core::iter::once(0..PAGE_SIZE)).chain(start_page).collect()
}

/// Everything that building needs besides the hypervisor itself.
pub(crate) struct Parts<'a> {
    /// The machine.
    pub machine: &'a Booted,
    /// The kernel.
    pub kernel: UnpackedKernel,
    /// Machine memory that the allocator has.
    pub free: &'a [Range<u64>],
    /// Ports of devices that Radon keeps for itself.
    pub own_ports: Vec<(u16, u16)>,
    /// The GSI of such a device.
    pub own_gsi: Option<u32>,
}

/// Builds dom0 and makes its first vCPU runnable.
///
/// # Errors
/// Whatever is missing or does not fit, with what to do about it.
#[inline(never)]
pub(crate) fn build(sys: &'static System, parts: Parts<'_>) -> Result<Arc<Domain>, BuildError> {
    let Parts { machine, kernel, free, own_ports, own_gsi } = parts;
    let memory = sys.hv.platform.memory();
    let vcpus = vcpu_count(machine, sys.hv.platform.cpu_count());

    if let Some(initrd) = machine.info.modules.get(1) {
        let looks_good = module_bytes(initrd)?.with(image::is_initial_file_system);
        if !looks_good {
            log::warn!(
                "the second module does not look like an initial file system (a cpio archive, or something packed that \
                 Linux can unpack): dom0 will probably not find its root; give the distribution's initrd.img"
            );
        }
    }

    // The plan.
    let modules: Vec<Range<u64>> = machine.info.modules.iter().map(|m| m.start.0..m.start.0 + m.length).collect();
    let lent = modules.iter().chain(&kernel.scratch);
    let lent: Vec<Range<u64>> = lent.map(|r| r.start & !(PAGE_SIZE - 1)..r.end.next_multiple_of(PAGE_SIZE)).collect();
    let kept = kept_ranges(machine, free, &lent);
    let (host_tables, madt) = host_tables(machine, memory);
    let tables =
        acpi::Builder { host: &host_tables, madt: &madt, vcpus, hide_uart: !own_ports.is_empty(), has_pic: false };
    let given = machine.info.modules.first().map_or("", |m| m.arguments.as_str());
    let command_line = start_info::command_line(given, &machine.options.dom0_extra);
    let request = memory::Request {
        map: &machine.info.memory_map,
        kept: &kept,
        size: machine.options.dom0_mem,
        kernel: kernel.kernel.load_range(),
        initrd: modules.get(1).cloned(),
        unpacked: kernel.place.range(),
        busy: modules.get(2..).unwrap_or(&[]),
        start_info: start_info::size(command_line.len()),
        acpi: tables.size(),
    };
    let plan = memory::plan(&request).map_err(failed)?;

    // Contents. The RAM disk moves first: the kernel may go where it is.
    if let (Some(from), Some(to)) = (&request.initrd, &plan.initrd)
        && from != to
    {
        memory.copy(MachineAddr(to.start), MachineAddr(from.start), from.end - from.start);
    }
    kernel.place.with(|file| kernel.kernel.load(&file[..kernel.length.min(file.len())], memory));
    memory.write(MachineAddr(plan.acpi.start), &tables.build(plan.acpi.start));
    let written = start_info::write(
        memory,
        &plan.start_info,
        command_line.as_bytes(),
        plan.initrd.as_ref(),
        plan.acpi.start,
        &plan.memmap,
    );
    if !written {
        return Err(failed("its start information does not fit; this is a defect of Radon"));
    }

    // What was on loan becomes ordinary memory, then dom0 takes its share.
    drop(kernel.place.release());
    for range in &lent {
        let (first, count) = frames_of(range);
        sys.hv.frames.reserve(first, count, NodeId(0));
        sys.hv.frames.free_reserved(first, count);
    }
    let domain = make_domain(sys, machine, &plan, vcpus, (own_ports, own_gsi))?;
    domain.memory_map.set(plan.memmap.iter().map(|e| E820Entry { addr: e.addr, size: e.size, kind: e.kind }).collect());
    let entry = start_info::entry_state(kernel.kernel.entry, plan.start_info.start);
    let first = domain.vcpu(VcpuId(0)).ok_or_else(|| failed("it has no vCPU"))?;
    set_entry_state(first, &entry);
    log::info!(
        "dom0: {} vCPUs, {} MiB, kernel at {:#x}-{:#x}, entry {:#x}",
        vcpus,
        plan.size >> 20,
        kernel.kernel.load_range().start,
        kernel.kernel.load_range().end,
        entry.rip
    );
    sys.hv.scheduler.bring_up(&sys.hv, first);
    Ok(domain)
}

/// `dom0_max_vcpus=`, else as many as there are CPUs.
fn vcpu_count(machine: &Booted, cpus: u32) -> u32 {
    let (min, max) = machine.options.dom0_max_vcpus;
    cpus.max(min).min(max).clamp(1, 128)
}

/// The machine's ACPI tables, and the contents of its MADT.
fn host_tables(machine: &Booted, memory: &dyn PhysMemory) -> (Vec<TableLocation>, Vec<u8>) {
    let Some(acpi) = &machine.acpi else { return (Vec::new(), Vec::new()) };
    let madt = acpi.find(b"APIC").map_or(Vec::new(), |t| {
        let mut bytes = vec![0; t.length as usize];
        memory.read(t.at, &mut bytes);
        bytes
    });
    (acpi.tables.clone(), madt)
}

fn make_domain(
    sys: &'static System,
    machine: &Booted,
    plan: &memory::Plan,
    vcpus: u32,
    (own_ports, own_gsi): (Vec<(u16, u16)>, Option<u32>),
) -> Result<Arc<Domain>, BuildError> {
    let hv = &sys.hv;
    let phys = hv.platform.memory();
    let no_memory = |what: &str| failed(format!("no memory for its {what}; the machine needs more memory"));

    hv.frames.account(DOM0).set_limit(plan.max.map_or(u64::MAX, |m| m / PAGE_SIZE));
    let largest = if machine.features.huge_pages { Order::HUGE } else { Order::LARGE };
    let table =
        Npt::new(phys, &hv.frames, ADDRESS_BITS, largest, u64::MAX).map_err(|_| no_memory("nested page table"))?;
    let tag = u64::from(DOM0.0);
    let p2m = P2m::new(DOM0, Box::new(table), tag, true);
    let root = p2m.root();

    let io_apics = io_apics(machine);
    let ecam = machine.acpi.as_ref().map_or(Vec::new(), |a| a.ecam.iter().map(|e| Ecam::from(*e)).collect());
    let targets = Targets::new(sys.machine, sys.router.clone(), DOM0, hv.platform.cpu_count());
    // The HPET is in no table that dom0 sees, but in the DSDT, whose code looks for it at its address.
    let hpet = machine.acpi.as_ref().and_then(|a| a.hpet).map(|h| GuestPhysAddr(h.address.0 & !(PAGE_SIZE - 1)));
    let hardware = HardwareDevices::new(targets, &io_apics, ecam, own_ports.clone(), own_gsi)
        .without(hpet)
        .with_sleep_ports(sleep_ports(machine));
    let host = radon_hal::host::BareMetal::default();
    let leaves = XenLeaves {
        version: XEN_VERSION,
        // Not that vCPUs may have upcall vectors of their own: they may, but the domain-wide one costs no end of interrupt.
        hvm_flags: 0,
        domain: DOM0.0,
        machine_address_bits: cpu::physical_address_bits() as u8,
    };
    let cpuid = CpuidPolicy::new(&host, PolicyKind::Dom0, radon_hal::svm::xsave_components(), vcpus, leaves);
    let microcode = sys.machine.read_msr(0x8b).unwrap_or(0);
    let shared_info = hv.frames.alloc_special(phys, DOM0).map_err(|_| no_memory("shared information page"))?;
    let domain = Domain::new(DomainParts {
        id: DOM0,
        role: Role::Hardware,
        p2m,
        shared_info,
        arch: Box::new(X86Domain::new(tag, cpuid.clone(), Some(Box::new(hardware)))),
    });

    let mut batch = domain.p2m.unmapped(hv);
    for range in plan.ram.iter() {
        let (first, count) = frames_of(&range);
        let owned = hv.frames.take_range(DOM0, first, count);
        owned.and_then(|frames| domain.p2m.add_ram(hv, Gfn(first.0), frames, &mut batch)).map_err(|e| {
            failed(format!(
                "its memory {:#x}-{:#x} cannot be mapped ({e}); this is a defect of Radon",
                range.start, range.end
            ))
        })?;
    }
    drop(batch);
    map_firmware(sys, machine, &domain)?;

    let memory_types = MemoryTypes::of_machine(|number| sys.machine.read_msr(number));
    let watched: Vec<_> = own_ports.iter().copied().chain(sleep_ports(machine).ranges()).collect();
    let direct = DirectAccess { ports: direct_ranges(&watched) };
    let config = LapicConfig { x2apic: true, tsc_deadline: cpuid.has(radon_abi::cpufeatureset::Feature::TSC_DEADLINE) };
    let all: Vec<Arc<Vcpu>> = (0..vcpus)
        .map(|n| {
            let hardware = sys.machine.new_cpu(tag, root, &direct);
            let lapic = Lapic::new(apic_id(n), n == 0, config);
            let mut msrs = MsrState::new(MsrPolicy { microcode, cpuid_faulting: false, relaxed: false });
            msrs.memory_types = memory_types;
            Vcpu::new(&domain, VcpuId(n), Box::new(X86Vcpu::new(hardware, lapic, msrs, n != 0)))
        })
        .collect();
    domain.set_vcpus(all);
    let apics: Vec<_> = domain.vcpus().iter().filter_map(|v| X86Vcpu::of(v).map(|x| x.lapic.clone())).collect();
    if let Some(x86) = X86Domain::of(&domain) {
        x86.set_apics(apics.clone());
        if let Some(hardware) = &x86.hardware {
            hardware.targets().set_apics(apics);
            log::info!("PCI: {} functions", hardware.scan_pci(hv, &domain));
        }
    }
    hv.domains.insert(domain.clone()).map_err(failed)?;
    for vcpu in domain.vcpus() {
        let cpus = hv.platform.cpu_count().max(1);
        let pin = machine.options.dom0_vcpus_pin.then(|| CpuSet::only(CpuId(vcpu.id.0 % cpus)));
        let added = hv.scheduler.add_vcpu(hv, vcpu).and_then(|()| match pin {
            Some(cpu) => hv.scheduler.set_affinity(hv, vcpu, Some(cpu), None),
            None => Ok(()),
        });
        added.map_err(|e| failed(format!("{} cannot be scheduled: {e}", vcpu.id)))?;
    }
    Ok(domain)
}

/// Maps what is not RAM but memory of the firmware's, where dom0 looks for tables: the BIOS areas below 1 MiB, ACPI
/// tables, and other reserved regions that lie among RAM.
fn map_firmware(sys: &System, machine: &Booted, domain: &Domain) -> Result<(), BuildError> {
    let low = [0..PAGE_SIZE, 0xa_0000..0x10_0000];
    let regions = machine.info.memory_map.iter().filter(|r| {
        matches!(r.kind, MemoryKind::AcpiReclaimable | MemoryKind::AcpiNvs | MemoryKind::Reserved)
            && r.start.0 >= 1 << 20
    });
    let top_of_ram = machine.info.memory_map.iter().filter(|r| r.kind == MemoryKind::Ram && r.start.0 < 1 << 32);
    let top_of_ram = top_of_ram.map(|r| r.end().0).max().unwrap_or(0);
    // Reserved regions beyond RAM are devices (PCI configuration space, flash): mapped when they are touched.
    let near = regions.filter(|r| r.kind != MemoryKind::Reserved || r.end().0 <= top_of_ram + (64 << 20));
    for range in low.into_iter().chain(near.map(|r| r.start.0..r.end().0)) {
        let (first, count) = frames_of(&range);
        for n in 0..count {
            let at = first.0 + n;
            // Frames that are RAM of dom0's, or of nobody's, stay as they are.
            let _ = domain.p2m.add_direct(&sys.hv, Gfn(at), Mfn(at), 1, Kind::Firmware);
        }
    }
    Ok(())
}

/// Where dom0 switches the machine off.
fn sleep_ports(machine: &Booted) -> SleepPorts {
    let Some((acpi, fadt)) = machine.acpi.as_ref().and_then(|a| Some((a, a.fadt.as_ref()?))) else {
        return SleepPorts::default();
    };
    SleepPorts {
        control_a: fadt.pm1a_control.and_then(|r| r.port()),
        control_b: fadt.pm1b_control.and_then(|r| r.port()),
        off: acpi.s5.map(|s| (s.a, s.b)),
    }
}

fn io_apics(machine: &Booted) -> Vec<IoApicConfig> {
    let found = machine.acpi.as_ref().and_then(|a| a.madt.as_ref()).map_or(&[][..], |m| &m.io_apics);
    let config = |a: &radon_x86::acpi::IoApic| {
        Some(IoApicConfig {
            id: a.id,
            version: 0x11,
            base: GuestPhysAddr(a.address.0),
            gsi_base: a.gsi_base,
            pins: ioapic::pins_from(a.gsi_base)?,
            extended_destination: false,
        })
    };
    found.iter().filter_map(config).collect()
}

/// Puts a vCPU where the PVH protocol wants it.
fn set_entry_state(vcpu: &Vcpu, entry: &EntryState) {
    let Some(arch) = X86Vcpu::of(vcpu) else { return };
    let mut guard = arch.state.lock();
    let VcpuState { cpu, .. } = &mut *guard;
    cpu.set_segment(SegmentName::Cs, &entry.cs);
    for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
        cpu.set_segment(name, &entry.data);
    }
    for name in [SegmentName::Fs, SegmentName::Gs, SegmentName::Ldtr] {
        cpu.set_segment(name, &entry.unused);
    }
    cpu.set_segment(SegmentName::Tr, &entry.tr);
    cpu.set_control(&entry.control);
    let regs = cpu.regs_mut();
    regs.gpr = [0; 16];
    regs.set(gpr::RBX, entry.rbx);
    regs.rip = entry.rip;
    regs.rflags = entry.rflags;
}
