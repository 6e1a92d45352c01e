//! One virtual CPU under SVM.
//!
//! Invariants: the VMCB is written only by its owner (`&mut self`) and by the processor between entry and exit; `dirty`
//! holds the clean bits of everything changed since the last exit; the FPU registers of a loaded vCPU are in the
//! processor (the hypervisor itself is compiled without FPU and SSE).
// Unsafe: enters the guest, switches FPU state, MSRs and debug registers.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::types::MachineAddr;
use radon_x86::emulate::control::xcr0_valid;
use radon_x86::virt::{
    Control, Event, Exit, NestedFault, PortAccess, Regs, Segment, SegmentName, SwitchedMsr, VirtualCpu, efer, gpr,
    rflags,
};

use super::fpu::{FpuArea, xgetbv, xsetbv};
use super::vmcb::{
    INTERCEPT_CR4_WRITE, INTERCEPT_CR8_WRITE, Vmcb, VmcbSegment, clean, event, exit, misc1, misc2, npf, tlb, vintr,
};
use super::{
    Asids, EFER_SVME, FLUSH_GENERATION, PRESENCE, PermissionMaps, common, machine_address, slot_of, with_this_cpu,
};
use crate::cpu::registers::{self as cr, rdmsr, wrmsr, wrmsr_safe};
use crate::{apic, cpu, interrupts, machine_check};

const MSR_TSC_AUX: u32 = 0xc000_0103;
const MSR_SPEC_CTRL: u32 = 0x48;
const MSR_PRED_CMD: u32 = 0x49;
const PRED_CMD_IBPB: u64 = 1;
/// #DB and #AC can recurse without end inside the processor when their own delivery raises them. #MC is the host's.
const INTERCEPTED_EXCEPTIONS: u32 = (1 << 1) | (1 << 17) | (1 << 18);
/// How many PAUSEs, each within so many cycles of the one before, make a loop that waits for another vCPU.
const PAUSE_LOOP: u16 = 4000;
const PAUSE_DISTANCE: u16 = 1000;
/// DR7: some breakpoint is enabled.
const DR7_ENABLED: u64 = 0xff;
const PAT_AT_RESET: u64 = 0x0007_0406_0007_0406;

core::arch::global_asm!(include_str!("entry.S"));

unsafe extern "C" {
    /// See entry.S.
    fn svm_enter(regs: *mut Regs, guest_vmcb: u64, host_vmcb: u64);
}

/// A virtual CPU under SVM.
pub struct SvmCpu {
    vmcb: Box<Vmcb>,
    regs: Regs,
    /// Tells vCPUs apart, for ever.
    number: u64,
    fpu: FpuArea,
    maps: Arc<PermissionMaps>,
    /// Identifies the domain in the TLB flush protocol.
    tag: u64,
    /// Clean bits of what changed since the last exit.
    dirty: u32,
    /// CPU and generation for which the VMCB's ASID is valid.
    asid_cpu: u32,
    asid_generation: u64,
    /// Flush generation of the domain at which the ASID was taken.
    flush_seen: u64,
    next_rip: Option<u64>,
    xcr0: u64,
    tsc_aux: u64,
    /// The guest's SPEC_CTRL, where the processor does not switch it: written around the guest only while it is not zero,
    /// which is the host's value.
    spec_ctrl: u64,
    debug: [u64; 4],
    debug_loaded: bool,
    /// An NMI is being handled: IRET is intercepted.
    in_nmi: bool,
    loaded: bool,
}

impl SvmCpu {
    /// A vCPU after RESET whose guest-physical memory is the nested page table at `nested_root`.
    #[must_use]
    pub fn new(tag: u64, nested_root: MachineAddr, maps: Arc<PermissionMaps>) -> SvmCpu {
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let mut cpu = SvmCpu {
            vmcb: Box::default(),
            regs: Regs::default(),
            number: NUMBERS.fetch_add(1, Ordering::Relaxed),
            fpu: FpuArea::new(),
            maps,
            tag,
            dirty: clean::ALL,
            asid_cpu: u32::MAX,
            asid_generation: 0,
            flush_seen: 0,
            next_rip: None,
            xcr0: 1,
            tsc_aux: 0,
            spec_ctrl: 0,
            debug: [0; 4],
            debug_loaded: false,
            in_nmi: false,
            loaded: false,
        };
        cpu.vmcb.nested_cr3 = nested_root.0;
        cpu.set_up_intercepts();
        cpu.reset();
        cpu
    }

