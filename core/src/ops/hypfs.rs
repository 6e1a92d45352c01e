//! `hypfs_op(op, path, length, buffer, size)`: what the hypervisor is and how it is set, as a tree of files
//! (`xenhypfs`).
//!
//! The tree is a table (`ROOT`) whose leaves are functions; nothing is kept. Who may: the control domain only. Work: one
//! path of at most 1024 bytes and one entry.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use log::LevelFilter;
use radon_abi::errno::Errno;
use radon_abi::hypfs::{self as abi, DirEntry};
use zerocopy::IntoBytes;

use super::version;
use crate::hypercall::{Args, Caller, OpResult, Operation, Outcome, SUCCESS, op, operation};
use crate::hypervisor::Hypervisor;
use crate::options;
use crate::types::GuestVirtAddr;

/// Most bytes of a text that is written.
const TEXT_MAX: u32 = 64;

/// All operations, at their numbers' places.
pub static OPERATIONS: &[Operation] = &[
    op(abi::XEN_HYPFS_OP_GET_VERSION, "XEN_HYPFS_OP_get_version", get_version),
    op(abi::XEN_HYPFS_OP_READ, "XEN_HYPFS_OP_read", read),
    op(abi::XEN_HYPFS_OP_WRITE_CONTENTS, "XEN_HYPFS_OP_write_contents", write_contents),
];

/// What is at a path.
#[derive(Clone, Copy)]
enum Node {
    /// A directory with these entries, by name.
    Directory(&'static [(&'static str, Node)]),
    /// A directory with one for each CPU pool, by number.
    Pools,
    /// The directory of a CPU pool.
    Pool,
    /// A text.
    Text(fn(&Hypervisor) -> String),
    /// A text that can be set.
    Choice(fn(&Hypervisor) -> String, fn(&Hypervisor, &str) -> Result<(), Errno>),
    /// A number.
    Number(fn(&Hypervisor) -> u32),
    /// How the CPUs of a pool are scheduled: each by itself.
    Granularity,
}

const ROOT: Node = Node::Directory(&[("buildinfo", BUILD), ("cpupool", Node::Pools), ("params", PARAMETERS)]);

const BUILD: Node = Node::Directory(&[
    ("changeset", Node::Text(|_| version::CHANGESET.into())),
    ("compileinfo", COMPILED),
    ("version", VERSION),
]);

const COMPILED: Node = Node::Directory(&[
    ("compile_by", Node::Text(|_| version::COMPILED_BY.into())),
    ("compile_date", Node::Text(|_| String::new())),
    ("compile_domain", Node::Text(|_| String::new())),
    ("compiler", Node::Text(|_| version::COMPILER.into())),
]);

const VERSION: Node = Node::Directory(&[
    ("extra", Node::Text(|_| version::EXTRA.into())),
    ("major", Node::Number(|_| version::MAJOR as u32)),
    ("minor", Node::Number(|_| version::MINOR as u32)),
]);

/// Options of the command line that are of use while the machine runs.
const PARAMETERS: Node = Node::Directory(&[
    ("console_timestamps", Node::Text(|hv| hv.console.settings().timestamps.name().into())),
    ("conswitch", Node::Text(|hv| switch_name(hv.console.settings().switch))),
    ("gnttab_max_frames", Node::Choice(|hv| hv.control.grant_limits().0.to_string(), set_grant_frames)),
    ("gnttab_max_maptrack_frames", Node::Choice(|hv| hv.control.grant_limits().1.to_string(), set_maptrack_frames)),
    ("guest_loglvl", Node::Choice(|hv| level_name(hv.console.levels().1), |hv, text| set_level(hv, text, true))),
    ("loglvl", Node::Choice(|hv| level_name(hv.console.levels().0), |hv, text| set_level(hv, text, false))),
    ("sched_ratelimit_us", Node::Number(|hv| hv.scheduler.ratelimit_us())),
]);

const POOL: &[(&str, Node)] = &[("sched-gran", Node::Granularity)];

fn switch_name(switch: u8) -> String {
    match switch {
        // Ctrl with the letter.
        1..=26 => char::from(switch.saturating_add(b'a').saturating_sub(1)).to_string(),
        0 => String::new(),
        other => char::from(other).to_string(),
    }
}

