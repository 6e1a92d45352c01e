//! The FIFO ABI, with a guest that consumes its queues as Linux does.

use super::*;
use crate::evtchn::{self, Pin};
use crate::types::Gfn;
use radon_abi::errno::Errno;
use radon_abi::event_channel::*;

/// The guest frames that a guest uses: control block of vCPU n at 8 + n, event array from 16.
const CONTROL: u64 = 8;
const ARRAY: u64 = 16;

/// A guest's side of the FIFO ABI.
pub(super) struct FifoGuest<'a> {
    memory: &'a dyn PhysMemory,
    control: Vec<MachineAddr>,
    pages: Vec<MachineAddr>,
    /// Where it stopped reading each queue.
    heads: Vec<[u32; EVTCHN_FIFO_MAX_QUEUES]>,
}

impl<'a> FifoGuest<'a> {
    /// Switches a domain to the FIFO ABI, with all vCPUs and this many pages of events.
    pub(super) fn new(host: &'a TestHost, id: DomainId, pages: u64) -> FifoGuest<'a> {
        let domain = host.domain(id);
        let mut guest = FifoGuest { memory: memory(host), control: Vec::new(), pages: Vec::new(), heads: Vec::new() };
        for vcpu in 0..domain.vcpus().len() as u64 {
            let pin = Pin::new(&host.hv, domain, Gfn(CONTROL + vcpu)).unwrap();
            guest.control.push(MachineAddr(pin.mfn().addr().0 + 64));
            guest.heads.push([0; EVTCHN_FIFO_MAX_QUEUES]);
            evtchn::init_control(&host.hv, domain, VcpuId(vcpu as u32), pin, 64).unwrap();
        }
        for _ in 0..pages {
            guest.add_page(host, id);
        }
        guest
    }

    pub(super) fn add_page(&mut self, host: &TestHost, id: DomainId) {
        let gfn = Gfn(ARRAY + self.pages.len() as u64);
        let pin = Pin::new(&host.hv, host.domain(id), gfn).unwrap();
        self.pages.push(pin.mfn().addr());
        evtchn::expand_array(&host.hv, host.domain(id), pin).unwrap();
    }

    pub(super) fn word(&self, port: Port) -> MachineAddr {
        MachineAddr(self.pages[port.index() / 1024].0 + port.index() as u64 % 1024 * 4)
    }

    fn update(&self, port: Port, mut f: impl FnMut(u32) -> u32) -> u32 {
        let at = self.word(port);
        let mut word = self.memory.load_u32(at);
        loop {
            let found = self.memory.compare_exchange_u32(at, word, f(word));
            if found == word {
                return word;
            }
            word = found;
        }
    }

    pub(super) fn mask(&self, port: Port) {
        self.memory.fetch_or_u32(self.word(port), EVTCHN_FIFO_MASKED);
    }

    /// Unmasks; the hypervisor has to help if the event is pending.
    pub(super) fn unmask(&self, host: &TestHost, id: DomainId, port: Port) {
        let at = self.word(port);
        loop {
            let word = self.memory.load_u32(at) & !EVTCHN_FIFO_BUSY;
            if word & EVTCHN_FIFO_MASKED == 0 {
                return;
            }
            if word & EVTCHN_FIFO_PENDING != 0 {
                evtchn::unmask(&host.hv, host.domain(id), port).unwrap();
                return;
            }
            if self.memory.compare_exchange_u32(at, word, word & !EVTCHN_FIFO_MASKED) == word {
                return;
            }
        }
    }

    fn take_ready(&self, vcpu: usize) -> u32 {
        let at = self.control[vcpu];
        // The block is aligned to 8 bytes and the word behind is reserved.
        self.memory.fetch_and_u64(at, 0) as u32
    }

    /// Takes at most `budget` events off a vCPU's queues, by priority.
    pub(super) fn consume(&mut self, host: &TestHost, id: DomainId, vcpu: usize, budget: usize) -> Vec<Port> {
        let info = host.domain(id).vcpus()[vcpu].events.info().unwrap();
        self.memory.fetch_and_u64(info, !0xff);
        let mut ready = self.take_ready(vcpu);
        // What was left over last time.
        for (priority, head) in self.heads[vcpu].iter().enumerate() {
            ready |= u32::from(*head != 0) << priority;
        }
        let mut ports = Vec::new();
        for _ in 0..budget {
            if ready == 0 {
                return ports;
            }
            let priority = ready.trailing_zeros() as usize;
            let mut head = self.heads[vcpu][priority];
            if head == 0 {
                let at = self.control[vcpu].0 + FIFO_HEAD_OFFSET + priority as u64 * 4;
                head = self.memory.load_u32(MachineAddr(at));
            }
            let port = Port(head);
            assert_ne!(head, 0, "a queue that is ready has a head");
            let old = self.update(port, |w| w & !(EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK));
            assert_ne!(old & EVTCHN_FIFO_LINKED, 0, "what is in a queue is linked");
            let next = old & EVTCHN_FIFO_LINK_MASK;
            if next == 0 {
                ready &= !(1 << priority);
            }
            self.heads[vcpu][priority] = next;
            if old & EVTCHN_FIFO_MASKED == 0 {
                let was = self.update(port, |w| w & !EVTCHN_FIFO_PENDING);
                if was & EVTCHN_FIFO_PENDING != 0 {
                    ports.push(port);
                }
            }
            ready |= self.take_ready(vcpu);
        }
        // Not finished: whoever runs next looks again.
        self.memory.fetch_or_u32(self.control[vcpu], ready);
        ports
    }
}

fn ipi(host: &TestHost, id: DomainId, vcpu: u32) -> Port {
    evtchn::bind_ipi(&host.hv, host.domain(id), VcpuId(vcpu)).unwrap()
}

fn send(host: &TestHost, id: DomainId, port: Port) {
    evtchn::send(&host.hv, host.domain(id), port).unwrap();
}

#[test]
fn events_come_in_order_and_by_priority() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let ports: Vec<Port> = (0..4).map(|_| ipi(&host, one, 0)).collect();
    evtchn::set_priority(host.domain(one), ports[3], 0).unwrap();
    for n in [2, 0, 1, 0, 3] {
        send(&host, one, ports[n]);
    }
    assert_eq!(upcalls(&host, one, 0), 1);
    assert_eq!(guest.consume(&host, one, 0, 99), [ports[3], ports[2], ports[0], ports[1]]);
    send(&host, one, ports[0]);
    assert_eq!(upcalls(&host, one, 0), 2);
    assert_eq!(guest.consume(&host, one, 0, 99), [ports[0]]);
    assert_eq!(guest.consume(&host, one, 0, 99), []);
}

