//! What an x86 guest *sees*: CPUID and MSR policy, local APIC, I/O APIC, PCI configuration space, instruction decoding
//! and emulation, PVH and ACPI construction; and the parsing of what firmware and boot loaders hand over.
//!
//! Nothing here knows whether SVM or VMX runs the guest, and nothing touches the machine except through traits.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod boot_info;
pub mod context;
pub mod cpuid;
pub mod devices;
pub mod dom0;
pub mod domain;
pub mod emulate;
pub mod factory;
pub mod hwdom;
pub mod irq;
pub mod machine;
pub mod msr;
pub mod npt;
pub mod pci;
pub mod policy;
pub mod ports;
pub mod run;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topology;
pub mod tsc;
pub mod vcpu;
pub mod virt;
