//! MSR policy: what a guest's RDMSR and WRMSR do.
//!
//! [`MsrState`] holds the MSRs of a vCPU that only exist here (memory type ranges, the feature enables, ...). Those that
//! the processor switches with the guest are reached through [`Registers`]; the local APIC's and the time stamp
//! counter's belong to others, and a [`Read`] or an [`Effect`] hands the access on. What exists follows from the
//! domain's CPUID policy. Everything not named here raises #GP(0), which is what hardware does for an unknown MSR.
//!
//! Sources: AMD64 manual volume 2, appendix A; the processor programming references of families 15h to 19h; Intel's
//! manual volume 4. Takes no locks: a vCPU's MSRs are touched by the CPU that runs it.

pub mod index;
mod memory_types;

use crate::cpuid::{CpuidPolicy, Vendor, xen_leaves::HYPERCALL_MSR};
use crate::emulate::walk::is_canonical;
use crate::virt::{Control, SegmentName, SwitchedMsr, VirtualCpu, cr0, efer};
use index as msr;
pub use memory_types::MemoryTypes;
use radon_abi::cpufeatureset::Feature;
use radon_core::types::Gfn;

/// The access raises #GP(0).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GeneralProtection;

/// What a RDMSR returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Read {
    /// This.
    Value(u64),
    /// The guest's time stamp counter.
    Tsc,
    /// The local APIC's base register.
    ApicBase,
    /// The local APIC's TSC deadline.
    TscDeadline,
    /// The local APIC's x2APIC register of this MSR number (0x800 to 0x8ff).
    X2Apic(u32),
}

/// What a WRMSR asks of the owner beyond what it stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Effect {
    /// Nothing.
    None,
    /// EFER changed: paging mode and permissions of cached translations may have.
    Efer,
    /// Set the guest's time stamp counter (and tell [`MsrState::moved_tsc`] by how much it moved).
    Tsc(u64),
    /// Add this (wrapping) to the guest's time stamp counter.
    TscAdd(u64),
    /// Write the local APIC's base register.
    ApicBase(u64),
    /// Write the local APIC's TSC deadline.
    TscDeadline(u64),
    /// Write the local APIC's x2APIC register of this MSR number.
    X2Apic(u32, u64),
    /// The guest's SPEC_CTRL changed.
    SpecCtrl(u64),
    /// Execute this PRED_CMD (a barrier for branch prediction) now.
    PredCmd(u64),
    /// Fill this guest frame with hypercall stubs.
    HypercallPage(Gfn),
}

/// The part of a vCPU's registers that MSRs show.
pub trait Registers {
    /// Control registers and EFER.
    fn control(&self) -> Control;
    /// Sets EFER.
    fn set_efer(&mut self, value: u64);
    /// An MSR that is switched with the guest.
    fn switched(&self, which: SwitchedMsr) -> u64;
    /// Sets an MSR that is switched with the guest.
    fn set_switched(&mut self, which: SwitchedMsr, value: u64);
    /// The base of a segment.
    fn base(&self, segment: SegmentName) -> u64;
    /// Sets the base of a segment.
    fn set_base(&mut self, segment: SegmentName, value: u64);
}

impl Registers for dyn VirtualCpu + '_ {
    fn control(&self) -> Control {
        VirtualCpu::control(self)
    }

    fn set_efer(&mut self, value: u64) {
        let control = Control { efer: value, ..VirtualCpu::control(self) };
        self.set_control(&control);
    }

    fn switched(&self, which: SwitchedMsr) -> u64 {
        self.switched_msr(which)
    }

    fn set_switched(&mut self, which: SwitchedMsr, value: u64) {
        self.set_switched_msr(which, value);
    }

    fn base(&self, segment: SegmentName) -> u64 {
        self.segment(segment).base
    }

    fn set_base(&mut self, segment: SegmentName, value: u64) {
        let mut state = self.segment(segment);
        state.base = value;
        self.set_segment(segment, &state);
    }
}

/// MSR properties of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MsrPolicy {
    /// The machine's microcode revision (MSR 0x8b as the machine has it).
    pub microcode: u64,
    /// The guest may make CPUID fault outside of its kernel (bit 31 of PLATFORM_INFO).
    pub cpuid_faulting: bool,
    /// What is not known here reads as zero and drops writes, where the architecture has room for it: the way of Xen before
    /// 4.15, which libvirt asks for when it restores a guest.
    pub relaxed: bool,
}

/// A vCPU's own MSRs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsrState {
    policy: MsrPolicy,
    /// Memory type range registers.
    pub memory_types: MemoryTypes,
    spec_ctrl: u64,
    misc_features: u64,
    tsc_adjust: u64,
    mcg_status: u64,
}

