//! The CPU record: registers.

use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::save::{Cpu, XEN_X86_FPU_INITIALISED};
use zerocopy::FromZeros;

use crate::cpuid::CpuidPolicy;
use crate::emulate::control::cr4_mask;
use crate::emulate::walk::is_canonical;
use crate::virt::{Control, Event, Segment, SegmentName, SwitchedMsr, VirtualCpu, cr0, efer, gpr, rflags};

/// Bytes of the FXSAVE area.
pub(super) const LEGACY: usize = 512;
/// Bytes of the header that follows it in an XSAVE area.
pub(super) const XSAVE_HEADER: usize = 64;
/// Where MXCSR is.
const MXCSR: usize = 24;
/// Control word and MXCSR that a new FPU has for software.
const FCW_DEFAULT: u16 = 0x37f;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// XSAVE components of the legacy area: x87 and SSE.
const LEGACY_COMPONENTS: u64 = 3;

const CR4_PAE: u64 = 1 << 5;
/// In the type of a TSS.
const TSS_BUSY: u32 = 1 << 1;
/// EFER.FFXSR.
const EFER_FFXSE: u64 = 1 << 14;

/// Fields of [`Cpu::pending_event`], as VMX has them.
mod pending {
    pub(super) const TYPE_SHIFT: u32 = 8;
    pub(super) const INTERRUPT: u32 = 0;
    pub(super) const NMI: u32 = 2;
    pub(super) const EXCEPTION: u32 = 3;
    pub(super) const SOFTWARE: u32 = 4;
    pub(super) const ERROR_CODE: u32 = 1 << 11;
    pub(super) const VALID: u32 = 1 << 31;
}

/// Calls `$f!` with the name of each segment register and the fields of the record that hold it.
macro_rules! segments {
    ($f:ident) => {
        $f!(Cs, cs_sel, cs_limit, cs_base, cs_arbytes);
        $f!(Ds, ds_sel, ds_limit, ds_base, ds_arbytes);
        $f!(Es, es_sel, es_limit, es_base, es_arbytes);
        $f!(Fs, fs_sel, fs_limit, fs_base, fs_arbytes);
        $f!(Gs, gs_sel, gs_limit, gs_base, gs_arbytes);
        $f!(Ss, ss_sel, ss_limit, ss_base, ss_arbytes);
        $f!(Tr, tr_sel, tr_limit, tr_base, tr_arbytes);
        $f!(Ldtr, ldtr_sel, ldtr_limit, ldtr_base, ldtr_arbytes);
    };
}

/// The MSRs of the record and the fields that hold them.
macro_rules! msrs {
    ($f:ident) => {
        $f!(SysenterCs, sysenter_cs);
        $f!(SysenterEsp, sysenter_esp);
        $f!(SysenterEip, sysenter_eip);
        $f!(KernelGsBase, shadow_gs);
        $f!(Lstar, msr_lstar);
        $f!(Star, msr_star);
        $f!(Cstar, msr_cstar);
        $f!(Sfmask, msr_syscall_mask);
        $f!(TscAux, msr_tsc_aux);
    };
}

/// The general-purpose registers and the fields that hold them.
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

