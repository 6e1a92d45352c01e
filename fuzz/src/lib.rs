//! Fuzz targets: functions that take any bytes and hand them to what a guest, a file or the tools can reach. They panic
//! where Radon would, and where what comes out cannot be right.
//!
//! `cargo xtask fuzz TARGET --minutes N` looks for such bytes, guided by coverage. What it finds goes to `corpus/TARGET`,
//! and the tests here run everything that is there on every `cargo test`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a target says that something is wrong"
)]

mod boot;
mod context;
mod emulate;
mod hypercall;
mod input;
#[path = "../../x86/tests/oracle/mod.rs"]
mod oracle;
mod pci;
#[cfg(test)]
mod seeds;

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// A target.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it feeds.
    pub about: &'static str,
    body: fn(&[u8]),
}

/// All targets.
pub static TARGETS: &[Target] = &[
    Target { name: "acpi", about: "the firmware's ACPI tables, in memory", body: boot::acpi },
    Target { name: "boot-info", about: "Multiboot 1 and 2 information, in memory", body: boot::boot_info },
    Target { name: "context", about: "records of a saved guest, given to sethvmcontext", body: context::load },
    Target { name: "decode", about: "the instruction decoder, with iced-x86 as oracle", body: emulate::decode },
    Target {
        name: "emulate",
        about: "the instruction emulator: what it changes is what iced-x86 says the instruction changes",
        body: emulate::execute,
    },
    Target {
        name: "hypercall",
        about: "hypercalls of dom0 and guests, by way of the dispatcher",
        body: hypercall::run,
    },
    Target { name: "kernel", about: "the headers of an unpacked kernel", body: boot::kernel },
    Target { name: "options", about: "the command line", body: boot::options },
    Target {
        name: "pci",
        about: "PCI configuration space and MSI-X tables, with any device behind them",
        body: pci::run,
    },
    Target { name: "unpack", about: "kernel images and their decompressors", body: boot::unpack },
];

/// The target of this name.
#[must_use]
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

impl Target {
    /// Runs the target.
    ///
    /// # Panics
    /// If these bytes show a defect.
    pub fn run(&self, data: &[u8]) {
        if let Err(payload) = panic::catch_unwind(AssertUnwindSafe(|| (self.body)(data)))
            && !is_stop(&*payload)
        {
            panic::resume_unwind(payload);
        }
    }
}

/// Whether a panic is how the test machine stops when it is switched off, which dom0 may do.
#[must_use]
pub fn is_stop(payload: &(dyn Any + Send)) -> bool {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or(payload.downcast_ref::<&str>().copied()).is_some_and(|text| text.starts_with("the machine was stopped"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    /// Everything that was found once, and examples that reach far into the parsers.
    fn replay(name: &str) {
        let target = target(name).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        target.run(&[]);
        let mut files: Vec<_> = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            println!("{}", file.display());
            target.run(&fs::read(file).unwrap());
        }
        // A few bytes without any structure, always the same ones.
        let mut state = 1_u64;
        for length in (0..200).step_by(9) {
            let mut byte = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) as u8
            };
            let data: Vec<u8> = (0..length).map(|_| byte()).collect();
            target.run(&data);
        }
    }

    macro_rules! replays {
        ($($test:ident $name:literal),* $(,)?) => {
            $(#[test] fn $test() { replay($name); })*
            #[test]
            fn every_target_is_replayed() {
                let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
                assert_eq!(names, [$($name),*]);
            }
        };
    }
    replays!(
        acpi "acpi", boot_info "boot-info", context "context", decode "decode", emulate "emulate",
        hypercall "hypercall", kernel "kernel", options "options", pci "pci", unpack "unpack",
    );
}
