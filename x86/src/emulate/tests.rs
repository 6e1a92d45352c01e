//! Tests of fetching and executing, against a made-up vCPU.

use super::testing::{CODE, Cpu};
use super::*;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use proptest::prelude::*;

const RAX: usize = 0;
const RCX: usize = 1;
const RDX: usize = 2;
const RBX: usize = 3;
const RSP: usize = 4;
const RSI: usize = 6;
const RDI: usize = 7;

const DATA: u64 = 0x20_0000;

#[derive(Clone, Debug, PartialEq)]
enum Did {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Exchange(u64),
    In(u16, u8),
    Out(u16, u8, u32),
}

/// Sparse linear memory. Reads and writes at or above `end` fault; `wait` more data accesses than that are not ready.
#[derive(Clone, Debug)]
struct Ram {
    bytes: BTreeMap<u64, u8>,
    end: u64,
    log: Vec<Did>,
    /// Data accesses until one says to retry.
    wait: Option<u32>,
    /// Another vCPU wins every exchange.
    contended: bool,
    port: u32,
}

impl Ram {
    fn new(code: &[u8]) -> Ram {
        let bytes = code.iter().enumerate().map(|(n, b)| (CODE + n as u64, *b)).collect();
        Ram { bytes, end: u64::MAX, log: Vec::new(), wait: None, contended: false, port: 0x8765_4321 }
    }

    fn put(&mut self, at: u64, value: u64) {
        for (n, b) in value.to_le_bytes().into_iter().enumerate() {
            self.bytes.insert(at + n as u64, b);
        }
    }

    fn get(&self, at: u64, width: usize) -> u64 {
        let mut v = [0; 8];
        for (n, b) in v.iter_mut().take(width).enumerate() {
            *b = self.bytes.get(&(at + n as u64)).copied().unwrap_or(0);
        }
        u64::from_le_bytes(v)
    }

