//! Instruction decoding and emulation for guests under nested paging.
//!
//! The processor executes nearly everything itself. What is left: instructions that are intercepted (CPUID, RDMSR, IN,
//! HLT, ...), of which the emulator tells the length where the processor does not, and instructions that touched an
//! emulated device's memory, which it executes whole.
//!
//! One stage fetches and decodes ([`fetch`], [`mod@decode`]) to an [`Instruction`]; one stage executes it ([`mod@execute`])
//! against two traits: [`CpuState`], the vCPU's registers, and [`Memory`], linear memory and I/O ports.
//! [`LinearMemory`] is the [`Memory`] of a real vCPU: page-table walk ([`walk`]) plus guest-physical accesses;
//! [`GuestCpu`] its [`CpuState`].
//!
//! Invariants: an instruction either completes, or leaves registers as they were and says why (a repeated string
//! instruction completes iteration by iteration, as on a processor). No step loops over a number that a guest chooses:
//! string instructions stop after a budget and continue when the guest runs again. Nothing here takes locks.

pub mod address;
mod classify;
pub mod control;
pub mod decode;
mod encoding;
pub mod execute;
pub mod flags;
pub mod forced;
pub mod guest;
pub mod instruction;
pub mod linear;
mod string;
pub mod walk;

pub use decode::{DecodeError, MAX_LENGTH, decode};
pub use execute::{Cause, DEFAULT_BUDGET, emulate, execute};
pub use guest::GuestCpu;
pub use instruction::{Instruction, Mode, Op, Operand, Repeat, Segment, Width};
pub use linear::{LinearMemory, Physical};

/// Divide error.
pub const VECTOR_DE: u8 = 0;
/// Debug.
pub const VECTOR_DB: u8 = 1;
/// Invalid opcode.
pub const VECTOR_UD: u8 = 6;
/// Device (FPU) not available.
pub const VECTOR_NM: u8 = 7;
/// Stack fault.
pub const VECTOR_SS: u8 = 12;
/// General protection.
pub const VECTOR_GP: u8 = 13;
/// Page fault.
pub const VECTOR_PF: u8 = 14;
/// Alignment check.
pub const VECTOR_AC: u8 = 17;

/// An exception to deliver to the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exception {
    /// Vector, 0 to 31.
    pub vector: u8,
    /// Error code, for the vectors that have one.
    pub error_code: Option<u32>,
    /// The linear address for CR2; only for page faults.
    pub cr2: Option<u64>,
}

impl Exception {
    /// #UD.
    pub const UD: Exception = Exception { vector: VECTOR_UD, error_code: None, cr2: None };
    /// #NM.
    pub const NM: Exception = Exception { vector: VECTOR_NM, error_code: None, cr2: None };
    /// #GP(0).
    pub const GP: Exception = Exception { vector: VECTOR_GP, error_code: Some(0), cr2: None };
    /// #SS(0).
    pub const SS: Exception = Exception { vector: VECTOR_SS, error_code: Some(0), cr2: None };

    /// #PF at a linear address.
    #[must_use]
    pub const fn page_fault(error_code: u32, linear: u64) -> Exception {
        Exception { vector: VECTOR_PF, error_code: Some(error_code), cr2: Some(linear) }
    }
}

/// Why a step of an instruction did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The guest gets this exception.
    Exception(Exception),
    /// Not now (a device model has to answer, a page has to arrive): run the instruction again later.
    Retry,
    /// The emulator cannot do this; the text says what.
    Unhandleable(&'static str),
}

impl From<Exception> for Fault {
    fn from(e: Exception) -> Fault {
        Fault::Exception(e)
    }
}

impl From<DecodeError> for Fault {
    fn from(e: DecodeError) -> Fault {
        match e {
            DecodeError::Undefined => Exception::UD.into(),
            DecodeError::TooLong => Exception::GP.into(),
            DecodeError::Incomplete => Fault::Unhandleable("instruction bytes cut short"),
        }
    }
}

/// What became of an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is complete and RIP is past it.
    Done,
    /// It is not complete (a repeat used up its budget, a device has yet to answer): enter the guest or call again, RIP
    /// still points at it.
    Retry,
    /// Deliver this exception; RIP points at the instruction.
    Fault(Exception),
    /// It is beyond the emulator; the text says why. Nothing was changed.
    Unhandleable(&'static str),
}

