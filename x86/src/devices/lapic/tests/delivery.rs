//! Destinations, inter-processor interrupts, posting from other CPUs.

use super::*;
use alloc::vec::Vec;

extern crate std;

fn message(destination: u32, logical: bool) -> Message {
    Message { destination, logical, mode: DeliveryMode::Fixed, vector: 0x40, trigger: Trigger::Edge }
}

fn shared(apics: &[Lapic]) -> Vec<Arc<LapicShared>> {
    apics.iter().map(|l| l.shared().clone()).collect()
}

fn woken(apics: &[Lapic], m: &Message) -> Vec<usize> {
    let mut out = Vec::new();
    deliver(&shared(apics), m, |i| out.push(i));
    out
}

fn set_logical(l: &mut Lapic, id: u32, dfr: u32) {
    let _ = l.mmio_write(0xd0, 4, id << 24, T0);
    let _ = l.mmio_write(0xe0, 4, dfr, T0);
}

#[test]
fn physical() {
    let mut apics: Vec<Lapic> = (0..4).map(|v| xapic(v * 2)).collect();
    assert_eq!(woken(&apics, &message(4, false)), [2]);
    assert_eq!(apics[2].highest_pending(), Some(0x40));
    assert!(woken(&apics, &message(3, false)).is_empty());
    assert_eq!(woken(&apics, &message(0xff, false)), [0, 1, 2, 3]);
    // Another numbering is found by search.
    let apics: Vec<Lapic> = [9, 4, 1].map(xapic).into();
    assert_eq!(woken(&apics, &message(1, false)), [2]);
}

#[test]
fn a_repeated_request_wakes_once() {
    let apics = [xapic(0)];
    assert_eq!(woken(&apics, &message(0, false)), [0]);
    assert!(woken(&apics, &message(0, false)).is_empty());
}

#[test]
fn x2apic_physical_broadcast_is_32_bits() {
    let apics = [x2apic(0), x2apic(2), x2apic(0xff)];
    assert_eq!(woken(&apics, &message(0xff, false)), [2]);
    assert_eq!(woken(&apics, &Message { vector: 0x41, ..message(u32::MAX, false) }), [0, 1, 2]);
}

#[test]
fn large_ids_are_reached_before_x2apic_mode() {
    let apics = [x2apic(0), xapic(0x102)];
    assert_eq!(woken(&apics, &message(0x102, false)), [1]);
}

#[test]
fn flat_logical() {
    let mut apics: Vec<Lapic> = (0..3).map(|v| xapic(v * 2)).collect();
    for (i, l) in apics.iter_mut().enumerate() {
        set_logical(l, 1 << i, 0xffff_ffff);
    }
    assert_eq!(woken(&apics, &message(0b101, true)), [0, 2]);
    assert!(woken(&apics, &message(0b1000, true)).is_empty());
    assert!(woken(&apics, &message(0x101, true)).is_empty(), "no 8-bit form");
    assert_eq!(woken(&apics, &message(0xff, true)), [1], "0 and 2 have it already");
}

#[test]
fn cluster_logical() {
    let mut apics: Vec<Lapic> = (0..3).map(|v| xapic(v * 2)).collect();
    for (l, id) in apics.iter_mut().zip([0x11, 0x12, 0x21]) {
        set_logical(l, id, 0x0fff_ffff);
    }
    assert_eq!(woken(&apics, &message(0x13, true)), [0, 1]);
    assert_eq!(woken(&apics, &message(0x23, true)), [2]);
    assert!(woken(&apics, &message(0x31, true)).is_empty());
}

#[test]
fn other_models_match_broadcast_only() {
    let mut apics = [xapic(0)];
    set_logical(&mut apics[0], 1, 0x7fff_ffff);
    assert!(woken(&apics, &message(1, true)).is_empty());
    assert_eq!(woken(&apics, &message(0xff, true)), [0]);
}

#[test]
fn x2apic_cluster() {
    let apics = [x2apic(0x10), x2apic(0x12), x2apic(0x20)];
    assert_eq!(woken(&apics, &message(1 << 16 | 0b101, true)), [0, 1]);
    assert_eq!(woken(&apics, &message(2 << 16 | 0b101, true)), [2]);
    assert!(woken(&apics, &message(3 << 16 | 0xffff, true)).is_empty());
    assert_eq!(woken(&apics, &Message { vector: 0x41, ..message(u32::MAX, true) }), [0, 1, 2]);
}

