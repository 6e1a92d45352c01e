//! The macro set: what Debian's dom0 with its tools and guests need on both hypervisors, from scripts that dom0 runs
//! (`xtask/scripts/bench-*.sh`) and that print `BENCH name value` lines.
//!
//! The machine counts instructions: a nanosecond of its clock is an instruction of hypervisor, dom0 or guest, and where all of
//! them sleep the clock jumps to the next timer. So a figure is work and sleep together, as someone would wait for it on a
//! processor of one instruction a nanosecond, and does not depend on the machine that runs QEMU. dom0 has one CPU.

use std::fs;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Hypervisor, Lab, Row, log_of, profile, time_at};
use crate::build;
use crate::initrd::{self, Flavour};
use crate::machine::{Machine, Payload};
use crate::serial::{Event, Session};

/// What idle hosts are looked at for, in seconds, as `bench-idle.sh` has it.
const IDLE_SECONDS: u64 = 20;
/// No machine that works prints these.
const FATAL: &[&str] = &["RADON-TEST: FAILED", "Kernel panic", "Panic on CPU", "Radon stopped:"];
const HALF: Option<f64> = Some(0.5);

/// A part of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    /// Reset to user space, against bare QEMU too.
    Start,
    /// Create, destroy, save and restore a guest.
    Create,
    /// Migrate a guest to the same host.
    Migrate,
    /// Disk and network of guests.
    Io,
    /// A load like a build's in a guest, against bare QEMU too; fairness among busy guests.
    Build,
    /// Wake-ups of an idle host.
    Idle,
}

impl Part {
    pub(super) const ALL: [Part; 6] = [Part::Start, Part::Create, Part::Migrate, Part::Io, Part::Build, Part::Idle];

    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Start => "start",
            Part::Create => "create",
            Part::Migrate => "migrate",
            Part::Io => "io",
            Part::Build => "build",
            Part::Idle => "idle",
        }
    }

    fn script(self) -> String {
        const LIBRARY: &str = include_str!("../../scripts/bench-lib.sh");
        let own = match self {
            Part::Start => return include_str!("../../scripts/bench-start.sh").to_owned(),
            Part::Create => include_str!("../../scripts/bench-create.sh"),
            Part::Migrate => include_str!("../../scripts/bench-migrate.sh"),
            Part::Io => include_str!("../../scripts/bench-io.sh"),
            Part::Build => include_str!("../../scripts/bench-build.sh"),
            Part::Idle => include_str!("../../scripts/bench-idle.sh"),
        };
        format!("{LIBRARY}{own}")
    }

    /// Names of figures with what the table calls them, their unit and their aim.
    fn figures(self) -> &'static [(&'static str, &'static str, &'static str, Option<f64>)] {
        match self {
            Part::Start => &[("userspace", "reset to user space of dom0", "", None)],
            Part::Create => &[
                ("create", "xl create returns", "", None),
                ("create_to_userspace", "xl create to user space of the guest", "", None),
                ("hypervisor_creates", "of it the hypervisor", "", None),
                ("destroy", "xl destroy", "", None),
                ("save", "xl save", "", None),
                ("restore", "xl restore", "", None),
                ("pages_of_guest", "memory of the hypervisor for a guest of 64 MiB", "pages", HALF),
            ],
            Part::Migrate => &[
                ("migrate", "xl migrate to the same host", "", None),
                ("downtime", "of it the guest does not run", "", None),
            ],
            Part::Io => &[
                ("disk_write", "64 MiB to a disk of dom0's", "", None),
                ("disk_read", "64 MiB from it", "", None),
                ("net_dom0", "32 MiB from a guest to dom0", "", None),
                ("net_guest", "32 MiB from a guest to another", "", None),
            ],
            Part::Build => &[
                ("build", "load like a build's in a guest", "", None),
                ("unfairness", "farthest from a fair share, of three guests", "/1000", None),
            ],
            Part::Idle => &[
                ("idle_0", "wake-ups of an idle host, no guest", "/min", HALF),
                ("idle_1", "wake-ups of an idle host, 1 idle guest", "/min", HALF),
                ("idle_8", "wake-ups of an idle host, 8 idle guests", "/min", HALF),
                ("idle_64", "wake-ups of an idle host, 64 idle guests", "/min", HALF),
            ],
        }
    }

    /// Memory of the machine in MiB, and a limit in seconds of QEMU's CPU time.
    fn needs(self) -> (u32, u64) {
        match self {
            // 64 guests.
            Part::Idle => (12288, 3600),
            _ => (3072, 900),
        }
    }

    /// A figure that bare QEMU has, too.
    fn bare(self) -> Option<&'static str> {
        match self {
            Part::Start => Some("userspace"),
            Part::Build => Some("build"),
            _ => None,
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Radon,
    Xen,
    /// Debian's kernel on QEMU.
    Bare,
}

