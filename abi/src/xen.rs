//! `xen.h`: hypercall numbers, reserved domain numbers, shared information pages.

/// The calling domain itself.
pub const DOMID_SELF: u16 = 0x7ff0;
