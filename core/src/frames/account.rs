//! How many frames each domain has and may have.
//!
//! Accounts are kept by domain number and outlive the domain: a frame stays on its owner's account until the last
//! reference is gone, even if the owner was destroyed before. A number may be given to a new domain only when its
//! account is empty ([`super::FrameAllocator::account`]).
//!
//! Accounts lie in chunks of 256, and a chunk goes when the last domain that opened an account in it has closed it: numbers
//! of domains go up, and memory must not with them. An account's users hold its chunk for reading. Nobody waits to hold it
//! for writing, and nothing is allocated or freed meanwhile, so frames can be returned under any lock.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;

use crate::sync::{RwLock, RwLockReadGuard};
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

    /// Whether nothing is lost with it.
    fn is_new(&self) -> bool {
        let Account { pages, limit, claim, reserve } = self;
        [pages, limit, claim, reserve].iter().all(|number| number.load(Ordering::Acquire) == 0)
    }
}

/// Accounts in a chunk.
const CHUNK: usize = 256;

#[derive(Default)]
struct Chunk {
    accounts: RwLock<Option<Box<[Account]>>>,
    /// How many are open.
    open: AtomicU32,
}

/// An account, which stays where it is meanwhile.
pub struct AccountRef<'a> {
    chunk: Option<RwLockReadGuard<'a, Option<Box<[Account]>>>>,
    number: usize,
    nobody: &'a Account,
}

impl Deref for AccountRef<'_> {
    type Target = Account;

    fn deref(&self) -> &Account {
        let account = self.chunk.as_ref().and_then(|chunk| chunk.as_ref()?.get(self.number));
        account.unwrap_or(self.nobody)
    }
}

/// All accounts.
pub(super) struct Accounts {
    chunks: Vec<Chunk>,
    /// Answers for what cannot happen (no chunk of that number): may own nothing.
    nobody: Account,
}

impl Accounts {
    pub(super) fn new() -> Accounts {
        let chunks = (0..=usize::from(u16::MAX) / CHUNK).map(|_| Chunk::default()).collect();
        Accounts { chunks, nobody: Account::default() }
    }

    fn chunk(&self, id: DomainId) -> Option<&Chunk> {
        self.chunks.get(usize::from(id.0) / CHUNK)
    }

    pub(super) fn get(&self, id: DomainId) -> AccountRef<'_> {
        let chunk = self.chunk(id).map(|chunk| {
            loop {
                let found = chunk.accounts.read();
                if found.is_some() {
                    return found;
                }
                drop(found);
                let new = (0..CHUNK).map(|_| Account::default()).collect();
                // Another CPU may be faster.
                if let Some(mut place) = chunk.accounts.try_write()
                    && place.is_none()
                {
                    *place = Some(new);
                }
            }
        });
        AccountRef { chunk, number: usize::from(id.0) % CHUNK, nobody: &self.nobody }
    }

    pub(super) fn open(&self, id: DomainId) {
        if let Some(chunk) = self.chunk(id) {
            chunk.open.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub(super) fn close(&self, id: DomainId) {
        let Some(chunk) = self.chunk(id) else { return };
        if chunk.open.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let unused = chunk.accounts.try_write().and_then(|mut accounts| {
            let all_new = accounts.as_ref().is_some_and(|all| all.iter().all(Account::is_new));
            let unused = all_new && chunk.open.load(Ordering::Acquire) == 0;
            if unused { accounts.take() } else { None }
        });
        // Freed here, where nobody is kept out.
        drop(unused);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_goes_with_its_last_open_account_and_only_if_all_are_empty() {
        let accounts = Accounts::new();
        let there = |id: u16| accounts.chunk(DomainId(id)).unwrap().accounts.read().is_some();
        for id in [300, 301] {
            accounts.open(DomainId(id));
            accounts.get(DomainId(id)).set_limit(1);
        }
        accounts.get(DomainId(300)).set_limit(0);
        accounts.close(DomainId(300));
        assert!(there(301), "another is open");
        accounts.get(DomainId(301)).set_limit(0);
        let held = accounts.get(DomainId(310));
        accounts.close(DomainId(301));
        assert!(there(301), "somebody looks at one");
        drop(held);
        accounts.open(DomainId(301));
        accounts.close(DomainId(301));
        assert!(!there(301));
        // One that nobody opened is kept while it says something.
        accounts.get(DomainId(0)).set_limit(7);
        accounts.open(DomainId(1));
        accounts.close(DomainId(1));
        assert_eq!(accounts.get(DomainId(0)).limit(), 7);
    }
}
