//! The kernel: start, results, panics.

mod hypercall;
mod interrupts;
mod micro;
mod port;
mod second;

use core::arch::{asm, global_asm};
use core::ffi::CStr;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

global_asm!(include_str!("entry.S"), options(att_syntax, raw));

unsafe extern "C" {
    /// The counter at the first instruction.
    static entry_tsc: u64;
}

/// The time stamp counter.
#[inline(always)]
fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags)) };
    u64::from(high) << 32 | u64::from(low)
}

#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u32) -> ! {
    START_INFO.store(start_info, Ordering::Relaxed);
    let wants_micro = is_asked("micro", "");
    // SAFETY: written once, by the entry code.
    port::result("entry", unsafe { entry_tsc });
    if !wants_micro {
        clock();
    }
    let memory = hypercall::memory();
    port::result("total_pages", memory.total);
    port::result("free_pages", memory.free);
    port::result("dom0_pages", memory.own);
    if wants_micro {
        micro::run();
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

/// Whether the command line has the word `first` followed by `second`.
fn is_asked(first: &str, second: &str) -> bool {
    command_line().split(' ').any(|word| word.strip_prefix(first) == Some(second))
}

/// The command line that the start information points to.
fn command_line() -> &'static str {
    /// Where `struct hvm_start_info` has the address of the command line.
    const COMMAND_LINE: u64 = 24;
    // SAFETY: by the PVH protocol the loader passes such a structure, and the text ends with a NUL; both stay.
    let text = unsafe {
        let at = *((u64::from(START_INFO.load(Ordering::Relaxed)) + COMMAND_LINE) as *const u64);
        if at == 0 { c"" } else { CStr::from_ptr(at as *const _) }
    };
    text.to_str().unwrap_or_default()
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
