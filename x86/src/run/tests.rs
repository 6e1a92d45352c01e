//! Tests of what each exit does, on plain data: a guest of [`PlainCpu`]s with 256 KiB of RAM, in 64-bit mode with page
//! tables that map linear addresses one to one, and a few pages beyond RAM.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;

use radon_abi::errno::Errno;
use radon_abi::hvm::HVM_PARAM_TRIPLE_FAULT_REASON;
use radon_core::console::Console;
use radon_core::domain::{DomainList, DomainParts, Role};
use radon_core::frames::{FrameAllocator, FrameInfo, Order, Placement};
use radon_core::p2m::{GuestPhys, Kind as PageKind, P2m};
use radon_core::sched::{PolicyKind, Scheduler, ShutdownReason};
use radon_core::testing::TestMachine;
use radon_core::time::Timers;
use radon_core::types::{DomainId, Gfn, GuestPhysAddr, Mfn, NodeId, VcpuId};

use super::*;
use crate::cpuid::Kind;
use crate::devices::interrupt::Trigger;
use crate::devices::lapic::{Lapic, LapicConfig};
use crate::hwdom::{HardwareDevices, Targets};
use crate::msr::{MsrPolicy, MsrState, index as msr};
use crate::npt::Npt;
use crate::testing::{Asked, Done, PlainCpu, Zen, policy};
use crate::virt::{
    Control, Event, Exit, NestedFault, PortAccess, Segment, SegmentName, VirtualCpu, cr0, efer, gpr, rflags,
};

const MACHINE_FRAMES: u64 = 2048;
const RAM_FRAMES: u64 = 64;
const CODE: u64 = 0x8000;
pub(super) const DATA: u64 = 0xa000;
/// Guest-physical addresses without RAM, which the page tables map.
const HOLE: u64 = 0x40_0000;
const LAPIC: u64 = 0xfee0_0000;
/// Linear address of the local APIC's registers.
const LAPIC_LINEAR: u64 = 0x20_0000;
pub(super) const GUEST: DomainId = DomainId(1);
const DB: Event = Event::DB;
const DF: Event = Event::Exception { vector: 8, error_code: Some(0) };

pub(super) struct Rig {
    pub(super) sys: System,
    zen: &'static Zen,
    pub(super) domain: Arc<Domain>,
    asked: Arc<Mutex<Asked>>,
}

pub(super) fn rig() -> Rig {
    Rig::new(Role::Guest, 7)
}

impl Rig {
    /// A domain with two vCPUs; the first is about to execute what is at [`CODE`], at privilege level 0.
    fn new(role: Role, xcr0: u64) -> Rig {
        let machine = Arc::new(TestMachine::new(MACHINE_FRAMES, 1));
        let table: Vec<FrameInfo> = (0..MACHINE_FRAMES).map(|_| FrameInfo::absent()).collect();
        let frames = FrameAllocator::new(Box::leak(table.into_boxed_slice()), Mfn(0), 1);
        frames.add_region(Mfn(0), MACHINE_FRAMES, NodeId(0));
        let zen: &'static Zen = Box::leak(Box::default());
        let hv = Hypervisor {
            platform: Box::new(machine),
            frames,
            domains: DomainList::default(),
            scheduler: Scheduler::new(PolicyKind::Null, 1),
            timers: Timers::new(1),
            console: Console::default(),
            control: radon_core::control::Control::default(),
            watchdog: radon_core::watchdog::Watchdog::default(),
            trace: radon_core::trace::Trace::default(),
        };
        let sys = System { hv, machine: zen, router: Arc::new(Router::new(1)), forced: None };
        let hv = &sys.hv;
        let memory = hv.platform.memory();
        let npt = Npt::new(memory, &hv.frames, 48, Order::LARGE, u64::MAX).unwrap();
        let hardware = (role == Role::Hardware).then(|| {
            let targets = Targets::new(zen, sys.router.clone(), GUEST, 1);
            Box::new(HardwareDevices::new(targets, &[], Vec::new(), alloc::vec![(0x3f8, 0x3ff)], None))
        });
        let kind = if role == Role::Hardware { Kind::Dom0 } else { Kind::Default };
        let domain = Domain::new(DomainParts {
            id: GUEST,
            role,
            p2m: P2m::new(GUEST, Box::new(npt), 1, false),
            shared_info: hv.frames.alloc_special(memory, GUEST).unwrap(),
            arch: Box::new(X86Domain::new(1, policy(zen, kind, xcr0), hardware)),
        });
        hv.frames.account(GUEST).set_limit(2 * RAM_FRAMES);
        let mut batch = domain.p2m.unmapped(hv);
        for gfn in 0..RAM_FRAMES {
            let frame = hv.frames.alloc_domain(memory, GUEST, Order::PAGE, Placement::default()).unwrap();
            domain.p2m.add_ram(hv, Gfn(gfn), frame, &mut batch).unwrap();
        }
        drop(batch);
        let asked = Arc::new(Mutex::new(Asked::default()));
        let vcpu = |n: u32| {
            let mut cpu = PlainCpu::default();
            cpu.asked = asked.clone();
            cpu.reset();
            let lapic = Lapic::new(2 * n, n == 0, LapicConfig { x2apic: true, tsc_deadline: true });
            let msrs = MsrState::new(MsrPolicy { microcode: 1, cpuid_faulting: true, relaxed: false });
            Vcpu::new(&domain, VcpuId(n), Box::new(X86Vcpu::new(Box::new(cpu), lapic, msrs, n != 0)))
        };
        domain.set_vcpus((0..2).map(vcpu).collect());
        let apics = domain.vcpus().iter().filter_map(|v| X86Vcpu::of(v).map(|x| x.lapic.clone())).collect();
        X86Domain::of(&domain).unwrap().set_apics(apics);
        hv.domains.insert(domain.clone()).unwrap();
        hv.scheduler.bring_up(hv, &domain.vcpus()[0]);
        let mut rig = Rig { sys, zen, domain, asked };
        for (at, entry) in [(0x1000, 0x2007), (0x2000, 0x3007), (0x3000, 0x87), (0x3008, LAPIC | 0x87)] {
            rig.put(at, &u64::to_le_bytes(entry));
        }
        rig.put(0x3010, &u64::to_le_bytes(HOLE | 0x87));
        rig.put(0x3018, &u64::to_le_bytes((1 << 45) | 0x87));
        rig.cpu(|cpu| {
            let paging = cr0::PE | cr0::PG | cr0::ET;
            let long = efer::LME | efer::LMA | efer::NXE;
            cpu.set_control(&Control { cr0: paging, cr2: 0, cr3: 0x1000, cr4: 1 << 5 | 1 << 18, efer: long });
            cpu.set_segment(SegmentName::Cs, &Segment { selector: 8, attributes: 0xa9b, limit: u32::MAX, base: 0 });
            cpu.set_segment(SegmentName::Ss, &Segment { selector: 16, attributes: 0xc93, limit: u32::MAX, base: 0 });
            cpu.regs_mut().rip = CODE;
            cpu.regs_mut().rflags = rflags::FIXED;
        });
        rig
    }

