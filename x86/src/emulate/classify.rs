//! What an opcode means: the second step of decoding. Only instructions that Radon executes or whose intercept it
//! handles get a meaning of their own; the rest is [`Op::Other`]. `None` is #UD.

use super::decode::{Map, Meaning, Parts, vector_form};
use super::instruction::{Mode, Op, Operand, Repeat, Segment, VectorForm, Width};

/// The meaning of an instruction, or `None` if it is undefined.
pub(super) fn classify(p: &Parts) -> Option<Meaning> {
    match p.map {
        Map::One => one_byte(p),
        Map::Two => two_byte(p),
        Map::Three38 => three_byte_38(p),
        Map::Three3a | Map::Long => Some(p.plain(Op::Other)),
        Map::Vex(1) => vector_move(p, true),
        Map::Vex(2) if p.opcode == 0x2a && p.prefix() == Prefix::P66 => vector_load_nontemporal(p, true),
        Map::Vex(_) => Some(p.plain(Op::Other)),
    }
}

/// A mandatory prefix: 66, F3 and F2 as part of the opcode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Prefix {
    None,
    P66,
    F3,
    F2,
}

impl Parts {
    fn prefix(&self) -> Prefix {
        match self.repeat {
            Repeat::WhileEqual => Prefix::F3,
            Repeat::WhileNotEqual => Prefix::F2,
            Repeat::No if self.operand_size_prefix => Prefix::P66,
            Repeat::No => Prefix::None,
        }
    }

    /// The opcode extension in ModRM.reg.
    fn group(&self) -> u8 {
        self.modrm.byte >> 3 & 7
    }

    /// A byte for even opcodes, else the operand size: the usual meaning of an opcode's bit 0.
    fn byte_or_operand(&self) -> Width {
        if self.opcode & 1 == 0 { Width::Byte } else { self.operand_width }
    }

    /// The operand size of port accesses: at most 32 bits.
    fn port_width(&self) -> Width {
        self.byte_or_operand().min(Width::Dword)
    }

    /// The operand size of pushes and pops: 64 bits by default in 64-bit mode.
    fn stack_width(&self) -> Width {
        match self.mode {
            Mode::Bits64 if self.operand_size_prefix && !self.wide => Width::Word,
            Mode::Bits64 => Width::Qword,
            _ => self.operand_width,
        }
    }

    /// The operand size of near branches: in 64-bit mode 64 bits, or 16 with a prefix, as AMD processors have it.
    fn branch_width(&self) -> Width {
        self.stack_width()
    }

    /// The operand size of moves to and from control and debug registers, and of system instructions like them.
    fn register_width(&self) -> Width {
        if self.mode == Mode::Bits64 { Width::Qword } else { Width::Dword }
    }

    fn register(&self, number: u8, width: Width) -> Operand {
        match number {
            4..=7 if width == Width::Byte && !self.rex => Operand::HighByte(number & 3),
            _ => Operand::Gpr(number),
        }
    }

    /// ModRM.rm as an operand.
    fn rm(&self, width: Width) -> Operand {
        if self.modrm.is_memory { Operand::Memory } else { self.register(self.modrm.rm, width) }
    }

    /// ModRM.reg as a general-purpose register.
    fn reg(&self, width: Width) -> Operand {
        self.register(self.modrm.reg, width)
    }

    fn plain(&self, op: Op) -> Meaning {
        self.binary(op, self.operand_width, Operand::None, Operand::None)
    }

    fn unary(&self, op: Op, width: Width, destination: Operand) -> Meaning {
        self.binary(op, width, destination, Operand::None)
    }

    fn binary(&self, op: Op, width: Width, destination: Operand, source: Operand) -> Meaning {
        Meaning { op, width, source_width: width, destination, source, immediate: self.immediate }
    }
}

const RAX: Operand = Operand::Gpr(0);
const RDX: Operand = Operand::Gpr(2);

fn arithmetic(group: u8) -> Op {
    match group & 7 {
        0 => Op::Add,
        1 => Op::Or,
        2 => Op::Adc,
        3 => Op::Sbb,
        4 => Op::And,
        5 => Op::Sub,
        6 => Op::Xor,
        _ => Op::Cmp,
    }
}

