//! The kernel: modes, panics.

mod attack;
mod calls;
mod cpu;
mod hypercall;
mod instructions;
mod random;

use core::arch::global_asm;
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypercall::{Console, Counter};
use radon_abi::{memory, sched};
use radon_guest::{Clock, Page, command_line, rdtsc};

global_asm!(include_str!("entry.S"), options(att_syntax, raw));

static SHARED_INFO: Page = Page::new();
/// vCPUs that came as far as Rust.
static RUNNING: Counter = Counter::new(0);
/// What all do now, the attack's seed, and the number of vCPUs.
static MODE: AtomicU64 = AtomicU64::new(WAIT);
static SEED: AtomicU64 = AtomicU64::new(0);
static CPUS: AtomicU64 = AtomicU64::new(1);
static TRACE: AtomicBool = AtomicBool::new(false);

const WAIT: u64 = 0;
const SPIN: u64 = 1;
const ATTACK: u64 = 2;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

#[unsafe(no_mangle)]
extern "C" fn guest_main(start_info: u32) -> ! {
    let mut words = command_line(start_info).split(' ').skip_while(|word| !["beat", "spin", "attack"].contains(word));
    cpu::prepare(0);
    let mut console = Console::find();
    radon_guest::hypercall::map_special(memory::XENMAPSPACE_SHARED_INFO, 0, &SHARED_INFO);
    RUNNING.store(1, Ordering::Relaxed);
    let cpus = cpu::start_others();
    while RUNNING.load(Ordering::Relaxed) < cpus {
        hypercall::sleep_until(0, now() + SECOND / 100, &SHARED_INFO);
    }
    say(&mut console, format_args!("tenant: {cpus} vCPUs run\n"));
    match words.next() {
        Some("spin") => {
            MODE.store(SPIN, Ordering::Release);
            spin()
        }
        Some("attack") => {
            let seed = words.next().and_then(|word| word.parse().ok()).unwrap_or_else(rdtsc);
            say(&mut console, format_args!("tenant: attack with seed {seed}\n"));
            attack::prepare();
            TRACE.store(words.next() == Some("trace"), Ordering::Relaxed);
            SEED.store(seed, Ordering::Relaxed);
            CPUS.store(cpus, Ordering::Relaxed);
            MODE.store(ATTACK, Ordering::Release);
            attack::run(seed, 0, cpus, &mut console)
        }
        _ => {
            let mut time = now();
            for beat in 1u64.. {
                say(&mut console, format_args!("tenant: beat {beat}\n"));
                time += SECOND;
                hypercall::sleep_until(0, time, &SHARED_INFO);
            }
            hypercall::shut_down(sched::SHUTDOWN_POWEROFF)
        }
    }
}

/// System time in nanoseconds.
fn now() -> u64 {
    Clock::read(&SHARED_INFO).now()
}

/// Prints a line if the attack is to be followed.
fn trace(text: core::fmt::Arguments<'_>) {
    if TRACE.load(Ordering::Relaxed)
        && let Some(mut console) = Console::find()
    {
        // Writing to the console cannot fail.
        let _ = writeln!(console, "{text}");
    }
}

fn say(console: &mut Option<Console>, text: core::fmt::Arguments<'_>) {
    if let Some(console) = console {
        // Writing to the console cannot fail.
        let _ = console.write_fmt(text);
    }
}

/// A further vCPU.
#[unsafe(no_mangle)]
extern "C" fn further_main(number: u64) -> ! {
    cpu::prepare(number);
    RUNNING.fetch_add(1, Ordering::Relaxed);
    loop {
        match MODE.load(Ordering::Acquire) {
            SPIN => spin(),
            ATTACK => {
                // The first one comes here when it had to be started again.
                let mut console = if number == 0 { Console::find() } else { None };
                attack::run(SEED.load(Ordering::Relaxed), number, CPUS.load(Ordering::Relaxed), &mut console)
            }
            _ => hypercall::sleep_until(number, now() + SECOND / 10, &SHARED_INFO),
        }
    }
}

fn spin() -> ! {
    loop {
        // Not PAUSE: an emulator would give its other work a turn at each, and be a hundred times slower.
        core::hint::black_box(());
    }
}

/// An exception where none may be: the vector and what the processor pushed.
#[unsafe(no_mangle)]
extern "C" fn unexpected_exception(stack: &[u64; 5]) -> ! {
    panic!("exception; the stack is {stack:x?}");
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(mut console) = Console::find() {
        // Writing to the console cannot fail.
        let _ = writeln!(console, "tenant: failed: {info}");
    }
    hypercall::shut_down(sched::SHUTDOWN_CRASH)
}
