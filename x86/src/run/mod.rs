//! The CPU loop: picks a vCPU, runs it, handles why it stopped, until it has to give way.
//!
//! Runs on each CPU for ever, with interrupts off except in the two windows of [`crate::machine::Machine`]
//! (`poll_interrupts` after an exit that a physical interrupt caused, `idle` when there is nothing to run). Whatever a
//! handler of an interrupt does is seen through atomics: the scheduler's per-CPU flag, and the posted half of local APICs.
//!
//! Locks: the state lock of the vCPU that is loaded is held from load to save. It is released around nothing: control
//! operations on a running vCPU pause it first.

mod access;
mod exits;
mod faults;
mod forced;
#[cfg(test)]
mod forced_tests;
mod guest;
mod interrupts;
mod memory;
mod msrs;
#[cfg(test)]
mod start_tests;
mod step;
#[cfg(test)]
mod tests;
mod trace;
mod walk_cache;
#[cfg(test)]
mod walk_cache_tests;

use alloc::sync::Arc;

use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::platform::PhysMemory;
use radon_core::types::{CpuId, Nanoseconds};
use radon_core::vcpu::Vcpu;

pub use forced::ForcedEmulation;
pub use guest::GuestMemory;
pub(crate) use msrs::write_hypercall_page;
pub use step::Stepper;
pub use walk_cache::WalkCache;

use crate::domain::X86Domain;
use crate::irq::Router;
use crate::machine::Machine;
use crate::vcpu::{VcpuState, X86Vcpu};

/// Everything a CPU needs.
pub struct System {
    /// The hypervisor.
    pub hv: Hypervisor,
    /// The x86 machine.
    pub machine: &'static dyn Machine,
    /// Physical device interrupts.
    pub router: Arc<Router>,
    /// Guests may force the emulation of instructions; only in images for tests.
    pub forced: Option<ForcedEmulation>,
}

/// What the handlers of exits work on: the vCPU that is loaded, and its surroundings.
struct Cx<'a> {
    sys: &'a System,
    cpu: CpuId,
    domain: &'a Arc<Domain>,
    x86: &'a X86Domain,
    vcpu: &'a Arc<Vcpu>,
    arch: &'a X86Vcpu,
    state: &'a mut VcpuState,
}

impl<'a> Cx<'a> {
    fn hv(&self) -> &'a Hypervisor {
        &self.sys.hv
    }

    fn memory(&self) -> &'a dyn PhysMemory {
        self.sys.hv.platform.memory()
    }

    fn now(&self) -> Nanoseconds {
        self.sys.hv.platform.now()
    }
}

/// Runs guests on the calling CPU for ever.
pub fn cpu_loop(sys: &System, cpu: CpuId) -> ! {
    let hv = &sys.hv;
    let mut next = choose(sys, cpu);
    loop {
        next = match next {
            Some(vcpu) => run_vcpu(sys, cpu, &vcpu),
            None => {
                if hv.frames.tidy(hv.platform.memory()) {
                    sys.machine.poll_interrupts();
                } else {
                    sys.machine.idle(&|| hv.scheduler.needs_schedule(cpu));
                }
                choose(sys, cpu)
            }
        };
    }
}

/// Fires timers and asks the scheduler what this CPU runs next.
fn choose(sys: &System, cpu: CpuId) -> Option<Arc<Vcpu>> {
    let hv = &sys.hv;
    let now = hv.platform.now();
    hv.timers.expire(hv, cpu, now);
    hv.console.deliver(hv);
    hv.trace.deliver(hv);
    let decision = hv.scheduler.schedule(hv, cpu, now);
    hv.timers.program(&*hv.platform, cpu);
    decision.vcpu
}

/// Runs one vCPU until the scheduler wants something else on this CPU, which it returns.
fn run_vcpu(sys: &System, cpu: CpuId, vcpu: &Arc<Vcpu>) -> Option<Arc<Vcpu>> {
    let hv = &sys.hv;
    let (Some(domain), Some(arch)) = (vcpu.domain(), X86Vcpu::of(vcpu)) else {
        // The domain went away while this vCPU was queued.
        hv.scheduler.pause(hv, vcpu);
        let next = choose(sys, cpu);
        hv.scheduler.context_saved(hv, vcpu);
        return next;
    };
    let x86 = X86Domain::of(&domain);
    let mut guard = arch.state.lock();
    guard.cpu.load();
    let next = loop {
        if hv.scheduler.needs_schedule(cpu) {
            let next = choose(sys, cpu);
            if !next.as_ref().is_some_and(|n| Arc::ptr_eq(n, vcpu)) {
                break next;
            }
        }
        let Some(x86) = x86 else { break None };
        Cx { sys, cpu, domain: &domain, x86, vcpu, arch, state: &mut guard }.enter_once();
    };
    guard.cpu.save();
    drop(guard);
    hv.scheduler.context_saved(hv, vcpu);
    next
}

impl Cx<'_> {
    /// Delivers what is pending, enters the guest and handles its exit.
    fn enter_once(&mut self) {
        self.take_signals();
        if self.state.wait_for_sipi {
            self.wait_for_start();
            return;
        }
        self.prepare_delivery();
        self.trace_entry();
        let exit = self.state.cpu.run();
        self.trace_exit();
        let tpr = self.state.cpu.tpr();
        if tpr != self.state.lapic.tpr() >> 4 {
            self.state.lapic.set_tpr(tpr.wrapping_shl(4));
        }
        self.handle(exit);
    }

    /// The vCPU was reset by INIT: it is down until a start-up message comes.
    fn wait_for_start(&mut self) {
        let hv = self.hv();
        hv.scheduler.take_down(hv, self.vcpu);
        // One may have come in just before.
        if self.arch.lapic.has_events() {
            hv.scheduler.bring_up(hv, self.vcpu);
        } else {
            hv.scheduler.request(hv, self.cpu);
        }
    }
}
