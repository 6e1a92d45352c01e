//! Where things are: the virtual address space of the hypervisor and the symbols of the linker script.
//!
//! | from | size | what |
//! |---|---|---|
//! | `0xffff_8000_0000_0000` | 64 TiB | [`DIRECT_MAP`]: RAM (write-back, no-execute); device registers (uncached) on demand |
//! | `0xffff_e000_0000_0000` | 256 GiB | [`FRAME_TABLE`]: what core keeps about each frame of the direct map |
//! | `0xffff_ff00_0000_0000` | 512 GiB | [`STACKS`]: stacks, each above an unmapped guard page |
//! | `0xffff_ffff_8000_0000` | 2 GiB | [`KERNEL_BASE`]: the image |
//!
//! The image is linked for a load address of 2 MiB. A boot loader may load it higher by a multiple of 2 MiB; its virtual
//! addresses stay the same.
// Unsafe: the linker's symbols are foreign statics.
#![allow(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use radon_core::types::{MachineAddr, PAGE_SIZE};

/// Start of the map of all RAM.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// Bytes of machine address space that the direct map can cover.
pub const DIRECT_MAP_SIZE: u64 = 64 << 40;
/// Start of the table of frames.
pub const FRAME_TABLE: u64 = 0xffff_e000_0000_0000;
/// Start of the region of stacks.
pub const STACKS: u64 = 0xffff_ff00_0000_0000;
/// What the image's virtual addresses exceed the load addresses by that it is linked for.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// Bytes of a CPU's ordinary stack.
pub const STACK_SIZE: u64 = 64 << 10;
/// Bytes of each of a CPU's stacks for NMI, double fault and machine check.
pub const IST_STACK_SIZE: u64 = 16 << 10;

/// How much higher than linked the image is loaded.
static LOAD_OFFSET: AtomicU64 = AtomicU64::new(0);

/// Notes how much higher than linked the image is loaded. To be called once, first of all.
pub(crate) fn set_load_offset(offset: u64) {
    LOAD_OFFSET.store(offset, Ordering::Relaxed);
}

fn loaded(linked: u64) -> u64 {
    linked + LOAD_OFFSET.load(Ordering::Relaxed)
}

/// The machine address of something in the image.
#[must_use]
pub fn machine_address(virt: u64) -> MachineAddr {
    MachineAddr(loaded(virt - KERNEL_BASE))
}

unsafe extern "C" {
    static __image_phys_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
    static __symbols_start: [u32; 2];
    static __build_id_start: u8;
    static __build_id_end: u8;
    static __boot_stack_guard: u8;
    static __boot_stack_bottom: u8;
    static __boot_stack_top: u8;
    static boot_pml4: u8;
    static boot_efi_map: u8;
    static boot_efi_map_size: u8;
    static boot_efi_descriptor_size: u8;
}

macro_rules! range_of {
    ($(#[$doc:meta])* $name:ident, $start:ident, $end:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name() -> Range<u64> {
            (&raw const $start) as u64..(&raw const $end) as u64
        }
    };
}

/// Machine addresses of the whole image as loaded, .bss and stacks included.
#[must_use]
pub fn image_phys() -> Range<u64> {
    loaded((&raw const __image_phys_start) as u64)..machine_address(symbols().end).0
}

range_of!(/// Code.
    text, __text_start, __text_end);
range_of!(/// Constants.
    rodata, __rodata_start, __rodata_end);
range_of!(/// Variables and the boot CPU's stack.
    data, __data_start, __data_end);
range_of!(/// The boot CPU's stack, without its guard page.
    boot_stack, __boot_stack_bottom, __boot_stack_top);
range_of!(/// The ELF note with the build id.
    build_id_note, __build_id_start, __build_id_end);

/// Names for backtraces, in whole pages: the end of the image.
#[must_use]
pub fn symbols() -> Range<u64> {
    // SAFETY: the linker script places the table there, read-only and for ever; its second word is its size.
    let (start, size) = unsafe { ((&raw const __symbols_start) as u64, __symbols_start[1]) };
    start..(start + u64::from(size)).next_multiple_of(PAGE_SIZE)
}

/// The page below the boot CPU's stack that is never mapped.
#[must_use]
pub fn boot_stack_guard() -> u64 {
    (&raw const __boot_stack_guard) as u64
}

/// Machine address of the page tables of the start (identity and high mappings of the first 4 GiB).
#[must_use]
pub fn boot_page_tables() -> u64 {
    loaded((&raw const boot_pml4) as u64)
}

/// The EFI memory map that the start-up code took when it ended boot services, as machine addresses: of the map, of its
/// size in bytes and of the size of its entries (both 64-bit numbers; 0 if it did not end boot services).
#[must_use]
pub(crate) fn efi_memory_map() -> [MachineAddr; 3] {
    let places = [&raw const boot_efi_map, &raw const boot_efi_map_size, &raw const boot_efi_descriptor_size];
    places.map(|p| MachineAddr(loaded(p as u64)))
}

/// The image's build id: SHA-1 of its contents, made by the linker. Empty if there is none.
#[must_use]
pub fn build_id() -> &'static [u8] {
    let note = build_id_note();
    // SAFETY: the linker script places the whole section between the two symbols in read-only data that lives for ever.
    let note = unsafe { core::slice::from_raw_parts(note.start as *const u8, (note.end - note.start) as usize) };
    // ELF note: name size, description size, type, name ("GNU\0"), description.
    let size = note.get(4..8).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes) as usize;
    note.get(16..).and_then(|d| d.get(..size)).unwrap_or(&[])
}
