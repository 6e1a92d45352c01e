//! The virtual local APIC, in xAPIC and x2APIC mode (AMD APM vol. 2, chapter 16; Intel SDM vol. 3, chapter *APIC*).
//!
//! Two halves. [`LapicShared`] is what other CPUs write: they post requests with atomic operations and never wait.
//! [`Lapic`] belongs to the CPU that runs the vCPU (`&mut`): it merges requests into its IRR and holds all registers.
//! What a register write causes outside comes back as an [`Effect`], for the owner to carry out.
//!
//! Choices where the manuals leave room: the APIC id is read-only (as on recent processors and in Xen); the page cannot
//! be moved from 0xfee00000 (an attempt is #GP); a disabled APIC is reset; level-triggered LINT inputs act as edges.
//!
//! Invariants: `isr_top` is the highest vector of `isr`; `ppr` follows from `tpr` and `isr_top`; each LVT entry is masked
//! while the APIC is software-disabled.

mod access;
mod registers;
mod save;
mod shared;
mod timer;
mod vectors;

#[cfg(test)]
mod tests;

use alloc::sync::Arc;

use radon_core::types::{GuestPhysAddr, Nanoseconds};

use crate::devices::interrupt::{DeliveryMode, FIRST_LEGAL_VECTOR, Message, Trigger};
use registers as reg;
pub use registers::LocalSource;
pub use save::{HVM_LAPIC_REGS_SIZE, HVM_LAPIC_SIZE, InvalidState};
pub use shared::{Ipi, IpiTarget, LapicShared, Signals, deliver, deliver_ipi};
use shared::{Matching, x2apic_logical_id};
pub use timer::{GuestTsc, MIN_PERIOD, TICK};
use timer::{Mode, Timer};
use vectors::VectorSet;

/// Where the xAPIC registers lie in guest-physical memory.
pub const MMIO_BASE: GuestPhysAddr = GuestPhysAddr(0xfee0_0000);
/// Their size in bytes.
pub const MMIO_SIZE: u64 = 0x1000;
/// The APIC base MSR.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// The TSC deadline MSR.
pub const MSR_TSC_DEADLINE: u32 = 0x6e0;
/// The first x2APIC MSR.
pub const MSR_X2APIC_FIRST: u32 = 0x800;
/// The last x2APIC MSR that is decoded here; the rest of the architectural range, to 0x8ff, does not exist.
pub const MSR_X2APIC_LAST: u32 = 0x83f;

/// A register access that raises #GP(0) in the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// What a register write asks of the owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt ended: tell the I/O APICs its vector.
    LevelEoi(u8),
    /// An inter-processor interrupt to pass to [`deliver_ipi`].
    Send(Ipi),
    /// The timer changed: ask [`Lapic::next_deadline`] again.
    Timer,
    /// The APIC was enabled, disabled or changed its mode: whether MMIO and x2APIC MSRs exist has to be looked at anew,
    /// and so has the timer.
    Mode,
}

/// What a guest's CPUID says of its local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LapicConfig {
    /// x2APIC mode is offered.
    pub x2apic: bool,
    /// The TSC-deadline timer is offered.
    pub tsc_deadline: bool,
}

/// The mode set by the APIC base MSR.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApicMode {
    /// Globally disabled.
    Disabled,
    /// Registers in memory.
    XApic,
    /// Registers in MSRs.
    X2Apic,
}

/// The owner's half of a local APIC.
#[derive(Debug)]
pub struct Lapic {
    shared: Arc<LapicShared>,
    config: LapicConfig,
    mode: ApicMode,
    boot_cpu: bool,
    irr: VectorSet,
    isr: VectorSet,
    tmr: VectorSet,
    isr_top: Option<u8>,
    tpr: u8,
    ppr: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    /// As software reads it.
    esr: u32,
    /// Errors since the last write of the ESR.
    errors: u32,
    /// Destination in bits 63:32 (xAPIC: in 63:56).
    icr: u64,
    lvt: [u32; 6],
    timer: Timer,
}

