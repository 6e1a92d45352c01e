//! The list of domains.

use radon_abi::errno::Errno;
use radon_abi::sysctl::GetDomainInfoList;

use super::{read, write};
use crate::control::domain_info;
use crate::hypercall::{Args, Caller, OpResult};
use crate::types::{DomainId, GuestVirtAddr};

/// `XEN_SYSCTL_getdomaininfolist`: describes domains in the order of their numbers, from one on.
///
/// Work: the vCPUs of the domains that there are; it is not continued, since nobody but the control domain asks. Errors:
/// `EFAULT`.
pub(super) fn get_domain_info_list(caller: &Caller<'_>, args: Args) -> OpResult {
    let mut r: GetDomainInfoList = read(caller, args)?;
    let hv = caller.hv;
    hv.control.reap(hv, &mut || caller.spend());
    let mut next = Some(DomainId(r.first_domain));
    r.num_domains = 0;
    while r.num_domains < r.max_domains
        && let Some(from) = next
        && let Some(domain) = hv.domains.next_from(from)
    {
        next = domain.id.0.checked_add(1).map(DomainId);
        let info = domain_info(hv, &domain);
        let at = u64::from(r.num_domains);
        caller.write_at(GuestVirtAddr(r.buffer), at, &info).map_err(|_| Errno::EFAULT)?;
        r.num_domains = r.num_domains.saturating_add(1);
    }
    write(caller, args, &r)
}
