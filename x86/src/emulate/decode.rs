//! The instruction decoder: bytes to [`Instruction`]. Pure.
//!
//! Two steps: this file takes the bytes apart (prefixes, opcode, ModRM, displacement, immediates) and so knows the
//! length of everything; `classify` then says what the opcode means for the operations that Radon executes.
//! Vendor differences follow AMD (a near branch with an operand-size prefix has a 16-bit displacement in 64-bit mode).

use super::classify::classify;
use super::encoding::{self, Layout};
use super::instruction::{Instruction, MemoryOperand, Mode, Operand, Repeat, Segment, VectorForm, Width};

/// The longest instruction in bytes.
pub const MAX_LENGTH: usize = 15;

/// Why bytes are no instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// More bytes are needed (there are fewer than 15).
    Incomplete,
    /// Longer than 15 bytes: #GP(0).
    TooLong,
    /// Undefined: #UD.
    Undefined,
}

/// Opcode maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Map {
    One,
    /// 0F.
    Two,
    /// 0F 38.
    Three38,
    /// 0F 3A.
    Three3a,
    /// VEX, with its map number.
    Vex(u8),
    /// EVEX, XOP: only the length matters.
    Long,
}

/// A ModRM byte with the REX (or VEX) extensions applied to `reg` and `rm`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ModRm {
    /// The byte as it is.
    pub(super) byte: u8,
    pub(super) reg: u8,
    pub(super) rm: u8,
    pub(super) is_memory: bool,
}

/// An instruction taken apart.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    pub(super) mode: Mode,
    pub(super) map: Map,
    pub(super) opcode: u8,
    /// Any REX prefix was in effect (selects SPL..DIL over AH..BH).
    pub(super) rex: bool,
    /// REX.W or VEX.W.
    pub(super) wide: bool,
    /// REX.B, as bit 3 of a register number.
    pub(super) base_extension: u8,
    /// 66 (or VEX.pp 1).
    pub(super) operand_size_prefix: bool,
    pub(super) repeat: Repeat,
    pub(super) lock: bool,
    /// VEX.L: 256 bits.
    pub(super) vector_256: bool,
    /// VEX.vvvv is 1111b (names no register), or not VEX.
    pub(super) no_vvvv: bool,
    pub(super) operand_width: Width,
    pub(super) address_width: Width,
    pub(super) modrm: ModRm,
    /// The memory operand of ModRM or of an absolute address; for strings only its segment counts.
    pub(super) memory: MemoryOperand,
    pub(super) immediate: u64,
}

/// Decodes one instruction from the start of `bytes`; more than 15 bytes are not looked at.
///
/// # Errors
/// [`DecodeError::Incomplete`] asks for more bytes; the others are faults that the processor raises for this code.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, DecodeError> {
    let mut cursor = Cursor { bytes, at: 0 };
    let parts = split(&mut cursor, mode)?;
    let meaning = classify(&parts).ok_or(DecodeError::Undefined)?;
    let length = cursor.at as u8;
    if parts.lock && !meaning.lockable() {
        return Err(DecodeError::Undefined);
    }
    Ok(Instruction {
        op: meaning.op,
        length,
        width: meaning.width,
        source_width: meaning.source_width,
        address_width: parts.address_width,
        destination: meaning.destination,
        source: meaning.source,
        memory: parts.memory,
        immediate: meaning.immediate,
        repeat: parts.repeat,
        lock: parts.lock,
    })
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<u8, DecodeError> {
        if self.at >= MAX_LENGTH {
            return Err(DecodeError::TooLong);
        }
        let byte = *self.bytes.get(self.at).ok_or(DecodeError::Incomplete)?;
        self.at = self.at.saturating_add(1);
        Ok(byte)
    }

    fn peek(&self) -> Result<u8, DecodeError> {
        Cursor { bytes: self.bytes, at: self.at }.next()
    }

    /// A little-endian number of `bytes` (at most 8) bytes.
    fn number(&mut self, bytes: u8) -> Result<u64, DecodeError> {
        let mut value = 0_u64;
        for i in 0..u32::from(bytes.min(8)) {
            value |= u64::from(self.next()?).wrapping_shl(i.wrapping_mul(8));
        }
        Ok(value)
    }

    fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        Ok(width.sign_extend(self.number(width.bytes())?))
    }
}

