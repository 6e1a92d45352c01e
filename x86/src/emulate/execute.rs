//! The execute stage: an [`Instruction`] against a vCPU's registers and memory.
//!
//! Order within an instruction: addresses and permissions first, then reads, then memory writes, then registers. So an
//! access that faults or has to wait leaves the registers as they were and the instruction can be run again.

use super::instruction::{Instruction, Mode, Op, Operand, Segment, VectorForm, Width};
use super::{
    AccessKind, CpuState, Exception, Fault, Memory, Outcome, address, code_mode, fetch, flags, retire, rflags, string,
};

const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_PE: u64 = 1 << 0;
const CR4_DE: u64 = 1 << 3;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_UMIP: u64 = 1 << 11;
const CR4_OSXSAVE: u64 = 1 << 18;
const DR7_GD: u64 = 1 << 13;

/// Iterations of a repeated string instruction that one call executes.
pub const DEFAULT_BUDGET: u32 = 256;

/// Why an instruction came to the emulator. Another vCPU may change the code after the exit, so what is fetched now may be
/// another instruction; one that needs checks which only the processor made (the I/O permission of port accesses) and
/// that cannot have caused the exit is left to the processor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// An access to memory that has no mapping: anything but a port access.
    Memory,
    /// A port access (the processor has checked the privilege): IN, OUT, INS or OUTS.
    Port,
    /// An access to a control or debug register.
    Register,
}

impl Cause {
    fn explains(self, op: Op) -> bool {
        let port = matches!(op, Op::In | Op::Out | Op::Ins | Op::Outs);
        match self {
            Cause::Port => port,
            // INS and OUTS also access memory, but only after the port exit.
            Cause::Memory => !port,
            Cause::Register => matches!(op, Op::Mov | Op::Clts | Op::Lmsw | Op::Smsw),
        }
    }
}

/// Fetches, decodes and executes the instruction at RIP. `supplied` are its bytes as far as the processor gave them.
/// `budget` bounds the iterations of a string instruction ([`DEFAULT_BUDGET`]).
pub fn emulate(cpu: &mut dyn CpuState, memory: &mut dyn Memory, supplied: &[u8], cause: Cause, budget: u32) -> Outcome {
    match fetch(cpu, memory, supplied) {
        Ok(i) if cause.explains(i.op) => execute(cpu, memory, &i, budget),
        Ok(_) => Outcome::Retry,
        Err(fault) => Err(fault).into(),
    }
}

/// Executes a decoded instruction that is at RIP.
pub fn execute(cpu: &mut dyn CpuState, memory: &mut dyn Memory, i: &Instruction, budget: u32) -> Outcome {
    let mode = code_mode(cpu);
    let mut e = Execution { cpu, memory, i, mode };
    let result = match i.op {
        Op::Movs | Op::Cmps | Op::Stos | Op::Lods | Op::Scas | Op::Ins | Op::Outs => string::run(&mut e, budget),
        _ => e.run(),
    };
    if result.is_ok() {
        retire(e.cpu, i.length);
    }
    result.into()
}

/// An instruction under execution.
pub(super) struct Execution<'a> {
    pub(super) cpu: &'a mut dyn CpuState,
    pub(super) memory: &'a mut dyn Memory,
    pub(super) i: &'a Instruction,
    pub(super) mode: Mode,
}

