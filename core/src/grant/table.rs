//! One domain's grant table: the entries shared with the granter, and which of them are in use.
//!
//! Entries are untrusted memory that the granter may change at any time: each is read as a value, decided on, and
//! marked in use by one atomic operation that fails if it has changed meanwhile (version 1), or marked and then read
//! again (version 2, whose marks are in words of their own). What was decided on is kept with the pin, so later changes
//! of an entry in use have no effect until it is no longer used.

use alloc::vec::Vec;
use core::mem;

use radon_abi::errno::Errno;
use radon_abi::grant_table as abi;

use super::Part;
use crate::domain::Domain;
use crate::frames::PageRef;
use crate::hypervisor::Hypervisor;
use crate::p2m::{Access, Unmapped};
use crate::platform::PhysMemory;
use crate::types::{DomainId, Gfn, GrantRef, MachineAddr, Mfn, PAGE_SIZE};

/// A `GNTST_*` number other than okay: why an operation on a grant failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Status(pub(super) i16);

/// What a pin is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// A mapping.
    Map,
    /// A copy: parts of frames and transitive grants will do.
    Copy,
}

/// What a pinned entry grants.
pub(super) enum Granted<'a> {
    /// Bytes `start..start + len` of a frame.
    Frame {
        /// The frame, by a reference.
        page: PageRef<'a>,
        /// First byte.
        start: u16,
        /// Number of bytes.
        len: u16,
    },
    /// What that domain grants to this one.
    Transitive(DomainId, GrantRef),
}

/// What an entry granted when it was first pinned.
#[derive(Clone, Copy, Default)]
enum Target {
    #[default]
    None,
    Frame {
        mfn: Mfn,
        start: u16,
        len: u16,
    },
    Transitive(DomainId, GrantRef),
}

/// Use of one entry.
#[derive(Clone, Copy, Default)]
struct Active {
    readers: u32,
    writers: u32,
    user: DomainId,
    target: Target,
}

impl Active {
    const fn pinned(&self) -> bool {
        self.readers > 0 || self.writers > 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    One,
    Two,
}

/// Entries per chunk of [`Table::active`]: a version 2 frame's.
const CHUNK: u32 = 256;
/// Attempts to mark an entry that its owner keeps changing.
const ATTEMPTS: u32 = 5;
const IN_USE: u16 = abi::GTF_READING | abi::GTF_WRITING;
/// x86's `GTF_PWT`, `GTF_PCD`, `GTF_PAT`: the granter asks for a memory type, which translated users cannot have.
const CACHE_FLAGS: u16 = 7 << 5;

/// An entry, read once.
#[derive(Clone, Copy)]
struct Entry {
    flags: u16,
    domid: u16,
    /// Version 2: offset and length, or the transitive domain.
    extra: u32,
    /// Frame number or transitive reference.
    value: u64,
}

/// A grant table.
pub(super) struct Table {
    version: Version,
    limit: u32,
    shared: Vec<Mfn>,
    status: Vec<Mfn>,
    active: Vec<Vec<Active>>,
    /// The domain is being destroyed.
    closed: bool,
}

impl Table {
    pub(super) const fn new(limit: u32) -> Table {
        Table {
            version: Version::One,
            limit,
            shared: Vec::new(),
            status: Vec::new(),
            active: Vec::new(),
            closed: false,
        }
    }

    pub(super) fn set_limit(&mut self, frames: u32) {
        self.limit = frames;
    }

    pub(super) fn has_status(&self) -> bool {
        self.version == Version::Two
    }

    pub(super) fn version_number(&self) -> u32 {
        match self.version {
            Version::One => 1,
            Version::Two => 2,
        }
    }

    /// Frames of entries now.
    pub(super) fn frames(&self) -> u32 {
        self.shared.len() as u32
    }

    pub(super) fn max_frames(&self, part: Part) -> u32 {
        match part {
            Part::Shared => self.limit,
            Part::Status => status_frames(self.limit),
        }
    }

    /// Machine frame of the table, allocated if need be.
    pub(super) fn frame(&mut self, hv: &Hypervisor, owner: DomainId, part: Part, index: u64) -> Result<Mfn, Errno> {
        let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
        if part == Part::Status && !self.has_status() {
            return Err(Errno::EINVAL);
        }
        let wanted = match part {
            Part::Shared => index.saturating_add(1),
            // A status frame serves eight frames of entries.
            Part::Status => index.saturating_mul(8).saturating_add(1),
        };
        self.grow(hv, owner, wanted)?;
        let list = if part == Part::Shared { &self.shared } else { &self.status };
        list.get(index as usize).copied().ok_or(Errno::EINVAL)
    }

