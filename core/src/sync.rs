//! Locks, and the atomics that all of core uses.
//!
//! Radon runs to completion with interrupts off: a hypercall or exit handler is never preempted on its CPU, so one kind
//! of lock suffices. Locks are short-held ticket locks (fair, so no CPU starves).
//!
//! Lock order: every lock carries a [`Rank`]; a CPU may take a lock only of a higher rank than all it holds. The order
//! is the order of the variants of [`Rank`]. Builds with debug assertions check it at each acquisition through the
//! hook of [`set_order_checker`]; release builds pay nothing.
//!
//! This is the only place that knows of the feature `interleave`, with which tests choose at each atomic operation and each
//! lock which thread goes on.

use core::ops::{Deref, DerefMut};
use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::once::Once;

/// Atomic types and fences.
pub mod atomic {
    #[cfg(not(feature = "interleave"))]
    pub use core::sync::atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
    #[cfg(feature = "interleave")]
    pub use radon_interleave::atomic::{
        AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

#[cfg(feature = "interleave")]
pub(crate) use radon_interleave::lock::{RwLock, RwLockReadGuard};
/// A lock for many readers or one writer. It has no rank, so nobody may wait to hold it for writing.
#[cfg(not(feature = "interleave"))]
pub(crate) use spin::{RwLock, RwLockReadGuard};

/// Where tests choose which thread goes on: others have to before this one can.
pub(crate) fn let_others_go_on() {
    #[cfg(feature = "interleave")]
    radon_interleave::wait();
}

/// Spins until a lock is free.
fn acquire<T: ?Sized>(lock: &TicketMutex<T>) -> TicketMutexGuard<'_, T> {
    // Where one thread at a time goes on, its holder has to be let.
    #[cfg(feature = "interleave")]
    {
        radon_interleave::step();
        while lock.is_locked() {
            let_others_go_on();
        }
    }
    lock.lock()
}

/// The order of all locks, outermost first. A lock may be taken while holding locks of lower rank only; two locks of
/// one rank are taken together only through [`lock_pair`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Rank {
    /// The registers and private devices of a vCPU: held by the CPU that runs it, and by control operations while it is
    /// paused (which take it with [`Lock::try_lock`] only, since they hold their own vCPU's).
    VcpuState,
    /// The list of domains.
    DomainList,
    /// One domain's control state (creation, destruction, pause).
    Domain,
    /// A domain's grant table.
    Grant,
    /// A domain's map of guest frames to machine frames.
    P2m,
    /// A domain's table of event channels: which ports are open, what they are bound to.
    EventChannel,
    /// One event channel's state: held while an event is sent through it.
    Channel,
    /// A vCPU's FIFO event queues.
    EventQueue,
    /// A domain's or vCPU's emulated devices.
    Device,
    /// A vCPU's own small state (timers, registered areas).
    Vcpu,
    /// Which CPUs and vCPUs belong together: a CPU pool, a scheduler's assignments.
    Pool,
    /// A run queue of the scheduler.
    RunQueue,
    /// A timer queue.
    Timer,
    /// The frame allocator.
    Frames,
    /// Console and trace buffers: may be taken anywhere.
    Console,
}

/// What checks the lock order in debug builds: told of every acquisition and release on the calling CPU.
pub trait OrderChecker: Sync {
    /// A lock of this rank is about to be taken; panics if that breaks the order.
    fn acquire(&self, rank: Rank);
    /// A lock of this rank was released.
    fn release(&self, rank: Rank);
}

static CHECKER: Once<&'static dyn OrderChecker> = Once::new();

/// Installs the checker, once, at start-up.
pub fn set_order_checker(checker: &'static dyn OrderChecker) {
    CHECKER.call_once(|| checker);
}

fn note_acquire(rank: Rank) {
    if cfg!(debug_assertions)
        && let Some(c) = CHECKER.get()
    {
        c.acquire(rank);
    }
}

fn note_release(rank: Rank) {
    if cfg!(debug_assertions)
        && let Some(c) = CHECKER.get()
    {
        c.release(rank);
    }
}

/// A fair spin lock around a `T`, with its place in the lock order.
#[derive(Debug)]
pub struct Lock<T: ?Sized> {
    rank: Rank,
    inner: TicketMutex<T>,
}

impl<T> Lock<T> {
    /// A lock of the given rank.
    pub const fn new(rank: Rank, value: T) -> Self {
        Lock { rank, inner: TicketMutex::new(value) }
    }
}

impl<T: ?Sized> Lock<T> {
    /// Takes the lock, spinning until it is free.
    pub fn lock(&self) -> Guard<'_, T> {
        note_acquire(self.rank);
        Guard { rank: self.rank, inner: acquire(&self.inner) }
    }

    /// Takes the lock if it is free now.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        let inner = self.inner.try_lock()?;
        note_acquire(self.rank);
        Some(Guard { rank: self.rank, inner })
    }
}

/// Takes two different locks of one rank in an order that all agree on (by address), so that two CPUs taking the same
/// pair cannot deadlock. Returns the guards in argument order; `None` for the second if both are the same lock.
pub fn lock_pair<'a, T>(a: &'a Lock<T>, b: &'a Lock<T>) -> (Guard<'a, T>, Option<Guard<'a, T>>) {
    let (pa, pb) = (core::ptr::from_ref(a) as usize, core::ptr::from_ref(b) as usize);
    if pa == pb {
        return (a.lock(), None);
    }
    let second = |l: &'a Lock<T>| Guard { rank: l.rank, inner: acquire(&l.inner) };
    if pa < pb {
        let ga = a.lock();
        (ga, Some(second(b)))
    } else {
        let gb = b.lock();
        (second(a), Some(gb))
    }
}

/// Access to a locked value; releases the lock when dropped.
#[derive(Debug)]
pub struct Guard<'a, T: ?Sized> {
    rank: Rank,
    inner: TicketMutexGuard<'a, T>,
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

impl<T: ?Sized> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // What was stored under the lock is seen by its next holder.
        #[cfg(feature = "interleave")]
        radon_interleave::release();
        note_release(self.rank);
    }
}
