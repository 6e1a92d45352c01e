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

impl Timestamps {
    /// The name that `console_timestamps=` gives it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Timestamps::None => "none",
            Timestamps::Date => "date",
            Timestamps::DateMillis => "datems",
            Timestamps::Boot => "boot",
            Timestamps::Raw => "raw",
        }
    }
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

/// How to restart (`reboot=`), tried first; the other ways follow if it fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RebootMethod {
    /// By the reset register that the firmware's tables name.
    Acpi,
    /// By port 0xcf9.
    Pci,
    /// By the keyboard controller.
    Keyboard,
    /// By a triple fault.
    TripleFault,
}

/// What an NMI that nobody expects does (`nmi=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NmiPolicy {
    /// It is counted.
    Ignore,
    /// dom0 gets an NMI.
    Dom0,
    /// The machine stops with a report.
    Fatal,
}

/// What the time stamp counter's speed is measured against (`clocksource=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClockSource {
    /// The high precision event timer.
    Hpet,
    /// The ACPI power management timer.
    Acpi,
    /// The 8254.
    Pit,
}

/// Which CPUs share a run queue (`credit2_runqueue=`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RunQueues {
    /// None: one for each CPU.
    Cpu,
    /// The threads of a core.
    Core,
    /// The cores of a socket.
    #[default]
    Socket,
    /// The CPUs of a NUMA node.
    Node,
    /// All.
    All,
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
    /// `bootscrub=`: idle CPUs zero free memory.
    pub tidies: bool,
    /// `loglvl=`: least important level shown, of the hypervisor's own messages.
    pub host_level: LevelFilter,
    /// `guest_loglvl=`: the same for messages that guests cause.
    pub guest_level: LevelFilter,
    /// `noreboot`: stay after a fatal error.
    pub noreboot: bool,
    /// `reboot=`: how to restart.
    pub reboot: Option<RebootMethod>,
    /// `watchdog`: a CPU that hangs stops the machine with a report.
    pub watchdog: bool,
    /// `watchdog_timeout=`: seconds.
    pub watchdog_timeout: u32,
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
    /// `credit2_runqueue=`.
    pub run_queues: RunQueues,
    /// `sched_credit2_max_cpus_runqueue=`.
    pub queue_cpus: Option<u32>,
    /// `sched_ratelimit_us=`: shortest time that a vCPU runs, in microseconds.
    pub ratelimit: Option<u32>,
    /// `timer_slop=`: how much later than asked a guest's timer may fire at most, in nanoseconds.
    pub timer_slop: Option<u32>,
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
    /// `nmi=`.
    pub nmi: NmiPolicy,
    /// `clocksource=`.
    pub clock_source: Option<ClockSource>,
    /// `conswitch=`: the character that switches the input, 0 for none.
    pub switch: u8,
    /// `conswitch=` with an `x`: input stays with the debug keys when dom0 starts.
    pub keep_input: bool,
    /// `gnttab_max_frames=`.
    pub gnttab_max_frames: Option<u32>,
    /// `gnttab_max_maptrack_frames=`.
    pub gnttab_max_maptrack_frames: Option<u32>,
    /// `hvm_fep`: guests may ask that an instruction be emulated. Only images for tests can do it.
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
            tidies: true,
            host_level: LevelFilter::Info,
            guest_level: LevelFilter::Warn,
            noreboot: false,
            reboot: None,
            watchdog: false,
            watchdog_timeout: 5,
            dom0_verbose: false,
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: (1, u32::MAX),
            dom0_vcpus_pin: false,
            dom0_extra: String::new(),
            sched: None,
            run_queues: RunQueues::default(),
            queue_cpus: None,
            ratelimit: None,
            timer_slop: None,
            maxcpus: u32::MAX,
            smt: true,
            x2apic: true,
            iommu: Iommu { enabled: true, force: false, verbose: false, interrupt_remapping: true },
            cpuid: Vec::new(),
            nmi: NmiPolicy::Dom0,
            clock_source: None,
            switch: 1,
            keep_input: false,
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

