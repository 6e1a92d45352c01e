//! The one developer tool: `cargo xtask build`, `run`, `test`, `bench` and what they need.

mod acpi;
mod audit;
mod bench;
mod bochs;
mod build;
mod clocks;
mod coverage;
mod cpio;
mod devices;
mod extras;
mod fuzz;
mod guide;
mod host;
mod image;
mod initrd;
mod iso;
mod machine;
mod modules;
mod mutants;
mod operations;
mod packages;
mod rootfs;
mod run;
mod scenario;
mod scenarios;
mod serial;
mod sim;
mod soak;
mod source;
mod test;
mod xtf;

use std::process::{ExitCode, Stdio};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Builds, runs and tests Radon.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the bootable image target/radon/radon
    Build {
        /// With debug assertions, not optimised
        #[arg(long)]
        debug: bool,
    },
    /// Download the Debian packages that the emulated machine runs (run and test do it when needed)
    Fetch,
    /// Boot the image in an emulated machine, to a shell in dom0
    Run(Box<run::Options>),
    /// Run a long test of stability
    Soak(soak::Options),
    /// Run core and x86 under a simulated machine, with everything from one seed
    Sim(sim::Options),
    /// Compare Radon with Debian's Xen: instructions, sizes, memory
    Bench(bench::Options),
    /// Look at the code: unsafe blocks, lines, licences, panics in the image, stack frames, reproducible builds
    Audit(audit::Options),
    /// Measure which lines of core and x86 the tests on the host execute
    Coverage(coverage::Options),
    /// Change the code here and there and see whether the tests on the host notice (takes an hour)
    Mutants(mutants::Options),
    /// Look for inputs that break a parser, the emulator or a hypercall
    Fuzz(fuzz::Options),
    /// Run a built tree of the Xen Test Framework on Radon and on Debian's Xen
    Xtf(xtf::Options),
    /// Write the book's chapter that says what each source file is
    Guide,
    /// Run every check; the last line is "N passed, N failed, N skipped"
    Test(test::Options),
}

fn main() -> ExitCode {
    match perform(Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Performs a task; `false` says that it has reported failures itself.
fn perform(task: Task) -> Result<bool> {
    match task {
        Task::Build { debug } => {
            let profile = if debug { build::Profile::Debug } else { build::Profile::Release };
            println!("{}", build::build(profile, Stdio::inherit())?.display());
        }
        Task::Fetch => {
            let debian = packages::fetch()?;
            println!("Debian's kernel {} and Xen are in {}", debian.kernel_release, debian.root.display());
        }
        Task::Run(options) => run::run(&options)?,
        Task::Sim(options) => return sim::sim(&options),
        Task::Soak(options) => return soak::soak(&options),
        Task::Bench(options) => return bench::bench(&options),
        Task::Audit(options) => return audit::audit(&options),
        Task::Coverage(options) => return coverage::coverage(&options),
        Task::Mutants(options) => return mutants::mutants(&options),
        Task::Fuzz(options) => return fuzz::fuzz(&options),
        Task::Xtf(options) => return xtf::xtf(&options),
        Task::Guide => println!("{}", guide::write()?.display()),
        Task::Test(options) => return test::test(&options),
    }
    Ok(true)
}