    /// Makes the table at least `frames` frames large. What was allocated stays if a later frame cannot be had.
    pub(super) fn grow(&mut self, hv: &Hypervisor, owner: DomainId, frames: u32) -> Result<(), Errno> {
        if self.closed || frames > self.limit {
            return Err(Errno::EINVAL);
        }
        let memory = hv.platform.memory();
        while self.frames() < frames {
            if !hv.frames.has_room() {
                return Err(Errno::ENOMEM);
            }
            let next = self.frames().saturating_add(1);
            while self.has_status() && (self.status.len() as u32) < status_frames(next) {
                self.status.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.status.push(hv.frames.alloc_special(memory, owner)?);
            }
            let per_frame = (PAGE_SIZE / abi::GRANT_ENTRY_V1_SIZE) as u32 / CHUNK;
            while (self.active.len() as u32) < next.saturating_mul(per_frame) {
                let mut chunk = Vec::new();
                chunk.try_reserve_exact(CHUNK as usize).map_err(|_| Errno::ENOMEM)?;
                chunk.resize(CHUNK as usize, Active::default());
                self.active.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.active.push(chunk);
            }
            self.shared.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
            self.shared.push(hv.frames.alloc_special(memory, owner)?);
        }
        Ok(())
    }

    /// Forgets everything; the frames are to be released by the caller.
    pub(super) fn close(&mut self) -> impl Iterator<Item = Mfn> + use<> {
        self.closed = true;
        self.active = Vec::new();
        mem::take(&mut self.shared).into_iter().chain(mem::take(&mut self.status))
    }

    /// Machine frames of the entries.
    pub(super) fn shared(&self) -> &[Mfn] {
        &self.shared
    }

    /// All frames of the table, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn all_frames(&self) -> Vec<Mfn> {
        self.shared.iter().chain(&self.status).copied().collect()
    }

