//! Exceptions, NMIs and interrupts: the interrupt descriptor table and what happens first.
//!
//! An exception in the hypervisor is a bug, except where an instruction is allowed to fail: those are listed in the
//! exception table (pairs of the instruction's address and where to continue). Double faults, NMIs and machine checks
//! run on stacks of their own, so a stack overflow is reported rather than resetting the machine.
//!
//! Takes no locks. NMIs may come at any time; see [`crate::nmi`].
// Unsafe: builds the table the processor reads, and is entered by it.
#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;

use crate::cpu::registers::{halt_forever, read_cr2};
use crate::{interrupts, machine_check, nmi, report};

global_asm!(include_str!("traps.S"), options(att_syntax, raw));

/// The interrupted registers. Changes are loaded back on return.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the registers' own names say all")]
pub struct Frame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

const PAGE_FAULT: u64 = 14;
const NMI: u64 = 2;
const DOUBLE_FAULT: u64 = 8;
const GENERAL_PROTECTION: u64 = 13;
const INVALID_OPCODE: u64 = 6;
const MACHINE_CHECK: u64 = 18;

/// Interrupt stack table slots, as in each CPU's TSS (1-based).
pub(crate) const IST_NMI: u8 = 1;
pub(crate) const IST_DOUBLE_FAULT: u8 = 2;
pub(crate) const IST_MACHINE_CHECK: u8 = 3;

/// The exception's name as the manuals have it.
#[must_use]
pub fn exception_name(vector: u64) -> &'static str {
    const NAMES: [&str; 32] = [
        "divide error (#DE)",
        "debug exception (#DB)",
        "non-maskable interrupt",
        "breakpoint (#BP)",
        "overflow (#OF)",
        "bound range exceeded (#BR)",
        "invalid opcode (#UD)",
        "device not available (#NM)",
        "double fault (#DF)",
        "coprocessor segment overrun",
        "invalid TSS (#TS)",
        "segment not present (#NP)",
        "stack fault (#SS)",
        "general protection (#GP)",
        "page fault (#PF)",
        "vector 15",
        "x87 floating-point error (#MF)",
        "alignment check (#AC)",
        "machine check (#MC)",
        "SIMD floating-point exception (#XM)",
        "virtualization exception (#VE)",
        "control protection (#CP)",
        "vector 22",
        "vector 23",
        "vector 24",
        "vector 25",
        "vector 26",
        "vector 27",
        "hypervisor injection (#HV)",
        "VMM communication (#VC)",
        "security exception (#SX)",
        "vector 31",
    ];
    NAMES.get(vector as usize).copied().unwrap_or("interrupt")
}

#[repr(C, align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written only by `init`, on the boot CPU before any other CPU runs and before it is loaded.
unsafe impl Sync for Idt {}

static IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

#[repr(C, packed)]
struct TablePointer {
    limit: u16,
    base: u64,
}

unsafe extern "C" {
    static trap_stubs: u8;
}

/// Fills the table and loads it on the boot CPU. Stacks of their own for NMI, double fault and machine check are named
/// only by [`use_own_stacks`], when they exist.
pub(crate) fn init() {
    let stubs = (&raw const trap_stubs) as u64;
    // SAFETY: only the boot CPU runs and the table is not loaded yet: nobody else looks at it.
    let table = unsafe { &mut *IDT.0.get() };
    for (vector, gate) in table.iter_mut().enumerate() {
        *gate = make_gate(stubs + vector as u64 * 16, 0);
    }
    load();
}

/// Makes NMI, double fault and machine check use the stacks named in the CPU's TSS. To be called once, on the boot CPU,
/// when its TSS is loaded.
pub(crate) fn use_own_stacks() {
    for (vector, ist) in [(NMI, IST_NMI), (DOUBLE_FAULT, IST_DOUBLE_FAULT), (MACHINE_CHECK, IST_MACHINE_CHECK)] {
        let gate = make_gate((&raw const trap_stubs) as u64 + vector * 16, ist);
        // SAFETY: `vector` is below 256, and only the boot CPU runs. The new gate differs from the old one in the stack
        // number alone, so an exception in between finds one or the other, both valid.
        unsafe { core::ptr::write_volatile((IDT.0.get().cast::<[u64; 2]>()).add(vector as usize), gate) };
    }
}

/// Loads the table on this CPU.
pub(crate) fn load() {
    let pointer = TablePointer { limit: size_of::<Idt>() as u16 - 1, base: IDT.0.get() as u64 };
    // SAFETY: the table is static and complete; all gates lead to the stubs.
    unsafe { asm!("lidt [{}]", in(reg) &raw const pointer, options(nostack, readonly, preserves_flags)) };
}

/// An interrupt gate (interrupts off on entry) for ring 0 code at `handler`.
fn make_gate(handler: u64, ist: u8) -> [u64; 2] {
    const PRESENT_INTERRUPT_GATE: u64 = 0x8e00;
    let low = handler & 0xffff
        | u64::from(crate::cpu::CODE_SELECTOR) << 16
        | (PRESENT_INTERRUPT_GATE | u64::from(ist)) << 32
        | (handler >> 16 & 0xffff) << 48;
    [low, handler >> 32]
}

unsafe extern "C" {
    static __ex_table_start: [u64; 2];
    static __ex_table_end: [u64; 2];
}

/// Where to continue if the instruction at `rip` faulted and is allowed to.
fn fixup(rip: u64) -> Option<u64> {
    let start = &raw const __ex_table_start;
    let end = &raw const __ex_table_end;
    // SAFETY: the linker script collects the pairs between the two symbols, 8-byte aligned, in read-only data.
    let table = unsafe { core::slice::from_raw_parts(start, (end as usize - start as usize) / size_of::<[u64; 2]>()) };
    table.iter().find(|[at, _]| *at == rip).map(|[_, to]| *to)
}

/// Called by the stubs with the interrupted registers.
#[unsafe(no_mangle)]
extern "C" fn trap_entry(frame: &mut Frame) {
    match frame.vector {
        NMI => nmi::handle(frame),
        INVALID_OPCODE | GENERAL_PROTECTION | PAGE_FAULT if let Some(to) = fixup(frame.rip) => frame.rip = to,
        0..=31 => exception(frame),
        vector => interrupts::dispatch(vector as u8),
    }
}

fn exception(frame: &Frame) -> ! {
    if report::stopping() && report::is_reporter() && frame.vector != NMI {
        // The report itself failed.
        halt_forever();
    }
    let name = exception_name(frame.vector);
    let at = read_cr2();
    let overflow = crate::cpu::is_stack_guard(at);
    match frame.vector {
        MACHINE_CHECK => report::fatal(Some(frame), format_args!("{name}: {}", machine_check::Banks)),
        DOUBLE_FAULT | PAGE_FAULT if overflow => report::fatal(Some(frame), format_args!("stack overflow")),
        PAGE_FAULT => {
            let access = match frame.error {
                e if e & 16 != 0 => "execution",
                e if e & 2 != 0 => "write",
                _ => "read",
            };
            let why = if frame.error & 1 == 0 { "not mapped" } else { "not permitted" };
            report::fatal(Some(frame), format_args!("page fault: {access} at {at:#x} ({why})"))
        }
        _ => report::fatal(Some(frame), format_args!("{name}, error code {:#x}", frame.error)),
    }
}
