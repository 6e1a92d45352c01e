//! The machine as `core` sees it. Implemented by `hal` (bare metal), `hosted` (Linux/KVM) and the test machine of
//! [`crate::testing`].

mod factory;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::types::{CpuId, Gfn, GuestPhysAddr, GuestVirtAddr, MachineAddr, Mfn, Nanoseconds};
use radon_abi::domctl::TscInfo;
use radon_abi::errno::Errno;
use radon_abi::guest_context::VcpuGuestContext;
use radon_abi::vcpu::HvmContext;

pub use factory::{ArchFactory, CpuPolicyData, CpuTopology, MachineInfo, NewDomain, PolicyError, PolicySource};

/// Untyped access to machine memory. Guest memory is never a Rust reference: it is copied in and out, or touched with
/// single atomic operations, since other CPUs and devices may write it at any moment.
///
/// Callers pass addresses of frames they hold a counted reference on. An implementation must stay memory-safe for any
/// address: outside of RAM, reads give all ones and writes are dropped.
pub trait PhysMemory: Sync {
    /// Copies `to.len()` bytes out of machine memory. May tear at any byte.
    fn read(&self, from: MachineAddr, to: &mut [u8]);
    /// Copies bytes into machine memory. May tear at any byte.
    fn write(&self, to: MachineAddr, from: &[u8]);
    /// Copies `len` bytes between two places that do not overlap.
    fn copy(&self, to: MachineAddr, from: MachineAddr, len: u64);
    /// Fills a frame with zeros.
    fn zero_frame(&self, frame: Mfn);
    /// Atomically loads a naturally aligned 32-bit value (acquire). An unaligned address is rounded down.
    fn load_u32(&self, at: MachineAddr) -> u32;
    /// Atomically stores a naturally aligned 32-bit value (release).
    fn store_u32(&self, at: MachineAddr, value: u32);
    /// Atomically loads a naturally aligned 64-bit value (acquire).
    fn load_u64(&self, at: MachineAddr) -> u64;
    /// Atomically stores a naturally aligned 64-bit value (release).
    fn store_u64(&self, at: MachineAddr, value: u64);
    /// Atomic or on a naturally aligned byte; returns the old value (sequentially consistent, as are all below).
    fn fetch_or_u8(&self, at: MachineAddr, bits: u8) -> u8;
    /// Atomic or; returns the old value.
    fn fetch_or_u32(&self, at: MachineAddr, bits: u32) -> u32;
    /// Atomic or; returns the old value.
    fn fetch_or_u64(&self, at: MachineAddr, bits: u64) -> u64;
    /// Atomic and; returns the old value.
    fn fetch_and_u64(&self, at: MachineAddr, bits: u64) -> u64;
    /// Atomic compare-and-exchange: stores `new` if the value is `old`. Returns the value found.
    fn compare_exchange_u16(&self, at: MachineAddr, old: u16, new: u16) -> u16;
    /// Atomic compare-and-exchange: stores `new` if the value is `old`. Returns the value found.
    fn compare_exchange_u32(&self, at: MachineAddr, old: u32, new: u32) -> u32;
    /// Atomic compare-and-exchange: stores `new` if the value is `old`. Returns the value found.
    fn compare_exchange_u64(&self, at: MachineAddr, old: u64, new: u64) -> u64;
}

/// How the time stamp counter relates to system time, in the form of Xen's `vcpu_time_info`:
/// `ns = tsc_base_ns + ((((tsc - tsc_base) << shift) * mul) >> 32)` (a negative shift is a right shift).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockParameters {
    /// Counter value at `base_ns`.
    pub tsc_base: u64,
    /// System time at `tsc_base`.
    pub base_ns: Nanoseconds,
    /// 32.32 fixed-point nanoseconds per (shifted) tick.
    pub mul: u32,
    /// Shift applied before the multiplication.
    pub shift: i8,
    /// Counter frequency.
    pub khz: u32,
}

/// The ways a machine can stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerAction {
    /// Switch off.
    PowerOff,
    /// Restart.
    Reboot,
    /// Restart after a while, so that a person can read the console, or stay if that was asked for (`noreboot`).
    Crash,
}

