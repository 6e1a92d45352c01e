//! Tests of the boot information parsers.

use super::*;
use alloc::vec;
use proptest::prelude::*;

/// Memory that holds `bytes` at `base`; all ones elsewhere.
fn memory(base: u64, bytes: Vec<u8>) -> impl Fn(MachineAddr, &mut [u8]) {
    move |at, to| {
        for (i, b) in to.iter_mut().enumerate() {
            let offset = at.0.wrapping_add(i as u64).wrapping_sub(base);
            *b = usize::try_from(offset).ok().and_then(|o| bytes.get(o)).copied().unwrap_or(0xff);
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn multiboot1_image(loader: &str) -> Vec<u8> {
    let mut b = vec![0u8; 0x1000];
    let flags: u32 = 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;
    put(&mut b, 0, &flags.to_le_bytes());
    put(&mut b, 16, &0x9200u32.to_le_bytes());
    put(&mut b, 0x200, b"radon.bin console=com1 dom0_mem=640M\0");
    put(&mut b, 20, &2u32.to_le_bytes());
    put(&mut b, 24, &0x9300u32.to_le_bytes());
    for (i, word) in [0x40_0000u32, 0x48_1234, 0x9400, 0, 0x50_0000, 0x50_0010, 0, 0].iter().enumerate() {
        put(&mut b, 0x300 + i * 4, &word.to_le_bytes());
    }
    put(&mut b, 0x400, b"vmlinuz console=hvc0\0");
    put(&mut b, 44, &48u32.to_le_bytes());
    put(&mut b, 48, &0x9500u32.to_le_bytes());
    for (i, (start, length, kind)) in [(0u64, 0x9fc00u64, 1u32), (0x10_0000, 0x3ff0_0000, 1)].iter().enumerate() {
        let at = 0x500 + i * 24;
        put(&mut b, at, &20u32.to_le_bytes());
        put(&mut b, at + 4, &start.to_le_bytes());
        put(&mut b, at + 12, &length.to_le_bytes());
        put(&mut b, at + 20, &kind.to_le_bytes());
    }
    put(&mut b, 64, &0x9600u32.to_le_bytes());
    put(&mut b, 0x600, loader.as_bytes());
    b
}

#[test]
fn multiboot1_is_understood() {
    let read = memory(0x9000, multiboot1_image("qemu\0"));
    let info = parse(&read, multiboot1::MAGIC, MachineAddr(0x9000)).unwrap();
    assert_eq!(info.loader, "qemu");
    assert_eq!(info.command_line, "console=com1 dom0_mem=640M");
    assert_eq!(info.memory_map.len(), 2);
    assert_eq!(info.memory_map[1].end(), MachineAddr(0x4000_0000));
    assert_eq!(info.modules.len(), 2);
    assert_eq!(info.modules[0].arguments, "console=hvc0");
    assert_eq!(info.modules[0].length, 0x8_1234);
    assert_eq!(info.modules[1].arguments, "");
}

#[test]
fn grub2_gives_arguments_only() {
    let read = memory(0x9000, multiboot1_image("GRUB 2.06-13\0"));
    let info = parse(&read, multiboot1::MAGIC, MachineAddr(0x9000)).unwrap();
    assert_eq!(info.command_line, "radon.bin console=com1 dom0_mem=640M");
    assert_eq!(arguments("placeholder  quiet", "GRUB 2.06"), "quiet");
    assert_eq!(arguments("/boot/radon loglvl=all", "GRUB 0.97"), "loglvl=all");
}

#[test]
fn multiboot1_module_that_ends_before_it_starts_is_refused() {
    let mut image = multiboot1_image("qemu\0");
    put(&mut image, 0x304, &0u32.to_le_bytes());
    let read = memory(0x9000, image);
    assert_eq!(parse(&read, multiboot1::MAGIC, MachineAddr(0x9000)), Err(BootInfoError::BadModule(0)));
}

#[test]
fn unknown_magic_is_refused_with_advice() {
    let read = memory(0, vec![]);
    let error = parse(&read, 0x1234, MachineAddr(0)).unwrap_err();
    assert_eq!(error, BootInfoError::UnknownMagic(0x1234));
    assert!(alloc::format!("{error}").contains("multiboot2"));
}

fn tag(block: &mut Vec<u8>, kind: u32, data: &[u8]) {
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&(data.len() as u32 + 8).to_le_bytes());
    block.extend_from_slice(data);
    block.resize(block.len().next_multiple_of(8), 0);
}

fn multiboot2_image() -> Vec<u8> {
    let mut b = vec![0u8; 8];
    tag(&mut b, 1, b"placeholder loglvl=all\0");
    tag(&mut b, 2, b"GRUB 2.06\0");
    let mut module = Vec::new();
    module.extend_from_slice(&0x100_0000u32.to_le_bytes());
    module.extend_from_slice(&0x180_0000u32.to_le_bytes());
    module.extend_from_slice(b"placeholder root=/dev/sda1\0");
    tag(&mut b, 3, &module);
    let mut map = Vec::new();
    map.extend_from_slice(&24u32.to_le_bytes());
    map.extend_from_slice(&0u32.to_le_bytes());
    for (start, length, kind) in [(0u64, 0xa_0000u64, 1u32), (0x10_0000, 0x1000_0000, 1), (0xfec0_0000, 0x1000, 2)] {
        map.extend_from_slice(&start.to_le_bytes());
        map.extend_from_slice(&length.to_le_bytes());
        map.extend_from_slice(&kind.to_le_bytes());
        map.extend_from_slice(&0u32.to_le_bytes());
    }
    tag(&mut b, 6, &map);
    let mut screen = Vec::new();
    screen.extend_from_slice(&0xe000_0000u64.to_le_bytes());
    for word in [4096u32, 1024, 768] {
        screen.extend_from_slice(&word.to_le_bytes());
    }
    screen.extend_from_slice(&[32, 1, 0, 0, 16, 8, 8, 8, 0, 8]);
    tag(&mut b, 8, &screen);
    tag(&mut b, 14, &[1; 20]);
    tag(&mut b, 15, &[2; 36]);
    tag(&mut b, 0, &[]);
    let length = b.len() as u32;
    put(&mut b, 0, &length.to_le_bytes());
    b
}

#[test]
fn multiboot2_is_understood() {
    let read = memory(0x1_0000, multiboot2_image());
    let info = parse(&read, multiboot2::MAGIC, MachineAddr(0x1_0000)).unwrap();
    assert_eq!(info.command_line, "loglvl=all");
    assert_eq!(info.loader, "GRUB 2.06");
    assert_eq!(info.modules[0].arguments, "root=/dev/sda1");
    assert_eq!(info.modules[0].length, 0x80_0000);
    assert_eq!(info.memory_map.len(), 3);
    assert_eq!(info.rsdp.unwrap().as_slice(), &[2; 36]);
    let screen = info.framebuffer.unwrap();
    assert_eq!((screen.width, screen.height, screen.bits_per_pixel), (1024, 768, 32));
    assert_eq!(screen.kind, FramebufferKind::Rgb { red: (16, 8), green: (8, 8), blue: (0, 8) });
}

#[test]
fn efi_memory_map_wins_over_the_loaders() {
    let mut b = multiboot2_image();
    b.truncate(b.len() - 8);
    let mut map = Vec::new();
    map.extend_from_slice(&48u32.to_le_bytes());
    map.extend_from_slice(&1u32.to_le_bytes());
    for (kind, start, pages) in [(7u32, 0u64, 16u64), (9, 0x10000, 1), (10, 0x11000, 1), (11, 0x12000, 1)] {
        map.extend_from_slice(&u64::from(kind).to_le_bytes());
        map.extend_from_slice(&start.to_le_bytes());
        map.extend_from_slice(&0u64.to_le_bytes());
        map.extend_from_slice(&pages.to_le_bytes());
        map.extend_from_slice(&0xfu64.to_le_bytes());
        map.extend_from_slice(&0u64.to_le_bytes());
    }
    tag(&mut b, 17, &map);
    tag(&mut b, 12, &0x7000_0018u64.to_le_bytes());
    tag(&mut b, 0, &[]);
    let info = multiboot2::parse_block(&b).unwrap();
    let kinds: Vec<_> = info.memory_map.iter().map(|r| r.kind).collect();
    assert_eq!(kinds, [MemoryKind::Ram, MemoryKind::AcpiReclaimable, MemoryKind::AcpiNvs, MemoryKind::Reserved]);
    assert_eq!(info.efi.unwrap().system_table, Some(MachineAddr(0x7000_0018)));
}

#[test]
fn a_map_read_after_the_loader_s_time_takes_its_place() {
    let mut b = multiboot2_image();
    b.truncate(b.len() - 8);
    tag(&mut b, 18, &[]);
    tag(&mut b, 20, &0x1234u64.to_le_bytes());
    tag(&mut b, 0, &[]);
    let info = multiboot2::parse_block(&b).unwrap();
    let efi = info.efi.clone().unwrap();
    assert!(efi.boot_services_running);
    assert_eq!(efi.image_handle, Some(0x1234));
    assert_eq!(info.clone().with_efi_map(&[], 0), Err(BootInfoError::NoMemoryMap), "the firmware still uses memory");
    assert_eq!(info.clone().with_efi_map(&[0; 48], 39), Err(BootInfoError::NoMemoryMap));

    // Conventional memory, then boot services' data, which is free now.
    let mut map = Vec::new();
    for (kind, start, pages) in [(7u64, 0x10_0000u64, 16u64), (4, 0x20_0000, 2), (5, 0x30_0000, 1)] {
        [kind, start, 0, pages, 0xf, 0].iter().for_each(|w| map.extend_from_slice(&w.to_le_bytes()));
    }
    let info = info.with_efi_map(&map, 48).unwrap();
    let kinds: Vec<_> = info.memory_map.iter().map(|r| (r.start.0, r.length, r.kind)).collect();
    assert_eq!(
        kinds,
        [
            (0x10_0000, 0x1_0000, MemoryKind::Ram),
            (0x20_0000, 0x2000, MemoryKind::Ram),
            (0x30_0000, 0x1000, MemoryKind::Reserved)
        ]
    );
    let efi = info.efi.unwrap();
    assert!(!efi.boot_services_running && efi.memory_map.len() == 3);
    // Without EFI nothing changes.
    let plain = multiboot2::parse_block(&multiboot2_image()).unwrap();
    assert_eq!(plain.clone().with_efi_map(&[], 0), Ok(plain));
}

#[test]
fn impossible_multiboot2_length_is_refused() {
    let read = memory(0, vec![0xff; 64]);
    assert_eq!(parse(&read, multiboot2::MAGIC, MachineAddr(0)), Err(BootInfoError::BadLength(u32::MAX)));
}

proptest! {
    #[test]
    fn any_multiboot2_block_is_survived(block in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = multiboot2::parse_block(&block);
    }

    #[test]
    fn damaged_multiboot2_is_survived(damage in prop::collection::vec((0usize..400, any::<u8>()), 1..8)) {
        let mut block = multiboot2_image();
        for (at, value) in damage {
            let n = block.len();
            block[at % n] = value;
        }
        let _ = multiboot2::parse_block(&block);
    }

    #[test]
    fn damaged_multiboot1_is_survived(damage in prop::collection::vec((0usize..0x700, any::<u8>()), 1..16)) {
        let mut image = multiboot1_image("qemu\0");
        for (at, value) in damage {
            image[at] = value;
        }
        let read = memory(0x9000, image);
        let _ = parse(&read, multiboot1::MAGIC, MachineAddr(0x9000));
    }
}
