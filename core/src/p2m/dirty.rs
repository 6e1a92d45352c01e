//! The log of frames that are written to, for saving a domain while it runs.
//!
//! While logging, RAM is mapped read-only ([`Kind::RamLogDirty`]). The first write of the guest faults, is noted and makes
//! the page writable; collecting the notes makes the noted pages read-only again. So RAM that is writable is noted. A
//! large mapping is split at the first write into it, and joined again when logging ends.
//!
//! The hypervisor and other domains (grants) write past the map, through references on frames. [`P2m::get_page`] notes
//! the frame when such a reference is taken for writing. A frame that has references besides its owner's claim may be
//! written to at any time, so its note outlives the collecting: it is told each time until the references have gone. Only
//! a mapping by privilege ([`Kind::Foreign`]) is not noted when it is made, since that is how the frames are copied out.
//!
//! The domain runs all the time. What was written before its note was collected is in memory when the collecting
//! hypercall returns, since that flushes TLBs; what is written after is noted anew.
//!
//! Memory for the notes (a bit per frame, in pieces of 4 KiB for 128 MiB) is kept until the domain goes.
//!
//! Noting takes no lock. A note is made after its reference was taken; collecting takes the note away first and looks for
//! references then, in sequential consistency: so one of the two sees the other.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use spin::once::Once;

use super::unmapped::End;
use super::{Entry, Kind, Lookup, P2m, State, Unmapped};
use crate::frames::{Order, PageRef};
use crate::hypervisor::Hypervisor;
use crate::sync::Guard;
use crate::types::{Gfn, Mfn};

/// Frames that a word notes.
pub const WORD_FRAMES: u64 = 64;

const LEAF_WORDS: u64 = 512;
const MIDDLE_BITS: u32 = 10;
const TOP_BITS: u32 = 11;
/// Frames that a leaf notes, as a power of two.
const LEAF_BITS: u32 = 15;

type Leaf = Box<[AtomicU64]>;
type Middle = Box<[Once<Leaf>]>;

/// Which frames were written to.
#[derive(Default)]
pub(super) struct DirtyLog {
    active: AtomicBool,
    top: Once<Box<[Once<Middle>]>>,
}

/// `count` values made by `one`.
fn boxed<T>(count: u64, one: impl FnMut() -> T) -> Result<Box<[T]>, Errno> {
    let count = usize::try_from(count).map_err(|_| Errno::ENOMEM)?;
    let mut all = Vec::new();
    all.try_reserve_exact(count).map_err(|_| Errno::ENOMEM)?;
    all.resize_with(count, one);
    Ok(all.into_boxed_slice())
}

const fn index(number: u64, shift: u32, bits: u32) -> usize {
    (number.wrapping_shr(shift) & 1u64.wrapping_shl(bits).wrapping_sub(1)) as usize
}

impl DirtyLog {
    fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// The word for frames from `word * 64` on, if there is memory for it.
    fn word(&self, word: u64) -> Option<&AtomicU64> {
        let leaf = word / LEAF_WORDS;
        let middle = self.top.get()?.get(index(leaf, MIDDLE_BITS, TOP_BITS))?.get()?;
        middle.get(index(leaf, 0, MIDDLE_BITS))?.get()?.get((word % LEAF_WORDS) as usize)
    }

    /// Provides memory for the notes of frames. Under the p2m's lock.
    fn provide(&self, gfn: Gfn, frames: u64) -> Result<(), Errno> {
        let top = self.top.try_call_once(|| boxed(1 << TOP_BITS, Once::new))?;
        let last = gfn.0.saturating_add(frames.saturating_sub(1)) >> LEAF_BITS;
        for leaf in (gfn.0 >> LEAF_BITS)..=last {
            let middle = top.get(index(leaf, MIDDLE_BITS, TOP_BITS)).ok_or(Errno::EINVAL)?;
            let middle = middle.try_call_once(|| boxed(1 << MIDDLE_BITS, Once::new))?;
            let slot = middle.get(index(leaf, 0, MIDDLE_BITS)).ok_or(Errno::EINVAL)?;
            slot.try_call_once(|| boxed(LEAF_WORDS, || AtomicU64::new(0)))?;
        }
        Ok(())
    }

    /// Calls `f` with each word that notes some of these frames, and with the bits that do.
    fn for_words(&self, gfn: Gfn, frames: u64, f: impl Fn(&AtomicU64, u64)) {
        let end = gfn.0.saturating_add(frames);
        let mut at = gfn.0;
        while at < end {
            let (word, bit) = (at / WORD_FRAMES, at % WORD_FRAMES);
            let count = end.saturating_sub(at).min(WORD_FRAMES.saturating_sub(bit));
            let bits = u64::MAX.wrapping_shr(64u32.saturating_sub(count as u32)).wrapping_shl(bit as u32);
            if let Some(word) = self.word(word) {
                f(word, bits);
            }
            at = at.saturating_add(count);
        }
    }

