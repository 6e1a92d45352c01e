//! Which operations were reached, and with what success.

use std::fmt::Write as _;

use radon_core::hypercall::{Coverage as Stated, HYPERCALLS};

const CALLS: usize = 64;
const OPERATIONS: usize = 128;

/// Counts of calls by hypercall and operation.
#[derive(Clone)]
pub struct Coverage {
    /// Successes and failures.
    counts: Vec<[u64; 2]>,
    /// Steps of all kinds.
    pub steps: u64,
    /// Hypercalls.
    pub calls: u64,
    /// Accesses to memory.
    pub accesses: u64,
    /// Domains that were made.
    pub domains: u64,
    /// Calls that were checked to change nothing if they fail, those that failed, and allocations refused.
    pub checked: [u64; 3],
    /// Full audits.
    pub audits: u64,
    /// Runs that ended early, since the machine was switched off or restarted.
    pub stopped: u64,
}

impl Default for Coverage {
    fn default() -> Self {
        let counts = vec![[0; 2]; CALLS * OPERATIONS];
        Coverage { counts, steps: 0, calls: 0, accesses: 0, domains: 0, checked: [0; 3], audits: 0, stopped: 0 }
    }
}

fn slot(call: u32, operation: u32) -> usize {
    (call as usize % CALLS) * OPERATIONS + operation as usize % OPERATIONS
}

impl Coverage {
    /// Notes a call.
    pub fn note(&mut self, call: u32, operation: u32, failed: bool) {
        self.counts[slot(call, operation)][usize::from(failed)] += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Coverage) {
        for (a, b) in self.counts.iter_mut().zip(&other.counts) {
            a[0] += b[0];
            a[1] += b[1];
        }
        self.steps += other.steps;
        self.calls += other.calls;
        self.accesses += other.accesses;
        self.domains += other.domains;
        self.audits += other.audits;
        self.stopped += other.stopped;
        for (a, b) in self.checked.iter_mut().zip(other.checked) {
            *a += b;
        }
    }

    /// What was reached: numbers, and the names of what was not.
    #[must_use]
    pub fn report(&self, all: bool) -> String {
        let (mut success, mut failure, mut never, mut refused) = (0, Vec::new(), Vec::new(), 0);
        let mut table = String::new();
        for call in HYPERCALLS {
            let operations: Vec<(u32, &str, bool)> = if call.operations.is_empty() {
                vec![(0, call.name, false)]
            } else {
                let refused = |c| matches!(c, Stated::Refused(_));
                call.operations.iter().map(|o| (o.number, o.name, refused(o.coverage))).collect()
            };
            for (number, name, is_refused) in operations {
                let [ok, failed] = self.counts[slot(call.number, number)];
                let _ = writeln!(table, "{:17} {name:38} {ok:>10} {failed:>10}", call.name);
                match (ok, failed, is_refused) {
                    (_, _, true) => refused += 1,
                    (0, 0, _) => never.push(format!("{} {name}", call.name)),
                    (0, ..) => failure.push(format!("{} {name}", call.name)),
                    _ => success += 1,
                }
            }
        }
        let mut text = format!(
            "operations: {success} reached with success, {} only with errors, {} never; {refused} are always refused\n",
            failure.len(),
            never.len()
        );
        if !failure.is_empty() {
            let _ = writeln!(text, "only with errors: {}", failure.join(", "));
        }
        if !never.is_empty() {
            let _ = writeln!(text, "never: {}", never.join(", "));
        }
        if all {
            text.push_str(&table);
        }
        text
    }
}
