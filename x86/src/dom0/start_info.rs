//! What the dom0 kernel is told at its PVH entry: the start information block, and the state of its first vCPU.
//!
//! Source: Xen's public header arch-x86/hvm/start_info.h and the PVH entry protocol (docs/misc/pvh.pandoc). Writes
//! through [`PhysMemory`] into one range that the memory plan chose, and touches nothing else.

use crate::virt::{Control, Segment, cr0, rflags};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use radon_core::platform::PhysMemory;
use radon_core::types::MachineAddr;
use zerocopy::{Immutable, IntoBytes};

/// `XEN_HVM_START_MAGIC_VALUE`.
pub const MAGIC: u32 = 0x336e_c578;
/// The kernel is privileged and the initial domain: SIF_PRIVILEGED and SIF_INITDOMAIN.
pub const FLAGS_DOM0: u32 = 0b11;
/// Most memory map entries that Linux takes (the size of its boot-time table).
pub const MAX_MEMMAP: usize = 128;

/// `struct hvm_start_info`, version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct StartInfo {
    /// [`MAGIC`].
    pub magic: u32,
    /// 1.
    pub version: u32,
    /// SIF_ flags.
    pub flags: u32,
    /// Number of modules.
    pub modules: u32,
    /// Address of the [`Module`]s.
    pub modules_paddr: u64,
    /// Address of the command line, which ends with a zero byte.
    pub cmdline_paddr: u64,
    /// Address of the ACPI RSDP.
    pub rsdp_paddr: u64,
    /// Address of the [`MemmapEntry`]s.
    pub memmap_paddr: u64,
    /// Number of memory map entries.
    pub memmap_entries: u32,
    /// 0.
    pub reserved: u32,
}

/// `struct hvm_modlist_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Module {
    /// Address of the module.
    pub paddr: u64,
    /// Size in bytes.
    pub size: u64,
    /// Address of its command line, or 0.
    pub cmdline_paddr: u64,
    /// 0.
    pub reserved: u64,
}

/// `struct hvm_memmap_table_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct MemmapEntry {
    /// First address.
    pub addr: u64,
    /// Size in bytes.
    pub size: u64,
    /// XEN_HVM_MEMMAP_TYPE_, the numbers of E820.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<StartInfo>() == 56 && size_of::<Module>() == 32 && size_of::<MemmapEntry>() == 24);

/// What makes Linux copy through its own memory what a device is to read or write.
///
/// Without an IOMMU a device of dom0's does not reach pages that guests granted, and some say that it did
/// (`book/src/identity.md`): a guest's disk would lose data. So dom0 gets this unless it is told something else.
pub const COPY: &str = "swiotlb=force";

/// The kernel's command line: what the boot loader gave it, what the hypervisor was told to add, and [`COPY`] if neither says
/// anything about that.
#[must_use]
pub fn command_line(given: &str, added: &str) -> String {
    let all = format!("{} {}", given.trim(), added.trim());
    // What follows `--` is for init.
    let (kernel, init) = all.split_once(" -- ").map_or((&*all, None), |(kernel, init)| (kernel, Some(init)));
    if kernel.split_whitespace().any(|word| word.starts_with("swiotlb=")) {
        return all.trim().into();
    }
    match init {
        Some(init) => format!("{} {COPY} -- {init}", kernel.trim()),
        None => format!("{} {COPY}", kernel.trim()),
    }
    .trim()
    .into()
}

/// Bytes that [`write()`] may need for a command line of this length.
#[must_use]
pub const fn size(cmdline_len: usize) -> u64 {
    const TABLES: usize = size_of::<StartInfo>() + size_of::<Module>() + MAX_MEMMAP * size_of::<MemmapEntry>();
    (TABLES as u64).saturating_add(cmdline_len as u64).saturating_add(1)
}

/// Writes the start information into `place`, which begins with the [`StartInfo`] itself. Returns `false`, having
/// written nothing, if `place` is smaller than [`size`] says or the map has more than [`MAX_MEMMAP`] entries.
#[must_use]
pub fn write(
    memory: &dyn PhysMemory,
    place: &Range<u64>,
    cmdline: &[u8],
    initrd: Option<&Range<u64>>,
    rsdp: u64,
    memmap: &[MemmapEntry],
) -> bool {
    if place.end.saturating_sub(place.start) < size(cmdline.len()) || memmap.len() > MAX_MEMMAP {
        return false;
    }
    let modules_at = place.start.saturating_add(size_of::<StartInfo>() as u64);
    let memmap_at = modules_at.saturating_add(size_of::<Module>() as u64);
    let cmdline_at = memmap_at.saturating_add(memmap.as_bytes().len() as u64);
    let info = StartInfo {
        magic: MAGIC,
        version: 1,
        flags: FLAGS_DOM0,
        modules: u32::from(initrd.is_some()),
        modules_paddr: if initrd.is_some() { modules_at } else { 0 },
        cmdline_paddr: cmdline_at,
        rsdp_paddr: rsdp,
        memmap_paddr: memmap_at,
        memmap_entries: memmap.len() as u32,
        reserved: 0,
    };
    let empty = 0..0;
    let module = initrd.unwrap_or(&empty);
    let module =
        Module { paddr: module.start, size: module.end.saturating_sub(module.start), cmdline_paddr: 0, reserved: 0 };
    let mut bytes = Vec::with_capacity(size(cmdline.len()) as usize);
    for part in [info.as_bytes(), module.as_bytes(), memmap.as_bytes(), cmdline, &[0]] {
        bytes.extend_from_slice(part);
    }
    memory.write(MachineAddr(place.start), &bytes);
    true
}

