//! `cargo xtask audit`: what can be said of the code by looking at it, printed and checked.
//!
//! Each part is a [`Section`]: lines to read, the same for programs (`--json`), and what is wrong. The parts that need
//! nothing but the sources and the image run in `cargo xtask test` (`--quick`); two builds of the image take longer.

mod code;
mod dependencies;
mod explained;
pub(crate) mod lines;
mod panics;
mod reproducible;
mod sbom;
mod stack;
mod test_only;
mod unsafety;

use std::process::Stdio;

use anyhow::Result;
use serde_json::{Value, json};

use crate::build::{self, Profile};
use crate::source;

/// Options of `cargo xtask audit`.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Only these parts
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Leave out what takes minutes
    #[arg(long)]
    quick: bool,
    /// Print each item: each unsafe block with its proof, each place that can panic
    #[arg(long)]
    all: bool,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// What is looked at.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Unsafe code and its proofs
    Unsafe,
    /// Lines of code by layer
    Lines,
    /// Crates from elsewhere: why, and under which licence
    Dependencies,
    /// The software bill of materials, target/radon/radon.cdx.json
    Sbom,
    /// Places in the image that can panic
    Panics,
    /// Stack frames and chains of calls
    Stack,
    /// Whether the image has what only tests are to have
    TestOnly,
    /// Whether two builds in different folders give the same bytes
    Reproducible,
}

const PARTS: &[Part] = &[
    Part::Unsafe,
    Part::Lines,
    Part::Dependencies,
    Part::Sbom,
    Part::Panics,
    Part::Stack,
    Part::TestOnly,
    Part::Reproducible,
];

/// What a part found.
#[derive(Default)]
struct Section {
    title: &'static str,
    /// For people.
    text: Vec<String>,
    /// The same, item by item, where that is long.
    items: Vec<String>,
    /// For programs.
    data: Value,
    /// What is wrong.
    problems: Vec<String>,
}

/// Prints the parts that are asked for. Returns whether nothing is wrong.
pub(crate) fn audit(options: &Options) -> Result<bool> {
    let wanted = |part: &Part| match options.parts.is_empty() {
        true => !options.quick || *part != Part::Reproducible,
        false => options.parts.contains(part),
    };
    let parts: Vec<Part> = PARTS.iter().copied().filter(wanted).collect();
    let files = source::inventory()?;
    let image = match parts.iter().any(|part| matches!(part, Part::Panics | Part::Stack | Part::TestOnly)) {
        true => {
            build::build(Profile::Release, Stdio::inherit())?;
            Some(code::Image::read()?)
        }
        false => None,
    };
    let mut all = serde_json::Map::new();
    let mut problems = 0;
    for part in parts {
        let section = match (part, &image) {
            (Part::Unsafe, _) => unsafety::section(&files),
            (Part::Lines, _) => lines::section(&files),
            (Part::Dependencies, _) => dependencies::section()?,
            (Part::Sbom, _) => sbom::section()?,
            (Part::Panics, Some(image)) => panics::section(image)?,
            (Part::Stack, Some(image)) => stack::section(image),
            (Part::TestOnly, Some(image)) => test_only::section(image),
            (Part::Panics | Part::Stack | Part::TestOnly, None) => continue,
            (Part::Reproducible, _) => reproducible::section()?,
        };
        problems += section.problems.len();
        if options.json {
            let name = format!("{part:?}").to_lowercase();
            all.insert(name, json!({ "found": section.data, "problems": section.problems }));
        } else {
            print(&section, options.all);
        }
    }
    if options.json {
        println!("{:#}", Value::Object(all));
    } else {
        println!("{}", if problems == 0 { "Nothing is wrong.".to_owned() } else { format!("{problems} problems") });
    }
    Ok(problems == 0)
}

fn print(section: &Section, all: bool) {
    println!("# {}\n", section.title);
    section.text.iter().for_each(|line| println!("{line}"));
    if all {
        println!();
        section.items.iter().for_each(|line| println!("{line}"));
    } else if !section.items.is_empty() {
        println!("({} items: --all prints them)", section.items.len());
    }
    section.problems.iter().for_each(|problem| println!("PROBLEM: {problem}"));
    println!();
}
