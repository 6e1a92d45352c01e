//! Bootable GRUB images: the way a real machine loads Radon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::host;
use crate::machine::Payload;

/// Makes `<name>.iso`, which boots `payload` on BIOS and UEFI machines, and returns it.
pub(crate) fn build(name: &str, payload: &Payload, hypervisor_options: &str, dom0_options: &str) -> Result<PathBuf> {
    host::ensure_tools(host::GRUB)?;
    let image = host::output().join(format!("{name}.iso"));
    let tree = host::output().join(format!("{name}.iso.tree"));
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(tree.join("boot/grub"))?;
    let put = |from: &Path, to: &str| {
        fs::copy(from, tree.join("boot").join(to)).with_context(|| format!("cannot copy {}", from.display()))
    };
    put(&payload.hypervisor, "hypervisor")?;
    let mut modules = String::new();
    if let Some(kernel) = &payload.kernel {
        put(kernel, "vmlinuz")?;
        modules.push_str(&format!("    module2 /boot/vmlinuz {dom0_options}\n"));
    }
    if let Some(initrd) = &payload.initrd {
        put(initrd, "initrd")?;
        modules.push_str("    module2 /boot/initrd\n");
    }
    let menu = format!(
        "serial --unit=0 --speed=115200\n\
         terminal_input serial\n\
         terminal_output serial\n\
         set timeout=0\n\
         menuentry hypervisor {{\n    \
             multiboot2 /boot/hypervisor {hypervisor_options}\n\
         {modules}}}\n"
    );
    fs::write(tree.join("boot/grub/grub.cfg"), menu)?;
    let mut command = Command::new("grub-mkrescue");
    command.arg("-o").arg(&image).arg(&tree).stdin(Stdio::null());
    let output = command.output().context("cannot start grub-mkrescue")?;
    if !output.status.success() {
        bail!("{} failed\n{}", host::shell_line(&command), String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_dir_all(&tree)?;
    Ok(image)
}
