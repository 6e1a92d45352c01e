//! Xen public interface: sched (to be filled).
