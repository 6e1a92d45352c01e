//! Tests of the table parsers, over a small machine memory.

use super::root::parse_root_pointer;
use super::*;
use proptest::prelude::*;

const BASE: u64 = 0xe_0000;

struct Memory(Vec<u8>);

impl Memory {
    fn new() -> Memory {
        Memory(vec![0; 0x2_0000])
    }

    fn read(&self) -> impl Fn(MachineAddr, &mut [u8]) + '_ {
        |at, to| {
            for (i, b) in to.iter_mut().enumerate() {
                let offset = at.0.wrapping_add(i as u64).wrapping_sub(BASE);
                *b = usize::try_from(offset).ok().and_then(|o| self.0.get(o)).copied().unwrap_or(0xff);
            }
        }
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - BASE) as usize;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A table with a right header.
fn table(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut t = vec![0u8; HEADER];
    t[..4].copy_from_slice(name);
    t[4..8].copy_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    t[8] = 3;
    t.extend_from_slice(body);
    t[9] = 0u8.wrapping_sub(t.iter().fold(0u8, |s, &b| s.wrapping_add(b)));
    t
}

fn rsdp(rsdt: u32, xsdt: u64) -> Vec<u8> {
    let mut r = vec![0u8; 36];
    r[..8].copy_from_slice(b"RSD PTR ");
    r[15] = 2;
    r[16..20].copy_from_slice(&rsdt.to_le_bytes());
    r[20] = 36;
    r[24..32].copy_from_slice(&xsdt.to_le_bytes());
    r[8] = 0u8.wrapping_sub(r[..20].iter().fold(0u8, |s, &b| s.wrapping_add(b)));
    r[32] = 0u8.wrapping_sub(r.iter().fold(0u8, |s, &b| s.wrapping_add(b)));
    r
}

