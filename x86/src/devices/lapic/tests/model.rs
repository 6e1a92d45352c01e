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
    /// Hostile register traffic in either mode never panics and keeps the invariants that can be read.
    #[test]
    fn any_access_is_safe(ops in prop::collection::vec((0u8..6, 0u16..0x420, any::<u64>(), 0u64..1 << 34), 0..80)) {
        let mut l = xapic(0);
        let mut now = T0;
        for (op, at, value, pause) in ops {
            now = now.saturating_add(Nanoseconds(pause));
            match op {
                0 => _ = l.mmio_write(at & !0xf, 4, value as u32, now),
                1 => _ = l.mmio_read(at, value as u8, now),
                2 => _ = l.msr_write(0x800 + u32::from(at >> 4), value >> (value % 64), now),
                3 => _ = l.set_tsc_deadline(value >> (value % 32), &tsc(now)),
                4 => _ = l.set_base_msr(0xfee0_0000 | (value & 3) << 10),
                _ => _ = l.shared().post(at as u8, Trigger::Level),
            }
            l.run_timer(now);
            if let Some(v) = l.highest_pending() {
                prop_assert!(v >= 16 && v >> 4 > l.ppr() >> 4);
                l.accept(v);
                prop_assert_eq!(l.ppr(), (v & 0xf0).max(l.ppr()));
            }
            if let Some(due) = l.next_deadline() {
                prop_assert!(due > now, "a timer that is due has fired");
            }
            let (record, page) = (l.save(), l.save_registers(now));
            let mut copy = Lapic::new(0, true, OFFERED);
            prop_assert!(copy.restore(&record, &page, &tsc(now)).is_ok());
            prop_assert_eq!(copy.ppr(), l.ppr());
            prop_assert_eq!(copy.highest_pending(), l.highest_pending());
        }
    }
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
