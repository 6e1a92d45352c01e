//! Which of a domain's ports are in use.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use radon_abi::errno::Errno;
use radon_abi::event_channel::{
    EVTCHN_2L_NR_CHANNELS, EVTCHN_2L_NR_CHANNELS_COMPAT, EVTCHN_FIFO_LINKED, EVTCHN_FIFO_NR_CHANNELS,
};
use radon_abi::xen::NR_VIRQS;

use super::channel::Channel;
use super::{EventChannels, Pin, fifo};
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::types::Port;

/// Free ports that are passed over because the guest still has them in a FIFO queue, per allocation. A guest that keeps
/// more linked gets no port: so an allocation's work is bounded.
const MAX_BUSY: u32 = 1024;

/// What the table lock guards.
pub(super) struct Table {
    /// A bit per port: in use. Port 0 is never free.
    used: Vec<u64>,
    /// Ports in use, port 0 not counted.
    pub(super) open: u32,
    /// Of these, held by the hypervisor.
    pub(super) consumers: u32,
    /// The highest port that the domain can get.
    pub(super) max_port: u32,
    /// The domain is being destroyed: no new ports.
    pub(super) dying: bool,
    /// Where an interrupted reset goes on.
    pub(super) reset_next: u32,
    /// FIFO ABI: the event array's frames, in order.
    pub(super) array: Vec<Pin>,
    /// FIFO ABI: the control blocks' frames.
    pub(super) controls: Vec<Pin>,
    /// In the hardware domain's table: who handles a global virtual interrupt in its place.
    handlers: [Option<Weak<Domain>>; NR_VIRQS as usize],
}

impl Table {
    pub(super) const fn new() -> Table {
        Table {
            used: Vec::new(),
            open: 0,
            consumers: 0,
            max_port: EVTCHN_FIFO_NR_CHANNELS - 1,
            dying: false,
            reset_next: 0,
            array: Vec::new(),
            controls: Vec::new(),
            handlers: [const { None }; NR_VIRQS as usize],
        }
    }

    /// Takes the lowest free port. The channel is not bound yet; the caller binds it or calls [`Table::release`].
    ///
    /// # Errors
    /// `EINVAL` if the domain is being destroyed, `ENOSPC` if no port is left, `ENOMEM`.
    pub(super) fn allocate<'a>(&mut self, hv: &Hypervisor, domain: &'a Domain) -> Result<(Port, &'a Channel), Errno> {
        if self.dying {
            return Err(Errno::EINVAL);
        }
        let events = &domain.events;
        let limit = abi_limit(events).min(self.max_port.saturating_add(1));
        let mut next = 0;
        for _ in 0..MAX_BUSY {
            let port = self.free_from(next)?;
            if port.0 >= limit {
                return Err(Errno::ENOSPC);
            }
            if events.is_fifo() && fifo::word_value(hv.platform.memory(), domain, port) & EVTCHN_FIFO_LINKED != 0 {
                next = port.0.saturating_add(1);
                continue;
            }
            let channel = events.channels.ensure(port, || hv.frames.has_room())?;
            self.set_used(port, true);
            self.open = self.open.saturating_add(1);
            return Ok((port, channel));
        }
        Err(Errno::ENOSPC)
    }

    /// Gives a port back.
    pub(super) fn release(&mut self, port: Port) {
        self.set_used(port, false);
        self.open = self.open.saturating_sub(1);
    }

    /// The lowest free port from `next` up; the bitmap grows to hold it: by a word beyond those that are full.
    fn free_from(&mut self, next: u32) -> Result<Port, Errno> {
        let mut index = (next / 64) as usize;
        // Ports below `next` count as used within the first word (shifts are modulo 64, here and below).
        let mut skip = 1u64.wrapping_shl(next).wrapping_sub(1);
        loop {
            if index >= self.used.len() {
                self.used.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
                // Port 0 is reserved.
                self.used.push(u64::from(self.used.is_empty()));
                continue;
            }
            let free = !(self.used.get(index).copied().unwrap_or(u64::MAX) | skip);
            if free != 0 {
                let port = (index as u32).wrapping_mul(64).wrapping_add(free.trailing_zeros());
                return Ok(Port(port));
            }
            skip = 0;
            index = index.saturating_add(1);
        }
    }

    fn set_used(&mut self, port: Port, used: bool) {
        if let Some(word) = self.used.get_mut((port.0 / 64) as usize) {
            let bit = 1u64.wrapping_shl(port.0);
            *word = if used { *word | bit } else { *word & !bit };
        }
    }

    /// The lowest port in use from `from` up.
    pub(super) fn open_from(&self, from: Port) -> Option<Port> {
        let mut skip = 1u64.wrapping_shl(from.0).wrapping_sub(1);
        for (index, word) in self.used.iter().enumerate().skip((from.0 / 64) as usize) {
            // Port 0 is marked used, but is none.
            let reserved = u64::from(index == 0);
            let used = word & !skip & !reserved;
            if used != 0 {
                return Some(Port((index as u32).wrapping_mul(64).wrapping_add(used.trailing_zeros())));
            }
            skip = 0;
        }
        None
    }

    /// All ports in use.
    pub(super) fn open_ports(&self) -> impl Iterator<Item = Port> {
        let mut next = Some(Port(1));
        core::iter::from_fn(move || {
            let port = self.open_from(next?)?;
            next = port.0.checked_add(1).map(Port);
            Some(port)
        })
    }

    /// The domain that handles a global virtual interrupt, if it is not the hardware domain.
    pub(super) fn virq_handler(&self, virq: u32) -> Option<Arc<Domain>> {
        self.handlers.get(virq as usize)?.as_ref()?.upgrade()
    }

    /// Sets or (with `None`) resets the handler of a global virtual interrupt.
    pub(super) fn set_virq_handler(&mut self, virq: u32, handler: Option<Weak<Domain>>) {
        if let Some(slot) = self.handlers.get_mut(virq as usize) {
            *slot = handler;
        }
    }
}

/// The number of ports that the domain's ABI has room for.
fn abi_limit(events: &EventChannels) -> u32 {
    if events.is_fifo() {
        EVTCHN_FIFO_NR_CHANNELS
    } else if events.is_compat() {
        EVTCHN_2L_NR_CHANNELS_COMPAT
    } else {
        EVTCHN_2L_NR_CHANNELS
    }
}