    fn set_up_intercepts(&mut self) {
        let v = &mut self.vmcb;
        v.intercept_dr = u32::MAX;
        v.intercept_exceptions = INTERCEPTED_EXCEPTIONS;
        v.intercept_misc1 = misc1::INTR
            | misc1::NMI
            | misc1::SMI
            | misc1::INIT
            | misc1::RDPMC
            | misc1::CPUID
            | misc1::INVD
            | misc1::HLT
            | misc1::INVLPGA
            | misc1::IOIO
            | misc1::MSR
            | misc1::SHUTDOWN;
        v.intercept_misc2 = misc2::VMRUN
            | misc2::VMMCALL
            | misc2::VMLOAD
            | misc2::VMSAVE
            | misc2::STGI
            | misc2::CLGI
            | misc2::SKINIT
            | misc2::ICEBP
            | misc2::WBINVD
            | misc2::MONITOR
            | misc2::MWAIT
            | misc2::MWAIT_ARMED
            | misc2::XSETBV
            | misc2::RDPRU;
        if common().features.pause_filter {
            v.intercept_misc1 |= misc1::PAUSE;
            v.pause_filter_count = PAUSE_LOOP;
            v.pause_filter_threshold = if common().features.pause_threshold { PAUSE_DISTANCE } else { 0 };
        }
        v.iopm_base = self.maps.io_address();
        v.msrpm_base = self.maps.msr_address();
        v.vintr = vintr::MASKING;
        v.nested_control = 1;
        v.pat = PAT_AT_RESET;
    }

    /// #UD gives an exit.
    pub fn intercept_undefined(&mut self) {
        self.vmcb.intercept_exceptions |= 1 << 6;
        self.mark(clean::INTERCEPTS);
    }

    fn mark(&mut self, bits: u32) {
        self.dirty |= bits;
    }

    fn segment_ref(&self, name: SegmentName) -> &VmcbSegment {
        match name {
            SegmentName::Es => &self.vmcb.es,
            SegmentName::Cs => &self.vmcb.cs,
            SegmentName::Ss => &self.vmcb.ss,
            SegmentName::Ds => &self.vmcb.ds,
            SegmentName::Fs => &self.vmcb.fs,
            SegmentName::Gs => &self.vmcb.gs,
            SegmentName::Gdtr => &self.vmcb.gdtr,
            SegmentName::Ldtr => &self.vmcb.ldtr,
            SegmentName::Idtr => &self.vmcb.idtr,
            SegmentName::Tr => &self.vmcb.tr,
        }
    }

    /// Takes a new ASID if the old one is of another CPU or generation, or translations were removed since.
    fn prepare_asid(&mut self, asids: &mut Asids, me: u32) {
        let generation = FLUSH_GENERATION[slot_of(self.tag)].load(Ordering::SeqCst);
        self.vmcb.tlb_control = tlb::NONE;
        if self.asid_cpu == me && self.asid_generation == asids.generation && self.flush_seen == generation {
            return;
        }
        let (asid, asid_generation, flush_all) = asids.allocate();
        self.vmcb.asid = asid;
        if flush_all {
            self.vmcb.tlb_control = tlb::FLUSH_ALL;
        }
        self.mark(clean::ASID);
        if self.asid_cpu != me {
            // The processor may hold this VMCB's state only if it ran it last.
            self.mark(clean::ALL);
        }
        self.asid_cpu = me;
        self.asid_generation = asid_generation;
        self.flush_seen = generation;
    }

    /// Before an entry under QEMU's translator: an interrupt that is to be delivered is handed over as a virtual interrupt,
    /// which the processor delivers before the guest's first instruction, as it does an injected one. (An injected external
    /// interrupt is delivered twice there, the second time whatever RFLAGS.IF is, if QEMU's loop over its virtual CPUs is
    /// told to stop just then.)
    ///
    /// There is one virtual interrupt only. Where it would open a window for the next one, the end of the first one's
    /// handler ends guest mode instead.
    fn offer_interrupt(&mut self) -> Option<u64> {
        let v = &mut self.vmcb;
        let queued = v.event_injection;
        if !common().doubles_interrupts
            || queued & event::VALID == 0
            || (queued >> event::TYPE_SHIFT) & 7 != event::TYPE_INTERRUPT
        {
            return None;
        }
        if v.vintr & vintr::IRQ != 0 {
            v.intercept_misc1 &= !misc1::VINTR;
            v.intercept_misc1 |= misc1::IRET;
            self.dirty |= clean::INTERCEPTS;
        }
        v.event_injection = 0;
        v.vintr &= !vintr::PENDING;
        v.vintr |= vintr::IRQ | vintr::IGNORE_TPR | ((queued & 0xff) << vintr::VECTOR_SHIFT);
        self.dirty |= clean::VINTR;
        Some(queued)
    }

