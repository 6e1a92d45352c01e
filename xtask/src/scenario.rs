//! System tests as data: a machine, and what its serial port must and must not say until it switches itself off or
//! resets, which each must.
//!
//! The matcher is a pure state machine over lines, so it is tested without QEMU; [`Scenario::run`] feeds it from a
//! [`Session`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clocks::Clocks;
use crate::devices::{self, Card, Controller, Disk, Link};
use crate::initrd::{self, Flavour};
use crate::machine::{Loader, Machine, Payload, Threads};
use crate::packages::Debian;
use crate::serial::{Event, Session};
use crate::{acpi, bochs, build, host};
use crate::{rootfs, run};

/// Nothing that works prints these, whichever hypervisor and kernel.
const FORBIDDEN: &[&str] = &[
    "Kernel panic",
    "BUG:",
    "Oops:",
    "WARNING: CPU:",
    "Call Trace:",
    "general protection fault",
    "Panic on CPU",
    "Radon stopped:",
    "Backtrace:",
    "RADON-TEST: FAILED",
    "detected stalls on CPUs",
    "self-detected stall",
    "soft lockup",
];

/// What a machine is expected to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Print a line that contains this.
    Line(String),
    /// Print this without ending the line.
    Prompt(String),
    /// Be sent this (it happens as soon as the steps before are done).
    Send(String),
}

/// Which hypervisors a scenario says something about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applies {
    /// Debian's Xen does the same, so the scenario itself can be checked with it.
    Both,
    /// The text is Radon's own, or Xen cannot do it.
    RadonOnly,
}

/// The file given to the hypervisor as dom0's kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// Debian's.
    Debian,
    /// None, and no other module either.
    Absent,
    /// Only the first so many bytes of Debian's.
    Truncated(usize),
    /// Debian's with a bit in the midst of its packed payload turned over.
    BitFlipped,
    /// Debian's with these bytes where the packed payload begins.
    PayloadMagic(&'static [u8]),
    /// These bytes.
    Bytes(&'static [u8]),
    /// The one that calls every operation.
    Operations,
}

/// The file given as dom0's initial file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Initrd {
    /// A good one.
    Good,
    /// Only the first so many bytes of it.
    Truncated(usize),
    /// These bytes.
    Bytes(&'static [u8]),
}

/// The exit status of an emulator that a hypervisor left because it failed (see `debug_exit`).
const STATUS_FAILED: i32 = 35;

/// A system test.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub applies: Applies,
    machine: Machine,
    flavour: Flavour,
    kernel: Kernel,
    initrd: Initrd,
    tables: Option<acpi::Defect>,
    /// Whether the hypervisor is to leave the emulator with [`STATUS_FAILED`].
    fails: bool,
    /// Whether the machine is to stay as it is after the last step, halted.
    stays: bool,
    script: Option<&'static str>,
    /// The script uses the program `probe`.
    probe: bool,
    /// How far dom0's clocks may go from the host's, if it prints them.
    clock_bound: Option<Duration>,
    /// Lines that begin with this are shown while the machine runs.
    follow: Option<&'static str>,
    steps: Vec<Step>,
    allowed: Vec<&'static str>,
    /// In seconds of QEMU's CPU time.
    limit: u64,
    /// Controllers of empty disks that are made for it.
    disks: Vec<Controller>,
    /// What has the disks before and after, under Debian's Xen.
    before: Option<Box<Scenario>>,
    after: Option<Box<Scenario>>,
    /// What runs at the same time, joined to it by a cable, and whether under Debian's Xen.
    beside: Option<(Box<Scenario>, bool)>,
}

/// Size of a disk that is made for a scenario; what is not written to takes no room.
const DISK_MIB: u64 = 256;

/// How a scenario went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The serial log.
    pub log: PathBuf,
    /// All lines that the machine printed.
    pub lines: Vec<String>,
}

impl Scenario {
    /// A machine with one CPU, the mini dom0 and nothing expected yet.
    pub(crate) fn new(name: &'static str) -> Scenario {
        Scenario {
            name,
            applies: Applies::Both,
            machine: Machine::new(name),
            flavour: Flavour::Mini,
            kernel: Kernel::Debian,
            initrd: Initrd::Good,
            tables: None,
            fails: false,
            stays: false,
            script: None,
            probe: false,
            clock_bound: None,
            follow: None,
            before: None,
            after: None,
            beside: None,
            steps: Vec::new(),
            allowed: Vec::new(),
            limit: 120,
            disks: Vec::new(),
        }
    }

