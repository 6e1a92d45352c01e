//! What the toolstack does to build, save and restore a PVH guest, on a made-up Zen processor.

use alloc::vec::Vec;

use radon_abi::domctl as abi;
use radon_abi::domctl::{CpuidLeaf, CreateDomain, HvmContext, HvmContextPartial, VcpuContext};
use radon_abi::errno::Errno;
use radon_abi::guest_context::{VGCF_ONLINE, VcpuGuestContext};
use radon_abi::save;
use radon_abi::save::{Cpu, CpuXsave, Descriptor, Header, Mtrr, OneMsr};
use radon_core::hypercall::{OpResult, SUCCESS};
use radon_core::testing::TestHost;
use radon_core::types::{DomainId, GuestVirtAddr};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::domain::X86Domain;
use crate::testing::control::{self, DOM0, guest};
use crate::testing::{TSC, host};
use crate::vcpu::X86Vcpu;
use crate::virt::{Event, SegmentName, SwitchedMsr, cr0, efer, gpr};

const BUFFER: u64 = 0x4000;
const MTRR_WRITE_BACK: u64 = 6 | 1 << 11;

/// None of these is continued.
fn domctl<T: FromBytes + IntoBytes + Immutable>(host: &TestHost, cmd: u32, id: u16, value: &T) -> (OpResult, T) {
    control::domctl(host, cmd, id, value, 0)
}

/// The guest's whole context, as the toolstack gets it.
fn context(host: &TestHost, id: u16) -> Vec<u8> {
    let (result, ask) = domctl(host, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &HvmContext::default());
    assert_eq!(result, SUCCESS);
    let small = HvmContext { buffer: BUFFER, size: ask.size - 1, ..ask };
    assert_eq!(domctl(host, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &small).0, Err(Errno::ENOSPC));
    let (result, got) = domctl(host, abi::XEN_DOMCTL_GETHVMCONTEXT, id, &HvmContext { buffer: BUFFER, ..ask });
    assert_eq!(result, SUCCESS);
    assert!(got.size <= ask.size);
    let mut bytes = alloc::vec![0; got.size as usize];
    host.caller(DOM0, 0).memory.read(GuestVirtAddr(BUFFER), &mut bytes).unwrap();
    bytes
}

fn set_context(host: &TestHost, id: u16, bytes: &[u8]) -> OpResult {
    host.caller(DOM0, 0).memory.write(GuestVirtAddr(BUFFER), bytes).unwrap();
    let ask = HvmContext { size: bytes.len() as u32, buffer: BUFFER, _pad: 0 };
    domctl(host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &ask).0
}

/// The records of a stream.
fn records(mut stream: &[u8]) -> Vec<(u16, u16, Vec<u8>)> {
    let mut all = Vec::new();
    loop {
        let (d, rest) = Descriptor::read_from_prefix(stream).unwrap();
        let (bytes, rest) = rest.split_at(d.length as usize);
        stream = rest;
        if d.typecode == 0 {
            assert!(stream.is_empty());
            return all;
        }
        all.push((d.typecode, d.instance, bytes.to_vec()));
    }
}

