//! The linked image as instructions: which function calls which, from where in the source, with how large a frame.

use std::collections::BTreeMap;
use std::fs;

use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian, SectionId};
use anyhow::{Context as _, Result};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol, SymbolKind};

use crate::host;

/// Over bytes that stay in memory to the end: there is one image, and the tool runs for seconds.
type Reader = EndianSlice<'static, LittleEndian>;

/// The image.
pub(super) struct Image {
    /// The functions by address.
    pub(super) functions: BTreeMap<u64, Function>,
    lines: addr2line::Context<Reader>,
}

/// A function of the image.
pub(super) struct Function {
    /// Its name, without the compiler's hash.
    pub(super) name: String,
    /// Bytes of stack that it takes, its return address and saved registers included.
    pub(super) frame: u64,
    /// Calls and jumps to other functions: where from, where to.
    pub(super) calls: Vec<(u64, u64)>,
    /// Whether it calls through pointers.
    pub(super) indirect: bool,
}

/// A place in the source; of a chain of inlined functions, one.
pub(super) struct Frame {
    pub(super) function: String,
    /// The file, from the root of the checkout or with the crate's name in front.
    pub(super) file: String,
    pub(super) line: u32,
}

impl Image {
    /// Reads the image that was built last.
    pub(super) fn read() -> Result<Image> {
        let path = host::output().join("radon.elf");
        let bytes: &'static [u8] = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.leak();
        let elf = object::File::parse(bytes)?;
        let section = |id: SectionId| -> Result<Reader> {
            let data = elf.section_by_name(id.name()).map(|section| section.data()).transpose()?;
            Ok(Reader::new(data.unwrap_or_default(), LittleEndian))
        };
        let lines = addr2line::Context::from_dwarf(Dwarf::load(section)?)?;
        let text = elf.section_by_name(".text").context("the image has no .text")?;
        let (base, code) = (text.address(), text.data()?);
        let mut symbols: BTreeMap<u64, &str> = BTreeMap::new();
        for symbol in elf.symbols().filter(|symbol| symbol.kind() != SymbolKind::Section) {
            if symbol.section_index() == Some(text.index())
                && let Ok(name) = symbol.name()
                && !name.is_empty()
            {
                // Of several names for one address the mangled one says most.
                let known = symbols.entry(symbol.address()).or_insert(name);
                if name.starts_with('_') {
                    *known = name;
                }
            }
        }
        let mut ends: Vec<u64> = symbols.keys().copied().skip(1).collect();
        ends.push(base + code.len() as u64);
        let mut functions = BTreeMap::new();
        for ((&start, name), end) in symbols.iter().zip(ends) {
            let bytes = code.get((start - base) as usize..(end - base) as usize).unwrap_or_default();
            functions.insert(start, disassemble(plain(name), bytes, start));
        }
        Ok(Image { functions, lines })
    }

    /// The function at this address.
    pub(super) fn at(&self, address: u64) -> Option<&Function> {
        self.functions.get(&address)
    }

    /// Where in the source an instruction comes from: the innermost of the inlined functions first.
    pub(super) fn frames(&self, address: u64) -> Result<Vec<Frame>> {
        let mut found = Vec::new();
        let mut frames = self.lines.find_frames(address).skip_all_loads()?;
        while let Some(frame) = frames.next()? {
            let name = frame.function.as_ref().and_then(|name| Some(name.raw_name().ok()?.into_owned()));
            let place = frame.location.as_ref();
            found.push(Frame {
                function: plain(&name.unwrap_or_default()),
                file: short(place.and_then(|place| place.file).unwrap_or_default()),
                line: place.and_then(|place| place.line).unwrap_or_default(),
            });
        }
        Ok(found)
    }
}

