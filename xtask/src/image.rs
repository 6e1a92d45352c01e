//! From the linker's ELF64 to the image that boot loaders take, with the symbol table that backtraces use.
//!
//! QEMU's `-kernel` and GRUB's Multiboot loaders want a 32-bit ELF whose addresses are physical, so [`convert`] writes
//! one: the PT_LOAD segments at their load addresses, nothing else.
//!
//! # The `.symbols` section
//!
//! The linker script reserves it between `__symbols_start` and `__symbols_end`; [`convert`] fills it. All numbers are
//! little-endian:
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `RSYM`, as the u32 0x4d595352 |
//! | 4 | count, u32 |
//! | 8 | count × { u32 address - 0xffffffff80000000, u32 offset of the name in the names below }, by address |
//! | 8 + 8 count | the names: UTF-8, demangled, without hash, each ended by a NUL |
//!
//! Only functions are in it. The table is cut off at the end of the section, last names first; a section of zeros is
//! an image that xtask never touched.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use object::elf::{FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, Object, ObjectSymbol, SymbolKind};

/// What the virtual addresses of the image exceed its load addresses by.
const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
const SYMBOLS_MAGIC: u32 = u32::from_le_bytes(*b"RSYM");
/// Of the ELF32 header and of one of its program headers, in bytes.
const HEADER_SIZE: usize = 52;
const PROGRAM_HEADER_SIZE: usize = 32;
const PAGE: usize = 4096;
/// Nothing of the image is in the first MiB.
const LOWEST_ADDRESS: u64 = 1 << 20;

/// A name and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Symbol {
    /// Virtual address.
    pub address: u64,
    /// Whether it is code (and not data).
    pub is_function: bool,
    /// Demangled, without hash.
    pub name: String,
}

/// A part of the image, with physical addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    virtual_address: u64,
    address: u32,
    content: Vec<u8>,
    memory_size: u32,
    /// The ELF permission bits.
    flags: u32,
}

/// The loadable image and what it was made of.
pub(crate) struct Image {
    /// The bytes of the ELF32 file.
    pub file: Vec<u8>,
    /// All symbols by address.
    pub symbols: Vec<Symbol>,
    /// Functions that the `.symbols` section had no room for.
    pub symbols_cut: usize,
}

/// Makes the loadable image from the linker's output.
pub(crate) fn convert(elf: &[u8]) -> Result<Image> {
    let symbols = symbols(elf)?;
    let mut segments = segments(elf)?;
    let symbols_cut = fill_symbols(&symbols, &mut segments)?;
    let entry = FileHeader64::<LittleEndian>::parse(elf)?.e_entry.get(LittleEndian);
    let entry = if entry >= KERNEL_BASE { entry - KERNEL_BASE } else { entry };
    let file = write_elf32(u32::try_from(entry).context("the entry point is above 4 GiB")?, &segments)?;
    Ok(Image { file, symbols, symbols_cut })
}

fn segments(elf: &[u8]) -> Result<Vec<Segment>> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(elf)?;
    let mut segments = Vec::new();
    for part in header.program_headers(endian, elf)? {
        if part.p_type(endian) != PT_LOAD || part.p_memsz(endian) == 0 {
            continue;
        }
        let Ok(content) = part.data(endian, elf) else { bail!("a segment lies outside of the file") };
        let end = part.p_paddr(endian).checked_add(part.p_memsz(endian));
        ensure!(end.is_some_and(|end| end <= 1 << 32), "a segment is loaded above 4 GiB");
        segments.push(Segment {
            virtual_address: part.p_vaddr(endian),
            address: u32::try_from(part.p_paddr(endian))?,
            content: content.to_vec(),
            memory_size: u32::try_from(part.p_memsz(endian))?,
            flags: part.p_flags(endian),
        });
    }
    ensure!(!segments.is_empty(), "the linker's output has no segments");
    segments.sort_by_key(|segment| segment.address);
    Ok(segments)
}

fn symbols(elf: &[u8]) -> Result<Vec<Symbol>> {
    let file = object::File::parse(elf)?;
    let mut symbols = Vec::new();
    for symbol in file.symbols() {
        let name = symbol.name()?;
        let kind = symbol.kind();
        let wanted = matches!(kind, SymbolKind::Text | SymbolKind::Data | SymbolKind::Label | SymbolKind::Unknown);
        // Lower values are constants of the assembler, no addresses.
        if !wanted || name.is_empty() || symbol.address() < LOWEST_ADDRESS {
            continue;
        }
        symbols.push(Symbol {
            address: symbol.address(),
            is_function: kind == SymbolKind::Text,
            name: format!("{:#}", rustc_demangle::demangle(name)),
        });
    }
    symbols.sort();
    Ok(symbols)
}