impl Lapic {
    /// The APIC of a processor after reset: enabled in xAPIC mode, software-disabled. `id` is the x2APIC id.
    #[must_use]
    pub fn new(id: u32, boot_cpu: bool, config: LapicConfig) -> Lapic {
        let mut lapic = Lapic {
            shared: Arc::new(LapicShared::new(id)),
            config,
            mode: ApicMode::XApic,
            boot_cpu,
            irr: VectorSet::default(),
            isr: VectorSet::default(),
            tmr: VectorSet::default(),
            isr_top: None,
            tpr: 0,
            ppr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: reg::SVR_RESET,
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [reg::LVT_MASKED; 6],
            timer: Timer::new(),
        };
        lapic.init();
        lapic
    }

    /// The half that other CPUs use.
    #[must_use]
    pub fn shared(&self) -> &Arc<LapicShared> {
        &self.shared
    }

    /// The mode that the APIC base MSR sets.
    #[must_use]
    pub fn mode(&self) -> ApicMode {
        self.mode
    }

    /// Resets the registers as an INIT does: all but the id, the mode and the boot-processor flag. Requests that were
    /// posted before are dropped.
    pub fn init(&mut self) {
        self.shared.take_requests(|_, _, _| {});
        self.irr = VectorSet::default();
        self.isr = VectorSet::default();
        self.tmr = VectorSet::default();
        self.isr_top = None;
        self.tpr = 0;
        self.ldr = 0;
        self.dfr = u32::MAX;
        self.svr = reg::SVR_RESET;
        self.esr = 0;
        self.errors = 0;
        self.icr = 0;
        self.lvt = [reg::LVT_MASKED; 6];
        self.timer = Timer::new();
        self.update_ppr();
        self.publish();
    }

    /// Takes the INIT, SIPI and NMI that were sent to this processor. One load if there are none.
    #[must_use]
    pub fn take_signals(&mut self) -> Signals {
        self.shared.take_signals()
    }

    /// The highest requested vector whose priority class is above the PPR's: the interrupt to deliver next.
    #[must_use]
    pub fn highest_pending(&mut self) -> Option<u8> {
        self.merge();
        let vector = self.irr.highest()?;
        (vector & 0xf0 > self.ppr & 0xf0).then_some(vector)
    }

    /// As [`Lapic::highest_pending`] but for a TPR of zero: what to hand to hardware that checks the TPR itself.
    #[must_use]
    pub fn highest_ignoring_tpr(&mut self) -> Option<u8> {
        self.merge();
        let vector = self.irr.highest()?;
        (vector & 0xf0 > self.isr_top.unwrap_or(0) & 0xf0).then_some(vector)
    }

    /// The processor takes `vector`: it moves from requested to in service.
    pub fn accept(&mut self, vector: u8) {
        self.irr.remove(vector);
        self.isr.insert(vector);
        self.isr_top = self.isr.highest();
        self.update_ppr();
    }

    /// Ends the interrupt of highest priority that is in service, as a write of the EOI register does.
    pub fn eoi(&mut self) -> Effect {
        let Some(vector) = self.isr_top else { return Effect::None };
        self.isr.remove(vector);
        self.isr_top = self.isr.highest();
        self.update_ppr();
        if self.tmr.contains(vector) { Effect::LevelEoi(vector) } else { Effect::None }
    }

    /// The task priority register.
    #[must_use]
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// Sets the task priority register; CR8 is its bits 7:4.
    pub fn set_tpr(&mut self, tpr: u8) {
        if self.tpr != tpr {
            self.tpr = tpr;
            self.update_ppr();
        }
    }

    /// The processor priority register.
    #[must_use]
    pub fn ppr(&self) -> u8 {
        self.ppr
    }

    /// Requests an interrupt of this processor from its owner's side. Dropped while software-disabled.
    pub fn request(&mut self, vector: u8, trigger: Trigger) {
        if !self.software_enabled() {
            return;
        }
        if vector < FIRST_LEGAL_VECTOR {
            self.error(reg::ERROR_RECEIVE_VECTOR);
            return;
        }
        self.irr.insert(vector);
        match trigger {
            Trigger::Edge => self.tmr.remove(vector),
            Trigger::Level => self.tmr.insert(vector),
        }
    }

