//! What an audit ([`crate::testing::audit`]) has to know of grants.

use alloc::vec::Vec;

use super::GrantTable;
use crate::types::{DomainId, Gfn, Mfn};

/// A mapping of another domain's grant.
pub(crate) struct Mapped {
    pub(crate) handle: u32,
    pub(crate) granter: alloc::sync::Arc<crate::domain::Domain>,
    pub(crate) gref: u32,
    pub(crate) gfn: Gfn,
    pub(crate) write: bool,
}

/// Use of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pinned {
    pub(crate) gref: u32,
    pub(crate) user: DomainId,
    pub(crate) readers: u32,
    pub(crate) writers: u32,
}

impl GrantTable {
    /// The frames of the table.
    pub(crate) fn table_frames(&self) -> Vec<Mfn> {
        self.table.lock().all_frames()
    }

    /// Entries in use.
    pub(crate) fn pinned(&self) -> Vec<Pinned> {
        self.table.lock().all_pinned()
    }

    /// Mappings of others' grants.
    pub(crate) fn mapped(&self) -> Vec<Mapped> {
        let handles = self.handles.lock();
        let mut all = Vec::new();
        let mut from = 0;
        while let Some(handle) = handles.next_used(from) {
            from = handle.saturating_add(1);
            if let Some(m) = handles.used(handle) {
                let (granter, gref, gfn, write) = (m.granter.clone(), m.gref.0, m.gfn, m.write);
                all.push(Mapped { handle, granter, gref, gfn, write });
            }
        }
        all
    }
}
