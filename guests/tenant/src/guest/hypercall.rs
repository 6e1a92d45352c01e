//! Hypercalls by VMMCALL, and the few that this kernel needs for itself.

use core::arch::asm;
use core::arch::x86_64::__cpuid;
use core::ptr;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::{hvm, hypercall, memory, sched, vcpu, xen};
use zerocopy::IntoBytes;

use super::Page;

/// A hypercall with up to five arguments.
pub(crate) fn call(number: u32, arguments: [u64; 5]) -> i64 {
    let result: i64;
    let [a, b, c, d, e] = arguments;
    // SAFETY: this program owns its virtual machine; what hypercalls write to, it does not rely on.
    unsafe {
        asm!("vmmcall", inout("rax") u64::from(number) => result, inout("rdi") a => _, inout("rsi") b => _,
            inout("rdx") c => _, inout("r10") d => _, inout("r8") e => _, options(nostack));
    }
    result
}

/// A hypercall with an operation's number and a structure that the hypervisor may write.
pub(crate) fn operate<T>(number: u32, operation: u32, argument: &mut T) -> i64 {
    call(number, [u64::from(operation), ptr::from_mut(argument) as u64, 0, 0, 0])
}

/// One of the domain's parameters.
pub(crate) fn parameter(index: u32) -> Option<u64> {
    let mut parameter = hvm::HvmParam { domid: xen::DOMID_SELF, pad: 0, index, value: 0 };
    (operate(hypercall::HVM_OP, hvm::HVMOP_GET_PARAM, &mut parameter) == 0).then_some(parameter.value)
}

/// Puts a frame of the hypervisor's at the page that `page` is.
pub(crate) fn map_special(space: u32, idx: u64, page: &Page) -> bool {
    let mut add = memory::AddToPhysmap { domid: xen::DOMID_SELF, size: 0, space, idx, gpfn: page.gfn() };
    operate(hypercall::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP, &mut add) == 0
}

/// This domain's number, or DOMID_SELF where the hypervisor does not tell.
pub(crate) fn domain_id() -> u16 {
    let leaf = __cpuid(0x4000_0004);
    if leaf.eax & 1 << 4 != 0 { leaf.ebx as u16 } else { xen::DOMID_SELF }
}

/// `vcpu_info` of the vCPUs for which the shared page has no room.
static VCPU_INFO: [Page; 2] = [const { Page::new() }; 2];

/// Starts a vCPU in long mode with this kernel's tables. Returns whether it exists.
pub(crate) fn start(number: u64, entry: u64, stack: u64, tables: u64) -> bool {
    let registers = vcpu::HvmContext64 {
        rax: 0,
        rcx: 0,
        rdx: 0,
        rbx: 0,
        rsp: stack,
        rbp: 0,
        rsi: 0,
        rdi: number,
        rip: entry,
        rflags: 2,
        cr0: 0x8001_0033,
        cr3: tables,
        cr4: 0x620,
        efer: 0x500,
    };
    let mut context = vcpu::HvmContext { mode: vcpu::VCPU_HVM_MODE_64B, pad: 0, regs: [0; 120] };
    context.regs[..112].copy_from_slice(registers.as_bytes());
    if number >= u64::from(xen::LEGACY_MAX_VCPUS) {
        let offset = (number % 64 * xen::vcpu_info::SIZE) as u32;
        let mut info = vcpu::RegisterVcpuInfo { mfn: VCPU_INFO[(number / 64) as usize].gfn(), offset, rsvd: 0 };
        let info = ptr::from_mut(&mut info) as u64;
        call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_REGISTER_VCPU_INFO), number, info, 0, 0]);
    }
    let context = ptr::from_mut(&mut context) as u64;
    call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_INITIALISE), number, context, 0, 0]) == 0 && up(number)
}

/// Lets an initialised vCPU run.
pub(crate) fn up(number: u64) -> bool {
    call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_UP), number, 0, 0, 0]) == 0
}

/// Interrupts a vCPU, whatever it does.
pub(crate) fn nmi(number: u64) {
    call(hypercall::VCPU_OP, [u64::from(vcpu::VCPUOP_SEND_NMI), number, 0, 0, 0]);
}

/// Ends the domain.
pub(crate) fn shut_down(reason: u32) -> ! {
    loop {
        operate(hypercall::SCHED_OP, sched::SCHEDOP_SHUTDOWN, &mut sched::Shutdown { reason });
    }
}

/// System time in nanoseconds, from the area that the hypervisor keeps in `shared`.
pub(crate) fn now(shared: &Page) -> u64 {
    let word = |n: u64| shared.0[((xen::vcpu_info::TIME / 8) + n) as usize].load(Ordering::Relaxed);
    let (base, system_time, scale) = (word(1), word(2), word(3));
    let (multiplier, shift) = (scale & 0xffff_ffff, (scale >> 32) as i8);
    let delta = super::rdtsc().wrapping_sub(base);
    let delta = if shift < 0 { delta >> (-shift & 63) } else { delta << (shift & 63) };
    system_time.wrapping_add(((u128::from(delta) * u128::from(multiplier)) >> 32) as u64)
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

/// Gives up the CPU to others for now.
pub(crate) fn give_way() {
    call(hypercall::SCHED_OP, [u64::from(sched::SCHEDOP_YIELD), 0, 0, 0, 0]);
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
            let arguments = [u64::from(xen::CONSOLEIO_WRITE), text.len() as u64, text.as_ptr() as u64, 0, 0];
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
