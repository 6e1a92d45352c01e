//! The x86 part of a domain: what its vCPUs share.
//!
//! Locks: the devices of the hardware domain have their own (rank `Device`), inside [`crate::hwdom`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use core::sync::atomic::{AtomicU64, Ordering};

use radon_abi::domctl::TscInfo;
use radon_abi::errno::Errno;
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::platform::{ArchDomain, ClockParameters, CpuPolicyData, PolicyError};
use radon_core::types::Gfn;
use spin::once::Once;

use crate::context;
use crate::cpuid::CpuidPolicy;
use crate::devices::interrupt::{DeliveryMode, Message};
use crate::devices::lapic::{self, Ipi, LapicShared};
use crate::hwdom::HardwareDevices;
use crate::machine::Machine;
use crate::policy::{self, CurrentPolicy};
use crate::run::write_hypercall_page;
use crate::tsc::DomainTsc;
use crate::vcpu::X86Vcpu;

/// `HVM_PARAM_CALLBACK_IRQ`'s type for "this vector, on every vCPU" (public header hvm/params.h).
const CALLBACK_TYPE_VECTOR: u64 = 2;

/// What only a guest has.
struct Guest {
    machine: &'static dyn Machine,
    /// All that its policy may be.
    maximum: Arc<CpuidPolicy>,
}

/// The x86 part of a domain.
pub struct X86Domain {
    /// Identifies the domain in TLB flushes.
    pub tag: u64,
    /// What CPUID says to its vCPUs.
    pub cpuid: CurrentPolicy,
    /// What only a guest has.
    guest: Option<Guest>,
    /// How its vCPUs see time pass.
    pub tsc: DomainTsc,
    /// `HVM_PARAM_CALLBACK_IRQ` as the guest set it.
    callback: AtomicU64,
    /// The local APICs in the order of vCPU numbers.
    apics: Once<Vec<Arc<LapicShared>>>,
    /// The physical devices, for the hardware domain.
    pub hardware: Option<Box<HardwareDevices>>,
}

impl X86Domain {
    /// A domain without vCPUs; [`X86Domain::set_apics`] follows.
    #[must_use]
    pub fn new(tag: u64, cpuid: CpuidPolicy, hardware: Option<Box<HardwareDevices>>) -> X86Domain {
        X86Domain {
            tag,
            cpuid: CurrentPolicy::new(cpuid),
            guest: None,
            tsc: DomainTsc::default(),
            callback: AtomicU64::new(0),
            apics: Once::new(),
            hardware,
        }
    }

    /// A guest without vCPUs, whose policy may be changed within `maximum`.
    #[must_use]
    pub fn guest(tag: u64, cpuid: CpuidPolicy, maximum: Arc<CpuidPolicy>, machine: &'static dyn Machine) -> X86Domain {
        X86Domain { guest: Some(Guest { machine, maximum }), ..X86Domain::new(tag, cpuid, None) }
    }

    /// The machine, if this is a guest.
    #[must_use]
    pub fn machine(&self) -> Option<&'static dyn Machine> {
        self.guest.as_ref().map(|g| g.machine)
    }

    /// The x86 part of a domain. `None` for one that some other architecture made, which does not happen.
    #[must_use]
    pub fn of(domain: &Domain) -> Option<&X86Domain> {
        domain.arch.as_any().downcast_ref()
    }

    /// Gives the domain the local APICs of its vCPUs. Only the first call counts.
    pub fn set_apics(&self, apics: Vec<Arc<LapicShared>>) {
        self.apics.call_once(|| apics);
    }

    /// The local APICs.
    #[must_use]
    pub fn apics(&self) -> &[Arc<LapicShared>] {
        self.apics.get().map_or(&[], Vec::as_slice)
    }

    /// The vector that event upcalls have on every vCPU, if the guest chose that way.
    #[must_use]
    pub fn callback_vector(&self) -> Option<u8> {
        let via = self.callback.load(Ordering::Relaxed);
        (via >> 56 == CALLBACK_TYPE_VECTOR).then_some(via as u8)
    }
}

impl ArchDomain for X86Domain {
    fn set_callback_via(&self, via: u64) -> Result<(), Errno> {
        // Interrupt lines (types 0 and 1) exist on HVM guests only; their vCPUs then see no upcalls, as under Xen when
        // the line is not connected.
        self.callback.store(via, Ordering::Relaxed);
        Ok(())
    }

    fn cpu_policy(&self) -> Result<CpuPolicyData, Errno> {
        Ok(policy::data(&self.cpuid))
    }

    fn set_cpu_policy(&self, _: &Hypervisor, _: &Domain, changes: &CpuPolicyData) -> Result<(), PolicyError> {
        let guest = self.guest.as_ref().ok_or(Errno::EOPNOTSUPP)?;
        let new = policy::changed(&self.cpuid, &guest.maximum, changes)?;
        Ok(self.cpuid.replace(new)?)
    }

    fn fill_hypercall_page(&self, hv: &Hypervisor, domain: &Domain, gfn: Gfn) -> Result<(), Errno> {
        write_hypercall_page(hv, domain, gfn)
    }

    fn clock(&self, hv: &Hypervisor) -> ClockParameters {
        self.tsc.clock(hv)
    }

    fn tsc_info(&self, hv: &Hypervisor) -> Result<TscInfo, Errno> {
        Ok(self.tsc.info(hv))
    }

    fn set_tsc_info(&self, hv: &Hypervisor, domain: &Domain, info: &TscInfo) -> Result<(), Errno> {
        let trapped = self.tsc.set(hv, info)?;
        for vcpu in domain.vcpus() {
            let arch = X86Vcpu::of(vcpu).ok_or(Errno::EOPNOTSUPP)?;
            arch.state.try_lock().ok_or(Errno::EBUSY)?.cpu.trap_tsc(trapped);
            vcpu.publish_clock(hv);
        }
        Ok(())
    }

    fn context_size(&self, domain: &Domain) -> u32 {
        context::size(domain, self)
    }

    fn save_context(&self, hv: &Hypervisor, domain: &Domain) -> Result<Vec<u8>, Errno> {
        context::save(hv, domain, self)
    }

    fn save_record(&self, hv: &Hypervisor, domain: &Domain, kind: u32, instance: u32) -> Result<Vec<u8>, Errno> {
        context::save_one(hv, domain, self, kind, instance)
    }

    fn load_context(&self, hv: &Hypervisor, domain: &Domain, records: &[u8]) -> Result<(), Errno> {
        context::load(hv, domain, self, records)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The message reached vCPU `index`: have it looked at. A vCPU that is down comes up to take its start-up message.
fn wake(hv: &Hypervisor, domain: &Domain, index: usize, mode: DeliveryMode) {
    let Some(vcpu) = domain.vcpus().get(index) else { return };
    if mode == DeliveryMode::StartUp {
        hv.scheduler.bring_up(hv, vcpu);
    }
    vcpu.notify(hv);
}

/// Delivers an interrupt message to the local APICs of a domain.
pub fn deliver(hv: &Hypervisor, domain: &Domain, message: &Message) {
    let Some(x86) = X86Domain::of(domain) else { return };
    lapic::deliver(x86.apics(), message, |index| wake(hv, domain, index, message.mode));
}

/// Delivers an inter-processor interrupt of vCPU `sender`.
pub fn deliver_ipi(hv: &Hypervisor, domain: &Domain, sender: usize, ipi: &Ipi) {
    let Some(x86) = X86Domain::of(domain) else { return };
    lapic::deliver_ipi(x86.apics(), sender, ipi, |index| wake(hv, domain, index, ipi.message.mode));
}
