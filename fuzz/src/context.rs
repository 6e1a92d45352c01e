//! The state of a saved guest, as the toolstack gives it back: records that anybody may have changed meanwhile.

use radon_abi::domctl as abi;
use radon_abi::domctl::HvmContext;
use radon_core::types::GuestVirtAddr;
use radon_x86::testing;
use radon_x86::testing::control::{DOM0, domctl, guest};

pub(crate) const BUFFER: u64 = 0x4000;
/// Bytes of dom0's memory from the buffer on.
const ROOM: usize = 0x3_c000;
/// How often an operation may ask to be continued.
const PATIENCE: u32 = 100_000;

/// What is accepted must come out again: a state that was loaded is saved, and loads again.
pub(crate) fn load(data: &[u8]) {
    let host = testing::host_with(1280);
    let id = guest(&host);
    let data = &data[..data.len().min(ROOM)];
    host.caller(DOM0, 0).memory.write(GuestVirtAddr(BUFFER), data).unwrap();
    let ask = HvmContext { size: data.len() as u32, buffer: BUFFER, _pad: 0 };
    let (loaded, _) = domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &ask, PATIENCE);
    let room = HvmContext { size: ROOM as u32, buffer: BUFFER, _pad: 0 };
    let (saved, got) = domctl(&host, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &room, PATIENCE);
    assert!(saved.is_ok(), "saving fails: {saved:?}");
    if loaded.is_ok() {
        let again = HvmContext { size: got.size, buffer: BUFFER, _pad: 0 };
        let (again, _) = domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &again, PATIENCE);
        assert!(again.is_ok(), "what was saved is refused: {again:?}");
    }
    assert!(domctl(&host, abi::XEN_DOMCTL_DESTROYDOMAIN, id, &[0u64; 2], PATIENCE).0.is_ok());
}
