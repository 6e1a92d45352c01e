//! A Debian system on a disk: an image with systemd, D-Bus, udev and a login, made from Debian's packages.
//!
//! The packages come with the same apt and the same rules as those of [`crate::packages`]. They are all named in a
//! table, also those that only others need, so that the result does not depend on the day. mmdebstrap installs them
//! into a folder of its own, from a package list over the downloaded files and nothing else. The image is made once and
//! kept in `.cache`; machines get it as a disk whose changes are thrown away.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::devices::{self, Controller, Disk};
use crate::host;
use crate::packages::{self, Debian, Package, pin};

/// What dom0's kernel is told to find it: it is the first virtio disk.
pub(crate) const KERNEL_OPTIONS: &str = "root=/dev/vda";

/// The system's packages: essential ones, systemd with its friends, network tools, and all that these depend on.
const PACKAGES: &[Package] = &[
    pin("adduser", "3.134"),
    pin("base-files", "12.4+deb12u15"),
    pin("base-passwd", "3.6.1"),
    pin("bash", "5.2.15-2+b13"),
    pin("bsdutils", "1:2.38.1-5+deb12u3"),
    pin("coreutils", "9.1-1"),
    pin("dash", "0.5.12-2"),
    pin("dbus", "1.14.10-1~deb12u1"),
    pin("dbus-bin", "1.14.10-1~deb12u1"),
    pin("dbus-daemon", "1.14.10-1~deb12u1"),
    pin("dbus-session-bus-common", "1.14.10-1~deb12u1"),
    pin("dbus-system-bus-common", "1.14.10-1~deb12u1"),
    pin("debconf", "1.5.82"),
    pin("debianutils", "5.7-0.5~deb12u1"),
    pin("diffutils", "1:3.8-4"),
    pin("dmsetup", "2:1.02.185-2"),
    pin("dpkg", "1.21.23"),
    pin("e2fsprogs", "1.47.0-2+b2"),
    pin("findutils", "4.9.0-4"),
    pin("gcc-12-base", "12.2.0-14+deb12u1"),
    pin("grep", "3.8-5"),
    pin("gzip", "1.12-1"),
    pin("hostname", "3.23+nmu1"),
    pin("init-system-helpers", "1.65.2+deb12u1"),
    pin("iproute2", "6.1.0-3"),
    pin("iputils-ping", "3:20221126-1+deb12u1"),
    pin("kmod", "30+20221128-1"),
    pin("libacl1", "2.3.1-3"),
    pin("libapparmor1", "3.0.8-3"),
    pin("libargon2-1", "0~20171227-0.3+deb12u1"),
    pin("libattr1", "1:2.5.1-4"),
    pin("libaudit-common", "1:3.0.9-1"),
    pin("libaudit1", "1:3.0.9-1"),
    pin("libblkid1", "2.38.1-5+deb12u3"),
    pin("libbpf1", "1:1.1.2-0+deb12u1"),
    pin("libbsd0", "0.11.7-2"),
    pin("libbz2-1.0", "1.0.8-5+b1"),
    pin("libc-bin", "2.36-9+deb12u14"),
    pin("libc6", "2.36-9+deb12u14"),
    pin("libcap-ng0", "0.8.3-1+b3"),
    pin("libcap2", "1:2.66-4+deb12u3+b1"),
    pin("libcap2-bin", "1:2.66-4+deb12u3+b1"),
    pin("libcom-err2", "1.47.0-2+b2"),
    pin("libcrypt1", "1:4.4.33-2"),
    pin("libcryptsetup12", "2:2.6.1-4~deb12u2"),
    pin("libdb5.3", "5.3.28+dfsg2-1"),
    pin("libdbus-1-3", "1.14.10-1~deb12u1"),
    pin("libdebconfclient0", "0.270"),
    pin("libdevmapper1.02.1", "2:1.02.185-2"),
    pin("libelf1", "0.188-2.1"),
    pin("libexpat1", "2.5.0-1+deb12u5"),
    pin("libext2fs2", "1.47.0-2+b2"),
    pin("libfdisk1", "2.38.1-5+deb12u3"),
    pin("libffi8", "3.4.4-1"),
    pin("libgcc-s1", "12.2.0-14+deb12u1"),
    pin("libgcrypt20", "1.10.1-3+deb12u1"),
    pin("libgmp10", "2:6.2.1+dfsg1-1.1"),
    pin("libgpg-error0", "1.46-1"),
    pin("libgssapi-krb5-2", "1.20.1-2+deb12u5"),
    pin("libidn2-0", "2.3.3-1+b1"),
    pin("libip4tc2", "1.8.9-2"),
    pin("libjson-c5", "0.16-2"),
    pin("libk5crypto3", "1.20.1-2+deb12u5"),
    pin("libkeyutils1", "1.6.3-2"),
    pin("libkmod2", "30+20221128-1"),
    pin("libkrb5-3", "1.20.1-2+deb12u5"),
    pin("libkrb5support0", "1.20.1-2+deb12u5"),
    pin("liblz4-1", "1.9.4-1"),
    pin("liblzma5", "5.4.1-1+deb12u2"),
    pin("libmd0", "1.0.4-2"),
    pin("libmnl0", "1.0.4-3"),
    pin("libmount1", "2.38.1-5+deb12u3"),
    pin("libncursesw6", "6.4-4"),
    pin("libp11-kit0", "0.24.1-2"),
    pin("libpam-modules", "1.5.2-6+deb12u3"),
    pin("libpam-modules-bin", "1.5.2-6+deb12u3"),
    pin("libpam-runtime", "1.5.2-6+deb12u3"),
    pin("libpam-systemd", "252.39-1~deb12u2"),
    pin("libpam0g", "1.5.2-6+deb12u3"),
    pin("libpcre2-8-0", "10.42-1+deb12u2"),
    pin("libproc2-0", "2:4.0.2-3"),
    pin("libseccomp2", "2.5.4-1+deb12u1"),
    pin("libselinux1", "3.4-1+b6"),
    pin("libsemanage-common", "3.4-1"),
    pin("libsemanage2", "3.4-1+b5"),
    pin("libsepol2", "3.4-2.1"),
    pin("libsmartcols1", "2.38.1-5+deb12u3"),
    pin("libss2", "1.47.0-2+b2"),
    pin("libssl3", "3.0.22-1~deb12u2"),
    pin("libsystemd-shared", "252.39-1~deb12u2"),
    pin("libsystemd0", "252.39-1~deb12u2"),
    pin("libtinfo6", "6.4-4"),
    pin("libtirpc-common", "1.3.3+ds-1"),
    pin("libtirpc3", "1.3.3+ds-1"),
    pin("libudev1", "252.39-1~deb12u2"),
    pin("libunistring2", "1.0-2"),
    pin("libuuid1", "2.38.1-5+deb12u3"),
    pin("libxtables12", "1.8.9-2"),
    pin("libzstd1", "1.5.4+dfsg2-5"),
    pin("login", "1:4.13+dfsg1-1+deb12u2"),
    pin("logsave", "1.47.0-2+b2"),
    pin("mawk", "1.3.4.20200120-3.1"),
    pin("mount", "2.38.1-5+deb12u3"),
    pin("ncurses-base", "6.4-4"),
    pin("ncurses-bin", "6.4-4"),
    pin("netbase", "6.4"),
    pin("passwd", "1:4.13+dfsg1-1+deb12u2"),
    pin("perl-base", "5.36.0-7+deb12u4"),
    pin("procps", "2:4.0.2-3"),
    pin("sed", "4.9-1+deb12u1"),
    pin("systemd", "252.39-1~deb12u2"),
    pin("systemd-sysv", "252.39-1~deb12u2"),
    pin("sysvinit-utils", "3.06-4"),
    pin("tar", "1.34+dfsg-1.2+deb12u1"),
    pin("udev", "252.39-1~deb12u2"),
    pin("usr-is-merged", "37~deb12u1"),
    pin("util-linux", "2.38.1-5+deb12u3"),
    pin("util-linux-extra", "2.38.1-5+deb12u3"),
    pin("zlib1g", "1:1.2.13.dfsg-1"),
];

