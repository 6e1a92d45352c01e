//! Policies under real concurrency: threads play CPUs and do everything at once to the same units.
//!
//! Checked: a unit is on one CPU at a time, whatever comes when; and no wake-up is lost: once all is quiet and allowed,
//! every unit runs again.

extern crate std;

use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use std::thread;

use super::policy::{Context, CpuFlags, Policy};
use super::{CpuSet, Credit2, DomainSched, Null, Unit};
use crate::platform::{ClockParameters, PhysMemory, Platform, PowerAction};
use crate::testing::TestMemory;
use crate::time::{Owner, Timers};
use crate::trace::Trace;
use crate::types::{CpuId, DomainId, Nanoseconds, VcpuId};

std::thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
}

/// A machine whose CPUs are threads. Its clock advances each time somebody looks.
struct Threads {
    cpus: u32,
    memory: TestMemory,
    time: AtomicU64,
}

impl Platform for Threads {
    fn memory(&self) -> &dyn PhysMemory {
        &self.memory
    }
    fn now(&self) -> Nanoseconds {
        Nanoseconds(self.time.fetch_add(20_000, Ordering::SeqCst))
    }
    fn clock(&self) -> ClockParameters {
        ClockParameters { tsc_base: 0, base_ns: Nanoseconds(0), mul: 1 << 31, shift: 1, khz: 1_000_000 }
    }
    fn wall_clock_at_boot(&self) -> u64 {
        0
    }
    fn cpu_count(&self) -> u32 {
        self.cpus
    }
    fn this_cpu(&self) -> CpuId {
        CpuId(CPU.get())
    }
    fn kick(&self, _: CpuId) {}
    fn arm_timer(&self, _: Option<Nanoseconds>) {}
    fn flush_guest_tlb(&self, _: u64) {}
    fn report_stuck(&self, _: CpuId) {}
    fn console_write(&self, _: &[u8]) {}
    fn power(&self, _: PowerAction) -> ! {
        panic!("stopped")
    }
}

struct Subject {
    unit: Arc<Unit>,
    /// 1 + the CPU that has it; 0 for none. The test's own knowledge.
    held: AtomicU32,
    runs: AtomicU32,
}

struct World {
    machine: Threads,
    policy: Box<dyn Policy>,
    timers: Timers,
    trace: Trace,
    flags: Vec<CpuFlags>,
    subjects: Vec<Subject>,
    /// Nobody is to act.
    quiet: AtomicBool,
    /// How many CPUs have seen that, and not yet that it is over.
    at_rest: AtomicU32,
    end: AtomicBool,
}

impl World {
    fn cx(&self) -> Context<'_> {
        Context {
            platform: &self.machine,
            timers: &self.timers,
            trace: &self.trace,
            ratelimit: Nanoseconds(100_000),
            flags: &self.flags,
        }
    }

    fn update(&self, subject: &Subject) {
        self.policy.update(self.cx(), &subject.unit);
    }

    /// One thread: a CPU loop, with random acts in between until it is to be quiet.
    fn run(&self, cpu: CpuId) {
        CPU.set(cpu.0);
        let mut random = u64::from(cpu.0) + 1;
        let mut current: Option<usize> = None;
        let mut resting = false;
        while !self.end.load(Ordering::SeqCst) {
            while let Some((_, owner)) = self.timers.pop_due(cpu, self.machine.now()) {
                if let Owner::Budget(domain) = owner {
                    self.policy.replenish(self.cx(), &domain.upgrade().unwrap(), self.machine.now());
                }
            }
            if self.flags[cpu.index()].needs_schedule.swap(false, Ordering::SeqCst) {
                current = self.schedule(cpu, current);
            }
            let quiet = self.quiet.load(Ordering::SeqCst);
            if quiet != resting {
                resting = quiet;
                let one_more = if quiet { 1 } else { u32::MAX };
                self.at_rest.fetch_add(one_more, Ordering::SeqCst);
            }
            if quiet {
                // Time slices end now and then.
                self.cx().tickle(cpu);
                thread::yield_now();
                continue;
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            self.act(cpu, (random >> 33) as usize, current);
        }
    }

    /// Waits until `condition` holds, or fails with the policy's state.
    fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let start = std::time::Instant::now();
        while !condition(self) {
            if start.elapsed().as_secs() > 10 {
                let mut text = alloc::string::String::new();
                let _ = self.policy.dump(&mut text);
                self.end.store(true, Ordering::SeqCst);
                panic!("{what} in vain:\n{text}");
            }
            thread::yield_now();
        }
    }

    fn schedule(&self, cpu: CpuId, current: Option<usize>) -> Option<usize> {
        let pick = self.policy.schedule(self.cx(), cpu, self.machine.now());
        let next = pick.unit.map(|u| self.subjects.iter().position(|s| Arc::ptr_eq(&s.unit, &u)).unwrap());
        if next != current {
            if let Some(subject) = current.map(|n| &self.subjects[n]) {
                assert_eq!(subject.held.swap(0, Ordering::SeqCst), cpu.0 + 1);
                self.policy.context_saved(self.cx(), &subject.unit);
            }
            if let Some(subject) = next.map(|n| &self.subjects[n]) {
                assert_eq!(subject.held.swap(cpu.0 + 1, Ordering::SeqCst), 0, "on two CPUs at once");
            }
        }
        if let Some(n) = next {
            self.subjects[n].runs.fetch_add(1, Ordering::SeqCst);
        }
        next
    }

    fn act(&self, cpu: CpuId, random: usize, current: Option<usize>) {
        let subject = &self.subjects[random % self.subjects.len()];
        match random / 16 % 16 {
            0..3 => {
                if let Some(own) = current.map(|n| &self.subjects[n]) {
                    own.unit.set_blocked(true);
                    self.cx().tickle(cpu);
                }
            }
            3..8 if subject.unit.set_blocked(false) => self.update(subject),
            8 => {
                subject.unit.add_pause();
                self.update(subject);
            }
            9..11 if subject.unit.drop_pause() => self.update(subject),
            11 => {
                let only = CpuSet::only(CpuId((random / 256) as u32 % self.machine.cpus));
                let hard = if (random / 4096).is_multiple_of(2) { CpuSet::ALL } else { only };
                subject.unit.change_affinity(|a| a.hard = hard);
                self.policy.affinity_changed(self.cx(), &subject.unit);
            }
            12 => {
                let cap = if (random / 256).is_multiple_of(2) { 0 } else { 50 };
                subject.unit.domain.set(Some(100 + random as u16 % 400), Some(cap));
                self.policy.parameters_changed(self.cx(), &subject.unit);
            }
            _ => self.cx().tickle(cpu),
        }
    }
}

