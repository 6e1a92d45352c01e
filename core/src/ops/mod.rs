//! Small hypercalls: what the hypervisor says about itself, HVM parameters, physical devices and the platform.
//!
//! One hypercall per module, with the table of its operations first.

pub mod hvm;
pub mod hypfs;
pub mod multicall;
pub mod physdev;
pub mod platform;
pub(crate) mod power;
pub mod version;
pub mod vm_assist;

use radon_abi::errno::Errno;

use crate::hypercall::{Args, Caller, OpResult};

/// `xsm_op(op)`: there is no loadable security policy.
///
/// # Errors
/// `ENOSYS` always.
pub fn xsm_op(_: &Caller<'_>, _: Args) -> OpResult {
    Err(Errno::ENOSYS)
}

/// `xenpmu_op(op, arg)`: performance counters are not virtualised, as in Xen without `vpmu` on its command line.
///
/// # Errors
/// `EOPNOTSUPP` always.
pub fn xenpmu_op(_: &Caller<'_>, _: Args) -> OpResult {
    Err(Errno::EOPNOTSUPP)
}
