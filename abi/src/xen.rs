//! Xen public interface: xen (to be filled).
