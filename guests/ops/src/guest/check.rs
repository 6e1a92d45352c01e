//! What a check is, how it says what differs, and how the results are printed.
//!
//! A result is a line of its own on the hypervisor's console: `OPERATION number operation hypercall name result`, where
//! the result is `ok`, `refused ERROR` or `failed: why`. A hypercall without operations has `-` for both.

use core::fmt::{self, Debug, Write};

use radon_abi::errno::Errno;
use radon_abi::{hypercall, xen};
use radon_guest::hypercall::call;

use super::calls::{self, Answer, Refused};
use super::twin::Twin;

/// Stands for the operation of a hypercall that has none.
pub(crate) const NONE: u32 = u32::MAX;

/// How an operation is checked.
#[derive(Clone, Copy)]
pub(crate) enum How {
    /// By a function that calls it, and others, and looks whether it does what it says.
    Works(fn(&Twin) -> Outcome),
    /// It is refused: by calling it with anything.
    Refused,
}

/// The check of one operation.
#[derive(Clone, Copy)]
pub(crate) struct Check {
    /// The ABI's number (`XENMEM_*` and others), or [`NONE`].
    pub operation: u32,
    /// Its name in the ledger.
    pub name: &'static str,
    pub how: How,
}

/// The checks of a hypercall.
pub(crate) struct Group {
    /// The ABI's number (`__HYPERVISOR_*`).
    pub number: u32,
    pub checks: &'static [Check],
}

/// A check of an operation that works.
pub(crate) const fn works(operation: u32, name: &'static str, check: fn(&Twin) -> Outcome) -> Check {
    Check { operation, name, how: How::Works(check) }
}

/// A check of an operation that is refused, whatever it is called with.
pub(crate) const fn refused(operation: u32, name: &'static str) -> Check {
    Check { operation, name, how: How::Refused }
}

/// Whether an operation does what it should.
pub(crate) type Outcome = Result<(), Differs>;

/// What differs from what should be, in words; what has no room is left out.
pub(crate) struct Differs {
    text: [u8; 200],
    used: usize,
}

impl Differs {
    pub(crate) fn new(words: fmt::Arguments<'_>) -> Differs {
        let mut differs = Differs { text: [0; 200], used: 0 };
        // Writing cannot fail.
        let _ = differs.write_fmt(words);
        differs
    }

    pub(crate) fn text(&self) -> &str {
        core::str::from_utf8(&self.text[..self.used]).unwrap_or("text that is no text")
    }
}

impl Write for Differs {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A line's end would end the result.
        for byte in text.bytes().map(|byte| if byte == b'\n' { b' ' } else { byte }) {
            if let Some(place) = self.text.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}

impl From<Refused> for Differs {
    fn from(refused: Refused) -> Differs {
        Differs::new(format_args!("{refused:?}"))
    }
}

/// Both must be the same.
pub(crate) fn same<T: PartialEq + Debug>(what: &str, is: T, should_be: T) -> Outcome {
    if is == should_be { Ok(()) } else { Err(Differs::new(format_args!("{what}: {is:x?} instead of {should_be:x?}"))) }
}

/// It must be so.
pub(crate) fn holds(what: &str, is_so: bool) -> Outcome {
    if is_so { Ok(()) } else { Err(Differs::new(format_args!("it is not so that {what}"))) }
}

/// The hypercall must have been refused with this error.
pub(crate) fn refuses(what: &str, answer: Answer, errno: Errno) -> Outcome {
    match answer {
        Err(refused) if refused.result == errno.to_return() => Ok(()),
        Err(refused) => Err(Differs::new(format_args!("{what}: {refused:?} instead of {errno}"))),
        Ok(value) => Err(Differs::new(format_args!("{what}: result {value} instead of {errno}"))),
    }
}

/// Checks all operations of a hypercall and prints what comes of it.
pub(crate) fn run(group: &Group, twin: &Twin) {
    let hypercall = hypercall::name(group.number).unwrap_or("?");
    for check in group.checks {
        let operation = check.operation;
        let begins = format_args!("OPERATION {} {} {hypercall} {}", group.number, Number(operation), check.name);
        calls::expect(group.number, operation);
        let refused = match check.how {
            How::Works(function) => match function(twin) {
                Ok(()) if !calls::was_called() => {
                    say(format_args!("{begins} failed: the check does not call it"));
                    continue;
                }
                Ok(()) => {
                    say(format_args!("{begins} ok"));
                    continue;
                }
                Err(differs) => {
                    say(format_args!("{begins} failed: {}", differs.text()));
                    continue;
                }
            },
            How::Refused => calls::with_anything(group.number, operation, twin),
        };
        match refused {
            _ if !calls::was_called() => say(format_args!("{begins} failed: the check does not call it")),
            Ok(value) => say(format_args!("{begins} failed: it is not refused (result {value})")),
            Err(refused) => say(format_args!("{begins} refused {}", Name(refused.result))),
        }
    }
}

/// An operation's number in print.
struct Number(u32);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == NONE { f.write_str("-") } else { write!(f, "{}", self.0) }
    }
}

/// A negative result in print.
pub(crate) struct Name(pub i64);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Errno::from_return(self.0) {
            Some(errno) => write!(f, "{errno}"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Prints a line on the hypervisor's console.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let mut line = Line { text: [0; 400], used: 0 };
    // Writing cannot fail.
    let _ = writeln!(line, "{words}");
    let text = &line.text[..line.used];
    call(hypercall::CONSOLE_IO, [u64::from(xen::CONSOLEIO_WRITE), text.len() as u64, text.as_ptr() as u64]);
}

/// A line, so that it is printed at once; what has no room is left out.
struct Line {
    text: [u8; 400],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if let Some(place) = self.text.get_mut(self.used) {
                *place = byte;
                self.used += 1;
            }
        }
        Ok(())
    }
}
