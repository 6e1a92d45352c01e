//! Choices that let a thread go on for a stretch, long or short, before another goes on.
//!
//! Between those of a scheduler that chooses anew at each step and those of one that changes priorities at few places: what
//! needs two or three threads to stand still at certain places, one after the other, is found soonest this way.

use shuttle::scheduler::{DataSource, RandomDataSource, Schedule, Scheduler, Task, TaskId};

/// In each interleaving a stretch ends at a step with a chance of one in one of these.
const LENGTHS: [u64; 4] = [4, 12, 36, 108];

/// The scheduler.
pub(crate) struct Stretches {
    left: usize,
    length: u64,
    state: u64,
    data: RandomDataSource,
}

impl Stretches {
    /// For so many interleavings.
    pub(crate) fn new(seed: u64, times: usize) -> Stretches {
        Stretches { left: times, length: 1, state: seed, data: RandomDataSource::initialize(seed) }
    }

    /// A number below `limit`, which is not 0 (SplitMix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(limit).unwrap_or(0)
    }
}

impl Scheduler for Stretches {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.left = self.left.checked_sub(1)?;
        let nth = self.below(LENGTHS.len() as u64);
        self.length = LENGTHS.get(nth as usize).copied().unwrap_or(1);
        Some(Schedule::new(self.data.reinitialize()))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, is_yielding: bool) -> Option<TaskId> {
        let ids = runnable.iter().map(|task| task.id());
        let same = ids.clone().find(|&id| Some(id) == current);
        if same.is_some() && !is_yielding && self.below(self.length) != 0 {
            return same;
        }
        let others = ids.filter(|&id| Some(id) != same);
        let nth = self.below((others.clone().count() as u64).max(1));
        others.clone().nth(nth as usize).or(same)
    }

    fn next_u64(&mut self) -> u64 {
        self.data.next_u64()
    }
}
