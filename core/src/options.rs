//! The hypervisor's command line, spelled as Xen spells it (docs/misc/xen-command-line of Xen 4.17).
//!
//! Words are separated by white space. A boolean `foo` is turned on by `foo` or `foo=yes|on|true|enable|1` and off by
//! `no-foo` or `foo=no|off|false|disable|0`. When an option is given twice the last one holds. What is not understood is
//! collected in [`Options::problems`] and everything else still holds: a typing error must not make a machine
//! unreachable. After ` -- ` follow words for dom0's kernel.

use alloc::string::String;
use alloc::vec::Vec;
use log::LevelFilter;

/// Where the console goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsoleTargets {
    /// The first serial port.
    pub com1: bool,
    /// The second serial port.
    pub com2: bool,
    /// The screen.
    pub vga: bool,
}

/// A serial port (`com1=`, `com2=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SerialPort {
    /// Speed; `None` (`auto`) keeps what firmware set.
    pub baud: Option<u32>,
    /// 5 to 8.
    pub data_bits: u8,
    /// The line control register's parity bits: 0 none, 1 odd, 3 even, 5 mark, 7 space.
    pub parity: u8,
    /// 1 or 2.
    pub stop_bits: u8,
    /// First I/O port.
    pub io_base: u16,
    /// Interrupt line; 0 means polling.
    pub irq: u8,
}

impl SerialPort {
    const fn at(io_base: u16, irq: u8) -> SerialPort {
        SerialPort { baud: Some(115_200), data_bits: 8, parity: 0, stop_bits: 1, io_base, irq }
    }
}

/// An amount of memory that may depend on how much there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryAmount {
    /// Bytes.
    pub bytes: u64,
    /// Per cent of all memory, added to `bytes`.
    pub percent: u8,
    /// Whether the amount is what is to be left over.
    pub negative: bool,
}

impl MemoryAmount {
    /// The amount in bytes where `total` bytes are available.
    #[must_use]
    pub fn resolve(&self, total: u64) -> u64 {
        let share = (total / 100).saturating_mul(u64::from(self.percent));
        let amount = self.bytes.saturating_add(share);
        if self.negative { total.saturating_sub(amount) } else { amount }
    }
}

/// dom0's memory (`dom0_mem=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dom0Memory {
    /// How much it gets at start; `None`: nearly all.
    pub size: Option<MemoryAmount>,
    /// At least this.
    pub min: Option<MemoryAmount>,
    /// At most this, also later.
    pub max: Option<MemoryAmount>,
}

/// How log lines are stamped (`console_timestamps=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Timestamps {
    /// Not.
    None,
    /// Date and time of day.
    Date,
    /// With milliseconds.
    DateMillis,
    /// Time since start.
    Boot,
    /// The time stamp counter.
    Raw,
}

/// The IOMMU (`iommu=`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Iommu {
    /// Use it where there is one.
    pub enabled: bool,
    /// Do not start without one.
    pub force: bool,
    /// Say more.
    pub verbose: bool,
    /// Remap interrupts.
    pub interrupt_remapping: bool,
}

/// The watchdog (`watchdog=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Watchdog {
    /// Off.
    Off,
    /// On where it is known to work.
    On,
    /// On.
    Force,
}

