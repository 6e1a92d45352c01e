//! `cargo xtask mutants`: whether the tests on the host notice when the code is changed.
//!
//! cargo-mutants changes one operator, one value or one function's body at a time; the tests of the crate have to fail then.
//! What survives is a gap, or is explained in `xtask/mutants.txt`: a line for each, without line numbers, which move.
//!
//! The changes are made in a copy of the tree that stays where it is, so that only one crate is built anew for each. Results
//! are kept: `--resume` goes on after an interruption, or after tests were added for what survived.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::host;

/// The version of cargo-mutants: another one may make other changes.
const VERSION: &str = "27.1.0";
/// Percent of a module's changes that must be noticed.
const LEAST: f64 = 85.0;
/// A change may make a loop endless that allocates; so many KiB of addresses a process has.
const MEMORY: u64 = 8_000_000;
/// Seconds until a change counts as noticed because the tests do not end. They take two of a processor's time.
const TIMEOUT: &str = "40";
/// What tests look at the state with is no part of the hypervisor.
const NOT_CODE: &str = "**/inspect.rs";
/// Where survivors are explained.
const EXPLAINED: &str = "xtask/mutants.txt";

/// What is changed, and by what it is judged.
struct Module {
    name: &'static str,
    package: &'static str,
    folder: &'static str,
}

const fn module(name: &'static str, package: &'static str, folder: &'static str) -> Module {
    Module { name, package, folder }
}

const MODULES: &[Module] = &[
    module("evtchn", "radon-core", "core/src/evtchn"),
    module("grant", "radon-core", "core/src/grant"),
    module("p2m", "radon-core", "core/src/p2m"),
    module("npt", "radon-x86", "x86/src/npt"),
];
/// Tests that take long and have nothing to say about these modules.
const SKIPPED: &[&str] = &["sched::stress", "sched::tests", "trace::tests", "frames::tests", "options::"];

/// Options of `cargo xtask mutants`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only this module (may be repeated): evtchn, grant, p2m, npt
    #[arg(long)]
    module: Vec<String>,
    /// Only every Nth change, from the Kth on (K from 0): a sample, or one of several pieces
    #[arg(long, value_name = "K/N")]
    part: Option<String>,
    /// Leave out what earlier runs saw noticed
    #[arg(long)]
    resume: bool,
    /// Run nothing: print what earlier runs found
    #[arg(long, conflicts_with = "part")]
    report: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Caught,
    Missed,
    Timeout,
    /// It does not compile.
    Unviable,
}

/// cargo-mutants' files with the changes of each outcome.
const FILES: &[(&str, Outcome)] = &[
    ("caught.txt", Outcome::Caught),
    ("missed.txt", Outcome::Missed),
    ("timeout.txt", Outcome::Timeout),
    ("unviable.txt", Outcome::Unviable),
];

impl Outcome {
    fn name(self) -> &'static str {
        FILES.iter().find(|(_, outcome)| *outcome == self).map_or("", |(file, _)| file.trim_end_matches(".txt"))
    }
}

/// Outcomes by the change's name: `path:line:column: what`.
type Outcomes = BTreeMap<String, Outcome>;

/// Numbers of a module.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    caught: usize,
    missed: usize,
    timeout: usize,
    unviable: usize,
    /// Not run.
    open: usize,
}

impl Count {
    /// Percent of those that compile and were run that were noticed.
    fn percent(&self) -> f64 {
        let noticed = self.caught + self.timeout;
        match noticed + self.missed {
            0 => 100.0,
            run => 100.0 * noticed as f64 / run as f64,
        }
    }
}

