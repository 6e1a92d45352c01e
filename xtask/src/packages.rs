//! `cargo xtask fetch`: Debian packages that the emulated machine runs, unpacked below `.cache` and never installed.
//!
//! The versions in [`PACKAGES`] are those the tests were last seen to pass with. Debian removes old versions from its
//! archive, so when a pinned one is gone the current candidate of the distribution is taken, and that is said aloud.
//! apt's lists are kept in `.cache` as well, so neither root nor a fresh list on the system is needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::host;

/// A package and the version that is known to work.
pub(crate) struct Package {
    pub name: &'static str,
    version: &'static str,
}

/// A row of a table of packages.
pub(crate) const fn pin(name: &'static str, version: &'static str) -> Package {
    Package { name, version }
}

const XEN: &str = "4.17.7+13-g2445b30a44-0+deb12u1";

/// The keys of Debian's archive, from Debian's package of that name.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The meta package that names the current kernel package.
const KERNEL_META: &str = "linux-image-amd64";
const KERNEL: Package = pin("linux-image-6.1.0-56-amd64", "6.1.192-2");

/// Everything but the kernel: Xen to compare with, its tools, and the libraries these need.
const PACKAGES: &[Package] = &[
    pin("xen-hypervisor-4.17-amd64", XEN),
    pin("xen-utils-4.17", XEN),
    pin("xen-utils-common", XEN),
    pin("xenstore-utils", XEN),
    pin("libxencall1", XEN),
    pin("libxendevicemodel1", XEN),
    pin("libxenevtchn1", XEN),
    pin("libxenforeignmemory1", XEN),
    pin("libxengnttab1", XEN),
    pin("libxenhypfs1", XEN),
    pin("libxenmisc4.17", XEN),
    pin("libxenstore4", XEN),
    pin("libxentoolcore1", XEN),
    pin("libxentoollog1", XEN),
    pin("bash", "5.2.15-2+b13"),
    pin("busybox-static", "1:1.35.0-4+deb12u1+b1"),
    pin("libbz2-1.0", "1.0.8-5+b1"),
    pin("libc6", "2.36-9+deb12u14"),
    pin("libcom-err2", "1.47.0-2+b2"),
    pin("libext2fs2", "1.47.0-2+b2"),
    pin("libgcc-s1", "12.2.0-14+deb12u1"),
    pin("liblzma5", "5.4.1-1+deb12u2"),
    pin("liblzo2-2", "2.10-2"),
    pin("libncurses6", "6.4-4"),
    pin("libnl-3-200", "3.7.0-0.2+b1"),
    pin("libnl-route-3-200", "3.7.0-0.2+b1"),
    pin("libtinfo6", "6.4-4"),
    pin("libuuid1", "2.38.1-5+deb12u3"),
    pin("libyajl2", "2.1.0-3+deb12u2"),
    pin("libzstd1", "1.5.4+dfsg2-5"),
    pin("util-linux", "2.38.1-5+deb12u3"),
    pin("zlib1g", "1:1.2.13.dfsg-1"),
];

/// The unpacked packages.
pub(crate) struct Debian {
    /// The tree that holds all of them, laid out like a root file system.
    pub root: PathBuf,
    /// Release of the kernel, such as `6.1.0-56-amd64`.
    pub kernel_release: String,
}

impl Debian {
    /// The kernel, for dom0 and guests.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.root.join(format!("boot/vmlinuz-{}", self.kernel_release))
    }

    /// Debian's own Xen (compressed).
    pub(crate) fn xen_gz(&self) -> PathBuf {
        self.root.join("boot/xen-4.17-amd64.gz")
    }

    /// The kernel's loadable modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("lib/modules").join(&self.kernel_release)
    }
}