#[test]
fn a_consumed_tail_is_not_linked_to() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let (a, b) = (ipi(&host, one, 0), ipi(&host, one, 0));
    for _ in 0..3 {
        send(&host, one, a);
        assert_eq!(guest.consume(&host, one, 0, 99), [a]);
        send(&host, one, a);
        send(&host, one, b);
        assert_eq!(guest.consume(&host, one, 0, 99), [a, b]);
    }
}

/// A guest that changes the tail's word whenever the hypervisor wants to: `change` gets the word as the hypervisor will
/// find it. Returns what the guest then finds in its queue, and the tail's word before.
fn with_a_busy_tail(change: fn(u32) -> u32) -> (Vec<Port>, u32) {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let (a, b) = (ipi(&host, one, 0), ipi(&host, one, 0));
    assert_eq!((a, b), (Port(1), Port(2)));
    send(&host, one, a);
    let tail = guest.word(a);
    let active = Arc::new(crate::sync::atomic::AtomicBool::new(true));
    let on = active.clone();
    host.machine.memory.before_change.call_once(|| {
        alloc::boxed::Box::new(move |memory| {
            if on.load(Ordering::SeqCst) {
                memory.store_u32(tail, change(memory.load_u32(tail)));
            }
        })
    });
    send(&host, one, b);
    active.store(false, Ordering::SeqCst);
    let word = guest.memory.load_u32(tail);
    if word & EVTCHN_FIFO_LINKED == 0 {
        // It was consumed meanwhile.
        guest.memory.store_u32(tail, 0);
        guest.heads[0][EVTCHN_FIFO_PRIORITY_DEFAULT as usize] = 0;
    }
    (guest.consume(&host, one, 0, 99), word)
}