    pub(crate) fn radon_only(mut self) -> Scenario {
        self.applies = Applies::RadonOnly;
        self
    }

    pub(crate) fn cpus(mut self, cpus: u32, threads: Threads) -> Scenario {
        self.machine.cpus = cpus;
        self.machine.threads = threads;
        self
    }

    pub(crate) fn loader(mut self, loader: Loader) -> Scenario {
        self.machine.loader = loader;
        self
    }

    pub(crate) fn memory(mut self, mib: u32) -> Scenario {
        self.machine.memory_mib = mib;
        self
    }

    pub(crate) fn cpu_flags(mut self, flags: &str) -> Scenario {
        self.machine.cpu_flags = flags.to_owned();
        self
    }

    /// With XSAVE and AVX, which other machines lack.
    pub(crate) fn avx(mut self) -> Scenario {
        self.machine.avx = true;
        self
    }

    /// Time is the number of instructions executed: what is measured does not depend on the host.
    pub(crate) fn icount(mut self) -> Scenario {
        self.machine.icount = true;
        self
    }

    /// Gives the script the program `probe`.
    pub(crate) fn probe(mut self) -> Scenario {
        self.probe = true;
        self
    }

    /// dom0's clocks, as `probe` prints them, must stay this near to the host's.
    pub(crate) fn clocks_within(mut self, bound: Duration) -> Scenario {
        self.clock_bound = Some(bound);
        self
    }

    /// Shows lines that begin with `text` while the machine runs.
    pub(crate) fn follow(mut self, text: &'static str) -> Scenario {
        self.follow = Some(text);
        self
    }

    /// Words for dom0's command line.
    pub(crate) fn dom0_append(mut self, words: &str) -> Scenario {
        self.machine.dom0_append = words.to_owned();
        self
    }

    /// Further options for the hypervisor.
    pub(crate) fn append(mut self, options: &str) -> Scenario {
        if !self.machine.append.is_empty() {
            self.machine.append.push(' ');
        }
        self.machine.append.push_str(options);
        self
    }

    /// Before, another machine boots under Debian's Xen with the same disks.
    pub(crate) fn xen_before(mut self, scenario: Scenario) -> Scenario {
        self.before = Some(Box::new(scenario));
        self
    }

    /// Afterwards, another machine boots under Debian's Xen with the same disks.
    pub(crate) fn xen_after(mut self, scenario: Scenario) -> Scenario {
        self.after = Some(Box::new(scenario));
        self
    }

    /// At the same time another machine runs, which shares the disks and is joined by a cable; under Debian's Xen in any
    /// case if `xen` says so.
    pub(crate) fn beside(mut self, scenario: Scenario, xen: bool) -> Scenario {
        self.beside = Some((Box::new(scenario), xen));
        self
    }

    /// The hypervisor says that it, or dom0, failed: by the emulator's exit status.
    pub(crate) fn fails(mut self) -> Scenario {
        self.fails = true;
        self.debug_exit().append("debug_exit")
    }

    /// The machine stays as it is after the last step, instead of ending.
    pub(crate) fn stays(mut self) -> Scenario {
        self.stays = true;
        self
    }

    pub(crate) fn initrd(mut self, initrd: Initrd) -> Scenario {
        self.initrd = initrd;
        self
    }

    /// A machine with few ACPI tables, one of which is broken.
    pub(crate) fn broken_table(mut self, name: &'static str, flaw: acpi::Flaw) -> Scenario {
        self.tables = Some((name, flaw));
        self
    }

    /// Disks with an empty ext4 file system, one on each of these controllers.
    pub(crate) fn disks(mut self, controllers: &[Controller]) -> Scenario {
        self.disks = controllers.to_vec();
        self
    }

    pub(crate) fn cards(mut self, cards: &[Card]) -> Scenario {
        self.machine.cards = cards.to_vec();
        self
    }

