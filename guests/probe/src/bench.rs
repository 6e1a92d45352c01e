//! What measurements in dom0 and guests need (`cargo xtask bench macro`): exact times, waiting for a line of a file, and what the
//! hypervisor says of its domains meanwhile.
// Unsafe: instructions.
#![allow(unsafe_code)]

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::fs::{self, File};
use std::process::Command;
use std::thread;
use std::time::Duration;

use radon_abi::domctl;

use crate::memory::Hypervisor;
use crate::system::{ioctl, monotonic};

/// Between two looks at something that is waited for.
const POLL: Duration = Duration::from_millis(2);
/// The first domain that is not dom0.
const FIRST_GUEST: u16 = 1;

/// Nanoseconds since the system started.
pub(crate) fn now() -> u64 {
    monotonic().as_nanos() as u64
}

/// Waits until a file has a text. Prints when.
pub(crate) fn when(file: &str, text: &str, seconds: u64) -> Result<(), String> {
    until(seconds, || fs::read(file).is_ok_and(|content| String::from_utf8_lossy(&content).contains(text)))
        .map_err(|error| format!("{file}: no '{text}': {error}"))?;
    println!("{}", now());
    Ok(())
}

fn until(seconds: u64, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let end = monotonic() + Duration::from_secs(seconds);
    while !done() {
        if monotonic() > end {
            return Err(format!("not within {seconds} s"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// `struct rtc_time`.
#[repr(C)]
#[derive(Default)]
struct ClockTime {
    seconds: i32,
    minutes: i32,
    others: [i32; 7],
}

/// Prints the time stamp counter, and then the counter at a moment when the machine's clock changed to another second, with that
/// clock's seconds and minutes (as two decimal digits): what relates the counter to the machine's reset.
pub(crate) fn since_reset() -> Result<(), String> {
    /// The call of `/dev/rtc0` that reads the time: type 'p', number 9, 36 bytes.
    const READ: libc::c_ulong = 2 << 30 | 36 << 16 | 0x70 << 8 | 9;
    let counter = || {
        // SAFETY: reads a counter.
        unsafe { _rdtsc() }
    };
    let start = counter();
    let clock = File::open("/dev/rtc0").map_err(|error| format!("clock: {error}"))?;
    let read = || -> Result<ClockTime, String> {
        let mut time = ClockTime::default();
        ioctl(&clock, READ, &mut time).map_err(|error| format!("clock: {error}"))?;
        Ok(time)
    };
    let before = read()?;
    let (now, later) = loop {
        let now = read()?;
        if now.seconds != before.seconds {
            break (now, counter());
        }
        // Reading is slow, above all below a hypervisor: a millisecond is exact enough.
        thread::sleep(Duration::from_millis(1));
    };
    let digits = |number: i32| number / 10 * 16 + number % 10;
    println!("{start} {later} {} {}", digits(now.seconds), digits(now.minutes));
    Ok(())
}

/// Watches a guest that moves to a new domain here: from when its old domain is shut down until the new one runs. Prints the
/// nanoseconds in between, and which domains they are.
pub(crate) fn downtime(seconds: u64) -> Result<(), String> {
    let hypervisor = Hypervisor::open()?;
    let domains = || hypervisor.domains(FIRST_GUEST).unwrap_or_default();
    let old = domains().last().ok_or("there is no guest")?.domain;
    let (mut ran, mut stopped) = (now(), false);
    until(seconds, || {
        let before = now();
        stopped = domains().iter().any(|info| info.domain == old && info.flags & domctl::XEN_DOMINF_SHUTDOWN != 0);
        if !stopped {
            ran = before;
        }
        stopped
    })?;
    let mut new = None;
    until(seconds, || {
        let runs = |info: &&domctl::DomainInfo| info.domain > old && info.flags & domctl::XEN_DOMINF_PAUSED == 0;
        new = domains().iter().find(runs).map(|info| info.domain);
        new.is_some()
    })?;
    println!("{} {old} {}", now() - ran, new.unwrap_or_default());
    Ok(())
}

/// Prints by how many thousandths of its fair share the guest that is farthest from it has more or less CPU time than all guests
/// have on average, within so many seconds; and how many guests there are.
pub(crate) fn shares(seconds: u64) -> Result<(), String> {
    let hypervisor = Hypervisor::open()?;
    let times = || -> Result<Vec<u64>, String> {
        Ok(hypervisor.domains(FIRST_GUEST)?.iter().map(|info| info.cpu_time).collect())
    };
    let before = times()?;
    thread::sleep(Duration::from_secs(seconds));
    let used: Vec<u64> = times()?.iter().zip(&before).map(|(now, before)| now - before).collect();
    let mean = used.iter().sum::<u64>() / used.len().max(1) as u64;
    let worst = used.iter().map(|time| time.abs_diff(mean)).max().ok_or("there is no guest")?;
    println!("{} {}", worst * 1000 / mean.max(1), used.len());
    Ok(())
}

/// Sleeps for so many seconds, with an exception before and after that shows in a log of the emulator's.
pub(crate) fn idle(seconds: u64) -> Result<(), String> {
    /// Until what was begun before is over.
    const SETTLE: Duration = Duration::from_secs(2);
    let mark = || Command::new("/proc/self/exe").arg("divide-by-zero").status().map_err(|error| error.to_string());
    thread::sleep(SETTLE);
    mark()?;
    thread::sleep(Duration::from_secs(seconds));
    mark()?;
    Ok(())
}

/// Ends this process by a divide error.
pub(crate) fn divide_by_zero() {
    // SAFETY: the fault ends the process.
    unsafe { asm!("xor ecx, ecx", "xor edx, edx", "div ecx", out("eax") _, out("ecx") _, out("edx") _) };
}
