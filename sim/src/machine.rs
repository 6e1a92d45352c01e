//! The simulated machine: memory, CPUs, timers, TLBs. It is one value per thread, which is made anew for each run, so that
//! many runs need no more memory than one.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::errno::Errno;
use radon_core::frames::FrameInfo;
use radon_core::platform::{ClockParameters, PhysMemory, Platform, PowerAction};
use radon_core::testing::TestMemory;
use radon_core::types::{CpuId, MachineAddr, Nanoseconds};
use radon_x86::machine::{DirectAccess, HostVector, Machine, MsiMessage, PinMode};
use radon_x86::testing::{PlainCpu, Script, Zen};
use radon_x86::virt::{Event, Exit, Regs, VirtualCpu, rflags};
use spin::Mutex;

use crate::order;

/// Frames of the machine: 32 MiB.
pub const FRAMES: u64 = 8192;
/// Most CPUs.
pub const CPUS: usize = 4;
/// Where each action of a guest starts.
pub const RIP: u64 = 0x10_0000;
/// Translations that a CPU keeps.
const TLB: usize = 64;
/// Tags that can be told apart: domain numbers.
const TAGS: usize = 1 << 15;
/// "Not armed".
const NEVER: u64 = u64::MAX;

/// What a guest does next.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// Its registers; `None`: as they are.
    pub gpr: Option<[u64; 16]>,
    /// Why it stops.
    pub exit: Exit,
}

/// A translation in a TLB.
#[derive(Clone, Copy, Default)]
pub struct Cached {
    valid: bool,
    tag: u64,
    generation: u32,
    /// Guest frame.
    pub gfn: u64,
    /// Machine frame.
    pub mfn: u64,
    /// Whether it can be written.
    pub writable: bool,
}

/// The machine.
pub struct SimMachine {
    memory: TestMemory,
    /// What is known of each frame.
    pub frames: &'static [FrameInfo],
    time: AtomicU64,
    cpus: AtomicU32,
    current: AtomicU32,
    kicked: AtomicU32,
    armed: [AtomicU64; CPUS],
    generations: Vec<AtomicU32>,
    tlb: Mutex<[[Cached; TLB]; CPUS]>,
    next: Mutex<Option<Action>>,
    /// Interrupts and exceptions that were delivered to the guest at the last entry.
    delivered: Mutex<Option<Event>>,
    zen: Zen,
    /// Bytes of console output, counted.
    pub output: AtomicU64,
}

thread_local! {
    static MACHINE: Cell<Option<&'static SimMachine>> = const { Cell::new(None) };
}

/// How a run ends when the hypervisor stops the machine.
pub struct Stopped(pub PowerAction);

impl SimMachine {
    /// This thread's machine, as new, with this many CPUs. Nothing may use it still.
    pub fn start(cpus: u32) -> &'static SimMachine {
        let machine = MACHINE.get().unwrap_or_else(|| {
            let frames: Vec<FrameInfo> = (0..FRAMES).map(|_| FrameInfo::absent()).collect();
            let made: &'static SimMachine = Box::leak(Box::new(SimMachine {
                memory: TestMemory::new(FRAMES),
                frames: Box::leak(frames.into_boxed_slice()),
                time: AtomicU64::new(0),
                cpus: AtomicU32::new(0),
                current: AtomicU32::new(0),
                kicked: AtomicU32::new(0),
                armed: [const { AtomicU64::new(NEVER) }; CPUS],
                generations: (0..TAGS).map(|_| AtomicU32::new(1)).collect(),
                tlb: Mutex::new([[Cached::default(); TLB]; CPUS]),
                next: Mutex::new(None),
                delivered: Mutex::new(None),
                zen: Zen::default(),
                output: AtomicU64::new(0),
            }));
            MACHINE.set(Some(made));
            made
        });
        machine.memory.clear();
        machine.frames.iter().for_each(FrameInfo::clear);
        machine.time.store(1_000_000, Ordering::Relaxed);
        machine.cpus.store(cpus, Ordering::Relaxed);
        machine.current.store(0, Ordering::Relaxed);
        machine.kicked.store(0, Ordering::Relaxed);
        machine.armed.iter().for_each(|a| a.store(NEVER, Ordering::Relaxed));
        *machine.tlb.lock() = [[Cached::default(); TLB]; CPUS];
        *machine.next.lock() = None;
        machine
    }

    /// The memory itself.
    pub fn bytes(&self) -> &TestMemory {
        &self.memory
    }

    /// Which CPU executes from now on. Returns which did before.
    pub fn become_cpu(&self, cpu: u32) -> u32 {
        order::become_cpu(cpu);
        self.current.swap(cpu, Ordering::Relaxed)
    }

    /// Lets time pass.
    pub fn advance_to(&self, time: u64) {
        self.time.store(time, Ordering::Relaxed);
    }

    /// The time.
    pub fn time(&self) -> u64 {
        self.time.load(Ordering::Relaxed)
    }

    /// What a CPU's timer is set to.
    pub fn armed(&self, cpu: u32) -> Option<u64> {
        Some(self.armed[cpu as usize].load(Ordering::Relaxed)).filter(|&t| t != NEVER)
    }

    /// The CPU's timer is due: it interrupts once.
    pub fn take_timer(&self, cpu: u32) -> bool {
        let armed = &self.armed[cpu as usize];
        let due = armed.load(Ordering::Relaxed) <= self.time();
        if due {
            armed.store(NEVER, Ordering::Relaxed);
        }
        due
    }

    /// A CPU whose timer is due.
    pub fn is_due(&self) -> Option<u32> {
        let (now, cpus) = (self.time(), self.cpus.load(Ordering::Relaxed));
        (0..cpus).find(|&c| self.armed(c).is_some_and(|t| t <= now))
    }

    /// Whether a CPU was kicked and has not noticed.
    pub fn is_kicked(&self, cpu: u32) -> bool {
        self.kicked.load(Ordering::Relaxed) & (1 << cpu) != 0
    }

    /// A CPU was kicked since it was last asked.
    pub fn take_kick(&self, cpu: u32) -> bool {
        self.kicked.fetch_and(!(1 << cpu), Ordering::Relaxed) & (1 << cpu) != 0
    }

    /// What the guest does at its next entry.
    pub fn set_next(&self, action: Action) {
        *self.next.lock() = Some(action);
    }

    /// Forgets what the guest was to do. Returns whether it did not come to it.
    pub fn take_next(&self) -> bool {
        self.next.lock().take().is_some()
    }

    /// What was delivered to the guest since this was last asked.
    pub fn take_delivered(&self) -> Option<Event> {
        self.delivered.lock().take()
    }

    /// A translation of this CPU's TLB.
    pub fn cached(&self, cpu: u32, tag: u64, gfn: u64) -> Option<Cached> {
        let entry = self.tlb.lock()[cpu as usize][gfn as usize % TLB];
        let generation = self.generations[tag as usize % TAGS].load(Ordering::Relaxed);
        (entry.valid && entry.tag == tag && entry.gfn == gfn && entry.generation == generation).then_some(entry)
    }

    /// Keeps a translation in this CPU's TLB.
    pub fn cache(&self, cpu: u32, tag: u64, gfn: u64, mfn: u64, writable: bool) {
        let generation = self.generations[tag as usize % TAGS].load(Ordering::Relaxed);
        self.tlb.lock()[cpu as usize][gfn as usize % TLB] = Cached { valid: true, tag, generation, gfn, mfn, writable };
    }

    fn armed_slot(&self) -> &AtomicU64 {
        &self.armed[self.current.load(Ordering::Relaxed) as usize]
    }
}

