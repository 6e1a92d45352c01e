//! Hypercalls with any arguments, through the dispatcher: from dom0 and from two guests, on a machine with little memory.
//!
//! The operations and their numbers come from the dispatch tables, so a new one is fuzzed from the day it is there.

use radon_abi::{domctl, platform, sysctl};
use radon_core::hypercall::{Args, HYPERCALLS, Hypercall, Outcome, dispatch};
use radon_core::testing::TestHost;
use radon_core::types::{DomainId, GuestVirtAddr, Nanoseconds};
use radon_x86::testing;
use radon_x86::testing::control::guest;

use crate::input::Input;

/// Frames of the machine.
const FRAMES: u64 = 1280;
/// Hypercalls of one run.
const CALLS: u32 = 24;
/// How often one may ask to be continued. Each time does at least one unit of work.
const PATIENCE: u32 = 100_000;
/// Where structures are: somewhere, over the end of a page, at the end of memory, beyond it.
const PLACES: &[u64] = &[0x1000, 0x1000, 0x2ff8, 0x8000, 0x3_fff0, 0x4_0000, 0xffff_ffff_ffff_fff8];

pub(crate) fn run(data: &[u8]) {
    let mut host = testing::host_with(FRAMES);
    let guests = [host.add_domain(2), host.add_domain(1)];
    let built = guest(&host);
    let mut input = Input::new(data);
    for _ in 0..CALLS {
        if input.is_empty() {
            return;
        }
        let who = input.one_of(&[DomainId(0), DomainId(0), guests[0], guests[1]]);
        call(&host, &mut input, who, built);
        let time = u64::from(input.u8());
        host.machine.advance(Nanoseconds(time * 1_000_000));
    }
}

fn call(host: &TestHost, input: &mut Input<'_>, who: DomainId, built: u16) {
    let chosen: &Hypercall = &HYPERCALLS[usize::from(input.u8()) % HYPERCALLS.len()];
    let op = match chosen.operations {
        [] => input.number() as u32,
        all => match input.u8() {
            255 => input.u32(),
            n => all[usize::from(n) % all.len()].number,
        },
    };
    let place = input.one_of(PLACES);
    let target = input.one_of(&[0, 1, 2, built, 0x7ff0, input_domain(op)]);
    let mut structure = match chosen.name {
        "domctl" => header(op, domctl::XEN_DOMCTL_INTERFACE_VERSION, Some(target)),
        "sysctl" => header(op, sysctl::XEN_SYSCTL_INTERFACE_VERSION, None),
        "platform_op" => header(op, platform::XENPF_INTERFACE_VERSION, None),
        _ => Vec::new(),
    };
    let in_structure = !structure.is_empty();
    // Fields are numbers of any size; where one is 8 bytes wide it is often an address.
    for _ in 0..input.u8() % 16 {
        match input.u8() {
            0..=99 => structure.extend((input.number() as u32).to_le_bytes()),
            100..=179 => structure.extend(input.number().to_le_bytes()),
            180..=219 => structure.extend(input.one_of(PLACES).to_le_bytes()),
            _ => structure.extend((input.number() as u16).to_le_bytes()),
        }
    }
    _ = host.caller(who, 0).memory.write(GuestVirtAddr(place), &structure);
    let mut args = Args([0; 6]);
    for n in 0..6 {
        let value = match (n, in_structure) {
            (0, true) => place,
            (0, false) => u64::from(op),
            _ => match input.u8() {
                0..=159 => place,
                _ => input.number(),
            },
        };
        args = args.with(n, value);
    }
    for _ in 0..PATIENCE {
        let caller = host.caller(who, 0);
        match dispatch(&caller, chosen.number, args) {
            Ok(Outcome::Continue(next)) => args = next,
            _ => return,
        }
    }
    panic!("{} {op} does not end: {args:x?}", chosen.name);
}

/// A number that no domain has.
fn input_domain(op: u32) -> u16 {
    (op as u16) | 0x4000
}

fn header(op: u32, version: u32, target: Option<u16>) -> Vec<u8> {
    let mut bytes = op.to_le_bytes().to_vec();
    bytes.extend(version.to_le_bytes());
    if let Some(target) = target {
        bytes.extend(target.to_le_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}
