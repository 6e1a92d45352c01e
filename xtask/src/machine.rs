//! The emulated machine: one description for `run` and `test`, turned into a QEMU command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::devices::{Card, Disk, Link};
use crate::{bochs, host, iso};

/// Options that Radon and Xen get alike; what a user adds comes after, so it wins.
const HYPERVISOR_OPTIONS: &str =
    "console=com1 com1=115200,8n1 dom0=pvh dom0_mem=640M bootscrub=off loglvl=all guest_loglvl=all";
/// Options that the dom0 kernel gets; what a user adds comes after.
const DOM0_OPTIONS: &str = "console=hvc0";
/// Less is emulated faster: without AVX the guest's libraries take paths that QEMU translates well.
const CPU: &str = "EPYC,-monitor";
const WITHOUT_AVX: &str = ",-xsave,-avx,-avx2";
/// What the model has and QEMU's translator lacks: it would warn of each.
const NOT_IN_TCG: &str = ",-rdseed,-sha-ni,-fxsr-opt,-misalignsse,-3dnowprefetch,-osvw,-topoext,-nrip-save,-xsavec";

/// Port and size of the device that lets ring-0 tests end QEMU with a status: a write of `n` gives `2 n + 1`.
const DEBUG_EXIT: &str = "isa-debug-exit,iobase=0xf4,iosize=0x04";

/// What brings the hypervisor into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Loader {
    /// QEMU itself, as a Multiboot 1 loader.
    #[default]
    Direct,
    /// GRUB started by a BIOS, Multiboot 2.
    GrubBios,
    /// GRUB started by UEFI, Multiboot 2.
    GrubUefi,
    /// As [`Loader::GrubBios`], but in the emulator Bochs, which has none of the settings below but CPUs and memory.
    Bochs,
}

/// How QEMU's translator runs several virtual CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Threads {
    /// All in turn on one thread: repeatable, and the kinder choice on a small machine.
    #[default]
    Single,
    /// One thread each: real concurrency.
    Multi,
}

/// What boots.
#[derive(Clone, Debug)]
pub(crate) struct Payload {
    /// The hypervisor, as an ELF32.
    pub hypervisor: PathBuf,
    /// Whether it is Debian's Xen, which needs an IOMMU and cannot cope with an RDTSCP exit of QEMU's.
    pub is_xen: bool,
    /// The dom0 kernel, unless the machine is to boot without.
    pub kernel: Option<PathBuf>,
    /// dom0's initial file system.
    pub initrd: Option<PathBuf>,
}

/// An emulated machine, switched off.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Names files that are made for it.
    pub name: String,
    pub loader: Loader,
    pub cpus: u32,
    pub threads: Threads,
    pub memory_mib: u32,
    /// With XSAVE and AVX.
    pub avx: bool,
    /// Added to the CPU model, such as `,-svm`.
    pub cpu_flags: String,
    /// Added to the hypervisor's command line.
    pub append: String,
    /// Added to dom0's command line.
    pub dom0_append: String,
    pub disks: Vec<Disk>,
    pub cards: Vec<Card>,
    /// A cable to another machine.
    pub link: Option<Link>,
    /// A reset starts the machine anew; else it ends QEMU.
    pub resets: bool,
    /// One virtual CPU whose clock is the number of instructions executed.
    pub icount: bool,
    /// QEMU waits for a debugger on port 1234.
    pub gdb: bool,
    /// The device that ring-0 tests exit through.
    pub debug_exit: bool,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
}

impl Machine {
    /// One CPU and 3 GiB, loaded directly.
    pub(crate) fn new(name: &str) -> Machine {
        Machine {
            name: name.to_owned(),
            loader: Loader::Direct,
            cpus: 1,
            threads: Threads::Single,
            memory_mib: 3072,
            avx: false,
            cpu_flags: String::new(),
            append: String::new(),
            dom0_append: String::new(),
            disks: Vec::new(),
            cards: Vec::new(),
            link: None,
            resets: false,
            icount: false,
            gdb: false,
            debug_exit: false,
            extra: Vec::new(),
        }
    }

    /// The command that starts the machine with `payload`, its first serial port on standard input and output; `menu`
    /// puts QEMU's own commands there as well, behind Ctrl-A.
    pub(crate) fn command(&self, payload: &Payload, menu: bool) -> Result<Command> {
        if self.loader == Loader::Bochs { bochs::command(self, payload) } else { self.qemu(payload, menu) }
    }

