//! A vCPU's registers as the emulator sees them.

use crate::emulate::{CpuState, Exception, Fault, Segment, SegmentState};
use crate::virt::{self, SegmentName, VirtualCpu, cr0, efer, rflags};

/// CR4 bits that a guest may set: those of features its processor has. The processor itself refuses others of its own
/// that it lacks; this keeps out what Radon does not virtualise (LA57, SMX, VMX, CET, user interrupts, protection keys).
const CR4_ALLOWED: u64 = 0x0077_07ff;

/// DR6.BS: single step.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// [`CpuState`] over a [`VirtualCpu`].
pub(super) struct EmulatedCpu<'a> {
    pub(super) cpu: &'a mut dyn VirtualCpu,
    /// The task priority register; the caller gives a change on to the local APIC.
    pub(super) tpr: u8,
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

impl EmulatedCpu<'_> {
    fn write_cr0(&mut self, value: u64) -> Result<(), Fault> {
        let mut c = self.cpu.control();
        let value = value | cr0::ET;
        let pg_without_pe = value & cr0::PG != 0 && value & cr0::PE == 0;
        let nw_without_cd = value & cr0::NW != 0 && value & cr0::CD == 0;
        if value >> 32 != 0 || pg_without_pe || nw_without_cd {
            return Err(Exception::GP.into());
        }
        let (was, is) = (c.cr0 & cr0::PG != 0, value & cr0::PG != 0);
        if is && !was && c.efer & efer::LME != 0 {
            // Long mode needs PAE, and a code segment that is not already 64-bit.
            if c.cr4 & (1 << 5) == 0 || self.cpu.segment(SegmentName::Cs).is_long() {
                return Err(Exception::GP.into());
            }
            c.efer |= efer::LMA;
        } else if was && !is {
            if c.efer & efer::LMA != 0 && self.cpu.segment(SegmentName::Cs).is_long() {
                return Err(Exception::GP.into());
            }
            c.efer &= !efer::LMA;
        }
        c.cr0 = value;
        self.cpu.set_control(&c);
        Ok(())
    }
}

impl CpuState for EmulatedCpu<'_> {
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
        self.cpu.regs_mut().rflags = value | rflags::FIXED;
    }
    fn segment(&self, segment: Segment) -> SegmentState {
        let virt::Segment { selector, attributes, limit, base } = self.cpu.segment(name_of(segment));
        SegmentState { selector, base, limit, attributes }
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
            8 => u64::from(self.tpr >> 4),
            _ => 0,
        }
    }
    fn write_control(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        let mut c = self.cpu.control();
        match number {
            0 => return self.write_cr0(value),
            2 => c.cr2 = value,
            3 => {
                // Bit 63 only asks not to flush.
                let value = value & !(1 << 63);
                if value >> 52 != 0 {
                    return Err(Exception::GP.into());
                }
                c.cr3 = value;
            }
            4 => {
                let pae_off_in_long_mode = c.efer & efer::LMA != 0 && value & (1 << 5) == 0;
                if value & !CR4_ALLOWED != 0 || pae_off_in_long_mode {
                    return Err(Exception::GP.into());
                }
                c.cr4 = value;
            }
            8 => {
                if value > 15 {
                    return Err(Exception::GP.into());
                }
                self.tpr = (value as u8).wrapping_shl(4);
                return Ok(());
            }
            _ => return Err(Exception::UD.into()),
        }
        self.cpu.set_control(&c);
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
            _ => d7,
        }
    }
    fn write_debug(&mut self, number: u8, value: u64) -> Result<(), Fault> {
        let mut all = self.cpu.debug_registers();
        let slot = match number {
            0..=3 => usize::from(number),
            6 => 4,
            _ => 5,
        };
        if slot >= 4 && value >> 32 != 0 {
            return Err(Exception::GP.into());
        }
        let value = match slot {
            4 => (value & 0xe00f) | 0xffff_0ff0,
            5 => (value & 0xffff_2fff) | 0x400,
            _ => value,
        };
        if let Some(d) = all.get_mut(slot) {
            *d = value;
        }
        self.cpu.set_debug_registers(&all);
        Ok(())
    }
    fn vector(&self, number: u8) -> [u64; 4] {
        self.cpu.vector(usize::from(number))
    }
    fn set_vector(&mut self, number: u8, value: [u64; 4]) {
        self.cpu.set_vector(usize::from(number), value);
    }
    fn clear_interrupt_shadow(&mut self) {
        self.cpu.clear_interrupt_shadow();
    }
    fn raise_single_step(&mut self) {
        let mut all = self.cpu.debug_registers();
        let [.., dr6, _] = &mut all;
        *dr6 |= DR6_SINGLE_STEP;
        self.cpu.set_debug_registers(&all);
        self.cpu.inject(virt::Event::Exception { vector: crate::emulate::VECTOR_DB, error_code: None });
    }
}
