//! The caller of a hypercall.

use alloc::sync::Arc;
use core::cell::Cell;

use radon_abi::errno::Errno;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::domain::{Domain, Role};
use crate::hypervisor::Hypervisor;
use crate::platform::GuestVirtual;
use crate::types::{DomainId, GuestVirtAddr};
use crate::vcpu::Vcpu;
use radon_abi::xen::DOMID_SELF;

/// Proof that the caller may control other domains and the machine. Only [`Caller::privileged`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Privilege(());

/// Who issues a hypercall: never an ambient "current", always this parameter.
pub struct Caller<'a> {
    /// The machine's hypervisor.
    pub hv: &'a Hypervisor,
    /// The calling domain.
    pub domain: &'a Arc<Domain>,
    /// The calling vCPU.
    pub vcpu: &'a Arc<Vcpu>,
    /// The calling vCPU's memory.
    pub memory: &'a dyn GuestVirtual,
    /// Whether it calls in 32-bit mode, with structures of that layout: [`super::compat`].
    pub compat: bool,
    /// Whether it has interrupts on. One that has not does not take an event that is pending for a reason to wake.
    pub interrupts: bool,
    budget: Cell<u32>,
}

/// Units of work (roughly: pages or list entries handled) that one hypercall may do before it must offer a
/// continuation. About 100 µs.
const BUDGET: u32 = 512;

impl<'a> Caller<'a> {
    /// A caller in 64-bit mode with a full budget.
    #[must_use]
    pub fn new(
        hv: &'a Hypervisor,
        domain: &'a Arc<Domain>,
        vcpu: &'a Arc<Vcpu>,
        memory: &'a dyn GuestVirtual,
    ) -> Caller<'a> {
        Caller { hv, domain, vcpu, memory, compat: false, interrupts: true, budget: Cell::new(BUDGET) }
    }

    /// The same caller in 32-bit mode, if `compat`.
    #[must_use]
    pub fn in_mode(self, compat: bool) -> Caller<'a> {
        Caller { compat, ..self }
    }

    /// The same caller with interrupts on or off.
    #[must_use]
    pub fn with_interrupts(self, interrupts: bool) -> Caller<'a> {
        Caller { interrupts, ..self }
    }

    /// Does something as the same caller with another view of its memory, and with what is left of its budget.
    pub(super) fn with_memory<R>(&self, memory: &dyn GuestVirtual, f: impl FnOnce(&Caller<'_>) -> R) -> R {
        let Caller { hv, domain, vcpu, compat, interrupts, .. } = *self;
        let other = Caller { hv, domain, vcpu, memory, compat, interrupts, budget: Cell::new(self.budget.get()) };
        let result = f(&other);
        self.budget.set(other.budget.get());
        result
    }

    /// Spends one unit of the budget. `false` means that it is used up: stop and return
    /// [`super::Outcome::Continue`] with the state reached. At least one unit can always be spent.
    #[must_use]
    pub fn spend(&self) -> bool {
        let left = self.budget.get();
        self.budget.set(left.saturating_sub(1));
        left > 0
    }

    /// Spends units for a step that was longer than others; the next [`Caller::spend`] finds out whether that was too much.
    pub fn overdraw(&self, units: u32) {
        self.budget.set(self.budget.get().saturating_sub(units));
    }

    /// Units of the budget that are left, for tests.
    #[cfg(test)]
    pub(crate) fn budget(&self) -> u32 {
        self.budget.get()
    }

    /// The right to control other domains.
    ///
    /// # Errors
    /// `EPERM` unless the caller is the control domain.
    pub fn privileged(&self) -> Result<Privilege, Errno> {
        match self.domain.role {
            Role::Hardware => Ok(Privilege(())),
            Role::Guest => Err(Errno::EPERM),
        }
    }

    /// The domain a hypercall names, which may be `DOMID_SELF`. Naming another domain needs privilege.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EPERM` if it is another one and the caller is not privileged.
    pub fn target(&self, id: u16) -> Result<Arc<Domain>, Errno> {
        if id == DOMID_SELF || id == self.domain.id.0 {
            return Ok(self.domain.clone());
        }
        let found = self.hv.domains.get(DomainId(id))?;
        self.privileged()?;
        Ok(found)
    }

    /// Copies a structure in, once.
    ///
    /// # Errors
    /// `EFAULT` if the guest has no readable memory there.
    pub fn read<T: FromBytes + IntoBytes + FromZeros>(&self, from: GuestVirtAddr) -> Result<T, Errno> {
        let mut value = T::new_zeroed();
        self.memory.read(from, value.as_mut_bytes())?;
        Ok(value)
    }

    /// Copies element `index` of an array in.
    ///
    /// # Errors
    /// `EFAULT` if the guest has no readable memory there.
    pub fn read_at<T: FromBytes + IntoBytes + FromZeros>(&self, array: GuestVirtAddr, index: u64) -> Result<T, Errno> {
        self.read(element::<T>(array, index)?)
    }

    /// Copies a structure out.
    ///
    /// # Errors
    /// `EFAULT` if the guest has no writable memory there.
    pub fn write<T: IntoBytes + Immutable>(&self, to: GuestVirtAddr, value: &T) -> Result<(), Errno> {
        self.memory.write(to, value.as_bytes())
    }

    /// Copies element `index` of an array out.
    ///
    /// # Errors
    /// `EFAULT` if the guest has no writable memory there.
    pub fn write_at<T: IntoBytes + Immutable>(&self, array: GuestVirtAddr, index: u64, value: &T) -> Result<(), Errno> {
        self.write(element::<T>(array, index)?, value)
    }
}

/// The address of an array's element; `EFAULT` if it wraps.
fn element<T>(array: GuestVirtAddr, index: u64) -> Result<GuestVirtAddr, Errno> {
    index
        .checked_mul(size_of::<T>() as u64)
        .and_then(|offset| array.0.checked_add(offset))
        .map(GuestVirtAddr)
        .ok_or(Errno::EFAULT)
}
