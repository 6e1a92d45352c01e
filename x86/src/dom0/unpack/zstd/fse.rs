//! Finite state entropy: decoding tables, and how they are described. RFC 8878, section 4.1.

use super::CORRUPT;
use super::bits::{Backward, Forward};
use crate::dom0::unpack::UnpackError;
use alloc::vec;
use alloc::vec::Vec;

/// What to do in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) symbol: u8,
    /// Bits to read for the next state.
    bits: u8,
    /// What to add them to.
    base: u16,
}

/// A decoding table; its size is a power of two.
#[derive(Clone, Debug)]
pub(super) struct Table {
    cells: Vec<Cell>,
    log: u32,
}

impl Table {
    /// A table that gives one symbol for ever and reads nothing.
    pub(super) fn single(symbol: u8) -> Table {
        Table { cells: vec![Cell { symbol, bits: 0, base: 0 }], log: 0 }
    }

    /// From the probabilities of the symbols, in units of 2^-log; -1 is a probability below one unit. They must add up.
    pub(super) fn new(probabilities: &[i16], log: u32) -> Option<Table> {
        let size = 1usize.checked_shl(log)?;
        let mut cells = vec![Cell::default(); size];
        let mut high = size;
        // The next state number of each symbol.
        let mut next: Vec<u16> = Vec::with_capacity(probabilities.len());
        for (symbol, probability) in (0u8..).zip(probabilities) {
            next.push(probability.unsigned_abs());
            if *probability == -1 {
                high = high.checked_sub(1)?;
                cells.get_mut(high)?.symbol = symbol;
            }
        }
        let step = (size >> 1).checked_add(size >> 3)?.checked_add(3)?;
        let mask = size.checked_sub(1)?;
        let mut at = 0usize;
        for (symbol, probability) in (0u8..).zip(probabilities) {
            for _ in 0..*probability {
                cells.get_mut(at)?.symbol = symbol;
                at = at.wrapping_add(step) & mask;
                while at >= high {
                    at = at.wrapping_add(step) & mask;
                }
            }
        }
        for cell in &mut cells {
            let number = next.get_mut(usize::from(cell.symbol))?;
            let bits = log.checked_sub(number.checked_ilog2()?)?;
            cell.bits = bits as u8;
            cell.base = u16::try_from((u32::from(*number) << bits).checked_sub(size as u32)?).ok()?;
            *number = number.checked_add(1)?;
        }
        Some(Table { cells, log })
    }

    /// Reads a description; returns the table and what follows. `max_log` and `max_symbol` are the format's limits.
    pub(super) fn read(data: &[u8], max_log: u32, max_symbol: u8) -> Result<(Table, &[u8]), UnpackError> {
        let mut bits = Forward::new(data);
        let log = bits.take(4).saturating_add(5);
        if log > max_log {
            return Err(CORRUPT);
        }
        let mut remaining = (1i32 << log).saturating_add(1);
        let mut probabilities: Vec<i16> = Vec::with_capacity(usize::from(max_symbol).saturating_add(1));
        while remaining > 1 {
            if probabilities.len() > usize::from(max_symbol) {
                return Err(CORRUPT);
            }
            // Values up to `remaining` are coded; small ones in one bit less.
            let width = remaining.ilog2().saturating_add(1);
            let value = bits.peek(width) as i32;
            let below = (1i32 << width.saturating_sub(1)).saturating_sub(1);
            let threshold = (1i32 << width).saturating_sub(1).saturating_sub(remaining);
            let probability = if value & below < threshold {
                bits.skip(width.saturating_sub(1));
                value & below
            } else {
                bits.skip(width);
                if value > below { value.saturating_sub(threshold) } else { value }
            }
            .saturating_sub(1);
            remaining = remaining.saturating_sub(probability.abs());
            probabilities.push(probability as i16);
            if probability == 0 {
                loop {
                    let zeros = bits.take(2);
                    probabilities.extend((0..zeros).map(|_| 0));
                    if zeros < 3 {
                        break;
                    }
                    if probabilities.len() > usize::from(max_symbol) {
                        return Err(CORRUPT);
                    }
                }
            }
        }
        if remaining != 1 || probabilities.len() > usize::from(max_symbol).saturating_add(1) {
            return Err(CORRUPT);
        }
        let rest = bits.rest().ok_or(UnpackError::Truncated)?;
        Ok((Table::new(&probabilities, log).ok_or(CORRUPT)?, rest))
    }

    /// Bits of a state number.
    pub(super) fn log(&self) -> u32 {
        self.log
    }

    /// What to do in a state; states are below the table's size.
    #[inline(always)]
    pub(super) fn cell(&self, state: usize) -> Cell {
        self.cells.get(state).copied().unwrap_or_default()
    }

    /// The state after this one.
    #[inline(always)]
    pub(super) fn next(cell: Cell, bits: &mut Backward<'_>) -> usize {
        usize::from(cell.base).wrapping_add(bits.take(cell.bits.into()) as usize)
    }
}
