//! Guest frames that event delivery writes to at any time: `vcpu_info`, FIFO control blocks, the FIFO event array.

use radon_abi::errno::Errno;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::p2m::Access;
use crate::types::{Gfn, Mfn};

/// A counted reference on a frame of the domain's own, so that the frame cannot become anyone else's while events may
/// be written to it. It is ended by [`Pin::release`] only.
#[derive(Debug)]
#[must_use = "a reference that is dropped is never given back"]
pub struct Pin(Mfn);

impl Pin {
    /// Takes a reference on the frame that `domain` has at `gfn`.
    ///
    /// # Errors
    /// `EINVAL` if there is none, or not one that the domain owns and may write.
    pub fn new(hv: &Hypervisor, domain: &Domain, gfn: Gfn) -> Result<Pin, Errno> {
        let page = domain.p2m.get_page(hv, gfn, Access::Write).map_err(|_| Errno::EINVAL)?;
        if page.page.owner() != domain.id {
            return Err(Errno::EINVAL);
        }
        Ok(Pin(page.page.keep()))
    }

    /// The frame.
    #[must_use]
    pub fn mfn(&self) -> Mfn {
        self.0
    }

    /// Gives the reference back.
    pub fn release(self, hv: &Hypervisor) {
        hv.frames.put(self.0);
    }
}