    /// The machine starts again after a reset, with the same script in dom0, instead of ending QEMU.
    pub(crate) fn resets(mut self) -> Scenario {
        self.machine.resets = true;
        self
    }

    pub(crate) fn debug_exit(mut self) -> Scenario {
        self.machine.debug_exit = true;
        self
    }

    pub(crate) fn kernel(mut self, kernel: Kernel) -> Scenario {
        self.kernel = kernel;
        self
    }

    pub(crate) fn flavour(mut self, flavour: Flavour) -> Scenario {
        self.flavour = flavour;
        self
    }

    /// Runs `text` as a shell script in dom0. It prints result lines of the form `RADON-TEST: name ok`; these are
    /// expected in order, after the line of dom0's user space and before the script's end with status 0.
    pub(crate) fn script(self, text: &'static str, results: &[&str]) -> Scenario {
        let mut scenario = self.last_script(text);
        for result in results {
            scenario.steps.push(Step::Line(format!("RADON-TEST: {result} ok")));
        }
        scenario.expect(&["RADON-TEST: script exit 0"])
    }

    /// Runs `text` as a shell script in dom0 from which dom0 does not return.
    pub(crate) fn last_script(mut self, text: &'static str) -> Scenario {
        self.script = Some(text);
        self.expect(&["RADON-TEST: dom0 userspace up"])
    }

    /// Expects lines that contain these, in this order.
    pub(crate) fn expect(mut self, lines: &[&str]) -> Scenario {
        self.steps.extend(lines.iter().map(|line| Step::Line((*line).to_owned())));
        self
    }

    /// Expects a line that contains this before all others.
    pub(crate) fn first(mut self, line: &str) -> Scenario {
        self.steps.insert(0, Step::Line(line.to_owned()));
        self
    }

    /// Waits for `prompt` at the end of what is printed, then types `text`.
    pub(crate) fn answer(mut self, prompt: &str, text: &str) -> Scenario {
        self.steps.push(Step::Prompt(prompt.to_owned()));
        self.steps.push(Step::Send(text.to_owned()));
        self
    }

    /// Types `text` when the steps before are done.
    pub(crate) fn send(mut self, text: &str) -> Scenario {
        self.steps.push(Step::Send(text.to_owned()));
        self
    }

    /// Lets the machine print something that is forbidden otherwise.
    pub(crate) fn allow(mut self, text: &'static str) -> Scenario {
        self.allowed.push(text);
        self
    }

    /// In seconds of QEMU's CPU time.
    pub(crate) fn limit(mut self, seconds: u64) -> Scenario {
        self.limit = seconds;
        self
    }

