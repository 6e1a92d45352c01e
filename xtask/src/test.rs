//! `cargo xtask test`: every check of the project, in order of how soon it says something.

use std::cell::OnceCell;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::build::Profile;
use crate::machine::Threads;
use crate::packages::Debian;
use crate::scenario::{Applies, Kernel, Outcome, Scenario};
use crate::{build, host, operations, packages, run, scenarios, sim};

/// Lines of a failing test's log that are shown.
const TAIL: usize = 15;
/// Crates that are tested on the host.
const HOST_CRATES: &[&str] =
    &["radon-abi", "radon-core", "radon-x86", "radon-sim", "radon-probe", "radon-fuzz", "radon-interleave", "xtask"];
/// Crates that are built for the bare machine only.
const BARE_CRATES: &[&str] = &["radon-hal", "radon", "radon-guest", "radon-micro", "radon-ops", "radon-tenant"];

/// The documentation is for those who work on Radon.
const PRIVATE: &str = "--document-private-items";

/// Options of `cargo xtask test`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only checks whose name contains this
    filter: Option<String>,
    /// Run the system tests against Debian's Xen (and nothing else): does a scenario say what is true?
    #[arg(long)]
    xen: bool,
    /// Print the names and do nothing
    #[arg(long)]
    list: bool,
}

/// A check.
enum Check {
    /// A command that has to succeed.
    Command(Command),
    /// The tests of a crate, counted one by one.
    HostTests(&'static str),
    /// Test functions inside the hypervisor, counted one by one.
    Ring0(Box<Scenario>),
    /// A kernel that calls every operation, counted one by one.
    Operations(Box<Scenario>),
    /// An emulated machine.
    System(Box<Scenario>),
}

/// What came of a check.
#[derive(Default)]
struct Counts {
    passed: u32,
    failed: u32,
    skipped: u32,
}

/// Runs the checks that `options` select. Returns whether none failed.
pub(crate) fn test(options: &Options) -> Result<bool> {
    let filter = options.filter.as_deref().unwrap_or_default();
    let mut checks = checks(options.xen);
    checks.retain(|(name, _)| name.contains(filter));
    if options.list {
        checks.iter().for_each(|(name, _)| println!("{name}"));
        return Ok(true);
    }
    let logs = host::output().join("logs");
    fs::create_dir_all(&logs)?;
    let mut total = Counts::default();
    let lab = Lab { xen: options.xen, logs: logs.clone(), prepared: OnceCell::new() };
    for (name, check) in checks {
        let spinner = ProgressBar::new_spinner().with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}")?);
        spinner.set_message(name.clone());
        spinner.enable_steady_tick(Duration::from_millis(200));
        let start = Instant::now();
        let log = logs.join(format!("{}.log", name.replace('/', "-")));
        let result = perform(check, &lab, &log);
        spinner.finish_and_clear();
        let seconds = start.elapsed().as_secs_f64();
        let verdict = result.unwrap_or_else(|error| Verdict::failed(format!("{error:#}"), log));
        verdict.print(&name, seconds);
        total.passed += verdict.counts.passed;
        total.failed += verdict.counts.failed;
        total.skipped += verdict.counts.skipped;
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.skipped);
    Ok(total.failed == 0)
}

