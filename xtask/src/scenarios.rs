//! The table of system tests.

use std::time::Duration;

use crate::acpi::Flaw;
use crate::devices::{Card, Controller};
use crate::initrd::Flavour;
use crate::machine::{Loader, Threads};
use crate::scenario::{Initrd, Kernel, Scenario};

/// dom0's user space is up.
const UP: &str = "RADON-TEST: dom0 userspace up";

/// dom0's kernel gives up, and Radon says what came of it.
const DOM0_CRASHED: &[&str] = &["Kernel panic - not syncing", "Hardware domain crashed"];

/// All system tests, quick and basic ones first.
pub(crate) fn all() -> Vec<Scenario> {
    let boots = [
        dom0("boot-1-cpu").cpus(1, Threads::Single),
        dom0("boot-2-cpus").cpus(2, Threads::Single),
        dom0("boot-2-cpus-concurrent").cpus(2, Threads::Multi),
        dom0("boot-4-cpus").cpus(4, Threads::Single).limit(240),
        dom0("boot-4-cpus-concurrent").cpus(4, Threads::Multi).limit(240),
        dom0("boot-8-cpus").cpus(8, Threads::Single).limit(300),
        dom0("boot-grub-bios").loader(Loader::GrubBios).limit(180),
        dom0("boot-grub-uefi").loader(Loader::GrubUefi).limit(180),
        dom0("boot-bochs").radon_only().loader(Loader::Bochs).memory(1024).limit(400),
        dom0("boot-options")
            .radon_only()
            .cpus(4, Threads::Single)
            .append("maxcpus=2 cpuid=no-rdtscp,no-smep dom0_vcpus_pin credit2_runqueue=core nosuch=1")
            .first("Scheduling: 2 run queues for 2 CPUs")
            .first("2 of 4 CPUs are used")
            .first("unknown option 'nosuch=1' is ignored"),
        dom0("boot-unknown-option").radon_only().append("nonsense").first("unknown option 'nonsense' is ignored"),
        Scenario::new("shell")
            .expect(&[UP])
            .answer("# ", "echo $((6 * 7)) is the answer\n")
            .expect(&["42 is the answer"])
            .answer("# ", "poweroff -f\n")
            .expect(&["reboot: Power down"]),
        Scenario::new("dom0-sees-xen").script(
            include_str!("../scripts/dom0-sees-xen.sh"),
            &["hypervisor type", "version", "privileged", "time advances", "physical processors", "hypervisor symbols"],
        ),
        Scenario::new("dom0-dmesg")
            .cpus(2, Threads::Single)
            .script(include_str!("../scripts/dom0-dmesg.sh"), &["no other warnings"]),
        Scenario::new("dom0-load")
            .cpus(2, Threads::Multi)
            .limit(300)
            .script(include_str!("../scripts/dom0-load.sh"), &["processes", "pipes", "memory", "arithmetic"]),
        soak("soak-quick", 50),
    ];
    let devices = [devices("devices"), devices("devices-2-cpus").cpus(2, Threads::Multi)];
    let debian = [Scenario::new("debian")
        .flavour(Flavour::Debian)
        .cards(&[Card::E1000e])
        .limit(300)
        .answer("login: ", "root\n")
        .answer(
            "# ",
            "echo state: $(systemctl is-system-running --wait), failed: $(systemctl --failed --plain --no-legend)\n",
        )
        .expect(&["state: running, failed:"])
        .answer("# ", "echo $(systemd-detect-virt) in $(cat /sys/hypervisor/type), / on $(findmnt -no SOURCE /)\n")
        // CPUID says Xen, which counts for systemd also in a PVH dom0.
        .expect(&["xen in xen, / on /dev/vda"])
        .answer(
            "# ",
            "/lib/systemd/systemd-networkd-wait-online --ipv4 --timeout=60; ip -4 -brief address show scope global\n",
        )
        .expect(&["10.0.2.15/24"])
        .answer("# ", "systemctl poweroff\n")
        .expect(&["reboot: Power down"])];
    let ends = [
        Scenario::new("dom0-poweroff")
            .radon_only()
            .cpus(2, Threads::Single)
            .last_script("poweroff -f; sleep 60")
            .expect(&["reboot: Power down", "switching the machine off (ACPI state S5)"]),
        reports("report-by-debug-key", "C").expect(&[
            "Radon stopped: invalid opcode (#UD)",
            "build id",
            "rip ",
            "Backtrace:",
            "crash_on_purpose",
            "press",
        ]),
        reports("watchdog", "H").cpus(2, Threads::Multi).append("watchdog_timeout=3").expect(&[
            "Radon stopped: watchdog: CPU0 hangs",
            "rip ",
            "Backtrace:",
            "hang_on_purpose",
        ]),
        Scenario::new("dom0-reboot").last_script("reboot -f; sleep 60").expect(&["reboot: Restarting system"]),
        Scenario::new("dom0-crash")
            .last_script("echo c > /proc/sysrq-trigger; sleep 60")
            .expect(&["Kernel panic - not syncing: sysrq triggered crash"])
            .allow("Call Trace:")
            .allow("BUG:")
            .allow("Oops:"),
        Scenario::new("dom0-crash-noreboot")
            .radon_only()
            .append("noreboot")
            .last_script("echo c > /proc/sysrq-trigger; sleep 60")
            .expect(DOM0_CRASHED)
            .expect(&["halted. Reset the machine by hand."])
            .stays()
            .allow("Call Trace:")
            .allow("BUG:")
            .allow("Oops:"),
    ];
    let toolstack = [
        Scenario::new("xl-list")
            .limit(240)
            .script(include_str!("../scripts/xl-list.sh"), &["xl info", "xl list", "xenstore", "xl dmesg"]),
        Scenario::new("xl-guest").limit(400).script(
            include_str!("../scripts/xl-guest.sh"),
            &["create", "boot", "pause", "destroy", "poweroff", "memory returned"],
        ),
        Scenario::new("xl-disk").limit(400).script(include_str!("../scripts/xl-disk.sh"), &["create", "read", "write"]),
        console("xl-console"),
        Scenario::new("xl-tools").cpus(2, Threads::Single).limit(400).script(
            include_str!("../scripts/xl-tools.sh"),
            &["info", "dmesg", "xentop", "xenpm", "hypfs", "triggers", "xentrace"],
        ),
        fpu("fpu"),
        fpu("fpu-avx").avx().cpu_flags(",+pku").dom0_append("radon.keys=1"),
        Scenario::new("xl-save")
            .avx()
            .cpu_flags(",+pku")
            .limit(400)
            .script(include_str!("../scripts/xl-save.sh"), &["boot", "save", "restore", "shutdown"]),
        Scenario::new("xl-migrate").cpus(2, Threads::Single).limit(600).script(
            include_str!("../scripts/xl-migrate.sh"),
            &["boot", "migrate", "broken stream", "never started", "shutdown"],
        ),
        hostile("xl-hostile", 20, 1),
        Scenario::new("xl-shares")
            .cpus(2, Threads::Single)
            .limit(500)
            .script(include_str!("../scripts/xl-shares.sh"), &["weights", "cap", "memory returned"]),
        Scenario::new("xl-sizes")
            .cpus(2, Threads::Single)
            .probe()
            .limit(400)
            .script(include_str!("../scripts/xl-sizes.sh"), &["small", "wide", "large"]),
        // The other tests have the other xenstored.
        Scenario::new("xl-devices").cpus(2, Threads::Single).limit(500).dom0_append("radon.xenstored=c").script(
            include_str!("../scripts/xl-devices.sh"),
            &["boot", "disks", "disk hotplug", "network", "network hotplug", "xentop", "shutdown"],
        ),
        Scenario::new("xl-life").cpus(2, Threads::Single).limit(600).script(
            include_str!("../scripts/xl-life.sh"),
            &[
                "boot",
                "names",
                "cpuid",
                "vcpu hotplug",
                "vcpu pin",
                "balloon",
                "parameters",
                "signals",
                "cpupools",
                "reboot",
                "crash",
                "memory returned",
            ],
        ),
    ]
    .map(|scenario| scenario.flavour(Flavour::Tools));
    let managed = [
        virsh("virsh"),
        Scenario::new("xl-backends").limit(700).script(
            include_str!("../scripts/xl-backends.sh"),
            &["boot", "qcow2 disks", "9pfs", "vfb", "save and restore", "shutdown"],
        ),
    ]
    .map(|scenario| scenario.flavour(Flavour::Full));
    let refusals = [
        refuses("no-module", "the boot loader passed no module").kernel(Kernel::Absent),
        refuses("kernel-is-text", "neither a bzImage nor an ELF file")
            .kernel(Kernel::Bytes(b"This is not a kernel.\n")),
        refuses("kernel-is-empty", "neither a bzImage nor an ELF file").kernel(Kernel::Bytes(b"\0")),
        refuses("kernel-cut-in-header", "the file ends too early").kernel(Kernel::Truncated(600)),
        refuses("kernel-cut-in-payload", "the file ends too early").kernel(Kernel::Truncated(3 << 20)),
        refuses("kernel-damaged", "the compressed data is damaged").kernel(Kernel::BitFlipped),
        refuses("kernel-packed-with-bzip2", "packed with bzip2; use a kernel packed with gzip")
            .kernel(Kernel::PayloadMagic(b"BZh91AY")),
        refuses("kernel-packed-with-lzma", "packed with lzma; use").kernel(Kernel::PayloadMagic(b"\x5d\0\0\0\x04")),
        refuses("kernel-packed-with-lzo", "packed with lzo; use").kernel(Kernel::PayloadMagic(b"\x89LZO\0")),
        refuses("kernel-packed-unknown", "packed in an unknown way").kernel(Kernel::PayloadMagic(b"ROT13")),
        refuses("initrd-is-text", "the second module does not look like an initial file system")
            .initrd(Initrd::Bytes(b"This is no initial file system.\n"))
            .expect(DOM0_CRASHED)
            .allow("Call Trace:")
            .limit(120),
        refuses("initrd-truncated", "Kernel panic - not syncing")
            .initrd(Initrd::Truncated(900_000))
            .expect(&["Hardware domain crashed"])
            .allow("Call Trace:")
            .limit(120),
        refuses("acpi-madt-checksum", "has a wrong checksum")
            .expect(&["Radon stopped: ACPI table APIC at"])
            .broken_table("APIC", Flaw::Checksum),
        refuses("acpi-madt-length", "impossible length (20 bytes)")
            .expect(&["Radon stopped: ACPI table APIC at"])
            .broken_table("APIC", Flaw::Length),
        refuses("acpi-fadt-checksum", "has a wrong checksum")
            .expect(&["Radon stopped: ACPI table FACP at"])
            .broken_table("FACP", Flaw::Checksum),
        refuses("acpi-root-checksum", "Radon stopped: ACPI table RSDT at").broken_table("RSDT", Flaw::Checksum),
        // What dom0 can do without is left out, and said.
        refuses("acpi-hpet-checksum", "ACPI table HPET at")
            .broken_table("HPET", Flaw::Checksum)
            .kernel(Kernel::Bytes(b"The machine came as far as this."))
            .expect(&["neither a bzImage nor an ELF file"]),
        refuses("iommu-forced", "'iommu=force'").append("iommu=force"),
        refuses("dom0-mem-exceeds-ram", "dom0_mem asks for 65536 MiB").append("dom0_mem=64G"),
        refuses("dom0-mem-too-small", "dom0 would get 8 MiB").append("dom0_mem=8M"),
        refuses("machine-below-dom0-mem", "MiB on this machine; give a smaller dom0_mem").memory(96),
        refuses("machine-too-small", "the machine needs more memory").memory(48),
        refuses("cpu-without-svm", "this processor has no AMD SVM").cpu_flags(",-svm"),
        refuses("cpu-without-npt", "SVM without nested paging").cpu_flags(",-npt"),
    ];
    boots.into_iter().chain(devices).chain(debian).chain(ends).chain(toolstack).chain(managed).chain(refusals).collect()
}

