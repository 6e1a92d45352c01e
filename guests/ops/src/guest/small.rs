//! Hypercalls with few operations: the console, multicalls, timers, assistance, the hypervisor's file system, and those
//! that are not there.

use core::ptr;

use radon_abi::domctl::{self, VcpuContext};
use radon_abi::errno::Errno;
use radon_abi::event_channel::{BindVirq, EVTCHNOP_BIND_VIRQ, EVTCHNOP_CLOSE, OnePort};
use radon_abi::guest_context::VcpuGuestContext;
use radon_abi::hypfs::{self, DirEntry};
use radon_abi::sysctl::{ReadConsole, XEN_SYSCTL_READCONSOLE};
use radon_abi::xen::{self, MulticallEntry};
use radon_abi::{hypercall, version};
use zerocopy::{FromBytes, FromZeros};

use super::calls::{Answer, domctl, event, hyper, sysctl};
use super::check::{Differs, Group, NONE, Outcome, holds, refused, refuses, same, say, works};
use super::twin::{Twin, poll};
use super::vcpu::{SOON, in_time};
use super::{PATIENCE, forget, is_pending, now};

pub(crate) static CONSOLE: Group = Group {
    number: hypercall::CONSOLE_IO,
    checks: &[
        works(xen::CONSOLEIO_WRITE, "CONSOLEIO_write", console_write),
        works(xen::CONSOLEIO_READ, "CONSOLEIO_read", console_read),
    ],
};
pub(crate) static MULTICALL: Group = Group { number: hypercall::MULTICALL, checks: &[works(NONE, "-", multicall)] };
pub(crate) static SET_TIMER: Group = Group { number: hypercall::SET_TIMER_OP, checks: &[works(NONE, "-", set_timer)] };
pub(crate) static VM_ASSIST: Group = Group {
    number: hypercall::VM_ASSIST,
    checks: &[
        works(xen::VMASST_CMD_ENABLE, "VMASST_CMD_enable", assist),
        works(xen::VMASST_CMD_DISABLE, "VMASST_CMD_disable", do_not_assist),
    ],
};
pub(crate) static HYPFS: Group = Group {
    number: hypercall::HYPFS_OP,
    checks: &[
        works(hypfs::XEN_HYPFS_OP_GET_VERSION, "XEN_HYPFS_OP_get_version", hypfs_version),
        works(hypfs::XEN_HYPFS_OP_READ, "XEN_HYPFS_OP_read", hypfs_read),
        works(hypfs::XEN_HYPFS_OP_WRITE_CONTENTS, "XEN_HYPFS_OP_write_contents", hypfs_write),
    ],
};
pub(crate) static XSM: Group = Group { number: hypercall::XSM_OP, checks: &[refused(NONE, "-")] };
pub(crate) static XENPMU: Group = Group { number: hypercall::XENPMU_OP, checks: &[refused(NONE, "-")] };

/// Whether the hypervisor's ring of messages has these words.
pub(crate) fn ring_has(words: &str) -> Result<bool, Differs> {
    let mut place = [0u8; 4096];
    let mut from = 0;
    loop {
        let mut read = ReadConsole {
            incremental: 1,
            index: from,
            buffer: place.as_mut_ptr() as u64,
            count: place.len() as u32,
            ..ReadConsole::default()
        };
        sysctl(XEN_SYSCTL_READCONSOLE, &mut read)?;
        let text = &place[..(read.count as usize).min(place.len())];
        if text.windows(words.len()).any(|part| part == words.as_bytes()) {
            return Ok(true);
        }
        // Words that lie across the end of what was read are found the next time.
        if read.count <= words.len() as u32 {
            return Ok(false);
        }
        from = read.index - words.len() as u32;
        if text.len() < place.len() {
            return Ok(false);
        }
    }
}

/// What the other domain writes is in the hypervisor's ring, where this one finds it.
fn console_write(twin: &Twin) -> Outcome {
    const WORDS: &str = "words of the other domain";
    let mut text = *b"words of the other domain\n";
    let number = hypercall::CONSOLE_IO;
    twin.place(&mut text);
    let arguments = [u64::from(xen::CONSOLEIO_WRITE), text.len() as u64, Twin::structure(), 0, 0];
    twin.hyper(number, xen::CONSOLEIO_WRITE, arguments)??;
    holds("they are in the ring", ring_has(WORDS)?)?;
    let nowhere = hyper(number, xen::CONSOLEIO_WRITE, [u64::from(xen::CONSOLEIO_WRITE), 4, 1 << 45]);
    refuses("text at an address that is not mapped", nowhere, Errno::EFAULT)
}

/// Somebody types something when asked to.
fn console_read(_: &Twin) -> Outcome {
    const TYPED: &[u8] = b"typed";
    let mut place = [0u8; 32];
    let mut used = 0;
    let begin = now();
    say(format_args!("OPERATIONS WAIT FOR INPUT"));
    while used < TYPED.len() {
        let room = &mut place[used..];
        let arguments = [u64::from(xen::CONSOLEIO_READ), room.len() as u64, room.as_mut_ptr() as u64];
        used += hyper(hypercall::CONSOLE_IO, xen::CONSOLEIO_READ, arguments)? as usize;
        holds("something is typed", now() - begin < PATIENCE)?;
    }
    holds("it is what was typed", place.starts_with(TYPED))
}

fn multicall(_: &Twin) -> Outcome {
    let version = |op| MulticallEntry {
        op: u64::from(hypercall::XEN_VERSION),
        args: [u64::from(op), 0, 0, 0, 0, 0],
        ..MulticallEntry::default()
    };
    let mut calls = [version(version::XENVER_VERSION), version(99), version(version::XENVER_PAGESIZE)];
    hyper(hypercall::MULTICALL, NONE, [calls.as_mut_ptr() as u64, calls.len() as u64])?;
    let results = calls.map(|call| call.result as i64);
    same("results", results, [4 << 16 | 17, Errno::ENOSYS.to_return(), 4096])
}