    /// After an exit: an interrupt that was handed over and not taken is queued again.
    fn take_back(&mut self, offered: u64) {
        let v = &mut self.vmcb;
        // If its delivery was cut short, the processor has taken it and says so in EXITINTINFO, but QEMU's translator has
        // not, and calls it an exception there.
        if v.vintr & vintr::IRQ != 0 {
            v.event_injection = offered;
        }
        v.vintr &= !vintr::PENDING;
        self.dirty |= clean::VINTR;
    }

    /// After an exit: an event whose delivery was cut short is delivered again, unless the instruction that raised it
    /// will be executed again anyway (software interrupts and breakpoints). `ours` is what was injected, if the guest is
    /// still where it was then.
    fn requeue_interrupted_event(&mut self, ours: Option<u64>) {
        let info = self.vmcb.exit_int_info;
        self.vmcb.event_injection = 0;
        if info & event::VALID == 0 {
            return;
        }
        let kind = (info >> event::TYPE_SHIFT) & 7;
        let vector = info & 0xff;
        let repeats = kind == event::TYPE_SOFTWARE || (kind == event::TYPE_EXCEPTION && matches!(vector, 3 | 4));
        if !repeats || ours == Some(info) {
            self.vmcb.event_injection = info;
        }
    }

    fn decode_exit(&mut self) -> Exit {
        let code = self.vmcb.exit_code;
        let info1 = self.vmcb.exit_info1;
        self.next_rip = None;
        if common().features.nrip_save && self.vmcb.next_rip != 0 {
            self.next_rip = Some(self.vmcb.next_rip);
        }
        match code {
            exit::INTR | exit::NMI | exit::SMI | exit::INIT => Exit::Interrupt,
            exit::VINTR => {
                self.vmcb.vintr &= !(vintr::IRQ | vintr::IGNORE_TPR);
                self.vmcb.intercept_misc1 &= !misc1::VINTR;
                self.mark(clean::VINTR | clean::INTERCEPTS);
                Exit::InterruptWindow
            }
            exit::IRET => {
                if self.in_nmi {
                    // IRET is yet to be executed. Until then the shadow keeps the next NMI back.
                    self.in_nmi = false;
                    self.vmcb.interrupt_shadow |= 1;
                }
                self.vmcb.intercept_misc1 &= !misc1::IRET;
                self.mark(clean::INTERCEPTS);
                Exit::InterruptWindow
            }
            exit::CPUID => Exit::Cpuid,
            exit::MSR => {
                if info1 & 1 == 0 {
                    Exit::Rdmsr
                } else {
                    Exit::Wrmsr
                }
            }
            exit::VMMCALL => Exit::Hypercall,
            exit::HLT => Exit::Halt,
            exit::PAUSE => Exit::Pause,
            exit::IOIO => {
                self.next_rip = Some(self.vmcb.exit_info2);
                Exit::Port(PortAccess {
                    port: (info1 >> 16) as u16,
                    size: ((info1 >> 4) & 7) as u8,
                    write: info1 & 1 == 0,
                    string: info1 & (1 << 2) != 0,
                })
            }
            // An entry that we made wrong faults for ever.
            exit::NPF if info1 & npf::RESERVED != 0 => Exit::Failed(code),
            exit::NPF => Exit::NestedFault(NestedFault {
                gpa: self.vmcb.exit_info2,
                write: info1 & npf::WRITE != 0,
                fetch: info1 & npf::FETCH != 0,
                present: info1 & npf::PRESENT != 0,
                table_walk: info1 & npf::TABLE_WALK != 0,
            }),
            exit::INVD | exit::WBINVD => Exit::CacheFlush,
            exit::XSETBV => Exit::Xsetbv,
            exit::RDTSC => Exit::Rdtsc { with_aux: false },
            exit::RDTSCP => Exit::Rdtsc { with_aux: true },
            exit::DR_FIRST..=exit::DR_LAST => {
                self.load_debug_registers();
                Exit::DebugRegister
            }
            exit::CR4_WRITE => Exit::ControlRegister,
            exit::CR8_WRITE => {
                self.vmcb.intercept_cr &= !INTERCEPT_CR8_WRITE;
                self.mark(clean::INTERCEPTS);
                Exit::TaskPriority
            }
            exit::MACHINE_CHECK => machine_check::in_guest(),
            exit::ICEBP => Exit::Icebp,
            exit::EXCEPTION_FIRST..=exit::EXCEPTION_LAST => {
                let vector = (code - exit::EXCEPTION_FIRST) as u8;
                let error_code = (vector == 17).then_some(info1 as u32);
                Exit::Exception(Event::Exception { vector, error_code })
            }
            exit::RDPMC => Exit::Protected,
            exit::INVLPGA | exit::VMRUN | exit::VMLOAD..=exit::SKINIT => Exit::Undefined,
            exit::MONITOR | exit::MWAIT | exit::MWAIT_ARMED | exit::RDPRU => Exit::Undefined,
            exit::SHUTDOWN => Exit::Shutdown,
            other => Exit::Failed(other),
        }
    }

