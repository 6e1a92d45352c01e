//! Building dom0: its kernel image, its memory, its ACPI tables and its start information. All of it is computed from
//! byte slices and written through [`radon_core::platform::PhysMemory`].
//!
//! The order of a boot:
//!
//! 1. [`image::Image::find`] looks at the kernel's module; [`memory::scratch`] finds a place for the unpacked kernel, and
//!    [`image::Image::unpack`] fills it. [`image::Kernel::parse`] checks the result.
//! 2. [`acpi::Builder`] collects the tables; [`memory::plan`] chooses dom0's memory and all places in it. The boot modules and
//!    the scratch place are `busy` there.
//! 3. The initial RAM disk moves to its place, *before* the kernel is loaded: boot loaders like to put it where the
//!    kernel goes. Then [`image::Kernel::load`] and the tables and [`start_info::write`].
//! 4. The first vCPU gets [`start_info::entry_state`].

pub mod acpi;
pub mod image;
pub mod memory;
pub mod ranges;
pub mod start_info;
#[cfg(test)]
pub(crate) mod testing;
pub mod unpack;
