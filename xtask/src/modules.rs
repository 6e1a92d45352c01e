//! Linux kernel modules: which depend on which, and the index files that `modprobe` reads.
//!
//! Everything needed is in each module's `.modinfo` section (NUL-terminated `key=value` strings), so depmod is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::{Object, ObjectSection};

/// A module that was chosen for an archive.
pub(crate) struct Module {
    /// Path below the folder of the kernel release.
    pub path: String,
    /// The file's bytes.
    pub content: Vec<u8>,
    /// Names of the modules it needs loaded first, directly.
    depends: Vec<String>,
    /// Device and alias patterns it answers to.
    aliases: Vec<String>,
}

/// The modules of one kernel, found by name; `-` and `_` are the same in names.
pub(crate) struct Tree {
    folder: PathBuf,
    by_name: BTreeMap<String, String>,
}

impl Tree {
    /// Lists the modules below `folder` (`lib/modules/<release>`).
    pub(crate) fn open(folder: &Path) -> Result<Tree> {
        let mut tree = Tree { folder: folder.to_path_buf(), by_name: BTreeMap::new() };
        tree.walk(folder)?;
        Ok(tree)
    }

    fn walk(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                self.walk(&path)?;
            } else if let Some(stem) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
                let below = path.strip_prefix(&self.folder)?.to_string_lossy().into_owned();
                self.by_name.insert(canonical(stem), below);
            }
        }
        Ok(())
    }

    /// The modules called `names` and all that they need, each once, by name.
    pub(crate) fn closure(&self, names: &[&str]) -> Result<BTreeMap<String, Module>> {
        let mut chosen = BTreeMap::new();
        let mut open: Vec<String> = names.iter().map(|name| canonical(name)).collect();
        while let Some(name) = open.pop() {
            if chosen.contains_key(&name) {
                continue;
            }
            let path = self.by_name.get(&name).with_context(|| format!("the kernel has no module {name}"))?;
            let content = fs::read(self.folder.join(path))?;
            let info = modinfo(&content).with_context(|| format!("cannot read {path}"))?;
            let depends = values(&info, "depends").flat_map(|list| list.split(',')).filter(|name| !name.is_empty());
            let depends: Vec<String> = depends.map(canonical).collect();
            let aliases = values(&info, "alias").map(str::to_owned).collect();
            open.extend(depends.iter().cloned());
            let path = path.clone();
            chosen.insert(name, Module { path, content, depends, aliases });
        }
        Ok(chosen)
    }
}

/// The text of `modules.dep`: each module's file and the files it needs, in the order of unloading.
pub(crate) fn modules_dep(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        let mut needed: Vec<&str> = Vec::new();
        needs(modules, name, &mut needed);
        let files = needed.iter().rev().filter(|other| **other != name.as_str());
        let files = files.filter_map(|other| Some(format!(" {}", modules.get(*other)?.path)));
        text.push_str(&format!("{}:{}\n", module.path, files.collect::<String>()));
    }
    text
}

/// Appends `name` and what it needs to `order`, needed ones first. The kernel's build refuses circles.
fn needs<'a>(modules: &'a BTreeMap<String, Module>, name: &'a str, order: &mut Vec<&'a str>) {
    if order.contains(&name) {
        return;
    }
    for other in modules.get(name).map_or(&[][..], |module| &module.depends) {
        needs(modules, other, order);
    }
    order.push(name);
}

/// The text of `modules.alias`.
pub(crate) fn modules_alias(modules: &BTreeMap<String, Module>) -> String {
    let lines = modules
        .iter()
        .flat_map(|(name, module)| module.aliases.iter().map(move |alias| format!("alias {alias} {name}\n")));
    lines.collect()
}

fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

fn modinfo(content: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(content)?;
    let section = file.section_by_name(".modinfo").context("no .modinfo section")?;
    let strings = section.data()?.split(|byte| *byte == 0);
    Ok(strings.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
}

fn values<'a>(info: &'a [String], key: &'a str) -> impl Iterator<Item = &'a str> {
    info.iter().filter_map(move |line| line.strip_prefix(key)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, depends: &[&str], aliases: &[&str]) -> Module {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Module { path: path.to_owned(), content: Vec::new(), depends: own(depends), aliases: own(aliases) }
    }

    #[test]
    fn dependencies_are_listed_nearest_first() {
        let modules = BTreeMap::from([
            ("bridge".to_owned(), module("net/bridge.ko", &["stp", "llc"], &["rtnl-link-bridge"])),
            ("llc".to_owned(), module("net/llc.ko", &[], &[])),
            ("stp".to_owned(), module("net/stp.ko", &["llc"], &[])),
        ]);
        let expected = "net/bridge.ko: net/stp.ko net/llc.ko\nnet/llc.ko:\nnet/stp.ko: net/llc.ko\n";
        assert_eq!(modules_dep(&modules), expected);
        assert_eq!(modules_alias(&modules), "alias rtnl-link-bridge bridge\n");
    }
}
