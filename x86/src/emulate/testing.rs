//! For tests and fuzzing: a vCPU of plain data, as the emulator sees one.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "what tests need; the hypervisor has nothing of it"
)]

use super::forced::{SystemState, Table};
use super::{CpuState, Fault, Segment, SegmentState};
use alloc::vec::Vec;

/// Where its code begins.
pub const CODE: u64 = 0x1000;

/// The vCPU.
#[derive(Clone, PartialEq, Debug)]
pub struct Cpu {
    pub gpr: [u64; 16],
    pub rip: u64,
    pub rflags: u64,
    pub segments: [SegmentState; 6],
    pub cpl: u8,
    pub efer: u64,
    pub control: [u64; 16],
    pub debug: [u64; 8],
    pub vector: [[u64; 4]; 16],
    /// Single steps that were raised.
    pub steps: u32,
    /// In the shadow of STI or MOV SS.
    pub shadow: bool,
    /// By [`Table`].
    pub tables: [SegmentState; 4],
    /// What was set up for delivery.
    pub delivered: Vec<Delivered>,
    /// STAR, LSTAR, CSTAR, SFMASK.
    pub system_call: [u64; 4],
    pub x87_exception: bool,
}

/// An event that the guest gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivered {
    /// A software interrupt.
    Interrupt(u8),
    /// #DB.
    Debug,
}

impl Cpu {
    /// In 64-bit mode.
    #[must_use]
    pub fn long() -> Cpu {
        let data = SegmentState { selector: 0x10, base: 0, limit: u32::MAX, attributes: 0xc93 };
        let code = SegmentState { selector: 8, base: 0, limit: u32::MAX, attributes: 0xa9b };
        let mut segments = [data; 6];
        segments[Segment::Cs as usize] = code;
        let mut control = [0; 16];
        control[0] = 0x8005_0031;
        control[4] = 0x4_0620;
        Cpu {
            gpr: [0; 16],
            rip: CODE,
            rflags: 2,
            segments,
            cpl: 0,
            efer: 0xd00,
            control,
            debug: [0; 8],
            vector: [[0; 4]; 16],
            steps: 0,
            shadow: true,
            tables: [SegmentState::default(); 4],
            delivered: Vec::new(),
            system_call: [0; 4],
            x87_exception: false,
        }
    }

    /// In protected mode, without paging of 64-bit mode.
    #[must_use]
    pub fn protected() -> Cpu {
        let mut cpu = Cpu::long();
        cpu.efer = 0;
        cpu.segments[Segment::Cs as usize].attributes = 0xc9b;
        cpu
    }

    /// In real mode.
    #[must_use]
    pub fn real() -> Cpu {
        let mut cpu = Cpu::long();
        cpu.efer = 0;
        cpu.control[0] = 0x10;
        for (n, s) in cpu.segments.iter_mut().enumerate() {
            *s = SegmentState { selector: n as u16, base: 0, limit: 0xffff, attributes: 0x93 };
        }
        cpu
    }
}

impl CpuState for Cpu {
    fn gpr(&self, number: u8) -> u64 {
        self.gpr[usize::from(number)]
    }
    fn set_gpr(&mut self, number: u8, value: u64) {
        self.gpr[usize::from(number)] = value;
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, value: u64) {
        self.rip = value;
    }
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, value: u64) {
        self.rflags = value;
    }
    fn segment(&self, segment: Segment) -> SegmentState {
        self.segments[segment as usize]
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn efer(&self) -> u64 {
        self.efer
    }
    fn xcr0(&self) -> u64 {
        7
    }
    fn control(&self, number: u8) -> u64 {
        self.control[usize::from(number)]
    }
    fn write_control(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        self.control[usize::from(number)] = value;
        Ok(())
    }
    fn debug(&self, number: u8) -> u64 {
        self.debug[usize::from(number)]
    }
    fn write_debug(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        self.debug[usize::from(number)] = value;
        Ok(())
    }
    fn vector(&self, number: u8) -> [u64; 4] {
        self.vector[usize::from(number)]
    }
    fn set_vector(&mut self, number: u8, value: [u64; 4]) {
        self.vector[usize::from(number)] = value;
    }
    fn clear_interrupt_shadow(&mut self) {
        self.shadow = false;
    }
    fn raise_single_step(&mut self) {
        self.steps += 1;
    }
}

impl SystemState for Cpu {
    fn table(&self, table: Table) -> SegmentState {
        self.tables[table as usize]
    }
    fn set_segment(&mut self, segment: Segment, state: SegmentState) {
        self.segments[segment as usize] = state;
        if segment == Segment::Ss {
            self.cpl = (state.attributes >> 5 & 3) as u8;
        }
    }
    fn software_interrupt(&mut self, vector: u8) {
        self.delivered.push(Delivered::Interrupt(vector));
    }
    fn debug_trap(&mut self) {
        self.delivered.push(Delivered::Debug);
    }
    fn system_call(&self) -> [u64; 4] {
        self.system_call
    }
    fn x87_exception(&self) -> bool {
        self.x87_exception
    }
}
