//! Programs of some bytes that tell when they run: a kernel image of the distribution whose first instructions they
//! replace, and a Multiboot image for the moment when the boot loader is done.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, ProgramHeader};

use super::{END_PORT, RESULT_PORT};
use crate::host;
use crate::packages::Debian;

const XZ: &[host::Tool] = &[host::tool("xz", "xz-utils", "to pack a kernel that measures")];
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PHYS32_ENTRY: u32 = 18;

/// What a program wrote to the result port: the time stamp counter at its first instruction; the counter, some time
/// later, when the real-time clock's second changed; and that clock's seconds and minutes then, as two decimal digits.
const RESULT_SIZE: usize = 8 + 8 + 1 + 1;

/// Machine code for 32-bit protected mode that writes that and ends the machine.
fn program() -> Vec<u8> {
    let port = |port: u16| [&[0x66, 0xba][..], &port.to_le_bytes()].concat(); // mov dx, port
    let write_counter = [
        &[0x0f, 0x31, 0x89, 0xd3][..], // rdtsc; mov ebx, edx
        &port(RESULT_PORT),
        &[0xb9, 8, 0, 0, 0],    // mov ecx, 8
        &[0xee],                // 1: out dx, al
        &[0x0f, 0xac, 0xd8, 8], // shrd eax, ebx, 8
        &[0xc1, 0xeb, 8],       // shr ebx, 8
        &[0xe2, 0xf6],          // loop 1b
    ]
    .concat();
    let clock = |register: u8| [0xb0, register, 0xe6, 0x70, 0xe4, 0x71]; // mov al, register; out 0x70, al; in al, 0x71
    [
        &write_counter[..],
        &clock(0),
        &[0x88, 0xc4], // mov ah, al
        &clock(0),
        &[0x38, 0xe0, 0x74, 0xf6], // cmp al, ah; je to the second reading of the seconds
        &write_counter,
        &clock(0),
        &port(RESULT_PORT),
        &[0xee], // out dx, al
        &clock(2),
        &[0xee],
        &port(END_PORT),
        &[0xee, 0xf4, 0xeb, 0xfd], // out dx, al; 2: hlt; jmp 2b
    ]
    .concat()
}

/// The virtual time of the program's first instruction, in nanoseconds since the machine's reset, from what it wrote.
pub(super) fn time(bytes: &[u8]) -> Result<u64> {
    let bytes: [u8; RESULT_SIZE] = bytes.try_into().ok().context("the program did not write what it should")?;
    let word = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    super::time_at(word(0), word(8), bytes[16], bytes[17])
}

/// A Multiboot 1 image that is the program alone.
pub(super) fn multiboot_probe() -> Vec<u8> {
    const ADDRESS: u32 = 0x20_0000;
    const MAGIC: u32 = 0x1bad_b002;
    /// Modules on page boundaries, and the image's own addresses.
    const FLAGS: u32 = 0x1_0001;
    const HEADER: u32 = 32;
    let program = program();
    let end = ADDRESS + HEADER + program.len() as u32;
    let checksum = 0u32.wrapping_sub(MAGIC + FLAGS);
    let words = [MAGIC, FLAGS, checksum, ADDRESS, ADDRESS, end, end, ADDRESS + HEADER];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend(program);
    file
}

