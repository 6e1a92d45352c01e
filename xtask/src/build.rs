//! `cargo xtask build`: the bootable image.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};

use crate::{host, image};

/// The target of everything that runs without an operating system.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// The target of the program that tests run inside dom0 and guests.
const PROBE_TARGET: &str = "x86_64-unknown-linux-musl";

/// Code is linked at fixed addresses in the top 2 GiB; backtraces walk the frame pointers. Less is inlined than usual:
/// the default makes the image half as large again, and no path that matters shorter.
const RUSTFLAGS: &str = "-C relocation-model=static -C code-model=kernel -C force-frame-pointers=yes \
    -C llvm-args=-inline-threshold=40";

/// How to optimise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Optimised, what is shipped and tested.
    Release,
    /// With overflow and debug checks; slow under emulation.
    Debug,
}

/// A `cargo` command with the flags of the bare-metal target; they do not touch builds for the host.
pub(crate) fn bare_metal_cargo(subcommand: &str) -> Command {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    bare_metal_cargo_at(&host::root(), home.as_deref(), subcommand)
}

/// The same for sources that are in `root`, and with crates that are in cargo's folder `home`. Neither shows in what is
/// built: `cargo xtask audit reproducible` looks.
fn bare_metal_cargo_at(root: &Path, home: Option<&Path>, subcommand: &str) -> Command {
    let mut flags = RUSTFLAGS.to_owned();
    // Panics name their place in the source.
    let places = [(Some(root), "."), (home, "/cargo")];
    for (place, name) in places.iter().filter_map(|(place, name)| Some((place.as_ref()?, name))) {
        flags.push_str(&format!(" --remap-path-prefix={}={name}", place.display()));
    }
    let mut command = host::cargo();
    command.current_dir(root).arg(subcommand).args(["--target", TARGET]);
    command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_RUSTFLAGS", flags);
    command
}

/// Adds a target to the toolchain if it is missing.
pub(crate) fn ensure_target(target: &str) -> Result<()> {
    let mut query = Command::new("rustc");
    query.current_dir(host::root()).args(["--print", "target-libdir", "--target", target]);
    let folder = host::capture(&mut query)?;
    if Path::new(folder.trim()).exists() {
        return Ok(());
    }
    eprintln!("Adding the Rust target {target} (rustup target add)");
    host::run(Command::new("rustup").current_dir(host::root()).args(["target", "add", target]))
}

/// Builds the program that tests run inside dom0 and guests (`guests/probe`), linked statically, and returns its bytes.
pub(crate) fn probe() -> Result<Vec<u8>> {
    ensure_target(PROBE_TARGET)?;
    let mut command = host::cargo();
    command.args(["build", "--quiet", "--release", "--package", "radon-probe", "--target", PROBE_TARGET]);
    // Rust brings the linker and the C library along, so nothing else has to be installed.
    command.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-C linker=rust-lld");
    command.env("CARGO_PROFILE_RELEASE_STRIP", "true");
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "guests/probe does not build:\n{}", String::from_utf8_lossy(&output.stderr));
    let file = host::target().join(PROBE_TARGET).join("release/probe");
    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

/// Builds the image and returns its file; beside it are the same compressed (`.gz`), the symbols (`.syms`) and the
/// linker's output for debuggers (`.elf`). `messages` takes cargo's messages.
pub(crate) fn build(profile: Profile, messages: Stdio) -> Result<PathBuf> {
    let linked = link(bare_metal_cargo("build"), "radon", "radon", profile, messages)?;
    store(&linked, &host::output())
}

/// Builds an image for tests whose guests may force the emulation of instructions, if the option `hvm_fep` says so.
pub(crate) fn build_with_forced_emulation() -> Result<PathBuf> {
    let mut command = bare_metal_cargo("build");
    command.args(["--features", "radon/hvm_fep"]);
    let linked = link(command, "radon", "radon", Profile::Release, Stdio::inherit())?;
    store(&linked, &host::output().join("hvm_fep"))
}

/// Builds the image from sources in the folder `root`, in its folder `target`, with crates in cargo's folder `home`.
pub(crate) fn build_at(root: &Path, home: &Path, messages: Stdio) -> Result<PathBuf> {
    let target = root.join("target");
    let mut command = bare_metal_cargo_at(root, Some(home), "build");
    command.env("CARGO_TARGET_DIR", &target).env("CARGO_HOME", home);
    let linked = link(command, "radon", "radon", Profile::Release, messages)?;
    store(&linked, &target.join("radon"))
}

/// Makes the files that are booted, and those for debuggers, from what was linked.
fn store(linked: &Path, folder: &Path) -> Result<PathBuf> {
    let elf = fs::read(linked).with_context(|| format!("cannot read {}", linked.display()))?;
    let image = image::convert(&elf).context("cannot make an image of the linker's output")?;
    fs::create_dir_all(folder)?;
    let file = folder.join("radon");
    fs::write(&file, &image.file)?;
    fs::write(folder.join("radon.elf"), &elf)?;
    fs::write(folder.join("radon.syms"), image::symbol_file(&image.symbols))?;
    let mut packed = GzBuilder::new().write(fs::File::create(folder.join("radon.gz"))?, Compression::best());
    packed.write_all(&image.file)?;
    packed.finish()?;
    Ok(file)
}

/// Builds the kernel that measures hypervisors and returns its file.
pub(crate) fn guest(messages: Stdio) -> Result<PathBuf> {
    link(bare_metal_cargo("build"), "radon-micro", "micro", Profile::Release, messages)
}

/// Builds the kernel of small guests and returns its file.
pub(crate) fn tenant() -> Result<PathBuf> {
    link(bare_metal_cargo("build"), "radon-tenant", "tenant", Profile::Release, Stdio::inherit())
}

/// Builds the kernel that calls every operation and returns its file.
pub(crate) fn operations() -> Result<PathBuf> {
    link(bare_metal_cargo("build"), "radon-ops", "ops", Profile::Release, Stdio::inherit())
}

/// Builds a program for the bare machine and returns the linker's output.
fn link(mut command: Command, package: &str, binary: &str, profile: Profile, messages: Stdio) -> Result<PathBuf> {
    ensure_target(TARGET)?;
    command.args(["--package", package, "--message-format=json-render-diagnostics"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let output = command.stderr(messages).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{package} does not build");
    executable(&String::from_utf8_lossy(&output.stdout), binary).context("cargo named no executable")
}

/// The file of a binary, from cargo's messages.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut binaries =
        messages.filter(|message| message["target"]["name"] == name && message["executable"].is_string());
    binaries.next_back().and_then(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_messages() {
        let messages = "not json\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"radon-core\"},\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"target\":{\"name\":\"radon\"},\"executable\":\"/t/radon\"}\n";
        assert_eq!(executable(messages, "radon"), Some(PathBuf::from("/t/radon")));
        assert_eq!(executable("{}", "radon"), None);
    }
}
