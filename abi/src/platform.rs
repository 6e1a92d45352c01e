//! Xen public interface: platform (to be filled).
