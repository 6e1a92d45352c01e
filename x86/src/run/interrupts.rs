//! What is delivered to a guest at its next entry, and when a halted vCPU may go on.
//!
//! Order, highest first: an event whose delivery was cut short (already set up), NMI, event-channel upcalls by callback
//! vector, interrupts of the local APIC.

use core::sync::atomic::Ordering;

use radon_abi::trace::TRC_HVM_INJ_VIRQ;
use radon_core::types::MachineAddr;

use super::Cx;
use crate::virt::Event;

/// An interrupt that could be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pending {
    /// An event-channel upcall: not acknowledged in any controller, pending as long as the guest's flag is.
    Upcall(u8),
    /// A vector of the local APIC.
    Lapic(u8),
}

impl Cx<'_> {
    fn upcall_pending(&self) -> bool {
        // `evtchn_upcall_pending` is the first byte of vcpu_info, which is 8-byte aligned.
        self.vcpu.events.info().is_some_and(|at: MachineAddr| self.memory().load_u32(at) & 0xff != 0)
    }

    fn highest_pending(&mut self) -> Option<Pending> {
        // A vCPU with a vector of its own gets its upcalls through the local APIC.
        if let Some(vector) = self.x86.callback_vector()
            && self.arch.upcall_vector.load(Ordering::Relaxed) == 0
            && self.upcall_pending()
        {
            return Some(Pending::Upcall(vector));
        }
        self.state.lapic.highest_pending().map(Pending::Lapic)
    }

    /// Whether something waits that ends HLT. Interrupts count even while RFLAGS.IF is clear: a guest that halts so is
    /// woken once for nothing, rather than losing the wake-up.
    pub(super) fn has_wakeup(&mut self) -> bool {
        self.arch.nmi_pending.load(Ordering::Acquire)
            || self.arch.timer_due.load(Ordering::Acquire)
            || self.arch.lapic.has_events()
            || self.highest_pending().is_some()
    }

    /// Takes what other CPUs sent to the local APIC and lets its timer fire.
    pub(super) fn take_signals(&mut self) {
        if self.arch.timer_due.swap(false, Ordering::AcqRel) {
            self.state.lapic.run_timer(self.now());
            self.arm_lapic_timer();
        }
        let signals = self.state.lapic.take_signals();
        if signals.nmi {
            self.arch.nmi_pending.store(true, Ordering::Release);
        }
        if signals.init {
            self.state.lapic.init();
            self.state.cpu.reset();
            self.state.wait_for_sipi = true;
            self.arm_lapic_timer();
        }
        if let Some(page) = signals.start_up
            && self.state.wait_for_sipi
        {
            self.state.start_at_page(page);
            self.state.wait_for_sipi = false;
        }
    }

    /// Sets up delivery for the next entry.
    pub(super) fn prepare_delivery(&mut self) {
        if self.arch.nmi_pending.load(Ordering::Relaxed) {
            if self.state.cpu.can_take_nmi() {
                self.arch.nmi_pending.store(false, Ordering::Release);
                self.state.cpu.inject(Event::Nmi);
            } else {
                self.state.cpu.request_nmi_window();
            }
        }
        let Some(pending) = self.highest_pending() else {
            // Vectors below 32 are exceptions': a priority that holds back no others is common.
            if self.state.lapic.tpr() >= 0x20 && self.state.lapic.highest_ignoring_tpr().is_some() {
                self.state.cpu.watch_task_priority();
            }
            return;
        };
        let (Pending::Upcall(vector) | Pending::Lapic(vector)) = pending;
        if !self.state.cpu.can_take_interrupt() {
            self.state.cpu.request_interrupt_window(vector >> 4);
            return;
        }
        self.trace(TRC_HVM_INJ_VIRQ, || [vector.into(), 0]);
        self.state.cpu.inject(Event::Interrupt(vector));
        if let Pending::Lapic(vector) = pending {
            self.state.lapic.accept(vector);
            self.arm_lapic_timer();
        }
        // Another may be waiting behind it. Upcalls are looked at anew then, too.
        if let Some(next) = self.state.lapic.highest_pending() {
            self.state.cpu.request_interrupt_window(next >> 4);
        }
    }
}
