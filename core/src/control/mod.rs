//! What the control domain does with other domains and the machine: [`domctl`] and [`sysctl`], and what has to be
//! remembered for them.
//!
//! **A domain's life.** It is made paused, with a number, an empty p2m and no vCPUs; `XEN_DOMCTL_max_vcpus` gives it its
//! vCPUs, all at once; the toolstack fills memory and registers and takes its pause back. `XEN_DOMCTL_destroydomain` takes
//! everything from it in steps ([`domctl`]'s module `destroy`). A domain that has nothing left is *dead*; it stays in the
//! list, and keeps its number, until nobody refers to it or to its frames any more ([`Control::reap`]).
//!
//! Lock protocol: [`DomainControl`] has a lock of rank [`Rank::Domain`], held for a few instructions. Operations that
//! change a domain exclude each other by [`Control::enter`], which never waits: an operation that finds another under way
//! is tried again by its vCPU.

mod bitmap;
pub mod domctl;
mod info;
pub mod sysctl;
#[cfg(test)]
pub(crate) mod testing;

use crate::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use alloc::boxed::Box;
use alloc::vec::Vec;

use radon_abi::domctl::{CreateDomain, DomainHandle, XEN_DOMCTL_CDF_HAP, XEN_DOMCTL_CDF_HVM};
use radon_abi::errno::Errno;
use spin::once::Once;

use crate::domain::Domain;
use crate::grant;
use crate::hypervisor::Hypervisor;
use crate::ops::power::PowerTables;
use crate::platform::ArchFactory;
use crate::sync::{Lock, Rank};
use crate::types::DomainId;

pub use info::domain_info;

/// Table pages that one step of [`Control::reap`] frees.
const REAP_PAGES: u64 = 64;

/// What control operations keep for the machine.
pub struct Control {
    factory: Once<Box<dyn ArchFactory>>,
    busy: AtomicBool,
    /// The number given last.
    last_number: AtomicU16,
    /// Domains that are dead and in the list still.
    dead: AtomicU32,
    /// Domains that nobody can find any more, whose page tables are being freed.
    graves: Lock<Vec<Domain>>,
    /// Most frames of grant table that a domain may be given, and of grant mappings.
    grant_frames: AtomicU32,
    maptrack_frames: AtomicU32,
    /// What dom0 said of processors' power states.
    pub(crate) power: PowerTables,
    /// The deepest idle state that was asked for.
    idle_limit: sysctl::power::IdleLimit,
}

impl Default for Control {
    fn default() -> Self {
        Control {
            factory: Once::new(),
            busy: AtomicBool::new(false),
            last_number: AtomicU16::new(0),
            dead: AtomicU32::new(0),
            graves: Lock::new(Rank::Domain, Vec::new()),
            grant_frames: AtomicU32::new(grant::DEFAULT_FRAMES),
            maptrack_frames: AtomicU32::new(grant::DEFAULT_MAPTRACK_FRAMES),
            power: PowerTables::default(),
            idle_limit: sysctl::power::IdleLimit::default(),
        }
    }
}

/// An operation that changes a domain is under way; dropping this ends it.
pub struct Busy<'a>(&'a Control);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Release);
    }
}

impl Control {
    /// Says who makes domains, once, at start-up.
    pub fn set_factory(&self, factory: Box<dyn ArchFactory>) {
        self.factory.call_once(|| factory);
    }

    /// Who makes domains.
    ///
    /// # Errors
    /// `EOPNOTSUPP` if nobody was named.
    pub fn factory(&self) -> Result<&dyn ArchFactory, Errno> {
        self.factory.get().map(|f| &**f).ok_or(Errno::EOPNOTSUPP)
    }

    /// Sets how large grant tables may be, in frames, and how many grants may be mapped, in units of 256
    /// (`gnttab_max_frames=`, `gnttab_max_maptrack_frames=`).
    pub fn set_grant_limits(&self, frames: u32, maptrack_frames: u32) {
        self.grant_frames.store(frames, Ordering::Relaxed);
        self.maptrack_frames.store(maptrack_frames, Ordering::Relaxed);
    }

    /// What [`Control::set_grant_limits`] set.
    pub(crate) fn grant_limits(&self) -> (u32, u32) {
        (self.grant_frames.load(Ordering::Relaxed), self.maptrack_frames.load(Ordering::Relaxed))
    }

