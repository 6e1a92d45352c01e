//! `cargo xtask soak`: long tests of stability. What belongs in a pull request is in `cargo xtask test`; these are for a
//! night, or for a doubt.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::packages::{self, Debian};
use crate::scenario::Scenario;
use crate::{host, run, scenarios};

/// Options of `cargo xtask soak`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Which one (see --list)
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// For how long
    #[arg(long)]
    minutes: Option<u64>,
    /// Threads on the host that keep it busy meanwhile (boot only) [default: one for each of its CPUs]
    #[arg(long)]
    load: Option<usize>,
    /// How many: migrations of each guest [default: 20], guests [guests: 1000, scale: 200], kills of a kind [killed: 20],
    /// ways there and back [two-machines: 3, virsh-migrate: 1]
    #[arg(long)]
    rounds: Option<u64>,
    /// The first attack's seed (hostile only)
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run it on Debian's Xen: is it Radon that fails?
    #[arg(long)]
    xen: bool,
    /// Print the names and do nothing
    #[arg(long)]
    list: bool,
}

const SOAKS: &[(&str, &str)] = &[
    ("mixed", "load of all kinds on a dom0 with 4 CPUs: wake-ups, clocks and kernel messages are watched (10 minutes)"),
    ("boot", "boots with 2 and 4 CPUs, again and again, on a host that is kept busy (20 minutes)"),
    ("migrate", "guests with 1 to 4 CPUs move to the same host under load, some migrations break (80 migrations)"),
    ("coredump", "guests that crash leave whole cores behind, and are destroyed or start anew (about 30 minutes)"),
    ("hostile", "a guest attacks the hypervisor, with one seed after the other (60 minutes)"),
    ("killed", "the tools are killed at all moments of create, destroy, save and migrate (20 rounds)"),
    ("guests", "guests are created and destroyed, and all memory comes back (1000 guests)"),
    ("crowd", "8 guests on 2 CPUs under load, all of them responsive (60 minutes)"),
    ("scale", "small guests live at once, and one more costs no more than the first (200 guests)"),
    ("two-machines", "a guest moves between two machines, also between Radon and Xen; the network breaks (3 rounds)"),
    ("virsh-migrate", "libvirt moves a guest between two machines, also between Radon and Xen, and fails to (1 round)"),
    ("streams", "what Debian's Xen saved is restored, and the other way round (4 boots)"),
];

/// Runs the soak that `options` name. Returns whether nothing failed.
pub(crate) fn soak(options: &Options) -> Result<bool> {
    if options.list {
        SOAKS.iter().for_each(|(name, what)| println!("{name:<8} {what}"));
        return Ok(true);
    }
    let name = options.name.as_deref().unwrap_or_default();
    let known = SOAKS.iter().any(|(known, _)| *known == name);
    let unknown = || format!("no soak is called '{name}'; cargo xtask soak --list shows those there are");
    known.then_some(()).with_context(unknown)?;
    let debian = packages::fetch()?;
    let hypervisor =
        if options.xen { run::debian_xen(&debian)? } else { build::build(Profile::Release, Stdio::inherit())? };
    let lab = Lab { debian, hypervisor, xen: options.xen };
    match name {
        "mixed" => one(&lab, &scenarios::soak("soak-mixed", options.minutes.unwrap_or(10) * 60)),
        "streams" => each(&lab, &scenarios::soak_streams()),
        "coredump" => one(&lab, &scenarios::soak_coredump()),
        "migrate" => one(&lab, &scenarios::soak_migrate(options.rounds.unwrap_or(20))),
        "hostile" => one(&lab, &scenarios::hostile("soak-hostile", options.minutes.unwrap_or(60) * 60, options.seed)),
        "killed" => one(&lab, &scenarios::killed("soak-killed", options.rounds.unwrap_or(20))),
        "guests" => one(&lab, &scenarios::soak_guests(options.rounds.unwrap_or(1000))),
        "crowd" => one(&lab, &scenarios::soak_crowd(options.minutes.unwrap_or(60) * 60)),
        "scale" => one(&lab, &scenarios::soak_scale(options.rounds.unwrap_or(200))),
        "two-machines" => each(&lab, &scenarios::soak_two_machines(options.rounds.unwrap_or(3))),
        "virsh-migrate" => each(&lab, &scenarios::soak_virsh_migrate(options.rounds.unwrap_or(1))),
        _ => boots(&lab, options),
    }
}

struct Lab {
    debian: Debian,
    hypervisor: PathBuf,
    xen: bool,
}

impl Lab {
    /// Runs one machine; says what went wrong, if anything did.
    fn run(&self, scenario: &Scenario) -> Result<Option<String>> {
        let logs = host::output().join("logs");
        let outcome = scenario.run(&self.debian, &self.hypervisor, self.xen, &logs)?;
        Ok(outcome.failure.map(|why| format!("{why}\n        the whole log: {}", outcome.log.display())))
    }
}

/// A soak that is one machine, which says how far it is.
fn one(lab: &Lab, scenario: &Scenario) -> Result<bool> {
    let failure = lab.run(&scenario.clone().follow("SOAK "))?;
    match &failure {
        None => println!("1 passed, 0 failed, 0 skipped"),
        Some(why) => println!("FAILED  {why}\n0 passed, 1 failed, 0 skipped"),
    }
    Ok(failure.is_none())
}

/// A soak that is several machines, one after the other.
fn each(lab: &Lab, scenarios: &[Scenario]) -> Result<bool> {
    scenarios.iter().map(|scenario| one(lab, scenario)).try_fold(true, |good, this| Ok(good & this?))
}

fn boots(lab: &Lab, options: &Options) -> Result<bool> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let load = Load::start(options.load.unwrap_or(cpus));
    let until = Instant::now() + Duration::from_secs(60 * options.minutes.unwrap_or(20));
    let (mut number, mut failed) = (0, 0);
    while number == 0 || Instant::now() < until {
        number += 1;
        let cpus = if number % 2 == 0 { 2 } else { 4 };
        let start = Instant::now();
        // Each failure keeps its log.
        let name: &'static str = if failed == 0 { "soak-boot" } else { format!("soak-boot-{failed}").leak() };
        let failure = lab.run(&scenarios::soak_boot(name, cpus))?;
        let seconds = start.elapsed().as_secs();
        match failure {
            None => println!("boot {number} with {cpus} CPUs: ok in {seconds} s; {failed} failed so far"),
            Some(why) => {
                failed += 1;
                println!("boot {number} with {cpus} CPUs: FAILED after {seconds} s: {why}");
            }
        }
    }
    drop(load);
    println!("{} passed, {failed} failed, 0 skipped", number - failed);
    Ok(failed == 0)
}

/// Threads that use as much of the host as they can get.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    fn start(count: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        };
        let threads = (0..count).map(|_| thread::spawn(spin(stop.clone()))).collect();
        Load { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that only spins does not panic.
            let _ = thread.join();
        }
    }
}
