//! The end: a report that can be acted on, then stop.
//!
//! [`fatal`] is for what is a defect: reached from `panic!` and from exceptions that nobody expected. Prints reason, CPU,
//! build id, registers and a symbolised backtrace. [`stop`] is for what is wrong with the machine or with what it was
//! given to boot: only the reason, so that nobody has to look for it. Both stop the other CPUs by NMI, then reboot, or
//! stay when `noreboot` is given. They take no lock that could be held: the console is written past its lock.
// Unsafe: follows frame pointers.
#![allow(unsafe_code)]

use core::fmt::{self, Write as _};
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::cpu::registers::{self, halt_forever, probe_read_u64};
use crate::traps::Frame;
use crate::{apic, console, cpu, layout, power, selftest, svm, symbols, time};

/// Longest backtrace.
const MAX_FRAMES: usize = 48;
/// How long the report stays before the machine restarts.
const REBOOT_DELAY_MS: u64 = 5_000;
const NOBODY: u32 = u32::MAX;

static REPORTER: AtomicU32 = AtomicU32::new(NOBODY);
static NO_REBOOT: AtomicBool = AtomicBool::new(false);

/// Writes to the console past its lock.
struct Raw;

impl fmt::Write for Raw {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        console::write_past_lock(s.as_bytes());
        Ok(())
    }
}

macro_rules! line {
    ($($arg:tt)*) => {
        // Writing to the raw console cannot fail.
        let _ = writeln!(Raw, "(XEN) {}", format_args!($($arg)*));
    };
}

/// Makes a fatal report end with a halt rather than a restart (option `noreboot`).
pub fn set_no_reboot(stay: bool) {
    NO_REBOOT.store(stay, Ordering::Relaxed);
}

/// Whether the machine is being stopped.
pub(crate) fn stopping() -> bool {
    REPORTER.load(Ordering::Acquire) != NOBODY
}

/// Whether this CPU is the one that stops the machine.
pub(crate) fn is_reporter() -> bool {
    REPORTER.load(Ordering::Acquire) == this_cpu_number()
}

/// CPUs that have stopped because another one stops the machine.
static PARKED: AtomicU32 = AtomicU32::new(0);
/// How long the others may take to stop.
const PARK_MS: u64 = 20;

/// Stops this CPU because another one stops the machine.
pub(crate) fn park() -> ! {
    svm::disable_on_this_cpu();
    PARKED.fetch_add(1, Ordering::AcqRel);
    halt_forever()
}

/// Before the machine is restarted or switched off: stops the other CPUs, and leaves SVM here.
pub(crate) fn leave() {
    stop_others();
    let others = cpu::count().saturating_sub(1);
    for _ in 0..PARK_MS {
        if PARKED.load(Ordering::Acquire) >= others {
            break;
        }
        time::spin_ms(1);
    }
    svm::disable_on_this_cpu();
}

/// Writes a line to the console past its lock: from an NMI, which may have met the lock's holder.
pub(crate) fn say_past_locks(text: fmt::Arguments<'_>) {
    line!("{}", text);
}

/// Makes this CPU the only one that runs. Of several CPUs that try at once one returns; the others stop.
pub(crate) fn stop_others() {
    let me = this_cpu_number();
    if let Err(other) = REPORTER.compare_exchange(NOBODY, me, Ordering::AcqRel, Ordering::Acquire) {
        if other != me {
            park();
        }
        return;
    }
    apic::send_nmi_to_others();
}

fn this_cpu_number() -> u32 {
    cpu::try_this_cpu().map_or(0, |c| c.id().0)
}

/// Reports a defect that the hypervisor cannot go on with, and stops the machine.
pub fn fatal(frame: Option<&Frame>, reason: fmt::Arguments<'_>) -> ! {
    begin(reason);
    if let Some(f) = frame {
        registers_of(f);
    }
    backtrace(frame);
    end()
}

/// Says why the hypervisor cannot start on this machine, or with what it was given, and stops the machine. The reason is
/// for the person who can change that: it names the cause and what to do.
pub fn stop(reason: fmt::Arguments<'_>) -> ! {
    begin(reason);
    end()
}

