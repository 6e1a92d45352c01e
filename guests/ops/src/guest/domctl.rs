//! `domctl`: what the toolstack does with domains: the other one, and some that never run.

use core::ptr;
use core::sync::atomic::Ordering;

use radon_abi::domctl::{self as abi, AddressSize, Bitmap, CpuPolicy, CpuidLeaf, CreateDomain, GetPageFrameInfo3};
use radon_abi::domctl::{GetVcpuInfo, HvmContext, HvmContextPartial, HypercallInit, IomemPermission, IoportPermission};
use radon_abi::domctl::{IrqPermission, MaxMem, MaxVcpus, MsrEntry, NodeAffinity, PagingMempool, SchedulerOp};
use radon_abi::domctl::{SendTrigger, SetAccessRequired, SetDomainHandle, SetTimeOffset, SetVirqHandler, ShadowOp};
use radon_abi::domctl::{TscInfo, VcpuAffinity, VcpuContext};
use radon_abi::errno::Errno;
use radon_abi::event_channel::{BindVirq, EVTCHNOP_BIND_VIRQ};
use radon_abi::guest_context::VcpuGuestContext;
use radon_abi::memory::{MemoryDomain, XENMEM_MAXIMUM_RESERVATION};
use radon_abi::sched::{RemoteShutdown, SCHEDOP_REMOTE_SHUTDOWN, SHUTDOWN_SUSPEND};
use radon_abi::{hypercall, save, xen};
use radon_guest::Page;
use zerocopy::FromZeros;

use super::SHARED_INFO;
use super::calls::{Answer, Refused, domain_info, domctl, domctl_naming, memory, operate};
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::interrupts::NMIS;
use super::memory::with_domain;
use super::twin::{MIB, SPARE, SPARES, Twin};
use super::vcpu::rest;

/// Room for a policy.
pub(crate) type Leaves = [CpuidLeaf; 256];
pub(crate) type Msrs = [MsrEntry; 32];