/// A machine whose dom0 reaches user space, runs a script and powers off.
fn dom0(name: &'static str) -> Scenario {
    Scenario::new(name).script("true\n", &[]).expect(&["reboot: Power down"])
}

/// A machine with disks on all controllers and both network cards, which is reset and finds its files again.
fn devices(name: &'static str) -> Scenario {
    Scenario::new(name)
        .disks(&[Controller::Virtio, Controller::Ahci, Controller::Nvme])
        .cards(&[Card::Virtio, Card::E1000e])
        .resets()
        .limit(300)
        .last_script(include_str!("../scripts/devices.sh"))
        .expect(&["RADON-TEST: files written ok", "RADON-TEST: virtio-net ok", "RADON-TEST: e1000e ok"])
        .expect(&["reboot: Restarting system"])
        .script(
            include_str!("../scripts/devices.sh"),
            &["files read after reset", "MSI-X of nvme", "MSI-X of virtio", "MSI-X of e1000e", "MSI of ahci"],
        )
        .expect(&["reboot: Power down"])
}

/// A person at the console starts a guest and talks with it, leaves its console, comes back and ends it.
fn console(name: &'static str) -> Scenario {
    Scenario::new(name)
        .limit(400)
        .expect(&[UP])
        // What is typed is shown, too, and must not look like what is waited for.
        .answer("# ", "PS1='do''m0> '\n")
        .answer("dom0> ", "xl create -c guest.cfg\n")
        .expect(&["RADON-TEST: guest userspace up"])
        .answer("# ", "PS1='gue''st> '\n")
        .answer("guest> ", "while sleep 1; do echo still he''re; done &\n")
        .expect(&["still here"])
        // Ctrl-]
        .send("\x1d")
        .answer("dom0> ", "xl console guest\n")
        .expect(&["still here"])
        .send("poweroff -f\n")
        // The guest's kernel.
        .expect(&["reboot: System halted"])
        .answer("dom0> ", "sleep 2; echo guests: $(xl list | grep -c ^guest)\n")
        .expect(&["guests: 0"])
        .send("poweroff -f\n")
        .expect(&["reboot: Power down"])
}

