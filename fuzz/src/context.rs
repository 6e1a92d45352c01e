//! The state of a saved guest, as the toolstack gives it back: records that anybody may have changed meanwhile.

use radon_abi::domctl as abi;
use radon_abi::domctl::{ArchDomainConfig, CreateDomain, HvmContext, MaxVcpus};
use radon_abi::hypercall;
use radon_core::hypercall::{Args, OpResult, Outcome, SUCCESS, dispatch};
use radon_core::testing::TestHost;
use radon_core::types::{DomainId, GuestVirtAddr};
use radon_x86::testing;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const DOM0: DomainId = DomainId(0);
const AT: u64 = 0x1000;
const BUFFER: u64 = 0x4000;
/// Bytes of dom0's memory from the buffer on.
const ROOM: usize = 0x3_c000;
/// How often an operation may ask to be continued.
const PATIENCE: u32 = 100_000;

/// Issues a domctl from dom0 and continues it to its end.
pub(crate) fn domctl<T: FromBytes + IntoBytes + Immutable>(
    host: &TestHost,
    cmd: u32,
    id: u16,
    value: &T,
) -> (OpResult, T) {
    let header = abi::Header { cmd, interface_version: abi::XEN_DOMCTL_INTERFACE_VERSION, domain: id, _pad: [0; 3] };
    let mut args = Args([AT, 0, 0, 0, 0, 0]);
    let caller = host.caller(DOM0, 0);
    caller.write(GuestVirtAddr(AT), &header).unwrap();
    caller.write(GuestVirtAddr(AT + 16), value).unwrap();
    for _ in 0..PATIENCE {
        let caller = host.caller(DOM0, 0);
        match dispatch(&caller, hypercall::DOMCTL, args) {
            Ok(Outcome::Continue(next)) => args = next,
            result => return (result, caller.read(GuestVirtAddr(AT + 16)).unwrap()),
        }
    }
    panic!("domctl {cmd} does not end");
}

/// Makes a PVH guest with two vCPUs; its number.
pub(crate) fn guest(host: &TestHost) -> u16 {
    let config = CreateDomain {
        flags: abi::XEN_DOMCTL_CDF_HVM | abi::XEN_DOMCTL_CDF_HAP,
        max_vcpus: 2,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 2,
        arch: ArchDomainConfig { emulation_flags: radon_abi::domctl::XEN_X86_EMU_LAPIC, misc_flags: 0 },
        ..CreateDomain::default()
    };
    assert_eq!(domctl(host, abi::XEN_DOMCTL_CREATEDOMAIN, 0, &config).0, SUCCESS);
    let id = host.caller(DOM0, 0).read(GuestVirtAddr(AT + 8)).unwrap();
    assert_eq!(domctl(host, abi::XEN_DOMCTL_MAX_VCPUS, id, &MaxVcpus { max: 2 }).0, SUCCESS);
    id
}

/// What is accepted must come out again: a state that was loaded is saved, and loads again.
pub(crate) fn load(data: &[u8]) {
    let host = testing::host_with(1280);
    let id = guest(&host);
    let data = &data[..data.len().min(ROOM)];
    host.caller(DOM0, 0).memory.write(GuestVirtAddr(BUFFER), data).unwrap();
    let ask = HvmContext { size: data.len() as u32, buffer: BUFFER, _pad: 0 };
    let (loaded, _) = domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &ask);
    let room = HvmContext { size: ROOM as u32, buffer: BUFFER, _pad: 0 };
    let (saved, got) = domctl(&host, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &room);
    assert!(saved.is_ok(), "saving fails: {saved:?}");
    if loaded.is_ok() {
        let again = HvmContext { size: got.size, buffer: BUFFER, _pad: 0 };
        let (again, _) = domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &again);
        assert!(again.is_ok(), "what was saved is refused: {again:?}");
    }
    assert!(domctl(&host, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &[0u64; 2]).0.is_ok());
}
