//! How many frames each domain has and may have.
//!
//! Accounts are kept by domain number and outlive the domain: a frame stays on its owner's account until the last
//! reference is gone, even if the owner was destroyed before. A number may be given to a new domain only when its
//! account is empty ([`super::FrameAllocator::account`]). Lock-free, so frames can be returned under any lock.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::once::Once;

use crate::types::DomainId;

/// One domain's account. All numbers are frames.
#[derive(Default)]
pub struct Account {
    pages: AtomicU64,
    limit: AtomicU64,
    /// Frames promised to the domain and not yet allocated; changed under the allocator's lock.
    pub(super) claim: AtomicU64,
    /// Frames set aside for it, to be allocated as it needs them; changed under the allocator's lock.
    pub(super) reserve: AtomicU64,
}

impl Account {
    /// Frames that the domain owns, parked ones not counted.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Acquire)
    }

    /// Frames that it may own at most.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Acquire)
    }

    /// Sets what it may own at most. What it has beyond that it keeps.
    pub fn set_limit(&self, frames: u64) {
        self.limit.store(frames, Ordering::Release);
    }

    /// Frames promised to it by a claim.
    #[must_use]
    pub fn claimed(&self) -> u64 {
        self.claim.load(Ordering::Acquire)
    }

    /// Frames set aside for population on demand.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserve.load(Ordering::Acquire)
    }

    /// Adds frames if the limit allows; what is set aside counts as the domain's.
    #[must_use]
    pub(super) fn charge(&self, frames: u64) -> bool {
        let limit = self.limit().saturating_sub(self.reserved());
        self.pages
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |p| p.checked_add(frames).filter(|&n| n <= limit))
            .is_ok()
    }

    /// Adds frames whatever the limit.
    pub(super) fn charge_always(&self, frames: u64) {
        self.pages.fetch_add(frames, Ordering::AcqRel);
    }

    pub(super) fn discharge(&self, frames: u64) {
        self.pages.fetch_sub(frames, Ordering::AcqRel);
    }
}

type Chunk = Once<Box<[Account]>>;

/// All accounts, in chunks of 256 made on first use.
pub(super) struct Accounts {
    chunks: Vec<Chunk>,
    /// Answers for what cannot happen (no chunk of that number): may own nothing.
    nobody: Account,
}

impl Accounts {
    pub(super) fn new() -> Accounts {
        Accounts { chunks: (0..256).map(|_| Chunk::new()).collect(), nobody: Account::default() }
    }

    pub(super) fn get(&self, id: DomainId) -> &Account {
        let (chunk, n) = (usize::from(id.0 >> 8), usize::from(id.0 & 0xff));
        self.chunks
            .get(chunk)
            .and_then(|c| c.call_once(|| (0..256).map(|_| Account::default()).collect()).get(n))
            .unwrap_or(&self.nobody)
    }
}
