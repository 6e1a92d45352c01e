//! A whole hypervisor on the test machine, with domains that have a little memory.
//!
//! ```
//! use radon_core::testing::TestHost;
//! use radon_core::types::GuestVirtAddr;
//!
//! let mut host = TestHost::new(1024, 2);
//! let dom0 = host.add_domain(1);
//! let guest = host.add_domain(2);
//! let caller = host.caller(guest, 1);
//! caller.write(GuestVirtAddr(0x1000), &7u32).unwrap();
//! assert_eq!(caller.read::<u32>(GuestVirtAddr(0x1000)).unwrap(), 7);
//! ```

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;

use radon_abi::errno::Errno;
use radon_abi::vcpu::HvmContext;

use super::{TestMachine, TestTable};
use crate::console::Console;
use crate::domain::{Domain, DomainList, DomainParts, Role};
use crate::frames::{FrameAllocator, FrameInfo, Order, Placement};
use crate::hypercall::Caller;
use crate::hypervisor::Hypervisor;
use crate::p2m::{Access, GuestPhys, P2m};
use crate::platform::{ArchDomain, ArchVcpu, GuestVirtual};
use crate::sched::{PolicyKind, Scheduler};
use crate::time::Timers;
use crate::types::{DomainId, Gfn, GuestPhysAddr, GuestVirtAddr, Mfn, NodeId, VcpuId};
use crate::vcpu::Vcpu;

/// Frames of RAM that [`TestHost::add_domain`] gives a domain, from gfn 0.
pub const DOMAIN_FRAMES: u64 = 64;

/// A hypervisor under a test's control.
pub struct TestHost {
    /// The machine under it.
    pub machine: Arc<TestMachine>,
    /// The hypervisor.
    pub hv: Arc<Hypervisor>,
    domains: Vec<TestDomain>,
}

struct TestDomain {
    domain: Arc<Domain>,
    table: TestTable,
    memory: IdentityMemory,
}

impl TestHost {
    /// A machine of this many frames and CPUs, without domains. Frame 0 is not used.
    #[must_use]
    pub fn new(frames: u64, cpus: u32) -> TestHost {
        #[cfg(test)]
        super::order::check();
        let machine = Arc::new(TestMachine::new(frames, cpus));
        let table: Vec<FrameInfo> = (0..frames).map(|_| FrameInfo::absent()).collect();
        let allocator = FrameAllocator::new(Box::leak(table.into_boxed_slice()), Mfn(0), 1);
        allocator.add_region(Mfn(0), frames, NodeId(0));
        let hv = Hypervisor {
            platform: Box::new(machine.clone()),
            frames: allocator,
            domains: DomainList::default(),
            scheduler: Scheduler::new(PolicyKind::Null, cpus),
            timers: Timers::new(cpus),
            console: Console::default(),
            control: crate::control::Control::default(),
            watchdog: crate::watchdog::Watchdog::default(),
            trace: crate::trace::Trace::default(),
        };
        TestHost { machine, hv: Arc::new(hv), domains: Vec::new() }
    }

    /// Adds a domain with [`DOMAIN_FRAMES`] frames of RAM. The first is dom0, with privilege; numbers follow from 0.
    pub fn add_domain(&mut self, vcpus: u32) -> DomainId {
        self.add_domain_with(vcpus, DOMAIN_FRAMES)
    }

    /// Adds a domain with this many frames of RAM from gfn 0, and a limit of twice as many.
    pub fn add_domain_with(&mut self, vcpus: u32, frames: u64) -> DomainId {
        let id = DomainId(self.domains.len() as u16);
        let domain = self.build(vcpus, false);
        self.hv.frames.account(id).set_limit(frames.saturating_mul(2));
        let mut batch = domain.p2m.unmapped(&self.hv);
        for gfn in 0..frames {
            let memory = self.hv.platform.memory();
            let frame = self.hv.frames.alloc_domain(memory, id, Order::PAGE, Placement::default());
            let added = frame.and_then(|f| domain.p2m.add_ram(&self.hv, Gfn(gfn), f, &mut batch));
            assert_eq!(added, Ok(()), "the test machine is too small");
        }
        id
    }

    /// Adds a domain whose RAM is the machine frames `start..start+frames`, identity-mapped.
    pub fn add_identity_domain(&mut self, vcpus: u32, start: Mfn, frames: u64) -> DomainId {
        let id = DomainId(self.domains.len() as u16);
        let hv = self.hv.clone();
        hv.frames.account(id).set_limit(frames);
        let range = hv.frames.take_range(id, start, frames);
        let domain = self.build(vcpus, true);
        let mut batch = domain.p2m.unmapped(&hv);
        let added = range.and_then(|f| domain.p2m.add_ram(&self.hv, Gfn(start.0), f, &mut batch));
        assert_eq!(added, Ok(()), "the frames are not free");
        id
    }

