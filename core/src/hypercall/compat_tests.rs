//! Tests of calls in 32-bit mode: each operation with two layouts does the same for both kinds of callers.

extern crate std;

use alloc::vec::Vec;
use radon_abi::xen::DOMID_SELF;

use super::*;
use crate::hypercall::SUCCESS;
use crate::testing::TestHost;
use crate::types::{DomainId, Gfn};
use radon_abi::hypercall::{GRANT_TABLE_OP, HVM_OP, MEMORY_OP, SCHED_OP, SET_TIMER_OP, VCPU_OP, XEN_VERSION};

const AT: u64 = 0x2000;
const LIST: u64 = 0x2800;

fn host() -> (TestHost, DomainId) {
    let mut host = TestHost::new(1024, 1);
    let guest = host.add_domain(1);
    (host, guest)
}

fn compat(host: &TestHost, guest: DomainId) -> Caller<'_> {
    host.caller(guest, 0).in_mode(true)
}

fn put(caller: &Caller<'_>, at: u64, words: &[u32]) {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    caller.memory.write(GuestVirtAddr(at), &bytes).unwrap();
}

fn words<const N: usize>(caller: &Caller<'_>, at: u64) -> [u32; N] {
    core::array::from_fn(|n| caller.read_at(GuestVirtAddr(at), n as u64).unwrap())
}

fn go(caller: &Caller<'_>, number: u32, args: [u64; 3]) -> OpResult {
    let [a, b, c] = args;
    super::super::dispatch(caller, number, Args([a, b, c, 0, 0, 0]))
}

#[test]
fn layouts_are_consistent() {
    for entry in LAYOUTS {
        let layout = entry.layout;
        assert!(layout.narrow <= LARGEST && layout.wide <= LARGEST);
        let (mut narrow, mut wide) = ([false; LARGEST], [false; LARGEST]);
        for field in layout.fields {
            for ((at, len), seen) in [(field.narrow(), &mut narrow), (field.wide(), &mut wide)] {
                for byte in &mut seen[at..at + len] {
                    assert!(!std::mem::replace(byte, true), "{layout:?} has a byte twice");
                }
            }
        }
        // What is in no field is padding, and at the end.
        assert!(!narrow[layout.narrow..].contains(&true) && !wide[layout.wide..].contains(&true), "{layout:?}");
    }
}

#[test]
fn extents_are_an_array_of_longs() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    let domain = host.domain(guest);
    let before = host.hv.frames.account(guest).pages();
    // Two extents of one frame each; the word after the list is none.
    put(&caller, LIST, &[5, 7, 9]);
    let self_ = u32::from(DOMID_SELF);
    put(&caller, AT, &[LIST as u32, 2, 0, 0, self_]);
    let decrease = u64::from(memory::XENMEM_DECREASE_RESERVATION);
    assert_eq!(go(&caller, MEMORY_OP, [decrease, AT, 0]), Ok(Outcome::Done(2)));
    let mapped = |gfn| domain.p2m.query(&host.hv, Gfn(gfn)).entry.kind.own_ram();
    assert_eq!([5, 6, 7, 8, 9].map(mapped), [false, true, false, true, true]);
    let populate = u64::from(memory::XENMEM_POPULATE_PHYSMAP);
    assert_eq!(go(&caller, MEMORY_OP, [populate, AT, 0]), Ok(Outcome::Done(2)));
    assert_eq!([5, 6, 7, 8, 9].map(mapped), [true; 5]);
    assert_eq!(host.hv.frames.account(guest).pages(), before);
    // The caller's structure and list are as they were.
    assert_eq!(words(&caller, AT), [LIST as u32, 2, 0, 0, self_]);
    assert_eq!(words(&caller, LIST), [5, 7, 9]);
}