/// Makes this CPU the only one, and says why and what it is that stops.
fn begin(reason: fmt::Arguments<'_>) {
    registers::interrupts_off();
    if stopping() && is_reporter() {
        line!("Failed again while reporting: {}", reason);
        halt_forever();
    }
    stop_others();
    line!("");
    line!("****************************************");
    line!("Radon stopped: {}", reason);
    line!("Radon {}, build id {}, on CPU{}", env!("CARGO_PKG_VERSION"), BuildId, this_cpu_number());
}

/// A person wants the report that a defect would give, or tests do.
#[inline(never)]
pub fn crash_on_purpose() {
    // SAFETY: raises an exception, whose handler reports and does not return.
    unsafe { core::arch::asm!("ud2") };
}

/// Hangs this CPU, for tests of the watchdog.
#[inline(never)]
pub fn hang_on_purpose() -> ! {
    loop {
        registers::relax();
    }
}

/// dom0 has crashed, and said why itself: stops the machine.
pub fn after_crash() -> ! {
    registers::interrupts_off();
    stop_others();
    end()
}

/// Ends the report and the machine's run.
fn end() -> ! {
    line!("****************************************");
    if selftest::active() {
        power::exit_emulator(selftest::EXIT_FAILED);
    }
    if NO_REBOOT.load(Ordering::Relaxed) {
        line!("'noreboot' is given: halted. Reset the machine by hand.");
        halt_forever();
    }
    line!("Restart in {} seconds (option 'noreboot' stays).", REBOOT_DELAY_MS / 1000);
    time::spin_ms(REBOOT_DELAY_MS);
    power::reset()
}

fn registers_of(f: &Frame) {
    let symbol = symbols::lookup(f.rip);
    line!("rip {:016x}  {}  rflags {:08x}", f.rip, Symbol(symbol), f.rflags);
    line!("rax {:016x}  rbx {:016x}  rcx {:016x}", f.rax, f.rbx, f.rcx);
    line!("rdx {:016x}  rsi {:016x}  rdi {:016x}", f.rdx, f.rsi, f.rdi);
    line!("rbp {:016x}  rsp {:016x}  r8  {:016x}", f.rbp, f.rsp, f.r8);
    line!("r9  {:016x}  r10 {:016x}  r11 {:016x}", f.r9, f.r10, f.r11);
    line!("r12 {:016x}  r13 {:016x}  r14 {:016x}", f.r12, f.r13, f.r14);
    line!("r15 {:016x}  cs {:04x} ss {:04x}  vector {} error {:x}", f.r15, f.cs, f.ss, f.vector, f.error);
    line!(
        "cr0 {:08x}  cr2 {:016x}  cr3 {:08x}  cr4 {:08x}",
        registers::read_cr0(),
        registers::read_cr2(),
        registers::read_cr3(),
        registers::read_cr4()
    );
}

fn backtrace(frame: Option<&Frame>) {
    line!("Backtrace:");
    let mut rbp = match frame {
        Some(f) => {
            line!("  [{:016x}] {}", f.rip, Symbol(symbols::lookup(f.rip)));
            f.rbp
        }
        None => {
            let rbp: u64;
            // SAFETY: reads a register.
            unsafe { core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nostack, nomem, preserves_flags)) };
            rbp
        }
    };
    for _ in 0..MAX_FRAMES {
        // Each frame starts with the caller's frame pointer and the return address; stacks grow down, so the next one is
        // higher. Anything else ends the walk. Reads are fault-tolerant.
        if rbp == 0 || rbp % 8 != 0 || rbp < layout::DIRECT_MAP {
            break;
        }
        let (Ok(next), Ok(ret)) = (probe_read_u64(rbp), probe_read_u64(rbp + 8)) else { break };
        if ret == 0 {
            break;
        }
        line!("  [{:016x}] {}", ret, Symbol(symbols::lookup(ret - 1)));
        if next <= rbp {
            break;
        }
        rbp = next;
    }
}

struct Symbol(Option<(symbols::Name, u64)>);

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((name, offset)) => write!(f, "{name}+{offset:#x}"),
            None => f.write_str("?"),
        }
    }
}

/// The build id in hexadecimal.
#[derive(Clone, Copy, Debug)]
pub struct BuildId;

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        layout::build_id().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(at) => fatal(None, format_args!("panic at {}:{}: {}", at.file(), at.line(), info.message())),
        None => fatal(None, format_args!("panic: {}", info.message())),
    }
}