    pub(super) fn put(&self, at: u64, bytes: &[u8]) {
        GuestPhys::new(&self.sys.hv, &self.domain.p2m).write(GuestPhysAddr(at), bytes).unwrap();
    }

    fn arch(&self) -> &X86Vcpu {
        X86Vcpu::of(&self.domain.vcpus()[0]).unwrap()
    }

    pub(super) fn cpu<R>(&mut self, f: impl FnOnce(&mut dyn VirtualCpu) -> R) -> R {
        f(&mut *self.arch().state.lock().cpu)
    }

    /// The first vCPU becomes a [`PlainCpu`] as `change` makes it, in its present state.
    fn plain(&mut self, change: impl FnOnce(&mut PlainCpu)) {
        let asked = self.asked.clone();
        let mut new = PlainCpu::default();
        new.asked = asked;
        new.reset();
        self.cpu(|old| {
            new.set_control(&old.control());
            for name in [SegmentName::Cs, SegmentName::Ss] {
                new.set_segment(name, &old.segment(name));
            }
            *new.regs_mut() = *old.regs();
        });
        change(&mut new);
        self.arch().state.lock().cpu = Box::new(new);
    }

    fn cx<R>(&self, f: impl FnOnce(&mut Cx<'_>) -> R) -> R {
        let vcpu = &self.domain.vcpus()[0];
        let arch = self.arch();
        let mut state = arch.state.lock();
        let x86 = X86Domain::of(&self.domain).unwrap();
        f(&mut Cx { sys: &self.sys, cpu: CpuId(0), domain: &self.domain, x86, vcpu, arch, state: &mut state })
    }

    /// The exit that the instruction `code` causes, at [`CODE`].
    pub(super) fn exit(&mut self, code: &[u8], exit: Exit) {
        self.put(CODE, code);
        self.cpu(|cpu| {
            cpu.regs_mut().rip = CODE;
            cpu.clear_interrupt_shadow();
        });
        self.cx(|cx| cx.handle(exit));
    }

    pub(super) fn user(&mut self) {
        let ss = Segment { selector: 0x2b, attributes: 0xcf3, limit: u32::MAX, base: 0 };
        self.cpu(|cpu| cpu.set_segment(SegmentName::Ss, &ss));
    }

    pub(super) fn reg(&mut self, n: usize) -> u64 {
        self.cpu(|cpu| cpu.regs().get(n))
    }

    pub(super) fn set(&mut self, n: usize, value: u64) {
        self.cpu(|cpu| cpu.regs_mut().set(n, value));
    }

    /// How far RIP is past [`CODE`].
    pub(super) fn moved(&mut self) -> u64 {
        self.cpu(|cpu| cpu.regs().rip.wrapping_sub(CODE))
    }

    /// What is set up for delivery, which is thereby forgotten.
    pub(super) fn event(&mut self) -> Option<Event> {
        let event = self.cpu(|cpu| cpu.pending_event());
        self.plain(|_| {});
        event
    }

    pub(super) fn done(&self) -> Vec<Done> {
        core::mem::take(&mut *self.zen.done.lock())
    }

    fn shutdown(&self) -> Option<u32> {
        self.domain.shutdown_reason()
    }
}

const CPUID: &[u8] = &[0x0f, 0xa2];
const VMMCALL: &[u8] = &[0x0f, 0x01, 0xd9];
const RDMSR: &[u8] = &[0x0f, 0x32];
const WRMSR: &[u8] = &[0x0f, 0x30];
const XSETBV: &[u8] = &[0x0f, 0x01, 0xd1];

fn fault(gpa: u64) -> NestedFault {
    NestedFault { gpa, write: false, fetch: false, present: false, table_walk: false }
}

#[test]
fn cpuid_answers_from_the_policy() {
    let mut rig = rig();
    rig.set(gpr::RAX, 0xffff_ffff_4000_0000);
    rig.exit(CPUID, Exit::Cpuid);
    assert_eq!((rig.reg(gpr::RAX), rig.reg(gpr::RBX), rig.moved()), (0x4000_0005, 0x566e_6558, 2));
    // With prefixes, and in user mode.
    rig.user();
    rig.set(gpr::RAX, 0x4000_0000);
    rig.exit(&[0x66, 0x48, 0x0f, 0xa2], Exit::Cpuid);
    assert_eq!((rig.reg(gpr::RCX), rig.moved()), (0x6558_4d4d, 4));
}

#[test]
fn cpuid_faults_in_user_mode_if_the_kernel_wants_it() {
    let mut rig = rig();
    rig.set(gpr::RCX, u64::from(msr::MISC_FEATURES_ENABLES));
    rig.set(gpr::RAX, 1);
    rig.set(gpr::RDX, 0);
    rig.exit(WRMSR, Exit::Wrmsr);
    assert_eq!(rig.event(), None);
    rig.exit(CPUID, Exit::Cpuid);
    assert_eq!((rig.event(), rig.moved()), (None, 2));
    rig.user();
    rig.exit(CPUID, Exit::Cpuid);
    assert_eq!((rig.event(), rig.moved()), (Some(Event::GP), 0));
}

#[test]
fn msrs() {
    let mut rig = rig();
    rig.set(gpr::RCX, u64::from(msr::PATCH_LEVEL));
    rig.set(gpr::RDX, u64::MAX);
    rig.exit(RDMSR, Exit::Rdmsr);
    assert_eq!((rig.reg(gpr::RAX), rig.reg(gpr::RDX), rig.moved()), (1, 0, 2));
    for unknown in [0xc001_0114_u64, 0x10a, 0xffff_ffff] {
        rig.set(gpr::RCX, unknown);
        for (code, exit) in [(RDMSR, Exit::Rdmsr), (WRMSR, Exit::Wrmsr)] {
            rig.exit(code, exit);
            assert_eq!((rig.event(), rig.moved()), (Some(Event::GP), 0), "{unknown:#x} {exit:?}");
        }
    }
    // PRED_CMD reaches the machine, SPEC_CTRL the processor.
    rig.set(gpr::RCX, u64::from(msr::PRED_CMD));
    rig.set(gpr::RAX, 1);
    rig.set(gpr::RDX, 0);
    rig.exit(WRMSR, Exit::Wrmsr);
    assert_eq!(rig.done(), [Done::PredictionBarrier(1)]);
    rig.set(gpr::RCX, u64::from(msr::SPEC_CTRL));
    rig.exit(WRMSR, Exit::Wrmsr);
    assert_eq!(rig.asked.lock().spec_ctrl, Some(1));
}

#[test]
fn ports_of_a_guest_are_empty() {
    let mut rig = rig();
    rig.set(gpr::RAX, 0x1111_2222_3333_4444);
    rig.set(gpr::RDX, 0x70);
    let port = |size, write| Exit::Port(PortAccess { port: 0x70, size, write, string: false });
    for (code, size, expected) in [
        (&[0xec][..], 1, 0x1111_2222_3333_44ff),
        (&[0x66, 0xed], 2, 0x1111_2222_3333_ffff),
        (&[0xed], 4, 0xffff_ffff),
        (&[0xe4, 0x70], 1, 0xffff_ffff),
    ] {
        rig.exit(code, port(size, false));
        assert_eq!((rig.reg(gpr::RAX), rig.moved()), (expected, code.len() as u64));
    }
    rig.exit(&[0xee], port(1, true));
    assert_eq!(rig.moved(), 1);
    assert_eq!(rig.done(), []);
}

#[test]
fn the_hardware_domain_has_the_machine_s_ports() {
    let mut rig = Rig::new(Role::Hardware, 7);
    rig.set(gpr::RAX, u64::MAX);
    rig.exit(&[0xe5, 0x80], Exit::Port(PortAccess { port: 0x80, size: 4, write: false, string: false }));
    assert_eq!(rig.reg(gpr::RAX), 0x1234_5678);
    rig.exit(&[0xe6, 0x80], Exit::Port(PortAccess { port: 0x80, size: 1, write: true, string: false }));
    rig.exit(&[0xee], Exit::Port(PortAccess { port: 0x3f8, size: 1, write: true, string: false }));
    assert_eq!(rig.done(), [Done::In(0x80, 4), Done::Out(0x80, 1, 0x78)], "Radon's own serial port is not reached");
}

#[test]
fn string_ports_read_and_write_memory() {
    let mut rig = Rig::new(Role::Hardware, 7);
    rig.put(DATA, &[1, 2, 3, 4]);
    rig.set(gpr::RSI, DATA);
    rig.set(gpr::RDX, 0x80);
    rig.set(gpr::RCX, 4);
    let string = |size, write| Exit::Port(PortAccess { port: 0x80, size, write, string: true });
    rig.exit(&[0xf3, 0x6e], string(1, true)); // REP OUTSB
    assert_eq!(rig.done(), [1, 2, 3, 4].map(|v| Done::Out(0x80, 1, v)));
    assert_eq!((rig.reg(gpr::RSI), rig.reg(gpr::RCX), rig.moved()), (DATA + 4, 0, 2));
    rig.set(gpr::RDI, DATA + 8);
    rig.exit(&[0x6d], string(4, false)); // INSD
    let mut read = [0; 4];
    GuestPhys::new(&rig.sys.hv, &rig.domain.p2m).read(GuestPhysAddr(DATA + 8), &mut read).unwrap();
    assert_eq!((u32::from_le_bytes(read), rig.reg(gpr::RDI)), (0x1234_5678, DATA + 12));
    // A page that is not mapped in the guest is the guest's fault.
    rig.set(gpr::RSI, 0x80_0000);
    rig.exit(&[0x6e], string(1, true));
    let page_fault = Event::Exception { vector: 14, error_code: Some(0) };
    assert_eq!((rig.event(), rig.moved()), (Some(page_fault), 0));
}

#[test]
fn hlt_waits_or_ends() {
    let mut rig = rig();
    rig.cpu(|cpu| cpu.regs_mut().rflags |= rflags::IF);
    rig.exit(&[0xf4], Exit::Halt);
    assert_eq!(rig.moved(), 1);
    let unit = |rig: &Rig| rig.domain.vcpus()[0].sched.unit.clone();
    assert!(unit(&rig).is_blocked() && !unit(&rig).is_down());
    // With interrupts off nothing ends it; the last processor takes the domain with it.
    let mut rig = self::rig();
    rig.exit(&[0xf4], Exit::Halt);
    assert!(unit(&rig).is_down());
    assert_eq!(rig.shutdown(), Some(ShutdownReason::PowerOff as u32));
}

#[test]
fn hypercalls() {
    let mut rig = rig();
    // xen_version(XENVER_version).
    rig.set(gpr::RAX, 17);
    rig.set(gpr::RDI, 0);
    rig.exit(VMMCALL, Exit::Hypercall);
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (4 << 16 | 17, 3));
    rig.set(gpr::RAX, 63);
    rig.exit(VMMCALL, Exit::Hypercall);
    assert_eq!(rig.reg(gpr::RAX) as i64, Errno::ENOSYS.to_return());
    // User mode makes none.
    rig.user();
    rig.set(gpr::RAX, 17);
    rig.exit(VMMCALL, Exit::Hypercall);
    assert_eq!((rig.reg(gpr::RAX) as i64, rig.moved()), (Errno::EPERM.to_return(), 3));
    assert_eq!((rig.event(), rig.shutdown()), (None, None));
}

