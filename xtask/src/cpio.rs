//! Archives in the `newc` cpio format, the one that Linux unpacks as its initial file system.
//!
//! Written here and not by a tool because device nodes and owners in the archive need no privileges this way, and the
//! same content always gives the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};

use anyhow::{Result, ensure};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR_DEVICE: u32 = 0o020_000;

struct Entry {
    /// File type and permission bits.
    mode: u32,
    content: Vec<u8>,
    device: (u32, u32),
}

/// A file tree in the making. Paths have no leading slash; parents are created as needed.
#[derive(Default)]
pub(crate) struct Archive {
    // Sorted by path, so every folder comes before what is in it.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An empty tree.
    pub(crate) fn new() -> Archive {
        Archive::default()
    }

    /// Adds a folder.
    pub(crate) fn directory(&mut self, path: &str) {
        self.add(path, DIRECTORY | 0o755, Vec::new(), (0, 0));
    }

    /// Adds a file; `permissions` are the low nine mode bits.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: impl Into<Vec<u8>>) {
        self.add(path, REGULAR | permissions, content.into(), (0, 0));
    }

    /// Adds a symbolic link at `path` that says `to`.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        self.add(path, SYMLINK | 0o777, to.as_bytes().to_vec(), (0, 0));
    }

    /// Adds a character device.
    pub(crate) fn char_device(&mut self, path: &str, major: u32, minor: u32) {
        self.add(path, CHAR_DEVICE | 0o600, Vec::new(), (major, minor));
    }

    /// Whether something is at `path`.
    pub(crate) fn contains(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    fn add(&mut self, path: &str, mode: u32, content: Vec<u8>, device: (u32, u32)) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.contains(parent)
        {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, content, device });
    }

    /// Writes the archive with its trailer, padded to a multiple of four bytes so that another may follow.
    pub(crate) fn write(&self, to: &mut impl Write) -> Result<()> {
        for (number, (path, entry)) in (1_u32..).zip(&self.entries) {
            write_entry(to, number, path, entry)?;
        }
        let trailer = Entry { mode: 0, content: Vec::new(), device: (0, 0) };
        write_entry(to, 0, "TRAILER!!!", &trailer)
    }
}

fn write_entry(to: &mut impl Write, inode: u32, path: &str, entry: &Entry) -> Result<()> {
    let links = if entry.mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    let size = u32::try_from(entry.content.len())?;
    let name_size = u32::try_from(path.len())? + 1;
    ensure!(!path.contains('\0'), "a path with a NUL");
    write!(to, "070701")?;
    let (major, minor) = entry.device;
    // In order: inode, mode, uid, gid, links, mtime, size, device of the file, device number, name size, checksum.
    for field in [inode, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
        write!(to, "{field:08x}")?;
    }
    to.write_all(path.as_bytes())?;
    to.write_all(&[0])?;
    pad(to, 110 + path.len() + 1)?;
    to.write_all(&entry.content)?;
    pad(to, entry.content.len())?;
    Ok(())
}

fn pad(to: &mut impl Write, written: usize) -> io::Result<()> {
    to.write_all(&[0; 3][..written.wrapping_neg() % 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader that knows no more than the format's description: (path, mode, content) of each entry.
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * n..][..8]).unwrap();
                u32::from_str_radix(text, 16).unwrap() as usize
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            assert_eq!(bytes[110 + name_size - 1], 0);
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), data);
                return entries;
            }
            entries.push((name, mode as u32, bytes[data..data + size].to_vec()));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn entries_are_written_with_parents_first() {
        let mut archive = Archive::new();
        archive.file("usr/bin/tool", 0o755, *b"12345");
        archive.symlink("bin", "usr/bin");
        archive.char_device("dev/console", 5, 1);
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let expected = [
            ("bin", 0o120_777, &b"usr/bin"[..]),
            ("dev", 0o040_755, b""),
            ("dev/console", 0o020_600, b""),
            ("usr", 0o040_755, b""),
            ("usr/bin", 0o040_755, b""),
            ("usr/bin/tool", 0o100_755, b"12345"),
        ];
        let expected: Vec<_> = expected.iter().map(|(p, m, c)| ((*p).to_owned(), *m, c.to_vec())).collect();
        assert_eq!(read(&bytes), expected);
    }

    #[test]
    fn the_kernel_s_own_layout_of_a_header() {
        let mut archive = Archive::new();
        archive.char_device("c", 5, 1);
        let mut bytes = Vec::new();
        archive.write(&mut bytes).unwrap();
        let header = "070701\
            00000001000021800000000000000000000000010000000000000000\
            00000000000000000000000500000001\
            0000000200000000";
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
    }
}
