//! Grant tables: a domain lets others use single frames of its own.
//!
//! The *granter* fills entries of a table that it shares with the hypervisor (`table`). The *user* maps a granted frame
//! into its physical memory (`ops`) or has bytes copied (`copy`). An entry in use is *pinned*: the hypervisor remembers
//! who uses it and how often, and sets `GTF_reading` and `GTF_writing` for the granter to see. A mapping is named by a
//! handle in the user's table of mappings (`handles`).
//!
//! References: the user's p2m entry holds the reference on the frame. The pin is taken before the entry is made and
//! ends after the entry was removed and TLBs were flushed, so a granter that sees `GTF_reading` clear knows that nobody
//! can reach the frame any more. A grant entry in a p2m is removed only by its handle. A handle keeps the granter's
//! [`crate::domain::Domain`] alive; if that domain is destroyed, its frames stay until they are unmapped.
//!
//! Table frames are allocated when they are first asked for, up to the domain's limit.
//!
//! Locks: each domain's table and each domain's handles have a lock of rank [`crate::sync::Rank::Grant`]; never are two
//! of them held at a time. Under a table's lock its domain's p2m may be locked.

mod copy;
mod handles;
#[cfg(any(test, feature = "testing"))]
mod inspect;
mod ops;
mod table;
#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::memory::XENMAPIDX_GRANT_TABLE_STATUS;

use crate::domain::Domain;
use crate::frames::PageRef;
use crate::hypervisor::Hypervisor;
use crate::sync::{Lock, Rank};
use crate::types::DomainId;
use handles::Handles;
#[cfg(any(test, feature = "testing"))]
pub(crate) use inspect::Pinned;
pub use ops::{GRANT_TABLE_OPS, grant_table_op};
use table::Table;

/// The two parts of a grant table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The entries.
    Shared,
    /// The status words of a version 2 table.
    Status,
}

/// A domain's grant table and its mappings of others' grants.
pub struct GrantTable {
    table: Lock<Table>,
    handles: Lock<Handles>,
}

/// Frames of entries that a domain may have unless its creator says otherwise, as in Xen 4.17.
pub const DEFAULT_FRAMES: u32 = 64;
/// Mappings that a domain may have, in units of 256, unless its creator says otherwise.
pub const DEFAULT_MAPTRACK_FRAMES: u32 = 1024;

impl Default for GrantTable {
    fn default() -> Self {
        GrantTable {
            table: Lock::new(Rank::Grant, Table::new(DEFAULT_FRAMES)),
            handles: Lock::new(Rank::Grant, Handles::new(DEFAULT_MAPTRACK_FRAMES)),
        }
    }
}

impl GrantTable {
    /// An empty version 1 table with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many frames of entries the domain may have and how many mappings (in units of 256). Before it runs.
    pub fn set_limits(&self, frames: u32, maptrack_frames: u32) {
        self.table.lock().set_limit(frames);
        self.handles.lock().set_limit(maptrack_frames);
    }

    /// How many frames a part may have.
    #[must_use]
    pub fn max_frames(&self, part: Part) -> u32 {
        self.table.lock().max_frames(part)
    }

    /// One frame of the table of domain `owner` (which this is), allocated if need be.
    ///
    /// # Errors
    /// `EINVAL`: beyond the limit, no status frames in this version, or the domain is dying. `ENOMEM`.
    pub fn frame<'a>(&self, hv: &'a Hypervisor, owner: DomainId, part: Part, index: u64) -> Result<PageRef<'a>, Errno> {
        let mfn = self.table.lock().frame(hv, owner, part, index)?;
        hv.frames.get(mfn, owner).ok_or(Errno::EINVAL)
    }

    /// The frame that index `index` of `XENMAPSPACE_grant_table` names.
    ///
    /// # Errors
    /// As [`GrantTable::frame`].
    pub fn frame_to_map<'a>(&self, hv: &'a Hypervisor, owner: DomainId, index: u64) -> Result<PageRef<'a>, Errno> {
        // The flag means something in version 2 only; in version 1 the index is then too large.
        let status = index & XENMAPIDX_GRANT_TABLE_STATUS != 0 && self.table.lock().has_status();
        if status {
            self.frame(hv, owner, Part::Status, index & !XENMAPIDX_GRANT_TABLE_STATUS)
        } else {
            self.frame(hv, owner, Part::Shared, index)
        }
    }

    /// Ends all that the domain, which will not run again, has to do with grants: its mappings of others' frames and its
    /// own table. `spend` is asked before each step; when it refuses, the call returns `false` and is to be made again.
    /// Comes before [`crate::p2m::P2m::relinquish`].
    #[must_use]
    pub fn relinquish(&self, hv: &Hypervisor, domain: &Arc<Domain>, spend: &mut dyn FnMut() -> bool) -> bool {
        if !ops::unmap_all(hv, domain, spend) {
            return false;
        }
        for mfn in self.table.lock().close() {
            hv.frames.release(mfn, 1);
        }
        true
    }
}
