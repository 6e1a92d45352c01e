//! Saved state in the form of Xen's HVM context records LAPIC and LAPIC_REGS (`hvm_hw_lapic` and `hvm_hw_lapic_regs` of
//! xen/arch-x86/hvm/save.h). All fields are little-endian. The second is the register page as xAPIC mode lays it out, in
//! either mode; in x2APIC mode its ID and ICR hold the x2APIC forms.

use radon_core::types::Nanoseconds;

use super::vectors::VectorSet;
use super::{ApicMode, GuestTsc, Lapic, MMIO_BASE, registers as reg, timer::Mode, timer::Timer};

/// Bytes of `hvm_hw_lapic`.
pub const HVM_LAPIC_SIZE: usize = 24;
/// Bytes of `hvm_hw_lapic_regs`.
pub const HVM_LAPIC_REGS_SIZE: usize = 1024;

/// `disabled` of `hvm_hw_lapic`: by the APIC base MSR.
const HARDWARE_DISABLED: u32 = 1;
/// `disabled` of `hvm_hw_lapic`: by the spurious vector register.
const SOFTWARE_DISABLED: u32 = 2;

/// A saved state that no APIC of this guest can be in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidState;

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let mut out = [0; 4];
    for (to, from) in out.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u32::from_le_bytes(out)
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from(get_u32(bytes, at)) | u64::from(get_u32(bytes, at.saturating_add(4))) << 32
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}

impl Lapic {
    /// The state outside of the register page, as `hvm_hw_lapic`.
    #[must_use]
    pub fn save(&self) -> [u8; HVM_LAPIC_SIZE] {
        let mut disabled = 0;
        if self.mode == ApicMode::Disabled {
            disabled |= HARDWARE_DISABLED;
        }
        if self.svr & reg::SVR_ENABLE == 0 {
            disabled |= SOFTWARE_DISABLED;
        }
        let divisor = 1u32.wrapping_shl(Timer::divisor_log2(self.timer.divide()));
        let mut out = [0; HVM_LAPIC_SIZE];
        put(&mut out, 0, &self.base_msr().to_le_bytes());
        put(&mut out, 8, &u32::to_le_bytes(disabled));
        put(&mut out, 12, &divisor.to_le_bytes());
        put(&mut out, 16, &self.timer.tsc_deadline().to_le_bytes());
        out
    }

    /// The register page, as `hvm_hw_lapic_regs`. Posted requests are merged and due timers fire first.
    #[must_use]
    pub fn save_registers(&mut self, now: Nanoseconds) -> [u8; HVM_LAPIC_REGS_SIZE] {
        self.run_timer(now);
        self.merge();
        let mut out = [0; HVM_LAPIC_REGS_SIZE];
        for number in 0..(HVM_LAPIC_REGS_SIZE as u32 >> 4) {
            let value = self.read(number, now).unwrap_or(0);
            put(&mut out, (number << 4) as usize, &value.to_le_bytes());
        }
        out
    }

    /// The mode in a saved state.
    ///
    /// # Errors
    /// [`InvalidState`] if this guest cannot be in it.
    pub fn saved_mode(&self, saved: &[u8; HVM_LAPIC_SIZE]) -> Result<ApicMode, InvalidState> {
        let base = get_u64(saved, 0);
        if base & !(reg::BASE_BOOT_CPU | reg::BASE_ENABLE | reg::BASE_X2APIC) != MMIO_BASE.0 {
            return Err(InvalidState);
        }
        match (base & reg::BASE_ENABLE != 0, base & reg::BASE_X2APIC != 0) {
            (false, false) => Ok(ApicMode::Disabled),
            (true, false) => Ok(ApicMode::XApic),
            (true, true) if self.config.x2apic => Ok(ApicMode::X2Apic),
            _ => Err(InvalidState),
        }
    }

    /// Takes over a saved state. Both records belong together. `tsc` is the guest's counter as it will run on.
    /// The boot-processor flag and the id stay this APIC's own.
    ///
    /// # Errors
    /// [`InvalidState`] if the mode is not one that this guest can be in; nothing is changed then. Register contents are
    /// cut to what software could have written.
    pub fn restore(
        &mut self,
        saved: &[u8; HVM_LAPIC_SIZE],
        registers: &[u8; HVM_LAPIC_REGS_SIZE],
        tsc: &GuestTsc,
    ) -> Result<(), InvalidState> {
        let mode = self.saved_mode(saved)?;
        let register = |number: u32| get_u32(registers, (number << 4) as usize);
        let vectors = |first: u32| {
            let mut set = VectorSet::default();
            for (w, number) in (first..).take(8).enumerate() {
                // Vectors 0 to 15 cannot be requested.
                set.set_word(w, if w == 0 { register(number) & !0xffff } else { register(number) });
            }
            set
        };

        self.mode = mode;
        self.init();
        self.irr = vectors(reg::IRR);
        self.isr = vectors(reg::ISR);
        self.tmr = vectors(reg::TMR);
        self.isr_top = self.isr.highest();
        self.tpr = register(reg::TPR) as u8;
        if mode == ApicMode::XApic {
            self.ldr = register(reg::LDR) & 0xff00_0000;
            self.dfr = register(reg::DFR) | 0x0fff_ffff;
        }
        self.svr = register(reg::SVR) & reg::SVR_WRITABLE;
        if get_u32(saved, 8) & SOFTWARE_DISABLED != 0 {
            self.svr &= !reg::SVR_ENABLE;
        }
        self.esr = register(reg::ESR) & 0xff;
        let icr = u64::from(register(reg::ICR_LOW)) | u64::from(register(reg::ICR_HIGH)) << 32;
        self.icr = icr & reg::ICR_WRITABLE;
        let force = if self.software_enabled() { 0 } else { reg::LVT_MASKED };
        for (index, (entry, number)) in self.lvt.iter_mut().zip(reg::LVT..).enumerate() {
            *entry = (register(number) & reg::lvt_writable(index)) | force;
        }
        let timer_mode = self.timer_mode(register(reg::LVT));
        let (initial, current) = (register(reg::TIMER_INITIAL), register(reg::TIMER_CURRENT));
        self.timer.restore(timer_mode, register(reg::TIMER_DIVIDE), initial, current, tsc.now);
        let deadline = get_u64(saved, 16);
        if timer_mode == Mode::TscDeadline && deadline != 0 {
            self.timer.set_tsc_deadline(deadline, tsc);
        }
        self.update_ppr();
        self.publish();
        Ok(())
    }
}