/// A vCPU does not sleep over an interrupt that came to its APIC before, unless it has interrupts off.
#[test]
fn a_block_over_a_waiting_interrupt() {
    for interrupts in [false, true] {
        let mut rig = rig();
        rig.cx(|cx| {
            let effect = cx.state.lapic.mmio_write(0xf0, 4, 0x1ff, Nanoseconds(0));
            cx.lapic_effect(effect);
        });
        rig.arch().lapic.post(0x41, Trigger::Edge);
        if interrupts {
            rig.cpu(|cpu| cpu.regs_mut().rflags |= rflags::IF);
        }
        // sched_op(SCHEDOP_block).
        rig.set(gpr::RAX, 29);
        rig.set(gpr::RDI, 1);
        rig.exit(VMMCALL, Exit::Hypercall);
        assert_eq!(rig.reg(gpr::RAX), 0);
        assert_eq!(rig.domain.vcpus()[0].sched.unit.is_blocked(), !interrupts);
    }
}

#[test]
fn xsetbv_checks_its_value() {
    let mut rig = Rig::new(Role::Guest, 0x2e7);
    rig.set(gpr::RCX, 0);
    rig.set(gpr::RDX, 0);
    // No x87; AVX without SSE; parts of AVX-512, which a processor refuses; what is not there.
    for bad in [0_u64, 2, 5, 0x23, 0x27, 0x47, 0x67, 0xe3, 0x407, 0x1_0000_0007, 1 << 63 | 7] {
        rig.set(gpr::RAX, bad & 0xffff_ffff);
        rig.set(gpr::RDX, bad >> 32);
        rig.exit(XSETBV, Exit::Xsetbv);
        assert_eq!((rig.event(), rig.moved()), (Some(Event::GP), 0), "{bad:#x}");
    }
    rig.set(gpr::RDX, 0);
    for good in [1, 3, 7, 0xe7, 0x207] {
        rig.set(gpr::RAX, good);
        rig.exit(XSETBV, Exit::Xsetbv);
        assert_eq!((rig.cpu(|c| c.pending_event()), rig.cpu(|c| c.xcr0())), (None, good));
    }
    rig.set(gpr::RCX, 1);
    rig.exit(XSETBV, Exit::Xsetbv);
    assert_eq!(rig.event(), Some(Event::GP), "there is no XCR1");
    rig.set(gpr::RCX, 0);
    rig.user();
    rig.exit(XSETBV, Exit::Xsetbv);
    assert_eq!(rig.event(), Some(Event::GP), "user mode");
    rig.cpu(|cpu| {
        let control = cpu.control();
        cpu.set_control(&Control { cr4: control.cr4 & !(1 << 18), ..control });
    });
    rig.exit(XSETBV, Exit::Xsetbv);
    assert_eq!(rig.event(), Some(Event::UD), "CR4.OSXSAVE is clear");
}

