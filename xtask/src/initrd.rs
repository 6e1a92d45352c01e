//! The initial file systems of dom0 and guests, made from unpacked Debian packages.
//!
//! Three flavours: [`Flavour::Mini`] is BusyBox and kernel modules; [`Flavour::Tools`] adds Xen's own tools with their
//! libraries, and a kernel and the mini flavour again for guests to boot; [`Flavour::Full`] adds libvirt and QEMU. They
//! are not compressed: the emulated CPU would spend longer on unpacking than a loader on copying. They are made anew on
//! each run, in well under a second.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::elf::{DT_NEEDED, FileHeader64};
use object::read::elf::{Dyn, FileHeader};

use crate::build;
use crate::cpio::Archive;
use crate::modules::{self, Tree};
use crate::packages::Debian;
use crate::{extras, host};

/// What is in an initial file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flavour {
    /// BusyBox and modules.
    Mini,
    /// Also xl, both xenstoreds, the console daemon, bash, and guests' kernels and a file system for them in /boot.
    Tools,
    /// Also libvirt with its driver for Xen, and QEMU for qcow2 disks, shared folders and frame buffers of guests.
    Full,
    /// A Debian system with systemd on a virtio disk; log in as root, without a password.
    Debian,
}

const MODULES: &[&str] = &[
    "xenfs",
    "xen-evtchn",
    "xen-gntdev",
    "xen-gntalloc",
    "xen-privcmd",
    "xen-blkback",
    "xen-netback",
    "xen-blkfront",
    "xen-netfront",
    "loop",
    "bridge",
    "tun",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "ahci",
    "sd_mod",
    "nvme",
    "e1000e",
    "9p",
    "9pnet_xen",
    "ext4",
    "crc32c_generic",
];

/// Folders of the packages that the tools flavour has whole.
const TOOL_FOLDERS: &[&str] = &["usr/lib/xen-4.17/bin", "usr/lib/xen-common/bin", "etc/xen"];
/// Single files of the packages, besides.
const TOOL_FILES: &[&str] =
    &["bin/bash", "usr/bin/flock", "usr/lib/xen-4.17/boot/hvmloader", "usr/sbin/xl", "usr/sbin/gdbsx"];
/// Programs of `usr/bin` and `usr/sbin` with these beginnings.
const TOOL_PREFIXES: &[&str] = &["xen"];
/// Loaded with dlopen, so no file names it: without it pthread_cancel aborts the program.
const LOADED_LATE: &[&str] = &["libgcc_s.so.1"];
const LIBRARY_FOLDERS: &[&str] =
    &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "usr/lib/xen-4.17/lib/x86_64-linux-gnu"];
const ELF_LOADER: (&str, &str) = ("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2");

/// Makes the file system and returns its file.
pub(crate) fn build(debian: &Debian, flavour: Flavour) -> Result<PathBuf> {
    let mut bytes = Vec::new();
    let mut archive = mini(debian)?;
    for (path, text) in GUEST_SCRIPTS {
        archive.file(path, 0o755, *text);
    }
    archive.write(&mut bytes)?;
    let name = match flavour {
        Flavour::Mini | Flavour::Debian => "mini.cpio",
        Flavour::Tools => {
            tools(&mut archive, debian, std::mem::take(&mut bytes))?;
            archive.write(&mut bytes)?;
            "tools.cpio"
        }
        Flavour::Full => {
            tools(&mut archive, debian, std::mem::take(&mut bytes))?;
            full(&mut archive, debian)?;
            archive.write(&mut bytes)?;
            "full.cpio"
        }
    };
    store(name, &bytes)
}

