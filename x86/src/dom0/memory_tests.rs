//! Plans for typical and for random machines.

use super::*;
use alloc::format;
use alloc::vec;
use proptest::prelude::*;
use radon_core::types::MachineAddr;

fn region(range: Range<u64>, kind: MemoryKind) -> MemoryRegion {
    MemoryRegion { start: MachineAddr(range.start), length: range.end - range.start, kind }
}

/// What QEMU's firmware reports for a machine of 3 GiB.
fn machine() -> Vec<MemoryRegion> {
    use MemoryKind::*;
    vec![
        region(0..0x9_fc00, Ram),
        region(0x9_fc00..0xa_0000, Reserved),
        region(0xf_0000..0x10_0000, Reserved),
        region(0x10_0000..0x7ffd_8000, Ram),
        region(0x7ffd_8000..0x7fff_0000, AcpiReclaimable),
        region(0x7fff_0000..0x8000_0000, AcpiNvs),
        region(0xb000_0000..0xc000_0000, Reserved),
        region(0x1_0000_0000..0x1_4000_0000, Ram),
    ]
}

const KEPT: [Range<u64>; 3] = [0x9_0000..0x9_1000, 0x20_0000..0x80_0000, 0x1_3000_0000..0x1_4000_0000];

fn megabytes(n: u64) -> Option<MemoryAmount> {
    Some(MemoryAmount { bytes: n * MIB, percent: 0, negative: false })
}

fn request(map: &[MemoryRegion]) -> Request<'_> {
    Request {
        map,
        kept: &KEPT,
        size: Dom0Memory { size: megabytes(640), min: None, max: None },
        kernel: 0x100_0000..0x4a0_0000,
        initrd: Some(0x200_0000..0x300_0123),
        unpacked: 0x7000_0000..0x7400_0000,
        busy: &[0x81_0000..0x200_0000, 0x400_0000..0x400_1000],
        start_info: 5000,
        acpi: 0x1234,
    }
}

fn check(request: &Request<'_>, plan: &Plan) {
    let free = free_ram(request.map, request.kept);
    assert!(plan.ram.iter().all(|r| free.contains(&r) && r.start % PAGE_SIZE == 0 && r.end % PAGE_SIZE == 0));
    assert!(plan.ram.contains(&request.kernel));
    assert_eq!(plan.size, plan.ram.total());
    let mut places = vec![plan.acpi.clone(), plan.start_info.clone(), request.kernel.clone()];
    places.extend(plan.initrd.clone());
    for (i, a) in places.iter().enumerate() {
        assert!(plan.ram.contains(a), "{a:x?} is dom0's");
        assert!(a.end <= 4 * GIB);
        assert!(*a != plan.start_info || a.end <= GIB, "Linux reads it through its first page tables");
        assert!(places[..i].iter().all(|b| a.end <= b.start || b.end <= a.start), "{places:x?}");
    }
    assert_eq!(plan.initrd.as_ref().map(length), request.initrd.as_ref().map(length));
    if plan.initrd != request.initrd {
        let set: RangeSet = request.busy.iter().chain(&request.initrd).cloned().collect();
        assert!(!set.overlaps(plan.initrd.as_ref().unwrap()), "a moved disk does not overlap its source");
    }
    let set: RangeSet = request.busy.iter().chain(&request.initrd).cloned().collect();
    assert!(!set.overlaps(&plan.acpi) && !set.overlaps(&plan.start_info));
    let source = RangeSet::from_iter([request.unpacked.clone()]);
    assert!(places.iter().filter(|p| Some(*p) != request.initrd.as_ref()).all(|p| !source.overlaps(p)));
    assert!(plan.memmap.windows(2).all(|w| w[0].addr + w[0].size <= w[1].addr));
    assert!(plan.memmap.len() <= MAX_MEMMAP);
    let kind_at = |a: u64| plan.memmap.iter().find(|e| e.addr <= a && a < e.addr + e.size).map(|e| e.kind);
    let ram_bytes: u64 = plan.memmap.iter().filter(|e| e.kind == 1).map(|e| e.size).sum();
    assert_eq!(ram_bytes, plan.size - length(&plan.acpi));
    assert_eq!(kind_at(plan.acpi.start), Some(3));
    for region in request.map {
        let middle = region.start.0 + region.length / 2;
        match region.kind {
            MemoryKind::Ram => assert!(kind_at(middle).is_some()),
            kind => assert_eq!(kind_at(middle), Some(kind.to_e820())),
        }
    }
}

