//! An inventory of the source: each file with what it says of itself, its lines by kind and its uses of `unsafe`.
//!
//! Rust files are read as tokens, not as syntax: `unsafe` inside a macro's arguments counts like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::host;

/// Folders of the checkout that hold no source of ours.
const FOREIGN: &[&str] = &["target", "book", ".git", ".cache", ".cargo", ".ci", "corpus"];

/// A source file.
#[derive(Debug)]
pub(crate) struct File {
    /// Its path from the root of the checkout, with `/`.
    pub(crate) path: String,
    /// Whether it is compiled for tests only.
    pub(crate) test: bool,
    /// The comment that it opens with, as one line for each paragraph; empty if there is none.
    pub(crate) about: Vec<String>,
    /// Why it may have unsafe code: the comment `Unsafe:` above its `allow`, or the reason that this gives.
    pub(crate) opts_in: Option<String>,
    /// Its lines.
    pub(crate) lines: Lines,
    /// Its uses of `unsafe`.
    pub(crate) unsafety: Vec<Unsafe>,
}

/// Lines by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Neither empty nor a comment, and part of what is built.
    pub(crate) code: usize,
    /// The same of tests.
    pub(crate) tests: usize,
    /// Comments.
    pub(crate) comments: usize,
}

/// A use of `unsafe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsafe {
    /// Where.
    pub(crate) line: usize,
    /// What is unsafe.
    pub(crate) kind: Kind,
    /// The comment that proves it sound, or says what callers have to see to.
    pub(crate) proof: Option<String>,
}

/// What can be unsafe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A block: needs a comment `SAFETY:`.
    Block,
    /// A function: its documentation has a section *Safety*.
    Function,
    /// An implementation of an unsafe trait: needs a comment `SAFETY:`.
    Implementation,
    /// A declaration of something that is defined elsewhere, or that others call by name. No proof is asked for.
    Declaration,
}

impl File {
    /// The crate's folder.
    pub(crate) fn layer(&self) -> &str {
        let parts = if self.path.starts_with("guests/") { 2 } else { 1 };
        let end = self.path.match_indices('/').nth(parts - 1).map_or(self.path.len(), |(at, _)| at);
        self.path.get(..end).unwrap_or(&self.path)
    }

    /// What it is, in one sentence.
    pub(crate) fn summary(&self) -> Option<&str> {
        let first = self.about.first()?;
        let end = first.find(". ").map_or(first.len(), |at| at + 1);
        first.get(..end)
    }
}

/// All source files of the checkout, sorted by path.
pub(crate) fn inventory() -> Result<Vec<File>> {
    let root = host::root();
    let mut paths = Vec::new();
    walk(&root, &mut paths)?;
    paths.sort();
    let mut files = Vec::new();
    let mut modules: BTreeMap<String, Vec<Module>> = BTreeMap::new();
    for path in paths {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let path = relative(&root, &path);
        let (file, found) = if path.ends_with(".rs") { rust(path, &text)? } else { (other(path, &text), Vec::new()) };
        modules.insert(file.path.clone(), found);
        files.push(file);
    }
    let tests = tests_only(&modules);
    for file in files.iter_mut().filter(|file| tests.contains(&file.path)) {
        file.test = true;
        file.lines.tests += std::mem::take(&mut file.lines.code);
    }
    Ok(files)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

fn walk(folder: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !FOREIGN.contains(&name.as_str()) {
                walk(&path, into)?;
            }
        } else if is_source(&path) {
            into.push(path);
        }
    }
    Ok(())
}

/// Source is Rust, assembly, linker scripts, and scripts that machines run.
fn is_source(path: &Path) -> bool {
    match path.extension() {
        Some(extension) => ["rs", "S", "ld", "sh"].iter().any(|known| extension == *known),
        None => fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!")),
    }
}

/// A module that a file declares, with the file elsewhere.
#[derive(Debug, PartialEq, Eq)]
struct Module {
    name: String,
    /// `#[path]`
    path: Option<String>,
    /// `#[cfg(test)]`
    test: bool,
}

