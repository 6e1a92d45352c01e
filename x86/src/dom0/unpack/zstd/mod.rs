//! Zstandard, decoded into one flat buffer, which is also the window: kernels are packed with windows of up to 128 MiB,
//! more than a decoder with a window of its own could keep. Touches nothing but its arguments and about 150 KiB of heap
//! (the literals of a block, and tables).
//!
//! Source: RFC 8878. Dictionaries are not supported.

mod bits;
mod fse;
mod huffman;
mod xxh64;

use super::UnpackError;
use super::copy::{STEP, copy_literals, copy_match};
use alloc::vec::Vec;
use bits::Backward;
use fse::Table;

const CORRUPT: UnpackError = UnpackError::Corrupt("invalid zstd data");
const MAGIC: u32 = 0xfd2f_b528;
/// Frames with magic numbers from here on, 16 of them, hold something else.
const SKIPPABLE: u32 = 0x184d_2a50;
/// Most bytes that a block holds.
const BLOCK: usize = 128 << 10;

/// Unpacks all frames in `input` to `out` and returns the number of bytes.
pub(super) fn unpack(input: &[u8], out: &mut [u8]) -> Result<usize, UnpackError> {
    let mut rest = input;
    let mut filled = 0usize;
    while !rest.is_empty() {
        match le(take(&mut rest, 4)?) as u32 {
            MAGIC => filled = frame(&mut rest, out, filled)?,
            magic if magic & !15 == SKIPPABLE => {
                let size = le(take(&mut rest, 4)?);
                take(&mut rest, usize::try_from(size).map_err(|_| UnpackError::Truncated)?)?;
            }
            _ => return Err(CORRUPT),
        }
    }
    Ok(filled)
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], UnpackError> {
    rest.split_off(..len).ok_or(UnpackError::Truncated)
}

fn byte(rest: &mut &[u8]) -> Result<u8, UnpackError> {
    rest.split_off_first().copied().ok_or(UnpackError::Truncated)
}

fn le(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| (n << 8) | u64::from(*b))
}

fn frame(rest: &mut &[u8], out: &mut [u8], start: usize) -> Result<usize, UnpackError> {
    let descriptor = byte(rest)?;
    let single = descriptor & 0x20 != 0;
    if descriptor & 8 != 0 {
        return Err(UnpackError::Unsupported("the zstd frame uses a reserved feature"));
    }
    if !single {
        byte(rest)?;
    }
    let dictionary = take(
        rest,
        match descriptor & 3 {
            3 => 4,
            n => n.into(),
        },
    )?;
    if le(dictionary) != 0 {
        return Err(UnpackError::Unsupported("the zstd data needs a dictionary"));
    }
    take(
        rest,
        match (descriptor >> 6, single) {
            (0, false) => 0,
            (0, true) => 1,
            (n, _) => 1 << n,
        },
    )?;
    let mut decoder = Decoder::new(start);
    let mut filled = start;
    loop {
        let header = le(take(rest, 3)?) as usize;
        let (last, kind, size) = (header & 1 != 0, header >> 1 & 3, header >> 3);
        if size > BLOCK {
            return Err(CORRUPT);
        }
        match kind {
            0 => {
                copy_literals(out, filled, take(rest, size)?, size).ok_or(UnpackError::TooLarge)?;
                filled = filled.saturating_add(size);
            }
            1 => {
                let value = byte(rest)?;
                let end = filled.saturating_add(size);
                out.get_mut(filled..end).ok_or(UnpackError::TooLarge)?.fill(value);
                filled = end;
            }
            2 => filled = decoder.block(take(rest, size)?, out, filled)?,
            _ => return Err(CORRUPT),
        }
        if last {
            break;
        }
    }
    if descriptor & 4 != 0 {
        let content = out.get(start..filled).ok_or(UnpackError::TooLarge)?;
        if xxh64::xxh64(content) as u32 != le(take(rest, 4)?) as u32 {
            return Err(UnpackError::Checksum("zstd data"));
        }
    }
    Ok(filled)
}

/// The three kinds of numbers in a sequence.
#[derive(Clone, Copy)]
enum Kind {
    LiteralLength,
    Offset,
    MatchLength,
}

impl Kind {
    /// The probabilities of the table that needs no description, and log2 of their sum.
    fn predefined(self) -> (&'static [i16], u32) {
        match self {
            Kind::LiteralLength => (
                &[
                    4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1,
                    -1, -1, -1,
                ],
                6,
            ),
            Kind::Offset => {
                (&[1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1], 5)
            }
            Kind::MatchLength => (
                &[
                    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
                ],
                6,
            ),
        }
    }

