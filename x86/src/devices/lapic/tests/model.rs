//! The APIC against a reference model: a set of pending and a set of in-service vectors.

use super::*;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Post(u8, bool),
    SelfIpi(u8),
    Take,
    Eoi,
    Tpr(u8),
}

#[derive(Default)]
struct Model {
    pending: BTreeSet<u8>,
    in_service: BTreeSet<u8>,
    level: BTreeMap<u8, bool>,
    tpr: u8,
}

impl Model {
    fn request(&mut self, v: u8, level: bool) {
        if v >= 16 {
            self.pending.insert(v);
            self.level.insert(v, level);
        }
    }

    fn ppr(&self) -> u8 {
        let isr = self.in_service.last().copied().unwrap_or(0);
        if self.tpr / 16 >= isr / 16 { self.tpr } else { isr / 16 * 16 }
    }

    fn next(&self) -> Option<u8> {
        self.pending.last().copied().filter(|v| v / 16 > self.ppr() / 16)
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(v, l)| Op::Post(v, l)),
        1 => any::<u8>().prop_map(Op::SelfIpi),
        3 => Just(Op::Take),
        2 => Just(Op::Eoi),
        1 => any::<u8>().prop_map(Op::Tpr),
    ]
}

fn check(l: &mut Lapic, m: &Model) {
    assert_eq!(l.highest_pending(), m.next());
    assert_eq!(l.ppr(), m.ppr());
    let members = |l: &mut Lapic, first: u32| -> Vec<u8> {
        (0..=255u8).filter(|v| l.msr_read(first + u32::from(*v) / 32, T0).unwrap() >> (v % 32) & 1 == 1).collect()
    };
    assert_eq!(members(l, 0x820), m.pending.iter().copied().collect::<Vec<u8>>());
    assert_eq!(members(l, 0x810), m.in_service.iter().copied().collect::<Vec<u8>>());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_like_two_sets(ops in prop::collection::vec(op(), 1..120)) {
        let mut l = x2apic(0);
        let mut m = Model::default();
        for op in ops {
            match op {
                Op::Post(v, level) => {
                    l.shared().post(v, if level { Trigger::Level } else { Trigger::Edge });
                    m.request(v, level);
                }
                Op::SelfIpi(v) => {
                    // Merge first, as the owner does before it runs the guest: order decides the trigger mode.
                    let _ = l.highest_pending();
                    prop_assert_eq!(l.msr_write(0x83f, u64::from(v), T0), Ok(Effect::None));
                    m.request(v, false);
                }
                Op::Take => {
                    let next = l.highest_pending();
                    prop_assert_eq!(next, m.next());
                    if let Some(v) = next {
                        l.accept(v);
                        m.pending.remove(&v);
                        m.in_service.insert(v);
                    }
                }
                Op::Eoi => {
                    let expected = m.in_service.pop_last().filter(|v| m.level[v]);
                    let _ = l.highest_pending();
                    prop_assert_eq!(l.eoi(), expected.map_or(Effect::None, Effect::LevelEoi));
                }
                Op::Tpr(v) => {
                    l.set_tpr(v);
                    m.tpr = v;
                }
            }
            check(&mut l, &m);
        }
    }
}
