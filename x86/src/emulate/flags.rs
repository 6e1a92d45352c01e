//! Integer arithmetic with its flags. Pure functions on values that fit their width.
//!
//! Where the manuals leave a flag undefined, the result is what AMD processors are known to give where that is simple
//! (AF clear after logic), otherwise the flag keeps the value of the formula for a shift by one.

use super::instruction::{Op, Width};
use super::rflags::{AF, CF, OF, PF, SF, ZF};

/// The flags that arithmetic sets.
pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

fn flag(on: bool, bit: u64) -> u64 {
    if on { bit } else { 0 }
}

/// SF, ZF and PF of a result.
fn sign_zero_parity(width: Width, value: u64) -> u64 {
    let even = (value as u8).count_ones() & 1 == 0;
    flag(value & width.sign_bit() != 0, SF) | flag(value == 0, ZF) | flag(even, PF)
}

/// `flags` with the status flags replaced.
fn with_status(flags: u64, status: u64) -> u64 {
    flags & !STATUS | status
}

fn add(width: Width, a: u64, b: u64, carry: u64) -> (u64, u64) {
    let sum = u128::from(a).wrapping_add(u128::from(b)).wrapping_add(u128::from(carry));
    let r = sum as u64 & width.mask();
    let carry_out = sum.wrapping_shr(width.bits()) & 1 != 0;
    let overflow = (a ^ r) & (b ^ r) & width.sign_bit() != 0;
    (r, sign_zero_parity(width, r) | flag(carry_out, CF) | flag(overflow, OF) | (a ^ b ^ r) & AF)
}

fn subtract(width: Width, a: u64, b: u64, borrow: u64) -> (u64, u64) {
    let r = a.wrapping_sub(b).wrapping_sub(borrow) & width.mask();
    let borrow_out = u128::from(a) < u128::from(b).wrapping_add(u128::from(borrow));
    let overflow = (a ^ b) & (a ^ r) & width.sign_bit() != 0;
    (r, sign_zero_parity(width, r) | flag(borrow_out, CF) | flag(overflow, OF) | (a ^ b ^ r) & AF)
}

/// The result of a two-operand operation and the flags after it. CMP and TEST return what they compute; their
/// destination must not be written. `None` for other operations.
#[must_use]
pub fn binary(op: Op, width: Width, a: u64, b: u64, flags: u64) -> Option<(u64, u64)> {
    let (a, b) = (a & width.mask(), b & width.mask());
    let (r, status) = match op {
        Op::Add | Op::Xadd => add(width, a, b, 0),
        Op::Adc => add(width, a, b, flags & CF),
        Op::Sub | Op::Cmp => subtract(width, a, b, 0),
        Op::Sbb => subtract(width, a, b, flags & CF),
        Op::And | Op::Test => (a & b, sign_zero_parity(width, a & b)),
        Op::Or => (a | b, sign_zero_parity(width, a | b)),
        Op::Xor => (a ^ b, sign_zero_parity(width, a ^ b)),
        _ => return None,
    };
    Some((r, with_status(flags, status)))
}

/// The result of a one-operand operation and the flags after it. `None` for other operations.
#[must_use]
pub fn unary(op: Op, width: Width, a: u64, flags: u64) -> Option<(u64, u64)> {
    let a = a & width.mask();
    Some(match op {
        Op::Inc => {
            let (r, status) = add(width, a, 1, 0);
            (r, with_status(flags, status & !CF | flags & CF))
        }
        Op::Dec => {
            let (r, status) = subtract(width, a, 1, 0);
            (r, with_status(flags, status & !CF | flags & CF))
        }
        Op::Neg => {
            let (r, status) = subtract(width, 0, a, 0);
            (r, with_status(flags, status))
        }
        Op::Not => (!a & width.mask(), flags),
        _ => return None,
    })
}