/// Runs. Returns whether enough was noticed and every survivor is explained.
pub(crate) fn mutants(options: &Options) -> Result<bool> {
    let known = |name: &String| MODULES.iter().any(|module| module.name == name.as_str());
    if let Some(name) = options.module.iter().find(|name| !known(name)) {
        bail!("no module {name}");
    }
    let chosen: Vec<&Module> = MODULES
        .iter()
        .filter(|module| options.module.is_empty() || options.module.iter().any(|name| name == module.name))
        .collect();
    let program = tool()?;
    let tree = copy()?;
    let mut results = Outcomes::new();
    let mut listed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for package in ["radon-core", "radon-x86"] {
        let modules: Vec<&Module> = chosen.iter().copied().filter(|module| module.package == package).collect();
        if modules.is_empty() {
            continue;
        }
        let output = folder().join(package);
        if !options.resume && !options.report && output.exists() {
            fs::remove_dir_all(&output)?;
        }
        fs::create_dir_all(&output)?;
        let before = collect(&output)?;
        if options.resume {
            leave_out_endless(&output, &before)?;
        }
        if !options.report {
            run(&program, &tree, &output, &modules, options)?;
        }
        results.extend(collect(&output)?);
        for module in modules {
            let mut list = cargo_mutants(&program, &tree);
            list.args(["--list", "--package", package, "--exclude", NOT_CODE]);
            list.args(["--file", &format!("{}/**", module.folder)]);
            listed.insert(module.name, host::capture(&mut list)?.lines().map(str::to_owned).collect());
        }
    }
    let explained = explained(&fs::read_to_string(host::root().join(EXPLAINED))?)?;
    let counts: BTreeMap<&str, Count> = listed.iter().map(|(name, all)| (*name, count(all, &results))).collect();
    let survivors: Vec<&String> =
        listed.values().flatten().filter(|name| results.get(*name) == Some(&Outcome::Missed)).collect();
    let reason = |name: &str| explained.get(&key(name)).map(String::as_str);
    let good = counts.values().all(|count| count.percent() >= LEAST) && survivors.iter().all(|s| reason(s).is_some());
    if options.json {
        println!("{:#}", report(&counts, &survivors, &explained));
        return Ok(good);
    }
    println!(
        "{:<8} {:>7} {:>7} {:>8} {:>9} {:>8} {:>9}",
        "module", "caught", "missed", "timeout", "unviable", "not run", "noticed"
    );
    for (name, c) in &counts {
        let percent = c.percent();
        let (caught, missed, timeout, unviable, open) = (c.caught, c.missed, c.timeout, c.unviable, c.open);
        println!("{name:<8} {caught:>7} {missed:>7} {timeout:>8} {unviable:>9} {open:>8} {percent:>7.1} %");
    }
    for name in &survivors {
        println!("survived: {name}\n    {}", reason(name).unwrap_or("NOT EXPLAINED"));
    }
    match good {
        true => println!("Each module is at {LEAST} % or above, and each survivor is explained."),
        false => println!("Not good enough: {LEAST} % of each module, and no survivor without a line in {EXPLAINED}."),
    }
    Ok(good)
}

fn folder() -> PathBuf {
    host::output().join("mutants")
}

/// cargo-mutants, installed if need be.
fn tool() -> Result<PathBuf> {
    let root = host::target().join("tools");
    let program = root.join("bin/cargo-mutants");
    let mut query = Command::new(&program);
    let installed =
        query.args(["mutants", "--version"]).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    if !installed.is_ok_and(|text| text.trim().ends_with(VERSION)) {
        eprintln!("Installing cargo-mutants {VERSION} into {}", root.display());
        let mut install = host::cargo();
        install.args(["install", "--quiet", "--locked", "--force", "--debug", "--version", VERSION, "--root"]);
        host::run(install.arg(&root).arg("cargo-mutants"))?;
    }
    Ok(program)
}

/// Brings the copy of the tree up to date: what git knows of or would add. Files that did not change keep their times.
fn copy() -> Result<PathBuf> {
    let (root, tree) = (host::root(), folder().join("tree"));
    let mut list = Command::new("git");
    list.current_dir(&root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let names = host::capture(&mut list)?;
    let mut copied = BTreeSet::new();
    for name in names.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), tree.join(name));
        // A file that was deleted and not yet forgotten has nothing to copy.
        let Ok(bytes) = fs::read(&from) else { continue };
        copied.insert(to.clone());
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        fs::create_dir_all(to.parent().unwrap_or(&tree))?;
        fs::write(&to, bytes)?;
    }
    remove_others(&tree, &copied)?;
    Ok(tree)
}