/// The state of a vCPU at the PVH entry. General-purpose registers other than RBX are 0, interrupts are off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// Instruction pointer: the entry point.
    pub rip: u64,
    /// EBX: the physical address of the start information.
    pub rbx: u64,
    /// Only bit 1, which is always set.
    pub rflags: u64,
    /// Protection enabled, no paging.
    pub control: Control,
    /// CS: flat 32-bit code.
    pub cs: Segment,
    /// DS, ES and SS: flat 32-bit data.
    pub data: Segment,
    /// FS, GS and LDTR: not usable.
    pub unused: Segment,
    /// TR: a 32-bit task state segment, busy, with the least limit.
    pub tr: Segment,
}

/// The entry state that the PVH protocol prescribes.
#[must_use]
pub const fn entry_state(entry: u32, start_info: u64) -> EntryState {
    const fn segment(limit: u32, attributes: u16) -> Segment {
        Segment { selector: 0, attributes, limit, base: 0 }
    }
    EntryState {
        rip: entry as u64,
        rbx: start_info,
        rflags: rflags::FIXED,
        control: Control { cr0: cr0::PE | cr0::ET, cr2: 0, cr3: 0, cr4: 0, efer: 0 },
        cs: segment(u32::MAX, 0xc9b),
        data: segment(u32::MAX, 0xc93),
        unused: segment(0, 0),
        tr: segment(0x67, 0x8b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dom0::testing::SparseMemory;
    use alloc::vec;

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn everything_is_where_the_header_says() {
        let memory = SparseMemory::default();
        let cmdline = b"console=hvc0 quiet";
        let place = 0x7000_0100..0x7000_0100 + size(cmdline.len());
        let memmap = vec![
            MemmapEntry { addr: 0, size: 0x9_f000, kind: 1, reserved: 0 },
            MemmapEntry { addr: 0x10_0000, size: 1 << 30, kind: 1, reserved: 0 },
        ];
        assert!(write(&memory, &place, cmdline, Some(&(0x500_0000..0x600_0123)), 0x7fff_0000, &memmap));
        let info = memory.get(place.start, 56);
        assert_eq!([0, 4, 8, 12].map(|at| u32_at(&info, at)), [0x336e_c578, 1, 3, 1]);
        assert_eq!(u64_at(&info, 32), 0x7fff_0000);
        assert_eq!(u32_at(&info, 48), 2);
        let module = memory.get(u64_at(&info, 16), 32);
        assert_eq!([0, 8, 16, 24].map(|at| u64_at(&module, at)), [0x500_0000, 0x100_0123, 0, 0]);
        assert_eq!(memory.get(u64_at(&info, 24), cmdline.len() + 1), b"console=hvc0 quiet\0");
        let map = memory.get(u64_at(&info, 40), 48);
        assert_eq!((u64_at(&map, 24), u64_at(&map, 32), u32_at(&map, 40)), (0x10_0000, 1 << 30, 1));
    }

    #[test]
    fn devices_do_not_reach_guests_pages_unless_dom0_says_so() {
        assert_eq!(command_line("root=/dev/sda1  ro", "quiet"), "root=/dev/sda1  ro quiet swiotlb=force");
        assert_eq!(
            command_line("quiet", "init=/x -- swiotlb=noforce"),
            "quiet init=/x swiotlb=force -- swiotlb=noforce"
        );
        assert_eq!(command_line("swiotlb=noforce", "quiet"), "swiotlb=noforce quiet");
        assert_eq!(command_line("", ""), COPY);
    }

    #[test]
    fn the_entry_state_is_flat_32_bit_code_without_paging() {
        let state = entry_state(0x100_0850, 0x7000_0000);
        assert_eq!((state.rip, state.rbx, state.rflags), (0x100_0850, 0x7000_0000, 2));
        assert_eq!((state.control.cr0 & 0x8000_0001, state.control.efer), (1, 0));
        assert!(state.cs.is_32bit() && state.data.is_32bit() && !state.cs.is_long());
        assert_eq!((state.cs.dpl(), state.cs.limit, state.data.limit), (0, u32::MAX, u32::MAX));
    }

    #[test]
    fn without_initrd_there_is_no_module() {
        let memory = SparseMemory::default();
        assert!(write(&memory, &(0x1000..0x3000), b"", None, 0, &[]));
        let info = memory.get(0x1000, 56);
        assert_eq!((u32_at(&info, 12), u64_at(&info, 16)), (0, 0));
    }

    #[test]
    fn too_little_room_or_too_large_a_map_is_refused() {
        let memory = SparseMemory::default();
        let entry = MemmapEntry { addr: 0, size: 1, kind: 1, reserved: 0 };
        assert!(!write(&memory, &(0..size(4) - 1), b"abcd", None, 0, &[]));
        assert!(!write(&memory, &(0..1 << 20), b"", None, 0, &vec![entry; MAX_MEMMAP + 1]));
        assert!(write(&memory, &(0..size(4)), b"abcd", None, 0, &vec![entry; MAX_MEMMAP]));
    }
}
