//! The console: the hypervisor's log, what guests print, the ring that `xl dmesg` shows, and input.
//!
//! Text goes to the machine ([`crate::platform::Platform::console_write`]) and into the ring. What is typed goes to
//! dom0 or to the debug keys ([`keys`]).
//!
//! Lock protocol: all locks here have [`Rank::Console`], are held for a few instructions, and never together or over a
//! call into the machine; so printing is possible anywhere. Telling dom0 of news in the ring needs other locks and is
//! left to [`Console::deliver`], which the CPU loop calls.

mod guest;
mod input;
pub mod keys;
mod limit;
mod line;
mod ops;
mod ring;
#[cfg(test)]
mod tests;

use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::fmt;

use log::LevelFilter;
use radon_abi::errno::Errno;
use radon_abi::xen::{VIRQ_CON_RING, VIRQ_CONSOLE};

use crate::evtchn;
use crate::hypervisor::Hypervisor;
use crate::options::{Options, Timestamps};
use crate::platform::Platform;
use crate::sync::{Lock, Rank};
use crate::types::DomainId;
use guest::{GuestLines, Text};
use input::{Input, Received};
use keys::Key;
use limit::RateLimit;
use line::{Lines, prefix};
use ring::Ring;

pub use input::Focus;
pub use ops::{OPERATIONS, console_io};

/// Debug keys are ASCII.
const DEBUG_KEYS: usize = 128;
/// Bytes copied out of the ring at a time.
const CHUNK: usize = 512;

/// How the console behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The least important level shown of the hypervisor's own messages (`loglvl=`).
    pub host_level: LevelFilter,
    /// The same of messages that guests cause (`guest_loglvl=`).
    pub guest_level: LevelFilter,
    /// How lines are stamped (`console_timestamps=`).
    pub timestamps: Timestamps,
    /// Size of the ring in bytes; rounded up to a power of two (`conring_size=`).
    pub ring_size: u64,
    /// Whether what dom0 prints goes into the ring, too (`console_to_ring`).
    pub to_ring: bool,
    /// The character that switches the input: 1 for Ctrl-A, 0 for none (`conswitch=`).
    pub switch: u8,
    /// Whether input stays with the debug keys when dom0 starts (`conswitch=` with an `x`).
    pub keep_input: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            host_level: LevelFilter::Info,
            guest_level: LevelFilter::Warn,
            timestamps: Timestamps::None,
            ring_size: ring::MIN_SIZE as u64,
            to_ring: false,
            switch: 1,
            keep_input: false,
        }
    }
}

impl From<&Options> for Settings {
    fn from(options: &Options) -> Self {
        Settings {
            host_level: options.host_level,
            guest_level: options.guest_level,
            timestamps: options.console_timestamps,
            ring_size: options.conring_size,
            to_ring: options.console_to_ring,
            switch: options.switch,
            keep_input: options.keep_input,
        }
    }
}

/// The console.
pub struct Console {
    settings: Settings,
    /// The levels shown, of the hypervisor's messages and of those that guests cause.
    host_level: AtomicUsize,
    guest_level: AtomicUsize,
    ring: Lock<Ring>,
    input: Lock<Input>,
    guests: Lock<GuestLines>,
    limit: Lock<RateLimit>,
    keys: Lock<[Option<Key>; DEBUG_KEYS]>,
    /// Something was added to the ring since dom0 was told.
    ring_news: AtomicBool,
}

impl Default for Console {
    fn default() -> Self {
        Console::new(Settings::default())
    }
}

fn filter(level: &AtomicUsize) -> LevelFilter {
    let level = level.load(Ordering::Relaxed);
    LevelFilter::iter().find(|&l| l as usize == level).unwrap_or(LevelFilter::Off)
}