    fn build(&mut self, vcpus: u32, identity: bool) -> Arc<Domain> {
        let id = DomainId(self.domains.len() as u16);
        let table = TestTable::default();
        let p2m = P2m::new(id, Box::new(table.clone()), u64::from(id.0), identity);
        let shared_info = self.hv.frames.alloc_special(self.hv.platform.memory(), id);
        let domain = Domain::new(DomainParts {
            id,
            role: if id.0 == 0 { Role::Hardware } else { Role::Guest },
            p2m,
            shared_info: shared_info.unwrap_or_default(),
            arch: Box::new(TestArchDomain::default()),
        });
        let vcpu = |n| Vcpu::new(&domain, VcpuId(n), Box::new(TestArchVcpu::default()));
        domain.set_vcpus((0..vcpus).map(vcpu).collect());
        assert_eq!(self.hv.domains.insert(domain.clone()), Ok(()));
        let memory = IdentityMemory { hv: self.hv.clone(), domain: domain.clone() };
        self.domains.push(TestDomain { domain: domain.clone(), table, memory });
        domain
    }

    /// A domain.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "a test names domains it made")]
    pub fn domain(&self, id: DomainId) -> &Arc<Domain> {
        &self.domains[id.index()].domain
    }

    /// A domain's nested page table.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "a test names domains it made")]
    pub fn table(&self, id: DomainId) -> &TestTable {
        &self.domains[id.index()].table
    }

    /// A vCPU.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "a test names vCPUs it made")]
    pub fn vcpu(&self, domain: DomainId, vcpu: u32) -> &Arc<Vcpu> {
        &self.domain(domain).vcpus()[VcpuId(vcpu).index()]
    }

    /// A vCPU as the caller of a hypercall. Its virtual addresses are guest-physical ones.
    #[must_use]
    #[allow(clippy::indexing_slicing, reason = "a test names domains it made")]
    pub fn caller(&self, domain: DomainId, vcpu: u32) -> Caller<'_> {
        let memory = &self.domains[domain.index()].memory;
        Caller::new(&self.hv, self.domain(domain), self.vcpu(domain, vcpu), memory)
    }

    /// The architecture's part of a vCPU.
    #[must_use]
    #[allow(clippy::expect_used, reason = "all vCPUs of this host are made here")]
    pub fn arch(&self, domain: DomainId, vcpu: u32) -> &TestArchVcpu {
        self.vcpu(domain, vcpu).arch.as_any().downcast_ref().expect("a vCPU of the test host")
    }

    /// A domain's guest-physical memory.
    #[must_use]
    pub fn guest_phys(&self, domain: DomainId) -> GuestPhys<'_> {
        GuestPhys::new(&self.hv, &self.domain(domain).p2m)
    }
}

/// A domain's memory by virtual addresses that equal its guest-physical ones.
pub struct IdentityMemory {
    hv: Arc<Hypervisor>,
    domain: Arc<Domain>,
}

impl GuestVirtual for IdentityMemory {
    fn read(&self, from: GuestVirtAddr, to: &mut [u8]) -> Result<(), Errno> {
        GuestPhys::new(&self.hv, &self.domain.p2m).read(GuestPhysAddr(from.0), to)
    }

    fn write(&self, to: GuestVirtAddr, from: &[u8]) -> Result<(), Errno> {
        GuestPhys::new(&self.hv, &self.domain.p2m).write(GuestPhysAddr(to.0), from)
    }

    fn translate(&self, at: GuestVirtAddr, write: bool) -> Result<GuestPhysAddr, Errno> {
        let at = GuestPhysAddr(at.0);
        let access = if write { Access::Write } else { Access::Read };
        self.domain.p2m.get_page(&self.hv, at.gfn(), access)?;
        Ok(at)
    }
}

/// The architecture's part of a test vCPU: counts what it is told.
#[derive(Default)]
pub struct TestArchVcpu {
    /// Event upcalls raised.
    pub upcalls: AtomicU32,
    /// NMIs raised.
    pub nmis: AtomicU32,
    /// Called once, when the vCPU is next asked whether an interrupt is pending: what another CPU does just then.
    pub meanwhile: spin::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ArchVcpu for TestArchVcpu {
    fn raise_upcall(&self) {
        self.upcalls.fetch_add(1, Ordering::SeqCst);
    }
    fn raise_nmi(&self) {
        self.nmis.fetch_add(1, Ordering::SeqCst);
    }
    fn set_upcall_vector(&self, _: u8) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn initialise(&self, _: &Domain, _: &HvmContext) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }
    fn interrupt_pending(&self) -> bool {
        let meanwhile = self.meanwhile.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        false
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The architecture's part of a test domain.
#[derive(Default)]
pub struct TestArchDomain {
    /// The last way of delivering upcalls that was set.
    pub callback_via: AtomicU64,
}

impl ArchDomain for TestArchDomain {
    fn set_callback_via(&self, via: u64) -> Result<(), Errno> {
        self.callback_via.store(via, Ordering::SeqCst);
        Ok(())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