/// libvirt's guest, and a person at its console for a while.
fn virsh(name: &'static str) -> Scenario {
    Scenario::new(name)
        .cpus(2, Threads::Single)
        .limit(600)
        .last_script(include_str!("../scripts/virsh.sh"))
        .expect(&["RADON-TEST: host ok", "RADON-TEST: start ok", "RADON-TEST: information ok"])
        // By then the terminal is virsh's.
        .expect(&["still here"])
        .send("kill %1; echo typed in vir''sh\r")
        .expect(&["typed in virsh"])
        // Ctrl-]
        .send("\x1d")
        .expect(&["RADON-TEST: console ok", "RADON-TEST: control ok", "RADON-TEST: save and restore ok"])
        .expect(&["RADON-TEST: shutdown and destroy ok", "RADON-TEST: script exit 0"])
}

/// Floating point in dom0 and a guest at once. In turns: QEMU with one thread per CPU has a race of FXRSTOR with #VMEXIT on
/// its first CPU (see the book, "A race in QEMU").
fn fpu(name: &'static str) -> Scenario {
    Scenario::new(name)
        .cpus(2, Threads::Single)
        .probe()
        .limit(600)
        .script(include_str!("../scripts/fpu.sh"), &["dom0's floating point", "the guest's floating point"])
}

