//! Where the hypervisor's instructions go while a guest repeats one operation: by function, from a trace of every
//! translated block that QEMU executes in the hypervisor's text.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Lab, grouped, micro};
use crate::machine::Machine;
use crate::serial::{Event, Session};

/// The trace ends when it has this size: some thousand operations.
const ENOUGH: u64 = 24 << 20;
const PATIENCE: Duration = Duration::from_secs(300);
/// The function that enters a guest: each call of it is one round through the hypervisor.
const ENTRY: &str = "svm_enter";
/// Functions that are shown; the rest is summed up.
const SHOWN: usize = 30;

/// Instructions by function.
pub(super) struct Profile {
    operation: String,
    /// Entries into the guest.
    entries: u64,
    /// Functions with the instructions executed in them (not in those they call), most first.
    functions: Vec<(String, u64)>,
}

/// Traces `operation`, a name of the micro set.
pub(super) fn measure(lab: &Lab, operation: &str) -> Result<Profile> {
    let symbols = Symbols::read(&lab.radon)?;
    let trace = lab.folder.join("profile.trace");
    let socket = lab.folder.join("profile.socket");
    for old in [&trace, &socket] {
        if old.exists() {
            fs::remove_file(old)?;
        }
    }
    let mut machine = Machine::new("bench-profile");
    machine.icount = true;
    machine.memory_mib = micro::MEMORY_MIB;
    machine.append = micro::CPUS.to_owned();
    machine.dom0_append = format!("{} repeat={operation}", micro::WORD);
    let range = format!("{:#x}+{:#x}", symbols.start, symbols.end - symbols.start);
    let (socket_at, trace_at) = (format!("unix:{},server=on,wait=off", socket.display()), trace.display().to_string());
    // Blocks are not chained, or only the first of a chain would be seen.
    let words = ["-qmp", &socket_at, "-d", "in_asm,nochain", "-dfilter", &range, "-D", &trace_at];
    machine.extra = words.map(str::to_owned).to_vec();
    let (mut session, results) = lab.start("profile", &lab.radon, &lab.guest, None, machine)?;
    let _ender = End(trace.clone());
    let asked = Instant::now();
    wait(&mut session, asked, || fs::read_to_string(&results).is_ok_and(|text| text.contains("repeats")))
        .with_context(|| format!("no operation '{operation}' began; the names are those that bench micro prints"))?;
    monitor(&socket, "log in_asm,exec,nochain")?;
    wait(&mut session, asked, || fs::metadata(&trace).is_ok_and(|file| file.len() > ENOUGH))?;
    drop(session);
    let blocks = Blocks::read(BufReader::new(fs::File::open(&trace)?))?;
    blocks.by_function(&symbols, operation)
}

/// Removes the trace.
struct End(PathBuf);

impl Drop for End {
    fn drop(&mut self) {
        // Nothing depends on it.
        let _ = fs::remove_file(&self.0);
    }
}

/// Lets the machine run until `done`.
fn wait(session: &mut Session, since: Instant, done: impl Fn() -> bool) -> Result<()> {
    while !done() {
        ensure!(since.elapsed() < PATIENCE, "that took too long");
        session.stop_at(Instant::now() + Duration::from_millis(100));
        match session.next()? {
            Event::Ended(_) => bail!("the machine ended"),
            Event::Limit(_) => thread::sleep(Duration::from_millis(10)),
            Event::Line(_) | Event::Partial(_) => {}
        }
    }
    Ok(())
}

/// Gives QEMU a command of its monitor.
pub(super) fn monitor(socket: &Path, command: &str) -> Result<()> {
    let mut stream = UnixStream::connect(socket).context("QEMU's monitor does not answer")?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut reply = || lines.next().context("QEMU's monitor is gone")?.context("QEMU's monitor");
    reply()?;
    for request in [
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "human-monitor-command", "arguments": {"command-line": command}}),
    ] {
        writeln!(stream, "{request}")?;
        let line = reply()?;
        let answer: Value = serde_json::from_str(&line)?;
        ensure!(answer.get("error").is_none(), "QEMU says: {line}");
    }
    Ok(())
}

/// The text symbols of the image.
struct Symbols {
    start: u64,
    end: u64,
    /// Sorted by address.
    names: Vec<(u64, String)>,
}

impl Symbols {
    /// Reads the symbol file beside the image.
    fn read(image: &Path) -> Result<Symbols> {
        let file = image.with_extension("syms");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Symbols::parse(&text).with_context(|| format!("{} has no text", file.display()))
    }

    fn parse(text: &str) -> Option<Symbols> {
        let symbol = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            // In between is the kind, which labels of assembly code lack.
            words.next()?;
            Some((address, words.next()?.to_owned()))
        };
        let mut names: Vec<_> = text.lines().filter_map(symbol).collect();
        let at = |wanted: &str| names.iter().find(|(_, name)| name == wanted).map(|(address, _)| *address);
        let (start, end) = (at("__text_start")?, at("__text_end")?);
        names.retain(|(at, name)| (start..end).contains(at) && name != "__text_start");
        names.sort();
        Some(Symbols { start, end, names })
    }

    /// Whether a function begins at `address`.
    fn begins(&self, address: u64) -> bool {
        self.names.binary_search_by_key(&address, |(at, _)| *at).is_ok()
    }

    /// The function that `address` is in.
    fn name(&self, address: u64) -> &str {
        let after = self.names.partition_point(|(at, _)| *at <= address);
        after.checked_sub(1).map_or("?", |before| &self.names[before].1)
    }
}

