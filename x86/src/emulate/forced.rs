//! Instructions that only forced emulation brings to the emulator: software interrupts, descriptor table and segment
//! registers, jumps, and port accesses whose permission the processor has not checked. Everything else is executed as what
//! an exit brings.
//!
//! Nothing but [`emulate`] leads here, and only an image for tests calls it, so no guest of any other can reach this.
//! Invariants as in [`super`]. Takes no locks.

use super::execute::Execution;
use super::instruction::{Instruction, Mode, Op, Operand, Segment, Width};
use super::{
    AccessKind, CR0_PE, CpuState, DecodeError, EFER_LMA, Exception, Fault, Memory, Outcome, SegmentState, VECTOR_GP,
    code_mode, execute, fetch, fetch_as, next_rip, retire, rflags, walk,
};

const VECTOR_MF: u8 = 16;
const VECTOR_BP: u8 = 3;
const VECTOR_OF: u8 = 4;
const VECTOR_DB: u8 = 1;
const VECTOR_NP: u8 = 11;

const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_NE: u64 = 1 << 5;
const EFER_SCE: u64 = 1 << 0;
const CR4_VME: u64 = 1 << 0;
const CR4_UMIP: u64 = 1 << 11;

/// Error codes: the fault is in the delivery of an event that is not the program's own.
const ERROR_EXTERNAL: u32 = 1 << 0;
/// Error codes: the index is one of the interrupt descriptor table.
const ERROR_IDT: u32 = 1 << 1;
/// Selectors: of the local descriptor table.
const SELECTOR_LOCAL: u16 = 1 << 2;
/// Selectors without the privilege that is asked for.
const SELECTOR_INDEX: u16 = 0xfffc;
/// Descriptors: a segment was accessed.
const DESCRIPTOR_ACCESSED: u64 = 1 << 40;
/// Where a task state segment says how far away its map of I/O permissions is, and the least that has one.
const TSS_MAP: u64 = 0x66;
const TSS_LEAST: u64 = 0x67;

const RCX: u8 = 1;
const R11: u8 = 11;
/// Attributes of the flat segments that SYSCALL loads.
const CODE_64: u16 = 0xa9b;
const CODE_32: u16 = 0xc9b;
const DATA_32: u16 = 0xc93;

/// A register that holds where a table is, or a segment that is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// Global descriptors.
    Gdtr,
    /// Interrupt descriptors.
    Idtr,
    /// Local descriptors.
    Ldtr,
    /// The task state segment.
    Tr,
}

/// More of a vCPU's registers.
pub trait SystemState: CpuState {
    /// A table register. GDTR and IDTR have a base and a limit only.
    fn table(&self, table: Table) -> SegmentState;
    /// Sets a segment register with its hidden part.
    fn set_segment(&mut self, segment: Segment, state: SegmentState);
    /// The guest gets a software interrupt at its next entry, to return to where RIP is then. Its gate was checked.
    fn software_interrupt(&mut self, vector: u8);
    /// The guest gets #DB at its next entry.
    fn debug_trap(&mut self);
    /// STAR, LSTAR, CSTAR and SFMASK: where SYSCALL leads.
    fn system_call(&self) -> [u64; 4];
    /// Whether an x87 instruction has left an unmasked exception behind.
    fn x87_exception(&self) -> bool;
}

/// Memory as the processor itself reaches it while it executes an instruction: with a supervisor's rights, whatever the
/// privilege level is, and without an exemption from SMAP.
pub trait SystemMemory: Memory {
    /// Reads at most 8 bytes.
    fn read_system(&mut self, linear: u64, to: &mut [u8]) -> Result<(), Fault>;
    /// Atomically replaces the 8 bytes at `linear`, if they are `old`, by `new`. Returns whether it did.
    fn exchange_system(&mut self, linear: u64, old: u64, new: u64) -> Result<bool, Fault>;
}

