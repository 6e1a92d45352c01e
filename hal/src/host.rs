//! The machine as `core` and `x86` see it: [`Platform`] and [`Machine`] on bare metal. Only translation; the work is done
//! in the other modules.
// Unsafe: port accesses on behalf of the hardware domain.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::arch::asm;

use radon_abi::errno::Errno;
use radon_core::platform::{
    ClockParameters, CpuIdentity, CpuTopology, PhysMemory, PhysicalDevices, Platform, PowerAction,
};
use radon_core::types::{CpuId, MachineAddr, Nanoseconds};
use radon_x86::cpuid::HostCpuid;
use radon_x86::machine::{DirectAccess, HostVector, Machine, MsiMessage, PinMode};
use radon_x86::virt::VirtualCpu;

use crate::cpu::registers::{self, inb, inl, inw, outb, outl, outw};
use crate::layout::DIRECT_MAP_SIZE;
use crate::svm::{self, MsrAccess, PermissionMaps, SvmCpu};
use crate::{apic, console, cpu, idle, interrupts, ioapic, layout, memory, nmi, paging, power, report, symbols, time};

/// MSRs of the guest's own that the processor switches with it: read and written without an exit.
const SWITCHED_MSRS: [u32; 11] = [
    0x174,       // SYSENTER_CS
    0x175,       // SYSENTER_ESP
    0x176,       // SYSENTER_EIP
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SFMASK
    0xc000_0100, // FS_BASE
    0xc000_0101, // GS_BASE
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
];

const MSR_PRED_CMD: u32 = 0x49;

/// This machine.
#[derive(Clone, Copy, Default)]
pub struct BareMetal {
    /// Wall-clock time at system time 0, in nanoseconds since 1970-01-01 UTC.
    pub wall_clock_at_boot: u64,
    /// The hypervisor's command line.
    pub command_line: &'static str,
    /// Who is told of the devices that dom0 finds.
    pub devices: Option<&'static (dyn PhysicalDevices + Sync)>,
    /// Guests' #UD leaves guest mode: it may ask for emulation. Only in images for tests.
    pub intercept_undefined: bool,
}

impl Platform for BareMetal {
    fn memory(&self) -> &dyn PhysMemory {
        memory::memory()
    }

    fn now(&self) -> Nanoseconds {
        time::now()
    }

    fn clock(&self) -> ClockParameters {
        time::clock()
    }

    fn cycles(&self) -> u64 {
        registers::rdtsc()
    }

    fn wall_clock_at_boot(&self) -> u64 {
        self.wall_clock_at_boot
    }

    fn cpu_count(&self) -> u32 {
        cpu::count()
    }

    fn this_cpu(&self) -> CpuId {
        cpu::this_cpu().id()
    }

    fn kick(&self, cpu: CpuId) {
        // What runs on this CPU leaves the guest before it could see a kick to itself.
        if cpu != self.this_cpu() {
            cpu::send_kick(cpu);
        }
    }

    fn arm_timer(&self, deadline: Option<Nanoseconds>) {
        apic::arm_timer(deadline);
    }

    fn flush_guest_tlb(&self, tag: u64) {
        svm::flush_domain(tag);
    }

    fn physical_id(&self, cpu: CpuId) -> Option<u64> {
        cpu::get(cpu).map(|c| u64::from(c.apic_id()) | u64::from(c.acpi_id()) << 32)
    }

    fn command_line(&self) -> &str {
        self.command_line
    }

    fn build_id(&self) -> &[u8] {
        layout::build_id()
    }

    fn physical_devices(&self) -> Option<&dyn PhysicalDevices> {
        self.devices.map(|d| d as &dyn PhysicalDevices)
    }