pub(crate) static GROUP: Group = Group {
    number: hypercall::DOMCTL,
    checks: &[
        works(abi::XEN_DOMCTL_CREATEDOMAIN, "XEN_DOMCTL_createdomain", createdomain),
        works(abi::XEN_DOMCTL_PAUSEDOMAIN, "XEN_DOMCTL_pausedomain", pausedomain),
        works(abi::XEN_DOMCTL_UNPAUSEDOMAIN, "XEN_DOMCTL_unpausedomain", unpausedomain),
        works(abi::XEN_DOMCTL_GETDOMAININFO, "XEN_DOMCTL_getdomaininfo", getdomaininfo),
        works(abi::XEN_DOMCTL_SETVCPUAFFINITY, "XEN_DOMCTL_setvcpuaffinity", setvcpuaffinity),
        works(abi::XEN_DOMCTL_SHADOW_OP, "XEN_DOMCTL_shadow_op", shadow_op),
        works(abi::XEN_DOMCTL_MAX_MEM, "XEN_DOMCTL_max_mem", max_mem),
        works(abi::XEN_DOMCTL_SETVCPUCONTEXT, "XEN_DOMCTL_setvcpucontext", setvcpucontext),
        works(abi::XEN_DOMCTL_GETVCPUCONTEXT, "XEN_DOMCTL_getvcpucontext", getvcpucontext),
        works(abi::XEN_DOMCTL_GETVCPUINFO, "XEN_DOMCTL_getvcpuinfo", getvcpuinfo),
        works(abi::XEN_DOMCTL_MAX_VCPUS, "XEN_DOMCTL_max_vcpus", max_vcpus),
        works(abi::XEN_DOMCTL_SCHEDULER_OP, "XEN_DOMCTL_scheduler_op", scheduler_op),
        works(abi::XEN_DOMCTL_SETDOMAINHANDLE, "XEN_DOMCTL_setdomainhandle", setdomainhandle),
        refused(abi::XEN_DOMCTL_SETDEBUGGING, "XEN_DOMCTL_setdebugging"),
        works(abi::XEN_DOMCTL_IRQ_PERMISSION, "XEN_DOMCTL_irq_permission", irq_permission),
        works(abi::XEN_DOMCTL_IOMEM_PERMISSION, "XEN_DOMCTL_iomem_permission", iomem_permission),
        works(abi::XEN_DOMCTL_IOPORT_PERMISSION, "XEN_DOMCTL_ioport_permission", ioport_permission),
        works(abi::XEN_DOMCTL_HYPERCALL_INIT, "XEN_DOMCTL_hypercall_init", hypercall_init),
        works(abi::XEN_DOMCTL_SETTIMEOFFSET, "XEN_DOMCTL_settimeoffset", settimeoffset),
        works(abi::XEN_DOMCTL_GETVCPUAFFINITY, "XEN_DOMCTL_getvcpuaffinity", getvcpuaffinity),
        works(abi::XEN_DOMCTL_RESUMEDOMAIN, "XEN_DOMCTL_resumedomain", resumedomain),
        works(abi::XEN_DOMCTL_SENDTRIGGER, "XEN_DOMCTL_sendtrigger", sendtrigger),
        refused(abi::XEN_DOMCTL_SUBSCRIBE, "XEN_DOMCTL_subscribe"),
        works(abi::XEN_DOMCTL_GETHVMCONTEXT, "XEN_DOMCTL_gethvmcontext", gethvmcontext),
        works(abi::XEN_DOMCTL_SETHVMCONTEXT, "XEN_DOMCTL_sethvmcontext", sethvmcontext),
        works(abi::XEN_DOMCTL_SET_ADDRESS_SIZE, "XEN_DOMCTL_set_address_size", set_address_size),
        works(abi::XEN_DOMCTL_GET_ADDRESS_SIZE, "XEN_DOMCTL_get_address_size", get_address_size),
        refused(abi::XEN_DOMCTL_ASSIGN_DEVICE, "XEN_DOMCTL_assign_device"),
        refused(abi::XEN_DOMCTL_BIND_PT_IRQ, "XEN_DOMCTL_bind_pt_irq"),
        refused(abi::XEN_DOMCTL_MEMORY_MAPPING, "XEN_DOMCTL_memory_mapping"),
        refused(abi::XEN_DOMCTL_IOPORT_MAPPING, "XEN_DOMCTL_ioport_mapping"),
        refused(abi::XEN_DOMCTL_SET_EXT_VCPUCONTEXT, "XEN_DOMCTL_set_ext_vcpucontext"),
        refused(abi::XEN_DOMCTL_GET_EXT_VCPUCONTEXT, "XEN_DOMCTL_get_ext_vcpucontext"),
        refused(abi::XEN_DOMCTL_TEST_ASSIGN_DEVICE, "XEN_DOMCTL_test_assign_device"),
        refused(abi::XEN_DOMCTL_SET_TARGET, "XEN_DOMCTL_set_target"),
        refused(abi::XEN_DOMCTL_DEASSIGN_DEVICE, "XEN_DOMCTL_deassign_device"),
        refused(abi::XEN_DOMCTL_UNBIND_PT_IRQ, "XEN_DOMCTL_unbind_pt_irq"),
        refused(abi::XEN_DOMCTL_GET_DEVICE_GROUP, "XEN_DOMCTL_get_device_group"),
        refused(abi::XEN_DOMCTL_DEBUG_OP, "XEN_DOMCTL_debug_op"),
        works(abi::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, "XEN_DOMCTL_gethvmcontext_partial", gethvmcontext_partial),
        refused(abi::XEN_DOMCTL_VM_EVENT_OP, "XEN_DOMCTL_vm_event_op"),
        refused(abi::XEN_DOMCTL_MEM_SHARING_OP, "XEN_DOMCTL_mem_sharing_op"),
        works(abi::XEN_DOMCTL_GETTSCINFO, "XEN_DOMCTL_gettscinfo", gettscinfo),
        works(abi::XEN_DOMCTL_SETTSCINFO, "XEN_DOMCTL_settscinfo", settscinfo),
        works(abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, "XEN_DOMCTL_getpageframeinfo3", getpageframeinfo3),
        refused(abi::XEN_DOMCTL_SETVCPUEXTSTATE, "XEN_DOMCTL_setvcpuextstate"),
        refused(abi::XEN_DOMCTL_GETVCPUEXTSTATE, "XEN_DOMCTL_getvcpuextstate"),
        works(abi::XEN_DOMCTL_SET_ACCESS_REQUIRED, "XEN_DOMCTL_set_access_required", set_access_required),
        refused(abi::XEN_DOMCTL_AUDIT_P2M, "XEN_DOMCTL_audit_p2m"),
        works(abi::XEN_DOMCTL_SET_VIRQ_HANDLER, "XEN_DOMCTL_set_virq_handler", set_virq_handler),
        refused(abi::XEN_DOMCTL_SET_BROKEN_PAGE_P2M, "XEN_DOMCTL_set_broken_page_p2m"),
        works(abi::XEN_DOMCTL_SETNODEAFFINITY, "XEN_DOMCTL_setnodeaffinity", setnodeaffinity),
        works(abi::XEN_DOMCTL_GETNODEAFFINITY, "XEN_DOMCTL_getnodeaffinity", getnodeaffinity),
        refused(abi::XEN_DOMCTL_CACHEFLUSH, "XEN_DOMCTL_cacheflush"),
        refused(abi::XEN_DOMCTL_GET_VCPU_MSRS, "XEN_DOMCTL_get_vcpu_msrs"),
        refused(abi::XEN_DOMCTL_SET_VCPU_MSRS, "XEN_DOMCTL_set_vcpu_msrs"),
        refused(abi::XEN_DOMCTL_SETVNUMAINFO, "XEN_DOMCTL_setvnumainfo"),
        refused(abi::XEN_DOMCTL_PSR_CMT_OP, "XEN_DOMCTL_psr_cmt_op"),
        refused(abi::XEN_DOMCTL_MONITOR_OP, "XEN_DOMCTL_monitor_op"),
        refused(abi::XEN_DOMCTL_PSR_ALLOC, "XEN_DOMCTL_psr_alloc"),
        refused(abi::XEN_DOMCTL_SOFT_RESET, "XEN_DOMCTL_soft_reset"),
        refused(abi::XEN_DOMCTL_VUART_OP, "XEN_DOMCTL_vuart_op"),
        works(abi::XEN_DOMCTL_GET_CPU_POLICY, "XEN_DOMCTL_get_cpu_policy", get_cpu_policy),
        works(abi::XEN_DOMCTL_SET_CPU_POLICY, "XEN_DOMCTL_set_cpu_policy", set_cpu_policy),
        refused(abi::XEN_DOMCTL_VMTRACE_OP, "XEN_DOMCTL_vmtrace_op"),
        works(abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, "XEN_DOMCTL_get_paging_mempool_size", get_paging_mempool_size),
        works(abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, "XEN_DOMCTL_set_paging_mempool_size", set_paging_mempool_size),
        refused(abi::XEN_DOMCTL_GDBSX_GUESTMEMIO, "XEN_DOMCTL_gdbsx_guestmemio"),
        refused(abi::XEN_DOMCTL_GDBSX_PAUSEVCPU, "XEN_DOMCTL_gdbsx_pausevcpu"),
        refused(abi::XEN_DOMCTL_GDBSX_UNPAUSEVCPU, "XEN_DOMCTL_gdbsx_unpausevcpu"),
        refused(abi::XEN_DOMCTL_GDBSX_DOMSTATUS, "XEN_DOMCTL_gdbsx_domstatus"),
        works(abi::XEN_DOMCTL_DESTROYDOMAIN, "XEN_DOMCTL_destroydomain", destroydomain),
    ],
};