#[test]
fn an_emulated_device_is_reached_through_memory() {
    let mut rig = rig();
    rig.set(gpr::RBX, LAPIC_LINEAR);
    rig.set(gpr::RAX, 0x1ff);
    // mov [rbx + 0xf0], eax: the spurious vector register.
    rig.exit(&[0x89, 0x83, 0xf0, 0, 0, 0], Exit::NestedFault(NestedFault { write: true, ..fault(LAPIC + 0xf0) }));
    assert_eq!((rig.event(), rig.moved()), (None, 6));
    rig.exit(&[0x8b, 0x8b, 0xf0, 0, 0, 0], Exit::NestedFault(fault(LAPIC + 0xf0))); // mov ecx, [rbx + 0xf0]
    assert_eq!(rig.reg(gpr::RCX), 0x1ff);
}

#[test]
fn nothing_reads_as_ones() {
    let mut rig = rig();
    rig.set(gpr::RBX, HOLE + 0x10);
    rig.exit(&[0x8b, 0x03], Exit::NestedFault(fault(HOLE + 0x10))); // mov eax, [rbx]
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (0xffff_ffff, 2));
    rig.exit(&[0x89, 0x03], Exit::NestedFault(NestedFault { write: true, ..fault(HOLE + 0x10) }));
    assert_eq!((rig.event(), rig.moved(), rig.shutdown()), (None, 2, None));
}

