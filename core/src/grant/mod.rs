//! Grant tables (under construction).
/// A domain's grant table.
#[derive(Default)]
pub struct GrantTable {}
impl GrantTable {
    /// Empty.
    #[must_use]
    pub fn new() -> Self {
        Self {}
    }
}
