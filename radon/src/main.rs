//! The bootable image.
#![no_std]
#![no_main]

use radon_hal::boot::Handover;
use radon_hal::report::BuildId;
use radon_hal::{cpu, frames, heap, idle, ioapic, selftest};

radon_hal::entry!(main);

fn main(handover: Handover) -> ! {
    let early = handover.start();
    log::info!("Radon {}, build id {}", env!("CARGO_PKG_VERSION"), BuildId);
    log::info!("Loader: {} ({:?})", early.info.loader, early.info.protocol);
    log::info!("Command line: {}", early.info.command_line);
    log::info!("Processor: {}", cpu::brand());
    log::info!("Memory map:");
    for region in &early.info.memory_map {
        log::info!(" {:016x}-{:016x} {}", region.start.0, region.end().0.saturating_sub(1), region.kind.name());
    }
    for (i, module) in early.info.modules.iter().enumerate() {
        log::info!("Module {i}: {} bytes at {:#x}: {}", module.length, module.start.0, module.arguments);
    }
    let machine = early.bring_up();
    let cpus = machine.start_cpus(ap_main);
    log::info!("{cpus} CPUs online, {} GSIs", ioapic::gsi_count());
    log::info!("{} MiB free, heap {} KiB", frames::free_bytes() >> 20, heap::size() >> 10);
    if machine.options.selftest {
        selftest::run(&[], machine.options.selftest_filter.as_deref());
    }
    log::info!("Nothing more to do.");
    loop {
        idle::halt_until_interrupt(|| false);
    }
}

fn ap_main() -> ! {
    loop {
        idle::halt_until_interrupt(|| false);
    }
}
