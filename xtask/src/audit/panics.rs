//! Places in the image from which code goes that panics. No guest can reach one; each is explained, by [`RULES`].
//!
//! The image is linked as a whole, so what the compiler could prove to be unreachable is not in it. What is left is
//! found as calls of the functions that all panics go through; the debug information says where in the source each
//! comes from, inlined functions included.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;

use super::Section;
use super::code::{Frame, Image};
use super::explained::{Class, RULES, Rule};

/// The functions that panics go through, and the part of their name that tells them from others.
const ENTRIES: &[(&str, &str)] = &[
    ("alloc::alloc::handle_alloc_error", "no memory"),
    ("alloc::raw_vec::capacity_overflow", "no memory"),
    ("alloc::raw_vec::handle_error", "no memory"),
    ("core::option::unwrap_failed", "unwrap"),
    ("core::option::expect_failed", "expect"),
    ("core::result::unwrap_failed", "unwrap of a result"),
    ("core::panicking::panic_bounds_check", "index"),
    ("core::slice::index::slice_", "slice"),
    ("core::str::slice_error_fail", "slice of text"),
    ("core::slice::copy_from_slice_impl::len_mismatch_fail", "copy of slices"),
    ("core::panicking::panic_const", "arithmetic"),
    ("core::num::int_log10::panic_for_nonpositive_argument", "arithmetic"),
    ("core::panicking::assert_failed", "assertion"),
    ("core::panicking::", "panic"),
    ("core::cell::panic_already", "borrow"),
    ("arrayvec::arrayvec::extend_panic", "too many elements"),
];

/// The crates whose code is ours.
const OURS: &[&str] = &["abi/src/", "core/src/", "x86/src/", "hal/src/", "radon/src/"];

/// A place from which a panic is reached.
struct Site {
    kind: &'static str,
    /// The function of the image.
    function: String,
    /// Where in the source, the innermost of inlined functions first.
    frames: Vec<Frame>,
}

impl Site {
    /// The innermost place in our own source, or else the innermost of all.
    fn place(&self) -> String {
        let ours = self.frames.iter().find(|frame| OURS.iter().any(|folder| frame.file.starts_with(folder)));
        let frame = ours.or(self.frames.first());
        frame.map_or_else(String::new, |frame| format!("{}:{} in {}", frame.file, frame.line, frame.function))
    }

    /// The rule that explains it.
    fn rule(&self) -> Option<&'static Rule> {
        RULES.iter().find(|rule| {
            let here = |place: &&str| match place.strip_prefix('=') {
                Some(start) => self.function.starts_with(start),
                None => {
                    let inlined = self.frames.iter().flat_map(|frame| [&frame.function, &frame.file]);
                    inlined.chain([&self.function]).any(|name| name.contains(place))
                }
            };
            let kind = rule.kinds.is_empty() || rule.kinds.contains(&self.kind);
            kind && (rule.places.is_empty() || rule.places.iter().any(here))
        })
    }
}

/// What a function does if panics go through it.
fn entry(name: &str) -> Option<&'static str> {
    ENTRIES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, kind)| *kind)
}

fn sites(image: &Image) -> Result<Vec<Site>> {
    let mut sites = Vec::new();
    for function in image.functions.values().filter(|function| entry(&function.name).is_none()) {
        for &(from, to) in &function.calls {
            if let Some(kind) = image.at(to).and_then(|callee| entry(&callee.name)) {
                // The call may be the function's last instruction or in the middle of another line: it is asked for itself.
                sites.push(Site { kind, function: function.name.clone(), frames: image.frames(from)? });
            }
        }
    }
    Ok(sites)
}

pub(super) fn section(image: &Image) -> Result<Section> {
    let sites = sites(image)?;
    let mut section = Section { title: "Panics in the image", ..Section::default() };
    let mut by_rule: BTreeMap<(Class, &str), Vec<&Site>> = BTreeMap::new();
    let mut data = Vec::new();
    for site in &sites {
        let rule = site.rule();
        let class = rule.map_or("unexplained".to_owned(), |rule| format!("{:?}", rule.class));
        data.push(json!({ "kind": site.kind, "function": site.function, "place": site.place(), "class": class }));
        match rule {
            Some(rule) => by_rule.entry((rule.class, rule.why)).or_default().push(site),
            None => section.problems.push(format!("{} at {}: not explained", site.kind, site.place())),
        }
    }
    section.problems.sort();
    let mut last = None;
    for ((class, why), found) in &by_rule {
        if last.replace(*class) != Some(*class) {
            section.text.push(format!("{class:?}: {}", class.meaning()));
        }
        section.text.push(format!("{:>5}  {why}", found.len()));
        section.items.push(format!("{class:?}: {why}"));
        let mut places: Vec<String> = found.iter().map(|site| format!("    {}: {}", site.kind, site.place())).collect();
        places.sort();
        places.dedup();
        section.items.extend(places);
    }
    let count = |class| by_rule.iter().filter(|((c, _), _)| *c == class).map(|(_, sites)| sites.len()).sum::<usize>();
    let live = count(Class::Invariant) + count(Class::Memory);
    section.text.push(format!("{} places in all; {live} in code that runs while guests do", sites.len()));
    let stale = RULES.iter().filter(|rule| !by_rule.contains_key(&(rule.class, rule.why)));
    section.problems.extend(stale.map(|rule| format!("explained and not there: {}", rule.why)));
    section.data = json!({ "sites": data, "total": sites.len(), "while guests run": live });
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_are_explained_by_kind_and_place() {
        let frame =
            |function: &str, file: &str| Frame { function: function.to_owned(), file: file.to_owned(), line: 1 };
        let frames = vec![frame("core::option::expect", "std/core/src/option.rs"), frame("radon_x::f", "x86/src/f.rs")];
        let site = Site { kind: "expect", function: "radon_x::g".to_owned(), frames };
        assert_eq!(site.place(), "x86/src/f.rs:1 in radon_x::f");
        assert!(site.rule().is_none());
        let frames = vec![frame("radon_hal::selftest::tests::heap", "hal/src/selftest/tests.rs")];
        let site = Site { kind: "unwrap", function: String::new(), frames };
        assert_eq!(site.rule().map(|rule| rule.class), Some(Class::Test));
        assert_eq!(entry("core::panicking::panic_bounds_check"), Some("index"));
        assert_eq!(entry("radon_core::frames::take"), None);
    }
}
