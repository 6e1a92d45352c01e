//! The clocks that a guest reads from memory: `vcpu_time_info` (system time from the TSC) and the wall clock in
//! `shared_info`.
//!
//! Both carry a version that is odd while the hypervisor writes, so that a reader on another CPU can tell.

use crate::sync::atomic::{AtomicI64, Ordering};

use radon_abi::errno::Errno;
use radon_abi::xen::{VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT, shared_info};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::platform::{ClockParameters, PhysMemory};
use crate::sync::{Lock, Rank};
use crate::types::{DomainId, MachineAddr, Nanoseconds};

/// Offset of `time` in `struct vcpu_info`.
const VCPU_INFO_TIME: u64 = 32;

const SECOND: u64 = 1_000_000_000;

/// The machine's wall clock: how far it was set away from what it was at boot.
#[derive(Default)]
pub struct WallClock {
    correction: AtomicI64,
}

impl WallClock {
    /// Nanoseconds since 1970-01-01 UTC at system time 0.
    fn at_boot(&self, hv: &Hypervisor) -> u64 {
        hv.platform.wall_clock_at_boot().saturating_add_signed(self.correction.load(Ordering::Acquire))
    }
}

/// A domain's wall clock.
pub struct DomainTime {
    /// Seconds that its wall clock is ahead of the machine's.
    offset: AtomicI64,
    /// Version of what is in its shared information page, even between updates.
    version: Lock<u32>,
}

impl Default for DomainTime {
    fn default() -> Self {
        DomainTime { offset: AtomicI64::new(0), version: Lock::new(Rank::Vcpu, 0) }
    }
}

impl DomainTime {
    /// Seconds that the domain's wall clock is ahead of the machine's.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Relaxed)
    }
}

/// The ABI's form of the clock's parameters, with version 0.
#[must_use]
pub fn time_info(clock: &ClockParameters) -> VcpuTimeInfo {
    VcpuTimeInfo {
        version: 0,
        pad0: 0,
        tsc_timestamp: clock.tsc_base,
        system_time: clock.base_ns.0,
        tsc_to_system_mul: clock.mul,
        tsc_shift: clock.shift,
        flags: XEN_PVCLOCK_TSC_STABLE_BIT,
        pad1: [0; 2],
    }
}

/// Writes the time information of a `vcpu_info`, 4-byte aligned, under the version protocol. `info` has the version
/// that holds afterwards (even).
pub fn write_time_info(memory: &dyn PhysMemory, vcpu_info: MachineAddr, info: &VcpuTimeInfo) {
    let Some(at) = vcpu_info.checked_add(VCPU_INFO_TIME) else { return };
    let (_, body) = info.as_bytes().split_at(size_of::<u32>());
    memory.store_u32(at, info.version.wrapping_sub(1));
    if let Some(to) = at.checked_add(size_of::<u32>() as u64) {
        memory.write(to, body);
    }
    memory.store_u32(at, info.version);
}

/// Writes the domain's wall clock into its shared information page.
pub fn publish_wall_clock(hv: &Hypervisor, domain: &Domain) {
    let (at, high) = match domain.events.is_compat() {
        true => (shared_info::COMPAT_WC_VERSION, shared_info::COMPAT_WC_SEC_HI),
        false => (shared_info::WC_VERSION, shared_info::WC_SEC_HI),
    };
    let memory = hv.platform.memory();
    let store = |offset: u64, value: u32| {
        if let Some(field) = domain.shared_info.addr().checked_add(offset) {
            memory.store_u32(field, value);
        }
    };
    // What it is now is read under the lock, so that the last one to write has seen what all set that came before.
    let mut version = domain.time.version.lock();
    let offset = domain.time.offset().saturating_mul(SECOND as i64);
    let wall = hv.timers.wall_clock.at_boot(hv).saturating_add_signed(offset);
    let (seconds, nanoseconds) = (wall / SECOND, wall % SECOND);
    store(at, version.wrapping_add(1));
    // Truncations: the parts of a 64-bit count, and a number below 10^9.
    store(at.wrapping_add(4), seconds as u32);
    store(at.wrapping_add(8), nanoseconds as u32);
    store(high, (seconds >> 32) as u32);
    *version = version.wrapping_add(2);
    store(at, *version);
}

/// The domain says in which mode it is: its shared pages get the layout of that mode.
pub fn set_guest_mode(hv: &Hypervisor, domain: &Domain, compat: bool) {
    if domain.events.is_compat() != compat {
        domain.events.set_compat(compat);
        publish_wall_clock(hv, domain);
    }
}

/// Sets the machine's wall clock: it was `seconds` and `nanoseconds` since 1970-01-01 UTC at system time `at`. All
/// domains see it.
///
/// # Errors
/// `EINVAL` if the nanoseconds are a second or more, or the time does not fit 64 bits of nanoseconds.
pub fn set_wall_clock(hv: &Hypervisor, seconds: u64, nanoseconds: u32, at: Nanoseconds) -> Result<(), Errno> {
    if u64::from(nanoseconds) >= SECOND {
        return Err(Errno::EINVAL);
    }
    let wall = seconds.checked_mul(SECOND).and_then(|s| s.checked_add(u64::from(nanoseconds)));
    let at_boot = wall.and_then(|w| w.checked_sub(at.0)).ok_or(Errno::EINVAL)?;
    let correction = i64::try_from(at_boot)
        .ok()
        .zip(i64::try_from(hv.platform.wall_clock_at_boot()).ok())
        .and_then(|(new, old)| new.checked_sub(old))
        .ok_or(Errno::EINVAL)?;
    hv.timers.wall_clock.correction.store(correction, Ordering::Release);
    let mut next = DomainId(0);
    while let Some(domain) = hv.domains.next_from(next) {
        publish_wall_clock(hv, &domain);
        match domain.id.0.checked_add(1) {
            Some(id) => next = DomainId(id),
            None => break,
        }
    }
    Ok(())
}

/// Sets how many seconds the domain's wall clock is ahead of the machine's.
pub fn set_wall_clock_offset(hv: &Hypervisor, domain: &Domain, seconds: i64) {
    domain.time.offset.store(seconds, Ordering::Relaxed);
    publish_wall_clock(hv, domain);
}

/// The machine's wall clock now, in nanoseconds since 1970-01-01 UTC.
#[must_use]
pub fn wall_clock_now(hv: &Hypervisor) -> u64 {
    hv.timers.wall_clock.at_boot(hv).saturating_add(hv.platform.now().0)
}
