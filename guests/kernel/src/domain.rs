//! Another domain, which a program builds: empty, or as a copy of the program itself at the same addresses.
//!
//! What must not fail ends the program. Frames of the other domain are seen at a page of the program that it gave back to
//! the hypervisor before.

use core::ptr;
use core::sync::atomic::Ordering;

use radon_abi::domctl::{self, CreateDomain, Domctl};
use radon_abi::event_channel::{self, AllocUnbound, BindInterdomain};
use radon_abi::memory::{self, AddToPhysmapBatch, MemoryReservation, RemoveFromPhysmap};
use radon_abi::{hypercall, save, xen};
use zerocopy::{FromZeros, IntoBytes};

use crate::Page;
use crate::hypercall::{call, must, operate};

/// Most extents of one call of [`change`].
pub const EXTENTS: u64 = 512;

/// What a copy's start information is.
static START_INFO: Page = Page::new();
static LIST: Page = Page::new();

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
    fn guest_start();
}

/// The addresses that the program is at.
#[must_use]
pub fn image() -> core::ops::Range<u64> {
    &raw const image_start as u64..&raw const image_end as u64
}

/// An operation on a domain; returns the domain's number, which creation sets, and the result.
pub fn domctl(cmd: u32, domain: u16, payload: &[u8]) -> (u16, i64) {
    let mut request = Domctl::new_zeroed();
    request.header.cmd = cmd;
    request.header.interface_version = domctl::XEN_DOMCTL_INTERFACE_VERSION;
    request.header.domain = domain;
    request.payload[..payload.len()].copy_from_slice(payload);
    let result = call(hypercall::DOMCTL, [ptr::from_mut(&mut request) as u64]);
    (request.header.domain, result)
}

/// A domain with one vCPU that may have so many MiB and has none.
pub fn create(mib: u64) -> u16 {
    let config = CreateDomain::pvh(1);
    let (domain, result) = domctl(domctl::XEN_DOMCTL_CREATEDOMAIN, 0, config.as_bytes());
    must("createdomain", result);
    let set = |what, cmd, payload: &[u8]| must(what, domctl(cmd, domain, payload).1);
    set("max_vcpus", domctl::XEN_DOMCTL_MAX_VCPUS, &1u32.to_le_bytes());
    // As the toolstack has it: a MiB for each vCPU, and two pages for each MiB.
    let tables = (1 << 20) + mib * 8192;
    set("set_paging_mempool_size", domctl::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, &tables.to_le_bytes());
    set("max_mem", domctl::XEN_DOMCTL_MAX_MEM, &((mib + 1) * 1024).to_le_bytes());
    domain
}

/// Populates or releases `count` extents, at most a page's list of them.
pub fn change(domain: u16, operation: u32, first: u64, count: u64, order: u32, mem_flags: u32) {
    (0..count).for_each(|n| LIST.0[n as usize].store(first + (n << order), Ordering::Relaxed));
    let mut reservation = MemoryReservation {
        extent_start: LIST.0.as_ptr() as u64,
        nr_extents: count,
        extent_order: order,
        mem_flags,
        domid: domain,
        ..MemoryReservation::new_zeroed()
    };
    let done = operate(hypercall::MEMORY_OP, operation, &mut reservation);
    assert_eq!(done, count as i64, "memory_op {operation} of order {order}");
}

/// Maps a frame of another domain at a page.
pub fn map_foreign(domain: u16, frame: u64, at: &Page) {
    let (mut at, mut error) = (at.gfn(), -1i32);
    let mut batch = AddToPhysmapBatch {
        domid: xen::DOMID_SELF,
        space: memory::XENMAPSPACE_GMFN_FOREIGN as u16,
        size: 1,
        foreign_domid: domain,
        idxs: ptr::from_ref(&frame) as u64,
        gpfns: ptr::from_mut(&mut at) as u64,
        errs: ptr::from_mut(&mut error) as u64,
    };
    must("map foreign", operate(hypercall::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP_BATCH, &mut batch));
    // SAFETY: the hypervisor may have written it.
    let error = unsafe { ptr::from_ref(&error).read_volatile() };
    assert_eq!(error, 0, "map foreign");
}

