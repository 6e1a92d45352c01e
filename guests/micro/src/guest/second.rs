//! The second CPU. It shares the machine's only processor with the first one, so what they do together includes that one
//! of them gives way to the other.

use core::arch::x86_64::__cpuid;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::vcpu::{HvmContext, HvmContext64, VCPU_HVM_MODE_64B, VCPUOP_INITIALISE, VCPUOP_UP};
use radon_abi::{event_channel, hypercall, sched};
use zerocopy::{FromZeros, IntoBytes};

use super::hypercall::{call, must, operate};
use super::interrupts::{self, halt_while};
use super::micro::{X2APIC_COMMAND, acknowledge, enable_x2apic, measure, wrmsr};

/// What the second CPU does when an interrupt wakes it.
static ORDER: AtomicU32 = AtomicU32::new(NOTHING);
const NOTHING: u32 = 0;
/// Interrupt the first CPU.
const ANSWER_IPI: u32 = 1;
/// Send the first CPU an event.
const ANSWER_EVENT: u32 = 2;
/// Yield, again and again, while this is the order.
const YIELD: u32 = 3;

/// Its local APIC's number, one more than that; 0 until it runs.
static APIC_ID: AtomicU64 = AtomicU64::new(0);
/// How often it has yielded.
static YIELDS: AtomicU64 = AtomicU64::new(0);
/// The port that it sends on, and the one that wakes it.
static TO_FIRST: AtomicU32 = AtomicU32::new(0);
static TO_SECOND: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    fn second_start();
    static second_stack: u8;
}

/// Starts the second CPU and measures what both do together.
pub(crate) fn run() {
    start();
    let wake = || wrmsr(X2APIC_COMMAND, (APIC_ID.load(Ordering::Relaxed) - 1) << 32 | u64::from(interrupts::APIC));
    // There and back; each sleeps meanwhile.
    ORDER.store(ANSWER_IPI, Ordering::Release);
    measure("ipi_round_trip", || {
        let before = interrupts::count();
        wake();
        halt_while(interrupts::count, before);
    });
    let [to_first, to_second] = [0, 1].map(|vcpu| {
        let mut bind = event_channel::BindIpi { vcpu, port: 0 };
        must("bind_ipi", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_BIND_IPI, &mut bind));
        bind.port
    });
    TO_FIRST.store(to_first, Ordering::Relaxed);
    TO_SECOND.store(to_second, Ordering::Relaxed);
    ORDER.store(ANSWER_EVENT, Ordering::Release);
    measure("event_round_trip", || {
        let before = interrupts::count();
        send(to_second);
        halt_while(interrupts::count, before);
        acknowledge(0, to_first);
    });
    // To the other one and back, which is two switches.
    ORDER.store(YIELD, Ordering::Release);
    wake();
    measure("context_switches", || {
        let before = YIELDS.load(Ordering::Relaxed);
        while YIELDS.load(Ordering::Relaxed) == before {
            give_way();
        }
    });
    ORDER.store(NOTHING, Ordering::Release);
}

fn send(port: u32) {
    let mut send = event_channel::OnePort { port };
    must("send", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_SEND, &mut send));
}

fn give_way() {
    must("yield", call(hypercall::SCHED_OP, [u64::from(sched::SCHEDOP_YIELD), 0, 0, 0]));
}

fn start() {
    let regs = HvmContext64 {
        rip: second_start as *const () as u64,
        rsp: &raw const second_stack as u64,
        rflags: 2,
        // As `entry.S` has them: paging with its tables, SSE, long mode.
        cr0: 0x8001_0033,
        cr3: cr3(),
        cr4: 0x620,
        efer: 0x500,
        ..HvmContext64::new_zeroed()
    };
    let mut context = HvmContext { mode: VCPU_HVM_MODE_64B, ..HvmContext::new_zeroed() };
    context.regs[..size_of::<HvmContext64>()].copy_from_slice(regs.as_bytes());
    must("initialise", call(hypercall::VCPU_OP, [u64::from(VCPUOP_INITIALISE), 1, &raw const context as u64, 0]));
    must("up", call(hypercall::VCPU_OP, [u64::from(VCPUOP_UP), 1, 0, 0]));
    while APIC_ID.load(Ordering::Acquire) == 0 {
        give_way();
    }
}

fn cr3() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

#[unsafe(no_mangle)]
extern "C" fn second_main() -> ! {
    interrupts::enable_second();
    enable_x2apic();
    let mut seen = interrupts::second_count();
    APIC_ID.store(u64::from(black_box(__cpuid(1)).ebx >> 24) + 1, Ordering::Release);
    loop {
        halt_while(interrupts::second_count, seen);
        seen = interrupts::second_count();
        match ORDER.load(Ordering::Acquire) {
            // The first CPU's local APIC is number 0.
            ANSWER_IPI => wrmsr(X2APIC_COMMAND, u64::from(interrupts::APIC)),
            ANSWER_EVENT => {
                acknowledge(1, TO_SECOND.load(Ordering::Relaxed));
                send(TO_FIRST.load(Ordering::Relaxed));
            }
            YIELD => {
                while ORDER.load(Ordering::Acquire) == YIELD {
                    YIELDS.fetch_add(1, Ordering::Relaxed);
                    give_way();
                }
            }
            _ => {}
        }
    }
}
