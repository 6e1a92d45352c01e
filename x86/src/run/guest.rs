//! A vCPU's memory by guest-virtual address: page-table walk, then the domain's p2m.

use core::cell::RefCell;

use radon_abi::errno::Errno;
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::GuestPhys;
use radon_core::platform::{GuestVirtual, PhysMemory};
use radon_core::types::{GuestPhysAddr, GuestVirtAddr, PAGE_SIZE};

use crate::emulate::walk::{Access, Paging, TableMemory, WalkError, walk, walk_and_mark};
use crate::run::WalkCache;
use crate::run::walk_cache::Memory;
use crate::vcpu::VcpuState;
use crate::virt::VirtualCpu;

/// Guest-physical memory for page-table walks.
pub(super) struct Tables<'a>(pub GuestPhys<'a>);

impl TableMemory for Tables<'_> {
    type Error = Errno;

    fn load(&mut self, at: GuestPhysAddr) -> Result<u64, Errno> {
        self.0.load_u64(at)
    }

    fn compare_exchange(&mut self, at: GuestPhysAddr, old: u64, new: u64) -> Result<bool, Errno> {
        Ok(self.0.compare_exchange_u64(at, old, new)? == old)
    }
}

/// A vCPU's memory with the paging mode it has now and supervisor rights, for the structures that hypercalls name.
///
/// SMAP does not apply: hypercall arguments of user processes are passed through the kernel's hands (privcmd), which says
/// so by making the call.
pub struct GuestMemory<'a> {
    phys: GuestPhys<'a>,
    memory: &'a dyn PhysMemory,
    paging: Paging,
    walks: RefCell<&'a mut WalkCache>,
}

/// The paging mode of a vCPU.
pub(super) fn paging_of(cpu: &dyn VirtualCpu) -> Paging {
    let c = cpu.control();
    Paging::new(c.cr0, c.cr3, c.cr4, c.efer, 52, true)
}

impl<'a> GuestMemory<'a> {
    /// The memory of the vCPU of `domain` that is in this state.
    #[must_use]
    pub fn new(hv: &'a Hypervisor, domain: &'a Domain, state: &'a mut VcpuState) -> GuestMemory<'a> {
        GuestMemory {
            phys: GuestPhys::new(hv, &domain.p2m),
            memory: hv.platform.memory(),
            paging: paging_of(&*state.cpu),
            walks: RefCell::new(&mut state.walks),
        }
    }

    fn memory(&self) -> Memory<'a> {
        Memory { phys: self.phys, machine: self.memory }
    }

    /// Reads what is in one page through a walk that was made before.
    fn read_again(&self, at: GuestVirtAddr, to: &mut [u8]) -> bool {
        let Ok(mut walks) = self.walks.try_borrow_mut() else { return false };
        let access = Access { smap_exempt: true, ..Access::READ };
        walks.read(self.memory(), &self.paging, access, at.0, to)
    }

    fn find(&self, at: GuestVirtAddr, write: bool) -> Result<GuestPhysAddr, Errno> {
        let access = Access { write, smap_exempt: true, ..Access::READ };
        if write
            && let Ok(mut walks) = self.walks.try_borrow_mut()
            && let Some(found) = walks.translate(self.memory(), &self.paging, access, at.0)
        {
            return Ok(found);
        }
        let mut tables = Tables(self.phys);
        // A write must leave the dirty bit behind, or the guest could take its own page for unchanged.
        let found = match write {
            true => walk_and_mark(&mut tables, &self.paging, at.0, access),
            false => walk(&mut tables, &self.paging, at.0, access),
        };
        found.map(|translation| translation.address).map_err(|e| match e {
            WalkError::Busy => Errno::EAGAIN,
            WalkError::Table(_) | WalkError::PageFault(_) | WalkError::NotCanonical => Errno::EFAULT,
        })
    }
}

/// Splits `len` bytes at `at` at page boundaries: calls `f` with (offset, address, length) of each part.
fn for_pages(
    at: GuestVirtAddr,
    len: usize,
    mut f: impl FnMut(usize, GuestVirtAddr, usize) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let mut done = 0_usize;
    while done < len {
        let here = GuestVirtAddr(at.0.checked_add(done as u64).ok_or(Errno::EFAULT)?);
        let in_page = PAGE_SIZE.saturating_sub(here.offset()) as usize;
        let part = len.saturating_sub(done).min(in_page);
        f(done, here, part)?;
        done = done.saturating_add(part);
    }
    Ok(())
}

impl GuestVirtual for GuestMemory<'_> {
    fn read(&self, from: GuestVirtAddr, to: &mut [u8]) -> Result<(), Errno> {
        for_pages(from, to.len(), |offset, here, len| {
            let part = to.get_mut(offset..offset.saturating_add(len)).ok_or(Errno::EFAULT)?;
            if self.read_again(here, part) {
                return Ok(());
            }
            self.phys.read(self.find(here, false)?, part)
        })
    }

    fn write(&self, to: GuestVirtAddr, from: &[u8]) -> Result<(), Errno> {
        for_pages(to, from.len(), |offset, here, len| {
            let part = from.get(offset..offset.saturating_add(len)).ok_or(Errno::EFAULT)?;
            self.phys.write(self.find(here, true)?, part)
        })
    }

    fn translate(&self, at: GuestVirtAddr, write: bool) -> Result<GuestPhysAddr, Errno> {
        self.find(at, write)
    }
}