/// Whatever a user program does to memory that is not RAM, its kernel goes on.
#[test]
fn what_cannot_be_emulated_is_the_program_s_fault() {
    let mut rig = rig();
    rig.user();
    let mut refused = 0;
    for gpa in [HOLE, 1 << 45] {
        // The linear address of the far page is that of its entry.
        rig.set(gpr::RBX, if gpa == HOLE { HOLE } else { 0x60_0000 });
        for code in [
            &[0x0f, 0xae, 0x03][..],         // FXSAVE
            &[0xdd, 0x03],                   // FLD
            &[0x0f, 0xc7, 0x0b],             // CMPXCHG8B
            &[0xf0, 0x48, 0x0f, 0xc7, 0x0b], // LOCK CMPXCHG16B
            &[0x62, 0xf1, 0x7c, 0x48, 0x10, 0x03],
            &[0xf3, 0x0f, 0xae, 0x03],
            &[0x8c, 0x03],
            &[0xff, 0x13],
        ] {
            rig.exit(code, Exit::NestedFault(fault(gpa)));
            let event = rig.event();
            refused += u32::from(event == Some(Event::GP));
            assert!(
                matches!(event, None | Some(Event::Exception { vector: 6 | 13 | 7, .. })),
                "{code:x?} at {gpa:#x}: {event:?}"
            );
        }
        assert_eq!(rig.shutdown(), None);
    }
    assert!(refused > 0, "the emulator can do all of them: the test shows nothing");
    // An instruction that another thread has changed meanwhile.
    rig.exit(&[0x90], Exit::Cpuid);
    assert_eq!((rig.event(), rig.moved()), (None, 0), "executed again");
    assert_eq!(rig.shutdown(), None);
}

#[test]
fn code_outside_of_ram_faults() {
    let mut rig = rig();
    rig.user();
    let fetch = NestedFault { fetch: true, ..fault(HOLE) };
    rig.cpu(|cpu| cpu.regs_mut().rip = HOLE);
    rig.cx(|cx| cx.handle(Exit::NestedFault(fetch)));
    assert_eq!((rig.event(), rig.cpu(|c| c.regs().rip)), (Some(Event::GP), HOLE));
    // If memory has come there since, it is executed.
    rig.cx(|cx| cx.handle(Exit::NestedFault(NestedFault { gpa: CODE, ..fetch })));
    assert_eq!((rig.event(), rig.shutdown()), (None, None));
}

#[test]
fn a_granted_page_cannot_be_written_or_executed() {
    let mut rig = rig();
    let hv = &rig.sys.hv;
    let memory = hv.platform.memory();
    let other = hv.frames.alloc_domain(memory, GUEST, Order::PAGE, Placement::default()).unwrap();
    drop(other);
    let root = rig.domain.p2m.table();
    let entry = radon_core::p2m::Entry { kind: PageKind::GrantRo, mfn: Mfn(5) };
    root.set(memory, &hv.frames, Gfn(HOLE >> 12), Order::PAGE, entry).unwrap();
    rig.set(gpr::RBX, HOLE);
    let write = NestedFault { write: true, present: true, ..fault(HOLE) };
    rig.exit(&[0x89, 0x03], Exit::NestedFault(write));
    assert_eq!((rig.event(), rig.moved()), (Some(Event::GP), 0));
    let fetch = NestedFault { fetch: true, present: true, ..fault(HOLE) };
    rig.exit(&[0x90], Exit::NestedFault(fetch));
    assert_eq!(rig.event(), Some(Event::GP));
}