/// Puts the functions among `symbols` into the reserved section, if the image has one. Returns how many are left out.
fn fill_symbols(symbols: &[Symbol], segments: &mut [Segment]) -> Result<usize> {
    let find = |name: &str| symbols.iter().find(|symbol| symbol.name == name).map(|symbol| symbol.address);
    let (Some(start), Some(end)) = (find("__symbols_start"), find("__symbols_end")) else { return Ok(0) };
    let capacity = usize::try_from(end.checked_sub(start).context("__symbols_end is before __symbols_start")?)?;
    let holds = |segment: &&mut Segment| {
        let offset = start.checked_sub(segment.virtual_address);
        offset.is_some_and(|offset| offset + capacity as u64 <= u64::from(segment.memory_size))
    };
    let segment = segments.iter_mut().find(holds).context("no segment holds the section .symbols")?;
    let offset = usize::try_from(start - segment.virtual_address)?;

    let functions: BTreeMap<u32, &str> = symbols
        .iter()
        .filter(|symbol| symbol.is_function && symbol.address >= KERNEL_BASE)
        .filter_map(|symbol| Some((u32::try_from(symbol.address - KERNEL_BASE).ok()?, symbol.name.as_str())))
        .collect();
    let functions: Vec<(u32, &str)> = functions.into_iter().collect();
    let (table, cut) = symbol_table(&functions, capacity);
    if segment.content.len() < offset + table.len() {
        segment.content.resize(offset + table.len(), 0);
    }
    segment.content[offset..][..table.len()].copy_from_slice(&table);
    Ok(cut)
}

/// The content of `.symbols` for functions sorted by address, in at most `capacity` bytes, and the number left out.
fn symbol_table(functions: &[(u32, &str)], capacity: usize) -> (Vec<u8>, usize) {
    let mut size = 8;
    let mut count = 0;
    for (_, name) in functions {
        size += 8 + name.len() + 1;
        if size > capacity {
            break;
        }
        count += 1;
    }
    if capacity < 8 {
        return (Vec::new(), functions.len());
    }
    let kept = &functions[..count];
    let mut table = Vec::new();
    let mut names = Vec::new();
    table.extend(SYMBOLS_MAGIC.to_le_bytes());
    table.extend((count as u32).to_le_bytes());
    for (address, name) in kept {
        table.extend(address.to_le_bytes());
        table.extend((names.len() as u32).to_le_bytes());
        names.extend(name.as_bytes());
        names.push(0);
    }
    table.extend(names);
    (table, functions.len() - count)
}

/// An ELF32 executable of these segments. The first starts on the file's second page, well within what the
/// Multiboot specifications let a loader search for its header (8 KiB and 32 KiB).
fn write_elf32(entry: u32, segments: &[Segment]) -> Result<Vec<u8>> {
    let headers = HEADER_SIZE + PROGRAM_HEADER_SIZE * segments.len();
    ensure!(headers <= PAGE, "too many segments");
    let mut file = Vec::new();
    // Identification: class 32 bits, little-endian, version 1, no particular ABI.
    file.extend(b"\x7fELF\x01\x01\x01");
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, value: u16| file.extend(value.to_le_bytes());
    let word = |file: &mut Vec<u8>, value: u32| file.extend(value.to_le_bytes());
    half(&mut file, object::elf::ET_EXEC);
    half(&mut file, object::elf::EM_386);
    word(&mut file, 1);
    word(&mut file, entry);
    word(&mut file, HEADER_SIZE as u32);
    word(&mut file, 0); // no sections
    word(&mut file, 0); // no flags
    half(&mut file, HEADER_SIZE as u16);
    half(&mut file, PROGRAM_HEADER_SIZE as u16);
    half(&mut file, u16::try_from(segments.len())?);
    for _ in 0..3 {
        half(&mut file, 0); // size, number and names of sections
    }
    let mut offset = PAGE;
    for segment in segments {
        word(&mut file, PT_LOAD);
        word(&mut file, u32::try_from(offset)?);
        word(&mut file, segment.address);
        word(&mut file, segment.address);
        word(&mut file, u32::try_from(segment.content.len())?);
        word(&mut file, segment.memory_size);
        word(&mut file, segment.flags);
        word(&mut file, PAGE as u32);
        offset += segment.content.len().next_multiple_of(PAGE);
    }
    for segment in segments {
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file.extend(&segment.content);
    }
    Ok(file)
}

