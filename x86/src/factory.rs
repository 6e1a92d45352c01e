//! Makes guests: the x86 side of `XEN_DOMCTL_createdomain` and `XEN_DOMCTL_max_vcpus`, and what the toolstack learns of
//! the machine.
//!
//! Guests are PVH: a local APIC in each vCPU and no other device. Domains with the devices of a PC are refused.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::cpufeatureset::Feature;
use radon_abi::domctl::{CpuidLeaf, CreateDomain, XEN_X86_EMU_ALL, XEN_X86_EMU_LAPIC, XEN_X86_MSR_RELAXED};
use radon_abi::errno::Errno;
use radon_core::domain::Domain;
use radon_core::frames::Order;
use radon_core::hypervisor::Hypervisor;
use radon_core::platform::{ArchFactory, ArchVcpu, CpuPolicyData, MachineInfo, NewDomain, PolicySource};
use radon_core::types::{DomainId, VcpuId};

use crate::cpuid::{self, CpuidPolicy, FeatureWords, HostCpuid, Kind, NO_SUBLEAF, Registers, XenLeaves, apic_id};
use crate::devices::lapic::{Lapic, LapicConfig};
use crate::domain::X86Domain;
use crate::machine::{DirectAccess, Machine};
use crate::msr::{MsrPolicy, MsrState};
use crate::npt::Npt;
use crate::policy;
use crate::topology::ApicLayout;
use crate::vcpu::X86Vcpu;

/// The version in the hypervisor's CPUID leaves: that of the ABI, 4.17.
const XEN_VERSION: u32 = 4 << 16 | 17;
/// Width of a guest's physical addresses: what its page tables may use.
const ADDRESS_BITS: u32 = 48;
/// Table pages that a domain may have until the toolstack says otherwise (1 MiB, as Xen's).
const TABLE_PAGES: u64 = 256;
/// MSR of the microcode's revision.
const PATCH_LEVEL: u32 = 0x8b;
/// Most leaves and MSRs of a policy.
const LIMITS: (u32, u32) = (128, 2);

const EXTENDED: u32 = 0x8000_0000;
const BASIC_LAST: u32 = 0xd;
const EXTENDED_LAST: u32 = 0x8000_0021;

/// What the factory has to know of the machine.
#[derive(Clone, Copy)]
pub struct Parts {
    /// The machine.
    pub machine: &'static dyn Machine,
    /// XSAVE components that are switched with guests.
    pub xcr0: u64,
    /// The largest mapping of nested page tables.
    pub largest: Order,
    /// Width of machine addresses.
    pub machine_address_bits: u8,
    /// RAM of the machine, in frames.
    pub total_frames: u64,
    /// Frequency of the time stamp counter.
    pub tsc_khz: u32,
}

/// Makes guests.
pub struct X86Factory {
    parts: Parts,
    microcode: u64,
    /// All that a guest may be given.
    maximum: Arc<CpuidPolicy>,
}