#[test]
fn disabled_apics_match_nothing() {
    let mut apics = [xapic(0)];
    let _ = apics[0].set_base_msr(0xfee0_0000);
    assert_eq!(deliver(&shared(&apics), &message(0xff, false), |_| panic!("woken")), 0);
}

#[test]
fn software_disabled_takes_init_start_up_and_nmi() {
    let mut apics = [Lapic::new(0, false, OFFERED)];
    let send = |apics: &[Lapic], mode| woken(apics, &Message { mode, ..message(0, false) });
    assert!(send(&apics, DeliveryMode::Fixed).is_empty());
    assert_eq!(send(&apics, DeliveryMode::Init), [0]);
    assert_eq!(send(&apics, DeliveryMode::StartUp), [0]);
    assert_eq!(send(&apics, DeliveryMode::Nmi), [0]);
    assert!(send(&apics, DeliveryMode::Smi).is_empty());
    assert!(send(&apics, DeliveryMode::ExtInt).is_empty());
    assert!(apics[0].shared().has_events());
    assert_eq!(apics[0].highest_pending(), None);
    assert_eq!(apics[0].take_signals(), Signals { init: true, start_up: Some(0x40), nmi: true });
    assert_eq!(apics[0].take_signals(), Signals::default());
    assert!(!apics[0].shared().has_events());
}

#[test]
fn taking_one_kind_of_event_keeps_the_other() {
    let mut apics = [xapic(0)];
    let nmi = Message { mode: DeliveryMode::Nmi, ..message(0, false) };
    assert_eq!(woken(&apics, &nmi), [0]);
    assert_eq!(woken(&apics, &message(0, false)), [0]);
    assert_eq!(apics[0].highest_pending(), Some(0x40));
    assert!(apics[0].take_signals().nmi);
    woken(&apics, &nmi);
    woken(&apics, &Message { vector: 0x41, ..message(0, false) });
    assert!(apics[0].take_signals().nmi);
    assert_eq!(apics[0].highest_pending(), Some(0x41));
    woken(&apics, &Message { mode: DeliveryMode::StartUp, vector: 0x9a, ..message(0, false) });
    apics[0].init();
    assert_eq!(apics[0].take_signals().start_up, Some(0x9a), "an INIT keeps the SIPI that follows it");
}

#[test]
fn lowest_priority_prefers_low_then_spreads() {
    let mut apics: Vec<Lapic> = (0..4).map(|v| xapic(v * 2)).collect();
    apics[0].set_tpr(0x30);
    apics[1].set_tpr(0x20);
    apics[3].set_tpr(0x2f);
    let lowest = |vector| Message { mode: DeliveryMode::LowestPriority, vector, ..message(0xff, false) };
    assert_eq!(woken(&apics, &lowest(0x41)), [2]);
    let _ = apics[2].set_base_msr(0xfee0_0000);
    assert_eq!(woken(&apics, &lowest(0x50)), [1], "equal classes");
    assert_eq!(woken(&apics, &lowest(0x51)), [3]);
    let off = [Lapic::new(0, false, OFFERED)];
    assert!(woken(&off, &lowest(0x50)).is_empty());
}

fn sent(effect: Effect) -> Ipi {
    match effect {
        Effect::Send(ipi) => ipi,
        other => panic!("{other:?}"),
    }
}

#[test]
fn icr_xapic() {
    let mut l = xapic(0);
    let _ = l.mmio_write(0x310, 4, 0x0600_0000, T0);
    let ipi = sent(l.mmio_write(0x300, 4, 0x4031, T0));
    assert_eq!(ipi, Ipi { target: IpiTarget::Destination, message: Message { vector: 0x31, ..message(6, false) } });
    let ipi = sent(l.mmio_write(0x300, 4, 0x0c31, T0));
    assert!(ipi.message.logical);
    assert_eq!(ipi.message.mode, DeliveryMode::Nmi);
    assert_eq!(l.mmio_read(0x300, 4, T0), 0x0c31);
    assert_eq!(l.mmio_read(0x310, 4, T0), 0x0600_0000);
}

