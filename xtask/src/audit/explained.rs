//! Why no guest reaches the panics that are in the image. A panic that no rule names fails the audit, and so does a rule
//! that names none.

/// What kind of explanation it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Memory,
    Invariant,
    Start,
    Test,
}

impl Class {
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Class::Memory => "the hypervisor's own memory is used up",
            Class::Invariant => "the code around it makes it impossible, and the compiler cannot see that",
            Class::Start => "before there is a guest: a message on the console is what should happen",
            Class::Test => "the tests in ring 0, which run instead of guests",
        }
    }
}

/// An explanation of all panics of some kinds at some places.
pub(super) struct Rule {
    pub(super) class: Class,
    /// As `panics::ENTRIES` calls them; empty for all.
    pub(super) kinds: &'static [&'static str],
    /// Parts of names of functions or files, inlined ones included; empty for all. With `=` in front, how the name of the
    /// function of the image begins: nothing of ours is inlined in one of the library.
    pub(super) places: &'static [&'static str],
    pub(super) why: &'static str,
}

const fn rule(
    class: Class,
    kinds: &'static [&'static str],
    places: &'static [&'static str],
    why: &'static str,
) -> Rule {
    Rule { class, kinds, places, why }
}

/// What runs once, before dom0.
const START: &[&str] = &[
    "radon/src/main.rs",
    "radon/src/dom0.rs",
    "radon/src/guests.rs",
    "hal/src/boot/",
    "hal/src/acpi.rs",
    "hal/src/smp.rs",
    "hal/src/frames.rs",
    "x86/src/boot_info/",
    "x86/src/acpi/",
    "x86/src/dom0/",
    "core/src/options.rs",
    "radon_hal::svm::enable_on_this_cpu",
    "radon_hal::cpu::brand",
    "radon_hal::time::refine",
    "radon::start",
    "radon::dom0",
    "radon::make_system",
];

/// The explanations; the first that fits holds.
pub(super) const RULES: &[Rule] = &[
    rule(Class::Test, &[], &["selftest"], "a failed expectation of a test"),
    rule(Class::Start, &["no memory"], START, "the start allocates what it needs"),
    rule(
        Class::Start,
        &[],
        &["lz4_flex", "miniz_oxide", "radon_x86::dom0::unpack"],
        "the unpackers of dom0's kernel: their indices are masked or compared before, and fuzzed (`unpack`)",
    ),
    rule(Class::Start, &[], START, "an order of the start that each boot keeps, or a loader's or firmware's list"),
    rule(
        Class::Memory,
        &["no memory"],
        &[
            "control::domctl",
            "control::sysctl",
            "context::",
            "policy",
            "factory",
            "Domain::new",
            "Vcpu::new",
            "credit2",
            "sched::",
            "cpuid",
            "new_cpu",
            "new_vcpu",
        ],
        "what only the control domain asks for: domains, vCPUs, pools, saved state",
    ),
    rule(
        Class::Memory,
        &["no memory"],
        &[],
        "lists whose length is bounded per domain; what guests can make large is allocated with `try_reserve` and refused with ENOMEM",
    ),
    rule(
        Class::Memory,
        &[],
        &["__rdl_alloc_error_handler", "spec_from_iter", "frames::account::Accounts::get"],
        "where these end, and lists longer than all memory",
    ),
    rule(
        Class::Invariant,
        &[],
        &["collections::btree", "collections/btree", "core::ptr::drop_in_place"],
        "the standard library's B-tree checks its own nodes; no code of ours reaches into them",
    ),
    rule(
        Class::Invariant,
        &[],
        &["spin::once"],
        "a cell whose first use panicked: panics stop the machine, so nobody comes afterwards",
    ),
    rule(
        Class::Invariant,
        &[],
        &["alloc/src/sync.rs", "radon_core::sched::pool"],
        "a counter of references reaches half of all numbers: there is no memory for as many",
    ),
    rule(
        Class::Invariant,
        &["expect", "index"],
        &["radon_hal::svm::", "radon_hal::memory::memory", "radon_hal::time::clock", "radon_hal::lock_order"],
        "set up on each CPU before it enters a guest; indexed by the number of a CPU or of a lock's rank",
    ),
    rule(
        Class::Invariant,
        &[],
        &[
            "=core::str",
            "=<core::str",
            "=<&str as",
            "=<char>",
            "=<str as",
            "=core::fmt",
            "=<&T as core::fmt",
            "=alloc::fmt",
            "=core::slice",
            "=alloc::collections",
            "=<T as alloc::string",
        ],
        "the standard library's own indices: searching and printing text, sorting, queues",
    ),
];
