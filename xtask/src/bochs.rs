//! A second emulator: Bochs, slower and stricter than QEMU, with other SVM features (next-RIP save, flush by ASID) and
//! without an IOMMU.
//!
//! Debian 12's own package is old and has no display for a machine without a screen, so the version of a newer Debian
//! is built from its source, once, into `.cache`. It boots from an ISO and its serial port is output only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine::{Machine, Payload};
use crate::packages::Apt;
use crate::{host, iso};

/// The Debian release that has the source we build.
const RELEASE: &str = "trixie";
const CONFIGURE: &[&str] = &[
    "--with-nogui",
    // Counting instructions per second can deadlock.
    "--disable-show-ips",
    "--enable-smp",
    "--enable-cpu-level=6",
    "--enable-x86-64",
    "--enable-svm",
    "--enable-vmx=2",
    "--enable-avx",
    "--enable-evex",
    "--enable-pci",
    "--enable-all-optimizations",
];

const BUILD_TOOLS: &[host::Tool] = &[
    host::tool("g++", "g++", "building Bochs"),
    host::tool("make", "make", "building Bochs"),
    host::tool("xz", "xz-utils", "unpacking its source"),
    host::tool("/usr/share/seabios/vgabios-stdvga.bin", "seabios", "its VGA BIOS"),
];

/// The command that starts Bochs with `payload`, its serial port on standard output.
pub(crate) fn command(machine: &Machine, payload: &Payload) -> Result<Command> {
    ensure!(!payload.is_xen, "Bochs has no IOMMU, without which Debian's Xen refuses a PVH dom0");
    let (emulator, bios) = emulator()?;
    let (hypervisor, dom0) = machine.command_lines();
    let image = iso::build(&machine.name, payload, &hypervisor, &dom0)?;
    let settings = host::output().join(format!("{}.bochsrc", machine.name));
    let lines = settings_text(machine, &bios, &image);
    fs::write(&settings, lines)?;
    let mut command = Command::new(emulator);
    command.arg("-q").arg("-f").arg(settings);
    Ok(command)
}

fn settings_text(machine: &Machine, bios: &Path, image: &Path) -> String {
    let log = host::output().join(format!("logs/{}.bochs.log", machine.name));
    let lines = [
        "display_library: nogui".to_owned(),
        format!("romimage: file={}", bios.display()),
        "vgaromimage: file=/usr/share/seabios/vgabios-stdvga.bin".to_owned(),
        format!("cpu: model=ryzen, count={}, ips=50000000, reset_on_triple_fault=0", machine.cpus),
        format!("memory: guest={0}, host={0}", machine.memory_mib),
        // Time follows the instructions, so two runs are alike.
        "clock: sync=none, time0=1".to_owned(),
        format!("ata0-master: type=cdrom, path={}, status=inserted", image.display()),
        "boot: cdrom".to_owned(),
        "com1: enabled=1, mode=file, dev=/dev/stdout".to_owned(),
        format!("log: {}", log.display()),
        "panic: action=fatal".to_owned(),
        "error: action=report".to_owned(),
        "info: action=ignore".to_owned(),
    ];
    lines.map(|line| line + "\n").concat()
}

/// Whether an earlier run built Bochs.
pub(crate) fn is_built() -> bool {
    let (program, bios) = places();
    program.exists() && bios.exists()
}

/// Where Bochs and its BIOS are.
fn places() -> (PathBuf, PathBuf) {
    let folder = host::cache().join("bochs");
    (folder.join("bochs"), folder.join("root/usr/share/bochs/BIOS-bochs-latest"))
}

/// Bochs and its BIOS, made when they are missing.
fn emulator() -> Result<(PathBuf, PathBuf)> {
    let (program, bios) = places();
    host::ensure_tools(BUILD_TOOLS)?;
    if is_built() {
        return Ok((program, bios));
    }
    let folder = host::cache().join("bochs");
    eprintln!("Building the emulator Bochs in {} (some minutes, once)", folder.display());
    let apt = Apt::new(&folder)?;
    apt.update()?;
    let package = apt.download_any("bochsbios")?;
    host::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(folder.join("root")))?;

    let source = apt.for_source(&folder.join("source"), RELEASE)?;
    source.update()?;
    let archive = source.download_source("bochs")?;
    let tree = folder.join("tree");
    fs::create_dir_all(&tree)?;
    host::run(Command::new("tar").arg("xf").arg(&archive).arg("-C").arg(&tree).arg("--strip-components=1"))?;
    let log = folder.join("build.log");
    let file = fs::File::create(&log)?;
    let mut steps = [Command::new("./configure"), Command::new("make")];
    steps[0].args(CONFIGURE);
    steps[1].arg(format!("-j{}", std::thread::available_parallelism()?));
    for step in &mut steps {
        step.current_dir(&tree).stdout(file.try_clone()?).stderr(file.try_clone()?);
        host::run(step).with_context(|| format!("see {}", log.display()))?;
    }
    fs::copy(tree.join("bochs"), &program)?;
    fs::remove_dir_all(&tree)?;
    Ok((program, bios))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_the_machine_s_size() {
        let mut machine = Machine::new("t");
        machine.cpus = 2;
        machine.memory_mib = 1024;
        let text = settings_text(&machine, Path::new("/bios"), Path::new("/boot.iso"));
        assert!(text.contains("memory: guest=1024, host=1024\n"));
        assert!(text.contains("model=ryzen, count=2,"));
        assert!(text.contains("path=/boot.iso,"));
    }
}
