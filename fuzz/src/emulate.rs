//! The instruction decoder and the emulator, with iced-x86 as an independent opinion.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, OpAccess, Register};
use radon_x86::emulate::forced::{self, SystemMemory};
use radon_x86::emulate::testing::{CODE, Cpu};
use radon_x86::emulate::{
    AccessKind, Exception, Fault, Memory, Mode, Op, Outcome, Segment, SegmentState, Width, code_mode, fetch,
};
use radon_x86::emulate::{execute as execute_one, rflags};

use crate::input::Input;
use crate::oracle;

pub(crate) fn decode(data: &[u8]) {
    // The oracle needs all of an instruction.
    let mut bytes = [0; 16];
    let length = data.len().min(bytes.len());
    bytes[..length].copy_from_slice(&data[..length]);
    oracle::probe(&bytes);
}

/// A vCPU in any mode.
fn any_cpu(input: &mut Input<'_>) -> Cpu {
    let how = input.u8();
    let mode = how & 3;
    let attributes = match mode {
        0 => 0x93,
        1 => 0xc93,
        _ => 0xa93,
    };
    let limit = if mode == 0 { 0xffff } else { u32::MAX };
    let mut segments = [SegmentState { selector: 0x10, base: 0, limit, attributes }; 6];
    segments[Segment::Cs as usize].attributes |= 8;
    if how & 4 != 0 {
        for segment in [Segment::Ds, Segment::Fs, Segment::Ss] {
            let state = &mut segments[segment as usize];
            (state.base, state.limit) = (input.number(), input.number() as u32);
            state.attributes = input.u16() & 0xf7f | SegmentState::NON_SYSTEM;
        }
    }
    let mut control = [0; 16];
    control[0] = if mode == 0 { 0x10 } else { 0x8005_0031 } | u64::from(how >> 6 & 1) << 3;
    control[4] = 0x4_0620;
    let cpl = if how & 8 != 0 && mode != 0 { 3 } else { 0 };
    let mut gpr = [0; 16];
    gpr.iter_mut().for_each(|register| *register = input.number());
    let flags = u64::from(input.u16()) & (0xcd5 | rflags::TF | rflags::IOPL) | 2;
    Cpu {
        gpr,
        rip: CODE,
        rflags: flags,
        segments,
        cpl,
        efer: if mode >= 2 { 0xd00 } else { 0 },
        control,
        debug: [0; 8],
        vector: std::array::from_fn(|n| [n as u64; 4]),
        steps: 0,
        shadow: false,
        tables: Default::default(),
        delivered: Vec::new(),
        system_call: [0; 4],
        x87_exception: false,
    }
}

/// Memory that is there except in one page, which faults or is not ready.
struct Ram {
    bytes: BTreeMap<u64, u8>,
    hole: Option<u64>,
    retry: bool,
    /// What was written where, and how much.
    written: Vec<(u64, usize)>,
    ports: usize,
}

impl Ram {
    fn check(&self, linear: u64, length: usize, code: u32) -> Result<(), Fault> {
        let last = linear.wrapping_add(length as u64 - 1);
        match self.hole {
            Some(page) if linear >> 12 == page || last >> 12 == page => match self.retry {
                true => Err(Fault::Retry),
                false => {
                    Err(Exception::page_fault(code, if linear >> 12 == page { linear } else { page << 12 }).into())
                }
            },
            _ => Ok(()),
        }
    }
    fn put(&mut self, linear: u64, from: &[u8]) {
        self.written.push((linear, from.len()));
        let bytes = from.iter().enumerate().map(|(n, byte)| (linear.wrapping_add(n as u64), *byte));
        self.bytes.extend(bytes);
    }
}

impl Memory for Ram {
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault> {
        assert!(!to.is_empty() && to.len() <= 32, "{} bytes are read at once", to.len());
        if kind != AccessKind::Fetch {
            self.check(linear, to.len(), 0)?;
        }
        for (n, byte) in to.iter_mut().enumerate() {
            *byte = self.bytes.get(&linear.wrapping_add(n as u64)).copied().unwrap_or(0);
        }
        Ok(())
    }
    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault> {
        assert!(!from.is_empty() && from.len() <= 32, "{} bytes are written at once", from.len());
        self.check(linear, from.len(), 2)?;
        self.put(linear, from);
        Ok(())
    }
    fn check_write(&mut self, linear: u64, length: u8) -> Result<(), Fault> {
        self.check(linear, usize::from(length), 2)
    }
    fn compare_exchange(&mut self, linear: u64, width: Width, old: u64, new: u64) -> Result<bool, Fault> {
        let length = usize::from(width.bytes());
        self.check(linear, length, 2)?;
        let mut found = [0; 8];
        self.read(linear, &mut found[..length], AccessKind::Read)?;
        let same = u64::from_le_bytes(found) == old & width.mask();
        if same {
            self.put(linear, &new.to_le_bytes()[..length]);
        }
        Ok(same)
    }
    fn port_in(&mut self, _: u16, width: Width) -> Result<u32, Fault> {
        self.ports += 1;
        Ok((0x8765_4321 & width.mask()) as u32)
    }
    fn port_out(&mut self, _: u16, _: Width, _: u32) -> Result<(), Fault> {
        self.ports += 1;
        Ok(())
    }
}