/// Size of the file system. The image has holes where nothing is.
const SIZE: &str = "2G";

/// Settings, as a shell script that runs beside the new system (`$1` is its folder).
const SETTINGS: &str = include_str!("../debian/settings.sh");

const TOOLS: &[host::Tool] = &[
    host::tool("mmdebstrap", "mmdebstrap", "installing packages into a folder"),
    host::tool("fakeroot", "fakeroot", "keeping the owners of files"),
    host::tool("mke2fs", "e2fsprogs", "making the file system"),
];
/// For those who are not root.
const UNPRIVILEGED_TOOLS: &[host::Tool] =
    &[host::tool("fakechroot", "fakechroot", "installing packages into a folder without being root")];

/// Debian's root disk; made when it is missing or its recipe has changed.
pub(crate) fn disk(debian: &Debian) -> Result<Disk> {
    let folder = host::cache().join("debian/rootfs");
    let image = folder.join("debian.ext4");
    let stamp = folder.join("complete");
    let recipe = format!("{}\n{}{SETTINGS}", debian.kernel_release, packages::table_text(PACKAGES));
    if !image.exists() || fs::read_to_string(&stamp).unwrap_or_default() != recipe {
        eprintln!("Making a Debian system in {} (a minute or so, once)", image.display());
        let _ = fs::remove_file(&stamp);
        make(debian, &folder, &image)?;
        fs::write(&stamp, recipe)?;
    }
    Ok(Disk { throw_away: true, ..Disk::new(Controller::Virtio, image) })
}

