//! What exits need of the vCPU's surroundings: instruction fetch and execution, CPUID and MSR policy, ports, and device
//! memory that is mapped when it is first touched.

use radon_core::p2m::{GuestPhys, Kind};
use radon_core::types::{GuestPhysAddr, Mfn};

use super::Cx;
use super::guest::paging_of;
use super::memory::{Effects, EmulatedMemory};
use super::walk_cache::Memory;
use crate::cpuid::{Dynamic, Registers, TimeInfo};
use crate::devices::lapic::ApicMode;
use crate::emulate::walk::{Access, Paging};
use crate::emulate::{self, Cause, DEFAULT_BUDGET, Fault, GuestCpu, LinearMemory, MAX_LENGTH, Op};
use crate::ports::Ports;
use crate::virt::{NestedFault, SegmentName, rflags};

/// No intercepted instruction without prefixes and operands in memory is longer.
const LONGEST_PLAIN: usize = 3;

impl Cx<'_> {
    // ---- instructions ----

    /// Calls `f` with the vCPU as the emulator sees it, then carries out what device accesses asked for.
    pub(super) fn with_emulator<R>(
        &mut self,
        f: impl FnOnce(&mut GuestCpu<'_>, &mut LinearMemory<'_>, &[u8]) -> R,
    ) -> R {
        let now = self.now();
        let hv = self.hv();
        let mut supplied = [0_u8; MAX_LENGTH];
        let given = self.state.cpu.instruction_bytes();
        for (to, from) in supplied.iter_mut().zip(given) {
            *to = *from;
        }
        let paging = paging_of(&*self.state.cpu);
        let tpr = self.state.cpu.tpr();
        let length = match given.len().min(supplied.len()) {
            0 => self.code(&paging, &mut supplied),
            length => length,
        };
        let state = &mut *self.state;
        let (cpl, flags) = (state.cpu.cpl(), state.cpu.regs().rflags);
        let mut physical = EmulatedMemory {
            hv,
            domain: self.domain,
            x86: self.x86,
            phys: GuestPhys::new(hv, &self.domain.p2m),
            lapic: &mut state.lapic,
            ports: Ports::new(self.sys.machine),
            now,
            effects: Effects::default(),
        };
        let mut memory = LinearMemory::new(&mut physical, paging, cpl, flags);
        let mut cpu = GuestCpu::new(&mut *state.cpu, &self.x86.cpuid);
        let result = f(&mut cpu, &mut memory, supplied.get(..length).unwrap_or(&[]));
        let effects = physical.effects;
        // The instruction may have written CR8, or the register in the APIC's page.
        if state.cpu.tpr() != tpr {
            state.lapic.set_tpr(state.cpu.tpr().wrapping_shl(4));
        } else {
            state.cpu.set_tpr(state.lapic.tpr() >> 4);
        }
        for effect in effects.lapic {
            self.lapic_effect(effect);
        }
        self.deliver_all(&effects.messages);
        result
    }

    /// The length of the intercepted instruction, for processors that do not tell.
    pub(super) fn instruction_length(&mut self, ops: &[Op]) -> Result<u8, Fault> {
        if let Some(length) = self.plain_instruction_length(ops) {
            return Ok(length);
        }
        self.with_emulator(|cpu, memory, bytes| emulate::intercepted_length(cpu, memory, bytes, ops))
    }

    /// As [`Cx::instruction_length`] for the common case: 64-bit code without prefixes.
    fn plain_instruction_length(&mut self, ops: &[Op]) -> Option<u8> {
        let mut bytes = [0; LONGEST_PLAIN];
        let paging = paging_of(&*self.state.cpu);
        let length = self.code(&paging, &mut bytes);
        emulate::plain_length(bytes.get(..length)?, ops)
    }

    /// Fetches code of a 64-bit guest from RIP on, up to the end of the page; returns how many bytes. None if a walk that
    /// is kept does not serve.
    fn code(&mut self, paging: &Paging, to: &mut [u8]) -> usize {
        let state = &mut *self.state;
        if !state.cpu.segment(SegmentName::Cs).is_long() {
            return 0;
        }
        let rip = state.cpu.regs().rip;
        let in_page = 0x1000_u64.wrapping_sub(rip & 0xfff).min(to.len() as u64) as usize;
        let phys = GuestPhys::new(&self.sys.hv, &self.domain.p2m);
        let memory = Memory { phys, machine: self.sys.hv.platform.memory() };
        let access = Access { user: state.cpu.cpl() == 3, ..Access::FETCH };
        let fetched = to.get_mut(..in_page).is_some_and(|part| state.walks.read(memory, paging, access, rip, part));
        if fetched { in_page } else { 0 }
    }

    /// Executes the current instruction in software.
    pub(super) fn execute_instruction(&mut self, cause: Cause) -> emulate::Outcome {
        self.with_emulator(|cpu, memory, bytes| emulate::emulate(cpu, memory, bytes, cause, DEFAULT_BUDGET))
    }

    /// Moves past an instruction of this length.
    pub(super) fn step(&mut self, length: u8) {
        let regs = self.state.cpu.regs();
        // The common case without the emulator's view: 64-bit code or no wrap, and no single step.
        let next = regs.rip.wrapping_add(u64::from(length));
        if regs.rflags & rflags::TF == 0 && regs.rip > 0xffff && (regs.rip ^ next) >> 32 == 0 {
            let regs = self.state.cpu.regs_mut();
            regs.rip = next;
            regs.rflags &= !rflags::RF;
            self.state.cpu.clear_interrupt_shadow();
            return;
        }
        emulate::retire(&mut GuestCpu::new(&mut *self.state.cpu, &self.x86.cpuid), length);
    }

    // ---- CPUID and MSRs ----

    fn dynamic(&self) -> Dynamic {
        let clock = self.x86.tsc.clock(self.hv());
        let tsc = self.x86.tsc.settings();
        let emulated = tsc.emulated_khz != 0;
        Dynamic {
            vcpu: self.vcpu.id.0,
            cr4: self.state.cpu.cr4(),
            xcr0: self.state.cpu.xcr0(),
            apic_enabled: self.state.lapic.mode() != ApicMode::Disabled,
            time: TimeInfo {
                emulated,
                reliable: true,
                mode: tsc.mode,
                guest_khz: clock.khz,
                incarnation: tsc.incarnation,
                // What is read of an emulated counter has it already.
                offset: if emulated { 0 } else { self.state.cpu.tsc_offset() },
                mul: clock.mul,
                shift: clock.shift,
                host_khz: self.hv().platform.clock().khz,
            },
        }
    }

    pub(super) fn cpuid_query(&self, leaf: u32, subleaf: u32) -> Registers {
        self.x86.cpuid.query(leaf, subleaf, &self.dynamic())
    }

    pub(super) fn supported_xcr0(&self) -> u64 {
        self.x86.cpuid.xcr0_mask()
    }

    // ---- ports and device memory ----

    pub(super) fn port_read(&self, port: u16, size: u8) -> u32 {
        Ports::new(self.sys.machine).read(self.hv(), self.domain, self.x86, port, size)
    }

    pub(super) fn port_write(&self, port: u16, size: u8, value: u32) {
        Ports::new(self.sys.machine).write(self.hv(), self.domain, self.x86, port, size, value);
    }

    /// What is mapped now where the fault was.
    pub(super) fn mapping(&self, fault: &NestedFault) -> Kind {
        self.domain.p2m.query(self.hv(), GuestPhysAddr(fault.gpa).gfn()).entry.kind
    }

    /// Whether the guest may do now what faulted: another CPU has changed the mapping since.
    pub(super) fn is_permitted(&self, fault: &NestedFault) -> bool {
        let kind = self.mapping(fault);
        kind.present() && (!fault.write || kind.writable()) && (!fault.fetch || kind.executable())
    }

    /// The hardware domain sees device memory where it is: maps a page of it at its first touch. `false` if the address
    /// is not device memory, or is a device that Radon emulates.
    pub(super) fn map_on_demand(&mut self, fault: &NestedFault) -> bool {
        let Some(hardware) = &self.x86.hardware else { return false };
        let gfn = GuestPhysAddr(fault.gpa).gfn();
        if fault.present || hardware.is_emulated(GuestPhysAddr(fault.gpa)) {
            return false;
        }
        // Refused for RAM, and if another CPU was faster (then the page is there now).
        let mapped = self.domain.p2m.add_direct(self.hv(), gfn, Mfn(gfn.0), 1, Kind::Mmio);
        matches!(mapped, Ok(()) | Err(radon_abi::errno::Errno::EEXIST))
    }
}
