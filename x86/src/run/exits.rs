//! What each exit means. One method per kind; each leaves the guest at the next instruction, or with an exception set
//! up, or where it was to try again.

use core::sync::atomic::{AtomicU32, Ordering};

use radon_abi::hvm::HVM_PARAM_TRIPLE_FAULT_REASON;
use radon_abi::trace::{
    TRC_HVM_HLT, TRC_HVM_INJ_EXC, TRC_HVM_INTR, TRC_HVM_IOPORT_READ, TRC_HVM_IOPORT_WRITE, TRC_HVM_RDTSC,
};
use radon_core::hypercall::{Args, Caller, Outcome, dispatch};
use radon_core::ops::hvm;
use radon_core::p2m::Kind;
use radon_core::platform::ArchVcpu;
use radon_core::sched::ShutdownReason;
use radon_core::time::VcpuTimer;
use radon_core::trace::words;
use radon_core::types::GuestPhysAddr;

use super::Cx;
use super::faults;
use super::guest::GuestMemory;
use crate::devices::lapic::{Effect, GuestTsc};
use crate::domain::{deliver, deliver_ipi};
use crate::emulate::{self, Cause, Op};
use crate::virt::{Event, Exit, NestedFault, PortAccess, SegmentName, efer, gpr, rflags};

/// The vCPU timer that the local APIC uses.
const LAPIC_TIMER: VcpuTimer = VcpuTimer::Arch(0);

const CR4_OSXSAVE: u64 = 1 << 18;

/// A guest can cause as many refusals as it likes: only so many are shown.
const MOST_REFUSALS_SHOWN: u32 = 64;
static REFUSALS_SHOWN: AtomicU32 = AtomicU32::new(0);