/// The instruction at RIP has nothing to do with a fault met in the delivery of an event: it is not executed.
#[test]
fn a_fault_in_a_delivery_does_not_execute_the_next_instruction() {
    let mut rig = rig();
    rig.set(gpr::RBX, LAPIC_LINEAR);
    for (pending, result) in [
        (Event::Interrupt(0x40), Event::GP),
        (Event::Nmi, Event::GP),
        (Event::GP, DF),
        (Event::Exception { vector: 14, error_code: Some(0) }, DF),
    ] {
        rig.cpu(|cpu| cpu.inject(pending));
        rig.exit(&[0x8b, 0x43, 0x20], Exit::NestedFault(NestedFault { write: true, ..fault(HOLE) }));
        assert_eq!((rig.event(), rig.moved()), (Some(result), 0), "{pending:?}");
    }
    assert_eq!(rig.shutdown(), None);
    rig.cpu(|cpu| cpu.inject(DF));
    rig.exit(&[0x90], Exit::NestedFault(fault(HOLE)));
    assert_eq!(rig.shutdown(), Some(ShutdownReason::Reboot as u32), "a triple fault");
}

#[test]
fn device_memory_is_mapped_when_it_is_touched() {
    let mut rig = Rig::new(Role::Hardware, 7);
    rig.set(gpr::RBX, HOLE);
    let at = (MACHINE_FRAMES + 3) << 12;
    for fetch in [false, true] {
        rig.exit(&[0x90], Exit::NestedFault(NestedFault { fetch, ..fault(at) }));
        assert_eq!((rig.event(), rig.moved()), (None, 0), "to be executed again");
    }
    let lookup = rig.domain.p2m.query(&rig.sys.hv, Gfn(at >> 12));
    assert_eq!((lookup.entry.kind, lookup.entry.mfn), (PageKind::Mmio, Mfn(at >> 12)));
    // RAM of others is not.
    rig.exit(&[0x8b, 0x03], Exit::NestedFault(fault(HOLE)));
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (0xffff_ffff, 2));
    assert_eq!(rig.domain.p2m.query(&rig.sys.hv, Gfn(HOLE >> 12)).entry.kind, PageKind::Hole);
}

#[test]
fn debug_and_alignment_exceptions_are_handed_on() {
    let mut rig = rig();
    let ac = Event::Exception { vector: 17, error_code: Some(0) };
    for event in [DB, ac] {
        rig.exit(&[0x90], Exit::Exception(event));
        assert_eq!((rig.event(), rig.moved()), (Some(event), 0));
        rig.cpu(|cpu| cpu.inject(Event::Interrupt(0x40)));
        rig.exit(&[0x90], Exit::Exception(event));
        assert_eq!(rig.event(), Some(event), "not a double fault");
    }
    rig.exit(&[0x90], Exit::DebugRegister);
    assert_eq!((rig.event(), rig.moved()), (None, 0));
    // INT1 is over when its #DB comes.
    rig.exit(&[0xf1], Exit::Icebp);
    assert_eq!((rig.cpu(|c| c.pending_event()), rig.moved()), (Some(DB), 1));
}

#[test]
fn single_step_follows_an_emulated_instruction() {
    let mut rig = rig();
    rig.cpu(|cpu| cpu.regs_mut().rflags |= rflags::TF | rflags::RF);
    rig.exit(CPUID, Exit::Cpuid);
    assert_eq!((rig.moved(), rig.cpu(|c| c.debug_registers()[4]) & 1 << 14), (2, 1 << 14));
    assert_eq!(rig.cpu(|c| c.regs().rflags) & rflags::RF, 0);
    assert_eq!(rig.event(), Some(DB));
}

#[test]
fn rip_stays_within_32_bits_in_32_bit_code() {
    let mut rig = rig();
    rig.put(0x3000, &u64::to_le_bytes(0x87));
    // The last page below 4 GiB, mapped to the code's: 3, 0x1ff, 0x1ff.
    rig.put(0x2018, &u64::to_le_bytes(0x4007));
    rig.put(0x4ff8, &u64::to_le_bytes(0x5007));
    rig.put(0x5ff8, &u64::to_le_bytes(0x8007));
    rig.put(0x8ffe, CPUID);
    rig.cpu(|cpu| {
        cpu.set_segment(SegmentName::Cs, &Segment { selector: 8, attributes: 0xc9b, limit: u32::MAX, base: 0 });
        cpu.regs_mut().rip = 0xffff_fffe;
    });
    rig.cx(|cx| cx.handle(Exit::Cpuid));
    assert_eq!((rig.event(), rig.cpu(|c| c.regs().rip)), (None, 0));
}

#[test]
fn instructions_that_guests_do_not_have() {
    let mut rig = rig();
    // VMRUN, VMLOAD, ..., MONITOR, MWAIT, RDPRU; then RDPMC.
    for (exit, event) in [(Exit::Undefined, Event::UD), (Exit::Protected, Event::GP)] {
        rig.exit(&[0x0f, 0x01, 0xd8], exit);
        assert_eq!((rig.event(), rig.moved()), (Some(event), 0));
    }
}

#[test]
fn cache_flushes_are_the_hardware_domain_s() {
    for (role, expected) in [(Role::Guest, &[][..]), (Role::Hardware, &[Done::FlushCaches])] {
        let mut rig = Rig::new(role, 7);
        for code in [&[0x0f, 0x08][..], &[0x0f, 0x09], &[0xf3, 0x0f, 0x09]] {
            rig.exit(code, Exit::CacheFlush);
            assert_eq!((rig.done(), rig.moved()), (expected.to_vec(), code.len() as u64));
        }
    }
}

