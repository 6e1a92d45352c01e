//! LZMA2 decoding into one flat buffer, which is also the dictionary.
//!
//! Unpacking the dom0 kernel is most of the work of a boot, so this decoder is written for few instructions: the whole
//! output is addressable (no ring buffer, no second copy), the range coder's state stays in registers, and matches are
//! copied sixteen bytes at a time. Touches nothing but its arguments and about 300 KiB of heap for the probabilities.
//!
//! Each bit ends in one of two pieces of code that the compiler would like to merge, at the price of more instructions. It
//! does not because one of them writes the probability with an atomic store, which on x86 is the same instruction.
//!
//! Source: the LZMA specification that comes with the LZMA SDK (public domain) and the .xz file format 1.1.
//!
//! Invariants: a damaged stream ends in an error, never a panic; each decoded symbol consumes input or produces output,
//! so the work is bounded by the sizes of both.

use super::UnpackError;
use super::copy::copy_match;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, Ordering};
use zerocopy::{FromBytes, IntoBytes, KnownLayout};

/// Certainty.
const ONE: u16 = 2048;
/// A probability of one half, in units of 1/2048.
const HALF: u16 = 1024;

#[derive(FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
struct LengthModel {
    choice: [AtomicU16; 1],
    choice_2: [AtomicU16; 1],
    low: [[AtomicU16; 8]; 16],
    mid: [[AtomicU16; 8]; 16],
    high: [AtomicU16; 256],
}

/// A value for each probability; only those below [`ONE`] matter, the rest spares bounds checks.
type Next = [u16; 1 << 16];

/// All adaptive probabilities of the model. Arrays are padded to powers of two, so that masked indices are in range.
#[derive(FromBytes, IntoBytes, KnownLayout)]
#[repr(C)]
struct Model {
    literal: [[AtomicU16; 0x400]; 16],
    is_match: [AtomicU16; 256],
    is_rep0_long: [AtomicU16; 256],
    is_rep: [AtomicU16; 16],
    is_rep0: [AtomicU16; 16],
    is_rep1: [AtomicU16; 16],
    is_rep2: [AtomicU16; 16],
    slot: [[AtomicU16; 64]; 4],
    special: [AtomicU16; 128],
    align: [AtomicU16; 16],
    match_len: LengthModel,
    rep_len: LengthModel,
    /// What a probability becomes after a zero and a one: looking it up takes fewer instructions than computing it.
    zero: Next,
    one: Next,
}

/// What survives from chunk to chunk of an LZMA2 stream besides the probabilities.
struct Coder {
    /// 0..=11: what the last few symbols were.
    state: usize,
    /// The last four match distances, less one.
    reps: [u32; 4],
    /// Literal context bits (from the previous byte).
    lc: u32,
    /// Literal position bits.
    lp: u32,
    /// Position bits.
    pb: u32,
}

const AFTER_LITERAL: [u8; 16] = [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 4, 5, 0, 0, 0, 0];