    /// A local interrupt source fires. Returns whether that sent the processor an NMI, which the caller has to deliver.
    /// ExtINT entries do nothing here: see [`Lapic::accepts_pic`].
    #[must_use]
    pub fn raise(&mut self, source: LocalSource) -> bool {
        let entry = self.lvt_entry(source);
        if self.mode == ApicMode::Disabled || entry & reg::LVT_MASKED != 0 {
            return false;
        }
        match source {
            LocalSource::Timer | LocalSource::Error => self.request(entry as u8, Trigger::Edge),
            _ => match DeliveryMode::from_bits(entry >> 8) {
                Some(DeliveryMode::Fixed) => self.request(entry as u8, Trigger::Edge),
                Some(DeliveryMode::Nmi) => return true,
                _ => {}
            },
        }
        false
    }

    /// Whether the 8259's output reaches the processor: through LINT0 as ExtINT, or because the APIC is disabled.
    #[must_use]
    pub fn accepts_pic(&self) -> bool {
        let entry = self.lvt_entry(LocalSource::Lint0);
        let ext_int = DeliveryMode::from_bits(entry >> 8) == Some(DeliveryMode::ExtInt);
        self.mode == ApicMode::Disabled || (ext_int && entry & reg::LVT_MASKED == 0)
    }

    /// Lets the timer fire if it is due.
    pub fn run_timer(&mut self, now: Nanoseconds) {
        if self.timer.settle(now) {
            // A timer entry never sends an NMI.
            let _ = self.raise(LocalSource::Timer);
        }
    }

    /// When [`Lapic::run_timer`] has to be called next. `None` if the timer is stopped or masked, or if its interrupt
    /// is requested already so that another would not be noticed: ask again after [`Lapic::accept`].
    #[must_use]
    pub fn next_deadline(&self) -> Option<Nanoseconds> {
        let entry = self.lvt_entry(LocalSource::Timer);
        if entry & reg::LVT_MASKED != 0 || self.irr.contains(entry as u8) {
            return None;
        }
        self.timer.deadline()
    }

    /// Reads the TSC deadline MSR.
    pub fn tsc_deadline(&mut self, now: Nanoseconds) -> u64 {
        self.run_timer(now);
        self.timer.tsc_deadline()
    }