/// Everything the command line says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// `console=`: where output goes.
    pub console: ConsoleTargets,
    /// `com1=`.
    pub com1: SerialPort,
    /// `com2=`.
    pub com2: SerialPort,
    /// `console_timestamps=`.
    pub console_timestamps: Timestamps,
    /// `console_to_ring`: guests' console output goes to the ring too.
    pub console_to_ring: bool,
    /// `conring_size=`: bytes of the console ring.
    pub conring_size: u64,
    /// `sync_console`. Output is always synchronous; taken so that it is no problem.
    pub sync_console: bool,
    /// `loglvl=`: least important level shown, of the hypervisor's own messages.
    pub host_level: LevelFilter,
    /// `guest_loglvl=`: the same for messages that guests cause.
    pub guest_level: LevelFilter,
    /// `noreboot`: stay after a fatal error.
    pub noreboot: bool,
    /// `reboot=`: how to restart (`acpi`, `kbd`, `triple`, `cold`, `warm`, `no`).
    pub reboot: Option<String>,
    /// `watchdog`.
    pub watchdog: Watchdog,
    /// `watchdog_timeout=`: seconds.
    pub watchdog_timeout: u32,
    /// `dom0=` words that ask for a kind of domain other than PVH; they are refused at start.
    pub dom0_pv: bool,
    /// `dom0=verbose`.
    pub dom0_verbose: bool,
    /// `dom0_mem=`.
    pub dom0_mem: Dom0Memory,
    /// `dom0_max_vcpus=`: at least and at most.
    pub dom0_max_vcpus: (u32, u32),
    /// `dom0_vcpus_pin`.
    pub dom0_vcpus_pin: bool,
    /// Words for dom0's kernel after ` -- `.
    pub dom0_extra: String,
    /// `sched=`: name of the scheduler.
    pub sched: Option<String>,
    /// `maxcpus=` (1 with `nosmp`).
    pub maxcpus: u32,
    /// `smt=`.
    pub smt: bool,
    /// `x2apic=`.
    pub x2apic: bool,
    /// `iommu=`.
    pub iommu: Iommu,
    /// `cpuid=`: features to switch on (true) or off by name.
    pub cpuid: Vec<(String, bool)>,
    /// `ucode=`: as given.
    pub ucode: Option<String>,
    /// `gnttab_max_frames=`.
    pub gnttab_max_frames: Option<u32>,
    /// `gnttab_max_maptrack_frames=`.
    pub gnttab_max_maptrack_frames: Option<u32>,
    /// `hvm_fep`: guests may force emulation with a prefix (for tests only).
    pub hvm_fep: bool,
    /// `debug_exit`: at a fatal error, leave the emulator with a status (QEMU's isa-debug-exit) instead of restarting.
    pub debug_exit: bool,
    /// `selftest`: run the tests in ring 0 and leave the emulator.
    pub selftest: bool,
    /// `selftest=` name: only tests whose names contain it.
    pub selftest_filter: Option<String>,
    /// What was not understood: ready to be shown.
    pub problems: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            console: ConsoleTargets { com1: true, com2: false, vga: true },
            com1: SerialPort::at(0x3f8, 4),
            com2: SerialPort::at(0x2f8, 3),
            console_timestamps: Timestamps::None,
            console_to_ring: false,
            conring_size: 64 << 10,
            sync_console: false,
            host_level: LevelFilter::Info,
            guest_level: LevelFilter::Warn,
            noreboot: false,
            reboot: None,
            watchdog: Watchdog::Off,
            watchdog_timeout: 5,
            dom0_pv: false,
            dom0_verbose: false,
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: (1, u32::MAX),
            dom0_vcpus_pin: false,
            dom0_extra: String::new(),
            sched: None,
            maxcpus: u32::MAX,
            smt: true,
            x2apic: true,
            iommu: Iommu { enabled: true, force: false, verbose: false, interrupt_remapping: true },
            cpuid: Vec::new(),
            ucode: None,
            gnttab_max_frames: None,
            gnttab_max_maptrack_frames: None,
            hvm_fep: false,
            debug_exit: false,
            selftest: false,
            selftest_filter: None,
            problems: Vec::new(),
        }
    }
}

/// The value of an option is not one of those it can have.
struct BadValue;

type Parsed<T> = Result<T, BadValue>;

/// Parses a command line. Never fails; see [`Options::problems`].
#[must_use]
pub fn parse(line: &str) -> Options {
    let mut options = Options::default();
    let (own, extra) = match line.strip_prefix("-- ") {
        Some(extra) => ("", extra),
        None => line.split_once(" -- ").unwrap_or((line, "")),
    };
    options.dom0_extra = extra.trim().into();
    for word in own.split_whitespace() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let (name, wanted) = match name.strip_prefix("no-") {
            Some(rest) => (rest, false),
            None => (name, true),
        };
        match options.take(name, value, wanted) {
            Ok(true) => (),
            Ok(false) => options.problems.push(alloc::format!("unknown option '{word}' is ignored")),
            Err(BadValue) => {
                options.problems.push(alloc::format!("option '{word}' has a value that is not understood"))
            }
        }
    }
    options
}