/// SPEC_CTRL and PRED_CMD bits.
const IBRS: u64 = 1 << 0;
const STIBP: u64 = 1 << 1;
const SSBD: u64 = 1 << 2;
const PSFD: u64 = 1 << 7;
const IBPB: u64 = 1 << 0;
const SBPB: u64 = 1 << 7;
/// PLATFORM_INFO: CPUID faulting is available. MISC_FEATURES_ENABLES: it is on.
const PLATFORM_CPUID_FAULTING: u64 = 1 << 31;
const CPUID_FAULTING: u64 = 1 << 0;
/// HWCR.TscFreqSel: the TSC counts at the frequency of P-state 0.
const HWCR_TSC_FREQ_SEL: u64 = 1 << 24;
/// DE_CFG: LFENCE waits for all instructions before it.
const DE_CFG_LFENCE: u64 = 1 << 1;
/// MISC_ENABLE: no branch trace store, no event-based sampling.
const MISC_ENABLE_VALUE: u64 = 1 << 11 | 1 << 12;
const EFER_FFXSE: u64 = 1 << 14;

impl MsrState {
    /// The state after reset.
    #[must_use]
    pub fn new(policy: MsrPolicy) -> MsrState {
        MsrState {
            policy,
            memory_types: MemoryTypes::default(),
            spec_ctrl: 0,
            misc_features: 0,
            tsc_adjust: 0,
            mcg_status: 0,
        }
    }

    /// Whether CPUID at privilege level `cpl` raises #GP(0).
    #[must_use]
    pub fn cpuid_faults(&self, cpl: u8) -> bool {
        cpl != 0 && self.misc_features & CPUID_FAULTING != 0
    }

    /// The guest's SPEC_CTRL.
    #[must_use]
    pub fn spec_ctrl(&self) -> u64 {
        self.spec_ctrl
    }

    /// The guest's time stamp counter was set and thereby moved by `delta` (wrapping): TSC_ADJUST follows.
    pub fn moved_tsc(&mut self, delta: u64) {
        self.tsc_adjust = self.tsc_adjust.wrapping_add(delta);
    }

    /// What RDMSR of `number` returns.
    ///
    /// # Errors
    /// #GP(0) if there is no such MSR or it cannot be read.
    pub fn read(
        &self,
        number: u32,
        cpuid: &CpuidPolicy,
        registers: &(impl Registers + ?Sized),
    ) -> Result<Read, GeneralProtection> {
        let has = |f| cpuid.has(f);
        let when = |condition: bool, value: u64| if condition { Ok(value) } else { Err(GeneralProtection) };
        let amd = cpuid.vendor() == Vendor::Amd;
        let intel = cpuid.vendor() == Vendor::Intel;
        if let Some(which) = switched(number) {
            return Ok(Read::Value(registers.switched(which)));
        }
        if let Some(value) = self.memory_types.read(number) {
            return when(has(Feature::MTRR), value).map(Read::Value);
        }
        Ok(Read::Value(match number {
            msr::TSC => return Ok(Read::Tsc),
            msr::APIC_BASE => return Ok(Read::ApicBase),
            msr::TSC_DEADLINE if has(Feature::TSC_DEADLINE) => return Ok(Read::TscDeadline),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if has(Feature::X2APIC) => return Ok(Read::X2Apic(number)),
            HYPERCALL_MSR => 0,
            msr::EFER => registers.control().efer,
            msr::FS_BASE => registers.base(SegmentName::Fs),
            msr::GS_BASE => registers.base(SegmentName::Gs),
            msr::TSC_AUX => when(has(Feature::RDTSCP) || has(Feature::RDPID), registers.switched(SwitchedMsr::TscAux))?,
            msr::TSC_ADJUST => when(has(Feature::TSC_ADJUST), self.tsc_adjust)?,
            msr::XSS => when(has(Feature::XSAVES), 0)?,
            msr::SPEC_CTRL => when(spec_ctrl_mask(cpuid) != 0, self.spec_ctrl)?,
            msr::PLATFORM_INFO => {
                let value = if self.policy.cpuid_faulting { PLATFORM_CPUID_FAULTING } else { 0 };
                when(value != 0 || intel, value)?
            }
            msr::MISC_FEATURES_ENABLES => when(self.policy.cpuid_faulting, self.misc_features)?,
            msr::PATCH_LEVEL => self.policy.microcode,
            // No last-branch records.
            msr::LAST_BRANCH_FIRST..=msr::LAST_BRANCH_LAST => 0,
            // Machine check: no banks.
            msr::MCG_CAP => when(has(Feature::MCA), 0)?,
            msr::MCG_STATUS => when(has(Feature::MCA), self.mcg_status)?,
            msr::MC_FIRST..=msr::MC_LAST => when(has(Feature::MCA), 0)?,
            msr::P5_MC_ADDR | msr::P5_MC_TYPE => when(has(Feature::MCE), 0)?,

            msr::MISC_ENABLE => when(intel, MISC_ENABLE_VALUE)?,
            msr::PLATFORM_ID | msr::EBL_CR_POWERON => when(intel, 0)?,
            msr::FEATURE_CONTROL => when(intel, 1)?, // locked, everything off

            msr::HWCR => when(amd, if cpuid.family() > 0xf { HWCR_TSC_FREQ_SEL } else { 0 })?,
            msr::DE_CFG => when(amd, DE_CFG_LFENCE)?,
            _ if is_amd_zero(number) => when(amd, 0)?,
            _ => when(self.policy.relaxed && has_room(number), 0)?,
        }))
    }

