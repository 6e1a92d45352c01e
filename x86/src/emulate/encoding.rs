//! What follows each opcode: a ModRM byte, immediates, nothing. One function per opcode map, so that the length of every
//! instruction is known, also of those that nothing here executes (AMD64 manual volume 3, appendix A).

/// Bit set: what follows an opcode.
pub(super) type Layout = u16;

/// Nothing follows.
pub(super) const NONE: Layout = 0;
/// A ModRM byte with what belongs to it.
pub(super) const MODRM: Layout = 1 << 0;
/// An 8-bit immediate or displacement.
pub(super) const IMM8: Layout = 1 << 1;
/// A 16-bit immediate.
pub(super) const IMM16: Layout = 1 << 2;
/// A 16- or 32-bit immediate, by operand size.
pub(super) const IMMZ: Layout = 1 << 3;
/// A 16-, 32- or 64-bit immediate, by operand size.
pub(super) const IMMV: Layout = 1 << 4;
/// An absolute address of address size.
pub(super) const MOFFS: Layout = 1 << 5;
/// A far pointer: offset of operand size, then a selector.
pub(super) const FAR: Layout = 1 << 6;
/// Another 8-bit immediate.
pub(super) const IMM8_2: Layout = 1 << 7;
/// A 32-bit immediate.
pub(super) const IMM32: Layout = 1 << 8;
/// ModRM always names registers, whatever its mod field says (MOV to and from control and debug registers).
pub(super) const REGISTERS: Layout = 1 << 9;
/// Undefined in 64-bit mode.
pub(super) const NOT64: Layout = 1 << 10;
/// Undefined.
pub(super) const UNDEFINED: Layout = 1 << 11;

/// One-byte opcodes. Prefixes, the 0F escape and, where they are such, VEX/EVEX/XOP and REX are taken off before.
pub(super) const fn one_byte(opcode: u8) -> Layout {
    match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => MODRM,
            4 => IMM8,
            5 => IMMZ,
            _ => NOT64,
        },
        0x40..=0x5f => NONE,
        0x60 | 0x61 => NOT64,
        0x62 => MODRM | NOT64,
        0x63 => MODRM,
        0x64..=0x67 => UNDEFINED, // prefixes
        0x68 => IMMZ,
        0x69 => MODRM | IMMZ,
        0x6a => IMM8,
        0x6b => MODRM | IMM8,
        0x6c..=0x6f => NONE,
        0x70..=0x7f => IMM8,
        0x80 | 0x83 => MODRM | IMM8,
        0x81 => MODRM | IMMZ,
        0x82 => MODRM | IMM8 | NOT64,
        0x84..=0x8f => MODRM,
        0x90..=0x99 => NONE,
        0x9a => FAR | NOT64,
        0x9b..=0x9f => NONE,
        0xa0..=0xa3 => MOFFS,
        0xa4..=0xa7 => NONE,
        0xa8 => IMM8,
        0xa9 => IMMZ,
        0xaa..=0xaf => NONE,
        0xb0..=0xb7 => IMM8,
        0xb8..=0xbf => IMMV,
        0xc0 | 0xc1 | 0xc6 => MODRM | IMM8,
        0xc2 | 0xca => IMM16,
        0xc3 | 0xc9 | 0xcb | 0xcc | 0xcf => NONE,
        0xc4 | 0xc5 => MODRM | NOT64,
        0xc7 => MODRM | IMMZ,
        0xc8 => IMM16 | IMM8,
        0xcd => IMM8,
        0xce => NOT64,
        0xd0..=0xd3 => MODRM,
        0xd4 | 0xd5 => IMM8 | NOT64,
        0xd6 => NOT64,
        0xd7 => NONE,
        0xd8..=0xdf => MODRM,
        0xe0..=0xe7 | 0xeb => IMM8,
        0xe8 | 0xe9 => IMMZ,
        0xea => FAR | NOT64,
        0xec..=0xef | 0xf1 | 0xf4 | 0xf5 => NONE,
        0xf0 | 0xf2 | 0xf3 => UNDEFINED, // prefixes
        0xf6 | 0xf7 => MODRM,            // TEST has an immediate: see `group3`
        0xf8..=0xfd => NONE,
        0xfe | 0xff => MODRM,
    }
}

/// The immediate of opcodes F6 and F7, whose form TEST (ModRM.reg 0 or 1) alone has one.
pub(super) const fn group3(opcode: u8, reg: u8) -> Layout {
    match (opcode, reg) {
        (0xf6, 0 | 1) => IMM8,
        (_, 0 | 1) => IMMZ,
        _ => NONE,
    }
}

/// Two-byte opcodes (0F xx). The escapes 38 and 3A are taken off before.
pub(super) const fn two_byte(opcode: u8, operand_size_prefix: bool, repne: bool) -> Layout {
    match opcode {
        0x04 | 0x0a | 0x0c | 0x25 | 0x27 | 0x36 | 0x38..=0x3f | 0xa6 | 0xa7 => UNDEFINED,
        0x24 | 0x26 => UNDEFINED, // test registers of the 486
        0x05..=0x09 | 0x0b | 0x0e | 0x30..=0x35 | 0x37 | 0x77 => NONE,
        0x0f => MODRM | IMM8, // 3DNow!: the immediate is the opcode
        0x20..=0x23 => MODRM | REGISTERS,
        0x70..=0x73 => MODRM | IMM8,
        0x78 if operand_size_prefix || repne => MODRM | IMM8 | IMM8_2, // EXTRQ, INSERTQ
        0x80..=0x8f => IMMZ,
        0xff => NONE, // UD0: AMD's has no ModRM byte
        0xa0..=0xa2 | 0xa8..=0xaa | 0xc8..=0xcf => NONE,
        0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => MODRM | IMM8,
        _ => MODRM,
    }
}

/// VEX and EVEX opcodes by map (1: 0F, 2: 0F38, 3: 0F3A, 5 and 6: half precision).
pub(super) const fn vex(map: u8, opcode: u8) -> Layout {
    match map {
        1 => match opcode {
            0x77 => NONE,
            0x70..=0x73 | 0xc2 | 0xc4..=0xc6 => MODRM | IMM8,
            _ => MODRM,
        },
        2 | 5 | 6 => MODRM,
        3 => MODRM | IMM8,
        _ => UNDEFINED,
    }
}

/// XOP opcodes by map.
pub(super) const fn xop(map: u8) -> Layout {
    match map {
        8 => MODRM | IMM8,
        9 => MODRM,
        10 => MODRM | IMM32,
        _ => UNDEFINED,
    }
}