/// Prefix state while it is collected.
#[derive(Clone, Copy, Default)]
struct Prefixes {
    operand_size: bool,
    address_size: bool,
    lock: bool,
    repeat: Option<Repeat>,
    segment: Option<Segment>,
    rex: u8,
}

impl Prefixes {
    fn collect(cursor: &mut Cursor<'_>, mode: Mode) -> Result<(Prefixes, u8), DecodeError> {
        let mut p = Prefixes::default();
        loop {
            let byte = cursor.next()?;
            let long = mode == Mode::Bits64;
            if long && byte & 0xf0 == 0x40 {
                p.rex = byte;
                continue;
            }
            match byte {
                // In 64-bit mode these four are ignored, and do not undo an FS or GS override.
                0x26 | 0x2e | 0x36 | 0x3e if long => {}
                0x26 => p.segment = Some(Segment::Es),
                0x2e => p.segment = Some(Segment::Cs),
                0x36 => p.segment = Some(Segment::Ss),
                0x3e => p.segment = Some(Segment::Ds),
                0x64 => p.segment = Some(Segment::Fs),
                0x65 => p.segment = Some(Segment::Gs),
                0x66 => p.operand_size = true,
                0x67 => p.address_size = true,
                0xf0 => p.lock = true,
                0xf2 => p.repeat = Some(Repeat::WhileNotEqual),
                0xf3 => p.repeat = Some(Repeat::WhileEqual),
                _ => return Ok((p, byte)),
            }
            p.rex = 0; // a REX prefix counts only right before the opcode
        }
    }
}

fn split(cursor: &mut Cursor<'_>, mode: Mode) -> Result<Parts, DecodeError> {
    let (p, mut opcode) = Prefixes::collect(cursor, mode)?;
    let long = mode == Mode::Bits64;
    let address_width = match (mode, p.address_size) {
        (Mode::Bits64, false) => Width::Qword,
        (Mode::Bits32, false) | (Mode::Bits16 | Mode::Bits64, true) => Width::Dword,
        (Mode::Bits16, false) | (Mode::Bits32, true) => Width::Word,
    };
    let mut parts = Parts {
        mode,
        map: Map::One,
        opcode,
        rex: p.rex != 0,
        wide: p.rex & 8 != 0,
        base_extension: (p.rex & 1) << 3,
        operand_size_prefix: p.operand_size,
        repeat: p.repeat.unwrap_or(Repeat::No),
        lock: p.lock,
        vector_256: false,
        no_vvvv: true,
        operand_width: Width::Dword,
        address_width,
        modrm: ModRm { byte: 0, reg: 0, rm: 0, is_memory: false },
        memory: MemoryOperand::ZERO,
        immediate: 0,
    };
    parts.memory.segment = p.segment.unwrap_or(Segment::Ds);
    // REX.R and REX.X as bit 3 of a register number.
    let mut extensions = Extensions { reg: (p.rex & 4) << 1, index: (p.rex & 2) << 2 };

    let layout: Layout = match opcode {
        0x0f => {
            opcode = cursor.next()?;
            match opcode {
                0x38 => {
                    opcode = cursor.next()?;
                    parts.map = Map::Three38;
                    encoding::MODRM
                }
                0x3a => {
                    opcode = cursor.next()?;
                    parts.map = Map::Three3a;
                    encoding::MODRM | encoding::IMM8
                }
                _ => {
                    parts.map = Map::Two;
                    let repne = parts.repeat == Repeat::WhileNotEqual;
                    encoding::two_byte(opcode, p.operand_size && parts.repeat == Repeat::No, repne)
                }
            }
        }
        0xc4 | 0xc5 | 0x62 if long || cursor.peek()? & 0xc0 == 0xc0 => {
            // The prefixes that VEX and EVEX contain may not also stand before them.
            if p.operand_size || p.repeat.is_some() || p.lock || p.rex != 0 {
                return Err(DecodeError::Undefined);
            }
            let map;
            (map, opcode) = vex_prefix(cursor, &mut parts, &mut extensions)?;
            if matches!(parts.map, Map::Vex(4..)) { encoding::UNDEFINED } else { encoding::vex(map, opcode) }
        }
        0x8f if cursor.peek()? & 0x1f >= 8 => {
            if p.operand_size || p.repeat.is_some() || p.lock || p.rex != 0 {
                return Err(DecodeError::Undefined);
            }
            let map = cursor.next()? & 0x1f;
            let _w_vvvv_l_pp = cursor.next()?;
            opcode = cursor.next()?;
            parts.map = Map::Long;
            encoding::xop(map)
        }
        _ => encoding::one_byte(opcode),
    };
    parts.opcode = opcode;
    if layout & encoding::UNDEFINED != 0 || (long && layout & encoding::NOT64 != 0) {
        return Err(DecodeError::Undefined);
    }
    parts.operand_width = match (mode, parts.operand_size_prefix) {
        (Mode::Bits64, _) if parts.wide => Width::Qword,
        (Mode::Bits64 | Mode::Bits32, false) | (Mode::Bits16, true) => Width::Dword,
        (Mode::Bits64 | Mode::Bits32, true) | (Mode::Bits16, false) => Width::Word,
    };

    let mut layout = layout;
    if layout & encoding::MODRM != 0 {
        let registers = layout & encoding::REGISTERS != 0;
        parts.modrm(cursor, extensions, registers, p.segment)?;
        if parts.map == Map::One && opcode & 0xfe == 0xf6 {
            layout |= encoding::group3(opcode, parts.modrm.byte >> 3 & 7);
        }
    }
    parts.immediates(cursor, layout)?;
    Ok(parts)
}