    /// Does a WRMSR.
    ///
    /// # Errors
    /// #GP(0) if there is no such MSR, it cannot be written or not to this value; nothing has changed then.
    pub fn write(
        &mut self,
        number: u32,
        value: u64,
        cpuid: &CpuidPolicy,
        registers: &mut (impl Registers + ?Sized),
    ) -> Result<Effect, GeneralProtection> {
        let has = |f| cpuid.has(f);
        let amd = cpuid.vendor() == Vendor::Amd;
        let intel = cpuid.vendor() == Vendor::Intel;
        let require = |condition: bool| if condition { Ok(()) } else { Err(GeneralProtection) };
        if let Some(which) = switched(number) {
            require(valid_switched(which, value))?;
            registers.set_switched(which, value);
            return Ok(Effect::None);
        }
        if self.memory_types.read(number).is_some() {
            require(has(Feature::MTRR) && self.memory_types.write(number, value, cpuid.physical_bits()))?;
            return Ok(Effect::None);
        }
        match number {
            msr::TSC => return Ok(Effect::Tsc(value)),
            msr::APIC_BASE => return Ok(Effect::ApicBase(value)),
            msr::TSC_DEADLINE if has(Feature::TSC_DEADLINE) => return Ok(Effect::TscDeadline(value)),
            msr::X2APIC_FIRST..=msr::X2APIC_LAST if has(Feature::X2APIC) => return Ok(Effect::X2Apic(number, value)),
            // The low bits number the page; there is one.
            HYPERCALL_MSR => {
                require(value & 0xfff == 0)?;
                return Ok(Effect::HypercallPage(Gfn(value >> 12)));
            }
            msr::EFER => {
                let control = registers.control();
                registers.set_efer(new_efer(&control, value, cpuid).ok_or(GeneralProtection)?);
                return Ok(Effect::Efer);
            }
            msr::FS_BASE | msr::GS_BASE => {
                require(is_canonical(value))?;
                let segment = if number == msr::FS_BASE { SegmentName::Fs } else { SegmentName::Gs };
                registers.set_base(segment, value);
            }
            msr::TSC_AUX => {
                require((has(Feature::RDTSCP) || has(Feature::RDPID)) && value >> 32 == 0)?;
                registers.set_switched(SwitchedMsr::TscAux, value);
            }
            msr::TSC_ADJUST => {
                require(has(Feature::TSC_ADJUST))?;
                let delta = value.wrapping_sub(self.tsc_adjust);
                self.tsc_adjust = value;
                return Ok(Effect::TscAdd(delta));
            }
            msr::XSS => require(has(Feature::XSAVES) && value == 0)?,
            msr::SPEC_CTRL => {
                let mask = spec_ctrl_mask(cpuid);
                require(mask != 0 && value & !mask == 0)?;
                self.spec_ctrl = value;
                return Ok(Effect::SpecCtrl(value));
            }
            msr::PRED_CMD => {
                let ibpb = if has(Feature::IBRSB) || has(Feature::IBPB) { IBPB } else { 0 };
                let sbpb = if has(Feature::SBPB) { SBPB } else { 0 };
                require(ibpb | sbpb != 0 && value & !(ibpb | sbpb) == 0)?;
                return Ok(if value == 0 { Effect::None } else { Effect::PredCmd(value) });
            }
            msr::MISC_FEATURES_ENABLES => {
                require(self.policy.cpuid_faulting && value & !CPUID_FAULTING == 0)?;
                self.misc_features = value;
            }
            msr::MCG_STATUS => {
                require(has(Feature::MCA) && value & !7 == 0)?;
                self.mcg_status = value;
            }
            msr::MC_FIRST..=msr::MC_LAST => require(has(Feature::MCA))?,
            msr::P5_MC_ADDR | msr::P5_MC_TYPE => require(has(Feature::MCE))?,
            // Guests do not load microcode, and do not need to be told.
            msr::UCODE_WRITE => require(intel)?,
            msr::PATCH_LEVEL => require(intel)?,
            msr::PATCH_LOADER => require(amd)?,
            msr::MISC_ENABLE => require(intel)?,
            msr::HWCR | msr::DE_CFG => require(amd)?,
            _ if is_amd_zero(number) => require(amd)?,
            _ => require(self.policy.relaxed && has_room(number))?,
        }
        Ok(Effect::None)
    }
}