/// The files that only tests have: below `tests`, and what is declared with `#[cfg(test)]`, with all below it. The test
/// machines of `core` are ordinary modules there, for the crates above; no image links them.
fn tests_only(modules: &BTreeMap<String, Vec<Module>>) -> BTreeSet<String> {
    let in_tests = |path: &&String| path.contains("/tests/") || path.starts_with("core/src/testing/");
    let mut tests: BTreeSet<String> = modules.keys().filter(in_tests).cloned().collect();
    loop {
        let before = tests.len();
        for (path, declared) in modules {
            let all = tests.contains(path);
            for module in declared.iter().filter(|module| all || module.test) {
                tests.extend(candidates(path, module).into_iter().filter(|file| modules.contains_key(file)));
            }
        }
        if tests.len() == before {
            return tests;
        }
    }
}

/// Where the file of a module may be that is declared in the file `path`.
fn candidates(path: &str, module: &Module) -> Vec<String> {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    if let Some(explicit) = &module.path {
        return vec![format!("{folder}/{explicit}")];
    }
    let root = ["lib.rs", "main.rs", "mod.rs"].contains(&file);
    let base = if root { folder.to_owned() } else { format!("{folder}/{}", file.trim_end_matches(".rs")) };
    vec![format!("{base}/{}.rs", module.name), format!("{base}/{}/mod.rs", module.name)]
}

fn rust(path: String, text: &str) -> Result<(File, Vec<Module>)> {
    let tokens = match text.parse::<TokenStream>() {
        Ok(tokens) => tokens,
        Err(error) => bail!("{path} is not Rust: {error}"),
    };
    let lines: Vec<&str> = text.lines().collect();
    let mut scan = Scan { lines: &lines, unsafety: Vec::new(), modules: Vec::new(), tests: Vec::new() };
    scan.tokens(tokens, false);
    let mut count = Lines::default();
    for (at, line) in lines.iter().enumerate().map(|(n, line)| (n + 1, line.trim())) {
        if line.starts_with("//") {
            count.comments += 1;
        } else if !line.is_empty() {
            let test = scan.tests.iter().any(|(from, to)| (*from..=*to).contains(&at));
            *(if test { &mut count.tests } else { &mut count.code }) += 1;
        }
    }
    let about = opening(&lines, &["//!"]);
    let opts_in = lines.iter().find_map(|line| {
        let item = || line.split_once("allow(unsafe_code, reason = \"").and_then(|(_, why)| why.split_once('"'));
        line.strip_prefix("// Unsafe: ").or_else(|| item().map(|(why, _)| why)).map(str::to_owned)
    });
    let (unsafety, modules) = (scan.unsafety, scan.modules);
    Ok((File { path, test: false, about, opts_in, lines: count, unsafety }, modules))
}

/// Scripts, assembly, linker scripts.
fn other(path: String, text: &str) -> File {
    let lines: Vec<&str> = text.lines().collect();
    let marks: &[&str] = if path.ends_with(".S") { &["//"] } else { &["/*", " *", "#"] };
    let mut count = Lines::default();
    for line in lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        let comment = marks.iter().any(|mark| line.starts_with(mark.trim()));
        *(if comment { &mut count.comments } else { &mut count.code }) += 1;
    }
    let shebang = usize::from(text.starts_with("#!"));
    let about = opening(lines.get(shebang..).unwrap_or_default(), marks);
    File { path, test: false, about, opts_in: None, lines: count, unsafety: Vec::new() }
}

/// The comment at the beginning, by paragraphs.
fn opening(lines: &[&str], marks: &[&str]) -> Vec<String> {
    let mut paragraphs = vec![String::new()];
    for line in lines {
        let Some(text) = marks.iter().find_map(|mark| line.strip_prefix(mark)) else { break };
        let text = text.trim().trim_end_matches("*/").trim_end();
        match (text.is_empty(), paragraphs.last_mut()) {
            (false, Some(last)) => {
                last.push_str(if last.is_empty() { "" } else { " " });
                last.push_str(text);
            }
            _ => paragraphs.push(String::new()),
        }
    }
    paragraphs.retain(|paragraph| !paragraph.is_empty());
    paragraphs
}

struct Scan<'a> {
    lines: &'a [&'a str],
    unsafety: Vec<Unsafe>,
    modules: Vec<Module>,
    /// First and last lines of what is compiled for tests only.
    tests: Vec<(usize, usize)>,
}