impl Execution<'_> {
    fn run(&mut self) -> Result<(), Fault> {
        let Instruction { op, width, destination, source, .. } = *self.i;
        match op {
            Op::Nop | Op::Pause => Ok(()),
            Op::Mov => self.mov(),
            Op::Movzx => {
                let value = self.read(source, self.i.source_width)?;
                self.write(destination, width, value)
            }
            Op::Movsx => {
                let value = self.i.source_width.sign_extend(self.read(source, self.i.source_width)?);
                self.write(destination, width, value)
            }
            Op::Movbe => {
                let value = self.read(source, width)?;
                let swapped = value.swap_bytes().wrapping_shr(64_u32.wrapping_sub(width.bits()));
                self.write(destination, width, swapped)
            }
            Op::Add | Op::Or | Op::Adc | Op::Sbb | Op::And | Op::Sub | Op::Xor => {
                let b = self.read(source, width)?;
                let old = self.cpu.rflags();
                self.modify(|a| flags::binary(op, width, a, b, old))
            }
            Op::Cmp | Op::Test => {
                let (a, b) = (self.read(destination, width)?, self.read(source, width)?);
                if let Some((_, f)) = flags::binary(op, width, a, b, self.cpu.rflags()) {
                    self.cpu.set_rflags(f);
                }
                Ok(())
            }
            Op::Inc | Op::Dec | Op::Neg | Op::Not => {
                let old = self.cpu.rflags();
                self.modify(|a| flags::unary(op, width, a, old))
            }
            Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar => {
                let count = self.read(source, Width::Byte)?;
                let old = self.cpu.rflags();
                self.modify(|a| flags::shift(op, width, a, count, old))
            }
            Op::Xchg => self.xchg(),
            Op::Xadd => self.xadd(),
            Op::Cmpxchg => self.cmpxchg(),
            Op::CmpxchgPair => self.cmpxchg8b(),
            Op::Bt | Op::Bts | Op::Btr | Op::Btc => self.bit_test(),
            Op::Push => self.push(),
            Op::Pop => self.pop(),
            Op::VectorMove(form) => self.vector_move(form),
            Op::In => {
                let port = self.read(source, Width::Word)? as u16;
                let value = self.memory.port_in(port, width)?;
                self.write(destination, width, u64::from(value))
            }
            Op::Out => {
                let port = self.read(destination, Width::Word)? as u16;
                let value = self.read(source, width)?;
                self.memory.port_out(port, width, value as u32)
            }
            Op::Clts => {
                self.require_cpl0()?;
                let value = self.cpu.control(0) & !CR0_TS;
                self.cpu.write_control(0, value)
            }
            Op::Lmsw => {
                self.require_cpl0()?;
                // Loads PE, MP, EM and TS; PE can be set this way but not cleared.
                let word = self.read(source, Width::Word)?;
                let old = self.cpu.control(0);
                self.cpu.write_control(0, old & !0xe | word & 0xf)
            }
            Op::Smsw => {
                if self.cpu.control(4) & CR4_UMIP != 0 && self.cpu.cpl() != 0 {
                    return Err(Exception::GP.into());
                }
                let value = self.cpu.control(0);
                self.write(destination, width, value)
            }
            _ => Err(Fault::Unhandleable("instruction that is not emulated")),
        }
    }

    pub(super) fn require_cpl0(&self) -> Result<(), Fault> {
        if self.cpu.cpl() == 0 { Ok(()) } else { Err(Exception::GP.into()) }
    }

    /// A general-purpose register's low bits.
    pub(super) fn gpr(&self, number: u8, width: Width) -> u64 {
        self.cpu.gpr(number) & width.mask()
    }

    /// Writes a general-purpose register: 32-bit results are zero-extended, smaller ones leave the rest.
    pub(super) fn set_gpr(&mut self, number: u8, width: Width, value: u64) {
        let value = value & width.mask();
        let merged = match width {
            Width::Byte | Width::Word => self.cpu.gpr(number) & !width.mask() | value,
            Width::Dword | Width::Qword => value,
        };
        self.cpu.set_gpr(number, merged);
    }

    /// The linear address of the memory operand.
    pub(super) fn operand_address(&self, size: u8, kind: AccessKind) -> Result<u64, Fault> {
        let offset = address::effective(self.cpu, self.i);
        address::linear(self.cpu, self.mode, self.i.memory.segment, offset, size, kind)
    }

    pub(super) fn load(&mut self, linear: u64, width: Width, kind: AccessKind) -> Result<u64, Fault> {
        let mut bytes = [0_u8; 8];
        if let Some(to) = bytes.get_mut(..usize::from(width.bytes())) {
            self.memory.read(linear, to, kind)?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn store(&mut self, linear: u64, width: Width, value: u64) -> Result<(), Fault> {
        let bytes = value.to_le_bytes();
        let (from, _) = bytes.split_at(usize::from(width.bytes()));
        self.memory.write(linear, from)
    }

    pub(super) fn read(&mut self, operand: Operand, width: Width) -> Result<u64, Fault> {
        Ok(match operand {
            Operand::Gpr(n) => self.gpr(n, width),
            Operand::HighByte(n) => self.cpu.gpr(n) >> 8 & 0xff,
            Operand::Immediate => self.i.immediate & width.mask(),
            Operand::Memory => {
                let linear = self.operand_address(width.bytes(), AccessKind::Read)?;
                self.load(linear, width, AccessKind::Read)?
            }
            Operand::Segment(s) => u64::from(self.cpu.segment(s).selector),
            _ => return Err(Fault::Unhandleable("operand that cannot be read")),
        })
    }

    pub(super) fn write(&mut self, operand: Operand, width: Width, value: u64) -> Result<(), Fault> {
        match operand {
            Operand::Gpr(n) => self.set_gpr(n, width, value),
            Operand::HighByte(n) => {
                let merged = self.cpu.gpr(n) & !0xff00 | (value & 0xff) << 8;
                self.cpu.set_gpr(n, merged);
            }
            Operand::Memory => {
                let linear = self.operand_address(width.bytes(), AccessKind::Write)?;
                self.store(linear, width, value)?;
            }
            _ => return Err(Fault::Unhandleable("operand that cannot be written")),
        }
        Ok(())
    }

    /// Replaces what was read as `old` for a read-modify-write instruction: atomically if it is locked. If another vCPU
    /// was faster, the instruction is run again.
    fn replace(&mut self, linear: u64, width: Width, old: u64, new: u64, locked: bool) -> Result<(), Fault> {
        if !locked {
            return self.store(linear, width, new);
        }
        if self.memory.compare_exchange(linear, width, old, new & width.mask())? { Ok(()) } else { Err(Fault::Retry) }
    }

    /// Replaces the destination by a function of it, which also gives the flags.
    fn modify(&mut self, operation: impl FnOnce(u64) -> Option<(u64, u64)>) -> Result<(), Fault> {
        let Instruction { width, destination, lock, .. } = *self.i;
        let refused = Fault::Unhandleable("operation that is not emulated");
        let flags = if destination == Operand::Memory {
            let linear = self.operand_address(width.bytes(), AccessKind::ReadForWrite)?;
            let old = self.load(linear, width, AccessKind::ReadForWrite)?;
            let (new, flags) = operation(old).ok_or(refused)?;
            self.replace(linear, width, old, new, lock)?;
            flags
        } else {
            let old = self.read(destination, width)?;
            let (new, flags) = operation(old).ok_or(refused)?;
            self.write(destination, width, new)?;
            flags
        };
        self.cpu.set_rflags(flags);
        Ok(())
    }

    fn mov(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, source, .. } = *self.i;
        match (destination, source) {
            (Operand::Control(n), Operand::Gpr(from)) => {
                self.require_cpl0()?;
                let value = self.gpr(from, width);
                self.cpu.write_control(n, value)
            }
            (Operand::Gpr(to), Operand::Control(n)) => {
                self.require_cpl0()?;
                let value = self.cpu.control(n);
                self.set_gpr(to, width, value);
                Ok(())
            }
            (Operand::Debug(n), Operand::Gpr(from)) => {
                let n = self.debug_register(n)?;
                let value = self.gpr(from, width);
                self.cpu.write_debug(n, value)
            }
            (Operand::Gpr(to), Operand::Debug(n)) => {
                let n = self.debug_register(n)?;
                let value = self.cpu.debug(n);
                self.set_gpr(to, width, value);
                Ok(())
            }
            (Operand::Segment(_), _) => Err(Fault::Unhandleable("load of a segment register")),
            _ => {
                let value = self.read(source, width)?;
                self.write(destination, width, value)
            }
        }
    }

    /// The debug register that an encoding names: 4 and 5 are 6 and 7 unless CR4.DE makes them undefined.
    fn debug_register(&self, number: u8) -> Result<u8, Fault> {
        self.require_cpl0()?;
        if self.cpu.debug(7) & DR7_GD != 0 {
            return Err(Fault::Retry); // the processor raises #DB before it exits
        }
        match number {
            4 | 5 if self.cpu.control(4) & CR4_DE != 0 => Err(Exception::UD.into()),
            4 | 5 => Ok(number.saturating_add(2)),
            n => Ok(n),
        }
    }

    fn xchg(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, source, .. } = *self.i;
        let new = self.read(source, width)?;
        if destination == Operand::Memory {
            let linear = self.operand_address(width.bytes(), AccessKind::ReadForWrite)?;
            let old = self.load(linear, width, AccessKind::ReadForWrite)?;
            self.replace(linear, width, old, new, true)?;
            return self.write(source, width, old);
        }
        let old = self.read(destination, width)?;
        self.write(destination, width, new)?;
        self.write(source, width, old)
    }

    fn xadd(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, source, lock, .. } = *self.i;
        let addend = self.read(source, width)?;
        let sum = |a, f| flags::binary(Op::Add, width, a, addend, f).ok_or(Fault::Unhandleable("sum"));
        let rflags = self.cpu.rflags();
        if destination == Operand::Memory {
            let linear = self.operand_address(width.bytes(), AccessKind::ReadForWrite)?;
            let old = self.load(linear, width, AccessKind::ReadForWrite)?;
            let (new, f) = sum(old, rflags)?;
            self.replace(linear, width, old, new, lock)?;
            self.write(source, width, old)?;
            self.cpu.set_rflags(f);
        } else {
            let old = self.read(destination, width)?;
            let (new, f) = sum(old, rflags)?;
            self.write(source, width, old)?;
            self.write(destination, width, new)?;
            self.cpu.set_rflags(f);
        }
        Ok(())
    }

    fn cmpxchg(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, source, lock, .. } = *self.i;
        let expected = self.gpr(0, width);
        let new = self.read(source, width)?;
        let memory = destination == Operand::Memory;
        let mut linear = 0;
        let old = if memory {
            linear = self.operand_address(width.bytes(), AccessKind::ReadForWrite)?;
            self.load(linear, width, AccessKind::ReadForWrite)?
        } else {
            self.read(destination, width)?
        };
        let (_, f) = flags::binary(Op::Cmp, width, expected, old, self.cpu.rflags()).ok_or(Fault::Retry)?;
        if old == expected {
            if memory {
                self.replace(linear, width, old, new, lock)?;
            } else {
                self.write(destination, width, new)?;
            }
        } else {
            self.set_gpr(0, width, old);
        }
        self.cpu.set_rflags(f);
        Ok(())
    }

    fn cmpxchg8b(&mut self) -> Result<(), Fault> {
        const RAX: u8 = 0;
        const RCX: u8 = 1;
        const RDX: u8 = 2;
        const RBX: u8 = 3;
        if self.i.width != Width::Dword {
            return Err(Fault::Unhandleable("CMPXCHG16B"));
        }
        let pair = |high: u64, low: u64| high << 32 | low & 0xffff_ffff;
        let linear = self.operand_address(8, AccessKind::ReadForWrite)?;
        let old = self.load(linear, Width::Qword, AccessKind::ReadForWrite)?;
        let equal = old == pair(self.cpu.gpr(RDX), self.cpu.gpr(RAX));
        if equal {
            let new = pair(self.cpu.gpr(RCX), self.cpu.gpr(RBX));
            self.replace(linear, Width::Qword, old, new, self.i.lock)?;
        } else {
            self.set_gpr(RAX, Width::Dword, old);
            self.set_gpr(RDX, Width::Dword, old >> 32);
        }
        let f = self.cpu.rflags() & !rflags::ZF;
        self.cpu.set_rflags(if equal { f | rflags::ZF } else { f });
        Ok(())
    }

    fn bit_test(&mut self) -> Result<(), Fault> {
        let Instruction { op, width, destination, source, lock, .. } = *self.i;
        let number = self.read(source, width)?;
        let bit = (number as u32) & width.bits().wrapping_sub(1);
        let mask = 1_u64.wrapping_shl(bit);
        let change = |old: u64| match op {
            Op::Bts => old | mask,
            Op::Btr => old & !mask,
            Op::Btc => old ^ mask,
            _ => old,
        };
        let old = if destination == Operand::Memory {
            // A bit number in a register is signed and reaches beyond the operand.
            let mut offset = address::effective(self.cpu, self.i);
            if source != Operand::Immediate {
                let units = (width.sign_extend(number) as i64) >> width.bits().trailing_zeros();
                let bytes = (units as u64).wrapping_mul(u64::from(width.bytes()));
                offset = offset.wrapping_add(bytes) & self.i.address_width.mask();
            }
            let kind = if op == Op::Bt { AccessKind::Read } else { AccessKind::ReadForWrite };
            let linear = address::linear(self.cpu, self.mode, self.i.memory.segment, offset, width.bytes(), kind)?;
            let old = self.load(linear, width, kind)?;
            if op != Op::Bt {
                self.replace(linear, width, old, change(old), lock)?;
            }
            old
        } else {
            let old = self.read(destination, width)?;
            if op != Op::Bt {
                self.write(destination, width, change(old))?;
            }
            old
        };
        let f = self.cpu.rflags() & !rflags::CF;
        self.cpu.set_rflags(if old & mask != 0 { f | rflags::CF } else { f });
        Ok(())
    }

    fn push(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, .. } = *self.i;
        let value = self.read(destination, width)?;
        let stack = address::stack_width(self.cpu, self.mode);
        let top = self.cpu.gpr(4).wrapping_sub(u64::from(width.bytes())) & stack.mask();
        let linear = address::linear(self.cpu, self.mode, Segment::Ss, top, width.bytes(), AccessKind::Write)?;
        self.store(linear, width, value)?;
        self.set_gpr(4, stack, top);
        Ok(())
    }

    fn pop(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, .. } = *self.i;
        let stack = address::stack_width(self.cpu, self.mode);
        let old = self.cpu.gpr(4);
        let top = old & stack.mask();
        let linear = address::linear(self.cpu, self.mode, Segment::Ss, top, width.bytes(), AccessKind::Read)?;
        let value = self.load(linear, width, AccessKind::Read)?;
        // A destination addressed by RSP uses the new RSP; POP RSP keeps what was popped.
        self.set_gpr(4, stack, top.wrapping_add(u64::from(width.bytes())));
        let result = self.write(destination, width, value);
        if result.is_err() {
            self.cpu.set_gpr(4, old);
        }
        result
    }

    fn vector_move(&mut self, form: VectorForm) -> Result<(), Fault> {
        self.require_vector(form.vex)?;
        let Instruction { destination, source, .. } = *self.i;
        if let (Operand::Vector(to), Operand::Vector(from)) = (destination, source) {
            let [low, high, third, fourth] = self.cpu.vector(from);
            let [_, _, old_third, old_fourth] = self.cpu.vector(to);
            let upper = match (form.vex, form.bytes) {
                (true, 32) => [third, fourth],
                (true, _) => [0, 0],
                (false, _) => [old_third, old_fourth],
            };
            self.cpu.set_vector(to, [low, high, upper[0], upper[1]]);
            return Ok(());
        }
        let load = destination != Operand::Memory;
        let kind = if load { AccessKind::Read } else { AccessKind::Write };
        let linear = self.operand_address(form.bytes, kind)?;
        if form.aligned && linear & u64::from(form.bytes.saturating_sub(1)) != 0 {
            return Err(Exception::GP.into());
        }
        let mut bytes = [0_u8; 32];
        let size = usize::from(form.bytes.min(32));
        match (destination, source) {
            (Operand::Vector(n), _) => {
                if let Some(to) = bytes.get_mut(..size) {
                    self.memory.read(linear, to, AccessKind::Read)?;
                }
                let [b0, b1, b2, b3] = quadwords(&bytes);
                let [o0, o1, o2, o3] = self.cpu.vector(n);
                let (low, high) = match (form.merge, form.high) {
                    (true, true) => (o0, b0),
                    (true, false) => (b0, o1),
                    (false, _) => (b0, b1),
                };
                let upper = if form.vex { [b2, b3] } else { [o2, o3] };
                self.cpu.set_vector(n, [low, high, upper[0], upper[1]]);
                Ok(())
            }
            (_, Operand::Vector(n)) => {
                let mut value = self.cpu.vector(n);
                if form.high {
                    value[0] = value[1];
                }
                for (to, from) in bytes.chunks_exact_mut(8).zip(value) {
                    to.copy_from_slice(&from.to_le_bytes());
                }
                self.memory.write(linear, bytes.get(..size).unwrap_or(&[]))
            }
            _ => Err(Fault::Unhandleable("vector operand")),
        }
    }

    /// The state checks that vector instructions make.
    fn require_vector(&self, vex: bool) -> Result<(), Fault> {
        let (cr0, cr4) = (self.cpu.control(0), self.cpu.control(4));
        let enabled = if vex {
            let protected = cr0 & CR0_PE != 0 && self.cpu.rflags() & rflags::VM == 0;
            protected && cr4 & CR4_OSXSAVE != 0 && self.cpu.xcr0() & 6 == 6
        } else {
            cr0 & CR0_EM == 0 && cr4 & CR4_OSFXSR != 0
        };
        if !enabled {
            return Err(Exception::UD.into());
        }
        if cr0 & CR0_TS != 0 { Err(Exception::NM.into()) } else { Ok(()) }
    }
}

fn quadwords(bytes: &[u8; 32]) -> [u64; 4] {
    let mut out = [0; 4];
    for (to, from) in out.iter_mut().zip(bytes.chunks_exact(8)) {
        *to = from.try_into().map_or(0, u64::from_le_bytes);
    }
    out
}
