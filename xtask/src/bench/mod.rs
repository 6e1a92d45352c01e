//! `cargo xtask bench`: Radon beside Debian's Xen, in the same emulated machine whose clock counts instructions.
//!
//! With QEMU's `-icount` a tick of the time stamp counter is an instruction of the guest, hypervisor included, so the
//! figures do not depend on the machine that runs QEMU. What is measured ends by itself: it writes its results to a
//! device that QEMU copies into a file ([`RESULT_PORT`]) and switches the machine off ([`END_PORT`]); `guests/micro` has the
//! other side.

mod boot;
mod kernel;
mod macros;
mod micro;
mod plot;
mod profile;
mod scale;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::machine::{Machine, Payload};
use crate::packages::{self, Debian};
use crate::serial::{Event, Session};
use crate::{host, run};

/// Where the measured side writes results.
const RESULT_PORT: u16 = 0x5f0;
/// Where it writes to end the machine.
const END_PORT: u16 = 0x5f4;
/// Has idle CPUs clear free memory, which the machines of tests spare themselves.
const TIDY: &str = "bootscrub=idle";
/// A limit in seconds of QEMU's CPU time.
const LIMIT: u64 = 240;

/// Options of `cargo xtask bench`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// What to measure; all of it if not given
    #[arg(value_enum)]
    what: Option<What>,
    /// Of the macro set, only these parts
    #[arg(value_enum)]
    parts: Vec<macros::Part>,
    /// Print the figures as JSON, not as a table
    #[arg(long)]
    json: bool,
    /// Only count the micro set of Radon and compare it with the recorded counts; fails above 3 %
    #[arg(long, conflicts_with_all = ["what", "json", "record"])]
    quick: bool,
    /// Record the counts of Radon's micro set for --quick
    #[arg(long, conflicts_with = "what")]
    record: bool,
    /// Show by function where Radon's instructions go while a guest repeats this operation of the micro set
    #[arg(long, value_name = "OPERATION", conflicts_with_all = ["what", "quick", "record"])]
    profile: Option<String>,
}

/// A set of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// From reset to dom0's first instruction, image size, memory that the hypervisor takes.
    Boot,
    /// Single operations: exits, hypercalls, interrupts, grants, memory, another domain.
    Micro,
    /// Hypercalls from several CPUs at once.
    Scale,
    /// Debian's dom0, tools and guests: start, create, migrate, disk and network, load, idle hosts.
    Macro,
}

/// A figure of both hypervisors.
struct Row {
    name: String,
    unit: &'static str,
    radon: u64,
    /// Absent where it was not measured.
    xen: Option<u64>,
    /// What Radon / Xen is to be at most, if that was set.
    aim: Option<f64>,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        self.xen.filter(|xen| *xen > 0).map(|xen| self.radon as f64 / xen as f64)
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "radon": self.radon, "xen": self.xen, "ratio": self.ratio(),
            "aim": self.aim,
        })
    }
}

/// Measures what `options` ask for. Returns whether the gate, if asked for, let it pass.
pub(crate) fn bench(options: &Options) -> Result<bool> {
    let lab = Lab::prepare()?;
    if options.quick {
        return micro::gate(&lab);
    }
    if options.record {
        micro::record(&lab)?;
        return Ok(true);
    }
    if let Some(operation) = &options.profile {
        let profile = profile::measure(&lab, operation)?;
        let text = serde_json::to_string_pretty(&profile.json())?;
        fs::write(lab.folder.join(format!("profile-{operation}.json")), format!("{text}\n"))?;
        if options.json {
            println!("{text}")
        } else {
            print!("{}", profile.table())
        }
        return Ok(true);
    }
    ensure!(options.parts.is_empty() || options.what == Some(What::Macro), "only the macro set has parts");
    for what in [What::Boot, What::Micro, What::Scale, What::Macro] {
        if options.what.is_some_and(|only| only != what) {
            continue;
        }
        match what {
            What::Boot => report(&lab, options, "boot", &boot::measure(&lab)?)?,
            What::Micro => report(&lab, options, "micro", &micro::measure(&lab)?)?,
            What::Scale => report(&lab, options, "scale", &scale::measure(&lab)?)?,
            What::Macro => {
                let chosen = |part: &macros::Part| options.parts.is_empty() || options.parts.contains(part);
                for part in macros::Part::ALL.into_iter().filter(chosen) {
                    let rows = macros::measure(&lab, part)?;
                    report(&lab, options, &format!("macro-{}", part.name()), &rows)?;
                }
            }
        }
    }
    Ok(true)
}