    fn qemu(&self, payload: &Payload, menu: bool) -> Result<Command> {
        host::ensure_tools(host::QEMU)?;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"]);
        qemu.args(["-machine", "q35", "-m", &format!("{}M", self.memory_mib), "-smp", &self.cpus.to_string()]);
        if !self.resets {
            qemu.arg("-no-reboot");
        }
        qemu.args(self.accelerator(payload.is_xen)?);
        qemu.args(["-serial", if menu { "mon:stdio" } else { "stdio" }]);
        if payload.is_xen {
            // Xen uses the remapping of interrupts whether or not QEMU's IOMMU does it: without, they go astray.
            qemu.args(["-device", "amd-iommu,intremap=on"]);
        }
        let (hypervisor, dom0) = self.command_lines();
        match self.loader {
            Loader::Direct => {
                qemu.arg("-kernel").arg(&payload.hypervisor).args(["-append", &hypervisor]);
                let mut modules = Vec::new();
                if let Some(kernel) = &payload.kernel {
                    modules.push(module(kernel, &dom0)?);
                }
                if let Some(initrd) = &payload.initrd {
                    modules.push(module(initrd, "")?);
                }
                if !modules.is_empty() {
                    qemu.args(["-initrd", &modules.join(",")]);
                }
            }
            Loader::GrubBios | Loader::Bochs => {
                qemu.arg("-cdrom").arg(iso::build(&self.name, payload, &hypervisor, &dom0)?);
            }
            Loader::GrubUefi => {
                let image = iso::build(&self.name, payload, &hypervisor, &dom0)?;
                let variables = host::output().join(format!("{}.ovmf", self.name));
                fs::copy(host::OVMF_VARS, &variables).context("cannot copy the UEFI variable store")?;
                qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", host::OVMF_CODE)]);
                qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
                qemu.arg("-cdrom").arg(image);
            }
        }
        for (number, disk) in self.disks.iter().enumerate() {
            disk.attach(&mut qemu, number)?;
        }
        for (number, card) in self.cards.iter().enumerate() {
            card.attach(&mut qemu, number);
        }
        if let Some(link) = &self.link {
            link.attach(&mut qemu)?;
        }
        if self.debug_exit {
            qemu.args(["-device", DEBUG_EXIT]);
        }
        if self.gdb {
            qemu.args(["-gdb", "tcp::1234", "-S"]);
        }
        qemu.args(&self.extra);
        Ok(qemu)
    }

    /// The command lines of the hypervisor and of dom0's kernel.
    pub(crate) fn command_lines(&self) -> (String, String) {
        (join(HYPERVISOR_OPTIONS, &self.append), join(DOM0_OPTIONS, &self.dom0_append))
    }

    fn accelerator(&self, is_xen: bool) -> Result<Vec<String>> {
        let rdtscp = if is_xen { ",-rdtscp" } else { "" };
        let use_kvm = !self.icount && nested_svm();
        let lacking = if use_kvm { "" } else { NOT_IN_TCG };
        let avx = if self.avx { "" } else { WITHOUT_AVX };
        let cpu = format!("{CPU}{avx}{lacking}{rdtscp}{}", self.cpu_flags);
        let words = if self.icount {
            // QEMU runs several CPUs in turns then: a tick is an instruction of any of them.
            let clock = "base=2024-01-01T00:00:00,clock=vm";
            vec!["-accel", "tcg", "-icount", "shift=0,sleep=off", "-rtc", clock, "-cpu", &cpu]
        } else if use_kvm {
            vec!["-accel", "kvm", "-cpu", &cpu]
        } else {
            let threads = match self.threads {
                Threads::Single => "tcg,thread=single",
                Threads::Multi => "tcg,thread=multi",
            };
            vec!["-accel", threads, "-cpu", &cpu]
        };
        Ok(words.into_iter().map(str::to_owned).collect())
    }
}

/// Whether KVM can give its guests AMD's virtualization.
pub(crate) fn nested_svm() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_svm = cpu.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "svm"));
    let nested = fs::read_to_string("/sys/module/kvm_amd/parameters/nested").unwrap_or_default();
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    has_svm && ["1", "Y"].contains(&nested.trim()) && device.is_ok()
}

fn join(first: &str, second: &str) -> String {
    if second.is_empty() { first.to_owned() } else { format!("{first} {second}") }
}

/// A boot module in QEMU's `-initrd`: the file, a blank and the module's command line; commas are written twice since
/// a single one starts the next module.
fn module(file: &Path, command_line: &str) -> Result<String> {
    let name = file.to_str().filter(|name| !name.contains([' ', ',']));
    let name = name.with_context(|| format!("QEMU cannot take a boot module with this name: {}", file.display()))?;
    Ok(join(name, command_line).replace(',', ",,"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_module_s_command_line_is_doubled() {
        assert_eq!(module(Path::new("/k"), "console=hvc0,x root=1").unwrap(), "/k console=hvc0,,x root=1");
        assert_eq!(module(Path::new("/k"), "").unwrap(), "/k");
        assert!(module(Path::new("/a b"), "").is_err());
    }

    #[test]
    fn instructions_are_counted_on_one_thread() {
        let mut machine = Machine::new("t");
        machine.icount = true;
        machine.threads = Threads::Multi;
        let words = machine.accelerator(false).unwrap();
        assert!(words.contains(&"shift=0,sleep=off".to_owned()));
        assert!(!words.iter().any(|word| word.contains("thread=multi")));
    }

    #[test]
    fn only_xen_goes_without_rdtscp() {
        let has = |is_xen| Machine::new("t").accelerator(is_xen).unwrap().iter().any(|word| word.contains("-rdtscp"));
        assert!(has(true) && !has(false));
    }
}
