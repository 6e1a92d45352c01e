//! Trace buffers and their operations on the test machine.

use alloc::vec::Vec;

use proptest::prelude::*;
use radon_abi::memory::{self as memory_abi, AddToPhysmapBatch};
use radon_abi::sysctl::{self, TbufOp};
use radon_abi::trace as abi;
use radon_abi::xen::DOMID_IDLE;

use super::*;
use crate::control::testing::sysctl_op;
use crate::hypercall::{Args, SUCCESS, dispatch};
use crate::testing::TestHost;
use crate::types::{CpuId, Gfn, GuestVirtAddr};

/// A record as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    event: u32,
    time: Option<u64>,
    extra: Vec<u32>,
}

/// What the control domain does with a buffer, from what the page of information says.
struct Reader {
    frames: Vec<Mfn>,
}

impl Reader {
    fn new(host: &TestHost, info: Mfn, cpu: u64) -> Reader {
        let memory = host.hv.platform.memory();
        let word = |n: u64| memory.load_u32(MachineAddr(info.addr().0 + n * 4));
        let half = |offset: u64| (word(offset / 4) >> (offset % 4 * 8)) & 0xffff;
        let (pages, list) = (half(abi::TINFO_SIZE), half(abi::TINFO_OFFSETS + cpu * 2));
        Reader { frames: (0..pages).map(|n| Mfn(word(u64::from(list + n)).into())).collect() }
    }

    fn size(&self) -> u32 {
        self.frames.len() as u32 * 4096 - abi::TBUF_HEADER
    }

    fn at(&self, offset: u32) -> MachineAddr {
        MachineAddr(self.frames[(offset / 4096) as usize].addr().0 + u64::from(offset % 4096))
    }

    /// Reads all there is and says so.
    fn read(&self, memory: &dyn PhysMemory) -> Vec<Found> {
        let mut cons = memory.load_u32(self.at(0));
        let prod = memory.load_u32(self.at(4));
        let mut found = Vec::new();
        while cons != prod {
            let start = cons % self.size();
            let word = |n: u32| {
                assert!(start + n * 4 < self.size(), "a record goes beyond the end");
                memory.load_u32(self.at(abi::TBUF_HEADER + start + n * 4))
            };
            let header = word(0);
            let timed = header & abi::TRC_HD_CYCLE_FLAG != 0;
            let first = if timed { 3 } else { 1 };
            let count = header >> abi::TRACE_EXTRA_SHIFT & abi::TRACE_EXTRA_MAX;
            found.push(Found {
                event: header & abi::EVENT_MASK,
                time: timed.then(|| u64::from(word(1)) | u64::from(word(2)) << 32),
                extra: (0..count).map(|n| word(first + n)).collect(),
            });
            cons = (cons + (first + count) * 4) % (self.size() * 2);
        }
        memory.store_u32(self.at(0), cons);
        found.retain(|f| f.event != abi::TRC_TRACE_WRAP_BUFFER);
        found
    }
}

fn host() -> TestHost {
    let mut host = TestHost::new(1024, 2);
    host.add_domain(1);
    host
}

fn note(host: &TestHost, event: u32, time: Option<u64>, extra: &[u32]) {
    let platform = &*host.hv.platform;
    if let Some(time) = time {
        host.machine.time.store(time, Ordering::SeqCst);
    }
    if host.hv.trace.wants(event) {
        host.hv.trace.record(platform, Record { event, time, extra });
    }
}

#[test]
fn nothing_is_recorded_until_it_is_wanted() {
    let host = host();
    let trace = &host.hv.trace;
    assert!(!trace.wants(abi::TRC_SCHED_WAKE));
    assert_eq!(trace.start(), Err(Errno::EINVAL), "there are no buffers");
    assert_eq!(trace.make(&host.hv, 0), Err(Errno::EINVAL));
    assert_eq!(trace.make(&host.hv, 2), Ok(()));
    assert_eq!(trace.make(&host.hv, 2), Ok(()));
    assert_eq!(trace.make(&host.hv, 3), Err(Errno::EINVAL), "they are made once");
    assert!(!trace.wants(abi::TRC_SCHED_WAKE));
    trace.start().unwrap();
    assert!(trace.wants(abi::TRC_SCHED_WAKE) && trace.wants(abi::TRC_HVM_VMEXIT64));
    trace.set_events(abi::TRC_SCHED_MIN);
    assert!(trace.wants(abi::TRC_SCHED_RUNSTATE_CHANGE | 0x210));
    assert!(!trace.wants(abi::TRC_SCHED_WAKE) && !trace.wants(abi::TRC_HVM_VMEXIT64));
    trace.stop();
    assert!(!trace.wants(abi::TRC_SCHED_RUNSTATE_CHANGE));
}

