//! Disks and network cards of the emulated machine: how a user names them, and QEMU's arguments for them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::host;

/// What a disk is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    /// virtio-blk on PCI Express: `/dev/vda` and on.
    Virtio,
    /// The SATA controller that the machine always has: `/dev/sda` and on.
    Ahci,
    /// An NVMe controller with this disk only: `/dev/nvme0n1` and on.
    Nvme,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub controller: Controller,
    /// A raw image.
    pub file: PathBuf,
    /// What the machine writes is lost when QEMU ends, so that several machines can share the image.
    pub throw_away: bool,
    /// Several machines have it at once and write to it.
    pub shared: bool,
}

impl Disk {
    pub(crate) fn new(controller: Controller, file: impl Into<PathBuf>) -> Disk {
        Disk { controller, file: file.into(), throw_away: false, shared: false }
    }

    /// Understands `FILE` and `CONTROLLER:FILE`.
    pub(crate) fn parse(text: &str) -> Result<Disk, String> {
        let (controller, file) = match text.split_once(':') {
            Some(("virtio", file)) => (Controller::Virtio, file),
            Some(("ahci" | "sata", file)) => (Controller::Ahci, file),
            Some(("nvme", file)) => (Controller::Nvme, file),
            // A colon may also be part of a file's name.
            Some((word, _)) if !word.contains('/') && !Path::new(text).exists() => {
                return Err(format!("'{word}' is not a disk controller: virtio, ahci or nvme"));
            }
            _ => (Controller::Virtio, text),
        };
        if !Path::new(file).is_file() {
            return Err(format!("there is no file '{file}'; 'truncate -s 1G {file}' makes an empty disk"));
        }
        Ok(Disk::new(controller, file))
    }

    /// Adds the disk to QEMU's command line; `number` tells it from other disks.
    pub(crate) fn attach(&self, qemu: &mut Command, number: usize) -> Result<()> {
        let file = self.file.to_str().with_context(|| format!("not UTF-8: {}", self.file.display()))?;
        let snapshot = if self.throw_away { ",snapshot=on" } else { "" };
        let (locking, sharing) = if self.shared { (",file.locking=off", ",share-rw=on") } else { ("", "") };
        // A comma ends a value, two stand for one.
        let file = file.replace(',', ",,");
        qemu.args(["-drive", &format!("if=none,id=disk{number},format=raw{snapshot}{locking},file={file}")]);
        let device = match self.controller {
            Controller::Virtio => format!("virtio-blk-pci,drive=disk{number}"),
            Controller::Ahci => format!("ide-hd,drive=disk{number}"),
            Controller::Nvme => format!("nvme,drive=disk{number},serial=radon{number}"),
        };
        qemu.args(["-device", &format!("{device}{sharing}")]);
        Ok(())
    }
}

/// Model of a network card. Behind each is a network of its own that QEMU makes, with a router, DHCP and name service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Card {
    /// virtio-net on PCI Express.
    Virtio,
    /// Intel 82574L.
    E1000e,
}

impl Card {
    /// Adds the card to QEMU's command line; `number` tells its network, 10.0.2.0/24 and on, from others. TCP port 7 of
    /// host 100 in there returns what it is sent.
    pub(crate) fn attach(self, qemu: &mut Command, number: usize) {
        let model = match self {
            Card::Virtio => "virtio-net-pci",
            Card::E1000e => "e1000e",
        };
        let network = number.saturating_add(2);
        let options = format!("net=10.0.{network}.0/24,guestfwd=tcp:10.0.{network}.100:7-cmd:cat");
        qemu.args(["-netdev", &format!("user,id=net{number},{options}")]);
        // Without a boot ROM: nobody boots from the network.
        qemu.args(["-device", &format!("{model},netdev=net{number},romfile=")]);
    }
}

/// One end of a cable to another machine, which is in dom0 a network card after those of [`Card`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The socket that stands for the cable.
    pub socket: PathBuf,
    /// Makes the socket, so it is to be started first.
    pub listens: bool,
}

impl Link {
    /// Adds the card and its end of the cable to QEMU's command line.
    pub(crate) fn attach(&self, qemu: &mut Command) -> Result<()> {
        let path = self.socket.to_str().with_context(|| format!("not UTF-8: {}", self.socket.display()))?;
        let path = path.replace(',', ",,");
        let (server, address) = if self.listens { ("on", 1) } else { ("off", 2) };
        qemu.args(["-netdev", &format!("stream,id=link,server={server},addr.type=unix,addr.path={path}")]);
        // Not a virtio card: that goes past the IOMMU, which Debian's Xen needs.
        qemu.args(["-device", &format!("e1000e,netdev=link,romfile=,mac=52:54:00:00:01:0{address}")]);
        Ok(())
    }
}

const FILE_SYSTEM: &[host::Tool] = &[host::tool("mke2fs", "e2fsprogs", "making disks with a file system")];

/// Makes a disk image with an empty ext4 file system.
pub(crate) fn empty_disk(file: &Path, mib: u64) -> Result<()> {
    host::ensure_tools(FILE_SYSTEM)?;
    let image = std::fs::File::create(file).with_context(|| format!("cannot create {}", file.display()))?;
    image.set_len(mib << 20)?;
    host::run(with_sbin(Command::new("mke2fs")).args(["-q", "-t", "ext4"]).arg(file))
}

/// For mke2fs, which is not in everybody's search path.
pub(crate) fn with_sbin(mut command: Command) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_named_with_or_without_its_controller() {
        let file = std::env::current_exe().unwrap();
        let name = file.to_str().unwrap();
        assert_eq!(Disk::parse(name), Ok(Disk::new(Controller::Virtio, name)));
        for (word, controller) in
            [("virtio", Controller::Virtio), ("ahci", Controller::Ahci), ("nvme", Controller::Nvme)]
        {
            assert_eq!(Disk::parse(&format!("{word}:{name}")), Ok(Disk::new(controller, name)));
        }
    }

    #[test]
    fn a_wrong_disk_is_explained() {
        let file = std::env::current_exe().unwrap();
        let wrong = Disk::parse(&format!("floppy:{}", file.display())).unwrap_err();
        assert!(wrong.contains("'floppy' is not a disk controller"), "{wrong}");
        let absent = Disk::parse("nvme:/no/such/disk.img").unwrap_err();
        assert!(absent.contains("truncate -s 1G /no/such/disk.img"), "{absent}");
    }

    #[test]
    fn arguments_for_qemu() {
        let mut qemu = Command::new("q");
        let disk = Disk { throw_away: true, ..Disk::new(Controller::Nvme, "/a,b") };
        disk.attach(&mut qemu, 1).unwrap();
        Card::E1000e.attach(&mut qemu, 1);
        let link = Link { socket: "/s,t".into(), listens: false };
        link.attach(&mut qemu).unwrap();
        let shared = Disk { shared: true, ..Disk::new(Controller::Nvme, "/s") };
        shared.attach(&mut qemu, 2).unwrap();
        let line = host::shell_line(&qemu);
        assert!(
            line.contains("if=none,id=disk1,format=raw,snapshot=on,file=/a,,b -device nvme,drive=disk1,"),
            "{line}"
        );
        assert!(line.contains("stream,id=link,server=off,addr.type=unix,addr.path=/s,,t "), "{line}");
        assert!(line.contains("file.locking=off,file=/s -device nvme,drive=disk2,serial=radon2,share-rw=on"), "{line}");
        assert!(line.contains("net=10.0.3.0/24") && line.contains("e1000e,netdev=net1"), "{line}");
    }
}