fn stream(records: &[(u16, u16, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (typecode, instance, bytes) in records {
        let d = Descriptor { typecode: *typecode, instance: *instance, length: bytes.len() as u32 };
        out.extend_from_slice(d.as_bytes());
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(Descriptor::default().as_bytes());
    out
}

fn find(all: &[(u16, u16, Vec<u8>)], typecode: u16, instance: u16) -> Option<&Vec<u8>> {
    all.iter().find(|r| (r.0, r.1) == (typecode, instance)).map(|r| &r.2)
}

/// The CPU record that the toolstack makes up for a PVH kernel.
fn pvh_cpu() -> Cpu {
    let mut cpu = Cpu::new_zeroed();
    cpu.cr0 = cr0::PE | cr0::ET;
    (cpu.cs_limit, cpu.ds_limit, cpu.es_limit, cpu.ss_limit) = (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
    cpu.tr_limit = 0x67;
    (cpu.cs_arbytes, cpu.ds_arbytes, cpu.es_arbytes, cpu.ss_arbytes) = (0xc9b, 0xc93, 0xc93, 0xc93);
    cpu.tr_arbytes = 0x8b;
    cpu.rip = 0x100_0000;
    cpu.rbx = 0x8000;
    cpu.dr6 = 0xffff_0ff0;
    cpu.dr7 = 0x400;
    cpu
}

#[test]
fn the_toolstack_starts_a_guest() {
    let host = host();
    let id = guest(&host);
    let first = records(&context(&host, id));
    let header = Header::read_from_bytes(find(&first, 1, 0).unwrap()).unwrap();
    assert_eq!((header.magic, header.version), (save::HVM_FILE_MAGIC, 1));
    // No vCPU is up yet, so there are no registers; memory types there are.
    assert!(find(&first, save::HVM_SAVE_CODE_CPU, 0).is_none());
    let head = first[0].clone();
    let mut mtrr = Mtrr::read_from_bytes(find(&first, save::HVM_SAVE_CODE_MTRR, 1).unwrap()).unwrap();
    mtrr.msr_mtrr_def_type = MTRR_WRITE_BACK;
    for n in 0..2 {
        let one = [head.clone(), (save::HVM_SAVE_CODE_MTRR, n, mtrr.as_bytes().to_vec())];
        assert_eq!(set_context(&host, id, &stream(&one)), SUCCESS);
    }
    let cpu = [head, (save::HVM_SAVE_CODE_CPU, 0, pvh_cpu().as_bytes().to_vec())];
    assert_eq!(set_context(&host, id, &stream(&cpu)), SUCCESS);

    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    assert!(!domain.vcpus()[0].sched.unit.is_down());
    assert!(domain.vcpus()[1].sched.unit.is_down());
    let arch = X86Vcpu::of(&domain.vcpus()[0]).unwrap();
    let state = arch.state.try_lock().unwrap();
    assert!(!state.wait_for_sipi);
    assert_eq!((state.cpu.regs().rip, state.cpu.regs().get(gpr::RBX)), (0x100_0000, 0x8000));
    assert_eq!(state.cpu.segment(SegmentName::Cs).attributes, 0xc9b);
    assert_eq!(state.cpu.segment(SegmentName::Tr).limit, 0x67);
    assert_eq!(state.cpu.tsc_offset(), 0);
    assert_eq!(state.msrs.memory_types.read(0x2ff), Some(MTRR_WRITE_BACK));
    // The FPU is as software expects a new one.
    assert_eq!(state.cpu.extended_state()[..2], [0x7f, 3]);
    drop(state);
    assert!(X86Vcpu::of(&domain.vcpus()[1]).unwrap().state.try_lock().unwrap().wait_for_sipi);
    assert_eq!(X86Domain::of(&domain).unwrap().apics().len(), 2);
}

#[test]
fn what_is_saved_is_restored() {
    let host = host();
    let id = guest(&host);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let vcpu = &domain.vcpus()[0];
    {
        let arch = X86Vcpu::of(vcpu).unwrap();
        let mut state = arch.state.try_lock().unwrap();
        let cpu = &mut state.cpu;
        cpu.set_control(&crate::virt::Control {
            cr0: cr0::PE | cr0::PG | cr0::ET,
            cr2: 0x1234,
            cr3: 0x5000,
            cr4: 0x20 | 1 << 18,
            efer: efer::LME | efer::LMA | efer::NXE | efer::SCE,
        });
        for n in 0..16 {
            cpu.regs_mut().set(n, 0x1000 + n as u64);
        }
        cpu.regs_mut().rip = 0xffff_ffff_8100_0000;
        cpu.regs_mut().rflags = 0x246;
        cpu.set_switched_msr(SwitchedMsr::Lstar, 0xffff_ffff_8160_0000);
        cpu.set_switched_msr(SwitchedMsr::Pat, 0x0007_0406_0007_0106);
        cpu.set_xcr0(7);
        let mut area = alloc::vec![0_u8; 832];
        area[160] = 0xaa;
        area[512] = 7;
        area[576] = 0xbb;
        cpu.set_extended_state(&area);
        cpu.inject(Event::Exception { vector: 14, error_code: Some(2) });
        cpu.set_tsc_offset(500);
        state.msrs.moved_tsc(33);
        state.wait_for_sipi = false;
    }
    host.hv.scheduler.bring_up(&host.hv, vcpu);
    let saved = context(&host, id);
    let all = records(&saved);
    let cpu = Cpu::read_from_bytes(find(&all, save::HVM_SAVE_CODE_CPU, 0).unwrap()).unwrap();
    assert_eq!((cpu.tsc, cpu.r15, cpu.fpu_regs[160]), (TSC + 500, 0x100f, 0xaa));
    assert_eq!(cpu.pending_event, 0x8000_0b0e);
    let (xsave, rest) = CpuXsave::read_from_prefix(find(&all, save::HVM_SAVE_CODE_CPU_XSAVE, 0).unwrap()).unwrap();
    assert_eq!((xsave.xcr0, xsave.xstate_bv, rest.len(), rest[0]), (7, 7, 256, 0xbb));
    assert!(find(&all, save::HVM_SAVE_CODE_CPU, 1).is_none());
    assert!(find(&all, save::HVM_SAVE_CODE_LAPIC, 1).is_some());

    let copy = guest(&host);
    assert_eq!(set_context(&host, copy, &saved), SUCCESS);
    assert_eq!(records(&context(&host, copy)), all);
    let restored = host.hv.domains.get(DomainId(copy)).unwrap();
    let arch = X86Vcpu::of(&restored.vcpus()[0]).unwrap();
    assert_eq!(arch.state.try_lock().unwrap().cpu.tsc_offset(), 500);

    // One record alone.
    let part = |kind: u16, instance, room| {
        let ask = HvmContextPartial { kind: u32::from(kind), instance, bufsz: room, buffer: BUFFER };
        domctl(&host, abi::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, copy, &ask)
    };
    let (result, got) = part(save::HVM_SAVE_CODE_CPU, 0, 2000);
    assert_eq!((result, got.bufsz), (SUCCESS, 1032));
    assert_eq!(part(save::HVM_SAVE_CODE_CPU, 0, 1031).0, Err(Errno::ENOBUFS));
    assert_eq!(part(save::HVM_SAVE_CODE_CPU, 1, 2000).0, Err(Errno::ENOENT));
    assert_eq!(part(save::HVM_SAVE_CODE_PIT, 0, 2000).0, Err(Errno::EINVAL));
}

#[test]
fn bad_records_change_nothing() {
    let host = host();
    let id = guest(&host);
    let head = records(&context(&host, id))[0].clone();
    let good = [head.clone(), (save::HVM_SAVE_CODE_CPU, 0, pvh_cpu().as_bytes().to_vec())];
    assert_eq!(set_context(&host, id, &stream(&good)), SUCCESS);
    let before = context(&host, id);
    let with = |cpu: Cpu| stream(&[head.clone(), (save::HVM_SAVE_CODE_CPU, 0, cpu.as_bytes().to_vec())]);
    let raw = |typecode, instance, bytes: &[u8]| stream(&[head.clone(), (typecode, instance, bytes.to_vec())]);
    let base = pvh_cpu();
    let long = Cpu { cr0: base.cr0 | cr0::PG, msr_efer: efer::LME, ..base };
    let mut short = stream(&good);
    short.truncate(short.len() - 9);
    let bad_mtrr = Mtrr { msr_mtrr_def_type: 2, ..Mtrr::default() };
    let bad_msr = OneMsr { index: 0x10, rsvd: 0, val: 1 };
    let msrs = |msr: OneMsr| -> Vec<u8> { [1_u32, 0].as_bytes().iter().chain(msr.as_bytes()).copied().collect() };
    let mut xsave = CpuXsave::new_zeroed();
    xsave.xcr0 = 0x1_0007;
    xsave.xcr0_accum = 0x1_0007;
    let cases = [
        (Vec::new(), Errno::ENODATA),
        (stream(&[]), Errno::ENODATA),
        (stream(&good[1..]), Errno::ENODATA),
        (short, Errno::ENODATA),
        (with(long), Errno::EINVAL),
        (with(Cpu { cr4: 1 << 13, ..base }), Errno::EINVAL),
        (with(Cpu { cr0: cr0::PG, ..base }), Errno::EINVAL),
        (with(Cpu { msr_efer: efer::SVME, ..base }), Errno::EINVAL),
        (with(Cpu { msr_lstar: 1 << 60, ..base }), Errno::EINVAL),
        (with(Cpu { pending_event: 1 << 31 | 1 << 8, ..base }), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU, 0, &[0; 1031]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU, 2, base.as_bytes()), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_PIT, 0, &[0; 56]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_PCI_IRQ, 0, &[0; 8]), Errno::EINVAL),
        (raw(99, 0, &[]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_MTRR, 0, bad_mtrr.as_bytes()), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU_MSR, 0, &msrs(bad_msr)), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU_MSR, 0, &[9, 0, 0, 0, 0, 0, 0, 0]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU_XSAVE, 0, xsave.as_bytes()), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_LAPIC, 0, &[0; 23]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_LAPIC, 0, &[0; 24]), Errno::EINVAL),
        (raw(save::HVM_SAVE_CODE_CPU_MSR, 0, &msrs(OneMsr { index: 0x48, rsvd: 0, val: 1 << 40 })), Errno::EINVAL),
    ];
    for (n, (bytes, errno)) in cases.iter().enumerate() {
        assert_eq!(set_context(&host, id, bytes), Err(*errno), "case {n}");
        assert_eq!(context(&host, id), before, "case {n}");
        assert!(!host.hv.domains.get(DomainId(id)).unwrap().vcpus()[0].sched.unit.is_down(), "case {n}");
    }
    let huge = HvmContext { size: u32::MAX, buffer: BUFFER, _pad: 0 };
    assert_eq!(domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &huge).0, Err(Errno::ENOMEM));
}

