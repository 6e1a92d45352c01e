//! Trace buffers (`public/trace.h`): event numbers and the layout of what the control domain maps.
//!
//! A buffer begins with two words ([`TBUF_CONS`], [`TBUF_PROD`]) that count bytes modulo twice the size of what follows,
//! which is records: a header word ([`header`]), two words of time stamp if it says so, and up to seven words more.

/// Most words that a record has beside header and time stamp.
pub const TRACE_EXTRA_MAX: u32 = 7;
/// Where the number of these words is in the header.
pub const TRACE_EXTRA_SHIFT: u32 = 28;
/// Where an event's class is.
pub const TRC_CLS_SHIFT: u32 = 16;
/// Where an event's subclass is.
pub const TRC_SUBCLS_SHIFT: u32 = 12;
/// The header's bit that says that a time stamp follows.
pub const TRC_HD_CYCLE_FLAG: u32 = 1 << 31;
/// The bits of the header that are the event.
pub const EVENT_MASK: u32 = 0x0fff_ffff;

/// General.
pub const TRC_GEN: u32 = 0x0001_f000;
/// Scheduler.
pub const TRC_SCHED: u32 = 0x0002_f000;
/// Operations of the control domain.
pub const TRC_DOM0OP: u32 = 0x0004_f000;
/// HVM.
pub const TRC_HVM: u32 = 0x0008_f000;
/// Memory.
pub const TRC_MEM: u32 = 0x0010_f000;
/// What guests record themselves.
pub const TRC_GUEST: u32 = 0x0800_f000;
/// Everything.
pub const TRC_ALL: u32 = 0x0fff_f000;

/// Records are missing here: their number, domain and vCPU, time stamp of the first (two words).
pub const TRC_LOST_RECORDS: u32 = TRC_GEN + 1;
/// Fills the end of a buffer.
pub const TRC_TRACE_WRAP_BUFFER: u32 = TRC_GEN + 2;

/// Run states.
pub const TRC_SCHED_MIN: u32 = 0x0002_1000;
/// All else about scheduling.
pub const TRC_SCHED_VERBOSE: u32 = 0x0002_8000;
/// A run state changes; from (bits 8 and 9) and to (bits 4 and 5) are in the event. vCPU and domain.
pub const TRC_SCHED_RUNSTATE_CHANGE: u32 = TRC_SCHED_MIN + 1;
/// The same vCPU goes on. vCPU and domain.
pub const TRC_SCHED_CONTINUE_RUNNING: u32 = TRC_SCHED_MIN + 2;
/// A vCPU is made. Domain, vCPU.
pub const TRC_SCHED_DOM_ADD: u32 = TRC_SCHED_VERBOSE + 1;
/// A vCPU is no more. Domain, vCPU.
pub const TRC_SCHED_DOM_REM: u32 = TRC_SCHED_VERBOSE + 2;
/// A vCPU may not run. Domain, vCPU.
pub const TRC_SCHED_SLEEP: u32 = TRC_SCHED_VERBOSE + 3;
/// A vCPU may run. Domain, vCPU.
pub const TRC_SCHED_WAKE: u32 = TRC_SCHED_VERBOSE + 4;
/// A vCPU gives way. Domain, vCPU.
pub const TRC_SCHED_YIELD: u32 = TRC_SCHED_VERBOSE + 5;
/// A vCPU waits for events. Domain, vCPU.
pub const TRC_SCHED_BLOCK: u32 = TRC_SCHED_VERBOSE + 6;
/// A domain shuts down. Domain, vCPU, reason.
pub const TRC_SCHED_SHUTDOWN: u32 = TRC_SCHED_VERBOSE + 7;
/// A domain's parameters change. Domain.
pub const TRC_SCHED_ADJDOM: u32 = TRC_SCHED_VERBOSE + 9;
/// A CPU changes vCPUs. Domain and vCPU before, domain and vCPU after.
pub const TRC_SCHED_SWITCH: u32 = TRC_SCHED_VERBOSE + 10;
/// Before that: what ran. Domain, vCPU, time it ran (ns), its slice (-1 if that is not known).
pub const TRC_SCHED_SWITCH_INFPREV: u32 = TRC_SCHED_VERBOSE + 14;

/// Domains come and go.
pub const TRC_DOM0_DOMOPS: u32 = 0x0004_1000;
/// A domain is made. Domain.
pub const TRC_DOM0_DOM_ADD: u32 = TRC_DOM0_DOMOPS + 1;
/// A domain is destroyed. Domain.
pub const TRC_DOM0_DOM_REM: u32 = TRC_DOM0_DOMOPS + 2;