/// Figures in the order in which they came, some of them several times.
struct Values(Vec<(String, u64)>);

impl Values {
    /// The median of what has this name; of an even number the lower one.
    fn get(&self, name: &str) -> Option<u64> {
        super::median(self.0.iter().filter(|(n, _)| n == name).map(|(_, value)| *value).collect())
    }
}

pub(super) fn measure(lab: &Lab, part: Part) -> Result<Vec<Row>> {
    let radon = run(lab, part, Under::Radon)?;
    // Debian's Xen does not get through everything in this machine.
    let xen = run(lab, part, Under::Xen).inspect_err(|error| eprintln!("macro {}: Xen: {error:#}", part.name())).ok();
    let bare = part.bare().map(|name| Ok::<_, anyhow::Error>((name, run(lab, part, Under::Bare)?))).transpose()?;
    let mut rows = Vec::new();
    for &(name, words, unit, aim) in part.figures() {
        let value = radon.get(name).with_context(|| format!("there is no figure {name}"))?;
        let of_xen = xen.as_ref().and_then(|xen| xen.get(name));
        let row = |words: &str, unit, radon, xen, aim| Row { name: words.to_owned(), unit, radon, xen, aim };
        rows.push(row(words, unit, value, of_xen, aim));
        if let Some((_, bare)) = bare.as_ref().filter(|(which, _)| *which == name) {
            let bare = bare.get(name).with_context(|| format!("bare QEMU has no figure {name}"))?;
            let share = |value: u64| value.saturating_mul(1000).checked_div(bare).unwrap_or(0);
            rows.push(row("against bare QEMU", "/1000", share(value), of_xen.map(share), None));
        }
    }
    Ok(rows)
}

fn run(lab: &Lab, part: Part, under: Under) -> Result<Values> {
    let name = format!("macro-{}-{under:?}", part.name()).to_lowercase();
    eprintln!("Measuring {} ({under:?})", part.name());
    let flavour = if part == Part::Start || under == Under::Bare { Flavour::Mini } else { Flavour::Tools };
    let mut script = part.script();
    if under == Under::Bare && part == Part::Build {
        script = include_str!("../../scripts/bench-bare.sh").to_owned();
    }
    let base = initrd::build(&lab.debian, flavour)?;
    let (initrd, path) = initrd::with_script(&base, &format!("bench-{name}"), &script, Some(build::probe()?))?;
    let mut machine = Machine::new(&format!("bench-{name}"));
    machine.icount = true;
    let (memory, limit) = part.needs();
    machine.memory_mib = memory;
    let socket = lab.folder.join(format!("{name}.socket"));
    let trace = lab.folder.join(format!("{name}.trace"));
    for old in [&socket, &trace] {
        if old.exists() {
            fs::remove_file(old)?;
        }
    }
    if part == Part::Idle {
        let at = format!("unix:{},server=on,wait=off", socket.display());
        machine.extra = ["-qmp", &at, "-D", &trace.display().to_string()].map(str::to_owned).to_vec();
    }
    let words = format!("radon.script={path} radon.bench={}", part.name());
    let payload = match under {
        Under::Bare => {
            machine.append = format!("console=ttyS0 {words}");
            Payload { hypervisor: lab.debian.kernel(), is_xen: true, kernel: None, initrd: Some(initrd) }
        }
        Under::Radon | Under::Xen => {
            machine.append = super::TIDY.to_owned();
            machine.dom0_append = words;
            let which = if under == Under::Xen { Hypervisor::Xen } else { Hypervisor::Radon };
            let hypervisor = lab.hypervisor(which).to_path_buf();
            Payload { hypervisor, is_xen: true, kernel: Some(lab.debian.kernel()), initrd: Some(initrd) }
        }
    };
    let session =
        Session::start(&mut machine.command(&payload, false)?, &log_of(&name), Duration::from_secs(limit), false)?;
    let values = follow(session, &socket, &trace).with_context(|| format!("see {}", log_of(&name).display()))?;
    initrd::remove(&format!("bench-{name}"));
    if part != Part::Start {
        return Ok(values);
    }
    let get = |name| values.get(name).context("the script's results are not complete");
    // The registers hold two decimal digits.
    let time = time_at(get("entry")?, get("later")?, get("seconds")? as u8, get("minutes")? as u8)?;
    Ok(Values(vec![("userspace".to_owned(), time)]))
}

