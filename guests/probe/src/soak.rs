//! The soak: load and quiet in turn, wake-ups measured all the time, and clocks printed for comparison with the host's.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use crate::load::{self, Gate};
use crate::system;
use crate::wakeups::{self, Watch};

/// A wake-up that comes later is late. Under emulation a CPU stands still while the host does other things: two seconds
/// were seen on two CPUs that five emulators shared.
const LATE: Duration = Duration::from_secs(3);
/// A thread that is not woken for so long never will be.
const HUNG: Duration = Duration::from_secs(20);
const BUSY: u64 = 12;
const QUIET: u64 = 8;
/// Between two clock lines.
const CLOCK: Duration = Duration::from_millis(500);

/// Runs for `seconds`.
pub(crate) fn run(seconds: u64, disk: Option<&Path>) -> Result<(), String> {
    let watch = Arc::new(Watch::new(LATE));
    let gate = Arc::new(Gate::new());
    wakeups::start(&watch)?;
    let workers = load::start(&gate, disk);
    println!("SOAK starts: {} CPUs, {} kinds of load, {seconds} s", system::cpus(), workers.len());

    // This thread's own wake-ups disturb one CPU only.
    system::pin(0);
    let start = system::monotonic();
    let gone = || (system::monotonic() - start).as_secs();
    let mut reported = 0;
    while gone() < seconds {
        if gone() % (BUSY + QUIET) < BUSY {
            watch.load();
            gate.open();
        } else {
            gate.close();
            watch.quiet(gone() / (BUSY + QUIET));
        }
        print_clocks();
        if gone() >= reported + 10 {
            reported = gone();
            let (count, late, with, without) = watch.totals();
            let done = gate.done.load(Ordering::Relaxed);
            println!(
                "SOAK {reported} of {seconds} s: {done} units of load, {count} wake-ups, {late} late, worst {with} ms with \
                 load, {without} ms without"
            );
        }
        if let Some(why) = gate.failure().or_else(|| watch.hung(HUNG)) {
            return Err(why);
        }
        thread::sleep(CLOCK);
    }
    gate.end();
    for worker in workers {
        worker.join().map_err(|_| "a thread of load panicked")?;
    }
    watch.end();
    watch.report();
    if let Some(why) = gate.failure() {
        return Err(why);
    }
    match watch.totals() {
        (_, 0, ..) => Ok(()),
        (count, late, ..) => Err(format!("{late} of {count} wake-ups were late")),
    }
}

/// One line, written at once, so that its arrival says when it was made.
fn print_clocks() {
    // Read at the last moment.
    let line = format!("SOAK-CLOCK {} {}\n", system::monotonic().as_nanos(), system::realtime().as_nanos());
    let _ = std::io::stdout().write_all(line.as_bytes());
}
