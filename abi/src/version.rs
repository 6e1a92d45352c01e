//! Xen public interface: version (to be filled).