#[test]
fn a_usual_machine() {
    let map = machine();
    let request = request(&map);
    let plan = plan(&request).unwrap();
    check(&request, &plan);
    assert_eq!(plan.size, 640 * MIB);
    assert!(plan.ram.contains(&(0..0x9_0000)), "low memory is dom0's, but for the hypervisor's page");
    assert!(!plan.ram.overlaps(&(0x9_0000..0x9_1000)));
    assert!(plan.ram.iter().all(|r| r.end < GIB), "memory is taken from the bottom");
    assert_ne!(plan.initrd, request.initrd, "the disk overlaps the kernel and moves");
    assert_eq!(plan.memmap[1].kind, 2, "the hypervisor's page is reserved");
    assert_eq!(plan.memmap.last().unwrap().kind, 2, "other RAM is reserved");
}

#[test]
fn a_disk_that_is_well_placed_stays() {
    let map = machine();
    let mut request = request(&map);
    request.initrd = Some(0x600_0000..0x700_0123);
    let first = plan(&request).unwrap();
    check(&request, &first);
    assert_eq!(first.initrd, request.initrd);
    // Outside of dom0's memory it moves into it, and so it does from above 4 GiB.
    for outside in [0x7000_0000..0x7100_0000, 0x1_0000_0000..0x1_0100_0000u64] {
        request.initrd = Some(outside);
        let moved = plan(&request).unwrap();
        check(&request, &moved);
        assert_ne!(moved.initrd, request.initrd);
    }
}

#[test]
fn without_dom0_mem_nearly_all_is_dom0s() {
    let map = machine();
    let mut request = request(&map);
    request.size = Dom0Memory::default();
    let plan = plan(&request).unwrap();
    check(&request, &plan);
    let available = most_for_dom0(free_ram(&map, &KEPT).total());
    assert!(plan.size <= available - 128 * MIB && plan.size > available - 129 * MIB);
    assert!(plan.start_info.end <= GIB, "although the top of low memory is higher");
}

#[test]
fn the_hypervisor_keeps_what_it_needs_whatever_is_asked_for() {
    let map = machine();
    let free = free_ram(&map, &KEPT).total();
    for all in [(0, 100, false), (0, 0, true), (4096, 0, true)] {
        let mut request = request(&map);
        request.size.size = Some(MemoryAmount { bytes: all.0, percent: all.1, negative: all.2 });
        let plan = plan(&request).unwrap();
        check(&request, &plan);
        assert!(plan.size <= free - LEAST_LEFT - free / 512 && plan.size > free - 24 * MIB);
    }
}

#[test]
fn bounds_hold_and_the_maximum_is_passed_on() {
    let map = machine();
    let mut request = request(&map);
    request.size = Dom0Memory { size: megabytes(200), min: megabytes(300), max: megabytes(1000) };
    let first = plan(&request).unwrap();
    assert_eq!((first.size, first.max), (300 * MIB, Some(1000 * MIB)));
    request.size = Dom0Memory { size: None, min: None, max: megabytes(1000) };
    assert_eq!(plan(&request).unwrap().size, 1000 * MIB);
}

#[test]
fn what_does_not_fit_is_said() {
    let map = machine();
    let mut r = request(&map);
    r.size.size = megabytes(4000);
    let error = plan(&r).unwrap_err();
    assert!(matches!(error, PlanError::TooMuch { wanted, .. } if wanted == 4000 * MIB));
    assert!(format!("{error}").contains("asks for 4000 MiB"), "{error}");

    let mut r = request(&map);
    r.size.size = megabytes(64);
    assert!(matches!(plan(&r), Err(PlanError::TooLittle { size, .. }) if size == 64 * MIB));

    let mut r = request(&map);
    r.kernel = 0x70_0000..0x90_0000;
    let error = plan(&r).unwrap_err();
    assert_eq!(error, PlanError::KernelPlace { kernel: r.kernel.clone(), conflict: 0x70_0000..0x80_0000 });

    let mut r = request(&map);
    r.unpacked = 0x49f_f000..0x800_0000;
    assert!(matches!(plan(&r), Err(PlanError::NoRoom { what: "unpacked kernel", .. })));

    let mut r = request(&map);
    r.size.size = megabytes(640);
    r.initrd = Some(0x1_0000_0000..0x1_1f00_0000);
    r.busy = &[0x500_0000..0x1000_0000, 0x1000_0000..0x2000_0000];
    let error = plan(&r).unwrap_err();
    assert!(matches!(error, PlanError::NoRoom { what: "initial RAM disk", .. }), "{error}");
}

