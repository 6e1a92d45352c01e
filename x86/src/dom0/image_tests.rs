//! Kernels built by hand, good and bad in every way.

use super::*;
use crate::dom0::testing::SparseMemory;
use crate::dom0::unpack::crc32::crc32;
use crate::dom0::unpack::tests::sample;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

fn note(kind: u32, name: &[u8], body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for n in [name.len() as u32, body.len() as u32, kind] {
        out.extend_from_slice(&n.to_le_bytes());
    }
    for part in [name, body] {
        out.extend_from_slice(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    out
}

/// (file bytes, physical address, size in memory)
type Part = (Vec<u8>, u64, u64);

/// An ELF64 executable with the given segments and notes.
fn elf(parts: &[Part], notes: &[u8]) -> Vec<u8> {
    let mut head = vec![0u8; 64];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    head[16] = 2;
    head[18] = 62;
    head[32] = 64;
    head[54] = 56;
    head[56] = parts.len() as u8 + 1;
    let mut data = Vec::new();
    let data_at = 64 + 56 * (parts.len() + 1);
    let mut program_header = |kind: u32, bytes: &[u8], paddr: u64, size: u64| {
        let mut h = Vec::new();
        h.extend_from_slice(&kind.to_le_bytes());
        h.extend_from_slice(&7u32.to_le_bytes());
        for n in [
            (data_at + data.len()) as u64,
            0xffff_ffff_8000_0000u64.wrapping_add(paddr),
            paddr,
            bytes.len() as u64,
            size,
            4,
        ] {
            h.extend_from_slice(&n.to_le_bytes());
        }
        data.extend_from_slice(bytes);
        head.extend_from_slice(&h);
    };
    for (bytes, paddr, size) in parts {
        program_header(1, bytes, *paddr, *size);
    }
    program_header(4, notes, 0, notes.len() as u64);
    head.extend_from_slice(&data);
    head
}

fn pvh_note(entry: u64) -> Vec<u8> {
    let mut notes = note(6, b"Xen\0", b"linux\0");
    notes.extend_from_slice(&note(18, b"Oth\0", &[1; 8]));
    notes.extend_from_slice(&note(18, b"Xen\0", &entry.to_le_bytes()));
    notes
}

fn good() -> Vec<u8> {
    elf(&[(vec![0x11; 5000], 0x100_0000, 5000), (vec![0x22; 100], 0x100_2010, 0x3000)], &pvh_note(0x100_0040))
}

/// A bzImage around a payload.
fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut image = vec![0u8; 3 * 512];
    image[0x1f1] = 2;
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    image[0x248..0x24c].copy_from_slice(&32u32.to_le_bytes());
    image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    image.extend_from_slice(&[0xcc; 32]);
    image.extend_from_slice(payload);
    image.extend_from_slice(&[0xdd; 99]);
    image
}

fn with_size(packed: &[u8], size: usize) -> Vec<u8> {
    let mut payload = packed.to_vec();
    payload.extend_from_slice(&(size as u32).to_le_bytes());
    payload
}

#[test]
fn a_plain_elf_file_is_parsed_and_loaded() {
    let elf = good();
    let image = Image::find(&elf).unwrap();
    assert_eq!((image.compression(), image.scratch_size()), (Compression::None, 0));
    let file = image.unpack(&mut [], crc32).unwrap();
    let kernel = Kernel::parse(file).unwrap();
    assert_eq!(kernel.entry, 0x100_0040);
    assert_eq!(kernel.load_range(), 0x100_0000..0x100_6000);
    let memory = SparseMemory::default();
    memory.write(MachineAddr(0x100_0000), &[0xee; 0x7000]);
    kernel.load(file, &memory);
    assert_eq!(memory.get(0x100_0000, 5000), vec![0x11; 5000]);
    assert_eq!(memory.get(0x100_2010, 100), vec![0x22; 100]);
    assert_eq!(memory.get(0x100_2074, 0x3000 - 100), vec![0; 0x3000 - 100], "the end of a segment is zero");
    assert_eq!(memory.get(0x100_5010, 16), vec![0xee; 16], "what follows is untouched");
    assert_eq!(memory.get(0x100_2000, 16), vec![0xee; 16], "what lies between is untouched");
}

#[test]
fn a_32_bit_elf_file_is_parsed() {
    let notes = pvh_note(0x10_0000);
    let mut elf = vec![0u8; 52 + 2 * 32];
    elf[..6].copy_from_slice(b"\x7fELF\x01\x01");
    (elf[16], elf[18], elf[28], elf[42], elf[44]) = (2, 3, 52, 32, 2);
    let at = elf.len() as u32;
    for (i, n) in [1, at, 0x10_0000, 0x10_0000, 8, 0x2000, 7, 4096].into_iter().enumerate() {
        elf[52 + 4 * i..56 + 4 * i].copy_from_slice(&n.to_le_bytes());
    }
    for (i, n) in [4, at + 8, 0, 0, notes.len() as u32, 0, 4, 4].into_iter().enumerate() {
        elf[84 + 4 * i..88 + 4 * i].copy_from_slice(&n.to_le_bytes());
    }
    elf.extend_from_slice(&[0x33; 8]);
    elf.extend_from_slice(&notes);
    let kernel = Kernel::parse(&elf).unwrap();
    assert_eq!((kernel.entry, kernel.load_range()), (0x10_0000, 0x10_0000..0x10_2000));
}

#[test]
fn packed_kernels_are_unpacked() {
    let sample = sample();
    let files: [(&[u8], Compression); 3] = [
        (include_bytes!("unpack/testdata/sample.xz"), Compression::Xz),
        (include_bytes!("unpack/testdata/sample.lz4"), Compression::Lz4),
        (include_bytes!("unpack/testdata/sample.gz"), Compression::Gzip),
    ];
    for (packed, compression) in files {
        let payload = if compression == Compression::Gzip { packed.to_vec() } else { with_size(packed, sample.len()) };
        let module = bzimage(&payload);
        let image = Image::find(&module).unwrap();
        assert_eq!(image.compression(), compression);
        let mut scratch = vec![0; image.scratch_size() as usize];
        assert!(image.unpack(&mut scratch, crc32).unwrap() == &sample[..]);
        let needs = image.scratch_size();
        let small = needs as usize - 1;
        assert_eq!(image.unpack(&mut scratch[..small], crc32), Err(ImageError::ScratchTooSmall { needs }));
    }
    let module = bzimage(&good());
    assert!(
        Image::find(&module).unwrap().unpack(&mut [], crc32).unwrap() == &good()[..],
        "an ELF payload needs no unpacking"
    );
}

#[test]
fn a_wrong_stated_size_is_refused() {
    let packed = include_bytes!("unpack/testdata/sample.xz");
    let size = sample().len();
    for stated in [size - 1, size + 1] {
        let module = bzimage(&with_size(packed, stated));
        let image = Image::find(&module).unwrap();
        let error = image.unpack(&mut vec![0; size + 100], crc32).unwrap_err();
        // A few bytes too many fit in the slack and are noticed afterwards.
        assert_eq!(error, ImageError::WrongSize { stated: stated as u64, found: size as u64 });
    }
    let module = bzimage(&with_size(packed, 10));
    let error = Image::find(&module).unwrap().unpack(&mut vec![0; size], crc32).unwrap_err();
    assert_eq!(error, ImageError::Unpack(Compression::Xz, UnpackError::TooLarge));
}

fn parse_error(elf: &[u8]) -> (ImageError, alloc::string::String) {
    let error = Kernel::parse(elf).unwrap_err();
    (error, format!("{error}"))
}

#[test]
fn each_broken_module_is_named() {
    assert_eq!(Image::find(b"").unwrap_err(), ImageError::NotAKernel { magic: [0; 4] });
    assert_eq!(Image::find(b"MZ just a file").unwrap_err(), ImageError::NotAKernel { magic: *b"MZ j" });
    let mut module = bzimage(&good());
    module[0x206] = 7;
    assert_eq!(Image::find(&module).unwrap_err(), ImageError::OldProtocol { version: 0x207 });
    let module = bzimage(b"who knows what this is");
    assert_eq!(Image::find(&module).unwrap_err(), ImageError::UnknownCompression { magic: *b"who " });
    let module = bzimage(&good());
    let cut = &module[..module.len() - 100];
    assert!(matches!(Image::find(cut), Err(ImageError::Truncated { what: "the payload", .. })));
    assert!(matches!(Image::find(&module[..0x230]), Err(ImageError::Truncated { what: "the setup header", .. })));
    for (payload, name) in
        [(&b"BZh9 whatever"[..], "bzip2"), (&[0x5d, 0, 0, 0, 1, 2, 3, 4], "lzma"), (b"\x89LZO\0abcd", "lzo")]
    {
        let text = format!("{}", Image::find(&bzimage(payload)).unwrap_err());
        assert!(text.contains(name) && text.contains("use a kernel packed with"), "{text}");
    }
}

#[test]
fn each_broken_elf_file_is_named() {
    let page = |paddr: u64| -> Part { (vec![1; 16], paddr, 4096) };
    let notes = pvh_note(0x10_0000);
    assert_eq!(parse_error(&elf(&[page(0x10_0000)], &note(5, b"Xen\0", &[0; 8]))).0, ImageError::NoPvhEntry);
    assert_eq!(parse_error(&elf(&[page(0x20_0000)], &notes)).0, ImageError::EntryOutside { entry: 0x10_0000 });
    assert_eq!(parse_error(&elf(&[], &notes)).0, ImageError::BadElf("it has no loadable segment"));
    for (parts, problem) in [
        (vec![page(0x10_0000), page(0x10_0800)], "overlaps"),
        (vec![page(0x10_0000), page(0xf_f800)], "overlaps"),
        (vec![page(0xf_0000)], "below 1 MiB"),
        (vec![(vec![1; 16], 0x10_0000, 8)], "more bytes in the file"),
        (vec![page(u64::MAX - 100)], "beyond all physical"),
        ((1..40).map(|n| page(n << 20)).collect(), "too many"),
    ] {
        let (error, text) = parse_error(&elf(&parts, &notes));
        assert!(matches!(error, ImageError::BadSegment { .. }) && text.contains(problem), "{text}");
    }
    let whole = good();
    for len in 0..whole.len() - pvh_note(0).len() {
        let error = Kernel::parse(&whole[..len]).unwrap_err();
        assert!(!matches!(error, ImageError::NoPvhEntry), "cut to {len}: {error}");
    }
    let mut arm = good();
    arm[18] = 183;
    assert_eq!(parse_error(&arm).0, ImageError::NotX86Executable { machine: 183, kind: 2 });
    let mut object = good();
    object[16] = 1;
    assert_eq!(parse_error(&object).0, ImageError::NotX86Executable { machine: 62, kind: 1 });
    let mut big_endian = good();
    big_endian[5] = 2;
    assert!(matches!(parse_error(&big_endian).0, ImageError::BadElf(_)));
}

#[test]
fn notes_are_found_in_sections_too() {
    let mut file = good();
    // Hide the note segment, and describe the notes by a section header at the end.
    let note_header = 64 + 2 * 56;
    file[note_header] = 0;
    assert_eq!(parse_error(&file).0, ImageError::NoPvhEntry);
    let (offset, len) = (file.len() - pvh_note(0).len(), pvh_note(0).len());
    let table = file.len() as u64;
    file[40..48].copy_from_slice(&table.to_le_bytes());
    (file[58], file[60]) = (64, 2);
    file.resize(file.len() + 64, 0);
    let mut section = vec![0u8; 64];
    section[4] = 7;
    section[24..32].copy_from_slice(&(offset as u64).to_le_bytes());
    section[32..40].copy_from_slice(&(len as u64).to_le_bytes());
    section[48] = 4;
    file.extend_from_slice(&section);
    assert_eq!(Kernel::parse(&file).unwrap().entry, 0x100_0040);
}

proptest! {
    #[test]
    fn damaged_kernels_never_panic(changes in prop::collection::vec((0usize..400, any::<u8>()), 1..8), whole in any::<bool>()) {
        let mut module = if whole { good() } else { bzimage(&good()) };
        let offset = if whole { 0 } else { 0x1f0 };
        for (at, value) in changes {
            let at = (at + offset) % module.len();
            module[at] = value;
        }
        if let Ok(image) = Image::find(&module)
            && let Ok(elf) = image.unpack(&mut vec![0; 1 << 16], crc32)
            && let Ok(kernel) = Kernel::parse(elf)
            && kernel.segments().iter().all(|s| s.size < 1 << 20)
        {
            kernel.load(elf, &SparseMemory::default());
        }
    }
}

#[test]
fn initial_file_systems_are_told_by_their_first_bytes() {
    for good in [&b"070701000"[..], b"070702", &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", b"\xfd7zXZ\0"] {
        assert!(is_initial_file_system(good), "{good:?}");
    }
    for bad in [&b""[..], b"07070", b"MZ", b"\x7fELF", b"text", &[0; 600]] {
        assert!(!is_initial_file_system(bad), "{bad:?}");
    }
}
