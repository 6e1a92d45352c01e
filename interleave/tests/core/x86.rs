//! What CPUs do to each other's local APICs and nested page tables.

use radon_core::frames::Order;
use radon_core::p2m::{Entry, Kind, NestedTable};
use radon_core::platform::ArchVcpu;
use radon_core::testing::TestHost;
use radon_core::types::{Gfn, Mfn, Nanoseconds};
use radon_interleave::atomic::{AtomicBool, Ordering};
use radon_interleave::{explore, race, step};
use radon_x86::devices::interrupt::Trigger;
use radon_x86::devices::lapic::{Lapic, LapicConfig};
use radon_x86::msr::{MsrPolicy, MsrState};
use radon_x86::npt::Npt;
use radon_x86::testing::PlainCpu;
use radon_x86::vcpu::X86Vcpu;

/// The spurious vector register, with which a guest turns its local APIC on.
const SPURIOUS: u16 = 0xf0;
const ON: u32 = 0x1ff;

fn lapic() -> Lapic {
    Lapic::new(0, true, LapicConfig { x2apic: false, tsc_deadline: false })
}

fn turn_on(lapic: &mut Lapic) {
    let _ = lapic.mmio_write(SPURIOUS, 4, ON, Nanoseconds(0));
}

/// Interrupts that several CPUs post are delivered, and the vCPU is told, if it has seen all before.
#[test]
fn interrupts_from_several_cpus() {
    // Two words, one of which two senders share.
    const VECTORS: [[u8; 3]; 2] = [[0x41, 0x61, 0x41], [0x42, 0x41, 0x62]];
    explore(|| {
        let mut owner = lapic();
        turn_on(&mut owner);
        let shared = owner.shared().clone();
        let told = AtomicBool::new(false);
        let post = |vectors: [u8; 3]| {
            let (shared, told) = (&shared, &told);
            move || {
                for vector in vectors {
                    if shared.post(vector, Trigger::Edge) {
                        told.store(true, Ordering::SeqCst);
                    }
                }
            }
        };
        let mut seen = Vec::new();
        let mut look = |seen: &mut Vec<u8>| {
            if told.swap(false, Ordering::SeqCst) {
                while let Some(vector) = owner.highest_pending() {
                    owner.accept(vector);
                    let _ = owner.eoi();
                    seen.push(vector);
                }
            }
        };
        race(vec![
            Box::new(post(VECTORS[0])),
            Box::new(post(VECTORS[1])),
            Box::new(|| {
                for _ in 0..4 {
                    look(&mut seen);
                    step();
                }
            }),
        ]);
        look(&mut seen);
        assert!(!shared.has_events());
        assert!(VECTORS.iter().flatten().all(|vector| seen.contains(vector)));
    });
}

/// An upcall that comes while the guest turns its local APIC on is delivered then.
#[test]
fn an_upcall_and_a_local_apic_that_is_turned_on() {
    const VECTOR: u8 = 0x50;
    explore(|| {
        let msrs = MsrState::new(MsrPolicy { microcode: 1, cpuid_faulting: true, relaxed: false });
        let vcpu = X86Vcpu::new(Box::new(PlainCpu::default()), lapic(), msrs, false);
        vcpu.set_upcall_vector(VECTOR).unwrap();
        race(vec![
            Box::new(|| vcpu.raise_upcall()),
            Box::new(|| {
                turn_on(&mut vcpu.state.lock().lapic);
                // As what handles the write does.
                if vcpu.upcall_waits.load(Ordering::SeqCst) {
                    vcpu.raise_upcall();
                }
            }),
        ]);
        assert_eq!(vcpu.state.lock().lapic.highest_pending(), Some(VECTOR));
    });
}

/// Who walks a nested page table without its lock finds what was mapped before or after, while mappings are split and joined.
#[test]
fn a_walk_and_a_table_that_changes() {
    const START: Mfn = Mfn(1 << 12);
    explore(|| {
        let host = TestHost::new(16, 2);
        let memory = host.hv.platform.memory();
        let table = Npt::new(memory, &host.hv.frames, 40, Order::LARGE, 16).unwrap();
        let set = |gfn, order, kind| {
            let entry = Entry { kind, mfn: Mfn(START.0 + gfn) };
            table.set(memory, &host.hv.frames, Gfn(gfn), order, entry).unwrap();
        };
        set(0, Order::LARGE, Kind::RamLogDirty);
        race(vec![
            Box::new(|| {
                set(3, Order::PAGE, Kind::RamRw);
                set(0, Order::LARGE, Kind::RamRw);
                set(500, Order::PAGE, Kind::RamRo);
            }),
            Box::new(|| {
                for gfn in [3, 500, 3, 500, 7, 500] {
                    let entry = table.get(memory, Gfn(gfn)).entry;
                    assert_eq!(entry.mfn, Mfn(START.0 + gfn));
                    assert!(entry.kind.own_ram());
                }
            }),
        ]);
    });
}