#[test]
fn each_cpu_has_a_ring_and_some_do_not_record() {
    let host = host();
    let trace = &host.hv.trace;
    trace.make(&host.hv, 1).unwrap();
    trace.start().unwrap();
    let info = trace.state().info;
    let readers = [0, 1].map(|cpu| Reader::new(&host, info, cpu));
    note(&host, abi::TRC_SCHED_WAKE, Some(7), &[1, 2]);
    host.machine.current_cpu.store(1, Ordering::SeqCst);
    note(&host, abi::TRC_HVM_HLT, None, &[]);
    trace.set_cpus(CpuSet::only(CpuId(0)));
    note(&host, abi::TRC_HVM_HLT, None, &[1]);
    let memory = host.hv.platform.memory();
    let first = Found { event: abi::TRC_SCHED_WAKE, time: Some(7), extra: [1, 2].into() };
    assert_eq!(readers[0].read(memory), [first]);
    assert_eq!(readers[1].read(memory), [Found { event: abi::TRC_HVM_HLT, time: None, extra: Vec::new() }]);
}

#[test]
fn what_has_no_room_is_counted_and_dom0_hears_at_half() {
    let host = host();
    let trace = &host.hv.trace;
    trace.make(&host.hv, 1).unwrap();
    trace.start().unwrap();
    let reader = Reader::new(&host, trace.state().info, 0);
    // 16 bytes each: 255 fill 4088 bytes but for 8.
    for n in 0..127u64 {
        note(&host, abi::TRC_SCHED_SLEEP, Some(n), &[n as u32]);
    }
    assert!(!trace.news.load(Ordering::Relaxed));
    for n in 127..265 {
        note(&host, abi::TRC_SCHED_SLEEP, Some(n), &[n as u32]);
    }
    assert!(trace.news.load(Ordering::Relaxed));
    let memory = host.hv.platform.memory();
    let found = reader.read(memory);
    assert_eq!(found.len(), 255);
    assert!(found.iter().zip(0..).all(|(f, n)| f.extra == [n]));
    note(&host, abi::TRC_SCHED_SLEEP, Some(1000), &[1]);
    let found = reader.read(memory);
    assert_eq!(found[0].event, abi::TRC_LOST_RECORDS);
    assert_eq!(found[0].extra, [10, u32::from(DOMID_IDLE), 255, 0]);
    assert_eq!((found.len(), found[1].time), (2, Some(1000)));
    // Lost ones are not told when it is started anew.
    (0..300).for_each(|n| note(&host, abi::TRC_SCHED_SLEEP, Some(n), &[0]));
    trace.stop();
    reader.read(memory);
    trace.start().unwrap();
    note(&host, abi::TRC_SCHED_SLEEP, Some(1), &[0]);
    assert_eq!(reader.read(memory).len(), 1);
}

#[test]
fn a_hostile_reader_only_loses_records() {
    let host = host();
    let trace = &host.hv.trace;
    trace.make(&host.hv, 1).unwrap();
    trace.start().unwrap();
    let reader = Reader::new(&host, trace.state().info, 0);
    let memory = host.hv.platform.memory();
    note(&host, abi::TRC_SCHED_SLEEP, Some(1), &[1]);
    for cons in [u32::MAX, 2 * 4088, 4088, 17, 3] {
        memory.store_u32(reader.at(0), cons);
        // Nor does it matter what it says was produced.
        memory.store_u32(reader.at(4), 0xdead_beef);
        (0..600).for_each(|n| note(&host, abi::TRC_SCHED_SLEEP, Some(n), &[n as u32, 2, 3, 4, 5, 6, 7, 8]));
    }
    // Nothing but the ring's page has changed.
    assert_eq!(reader.frames.len(), 1);
}