    /// The guest's debug registers go into the processor until the vCPU is switched away; accesses no longer exit.
    fn load_debug_registers(&mut self) {
        let [d0, d1, d2, d3] = self.debug;
        // SAFETY: DR7 is zero in the hypervisor, so addresses in DR0-3 have no effect outside of the guest.
        unsafe {
            asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) d0, in(reg) d1, in(reg) d2,
                in(reg) d3, options(nostack, nomem, preserves_flags));
        }
        self.debug_loaded = true;
        self.vmcb.intercept_dr = 0;
        self.mark(clean::INTERCEPTS);
    }

    fn unload_debug_registers(&mut self) {
        if !self.debug_loaded {
            return;
        }
        self.debug = read_debug_registers();
        self.debug_loaded = false;
        self.vmcb.intercept_dr = u32::MAX;
        self.mark(clean::INTERCEPTS);
    }
}

fn read_debug_registers() -> [u64; 4] {
    let (d0, d1, d2, d3): (u64, u64, u64, u64);
    // SAFETY: reading debug registers has no effect (CR4.DE and DR7.GD are not set so that it would trap).
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) d0, out(reg) d1, out(reg) d2,
            out(reg) d3, options(nostack, nomem, preserves_flags));
    }
    [d0, d1, d2, d3]
}

impl VirtualCpu for SvmCpu {
    fn run(&mut self) -> Exit {
        let me = cpu::this_cpu().id();
        let presence = &PRESENCE[me.index()];
        presence.slot.store(slot_of(self.tag) as u32, Ordering::Relaxed);
        presence.entries.store(presence.entries.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        presence.inside.store(true, Ordering::SeqCst);
        core::sync::atomic::fence(Ordering::SeqCst);
        let host = with_this_cpu(|slot| {
            slot.as_mut().map(|per_cpu| {
                self.prepare_asid(&mut per_cpu.asids, me.0);
                per_cpu.host_vmcb
            })
        });
        #[expect(clippy::expect_used, reason = "a broken invariant of our own; stops the machine with a report")]
        let host = host.expect("this CPU has enabled SVM");

        let (queued, queued_at) = (self.vmcb.event_injection, self.regs.rip);
        let offered = self.offer_interrupt();
        let v = &mut *self.vmcb;
        v.rax = self.regs.gpr[gpr::RAX];
        v.rsp = self.regs.gpr[gpr::RSP];
        v.rip = self.regs.rip;
        v.rflags = self.regs.rflags;
        v.clean = if common().features.clean_bits { clean::ALL & !self.dirty } else { 0 };
        let guest = machine_address(&*self.vmcb);
        if self.spec_ctrl != 0 {
            // SAFETY: the guest's policy offers SPEC_CTRL only where the processor has it, with these bits.
            let _ = unsafe { wrmsr_safe(MSR_SPEC_CTRL, self.spec_ctrl) };
        }
        // SAFETY: SVM is on (a vCPU is loaded only on CPUs that enabled it). The VMCB intercepts everything that the
        // guest must not do directly and maps only what its nested page table maps; host state is saved and restored by
        // the processor and entry.S; `regs` is exclusively borrowed.
        unsafe { svm_enter(&raw mut self.regs, guest, host) };
        if self.spec_ctrl != 0 {
            // SAFETY: as above; the hypervisor runs with no speculation control of its own.
            let _ = unsafe { wrmsr_safe(MSR_SPEC_CTRL, 0) };
        }
        presence.inside.store(false, Ordering::Release);

        self.dirty = 0;
        let v = &*self.vmcb;
        self.regs.gpr[gpr::RAX] = v.rax;
        self.regs.gpr[gpr::RSP] = v.rsp;
        self.regs.rip = v.rip;
        self.regs.rflags = v.rflags;
        if v.exit_code == u64::MAX || v.exit_code == 0xffff_ffff {
            // Nothing ran; what was to be delivered still is.
            let code = v.exit_code;
            self.dirty = clean::ALL;
            self.asid_cpu = u32::MAX;
            self.vmcb.event_injection = offered.unwrap_or(self.vmcb.event_injection);
            return Exit::Failed(code);
        }
        // A software interrupt of ours stands behind its instruction, which will not raise it again.
        self.requeue_interrupted_event((self.regs.rip == queued_at).then_some(queued));
        if let Some(offered) = offered {
            self.take_back(offered);
        }
        self.decode_exit()
    }

    fn regs(&self) -> &Regs {
        &self.regs
    }

    fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }

