//! Wake-ups, and how late they come: timed sleeps on each CPU, and pairs of threads on different CPUs that wake each
//! other through pipes and futexes.
//!
//! A wake-up that is lost shows as one that comes late, since sooner or later something else makes the CPU look again.
//! While others run that is so soon that it cannot be told from a slow host. So there are quiet times as well, in which
//! one measuring thread runs alone, each in its turn: then nothing else wakes the CPU for seconds.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::system;

/// What all measuring threads share.
pub(crate) struct Watch {
    phase: Mutex<Phase>,
    changed: Condvar,
    /// It is quiet.
    quiet: AtomicBool,
    /// All threads are to end.
    stop: AtomicBool,
    /// From here on a wake-up counts as late.
    pub(crate) bound: Duration,
    meters: Mutex<Vec<Arc<Meter>>>,
}

/// Who measures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// All threads.
    All,
    /// One of them.
    Only(usize),
    /// None any more.
    End,
}

/// The measurements of one thread.
pub(crate) struct Meter {
    name: String,
    number: usize,
    count: AtomicU64,
    late: AtomicU64,
    /// In microseconds, in quiet times and in others.
    worst: [AtomicU64; 2],
    sum: AtomicU64,
    /// When the wake-up that is waited for should come, in milliseconds of the monotonic clock; 0 while none is.
    due: AtomicU64,
}

impl Watch {
    pub(crate) fn new(bound: Duration) -> Watch {
        Watch {
            phase: Mutex::new(Phase::All),
            changed: Condvar::new(),
            quiet: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            bound,
            meters: Mutex::new(Vec::new()),
        }
    }

    fn meter(&self, name: String) -> Arc<Meter> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let meter = Arc::new(Meter {
            name,
            number: meters.len(),
            count: AtomicU64::new(0),
            late: AtomicU64::new(0),
            worst: [AtomicU64::new(0), AtomicU64::new(0)],
            sum: AtomicU64::new(0),
            due: AtomicU64::new(0),
        });
        meters.push(meter.clone());
        meter
    }

    /// All threads measure, among load.
    pub(crate) fn load(&self) {
        self.set(Phase::All);
    }

    /// One thread measures alone; `round` says which.
    pub(crate) fn quiet(&self, round: u64) {
        let count = self.meters.lock().unwrap_or_else(PoisonError::into_inner).len().max(1);
        self.set(Phase::Only(round as usize % count));
    }

    /// All threads end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.set(Phase::End);
    }

    fn set(&self, phase: Phase) {
        let mut now = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != phase {
            *now = phase;
            self.quiet.store(matches!(phase, Phase::Only(_)), Ordering::Relaxed);
            self.changed.notify_all();
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A pause between two measurements: short while there is load, else long enough for CPUs to go to sleep. Returns
    /// only when it is this thread's turn.
    fn pause(&self, meter: &Meter, random: &mut u64) -> Duration {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let others = |now: &mut Phase| matches!(*now, Phase::Only(number) if number != meter.number);
        drop(self.changed.wait_while(phase, others));
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let part = *random >> 33;
        let milliseconds = if self.quiet.load(Ordering::Relaxed) { 50 + part % 400 } else { 1 + part % 20 };
        Duration::from_millis(milliseconds)
    }

    /// Whether a thread has waited for so long that it may wait for ever; says which.
    pub(crate) fn hung(&self, after: Duration) -> Option<String> {
        let now = system::monotonic().as_millis() as u64;
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let hung = meters.iter().find(|meter| {
            let due = meter.due.load(Ordering::Relaxed);
            due != 0 && now.saturating_sub(due) > after.as_millis() as u64
        });
        hung.map(|meter| format!("{} has not been woken for {} s", meter.name, after.as_secs()))
    }

    /// Number of wake-ups, of late ones, and the worst delay in milliseconds with load and in quiet times.
    pub(crate) fn totals(&self) -> (u64, u64, u64, u64) {
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let sum =
            |field: fn(&Meter) -> &AtomicU64| meters.iter().map(|m| field(m).load(Ordering::Relaxed)).sum::<u64>();
        let worst = |at: usize| meters.iter().map(|m| m.worst[at].load(Ordering::Relaxed)).max().unwrap_or(0) / 1000;
        (sum(|m| &m.count), sum(|m| &m.late), worst(0), worst(1))
    }

    /// One line for each thread.
    pub(crate) fn report(&self) {
        for meter in self.meters.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let count = meter.count.load(Ordering::Relaxed);
            println!(
                "SOAK {:<16} {count:>7} wake-ups, mean {:>6} us, worst {:>5} ms with load, {:>5} ms without, {} late",
                meter.name,
                meter.sum.load(Ordering::Relaxed) / count.max(1),
                meter.worst[0].load(Ordering::Relaxed) / 1000,
                meter.worst[1].load(Ordering::Relaxed) / 1000,
                meter.late.load(Ordering::Relaxed)
            );
        }
    }
}