fn shift(group: u8) -> Op {
    match group & 7 {
        0 => Op::Rol,
        1 => Op::Ror,
        2 => Op::Rcl,
        3 => Op::Rcr,
        5 => Op::Shr,
        7 => Op::Sar,
        _ => Op::Shl,
    }
}

fn one_byte(p: &Parts) -> Option<Meaning> {
    let width = p.byte_or_operand();
    let low_register = p.opcode & 7 | p.base_extension;
    let long = p.mode == Mode::Bits64;
    Some(match p.opcode {
        0x00..=0x3f => {
            let op = arithmetic(p.opcode >> 3);
            match p.opcode & 7 {
                0 | 1 => p.binary(op, width, p.rm(width), p.reg(width)),
                2 | 3 => p.binary(op, width, p.reg(width), p.rm(width)),
                4 | 5 => p.binary(op, width, RAX, Operand::Immediate),
                _ => p.plain(Op::Other),
            }
        }
        0x40..=0x47 => p.unary(Op::Inc, p.operand_width, Operand::Gpr(p.opcode & 7)),
        0x48..=0x4f => p.unary(Op::Dec, p.operand_width, Operand::Gpr(p.opcode & 7)),
        0x50..=0x57 => p.unary(Op::Push, p.stack_width(), Operand::Gpr(low_register)),
        0x58..=0x5f => p.unary(Op::Pop, p.stack_width(), Operand::Gpr(low_register)),
        0x63 if long => Meaning {
            source_width: p.operand_width.min(Width::Dword),
            ..p.binary(Op::Movsx, p.operand_width, p.reg(p.operand_width), p.rm(Width::Dword))
        },
        0x68 | 0x6a => p.unary(Op::Push, p.stack_width(), Operand::Immediate),
        0x6c | 0x6d => p.plain_width(Op::Ins, p.port_width()),
        0x6e | 0x6f => p.plain_width(Op::Outs, p.port_width()),
        0x80..=0x83 => p.binary(arithmetic(p.group()), width, p.rm(width), Operand::Immediate),
        0x84 | 0x85 => p.binary(Op::Test, width, p.rm(width), p.reg(width)),
        0x86 | 0x87 => p.binary(Op::Xchg, width, p.rm(width), p.reg(width)),
        0x88 | 0x89 => p.binary(Op::Mov, width, p.rm(width), p.reg(width)),
        0x8a | 0x8b => p.binary(Op::Mov, width, p.reg(width), p.rm(width)),
        0x8c => {
            let segment = Operand::Segment(segment(p.group())?);
            let width = if p.modrm.is_memory { Width::Word } else { p.operand_width };
            p.binary(Op::Mov, width, p.rm(width), segment)
        }
        0x8d if !p.modrm.is_memory => return None,
        0x8e => match segment(p.group())? {
            Segment::Cs => return None,
            s => p.binary(Op::Mov, Width::Word, Operand::Segment(s), p.rm(Width::Word)),
        },
        0x8f => match p.group() {
            0 => p.unary(Op::Pop, p.stack_width(), p.rm(p.stack_width())),
            _ => return None,
        },
        0x90 if p.repeat == Repeat::WhileEqual => p.plain(Op::Pause),
        0x90 if p.base_extension == 0 => p.plain(Op::Nop),
        0x90..=0x97 => p.binary(Op::Xchg, p.operand_width, Operand::Gpr(low_register), RAX),
        0x9b => p.plain(Op::Wait),
        0x9c => p.plain_width(Op::Pushf, p.stack_width()),
        0x9d => p.plain_width(Op::Popf, p.stack_width()),
        0xa0 | 0xa1 => p.binary(Op::Mov, width, RAX, Operand::Memory),
        0xa2 | 0xa3 => p.binary(Op::Mov, width, Operand::Memory, RAX),
        0xa4 | 0xa5 => p.plain_width(Op::Movs, width),
        0xa6 | 0xa7 => p.plain_width(Op::Cmps, width),
        0xa8 | 0xa9 => p.binary(Op::Test, width, RAX, Operand::Immediate),
        0xaa | 0xab => p.plain_width(Op::Stos, width),
        0xac | 0xad => p.plain_width(Op::Lods, width),
        0xae | 0xaf => p.plain_width(Op::Scas, width),
        0xb0..=0xb7 => p.binary(Op::Mov, Width::Byte, p.register(low_register, Width::Byte), Operand::Immediate),
        0xb8..=0xbf => p.binary(Op::Mov, p.operand_width, Operand::Gpr(low_register), Operand::Immediate),
        0xc0 | 0xc1 => shift_by(p, width, Operand::Immediate),
        0xc6 | 0xc7 => match (p.group(), p.modrm.byte) {
            (0, _) => p.binary(Op::Mov, width, p.rm(width), Operand::Immediate),
            (_, 0xf8) => p.plain(Op::Other), // XABORT, XBEGIN
            _ => return None,
        },
        0xcc => p.plain(Op::Int3),
        0xcd => p.unary(Op::Int, Width::Byte, Operand::Immediate),
        0xce => p.plain(Op::Into),
        0xcf => p.plain(Op::Iret),
        0xd0 | 0xd1 => Meaning { immediate: 1, ..shift_by(p, width, Operand::Immediate) },
        0xd2 | 0xd3 => shift_by(p, width, Operand::Gpr(1)),
        0xd9 if p.modrm.byte == 0xd0 => p.plain(Op::Fnop),
        0xe4 | 0xe5 => port(p, Op::In, RAX, Operand::Immediate),
        0xe6 | 0xe7 => port(p, Op::Out, Operand::Immediate, RAX),
        0xe9 | 0xeb => p.unary(Op::Jmp, p.branch_width(), Operand::Immediate),
        0xec | 0xed => port(p, Op::In, RAX, RDX),
        0xee | 0xef => port(p, Op::Out, RDX, RAX),
        0xf1 => p.plain(Op::Int1),
        0xf4 => p.plain(Op::Hlt),
        0xf6 | 0xf7 => match p.group() {
            0 | 1 => p.binary(Op::Test, width, p.rm(width), Operand::Immediate),
            2 => p.unary(Op::Not, width, p.rm(width)),
            3 => p.unary(Op::Neg, width, p.rm(width)),
            _ => p.plain(Op::Other), // MUL, IMUL, DIV, IDIV
        },
        0xfa => p.plain(Op::Cli),
        0xfb => p.plain(Op::Sti),
        0xfe | 0xff => match p.group() {
            0 => p.unary(Op::Inc, width, p.rm(width)),
            1 => p.unary(Op::Dec, width, p.rm(width)),
            _ if p.opcode == 0xfe => return None,
            3 | 5 if !p.modrm.is_memory => return None,
            4 => p.unary(Op::Jmp, p.branch_width(), p.rm(p.branch_width())),
            6 => p.unary(Op::Push, p.stack_width(), p.rm(p.stack_width())),
            7 => return None,
            _ => p.plain(Op::Other), // calls and jumps
        },
        _ => p.plain(Op::Other),
    })
}