    /// Notes that frames were written to, or may be from now on, while logging.
    pub(super) fn note(&self, gfn: Gfn, frames: u64) {
        if self.is_active() {
            self.for_words(gfn, frames, |word, bits| {
                word.fetch_or(bits, Ordering::SeqCst);
            });
        }
    }

    /// Prepares to note frames that are about to be mapped.
    pub(super) fn prepare(&self, gfn: Gfn, frames: u64) -> Result<(), Errno> {
        if self.is_active() { self.provide(gfn, frames) } else { Ok(()) }
    }
}

/// The start of the block of order `order` around a frame, and its first entry.
fn block(gfn: Gfn, order: Order, entry: Entry) -> (Gfn, Entry) {
    let offset = gfn.0 & order.mask();
    (Gfn(gfn.0.wrapping_sub(offset)), Entry { mfn: Mfn(entry.mfn.0.wrapping_sub(offset)), ..entry })
}

/// Spends for a step that is longer than others.
fn cost(spend: &mut dyn FnMut() -> bool, units: u64) {
    for _ in 0..units {
        let _ = spend();
    }
}

impl P2m {
    /// Whether writes are logged.
    #[must_use]
    pub fn is_logging(&self) -> bool {
        self.log.is_active()
    }

    /// Starts to log writes, once this returned `true`. `spend` is asked before each step (at most 2 MiB); when it refuses,
    /// the call returns `false` and is to be made again.
    ///
    /// # Errors
    /// `EINVAL`: the domain is dying. `ENOMEM`: for the notes, or a page table. [`P2m::stop_logging`] is to follow.
    pub fn start_logging(&self, hv: &Hypervisor, spend: &mut dyn FnMut() -> bool) -> Result<bool, Errno> {
        let mut batch = self.unmapped(hv);
        let mut state = self.state.lock();
        if state.closed {
            return Err(Errno::EINVAL);
        }
        self.log.active.swap(true, Ordering::SeqCst);
        while state.log_cursor <= self.max_gfn() {
            if !spend() {
                return Ok(false);
            }
            let at = state.log_cursor;
            let found = self.query(hv, at);
            let order = if found.entry.kind.present() { found.order.min(Order::LARGE) } else { found.order };
            let frames = order.frames();
            if matches!(found.entry.kind, Kind::RamRw | Kind::RamLogDirty) {
                cost(spend, frames / WORD_FRAMES);
                self.log.provide(at, frames)?;
                self.log.for_words(at, frames, |word, bits| {
                    word.fetch_and(!bits, Ordering::SeqCst);
                });
                self.protect(hv, at, Lookup { order, ..found }, &mut batch)?;
                for n in 0..frames {
                    if hv.frames.is_shared(found.entry.offset(n).mfn) {
                        self.log.note(Gfn(at.0.wrapping_add(n)), 1);
                    }
                }
            }
            state.log_cursor = Gfn((at.0 | order.mask()).saturating_add(1));
        }
        state.log_cursor = Gfn(0);
        Ok(true)
    }

    /// Ends logging at once, and from the first call on makes RAM writable again, in mappings as large as it can have. For
    /// `spend` and what is returned see [`P2m::start_logging`].
    #[must_use]
    pub fn stop_logging(&self, hv: &Hypervisor, spend: &mut dyn FnMut() -> bool) -> bool {
        let mut batch = self.unmapped(hv);
        let mut state = self.state.lock();
        if self.log.active.swap(false, Ordering::SeqCst) {
            state.log_cursor = Gfn(0);
        }
        while state.log_cursor <= self.max_gfn() && !state.closed {
            if !spend() {
                return false;
            }
            let at = state.log_cursor;
            let found = self.query(hv, at);
            let order = found.order.max(Order::LARGE);
            if found.order < Order::LARGE {
                cost(spend, Order::LARGE.frames() / 4);
                self.join(hv, at, &mut batch);
            } else if found.entry.kind == Kind::RamLogDirty {
                // Written with the order that it has, this cannot fail. Nothing is narrowed, so no flush is owed.
                let _ = self.set(hv, at, found.order, Entry { kind: Kind::RamRw, ..found.entry });
            }
            state.log_cursor = Gfn((at.0 | order.mask()).saturating_add(1));
        }
        state.log_cursor = Gfn(0);
        true
    }

