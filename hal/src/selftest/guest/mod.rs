//! A tiny guest for tests in ring 0: 64-bit mode, a handful of pages, and the programs of `code.S`.
// Unsafe: takes the addresses of the guest's programs, which the linker knows.
#![allow(unsafe_code)]

use alloc::string::String;
use alloc::sync::Arc;
use core::arch::global_asm;

use radon_core::platform::PhysMemory as _;
use radon_core::types::{MachineAddr, PAGE_SIZE};
use radon_x86::virt::{Control, Exit, Segment, SegmentName, VirtualCpu as _, cr0, efer, gpr, rflags};

use crate::memory::memory;
use crate::svm::{PermissionMaps, SvmCpu};
use crate::{frames, svm};

global_asm!(include_str!("code.S"));

unsafe extern "C" {
    static guest_begin: u8;
    static guest_end: u8;
}

/// The address in the guest of one of its programs.
macro_rules! program {
    ($name:ident) => {{
        unsafe extern "C" {
            static $name: u8;
        }
        $crate::selftest::guest::address_of(&raw const $name)
    }};
}
pub(super) use program;

/// Guest-physical pages. The guest's linear addresses are the same.
const PML4: u64 = 0x1000;
const PDPT: u64 = 0x2000;
const DIRECTORY: u64 = 0x3000;
pub(super) const IDT: u64 = 0x4000;
const GDT: u64 = 0x5000;
/// The stack's page, and where it starts.
pub(super) const STACK: u64 = 0x7000;
const STACK_TOP: u64 = 0x8000;
pub(super) const CODE: u64 = 0x8000;
/// A page for data.
pub(super) const DATA: u64 = 0xa000;
/// Mapped by the guest, but not by the nested page table.
pub(super) const ABSENT: u64 = 0x10_0000;
/// Pages mapped at first, from address 0.
const PAGES: u64 = 16;

/// Nested entries: present, writable, user.
const NESTED: u64 = 7;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

const CODE_SELECTOR: u16 = 8;
const DATA_SELECTOR: u16 = 16;
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const DATA_DESCRIPTOR: u64 = 0x00cf_9300_0000_ffff;

/// Where in the guest a program is, given where it is in the image.
pub(super) fn address_of(program: *const u8) -> u64 {
    CODE + (program as u64 - &raw const guest_begin as u64)
}

/// A guest. Its memory is never given back: tests end with the machine.
pub(super) struct Guest {
    pub cpu: SvmCpu,
    /// Its tag in the flush protocol.
    pub tag: u64,
    root: MachineAddr,
    /// The nested page table's last level, for the first 2 MiB.
    table: MachineAddr,
}

fn frame() -> Result<MachineAddr, String> {
    let at = frames::allocate(1).ok_or("no frames")?;
    memory().zero_frame(at.mfn());
    Ok(at)
}

fn at(table: MachineAddr, index: u64) -> MachineAddr {
    MachineAddr(table.0 + index * 8)
}

impl Guest {
    /// A guest about to execute `program`, with nothing allowed that can be intercepted.
    pub(super) fn new(program: u64) -> Result<Guest, String> {
        Guest::with(program, PermissionMaps::default())
    }

    /// A guest with its own permissions.
    pub(super) fn with(program: u64, maps: PermissionMaps) -> Result<Guest, String> {
        static TAGS: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(1);
        let tag = TAGS.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        let [root, level3, level2, table] = [frame()?, frame()?, frame()?, frame()?];
        for (upper, lower) in [(root, level3), (level3, level2), (level2, table)] {
            memory().store_u64(upper, lower.0 | NESTED);
        }
        let mut guest = Guest { cpu: SvmCpu::new(tag, root, Arc::new(maps)), tag, root, table };
        for page in 0..PAGES {
            guest.map(page * PAGE_SIZE, true)?;
        }
        guest.fill()?;
        guest.enter(program);
        Ok(guest)
    }

    /// Another vCPU of this guest, about to execute `program`.
    pub(super) fn sibling(&self, program: u64) -> Guest {
        let cpu = SvmCpu::new(self.tag, self.root, Arc::new(PermissionMaps::default()));
        let mut guest = Guest { cpu, tag: self.tag, root: self.root, table: self.table };
        guest.enter(program);
        guest
    }

    /// Maps a fresh page of zeros at a guest-physical address below 2 MiB, in place of what was there.
    pub(super) fn map(&mut self, gpa: u64, writable: bool) -> Result<(), String> {
        let flags = if writable { NESTED } else { NESTED & !WRITABLE };
        memory().store_u64(at(self.table, gpa / PAGE_SIZE), frame()?.0 | flags);
        Ok(())
    }

    /// Removes a page's mapping, or restores it. Returns the entry that was there.
    pub(super) fn exchange(&mut self, gpa: u64, entry: u64) -> u64 {
        let place = at(self.table, gpa / PAGE_SIZE);
        let old = memory().load_u64(place);
        memory().store_u64(place, entry);
        svm::flush_domain(self.tag);
        old
    }