/// The machine's CPUID.
struct Host(&'static dyn Machine);

impl HostCpuid for Host {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> Registers {
        self.0.cpuid(leaf, subleaf)
    }
}

impl X86Factory {
    /// A factory for this machine.
    #[must_use]
    pub fn new(parts: Parts) -> X86Factory {
        let microcode = parts.machine.read_msr(PATCH_LEVEL).unwrap_or(0);
        let maximum = make_policy(&parts, Kind::Maximum, 1, DomainId(0));
        X86Factory { parts, microcode, maximum: Arc::new(maximum) }
    }

    fn policy_of(&self, kind: Kind) -> CpuidPolicy {
        make_policy(&self.parts, kind, 1, DomainId(0))
    }

    /// The machine's own leaves, in the order in which the toolstack reads a policy.
    fn raw_leaves(&self) -> Vec<CpuidLeaf> {
        let cpuid = |leaf, subleaf| self.parts.machine.cpuid(leaf, subleaf);
        let mut all = Vec::new();
        let mut add = |leaf: u32, subleaf: u32, [a, b, c, d]: Registers| {
            all.push(CpuidLeaf { leaf, subleaf, a, b, c, d });
        };
        let [last, ..] = cpuid(0, 0);
        for leaf in 0..=last.min(BASIC_LAST) {
            let subleaves = match leaf {
                4 => 6,
                7 => cpuid(7, 0).first().map_or(1, |n| n.saturating_add(1)).min(3),
                0xb => 2,
                0xd => 3,
                _ => 0,
            };
            for subleaf in 0..subleaves {
                add(leaf, subleaf, cpuid(leaf, subleaf));
            }
            if subleaves == 0 {
                add(leaf, NO_SUBLEAF, cpuid(leaf, 0));
            }
        }
        let [last, ..] = cpuid(EXTENDED, 0);
        for leaf in EXTENDED..=last.min(EXTENDED_LAST) {
            add(leaf, NO_SUBLEAF, cpuid(leaf, 0));
        }
        all
    }
}

fn make_policy(parts: &Parts, kind: Kind, vcpus: u32, id: DomainId) -> CpuidPolicy {
    let xen = XenLeaves {
        version: XEN_VERSION,
        // Not that vCPUs may have upcall vectors of their own: they may, but the domain-wide one costs no end of interrupt.
        hvm_flags: 0,
        domain: id.0,
        machine_address_bits: parts.machine_address_bits,
    };
    CpuidPolicy::new(&Host(parts.machine), kind, parts.xcr0, vcpus, xen)
}

impl ArchFactory for X86Factory {
    fn machine(&self) -> MachineInfo {
        let ApicLayout { threads, cores, .. } = ApicLayout::of(&Host(self.parts.machine));
        let mut hw_cap = [0; 8];
        let words = cpuid::host_features(&Host(self.parts.machine));
        for (to, from) in hw_cap.iter_mut().zip(words) {
            *to = from;
        }
        MachineInfo {
            threads_per_core: threads,
            cores_per_socket: cores,
            cpu_khz: self.parts.tsc_khz,
            total_frames: self.parts.total_frames,
            hw_cap,
        }
    }

    fn featureset(&self, source: PolicySource) -> Vec<u32> {
        let words: FeatureWords = match source {
            PolicySource::Raw | PolicySource::Host => cpuid::host_features(&Host(self.parts.machine)),
            PolicySource::Maximum => self.maximum.features(),
            PolicySource::Default => self.policy_of(Kind::Default).features(),
        };
        words.to_vec()
    }

    fn policy(&self, source: PolicySource) -> CpuPolicyData {
        match source {
            PolicySource::Raw | PolicySource::Host => {
                CpuPolicyData { leaves: self.raw_leaves(), ..policy::data(&self.maximum) }
            }
            PolicySource::Maximum => policy::data(&self.maximum),
            PolicySource::Default => policy::data(&self.policy_of(Kind::Default)),
        }
    }

    fn policy_limits(&self) -> (u32, u32) {
        LIMITS
    }

    fn check(&self, config: &CreateDomain) -> Result<(), Errno> {
        let arch = &config.arch;
        if arch.misc_flags & !XEN_X86_MSR_RELAXED != 0 || arch.emulation_flags & !XEN_X86_EMU_ALL != 0 {
            return Err(Errno::EINVAL);
        }
        if arch.emulation_flags != XEN_X86_EMU_LAPIC {
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(())
    }

    fn new_domain(&self, hv: &Hypervisor, id: DomainId, config: &CreateDomain) -> Result<NewDomain, Errno> {
        let memory = hv.platform.memory();
        let table = Npt::new(memory, &hv.frames, ADDRESS_BITS, self.parts.largest, TABLE_PAGES)?;
        let tag = u64::from(id.0);
        let policy = make_policy(&self.parts, Kind::Default, config.max_vcpus, id);
        let arch = X86Domain::guest(tag, policy, self.maximum.clone(), self.parts.machine);
        Ok(NewDomain { table: Box::new(table), tag, arch: Box::new(arch) })
    }

    fn new_vcpu(&self, _: &Hypervisor, domain: &Arc<Domain>, id: VcpuId) -> Result<Box<dyn ArchVcpu>, Errno> {
        let x86 = X86Domain::of(domain).ok_or(Errno::EINVAL)?;
        let mut hardware = self.parts.machine.new_cpu(x86.tag, domain.p2m.root(), &DirectAccess::default());
        hardware.trap_tsc(x86.tsc.settings().emulated_khz != 0);
        let config = LapicConfig { x2apic: true, tsc_deadline: x86.cpuid.has(Feature::TSC_DEADLINE) };
        let lapic = Lapic::new(apic_id(id.0), id.0 == 0, config);
        let relaxed = domain.control.config().arch.misc_flags & XEN_X86_MSR_RELAXED != 0;
        let msrs = MsrState::new(MsrPolicy { microcode: self.microcode, cpuid_faulting: true, relaxed });
        Ok(Box::new(X86Vcpu::new(hardware, lapic, msrs, id.0 != 0)))
    }

    fn vcpus_made(&self, _: &Hypervisor, domain: &Arc<Domain>) {
        let apics = domain.vcpus().iter().filter_map(|v| X86Vcpu::of(v).map(|x| x.lapic.clone())).collect();
        if let Some(x86) = X86Domain::of(domain) {
            x86.set_apics(apics);
        }
    }
}