impl Parts {
    fn plain_width(&self, op: Op, width: Width) -> Meaning {
        self.binary(op, width, Operand::None, Operand::None)
    }
}

fn segment(number: u8) -> Option<Segment> {
    Some(match number {
        0 => Segment::Es,
        1 => Segment::Cs,
        2 => Segment::Ss,
        3 => Segment::Ds,
        4 => Segment::Fs,
        5 => Segment::Gs,
        _ => return None,
    })
}

fn shift_by(p: &Parts, width: Width, count: Operand) -> Meaning {
    Meaning { source_width: Width::Byte, ..p.binary(shift(p.group()), width, p.rm(width), count) }
}

/// A port access; an immediate port number is 8 bits, unsigned.
fn port(p: &Parts, op: Op, destination: Operand, source: Operand) -> Meaning {
    Meaning { immediate: p.immediate & 0xff, ..p.binary(op, p.port_width(), destination, source) }
}

fn two_byte(p: &Parts) -> Option<Meaning> {
    let width = p.byte_or_operand();
    let operand = p.operand_width;
    let is_memory = p.modrm.is_memory;
    Some(match p.opcode {
        0x00 => match p.group() {
            0 => system_selector(p, Op::Sldt, true),
            1 => system_selector(p, Op::Str, true),
            2 => system_selector(p, Op::Lldt, false),
            3 => system_selector(p, Op::Ltr, false),
            4 | 5 => p.plain(Op::Other), // VERR, VERW
            _ => return None,
        },
        0x01 => return group7(p),
        0x05 => p.plain(Op::Syscall),
        0x06 => p.plain(Op::Clts),
        0x08 => p.plain(Op::Invd),
        0x09 => p.plain(Op::Wbinvd), // with F3: WBNOINVD
        0x0b | 0xb9 | 0xff => return None,
        0x0d | 0x18 | 0x19 | 0x1c..=0x1f => p.plain(Op::Nop),
        0x10..=0x13 | 0x16 | 0x17 | 0x28 | 0x29 | 0x2b | 0x6e | 0x6f | 0x7e | 0x7f | 0xd6 | 0xe7 | 0xf0 => {
            return vector_move(p, false);
        }
        0x20 | 0x22 => {
            let number = match p.modrm.reg {
                0 if p.lock => 8, // AMD's alternative encoding of CR8
                n @ (0 | 2 | 3 | 4 | 8) if !p.lock => n,
                _ => return None,
            };
            let (control, gpr) = (Operand::Control(number), Operand::Gpr(p.modrm.rm));
            let (to, from) = if p.opcode == 0x20 { (gpr, control) } else { (control, gpr) };
            p.binary(Op::Mov, p.register_width(), to, from)
        }
        0x21 | 0x23 => {
            if p.modrm.reg > 7 {
                return None;
            }
            let (debug, gpr) = (Operand::Debug(p.modrm.reg), Operand::Gpr(p.modrm.rm));
            let (to, from) = if p.opcode == 0x21 { (gpr, debug) } else { (debug, gpr) };
            p.binary(Op::Mov, p.register_width(), to, from)
        }
        0x30 => p.plain(Op::Wrmsr),
        0x31 => p.plain(Op::Rdtsc),
        0x32 => p.plain(Op::Rdmsr),
        0x33 => p.plain(Op::Rdpmc),
        0xa2 => p.plain(Op::Cpuid),
        0xa3 => p.binary(Op::Bt, operand, p.rm(operand), p.reg(operand)),
        0xab => p.binary(Op::Bts, operand, p.rm(operand), p.reg(operand)),
        0xb3 => p.binary(Op::Btr, operand, p.rm(operand), p.reg(operand)),
        0xbb => p.binary(Op::Btc, operand, p.rm(operand), p.reg(operand)),
        0xba => {
            let op = match p.group() {
                4 => Op::Bt,
                5 => Op::Bts,
                6 => Op::Btr,
                7 => Op::Btc,
                _ => return None,
            };
            p.binary(op, operand, p.rm(operand), Operand::Immediate)
        }
        0xaa => p.plain(Op::Rsm),
        // CLFLUSH, CLFLUSHOPT, CLWB: there is nothing to flush of what is emulated.
        0xae if is_memory => match (p.group(), p.prefix()) {
            (7, Prefix::None | Prefix::P66) | (6, Prefix::P66) => p.plain(Op::Nop),
            _ => p.plain(Op::Other),
        },
        0xb0 | 0xb1 => p.binary(Op::Cmpxchg, width, p.rm(width), p.reg(width)),
        0xb6 | 0xb7 | 0xbe | 0xbf => {
            let source = if p.opcode & 1 == 0 { Width::Byte } else { Width::Word };
            let op = if p.opcode < 0xb8 { Op::Movzx } else { Op::Movsx };
            Meaning { source_width: source, ..p.binary(op, operand, p.reg(operand), p.rm(source)) }
        }
        0xc0 | 0xc1 => p.binary(Op::Xadd, width, p.rm(width), p.reg(width)),
        0xc3 if is_memory && p.prefix() == Prefix::None => {
            p.binary(Op::Mov, operand.max(Width::Dword), Operand::Memory, p.reg(operand)) // MOVNTI
        }
        0xc3 => return None,
        0xc7 => match p.group() {
            1 if is_memory => p.unary(Op::CmpxchgPair, operand.max(Width::Dword), Operand::Memory),
            3 if is_memory => p.unary(Op::Xrstors, operand, Operand::Memory),
            5 if is_memory => p.unary(Op::Xsaves, operand, Operand::Memory),
            1..=3 | 5 if !is_memory => return None,
            _ => p.plain(Op::Other),
        },
        _ => p.plain(Op::Other),
    })
}