/// The record of a vCPU whose time stamp counter stands at `tsc`.
pub(super) fn save(cpu: &dyn VirtualCpu, tsc: u64) -> Cpu {
    let mut r = Cpu::new_zeroed();
    let regs = cpu.regs();
    macro_rules! get_gpr {
        ($n:expr, $field:ident) => {
            r.$field = regs.get($n);
        };
    }
    gprs!(get_gpr);
    r.rip = regs.rip;
    r.rflags = regs.rflags;
    let control = cpu.control();
    (r.cr0, r.cr2, r.cr3, r.cr4, r.msr_efer) = (control.cr0, control.cr2, control.cr3, control.cr4, control.efer);
    [r.dr0, r.dr1, r.dr2, r.dr3, r.dr6, r.dr7] = cpu.debug_registers();
    macro_rules! get_segment {
        ($name:ident, $sel:ident, $limit:ident, $base:ident, $ar:ident) => {
            let s = cpu.segment(SegmentName::$name);
            (r.$sel, r.$limit, r.$base, r.$ar) = (u32::from(s.selector), s.limit, s.base, u32::from(s.attributes));
        };
    }
    segments!(get_segment);
    // A loaded TSS is busy; processors that do not note it have been seen, and others that demand it.
    r.tr_arbytes |= TSS_BUSY;
    let (gdtr, idtr) = (cpu.segment(SegmentName::Gdtr), cpu.segment(SegmentName::Idtr));
    (r.gdtr_base, r.gdtr_limit, r.idtr_base, r.idtr_limit) = (gdtr.base, gdtr.limit, idtr.base, idtr.limit);
    macro_rules! get_msr {
        ($name:ident, $field:ident) => {
            r.$field = cpu.switched_msr(SwitchedMsr::$name);
        };
    }
    msrs!(get_msr);
    r.tsc = tsc;
    (r.pending_event, r.error_code) = cpu.pending_event().map_or((0, 0), encode_event);
    for (to, from) in r.fpu_regs.iter_mut().zip(cpu.extended_state()) {
        *to = from;
    }
    r.flags = XEN_X86_FPU_INITIALISED;
    r
}

fn encode_event(event: Event) -> (u32, u32) {
    let (kind, vector, code) = match event {
        Event::Interrupt(vector) => (pending::INTERRUPT, vector, None),
        Event::Nmi => (pending::NMI, 2, None),
        Event::Exception { vector, error_code } => (pending::EXCEPTION, vector, error_code),
        Event::Software { vector } => (pending::SOFTWARE, vector, None),
    };
    let has_code = if code.is_some() { pending::ERROR_CODE } else { 0 };
    (pending::VALID | has_code | kind << pending::TYPE_SHIFT | u32::from(vector), code.unwrap_or(0))
}

/// The event of a record.
///
/// # Errors
/// `EINVAL`: there is no such event.
fn decode_event(info: u32, code: u32) -> Result<Option<Event>, Errno> {
    if info & pending::VALID == 0 {
        return Ok(None);
    }
    let vector = info as u8;
    let error_code = (info & pending::ERROR_CODE != 0).then_some(code);
    let event = match info >> pending::TYPE_SHIFT & 7 {
        pending::INTERRUPT => Event::Interrupt(vector),
        pending::NMI => Event::Nmi,
        // Those of INT3 and INTO are delivered anew as well: the instruction pointer is still there.
        pending::EXCEPTION if vector < 32 => Event::Exception { vector, error_code },
        pending::SOFTWARE | 5 | 6 => return Ok(None),
        _ => return Err(Errno::EINVAL),
    };
    Ok(Some(event))
}

/// Checks whether a processor of this policy can be in the state of the record.
///
/// # Errors
/// `EINVAL`.
pub(super) fn check(r: &Cpu, policy: &CpuidPolicy) -> Result<(), Errno> {
    let no = |bad: bool| if bad { Err(Errno::EINVAL) } else { Ok(()) };
    let paging = r.cr0 & cr0::PG != 0;
    no(r.cr0 >> 32 != 0 || (paging && r.cr0 & cr0::PE == 0) || (r.cr0 & cr0::NW != 0 && r.cr0 & cr0::CD == 0))?;
    no(r.cr3 >> 52 != 0 || r.cr4 & !cr4_mask(policy) != 0)?;
    let known = efer::SCE | efer::LME | efer::LMA | efer::NXE | EFER_FFXSE;
    no(r.msr_efer & !known != 0 || (paging && r.msr_efer & efer::LME != 0 && r.cr4 & CR4_PAE == 0))?;
    no(r.dr6 >> 32 != 0 || r.dr7 >> 32 != 0 || r.msr_tsc_aux >> 32 != 0)?;
    let addresses = [
        r.fs_base,
        r.gs_base,
        r.shadow_gs,
        r.msr_lstar,
        r.msr_cstar,
        r.sysenter_esp,
        r.sysenter_eip,
        r.tr_base,
        r.ldtr_base,
        r.gdtr_base,
        r.idtr_base,
    ];
    no(!addresses.into_iter().all(is_canonical))?;
    decode_event(r.pending_event, r.error_code).map(|_| ())
}

