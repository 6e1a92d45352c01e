//! What the simulator and the hypervisor under it both use: the hypervisor itself, and where each CPU is in its loop.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use radon_abi::domctl::XEN_X86_EMU_LAPIC;
use radon_core::console::Console;
use radon_core::control::Control;
use radon_core::domain::{Domain, DomainList, DomainParts, Role};
use radon_core::frames::{FrameAllocator, Order, Placement};
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::P2m;
use radon_core::sched::{PolicyKind, Scheduler};
use radon_core::time::Timers;
use radon_core::types::{CpuId, DomainId, Gfn, Mfn, NodeId, VcpuId};
use radon_core::vcpu::Vcpu;
use radon_core::watchdog::Watchdog;
use radon_x86::cpuid::{Kind, apic_id};
use radon_x86::devices::lapic::{Lapic, LapicConfig};
use radon_x86::domain::X86Domain;
use radon_x86::factory::{Parts, X86Factory};
use radon_x86::hwdom::{HardwareDevices, Targets};
use radon_x86::irq::Router;
use radon_x86::machine::DirectAccess;
use radon_x86::msr::{MsrPolicy, MsrState};
use radon_x86::npt::Npt;
use radon_x86::run::{Stepper, System};
use radon_x86::testing::Zen;
use radon_x86::testing::policy;
use radon_x86::vcpu::X86Vcpu;

use crate::config::Config;
use crate::machine::{FRAMES, Handle, SimMachine};

/// The control domain.
pub const DOM0: DomainId = DomainId(0);
/// Flags that a domain's emulated devices need.
pub const EMULATION: u32 = XEN_X86_EMU_LAPIC;
/// Times that a CPU may look whether another has done something, before it counts as waiting for ever.
const PATIENCE: u32 = 10_000;

/// The hypervisor and its CPUs.
pub struct Shared {
    /// The hypervisor.
    pub sys: System,
    /// The machine.
    pub machine: &'static SimMachine,
    /// Where each CPU is in its loop. Borrowed while the CPU is in the midst of a step.
    pub cpus: Vec<RefCell<Stepper>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Shared>>> = const { RefCell::new(None) };
    static WAITED: RefCell<u32> = const { RefCell::new(0) };
}

/// A CPU waits for others: those that are to schedule do so.
#[allow(clippy::panic, reason = "the simulator catches it")]
pub fn relax() {
    let Some(shared) = CURRENT.with_borrow(Clone::clone) else { return };
    let waited = WAITED.with_borrow_mut(|w| {
        *w += 1;
        *w
    });
    if waited > PATIENCE {
        panic!("a CPU waits for ever for another");
    }
    let me = shared.machine.become_cpu(0);
    for (cpu, stepper) in (0..).zip(&shared.cpus) {
        let Ok(mut stepper) = stepper.try_borrow_mut() else { continue };
        shared.machine.become_cpu(cpu);
        if shared.sys.hv.scheduler.needs_schedule(CpuId(cpu)) {
            stepper.schedule(&shared.sys);
        }
    }
    shared.machine.become_cpu(me);
}

/// Calls `f` with the run that is under way.
pub fn with<R>(f: impl FnOnce(&Shared) -> R) -> Option<R> {
    let shared = CURRENT.with_borrow(Clone::clone)?;
    Some(f(&shared))
}

/// A step begins: nobody has waited in it yet.
pub fn begin_step() {
    WAITED.with_borrow_mut(|w| *w = 0);
}

/// Ends the run: nothing of it is left.
pub fn end() {
    CURRENT.set(None);
}

impl Shared {
    /// A machine as `config` says, with dom0 on it.
    pub fn boot(config: &Config) -> Rc<Shared> {
        end();
        crate::order::forget();
        crate::order::become_cpu(0);
        let machine = SimMachine::start(config.cpus);
        let handle: &'static Handle = leaked(machine);
        let frames = FrameAllocator::new(machine.frames, Mfn(0), 1);
        frames.add_region(Mfn(0), FRAMES, NodeId(0));
        let kind = if config.credit2 { PolicyKind::Credit2 } else { PolicyKind::Null };
        let hv = Hypervisor {
            platform: Box::new(*handle),
            frames,
            domains: DomainList::default(),
            scheduler: Scheduler::new(kind, config.cpus),
            timers: Timers::new(config.cpus),
            console: Console::default(),
            control: Control::default(),
            watchdog: Watchdog::default(),
            trace: radon_core::trace::Trace::default(),
        };
        let parts = Parts {
            machine: handle,
            xcr0: 7,
            largest: Order::LARGE,
            machine_address_bits: 40,
            total_frames: FRAMES,
            tsc_khz: 1_000_000,
        };
        hv.control.set_factory(Box::new(X86Factory::new(parts)));
        let sys = System { hv, machine: handle, router: Arc::new(Router::new(config.cpus)), forced: None };
        make_dom0(&sys, config);
        let cpus = (0..config.cpus).map(|c| RefCell::new(Stepper::new(CpuId(c)))).collect();
        let shared = Rc::new(Shared { sys, machine, cpus });
        CURRENT.set(Some(shared.clone()));
        shared
    }