fn level_name(level: LevelFilter) -> String {
    options::level_name(level).into()
}

fn set_level(hv: &Hypervisor, text: &str, of_guests: bool) -> Result<(), Errno> {
    let level = options::log_level(text).ok_or(Errno::EINVAL)?;
    let (host, guest) = hv.console.levels();
    let (host, guest) = if of_guests { (host, level) } else { (level, guest) };
    hv.console.set_levels(&*hv.platform, host, guest);
    Ok(())
}

fn set_grant_frames(hv: &Hypervisor, frames: &str) -> Result<(), Errno> {
    let frames = options::integer_of(frames).ok_or(Errno::EINVAL)?;
    hv.control.set_grant_limits(frames, hv.control.grant_limits().1);
    Ok(())
}

fn set_maptrack_frames(hv: &Hypervisor, frames: &str) -> Result<(), Errno> {
    let frames = options::integer_of(frames).ok_or(Errno::EINVAL)?;
    hv.control.set_grant_limits(hv.control.grant_limits().0, frames);
    Ok(())
}

/// `hypfs_op(op, ...)`.
///
/// # Errors
/// `EPERM` for callers other than the control domain; `ENOSYS` for an unknown operation; else see there.
pub fn hypfs_op(caller: &Caller<'_>, args: Args) -> OpResult {
    caller.privileged()?;
    operation(OPERATIONS, args.u32(0), caller, args)
}

/// `XEN_HYPFS_OP_get_version`: in the result. Errors: `EINVAL` for arguments, of which there are none.
fn get_version(_: &Caller<'_>, args: Args) -> OpResult {
    if (1..5).any(|n| args.get(n) != 0) {
        return Err(Errno::EINVAL);
    }
    Ok(Outcome::Done(abi::XEN_HYPFS_VERSION))
}

/// `XEN_HYPFS_OP_read`: what an entry is, then what it contains.
///
/// Errors: as [`find`]; `EINVAL`: no room to say what it is; `ENOBUFS`: no room for what it contains; what it is was
/// written; `EFAULT`.
fn read(caller: &Caller<'_>, args: Args) -> OpResult {
    let node = find(caller, args)?;
    let (buffer, size) = (args.get(3), args.get(4));
    let header = size_of::<DirEntry>() as u64;
    if size < header {
        return Err(Errno::EINVAL);
    }
    let contents = node.contents(caller.hv);
    let entry = node.entry(contents.len());
    caller.write(GuestVirtAddr(buffer), &entry)?;
    if size.saturating_sub(header) < contents.len() as u64 {
        return Err(Errno::ENOBUFS);
    }
    let after = buffer.checked_add(header).ok_or(Errno::EFAULT)?;
    caller.memory.write(GuestVirtAddr(after), &contents)?;
    SUCCESS
}

/// `XEN_HYPFS_OP_write_contents`: sets an entry.
///
/// Errors: as [`find`]; `EACCES`: it cannot be set; `ENOSPC`: too long; `EDOM`: a text without its end; `EINVAL`: not one
/// that is understood; `EFAULT`.
fn write_contents(caller: &Caller<'_>, args: Args) -> OpResult {
    let node = find(caller, args)?;
    let (buffer, size) = (GuestVirtAddr(args.get(3)), args.get(4));
    let most = node.room();
    if most == 0 {
        return Err(Errno::EACCES);
    }
    if size > u64::from(most) {
        return Err(Errno::ENOSPC);
    }
    let mut bytes = [0; TEXT_MAX as usize];
    let bytes = bytes.get_mut(..size as usize).ok_or(Errno::ENOSPC)?;
    caller.memory.read(buffer, bytes)?;
    match node {
        Node::Choice(_, set) => set(caller.hv, text(bytes).map_err(|_| Errno::EDOM)?)?,
        _ => return Err(Errno::EACCES),
    }
    SUCCESS
}

/// A text that ends with its only NUL.
fn text(bytes: &[u8]) -> Result<&str, Errno> {
    let (last, text) = bytes.split_last().ok_or(Errno::EINVAL)?;
    if *last != 0 || text.contains(&0) {
        return Err(Errno::EINVAL);
    }
    core::str::from_utf8(text).map_err(|_| Errno::EINVAL)
}

