//! The first state of a vCPU as its domain gives it with `VCPUOP_initialise` (`hvm/hvm_vcpu.h`): flat 64-bit mode, or
//! 32-bit and compatibility mode with segments of choice.

use radon_abi::errno::Errno;
use radon_abi::save::Cpu;
use radon_abi::vcpu::{HvmContext, HvmContext32, HvmContext64, VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B};
use zerocopy::{FromBytes, FromZeros};

use super::cpu;
use crate::cpuid::CpuidPolicy;
use crate::vcpu::VcpuState;
use crate::virt::{cr0, efer};

const CR4_PAE: u64 = 1 << 5;
/// Attributes of flat segments in 64-bit mode: code, data, a busy TSS.
const CODE_64: u32 = 0xa9b;
const DATA: u32 = 0xc93;
const TSS: u32 = 0x8b;
const TSS_LIMIT: u32 = 0x67;
/// Bits of a segment's attributes.
const WRITABLE: u16 = 1 << 1;
const CODE: u16 = 1 << 3;
const NOT_SYSTEM: u16 = 1 << 4;
const PRESENT: u16 = 1 << 7;
const LONG: u16 = 1 << 9;
const BIG: u16 = 1 << 10;
const PRIVILEGE: u16 = 3 << 5;
const UNUSED: u16 = 0xf000;

/// Starts a vCPU that waited to be started.
///
/// # Errors
/// `EINVAL`: an unknown mode, or a state that a processor of this policy cannot be in; nothing was changed.
pub fn start(state: &mut VcpuState, policy: &CpuidPolicy, context: &HvmContext) -> Result<(), Errno> {
    let record = match context.mode {
        VCPU_HVM_MODE_64B => long(&HvmContext64::read_from_prefix(&context.regs).map_err(|_| Errno::EINVAL)?.0)?,
        VCPU_HVM_MODE_32B => flat(&HvmContext32::read_from_prefix(&context.regs).map_err(|_| Errno::EINVAL)?.0)?,
        _ => return Err(Errno::EINVAL),
    };
    cpu::check(&record, policy)?;
    cpu::load(&mut *state.cpu, &record);
    state.wait_for_sipi = false;
    Ok(())
}

fn long(c: &HvmContext64) -> Result<Cpu, Errno> {
    let pages = cr0::PE | cr0::PG;
    let modes = efer::LME | efer::LMA;
    if c.cr0 & pages != pages || c.cr4 & CR4_PAE == 0 || c.efer & modes != modes {
        return Err(Errno::EINVAL);
    }
    let mut r = Cpu { msr_efer: c.efer, cr0: c.cr0, cr3: c.cr3, cr4: c.cr4, ..Cpu::new_zeroed() };
    (r.rax, r.rcx, r.rdx, r.rbx) = (c.rax, c.rcx, c.rdx, c.rbx);
    (r.rsp, r.rbp, r.rsi, r.rdi) = (c.rsp, c.rbp, c.rsi, c.rdi);
    (r.rip, r.rflags) = (c.rip, c.rflags);
    (r.cs_limit, r.cs_arbytes) = (u32::MAX, CODE_64);
    (r.ds_limit, r.ds_arbytes) = (u32::MAX, DATA);
    (r.es_limit, r.es_arbytes) = (u32::MAX, DATA);
    (r.ss_limit, r.ss_arbytes) = (u32::MAX, DATA);
    (r.tr_limit, r.tr_arbytes) = (TSS_LIMIT, TSS);
    Ok(r)
}

fn flat(c: &HvmContext32) -> Result<Cpu, Errno> {
    let memory = PRESENT | NOT_SYSTEM;
    let data_or_null = |ar: u16| ar == 0 || ar & memory == memory;
    let valid = c.cs_ar & (memory | CODE) == memory | CODE
        && c.cs_ar & (LONG | BIG) != LONG | BIG
        && c.ss_ar & (memory | CODE | WRITABLE) == memory | WRITABLE
        && c.cs_ar & PRIVILEGE == c.ss_ar & PRIVILEGE
        && data_or_null(c.ds_ar)
        && data_or_null(c.es_ar)
        // A busy TSS of 32 or 16 bits.
        && matches!(c.tr_ar & (PRESENT | NOT_SYSTEM | 0xf), 0x8b | 0x83)
        && (c.cs_ar | c.ss_ar | c.ds_ar | c.es_ar | c.tr_ar) & UNUSED == 0;
    if !valid {
        return Err(Errno::EINVAL);
    }
    let (cr0, cr3, cr4) = (u64::from(c.cr0), u64::from(c.cr3), u64::from(c.cr4));
    let mut r = Cpu { msr_efer: c.efer, cr0, cr3, cr4, ..Cpu::new_zeroed() };
    (r.rax, r.rcx, r.rdx, r.rbx) = (c.eax.into(), c.ecx.into(), c.edx.into(), c.ebx.into());
    (r.rsp, r.rbp, r.rsi, r.rdi) = (c.esp.into(), c.ebp.into(), c.esi.into(), c.edi.into());
    (r.rip, r.rflags) = (c.eip.into(), c.eflags.into());
    (r.cs_base, r.cs_limit, r.cs_arbytes) = (c.cs_base.into(), c.cs_limit, c.cs_ar.into());
    (r.ds_base, r.ds_limit, r.ds_arbytes) = (c.ds_base.into(), c.ds_limit, c.ds_ar.into());
    (r.es_base, r.es_limit, r.es_arbytes) = (c.es_base.into(), c.es_limit, c.es_ar.into());
    (r.ss_base, r.ss_limit, r.ss_arbytes) = (c.ss_base.into(), c.ss_limit, c.ss_ar.into());
    (r.tr_base, r.tr_limit, r.tr_arbytes) = (c.tr_base.into(), c.tr_limit, c.tr_ar.into());
    Ok(r)
}
