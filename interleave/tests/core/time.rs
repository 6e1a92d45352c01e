//! Clocks that guests read from memory, and timers.

use std::cell::Cell;

use radon_abi::xen::shared_info;
use radon_core::time::Owner;
use radon_core::time::clock::set_wall_clock_offset;
use radon_core::types::{CpuId, MachineAddr, Nanoseconds};
use radon_interleave::atomic::{AtomicBool, Ordering};
use radon_interleave::{explore, race};

use super::{GUEST, Rig};

/// Seconds of the guest's wall clock, read as `public/xen.h` says; `None` if it changes just then.
fn wall_clock(rig: &Rig) -> Option<u64> {
    let at = |offset: u64| rig.memory().load_u32(MachineAddr(rig.host.domain(GUEST).shared_info.addr().0 + offset));
    let version = at(shared_info::WC_VERSION);
    let seconds = u64::from(at(shared_info::WC_SEC_HI)) << 32 | u64::from(at(shared_info::WC_SEC));
    (version % 2 == 0 && at(shared_info::WC_VERSION) == version).then_some(seconds)
}

/// A guest reads its wall clock whole; and it is what was set last, whoever set it.
#[test]
fn a_wall_clock_that_two_set() {
    // Both halves differ.
    const AHEAD: [i64; 2] = [1 << 32 | 100, 2 << 32 | 200];
    explore(|| {
        let rig = Rig::new();
        let (hv, domain) = (&rig.host.hv, rig.host.domain(GUEST));
        set_wall_clock_offset(hv, domain, 0);
        let start = wall_clock(&rig).unwrap();
        let set = |ahead| move || set_wall_clock_offset(hv, domain, ahead);
        race(vec![
            Box::new(set(AHEAD[0])),
            Box::new(set(AHEAD[1])),
            Box::new(|| {
                for _ in 0..4 {
                    if let Some(seconds) = wall_clock(&rig) {
                        let ahead = seconds.wrapping_sub(start) as i64;
                        assert!(ahead == 0 || AHEAD.contains(&ahead), "{ahead:#x}");
                    }
                }
            }),
        ]);
        assert_eq!(wall_clock(&rig).map(|now| (now - start) as i64), Some(domain.time.offset()));
    });
}

thread_local! {
    // All parts of a race are one thread of the system.
    static FIRED: Cell<u32> = const { Cell::new(0) };
}

/// A CPU that is about to halt hears of a timer that another one arms there, also if one before it was just disarmed.
#[test]
fn a_timer_that_is_armed_from_afar() {
    explore(|| {
        FIRED.set(0);
        let rig = Rig::new();
        let (hv, cpu) = (&rig.host.hv, CpuId(0));
        let owner = || Owner::Hypervisor(|_, _| FIRED.set(FIRED.get() + 1));
        let arm = |at| hv.timers.arm(&*hv.platform, cpu, Nanoseconds(at), Nanoseconds(0), owner());
        let (end, first) = (AtomicBool::new(false), arm(100));
        let cancelled = AtomicBool::new(false);
        race(vec![
            Box::new(|| {
                while FIRED.get() != if cancelled.load(Ordering::SeqCst) { 1 } else { 2 } {
                    hv.timers.expire(hv, cpu, hv.platform.now());
                    hv.timers.program(&*hv.platform, cpu);
                    rig.cpus.wait_for_interrupt(&end);
                    hv.timers.expire(hv, cpu, hv.platform.now());
                }
            }),
            Box::new(|| {
                cancelled.store(hv.timers.cancel(first), Ordering::SeqCst);
                arm(200);
            }),
        ]);
        assert_eq!(hv.timers.next_deadline(cpu), None);
    });
}
