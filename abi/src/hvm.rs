//! Xen public interface: hvm (to be filled).
