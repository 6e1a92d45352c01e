//! The hypercalls, each with the number of its operation, so that a check can be asked whether it called what it is about.

use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use radon_abi::domctl::{Domctl, XEN_DOMCTL_INTERFACE_VERSION};
use radon_abi::platform::{PlatformOp, XENPF_INTERFACE_VERSION};
use radon_abi::sysctl::{Sysctl, XEN_SYSCTL_INTERFACE_VERSION};
use radon_abi::{domctl, hypercall};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use super::check::{NONE, Name};
use super::twin::Twin;

/// The result of a hypercall that was not refused, or what came instead.
pub(crate) type Answer = Result<u64, Refused>;

/// A hypercall was refused.
pub(crate) struct Refused {
    number: u32,
    operation: u32,
    pub result: i64,
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = hypercall::name(self.number).unwrap_or("?");
        match self.operation {
            NONE => write!(f, "{name} is refused with {}", Name(self.result)),
            operation => write!(f, "{name} {operation} is refused with {}", Name(self.result)),
        }
    }
}

/// What the present check is about, and whether it was called.
static EXPECTED: AtomicU64 = AtomicU64::new(0);
static CALLED: AtomicBool = AtomicBool::new(false);

const fn key(number: u32, operation: u32) -> u64 {
    (number as u64) << 32 | operation as u64
}

/// A check begins.
pub(crate) fn expect(number: u32, operation: u32) {
    EXPECTED.store(key(number, operation), Ordering::Relaxed);
    CALLED.store(false, Ordering::Relaxed);
}

/// Whether what it is about was called.
pub(crate) fn was_called() -> bool {
    CALLED.load(Ordering::Relaxed)
}

/// Notes a call that is made here or by the copy.
pub(crate) fn note(number: u32, operation: u32) {
    if key(number, operation) == EXPECTED.load(Ordering::Relaxed) {
        CALLED.store(true, Ordering::Relaxed);
    }
}

/// What came of a call.
pub(crate) fn answer(number: u32, operation: u32, result: i64) -> Answer {
    u64::try_from(result).map_err(|_| Refused { number, operation, result })
}

/// A hypercall with these arguments; `operation` is only noted.
pub(crate) fn hyper<const N: usize>(number: u32, operation: u32, arguments: [u64; N]) -> Answer {
    note(number, operation);
    answer(number, operation, radon_guest::hypercall::call(number, arguments))
}

/// An operation with a structure that the hypervisor may write.
pub(crate) fn operate<T>(number: u32, operation: u32, argument: &mut T) -> Answer {
    hyper(number, operation, [u64::from(operation), ptr::from_mut(argument) as u64])
}

/// An operation of `memory_op`.
pub(crate) fn memory<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::MEMORY_OP, operation, argument)
}

/// An operation of `event_channel_op`.
pub(crate) fn event<T>(operation: u32, argument: &mut T) -> Answer {
    operate(hypercall::EVENT_CHANNEL_OP, operation, argument)
}

/// An operation of `grant_table_op` on a list.
pub(crate) fn grant<T>(operation: u32, list: &mut [T]) -> Answer {
    let arguments = [u64::from(operation), list.as_mut_ptr() as u64, list.len() as u64];
    hyper(hypercall::GRANT_TABLE_OP, operation, arguments)
}

/// An operation of `vcpu_op`.
pub(crate) fn vcpu<T>(operation: u32, vcpu: u32, argument: &mut T) -> Answer {
    let arguments = [u64::from(operation), u64::from(vcpu), ptr::from_mut(argument) as u64];
    hyper(hypercall::VCPU_OP, operation, arguments)
}

/// An operation of `sysctl`, whose structure is copied in and out.
pub(crate) fn sysctl<T: FromBytes + IntoBytes + Immutable>(operation: u32, argument: &mut T) -> Answer {
    let mut request = Sysctl::new_zeroed();
    request.header.cmd = operation;
    request.header.interface_version = XEN_SYSCTL_INTERFACE_VERSION;
    let size = size_of::<T>();
    request.payload[..size].copy_from_slice(argument.as_bytes());
    let answer = hyper(hypercall::SYSCTL, operation, [ptr::from_mut(&mut request) as u64]);
    argument.as_mut_bytes().copy_from_slice(&request.payload[..size]);
    answer
}

/// An operation of `domctl`, whose structure is copied in and out.
pub(crate) fn domctl<T: FromBytes + IntoBytes + Immutable>(operation: u32, domain: u16, argument: &mut T) -> Answer {
    domctl_naming(operation, domain, argument).1
}

/// The same, with the domain that the hypervisor names.
pub(crate) fn domctl_naming<T: FromBytes + IntoBytes + Immutable>(
    operation: u32,
    domain: u16,
    argument: &mut T,
) -> (u16, Answer) {
    let mut request = Domctl::new_zeroed();
    request.header.cmd = operation;
    request.header.interface_version = XEN_DOMCTL_INTERFACE_VERSION;
    request.header.domain = domain;
    let size = size_of::<T>();
    request.payload[..size].copy_from_slice(argument.as_bytes());
    let answer = hyper(hypercall::DOMCTL, operation, [ptr::from_mut(&mut request) as u64]);
    argument.as_mut_bytes().copy_from_slice(&request.payload[..size]);
    (request.header.domain, answer)
}

/// What the hypervisor says of a domain.
pub(crate) fn domain_info(domain: u16) -> Result<domctl::DomainInfo, Refused> {
    let mut info = domctl::DomainInfo::default();
    domctl(domctl::XEN_DOMCTL_GETDOMAININFO, domain, &mut info)?;
    Ok(info)
}

/// An operation of `platform_op`, whose structure is copied in and out.
pub(crate) fn platform<T: FromBytes + IntoBytes + Immutable>(operation: u32, argument: &mut T) -> Answer {
    let mut request = PlatformOp::new_zeroed();
    request.cmd = operation;
    request.interface_version = XENPF_INTERFACE_VERSION;
    let size = size_of::<T>();
    request.u[..size].copy_from_slice(argument.as_bytes());
    let answer = hyper(hypercall::PLATFORM_OP, operation, [ptr::from_mut(&mut request) as u64]);
    argument.as_mut_bytes().copy_from_slice(&request.u[..size]);
    answer
}

/// An operation with a structure of zeros, as far as it goes; on the copy, if it is about a domain.
pub(crate) fn with_anything(number: u32, operation: u32, twin: &Twin) -> Answer {
    let mut zeros = [0u64; 64];
    match number {
        hypercall::SYSCTL => sysctl(operation, &mut [0u8; 128]),
        hypercall::DOMCTL => domctl(operation, twin.domain, &mut [0u8; 128]),
        hypercall::PLATFORM_OP => platform(operation, &mut [0u8; 128]),
        hypercall::GRANT_TABLE_OP => grant(operation, core::slice::from_mut(&mut zeros)),
        _ if operation == NONE => hyper(number, operation, [ptr::from_mut(&mut zeros) as u64]),
        _ => operate(number, operation, &mut zeros),
    }
}
