//! Writing records.

use alloc::vec::Vec;
use core::iter;

use radon_abi::errno::Errno;
use radon_abi::save as abi;
use radon_abi::save::{Cpu, CpuXsave, Descriptor, Header, Mtrr, OneMsr, TscAdjust};
use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::sort::sort_by_key;
use radon_core::types::Nanoseconds;
use zerocopy::{FromZeros, IntoBytes};

use super::cpu::{self, LEGACY, XSAVE_HEADER};
use super::record::{Record, write};
use crate::cpuid::CpuidPolicy;
use crate::devices::lapic::{HVM_LAPIC_REGS_SIZE, HVM_LAPIC_SIZE};
use crate::domain::X86Domain;
use crate::msr::{Read, index as msr};
use crate::vcpu::{VcpuState, X86Vcpu};
use crate::virt::SwitchedMsr;

/// MSRs that are saved as single values when they are not zero.
pub(super) const SINGLE_MSRS: [u32; 3] = [msr::SPEC_CTRL, msr::MISC_FEATURES_ENABLES, msr::XSS];
/// The MSRs of fixed memory type ranges, in the order of the record.
pub(super) const FIXED_RANGES: [u32; 11] =
    [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// The MSR of the first variable memory type range; base and mask alternate.
pub(super) const VARIABLE_RANGES: u32 = msr::MTRR_PHYS_BASE0;

/// Bytes of an XSAVE area with all components that the guest may have; 0 if it has no XSAVE.
pub(super) fn xsave_size(policy: &CpuidPolicy) -> usize {
    let [_, _, size, _] = policy.leaves().find(|l| l.leaf == 0xd && l.subleaf == 0).map_or([0; 4], |l| l.registers);
    size as usize
}

/// Most bytes that [`save`] gives.
#[must_use]
pub fn size(domain: &Domain, x86: &X86Domain) -> u32 {
    let xsave = size_of::<CpuXsave>().saturating_add(xsave_size(&x86.cpuid));
    let msrs = size_of::<abi::Msrs>().saturating_add(size_of::<[OneMsr; SINGLE_MSRS.len()]>());
    let fixed =
        [size_of::<Cpu>(), HVM_LAPIC_SIZE, HVM_LAPIC_REGS_SIZE, size_of::<Mtrr>(), xsave, size_of::<TscAdjust>(), msrs];
    let with_descriptor = |n: &usize| n.saturating_add(size_of::<Descriptor>());
    let vcpu = fixed.iter().map(with_descriptor).fold(0usize, usize::saturating_add);
    let all = vcpu.saturating_mul(domain.vcpus().len());
    let ends = with_descriptor(&size_of::<Header>()).saturating_add(size_of::<Descriptor>());
    u32::try_from(all.saturating_add(ends)).unwrap_or(u32::MAX)
}

/// All records of a domain, in the order of their types.
///
/// # Errors
/// `EBUSY`: a vCPU is not off its CPU.
pub fn save(hv: &Hypervisor, domain: &Domain, x86: &X86Domain) -> Result<Vec<u8>, Errno> {
    let mut records = alloc::vec![header(hv, x86)];
    collect(hv, domain, x86, &mut records)?;
    sort_by_key(&mut records, |r| (r.typecode, r.instance));
    let mut stream = Vec::with_capacity(size(domain, x86) as usize);
    records.iter().for_each(|r| write(&mut stream, r));
    stream.extend_from_slice(Descriptor::default().as_bytes());
    Ok(stream)
}

/// One record, without its descriptor.
///
/// # Errors
/// `EINVAL`: there is no such type. `ENOENT`: there is no such instance. `EBUSY`: a vCPU is not off its CPU.
pub fn save_one(
    hv: &Hypervisor,
    domain: &Domain,
    x86: &X86Domain,
    typecode: u32,
    instance: u32,
) -> Result<Vec<u8>, Errno> {
    const TYPES: [u16; 7] = [
        abi::HVM_SAVE_CODE_CPU,
        abi::HVM_SAVE_CODE_LAPIC,
        abi::HVM_SAVE_CODE_LAPIC_REGS,
        abi::HVM_SAVE_CODE_MTRR,
        abi::HVM_SAVE_CODE_CPU_XSAVE,
        abi::HVM_SAVE_CODE_TSC_ADJUST,
        abi::HVM_SAVE_CODE_CPU_MSR,
    ];
    if !TYPES.iter().any(|&t| u32::from(t) == typecode) {
        return Err(Errno::EINVAL);
    }
    let mut records = Vec::new();
    collect(hv, domain, x86, &mut records)?;
    let wanted = |r: &Record| u32::from(r.typecode) == typecode && u32::from(r.instance) == instance;
    records.into_iter().find(wanted).map(|r| r.bytes).ok_or(Errno::ENOENT)
}

fn header(hv: &Hypervisor, x86: &X86Domain) -> Record {
    let [signature, ..] = x86.cpuid.leaves().find(|l| l.leaf == 1).map_or([0; 4], |l| l.registers);
    let header = Header {
        magic: abi::HVM_FILE_MAGIC,
        version: abi::HVM_FILE_VERSION,
        changeset: 0,
        cpuid: signature,
        gtsc_khz: x86.tsc.clock(hv).khz,
    };
    Record { typecode: abi::HVM_SAVE_CODE_HEADER, instance: 0, bytes: header.as_bytes().to_vec() }
}

/// The records of all vCPUs.
fn collect(hv: &Hypervisor, domain: &Domain, x86: &X86Domain, to: &mut Vec<Record>) -> Result<(), Errno> {
    let count = x86.tsc.count(hv, x86.machine().ok_or(Errno::EOPNOTSUPP)?);
    let now = hv.platform.now();
    for vcpu in domain.vcpus() {
        let arch = X86Vcpu::of(vcpu).ok_or(Errno::EOPNOTSUPP)?;
        let mut state = arch.state.try_lock().ok_or(Errno::EBUSY)?;
        let up = !vcpu.sched.unit.is_down();
        let instance = vcpu.id.0 as u16;
        let add = |typecode, bytes| to.push(Record { typecode, instance, bytes });
        vcpu_records(&mut state, &x86.cpuid, up, now, count, add);
    }
    Ok(())
}

/// The records of one vCPU. The registers of one that is down are not told: it stays down when it is restored.
fn vcpu_records(
    state: &mut VcpuState,
    policy: &CpuidPolicy,
    up: bool,
    now: Nanoseconds,
    count: u64,
    mut add: impl FnMut(u16, Vec<u8>),
) {
    if up {
        let tsc = count.wrapping_add(state.cpu.tsc_offset());
        add(abi::HVM_SAVE_CODE_CPU, cpu::save(&*state.cpu, tsc).as_bytes().to_vec());
    }
    // The registers first: what is due fires and shows in both.
    let registers = state.lapic.save_registers(now);
    add(abi::HVM_SAVE_CODE_LAPIC, state.lapic.save().to_vec());
    add(abi::HVM_SAVE_CODE_LAPIC_REGS, registers.to_vec());
    add(abi::HVM_SAVE_CODE_MTRR, mtrr(state).as_bytes().to_vec());
    if up && policy.xcr0_mask() != 0 {
        add(abi::HVM_SAVE_CODE_CPU_XSAVE, xsave(state, policy));
    }
    let value = |number| match state.msrs.read(number, policy, &*state.cpu) {
        Ok(Read::Value(value)) => value,
        _ => 0,
    };
    let adjust = TscAdjust { tsc_adjust: value(msr::TSC_ADJUST) };
    add(abi::HVM_SAVE_CODE_TSC_ADJUST, adjust.as_bytes().to_vec());
    let msrs: Vec<OneMsr> = SINGLE_MSRS
        .into_iter()
        .map(|index| OneMsr { index, rsvd: 0, val: value(index) })
        .filter(|m| m.val != 0)
        .collect();
    if !msrs.is_empty() {
        let head = abi::Msrs { count: msrs.len() as u32, _pad: 0 };
        let bytes = iter::once(head.as_bytes()).chain(msrs.iter().map(IntoBytes::as_bytes)).flatten();
        add(abi::HVM_SAVE_CODE_CPU_MSR, bytes.copied().collect());
    }
}

fn mtrr(state: &VcpuState) -> Mtrr {
    let read = |number| state.msrs.memory_types.read(number).unwrap_or(0);
    let mut r = Mtrr {
        msr_pat_cr: state.cpu.switched_msr(SwitchedMsr::Pat),
        msr_mtrr_cap: read(msr::MTRR_CAP),
        msr_mtrr_def_type: read(msr::MTRR_DEF_TYPE),
        ..Mtrr::default()
    };
    for (to, number) in r.msr_mtrr_var.iter_mut().zip(VARIABLE_RANGES..) {
        *to = read(number);
    }
    for (to, number) in r.msr_mtrr_fixed.iter_mut().zip(FIXED_RANGES) {
        *to = read(number);
    }
    r
}

fn xsave(state: &VcpuState, policy: &CpuidPolicy) -> Vec<u8> {
    let mask = policy.xcr0_mask();
    let area = state.cpu.extended_state();
    let mut r = CpuXsave::new_zeroed();
    r.xfeature_mask = mask;
    r.xcr0 = state.cpu.xcr0();
    r.xcr0_accum = mask;
    for (to, from) in r.fpu_sse.iter_mut().zip(&area) {
        *to = *from;
    }
    let mut present = [0; 8];
    for (to, from) in present.iter_mut().zip(area.iter().skip(LEGACY)) {
        *to = *from;
    }
    r.xstate_bv = u64::from_le_bytes(present) & mask;
    let start = LEGACY.saturating_add(XSAVE_HEADER);
    let extended = xsave_size(policy).saturating_sub(start);
    let rest = area.iter().copied().skip(start).chain(iter::repeat(0)).take(extended);
    r.as_bytes().iter().copied().chain(rest).collect()
}
