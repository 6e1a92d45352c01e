//! From the linker's ELF64 to the image that boot loaders take, with the symbol table that backtraces use.
//!
//! QEMU's `-kernel` and GRUB's Multiboot loaders want a 32-bit ELF whose addresses are physical, so [`convert`] writes
//! one: the PT_LOAD segments at their load addresses, nothing else.
//!
//! # The `.symbols` section
//!
//! It is the last of the image, at `__symbols_start`; the linker puts a table without names there, which [`convert`]
//! replaces by one that is as long as it needs to be. All numbers are little-endian:
//!
//! | offset | what |
//! |---|---|
//! | 0 | magic `RSYM`, as the u32 0x4d595352 |
//! | 4 | bytes of the whole table, u32 |
//! | 8 | count, u32 |
//! | 12 | count × u32 address - 0xffffffff80000000, ascending |
//! | 12 + 4 count | the names in the same order: UTF-8, demangled, without hash; of each a byte that says how many bytes it shares with the beginning of the one before, then the others, then a NUL |
//!
//! Only functions are in it, their names cut at 255 bytes.

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
}

/// Makes the loadable image from the linker's output.
pub(crate) fn convert(elf: &[u8]) -> Result<Image> {
    let symbols = symbols(elf)?;
    let mut segments = segments(elf)?;
    fill_symbols(&symbols, &mut segments)?;
    let entry = FileHeader64::<LittleEndian>::parse(elf)?.e_entry.get(LittleEndian);
    let entry = if entry >= KERNEL_BASE { entry - KERNEL_BASE } else { entry };
    let file = write_elf32(u32::try_from(entry).context("the entry point is above 4 GiB")?, &segments)?;
    Ok(Image { file, symbols })
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
            content: without_zeros(content).to_vec(),
            memory_size: u32::try_from(part.p_memsz(endian))?,
            flags: part.p_flags(endian),
        });
    }
    ensure!(!segments.is_empty(), "the linker's output has no segments");
    segments.sort_by_key(|segment| segment.address);
    Ok(segments)
}

/// What of a segment a loader does not fill in by itself.
fn without_zeros(content: &[u8]) -> &[u8] {
    let end = content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    &content[..end]
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

/// Replaces the table at `__symbols_start`, if the image has one, by one of the functions among `symbols`.
fn fill_symbols(symbols: &[Symbol], segments: &mut [Segment]) -> Result<()> {
    let start = symbols.iter().find(|symbol| symbol.name == "__symbols_start").map(|symbol| symbol.address);
    let Some(start) = start else { return Ok(()) };
    let last = segments.last_mut().filter(|segment| segment.virtual_address == start);
    let segment = last.context("the section .symbols is not a segment of its own at the end of the image")?;

    let functions: BTreeMap<u32, &str> = symbols
        .iter()
        .filter(|symbol| symbol.is_function && symbol.address >= KERNEL_BASE)
        .filter_map(|symbol| Some((u32::try_from(symbol.address - KERNEL_BASE).ok()?, symbol.name.as_str())))
        .collect();
    let functions: Vec<(u32, &str)> = functions.into_iter().collect();
    segment.content = symbol_table(&functions);
    segment.memory_size = u32::try_from(segment.content.len().next_multiple_of(PAGE))?;
    Ok(())
}

/// The content of `.symbols` for functions sorted by address.
fn symbol_table(functions: &[(u32, &str)]) -> Vec<u8> {
    let addresses: Vec<u8> = functions.iter().flat_map(|(address, _)| address.to_le_bytes()).collect();
    let mut names = Vec::new();
    let mut before: &[u8] = &[];
    for (_, name) in functions {
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
        names.push(shared as u8);
        names.extend(&name[shared..]);
        names.push(0);
        before = name;
    }
    let size = (12 + addresses.len() + names.len()) as u32;
    let header = [SYMBOLS_MAGIC, size, functions.len() as u32].map(u32::to_le_bytes);
    [header.concat(), addresses, names].concat()
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
        assert_eq!(word(4) as usize, table.len());
        let count = word(8) as usize;
        let below = (0..count).take_while(|n| word(12 + 4 * n) <= address).count();
        let mut names = &table[12 + 4 * count..];
        let mut name = Vec::new();
        for _ in 0..below {
            name.truncate(usize::from(names[0]));
            let end = 1 + names[1..].iter().position(|byte| *byte == 0).unwrap();
            name.extend(&names[1..end]);
            names = &names[end + 1..];
        }
        (below > 0).then(|| String::from_utf8(name).unwrap())
    }

    #[test]
    fn the_table_finds_the_function_around_an_address() {
        let table = symbol_table(&[(0x1000, "first"), (0x2000, "core::second"), (0x2010, "core::sec")]);
        assert_eq!(lookup(&table, 0x0fff), None);
        assert_eq!(lookup(&table, 0x1000).as_deref(), Some("first"));
        assert_eq!(lookup(&table, 0x200f).as_deref(), Some("core::second"));
        assert_eq!(lookup(&table, 0xffff).as_deref(), Some("core::sec"));
    }

    #[test]
    fn long_names_are_cut() {
        let long = "x".repeat(300);
        let table = symbol_table(&[(1, &long), (2, &long)]);
        assert_eq!(lookup(&table, 2).unwrap(), long[..255]);
    }

    #[test]
    fn zeros_at_the_end_of_a_segment_are_not_stored() {
        assert_eq!(without_zeros(&[0, 1, 0, 2, 0, 0]), [0, 1, 0, 2]);
        assert!(without_zeros(&[0, 0]).is_empty());
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
        ];
        let mut parts =
            [segment(KERNEL_BASE + 0x20_0000, 0x20_0000, &[9; 16], 16), segment(base, 0x30_0000, &[0; 12], 12)];
        fill_symbols(&all, &mut parts).unwrap();
        assert_eq!(parts[0].content, [9; 16]);
        assert_eq!(lookup(&parts[1].content, 0x20_1234).as_deref(), Some("radon::main"));
        assert_eq!(parts[1].content[8..12], [1, 0, 0, 0]);
        assert_eq!(parts[1].memory_size, 0x1000);
    }

    #[test]
    fn a_table_that_is_not_at_the_end_of_the_image_is_refused() {
        let all = [Symbol { address: KERNEL_BASE, is_function: false, name: "__symbols_start".to_owned() }];
        assert!(fill_symbols(&all, &mut [segment(KERNEL_BASE, 0, &[], 16), segment(!0, 32, &[], 16)]).is_err());
    }
}