#[test]
fn a_triple_fault_does_what_the_toolstack_chose() {
    let mut rig = rig();
    rig.exit(&[0x90], Exit::Shutdown);
    assert_eq!(rig.shutdown(), Some(ShutdownReason::Reboot as u32));
    let mut rig = self::rig();
    rig.domain.hvm_params.lock()[HVM_PARAM_TRIPLE_FAULT_REASON as usize] = ShutdownReason::Crash as u64;
    rig.exit(&[0x90], Exit::Shutdown);
    assert_eq!(rig.shutdown(), Some(ShutdownReason::Crash as u32));
}

#[test]
#[should_panic(expected = "Reboot")]
fn a_triple_fault_of_the_hardware_domain_restarts_the_machine() {
    Rig::new(Role::Hardware, 7).exit(&[0x90], Exit::Shutdown);
}

#[test]
fn an_impossible_exit_crashes_the_domain_alone() {
    let mut rig = rig();
    rig.exit(&[0x90], Exit::Failed(u64::MAX));
    assert_eq!(rig.shutdown(), Some(ShutdownReason::Crash as u32));
}

#[test]
fn physical_interrupts_are_taken() {
    let mut rig = rig();
    rig.exit(&[0x90], Exit::Interrupt);
    assert_eq!((rig.done(), rig.moved()), ([Done::PollInterrupts].to_vec(), 0));
}

#[test]
fn nmis_come_once_and_ask_for_their_window() {
    let mut rig = rig();
    rig.arch().nmi_pending.store(true, core::sync::atomic::Ordering::Release);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().nmi_windows), (None, 1));
    rig.plain(|cpu| cpu.takes_nmi = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().nmi_windows), (Some(Event::Nmi), 1));
    rig.plain(|cpu| cpu.takes_nmi = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().nmi_windows), (None, 1));
}

#[test]
fn interrupts_come_by_priority() {
    let mut rig = rig();
    let raise = |rig: &Rig, vector| {
        rig.arch().lapic.post(vector, Trigger::Edge);
    };
    rig.set(gpr::RBX, LAPIC_LINEAR);
    rig.set(gpr::RAX, 0x1ff);
    rig.exit(&[0x89, 0x83, 0xf0, 0, 0, 0], Exit::NestedFault(NestedFault { write: true, ..fault(LAPIC + 0xf0) }));
    raise(&rig, 0x41);
    raise(&rig, 0x62);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().windows.clone()), (None, [6].to_vec()));
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!(rig.event(), Some(Event::Interrupt(0x62)));
    // The other one is of lower class than what is in service.
    assert_eq!(rig.asked.lock().windows.len(), 1);
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!(rig.event(), None);
}

#[test]
fn a_round_delivers_runs_and_handles() {
    let mut rig = rig();
    rig.put(CODE, CPUID);
    rig.arch().nmi_pending.store(true, core::sync::atomic::Ordering::Release);
    rig.plain(|cpu| {
        cpu.takes_nmi = true;
        cpu.exits = VecDeque::from([Exit::Cpuid, Exit::Interrupt]);
    });
    rig.cx(|cx| cx.enter_once());
    assert_eq!((rig.moved(), rig.cpu(|c| c.pending_event())), (2, None));
    rig.cx(|cx| cx.enter_once());
    assert_eq!((rig.moved(), rig.done()), (2, [Done::PollInterrupts].to_vec()));
}

#[test]
fn an_interrupt_below_the_task_priority_comes_when_that_falls() {
    let mut rig = rig();
    rig.set(gpr::RBX, LAPIC_LINEAR);
    rig.set(gpr::RAX, 0x1ff);
    rig.exit(&[0x89, 0x83, 0xf0, 0, 0, 0], Exit::NestedFault(NestedFault { write: true, ..fault(LAPIC + 0xf0) }));
    let cr8 = |rig: &mut Rig, priority| {
        rig.set(gpr::RAX, priority);
        rig.exit(&[0x44, 0x0f, 0x22, 0xc0], Exit::TaskPriority); // mov cr8, rax
        assert_eq!((rig.moved(), rig.cpu(|c| c.tpr())), (4, priority as u8));
    };
    cr8(&mut rig, 6);
    rig.arch().lapic.post(0x62, Trigger::Edge);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().watches), (None, 1));
    cr8(&mut rig, 5);
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!((rig.event(), rig.asked.lock().watches), (Some(Event::Interrupt(0x62)), 1));
    // A priority that a kernel sets once and for all is not watched.
    cr8(&mut rig, 1);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!(rig.asked.lock().watches, 1);
}

/// The register in the APIC's page is CR8, too.
#[test]
fn the_task_priority_is_written_through_memory() {
    let mut rig = rig();
    rig.set(gpr::RBX, LAPIC_LINEAR);
    for priority in [0x60, 0x10] {
        rig.set(gpr::RAX, priority);
        rig.exit(&[0x89, 0x83, 0x80, 0, 0, 0], Exit::NestedFault(NestedFault { write: true, ..fault(LAPIC + 0x80) }));
        let tprs = (rig.cpu(|c| c.tpr()), rig.cx(|cx| cx.state.lapic.tpr()));
        assert_eq!(tprs, (priority as u8 >> 4, priority as u8));
    }
}