/// Reads what the machine prints until it ends.
fn follow(mut session: Session, socket: &Path, trace: &Path) -> Result<Values> {
    let mut values = Values(Vec::new());
    let mut from = 0;
    let mut done = false;
    loop {
        match session.next()? {
            Event::Line(line) => {
                if let Some(fatal) = FATAL.iter().find(|fatal| line.contains(**fatal)) {
                    // Something more may come that says why.
                    session.stop_at(std::time::Instant::now() + Duration::from_secs(2));
                    while matches!(session.next()?, Event::Line(_) | Event::Partial(_)) {}
                    bail!("{fatal}: {line}");
                }
                done |= line.contains("RADON-TEST: script exit 0");
                let mut words = line.trim().split(' ');
                match (words.next(), words.next(), words.next()) {
                    (Some("BENCH"), Some(name), Some(value)) => {
                        let value = value.parse().with_context(|| line.clone())?;
                        eprintln!("  {name} {}", super::grouped(value));
                        values.0.push((name.to_owned(), value));
                    }
                    (Some("BENCH-IDLE"), Some("begin"), _) => {
                        from = fs::metadata(trace).map_or(0, |file| file.len());
                        profile::monitor(socket, "log int")?;
                    }
                    (Some("BENCH-IDLE"), Some("end"), Some(guests)) => {
                        profile::monitor(socket, "log none")?;
                        let wakeups = wakeups(trace, from)?;
                        let value = wakeups * 60 / IDLE_SECONDS;
                        eprintln!("  idle_{guests} {value}");
                        values.0.push((format!("idle_{guests}"), value));
                    }
                    _ => {}
                }
            }
            Event::Partial(_) => {}
            Event::Limit(limit) => bail!("{limit}"),
            Event::Ended(_) if done => return Ok(values),
            Event::Ended(_) => bail!("the machine ended before the script did, or the script failed"),
        }
    }
}

/// Interrupts that the processor took between the two divide errors that mark the time, in QEMU's log from byte `from` on.
fn wakeups(trace: &Path, from: u64) -> Result<u64> {
    let mut file = fs::File::open(trace).context("QEMU wrote no log")?;
    file.seek(SeekFrom::Start(from))?;
    count_interrupts(BufReader::new(file))
}

fn count_interrupts(log: impl BufRead) -> Result<u64> {
    let (mut marks, mut interrupts) = (0, 0);
    for line in log.lines() {
        let line = line?;
        if line.contains(" v=00 ") && line.contains(" cpl=3 ") {
            marks += 1;
        } else if marks == 1 && line.starts_with("Servicing hardware INT") {
            interrupts += 1;
        }
    }
    ensure!(marks == 2, "{marks} marks in QEMU's log, not two");
    Ok(interrupts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_are_counted_between_the_marks() {
        let mark = "  12: v=00 e=0000 i=0 cpl=3 IP=0033:0000000000401000 pc=0000000000401000\n";
        let log = format!(
            "Servicing hardware INT=0x20\n{mark}Servicing hardware INT=0x20\nRAX=0\n{mark}Servicing hardware INT=0x20\n"
        );
        assert_eq!(count_interrupts(log.as_bytes()).unwrap(), 1);
        assert!(count_interrupts(mark.as_bytes()).is_err());
    }

    #[test]
    fn of_several_values_the_median_counts() {
        let values = Values([3, 1, 2].map(|value| ("x".to_owned(), value)).to_vec());
        assert_eq!(values.get("x"), Some(2));
        assert_eq!(values.get("y"), None);
    }
}