impl Options {
    /// Applies one option; `Ok(false)` if there is none of that name. `wanted` is false for `no-name`.
    fn take(&mut self, name: &str, value: Option<&str>, wanted: bool) -> Parsed<bool> {
        // Booleans, and those others that `no-` makes sense for.
        match name {
            "console_to_ring" => self.console_to_ring = flag(value, wanted)?,
            "sync_console" => self.sync_console = flag(value, wanted)?,
            "noreboot" => self.noreboot = flag(value, wanted)?,
            "dom0_vcpus_pin" => self.dom0_vcpus_pin = flag(value, wanted)?,
            "smt" => self.smt = flag(value, wanted)?,
            "x2apic" => self.x2apic = flag(value, wanted)?,
            "debug_exit" => self.debug_exit = flag(value, wanted)?,
            "hvm_fep" => self.hvm_fep = flag(value, wanted)?,
            "nosmp" => {
                if flag(value, wanted)? {
                    self.maxcpus = 1;
                }
            }
            "console_timestamps" => self.console_timestamps = timestamps(value, wanted)?,
            "watchdog" => {
                self.watchdog = match value {
                    Some("force") if wanted => Watchdog::Force,
                    _ if flag(value, wanted)? => Watchdog::On,
                    _ => Watchdog::Off,
                }
            }
            "selftest" => match value {
                Some(v) if boolean(v).is_none() && wanted => {
                    self.selftest = true;
                    self.selftest_filter = Some(v.into());
                }
                _ => self.selftest = flag(value, wanted)?,
            },
            "iommu" => self.take_iommu(value, wanted)?,
            _ if !wanted => return Ok(false),
            _ => return self.take_value(name, value),
        }
        Ok(true)
    }

