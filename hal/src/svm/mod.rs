//! AMD SVM: turning it on, and the parts that all virtual CPUs share (permission maps, TLB flush protocol). One virtual
//! CPU is [`SvmCpu`].
//!
//! # TLB flush protocol
//! Translations of a guest are tagged with an ASID and survive exits. Whoever removes a translation calls
//! [`flush_domain`], which bumps the domain's generation and then waits for CPUs that are inside that domain's guest
//! mode to leave it. A CPU about to enter announces the domain in [`Presence`], *then* compares generations and takes a
//! new ASID if they differ. Both sides order store before load (SeqCst), so one of them sees the other: either the
//! flusher sees the CPU inside and waits, or the CPU sees the new generation. Leaving guest mode takes no lock, so the
//! wait ends whatever locks the flusher holds.
// Unsafe: privileged instructions, and the VMCB that the processor reads and writes.
#![allow(unsafe_code)]

mod fpu;
mod permission;
mod vcpu;
mod vmcb;

pub use permission::{MsrAccess, PermissionMaps};
pub use vcpu::SvmCpu;

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
use spin::once::Once;

use crate::cpu::registers::{self as cr, cpuid, cr4, rdmsr, rdmsr_safe, wrmsr};
use crate::cpu::{self, MAX_CPUS};
use crate::layout::{self, DIRECT_MAP, KERNEL_BASE};
use vmcb::Vmcb;

const MSR_VM_CR: u32 = 0xc001_0114;
const MSR_VM_HSAVE_PA: u32 = 0xc001_0117;
const VM_CR_SVMDIS: u64 = 1 << 4;
const EFER_SVME: u64 = 1 << 12;
const EFER_AUTOMATIC_IBRS: u64 = 1 << 21;
const MSR_XSS: u32 = 0xda0;
const MSR_DE_CFG: u32 = 0xc001_1029;
/// DE_CFG: LFENCE waits for all instructions before it. Guests are told that it does.
const DE_CFG_LFENCE_ORDERS: u64 = 1 << 1;
/// CPUID 0x80000021 EAX: it always does.
const LFENCE_ORDERS_ALWAYS: u32 = 1 << 2;
/// CPUID 0xD sub-leaf 1 EAX.
const XSAVES: u32 = 1 << 3;

/// Why SVM cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The processor has no SVM.
    NoSvm,
    /// The firmware switched SVM off.
    Disabled {
        /// It can be switched on with a key that the firmware holds.
        locked: bool,
    },
    /// No nested paging.
    NoNestedPaging,
    /// This CPU is not like the boot CPU.
    Different,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::NoSvm => f.write_str(
                "this processor has no AMD SVM (CPUID 0x80000001 ECX bit 2 is clear); Radon needs an AMD processor with \
                 SVM, or under QEMU a CPU model that has it, for instance -cpu EPYC",
            ),
            Unavailable::Disabled { locked } => write!(
                f,
                "SVM is disabled by the firmware (VM_CR.SVMDIS is set{}); enable 'SVM', 'AMD-V' or 'Virtualization' in \
                 the firmware's setup",
                if *locked { " and locked" } else { "" }
            ),
            Unavailable::Different => f.write_str(
                "its SVM or XSAVE features are not those of the boot CPU; update the firmware, or leave the CPU out with \
                 maxcpus=",
            ),
            Unavailable::NoNestedPaging => f.write_str(
                "this processor has SVM without nested paging (CPUID 0x8000000A EDX bit 0 is clear), which Radon needs",
            ),
        }
    }
}

/// What this processor's SVM can do (CPUID 0x8000000A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Number of ASIDs, at least 2.
    pub asids: u32,
    /// EXITINFO carries the next RIP.
    pub nrip_save: bool,
    /// Bytes of the faulting instruction are stored.
    pub decode_assists: bool,
    /// TLB entries of one ASID can be flushed.
    pub flush_by_asid: bool,
    /// Unchanged state may be marked clean.
    pub clean_bits: bool,
    /// PAUSE loops can be counted.
    pub pause_filter: bool,
    /// ... within a time threshold.
    pub pause_threshold: bool,
    /// Virtual GIF.
    pub vgif: bool,
    /// Advanced virtual interrupt controller.
    pub avic: bool,
    /// The guest has a SPEC_CTRL of its own.
    pub spec_ctrl: bool,
}