fn checks(xen: bool) -> Vec<(String, Check)> {
    let mut checks = Vec::new();
    if !xen {
        checks.push((
            "fmt".to_owned(),
            command(host::cargo(), &["fmt", "--all", "--check"], &[], &["--", "--color=never"]),
        ));
        let deny = ["--", "-D", "warnings"];
        let clippy = command(host::cargo(), &["clippy", "--quiet", "--all-targets"], HOST_CRATES, &deny);
        checks.push(("clippy/host".to_owned(), clippy));
        let clippy = command(build::bare_metal_cargo("clippy"), &["--quiet"], BARE_CRATES, &deny);
        checks.push(("clippy/bare-metal".to_owned(), clippy));
        let doc = command(host::cargo(), &["doc", "--quiet", "--no-deps", PRIVATE], HOST_CRATES, &[]);
        checks.push(("doc/host".to_owned(), doc));
        let doc = command(build::bare_metal_cargo("doc"), &["--quiet", "--no-deps", PRIVATE], BARE_CRATES, &[]);
        checks.push(("doc/bare-metal".to_owned(), doc));
        checks.extend(HOST_CRATES.iter().map(|name| (format!("host/{name}"), Check::HostTests(name))));
        let seeds = ["--seed", "1", "--runs", "40", "--steps", "50000"];
        checks.push(("sim".to_owned(), Check::Command(sim::command(&seeds))));
        checks.extend(ring0().map(|scenario| (scenario.name.to_owned(), Check::Ring0(Box::new(scenario)))));
        checks.push(("audit/quick".to_owned(), command(host::cargo(), &["xtask", "audit", "--quick"], &[], &[])));
        checks.push(("fuzz/quick".to_owned(), command(host::cargo(), &["xtask", "fuzz", "--quick"], &[], &[])));
        checks.push(("bench/quick".to_owned(), command(host::cargo(), &["xtask", "bench", "--quick"], &[], &[])));
    }
    checks.push(("system/operations".to_owned(), Check::Operations(Box::new(operations::scenario()))));
    let scenarios = scenarios::all().into_iter().filter(|scenario| !xen || scenario.applies == Applies::Both);
    checks.extend(scenarios.map(|scenario| (format!("system/{}", scenario.name), Check::System(Box::new(scenario)))));
    checks
}

fn command(mut command: Command, before: &[&str], packages: &[&str], after: &[&str]) -> Check {
    command.args(before).args(packages.iter().flat_map(|name| ["--package", name])).args(after);
    // Private items are documented as well, so public ones may point at them.
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links");
    Check::Command(command)
}

/// The result of a check, ready to be shown.
struct Verdict {
    counts: Counts,
    /// Why tests failed or were skipped.
    reasons: Vec<String>,
    log: PathBuf,
}

impl Verdict {
    fn passed(log: PathBuf) -> Verdict {
        Verdict { counts: Counts { passed: 1, ..Counts::default() }, reasons: Vec::new(), log }
    }

    fn skipped(why: &str, log: PathBuf) -> Verdict {
        Verdict { counts: Counts { skipped: 1, ..Counts::default() }, reasons: vec![why.to_owned()], log }
    }

    fn failed(why: String, log: PathBuf) -> Verdict {
        Verdict { counts: Counts { failed: 1, ..Counts::default() }, reasons: vec![why], log }
    }

    /// Of a check that is many tests: the counts, and a failure of the whole if no test failed but `success` is false.
    fn of_many(mut counts: Counts, mut failures: Vec<String>, success: bool, log: PathBuf) -> Verdict {
        if counts.failed == 0 && !success {
            counts.failed = 1;
            failures.push("did not run to its end".to_owned());
        }
        Verdict { counts, reasons: failures, log }
    }

    fn print(&self, name: &str, seconds: f64) {
        let word = match self.counts {
            Counts { failed: 1.., .. } => "FAILED",
            Counts { passed: 0, skipped: 1.., .. } => "SKIPPED",
            _ => "ok",
        };
        let tests = self.counts.passed + self.counts.failed + self.counts.skipped;
        let many = if tests > 1 { format!("{} of {tests} tests", self.counts.passed) } else { String::new() };
        println!("{word:<7} {name:<34} {seconds:>7.1} s  {many}");
        for reason in &self.reasons {
            println!("        {reason}");
        }
        if self.counts.failed == 0 {
            return;
        }
        let text = fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("        | {}", line.trim_end());
        }
        println!("        the whole log: {}", self.log.display());
    }
}