    /// Applies an option that needs a value.
    fn take_value(&mut self, name: &str, value: Option<&str>) -> Parsed<bool> {
        let given = value.ok_or(BadValue);
        match name {
            "console" => self.console = console(given?)?,
            "com1" => self.com1 = serial(given?, self.com1)?,
            "com2" => self.com2 = serial(given?, self.com2)?,
            "conring_size" => self.conring_size = size(given?)?,
            "loglvl" => self.host_level = level(given?)?,
            "guest_loglvl" => self.guest_level = level(given?)?,
            "reboot" => self.take_reboot(given?),
            "watchdog_timeout" => self.watchdog_timeout = number(given?)?,
            "dom0" => self.take_dom0(given?),
            "dom0_mem" => self.dom0_mem = dom0_memory(given?)?,
            "dom0_max_vcpus" => self.dom0_max_vcpus = range(given?)?,
            "sched" => self.sched = Some(given?.into()),
            "maxcpus" => self.maxcpus = number(given?)?.max(1),
            "cpuid" => self.take_cpuid(given?),
            "ucode" => self.ucode = Some(given?.into()),
            "gnttab_max_frames" => self.gnttab_max_frames = Some(number(given?)?),
            "gnttab_max_maptrack_frames" => self.gnttab_max_maptrack_frames = Some(number(given?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn take_reboot(&mut self, value: &str) {
        if value == "no" {
            self.noreboot = true;
        }
        self.reboot = Some(value.into());
    }

    fn take_dom0(&mut self, value: &str) {
        for word in value.split(',') {
            match word {
                "pvh" | "hap" => self.dom0_pv = false,
                "pv" => self.dom0_pv = true,
                "verbose" => self.dom0_verbose = true,
                "no-verbose" | "no-shadow" | "cpuid-faulting" | "msr-relaxed" | "no-msr-relaxed" => (),
                _ => self.problems.push(alloc::format!("unknown word '{word}' in 'dom0=' is ignored")),
            }
        }
    }

    fn take_cpuid(&mut self, value: &str) {
        for word in value.split(',').filter(|w| !w.is_empty()) {
            let (name, wanted) = word.strip_prefix("no-").map_or((word, true), |name| (name, false));
            let (name, wanted) = match name.split_once('=') {
                Some((name, v)) => (name, boolean(v).unwrap_or(wanted)),
                None => (name, wanted),
            };
            self.cpuid.push((name.into(), wanted));
        }
    }

    fn take_iommu(&mut self, value: Option<&str>, wanted: bool) -> Parsed<()> {
        let Some(value) = value else {
            self.iommu.enabled = wanted;
            return Ok(());
        };
        for word in value.split(',') {
            if let Some(on) = boolean(word) {
                self.iommu.enabled = on == wanted;
                continue;
            }
            let (name, on) = word.strip_prefix("no-").map_or((word, true), |name| (name, false));
            let (name, on) = match name.split_once('=') {
                Some((name, v)) => (name, boolean(v).ok_or(BadValue)?),
                None => (name, on),
            };
            match name {
                "force" | "required" => self.iommu.force = on,
                "verbose" | "debug" => self.iommu.verbose = on,
                "intremap" => self.iommu.interrupt_remapping = on,
                _ => self.problems.push(alloc::format!("unknown word '{word}' in 'iommu=' is ignored")),
            }
        }
        Ok(())
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

fn flag(value: Option<&str>, wanted: bool) -> Parsed<bool> {
    match value {
        None => Ok(wanted),
        Some(v) => boolean(v).map(|on| on == wanted).ok_or(BadValue),
    }
}

/// A number: decimal, 0x hexadecimal or 0 octal, as C has it.
fn number(text: &str) -> Parsed<u32> {
    integer(text).and_then(|n| u32::try_from(n).map_err(|_| BadValue))
}

fn integer(text: &str) -> Parsed<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => (hex, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    // `from_str_radix` would take a sign.
    if digits.starts_with(['+', '-']) {
        return Err(BadValue);
    }
    u64::from_str_radix(digits, radix).map_err(|_| BadValue)
}

/// A size in bytes: suffixes B, K, M, G, T (powers of 1024); without one it is in KiB.
fn size(text: &str) -> Parsed<u64> {
    let (digits, shift) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        // In a hexadecimal number B is a digit, as it is to C's number parser.
        Some(b'B') if !text.starts_with("0x") => (text.get(..text.len().saturating_sub(1)), 0),
        Some(b'K') => (text.get(..text.len().saturating_sub(1)), 10),
        Some(b'M') => (text.get(..text.len().saturating_sub(1)), 20),
        Some(b'G') => (text.get(..text.len().saturating_sub(1)), 30),
        Some(b'T') => (text.get(..text.len().saturating_sub(1)), 40),
        _ => (Some(text), 10),
    };
    integer(digits.ok_or(BadValue)?)?.checked_mul(1 << shift).ok_or(BadValue)
}

/// `[-]size`, `percent%` or `size+percent%`.
fn amount(text: &str) -> Parsed<MemoryAmount> {
    let (text, negative) = text.strip_prefix('-').map_or((text, false), |rest| (rest, true));
    let percentage = |text: &str| -> Parsed<Option<u8>> {
        let Some(digits) = text.strip_suffix('%') else { return Ok(None) };
        match number(digits)? {
            n @ 0..=100 => Ok(Some(n as u8)),
            _ => Err(BadValue),
        }
    };
    if let Some((bytes, percent)) = text.split_once('+') {
        let percent = percentage(percent)?.ok_or(BadValue)?;
        return Ok(MemoryAmount { bytes: size(bytes)?, percent, negative });
    }
    match percentage(text)? {
        Some(percent) => Ok(MemoryAmount { bytes: 0, percent, negative }),
        None => Ok(MemoryAmount { bytes: size(text)?, percent: 0, negative }),
    }
}

/// `[min:amount,][max:amount,][amount]` in any order.
fn dom0_memory(text: &str) -> Parsed<Dom0Memory> {
    let mut memory = Dom0Memory::default();
    for part in text.split(',') {
        if let Some(rest) = part.strip_prefix("min:") {
            memory.min = Some(amount(rest)?);
        } else if let Some(rest) = part.strip_prefix("max:") {
            memory.max = Some(amount(rest)?);
        } else {
            memory.size = Some(amount(part)?);
        }
    }
    Ok(memory)
}

/// `n`, `min-max`, `min-` or `-max`.
fn range(text: &str) -> Parsed<(u32, u32)> {
    let (least, most) = match text.split_once('-') {
        None => {
            let n = number(text)?.max(1);
            return Ok((n, n));
        }
        Some((a, b)) => {
            (if a.is_empty() { 1 } else { number(a)?.max(1) }, if b.is_empty() { u32::MAX } else { number(b)?.max(1) })
        }
    };
    if least > most { Err(BadValue) } else { Ok((least, most)) }
}

/// `level[/rate limited level]`: the first holds for all, since Radon's log is not rate-limited by level.
fn level(text: &str) -> Parsed<LevelFilter> {
    let name = text.split_once('/').map_or(text, |(name, _)| name);
    Ok(match name {
        "none" => LevelFilter::Off,
        "error" => LevelFilter::Error,
        "warning" => LevelFilter::Warn,
        "info" => LevelFilter::Info,
        "debug" => LevelFilter::Debug,
        "all" => LevelFilter::Trace,
        _ => return Err(BadValue),
    })
}

fn console(text: &str) -> Parsed<ConsoleTargets> {
    let mut targets = ConsoleTargets { com1: false, com2: false, vga: false };
    for word in text.split(',') {
        // After the port's name Xen takes H or L: which half of the characters go there.
        match word {
            "com1" | "com1L" | "com1H" => targets.com1 = true,
            "com2" | "com2L" | "com2H" => targets.com2 = true,
            "vga" => targets.vga = true,
            "none" => (),
            _ => return Err(BadValue),
        }
    }
    Ok(targets)
}

/// `baud[/base][,DPS[,io-base[,irq]]]`; empty fields keep what was.
fn serial(text: &str, mut port: SerialPort) -> Parsed<SerialPort> {
    let mut fields = text.split(',');
    match fields.next().unwrap_or("") {
        "" => (),
        "auto" => port.baud = None,
        baud => {
            let baud = baud.split_once('/').map_or(baud, |(baud, _)| baud);
            port.baud = Some(number(baud)?).filter(|&b| (2..=115_200).contains(&b)).map(Some).ok_or(BadValue)?;
        }
    }
    match fields.next().unwrap_or("").as_bytes() {
        [] => (),
        [data @ b'5'..=b'8', parity, stop @ (b'1' | b'2')] => {
            port.data_bits = data.saturating_sub(b'0');
            port.stop_bits = stop.saturating_sub(b'0');
            port.parity = match parity {
                b'n' => 0,
                b'o' => 1,
                b'e' => 3,
                b'm' => 5,
                b's' => 7,
                _ => return Err(BadValue),
            };
        }
        _ => return Err(BadValue),
    }
    match fields.next().unwrap_or("") {
        "" => (),
        base => {
            // The port's eight registers must fit the I/O space.
            let base = number(base)?;
            port.io_base = u16::try_from(base).ok().filter(|&b| b != 0 && b <= 0xfff8).ok_or(BadValue)?;
        }
    }
    match fields.next().unwrap_or("") {
        "" => (),
        irq => port.irq = u8::try_from(number(irq)?).map_err(|_| BadValue)?,
    }
    if fields.next().is_some() { Err(BadValue) } else { Ok(port) }
}

fn timestamps(value: Option<&str>, wanted: bool) -> Parsed<Timestamps> {
    Ok(match value {
        Some("date") => Timestamps::Date,
        Some("datems") => Timestamps::DateMillis,
        Some("boot") => Timestamps::Boot,
        Some("raw") => Timestamps::Raw,
        Some("none") => Timestamps::None,
        other if flag(other, wanted)? => Timestamps::Date,
        _ => Timestamps::None,
    })
}

#[cfg(test)]
mod tests;