/// Makes a file system that is `base` with a script added, which `radon.script=` then names, and perhaps the program
/// `probe`. Returns the file and the script's path in it.
pub(crate) fn with_script(base: &Path, name: &str, script: &str, probe: Option<Vec<u8>>) -> Result<(PathBuf, String)> {
    let mut bytes = fs::read(base)?;
    let inside = format!("tests/{name}.sh");
    let mut archive = Archive::new();
    archive.file(&inside, 0o755, script);
    if let Some(program) = probe {
        archive.file("usr/bin/probe", 0o755, program);
    }
    archive.write(&mut bytes)?;
    Ok((store(&format!("{name}.cpio"), &bytes)?, format!("/{inside}")))
}

/// Puts a file into the output folder in one step: another xtask may be reading the old one.
pub(crate) fn store(name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let folder = host::output();
    fs::create_dir_all(&folder)?;
    let temporary = folder.join(format!("{name}.{}", std::process::id()));
    fs::write(&temporary, bytes)?;
    let file = folder.join(name);
    fs::rename(&temporary, &file)?;
    Ok(file)
}

/// What a guest can be told to do with `radon.script=`.
const GUEST_SCRIPTS: &[(&str, &str)] = &[
    ("etc/exit.sh", include_str!("../guest/exit.sh")),
    ("etc/count.sh", include_str!("../guest/count.sh")),
    ("etc/load.sh", include_str!("../guest/load.sh")),
    ("etc/disk.sh", include_str!("../guest/disk.sh")),
    ("etc/bench.sh", include_str!("../guest/bench.sh")),
    ("etc/sink.sh", include_str!("../guest/sink.sh")),
    ("etc/fpu.sh", include_str!("../guest/fpu.sh")),
];

/// Removes what was stored for one machine, as far as it is there.
pub(crate) fn remove(name: &str) {
    for kind in ["cpio", "kernel", "iso", "ovmf", "rsdp", "tables", "loader"] {
        let _ = fs::remove_file(host::output().join(format!("{name}.{kind}")));
    }
}

fn mini(debian: &Debian) -> Result<Archive> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "run", "tmp", "mnt", "etc", "var/lib", "var/log", "usr/bin", "usr/sbin"] {
        archive.directory(folder);
    }
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        archive.symlink(link, to);
    }
    archive.symlink("var/run", "/run");
    archive.char_device("dev/console", 5, 1);
    archive.file("init", 0o755, include_str!("../dom0/init"));
    archive.file("etc/testlib.sh", 0o644, include_str!("../dom0/testlib.sh"));
    archive.file("etc/cable.sh", 0o644, include_str!("../dom0/cable.sh"));
    archive.file("etc/udhcpc/default.script", 0o755, include_str!("../dom0/udhcpc.sh"));
    archive.file("etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\n");
    archive.file("etc/group", 0o644, "root:x:0:\n");
    archive.file("usr/bin/busybox", 0o755, read(&debian.root.join("bin/busybox"))?);

    let chosen = Tree::open(&debian.modules())?.closure(MODULES)?;
    let folder = format!("usr/lib/modules/{}", debian.kernel_release);
    archive.file(&format!("{folder}/modules.dep"), 0o644, modules::modules_dep(&chosen));
    archive.file(&format!("{folder}/modules.alias"), 0o644, modules::modules_alias(&chosen));
    for module in chosen.into_values() {
        archive.file(&format!("{folder}/{}", module.path), 0o644, module.content);
    }
    Ok(archive)
}