/// The timer of old: an event comes at a system time.
fn set_timer(_: &Twin) -> Outcome {
    let mut bind = BindVirq { virq: xen::VIRQ_TIMER, vcpu: 0, port: 0 };
    event(EVTCHNOP_BIND_VIRQ, &mut bind)?;
    forget(bind.port);
    let at = now() + 3_000_000;
    let set = |at: u64| hyper(hypercall::SET_TIMER_OP, NONE, [at]);
    set(at)?;
    poll(bind.port, at + PATIENCE);
    let (fired, time) = (is_pending(bind.port), now());
    forget(bind.port);
    // One that is stopped does not come.
    in_time(|until| {
        set(until)?;
        set(0)?;
        forget(bind.port);
        Ok(())
    })?;
    poll(bind.port, now() + 2 * SOON);
    let stopped = !is_pending(bind.port);
    event(EVTCHNOP_CLOSE, &mut OnePort { port: bind.port })?;
    holds("the timer's event comes", fired)?;
    holds("it does not come early", time >= at)?;
    holds("a timer that is stopped does not come", stopped)
}

/// What the other domain has switched on, as its registers show it.
fn assistance(twin: &Twin) -> Result<u64, Differs> {
    let mut context = VcpuGuestContext::new_zeroed();
    let mut get = VcpuContext { ctxt: ptr::from_mut(&mut context) as u64, ..VcpuContext::default() };
    domctl(domctl::XEN_DOMCTL_GETVCPUCONTEXT, twin.domain, &mut get)?;
    Ok(context.vm_assist)
}

fn set_assistance(twin: &Twin, command: u32, kind: u32) -> Result<Answer, Differs> {
    let arguments = [u64::from(command), u64::from(kind), 0, 0, 0];
    twin.hyper(hypercall::VM_ASSIST, command, arguments)
}

fn assist(twin: &Twin) -> Outcome {
    let kind = xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
    same("assistance", assistance(twin)? >> kind & 1, 0)?;
    set_assistance(twin, xen::VMASST_CMD_ENABLE, kind)??;
    same("assistance", assistance(twin)? >> kind & 1, 1)?;
    refuses("one that is not there", set_assistance(twin, xen::VMASST_CMD_ENABLE, 31)?, Errno::EINVAL)
}

fn do_not_assist(twin: &Twin) -> Outcome {
    let kind = xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
    set_assistance(twin, xen::VMASST_CMD_DISABLE, kind)??;
    same("assistance", assistance(twin)? >> kind & 1, 0)
}

fn hypfs_version(_: &Twin) -> Outcome {
    let operation = hypfs::XEN_HYPFS_OP_GET_VERSION;
    same(
        "version",
        hyper(hypercall::HYPFS_OP, operation, [u64::from(operation), 0, 0, 0, 0])?,
        hypfs::XEN_HYPFS_VERSION,
    )
}

/// Reads or writes the entry at a path, which ends with a NUL.
fn hypfs_entry(operation: u32, path: &[u8], buffer: &mut [u8]) -> Answer {
    let arguments = [
        u64::from(operation),
        path.as_ptr() as u64,
        path.len() as u64,
        buffer.as_mut_ptr() as u64,
        buffer.len() as u64,
    ];
    hyper(hypercall::HYPFS_OP, operation, arguments)
}

/// What an entry is, and what is in it.
fn hypfs_contents(path: &[u8]) -> Result<(DirEntry, [u8; 8]), Differs> {
    let mut place = [0u8; size_of::<DirEntry>() + 8];
    hypfs_entry(hypfs::XEN_HYPFS_OP_READ, path, &mut place)?;
    let (entry, contents) = place.split_at(size_of::<DirEntry>());
    Ok((DirEntry::read_from_bytes(entry).unwrap_or_default(), contents.try_into().unwrap_or_default()))
}

fn hypfs_read(_: &Twin) -> Outcome {
    let (entry, contents) = hypfs_contents(b"/buildinfo/version/minor\0")?;
    same("the minor version", u64::from_le_bytes(contents), 17)?;
    same("its size, and how much can be written", (entry.content_len, entry.max_write_len), (4, 0))?;
    same("what it is", entry.kind, hypfs::XEN_HYPFS_TYPE_UINT)?;
    let mut place = [0u8; 64];
    let none = hypfs_entry(hypfs::XEN_HYPFS_OP_READ, b"/nothing\0", &mut place);
    refuses("an entry that is not there", none, Errno::ENOENT)
}

/// A limit, which is a text.
fn hypfs_write(_: &Twin) -> Outcome {
    const PATH: &[u8] = b"/params/gnttab_max_frames\0";
    let write = |mut text: [u8; 3]| hypfs_entry(hypfs::XEN_HYPFS_OP_WRITE_CONTENTS, PATH, &mut text);
    let (entry, _) = hypfs_contents(PATH)?;
    same("what it is", entry.kind, hypfs::XEN_HYPFS_TYPE_STRING)?;
    write(*b"63\0")?;
    let (_, contents) = hypfs_contents(PATH)?;
    same("what was written", &contents[..3], b"63\0")?;
    write(*b"64\0")?;
    refuses("a text without an end", write(*b"123"), Errno::EDOM)?;
    refuses("a text that is no number", write(*b"x1\0"), Errno::EINVAL)?;
    let fixed = hypfs_entry(hypfs::XEN_HYPFS_OP_WRITE_CONTENTS, b"/buildinfo/version/minor\0", &mut [0; 4]);
    refuses("an entry that cannot be written", fixed, Errno::EACCES)
}
