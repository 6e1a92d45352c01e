//! Reads the firmware's ACPI tables at start and shows what there is.

use radon_core::platform::PhysMemory;
use radon_core::types::MachineAddr;
use radon_x86::acpi::{Acpi, AcpiError, find_root_pointer, read_tables, root};
use radon_x86::boot_info::BootInfo;

/// Finds and reads the tables: from the loader's copy of the root pointer, else where the BIOS keeps it.
pub(crate) fn read(info: &BootInfo, memory: &dyn PhysMemory) -> Result<Acpi, AcpiError> {
    let read = |at: MachineAddr, to: &mut [u8]| memory.read(at, to);
    let given = info.rsdp.as_ref().map(|bytes| root::parse_root_pointer(bytes, None));
    let root = match given {
        Some(Ok(root)) => root,
        _ => find_root_pointer(&read)?,
    };
    read_tables(&read, root)
}

/// Logs a summary.
pub(crate) fn show(acpi: &Acpi) {
    for table in &acpi.tables {
        log::debug!(
            "ACPI: {} at {:#x}, {} bytes, revision {}",
            table.signature,
            table.at.0,
            table.length,
            table.revision
        );
    }
    let names: alloc::vec::Vec<_> = acpi.tables.iter().map(|t| alloc::format!("{}", t.signature)).collect();
    log::info!("ACPI: revision {}, tables {}", acpi.root.revision, names.join(" "));
    if let Some(madt) = &acpi.madt {
        let usable = madt.local_apics.iter().filter(|a| a.enabled).count();
        log::info!(
            "ACPI: {usable} processors ({} listed), {} I/O APICs, local APICs at {:#x}",
            madt.local_apics.len(),
            madt.io_apics.len(),
            madt.local_apic_address.0
        );
    }
    for region in &acpi.ecam {
        let (first, last) = region.buses;
        log::info!("ACPI: PCI segment {} buses {first:#x}-{last:#x} at {:#x}", region.segment, region.address.0);
    }
    for (name, what) in [(b"SRAT", "NUMA"), (b"DMAR", "Intel IOMMU"), (b"IVRS", "AMD IOMMU")] {
        if acpi.find(name).is_some() {
            log::info!("ACPI: the firmware describes: {what}");
        }
    }
    for problem in &acpi.problems {
        log::warn!("{problem}");
    }
}
