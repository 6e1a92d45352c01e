//! Stack frames of the image, and the deepest chain of direct calls, against the size of the stacks.
//!
//! Calls through pointers and recursion cannot be followed here; the stacks have guard pages, so what this misses stops
//! the machine with a report and damages nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::Section;
use super::code::Image;

/// Bytes of a CPU's stack (`hal::layout::STACK_SIZE`).
const STACK: u64 = 64 << 10;
/// Bytes of the stacks for NMI, double fault and machine check (`hal::layout::IST_STACK_SIZE`).
const IST_STACK: u64 = 16 << 10;
/// A frame may take this part of the stack.
const LARGEST: u64 = STACK / 4;
/// A chain of direct calls may take this part of the stack; calls through pointers need the rest.
const DEEPEST: u64 = STACK / 2;
/// The same before there is a guest.
const DEEPEST_AT_START: u64 = STACK / 4 * 3;
/// How many of the largest are shown.
const SHOWN: usize = 12;
/// Runs once, before there is any guest: it may take more of the stack than others.
const START: &[&str] = &["__text_start", "radon_boot_entry", "radon_main", "radon::", "radon_hal::boot"];

fn at_start(name: &str) -> bool {
    START.iter().any(|start| name.starts_with(start))
}

pub(super) fn section(image: &Image) -> Section {
    let mut section = Section { title: "Stack", ..Section::default() };
    let mut frames: Vec<(u64, &str)> = image.functions.values().map(|f| (f.frame, f.name.as_str())).collect();
    frames.sort_by(|a, b| b.cmp(a));
    section.text.push(format!("Each CPU has {STACK} bytes of stack, and {IST_STACK} for NMIs. The largest frames:"));
    for (frame, name) in frames.iter().take(SHOWN) {
        section.text.push(format!("{frame:>7}  {name}"));
    }
    for (frame, name) in frames.iter().take_while(|(frame, _)| *frame > LARGEST) {
        if !at_start(name) || *frame > DEEPEST {
            section.problems.push(format!("{name} takes {frame} bytes of stack, more than {LARGEST}"));
        }
    }
    let mut depths = Depths { image, known: BTreeMap::new(), path: BTreeSet::new(), loops: BTreeSet::new() };
    let mut deepest: Vec<(u64, u64)> = image.functions.keys().map(|&at| (depths.of(at).0, at)).collect();
    deepest.sort_by(|a, b| b.cmp(a));
    let name = |at: u64| image.at(at).map_or("", |function| function.name.as_str());
    let mut chains = Vec::new();
    for (start, limit) in [(true, DEEPEST_AT_START), (false, DEEPEST)] {
        let Some(&(depth, at)) = deepest.iter().find(|(_, at)| at_start(name(*at)) == start) else { continue };
        chains.push(depth);
        let when = if start { "at the start, when there is no guest" } else { "later" };
        section.text.push(format!("The deepest chain of direct calls {when}: {depth} bytes, of at most {limit}:"));
        let mut next = Some(at);
        while let Some(function) = next.and_then(|at| image.at(at)) {
            section.text.push(format!("{:>7}  {}", function.frame, function.name));
            next = next.and_then(|at| depths.of(at).1);
        }
        if depth > limit {
            section.problems.push(format!("a chain of calls takes {depth} bytes of stack, more than {limit}"));
        }
    }
    let loops: Vec<&str> = depths.loops.iter().filter_map(|at| Some(image.at(*at)?.name.as_str())).collect();
    let indirect = image.functions.values().filter(|function| function.indirect).count();
    section.text.push(format!("{indirect} of {} functions call through pointers", image.functions.len()));
    section.text.push(format!("functions that may call themselves, over others or not: {}", loops.join(", ")));
    section.items = frames.iter().map(|(frame, name)| format!("{frame:>7}  {name}")).collect();
    section.data = json!({
        "stack": STACK,
        "frames": frames.iter().take(100).map(|(frame, name)| json!([frame, name])).collect::<Vec<_>>(),
        "deepest_chains": chains,
        "recursive": loops,
    });
    section
}

/// Stack that a function takes with all it calls, and the callee on the deepest way.
struct Depths<'a> {
    image: &'a Image,
    known: BTreeMap<u64, (u64, Option<u64>)>,
    /// The functions that are being looked at.
    path: BTreeSet<u64>,
    /// Functions that were met again below themselves.
    loops: BTreeSet<u64>,
}

impl Depths<'_> {
    fn of(&mut self, at: u64) -> (u64, Option<u64>) {
        if let Some(known) = self.known.get(&at) {
            return *known;
        }
        let Some(function) = self.image.at(at) else { return (0, None) };
        if !self.path.insert(at) {
            self.loops.insert(at);
            return (0, None);
        }
        let mut deepest = (0, None);
        for &(_, callee) in &function.calls {
            let (depth, _) = self.of(callee);
            if depth > deepest.0 {
                deepest = (depth, Some(callee));
            }
        }
        self.path.remove(&at);
        let depth = (function.frame + deepest.0, deepest.1);
        self.known.insert(at, depth);
        depth
    }
}
