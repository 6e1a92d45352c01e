//! A machine made of plain data, for host tests and the simulator: memory is a vector of atomic words, time is a number
//! that the test advances, kicks are counted. [`TestHost`] is a whole hypervisor with domains on it.

#[cfg(any(test, feature = "testing"))]
pub mod audit;
mod host;
#[cfg(test)]
mod order;
mod table;

pub use host::{DOMAIN_FRAMES, IdentityMemory, TestArchDomain, TestArchVcpu, TestHost};
pub use table::TestTable;

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use crate::platform::{ClockParameters, CpuTopology, PhysMemory, Platform, PowerAction};
use crate::sync::{Lock, Rank};
use crate::types::{CpuId, MachineAddr, Mfn, Nanoseconds, PAGE_SIZE};

/// What a test does to memory in the midst of an operation.
pub type Interference = Box<dyn Fn(&TestMemory) + Send + Sync>;

/// Machine memory from address 0, a whole number of frames.
pub struct TestMemory {
    words: Vec<AtomicU64>,
    /// By frame: whether it may hold something else than zeros. Most frames are given out and taken back unused. No
    /// scheduling point of the interleaving tests: the words are.
    written: Vec<core::sync::atomic::AtomicBool>,
    /// What happens just before each atomic change, as if another CPU did it. It may change memory itself.
    pub before_change: spin::once::Once<Interference>,
}

impl TestMemory {
    /// Zeroed memory of this many frames.
    #[must_use]
    pub fn new(frames: u64) -> TestMemory {
        let words = frames.saturating_mul(PAGE_SIZE / 8);
        let words = (0..words).map(|_| AtomicU64::new(0)).collect();
        let written = (0..frames).map(|_| false.into()).collect();
        TestMemory { words, written, before_change: spin::once::Once::new() }
    }

    /// Zeroes all of it.
    pub fn clear(&self) {
        (0..self.written.len() as u64).for_each(|frame| self.zero_frame(Mfn(frame)));
    }

    fn word(&self, at: MachineAddr) -> Option<&AtomicU64> {
        self.words.get(usize::try_from(at.0 / 8).ok()?)
    }

    /// A word that is about to be written.
    fn word_to_write(&self, at: MachineAddr) -> Option<&AtomicU64> {
        let written = self.written.get(usize::try_from(at.0 / PAGE_SIZE).ok()?)?;
        written.store(true, core::sync::atomic::Ordering::Relaxed);
        self.word(at)
    }

    /// Applies `f` to the `width`-byte field at `at` (aligned down); returns its old value.
    fn update(&self, at: MachineAddr, width: u64, f: impl Fn(u64) -> Option<u64>) -> u64 {
        let mask = if width == 8 { u64::MAX } else { (1u64 << (width.wrapping_mul(8))).wrapping_sub(1) };
        let shift = ((at.0 % 8) & !width.wrapping_sub(1)).wrapping_mul(8);
        let Some(word) = self.word_to_write(at) else { return mask };
        let apply = |old: u64| {
            let new = f((old >> shift) & mask)?;
            Some((old & !(mask << shift)) | ((new & mask) << shift))
        };
        match word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, apply) {
            Ok(old) | Err(old) => (old >> shift) & mask,
        }
    }

    /// An atomic change.
    fn change(&self, at: MachineAddr, width: u64, f: impl Fn(u64) -> Option<u64>) -> u64 {
        if let Some(interfere) = self.before_change.get() {
            interfere(self);
        }
        self.update(at, width, f)
    }
}