/// Decodes an LZMA2 stream from the front of `input` into `out`, from its beginning.
///
/// Returns how many bytes of `input` the stream took and how many of `out` it filled. `out` may be longer than the
/// data; bytes behind the end may be overwritten.
pub(super) fn decode(input: &[u8], out: &mut [u8]) -> Result<(usize, usize), UnpackError> {
    let mut store: Vec<u16> = vec![HALF; size_of::<Model>() / 2];
    for p in 0..ONE {
        let Ok(Model { zero, one, .. }) = Model::mut_from_bytes(store.as_mut_bytes()) else { break };
        let (after_zero, after_one) = (p.wrapping_add(ONE.wrapping_sub(p) >> 5), p.wrapping_sub(p >> 5));
        let places = zero.get_mut(usize::from(p)).zip(one.get_mut(usize::from(p)));
        if let Some((zero, one)) = places {
            (*zero, *one) = (after_zero, after_one);
        }
    }
    let mut coder = Coder { state: 0, reps: [0; 4], lc: 0, lp: 0, pb: 0 };
    let mut rest = input;
    let mut filled = 0usize;
    // What must be reset before the next chunk: a stream begins with a new dictionary and new properties.
    let (mut need_dictionary, mut need_properties, mut need_state) = (true, true, true);
    loop {
        let control = take(&mut rest, 1)?.first().copied().unwrap_or(0);
        if control == 0 {
            return Ok((input.len().saturating_sub(rest.len()), filled));
        }
        if control == 1 || control >= 0xe0 {
            // The dictionary restarts; the buffer is flat, so only a check on later distances would notice. Kernels
            // have one dictionary, which begins with the data.
            if filled != 0 {
                return Err(UnpackError::Corrupt("the dictionary is reset within the data"));
            }
            need_dictionary = false;
        } else if need_dictionary {
            return Err(UnpackError::Corrupt("the first LZMA2 chunk does not reset the dictionary"));
        }
        if control < 0x80 {
            if control > 2 {
                return Err(UnpackError::Corrupt("unknown LZMA2 chunk"));
            }
            let size = usize::from(be16(take(&mut rest, 2)?)).saturating_add(1);
            let from = take(&mut rest, size)?;
            let end = filled.saturating_add(size);
            let to = out.get_mut(filled..end).ok_or(UnpackError::TooLarge)?;
            to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            filled = end;
            continue;
        }
        let size = (usize::from(control & 0x1f) << 16)
            .saturating_add(usize::from(be16(take(&mut rest, 2)?)))
            .saturating_add(1);
        let packed = usize::from(be16(take(&mut rest, 2)?)).saturating_add(1);
        if control >= 0xc0 {
            let properties = take(&mut rest, 1)?.first().copied().unwrap_or(0);
            coder.lc = u32::from(properties % 9);
            coder.lp = u32::from(properties / 9 % 5);
            coder.pb = u32::from(properties / 45);
            if coder.pb > 4 || coder.lc.saturating_add(coder.lp) > 4 {
                return Err(UnpackError::Corrupt("invalid LZMA properties"));
            }
            need_properties = false;
        }
        if control >= 0xa0 {
            let adaptive = store.len().saturating_sub(size_of::<Next>());
            store.iter_mut().take(adaptive).for_each(|p| *p = HALF);
            coder.state = 0;
            coder.reps = [0; 4];
            need_state = false;
        }
        if need_properties || need_state {
            return Err(UnpackError::Corrupt("the first LZMA2 chunk does not set up the decoder"));
        }
        let end = filled.saturating_add(size);
        if end > out.len() {
            return Err(UnpackError::TooLarge);
        }
        let Ok(model) = Model::mut_from_bytes(store.as_mut_bytes()) else {
            return Err(UnpackError::Corrupt("no room for the LZMA model"));
        };
        chunk(model, &mut coder, take(&mut rest, packed)?, out, filled, end)?;
        filled = end;
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], UnpackError> {
    rest.split_off(..len).ok_or(UnpackError::Truncated)
}

fn be16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |n, b| (n << 8) | u16::from(*b))
}

/// Says that the place where it is called is seldom reached.
#[cold]
#[inline(always)]
fn cold() {}

