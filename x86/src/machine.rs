//! The x86 machine as this layer sees it, beyond [`radon_core::platform::Platform`]: ports, MSRs, processors that can run
//! guests, and physical interrupts. Implemented by hal.

use alloc::boxed::Box;

use radon_abi::errno::Errno;
use radon_core::types::{CpuId, MachineAddr};

use crate::virt::VirtualCpu;

/// Ports and MSRs that a domain's guests touch without an exit. Everything else exits.
#[derive(Clone, Debug, Default)]
pub struct DirectAccess {
    /// Ranges of ports, both ends included.
    pub ports: alloc::vec::Vec<(u16, u16)>,
}

/// Trigger mode and polarity of an I/O APIC pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinMode {
    /// Level-triggered rather than edge-triggered.
    pub level: bool,
    /// Active low rather than active high.
    pub active_low: bool,
}

/// What the device writes to raise an MSI on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// A vector on a physical CPU, allocated for one interrupt source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostVector {
    /// The CPU that receives it.
    pub cpu: CpuId,
    /// The vector.
    pub vector: u8,
}

/// The machine.
pub trait Machine: Sync {
    /// Reads an I/O port of 1, 2 or 4 bytes.
    fn port_in(&self, port: u16, size: u8) -> u32;
    /// Writes an I/O port of 1, 2 or 4 bytes.
    fn port_out(&self, port: u16, size: u8, value: u32);
    /// Reads 1, 2, 4 or 8 aligned bytes of a device's memory, uncached. All ones if the address is memory.
    fn device_read(&self, at: MachineAddr, size: u8) -> u64;
    /// Writes 1, 2, 4 or 8 aligned bytes of a device's memory, uncached. Dropped if the address is memory.
    fn device_write(&self, at: MachineAddr, size: u8, value: u64);
    /// Executes CPUID: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads an MSR; `None` if it does not exist.
    fn read_msr(&self, msr: u32) -> Option<u64>;
    /// Reads the time stamp counter.
    fn tsc(&self) -> u64;
    /// A virtual CPU after reset for a domain (`tag` as in [`radon_core::platform::Platform::flush_guest_tlb`]) whose
    /// nested page table is at `nested_root`.
    fn new_cpu(&self, tag: u64, nested_root: MachineAddr, direct: &DirectAccess) -> Box<dyn VirtualCpu>;
    /// Writes back and invalidates this CPU's caches.
    fn flush_caches(&self);
    /// Executes a branch-prediction barrier: writes `value` to PRED_CMD on this CPU. Nothing on CPUs without that MSR.
    fn prediction_barrier(&self, value: u64);
    /// Takes pending physical interrupts now. No locks may be held.
    fn poll_interrupts(&self);
    /// Halts this CPU until an interrupt arrives, unless `has_work` (asked with interrupts off).
    fn idle(&self, has_work: &dyn Fn() -> bool);
    /// Programs an I/O APIC pin to raise `to`, masked or not.
    ///
    /// # Errors
    /// `ENODEV` if there is no such pin.
    fn route_pin(&self, gsi: u32, mode: PinMode, to: HostVector, masked: bool) -> Result<(), Errno>;
    /// Masks or unmasks an I/O APIC pin.
    fn mask_pin(&self, gsi: u32, masked: bool);
    /// The message that raises `vector` on its CPU.
    fn msi_message(&self, to: HostVector) -> MsiMessage;
    /// Acknowledges the physical interrupt that is being handled.
    fn end_of_interrupt(&self);
}
