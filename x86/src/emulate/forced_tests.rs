//! Tests of what only forced emulation executes.

use super::super::testing::{CODE, Cpu, Delivered};
use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

const RAX: usize = 0;
const RBX: usize = 3;
const DX: usize = 2;
const IDT: u64 = 0x3_0000;
const GDT: u64 = 0x4_0000;
const LDT: u64 = 0x5_0000;
const TSS: u64 = 0x6_0000;
const DATA: u64 = 0x7_0000;

/// Linear memory. The processor's own accesses are noted, and those of the program to the tables fault.
#[derive(Clone, Default)]
struct Ram {
    bytes: BTreeMap<u64, u8>,
    own: Vec<u64>,
    /// Another vCPU wins every exchange.
    contended: bool,
}

impl Ram {
    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().enumerate().map(|(n, b)| (at + n as u64, *b)));
    }
    fn get(&self, at: u64, to: &mut [u8]) {
        for (n, b) in to.iter_mut().enumerate() {
            *b = self.bytes.get(&at.wrapping_add(n as u64)).copied().unwrap_or(0);
        }
    }
    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.get(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

fn is_table(linear: u64) -> bool {
    (IDT..DATA).contains(&linear)
}

impl Memory for Ram {
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault> {
        if is_table(linear) {
            return Err(Exception::page_fault(u32::from(kind == AccessKind::Fetch) << 4 | 4, linear).into());
        }
        self.get(linear, to);
        Ok(())
    }
    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault> {
        self.check_write(linear, from.len() as u8)?;
        self.put(linear, from);
        Ok(())
    }
    fn check_write(&mut self, linear: u64, _: u8) -> Result<(), Fault> {
        if is_table(linear) { Err(Exception::page_fault(6, linear).into()) } else { Ok(()) }
    }
    fn compare_exchange(&mut self, _: u64, _: Width, _: u64, _: u64) -> Result<bool, Fault> {
        Err(Fault::Unhandleable("not here"))
    }
    fn port_in(&mut self, _: u16, _: Width) -> Result<u32, Fault> {
        Ok(0x1234_5678)
    }
    fn port_out(&mut self, _: u16, _: Width, _: u32) -> Result<(), Fault> {
        Ok(())
    }
}

impl SystemMemory for Ram {
    fn read_system(&mut self, linear: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.own.push(linear);
        self.get(linear, to);
        Ok(())
    }
    fn exchange_system(&mut self, linear: u64, old: u64, new: u64) -> Result<bool, Fault> {
        let same = !self.contended && self.word(linear) == old;
        if same {
            self.put(linear, &new.to_le_bytes());
        }
        Ok(same)
    }
}

struct Test {
    cpu: Cpu,
    ram: Ram,
}

fn table(selector: u16, base: u64, limit: u32) -> SegmentState {
    SegmentState { selector, base, limit, attributes: 0x82 }
}

impl Test {
    /// A vCPU with tables, about to execute `code`.
    fn on(mut cpu: Cpu, code: &[u8]) -> Test {
        cpu.tables = [table(0, GDT, 0x2f), table(0, IDT, 0xfff), table(0x28, LDT, 0xf), table(0x20, TSS, 0x87)];
        cpu.gpr[RBX] = DATA;
        let mut ram = Ram::default();
        ram.put(CODE, code);
        Test { cpu, ram }
    }

    fn long(code: &[u8]) -> Test {
        Test::on(Cpu::long(), code)
    }

    fn protected(code: &[u8]) -> Test {
        Test::on(Cpu::protected(), code)
    }

    fn user(mut self) -> Test {
        self.cpu.cpl = 3;
        self
    }

    fn flags(mut self, flags: u64) -> Test {
        self.cpu.rflags = flags;
        self
    }

    /// Puts a descriptor at a place.
    fn put(mut self, at: u64, descriptor: u64) -> Test {
        self.ram.put(at, &descriptor.to_le_bytes());
        self
    }

    fn run(&mut self) -> Outcome {
        let before = self.cpu.clone();
        let outcome = emulate(&mut self.cpu, &mut self.ram, &[], 4);
        if outcome != Outcome::Done {
            assert_eq!(self.cpu, before, "what fails changes nothing");
        }
        outcome
    }

    #[track_caller]
    fn done(mut self) -> Test {
        assert_eq!(self.run(), Outcome::Done);
        self
    }

    #[track_caller]
    fn fails(mut self, vector: u8, error_code: u32) {
        let exception = Exception { vector, error_code: Some(error_code), cr2: None };
        assert_eq!(self.run(), Outcome::Fault(exception));
    }
}

/// A gate's first eight bytes.
fn gate(kind: u64, privilege: u64) -> u64 {
    0x8_0000 | kind << 40 | privilege << 45 | 1 << 47
}

const PRESENT: u64 = 1 << 47;
const INT_80: &[u8] = &[0xcd, 0x80];

#[test]
fn prefixes_are_found_and_skipped() {
    let mut t = Test::long(b"\x0f\x0bxen\x90");
    assert!(begins_with(&t.cpu, &mut t.ram, &[], b"\x0f\x0bxen"));
    assert!(!begins_with(&t.cpu, &mut t.ram, &[], b"\x0f\x0bxem"));
    // What the processor supplied is looked at first, and the rest read.
    assert!(begins_with(&t.cpu, &mut t.ram, &[0x0f, 0x0b], b"\x0f\x0bxen"));
    assert!(!begins_with(&t.cpu, &mut t.ram, b"\x0f\x0bxem", b"\x0f\x0bxen"));
    t.cpu.rip = IDT - 2;
    t.ram.put(IDT - 2, b"\x0f\x0b");
    assert!(!begins_with(&t.cpu, &mut t.ram, &[], b"\x0f\x0bxen"), "it goes on where no code can be");
    t.cpu.rip = CODE;
    t.cpu.rflags |= rflags::RF;
    skip(&mut t.cpu, 5);
    assert_eq!((t.cpu.rip, t.cpu.rflags), (CODE + 5, 2));
    // 32-bit code goes on at 0.
    let mut cpu = Cpu::protected();
    cpu.rip = 0xffff_fffb;
    skip(&mut cpu, 5);
    assert_eq!(cpu.rip, 0);
}

#[test]
fn software_interrupts_return_after_the_instruction() {
    let t = Test::long(INT_80).put(IDT + 0x800, gate(0xe, 0)).flags(rflags::TF | rflags::RF | 2).done();
    assert_eq!((t.cpu.rip, t.cpu.rflags), (CODE + 2, rflags::TF | 2));
    assert_eq!((t.cpu.delivered, t.cpu.steps, t.cpu.shadow), (alloc::vec![Delivered::Interrupt(0x80)], 0, false));
    let t = Test::protected(&[0xcc]).put(IDT + 24, gate(0xf, 3)).user().done();
    assert_eq!((t.cpu.rip, t.cpu.delivered), (CODE + 1, alloc::vec![Delivered::Interrupt(3)]));
    let t = Test::long(&[0x67, 0xf1]).put(IDT + 16, gate(0xe, 0)).user().done();
    assert_eq!((t.cpu.rip, t.cpu.delivered), (CODE + 2, alloc::vec![Delivered::Debug]));
}

#[test]
fn into_interrupts_after_an_overflow() {
    let t = Test::protected(&[0xce]).put(IDT + 32, gate(0xe, 3)).user().flags(rflags::OF | 2).done();
    assert_eq!(t.cpu.delivered, [Delivered::Interrupt(4)]);
    let t = Test::protected(&[0xce]).flags(rflags::TF | 2).done();
    assert_eq!((t.cpu.rip, t.cpu.steps, t.cpu.delivered.len()), (CODE + 1, 1, 0));
    assert_eq!(Test::long(&[0xce]).run(), Outcome::Fault(Exception::UD));
}

#[test]
fn gates_are_checked() {
    const CODE_80: u32 = 0x80 << 3 | 2;
    let at = IDT + 0x800;
    Test::long(INT_80).user().put(at, gate(0xe, 2)).fails(VECTOR_GP, CODE_80);
    Test::long(INT_80).put(at, gate(0xe, 0) & !PRESENT).fails(VECTOR_NP, CODE_80);
    Test::long(INT_80).user().put(at, gate(0xe, 0) & !PRESENT).fails(VECTOR_GP, CODE_80);
    for kind in [0, 5, 6, 7, 0xc, 0x1e] {
        Test::long(INT_80).put(at, gate(kind, 0)).fails(VECTOR_GP, CODE_80);
    }
    for kind in [5, 6, 7, 0xe, 0xf] {
        assert_eq!(Test::protected(INT_80).put(IDT + 0x400, gate(kind, 0)).run(), Outcome::Done, "{kind:x}");
    }
    let mut t = Test::long(INT_80).put(at, gate(0xe, 0));
    t.cpu.tables[Table::Idtr as usize].limit = 0x80e;
    t.fails(VECTOR_GP, CODE_80);
    let mut t = Test::protected(INT_80).put(IDT + 0x400, gate(0xe, 0));
    t.cpu.tables[Table::Idtr as usize].limit = 0x407;
    let t = t.done();
    assert_eq!(t.ram.own, [IDT + 0x400], "the gate is read once");
    // INT1 is the processor's own: the gate's privilege does not count, and errors are external.
    Test::long(&[0xf1]).user().put(IDT + 16, gate(0xe, 0) & !PRESENT).fails(VECTOR_NP, 1 << 3 | 3);
}

#[test]
fn old_modes_have_their_rules() {
    let mut cpu = Cpu::protected();
    cpu.cpl = 3;
    cpu.rflags = rflags::VM | 2;
    for s in &mut cpu.segments {
        *s = SegmentState { selector: 0, base: 0, limit: 0xffff, attributes: 0xf3 };
    }
    let at = IDT + 0x400;
    Test::on(cpu.clone(), INT_80).put(at, gate(0xe, 3)).fails(VECTOR_GP, 0);
    Test::on(cpu.clone(), INT_80).put(at, gate(0xe, 3)).flags(rflags::VM | rflags::IOPL | 2).done();
    Test::on(cpu.clone(), &[0xcc]).put(IDT + 24, gate(0xe, 3)).done();
    cpu.control[4] |= CR4_VME;
    assert!(matches!(Test::on(cpu, INT_80).run(), Outcome::Unhandleable(_)));
    let mut real = Test::on(Cpu::real(), INT_80);
    real.cpu.tables[Table::Idtr as usize] = table(0, 0, 0x3ff);
    let real = real.done();
    assert_eq!((real.cpu.delivered, real.ram.own.len()), (alloc::vec![Delivered::Interrupt(0x80)], 0));
}

#[test]
fn jumps_go_where_code_can_be() {
    assert_eq!(Test::long(&[0xeb, 0xfe]).done().cpu.rip, CODE);
    assert_eq!(Test::long(&[0xe9, 0, 1, 0, 0]).done().cpu.rip, CODE + 0x105);
    let jump = |target| {
        let mut t = Test::long(&[0xff, 0xe0]);
        t.cpu.gpr[RAX] = target;
        t
    };
    let t = jump(0xffff_8000_0000_0000).flags(rflags::TF | rflags::RF | 2).done();
    assert_eq!((t.cpu.rip, t.cpu.rflags, t.cpu.steps, t.cpu.shadow), (0xffff_8000_0000_0000, rflags::TF | 2, 1, false));
    jump(0x8000_0000_0000_0000).fails(VECTOR_GP, 0);
    assert_eq!(Test::long(&[0xff, 0x23]).put(DATA, 0x1234).done().cpu.rip, 0x1234); // jmp [rbx]
    let mut t = Test::protected(&[0xff, 0xe0]);
    t.cpu.gpr[RAX] = 0x5678_0000_2001;
    t.cpu.segments[Segment::Cs as usize].limit = 0x2000;
    t.cpu.gpr[RAX] -= 1;
    assert_eq!(Test { cpu: t.cpu.clone(), ram: t.ram.clone() }.done().cpu.rip, 0x2000);
    t.cpu.gpr[RAX] += 1;
    t.fails(VECTOR_GP, 0);
}

#[test]
fn system_calls_enter_the_kernel() {
    const STAR: u64 = 0x0023_000b_1234_5678;
    let call = |cpu| {
        let mut t = Test::on(cpu, &[0x0f, 0x05]).user().flags(rflags::TF | rflags::RF | rflags::IF | rflags::DF | 2);
        t.cpu.efer |= EFER_SCE;
        t.cpu.system_call = [STAR, 0xffff_8000_1111_0000, 0x2222_0000, rflags::TF | rflags::DF];
        t
    };
    let t = call(Cpu::long()).done();
    assert_eq!((t.cpu.rip, t.cpu.rflags, t.cpu.cpl, t.cpu.steps), (0xffff_8000_1111_0000, rflags::IF | 2, 0, 0));
    assert_eq!(t.cpu.gpr[usize::from(RCX)], CODE + 2);
    assert_eq!(t.cpu.gpr[usize::from(R11)], rflags::TF | rflags::IF | rflags::DF | 2);
    let flat = |selector, attributes| SegmentState { selector, base: 0, limit: u32::MAX, attributes };
    assert_eq!(t.cpu.segments[Segment::Cs as usize], flat(8, CODE_64));
    assert_eq!(t.cpu.segments[Segment::Ss as usize], flat(0x10, DATA_32));
    // A trap that is not masked comes in the kernel.
    let mut t = call(Cpu::long());
    t.cpu.system_call[3] = 0;
    assert_eq!(t.done().cpu.steps, 1);
    let mut t = call(Cpu::long());
    t.cpu.segments[Segment::Cs as usize].attributes = 0xcfb; // 32-bit code in long mode
    assert_eq!(t.done().cpu.rip, 0x2222_0000);
    let t = call(Cpu::protected()).done();
    assert_eq!((t.cpu.rip, t.cpu.rflags), (0x1234_5678, rflags::TF | rflags::DF | 2));
    assert_eq!((t.cpu.gpr[usize::from(R11)], t.cpu.segments[Segment::Cs as usize]), (0, flat(8, CODE_32)));
    let mut t = call(Cpu::long());
    t.cpu.efer &= !EFER_SCE;
    assert_eq!(t.run(), Outcome::Fault(Exception::UD));
    assert_eq!(Test::on(Cpu::real(), &[0x0f, 0x05]).run(), Outcome::Fault(Exception::UD));
}

#[test]
fn x87_instructions_ask_for_the_fpu_first() {
    let nm = Outcome::Fault(Exception::NM);
    let mf = Outcome::Fault(Exception { vector: VECTOR_MF, error_code: None, cr2: None });
    for bits in 0..8 {
        let cr0 = bits << 1; // MP, EM, TS
        let run = |code: &[u8], pending| {
            let mut t = Test::long(code);
            t.cpu.control[0] = t.cpu.control[0] & !0xe | cr0;
            t.cpu.x87_exception = pending;
            t.run()
        };
        let fnop_waits = cr0 & (CR0_EM | CR0_TS) != 0;
        let wait_waits = cr0 & CR0_MP != 0 && cr0 & CR0_TS != 0;
        for (code, waits) in [(&[0xd9, 0xd0][..], fnop_waits), (&[0x9b], wait_waits)] {
            assert_eq!(run(code, false), if waits { nm } else { Outcome::Done }, "{cr0:x}");
            assert_eq!(run(code, true), if waits { nm } else { mf }, "{cr0:x}");
        }
    }
    let mut t = Test::long(&[0x9b]);
    t.cpu.control[0] &= !CR0_NE;
    t.cpu.x87_exception = true;
    assert!(matches!(t.run(), Outcome::Unhandleable(_)));
}

#[test]
fn table_registers_are_stored() {
    let base = 0x1122_3344_5566_7788;
    let mut t = Test::long(&[0x0f, 0x01, 0x03]).put(DATA + 8, u64::MAX); // sgdt [rbx]
    t.cpu.tables[Table::Gdtr as usize] = table(0, base, 0x99aa);
    let t = t.done();
    assert_eq!((t.ram.word(DATA + 2), t.ram.word(DATA) & 0xffff), (base, 0x99aa));
    assert_eq!(t.ram.word(DATA + 8) >> 16, u64::MAX >> 16);
    let mut t = Test::protected(&[0x66, 0x0f, 0x01, 0x0b]).put(DATA, u64::MAX); // sidt [ebx]
    t.cpu.tables[Table::Idtr as usize] = table(0, 0x5566_7788, 0x99aa);
    assert_eq!(t.done().ram.word(DATA), 0xffff_5566_7788_99aa);
    // sldt rax; str [rbx]
    assert_eq!(Test::long(&[0x48, 0x0f, 0x00, 0xc0]).done().cpu.gpr[RAX], 0x28);
    assert_eq!(Test::long(&[0x0f, 0x00, 0x0b]).put(DATA, u64::MAX).done().ram.word(DATA), 0xffff_ffff_ffff_0020);
    assert_eq!(Test::on(Cpu::real(), &[0x0f, 0x00, 0xc0]).run(), Outcome::Fault(Exception::UD));
}

#[test]
fn user_mode_may_be_kept_from_table_registers() {
    for code in
        [&[0x0f, 0x01, 0x03], &[0x0f, 0x01, 0x0b], &[0x0f, 0x00, 0xc0], &[0x0f, 0x00, 0xc8], &[0x0f, 0x01, 0xe0]]
    {
        Test::long(code).user().done();
        let mut t = Test::long(code);
        t.cpu.control[4] |= CR4_UMIP;
        let mut user = Test { cpu: t.cpu.clone(), ram: t.ram.clone() }.user();
        t.done();
        assert_eq!(user.run(), Outcome::Fault(Exception::GP), "{code:x?}");
    }
}

/// MOV to FS of AX, and a data descriptor: base 0x12345678, limit 0xabcde pages, writable, 32-bit.
const TO_FS: &[u8] = &[0x8e, 0xe0];
const DESCRIPTOR: u64 = 0x12ca_9234_5678_bcde;

fn load(selector: u16, local: bool, descriptor: u64) -> Test {
    let mut t = Test::protected(TO_FS).put(if local { LDT } else { GDT } + u64::from(selector & !7), descriptor);
    t.cpu.gpr[RAX] = u64::from(selector);
    t
}

#[test]
fn segments_are_loaded_from_their_descriptors() {
    let t = load(0x28, false, DESCRIPTOR).done();
    let fs = t.cpu.segments[Segment::Fs as usize];
    assert_eq!(fs, SegmentState { selector: 0x28, base: 0x1234_5678, limit: 0xabcd_efff, attributes: 0xc93 });
    assert_eq!((t.ram.word(GDT + 0x28), t.cpu.rip), (DESCRIPTOR | DESCRIPTOR_ACCESSED, CODE + 2));
    let t = load(0xc, true, DESCRIPTOR | DESCRIPTOR_ACCESSED).done();
    assert_eq!(t.cpu.segments[Segment::Fs as usize].base, 0x1234_5678);
    // The null selector takes the segment away; its base stays.
    let mut t = load(3, false, DESCRIPTOR);
    t.cpu.segments[Segment::Fs as usize].base = 0x99;
    let fs = t.done().cpu.segments[Segment::Fs as usize];
    assert_eq!((fs.selector, fs.base, fs.attributes), (3, 0x99, 0));
    let mut t = Test::on(Cpu::real(), TO_FS);
    t.cpu.gpr[RAX] = 0x1234;
    let fs = t.done().cpu.segments[Segment::Fs as usize];
    assert_eq!((fs.selector, fs.base, fs.limit, fs.attributes), (0x1234, 0x1_2340, 0xffff, 0x93));
}

#[test]
fn bad_segments_are_not_loaded() {
    load(0x30, false, DESCRIPTOR).fails(VECTOR_GP, 0x30); // beyond the table
    load(0x14, true, DESCRIPTOR).fails(VECTOR_GP, 0x14);
    load(0x28, false, DESCRIPTOR & !PRESENT).fails(VECTOR_NP, 0x28);
    load(0x28, false, DESCRIPTOR & !(1 << 44)).fails(VECTOR_GP, 0x28); // of the system
    load(0x28, false, DESCRIPTOR & !(2 << 40) | 8 << 40).fails(VECTOR_GP, 0x28); // code that cannot be read
    load(0x2b, false, DESCRIPTOR).user().fails(VECTOR_GP, 0x28); // privilege
    load(0x28, false, DESCRIPTOR).user().fails(VECTOR_GP, 0x28);
    load(0x2b, false, DESCRIPTOR | 3 << 45).user().done();
    load(0x2b, false, DESCRIPTOR | 0xc << 40).user().done(); // conforming code
    let mut t = load(0xc, true, DESCRIPTOR);
    t.cpu.tables[Table::Ldtr as usize].selector = 3;
    t.fails(VECTOR_GP, 0xc); // there is no local table
    let mut t = load(0x28, false, DESCRIPTOR);
    t.ram.contended = true;
    assert_eq!(t.run(), Outcome::Retry);
    assert!(matches!(Test::protected(&[0x8e, 0xd0]).run(), Outcome::Unhandleable(_))); // SS
}

#[test]
fn ports_need_permission() {
    let inb = |t: Test| t.done().cpu.gpr[RAX];
    assert_eq!(inb(Test::long(&[0xe4, 0x61])), 0x78);
    assert_eq!(inb(Test::long(&[0xe4, 0x61]).user().flags(rflags::IOPL | 2)), 0x78);
    let user = |code: &[u8], map: u16, bits: u16| {
        let mut t = Test::long(code).user();
        t.ram.put(TSS + TSS_MAP, &map.to_le_bytes());
        t.ram.put(TSS + u64::from(map) + 12, &bits.to_le_bytes()); // of ports 0x60 to 0x6f
        t.cpu.gpr[DX] = 0x64;
        t
    };
    user(&[0xe4, 0x61], 0x70, !2).done();
    user(&[0xe4, 0x61], 0x70, 2).fails(VECTOR_GP, 0);
    user(&[0xed], 0x70, !0xf0).done(); // in eax, dx
    user(&[0xed], 0x70, 0x80).fails(VECTOR_GP, 0);
    user(&[0xe7, 0x67], 0x70, !0x780).done(); // out 0x67, eax: over two bytes of the map
    user(&[0xe7, 0x67], 0x70, 0x400).fails(VECTOR_GP, 0);
    user(&[0x6c], 0x70, 0x10).fails(VECTOR_GP, 0); // ins
    user(&[0xec], 0x7b, 0).fails(VECTOR_GP, 0); // the second byte of its permissions is beyond the limit
    let mut t = user(&[0xec], 0x70, 0);
    t.cpu.tables[Table::Tr as usize].limit = 0x66;
    t.fails(VECTOR_GP, 0); // there is no map
}

#[test]
fn all_else_is_executed_as_usual() {
    assert_eq!(Test::long(&[0x8b, 0x03]).put(DATA, 7).done().cpu.gpr[RAX], 7);
    assert!(matches!(Test::long(&[0x0f, 0x01, 0xd4]).run(), Outcome::Unhandleable(_)));
    assert_eq!(Test::long(&[0x0f, 0x0b]).run(), Outcome::Fault(Exception::UD));
    let mut t = Test::long(&[]);
    t.cpu.rip = IDT;
    assert_eq!(t.run(), Outcome::Fault(Exception::page_fault(0x14, IDT)));
}
