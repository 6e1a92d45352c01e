//! Drives an emulated machine through its serial port: reads lines, sends input, keeps a log, sets limits.
//!
//! The limit is on the emulator's CPU time, since wall time says little on a busy machine. A machine that waits for
//! something that never comes uses no CPU time, so one that is silent and idle for a while counts as hung as well.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::host;

/// How long a machine may be silent while using little CPU time.
const IDLE_LIMIT: Duration = Duration::from_secs(40);
/// The share of a CPU below which a machine counts as idle.
const IDLE_SHARE: f64 = 0.05;
const POLL: Duration = Duration::from_millis(200);

/// What the machine did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It printed a whole line.
    Line(String),
    /// It printed part of a line, which so far is this (a prompt, perhaps).
    Partial(String),
    /// QEMU ended.
    Ended(ExitStatus),
    /// A limit was exceeded: this one.
    Limit(String),
}

/// A running machine. It is killed when this is dropped.
pub(crate) struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    log: File,
    echo: bool,
    lines: LineBuffer,
    ready: std::collections::VecDeque<Event>,
    cpu_limit: Duration,
    stop_at: Option<Instant>,
    abandoned: Option<Arc<AtomicBool>>,
    /// When the machine last printed something, and its CPU time then.
    last_output: (Instant, Duration),
}

