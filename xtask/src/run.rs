//! `cargo xtask run`: boots Radon (or Debian's Xen) under QEMU, for a person or a script.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;

use crate::build::{self, Profile};
use crate::devices::{Card, Disk};
use crate::initrd::{self, Flavour};
use crate::machine::{Loader, Machine, Payload, Threads};
use crate::packages::Debian;
use crate::serial::{Event, Session};
use crate::{host, packages, rootfs};

/// A limit for scripts, in seconds of QEMU's CPU time.
const SCRIPT_LIMIT: u64 = 600;

/// Options of `cargo xtask run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Virtual CPUs of the machine
    #[arg(long, default_value_t = 1)]
    cpus: u32,
    /// Memory of the machine, with a suffix M or G
    #[arg(long, default_value = "3G", value_parser = parse_memory)]
    memory: u32,
    /// Added to the hypervisor's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    append: String,
    /// Added to the dom0 kernel's command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    dom0_append: String,
    /// Added to QEMU's CPU model, such as ",-svm"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cpu_flags: String,
    /// Raw disk image for dom0, on virtio unless another controller is named; may be repeated
    #[arg(long, value_name = "[virtio:|ahci:|nvme:]FILE", value_parser = Disk::parse)]
    disk: Vec<Disk>,
    /// Give dom0 a network card with QEMU's user network behind it; may be repeated
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "virtio")]
    network: Vec<Card>,
    /// What dom0's user space is [default: tools; mini with --bochs]
    #[arg(long, value_enum)]
    flavour: Option<Flavour>,
    /// dom0's initial file system, in place of a flavour
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// dom0's kernel, in place of Debian's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Boot Debian's Xen in Radon's place, all else the same
    #[arg(long)]
    xen: bool,
    /// Build with debug assertions (slow)
    #[arg(long)]
    debug: bool,
    /// Boot an ISO with GRUB on a BIOS machine
    #[arg(long)]
    grub_bios: bool,
    /// Boot an ISO with GRUB on a UEFI machine
    #[arg(long, conflicts_with = "grub_bios")]
    grub_uefi: bool,
    /// Boot an ISO in the emulator Bochs (built from source at the first time); no input
    #[arg(long, conflicts_with_all = ["xen", "grub_bios", "grub_uefi", "disk", "network", "gdb", "icount", "cpu_flags"])]
    bochs: bool,
    /// Wait for a debugger on port 1234 (symbols: target/radon/radon.elf)
    #[arg(long)]
    gdb: bool,
    /// Stop after so many seconds of QEMU's CPU time; no input
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Run this shell script in dom0, power off, and exit with success if it did
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Deterministic clock: one instruction is one nanosecond
    #[arg(long)]
    icount: bool,
    /// How QEMU runs several CPUs
    #[arg(long, value_enum, default_value = "single")]
    threads: Threads,
    /// Print QEMU's command line and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Further arguments for QEMU, after "--"
    #[arg(last = true)]
    qemu: Vec<String>,
}