    fn cpu_identity(&self, cpu: CpuId) -> Option<CpuIdentity> {
        cpu::get(cpu)?;
        // All CPUs are alike: start-up refuses others.
        let (names, signature) = (registers::cpuid(0, 0), registers::cpuid(1, 0).eax);
        let mut vendor = [0; 12];
        for (to, from) in vendor.chunks_exact_mut(4).zip([names.ebx, names.edx, names.ecx]) {
            to.copy_from_slice(&from.to_le_bytes());
        }
        let base = signature >> 8 & 0xf;
        let extended = base == 0xf;
        Some(CpuIdentity {
            vendor,
            family: if extended { base + (signature >> 20 & 0xff) } else { base },
            model: signature >> 4 & 0xf | if extended || base == 6 { signature >> 12 & 0xf0 } else { 0 },
            stepping: signature & 0xf,
        })
    }

    fn cpu_topology(&self, cpu: CpuId) -> CpuTopology {
        cpu::get(cpu).map_or(CpuTopology::default(), |c| cpu::hidden::place(c.apic_id()))
    }

    fn report_stuck(&self, cpu: CpuId) {
        nmi::report_stuck(cpu);
    }

    fn symbol(&self, index: u32) -> Option<(String, u64)> {
        symbols::nth(index).map(|(name, at)| (format!("{name}"), at))
    }

