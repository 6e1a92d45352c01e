//! A domain: what belongs to one virtual machine.
//!
//! Each part (event channels, grants, p2m) guards itself with its own lock; see [`crate::sync::Rank`] for the order.
//! A domain is reference-counted: whoever holds an `Arc<Domain>` may use it after it has left the [`DomainList`], but
//! its operations then fail because its parts have been torn down.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use radon_abi::errno::Errno;
use radon_abi::hvm::HVM_PARAM_TRIPLE_FAULT_REASON;
use radon_abi::sched::SHUTDOWN_REBOOT;

use crate::control::DomainControl;
use crate::evtchn::EventChannels;
use crate::grant::GrantTable;
use crate::memory::MemoryMap;
use crate::p2m::P2m;
use crate::platform::ArchDomain;
use crate::sched::DomainSched;
use crate::sync::{Lock, Rank};
use crate::time::clock::DomainTime;
use crate::types::{DomainId, Mfn, VcpuId};
use crate::vcpu::Vcpu;

/// Number of HVM parameters (`HVM_NR_PARAMS` of Xen 4.17).
pub const HVM_PARAMS: usize = 39;

/// The parameters of a new domain: a triple fault restarts it, as it does a PC.
fn first_params() -> [u64; HVM_PARAMS] {
    let mut params = [0; HVM_PARAMS];
    if let Some(reason) = params.get_mut(HVM_PARAM_TRIPLE_FAULT_REASON as usize) {
        *reason = u64::from(SHUTDOWN_REBOOT);
    }
    params
}

/// What a domain may do beyond managing itself. Made by the domain's creator, checked through
/// [`crate::hypercall::Caller::privileged`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// dom0: control domain and hardware domain.
    Hardware,
    /// An ordinary guest.
    Guest,
}

/// One domain.
pub struct Domain {
    /// Its number.
    pub id: DomainId,
    /// What it may do.
    pub role: Role,
    /// Its vCPUs by number, fixed at creation.
    vcpus: spin::once::Once<Vec<Arc<Vcpu>>>,
    /// Guest frames to machine frames.
    pub p2m: P2m,
    /// Event channels.
    pub events: EventChannels,
    /// Grant table.
    pub grants: GrantTable,
    /// What control operations keep for it.
    pub control: DomainControl,
    /// The memory map that the domain may ask for.
    pub memory_map: MemoryMap,
    /// The shared information page (`struct shared_info`): a frame that the hypervisor allocated for the domain.
    pub shared_info: Mfn,
    /// HVM parameters (`HVM_PARAM_*`), plain values; their meaning is in [`crate::hypercall`]'s hvm operations.
    pub hvm_params: Lock<[u64; HVM_PARAMS]>,
    /// Enabled `vm_assist` types, a bit each.
    pub vm_assist: AtomicU64,
    /// Shutdown state: 0 while running, else 1 + the `SHUTDOWN_*` reason.
    shutdown: AtomicU32,
    /// How it is scheduled.
    pub sched: Arc<DomainSched>,
    /// Its wall clock.
    pub time: DomainTime,
    /// The architecture's part.
    pub arch: Box<dyn ArchDomain>,
}

/// What a domain is made from; see [`Domain::new`].
pub struct DomainParts {
    /// Its number.
    pub id: DomainId,
    /// What it may do.
    pub role: Role,
    /// Its empty p2m.
    pub p2m: P2m,
    /// Its shared information page, zeroed.
    pub shared_info: Mfn,
    /// The architecture's part.
    pub arch: Box<dyn ArchDomain>,
}

impl Domain {
    /// A domain without vCPUs; [`Domain::set_vcpus`] follows.
    #[must_use]
    pub fn new(parts: DomainParts) -> Arc<Domain> {
        Arc::new(Domain {
            id: parts.id,
            role: parts.role,
            vcpus: spin::once::Once::new(),
            p2m: parts.p2m,
            events: EventChannels::new(),
            grants: GrantTable::new(),
            control: DomainControl::default(),
            memory_map: MemoryMap::default(),
            shared_info: parts.shared_info,
            hvm_params: Lock::new(Rank::Domain, first_params()),
            vm_assist: AtomicU64::new(0),
            shutdown: AtomicU32::new(0),
            sched: Arc::default(),
            time: DomainTime::default(),
            arch: parts.arch,
        })
    }

