//! Text on its way to the console: lines with a prefix, of bounded length, without a heap.

use core::fmt;

use arrayvec::ArrayString;

use crate::options::Timestamps;
use crate::types::Nanoseconds;

/// Bytes of a line at most; the rest is cut off.
const LINE: usize = 512;

/// Splits text into lines and hands each on with prefix and line end.
pub(super) struct Lines<'a> {
    prefix: &'a str,
    line: ArrayString<LINE>,
    out: &'a mut dyn FnMut(&str),
}

impl<'a> Lines<'a> {
    pub(super) fn new(prefix: &'a str, out: &'a mut dyn FnMut(&str)) -> Lines<'a> {
        Lines { prefix, line: ArrayString::new(), out }
    }

    /// Prints what was formatted; text that does not end a line is ended.
    pub(super) fn print(mut self, text: fmt::Arguments<'_>) {
        // Writing to `self` does not fail.
        let _ = fmt::Write::write_fmt(&mut self, text);
        if !self.line.is_empty() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.begin();
        while self.line.try_push('\n').is_err() {
            self.line.pop();
        }
        (self.out)(&self.line);
        self.line.clear();
    }

    fn begin(&mut self) {
        if self.line.is_empty() {
            let _ = self.line.try_push_str(self.prefix);
        }
    }
}

impl fmt::Write for Lines<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c == '\n' {
                self.end();
            } else {
                self.begin();
                let _ = self.line.try_push(c);
            }
        }
        Ok(())
    }
}

/// The prefix of the hypervisor's own lines: `(XEN) ` and a time stamp.
pub(super) fn prefix(stamps: Timestamps, now: Nanoseconds, wall_at_boot: u64) -> ArrayString<48> {
    use fmt::Write;
    let mut text = ArrayString::new();
    let (seconds, rest) = (now.0 / 1_000_000_000, now.0 % 1_000_000_000);
    let wall = wall_at_boot.saturating_add(now.0);
    // The longest stamp is far shorter than the string.
    let _ = text.try_push_str("(XEN) ");
    let _ = match stamps {
        Timestamps::None => Ok(()),
        Timestamps::Boot => write!(text, "[{seconds:5}.{:06}] ", rest / 1000),
        Timestamps::Raw => write!(text, "[{:016x}] ", now.0),
        Timestamps::Date => write!(text, "[{}] ", Date(wall / 1_000_000_000)),
        Timestamps::DateMillis => {
            write!(text, "[{}.{:03}] ", Date(wall / 1_000_000_000), wall % 1_000_000_000 / 1_000_000)
        }
    };
    text
}

/// Seconds since 1970-01-01, shown as date and time of day (UTC).
struct Date(u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, second) = (self.0 / 86_400, self.0 % 86_400);
        let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let mut year: u64 = 1970;
        loop {
            let length = if leap(year) { 366 } else { 365 };
            // A clock that is set beyond the year 10000 is shown as that year.
            if days < length || year >= 10_000 {
                break;
            }
            days = days.saturating_sub(length);
            year = year.saturating_add(1);
        }
        let mut month = 1u32;
        for length in [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days = days.saturating_sub(length);
            month = month.saturating_add(1);
        }
        let day = days.saturating_add(1);
        write!(f, "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    fn lines(prefix: &str, text: fmt::Arguments<'_>) -> String {
        let mut all = String::new();
        Lines::new(prefix, &mut |l| all.push_str(l)).print(text);
        all
    }

    #[test]
    fn each_line_gets_the_prefix() {
        assert_eq!(lines("> ", format_args!("a\nb{}", 1)), "> a\n> b1\n");
        assert_eq!(lines("> ", format_args!("a\n")), "> a\n");
        assert_eq!(lines("> ", format_args!("\n")), "> \n");
        assert_eq!(lines("> ", format_args!("")), "");
    }

    #[test]
    fn long_lines_are_cut() {
        let text = lines("> ", format_args!("{}", "é".repeat(1000)));
        assert!(text.len() <= LINE && text.ends_with("é\n"));
    }

    #[test]
    fn dates() {
        assert_eq!(Date(0).to_string(), "1970-01-01 00:00:00");
        assert_eq!(Date(951_827_696).to_string(), "2000-02-29 12:34:56");
        assert_eq!(Date(1_704_067_199).to_string(), "2023-12-31 23:59:59");
        assert_eq!(Date(1_732_284_000).to_string(), "2024-11-22 14:00:00");
        let _ = Date(u64::MAX).to_string();
    }

    #[test]
    fn stamps() {
        let at = Nanoseconds(12_000_345_678);
        assert_eq!(&*prefix(Timestamps::None, at, 0), "(XEN) ");
        assert_eq!(&*prefix(Timestamps::Boot, at, 0), "(XEN) [   12.000345] ");
        assert_eq!(&*prefix(Timestamps::Date, at, 0), "(XEN) [1970-01-01 00:00:12] ");
        assert_eq!(&*prefix(Timestamps::DateMillis, at, 5_000_000), "(XEN) [1970-01-01 00:00:12.005] ");
    }
}