    fn next_rip(&self) -> Option<u64> {
        self.next_rip
    }

    fn instruction_bytes(&self) -> &[u8] {
        if !common().features.decode_assists || self.vmcb.exit_code != exit::NPF {
            return &[];
        }
        self.vmcb.instruction.get(..usize::from(self.vmcb.fetched & 0xf)).unwrap_or(&[])
    }

    fn control(&self) -> Control {
        let v = &self.vmcb;
        Control { cr0: v.cr0, cr2: v.cr2, cr3: v.cr3, cr4: v.cr4, efer: v.efer & !efer::SVME }
    }

    fn set_control(&mut self, control: &Control) {
        let v = &mut self.vmcb;
        v.cr0 = control.cr0;
        v.cr2 = control.cr2;
        v.cr3 = control.cr3;
        v.cr4 = control.cr4;
        v.efer = control.efer | EFER_SVME;
        self.mark(clean::CONTROL | clean::CR2);
        // Paging modes may have changed; the processor keeps translations by ASID only.
        self.flush_tlb();
    }

    fn cr4(&self) -> u64 {
        self.vmcb.cr4
    }

    fn set_cr2(&mut self, address: u64) {
        self.vmcb.cr2 = address;
        self.mark(clean::CR2);
    }

    fn cpl(&self) -> u8 {
        self.vmcb.cpl & 3
    }

    fn segment(&self, name: SegmentName) -> Segment {
        let s = self.segment_ref(name);
        Segment { selector: s.selector, attributes: s.attributes, limit: s.limit, base: s.base }
    }

    fn set_segment(&mut self, name: SegmentName, segment: &Segment) {
        let new = VmcbSegment {
            selector: segment.selector,
            attributes: segment.attributes,
            limit: segment.limit,
            base: segment.base,
        };
        let v = &mut self.vmcb;
        let (place, bits) = match name {
            SegmentName::Es => (&mut v.es, clean::SEGMENTS),
            SegmentName::Cs => (&mut v.cs, clean::SEGMENTS),
            SegmentName::Ss => {
                v.cpl = segment.dpl();
                (&mut v.ss, clean::SEGMENTS)
            }
            SegmentName::Ds => (&mut v.ds, clean::SEGMENTS),
            SegmentName::Fs => (&mut v.fs, 0),
            SegmentName::Gs => (&mut v.gs, 0),
            SegmentName::Gdtr => (&mut v.gdtr, clean::TABLES),
            SegmentName::Ldtr => (&mut v.ldtr, 0),
            SegmentName::Idtr => (&mut v.idtr, clean::TABLES),
            SegmentName::Tr => (&mut v.tr, 0),
        };
        *place = new;
        self.mark(bits);
    }

