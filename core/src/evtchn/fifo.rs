//! The FIFO event ABI: event words and queues in memory that the guest shares and may change at any moment.
//!
//! Every port has an event word (pending, masked, linked, and the link to the next port) in an array of guest frames.
//! Every vCPU has a control block with, per priority, the head of a queue of ports, and a ready bit that says that the
//! head is news. The hypervisor appends to a queue by linking its tail's word to the new port; the guest consumes from
//! the head and clears *linked* in the words it takes.
//!
//! What is in guest memory is believed only in so far as it harms nobody but the guest: port numbers are never taken
//! from it. Which port is the tail of a queue is the hypervisor's own knowledge.
//!
//! Lock protocol: words and control blocks are touched only while holding the lock of an open channel that the guest
//! holds, or the table lock. They are given back only under the table lock after all these channels are closed. Of the queue locks
//! ([`Rank::EventQueue`]) at most one is held at a time. Only the holder of a channel's lock sets *linked* in its word
//! or makes it a tail.

use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS, EVTCHN_FIFO_PENDING, FIFO_HEAD_OFFSET, FIFO_READY_OFFSET,
};
use spin::once::Once;

use super::channel::{ChannelState, QueueName};
use super::vcpu::field;
use crate::domain::Domain;
use crate::platform::PhysMemory;
use crate::sync::{Lock, Rank};
use crate::types::{MachineAddr, Mfn, PAGE_SIZE, Port};

/// Event words in a frame.
pub(super) const WORDS_PER_PAGE: u32 = (PAGE_SIZE / 4) as u32;
/// Frames of a full event array.
pub(super) const ARRAY_PAGES: usize = (EVTCHN_FIFO_NR_CHANNELS / WORDS_PER_PAGE) as usize;

/// Attempts to link a tail before the guest is asked to keep its hands off with the busy bit.
const POLITE_ATTEMPTS: u32 = 4;
/// Attempts in all. A guest that spoils them all loses the event.
const ATTEMPTS: u32 = 8;

/// No frame, no control block.
const NONE: u64 = 0;

/// A domain's event array.
pub(super) struct EventArray {
    /// Whether the domain has switched to the FIFO ABI.
    active: AtomicBool,
    /// Machine address of each frame or [`NONE`]; allocated when the domain first switches.
    pages: Once<Vec<AtomicU64>>,
}

impl EventArray {
    pub(super) const fn new() -> EventArray {
        EventArray { active: AtomicBool::new(false), pages: Once::new() }
    }

    /// Whether the domain uses the FIFO ABI.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// Makes room for the frames' addresses. Under the table lock.
    pub(super) fn prepare(&self) -> Result<(), Errno> {
        self.pages
            .try_call_once(|| {
                let mut pages = Vec::new();
                pages.try_reserve_exact(ARRAY_PAGES).map_err(|_| Errno::ENOMEM)?;
                pages.resize_with(ARRAY_PAGES, || AtomicU64::new(NONE));
                Ok(pages)
            })
            .map(|_: &Vec<AtomicU64>| ())
    }

    /// Switches the domain to this ABI. Under the table lock, after [`EventArray::prepare`].
    pub(super) fn activate(&self) {
        self.active.store(true, Ordering::SeqCst);
    }

    /// Sets frame `slot` of the array. Under the table lock.
    pub(super) fn set_page(&self, slot: usize, frame: Mfn) {
        if let Some(page) = self.pages.get().and_then(|p| p.get(slot)) {
            page.store(frame.addr().0, Ordering::SeqCst);
        }
    }

    /// Back to the 2-level ABI without any frame. Under the table lock, with all channels closed.
    pub(super) fn reset(&self) {
        self.active.store(false, Ordering::SeqCst);
        for page in self.pages.get().into_iter().flatten() {
            page.store(NONE, Ordering::SeqCst);
        }
    }

    /// Where a port's event word is, if the guest has provided that part of the array.
    pub(super) fn word(&self, port: Port) -> Option<MachineAddr> {
        let slot = usize::try_from(port.0 / WORDS_PER_PAGE).ok()?;
        match self.pages.get()?.get(slot)?.load(Ordering::SeqCst) {
            NONE => None,
            page => Some(field(MachineAddr(page), u64::from(port.0 % WORDS_PER_PAGE).wrapping_mul(4))),
        }
    }
}

/// A vCPU's control block and queues.
pub(super) struct VcpuQueues {
    /// Machine address of the control block or [`NONE`].
    control: AtomicU64,
    /// The port linked last into each queue; 0: none.
    tails: Lock<[u32; EVTCHN_FIFO_MAX_QUEUES]>,
}

impl VcpuQueues {
    pub(super) const fn new() -> VcpuQueues {
        VcpuQueues { control: AtomicU64::new(NONE), tails: Lock::new(Rank::EventQueue, [0; EVTCHN_FIFO_MAX_QUEUES]) }
    }

    /// Whether there is a control block.
    pub(super) fn has_control(&self) -> bool {
        self.control.load(Ordering::SeqCst) != NONE
    }

    /// Sets the control block. Under the table lock.
    pub(super) fn set_control(&self, at: MachineAddr) {
        self.control.store(at.0, Ordering::SeqCst);
    }

    /// Forgets control block and queues. Under the table lock, with all channels closed.
    pub(super) fn reset(&self) {
        self.control.store(NONE, Ordering::SeqCst);
        *self.tails.lock() = [0; EVTCHN_FIFO_MAX_QUEUES];
    }