    fn acpi_sleep(&self, sleep_state: u32, pm1a: u16, pm1b: u16) -> Result<(), Errno> {
        match sleep_state {
            5 => {
                log::info!("dom0 has shut down: switching the machine off (ACPI state S5)");
                power::power_off(Some((pm1a, pm1b)))
            }
            3 => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_log_levels(&self, host: log::LevelFilter, guest: log::LevelFilter) {
        console::set_levels(host, guest);
    }

    fn console_write(&self, bytes: &[u8]) {
        console::write(bytes);
    }

    fn power(&self, action: PowerAction) -> ! {
        match action {
            PowerAction::PowerOff => {
                log::info!("Switching the machine off");
                power::power_off(None)
            }
            PowerAction::Reboot => {
                log::info!("Restarting the machine");
                power::reset()
            }
            PowerAction::Crash => report::after_crash(),
        }
    }
}

impl HostCpuid for BareMetal {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let r = registers::cpuid(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }
}

impl Machine for BareMetal {
    fn port_in(&self, port: u16, size: u8) -> u32 {
        // SAFETY: on behalf of the hardware domain, which owns all devices that Radon does not use; ports of those do not
        // come here (`radon_x86::ports`).
        unsafe {
            match size {
                1 => u32::from(inb(port)),
                2 => u32::from(inw(port)),
                _ => inl(port),
            }
        }
    }

    fn port_out(&self, port: u16, size: u8, value: u32) {
        // SAFETY: as above. A device that the hardware domain programs for DMA can reach all memory where there is no
        // IOMMU: that domain is trusted with its devices (book, soundness chapter).
        unsafe {
            match size {
                1 => outb(port, value as u8),
                2 => outw(port, value as u16),
                _ => outl(port, value),
            }
        }
    }

    fn device_read(&self, at: MachineAddr, size: u8) -> u64 {
        let Some(p) = device_pointer(at, size) else { return u64::MAX };
        let value: u64;
        // AMD's processors want configuration space in memory accessed through AL, AX or EAX (MMIO configuration coding
        // requirements, BKDG and PPR).
        // SAFETY: an aligned address of a device's registers, mapped uncached; see `device_pointer`.
        unsafe {
            match size {
                1 => asm!("mov al, [{}]", in(reg) p, inout("rax") 0_u64 => value, options(nostack, preserves_flags)),
                2 => asm!("mov ax, [{}]", in(reg) p, inout("rax") 0_u64 => value, options(nostack, preserves_flags)),
                4 => asm!("mov eax, [{}]", in(reg) p, inout("rax") 0_u64 => value, options(nostack, preserves_flags)),
                _ => asm!("mov rax, [{}]", in(reg) p, inout("rax") 0_u64 => value, options(nostack, preserves_flags)),
            }
        }
        value
    }

    fn device_write(&self, at: MachineAddr, size: u8, value: u64) {
        let Some(p) = device_pointer(at, size) else { return };
        // SAFETY: as in `device_read`; the devices are the hardware domain's, which is trusted with them.
        unsafe {
            match size {
                1 => asm!("mov [{}], al", in(reg) p, in("rax") value, options(nostack, preserves_flags)),
                2 => asm!("mov [{}], ax", in(reg) p, in("rax") value, options(nostack, preserves_flags)),
                4 => asm!("mov [{}], eax", in(reg) p, in("rax") value, options(nostack, preserves_flags)),
                _ => asm!("mov [{}], rax", in(reg) p, in("rax") value, options(nostack, preserves_flags)),
            }
        }
    }

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        HostCpuid::cpuid(self, leaf, subleaf)
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        registers::rdmsr_safe(msr).ok()
    }

    fn tsc(&self) -> u64 {
        registers::rdtsc()
    }

    fn new_cpu(&self, tag: u64, nested_root: MachineAddr, direct: &DirectAccess) -> Box<dyn VirtualCpu> {
        let mut maps = PermissionMaps::default();
        for &(first, last) in &direct.ports {
            maps.allow_ports(first..=last);
        }
        for msr in SWITCHED_MSRS {
            maps.allow_msr(msr, MsrAccess::ReadWrite);
        }
        let mut cpu = SvmCpu::new(tag, nested_root, Arc::new(maps));
        if self.intercept_undefined {
            cpu.intercept_undefined();
        }
        Box::new(cpu)
    }

    fn flush_caches(&self) {
        // SAFETY: writes caches back; memory is the same after it.
        unsafe { asm!("wbinvd", options(nostack, preserves_flags)) };
    }

    fn prediction_barrier(&self, value: u64) {
        // SAFETY: a write-only MSR whose bits only discard predictions; absent, the fault is caught.
        let _ = unsafe { registers::wrmsr_safe(MSR_PRED_CMD, value) };
    }

    fn poll_interrupts(&self) {
        interrupts::poll();
    }

    fn idle(&self, has_work: &dyn Fn() -> bool) {
        idle::halt_until_interrupt(has_work);
    }

    fn route_pin(&self, gsi: u32, mode: PinMode, to: HostVector, masked: bool) -> Result<(), Errno> {
        let target = cpu::get(to.cpu).ok_or(Errno::ENODEV)?.apic_id();
        let route = ioapic::Route { vector: to.vector, target, active_low: mode.active_low, level: mode.level, masked };
        if ioapic::set_route(gsi, route) { Ok(()) } else { Err(Errno::ENODEV) }
    }

    fn mask_pin(&self, gsi: u32, masked: bool) {
        ioapic::set_masked(gsi, masked);
    }

    fn msi_message(&self, to: HostVector) -> MsiMessage {
        let target = cpu::get(to.cpu).map_or(0, |c| c.apic_id());
        // Physical destination, fixed delivery, edge (AMD APM volume 2, 16.11; PCI specification's MSI capability).
        MsiMessage { address: 0xfee0_0000 | u64::from(target & 0xff) << 12, data: u32::from(to.vector) }
    }

    fn end_of_interrupt(&self) {
        apic::eoi();
    }
}

/// Where a device's register is mapped; maps it if need be. `None` for memory, the image included, for sizes other than
/// 1, 2, 4 and 8, and for addresses that are not aligned to their size or beyond the direct map (whoever programs a
/// device's address can choose any).
pub(crate) fn device_pointer(at: MachineAddr, size: u8) -> Option<*mut u8> {
    let size = u64::from(size);
    let image = layout::image_phys();
    if !matches!(size, 1 | 2 | 4 | 8)
        || !at.0.is_multiple_of(size)
        || at.0 >= DIRECT_MAP_SIZE
        || (image.start <= at.0 && at.0 < image.end)
        || memory::memory().contains(at, size)
    {
        return None;
    }
    let direct = memory::direct_map_pointer(at);
    if paging::translate(direct as u64).is_some() {
        return Some(direct);
    }
    paging::map_device(at, size).ok()
}
