//! Crates from elsewhere: which, under which licence, what for, and in which part of the project they end.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Section;
use crate::{build, host};

/// What is used of its own accord, and why. What these need in turn is theirs to explain.
const REASONS: &[(&str, &str)] = &[
    ("addr2line", "audit: the source line of an instruction in the image"),
    ("anyhow", "xtask: errors with the way that led to them"),
    ("arrayvec", "lists of bounded length without a heap"),
    ("bitflags", "sets of flags in the ABI and in registers"),
    ("clap", "xtask: its command line"),
    ("flate2", "xtask: gzip for images and initial RAM file systems"),
    ("iced-x86", "an independent instruction decoder: oracle of our own one in tests; audit: reads the image's code"),
    ("indicatif", "xtask: progress"),
    ("libc", "guests/probe: system calls of Linux"),
    ("libfuzzer-sys", "fuzz: the engine"),
    ("log", "the interface that log messages go through"),
    ("lz4_flex", "kernels packed with LZ4"),
    ("miniz_oxide", "kernels packed with gzip"),
    ("object", "xtask: makes the image of the linker's ELF"),
    ("proc-macro2", "audit: Rust files as tokens"),
    ("proptest", "tests against reference models, with small counterexamples"),
    ("rustc-demangle", "xtask: names of symbols for backtraces"),
    ("serde_json", "xtask: cargo's messages, recorded figures"),
    ("shuttle", "interleave: chooses which thread goes on, in tests of what CPUs do at the same time"),
    ("spdx", "audit: understands licence expressions"),
    ("spin", "locks and cells that are set once, without an operating system"),
    ("talc", "the heap's allocator"),
    ("zerocopy", "structures of the ABI from and to bytes, checked, without unsafe code of ours"),
];

/// Licences that may be in what is shipped.
const LICENCES: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "0BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "NCSA",
];

/// A crate from the registry.
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: String,
    pub(super) description: String,
    pub(super) repository: Option<String>,
    pub(super) checksum: Option<String>,
    /// Where it ends.
    pub(super) part: End,
    /// Why it is there.
    pub(super) why: String,
    /// Names of the crates that need it.
    pub(super) needed_by: Vec<String>,
}

/// Where a dependency ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Linked into the image.
    Image,
    /// Runs when the image is compiled.
    Build,
    /// In tests and tools.
    Tools,
}

pub(super) fn section() -> Result<Section> {
    let packages = packages()?;
    let mut section = Section { title: "Dependencies", ..Section::default() };
    section.text.push(format!("{:<8} {:<28} {:<38} why", "where", "crate", "licence"));
    let mut data = Vec::new();
    for package in &packages {
        let name = format!("{} {}", package.name, package.version);
        let part = format!("{:?}", package.part).to_lowercase();
        let line = format!("{part:<8} {name:<28} {:<38} {}", package.licence, package.why);
        // Those of tools are many.
        if package.part == End::Tools && !REASONS.iter().any(|(name, _)| *name == package.name) {
            section.items.push(line);
        } else {
            section.text.push(line);
        }
        data.push(json!({
            "name": package.name, "version": package.version, "licence": package.licence, "part": part,
            "why": package.why, "needed_by": package.needed_by,
        }));
        if let Err(why) = allowed(&package.licence) {
            section.problems.push(format!("{name}: {why}"));
        }
        if package.why.is_empty() {
            section.problems.push(format!("{name}: nobody says what it is for (REASONS in audit/dependencies.rs)"));
        }
    }
    for (name, _) in REASONS.iter().filter(|(name, _)| !packages.iter().any(|package| package.name == *name)) {
        section.problems.push(format!("{name} is explained and not used"));
    }
    let count = |part| packages.iter().filter(|package| package.part == part).count();
    section.text.push(format!(
        "{} crates in the image, {} that help to compile it, {} in tools and tests",
        count(End::Image),
        count(End::Build),
        count(End::Tools)
    ));
    section.data = Value::Array(data);
    Ok(section)
}

/// Whether what has this licence may be used.
fn allowed(licence: &str) -> Result<(), String> {
    let expression = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX)
        .map_err(|error| format!("the licence {licence:?} is no SPDX expression: {}", error.reason))?;
    let known = |requirement: &spdx::LicenseReq| {
        requirement.license.id().is_some_and(|id| LICENCES.contains(&id.name)) && requirement.addition.is_none()
    };
    match expression.evaluate(known) {
        true => Ok(()),
        false => Err(format!("the licence {licence} is not among those that are allowed")),
    }
}

