//! The other domain: a copy of this program, which makes hypercalls and touches memory as it is told.
//!
//! Both have the page [`MAILBOX`] of the copy, where an order and then its result are; here it is seen at [`WINDOW`]. An
//! event goes with each. Statics are at the same addresses in both, each with memory of its own.

use core::fmt;
use core::ptr;
use core::sync::atomic::Ordering;

use radon_abi::event_channel::{self, OnePort};
use radon_abi::memory::{XENMAPSPACE_SHARED_INFO, XENMEM_DECREASE_RESERVATION};
use radon_abi::sched::{Poll, SCHEDOP_POLL};
use radon_abi::{domctl, hypercall, xen};
use radon_guest::Page;
use radon_guest::domain;
use radon_guest::hypercall::{call, map_special, must, operate};

use super::calls::{self, Answer};
use super::check::Differs;
use super::{PATIENCE, SHARED_INFO, forget, interrupts, is_pending, now};

/// The command line of the copy.
pub(crate) const WORD: &str = "twin";
/// The same as it gets it.
static TEXT: &str = "twin\0";

/// The copy's memory in MiB.
pub(crate) const MIB: u64 = 64;
/// Its first guest frame with memory that it does not use, and how many there are.
pub(crate) const SPARE: u64 = 0x2000;
pub(crate) const SPARES: u64 = 16;

/// Of the copy; here only the place of it.
static MAILBOX: Page = Page::new();
/// Where the copy's mailbox is seen.
static WINDOW: Page = Page::new();

/// In the mailbox: its port, the order's number, the number of the last one that is done, what to do, with five arguments,
/// and the result.
const PORT: usize = 0;
const ORDER: usize = 1;
const DONE: usize = 2;
const WHAT: usize = 3;
const ARGUMENTS: usize = 4;
const RESULT: usize = 9;
/// Where structures lie: from here on as many bytes as an order may have.
const STRUCTURE: usize = 128;
const STRUCTURE_SIZE: usize = 2048;

/// Orders beside hypercalls, which are their number: read a word, write it.
const READ: u64 = 1 << 32;
const WRITE: u64 = 2 << 32;

/// The domain as this one sees it.
pub(crate) struct Twin {
    pub domain: u16,
    /// The port to it, and its own.
    pub port: u32,
    pub its_port: u32,
}

impl Twin {
    /// Builds it and waits until it runs.
    pub(crate) fn build() -> Result<Twin, Differs> {
        let domain = domain::create(MIB);
        domain::change(domain, radon_abi::memory::XENMEM_POPULATE_PHYSMAP, SPARE, SPARES, 0, 0);
        domain::change(xen::DOMID_SELF, XENMEM_DECREASE_RESERVATION, WINDOW.gfn(), 1, 0, 0);
        domain::copy_self(domain, TEXT, &WINDOW);
        domain::start(domain);
        let (port, its_port) = domain::connect(domain);
        forget(port);
        domain::map_foreign(domain, MAILBOX.gfn(), &WINDOW);
        WINDOW.0[PORT].store(u64::from(its_port), Ordering::Relaxed);
        must("unpausedomain", domain::domctl(domctl::XEN_DOMCTL_UNPAUSEDOMAIN, domain, &[]).1);
        let twin = Twin { domain, port, its_port };
        twin.order(READ, [MAILBOX.gfn() * 4096, 0, 0, 0, 0])?;
        Ok(twin)
    }

    /// Has the copy make a hypercall.
    pub(crate) fn hyper(&self, number: u32, operation: u32, arguments: [u64; 5]) -> Result<Answer, Differs> {
        calls::note(number, operation);
        let result = self.order(u64::from(number), arguments)? as i64;
        Ok(calls::answer(number, operation, result))
    }

    /// Has it make a hypercall with a structure, which is copied in and out.
    pub(crate) fn operate<T>(&self, number: u32, operation: u32, argument: &mut T) -> Result<Answer, Differs> {
        let there = self.place(argument);
        let arguments = [u64::from(operation), Twin::structure(), 0, 0, 0];
        let answer = self.hyper(number, operation, arguments)?;
        // SAFETY: as in `place`; what the copy leaves there is made of integers as all structures of the ABI.
        *argument = unsafe { there.read_volatile() };
        Ok(answer)
    }

