//! `cargo xtask coverage`: which lines of core and x86 the tests on the host execute: unit tests, property tests and those
//! of the simulator.
//!
//! The compiler's own instrumentation, read with the LLVM tools of the same toolchain, so nothing else has to fit its
//! version. Lines of tests do not count: neither files that are compiled for tests only nor `mod tests` at a file's end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{host, source};

/// Crates whose tests are run.
const PACKAGES: &[&str] = &["radon-core", "radon-x86", "radon-sim"];
/// Folders of the crates whose lines are counted.
const COUNTED: &[&str] = &["core", "x86"];
/// Percent of the lines of each that must be executed.
const LEAST: f64 = 85.0;

/// Options of `cargo xtask coverage`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// For programs
    #[arg(long)]
    json: bool,
    /// Print each file, with the lines that no test executes
    #[arg(long)]
    all: bool,
    /// Print only modules whose name contains this
    #[arg(long, default_value = "")]
    module: String,
}

/// Lines of a file or a module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Count {
    lines: usize,
    /// Those that were not executed.
    missed: BTreeSet<usize>,
}

impl Count {
    fn percent(lines: usize, missed: usize) -> f64 {
        if lines == 0 { 100.0 } else { 100.0 * (lines - missed) as f64 / lines as f64 }
    }
}

/// Measures. Returns whether enough is executed.
pub(crate) fn coverage(options: &Options) -> Result<bool> {
    let files = measure()?;
    // By crate and module, in which crates are modules of their own.
    let mut modules: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (path, count) in &files {
        for name in [path.split('/').next().unwrap_or_default().to_owned(), module(path)] {
            let (lines, missed) = modules.entry(name).or_default();
            *lines += count.lines;
            *missed += count.missed.len();
        }
    }
    let percent = |name: &str| modules.get(name).map_or(0.0, |(lines, missed)| Count::percent(*lines, *missed));
    let low: Vec<&str> = COUNTED.iter().copied().filter(|name| percent(name) < LEAST).collect();
    if options.json {
        println!("{:#}", report(&modules, &files));
        return Ok(low.is_empty());
    }
    println!("{:<34} {:>7} {:>7} {:>8}", "module", "lines", "missed", "executed");
    for (name, (lines, missed)) in modules.iter().filter(|(name, _)| name.contains(&options.module)) {
        println!("{name:<34} {lines:>7} {missed:>7} {:>7.1} %", Count::percent(*lines, *missed));
        if options.all && name.contains('/') {
            for (path, count) in files.iter().filter(|(path, count)| module(path) == *name && !count.missed.is_empty())
            {
                println!("    {path}: {}", ranges(&count.missed));
            }
        }
    }
    match low.is_empty() {
        true => println!("Each of {} is at {LEAST} % or above.", COUNTED.join(", ")),
        false => println!("Below {LEAST} %: {}", low.join(", ")),
    }
    Ok(low.is_empty())
}

/// A file's module: its crate and the first part of its path there.
fn module(path: &str) -> String {
    let mut parts = path.split('/').filter(|part| *part != "src");
    let layer = parts.next().unwrap_or_default();
    format!("{layer}/{}", parts.next().unwrap_or_default().trim_end_matches(".rs"))
}

/// Line numbers, with ranges as such.
fn ranges(lines: &BTreeSet<usize>) -> String {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for &line in lines {
        match spans.last_mut() {
            Some((_, end)) if *end + 1 == line => *end = line,
            _ => spans.push((line, line)),
        }
    }
    let text = |(start, end): &(usize, usize)| if start == end { format!("{start}") } else { format!("{start}-{end}") };
    spans.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn report(modules: &BTreeMap<String, (usize, usize)>, files: &BTreeMap<String, Count>) -> Value {
    let entry = |lines: usize, missed: usize| json!({ "lines": lines, "missed": missed, "percent": Count::percent(lines, missed) });
    let modules: serde_json::Map<String, Value> =
        modules.iter().map(|(name, (lines, missed))| (name.clone(), entry(*lines, *missed))).collect();
    let files: serde_json::Map<String, Value> =
        files.iter().map(|(path, count)| (path.clone(), entry(count.lines, count.missed.len()))).collect();
    json!({ "least": LEAST, "modules": modules, "files": files })
}

/// Builds and runs the tests, and returns the lines of each counted file by its path.
fn measure() -> Result<BTreeMap<String, Count>> {
    let tools = tools()?;
    let folder = host::target().join("coverage");
    let profiles = folder.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles)?;
    }
    fs::create_dir_all(&profiles)?;
    let cargo = |words: &[&str], raw: &Path| {
        let mut command = host::cargo();
        command.arg("test").args(PACKAGES.iter().flat_map(|name| ["--package", name]));
        command.args(["--lib", "--bins", "--tests"]).args(words);
        command.env("CARGO_TARGET_DIR", &folder).env("RUSTFLAGS", "-C instrument-coverage");
        command.env("LLVM_PROFILE_FILE", raw);
        command
    };
    eprintln!("Building the tests with counters");
    // Programs that run during the build count as well; nobody reads it.
    let mut list = cargo(&["--no-run", "--message-format=json-render-diagnostics"], &folder.join("build.profraw"));
    let output = list.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests do not build");
    let programs = executables(&String::from_utf8_lossy(&output.stdout));
    ensure!(!programs.is_empty(), "cargo named no test program");
    eprintln!("Running them");
    let mut tests = cargo(&["--quiet"], &profiles.join("%p-%m.profraw"));
    let output = tests.stdin(Stdio::null()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "a test fails:\n{}", String::from_utf8_lossy(&output.stdout));

    let merged = folder.join("merged.profdata");
    let raw = fs::read_dir(&profiles)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut merge = Command::new(tools.join("llvm-profdata"));
    host::run(merge.args(["merge", "-sparse", "-o"]).arg(&merged).args(raw))?;
    let mut export = Command::new(tools.join("llvm-cov"));
    export.args(["export", "-format=lcov"]).arg(format!("-instr-profile={}", merged.display()));
    for program in &programs {
        export.arg("-object").arg(program);
    }
    counted(&host::capture(&mut export)?)
}