/// Options of Xen's that are taken and mean nothing here, with the reason if that is worth a line in the log.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    // What the boot loader's scripts add.
    ("placeholder", ""),
    ("real-mode", ""),
    ("edd", ""),
    ("edid", ""),
    ("vga", "nothing is drawn on the screen"),
    ("vwfb", "nothing is drawn on the screen"),
    ("font", "nothing is drawn on the screen"),
    ("tsc", "system time is the time stamp counter's"),
    ("ucode", "microcode is the firmware's and dom0's business"),
    ("vpmu", "performance counters are not virtualised"),
    ("cpufreq", "the processor's speed is the firmware's business"),
    ("cpuidle", "an idle CPU halts"),
    ("max_cstate", "an idle CPU halts"),
    ("mwait-idle", "an idle CPU halts"),
    ("spec-ctrl", "there are no such settings yet"),
    ("xsave", "use cpuid=no-xsave"),
    ("crashkernel", "there is no kexec"),
    ("xpti", "there are no PV domains"),
    ("pv-l1tf", "there are no PV domains"),
    ("pcid", "there are no PV domains"),
    ("hap_1gb", "pages of all sizes are used where the processor has them"),
    ("hap_2mb", "pages of all sizes are used where the processor has them"),
    ("dom0_nodes", "there is one node"),
    ("numa", "there is one node"),
];

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
            // Xen can zero all memory before it starts; idle CPUs doing it comes to the same.
            "bootscrub" => self.tidies = value == Some("idle") && wanted || flag(value, wanted)?,
            "noreboot" => self.noreboot = flag(value, wanted)?,
            "dom0_vcpus_pin" => self.dom0_vcpus_pin = flag(value, wanted)?,
            "smt" => self.smt = flag(value, wanted)?,
            "x2apic" => self.x2apic = flag(value, wanted)?,
            "hvm_fep" => self.hvm_fep = flag(value, wanted)?,
            "debug_exit" => self.debug_exit = flag(value, wanted)?,
            "nosmp" => {
                if flag(value, wanted)? {
                    self.maxcpus = 1;
                }
            }
            "console_timestamps" => self.console_timestamps = timestamps(value, wanted)?,
            // Xen's `force` is for processors that it does not know.
            "watchdog" => self.watchdog = value == Some("force") && wanted || flag(value, wanted)?,
            "selftest" => match value {
                Some(v) if boolean(v).is_none() && wanted => {
                    self.selftest = true;
                    self.selftest_filter = Some(v.into());
                }
                _ => self.selftest = flag(value, wanted)?,
            },
            "iommu" => self.take_iommu(value, wanted)?,
            _ if wanted && self.take_value(name, value)? => (),
            _ => return Ok(self.take_without_effect(name)),
        }
        Ok(true)
    }

    /// Takes an option of Xen's that means nothing here, with the reason for those who wonder.
    fn take_without_effect(&mut self, name: &str) -> bool {
        let Some((_, why)) = WITHOUT_EFFECT.iter().find(|(n, _)| *n == name) else { return false };
        if !why.is_empty() {
            self.problems.push(alloc::format!("option '{name}' has no effect: {why}"));
        }
        true
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
            "conswitch" => self.take_console_switch(given?)?,
            "reboot" => self.take_reboot(given?)?,
            "watchdog_timeout" => {
                self.watchdog_timeout = number(given?)?;
                self.watchdog = self.watchdog_timeout != 0;
            }
            "dom0" => self.take_dom0(given?)?,
            "dom0_mem" => self.dom0_mem = dom0_memory(given?)?,
            "dom0_max_vcpus" => self.dom0_max_vcpus = range(given?)?,
            "sched" => self.sched = Some(given?.into()),
            "maxcpus" => self.maxcpus = number(given?)?.max(1),
            "cpuid" => self.take_cpuid(given?),
            "credit2_runqueue" => self.run_queues = run_queues(given?)?,
            "sched_credit2_max_cpus_runqueue" => self.queue_cpus = Some(number(given?)?),
            "sched_ratelimit_us" => self.ratelimit = Some(number(given?)?),
            "timer_slop" => self.timer_slop = Some(number(given?)?),
            "nmi" => self.nmi = nmi_policy(given?)?,
            "clocksource" => self.clock_source = clock_source(given?)?,
            "gnttab_max_frames" => self.gnttab_max_frames = Some(number(given?)?),
            "gnttab_max_maptrack_frames" => self.gnttab_max_maptrack_frames = Some(number(given?)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// By their first letters, as Xen has it; `P` and `e` name ways that Radon does not go.
    fn take_reboot(&mut self, value: &str) -> Parsed<()> {
        for word in value.split(',') {
            match word.as_bytes().first() {
                Some(b'n') => self.noreboot = true,
                Some(b'a') => self.reboot = Some(RebootMethod::Acpi),
                Some(b'p') => self.reboot = Some(RebootMethod::Pci),
                Some(b'k') => self.reboot = Some(RebootMethod::Keyboard),
                Some(b't') => self.reboot = Some(RebootMethod::TripleFault),
                // Warm or cold: only the BIOS of long ago cared.
                Some(b'w' | b'c' | b'P' | b'e') => (),
                _ => return Err(BadValue),
            }
        }
        Ok(())
    }

    /// `character[x]`.
    fn take_console_switch(&mut self, value: &str) -> Parsed<()> {
        let (character, keep) = match value.as_bytes() {
            [c] => (*c, false),
            [c, b'x'] => (*c, true),
            _ => return Err(BadValue),
        };
        // The character is typed with Ctrl; a blank or a digit, say, turns switching off.
        self.switch = if character.is_ascii_alphabetic() { character & 0x1f } else { 0 };
        self.keep_input = keep;
        Ok(())
    }

    fn take_dom0(&mut self, value: &str) -> Parsed<()> {
        for word in value.split(',') {
            let (name, on) = named(word)?;
            match name {
                "pvh" | "hap" | "cpuid-faulting" | "msr-relaxed" => (),
                "pv" => self.problems.push("'dom0=pv': there are no PV domains; dom0 is PVH".into()),
                "verbose" => self.dom0_verbose = on,
                "shadow" if !on => (),
                "shadow" => self.problems.push("'dom0=shadow': there is no shadow paging; ignored".into()),
                _ => self.problems.push(alloc::format!("unknown word '{word}' in 'dom0=' is ignored")),
            }
        }
        Ok(())
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
            let (name, on) = named(word)?;
            match name {
                "force" | "required" => self.iommu.force = on,
                "verbose" | "debug" => self.iommu.verbose = on,
                "intremap" => self.iommu.interrupt_remapping = on,
                // Finer settings of a driver that there is not.
                "quarantine"
                | "igfx"
                | "qinval"
                | "snoop"
                | "intpost"
                | "sharept"
                | "superpages"
                | "crash-disable"
                | "dom0-passthrough"
                | "dom0-strict"
                | "amd-iommu-perdev-intremap"
                | "workaround_bios_bug" => (),
                _ => self.problems.push(alloc::format!("unknown word '{word}' in 'iommu=' is ignored")),
            }
        }
        Ok(())
    }
}