    /// The hypervisor.
    pub fn hv(&self) -> &Hypervisor {
        &self.sys.hv
    }
}

/// One handle per thread is enough.
fn leaked(machine: &'static SimMachine) -> &'static Handle {
    thread_local! {
        static HANDLE: std::cell::Cell<Option<&'static Handle>> = const { std::cell::Cell::new(None) };
    }
    HANDLE.get().unwrap_or_else(|| {
        let made: &'static Handle = Box::leak(Box::new(Handle(machine)));
        HANDLE.set(Some(made));
        made
    })
}

/// A processor for policies, which is never run.
fn zen() -> &'static Zen {
    thread_local! {
        static ZEN: std::cell::Cell<Option<&'static Zen>> = const { std::cell::Cell::new(None) };
    }
    ZEN.get().unwrap_or_else(|| {
        let made: &'static Zen = Box::leak(Box::default());
        ZEN.set(Some(made));
        made
    })
}

#[allow(clippy::expect_used, reason = "an empty machine has room for dom0")]
fn make_dom0(sys: &System, config: &Config) {
    let hv = &sys.hv;
    let memory = hv.platform.memory();
    let count = config.dom0_frames;
    hv.frames.account(DOM0).set_limit(count + 64);
    // First, so that the frames are free.
    let identity = config.identity.then(|| hv.frames.take_range(DOM0, Mfn(1), count).expect("free frames"));
    let table = Npt::new(memory, &hv.frames, 48, Order::LARGE, u64::MAX).expect("memory");
    let p2m = P2m::new(DOM0, Box::new(table), 0, config.identity);
    let targets = Targets::new(sys.machine, sys.router.clone(), DOM0, config.cpus);
    let hardware = HardwareDevices::new(targets.clone(), &[], Vec::new(), Vec::new(), None);
    let cpuid = policy(zen(), Kind::Dom0, 7);
    let root = p2m.root();
    let domain = Domain::new(DomainParts {
        id: DOM0,
        role: Role::Hardware,
        p2m,
        shared_info: hv.frames.alloc_special(memory, DOM0).expect("memory"),
        arch: Box::new(X86Domain::new(0, cpuid, Some(Box::new(hardware)))),
    });
    let mut batch = domain.p2m.unmapped(hv);
    if let Some(frames) = identity {
        domain.p2m.add_ram(hv, Gfn(1), frames, &mut batch).expect("room");
    } else {
        for gfn in 1..=count {
            let frame = hv.frames.alloc_domain(memory, DOM0, Order::PAGE, Placement::default()).expect("memory");
            domain.p2m.add_ram(hv, Gfn(gfn), frame, &mut batch).expect("room");
        }
    }
    drop(batch);
    let lapic = LapicConfig { x2apic: true, tsc_deadline: true };
    let vcpu = |n| {
        let cpu = sys.machine.new_cpu(0, root, &DirectAccess::default());
        let msrs = MsrState::new(MsrPolicy { microcode: 0, cpuid_faulting: false, relaxed: false });
        let arch = X86Vcpu::new(cpu, Lapic::new(apic_id(n), n == 0, lapic), msrs, n != 0);
        Vcpu::new(&domain, VcpuId(n), Box::new(arch))
    };
    domain.set_vcpus((0..config.dom0_vcpus).map(vcpu).collect());
    let apics: Vec<_> = domain.vcpus().iter().filter_map(|v| X86Vcpu::of(v).map(|x| x.lapic.clone())).collect();
    if let Some(x86) = X86Domain::of(&domain) {
        x86.set_apics(apics.clone());
    }
    targets.set_apics(apics);
    hv.domains.insert(domain.clone()).expect("the first");
    for vcpu in domain.vcpus() {
        hv.scheduler.add_vcpu(hv, vcpu).expect("there are CPUs");
        if let Some(arch) = X86Vcpu::of(vcpu) {
            arch.state.lock().wait_for_sipi = false;
        }
        hv.scheduler.bring_up(hv, vcpu);
    }
    radon_core::time::clock::publish_wall_clock(hv, &domain);
}