/// All crates from elsewhere that the project uses, those of the image first.
pub(super) fn packages() -> Result<Vec<Package>> {
    let all = metadata(&["--all-features"])?;
    let bare = metadata(&["--filter-platform", build::TARGET])?;
    let image = reachable(&bare, "radon", false);
    let building = reachable(&bare, "radon", true);
    let checksums = checksums()?;
    let mut direct: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let names: BTreeMap<&str, &str> = array(&all["packages"])
        .filter_map(|package| Some((package["id"].as_str()?, package["name"].as_str()?)))
        .collect();
    for node in array(&all["resolve"]["nodes"]) {
        let user = node["id"].as_str().and_then(|id| names.get(id)).copied().unwrap_or_default();
        for id in array(&node["dependencies"]).filter_map(Value::as_str) {
            direct.entry(id.to_owned()).or_default().push(user.to_owned());
        }
    }
    let mut found = Vec::new();
    for package in array(&all["packages"]).filter(|package| package["source"].is_string()) {
        let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
        let (id, name, version) = (text("id"), text("name"), text("version"));
        let part = match (image.contains(&id), building.contains(&id)) {
            (true, _) => End::Image,
            (false, true) => End::Build,
            (false, false) => End::Tools,
        };
        let needed_by = direct.get(&id).cloned().unwrap_or_default();
        let reason = REASONS.iter().find(|(known, _)| *known == name).map(|(_, why)| (*why).to_owned());
        let own = |user: &String| user.starts_with("radon") || user == "xtask";
        let through = || match needed_by.iter().any(own) {
            true => String::new(),
            false => format!("through {}", needed_by.join(", ")),
        };
        found.push(Package {
            licence: text("license"),
            description: text("description").split_whitespace().collect::<Vec<_>>().join(" "),
            repository: package["repository"].as_str().map(str::to_owned),
            checksum: checksums.get(&(name.clone(), version.clone())).cloned(),
            why: reason.unwrap_or_else(through),
            name,
            version,
            part,
            needed_by,
        });
    }
    found.sort_by(|a, b| (a.part, &a.name, &a.version).cmp(&(b.part, &b.name, &b.version)));
    Ok(found)
}

/// Identifiers of what `package` is linked with or, with `build`, compiled with.
fn reachable(metadata: &Value, package: &str, build: bool) -> BTreeSet<String> {
    let packages: BTreeMap<&str, &Value> =
        array(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let macros = |id: &str| {
        let targets = packages.get(id).into_iter().flat_map(|package| array(&package["targets"]));
        targets.flat_map(|target| array(&target["kind"])).any(|kind| kind == "proc-macro")
    };
    let nodes: BTreeMap<&str, &Value> =
        array(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let root = packages.iter().find(|(_, found)| found["name"] == package).map(|(id, _)| *id);
    let mut seen = BTreeSet::new();
    let mut left: Vec<&str> = root.into_iter().collect();
    while let Some(id) = left.pop() {
        if !seen.insert(id.to_owned()) {
            continue;
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| array(&node["deps"])) {
            let kinds: Vec<&str> =
                array(&dependency["dep_kinds"]).map(|kind| kind["kind"].as_str().unwrap_or("normal")).collect();
            let wanted = kinds.contains(&"normal") || build && kinds.contains(&"build");
            if let Some(id) = dependency["pkg"].as_str().filter(|id| wanted && (build || !macros(id))) {
                left.push(id);
            }
        }
    }
    seen
}

fn metadata(options: &[&str]) -> Result<Value> {
    let mut command = host::cargo();
    let text = host::capture(command.args(["metadata", "--format-version", "1", "--locked"]).args(options))?;
    serde_json::from_str(&text).context("cargo metadata printed no JSON")
}

/// What Cargo.lock says the packages' files hash to (SHA-256), by name and version.
fn checksums() -> Result<BTreeMap<(String, String), String>> {
    let lock = std::fs::read_to_string(host::root().join("Cargo.lock"))?;
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            let mut lines = package.lines().filter_map(|line| line.split_once(" = "));
            lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim_matches('"').to_owned())
        };
        if let (Some(name), Some(version), Some(checksum)) = (value("name"), value("version"), value("checksum")) {
            found.insert((name, version), checksum);
        }
    }
    Ok(found)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copyleft_is_refused_unless_there_is_a_choice() {
        assert_eq!(allowed("MIT OR Apache-2.0"), Ok(()));
        assert_eq!(allowed("MIT/Apache-2.0"), Ok(()));
        assert_eq!(allowed("(MIT OR GPL-2.0-only) AND Unicode-3.0"), Ok(()));
        assert!(allowed("GPL-3.0-only").is_err());
        assert!(allowed("MIT AND LGPL-2.1-only").is_err());
        assert!(allowed("").is_err());
    }
}
