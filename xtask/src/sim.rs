//! `cargo xtask sim`: builds the simulator and hands its options over.

use std::process::Command;

use anyhow::{Context, Result};

use crate::host;

/// Options of `cargo xtask sim`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Options of the simulator: `--help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// The simulator with these options, built if need be.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut cargo = host::cargo();
    cargo.args(["run", "--quiet", "--profile", "sim", "--package", "radon-sim", "--"]).args(arguments);
    cargo
}

/// Runs the simulator. Returns whether it found nothing.
pub(crate) fn sim(options: &Options) -> Result<bool> {
    let arguments: Vec<&str> = options.arguments.iter().map(String::as_str).collect();
    Ok(command(&arguments).status().context("cannot start cargo")?.success())
}