#[derive(Clone, Copy)]
struct Extensions {
    reg: u8,
    index: u8,
}

/// Reads the rest of a C4, C5 or 62 prefix and the opcode. Returns the map number and the opcode.
fn vex_prefix(
    cursor: &mut Cursor<'_>,
    parts: &mut Parts,
    extensions: &mut Extensions,
) -> Result<(u8, u8), DecodeError> {
    let long = parts.mode == Mode::Bits64;
    let kind = parts.opcode;
    let first = cursor.next()?;
    let map;
    let last = match kind {
        0xc5 => {
            map = 1;
            first
        }
        _ => {
            map = first & if kind == 0x62 { 7 } else { 0x1f };
            cursor.next()?
        }
    };
    // The register extension bits are stored inverted, and only count in 64-bit mode.
    if long {
        extensions.reg = (!first >> 4) & 8;
        if kind != 0xc5 {
            extensions.index = (!first >> 3) & 8;
            parts.base_extension = (!first >> 2) & 8;
        }
    }
    if kind != 0xc5 {
        parts.wide = long && last & 0x80 != 0;
    }
    if kind == 0x62 {
        cursor.next()?;
        parts.map = Map::Long;
    } else {
        parts.map = Map::Vex(map);
        parts.vector_256 = last & 4 != 0;
        parts.no_vvvv = last & 0x78 == 0x78;
    }
    match last & 3 {
        1 => parts.operand_size_prefix = true,
        2 => parts.repeat = Repeat::WhileEqual,
        3 => parts.repeat = Repeat::WhileNotEqual,
        _ => {}
    }
    Ok((map, cursor.next()?))
}