/// Takes away what is mapped at a page.
pub fn unmap(at: &Page) {
    let mut remove = RemoveFromPhysmap { domid: xen::DOMID_SELF, gpfn: at.gfn(), ..RemoveFromPhysmap::new_zeroed() };
    must("unmap", operate(hypercall::MEMORY_OP, memory::XENMEM_REMOVE_FROM_PHYSMAP, &mut remove));
}

/// Gives the domain a copy of this program's memory, at the same addresses, with this command line, which ends with a NUL.
/// The page `hole` is left out: it is where the copy is seen meanwhile.
pub fn copy_self(domain: u16, command_line: &'static str, hole: &Page) {
    START_INFO.0[3].store(command_line.as_ptr() as u64, Ordering::Relaxed);
    let first = &raw const image_start as u64 / 4096;
    let end = (&raw const image_end as u64).div_ceil(4096);
    let mut at = first;
    while at < end {
        let count = EXTENTS.min(end - at);
        change(domain, memory::XENMEM_POPULATE_PHYSMAP, at, count, 0, 0);
        at += count;
    }
    for frame in (first..end).filter(|frame| *frame != hole.gfn()) {
        map_foreign(domain, frame, hole);
        // SAFETY: a page of this program, every one of which is mapped but the hole; all are read as words that may change.
        let from = unsafe { &*((frame * 4096) as *const Page) };
        for (to, from) in hole.0.iter().zip(&from.0) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        unmap(hole);
    }
}

/// Has the domain's vCPU begin as the PVH protocol says.
pub fn start(domain: u16) {
    #[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
    #[repr(C)]
    struct Records {
        header_at: save::Descriptor,
        header: save::Header,
        cpu_at: save::Descriptor,
        cpu: save::Cpu,
        end: save::Descriptor,
    }
    let at = |typecode, size: usize| save::Descriptor { typecode, instance: 0, length: size as u32 };
    const CODE: u32 = 0xc9b;
    const DATA: u32 = 0xc93;
    let records = Records {
        header_at: at(save::HVM_SAVE_CODE_HEADER, size_of::<save::Header>()),
        header: save::Header {
            magic: save::HVM_FILE_MAGIC,
            version: save::HVM_FILE_VERSION,
            changeset: 0,
            cpuid: 0,
            gtsc_khz: 0,
        },
        cpu_at: at(save::HVM_SAVE_CODE_CPU, size_of::<save::Cpu>()),
        cpu: save::Cpu {
            rip: guest_start as *const () as u64,
            rbx: START_INFO.0.as_ptr() as u64,
            rflags: 2,
            cr0: 0x11,
            cs_limit: u32::MAX,
            ds_limit: u32::MAX,
            es_limit: u32::MAX,
            ss_limit: u32::MAX,
            tr_limit: 0x67,
            cs_arbytes: CODE,
            ds_arbytes: DATA,
            es_arbytes: DATA,
            ss_arbytes: DATA,
            tr_arbytes: 0x8b,
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            ..save::Cpu::new_zeroed()
        },
        end: at(save::HVM_SAVE_CODE_END, 0),
    };
    let mut payload = [0; 16];
    payload[..4].copy_from_slice(&(size_of::<Records>() as u32).to_le_bytes());
    payload[8..].copy_from_slice(&(ptr::from_ref(&records) as u64).to_le_bytes());
    must("sethvmcontext", domctl(domctl::XEN_DOMCTL_SETHVMCONTEXT, domain, &payload).1);
}

/// An event channel to the domain: the port here and the one there. Binding may notify this side.
pub fn connect(domain: u16) -> (u32, u32) {
    let mut unbound = AllocUnbound::new_zeroed();
    unbound.dom = domain;
    unbound.remote_dom = xen::DOMID_SELF;
    let number = hypercall::EVENT_CHANNEL_OP;
    must("alloc_unbound", operate(number, event_channel::EVTCHNOP_ALLOC_UNBOUND, &mut unbound));
    let mut bind = BindInterdomain::new_zeroed();
    bind.remote_dom = domain;
    bind.remote_port = unbound.port;
    must("bind_interdomain", operate(number, event_channel::EVTCHNOP_BIND_INTERDOMAIN, &mut bind));
    (bind.local_port, unbound.port)
}
