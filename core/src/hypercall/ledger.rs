//! The ledger: what is covered of the ABI, rendered from the tables for the book.
//!
//! `RADON_WRITE_LEDGER=1 cargo test -p radon-core ledger` writes `book/src/ledger.md`; the test compares it otherwise.

extern crate std;

use alloc::format;
use alloc::string::String;

use super::{Coverage, HYPERCALLS};

const INTRODUCTION: &str = "\
# Coverage of the ABI

Each hypercall and operation of Xen 4.17 that Radon has, and how much of it: *full*; *partial*, with what is missing; or
*refused*, with the error that callers get. What is not listed does not exist here, as in Xen it does not for callers of
the kind HVM (`ENOSYS`): the calls of PV guests, and `nmi_op`, `callback_op`, `xenoprof_op`, `kexec_op` and `mca`.

This page is written by a test from the tables that dispatch (`core/src/hypercall/ledger.rs`). What it says is checked: a
kernel of a few kilobytes (`guests/ops`) calls every operation on it, looks whether those that are full or partial do what
they say, and which error the others give. `cargo xtask test system/operations` fails if one does otherwise, or if one is
not called; with `--xen` it says the same of Debian's Xen, and `xtask/src/operations.rs` lists where that one differs.
";

/// The page.
fn render() -> String {
    let mut page = String::from(INTRODUCTION);
    for call in HYPERCALLS {
        page.push_str(&format!("\n## {} ({})\n\n", call.name, call.number));
        if call.operations.is_empty() {
            page.push_str(&format!("One operation: {}.\n", words(call.coverage)));
            continue;
        }
        page.push_str("| number | operation | coverage |\n|---|---|---|\n");
        for op in call.operations {
            page.push_str(&format!("| {} | `{}` | {} |\n", op.number, op.name, words(op.coverage)));
        }
    }
    page
}

fn words(coverage: Coverage) -> String {
    match coverage {
        Coverage::Full => String::from("full"),
        Coverage::Partial(missing) => format!("partial: {missing}"),
        Coverage::Refused(errno) => format!("refused: `{errno}`"),
    }
}

#[test]
fn the_ledger_in_the_book_is_fresh() {
    let place = concat!(env!("CARGO_MANIFEST_DIR"), "/../book/src/ledger.md");
    let page = render();
    if std::env::var_os("RADON_WRITE_LEDGER").is_some() {
        std::fs::write(place, &page).unwrap();
    }
    let book = std::fs::read_to_string(place).unwrap_or_default();
    assert!(book == page, "book/src/ledger.md is stale: RADON_WRITE_LEDGER=1 cargo test -p radon-core ledger");
}
