//! Guest accesses to the registers of the local APIC: the memory page of xAPIC mode and the MSRs of x2APIC mode.

use radon_core::types::Nanoseconds;

use super::{ApicMode, Effect, GeneralProtection, Lapic, MSR_X2APIC_FIRST, MSR_X2APIC_LAST, registers as reg};
use crate::devices::interrupt::{FIRST_LEGAL_VECTOR, Trigger};

impl Lapic {
    /// Reads `len` bytes (1 to 8) at `offset` of the xAPIC page. Registers are 32 bits wide at multiples of 16; bytes
    /// beyond read as zero. All ones unless in xAPIC mode.
    pub fn mmio_read(&mut self, offset: u16, len: u8, now: Nanoseconds) -> u64 {
        if self.mode != ApicMode::XApic {
            return u64::MAX;
        }
        let number = u32::from(offset >> 4);
        let Some(value) = self.read(number, now) else {
            self.error(reg::ERROR_REGISTER);
            return 0;
        };
        let kept = u64::from(value).checked_shr(u32::from(offset & 0xf) << 3).unwrap_or(0);
        let bits = u32::from(len.min(8)) << 3;
        kept & u64::MAX.checked_shr(64u32.saturating_sub(bits)).unwrap_or(0)
    }

    /// Writes to the xAPIC page. Only aligned 32-bit writes have a meaning; others, and writes in other modes than
    /// xAPIC, are dropped.
    pub fn mmio_write(&mut self, offset: u16, len: u8, value: u32, now: Nanoseconds) -> Effect {
        if self.mode != ApicMode::XApic || offset & 0xf != 0 || len != 4 {
            return Effect::None;
        }
        let number = u32::from(offset >> 4);
        match number {
            reg::LDR => {
                self.ldr = value & 0xff00_0000;
                self.publish();
                Effect::None
            }
            reg::DFR => {
                self.dfr = value | 0x0fff_ffff;
                self.publish();
                Effect::None
            }
            reg::ICR_LOW => {
                let low = reg::ICR_WRITABLE & u64::from(value);
                self.icr = (self.icr & !0xffff_ffff) | low;
                self.send(self.icr)
            }
            reg::ICR_HIGH => {
                self.icr = (self.icr & 0xffff_ffff) | u64::from(value & 0xff00_0000) << 32;
                Effect::None
            }
            // Remote read register and reserved places: no such register to write.
            _ => match self.write(number, value, now) {
                Some(effect) => effect,
                None => {
                    // Read-only registers ignore writes; the rest does not exist.
                    if self.read(number, now).is_none() {
                        self.error(reg::ERROR_REGISTER);
                    }
                    Effect::None
                }
            },
        }
    }

    /// Reads an x2APIC MSR.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for MSRs that do not exist and for write-only ones.
    pub fn msr_read(&mut self, msr: u32, now: Nanoseconds) -> Result<u64, GeneralProtection> {
        let number = self.x2apic_register(msr)?;
        match number {
            reg::ICR_LOW => Ok(self.icr),
            // Registers of xAPIC mode only, and the write-only EOI (which as memory reads zero).
            reg::APR | reg::RRD | reg::DFR | reg::ICR_HIGH | reg::EOI => Err(GeneralProtection),
            _ => self.read(number, now).map(u64::from).ok_or(GeneralProtection),
        }
    }

    /// Writes an x2APIC MSR.
    ///
    /// # Errors
    /// #GP outside x2APIC mode, for MSRs that do not exist, for read-only ones and for reserved bits.
    pub fn msr_write(&mut self, msr: u32, value: u64, now: Nanoseconds) -> Result<Effect, GeneralProtection> {
        let number = self.x2apic_register(msr)?;
        let allowed = match number {
            reg::TPR | reg::SELF_IPI => 0xff,
            reg::EOI | reg::ESR => 0,
            reg::SVR => u64::from(reg::SVR_WRITABLE),
            // The delivery status is gone in x2APIC mode; AMD processors ignore its bit, so it is dropped.
            reg::ICR_LOW => reg::ICR_WRITABLE | reg::ICR_BUSY,
            reg::LVT..=reg::LVT_LAST => {
                u64::from(reg::lvt_writable(number.saturating_sub(reg::LVT) as usize) | reg::LVT_READ_ONLY)
            }
            reg::TIMER_INITIAL => 0xffff_ffff,
            reg::TIMER_DIVIDE => 0b1011,
            _ => return Err(GeneralProtection),
        };
        if value & !allowed != 0 {
            return Err(GeneralProtection);
        }
        match number {
            reg::ICR_LOW => {
                self.icr = value & !reg::ICR_BUSY;
                Ok(self.send(self.icr))
            }
            reg::SELF_IPI => {
                let vector = value as u8;
                if vector < FIRST_LEGAL_VECTOR {
                    self.error(reg::ERROR_SEND_VECTOR);
                } else {
                    self.request(vector, Trigger::Edge);
                }
                Ok(Effect::None)
            }
            _ => self.write(number, value as u32, now).ok_or(GeneralProtection),
        }
    }