impl Session {
    /// Starts `qemu`, whose serial port must be its standard input and output. `echo` copies what it prints to ours.
    pub(crate) fn start(qemu: &mut Command, log: &Path, cpu_limit: Duration, echo: bool) -> Result<Session> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut log = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        writeln!(log, "$ {}", host::shell_line(qemu))?;
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = qemu.spawn().context("cannot start QEMU")?;
        let mut stdout = child.stdout.take().context("QEMU has no standard output")?;
        let input = child.stdin.take();
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Ends when QEMU closes its end, or when nobody listens any more.
            while let Ok(count) = stdout.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Session {
            child,
            input,
            output,
            log,
            echo,
            lines: LineBuffer::default(),
            ready: std::collections::VecDeque::new(),
            cpu_limit,
            stop_at: None,
            abandoned: None,
            last_output: (Instant::now(), Duration::ZERO),
        })
    }

    /// Waits for the next event.
    pub(crate) fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            if let Some(limit) = self.exceeded() {
                return Ok(Event::Limit(limit));
            }
            match self.output.recv_timeout(POLL) {
                Ok(bytes) => self.take(&bytes)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    if let Some(rest) = self.lines.finish() {
                        self.ready.push_back(Event::Ended(status));
                        return Ok(Event::Line(rest));
                    }
                    return Ok(Event::Ended(status));
                }
            }
        }
    }

    /// Types `text` on the machine's console.
    pub(crate) fn send(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("the machine's input is closed")?;
        input.write_all(text.as_bytes())?;
        Ok(input.flush()?)
    }

    /// Writes a remark into the log.
    pub(crate) fn note(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.log, "\n--- {text}")?)
    }

    /// Sets a limit on wall time.
    pub(crate) fn stop_at(&mut self, until: Instant) {
        self.stop_at = Some(until);
    }

    /// Lets it end when `flag` becomes true.
    pub(crate) fn abandon_when(&mut self, flag: Arc<AtomicBool>) {
        self.abandoned = Some(flag);
    }

    /// CPU time that QEMU has used.
    pub(crate) fn cpu_time(&self) -> Duration {
        cpu_time(self.child.id()).unwrap_or_default()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.log.write_all(bytes)?;
        if self.echo {
            let mut out = std::io::stdout().lock();
            out.write_all(bytes)?;
            out.flush()?;
        }
        self.last_output = (Instant::now(), self.cpu_time());
        self.ready.extend(self.lines.push(bytes).into_iter().map(Event::Line));
        if !self.lines.partial().is_empty() {
            self.ready.push_back(Event::Partial(self.lines.partial().to_owned()));
        }
        Ok(())
    }

    fn exceeded(&self) -> Option<String> {
        if self.stop_at.is_some_and(|until| Instant::now() > until) {
            return Some("time is up".to_owned());
        }
        if self.abandoned.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed)) {
            return Some("the other machine failed".to_owned());
        }
        let used = self.cpu_time();
        if used > self.cpu_limit {
            return Some(format!("used more than {} s of CPU time", self.cpu_limit.as_secs()));
        }
        let (since, before) = self.last_output;
        let silent = since.elapsed();
        let share = used.saturating_sub(before).as_secs_f64() / silent.as_secs_f64().max(1.0);
        (silent > IDLE_LIMIT && share < IDLE_SHARE).then(|| format!("silent and idle for {} s", silent.as_secs()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process, from the 14th and 15th field of its `stat` file, in hundredths of a second.
fn cpu_time(process: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have blanks in it.
    let (_, fields) = text.rsplit_once(')')?;
    let mut ticks = fields.split_whitespace().skip(11).map_while(|field| field.parse::<u64>().ok());
    Some(Duration::from_millis((ticks.next()? + ticks.next()?) * 10))
}

/// What each of the hypervisor's lines begins with.
const HYPERVISOR: &str = "(XEN) ";

/// Splits a serial port's bytes into lines without carriage returns and terminal control sequences. A line of the
/// hypervisor's that came while dom0 was printing one (its kernel hands over 16 bytes at a time) is taken out of it.
#[derive(Default)]
pub(crate) struct LineBuffer {
    current: Vec<u8>,
    /// The beginning of a line of dom0's that the hypervisor interrupted.
    interrupted: String,
    text: String,
    escape: Escape,
}

/// Where in a terminal control sequence we are.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    Outside,
    /// After ESC.
    Started,
    /// After ESC `[`, until a final byte.
    Parameters,
}

impl LineBuffer {
    /// Adds bytes and returns the lines they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for &byte in bytes {
            self.escape = match (self.escape, byte) {
                (_, 0x1b) => Escape::Started,
                (Escape::Started, b'[') => Escape::Parameters,
                (Escape::Parameters, 0x20..=0x3f) => Escape::Parameters,
                (Escape::Started | Escape::Parameters, b' '..) => Escape::Outside,
                (_, b'\n') => {
                    let line = std::mem::take(&mut self.current);
                    lines.push(self.untangle(&String::from_utf8_lossy(&line)));
                    Escape::Outside
                }
                (_, b'\r') => Escape::Outside,
                (_, other) => {
                    self.current.push(other);
                    Escape::Outside
                }
            };
        }
        self.text = String::from_utf8_lossy(&self.current).into_owned();
        lines
    }

    fn untangle(&mut self, line: &str) -> String {
        match line.find(HYPERVISOR) {
            Some(at) => {
                self.interrupted.push_str(&line[..at]);
                line[at..].to_owned()
            }
            None => std::mem::take(&mut self.interrupted) + line,
        }
    }

    /// The line that is not complete yet.
    pub(crate) fn partial(&self) -> &str {
        &self.text
    }

    /// The line that never was completed, if there is one.
    fn finish(&mut self) -> Option<String> {
        self.current.clear();
        let rest = std::mem::take(&mut self.interrupted) + &std::mem::take(&mut self.text);
        Some(rest).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_clean() {
        let mut buffer = LineBuffer::default();
        assert!(buffer.push(b"one\x1b[0").is_empty());
        assert_eq!(buffer.push(b";1mtwo\r\nthree\x1bc\n/ # "), ["onetwo", "three"]);
        assert_eq!(buffer.partial(), "/ # ");
        assert_eq!(buffer.finish().as_deref(), Some("/ # "));
        assert_eq!(buffer.finish(), None);
    }

    #[test]
    fn lines_that_the_hypervisor_interrupts_are_whole() {
        let mut buffer = LineBuffer::default();
        let lines = buffer.push(b"(XEN) a\nRADON-TEST: (XEN) b\nstart(XEN) c (XEN) d\n(XEN) e\n ok\nnext\n");
        assert_eq!(lines, ["(XEN) a", "(XEN) b", "(XEN) c (XEN) d", "(XEN) e", "RADON-TEST: start ok", "next"]);
    }

    #[test]
    fn bytes_that_are_no_text_do_no_harm() {
        let mut buffer = LineBuffer::default();
        assert_eq!(buffer.push(b"\xff\xfea\n").len(), 1);
    }

    fn shell(script: &str, limit: u64) -> Session {
        let log = std::env::temp_dir().join(format!("xtask-serial-{}-{limit}.log", std::process::id()));
        Session::start(Command::new("sh").args(["-c", script]), &log, Duration::from_secs(limit), false).unwrap()
    }

    #[test]
    fn a_session_reads_sends_and_sees_the_end() {
        let mut session = shell("echo up; read x; echo got $x; exit 3", 61);
        assert_eq!(session.next().unwrap(), Event::Line("up".to_owned()));
        session.send("that\n").unwrap();
        assert_eq!(session.next().unwrap(), Event::Line("got that".to_owned()));
        let Event::Ended(status) = session.next().unwrap() else { panic!("no end") };
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_busy_session_is_stopped() {
        let mut session = shell("while :; do :; done", 0);
        assert!(matches!(session.next().unwrap(), Event::Limit(_)));
    }
}