/// Makes sure that everything in the table is unpacked; downloads nothing when it is.
pub(crate) fn fetch() -> Result<Debian> {
    let folder = host::cache().join("debian");
    let stamp = folder.join("complete");
    let root = folder.join("root");
    let wanted = table_text(PACKAGES) + &table_text(&[KERNEL]);
    // The stamp's first line is the release of the kernel; the rest is the table it was made from.
    if let Ok(text) = fs::read_to_string(&stamp)
        && let Some((release, table)) = text.split_once('\n')
        && table == wanted
    {
        return Ok(Debian { root, kernel_release: release.to_owned() });
    }
    let apt = Apt::new(&folder)?;
    let progress = progress_bar(PACKAGES.len() + 1)?;
    let fresh = unpack_all(PACKAGES, &apt, &folder, &progress)?;
    progress.set_message(KERNEL.name);
    let file = match apt.download(KERNEL.name, Some(KERNEL.version), &progress) {
        Ok(file) => file,
        Err(_) => {
            let name = apt.current_kernel()?;
            progress.suspend(|| eprintln!("{} is gone from the archive; using {name}", KERNEL.name));
            apt.download(&name, None, &progress)?
        }
    };
    unpack(&file, &fresh)?;
    progress.finish_and_clear();

    let release = kernel_release(&fresh)?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::rename(&fresh, &root)?;
    fs::write(&stamp, format!("{release}\n{wanted}"))?;
    Ok(Debian { root, kernel_release: release })
}

/// Makes sure that the packages of `table` are unpacked in a folder of this name, and returns it.
pub(crate) fn fetch_set(name: &str, table: &[Package]) -> Result<PathBuf> {
    let folder = host::cache().join("debian");
    let root = folder.join(name);
    let stamp = folder.join(format!("{name}-complete"));
    let wanted = table_text(table);
    if fs::read_to_string(&stamp).is_ok_and(|text| text == wanted) {
        return Ok(root);
    }
    let progress = progress_bar(table.len())?;
    let fresh = unpack_all(table, &Apt::new(&folder)?, &folder, &progress)?;
    progress.finish_and_clear();
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::rename(&fresh, &root)?;
    fs::write(&stamp, wanted)?;
    Ok(root)
}

/// Downloads the packages of `table` and unpacks them into a new folder inside of `folder`.
fn unpack_all(table: &[Package], apt: &Apt, folder: &Path, progress: &ProgressBar) -> Result<PathBuf> {
    host::ensure_tools(host::UNPACK)?;
    let fresh = folder.join("new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh)?;
    }
    fs::create_dir_all(&fresh)?;
    eprintln!("Fetching {} Debian packages into {} (nothing is installed)", table.len(), folder.display());
    apt.update()?;
    for package in table {
        progress.set_message(package.name);
        let file = apt.download(package.name, Some(package.version), progress)?;
        unpack(&file, &fresh)?;
        progress.inc(1);
    }
    Ok(fresh)
}

/// A table as text, to see whether it has changed.
pub(crate) fn table_text(table: &[Package]) -> String {
    table.iter().map(|package| format!("{} {}\n", package.name, package.version)).collect()
}

