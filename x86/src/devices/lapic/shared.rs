//! The half of a local APIC that other CPUs touch, and the delivery of messages to it.
//!
//! Protocol (no locks): a sender records the trigger mode, then sets the vector's bit in `requests`, then the summary bit
//! in `events`. The owner takes `events` first and then the words that it names. So a set request is never lost: either
//! the owner sees the summary bit, or the bit is still to be set. Each posting ends with a sequentially consistent
//! operation; a CPU that is about to idle the vCPU marks it idle first and calls [`LapicShared::has_events`] after, and
//! a sender posts first and looks at the idle mark after: one of them sees the other.

use core::ops::Deref;

use radon_core::sync::atomic::{AtomicU32, Ordering};

use super::vectors::place;
use crate::devices::interrupt::{DeliveryMode, FIRST_LEGAL_VECTOR, Message, Trigger};

/// A physical or logical x2APIC destination that means all processors; 0xff is its 8-bit form.
const BROADCAST: u32 = u32::MAX;
const BROADCAST_XAPIC: u32 = 0xff;

// Bits of `events`. Bits 7:0: words of `requests` that may hold something.
pub(super) const EVENT_REQUESTS: u32 = 0xff;
const EVENT_NMI: u32 = 1 << 8;
const EVENT_INIT: u32 = 1 << 9;
const EVENT_START_UP: u32 = 1 << 10;
const EVENT_ILLEGAL_VECTOR: u32 = 1 << 11;
const EVENT_SIGNALS: u32 = EVENT_NMI | EVENT_INIT | EVENT_START_UP;

// Bits of `matching`, the snapshot of what decides whether a message is meant for this APIC.
const MATCH_ENABLED: u32 = 1 << 0;
const MATCH_X2APIC: u32 = 1 << 1;
const MATCH_SOFTWARE_ENABLED: u32 = 1 << 2;
const MATCH_FLAT: u32 = 1 << 3;
const MATCH_CLUSTER: u32 = 1 << 4;

/// What decides whether a message is meant for an APIC; published by its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Matching {
    /// Enabled in the APIC base MSR.
    pub(super) enabled: bool,
    /// In x2APIC mode.
    pub(super) x2apic: bool,
    /// Enabled in the spurious vector register.
    pub(super) software_enabled: bool,
    /// xAPIC destination format register, bits 31:28: 15 is flat, 0 is cluster.
    pub(super) model: u8,
    /// xAPIC logical id (LDR bits 31:24).
    pub(super) logical_id: u8,
}

/// Signals other than interrupts that were sent to a processor. When several are set they are handled in the order of
/// the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Signals {
    /// INIT: reset the processor (and its APIC, see [`super::Lapic::init`]) into wait-for-SIPI.
    pub init: bool,
    /// Start-up with this vector: if the processor waits for it, start in real mode at `vector << 12`.
    pub start_up: Option<u8>,
    /// Non-maskable interrupt.
    pub nmi: bool,
}

/// The part of a local APIC that any CPU may use at any time.
#[derive(Debug)]
#[repr(align(64))]
pub struct LapicShared {
    /// The x2APIC id, fixed for life; its low byte is the xAPIC id.
    id: u32,
    matching: AtomicU32,
    /// The PPR as last published: a hint for lowest-priority delivery.
    priority: AtomicU32,
    events: AtomicU32,
    start_up_vector: AtomicU32,
    requests: [AtomicU32; 8],
    /// Trigger mode of the last request of each vector: set for level.
    level: [AtomicU32; 8],
}

impl LapicShared {
    pub(super) fn new(id: u32) -> LapicShared {
        LapicShared {
            id,
            matching: AtomicU32::new(0),
            priority: AtomicU32::new(0),
            events: AtomicU32::new(0),
            start_up_vector: AtomicU32::new(0),
            requests: Default::default(),
            level: Default::default(),
        }
    }

    /// The x2APIC id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether anything was posted that the owner has not taken yet. Sequentially consistent.
    #[must_use]
    pub fn has_events(&self) -> bool {
        self.events.load(Ordering::SeqCst) != 0
    }

    /// Whether the APIC takes fixed interrupts (enabled in base MSR and spurious vector register). Sequentially consistent: see
    /// [`crate::vcpu::X86Vcpu::upcall_waits`].
    #[must_use]
    pub fn is_software_enabled(&self) -> bool {
        let both = MATCH_ENABLED | MATCH_SOFTWARE_ENABLED;
        self.matching.load(Ordering::SeqCst) & both == both
    }

