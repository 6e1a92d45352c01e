//! Hypercalls that more than one measurement needs.

use core::ptr;

use radon_abi::{event_channel, hvm, hypercall, memory, sysctl, xen};
use radon_guest::hypercall::{call, must, operate};
use zerocopy::{FromZeros, IntoBytes};

/// Sets one of the domain's parameters.
pub(crate) fn set_parameter(index: u32, value: u64) {
    let mut parameter = hvm::HvmParam { domid: xen::DOMID_SELF, pad: 0, index, value };
    must("set_param", operate(hypercall::HVM_OP, hvm::HVMOP_SET_PARAM, &mut parameter));
}

/// An event channel from this vCPU to itself; returns the port to send on and the one that is notified.
pub(crate) fn loopback() -> (u32, u32) {
    let mut unbound = event_channel::AllocUnbound::new_zeroed();
    unbound.dom = xen::DOMID_SELF;
    unbound.remote_dom = xen::DOMID_SELF;
    let number = hypercall::EVENT_CHANNEL_OP;
    must("alloc_unbound", operate(number, event_channel::EVTCHNOP_ALLOC_UNBOUND, &mut unbound));
    let mut bind = event_channel::BindInterdomain::new_zeroed();
    bind.remote_dom = xen::DOMID_SELF;
    bind.remote_port = unbound.port;
    must("bind_interdomain", operate(number, event_channel::EVTCHNOP_BIND_INTERDOMAIN, &mut bind));
    (bind.local_port, unbound.port)
}

/// What the hypervisor says of the machine's memory, in pages.
pub(crate) struct Memory {
    /// That it knows.
    pub total: u64,
    /// That nobody has.
    pub free: u64,
    /// That this domain has.
    pub own: u64,
}

/// Asks for [`Memory`].
pub(crate) fn memory() -> Memory {
    let mut request = sysctl::Sysctl::new_zeroed();
    request.as_mut_bytes()[..4].copy_from_slice(&sysctl::XEN_SYSCTL_PHYSINFO.to_le_bytes());
    request.as_mut_bytes()[4..8].copy_from_slice(&sysctl::XEN_SYSCTL_INTERFACE_VERSION.to_le_bytes());
    must("physinfo", call(hypercall::SYSCTL, [ptr::from_mut(&mut request) as u64]));
    let word = |at: usize| {
        let bytes = &request.as_bytes()[8 + at..8 + at + 8];
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
    };
    let total = word(core::mem::offset_of!(sysctl::PhysInfo, total_pages));
    let free = word(core::mem::offset_of!(sysctl::PhysInfo, free_pages));
    let mut domain = memory::MemoryDomain { domid: xen::DOMID_SELF };
    let own = operate(hypercall::MEMORY_OP, memory::XENMEM_CURRENT_RESERVATION, &mut domain);
    Memory { total, free, own: must("current_reservation", own) as u64 }
}
