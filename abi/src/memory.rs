//! Xen public interface: memory (to be filled).
