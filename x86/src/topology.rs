//! Where processors are in the machine: what the bits of an APIC identifier mean (AMD APM volume 3, appendix E.5, and
//! CPUID leaf 0xB).

use radon_core::platform::CpuTopology;

use crate::cpuid::{HostCpuid, Vendor};

/// How an APIC identifier is made up: from the lowest bit on the thread, the core, the socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ApicLayout {
    /// Bits of the thread's number in its core.
    pub thread_bits: u32,
    /// Bits of the thread's and the core's number.
    pub socket_shift: u32,
    /// Threads of a core.
    pub threads: u32,
    /// Cores of a socket.
    pub cores: u32,
}

/// Bits that it takes to number this many.
fn bits_for(count: u32) -> u32 {
    count.saturating_sub(1).checked_ilog2().map_or(0, |n| n.saturating_add(1))
}

impl ApicLayout {
    /// As the processor says.
    #[must_use]
    pub fn of(host: &dyn HostCpuid) -> ApicLayout {
        ApicLayout::extended(host).or_else(|| ApicLayout::amd(host)).unwrap_or_else(|| ApicLayout::legacy(host))
    }

    /// From leaf 0xB, which newer processors of all makers have.
    fn extended(host: &dyn HostCpuid) -> Option<ApicLayout> {
        let [last, ..] = host.cpuid(0, 0);
        if last < 0xb {
            return None;
        }
        let ([a, threads, kind, _], [b, all, next, _]) = (host.cpuid(0xb, 0), host.cpuid(0xb, 1));
        let (threads, all) = (threads & 0xffff, all & 0xffff);
        if kind >> 8 & 0xff != 1 || next >> 8 & 0xff != 2 {
            return None;
        }
        let cores = all.checked_div(threads)?.max(1);
        Some(ApicLayout { thread_bits: a & 0x1f, socket_shift: (b & 0x1f).max(a & 0x1f), threads, cores })
    }

    /// From AMD's own leaves.
    fn amd(host: &dyn HostCpuid) -> Option<ApicLayout> {
        let [last, ..] = host.cpuid(0x8000_0000, 0);
        if Vendor::of(host.cpuid(0, 0)) != Vendor::Amd || last < 0x8000_0008 {
            return None;
        }
        let [_, _, sizes, _] = host.cpuid(0x8000_0008, 0);
        let all = (sizes & 0xff).saturating_add(1);
        let [_, _, features, _] = host.cpuid(0x8000_0001, 0);
        const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
        let threads = if last >= 0x8000_001e && features & TOPOLOGY_EXTENSIONS != 0 {
            (host.cpuid(0x8000_001e, 0)[1] >> 8 & 0xff).saturating_add(1)
        } else {
            1
        };
        let socket_shift = match sizes >> 12 & 0xf {
            0 => bits_for(all),
            given => given,
        };
        let cores = all.checked_div(threads).unwrap_or(1).max(1);
        Some(ApicLayout { thread_bits: bits_for(threads).min(socket_shift), socket_shift, threads, cores })
    }

    /// From leaves 1 and 4.
    fn legacy(host: &dyn HostCpuid) -> ApicLayout {
        let ([last, ..], [_, counts, _, features]) = (host.cpuid(0, 0), host.cpuid(1, 0));
        const HTT: u32 = 1 << 28;
        let all = if features & HTT != 0 { (counts >> 16 & 0xff).max(1) } else { 1 };
        let cores = if last >= 4 { (host.cpuid(4, 0)[0] >> 26 & 0x3f).saturating_add(1).min(all) } else { 1 };
        let socket_shift = bits_for(all);
        ApicLayout {
            thread_bits: socket_shift.saturating_sub(bits_for(cores)),
            socket_shift,
            threads: all.checked_div(cores).unwrap_or(1).max(1),
            cores,
        }
    }

