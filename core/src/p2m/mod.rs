//! The p2m (under construction).
/// A domain's map of guest frames to machine frames.
pub struct P2m {}
