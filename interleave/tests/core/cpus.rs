//! The test machine, with a CPU for each part of the race. CPUs interrupt each other, and have timers.

use std::sync::Arc;

use radon_core::platform::{ClockParameters, PhysMemory, Platform, PowerAction};
use radon_core::testing::TestMachine;
use radon_core::types::{CpuId, Nanoseconds};
use radon_interleave::atomic::{AtomicBool, AtomicU64, Ordering};
use radon_interleave::{part, wait};

const NEVER: u64 = u64::MAX;
/// CPUs of the machine.
pub(super) const CPUS: usize = 4;

/// The machine. A clone is the same one.
#[derive(Clone)]
pub(super) struct Cpus {
    machine: Arc<TestMachine>,
    /// CPUs that have an interrupt waiting.
    kicked: Arc<[AtomicBool; CPUS]>,
    /// What their timers are set to.
    armed: Arc<[AtomicU64; CPUS]>,
}

impl Cpus {
    pub(super) fn new(machine: Arc<TestMachine>) -> Cpus {
        let kicked = Arc::new([const { AtomicBool::new(false) }; CPUS]);
        let armed = Arc::new([const { AtomicU64::new(NEVER) }; CPUS]);
        Cpus { machine, kicked, armed }
    }

    /// The calling CPU is in guest mode, or halted, until an interrupt comes. Time passes as its timer says.
    pub(super) fn wait_for_interrupt(&self, end: &AtomicBool) {
        let cpu = part();
        while !self.kicked[cpu].swap(false, Ordering::SeqCst) && !end.load(Ordering::SeqCst) {
            let at = self.armed[cpu].load(Ordering::SeqCst);
            if at != NEVER {
                self.armed[cpu].store(NEVER, Ordering::SeqCst);
                self.machine.time.fetch_max(at, Ordering::SeqCst);
                return;
            }
            wait();
        }
    }
}

impl Platform for Cpus {
    fn memory(&self) -> &dyn PhysMemory {
        &self.machine.memory
    }
    fn now(&self) -> Nanoseconds {
        self.machine.now()
    }
    fn clock(&self) -> ClockParameters {
        self.machine.clock()
    }
    fn wall_clock_at_boot(&self) -> u64 {
        self.machine.wall_clock_at_boot()
    }
    fn cpu_count(&self) -> u32 {
        self.machine.cpus
    }
    fn this_cpu(&self) -> CpuId {
        CpuId(part() as u32)
    }
    fn relax(&self) {
        self.machine.relax();
    }
    fn kick(&self, cpu: CpuId) {
        self.kicked[cpu.index()].store(true, Ordering::SeqCst);
    }
    fn arm_timer(&self, deadline: Option<Nanoseconds>) {
        self.armed[part()].store(deadline.map_or(NEVER, |at| at.0), Ordering::SeqCst);
    }
    fn flush_guest_tlb(&self, tag: u64) {
        self.machine.flush_guest_tlb(tag);
    }
    fn report_stuck(&self, cpu: CpuId) {
        self.machine.report_stuck(cpu);
    }
    fn console_write(&self, bytes: &[u8]) {
        self.machine.console_write(bytes);
    }
    fn power(&self, action: PowerAction) -> ! {
        self.machine.power(action)
    }
}