impl PhysMemory for TestMemory {
    fn read(&self, from: MachineAddr, to: &mut [u8]) {
        let mut at = from.0;
        let mut to = to;
        // Up to the end of a word each time.
        while !to.is_empty() {
            let word = self.word(MachineAddr(at)).map_or(u64::MAX, |w| w.load(Ordering::Acquire)).to_le_bytes();
            let here = word.get((at % 8) as usize..).unwrap_or_default();
            let (part, rest) = to.split_at_mut(here.len().min(to.len()));
            for (byte, from) in part.iter_mut().zip(here) {
                *byte = *from;
            }
            at = at.wrapping_add(part.len() as u64);
            to = rest;
        }
    }
    fn write(&self, to: MachineAddr, from: &[u8]) {
        let mut at = to.0;
        let mut from = from;
        // Up to the end of a word each time.
        while !from.is_empty() {
            let first = (at % 8) as usize;
            let (part, rest) = from.split_at(from.len().min(8usize.saturating_sub(first)));
            let splice = |old: u64| {
                let mut bytes = old.to_le_bytes();
                bytes.iter_mut().skip(first).zip(part).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(bytes)
            };
            if part.len() == 8 {
                self.store_u64(MachineAddr(at), splice(0));
            } else {
                self.update(MachineAddr(at), 8, |old| Some(splice(old)));
            }
            at = at.wrapping_add(part.len() as u64);
            from = rest;
        }
    }
    fn copy(&self, to: MachineAddr, from: MachineAddr, len: u64) {
        assert!(from.0.abs_diff(to.0) >= len, "{from} and {to} overlap within {len} bytes");
        let mut buffer = [0u8; 64];
        let mut done = 0;
        while done < len {
            let part = len.saturating_sub(done).min(buffer.len() as u64);
            if let Some(bytes) = buffer.get_mut(..part as usize) {
                self.read(MachineAddr(from.0.wrapping_add(done)), bytes);
                self.write(MachineAddr(to.0.wrapping_add(done)), bytes);
            }
            done = done.saturating_add(part);
        }
    }
    fn zero_frame(&self, frame: Mfn) {
        let written = usize::try_from(frame.0).ok().and_then(|frame| self.written.get(frame));
        if !written.is_some_and(|written| written.swap(false, core::sync::atomic::Ordering::Relaxed)) {
            return;
        }
        let first = (frame.addr().0 / 8) as usize;
        let words = self.words.get(first..first.saturating_add(PAGE_SIZE as usize / 8));
        words.unwrap_or_default().iter().for_each(|word| word.store(0, Ordering::Release));
    }
    fn load_u32(&self, at: MachineAddr) -> u32 {
        let shift = if at.0 & 4 == 0 { 0 } else { 32 };
        self.word(at).map_or(u32::MAX, |w| (w.load(Ordering::SeqCst) >> shift) as u32)
    }
    fn store_u32(&self, at: MachineAddr, value: u32) {
        self.update(at, 4, |_| Some(u64::from(value)));
    }
    fn load_u64(&self, at: MachineAddr) -> u64 {
        self.word(at).map_or(u64::MAX, |w| w.load(Ordering::Acquire))
    }
    fn store_u64(&self, at: MachineAddr, value: u64) {
        if let Some(word) = self.word_to_write(at) {
            word.store(value, Ordering::Release);
        }
    }
    fn fetch_or_u8(&self, at: MachineAddr, bits: u8) -> u8 {
        self.change(at, 1, |v| Some(v | u64::from(bits))) as u8
    }
    fn fetch_or_u32(&self, at: MachineAddr, bits: u32) -> u32 {
        self.change(at, 4, |v| Some(v | u64::from(bits))) as u32
    }
    fn fetch_or_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        self.change(at, 8, |v| Some(v | bits))
    }
    fn fetch_and_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        self.change(at, 8, |v| Some(v & bits))
    }
    fn compare_exchange_u16(&self, at: MachineAddr, old: u16, new: u16) -> u16 {
        self.change(at, 2, |v| (v == u64::from(old)).then_some(u64::from(new))) as u16
    }
    fn compare_exchange_u32(&self, at: MachineAddr, old: u32, new: u32) -> u32 {
        self.change(at, 4, |v| (v == u64::from(old)).then_some(u64::from(new))) as u32
    }
    fn compare_exchange_u64(&self, at: MachineAddr, old: u64, new: u64) -> u64 {
        self.change(at, 8, |v| (v == old).then_some(new))
    }
}

