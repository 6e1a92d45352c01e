//! Events of the FIFO ABI, with a guest that consumes its queues as `public/event_channel.h` says.

use radon_abi::event_channel::{
    EVTCHN_FIFO_BUSY, EVTCHN_FIFO_LINK_MASK, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_MASKED, EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_PENDING, FIFO_HEAD_OFFSET,
};
use radon_core::evtchn::{self, Pin};
use radon_core::types::{Gfn, MachineAddr, Port, VcpuId};
use radon_interleave::{explore, race, step};

use super::{DOM0, GUEST, Rig};

/// A guest that uses the FIFO ABI, with three channels from dom0 to its first vCPU.
struct Fifo {
    rig: Rig,
    control: MachineAddr,
    array: MachineAddr,
    /// dom0's ends and the guest's.
    channels: [(Port, Port); 3],
}

impl Fifo {
    fn new() -> Fifo {
        let fifo = Fifo::without_array();
        fifo.expand_array();
        // What was pending before the switch.
        fifo.consumer().take_all();
        fifo
    }

    /// As long as there is no place for events.
    fn without_array() -> Fifo {
        let rig = Rig::new();
        let (hv, dom0, guest) = (&rig.host.hv, rig.host.domain(DOM0), rig.host.domain(GUEST));
        let control = Pin::new(hv, guest, Gfn(1)).unwrap();
        let array = Pin::new(hv, guest, Gfn(2)).unwrap();
        let places = [&control, &array].map(|pin| pin.mfn().addr());
        array.release(hv);
        evtchn::init_control(hv, guest, VcpuId(0), control, 0).unwrap();
        let channels = [0; 3].map(|_| {
            let port = evtchn::alloc_unbound(hv, guest, DOM0).unwrap();
            (evtchn::bind_interdomain(hv, dom0, guest, port).unwrap(), port)
        });
        Fifo { rig, control: places[0], array: places[1], channels }
    }

    fn expand_array(&self) {
        let (hv, guest) = (&self.rig.host.hv, self.rig.host.domain(GUEST));
        evtchn::expand_array(hv, guest, Pin::new(hv, guest, Gfn(2)).unwrap()).unwrap();
    }

    fn send(&self, channel: usize) {
        evtchn::send(&self.rig.host.hv, self.rig.host.domain(DOM0), self.channels[channel].0).unwrap();
    }

    fn set_priority(&self, channel: usize, priority: u32) {
        evtchn::set_priority(self.rig.host.domain(GUEST), self.channels[channel].1, priority).unwrap();
    }

    fn word(&self, port: u32) -> MachineAddr {
        MachineAddr(self.array.0 + u64::from(port) * 4)
    }

    /// Changes a word in one exchange, once it is not busy; returns what it was. `None`: it is left as it is.
    fn update(&self, port: u32, change: impl Fn(u32) -> Option<u32>) -> u32 {
        let at = self.word(port);
        let mut word = self.rig.memory().load_u32(at);
        loop {
            let expected = word & !EVTCHN_FIFO_BUSY;
            let Some(new) = change(expected) else { return expected };
            word = self.rig.memory().compare_exchange_u32(at, expected, new);
            if word == expected {
                return expected;
            }
            step();
        }
    }

    fn mask(&self, channel: usize) {
        self.rig.memory().fetch_or_u32(self.word(self.channels[channel].1.0), EVTCHN_FIFO_MASKED);
    }

    /// Unmasks; the hypervisor has to help if the event is pending.
    fn unmask(&self, channel: usize) {
        let port = self.channels[channel].1;
        let idle = |word| (word & EVTCHN_FIFO_PENDING == 0).then_some(word & !EVTCHN_FIFO_MASKED);
        if self.update(port.0, idle) & EVTCHN_FIFO_PENDING != 0 {
            evtchn::unmask(&self.rig.host.hv, self.rig.host.domain(GUEST), port).unwrap();
        }
    }

    fn consumer(&self) -> Consumer<'_> {
        Consumer { fifo: self, ready: 0, heads: [0; EVTCHN_FIFO_MAX_QUEUES] }
    }

    /// Nothing is left: what was sent last was taken after that.
    fn assert_empty(&self) {
        for (_, port) in self.channels {
            assert_eq!(self.rig.memory().load_u32(self.word(port.0)), 0, "{port} is pending in no queue");
        }
    }
}

/// The guest's handler.
struct Consumer<'a> {
    fifo: &'a Fifo,
    /// Queues that have something.
    ready: u64,
    /// What is first in each queue of which the guest has taken the head; 0: it has not.
    heads: [u32; EVTCHN_FIFO_MAX_QUEUES],
}