/// A word of a list: `name`, `no-name` or `name=boolean`.
fn named(word: &str) -> Parsed<(&str, bool)> {
    let (name, on) = word.strip_prefix("no-").map_or((word, true), |name| (name, false));
    match name.split_once('=') {
        Some((name, v)) => Ok((name, boolean(v).ok_or(BadValue)?)),
        None => Ok((name, on)),
    }
}

fn run_queues(value: &str) -> Parsed<RunQueues> {
    Ok(match value {
        "cpu" => RunQueues::Cpu,
        "core" => RunQueues::Core,
        "socket" => RunQueues::Socket,
        "node" => RunQueues::Node,
        "all" => RunQueues::All,
        _ => return Err(BadValue),
    })
}

fn nmi_policy(value: &str) -> Parsed<NmiPolicy> {
    Ok(match value {
        "ignore" => NmiPolicy::Ignore,
        "dom0" => NmiPolicy::Dom0,
        "fatal" => NmiPolicy::Fatal,
        _ => return Err(BadValue),
    })
}

fn clock_source(value: &str) -> Parsed<Option<ClockSource>> {
    Ok(match value {
        "hpet" => Some(ClockSource::Hpet),
        "acpi" => Some(ClockSource::Acpi),
        "pit" => Some(ClockSource::Pit),
        // That is the clock always.
        "tsc" => None,
        _ => return Err(BadValue),
    })
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

/// A number as options have it.
pub(crate) fn integer_of(text: &str) -> Option<u32> {
    number(text).ok()
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

/// A level by the name that `loglvl=` gives it.
#[must_use]
pub fn log_level(text: &str) -> Option<LevelFilter> {
    level(text).ok()
}

/// The name that `loglvl=` gives a level.
#[must_use]
pub const fn level_name(level: LevelFilter) -> &'static str {
    match level {
        LevelFilter::Off => "none",
        LevelFilter::Error => "error",
        LevelFilter::Warn => "warning",
        LevelFilter::Info => "info",
        LevelFilter::Debug => "debug",
        LevelFilter::Trace => "all",
    }
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
