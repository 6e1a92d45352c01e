//! Trace buffers: what happens, as records of a few words in one ring per CPU, which the control domain maps and reads
//! (`xentrace`).
//!
//! **Off costs one load and one branch** ([`Trace::wants`]): the mask of what is recorded is 0 then. What a record says
//! is computed only if it is wanted.
//!
//! **A ring has one producer**, its CPU, which is not interrupted within [`Trace::note`]: no lock is taken, so anything
//! can be traced anywhere. The control domain can write to the rings' pages and to the page that describes them; nothing
//! of that is believed but how much was consumed, and that only if it can be.
//!
//! Buffers are made once and stay: somebody may map them at any time. Their frames belong to `DOMID_XEN`, by which name
//! they are mapped.
//!
//! Locks: one of rank [`Rank::Domain`] around what control operations change.

mod ring;
#[cfg(test)]
mod tests;

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::trace as abi;
use radon_abi::xen::{DOMID_XEN, VIRQ_TBUF};
use spin::once::Once;

use crate::evtchn;
use crate::frames::{FrameAllocator, Order};
use crate::hypervisor::Hypervisor;
use crate::platform::{PhysMemory, Platform};
use crate::sched::CpuSet;
use crate::sync::{Lock, Rank};
use crate::types::{DomainId, MachineAddr, Mfn, PAGE_SIZE, VcpuId};
use ring::{Filled, Record, Ring};

/// Who owns the frames.
const OWNER: DomainId = DomainId(DOMID_XEN);
/// Words of the page that describes the buffers.
const INFO_WORDS: u32 = (PAGE_SIZE / 4) as u32;

/// What the control domain has chosen.
struct Settings {
    on: bool,
    events: u32,
    cpus: CpuSet,
}

/// The buffers of all CPUs.
struct Buffers {
    rings: Box<[Ring]>,
    info: Mfn,
    pages: u32,
}

/// The trace buffers of a machine.
pub struct Trace {
    /// Classes of events that are recorded now; 0 while nothing is.
    mask: AtomicU32,
    /// A ring has become half full since the control domain was told.
    news: AtomicBool,
    buffers: Once<Buffers>,
    settings: Lock<Settings>,
}

impl Default for Trace {
    fn default() -> Self {
        let settings = Settings { on: false, events: abi::TRC_ALL, cpus: CpuSet::ALL };
        Trace {
            mask: AtomicU32::new(0),
            news: AtomicBool::new(false),
            buffers: Once::new(),
            settings: Lock::new(Rank::Domain, settings),
        }
    }
}

/// What the control domain is told ([`Trace::state`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceState {
    /// Classes of events that are recorded, or will be.
    pub events: u32,
    /// The frame that describes the buffers; 0 if there are none.
    pub info: Mfn,
    /// Bytes of the description.
    pub info_size: u32,
}

/// How a record that concerns a vCPU names it: the vCPU below, the domain above.
#[must_use]
pub const fn vcpu_word(domain: DomainId, vcpu: VcpuId) -> u32 {
    (domain.0 as u32) << 16 | vcpu.0 & 0xffff
}

/// How a record that concerns memory names it: the domain below, the order above.
#[must_use]
pub const fn frames_word(domain: DomainId, order: Order) -> u32 {
    order.bits() << 16 | domain.0 as u32
}