impl Meter {
    /// Waits with `wait`, which should return after `time`, and notes how late it was.
    fn measure(&self, watch: &Watch, time: Duration, wait: impl FnOnce()) {
        let quiet = watch.quiet.load(Ordering::Relaxed);
        let (start, began) = (Instant::now(), system::monotonic());
        self.due.store((began + time).as_millis() as u64, Ordering::Relaxed);
        wait();
        self.due.store(0, Ordering::Relaxed);
        let delay = start.elapsed().saturating_sub(time);
        let microseconds = delay.as_micros() as u64;
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(microseconds, Ordering::Relaxed);
        // One that began in one kind of time and ended in the other says nothing about either.
        if quiet == watch.quiet.load(Ordering::Relaxed) {
            self.worst[usize::from(quiet)].fetch_max(microseconds, Ordering::Relaxed);
        }
        if delay > watch.bound {
            self.late.fetch_add(1, Ordering::Relaxed);
            println!("SOAK late: {} was woken {} ms late, at {:?}", self.name, delay.as_millis(), began + time + delay);
        }
    }
}

/// Starts all measuring threads.
pub(crate) fn start(watch: &Arc<Watch>) -> Result<(), String> {
    let cpus = system::cpus();
    for cpu in 0..cpus {
        sleeper(watch.clone(), cpu);
        let other = (cpu + 1) % cpus;
        pipes(watch.clone(), cpu, other)?;
        futexes(watch.clone(), cpu, other);
    }
    Ok(())
}

/// Sleeps again and again.
fn sleeper(watch: Arc<Watch>, cpu: usize) {
    let meter = watch.meter(format!("timer-{cpu}"));
    thread::spawn(move || {
        system::pin(cpu);
        let mut random = cpu as u64 + 1;
        while !watch.stopped() {
            let time = watch.pause(&meter, &mut random);
            meter.measure(&watch, time, || thread::sleep(time));
        }
    });
}

/// Sends a byte to a thread on another CPU, which sends it back.
fn pipes(watch: Arc<Watch>, here: usize, there: usize) -> Result<(), String> {
    let meter = watch.meter(format!("pipe-{here}-{there}"));
    let (mut request_out, mut request_in) = system::pipe()?;
    let (mut answer_out, mut answer_in) = system::pipe()?;
    thread::spawn(move || {
        system::pin(there);
        let mut byte = [0];
        // Ends when the other thread does and so closes its end.
        while request_out.read_exact(&mut byte).is_ok() && answer_in.write_all(&byte).is_ok() {}
    });
    thread::spawn(move || {
        system::pin(here);
        let mut random = here as u64 + 100;
        while !watch.stopped() {
            thread::sleep(watch.pause(&meter, &mut random));
            meter.measure(&watch, Duration::ZERO, || {
                let _ = request_in.write_all(&[1]).and_then(|()| answer_out.read_exact(&mut [0]));
            });
        }
    });
    Ok(())
}

/// The same through a lock and a condition, which are futexes.
fn futexes(watch: Arc<Watch>, here: usize, there: usize) {
    let meter = watch.meter(format!("futex-{here}-{there}"));
    // Whose turn it is: 0 the asking thread's, 1 the answering one's, 2 nobody's any more.
    let turn = Arc::new((Mutex::new(0), Condvar::new()));
    let wait_for = |turn: &(Mutex<i32>, Condvar), mine: i32| {
        let held = turn.0.lock().unwrap_or_else(PoisonError::into_inner);
        *turn.1.wait_while(held, |now| *now != mine && *now != 2).unwrap_or_else(PoisonError::into_inner)
    };
    let pass = |turn: &(Mutex<i32>, Condvar), to: i32| {
        *turn.0.lock().unwrap_or_else(PoisonError::into_inner) = to;
        turn.1.notify_all();
    };
    let shared = turn.clone();
    thread::spawn(move || {
        system::pin(there);
        while wait_for(&shared, 1) != 2 {
            pass(&shared, 0);
        }
    });
    thread::spawn(move || {
        system::pin(here);
        let mut random = here as u64 + 200;
        while !watch.stopped() {
            thread::sleep(watch.pause(&meter, &mut random));
            meter.measure(&watch, Duration::ZERO, || {
                pass(&turn, 1);
                wait_for(&turn, 0);
            });
        }
        pass(&turn, 2);
    });
}