    /// The largest table (log2) and the largest symbol.
    fn limits(self) -> (u32, u8) {
        match self {
            Kind::LiteralLength => (9, 35),
            Kind::Offset => (8, 31),
            Kind::MatchLength => (9, 52),
        }
    }
}

/// Where the literal lengths of each code begin, and how many bits follow.
const LITERAL_LENGTHS: [(u32, u8); 36] = {
    let bits: [u8; 36] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        16,
    ];
    ranges(bits, 0)
};
/// The same for match lengths.
const MATCH_LENGTHS: [(u32, u8); 53] = {
    let bits: [u8; 53] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2,
        2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16,
    ];
    ranges(bits, 3)
};

/// Consecutive ranges of numbers of the given widths in bits.
#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "evaluated by the compiler, which would refuse"
)]
const fn ranges<const N: usize>(bits: [u8; N], first: u32) -> [(u32, u8); N] {
    let mut out = [(0, 0); N];
    let (mut base, mut code) = (first, 0);
    while code < N {
        out[code] = (base, bits[code]);
        base += 1 << bits[code];
        code += 1;
    }
    out
}

/// What blocks of a frame inherit.
struct Decoder {
    /// Where the frame's content begins in the output.
    start: usize,
    literals: Vec<u8>,
    huffman: Option<huffman::Table>,
    tables: [Option<Table>; 3],
    /// The last three distances.
    recent: [usize; 3],
}

impl Decoder {
    fn new(start: usize) -> Decoder {
        Decoder { start, literals: Vec::new(), huffman: None, tables: [None, None, None], recent: [1, 4, 8] }
    }

    /// Decodes a compressed block to `out` from `filled` on; returns where it ends.
    fn block(&mut self, data: &[u8], out: &mut [u8], filled: usize) -> Result<usize, UnpackError> {
        let mut rest = data;
        let count = self.read_literals(&mut rest)?;
        let sequences = match byte(&mut rest)? {
            low @ 0..=127 => usize::from(low),
            255 => (le(take(&mut rest, 2)?) as usize).saturating_add(0x7f00),
            high => usize::from(high & 0x7f) << 8 | usize::from(byte(&mut rest)?),
        };
        let (mut pos, mut used) = (filled, 0usize);
        if sequences != 0 {
            let modes = byte(&mut rest)?;
            if modes & 3 != 0 {
                return Err(CORRUPT);
            }
            for (index, kind) in [Kind::LiteralLength, Kind::Offset, Kind::MatchLength].into_iter().enumerate() {
                let mode = modes.wrapping_shr(6u32.wrapping_sub(2u32.wrapping_mul(index as u32))) & 3;
                let slot = self.tables.get_mut(index).ok_or(CORRUPT)?;
                read_table(slot, kind, mode, &mut rest)?;
            }
            (pos, used) = self.sequences(sequences, rest, out, filled, count)?;
        } else if !rest.is_empty() {
            return Err(CORRUPT);
        }
        // Literals that no sequence took come last.
        let len = count.checked_sub(used).ok_or(CORRUPT)?;
        let from = self.literals.get(used..).ok_or(CORRUPT)?;
        copy_literals(out, pos, from, len).ok_or(UnpackError::TooLarge)?;
        let end = pos.saturating_add(len);
        if end.saturating_sub(filled) > BLOCK {
            return Err(CORRUPT);
        }
        Ok(end)
    }

    /// Decodes the literals section to `self.literals`; returns their number. Room for copying in steps follows them.
    fn read_literals(&mut self, rest: &mut &[u8]) -> Result<usize, UnpackError> {
        let first = rest.first().copied().ok_or(UnpackError::Truncated)?;
        let (kind, format) = (first & 3, first >> 2 & 3);
        self.literals.resize(BLOCK.saturating_add(STEP), 0);
        if kind < 2 {
            let (len, shift) = match format {
                1 => (2, 4),
                3 => (3, 4),
                _ => (1, 3),
            };
            let count = (le(take(rest, len)?) >> shift) as usize;
            let place = self.literals.get_mut(..count).filter(|_| count <= BLOCK).ok_or(CORRUPT)?;
            if kind == 0 {
                place.copy_from_slice(take(rest, count)?);
            } else {
                place.fill(byte(rest)?);
            }
            return Ok(count);
        }
        let (len, bits, streams) = match format {
            0 => (3, 10, 1usize),
            1 => (3, 10, 4),
            2 => (4, 14, 4),
            _ => (5, 18, 4),
        };
        let header = le(take(rest, len)?) >> 4;
        let mask = (1u64 << bits).saturating_sub(1);
        let (count, packed) = ((header & mask) as usize, (header.wrapping_shr(bits) & mask) as usize);
        let mut data = take(rest, packed)?;
        if kind == 2 {
            let (table, more) = huffman::Table::read(data)?;
            self.huffman = Some(table);
            data = more;
        }
        let table = self.huffman.as_ref().ok_or(CORRUPT)?;
        let place = self.literals.get_mut(..count).filter(|_| count <= BLOCK).ok_or(CORRUPT)?;
        if streams == 1 {
            table.decode(data, place)?;
            return Ok(count);
        }
        let sizes = take(&mut data, 6)?;
        let each = count.div_ceil(4).max(1);
        let mut parts = place.chunks_mut(each);
        for size in sizes.chunks_exact(2) {
            table.decode(take(&mut data, le(size) as usize)?, parts.next().ok_or(CORRUPT)?)?;
        }
        table.decode(data, parts.next().ok_or(CORRUPT)?)?;
        Ok(count)
    }