/// Mixed load on four CPUs for so many seconds.
pub(crate) fn soak(name: &'static str, seconds: u64) -> Scenario {
    Scenario::new(name)
        .cpus(4, Threads::Multi)
        .probe()
        .disks(&[Controller::Virtio])
        .dom0_append(&format!("radon.seconds={seconds}"))
        .clocks_within(Duration::from_millis(50))
        .limit(300 + 4 * seconds)
        .script(include_str!("../scripts/soak.sh"), &["soak", "dmesg"])
}

/// What one of the two saved, restored by the other.
pub(crate) fn soak_streams() -> [Scenario; 2] {
    [
        // Kernels with more than one CPU are lost under Debian's Xen in the emulator now and then, also as its own dom0.
        stream_saved("stream-to-xen", 1).xen_after(stream_restored("stream-to-xen-restore")),
        stream_restored("stream-from-xen").xen_before(stream_saved("stream-from-xen-save", 2)),
    ]
}

/// A guest is saved to the disk.
fn stream_saved(name: &'static str, vcpus: u32) -> Scenario {
    Scenario::new(name)
        .flavour(Flavour::Tools)
        .disks(&[Controller::Nvme])
        .cpu_flags(AS_UNDER_XEN)
        .dom0_append(&format!("radon.vcpus={vcpus}"))
        .limit(400)
        .script(include_str!("../scripts/stream-save.sh"), &["save"])
}