/// A 64-bit value as a record has it: the lower word first.
#[must_use]
pub const fn words(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

impl Trace {
    /// Whether anything is recorded now: one load.
    #[inline]
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.mask.load(Ordering::Relaxed) != 0
    }

    /// Whether an event is recorded now. For every exit: one load and one branch while nothing is.
    #[inline]
    #[must_use]
    pub fn wants(&self, event: u32) -> bool {
        let mask = self.mask.load(Ordering::Relaxed);
        mask != 0 && matches(mask, event)
    }

    /// Records an event with a time stamp, if it is wanted.
    #[inline]
    pub fn note<const N: usize>(&self, platform: &dyn Platform, event: u32, extra: impl FnOnce() -> [u32; N]) {
        if self.wants(event) {
            self.record(platform, Record { event, time: Some(platform.cycles()), extra: &extra() });
        }
    }

    /// Records an event of a little while ago, if it is wanted: nothing of this CPU may have been recorded since.
    pub fn note_at<const N: usize>(&self, platform: &dyn Platform, time: u64, event: u32, extra: [u32; N]) {
        if self.wants(event) {
            self.record(platform, Record { event, time: Some(time), extra: &extra });
        }
    }

    /// Records an event that belongs to the one before it and has no time stamp of its own, if it is wanted.
    #[inline]
    pub fn detail<const N: usize>(&self, platform: &dyn Platform, event: u32, extra: impl FnOnce() -> [u32; N]) {
        if self.wants(event) {
            self.record(platform, Record { event, time: None, extra: &extra() });
        }
    }

    /// Records what a guest has to say: an event of class `TRC_GUEST` with at most seven words.
    pub fn guest_event(&self, platform: &dyn Platform, event: u32, extra: &[u32]) {
        let event = abi::TRC_GUEST | event;
        if self.wants(event) {
            self.record(platform, Record { event, time: None, extra });
        }
    }

    #[cold]
    fn record(&self, platform: &dyn Platform, record: Record<'_>) {
        let Some(buffers) = self.buffers.get() else { return };
        let Some(ring) = buffers.rings.get(platform.this_cpu().index()) else { return };
        if ring.push(platform, record) == Filled::Half {
            self.news.store(true, Ordering::Release);
        }
    }

    /// Tells the control domain that a ring is half full (`VIRQ_TBUF`), if one is. The CPU loop calls this; no lock may
    /// be held.
    pub fn deliver(&self, hv: &Hypervisor) {
        if self.news.load(Ordering::Relaxed) && self.news.swap(false, Ordering::AcqRel) {
            evtchn::send_global_virq(hv, VIRQ_TBUF);
        }
    }

    /// Makes the buffers, of this many pages for each CPU or, if that is too much to describe in one page, fewer.
    ///
    /// # Errors
    /// `EINVAL`: no pages, or another size than the buffers have that there are. `ENOMEM`.
    pub fn make(&self, hv: &Hypervisor, pages: u32) -> Result<(), Errno> {
        let _one_at_a_time = self.settings.lock();
        let cpus = hv.platform.cpu_count();
        let first = first_list(cpus);
        let most = INFO_WORDS.saturating_sub(first).checked_div(cpus).unwrap_or(0).min(u32::from(u16::MAX));
        let fitting = pages.min(most);
        if let Some(buffers) = self.buffers.get() {
            return if buffers.pages == fitting { Ok(()) } else { Err(Errno::EINVAL) };
        }
        if fitting == 0 {
            return Err(Errno::EINVAL);
        }
        let memory = hv.platform.memory();
        let total = cpus.saturating_mul(fitting);
        let mut frames = Frames { allocator: &hv.frames, taken: Vec::new() };
        for _ in 0..=total {
            frames.take(memory)?;
        }
        let taken = frames.keep();
        let Some((&info, rest)) = taken.split_first() else { return Err(Errno::ENOMEM) };
        let rings = rest.chunks(fitting as usize).map(|f| Ring::new(memory, f.into())).collect();
        let buffers = self.buffers.call_once(|| Buffers { rings, info, pages: fitting });
        buffers.describe(memory);
        log::info!("Trace buffers: {fitting} pages for each of {cpus} CPUs");
        Ok(())
    }

    /// Begins to record.
    ///
    /// # Errors
    /// `EINVAL`: there are no buffers.
    pub fn start(&self) -> Result<(), Errno> {
        if self.buffers.get().is_none() {
            return Err(Errno::EINVAL);
        }
        self.change(|s| s.on = true);
        Ok(())
    }

    /// Ends recording. What was lost up to now is not told the next time.
    pub fn stop(&self) {
        self.change(|s| s.on = false);
        self.buffers.get().into_iter().flat_map(|b| b.rings.iter()).for_each(Ring::forget_lost);
    }

    /// Says what is recorded, by class and subclass.
    pub fn set_events(&self, events: u32) {
        self.change(|s| s.events = events);
    }

    /// Says which CPUs record.
    pub fn set_cpus(&self, cpus: CpuSet) {
        self.change(|s| s.cpus = cpus);
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.lock();
        change(&mut settings);
        for (ring, cpu) in self.buffers.get().into_iter().flat_map(|b| b.rings.iter()).zip(0..) {
            ring.set_on(settings.cpus.contains(crate::types::CpuId(cpu)));
        }
        self.mask.store(if settings.on { settings.events } else { 0 }, Ordering::Release);
    }

    /// What there is.
    #[must_use]
    pub fn state(&self) -> TraceState {
        let events = self.settings.lock().events;
        let buffers = self.buffers.get();
        let info_size = if buffers.is_some() { PAGE_SIZE as u32 } else { 0 };
        TraceState { events, info: buffers.map_or(Mfn(0), |b| b.info), info_size }
    }
}

/// Whether an event's class and subclass are in a mask.
fn matches(mask: u32, event: u32) -> bool {
    const SUBCLASSES: u32 = 0xf;
    let class = (mask & event & abi::EVENT_MASK) >> abi::TRC_CLS_SHIFT;
    class != 0 && ((mask & event) >> abi::TRC_SUBCLS_SHIFT) & SUBCLASSES != 0
}

/// Where, in words, the first CPU's list of frames begins.
fn first_list(cpus: u32) -> u32 {
    let bytes = (abi::TINFO_OFFSETS as u32).saturating_add(cpus.saturating_mul(2));
    bytes.div_ceil(4)
}

impl Buffers {
    /// Writes the page that says where all buffers are.
    fn describe(&self, memory: &dyn PhysMemory) {
        let base = self.info.addr();
        let put = |offset: u64, bytes: &[u8]| memory.write(MachineAddr(base.0.saturating_add(offset)), bytes);
        let mut list = first_list(self.rings.len() as u32);
        for (ring, cpu) in self.rings.iter().zip(0u64..) {
            put(abi::TINFO_OFFSETS.saturating_add(cpu.saturating_mul(2)), &(list as u16).to_le_bytes());
            for frame in ring.frames() {
                // Frame numbers have 32 bits in this list: memory up to 16 TiB.
                put(u64::from(list).saturating_mul(4), &(frame.0 as u32).to_le_bytes());
                list = list.saturating_add(1);
            }
        }
        put(abi::TINFO_SIZE, &(self.pages as u16).to_le_bytes());
    }
}

/// Frames that are given back unless they are kept.
struct Frames<'a> {
    allocator: &'a FrameAllocator,
    taken: Vec<Mfn>,
}

impl Frames<'_> {
    fn take(&mut self, memory: &dyn PhysMemory) -> Result<(), Errno> {
        let frame = self.allocator.alloc_special(memory, OWNER)?;
        self.taken.push(frame);
        if frame.0 > u64::from(u32::MAX) { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    fn keep(mut self) -> Vec<Mfn> {
        core::mem::take(&mut self.taken)
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        self.taken.iter().for_each(|&frame| self.allocator.release(frame, 1));
    }
}
