//! What the toolstack does to a host of tests, from dom0.

#![cfg_attr(not(test), allow(clippy::unwrap_used, reason = "a test that cannot go on ends"))]

use radon_abi::domctl as abi;
use radon_abi::domctl::{CreateDomain, MaxVcpus};
use radon_abi::hypercall;
use radon_core::hypercall::{Args, OpResult, Outcome, SUCCESS, dispatch};
use radon_core::testing::TestHost;
use radon_core::types::{DomainId, GuestVirtAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Who does it.
pub const DOM0: DomainId = DomainId(0);
/// Where the arguments are in dom0's memory.
const AT: u64 = 0x1000;

/// Issues a domctl from dom0, whose argument is `value`, and continues it at most so often; its result and the argument then.
pub fn domctl<T: FromBytes + IntoBytes + Immutable>(
    host: &TestHost,
    cmd: u32,
    id: u16,
    value: &T,
    continuations: u32,
) -> (OpResult, T) {
    let header = abi::Header { cmd, interface_version: abi::XEN_DOMCTL_INTERFACE_VERSION, domain: id, _pad: [0; 3] };
    let mut args = Args([AT, 0, 0, 0, 0, 0]);
    let caller = host.caller(DOM0, 0);
    caller.write(GuestVirtAddr(AT), &header).unwrap();
    caller.write(GuestVirtAddr(AT + 16), value).unwrap();
    for _ in 0..=continuations {
        let caller = host.caller(DOM0, 0);
        match dispatch(&caller, hypercall::DOMCTL, args) {
            Ok(Outcome::Continue(next)) => args = next,
            result => return (result, caller.read(GuestVirtAddr(AT + 16)).unwrap()),
        }
    }
    panic!("domctl {cmd} does not end after {continuations} continuations");
}

/// Makes a PVH guest with two vCPUs, by the toolstack's operations; its number.
pub fn guest(host: &TestHost) -> u16 {
    let config = CreateDomain { max_grant_frames: -1, max_maptrack_frames: -1, ..CreateDomain::pvh(2) };
    assert_eq!(domctl(host, abi::XEN_DOMCTL_CREATEDOMAIN, 0, &config, 0).0, SUCCESS);
    let id = host.caller(DOM0, 0).read(GuestVirtAddr(AT + 8)).unwrap();
    assert_eq!(domctl(host, abi::XEN_DOMCTL_MAX_VCPUS, id, &MaxVcpus { max: 2 }, 0).0, SUCCESS);
    id
}