/// Whether the code at RIP begins with `prefix`. `supplied` are its bytes as far as they are known.
pub fn begins_with(cpu: &dyn CpuState, memory: &mut dyn Memory, supplied: &[u8], prefix: &[u8]) -> bool {
    let parse = |bytes: &[u8]| match bytes.get(..prefix.len()) {
        Some(start) => Ok(start == prefix),
        None => Err(DecodeError::Incomplete),
    };
    fetch_as(cpu, memory, supplied, code_mode(cpu), &parse).unwrap_or(false)
}

/// Moves past a prefix of `length` bytes.
pub fn skip(cpu: &mut dyn CpuState, length: u8) {
    let next = next_rip(cpu, length);
    let flags = cpu.rflags();
    cpu.set_rip(next);
    cpu.set_rflags(flags & !rflags::RF);
}

/// Fetches, decodes and executes the instruction at RIP, whatever it is, with all checks that the processor would make.
pub fn emulate(cpu: &mut dyn SystemState, memory: &mut dyn SystemMemory, supplied: &[u8], budget: u32) -> Outcome {
    let i = match fetch(cpu, memory, supplied) {
        Ok(i) => i,
        Err(fault) => return Err(fault).into(),
    };
    let mode = code_mode(cpu);
    let mut f = Forced { cpu, memory, i: &i, mode };
    match i.op {
        Op::Int3 => f.interrupt(VECTOR_BP),
        Op::Int => f.interrupt(i.immediate as u8),
        Op::Into if f.cpu.rflags() & rflags::OF == 0 => f.done(),
        Op::Into => f.interrupt(VECTOR_OF),
        Op::Int1 => f.breakpoint(),
        Op::Jmp => f.jump(),
        Op::Syscall => f.system_call(),
        Op::Fnop => f.x87(CR0_EM | CR0_TS, 0),
        Op::Wait => f.x87(0, CR0_MP | CR0_TS),
        Op::Sgdt => f.store_table(Table::Gdtr),
        Op::Sidt => f.store_table(Table::Idtr),
        Op::Sldt => f.store_selector(Table::Ldtr),
        Op::Str => f.store_selector(Table::Tr),
        Op::Mov if matches!(i.destination, Operand::Segment(_)) => f.load_segment(),
        Op::In | Op::Out | Op::Ins | Op::Outs => match f.check_port() {
            Ok(()) => return execute(f.cpu, f.memory, &i, budget),
            Err(fault) => Err(fault),
        },
        _ => return execute(f.cpu, f.memory, &i, budget),
    }
    .into()
}

/// An instruction under execution.
struct Forced<'a> {
    cpu: &'a mut dyn SystemState,
    memory: &'a mut dyn SystemMemory,
    i: &'a Instruction,
    mode: Mode,
}