    fn machine_address(&self, gpa: u64) -> MachineAddr {
        let entry = memory().load_u64(at(self.table, gpa / PAGE_SIZE));
        MachineAddr((entry & !0xfff) + gpa % PAGE_SIZE)
    }

    pub(super) fn store(&self, gpa: u64, value: u64) {
        memory().store_u64(self.machine_address(gpa), value);
    }

    pub(super) fn load(&self, gpa: u64) -> u64 {
        memory().load_u64(self.machine_address(gpa))
    }

    /// Page tables (the first 4 MiB, one to one), descriptors, programs.
    fn fill(&self) -> Result<(), String> {
        self.store(PML4, PDPT | 3);
        self.store(PDPT, DIRECTORY | 3);
        self.store(DIRECTORY, LARGE | 3);
        self.store(DIRECTORY + 8, 0x20_0000 | LARGE | 3);
        self.store(GDT + u64::from(CODE_SELECTOR), CODE_DESCRIPTOR);
        self.store(GDT + u64::from(DATA_SELECTOR), DATA_DESCRIPTOR);
        let (begin, end) = (&raw const guest_begin, &raw const guest_end);
        let length = end as usize - begin as usize;
        if length as u64 > DATA - CODE {
            return Err("the programs do not fit their pages".into());
        }
        // SAFETY: the linker's two symbols enclose constants.
        let programs = unsafe { core::slice::from_raw_parts(begin, length) };
        for (n, piece) in programs.chunks(PAGE_SIZE as usize).enumerate() {
            memory().write(self.machine_address(CODE + n as u64 * PAGE_SIZE), piece);
        }
        Ok(())
    }

    /// Makes `handler` the guest's handler of `vector`.
    pub(super) fn handle(&self, vector: u8, handler: u64) {
        let gate = IDT + u64::from(vector) * 16;
        let low = (handler & 0xffff) | u64::from(CODE_SELECTOR) << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        self.store(gate, low);
        self.store(gate + 8, handler >> 32);
    }

    /// Sets the registers for 64-bit mode and the start of a program.
    fn enter(&mut self, program: u64) {
        let cpu = &mut self.cpu;
        let long = efer::LME | efer::LMA;
        // PAE, OSFXSR and OSXMMEXCPT.
        let mut cr4 = 1 << 5 | 1 << 9 | 1 << 10;
        if svm::xsave_components() != 0 {
            cr4 |= 1 << 18;
        }
        cpu.set_control(&Control { cr0: cr0::PE | cr0::ET | cr0::PG | cr0::WP, cr2: 0, cr3: PML4, cr4, efer: long });
        let flat = |selector, attributes| Segment { selector, attributes, limit: u32::MAX, base: 0 };
        cpu.set_segment(SegmentName::Cs, &flat(CODE_SELECTOR, 0xa9b));
        for name in [SegmentName::Ds, SegmentName::Es, SegmentName::Ss] {
            cpu.set_segment(name, &flat(DATA_SELECTOR, 0xc93));
        }
        let table = |base, limit| Segment { selector: 0, attributes: 0, limit, base };
        cpu.set_segment(SegmentName::Gdtr, &table(GDT, 23));
        cpu.set_segment(SegmentName::Idtr, &table(IDT, 0xfff));
        let regs = cpu.regs_mut();
        regs.rip = program;
        regs.rflags = rflags::FIXED;
        regs.set(gpr::RSP, STACK_TOP);
    }

    /// Runs until it stops for a reason of its own. Physical interrupts are taken in between, spinning goes on.
    pub(super) fn run(&mut self) -> Exit {
        self.cpu.load();
        let mut exit = self.cpu.run();
        while matches!(exit, Exit::Interrupt | Exit::Pause) {
            crate::interrupts::poll();
            exit = self.cpu.run();
        }
        self.cpu.save();
        exit
    }

    /// Runs until a hypercall, and goes on after it.
    pub(super) fn run_to_hypercall(&mut self) -> Result<(), String> {
        match self.run() {
            Exit::Hypercall => {
                self.skip(3);
                Ok(())
            }
            other => Err(alloc::format!("{other:?} at {:#x}, not a hypercall", self.cpu.regs().rip)),
        }
    }

    /// Goes on after an instruction of `length` bytes.
    pub(super) fn skip(&mut self, length: u64) {
        self.cpu.regs_mut().rip += length;
        self.cpu.clear_interrupt_shadow();
    }

    pub(super) fn reg(&self, n: usize) -> u64 {
        self.cpu.regs().get(n)
    }

    pub(super) fn set_reg(&mut self, n: usize, value: u64) {
        self.cpu.regs_mut().set(n, value);
    }
}