fn madt_body() -> Vec<u8> {
    let mut b = Vec::new();
    b.extend_from_slice(&0xfee0_0000u32.to_le_bytes());
    b.extend_from_slice(&1u32.to_le_bytes());
    b.extend_from_slice(&[0, 8, 0, 0, 1, 0, 0, 0]);
    b.extend_from_slice(&[0, 8, 1, 1, 0, 0, 0, 0]);
    b.extend_from_slice(&[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0]);
    b.extend_from_slice(&[9, 16, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    b.extend_from_slice(&[1, 12, 2, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
    b.extend_from_slice(&[2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    b.extend_from_slice(&[2, 10, 0, 9, 9, 0, 0, 0, 0x0f, 0]);
    b.extend_from_slice(&[4, 6, 0xff, 0, 0, 1]);
    b.extend_from_slice(&[5, 12, 0, 0, 0, 0, 0xe1, 0xfe, 0, 0, 0, 0]);
    b.extend_from_slice(&[0x80, 4, 1, 2]);
    b
}

fn fadt_body(dsdt: u64) -> Vec<u8> {
    let mut t = vec![0u8; 276];
    t[40..44].copy_from_slice(&(dsdt as u32).to_le_bytes());
    t[46..48].copy_from_slice(&9u16.to_le_bytes());
    t[64..68].copy_from_slice(&0x604u32.to_le_bytes());
    t[76..80].copy_from_slice(&0x608u32.to_le_bytes());
    t[89] = 2;
    t[91] = 4;
    t[112..116].copy_from_slice(&(1u32 << 8 | 1 << 10).to_le_bytes());
    t[116..120].copy_from_slice(&[1, 8, 0, 1]);
    t[120..128].copy_from_slice(&0xcf9u64.to_le_bytes());
    t[128] = 6;
    t[HEADER..].to_vec()
}

const S5: [u8; 13] = [0x08, b'_', b'S', b'5', b'_', 0x12, 6, 4, 0x0a, 5, 0x00, 0, 0];

fn machine() -> Memory {
    let mut m = Memory::new();
    let mut list = Vec::new();
    let mut mcfg = vec![0u8; 8];
    mcfg.extend_from_slice(&0xb000_0000u64.to_le_bytes());
    mcfg.extend_from_slice(&[0, 0, 0, 0xff, 0, 0, 0, 0]);
    let mut hpet = vec![0u8; 20];
    hpet[4..16].copy_from_slice(&[0, 64, 0, 0, 0, 0, 0xd0, 0xfe, 0, 0, 0, 0]);
    for (at, name, body) in [
        (BASE + 0x1000, b"APIC", madt_body()),
        (BASE + 0x2000, b"FACP", fadt_body(BASE + 0x3000)),
        (BASE + 0x4000, b"HPET", hpet),
        (BASE + 0x5000, b"MCFG", mcfg),
    ] {
        m.put(at, &table(name, &body));
        list.extend_from_slice(&at.to_le_bytes());
    }
    m.put(BASE + 0x3000, &table(b"DSDT", &S5));
    m.put(BASE + 0x6000, &table(b"XSDT", &list));
    m.put(BASE + 0x500, &rsdp(0, BASE + 0x6000));
    m
}

#[test]
fn everything_is_found_from_the_bios_area() {
    let m = machine();
    let root = find_root_pointer(&m.read()).unwrap();
    assert_eq!(root.at, Some(MachineAddr(BASE + 0x500)));
    let acpi = read_tables(&m.read(), root).unwrap();
    assert_eq!(acpi.problems, []);
    assert_eq!(acpi.tables.len(), 5);

    let madt = acpi.madt.as_ref().unwrap();
    assert_eq!(madt.local_apic_address, MachineAddr(0xfee1_0000));
    let ids: Vec<_> = madt.local_apics.iter().map(|a| (a.id, a.enabled)).collect();
    assert_eq!(ids, [(0, true), (1, false), (0x100, true)]);
    assert_eq!(madt.io_apics, [IoApic { id: 2, address: MachineAddr(0xfec0_0000), gsi_base: 0 }]);
    assert_eq!(madt.isa_irq(0), (2, false, false));
    assert_eq!(madt.isa_irq(9), (9, true, true));
    assert_eq!(madt.isa_irq(4), (4, false, false));
    assert_eq!(madt.local_nmis.len(), 1);
    assert_eq!(madt.local_nmis[0].processor, None);

    let fadt = acpi.fadt.as_ref().unwrap();
    assert_eq!(fadt.pm1a_control.unwrap().port(), Some(0x604));
    assert_eq!(fadt.pm_timer.unwrap().port(), Some(0x608));
    assert!(fadt.pm_timer_32_bit && !fadt.hardware_reduced);
    assert_eq!(fadt.reset.map(|(r, v)| (r.port(), v)), Some((Some(0xcf9), 6)));
    assert_eq!(acpi.s5, Some(SleepType { a: 5, b: 0 }));
    assert_eq!(acpi.hpet.unwrap().address, MachineAddr(0xfed0_0000));
    assert_eq!(acpi.ecam, [EcamRegion { address: MachineAddr(0xb000_0000), segment: 0, buses: (0, 0xff) }]);
    assert!(acpi.find(b"DMAR").is_none());
}

#[test]
fn a_broken_table_is_named_and_the_rest_holds() {
    let mut m = machine();
    m.put(BASE + 0x1030, &[0x55]);
    let acpi = read_tables(&m.read(), find_root_pointer(&m.read()).unwrap()).unwrap();
    assert!(acpi.madt.is_none() && acpi.fadt.is_some());
    assert!(acpi.problems.iter().any(|p| p.table.0 == *b"APIC" && p.problem == Problem::BadChecksum));
    assert!(alloc::format!("{}", acpi.problems[0]).contains("firmware update"));
}

#[test]
fn no_root_pointer_is_said() {
    let m = Memory::new();
    assert_eq!(find_root_pointer(&m.read()).unwrap_err().problem, Problem::Missing);
    assert_eq!(parse_root_pointer(&[0; 4], None).unwrap_err().problem, Problem::BadLength(4));
}

#[test]
fn the_old_root_table_is_used_when_the_new_one_is_broken() {
    let mut m = machine();
    m.put(BASE + 0x7000, &table(b"RSDT", &((BASE + 0x4000) as u32).to_le_bytes()));
    m.put(BASE + 0x500, &rsdp((BASE + 0x7000) as u32, BASE + 0x6000));
    m.put(BASE + 0x6004, &[1]);
    let acpi = read_tables(&m.read(), find_root_pointer(&m.read()).unwrap()).unwrap();
    assert!(acpi.hpet.is_some() && acpi.madt.is_none());
}

#[test]
fn a_madt_entry_of_length_zero_does_not_loop() {
    let mut body = madt_body();
    body.extend_from_slice(&[0, 0]);
    assert!(madt::parse(&table(b"APIC", &body)).is_err());
}

#[test]
fn s5_takes_the_usual_encodings() {
    let find = |code: &[u8]| s5::find(code);
    assert_eq!(
        find(&[0x08, b'\\', b'_', b'S', b'5', b'_', 0x12, 0x06, 2, 0x0a, 7, 0x0a, 7]),
        Some(SleepType { a: 7, b: 7 })
    );
    assert_eq!(find(&[0x08, b'_', b'S', b'5', b'_', 0x12, 0x48, 0, 2, 1, 0x0b, 3, 0]), Some(SleepType { a: 1, b: 3 }));
    // Mentioned, not defined; and a value that does not fit.
    assert_eq!(find(b"x_S5_\x12\x06\x02\x0a\x05\x00"), None);
    assert_eq!(find(&[0x08, b'_', b'S', b'5', b'_', 0x12, 6, 2, 0x0a, 9, 0]), None);
    assert_eq!(find(b"\x08_S5_"), None);
}

proptest! {
    #[test]
    fn damaged_tables_are_survived(damage in prop::collection::vec((0usize..0x7000, any::<u8>()), 1..32)) {
        let mut m = machine();
        for (at, value) in damage {
            m.0[at] = value;
        }
        if let Ok(root) = find_root_pointer(&m.read()) {
            let _ = read_tables(&m.read(), root);
        }
    }

    #[test]
    fn any_contents_are_survived(body in prop::collection::vec(any::<u8>(), 0..300)) {
        for name in [b"APIC", b"FACP", b"HPET", b"MCFG"] {
            let t = table(name, &body);
            let _ = madt::parse(&t);
            let _ = fadt::parse(&t);
            let _ = small::hpet(&t);
            let _ = small::mcfg(&t);
        }
        let _ = s5::find(&body);
    }
}
