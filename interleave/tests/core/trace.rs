//! The ring of trace records, with a reader as `public/trace.h` describes it.

use radon_abi::trace::{
    EVENT_MASK, TBUF_CONS, TBUF_HEADER, TBUF_PROD, TINFO_OFFSETS, TRACE_EXTRA_MAX, TRACE_EXTRA_SHIFT, TRC_GEN,
    TRC_GUEST, TRC_HD_CYCLE_FLAG, TRC_LOST_RECORDS, TRC_TRACE_WRAP_BUFFER,
};
use radon_abi::xen::VIRQ_TBUF;
use radon_core::evtchn;
use radon_core::types::{MachineAddr, Mfn, VcpuId};
use radon_interleave::{explore, race, step};

use super::{DOM0, Rig};

const SIZE: u32 = 4096 - TBUF_HEADER;
/// Records of header and two words.
const EVENT: u32 = TRC_GUEST | 7;
const RECORD: u32 = 12;

/// The buffer of CPU 0, of one page.
struct Buffer<'a> {
    rig: &'a Rig,
    page: MachineAddr,
}

impl Buffer<'_> {
    fn new(rig: &Rig) -> Buffer<'_> {
        let hv = &rig.host.hv;
        hv.trace.make(hv, 1).unwrap();
        hv.trace.set_events(TRC_GUEST);
        hv.trace.start().unwrap();
        let info = hv.trace.state().info.addr().0;
        let word = |at: u64| rig.memory().load_u32(MachineAddr(info + at));
        let list = word(TINFO_OFFSETS & !3) >> (TINFO_OFFSETS % 4 * 8) & 0xffff;
        let page = Mfn(word(u64::from(list) * 4).into()).addr();
        Buffer { rig, page }
    }

    fn word(&self, at: u32) -> u32 {
        self.rig.memory().load_u32(MachineAddr(self.page.0 + u64::from(at)))
    }

    /// Records the number `n`, twice.
    fn note(&self, n: u32) {
        self.rig.host.hv.trace.guest_event(&*self.rig.host.hv.platform, EVENT, &[n, n]);
    }

    /// Takes all that is there. `next` is the number that is expected; what was lost is counted.
    fn read(&self, next: &mut u32) {
        let (mut cons, prod) = (self.word(TBUF_CONS as u32), self.word(TBUF_PROD as u32));
        while cons != prod {
            let start = TBUF_HEADER + cons % SIZE;
            let header = self.word(start);
            let first = if header & TRC_HD_CYCLE_FLAG == 0 { 1 } else { 3 };
            let count = header >> TRACE_EXTRA_SHIFT & TRACE_EXTRA_MAX;
            let extra = |n: u32| self.word(start + (first + n) * 4);
            match header & EVENT_MASK {
                TRC_TRACE_WRAP_BUFFER => {}
                TRC_LOST_RECORDS => *next += extra(0),
                EVENT => {
                    assert_eq!((extra(0), extra(1)), (*next, *next), "whole, and in order");
                    *next += 1;
                }
                other => unreachable!("a record {other:#x} of class {:#x}", other & TRC_GEN),
            }
            cons = (cons + (first + count) * 4) % (SIZE * 2);
        }
        self.rig.memory().store_u32(MachineAddr(self.page.0 + TBUF_CONS), cons);
    }

    fn position(&self) -> u32 {
        self.word(TBUF_PROD as u32)
    }
}

/// A reader finds each record whole and in order, or is told how many are missing: while the ring runs full, where the
/// end of the page is near.
#[test]
fn a_reader_and_a_ring_that_runs_full() {
    explore(|| {
        let rig = Rig::new();
        let buffer = Buffer::new(&rig);
        let (mut written, mut next) = (0, 0);
        // Up to the last records before the end of the page; the reader is a page behind, less some records.
        while buffer.position() < SIZE - 2 * RECORD {
            buffer.note(written);
            written += 1;
            if written == 4 {
                buffer.read(&mut next);
            }
        }
        race(vec![
            Box::new(|| {
                for _ in 0..8 {
                    buffer.note(written);
                    written += 1;
                }
            }),
            Box::new(|| {
                for _ in 0..3 {
                    buffer.read(&mut next);
                    step();
                }
            }),
        ]);
        buffer.read(&mut next);
        // What was lost is told with the next record.
        buffer.note(written);
        buffer.read(&mut next);
        assert_eq!(next, written + 1);
    });
}

/// A reader that waits to be told is told, each time that the ring is half full.
#[test]
fn a_reader_that_waits_for_a_ring_half_full() {
    explore(|| {
        let rig = Rig::new();
        let hv = &rig.host.hv;
        let port = evtchn::bind_virq(hv, rig.host.domain(DOM0), VIRQ_TBUF, VcpuId(0)).unwrap();
        let buffer = Buffer::new(&rig);
        let (mut written, mut next) = (0, 0);
        while buffer.position() < SIZE / 2 - 2 * RECORD {
            buffer.note(written);
            written += 1;
        }
        let told = || {
            let at = rig.host.domain(DOM0).shared_info.addr().0 + radon_abi::xen::shared_info::EVTCHN_PENDING;
            rig.memory().fetch_and_u64(MachineAddr(at), !(1 << port.0)) >> port.0 & 1 != 0
        };
        race(vec![
            Box::new(|| {
                for _ in 0..4 {
                    buffer.note(written);
                    written += 1;
                    hv.trace.deliver(hv);
                }
            }),
            // Another CPU goes through its loop as well.
            Box::new(|| (0..3).for_each(|_| hv.trace.deliver(hv))),
            Box::new(|| {
                for _ in 0..6 {
                    step();
                    if told() {
                        buffer.read(&mut next);
                    }
                }
            }),
        ]);
        if told() {
            buffer.read(&mut next);
        }
        assert!((written - next) * RECORD < SIZE / 2, "a ring that is half full was told of");
    });
}
