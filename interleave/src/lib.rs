//! Atomics for tests, under a scheduler that chooses at each use which thread goes on.
//!
//! [`race`] runs some pieces of code as threads of which one at a time goes on; before each atomic operation another may.
//! [`explore`] repeats that with many different choices, the same ones in each run of the test. Shuttle makes the choices.
//!
//! Memory is ordered as x86 orders it, and no better: a store that is not sequentially consistent waits in its thread's
//! store buffer for a while, where only that thread sees it, until that thread's next locked operation, store in
//! sequential consistency or fence at the latest. Loads are not reordered, nor are stores among each other; what a compiler
//! may reorder beyond that is not shown.
//!
//! Outside of [`race`] the atomics are plain ones. A thread that waits for another calls [`wait`] in its loop.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};

use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, MaxSteps, Runner, current, thread};

use stretches::Stretches;

pub mod lock;
mod stretches;

/// Stores that a thread's buffer holds.
const BUFFERED: usize = 6;
/// Steps after which a race does not end. Only loops that wait for ever take that many.
const STEPS_MAX: usize = 200_000;
/// Places where a third of the schedules changes the order of the threads.
const CHANGES: usize = 3;
/// Interleavings of each test.
const TIMES: usize = 240;
/// Where the choices begin.
const SEED: u64 = 1;

/// A store that other threads do not see yet.
struct Store {
    thread: usize,
    at: usize,
    value: u64,
}

/// All stores on their way to memory. Which word they go to is known by its address only, so a store that leaves a buffer
/// is carried out by whoever uses the word next.
#[derive(Default)]
struct Memory {
    /// In the order in which they were made.
    buffers: VecDeque<Store>,
    /// Left their buffers, newer than the words themselves.
    arrived: HashMap<usize, u64>,
}

impl Memory {
    /// The oldest store of a thread leaves its buffer. Returns whether there was one.
    fn retire(&mut self, thread: usize) -> bool {
        let Some(at) = self.buffers.iter().position(|store| store.thread == thread) else { return false };
        if let Some(store) = self.buffers.remove(at) {
            ARRIVED.set(true);
            self.arrived.insert(store.at, store.value);
        }
        true
    }

    fn drain(&mut self, thread: usize) {
        while self.retire(thread) {}
    }

    fn buffer(&mut self, store: Store) {
        let thread = store.thread;
        if self.buffers.iter().filter(|other| other.thread == thread).count() >= BUFFERED {
            self.retire(thread);
        }
        self.buffers.push_back(store);
    }

    /// The word at an address is no more.
    fn forget(&mut self, at: usize) {
        self.buffers.retain(|store| store.at != at);
        self.arrived.remove(&at);
    }

    /// What a thread sees at an address, if that is not what is there.
    fn own(&self, thread: usize, at: usize) -> Option<u64> {
        self.buffers.iter().rev().find(|store| store.thread == thread && store.at == at).map(|store| store.value)
    }
}

thread_local! {
    // Shuttle runs all threads of a race on one thread of the system.
    static RACING: Cell<bool> = const { Cell::new(false) };
    /// Some store has left its buffer and is not in its word yet.
    static ARRIVED: Cell<bool> = const { Cell::new(false) };
    static MEMORY: RefCell<Memory> = RefCell::default();
}

fn racing() -> bool {
    RACING.get()
}

fn me() -> usize {
    usize::from(current::me())
}

fn with<R>(f: impl FnOnce(&mut Memory) -> R) -> R {
    MEMORY.with_borrow_mut(f)
}

/// Another thread may go on here.
pub fn step() {
    if racing() {
        // A load that is nobody's: a point of choice that is not taken for waiting.
        STEP.with(|step| step.load(std::sync::atomic::Ordering::Relaxed));
        let chance = thread_rng().gen_range(0..6usize);
        with(|memory| {
            if chance == 0
                && let Some(thread) = memory.buffers.front().map(|store| store.thread)
            {
                memory.retire(thread);
            }
        });
    }
}

shuttle::thread_local! {
    /// Which part of the race this thread is.
    static PART: Cell<usize> = Cell::new(0);
}

/// Which of the parts of [`race`] calls this, counted from 0; outside of a race it is 0.
#[must_use]
pub fn part() -> usize {
    if racing() { PART.with(Cell::get) } else { 0 }
}

thread_local! {
    static STEP: shuttle::sync::atomic::AtomicBool = const { shuttle::sync::atomic::AtomicBool::new(false) };
}

/// A lock is about to be released: stores before that are seen by who takes it next.
pub fn release() {
    if racing() {
        with(|memory| memory.drain(me()));
    }
}

/// Other threads have to go on first.
pub fn wait() {
    if racing() {
        release();
        thread::yield_now();
    }
}

/// Runs these at the same time, to the end of all.
pub fn race(parts: Vec<Box<dyn FnOnce() + Send + '_>>) {
    RACING.set(true);
    thread::scope(|scope| {
        for (number, part) in parts.into_iter().enumerate() {
            scope.spawn(move || {
                PART.with(|this| this.set(number));
                part();
                release();
            });
        }
    });
    RACING.set(false);
}

/// Performs a test, which has a [`race`] in it, with many different choices: so many as the environment's
/// `RADON_INTERLEAVINGS` says, or a few that take a second.
pub fn explore(test: fn()) {
    explore_more(1, test);
}

/// As [`explore`], with so many times more choices, for what is found seldom.
pub fn explore_more(factor: usize, test: fn()) {
    let times = std::env::var("RADON_INTERLEAVINGS").ok().and_then(|times| times.parse().ok()).unwrap_or(TIMES);
    let third = times.saturating_mul(factor) / 3;
    // One third chooses at random at each step. Another has priorities that change a few times, which finds what needs one
    // thread to stand still for long. The last lets threads go on for stretches.
    run(RandomScheduler::new_from_seed(SEED, third), test);
    run(PctScheduler::new_from_seed(SEED, CHANGES.saturating_add(1), third), test);
    run(Stretches::new(SEED, third), test);
}

