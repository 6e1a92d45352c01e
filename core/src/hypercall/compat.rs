//! Hypercalls of callers in 32-bit mode: the same operations on structures of another layout.
//!
//! Most structures of the ABI look the same to callers of both kinds. Those that do not have a `long` or a handle in them;
//! [`LAYOUTS`] says of each where its fields are in both. Handlers know nothing of this: they get addresses beyond 4 GiB,
//! where no 32-bit caller has anything, and [`Memory32`] puts each access to such an address through the layout.
//!
//! * From [`STRUCTURES`] on stands the array of structures that the operation's argument points to.
//! * From [`LONGS`] on stands all of the caller's memory as an array of longs: each 4 bytes of it appear as 8.
//!
//! Each access to the caller's memory remains one access, so a structure is still copied in once.

use radon_abi::errno::Errno;
use radon_abi::hypercall as call;
use radon_abi::{grant_table, memory, sched, vcpu, version};

use super::table::lookup;
use super::{Args, Caller, OpResult, Outcome};
use crate::platform::GuestVirtual;
use crate::types::{GuestPhysAddr, GuestVirtAddr};

const STRUCTURES: u64 = 1 << 40;
const LONGS: u64 = 1 << 41;
const LIMIT: u64 = 1 << 42;
/// No structure is larger in either layout.
const LARGEST: usize = 64;

/// A field of a structure: where it is for callers in 32-bit mode, and where for those in 64-bit mode.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// Bytes that are the same in both: places and length.
    Same(usize, usize, usize),
    /// A `long`, or the handle of what looks the same in both.
    Long(usize, usize),
    /// The handle of an array of longs.
    Longs(usize, usize),
}
use Field::{Long, Longs, Same};

impl Field {
    /// Its place and length for 32-bit callers.
    fn narrow(self) -> (usize, usize) {
        match self {
            Same(at, _, len) => (at, len),
            Long(at, _) | Longs(at, _) => (at, 4),
        }
    }

    /// Its place and length in the layout that handlers know.
    fn wide(self) -> (usize, usize) {
        match self {
            Same(_, at, len) => (at, len),
            Long(_, at) | Longs(_, at) => (at, 8),
        }
    }
}

/// A structure's sizes in both layouts and its fields.
#[derive(Debug)]
struct Layout {
    narrow: usize,
    wide: usize,
    fields: &'static [Field],
}

/// An operation whose argument has two layouts.
struct Entry {
    call: u32,
    operation: u32,
    /// Which argument points to it.
    argument: usize,
    layout: &'static Layout,
}

const fn entry(call: u32, operation: u32, argument: usize, layout: &'static Layout) -> Entry {
    Entry { call, operation, argument, layout }
}

static RESERVATION: Layout =
    Layout { narrow: 20, wide: 32, fields: &[Longs(0, 0), Long(4, 8), Same(8, 16, 8), Same(16, 24, 2)] };
static ADD_TO_PHYSMAP: Layout = Layout { narrow: 16, wide: 24, fields: &[Same(0, 0, 8), Long(8, 8), Long(12, 16)] };
static ADD_BATCH: Layout =
    Layout { narrow: 20, wide: 32, fields: &[Same(0, 0, 8), Longs(8, 8), Longs(12, 16), Long(16, 24)] };
static REMOVE: Layout = Layout { narrow: 8, wide: 16, fields: &[Same(0, 0, 2), Long(4, 8)] };
static MEMORY_MAP: Layout = Layout { narrow: 8, wide: 16, fields: &[Same(0, 0, 4), Long(4, 8)] };
static RESOURCE: Layout = Layout { narrow: 28, wide: 32, fields: &[Same(0, 0, 24), Longs(24, 24)] };
static SETUP_TABLE: Layout = Layout { narrow: 16, wide: 24, fields: &[Same(0, 0, 10), Longs(12, 16)] };
static GRANT_COPY: Layout = Layout {
    narrow: 24,
    wide: 40,
    fields: &[Long(0, 0), Same(4, 8, 4), Long(8, 16), Same(12, 24, 4), Same(16, 32, 6)],
};
static POLL: Layout = Layout { narrow: 16, wide: 24, fields: &[Long(0, 0), Same(4, 8, 4), Same(8, 16, 8)] };
static RUNSTATE: Layout = Layout { narrow: 44, wide: 48, fields: &[Same(0, 0, 4), Same(4, 8, 40)] };
static SINGLESHOT: Layout = Layout { narrow: 12, wide: 16, fields: &[Same(0, 0, 12)] };
static PARAMETERS: Layout = Layout { narrow: 4, wide: 8, fields: &[Long(0, 0)] };
static MULTICALL: Layout = Layout {
    narrow: 32,
    wide: 64,
    fields: &[
        Long(0, 0),
        Long(4, 8),
        Long(8, 16),
        Long(12, 24),
        Long(16, 32),
        Long(20, 40),
        Long(24, 48),
        Long(28, 56),
    ],
};

