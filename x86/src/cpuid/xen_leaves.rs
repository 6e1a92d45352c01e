//! The hypervisor leaves 0x40000000 and up, as `arch-x86/cpuid.h` lays them out.

use super::{Dynamic, Registers, XEN_FIRST_LEAF, ZERO};

/// `XEN_HVM_CPUID_APIC_ACCESS_VIRT`: accesses to APIC registers do not exit.
pub const HVM_APIC_ACCESS_VIRT: u32 = 1 << 0;
/// `XEN_HVM_CPUID_X2APIC_VIRT`: accesses to x2APIC registers do not exit.
pub const HVM_X2APIC_VIRT: u32 = 1 << 1;
/// `XEN_HVM_CPUID_IOMMU_MAPPINGS`: memory mapped from other domains has IOMMU entries.
pub const HVM_IOMMU_MAPPINGS: u32 = 1 << 2;
/// `XEN_HVM_CPUID_VCPU_ID_PRESENT`: EBX is the vCPU's number.
pub const HVM_VCPU_ID_PRESENT: u32 = 1 << 3;
/// `XEN_HVM_CPUID_DOMID_PRESENT`: ECX is the domain's number.
pub const HVM_DOMID_PRESENT: u32 = 1 << 4;
/// `XEN_HVM_CPUID_EXT_DEST_ID`: interrupt destinations may have 15 bits.
pub const HVM_EXT_DEST_ID: u32 = 1 << 5;
/// `XEN_HVM_CPUID_UPCALL_VECTOR`: per-vCPU upcall vectors work with physical interrupts.
pub const HVM_UPCALL_VECTOR: u32 = 1 << 6;

/// The MSR through which a guest asks for a hypercall page.
pub const HYPERCALL_MSR: u32 = 0x4000_0000;

/// Number of leaves after the first.
const LAST_LEAF: u32 = 5;

/// What the hypervisor leaves say of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XenLeaves {
    /// Version: major in bits 31:16, minor in bits 15:0.
    pub version: u32,
    /// `HVM_*` flags besides those of the vCPU's and the domain's number, which are always set.
    pub hvm_flags: u32,
    /// The domain's number.
    pub domain: u16,
    /// Width of machine addresses in bits.
    pub machine_address_bits: u8,
}

/// A domain's time parameters, as leaf 3 gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimeInfo {
    /// Reading the TSC is emulated.
    pub emulated: bool,
    /// The machine's TSC is reliable.
    pub reliable: bool,
    /// `tsc_mode`: 0 default, 1 always emulate, 2 never emulate.
    pub mode: u32,
    /// The guest's TSC frequency in kHz.
    pub guest_khz: u32,
    /// How often the domain was migrated or restored.
    pub incarnation: u32,
    /// TSC offset.
    pub offset: u64,
    /// Multiplier from TSC ticks to nanoseconds.
    pub mul: u32,
    /// Shift of the conversion.
    pub shift: i8,
    /// The machine's TSC frequency in kHz.
    pub host_khz: u32,
}

impl XenLeaves {
    /// Leaf 0: the largest leaf and "XenVMMXenVMM".
    pub(super) fn signature(&self) -> Registers {
        let text = |s: &[u8; 4]| u32::from_le_bytes(*s);
        [XEN_FIRST_LEAF | LAST_LEAF, text(b"XenV"), text(b"MMXe"), text(b"nVMM")]
    }

    /// What leaf `XEN_FIRST_LEAF + index` returns.
    pub(super) fn query(&self, index: u32, subleaf: u32, vcpu: &Dynamic, rdtscp: bool) -> Registers {
        let time = &vcpu.time;
        match (index, subleaf) {
            (0, _) => self.signature(),
            (1, _) => [self.version, 0, 0, 0],
            (2, _) => [1, HYPERCALL_MSR, 0, 0],
            (3, 0) => {
                let flags = u32::from(time.emulated) | u32::from(time.reliable) << 1 | u32::from(rdtscp) << 2;
                [flags, time.mode, time.guest_khz, time.incarnation]
            }
            (3, 1) => [time.offset as u32, (time.offset >> 32) as u32, time.mul, u32::from(time.shift as u8)],
            (3, 2) => [time.host_khz, 0, 0, 0],
            (4, 0) => {
                let flags = self.hvm_flags | HVM_VCPU_ID_PRESENT | HVM_DOMID_PRESENT;
                [flags, vcpu.vcpu, u32::from(self.domain), 0]
            }
            (5, 0) => [0, u32::from(self.machine_address_bits), 0, 0],
            _ => ZERO,
        }
    }
}
