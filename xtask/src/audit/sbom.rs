//! The software bill of materials of the image: CycloneDX 1.5, beside the image.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use serde_json::{Value, json};

use super::Section;
use super::dependencies::{self, End, Package};
use crate::host;

pub(super) fn section() -> Result<Section> {
    let packages: Vec<Package> =
        dependencies::packages()?.into_iter().filter(|package| package.part == End::Image).collect();
    let bill = bill(&packages);
    let file = host::output().join("radon.cdx.json");
    fs::create_dir_all(host::output())?;
    fs::write(&file, format!("{bill:#}\n"))?;
    let mut section = Section { title: "Software bill of materials", ..Section::default() };
    section.text.push(format!("{} (CycloneDX 1.5, {} components)", file.display(), packages.len()));
    for package in packages.iter().filter(|package| package.checksum.is_none()) {
        section.problems.push(format!("{} {} has no checksum in Cargo.lock", package.name, package.version));
    }
    section.data = bill;
    Ok(section)
}

/// No time and no serial number: the same sources give the same bill.
fn bill(packages: &[Package]) -> Value {
    let reference = |package: &Package| format!("pkg:cargo/{}@{}", package.name, package.version);
    let by_name: BTreeMap<&str, String> =
        packages.iter().map(|package| (package.name.as_str(), reference(package))).collect();
    let component = |package: &Package| {
        let purl = reference(package);
        let mut component = json!({
            "type": "library", "bom-ref": purl, "name": package.name, "version": package.version,
            "description": package.description, "purl": purl, "scope": "required",
            // The form with a slash is older than SPDX expressions.
            "licenses": [{ "expression": package.licence.replace('/', " OR ") }],
        });
        if let Some(checksum) = &package.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        if let Some(url) = &package.repository {
            component["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
        }
        component
    };
    let root = "radon";
    let mut uses: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for package in packages {
        for user in &package.needed_by {
            let user = by_name.get(user.as_str()).map_or(root, String::as_str).to_owned();
            uses.entry(user).or_default().push(by_name.get(package.name.as_str()).map_or("", String::as_str));
        }
    }
    let uses = uses.into_iter().map(|(user, mut used)| {
        used.sort_unstable();
        used.dedup();
        json!({ "ref": user, "dependsOn": used })
    });
    json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": {
            "type": "operating-system", "bom-ref": root, "name": root, "version": env!("CARGO_PKG_VERSION"),
            "licenses": [{ "expression": env!("CARGO_PKG_LICENSE") }],
        } },
        "components": packages.iter().map(component).collect::<Vec<_>>(),
        "dependencies": uses.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_names_components_and_who_uses_them() {
        let package = |name: &str, needed_by: &[&str]| Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: "MIT/Apache-2.0".to_owned(),
            description: String::new(),
            repository: None,
            checksum: Some("ab".to_owned()),
            part: End::Image,
            why: String::new(),
            needed_by: needed_by.iter().map(|name| (*name).to_owned()).collect(),
        };
        let bill = bill(&[package("spin", &["radon-core", "radon-hal"]), package("lock_api", &["spin"])]);
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/spin@1.0.0");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "ab");
        let lines = [("pkg:cargo/spin@1.0.0", "pkg:cargo/lock_api@1.0.0"), ("radon", "pkg:cargo/spin@1.0.0")];
        for (at, (user, used)) in lines.into_iter().enumerate() {
            assert_eq!(bill["dependencies"][at], json!({ "ref": user, "dependsOn": [used] }));
        }
    }
}
