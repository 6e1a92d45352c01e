//! The hypercalls that this kernel needs for itself, and its console.

use core::arch::x86_64::__cpuid;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::{hvm, hypercall, sched, vcpu, xen};
use radon_guest::hypercall::{call, give_way, operate};
use radon_guest::{Page, start_vcpu};

/// One of the domain's parameters.
pub(crate) fn parameter(index: u32) -> Option<u64> {
    let mut parameter = hvm::HvmParam { domid: xen::DOMID_SELF, pad: 0, index, value: 0 };
    (operate(hypercall::HVM_OP, hvm::HVMOP_GET_PARAM, &mut parameter) == 0).then_some(parameter.value)
}

/// This domain's number, or DOMID_SELF where the hypervisor does not tell.
pub(crate) fn domain_id() -> u16 {
    let leaf = __cpuid(0x4000_0004);
    if leaf.eax & 1 << 4 != 0 { leaf.ebx as u16 } else { xen::DOMID_SELF }
}

/// `vcpu_info` of the vCPUs for which the shared page has no room.
static VCPU_INFO: [Page; 2] = [const { Page::new() }; 2];

/// Starts a vCPU in `further_main` with this stack. Returns whether it exists.
pub(crate) fn start(number: u64, stack: u64) -> bool {
    if number >= u64::from(xen::LEGACY_MAX_VCPUS) {
        let offset = (number % 64 * xen::vcpu_info::SIZE) as u32;
        let mut info = vcpu::RegisterVcpuInfo { mfn: VCPU_INFO[(number / 64) as usize].gfn(), offset, rsvd: 0 };
        let info = ptr::from_mut(&mut info) as u64;
        call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_REGISTER_VCPU_INFO), number, info]);
    }
    start_vcpu(number, stack) == 0
}

/// Lets an initialised vCPU run.
pub(crate) fn up(number: u64) {
    call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_UP), number]);
}

/// Interrupts a vCPU, whatever it does.
pub(crate) fn nmi(number: u64) {
    call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_SEND_NMI), number]);
}

/// Ends the domain.
pub(crate) fn shut_down(reason: u32) -> ! {
    loop {
        operate(hypercall::SCHED_OP, sched::SCHEDOP_SHUTDOWN, &mut sched::Shutdown { reason });
    }
}

/// Gives up the CPU of vCPU `number` until a system time. No events are waited for: those that came are forgotten.
pub(crate) fn sleep_until(number: u64, time: u64, shared: &Page) {
    let words = xen::vcpu_info::SIZE / 8;
    let (page, place) = if number < u64::from(xen::LEGACY_MAX_VCPUS) {
        (shared, number)
    } else {
        (&VCPU_INFO[(number / 64) as usize], number % 64)
    };
    // The first byte says that an event is pending.
    page.0[(place * words) as usize].fetch_and(!0xff, Ordering::Relaxed);
    let mut poll = sched::Poll { ports: 0, nr_ports: 0, _pad: 0, timeout: time };
    operate(hypercall::SCHED_OP, sched::SCHEDOP_POLL, &mut poll);
}

/// The console that the toolstack set up; as dom0, which nobody set one up for, the hypervisor's.
pub(crate) struct Console {
    /// The ring's address; 0 for the hypervisor's console.
    ring: u64,
    port: u32,
}

/// Bytes of the ring for output, which begins after 1,024 bytes for input; then four positions follow.
const ROOM: u32 = 2048;

impl Console {
    pub(crate) fn find() -> Option<Console> {
        let frame = parameter(hvm::HVM_PARAM_CONSOLE_PFN)?;
        let port = parameter(hvm::HVM_PARAM_CONSOLE_EVTCHN)?;
        (frame < 1 << 20).then_some(Console { ring: frame << 12, port: port as u32 })
    }
}

impl core::fmt::Write for Console {
    /// What the ring has no room for now is waited for a while, then dropped.
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        if self.ring == 0 {
            let arguments = [u64::from(xen::CONSOLEIO_WRITE), text.len() as u64, text.as_ptr() as u64];
            call(hypercall::CONSOLE_IO, arguments);
            return Ok(());
        }
        // SAFETY: the ring's page is mapped one to one like all memory; it is shared with the console daemon, by atomic
        // accesses.
        let (consumed, produced) = unsafe {
            let word = |at: u64| AtomicU32::from_ptr((self.ring + at) as *mut u32);
            (word(3080), word(3084))
        };
        for byte in text.bytes() {
            let at = produced.load(Ordering::Relaxed);
            let full = || at.wrapping_sub(consumed.load(Ordering::Acquire)) >= ROOM;
            for _ in 0..10_000 {
                if !full() {
                    break;
                }
                give_way();
            }
            if full() {
                return Ok(());
            }
            // SAFETY: as above; the place lies in the ring.
            unsafe { ((self.ring + 1024 + u64::from(at % ROOM)) as *mut u8).write_volatile(byte) };
            produced.store(at.wrapping_add(1), Ordering::Release);
        }
        let mut send = radon_abi::event_channel::OnePort { port: self.port };
        operate(hypercall::EVENT_CHANNEL_OP, radon_abi::event_channel::EVTCHNOP_SEND, &mut send);
        Ok(())
    }
}

/// What is counted by one vCPU and read by another.
pub(crate) type Counter = AtomicU64;