    /// The entries in use, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn all_pinned(&self) -> Vec<super::Pinned> {
        let all = self.active.iter().flatten().zip(0u32..);
        let pinned = all.filter(|(a, _)| a.pinned());
        pinned.map(|(a, gref)| super::Pinned { gref, user: a.user, readers: a.readers, writers: a.writers }).collect()
    }

    const fn entry_size(&self) -> u64 {
        match self.version {
            Version::One => abi::GRANT_ENTRY_V1_SIZE,
            Version::Two => abi::GRANT_ENTRY_V2_SIZE,
        }
    }

    /// Machine address of an entry.
    fn entry_at(&self, gref: GrantRef) -> Option<MachineAddr> {
        self.at(&self.shared, self.entry_size(), gref)
    }

    /// Machine address of a status word.
    fn status_at(&self, gref: GrantRef) -> Option<MachineAddr> {
        self.at(&self.status, abi::GRANT_STATUS_SIZE, gref)
    }

    fn at(&self, frames: &[Mfn], size: u64, gref: GrantRef) -> Option<MachineAddr> {
        let offset = u64::from(gref.0).checked_mul(size)?;
        let frame = frames.get(usize::try_from(offset / PAGE_SIZE).ok()?)?;
        frame.addr().checked_add(offset % PAGE_SIZE)
    }

    fn active(&mut self, gref: GrantRef) -> Option<&mut Active> {
        self.active.get_mut((gref.0 / CHUNK) as usize)?.get_mut((gref.0 % CHUNK) as usize)
    }

    fn read(&self, memory: &dyn PhysMemory, at: MachineAddr) -> Entry {
        let head = memory.load_u64(at);
        let value = match self.version {
            Version::One => head >> 32,
            Version::Two => memory.load_u64(MachineAddr(at.0 | 8)),
        };
        Entry { flags: head as u16, domid: (head >> 16) as u16, extra: (head >> 32) as u32, value }
    }

    /// Pins an entry of `owner`'s table (which this is) for `user`, and says what it grants. Ends with [`Table::unpin`].
    ///
    /// # Errors
    /// `GNTST_bad_gntref`: no such entry. `GNTST_bad_page`: it names no RAM of the owner. `GNTST_general_error`: it does
    /// not grant this to `user`, another domain uses it, or it keeps changing.
    pub(super) fn pin<'a>(
        &mut self,
        hv: &'a Hypervisor,
        owner: &Domain,
        gref: GrantRef,
        user: DomainId,
        purpose: Purpose,
        write: bool,
    ) -> Result<Granted<'a>, Status> {
        let memory = hv.platform.memory();
        let at = self.entry_at(gref).ok_or(Status(abi::GNTST_BAD_GNTREF))?;
        let before = *self.active(gref).ok_or(Status(abi::GNTST_BAD_GNTREF))?;
        let general = Status(abi::GNTST_GENERAL_ERROR);
        let count = if write { before.writers } else { before.readers };
        if before.pinned() && before.user != user || count == u32::MAX {
            return Err(general);
        }
        // Part of a frame and transitive grants are for copies; a target found before is checked for the purpose.
        if purpose == Purpose::Map
            && (matches!(before.target, Target::Transitive(..))
                || matches!(before.target, Target::Frame { len, .. } if u64::from(len) != PAGE_SIZE))
            && before.pinned()
        {
            return Err(general);
        }
        if let Target::Frame { mfn, .. } = before.target
            && write
            && before.writers == 0
            && !writable(hv, owner, mfn)
        {
            return Err(Status(abi::GNTST_BAD_PAGE));
        }
        let mut active = before;
        if !before.pinned() || (write && before.writers == 0) {
            let entry = self.mark(memory, gref, at, user, purpose, write)?;
            if !before.pinned() {
                active.target = match self.target(hv, owner, &entry, write) {
                    Ok(target) => target,
                    Err(status) => {
                        self.unmark(memory, gref, IN_USE);
                        return Err(status);
                    }
                };
            }
        }
        let granted = match active.target {
            Target::Frame { mfn, start, len } => hv.frames.get(mfn, owner.id).map(|page| {
                if write {
                    owner.p2m.note_writer(hv, &page);
                }
                Granted::Frame { page, start, len }
            }),
            Target::Transitive(domain, gref) => Some(Granted::Transitive(domain, gref)),
            Target::None => None,
        };
        let Some(granted) = granted else {
            // The owner gave the frame up between lookup and reference.
            let bits = if before.pinned() { 0 } else { IN_USE };
            let writing = if before.writers == 0 { abi::GTF_WRITING } else { 0 };
            self.unmark(memory, gref, bits | writing);
            return Err(Status(abi::GNTST_BAD_PAGE));
        };
        active.user = user;
        if write {
            active.writers = active.writers.saturating_add(1);
        } else {
            active.readers = active.readers.saturating_add(1);
        }
        if let Some(slot) = self.active(gref) {
            *slot = active;
        }
        Ok(granted)
    }

    /// Ends one pin.
    pub(super) fn unpin(&mut self, memory: &dyn PhysMemory, gref: GrantRef, write: bool) {
        let Some(active) = self.active(gref) else { return };
        let count = if write { &mut active.writers } else { &mut active.readers };
        *count = count.saturating_sub(1);
        let mut done = 0;
        if active.writers == 0 {
            done |= abi::GTF_WRITING;
        }
        if !active.pinned() {
            done |= abi::GTF_READING;
            *active = Active::default();
        }
        self.unmark(memory, gref, done);
    }

    /// Checks an entry and marks it as being read (and written), for `user`. Returns the entry that was marked.
    fn mark(
        &self,
        memory: &dyn PhysMemory,
        gref: GrantRef,
        at: MachineAddr,
        user: DomainId,
        purpose: Purpose,
        write: bool,
    ) -> Result<Entry, Status> {
        let marks = abi::GTF_READING | if write { abi::GTF_WRITING } else { 0 };
        match self.version {
            Version::One => {
                for _ in 0..ATTEMPTS {
                    let entry = self.read(memory, at);
                    self.permits(&entry, user, purpose, write)?;
                    let head = |flags: u16| u32::from(entry.domid) << 16 | u32::from(flags);
                    let (old, new) = (head(entry.flags), head(entry.flags | marks));
                    if memory.compare_exchange_u32(at, old, new) == old {
                        return Ok(self.read(memory, at));
                    }
                }
                Err(Status(abi::GNTST_GENERAL_ERROR))
            }
            Version::Two => {
                let entry = self.read(memory, at);
                self.permits(&entry, user, purpose, write)?;
                let word = self.status_at(gref).ok_or(Status(abi::GNTST_GENERAL_ERROR))?;
                let shift = ((word.0 & 2) as u32).wrapping_mul(8);
                let before = memory.fetch_or_u32(MachineAddr(word.0 & !3), u32::from(marks).wrapping_shl(shift));
                // From here on the granter sees the marks before it takes the entry back.
                let again = self.read(memory, at);
                self.permits(&again, user, purpose, write).inspect_err(|_| {
                    self.unmark(memory, gref, marks & !(before.wrapping_shr(shift) as u16));
                })?;
                Ok(again)
            }
        }
    }

    /// Takes marks off an entry.
    fn unmark(&self, memory: &dyn PhysMemory, gref: GrantRef, marks: u16) {
        let at = match self.version {
            Version::One => self.entry_at(gref),
            Version::Two => self.status_at(gref),
        };
        if let Some(at) = at.filter(|_| marks != 0) {
            let shift = ((at.0 & 6) as u32).wrapping_mul(8);
            memory.fetch_and_u64(MachineAddr(at.0 & !7), !u64::from(marks).wrapping_shl(shift));
        }
    }

    /// Whether an entry grants `user` this.
    fn permits(&self, entry: &Entry, user: DomainId, purpose: Purpose, write: bool) -> Result<(), Status> {
        let kind = entry.flags & abi::GTF_TYPE_MASK;
        let part = self.has_status() && entry.flags & abi::GTF_SUB_PAGE != 0;
        let fits = match purpose {
            Purpose::Map => kind == abi::GTF_PERMIT_ACCESS && !part && entry.flags & CACHE_FLAGS == 0,
            Purpose::Copy => kind == abi::GTF_PERMIT_ACCESS || (kind == abi::GTF_TRANSITIVE && self.has_status()),
        };
        let writable = entry.flags & abi::GTF_READONLY == 0;
        if fits && entry.domid == user.0 && (writable || !write) {
            Ok(())
        } else {
            Err(Status(abi::GNTST_GENERAL_ERROR))
        }
    }

    /// What an entry grants, with the frame looked up.
    fn target(&self, hv: &Hypervisor, owner: &Domain, entry: &Entry, write: bool) -> Result<Target, Status> {
        if entry.flags & abi::GTF_TYPE_MASK == abi::GTF_TRANSITIVE {
            return Ok(Target::Transitive(DomainId(entry.extra as u16), GrantRef(entry.value as u32)));
        }
        let (start, len) = if self.has_status() && entry.flags & abi::GTF_SUB_PAGE != 0 {
            (entry.extra as u16, (entry.extra >> 16) as u16)
        } else {
            (0, PAGE_SIZE as u16)
        };
        if u64::from(start).saturating_add(u64::from(len)) > PAGE_SIZE {
            return Err(Status(abi::GNTST_GENERAL_ERROR));
        }
        let access = if write { Access::Write } else { Access::Read };
        match owner.p2m.get_page(hv, Gfn(entry.value), access) {
            Ok(page) if page.kind.own_ram() => Ok(Target::Frame { mfn: page.mfn(), start, len }),
            _ => Err(Status(abi::GNTST_BAD_PAGE)),
        }
    }

    /// Exchanges the contents of two entries that are not in use.
    ///
    /// # Errors
    /// `GNTST_bad_gntref`: no such entry. `GNTST_eagain`: one is in use.
    pub(super) fn swap(&mut self, memory: &dyn PhysMemory, a: GrantRef, b: GrantRef) -> Result<(), Status> {
        let bad = Status(abi::GNTST_BAD_GNTREF);
        let (at_a, at_b) = (self.entry_at(a).ok_or(bad)?, self.entry_at(b).ok_or(bad)?);
        for gref in [a, b] {
            if self.active(gref).ok_or(bad)?.pinned() {
                return Err(Status(abi::GNTST_EAGAIN));
            }
        }
        for word in (0..self.entry_size()).step_by(8) {
            let (wa, wb) = (MachineAddr(at_a.0 | word), MachineAddr(at_b.0 | word));
            let (va, vb) = (memory.load_u64(wa), memory.load_u64(wb));
            memory.store_u64(wa, vb);
            memory.store_u64(wb, va);
        }
        Ok(())
    }

    /// Changes the version. The first eight entries are kept; all others are emptied.
    ///
    /// # Errors
    /// `EINVAL`: no such version, or the domain is dying. `EBUSY`: an entry beyond the first eight is in use. `ERANGE`:
    /// one of the first eight cannot be said in version 1. `ENOMEM`.
    pub(super) fn set_version(
        &mut self,
        hv: &Hypervisor,
        owner: &Domain,
        version: u32,
        batch: &mut Unmapped<'_>,
    ) -> Result<(), Errno> {
        let version = match version {
            1 => Version::One,
            2 => Version::Two,
            _ => return Err(Errno::EINVAL),
        };
        if version == self.version {
            return Ok(());
        }
        self.grow(hv, owner.id, 1)?;
        let kept = abi::GNTTAB_NR_RESERVED_ENTRIES;
        let in_use = |a: &Active| a.pinned();
        if self.active.iter().flatten().skip(kept as usize).any(in_use) {
            return Err(Errno::EBUSY);
        }
        let memory = hv.platform.memory();
        if version == Version::Two {
            while (self.status.len() as u32) < status_frames(self.frames()) {
                self.status.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                self.status.push(hv.frames.alloc_special(memory, owner.id)?);
            }
        }
        let mut entries = [Entry { flags: 0, domid: 0, extra: 0, value: 0 }; 8];
        for (n, entry) in entries.iter_mut().enumerate() {
            let gref = GrantRef(n as u32);
            let at = self.entry_at(gref).ok_or(Errno::EINVAL)?;
            *entry = self.read(memory, at);
            if let Some(at) = self.status_at(gref).filter(|_| self.has_status()) {
                entry.flags |= memory.load_u64(MachineAddr(at.0 & !7)).wrapping_shr(((at.0 & 6) as u32).wrapping_mul(8))
                    as u16
                    & IN_USE;
                let plain = entry.flags & abi::GTF_TYPE_MASK != abi::GTF_TRANSITIVE
                    && entry.flags & abi::GTF_SUB_PAGE == 0
                    && entry.value <= u64::from(u32::MAX);
                if !plain && entry.flags & abi::GTF_TYPE_MASK != abi::GTF_INVALID {
                    return Err(Errno::ERANGE);
                }
            }
        }
        // Nothing fails from here on.
        for &frame in self.shared.iter().chain(&self.status) {
            memory.zero_frame(frame);
        }
        self.version = version;
        for (n, entry) in entries.iter().enumerate() {
            self.write(memory, GrantRef(n as u32), entry);
        }
        if version == Version::One {
            for mfn in mem::take(&mut self.status) {
                if let Some(gfn) = hv.frames.gfn(mfn) {
                    let this = |e: crate::p2m::Entry| if e.mfn == mfn { Ok(()) } else { Err(Errno::ENOENT) };
                    // If it was unmapped meanwhile, so be it.
                    let _ = owner.p2m.remove(hv, gfn, crate::frames::Order::PAGE, this, batch);
                }
                hv.frames.release(mfn, 1);
            }
        }
        Ok(())
    }

    /// Writes a plain entry in the current version's form.
    fn write(&self, memory: &dyn PhysMemory, gref: GrantRef, entry: &Entry) {
        let Some(at) = self.entry_at(gref) else { return };
        let head = u64::from(entry.domid) << 16;
        match self.version {
            Version::One => {
                memory.store_u64(at, head | u64::from(entry.flags) | (entry.value & 0xffff_ffff) << 32);
            }
            Version::Two => {
                memory.store_u64(MachineAddr(at.0 | 8), entry.value);
                memory.store_u64(at, head | u64::from(entry.flags & !IN_USE));
                if let Some(word) = self.status_at(gref) {
                    let shift = ((word.0 & 2) as u32).wrapping_mul(8);
                    let marks = u32::from(entry.flags & IN_USE);
                    memory.fetch_or_u32(MachineAddr(word.0 & !3), marks.wrapping_shl(shift));
                }
            }
        }
    }
}

/// Whether the owner itself can write a frame that is granted already, for reading. A frame that it gave up is nobody's to
/// forbid.
fn writable(hv: &Hypervisor, owner: &Domain, mfn: Mfn) -> bool {
    hv.frames.gfn(mfn).is_none_or(|gfn| owner.p2m.query(hv, gfn).entry.kind.writable_by_reference())
}

/// Status frames that this many frames of version 2 entries need: each has 2048 status words for 256 entries a frame.
const fn status_frames(shared: u32) -> u32 {
    shared.div_ceil(8)
}
