//! What the toolstack sees of a domain.

use radon_abi::domctl as abi;
use radon_abi::domctl::DomainInfo;

use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::types::PAGE_SHIFT;

/// Frames that can be told of where a domain may have any number (Xen keeps them in 32 bits).
const MANY_FRAMES: u64 = u32::MAX as u64;

/// Describes a domain (`XEN_DOMCTL_getdomaininfo`). Work: its vCPUs.
#[must_use]
pub fn domain_info(hv: &Hypervisor, domain: &Domain) -> DomainInfo {
    let now = hv.platform.now();
    let mut online = 0u32;
    let mut state = abi::XEN_DOMINF_BLOCKED;
    for vcpu in domain.vcpus() {
        let unit = &vcpu.sched.unit;
        if unit.is_down() {
            continue;
        }
        online = online.saturating_add(1);
        if !unit.is_blocked() {
            state &= !abi::XEN_DOMINF_BLOCKED;
        }
        if unit.runstate().state() == crate::time::State::Running {
            state |= abi::XEN_DOMINF_RUNNING;
        }
    }
    let config = domain.control.config();
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let shutdown = domain.shutdown_reason();
    let flags = flag(online != 0, state)
        | flag(domain.control.is_dying(), abi::XEN_DOMINF_DYING)
        | flag(shutdown.is_some(), abi::XEN_DOMINF_SHUTDOWN)
        | flag(domain.control.is_paused(), abi::XEN_DOMINF_PAUSED)
        | flag(config.flags & abi::XEN_DOMCTL_CDF_XS_DOMAIN != 0, abi::XEN_DOMINF_XS_DOMAIN)
        | abi::XEN_DOMINF_HVM_GUEST
        | abi::XEN_DOMINF_HAP
        | (shutdown.unwrap_or(0) & 0xff) << abi::XEN_DOMINF_SHUTDOWN_SHIFT;
    let account = hv.frames.account(domain.id);
    let address_bits = domain.p2m.limit().0.checked_ilog2().unwrap_or(0).saturating_add(PAGE_SHIFT);
    DomainInfo {
        domain: domain.id.0,
        flags,
        tot_pages: account.pages().saturating_add(account.reserved()),
        max_pages: account.limit().min(MANY_FRAMES),
        outstanding_pages: account.claimed(),
        shared_info_frame: hv.frames.gfn(domain.shared_info).map_or(u64::MAX, |g| g.0),
        cpu_time: domain.sched.cpu_time(now).0,
        nr_online_vcpus: online,
        max_vcpu_id: (domain.vcpus().len() as u32).checked_sub(1).unwrap_or(abi::XEN_INVALID_MAX_VCPU_ID),
        // A label means nothing without a security module.
        ssidref: 0,
        handle: domain.control.handle(),
        cpupool: domain.sched.pool(),
        gpaddr_bits: address_bits as u8,
        arch_config: config.arch,
        ..DomainInfo::default()
    }
}