impl From<Result<(), Fault>> for Outcome {
    fn from(r: Result<(), Fault>) -> Outcome {
        match r {
            Ok(()) => Outcome::Done,
            Err(Fault::Exception(e)) => Outcome::Fault(e),
            Err(Fault::Retry) => Outcome::Retry,
            Err(Fault::Unhandleable(why)) => Outcome::Unhandleable(why),
        }
    }
}

/// A segment register with its hidden part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SegmentState {
    /// Selector.
    pub selector: u16,
    /// Base address.
    pub base: u64,
    /// Limit in bytes, granularity applied.
    pub limit: u32,
    /// Attributes as a VMCB has them: bits 3:0 type, 4 S, 6:5 DPL, 7 P, 8 AVL, 9 L, 10 D/B, 11 G.
    pub attributes: u16,
}

impl SegmentState {
    /// Code or data (not system).
    pub const NON_SYSTEM: u16 = 1 << 4;
    /// Present.
    pub const PRESENT: u16 = 1 << 7;
    /// 64-bit code.
    pub const LONG: u16 = 1 << 9;
    /// 32-bit default size.
    pub const BIG: u16 = 1 << 10;

    /// Whether it is a code segment.
    #[must_use]
    pub const fn is_code(&self) -> bool {
        self.attributes & 0x8 != 0
    }

    /// Whether data may be read through it.
    #[must_use]
    pub const fn is_readable(&self) -> bool {
        !self.is_code() || self.attributes & 0x2 != 0
    }

    /// Whether data may be written through it.
    #[must_use]
    pub const fn is_writable(&self) -> bool {
        !self.is_code() && self.attributes & 0x2 != 0
    }

    /// Whether its valid offsets are those above the limit.
    #[must_use]
    pub const fn is_expand_down(&self) -> bool {
        !self.is_code() && self.attributes & 0x4 != 0
    }
}

/// RFLAGS bits.
pub mod rflags {
    /// Carry.
    pub const CF: u64 = 1 << 0;
    /// Parity.
    pub const PF: u64 = 1 << 2;
    /// Auxiliary carry.
    pub const AF: u64 = 1 << 4;
    /// Zero.
    pub const ZF: u64 = 1 << 6;
    /// Sign.
    pub const SF: u64 = 1 << 7;
    /// Trap: single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts enabled.
    pub const IF: u64 = 1 << 9;
    /// Direction: strings run downwards.
    pub const DF: u64 = 1 << 10;
    /// Overflow.
    pub const OF: u64 = 1 << 11;
    /// I/O privilege level (two bits).
    pub const IOPL: u64 = 3 << 12;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual-8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check, and exemption from SMAP.
    pub const AC: u64 = 1 << 18;
}

const CR0_PE: u64 = 1 << 0;
const EFER_LMA: u64 = 1 << 10;

/// A vCPU's registers. Setters that cannot fail take effect when the guest next runs.
pub trait CpuState {
    /// General-purpose register 0 (RAX), 1 (RCX), 2 (RDX), 3 (RBX), 4 (RSP), ... 15, whole. Other numbers read 0.
    fn gpr(&self, number: u8) -> u64;
    /// Sets a general-purpose register, whole.
    fn set_gpr(&mut self, number: u8, value: u64);
    /// Instruction pointer.
    fn rip(&self) -> u64;
    /// Sets the instruction pointer.
    fn set_rip(&mut self, value: u64);
    /// Flags.
    fn rflags(&self) -> u64;
    /// Sets the flags.
    fn set_rflags(&mut self, value: u64);
    /// A segment register.
    fn segment(&self, segment: Segment) -> SegmentState;
    /// Current privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// EFER.
    fn efer(&self) -> u64;
    /// XCR0 (1 if the guest has no XSAVE).
    fn xcr0(&self) -> u64;
    /// Control register 0, 2, 3, 4 or 8.
    fn control(&self, number: u8) -> u64;
    /// Writes control register 0, 2, 3, 4 or 8 with all checks and effects that the write has.
    fn write_control(&mut self, number: u8, value: u64) -> Result<(), Fault>;
    /// Debug register 0 to 3, 6 or 7.
    fn debug(&self, number: u8) -> u64;
    /// Writes debug register 0 to 3, 6 or 7 with the checks that the write has.
    fn write_debug(&mut self, number: u8, value: u64) -> Result<(), Fault>;
    /// YMM register 0 to 15, least significant part first. Without AVX the upper half reads 0.
    fn vector(&self, number: u8) -> [u64; 4];
    /// Sets a YMM register; without AVX the upper half is dropped.
    fn set_vector(&mut self, number: u8, value: [u64; 4]);
    /// Ends the interrupt shadow of STI or MOV SS, as every completed instruction does.
    fn clear_interrupt_shadow(&mut self);
    /// An instruction completed with RFLAGS.TF set: the guest gets #DB with DR6.BS.
    fn raise_single_step(&mut self);
}