#[test]
fn records_of_xen_that_say_nothing_are_taken() {
    let host = host();
    let id = guest(&host);
    let mut all = records(&context(&host, id));
    for (typecode, vcpu, size) in [
        (save::HVM_SAVE_CODE_PCI_IRQ, 0, 16),
        (save::HVM_SAVE_CODE_ISA_IRQ, 0, 8),
        (save::HVM_SAVE_CODE_PCI_LINK, 0, 8),
        (save::HVM_SAVE_CODE_VMCE_VCPU, 1, 32),
    ] {
        all.push((typecode, vcpu, alloc::vec![0; size]));
    }
    // The task register of a processor that does not note that it is in use.
    let idle = Cpu { tr_arbytes: 0x89, ..pvh_cpu() };
    all.push((save::HVM_SAVE_CODE_CPU, 0, idle.as_bytes().to_vec()));
    assert_eq!(set_context(&host, id, &stream(&all)), SUCCESS);
    let saved = records(&context(&host, id));
    let cpu = Cpu::read_from_bytes(find(&saved, save::HVM_SAVE_CODE_CPU, 0).unwrap()).unwrap();
    assert_eq!(cpu.tr_arbytes, 0x8b);
}

#[test]
fn a_debugger_sees_and_sets_registers() {
    let host = host();
    let id = guest(&host);
    let ask = VcpuContext { vcpu: 0, ctxt: BUFFER, _pad: 0 };
    assert_eq!(domctl(&host, abi::XEN_DOMCTL_GETVCPUCONTEXT, id, &ask).0, Err(Errno::ENODATA));
    let head = records(&context(&host, id))[0].clone();
    let cpu = [head, (save::HVM_SAVE_CODE_CPU, 0, pvh_cpu().as_bytes().to_vec())];
    assert_eq!(set_context(&host, id, &stream(&cpu)), SUCCESS);
    assert_eq!(domctl(&host, abi::XEN_DOMCTL_GETVCPUCONTEXT, id, &ask).0, SUCCESS);
    let caller = host.caller(DOM0, 0);
    let mut c: VcpuGuestContext = caller.read(GuestVirtAddr(BUFFER)).unwrap();
    assert_eq!((c.user_regs.rip, c.user_regs.rbx, c.ctrlreg[0]), (0x100_0000, 0x8000, cr0::PE | cr0::ET));
    assert_ne!(c.flags & VGCF_ONLINE, 0);
    // As the toolstack tells a resumed guest that its suspension was cancelled.
    c.user_regs.rax = 1;
    caller.write(GuestVirtAddr(BUFFER), &c).unwrap();
    assert_eq!(domctl(&host, abi::XEN_DOMCTL_SETVCPUCONTEXT, id, &ask).0, SUCCESS);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let rax = || X86Vcpu::of(&domain.vcpus()[0]).unwrap().state.try_lock().unwrap().cpu.regs().get(gpr::RAX);
    assert_eq!(rax(), 1);
    assert!(!domain.vcpus()[0].sched.unit.is_down());
    c.debugreg[7] = 1 << 40;
    c.user_regs.rax = 2;
    caller.write(GuestVirtAddr(BUFFER), &c).unwrap();
    assert_eq!(domctl(&host, abi::XEN_DOMCTL_SETVCPUCONTEXT, id, &ask).0, Err(Errno::EINVAL));
    assert_eq!(rax(), 1);
}

