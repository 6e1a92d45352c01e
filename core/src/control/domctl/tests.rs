use radon_abi::domctl as abi;
use radon_abi::errno::Errno;

use super::*;
use crate::control::testing::{domctl_op, host};

#[test]
fn a_domain_is_described_by_its_number_or_the_next() {
    let mut host = host();
    host.add_domain(1);
    let info = |n| domctl_op(&host, abi::XEN_DOMCTL_GETDOMAININFO, n, &abi::DomainInfo::default());
    assert_eq!((info(0).0, info(0).1.domain), (SUCCESS, 0));
    assert_eq!(info(1).1.domain, 1);
    assert_eq!(info(2).0, Err(Errno::ESRCH));
    assert_eq!(info(0x7ff0).0, Err(Errno::EINVAL));
}

#[test]
fn pauses_count() {
    let mut host = host();
    host.add_domain(1);
    let call = |cmd, n| domctl_op(&host, cmd, n, &0u64).0;
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), Err(Errno::EINVAL));
    assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 0), Err(Errno::EINVAL));
    assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 9), Err(Errno::ESRCH));
    for _ in 0..2 {
        assert_eq!(call(abi::XEN_DOMCTL_PAUSEDOMAIN, 1), SUCCESS);
    }
    let flags = || domctl_op(&host, abi::XEN_DOMCTL_GETDOMAININFO, 1, &abi::DomainInfo::default()).1.flags;
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), SUCCESS);
    assert_ne!(flags() & abi::XEN_DOMINF_PAUSED, 0);
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), SUCCESS);
    assert_eq!(flags() & abi::XEN_DOMINF_PAUSED, 0);
    assert_eq!(call(abi::XEN_DOMCTL_UNPAUSEDOMAIN, 1), Err(Errno::EINVAL));
}