/// Writes a set's figures as JSON and a chart, and prints them.
fn report(lab: &Lab, options: &Options, name: &str, rows: &[Row]) -> Result<()> {
    let text = serde_json::to_string_pretty(&Value::Array(rows.iter().map(Row::json).collect()))?;
    fs::write(lab.folder.join(format!("{name}.json")), format!("{text}\n"))?;
    fs::write(lab.folder.join(format!("{name}.svg")), plot::chart(&format!("{name}: Radon / Xen"), rows))?;
    if options.json {
        println!("{text}")
    } else {
        print!("{}", table(rows))
    }
    Ok(())
}

/// The rows with their numbers in columns.
fn table(rows: &[Row]) -> String {
    let mut text = format!("{:<46} {:>17} {:>17} {:>7} {:>6}\n", "", "Radon", "Xen 4.17", "ratio", "aim");
    for row in rows {
        let value = |number: u64| format!("{} {}", grouped(number), row.unit);
        let xen = row.xen.map_or("-".to_owned(), value);
        let ratio = row.ratio().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let missed = row.ratio().zip(row.aim).is_some_and(|(ratio, aim)| ratio > aim);
        let aim = row.aim.map_or(String::new(), |aim| format!("{aim:.2}{}", if missed { "!" } else { "" }));
        text += format!("{:<46} {:>17} {:>17} {:>7} {:>6}", row.name, value(row.radon), xen, ratio, aim).trim_end();
        text.push('\n');
    }
    text
}

/// The median; of an even number of values the lower one.
fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// A number with a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Which hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hypervisor {
    Radon,
    Xen,
}

/// What all measurements need.
struct Lab {
    debian: Debian,
    radon: PathBuf,
    xen: PathBuf,
    /// The kernel that measures.
    guest: PathBuf,
    /// Where results go.
    folder: PathBuf,
}

impl Lab {
    fn prepare() -> Result<Lab> {
        let debian = packages::fetch()?;
        let radon = build::build(Profile::Release, Stdio::inherit())?;
        let guest = build::guest(Stdio::inherit())?;
        let xen = run::debian_xen(&debian)?;
        let folder = host::output().join("bench");
        fs::create_dir_all(&folder)?;
        Ok(Lab { debian, radon, xen, guest, folder })
    }

    fn hypervisor(&self, which: Hypervisor) -> &Path {
        match which {
            Hypervisor::Radon => &self.radon,
            Hypervisor::Xen => &self.xen,
        }
    }

    /// Starts `machine` with `hypervisor` and `kernel` as dom0's, and says which file the result port writes.
    fn start(
        &self,
        name: &str,
        hypervisor: &Path,
        kernel: &Path,
        initrd: Option<&Path>,
        mut machine: Machine,
    ) -> Result<(Session, PathBuf)> {
        let results = self.folder.join(format!("{name}.results"));
        let words = [
            "-chardev",
            &format!("file,id=results,path={}", results.display()),
            "-device",
            &format!("isa-debugcon,iobase={RESULT_PORT:#x},chardev=results"),
            "-device",
            &format!("isa-debug-exit,iobase={END_PORT:#x},iosize=0x4"),
        ];
        machine.extra.extend(words.map(str::to_owned));
        let payload = Payload {
            hypervisor: hypervisor.to_path_buf(),
            // Both get the machine that Xen needs.
            is_xen: true,
            kernel: Some(kernel.to_path_buf()),
            initrd: initrd.map(Path::to_path_buf),
        };
        // Results of an earlier run are none of this one's.
        fs::write(&results, "")?;
        // Free memory is in order when a hypervisor has had time for it, as in life.
        machine.append = format!("{} {TIDY}", machine.append).trim_start().to_owned();
        let mut qemu = machine.command(&payload, false)?;
        let session = Session::start(&mut qemu, &log_of(name), Duration::from_secs(LIMIT), false)?;
        Ok((session, results))
    }