/// It comes back from the disk.
fn stream_restored(name: &'static str) -> Scenario {
    Scenario::new(name)
        .flavour(Flavour::Tools)
        .disks(&[Controller::Nvme])
        .cpu_flags(AS_UNDER_XEN)
        .limit(400)
        .script(include_str!("../scripts/stream-restore.sh"), &["restore", "shutdown"])
}

/// A guest does not find another processor where it comes back: its kernel would go on with instructions that are not
/// there.
const AS_UNDER_XEN: &str = ",-rdtscp";

/// Guests whose crashes leave cores behind.
pub(crate) fn soak_coredump() -> Scenario {
    Scenario::new("soak-coredump")
        .flavour(Flavour::Tools)
        .limit(5000)
        .script(include_str!("../scripts/soak-coredump.sh"), &["coredump-destroy", "coredump-restart"])
}

/// A guest moves between two machines, of which the first has the hypervisor in question; `rounds` times there and back.
pub(crate) fn soak_two_machines(rounds: u64) -> [Scenario; 2] {
    let both = |first, second, xen| {
        two_machines(first, second, xen, Flavour::Tools, rounds).script(
            include_str!("../scripts/machines-source.sh"),
            &["boot", "target killed", "cable cut", "there and back", "shutdown"],
        )
    };
    [both("soak-two-machines", "soak-two-machines-b", false), both("soak-radon-and-xen", "soak-radon-and-xen-b", true)]
}

/// The same with libvirt.
pub(crate) fn soak_virsh_migrate(rounds: u64) -> [Scenario; 2] {
    let both = |first, second, xen| {
        two_machines(first, second, xen, Flavour::Full, rounds).script(
            include_str!("../scripts/virsh-migrate.sh"),
            &["start", "cable cut", "other daemon killed", "own daemon killed", "there and back", "destroy"],
        )
    };
    [
        both("soak-virsh-migrate", "soak-virsh-migrate-b", false),
        both("soak-virsh-radon-and-xen", "soak-virsh-radon-and-xen-b", true),
    ]
}

/// Two machines with a disk that both have, the second under Debian's Xen if `xen` says so. It does what the first one
/// asks for; that one needs a script.
fn two_machines(name: &'static str, other: &'static str, xen: bool, flavour: Flavour, rounds: u64) -> Scenario {
    // Kernels with more than one CPU are lost under Debian's Xen in the emulator now and then.
    let (flags, vcpus) = if xen { (AS_UNDER_XEN, 1) } else { ("", 2) };
    let machine = |name| {
        Scenario::new(name)
            .flavour(flavour)
            .memory(1536)
            .cpu_flags(flags)
            .dom0_append(&format!("radon.rounds={rounds} radon.vcpus={vcpus} {COPY}"))
            .limit(1800 + 1200 * rounds)
    };
    let target = machine(other).script(include_str!("../scripts/machines-target.sh"), &[]);
    machine(name).disks(&[Controller::Nvme]).beside(target, xen)
}