/// What `core` needs of the machine.
pub trait Platform: Send + Sync {
    /// Machine memory.
    fn memory(&self) -> &dyn PhysMemory;
    /// System time now: monotonic and the same on all CPUs.
    fn now(&self) -> Nanoseconds;
    /// How guests can compute [`Platform::now`] from the TSC themselves.
    fn clock(&self) -> ClockParameters;
    /// This CPU's time stamp counter: what trace records are stamped with.
    fn cycles(&self) -> u64 {
        self.now().0
    }
    /// Wall-clock time (nanoseconds since 1970-01-01 UTC) at system time 0, as the machine's clock had it at boot.
    fn wall_clock_at_boot(&self) -> u64;
    /// Number of CPUs that are online; CPUs are numbered from 0 without gaps.
    fn cpu_count(&self) -> u32;
    /// The CPU that executes this call.
    fn this_cpu(&self) -> CpuId;
    /// Makes `cpu` leave guest mode or idle soon and look for work (scheduling, pending events). Never blocks; cheap if
    /// `cpu` is the caller.
    fn kick(&self, cpu: CpuId);
    /// Sets this CPU's one-shot timer; the CPU leaves guest mode or idle at or after `deadline`. `None` disarms.
    fn arm_timer(&self, deadline: Option<Nanoseconds>);
    /// Returns when no CPU can still use a guest translation that was removed before this call from the p2m of the
    /// domain identified by `tag`: CPUs in guest mode have left it once, and every CPU flushes before it enters a
    /// guest of that domain again. Takes no locks, so it may be called with any lock held.
    fn flush_guest_tlb(&self, tag: u64);
    /// This CPU waits for what another one does; called over and over. No lock is held but that of the state of the vCPU
    /// that runs here.
    fn relax(&self) {
        core::hint::spin_loop();
    }
    /// The firmware's names of a CPU (`VCPUOP_get_physid`): APIC identifier in the lower half, ACPI identifier in the
    /// upper. `None` if that is not known.
    fn physical_id(&self, _cpu: CpuId) -> Option<u64> {
        None
    }
    /// The hypervisor's command line, as the boot loader gave it.
    fn command_line(&self) -> &str {
        ""
    }
    /// The identifier of this build (the contents of its `.note.gnu.build-id`); empty if there is none.
    fn build_id(&self) -> &[u8] {
        &[]
    }
    /// What wants to know of the physical devices that dom0 finds, if anything does.
    fn physical_devices(&self) -> Option<&dyn PhysicalDevices> {
        None
    }
    /// What CPU `cpu` is; `None` if there is no such CPU.
    fn cpu_identity(&self, _cpu: CpuId) -> Option<CpuIdentity> {
        None
    }
    /// Where CPU `cpu` is in the machine.
    fn cpu_topology(&self, cpu: CpuId) -> CpuTopology {
        CpuTopology { core: cpu.0, ..CpuTopology::default() }
    }
    /// CPU `cpu` has not gone through its loop for too long ([`crate::watchdog`]): makes it say where it is, and stops
    /// the machine.
    fn report_stuck(&self, cpu: CpuId);
    /// A symbol of the hypervisor's code, by its place in the order of addresses; `None` past the last.
    fn symbol(&self, _index: u32) -> Option<(String, u64)> {
        None
    }
    /// Puts the machine to sleep by writing the ACPI registers PM1a_CNT and PM1b_CNT as dom0 prepared it (`sleep_state`
    /// 3: suspend to RAM, returns when the machine has resumed; 5: off, does not return).
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had; `EINVAL` for another state.
    fn acpi_sleep(&self, _sleep_state: u32, _pm1a: u16, _pm1b: u16) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Writes bytes to the machine's console (serial port, screen).
    fn console_write(&self, bytes: &[u8]);
    /// Which messages of the hypervisor's own, and which that guests cause, are shown from now on.
    fn set_log_levels(&self, _host: log::LevelFilter, _guest: log::LevelFilter) {}
    /// Stops the machine.
    fn power(&self, action: PowerAction) -> !;
}

