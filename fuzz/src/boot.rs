//! What firmware, boot loader and administrator hand over: tables, information, kernel images, the command line.

use radon_core::options;
use radon_core::types::MachineAddr;
use radon_x86::acpi;
use radon_x86::boot_info::{self, BootInfo, multiboot1, multiboot2};
use radon_x86::dom0::image::{Image, Kernel, is_initial_file_system};

use crate::input::Input;

/// Where the input is in memory.
pub(crate) const BASE: u64 = 0xe_0000;

/// Memory that holds `data` from [`BASE`] on, and all ones elsewhere.
pub(crate) fn memory(data: &[u8]) -> impl Fn(MachineAddr, &mut [u8]) + '_ {
    |at, to| {
        for (n, byte) in to.iter_mut().enumerate() {
            let offset = at.0.wrapping_add(n as u64).wrapping_sub(BASE);
            *byte = usize::try_from(offset).ok().and_then(|offset| data.get(offset)).copied().unwrap_or(0xff);
        }
    }
}

/// The root pointer is where the input says, or the first to be found. Checksums are made right where the input asks for
/// it: no fuzzer guesses them.
pub(crate) fn acpi(data: &[u8]) {
    let bytes = repaired(data);
    let read = memory(&bytes);
    let root = acpi::root::parse_root_pointer(&bytes, None).or_else(|_| acpi::find_root_pointer(&read));
    if let Ok(root) = root
        && let Ok(tables) = acpi::read_tables(&read, root)
    {
        assert!(tables.tables.len() <= acpi::MAX_TABLES + 1);
        _ = format!("{tables:?}{:?}", tables.missing_part());
    }
}

/// The memory that the input describes, with checksums made right where it says.
pub(crate) fn repaired(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let repairs = usize::from(input.u8() % 16);
    let places: Vec<u16> = (0..repairs).map(|_| input.u16()).collect();
    let mut bytes = input.rest().to_vec();
    for place in places {
        repair(&mut bytes, usize::from(place));
    }
    bytes
}

/// Makes the sum of the table at `at` zero: the root pointer's, or that of a table with a header.
fn repair(bytes: &mut [u8], at: usize) {
    let rest = bytes.get_mut(at..).unwrap_or_default();
    let fix = |part: &mut [u8], place: usize| {
        if part.len() > place {
            part[place] = 0;
            part[place] = 0u8.wrapping_sub(part.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
        }
    };
    if rest.starts_with(b"RSD PTR ") && rest.len() >= 36 {
        fix(&mut rest[..20], 8);
        let length = u32::from_le_bytes([rest[20], rest[21], rest[22], rest[23]]) as usize;
        let length = length.min(rest.len());
        fix(&mut rest[..length], 32);
    } else if rest.len() >= acpi::HEADER {
        let length = (u32::from_le_bytes([rest[4], rest[5], rest[6], rest[7]]) as usize).min(rest.len());
        fix(&mut rest[..length], 9);
    }
}

pub(crate) fn boot_info(data: &[u8]) {
    let mut input = Input::new(data);
    let magic = input.one_of(&[multiboot1::MAGIC, multiboot2::MAGIC]);
    let rest = input.rest();
    let Ok(info) = boot_info::parse(&memory(rest), magic, MachineAddr(BASE)) else { return };
    check(&info);
    if let Ok(info) = info.with_efi_map(rest, 48) {
        check(&info);
    }
}

/// The promise of the memory map: sorted, nothing twice.
fn check(info: &BootInfo) {
    for pair in info.memory_map.windows(2) {
        assert!(pair[0].end().0 <= pair[1].start.0, "{pair:?}");
    }
    assert!(info.modules.len() <= boot_info::MAX_MODULES);
}

pub(crate) fn options(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = options::parse(&text);
    _ = format!("{parsed:?}");
}

/// Bytes of memory that an unpacked kernel gets here.
const SCRATCH: u64 = 4 << 20;

pub(crate) fn unpack(data: &[u8]) {
    _ = is_initial_file_system(data);
    let Ok(image) = Image::find(data) else { return };
    let size = image.scratch_size();
    // A size that is asked for is memory that the machine must have; here a little is enough.
    let mut scratch = vec![0; size.min(SCRATCH) as usize];
    if let Ok(elf) = image.unpack(&mut scratch, |_| 0) {
        _ = Kernel::parse(elf);
    }
}

pub(crate) fn kernel(data: &[u8]) {
    if let Ok(kernel) = Kernel::parse(data) {
        let range = kernel.load_range();
        assert!(range.start <= range.end);
        for segment in kernel.segments() {
            assert!(segment.range().start >= range.start && segment.range().end <= range.end, "{segment:?}");
        }
    }
}
