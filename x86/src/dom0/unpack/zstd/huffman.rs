//! Huffman coded literals. RFC 8878, section 4.2.

use super::CORRUPT;
use super::bits::Backward;
use super::fse::Table as FseTable;
use crate::dom0::unpack::UnpackError;
use alloc::vec;
use alloc::vec::Vec;
use arrayvec::ArrayVec;

/// Longest code.
const MAX_BITS: u32 = 11;

/// A decoding table: for each `bits` next bits, the symbol (low byte) and the length of its code (high byte).
#[derive(Clone, Debug)]
pub(super) struct Table {
    cells: Vec<u16>,
    bits: u32,
}

impl Table {
    /// Reads a description; returns the table and what follows.
    pub(super) fn read(data: &[u8]) -> Result<(Table, &[u8]), UnpackError> {
        let (&header, rest) = data.split_first().ok_or(UnpackError::Truncated)?;
        let mut weights: ArrayVec<u8, 256> = ArrayVec::new();
        let rest = if header < 128 {
            let (packed, rest) = rest.split_at_checked(header.into()).ok_or(UnpackError::Truncated)?;
            read_weights(packed, &mut weights)?;
            rest
        } else {
            let count = usize::from(header).saturating_sub(127);
            let (packed, rest) = rest.split_at_checked(count.div_ceil(2)).ok_or(UnpackError::Truncated)?;
            let halves = packed.iter().flat_map(|b| [b >> 4, b & 15]);
            weights.extend(halves.take(count));
            rest
        };
        Ok((Table::new(&mut weights).ok_or(CORRUPT)?, rest))
    }

    /// From the weights of all symbols but the last, whose weight follows from the others.
    fn new(weights: &mut ArrayVec<u8, 256>) -> Option<Table> {
        let share = |w: u8| if w == 0 { Some(0) } else { 1u32.checked_shl(u32::from(w).wrapping_sub(1)) };
        let sum =
            weights.iter().try_fold(0u32, |sum, w| sum.checked_add(share(*w).filter(|s| *s <= 1 << MAX_BITS)?))?;
        let bits = sum.checked_ilog2()?.checked_add(1)?;
        if bits > MAX_BITS {
            return None;
        }
        let last = (1u32 << bits).checked_sub(sum).filter(|l| l.is_power_of_two())?;
        weights.try_push(last.ilog2().checked_add(1)? as u8).ok()?;
        // Longer codes (smaller weights) come first.
        let mut cells = vec![0u16; 1 << bits];
        let mut at = 0usize;
        for weight in 1..=bits as u8 {
            let length = bits.checked_add(1)?.checked_sub(weight.into())?;
            for (symbol, _) in (0u16..).zip(weights.iter()).filter(|(_, w)| **w == weight) {
                let end = at.checked_add(share(weight)? as usize)?;
                cells.get_mut(at..end)?.fill((length as u16) << 8 | symbol);
                at = end;
            }
        }
        Some(Table { cells, bits })
    }

    /// Decodes one stream to the whole of `out`.
    pub(super) fn decode(&self, data: &[u8], out: &mut [u8]) -> Result<(), UnpackError> {
        let mut bits = Backward::new(data).ok_or(CORRUPT)?;
        // Five codes of at most eleven bits fit a refill.
        let (groups, rest) = out.as_chunks_mut::<5>();
        for group in groups {
            bits.refill();
            for place in group {
                *place = self.symbol(&mut bits);
            }
        }
        bits.refill();
        for place in rest {
            *place = self.symbol(&mut bits);
        }
        if bits.left() == 0 { Ok(()) } else { Err(CORRUPT) }
    }

    #[inline(always)]
    fn symbol(&self, bits: &mut Backward<'_>) -> u8 {
        let cell = self.cells.get(bits.peek(self.bits) as usize).copied().unwrap_or(0);
        bits.skip(u32::from(cell >> 8));
        cell as u8
    }
}

/// Weights are coded with two alternating states over one table.
fn read_weights(packed: &[u8], weights: &mut ArrayVec<u8, 256>) -> Result<(), UnpackError> {
    let (table, rest) = FseTable::read(packed, 6, 255)?;
    let mut bits = Backward::new(rest).ok_or(CORRUPT)?;
    let mut states = [0usize; 2];
    for state in &mut states {
        *state = bits.take(table.log()) as usize;
    }
    if bits.left() < 0 {
        return Err(CORRUPT);
    }
    // It ends when a state would need bits that are not there; then the other's symbol is the last.
    loop {
        let [now, other] = states;
        let cell = table.cell(now);
        weights.try_push(cell.symbol).map_err(|_| CORRUPT)?;
        bits.refill();
        let next = FseTable::next(cell, &mut bits);
        if bits.left() < 0 {
            return weights.try_push(table.cell(other).symbol).map_err(|_| CORRUPT);
        }
        states = [other, next];
    }
}