/// A grant is mapped. Granting domain.
pub const TRC_MEM_PAGE_GRANT_MAP: u32 = TRC_MEM + 1;
/// A grant is unmapped. Granting domain.
pub const TRC_MEM_PAGE_GRANT_UNMAP: u32 = TRC_MEM + 2;
/// A guest gives memory back. Guest frame (two words), domain and order.
pub const TRC_MEM_DECREASE_RESERVATION: u32 = TRC_MEM + 5;
/// Memory is populated on demand. Guest frame, machine frame (two words each), domain and order.
pub const TRC_MEM_POD_POPULATE: u32 = TRC_MEM + 16;

/// Into and out of guest mode.
pub const TRC_HVM_ENTRYEXIT: u32 = 0x0008_1000;
/// What exits are handled as.
pub const TRC_HVM_HANDLER: u32 = 0x0008_2000;
/// Addresses in the record have 64 bits.
pub const TRC_64_FLAG: u32 = 0x100;
/// A guest is entered.
pub const TRC_HVM_VMENTRY: u32 = TRC_HVM_ENTRYEXIT + 1;
/// A guest was left. The processor's reason, instruction pointer.
pub const TRC_HVM_VMEXIT: u32 = TRC_HVM_ENTRYEXIT + 2;
/// The same in 64-bit mode; the instruction pointer has two words.
pub const TRC_HVM_VMEXIT64: u32 = TRC_HVM_ENTRYEXIT + TRC_64_FLAG + 2;
/// An exception goes to the guest. Vector, error code.
pub const TRC_HVM_INJ_EXC: u32 = TRC_HVM_HANDLER + 0x03;
/// An interrupt goes to the guest. Vector, 0.
pub const TRC_HVM_INJ_VIRQ: u32 = TRC_HVM_HANDLER + 0x04;
/// RDMSR. Register, value (two words).
pub const TRC_HVM_MSR_READ: u32 = TRC_HVM_HANDLER + 0x0c;
/// WRMSR. Register, value (two words).
pub const TRC_HVM_MSR_WRITE: u32 = TRC_HVM_HANDLER + 0x0d;
/// CPUID. Leaf, EAX, EBX, ECX, EDX.
pub const TRC_HVM_CPUID: u32 = TRC_HVM_HANDLER + 0x0e;
/// A physical interrupt.
pub const TRC_HVM_INTR: u32 = TRC_HVM_HANDLER + 0x0f;
/// A hypercall. Its number.
pub const TRC_HVM_VMMCALL: u32 = TRC_HVM_HANDLER + 0x12;
/// HLT. Whether something is pending.
pub const TRC_HVM_HLT: u32 = TRC_HVM_HANDLER + 0x13;
/// IN. Port, value.
pub const TRC_HVM_IOPORT_READ: u32 = TRC_HVM_HANDLER + 0x16;
/// OUT. Port, value.
pub const TRC_HVM_IOPORT_WRITE: u32 = TRC_HVM_HANDLER + 0x216;
/// RDTSC is emulated. The value (two words).
pub const TRC_HVM_RDTSC: u32 = TRC_HVM_HANDLER + 0x1a;
/// A nested page fault. Guest-physical address, machine frame (two words each), qualification, type of the page.
pub const TRC_HVM_NPF: u32 = TRC_HVM_HANDLER + 0x21;

/// Offset of what was consumed, in a buffer's first page.
pub const TBUF_CONS: u64 = 0;
/// Offset of what was produced.
pub const TBUF_PROD: u64 = 4;
/// Size of both (`struct t_buf`): records follow.
pub const TBUF_HEADER: u32 = 8;

/// Offset of a buffer's size in pages, 16 bits, in the page that describes all buffers (`struct t_info`).
pub const TINFO_SIZE: u64 = 0;
/// Offset of one 16-bit number for each CPU: where, in words of 32 bits, its list of machine frames begins.
pub const TINFO_OFFSETS: u64 = 2;

/// A record's first word.
#[must_use]
pub const fn header(event: u32, timed: bool, words: u32) -> u32 {
    (event & EVENT_MASK) | (words & TRACE_EXTRA_MAX) << TRACE_EXTRA_SHIFT | if timed { TRC_HD_CYCLE_FLAG } else { 0 }
}