/// AMD MSRs that kernels read or write without asking CPUID: they read as zero and drop writes.
fn is_amd_zero(number: u32) -> bool {
    matches!(
        number,
        msr::K7_EVNTSEL0..=msr::K7_PERFCTR3
            | msr::F15H_PERF_FIRST..=msr::F15H_PERF_LAST
            | msr::SYSCFG
            | msr::IORR_BASE0..=msr::TOP_MEM
            | msr::TOP_MEM2
            | msr::NB_CFG
            | msr::INT_PENDING
            | msr::MMIO_CONF_BASE
            | msr::BU_CFG
            | msr::BU_CFG2
    )
}

/// Whether a processor may have an MSR of that number: the three ranges that the MSR permission map covers.
fn has_room(number: u32) -> bool {
    matches!(number, 0..=0x1fff | 0xc000_0000..=0xc000_1fff | 0xc001_0000..=0xc001_1fff)
}

/// MSRs that are switched with the guest and exist always.
fn switched(number: u32) -> Option<SwitchedMsr> {
    Some(match number {
        msr::STAR => SwitchedMsr::Star,
        msr::LSTAR => SwitchedMsr::Lstar,
        msr::CSTAR => SwitchedMsr::Cstar,
        msr::SFMASK => SwitchedMsr::Sfmask,
        msr::KERNEL_GS_BASE => SwitchedMsr::KernelGsBase,
        msr::SYSENTER_CS => SwitchedMsr::SysenterCs,
        msr::SYSENTER_ESP => SwitchedMsr::SysenterEsp,
        msr::SYSENTER_EIP => SwitchedMsr::SysenterEip,
        msr::PAT => SwitchedMsr::Pat,
        msr::DEBUGCTL => SwitchedMsr::DebugCtl,
        _ => return None,
    })
}

fn valid_switched(which: SwitchedMsr, value: u64) -> bool {
    match which {
        SwitchedMsr::Lstar
        | SwitchedMsr::Cstar
        | SwitchedMsr::KernelGsBase
        | SwitchedMsr::SysenterEsp
        | SwitchedMsr::SysenterEip => is_canonical(value),
        SwitchedMsr::Pat => value.to_le_bytes().iter().all(|t| matches!(t, 0 | 1 | 4..=7)),
        // Last-branch records (which stay empty) and single-stepping on branches.
        SwitchedMsr::DebugCtl => value & !3 == 0,
        SwitchedMsr::TscAux => value >> 32 == 0,
        SwitchedMsr::Star | SwitchedMsr::Sfmask | SwitchedMsr::SysenterCs => true,
    }
}

/// SPEC_CTRL bits that the guest may set.
fn spec_ctrl_mask(cpuid: &CpuidPolicy) -> u64 {
    let when = |features: &[Feature], bit| if features.iter().any(|f| cpuid.has(*f)) { bit } else { 0 };
    // Where there is IBRS, STIBP may be set though it does nothing without threads.
    when(&[Feature::IBRSB, Feature::IBRS], IBRS | STIBP)
        | when(&[Feature::STIBP, Feature::AMD_STIBP], STIBP)
        | when(&[Feature::SSBD, Feature::AMD_SSBD], SSBD)
        | when(&[Feature::PSFD, Feature::INTEL_PSFD], PSFD)
}

/// The EFER that results from writing `value`, or `None` for #GP.
fn new_efer(control: &Control, value: u64, cpuid: &CpuidPolicy) -> Option<u64> {
    let when = |f: Feature, bit: u64| if cpuid.has(f) { bit } else { 0 };
    // LMA follows from LME and paging; what is written to it does not matter.
    let allowed = when(Feature::SYSCALL, efer::SCE)
        | when(Feature::LM, efer::LME | efer::LMA | efer::SCE)
        | when(Feature::NX, efer::NXE)
        | when(Feature::FFXSR, EFER_FFXSE);
    let changes_mode = (control.efer ^ value) & efer::LME != 0;
    if value & !allowed != 0 || (changes_mode && control.cr0 & cr0::PG != 0) {
        return None;
    }
    Some(value & !efer::LMA | control.efer & efer::LMA)
}

#[cfg(test)]
mod tests;
