//! The console (under construction).
/// The console.
#[derive(Default)]
pub struct Console {}