/// Downloads the packages of `table`, as far as they are not there yet, and returns their files, in the same order.
pub(crate) fn download(table: &[Package]) -> Result<Vec<PathBuf>> {
    let apt = Apt::new(&host::cache().join("debian"))?;
    if table.iter().any(|package| apt.file(package.name, package.version).is_none()) {
        eprintln!("Fetching {} Debian packages into {} (nothing is installed)", table.len(), apt.downloads.display());
        apt.update()?;
    }
    let progress = progress_bar(table.len())?;
    let mut files = Vec::new();
    for package in table {
        progress.set_message(package.name);
        files.push(apt.download(package.name, Some(package.version), &progress)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(files)
}

fn progress_bar(length: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    Ok(ProgressBar::new(length as u64).with_style(style))
}

fn kernel_release(root: &Path) -> Result<String> {
    let entry = fs::read_dir(root.join("lib/modules"))?.next().context("the kernel package has no modules")??;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn unpack(package: &Path, to: &Path) -> Result<()> {
    host::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(to))
}

/// apt with its state in our own folder; its configuration is the system's.
pub(crate) struct Apt {
    options: Vec<String>,
    downloads: PathBuf,
}

impl Apt {
    /// With the system's package sources.
    pub(crate) fn new(folder: &Path) -> Result<Apt> {
        let state = folder.join("apt");
        let downloads = folder.join("packages");
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("cache/archives/partial"))?;
        fs::create_dir_all(&downloads)?;
        let options = vec![
            format!("-oDir::State::Lists={}", state.join("lists").display()),
            format!("-oDir::Cache={}", state.join("cache").display()),
            // Our folder need not be readable to apt's own user, and nothing here runs as root on purpose.
            format!("-oAPT::Sandbox::User={}", std::env::var("USER").unwrap_or_else(|_| "root".to_owned())),
            "-oDebug::NoLocking=1".to_owned(),
            "-oAPT::Architecture=amd64".to_owned(),
        ];
        Ok(Apt { options, downloads })
    }

    /// For source packages of another release, from the place where the system gets its own packages. The lists of the
    /// latter must be there (`update`): apt tells of no place that it has no list of.
    pub(crate) fn for_source(&self, folder: &Path, release: &str) -> Result<Apt> {
        let mut apt = Apt::new(folder)?;
        let targets = host::capture(self.command("apt-get").args(["indextargets", "--format", "$(REPO_URI)"]))?;
        let uri = targets.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
        let uri = uri.context("apt knows no archive of Debian")?;
        let parts = folder.join("sources");
        fs::create_dir_all(&parts)?;
        let key = if Path::new(KEYRING).exists() { format!("Signed-By: {KEYRING}\n") } else { String::new() };
        let source = format!("Types: deb-src\nURIs: {uri}\nSuites: {release}\nComponents: main\n{key}");
        fs::write(parts.join("source.sources"), source)?;
        apt.options.push("-oDir::Etc::SourceList=/dev/null".to_owned());
        apt.options.push(format!("-oDir::Etc::SourceParts={}", parts.display()));
        Ok(apt)
    }

    /// Downloads the original source archive of a package and returns the file.
    pub(crate) fn download_source(&self, name: &str) -> Result<PathBuf> {
        let mut command = self.command("apt-get");
        host::run(command.args(["--quiet=2", "--download-only", "--tar-only", "source", name]).stderr(Stdio::null()))?;
        let mut files = fs::read_dir(&self.downloads)?.filter_map(|entry| Some(entry.ok()?.path()));
        let archive = files.find(|file| file.to_string_lossy().contains(".orig.tar."));
        archive.with_context(|| format!("apt-get left no source of {name}"))
    }

    /// Downloads the current version of a package and returns the file.
    pub(crate) fn download_any(&self, name: &str) -> Result<PathBuf> {
        self.download(name, None, &ProgressBar::hidden())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).current_dir(&self.downloads);
        command
    }

    /// Gets fresh package lists.
    pub(crate) fn update(&self) -> Result<()> {
        host::run(self.command("apt-get").args(["--quiet=2", "update"]))
    }

    /// Downloads a package, unless it is there from an earlier run, and returns the file.
    fn download(&self, name: &str, version: Option<&str>, progress: &ProgressBar) -> Result<PathBuf> {
        if let Some(version) = version {
            if let Some(file) = self.file(name, version) {
                return Ok(file);
            }
            if self.get(&format!("{name}={version}")).is_ok()
                && let Some(file) = self.file(name, version)
            {
                return Ok(file);
            }
            // The kernel's package name has its version in it: the caller finds the successor.
            ensure!(name != KERNEL.name, "{name} {version} is not in the archive");
        }
        let policy = host::capture(self.command("apt-cache").args(["policy", name]))?;
        let candidate = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
        let candidate = candidate.filter(|found| *found != "(none)");
        let candidate = candidate.with_context(|| format!("no package {name} in this distribution's archive"))?;
        if let Some(pinned) = version {
            progress.suspend(|| eprintln!("{name} {pinned} is gone from the archive; using {candidate}"));
        }
        self.get(&format!("{name}={candidate}"))?;
        self.file(name, candidate).with_context(|| format!("apt-get left no file of {name} {candidate}"))
    }

    fn get(&self, what: &str) -> Result<()> {
        let mut command = self.command("apt-get");
        host::run(command.args(["--quiet=2", "download", what]).stderr(Stdio::null()))
    }

    /// The downloaded file of a package, if there. A colon in the version is written `%3a` in the file's name.
    fn file(&self, name: &str, version: &str) -> Option<PathBuf> {
        let stem = format!("{name}_{}", version.replace(':', "%3a"));
        let mut files = ["amd64", "all"].iter().map(|kind| self.downloads.join(format!("{stem}_{kind}.deb")));
        files.find(|file| file.exists())
    }

    /// The package that the kernel's meta package stands for today.
    fn current_kernel(&self) -> Result<String> {
        let depends = host::capture(self.command("apt-cache").args(["depends", KERNEL_META]))?;
        let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
        Ok(format!("linux-image-{}", name.context("linux-image-amd64 depends on no kernel")?))
    }
}
