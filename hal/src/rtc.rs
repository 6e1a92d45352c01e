//! The battery-backed clock (MC146818 and compatible): read once, at start.
// Unsafe: port access.
#![allow(unsafe_code)]

use crate::cpu::registers::{inb, outb, relax};
use crate::time;

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const UPDATE_IN_PROGRESS: u8 = 0x80;

fn read(register: u8) -> u8 {
    // SAFETY: the ports are the clock's by the PC architecture. Bit 7 clear keeps NMIs enabled.
    unsafe {
        outb(INDEX, register & 0x7f);
        inb(DATA)
    }
}

/// The raw registers: second, minute, hour, day, month, year, century. Some day with no update in between.
fn raw(century: u8) -> Option<[u8; 7]> {
    let once = || {
        // An update takes 2 ms at most.
        for _ in 0..10_000 {
            if read(STATUS_A) & UPDATE_IN_PROGRESS == 0 {
                break;
            }
            relax();
        }
        let century = if century == 0 { 0 } else { read(century) };
        [read(0), read(2), read(4), read(7), read(8), read(9), century]
    };
    let mut last = once();
    for _ in 0..10 {
        let now = once();
        if now == last {
            return Some(now);
        }
        last = now;
    }
    None
}

/// Wall-clock time now in nanoseconds since 1970-01-01, taking the clock to be in UTC. `century` is the register that
/// holds the century, or 0. `None` if there is no clock or it makes no sense.
#[must_use]
pub fn read_wall_clock(century: u8) -> Option<u64> {
    let status = read(STATUS_B);
    let registers = raw(century)?;
    unix_seconds(registers, status).map(|s| s * 1_000_000_000)
}

/// Wall-clock time at system time 0.
pub(crate) fn wall_clock_at_start(century: u8) -> u64 {
    let now = time::now().0;
    read_wall_clock(century).unwrap_or(0).saturating_sub(now)
}

fn unix_seconds(registers: [u8; 7], status_b: u8) -> Option<u64> {
    let binary = status_b & 4 != 0;
    let decode = |v: u8| if binary { u64::from(v) } else { u64::from(v >> 4) * 10 + u64::from(v & 15) };
    let [second, minute, hour, day, month, year, century] = registers;
    let afternoon = status_b & 2 == 0 && hour & 0x80 != 0;
    let mut hours = decode(hour & 0x7f);
    if status_b & 2 == 0 {
        hours = hours % 12 + if afternoon { 12 } else { 0 };
    }
    let year = decode(year)
        + match decode(century) {
            c @ 19..=29 => c * 100,
            _ => 2000,
        };
    let (second, minute, day, month) = (decode(second), decode(minute), decode(day), decode(month));
    if second > 60 || minute > 59 || hours > 23 || !(1..=31).contains(&day) || !(1..=12).contains(&month) || year < 1970
    {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar, with years that start in March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1;
    Some((days - 719_468) * 86_400 + hours * 3600 + minute * 60 + second)
}