fn tools(archive: &mut Archive, debian: &Debian, guest: Vec<u8>) -> Result<()> {
    let mut files: Vec<String> = TOOL_FILES.iter().map(|file| (*file).to_owned()).collect();
    for folder in TOOL_FOLDERS {
        list(&debian.root, folder, &mut files)?;
    }
    for folder in ["usr/bin", "usr/sbin"] {
        let mut programs = Vec::new();
        list(&debian.root, folder, &mut programs)?;
        let wanted = |path: &String| {
            path.rsplit('/').next().is_some_and(|name| TOOL_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
        };
        files.extend(programs.into_iter().filter(wanted));
    }
    programs(archive, &[&debian.root], &files, LOADED_LATE)?;
    archive.file(ELF_LOADER.1, 0o755, read(&debian.root.join(ELF_LOADER.0))?);
    archive.file("guest.cfg", 0o644, include_str!("../dom0/guest.cfg"));
    archive.file("etc/xen/start", 0o755, include_str!("../dom0/start-xen"));
    archive.file("boot/vmlinuz", 0o644, read(&debian.kernel())?);
    archive.file("boot/guest.cpio", 0o644, guest);
    archive.file("boot/tenant", 0o644, fs::read(build::tenant()?)?);
    Ok(())
}

fn full(archive: &mut Archive, debian: &Debian) -> Result<()> {
    let root = extras::fetch()?;
    let files: Vec<String> = extras::PROGRAMS.iter().map(|file| (*file).to_owned()).collect();
    programs(archive, &[&root, &debian.root], &files, &[])?;
    for folder in extras::FOLDERS {
        let mut files = Vec::new();
        list(&root, folder, &mut files)?;
        for path in files {
            archive.file(&path, 0o644, read(&root.join(&path))?);
        }
    }
    archive.file("etc/libvirt/start", 0o755, include_str!("../dom0/start-libvirt"));
    Ok(())
}

/// Adds `files`, which are in one of the folders `roots`, and all libraries that they need, besides `libraries`.
fn programs(archive: &mut Archive, roots: &[&Path], files: &[String], libraries: &[&str]) -> Result<()> {
    let mut libraries: Vec<String> = libraries.iter().map(|name| (*name).to_owned()).collect();
    for path in files {
        let mut places = roots.iter().map(|root| root.join(path));
        let place = places.find(|place| place.exists());
        let content = read(&place.with_context(|| format!("no fetched package has {path}"))?)?;
        libraries.extend(needed_libraries(&content));
        let inside = if path.starts_with("bin/") { format!("usr/{path}") } else { path.clone() };
        archive.file(&inside, 0o755, content);
    }
    while let Some(name) = libraries.pop() {
        let inside = format!("usr/lib/x86_64-linux-gnu/{name}");
        if archive.contains(&inside) {
            continue;
        }
        let folders = roots.iter().flat_map(|root| LIBRARY_FOLDERS.iter().map(move |folder| root.join(folder)));
        let place = folders.map(|folder| folder.join(&name)).find(|place| place.exists());
        let content = read(&place.with_context(|| format!("no fetched package has the library {name}"))?)?;
        libraries.extend(needed_libraries(&content));
        archive.file(&inside, 0o644, content);
    }
    Ok(())
}

/// Appends the paths of the files below `folder` of `root`; links to files count as files.
fn list(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder)).with_context(|| format!("no fetched package has {folder}"))? {
        let entry = entry?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            list(root, &path, files)?;
        } else if entry.path().exists() {
            files.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Names of the shared libraries that a dynamic ELF64 file asks for; none for anything else.
fn needed_libraries(content: &[u8]) -> Vec<String> {
    try_needed(content).unwrap_or_default()
}

fn try_needed(content: &[u8]) -> object::Result<Vec<String>> {
    let header = FileHeader64::<object::Endianness>::parse(content)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, content)?;
    let Some((dynamic, strings)) = sections.dynamic(endian, content)? else { return Ok(Vec::new()) };
    let strings = sections.strings(endian, content, strings)?;
    let mut names = Vec::new();
    for entry in dynamic.iter().filter(|entry| entry.tag32(endian) == Some(DT_NEEDED)) {
        names.push(String::from_utf8_lossy(entry.string(endian, strings)?).into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_program_needs_libc() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = needed_libraries(&program);
        assert!(names.iter().any(|name| name == "libc.so.6"), "{names:?}");
    }

    #[test]
    fn a_script_needs_no_libraries() {
        assert!(needed_libraries(b"#!/bin/sh\n").is_empty());
        assert!(needed_libraries(b"\x7fELF").is_empty());
    }
}
