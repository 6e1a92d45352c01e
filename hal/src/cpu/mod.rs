//! Per-CPU data and the processor's own set-up: descriptor tables, control registers, stacks.
//!
//! Each CPU's GS base points to its [`PerCpu`], which lives for ever. [`this_cpu`] is therefore valid on a CPU from its
//! [`init_boot_cpu`] or start as an AP on; nothing of hal runs earlier but the first lines of [`crate::boot`].
//!
//! Takes no locks. The table of CPUs only grows, while the boot CPU starts the others.
// Unsafe: loads descriptor tables and segment bases.
#![allow(unsafe_code)]

pub(crate) mod hidden;
pub mod registers;

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use radon_core::types::CpuId;

use crate::lock_order::Held;
use crate::{apic, interrupts, layout, traps};
use registers::{cpuid, cr0, cr4, msr, rdmsr, read_cr0, read_cr4, write_cr0, write_cr4, wrmsr};

/// Most CPUs that Radon runs on.
pub const MAX_CPUS: usize = 256;

/// Selector of the 64-bit code segment.
pub const CODE_SELECTOR: u16 = 0x08;
/// Selector of the data segment.
pub const DATA_SELECTOR: u16 = 0x10;
/// Selector of the task state segment.
pub const TSS_SELECTOR: u16 = 0x18;

/// 64-bit task state segment (AMD APM volume 2, 12.2.5): only its stack pointers matter.
#[repr(C, packed(4))]
struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map_base: u16,
}

/// One CPU's data. The first word is its own address, which `mov reg, gs:[0]` reads.
#[repr(C)]
#[derive(Debug)]
pub struct PerCpu {
    own_address: u64,
    id: CpuId,
    apic_id: u32,
    /// The firmware's number of it (its ACPI processor UID).
    acpi_id: AtomicU32,
    stack: Range<u64>,
    online: AtomicBool,
    /// TSC ticks spent halted, and how often.
    pub(crate) idle_ticks: AtomicU64,
    /// The locks it holds, in builds that check their order.
    pub(crate) held: Held,
    gdt: UnsafeCell<[u64; 5]>,
    tss: UnsafeCell<TssBox>,
}

#[repr(C, align(16))]
struct TssBox(Tss);

impl core::fmt::Debug for TssBox {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Tss")
    }
}

// SAFETY: the cells are written only by the CPU's own set-up (`load`, `set_interrupt_stacks`), before which no other
// code touches them; afterwards only the processor does.
unsafe impl Sync for PerCpu {}
// SAFETY: as above; nothing in it is tied to the CPU that allocated it.
unsafe impl Send for PerCpu {}