/// A symbol's name as in the source, without the hash.
pub(super) fn plain(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// A file without what is before the checkout, the registry's crate or the standard library.
fn short(file: &str) -> String {
    let root = format!("{}/", host::root().display());
    if let Some(own) = file.strip_prefix("./").or_else(|| file.strip_prefix(&root)) {
        return own.to_owned();
    }
    if let Some((_, rest)) = file.split_once("/registry/src/") {
        return rest.split_once('/').map_or(rest, |(_, rest)| rest).to_owned();
    }
    // The library's `core` is not ours.
    file.split_once("/library/").map_or_else(|| file.to_owned(), |(_, rest)| format!("std/{rest}"))
}

fn disassemble(name: String, bytes: &[u8], start: u64) -> Function {
    let mut function = Function { name, frame: 8, calls: Vec::new(), indirect: false };
    let range = start..start + bytes.len() as u64;
    let (mut pushed, mut reserved, mut probed) = (0, 0, 0);
    let mut decoder = Decoder::with_ip(64, bytes, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let near = [OpKind::NearBranch64, OpKind::NearBranch32, OpKind::NearBranch16];
        if near.contains(&instruction.op0_kind()) {
            let target = instruction.near_branch_target();
            if !range.contains(&target) {
                function.calls.push((instruction.ip(), target));
            }
        } else if instruction.is_call_near_indirect() {
            function.indirect = true;
        }
        match instruction.mnemonic() {
            // Registers are saved in the prologue; a path that pushes again has popped before.
            Mnemonic::Push if reserved == 0 && instruction.code() == Code::Push_r64 => pushed += 8,
            Mnemonic::Pop => pushed = pushed.min(MOST_SAVED),
            Mnemonic::Sub if takes_stack(&instruction) => reserved += instruction.immediate(1),
            // Frames of many pages are touched in a loop down to `rsp - n`; smaller ones by one subtraction after another.
            Mnemonic::Lea
                if instruction.memory_base() == Register::RSP
                    && instruction.memory_displacement64() > i64::MAX as u64 =>
            {
                probed = instruction.memory_displacement64().wrapping_neg() - PAGE;
            }
            _ => {}
        }
    }
    function.frame += pushed.min(MOST_SAVED) + reserved + probed;
    function
}

/// What such a loop subtracts each time.
const PAGE: u64 = 4096;
/// The frame pointer and the five registers that a function must preserve.
const MOST_SAVED: u64 = 6 * 8;

fn takes_stack(instruction: &Instruction) -> bool {
    instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::RSP
        && matches!(instruction.code(), Code::Sub_rm64_imm8 | Code::Sub_rm64_imm32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_calls_are_read_from_instructions() {
        // push rbp; mov rbp, rsp; push rbx; sub rsp, 0x28; call +0x100; add rsp, 0x28; pop rbx; pop rbp; ret
        let bytes = [
            0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x28, 0xe8, 0xfb, 0, 0, 0, 0x48, 0x83, 0xc4, 0x28, 0x5b,
            0x5d, 0xc3,
        ];
        let function = disassemble("f".to_owned(), &bytes, 0x1000);
        assert_eq!(function.frame, 8 + 16 + 0x28);
        assert_eq!(function.calls, [(0x1009, 0x1109)]);
        assert!(!function.indirect);
        // lea r11, [rsp - 0x8000]; sub rsp, 0x1000; call [rax]
        let bytes = [0x4c, 0x8d, 0x9c, 0x24, 0, 0x80, 0xff, 0xff, 0x48, 0x81, 0xec, 0, 0x10, 0, 0, 0xff, 0x10];
        let function = disassemble("f".to_owned(), &bytes, 0x1000);
        assert_eq!(function.frame, 8 + 0x8000);
        assert!(function.indirect);
    }

    #[test]
    fn names_and_files_are_short() {
        assert_eq!(plain("_ZN4core9panicking5panic17h0123456789abcdefE"), "core::panicking::panic");
        assert_eq!(short("/x/registry/src/index-1/spin-0.10.1/src/once.rs"), "spin-0.10.1/src/once.rs");
        assert_eq!(short("/rustc/0/library/core/src/option.rs"), "std/core/src/option.rs");
        assert_eq!(short("./core/src/lib.rs"), "core/src/lib.rs");
        assert_eq!(short(&format!("{}/hal/src/lib.rs", host::root().display())), "hal/src/lib.rs");
    }
}
