//! The developer's machine: where things are, how programs are started, which system packages are needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// Root of the checkout.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// What is downloaded and derived from downloads; ignored by git and safe to delete.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}

/// Cargo's build folder.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// Where the image and the logs go.
pub(crate) fn output() -> PathBuf {
    target().join("radon")
}

/// The cargo that runs us, started in the root of the checkout.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command to its end; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", shell_line(command)))?;
    ensure!(status.success(), "{} failed ({status})", shell_line(command));
    Ok(())
}

/// Runs a command to its end and returns what it printed on standard output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {}", shell_line(command)))?;
    if !output.status.success() {
        bail!("{} failed ({})\n{}", shell_line(command), output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one could type it.
pub(crate) fn shell_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A program or file of the system, the Debian package that has it and what we need it for.
pub(crate) struct Tool {
    /// A program in the search path, or an absolute path of a file.
    probe: &'static str,
    package: &'static str,
    purpose: &'static str,
}

/// A row of a table of tools.
pub(crate) const fn tool(probe: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { probe, package, purpose }
}

/// To run the emulated machine.
pub(crate) const QEMU: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86", "the emulated machine"),
    tool("/usr/share/seabios/bios-256k.bin", "seabios", "its BIOS"),
];

/// To unpack Debian packages into `.cache`.
pub(crate) const UNPACK: &[Tool] = &[tool("dpkg-deb", "dpkg", "unpacking packages")];

/// To build the fuzzing engine, which is C++.
pub(crate) const COMPILER: &[Tool] = &[tool("c++", "g++", "building the fuzzing engine")];

/// To make and boot GRUB images.
pub(crate) const GRUB: &[Tool] = &[
    tool("grub-mkrescue", "grub-common", "making a bootable image"),
    tool("/usr/lib/grub/i386-pc/multiboot2.mod", "grub-pc-bin", "GRUB for BIOS machines"),
    tool("/usr/lib/grub/x86_64-efi/multiboot2.mod", "grub-efi-amd64-bin", "GRUB for UEFI machines"),
    tool("xorriso", "xorriso", "writing the image's file system"),
    tool("mformat", "mtools", "writing the image's EFI partition"),
    tool(OVMF_CODE, "ovmf", "UEFI firmware for the emulated machine"),
];

/// The UEFI firmware of Debian's package `ovmf`.
pub(crate) const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE.fd";
/// The template of its variable store.
pub(crate) const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS.fd";

impl Tool {
    fn present(&self) -> bool {
        if self.probe.starts_with('/') {
            return Path::new(self.probe).exists();
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let sbin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path).chain(sbin).any(|folder| folder.join(self.probe).is_file())
    }
}

/// Installs the packages of those `tools` that are missing, after saying what and why. Does nothing when all are there.
pub(crate) fn ensure_tools(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.present()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("These Debian packages are missing and will be installed with apt-get:");
    for tool in &missing {
        eprintln!("  {:<20} {}", tool.package, tool.purpose);
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let install = |packages: &[&str]| {
        let arguments = ["install", "--yes", "--quiet", "--no-install-recommends"];
        run(as_root("apt-get").args(arguments).args(packages).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    if install(&packages).is_err() {
        eprintln!("Trying again with a fresh package list.");
        run(as_root("apt-get").args(["update", "--quiet"]))?;
        install(&packages)?;
    }
    match missing.iter().find(|tool| !tool.present()) {
        Some(tool) => bail!("{} is still missing after installing {}", tool.probe, tool.package),
        None => Ok(()),
    }
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is who we are.
    std::fs::metadata("/proc/self").map(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0).unwrap_or(false)
}

fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_line_quotes_what_needs_it() {
        let mut command = Command::new("qemu");
        command.args(["-append", "a b", "it's", "plain,x=1", ""]);
        assert_eq!(shell_line(&command), r"qemu -append 'a b' 'it'\''s' plain,x=1 ''");
    }
}