/// The text of the symbol file: `address type name` per line, by address; the type is `t` for code and `d` for data.
pub(crate) fn symbol_file(symbols: &[Symbol]) -> String {
    let kind = |symbol: &Symbol| if symbol.is_function { 't' } else { 'd' };
    symbols.iter().map(|symbol| format!("{:016x} {} {}\n", symbol.address, kind(symbol), symbol.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::elf::FileHeader32;

    fn segment(virtual_address: u64, address: u32, content: &[u8], memory_size: u32) -> Segment {
        Segment { virtual_address, address, content: content.to_vec(), memory_size, flags: 5 }
    }

    #[test]
    fn written_elf_reads_back() {
        let parts = [segment(0x20_0000, 0x20_0000, &[1; 5000], 5000), segment(0x40_0000, 0x40_0000, &[2; 3], 0x10000)];
        let file = write_elf32(0x20_0010, &parts).unwrap();
        let header = FileHeader32::<LittleEndian>::parse(file.as_slice()).unwrap();
        assert_eq!(header.e_entry.get(LittleEndian), 0x20_0010);
        assert_eq!(header.e_machine.get(LittleEndian), object::elf::EM_386);
        let found = header.program_headers(LittleEndian, file.as_slice()).unwrap();
        assert_eq!(found.len(), 2);
        for (found, part) in found.iter().zip(&parts) {
            assert_eq!(found.data(LittleEndian, file.as_slice()).unwrap(), part.content);
            assert_eq!(found.p_paddr.get(LittleEndian), part.address);
            assert_eq!(found.p_vaddr.get(LittleEndian), part.address);
            assert_eq!(found.p_memsz.get(LittleEndian), part.memory_size);
            assert_eq!(found.p_offset.get(LittleEndian) % 4096, 0);
        }
    }

    /// What the hypervisor does with the table.
    fn lookup(table: &[u8], address: u32) -> Option<String> {
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), SYMBOLS_MAGIC);
        let entries = (0..word(4) as usize).map(|n| (word(8 + 8 * n), word(12 + 8 * n) as usize));
        let (_, name) = entries.take_while(|(start, _)| *start <= address).last()?;
        let bytes = table[8 + 8 * word(4) as usize + name..].iter().take_while(|byte| **byte != 0);
        Some(String::from_utf8(bytes.copied().collect()).unwrap())
    }

    #[test]
    fn the_table_finds_the_function_around_an_address() {
        let functions = [(0x1000, "first"), (0x2000, "core::second"), (0x2010, "third")];
        let (table, cut) = symbol_table(&functions, 4096);
        assert_eq!(cut, 0);
        assert_eq!(lookup(&table, 0x0fff), None);
        assert_eq!(lookup(&table, 0x1000).as_deref(), Some("first"));
        assert_eq!(lookup(&table, 0x200f).as_deref(), Some("core::second"));
        assert_eq!(lookup(&table, 0xffff).as_deref(), Some("third"));
    }

    #[test]
    fn a_table_without_room_is_cut_at_a_whole_entry() {
        let functions = [(1, "a"), (2, "b"), (3, "c")];
        let whole = symbol_table(&functions, 4096).0.len();
        for capacity in 0..whole + 2 {
            let (table, cut) = symbol_table(&functions, capacity);
            assert!(table.len() <= capacity);
            let room = capacity.saturating_sub(8) / 10;
            assert_eq!(cut, 3 - room.min(3), "capacity {capacity}");
            assert_eq!(lookup_safe(&table, cut), 3 - cut);
        }
    }

    fn lookup_safe(table: &[u8], cut: usize) -> usize {
        if table.is_empty() { 3 - cut } else { u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize }
    }

    #[test]
    fn symbols_go_where_the_linker_script_says() {
        let symbol = |address, is_function, name: &str| Symbol { address, is_function, name: name.to_owned() };
        let base = KERNEL_BASE + 0x30_0000;
        let all = [
            symbol(0x20_0000, true, "start32"),
            symbol(KERNEL_BASE + 0x20_1000, true, "radon::main"),
            symbol(KERNEL_BASE + 0x20_2000, false, "radon::DATA"),
            symbol(base, false, "__symbols_start"),
            symbol(base + 0x1000, false, "__symbols_end"),
        ];
        let mut parts =
            [segment(KERNEL_BASE + 0x20_0000, 0x20_0000, &[9; 16], 16), segment(base, 0x30_0000, &[], 0x1000)];
        assert_eq!(fill_symbols(&all, &mut parts).unwrap(), 0);
        assert_eq!(parts[0].content, [9; 16]);
        assert_eq!(lookup(&parts[1].content, 0x20_1234).as_deref(), Some("radon::main"));
        assert_eq!(parts[1].content[4..8], [1, 0, 0, 0]);
    }

    #[test]
    fn an_image_with_a_section_outside_of_its_segments_is_refused() {
        let symbol = |address, name: &str| Symbol { address, is_function: false, name: name.to_owned() };
        let all = [symbol(KERNEL_BASE, "__symbols_start"), symbol(KERNEL_BASE + 32, "__symbols_end")];
        assert!(fill_symbols(&all, &mut [segment(KERNEL_BASE, 0, &[], 16)]).is_err());
    }
}
