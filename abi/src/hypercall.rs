//! Xen public interface: hypercall (to be filled).
