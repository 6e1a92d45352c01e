//! Xen public interface: event_channel (to be filled).