/// An operation without a structure.
fn plain(operation: u32, domain: u16) -> Answer {
    domctl(operation, domain, &mut [0u8; 8])
}

/// A number of no domain.
const NOBODY: u16 = 77;

fn createdomain(_: &Twin) -> Outcome {
    let mut config = CreateDomain::pvh(2);
    config.handle = *b"of no long life.";
    let (domain, answer) = domctl_naming(abi::XEN_DOMCTL_CREATEDOMAIN, 0, &mut config);
    answer?;
    let info = domain_info(domain)?;
    plain(abi::XEN_DOMCTL_DESTROYDOMAIN, domain)?;
    holds("it has a number of its own", domain > 0)?;
    same("number, pages, handle", (info.domain, info.tot_pages, info.handle), (domain, 0, config.handle))?;
    let wanted = abi::XEN_DOMINF_HVM_GUEST | abi::XEN_DOMINF_HAP | abi::XEN_DOMINF_PAUSED;
    same("that it is HVM, has nested paging and is paused", info.flags & wanted, wanted)?;
    let mut bad = CreateDomain { flags: 1 << 31, ..CreateDomain::pvh(1) };
    let (_, answer) = domctl_naming(abi::XEN_DOMCTL_CREATEDOMAIN, 0, &mut bad);
    refuses("a flag that is not there", answer, Errno::EINVAL)
}

/// The last check with the other domain, which is gone then.
fn destroydomain(twin: &Twin) -> Outcome {
    domain_info(twin.domain)?;
    plain(abi::XEN_DOMCTL_DESTROYDOMAIN, twin.domain)?;
    // The page that is mapped here keeps a remainder of it, which is dying.
    match domain_info(twin.domain) {
        Ok(info) => same("that it is dying", info.flags & abi::XEN_DOMINF_DYING, abi::XEN_DOMINF_DYING)?,
        Err(gone) => refuses("a domain that is gone", Err(gone), Errno::ESRCH)?,
    }
    refuses("a domain that is not there", plain(abi::XEN_DOMCTL_DESTROYDOMAIN, NOBODY), Errno::ESRCH)
}

/// It does nothing while it is paused.
fn pausedomain(twin: &Twin) -> Outcome {
    plain(abi::XEN_DOMCTL_PAUSEDOMAIN, twin.domain)?;
    let flags = domain_info(twin.domain)?.flags;
    twin.send_read(SPARE * 4096);
    rest(20_000_000);
    let done = twin.is_done();
    plain(abi::XEN_DOMCTL_UNPAUSEDOMAIN, twin.domain)?;
    twin.wait()?;
    same("that it is paused", flags & abi::XEN_DOMINF_PAUSED, abi::XEN_DOMINF_PAUSED)?;
    same("that it did what it was told meanwhile", done, false)
}

/// As often as it was paused.
fn unpausedomain(twin: &Twin) -> Outcome {
    plain(abi::XEN_DOMCTL_PAUSEDOMAIN, twin.domain)?;
    plain(abi::XEN_DOMCTL_PAUSEDOMAIN, twin.domain)?;
    plain(abi::XEN_DOMCTL_UNPAUSEDOMAIN, twin.domain)?;
    let flags = domain_info(twin.domain)?.flags;
    plain(abi::XEN_DOMCTL_UNPAUSEDOMAIN, twin.domain)?;
    same("that it is paused still", flags & abi::XEN_DOMINF_PAUSED, abi::XEN_DOMINF_PAUSED)?;
    same("that it is paused", domain_info(twin.domain)?.flags & abi::XEN_DOMINF_PAUSED, 0)?;
    refuses("once more", plain(abi::XEN_DOMCTL_UNPAUSEDOMAIN, twin.domain), Errno::EINVAL)
}