    fn switched_msr(&self, msr: SwitchedMsr) -> u64 {
        let v = &self.vmcb;
        match msr {
            SwitchedMsr::Star => v.star,
            SwitchedMsr::Lstar => v.lstar,
            SwitchedMsr::Cstar => v.cstar,
            SwitchedMsr::Sfmask => v.sfmask,
            SwitchedMsr::KernelGsBase => v.kernel_gs_base,
            SwitchedMsr::SysenterCs => v.sysenter_cs,
            SwitchedMsr::SysenterEsp => v.sysenter_esp,
            SwitchedMsr::SysenterEip => v.sysenter_eip,
            SwitchedMsr::Pat => v.pat,
            SwitchedMsr::DebugCtl => v.debugctl,
            // SAFETY: `loaded` says that the processor has TSC_AUX with this guest's value, or the copy is current.
            SwitchedMsr::TscAux if self.loaded && common().has_tsc_aux => unsafe { rdmsr(MSR_TSC_AUX) },
            SwitchedMsr::TscAux => self.tsc_aux,
        }
    }

    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64) {
        let v = &mut self.vmcb;
        match msr {
            SwitchedMsr::Star => v.star = value,
            SwitchedMsr::Lstar => v.lstar = value,
            SwitchedMsr::Cstar => v.cstar = value,
            SwitchedMsr::Sfmask => v.sfmask = value,
            SwitchedMsr::KernelGsBase => v.kernel_gs_base = value,
            SwitchedMsr::SysenterCs => v.sysenter_cs = value,
            SwitchedMsr::SysenterEsp => v.sysenter_esp = value,
            SwitchedMsr::SysenterEip => v.sysenter_eip = value,
            SwitchedMsr::Pat => {
                v.pat = value;
                self.mark(clean::NESTED);
            }
            SwitchedMsr::DebugCtl => {
                v.debugctl = value;
                self.mark(clean::LBR);
            }
            SwitchedMsr::TscAux => {
                self.tsc_aux = value & 0xffff_ffff;
                if self.loaded && common().has_tsc_aux {
                    // SAFETY: the MSR exists, its upper half is zero, and the hypervisor does not use it.
                    unsafe { wrmsr(MSR_TSC_AUX, self.tsc_aux) };
                }
            }
        }
    }

    fn debug_registers(&self) -> [u64; 6] {
        let [d0, d1, d2, d3] = if self.debug_loaded { read_debug_registers() } else { self.debug };
        [d0, d1, d2, d3, self.vmcb.dr6, self.vmcb.dr7]
    }

    fn set_debug_registers(&mut self, values: &[u64; 6]) {
        let [d0, d1, d2, d3, dr6, dr7] = *values;
        self.debug = [d0, d1, d2, d3];
        self.vmcb.dr6 = dr6;
        self.vmcb.dr7 = dr7;
        self.mark(clean::DEBUG);
        if self.debug_loaded {
            self.load_debug_registers();
        }
    }

    fn xcr0(&self) -> u64 {
        // Asked, since QEMU does not intercept XSETBV.
        if self.loaded && common().xcr0 != 0 { xgetbv() } else { self.xcr0 }
    }

    fn set_xcr0(&mut self, value: u64) {
        let host = common().xcr0;
        // A value that the processor refuses would stop the hypervisor.
        self.xcr0 = if xcr0_valid(value & host, host) { value & host } else { 1 };
        if self.loaded && host != 0 {
            xsetbv(self.xcr0);
        }
    }

    fn tsc_offset(&self) -> u64 {
        self.vmcb.tsc_offset
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.tsc_offset = offset;
        self.mark(clean::INTERCEPTS);
    }

    fn trap_tsc(&mut self, trap: bool) {
        let v = &mut self.vmcb;
        v.intercept_misc1 = v.intercept_misc1 & !misc1::RDTSC | if trap { misc1::RDTSC } else { 0 };
        v.intercept_misc2 = v.intercept_misc2 & !misc2::RDTSCP | if trap { misc2::RDTSCP } else { 0 };
        self.mark(clean::INTERCEPTS);
    }

    fn can_take_interrupt(&self) -> bool {
        self.regs.rflags & rflags::IF != 0 && self.vmcb.interrupt_shadow & 1 == 0 && !self.delivery_pending()
    }

    fn can_take_nmi(&self) -> bool {
        !self.in_nmi && self.vmcb.interrupt_shadow & 1 == 0 && !self.delivery_pending()
    }

    fn delivery_pending(&self) -> bool {
        self.vmcb.event_injection & event::VALID != 0
    }

    fn inject(&mut self, what: Event) {
        let v = &mut self.vmcb;
        if matches!(what, Event::Software { .. }) && common().features.nrip_save {
            // Where the guest returns to: processors without this field take RIP.
            v.next_rip = self.regs.rip;
        }
        v.event_injection = event::VALID
            | match what {
                Event::Interrupt(vector) => u64::from(vector) | (event::TYPE_INTERRUPT << event::TYPE_SHIFT),
                Event::Nmi => 2 | (event::TYPE_NMI << event::TYPE_SHIFT),
                Event::Exception { vector, error_code } => {
                    let code = error_code.map_or(0, |c| (u64::from(c) << 32) | event::ERROR_CODE);
                    u64::from(vector) | (event::TYPE_EXCEPTION << event::TYPE_SHIFT) | code
                }
                Event::Software { vector } => u64::from(vector) | (event::TYPE_SOFTWARE << event::TYPE_SHIFT),
            };
        if what == Event::Nmi {
            self.in_nmi = true;
            v.intercept_misc1 |= misc1::IRET;
            self.mark(clean::INTERCEPTS);
        }
    }

    fn request_interrupt_window(&mut self, priority: u8) {
        let v = &mut self.vmcb;
        v.vintr &= !(0xf << vintr::PRIORITY_SHIFT);
        v.vintr |= vintr::IRQ | vintr::IGNORE_TPR | (u64::from(priority & 0xf) << vintr::PRIORITY_SHIFT);
        v.intercept_misc1 |= misc1::VINTR;
        self.mark(clean::VINTR | clean::INTERCEPTS);
    }

    fn request_nmi_window(&mut self) {
        if self.in_nmi {
            return; // IRET is intercepted
        }
        let queued = self.vmcb.event_injection;
        let offered = (queued >> event::TYPE_SHIFT) & 7 == event::TYPE_INTERRUPT && common().doubles_interrupts;
        if queued & event::VALID != 0 && !offered {
            // That event is delivered first; a physical interrupt of our own then ends guest mode before anything else.
            apic::send_ipi(cpu::this_cpu().apic_id(), interrupts::KICK);
        } else {
            // A shadow of one instruction, or an interrupt that is offered: after its handler then, since a physical
            // interrupt would go before it again and again. (If RFLAGS.IF is clear the NMI waits for the next exit.)
            self.request_interrupt_window(0xf);
        }
    }

    fn clear_interrupt_shadow(&mut self) {
        self.vmcb.interrupt_shadow &= !1;
    }

    fn tpr(&self) -> u8 {
        (self.vmcb.vintr & 0xf) as u8
    }

    fn set_tpr(&mut self, value: u8) {
        let v = &mut self.vmcb;
        let new = (v.vintr & !vintr::TPR_MASK) | u64::from(value & 0xf);
        if new != v.vintr {
            v.vintr = new;
            self.mark(clean::VINTR);
        }
    }

    fn watch_task_priority(&mut self) {
        self.vmcb.intercept_cr |= INTERCEPT_CR8_WRITE;
        self.mark(clean::INTERCEPTS);
    }

    fn set_spec_ctrl(&mut self, value: u64) {
        if common().features.spec_ctrl {
            self.vmcb.spec_ctrl = value;
        } else {
            self.spec_ctrl = value;
        }
    }

    fn vector(&self, n: usize) -> [u64; 4] {
        self.save_fpu_if_loaded();
        self.fpu.vector(n, self.xcr0())
    }

    fn set_vector(&mut self, n: usize, value: [u64; 4]) {
        self.save_fpu_if_loaded();
        let guest = self.xcr0();
        self.fpu.set_vector(n, value, guest);
        if self.loaded {
            self.restore_fpu();
        }
    }

    fn extended_state(&self) -> Vec<u8> {
        self.save_fpu_if_loaded();
        self.fpu.bytes()
    }

    fn set_extended_state(&mut self, area: &[u8]) {
        self.fpu.set_bytes(area, common().xcr0, common().mxcsr_mask);
        if self.loaded {
            self.restore_fpu();
        }
    }

    fn exit_code(&self) -> u64 {
        self.vmcb.exit_code
    }

    fn describe_exit(&self) -> String {
        let v = &self.vmcb;
        // A race of QEMU with one thread per CPU (see the book); no processor does it. `xtask test` knows these words.
        let own = if v.cr3 == cr::read_cr3() { ", with the hypervisor's own CR3 in the VMCB" } else { "" };
        format!(
            "exit {:#x} info {:#x} {:#x} event {:#x}, entered with event {:#x} interrupt {:#x} ASID {} on CPU{}{own}",
            v.exit_code, v.exit_info1, v.exit_info2, v.exit_int_info, v.event_injection, v.vintr, v.asid, self.asid_cpu
        )
    }

    fn pending_event(&self) -> Option<Event> {
        let raw = self.vmcb.event_injection;
        let vector = raw as u8;
        let error_code = (raw & event::ERROR_CODE != 0).then_some((raw >> 32) as u32);
        (raw & event::VALID != 0).then_some(match raw >> event::TYPE_SHIFT & 7 {
            event::TYPE_INTERRUPT => Event::Interrupt(vector),
            event::TYPE_NMI => Event::Nmi,
            event::TYPE_SOFTWARE => Event::Software { vector },
            _ => Event::Exception { vector, error_code },
        })
    }

    fn load(&mut self) {
        self.forget_predictions();
        self.restore_fpu();
        if self.vmcb.dr7 & DR7_ENABLED != 0 {
            // The processor loads DR7 with the guest, but not the addresses that it enables.
            self.load_debug_registers();
        }
        if common().has_tsc_aux {
            // SAFETY: the MSR exists, its upper half is zero, and the hypervisor does not use it.
            unsafe { wrmsr(MSR_TSC_AUX, self.tsc_aux) };
        }
        self.loaded = true;
    }

    fn save(&mut self) {
        self.save_fpu_if_loaded();
        self.xcr0 = self.xcr0();
        self.tsc_aux = self.switched_msr(SwitchedMsr::TscAux);
        self.unload_debug_registers();
        self.loaded = false;
    }

    fn flush_tlb(&mut self) {
        self.asid_cpu = u32::MAX;
    }

    fn reset(&mut self) {
        self.regs = Regs { rip: 0xfff0, rflags: rflags::FIXED, ..Regs::default() };
        self.regs.gpr[gpr::RDX] = 0x600;
        let data = VmcbSegment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 };
        let v = &mut self.vmcb;
        v.es = data;
        v.ss = data;
        v.ds = data;
        v.fs = data;
        v.gs = data;
        v.cs = VmcbSegment { selector: 0xf000, attributes: 0x9b, limit: 0xffff, base: 0xffff_0000 };
        let table = VmcbSegment { selector: 0, attributes: 0, limit: 0xffff, base: 0 };
        v.gdtr = table;
        v.idtr = table;
        v.ldtr = VmcbSegment { attributes: 0x82, ..table };
        v.tr = VmcbSegment { attributes: 0x8b, ..table };
        v.cpl = 0;
        v.cr0 = 0x6000_0010;
        v.cr2 = 0;
        v.cr3 = 0;
        v.cr4 = 0;
        v.efer = EFER_SVME;
        self.debug = [0; 4];
        v.dr6 = 0xffff_0ff0;
        v.dr7 = 0x400;
        v.interrupt_shadow = 0;
        v.event_injection = 0;
        v.vintr = vintr::MASKING;
        v.intercept_cr = INTERCEPT_CR4_WRITE;
        v.intercept_misc1 &= !(misc1::VINTR | misc1::IRET);
        self.in_nmi = false;
        self.dirty = clean::ALL;
        self.flush_tlb();
        if self.debug_loaded {
            self.load_debug_registers();
        }
    }
}

impl SvmCpu {
    /// If this CPU ran another vCPU last, what that one taught the branch predictors must not steer this one.
    fn forget_predictions(&self) {
        let number = self.number;
        let last = with_this_cpu(|slot| slot.as_mut().map(|p| core::mem::replace(&mut p.last_loaded, number)));
        if common().has_ibpb && last != Some(number) {
            // SAFETY: a write-only MSR that exists; the bit only discards predictions.
            unsafe { wrmsr(MSR_PRED_CMD, PRED_CMD_IBPB) };
        }
    }

    /// Brings the memory image up to date.
    fn save_fpu_if_loaded(&self) {
        if self.loaded {
            self.fpu.save(self.xcr0());
        }
    }

    fn restore_fpu(&mut self) {
        let guest = self.xcr0();
        self.fpu.restore(guest);
    }
}