impl Parts {
    fn modrm(
        &mut self,
        cursor: &mut Cursor<'_>,
        extensions: Extensions,
        registers: bool,
        segment: Option<Segment>,
    ) -> Result<(), DecodeError> {
        let byte = cursor.next()?;
        let (mode_field, rm) = (byte >> 6, byte & 7);
        let is_memory = mode_field != 3 && !registers;
        self.modrm = ModRm { byte, reg: (byte >> 3 & 7) | extensions.reg, rm: rm | self.base_extension, is_memory };
        if !is_memory {
            return Ok(());
        }
        let m = &mut self.memory;
        let mut displacement = match mode_field {
            1 => Some(Width::Byte),
            2 if self.address_width == Width::Word => Some(Width::Word),
            2 => Some(Width::Dword),
            _ => None,
        };
        if self.address_width == Width::Word {
            const BX: u8 = 3;
            const BP: u8 = 5;
            const SI: u8 = 6;
            const DI: u8 = 7;
            (m.base, m.index) = match rm {
                0 => (Some(BX), Some(SI)),
                1 => (Some(BX), Some(DI)),
                2 => (Some(BP), Some(SI)),
                3 => (Some(BP), Some(DI)),
                4 => (Some(SI), None),
                5 => (Some(DI), None),
                6 if mode_field == 0 => {
                    displacement = Some(Width::Word);
                    (None, None)
                }
                6 => (Some(BP), None),
                _ => (Some(BX), None),
            };
            if m.base == Some(BP) && segment.is_none() {
                m.segment = Segment::Ss;
            }
        } else {
            let base_field = if rm == 4 {
                let sib = cursor.next()?;
                let index = (sib >> 3 & 7) | extensions.index;
                if index != 4 {
                    m.index = Some(index);
                    m.scale_shift = sib >> 6;
                }
                sib & 7
            } else {
                rm
            };
            if base_field == 5 && mode_field == 0 {
                displacement = Some(Width::Dword);
                m.rip_relative = rm == 5 && self.mode == Mode::Bits64;
            } else {
                let base = base_field | self.base_extension;
                m.base = Some(base);
                if matches!(base, 4 | 5) && segment.is_none() {
                    m.segment = Segment::Ss;
                }
            }
        }
        if let Some(width) = displacement {
            m.displacement = cursor.signed(width)?;
        }
        Ok(())
    }

    fn immediates(&mut self, cursor: &mut Cursor<'_>, layout: Layout) -> Result<(), DecodeError> {
        let has = |bits: Layout| layout & bits != 0;
        let z = if self.operand_width == Width::Word { Width::Word } else { Width::Dword };
        if has(encoding::IMM16) {
            self.immediate = cursor.number(2)?;
        }
        if has(encoding::IMM8) {
            self.immediate = cursor.signed(Width::Byte)?;
        }
        if has(encoding::IMM8_2) {
            cursor.next()?;
        }
        if has(encoding::IMMZ) {
            self.immediate = cursor.signed(z)?;
        }
        if has(encoding::IMM32) {
            self.immediate = cursor.signed(Width::Dword)?;
        }
        if has(encoding::IMMV) {
            self.immediate = cursor.signed(self.operand_width)?;
        }
        if has(encoding::MOFFS) {
            self.memory.displacement = cursor.number(self.address_width.bytes())?;
        }
        if has(encoding::FAR) {
            cursor.number(z.bytes())?;
            cursor.number(2)?;
        }
        Ok(())
    }
}

/// What [`classify`] says of an instruction.
#[derive(Clone, Copy)]
pub(super) struct Meaning {
    pub(super) op: super::instruction::Op,
    pub(super) width: Width,
    pub(super) source_width: Width,
    pub(super) destination: Operand,
    pub(super) source: Operand,
    pub(super) immediate: u64,
}

impl Meaning {
    /// Whether LOCK is allowed: a read-modify-write of memory.
    fn lockable(&self) -> bool {
        use super::instruction::Op;
        self.destination == Operand::Memory
            && matches!(
                self.op,
                Op::Add
                    | Op::Or
                    | Op::Adc
                    | Op::Sbb
                    | Op::And
                    | Op::Sub
                    | Op::Xor
                    | Op::Inc
                    | Op::Dec
                    | Op::Neg
                    | Op::Not
                    | Op::Xchg
                    | Op::Xadd
                    | Op::Cmpxchg
                    | Op::CmpxchgPair
                    | Op::Bts
                    | Op::Btr
                    | Op::Btc
            )
            || (self.op == Op::Mov && matches!(self.destination, Operand::Control(_)))
            || (self.op == Op::Mov && matches!(self.source, Operand::Control(_)))
    }
}

/// Shorthand for the vector forms in `classify`.
pub(super) const fn vector_form(bytes: u8, aligned: bool, vex: bool) -> VectorForm {
    VectorForm { bytes, aligned, high: false, merge: false, vex }
}