fn run(scheduler: impl Scheduler + 'static, test: fn()) {
    let mut config = Config::new();
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config.failure_persistence = shuttle::FailurePersistence::None;
    Runner::new(scheduler, config).run(move || {
        // Words of the last time are gone, and their addresses may be others' now.
        with(|memory| *memory = Memory::default());
        RACING.set(false);
        ARRIVED.set(false);
        test();
    });
}

#[allow(clippy::cast_lossless, reason = "one macro for all widths")]
/// The atomic types, named as those of `core::sync::atomic`.
pub mod atomic {
    use super::{ARRIVED, Store, me, racing, step, with};
    pub use std::sync::atomic::Ordering;

    const FULL: Ordering = Ordering::SeqCst;

    /// A fence. Only one in sequential consistency does anything on x86.
    pub fn fence(order: Ordering) {
        step();
        if racing() && order == FULL {
            with(|memory| memory.drain(me()));
        }
    }

    macro_rules! atomic {
        ($name:ident, $inner:ident, $value:ty, $to:expr, $from:expr) => {
            /// An atomic of this type.
            #[derive(Default, Debug)]
            #[repr(transparent)]
            pub struct $name(std::sync::atomic::$inner);

            #[allow(missing_docs, reason = "as in the standard library")]
            impl $name {
                pub const fn new(value: $value) -> Self {
                    $name(std::sync::atomic::$inner::new(value))
                }

                fn at(&self) -> usize {
                    std::ptr::from_ref(self).addr()
                }

                /// Stores that left their buffers get here.
                fn arrive(&self) {
                    if ARRIVED.get()
                        && let Some(value) = with(|memory| memory.arrived.remove(&self.at()))
                    {
                        self.0.store($from(value), FULL);
                    }
                }

                /// The word for a locked operation.
                fn locked(&self) -> &std::sync::atomic::$inner {
                    step();
                    if racing() {
                        with(|memory| memory.drain(me()));
                    }
                    self.arrive();
                    &self.0
                }

                pub fn load(&self, _: Ordering) -> $value {
                    step();
                    if racing()
                        && let Some(value) = with(|memory| memory.own(me(), self.at()))
                    {
                        return $from(value);
                    }
                    self.arrive();
                    self.0.load(FULL)
                }

                pub fn store(&self, value: $value, order: Ordering) {
                    if !racing() || order == FULL {
                        self.locked().store(value, FULL);
                        return;
                    }
                    step();
                    with(|memory| memory.buffer(Store { thread: me(), at: self.at(), value: $to(value) }));
                }

                pub fn swap(&self, value: $value, _: Ordering) -> $value {
                    self.locked().swap(value, FULL)
                }

                pub fn compare_exchange(
                    &self,
                    old: $value,
                    new: $value,
                    _: Ordering,
                    _: Ordering,
                ) -> Result<$value, $value> {
                    self.locked().compare_exchange(old, new, FULL, FULL)
                }

                pub fn compare_exchange_weak(
                    &self,
                    old: $value,
                    new: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.compare_exchange(old, new, success, failure)
                }

                pub fn fetch_update(
                    &self,
                    success: Ordering,
                    failure: Ordering,
                    mut f: impl FnMut($value) -> Option<$value>,
                ) -> Result<$value, $value> {
                    // A load and an exchange, as on a processor: the word may change in between.
                    let mut old = self.load(failure);
                    while let Some(new) = f(old) {
                        match self.compare_exchange(old, new, success, failure) {
                            Ok(old) => return Ok(old),
                            Err(found) => old = found,
                        }
                    }
                    Err(old)
                }

                pub fn get_mut(&mut self) -> &mut $value {
                    self.arrive();
                    self.0.get_mut()
                }
            }

            impl Drop for $name {
                fn drop(&mut self) {
                    // Another word may take its place in the same race.
                    if racing() {
                        with(|memory| memory.forget(self.at()));
                    }
                }
            }
        };
    }

    macro_rules! number {
        ($name:ident, $value:ty) => {
            atomic!($name, $name, $value, |value: $value| value as u64, |value: u64| value as $value);

            #[allow(missing_docs, reason = "as in the standard library")]
            impl $name {
                pub fn fetch_add(&self, by: $value, _: Ordering) -> $value {
                    self.locked().fetch_add(by, FULL)
                }
                pub fn fetch_sub(&self, by: $value, _: Ordering) -> $value {
                    self.locked().fetch_sub(by, FULL)
                }
                pub fn fetch_or(&self, bits: $value, _: Ordering) -> $value {
                    self.locked().fetch_or(bits, FULL)
                }
                pub fn fetch_and(&self, bits: $value, _: Ordering) -> $value {
                    self.locked().fetch_and(bits, FULL)
                }
                pub fn fetch_max(&self, other: $value, _: Ordering) -> $value {
                    self.locked().fetch_max(other, FULL)
                }
                pub fn fetch_min(&self, other: $value, _: Ordering) -> $value {
                    self.locked().fetch_min(other, FULL)
                }
            }
        };
    }

    atomic!(AtomicBool, AtomicBool, bool, |value: bool| u64::from(value), |value: u64| value != 0);
    number!(AtomicU8, u8);
    number!(AtomicU16, u16);
    number!(AtomicU32, u32);
    number!(AtomicU64, u64);
    number!(AtomicUsize, usize);
    number!(AtomicI64, i64);
}
