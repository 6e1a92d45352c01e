//! Xen public interface: grant_table (to be filled).