/// SLDT and STR write 16 bits to memory but a whole register; LLDT and LTR read 16 bits.
fn system_selector(p: &Parts, op: Op, store: bool) -> Meaning {
    let width = if p.modrm.is_memory || !store { Width::Word } else { p.operand_width };
    if store { p.unary(op, width, p.rm(width)) } else { p.binary(op, width, Operand::None, p.rm(width)) }
}

/// 0F 01: descriptor tables, machine status word, and what was put into its register forms since.
fn group7(p: &Parts) -> Option<Meaning> {
    let table = p.register_width();
    let memory = |op| p.unary(op, table, Operand::Memory);
    let word = |op| p.binary(op, Width::Word, Operand::None, p.rm(Width::Word));
    if p.modrm.is_memory {
        return Some(match p.group() {
            0 => memory(Op::Sgdt),
            1 => memory(Op::Sidt),
            2 => memory(Op::Lgdt),
            3 => memory(Op::Lidt),
            4 => p.unary(Op::Smsw, Width::Word, Operand::Memory),
            6 => word(Op::Lmsw),
            7 => memory(Op::Invlpg),
            _ => p.plain(Op::Other), // RSTORSSP
        });
    }
    match p.modrm.byte {
        0xe0..=0xe7 => return Some(p.unary(Op::Smsw, p.operand_width, p.rm(p.operand_width))),
        0xf0..=0xf7 => return Some(word(Op::Lmsw)),
        _ => {}
    }
    // The SVM instructions, SWAPGS and RDTSCP ignore F2 and F3; for the others these select another instruction or none.
    let ignores_repeat = matches!(p.modrm.byte, 0xd8 | 0xda..=0xdf | 0xf8 | 0xf9);
    if p.repeat != Repeat::No && !ignores_repeat {
        let vmgexit = p.modrm.byte == 0xd9;
        return Some(p.plain(if vmgexit { Op::Vmgexit } else { Op::Other }));
    }
    let op = match p.modrm.byte {
        0xc1 => Op::Vmcall,
        0xc8 => Op::Monitor,
        0xc9 => Op::Mwait,
        0xca => Op::Clac,
        0xcb => Op::Stac,
        0xd0 => Op::Xgetbv,
        0xd1 => Op::Xsetbv,
        0xd8 => Op::Vmrun,
        0xd9 => Op::Vmmcall,
        0xda => Op::Vmload,
        0xdb => Op::Vmsave,
        0xdc => Op::Stgi,
        0xdd => Op::Clgi,
        0xde => Op::Skinit,
        0xdf => Op::Invlpga,
        0xf8 if p.mode == Mode::Bits64 => Op::Swapgs,
        0xf9 => Op::Rdtscp,
        0xfa => Op::Monitorx,
        0xfb => Op::Mwaitx,
        0xfd => Op::Rdpru,
        _ => Op::Other,
    };
    Some(p.plain(op))
}