impl Consumer<'_> {
    /// Takes all events, if the guest is told of some.
    fn take_all(&mut self) {
        let rig = &self.fifo.rig;
        while rig.upcall_pending() {
            let info = rig.host.vcpu(GUEST, 0).events.info().unwrap();
            rig.memory().fetch_and_u64(info, !0xff);
            self.take_ready();
            while self.ready != 0 {
                self.take(self.ready.trailing_zeros() as usize);
                self.take_ready();
            }
        }
    }

    fn take_ready(&mut self) {
        // The word behind it is reserved.
        self.ready |= self.fifo.rig.memory().fetch_and_u64(self.fifo.control, 0);
    }

    /// Takes the first event of a queue.
    fn take(&mut self, queue: usize) {
        let mut port = self.heads[queue];
        if port == 0 {
            let at = self.fifo.control.0 + FIFO_HEAD_OFFSET + queue as u64 * 4;
            port = self.fifo.rig.memory().load_u32(MachineAddr(at));
        }
        let unlinked = |word| Some(word & !(EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK));
        let word = self.fifo.update(port, unlinked);
        assert_ne!(word & EVTCHN_FIFO_LINKED, 0, "what is in a queue is linked");
        self.heads[queue] = word & EVTCHN_FIFO_LINK_MASK;
        if self.heads[queue] == 0 {
            self.ready &= !(1 << queue);
        }
        self.fifo.update(port, |word| (word & EVTCHN_FIFO_MASKED == 0).then_some(word & !EVTCHN_FIFO_PENDING));
    }

    /// Is interrupted now and then.
    fn run(&mut self) {
        for _ in 0..6 {
            self.take_all();
            step();
        }
    }
}

/// Two that send to one queue, while the guest consumes it.
#[test]
fn senders_to_one_queue() {
    explore(|| {
        let fifo = Fifo::new();
        let mut guest = fifo.consumer();
        race(vec![
            Box::new(|| guest.run()),
            Box::new(|| [0, 1, 0].into_iter().for_each(|channel| fifo.send(channel))),
            Box::new(|| [1, 2].into_iter().for_each(|channel| fifo.send(channel))),
        ]);
        guest.take_all();
        fifo.assert_empty();
    });
}

/// A channel that changes queues, which each have another sender, too.
#[test]
fn a_channel_that_changes_queues() {
    explore(|| {
        let fifo = Fifo::new();
        fifo.set_priority(2, 3);
        let mut guest = fifo.consumer();
        race(vec![
            Box::new(|| guest.run()),
            Box::new(|| {
                fifo.send(0);
                fifo.set_priority(0, 3);
                fifo.send(0);
            }),
            Box::new(|| [1, 2].into_iter().for_each(|channel| fifo.send(channel))),
        ]);
        guest.take_all();
        fifo.assert_empty();
    });
}

/// A channel that is unmasked while others are linked behind it.
#[test]
fn an_event_that_is_unmasked_into_a_queue() {
    explore(|| {
        let fifo = Fifo::new();
        fifo.mask(0);
        let mut guest = fifo.consumer();
        race(vec![
            Box::new(|| {
                guest.run();
                fifo.unmask(0);
                guest.run();
            }),
            Box::new(|| [0, 1].into_iter().for_each(|channel| fifo.send(channel))),
            Box::new(|| [1, 0].into_iter().for_each(|channel| fifo.send(channel))),
        ]);
        guest.take_all();
        fifo.assert_empty();
    });
}

/// An event that comes while the guest provides the place for it is not lost.
#[test]
fn an_event_and_the_place_for_it() {
    explore(|| {
        let fifo = Fifo::without_array();
        race(vec![Box::new(|| fifo.expand_array()), Box::new(|| fifo.send(0)), Box::new(|| fifo.send(1))]);
        for (_, port) in &fifo.channels[..2] {
            let word = fifo.rig.memory().load_u32(fifo.word(port.0));
            assert_ne!(word & EVTCHN_FIFO_PENDING, 0);
        }
        fifo.consumer().take_all();
        fifo.assert_empty();
    });
}

/// An event that comes while the guest turns to the FIFO ABI is not lost.
#[test]
fn an_event_and_the_switch() {
    explore(|| {
        let rig = Rig::new();
        let (hv, guest) = (&rig.host.hv, rig.host.domain(GUEST));
        race(vec![
            Box::new(|| {
                let control = Pin::new(hv, guest, Gfn(1)).unwrap();
                evtchn::init_control(hv, guest, VcpuId(0), control, 0).unwrap();
            }),
            Box::new(|| rig.send()),
        ]);
        let array = Pin::new(hv, guest, Gfn(2)).unwrap();
        let word = MachineAddr(array.mfn().addr().0 + u64::from(rig.port.0) * 4);
        evtchn::expand_array(hv, guest, array).unwrap();
        assert_ne!(rig.memory().load_u32(word) & EVTCHN_FIFO_PENDING, 0);
    });
}
