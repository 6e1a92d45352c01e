//! Forced emulation: a guest that puts the bytes `ud2; "xen"` before an instruction has it executed by the emulator instead
//! of the processor, so that tests can judge the emulator. Only images for tests make a [`ForcedEmulation`]; in all others
//! nothing refers to this module's code and the linker leaves it out.
//!
//! A guest so reaches everything that the emulator can do, and no more than that: each access is checked as the processor
//! would check it, and what the emulator cannot do is #UD. Takes no locks of its own.

use radon_abi::cpufeatureset::Feature;

use super::Cx;
use crate::emulate::{DEFAULT_BUDGET, Exception, Op, Outcome, fetch, forced};
use crate::virt::{Event, Exit};

/// What a guest puts before the instruction.
const PREFIX: [u8; 5] = *b"\x0f\x0bxen";

const CR4_TSD: u64 = 1 << 2;

/// That guests may force the emulation of instructions.
#[derive(Clone, Copy)]
pub struct ForcedEmulation(fn(&mut Cx<'_>) -> bool);

impl ForcedEmulation {
    /// To be made by images for tests only.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "nobody is to get it by default")]
    pub fn new() -> ForcedEmulation {
        ForcedEmulation(|cx| cx.handle_forced())
    }
}

impl Cx<'_> {
    /// After #UD: executes the instruction if the guest asks for it. `false` if it was an ordinary #UD.
    pub(super) fn forced(&mut self) -> bool {
        self.sys.forced.is_some_and(|ForcedEmulation(handle)| handle(self))
    }

    fn handle_forced(&mut self) -> bool {
        if !self.skip_prefix() {
            return false;
        }
        let result = match self.with_emulator(|cpu, memory, bytes| fetch(cpu, memory, bytes)) {
            Ok(i) => self.execute_forced(i.op),
            Err(fault) => Err(fault).into(),
        };
        match result {
            // What is left of a string instruction the processor does.
            Outcome::Done | Outcome::Retry => {}
            Outcome::Fault(e) => self.inject_exception(e),
            Outcome::Unhandleable(why) => {
                log::debug!("{}{}: forced emulation: {why}", self.domain.id, self.vcpu.id);
                self.inject(Event::UD);
            }
        }
        true
    }

    /// Moves past the prefix, if it is there.
    fn skip_prefix(&mut self) -> bool {
        self.with_emulator(|cpu, memory, bytes| {
            let is_there = forced::begins_with(cpu, memory, bytes, &PREFIX);
            if is_there {
                forced::skip(cpu, PREFIX.len() as u8);
            }
            is_there
        })
    }

    /// Executes the instruction at RIP, which is `op` (or was: another vCPU may have changed the code). What otherwise
    /// comes by an exit of its own has its handler, which relies on the processor's checks: they are made here.
    fn execute_forced(&mut self, op: Op) -> Outcome {
        let exit = match op {
            Op::Cpuid => Exit::Cpuid,
            Op::Rdmsr => Exit::Rdmsr,
            Op::Wrmsr => Exit::Wrmsr,
            Op::Hlt => Exit::Halt,
            Op::Invd | Op::Wbinvd => Exit::CacheFlush,
            Op::Xsetbv => Exit::Xsetbv,
            Op::Vmmcall | Op::Vmcall => Exit::Hypercall,
            Op::Rdtsc => Exit::Rdtsc { with_aux: false },
            Op::Rdtscp => Exit::Rdtsc { with_aux: true },
            _ => return self.with_emulator(|cpu, memory, bytes| forced::emulate(cpu, memory, bytes, DEFAULT_BUDGET)),
        };
        let user = self.state.cpu.cpl() != 0;
        match op {
            Op::Rdmsr | Op::Wrmsr | Op::Hlt | Op::Invd | Op::Wbinvd if user => return Outcome::Fault(Exception::GP),
            Op::Rdtscp if !self.x86.cpuid.has(Feature::RDTSCP) => return Outcome::Fault(Exception::UD),
            Op::Rdtsc | Op::Rdtscp if user && self.state.cpu.cr4() & CR4_TSD != 0 => {
                return Outcome::Fault(Exception::GP);
            }
            _ => {}
        }
        self.handle(exit);
        Outcome::Done
    }
}