    /// Makes the logged pages of the 2 MiB from `gfn` on writable; one mapping, if that is what they were.
    fn join(&self, hv: &Hypervisor, gfn: Gfn, batch: &mut Unmapped<'_>) {
        let first = self.query(hv, gfn).entry;
        let frames = Order::LARGE.frames();
        let whole = self.table.largest() >= Order::LARGE
            && first.kind.own_ram()
            && Order::LARGE.aligns(first.mfn.0)
            && (0..frames).all(|n| {
                let entry = self.query(hv, Gfn(gfn.0.wrapping_add(n))).entry;
                matches!(entry.kind, Kind::RamRw | Kind::RamLogDirty) && entry.mfn == first.offset(n).mfn
            });
        if whole && self.set(hv, gfn, Order::LARGE, Entry { kind: Kind::RamRw, ..first }).is_ok() {
            // A processor may have kept a pointer to the table, or translations of both sizes.
            batch.belong_to(self.tag);
            batch.push(first.mfn, frames, End::Nothing);
            return;
        }
        for n in 0..frames {
            let at = Gfn(gfn.0.wrapping_add(n));
            let found = self.query(hv, at);
            if found.entry.kind == Kind::RamLogDirty {
                let _ = self.set(hv, at, Order::PAGE, Entry { kind: Kind::RamRw, ..found.entry });
            }
        }
    }

    /// Makes a block of RAM read-only; `found` says what its first frame is and how large the block is to be.
    fn protect(&self, hv: &Hypervisor, gfn: Gfn, found: Lookup, batch: &mut Unmapped<'_>) -> Result<(), Errno> {
        if found.entry.kind != Kind::RamRw {
            return Ok(());
        }
        self.set(hv, gfn, found.order, Entry { kind: Kind::RamLogDirty, ..found.entry })?;
        batch.belong_to(self.tag);
        batch.push(found.entry.mfn, found.order.frames(), End::Nothing);
        Ok(())
    }

    /// Notes that one of the domain's frames may be written to from now on, by a reference that was not taken with
    /// [`P2m::get_page`].
    pub fn note_writer(&self, hv: &Hypervisor, page: &PageRef<'_>) {
        if self.is_logging()
            && let Some(gfn) = hv.frames.gfn(page.mfn())
        {
            self.log.note(gfn, 1);
        }
    }

    /// The guest was kept from writing to a page. Notes it and makes the page writable, if that was because of the log.
    /// Returns whether the guest may try again.
    #[must_use]
    pub fn write_faulted(&self, hv: &Hypervisor, gfn: Gfn) -> bool {
        let mut batch = self.unmapped(hv);
        let state = self.state.lock();
        let found = self.query(hv, gfn);
        match found.entry.kind {
            // Another CPU was faster, or this one has the old translation still: without a flush it might fault for ever.
            Kind::RamRw => batch.push(found.entry.mfn, 1, End::Nothing),
            Kind::RamLogDirty => self.unprotect(hv, gfn, found, &mut batch, &state),
            _ => return false,
        }
        true
    }

    /// Makes one page writable; the whole block around it if that is all that can be done, or if nothing is logged.
    fn unprotect(&self, hv: &Hypervisor, gfn: Gfn, found: Lookup, batch: &mut Unmapped<'_>, _: &Guard<'_, State>) {
        let writable = Entry { kind: Kind::RamRw, ..found.entry };
        if found.order > Order::PAGE {
            // From now on translations of another size are made.
            batch.push(found.entry.mfn, 1, End::Nothing);
        }
        if (self.is_logging() || found.order == Order::PAGE) && self.set(hv, gfn, Order::PAGE, writable).is_ok() {
            self.log.note(gfn, 1);
            return;
        }
        let (start, first) = block(gfn, found.order, writable);
        self.log.note(start, found.order.frames());
        if self.set(hv, start, found.order, first).is_err() {
            log::error!("{}: {gfn} could not be made writable", self.owner);
        }
    }

    /// The notes about those of the 64 frames from `word * 64` on that `wanted` has bits for: a bit each. With `clean`,
    /// they are forgotten and the pages read-only again, except where others may write. What is told is true when the
    /// batch was flushed.
    #[must_use]
    pub fn collect_log(&self, hv: &Hypervisor, word: u64, wanted: u64, clean: bool, batch: &mut Unmapped<'_>) -> u64 {
        let Some(notes) = self.log.word(word) else { return 0 };
        let noted = notes.load(Ordering::SeqCst) & wanted;
        if !clean || noted == 0 {
            return noted;
        }
        let _state = self.state.lock();
        notes.fetch_and(!noted, Ordering::SeqCst);
        for n in (0..WORD_FRAMES).filter(|&n| noted.wrapping_shr(n as u32) & 1 != 0) {
            let gfn = Gfn(word.saturating_mul(WORD_FRAMES).saturating_add(n));
            let found = self.query(hv, gfn);
            let kept = if found.entry.kind.own_ram() && hv.frames.is_shared(found.entry.mfn) {
                true
            } else {
                let (start, entry) = block(gfn, found.order, found.entry);
                // A block is writable as a whole where no table page was left to split it. Its other frames stay noted.
                self.protect(hv, start, Lookup { order: found.order, entry }, batch).is_err()
            };
            if kept {
                self.log.note(gfn, 1);
            }
        }
        noted
    }

    /// Takes back that notes were told.
    pub fn note_again(&self, word: u64, noted: u64) {
        if let Some(notes) = self.log.word(word) {
            notes.fetch_or(noted, Ordering::SeqCst);
        }
    }
}