/// What a physical CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuIdentity {
    /// CPUID's vendor text.
    pub vendor: [u8; 12],
    /// CPU family, extended family included.
    pub family: u32,
    /// CPU model, extended model included.
    pub model: u32,
    /// Stepping.
    pub stepping: u32,
}

/// A PCI device's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciAddress {
    /// Segment.
    pub segment: u16,
    /// Bus.
    pub bus: u8,
    /// Device (5 bits) and function (3 bits).
    pub devfn: u8,
}

/// Told of the devices that dom0 finds, so that an IOMMU can be programmed for them.
pub trait PhysicalDevices {
    /// dom0 found a device. `physical_function` is given for virtual functions; `node` is its proximity domain.
    ///
    /// # Errors
    /// What keeps it from being used (`ENODEV`, `ENOMEM`, ...).
    fn add(&self, device: PciAddress, physical_function: Option<PciAddress>, node: Option<u32>) -> Result<(), Errno>;
    /// A device is gone.
    ///
    /// # Errors
    /// `ENODEV` if it was not known.
    fn remove(&self, device: PciAddress) -> Result<(), Errno>;
    /// Where a device is: `None` if it is not known, `Some(None)` if its node is not.
    fn node(&self, device: PciAddress) -> Option<Option<u32>>;
    /// dom0 knows whether firmware reserved a configuration space area: machine address `address`, buses `first_bus` to
    /// `last_bus` of `segment`.
    ///
    /// # Errors
    /// `ENODEV` if there is no such area.
    fn config_space(
        &self,
        address: MachineAddr,
        segment: u16,
        first_bus: u8,
        last_bus: u8,
        reserved: bool,
    ) -> Result<(), Errno>;
}