/// The result of a shift or rotate by `count` (as in the instruction, not yet reduced) and the flags after it. `None`
/// for other operations.
#[must_use]
pub fn shift(op: Op, width: Width, a: u64, count: u64, flags: u64) -> Option<(u64, u64)> {
    let a = a & width.mask();
    let bits = width.bits();
    let count = (count & if width == Width::Qword { 0x3f } else { 0x1f }) as u32;
    let carry_in = flags & CF;
    let top = |v: u64| v & width.sign_bit() != 0;
    let second = |v: u64| v & (width.sign_bit() >> 1) != 0;
    if count == 0 {
        return matches!(op, Op::Rol | Op::Ror | Op::Rcl | Op::Rcr | Op::Shl | Op::Shr | Op::Sar).then_some((a, flags));
    }
    // Rotates change only CF and OF.
    let rotated = |r: u64, carry: bool, overflow: bool| (r, flags & !(CF | OF) | flag(carry, CF) | flag(overflow, OF));
    let shifted = |r: u64, carry: bool, overflow: bool| {
        (r, with_status(flags, sign_zero_parity(width, r) | flag(carry, CF) | flag(overflow, OF)))
    };
    let wide = u128::from(a);
    Some(match op {
        Op::Shl => {
            let w = wide.wrapping_shl(count);
            let r = w as u64 & width.mask();
            let carry = w.wrapping_shr(bits) & 1 != 0;
            shifted(r, carry, top(r) != carry)
        }
        Op::Shr => {
            let carry = wide.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
            shifted(wide.wrapping_shr(count) as u64, carry, top(a))
        }
        Op::Sar => {
            let signed = width.sign_extend(a) as i64;
            let carry = signed.wrapping_shr(count.wrapping_sub(1)) & 1 != 0;
            shifted(signed.wrapping_shr(count) as u64 & width.mask(), carry, false)
        }
        Op::Rol | Op::Ror => {
            let k = count & bits.wrapping_sub(1);
            let left = if op == Op::Rol { k } else { bits.wrapping_sub(k) & bits.wrapping_sub(1) };
            let r = (wide.wrapping_shl(left) | wide.wrapping_shr(bits.wrapping_sub(left))) as u64 & width.mask();
            if op == Op::Rol {
                rotated(r, r & 1 != 0, top(r) != (r & 1 != 0))
            } else {
                rotated(r, top(r), top(r) != second(r))
            }
        }
        Op::Rcl | Op::Rcr => {
            // A rotate of `bits + 1` bits with CF on top.
            let size = bits.wrapping_add(1);
            let k = count.checked_rem(size).unwrap_or(0);
            if k == 0 {
                return Some((a, flags));
            }
            let left = if op == Op::Rcl { k } else { size.wrapping_sub(k) };
            let whole = wide | u128::from(carry_in).wrapping_shl(bits);
            let turned = whole.wrapping_shl(left) | whole.wrapping_shr(size.wrapping_sub(left));
            let r = turned as u64 & width.mask();
            let carry = turned.wrapping_shr(bits) & 1 != 0;
            rotated(r, carry, if op == Op::Rcl { top(r) != carry } else { top(r) != second(r) })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDTHS: [Width; 4] = [Width::Byte, Width::Word, Width::Dword, Width::Qword];

    /// A slow model that adds bit by bit.
    fn model_add(width: Width, a: u64, b: u64, carry: bool) -> (u64, u64) {
        let (mut r, mut c, mut af, mut into_top) = (0, carry, false, false);
        for n in 0..width.bits() {
            let (x, y) = (a >> n & 1 != 0, b >> n & 1 != 0);
            if n == width.bits() - 1 {
                into_top = c;
            }
            r |= u64::from(x ^ y ^ c) << n;
            c = u8::from(x) + u8::from(y) + u8::from(c) >= 2;
            if n == 3 {
                af = c;
            }
        }
        let mut parity = true;
        for n in 0..8 {
            parity ^= r >> n & 1 != 0;
        }
        let f = flag(c, CF)
            | flag(af, AF)
            | flag(r == 0, ZF)
            | flag(r >> (width.bits() - 1) & 1 != 0, SF)
            | flag(c != into_top, OF)
            | flag(parity, PF);
        (r, f)
    }

    /// A slow model that shifts one bit at a time. Returns the result and CF.
    fn model_shift(op: Op, width: Width, mut a: u64, count: u64, mut cf: bool) -> (u64, bool) {
        let top = width.sign_bit();
        for _ in 0..count {
            let (high, low) = (a & top != 0, a & 1 != 0);
            let half = a >> 1;
            let double = a << 1 & width.mask();
            (a, cf) = match op {
                Op::Shl => (double, high),
                Op::Shr => (half, low),
                Op::Sar => (half | a & top, low),
                Op::Rol => (double | u64::from(high), high),
                Op::Ror => (half | if low { top } else { 0 }, low),
                Op::Rcl => (double | u64::from(cf), high),
                _ => (half | if cf { top } else { 0 }, low),
            };
        }
        (a, cf)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn addition_and_subtraction(a: u64, b: u64, w in 0usize..4, small: bool, flags in 0u64..0x1000) {
            let width = WIDTHS[w];
            let (a, b) = if small { (a & 0x81, b & 0x81) } else { (a, b) };
            let (a, b) = (a & width.mask(), b & width.mask());
            let kept = flags & !STATUS;
            let carry = flags & CF != 0;
            let with = |(r, f): (u64, u64)| Some((r, kept | f));
            prop_assert_eq!(binary(Op::Add, width, a, b, flags), with(model_add(width, a, b, false)));
            prop_assert_eq!(binary(Op::Adc, width, a, b, flags), with(model_add(width, a, b, carry)));
            // a - b = a + !b + 1, with carry and auxiliary carry inverted.
            let minus = |borrow: bool| {
                let (r, f) = model_add(width, a, !b & width.mask(), !borrow);
                with((r, f ^ (CF | AF)))
            };
            prop_assert_eq!(binary(Op::Sub, width, a, b, flags), minus(false));
            prop_assert_eq!(binary(Op::Cmp, width, a, b, flags), minus(false));
            prop_assert_eq!(binary(Op::Sbb, width, a, b, flags), minus(carry));
            let inc = model_add(width, a, 1, false);
            prop_assert_eq!(unary(Op::Inc, width, a, flags), with((inc.0, inc.1 & !CF | flags & CF)));
            let (r, f) = model_add(width, 0, !a & width.mask(), true);
            prop_assert_eq!(unary(Op::Neg, width, a, flags), with((r, f ^ (CF | AF))));
            let (r, f) = model_add(width, a, width.mask() - 1, true);
            prop_assert_eq!(unary(Op::Dec, width, a, flags), with((r, (f ^ AF) & !CF | flags & CF)));
            prop_assert_eq!(unary(Op::Not, width, a, flags), Some((!a & width.mask(), flags)));
        }

        #[test]
        fn logic(a: u64, b: u64, w in 0usize..4) {
            let width = WIDTHS[w];
            for (op, r) in [(Op::And, a & b), (Op::Test, a & b), (Op::Or, a | b), (Op::Xor, a ^ b), (Op::Xor, 0)] {
                let b = if r == 0 { a } else { b };
                let r = r & width.mask();
                let (got, f) = binary(op, width, a, b, STATUS).unwrap();
                prop_assert_eq!(got, if op == Op::Xor && b == a { 0 } else { r });
                prop_assert_eq!(f & (CF | OF | AF), 0);
                prop_assert_eq!((f & ZF != 0, f & SF != 0), (got == 0, got & width.sign_bit() != 0));
            }
        }

        #[test]
        fn shifts(a: u64, count in 0u64..256, w in 0usize..4, flags in 0u64..0x1000) {
            let width = WIDTHS[w];
            let a = a & width.mask();
            let reduced = count & if width == Width::Qword { 63 } else { 31 };
            for op in [Op::Rol, Op::Ror, Op::Rcl, Op::Rcr, Op::Shl, Op::Shr, Op::Sar] {
                let (r, f) = shift(op, width, a, count, flags).unwrap();
                let (model, cf) = model_shift(op, width, a, reduced, flags & CF != 0);
                prop_assert_eq!(r, model, "{:?}", op);
                let is_shift = matches!(op, Op::Shl | Op::Shr | Op::Sar);
                if reduced == 0 {
                    prop_assert_eq!(f, flags);
                    continue;
                }
                // CF is undefined for shifts (not rotates) by more than the width.
                if !is_shift || reduced <= u64::from(width.bits()) || op == Op::Sar {
                    prop_assert_eq!(f & CF != 0, cf, "{:?} CF", op);
                }
                if is_shift {
                    prop_assert_eq!((f & ZF != 0, f & SF != 0), (r == 0, r & width.sign_bit() != 0));
                } else {
                    prop_assert_eq!((f ^ flags) & !(CF | OF), 0);
                }
                if reduced == 1 {
                    let changed = (r ^ a) & width.sign_bit() != 0;
                    let expected = match op { Op::Sar => false, Op::Shr => a & width.sign_bit() != 0, _ => changed };
                    prop_assert_eq!(f & OF != 0, expected, "{:?} OF", op);
                }
            }
        }
    }

    #[test]
    fn others_are_refused() {
        assert_eq!(binary(Op::Mov, Width::Byte, 0, 0, 0), None);
        assert_eq!(unary(Op::Add, Width::Byte, 0, 0), None);
        assert_eq!(shift(Op::Add, Width::Byte, 0, 1, 0), None);
        assert_eq!(shift(Op::Add, Width::Byte, 0, 0, 0), None);
    }
}