fn getdomaininfo(twin: &Twin) -> Outcome {
    let info = domain_info(twin.domain)?;
    same("number", info.domain, twin.domain)?;
    same("vCPUs, and the last one", (info.nr_online_vcpus, info.max_vcpu_id), (1, 0))?;
    same("pages that it may have", info.max_pages, (MIB + 1) << 8)?;
    holds("it has memory", (16..info.max_pages).contains(&info.tot_pages))?;
    holds("it has run", info.cpu_time > 0)?;
    refuses("a domain that is not there", domain_info(NOBODY).map(|_| 0), Errno::ESRCH)
}

/// Where a vCPU may run, and should.
fn affinity(operation: u32, domain: u16, hard: &mut u64, soft: &mut u64) -> Answer {
    let map = |set: &mut u64| Bitmap { bitmap: ptr::from_mut(set) as u64, nr_bits: 64, _pad: 0 };
    let flags = abi::XEN_VCPUAFFINITY_HARD | abi::XEN_VCPUAFFINITY_SOFT;
    domctl(operation, domain, &mut VcpuAffinity { vcpu: 0, flags, cpumap_hard: map(hard), cpumap_soft: map(soft) })
}

/// It runs where it may.
fn setvcpuaffinity(twin: &Twin) -> Outcome {
    for cpu in [1, 2] {
        let (mut hard, mut soft) = (1 << cpu, u64::MAX);
        affinity(abi::XEN_DOMCTL_SETVCPUAFFINITY, twin.domain, &mut hard, &mut soft)?;
        same("what takes effect", (hard, soft), (1 << cpu, 1 << cpu))?;
        twin.read(SPARE * 4096)?;
        same("the CPU that it runs on", vcpu_info(twin)?.cpu, cpu)?;
    }
    let (mut none, mut soft) = (0, 0);
    let answer = affinity(abi::XEN_DOMCTL_SETVCPUAFFINITY, twin.domain, &mut none, &mut soft);
    refuses("no CPU at all", answer, Errno::EINVAL)?;
    let (mut all, mut soft) = (u64::MAX, u64::MAX);
    affinity(abi::XEN_DOMCTL_SETVCPUAFFINITY, twin.domain, &mut all, &mut soft)?;
    Ok(())
}

fn getvcpuaffinity(twin: &Twin) -> Outcome {
    let (mut hard, mut soft) = (0b110, 0b010);
    affinity(abi::XEN_DOMCTL_SETVCPUAFFINITY, twin.domain, &mut hard, &mut soft)?;
    let (mut hard, mut soft) = (0, 0);
    affinity(abi::XEN_DOMCTL_GETVCPUAFFINITY, twin.domain, &mut hard, &mut soft)?;
    let (mut all, mut everywhere) = (u64::MAX, u64::MAX);
    affinity(abi::XEN_DOMCTL_SETVCPUAFFINITY, twin.domain, &mut all, &mut everywhere)?;
    same("where it may and should run", (hard, soft), (0b110, 0b010))
}

fn vcpu_info(twin: &Twin) -> Result<GetVcpuInfo, Refused> {
    let mut info = GetVcpuInfo::default();
    domctl(abi::XEN_DOMCTL_GETVCPUINFO, twin.domain, &mut info)?;
    Ok(info)
}

fn getvcpuinfo(twin: &Twin) -> Outcome {
    let info = vcpu_info(twin)?;
    same("that it is up", info.online, 1)?;
    let before = info.cpu_time;
    for _ in 0..8 {
        twin.read(SPARE * 4096)?;
    }
    holds("its time goes on", vcpu_info(twin)?.cpu_time > before)?;
    let mut none = GetVcpuInfo { vcpu: 77, ..GetVcpuInfo::default() };
    refuses("a vCPU that is not there", domctl(abi::XEN_DOMCTL_GETVCPUINFO, twin.domain, &mut none), Errno::EINVAL)
}

/// A page that the other domain writes is in the log, and only then.
fn shadow_op(twin: &Twin) -> Outcome {
    static DIRTY: Page = Page::new();
    const FRAME: u64 = SPARE + 2;
    let shadow = |op| -> Result<ShadowOp, Refused> {
        let pages = 4096 * 8;
        let mut request = ShadowOp { op, dirty_bitmap: DIRTY.0.as_ptr() as u64, pages, ..ShadowOp::default() };
        domctl(abi::XEN_DOMCTL_SHADOW_OP, twin.domain, &mut request)?;
        Ok(request)
    };
    let is_dirty = || DIRTY.0[(FRAME / 64) as usize].load(Ordering::Acquire) >> (FRAME % 64) & 1;
    shadow(abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY)?;
    shadow(abi::XEN_DOMCTL_SHADOW_OP_CLEAN)?;
    twin.read(FRAME * 4096)?;
    shadow(abi::XEN_DOMCTL_SHADOW_OP_PEEK)?;
    let read = is_dirty();
    twin.write(FRAME * 4096, 1)?;
    shadow(abi::XEN_DOMCTL_SHADOW_OP_PEEK)?;
    let written = is_dirty();
    shadow(abi::XEN_DOMCTL_SHADOW_OP_CLEAN)?;
    shadow(abi::XEN_DOMCTL_SHADOW_OP_PEEK)?;
    let cleaned = is_dirty();
    shadow(abi::XEN_DOMCTL_SHADOW_OP_OFF)?;
    same("the page's bit when it was read, written, and cleaned", (read, written, cleaned), (0, 1, 0))
}