impl Cx<'_> {
    /// Handles an exit.
    pub(super) fn handle(&mut self, exit: Exit) {
        match exit {
            Exit::Interrupt => self.physical_interrupt(),
            Exit::InterruptWindow | Exit::DebugRegister => {}
            Exit::Hypercall => self.hypercall(),
            Exit::Cpuid => self.cpuid(),
            Exit::Rdmsr => self.rdmsr(),
            Exit::Wrmsr => self.wrmsr(),
            Exit::Halt => self.halt(),
            Exit::Pause => {
                if self.retire(Op::Pause) {
                    self.hv().scheduler.yield_now(self.hv(), self.vcpu);
                }
            }
            Exit::Port(access) => self.port(&access),
            Exit::NestedFault(fault) => self.nested_fault(&fault),
            Exit::CacheFlush => {
                if self.domain.is_hardware() {
                    self.sys.machine.flush_caches();
                }
                self.retire_any(&[Op::Invd, Op::Wbinvd]);
            }
            Exit::Xsetbv => self.xsetbv(),
            Exit::Rdtsc { with_aux } => self.rdtsc(with_aux),
            Exit::Exception(Event::UD) if self.forced() => {}
            Exit::Exception(event) => self.inject(event),
            Exit::ControlRegister | Exit::TaskPriority => self.emulate(Cause::Register),
            Exit::Icebp => {
                if self.retire(Op::Int1) {
                    self.inject(Event::DB);
                }
            }
            Exit::Undefined => self.inject(Event::UD),
            Exit::Protected => self.inject(Event::GP),
            Exit::Shutdown => self.triple_fault(),
            Exit::Failed(code) => {
                log::error!(
                    "{}{}: the processor left the guest with the unknown code {code:#x}",
                    self.domain.id,
                    self.vcpu.id
                );
                self.crash("its processor state could not be entered");
            }
        }
    }

    /// Delivers an exception, or what it becomes together with an event that is being delivered.
    pub(super) fn inject(&mut self, event: Event) {
        if let Event::Exception { vector, error_code } = event {
            self.trace(TRC_HVM_INJ_EXC, || [vector.into(), error_code.unwrap_or(0)]);
        }
        match faults::combine(self.state.cpu.pending_event(), event) {
            Some(event) => self.state.cpu.inject(event),
            None => self.triple_fault(),
        }
    }

    pub(super) fn inject_exception(&mut self, e: emulate::Exception) {
        if let Some(address) = e.cr2 {
            self.state.cpu.set_cr2(address);
        }
        self.inject(Event::Exception { vector: e.vector, error_code: e.error_code });
    }

    /// The domain cannot go on: says why on the console and shuts it down as crashed.
    pub(super) fn crash(&mut self, why: &str) {
        self.show_state(why);
        radon_core::sched::shut_down(self.hv(), self.domain, radon_core::sched::ShutdownReason::Crash);
    }

    /// The processor has shut down. The toolstack has chosen what becomes of the domain: a restart, if it said nothing.
    fn triple_fault(&mut self) {
        // Only emulators leave registers that mean something (AMD64 manual volume 2, 15.14.3).
        self.show_state("triple fault");
        let chosen = hvm::param(self.domain, HVM_PARAM_TRIPLE_FAULT_REASON) as u32;
        let reason = ShutdownReason::from_abi(chosen).unwrap_or(ShutdownReason::Crash);
        radon_core::sched::shut_down(self.hv(), self.domain, reason);
    }

    /// What the guest did is beyond the emulator, and a user program may have done it: the guest gets #GP(0), as Xen does
    /// it, and can go on.
    fn refuse(&mut self, why: &str) {
        if REFUSALS_SHOWN.fetch_add(1, Ordering::Relaxed) < MOST_REFUSALS_SHOWN {
            let rip = self.state.cpu.regs().rip;
            log::warn!("{}{} at {rip:#x}: {why}; it gets #GP", self.domain.id, self.vcpu.id);
        }
        self.inject(Event::GP);
    }

    fn show_state(&mut self, why: &str) {
        let r = *self.state.cpu.regs();
        let c = self.state.cpu.control();
        let cs = self.state.cpu.segment(SegmentName::Cs);
        log::error!("{}{} crashed: {why}", self.domain.id, self.vcpu.id);
        log::error!(
            "  RIP {:04x}:{:016x} RFLAGS {:x} CR0 {:x} CR2 {:x} CR3 {:x} CR4 {:x} EFER {:x}",
            cs.selector,
            r.rip,
            r.rflags,
            c.cr0,
            c.cr2,
            c.cr3,
            c.cr4,
            c.efer
        );
        for (n, four) in r.gpr.chunks(4).enumerate() {
            log::error!("  r{:<2}.. {four:016x?}", n.wrapping_mul(4));
        }
        log::error!("  {}", self.state.cpu.describe_exit());
    }

    /// Moves past the intercepted instruction, which is `op`. `false` if the guest has to run again instead (a fault was
    /// set up, or another CPU changed the code).
    pub(super) fn retire(&mut self, op: Op) -> bool {
        self.retire_any(&[op])
    }

    /// As [`Cx::retire`] for an instruction that is one of several.
    pub(super) fn retire_any(&mut self, ops: &[Op]) -> bool {
        if let Some(next) = self.state.cpu.next_rip() {
            let length = next.wrapping_sub(self.state.cpu.regs().rip) as u8;
            self.step(length);
            return true;
        }
        match self.instruction_length(ops) {
            Ok(length) => {
                self.step(length);
                true
            }
            Err(emulate::Fault::Exception(e)) => {
                self.inject_exception(e);
                false
            }
            Err(emulate::Fault::Retry) => false,
            Err(emulate::Fault::Unhandleable(why)) => {
                self.refuse(why);
                false
            }
        }
    }

    // ---- interrupts and scheduling ----

    /// A physical interrupt ended guest mode: its handlers run now, and timers that are due fire.
    fn physical_interrupt(&mut self) {
        self.trace(TRC_HVM_INTR, || []);
        self.sys.machine.poll_interrupts();
        let hv = self.hv();
        hv.timers.expire(hv, self.cpu, hv.platform.now());
        hv.timers.program(&*hv.platform, self.cpu);
    }

    fn halt(&mut self) {
        if !self.retire(Op::Hlt) {
            return;
        }
        let hv = self.hv();
        let vcpu = self.vcpu;
        let may_wake = self.state.cpu.regs().rflags & rflags::IF != 0;
        if hv.trace.wants(TRC_HVM_HLT) {
            let pending = self.has_wakeup();
            self.trace(TRC_HVM_HLT, || [u32::from(pending)]);
        }
        if may_wake || self.arch.nmi_pending.load(Ordering::Acquire) {
            hv.scheduler.block(hv, vcpu, || self.has_wakeup());
            return;
        }
        // No interrupt ends this: the guest is done with this processor (until another starts it anew), and when it is
        // done with the last one it is off. Kernels without a power switch turn off so.
        hv.scheduler.take_down(hv, vcpu);
        hv.scheduler.request(hv, self.cpu);
        if self.domain.vcpus().iter().all(|v| v.sched.unit.is_down()) {
            radon_core::sched::shut_down(hv, self.domain, radon_core::sched::ShutdownReason::PowerOff);
        }
    }

    // ---- hypercalls ----

    /// Whether the guest executes 64-bit code.
    pub(super) fn in_64_bit_mode(&self) -> bool {
        self.state.cpu.control().efer & efer::LMA != 0 && self.state.cpu.segment(SegmentName::Cs).is_long()
    }

    fn hypercall(&mut self) {
        let long = self.in_64_bit_mode();
        if self.state.cpu.cpl() != 0 {
            // User mode makes no hypercalls.
            if self.retire_any(&[Op::Vmmcall, Op::Vmcall]) {
                self.state.cpu.regs_mut().set(gpr::RAX, radon_abi::errno::Errno::EPERM.to_return() as u64);
            }
            return;
        }
        self.trace_hypercall();
        let regs = *self.state.cpu.regs();
        let number = regs.get(gpr::RAX) as u32;
        let names = if long {
            [gpr::RDI, gpr::RSI, gpr::RDX, gpr::R10, gpr::R8, gpr::R9]
        } else {
            [gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI, gpr::RDI, gpr::RBP]
        };
        let width = if long { u64::MAX } else { u64::from(u32::MAX) };
        let args = Args(names.map(|n| regs.get(n) & width));
        let interrupts = regs.rflags & rflags::IF != 0;
        let result = {
            let hv = self.hv();
            let memory = GuestMemory::new(hv, self.domain, self.state);
            let caller = Caller::new(hv, self.domain, self.vcpu, &memory).in_mode(!long).with_interrupts(interrupts);
            dispatch(&caller, number, args)
        };
        // It may have gone to sleep, but does not over what its APIC holds, which the hypercall could not see.
        if self.vcpu.sched.unit.is_blocked()
            && (interrupts || self.arch.nmi_pending.load(Ordering::Acquire))
            && self.has_wakeup()
        {
            self.hv().scheduler.wake(self.hv(), self.vcpu);
        }
        let value = match result {
            Ok(Outcome::Done(value)) => value,
            Ok(Outcome::Reschedule) => {
                self.hv().scheduler.request(self.hv(), self.cpu);
                0
            }
            Ok(Outcome::Continue(args)) => {
                // Executed again, from the same instruction, once pending work was looked at.
                let regs = self.state.cpu.regs_mut();
                for (name, value) in names.into_iter().zip(args.0) {
                    regs.set(name, value & width);
                }
                return;
            }
            Err(errno) => errno.to_return() as u64,
        };
        if self.retire_any(&[Op::Vmmcall, Op::Vmcall]) {
            self.state.cpu.regs_mut().set(gpr::RAX, value & width);
        }
    }

    // ---- CPUID, MSRs, XCR0, TSC ----

    fn cpuid(&mut self) {
        if self.state.msrs.cpuid_faults(self.state.cpu.cpl()) {
            self.inject(Event::GP);
            return;
        }
        if !self.retire(Op::Cpuid) {
            return;
        }
        let regs = self.state.cpu.regs();
        let (leaf, subleaf) = (regs.get(gpr::RAX) as u32, regs.get(gpr::RCX) as u32);
        let [a, b, c, d] = self.cpuid_query(leaf, subleaf);
        self.trace_cpuid(leaf, [a, b, c, d]);
        let regs = self.state.cpu.regs_mut();
        regs.set(gpr::RAX, u64::from(a));
        regs.set(gpr::RBX, u64::from(b));
        regs.set(gpr::RCX, u64::from(c));
        regs.set(gpr::RDX, u64::from(d));
    }

    fn xsetbv(&mut self) {
        let regs = *self.state.cpu.regs();
        let value = regs.edx_eax();
        let valid = self.state.cpu.cpl() == 0
            && regs.get(gpr::RCX) as u32 == 0
            && emulate::control::xcr0_valid(value, self.supported_xcr0());
        if self.state.cpu.cr4() & CR4_OSXSAVE == 0 {
            self.inject(Event::UD);
        } else if !valid {
            self.inject(Event::GP);
        } else if self.retire(Op::Xsetbv) {
            self.state.cpu.set_xcr0(value);
        }
    }

    fn rdtsc(&mut self, with_aux: bool) {
        let value = self.guest_tsc();
        if !self.retire_any(&[Op::Rdtsc, Op::Rdtscp]) {
            return;
        }
        self.trace(TRC_HVM_RDTSC, || words(value));
        let aux = self.state.cpu.switched_msr(crate::virt::SwitchedMsr::TscAux);
        let regs = self.state.cpu.regs_mut();
        regs.set_edx_eax(value);
        if with_aux {
            regs.set(gpr::RCX, aux);
        }
    }

    /// The TSC as the guest reads it.
    pub(super) fn guest_tsc(&self) -> u64 {
        self.x86.tsc.count(self.hv(), self.sys.machine).wrapping_add(self.state.cpu.tsc_offset())
    }

    // ---- local APIC ----

    /// Carries out what a register write of the local APIC asks for.
    pub(super) fn lapic_effect(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::LevelEoi(vector) => {
                if let Some(hardware) = &self.x86.hardware {
                    hardware.end_of_interrupt(self.hv(), self.domain, vector);
                }
            }
            Effect::Send(ipi) => deliver_ipi(self.hv(), self.domain, self.vcpu.id.index(), &ipi),
            Effect::Timer | Effect::Mode => {
                self.arm_lapic_timer();
                // The local APIC may have been turned on.
                if self.arch.upcall_waits.load(Ordering::SeqCst) {
                    self.arch.raise_upcall();
                }
            }
        }
        let tpr = self.state.lapic.tpr() >> 4;
        self.state.cpu.set_tpr(tpr);
    }

    /// Sets the vCPU's timer to the next time at which the local APIC wants to be looked at.
    pub(super) fn arm_lapic_timer(&mut self) {
        match self.state.lapic.next_deadline() {
            Some(at) => self.vcpu.arm_timer(self.hv(), LAPIC_TIMER, at),
            None => self.vcpu.cancel_timer(self.hv(), LAPIC_TIMER),
        }
    }

    /// The relation of system time and the guest's TSC, for the TSC-deadline timer.
    pub(super) fn tsc_relation(&self) -> GuestTsc {
        GuestTsc { value: self.guest_tsc(), now: self.now(), clock: self.x86.tsc.clock(self.hv()) }
    }

    // ---- ports and memory-mapped registers ----

    fn port(&mut self, access: &PortAccess) {
        if access.string {
            self.emulate(Cause::Port);
            return;
        }
        let ops = if access.write { Op::Out } else { Op::In };
        let value = self.state.cpu.regs().get(gpr::RAX);
        if !self.retire(ops) {
            return;
        }
        if access.write {
            let mask = match access.size {
                1 => 0xff,
                2 => 0xffff,
                _ => 0xffff_ffff,
            };
            self.trace(TRC_HVM_IOPORT_WRITE, || [access.port.into(), (value & mask) as u32]);
            self.port_write(access.port, access.size, (value & mask) as u32);
        } else {
            let read = u64::from(self.port_read(access.port, access.size));
            self.trace(TRC_HVM_IOPORT_READ, || [access.port.into(), read as u32]);
            let new = match access.size {
                1 => (value & !0xff) | (read & 0xff),
                2 => (value & !0xffff) | (read & 0xffff),
                _ => read,
            };
            self.state.cpu.regs_mut().set(gpr::RAX, new);
        }
    }

    fn nested_fault(&mut self, fault: &NestedFault) {
        self.trace_nested_fault(fault);
        let gfn = GuestPhysAddr(fault.gpa).gfn();
        if fault.present && fault.write && self.domain.p2m.write_faulted(self.hv(), gfn) {
            return;
        }
        if self.map_on_demand(fault) {
            return;
        }
        if !fault.present && self.domain.p2m.had_demand() {
            match self.domain.p2m.populate(self.hv(), gfn) {
                Ok(true) => return,
                Ok(false) => {}
                Err(_) => {
                    self.crash("it uses more memory than it has: its balloon driver has yet to give back the rest");
                    return;
                }
            }
        }
        // The emulator would execute the instruction at RIP, which is not what did this.
        let delivery = self.state.cpu.delivery_pending();
        if !fault.fetch && !delivery {
            if fault.write && fault.present && self.mapping(fault) == Kind::GrantRo {
                self.refuse("it writes to a page that was granted for reading");
            } else {
                self.emulate(Cause::Memory);
            }
        } else if !self.is_permitted(fault) {
            let (event, code) = ("an event's delivery met what is not RAM", "it executes what is not memory for code");
            self.refuse(if delivery { event } else { code });
        }
    }

    /// Executes the current instruction in software.
    fn emulate(&mut self, cause: Cause) {
        match self.execute_instruction(cause) {
            emulate::Outcome::Done | emulate::Outcome::Retry => {}
            emulate::Outcome::Fault(e) => self.inject_exception(e),
            emulate::Outcome::Unhandleable(why) => self.refuse(why),
        }
    }

    /// Delivers messages that a device write caused.
    pub(super) fn deliver_all(&self, messages: &[crate::devices::interrupt::Message]) {
        for message in messages {
            deliver(self.hv(), self.domain, message);
        }
    }
}

/// What the start-up of a processor sets.
impl crate::vcpu::VcpuState {
    /// Real mode at the start of page `page` (a SIPI's vector).
    pub(super) fn start_at_page(&mut self, page: u8) {
        let selector = u16::from(page) << 8;
        let cs = crate::virt::Segment { selector, attributes: 0x9b, limit: 0xffff, base: u64::from(page) << 12 };
        self.cpu.set_segment(SegmentName::Cs, &cs);
        self.cpu.regs_mut().rip = 0;
        self.cpu.regs_mut().rflags = rflags::FIXED;
    }
}