/// Decodes one LZMA chunk into `out[start..end]`; the bytes before `start` are the dictionary.
#[allow(unused_assignments, reason = "the last of a series of bits updates what only the next one would read")]
#[expect(
    clippy::indexing_slicing,
    reason = "every dynamic index is into a fixed array and masked to its length, which keeps bounds checks out of the \
              hottest loop of a boot"
)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "positions are below out.len(), symbols below 1024 and shifts below 32; what input can wrap uses wrapping_*"
)]
fn chunk(
    model: &mut Model,
    coder: &mut Coder,
    packed: &[u8],
    out: &mut [u8],
    start: usize,
    end: usize,
) -> Result<(), UnpackError> {
    const CORRUPT: UnpackError = UnpackError::Corrupt("invalid LZMA data");
    let (head, body) = packed.split_first_chunk::<5>().ok_or(UnpackError::Truncated)?;
    let mut input = body.iter();
    let mut range = u32::MAX;
    let mut code = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let mut state = coder.state;
    let [mut rep0, mut rep1, mut rep2, mut rep3] = coder.reps;
    let position_mask = (1usize << (coder.pb & 7)) - 1;
    let lc = coder.lc & 7;
    // Of a number that has the position above the previous byte: the bits that choose the tree of a literal.
    let literal_mask = ((0x100usize << (coder.lp & 7)) - 1) & !(0xff >> lc);
    let mut pos = start;

    // Makes room in the range, so that the next bit can be decoded.
    macro_rules! normalize {
        () => {
            if range < 1 << 24 {
                cold();
                let Some(byte) = input.next() else { return Err(CORRUPT) };
                range <<= 8;
                code = (code << 8) | u32::from(*byte);
            }
        };
    }
    // Decodes one bit with an adaptive probability; the two expressions say what a zero and a one mean.
    macro_rules! bit {
        ($probability:expr, $zero:expr, $one:expr) => {{
            normalize!();
            let probability: &mut AtomicU16 = &mut $probability;
            // 31..=2017.
            let old = *probability.get_mut();
            let p = u32::from(old);
            let bound = (range >> 11).wrapping_mul(p);
            if code < bound {
                range = bound;
                probability.store(model.zero[usize::from(old)], Ordering::Relaxed);
                $zero
            } else {
                range -= bound;
                code -= bound;
                *probability.get_mut() = model.one[usize::from(old)];
                $one
            }
        }};
    }
    // One level down a binary tree of probabilities.
    macro_rules! descend {
        ($tree:expr, $node:ident, $mask:literal) => {
            bit!($tree[$node & $mask], $node <<= 1, $node = ($node << 1) | 1)
        };
    }
    macro_rules! length {
        ($model:expr, $position:expr) => {{
            let lengths: &mut LengthModel = &mut $model;
            let mut node = 1usize;
            bit!(
                lengths.choice[0],
                {
                    let tree = &mut lengths.low[$position & 15];
                    descend!(tree, node, 7);
                    descend!(tree, node, 7);
                    descend!(tree, node, 7);
                    node - 8 + 2
                },
                bit!(
                    lengths.choice_2[0],
                    {
                        let tree = &mut lengths.mid[$position & 15];
                        descend!(tree, node, 7);
                        descend!(tree, node, 7);
                        descend!(tree, node, 7);
                        node - 8 + 10
                    },
                    {
                        while node < 256 {
                            descend!(lengths.high, node, 255);
                        }
                        node - 256 + 18
                    }
                )
            )
        }};
    }

    while pos < end {
        let position = pos & position_mask;
        if bit!(model.is_match[((state << 4) | position) & 255], true, false) {
            let previous = out.get(pos.wrapping_sub(1)).copied().unwrap_or(0);
            let context = ((((pos << 8) | usize::from(previous)) & literal_mask) << lc) >> 8 & 15;
            let tree = &mut model.literal[context];
            let mut node = 1usize;
            if state >= 7 {
                // After a match the byte differs from the one the match would have continued with: as long as the
                // bits agree, that byte selects the tree.
                let Some(expected) = out.get(pos.wrapping_sub(rep0 as usize + 1)) else { return Err(CORRUPT) };
                let mut expected = usize::from(*expected);
                // 0x100 as long as all bits agreed, then 0.
                let mut agree = 0x100usize;
                macro_rules! matched {
                    () => {
                        expected <<= 1;
                        let want = expected & agree;
                        bit!(
                            tree[(agree + want + node) & 0x3ff],
                            {
                                node <<= 1;
                                agree ^= want;
                            },
                            {
                                node = (node << 1) | 1;
                                agree = want;
                            }
                        );
                    };
                }
                matched!();
                matched!();
                matched!();
                matched!();
                matched!();
                matched!();
                matched!();
                matched!();
            } else {
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
                descend!(tree, node, 0xff);
            }
            let Some(to) = out.get_mut(pos) else { return Err(CORRUPT) };
            *to = node as u8;
            pos += 1;
            state = usize::from(AFTER_LITERAL[state & 15]);
            continue;
        }

        let after_literal = state < 7;
        let len: usize;
        if bit!(model.is_rep[state & 15], true, false) {
            (rep3, rep2, rep1) = (rep2, rep1, rep0);
            len = length!(model.match_len, position);
            state = if after_literal { 7 } else { 10 };
            let tree = &mut model.slot[(len - 2).min(3)];
            let mut node = 1usize;
            descend!(tree, node, 63);
            descend!(tree, node, 63);
            descend!(tree, node, 63);
            descend!(tree, node, 63);
            descend!(tree, node, 63);
            descend!(tree, node, 63);
            let slot = (node - 64) as u32;
            rep0 = slot;
            if slot >= 4 {
                let low_bits = ((slot >> 1) - 1) & 31;
                rep0 = (2 | (slot & 1)) << low_bits;
                let mut node = 1usize;
                if slot < 14 {
                    let base = (rep0 - slot) as usize;
                    let mut value = 1;
                    let stop = 1 << low_bits;
                    while value < stop {
                        bit!(model.special[(base + node) & 127], node <<= 1, {
                            node = (node << 1) | 1;
                            rep0 |= value;
                        });
                        value <<= 1;
                    }
                } else {
                    // The middle bits are equally likely zero or one and not modelled.
                    let mut direct = 0u32;
                    for _ in 4..low_bits {
                        if range < 1 << 24 {
                            let Some(byte) = input.next() else { return Err(CORRUPT) };
                            range <<= 8;
                            code = (code << 8) | u32::from(*byte);
                        }
                        range >>= 1;
                        // All ones if the bit is zero.
                        let difference = code.wrapping_sub(range);
                        let zero = (difference as i32 >> 31) as u32;
                        code = difference.wrapping_add(range & zero);
                        direct = (direct << 1).wrapping_add(1).wrapping_add(zero);
                    }
                    rep0 = rep0.wrapping_add(direct << 4);
                    bit!(model.align[node & 15], node <<= 1, {
                        node = (node << 1) | 1;
                        rep0 |= 1;
                    });
                    bit!(model.align[node & 15], node <<= 1, {
                        node = (node << 1) | 1;
                        rep0 |= 2;
                    });
                    bit!(model.align[node & 15], node <<= 1, {
                        node = (node << 1) | 1;
                        rep0 |= 4;
                    });
                    bit!(model.align[node & 15], {}, rep0 |= 8);
                }
            }
        } else {
            let short = bit!(
                model.is_rep0[state & 15],
                bit!(model.is_rep0_long[((state << 4) | position) & 255], true, false),
                {
                    let distance;
                    bit!(model.is_rep1[state & 15], distance = rep1, {
                        bit!(model.is_rep2[state & 15], distance = rep2, {
                            distance = rep3;
                            rep3 = rep2;
                        });
                        rep2 = rep1;
                    });
                    rep1 = rep0;
                    rep0 = distance;
                    false
                }
            );
            if short {
                len = 1;
                state = if after_literal { 9 } else { 11 };
            } else {
                len = length!(model.rep_len, position);
                state = if after_literal { 8 } else { 11 };
            }
        }
        // Also refuses the end marker (distance 2^32), which LZMA2 does not use.
        let distance = rep0 as usize + 1;
        if distance > pos || len > end - pos {
            return Err(CORRUPT);
        }
        copy_match(out, pos, distance, len);
        pos += len;
    }
    normalize!();
    if code != 0 || input.len() != 0 {
        return Err(CORRUPT);
    }
    coder.state = state;
    coder.reps = [rep0, rep1, rep2, rep3];
    Ok(())
}
