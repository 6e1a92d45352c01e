//! The values that switch the machine off: the package `\_S5_` in the firmware's byte code (ACPI 7.4.2, encoding 20.2).
//!
//! Running the byte code is dom0's business; this only looks for the definition of that one name, which firmware
//! writes as a constant.

/// What to write to the sleep type fields of the two PM1 control registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SleepType {
    /// For block A, 0 to 7.
    pub a: u8,
    /// For block B, 0 to 7.
    pub b: u8,
}

const NAME_OP: u8 = 0x08;
const PACKAGE_OP: u8 = 0x12;
const ROOT_CHAR: u8 = b'\\';

/// Looks for the definition in a table.
#[must_use]
pub fn find(table: &[u8]) -> Option<SleepType> {
    table.windows(4).enumerate().filter(|(_, w)| *w == b"_S5_").find_map(|(at, _)| {
        let before = |n: usize| at.checked_sub(n).and_then(|i| table.get(i)).copied();
        let named = before(1) == Some(NAME_OP) || before(1) == Some(ROOT_CHAR) && before(2) == Some(NAME_OP);
        named.then(|| package(table.get(at.checked_add(4)?..)?)).flatten()
    })
}

/// Decodes {PackageOp, length, count, element, element, ...}.
fn package(code: &[u8]) -> Option<SleepType> {
    let (&op, rest) = code.split_first()?;
    if op != PACKAGE_OP {
        return None;
    }
    // The two top bits of the length's first byte say how many more bytes it has.
    let more = usize::from(rest.first()? >> 6);
    let rest = rest.get(more.checked_add(1)?..)?;
    let (&count, rest) = rest.split_first()?;
    let (a, rest) = integer(rest)?;
    let b = if count > 1 { integer(rest)?.0 } else { 0 };
    (a < 8 && b < 8).then_some(SleepType { a, b })
}

/// Decodes a constant; of wider ones the low byte counts.
fn integer(code: &[u8]) -> Option<(u8, &[u8])> {
    let (&op, rest) = code.split_first()?;
    let width = match op {
        0x00 | 0x01 => return Some((op, rest)),
        0x0a => 1,
        0x0b => 2,
        0x0c => 4,
        _ => return None,
    };
    Some((*rest.first()?, rest.get(width..)?))
}
