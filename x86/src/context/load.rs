//! Taking records over.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::save as abi;
use radon_abi::save::{Cpu, CpuXsave, Header, Mtrr, OneMsr, TscAdjust};
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::time::VcpuTimer;
use radon_core::vcpu::Vcpu;
use zerocopy::FromBytes;

use super::cpu::{self, LEGACY, XSAVE_HEADER, put};
use super::record::Reader;
use super::save::{FIXED_RANGES, SINGLE_MSRS, VARIABLE_RANGES, xsave_size};
use crate::cpuid::CpuidPolicy;
use crate::devices::lapic::{GuestTsc, HVM_LAPIC_REGS_SIZE, HVM_LAPIC_SIZE};
use crate::domain::X86Domain;
use crate::emulate::control::xcr0_valid;
use crate::msr::{Effect, MemoryTypes, Read, index as msr};
use crate::vcpu::{VcpuState, X86Vcpu};
use crate::virt::SwitchedMsr;

/// The vCPU timer that the local APIC uses.
const LAPIC_TIMER: VcpuTimer = VcpuTimer::Arch(0);
/// Bytes of Xen's record of a vCPU's machine check registers, which do not exist here.
const VMCE_SIZE: usize = 32;
/// Bytes of Xen's records of a PC's interrupt lines. It writes them for PVH guests, too, where they lead nowhere.
const PCI_IRQ_SIZE: usize = 16;
const ISA_IRQ_SIZE: usize = 8;
const PCI_LINK_SIZE: usize = 8;

/// The records for one vCPU.
#[derive(Default)]
struct Incoming<'a> {
    cpu: Option<Cpu>,
    lapic: Option<&'a [u8; HVM_LAPIC_SIZE]>,
    lapic_registers: Option<&'a [u8; HVM_LAPIC_REGS_SIZE]>,
    mtrr: Option<Mtrr>,
    xsave: Option<(CpuXsave, &'a [u8])>,
    tsc_adjust: Option<u64>,
    msrs: Vec<OneMsr>,
}

/// Puts a domain into the state that the records tell. All its vCPUs go down; those with a CPU record come up.
///
/// # Errors
/// `EINVAL`: a record of an unknown type, for no vCPU, of the wrong size, or with a state that cannot be. `ENODATA`: no
/// header, or no end. `EBUSY`: a vCPU is not off its CPU. The domain is as it was then.
pub fn load(hv: &Hypervisor, domain: &Domain, x86: &X86Domain, records: &[u8]) -> Result<(), Errno> {
    let count = x86.tsc.count(hv, x86.machine().ok_or(Errno::EOPNOTSUPP)?);
    let incoming = read(domain, records)?;
    domain.vcpus().iter().zip(&incoming).try_for_each(|(v, i)| i.check(v, &x86.cpuid))?;
    // Those that have no registers to go on with stay down.
    domain.vcpus().iter().for_each(|v| hv.scheduler.take_down(hv, v));
    // A vCPU that comes up later has the counter of the first.
    let boot_tsc = incoming.first().and_then(|i| i.cpu.as_ref()).map_or(0, |c| c.tsc);
    for (vcpu, incoming) in domain.vcpus().iter().zip(&incoming) {
        incoming.apply(hv, vcpu, x86, count, boot_tsc)?;
    }
    for (vcpu, _) in domain.vcpus().iter().zip(&incoming).filter(|(_, i)| i.cpu.is_some()) {
        hv.scheduler.bring_up(hv, vcpu);
    }
    Ok(())
}

/// Sorts the records by vCPU.
fn read<'a>(domain: &Domain, records: &'a [u8]) -> Result<Vec<Incoming<'a>>, Errno> {
    let mut reader = Reader(records);
    let (descriptor, bytes) = reader.next()?.ok_or(Errno::ENODATA)?;
    if descriptor.typecode != abi::HVM_SAVE_CODE_HEADER {
        return Err(Errno::ENODATA);
    }
    let header: Header = exactly(bytes)?;
    if header.magic != abi::HVM_FILE_MAGIC || header.version != abi::HVM_FILE_VERSION {
        return Err(Errno::EINVAL);
    }
    let mut all: Vec<Incoming<'a>> = domain.vcpus().iter().map(|_| Incoming::default()).collect();
    while let Some((descriptor, bytes)) = reader.next()? {
        let vcpu = all.get_mut(usize::from(descriptor.instance)).ok_or(Errno::EINVAL)?;
        vcpu.take(descriptor.typecode, bytes)?;
    }
    Ok(all)
}

