//! From an operand's address expression to a linear address, with the checks of segmentation (AMD64 manual volume 2,
//! chapter 4) or, in 64-bit mode, of canonical form.

use super::instruction::{Instruction, MemoryOperand, Mode, Segment, Width};
use super::{AccessKind, CR0_PE, CpuState, Exception, Fault, SegmentState, next_rip, rflags, walk};

/// The offset that a memory operand names, within the address size.
#[must_use]
pub fn effective(cpu: &dyn CpuState, i: &Instruction) -> u64 {
    let MemoryOperand { base, index, scale_shift, displacement, rip_relative, .. } = i.memory;
    let mut offset = displacement;
    if let Some(n) = base {
        offset = offset.wrapping_add(cpu.gpr(n));
    }
    if let Some(n) = index {
        offset = offset.wrapping_add(cpu.gpr(n).wrapping_shl(u32::from(scale_shift)));
    }
    if rip_relative {
        offset = offset.wrapping_add(next_rip(cpu, i.length));
    }
    offset & i.address_width.mask()
}

/// The linear address of `size` bytes at `segment:offset`.
///
/// # Errors
/// #SS(0) for the stack segment, else #GP(0), if the access is not allowed or not wholly inside.
pub fn linear(
    cpu: &dyn CpuState,
    mode: Mode,
    segment: Segment,
    offset: u64,
    size: u8,
    kind: AccessKind,
) -> Result<u64, Fault> {
    let fault = || -> Fault { if segment == Segment::Ss { Exception::SS } else { Exception::GP }.into() };
    let last = u64::from(size.saturating_sub(1));
    if mode == Mode::Bits64 {
        let base = if matches!(segment, Segment::Fs | Segment::Gs) { cpu.segment(segment).base } else { 0 };
        let address = base.wrapping_add(offset);
        let inside = walk::is_canonical(address) && walk::is_canonical(address.wrapping_add(last));
        return if inside { Ok(address) } else { Err(fault()) };
    }
    let state = cpu.segment(segment);
    let protected = cpu.control(0) & CR0_PE != 0 && cpu.rflags() & rflags::VM == 0;
    if protected {
        let allowed = match kind {
            AccessKind::Read => state.is_readable(),
            AccessKind::Write | AccessKind::ReadForWrite => state.is_writable(),
            AccessKind::Fetch => state.is_code(),
        };
        if state.attributes & SegmentState::PRESENT == 0 || !allowed {
            return Err(fault());
        }
    }
    let end = offset.saturating_add(last);
    let limit = u64::from(state.limit);
    let inside = if protected && state.is_expand_down() {
        let top = if state.attributes & SegmentState::BIG != 0 { 0xffff_ffff } else { 0xffff };
        offset > limit && end <= top
    } else {
        end <= limit
    };
    if inside { Ok(state.base.wrapping_add(offset) & 0xffff_ffff) } else { Err(fault()) }
}

/// The size of the stack pointer.
#[must_use]
pub fn stack_width(cpu: &dyn CpuState, mode: Mode) -> Width {
    if mode == Mode::Bits64 {
        Width::Qword
    } else if cpu.segment(Segment::Ss).attributes & SegmentState::BIG != 0 {
        Width::Dword
    } else {
        Width::Word
    }
}
