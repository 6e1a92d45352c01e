//! The program that the fuzzing engine (libFuzzer) drives: RADON_FUZZ_TARGET names the target.
#![no_main]

use std::panic;
use std::sync::OnceLock;

use radon_fuzz::Target;

static TARGET: OnceLock<&Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        // A stop of the test machine is no defect: it unwinds to `Target::run`. All other panics end the process, and
        // the engine keeps the input.
        panic::set_hook(Box::new(|info| {
            if !radon_fuzz::is_stop(info.payload()) {
                eprintln!("{info}");
                std::process::abort();
            }
        }));
        let name = std::env::var("RADON_FUZZ_TARGET").unwrap_or_default();
        match radon_fuzz::target(&name) {
            Some(target) => _ = TARGET.set(target),
            None => {
                eprintln!("RADON_FUZZ_TARGET={name} is not a target");
                std::process::exit(2);
            }
        }
    },
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            target.run(data);
        }
    }
);