    fn tick(&mut self) -> Result<(), Fault> {
        match &mut self.wait {
            Some(0) => Err(Fault::Retry),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check(&self, linear: u64, length: usize, code: u32) -> Result<(), Fault> {
        let last = linear.wrapping_add(length as u64 - 1);
        if last >= self.end { Err(Exception::page_fault(code, linear.max(self.end)).into()) } else { Ok(()) }
    }
}

impl Memory for Ram {
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault> {
        self.check(
            linear,
            to.len(),
            match kind {
                AccessKind::ReadForWrite => 2,
                AccessKind::Fetch => 16,
                _ => 0,
            },
        )?;
        for (n, b) in to.iter_mut().enumerate() {
            *b = self.bytes.get(&linear.wrapping_add(n as u64)).copied().unwrap_or(0);
        }
        if kind != AccessKind::Fetch {
            self.tick()?;
            self.log.push(Did::Read(linear, to.len()));
        }
        Ok(())
    }
    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault> {
        self.check_write(linear, from.len() as u8)?;
        self.tick()?;
        self.log.push(Did::Write(linear, from.to_vec()));
        for (n, b) in from.iter().enumerate() {
            self.bytes.insert(linear.wrapping_add(n as u64), *b);
        }
        Ok(())
    }
    fn check_write(&mut self, linear: u64, length: u8) -> Result<(), Fault> {
        self.check(linear, usize::from(length), 2)
    }
    fn compare_exchange(&mut self, linear: u64, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
        self.check_write(linear, width.bytes())?;
        self.tick()?;
        self.log.push(Did::Exchange(linear));
        let same = !self.contended && self.get(linear, width.bytes().into()) == old;
        if same {
            for (n, b) in new.to_le_bytes().into_iter().take(width.bytes().into()).enumerate() {
                self.bytes.insert(linear + n as u64, b);
            }
        }
        Ok(same)
    }
    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault> {
        self.tick()?;
        self.log.push(Did::In(port, width.bytes()));
        Ok((u64::from(self.port) & width.mask()) as u32)
    }
    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault> {
        self.tick()?;
        self.log.push(Did::Out(port, width.bytes(), value));
        Ok(())
    }
}

/// A vCPU about to run `code`, with RBX pointing at the data.
struct Test {
    cpu: Cpu,
    ram: Ram,
}

impl Test {
    fn new(code: &[u8]) -> Test {
        let mut cpu = Cpu::long();
        cpu.gpr[RBX] = DATA;
        Test { cpu, ram: Ram::new(code) }
    }

    fn on(cpu: Cpu, code: &[u8]) -> Test {
        Test { cpu, ram: Ram::new(code) }
    }

    fn data(mut self, value: u64) -> Test {
        self.ram.put(DATA, value);
        self
    }

    fn gpr(mut self, n: usize, value: u64) -> Test {
        self.cpu.gpr[n] = value;
        self
    }

    fn flags(mut self, value: u64) -> Test {
        self.cpu.rflags = value;
        self
    }

    fn run(&mut self) -> Outcome {
        let i = match fetch(&self.cpu, &mut self.ram, &[]) {
            Ok(i) => i,
            Err(f) => return Err(f).into(),
        };
        execute(&mut self.cpu, &mut self.ram, &i, 4)
    }

    #[track_caller]
    fn done(mut self) -> Test {
        assert_eq!(self.run(), Outcome::Done);
        self
    }

    fn memory(&self) -> u64 {
        self.ram.get(DATA, 8)
    }
}

const PATTERN: u64 = 0x8877_6655_4433_2211;

#[test]
fn loads_and_stores() {
    let t = Test::new(&[0x8b, 0x03]).data(PATTERN).gpr(RAX, u64::MAX).done(); // mov eax, [rbx]
    assert_eq!((t.cpu.gpr[RAX], t.cpu.rip, t.cpu.shadow), (0x4433_2211, CODE + 2, false));
    let t = Test::new(&[0x66, 0x8b, 0x03]).data(PATTERN).gpr(RAX, u64::MAX).done();
    assert_eq!(t.cpu.gpr[RAX], 0xffff_ffff_ffff_2211);
    let t = Test::new(&[0x8a, 0x23]).data(PATTERN).gpr(RAX, 0).done(); // mov ah, [rbx]
    assert_eq!(t.cpu.gpr[RAX], 0x1100);
    let t = Test::new(&[0x48, 0x8b, 0x03]).data(PATTERN).done();
    assert_eq!(t.cpu.gpr[RAX], PATTERN);
    let t = Test::new(&[0x89, 0x03]).data(u64::MAX).gpr(RAX, PATTERN).done();
    assert_eq!(t.memory(), 0xffff_ffff_4433_2211);
    assert_eq!(t.ram.log, [Did::Write(DATA, PATTERN.to_le_bytes()[..4].to_vec())]);
    let t = Test::new(&[0x88, 0x23]).data(0).gpr(RAX, 0xab00).done(); // mov [rbx], ah
    assert_eq!(t.memory(), 0xab);
    let t = Test::new(&[0x48, 0xc7, 0x43, 0x00, 0xfe, 0xff, 0xff, 0xff]).data(0).done();
    assert_eq!(t.memory(), (-2_i64) as u64);
    let t = Test::new(&[0xc6, 0x03, 0x5a]).data(0).done();
    assert_eq!(t.memory(), 0x5a);
    // movabs eax, [DATA]; movabs [DATA], al
    let t = Test::new(&[0xa1, 0, 0, 0x20, 0, 0, 0, 0, 0]).data(PATTERN).done();
    assert_eq!((t.cpu.gpr[RAX], t.cpu.rip), (0x4433_2211, CODE + 9));
    let t = Test::new(&[0x0f, 0xc3, 0x03]).gpr(RAX, 7).done(); // movnti
    assert_eq!(t.memory(), 7);
    let t = Test::new(&[0x8c, 0x03]).data(u64::MAX).done(); // mov [rbx], es
    assert_eq!(t.memory(), 0xffff_ffff_ffff_0010);
    let t = Test::new(&[0x0f, 0x38, 0xf0, 0x03]).data(PATTERN).done(); // movbe eax, [rbx]
    assert_eq!(t.cpu.gpr[RAX], 0x1122_3344);
    let t = Test::new(&[0x66, 0x0f, 0x38, 0xf1, 0x03]).gpr(RAX, 0x1234).done();
    assert_eq!(t.memory(), 0x3412);
}

#[test]
fn extending_loads() {
    let t = Test::new(&[0x0f, 0xb6, 0x03]).data(0x80).gpr(RAX, u64::MAX).done();
    assert_eq!(t.cpu.gpr[RAX], 0x80);
    let t = Test::new(&[0x0f, 0xbe, 0x03]).data(0x80).done();
    assert_eq!(t.cpu.gpr[RAX], 0xffff_ff80);
    let t = Test::new(&[0x48, 0x0f, 0xbf, 0x03]).data(0x8000).done();
    assert_eq!(t.cpu.gpr[RAX], 0xffff_ffff_ffff_8000);
    let t = Test::new(&[0x48, 0x63, 0x03]).data(0x8000_0000).done(); // movsxd
    assert_eq!(t.cpu.gpr[RAX], 0xffff_ffff_8000_0000);
    let t = Test::new(&[0x66, 0x0f, 0xb6, 0x03]).data(0xff).gpr(RAX, PATTERN).done();
    assert_eq!(t.cpu.gpr[RAX], PATTERN & !0xffff | 0xff);
}

#[test]
fn addressing() {
    // mov eax, [rbx + rcx*8 - 8]
    let t = Test::new(&[0x8b, 0x44, 0xcb, 0xf8]).data(PATTERN).gpr(RCX, 1).done();
    assert_eq!(t.cpu.gpr[RAX], 0x4433_2211);
    // mov eax, [rip + DATA - next]
    let offset = (DATA - CODE - 6) as u32;
    let mut code = alloc::vec![0x8b, 0x05];
    code.extend(offset.to_le_bytes());
    assert_eq!(Test::new(&code).data(PATTERN).done().cpu.gpr[RAX], 0x4433_2211);
    // 32-bit addresses wrap: mov eax, [ebx + ecx]
    let t = Test::new(&[0x67, 0x8b, 0x04, 0x0b]).data(PATTERN).gpr(RCX, u64::MAX).gpr(RBX, DATA + 1).done();
    assert_eq!(t.cpu.gpr[RAX], 0x4433_2211);
    // gs: base counts in 64-bit mode, ds: does not
    let mut t = Test::new(&[0x65, 0x8b, 0x03]).data(PATTERN).gpr(RBX, 0);
    t.cpu.segments[Segment::Gs as usize].base = DATA;
    t.cpu.segments[Segment::Ds as usize].base = 0x1_0000;
    assert_eq!(t.done().cpu.gpr[RAX], 0x4433_2211);
}

#[test]
fn canonical_checks() {
    let hole = 0x8000_0000_0000;
    assert_eq!(Test::new(&[0x8b, 0x03]).gpr(RBX, hole).run(), Outcome::Fault(Exception::GP));
    assert_eq!(Test::new(&[0x8b, 0x03]).gpr(RBX, hole - 1).run(), Outcome::Fault(Exception::GP));
    assert_eq!(Test::new(&[0x8b, 0x04, 0x24]).gpr(RSP, hole).run(), Outcome::Fault(Exception::SS));
    let mut t = Test::new(&[0x8b, 0x03]);
    t.cpu.rip = hole;
    assert_eq!(t.run(), Outcome::Fault(Exception::GP));
}

#[test]
fn segmentation_in_protected_mode() {
    let load = &[0x8b, 0x03]; // mov eax, [ebx]
    let mut t = Test::on(Cpu::protected(), load).data(PATTERN).gpr(RBX, DATA - 0x100);
    t.cpu.segments[Segment::Ds as usize].base = 0x100;
    assert_eq!(t.done().cpu.gpr[RAX], 0x4433_2211);
    let with = |change: &dyn Fn(&mut SegmentState), code: &[u8]| {
        let mut t = Test::on(Cpu::protected(), code).gpr(RBX, 0x1000);
        change(&mut t.cpu.segments[Segment::Ds as usize]);
        t.run()
    };
    let gp = Outcome::Fault(Exception::GP);
    let store = &[0x89, 0x03];
    assert_eq!(with(&|s| s.limit = 0x1003, load), Outcome::Done);
    assert_eq!(with(&|s| s.limit = 0x1002, load), gp);
    assert_eq!(with(&|s| s.attributes = 0, load), gp, "null selector");
    assert_eq!(with(&|s| s.attributes &= !2, store), gp, "read-only");
    assert_eq!(with(&|s| s.attributes &= !2, load), Outcome::Done);
    assert_eq!(with(&|s| s.attributes = 0xc99, load), gp, "execute-only");
    assert_eq!(with(&|s| *s = SegmentState { limit: 0xfff, attributes: 0xc97, ..*s }, load), Outcome::Done);
    assert_eq!(with(&|s| *s = SegmentState { limit: 0x1000, attributes: 0xc97, ..*s }, load), gp, "expand-down");
    let mut t = Test::on(Cpu::protected(), &[0x8b, 0x45, 0]).gpr(5, 0x1000); // [ebp]
    t.cpu.segments[Segment::Ss as usize].limit = 0xfff;
    assert_eq!(t.run(), Outcome::Fault(Exception::SS));
    // Addresses wrap at 4 GiB.
    let mut t = Test::on(Cpu::protected(), load).data(PATTERN).gpr(RBX, 0xffff_0000);
    t.cpu.segments[Segment::Ds as usize].base = DATA + 0x1_0000;
    assert_eq!(t.done().cpu.gpr[RAX], 0x4433_2211);
}

#[test]
fn real_mode() {
    let mut t = Test::on(Cpu::real(), &[0x8b, 0x07]).gpr(RBX, 0x10).gpr(RAX, u64::MAX); // mov ax, [bx]
    t.cpu.segments[Segment::Ds as usize].base = DATA - 0x10;
    let t = t.data(PATTERN).done();
    assert_eq!((t.cpu.gpr[RAX], t.cpu.rip), (0xffff_ffff_ffff_2211, CODE + 2));
    assert_eq!(Test::on(Cpu::real(), &[0x8b, 0x07]).gpr(RBX, 0xffff).run(), Outcome::Fault(Exception::GP));
    let mut t = Test::on(Cpu::real(), &[]);
    t.cpu.rip = 0xfffe;
    t.cpu.segments[Segment::Cs as usize].base = 0;
    t.ram.bytes.insert(0xfffe, 0x90);
    assert_eq!(t.done().cpu.rip, 0xffff);
    let mut t = Test::on(Cpu::real(), &[]);
    t.cpu.rip = 0xffff;
    t.ram.bytes.insert(0xffff, 0x8b); // its ModRM byte is beyond the limit
    assert_eq!(t.run(), Outcome::Fault(Exception::GP));
}

#[test]
fn read_modify_write() {
    let t = Test::new(&[0x01, 0x03]).data(0xffff_ffff).gpr(RAX, 1).done(); // add [rbx], eax
    assert_eq!((t.memory(), t.cpu.rflags), (0, 2 | rflags::CF | rflags::ZF | rflags::PF | rflags::AF));
    assert_eq!(t.ram.log.len(), 2);
    let t = Test::new(&[0x83, 0x23, 0x0f]).data(0xff).done(); // and dword [rbx], 0xf
    assert_eq!(t.memory(), 0x0f);
    let t = Test::new(&[0x0a, 0x03]).data(0x40).gpr(RAX, 2).done(); // or al, [rbx]
    assert_eq!((t.cpu.gpr[RAX], t.memory()), (0x42, 0x40));
    let t = Test::new(&[0x80, 0x3b, 0x41]).data(0x41).done(); // cmp byte [rbx], 0x41
    assert_ne!(t.cpu.rflags & rflags::ZF, 0);
    assert_eq!(t.ram.log, [Did::Read(DATA, 1)], "a comparison does not write");
    let t = Test::new(&[0xf6, 0x03, 0x80]).data(0x7f).done(); // test
    assert_ne!(t.cpu.rflags & rflags::ZF, 0);
    let t = Test::new(&[0xff, 0x03]).data(0xffff_ffff).flags(2 | rflags::CF).done(); // inc keeps CF
    assert_eq!((t.memory(), t.cpu.rflags & (rflags::CF | rflags::ZF)), (0, rflags::CF | rflags::ZF));
    let t = Test::new(&[0xf7, 0x1b]).data(1).done(); // neg
    assert_eq!(t.memory() as u32, u32::MAX);
    let t = Test::new(&[0xf7, 0x13]).data(1).done(); // not
    assert_eq!((t.memory() as u32, t.cpu.rflags), (u32::MAX - 1, 2));
    let t = Test::new(&[0xd1, 0x23]).data(0x8000_0001).done(); // shl dword [rbx], 1
    assert_eq!((t.memory(), t.cpu.rflags & rflags::CF), (2, rflags::CF));
    let t = Test::new(&[0xd3, 0x2b]).data(0x80).gpr(RCX, 4).done(); // shr dword [rbx], cl
    assert_eq!(t.memory(), 8);
    let t = Test::new(&[0x83, 0x1b, 0]).data(0).flags(2 | rflags::CF).done(); // sbb
    assert_eq!(t.memory() as u32, u32::MAX);
}

#[test]
fn locked() {
    let t = Test::new(&[0xf0, 0x01, 0x03]).data(5).gpr(RAX, 3).done();
    assert_eq!((t.memory(), t.ram.log.last()), (8, Some(&Did::Exchange(DATA))));
    let mut t = Test::new(&[0xf0, 0x01, 0x03]).data(5).gpr(RAX, 3);
    t.ram.contended = true;
    let before = t.cpu.clone();
    assert_eq!(t.run(), Outcome::Retry);
    assert_eq!(t.cpu, before);
    // LOCK on what is no read-modify-write of memory.
    assert_eq!(Test::new(&[0xf0, 0x8b, 0x03]).run(), Outcome::Fault(Exception::UD));
    assert_eq!(Test::new(&[0xf0, 0x01, 0xc0]).run(), Outcome::Fault(Exception::UD));
    assert_eq!(Test::new(&[0xf0, 0x83, 0x3b, 0]).run(), Outcome::Fault(Exception::UD));
}

#[test]
fn exchanges() {
    let t = Test::new(&[0x87, 0x03]).data(PATTERN).gpr(RAX, 9).done(); // xchg [rbx], eax
    assert_eq!((t.memory(), t.cpu.gpr[RAX]), (PATTERN >> 32 << 32 | 9, 0x4433_2211));
    assert_eq!(t.ram.log.last(), Some(&Did::Exchange(DATA)), "always locked");
    let t = Test::new(&[0x0f, 0xc1, 0x03]).data(10).gpr(RAX, 5).done(); // xadd
    assert_eq!((t.memory(), t.cpu.gpr[RAX]), (15, 10));
    let t = Test::new(&[0x0f, 0xb1, 0x0b]).data(7).gpr(RAX, 7).gpr(RCX, 8).done(); // cmpxchg [rbx], ecx
    assert_eq!((t.memory(), t.cpu.rflags & rflags::ZF), (8, rflags::ZF));
    let t = Test::new(&[0x0f, 0xb1, 0x0b]).data(7).gpr(RAX, 6).gpr(RCX, 8).done();
    assert_eq!((t.memory(), t.cpu.gpr[RAX], t.cpu.rflags & rflags::ZF), (7, 7, 0));
    let t = Test::new(&[0x0f, 0xb1, 0xc9]).gpr(RAX, 1).gpr(RCX, 1).done(); // cmpxchg ecx, ecx
    assert_eq!(t.cpu.gpr[RCX], 1);
    let mut t = Test::new(&[0x0f, 0xc7, 0x09]).data(PATTERN); // cmpxchg8b [rcx]
    (t.cpu.gpr[RCX], t.cpu.gpr[RAX], t.cpu.gpr[RDX]) = (DATA, 0x4433_2211, 0x8877_6655);
    let t = t.gpr(RBX, 0x55).done();
    assert_eq!((t.memory(), t.cpu.rflags & rflags::ZF), (DATA << 32 | 0x55, rflags::ZF));
    let t = Test::new(&[0x0f, 0xc7, 0x0b]).data(PATTERN).done();
    assert_eq!((t.cpu.gpr[RAX], t.cpu.gpr[RDX]), (0x4433_2211, 0x8877_6655));
    assert!(matches!(Test::new(&[0x48, 0x0f, 0xc7, 0x0b]).run(), Outcome::Unhandleable(_)));
    let t = Test::new(&[0x0f, 0xc1, 0xc0]).gpr(RAX, 3).done(); // xadd eax, eax
    assert_eq!(t.cpu.gpr[RAX], 6);
}

#[test]
fn bits() {
    let t = Test::new(&[0x0f, 0xab, 0x03]).data(0).gpr(RAX, 33).done(); // bts [rbx], eax
    assert_eq!((t.memory(), t.cpu.rflags & rflags::CF), (1 << 33, 0));
    let mut t = Test::new(&[0x0f, 0xa3, 0x03]).gpr(RAX, 0xffff_ffff); // bt, one bit below
    t.ram.put(DATA - 8, 1 << 63);
    let t = t.done();
    assert_eq!(t.cpu.rflags & rflags::CF, rflags::CF);
    assert_eq!(t.ram.log, [Did::Read(DATA - 4, 4)]);
    let t = Test::new(&[0x0f, 0xba, 0x33, 0x25]).data(0xff).done(); // btr dword [rbx], 37: within the operand
    assert_eq!((t.memory(), t.cpu.rflags & rflags::CF), (0xdf, rflags::CF));
    let t = Test::new(&[0x48, 0x0f, 0xbb, 0x03]).data(0).gpr(RAX, (-64_i64) as u64).done(); // btc
    assert_eq!(t.ram.get(DATA - 8, 8), 1);
    let t = Test::new(&[0x0f, 0xba, 0xe8, 0x03]).gpr(RAX, 0).done(); // bts eax, 3
    assert_eq!(t.cpu.gpr[RAX], 8);
}

#[test]
fn stack() {
    let t = Test::new(&[0xff, 0x33]).data(PATTERN).gpr(RSP, DATA + 0x100).done(); // push [rbx]
    assert_eq!((t.cpu.gpr[RSP], t.ram.get(DATA + 0xf8, 8)), (DATA + 0xf8, PATTERN));
    let mut t = Test::new(&[0x8f, 0x04, 0x24]).gpr(RSP, DATA); // pop [rsp]: the new RSP
    t.ram.put(DATA, PATTERN);
    let t = t.done();
    assert_eq!((t.cpu.gpr[RSP], t.ram.get(DATA + 8, 8)), (DATA + 8, PATTERN));
    let t = Test::new(&[0x54]).gpr(RSP, DATA + 8).done(); // push rsp
    assert_eq!(t.memory(), DATA + 8);
    let t = Test::new(&[0x5c]).data(0x77).gpr(RSP, DATA).done(); // pop rsp
    assert_eq!(t.cpu.gpr[RSP], 0x77);
    let t = Test::new(&[0x6a, 0xff]).gpr(RSP, DATA + 8).done();
    assert_eq!(t.memory(), u64::MAX);
    let mut t = Test::new(&[0x8f, 0x03]).data(1).gpr(RSP, DATA).gpr(RBX, DATA + 0x1000);
    t.ram.end = DATA + 0x1000;
    let before = t.cpu.clone();
    assert_eq!(t.run(), Outcome::Fault(Exception::page_fault(2, DATA + 0x1000)));
    assert_eq!(t.cpu, before, "a fault restores RSP");
    let t = Test::on(Cpu::real(), &[0x50]).gpr(RSP, 0xffff_0000_0000).gpr(RAX, 0x1234).done(); // push ax: SP wraps
    assert_eq!((t.cpu.gpr[RSP], t.ram.get(0xfffe, 2)), (0xffff_0000_fffe, 0x1234));
}

#[test]
fn strings() {
    let at = |t: Test| t.gpr(RSI, DATA).gpr(RDI, DATA + 0x100);
    let t = at(Test::new(&[0xf3, 0x48, 0xa5]).data(PATTERN)).gpr(RCX, 2).done(); // rep movsq
    assert_eq!(t.ram.get(DATA + 0x100, 8), PATTERN);
    assert_eq!((t.cpu.gpr[RCX], t.cpu.gpr[RSI], t.cpu.gpr[RDI]), (0, DATA + 16, DATA + 0x110));
    assert_eq!(t.cpu.rip, CODE + 3);
    // A budget of four: the instruction goes on where it was.
    let mut t = at(Test::new(&[0xf3, 0xaa])).gpr(RAX, 0x5a).gpr(RCX, 6); // rep stosb
    assert_eq!((t.run(), t.cpu.gpr[RCX], t.cpu.rip), (Outcome::Retry, 2, CODE));
    let t = t.done();
    assert_eq!((t.cpu.gpr[RCX], t.cpu.gpr[RDI], t.cpu.rip), (0, DATA + 0x106, CODE + 2));
    assert_eq!(t.ram.get(DATA + 0x100, 8), 0x5a5a_5a5a_5a5a);
    // Backwards.
    let t = at(Test::new(&[0xad]).data(PATTERN)).flags(2 | rflags::DF).done(); // lodsd
    assert_eq!((t.cpu.gpr[RAX], t.cpu.gpr[RSI]), (0x4433_2211, DATA - 4));
    // Comparisons stop at the difference.
    let mut t = at(Test::new(&[0xf3, 0xa6]).data(0x0403_0201)).gpr(RCX, 4); // repe cmpsb
    t.ram.put(DATA + 0x100, 0x0405_0201);
    let t = t.done();
    assert_eq!((t.cpu.gpr[RCX], t.cpu.rflags & (rflags::ZF | rflags::CF)), (1, rflags::CF));
    let t = at(Test::new(&[0xf2, 0xae])).gpr(RDI, DATA).gpr(RAX, 0x33).gpr(RCX, 8).data(PATTERN).done(); // repne scasb
    assert_eq!((t.cpu.gpr[RCX], t.cpu.gpr[RDI], t.cpu.rflags & rflags::ZF), (5, DATA + 3, rflags::ZF));
    // A count of zero does nothing.
    let t = at(Test::new(&[0xf3, 0xa4])).gpr(RCX, 0).done();
    assert!(t.ram.log.is_empty());
    // 32-bit addresses: the registers are zero-extended.
    let t = Test::new(&[0x67, 0xf3, 0xaa]).gpr(RDI, 0xf_0000_0000 | DATA).gpr(RCX, 0xf_0000_0001).done();
    assert_eq!((t.cpu.gpr[RDI], t.cpu.gpr[RCX]), (DATA + 1, 0));
    // The source may be in another segment; the destination may not.
    let mut t = Test::new(&[0x65, 0xa4]).gpr(RSI, 0).gpr(RDI, DATA + 8).data(0x77); // movs gs:
    t.cpu.segments[Segment::Gs as usize].base = DATA;
    assert_eq!(t.done().ram.get(DATA + 8, 1), 0x77);
}

#[test]
fn string_faults_keep_what_is_done() {
    let mut t = Test::new(&[0xf3, 0xa4]).gpr(RSI, DATA).gpr(RDI, DATA + 0xffe).gpr(RCX, 4);
    t.ram.end = DATA + 0x1000;
    assert_eq!(t.run(), Outcome::Fault(Exception::page_fault(2, DATA + 0x1000)));
    assert_eq!((t.cpu.gpr[RCX], t.cpu.gpr[RDI], t.cpu.rip), (2, DATA + 0x1000, CODE));
    let mut t = Test::new(&[0xf3, 0xa4]).gpr(RSI, DATA).gpr(RDI, DATA + 0x100).gpr(RCX, 3).flags(2 | rflags::TF);
    assert_eq!((t.run(), t.cpu.steps, t.cpu.gpr[RCX]), (Outcome::Retry, 1, 2));
    let mut t = Test::new(&[0xf3, 0xa4]).gpr(RSI, DATA).gpr(RDI, DATA + 0x100).gpr(RCX, 3);
    t.ram.wait = Some(3);
    assert_eq!((t.run(), t.cpu.gpr[RCX], t.cpu.gpr[RSI]), (Outcome::Retry, 2, DATA + 1));
}

#[test]
fn ports() {
    let t = Test::new(&[0xe5, 0x60]).gpr(RAX, u64::MAX).done();
    assert_eq!((t.cpu.gpr[RAX], t.ram.log), (0x8765_4321, alloc::vec![Did::In(0x60, 4)]));
    let t = Test::new(&[0xec]).gpr(RDX, 0x1_03f8).gpr(RAX, u64::MAX).done();
    assert_eq!((t.cpu.gpr[RAX], t.ram.log), (0xffff_ffff_ffff_ff21, alloc::vec![Did::In(0x3f8, 1)]));
    let t = Test::new(&[0x66, 0xef]).gpr(RDX, 0x80).gpr(RAX, 0x1234_5678).done();
    assert_eq!(t.ram.log, [Did::Out(0x80, 2, 0x5678)]);
    let t = Test::new(&[0xe6, 0xe9]).gpr(RAX, 0x41).done();
    assert_eq!(t.ram.log, [Did::Out(0xe9, 1, 0x41)], "an immediate port is not sign-extended");
    let t = Test::new(&[0xf3, 0x6e]).gpr(RDX, 0xe9).gpr(RSI, DATA).gpr(RCX, 2).data(0x4241).done(); // rep outsb
    assert_eq!(t.ram.log[1], Did::Out(0xe9, 1, 0x41));
    assert_eq!(t.ram.log[3], Did::Out(0xe9, 1, 0x42));
    let t = Test::new(&[0x6d]).gpr(RDX, 0x1f0).gpr(RDI, DATA).done(); // insd
    assert_eq!((t.memory(), t.cpu.gpr[RDI]), (0x8765_4321, DATA + 4));
    // What cannot be stored is not read from the port.
    let mut t = Test::new(&[0x6c]).gpr(RDX, 0x1f0).gpr(RDI, DATA);
    t.ram.end = DATA;
    assert_eq!(t.run(), Outcome::Fault(Exception::page_fault(2, DATA)));
    assert!(t.ram.log.is_empty());
}

#[test]
fn causes() {
    let go = |code: &[u8], cause| {
        let mut t = Test::new(code);
        emulate(&mut t.cpu, &mut t.ram, &[], cause, 1)
    };
    // An OUT that appears where a memory access was is left to the processor, which checks I/O privilege.
    assert_eq!(go(&[0xe6, 0x80], Cause::Memory), Outcome::Retry);
    assert_eq!(go(&[0xe6, 0x80], Cause::Port), Outcome::Done);
    assert_eq!(go(&[0x8b, 0x03], Cause::Port), Outcome::Retry);
    assert_eq!(go(&[0x8b, 0x03], Cause::Memory), Outcome::Done);
    assert_eq!(go(&[0x0f, 0x22, 0xc0], Cause::Register), Outcome::Done);
    assert_eq!(go(&[0x01, 0x03], Cause::Register), Outcome::Retry);
    assert_eq!(go(&[0x0f, 0x0b], Cause::Memory), Outcome::Fault(Exception::UD));
    assert!(matches!(go(&[0x0f, 0xa2], Cause::Memory), Outcome::Unhandleable(_)));
}

#[test]
fn control_and_debug_registers() {
    let t = Test::new(&[0x0f, 0x22, 0xe0]).gpr(RAX, 0x20).done(); // mov cr4, rax
    assert_eq!(t.cpu.control[4], 0x20);
    let t = Test::new(&[0x0f, 0x20, 0xd9]).done(); // mov rcx, cr3
    assert_eq!(t.cpu.gpr[RCX], t.cpu.control[3]);
    let mut t = Test::on(Cpu::protected(), &[0xf0, 0x0f, 0x22, 0xc0]).gpr(RAX, 5); // lock mov cr0, eax: CR8
    assert_eq!((t.run(), t.cpu.control[8]), (Outcome::Done, 5));
    let user = |code: &[u8]| {
        let mut t = Test::new(code);
        t.cpu.cpl = 3;
        t.run()
    };
    for code in [&[0x0f, 0x22, 0xe0][..], &[0x0f, 0x20, 0xe0], &[0x0f, 0x06], &[0x0f, 0x01, 0xf0], &[0x0f, 0x23, 0xc0]]
    {
        assert_eq!(user(code), Outcome::Fault(Exception::GP), "{code:x?}");
    }
    assert_eq!(user(&[0x0f, 0x01, 0xe0]), Outcome::Done, "SMSW without UMIP");
    let mut t = Test::new(&[0x0f, 0x06]);
    t.cpu.control[0] |= 8;
    assert_eq!(t.done().cpu.control[0] & 8, 0);
    let t = Test::new(&[0x0f, 0x01, 0xf0]).gpr(RAX, 0xe).done(); // lmsw ax: PE stays
    assert_eq!(t.cpu.control[0], 0x8005_003f);
    let t = Test::new(&[0x0f, 0x01, 0x23]).data(u64::MAX).done(); // smsw [rbx]: 16 bits
    assert_eq!(t.memory(), 0xffff_ffff_ffff_0031);
    let t = Test::new(&[0x0f, 0x23, 0xe8]).gpr(RAX, 0x401).done(); // mov dr5: DR7
    assert_eq!(t.cpu.debug[7], 0x401);
    let mut t = Test::new(&[0x0f, 0x21, 0xe0]);
    t.cpu.control[4] |= 8;
    assert_eq!(t.run(), Outcome::Fault(Exception::UD), "DR4 with CR4.DE");
}

#[test]
fn vectors() {
    let full = [PATTERN, PATTERN + 1, PATTERN + 2, PATTERN + 3];
    let with = |code: &[u8]| {
        let mut t = Test::new(code).data(0x11);
        for n in 1..4 {
            t.ram.put(DATA + 8 * n, 0x11 * (n + 1));
        }
        t.cpu.vector[1] = full;
        t
    };
    let t = with(&[0x0f, 0x10, 0x0b]).done(); // movups xmm1, [rbx]
    assert_eq!(t.cpu.vector[1], [0x11, 0x22, full[2], full[3]]);
    let t = with(&[0xc5, 0xf8, 0x10, 0x0b]).done(); // vmovups xmm1
    assert_eq!(t.cpu.vector[1], [0x11, 0x22, 0, 0]);
    let t = with(&[0xc5, 0xfc, 0x10, 0x0b]).done(); // vmovups ymm1
    assert_eq!(t.cpu.vector[1], [0x11, 0x22, 0x33, 0x44]);
    let t = with(&[0xc5, 0xfd, 0x7f, 0x0b]).done(); // vmovdqa [rbx], ymm1
    assert_eq!((t.memory(), t.ram.get(DATA + 24, 8)), (full[0], full[3]));
    for (code, expected) in [
        (&[0x0f, 0x10, 0xd1][..], [full[0], full[1], 3, 4]), // movups xmm2, xmm1
        (&[0x66, 0x0f, 0x7f, 0xca], [full[0], full[1], 3, 4]), // movdqa xmm2, xmm1
        (&[0xc5, 0xf8, 0x29, 0xca], [full[0], full[1], 0, 0]), // vmovaps xmm2, xmm1
        (&[0xc5, 0xfe, 0x6f, 0xd1], full),                   // vmovdqu ymm2, ymm1
    ] {
        let mut t = with(code);
        t.cpu.vector[2] = [1, 2, 3, 4];
        let t = t.done();
        assert_eq!((t.cpu.vector[2], t.cpu.vector[1]), (expected, full), "{code:x?}");
    }
    let t = with(&[0xf3, 0x0f, 0x10, 0x0b]).done(); // movss
    assert_eq!(t.cpu.vector[1], [0x11, 0, full[2], full[3]]);
    let t = with(&[0xf2, 0x0f, 0x11, 0x0b]).done(); // movsd [rbx]
    assert_eq!((t.memory(), t.ram.get(DATA + 8, 8)), (full[0], 0x22));
    let t = with(&[0x0f, 0x16, 0x0b]).done(); // movhps xmm1, [rbx]
    assert_eq!(t.cpu.vector[1], [full[0], 0x11, full[2], full[3]]);
    let t = with(&[0x0f, 0x12, 0x0b]).done(); // movlps
    assert_eq!(t.cpu.vector[1], [0x11, full[1], full[2], full[3]]);
    let t = with(&[0x66, 0x0f, 0x17, 0x0b]).done(); // movhpd [rbx], xmm1
    assert_eq!(t.memory(), full[1]);
    let t = with(&[0x66, 0x0f, 0x6e, 0x0b]).done(); // movd
    assert_eq!(t.cpu.vector[1], [0x11, 0, full[2], full[3]]);
    let t = with(&[0x66, 0x48, 0x0f, 0x7e, 0x0b]).done(); // movq [rbx], xmm1
    assert_eq!(t.memory(), full[0]);
    let aligned = with(&[0x66, 0x0f, 0x6f, 0x0b]).gpr(RBX, DATA + 8).run();
    assert_eq!(aligned, Outcome::Fault(Exception::GP));
    let fails = |change: &dyn Fn(&mut Cpu), code: &[u8]| {
        let mut t = with(code);
        change(&mut t.cpu);
        t.run()
    };
    assert_eq!(fails(&|c| c.control[0] |= 8, &[0x0f, 0x10, 0x0b]), Outcome::Fault(Exception::NM));
    assert_eq!(fails(&|c| c.control[0] |= 4, &[0x0f, 0x10, 0x0b]), Outcome::Fault(Exception::UD));
    assert_eq!(fails(&|c| c.control[4] &= !(1 << 9), &[0x0f, 0x10, 0x0b]), Outcome::Fault(Exception::UD));
    assert_eq!(fails(&|c| c.control[4] &= !(1 << 18), &[0xc5, 0xf8, 0x10, 0x0b]), Outcome::Fault(Exception::UD));
    assert_eq!(fails(&|_| {}, &[0xc5, 0x80, 0x10, 0x0b]), Outcome::Fault(Exception::UD), "vvvv names a register");
}

#[test]
fn fetching() {
    // Supplied bytes are used; memory is not asked.
    let mut t = Test::new(&[]);
    t.ram.end = 0;
    assert_eq!(fetch(&t.cpu, &mut t.ram, &[0x0f, 0xa2]).unwrap().op, Op::Cpuid);
    // Too few of them: memory is read.
    let mut t = Test::new(&[0x48, 0x8b, 0x03]);
    assert_eq!(fetch(&t.cpu, &mut t.ram, &[0x48]).unwrap().length, 3);
    // An instruction at the end of a page does not touch the next one; one that crosses faults there.
    for (code, expected) in [(&[0x90][..], Ok(1)), (&[0x8b], Err(Exception::page_fault(16, 0x2000).into()))] {
        let mut t = Test::new(&[]);
        t.cpu.rip = 0x1fff;
        t.ram.bytes.insert(0x1fff, code[0]);
        t.ram.end = 0x2000;
        assert_eq!(fetch(&t.cpu, &mut t.ram, &[]).map(|i| i.length), expected);
    }
    let mut t = Test::new(&[]);
    t.cpu.rip = 0x1ffe;
    t.ram.put(0x1ffe, u64::from_le_bytes([0x48, 0xc7, 0x03, 1, 0, 0, 0, 0]));
    assert_eq!(fetch(&t.cpu, &mut t.ram, &[]).unwrap().length, 7);
}

#[test]
fn intercepted_lengths() {
    let all: [(&[u8], Op, u8); 12] = [
        (&[0x0f, 0xa2], Op::Cpuid, 2),
        (&[0x66, 0x0f, 0xa2], Op::Cpuid, 3),
        (&[0x0f, 0x01, 0xf9], Op::Rdtscp, 3),
        (&[0x0f, 0x31], Op::Rdtsc, 2),
        (&[0xf4], Op::Hlt, 1),
        (&[0x0f, 0x01, 0xd9], Op::Vmmcall, 3),
        (&[0x0f, 0x32], Op::Rdmsr, 2),
        (&[0xf3, 0x90], Op::Pause, 2),
        (&[0x0f, 0x01, 0xd1], Op::Xsetbv, 3),
        (&[0xf3, 0x0f, 0x09], Op::Wbinvd, 3),
        (&[0xcc], Op::Int3, 1),
        (&[0x0f, 0x01, 0xc8], Op::Monitor, 3),
    ];
    for (code, op, length) in all {
        let mut t = Test::new(code);
        assert_eq!(intercepted_length(&t.cpu, &mut t.ram, &[], &[op]), Ok(length), "{op:?}");
        assert_eq!(intercepted_length(&t.cpu, &mut t.ram, &[], &[Op::Iret]), Err(Fault::Retry));
        retire(&mut t.cpu, length);
        assert_eq!(t.cpu.rip, CODE + u64::from(length));
    }
    // The short way agrees with the decoder.
    for (op, code) in PLAIN {
        for mode in [Mode::Bits16, Mode::Bits32, Mode::Bits64] {
            assert_eq!(decode(code, mode).map(|i| (i.op, usize::from(i.length))), Ok((*op, code.len())));
        }
    }
}

#[test]
fn retiring() {
    let t = Test::new(&[0x90]).flags(2 | rflags::TF | rflags::RF).done();
    assert_eq!((t.cpu.steps, t.cpu.rflags, t.cpu.shadow), (1, 2 | rflags::TF, false));
    let mut cpu = Cpu::protected();
    cpu.rip = 0xffff_ffff;
    retire(&mut cpu, 2);
    assert_eq!(cpu.rip, 1);
    let mut cpu = Cpu::long();
    cpu.rip = 0xffff_ffff;
    retire(&mut cpu, 2);
    assert_eq!(cpu.rip, 0x1_0000_0001);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random bytes in any mode: no panic, and unless the instruction completes (or is a string instruction), registers
    /// stay as they were. Repeating one that had to wait gives the same as one that did not.
    #[test]
    fn incomplete_instructions_change_nothing(
        code: [u8; 16], gpr: [u64; 16], mode in 0u8..3, wait in 0u32..3, small: bool, flags in 0u64..0x1000,
    ) {
        let mut cpu = match mode { 0 => Cpu::real(), 1 => Cpu::protected(), _ => Cpu::long() };
        cpu.gpr = if small { gpr.map(|r| r & 0xffff) } else { gpr };
        cpu.rflags = flags & !rflags::TF | 2;
        let mut waiting = Test::on(cpu.clone(), &code);
        waiting.ram.wait = Some(wait);
        let outcome = waiting.run();
        let string = fetch(&cpu, &mut Ram::new(&code), &[]).is_ok_and(|i| {
            matches!(i.op, Op::Movs | Op::Stos | Op::Lods | Op::Scas | Op::Cmps | Op::Ins | Op::Outs)
        });
        if outcome != Outcome::Done && !string {
            prop_assert_eq!(&waiting.cpu, &cpu, "{:?}", outcome);
        }
        if outcome == Outcome::Retry && !string && wait == 0 {
            prop_assert!(waiting.ram.log.is_empty());
            waiting.ram.wait = None;
            let mut straight = Test::on(cpu, &code);
            prop_assert_eq!(waiting.run(), straight.run());
            prop_assert_eq!(waiting.cpu, straight.cpu);
            prop_assert_eq!(waiting.ram.bytes, straight.ram.bytes);
        }
    }
}