/// Where the toolchain has its LLVM tools, which are added if need be.
fn tools() -> Result<PathBuf> {
    let folder = || -> Result<PathBuf> {
        let mut query = Command::new("rustc");
        query.current_dir(host::root()).args(["--print", "target-libdir"]);
        let libraries = PathBuf::from(host::capture(&mut query)?.trim());
        Ok(libraries.parent().context("the toolchain has no folder for its target")?.join("bin"))
    };
    let place = folder()?;
    if !place.join("llvm-cov").exists() {
        eprintln!("Adding the toolchain's LLVM tools (rustup component add llvm-tools)");
        host::run(Command::new("rustup").current_dir(host::root()).args(["component", "add", "llvm-tools"]))?;
    }
    ensure!(place.join("llvm-cov").exists(), "the toolchain has no llvm-cov in {}", place.display());
    Ok(place)
}

/// Test programs, from cargo's messages.
fn executables(messages: &str) -> Vec<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).collect()
}

/// The counted files of an lcov report, without lines of tests.
fn counted(lcov: &str) -> Result<BTreeMap<String, Count>> {
    let root = host::root();
    let ours: BTreeSet<String> = source::inventory()?
        .into_iter()
        .filter(|file| COUNTED.contains(&file.layer()) && !file.test && !file.path.contains("/testing/"))
        .map(|file| file.path)
        .collect();
    let mut files: BTreeMap<String, Count> = BTreeMap::new();
    for (path, lines) in parse(lcov) {
        let path = Path::new(&path).strip_prefix(&root).unwrap_or(Path::new(&path)).to_string_lossy().into_owned();
        if !ours.contains(&path) {
            continue;
        }
        let end = tests_begin(&fs::read_to_string(root.join(&path))?);
        let count = files.entry(path).or_default();
        for (line, _) in lines.range(..end) {
            count.lines += 1;
            if lines[line] == 0 {
                count.missed.insert(*line);
            }
        }
    }
    Ok(files)
}

/// How often each line of each file was executed.
fn parse(lcov: &str) -> BTreeMap<String, BTreeMap<usize, u64>> {
    let mut files: BTreeMap<String, BTreeMap<usize, u64>> = BTreeMap::new();
    let mut current = String::new();
    for line in lcov.lines() {
        if let Some(path) = line.strip_prefix("SF:") {
            current = path.to_owned();
        } else if let Some((number, count)) = line.strip_prefix("DA:").and_then(|rest| rest.split_once(',')) {
            let (Ok(number), Ok(count)) = (number.parse(), count.parse::<u64>()) else { continue };
            // A file that several programs have appears once for each.
            *files.entry(current.clone()).or_default().entry(number).or_default() += count;
        }
    }
    files
}

/// The line at which a file's tests begin; beyond its end if it has none.
fn tests_begin(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    lines.windows(2).position(begins).map_or(lines.len() + 1, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_file_in_several_programs_add_up() {
        let lcov = "SF:/a.rs\nDA:1,0\nDA:2,3\nend_of_record\nSF:/b.rs\nDA:1,1\nSF:/a.rs\nDA:1,2\nDA:3,0\n";
        let files = parse(lcov);
        assert_eq!(files["/a.rs"], BTreeMap::from([(1, 2), (2, 3), (3, 0)]));
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn tests_at_the_end_do_not_count() {
        assert_eq!(tests_begin("fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), 3);
        assert_eq!(tests_begin("#[cfg(test)]\nmod tests;\nfn a() {}\n"), 4);
        assert_eq!(tests_begin("#[cfg(test)]\nuse x;\nfn a() {}\n"), 4);
    }

    #[test]
    fn modules_are_the_first_part_of_a_path() {
        assert_eq!(module("core/src/evtchn/fifo.rs"), "core/evtchn");
        assert_eq!(module("x86/src/tsc.rs"), "x86/tsc");
    }

    #[test]
    fn missing_lines_are_told_as_ranges() {
        assert_eq!(ranges(&BTreeSet::from([1, 2, 3, 7, 9, 10])), "1-3 7 9-10");
    }
}