#[test]
fn the_toolstack_changes_a_policy() {
    let host = host();
    let id = guest(&host);
    let get = |room| {
        let ask = abi::CpuPolicy {
            nr_leaves: room,
            nr_msrs: 2,
            leaves: BUFFER,
            msrs: BUFFER + 0x2000,
            ..abi::CpuPolicy::default()
        };
        domctl(&host, abi::XEN_DOMCTL_GET_CPU_POLICY, id, &ask)
    };
    let (result, got) = get(100);
    assert_eq!((result, got.nr_msrs), (SUCCESS, 2));
    assert_eq!(get(3).0, Err(Errno::ENOBUFS));
    let caller = host.caller(DOM0, 0);
    let read = |n| caller.read_at::<CpuidLeaf>(GuestVirtAddr(BUFFER), n).unwrap();
    let at = (0..u64::from(got.nr_leaves)).find(|&n| read(n).leaf == 1).unwrap();
    let mut one = read(at);
    // Without AES, and with something that no guest may have.
    assert_ne!(one.c & 1 << 25, 0);
    one.c = one.c & !(1 << 25) | 1 << 5;
    caller.write(GuestVirtAddr(BUFFER), &one).unwrap();
    let ask = abi::CpuPolicy { nr_leaves: 1, leaves: BUFFER, ..abi::CpuPolicy::default() };
    let set = |ask: &abi::CpuPolicy| domctl(&host, abi::XEN_DOMCTL_SET_CPU_POLICY, id, ask);
    assert_eq!(set(&ask).0, SUCCESS);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let x86 = X86Domain::of(&domain).unwrap();
    assert!(!x86.cpuid.has(radon_abi::cpufeatureset::Feature::AESNI));
    assert!(!x86.cpuid.has(radon_abi::cpufeatureset::Feature::VMX));
    caller.write(GuestVirtAddr(BUFFER), &CpuidLeaf { leaf: 0x77, subleaf: u32::MAX, ..CpuidLeaf::default() }).unwrap();
    let (result, told) = set(&ask);
    assert_eq!((result, told.err_leaf, told.err_msr), (Err(Errno::EINVAL), 0x77, u32::MAX));
    let msr = abi::MsrEntry { idx: 0x10a, flags: 0, val: 1 };
    caller.write(GuestVirtAddr(BUFFER), &msr).unwrap();
    let (result, told) = set(&abi::CpuPolicy { nr_leaves: 0, nr_msrs: 1, msrs: BUFFER, ..ask });
    assert_eq!((result, told.err_leaf, told.err_msr), (Err(Errno::EINVAL), u32::MAX, 0x10a));
}