impl Scan<'_> {
    /// `contract`: these are items of an unsafe trait's implementation, whose functions keep to the trait's contract.
    fn tokens(&mut self, tokens: TokenStream, contract: bool) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut attributes = Attributes::default();
        let mut implementation = false;
        for (at, token) in tokens.iter().enumerate() {
            let rest = tokens.get(at + 1..).unwrap_or_default();
            match token {
                TokenTree::Group(group) => {
                    let attribute = at.checked_sub(1).and_then(|before| tokens.get(before));
                    if group.delimiter() == Delimiter::Bracket && attribute.is_some_and(|token| is_punct(token, '#')) {
                        attributes.read(&group.stream());
                    } else if group.delimiter() == Delimiter::Brace {
                        if let Some(from) = attributes.from.filter(|_| attributes.test) {
                            self.tests.push((from, group.span_close().end().line));
                        }
                        attributes = Attributes::default();
                    }
                    let body = group.delimiter() == Delimiter::Brace;
                    self.tokens(group.stream(), body && std::mem::take(&mut implementation));
                }
                TokenTree::Ident(word) if word == "unsafe" => {
                    if let Some(kind) = kind(rest) {
                        let line = word.span().start().line;
                        implementation |= kind == Kind::Implementation;
                        let kind = if contract && kind == Kind::Function { Kind::Declaration } else { kind };
                        self.unsafety.push(Unsafe { line, kind, proof: self.proof(line, kind) });
                    }
                }
                TokenTree::Ident(word) if word == "mod" => {
                    if let (Some(TokenTree::Ident(name)), Some(end)) = (rest.first(), rest.get(1))
                        && is_punct(end, ';')
                    {
                        let path = attributes.path.clone();
                        self.modules.push(Module { name: name.to_string(), path, test: attributes.test });
                    }
                }
                TokenTree::Punct(mark) if mark.as_char() == '#' => {
                    attributes.from.get_or_insert(mark.span().start().line);
                }
                TokenTree::Punct(mark) if mark.as_char() == ';' => {
                    if let Some(from) = attributes.from.filter(|_| attributes.test) {
                        self.tests.push((from, mark.span().end().line));
                    }
                    attributes = Attributes::default();
                }
                _ => {}
            }
        }
    }

    /// The comment that belongs to the `unsafe` in this line: in the line itself, or above its statement.
    fn proof(&self, line: usize, kind: Kind) -> Option<String> {
        let mark = match kind {
            Kind::Block | Kind::Implementation => "SAFETY:",
            Kind::Function => "# Safety",
            Kind::Declaration => return None,
        };
        let mut text = Vec::new();
        for (back, line) in self.lines.get(..line)?.iter().rev().map(|line| line.trim()).enumerate() {
            if let Some(comment) = line.strip_prefix("//") {
                text.insert(0, comment.trim_start_matches(['/', '!']).trim());
                if comment.contains(mark) {
                    return Some(text.join(" ").replacen(mark, "", 1).trim().to_owned());
                }
            } else if back > 0 && line.ends_with([';', '}', '{']) {
                // Another statement, or what the block is in.
                return None;
            }
        }
        None
    }
}

/// Attributes in front of an item.
#[derive(Default)]
struct Attributes {
    from: Option<usize>,
    test: bool,
    path: Option<String>,
}

impl Attributes {
    fn read(&mut self, attribute: &TokenStream) {
        let text: String = attribute.to_string().chars().filter(|c| !c.is_whitespace()).collect();
        // What the feature `testing` adds is for the crates above; no image has it.
        self.test |= ["cfg(test)", "test", "cfg(any(test,feature=\"testing\"))"].contains(&text.as_str());
        if let Some(path) = text.strip_prefix("path=\"").and_then(|rest| rest.strip_suffix('"')) {
            self.path = Some(path.to_owned());
        }
    }
}