#[test]
fn a_tail_that_does_not_hold_still() {
    // Until it is told to leave the word alone.
    let polite =
        |word| if word & EVTCHN_FIFO_BUSY == 0 { word ^ EVTCHN_FIFO_MASKED } else { word & !EVTCHN_FIFO_MASKED };
    let (found, word) = with_a_busy_tail(polite);
    assert_eq!(found, [Port(1), Port(2)]);
    assert_eq!(word & EVTCHN_FIFO_BUSY, 0);
    // For ever: its own loss, but the hypervisor comes to an end.
    let (_, word) = with_a_busy_tail(|word| word ^ EVTCHN_FIFO_MASKED);
    assert_eq!(word & EVTCHN_FIFO_BUSY, 0);
    // It consumes the tail when it is told.
    let late = |word| match word & EVTCHN_FIFO_BUSY {
        0 => word ^ EVTCHN_FIFO_MASKED,
        _ => word & !EVTCHN_FIFO_LINKED,
    };
    let (found, word) = with_a_busy_tail(late);
    assert_eq!(found, [Port(2)]);
    assert_eq!(word & EVTCHN_FIFO_BUSY, 0);
}

/// What a guest left in the link of the last event is no link.
#[test]
fn a_stray_link_is_replaced() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let (a, b) = (ipi(&host, one, 0), ipi(&host, one, 0));
    send(&host, one, a);
    guest.memory.fetch_or_u32(guest.word(a), EVTCHN_FIFO_LINK_MASK & !b.0);
    send(&host, one, b);
    assert_eq!(guest.consume(&host, one, 0, 99), [a, b]);
}

#[test]
fn the_debug_key_reads_event_words() {
    let (host, _, one, _) = host();
    let guest = FifoGuest::new(&host, one, 1);
    let (a, b) = (ipi(&host, one, 0), ipi(&host, one, 0));
    send(&host, one, a);
    guest.mask(b);
    let mut lines = Vec::new();
    evtchn::dump(&host.hv, host.domain(one), &mut |line| lines.push(alloc::format!("{line}")));
    assert!(lines[0].contains("FIFO"));
    assert!(lines[1].contains("[1/0]"), "{}", lines[1]);
    assert!(lines[2].contains("[0/1]"), "{}", lines[2]);
}

#[test]
fn a_tail_that_moved_to_another_queue_is_forgotten() {
    let (host, dom0, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let moving = evtchn::alloc_unbound(&host.hv, host.domain(one), dom0).unwrap();
    let near = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), moving).unwrap();
    let other = ipi(&host, one, 0);
    send(&host, dom0, near);
    assert_eq!(guest.consume(&host, one, 0, 99), [moving]);
    // The tail of vCPU 0's queue is now linked into vCPU 1's.
    evtchn::bind_vcpu(host.domain(one), moving, VcpuId(1)).unwrap();
    send(&host, dom0, near);
    send(&host, one, other);
    assert_eq!(guest.consume(&host, one, 0, 99), [other]);
    assert_eq!(guest.consume(&host, one, 1, 99), [moving]);
}

/// As above, but it is the port's next user who moved.
#[test]
fn a_tail_that_was_closed_is_forgotten() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let (port, other) = (ipi(&host, one, 0), ipi(&host, one, 0));
    send(&host, one, port);
    assert_eq!(guest.consume(&host, one, 0, 99), [port]);
    evtchn::close(&host.hv, host.domain(one), port).unwrap();
    assert_eq!(ipi(&host, one, 1), port);
    send(&host, one, port);
    send(&host, one, other);
    assert_eq!(guest.consume(&host, one, 0, 99), [other]);
    assert_eq!(guest.consume(&host, one, 1, 99), [port]);
}

