//! `event_channel.h`: operations on event channels, the 2-level and the FIFO ABI.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `EVTCHNOP_bind_interdomain`.
pub const EVTCHNOP_BIND_INTERDOMAIN: u32 = 0;
/// `EVTCHNOP_bind_virq`.
pub const EVTCHNOP_BIND_VIRQ: u32 = 1;
/// `EVTCHNOP_bind_pirq`.
pub const EVTCHNOP_BIND_PIRQ: u32 = 2;
/// `EVTCHNOP_close`.
pub const EVTCHNOP_CLOSE: u32 = 3;
/// `EVTCHNOP_send`.
pub const EVTCHNOP_SEND: u32 = 4;
/// `EVTCHNOP_status`.
pub const EVTCHNOP_STATUS: u32 = 5;
/// `EVTCHNOP_alloc_unbound`.
pub const EVTCHNOP_ALLOC_UNBOUND: u32 = 6;
/// `EVTCHNOP_bind_ipi`.
pub const EVTCHNOP_BIND_IPI: u32 = 7;
/// `EVTCHNOP_bind_vcpu`.
pub const EVTCHNOP_BIND_VCPU: u32 = 8;
/// `EVTCHNOP_unmask`.
pub const EVTCHNOP_UNMASK: u32 = 9;
/// `EVTCHNOP_reset`.
pub const EVTCHNOP_RESET: u32 = 10;
/// `EVTCHNOP_init_control`.
pub const EVTCHNOP_INIT_CONTROL: u32 = 11;
/// `EVTCHNOP_expand_array`.
pub const EVTCHNOP_EXPAND_ARRAY: u32 = 12;
/// `EVTCHNOP_set_priority`.
pub const EVTCHNOP_SET_PRIORITY: u32 = 13;
/// `EVTCHNOP_reset_cont`: a continued `EVTCHNOP_reset`.
pub const EVTCHNOP_RESET_CONT: u32 = 14;

/// The port is not in use.
pub const EVTCHNSTAT_CLOSED: u32 = 0;
/// Waits for an interdomain connection.
pub const EVTCHNSTAT_UNBOUND: u32 = 1;
/// Connected to a port of a domain.
pub const EVTCHNSTAT_INTERDOMAIN: u32 = 2;
/// Bound to a physical interrupt.
pub const EVTCHNSTAT_PIRQ: u32 = 3;
/// Bound to a virtual interrupt.
pub const EVTCHNSTAT_VIRQ: u32 = 4;
/// Bound to a virtual inter-processor interrupt.
pub const EVTCHNSTAT_IPI: u32 = 5;

/// `evtchn_alloc_unbound`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AllocUnbound {
    /// In: the domain that gets the port.
    pub dom: u16,
    /// In: the domain that may bind to it.
    pub remote_dom: u16,
    /// Out: the port.
    pub port: u32,
}

/// `evtchn_bind_interdomain`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindInterdomain {
    /// In: the other domain.
    pub remote_dom: u16,
    /// Ignored.
    pub _pad: u16,
    /// In: its unbound port.
    pub remote_port: u32,
    /// Out: the caller's port.
    pub local_port: u32,
}

/// `evtchn_bind_virq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVirq {
    /// In: `VIRQ_*`.
    pub virq: u32,
    /// In: the vCPU; 0 for global ones.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// `evtchn_bind_pirq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindPirq {
    /// In: the physical interrupt.
    pub pirq: u32,
    /// In: `BIND_PIRQ__*`.
    pub flags: u32,
    /// Out: the port.
    pub port: u32,
}

/// `evtchn_bind_ipi`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindIpi {
    /// In: the vCPU that is notified.
    pub vcpu: u32,
    /// Out: the port.
    pub port: u32,
}

/// `evtchn_close`, `evtchn_send` and `evtchn_unmask`: one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OnePort {
    /// In: the port.
    pub port: u32,
}

/// `evtchn_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Status {
    /// In: the domain.
    pub dom: u16,
    /// Ignored.
    pub _pad: u16,
    /// In: its port.
    pub port: u32,
    /// Out: `EVTCHNSTAT_*`.
    pub status: u32,
    /// Out: the vCPU that is notified.
    pub vcpu: u32,
    /// Out, the union's first word: remote domain (unbound, interdomain; low 16 bits), PIRQ or VIRQ.
    pub peer: u32,
    /// Out, the union's second word: remote port (interdomain).
    pub peer_port: u32,
}

