//! Error numbers as Xen's `errno.h` fixes them (Linux's numbers). A hypercall returns the negated number.

/// An ABI error: the operation was refused. Convert with [`Errno::to_return`].
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(u16);

/// Result of a hypercall operation.
pub type Result<T> = core::result::Result<T, Errno>;

macro_rules! errnos {
    ($($name:ident = $value:literal, $text:literal;)*) => {
        impl Errno {
            $(#[doc = $text] pub const $name: Errno = Errno($value);)*

            /// The symbolic name, as in `errno.h`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self.0 { $($value => stringify!($name),)* _ => "E?" }
            }

            /// The error that a hypercall's negative result says, if it is one of these.
            #[must_use]
            pub const fn from_return(result: i64) -> Option<Errno> {
                match result.checked_neg() { $(Some($value) => Some(Errno($value)),)* _ => None }
            }
        }
    };
}

errnos! {
    EPERM = 1, "Operation not permitted.";
    ENOENT = 2, "No such entry.";
    ESRCH = 3, "No such domain or vCPU.";
    EINTR = 4, "Interrupted.";
    EIO = 5, "I/O error.";
    ENXIO = 6, "No such device or address.";
    E2BIG = 7, "Argument list too long.";
    ENOEXEC = 8, "Executable format error.";
    EBADF = 9, "Bad handle.";
    EAGAIN = 11, "Try again.";
    ENOMEM = 12, "Out of memory.";
    EACCES = 13, "Permission denied.";
    EFAULT = 14, "Bad guest address.";
    EBUSY = 16, "Resource busy.";
    EEXIST = 17, "Exists already.";
    EXDEV = 18, "Cross-domain link.";
    ENODEV = 19, "No such device.";
    EISDIR = 21, "Is a directory.";
    EINVAL = 22, "Invalid argument.";
    ENFILE = 23, "Table overflow.";
    ENOSPC = 28, "No space left.";
    EROFS = 30, "Read-only.";
    EMLINK = 31, "Too many links.";
    EDOM = 33, "Argument out of domain.";
    ERANGE = 34, "Result out of range.";
    EDEADLK = 35, "Would deadlock.";
    ENAMETOOLONG = 36, "Name too long.";
    ENOLCK = 37, "No locks available.";
    ENOSYS = 38, "Not implemented.";
    ENOTEMPTY = 39, "Not empty.";
    ENODATA = 61, "No data.";
    ETIME = 62, "Timer expired.";
    EBADMSG = 74, "Bad message.";
    EOVERFLOW = 75, "Value too large.";
    EILSEQ = 84, "Illegal byte sequence.";
    ERESTART = 85, "Interrupted, to be continued (never seen by a guest).";
    EUSERS = 87, "Too many users.";
    EOPNOTSUPP = 95, "Operation not supported.";
    EADDRINUSE = 98, "Address in use.";
    EADDRNOTAVAIL = 99, "Address not available.";
    ENOBUFS = 105, "No buffer space.";
    EISCONN = 106, "Already connected.";
    ENOTCONN = 107, "Not connected.";
    ETIMEDOUT = 110, "Timed out.";
    ECONNREFUSED = 111, "Connection refused.";
}

impl Errno {
    /// The value a hypercall returns in RAX for this error: the negated number.
    #[must_use]
    pub const fn to_return(self) -> i64 {
        (self.0 as i64).wrapping_neg()
    }

    /// The positive number.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl core::fmt::Debug for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}({})", self.name(), self.0)
    }
}

impl core::fmt::Display for Errno {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
