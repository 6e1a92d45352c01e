//! Which CPUs share a run queue: by the machine's topology, as `credit2_runqueue=` asks, and not too many
//! (`sched_credit2_max_cpus_runqueue=`). Pure: from where CPUs are to sets of them.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::CpuSet;
use crate::options::RunQueues;
use crate::platform::CpuTopology;
use crate::types::CpuId;

/// Most CPUs of a run queue unless the command line says otherwise (as Xen's).
pub const QUEUE_CPUS_DEFAULT: u32 = 16;

/// The CPUs 0, 1, ... that are at these places, in groups that do not overlap and have `most` CPUs at most. Threads of a
/// core stay together where `most` allows that.
#[must_use]
pub fn groups(by: RunQueues, places: &[CpuTopology], most: u32) -> Vec<CpuSet> {
    // Of each group, its cores; of each core, its CPUs: all in order, so that cuts fall between neighbours.
    let mut found: BTreeMap<_, BTreeMap<_, Vec<CpuId>>> = BTreeMap::new();
    for (cpu, at) in (0..).map(CpuId).zip(places) {
        let group = match by {
            RunQueues::Cpu => (cpu.0, 0, 0),
            RunQueues::Core => (at.node, at.socket, at.core),
            // A socket never shares a queue over nodes: what matters is the distance to memory.
            RunQueues::Socket => (at.node, at.socket, 0),
            RunQueues::Node => (at.node, 0, 0),
            RunQueues::All => (0, 0, 0),
        };
        found.entry(group).or_default().entry((at.node, at.socket, at.core)).or_default().push(cpu);
    }
    found.values().flat_map(|cores| cut(cores.values(), most.max(1) as usize)).collect()
}

/// The CPUs of these cores in as few groups of `most` CPUs at most as can be, of nearly equal size.
fn cut<'a>(cores: impl Iterator<Item = &'a Vec<CpuId>> + Clone, most: usize) -> Vec<CpuSet> {
    let total: usize = cores.clone().map(Vec::len).sum();
    let parts = total.div_ceil(most).max(1);
    let wanted = total.div_ceil(parts);
    let mut groups = Vec::new();
    let (mut group, mut size) = (CpuSet::EMPTY, 0usize);
    for core in cores {
        // A core that does not fit begins the next group, unless no group could hold it.
        if size != 0 && size.saturating_add(core.len()) > most || size >= wanted {
            groups.push(core::mem::replace(&mut group, CpuSet::EMPTY));
            size = 0;
        }
        for &cpu in core {
            if size == most {
                groups.push(core::mem::replace(&mut group, CpuSet::EMPTY));
                size = 0;
            }
            group.insert(cpu);
            size = size.saturating_add(1);
        }
    }
    if size != 0 {
        groups.push(group);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// Two sockets of two cores of two threads; siblings are far apart in number, as many firmwares have it.
    fn machine() -> Vec<CpuTopology> {
        (0..8).map(|cpu| CpuTopology { core: cpu / 2 % 2, socket: cpu % 2, node: cpu % 2 }).collect()
    }

    fn numbers(groups: &[CpuSet]) -> Vec<Vec<u32>> {
        groups.iter().map(|g| g.iter().map(|c| c.0).collect()).collect()
    }

    #[test]
    fn groups_follow_the_topology() {
        let by = |by| numbers(&groups(by, &machine(), 16));
        assert_eq!(by(RunQueues::Cpu), (0..8).map(|n| vec![n]).collect::<Vec<_>>());
        assert_eq!(by(RunQueues::Core), [[0, 4], [2, 6], [1, 5], [3, 7]]);
        assert_eq!(by(RunQueues::Socket), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(by(RunQueues::Node), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(by(RunQueues::All), [[0, 1, 2, 3, 4, 5, 6, 7]]);
    }

    #[test]
    fn large_groups_are_cut_between_cores() {
        let cut = |most| numbers(&groups(RunQueues::All, &machine(), most));
        assert_eq!(cut(4), [[0, 2, 4, 6], [1, 3, 5, 7]]);
        assert_eq!(cut(3), [[0, 4], [2, 6], [1, 5], [3, 7]], "a core is not torn apart");
        assert_eq!(cut(1).len(), 8, "unless it must be");
        assert_eq!(cut(0).len(), 8);
    }

    proptest! {
        #[test]
        fn every_cpu_is_in_one_group_of_allowed_size(
            places in prop::collection::vec((0u32..3, 0u32..3, 0u32..4), 0..40),
            by in prop::sample::select(vec![
                RunQueues::Cpu, RunQueues::Core, RunQueues::Socket, RunQueues::Node, RunQueues::All,
            ]),
            most in 0u32..20,
        ) {
            let places: Vec<_> =
                places.into_iter().map(|(node, socket, core)| CpuTopology { core, socket, node }).collect();
            let made = groups(by, &places, most);
            let mut all: Vec<u32> = made.iter().flat_map(|g| g.iter().map(|c| c.0)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..places.len() as u32).collect::<Vec<_>>());
            prop_assert!(made.iter().all(|g| (1..=most.max(1)).contains(&g.count())));
        }
    }
}