impl PerCpu {
    /// The data of a CPU that is about to start. It is never freed.
    pub(crate) fn new(id: CpuId, apic_id: u32, stack: Range<u64>) -> &'static PerCpu {
        let tss = Tss {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: 0,
            reserved3: 0,
            io_map_base: size_of::<Tss>() as u16,
        };
        let cpu: &'static mut PerCpu = Box::leak(Box::new(PerCpu {
            own_address: 0,
            id,
            apic_id,
            acpi_id: AtomicU32::new(id.0),
            stack,
            online: AtomicBool::new(false),
            idle_ticks: AtomicU64::new(0),
            held: Held::new(),
            gdt: UnsafeCell::new([0; 5]),
            tss: UnsafeCell::new(TssBox(tss)),
        }));
        cpu.own_address = core::ptr::from_ref(cpu) as u64;
        cpu
    }

    /// This CPU's number.
    #[must_use]
    pub fn id(&self) -> CpuId {
        self.id
    }

    /// Its local APIC's identifier.
    #[must_use]
    pub fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// The firmware's number of it, which its own code uses.
    #[must_use]
    pub fn acpi_id(&self) -> u32 {
        self.acpi_id.load(Ordering::Relaxed)
    }

    /// Notes the firmware's number of it.
    pub(crate) fn set_acpi_id(&self, id: u32) {
        self.acpi_id.store(id, Ordering::Relaxed);
    }

    /// Its stack, without the guard page below it.
    #[must_use]
    pub fn stack(&self) -> Range<u64> {
        self.stack.clone()
    }

    /// TSC ticks this CPU has spent halted.
    #[must_use]
    pub fn idle_ticks(&self) -> u64 {
        self.idle_ticks.load(Ordering::Relaxed)
    }

    /// Whether it has finished its own start.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Machine-visible address of its task state segment.
    #[must_use]
    pub fn tss_address(&self) -> u64 {
        self.tss.get() as u64
    }

    /// Machine-visible address of its global descriptor table.
    #[must_use]
    pub fn gdt_address(&self) -> u64 {
        self.gdt.get() as u64
    }

    /// Names the tops of the stacks for NMI, double fault and machine check. Called before the CPU starts, or on it while
    /// the interrupt descriptor table does not use them yet.
    pub(crate) fn set_interrupt_stacks(&self, nmi: u64, double_fault: u64, machine_check: u64) {
        // SAFETY: nobody else refers to the TSS now (see `Sync`), and the processor reads the slots only through gates
        // that name them, which come later.
        let tss = unsafe { &mut (*self.tss.get()).0 };
        let mut ist = [0; 7];
        ist[usize::from(traps::IST_NMI) - 1] = nmi;
        ist[usize::from(traps::IST_DOUBLE_FAULT) - 1] = double_fault;
        ist[usize::from(traps::IST_MACHINE_CHECK) - 1] = machine_check;
        tss.ist = ist;
    }

    /// Loads this CPU's descriptor tables and GS base. To be called once, on the CPU itself.
    pub(crate) fn load(&'static self) {
        const CODE: u64 = 0x00af_9b00_0000_ffff;
        const DATA: u64 = 0x00cf_9300_0000_ffff;
        const AVAILABLE_TSS: u64 = 0x89 << 40;
        let tss = self.tss.get() as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        let tss_low = limit | (tss & 0xff_ffff) << 16 | AVAILABLE_TSS | (tss >> 24 & 0xff) << 56;
        // SAFETY: see `Sync`: this CPU's own set-up, once.
        unsafe { *self.gdt.get() = [0, CODE, DATA, tss_low, tss >> 32] };
        #[repr(C, packed)]
        struct Pointer {
            limit: u16,
            base: u64,
        }
        let pointer = Pointer { limit: size_of::<[u64; 5]>() as u16 - 1, base: self.gdt.get() as u64 };
        // SAFETY: the table is complete and lives for ever. The code selector means the same as before; the far return
        // goes to the next instruction. Data segments are flat; GS gets its base after its selector is cleared.
        unsafe {
            asm!(
                "lgdt [{pointer}]",
                "push {code}",
                "lea {scratch}, [rip + 2f]",
                "push {scratch}",
                "retfq",
                "2:",
                "mov ds, {data:x}",
                "mov es, {data:x}",
                "mov ss, {data:x}",
                "mov fs, {null:x}",
                "mov gs, {null:x}",
                "ltr {tss:x}",
                pointer = in(reg) &raw const pointer,
                code = in(reg) u64::from(CODE_SELECTOR),
                data = in(reg) u64::from(DATA_SELECTOR),
                null = in(reg) 0u64,
                tss = in(reg) u64::from(TSS_SELECTOR),
                scratch = out(reg) _,
            );
            wrmsr(msr::GS_BASE, self.own_address);
        }
    }

    /// Makes the CPU visible to others.
    pub(crate) fn set_online(&'static self) {
        if let Some(slot) = CPUS.get(self.id.index()) {
            slot.store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
        }
        self.online.store(true, Ordering::Release);
        ONLINE.fetch_add(1, Ordering::AcqRel);
    }
}

static CPUS: [AtomicPtr<PerCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static ONLINE: AtomicU32 = AtomicU32::new(0);
static BOOT_CPU_READY: AtomicBool = AtomicBool::new(false);

/// The data of the CPU that executes this call.
#[must_use]
pub fn this_cpu() -> &'static PerCpu {
    let at: *const PerCpu;
    // SAFETY: GS base points to this CPU's data, whose first word is its own address (see the module's head).
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) at, options(nostack, pure, readonly, preserves_flags));
        &*at
    }
}

/// As [`this_cpu`]; `None` before the boot CPU has its data.
#[must_use]
pub fn try_this_cpu() -> Option<&'static PerCpu> {
    BOOT_CPU_READY.load(Ordering::Acquire).then(this_cpu)
}

/// The data of an online CPU.
#[must_use]
pub fn get(id: CpuId) -> Option<&'static PerCpu> {
    let at = CPUS.get(id.index())?.load(Ordering::Acquire);
    // SAFETY: a pointer in the table comes from `set_online`: a `'static` reference.
    (!at.is_null()).then(|| unsafe { &*at })
}

/// CPUs that are online, in order of their numbers.
pub fn online() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS as u32).map_while(|id| get(CpuId(id)))
}