#[test]
fn the_table_of_grants_and_copies() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    put(&caller, AT, &[DOMID_SELF.into(), 2, 0xdead_0055, LIST as u32]);
    put(&caller, LIST, &[0x55; 4]);
    let setup = u64::from(grant_table::GNTTABOP_SETUP_TABLE);
    assert_eq!(go(&caller, GRANT_TABLE_OP, [setup, AT, 1]), SUCCESS);
    let [_, frames, status, _] = words(&caller, AT);
    // The status is 16 bits; its neighbours are the caller's.
    assert_eq!((frames, status), (2, 0xdead_0000));
    // Frames that are mapped nowhere yet.
    assert_eq!(words(&caller, LIST), [!0, !0, 0x55, 0x55]);

    // Two copies within the caller: of 16 bytes, and one that is refused.
    let (self_, copy) = (u32::from(DOMID_SELF), u64::from(grant_table::GNTTABOP_COPY));
    put(&caller, 0x3010, &[1, 2, 3, 4]);
    put(&caller, 0x4020, &[0; 5]);
    put(&caller, AT, &[3, self_ | 0x10 << 16, 4, self_ | 0x20 << 16, 16, 0x77]);
    put(&caller, AT + 24, &[3, self_ | 0xff0 << 16, 4, self_, 32, 0x77]);
    assert_eq!(go(&caller, GRANT_TABLE_OP, [copy, AT, 2]), SUCCESS);
    assert_eq!(words(&caller, 0x4020), [1, 2, 3, 4, 0]);
    let status = |n: u64| words::<6>(&caller, AT + 24 * n)[5];
    assert_eq!(status(0), 0);
    assert_eq!(status(1) as u16 as i16, grant_table::GNTST_BAD_COPY_ARG);
}

#[test]
fn grant_copies_go_on_at_the_caller_s_next_structure() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    let (self_, copy) = (u32::from(DOMID_SELF), u64::from(grant_table::GNTTABOP_COPY));
    let at = 0x5000;
    let count = 900;
    for n in 0..count {
        put(&caller, at + 24 * n, &[3, self_, 4, self_, 4, 0x77]);
    }
    let Ok(Outcome::Continue(next)) = go(&caller, GRANT_TABLE_OP, [copy, at, count]) else { panic!("all at once") };
    let done = count - next.get(2);
    assert!(done > 0 && next.get(1) == at + 24 * done, "{next:?}");
    assert_eq!(words::<6>(&caller, at + 24 * (done - 1))[5], 0);
    assert_eq!(words::<6>(&caller, at + 24 * done)[5], 0x77);
}

#[test]
fn registers_hold_the_halves_of_a_time() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    // Beyond 4 s: it must not fire now.
    assert_eq!(go(&caller, SET_TIMER_OP, [1, 2, 0]), SUCCESS);
    let deadline = host.hv.timers.next_deadline(crate::types::CpuId(0)).unwrap().0;
    assert!((2 << 32 | 1..2 << 32 | 1 << 20).contains(&deadline), "{deadline}");
}

#[test]
fn run_states_have_no_padding() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    put(&caller, AT, &[0x55; 12]);
    let get = u64::from(vcpu::VCPUOP_GET_RUNSTATE_INFO);
    assert_eq!(go(&caller, VCPU_OP, [get, 0, AT]), SUCCESS);
    let wide: vcpu::RunstateInfo = {
        let caller = host.caller(guest, 0);
        assert_eq!(go(&caller, VCPU_OP, [get, 0, LIST]), SUCCESS);
        caller.read(GuestVirtAddr(LIST)).unwrap()
    };
    let narrow: [u32; 12] = words(&caller, AT);
    assert_eq!((narrow[0], narrow[1], narrow[11]), (wide.state, wide.state_entry_time as u32, 0x55));
    // The registered area has that form, too.
    put(&caller, AT, &[LIST as u32, 0]);
    put(&caller, LIST, &[0x55; 12]);
    let register = u64::from(vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA);
    assert_eq!(go(&caller, VCPU_OP, [register, 0, AT]), SUCCESS);
    let area: [u32; 12] = words(&caller, LIST);
    assert_eq!((area[0], area[1], area[11]), (wide.state, wide.state_entry_time as u32, 0x55));
}

