//! Whether the image depends on anything but the sources: it is built twice, in folders of different names and depths,
//! and the bytes are compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::json;

use super::Section;
use crate::{build, host};

/// What an image is made of, besides the crates' folders.
const FILES: &[&str] = &["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo"];
const FOLDERS: &[&str] = &["abi", "core", "x86", "hal", "radon", "xtask", "guests", "fuzz", "sim", "interleave"];
/// What is compared.
const RESULTS: &[&str] = &["radon", "radon.gz", "radon.syms"];

pub(super) fn section() -> Result<Section> {
    let base = host::target().join("reproducible");
    let folders = [base.join("a"), base.join("another/and/deeper")];
    let mut images = Vec::new();
    for folder in &folders {
        images.push(build(folder)?);
    }
    let mut section = Section { title: "Reproducible build", ..Section::default() };
    let mut data = serde_json::Map::new();
    for name in RESULTS {
        let read =
            |image: &PathBuf| fs::read(image.with_file_name(name)).with_context(|| format!("no {name} was built"));
        let (first, second) = (read(&images[0])?, read(&images[1])?);
        data.insert((*name).to_owned(), json!({ "bytes": first.len(), "same": first == second }));
        if first == second {
            section.text.push(format!("{name}: {} bytes, the same from two folders", first.len()));
        } else {
            let at =
                first.iter().zip(&second).position(|(a, b)| a != b).unwrap_or_else(|| first.len().min(second.len()));
            let (one, other) = (first.len(), second.len());
            section.problems.push(format!("{name} differs from byte {at:#x} on ({one} and {other} bytes)"));
        }
    }
    if section.problems.is_empty() {
        fs::remove_dir_all(&base)?;
    } else {
        section.text.push(format!("what was built is in {}", base.display()));
    }
    section.data = data.into();
    Ok(section)
}

/// Copies the sources to `folder` and builds the image there, with crates at a place of its own, too. Returns the image.
fn build(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let root = host::root();
    let sources = folder.join("sources");
    fs::create_dir_all(&sources)?;
    let present = FILES.iter().chain(FOLDERS).map(|name| root.join(name)).filter(|path| path.exists());
    host::run(Command::new("cp").arg("-r").args(present).arg(&sources))?;
    let own = folder.join("home");
    fs::create_dir_all(&own)?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    for entry in fs::read_dir(home.context("cargo has no folder")?)? {
        let path = entry?.path();
        std::os::unix::fs::symlink(&path, own.join(path.file_name().unwrap_or_default()))?;
    }
    build::build_at(&sources, &own, Stdio::inherit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_of_the_workspace_is_copied() {
        let manifest = fs::read_to_string(host::root().join("Cargo.toml")).unwrap();
        let members = manifest.lines().find_map(|line| line.strip_prefix("members = [")).unwrap();
        for member in members.trim_end_matches(']').split(',') {
            let folder = member.trim().trim_matches('"').split('/').next().unwrap();
            assert!(FOLDERS.contains(&folder), "{folder}");
        }
    }
}
