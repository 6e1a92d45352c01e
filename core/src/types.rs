//! Newtypes for addresses, numbers and names, so that a signature says which kind of number it wants.
//!
//! Vocabulary is Xen's: a *gfn* is a guest frame number, an *mfn* a machine frame number, both in units of 4 KiB.

use core::fmt;

/// Bytes in a frame.
pub const PAGE_SIZE: u64 = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The number as an index.
            #[must_use]
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self, f)
            }
        }
    };
}

number!(
    /// A guest frame number: a guest-physical address in units of 4 KiB.
    Gfn(u64), "gfn "
);
number!(
    /// A machine frame number: a machine address in units of 4 KiB.
    Mfn(u64), "mfn "
);
number!(
    /// A guest-physical address in bytes.
    GuestPhysAddr(u64), "gpa "
);
number!(
    /// A guest-virtual (linear) address in bytes. An allegation until translated.
    GuestVirtAddr(u64), "gva "
);
number!(
    /// A machine (host-physical) address in bytes.
    MachineAddr(u64), "maddr "
);
id!(
    /// A domain's number. 0 is dom0; numbers from 0x7ff0 up are reserved names (see radon-abi).
    DomainId(u16), "d"
);
id!(
    /// A vCPU's number within its domain.
    VcpuId(u32), "v"
);
id!(
    /// A physical CPU's number, dense from 0 (0 is the boot CPU).
    CpuId(u32), "CPU"
);
id!(
    /// An event channel port, local to a domain. 0 is never valid.
    Port(u32), "port "
);
id!(
    /// A grant reference: an index into the granting domain's table.
    GrantRef(u32), "gref "
);
id!(
    /// A NUMA node.
    NodeId(u8), "node "
);

impl Gfn {
    /// The guest-physical address of the frame's first byte. `None` if it does not fit 64 bits.
    #[must_use]
    pub const fn checked_addr(self) -> Option<GuestPhysAddr> {
        match self.0.checked_mul(PAGE_SIZE) {
            Some(a) => Some(GuestPhysAddr(a)),
            None => None,
        }
    }

    /// The frame `n` frames further on, if there is one.
    #[must_use]
    pub const fn checked_add(self, n: u64) -> Option<Gfn> {
        match self.0.checked_add(n) {
            Some(g) => Some(Gfn(g)),
            None => None,
        }
    }
}

impl Mfn {
    /// The machine address of the frame's first byte. Frames that exist fit 52 bits, so this cannot wrap for them.
    #[must_use]
    pub const fn addr(self) -> MachineAddr {
        MachineAddr(self.0.wrapping_mul(PAGE_SIZE))
    }

    /// The frame `n` frames further on, if there is one.
    #[must_use]
    pub const fn checked_add(self, n: u64) -> Option<Mfn> {
        match self.0.checked_add(n) {
            Some(m) => Some(Mfn(m)),
            None => None,
        }
    }
}

impl GuestPhysAddr {
    /// The frame that holds this address.
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// The offset within its frame, below [`PAGE_SIZE`].
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl GuestVirtAddr {
    /// The offset within its page, below [`PAGE_SIZE`].
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }
}

impl MachineAddr {
    /// The frame that holds this address.
    #[must_use]
    pub const fn mfn(self) -> Mfn {
        Mfn(self.0 >> PAGE_SHIFT)
    }

    /// The offset within its frame, below [`PAGE_SIZE`].
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE_SIZE - 1)
    }

    /// The address `n` bytes further on, if there is one.
    #[must_use]
    pub const fn checked_add(self, n: u64) -> Option<MachineAddr> {
        match self.0.checked_add(n) {
            Some(a) => Some(MachineAddr(a)),
            None => None,
        }
    }
}

/// A point in time or a length of time in nanoseconds. As a point: *system time*, counted from the start of Radon.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct Nanoseconds(pub u64);

impl Nanoseconds {
    /// A length of whole milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u64) -> Nanoseconds {
        Nanoseconds(ms.saturating_mul(1_000_000))
    }

    /// A length of whole microseconds.
    #[must_use]
    pub const fn from_micros(us: u64) -> Nanoseconds {
        Nanoseconds(us.saturating_mul(1_000))
    }

    /// `self + other`, at most the end of time.
    #[must_use]
    pub const fn saturating_add(self, other: Nanoseconds) -> Nanoseconds {
        Nanoseconds(self.0.saturating_add(other.0))
    }

    /// `self - other`, at least zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Nanoseconds) -> Nanoseconds {
        Nanoseconds(self.0.saturating_sub(other.0))
    }
}

impl fmt::Debug for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ns", self.0)
    }
}

impl fmt::Display for Nanoseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