/// A hypercall that is one operation.
const ANY: u32 = u32::MAX;

/// The operations whose argument's layout depends on the caller's mode. The control operations of the toolstack
/// (`domctl`, `sysctl`, `platform_op`) were made to be the same in both.
static LAYOUTS: &[Entry] = &[
    entry(call::MEMORY_OP, memory::XENMEM_INCREASE_RESERVATION, 1, &RESERVATION),
    entry(call::MEMORY_OP, memory::XENMEM_DECREASE_RESERVATION, 1, &RESERVATION),
    entry(call::MEMORY_OP, memory::XENMEM_POPULATE_PHYSMAP, 1, &RESERVATION),
    entry(call::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP, 1, &ADD_TO_PHYSMAP),
    entry(call::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP_BATCH, 1, &ADD_BATCH),
    entry(call::MEMORY_OP, memory::XENMEM_REMOVE_FROM_PHYSMAP, 1, &REMOVE),
    entry(call::MEMORY_OP, memory::XENMEM_MEMORY_MAP, 1, &MEMORY_MAP),
    entry(call::MEMORY_OP, memory::XENMEM_ACQUIRE_RESOURCE, 1, &RESOURCE),
    entry(call::GRANT_TABLE_OP, grant_table::GNTTABOP_SETUP_TABLE, 1, &SETUP_TABLE),
    entry(call::GRANT_TABLE_OP, grant_table::GNTTABOP_COPY, 1, &GRANT_COPY),
    entry(call::SCHED_OP, sched::SCHEDOP_POLL, 1, &POLL),
    entry(call::VCPU_OP, vcpu::VCPUOP_GET_RUNSTATE_INFO, 2, &RUNSTATE),
    entry(call::VCPU_OP, vcpu::VCPUOP_SET_SINGLESHOT_TIMER, 2, &SINGLESHOT),
    entry(call::XEN_VERSION, version::XENVER_PLATFORM_PARAMETERS, 1, &PARAMETERS),
    entry(call::MULTICALL, ANY, 0, &MULTICALL),
];

/// The entry of an operation, if its argument has two layouts.
fn find(number: u32, args: Args) -> Option<&'static Entry> {
    // The bits above a memory operation's number say where it goes on.
    let operation = if number == call::MEMORY_OP { args.u32(0) & 0x3f } else { args.u32(0) };
    LAYOUTS.iter().find(|e| e.call == number && (e.operation == operation || e.operation == ANY))
}

/// Executes hypercall `number` of a caller in 32-bit mode.
///
/// # Errors
/// As the operation's documentation says.
pub(super) fn dispatch(caller: &Caller<'_>, number: u32, args: Args) -> OpResult {
    let handler = lookup(number).ok_or(Errno::ENOSYS)?.handler;
    if number == call::SET_TIMER_OP {
        // 64 bits in two registers.
        return handler(caller, args.with(0, args.get(0) & 0xffff_ffff | args.get(1) << 32));
    }
    let Some(entry) = find(number, args) else { return handler(caller, args) };
    let memory = Memory32 { caller: caller.memory, argument: args.get(entry.argument), layout: entry.layout };
    let outcome = caller.with_memory(&memory, |inner| handler(inner, args.with(entry.argument, STRUCTURES)))?;
    Ok(match outcome {
        Outcome::Continue(next) => Outcome::Continue(memory.narrow_argument(next, entry.argument)),
        done => done,
    })
}

/// The memory of a caller in 32-bit mode as handlers see it.
struct Memory32<'a> {
    caller: &'a dyn GuestVirtual,
    /// Where the caller has the operation's structures.
    argument: u64,
    layout: &'static Layout,
}

/// What an address means.
enum Place {
    /// The caller's own.
    Plain,
    /// So many bytes into the structure that the caller has at this address.
    Structure(GuestVirtAddr, usize),
    /// A long that the caller has at this address.
    Long(GuestVirtAddr),
}