#[test]
fn cr4_holds_only_what_cpuid_shows() {
    let mut rig = rig();
    let write = |rig: &mut Rig, value| {
        rig.set(gpr::RAX, value);
        rig.exit(&[0x0f, 0x22, 0xe0], Exit::ControlRegister); // mov cr4, rax
        (rig.event(), rig.moved(), rig.cpu(|c| c.cr4()))
    };
    let before = rig.cpu(|c| c.cr4());
    assert_eq!(write(&mut rig, before | 1 << 7), (None, 3, before | 1 << 7));
    // VMXE is another maker's, 5-level paging and control-flow enforcement are shown to nobody.
    for bit in [13, 12, 23, 40] {
        assert_eq!(write(&mut rig, before | 1 << bit), (Some(Event::GP), 0, before | 1 << 7), "{bit}");
    }
    rig.user();
    assert_eq!(write(&mut rig, before).0, Some(Event::GP));
}

#[test]
fn a_guest_in_32_bit_mode_gets_that_layout() {
    let mut rig = rig();
    let page = 0xc000;
    let set_page = |rig: &mut Rig| {
        rig.set(gpr::RCX, 0x4000_0000);
        rig.set(gpr::RAX, page);
        rig.set(gpr::RDX, 0);
        rig.exit(WRMSR, Exit::Wrmsr);
        assert_eq!(rig.moved(), 2);
    };
    set_page(&mut rig);
    assert!(!rig.domain.events.is_compat());
    rig.cpu(|cpu| {
        cpu.set_segment(SegmentName::Cs, &Segment { selector: 8, attributes: 0xc9b, limit: u32::MAX, base: 0 });
    });
    set_page(&mut rig);
    assert!(rig.domain.events.is_compat());
    // A structure of both kinds, in 32-bit registers: what is above them does not count.
    let at = 0xb000;
    rig.put(at, &radon_abi::xen::DOMID_SELF.to_le_bytes());
    rig.set(gpr::RAX, 12);
    rig.set(gpr::RBX, 1 << 40 | u64::from(radon_abi::memory::XENMEM_MAXIMUM_GPFN));
    rig.set(gpr::RCX, 1 << 40 | at);
    rig.exit(VMMCALL, Exit::Hypercall);
    assert_eq!((rig.reg(gpr::RAX), rig.moved()), (RAM_FRAMES - 1, 3));
    rig.set(gpr::RAX, 12);
    rig.set(gpr::RBX, u64::from(radon_abi::memory::XENMEM_ADD_TO_PHYSMAP));
    rig.set(gpr::RCX, 0xb000);
    let request = [u32::from(radon_abi::xen::DOMID_SELF), radon_abi::memory::XENMAPSPACE_SHARED_INFO, 0, 0x20];
    for (n, word) in request.into_iter().enumerate() {
        rig.put(0xb000 + 4 * n as u64, &word.to_le_bytes());
    }
    rig.exit(VMMCALL, Exit::Hypercall);
    assert_eq!(rig.reg(gpr::RAX), 0);
    let kind = rig.domain.p2m.query(&rig.sys.hv, Gfn(0x20)).entry.kind;
    assert_eq!(kind, PageKind::Special);
}

#[test]
fn upcalls_come_by_the_domain_s_vector_or_the_vcpu_s_own() {
    use radon_core::platform::{ArchDomain, ArchVcpu};
    let mut rig = rig();
    let x86 = X86Domain::of(&rig.domain).unwrap();
    x86.set_callback_via((2 << 56) | 0xf3).unwrap();
    let info = rig.domain.vcpus()[0].events.info().unwrap();
    rig.sys.hv.platform.memory().fetch_or_u8(info, 1);
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(|cx| cx.prepare_delivery());
    assert_eq!(rig.event(), Some(Event::Interrupt(0xf3)));
    // From now on only an edge counts, as of any message to the local APIC; one that it does not take yet waits.
    rig.arch().set_upcall_vector(0x50).unwrap();
    let deliver = |cx: &mut Cx<'_>| {
        cx.take_signals();
        cx.prepare_delivery();
    };
    rig.arch().raise_upcall();
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(deliver);
    assert_eq!(rig.event(), None);
    rig.cx(|cx| {
        let effect = cx.state.lapic.mmio_write(0xf0, 4, 0x1ff, Nanoseconds(0));
        cx.lapic_effect(effect);
    });
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(deliver);
    assert_eq!(rig.event(), Some(Event::Interrupt(0x50)));
    let _ = rig.cx(|cx| cx.state.lapic.mmio_write(0xb0, 4, 0, Nanoseconds(0)));
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(deliver);
    assert_eq!(rig.event(), None);
    rig.arch().raise_upcall();
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(deliver);
    assert_eq!(rig.event(), Some(Event::Interrupt(0x50)));
}

/// What the local APIC has waits behind an upcall, and comes when that is handled.
#[test]
fn an_interrupt_behind_an_upcall() {
    use radon_core::platform::ArchDomain;
    let mut rig = rig();
    X86Domain::of(&rig.domain).unwrap().set_callback_via((2 << 56) | 0xf3).unwrap();
    let info = rig.domain.vcpus()[0].events.info().unwrap();
    rig.sys.hv.platform.memory().fetch_or_u8(info, 1);
    rig.plain(|cpu| cpu.takes_interrupt = true);
    rig.cx(|cx| {
        let effect = cx.state.lapic.mmio_write(0xf0, 4, 0x1ff, Nanoseconds(0));
        cx.lapic_effect(effect);
    });
    rig.arch().lapic.post(0x41, Trigger::Edge);
    rig.cx(|cx| {
        cx.take_signals();
        cx.prepare_delivery();
    });
    assert_eq!((rig.event(), rig.asked.lock().windows.clone()), (Some(Event::Interrupt(0xf3)), [4].to_vec()));
}
