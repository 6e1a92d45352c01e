//! `cargo xtask xtf`: the tests of a built tree of the Xen Test Framework, on Radon and on Debian's Xen in the same
//! emulated machine.
//!
//! The project has neither the framework nor a recipe for it: the user names a tree that is built. Each test is a kernel of
//! its own with a PVH entry. It runs in two [`Way`]s: in dom0's place, one machine each; and as a guest of the tools' dom0,
//! one machine for all of them, which is booted again after a test that it did not survive. The last line that begins with
//! "Test result:" is what a test says of itself. Everything that succeeds on Xen has to succeed on Radon.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::build;
use crate::cpio::Archive;
use crate::initrd::{self, Flavour};
use crate::machine::{Machine, Payload};
use crate::packages::{self, Debian};
use crate::serial::{Event, Session};
use crate::{host, run};

/// Seconds of QEMU's CPU time for a test in dom0's place, and for one in a guest.
const LIMIT: u64 = 60;
/// The same for the boot of the dom0 that has guests.
const BOOT_LIMIT: u64 = 120;
/// RDTSCP exits of QEMU's are beyond Debian's Xen; both get the same processor.
const CPU_FLAGS: &str = ",-rdtscp";
/// Tests that judge the instruction emulator ask it to execute what the processor could. Xen's release builds do not know
/// this option.
const FORCED: &str = "hvm_fep";
const SCRIPT: &str = include_str!("../scripts/xtf.sh");

/// Options of `cargo xtask xtf`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// A built tree of the Xen Test Framework
    #[arg(long)]
    tree: PathBuf,
    /// Only tests whose name contains this; may be repeated
    #[arg(long)]
    test: Vec<String>,
    /// Only in dom0's place, or only as guests
    #[arg(long, value_enum)]
    way: Option<Way>,
    /// Only on this hypervisor
    #[arg(long, value_enum)]
    only: Option<Hypervisor>,
    /// Added to QEMU's CPU model for both, such as ",+umip"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cpu_flags: String,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// Where a test runs.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Way {
    /// As the kernel of dom0.
    Dom0,
    /// As a PVH guest that xl creates.
    Guest,
}

/// What it runs on.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Hypervisor {
    /// Radon.
    Radon,
    /// Debian's Xen.
    Xen,
}

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It says so.
    Success,
    /// The machine lacks what it needs.
    Skip,
    /// It could not be carried out.
    Error,
    /// What it looks at is not as it should be.
    Failure,
    /// It ended without a verdict.
    Crash,
    /// It did not end.
    Hang,
    /// The toolstack could not make the guest that it asks for.
    Refused,
    /// The hypervisor, or the dom0 that controlled it, did not survive it.
    Machine,
}

impl Verdict {
    /// From the framework's word.
    fn of(word: &str) -> Option<Verdict> {
        Some(match word.trim() {
            "SUCCESS" => Verdict::Success,
            "SKIP" => Verdict::Skip,
            "ERROR" => Verdict::Error,
            "FAILURE" => Verdict::Failure,
            "CRASH" => Verdict::Crash,
            "HANG" => Verdict::Hang,
            "REFUSED" => Verdict::Refused,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Verdict::Success => "success",
            Verdict::Skip => "skip",
            Verdict::Error => "error",
            Verdict::Failure => "failure",
            Verdict::Crash => "crash",
            Verdict::Hang => "hang",
            Verdict::Refused => "refused",
            Verdict::Machine => "MACHINE",
        }
    }
}

/// A test: `hvm64-example`.
#[derive(Clone, Debug)]
struct Test {
    name: String,
    image: PathBuf,
    /// What its configuration asks for beside the usual.
    settings: String,
}

/// Tests that are run only if they are asked for by name: there is nothing in them that QEMU lets them judge, and on Xen each
/// takes all the time it may.
const UNJUDGED: &str = "hvm32pae-";
/// Tests whose verdict says more about QEMU's translator than about a hypervisor, and why.
const SPOILED: &[(&str, &str)] = &[
    (UNJUDGED, "QEMU sets reserved bits in page directory pointers"),
    ("swint-emulation", "QEMU has no INT1, and a wrong error code for absent gates in long mode"),
    ("memop-seg", "QEMU reports #GP where processors report #SS"),
    ("fpu-exception-emulation", "QEMU gives #NM where processors prefer #UD"),
    ("xsa-308", "QEMU has no INT1"),
];

/// Tests that succeed on Xen and cannot on Radon, and why. They are shown as gaps and do not make the command fail.
const GAPS: &[(&str, &str)] = &[("nested-svm", "Radon has no nested virtualization")];

fn gap(name: &str) -> Option<&'static str> {
    GAPS.iter().find(|(part, _)| name.contains(part)).map(|(_, why)| *why)
}

