//! Lines of code by layer, against the limits that the project has set itself.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Section, test_only};
use crate::source::{File, Lines};

/// The layers whose code runs in ring 0.
const IMAGE: &[&str] = &["abi", "core", "x86", "hal", "radon"];
/// Lines of code that may run in ring 0, tests not counted.
const IMAGE_LIMIT: usize = 40_000;
/// Lines that a file may have.
const FILE_LIMIT: usize = 1_000;

pub(super) fn section(files: &[File]) -> Section {
    let mut section = Section { title: "Lines of code", ..Section::default() };
    let mut layers: BTreeMap<&str, (usize, Lines)> = BTreeMap::new();
    for file in files {
        let (count, lines) = layers.entry(file.layer()).or_default();
        *count += 1;
        lines.code += file.lines.code;
        lines.tests += file.lines.tests;
        lines.comments += file.lines.comments;
        let all = file.lines.code + file.lines.tests + file.lines.comments;
        if all > FILE_LIMIT {
            section.problems.push(format!("{} has {all} lines, more than {FILE_LIMIT}", file.path));
        }
    }
    section.text.push(format!("{:<14} {:>6} {:>7} {:>7} {:>9}", "layer", "files", "code", "tests", "comments"));
    let known = IMAGE.iter().copied().filter(|layer| layers.contains_key(layer));
    let others = layers.keys().copied().filter(|layer| !IMAGE.contains(layer));
    let order: Vec<&str> = known.chain(others).collect();
    let mut data = serde_json::Map::new();
    for layer in order {
        let (count, lines) = layers.get(layer).copied().unwrap_or_default();
        let Lines { code, tests, comments } = lines;
        section.text.push(format!("{layer:<14} {count:>6} {code:>7} {tests:>7} {comments:>9}"));
        data.insert(layer.to_owned(), json!({ "files": count, "code": code, "tests": tests, "comments": comments }));
    }
    let ring0 = ring0(files);
    section.text.push(format!("in ring 0: {ring0} lines of code, of at most {IMAGE_LIMIT}"));
    if ring0 > IMAGE_LIMIT {
        section.problems.push(format!("{ring0} lines run in ring 0, more than {IMAGE_LIMIT}"));
    }
    section.data = json!({ "layers": data, "ring0": ring0, "limit": IMAGE_LIMIT });
    section
}

/// Lines of code that run in ring 0. Modules that only images for tests have do not count.
pub(crate) fn ring0(files: &[File]) -> usize {
    let runs = |file: &&File| IMAGE.contains(&file.layer()) && !test_only::is_module(&file.path);
    files.iter().filter(runs).map(|file| file.lines.code).sum()
}