/// Removes all files below a folder but these: what is no longer in the tree would be built still.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_others(&path, wanted)?;
        } else if !wanted.contains(&path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// cargo-mutants in the copy.
fn cargo_mutants(program: &Path, tree: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {MEMORY}; exec \"$@\""), "sh"]).arg(program);
    command.args(["mutants", "--no-config", "--dir"]).arg(tree);
    command.env("CARGO_TARGET_DIR", folder().join("build"));
    // A failure needs no smallest example.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1").env("PROPTEST_MAX_SHRINK_ITERS", "0");
    command
}

fn run(program: &Path, tree: &Path, output: &Path, modules: &[&Module], options: &Options) -> Result<()> {
    let package = modules.first().map_or("", |module| module.package);
    let mut command = cargo_mutants(program, tree);
    command.args(["--in-place", "--package", package, "--profile", "mutants", "--timeout", TIMEOUT]);
    command.args(["--build-timeout", "900", "--caught", "--unviable", "--colors", "never", "--iterate", "--output"]);
    command.arg(output);
    if let Some(part) = &options.part {
        command.args(["--sharding", "round-robin", "--shard", part]);
    }
    for module in modules {
        command.args(["--file", &format!("{}/**", module.folder)]);
    }
    command.args(["--exclude", NOT_CODE, "--", "--lib", "--"]);
    if package == "radon-core" {
        command.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
    }
    if options.json {
        command.stdout(Stdio::null());
    }
    let status = command.stdin(Stdio::null()).status().context("cannot start cargo-mutants")?;
    // 0: all noticed. 2: some survived. 3: some took too long.
    ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants failed ({status})");
    Ok(())
}

/// Has cargo-mutants leave out what made tests endless before: it would wait for each once more.
fn leave_out_endless(output: &Path, results: &Outcomes) -> Result<()> {
    let path = output.join("mutants.out/previously_caught.txt");
    let mut text = fs::read_to_string(&path).unwrap_or_default();
    let endless = results.iter().filter(|(_, outcome)| **outcome == Outcome::Timeout);
    text.extend(endless.flat_map(|(name, _)| [name, "\n"]));
    // Without an earlier run there is nothing to leave out.
    if path.parent().is_some_and(Path::is_dir) { Ok(fs::write(path, text)?) } else { Ok(()) }
}

/// Adds what the last run left to the results of all of them, and returns these.
fn collect(output: &Path) -> Result<Outcomes> {
    let kept = output.join("results.txt");
    let mut all = Outcomes::new();
    for line in fs::read_to_string(&kept).unwrap_or_default().lines() {
        if let Some((outcome, name)) = line.split_once(' ')
            && let Some((_, outcome)) = FILES.iter().find(|(_, known)| known.name() == outcome)
        {
            all.insert(name.to_owned(), *outcome);
        }
    }
    for (file, outcome) in FILES {
        let text = fs::read_to_string(output.join("mutants.out").join(file)).unwrap_or_default();
        all.extend(text.lines().map(|name| (name.to_owned(), *outcome)));
    }
    let text: String = all.iter().map(|(name, outcome)| format!("{} {name}\n", outcome.name())).collect();
    fs::write(&kept, text)?;
    Ok(all)
}

fn count(all: &[String], results: &Outcomes) -> Count {
    let mut count = Count::default();
    for name in all {
        *match results.get(name) {
            Some(Outcome::Caught) => &mut count.caught,
            Some(Outcome::Missed) => &mut count.missed,
            Some(Outcome::Timeout) => &mut count.timeout,
            Some(Outcome::Unviable) => &mut count.unviable,
            None => &mut count.open,
        } += 1;
    }
    count
}

