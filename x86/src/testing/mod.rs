//! For host tests and the simulator: a machine that makes processors of plain data and notes what is asked of it.

#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    missing_docs,
    reason = "what tests need; the hypervisor has nothing of it"
)]
#![cfg_attr(not(test), allow(dead_code, clippy::panic, reason = "other crates use a part of what the tests here need"))]

pub mod control;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use spin::Mutex;

use radon_abi::errno::Errno;
use radon_core::frames::Order;
use radon_core::testing::TestHost;
use radon_core::types::MachineAddr;

use crate::cpuid::{CpuidPolicy, HostCpuid, Kind, XenLeaves};
use crate::factory::{Parts, X86Factory};
use crate::machine::{DirectAccess, HostVector, Machine, MsiMessage, PinMode};
use crate::virt::{Control, Event, Exit, Regs, Segment, SegmentName, SwitchedMsr, VirtualCpu};

/// Where the machine's time stamp counter stands.
pub const TSC: u64 = 1_000_000;

/// A host with dom0 and the x86 factory.
pub fn host() -> TestHost {
    host_with(4096)
}

/// The same with this many frames of memory.
pub fn host_with(frames: u64) -> TestHost {
    let mut host = TestHost::new(frames, 2);
    let parts = Parts {
        machine: Box::leak(Box::new(Zen::default())),
        xcr0: 7,
        largest: Order::LARGE,
        machine_address_bits: 40,
        total_frames: frames,
        tsc_khz: 1_000_000,
    };
    host.hv.control.set_factory(Box::new(X86Factory::new(parts)));
    host.add_domain(1);
    host
}

/// What the machine was made to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Done {
    /// A port was read: number, size.
    In(u16, u8),
    /// A port was written: number, size, value.
    Out(u16, u8, u32),
    /// Caches were written back.
    FlushCaches,
    /// Branch predictions were discarded.
    PredictionBarrier(u64),
    /// Physical interrupts were taken.
    PollInterrupts,
}

/// The machine: a made-up Zen processor.
#[derive(Default)]
pub struct Zen {
    pub done: Mutex<Vec<Done>>,
}

impl Zen {
    fn note(&self, what: Done) {
        self.done.lock().push(what);
    }
}

struct HostOf(&'static Zen);

impl HostCpuid for HostOf {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        Machine::cpuid(self.0, leaf, subleaf)
    }
}

/// The CPUID policy of a domain on that machine, whose hypervisor switches the components `xcr0`.
pub fn policy(machine: &'static Zen, kind: Kind, xcr0: u64) -> CpuidPolicy {
    let xen = XenLeaves { version: 0x0004_0011, hvm_flags: 0, domain: 1, machine_address_bits: 40 };
    CpuidPolicy::new(&HostOf(machine), kind, xcr0, 2, xen)
}

impl Machine for Zen {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let text = |s: &[u8; 4]| u32::from_le_bytes(*s);
        let vendor = [text(b"Auth"), text(b"cAMD"), text(b"enti")];
        match (leaf, subleaf) {
            (0, _) => [0xd, vendor[0], vendor[1], vendor[2]],
            (1, _) => [0x0080_0f12, 0x0310_0800, u32::MAX, u32::MAX],
            (7, 0) => [0, u32::MAX, u32::MAX, u32::MAX],
            (0xd, 0) => [0x2e7, 0x988, 0x988, 0],
            (0xd, 1) => [0xf, 0x340, 0x800, 0],
            (0xd, 2) => [0x100, 0x240, 0, 0],
            (0x8000_0000, _) => [0x8000_0021, vendor[0], vendor[1], vendor[2]],
            (0x8000_0001, _) => [0x0080_0f12, 0x4000_0000, u32::MAX, u32::MAX],
            (0x8000_0008, _) => [0x3030, u32::MAX, 0x6007, 0x1_0000],
            (0x8000_001e, _) => [1, 0x100, 0, 0],
            _ => [0; 4],
        }
    }
    fn tsc(&self) -> u64 {
        TSC
    }
    fn new_cpu(&self, _: u64, _: MachineAddr, _: &DirectAccess) -> Box<dyn VirtualCpu> {
        let mut cpu = PlainCpu { area: alloc::vec![0; 832], ..PlainCpu::default() };
        cpu.reset();
        Box::new(cpu)
    }
    fn read_msr(&self, _: u32) -> Option<u64> {
        None
    }
    fn port_in(&self, port: u16, size: u8) -> u32 {
        self.note(Done::In(port, size));
        0x1234_5678
    }
    fn port_out(&self, port: u16, size: u8, value: u32) {
        self.note(Done::Out(port, size, value));
    }
    fn device_read(&self, _: MachineAddr, _: u8) -> u64 {
        u64::MAX
    }
    fn device_write(&self, _: MachineAddr, _: u8, _: u64) {}
    fn flush_caches(&self) {
        self.note(Done::FlushCaches);
    }
    fn prediction_barrier(&self, value: u64) {
        self.note(Done::PredictionBarrier(value));
    }
    fn poll_interrupts(&self) {
        self.note(Done::PollInterrupts);
    }
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

/// What a virtual CPU was asked for that does not show in its registers.
#[derive(Default)]
pub struct Asked {
    /// Interrupt windows, by priority.
    pub windows: Vec<u8>,
    pub nmi_windows: u32,
    /// Watches on the task priority.
    pub watches: u32,
    pub spec_ctrl: Option<u64>,
    pub flushes: u32,
}

/// What a virtual CPU does when it runs.
pub trait Script: Sync {
    /// The guest runs with these registers and stops for this reason, `event` having been delivered to it.
    fn run(&self, regs: &mut Regs, event: Option<Event>) -> Exit;
}

