//! What the simulator remembers of domains, so that it can make calls that mean something. Nothing is checked against it:
//! the hypervisor's own answers count.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use radon_core::domain::Domain;

/// Where guests put the structures of hypercalls: half a KiB for each vCPU.
pub const ARGUMENTS: u64 = 0x1000;
/// Frames of the page tables of guests with paging.
pub const TABLES: [u64; 2] = [2, 3];
/// Where guests put lists: a page for each vCPU.
pub const LISTS: u64 = 0x4000;
/// Frames for what the hypervisor writes to by itself (`vcpu_info`, FIFO queues, areas). No call names them otherwise.
pub const CONTROL: std::ops::Range<u64> = 9..15;
/// The first frame of ordinary memory.
pub const FIRST: u64 = 16;
/// Frames where others' pages are mapped.
pub const WINDOW: std::ops::Range<u64> = 0x4000..0x4100;
/// Where guests may have 2 MiB in one piece.
pub const LARGE: u64 = 0x200;
/// Most vCPUs of a domain.
pub const VCPUS: u32 = 4;

/// Numbers that a domain has come across lately.
#[derive(Clone, Debug)]
pub struct Recent<T> {
    slots: [T; 16],
    next: usize,
}

impl<T: Copy + Default> Default for Recent<T> {
    fn default() -> Self {
        Recent { slots: [T::default(); 16], next: 0 }
    }
}

impl<T: Copy> Recent<T> {
    /// Remembers one, and forgets the oldest.
    pub fn push(&mut self, value: T) {
        self.slots[self.next % 16] = value;
        self.next += 1;
    }

    /// One of them.
    pub fn pick(&self, rng: &mut crate::rng::Rng) -> T {
        let known = self.next.clamp(1, 16) as u64;
        self.slots[rng.below(known) as usize]
    }
}

/// What is known of a domain.
pub struct Model {
    /// Which domain of that number this is about.
    pub domain: Weak<Domain>,
    /// Its guest uses paging.
    pub paging: bool,
    /// How far its guest is with starting.
    pub boot: u32,
    /// Frames of small RAM.
    pub ram: u64,
    /// Ports.
    pub ports: Recent<u32>,
    /// Handles of mapped grants, with the address.
    pub handles: Recent<(u32, u64)>,
    /// Version of its grant table.
    pub grant_version: u32,
    /// It has chosen how upcalls come.
    pub has_callback: bool,
}

impl Model {
    /// Of a domain that was just met.
    #[must_use]
    pub fn new(domain: &Arc<Domain>, paging: bool, ram: u64) -> Model {
        Model {
            domain: Arc::downgrade(domain),
            paging,
            boot: 0,
            ram,
            ports: Recent::default(),
            handles: Recent::default(),
            grant_version: 1,
            has_callback: false,
        }
    }
}

/// All models, by number of the domain.
pub type Models = BTreeMap<u16, Model>;
