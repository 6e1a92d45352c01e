//! What a seed decides once for a whole run.

use crate::machine::CPUS;
use crate::rng::Rng;

/// A run's machine.
#[derive(Clone, Debug)]
pub struct Config {
    /// The seed.
    pub seed: u64,
    /// CPUs.
    pub cpus: u32,
    /// Scheduler of Pool-0: credit2, or null.
    pub credit2: bool,
    /// dom0's vCPUs.
    pub dom0_vcpus: u32,
    /// dom0's RAM.
    pub dom0_frames: u64,
    /// dom0's RAM is mapped one to one.
    pub identity: bool,
    /// Most guests at a time.
    pub guests: usize,
    /// One of so many hypercalls is checked to change nothing if it fails.
    pub check_one_in: u64,
    /// Whether allocations are made to fail.
    pub inject: bool,
}

impl Config {
    /// What this seed says.
    #[must_use]
    pub fn new(seed: u64) -> Config {
        // Steps have numbers from 0 on; this is none of theirs.
        let mut rng = Rng::new(seed, u64::MAX);
        let cpus = 1 + rng.below(CPUS as u64) as u32;
        let credit2 = cpus < 2 || !rng.one_in(4);
        Config {
            seed,
            cpus,
            credit2,
            // Under the null scheduler a CPU has one vCPU; the others wait.
            dom0_vcpus: if credit2 { 1 + rng.below(2) as u32 } else { 1 },
            dom0_frames: 300 + rng.below(400),
            identity: rng.one_in(2),
            guests: if credit2 { 1 + rng.below(4) as usize } else { 1 },
            check_one_in: 1024,
            inject: !rng.one_in(4),
        }
    }
}