impl Console {
    /// A console with an empty ring; input goes to the debug keys.
    #[must_use]
    pub fn new(settings: Settings) -> Console {
        let mut keys = [const { None }; DEBUG_KEYS];
        for &(key, description, handler) in keys::BUILT_IN {
            if let Some(slot) = keys.get_mut(usize::from(key)) {
                *slot = Some(Key { description, handler });
            }
        }
        Console {
            ring: Lock::new(Rank::Console, Ring::new(settings.ring_size)),
            input: Lock::new(Rank::Console, Input::new(settings.switch)),
            guests: Lock::new(Rank::Console, GuestLines::new()),
            limit: Lock::new(Rank::Console, RateLimit::new()),
            keys: Lock::new(Rank::Console, keys),
            ring_news: AtomicBool::new(false),
            host_level: AtomicUsize::new(settings.host_level as usize),
            guest_level: AtomicUsize::new(settings.guest_level as usize),
            settings,
        }
    }

    /// The least important level shown of the hypervisor's own messages, so that others need not be formatted.
    #[must_use]
    pub fn host_level(&self) -> LevelFilter {
        self.levels().0
    }

    /// The least important levels shown, of the hypervisor's own messages and of those that guests cause.
    #[must_use]
    pub fn levels(&self) -> (LevelFilter, LevelFilter) {
        (filter(&self.host_level), filter(&self.guest_level))
    }

    /// Sets [`Console::levels`], from now on.
    pub fn set_levels(&self, platform: &dyn Platform, host: LevelFilter, guest: LevelFilter) {
        self.host_level.store(host as usize, Ordering::Relaxed);
        self.guest_level.store(guest as usize, Ordering::Relaxed);
        platform.set_log_levels(host, guest);
    }

    /// How it was set up.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Prints a message of the hypervisor's own if its level is shown.
    pub fn log(&self, platform: &dyn Platform, level: log::Level, text: fmt::Arguments<'_>) {
        if level <= self.levels().0 {
            self.print(platform, text);
        }
    }

    /// Prints a message that a guest caused, if its level is shown and guests have not caused too many of late.
    pub fn log_guest(&self, platform: &dyn Platform, level: log::Level, text: fmt::Arguments<'_>) {
        if level <= self.levels().1 && self.may_print(platform) {
            self.print(platform, text);
        }
    }

    /// Whether a guest may make the hypervisor print now. If it may, says first how often it might not.
    fn may_print(&self, platform: &dyn Platform) -> bool {
        let now = platform.now();
        let passed = self.limit.lock().pass(now);
        match passed {
            None => false,
            Some(0) => true,
            Some(missed) => {
                self.print(platform, format_args!("printk: {missed} messages suppressed."));
                true
            }
        }
    }

    /// Prints whatever the level: what a person asked for.
    pub fn say(&self, hv: &Hypervisor, text: fmt::Arguments<'_>) {
        self.print(&*hv.platform, text);
    }

    fn print(&self, platform: &dyn Platform, text: fmt::Arguments<'_>) {
        let prefix = prefix(self.settings.timestamps, platform.now(), platform.wall_clock_at_boot());
        Lines::new(&prefix, &mut |line| self.put(platform, line.as_bytes(), true)).print(text);
    }

    /// Puts bytes on the machine's console and, if wanted, into the ring.
    fn put(&self, platform: &dyn Platform, bytes: &[u8], to_ring: bool) {
        if to_ring {
            self.ring.lock().push(bytes);
            self.ring_news.store(true, Ordering::Release);
        }
        platform.console_write(bytes);
    }

    /// Puts whole lines that are on the machine's console already into the ring.
    pub fn keep(&self, lines: &[u8]) {
        self.ring.lock().push(lines);
        self.ring_news.store(true, Ordering::Release);
    }

    /// Puts dom0's bytes on the machine's console as they are.
    pub fn write_raw(&self, hv: &Hypervisor, bytes: &[u8]) {
        self.put(&*hv.platform, bytes, self.settings.to_ring);
    }