fn perform(check: Check, lab: &Lab, log: &Path) -> Result<Verdict> {
    match check {
        Check::Command(mut command) => {
            build::ensure_target(build::TARGET)?;
            let (success, _) = logged(&mut command, log)?;
            Ok(match success {
                true => Verdict::passed(log.to_path_buf()),
                false => Verdict::failed(format!("{} failed", host::shell_line(&command)), log.to_path_buf()),
            })
        }
        Check::HostTests(name) => {
            let mut command = host::cargo();
            command.args(["test", "--quiet", "--no-fail-fast", "--package", name]);
            let (success, text) = logged(&mut command, log)?;
            let (counts, failures) = libtest_results(&text);
            Ok(Verdict::of_many(counts, failures, success, log.to_path_buf()))
        }
        Check::Ring0(scenario) => {
            let outcome = lab.boot(&scenario)?;
            let (counts, mut failures) = ring0_results(&outcome.lines);
            let success = outcome.failure.is_none() && counts.passed > 0;
            failures.extend(outcome.failure);
            Ok(Verdict::of_many(counts, failures, success, outcome.log))
        }
        Check::Operations(scenario) => {
            let outcome = lab.boot(&scenario)?;
            let judgement = operations::judge(&outcome.lines, lab.xen);
            let failed = u32::try_from(judgement.failures.len())?;
            let counts = Counts { passed: judgement.passed, failed, skipped: 0 };
            let success = outcome.failure.is_none();
            let failures = judgement.failures.into_iter().chain(outcome.failure).collect();
            Ok(Verdict::of_many(counts, failures, success, outcome.log))
        }
        Check::System(scenario) => {
            if let Some(why) = scenario.obstacle() {
                return Ok(Verdict::skipped(why, log.to_path_buf()));
            }
            let mut outcome = lab.boot(&scenario)?;
            let mut notes = Vec::new();
            if met_double_exit(&outcome) {
                notes.push(format!(
                    "run again after QEMU took one #VMEXIT for two (the book's 'A race in QEMU'): {DOUBLE_EXIT}"
                ));
                outcome = lab.boot(&scenario)?;
            }
            let mut verdict = match outcome.failure {
                None => Verdict::passed(outcome.log),
                Some(why) => Verdict::failed(why, outcome.log),
            };
            verdict.reasons.extend(notes);
            Ok(verdict)
        }
    }
}

/// What Radon says of a crash in which QEMU with one thread per CPU carried out a second #VMEXIT in the hypervisor: the
/// guest's saved state is then the hypervisor's, which no processor does and nothing can mend.
const DOUBLE_EXIT: &str = "with the hypervisor's own CR3 in the VMCB";

/// Whether a machine failed by QEMU's race. Such a machine gets one more try, and the result says so.
fn met_double_exit(outcome: &Outcome) -> bool {
    outcome.failure.is_some() && outcome.lines.iter().any(|line| line.contains(DOUBLE_EXIT))
}

/// What emulated machines boot; made when the first one needs it.
struct Lab {
    xen: bool,
    logs: PathBuf,
    prepared: OnceCell<Result<(Debian, PathBuf), String>>,
}

impl Lab {
    fn build(&self) -> Result<PathBuf> {
        let log = self.logs.join("build.log");
        build::build(Profile::Release, File::create(&log)?.into()).with_context(|| format!("see {}", log.display()))
    }

    fn boot(&self, scenario: &Scenario) -> Result<Outcome> {
        let prepare = || {
            let debian = packages::fetch()?;
            let hypervisor = if self.xen { run::debian_xen(&debian)? } else { self.build()? };
            Ok((debian, hypervisor))
        };
        let prepared = self.prepared.get_or_init(|| prepare().map_err(|error: anyhow::Error| format!("{error:#}")));
        match prepared {
            Ok((debian, hypervisor)) => scenario.run(debian, hypervisor, self.xen, &self.logs),
            Err(why) => bail!("{why}"),
        }
    }
}