    /// Requests an interrupt, whatever the destination registers say. Returns whether the owner has to be told: false if
    /// the APIC is disabled or the same request was already waiting.
    pub fn post(&self, vector: u8, trigger: Trigger) -> bool {
        if !self.is_software_enabled() {
            return false;
        }
        if vector < FIRST_LEGAL_VECTOR {
            return self.raise(EVENT_ILLEGAL_VECTOR);
        }
        let (w, bit) = place(vector);
        let (Some(requests), Some(level)) = (self.requests.get(w), self.level.get(w)) else { return false };
        // The map seldom changes; reading first keeps the common case free of a second atomic update.
        let was_level = level.load(Ordering::Relaxed) & bit != 0;
        match trigger {
            Trigger::Edge if was_level => {
                level.fetch_and(!bit, Ordering::Relaxed);
            }
            Trigger::Level if !was_level => {
                level.fetch_or(bit, Ordering::Relaxed);
            }
            _ => {}
        }
        if requests.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
            // Whoever set the bit also sets the summary and tells the owner.
            return false;
        }
        self.raise(1u32.wrapping_shl(w as u32));
        true
    }

    fn raise(&self, event: u32) -> bool {
        self.events.fetch_or(event, Ordering::SeqCst) & event != event
    }

    /// Does what an accepted message says. Returns whether the owner has to be told.
    fn accept(&self, message: &Message) -> bool {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.post(message.vector, message.trigger),
            _ if self.matching.load(Ordering::Relaxed) & MATCH_ENABLED == 0 => false,
            DeliveryMode::Nmi => self.raise(EVENT_NMI),
            DeliveryMode::Init => self.raise(EVENT_INIT),
            DeliveryMode::StartUp => {
                self.start_up_vector.store(u32::from(message.vector), Ordering::Relaxed);
                self.raise(EVENT_START_UP)
            }
            DeliveryMode::Smi | DeliveryMode::ExtInt => false,
        }
    }

    /// Whether a message is meant for this APIC (AMD APM vol. 2, 16.6.1 and 16.14; Intel SDM vol. 3, *Determining IPI
    /// Destination*).
    #[must_use]
    pub fn matches(&self, destination: u32, logical: bool) -> bool {
        let m = self.matching.load(Ordering::Relaxed);
        if m & MATCH_ENABLED == 0 {
            return false;
        }
        let x2apic = m & MATCH_X2APIC != 0;
        if destination == BROADCAST || (!x2apic && destination == BROADCAST_XAPIC) {
            return true;
        }
        match (logical, x2apic) {
            (false, true) => destination == self.id,
            // An id above 255 has no xAPIC form; an x2APIC sender still reaches it, to start a processor.
            (false, false) => destination == self.id & 0xff || destination == self.id,
            (true, true) => {
                let own = x2apic_logical_id(self.id);
                destination >> 16 == own >> 16 && destination & own & 0xffff != 0
            }
            (true, false) if destination > 0xff => false,
            (true, false) => {
                let own = m >> 24;
                if m & MATCH_FLAT != 0 {
                    destination & own != 0
                } else {
                    m & MATCH_CLUSTER != 0 && destination >> 4 == own >> 4 && destination & own & 0xf != 0
                }
            }
        }
    }

    pub(super) fn publish_matching(&self, m: Matching) {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let value = flag(m.enabled, MATCH_ENABLED)
            | flag(m.x2apic, MATCH_X2APIC)
            | flag(m.software_enabled, MATCH_SOFTWARE_ENABLED)
            | flag(m.model == 0xf, MATCH_FLAT)
            | flag(m.model == 0, MATCH_CLUSTER)
            | u32::from(m.logical_id) << 24;
        self.matching.store(value, Ordering::SeqCst);
    }

    pub(super) fn publish_priority(&self, ppr: u8) {
        self.priority.store(u32::from(ppr), Ordering::Relaxed);
    }

    /// Owner: whether interrupts or errors wait to be merged. One load; the hot path.
    pub(super) fn has_requests(&self) -> bool {
        self.events.load(Ordering::Acquire) & (EVENT_REQUESTS | EVENT_ILLEGAL_VECTOR) != 0
    }

    /// Owner: takes all requests, giving `each` a word's number, its requested vectors and which of them are level
    /// triggered. Returns whether a message with an illegal vector came in.
    pub(super) fn take_requests(&self, mut each: impl FnMut(usize, u32, u32)) -> bool {
        let taken = self.events.fetch_and(EVENT_SIGNALS, Ordering::SeqCst);
        for (w, (requests, level)) in self.requests.iter().zip(&self.level).enumerate() {
            if taken & 1u32.wrapping_shl(w as u32) != 0 {
                let bits = requests.swap(0, Ordering::SeqCst);
                each(w, bits, level.load(Ordering::Relaxed));
            }
        }
        taken & EVENT_ILLEGAL_VECTOR != 0
    }

    /// Owner: takes INIT, SIPI and NMI.
    pub(super) fn take_signals(&self) -> Signals {
        if self.events.load(Ordering::Acquire) & EVENT_SIGNALS == 0 {
            return Signals::default();
        }
        let taken = self.events.fetch_and(!EVENT_SIGNALS, Ordering::SeqCst);
        Signals {
            init: taken & EVENT_INIT != 0,
            start_up: (taken & EVENT_START_UP != 0).then(|| self.start_up_vector.load(Ordering::Relaxed) as u8),
            nmi: taken & EVENT_NMI != 0,
        }
    }
}