#[test]
fn time_is_the_machines_or_emulated() {
    let host = host();
    let id = guest(&host);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    let x86 = X86Domain::of(&domain).unwrap();
    let set = |mode, khz, elapsed_nsec| {
        let info = abi::TscInfo { tsc_mode: mode, gtsc_khz: khz, incarnation: 3, elapsed_nsec, pad: 0 };
        domctl(&host, abi::XEN_DOMCTL_SETTSCINFO, id, &info).0
    };
    let get = || domctl(&host, abi::XEN_DOMCTL_GETTSCINFO, id, &abi::TscInfo::default()).1;
    let count = || x86.tsc.count(&host.hv, x86.machine().unwrap());
    assert_eq!((set(0, 0, 0), count()), (SUCCESS, TSC));
    assert_eq!((set(2, 1_000_500, 0), count()), (SUCCESS, TSC));
    assert_eq!((get().tsc_mode, get().gtsc_khz, get().incarnation), (2, 0, 4));
    assert_eq!((set(2, 2_000_000, 0), count()), (SUCCESS, TSC), "never emulated");
    // Close to the machine's: not worth it.
    assert_eq!((set(0, 1_000_500, 0), count()), (SUCCESS, TSC));
    // As another machine's counter, which had been on for a second.
    assert_eq!((set(0, 2_000_000, 1_000_000_000), count()), (SUCCESS, 2_000_000_000));
    assert_eq!(set(1, 0, 5_000_000), SUCCESS);
    assert_eq!((get().tsc_mode, get().gtsc_khz, get().elapsed_nsec), (1, 1_000_000, 5_000_000));
    assert_eq!(count(), 5_000_000);
    let clock = x86.tsc.clock(&host.hv);
    assert_eq!((clock.tsc_base, clock.base_ns), (5_000_000, host.hv.platform.now()));
    assert_eq!((set(3, 0, 0), set(0, 5, 0)), (Err(Errno::EINVAL), Err(Errno::EINVAL)));
    assert_eq!(count(), 5_000_000, "as before");
}