    /// Why it cannot be run here, if it cannot.
    pub(crate) fn obstacle(&self) -> Option<&'static str> {
        let without_bochs = self.machine.loader == Loader::Bochs && !bochs::is_built();
        without_bochs.then_some("the emulator Bochs is not built (cargo xtask run --bochs does it)")
    }

    /// Boots the machine and watches it to its end.
    pub(crate) fn run(&self, debian: &Debian, hypervisor: &Path, is_xen: bool, logs: &Path) -> Result<Outcome> {
        let mut disks = Vec::new();
        for (number, controller) in self.disks.iter().enumerate() {
            let file = host::output().join(format!("{}.disk{number}", self.name));
            devices::empty_disk(&file, DISK_MIB)?;
            disks.push(Disk { shared: self.beside.is_some(), ..Disk::new(*controller, &file) });
        }
        let under_xen = |scenario: &Scenario| {
            let xen = run::debian_xen(debian)?;
            scenario.boot(debian, &xen, true, logs, &disks, None)
        };
        let before = self.before.as_deref().map(under_xen).transpose()?;
        if let Some(outcome) = before.filter(|o| o.failure.is_some()) {
            return Ok(outcome);
        }
        let mut outcome = match &self.beside {
            None => self.boot(debian, hypervisor, is_xen, logs, &disks, None)?,
            Some((other, true)) if !is_xen => {
                self.boot_two(debian, (hypervisor, is_xen), other, (&run::debian_xen(debian)?, true), logs, &disks)?
            }
            Some((other, _)) => {
                self.boot_two(debian, (hypervisor, is_xen), other, (hypervisor, is_xen), logs, &disks)?
            }
        };
        if let (None, Some(scenario)) = (&outcome.failure, &self.after) {
            outcome = under_xen(scenario)?;
        }
        if outcome.failure.is_none() {
            // A failure can be repeated with the command in the log.
            for number in 0..disks.len() {
                let _ = std::fs::remove_file(host::output().join(format!("{}.disk{number}", self.name)));
            }
        }
        Ok(outcome)
    }

    /// Boots this machine and `other`, each with its hypervisor. When one fails, so does the other.
    fn boot_two(
        &self,
        debian: &Debian,
        (mine, mine_is_xen): (&Path, bool),
        other: &Scenario,
        (others, others_is_xen): (&Path, bool),
        logs: &Path,
        disks: &[Disk],
    ) -> Result<Outcome> {
        let socket = host::output().join(format!("{}.socket", self.name));
        let _ = std::fs::remove_file(&socket);
        let (mut here, mut there) = (self.clone(), other.clone());
        here.machine.link = Some(Link { socket: socket.clone(), listens: true });
        there.machine.link = Some(Link { socket: socket.clone(), listens: false });
        let stop = Arc::new(AtomicBool::new(false));
        let failed = |outcome: &Result<Outcome>| outcome.as_ref().map_or(true, |o| o.failure.is_some());
        let (here, there) = std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                while !socket.exists() && !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(100));
                }
                let outcome = there.boot(debian, others, others_is_xen, logs, disks, Some(&stop));
                stop.fetch_or(failed(&outcome), Ordering::Relaxed);
                outcome
            });
            let outcome = here.boot(debian, mine, mine_is_xen, logs, disks, Some(&stop));
            stop.fetch_or(failed(&outcome), Ordering::Relaxed);
            (outcome, there.join())
        });
        let _ = std::fs::remove_file(&socket);
        let (mut here, there) = (here?, there.map_err(|_| anyhow::anyhow!("the other machine's watcher panicked"))??);
        let theirs = there.failure.map(|why| format!("the other machine: {why} ({})", there.log.display()));
        here.failure = match (here.failure, theirs) {
            (Some(mine), Some(theirs)) => Some(format!("{mine}; {theirs}")),
            (mine, theirs) => mine.or(theirs),
        };
        Ok(here)
    }

    /// Boots one machine; it is given up when `stop` becomes true.
    fn boot(
        &self,
        debian: &Debian,
        hypervisor: &Path,
        is_xen: bool,
        logs: &Path,
        disks: &[Disk],
        stop: Option<&Arc<AtomicBool>>,
    ) -> Result<Outcome> {
        let mut machine = self.machine.clone();
        let mut kernel = Some(debian.kernel());
        let mut module = None;
        match &self.kernel {
            Kernel::Debian => module = Some(initrd::build(debian, self.flavour)?),
            Kernel::Absent => kernel = None,
            Kernel::Truncated(size) => {
                let whole = std::fs::read(debian.kernel())?;
                kernel = Some(initrd::store(&format!("{}.kernel", self.name), whole.get(..*size).unwrap_or(&whole))?);
            }
            Kernel::BitFlipped => {
                let mut whole = std::fs::read(debian.kernel())?;
                let payload = payload(&whole)?;
                whole[payload.start + payload.len() / 2] ^= 0x10;
                module = Some(initrd::build(debian, self.flavour)?);
                kernel = Some(initrd::store(&format!("{}.kernel", self.name), &whole)?);
            }
            Kernel::PayloadMagic(magic) => {
                let mut whole = std::fs::read(debian.kernel())?;
                let payload = payload(&whole)?;
                whole[payload.start..payload.start + magic.len()].copy_from_slice(magic);
                kernel = Some(initrd::store(&format!("{}.kernel", self.name), &whole)?);
            }
            Kernel::Operations => kernel = Some(build::operations()?),
            Kernel::Bytes(bytes) => kernel = Some(initrd::store(&format!("{}.kernel", self.name), bytes)?),
        }
        match (self.initrd, &module) {
            (Initrd::Truncated(size), Some(good)) => {
                let whole = std::fs::read(good)?;
                let file = format!("{}.cpio", self.name);
                module = Some(initrd::store(&file, whole.get(..size).unwrap_or(&whole))?);
            }
            (Initrd::Bytes(bytes), _) => module = Some(initrd::store(&format!("{}.cpio", self.name), bytes)?),
            _ => {}
        }
        if let Some(defect) = self.tables {
            machine.extra.extend(acpi::arguments(self.name, defect)?);
        }
        if let (Some(text), Some(base)) = (self.script, &module) {
            let probe = if self.probe { Some(build::probe()?) } else { None };
            let (file, path) = initrd::with_script(base, self.name, text, probe)?;
            module = Some(file);
            machine.dom0_append = format!("radon.script={path} {}", machine.dom0_append);
        }
        if self.flavour == Flavour::Debian {
            machine.disks.push(rootfs::disk(debian)?);
            machine.dom0_append = rootfs::KERNEL_OPTIONS.to_owned();
        }
        machine.disks.extend(disks.iter().cloned());
        let payload = Payload { hypervisor: hypervisor.to_path_buf(), is_xen, kernel, initrd: module };
        let mut emulator = machine.command(&payload, false)?;
        let log = logs.join(format!("{}.log", self.name));
        let mut session = Session::start(&mut emulator, &log, Duration::from_secs(self.limit), false)?;
        if let Some(flag) = stop {
            session.abandon_when(flag.clone());
        }
        let mut matcher = Matcher::new(&self.steps, &self.allowed);
        let mut lines = Vec::new();
        let mut clocks = Clocks::default();
        let mut failure = loop {
            if self.stays && matcher.done() {
                // Longer than any delay before a restart.
                let ended = drain(&mut session, &mut lines, Duration::from_secs(8))?;
                break ended.then(|| "the machine ended instead of staying".to_owned());
            }
            while let Some(text) = matcher.take_input() {
                session.send(&text)?;
            }
            match session.next()? {
                Event::Line(line) => {
                    clocks.line(&line);
                    if self.follow.is_some_and(|text| line.starts_with(text)) {
                        println!("{line}");
                    }
                    let problem = matcher.line(&line);
                    lines.push(line);
                    if problem.is_some() {
                        break problem;
                    }
                }
                Event::Partial(text) => matcher.partial(&text),
                Event::Limit(limit) => break Some(format!("{limit}; {}", matcher.state())),
                Event::Ended(status) if self.fails && matcher.done() && status.code() != Some(STATUS_FAILED) => {
                    break Some(format!("QEMU ended ({status}) without saying that the machine failed"));
                }
                Event::Ended(_) if matcher.done() => break None,
                Event::Ended(status) => break Some(format!("QEMU ended ({status}); {}", matcher.state())),
            }
        };
        if let Some(bound) = self.clock_bound {
            let text = clocks.report();
            session.note(&text)?;
            if self.follow.is_some() {
                println!("{text}");
            }
            failure = failure.or_else(|| clocks.problem(bound));
        }
        if let Some(text) = &failure {
            // A report of several lines is worth having in the log as a whole.
            drain(&mut session, &mut lines, Duration::from_secs(2))?;
            session.note(text)?;
        } else {
            // What was made for this machine only; a failure can be repeated with the command in the log.
            initrd::remove(self.name);
        }
        Ok(Outcome { failure, log, lines })
    }
}