#[test]
fn masked_events_are_linked_by_unmask() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let port = ipi(&host, one, 0);
    guest.mask(port);
    evtchn::unmask(&host.hv, host.domain(one), port).unwrap();
    assert_eq!(guest.consume(&host, one, 0, 99), [], "nothing was pending");
    guest.mask(port);
    send(&host, one, port);
    assert_eq!(guest.consume(&host, one, 0, 99), []);
    assert_eq!(upcalls(&host, one, 0), 0);
    assert_eq!(evtchn::is_pending(&host.hv, host.domain(one), port), Ok(true));
    guest.unmask(&host, one, port);
    assert_eq!(upcalls(&host, one, 0), 1);
    assert_eq!(guest.consume(&host, one, 0, 99), [port]);
}

#[test]
fn what_came_before_the_array_is_not_lost() {
    let (host, _, one, _) = host();
    let early = ipi(&host, one, 0);
    send(&host, one, early);
    let mut guest = FifoGuest::new(&host, one, 0);
    let later = ipi(&host, one, 0);
    send(&host, one, later);
    guest.add_page(&host, one);
    assert_eq!(guest.consume(&host, one, 0, 99), [early, later]);
}

#[test]
fn a_linked_port_is_not_given_away() {
    let (host, _, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let port = ipi(&host, one, 0);
    send(&host, one, port);
    evtchn::close(&host.hv, host.domain(one), port).unwrap();
    let other = ipi(&host, one, 0);
    assert_ne!(other, port);
    send(&host, one, other);
    assert_eq!(guest.consume(&host, one, 0, 99), [other], "closing took the event back");
    assert_eq!(ipi(&host, one, 0), port);
    // A guest that links all of its ports gets none, and does not keep the hypervisor busy.
    for n in 0..1024 {
        host.machine.memory().store_u32(guest.word(Port(n)), EVTCHN_FIFO_LINKED);
    }
    assert_eq!(evtchn::bind_ipi(&host.hv, host.domain(one), VcpuId(0)), Ok(Port(1024)));
}

#[test]
fn refusals() {
    let (host, _, one, _) = host();
    let domain = host.domain(one);
    let pin = |gfn| Pin::new(&host.hv, domain, Gfn(gfn)).unwrap();
    let free = host.hv.frames.free_frames();
    let init = |vcpu, offset| evtchn::init_control(&host.hv, domain, VcpuId(vcpu), pin(CONTROL), offset);
    let port = ipi(&host, one, 0);
    assert_eq!(evtchn::expand_array(&host.hv, domain, pin(1)), Err(Errno::EOPNOTSUPP));
    assert_eq!(evtchn::set_priority(domain, port, 1), Err(Errno::ENOSYS));
    assert_eq!(init(2, 0), Err(Errno::ENOENT));
    assert_eq!(init(0, 4), Err(Errno::EINVAL));
    assert_eq!(init(0, 4096 - 64), Err(Errno::EINVAL));
    assert_eq!(init(0, 4096 - 72), Ok(()));
    assert_eq!(init(0, 0), Err(Errno::EINVAL), "only one");
    assert_eq!(evtchn::set_priority(domain, port, 15), Ok(()), "the lowest that there is");
    assert_eq!(evtchn::set_priority(domain, port, 16), Err(Errno::EINVAL));
    assert_eq!(evtchn::set_priority(domain, Port(9999), 1), Err(Errno::EINVAL));
    for _ in 0..128 {
        assert_eq!(evtchn::expand_array(&host.hv, domain, pin(1)), Ok(()));
    }
    assert_eq!(evtchn::expand_array(&host.hv, domain, pin(1)), Err(Errno::ENOSPC));
    // All references come back: the frames are freed with the domain's memory.
    assert!(evtchn::destroy(&host.hv, domain, || true));
    assert!(domain.p2m.relinquish(&host.hv, &mut || true));
    assert_eq!(host.hv.frames.free_frames(), free + crate::testing::DOMAIN_FRAMES);
}

#[test]
fn more_ports_than_the_2_level_abi_has() {
    let (host, dom0, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 5);
    for n in 1..=5000 {
        assert_eq!(evtchn::alloc_unbound(&host.hv, host.domain(one), dom0), Ok(Port(n)));
    }
    let near = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), Port(5000)).unwrap();
    send(&host, dom0, near);
    assert_eq!(guest.consume(&host, one, 0, 99), [Port(5000)]);
    assert_eq!(evtchn::reset(&host.hv, host.domain(one), false, || true), Ok(true));
    assert!(!host.domain(one).events.is_fifo());
    // Back to the 2-level ABI, and the FIFO ABI can be had again.
    let port = ipi(&host, one, 1);
    send(&host, one, port);
    assert_eq!(super::consume(&host, one, 1), [port]);
    let mut guest = FifoGuest::new(&host, one, 1);
    send(&host, one, port);
    assert_eq!(guest.consume(&host, one, 1, 99), [port]);
}

