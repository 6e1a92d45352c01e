//! A vCPU that its domain starts with `VCPUOP_initialise`.

use radon_abi::errno::Errno;
use radon_abi::vcpu::{HvmContext, HvmContext32, HvmContext64, VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B};
use zerocopy::{FromZeros, IntoBytes};

use super::tests::{Rig, rig};
use super::*;
use crate::virt::{SegmentName, cr0, efer, gpr};

fn initialise(rig: &Rig, mode: u32, regs: &[u8]) -> Result<(), Errno> {
    let mut context = HvmContext { mode, ..HvmContext::new_zeroed() };
    context.regs[..regs.len()].copy_from_slice(regs);
    rig.domain.vcpus()[1].arch.initialise(&rig.domain, &context)
}

fn waits(rig: &Rig) -> bool {
    X86Vcpu::of(&rig.domain.vcpus()[1]).unwrap().state.lock().wait_for_sipi
}

fn long() -> HvmContext64 {
    HvmContext64 {
        rax: 1,
        rdi: 7,
        rsp: 0x9000,
        rip: 0xffff_8000_0000_1000,
        rflags: 2,
        cr0: cr0::PE | cr0::PG,
        cr3: 0x1000,
        cr4: 1 << 5,
        efer: efer::LME | efer::LMA,
        ..HvmContext64::new_zeroed()
    }
}

fn flat() -> HvmContext32 {
    HvmContext32 {
        eip: 0x1000,
        esp: 0x8000,
        ebx: 5,
        cr0: cr0::PE as u32,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        ss_limit: u32::MAX,
        tr_limit: 0x67,
        cs_ar: 0xc9b,
        ds_ar: 0xc93,
        ss_ar: 0xc93,
        tr_ar: 0x8b,
        ..HvmContext32::new_zeroed()
    }
}

#[test]
fn long_mode() {
    let rig = rig();
    assert!(waits(&rig));
    initialise(&rig, VCPU_HVM_MODE_64B, long().as_bytes()).unwrap();
    assert!(!waits(&rig));
    let state = X86Vcpu::of(&rig.domain.vcpus()[1]).unwrap().state.lock();
    let (regs, control) = (state.cpu.regs(), state.cpu.control());
    assert_eq!((regs.rip, regs.get(gpr::RSP), regs.get(gpr::RDI)), (0xffff_8000_0000_1000, 0x9000, 7));
    assert_eq!((control.cr3, control.efer), (0x1000, efer::LME | efer::LMA));
    assert!(state.cpu.segment(SegmentName::Cs).is_long());
    assert_eq!(state.cpu.segment(SegmentName::Tr).attributes & 0xf, 11);
}

#[test]
fn protected_mode() {
    let rig = rig();
    initialise(&rig, VCPU_HVM_MODE_32B, flat().as_bytes()).unwrap();
    let state = X86Vcpu::of(&rig.domain.vcpus()[1]).unwrap().state.lock();
    assert_eq!((state.cpu.regs().rip, state.cpu.regs().get(gpr::RBX)), (0x1000, 5));
    assert!(!state.cpu.segment(SegmentName::Cs).is_long());
    assert_eq!(state.cpu.segment(SegmentName::Es).attributes, 0);
}

#[test]
fn states_that_cannot_be_change_nothing() {
    let rig = rig();
    let long_ones = [
        HvmContext64 { cr0: cr0::PE, ..long() },
        HvmContext64 { cr4: 0, ..long() },
        HvmContext64 { efer: efer::LME, ..long() },
        HvmContext64 { efer: efer::LME | efer::LMA | 1 << 12, ..long() },
        HvmContext64 { cr4: 1 << 5 | 1 << 30, ..long() },
        HvmContext64 { cr3: 1 << 60, ..long() },
    ];
    for context in long_ones {
        assert_eq!(initialise(&rig, VCPU_HVM_MODE_64B, context.as_bytes()), Err(Errno::EINVAL), "{context:x?}");
    }
    let flat_ones = [
        HvmContext32 { cs_ar: 0xc93, ..flat() },
        HvmContext32 { cs_ar: 0xe9b, ..flat() },
        HvmContext32 { ss_ar: 0xc91, ..flat() },
        HvmContext32 { ss_ar: 0xcf3, ..flat() },
        HvmContext32 { ds_ar: 0xc13, ..flat() },
        HvmContext32 { tr_ar: 0x89, ..flat() },
        HvmContext32 { es_ar: 0xfc93, ..flat() },
        HvmContext32 { cr0: cr0::PG as u32, ..flat() },
    ];
    for context in flat_ones {
        assert_eq!(initialise(&rig, VCPU_HVM_MODE_32B, context.as_bytes()), Err(Errno::EINVAL), "{context:x?}");
    }
    assert_eq!(initialise(&rig, 2, &[]), Err(Errno::EINVAL));
    assert!(waits(&rig));
}
