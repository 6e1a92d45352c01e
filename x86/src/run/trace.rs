//! What goes into trace buffers about exits (see [`radon_core::trace`]). Each function is a branch while nothing is
//! recorded.

use radon_abi::trace as abi;
use radon_core::trace::words;

use super::Cx;
use crate::virt::{NestedFault, SegmentName, efer, gpr};

/// The types of guest frames that readers know by number.
const TYPE_RAM: u32 = 0;
const TYPE_HOLE: u32 = 1;

impl Cx<'_> {
    /// The guest is about to be entered.
    #[inline]
    pub(super) fn trace_entry(&self) {
        self.hv().trace.note(&*self.hv().platform, abi::TRC_HVM_VMENTRY, || []);
    }

    /// The guest was just left.
    #[inline]
    pub(super) fn trace_exit(&self) {
        if self.hv().trace.wants(abi::TRC_HVM_VMEXIT) {
            self.record_exit();
        }
    }

    #[cold]
    fn record_exit(&self) {
        let (trace, platform) = (&self.hv().trace, &*self.hv().platform);
        let (code, rip) = (self.state.cpu.exit_code() as u32, self.state.cpu.regs().rip);
        let [low, high] = words(rip);
        let long = self.state.cpu.control().efer & efer::LMA != 0;
        if long && self.state.cpu.segment(SegmentName::Cs).is_long() {
            trace.note(platform, abi::TRC_HVM_VMEXIT64, || [code, low, high]);
        } else {
            trace.note(platform, abi::TRC_HVM_VMEXIT, || [code, low]);
        }
    }

    /// What the exit is about.
    #[inline]
    pub(super) fn trace<const N: usize>(&self, event: u32, extra: impl FnOnce() -> [u32; N]) {
        self.hv().trace.detail(&*self.hv().platform, event, extra);
    }

    /// A CPUID instruction and its answer.
    pub(super) fn trace_cpuid(&self, leaf: u32, [a, b, c, d]: [u32; 4]) {
        self.trace(abi::TRC_HVM_CPUID, || [leaf, a, b, c, d]);
    }

    /// A model-specific register is read or written.
    pub(super) fn trace_msr(&self, event: u32, number: u32, value: u64) {
        self.trace(event, || {
            let [low, high] = words(value);
            [number, low, high]
        });
    }

    /// A nested page fault.
    pub(super) fn trace_nested_fault(&self, fault: &NestedFault) {
        self.trace(abi::TRC_HVM_NPF, || {
            let entry = self.domain.p2m.query(self.hv(), radon_core::types::GuestPhysAddr(fault.gpa).gfn()).entry;
            let ([gpa_low, gpa_high], [mfn_low, mfn_high]) = (words(fault.gpa), words(entry.mfn.0));
            // As the processor's error code has it.
            let cause = u32::from(fault.present) | u32::from(fault.write) << 1 | u32::from(fault.fetch) << 4;
            let kind = if entry.kind.counted() { TYPE_RAM } else { TYPE_HOLE };
            [gpa_low, gpa_high, mfn_low, mfn_high, cause, kind]
        });
    }

    /// A hypercall.
    pub(super) fn trace_hypercall(&self) {
        self.trace(abi::TRC_HVM_VMMCALL, || [self.state.cpu.regs().get(gpr::RAX) as u32]);
    }
}
