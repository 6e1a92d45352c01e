//! What the control operations need of the architecture layer: to make domains and vCPUs, and to say what the machine's
//! processors are.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::domctl::{CpuidLeaf, CreateDomain, MsrEntry};
use radon_abi::errno::Errno;

use super::{ArchDomain, ArchVcpu};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::p2m::NestedTable;
use crate::types::{DomainId, VcpuId};

/// What the machine is, for `XEN_SYSCTL_physinfo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineInfo {
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a package.
    pub cores_per_socket: u32,
    /// Frequency of a CPU's clock in kHz.
    pub cpu_khz: u32,
    /// RAM of the machine, in frames.
    pub total_frames: u64,
    /// The first words of the machine's featureset.
    pub hw_cap: [u32; 8],
}

/// Where a CPU is in the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTopology {
    /// Its core.
    pub core: u32,
    /// Its package.
    pub socket: u32,
    /// Its node.
    pub node: u32,
}

/// Whose CPU features and policies there are to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicySource {
    /// The processor's own.
    Raw,
    /// What the hypervisor uses of it.
    Host,
    /// All that a guest may be given.
    Maximum,
    /// What a guest gets if nobody says otherwise.
    Default,
}

/// What a domain's processors say they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuPolicyData {
    /// CPUID leaves.
    pub leaves: Vec<CpuidLeaf>,
    /// MSRs that describe the processor.
    pub msrs: Vec<MsrEntry>,
}

/// Why a domain cannot have a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The error.
    pub errno: Errno,
    /// The CPUID leaf and sub-leaf that cannot be, if it is one.
    pub leaf: Option<(u32, u32)>,
    /// The MSR that cannot be, if it is one.
    pub msr: Option<u32>,
}

impl From<Errno> for PolicyError {
    fn from(errno: Errno) -> PolicyError {
        PolicyError { errno, leaf: None, msr: None }
    }
}

/// The architecture's parts of a new domain.
pub struct NewDomain {
    /// An empty nested page table.
    pub table: Box<dyn NestedTable>,
    /// What [`crate::platform::Platform::flush_guest_tlb`] is to know its translations by.
    pub tag: u64,
    /// The rest.
    pub arch: Box<dyn ArchDomain>,
}

/// The architecture layer as the maker of domains.
pub trait ArchFactory: Send + Sync {
    /// What the machine is.
    fn machine(&self) -> MachineInfo;

    /// CPU features, in the order of words that the ABI has.
    fn featureset(&self, source: PolicySource) -> Vec<u32>;

    /// A CPU policy of the machine.
    fn policy(&self, source: PolicySource) -> CpuPolicyData;

    /// Most leaves and most MSRs that a policy can have.
    fn policy_limits(&self) -> (u32, u32);

    /// Whether a domain of this configuration can be made. What is not the architecture's was checked.
    ///
    /// # Errors
    /// `EINVAL` for what can never be, `EOPNOTSUPP` for what cannot be here.
    fn check(&self, config: &CreateDomain) -> Result<(), Errno>;

    /// The architecture's parts of a domain; they are given back by dropping them, the table's pages by
    /// [`NestedTable::free`].
    ///
    /// # Errors
    /// As [`ArchFactory::check`]; `ENOMEM`.
    fn new_domain(&self, hv: &Hypervisor, id: DomainId, config: &CreateDomain) -> Result<NewDomain, Errno>;

    /// The architecture's part of a vCPU, in the state after reset.
    ///
    /// # Errors
    /// `ENOMEM`; `EINVAL` for a number that cannot be.
    fn new_vcpu(&self, hv: &Hypervisor, domain: &Arc<Domain>, id: VcpuId) -> Result<Box<dyn ArchVcpu>, Errno>;

    /// The domain has its vCPUs; none is scheduled yet.
    fn vcpus_made(&self, hv: &Hypervisor, domain: &Arc<Domain>);
}
