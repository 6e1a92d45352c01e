//! Unsafe code: how much of it, where, and that each piece has its proof.

use std::collections::BTreeMap;

use serde_json::json;

use super::Section;
use crate::source::{File, Kind};

/// Where unsafe code may be. The test guests are programs of their own; nothing of them is in the image.
const ALLOWED: &[&str] =
    &["hal", "hosted", "guests/kernel", "guests/micro", "guests/ops", "guests/probe", "guests/tenant"];

#[derive(Default)]
struct Counts {
    blocks: usize,
    functions: usize,
    implementations: usize,
    proven: usize,
}

pub(super) fn section(files: &[File]) -> Section {
    let mut section = Section { title: "Unsafe code", ..Section::default() };
    let mut data = Vec::new();
    let mut total = Counts::default();
    let mut by_layer: BTreeMap<&str, usize> = BTreeMap::new();
    section
        .text
        .push(format!("{:<34} {:>6} {:>9} {:>6}  why the module needs it", "module", "blocks", "fns, impl", "proven"));
    for file in files.iter().filter(|file| !file.unsafety.is_empty()) {
        let mut counts = Counts::default();
        for piece in &file.unsafety {
            match piece.kind {
                Kind::Block => counts.blocks += 1,
                Kind::Function => counts.functions += 1,
                Kind::Implementation => counts.implementations += 1,
                Kind::Declaration => continue,
            }
            match &piece.proof {
                Some(proof) => {
                    counts.proven += 1;
                    section.items.push(format!("{}:{}: {:?}: {proof}", file.path, piece.line, piece.kind));
                }
                None => section.problems.push(format!("{}:{}: no proof", file.path, piece.line)),
            }
        }
        if !ALLOWED.contains(&file.layer()) {
            section.problems.push(format!("{}: unsafe code outside hal", file.path));
        }
        if file.layer() == "hal" && file.opts_in.is_none() {
            section.problems.push(format!("{}: no line \"// Unsafe:\" that says why", file.path));
        }
        let others = counts.functions + counts.implementations;
        let why = file.opts_in.as_deref().unwrap_or_default();
        section.text.push(format!("{:<34} {:>6} {others:>9} {:>6}  {why}", file.path, counts.blocks, counts.proven));
        data.push(json!({
            "module": file.path, "blocks": counts.blocks, "functions": counts.functions,
            "implementations": counts.implementations, "proven": counts.proven, "why": why,
        }));
        *by_layer.entry(file.layer()).or_default() += counts.blocks;
        total.blocks += counts.blocks;
        total.functions += counts.functions;
        total.implementations += counts.implementations;
        total.proven += counts.proven;
    }
    for file in files.iter().filter(|file| file.layer() == "hal" && file.unsafety.is_empty() && file.opts_in.is_some())
    {
        section.problems.push(format!("{}: may have unsafe code and has none", file.path));
    }
    let pieces = total.blocks + total.functions + total.implementations;
    section.text.push(format!(
        "{} blocks, {} functions, {} implementations; {} of {pieces} with a proof",
        total.blocks, total.functions, total.implementations, total.proven
    ));
    let layers: Vec<String> = by_layer.iter().map(|(layer, blocks)| format!("{layer} {blocks}")).collect();
    section.text.push(format!("blocks by layer: {}; none in abi, core, x86 (forbidden) and radon", layers.join(", ")));
    section.data = json!({ "modules": data, "blocks": total.blocks, "proven": total.proven, "pieces": pieces });
    section
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Lines, Unsafe};

    fn file(path: &str, kind: Kind, proof: Option<&str>) -> File {
        let unsafety = vec![Unsafe { line: 7, kind, proof: proof.map(str::to_owned) }];
        let opts_in = path.starts_with("hal/").then(|| "it must".to_owned());
        File { path: path.to_owned(), test: false, about: vec![], opts_in, lines: Lines::default(), unsafety }
    }

    #[test]
    fn what_is_outside_hal_or_without_proof_is_a_problem() {
        assert!(section(&[file("hal/src/a.rs", Kind::Block, Some("so"))]).problems.is_empty());
        assert_eq!(section(&[file("hal/src/a.rs", Kind::Block, None)]).problems, ["hal/src/a.rs:7: no proof"]);
        let outside = section(&[file("core/src/a.rs", Kind::Block, Some("so"))]);
        assert_eq!(outside.problems, ["core/src/a.rs: unsafe code outside hal"]);
        assert!(section(&[file("hal/src/a.rs", Kind::Declaration, None)]).problems.is_empty());
    }

    #[test]
    fn the_checkout_passes() {
        let section = section(&crate::source::inventory().unwrap());
        assert_eq!(section.problems, Vec::<String>::new());
    }
}