/// A vCPU that was down when the guest was saved has the same counter when the guest brings it up.
#[test]
fn a_cpu_that_comes_later_has_the_counter_of_the_first() {
    let host = host();
    let id = guest(&host);
    let head = records(&context(&host, id))[0].clone();
    let cpu = Cpu { tsc: TSC + 777, ..pvh_cpu() };
    let first = [head, (save::HVM_SAVE_CODE_CPU, 0, cpu.as_bytes().to_vec())];
    assert_eq!(set_context(&host, id, &stream(&first)), SUCCESS);
    let domain = host.hv.domains.get(DomainId(id)).unwrap();
    for vcpu in domain.vcpus() {
        assert_eq!(X86Vcpu::of(vcpu).unwrap().state.try_lock().unwrap().cpu.tsc_offset(), 777);
        assert_eq!(vcpu.arch.tsc_offset(), 777);
    }
}

#[test]
fn guests_with_a_pcs_devices_are_refused() {
    let host = host();
    let config = CreateDomain {
        flags: abi::XEN_DOMCTL_CDF_HVM | abi::XEN_DOMCTL_CDF_HAP,
        max_vcpus: 1,
        grant_opts: 1,
        ..CreateDomain::default()
    };
    let try_with = |emulation_flags, misc_flags| {
        let arch = abi::ArchDomainConfig { emulation_flags, misc_flags };
        domctl(&host, abi::XEN_DOMCTL_CREATEDOMAIN, 0, &CreateDomain { arch, ..config }).0
    };
    assert_eq!(try_with(abi::XEN_X86_EMU_ALL & !abi::XEN_X86_EMU_VPCI, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(try_with(1 << 20, 0), Err(Errno::EINVAL));
    assert_eq!(try_with(abi::XEN_X86_EMU_LAPIC, 2), Err(Errno::EINVAL));
    assert_eq!(try_with(abi::XEN_X86_EMU_LAPIC, 0), SUCCESS);
    assert_eq!(try_with(abi::XEN_X86_EMU_LAPIC, abi::XEN_X86_MSR_RELAXED), SUCCESS);
}