    /// Gives the domain its vCPUs, numbered from 0 without gaps. Only the first call counts.
    pub fn set_vcpus(&self, vcpus: Vec<Arc<Vcpu>>) {
        self.vcpus.call_once(|| vcpus);
    }

    /// All vCPUs.
    #[must_use]
    pub fn vcpus(&self) -> &[Arc<Vcpu>] {
        self.vcpus.get().map_or(&[], Vec::as_slice)
    }

    /// One vCPU.
    #[must_use]
    pub fn vcpu(&self, id: VcpuId) -> Option<&Arc<Vcpu>> {
        self.vcpus().get(id.index())
    }

    /// Whether this is dom0.
    #[must_use]
    pub fn is_hardware(&self) -> bool {
        self.role == Role::Hardware
    }

    /// The `SHUTDOWN_*` reason, once the domain has shut down.
    #[must_use]
    pub fn shutdown_reason(&self) -> Option<u32> {
        self.shutdown.load(Ordering::Acquire).checked_sub(1)
    }

    /// Forgets that the domain has shut down, as it is resumed. Returns whether it had.
    pub fn clear_shutdown(&self) -> bool {
        self.shutdown.swap(0, Ordering::AcqRel) != 0
    }

    /// Notes that the domain has shut down. Returns whether this was the first time (the first reason stays).
    pub fn note_shutdown(&self, reason: u32) -> bool {
        self.shutdown.compare_exchange(0, reason.saturating_add(1), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// All domains by number.
///
/// Readers copy an `Arc` out under a short lock; nothing that takes long happens under it.
pub struct DomainList {
    domains: Lock<BTreeMap<DomainId, Arc<Domain>>>,
}

impl Default for DomainList {
    fn default() -> Self {
        DomainList { domains: Lock::new(Rank::DomainList, BTreeMap::new()) }
    }
}

impl DomainList {
    /// Finds a domain.
    ///
    /// # Errors
    /// `ESRCH` if there is none of that number.
    pub fn get(&self, id: DomainId) -> Result<Arc<Domain>, Errno> {
        self.domains.lock().get(&id).cloned().ok_or(Errno::ESRCH)
    }

    /// Adds a domain.
    ///
    /// # Errors
    /// `EEXIST` if the number is taken.
    pub fn insert(&self, domain: Arc<Domain>) -> Result<(), Errno> {
        let mut domains = self.domains.lock();
        if domains.contains_key(&domain.id) {
            return Err(Errno::EEXIST);
        }
        domains.insert(domain.id, domain);
        Ok(())
    }

    /// Takes a domain out of the list.
    pub fn remove(&self, id: DomainId) -> Option<Arc<Domain>> {
        self.domains.lock().remove(&id)
    }

    /// Takes a domain out of the list if `accept` agrees and nobody else has a hold on it; nobody can have one later.
    pub fn take_unused(&self, id: DomainId, accept: impl FnOnce(&Domain) -> bool) -> Option<Domain> {
        let mut domains = self.domains.lock();
        let found = domains.remove(&id)?;
        if !accept(&found) {
            domains.insert(id, found);
            return None;
        }
        match Arc::try_unwrap(found) {
            Ok(domain) => Some(domain),
            Err(used) => {
                domains.insert(id, used);
                None
            }
        }
    }

    /// How many domains `wanted` agrees to. It is asked under the list's lock, so it takes no lock of lower rank.
    #[must_use]
    pub fn count(&self, wanted: impl Fn(&Domain) -> bool) -> u32 {
        self.domains.lock().values().filter(|d| wanted(d)).count() as u32
    }

    /// The domain with the lowest number at or above `id`.
    #[must_use]
    pub fn next_from(&self, id: DomainId) -> Option<Arc<Domain>> {
        self.domains.lock().range(id..).next().map(|(_, d)| d.clone())
    }
}
