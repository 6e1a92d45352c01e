//! The kernel: results, panics.

mod domain;
mod hypercall;
mod interrupts;
mod micro;
mod port;
mod scale;
mod second;

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use radon_guest::{command_line, rdtsc};

global_asm!(include_str!("entry.S"), options(att_syntax, raw));

#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u32) -> ! {
    START_INFO.store(start_info, Ordering::Relaxed);
    if is_asked(domain::WORD, "") {
        domain::clone_main();
    }
    let wants_micro = is_asked("micro", "");
    port::result("entry", radon_guest::entry_counter());
    if !wants_micro && !scale::is_wanted() {
        clock();
    }
    let memory = hypercall::memory();
    port::result("total_pages", memory.total);
    port::result("free_pages", memory.free);
    port::result("dom0_pages", memory.own);
    if wants_micro {
        micro::run();
    }
    if scale::is_wanted() {
        scale::run();
    }
    port::result("end", 0);
    port::end()
}

/// Prints the counter at a moment when the machine's real-time clock changes to another second, and that second: a
/// hypervisor may have the counter begin when it likes, the clock is the machine's.
fn clock() {
    const SECONDS: u8 = 0;
    const MINUTES: u8 = 2;
    let read = |register| {
        port::out8(0x70, register);
        port::in8(0x71)
    };
    let before = read(SECONDS);
    while read(SECONDS) == before {}
    port::result("second_tsc", rdtsc());
    port::result("seconds", u64::from(read(SECONDS)));
    port::result("minutes", u64::from(read(MINUTES)));
}

/// The address of the start information.
static START_INFO: AtomicU32 = AtomicU32::new(0);

/// The number that follows `first` in a word of the command line.
fn number(first: &str) -> Option<u64> {
    let mut words = command_line(START_INFO.load(Ordering::Relaxed)).split(' ');
    words.find_map(|word| word.strip_prefix(first)?.parse().ok())
}

/// Whether the command line has the word `first` followed by `second`.
fn is_asked(first: &str, second: &str) -> bool {
    command_line(START_INFO.load(Ordering::Relaxed)).split(' ').any(|word| word.strip_prefix(first) == Some(second))
}

/// An exception, of which nothing is known but what the processor pushed.
#[unsafe(no_mangle)]
extern "C" fn guest_exception(stack: &[u64; 3]) -> ! {
    panic!("exception; the stack is {stack:x?}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // Writing to a port cannot fail.
    let _ = writeln!(port::Results, "failed {info}");
    port::end()
}