impl Features {
    /// Asks the processor.
    ///
    /// # Errors
    /// If SVM or nested paging is absent or disabled.
    pub fn detect() -> Result<Features, Unavailable> {
        if cpuid(0x8000_0001, 0).ecx & (1 << 2) == 0 {
            return Err(Unavailable::NoSvm);
        }
        let leaf = cpuid(0x8000_000a, 0);
        // A processor without the MSR cannot have SVM disabled by it.
        Features::from_registers(leaf.ebx, leaf.edx, rdmsr_safe(MSR_VM_CR).unwrap_or(0))
    }

    /// What EBX and EDX of CPUID 0x8000000A and the MSR VM_CR say, on a processor that has SVM.
    pub(crate) fn from_registers(ebx: u32, edx: u32, vm_cr: u64) -> Result<Features, Unavailable> {
        let bit = |n: u32| edx & (1 << n) != 0;
        if vm_cr & VM_CR_SVMDIS != 0 {
            // EDX bit 2: there is a lock that only a key of the firmware's opens.
            return Err(Unavailable::Disabled { locked: bit(2) });
        }
        if !bit(0) {
            return Err(Unavailable::NoNestedPaging);
        }
        Ok(Features {
            asids: ebx.max(2),
            nrip_save: bit(3),
            clean_bits: bit(5),
            flush_by_asid: bit(6),
            decode_assists: bit(7),
            pause_filter: bit(10),
            pause_threshold: bit(12),
            avic: bit(13),
            vgif: bit(16),
            spec_ctrl: bit(20),
        })
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ASIDs", self.asids)?;
        for (present, name) in [
            (self.nrip_save, "NRIP save"),
            (self.decode_assists, "decode assists"),
            (self.flush_by_asid, "flush by ASID"),
            (self.clean_bits, "clean bits"),
            (self.pause_filter, "pause filter"),
            (self.vgif, "vGIF"),
            (self.avic, "AVIC (unused)"),
            (self.spec_ctrl, "virtual SPEC_CTRL"),
        ] {
            if present {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// A page of zeros that the processor is given by machine address.
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// Machine address of something on the heap, which is in the direct map but for its first part, in the image.
fn machine_address<T: ?Sized>(thing: &T) -> u64 {
    let at = core::ptr::from_ref(thing).cast::<u8>() as u64;
    if at >= KERNEL_BASE { layout::machine_address(at).0 } else { at - DIRECT_MAP }
}

/// What all CPUs have alike, found on the boot CPU. Others are held to it in [`enable_on_this_cpu`].
#[derive(Clone, Copy, PartialEq, Eq)]
struct Common {
    features: Features,
    /// The XSAVE state components that are switched; 0 without XSAVE.
    xcr0: u64,
    has_tsc_aux: bool,
    /// Branch predictions can be discarded.
    has_ibpb: bool,
    /// The last x87 instruction's pointers are saved and restored always, not only with an exception pending.
    error_pointers: bool,
    /// Bits of MXCSR that exist.
    mxcsr_mask: u32,
    /// QEMU's translator runs us: it can deliver an injected external interrupt twice.
    doubles_interrupts: bool,
}

/// State components that are switched: x87, SSE, AVX, AVX-512 and protection keys. A guest that has protection keys
/// enabled behind the back of its CPUID policy must not leave its key register to the next.
const SWITCHED_COMPONENTS: u64 = 0x2e7;
/// Bits of MXCSR on a processor that does not say (APM volume 1, 4.2.2).
const MXCSR_MASK_UNSAID: u32 = 0xffbf;

impl Common {
    fn of_this_cpu(features: Features) -> Common {
        let has_xsave = cpuid(1, 0).ecx & (1 << 26) != 0;
        let states = cpuid(0xd, 0);
        let extended = cpuid(0x8000_0008, 0).ebx;
        Common {
            features,
            xcr0: if has_xsave { u64::from(states.eax) & SWITCHED_COMPONENTS } else { 0 },
            has_tsc_aux: cpuid(0x8000_0001, 0).edx & (1 << 27) != 0,
            has_ibpb: extended & (1 << 12) != 0,
            error_pointers: extended & (1 << 2) != 0,
            mxcsr_mask: mxcsr_mask(),
            doubles_interrupts: under_translator(),
        }
    }
}

/// Whether the hypervisor's leaf of CPUID is that of QEMU's translator (TCG).
fn under_translator() -> bool {
    let leaf = cpuid(0x4000_0000, 0);
    let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    cpuid(1, 0).ecx >> 31 != 0 && name.as_flattened() == b"TCGTCGTCGTCG"
}

/// MXCSR's mask, as FXSAVE stores it.
fn mxcsr_mask() -> u32 {
    #[repr(C, align(16))]
    struct Image([u32; 128]);
    let mut image = Image([0; 128]);
    // SAFETY: the image has 512 bytes and is aligned; CR4.OSFXSR is set on every CPU at its start.
    unsafe { asm!("fxsave64 [{}]", in(reg) &raw mut image, options(nostack, preserves_flags)) };
    match image.0[7] {
        0 => MXCSR_MASK_UNSAID,
        mask => mask,
    }
}

static COMMON: Once<Common> = Once::new();

/// What all CPUs can do.
///
/// # Panics
/// If no CPU has enabled SVM: then there are no guests either.
#[expect(clippy::expect_used, reason = "a broken invariant of our own; stops the machine with a report")]
fn common() -> &'static Common {
    COMMON.get().expect("SVM is enabled on the boot CPU before guests exist")
}

/// Whether the boot CPU has SVM and uses it.
#[must_use]
pub fn is_enabled() -> bool {
    COMMON.get().is_some()
}

/// The XSAVE state components that are switched with guests (XCR0 bits); 0 without XSAVE, or before SVM is enabled.
#[must_use]
pub fn xsave_components() -> u64 {
    COMMON.get().map_or(0, |c| c.xcr0)
}

/// This CPU's share of SVM.
struct PerCpu {
    /// Where VMLOAD finds the host's FS, GS, TR, LDTR and system-call MSRs after an exit.
    host_vmcb: u64,
    asids: Asids,
    /// The vCPU that was last loaded here: its number in [`SvmCpu`], 0 for none.
    last_loaded: u64,
}

/// One CPU's [`PerCpu`], for that CPU alone.
struct Slot(UnsafeCell<Option<PerCpu>>);

// SAFETY: `with_this_cpu` gives a CPU its own slot only, interrupts are off, no interrupt, NMI or exception handler uses
// slots, and the closure cannot reach the slot again (the slots are private to this module and `run` does not nest).
unsafe impl Sync for Slot {}

static SLOTS: [Slot; MAX_CPUS] = [const { Slot(UnsafeCell::new(None)) }; MAX_CPUS];

/// Calls `f` with the slot of the calling CPU. `f` must not call this again.
fn with_this_cpu<R>(f: impl FnOnce(&mut Option<PerCpu>) -> R) -> R {
    let slot = &SLOTS[cpu::this_cpu().id().index()];
    // SAFETY: see `Slot`.
    f(unsafe { &mut *slot.0.get() })
}

/// Address space identifiers of one CPU: handed out in order; when they run out the whole TLB is flushed and a new
/// generation starts.
struct Asids {
    next: u32,
    count: u32,
    generation: u64,
}

impl Asids {
    /// A fresh ASID with its generation, and whether the whole TLB has to be flushed first.
    fn allocate(&mut self) -> (u32, u64, bool) {
        let wrapped = self.next >= self.count;
        if wrapped {
            self.next = 1;
            self.generation += 1;
        }
        let asid = self.next;
        self.next += 1;
        (asid, self.generation, wrapped)
    }
}

/// Turns SVM on for the calling CPU. Each CPU calls it once, after its descriptor tables and per-CPU data are in place
/// (their state is what each exit restores).
///
/// # Errors
/// If SVM cannot be used on this CPU, or it is not like the boot CPU.
pub fn enable_on_this_cpu() -> Result<Features, Unavailable> {
    let features = Features::detect()?;
    let own = Common::of_this_cpu(features);
    if *COMMON.call_once(|| own) != own {
        return Err(Unavailable::Different);
    }
    let host_save = Box::leak(Box::new(Page([0; 4096])));
    let host_vmcb = machine_address(Box::leak(Box::<Vmcb>::default()));
    // CPUID 0x80000021 EAX bit 8.
    let automatic_ibrs = if cpuid(0x8000_0021, 0).eax & (1 << 8) != 0 { EFER_AUTOMATIC_IBRS } else { 0 };
    // SAFETY: SVM exists and is not disabled, so the bit and both MSRs exist, and the other EFER bit exists if CPUID says
    // so; the host save area is a page that is never used for anything else. CR4's FPU bits exist on every 64-bit processor
    // (OSXSAVE only with XSAVE) and enable instructions without changing mappings. VMSAVE writes the host's state into a
    // page that is only used so.
    unsafe {
        // With automatic IBRS predictions that a guest has trained do not steer the hypervisor. Guests have their own EFER.
        wrmsr(cr::msr::EFER, rdmsr(cr::msr::EFER) | EFER_SVME | automatic_ibrs);
        wrmsr(MSR_VM_HSAVE_PA, machine_address(host_save));
        let xsave_bit = if own.xcr0 != 0 { cr4::OSXSAVE } else { 0 };
        cr::write_cr4(cr::read_cr4() | cr4::OSFXSR | cr4::OSXMMEXCPT | xsave_bit);
        asm!("vmsave rax", in("rax") host_vmcb, options(nostack, preserves_flags));
    }
    if cpuid(0xd, 1).eax & XSAVES != 0 {
        // SAFETY: the MSR exists with XSAVES. Guests may execute XSAVES, and are told that there are no such components.
        let _ = unsafe { cr::wrmsr_safe(MSR_XSS, 0) };
    }
    let orders_always = cpuid(0x8000_0021, 0).eax & LFENCE_ORDERS_ALWAYS != 0;
    if let Ok(config) = rdmsr_safe(MSR_DE_CFG)
        && !orders_always
    {
        // SAFETY: the MSR exists, and with the bit LFENCE waits for the instructions before it, which is all that changes.
        let _ = unsafe { cr::wrmsr_safe(MSR_DE_CFG, config | DE_CFG_LFENCE_ORDERS) };
    }
    // The first entry flushes: nobody knows what used the identifiers before us.
    let asids = Asids { next: features.asids, count: features.asids, generation: 0 };
    with_this_cpu(|slot| *slot = Some(PerCpu { host_vmcb, asids, last_loaded: 0 }));
    Ok(features)
}

/// Turns SVM off for the calling CPU, which enters no guest any more: what comes after us (firmware, another kernel) finds
/// INIT and the control registers as after a reset.
pub(crate) fn disable_on_this_cpu() {
    if !is_enabled() {
        return;
    }
    // SAFETY: a processor with SVM has the bit. GIF is set everywhere but in entry.S, so none is lost with SVM; the caller
    // enters no guest any more.
    unsafe { wrmsr(cr::msr::EFER, rdmsr(cr::msr::EFER) & !EFER_SVME) };
}

/// Number of flush generations; domains whose tags are equal modulo this share one, which costs needless flushes only.
const GENERATIONS: usize = 1024;

static FLUSH_GENERATION: [AtomicU64; GENERATIONS] = [const { AtomicU64::new(0) }; GENERATIONS];

/// What a CPU tells the others about being in guest mode. One cache line each, written by its CPU only.
#[repr(align(64))]
struct Presence {
    /// The CPU is in guest mode, or about to enter it after it has compared generations.
    inside: AtomicBool,
    /// Slot of the domain whose guest it is.
    slot: AtomicU32,
    /// Counts entries, so that a waiter notices an exit even if the CPU has entered again.
    entries: AtomicU64,
}

static PRESENCE: [Presence; MAX_CPUS] =
    [const { Presence { inside: AtomicBool::new(false), slot: AtomicU32::new(0), entries: AtomicU64::new(0) } };
        MAX_CPUS];

fn slot_of(tag: u64) -> usize {
    (tag % GENERATIONS as u64) as usize
}

/// Returns when no CPU can still use a translation that was removed from this domain's nested page table before the
/// call. See the module's documentation for the protocol.
pub fn flush_domain(tag: u64) {
    let slot = slot_of(tag);
    FLUSH_GENERATION[slot].fetch_add(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    let me = cpu::this_cpu().id().index();
    for (n, presence) in PRESENCE.iter().enumerate().take(cpu::count() as usize) {
        let concerned =
            || presence.inside.load(Ordering::SeqCst) && presence.slot.load(Ordering::SeqCst) as usize == slot;
        if n == me || !concerned() {
            continue;
        }
        let entries = presence.entries.load(Ordering::SeqCst);
        cpu::send_kick(radon_core::types::CpuId(n as u32));
        while concerned() && presence.entries.load(Ordering::SeqCst) == entries {
            cr::relax();
        }
    }
}