/// Translated blocks by their address.
#[derive(Default)]
struct Blocks {
    /// Instructions in each.
    lengths: HashMap<u64, u64>,
    /// How often each was executed.
    runs: HashMap<u64, u64>,
}

impl Blocks {
    /// Reads QEMU's log: a paragraph that begins with `IN:` and has an instruction a line for each block that was
    /// translated, and a `Trace` line for each that was executed.
    fn read(log: impl BufRead) -> Result<Blocks> {
        let mut blocks = Blocks::default();
        let (mut in_block, mut first, mut length) = (false, 0, 0);
        for line in log.lines() {
            // The last line may have been cut.
            let Ok(line) = line else { break };
            if let Some(rest) = line.strip_prefix("Trace ") {
                let address = rest.split(['[', ']']).nth(1).and_then(|flags| flags.split('/').nth(1));
                if let Some(address) = address.and_then(|text| u64::from_str_radix(text, 16).ok()) {
                    *blocks.runs.entry(address).or_default() += 1;
                }
                continue;
            }
            let instruction = line.strip_prefix("0x").and_then(|rest| rest.split_once(':'));
            if line.starts_with("IN:") {
                (in_block, length) = (true, 0);
            } else if let Some((at, rest)) = instruction.filter(|_| in_block) {
                // The bytes of a long instruction are on two lines; the second has nothing else.
                if rest.split_whitespace().all(|word| u8::from_str_radix(word, 16).is_ok() && word.len() == 2) {
                    continue;
                }
                if length == 0 {
                    first = u64::from_str_radix(at, 16).context("an address in QEMU's log")?;
                }
                length += 1;
                // A block is translated anew when it is to end early for an interrupt: the longest is the whole one.
                let longest = blocks.lengths.entry(first).or_default();
                *longest = length.max(*longest);
            } else {
                in_block = false;
            }
        }
        Ok(blocks)
    }

    fn by_function(&self, symbols: &Symbols, operation: &str) -> Result<Profile> {
        let mut functions: HashMap<&str, u64> = HashMap::new();
        let mut entries = 0;
        for (address, runs) in &self.runs {
            let name = symbols.name(*address);
            if name == ENTRY && symbols.begins(*address) {
                entries += runs;
            }
            *functions.entry(name).or_default() += runs * self.lengths.get(address).copied().unwrap_or(1);
        }
        ensure!(entries > 0, "the trace has no entry into the guest");
        let mut functions: Vec<_> = functions.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        functions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(Profile { operation: operation.to_owned(), entries, functions })
    }
}

impl Profile {
    /// For people.
    pub(super) fn table(&self) -> String {
        let per_entry = |count: u64| count as f64 / self.entries as f64;
        let total: u64 = self.functions.iter().map(|(_, count)| count).sum();
        let mut text = format!(
            "{}: {:.0} instructions of the hypervisor for each of {} entries into the guest\n",
            self.operation,
            per_entry(total),
            grouped(self.entries)
        );
        let mut line = |count: u64, name: &str| {
            text += &format!("{:>8.1} {:>5.1} %  {name}\n", per_entry(count), count as f64 * 100.0 / total as f64);
        };
        let (shown, rest) = self.functions.split_at(SHOWN.min(self.functions.len()));
        shown.iter().for_each(|(name, count)| line(*count, name));
        line(rest.iter().map(|(_, count)| count).sum(), "others");
        text
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let function = |(name, count): &(String, u64)| json!({"name": name, "instructions": count});
        json!({
            "operation": self.operation, "entries": self.entries,
            "functions": self.functions.iter().map(function).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "----------------\nIN: \n0x1000:  90  nop\n0x1001:  c3  retq\n\nTrace 0: 0x7f [0/0000000000001000/1/0] \n\
                       ----------------\nIN: \n0x1000:  90  nop\n\n----------------\nIN: \n0x1010:  48 b8  movabsq\n0x1015:  00 ff\n\n\
                       Trace 0: 0x7f [0/0000000000001010/1/0] \nTrace 0: 0x7f [0/0000000000001000/1/0] \nTrace 0: 0x";
    const SYMBOLS: &str = "1000 d __text_start\n1000 t f\n1010 d svm_enter\n1020 d __text_end\n1030 t outside";

    #[test]
    fn instructions_are_counted_by_function() {
        let blocks = Blocks::read(LOG.as_bytes()).unwrap();
        let profile = blocks.by_function(&Symbols::parse(SYMBOLS).unwrap(), "x").unwrap();
        assert_eq!(profile.entries, 1);
        assert_eq!(profile.functions, [("f".to_owned(), 4), ("svm_enter".to_owned(), 1)]);
        assert!(profile.table().starts_with("x: 5 instructions"));
    }

    #[test]
    fn a_trace_without_entries_is_refused() {
        let symbols = Symbols::parse(SYMBOLS).unwrap();
        assert!(Blocks::default().by_function(&symbols, "x").is_err());
        assert!(Symbols::parse("1000 t f").is_none());
    }
}