/// The distribution's kernel with the program at its PVH entry, packed as Linux's build packs it, so that unpacking and
/// loading it costs the same. Made once: packing takes a minute.
pub(super) fn measuring(debian: &Debian) -> Result<PathBuf> {
    let program = program();
    let mut check = flate2::Crc::new();
    check.update(&program);
    let file = host::cache().join(format!("bench-vmlinuz-{}-{:08x}", debian.kernel_release, check.sum()));
    if file.exists() {
        return Ok(file);
    }
    host::ensure_tools(XZ)?;
    eprintln!("Packing a kernel that measures (once)");
    let image = fs::read(debian.kernel())?;
    let (start, end) = payload(&image).context("the kernel is not a bzImage")?;
    let (packed, stated) = image.get(start..end).context("the kernel is truncated")?.split_at(end - start - 4);
    let mut elf = filter(&["--decompress", "--stdout", "--single-stream"], packed)?;
    ensure!(stated == (elf.len() as u32).to_le_bytes(), "the kernel's size is not what it states");
    let entry = entry_offset(&elf)?;
    elf.get_mut(entry..entry + program.len()).context("the entry is at the file's end")?.copy_from_slice(&program);
    let mut payload = filter(&["--check=crc32", "--x86", "--lzma2=dict=32MiB", "--stdout"], &elf)?;
    payload.extend((elf.len() as u32).to_le_bytes());
    // What follows the payload is for kernels that unpack themselves.
    let mut bytes = image[..start].to_vec();
    bytes[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    let temporary = file.with_extension(std::process::id().to_string());
    fs::write(&temporary, bytes)?;
    fs::rename(&temporary, &file)?;
    Ok(file)
}

/// Where a bzImage has the packed kernel, by Linux's boot protocol.
fn payload(image: &[u8]) -> Option<(usize, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let sectors = usize::from(*image.get(0x1f1)?);
    let start = (sectors + 1) * 512 + word(0x248)?;
    Some((start, start.checked_add(word(0x24c)?)?)).filter(|_| image.get(0x202..0x206) == Some(b"HdrS"))
}

/// Where in the file the PVH entry is.
fn entry_offset(elf: &[u8]) -> Result<usize> {
    let endian = LittleEndian;
    let header = FileHeader64::<LittleEndian>::parse(elf)?;
    let parts = header.program_headers(endian, elf)?;
    let mut entry = None;
    for part in parts.iter().filter(|part| part.p_type(endian) == PT_NOTE) {
        let Some(mut notes) = part.notes(endian, elf)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == b"Xen" && note.n_type(endian) == PHYS32_ENTRY {
                entry = note.desc().first_chunk::<4>().map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
            }
        }
    }
    let entry = entry.context("the kernel has no PVH entry")?;
    let holds = |offset: u64, size: u64| (offset < size).then_some(offset);
    let mut offsets = parts.iter().filter(|part| part.p_type(endian) == PT_LOAD).filter_map(|part| {
        let inside = holds(entry.checked_sub(part.p_paddr(endian))?, part.p_filesz(endian))?;
        usize::try_from(part.p_offset(endian) + inside).ok()
    });
    offsets.next().context("no segment has the kernel's PVH entry")
}

/// Runs bytes through xz.
fn filter(arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("xz").args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("xz has no standard input")?;
    let output = std::thread::scope(|scope| {
        let writer = scope.spawn(move || stdin.write_all(input));
        let output = child.wait_with_output();
        // If xz ends early, its status says more than the broken pipe.
        let _ = writer.join();
        output
    })?;
    ensure!(output.status.success(), "xz {} failed", arguments.join(" "));
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Jumps of the program: the positions of the opcode and of the target.
    fn jumps(program: &[u8], opcode: u8) -> Vec<(usize, usize)> {
        let at = (0..program.len() - 1).filter(|at| program[*at] == opcode && program[at + 1] >= 0x80);
        at.map(|at| (at, (at as i64 + 2 + i64::from(program[at + 1] as i8)) as usize)).collect()
    }

    #[test]
    fn the_loops_in_the_program_go_back_to_what_they_repeat() {
        let program = program();
        let loops = jumps(&program, 0xe2);
        assert_eq!(loops.len(), 2);
        assert!(loops.iter().all(|(_, target)| program[*target] == 0xee));
        let [(_, target)] = jumps(&program, 0x74)[..] else { panic!("not one je") };
        assert_eq!(program[target..target + 6], [0xb0, 0, 0xe6, 0x70, 0xe4, 0x71]);
    }

    #[test]
    fn the_time_is_the_counter_less_what_it_was_at_a_whole_second() {
        let result = |entry: u64, later: u64, seconds, minutes| {
            [&entry.to_le_bytes()[..], &later.to_le_bytes(), &[seconds, minutes]].concat()
        };
        // A counter that began 4.5 s after the machine.
        assert_eq!(time(&result(1_000_000_000, 1_500_000_000, 0x06, 0)).unwrap(), 5_500_000_000);
        assert_eq!(time(&result(7, 1_000_000_000, 0x10, 0x01)).unwrap(), 69_000_000_007);
        assert!(time(&result(7, 2_000_000_000, 0x01, 0)).is_err());
        assert!(time(&[0; 7]).is_err());
    }

    #[test]
    fn the_probe_has_a_valid_header() {
        let file = multiboot_probe();
        let word = |n: usize| u32::from_le_bytes(file[4 * n..4 * n + 4].try_into().unwrap());
        assert_eq!(word(0).wrapping_add(word(1)).wrapping_add(word(2)), 0);
        assert_eq!((word(7) - word(3)) as usize, 32);
        assert_eq!(word(5) - word(3), file.len() as u32);
    }
}