/// `evtchn_bind_vcpu`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct BindVcpu {
    /// In: the port.
    pub port: u32,
    /// In: the vCPU to notify.
    pub vcpu: u32,
}

/// `evtchn_reset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Reset {
    /// In: the domain.
    pub dom: u16,
}

/// `evtchn_init_control`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct InitControl {
    /// In: the guest frame of the control block.
    pub control_gfn: u64,
    /// In: its offset within the frame.
    pub offset: u32,
    /// In: whose it is.
    pub vcpu: u32,
    /// Out: width of the link field.
    pub link_bits: u8,
    /// Ignored.
    pub _pad: [u8; 7],
}

/// `evtchn_expand_array`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExpandArray {
    /// In: the guest frame of the array's next page.
    pub array_gfn: u64,
}

/// `evtchn_set_priority`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetPriority {
    /// In: the port.
    pub port: u32,
    /// In: 0 (highest) to 15.
    pub priority: u32,
}

/// Ports of the 2-level ABI (`EVTCHN_2L_NR_CHANNELS`) for 64-bit guests.
pub const EVTCHN_2L_NR_CHANNELS: u32 = 4096;
/// Ports of the 2-level ABI for 32-bit guests.
pub const EVTCHN_2L_NR_CHANNELS_COMPAT: u32 = 1024;

/// Highest priority.
pub const EVTCHN_FIFO_PRIORITY_MAX: u32 = 0;
/// Priority of a new channel.
pub const EVTCHN_FIFO_PRIORITY_DEFAULT: u32 = 7;
/// Lowest priority.
pub const EVTCHN_FIFO_PRIORITY_MIN: u32 = 15;
/// Queues of a vCPU: one per priority.
pub const EVTCHN_FIFO_MAX_QUEUES: usize = 16;

/// Event word: the event is pending.
pub const EVTCHN_FIFO_PENDING: u32 = 1 << 31;
/// Event word: the event is masked.
pub const EVTCHN_FIFO_MASKED: u32 = 1 << 30;
/// Event word: the event is in a queue.
pub const EVTCHN_FIFO_LINKED: u32 = 1 << 29;
/// Event word: the hypervisor is linking; the guest may not unmask.
pub const EVTCHN_FIFO_BUSY: u32 = 1 << 28;
/// Width of the link field.
pub const EVTCHN_FIFO_LINK_BITS: u32 = 17;
/// The link field: the next port in the queue, 0 at the end.
pub const EVTCHN_FIFO_LINK_MASK: u32 = (1 << EVTCHN_FIFO_LINK_BITS) - 1;
/// Ports of the FIFO ABI.
pub const EVTCHN_FIFO_NR_CHANNELS: u32 = 1 << EVTCHN_FIFO_LINK_BITS;

/// `evtchn_fifo_control_block`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FifoControlBlock {
    /// A bit per priority whose queue went from empty to not empty.
    pub ready: u32,
    /// Zero.
    pub _rsvd: u32,
    /// The first port of each queue, when its ready bit is set.
    pub head: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

/// Where [`FifoControlBlock::ready`] is.
pub const FIFO_READY_OFFSET: u64 = core::mem::offset_of!(FifoControlBlock, ready) as u64;
/// Where [`FifoControlBlock::head`] is; 4 bytes per priority.
pub const FIFO_HEAD_OFFSET: u64 = core::mem::offset_of!(FifoControlBlock, head) as u64;

const _: () = {
    assert!(size_of::<AllocUnbound>() == 8);
    assert!(size_of::<BindInterdomain>() == 12);
    assert!(size_of::<BindVirq>() == 12);
    assert!(size_of::<BindPirq>() == 12);
    assert!(size_of::<BindIpi>() == 8);
    assert!(size_of::<OnePort>() == 4);
    assert!(size_of::<Status>() == 24);
    assert!(size_of::<BindVcpu>() == 8);
    assert!(size_of::<Reset>() == 2);
    assert!(size_of::<InitControl>() == 24);
    assert!(size_of::<ExpandArray>() == 8);
    assert!(size_of::<SetPriority>() == 8);
    assert!(size_of::<FifoControlBlock>() == 72);
};
