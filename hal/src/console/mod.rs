//! The console: log messages with Xen's prefix, to the serial port, and to whoever keeps them.
//!
//! Output is polled, so nothing is lost when the machine stops. Log lines also go to a hook (core's console ring);
//! those logged before the hook exists are kept and handed over when it is set.
//!
//! Lock protocol: the port is behind a lock of rank `Console`, held while bytes are sent. The hook is called with it
//! released. [`write_past_lock`] ignores it, for the last report.

pub mod uart;

use arrayvec::{ArrayString, ArrayVec};
use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, Ordering};
use log::{Level, LevelFilter, Log, Metadata, Record};
use radon_core::sync::{Lock, Rank};
use spin::once::Once;

use crate::time;
pub use uart::{Framing, Uart};

/// Where the first serial port is on every PC that has one.
pub const COM1: u16 = 0x3f8;
/// Bytes received at a time.
const RECEIVE_AT_ONCE: usize = 64;
/// Bytes of log kept before the hook is set.
const EARLY: usize = 16 << 10;

static PORT: Lock<Uart> = Lock::new(Rank::Console, Uart::new(COM1));
static PORT_BASE: AtomicU16 = AtomicU16::new(COM1);
#[allow(unsafe_code, reason = "a section of the linker script for what is mostly zeros")]
#[unsafe(link_section = ".late_data")]
static EARLY_LOG: Lock<ArrayVec<u8, EARLY>> = Lock::new(Rank::Console, ArrayVec::new_const());
static HOOK: Once<fn(&[u8])> = Once::new();
static TIMESTAMPS: AtomicBool = AtomicBool::new(false);
static ENABLED: AtomicBool = AtomicBool::new(true);
static HOST_LEVEL: AtomicU8 = AtomicU8::new(LevelFilter::Info as u8);
static GUEST_LEVEL: AtomicU8 = AtomicU8::new(LevelFilter::Warn as u8);
static DROPPED: AtomicU32 = AtomicU32::new(0);

/// The log target of messages that a guest causes, which `guest_loglvl` governs.
pub const GUEST_TARGET: &str = "guest";

/// How the console is to be.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// First I/O port of the serial port.
    pub port: u16,
    /// Speed, or `None` to keep what firmware set.
    pub baud: Option<u32>,
    /// Framing.
    pub framing: Framing,
    /// Whether anything is written to the serial port at all.
    pub enabled: bool,
    /// Whether lines carry the system time.
    pub timestamps: bool,
    /// Least important level that the hypervisor's own messages are shown at.
    pub host_level: LevelFilter,
    /// The same for messages that guests cause.
    pub guest_level: LevelFilter,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            port: COM1,
            baud: Some(115_200),
            framing: Framing { data_bits: 8, parity: 0, stop_bits: 1 },
            enabled: true,
            timestamps: false,
            host_level: LevelFilter::Info,
            guest_level: LevelFilter::Warn,
        }
    }
}

/// Sets the console up and makes it the target of `log`. May be called again with other settings.
pub(crate) fn init(settings: &Settings) {
    {
        let mut port = PORT.lock();
        *port = Uart::new(settings.port);
        let present = port.init(settings.baud, settings.framing);
        ENABLED.store(settings.enabled && present, Ordering::Relaxed);
        PORT_BASE.store(settings.port, Ordering::Relaxed);
    }
    TIMESTAMPS.store(settings.timestamps, Ordering::Relaxed);
    set_levels(settings.host_level, settings.guest_level);
    // Fails if it was set before, to the same logger.
    let _ = log::set_logger(&Logger);
}

/// Changes the levels shown.
pub fn set_levels(host: LevelFilter, guest: LevelFilter) {
    HOST_LEVEL.store(host as u8, Ordering::Relaxed);
    GUEST_LEVEL.store(guest as u8, Ordering::Relaxed);
    log::set_max_level(host.max(guest));
}

/// Registers who keeps the log, once; it gets what was logged so far at once, and later each line. It must not log.
pub fn set_hook(hook: fn(&[u8])) {
    HOOK.call_once(|| hook);
    let early = core::mem::take(&mut *EARLY_LOG.lock());
    if !early.is_empty() {
        hook(&early);
    }
}

/// Writes bytes to the serial port. A line feed gets its carriage return.
pub fn write(bytes: &[u8]) {
    if ENABLED.load(Ordering::Relaxed) {
        PORT.lock().put_all(bytes);
    }
}

/// Writes bytes to the serial port without taking the lock: only for the last report, when its holder may never release
/// it. At worst the output of two CPUs is mixed.
pub(crate) fn write_past_lock(bytes: &[u8]) {
    if ENABLED.load(Ordering::Relaxed) {
        Uart::new(PORT_BASE.load(Ordering::Relaxed)).put_all(bytes);
    }
}

/// Gives each byte received so far to `sink`; returns whether there may be more. Then the caller comes again: at its
/// next poll, or after [`enable_receive_interrupt`], which makes the port interrupt anew.
pub fn receive(mut sink: impl FnMut(u8)) -> bool {
    // A FIFO holds 16 bytes; many more at a time mean a fast emulated port, or one that talks nonsense.
    for _ in 0..RECEIVE_AT_ONCE {
        let Some(byte) = PORT.lock().get() else { return false };
        sink(byte);
    }
    true
}

/// Makes the port interrupt when a byte arrives, or at once if one is there.
pub fn enable_receive_interrupt() {
    PORT.lock().enable_receive_interrupt();
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let level = if metadata.target().starts_with(GUEST_TARGET) { &GUEST_LEVEL } else { &HOST_LEVEL };
        metadata.level() as u8 <= level.load(Ordering::Relaxed)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = Line { text: ArrayString::new(), fresh: true };
        // Formatting into the buffer cannot fail; it sends itself when full.
        let _ = match record.level() {
            Level::Error => write!(line, "ERROR: {}", record.args()),
            _ => line.write_fmt(*record.args()),
        };
        let _ = line.write_str("\n");
        line.send();
    }

    fn flush(&self) {}
}

/// Collects a message, puts the prefix before each of its lines, and sends it in few pieces.
struct Line {
    text: ArrayString<512>,
    fresh: bool,
}

impl Line {
    fn send(&mut self) {
        write(self.text.as_bytes());
        match HOOK.get() {
            Some(hook) => hook(self.text.as_bytes()),
            None => {
                if EARLY_LOG.lock().try_extend_from_slice(self.text.as_bytes()).is_err() {
                    DROPPED.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.text.clear();
    }

    fn push(&mut self, piece: &str) {
        for c in piece.chars() {
            if self.text.try_push(c).is_err() {
                self.send();
                // The buffer is empty now.
                let _ = self.text.try_push(c);
            }
        }
    }

    fn prefix(&mut self) {
        self.push("(XEN) ");
        if TIMESTAMPS.load(Ordering::Relaxed) {
            let now = time::now().0;
            let mut stamp = ArrayString::<32>::new();
            // 32 bytes hold the longest time.
            let _ = write!(stamp, "[{:5}.{:06}] ", now / 1_000_000_000, now % 1_000_000_000 / 1000);
            self.push(&stamp);
        }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for piece in s.split_inclusive('\n') {
            if core::mem::replace(&mut self.fresh, false) {
                self.prefix();
            }
            self.push(piece);
            self.fresh = piece.ends_with('\n');
        }
        Ok(())
    }
}