    /// Takes bytes that a guest prints (by hypercall, or through its debug port) and prints its whole lines as
    /// `(d1) text` if debug messages of guests are shown.
    pub fn guest_write(&self, hv: &Hypervisor, guest: DomainId, bytes: &[u8]) {
        if self.levels().1 < LevelFilter::Debug {
            return;
        }
        for &byte in bytes {
            let lines = self.guests.lock().push(guest, byte);
            for (guest, text) in lines {
                self.guest_line(hv, guest, &text);
            }
        }
    }

    fn guest_line(&self, hv: &Hypervisor, guest: DomainId, text: &Text) {
        if !self.may_print(&*hv.platform) {
            return;
        }
        // What is not ASCII was replaced when it was taken in.
        let text = core::str::from_utf8(text).unwrap_or_default();
        let prefix = prefix(self.settings.timestamps, hv.platform.now(), hv.platform.wall_clock_at_boot());
        let stamp = prefix.strip_prefix("(XEN) ").unwrap_or_default();
        let line = format_args!("{stamp}(d{}) {text}", guest.0);
        Lines::new("", &mut |line| self.put(&*hv.platform, line.as_bytes(), true)).print(line);
    }

    /// Takes a byte from the serial port. No lock may be held.
    pub fn receive(&self, hv: &Hypervisor, byte: u8) {
        let received = self.input.lock().receive(byte);
        match received {
            Received::Nothing => {}
            Received::Queued => evtchn::send_global_virq(hv, VIRQ_CONSOLE),
            Received::Key(key) => self.press(hv, key),
            Received::Switched => self.tell_focus(hv),
        }
    }

    /// The end of the boot: input goes to dom0 from now on.
    pub fn end_boot(&self, hv: &Hypervisor) {
        {
            let mut input = self.input.lock();
            if input.focus() == Focus::Hypervisor && !self.settings.keep_input {
                input.switch();
            }
        }
        self.tell_focus(hv);
    }

    fn tell_focus(&self, hv: &Hypervisor) {
        let (focus, letter) = {
            let input = self.input.lock();
            (input.focus(), input.switch_letter())
        };
        let who = match focus {
            Focus::Hypervisor => "Xen",
            Focus::Hardware => "DOM0",
        };
        match letter {
            Some(letter) => self
                .say(hv, format_args!("*** Serial input to {who} (type 'CTRL-{letter}' three times to switch input)")),
            None => self.say(hv, format_args!("*** Serial input to {who}")),
        }
    }

    /// Takes what was typed for dom0. Returns the number of bytes.
    pub fn take_input(&self, to: &mut [u8]) -> usize {
        self.input.lock().take(to)
    }

    /// Tells dom0 that there is news in the ring (`VIRQ_CON_RING`), if there is. The CPU loop calls this; no lock may be
    /// held.
    pub fn deliver(&self, hv: &Hypervisor) {
        if self.ring_news.load(Ordering::Relaxed) && self.ring_news.swap(false, Ordering::AcqRel) {
            evtchn::send_global_virq(hv, VIRQ_CON_RING);
        }
    }

    /// Reads the ring (`XEN_SYSCTL_readconsole`): at most `count` bytes from the oldest on, or from `index` if it is
    /// given (incremental reading) and later. Hands them to `out` in pieces, each with its offset. With `clear`, what
    /// was read is forgotten. Returns the number of bytes and the index to go on with.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn read_ring(
        &self,
        count: u32,
        index: Option<u32>,
        clear: bool,
        mut out: impl FnMut(u32, &[u8]) -> Result<(), Errno>,
    ) -> Result<(u32, u32), Errno> {
        let mut position = self.ring.lock().start(index);
        let mut done: u32 = 0;
        while done < count {
            let mut bytes = [0; CHUNK];
            let room = (count.saturating_sub(done) as usize).min(CHUNK);
            let (n, next) = self.ring.lock().read(position, bytes.get_mut(..room).unwrap_or_default());
            if n == 0 {
                break;
            }
            out(done, bytes.get(..n).unwrap_or_default())?;
            position = next;
            done = done.saturating_add(n as u32);
        }
        if clear {
            self.ring.lock().clear_to(position);
        }
        Ok((done, position))
    }
}