    /// Writes the TSC deadline MSR.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc: &GuestTsc) -> Effect {
        self.run_timer(tsc.now);
        self.timer.set_tsc_deadline(value, tsc);
        self.run_timer(tsc.now);
        Effect::Timer
    }

    /// Reads the APIC base MSR.
    #[must_use]
    pub fn base_msr(&self) -> u64 {
        let boot = if self.boot_cpu { reg::BASE_BOOT_CPU } else { 0 };
        let mode = match self.mode {
            ApicMode::Disabled => 0,
            ApicMode::XApic => reg::BASE_ENABLE,
            ApicMode::X2Apic => reg::BASE_ENABLE | reg::BASE_X2APIC,
        };
        MMIO_BASE.0 | boot | mode
    }

    /// Writes the APIC base MSR.
    ///
    /// # Errors
    /// #GP for reserved bits, another address, and mode changes that the manuals forbid (x2APIC to xAPIC, disabled to
    /// x2APIC, x2APIC without enable).
    pub fn set_base_msr(&mut self, value: u64) -> Result<Effect, GeneralProtection> {
        if value & !(reg::BASE_BOOT_CPU | reg::BASE_ENABLE | reg::BASE_X2APIC) != MMIO_BASE.0 {
            return Err(GeneralProtection);
        }
        let mode = match (value & reg::BASE_ENABLE != 0, value & reg::BASE_X2APIC != 0) {
            (false, false) => ApicMode::Disabled,
            (true, false) => ApicMode::XApic,
            (true, true) if self.config.x2apic => ApicMode::X2Apic,
            _ => return Err(GeneralProtection),
        };
        match (self.mode, mode) {
            (ApicMode::X2Apic, ApicMode::XApic) | (ApicMode::Disabled, ApicMode::X2Apic) => {
                return Err(GeneralProtection);
            }
            (old, new) if old == new => return Ok(Effect::None),
            _ => {}
        }
        self.mode = mode;
        if mode == ApicMode::Disabled {
            self.init();
        }
        self.publish();
        Ok(Effect::Mode)
    }

    /// Moves posted requests into the IRR. One load if there are none.
    fn merge(&mut self) {
        if self.shared.has_requests() {
            let (irr, tmr) = (&mut self.irr, &mut self.tmr);
            let illegal = self.shared.take_requests(|w, bits, level| {
                irr.insert_word(w, bits);
                tmr.set_word(w, (tmr.word(w) & !bits) | (bits & level));
            });
            if illegal {
                self.error(reg::ERROR_RECEIVE_VECTOR);
            }
        }
    }

    fn software_enabled(&self) -> bool {
        self.mode != ApicMode::Disabled && self.svr & reg::SVR_ENABLE != 0
    }

    fn lvt_entry(&self, source: LocalSource) -> u32 {
        self.lvt.get(source.index()).copied().unwrap_or(reg::LVT_MASKED)
    }

    /// Notes an error and raises the error interrupt. Nothing more happens if that error is noted already, which also
    /// ends the recursion of an error entry whose own vector is illegal.
    fn error(&mut self, error: u32) {
        if self.errors & error == 0 {
            self.errors |= error;
            // An error entry never sends an NMI.
            let _ = self.raise(LocalSource::Error);
        }
    }

    fn update_ppr(&mut self) {
        let in_service = self.isr_top.unwrap_or(0);
        let ppr = if self.tpr >> 4 >= in_service >> 4 { self.tpr } else { in_service & 0xf0 };
        if ppr != self.ppr {
            self.ppr = ppr;
            self.shared.publish_priority(ppr);
        }
    }

    fn publish(&self) {
        self.shared.publish_matching(Matching {
            enabled: self.mode != ApicMode::Disabled,
            x2apic: self.mode == ApicMode::X2Apic,
            software_enabled: self.software_enabled(),
            model: (self.dfr >> 28) as u8,
            logical_id: (self.ldr >> 24) as u8,
        });
    }

    /// The value of the logical destination register in the current mode.
    fn logical_id(&self) -> u32 {
        if self.mode == ApicMode::X2Apic { x2apic_logical_id(self.shared.id()) } else { self.ldr }
    }

    /// The timer mode that the LVT entry asks for.
    fn timer_mode(&self, entry: u32) -> Mode {
        match entry >> reg::LVT_TIMER_MODE_SHIFT & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 if self.config.tsc_deadline => Mode::TscDeadline,
            _ => Mode::Reserved,
        }
    }

    /// Makes the message that an ICR value asks for, if any. To itself it is posted at once.
    fn send(&mut self, icr: u64) -> Effect {
        let Some(mode) = DeliveryMode::from_bits((icr >> 8) as u32) else { return Effect::None };
        let vector = icr as u8;
        if mode.carries_vector() && vector < FIRST_LEGAL_VECTOR {
            self.error(reg::ERROR_SEND_VECTOR);
            return Effect::None;
        }
        // INIT level de-assert means nothing to any APIC of the last decades; ExtINT and SMI have no receiver here.
        let deassert = icr & reg::ICR_LEVEL != 0 && icr & reg::ICR_ASSERT == 0;
        if (mode == DeliveryMode::Init && deassert) || matches!(mode, DeliveryMode::Smi | DeliveryMode::ExtInt) {
            return Effect::None;
        }
        let starts = matches!(mode, DeliveryMode::Init | DeliveryMode::StartUp);
        let target = match icr >> 18 & 3 {
            0 => IpiTarget::Destination,
            1 if mode.carries_vector() => {
                self.request(vector, Trigger::Edge);
                return Effect::None;
            }
            // "Self" and "all" are not valid for starting processors, nor is "self" for an NMI.
            1 => return Effect::None,
            2 if starts => return Effect::None,
            2 => IpiTarget::All,
            _ => IpiTarget::Others,
        };
        let destination = (icr >> 32) as u32;
        let destination = if self.mode == ApicMode::X2Apic { destination } else { destination >> 24 };
        // Inter-processor interrupts are edge triggered; the trigger bit concerns INIT de-assert only.
        let logical = icr & reg::ICR_LOGICAL != 0;
        Effect::Send(Ipi { target, message: Message { destination, logical, mode, vector, trigger: Trigger::Edge } })
    }
}