    /// Begins an operation that changes a domain; `None` if one is under way.
    #[must_use]
    pub fn enter(&self) -> Option<Busy<'_>> {
        (!self.busy.swap(true, Ordering::Acquire)).then_some(Busy(self))
    }

    /// Whether page tables of domains that are gone wait to be freed, for audits.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn has_graves(&self) -> bool {
        !self.graves.lock().is_empty()
    }

    /// A domain of the list is dead from now on.
    fn died(&self) {
        self.dead.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes dead domains that nobody refers to any more out of the list, and frees their page tables. `spend` is asked
    /// before each step; returns whether everything was done that could be.
    pub fn reap(&self, hv: &Hypervisor, spend: &mut dyn FnMut() -> bool) -> bool {
        let mut next = Some(DomainId(0));
        while self.dead.load(Ordering::Acquire) != 0
            && let Some(from) = next
            && let Some(id) = hv.domains.next_from(from).map(|d| d.id)
        {
            if !spend() {
                return false;
            }
            next = id.0.checked_add(1).map(DomainId);
            let unused = |d: &Domain| d.control.is_dead() && hv.frames.account(d.id).pages() == 0;
            if let Some(domain) = hv.domains.take_unused(id, unused) {
                self.dead.fetch_sub(1, Ordering::AcqRel);
                // Until now somebody might have written there: the clock, an event.
                hv.frames.release(domain.shared_info, 1);
                // Another CPU may have been about to promise it memory when it was destroyed. Ending that cannot fail.
                let _ = hv.frames.claim(domain.id, 0);
                let _ = hv.frames.set_reserve(domain.id, 0);
                hv.frames.account(domain.id).set_limit(0);
                hv.frames.close_account(domain.id);
                self.graves.lock().push(domain);
            }
        }
        loop {
            let Some(domain) = self.graves.lock().pop() else { return true };
            loop {
                if !spend() {
                    self.graves.lock().push(domain);
                    return false;
                }
                if !domain.p2m.table().free(&hv.frames, REAP_PAGES) {
                    break;
                }
            }
        }
    }
}

/// How far a domain's destruction is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// It lives.
    Alive,
    /// It is being taken apart.
    Dying,
    /// It has nothing left.
    Dead,
}

/// What control operations keep for a domain.
pub struct DomainControl {
    state: Lock<State>,
}

/// What the lock of [`DomainControl`] guards.
struct State {
    /// How it was created.
    config: CreateDomain,
    /// The toolstack's name for it.
    handle: DomainHandle,
    /// Pauses by the toolstack that are in force.
    pauses: u32,
    phase: Phase,
    /// The toolstack has let it run.
    has_run: bool,
    /// Violations of memory access rules wait for a listener.
    access_required: bool,
    /// An operation on the log of frames that are written to is under way.
    logging: Option<domctl::Progress>,
}

impl Default for DomainControl {
    /// Of a domain that the hypervisor made itself: dom0.
    fn default() -> Self {
        let config = CreateDomain { flags: XEN_DOMCTL_CDF_HVM | XEN_DOMCTL_CDF_HAP, ..CreateDomain::default() };
        let state = State {
            config,
            handle: [0; 16],
            pauses: 0,
            phase: Phase::Alive,
            has_run: true,
            access_required: false,
            logging: None,
        };
        DomainControl { state: Lock::new(Rank::Domain, state) }
    }
}

impl DomainControl {
    /// The domain is a new one of this configuration, with one pause in force.
    fn begin(&self, config: &CreateDomain) {
        let mut state = self.state.lock();
        state.config = *config;
        state.handle = config.handle;
        state.pauses = 1;
        state.has_run = false;
    }

    /// Whether the toolstack has let it run.
    #[must_use]
    pub fn has_run(&self) -> bool {
        self.state.lock().has_run
    }

    /// Whether violations of memory access rules wait for a listener.
    #[must_use]
    pub fn access_required(&self) -> bool {
        self.state.lock().access_required
    }

    /// How the domain was created.
    #[must_use]
    pub fn config(&self) -> CreateDomain {
        self.state.lock().config
    }

    /// The toolstack's name for it.
    #[must_use]
    pub fn handle(&self) -> DomainHandle {
        self.state.lock().handle
    }

    /// Whether the toolstack has paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state.lock().pauses != 0
    }

    /// Whether it is being destroyed or dead.
    #[must_use]
    pub fn is_dying(&self) -> bool {
        self.state.lock().phase >= Phase::Dying
    }

    /// Whether it has nothing left.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state.lock().phase == Phase::Dead
    }
}