/// How memory is accessed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Read that will be followed by a write of the same bytes: needs write permission.
    ReadForWrite,
    /// Instruction fetch.
    Fetch,
}

/// Linear memory and I/O ports as the running instruction reaches them, with the vCPU's privilege.
///
/// A device access that cannot be answered at once returns [`Fault::Retry`]; the instruction is then executed again from
/// its start, so the implementation must answer accesses that were already done from what it remembers of them.
pub trait Memory {
    /// Reads `to.len()` (at most 32) bytes.
    fn read(&mut self, linear: u64, to: &mut [u8], kind: AccessKind) -> Result<(), Fault>;
    /// Writes at most 32 bytes. Faults before anything is written.
    fn write(&mut self, linear: u64, from: &[u8]) -> Result<(), Fault>;
    /// Does the checks of a write of `length` bytes, and nothing else.
    fn check_write(&mut self, linear: u64, length: u8) -> Result<(), Fault>;
    /// Atomically replaces the value at `linear`, if it is `old`, by `new`. Returns whether it did.
    fn compare_exchange(&mut self, linear: u64, width: Width, old: u64, new: u64) -> Result<bool, Fault>;
    /// Reads an I/O port, 1, 2 or 4 bytes.
    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Fault>;
    /// Writes an I/O port, 1, 2 or 4 bytes.
    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Fault>;
}

/// How the vCPU reads code now.
#[must_use]
pub fn code_mode(cpu: &dyn CpuState) -> Mode {
    let attributes = cpu.segment(Segment::Cs).attributes;
    if cpu.efer() & EFER_LMA != 0 && attributes & SegmentState::LONG != 0 {
        Mode::Bits64
    } else if cpu.control(0) & CR0_PE != 0 && cpu.rflags() & rflags::VM == 0 && attributes & SegmentState::BIG != 0 {
        Mode::Bits32
    } else {
        Mode::Bits16
    }
}

/// Fetches and decodes the instruction at RIP. `supplied` are bytes from RIP on that the processor gave with the exit
/// (possibly none); only if they do not suffice, memory is read, and then never across a page boundary that the
/// instruction does not cross.
///
/// # Errors
/// The fault that the processor would raise for this instruction, or what [`Memory::read`] says.
pub fn fetch(cpu: &dyn CpuState, memory: &mut dyn Memory, supplied: &[u8]) -> Result<Instruction, Fault> {
    let mode = code_mode(cpu);
    fetch_as(cpu, memory, supplied, mode, &|bytes| decode(bytes, mode))
}

