//! RDMSR and WRMSR exits.

use core::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::trace::{TRC_HVM_MSR_READ, TRC_HVM_MSR_WRITE};
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::GuestPhys;
use radon_core::time::clock::set_guest_mode;
use radon_core::types::{Gfn, PAGE_SIZE};

use super::Cx;
use crate::devices::lapic;
use crate::emulate::Op;
use crate::msr::{Effect, GeneralProtection, Read};
use crate::virt::{Event, gpr};

/// Bytes of one stub of the hypercall page.
const STUB: usize = 32;
/// `__HYPERVISOR_iret`, which HVM guests do not have.
const IRET_STUB: usize = 23;

impl Cx<'_> {
    pub(super) fn rdmsr(&mut self) {
        let number = self.state.cpu.regs().get(gpr::RCX) as u32;
        match self.msr_value(number) {
            Ok(value) => {
                if self.retire(Op::Rdmsr) {
                    self.trace_msr(TRC_HVM_MSR_READ, number, value);
                    self.state.cpu.regs_mut().set_edx_eax(value);
                }
            }
            Err(GeneralProtection) => {
                log::debug!("{}{}: RDMSR {number:#x} refused", self.domain.id, self.vcpu.id);
                self.inject(Event::GP);
            }
        }
    }

    fn msr_value(&mut self, number: u32) -> Result<u64, GeneralProtection> {
        let now = self.now();
        let tsc = self.guest_tsc();
        let state = &mut *self.state;
        Ok(match state.msrs.read(number, &self.x86.cpuid, &*state.cpu)? {
            Read::Value(value) => value,
            Read::Tsc => tsc,
            Read::ApicBase => state.lapic.base_msr(),
            Read::TscDeadline => state.lapic.tsc_deadline(now),
            Read::X2Apic(msr) => {
                state.lapic.msr_read(msr, now).map_err(|lapic::GeneralProtection| GeneralProtection)?
            }
        })
    }

    pub(super) fn wrmsr(&mut self) {
        let regs = self.state.cpu.regs();
        let (number, value) = (regs.get(gpr::RCX) as u32, regs.edx_eax());
        self.trace_msr(TRC_HVM_MSR_WRITE, number, value);
        match self.set_msr(number, value) {
            Ok(()) => {
                self.retire(Op::Wrmsr);
            }
            Err(GeneralProtection) => {
                log::debug!("{}{}: WRMSR {number:#x} = {value:#x} refused", self.domain.id, self.vcpu.id);
                self.inject(Event::GP);
            }
        }
    }

    fn set_msr(&mut self, number: u32, value: u64) -> Result<(), GeneralProtection> {
        let refused = |lapic::GeneralProtection| GeneralProtection;
        let now = self.now();
        let state = &mut *self.state;
        match state.msrs.write(number, value, &self.x86.cpuid, &mut *state.cpu)? {
            Effect::None => {}
            Effect::Efer => state.cpu.flush_tlb(),
            Effect::Tsc(value) => {
                let delta = value.wrapping_sub(self.guest_tsc());
                self.state.msrs.moved_tsc(delta);
                self.move_tsc(delta);
            }
            Effect::TscAdd(delta) => self.move_tsc(delta),
            Effect::ApicBase(value) => {
                let effect = state.lapic.set_base_msr(value).map_err(refused)?;
                self.lapic_effect(effect);
            }
            Effect::TscDeadline(value) => {
                let tsc = self.tsc_relation();
                let effect = self.state.lapic.set_tsc_deadline(value, &tsc);
                self.lapic_effect(effect);
            }
            Effect::X2Apic(msr, value) => {
                let effect = state.lapic.msr_write(msr, value, now).map_err(refused)?;
                self.lapic_effect(effect);
            }
            Effect::SpecCtrl(value) => state.cpu.set_spec_ctrl(value),
            Effect::PredCmd(value) => self.sys.machine.prediction_barrier(value),
            Effect::HypercallPage(gfn) => self.fill_hypercall_page(gfn)?,
        }
        Ok(())
    }

    fn move_tsc(&mut self, delta: u64) {
        let offset = self.state.cpu.tsc_offset().wrapping_add(delta);
        self.state.cpu.set_tsc_offset(offset);
        // The clock that it reads from memory is told in terms of its counter.
        self.arch.tsc_offset.store(offset, Ordering::Release);
        self.vcpu.publish_clock(self.hv());
    }

    /// Writes the stubs through which a guest may call, in any mode. It does so early, so this also tells which kind of
    /// guest it is.
    fn fill_hypercall_page(&self, gfn: Gfn) -> Result<(), GeneralProtection> {
        set_guest_mode(self.hv(), self.domain, !self.in_64_bit_mode());
        write_hypercall_page(self.hv(), self.domain, gfn).map_err(|_| GeneralProtection)
    }
}

/// Writes the stubs through which a guest may call (`mov $number, %eax; vmmcall; ret`) to a guest frame.
///
/// # Errors
/// `EINVAL`: it is not writable memory.
pub(crate) fn write_hypercall_page(hv: &Hypervisor, domain: &Domain, gfn: Gfn) -> Result<(), Errno> {
    let mut page = [0xcc_u8; PAGE_SIZE as usize];
    for (number, stub) in page.chunks_exact_mut(STUB).enumerate() {
        let [n0, n1, n2, n3] = (number as u32).to_le_bytes();
        let code = if number == IRET_STUB {
            [0x0f, 0x0b, 0, 0, 0, 0, 0, 0, 0]
        } else {
            [0xb8, n0, n1, n2, n3, 0x0f, 0x01, 0xd9, 0xc3]
        };
        for (byte, c) in stub.iter_mut().zip(code) {
            *byte = c;
        }
    }
    let at = gfn.checked_addr().ok_or(Errno::EINVAL)?;
    GuestPhys::new(hv, &domain.p2m).write(at, &page).map_err(|_| Errno::EINVAL)
}