/// Number of CPUs that are online.
#[must_use]
pub fn count() -> u32 {
    ONLINE.load(Ordering::Acquire)
}

/// Makes a CPU leave guest mode or its idle halt soon: sends the kick interrupt, which does nothing else.
pub fn send_kick(id: CpuId) {
    if let Some(cpu) = get(id) {
        apic::send_ipi(cpu.apic_id, interrupts::KICK);
    }
}

/// Whether an address lies in a guard page below some stack.
#[must_use]
pub fn is_stack_guard(at: u64) -> bool {
    at & !0xfff == layout::boot_stack_guard() || crate::paging::is_stack_guard(at)
}

/// Gives the boot CPU its data. First thing after the heap exists.
pub(crate) fn init_boot_cpu() -> &'static PerCpu {
    let cpu = PerCpu::new(CpuId(0), cpuid(1, 0).ebx >> 24, layout::boot_stack());
    cpu.load();
    BOOT_CPU_READY.store(true, Ordering::Release);
    cpu
}

/// What the processor can do that the hypervisor itself uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the features' own names say all")]
pub struct Features {
    pub nx: bool,
    pub huge_pages: bool,
    pub pge: bool,
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub x2apic: bool,
    pub tsc_deadline: bool,
    pub invariant_tsc: bool,
    pub arat: bool,
    pub xsave: bool,
    pub svm: bool,
}

/// Asks CPUID what the processor can do.
#[must_use]
pub fn features() -> Features {
    let (l1, l7, e1) = (cpuid(1, 0), cpuid(7, 0), cpuid(0x8000_0001, 0));
    let bit = |value: u32, n: u32| value >> n & 1 != 0;
    Features {
        nx: bit(e1.edx, 20),
        huge_pages: bit(e1.edx, 26),
        pge: bit(l1.edx, 13),
        smep: bit(l7.ebx, 7),
        smap: bit(l7.ebx, 20),
        umip: bit(l7.ecx, 2),
        x2apic: bit(l1.ecx, 21),
        tsc_deadline: bit(l1.ecx, 24),
        invariant_tsc: bit(cpuid(0x8000_0007, 0).edx, 8),
        arat: bit(cpuid(6, 0).eax, 2),
        xsave: bit(l1.ecx, 26),
        svm: bit(e1.ecx, 2),
    }
}

/// Bits of a machine address that exist.
#[must_use]
pub fn physical_address_bits() -> u32 {
    match cpuid(0x8000_0008, 0).eax & 0xff {
        0 => 36,
        n => n.min(52),
    }
}

/// The processor's brand string.
#[must_use]
pub fn brand() -> arrayvec::ArrayString<48> {
    let mut text = arrayvec::ArrayString::new();
    for leaf in 0x8000_0002..=0x8000_0004 {
        let r = cpuid(leaf, 0);
        for byte in [r.eax, r.ebx, r.ecx, r.edx].iter().flat_map(|w| w.to_le_bytes()) {
            if (byte.is_ascii_graphic() || byte == b' ') && !(text.is_empty() && byte == b' ') {
                let _ = text.try_push(char::from(byte));
            }
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Sets this CPU's control registers and memory types: everything that protects the hypervisor from itself and the
/// state that running guests needs. The same on all CPUs.
pub(crate) fn set_control_registers(features: Features) {
    /// Entries 0-7: WB, WT, UC-, UC, twice: the power-on value.
    const PAT: u64 = 0x0007_0406_0007_0406;
    let mut c4 = read_cr4() | cr4::PAE | cr4::MCE | cr4::OSFXSR | cr4::OSXMMEXCPT;
    for (has, bit) in [
        (features.pge, cr4::PGE),
        (features.smep, cr4::SMEP),
        (features.smap, cr4::SMAP),
        (features.umip, cr4::UMIP),
        (features.xsave, cr4::OSXSAVE),
    ] {
        if has {
            c4 |= bit;
        }
    }
    let c0 = (read_cr0() | cr0::WP | cr0::NE | cr0::MP) & !(cr0::EM | cr0::TS);
    // SAFETY: no user mappings exist, so SMEP and SMAP forbid nothing that is done; text is never written through its
    // own mapping; PAT gets the value the page tables are built for. EFER.NXE is set only where it exists.
    unsafe {
        if features.nx {
            wrmsr(msr::EFER, rdmsr(msr::EFER) | registers::EFER_NXE);
        }
        wrmsr(msr::PAT, PAT);
        write_cr0(c0);
        write_cr4(c4);
    }
}
