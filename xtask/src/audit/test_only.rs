//! What only images for tests have must not be in the image that is shipped.

use serde_json::json;

use super::Section;
use super::code::Image;

/// Names of modules, and what they are.
const TEST_ONLY: &[(&str, &str)] = &[("forced", "forced emulation (`hvm_fep`)")];

/// Whether a file is such a module.
pub(super) fn is_module(path: &str) -> bool {
    let name = path.rsplit('/').next().and_then(|name| name.strip_suffix(".rs"));
    TEST_ONLY.iter().any(|(module, _)| name == Some(module))
}

pub(super) fn section(image: &Image) -> Section {
    let found = |module: &str| image.functions.values().filter(|f| f.name.contains(&format!("::{module}::"))).count();
    let counts: Vec<(&str, usize)> = TEST_ONLY.iter().map(|(module, what)| (*what, found(module))).collect();
    Section {
        title: "What is for tests only",
        text: counts.iter().map(|(what, count)| format!("{what}: {count} functions")).collect(),
        data: counts.iter().map(|(what, count)| json!({ "what": what, "functions": count })).collect(),
        problems: counts.iter().filter(|(_, n)| *n != 0).map(|(what, _)| format!("{what} is in the image")).collect(),
        ..Section::default()
    }
}
