//! Makes it possible for dom0's tools to make guests: tells the hypervisor's core who builds their x86 side.

use alloc::boxed::Box;

use radon_core::frames::Order;
use radon_core::grant;
use radon_core::types::PAGE_SIZE;
use radon_hal::boot::Booted;
use radon_hal::{cpu, svm};
use radon_x86::boot_info::MemoryKind;
use radon_x86::factory::{Parts, X86Factory};
use radon_x86::run::System;

/// To be called once SVM is on, before dom0 runs.
pub(crate) fn prepare(machine: &Booted, sys: &'static System) {
    let hv = &sys.hv;
    let ram = machine.info.memory_map.iter().filter(|r| r.kind == MemoryKind::Ram);
    let factory = X86Factory::new(Parts {
        machine: sys.machine,
        xcr0: svm::xsave_components(),
        largest: if machine.features.huge_pages { Order::HUGE } else { Order::LARGE },
        machine_address_bits: cpu::physical_address_bits() as u8,
        total_frames: ram.map(|r| r.length / PAGE_SIZE).sum(),
        tsc_khz: hv.platform.clock().khz,
    });
    hv.control.set_factory(Box::new(factory));
    let options = &machine.options;
    hv.control.set_grant_limits(
        options.gnttab_max_frames.unwrap_or(grant::DEFAULT_FRAMES),
        options.gnttab_max_maptrack_frames.unwrap_or(grant::DEFAULT_MAPTRACK_FRAMES),
    );
}