/// A record of fixed size.
fn exactly<T: FromBytes>(bytes: &[u8]) -> Result<T, Errno> {
    T::read_from_bytes(bytes).map_err(|_| Errno::EINVAL)
}

impl<'a> Incoming<'a> {
    fn take(&mut self, typecode: u16, bytes: &'a [u8]) -> Result<(), Errno> {
        match typecode {
            abi::HVM_SAVE_CODE_CPU => self.cpu = Some(exactly(bytes)?),
            abi::HVM_SAVE_CODE_LAPIC => self.lapic = Some(bytes.try_into().map_err(|_| Errno::EINVAL)?),
            abi::HVM_SAVE_CODE_LAPIC_REGS => {
                self.lapic_registers = Some(bytes.try_into().map_err(|_| Errno::EINVAL)?);
            }
            abi::HVM_SAVE_CODE_MTRR => self.mtrr = Some(exactly(bytes)?),
            abi::HVM_SAVE_CODE_CPU_XSAVE => {
                let (head, rest) = CpuXsave::read_from_prefix(bytes).map_err(|_| Errno::EINVAL)?;
                self.xsave = Some((head, rest));
            }
            abi::HVM_SAVE_CODE_TSC_ADJUST => self.tsc_adjust = Some(exactly::<TscAdjust>(bytes)?.tsc_adjust),
            abi::HVM_SAVE_CODE_CPU_MSR => self.msrs = msrs(bytes)?,
            // From a Xen, whose guests have them: all as after reset.
            abi::HVM_SAVE_CODE_VMCE_VCPU if bytes.len() == VMCE_SIZE => {}
            abi::HVM_SAVE_CODE_PCI_IRQ if bytes.len() == PCI_IRQ_SIZE => {}
            abi::HVM_SAVE_CODE_ISA_IRQ if bytes.len() == ISA_IRQ_SIZE => {}
            abi::HVM_SAVE_CODE_PCI_LINK if bytes.len() == PCI_LINK_SIZE => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    /// Whether a processor of this policy can be in that state, so that [`Incoming::apply`] does not fail.
    fn check(&self, vcpu: &Vcpu, policy: &CpuidPolicy) -> Result<(), Errno> {
        let arch = X86Vcpu::of(vcpu).ok_or(Errno::EOPNOTSUPP)?;
        let mut state = arch.state.try_lock().ok_or(Errno::EBUSY)?;
        if let Some(cpu) = &self.cpu {
            cpu::check(cpu, policy)?;
        }
        if let Some(mtrr) = &self.mtrr {
            memory_types(mtrr, policy)?;
        }
        if let Some((head, rest)) = &self.xsave {
            check_xsave(head, rest, policy)?;
        }
        if let Some(lapic) = self.lapic {
            state.lapic.saved_mode(lapic).map_err(|_| Errno::EINVAL)?;
        }
        // These MSRs are nowhere else but in there.
        let mut msrs = state.msrs.clone();
        let mut accepted = |m: &OneMsr| msrs.write(m.index, m.val, policy, &mut *state.cpu).is_ok();
        let fits = |m: &OneMsr| m.rsvd == 0 && (m.val == 0 || SINGLE_MSRS.contains(&m.index) && accepted(m));
        if self.msrs.iter().all(fits) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn apply(
        &self,
        hv: &Hypervisor,
        vcpu: &Arc<Vcpu>,
        x86: &X86Domain,
        count: u64,
        boot_tsc: u64,
    ) -> Result<(), Errno> {
        let arch = X86Vcpu::of(vcpu).ok_or(Errno::EOPNOTSUPP)?;
        let mut guard = arch.state.try_lock().ok_or(Errno::EBUSY)?;
        let state = &mut *guard;
        if let Some(cpu) = &self.cpu {
            cpu::load(&mut *state.cpu, cpu);
            state.wait_for_sipi = false;
        }
        // A toolstack that makes up the first state leaves the counter out; then it runs as the domain's.
        let tsc = self.cpu.as_ref().map_or(boot_tsc, |c| c.tsc);
        if tsc != 0 {
            let offset = tsc.wrapping_sub(count);
            state.cpu.set_tsc_offset(offset);
            arch.tsc_offset.store(offset, Ordering::Release);
        }
        if let Some((head, rest)) = &self.xsave {
            let mut area = Vec::with_capacity(xsave_size(&x86.cpuid));
            area.extend_from_slice(&head.fpu_sse);
            area.resize(LEGACY.saturating_add(XSAVE_HEADER), 0);
            put(&mut area, LEGACY, &head.xstate_bv.to_le_bytes());
            area.extend_from_slice(rest);
            area.truncate(xsave_size(&x86.cpuid));
            state.cpu.set_xcr0(head.xcr0);
            state.cpu.set_extended_state(&area);
        }
        if let Some(mtrr) = &self.mtrr {
            state.cpu.set_switched_msr(SwitchedMsr::Pat, mtrr.msr_pat_cr);
            state.msrs.memory_types = memory_types(mtrr, &x86.cpuid)?;
        }
        if let Some(adjust) = self.tsc_adjust
            && let Ok(Read::Value(now)) = state.msrs.read(msr::TSC_ADJUST, &x86.cpuid, &*state.cpu)
        {
            state.msrs.moved_tsc(adjust.wrapping_sub(now));
        }
        for m in self.msrs.iter().filter(|m| m.val != 0) {
            let written = state.msrs.write(m.index, m.val, &x86.cpuid, &mut *state.cpu);
            if let Effect::SpecCtrl(value) = written.map_err(|_| Errno::EINVAL)? {
                state.cpu.set_spec_ctrl(value);
            }
        }
        self.apply_lapic(hv, x86, state, count)?;
        let tpr = state.lapic.tpr() >> 4;
        state.cpu.set_tpr(tpr);
        let deadline = state.lapic.next_deadline();
        drop(guard);
        match deadline {
            Some(at) => vcpu.arm_timer(hv, LAPIC_TIMER, at),
            None => vcpu.cancel_timer(hv, LAPIC_TIMER),
        }
        vcpu.publish_clock(hv);
        Ok(())
    }

    /// The two records of a local APIC belong together; one that is missing is as it is now.
    fn apply_lapic(&self, hv: &Hypervisor, x86: &X86Domain, state: &mut VcpuState, count: u64) -> Result<(), Errno> {
        if self.lapic.is_none() && self.lapic_registers.is_none() {
            return Ok(());
        }
        let now = hv.platform.now();
        let present_registers = state.lapic.save_registers(now);
        let present = state.lapic.save();
        let value = count.wrapping_add(state.cpu.tsc_offset());
        let tsc = GuestTsc { value, now, clock: x86.tsc.clock(hv) };
        let (saved, registers) = (self.lapic.unwrap_or(&present), self.lapic_registers.unwrap_or(&present_registers));
        state.lapic.restore(saved, registers, &tsc).map_err(|_| Errno::EINVAL)
    }
}

/// The entries of a CPU_MSR record.
fn msrs(bytes: &[u8]) -> Result<Vec<OneMsr>, Errno> {
    let (head, rest) = abi::Msrs::read_from_prefix(bytes).map_err(|_| Errno::EINVAL)?;
    let entries = rest.chunks_exact(size_of::<OneMsr>());
    if !entries.remainder().is_empty() || entries.len() != head.count as usize {
        return Err(Errno::EINVAL);
    }
    entries.map(exactly).collect()
}

/// The memory types of a record.
fn memory_types(r: &Mtrr, policy: &CpuidPolicy) -> Result<MemoryTypes, Errno> {
    let mut types = MemoryTypes::default();
    let bits = policy.physical_bits();
    let variable = (VARIABLE_RANGES..).zip(r.msr_mtrr_var);
    let fixed = FIXED_RANGES.into_iter().zip(r.msr_mtrr_fixed);
    let ok = variable.chain(fixed).chain([(msr::MTRR_DEF_TYPE, r.msr_mtrr_def_type)]);
    let pat_ok = r.msr_pat_cr.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7));
    if pat_ok && ok.into_iter().all(|(number, value)| types.write(number, value, bits)) {
        Ok(types)
    } else {
        Err(Errno::EINVAL)
    }
}

/// Whether an XSAVE area can be loaded by a guest of this policy.
fn check_xsave(head: &CpuXsave, rest: &[u8], policy: &CpuidPolicy) -> Result<(), Errno> {
    let mask = policy.xcr0_mask();
    let sound = xcr0_valid(head.xcr0, mask)
        && head.xcr0 & !head.xcr0_accum == 0
        && head.xcr0_accum & !mask == 0
        && head.xstate_bv & !head.xcr0_accum == 0
        && head.xcomp_bv == 0
        && head.reserved == [0; 6];
    // Room for what was never used need not be given.
    let needed = (policy.state_size(head.xstate_bv) as usize).saturating_sub(LEGACY.saturating_add(XSAVE_HEADER));
    if sound && rest.len() >= needed { Ok(()) } else { Err(Errno::EINVAL) }
}
