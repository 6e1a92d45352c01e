//! How long a vCPU has been in which run state.
//!
//! The times always add up to the time since the vCPU was made: each change of state closes one interval and opens the
//! next at the same instant.

use radon_abi::vcpu::RunstateInfo;

use crate::types::Nanoseconds;

/// What a vCPU is doing, as `RUNSTATE_*` of the ABI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum State {
    /// Runs on a CPU.
    Running = radon_abi::vcpu::RUNSTATE_RUNNING,
    /// Could run; waits for a CPU.
    Runnable = radon_abi::vcpu::RUNSTATE_RUNNABLE,
    /// Waits for an event.
    Blocked = radon_abi::vcpu::RUNSTATE_BLOCKED,
    /// May not run.
    Offline = radon_abi::vcpu::RUNSTATE_OFFLINE,
}

/// A vCPU's run state and its history in sums.
#[derive(Clone, Copy, Debug)]
pub struct Runstate {
    state: State,
    since: Nanoseconds,
    times: [Nanoseconds; 4],
}

impl Runstate {
    /// Offline since `now`.
    #[must_use]
    pub const fn new(now: Nanoseconds) -> Runstate {
        Runstate { state: State::Offline, since: now, times: [Nanoseconds(0); 4] }
    }

    /// What it is doing now.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Since when it is in this state.
    #[must_use]
    pub const fn since(&self) -> Nanoseconds {
        self.since
    }

    /// Changes the state at `now`. Staying in the same state does nothing.
    pub fn change(&mut self, state: State, now: Nanoseconds) {
        if state == self.state {
            return;
        }
        self.close(now);
        self.state = state;
    }

    fn close(&mut self, now: Nanoseconds) {
        // CPUs may read the clock in one order and arrive here in the other, by some nanoseconds.
        let now = now.max(self.since);
        if let Some(time) = self.times.get_mut(self.state as usize) {
            *time = time.saturating_add(now.saturating_sub(self.since));
        }
        self.since = now;
    }

    /// The ABI's form, with the open interval counted up to `now`.
    #[must_use]
    pub fn info(mut self, now: Nanoseconds) -> RunstateInfo {
        let state_entry_time = self.since.0;
        self.close(now);
        RunstateInfo { state: self.state as u32, _pad: 0, state_entry_time, time: self.times.map(|t| t.0) }
    }

    /// The ABI's form as of the last change: what a registered area shows.
    #[must_use]
    pub fn snapshot(&self) -> RunstateInfo {
        self.info(self.since)
    }

    /// Time spent running up to `now`.
    #[must_use]
    pub fn running(&self, now: Nanoseconds) -> Nanoseconds {
        let [running, ..] = self.info(now).time;
        Nanoseconds(running)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_add_up(steps in proptest::collection::vec((0u32..4, 0u64..1_000_000), 0..50)) {
            let start = 77;
            let mut run = Runstate::new(Nanoseconds(start));
            let mut now = start;
            let mut model = [0u64; 4];
            let mut state = State::Offline;
            for (next, dt) in steps {
                now += dt;
                model[state as usize] += dt;
                state = [State::Running, State::Runnable, State::Blocked, State::Offline][next as usize];
                run.change(state, Nanoseconds(now));
            }
            let info = run.info(Nanoseconds(now));
            prop_assert_eq!(info.time, model);
            prop_assert_eq!(info.time.iter().sum::<u64>(), now - start);
            prop_assert_eq!(info.state, state as u32);
        }
    }

    #[test]
    fn a_clock_read_out_of_order_does_no_harm() {
        let mut run = Runstate::new(Nanoseconds(100));
        run.change(State::Running, Nanoseconds(90));
        run.change(State::Blocked, Nanoseconds(150));
        assert_eq!(run.info(Nanoseconds(200)).time, [50, 0, 50, 0]);
        assert_eq!(run.snapshot().state_entry_time, 150);
    }
}