impl SystemMemory for Ram {
    fn read_system(&mut self, linear: u64, to: &mut [u8]) -> Result<(), Fault> {
        self.read(linear, to, AccessKind::Read)
    }
    fn exchange_system(&mut self, linear: u64, old: u64, new: u64) -> Result<bool, Fault> {
        let written = self.written.len();
        let done = self.compare_exchange(linear, Width::Qword, old, new);
        // A descriptor's accessed bit is no operand.
        self.written.truncate(written);
        done
    }
}

/// One instruction from any state, as what an exit brings or as one whose emulation is forced. What it changes, iced-x86 must say that it may change; and what fails changes nothing.
pub(crate) fn execute(data: &[u8]) {
    let mut input = Input::new(data);
    let mut cpu = any_cpu(&mut input);
    let hole = input.number();
    let how = input.u8();
    let (hole, retry, is_forced) = ((hole & 1 != 0).then_some(hole >> 1), how & 1 != 0, how & 2 != 0);
    if is_forced {
        for table in &mut cpu.tables {
            (table.selector, table.base, table.limit) = (input.u16(), input.number(), input.number() as u32);
        }
        cpu.system_call = std::array::from_fn(|_| input.number());
        cpu.efer |= u64::from(how >> 2 & 1);
        cpu.x87_exception = how & 8 != 0;
    }
    let code: Vec<u8> = input.rest().iter().copied().chain([0; 16]).take(16).collect();
    let bytes = code.iter().enumerate().map(|(n, byte)| (CODE + n as u64, *byte)).collect();
    let mut ram = Ram { bytes, hole, retry, written: Vec::new(), ports: 0 };
    let Ok(instruction) = fetch(&cpu, &mut ram, &[]) else { return };
    let before = cpu.clone();
    let outcome = match is_forced {
        true => forced::emulate(&mut cpu, &mut ram, &[], 4),
        false => execute_one(&mut cpu, &mut ram, &instruction, 4),
    };

    let bits = match code_mode(&before) {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    let theirs = Decoder::with_ip(bits, &code, CODE, DecoderOptions::AMD).decode();
    let context = || format!("{bits}-bit {code:02x?} {instruction:?}: {outcome:?}");
    match outcome {
        Outcome::Unhandleable(_) => {
            assert_eq!(cpu, before, "nothing was to change: {}", context());
            assert!(ram.written.is_empty() && ram.ports == 0, "nothing was to be written: {}", context());
        }
        Outcome::Fault(_) | Outcome::Retry => {
            assert_eq!(cpu.rip, before.rip, "{}", context());
            if !theirs.is_string_instruction() {
                assert_eq!(cpu, before, "an instruction that fails changes nothing: {}", context());
            }
        }
        Outcome::Done if matches!(instruction.op, Op::Jmp | Op::Syscall) => {}
        Outcome::Done => {
            let next = before.rip + u64::from(instruction.length);
            assert_eq!(cpu.rip, next, "{}", context());
        }
    }
    if theirs.is_invalid() {
        return;
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&theirs);
    let writes = |access| {
        matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
    };
    for (number, (old, new)) in before.gpr.iter().zip(&cpu.gpr).enumerate() {
        let register = |used: &iced_x86::UsedRegister| {
            let full = used.register().full_register();
            full.is_gpr64() && full.number() == number && writes(used.access())
        };
        // SWAPGS and the like are listed with registers of their own.
        let may = info.used_registers().iter().any(register);
        assert!(old == new || may, "register {number} changed from {old:#x} to {new:#x}: {}", context());
    }
    for (number, (old, new)) in before.vector.iter().zip(&cpu.vector).enumerate() {
        let register = |used: &iced_x86::UsedRegister| {
            let full = used.register().full_register();
            full != Register::None && full.is_vector_register() && full.number() == number && writes(used.access())
        };
        assert!(old == new || info.used_registers().iter().any(register), "vector {number} changed: {}", context());
    }
    let memory = info.used_memory().iter().any(|used| writes(used.access()));
    // A locked or compared exchange that fails writes what it found.
    assert!(ram.written.is_empty() || memory, "{:x?} were written: {}", ram.written, context());
}