fn make(debian: &Debian, folder: &Path, image: &Path) -> Result<()> {
    host::ensure_tools(TOOLS)?;
    let mode = if host::is_root() { "root" } else { "fakechroot" };
    if !host::is_root() {
        host::ensure_tools(UNPRIVILEGED_TOOLS)?;
    }
    fs::create_dir_all(folder)?;
    let files = packages::download(PACKAGES)?;
    let repository = repository(&files)?;
    let settings = folder.join("settings.sh");
    fs::write(&settings, SETTINGS)?;
    let log = folder.join("build.log");
    let output = fs::File::create(&log)?;
    let archive = folder.join("new.tar");
    let run = |command: &mut Command| {
        command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        host::run(command).with_context(|| format!("see {}", log.display()))
    };

    let names: Vec<&str> = PACKAGES.iter().map(|package| package.name).collect();
    let mut install = Command::new("mmdebstrap");
    install.arg(format!("--mode={mode}")).args(["--variant=custom", "--architectures=amd64", "--format=tar"]);
    install.arg(format!("--include={}", names.join(",")));
    install.arg("--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr");
    let modules = debian.root.join("lib/modules");
    install.arg(format!("--customize-hook=copy-in {} /usr/lib", quoted(&modules)?));
    install.arg(format!("--customize-hook=sh {} \"$1\" {}", quoted(&settings)?, debian.kernel_release));
    install.arg("bookworm").arg(&archive).arg(repository);
    run(&mut install)?;

    // The kernel fills /dev; nothing else needs more than fakeroot to be unpacked.
    let tree = folder.join("tree");
    let fresh = folder.join("new.ext4");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    let unpack = r#"set -e; mkdir "$2"; tar -x -f "$1" -C "$2" --exclude "./dev/*"; rm -f "$3"
        mke2fs -q -t ext4 -L debian -d "$2" "$3" "$4""#;
    let mut convert = devices::with_sbin(Command::new("fakeroot"));
    convert.args(["sh", "-c", unpack, "sh"]).args([&archive, &tree, &fresh]).arg(SIZE);
    run(&mut convert)?;
    fs::remove_dir_all(&tree)?;
    fs::remove_file(&archive)?;
    Ok(fs::rename(fresh, image)?)
}

/// Writes a package list over `files`, which are in one folder, and returns it as a source for apt.
fn repository(files: &[PathBuf]) -> Result<String> {
    let folder = files.first().and_then(|file| file.parent()).context("no packages")?;
    let sums = host::capture(Command::new("sha256sum").args(files))?;
    let mut list = String::new();
    for (file, line) in files.iter().zip(sums.lines()) {
        let sum = line.split_whitespace().next().context("sha256sum says nothing")?;
        let control = host::capture(Command::new("dpkg-deb").arg("-f").arg(file))?;
        let name = file.file_name().context("no file name")?.to_string_lossy();
        let size = fs::metadata(file)?.len();
        list.push_str(&format!("{control}Filename: ./{name}\nSize: {size}\nSHA256: {sum}\n\n"));
    }
    fs::write(folder.join("Packages"), list)?;
    Ok(format!("deb [trusted=yes] copy:{} ./", folder.to_string_lossy().replace(' ', "%20")))
}

/// A path as a word of a shell.
fn quoted(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| format!("not UTF-8: {}", path.display()))?;
    Ok(host::quote(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_so_nothing_is_in_it_twice() {
        assert!(PACKAGES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(PACKAGES.iter().any(|package| package.name == "systemd-sysv"));
    }

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")).unwrap(), r"'/a b/it'\''s'");
    }
}