fn spoiled(name: &str) -> Option<&'static str> {
    SPOILED.iter().find(|(part, _)| name.contains(part)).map(|(_, why)| *why)
}

type Verdicts = BTreeMap<(Way, String), BTreeMap<Hypervisor, Verdict>>;

/// Runs the tests. Returns whether all that succeeds on Xen succeeds on Radon, and the hypervisor survived all of them.
pub(crate) fn xtf(options: &Options) -> Result<bool> {
    let mut tests = find(&options.tree)?;
    let all = tests.len();
    tests.retain(|test| match options.test.is_empty() {
        true => !test.name.starts_with(UNJUDGED),
        false => options.test.iter().any(|part| test.name.contains(part.as_str())),
    });
    if options.test.is_empty() && tests.len() < all {
        let left_out = all - tests.len();
        eprintln!(
            "LEFT OUT: {left_out} tests {UNJUDGED}*: {}; --test {UNJUDGED} runs them",
            spoiled(UNJUDGED).unwrap_or("")
        );
    }
    ensure!(!tests.is_empty(), "no built test of that name is in {}", options.tree.display());
    let debian = packages::fetch()?;
    let mut verdicts = Verdicts::new();
    for hypervisor in [Hypervisor::Radon, Hypervisor::Xen] {
        if options.only.is_some_and(|only| only != hypervisor) {
            continue;
        }
        let file = match hypervisor {
            Hypervisor::Radon => build::build_with_forced_emulation()?,
            Hypervisor::Xen => run::debian_xen(&debian)?,
        };
        let lab = Lab { debian: &debian, hypervisor, file, cpu_flags: &options.cpu_flags };
        for way in [Way::Dom0, Way::Guest] {
            if options.way.is_some_and(|only| only != way) {
                continue;
            }
            let mut note = |test: &Test, verdict: Verdict| {
                let place = format!("{hypervisor:?} {way:?}").to_lowercase();
                eprintln!("{place:<12} {:<40} {}", test.name, verdict.word());
                verdicts.entry((way, test.name.clone())).or_default().insert(hypervisor, verdict);
            };
            match way {
                Way::Dom0 => {
                    for test in &tests {
                        note(test, lab.dom0(test)?);
                    }
                }
                Way::Guest => lab.guests(&tests, &mut note)?,
            }
        }
    }
    let worse = worse(&verdicts);
    if options.json {
        println!("{:#}", report(&verdicts, &worse));
    } else {
        print(&verdicts, &worse);
    }
    Ok(worse.is_empty())
}

/// The built images in a tree, sorted by name.
fn find(tree: &Path) -> Result<Vec<Test>> {
    let folders = tree.join("tests");
    let mut tests = Vec::new();
    for folder in fs::read_dir(&folders).with_context(|| format!("{} is not a tree of tests", tree.display()))? {
        let folder = folder?.path();
        if !folder.is_dir() {
            continue;
        }
        for file in fs::read_dir(&folder)? {
            let image = file?.path();
            let name = image.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(name) = name.strip_prefix("test-").filter(|name| name.starts_with("hvm")) else { continue };
            if name.contains('.') || name.contains('~') {
                continue; // its configuration, or one of a variation that PVH guests do not have
            }
            let settings = fs::read_to_string(format!("{}.cfg", image.display())).unwrap_or_default();
            tests.push(Test { name: name.to_owned(), settings: kept(&settings), image });
        }
    }
    tests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tests)
}