/// The logical id that x2APIC mode derives from the APIC id: cluster in bits 31:16, one bit of 16 below.
pub(super) const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1u32.wrapping_shl(id & 0xf)
}

/// Which APICs an inter-processor interrupt goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IpiTarget {
    /// Those that the message's destination names.
    Destination,
    /// All, the sender included.
    All,
    /// All but the sender.
    Others,
}

/// An inter-processor interrupt that a guest sent by its ICR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipi {
    /// Where it goes.
    pub target: IpiTarget,
    /// The message; its destination counts only for [`IpiTarget::Destination`].
    pub message: Message,
}

/// Delivers a message to the APICs of a domain. `apics` is in the order of vCPU numbers; `wake` is called with the index
/// of each that has something new, so that its vCPU can be made to look. Returns the number of APICs that it was meant
/// for. Bound on work: two passes over `apics`.
pub fn deliver<A>(apics: &[A], message: &Message, mut wake: impl FnMut(usize)) -> usize
where
    A: Deref<Target = LapicShared>,
{
    if message.mode == DeliveryMode::LowestPriority {
        return deliver_lowest_priority(apics, message, wake);
    }
    // Xen numbers APICs by twice the vCPU number, so one unicast message usually needs no search.
    if !message.logical
        && let index = (message.destination >> 1) as usize
        && let Some(apic) = apics.get(index)
        && apic.id() == message.destination
        && message.destination < BROADCAST_XAPIC
        && apic.matches(message.destination, false)
    {
        if apic.accept(message) {
            wake(index);
        }
        return 1;
    }
    let mut matched = 0usize;
    for (index, apic) in apics.iter().enumerate() {
        if apic.matches(message.destination, message.logical) {
            matched = matched.saturating_add(1);
            if apic.accept(message) {
                wake(index);
            }
        }
    }
    matched
}

/// Delivers to the one enabled destination of lowest priority; equals are told apart by the vector, so that different
/// interrupts spread over processors and each one stays where it is.
fn deliver_lowest_priority<A>(apics: &[A], message: &Message, mut wake: impl FnMut(usize)) -> usize
where
    A: Deref<Target = LapicShared>,
{
    let candidate =
        |apic: &LapicShared| apic.is_software_enabled() && apic.matches(message.destination, message.logical);
    let class = |apic: &LapicShared| apic.priority.load(Ordering::Relaxed) >> 4;
    let (mut lowest, mut count) = (u32::MAX, 0u32);
    for apic in apics.iter().filter(|a| candidate(a)) {
        let priority = class(apic);
        if priority < lowest {
            (lowest, count) = (priority, 1);
        } else if priority == lowest {
            count = count.saturating_add(1);
        }
    }
    let nth = u32::from(message.vector).checked_rem(count).unwrap_or(0);
    // Priorities may change between the passes; then no one may be left at the lowest, and any candidate does.
    let chosen = apics
        .iter()
        .enumerate()
        .filter(|(_, a)| candidate(a) && class(a) == lowest)
        .nth(nth as usize)
        .or_else(|| apics.iter().enumerate().find(|(_, a)| candidate(a)));
    match chosen {
        Some((index, apic)) => {
            if apic.accept(message) {
                wake(index);
            }
            1
        }
        None => 0,
    }
}

/// Delivers an inter-processor interrupt sent by the APIC `apics[sender]`. Otherwise as [`deliver`].
pub fn deliver_ipi<A>(apics: &[A], sender: usize, ipi: &Ipi, mut wake: impl FnMut(usize)) -> usize
where
    A: Deref<Target = LapicShared>,
{
    let everyone = match ipi.target {
        IpiTarget::Destination => return deliver(apics, &ipi.message, wake),
        IpiTarget::All => true,
        IpiTarget::Others => false,
    };
    if ipi.message.mode == DeliveryMode::LowestPriority {
        // Broadcast lowest priority is defined for "all but self" only; any one of the others will do.
        let others = |(i, a): &(usize, &A)| (everyone || *i != sender) && a.is_software_enabled();
        let Some((index, apic)) = apics.iter().enumerate().find(others) else { return 0 };
        if apic.accept(&ipi.message) {
            wake(index);
        }
        return 1;
    }
    let mut matched = 0usize;
    for (index, apic) in apics.iter().enumerate() {
        if everyone || index != sender {
            matched = matched.saturating_add(1);
            if apic.accept(&ipi.message) {
                wake(index);
            }
        }
    }
    matched
}
