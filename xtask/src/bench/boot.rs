//! The start: instructions from reset to dom0's first one, image sizes, and the memory that the hypervisor takes.

use std::fs::{self, File};
use std::io;

use anyhow::Result;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::{Figures, Hypervisor, Lab, Row, kernel, time_at};
use crate::audit::lines;
use crate::initrd::{self, Flavour};
use crate::source;

/// What the issue of boot figures asks for: a third.
const THIRD: f64 = 1.0 / 3.0;
/// The machine that the boot is measured in.
const MEMORY_MIB: u32 = 3072;
/// A large machine, in which tables whose size grows with memory show.
const LARGE_MIB: u32 = 16384;

pub(super) fn measure(lab: &Lab) -> Result<Vec<Row>> {
    let initrd = initrd::build(&lab.debian, Flavour::Mini)?;
    let patched = kernel::measuring(&lab.debian)?;
    let probe = initrd::store("bench-probe", &kernel::multiboot_probe())?;
    let first_instruction = |name: &str, hypervisor, kernel| -> Result<u64> {
        kernel::time(&lab.run(name, hypervisor, kernel, Some(&initrd), MEMORY_MIB, "")?)
    };
    let loaded = first_instruction("probe", &probe, &patched)?;
    let radon = first_instruction("radon-debian", &lab.radon, &patched)?;
    let xen = first_instruction("xen-debian", &lab.xen, &patched)?;
    let row = |name: &str, unit, radon, xen, aim| Row { name: name.to_owned(), unit, radon, xen, aim };
    let mut rows = vec![
        row("firmware and loading, common to both", "", loaded, Some(loaded), None),
        row("reset to dom0's first instruction", "", radon, Some(xen), None),
        row("of it the hypervisor", "", radon - loaded, Some(xen - loaded), Some(THIRD)),
    ];

    let guest = |which, memory| lab.guest(which, memory, "");
    let (small, large) = (guest(Hypervisor::Radon, MEMORY_MIB)?, guest(Hypervisor::Xen, MEMORY_MIB)?);
    let unpacked = |figures: &Figures| -> Result<u64> {
        let get = |name| figures.get(name);
        let entry = time_at(get("entry")?, get("second_tsc")?, get("seconds")? as u8, get("minutes")? as u8)?;
        Ok(entry.saturating_sub(loaded))
    };
    rows.push(row("the same with a tiny, not packed kernel", "", unpacked(&small)?, Some(unpacked(&large)?), None));

    rows.push(row("image", "B", fs::metadata(&lab.radon)?.len(), Some(fs::metadata(&lab.xen)?.len()), Some(THIRD)));
    rows.push(row("image, gzip -9", "B", packed_size(&lab.radon)?, Some(packed_size(&lab.xen)?), None));

    // There is no source in the package of Debian's Xen; the book says what it has.
    let lines = lines::ring0(&source::inventory()?) as u64;
    rows.push(row("lines of code in ring 0", "", lines, None, None));

    let taken = |figures: &Figures, mib: u32| -> Result<u64> {
        let pages = figures.get("free_pages")? + figures.get("dom0_pages")?;
        Ok((u64::from(mib) << 10).saturating_sub(pages * 4))
    };
    let mib = MEMORY_MIB;
    let aim = Some(THIRD);
    rows.push(row("memory taken, of 3 GiB", "KiB", taken(&small, mib)?, Some(taken(&large, mib)?), aim));
    let (radon, xen) = (guest(Hypervisor::Radon, 1024)?, guest(Hypervisor::Xen, 1024)?);
    rows.push(row("memory taken, of 1 GiB", "KiB", taken(&radon, 1024)?, Some(taken(&xen, 1024)?), aim));
    let radon = guest(Hypervisor::Radon, LARGE_MIB)?;
    rows.push(row("memory taken, of 16 GiB", "KiB", taken(&radon, LARGE_MIB)?, None, None));
    Ok(rows)
}

/// The size of a file as `gzip -9` packs it.
fn packed_size(file: &std::path::Path) -> Result<u64> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    io::copy(&mut File::open(file)?, &mut packed)?;
    Ok(packed.finish()?.len() as u64)
}
