//! A hardware vCPU as the emulator's [`CpuState`].

use super::forced::{SystemState, Table};
use super::instruction::Segment;
use super::{CpuState, Exception, Fault, SegmentState, control};
use crate::cpuid::CpuidPolicy;
use crate::virt::{self, Control, Event, SegmentName, SwitchedMsr, VirtualCpu};
use radon_abi::cpufeatureset::Feature;

const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR6 bits that read as one, and those that can be set.
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_DEFINED: u64 = 0xe00f;
/// The x87 status word's summary of exceptions that are not masked.
const X87_SUMMARY: u8 = 1 << 7;
const DR7_ONES: u64 = 0x400;
const DR7_DEFINED: u64 = 0xffff_23ff;

/// A vCPU between two runs, for the emulator.
pub struct GuestCpu<'a> {
    cpu: &'a mut dyn VirtualCpu,
    cpuid: &'a CpuidPolicy,
}

impl<'a> GuestCpu<'a> {
    /// The vCPU with its CPUID policy, which says what its control registers may hold.
    pub fn new(cpu: &'a mut dyn VirtualCpu, cpuid: &'a CpuidPolicy) -> GuestCpu<'a> {
        GuestCpu { cpu, cpuid }
    }

    fn set_control(&mut self, old: &Control, new: &Control) {
        self.cpu.set_control(new);
        if control::flushes_tlb(old, new) {
            self.cpu.flush_tlb();
        }
    }
}

impl CpuState for GuestCpu<'_> {
    fn gpr(&self, number: u8) -> u64 {
        self.cpu.regs().get(usize::from(number))
    }

    fn set_gpr(&mut self, number: u8, value: u64) {
        self.cpu.regs_mut().set(usize::from(number), value);
    }

    fn rip(&self) -> u64 {
        self.cpu.regs().rip
    }

    fn set_rip(&mut self, value: u64) {
        self.cpu.regs_mut().rip = value;
    }

    fn rflags(&self) -> u64 {
        self.cpu.regs().rflags
    }

    fn set_rflags(&mut self, value: u64) {
        self.cpu.regs_mut().rflags = value;
    }

    fn segment(&self, segment: Segment) -> SegmentState {
        state_of(self.cpu.segment(name_of(segment)))
    }

    fn cpl(&self) -> u8 {
        self.cpu.cpl()
    }

    fn efer(&self) -> u64 {
        self.cpu.control().efer
    }

    fn xcr0(&self) -> u64 {
        self.cpu.xcr0()
    }

    fn control(&self, number: u8) -> u64 {
        let c = self.cpu.control();
        match number {
            0 => c.cr0,
            2 => c.cr2,
            3 => c.cr3,
            4 => c.cr4,
            8 => u64::from(self.cpu.tpr()),
            _ => 0,
        }
    }

    fn write_control(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        let old = self.cpu.control();
        let new = match number {
            0 => {
                let long_code = self.cpu.segment(SegmentName::Cs).is_long();
                control::write_cr0(&old, value, long_code)?
            }
            2 => {
                self.cpu.set_cr2(value);
                return Ok(());
            }
            3 => control::write_cr3(&old, value, self.cpuid.physical_bits())?,
            4 => control::write_cr4(&old, value, control::cr4_mask(self.cpuid))?,
            8 if value > 15 => return Err(Exception::GP.into()),
            8 => {
                self.cpu.set_tpr(value as u8);
                return Ok(());
            }
            _ => return Err(Exception::UD.into()),
        };
        self.set_control(&old, &new);
        if number == 3 {
            self.cpu.flush_tlb(); // also when the value stays the same
        }
        Ok(())
    }

    fn debug(&self, number: u8) -> u64 {
        let [d0, d1, d2, d3, d6, d7] = self.cpu.debug_registers();
        match number {
            0 => d0,
            1 => d1,
            2 => d2,
            3 => d3,
            6 => d6,
            7 => d7,
            _ => 0,
        }
    }

    fn write_debug(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        let [mut d0, mut d1, mut d2, mut d3, mut d6, mut d7] = self.cpu.debug_registers();
        if matches!(number, 6 | 7) && value >> 32 != 0 {
            return Err(Exception::GP.into());
        }
        match number {
            0 => d0 = value,
            1 => d1 = value,
            2 => d2 = value,
            3 => d3 = value,
            6 => d6 = value & DR6_DEFINED | DR6_ONES,
            7 => d7 = value & DR7_DEFINED | DR7_ONES,
            _ => return Err(Exception::UD.into()),
        }
        self.cpu.set_debug_registers(&[d0, d1, d2, d3, d6, d7]);
        Ok(())
    }

    fn vector(&self, number: u8) -> [u64; 4] {
        self.cpu.vector(usize::from(number))
    }

    fn set_vector(&mut self, number: u8, value: [u64; 4]) {
        let mut value = value;
        if !self.cpuid.has(Feature::AVX) {
            value[2] = 0;
            value[3] = 0;
        }
        self.cpu.set_vector(usize::from(number), value);
    }

    fn clear_interrupt_shadow(&mut self) {
        self.cpu.clear_interrupt_shadow();
    }

    fn raise_single_step(&mut self) {
        let mut registers = self.cpu.debug_registers();
        registers[4] |= DR6_SINGLE_STEP;
        self.cpu.set_debug_registers(&registers);
        self.cpu.inject(Event::Exception { vector: super::VECTOR_DB, error_code: None });
    }
}

impl SystemState for GuestCpu<'_> {
    fn table(&self, table: Table) -> SegmentState {
        state_of(self.cpu.segment(match table {
            Table::Gdtr => SegmentName::Gdtr,
            Table::Idtr => SegmentName::Idtr,
            Table::Ldtr => SegmentName::Ldtr,
            Table::Tr => SegmentName::Tr,
        }))
    }

    fn set_segment(&mut self, segment: Segment, state: SegmentState) {
        let SegmentState { selector, base, limit, attributes } = state;
        self.cpu.set_segment(name_of(segment), &virt::Segment { selector, attributes, limit, base });
    }

    fn software_interrupt(&mut self, vector: u8) {
        self.cpu.inject(Event::Software { vector });
    }

    fn debug_trap(&mut self) {
        self.cpu.inject(Event::DB);
    }

    fn system_call(&self) -> [u64; 4] {
        [SwitchedMsr::Star, SwitchedMsr::Lstar, SwitchedMsr::Cstar, SwitchedMsr::Sfmask]
            .map(|msr| self.cpu.switched_msr(msr))
    }

    fn x87_exception(&self) -> bool {
        // The low byte of the status word.
        self.cpu.extended_state().get(2).is_some_and(|status| status & X87_SUMMARY != 0)
    }
}

fn name_of(segment: Segment) -> SegmentName {
    match segment {
        Segment::Es => SegmentName::Es,
        Segment::Cs => SegmentName::Cs,
        Segment::Ss => SegmentName::Ss,
        Segment::Ds => SegmentName::Ds,
        Segment::Fs => SegmentName::Fs,
        Segment::Gs => SegmentName::Gs,
    }
}

fn state_of(s: virt::Segment) -> SegmentState {
    SegmentState { selector: s.selector, base: s.base, limit: s.limit, attributes: s.attributes }
}