impl Forced<'_> {
    fn operands(&mut self) -> Execution<'_> {
        Execution { cpu: &mut *self.cpu, memory: &mut *self.memory, i: self.i, mode: self.mode }
    }

    fn done(&mut self) -> Result<(), Fault> {
        retire(self.cpu, self.i.length);
        Ok(())
    }

    fn is_virtual_8086(&self) -> bool {
        self.cpu.rflags() & rflags::VM != 0
    }

    /// Protected mode, with segments that descriptors describe.
    fn is_protected(&self) -> bool {
        self.cpu.control(0) & CR0_PE != 0 && !self.is_virtual_8086()
    }

    fn is_long(&self) -> bool {
        self.cpu.efer() & EFER_LMA != 0
    }

    /// Goes on at `rip`. For what an interrupt or a trap follows, which comes instead of a single step.
    fn go_to(&mut self, rip: u64) {
        let flags = self.cpu.rflags();
        self.cpu.set_rip(rip);
        self.cpu.set_rflags(flags & !rflags::RF);
        self.cpu.clear_interrupt_shadow();
    }

    // ---- interrupts ----

    fn interrupt(&mut self, vector: u8) -> Result<(), Fault> {
        if self.is_virtual_8086() && self.i.op == Op::Int {
            if self.cpu.control(4) & CR4_VME != 0 {
                return Err(Fault::Unhandleable("INT n in virtual-8086 mode with its extensions"));
            }
            if self.cpu.rflags() & rflags::IOPL != rflags::IOPL {
                return Err(Exception::GP.into());
            }
        }
        self.check_gate(vector, 0)?;
        let next = next_rip(self.cpu, self.i.length);
        self.go_to(next);
        self.cpu.software_interrupt(vector);
        Ok(())
    }

    /// INT1: a trap as of the processor's own, for which the gate's privilege does not count.
    fn breakpoint(&mut self) -> Result<(), Fault> {
        self.check_gate(VECTOR_DB, ERROR_EXTERNAL)?;
        let next = next_rip(self.cpu, self.i.length);
        self.go_to(next);
        self.cpu.debug_trap();
        Ok(())
    }

    /// The checks that the delivery of an interrupt begins with. They are made here since a fault in them is one of the
    /// instruction, while the interrupt itself is delivered after it.
    fn check_gate(&mut self, vector: u8, external: u32) -> Result<(), Fault> {
        let idt = self.cpu.table(Table::Idtr);
        let limit = u64::from(idt.limit);
        let number = u64::from(vector);
        if self.cpu.control(0) & CR0_PE == 0 {
            let beyond = number.wrapping_mul(4).wrapping_add(3) > limit;
            return if beyond { Err(Fault::Unhandleable("a real-mode vector beyond the table")) } else { Ok(()) };
        }
        let error_code = Some(u32::from(vector) << 3 | ERROR_IDT | external);
        let fault = |vector| Fault::Exception(Exception { vector, error_code, cr2: None });
        let size = if self.is_long() { 16 } else { 8 };
        let offset = number.wrapping_mul(size);
        if offset.wrapping_add(size.wrapping_sub(1)) > limit {
            return Err(fault(VECTOR_GP));
        }
        let gate = self.descriptor(idt.base.wrapping_add(offset))?;
        let kind = gate >> 40 & 0x1f;
        // Interrupt and trap gates; where there is no long mode also 16-bit and task gates.
        let is_gate = matches!(kind, 0xe | 0xf) || !self.is_long() && matches!(kind, 5..=7);
        let privilege = (gate >> 45 & 3) as u8;
        if !is_gate || external == 0 && privilege < self.cpu.cpl() {
            return Err(fault(VECTOR_GP));
        }
        if gate >> 47 & 1 == 0 { Err(fault(VECTOR_NP)) } else { Ok(()) }
    }

    fn descriptor(&mut self, linear: u64) -> Result<u64, Fault> {
        let linear = if self.is_long() { linear } else { linear & 0xffff_ffff };
        let mut bytes = [0; 8];
        self.memory.read_system(linear, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    // ---- jumps ----

    /// A near jump. One to where no code can be faults as a whole.
    fn jump(&mut self) -> Result<(), Fault> {
        let Instruction { width, destination, immediate, length, .. } = *self.i;
        let target = match destination {
            Operand::Immediate => next_rip(self.cpu, length).wrapping_add(immediate),
            _ => self.operands().read(destination, width)?,
        };
        let target = target & width.mask();
        let allowed = match self.mode {
            Mode::Bits64 => walk::is_canonical(target),
            _ => target <= u64::from(self.cpu.segment(Segment::Cs).limit),
        };
        if !allowed {
            return Err(Exception::GP.into());
        }
        let step = self.cpu.rflags() & rflags::TF != 0;
        self.go_to(target);
        if step {
            self.cpu.raise_single_step();
        }
        Ok(())
    }

    fn system_call(&mut self) -> Result<(), Fault> {
        if self.cpu.efer() & EFER_SCE == 0 || !self.is_protected() {
            return Err(Exception::UD.into());
        }
        let [star, lstar, cstar, mask] = self.cpu.system_call();
        let (next, flags) = (next_rip(self.cpu, self.i.length), self.cpu.rflags() & !rflags::RF);
        let selector = (star >> 32) as u16 & SELECTOR_INDEX;
        let (target, flags, code) = if self.is_long() {
            self.cpu.set_gpr(R11, flags);
            (if self.mode == Mode::Bits64 { lstar } else { cstar }, flags & !mask, CODE_64)
        } else {
            (star & 0xffff_ffff, flags & !(rflags::VM | rflags::IF), CODE_32)
        };
        self.cpu.set_gpr(RCX, next);
        let flat = |selector, attributes| SegmentState { selector, base: 0, limit: u32::MAX, attributes };
        self.cpu.set_segment(Segment::Cs, flat(selector, code));
        self.cpu.set_segment(Segment::Ss, flat(selector.wrapping_add(8), DATA_32));
        self.cpu.set_rflags(flags);
        self.go_to(target);
        if flags & rflags::TF != 0 {
            self.cpu.raise_single_step();
        }
        Ok(())
    }

    /// An x87 instruction that does nothing but what all do first: `any` of these bits of CR0, or `all` of those, say that
    /// there is no FPU now; then comes what the last instruction has left.
    fn x87(&mut self, any: u64, all: u64) -> Result<(), Fault> {
        let cr0 = self.cpu.control(0);
        if cr0 & any != 0 || all != 0 && cr0 & all == all {
            return Err(Exception::NM.into());
        }
        if self.cpu.x87_exception() {
            return Err(match cr0 & CR0_NE {
                0 => Fault::Unhandleable("an x87 exception that is reported by an interrupt"),
                _ => Exception { vector: VECTOR_MF, error_code: None, cr2: None }.into(),
            });
        }
        self.done()
    }

    // ---- descriptor tables and segments ----

    /// User mode may be kept from learning where the kernel's tables are.
    fn check_table_access(&self) -> Result<(), Fault> {
        let hidden = self.cpu.control(4) & CR4_UMIP != 0 && self.cpu.cpl() != 0;
        if hidden { Err(Exception::GP.into()) } else { Ok(()) }
    }

    fn store_table(&mut self, table: Table) -> Result<(), Fault> {
        self.check_table_access()?;
        let SegmentState { base, limit, .. } = self.cpu.table(table);
        let mut bytes = [0; 10];
        for (to, from) in bytes.iter_mut().zip((limit as u16).to_le_bytes().into_iter().chain(base.to_le_bytes())) {
            *to = from;
        }
        let size: u8 = if self.mode == Mode::Bits64 { 10 } else { 6 };
        let e = self.operands();
        let linear = e.operand_address(size, AccessKind::Write)?;
        e.memory.write(linear, bytes.get(..usize::from(size)).unwrap_or(&[]))?;
        self.done()
    }

    fn store_selector(&mut self, table: Table) -> Result<(), Fault> {
        if !self.is_protected() {
            return Err(Exception::UD.into());
        }
        self.check_table_access()?;
        let selector = self.cpu.table(table).selector;
        let Instruction { width, destination, .. } = *self.i;
        self.operands().write(destination, width, u64::from(selector))?;
        self.done()
    }

    /// MOV to DS, ES, FS or GS. (One to SS would have to begin a shadow.)
    fn load_segment(&mut self) -> Result<(), Fault> {
        let Instruction { destination, source, .. } = *self.i;
        let Operand::Segment(segment) = destination else { return Err(Fault::Unhandleable("not a segment")) };
        if segment == Segment::Ss {
            return Err(Fault::Unhandleable("load of SS"));
        }
        let selector = self.operands().read(source, Width::Word)? as u16;
        let old = self.cpu.segment(segment);
        let new = if !self.is_protected() {
            SegmentState { selector, base: u64::from(selector) << 4, ..old }
        } else if selector & SELECTOR_INDEX == 0 {
            // The base stays: 64-bit code goes on using it.
            SegmentState { selector, attributes: 0, ..old }
        } else {
            self.segment_of(selector)?
        };
        self.cpu.set_segment(segment, new);
        self.done()
    }

    /// The data segment, or code segment that may be read, of a selector.
    fn segment_of(&mut self, selector: u16) -> Result<SegmentState, Fault> {
        let index = selector & SELECTOR_INDEX;
        let fault = |vector| Fault::Exception(Exception { vector, error_code: Some(u32::from(index)), cr2: None });
        let local = selector & SELECTOR_LOCAL != 0;
        let table = self.cpu.table(if local { Table::Ldtr } else { Table::Gdtr });
        let offset = u64::from(selector & !7);
        // Without a local table nothing says what was in its register before.
        let absent = local && table.selector & SELECTOR_INDEX == 0;
        if absent || offset.wrapping_add(7) > u64::from(table.limit) {
            return Err(fault(VECTOR_GP));
        }
        let linear = table.base.wrapping_add(offset);
        let descriptor = self.descriptor(linear)?;
        let state = unpack(selector, descriptor);
        let asked = (selector & 3).max(u16::from(self.cpu.cpl()));
        let conforming = state.is_code() && state.attributes & 0x4 != 0;
        let is_segment = state.attributes & SegmentState::NON_SYSTEM != 0 && state.is_readable();
        if !is_segment || !conforming && asked > state.attributes >> 5 & 3 {
            return Err(fault(VECTOR_GP));
        }
        if state.attributes & SegmentState::PRESENT == 0 {
            return Err(fault(VECTOR_NP));
        }
        let accessed = descriptor | DESCRIPTOR_ACCESSED;
        if accessed != descriptor && !self.memory.exchange_system(linear, descriptor, accessed)? {
            return Err(Fault::Retry); // another vCPU has changed it
        }
        Ok(SegmentState { attributes: state.attributes | 1, ..state })
    }

    // ---- ports ----

    /// Whether the program may use the port that the instruction names.
    fn check_port(&mut self) -> Result<(), Fault> {
        let level = (self.cpu.rflags() & rflags::IOPL) >> 12;
        let protected = self.cpu.control(0) & CR0_PE != 0;
        if !protected || !self.is_virtual_8086() && u64::from(self.cpu.cpl()) <= level {
            return Ok(());
        }
        let Instruction { op, width, destination, source, immediate, .. } = *self.i;
        let port = match (op, destination, source) {
            (Op::In, _, Operand::Immediate) | (Op::Out, Operand::Immediate, _) => immediate as u16,
            _ => self.cpu.gpr(2) as u16, // DX
        };
        let tss = self.cpu.table(Table::Tr);
        let limit = u64::from(tss.limit);
        if limit < TSS_LEAST {
            return Err(Exception::GP.into());
        }
        let map = self.word(tss.base.wrapping_add(TSS_MAP))?;
        let at = u64::from(map).wrapping_add(u64::from(port >> 3));
        if at.wrapping_add(1) > limit {
            return Err(Exception::GP.into());
        }
        let bits = self.word(tss.base.wrapping_add(at))? >> (port & 7);
        let ports = 1_u16.wrapping_shl(width.bytes().into()).wrapping_sub(1);
        if bits & ports == 0 { Ok(()) } else { Err(Exception::GP.into()) }
    }

    fn word(&mut self, linear: u64) -> Result<u16, Fault> {
        let linear = if self.is_long() { linear } else { linear & 0xffff_ffff };
        let mut bytes = [0; 2];
        self.memory.read_system(linear, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }
}

/// A segment register with what a descriptor says.
fn unpack(selector: u16, descriptor: u64) -> SegmentState {
    let limit = (descriptor & 0xffff | descriptor >> 32 & 0xf_0000) as u32;
    let pages = descriptor >> 55 & 1 != 0;
    SegmentState {
        selector,
        base: descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000,
        limit: if pages { limit << 12 | 0xfff } else { limit },
        attributes: (descriptor >> 40 & 0xff | descriptor >> 44 & 0xf00) as u16,
    }
}

#[cfg(test)]
#[path = "forced_tests.rs"]
mod tests;
