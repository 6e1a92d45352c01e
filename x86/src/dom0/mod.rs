//! Building dom0: its kernel image, its memory, its ACPI tables and its start information. All of it is computed from
//! byte slices and written through [`radon_core::platform::PhysMemory`].
//!
//! The order of a boot is: [`image`] finds, unpacks and checks the kernel; [`memory`] decides which machine memory
//! becomes dom0's and where everything is placed; [`acpi`] and [`start_info`] write what the kernel is told; `image`
//! copies the kernel's segments to their places.

pub mod image;
#[cfg(test)]
pub(crate) mod testing;
pub mod unpack;
