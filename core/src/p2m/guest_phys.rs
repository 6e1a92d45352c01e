//! Access to a domain's memory by guest-physical address, for page-table walks, emulation and shared structures.

use crate::sync::atomic::{Ordering, fence};

use super::{Access, P2m, Page};
use crate::hypervisor::Hypervisor;
use crate::types::{GuestPhysAddr, MachineAddr, PAGE_SIZE};
use radon_abi::errno::Errno;

/// A domain's guest-physical memory. Every access takes a reference on the frame while it lasts.
#[derive(Clone, Copy)]
pub struct GuestPhys<'a> {
    hv: &'a Hypervisor,
    p2m: &'a P2m,
}

impl<'a> GuestPhys<'a> {
    /// The memory that `p2m` maps.
    #[must_use]
    pub fn new(hv: &'a Hypervisor, p2m: &'a P2m) -> GuestPhys<'a> {
        GuestPhys { hv, p2m }
    }

    fn page(&self, at: GuestPhysAddr, access: Access) -> Result<(Page<'a>, MachineAddr), Errno> {
        let page = self.p2m.get_page(self.hv, at.gfn(), access).map_err(|_| Errno::EFAULT)?;
        let address = MachineAddr(page.mfn().addr().0 | at.offset());
        Ok((page, address))
    }

    /// The map's generation, see [`P2m::generation`].
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.p2m.generation()
    }

    /// Where RAM at `at` is in the machine. No reference is taken: what is read there counts only if
    /// [`GuestPhys::unchanged_since`] says so afterwards, and nothing may be written.
    #[must_use]
    pub fn locate(&self, at: GuestPhysAddr) -> Option<MachineAddr> {
        let entry = self.p2m.query(self.hv, at.gfn()).entry;
        entry.kind.counted().then(|| MachineAddr(entry.mfn.addr().0 | at.offset()))
    }

    /// Whether the map is as it was when [`GuestPhys::generation`] said `generation`, seen after all reads before.
    #[must_use]
    pub fn unchanged_since(&self, generation: u64) -> bool {
        fence(Ordering::Acquire);
        self.p2m.generation() == generation
    }

    /// Applies `f` to the parts of `at..at+len` that lie in one frame each: `(offset from at, machine address, length)`.
    fn for_frames(
        &self,
        at: GuestPhysAddr,
        len: usize,
        access: Access,
        mut f: impl FnMut(usize, MachineAddr, usize),
    ) -> Result<(), Errno> {
        let mut done = 0usize;
        while done < len {
            let here = GuestPhysAddr(at.0.checked_add(done as u64).ok_or(Errno::EFAULT)?);
            let in_frame = PAGE_SIZE.saturating_sub(here.offset()) as usize;
            let part = len.saturating_sub(done).min(in_frame);
            let (_page, address) = self.page(here, access)?;
            f(done, address, part);
            done = done.saturating_add(part);
        }
        Ok(())
    }

    /// Copies bytes from the guest.
    ///
    /// # Errors
    /// `EFAULT`: not all of it is memory. `to` may have been partly written.
    pub fn read(&self, from: GuestPhysAddr, to: &mut [u8]) -> Result<(), Errno> {
        let memory = self.hv.platform.memory();
        self.for_frames(from, to.len(), Access::Read, |offset, address, len| {
            if let Some(part) = to.get_mut(offset..offset.saturating_add(len)) {
                memory.read(address, part);
            }
        })
    }

    /// Copies bytes to the guest.
    ///
    /// # Errors
    /// `EFAULT`: not all of it is writable memory. Frames before the bad one may have been written.
    pub fn write(&self, to: GuestPhysAddr, from: &[u8]) -> Result<(), Errno> {
        let memory = self.hv.platform.memory();
        self.for_frames(to, from.len(), Access::Write, |offset, address, len| {
            if let Some(part) = from.get(offset..offset.saturating_add(len)) {
                memory.write(address, part);
            }
        })
    }

    /// Atomically loads an aligned 64-bit value (an unaligned address is rounded down).
    ///
    /// # Errors
    /// `EFAULT`: not memory.
    pub fn load_u64(&self, at: GuestPhysAddr) -> Result<u64, Errno> {
        let (_page, address) = self.page(at, Access::Read)?;
        Ok(self.hv.platform.memory().load_u64(address))
    }

    /// Atomic compare-and-exchange on an aligned 64-bit value; returns the value found.
    ///
    /// # Errors
    /// `EFAULT`: not writable memory.
    pub fn compare_exchange_u64(&self, at: GuestPhysAddr, old: u64, new: u64) -> Result<u64, Errno> {
        let (_page, address) = self.page(at, Access::Write)?;
        Ok(self.hv.platform.memory().compare_exchange_u64(address, old, new))
    }

    /// Atomic compare-and-exchange on an aligned 32-bit value; returns the value found.
    ///
    /// # Errors
    /// `EFAULT`: not writable memory.
    pub fn compare_exchange_u32(&self, at: GuestPhysAddr, old: u32, new: u32) -> Result<u32, Errno> {
        let (_page, address) = self.page(at, Access::Write)?;
        Ok(self.hv.platform.memory().compare_exchange_u32(address, old, new))
    }
}
