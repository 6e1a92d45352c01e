//! Memory that a guest registered for the hypervisor to write to, by guest-virtual address: the run state and the
//! second copy of the time information.
//!
//! The address is translated once, at registration; the frames are held by counted references from then on, so a write
//! never has to walk page tables, whatever address space the guest is in, and cannot hit a frame that went to somebody
//! else. An area may lie across two pages.

use crate::sync::atomic::Ordering;
use alloc::sync::Arc;

use arrayvec::ArrayVec;
use radon_abi::errno::Errno;
use radon_abi::vcpu::{RunstateInfo, XEN_RUNSTATE_UPDATE};
use radon_abi::xen::{VMASST_TYPE_RUNSTATE_UPDATE_FLAG, VcpuTimeInfo};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::evtchn::Pin;
use crate::hypercall::Caller;
use crate::hypervisor::Hypervisor;
use crate::types::{GuestVirtAddr, MachineAddr, PAGE_SIZE};

/// Where the times begin in the run state of a 32-bit guest, and the size of that.
const COMPAT_ENTRY_TIME: usize = size_of::<u32>();
const COMPAT_RUNSTATE: usize = COMPAT_ENTRY_TIME + 5 * size_of::<u64>();

/// The bytes of a run state in the layout of the caller.
pub(crate) fn runstate_size(caller: &Caller<'_>) -> usize {
    if caller.compat { COMPAT_RUNSTATE } else { size_of::<RunstateInfo>() }
}

/// A part of an area that lies in one frame.
#[derive(Debug)]
struct Piece {
    frame: Pin,
    at: MachineAddr,
    len: usize,
}

/// A registered area. Ends with [`Area::release`].
#[derive(Debug)]
#[must_use = "an area that is dropped holds its frames for ever"]
pub struct Area {
    pieces: ArrayVec<Piece, 2>,
    /// Its owner is a 32-bit guest: a run state has no padding there.
    compat: bool,
}

impl Area {
    /// The caller's memory from `addr` on, `len` bytes (at most a page).
    ///
    /// # Errors
    /// `EFAULT` if that is not all the domain's own writable memory.
    pub(crate) fn register(caller: &Caller<'_>, addr: GuestVirtAddr, len: usize) -> Result<Area, Errno> {
        let mut area = Area { pieces: ArrayVec::new(), compat: caller.compat };
        let filled = area.fill(caller, addr, len);
        match filled {
            Ok(()) => Ok(area),
            Err(errno) => {
                area.release(caller.hv);
                Err(errno)
            }
        }
    }

    fn fill(&mut self, caller: &Caller<'_>, addr: GuestVirtAddr, len: usize) -> Result<(), Errno> {
        let mut done = 0usize;
        while done < len {
            let here = GuestVirtAddr(addr.0.checked_add(done as u64).ok_or(Errno::EFAULT)?);
            let in_page = PAGE_SIZE.saturating_sub(here.offset()) as usize;
            let part = len.saturating_sub(done).min(in_page);
            let at = caller.memory.translate(here, true)?;
            let frame = Pin::new(caller.hv, caller.domain, at.gfn()).map_err(|_| Errno::EFAULT)?;
            let start = MachineAddr(frame.mfn().addr().0 | at.offset());
            if let Err(beyond) = self.pieces.try_push(Piece { frame, at: start, len: part }) {
                beyond.element().frame.release(caller.hv);
                return Err(Errno::EFAULT);
            }
            done = done.saturating_add(part);
        }
        Ok(())
    }

    /// Gives the frames back. Nothing may be about to write.
    pub(crate) fn release(self, hv: &Hypervisor) {
        for piece in self.pieces {
            piece.frame.release(hv);
        }
    }

    /// The frames that are held for it, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn pins(&self) -> impl Iterator<Item = crate::types::Mfn> {
        self.pieces.iter().map(|p| p.frame.mfn())
    }

    /// Writes bytes at an offset; what lies outside is dropped.
    fn write(&self, hv: &Hypervisor, mut offset: usize, mut bytes: &[u8]) {
        for piece in &self.pieces {
            let Some(room) = piece.len.checked_sub(offset) else {
                offset = offset.saturating_sub(piece.len);
                continue;
            };
            let (here, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            if let Some(to) = piece.at.checked_add(offset as u64).filter(|_| !here.is_empty()) {
                hv.platform.memory().write(to, here);
            }
            (offset, bytes) = (0, rest);
        }
    }

    /// Writes a run state. `marked`: under the protocol of [`XEN_RUNSTATE_UPDATE`]: the mark is there before anything
    /// else changes and goes away last.
    pub(super) fn write_runstate(&self, hv: &Hypervisor, info: &RunstateInfo, marked: bool) {
        const ENTRY_TIME: usize = core::mem::offset_of!(RunstateInfo, state_entry_time);
        let entry_time = if self.compat { COMPAT_ENTRY_TIME } else { ENTRY_TIME };
        let write_all = |info: &RunstateInfo| {
            let (state, times) = info.as_bytes().split_at(ENTRY_TIME);
            if self.compat {
                self.write(hv, 0, info.state.as_bytes());
            } else {
                self.write(hv, 0, state);
            }
            self.write(hv, entry_time, times);
        };
        if !marked {
            write_all(info);
            return;
        }
        // The byte of the entry time that has the mark.
        let mark = entry_time.wrapping_add(7);
        let during = RunstateInfo { state_entry_time: info.state_entry_time | XEN_RUNSTATE_UPDATE, ..*info };
        let mark_of = |info: &RunstateInfo| [(info.state_entry_time >> 56) as u8];
        self.write(hv, mark, &mark_of(&during));
        write_all(&during);
        self.write(hv, mark, &mark_of(info));
    }

    /// Writes time information under the version protocol.
    pub(super) fn write_time(&self, hv: &Hypervisor, info: &VcpuTimeInfo) {
        let during = VcpuTimeInfo { version: info.version.wrapping_sub(1), ..*info };
        self.write(hv, 0, during.version.as_bytes());
        self.write(hv, 0, during.as_bytes());
        self.write(hv, 0, info.version.as_bytes());
    }
}

/// Whether the domain wants [`XEN_RUNSTATE_UPDATE`] in its run states.
pub(super) fn wants_update_mark(domain: &Arc<Domain>) -> bool {
    domain.vm_assist.load(Ordering::Relaxed) & (1 << VMASST_TYPE_RUNSTATE_UPDATE_FLAG) != 0
}