#[test]
fn large_pages_are_taken_before_pieces() {
    // The first region ends within a large page, and there are 16 more pieces of large pages.
    let mut map = machine();
    map[3] = region(0x10_0000..0x4ff_f000, MemoryKind::Ram);
    let piece = |n: u64| 0x510_1000 + n * 0x40_0000..0x520_0000 + n * 0x40_0000;
    (0..16).for_each(|n| map.insert(4 + n, region(piece(n as u64), MemoryKind::Ram)));
    map.insert(20, region(0xa00_0000..0x7ffd_8000, MemoryKind::Ram));
    let mut request = request(&map);
    request.initrd = None;
    let first = plan(&request).unwrap();
    check(&request, &first);
    assert!(first.ram.contains(&(0x4c0_0000..0x4e0_0000)) && !first.ram.overlaps(&(0x4e0_0000..0xa00_0000)));
    // If more is wanted, the pieces are taken too.
    let available = most_for_dom0(free_ram(&map, &KEPT).total());
    request.size.size = Some(MemoryAmount { bytes: available, percent: 0, negative: false });
    let all = plan(&request).unwrap();
    check(&request, &all);
    assert!(all.ram.contains(&(0x4e0_0000..0x4ff_f000)) && all.ram.contains(&piece(0)));
    assert_eq!(all.size, available);
}

#[test]
fn scratch_is_the_highest_free_ram() {
    let map = machine();
    assert_eq!(scratch(&map, &KEPT, 100 * MIB), Some(0x1_3000_0000 - 100 * MIB..0x1_3000_0000));
    assert_eq!(scratch(&map, &KEPT, 3 * GIB), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn plans_are_sound(
        holes in prop::collection::vec((0u64..2048, 1u64..64, 1u32..6), 0..20),
        kept in prop::collection::vec((0u64..2048, 0u64..64), 0..5),
        busy in prop::collection::vec((0u64..2048, 0u64..64), 0..5),
        initrd in prop::option::of((0u64..2048, 1u64..100)),
        size in prop::option::of(64u64..2048),
        kernel in 1u64..64,
        unpacked in 0u64..2048,
    ) {
        let mut regions = vec![region(0..0xa_0000, MemoryKind::Ram), region(0x10_0000..2 * GIB, MemoryKind::Ram)];
        regions.extend(holes.iter().map(|(s, l, k)| region(s * MIB + 0x1000..(s + l) * MIB, MemoryKind::from_e820(*k))));
        let map = crate::boot_info::memory_map::normalise(&regions);
        let ranges = |list: &[(u64, u64)]| list.iter().map(|(s, l)| s * MIB + 0x800..(s + l) * MIB + 0x800).collect::<Vec<_>>();
        let (kept, busy) = (ranges(&kept), ranges(&busy));
        let request = Request {
            map: &map,
            kept: &kept,
            size: Dom0Memory { size: size.and_then(megabytes), min: None, max: None },
            kernel: kernel * MIB..(kernel + 20) * MIB,
            initrd: initrd.map(|(s, l)| s * MIB..(s + l) * MIB - 77),
            unpacked: unpacked * MIB..(unpacked + 60) * MIB,
            busy: &busy,
            start_info: 3000,
            acpi: 5000,
        };
        if let Ok(plan) = plan(&request) {
            // The map may state more than Linux takes; then reserved ranges are missing.
            if plan.memmap.len() < MAX_MEMMAP {
                check(&request, &plan);
            }
        }
    }
}