#[test]
fn the_toolstack_maps_buffers_as_frames_of_xen_and_no_others() {
    let host = host();
    let ask = |cmd, size| sysctl_op(&host, sysctl::XEN_SYSCTL_TBUF_OP, &TbufOp { cmd, size, ..Default::default() });
    assert_eq!(ask(sysctl::XEN_SYSCTL_TBUFOP_ENABLE, 0).0, Err(Errno::EINVAL));
    assert_eq!(ask(sysctl::XEN_SYSCTL_TBUFOP_GET_INFO, 0).1.buffer_mfn, 0);
    assert_eq!(ask(sysctl::XEN_SYSCTL_TBUFOP_SET_SIZE, 4).0, SUCCESS);
    assert_eq!(ask(sysctl::XEN_SYSCTL_TBUFOP_ENABLE, 0).0, SUCCESS);
    assert_eq!(ask(99, 0).0, Err(Errno::EINVAL));
    let (_, info) = ask(sysctl::XEN_SYSCTL_TBUFOP_GET_INFO, 0);
    assert_eq!((info.size, info.evt_mask), (4096, abi::TRC_ALL));

    let caller = host.caller(DomainId(0), 0);
    let map = |mfn: u64, gfn: u64| {
        let batch = AddToPhysmapBatch {
            domid: radon_abi::xen::DOMID_SELF,
            space: memory_abi::XENMAPSPACE_GMFN_FOREIGN as u16,
            size: 1,
            foreign_domid: DOMID_XEN,
            idxs: 0x2000,
            gpfns: 0x2008,
            errs: 0x2010,
        };
        caller.write(GuestVirtAddr(0x1000), &batch).unwrap();
        caller.write(GuestVirtAddr(0x2000), &[mfn, gfn, 0]).unwrap();
        let args = Args([memory_abi::XENMEM_ADD_TO_PHYSMAP_BATCH.into(), 0x1000, 0, 0, 0, 0]);
        assert_eq!(dispatch(&caller, radon_abi::hypercall::MEMORY_OP, args), SUCCESS);
        caller.read::<i32>(GuestVirtAddr(0x2010)).unwrap()
    };
    assert_eq!(map(info.buffer_mfn, 0x100), 0);
    let lookup = host.domain(DomainId(0)).p2m.query(&host.hv, Gfn(0x100));
    assert_eq!(lookup.entry.mfn, Mfn(info.buffer_mfn));
    let einval = Errno::EINVAL.to_return() as i32;
    let own = host.domain(DomainId(0)).p2m.query(&host.hv, Gfn(1)).entry.mfn;
    for other in [own, host.domain(DomainId(0)).shared_info, Mfn(0), Mfn(1 << 40)] {
        assert_eq!(map(other.0, 0x101), einval, "{other}");
    }
}

#[test]
fn buffers_that_do_not_fit_leave_nothing() {
    let host = host();
    let free = host.hv.frames.free_frames();
    // Two CPUs; a page describes 511 frames of each, which is more than there is.
    assert_eq!(host.hv.trace.make(&host.hv, 100_000), Err(Errno::ENOMEM));
    assert_eq!(host.hv.frames.free_frames(), free);
    assert_eq!(host.hv.trace.make(&host.hv, 1), Ok(()));
    assert_eq!(host.hv.frames.free_frames(), free - 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever is recorded and whenever it is read, all comes out in order but what is said to be lost.
    #[test]
    fn records_come_out_as_they_went_in(
        acts in proptest::collection::vec((any::<bool>(), 0usize..8, 0u8..20), 1..1500),
        pages in 1u32..3,
    ) {
        let host = host();
        host.hv.trace.make(&host.hv, pages).unwrap();
        host.hv.trace.start().unwrap();
        let reader = Reader::new(&host, host.hv.trace.state().info, 0);
        let memory = host.hv.platform.memory();
        let mut went_in = Vec::new();
        let mut came_out = Vec::new();
        for (n, (timed, words, read)) in acts.into_iter().enumerate() {
            let extra: Vec<u32> = (0..words as u32).map(|w| n as u32 + w).collect();
            let event = abi::TRC_GUEST | (n as u32 & 0xfff);
            note(&host, event, timed.then_some(n as u64), &extra);
            went_in.push(Found { event, time: timed.then_some(n as u64), extra });
            if read == 0 {
                came_out.extend(reader.read(memory));
            }
        }
        came_out.extend(reader.read(memory));
        let mut expected = went_in.into_iter();
        for found in came_out {
            if found.event == abi::TRC_LOST_RECORDS {
                (0..found.extra[0]).for_each(|_| { expected.next(); });
            } else {
                prop_assert_eq!(Some(found), expected.next());
            }
        }
        let lost = expected.count() as u32;
        // Those at the end are not told yet.
        prop_assert_eq!(lost, host.hv.trace.buffers.get().unwrap().rings[0].lost());
    }
}