#[test]
fn icr_x2apic() {
    let mut l = x2apic(0);
    let ipi = sent(l.msr_write(0x830, 0x1234_5678_0000_00fd, T0).unwrap());
    assert_eq!(ipi.message.destination, 0x1234_5678);
    assert_eq!(l.msr_read(0x830, T0), Ok(0x1234_5678_0000_00fd));
    let _ = l.msr_write(0x830, 0x1_0000_10fd, T0);
    assert_eq!(l.msr_read(0x830, T0), Ok(0x1_0000_00fd), "no delivery status");
}

#[test]
fn icr_that_sends_nothing() {
    let mut l = x2apic(0);
    for (icr, why) in [
        (0x0000_8500, "INIT de-assert"),
        (0x0000_0200, "SMI"),
        (0x0000_0300, "reserved mode"),
        (0x0000_0700, "ExtINT"),
        (0x0004_0500, "INIT to self"),
        (0x0004_0400, "NMI to self"),
        (0x0008_0500, "INIT to all"),
        (0x0008_0610, "SIPI to all"),
    ] {
        assert_eq!(l.msr_write(0x830, icr, T0), Ok(Effect::None), "{why}");
    }
    assert!(matches!(l.msr_write(0x830, 0x0000_c500, T0), Ok(Effect::Send(_))), "INIT assert");
    assert_eq!(l.highest_pending(), None);
}

#[test]
fn self_ipi() {
    let mut l = x2apic(0);
    assert_eq!(l.msr_write(0x830, 0x0004_0077, T0), Ok(Effect::None));
    assert_eq!(l.highest_pending(), Some(0x77));
    assert_eq!(l.msr_write(0x83f, 0x88, T0), Ok(Effect::None));
    assert_eq!(l.highest_pending(), Some(0x88));
    assert_eq!(l.msr_write(0x83f, 0x08, T0), Ok(Effect::None));
    let _ = l.msr_write(0x828, 0, T0);
    assert_eq!(l.msr_read(0x828, T0), Ok(1 << 5));
}

#[test]
fn shorthands() {
    let apics = [xapic(0), xapic(2), xapic(4)];
    let run = |target, mode, vector| {
        let mut out = Vec::new();
        let ipi = Ipi { target, message: Message { mode, vector, ..message(0, false) } };
        deliver_ipi(&shared(&apics), 1, &ipi, |i| out.push(i));
        out
    };
    assert_eq!(run(IpiTarget::Others, DeliveryMode::Fixed, 0x50), [0, 2]);
    assert_eq!(run(IpiTarget::All, DeliveryMode::Fixed, 0x51), [0, 1, 2]);
    assert_eq!(run(IpiTarget::Others, DeliveryMode::Init, 0), [0, 2]);
    assert_eq!(run(IpiTarget::Others, DeliveryMode::LowestPriority, 0x52), [0]);
    assert_eq!(run(IpiTarget::Destination, DeliveryMode::Fixed, 0x53), [0]);
}

#[test]
fn trigger_mode_follows_the_last_request() {
    let mut l = xapic(0);
    let s = l.shared().clone();
    s.post(0x70, Trigger::Level);
    s.post(0x70, Trigger::Edge);
    assert_eq!(l.highest_pending(), Some(0x70));
    l.accept(0x70);
    assert_eq!(l.eoi(), Effect::None);
}

/// Many senders, one owner: every vector that was posted is delivered at least once after the last posting.
#[test]
fn no_request_is_lost() {
    const SENDERS: u8 = 3;
    const ROUNDS: u32 = 2_000;
    let mut l = xapic(0);
    let done = std::sync::atomic::AtomicU32::new(0);
    let seen = std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (shared, done) = (l.shared().clone(), &done);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    // Distinct vectors of one word, so that senders contend for it.
                    shared.post(0x40 + sender * 8 + (round % 8) as u8, Trigger::Edge);
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let finished = done.load(std::sync::atomic::Ordering::SeqCst) == u32::from(SENDERS);
            while let Some(v) = l.highest_pending() {
                seen.insert(v);
                l.accept(v);
                let _ = l.eoi();
            }
            if finished {
                break seen;
            }
        }
    });
    assert_eq!(seen.len(), usize::from(SENDERS) * 8);
    assert!(!l.shared().has_events());
}
