//! Tests of forced emulation from the exit on; what the emulator does is tested beside it.

use super::forced::ForcedEmulation;
use super::tests::{DATA, Rig, rig};
use crate::msr::index as msr;
use crate::virt::{Event, Exit, Segment, SegmentName, gpr, rflags};

const UNDEFINED: Exit = Exit::Exception(Event::UD);
const IDT: u64 = 0xc000;
/// Bytes of the prefix.
const PREFIX: u64 = 5;

fn forced() -> Rig {
    let mut rig = rig();
    rig.sys.forced = Some(ForcedEmulation::new());
    rig
}

/// The guest meets the prefix with `code` behind it.
fn exit(rig: &mut Rig, code: &[u8]) {
    let bytes: alloc::vec::Vec<u8> = b"\x0f\x0bxen".iter().chain(code).copied().collect();
    rig.exit(&bytes, UNDEFINED);
}

#[test]
fn without_the_option_it_is_an_undefined_instruction() {
    let mut rig = rig();
    exit(&mut rig, &[0x89, 0xd8]); // mov eax, ebx
    assert_eq!((rig.moved(), rig.event()), (0, Some(Event::UD)));
}

#[test]
fn without_the_prefix_it_is_an_undefined_instruction() {
    let mut rig = forced();
    for code in [&b"\x0f\x0bxem\x89\xd8"[..], b"\x0f\x0b", b"\xf0\x89\xd8"] {
        rig.exit(code, UNDEFINED);
        assert_eq!((rig.moved(), rig.event()), (0, Some(Event::UD)));
    }
}

#[test]
fn the_instruction_behind_the_prefix_is_executed() {
    let mut rig = forced();
    rig.set(gpr::RBX, 0x1234);
    rig.cpu(|cpu| cpu.regs_mut().rflags |= rflags::RF);
    exit(&mut rig, &[0x89, 0xd8]);
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (0x1234, PREFIX + 2));
    assert_eq!(rig.cpu(|cpu| cpu.regs().rflags) & rflags::RF, 0);
    // Only once: what follows is the processor's.
    exit(&mut rig, &[0x90, 0x0f, 0x0b]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX + 1, None));
}

#[test]
fn faults_are_the_instruction_s_own() {
    let mut rig = forced();
    let beyond = 0x6000_0000;
    rig.set(gpr::RBX, beyond);
    exit(&mut rig, &[0x8b, 0x03]); // mov eax, [rbx]
    assert_eq!((rig.moved(), rig.cpu(|cpu| cpu.control().cr2)), (PREFIX, beyond));
    assert_eq!(rig.event(), Some(Event::Exception { vector: 14, error_code: Some(0) }));
    // What the emulator cannot do: VMFUNC, and MOV to SS.
    for code in [&[0x0f, 0x01, 0xd4][..], &[0x8e, 0xd0]] {
        exit(&mut rig, code);
        assert_eq!((rig.moved(), rig.event()), (PREFIX, Some(Event::UD)), "{code:x?}");
    }
}

#[test]
fn exits_of_their_own_have_their_handlers() {
    let mut rig = forced();
    rig.set(gpr::RAX, 0x4000_0000);
    exit(&mut rig, &[0x0f, 0xa2]);
    assert_eq!((rig.reg(gpr::RBX), rig.moved()), (0x566e_6558, PREFIX + 2));
    rig.set(gpr::RCX, u64::from(msr::PATCH_LEVEL));
    exit(&mut rig, &[0x0f, 0x32]);
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (1, PREFIX + 2));
    exit(&mut rig, &[0x0f, 0x31]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX + 2, None));
}

#[test]
fn user_mode_may_do_no_more_than_else() {
    let mut rig = forced();
    rig.user();
    rig.set(gpr::RCX, u64::from(msr::PATCH_LEVEL));
    for code in [&[0x0f, 0x32][..], &[0x0f, 0x30], &[0xf4], &[0x0f, 0x08], &[0x0f, 0x09], &[0x0f, 0x20, 0xc0], &[0xec]]
    {
        exit(&mut rig, code);
        assert_eq!((rig.moved(), rig.event()), (PREFIX, Some(Event::GP)), "{code:x?}");
    }
    assert!(rig.done().is_empty(), "the machine was made to do something");
    // RDTSC, unless the kernel has said otherwise.
    exit(&mut rig, &[0x0f, 0x31]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX + 2, None));
    rig.cpu(|cpu| {
        let mut control = cpu.control();
        control.cr4 |= 1 << 2;
        cpu.set_control(&control);
    });
    exit(&mut rig, &[0x0f, 0x31]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX, Some(Event::GP)));
}

#[test]
fn software_interrupts_are_delivered_behind_the_instruction() {
    let mut rig = forced();
    rig.put(IDT + 0x800, &0x8e00_0008_0000_u64.to_le_bytes());
    rig.put(IDT + 0x810, &0x0e00_0008_0000_u64.to_le_bytes());
    let idtr = Segment { base: IDT, limit: 0xfff, ..Segment::default() };
    rig.cpu(|cpu| cpu.set_segment(SegmentName::Idtr, &idtr));
    exit(&mut rig, &[0xcd, 0x80]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX + 2, Some(Event::Software { vector: 0x80 })));
    rig.cpu(|cpu| cpu.set_segment(SegmentName::Idtr, &idtr));
    exit(&mut rig, &[0xcd, 0x81]);
    let absent = Event::Exception { vector: 11, error_code: Some(0x81 << 3 | 2) };
    assert_eq!((rig.moved(), rig.event()), (PREFIX, Some(absent)));
}

#[test]
fn the_processor_s_own_reads_have_a_supervisor_s_rights() {
    let mut rig = forced();
    rig.cpu(|cpu| {
        // The page of the table is mapped by a large page of user rights: SMAP keeps the kernel from it.
        let mut control = cpu.control();
        control.cr4 |= 1 << 21;
        cpu.set_control(&control);
        cpu.regs_mut().rflags |= 1 << 18;
        cpu.set_segment(SegmentName::Idtr, &Segment { base: IDT, limit: 0xfff, ..Segment::default() });
    });
    rig.set(gpr::RBX, DATA);
    exit(&mut rig, &[0x8b, 0x03]);
    assert_eq!(rig.moved(), PREFIX + 2, "a program's access that AC exempts");
    exit(&mut rig, &[0xcd, 0x80]);
    assert_eq!((rig.moved(), rig.event()), (PREFIX, Some(Event::Exception { vector: 14, error_code: Some(1) })));
}
