//! Registers as a debugger sees them: `vcpu_guest_context` of `XEN_DOMCTL_getvcpucontext` and `setvcpucontext`. Of an HVM
//! guest only general-purpose and debug registers, flags and the FPU can be set.

use alloc::boxed::Box;

use radon_abi::errno::Errno;
use radon_abi::guest_context::{VGCF_I387_VALID, VGCF_IN_KERNEL, VcpuGuestContext};
use zerocopy::FromZeros;

use super::cpu::legacy_area;
use crate::vcpu::VcpuState;
use crate::virt::{SegmentName, SwitchedMsr, gpr, rflags};

/// Calls `$f!` with the number of each general-purpose register and its field.
macro_rules! gprs {
    ($f:ident) => {
        $f!(gpr::RAX, rax);
        $f!(gpr::RBX, rbx);
        $f!(gpr::RCX, rcx);
        $f!(gpr::RDX, rdx);
        $f!(gpr::RBP, rbp);
        $f!(gpr::RSI, rsi);
        $f!(gpr::RDI, rdi);
        $f!(gpr::RSP, rsp);
        $f!(8, r8);
        $f!(9, r9);
        $f!(10, r10);
        $f!(11, r11);
        $f!(12, r12);
        $f!(13, r13);
        $f!(14, r14);
        $f!(15, r15);
    };
}

/// RFLAGS bits that a debugger may set.
const FLAGS: u64 = 0x003f_7fd5;

/// A vCPU's registers. Whether it is up is not known here.
#[must_use]
pub fn get(state: &VcpuState) -> Box<VcpuGuestContext> {
    let cpu = &*state.cpu;
    let mut c = Box::new(VcpuGuestContext::new_zeroed());
    let in_kernel = cpu.cpl() == 0;
    c.flags = VGCF_I387_VALID | if in_kernel { VGCF_IN_KERNEL } else { 0 };
    for (to, from) in c.fpu_ctxt.iter_mut().zip(cpu.extended_state()) {
        *to = from;
    }
    let regs = cpu.regs();
    let r = &mut c.user_regs;
    macro_rules! get {
        ($n:expr, $field:ident) => {
            r.$field = regs.get($n);
        };
    }
    gprs!(get);
    (r.rip, r.rflags) = (regs.rip, regs.rflags);
    let selector = |name| cpu.segment(name).selector;
    r.cs = selector(SegmentName::Cs);
    r.ss = selector(SegmentName::Ss);
    r.ds = selector(SegmentName::Ds);
    r.es = selector(SegmentName::Es);
    r.fs = selector(SegmentName::Fs);
    r.gs = selector(SegmentName::Gs);
    let control = cpu.control();
    let [cr0, _, cr2, cr3, cr4, ..] = &mut c.ctrlreg;
    (*cr0, *cr2, *cr3, *cr4) = (control.cr0, control.cr2, control.cr3, control.cr4);
    let [dr0, dr1, dr2, dr3, _, _, dr6, dr7] = &mut c.debugreg;
    [*dr0, *dr1, *dr2, *dr3, *dr6, *dr7] = cpu.debug_registers();
    c.fs_base = cpu.segment(SegmentName::Fs).base;
    let (gs, other) = (cpu.segment(SegmentName::Gs).base, cpu.switched_msr(SwitchedMsr::KernelGsBase));
    (c.gs_base_kernel, c.gs_base_user) = if in_kernel { (gs, other) } else { (other, gs) };
    c
}

/// Sets a vCPU's registers.
///
/// # Errors
/// `EINVAL`: debug registers that cannot be; nothing was changed.
pub fn set(state: &mut VcpuState, c: &VcpuGuestContext) -> Result<(), Errno> {
    let [dr0, dr1, dr2, dr3, _, _, dr6, dr7] = c.debugreg;
    if dr6 >> 32 != 0 || dr7 >> 32 != 0 {
        return Err(Errno::EINVAL);
    }
    let cpu = &mut *state.cpu;
    if c.flags & VGCF_I387_VALID != 0 {
        let mut area = cpu.extended_state();
        // The other components stay as they are.
        for (to, from) in area.iter_mut().zip(legacy_area(&c.fpu_ctxt)) {
            *to = from;
        }
        cpu.set_extended_state(&area);
    }
    let (dr6, dr7) = (dr6 & 0xe00f | 0xffff_0ff0, dr7 & 0xffff_2fff | 0x400);
    cpu.set_debug_registers(&[dr0, dr1, dr2, dr3, dr6, dr7]);
    let regs = cpu.regs_mut();
    let r = &c.user_regs;
    macro_rules! set {
        ($n:expr, $field:ident) => {
            regs.set($n, r.$field);
        };
    }
    gprs!(set);
    regs.rip = r.rip;
    regs.rflags = r.rflags & FLAGS | rflags::FIXED;
    Ok(())
}
