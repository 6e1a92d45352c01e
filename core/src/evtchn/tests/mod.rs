//! Event channels on the test machine.

mod api;
mod fifo;
mod hypercalls;
mod model;

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;
use alloc::vec::Vec;

use radon_abi::xen::{shared_info, vcpu_info};

use crate::domain::Domain;
use crate::platform::{PhysMemory, Platform};
use crate::testing::TestHost;
use crate::types::{DomainId, MachineAddr, Port, VcpuId};

/// dom0 with 2 vCPUs, two guests with 2 vCPUs.
fn host() -> (TestHost, DomainId, DomainId, DomainId) {
    let mut host = TestHost::new(320, 2);
    let [dom0, one, two] = [(); 3].map(|()| host.add_domain(2));
    (host, dom0, one, two)
}

fn shared(domain: &Arc<Domain>, offset: u64) -> MachineAddr {
    MachineAddr(domain.shared_info.addr().0 + offset)
}

fn memory(host: &TestHost) -> &dyn PhysMemory {
    host.machine.memory()
}

/// The bit of a port in a bitmap of the shared information page.
fn bit(host: &TestHost, domain: DomainId, bitmap: u64, port: Port) -> bool {
    let word = shared(host.domain(domain), bitmap + u64::from(port.0 / 64 * 8));
    memory(host).load_u64(word) >> (port.0 % 64) & 1 != 0
}

fn set_mask(host: &TestHost, domain: DomainId, port: Port, masked: bool) {
    let word = shared(host.domain(domain), shared_info::EVTCHN_MASK + u64::from(port.0 / 64 * 8));
    if masked {
        memory(host).fetch_or_u64(word, 1 << (port.0 % 64));
    } else {
        memory(host).fetch_and_u64(word, !(1 << (port.0 % 64)));
    }
}

fn upcalls(host: &TestHost, domain: DomainId, vcpu: u32) -> u32 {
    host.arch(domain, vcpu).upcalls.load(Ordering::SeqCst)
}

/// Consumes all events of a vCPU as a 2-level guest does. Returns the ports in order.
fn consume(host: &TestHost, domain: DomainId, vcpu: u32) -> Vec<Port> {
    let memory = memory(host);
    let info = host.domain(domain).vcpu(VcpuId(vcpu)).unwrap().events.info().unwrap();
    let mut ports = Vec::new();
    memory.fetch_and_u64(info, !0xff);
    let selector = MachineAddr(info.0 + vcpu_info::PENDING_SEL);
    let words = memory.fetch_and_u64(selector, 0);
    for word in (0..64).filter(|w| words >> w & 1 != 0) {
        let pending = shared(host.domain(domain), shared_info::EVTCHN_PENDING + word * 8);
        let mask = shared(host.domain(domain), shared_info::EVTCHN_MASK + word * 8);
        let taken = memory.load_u64(pending) & !memory.load_u64(mask);
        memory.fetch_and_u64(pending, !taken);
        ports.extend((0..64).filter(|b| taken >> b & 1 != 0).map(|b| Port((word * 64 + b) as u32)));
    }
    ports
}