/// Devices of dom0 that serve guests do not reach guests' memory without an IOMMU: then Linux copies.
const COPY: &str = "swiotlb=force";

/// Guests that move, `rounds` times each.
pub(crate) fn soak_migrate(rounds: u64) -> Scenario {
    Scenario::new("soak-migrate")
        .flavour(Flavour::Tools)
        .cpus(2, Threads::Single)
        .dom0_append(&format!("radon.rounds={rounds}"))
        .limit(600 + 400 * rounds)
        .script(include_str!("../scripts/soak-migrate.sh"), &["4 CPUs", "3 CPUs", "2 CPUs", "1 CPUs"])
}

/// A guest that attacks the hypervisor for so many seconds, and another that goes on.
pub(crate) fn hostile(name: &'static str, seconds: u64, seed: u64) -> Scenario {
    Scenario::new(name)
        .flavour(Flavour::Tools)
        .cpus(2, Threads::Multi)
        .probe()
        .dom0_append(&format!("radon.seconds={seconds} radon.seed={seed}"))
        .limit(400 + 8 * seconds)
        .script(include_str!("../scripts/hostile.sh"), &["attacked", "nobody is harmed"])
}

/// Tools that are killed, so many times each.
pub(crate) fn killed(name: &'static str, rounds: u64) -> Scenario {
    Scenario::new(name)
        .flavour(Flavour::Tools)
        .cpus(2, Threads::Single)
        .probe()
        .dom0_append(&format!("radon.rounds={rounds}"))
        .limit(600 + 400 * rounds)
        .script(include_str!("../scripts/xl-killed.sh"), &["create and destroy", "save and migrate", "memory returned"])
}

/// So many guests, one after the other.
pub(crate) fn soak_guests(guests: u64) -> Scenario {
    many("soak-guests", guests)
        .limit(600 + 60 * guests)
        .script(include_str!("../scripts/soak-guests.sh"), &["memory returned"])
}

/// So many guests at once.
pub(crate) fn soak_scale(guests: u64) -> Scenario {
    many("soak-scale", guests)
        .cpus(1, Threads::Single)
        .icount()
        .memory((2048 + 72 * guests).clamp(3072, 16384) as u32)
        .limit(1200 + 120 * guests)
        .script(include_str!("../scripts/soak-scale.sh"), &["alive", "no dearer", "memory returned"])
}

/// A machine for small guests.
fn many(name: &'static str, rounds: u64) -> Scenario {
    Scenario::new(name)
        .flavour(Flavour::Tools)
        .cpus(2, Threads::Single)
        .probe()
        .dom0_append(&format!("radon.rounds={rounds}"))
}

/// Eight guests under load for so many seconds. One thread: with two on a busy host, each flush of another CPU's TLB waits
/// for that CPU's thread, and dom0's kernel complains of unmapping that takes 25 s.
pub(crate) fn soak_crowd(seconds: u64) -> Scenario {
    Scenario::new("soak-crowd")
        .flavour(Flavour::Tools)
        .cpus(2, Threads::Single)
        .dom0_append(&format!("radon.seconds={seconds}"))
        .limit(3600 + 8 * seconds)
        .script(include_str!("../scripts/soak-crowd.sh"), &["responsive", "end"])
}

/// One boot of many.
pub(crate) fn soak_boot(name: &'static str, cpus: u32) -> Scenario {
    dom0(name).cpus(cpus, Threads::Multi).limit(300)
}

/// A machine on whose console input is switched to Radon and a debug key is pressed that makes it stop with a report.
fn reports(name: &'static str, key: &str) -> Scenario {
    Scenario::new(name)
        .radon_only()
        .fails()
        .expect(&[UP])
        .answer("# ", "\x01\x01\x01")
        .expect(&["Serial input to Xen"])
        .send(key)
}

/// A machine on which Radon says why it cannot start dom0, or that dom0 crashed, and leaves the emulator with a status
/// that says so, too.
fn refuses(name: &'static str, why: &str) -> Scenario {
    Scenario::new(name).radon_only().fails().expect(&[why]).limit(60)
}
