//! A vCPU's part in event delivery: where its `vcpu_info` is, which ports its VIRQs have, what it polls.
//!
//! [`VcpuEvents::info`] moves at most once, when the guest registers a place of its own. Senders read it without a lock,
//! after they made the event pending in the bitmap or linked it into its queue. The registration marks everything pending
//! after the move, so the guest looks there, and finds an event that was on its way to the old place, too. All of it is
//! sequentially consistent. It moves back only while no channel is open, so nobody writes to a frame that was given back.

use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use alloc::sync::Arc;

use radon_abi::errno::Errno;
use radon_abi::xen::{LEGACY_MAX_VCPUS, NR_VIRQS, VcpuInfo, shared_info, vcpu_info};
use zerocopy::IntoBytes;

use super::fifo::VcpuQueues;
use super::pin::Pin;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::platform::PhysMemory;
use crate::sync::{Lock, Rank};
use crate::types::{MachineAddr, PAGE_SIZE, Port, VcpuId};
use crate::vcpu::Vcpu;

/// [`VcpuEvents::polling`]: polls nothing.
const POLLS_NOTHING: u32 = 0;
/// [`VcpuEvents::polling`]: polls several ports; any event wakes it to look.
const POLLS_SEVERAL: u32 = u32::MAX;
/// [`VcpuEvents::info`]: nowhere.
const NOWHERE: u64 = 0;

/// A vCPU's event state.
pub struct VcpuEvents {
    /// Machine address of its `vcpu_info`, or [`NOWHERE`].
    info: AtomicU64,
    /// The frame that `info` is in, once the guest has registered one.
    pub(super) registered: Lock<Option<Pin>>,
    /// The port each VIRQ of this vCPU is bound to; 0: none. Global VIRQs are in vCPU 0's. Changes under the domain's
    /// table lock.
    pub(super) virqs: [AtomicU32; NR_VIRQS as usize],
    /// What `SCHEDOP_poll` waits for.
    polling: AtomicU32,
    /// FIFO ABI: control block and queues.
    pub(super) queues: VcpuQueues,
}

impl VcpuEvents {
    /// As at creation: `vcpu_info` is in the shared information page for the first 32 vCPUs and nowhere for others.
    #[must_use]
    pub fn new(domain: &Arc<Domain>, id: VcpuId) -> Self {
        VcpuEvents {
            info: AtomicU64::new(default_info(domain, id)),
            registered: Lock::new(Rank::Vcpu, None),
            virqs: [const { AtomicU32::new(0) }; NR_VIRQS as usize],
            polling: AtomicU32::new(POLLS_NOTHING),
            queues: VcpuQueues::new(),
        }
    }

    /// Where the vCPU's `vcpu_info` is; `None` for vCPUs from 32 up that have not registered one.
    #[must_use]
    pub fn info(&self) -> Option<MachineAddr> {
        match self.info.load(Ordering::SeqCst) {
            NOWHERE => None,
            at => Some(MachineAddr(at)),
        }
    }

    /// Whether an event is pending: `evtchn_upcall_pending` is set.
    #[must_use]
    pub fn upcall_pending(&self, memory: &dyn PhysMemory) -> bool {
        // An or with nothing is a load of one byte.
        self.info().is_some_and(|at| memory.fetch_or_u8(field(at, vcpu_info::UPCALL_PENDING), 0) != 0)
    }

    /// Moves the vCPU's `vcpu_info` to `offset` within a frame that the guest chose (`VCPUOP_register_vcpu_info`), with
    /// its contents, and marks everything pending, so that nothing gets lost. The caller has checked that the vCPU is
    /// the calling one or down. The frame is kept on success and given back on failure.
    ///
    /// # Errors
    /// `EINVAL` if one was registered before, or if the structure does not fit the frame at `offset` or is not aligned
    /// to 8 bytes there.
    pub fn register_info(hv: &Hypervisor, vcpu: &Arc<Vcpu>, frame: Pin, offset: u32) -> Result<(), Errno> {
        let Some(domain) = vcpu.domain() else {
            frame.release(hv);
            return Err(Errno::ESRCH);
        };
        let offset = u64::from(offset);
        let fits = offset <= PAGE_SIZE.saturating_sub(vcpu_info::SIZE) && offset.is_multiple_of(8);
        let events = &vcpu.events;
        let memory = hv.platform.memory();
        {
            let mut registered = events.registered.lock();
            if registered.is_some() || !fits {
                drop(registered);
                frame.release(hv);
                return Err(Errno::EINVAL);
            }
            let new = field(frame.mfn().addr(), offset);
            // A vCPU that had none starts with upcalls masked, as at a PV boot; HVM guests ignore the mask.
            let mut contents = VcpuInfo { evtchn_upcall_mask: 1, ..VcpuInfo::default() };
            if let Some(old) = events.info() {
                memory.read(old, contents.as_mut_bytes());
            }
            memory.write(new, contents.as_bytes());
            events.info.store(new.0, Ordering::SeqCst);
            *registered = Some(frame);
            memory.fetch_or_u8(field(new, vcpu_info::UPCALL_PENDING), 1);
            if domain.events.is_compat() {
                memory.fetch_or_u32(field(new, vcpu_info::COMPAT_PENDING_SEL), u32::MAX);
            } else {
                memory.fetch_or_u64(field(new, vcpu_info::PENDING_SEL), u64::MAX);
            }
        }
        vcpu.arch.raise_upcall();
        vcpu.notify(hv);
        Ok(())
    }

