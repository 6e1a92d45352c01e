//! What the tests of control operations share.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use radon_abi::domctl::{CpuidLeaf, CreateDomain, MsrEntry};
use radon_abi::errno::Errno;
use radon_abi::{domctl, sysctl};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::hypercall::{Args, OpResult};
use crate::hypervisor::Hypervisor;
use crate::platform::{ArchFactory, ArchVcpu, CpuPolicyData, MachineInfo, NewDomain, PolicySource};
use crate::testing::{TestArchDomain, TestArchVcpu, TestHost, TestTable};
use crate::types::{DomainId, GuestVirtAddr, VcpuId};

/// Where tests put structures.
pub(super) const AT: u64 = 0x1000;
/// Where tests have buffers.
pub(super) const BUFFER: u64 = 0x4000;

/// Makes domains of test parts.
pub(super) struct TestFactory;

pub(super) fn policy(source: PolicySource) -> CpuPolicyData {
    let leaf = |n| CpuidLeaf { leaf: n, subleaf: u32::MAX, a: source as u32, ..CpuidLeaf::default() };
    CpuPolicyData { leaves: (0..3).map(leaf).collect(), msrs: vec![MsrEntry { idx: 0xce, flags: 0, val: 1 }] }
}

impl ArchFactory for TestFactory {
    fn machine(&self) -> MachineInfo {
        MachineInfo { threads_per_core: 2, cores_per_socket: 4, cpu_khz: 2_000_000, total_frames: 5000, hw_cap: [7; 8] }
    }
    fn featureset(&self, source: PolicySource) -> Vec<u32> {
        vec![source as u32; 19]
    }
    fn policy(&self, source: PolicySource) -> CpuPolicyData {
        policy(source)
    }
    fn policy_limits(&self) -> (u32, u32) {
        (8, 2)
    }
    fn check(&self, config: &CreateDomain) -> Result<(), Errno> {
        if config.arch.misc_flags == 0 { Ok(()) } else { Err(Errno::EINVAL) }
    }
    fn new_domain(&self, _: &Hypervisor, id: DomainId, _: &CreateDomain) -> Result<NewDomain, Errno> {
        let (table, arch) = (Box::<TestTable>::default(), Box::<TestArchDomain>::default());
        Ok(NewDomain { table, tag: u64::from(id.0), arch })
    }
    fn new_vcpu(&self, _: &Hypervisor, _: &Arc<Domain>, _: VcpuId) -> Result<Box<dyn ArchVcpu>, Errno> {
        Ok(Box::<TestArchVcpu>::default())
    }
    fn vcpus_made(&self, _: &Hypervisor, _: &Arc<Domain>) {}
}

/// A host with dom0 and a factory.
pub(super) fn host() -> TestHost {
    let mut host = TestHost::new(2048, 2);
    host.hv.control.set_factory(Box::new(TestFactory));
    host.add_domain(1);
    host
}

/// Calls a sysctl from dom0; returns what it wrote back, too.
pub(crate) fn sysctl_op<T: FromBytes + IntoBytes + Immutable + Default>(
    host: &TestHost,
    cmd: u32,
    value: &T,
) -> (OpResult, T) {
    let caller = host.caller(DomainId(0), 0);
    let header = sysctl::Header { cmd, interface_version: sysctl::XEN_SYSCTL_INTERFACE_VERSION };
    caller.write(GuestVirtAddr(AT), &header).unwrap();
    caller.write(GuestVirtAddr(AT + 8), value).unwrap();
    let result = crate::hypercall::dispatch(&caller, radon_abi::hypercall::SYSCTL, Args([AT, 0, 0, 0, 0, 0]));
    (result, caller.read(GuestVirtAddr(AT + 8)).unwrap())
}

/// Calls a domctl from dom0; returns what it wrote back, too. Continues until it is done.
pub(super) fn domctl_op<T: FromBytes + IntoBytes + Immutable + Default>(
    host: &TestHost,
    cmd: u32,
    domain: u16,
    value: &T,
) -> (OpResult, T) {
    let caller = host.caller(DomainId(0), 0);
    let version = domctl::XEN_DOMCTL_INTERFACE_VERSION;
    let header = domctl::Header { cmd, interface_version: version, domain, _pad: [0; 3] };
    caller.write(GuestVirtAddr(AT), &header).unwrap();
    caller.write(GuestVirtAddr(AT + 16), value).unwrap();
    let mut args = Args([AT, 0, 0, 0, 0, 0]);
    for _ in 0..1000 {
        let caller = host.caller(DomainId(0), 0);
        match crate::hypercall::dispatch(&caller, radon_abi::hypercall::DOMCTL, args) {
            Ok(crate::hypercall::Outcome::Continue(next)) => args = next,
            done => return (done, caller.read(GuestVirtAddr(AT + 16)).unwrap()),
        }
    }
    panic!("never done");
}