fn max_mem(twin: &Twin) -> Outcome {
    let set = |max_memkb| domctl(abi::XEN_DOMCTL_MAX_MEM, twin.domain, &mut MaxMem { max_memkb });
    set((MIB + 3) << 10)?;
    let is = memory(XENMEM_MAXIMUM_RESERVATION, &mut MemoryDomain { domid: twin.domain })?;
    set((MIB + 1) << 10)?;
    same("pages that it may have", is, (MIB + 3) << 8)
}

fn context(operation: u32, twin: &Twin, context: &mut VcpuGuestContext) -> Answer {
    let ctxt = ptr::from_mut(context) as u64;
    domctl(operation, twin.domain, &mut VcpuContext { ctxt, ..VcpuContext::default() })
}

/// Lends the other domain to a check while it is paused.
fn paused(twin: &Twin, check: impl FnOnce() -> Outcome) -> Outcome {
    plain(abi::XEN_DOMCTL_PAUSEDOMAIN, twin.domain)?;
    let outcome = check();
    plain(abi::XEN_DOMCTL_UNPAUSEDOMAIN, twin.domain)?;
    // It goes on.
    twin.read(SPARE * 4096)?;
    outcome
}

/// A register is changed, and changed back.
fn setvcpucontext(twin: &Twin) -> Outcome {
    let (get, set) = (abi::XEN_DOMCTL_GETVCPUCONTEXT, abi::XEN_DOMCTL_SETVCPUCONTEXT);
    paused(twin, || {
        let mut registers = VcpuGuestContext::new_zeroed();
        context(get, twin, &mut registers)?;
        let was = registers.user_regs.r15;
        registers.user_regs.r15 = !was;
        context(set, twin, &mut registers)?;
        let mut changed = VcpuGuestContext::new_zeroed();
        context(get, twin, &mut changed)?;
        registers.user_regs.r15 = was;
        context(set, twin, &mut registers)?;
        same("the register", changed.user_regs.r15, !was)
    })
}

fn getvcpucontext(twin: &Twin) -> Outcome {
    paused(twin, || {
        let mut registers = VcpuGuestContext::new_zeroed();
        context(abi::XEN_DOMCTL_GETVCPUCONTEXT, twin, &mut registers)?;
        let image = radon_guest::domain::image();
        holds("it executes the program", image.contains(&registers.user_regs.rip))?;
        holds("its stack is the program's", image.contains(&registers.user_regs.rsp))?;
        same("CR3", registers.ctrlreg[3], cpu_record(twin)?.cr3)
    })
}

/// A domain that may have two vCPUs gets them.
fn max_vcpus(_: &Twin) -> Outcome {
    let (domain, answer) = domctl_naming(abi::XEN_DOMCTL_CREATEDOMAIN, 0, &mut CreateDomain::pvh(2));
    answer?;
    let set = |max| domctl(abi::XEN_DOMCTL_MAX_VCPUS, domain, &mut MaxVcpus { max });
    let (before, other) = (domain_info(domain)?.max_vcpu_id, set(3));
    let made = set(2);
    let after = domain_info(domain)?.max_vcpu_id;
    plain(abi::XEN_DOMCTL_DESTROYDOMAIN, domain)?;
    made?;
    refuses("another number than it was made for", other, Errno::EINVAL)?;
    same("the last vCPU before and after", (before, after), (abi::XEN_INVALID_MAX_VCPU_ID, 1))
}

/// Weight and cap are set and read.
fn scheduler_op(twin: &Twin) -> Outcome {
    let ask = |cmd, weight, cap| -> Result<(u16, u16), Refused> {
        let mut op = SchedulerOp { sched_id: abi::XEN_SCHEDULER_CREDIT2, cmd, weight, cap, _pad: 0 };
        domctl(abi::XEN_DOMCTL_SCHEDULER_OP, twin.domain, &mut op)?;
        Ok((op.weight, op.cap))
    };
    let get = || ask(abi::XEN_DOMCTL_SCHEDOP_GETINFO, 0, 0);
    same("weight and cap at first", get()?, (256, 0))?;
    ask(abi::XEN_DOMCTL_SCHEDOP_PUTINFO, 512, 90)?;
    let is = get()?;
    ask(abi::XEN_DOMCTL_SCHEDOP_PUTINFO, 256, 0)?;
    same("weight and cap", is, (512, 90))
}

fn setdomainhandle(twin: &Twin) -> Outcome {
    let handle = *b"another name....";
    domctl(abi::XEN_DOMCTL_SETDOMAINHANDLE, twin.domain, &mut SetDomainHandle { handle })?;
    same("the handle", domain_info(twin.domain)?.handle, handle)
}