    /// Back to the state of [`VcpuEvents::new`] (soft reset, destruction), releasing the guest's frame. The vCPU does not
    /// run and its domain's channels are closed.
    pub fn unregister_info(&self, hv: &Hypervisor, domain: &Arc<Domain>, id: VcpuId) {
        let released = {
            let mut registered = self.registered.lock();
            self.info.store(default_info(domain, id), Ordering::SeqCst);
            registered.take()
        };
        if let Some(frame) = released {
            frame.release(hv);
        }
    }

    /// Sets `evtchn_upcall_pending`, and before it the selector bit for `word` of the pending bitmap if given. Returns
    /// whether the guest has to be told: the upcall was not pending yet.
    pub(super) fn mark(&self, memory: &dyn PhysMemory, word: Option<u32>, compat: bool) -> bool {
        let Some(at) = self.info() else { return false };
        let news = match word {
            Some(word) if compat => {
                let bit = 1u32.wrapping_shl(word);
                memory.fetch_or_u32(field(at, vcpu_info::COMPAT_PENDING_SEL), bit) & bit == 0
            }
            Some(word) => {
                let bit = 1u64.wrapping_shl(word);
                memory.fetch_or_u64(field(at, vcpu_info::PENDING_SEL), bit) & bit == 0
            }
            None => true,
        };
        news && memory.fetch_or_u8(field(at, vcpu_info::UPCALL_PENDING), 1) & 1 == 0
    }

    /// The vCPU starts to poll: `Some(port)` for one port, `None` for several. From here on an event wakes it with
    /// [`Vcpu::notify`]; the caller looks once more at [`super::is_pending`] before the vCPU blocks, and calls
    /// [`VcpuEvents::end_poll`] when it runs again.
    pub fn begin_poll(&self, domain: &Domain, port: Option<Port>) {
        let what = port.map_or(POLLS_SEVERAL, |p| p.0);
        // Counted first: a sender that ends this poll at once must not make others believe that nobody polls.
        domain.events.pollers.fetch_add(1, Ordering::SeqCst);
        if self.polling.swap(what, Ordering::SeqCst) != POLLS_NOTHING {
            domain.events.pollers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether the vCPU still polls: no event has ended the poll. To be asked after the vCPU was marked blocked, too: a
    /// sender that was slow may end this poll though its event woke the vCPU from the one before, and then no later
    /// event would wake it.
    #[must_use]
    pub fn is_polling(&self) -> bool {
        self.polling.load(Ordering::SeqCst) != POLLS_NOTHING
    }

    /// The vCPU polls no longer. Returns whether it did: no event ended the poll.
    pub fn end_poll(&self, domain: &Domain) -> bool {
        let polled = self.polling.swap(POLLS_NOTHING, Ordering::SeqCst) != POLLS_NOTHING;
        if polled {
            domain.events.pollers.fetch_sub(1, Ordering::SeqCst);
        }
        polled
    }

    /// Ends the poll if it waits for `port`. Returns whether it did.
    pub(super) fn end_poll_of(&self, domain: &Domain, port: Port) -> bool {
        let polls = self.polling.load(Ordering::SeqCst);
        (polls == POLLS_SEVERAL || polls == port.0) && polls != POLLS_NOTHING && self.end_poll(domain)
    }
}

/// Where a vCPU's `vcpu_info` is by default.
fn default_info(domain: &Arc<Domain>, id: VcpuId) -> u64 {
    if id.0 < LEGACY_MAX_VCPUS {
        let offset = shared_info::VCPU_INFO.saturating_add(u64::from(id.0).saturating_mul(vcpu_info::SIZE));
        field(domain.shared_info.addr(), offset).0
    } else {
        NOWHERE
    }
}

/// The address of a field. Offsets are below a frame's size, and frames that exist end below 2^52.
pub(super) fn field(base: MachineAddr, offset: u64) -> MachineAddr {
    MachineAddr(base.0.wrapping_add(offset))
}
