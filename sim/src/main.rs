//! The simulator's command line; `cargo xtask sim` builds and calls it.
#![allow(clippy::arithmetic_side_effects, reason = "counts and times of a tool")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use radon_sim::coverage::Coverage;
use radon_sim::run::{self, Plan};

/// Runs core and x86 under a simulated machine, with everything from one seed.
#[derive(Parser)]
struct Options {
    /// Run this seed (the first one, with --minutes or --runs)
    #[arg(long)]
    seed: Option<u64>,
    /// Run seeds for so long
    #[arg(long)]
    minutes: Option<f64>,
    /// Run so many seeds
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Steps of a run, before all guests are destroyed
    #[arg(long, default_value_t = 200_000)]
    steps: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Of a seed that fails, leave out steps as long as it still fails, and print what is left
    #[arg(long)]
    minimise: bool,
    /// Print each step
    #[arg(long)]
    trace: bool,
    /// Print how often each operation succeeded and failed
    #[arg(long)]
    coverage: bool,
    /// Check everything after each step
    #[arg(long)]
    audit: bool,
}

/// Nanoseconds that this thread has had on a CPU.
fn cpu_time() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn main() -> ExitCode {
    let options = Options::parse();
    run::prepare();
    let first = options.seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |t| t.as_millis() as u64 % 1_000_000_000)
    });
    let deadline = options.minutes.map(|m| Instant::now() + Duration::from_secs_f64(m * 60.0));
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let total = Mutex::new((Coverage::default(), 0u64, 0u64));
    let failed: Mutex<Option<(Plan, u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match deadline {
                        Some(end) => Instant::now() >= end,
                        None => seed - first >= options.runs,
                    };
                    if over {
                        break;
                    }
                    let mut plan = Plan::new(seed, options.steps);
                    plan.trace = options.trace;
                    if options.audit {
                        plan.audit_all_from = 0;
                    }
                    let before = cpu_time();
                    let outcome = run::run(&plan);
                    let used = cpu_time() - before;
                    outcome.trace.iter().for_each(|line| println!("{line}"));
                    if let Ok(mut total) = total.lock() {
                        total.0.add(&outcome.coverage);
                        total.1 += used;
                        total.2 += 1;
                    }
                    if outcome.failure.is_some() {
                        stop.store(true, Ordering::Relaxed);
                        let (at, text) = run::locate(&plan, &outcome);
                        if let Ok(mut failed) = failed.lock() {
                            failed.get_or_insert((plan, at, text));
                        }
                    }
                }
            });
        }
    });
    let (coverage, time, runs) = total.into_inner().unwrap_or_default();
    let rate = coverage.steps as f64 / (time as f64 / 1e6).max(1e-9);
    println!(
        "{runs} runs from seed {first}: {} steps, {} hypercalls, {} memory accesses, {} domains, {} audits; {rate:.0} steps per ms of CPU",
        coverage.steps, coverage.calls, coverage.accesses, coverage.domains, coverage.audits
    );
    let [checked, unchanged, refused] = coverage.checked;
    println!(
        "{checked} calls were compared: {unchanged} failed and changed nothing; {refused} met refused allocations"
    );
    if coverage.stopped > 0 {
        println!("{} runs ended early: dom0 switched the machine off", coverage.stopped);
    }
    print!("{}", coverage.report(options.coverage));
    let Some((plan, at, text)) = failed.into_inner().unwrap_or_default() else {
        return ExitCode::SUCCESS;
    };
    println!("seed {} fails after step {at}: {text}", plan.seed);
    if options.minimise {
        let (short, outcome) = run::minimise(&plan, at, &text, &mut |left| eprintln!("{left} steps left"));
        outcome.trace.iter().for_each(|line| println!("{line}"));
        let left = short.skip.iter().filter(|s| !**s).count();
        println!("{left} steps of seed {} are enough: {}", plan.seed, outcome.failure.unwrap_or_default().1);
    } else {
        println!("replay: cargo xtask sim --seed {} --steps {} --minimise", plan.seed, plan.steps);
    }
    ExitCode::FAILURE
}