#[test]
fn a_hostile_guest_hurts_itself_only() {
    let (host, _, one, _) = host();
    let guest = FifoGuest::new(&host, one, 1);
    let ports: Vec<Port> = (0..8).map(|_| ipi(&host, one, 0)).collect();
    let values = [0, u32::MAX, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_BUSY];
    for (n, value) in values.iter().cycle().take(500).enumerate() {
        host.machine.memory().store_u32(guest.word(ports[n % 7]), *value);
        host.machine.memory().store_u32(guest.control[0], *value);
        send(&host, one, ports[n % 8]);
        evtchn::unmask(&host.hv, host.domain(one), ports[(n + 3) % 8]).unwrap();
    }
    // Words of ports that do not exist were not touched.
    for n in 9..1024 {
        assert_eq!(host.machine.memory().load_u32(guest.word(Port(n))), 0, "{n}");
    }
}

/// Senders on several CPUs, and vCPUs that consume at the same time: no event is lost and no queue is mixed up.
#[test]
fn no_event_is_lost_between_cpus() {
    extern crate std;
    const ROUNDS: usize = 3000;
    let (host, dom0, one, _) = host();
    let mut guest = FifoGuest::new(&host, one, 1);
    let mut channels: Vec<(Port, Port)> = Vec::new();
    for n in 0..6 {
        let port = evtchn::alloc_unbound(&host.hv, host.domain(one), dom0).unwrap();
        let near = evtchn::bind_interdomain(&host.hv, host.domain(dom0), host.domain(one), port).unwrap();
        evtchn::bind_vcpu(host.domain(one), port, VcpuId(n % 2)).unwrap();
        evtchn::set_priority(host.domain(one), port, n / 3).unwrap();
        channels.push((near, port));
    }
    let (hv, control, domain) = (&host.hv, host.domain(dom0), host.domain(one));
    let mut taken = 0;
    std::thread::scope(|scope| {
        let senders = [0, 1].map(|sender| {
            let channels = &channels;
            scope.spawn(move || {
                for n in 0..ROUNDS {
                    evtchn::send(hv, control, channels[(n * 7 + sender) % channels.len()].0).unwrap();
                }
            })
        });
        let mut n = 0;
        while senders.iter().any(|s| !s.is_finished()) {
            taken += (0..2).map(|v| guest.consume(&host, one, v, 5).len()).sum::<usize>();
            // Channels move between vCPUs and priorities meanwhile.
            n += 1;
            let port = channels[n % channels.len()].1;
            evtchn::bind_vcpu(domain, port, VcpuId(n as u32 / 5 % 2)).unwrap();
            evtchn::set_priority(domain, port, n as u32 / 3 % 3).unwrap();
            // And are masked for a moment.
            guest.mask(port);
            guest.unmask(&host, one, port);
        }
    });
    taken += (0..2).map(|v| guest.consume(&host, one, v, usize::MAX).len()).sum::<usize>();
    assert!(taken > 0 && taken <= 2 * ROUNDS);
    for (_, port) in channels {
        let word = guest.memory.load_u32(guest.word(port));
        assert_eq!(word, 0, "{port} is pending in no queue");
    }
}
