//! What Linux offers and Rust's standard library does not: places, clocks, barriers on other CPUs, page protection.
// Unsafe: system calls.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// Number of CPUs that are online.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Binds the calling thread to a CPU.
pub(crate) fn pin(cpu: usize) {
    // SAFETY: an all-zero set is a valid empty one, and the call only reads it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        // A CPU that has gone offline leaves the thread where it was.
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}

/// A clock's time since its own beginning.
fn clock(number: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the structure.
    unsafe { libc::clock_gettime(number, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Time since the system started.
pub(crate) fn monotonic() -> Duration {
    clock(libc::CLOCK_MONOTONIC)
}

/// Time since 1970.
pub(crate) fn realtime() -> Duration {
    clock(libc::CLOCK_REALTIME)
}

/// Interrupts every CPU that runs a thread of this process, and waits for them.
pub(crate) fn interrupt_all() {
    const REGISTER_PRIVATE_EXPEDITED: libc::c_int = 1 << 4;
    const PRIVATE_EXPEDITED: libc::c_int = 1 << 3;
    // SAFETY: without memory arguments; registering twice is allowed.
    unsafe {
        libc::syscall(libc::SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0);
        libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED, 0, 0);
    }
}

/// Some pages of memory, given back when dropped.
pub(crate) struct Pages {
    at: *mut u8,
    length: usize,
}

impl Pages {
    /// Fresh pages, all zero; `None` if there are none.
    pub(crate) fn new(length: usize) -> Option<Pages> {
        // SAFETY: a mapping at a place that the system chooses overlaps nothing.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        (at != libc::MAP_FAILED).then_some(Pages { at: at.cast(), length })
    }

    /// As words.
    pub(crate) fn words(&mut self) -> &mut [u64] {
        // SAFETY: the mapping is readable, writable, initialised with zeros, aligned to pages and this value's own.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.length / 8) }
    }

    /// Takes the right to write away and gives it back: other CPUs have to forget what they know of the pages.
    pub(crate) fn reprotect(&mut self) {
        // SAFETY: nobody holds a reference to the pages meanwhile, since this one is exclusive.
        unsafe {
            libc::mprotect(self.at.cast(), self.length, libc::PROT_READ);
            libc::mprotect(self.at.cast(), self.length, libc::PROT_READ | libc::PROT_WRITE);
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`, and no reference outlives this value.
        unsafe { libc::munmap(self.at.cast(), self.length) };
    }
}

/// A pipe: the end to read from and the end to write to.
pub(crate) fn pipe() -> Result<(File, File), String> {
    let (reader, writer) = std::io::pipe().map_err(|error| format!("no pipe: {error}"))?;
    let file = |end: std::os::fd::OwnedFd| File::from(end);
    Ok((file(reader.into()), file(writer.into())))
}

/// An operation of a device, with a structure that it may write to, and that may lead it to more memory of the caller's.
pub(crate) fn ioctl<T>(device: &File, operation: libc::c_ulong, argument: &mut T) -> std::io::Result<()> {
    // SAFETY: the structure lives while the call lasts; what it names is the caller's to give away.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), operation as _, std::ptr::from_mut(argument)) };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