impl Script for SimMachine {
    fn run(&self, regs: &mut Regs, event: Option<Event>) -> Exit {
        if event.is_some() {
            *self.delivered.lock() = event;
        }
        let Some(action) = self.next.lock().take() else { return Exit::Interrupt };
        if let Some(gpr) = action.gpr {
            regs.gpr = gpr;
        }
        regs.rip = RIP;
        regs.rflags = rflags::FIXED | rflags::IF;
        action.exit
    }
}

/// The machine as `core` and `x86` hold it.
#[derive(Clone, Copy)]
pub struct Handle(pub &'static SimMachine);

impl Platform for Handle {
    fn memory(&self) -> &dyn PhysMemory {
        &self.0.memory
    }
    fn now(&self) -> Nanoseconds {
        Nanoseconds(self.0.time())
    }
    fn clock(&self) -> ClockParameters {
        // A counter of 1 GHz: one tick is one nanosecond.
        ClockParameters { tsc_base: 0, base_ns: Nanoseconds(0), mul: 1 << 31, shift: 1, khz: 1_000_000 }
    }
    fn wall_clock_at_boot(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn cpu_count(&self) -> u32 {
        self.0.cpus.load(Ordering::Relaxed)
    }
    fn this_cpu(&self) -> CpuId {
        CpuId(self.0.current.load(Ordering::Relaxed))
    }
    fn kick(&self, cpu: CpuId) {
        self.0.kicked.fetch_or(1 << (cpu.0 & 31), Ordering::Relaxed);
    }
    fn arm_timer(&self, deadline: Option<Nanoseconds>) {
        self.0.armed_slot().store(deadline.map_or(NEVER, |t| t.0), Ordering::Relaxed);
    }
    fn flush_guest_tlb(&self, tag: u64) {
        self.0.generations[tag as usize % TAGS].fetch_add(1, Ordering::Relaxed);
    }
    fn relax(&self) {
        crate::shared::relax();
    }
    #[allow(clippy::panic, reason = "the simulator catches it")]
    fn report_stuck(&self, cpu: CpuId) {
        panic!("{cpu} is stuck")
    }
    fn console_write(&self, bytes: &[u8]) {
        self.0.output.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    #[allow(clippy::panic, reason = "the end of a run, which the simulator catches")]
    fn power(&self, action: PowerAction) -> ! {
        std::panic::panic_any(Stopped(action))
    }
}

impl Machine for Handle {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.0.zen.cpuid(leaf, subleaf)
    }
    fn tsc(&self) -> u64 {
        self.0.time()
    }
    fn new_cpu(&self, _: u64, _: MachineAddr, _: &DirectAccess) -> Box<dyn VirtualCpu> {
        let mut cpu = PlainCpu::default();
        cpu.script = Some(self.0);
        cpu.takes_interrupt = true;
        cpu.takes_nmi = true;
        cpu.extended(832);
        // MOV [RAX], CL; or in 16-bit code, MOV [BX+SI], CL.
        cpu.bytes = vec![0x88, 0x08];
        cpu.reset();
        Box::new(cpu)
    }
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn port_in(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn port_out(&self, _: u16, _: u8, _: u32) {}
    fn device_read(&self, _: MachineAddr, _: u8) -> u64 {
        u64::MAX
    }
    fn device_write(&self, _: MachineAddr, _: u8, _: u64) {}
    fn flush_caches(&self) {}
    fn prediction_barrier(&self, _: u64) {}
    fn poll_interrupts(&self) {}
    fn idle(&self, _: &dyn Fn() -> bool) {}
    fn route_pin(&self, _: u32, _: PinMode, _: HostVector, _: bool) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }
    fn mask_pin(&self, _: u32, _: bool) {}
    fn msi_message(&self, _: HostVector) -> MsiMessage {
        MsiMessage { address: 0, data: 0 }
    }
    fn end_of_interrupt(&self) {}
}