    /// Executes a block's sequences; returns where in the output they end and how many literals they took.
    fn sequences(
        &mut self,
        number: usize,
        data: &[u8],
        out: &mut [u8],
        filled: usize,
        count: usize,
    ) -> Result<(usize, usize), UnpackError> {
        let [Some(lengths), Some(offsets), Some(matches)] = &self.tables else { return Err(CORRUPT) };
        let literals = self.literals.get(..count.saturating_add(STEP)).ok_or(CORRUPT)?;
        let limit = filled.saturating_add(BLOCK).min(out.len());
        let mut bits = Backward::new(data).ok_or(CORRUPT)?;
        let mut length_state = bits.take(lengths.log()) as usize;
        let mut offset_state = bits.take(offsets.log()) as usize;
        let mut match_state = bits.take(matches.log()) as usize;
        let (mut pos, mut used) = (filled, 0usize);
        for left in (0..number).rev() {
            let (length, offset, matched) =
                (lengths.cell(length_state), offsets.cell(offset_state), matches.cell(match_state));
            // At most 31 and 16 bits, then 16 and 9, 9 and 8.
            bits.refill();
            let offset_bits = u32::from(offset.symbol & 31);
            let value = (1usize << offset_bits).wrapping_add(bits.take(offset_bits) as usize);
            let (base, extra) = MATCH_LENGTHS.get(usize::from(matched.symbol)).copied().unwrap_or((0, 0));
            let match_length = (base as usize).wrapping_add(bits.take(extra.into()) as usize);
            bits.refill();
            let (base, extra) = LITERAL_LENGTHS.get(usize::from(length.symbol)).copied().unwrap_or((0, 0));
            let literal_length = (base as usize).wrapping_add(bits.take(extra.into()) as usize);
            if left != 0 {
                length_state = Table::next(length, &mut bits);
                match_state = Table::next(matched, &mut bits);
                offset_state = Table::next(offset, &mut bits);
            }
            if bits.left() < 0 {
                return Err(CORRUPT);
            }

            let [first, second, third] = self.recent;
            let distance = match (value, literal_length) {
                (1, 1..) => first,
                (1, 0) | (2, 1..) => second,
                (2, 0) | (3, 1..) => third,
                (3, 0) => first.wrapping_sub(1),
                _ => value.wrapping_sub(3),
            };
            self.recent = match (value, literal_length) {
                (1, 1..) => self.recent,
                (1, 0) | (2, 1..) => [distance, first, third],
                _ => [distance, first, second],
            };

            let next = used.wrapping_add(literal_length);
            let from = pos.wrapping_add(literal_length);
            let end = from.wrapping_add(match_length);
            if next > count || end > limit || distance == 0 || distance > from.wrapping_sub(self.start) {
                return Err(if end > out.len() { UnpackError::TooLarge } else { CORRUPT });
            }
            let source = literals.get(used..).ok_or(CORRUPT)?;
            copy_literals(out, pos, source, literal_length).ok_or(UnpackError::TooLarge)?;
            copy_match(out, from, distance, match_length);
            (pos, used) = (end, next);
        }
        if bits.left() != 0 {
            return Err(CORRUPT);
        }
        Ok((pos, used))
    }
}

/// Makes the table for one kind of number as the block says.
fn read_table(slot: &mut Option<Table>, kind: Kind, mode: u8, rest: &mut &[u8]) -> Result<(), UnpackError> {
    let (max_log, max_symbol) = kind.limits();
    match mode {
        0 => {
            let (probabilities, log) = kind.predefined();
            *slot = Table::new(probabilities, log);
        }
        1 => {
            let symbol = byte(rest)?;
            if symbol > max_symbol {
                return Err(CORRUPT);
            }
            *slot = Some(Table::single(symbol));
        }
        2 => {
            let (table, more) = Table::read(rest, max_log, max_symbol)?;
            *slot = Some(table);
            *rest = more;
        }
        _ => {}
    }
    if slot.is_some() { Ok(()) } else { Err(CORRUPT) }
}
