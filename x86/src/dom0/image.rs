//! The dom0 kernel's image: a Linux bzImage or a plain ELF file, checked and made ready for its PVH entry.
//!
//! [`Image::find`] tells what a boot module is, [`Image::unpack`] turns it into an ELF file (in a scratch buffer, unless
//! it is one already), [`Kernel::parse`] checks the ELF file and [`Kernel::load`] copies its segments to where they
//! belong. Every input is possible; each that cannot be booted gets an [`ImageError`] that says what to do about it.
//!
//! Sources: Linux's boot protocol (Documentation/x86/boot.rst), the ELF-64 object file format, Xen's public header
//! elfnote.h.

use super::unpack::crc32::Crc32;
use super::unpack::{self, Compression, UnpackError};
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::Range;
use radon_core::platform::PhysMemory;
use radon_core::types::{MachineAddr, PAGE_SIZE};

/// Where images without low memory of their own may begin: 1 MiB.
const LOWEST: u64 = 1 << 20;
/// Above every machine address (52 bits).
const HIGHEST: u64 = 1 << 52;
/// The note that names the 32-bit physical entry point, XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u32 = 18;
/// More segments than any kernel has.
const MAX_SEGMENTS: usize = 16;
/// Bytes that unpacking may write behind the result.
const SLACK: u64 = 64;

