//! `domctl(op)`: what the control domain does with one domain.
//!
//! The structure behind the handle names operation and interface version in its first 8 bytes, the domain in the next 8;
//! the rest is the operation's. The dispatcher copies the first part, the operation the others, so every byte is copied
//! in once. What an operation returns is written back to where its structure came from.
//!
//! Who may: the control domain only. An operation that changes a domain runs alone ([`crate::control::Control::enter`]);
//! if another is under way the caller tries again. Long ones spend the caller's budget and are continued.

mod life;
mod query;

use alloc::sync::Arc;

use radon_abi::domctl as abi;
use radon_abi::errno::Errno;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::hypercall::{Args, Caller, Coverage, OpResult, Operation, Outcome, SUCCESS, operation};
use crate::types::{DomainId, GuestVirtAddr, VcpuId};
use crate::vcpu::Vcpu;

const fn op(number: u32, name: &'static str, handler: fn(&Caller<'_>, Args) -> OpResult) -> Operation {
    Operation { number, name, coverage: Coverage::Full, handler }
}

/// All operations.
pub static OPERATIONS: &[Operation] = &[
    op(abi::XEN_DOMCTL_PAUSEDOMAIN, "XEN_DOMCTL_pausedomain", life::pause),
    op(abi::XEN_DOMCTL_UNPAUSEDOMAIN, "XEN_DOMCTL_unpausedomain", life::unpause),
    op(abi::XEN_DOMCTL_GETDOMAININFO, "XEN_DOMCTL_getdomaininfo", query::get_domain_info),
    op(abi::XEN_DOMCTL_GETVCPUINFO, "XEN_DOMCTL_getvcpuinfo", query::get_vcpu_info),
];

/// `domctl(op)`.
///
/// # Errors
/// `EPERM` for callers other than the control domain; `EFAULT`; `EACCES` for another version of the interface; `ENOSYS`
/// for an unknown operation; `ESRCH` for an unknown domain; else see there.
pub fn domctl(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    let [cmd, version]: [u32; 2] = caller.read(args.handle(0))?;
    if version != abi::XEN_DOMCTL_INTERFACE_VERSION {
        return Err(Errno::EACCES);
    }
    // Operations that change nothing need not be alone, but they are short.
    let Some(_alone) = caller.hv.control.enter() else { return Ok(Outcome::Continue(args)) };
    operation(OPERATIONS, cmd, caller, args)
}

/// An address within the caller's structure.
fn at(args: Args, offset: usize) -> GuestVirtAddr {
    GuestVirtAddr(args.get(0).wrapping_add(offset as u64))
}

/// Where the number of the domain is.
const DOMAIN: usize = core::mem::offset_of!(abi::Header, domain);

/// The number of the domain that the caller names.
fn number(caller: &Caller<'_>, args: Args) -> Result<DomainId, Errno> {
    caller.read(at(args, DOMAIN)).map(DomainId)
}

/// The domain that the caller names, for operations without a structure.
///
/// # Errors
/// `EPERM`: not the control domain. `ESRCH`: no such domain (reserved numbers name none here). `EFAULT`.
fn domain(caller: &Caller<'_>, args: Args) -> Result<Arc<Domain>, Errno> {
    caller.privileged()?;
    caller.hv.domains.get(number(caller, args)?)
}

/// The domain that the caller names, and the operation's structure.
///
/// # Errors
/// As [`domain`].
fn request<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<(Arc<Domain>, T), Errno> {
    Ok((domain(caller, args)?, read(caller, args)?))
}

/// Copies the operation's structure in.
fn read<T: FromBytes + IntoBytes>(caller: &Caller<'_>, args: Args) -> Result<T, Errno> {
    caller.read(at(args, size_of::<abi::Header>()))
}

/// Copies the operation's structure out.
fn write<T: IntoBytes + Immutable>(caller: &Caller<'_>, args: Args, value: &T) -> OpResult {
    caller.write(at(args, size_of::<abi::Header>()), value)?;
    SUCCESS
}

/// A vCPU of a domain.
///
/// # Errors
/// `errno` if there is none of that number: operations differ in it.
fn vcpu_of(domain: &Domain, number: u32, errno: Errno) -> Result<&Arc<Vcpu>, Errno> {
    domain.vcpu(VcpuId(number)).ok_or(errno)
}

#[cfg(test)]
mod tests;