    /// Gives the copy a structure for its next order, at [`Twin::structure`] there; returns where it is here.
    pub(crate) fn place<T>(&self, argument: &mut T) -> *mut T {
        const { assert!(size_of::<T>() <= STRUCTURE_SIZE) };
        let there = WINDOW.0[STRUCTURE..].as_ptr() as *mut T;
        // SAFETY: there is room in the mailbox, which nobody reads or writes while no order is out.
        unsafe { there.write_volatile(ptr::read(argument)) };
        there
    }

    /// The address where the copy has the structures of hypercalls.
    pub(crate) fn structure() -> u64 {
        MAILBOX.0[STRUCTURE..].as_ptr() as u64
    }

    /// Has it read a word of its memory.
    pub(crate) fn read(&self, address: u64) -> Result<u64, Differs> {
        self.order(READ, [address, 0, 0, 0, 0])
    }

    /// Has it write a word of its memory.
    pub(crate) fn write(&self, address: u64, value: u64) -> Result<(), Differs> {
        self.order(WRITE, [address, value, 0, 0, 0]).map(drop)
    }

    /// Has it do something, and waits for the result.
    fn order(&self, what: u64, arguments: [u64; 5]) -> Result<u64, Differs> {
        self.send(what, arguments);
        self.wait()
    }

    /// Has it do something.
    pub(crate) fn send(&self, what: u64, arguments: [u64; 5]) {
        WINDOW.0[WHAT].store(what, Ordering::Relaxed);
        for (n, argument) in arguments.iter().enumerate() {
            WINDOW.0[ARGUMENTS + n].store(*argument, Ordering::Relaxed);
        }
        WINDOW.0[ORDER].fetch_add(1, Ordering::Release);
        send(self.port);
    }

    /// Has it read a word, without waiting for that.
    pub(crate) fn send_read(&self, address: u64) {
        self.send(READ, [address, 0, 0, 0, 0]);
    }

    /// Whether all orders are done.
    pub(crate) fn is_done(&self) -> bool {
        WINDOW.0[DONE].load(Ordering::Acquire) == WINDOW.0[ORDER].load(Ordering::Relaxed)
    }

    /// Waits until the last order is done and returns its result. The event that says so is over then: none comes late, into
    /// another check.
    pub(crate) fn wait(&self) -> Result<u64, Differs> {
        let begin = now();
        loop {
            poll(self.port, now() + PATIENCE / 30);
            if is_pending(self.port) {
                forget(self.port);
                if self.is_done() {
                    break;
                }
            }
            if now() - begin > PATIENCE {
                return Err(Differs::new(format_args!("the other domain does not answer")));
            }
        }
        Ok(WINDOW.0[RESULT].load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Twin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "domain {} at port {}", self.domain, self.port)
    }
}

/// Sends an event.
fn send(port: u32) {
    must("send", operate(hypercall::EVENT_CHANNEL_OP, event_channel::EVTCHNOP_SEND, &mut OnePort { port }));
}

/// Waits for an event on a port until a system time.
pub(crate) fn poll(port: u32, timeout: u64) {
    let mut port = port;
    let mut poll = Poll { ports: &raw mut port as u64, nr_ports: 1, _pad: 0, timeout };
    must("poll", operate(hypercall::SCHED_OP, SCHEDOP_POLL, &mut poll));
}

/// The copy: does what it is told.
pub(crate) fn run() -> ! {
    interrupts::prepare();
    interrupts::want_upcalls();
    must("add_to_physmap", map_special(XENMAPSPACE_SHARED_INFO, 0, &SHARED_INFO));
    let word = |n: usize| MAILBOX.0[n].load(Ordering::Relaxed);
    let port = word(PORT) as u32;
    loop {
        while MAILBOX.0[ORDER].load(Ordering::Acquire) == word(DONE) {
            poll(port, 0);
            forget(port);
        }
        let arguments: [u64; 5] = core::array::from_fn(|n| word(ARGUMENTS + n));
        let result = match word(WHAT) {
            // SAFETY: the other domain names memory that is there and that this program does not rely on.
            READ => unsafe { (arguments[0] as *const u64).read_volatile() },
            WRITE => {
                // SAFETY: as above.
                unsafe { (arguments[0] as *mut u64).write_volatile(arguments[1]) };
                0
            }
            number => call(number as u32, arguments) as u64,
        };
        MAILBOX.0[RESULT].store(result, Ordering::Relaxed);
        MAILBOX.0[DONE].store(word(ORDER), Ordering::Release);
        send(port);
    }
}