    /// Boots `hypervisor` with `kernel` as dom0's, and returns what was written to the result port.
    fn run(
        &self,
        name: &str,
        hypervisor: &Path,
        kernel: &Path,
        initrd: Option<&Path>,
        memory_mib: u32,
        arguments: &str,
    ) -> Result<Vec<u8>> {
        let mut machine = Machine::new(&format!("bench-{name}"));
        machine.icount = true;
        machine.memory_mib = memory_mib;
        machine.dom0_append = arguments.to_owned();
        if arguments == micro::WORD {
            machine.append = micro::CPUS.to_owned();
        }
        let started = self.start(name, hypervisor, kernel, initrd, machine)?;
        self.results(name, started)
    }

    /// Waits for the machine's end and returns what was written to the result port.
    fn results(&self, name: &str, (mut session, results): (Session, PathBuf)) -> Result<Vec<u8>> {
        let log = log_of(name);
        loop {
            match session.next()? {
                Event::Line(_) | Event::Partial(_) => {}
                Event::Limit(limit) => bail!("{name}: {limit}; see {}", log.display()),
                Event::Ended(_) => break,
            }
        }
        let bytes = fs::read(&results).with_context(|| format!("cannot read {}", results.display()))?;
        ensure!(!bytes.is_empty(), "{name}: the machine ended without a result; see {}", log.display());
        Ok(bytes)
    }

    /// Boots the measuring guest and returns its figures.
    fn guest(&self, which: Hypervisor, memory_mib: u32, arguments: &str) -> Result<Figures> {
        let name = format!("{which:?}-{memory_mib}-{arguments}").to_lowercase();
        let hypervisor = self.hypervisor(which);
        let bytes = self.run(name.trim_end_matches('-'), hypervisor, &self.guest, None, memory_mib, arguments)?;
        Figures::parse(&String::from_utf8_lossy(&bytes)).with_context(|| format!("the guest's results ({name})"))
    }
}

/// Where the console output of a run goes.
fn log_of(name: &str) -> PathBuf {
    host::output().join(format!("logs/bench-{name}.log"))
}

/// When the counter was `entry`, in nanoseconds since reset: a hypervisor may have dom0's counter begin later than the
/// machine, but when it was `later`, the machine's clock, which began at a whole hour, changed to these seconds and minutes
/// (two decimal digits each).
fn time_at(entry: u64, later: u64, seconds: u8, minutes: u8) -> Result<u64> {
    let decimal = |byte: u8| u64::from(byte >> 4) * 10 + u64::from(byte & 0xf);
    let then = (decimal(minutes) * 60 + decimal(seconds)) * 1_000_000_000;
    let time = later.checked_sub(entry).and_then(|since| then.checked_sub(since));
    time.context("the machine's clock and its counter contradict each other")
}

/// Named numbers, in the order in which the guest printed them.
struct Figures {
    order: Vec<String>,
    values: BTreeMap<String, u64>,
}

impl Figures {
    /// Reads lines of a name and a number; the last one must be named `end`.
    fn parse(text: &str) -> Result<Figures> {
        let mut figures = Figures { order: Vec::new(), values: BTreeMap::new() };
        for line in text.lines() {
            let number = line.split_once(' ').and_then(|(name, value)| Some((name, value.parse().ok()?)));
            let Some((name, value)) = number else { bail!("it says: {line}") };
            if name == "end" {
                return Ok(figures);
            }
            figures.order.push(name.to_owned());
            figures.values.insert(name.to_owned(), value);
        }
        bail!("they end too early")
    }

    fn get(&self, name: &str) -> Result<u64> {
        self.values.get(name).copied().with_context(|| format!("the guest did not measure {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_in_order_up_to_the_end() {
        let figures = Figures::parse("b 2\na 1\nend 0\nnoise").unwrap();
        assert_eq!(figures.order, ["b", "a"]);
        assert_eq!(figures.get("a").unwrap(), 1);
        assert!(figures.get("c").is_err());
        assert!(Figures::parse("a 1\n").is_err());
        assert!(Figures::parse("failed panicked\nend 0\n").is_err());
    }

    #[test]
    fn a_missed_aim_is_marked() {
        let row = |radon| Row { name: "x".to_owned(), unit: "M", radon, xen: Some(1000), aim: Some(0.33) };
        assert!(table(&[row(331)]).contains("0.33!"));
        assert!(!table(&[row(330)]).contains('!'));
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
    }
}
