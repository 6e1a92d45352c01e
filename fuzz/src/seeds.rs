//! Seeds: well-formed inputs of the targets that no fuzzer would guess in short, so that it begins behind the first checks.
//! They lie in `corpus/TARGET/seed-NAME`; `RADON_WRITE_SEEDS=1 cargo test -p radon-fuzz seeds` writes them from here.

use std::fs;
use std::path::Path;

use radon_abi::domctl as abi;
use radon_abi::save;
use radon_core::types::{GuestVirtAddr, MachineAddr};
use radon_x86::acpi;
use radon_x86::boot_info::{self, multiboot1, multiboot2};
use radon_x86::dom0::image::{Image, Kernel};
use radon_x86::testing;
use radon_x86::testing::control::{DOM0, domctl, guest};
use zerocopy::{FromZeros, IntoBytes};

use crate::boot;
use crate::context;

/// All of them: target, name, bytes.
fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let [multiboot1, multiboot2] = boot_infos();
    vec![
        ("acpi", "rsdt-with-three-tables", tables()),
        ("boot-info", "multiboot1", multiboot1),
        ("boot-info", "multiboot2", multiboot2),
        ("context", "header-cpu-end", records()),
        ("unpack", "gzip-stored", image()),
    ]
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn put32(bytes: &mut [u8], at: usize, value: u64) {
    put(bytes, at, &(value as u32).to_le_bytes());
}

/// A root pointer, its table, and three tables; the first bytes say where checksums are to be made right.
fn tables() -> Vec<u8> {
    const PLACES: [(usize, &[u8; 4], usize); 4] =
        [(64, b"RSDT", 36 + 12), (128, b"APIC", 36 + 8 + 8 + 12), (256, b"FACP", 132), (512, b"MCFG", 36 + 8 + 16)];
    let mut memory = vec![0; 640];
    put(&mut memory, 0, b"RSD PTR ");
    put32(&mut memory, 16, boot::BASE + 64);
    for (at, name, length) in PLACES {
        put(&mut memory, at, name);
        put32(&mut memory, at + 4, length as u64);
    }
    for (n, (at, ..)) in PLACES.into_iter().skip(1).enumerate() {
        put32(&mut memory, 64 + 36 + 4 * n, boot::BASE + at as u64);
    }
    // A local APIC and an I/O APIC.
    put32(&mut memory, 128 + 36, 0xfee0_0000);
    put(&mut memory, 128 + 44, &[0, 8, 0, 0, 1, 0, 0, 0]);
    put(&mut memory, 128 + 52, &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    // Configuration space.
    put32(&mut memory, 512 + 44, 0xb000_0000);
    put(&mut memory, 512 + 55, &[255]);
    let mut input = vec![1 + PLACES.len() as u8];
    for place in [0].into_iter().chain(PLACES.map(|(at, ..)| at as u16)) {
        input.extend_from_slice(&place.to_le_bytes());
    }
    input.extend_from_slice(&memory);
    input
}

/// The same little machine in both forms, a command line included.
fn boot_infos() -> [Vec<u8>; 2] {
    let mut first = vec![0; 256];
    // Memory sizes, command line, map.
    put32(&mut first, 0, 1 | 1 << 2 | 1 << 6);
    put32(&mut first, 16, boot::BASE + 200);
    put32(&mut first, 44, 24);
    put32(&mut first, 48, boot::BASE + 128);
    put32(&mut first, 128, 20);
    put32(&mut first, 132, 0x10_0000);
    put32(&mut first, 140, 0x4000_0000);
    put32(&mut first, 148, 1);
    put(&mut first, 200, b"x console=com1\0");
    let mut second = vec![0; 8 + 24 + 40 + 8];
    let size = second.len() as u64;
    put32(&mut second, 0, size);
    put32(&mut second, 8, 1);
    put32(&mut second, 12, 8 + 15);
    put(&mut second, 16, b"x console=com1\0");
    put32(&mut second, 32, 6);
    put32(&mut second, 36, 16 + 24);
    put32(&mut second, 40, 24);
    put32(&mut second, 48, 0x10_0000);
    put32(&mut second, 56, 0x4000_0000);
    put32(&mut second, 64, 1);
    put32(&mut second, 76, 8);
    first.insert(0, 0);
    second.insert(0, 1);
    [first, second]
}

/// A vCPU in 32-bit mode, as a guest begins.
fn records() -> Vec<u8> {
    let at = |typecode, size: usize| save::Descriptor { typecode, instance: 0, length: size as u32 };
    let header = save::Header {
        magic: save::HVM_FILE_MAGIC,
        version: save::HVM_FILE_VERSION,
        changeset: 0,
        cpuid: 0,
        gtsc_khz: 0,
    };
    let cpu = save::Cpu {
        rip: 0x10_0000,
        rflags: 2,
        cr0: 0x11,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        es_limit: u32::MAX,
        ss_limit: u32::MAX,
        tr_limit: 0x67,
        cs_arbytes: 0xc9b,
        ds_arbytes: 0xc93,
        es_arbytes: 0xc93,
        ss_arbytes: 0xc93,
        tr_arbytes: 0x8b,
        dr6: 0xffff_0ff0,
        dr7: 0x400,
        ..save::Cpu::new_zeroed()
    };
    let mut records = Vec::new();
    records.extend_from_slice(at(save::HVM_SAVE_CODE_HEADER, size_of::<save::Header>()).as_bytes());
    records.extend_from_slice(header.as_bytes());
    records.extend_from_slice(at(save::HVM_SAVE_CODE_CPU, size_of::<save::Cpu>()).as_bytes());
    records.extend_from_slice(cpu.as_bytes());
    records.extend_from_slice(at(save::HVM_SAVE_CODE_END, 0).as_bytes());
    records
}

/// A kernel of one segment with an entry note.
fn kernel() -> Vec<u8> {
    const ENTRY: u64 = 0x100_0000;
    let mut elf = vec![0; 64 + 2 * 56 + 20 + 64];
    put(&mut elf, 0, b"\x7fELF\x02\x01");
    put(&mut elf, 16, &[2, 0, 62]);
    put(&mut elf, 32, &[64]);
    put(&mut elf, 54, &[56, 0, 2]);
    let mut header = |at: usize, kind: u64, from: u64, size: u64| {
        put32(&mut elf, at, kind);
        for (n, value) in [from, ENTRY, ENTRY, size, size, 4].into_iter().enumerate() {
            put(&mut elf, at + 8 + 8 * n, &value.to_le_bytes());
        }
    };
    header(64, 1, 196, 64);
    header(120, 4, 176, 20);
    put(&mut elf, 176, &[4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0]);
    put(&mut elf, 188, b"Xen\0");
    put32(&mut elf, 192, ENTRY);
    elf
}

/// That kernel in a bzImage, in gzip's format but not smaller. The target takes 0 for any checksum.
fn image() -> Vec<u8> {
    let elf = kernel();
    let length = elf.len() as u16;
    let mut payload = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 1];
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(&(!length).to_le_bytes());
    payload.extend_from_slice(&elf);
    payload.extend_from_slice(&[0; 4]);
    payload.extend_from_slice(&u32::from(length).to_le_bytes());
    let mut image = vec![0; 2 * 512];
    image[0x1f1] = 1;
    put(&mut image, 0x1fe, &[0x55, 0xaa]);
    put(&mut image, 0x202, b"HdrS\x0f\x02");
    put32(&mut image, 0x24c, payload.len() as u64);
    image.extend_from_slice(&payload);
    image
}

