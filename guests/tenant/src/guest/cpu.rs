//! Each vCPU's area, descriptor tables, and the way to run code that may end in any exception.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use super::hypercall;

/// vCPUs that this kernel can use.
pub(crate) const MAX: u64 = 128;
/// As in `entry.S`.
const AREA: u64 = 0x8000;
/// Where an area has its descriptor table, task state and code, and the top of its stack for exceptions.
const GDT: u64 = 64;
const TASK_STATE: u64 = 128;
const CODE: u64 = 512;
const EXCEPTION_TOP: u64 = 0x2000;
/// Room for code.
pub(crate) const CODE_SIZE: usize = 64;

unsafe extern "C" {
    static areas: u8;
    static vector_entries: u8;
    fn run_code(code: u64, registers: *const u64) -> u64;
}

/// The interrupt descriptor table of all vCPUs: 256 gates of 16 bytes.
static GATES: [[AtomicU64; 2]; 256] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; 256];
/// Fills the gates; done once, by the first vCPU, before there are others.
fn fill_gates() {
    for (number, gate) in GATES.iter().enumerate() {
        let at = &raw const vector_entries as u64 + 16 * number as u64;
        // A present interrupt gate of privilege 3 in the code segment 8, with the first stack of the task state.
        gate[0].store(at & 0xffff | 8 << 16 | 1 << 32 | 0xee << 40 | (at >> 16 & 0xffff) << 48, Ordering::Relaxed);
        gate[1].store(at >> 32, Ordering::Relaxed);
    }
}

fn area(number: u64) -> u64 {
    &raw const areas as u64 + number * AREA
}

/// Makes the vCPU that runs this ready for exceptions.
pub(crate) fn prepare(number: u64) {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    if number == 0 {
        fill_gates();
    }
    let base = area(number);
    let task = base + TASK_STATE;
    let descriptors = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        // A task state of 104 bytes.
        0x0000_8900_0000_0067 | (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56,
        task >> 32,
    ];
    let gdt = Pointer(39, base + GDT);
    let idt = Pointer(256 * 16 - 1, GATES.as_ptr() as u64);
    // SAFETY: the area is this vCPU's; the tables stay, and describe what the program runs with already.
    unsafe {
        ((base + GDT) as *mut [u64; 5]).write(descriptors);
        ((task + 36) as *mut u64).write_unaligned(base + EXCEPTION_TOP);
        asm!("lgdt [{}]", "lidt [{}]", "ltr {:x}", in(reg) &raw const gdt, in(reg) &raw const idt, in(reg) 0x18);
    }
}

/// Starts all other vCPUs there are; returns their number with this one.
pub(crate) fn start_others() -> u64 {
    (1..MAX).take_while(|number| start(*number)).count() as u64 + 1
}

/// Starts a vCPU in `further_main`, if it exists and does not run.
pub(crate) fn start(number: u64) -> bool {
    hypercall::start(number, area(number) + AREA - 64)
}

/// Brings a vCPU back that makes no progress: it was stopped, or was sent INIT, or runs in a circle.
pub(crate) fn rescue(number: u64) {
    hypercall::up(number);
    hypercall::nmi(number);
    start(number);
}

/// Runs `code`, which may do anything, and returns the vector of the exception or the NMI that ended it. The code is
/// followed by breakpoints.
pub(crate) fn run(number: u64, code: &[u8], registers: &[u64; 15]) -> u64 {
    let at = area(number) + CODE;
    let mut bytes = [0xcc; CODE_SIZE];
    bytes[..code.len()].copy_from_slice(code);
    // SAFETY: no safety is claimed for what comes: a program that attacks its hypervisor may damage itself, and is
    // started again.
    unsafe {
        (at as *mut [u8; CODE_SIZE]).write_volatile(bytes);
        run_code(at, registers.as_ptr())
    }
}
