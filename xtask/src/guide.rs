//! `cargo xtask guide`: the chapter of the book that says what each source file is, written from what the files say of
//! themselves. A test fails if a file says nothing or if the chapter is stale.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::host;
use crate::source::{self, File};

/// The layers in the order in which they build on each other; others follow.
const LAYERS: &[(&str, &str)] = &[
    ("abi", "the public interface's numbers and structures"),
    ("core", "what the hypervisor means; forbids unsafe code, tested on the host"),
    ("x86", "what an x86 guest sees; forbids unsafe code, tested on the host"),
    ("hal", "the mechanism, and the only unsafe code"),
    ("radon", "the bootable image: wires the layers together"),
    ("guests/kernel", "what the test guests that are kernels share"),
    ("guests/micro", "a test guest that measures hypervisors"),
    ("guests/ops", "a test guest that calls every operation"),
    ("guests/probe", "the program that tests run inside dom0 and guests"),
    ("guests/tenant", "a test guest of which there may be many"),
    ("fuzz", "fuzz targets"),
    ("xtask", "the developer tool, and the scripts that emulated machines run"),
];

const INTRODUCTION: &str = "\
# Source guide

Every source file, by layer, in the words that it opens with; most files say more there: invariants, locks, what they may
touch. Files that only tests have are in italics.

This page is written by `cargo xtask guide`; a test fails if a file is missing here or says nothing of itself.
";

/// Writes the chapter and returns its file.
pub(crate) fn write() -> Result<PathBuf> {
    let files = source::inventory()?;
    let silent: Vec<&str> = files.iter().filter(|f| f.summary().is_none()).map(|f| f.path.as_str()).collect();
    ensure!(silent.is_empty(), "these files do not say what they are in their first lines: {}", silent.join(", "));
    let place = place();
    fs::write(&place, render(&files))?;
    Ok(place)
}

fn place() -> PathBuf {
    host::root().join("book/src/source-guide.md")
}

fn render(files: &[File]) -> String {
    let mut layers: BTreeMap<&str, Vec<&File>> = BTreeMap::new();
    for file in files {
        layers.entry(file.layer()).or_default().push(file);
    }
    let mut page = INTRODUCTION.to_owned();
    for (layer, what) in LAYERS {
        if let Some(files) = layers.remove(layer) {
            chapter(&mut page, layer, what, &files);
        }
    }
    for (layer, files) in layers {
        chapter(&mut page, layer, "", &files);
    }
    page
}

fn chapter(page: &mut String, layer: &str, what: &str, files: &[&File]) {
    let what = if what.is_empty() { String::new() } else { format!(": {what}") };
    page.push_str(&format!("\n## {layer}{what}\n\n| file | what |\n|---|---|\n"));
    for file in files {
        let name = file.path.strip_prefix(layer).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&file.path);
        let name = if file.test { format!("*`{name}`*") } else { format!("`{name}`") };
        page.push_str(&format!("| {name} | {} |\n", plain(file.summary().unwrap_or_default())));
    }
}

/// Text of a documentation comment without links to items, fit for a cell of a table.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        match after.split_once(']') {
            Some((name, tail)) if name.starts_with('`') => {
                out.push_str(name);
                // The target of the link, if it is given.
                rest = match tail.strip_prefix('(').and_then(|target| target.split_once(')')) {
                    Some((_, tail)) => tail,
                    None => tail,
                };
            }
            _ => {
                out.push('[');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_become_names() {
        assert_eq!(plain("uses [`a::b`] and [`c`](super::c): x[1] | y"), "uses `a::b` and `c`: x[1] \\| y");
    }

    #[test]
    fn every_file_says_what_it_is_and_the_source_guide_is_fresh() {
        let files = source::inventory().unwrap();
        let silent: Vec<&str> = files.iter().filter(|f| f.summary().is_none()).map(|f| f.path.as_str()).collect();
        assert_eq!(silent, Vec::<&str>::new(), "these files open with no comment that says what they are");
        let book = fs::read_to_string(place()).unwrap_or_default();
        assert!(book == render(&files), "book/src/source-guide.md is stale: cargo xtask guide");
    }

    fn page(name: &str) -> String {
        fs::read_to_string(host::root().join("book/src").join(name)).unwrap()
    }

    /// What is between backticks.
    fn quoted(text: &str) -> impl Iterator<Item = &str> {
        text.split('`').skip(1).step_by(2)
    }

    #[test]
    fn places_that_the_table_for_users_of_xen_names_exist() {
        let page = page("from-xen.md");
        let (_, table) = page.split_once("| in Xen | in Radon |").unwrap();
        let cells = table.lines().filter_map(|line| line.trim_end_matches(" |").rsplit_once(" | "));
        let places: Vec<&str> = cells.flat_map(|(_, radon)| quoted(radon)).filter(|name| name.contains('/')).collect();
        assert!(places.len() > 40, "{places:?}");
        for place in places {
            assert!(host::root().join(place).exists(), "{place} is not there");
        }
    }

    #[test]
    fn the_soundness_chapter_has_all_modules_of_hal() {
        let page = page("soundness.md");
        let (_, table) = page.split_once("## Module by module").unwrap();
        let rows: String = table.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next()).collect();
        let named: Vec<&str> = quoted(&rows).collect();
        let root = fs::read_to_string(host::root().join("hal/src/lib.rs")).unwrap();
        let modules = root.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
        for module in modules.map(|name| name.trim_end_matches(';')) {
            assert!(named.contains(&module), "hal::{module} is not in the soundness chapter");
        }
    }
}
