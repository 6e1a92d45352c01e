//! `sched.h`: the operations of `sched_op`, their structures and the reasons of a shutdown.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Gives up the CPU to others for now. No argument.
pub const SCHEDOP_YIELD: u32 = 0;
/// Blocks until an event is pending. No argument.
pub const SCHEDOP_BLOCK: u32 = 1;
/// Shuts the calling domain down: [`Shutdown`].
pub const SCHEDOP_SHUTDOWN: u32 = 2;
/// Blocks until one of some event channels is pending: [`Poll`].
pub const SCHEDOP_POLL: u32 = 3;
/// Shuts another domain down: [`RemoteShutdown`].
pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
/// Notes the reason that a later shutdown will have: [`Shutdown`].
pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
/// Starts, pokes or stops a watchdog of the calling domain: [`Watchdog`].
pub const SCHEDOP_WATCHDOG: u32 = 6;
/// Pins the calling vCPU to a physical CPU for a while: [`PinOverride`].
pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;

/// The domain ended as it should.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// The domain wants to start anew.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// The domain is ready to be saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// The domain failed.
pub const SHUTDOWN_CRASH: u32 = 3;
/// A watchdog of the domain ran out.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// The domain keeps its memory and wants its interfaces to Xen reset.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// The highest valid reason.
pub const SHUTDOWN_MAX: u32 = 5;

/// Most ports one [`SCHEDOP_POLL`] may name.
pub const POLL_PORTS_MAX: u32 = 128;

/// `struct sched_shutdown`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Shutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_poll`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Poll {
    /// Guest-virtual address of the array of ports (`u32` each).
    pub ports: u64,
    /// How many.
    pub nr_ports: u32,
    /// Padding.
    pub _pad: u32,
    /// System time (ns) to give up at; 0 for never.
    pub timeout: u64,
}

/// `struct sched_remote_shutdown`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RemoteShutdown {
    /// The domain.
    pub domain_id: u16,
    /// Padding.
    pub _pad: u16,
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_watchdog`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Watchdog {
    /// Which watchdog, from 1; 0 asks for a free one.
    pub id: u32,
    /// Seconds until it barks; 0 stops it.
    pub timeout: u32,
}

/// `struct sched_pin_override`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PinOverride {
    /// The physical CPU; negative ends the override.
    pub pcpu: i32,
}

const _: () = {
    assert!(size_of::<Shutdown>() == 4);
    assert!(size_of::<Poll>() == 24);
    assert!(core::mem::offset_of!(Poll, nr_ports) == 8);
    assert!(core::mem::offset_of!(Poll, timeout) == 16);
    assert!(size_of::<RemoteShutdown>() == 8);
    assert!(core::mem::offset_of!(RemoteShutdown, reason) == 4);
    assert!(size_of::<Watchdog>() == 8);
    assert!(size_of::<PinOverride>() == 4);
};