/// The node at the path that the caller names.
///
/// # Errors
/// `EINVAL`: not a path, or too long. `ENOENT`: nothing is there. `EFAULT`.
fn find(caller: &Caller<'_>, args: Args) -> Result<Node, Errno> {
    let length = args.get(2);
    if length > u64::from(abi::XEN_HYPFS_MAX_PATHLEN) {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; abi::XEN_HYPFS_MAX_PATHLEN as usize];
    let bytes = bytes.get_mut(..length as usize).ok_or(Errno::EINVAL)?;
    caller.memory.read(args.handle(1), bytes)?;
    let path = text(bytes)?.strip_prefix('/').ok_or(Errno::EINVAL)?;
    if path.is_empty() {
        return Ok(ROOT);
    }
    path.split('/').try_fold(ROOT, |node, name| node.child(caller.hv, name).ok_or(Errno::ENOENT))
}

impl Node {
    /// The entry of this name, if this is a directory that has it.
    fn child(self, hv: &Hypervisor, name: &str) -> Option<Node> {
        self.children(hv)?.into_iter().find(|(n, _)| n == name).map(|(_, node)| node)
    }

    /// All entries, if this is a directory.
    fn children(self, hv: &Hypervisor) -> Option<Vec<(String, Node)>> {
        let table = match self {
            Node::Directory(table) => table,
            Node::Pool => POOL,
            Node::Pools => {
                let next = |from: &u32| hv.scheduler.pool_from(from.saturating_add(1));
                let pools = core::iter::successors(hv.scheduler.pool_from(0), next);
                return Some(pools.map(|n| (n.to_string(), Node::Pool)).collect());
            }
            _ => return None,
        };
        Some(table.iter().map(|(name, node)| (String::from(*name), *node)).collect())
    }

    fn kind(self) -> u8 {
        match self {
            Node::Directory(_) | Node::Pools | Node::Pool => abi::XEN_HYPFS_TYPE_DIR,
            Node::Text(_) | Node::Choice(..) | Node::Granularity => abi::XEN_HYPFS_TYPE_STRING,
            Node::Number(_) => abi::XEN_HYPFS_TYPE_UINT,
        }
    }

    /// Most bytes that can be written to it.
    fn room(self) -> u32 {
        match self {
            Node::Choice(..) => TEXT_MAX,
            _ => 0,
        }
    }

    fn entry(self, length: usize) -> DirEntry {
        DirEntry { kind: self.kind(), content_len: length as u32, max_write_len: self.room(), ..DirEntry::default() }
    }

    fn contents(self, hv: &Hypervisor) -> Vec<u8> {
        let ended = |text: String| text.into_bytes().into_iter().chain([0]).collect();
        match self {
            Node::Text(get) | Node::Choice(get, _) => ended(get(hv)),
            Node::Granularity => ended("cpu".into()),
            Node::Number(get) => get(hv).to_le_bytes().into(),
            Node::Directory(_) | Node::Pools | Node::Pool => list(self.children(hv).unwrap_or_default(), hv),
        }
    }
}