/// What was never allowed is forbidden.
fn irq_permission(twin: &Twin) -> Outcome {
    let mut forbid = IrqPermission { pirq: 20, ..IrqPermission::default() };
    domctl(abi::XEN_DOMCTL_IRQ_PERMISSION, twin.domain, &mut forbid)?;
    Ok(())
}

fn iomem_permission(twin: &Twin) -> Outcome {
    let mut forbid = IomemPermission { first_mfn: 0xf_e000, nr_mfns: 1, ..IomemPermission::default() };
    domctl(abi::XEN_DOMCTL_IOMEM_PERMISSION, twin.domain, &mut forbid)?;
    forbid.nr_mfns = 0;
    refuses("no frames", domctl(abi::XEN_DOMCTL_IOMEM_PERMISSION, twin.domain, &mut forbid), Errno::EINVAL)
}

fn ioport_permission(twin: &Twin) -> Outcome {
    let mut forbid = IoportPermission { first_port: 0x60, nr_ports: 1, ..IoportPermission::default() };
    domctl(abi::XEN_DOMCTL_IOPORT_PERMISSION, twin.domain, &mut forbid)?;
    forbid.first_port = 0xffff;
    forbid.nr_ports = 2;
    let beyond = domctl(abi::XEN_DOMCTL_IOPORT_PERMISSION, twin.domain, &mut forbid);
    refuses("ports beyond the last", beyond, Errno::EINVAL)
}

/// The stub of a hypercall begins with its number.
fn hypercall_init(twin: &Twin) -> Outcome {
    const FRAME: u64 = SPARE + 3;
    domctl(abi::XEN_DOMCTL_HYPERCALL_INIT, twin.domain, &mut HypercallInit { gmfn: FRAME })?;
    let number = u64::from(hypercall::XEN_VERSION);
    let code = twin.read(FRAME * 4096 + number * 32)?;
    same("MOV EAX with the number", code & 0xff_ffff_ffff, 0xb8 | number << 8)?;
    let none = domctl(abi::XEN_DOMCTL_HYPERCALL_INIT, twin.domain, &mut HypercallInit { gmfn: 0x7_0000 });
    refuses("a frame without memory", none, Errno::EINVAL)
}

/// The other domain's wall clock goes ahead.
fn settimeoffset(twin: &Twin) -> Outcome {
    let at = SHARED_INFO.0.as_ptr() as u64 + xen::shared_info::WC_VERSION;
    let seconds = || -> Result<u64, Differs> { Ok(twin.read(at)? >> 32) };
    let set = |time_offset_seconds| {
        domctl(abi::XEN_DOMCTL_SETTIMEOFFSET, twin.domain, &mut SetTimeOffset { time_offset_seconds })
    };
    let before = seconds()?;
    set(3600)?;
    let ahead = seconds()?;
    set(0)?;
    same("seconds ahead", ahead - before, 3600)?;
    same("seconds ahead at the end", seconds()? - before, 0)
}

fn resumedomain(twin: &Twin) -> Outcome {
    let mut end = RemoteShutdown { domain_id: twin.domain, _pad: 0, reason: SHUTDOWN_SUSPEND };
    operate(hypercall::SCHED_OP, SCHEDOP_REMOTE_SHUTDOWN, &mut end)?;
    let flag = abi::XEN_DOMINF_SHUTDOWN;
    same("that it is shut down", domain_info(twin.domain)?.flags & flag, flag)?;
    plain(abi::XEN_DOMCTL_RESUMEDOMAIN, twin.domain)?;
    same("that it is shut down", domain_info(twin.domain)?.flags & flag, 0)?;
    twin.read(SPARE * 4096)?;
    Ok(())
}

/// The other domain counts NMIs.
fn sendtrigger(twin: &Twin) -> Outcome {
    let count = || twin.read(ptr::from_ref(&NMIS) as u64);
    let before = count()?;
    let mut nmi = SendTrigger { trigger: abi::XEN_DOMCTL_SENDTRIGGER_NMI, vcpu: 0 };
    domctl(abi::XEN_DOMCTL_SENDTRIGGER, twin.domain, &mut nmi)?;
    same("NMIs", count()? - before, 1)?;
    nmi.vcpu = 77;
    refuses("a vCPU that is not there", domctl(abi::XEN_DOMCTL_SENDTRIGGER, twin.domain, &mut nmi), Errno::ESRCH)?;
    nmi.vcpu = 0;
    nmi.trigger = 99;
    refuses("another trigger", domctl(abi::XEN_DOMCTL_SENDTRIGGER, twin.domain, &mut nmi), Errno::ENOSYS)
}

/// Room for the state of a domain, in words.
static CONTEXT: [Page; 8] = [const { Page::new() }; 8];

/// Reads the other domain's state; returns how long it is.
fn read_context(twin: &Twin) -> Result<u32, Refused> {
    let size = size_of_val(&CONTEXT) as u32;
    let mut get = HvmContext { size, _pad: 0, buffer: CONTEXT.as_ptr() as u64 };
    domctl(abi::XEN_DOMCTL_GETHVMCONTEXT, twin.domain, &mut get)?;
    Ok(get.size)
}