fn three_byte_38(p: &Parts) -> Option<Meaning> {
    Some(match (p.opcode, p.prefix()) {
        (0x2a, Prefix::P66) => return vector_load_nontemporal(p, false),
        (0x82, Prefix::P66) if p.modrm.is_memory => {
            p.binary(Op::Invpcid, p.register_width(), p.reg(p.register_width()), Operand::Memory)
        }
        (0xf0, Prefix::None | Prefix::P66) if p.modrm.is_memory => {
            p.binary(Op::Movbe, p.operand_width, p.reg(p.operand_width), Operand::Memory)
        }
        (0xf1, Prefix::None | Prefix::P66) if p.modrm.is_memory => {
            p.binary(Op::Movbe, p.operand_width, Operand::Memory, p.reg(p.operand_width))
        }
        _ => p.plain(Op::Other),
    })
}

fn vector(p: &Parts, form: VectorForm, load: bool) -> Option<Meaning> {
    if form.vex && !p.no_vvvv {
        return None;
    }
    let register = Operand::Vector(p.modrm.reg);
    let (to, from) = if load { (register, Operand::Memory) } else { (Operand::Memory, register) };
    Some(p.binary(Op::VectorMove(form), p.operand_width, to, from))
}

fn vector_load_nontemporal(p: &Parts, vex: bool) -> Option<Meaning> {
    let bytes = if p.vector_256 { 32 } else { 16 };
    if p.modrm.is_memory { vector(p, vector_form(bytes, true, vex), true) } else { None }
}

