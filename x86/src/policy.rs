//! A domain's CPUID policy as the toolstack reads and replaces it.

use alloc::boxed::Box;
use alloc::vec;
use core::ops::Deref;
use core::sync::atomic::{AtomicUsize, Ordering};

use radon_abi::domctl::{CpuidLeaf, MsrEntry};
use radon_abi::errno::Errno;
use radon_core::platform::{CpuPolicyData, PolicyError};
use spin::once::Once;

use crate::cpuid::{CpuidPolicy, NO_SUBLEAF, PolicyLeaf};
use crate::msr::index as msr;

/// How often a policy can be replaced. The toolstack does it once, twice when it restores a domain.
const CHANGES: usize = 8;

/// PLATFORM_INFO: CPUID faulting is available.
const PLATFORM_CPUID_FAULTING: u64 = 1 << 31;

/// A domain's CPUID policy. Reading takes no lock, since every CPUID exit does it: a replaced policy stays where it is
/// until the domain goes.
pub struct CurrentPolicy {
    first: CpuidPolicy,
    later: [Once<Box<CpuidPolicy>>; CHANGES],
    /// Number of policies in `later` that were set.
    changes: AtomicUsize,
}

impl CurrentPolicy {
    /// Begins with this policy.
    #[must_use]
    pub fn new(first: CpuidPolicy) -> CurrentPolicy {
        CurrentPolicy { first, later: [const { Once::new() }; CHANGES], changes: AtomicUsize::new(0) }
    }

    /// Replaces the policy. Calls must not overlap.
    ///
    /// # Errors
    /// `EBUSY`: it was replaced too often.
    pub fn replace(&self, policy: CpuidPolicy) -> Result<(), Errno> {
        let n = self.changes.load(Ordering::Acquire);
        let slot = self.later.get(n).ok_or(Errno::EBUSY)?;
        slot.call_once(|| Box::new(policy));
        self.changes.store(n.saturating_add(1), Ordering::Release);
        Ok(())
    }
}

impl Deref for CurrentPolicy {
    type Target = CpuidPolicy;

    fn deref(&self) -> &CpuidPolicy {
        let last = self.changes.load(Ordering::Acquire).checked_sub(1);
        last.and_then(|n| self.later.get(n)?.get()).map_or(&self.first, |p| p)
    }
}

/// A policy in the toolstack's form.
#[must_use]
pub fn data(policy: &CpuidPolicy) -> CpuPolicyData {
    // The toolstack changes what it read and gives all of it back in the room that it took: so leaves are told that it
    // writes and that say nothing here, too.
    let made_up = [(0xb, 0), (0xb, 1), (SECOND_HYPERVISOR_LEAF, NO_SUBLEAF)];
    let made_up = made_up.map(|(leaf, subleaf)| PolicyLeaf { leaf, subleaf, registers: [0; 4] });
    CpuPolicyData {
        leaves: policy.leaves().chain(made_up).map(to_abi).collect(),
        msrs: vec![
            MsrEntry { idx: msr::PLATFORM_INFO, flags: 0, val: PLATFORM_CPUID_FAULTING },
            MsrEntry { idx: ARCH_CAPABILITIES, flags: 0, val: 0 },
        ],
    }
}

/// Where a second hypervisor interface would be.
const SECOND_HYPERVISOR_LEAF: u32 = 0x4000_0100;

/// IA32_ARCH_CAPABILITIES: not offered.
const ARCH_CAPABILITIES: u32 = 0x10a;

/// A leaf in the ABI's form.
#[must_use]
pub fn to_abi(l: PolicyLeaf) -> CpuidLeaf {
    let [a, b, c, d] = l.registers;
    CpuidLeaf { leaf: l.leaf, subleaf: l.subleaf, a, b, c, d }
}

/// The policy that results when leaves and MSRs of `policy` are replaced by those of `changes`, within `maximum`.
///
/// # Errors
/// `EINVAL`, and the leaf or MSR that cannot be. Features that the maximum lacks are left out silently.
pub fn changed(
    policy: &CpuidPolicy,
    maximum: &CpuidPolicy,
    changes: &CpuPolicyData,
) -> Result<CpuidPolicy, PolicyError> {
    let mut new = policy.clone();
    for l in &changes.leaves {
        let leaf = PolicyLeaf { leaf: l.leaf, subleaf: l.subleaf, registers: [l.a, l.b, l.c, l.d] };
        let bad = |_| PolicyError { errno: Errno::EINVAL, leaf: Some((l.leaf, l.subleaf)), msr: None };
        new.set_leaf(leaf).map_err(bad)?;
    }
    for m in &changes.msrs {
        let possible = match m.idx {
            // Whether CPUID can be made to fault was decided when the vCPUs were made.
            msr::PLATFORM_INFO => m.val & !PLATFORM_CPUID_FAULTING == 0,
            ARCH_CAPABILITIES => m.val == 0,
            _ => false,
        };
        if m.flags != 0 || !possible {
            return Err(PolicyError { errno: Errno::EINVAL, leaf: None, msr: Some(m.idx) });
        }
    }
    new.restrict(maximum).map_err(|_| PolicyError { errno: Errno::EINVAL, leaf: Some((0, u32::MAX)), msr: None })?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::{HostCpuid, Kind, Registers, XenLeaves};

    struct Host;

    impl HostCpuid for Host {
        fn cpuid(&self, leaf: u32, _: u32) -> Registers {
            match leaf {
                0 => [0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65],
                0x8000_0000 => [0x8000_0008, 0, 0, 0],
                _ => [0; 4],
            }
        }
    }

    fn policy() -> CpuidPolicy {
        let xen = XenLeaves { version: 0, hvm_flags: 0, domain: 1, machine_address_bits: 40 };
        CpuidPolicy::new(&Host, Kind::Default, 0, 1, xen)
    }

    /// libxenctrl writes a policy in the room that reading it took, with these leaves whatever they hold.
    #[test]
    fn all_leaves_are_told_that_are_written_back() {
        let leaves = data(&policy()).leaves;
        let count = |leaf, subleaf| leaves.iter().filter(|l| (l.leaf, l.subleaf) == (leaf, subleaf)).count();
        let basic = [0, 1, 2, 3, 5, 6, 8, 9, 0xa, 0xc].map(|l| (l, NO_SUBLEAF));
        let with_subleaves = [(4, 0), (7, 0), (0xb, 0), (0xd, 0), (0xd, 1)];
        let xen = [(0x4000_0000, NO_SUBLEAF), (SECOND_HYPERVISOR_LEAF, NO_SUBLEAF)];
        let extended = (0..=8).map(|n| (0x8000_0000 | n, NO_SUBLEAF));
        for (leaf, subleaf) in basic.into_iter().chain(with_subleaves).chain(xen).chain(extended) {
            assert_eq!(count(leaf, subleaf), 1, "{leaf:#x} {subleaf:#x}");
        }
    }

    #[test]
    fn policies_are_replaced_a_few_times() {
        let current = CurrentPolicy::new(policy());
        for _ in 0..CHANGES {
            assert_eq!(current.replace(policy()), Ok(()));
        }
        assert_eq!(current.replace(policy()), Err(Errno::EBUSY));
    }

    #[test]
    fn what_was_read_can_be_written() {
        let p = policy();
        let new = changed(&p, &p, &data(&p)).unwrap();
        assert_eq!(data(&new), data(&p));
    }
}
