//! `cargo xtask fuzz`: the targets of `fuzz/`, guided by coverage, with the toolchain that everything else is built with.
//!
//! The compiler's flags for coverage are stable; the engine is libFuzzer, which a crate brings along as C++. What makes a
//! target fail is left in `fuzz/corpus/TARGET`, where the tests of `radon-fuzz` replay it from then on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::host;

/// The fuzzer is a program of the developer's machine.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Counters for each edge, and comparisons told to the engine.
const RUSTFLAGS: &str = "-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 \
    -C llvm-args=-sanitizer-coverage-inline-8bit-counters -C llvm-args=-sanitizer-coverage-pc-table \
    -C llvm-args=-sanitizer-coverage-trace-compares";
/// A process runs for so long: the test machines leave a little memory behind each time.
const ROUND: Duration = Duration::from_secs(60);
/// A run of a target may take so long, on a busy machine.
const SLOWEST: &str = "60";
/// How long each target runs with `--quick`, at most.
const QUICK: Duration = Duration::from_secs(3);
/// With `--quick` the inputs are the same ones each time, so many: a change fails the tests for what it did, not by chance.
const QUICK_INPUTS: &[&str] = &["-seed=1", "-runs=50000"];

/// Options of `cargo xtask fuzz`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// The target; all of them without
    target: Option<String>,
    /// How long each runs
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// A few seconds each, as part of the tests
    #[arg(long, conflicts_with = "minutes")]
    quick: bool,
    /// Print the targets and do nothing
    #[arg(long)]
    list: bool,
}

/// Fuzzes. Returns whether nothing was found.
pub(crate) fn fuzz(options: &Options) -> Result<bool> {
    let known = targets()?;
    if options.list {
        known.iter().for_each(|(name, about)| println!("{name:<12} {about}"));
        return Ok(true);
    }
    let wanted = |name: &str| options.target.as_deref().is_none_or(|target| target == name);
    let chosen: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).filter(|name| wanted(name)).collect();
    ensure!(!chosen.is_empty(), "no such target; --list shows them");
    let program = build()?;
    let time = if options.quick { QUICK } else { Duration::from_secs(options.minutes * 60) };
    let mut found = Vec::new();
    for name in chosen {
        println!("{name}:");
        if !run(&program, name, time, options.quick)? {
            found.push(name);
        }
    }
    match found.is_empty() {
        true => println!("Nothing was found."),
        false => println!("Found something: {}. The inputs are in fuzz/corpus.", found.join(", ")),
    }
    Ok(found.is_empty())
}

/// Names of the targets and what they feed, from their table in the source.
fn targets() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(host::root().join("fuzz/src/lib.rs"))?;
    let (_, table) = text.split_once("TARGETS: &[Target]").context("fuzz/src/lib.rs has no table of targets")?;
    let table = table.split("];").next().unwrap_or_default();
    let quoted: Vec<&str> = table.split('"').skip(1).step_by(2).collect();
    Ok(quoted.chunks_exact(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned())).collect())
}

fn build() -> Result<PathBuf> {
    host::ensure_tools(host::COMPILER)?;
    let mut command = host::cargo();
    command.args(["build", "--quiet", "--package", "radon-fuzz", "--features", "engine", "--bin", "fuzzer"]);
    command.args(["--profile", "fuzz", "--target", TARGET]);
    host::run(command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", RUSTFLAGS))?;
    Ok(host::target().join(TARGET).join("fuzz/fuzzer"))
}

/// Runs a target for some time; says whether it found nothing.
fn run(program: &Path, name: &str, time: Duration, quick: bool) -> Result<bool> {
    let seeds = host::root().join("fuzz/corpus").join(name);
    let grown = host::output().join(if quick { "fuzz-quick" } else { "fuzz" }).join(name);
    if quick && grown.exists() {
        fs::remove_dir_all(&grown)?;
    }
    fs::create_dir_all(&seeds)?;
    fs::create_dir_all(&grown)?;
    let end = Instant::now() + time;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        let seconds = left.min(ROUND).as_secs().max(1);
        let mut command = Command::new(program);
        command.env("RADON_FUZZ_TARGET", name).arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-artifact_prefix={}/", seeds.display())).arg(format!("-timeout={SLOWEST}"));
        command.args(["-max_len=8192", "-rss_limit_mb=6144", "-print_final_stats=0", "-verbosity=0"]);
        if quick {
            command.args(QUICK_INPUTS);
        }
        command.arg(&grown).arg(&seeds);
        let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            ensure!(output.status.code() != Some(2), "{text}");
            println!("{text}");
            return Ok(false);
        }
        if text.contains("ERROR") {
            bail!("{text}");
        }
        if quick {
            return Ok(true);
        }
        let inputs = fs::read_dir(&grown)?.count();
        println!("  {} s left, {inputs} inputs", end.saturating_duration_since(Instant::now()).as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_from_the_source() {
        let targets = targets().unwrap();
        assert!(targets.iter().any(|(name, about)| name == "hypercall" && about.contains("dispatcher")), "{targets:?}");
        assert!(targets.iter().all(|(name, _)| !name.contains(' ')), "{targets:?}");
    }

    #[test]
    fn targets_that_the_book_names_exist() {
        let page = fs::read_to_string(host::root().join("book/src/threats.md")).unwrap();
        let targets = targets().unwrap();
        for rest in page.split("`cargo xtask fuzz ").skip(1) {
            let (first, tail) = rest.split_once('`').unwrap();
            // More names may follow, each between backticks.
            let more = tail.split(['|', '\n', '(']).next().unwrap_or_default().split('`').skip(1).step_by(2);
            for name in std::iter::once(first).chain(more).filter(|name| !name.contains([' ', '/'])) {
                assert!(targets.iter().any(|(known, _)| known == name), "{name}");
            }
        }
    }
}