/// Moves between memory and XMM or YMM registers, and of whole registers. Those of parts and MMX are [`Op::Other`].
fn vector_move(p: &Parts, vex: bool) -> Option<Meaning> {
    if !p.modrm.is_memory {
        let (reg, rm) = (Operand::Vector(p.modrm.reg), Operand::Vector(p.modrm.rm));
        let (to, from) = match (p.opcode, p.prefix()) {
            (0x10 | 0x28, Prefix::None | Prefix::P66) | (0x6f, Prefix::P66 | Prefix::F3) => (reg, rm),
            (0x11 | 0x29, Prefix::None | Prefix::P66) | (0x7f, Prefix::P66 | Prefix::F3) => (rm, reg),
            _ => return Some(p.plain(Op::Other)),
        };
        let form = vector_form(if p.vector_256 { 32 } else { 16 }, false, vex);
        return (!vex || p.no_vvvv).then(|| p.binary(Op::VectorMove(form), p.operand_width, to, from));
    }
    let full = |aligned| vector_form(if p.vector_256 { 32 } else { 16 }, aligned, vex);
    let part = |bytes| vector_form(bytes, false, vex);
    let general = part(if p.wide { 8 } else { 4 });
    let half = VectorForm { merge: true, high: p.opcode >= 0x16, ..part(8) };
    // Scalar moves ignore VEX.L; moves of a doubleword, quadword or half do not have it.
    let narrow_vex_256 = vex && p.vector_256;
    let (form, load) = match (p.opcode, p.prefix()) {
        (0x10, Prefix::None | Prefix::P66) => (full(false), true),
        (0x11, Prefix::None | Prefix::P66) => (full(false), false),
        (0x10, Prefix::F3) => (part(4), true),
        (0x11, Prefix::F3) => (part(4), false),
        (0x10, Prefix::F2) => (part(8), true),
        (0x11, Prefix::F2) => (part(8), false),
        (0x12 | 0x16, Prefix::None | Prefix::P66) if !vex => (half, true),
        (0x13 | 0x17, Prefix::None | Prefix::P66) if !narrow_vex_256 => (half, false),
        (0x28, Prefix::None | Prefix::P66) | (0x6f, Prefix::P66) => (full(true), true),
        (0x29 | 0x2b, Prefix::None | Prefix::P66) | (0x7f | 0xe7, Prefix::P66) => (full(true), false),
        (0x6f, Prefix::F3) | (0xf0, Prefix::F2) => (full(false), true),
        (0x7f, Prefix::F3) => (full(false), false),
        (0x6e, Prefix::P66) if !narrow_vex_256 => (general, true),
        (0x7e, Prefix::P66) if !narrow_vex_256 => (general, false),
        (0x7e, Prefix::F3) if !narrow_vex_256 => (part(8), true),
        (0xd6, Prefix::P66) if !narrow_vex_256 => (part(8), false),
        _ => return Some(p.plain(Op::Other)),
    };
    vector(p, form, load)
}