/// A virtual CPU that only remembers.
#[derive(Default)]
pub struct PlainCpu {
    /// What a test looks at.
    pub asked: Arc<Mutex<Asked>>,
    /// What it does when it runs.
    pub exits: alloc::collections::VecDeque<Exit>,
    /// What it does when it runs, in place of [`PlainCpu::exits`]. It then tells the length of instructions: 3.
    pub script: Option<&'static dyn Script>,
    /// The bytes of the instruction that is executed in software next.
    pub bytes: Vec<u8>,
    pub takes_nmi: bool,
    pub takes_interrupt: bool,
    regs: Regs,
    control: Control,
    segments: [Segment; 10],
    msrs: [u64; 11],
    debug: [u64; 6],
    xcr0: u64,
    tsc_offset: u64,
    tsc_trapped: bool,
    tpr: u8,
    area: Vec<u8>,
    event: Option<Event>,
}

impl PlainCpu {
    /// Gives it extended state of this many bytes.
    pub fn extended(&mut self, bytes: usize) {
        self.area = alloc::vec![0; bytes];
    }
}

impl VirtualCpu for PlainCpu {
    fn run(&mut self) -> Exit {
        // What was to be delivered has been.
        let event = self.event.take();
        if let Some(script) = self.script {
            return script.run(&mut self.regs, event);
        }
        self.exits.pop_front().unwrap_or(Exit::Halt)
    }
    fn regs(&self) -> &Regs {
        &self.regs
    }
    fn regs_mut(&mut self) -> &mut Regs {
        &mut self.regs
    }
    fn next_rip(&self) -> Option<u64> {
        self.script.map(|_| self.regs.rip.wrapping_add(3))
    }
    fn instruction_bytes(&self) -> &[u8] {
        &self.bytes
    }
    fn control(&self) -> Control {
        self.control
    }
    fn set_control(&mut self, control: &Control) {
        self.control = *control;
    }
    fn cr4(&self) -> u64 {
        self.control.cr4
    }
    fn set_cr2(&mut self, address: u64) {
        self.control.cr2 = address;
    }
    fn cpl(&self) -> u8 {
        self.segment(SegmentName::Ss).dpl()
    }
    fn segment(&self, name: SegmentName) -> Segment {
        self.segments[name as usize]
    }
    fn set_segment(&mut self, name: SegmentName, segment: &Segment) {
        self.segments[name as usize] = *segment;
    }
    fn switched_msr(&self, msr: SwitchedMsr) -> u64 {
        self.msrs[msr as usize]
    }
    fn set_switched_msr(&mut self, msr: SwitchedMsr, value: u64) {
        self.msrs[msr as usize] = value;
    }
    fn debug_registers(&self) -> [u64; 6] {
        self.debug
    }
    fn set_debug_registers(&mut self, values: &[u64; 6]) {
        self.debug = *values;
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }
    fn tsc_offset(&self) -> u64 {
        self.tsc_offset
    }
    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = offset;
    }
    fn trap_tsc(&mut self, trap: bool) {
        self.tsc_trapped = trap;
    }
    fn can_take_interrupt(&self) -> bool {
        self.takes_interrupt && self.event.is_none()
    }
    fn can_take_nmi(&self) -> bool {
        self.takes_nmi && self.event.is_none()
    }
    fn delivery_pending(&self) -> bool {
        self.event.is_some()
    }
    fn inject(&mut self, event: Event) {
        self.event = Some(event);
    }
    fn request_interrupt_window(&mut self, priority: u8) {
        self.asked.lock().windows.push(priority);
    }
    fn request_nmi_window(&mut self) {
        self.asked.lock().nmi_windows += 1;
    }
    fn clear_interrupt_shadow(&mut self) {}
    fn tpr(&self) -> u8 {
        self.tpr
    }
    fn set_tpr(&mut self, value: u8) {
        self.tpr = value;
    }
    fn watch_task_priority(&mut self) {
        self.asked.lock().watches += 1;
    }
    fn set_spec_ctrl(&mut self, value: u64) {
        self.asked.lock().spec_ctrl = Some(value);
    }
    fn vector(&self, _: usize) -> [u64; 4] {
        [0; 4]
    }
    fn set_vector(&mut self, _: usize, _: [u64; 4]) {}
    fn extended_state(&self) -> Vec<u8> {
        self.area.clone()
    }
    fn set_extended_state(&mut self, area: &[u8]) {
        self.area.fill(0);
        let part = area.len().min(self.area.len());
        self.area[..part].copy_from_slice(&area[..part]);
    }
    fn pending_event(&self) -> Option<Event> {
        self.event
    }
    fn load(&mut self) {}
    fn save(&mut self) {}
    fn flush_tlb(&mut self) {
        self.asked.lock().flushes += 1;
    }
    fn reset(&mut self) {
        let kept = core::mem::take(self);
        self.area = kept.area;
        self.asked = kept.asked;
        self.exits = kept.exits;
        (self.script, self.bytes) = (kept.script, kept.bytes);
        (self.takes_nmi, self.takes_interrupt) = (kept.takes_nmi, kept.takes_interrupt);
        self.xcr0 = 1;
        self.tsc_offset = kept.tsc_offset;
        self.tsc_trapped = kept.tsc_trapped;
        self.msrs[SwitchedMsr::Pat as usize] = 0x0007_0406_0007_0406;
        self.control.cr0 = 0x6000_0010;
        self.debug = [0, 0, 0, 0, 0xffff_0ff0, 0x400];
    }
}