/// A directory's contents.
fn list(children: Vec<(String, Node)>, hv: &Hypervisor) -> Vec<u8> {
    let mut bytes = Vec::new();
    let last = children.len().saturating_sub(1);
    for (n, (name, node)) in children.into_iter().enumerate() {
        let size = abi::NAME_OFFSET.saturating_add(name.len()).saturating_add(1).next_multiple_of(4);
        let end = bytes.len().saturating_add(size);
        let next = if n == last { 0 } else { size as u16 };
        bytes.extend_from_slice(node.entry(node.contents(hv).len()).as_bytes());
        bytes.extend_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(end, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypercall::dispatch;
    use crate::testing::TestHost;
    use crate::types::DomainId;

    const PATH: u64 = 0x1000;
    const BUFFER: u64 = 0x3000;

    fn call(host: &TestHost, op: u32, path: &str, size: u64) -> OpResult {
        let caller = host.caller(DomainId(0), 0);
        let path: Vec<u8> = path.bytes().chain([0]).collect();
        caller.memory.write(GuestVirtAddr(PATH), &path).unwrap();
        let args = Args([u64::from(op), PATH, path.len() as u64, BUFFER, size, 0]);
        dispatch(&caller, radon_abi::hypercall::HYPFS_OP, args)
    }

    fn get(host: &TestHost, path: &str) -> Result<(DirEntry, Vec<u8>), Errno> {
        call(host, abi::XEN_HYPFS_OP_READ, path, 4096)?;
        let caller = host.caller(DomainId(0), 0);
        let entry: DirEntry = caller.read(GuestVirtAddr(BUFFER)).unwrap();
        let mut contents = alloc::vec![0; entry.content_len as usize];
        caller.memory.read(GuestVirtAddr(BUFFER + 12), &mut contents).unwrap();
        Ok((entry, contents))
    }

    fn string(host: &TestHost, path: &str) -> String {
        let (entry, contents) = get(host, path).unwrap();
        assert_eq!(entry.kind, abi::XEN_HYPFS_TYPE_STRING, "{path}");
        text(&contents).unwrap().into()
    }

    fn set(host: &TestHost, path: &str, bytes: &[u8]) -> OpResult {
        host.caller(DomainId(0), 0).memory.write(GuestVirtAddr(BUFFER), bytes).unwrap();
        call(host, abi::XEN_HYPFS_OP_WRITE_CONTENTS, path, bytes.len() as u64)
    }

    /// The names in a directory, as a reader walks it.
    fn names(host: &TestHost, path: &str) -> Vec<String> {
        let (entry, contents) = get(host, path).unwrap();
        assert_eq!((entry.kind, entry.max_write_len), (abi::XEN_HYPFS_TYPE_DIR, 0), "{path}");
        let mut found = Vec::new();
        let mut at = 0;
        loop {
            let next = u16::from_le_bytes([contents[at + 12], contents[at + 13]]);
            let name: Vec<u8> = contents[at + 14..].iter().copied().take_while(|&b| b != 0).collect();
            found.push(String::from_utf8(name).unwrap());
            if next == 0 {
                return found;
            }
            at += usize::from(next);
            assert_eq!(at % 4, 0);
        }
    }

    fn host() -> TestHost {
        let mut host = TestHost::new(1024, 2);
        host.add_domain(1);
        host
    }

    #[test]
    fn the_tree_can_be_walked_to_its_last_leaf() {
        let host = host();
        assert_eq!(names(&host, "/"), ["buildinfo", "cpupool", "params"]);
        let mut left = alloc::vec![String::from("/")];
        let mut leaves = 0;
        while let Some(path) = left.pop() {
            let (entry, contents) = get(&host, &path).unwrap();
            assert_eq!((entry.encoding, entry.pad), (abi::XEN_HYPFS_ENC_PLAIN, 0));
            match entry.kind {
                abi::XEN_HYPFS_TYPE_DIR => {
                    let all = names(&host, &path);
                    assert!(all.is_sorted(), "{path}");
                    left.extend(all.iter().map(|n| alloc::format!("{}/{n}", path.trim_end_matches('/'))));
                }
                abi::XEN_HYPFS_TYPE_STRING => assert!(text(&contents).is_ok(), "{path}"),
                abi::XEN_HYPFS_TYPE_UINT => assert_eq!(contents.len(), 4, "{path}"),
                other => panic!("{path}: {other}"),
            }
            leaves += usize::from(entry.kind != abi::XEN_HYPFS_TYPE_DIR);
        }
        assert!(leaves >= 15, "{leaves}");
        assert_eq!(get(&host, "/buildinfo/version/minor").unwrap().1, 17u32.to_le_bytes());
        assert_eq!(string(&host, "/cpupool/0/sched-gran"), "cpu");
    }

    #[test]
    fn settings_are_set_and_others_are_not() {
        let host = host();
        assert_eq!(set(&host, "/params/gnttab_max_frames", b"77\0"), SUCCESS);
        assert_eq!(string(&host, "/params/gnttab_max_frames"), "77");
        assert_eq!(set(&host, "/params/gnttab_max_maptrack_frames", b"0x20\0"), SUCCESS);
        assert_eq!(host.hv.control.grant_limits(), (77, 32));
        assert_eq!(set(&host, "/params/gnttab_max_frames", b"many\0"), Err(Errno::EINVAL));
        assert_eq!(set(&host, "/params/gnttab_max_frames", &[b'1'; 65]), Err(Errno::ENOSPC));
        assert_eq!(set(&host, "/params/loglvl", b"debug\0"), SUCCESS);
        assert_eq!(string(&host, "/params/loglvl"), "debug");
        assert_eq!(host.hv.console.levels().0, LevelFilter::Debug);
        assert_eq!(set(&host, "/params/guest_loglvl", b"none\0"), SUCCESS);
        assert_eq!(host.hv.console.levels(), (LevelFilter::Debug, LevelFilter::Off));
        assert_eq!(set(&host, "/params/loglvl", b"loud\0"), Err(Errno::EINVAL));
        for bad in [&b"debug"[..], b"\0debug\0", b"\xff\0", b""] {
            assert_eq!(set(&host, "/params/loglvl", bad), Err(Errno::EDOM), "{bad:?}");
        }
        assert_eq!(set(&host, "/params/loglvl", &[b'x'; 65]), Err(Errno::ENOSPC));
        for fixed in ["/", "/params", "/buildinfo/changeset", "/buildinfo/version/major", "/cpupool/0/sched-gran"] {
            assert_eq!(set(&host, fixed, b"x\0"), Err(Errno::EACCES), "{fixed}");
        }
    }

    #[test]
    fn paths_that_are_none() {
        let host = host();
        for path in ["/nosuch", "/params/", "//params", "/params/nosuch", "/params/loglvl/x", "/cpupool/1"] {
            assert_eq!(call(&host, abi::XEN_HYPFS_OP_READ, path, 4096), Err(Errno::ENOENT), "{path}");
        }
        for path in ["", "params"] {
            assert_eq!(call(&host, abi::XEN_HYPFS_OP_READ, path, 4096), Err(Errno::EINVAL), "{path}");
        }
        let caller = host.caller(DomainId(0), 0);
        let read = |path: u64, length: u64| {
            let args = Args([1, path, length, BUFFER, 4096, 0]);
            dispatch(&caller, radon_abi::hypercall::HYPFS_OP, args)
        };
        caller.memory.write(GuestVirtAddr(PATH), &[b'/'; 2048]).unwrap();
        assert_eq!(read(PATH, 1025), Err(Errno::EINVAL));
        assert_eq!(read(PATH, 1024), Err(Errno::EINVAL), "it does not end");
        assert_eq!(read(PATH, 0), Err(Errno::EINVAL));
        assert_eq!(read(u64::MAX - 8, 20), Err(Errno::EFAULT));
    }

    #[test]
    fn room_is_told_when_there_is_too_little() {
        let host = host();
        assert_eq!(call(&host, abi::XEN_HYPFS_OP_READ, "/", 11), Err(Errno::EINVAL));
        assert_eq!(call(&host, abi::XEN_HYPFS_OP_READ, "/", 12), Err(Errno::ENOBUFS));
        let entry: DirEntry = host.caller(DomainId(0), 0).read(GuestVirtAddr(BUFFER)).unwrap();
        assert_eq!(call(&host, abi::XEN_HYPFS_OP_READ, "/", 12 + u64::from(entry.content_len)), SUCCESS);
    }

    #[test]
    fn only_the_control_domain_and_only_these_operations() {
        let mut host = host();
        let guest = host.add_domain(1);
        let version = |id: DomainId, args| dispatch(&host.caller(id, 0), radon_abi::hypercall::HYPFS_OP, Args(args));
        assert_eq!(version(guest, [0; 6]), Err(Errno::EPERM));
        assert_eq!(version(DomainId(0), [0; 6]), Ok(Outcome::Done(1)));
        assert_eq!(version(DomainId(0), [0, 0, 1, 0, 0, 0]), Err(Errno::EINVAL));
        assert_eq!(version(DomainId(0), [3, 0, 0, 0, 0, 0]), Err(Errno::ENOSYS));
    }
}