/// Runs a command with its output in `log`. Returns whether it succeeded, and the output.
fn logged(command: &mut Command, log: &Path) -> Result<(bool, String)> {
    let file = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot start {}", host::shell_line(command)))?;
    Ok((status.success(), String::from_utf8_lossy(&fs::read(log)?).into_owned()))
}

/// Adds up what the test programs of a crate say of themselves.
fn libtest_results(text: &str) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for line in text.lines() {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |word: &str| {
                let words = result.split([';', '.']).map(str::trim);
                words.filter_map(|part| part.strip_suffix(word)?.trim().parse::<u32>().ok()).sum::<u32>()
            };
            counts.passed += number("passed");
            counts.failed += number("failed");
            counts.skipped += number("ignored");
        } else if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            failures.push(name.to_owned());
        }
    }
    (counts, failures)
}

/// Machines that the tests in ring 0 run on.
fn ring0() -> impl Iterator<Item = Scenario> {
    let on = |name| {
        let scenario = Scenario::new(name).radon_only().append("selftest").kernel(Kernel::Absent).debug_exit();
        scenario.expect(&["RING0-TESTS"]).limit(120)
    };
    [on("ring0"), on("ring0-2-cpus-avx").cpus(2, Threads::Single).avx()].into_iter()
}

/// Counts lines of the form `RING0-TEST name ok` and `RING0-TEST name FAILED: why`.
fn ring0_results(lines: &[String]) -> (Counts, Vec<String>) {
    let mut counts = Counts::default();
    let mut failures = Vec::new();
    for line in lines {
        let Some((_, result)) = line.split_once("RING0-TEST ") else { continue };
        if result.trim_end().ends_with(" ok") {
            counts.passed += 1;
        } else if result.contains(" FAILED") {
            counts.failed += 1;
            failures.push(result.trim_end().to_owned());
        } else if result.contains(" skipped") {
            counts.skipped += 1;
        }
    }
    (counts, failures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_test_programs_add_up() {
        let text = "running 3 tests\n\
            ---- a::b stdout ----\n\
            test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s\n";
        let (counts, failures) = libtest_results(text);
        assert_eq!((counts.passed, counts.failed, counts.skipped), (41, 1, 1));
        assert_eq!(failures, ["a::b"]);
    }

    #[test]
    fn ring0_lines_are_counted() {
        let lines =
            ["(XEN) RING0-TEST paging ok", "RING0-TEST heap FAILED: x", "RING0-TEST iommu skipped: none", "x ok"];
        let (counts, failures) = ring0_results(&lines.map(str::to_owned));
        assert_eq!((counts.passed, counts.failed, counts.skipped), (1, 1, 1));
        assert_eq!(failures, ["heap FAILED: x"]);
    }

    #[test]
    fn a_crash_without_a_failed_test_is_a_failure() {
        let verdict = Verdict::of_many(Counts { passed: 3, ..Counts::default() }, Vec::new(), false, PathBuf::new());
        assert_eq!((verdict.counts.passed, verdict.counts.failed), (3, 1));
    }

    #[test]
    fn only_the_known_crash_gets_another_try() {
        let outcome = |failure: Option<&str>, line: &str| Outcome {
            failure: failure.map(str::to_owned),
            log: PathBuf::new(),
            lines: vec![line.to_owned()],
        };
        let crash = format!("(XEN) d0v1 crashed: exit 0x7b on CPU1, {DOUBLE_EXIT}");
        assert!(met_double_exit(&outcome(Some("it printed"), &crash)));
        assert!(!met_double_exit(&outcome(Some("it printed"), "(XEN) d0v1 crashed: exit 0x7b on CPU1")));
        assert!(!met_double_exit(&outcome(None, &crash)));
    }

    #[test]
    fn names_of_checks_are_unique() {
        let mut names: Vec<String> = checks(false).into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
