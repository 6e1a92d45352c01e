//! What the hypervisor says of the machine's memory and what a guest costs it, asked as the toolstack asks: through the device for privileged calls.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use radon_abi::{domctl, hypercall, memory, sysctl};
use zerocopy::{FromBytes, IntoBytes};

/// Where the answer to `physinfo` has the number of free pages: behind the operation's number and the version.
const FREE_PAGES: usize = 8 + std::mem::offset_of!(sysctl::PhysInfo, free_pages);
/// The call of `/dev/xen/privcmd` that passes a hypercall on: type 'P', number 0, 48 bytes.
const HYPERCALL: libc::c_ulong = 48 << 16 | 0x50 << 8;

/// `struct privcmd_hypercall`.
#[repr(C)]
struct Hypercall {
    number: u64,
    arguments: [u64; 5],
}

/// An argument that shares its page with nothing.
#[repr(C, align(4096))]
struct Request([u8; 4096]);

/// The way to the hypervisor.
pub(crate) struct Hypervisor(File);

impl Hypervisor {
    pub(crate) fn open() -> Result<Hypervisor, String> {
        let device = File::options().read(true).write(true).open("/dev/xen/privcmd");
        Ok(Hypervisor(device.map_err(|e| format!("privcmd: {e}"))?))
    }

    fn call(&self, number: u32, arguments: [u64; 5]) -> std::io::Result<()> {
        let mut call = Hypercall { number: u64::from(number), arguments };
        crate::system::ioctl(&self.0, HYPERCALL, &mut call)
    }

    fn free_pages(&self) -> Result<u64, String> {
        let mut request = Box::new(Request([0; 4096]));
        request.0[..4].copy_from_slice(&sysctl::XEN_SYSCTL_PHYSINFO.to_le_bytes());
        request.0[4..8].copy_from_slice(&sysctl::XEN_SYSCTL_INTERFACE_VERSION.to_le_bytes());
        self.call(hypercall::SYSCTL, [request.0.as_mut_ptr() as u64, 0, 0, 0, 0])
            .map_err(|e| format!("sysctl physinfo: {e}"))?;
        let bytes = request.0[FREE_PAGES..].first_chunk().ok_or("the request is too short")?;
        Ok(u64::from_le_bytes(*bytes))
    }

    /// The pages that dom0 has.
    fn own_pages(&self) -> Result<u64, String> {
        let answer = self.request("getdomaininfo", domctl::XEN_DOMCTL_GETDOMAININFO, 0, &[])?;
        let (info, _) = domctl::DomainInfo::read_from_prefix(&answer.0[16..]).map_err(|e| e.to_string())?;
        Ok(info.tot_pages)
    }

    /// What is known of the domains from number `first` on.
    pub(crate) fn domains(&self, mut first: u16) -> Result<Vec<domctl::DomainInfo>, String> {
        let mut domains = Vec::new();
        // The answer is about the next domain that there is; where there is none, there is an error.
        while let Ok(answer) = self.request("getdomaininfo", domctl::XEN_DOMCTL_GETDOMAININFO, first, &[]) {
            let (info, _) = domctl::DomainInfo::read_from_prefix(&answer.0[16..]).map_err(|e| e.to_string())?;
            domains.push(info);
            first = info.domain.saturating_add(1);
        }
        Ok(domains)
    }

    /// An operation on a domain; its number is returned, which creation sets.
    fn domctl(&self, what: &str, cmd: u32, domain: u16, payload: &[u8]) -> Result<u16, String> {
        let answer = self.request(what, cmd, domain, payload)?;
        Ok(u16::from_le_bytes([answer.0[8], answer.0[9]]))
    }

    fn request(&self, what: &str, cmd: u32, domain: u16, payload: &[u8]) -> Result<Box<Request>, String> {
        let mut request = Box::new(Request([0; 4096]));
        request.0[..4].copy_from_slice(&cmd.to_le_bytes());
        request.0[4..8].copy_from_slice(&domctl::XEN_DOMCTL_INTERFACE_VERSION.to_le_bytes());
        request.0[8..10].copy_from_slice(&domain.to_le_bytes());
        request.0[16..16 + payload.len()].copy_from_slice(payload);
        self.call(hypercall::DOMCTL, [request.0.as_mut_ptr() as u64, 0, 0, 0, 0])
            .map_err(|e| format!("{what}: {e}"))?;
        Ok(request)
    }

