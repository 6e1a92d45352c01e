//! CPU features that the command line hides (`cpuid=`). They are chosen once, on the boot CPU, before anything but the
//! console was set up; from then on [`super::registers::cpuid`] leaves them out, for the hypervisor and for the policies
//! of guests alike. Takes no locks.

use alloc::string::String;
use alloc::vec::Vec;

use radon_core::platform::CpuTopology;
use radon_x86::cpuid::{self, FeatureWords, HostCpuid, hidden};
use radon_x86::topology::ApicLayout;
use spin::once::Once;

use super::registers;

static HIDDEN: Once<FeatureWords> = Once::new();

struct Host;

impl HostCpuid for Host {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let r = registers::cpuid(leaf, subleaf);
        [r.eax, r.ebx, r.ecx, r.edx]
    }
}

/// Hides features by their names (false: hide); returns what was not understood.
pub(crate) fn hide(wishes: &[(String, bool)]) -> Vec<String> {
    if wishes.is_empty() {
        return Vec::new();
    }
    let (words, problems) = hidden::hidden(&cpuid::host_features(&Host), wishes);
    HIDDEN.call_once(|| words);
    problems
}

/// What CPUID said, without what is hidden.
pub(super) fn without(leaf: u32, subleaf: u32, registers: [u32; 4]) -> [u32; 4] {
    HIDDEN.get().map_or(registers, |words| hidden::without(words, leaf, subleaf, registers))
}

/// What the bits of APIC identifiers mean.
pub(crate) fn apic_layout() -> ApicLayout {
    ApicLayout::of(&Host)
}

/// Where the CPU with this APIC identifier is.
pub(crate) fn place(apic_id: u32) -> CpuTopology {
    apic_layout().place(apic_id)
}
