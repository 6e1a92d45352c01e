//! Machine frames (under construction).
/// The allocator of machine frames.
pub struct FrameAllocator {}