    /// Gives a domain `count` blocks of 2^`order` frames from guest frame `first` on.
    fn populate(&self, domain: u16, first: u64, count: u64, order: u32) -> Result<(), String> {
        let frames: Vec<u64> = (0..count).map(|n| first + (n << order)).collect();
        let mut reservation = memory::MemoryReservation {
            extent_start: frames.as_ptr() as u64,
            nr_extents: count,
            extent_order: order,
            domid: domain,
            ..Default::default()
        };
        let operation = u64::from(memory::XENMEM_POPULATE_PHYSMAP);
        self.call(hypercall::MEMORY_OP, [operation, &raw mut reservation as u64, 0, 0, 0])
            .map_err(|e| format!("populate_physmap: {e}"))
    }
}

/// The pages that neither a guest has nor the hypervisor: those of dom0, which gives some back now and then, count as free.
pub(crate) fn free_pages() -> Result<u64, String> {
    let hypervisor = Hypervisor::open()?;
    Ok(hypervisor.free_pages()? + hypervisor.own_pages()?)
}

/// Makes a guest as xl would (one vCPU, nested paging, so many MiB), only without anything in it, and destroys it again,
/// `rounds` times. Prints the fewest microseconds that its creation took and the fewest pages of the hypervisor's that it has.
/// Meanwhile others may make the hypervisor use a page more or less.
pub(crate) fn guest_cost(mib: u64, rounds: u64) -> Result<(), String> {
    const PAGES_OF_MIB: u64 = 256;
    const SPECIAL: u64 = 3;
    const TOLERANCE: u64 = 16;
    let hypervisor = Hypervisor::open()?;
    let config = domctl::CreateDomain::pvh(1);
    let (mut least, mut pages) = (Duration::MAX, u64::MAX);
    for _ in 0..rounds {
        let before = hypervisor.free_pages()?;
        let start = Instant::now();
        let domain = hypervisor.domctl("createdomain", domctl::XEN_DOMCTL_CREATEDOMAIN, 0, config.as_bytes())?;
        let made = fill(&hypervisor, domain, mib);
        let time = start.elapsed();
        let after = hypervisor.free_pages();
        hypervisor.domctl("destroydomain", domctl::XEN_DOMCTL_DESTROYDOMAIN, domain, &[])?;
        made?;
        least = least.min(time);
        pages = pages.min(before.saturating_sub(after?).saturating_sub(mib * PAGES_OF_MIB + SPECIAL));
        // The last of it goes when nobody looks at it any more.
        let back = (0..100).any(|_| {
            thread::sleep(Duration::from_millis(20));
            hypervisor.free_pages().is_ok_and(|now| now + TOLERANCE >= before)
        });
        if !back {
            return Err(format!("{before} pages were free, now {}", hypervisor.free_pages()?));
        }
    }
    println!("{} {pages}", least.as_micros());
    Ok(())
}

/// What follows a domain's creation.
fn fill(hypervisor: &Hypervisor, domain: u16, mib: u64) -> Result<(), String> {
    let set = |what, cmd, payload: &[u8]| hypervisor.domctl(what, cmd, domain, payload).map(drop);
    set("max_vcpus", domctl::XEN_DOMCTL_MAX_VCPUS, &1u32.to_le_bytes())?;
    // As xl: a MiB for each vCPU, and two pages for each MiB.
    let tables = (1 << 20) + mib * 8192;
    set("set_paging_mempool_size", domctl::XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE, &tables.to_le_bytes())?;
    set("max_mem", domctl::XEN_DOMCTL_MAX_MEM, &((mib + 1) * 1024).to_le_bytes())?;
    hypervisor.populate(domain, 0, mib / 2, 9)?;
    hypervisor.populate(domain, 0xfeffc, 3, 0)
}
