//! `probe`: what a test wants to know from inside Linux, as dom0 or as a guest. Linked statically, so that it runs in a
//! file system that has nothing but BusyBox.
//!
//! - `probe fpu SECONDS PROCESSES`: floating-point registers and arithmetic of several processes stay what they are.
//! - `probe soak SECONDS [DISK]`: load of many kinds, wake-ups measured, clocks printed; DISK is overwritten.
//! - `probe free-pages`: prints the pages of memory that no guest and not the hypervisor has (in dom0).
//! - `probe guest-cost MIB ROUNDS`: prints the microseconds that a guest's creation takes and the pages of the hypervisor's
//!   that it has, besides its own (in dom0).
//! - `probe now`, `when FILE TEXT SECONDS`, `since-reset`, `downtime SECONDS`, `shares SECONDS`, `idle SECONDS`: for measurements,
//!   see `bench.rs`.
//! - `probe nothing`: ends at once; a process for those who need one.
//!
//! The exit status is 0 if all is well; else a line that begins with `probe:` says what is not.

mod bench;
mod fpu;
mod load;
mod memory;
mod soak;
mod system;
mod wakeups;

use std::process::{Child, Command, ExitCode};
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
    let result = match words[..] {
        ["nothing"] => Ok(()),
        ["now"] => {
            println!("{}", bench::now());
            Ok(())
        }
        ["when", file, text, seconds] => number(seconds).and_then(|s| bench::when(file, text, s)),
        ["since-reset"] => bench::since_reset(),
        ["downtime", seconds] => number(seconds).and_then(bench::downtime),
        ["shares", seconds] => number(seconds).and_then(bench::shares),
        ["idle", seconds] => number(seconds).and_then(bench::idle),
        ["divide-by-zero"] => {
            bench::divide_by_zero();
            Ok(())
        }
        ["guest-cost", mib, rounds] => {
            number(mib).and_then(|m| Ok((m, number(rounds)?))).and_then(|(m, n)| memory::guest_cost(m, n))
        }
        ["free-pages"] => memory::free_pages().map(|pages| println!("{pages}")),
        ["fpu", seconds, processes] => {
            number(seconds).and_then(|s| Ok((s, number(processes)?))).and_then(|(s, n)| fpu_processes(s, n))
        }
        ["fpu-one", seconds, seed] => {
            number(seconds).and_then(|s| Ok((s, number(seed)?))).and_then(|(s, seed)| fpu_one(s, seed))
        }
        ["soak", seconds] => number(seconds).and_then(|s| soak::run(s, None)),
        ["soak", seconds, disk] => number(seconds).and_then(|s| soak::run(s, Some(disk.as_ref()))),
        _ => Err(
            "usage: probe fpu SECONDS PROCESSES | soak SECONDS [DISK] | free-pages | guest-cost MIB ROUNDS | now | \
             when FILE TEXT SECONDS | since-reset | downtime SECONDS | shares SECONDS | idle SECONDS | nothing"
                .to_owned(),
        ),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("probe: {why}");
            ExitCode::FAILURE
        }
    }
}

fn fpu_one(seconds: u64, seed: u64) -> Result<(), String> {
    let rounds = fpu::check(Duration::from_secs(seconds), seed)?;
    println!("probe: process {seed}: {rounds} rounds of {}", fpu::kinds());
    Ok(())
}

fn fpu_processes(seconds: u64, processes: u64) -> Result<(), String> {
    let children: Vec<Child> = (1..=processes).map(|seed| start_fpu(seconds, seed)).collect::<Result<_, _>>()?;
    finish(children)
}

/// Starts a process that checks floating point.
fn start_fpu(seconds: u64, seed: u64) -> Result<Child, String> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["fpu-one", &seconds.to_string(), &seed.to_string()]);
    command.spawn().map_err(|error| format!("cannot start a process: {error}"))
}

/// Waits for processes; all must succeed.
fn finish(children: Vec<Child>) -> Result<(), String> {
    let failed = children.into_iter().filter_map(|mut child| match child.wait() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(status.to_string()),
        Err(error) => Some(error.to_string()),
    });
    let failed: Vec<String> = failed.collect();
    if failed.is_empty() { Ok(()) } else { Err(format!("processes ended with {}", failed.join(", "))) }
}
