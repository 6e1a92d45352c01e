//! Load of many kinds, each a thread that works while it is let, and checks what it does.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::{finish, start_fpu, system};

/// What dom0 or a guest may set its memory to, in KiB.
const TARGET: &str = "/sys/devices/system/xen_memory/xen_memory0/target_kb";
/// How much is given back and taken again.
const BALLOON_KIB: u64 = 32 << 10;
const MEMORY: usize = 16 << 20;
const BLOCK: usize = 8 << 20;

/// Lets load threads work or wait.
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
    /// Units of work done, of all kinds.
    pub(crate) done: AtomicU64,
    /// The first thing that went wrong.
    failure: Mutex<Option<String>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Work,
    Rest,
    End,
}

impl Gate {
    pub(crate) fn new() -> Gate {
        Gate {
            state: Mutex::new(State::Rest),
            changed: Condvar::new(),
            done: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.changed.notify_all();
    }

    /// Load threads work from now on.
    pub(crate) fn open(&self) {
        self.set(State::Work);
    }

    /// Load threads finish what they are at and wait.
    pub(crate) fn close(&self) {
        self.set(State::Rest);
    }

    /// Load threads end.
    pub(crate) fn end(&self) {
        self.set(State::End);
    }

    /// What went wrong first.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fail(&self, why: String) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    /// Returns when there is work to do; `false` if there will be none.
    fn pass(&self) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.changed.wait_while(state, |now| *now == State::Rest);
        *state.unwrap_or_else(PoisonError::into_inner) == State::Work
    }
}

/// Starts a thread that does `work` again and again while the gate is open.
fn worker(
    gate: &Arc<Gate>,
    name: &'static str,
    mut work: impl FnMut(u64) -> Result<(), String> + Send + 'static,
) -> thread::JoinHandle<()> {
    let gate = gate.clone();
    thread::spawn(move || {
        let mut round = 0;
        while gate.pass() {
            round += 1;
            if let Err(why) = work(round) {
                gate.fail(format!("{name}: {why}"));
                return;
            }
            gate.done.fetch_add(1, Ordering::Relaxed);
        }
    })
}

/// Starts one thread of each kind. The beginning of `disk` is overwritten.
pub(crate) fn start(gate: &Arc<Gate>, disk: Option<&Path>) -> Vec<thread::JoinHandle<()>> {
    let mut workers = vec![
        worker(gate, "interrupts between CPUs", interrupts),
        worker(gate, "moving between CPUs", moving),
        worker(gate, "memory", memory),
        worker(gate, "processes", processes),
        worker(gate, "floating point", |round| finish(vec![start_fpu(1, 2 * round)?, start_fpu(1, 2 * round + 1)?])),
    ];
    if let Some(device) = disk.map(Path::to_path_buf) {
        workers.push(worker(gate, "disk", move |round| write_and_read(&device, round)));
    }
    if fs::metadata(TARGET).is_ok() {
        workers.push(worker(gate, "balloon", |_| balloon()));
    }
    workers
}

/// Barriers on all CPUs, and changes of page tables that all CPUs have to notice.
fn interrupts(_: u64) -> Result<(), String> {
    for _ in 0..50 {
        system::interrupt_all();
        let mut pages = system::Pages::new(64 << 10).ok_or("no memory")?;
        pages.words()[0] = 1;
        pages.reprotect();
        pages.words()[1] = 2;
    }
    Ok(())
}

/// From CPU to CPU.
fn moving(_: u64) -> Result<(), String> {
    for n in 0..100 {
        system::pin(n % system::cpus().max(1));
        thread::yield_now();
    }
    thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// Fresh memory is zero, and holds what is written to it.
fn memory(round: u64) -> Result<(), String> {
    let mut pages = system::Pages::new(MEMORY).ok_or("no memory")?;
    let words = pages.words();
    let value = |at: usize| (at as u64 ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (at, word) in words.iter_mut().enumerate().step_by(8) {
        if *word != 0 {
            return Err(format!("fresh memory has {word:#x} at {at}"));
        }
        *word = value(at);
    }
    match words.iter().enumerate().step_by(8).find(|(at, word)| **word != value(*at)) {
        Some((at, word)) => Err(format!("memory has {word:#x} at {at}, not {:#x}", value(at))),
        None => Ok(()),
    }
}

fn processes(_: u64) -> Result<(), String> {
    let mut children = Vec::new();
    for _ in 0..4 {
        let child = Command::new("/proc/self/exe").arg("nothing").spawn();
        children.push(child.map_err(|error| format!("cannot start one: {error}"))?);
    }
    finish(children)
}

/// What is written comes back, from the disk and not from memory.
fn write_and_read(device: &Path, round: u64) -> Result<(), String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let block: Vec<u8> = (0..BLOCK as u64 / 8).flat_map(|at| (at ^ round << 32).to_le_bytes()).collect();
    let mut out = OpenOptions::new().write(true).open(device).map_err(failed("cannot open the disk"))?;
    out.write_all(&block).and_then(|()| out.sync_all()).map_err(failed("cannot write"))?;
    drop(out);
    OpenOptions::new()
        .write(true)
        .open("/proc/sys/vm/drop_caches")
        .and_then(|mut caches| caches.write_all(b"1"))
        .map_err(failed("cannot drop caches"))?;
    let mut found = vec![0; BLOCK];
    File::open(device).and_then(|mut from| from.read_exact(&mut found)).map_err(failed("cannot read"))?;
    if found == block { Ok(()) } else { Err("the disk does not hold what was written".to_owned()) }
}

/// Gives memory back to the hypervisor and takes it again.
fn balloon() -> Result<(), String> {
    let text = fs::read_to_string(TARGET).map_err(|error| error.to_string())?;
    let before: u64 = text.trim().parse().map_err(|_| format!("{TARGET} says {text}"))?;
    for target in [before - BALLOON_KIB, before] {
        fs::write(TARGET, target.to_string()).map_err(|error| format!("cannot set {TARGET}: {error}"))?;
        thread::sleep(Duration::from_millis(700));
    }
    Ok(())
}