#[test]
fn seeds_are_in_the_corpus() {
    for (target, name, bytes) in all() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let file = folder.join(format!("seed-{name}"));
        if std::env::var_os("RADON_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&file, &bytes).unwrap();
        }
        let there = fs::read(&file).unwrap_or_default();
        assert!(there == bytes, "{} is stale: RADON_WRITE_SEEDS=1 cargo test -p radon-fuzz seeds", file.display());
    }
}

#[test]
fn seeds_reach_behind_the_first_checks() {
    let bytes = boot::repaired(&tables());
    let read = boot::memory(&bytes);
    let tables = acpi::read_tables(&read, acpi::root::parse_root_pointer(&bytes, None).unwrap()).unwrap();
    assert!(tables.tables.len() == 3 && tables.madt.is_some() && tables.ecam.len() == 1, "{tables:?}");
    for (info, magic) in boot_infos().iter().zip([multiboot1::MAGIC, multiboot2::MAGIC]) {
        let info = boot_info::parse(&boot::memory(&info[1..]), magic, MachineAddr(boot::BASE)).unwrap();
        assert!(!info.memory_map.is_empty() && info.command_line.ends_with("console=com1"), "{info:?}");
    }
    let host = testing::host_with(1280);
    let id = guest(&host);
    let records = records();
    host.caller(DOM0, 0).memory.write(GuestVirtAddr(context::BUFFER), &records).unwrap();
    let ask = abi::HvmContext { size: records.len() as u32, buffer: context::BUFFER, _pad: 0 };
    assert!(domctl(&host, abi::XEN_DOMCTL_SETHVMCONTEXT, id, &ask, 1000).0.is_ok());
    let image = image();
    let image = Image::find(&image).unwrap();
    let mut scratch = vec![0; image.scratch_size() as usize];
    assert_eq!(Kernel::parse(image.unpack(&mut scratch, |_| 0).unwrap()).unwrap().entry, 0x100_0000);
}
