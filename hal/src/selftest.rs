//! Tests that run in ring 0, on the machine or in an emulator, when the command line has `selftest`.
//!
//! A test is a function; it returns why it failed. A panic or an unexpected exception ends the run as a failure.

use alloc::string::String;
use core::sync::atomic::{AtomicBool, Ordering};

/// Given to [`crate::power::exit_emulator`] when all tests passed: exit status 33.
pub const EXIT_PASSED: u8 = 0x10;
/// Given when not: exit status 35.
pub const EXIT_FAILED: u8 = 0x11;

/// A test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// Its name, as `module::what`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn() -> Result<(), String>,
}

static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Whether tests run: a fatal report then leaves the emulator.
pub(crate) fn active() -> bool {
    ACTIVE.load(Ordering::Relaxed)
}

/// Says that tests will run.
pub fn activate() {
    ACTIVE.store(true, Ordering::Relaxed);
}

/// Runs hal's own tests and those given, if their names contain `filter`, and leaves the emulator.
pub fn run(more: &[Test], filter: Option<&str>) -> ! {
    activate();
    let (mut passed, mut failed) = (0, 0);
    let wanted = |t: &&Test| filter.is_none_or(|f| t.name.contains(f));
    let guest_tests: &[Test] = if crate::svm::is_enabled() {
        svm::TESTS
    } else {
        for test in svm::TESTS.iter().filter(wanted) {
            log::info!("RING0-TEST {} skipped: this processor has no SVM that can be used", test.name);
        }
        &[]
    };
    for test in TESTS.iter().chain(guest_tests).chain(more).filter(wanted) {
        match (test.run)() {
            Ok(()) => {
                passed += 1;
                log::info!("RING0-TEST {} ok", test.name);
            }
            Err(why) => {
                failed += 1;
                log::info!("RING0-TEST {} FAILED: {why}", test.name);
            }
        }
    }
    log::info!("RING0-TESTS {passed} passed, {failed} failed");
    let good = failed == 0 && passed > 0;
    crate::power::exit_emulator(if good { EXIT_PASSED } else { EXIT_FAILED })
}

/// Fails a test unless a condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr) => {
        if !$condition {
            return Err(alloc::format!("{}:{}: not so: {}", file!(), line!(), stringify!($condition)));
        }
    };
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(alloc::format!("{}:{}: {}", file!(), line!(), format_args!($($text)+)));
        }
    };
}

mod guest;
mod svm;
mod tests;
use tests::TESTS;
