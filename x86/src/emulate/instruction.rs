//! A decoded instruction: what it does and to which operands, independent of its bytes. Pure data.

/// The size of an operand or address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Width {
    /// 8 bits.
    Byte = 1,
    /// 16 bits.
    Word = 2,
    /// 32 bits.
    Dword = 4,
    /// 64 bits.
    Qword = 8,
}

impl Width {
    /// Bytes: 1, 2, 4 or 8.
    #[must_use]
    pub const fn bytes(self) -> u8 {
        self as u8
    }

    /// Bits: 8 to 64.
    #[must_use]
    pub const fn bits(self) -> u32 {
        (self as u32) << 3
    }

    /// A value with all bits of this width set.
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Width::Byte => 0xff,
            Width::Word => 0xffff,
            Width::Dword => 0xffff_ffff,
            Width::Qword => u64::MAX,
        }
    }

    /// The most significant bit.
    #[must_use]
    pub const fn sign_bit(self) -> u64 {
        match self {
            Width::Byte => 0x80,
            Width::Word => 0x8000,
            Width::Dword => 0x8000_0000,
            Width::Qword => 1 << 63,
        }
    }

    /// `value` with the bits above this width equal to its sign bit.
    #[must_use]
    pub const fn sign_extend(self, value: u64) -> u64 {
        match self {
            Width::Byte => value as u8 as i8 as i64 as u64,
            Width::Word => value as u16 as i16 as i64 as u64,
            Width::Dword => value as u32 as i32 as i64 as u64,
            Width::Qword => value,
        }
    }
}

/// How the processor reads code: the default sizes of the code segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Real mode, virtual-8086 mode or a 16-bit code segment.
    Bits16,
    /// A 32-bit code segment.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// A segment register, with its number in instruction encodings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Segment {
    /// Extra.
    Es = 0,
    /// Code.
    Cs = 1,
    /// Stack.
    Ss = 2,
    /// Data.
    Ds = 3,
    /// F.
    Fs = 4,
    /// G.
    Gs = 5,
}

/// A repeat prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeat {
    /// None.
    No,
    /// F3: REP, REPE.
    WhileEqual,
    /// F2: REPNE.
    WhileNotEqual,
}

/// Where an operand is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operand {
    /// There is none.
    None,
    /// A general-purpose register, 0 (RAX) to 15.
    Gpr(u8),
    /// Bits 15:8 of register 0 (AH) to 3 (BH).
    HighByte(u8),
    /// The memory operand.
    Memory,
    /// The immediate.
    Immediate,
    /// A segment register.
    Segment(Segment),
    /// Control register 0 to 15.
    Control(u8),
    /// Debug register 0 to 15.
    Debug(u8),
    /// XMM/YMM register 0 to 15.
    Vector(u8),
}

/// An address expression: `segment:[base + index * scale + displacement]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryOperand {
    /// The segment, override considered.
    pub segment: Segment,
    /// Base register.
    pub base: Option<u8>,
    /// Index register.
    pub index: Option<u8>,
    /// log2 of the scale, 0 to 3.
    pub scale_shift: u8,
    /// Displacement, sign-extended.
    pub displacement: u64,
    /// The base is the address of the next instruction.
    pub rip_relative: bool,
}

impl MemoryOperand {
    /// `DS:[0]`.
    pub const ZERO: MemoryOperand = MemoryOperand {
        segment: Segment::Ds,
        base: None,
        index: None,
        scale_shift: 0,
        displacement: 0,
        rip_relative: false,
    };
}

/// How a vector move treats memory and register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VectorForm {
    /// Bytes in memory: 4, 8, 16 or 32.
    pub bytes: u8,
    /// The address must be a multiple of `bytes`.
    pub aligned: bool,
    /// The data is bits 127:64 of the register.
    pub high: bool,
    /// A load leaves the rest of bits 127:0 as it is; otherwise it is zeroed.
    pub merge: bool,
    /// VEX encoding: a load zeroes the register above bit 127 (or above its 256 bits).
    pub vex: bool,
}

/// What an instruction does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the mnemonics")]
pub enum Op {
    // Data and arithmetic.
    Mov,
    Movzx,
    Movsx,
    Movbe,
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
    Inc,
    Dec,
    Neg,
    Not,
    Rol,
    Ror,
    Rcl,
    Rcr,
    Shl,
    Shr,
    Sar,
    Xchg,
    Xadd,
    Cmpxchg,
    /// CMPXCHG8B, or CMPXCHG16B if the width is a quadword.
    CmpxchgPair,
    Bt,
    Bts,
    Btr,
    Btc,
    Push,
    Pop,
    /// A near jump, to a displacement (its immediate) or to what its operand says.
    Jmp,
    // Strings.
    Movs,
    Cmps,
    Stos,
    Lods,
    Scas,
    Ins,
    Outs,
    // Vector registers.
    VectorMove(VectorForm),
    // System.
    In,
    Out,
    Clts,
    Lmsw,
    Smsw,
    Cpuid,
    Rdtsc,
    Rdtscp,
    Rdpmc,
    Rdmsr,
    Wrmsr,
    Hlt,
    Pause,
    Nop,
    Int3,
    Int1,
    Int,
    Into,
    Iret,
    Rsm,
    Invd,
    Wbinvd,
    Invlpg,
    Invlpga,
    Invpcid,
    Monitor,
    Mwait,
    Monitorx,
    Mwaitx,
    Xgetbv,
    Xsetbv,
    Xsaves,
    Xrstors,
    Clac,
    Stac,
    Swapgs,
    Rdpru,
    Vmcall,
    Vmmcall,
    Vmgexit,
    Vmrun,
    Vmload,
    Vmsave,
    Stgi,
    Clgi,
    Skinit,
    Sgdt,
    Sidt,
    Lgdt,
    Lidt,
    Sldt,
    Str,
    Lldt,
    Ltr,
    Pushf,
    Popf,
    Cli,
    Sti,
    Syscall,
    Fnop,
    Wait,
    /// A valid encoding (as far as is known) that nothing here executes; its length is right.
    Other,
}

/// A decoded instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Instruction {
    /// What it does.
    pub op: Op,
    /// Bytes, 1 to 15.
    pub length: u8,
    /// Size of the operation and of the destination.
    pub width: Width,
    /// Size of the source where it differs (MOVZX, MOVSX), else `width`.
    pub source_width: Width,
    /// Size of addresses and of the string instructions' count and index registers.
    pub address_width: Width,
    /// First operand.
    pub destination: Operand,
    /// Second operand.
    pub source: Operand,
    /// What [`Operand::Memory`] means. String instructions take only the segment of their source from it.
    pub memory: MemoryOperand,
    /// What [`Operand::Immediate`] means, sign-extended where the instruction does so.
    pub immediate: u64,
    /// Repeat prefix (meaningful for string instructions).
    pub repeat: Repeat,
    /// LOCK prefix.
    pub lock: bool,
}