fn gethvmcontext(twin: &Twin) -> Outcome {
    let mut room = HvmContext::default();
    domctl(abi::XEN_DOMCTL_GETHVMCONTEXT, twin.domain, &mut room)?;
    let size = read_context(twin)?;
    holds("it takes no more room than was said", (1000..=room.size).contains(&size))?;
    let word = |n: usize| CONTEXT[0].0[n].load(Ordering::Acquire);
    same("the first record", word(0) as u16, save::HVM_SAVE_CODE_HEADER)?;
    same("its magic number", word(1) as u32, save::HVM_FILE_MAGIC)?;
    let mut little = HvmContext { size: 8, _pad: 0, buffer: CONTEXT.as_ptr() as u64 };
    let answer = domctl(abi::XEN_DOMCTL_GETHVMCONTEXT, twin.domain, &mut little);
    refuses("little room", answer, Errno::ENOSPC)
}

/// The other domain gets the state that it has, and goes on.
fn sethvmcontext(twin: &Twin) -> Outcome {
    paused(twin, || {
        let size = read_context(twin)?;
        // First without most records, which may leave it without a vCPU that is up.
        let mut set = HvmContext { size: 64, _pad: 0, buffer: CONTEXT.as_ptr() as u64 };
        let part = domctl(abi::XEN_DOMCTL_SETHVMCONTEXT, twin.domain, &mut set);
        set.size = size;
        domctl(abi::XEN_DOMCTL_SETHVMCONTEXT, twin.domain, &mut set)?;
        holds("a part of it is refused", part.is_err())
    })
}

fn cpu_record(twin: &Twin) -> Result<save::Cpu, Refused> {
    let mut cpu = save::Cpu::new_zeroed();
    let mut get = HvmContextPartial {
        kind: u32::from(save::HVM_SAVE_CODE_CPU),
        instance: 0,
        bufsz: size_of::<save::Cpu>() as u64,
        buffer: ptr::from_mut(&mut cpu) as u64,
    };
    domctl(abi::XEN_DOMCTL_GETHVMCONTEXT_PARTIAL, twin.domain, &mut get)?;
    Ok(cpu)
}

fn gethvmcontext_partial(twin: &Twin) -> Outcome {
    paused(twin, || {
        let mut registers = VcpuGuestContext::new_zeroed();
        context(abi::XEN_DOMCTL_GETVCPUCONTEXT, twin, &mut registers)?;
        let cpu = cpu_record(twin)?;
        let others = (registers.user_regs.rip, registers.user_regs.rsp, registers.ctrlreg[0]);
        same("RIP, RSP, CR0", (cpu.rip, cpu.rsp, cpu.cr0), others)
    })
}

fn tsc_info(domain: u16) -> Result<TscInfo, Refused> {
    let mut info = TscInfo::default();
    domctl(abi::XEN_DOMCTL_GETTSCINFO, domain, &mut info)?;
    Ok(info)
}

fn gettscinfo(twin: &Twin) -> Outcome {
    let info = tsc_info(twin.domain)?;
    same("the mode", info.tsc_mode, 0)?;
    holds("the frequency is known", info.gtsc_khz > 1000)
}

/// A domain whose counter is never emulated.
fn settscinfo(_: &Twin) -> Outcome {
    with_domain(4, |domain| {
        let mut info = TscInfo { tsc_mode: 2, ..tsc_info(domain)? };
        domctl(abi::XEN_DOMCTL_SETTSCINFO, domain, &mut info)?;
        same("the mode", tsc_info(domain)?.tsc_mode, 2)
    })
}

fn getpageframeinfo3(twin: &Twin) -> Outcome {
    let mut frames = [SPARE, SPARE + SPARES + 64];
    let mut get = GetPageFrameInfo3 { num: 2, array: frames.as_mut_ptr() as u64 };
    domctl(abi::XEN_DOMCTL_GETPAGEFRAMEINFO3, twin.domain, &mut get)?;
    let kinds = [abi::XEN_DOMCTL_PFINFO_NOTAB, abi::XEN_DOMCTL_PFINFO_XTAB].map(u64::from);
    same("memory, and nothing", frames, kinds)
}

fn set_access_required(twin: &Twin) -> Outcome {
    let set = |domain, access_required| {
        domctl(abi::XEN_DOMCTL_SET_ACCESS_REQUIRED, domain, &mut SetAccessRequired { access_required })
    };
    set(twin.domain, 1)?;
    set(twin.domain, 0)?;
    refuses("the caller itself", set(0, 1), Errno::EPERM)
}

/// The other domain learns that one has ended.
fn set_virq_handler(twin: &Twin) -> Outcome {
    let set = |domain, virq| domctl(abi::XEN_DOMCTL_SET_VIRQ_HANDLER, domain, &mut SetVirqHandler { virq });
    set(twin.domain, xen::VIRQ_DOM_EXC)?;
    let mut bind = BindVirq { virq: xen::VIRQ_DOM_EXC, ..BindVirq::default() };
    let bound = twin.operate(hypercall::EVENT_CHANNEL_OP, EVTCHNOP_BIND_VIRQ, &mut bind)?;
    with_domain(4, |_| Ok(()))?;
    let at = SHARED_INFO.0.as_ptr() as u64 + xen::shared_info::EVTCHN_PENDING + u64::from(bind.port) / 64 * 8;
    let pending = twin.read(at)? >> (bind.port % 64) & 1;
    set(0, xen::VIRQ_DOM_EXC)?;
    bound?;
    same("that the other domain has an event", pending, 1)?;
    refuses("an interrupt of single vCPUs", set(twin.domain, xen::VIRQ_TIMER), Errno::EINVAL)
}