fn parse_memory(text: &str) -> Result<u32, String> {
    let (number, unit) = match text.strip_suffix(['G', 'g']) {
        Some(number) => (number, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number: u32 = number.parse().map_err(|_| "expected a number with M or G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too much memory".to_owned())
}

/// Runs the machine that `options` describe.
pub(crate) fn run(options: &Options) -> Result<()> {
    let debian = packages::fetch()?;
    let mut dom0_append = options.dom0_append.clone();
    // Bochs has no input, so nobody would use the tools.
    let flavour = options.flavour.unwrap_or(if options.bochs { Flavour::Mini } else { Flavour::Tools });
    let mut initrd = match &options.initrd {
        Some(file) => file.clone(),
        None => initrd::build(&debian, flavour)?,
    };
    let mut disks = options.disk.clone();
    if flavour == Flavour::Debian {
        ensure!(options.script.is_none(), "scripts run in the flavours mini and tools; in Debian, log in as root");
        ensure!(!options.bochs, "Debian's root disk is a virtio disk, which Bochs does not have");
        dom0_append = format!("{} {dom0_append}", rootfs::KERNEL_OPTIONS);
        disks.insert(0, rootfs::disk(&debian)?);
        eprintln!("What is written to Debian's root disk is lost when QEMU ends; --disk adds disks that last.");
    }
    if let Some(script) = &options.script {
        let text = fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?;
        let path;
        (initrd, path) = initrd::with_script(&initrd, "run", &text, Some(build::probe()?))?;
        dom0_append = format!("radon.script={path} {dom0_append}");
    }
    let profile = if options.debug { Profile::Debug } else { Profile::Release };
    let payload = Payload {
        hypervisor: if options.xen { debian_xen(&debian)? } else { build::build(profile, Stdio::inherit())? },
        is_xen: options.xen,
        kernel: Some(options.kernel.clone().unwrap_or_else(|| debian.kernel())),
        initrd: Some(initrd),
    };
    let mut machine = Machine::new("run");
    machine.loader = match (options.grub_bios, options.grub_uefi, options.bochs) {
        (true, _, _) => Loader::GrubBios,
        (_, true, _) => Loader::GrubUefi,
        (_, _, true) => Loader::Bochs,
        _ => Loader::Direct,
    };
    machine.cpus = options.cpus;
    machine.threads = options.threads;
    machine.memory_mib = options.memory;
    machine.cpu_flags = options.cpu_flags.clone();
    machine.append = options.append.clone();
    machine.dom0_append = dom0_append;
    machine.disks = disks;
    machine.cards = options.network.clone();
    machine.icount = options.icount;
    machine.gdb = options.gdb;
    machine.extra = options.qemu.clone();

    let interactive = options.script.is_none() && options.timeout.is_none() && !options.bochs;
    let mut emulator = machine.command(&payload, interactive)?;
    if options.dry_run {
        println!("{}", host::shell_line(&emulator));
        return Ok(());
    }
    if interactive {
        eprintln!("Starting QEMU; Ctrl-A X ends it.");
        return host::run(&mut emulator);
    }
    let limit = Duration::from_secs(options.timeout.unwrap_or(SCRIPT_LIMIT));
    let mut session = Session::start(&mut emulator, &host::output().join("logs/run.log"), limit, true)?;
    let mut script_status = None;
    loop {
        match session.next()? {
            Event::Line(line) => {
                if let Some((_, status)) = line.split_once("RADON-TEST: script exit ") {
                    script_status = Some(status.trim().to_owned());
                }
            }
            Event::Partial(_) => {}
            Event::Limit(limit) => bail!("stopped: {limit}"),
            Event::Ended(status) => {
                return match script_status.as_deref() {
                    Some("0") => Ok(()),
                    Some(code) => bail!("the script ended with {code}"),
                    None if options.script.is_some() => bail!("the script did not end (QEMU: {status})"),
                    None => Ok(()),
                };
            }
        }
    }
}

/// Debian's Xen, unpacked so that QEMU can load it.
pub(crate) fn debian_xen(debian: &Debian) -> Result<PathBuf> {
    let file = host::cache().join("debian/xen");
    let newer = |file: &Path, than: &Path| -> Result<bool> {
        Ok(fs::metadata(file)?.modified()? >= fs::metadata(than)?.modified()?)
    };
    if !newer(&file, &debian.xen_gz()).unwrap_or(false) {
        let mut content = Vec::new();
        GzDecoder::new(fs::File::open(debian.xen_gz())?).read_to_end(&mut content)?;
        fs::write(&file, content)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_units() {
        assert_eq!(parse_memory("3G"), Ok(3072));
        assert_eq!(parse_memory("640M"), Ok(640));
        assert_eq!(parse_memory("64"), Ok(64));
        assert!(parse_memory("x").is_err());
        assert!(parse_memory("99999999G").is_err());
    }
}
