//! Runs of a seed: to their end or the first failure, and the search for a short one that still fails.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};

use crate::config::Config;
use crate::coverage::Coverage;
use crate::machine::Stopped;
use crate::shared;
use crate::world::World;

/// How a run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Steps, before all guests are destroyed.
    pub steps: u64,
    /// Steps between two audits.
    pub audit_every: u64,
    /// From this step on there is an audit after each.
    pub audit_all_from: u64,
    /// Whether to note each step.
    pub trace: bool,
    /// Whether all guests are destroyed at the end.
    pub finish: bool,
    /// Steps that are left out.
    pub skip: Vec<bool>,
}

impl Plan {
    /// A whole run of a seed.
    #[must_use]
    pub fn new(seed: u64, steps: u64) -> Plan {
        let audit_all_from = u64::MAX;
        Plan { seed, steps, audit_every: 8192, audit_all_from, trace: false, finish: true, skip: Vec::new() }
    }
}

/// How a run ended.
pub struct Outcome {
    /// What was wrong, and after which step.
    pub failure: Option<(u64, String)>,
    /// What was reached.
    pub coverage: Coverage,
    /// The steps, if they were noted.
    pub trace: Vec<String>,
    /// The step of the last audit that found everything in order.
    pub sound_at: u64,
}

thread_local! {
    static STEP: Cell<u64> = const { Cell::new(0) };
    static SOUND: Cell<u64> = const { Cell::new(0) };
    /// The last panic's text and the errors that the hypervisor logged.
    static ERROR: RefCell<Option<String>> = const { RefCell::new(None) };
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        if record.level() > log::Level::Error {
            return;
        }
        let text = record.args().to_string();
        // A guest's own end, and what its registers were.
        if text.contains(" crashed: ") || text.starts_with("  ") || text.contains("runs now") {
            return;
        }
        ERROR.with_borrow_mut(|e| e.get_or_insert(format!("the hypervisor reports: {text}")).len());
    }
    fn flush(&self) {}
}

/// Prepares the process: once.
pub fn prepare() {
    static LOG: Log = Log;
    if log::set_logger(&LOG).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
    crate::order::check();
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if info.payload().is::<Stopped>() {
            return;
        }
        let text = info.payload_as_str().unwrap_or("a panic");
        let place = info.location().map_or(String::new(), |l| format!(" at {}:{}", l.file(), l.line()));
        ERROR.with_borrow_mut(|e| *e = Some(format!("panic{place}: {text}")));
        if std::env::var_os("RUST_BACKTRACE").is_some() {
            default(info);
        }
    }));
}

fn steps(plan: &Plan, world: &mut World) -> Result<(), String> {
    for step in 0..plan.steps {
        if plan.skip.get(step as usize) == Some(&true) {
            continue;
        }
        STEP.set(step);
        world.step(step)?;
        if let Some(error) = ERROR.take() {
            return Err(error);
        }
        if (step + 1).is_multiple_of(plan.audit_every) || step >= plan.audit_all_from {
            world.audit()?;
            SOUND.set(step);
        }
    }
    world.audit()?;
    SOUND.set(plan.steps);
    if plan.finish {
        STEP.set(plan.steps);
        world.check_shares()?;
        world.finish(plan.steps)?;
        if let Some(error) = ERROR.take() {
            return Err(error);
        }
    }
    Ok(())
}

/// Carries a plan out.
#[must_use]
pub fn run(plan: &Plan) -> Outcome {
    let config = Config::new(plan.seed);
    STEP.set(0);
    SOUND.set(0);
    ERROR.set(None);
    let mut world = match World::new(&config) {
        Ok(world) => world,
        Err(text) => {
            let failure = Some((0, text));
            return Outcome { failure, coverage: Coverage::default(), trace: Vec::new(), sound_at: 0 };
        }
    };
    world.trace = plan.trace.then(|| vec![format!("{config:?}")]);
    let caught = panic::catch_unwind(AssertUnwindSafe(|| steps(plan, &mut world)));
    let failure = match caught {
        Ok(Ok(())) => None,
        Ok(Err(text)) => Some(text),
        // The machine was switched off: a run may end so.
        Err(payload) if payload.is::<Stopped>() => {
            let how = payload.downcast_ref::<Stopped>().map(|s| s.0);
            world.coverage.stopped += 1;
            if let Some(trace) = &mut world.trace {
                trace.push(format!("the machine was stopped: {how:?}"));
            }
            None
        }
        Err(_) => Some(ERROR.take().unwrap_or_else(|| "a panic".into())),
    };
    let broken = failure.is_some();
    let mut trace = world.trace.take().unwrap_or_default();
    if plan.trace && failure.is_some() {
        let mut text = String::new();
        let _ = shared_dump(&mut text);
        trace.extend(text.lines().map(str::to_owned));
    }
    let coverage = std::mem::take(&mut world.coverage);
    shared::end();
    if broken {
        // What is broken may not even come down in order.
        std::mem::forget(world);
    }
    Outcome { failure: failure.map(|text| (STEP.get(), text)), coverage, trace, sound_at: SOUND.get() }
}

/// The scheduler's view of things, as the debug key shows it.
fn shared_dump(out: &mut String) -> std::fmt::Result {
    shared::with(|shared| shared.hv().scheduler.dump(shared.hv(), out)).unwrap_or(Ok(()))
}

/// What kind of failure a text says: without its numbers.
fn kind(text: &str) -> String {
    text.split([':', ';']).next().unwrap_or_default().chars().filter(|c| !c.is_ascii_hexdigit()).collect()
}

/// Narrows a failure down: the first step after which it shows, with an audit after each from the last sound one on.
#[must_use]
pub fn locate(plan: &Plan, outcome: &Outcome) -> (u64, String) {
    let exact = run(&Plan { audit_all_from: outcome.sound_at, ..plan.clone() });
    exact.failure.unwrap_or_else(|| outcome.failure.clone().unwrap_or_default())
}

/// Leaves out steps as long as the run still fails in the same way. Returns the plan, with the trace of its run, and the
/// failure.
#[must_use]
pub fn minimise(plan: &Plan, at: u64, failure: &str, tell: &mut dyn FnMut(usize)) -> (Plan, Outcome) {
    let wanted = kind(failure);
    let mut best = plan.clone();
    let in_steps = at < plan.steps;
    if in_steps {
        best.steps = at + 1;
        best.finish = false;
    }
    best.skip = vec![false; best.steps as usize];
    let fails = |candidate: &Plan| {
        let outcome = run(candidate);
        outcome.failure.as_ref().is_some_and(|(_, text)| kind(text) == wanted)
    };
    // An audit after the last step is enough to see it.
    best.audit_all_from = u64::MAX;
    best.audit_every = u64::MAX;
    let mut chunk = (best.steps as usize / 2).max(1);
    loop {
        let mut start = 0;
        while start < best.skip.len() {
            let end = (start + chunk).min(best.skip.len());
            if best.skip[start..end].iter().any(|s| !s) {
                let mut candidate = best.clone();
                candidate.skip[start..end].fill(true);
                if fails(&candidate) {
                    best = candidate;
                    tell(best.skip.iter().filter(|s| !**s).count());
                }
            }
            start = end;
        }
        if chunk == 1 {
            break;
        }
        chunk = (chunk / 2).max(1);
    }
    best.trace = true;
    let outcome = run(&best);
    (best, outcome)
}