/// A machine under a test's control. Share it as `&'static` (leaked) or through an `Arc`: `Platform` is implemented
/// for `Arc<TestMachine>`.
pub struct TestMachine {
    /// Its memory.
    pub memory: TestMemory,
    /// System time.
    pub time: AtomicU64,
    /// Number of CPUs.
    pub cpus: u32,
    /// The CPU that the test plays at the moment.
    pub current_cpu: AtomicU32,
    /// CPUs kicked, in order.
    pub kicks: Lock<Vec<CpuId>>,
    /// What each CPU's timer is set to, by CPU.
    pub armed: Lock<Vec<Option<Nanoseconds>>>,
    /// Number of TLB flushes asked for.
    pub flushes: AtomicU64,
    /// What happens at each TLB flush.
    pub on_flush: spin::once::Once<Box<dyn Fn() + Send + Sync>>,
    /// Console output.
    pub output: Lock<Vec<u8>>,
}

impl TestMachine {
    /// A machine of this many frames and CPUs at time 0.
    #[must_use]
    pub fn new(frames: u64, cpus: u32) -> TestMachine {
        TestMachine {
            memory: TestMemory::new(frames),
            time: AtomicU64::new(0),
            cpus,
            current_cpu: AtomicU32::new(0),
            kicks: Lock::new(Rank::Console, Vec::new()),
            armed: Lock::new(Rank::Console, (0..cpus).map(|_| None).collect()),
            flushes: AtomicU64::new(0),
            on_flush: spin::once::Once::new(),
            output: Lock::new(Rank::Console, Vec::new()),
        }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Nanoseconds) {
        self.time.fetch_add(by.0, Ordering::SeqCst);
    }
}

impl Platform for alloc::sync::Arc<TestMachine> {
    fn memory(&self) -> &dyn PhysMemory {
        &self.memory
    }
    fn now(&self) -> Nanoseconds {
        Nanoseconds(self.time.load(Ordering::SeqCst))
    }
    fn clock(&self) -> ClockParameters {
        // A counter of 1 GHz: one tick is one nanosecond.
        ClockParameters { tsc_base: 0, base_ns: Nanoseconds(0), mul: 1 << 31, shift: 1, khz: 1_000_000 }
    }
    fn wall_clock_at_boot(&self) -> u64 {
        1_700_000_000_000_000_000
    }
    fn cpu_count(&self) -> u32 {
        self.cpus
    }
    fn this_cpu(&self) -> CpuId {
        CpuId(self.current_cpu.load(Ordering::SeqCst))
    }
    fn relax(&self) {
        crate::sync::let_others_go_on();
    }
    fn kick(&self, cpu: CpuId) {
        self.kicks.lock().push(cpu);
    }
    fn arm_timer(&self, deadline: Option<Nanoseconds>) {
        if let Some(slot) = self.armed.lock().get_mut(self.this_cpu().index()) {
            *slot = deadline;
        }
    }
    fn flush_guest_tlb(&self, _tag: u64) {
        self.flushes.fetch_add(1, Ordering::SeqCst);
        if let Some(f) = self.on_flush.get() {
            f();
        }
    }
    fn cpu_topology(&self, cpu: CpuId) -> CpuTopology {
        // Two threads to a core.
        CpuTopology { core: cpu.0 / 2, ..CpuTopology::default() }
    }
    fn symbol(&self, index: u32) -> Option<(String, u64)> {
        [("entry", 0x1000), ("main", 0x1020)].get(index as usize).map(|(name, at)| (String::from(*name), *at))
    }
    #[allow(clippy::panic, reason = "a test machine has no other way to stop")]
    fn report_stuck(&self, cpu: CpuId) {
        panic!("{cpu} is stuck")
    }
    fn console_write(&self, bytes: &[u8]) {
        self.output.lock().extend_from_slice(bytes);
    }
    #[allow(clippy::panic, reason = "a test machine has no other way to stop")]
    fn power(&self, action: PowerAction) -> ! {
        panic!("the machine was stopped: {action:?}")
    }
}
