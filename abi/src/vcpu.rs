//! Xen public interface: vcpu (to be filled).