/// What the `unsafe` in front of these tokens makes unsafe; nothing if it is part of a type.
fn kind(rest: &[TokenTree]) -> Option<Kind> {
    let mut rest = rest.iter();
    loop {
        match rest.next()? {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return Some(Kind::Block),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Parenthesis => return Some(Kind::Declaration),
            TokenTree::Ident(word) if word == "impl" => return Some(Kind::Implementation),
            TokenTree::Ident(word) if word == "trait" => return Some(Kind::Function),
            TokenTree::Ident(word) if word == "fn" => {
                return matches!(rest.next(), Some(TokenTree::Ident(_))).then_some(Kind::Function);
            }
            TokenTree::Ident(word) if word == "extern" => {
                let mut next = rest.clone();
                next.next();
                if matches!(next.next(), Some(TokenTree::Group(_))) {
                    return Some(Kind::Declaration);
                }
            }
            TokenTree::Literal(_) => {}
            _ => return None,
        }
    }
}

fn is_punct(token: &TokenTree, mark: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"//! A module. It has
//! more to say.
//!
//! And more.

#[cfg(test)]
mod tests;
mod other;

/// # Safety
/// Not on Sundays.
unsafe fn risky() {}

fn f(g: unsafe extern "C" fn()) {
    // SAFETY: it is
    // Monday.
    let x =
        unsafe { risky() };
    assert!(unsafe { *y }, "unsafe { in a text }"); // no proof
}

unsafe extern "C" {
    static END: u8;
}

// SAFETY: never on Sundays.
unsafe impl Risky for X {
    unsafe fn risky() {}
}

#[cfg(test)]
mod inner {
    fn t() {}
}
"##;

    #[test]
    fn a_rust_file_is_read() {
        let (file, modules) = rust("a/src/lib.rs".to_owned(), TEXT).unwrap();
        assert_eq!(file.about, ["A module. It has more to say.", "And more."]);
        assert_eq!(file.summary(), Some("A module."));
        assert_eq!(file.lines, Lines { code: 13, tests: 6, comments: 9 });
        let found: Vec<_> = file.unsafety.iter().map(|u| (u.line, u.kind, u.proof.as_deref())).collect();
        assert_eq!(
            found,
            [
                (12, Kind::Function, Some("Not on Sundays.")),
                (18, Kind::Block, Some("it is Monday.")),
                (19, Kind::Block, None),
                (22, Kind::Declaration, None),
                (27, Kind::Implementation, Some("never on Sundays.")),
                (28, Kind::Declaration, None)
            ]
        );
        let names: Vec<_> = modules.iter().map(|m| (m.name.as_str(), m.test)).collect();
        assert_eq!(names, [("tests", true), ("other", false)]);
    }

    #[test]
    fn tests_are_what_only_tests_reach() {
        let module = |name: &str, test| Module { name: name.to_owned(), path: None, test };
        let modules = BTreeMap::from([
            ("a/src/lib.rs".to_owned(), vec![module("tests", true), module("b", false)]),
            ("a/src/tests/mod.rs".to_owned(), vec![module("deep", false)]),
            ("a/src/b.rs".to_owned(), vec![module("deep", false), module("check", true)]),
            ("a/src/b/deep.rs".to_owned(), vec![]),
            ("a/src/b/check.rs".to_owned(), vec![module("more", false)]),
            ("a/src/b/check/more.rs".to_owned(), vec![]),
            ("a/src/tests/deep.rs".to_owned(), vec![]),
        ]);
        let tests: Vec<_> = tests_only(&modules).into_iter().collect();
        let expected = ["a/src/b/check.rs", "a/src/b/check/more.rs", "a/src/tests/deep.rs", "a/src/tests/mod.rs"];
        assert_eq!(tests, expected);
    }

    #[test]
    fn scripts_say_what_they_are() {
        let file = other("x/run.sh".to_owned(), "#!/bin/sh\n# Does it.\n# Well.\n\n# Not this.\ntrue\n");
        assert_eq!(file.about, ["Does it. Well."]);
        assert_eq!(file.lines, Lines { code: 1, tests: 0, comments: 4 });
    }

    #[test]
    fn every_module_of_the_checkout_is_found() {
        let files = inventory().unwrap();
        for crate_root in ["abi/src/lib.rs", "core/src/lib.rs", "x86/src/lib.rs", "hal/src/lib.rs", "radon/src/main.rs"]
        {
            assert!(files.iter().any(|file| file.path == crate_root && !file.test), "{crate_root}");
        }
        assert!(files.iter().any(|file| file.path == "x86/src/devices/hpet_tests.rs" && file.test));
    }
}