/// As [`fetch`], with the bytes understood by `parse`, which asks for more with [`DecodeError::Incomplete`].
fn fetch_as<T>(
    cpu: &dyn CpuState,
    memory: &mut dyn Memory,
    supplied: &[u8],
    mode: Mode,
    parse: &dyn Fn(&[u8]) -> Result<T, DecodeError>,
) -> Result<T, Fault> {
    match parse(supplied) {
        Err(DecodeError::Incomplete) => {}
        other => return Ok(other?),
    }
    let code = cpu.segment(Segment::Cs);
    let rip = cpu.rip();
    let mut bytes = [0_u8; MAX_LENGTH];
    let mut have = 0_usize;
    // At most two rounds: up to the end of the page, then beyond.
    loop {
        let offset = rip.wrapping_add(have as u64);
        let linear = match mode {
            Mode::Bits64 => offset,
            _ => code.base.wrapping_add(offset) & 0xffff_ffff,
        };
        let in_page = 0x1000_u64.wrapping_sub(linear & 0xfff) as usize;
        let mut end = have.saturating_add(in_page).min(MAX_LENGTH);
        if mode == Mode::Bits64 {
            if !walk::is_canonical(linear) {
                return Err(Exception::GP.into());
            }
        } else {
            // Bytes beyond the limit exist only for a fault.
            let in_segment = u64::from(code.limit).saturating_sub(offset).saturating_add(1);
            if offset > u64::from(code.limit) {
                return Err(Exception::GP.into());
            }
            end = end.min(have.saturating_add(in_segment as usize));
        }
        let Some(to) = bytes.get_mut(have..end) else { return Err(DecodeError::Incomplete.into()) };
        if to.is_empty() {
            return Err(DecodeError::Incomplete.into());
        }
        memory.read(linear, to, AccessKind::Fetch)?;
        have = end;
        match parse(bytes.get(..have).unwrap_or(&[])) {
            Err(DecodeError::Incomplete) if have < MAX_LENGTH => {}
            other => return Ok(other?),
        }
    }
}

/// Completes an instruction of `length` bytes at RIP: moves RIP past it, ends RF and the interrupt shadow, and raises the
/// single-step trap that TF asks for. For intercepted instructions after their handler did the work.
pub fn retire(cpu: &mut dyn CpuState, length: u8) {
    let next = next_rip(cpu, length);
    let flags = cpu.rflags();
    cpu.set_rip(next);
    cpu.set_rflags(flags & !rflags::RF);
    cpu.clear_interrupt_shadow();
    if flags & rflags::TF != 0 {
        cpu.raise_single_step();
    }
}

/// The address after an instruction of `length` bytes at RIP.
#[must_use]
pub fn next_rip(cpu: &dyn CpuState, length: u8) -> u64 {
    let next = cpu.rip().wrapping_add(u64::from(length));
    match code_mode(cpu) {
        Mode::Bits64 => next,
        Mode::Bits32 => next & 0xffff_ffff,
        // A 16-bit segment wraps only if it ended within 64 KiB; real mode cannot run past it without a fault anyway.
        Mode::Bits16 if cpu.rip() <= 0xffff => next & 0xffff,
        Mode::Bits16 => next & 0xffff_ffff,
    }
}

/// Intercepted instructions without prefixes.
const PLAIN: &[(Op, &[u8])] = &[
    (Op::Vmmcall, &[0x0f, 0x01, 0xd9]),
    (Op::Wrmsr, &[0x0f, 0x30]),
    (Op::Rdmsr, &[0x0f, 0x32]),
    (Op::Hlt, &[0xf4]),
    (Op::Cpuid, &[0x0f, 0xa2]),
    (Op::Pause, &[0xf3, 0x90]),
    (Op::In, &[0xec]),
    (Op::In, &[0xed]),
    (Op::Out, &[0xee]),
    (Op::Out, &[0xef]),
    (Op::Rdtsc, &[0x0f, 0x31]),
    (Op::Rdtscp, &[0x0f, 0x01, 0xf9]),
];

/// The length of the instruction that `bytes` begin with, if it is one of `expected` and has no prefix, as nearly all that
/// are intercepted.
#[must_use]
pub fn plain_length(bytes: &[u8], expected: &[Op]) -> Option<u8> {
    let plain = PLAIN.iter().find(|(op, code)| expected.contains(op) && bytes.starts_with(code));
    plain.map(|(_, code)| code.len() as u8)
}

/// The length of the intercepted instruction at RIP, which must be one of `expected`. For processors that do not report
/// where the next instruction begins.
///
/// # Errors
/// As [`fetch`]; [`Fault::Retry`] if another instruction is there now (another vCPU changed the code): run the guest
/// again.
pub fn intercepted_length(
    cpu: &dyn CpuState,
    memory: &mut dyn Memory,
    supplied: &[u8],
    expected: &[Op],
) -> Result<u8, Fault> {
    let mode = code_mode(cpu);
    fetch_as(cpu, memory, supplied, mode, &|bytes| {
        if let Some(length) = plain_length(bytes, expected) {
            return Ok(Some(length));
        }
        decode(bytes, mode).map(|i| expected.contains(&i.op).then_some(i.length))
    })?
    .ok_or(Fault::Retry)
}

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