impl Memory32<'_> {
    /// The caller's address of structure `index`.
    fn structure(&self, index: u64) -> Option<u64> {
        index.checked_mul(self.layout.narrow as u64)?.checked_add(self.argument)
    }

    /// What `len` bytes at `at` are; `EFAULT` if they are no whole thing.
    fn place(&self, at: GuestVirtAddr, len: usize) -> Result<Place, Errno> {
        let wide = self.layout.wide as u64;
        match at.0 {
            0..STRUCTURES | LIMIT.. => Ok(Place::Plain),
            STRUCTURES..LONGS => {
                let offset = at.0.saturating_sub(STRUCTURES);
                let (index, inside) = (offset.checked_div(wide), offset.checked_rem(wide));
                let base = index.and_then(|index| self.structure(index)).ok_or(Errno::EFAULT)?;
                let inside = inside.ok_or(Errno::EFAULT)? as usize;
                let whole = inside.checked_add(len).is_some_and(|end| end <= self.layout.wide);
                whole.then_some(Place::Structure(GuestVirtAddr(base), inside)).ok_or(Errno::EFAULT)
            }
            LONGS..LIMIT if len == 8 && at.0.is_multiple_of(2) => Ok(Place::Long(GuestVirtAddr((at.0 & !LONGS) >> 1))),
            LONGS..LIMIT => Err(Errno::EFAULT),
        }
    }

    /// A structure of the caller's, in the layout that handlers know.
    fn load(&self, at: GuestVirtAddr) -> Result<[u8; LARGEST], Errno> {
        let (mut narrow, mut wide) = ([0; LARGEST], [0; LARGEST]);
        self.caller.read(at, narrow.get_mut(..self.layout.narrow).ok_or(Errno::EFAULT)?)?;
        for field in self.layout.fields {
            let (from, len) = field.narrow();
            let (to, _) = field.wide();
            let bytes = part(&narrow, from, len)?;
            match field {
                Same(..) | Long(..) => part_mut(&mut wide, to, len)?.copy_from_slice(bytes),
                Longs(..) => {
                    let handle = bytes.first_chunk().map_or(0, |b| u64::from(u32::from_le_bytes(*b)));
                    // No handle stays none.
                    let shown = if handle == 0 { 0 } else { LONGS | handle << 1 };
                    part_mut(&mut wide, to, 8)?.copy_from_slice(&shown.to_le_bytes());
                }
            }
        }
        Ok(wide)
    }

    /// Writes those fields of a structure that `from`, at `offset` of the layout that handlers know, is part of.
    fn store(&self, at: GuestVirtAddr, offset: usize, from: &[u8]) -> Result<(), Errno> {
        let mut wide = self.load(at)?;
        part_mut(&mut wide, offset, from.len())?.copy_from_slice(from);
        let written = offset..offset.saturating_add(from.len());
        for field in self.layout.fields {
            let (start, len) = field.wide();
            let end = start.saturating_add(len);
            // Handles are never written.
            if matches!(field, Longs(..)) || end <= written.start || start >= written.end {
                continue;
            }
            let (to, len) = field.narrow();
            let to = at.0.checked_add(to as u64).ok_or(Errno::EFAULT)?;
            self.caller.write(GuestVirtAddr(to), part(&wide, start, len)?)?;
        }
        Ok(())
    }

    /// The arguments of a continuation as the caller is to have them in its registers.
    fn narrow_argument(&self, args: Args, argument: usize) -> Args {
        let offset = args.get(argument).saturating_sub(STRUCTURES);
        let index = offset.checked_div(self.layout.wide as u64).unwrap_or(0);
        args.with(argument, self.structure(index).unwrap_or(self.argument))
    }
}

fn part(bytes: &[u8], at: usize, len: usize) -> Result<&[u8], Errno> {
    at.checked_add(len).and_then(|end| bytes.get(at..end)).ok_or(Errno::EFAULT)
}

fn part_mut(bytes: &mut [u8], at: usize, len: usize) -> Result<&mut [u8], Errno> {
    at.checked_add(len).and_then(|end| bytes.get_mut(at..end)).ok_or(Errno::EFAULT)
}

impl GuestVirtual for Memory32<'_> {
    fn read(&self, from: GuestVirtAddr, to: &mut [u8]) -> Result<(), Errno> {
        match self.place(from, to.len())? {
            Place::Plain => self.caller.read(from, to),
            Place::Structure(at, inside) => {
                let wide = self.load(at)?;
                let bytes = part(&wide, inside, to.len())?;
                to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = *byte);
                Ok(())
            }
            Place::Long(at) => {
                let mut narrow = [0; 4];
                self.caller.read(at, &mut narrow)?;
                let bytes = u64::from(u32::from_le_bytes(narrow)).to_le_bytes();
                to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
                Ok(())
            }
        }
    }

    fn write(&self, to: GuestVirtAddr, from: &[u8]) -> Result<(), Errno> {
        match self.place(to, from.len())? {
            Place::Plain => self.caller.write(to, from),
            Place::Structure(at, inside) => self.store(at, inside, from),
            Place::Long(at) => self.caller.write(at, part(from, 0, 4)?),
        }
    }

    fn translate(&self, at: GuestVirtAddr, write: bool) -> Result<GuestPhysAddr, Errno> {
        match self.place(at, 0) {
            Ok(Place::Plain) => self.caller.translate(at, write),
            _ => Err(Errno::EFAULT),
        }
    }
}

#[cfg(test)]
#[path = "compat_tests.rs"]
mod tests;