/// Lines of a test's configuration that hold for a PVH guest as well.
fn kept(settings: &str) -> String {
    const OTHERS: &[&str] =
        &["name", "type", "builder", "memory", "firmware_override", "on_reboot", "kernel", "loader"];
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let wanted = settings.lines().filter(|line| line.contains('=') && !line.trim_start().starts_with('#'));
    wanted.filter(|line| !OTHERS.contains(&key(line).as_str())).map(|line| format!("{line}\n")).collect()
}

/// What the machines boot.
struct Lab<'a> {
    debian: &'a Debian,
    hypervisor: Hypervisor,
    file: PathBuf,
    cpu_flags: &'a str,
}

impl Lab<'_> {
    fn machine(&self, name: &str) -> Machine {
        let mut machine = Machine::new(name);
        machine.cpu_flags = format!("{CPU_FLAGS}{}", self.cpu_flags);
        machine
    }

    fn session(&self, machine: &Machine, kernel: PathBuf, initrd: Option<PathBuf>, limit: u64) -> Result<Session> {
        let is_xen = self.hypervisor == Hypervisor::Xen;
        let payload = Payload { hypervisor: self.file.clone(), is_xen, kernel: Some(kernel), initrd };
        let log = host::output().join("logs").join(format!("{}.log", machine.name));
        Session::start(&mut machine.command(&payload, false)?, &log, Duration::from_secs(limit), false)
    }

    fn prefix(&self) -> String {
        format!("xtf-{:?}", self.hypervisor).to_lowercase()
    }

    /// Runs a test in dom0's place.
    fn dom0(&self, test: &Test) -> Result<Verdict> {
        let mut machine = self.machine(&format!("{}-{}", self.prefix(), test.name));
        machine.append = format!("{FORCED} noreboot");
        let mut session = self.session(&machine, test.image.clone(), None, LIMIT)?;
        let mut ended = Verdict::Hang;
        loop {
            match session.next()? {
                Event::Line(line) => match judge(&line) {
                    Some(Verdict::Crash) => ended = Verdict::Crash,
                    Some(verdict) => return Ok(verdict),
                    // Both say so when dom0 is done, and stay or end.
                    None if dom0_ended(&line) => return Ok(Verdict::Crash),
                    None => {}
                },
                Event::Partial(_) => {}
                Event::Limit(_) => return Ok(ended),
                Event::Ended(_) => return Ok(Verdict::Crash),
            }
        }
    }

    /// Runs tests as guests, and tells what comes of each.
    fn guests(&self, tests: &[Test], note: &mut dyn FnMut(&Test, Verdict)) -> Result<()> {
        let mut left = tests;
        while !left.is_empty() {
            let done = self.boot_with_guests(left, note)?;
            left = left.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// Boots dom0 and runs tests until all are done or one ends the machine. Returns how many are done.
    fn boot_with_guests(&self, tests: &[Test], note: &mut dyn FnMut(&Test, Verdict)) -> Result<usize> {
        let name = format!("{}-guests", self.prefix());
        let mut machine = self.machine(&name);
        let mut bytes = fs::read(initrd::build(self.debian, Flavour::Tools)?)?;
        let mut archive = Archive::new();
        archive.directory("xtf");
        for (number, test) in tests.iter().enumerate() {
            // In the order of the list, also beyond 9.
            archive.file(&format!("xtf/{number:04}"), 0o644, fs::read(&test.image)?);
            let settings = format!("name='xtf-{number:04}'\n{}", test.settings);
            archive.file(&format!("xtf/{number:04}.cfg"), 0o644, settings);
        }
        archive.write(&mut bytes)?;
        let base = initrd::store(&format!("{name}-base.cpio"), &bytes)?;
        let (initrd, script) = initrd::with_script(&base, &name, SCRIPT, None)?;
        fs::remove_file(base)?;
        machine.append = FORCED.to_owned();
        machine.dom0_append = format!("radon.script={script}");
        let limit = BOOT_LIMIT + LIMIT * tests.len() as u64;
        let mut session = self.session(&machine, self.debian.kernel(), Some(initrd), limit)?;
        let mut current = None;
        let mut done = 0;
        loop {
            match session.next()? {
                Event::Line(line) => match parse(&line) {
                    Some((number, None)) => current = tests.get(number),
                    Some((_, Some(verdict))) => {
                        if let Some(test) = current.take() {
                            note(test, verdict);
                            done += 1;
                        }
                    }
                    None if line.contains("RADON-TEST: script exit") => break,
                    None => {}
                },
                Event::Partial(_) => {}
                Event::Limit(_) | Event::Ended(_) => break,
            }
        }
        if let Some(test) = current {
            note(test, Verdict::Machine);
            done += 1;
        }
        ensure!(done > 0, "dom0 did not come up; see target/radon/logs/{name}.log");
        initrd::remove(&name);
        Ok(done)
    }
}

/// What a line of a test in dom0's place says of it.
fn judge(line: &str) -> Option<Verdict> {
    if line.contains("Radon stopped:") || line.contains("Panic on CPU") {
        return Some(Verdict::Machine);
    }
    // A test that panics goes on to stop itself, which is seen by what the hypervisor says.
    line.split_once("Test result: ").and_then(|(_, word)| Verdict::of(word))
}

/// Whether the hypervisor says that dom0 is no more.
fn dom0_ended(line: &str) -> bool {
    ["Hardware domain crashed", "Hardware domain halted", "Hardware Dom0 crashed", "Hardware Dom0 halted"]
        .iter()
        .any(|text| line.contains(text))
}

/// A line of the script in dom0: the number of a test that begins, or that ends with a verdict.
fn parse(line: &str) -> Option<(usize, Option<Verdict>)> {
    let (_, rest) = line.split_once("XTF: ")?;
    let mut words = rest.split_whitespace();
    let what = words.next()?;
    let number = words.next()?.parse().ok()?;
    match what {
        "begin" => Some((number, None)),
        "end" => Some((number, Some(words.next().and_then(Verdict::of)?))),
        _ => None,
    }
}

/// Tests that succeed on Xen and not on Radon, and those that Radon does not survive.
fn worse(verdicts: &Verdicts) -> Vec<(Way, String)> {
    let is_worse = |on: &BTreeMap<Hypervisor, Verdict>| match (on.get(&Hypervisor::Radon), on.get(&Hypervisor::Xen)) {
        (Some(Verdict::Machine), _) => true,
        (Some(radon), Some(Verdict::Success)) => *radon != Verdict::Success,
        _ => false,
    };
    let is_known = |name: &str, on: &BTreeMap<Hypervisor, Verdict>| {
        gap(name).is_some() && on.get(&Hypervisor::Radon) != Some(&Verdict::Machine)
    };
    verdicts.iter().filter(|((_, name), on)| is_worse(on) && !is_known(name, on)).map(|(key, _)| key.clone()).collect()
}

fn print(verdicts: &Verdicts, worse: &[(Way, String)]) {
    println!("{:<6} {:<40} {:<8} {:<8}", "way", "test", "Radon", "Xen");
    let mut counts: BTreeMap<(Way, Hypervisor, &str), usize> = BTreeMap::new();
    for ((way, name), on) in verdicts {
        let word = |hypervisor| on.get(&hypervisor).map_or("-", |v| v.word());
        let succeeds = on.get(&Hypervisor::Radon) == Some(&Verdict::Success);
        let remark = match (worse.contains(&(*way, name.clone())), gap(name).or(spoiled(name))) {
            (true, _) => "WORSE".to_owned(),
            (false, Some(why)) if !succeeds => format!("({why})"),
            (false, _) => String::new(),
        };
        let place = format!("{way:?}").to_lowercase();
        let line =
            format!("{place:<6} {name:<40} {:<8} {:<8} {remark}", word(Hypervisor::Radon), word(Hypervisor::Xen));
        println!("{}", line.trim_end());
        for (hypervisor, verdict) in on {
            *counts.entry((*way, *hypervisor, verdict.word())).or_default() += 1;
        }
    }
    for ((way, hypervisor, word), count) in counts {
        println!("{:<6} {:<6} {count:>3} {word}", format!("{way:?}").to_lowercase(), format!("{hypervisor:?}"));
    }
    match worse.len() {
        0 => println!("Nothing that succeeds on Xen fails on Radon, but for gaps that are named."),
        n => println!("{n} are worse on Radon"),
    }
}

fn report(verdicts: &Verdicts, worse: &[(Way, String)]) -> serde_json::Value {
    let tests = verdicts.iter().map(|((way, name), on)| {
        let word = |hypervisor| on.get(&hypervisor).map(|v| v.word());
        json!({
            "way": format!("{way:?}").to_lowercase(),
            "test": name,
            "radon": word(Hypervisor::Radon),
            "xen": word(Hypervisor::Xen),
            "worse": worse.contains(&(*way, name.clone())),
            "spoiled": spoiled(name),
            "gap": gap(name),
        })
    });
    json!({ "tests": tests.collect::<Vec<_>>(), "worse": worse.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_script_are_read() {
        assert_eq!(parse("XTF: begin 0012"), Some((12, None)));
        assert_eq!(parse("[ 1.0] XTF: end 0012 SUCCESS"), Some((12, Some(Verdict::Success))));
        assert_eq!(parse("XTF: end 0012 SOMETHING"), None);
        assert_eq!(parse("XTF: end x SKIP"), None);
        assert_eq!(parse("Test result: SKIP"), None);
    }

    #[test]
    fn a_test_s_own_word_counts_and_a_dead_hypervisor_more() {
        assert_eq!(judge("(d0) Test result: FAILURE"), Some(Verdict::Failure));
        assert_eq!(judge("(XEN) Panic on CPU 0:"), Some(Verdict::Machine));
        assert_eq!(judge("PANIC: Failed to map shared_info: -22"), None);
        assert!(dom0_ended("(XEN) Hardware Dom0 crashed: 'noreboot' set - not rebooting."));
    }

    #[test]
    fn only_what_xen_can_do_is_asked_of_radon() {
        let mut verdicts = Verdicts::new();
        let mut add = |name: &str, radon, xen| {
            let on = BTreeMap::from([(Hypervisor::Radon, radon), (Hypervisor::Xen, xen)]);
            verdicts.insert((Way::Dom0, name.to_owned()), on);
        };
        add("both", Verdict::Success, Verdict::Success);
        add("skipped", Verdict::Skip, Verdict::Success);
        add("neither", Verdict::Failure, Verdict::Failure);
        add("better", Verdict::Success, Verdict::Crash);
        add("deadly", Verdict::Machine, Verdict::Skip);
        add("hvm64-nested-svm", Verdict::Refused, Verdict::Success);
        add("hvm32-nested-svm", Verdict::Machine, Verdict::Skip);
        let names: Vec<String> = worse(&verdicts).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, ["deadly", "hvm32-nested-svm", "skipped"]);
    }

    #[test]
    fn settings_that_pvh_guests_have_are_kept() {
        let text = "name=\"x\"\n# a=b\nvcpus=2 \ntype=\"hvm\"\nnestedhvm = 1\nmemory=128\n";
        assert_eq!(kept(text), "vcpus=2 \nnestedhvm = 1\n");
    }
}
