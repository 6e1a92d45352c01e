//! Xen public interface: features (to be filled).