    /// `port` goes to another queue: it is no longer the tail of this one.
    fn forget_tail(&self, priority: u8, port: Port) {
        if let Some(tail) = self.tails.lock().get_mut(usize::from(priority))
            && *tail == port.0
        {
            *tail = 0;
        }
    }
}

/// What making an event pending came to.
#[derive(Clone, Copy, Default)]
pub(super) struct News {
    /// It was not pending before.
    pub(super) first: bool,
    /// The vCPU's upcall has to be raised.
    pub(super) upcall: bool,
}

/// Makes an event pending and links it into its queue if it is neither masked nor linked. The caller holds the channel's
/// lock and the channel is open.
pub(super) fn set_pending(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &mut ChannelState) -> News {
    let Some(word) = domain.events.array.word(port) else {
        state.missed = true;
        return News::default();
    };
    let old = memory.fetch_or_u32(word, EVTCHN_FIFO_PENDING);
    let upcall = old & (EVTCHN_FIFO_MASKED | EVTCHN_FIFO_LINKED) == 0 && link(memory, domain, port, state, word);
    News { first: old & EVTCHN_FIFO_PENDING == 0, upcall }
}

/// Clears the mask, and links the event if it is pending. The caller holds the channel's lock and the channel is open.
pub(super) fn unmask(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &mut ChannelState) -> News {
    let Some(word) = domain.events.array.word(port) else { return News::default() };
    clear_bits(memory, word, EVTCHN_FIFO_MASKED);
    if memory.load_u32(word) & EVTCHN_FIFO_PENDING == 0 {
        return News::default();
    }
    set_pending(memory, domain, port, state)
}

/// Clears pending, when the channel is closed.
pub(super) fn clear_pending(memory: &dyn PhysMemory, domain: &Domain, port: Port) {
    if let Some(word) = domain.events.array.word(port) {
        clear_bits(memory, word, EVTCHN_FIFO_PENDING);
    }
}

/// The port's event word; all clear if there is none yet.
pub(super) fn word_value(memory: &dyn PhysMemory, domain: &Domain, port: Port) -> u32 {
    domain.events.array.word(port).map_or(0, |word| memory.load_u32(word))
}

/// Appends the event to the queue of its vCPU and priority. Returns whether the vCPU's upcall has to be raised: the queue
/// was empty and its ready bit clear.
fn link(memory: &dyn PhysMemory, domain: &Domain, port: Port, state: &mut ChannelState, word: MachineAddr) -> bool {
    let name: QueueName = (state.vcpu, state.priority);
    let Some(vcpu) = domain.vcpu(state.vcpu) else { return false };
    let queues = &vcpu.events.queues;
    let control = match queues.control.load(Ordering::SeqCst) {
        // The guest may not unmask before it has a control block; what it loses is its own.
        NONE => return false,
        at => MachineAddr(at),
    };
    if let Some(old) = state.last_queue
        && old != name
        && let Some(old_vcpu) = domain.vcpu(old.0)
    {
        old_vcpu.events.queues.forget_tail(old.1, port);
    }
    state.last_queue = Some(name);

    {
        let mut tails = queues.tails.lock();
        let Some(tail) = tails.get_mut(usize::from(state.priority)) else { return false };
        memory.fetch_or_u32(word, EVTCHN_FIFO_LINKED);
        // A tail that was consumed is no longer linked: the queue is empty then. If the tail is this very port, it looks
        // linked only because it was just marked so.
        let appended = *tail != 0
            && *tail != port.0
            && domain.events.array.word(Port(*tail)).is_some_and(|tail_word| append(memory, tail_word, port));
        *tail = port.0;
        if appended {
            return false;
        }
        let head = u64::from(state.priority).wrapping_mul(4).wrapping_add(FIFO_HEAD_OFFSET);
        memory.store_u32(field(control, head), port.0);
        // Ready is set before anyone else can set the next head. Otherwise the guest could consume this head and the next
        // for one ready bit, take the other one for a third, and follow a port that is in another queue by then.
        let ready = 1u32.wrapping_shl(u32::from(state.priority));
        if memory.fetch_or_u32(field(control, FIFO_READY_OFFSET), ready) & ready != 0 {
            return false;
        }
    }
    vcpu.events.mark(memory, None, false)
}

/// Links `port` behind the word of a queue's tail. Returns `false` if the tail is no longer in the queue.
fn append(memory: &dyn PhysMemory, tail: MachineAddr, port: Port) -> bool {
    let mut word = memory.load_u32(tail);
    for attempt in 0..ATTEMPTS {
        if attempt == POLITE_ATTEMPTS {
            word = memory.fetch_or_u32(tail, EVTCHN_FIFO_BUSY) | EVTCHN_FIFO_BUSY;
        }
        if word & EVTCHN_FIFO_LINKED == 0 {
            if attempt >= POLITE_ATTEMPTS {
                clear_bits(memory, tail, EVTCHN_FIFO_BUSY);
            }
            return false;
        }
        let new = (word & !(EVTCHN_FIFO_BUSY | EVTCHN_FIFO_LINK_MASK)) | port.0;
        let found = memory.compare_exchange_u32(tail, word, new);
        if found == word {
            return true;
        }
        word = found;
    }
    clear_bits(memory, tail, EVTCHN_FIFO_BUSY);
    true
}

/// Atomically clears bits of an aligned 32-bit word, by way of the 64 bits around it.
fn clear_bits(memory: &dyn PhysMemory, word: MachineAddr, bits: u32) {
    let shift = if word.0 & 4 == 0 { 0 } else { 32 };
    memory.fetch_and_u64(MachineAddr(word.0 & !7), !u64::from(bits).wrapping_shl(shift));
}