/// Puts a vCPU into the state of the record, which was checked. The time stamp counter and the FPU's extended state are
/// not part of it here.
pub(super) fn load(cpu: &mut dyn VirtualCpu, r: &Cpu) {
    // What the record does not say is as after reset: no delivery under way, no interrupt shadow.
    cpu.reset();
    macro_rules! set_segment {
        ($name:ident, $sel:ident, $limit:ident, $base:ident, $ar:ident) => {
            let attributes = (r.$ar & 0xfff) as u16;
            let s = Segment { selector: r.$sel as u16, attributes, limit: r.$limit, base: r.$base };
            cpu.set_segment(SegmentName::$name, &s);
        };
    }
    segments!(set_segment);
    let table = |base, limit| Segment { base, limit, ..Segment::default() };
    cpu.set_segment(SegmentName::Gdtr, &table(r.gdtr_base, r.gdtr_limit));
    cpu.set_segment(SegmentName::Idtr, &table(r.idtr_base, r.idtr_limit));
    let long = r.msr_efer & efer::LME != 0 && r.cr0 & cr0::PG != 0;
    let efer = if long { r.msr_efer | efer::LMA } else { r.msr_efer & !efer::LMA };
    cpu.set_control(&Control { cr0: r.cr0 | cr0::ET, cr2: r.cr2, cr3: r.cr3, cr4: r.cr4, efer });
    let (dr6, dr7) = (r.dr6 & 0xe00f | 0xffff_0ff0, r.dr7 & 0xffff_2fff | 0x400);
    cpu.set_debug_registers(&[r.dr0, r.dr1, r.dr2, r.dr3, dr6, dr7]);
    macro_rules! set_msr {
        ($name:ident, $field:ident) => {
            cpu.set_switched_msr(SwitchedMsr::$name, r.$field);
        };
    }
    msrs!(set_msr);
    let regs = cpu.regs_mut();
    macro_rules! set_gpr {
        ($n:expr, $field:ident) => {
            regs.set($n, r.$field);
        };
    }
    gprs!(set_gpr);
    regs.rip = r.rip;
    regs.rflags = r.rflags & FLAGS | rflags::FIXED;
    if r.flags & XEN_X86_FPU_INITIALISED != 0 {
        cpu.set_extended_state(&legacy_area(&r.fpu_regs));
    } else {
        let mut fresh = [0; LEGACY];
        put(&mut fresh, 0, &FCW_DEFAULT.to_le_bytes());
        put(&mut fresh, MXCSR, &MXCSR_DEFAULT.to_le_bytes());
        cpu.set_extended_state(&legacy_area(&fresh));
    }
    // Checked before.
    if let Ok(Some(event)) = decode_event(r.pending_event, r.error_code) {
        cpu.inject(event);
    }
}

/// RFLAGS bits that exist.
const FLAGS: u64 = 0x003f_7fd5;

/// An XSAVE area of the legacy components only.
pub(super) fn legacy_area(legacy: &[u8; LEGACY]) -> Vec<u8> {
    let mut area = legacy.to_vec();
    area.resize(LEGACY.saturating_add(XSAVE_HEADER), 0);
    put(&mut area, LEGACY, &LEGACY_COMPONENTS.to_le_bytes());
    area
}

/// Writes bytes into a buffer, as far as they fit.
pub(super) fn put(to: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}