/// Why a module cannot be booted as dom0's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// Neither a bzImage nor an ELF file.
    NotAKernel {
        /// The first four bytes of the module.
        magic: [u8; 4],
    },
    /// A bzImage whose boot protocol is older than 2.08, which introduced the payload fields.
    OldProtocol {
        /// The protocol version, major in the high byte.
        version: u16,
    },
    /// The module ends before something that its headers announce.
    Truncated {
        /// What is not there.
        what: &'static str,
        /// The offset in the module at which it should end.
        needs: u64,
        /// The length of the module.
        has: u64,
    },
    /// The payload is packed in a way that is not known at all.
    UnknownCompression {
        /// The first four bytes of the payload.
        magic: [u8; 4],
    },
    /// The payload is packed in a known way that cannot be unpacked here.
    UnsupportedCompression(Compression),
    /// The payload cannot be unpacked.
    Unpack(Compression, UnpackError),
    /// The payload unpacks to another size than it states.
    WrongSize {
        /// The size stated, in bytes.
        stated: u64,
        /// The size found, in bytes.
        found: u64,
    },
    /// The scratch buffer is too small: an error of the caller.
    ScratchTooSmall {
        /// Bytes needed.
        needs: u64,
    },
    /// An ELF file, but not an x86 executable.
    NotX86Executable {
        /// The ELF machine number.
        machine: u16,
        /// The ELF file type.
        kind: u16,
    },
    /// The ELF file contradicts itself.
    BadElf(&'static str),
    /// A segment cannot be where the file wants it.
    BadSegment {
        /// Its index in the program header table.
        index: u16,
        /// Its physical address.
        paddr: u64,
        /// Its size in memory.
        size: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// No PVH entry point.
    NoPvhEntry,
    /// The PVH entry point is not in any segment.
    EntryOutside {
        /// The entry point.
        entry: u64,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ImageError::*;
        f.write_str("dom0 kernel: ")?;
        match self {
            NotAKernel { magic } => write!(
                f,
                "the first module is neither a bzImage nor an ELF file (it begins with {magic:02x?}); give the \
                 distribution's vmlinuz as the first module"
            ),
            OldProtocol { version } => write!(
                f,
                "boot protocol {}.{:02} is too old; a bzImage with protocol 2.08 (Linux 2.6.26) or newer is needed",
                version >> 8,
                version & 0xff
            ),
            Truncated { what, needs, has } => write!(
                f,
                "the file ends too early: {what} goes up to byte {needs:#x}, but the module has {has:#x} bytes; copy the \
                 kernel again"
            ),
            UnknownCompression { magic } => write!(
                f,
                "the payload is packed in an unknown way (it begins with {magic:02x?}); kernels packed with gzip, xz, \
                 zstd or lz4 can be booted"
            ),
            UnsupportedCompression(compression) => {
                write!(f, "the payload is packed with {compression}; use a kernel packed with gzip, xz, zstd or lz4")
            }
            Unpack(compression, UnpackError::Unsupported(why)) => {
                write!(f, "{compression} payload: {why}; use a kernel packed as Linux's build does it")
            }
            Unpack(compression, why) => write!(f, "{compression} payload: {why}; copy the kernel again"),
            WrongSize { stated, found } => write!(
                f,
                "the payload unpacks to {found:#x} bytes, but states {stated:#x}; the file is damaged, copy it again"
            ),
            ScratchTooSmall { needs } => write!(f, "unpacking needs {needs:#x} bytes of memory; more were not given"),
            NotX86Executable { machine, kind } => write!(
                f,
                "the ELF file (machine {machine}, type {kind}) is not an x86 executable; give a kernel for x86-64"
            ),
            BadElf(what) => write!(f, "the ELF file is damaged: {what}; copy the kernel again"),
            BadSegment { index, paddr, size, problem } => {
                write!(f, "segment {index} at physical address {paddr:#x}, {size:#x} bytes, {problem}")
            }
            NoPvhEntry => f.write_str(
                "there is no PVH entry point (no Xen note of type 18); use a kernel built with CONFIG_PVH or \
                 CONFIG_XEN_PVH, as distributions' kernels are",
            ),
            EntryOutside { entry } => {
                write!(f, "the PVH entry point {entry:#x} is outside of all segments; the file is damaged")
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// Whether a module begins as an initial file system for Linux does: a cpio archive, or packed data of the kinds that
/// Linux can unpack. What is inside is Linux's business; this finds swapped and mangled modules.
#[must_use]
pub fn is_initial_file_system(module: &[u8]) -> bool {
    let archive = module.starts_with(b"070701") || module.starts_with(b"070702");
    archive || Compression::detect(module).is_some_and(|c| c != Compression::None)
}

/// A module that looks like a kernel: its ELF file, perhaps packed.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    compression: Compression,
    payload: &'a [u8],
    size: u64,
}

impl<'a> Image<'a> {
    /// Finds the kernel in a boot module.
    ///
    /// # Errors
    /// The header-level ones of [`ImageError`]: not a kernel, too old, truncated, unknown compression.
    pub fn find(module: &'a [u8]) -> Result<Image<'a>, ImageError> {
        let first = |bytes: &[u8]| bytes.first_chunk::<4>().copied().unwrap_or_default();
        if Compression::detect(module) == Some(Compression::None) {
            return Ok(Image { compression: Compression::None, payload: module, size: module.len() as u64 });
        }
        if field16(module, 0x1fe) != Some(0xaa55) || module.get(0x202..0x206) != Some(b"HdrS") {
            return Err(ImageError::NotAKernel { magic: first(module) });
        }
        let has = module.len() as u64;
        let truncated = |what, needs| ImageError::Truncated { what, needs, has };
        let version = field16(module, 0x206).ok_or(truncated("the setup header", 0x250))?;
        if version < 0x208 {
            return Err(ImageError::OldProtocol { version });
        }
        let setup_sectors = match module.get(0x1f1).copied().unwrap_or(0) {
            0 => 4,
            n => u64::from(n),
        };
        let offset = field32(module, 0x248).ok_or(truncated("the setup header", 0x250))?;
        let length = field32(module, 0x24c).ok_or(truncated("the setup header", 0x250))?;
        let start = setup_sectors.saturating_add(1).saturating_mul(512).saturating_add(u64::from(offset));
        let end = start.saturating_add(u64::from(length));
        let payload = slice(module, start, u64::from(length)).ok_or(truncated("the payload", end))?;
        let (packed, stated) = payload.split_last_chunk::<4>().ok_or(truncated("the payload", end))?;
        let compression =
            Compression::detect(payload).ok_or(ImageError::UnknownCompression { magic: first(payload) })?;
        if !compression.is_supported() {
            return Err(ImageError::UnsupportedCompression(compression));
        }
        Ok(match compression {
            Compression::None => Image { compression, payload, size: payload.len() as u64 },
            // gzip's own trailer states the size; for the others, Linux's build appends it.
            Compression::Gzip => Image { compression, payload, size: u64::from(u32::from_le_bytes(*stated)) },
            _ => Image { compression, payload: packed, size: u64::from(u32::from_le_bytes(*stated)) },
        })
    }

    /// How the kernel is packed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Bytes of scratch memory that [`Image::unpack`] needs: 0 if there is nothing to unpack. At most 4 GiB and a bit;
    /// hostile images state what they like, so failing to find the memory is to be expected.
    #[must_use]
    pub fn scratch_size(&self) -> u64 {
        match self.compression {
            Compression::None => 0,
            _ => self.size.saturating_add(SLACK),
        }
    }

    /// Unpacks the kernel into `scratch` and returns the ELF file; `crc32` checks it.
    ///
    /// # Errors
    /// [`ImageError::ScratchTooSmall`], [`ImageError::Unpack`] or [`ImageError::WrongSize`].
    pub fn unpack<'b>(&self, scratch: &'b mut [u8], crc32: Crc32) -> Result<&'b [u8], ImageError>
    where
        'a: 'b,
    {
        if self.compression == Compression::None {
            return Ok(self.payload);
        }
        let needs = self.scratch_size();
        let room = usize::try_from(needs).ok().and_then(|n| scratch.get_mut(..n));
        let room = room.ok_or(ImageError::ScratchTooSmall { needs })?;
        let found = unpack::unpack(self.compression, self.payload, room, crc32)
            .map_err(|e| ImageError::Unpack(self.compression, e))?;
        if found as u64 != self.size {
            return Err(ImageError::WrongSize { stated: self.size, found: found as u64 });
        }
        scratch.get(..found).ok_or(ImageError::ScratchTooSmall { needs })
    }
}

/// One loadable segment of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its bytes in the ELF file; they may be fewer than `size`.
    file_offset: u64,
    file_size: u64,
    /// Physical address at which it must be.
    pub paddr: u64,
    /// Size in memory; the end that the file does not provide is zero.
    pub size: u64,
}

impl Segment {
    /// The physical addresses that the segment takes.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.paddr..self.paddr.saturating_add(self.size)
    }
}

/// A kernel whose ELF file was checked.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The PVH entry point: a physical address, entered in 32-bit protected mode without paging.
    pub entry: u32,
    segments: ArrayVec<Segment, MAX_SEGMENTS>,
}

impl Kernel {
    /// Checks an ELF file, which must be an x86 executable with a PVH entry point.
    ///
    /// # Errors
    /// The ELF-level ones of [`ImageError`].
    pub fn parse(elf: &[u8]) -> Result<Kernel, ImageError> {
        let file = ElfFile::open(elf)?;
        let mut segments: ArrayVec<Segment, MAX_SEGMENTS> = ArrayVec::new();
        let mut entry = None;
        for index in 0..file.segment_count {
            let header = file.segment(index)?;
            match header.kind {
                ProgramHeader::LOAD if header.memory_size != 0 => {
                    let segment = header.check(index, elf.len() as u64)?;
                    let bad =
                        |problem| ImageError::BadSegment { index, paddr: segment.paddr, size: segment.size, problem };
                    let (new, overlaps) =
                        (segment.range(), |s: &Segment| s.paddr < segment.range().end && segment.paddr < s.range().end);
                    if segments.iter().any(overlaps) {
                        return Err(bad("overlaps another segment"));
                    }
                    if new.start < LOWEST {
                        return Err(bad("begins below 1 MiB, where firmware data is"));
                    }
                    segments.try_push(segment).map_err(|_| bad("is one segment too many"))?;
                }
                ProgramHeader::NOTE if entry.is_none() => {
                    entry = slice(elf, header.offset, header.file_size).and_then(|n| phys32_entry(n, header.align));
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(ImageError::BadElf("it has no loadable segment"));
        }
        let entry = entry.or_else(|| file.entry_from_sections()).ok_or(ImageError::NoPvhEntry)?;
        let entry_32 = u32::try_from(entry).map_err(|_| ImageError::EntryOutside { entry })?;
        if !segments.iter().any(|s| s.range().contains(&entry)) {
            return Err(ImageError::EntryOutside { entry });
        }
        Ok(Kernel { entry: entry_32, segments })
    }

    /// The segments, in the order of the file.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// From the lowest to the highest physical address of all segments; whole frames.
    #[must_use]
    pub fn load_range(&self) -> Range<u64> {
        let start = self.segments.iter().map(|s| s.paddr).min().unwrap_or(0);
        let end = self.segments.iter().map(|s| s.range().end).max().unwrap_or(0);
        start & !(PAGE_SIZE - 1)..end.next_multiple_of(PAGE_SIZE)
    }

    /// Copies all segments to their machine addresses, which must be dom0's memory (dom0's physical addresses are
    /// machine addresses). `elf` is the file that was parsed.
    pub fn load(&self, elf: &[u8], memory: &dyn PhysMemory) {
        for segment in &self.segments {
            let bytes = slice(elf, segment.file_offset, segment.file_size).unwrap_or_default();
            memory.write(MachineAddr(segment.paddr), bytes);
            zero(memory, segment.paddr.saturating_add(segment.file_size)..segment.range().end);
        }
    }
}

/// Fills a range of machine memory with zeros.
fn zero(memory: &dyn PhysMemory, mut range: Range<u64>) {
    const ZEROS: [u8; PAGE_SIZE as usize] = [0; PAGE_SIZE as usize];
    while !range.is_empty() {
        let at = MachineAddr(range.start);
        let len = range.end.saturating_sub(range.start).min(PAGE_SIZE.saturating_sub(at.offset()));
        if len == PAGE_SIZE {
            memory.zero_frame(at.mfn());
        } else {
            memory.write(at, ZEROS.get(..len as usize).unwrap_or_default());
        }
        range.start = range.start.saturating_add(len);
    }
}

/// The fields of a program header that matter.
struct ProgramHeader {
    kind: u32,
    offset: u64,
    paddr: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

impl ProgramHeader {
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;

    fn check(&self, index: u16, has: u64) -> Result<Segment, ImageError> {
        let bad = |problem| ImageError::BadSegment { index, paddr: self.paddr, size: self.memory_size, problem };
        if self.file_size > self.memory_size {
            return Err(bad("has more bytes in the file than in memory; the file is damaged"));
        }
        if self.paddr.checked_add(self.memory_size).is_none_or(|end| end > HIGHEST) {
            return Err(bad("goes beyond all physical addresses; the file is damaged"));
        }
        let needs = self.offset.saturating_add(self.file_size);
        if needs > has {
            return Err(ImageError::Truncated { what: "a segment", needs, has });
        }
        let (file_offset, file_size) = (self.offset, self.file_size);
        Ok(Segment { file_offset, file_size, paddr: self.paddr, size: self.memory_size })
    }
}

/// An ELF file's header, for both classes.
struct ElfFile<'a> {
    bytes: &'a [u8],
    wide: bool,
    segments_at: u64,
    segment_size: u16,
    segment_count: u16,
    sections_at: u64,
    section_size: u16,
    section_count: u16,
}

impl<'a> ElfFile<'a> {
    fn open(bytes: &'a [u8]) -> Result<ElfFile<'a>, ImageError> {
        if Compression::detect(bytes) != Some(Compression::None) {
            let magic = bytes.first_chunk::<4>().copied().unwrap_or_default();
            return Err(ImageError::NotAKernel { magic });
        }
        let header = ImageError::Truncated { what: "the ELF header", needs: 64, has: bytes.len() as u64 };
        let wide = match bytes.get(4..6) {
            Some([1, 1]) => false,
            Some([2, 1]) => true,
            _ => return Err(ImageError::BadElf("neither 32-bit nor 64-bit little-endian")),
        };
        let at = |offset| field16(bytes, offset).ok_or(header);
        let (kind, machine) = (at(16)?, at(18)?);
        // ET_EXEC or ET_DYN, EM_386 or EM_X86_64.
        if !matches!(kind, 2 | 3) || !matches!(machine, 3 | 62) {
            return Err(ImageError::NotX86Executable { machine, kind });
        }
        let word = |offset| if wide { field64(bytes, offset) } else { field32(bytes, offset).map(u64::from) };
        let (segments_at, sections_at, sizes) = if wide { (32, 40, 54) } else { (28, 32, 42) };
        let file = ElfFile {
            bytes,
            wide,
            segments_at: word(segments_at).ok_or(header)?,
            segment_size: at(sizes)?,
            segment_count: at(sizes.saturating_add(2))?,
            sections_at: word(sections_at).ok_or(header)?,
            section_size: at(sizes.saturating_add(4))?,
            section_count: at(sizes.saturating_add(6))?,
        };
        if file.segment_size < if wide { 56 } else { 32 } {
            return Err(ImageError::BadElf("its program headers are too small"));
        }
        Ok(file)
    }

    fn segment(&self, index: u16) -> Result<ProgramHeader, ImageError> {
        let size = u64::from(self.segment_size);
        let at = self.segments_at.saturating_add(u64::from(index).saturating_mul(size));
        let what = "the program header table";
        let missing = ImageError::Truncated { what, needs: at.saturating_add(size), has: self.bytes.len() as u64 };
        let header = slice(self.bytes, at, size).ok_or(missing)?;
        let narrow = |offset| field32(header, offset).map(u64::from).ok_or(missing);
        let wide = |offset| field64(header, offset).ok_or(missing);
        let kind = field32(header, 0).ok_or(missing)?;
        Ok(if self.wide {
            ProgramHeader {
                kind,
                offset: wide(8)?,
                paddr: wide(24)?,
                file_size: wide(32)?,
                memory_size: wide(40)?,
                align: wide(48)?,
            }
        } else {
            ProgramHeader {
                kind,
                offset: narrow(4)?,
                paddr: narrow(12)?,
                file_size: narrow(16)?,
                memory_size: narrow(20)?,
                align: narrow(28)?,
            }
        })
    }

    /// The entry point from note sections, for files whose notes are in no segment.
    fn entry_from_sections(&self) -> Option<u64> {
        const SHT_NOTE: u32 = 7;
        (0..self.section_count).find_map(|index| {
            let size = u64::from(self.section_size);
            let at = self.sections_at.checked_add(u64::from(index).checked_mul(size)?)?;
            let header = slice(self.bytes, at, size)?;
            if field32(header, 4)? != SHT_NOTE {
                return None;
            }
            let (offset, len, align) = if self.wide {
                (field64(header, 24)?, field64(header, 32)?, field64(header, 48)?)
            } else {
                (u64::from(field32(header, 16)?), u64::from(field32(header, 20)?), u64::from(field32(header, 32)?))
            };
            phys32_entry(slice(self.bytes, offset, len)?, align)
        })
    }
}

/// Looks for the entry point among ELF notes.
fn phys32_entry(notes: &[u8], align: u64) -> Option<u64> {
    let align = if align == 8 { 8 } else { 4 };
    let mut rest = notes;
    while rest.len() >= 12 {
        let (name_len, len) = (field32(rest, 0)? as usize, field32(rest, 4)? as usize);
        let kind = field32(rest, 8)?;
        let body_at = name_len.checked_add(12)?.checked_next_multiple_of(align)?;
        let body = rest.get(body_at..body_at.checked_add(len)?)?;
        if kind == PHYS32_ENTRY && rest.get(12..)?.get(..name_len)? == b"Xen\0" {
            return match len {
                4 => field32(body, 0).map(u64::from),
                8 => field64(body, 0),
                _ => None,
            };
        }
        rest = rest.get(body_at.checked_add(len)?.checked_next_multiple_of(align)?..)?;
    }
    None
}

/// `len` bytes of `bytes` from `start`, if they are all there.
fn slice(bytes: &[u8], start: u64, len: u64) -> Option<&[u8]> {
    let start = usize::try_from(start).ok()?;
    bytes.get(start..start.checked_add(usize::try_from(len).ok()?)?)
}

fn field16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn field32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn field64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