    fn x2apic_register(&self, msr: u32) -> Result<u32, GeneralProtection> {
        match msr {
            MSR_X2APIC_FIRST..=MSR_X2APIC_LAST if self.mode == ApicMode::X2Apic => {
                Ok(msr.wrapping_sub(MSR_X2APIC_FIRST))
            }
            _ => Err(GeneralProtection),
        }
    }

    /// Reads a 32-bit register; `None` if there is none of that number. Write-only registers read zero.
    pub(super) fn read(&mut self, number: u32, now: Nanoseconds) -> Option<u32> {
        let word = |first: u32| number.wrapping_sub(first) as usize;
        Some(match number {
            reg::ID if self.mode == ApicMode::X2Apic => self.shared.id(),
            reg::ID => self.shared.id() << 24,
            reg::VERSION => reg::VERSION_VALUE,
            reg::TPR => u32::from(self.tpr),
            // Arbitration priorities and remote reads went away with the APIC bus.
            reg::APR | reg::RRD | reg::EOI => 0,
            reg::PPR => u32::from(self.ppr),
            reg::LDR => self.logical_id(),
            reg::DFR => self.dfr,
            reg::SVR => self.svr,
            reg::ISR..=reg::ISR_LAST => self.isr.word(word(reg::ISR)),
            reg::TMR..=reg::TMR_LAST => {
                self.merge();
                self.tmr.word(word(reg::TMR))
            }
            reg::IRR..=reg::IRR_LAST => {
                self.merge();
                self.irr.word(word(reg::IRR))
            }
            reg::ESR => self.esr,
            reg::ICR_LOW => self.icr as u32,
            reg::ICR_HIGH => (self.icr >> 32) as u32,
            reg::LVT..=reg::LVT_LAST => self.lvt.get(word(reg::LVT)).copied()?,
            reg::TIMER_INITIAL => self.timer.initial(),
            reg::TIMER_CURRENT => {
                self.run_timer(now);
                self.timer.current(now)
            }
            reg::TIMER_DIVIDE => self.timer.divide(),
            _ => return None,
        })
    }

    /// Writes a 32-bit register that both modes have; `None` if it is not among them. Reserved bits are dropped.
    fn write(&mut self, number: u32, value: u32, now: Nanoseconds) -> Option<Effect> {
        Some(match number {
            reg::TPR => {
                self.set_tpr(value as u8);
                Effect::None
            }
            reg::EOI => self.eoi(),
            reg::SVR => {
                self.svr = value & reg::SVR_WRITABLE;
                if self.svr & reg::SVR_ENABLE == 0 {
                    self.run_timer(now);
                    for entry in &mut self.lvt {
                        *entry |= reg::LVT_MASKED;
                    }
                }
                self.publish();
                Effect::Timer
            }
            reg::ESR => {
                self.merge();
                self.esr = self.errors;
                self.errors = 0;
                Effect::None
            }
            reg::LVT..=reg::LVT_LAST => {
                self.write_lvt(number.wrapping_sub(reg::LVT) as usize, value, now);
                if number == reg::LVT { Effect::Timer } else { Effect::None }
            }
            reg::TIMER_INITIAL => {
                self.run_timer(now);
                self.timer.set_initial(value, now);
                Effect::Timer
            }
            reg::TIMER_DIVIDE => {
                self.run_timer(now);
                self.timer.set_divide(value, now);
                Effect::Timer
            }
            _ => return None,
        })
    }

    fn write_lvt(&mut self, index: usize, value: u32, now: Nanoseconds) {
        let mut value = value & reg::lvt_writable(index);
        if !self.software_enabled() {
            value |= reg::LVT_MASKED;
        }
        if index == 0 {
            // What is due by now happens under the old entry.
            self.run_timer(now);
            self.timer.set_mode(self.timer_mode(value));
        }
        if let Some(entry) = self.lvt.get_mut(index) {
            *entry = value;
        }
    }
}