fn nodes(operation: u32, twin: &Twin, set: &mut u64) -> Answer {
    let nodemap = Bitmap { bitmap: ptr::from_mut(set) as u64, nr_bits: 64, _pad: 0 };
    domctl(operation, twin.domain, &mut NodeAffinity { nodemap })
}

fn setnodeaffinity(twin: &Twin) -> Outcome {
    nodes(abi::XEN_DOMCTL_SETNODEAFFINITY, twin, &mut 1)?;
    let none = nodes(abi::XEN_DOMCTL_SETNODEAFFINITY, twin, &mut 0);
    refuses("no node", none, Errno::EINVAL)
}

fn getnodeaffinity(twin: &Twin) -> Outcome {
    let mut set = 0;
    nodes(abi::XEN_DOMCTL_GETNODEAFFINITY, twin, &mut set)?;
    same("the nodes", set & 1, 1)
}

/// A domain's policy. The feature that is looked at: SSE4.2.
fn policy(domain: u16, leaves: &mut Leaves) -> Result<usize, Refused> {
    let mut msrs: Msrs = FromZeros::new_zeroed();
    let mut get = CpuPolicy {
        nr_leaves: leaves.len() as u32,
        nr_msrs: msrs.len() as u32,
        leaves: leaves.as_mut_ptr() as u64,
        msrs: msrs.as_mut_ptr() as u64,
        ..CpuPolicy::default()
    };
    domctl(abi::XEN_DOMCTL_GET_CPU_POLICY, domain, &mut get)?;
    Ok(get.nr_leaves as usize)
}

/// What the other domain's processor answers is what its policy says.
fn get_cpu_policy(twin: &Twin) -> Outcome {
    let mut leaves: Leaves = FromZeros::new_zeroed();
    let count = policy(twin.domain, &mut leaves)?;
    holds("there are leaves", (2..=leaves.len()).contains(&count))?;
    same("the vendor", leaves[0].b, u32::from_le_bytes(*b"Auth"))?;
    let mut little = CpuPolicy { nr_leaves: 1, leaves: leaves.as_mut_ptr() as u64, ..CpuPolicy::default() };
    let answer = domctl(abi::XEN_DOMCTL_GET_CPU_POLICY, twin.domain, &mut little);
    refuses("little room", answer, Errno::ENOBUFS)
}

/// A domain loses a feature.
fn set_cpu_policy(_: &Twin) -> Outcome {
    const SSE4_2: u32 = 1 << 20;
    with_domain(4, |domain| {
        let mut leaves: Leaves = FromZeros::new_zeroed();
        let count = policy(domain, &mut leaves)?;
        let at = leaves.iter().take(count).position(|leaf| leaf.leaf == 1);
        let Some(at) = at else { return holds("there is leaf 1", false) };
        same("that it has the feature", leaves[at].c & SSE4_2, SSE4_2)?;
        leaves[at].c &= !SSE4_2;
        let mut set = CpuPolicy { nr_leaves: 1, leaves: leaves[at..].as_mut_ptr() as u64, ..CpuPolicy::default() };
        domctl(abi::XEN_DOMCTL_SET_CPU_POLICY, domain, &mut set)?;
        policy(domain, &mut leaves)?;
        same("that it has the feature", leaves[at].c & SSE4_2, 0)
    })
}

fn pool_size(domain: u16) -> Result<u64, Refused> {
    let mut pool = PagingMempool::default();
    domctl(abi::XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE, domain, &mut pool)?;
    Ok(pool.size)
}

fn get_paging_mempool_size(twin: &Twin) -> Outcome {
    same("bytes, as they were set", pool_size(twin.domain)?, (1 << 20) + MIB * 8192)
}

fn set_paging_mempool_size(twin: &Twin) -> Outcome {
    let set = |size| domctl(abi::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, twin.domain, &mut PagingMempool { size });
    let was = pool_size(twin.domain)?;
    set(was + (1 << 20))?;
    let is = pool_size(twin.domain)?;
    set(was)?;
    same("bytes", is, was + (1 << 20))?;
    refuses("bytes that are no whole pages", set(was + 1), Errno::EINVAL)
}

fn set_address_size(twin: &Twin) -> Outcome {
    let set = |size| domctl(abi::XEN_DOMCTL_SET_ADDRESS_SIZE, twin.domain, &mut AddressSize { size });
    set(64)?;
    refuses("a width that is not there", set(16), Errno::EINVAL)
}

fn get_address_size(twin: &Twin) -> Outcome {
    let mut size = AddressSize::default();
    domctl(abi::XEN_DOMCTL_GET_ADDRESS_SIZE, twin.domain, &mut size)?;
    same("bits", size.size, 64)
}
