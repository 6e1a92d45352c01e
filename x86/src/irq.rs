//! Physical device interrupts: which host vector stands for which interrupt of the domain that owns the device.
//!
//! Vectors belong to a CPU: the table has a word for each (CPU, vector). A word is written when a source is bound and
//! read by the interrupt handler without a lock, so handling takes one load. A source is a pin of an I/O APIC or a
//! message (MSI, MSI-X) with the guest's own message inside the word.
//!
//! Locks: none. Binding and unbinding use compare-and-exchange.

use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use radon_abi::errno::Errno;
use radon_core::types::{CpuId, DomainId};

use crate::devices::interrupt::{DeliveryMode, Message, Trigger};
use crate::machine::HostVector;

/// Vectors given to devices; the rest are exceptions and the hypervisor's own.
pub const DEVICE_VECTORS: RangeInclusive<u8> = 0x30..=0xef;
const VECTORS: usize = 256;

const KIND_FREE: u64 = 0;
const KIND_RESERVED: u64 = 1;
const KIND_PIN: u64 = 2;
const KIND_MESSAGE: u64 = 3;
const KIND_SHIFT: u32 = 62;
const DOMAIN_SHIFT: u32 = 46;

/// What a host vector stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A pin of an I/O APIC.
    Pin {
        /// Its global system interrupt.
        gsi: u32,
        /// It is level-triggered: stays masked until the guest has ended the interrupt.
        level: bool,
    },
    /// A message, with what the guest wants delivered.
    Message(Message),
}

/// A bound source and the domain it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The owner.
    pub domain: DomainId,
    /// What it is.
    pub source: Source,
}

fn mode_bits(mode: DeliveryMode) -> u64 {
    match mode {
        DeliveryMode::Fixed => 0,
        DeliveryMode::LowestPriority => 1,
        DeliveryMode::Smi => 2,
        DeliveryMode::Nmi => 4,
        DeliveryMode::Init => 5,
        DeliveryMode::StartUp => 6,
        DeliveryMode::ExtInt => 7,
    }
}

fn encode(b: &Binding) -> u64 {
    let domain = u64::from(b.domain.0) << DOMAIN_SHIFT;
    match b.source {
        Source::Pin { gsi, level } => (KIND_PIN << KIND_SHIFT) | domain | u64::from(gsi) | (u64::from(level) << 32),
        Source::Message(m) => {
            let level = u64::from(m.trigger == Trigger::Level);
            (KIND_MESSAGE << KIND_SHIFT)
                | domain
                | u64::from(m.destination)
                | (u64::from(m.vector) << 32)
                | (mode_bits(m.mode) << 40)
                | (u64::from(m.logical) << 43)
                | (level << 44)
        }
    }
}

fn decode(word: u64) -> Option<Binding> {
    let domain = DomainId((word >> DOMAIN_SHIFT) as u16);
    let flag = |n: u32| (word >> n) & 1 != 0;
    let source = match word >> KIND_SHIFT {
        KIND_PIN => Source::Pin { gsi: word as u32, level: flag(32) },
        KIND_MESSAGE => Source::Message(Message {
            destination: word as u32,
            vector: (word >> 32) as u8,
            mode: DeliveryMode::from_bits((word >> 40) as u32 & 7)?,
            logical: flag(43),
            trigger: if flag(44) { Trigger::Level } else { Trigger::Edge },
        }),
        _ => return None,
    };
    Some(Binding { domain, source })
}

/// The table of all host vectors.
pub struct Router {
    words: Vec<AtomicU64>,
    /// Where the next allocation starts to look, so that vectors and their priority classes are spread.
    next: AtomicU32,
}

impl Router {
    /// A table for this many CPUs, all vectors free.
    #[must_use]
    pub fn new(cpus: u32) -> Router {
        let words = (cpus as usize).saturating_mul(VECTORS);
        Router { words: (0..words).map(|_| AtomicU64::new(0)).collect(), next: AtomicU32::new(0) }
    }

    fn word(&self, at: HostVector) -> Option<&AtomicU64> {
        self.words.get(at.cpu.index().checked_mul(VECTORS)?.checked_add(usize::from(at.vector))?)
    }

    /// Takes a free vector on `cpu`.
    ///
    /// # Errors
    /// `ENOSPC` if the CPU has none left.
    pub fn allocate(&self, cpu: CpuId) -> Result<HostVector, Errno> {
        let count = u32::from(DEVICE_VECTORS.end().saturating_sub(*DEVICE_VECTORS.start())).saturating_add(1);
        // A stride that is coprime to the count visits each vector once and changes the priority class each time.
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        for n in 0..count {
            let offset = start.wrapping_add(n).wrapping_mul(17).checked_rem(count).unwrap_or(0);
            let vector = DEVICE_VECTORS.start().saturating_add(offset as u8);
            let at = HostVector { cpu, vector };
            let Some(word) = self.word(at) else { break };
            let reserved = KIND_RESERVED << KIND_SHIFT;
            if word.compare_exchange(KIND_FREE, reserved, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(at);
            }
        }
        Err(Errno::ENOSPC)
    }

    /// Says what an allocated vector stands for from now on.
    pub fn bind(&self, at: HostVector, binding: &Binding) {
        if let Some(word) = self.word(at) {
            word.store(encode(binding), Ordering::Release);
        }
    }

    /// Gives a vector back. The device must not raise it any more.
    pub fn free(&self, at: HostVector) {
        if let Some(word) = self.word(at) {
            word.store(KIND_FREE, Ordering::Release);
        }
    }

    /// What a vector stands for.
    #[must_use]
    pub fn lookup(&self, at: HostVector) -> Option<Binding> {
        decode(self.word(at)?.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(destination: u32, vector: u8) -> Binding {
        let mode = DeliveryMode::LowestPriority;
        let m = Message { destination, logical: true, mode, vector, trigger: Trigger::Level };
        Binding { domain: DomainId(7), source: Source::Message(m) }
    }

    #[test]
    fn a_binding_reads_back_as_it_was_written() {
        let router = Router::new(2);
        let at = router.allocate(CpuId(1)).unwrap();
        assert_eq!(router.lookup(at), None, "allocated but not bound");
        for binding in [
            message(0xffff_ffff, 0xff),
            message(0, 0x10),
            Binding { domain: DomainId(0x7fef), source: Source::Pin { gsi: u32::MAX, level: true } },
            Binding { domain: DomainId(0), source: Source::Pin { gsi: 0, level: false } },
        ] {
            router.bind(at, &binding);
            assert_eq!(router.lookup(at), Some(binding));
        }
        router.free(at);
        assert_eq!(router.lookup(at), None);
    }

    #[test]
    fn every_device_vector_is_given_out_once_and_no_other() {
        let router = Router::new(1);
        let mut seen = std::collections::BTreeSet::new();
        while let Ok(at) = router.allocate(CpuId(0)) {
            assert!(DEVICE_VECTORS.contains(&at.vector));
            assert!(seen.insert(at.vector));
        }
        assert_eq!(seen.len(), DEVICE_VECTORS.count());
        assert_eq!(router.allocate(CpuId(0)), Err(Errno::ENOSPC));
        assert_eq!(router.allocate(CpuId(9)), Err(Errno::ENOSPC), "no such CPU");
        router.free(HostVector { cpu: CpuId(0), vector: 0x42 });
        assert_eq!(router.allocate(CpuId(0)).unwrap().vector, 0x42);
    }
}