/// The architecture's part of a vCPU, owned by [`crate::vcpu::Vcpu`]; made by the architecture layer.
pub trait ArchVcpu: Any + Send + Sync {
    /// `evtchn_upcall_pending` of this vCPU went from 0 to 1: make the guest see its event upcall (the caller wakes and
    /// kicks the vCPU afterwards). May be called from any CPU.
    fn raise_upcall(&self);
    /// Makes an NMI pending.
    fn raise_nmi(&self);
    /// The guest chose a vector for this vCPU's event upcalls, 16 to 255, delivered through its local APIC.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had.
    fn set_upcall_vector(&self, vector: u8) -> Result<(), Errno>;
    /// Whether an interrupt or NMI is pending that the vCPU would take now if it ran: it does not block then. Called on
    /// the CPU that runs the vCPU, during a hypercall; who holds the vCPU's state then may wake it afterwards instead.
    fn interrupt_pending(&self) -> bool {
        false
    }
    /// A timer that the architecture layer armed with [`crate::time::VcpuTimer::Arch`] has expired. No lock is held; the
    /// caller notifies the vCPU afterwards.
    fn timer_expired(&self, _timer: u8) {}
    /// What the guest's time stamp counter is ahead of its domain's ([`ArchDomain::clock`]), wrapping.
    fn tsc_offset(&self) -> u64 {
        0
    }
    /// Sets the first state of a vCPU of `domain` that is down (`VCPUOP_initialise`).
    ///
    /// # Errors
    /// `EINVAL` for a state that cannot be; `EOPNOTSUPP` where this is not to be had.
    fn initialise(&self, domain: &Domain, state: &HvmContext) -> Result<(), Errno>;
    /// The registers, as a debugger sees them. The vCPU is off its CPU.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had.
    fn guest_context(&self) -> Result<Box<VcpuGuestContext>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets registers from a debugger's view of them. The vCPU is off its CPU.
    ///
    /// # Errors
    /// `EINVAL` for a state that cannot be; nothing has changed. `EOPNOTSUPP` where this is not to be had.
    fn set_guest_context(&self, _context: &VcpuGuestContext) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// For the architecture layer to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// The architecture's part of a domain.
pub trait ArchDomain: Any + Send + Sync {
    /// The guest chose how it wants event upcalls delivered (`HVM_PARAM_CALLBACK_IRQ`).
    ///
    /// # Errors
    /// `EINVAL` or `EOPNOTSUPP` for a way that does not exist here.
    fn set_callback_via(&self, via: u64) -> Result<(), Errno>;
    /// The CPU policy of its vCPUs.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had.
    fn cpu_policy(&self) -> Result<CpuPolicyData, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Changes the CPU policy, leaf by leaf. The domain has not run yet.
    ///
    /// # Errors
    /// What it cannot have; nothing has changed.
    fn set_cpu_policy(&self, _hv: &Hypervisor, _domain: &Domain, _policy: &CpuPolicyData) -> Result<(), PolicyError> {
        Err(Errno::EOPNOTSUPP.into())
    }
    /// How its vCPUs compute system time from the TSC they read, their [`ArchVcpu::tsc_offset`] aside.
    fn clock(&self, hv: &Hypervisor) -> ClockParameters {
        hv.platform.clock()
    }
    /// How its vCPUs see time pass.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had.
    fn tsc_info(&self, _hv: &Hypervisor) -> Result<TscInfo, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets how its vCPUs see time pass. The domain is paused.
    ///
    /// # Errors
    /// `EINVAL` for what cannot be; `EOPNOTSUPP` for what cannot be here.
    fn set_tsc_info(&self, _hv: &Hypervisor, _domain: &Domain, _info: &TscInfo) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Most bytes that [`ArchDomain::save_context`] gives.
    fn context_size(&self, _domain: &Domain) -> u32 {
        0
    }
    /// The state of vCPUs and devices as records of [`radon_abi::save`]. The domain is paused.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where this is not to be had; `EBUSY` if a vCPU is not off its CPU.
    fn save_context(&self, _hv: &Hypervisor, _domain: &Domain) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// One of these records, without its descriptor. The domain is paused.
    ///
    /// # Errors
    /// `EINVAL`: no such type. `ENOENT`: no such instance. Else as [`ArchDomain::save_context`].
    fn save_record(
        &self,
        _hv: &Hypervisor,
        _domain: &Domain,
        _typecode: u32,
        _instance: u32,
    ) -> Result<Vec<u8>, Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Sets the state of vCPUs and devices from records. All vCPUs go down; those with a CPU record come up. The domain
    /// is paused.
    ///
    /// # Errors
    /// `EINVAL`: a record that cannot be. `ENODATA`: records are missing. Records before the bad one were taken over.
    fn load_context(&self, _hv: &Hypervisor, _domain: &Domain, _records: &[u8]) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Somebody presses the power button (or the sleep button).
    ///
    /// # Errors
    /// `EOPNOTSUPP` if it has none.
    fn press_button(&self, _hv: &Hypervisor, _domain: &Domain, _sleep: bool) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Fills a guest frame with hypercall stubs.
    ///
    /// # Errors
    /// `EINVAL`: it is not writable memory. `EOPNOTSUPP` where this is not to be had.
    fn fill_hypercall_page(&self, _hv: &Hypervisor, _domain: &Domain, _gfn: Gfn) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    /// Gives back what the domain, which will not run again, holds in the architecture layer. `spend` is asked before
    /// each step; when it refuses, the call returns `false` and is to be made again.
    fn relinquish(&self, _hv: &Hypervisor, _domain: &Domain, _spend: &mut dyn FnMut() -> bool) -> bool {
        true
    }
    /// For the architecture layer to find its own type again.
    fn as_any(&self) -> &dyn Any;
}

/// Access to a vCPU's memory by guest-virtual address, with the privileges and paging mode the vCPU has now. All
/// failures are `EFAULT`.
pub trait GuestVirtual {
    /// Copies bytes from the guest.
    ///
    /// # Errors
    /// `EFAULT`: not mapped, not readable or not RAM. `to` may have been partly written.
    fn read(&self, from: GuestVirtAddr, to: &mut [u8]) -> Result<(), Errno>;
    /// Copies bytes to the guest.
    ///
    /// # Errors
    /// `EFAULT`: not mapped, not writable or not RAM. Bytes before the bad page may have been written.
    fn write(&self, to: GuestVirtAddr, from: &[u8]) -> Result<(), Errno>;
    /// Translates one address.
    ///
    /// # Errors
    /// `EFAULT` if it is not mapped (for writing, if `write`).
    fn translate(&self, at: GuestVirtAddr, write: bool) -> Result<GuestPhysAddr, Errno>;
}