fn stress(policy: Box<dyn Policy>, cpus: u32, units: u32) {
    let domain = Arc::new(DomainSched::default());
    let subject = |n| {
        let unit = Unit::new(DomainId(1), VcpuId(n), &domain);
        Subject { unit, held: AtomicU32::new(0), runs: AtomicU32::new(0) }
    };
    let world = World {
        machine: Threads { cpus, memory: TestMemory::new(0), time: AtomicU64::new(0) },
        policy,
        timers: Timers::new(cpus),
        trace: Trace::default(),
        flags: (0..cpus).map(|_| CpuFlags::default()).collect(),
        subjects: (0..units).map(subject).collect(),
        quiet: AtomicBool::new(false),
        at_rest: AtomicU32::new(0),
        end: AtomicBool::new(false),
    };
    for subject in &world.subjects {
        world.policy.add(world.cx(), &subject.unit).unwrap();
        domain.join(&subject.unit);
        subject.unit.set_down(false);
        world.update(subject);
    }
    thread::scope(|threads| {
        for cpu in 0..cpus {
            let world = &world;
            threads.spawn(move || world.run(CpuId(cpu)));
        }
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(15));
            world.quiet.store(true, Ordering::SeqCst);
            world.until("waited for rest", |w| w.at_rest.load(Ordering::SeqCst) == cpus);
            // Everything may run again; whoever does not has been lost.
            for subject in &world.subjects {
                while subject.unit.drop_pause() {}
                subject.unit.set_blocked(false);
                subject.unit.change_affinity(|a| a.hard = CpuSet::ALL);
                subject.unit.domain.set(Some(256), Some(0));
                world.policy.affinity_changed(world.cx(), &subject.unit);
                world.policy.parameters_changed(world.cx(), &subject.unit);
                world.update(subject);
                subject.runs.store(0, Ordering::SeqCst);
            }
            world
                .until("waited for all to run again", |w| w.subjects.iter().all(|s| s.runs.load(Ordering::SeqCst) > 0));
            world.quiet.store(false, Ordering::SeqCst);
            world.until("waited for all to act again", |w| w.at_rest.load(Ordering::SeqCst) == 0);
        }
        world.end.store(true, Ordering::SeqCst);
    });
    for subject in &world.subjects {
        if subject.held.load(Ordering::SeqCst) == 0 {
            world.policy.remove(world.cx(), &subject.unit);
        }
    }
}

// Two threads each: more than a small machine has CPUs would mostly wait for preempted holders of ticket locks.

#[test]
fn credit2_with_one_queue() {
    stress(Box::new(Credit2::new(&[CpuSet::first(2)], CpuSet::ALL)), 2, 5);
}

#[test]
fn credit2_with_two_queues() {
    stress(Box::new(Credit2::new(&[0, 1].map(|c| CpuSet::only(CpuId(c))), CpuSet::ALL)), 2, 5);
}

#[test]
fn null() {
    stress(Box::new(Null::new(2, CpuSet::first(2))), 2, 2);
}