#[test]
fn polls_and_versions() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    // A port that is not open: the list was read as it is.
    put(&caller, LIST, &[77]);
    put(&caller, AT, &[LIST as u32, 1, 0, 0]);
    let poll = u64::from(sched::SCHEDOP_POLL);
    let narrow = go(&caller, SCHED_OP, [poll, AT, 0]);
    let wide = {
        put(&caller, AT, &[LIST as u32, 0, 1, 0, 0, 0]);
        go(&host.caller(guest, 0), SCHED_OP, [poll, AT, 0])
    };
    assert_eq!(narrow, wide);
    put(&caller, AT, &[0x55; 2]);
    assert_eq!(go(&caller, XEN_VERSION, [version::XENVER_PLATFORM_PARAMETERS.into(), AT, 0]), SUCCESS);
    assert_eq!(words::<2>(&caller, AT)[1], 0x55);
}

#[test]
fn calls_within_a_call_are_in_the_same_mode() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    put(&caller, LIST, &[DOMID_SELF.into(), memory::XENMAPSPACE_SHARED_INFO, 0, 40]);
    put(&caller, AT, &[MEMORY_OP, 0x55, memory::XENMEM_ADD_TO_PHYSMAP, LIST as u32, 0, 0, 0, 0]);
    put(&caller, AT + 32, &[XEN_VERSION, 0x55, 0, 0, 0, 0, 0, 0]);
    assert_eq!(go(&caller, radon_abi::hypercall::MULTICALL, [AT, 2, 0]), SUCCESS);
    assert_eq!(words::<2>(&caller, AT)[1], 0);
    assert_eq!(words::<2>(&caller, AT + 32)[1], 4 << 16 | 17);
    assert!(!host.domain(guest).p2m.query(&host.hv, Gfn(40)).entry.kind.own_ram());
}

#[test]
fn the_callback_tells_the_mode_and_the_wall_clock_moves() {
    let (host, guest) = host();
    let at = |offset| {
        let page = host.domain(guest).shared_info.addr();
        host.hv.platform.memory().load_u32(page.checked_add(offset).unwrap())
    };
    let set = |caller: &Caller<'_>| {
        put(caller, AT, &[DOMID_SELF.into(), radon_abi::hvm::HVM_PARAM_CALLBACK_IRQ, 0x30, 0x0200_0000]);
        assert_eq!(go(caller, HVM_OP, [0, AT, 0]), SUCCESS);
    };
    set(&host.caller(guest, 0));
    assert!(!host.domain(guest).events.is_compat());
    set(&compat(&host, guest));
    assert!(host.domain(guest).events.is_compat());
    let info = radon_abi::xen::shared_info::COMPAT_WC_VERSION;
    assert!(at(info) != 0 && at(info) % 2 == 0);
    set(&host.caller(guest, 0));
    assert!(!host.domain(guest).events.is_compat());
}

#[test]
fn nothing_beyond_the_caller_s_memory_is_reached() {
    let (host, guest) = host();
    let caller = compat(&host, guest);
    let memory = Memory32 { caller: caller.memory, argument: u64::from(u32::MAX), layout: &GRANT_COPY };
    let mut bytes = [0; 40];
    assert_eq!(memory.read(GuestVirtAddr(STRUCTURES), &mut bytes), Err(Errno::EFAULT));
    // Across two structures, half a long, a long at no long's place.
    assert_eq!(memory.read(GuestVirtAddr(STRUCTURES + 8), &mut bytes), Err(Errno::EFAULT));
    assert_eq!(memory.read(GuestVirtAddr(LONGS + 2 * AT), &mut bytes[..4]), Err(Errno::EFAULT));
    assert_eq!(memory.read(GuestVirtAddr(LONGS + 1), &mut bytes[..8]), Err(Errno::EFAULT));
    assert!(memory.translate(GuestVirtAddr(STRUCTURES), true).is_err());
    assert!(memory.translate(GuestVirtAddr(LONGS), true).is_err());
    assert!(memory.translate(GuestVirtAddr(AT), true).is_ok());
}