/// Where a bzImage's packed payload is (Linux's boot protocol 2.08).
fn payload(image: &[u8]) -> Result<std::ops::Range<usize>> {
    let word = |at: usize| image.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    let setup = image.get(0x1f1).context("the kernel is no bzImage")?;
    let start = (usize::from(*setup) + 1) * 512 + word(0x248).context("the kernel is no bzImage")? as usize;
    let length = word(0x24c).context("the kernel is no bzImage")? as usize;
    ensure!(length > 4 && start + length <= image.len(), "the kernel's payload lies outside of its file");
    Ok(start..start + length)
}

/// Reads on for a while; returns whether the machine ended.
fn drain(session: &mut Session, lines: &mut Vec<String>, time: Duration) -> Result<bool> {
    let until = std::time::Instant::now() + time;
    session.stop_at(until);
    loop {
        match session.next()? {
            Event::Line(line) => lines.push(line),
            Event::Partial(_) => {}
            Event::Limit(_) => return Ok(false),
            Event::Ended(_) => return Ok(true),
        }
    }
}

/// Compares lines with steps.
pub(crate) struct Matcher<'a> {
    steps: &'a [Step],
    next: usize,
    allowed: &'a [&'a str],
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(steps: &'a [Step], allowed: &'a [&'a str]) -> Matcher<'a> {
        Matcher { steps, next: 0, allowed }
    }

    /// Takes a whole line and returns what is wrong with it, if anything is.
    pub(crate) fn line(&mut self, line: &str) -> Option<String> {
        // The expected line may say what is forbidden elsewhere.
        if let Some(Step::Line(expected) | Step::Prompt(expected)) = self.steps.get(self.next)
            && line.contains(expected.as_str())
        {
            self.next += 1;
            return None;
        }
        let mut forbidden = FORBIDDEN.iter().filter(|text| !self.allowed.contains(text));
        forbidden.find(|text| line.contains(**text)).map(|_| format!("it printed: {}; {}", line.trim(), self.state()))
    }

    /// Takes the beginning of a line, which may be a prompt.
    pub(crate) fn partial(&mut self, text: &str) {
        if let Some(Step::Prompt(expected)) = self.steps.get(self.next)
            && text.contains(expected.as_str())
        {
            self.next += 1;
        }
    }

    /// What is to be typed now; done with when returned.
    pub(crate) fn take_input(&mut self) -> Option<String> {
        let Some(Step::Send(text)) = self.steps.get(self.next) else { return None };
        self.next += 1;
        Some(text.clone())
    }

    /// Whether all steps were taken.
    pub(crate) fn done(&self) -> bool {
        self.next == self.steps.len()
    }

    /// What is missing, in words.
    pub(crate) fn state(&self) -> String {
        match self.steps.get(self.next) {
            Some(Step::Line(text)) => format!("still to come: \"{text}\""),
            Some(Step::Prompt(text)) => format!("still to come: the prompt \"{text}\""),
            Some(Step::Send(text)) => format!("still to be sent: \"{}\"", text.escape_debug()),
            None => "all expected lines had come".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(lines: &[&str]) -> Vec<Step> {
        lines.iter().map(|line| Step::Line((*line).to_owned())).collect()
    }

    #[test]
    fn lines_must_come_in_order() {
        let steps = steps(&["one", "two"]);
        let mut matcher = Matcher::new(&steps, &[]);
        assert_eq!(matcher.line("two"), None);
        assert_eq!(matcher.line("[1.0] one!"), None);
        assert!(!matcher.done());
        assert_eq!(matcher.state(), "still to come: \"two\"");
        assert_eq!(matcher.line("two"), None);
        assert!(matcher.done());
    }

    #[test]
    fn one_line_meets_one_step() {
        let steps = steps(&["a", "a"]);
        let mut matcher = Matcher::new(&steps, &[]);
        matcher.line("a a");
        assert!(!matcher.done());
    }

    #[test]
    fn forbidden_lines_fail_unless_allowed_or_expected() {
        let steps = steps(&["Kernel panic - expected"]);
        let mut matcher = Matcher::new(&steps, &["Oops:"]);
        assert_eq!(matcher.line("Kernel panic - expected one"), None);
        assert_eq!(matcher.line("Oops: 0000"), None);
        assert!(matcher.line("Kernel panic - another").is_some());
        assert!(matcher.line("BUG: at").is_some());
    }

    #[test]
    fn a_prompt_is_answered_once() {
        let steps = [Step::Prompt("# ".to_owned()), Step::Send("ls\n".to_owned()), Step::Line("bin".to_owned())];
        let mut matcher = Matcher::new(&steps, &[]);
        assert_eq!(matcher.take_input(), None);
        matcher.partial("/ ");
        assert_eq!(matcher.take_input(), None);
        matcher.partial("/ # ");
        assert_eq!(matcher.take_input().as_deref(), Some("ls\n"));
        assert_eq!(matcher.take_input(), None);
        matcher.partial("bin");
        assert!(!matcher.done());
        matcher.line("bin dev");
        assert!(matcher.done());
    }
}