/// A change's name without line and column.
fn key(name: &str) -> String {
    let mut parts = name.splitn(4, ':');
    match (parts.next(), parts.nth(2)) {
        (Some(path), Some(what)) => format!("{path}:{what}"),
        _ => name.to_owned(),
    }
}

/// Explanations by key. A line with a key is followed by an indented one with the reason.
fn explained(text: &str) -> Result<BTreeMap<String, String>> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    lines
        .chunks(2)
        .map(|pair| match pair {
            [name, reason] if !name.starts_with(' ') && reason.starts_with("    ") => {
                Ok(((*name).to_owned(), reason.trim().to_owned()))
            }
            _ => bail!("{EXPLAINED}: {:?} is not a change and its reason", pair.first()),
        })
        .collect()
}

fn report(counts: &BTreeMap<&str, Count>, survivors: &[&String], explained: &BTreeMap<String, String>) -> Value {
    let modules: serde_json::Map<String, Value> = counts
        .iter()
        .map(|(name, c)| {
            let value = json!({ "caught": c.caught, "missed": c.missed, "timeout": c.timeout, "unviable": c.unviable,
                "not_run": c.open, "percent": c.percent() });
            ((*name).to_owned(), value)
        })
        .collect();
    let survivors: Vec<Value> =
        survivors.iter().map(|name| json!({ "change": name, "reason": explained.get(&key(name)) })).collect();
    json!({ "least": LEAST, "modules": modules, "survivors": survivors })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_line_number() {
        let name = "core/src/p2m/mod.rs:48:9: replace a::b with ()";
        assert_eq!(key(name), "core/src/p2m/mod.rs: replace a::b with ()");
    }

    #[test]
    fn changes_that_do_not_compile_or_did_not_run_do_not_count() {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(str::to_owned).into();
        let outcomes = [Outcome::Caught, Outcome::Missed, Outcome::Timeout, Outcome::Unviable, Outcome::Caught];
        let results: Outcomes = names.iter().cloned().zip(outcomes).collect();
        let count = count(&names, &results);
        assert_eq!(count, Count { caught: 2, missed: 1, timeout: 1, unviable: 1, open: 1 });
        assert_eq!(count.percent(), 75.0);
    }

    #[test]
    fn the_copy_has_no_file_that_was_removed() {
        let folder = std::env::temp_dir().join(format!("radon-mutants-{}", std::process::id()));
        let [kept, removed] = ["a/kept", "a/b/removed"].map(|name| folder.join(name));
        for file in [&kept, &removed] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        remove_others(&folder, &[kept.clone()].into()).unwrap();
        assert_eq!((kept.exists(), removed.exists()), (true, false));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_made_tests_endless_is_left_out_later() {
        let folder = std::env::temp_dir().join(format!("radon-endless-{}", std::process::id()));
        let results = Outcomes::from([("a".to_owned(), Outcome::Timeout), ("b".to_owned(), Outcome::Missed)]);
        let kept = folder.join("mutants.out/previously_caught.txt");
        leave_out_endless(&folder, &results).unwrap();
        assert!(!kept.exists());
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        leave_out_endless(&folder, &results).unwrap();
        assert_eq!(fs::read_to_string(&kept).unwrap(), "a\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_explained_exists() {
        let explained = explained(&fs::read_to_string(host::root().join(EXPLAINED)).unwrap()).unwrap();
        for name in explained.keys() {
            let path = name.split(':').next().unwrap();
            assert!(host::root().join(path).exists(), "{name}");
            assert!(MODULES.iter().any(|module| path.starts_with(module.folder)), "{name}");
        }
    }

    #[test]
    fn a_change_without_a_reason_is_an_error() {
        assert!(explained("# x\na: b\n    why\n\nc: d\n    why\n").is_ok_and(|all| all.len() == 2));
        assert!(explained("a: b\nc: d\n").is_err());
        assert!(explained("a: b\n").is_err());
    }
}