    /// Where the processor with this APIC identifier is.
    #[must_use]
    pub fn place(&self, apic: u32) -> CpuTopology {
        let low = |bits: u32| 1u32.checked_shl(bits).map_or(u32::MAX, |m| m.wrapping_sub(1));
        CpuTopology {
            core: (apic & low(self.socket_shift)).checked_shr(self.thread_bits).unwrap_or(0),
            socket: apic.checked_shr(self.socket_shift).unwrap_or(0),
            node: 0,
        }
    }

    /// Whether the processor with this APIC identifier is the first thread of its core.
    #[must_use]
    pub fn is_first_thread(&self, apic: u32) -> bool {
        apic & 1u32.checked_shl(self.thread_bits).map_or(u32::MAX, |m| m.wrapping_sub(1)) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    /// Leaves of a processor; what is not there is zero.
    struct Leaves(BTreeMap<(u32, u32), [u32; 4]>);

    impl HostCpuid for Leaves {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
            self.0.get(&(leaf, subleaf)).copied().unwrap_or_default()
        }
    }

    const AUTH: u32 = u32::from_le_bytes(*b"Auth");

    fn place(layout: &ApicLayout, apic: u32) -> (u32, u32) {
        let at = layout.place(apic);
        (at.socket, at.core)
    }

    #[test]
    fn leaf_b_has_the_first_word() {
        // 2 threads, 6 cores in room for 8.
        let leaves = Leaves(BTreeMap::from([
            ((0, 0), [0x10, AUTH, 0, 0]),
            ((0xb, 0), [1, 2, 0x100, 0]),
            ((0xb, 1), [4, 12, 0x201, 0]),
        ]));
        let layout = ApicLayout::of(&leaves);
        assert_eq!(layout, ApicLayout { thread_bits: 1, socket_shift: 4, threads: 2, cores: 6 });
        assert_eq!([0, 1, 2, 11, 16, 19].map(|a| place(&layout, a)), [(0, 0), (0, 0), (0, 1), (0, 5), (1, 0), (1, 1)]);
        assert!(layout.is_first_thread(18) && !layout.is_first_thread(19));
    }

    #[test]
    fn amd_s_own_leaves_come_next() {
        let mut leaves = BTreeMap::from([
            ((0, 0), [1, AUTH, 0, 0]),
            ((0x8000_0000, 0), [0x8000_001e, AUTH, 0, 0]),
            ((0x8000_0001, 0), [0, 0, 1 << 22, 0]),
            ((0x8000_0008, 0), [0, 0, 7 | 4 << 12, 0]),
            ((0x8000_001e, 0), [0, 1 << 8, 0, 0]),
        ]);
        let layout = ApicLayout::of(&Leaves(leaves.clone()));
        assert_eq!(layout, ApicLayout { thread_bits: 1, socket_shift: 4, threads: 2, cores: 4 });
        // Without the extensions, and without a size: the least that numbers all.
        leaves.insert((0x8000_0001, 0), [0; 4]);
        leaves.insert((0x8000_0008, 0), [0, 0, 5, 0]);
        let layout = ApicLayout::of(&Leaves(leaves));
        assert_eq!(layout, ApicLayout { thread_bits: 0, socket_shift: 3, threads: 1, cores: 6 });
        assert_eq!(place(&layout, 9), (1, 1));
    }

    #[test]
    fn old_processors_and_single_ones() {
        let leaves = Leaves(BTreeMap::from([
            ((0, 0), [4, 0, 0, 0]),
            ((1, 0), [0, 8 << 16, 0, 1 << 28]),
            ((4, 0), [3 << 26, 0, 0, 0]),
        ]));
        assert_eq!(ApicLayout::of(&leaves), ApicLayout { thread_bits: 1, socket_shift: 3, threads: 2, cores: 4 });
        let layout = ApicLayout::of(&Leaves(BTreeMap::new()));
        assert_eq!(layout, ApicLayout { thread_bits: 0, socket_shift: 0, threads: 1, cores: 1 });
        assert_eq!(place(&layout, 3), (3, 0), "each a socket of its own");
    }
}
