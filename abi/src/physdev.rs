//! Xen public interface: physdev (to be filled).
