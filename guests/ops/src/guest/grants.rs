//! `grant_table_op`: the other domain grants, this one maps and copies.

use core::sync::atomic::Ordering;

use radon_abi::errno::Errno;
use radon_abi::grant_table::{
    self as abi, CopyPtr, GetVersion, GrantCopy, MapGrantRef, QuerySize, SetVersion, SetupTable,
};
use radon_abi::grant_table::{SwapGrantRef, UnmapGrantRef};
use radon_abi::memory::{AddToPhysmap, XENMAPSPACE_GRANT_TABLE, XENMEM_ADD_TO_PHYSMAP};
use radon_abi::{hypercall, xen};
use radon_guest::Page;
use zerocopy::FromZeros;

use super::HOLE;
use super::calls::grant;
use super::check::{Differs, Group, Outcome, holds, refused, refuses, same, works};
use super::twin::{SPARE, Twin};

pub(crate) static GROUP: Group = Group {
    number: hypercall::GRANT_TABLE_OP,
    checks: &[
        works(abi::GNTTABOP_SETUP_TABLE, "setup_table", setup_table),
        works(abi::GNTTABOP_MAP_GRANT_REF, "map_grant_ref", map_grant_ref),
        works(abi::GNTTABOP_UNMAP_GRANT_REF, "unmap_grant_ref", unmap_grant_ref),
        refused(abi::GNTTABOP_DUMP_TABLE, "dump_table"),
        refused(abi::GNTTABOP_TRANSFER, "transfer"),
        works(abi::GNTTABOP_COPY, "copy", copy),
        works(abi::GNTTABOP_QUERY_SIZE, "query_size", query_size),
        refused(abi::GNTTABOP_UNMAP_AND_REPLACE, "unmap_and_replace"),
        works(abi::GNTTABOP_SET_VERSION, "set_version", set_version),
        refused(abi::GNTTABOP_GET_STATUS_FRAMES, "get_status_frames"),
        works(abi::GNTTABOP_GET_VERSION, "get_version", get_version),
        works(abi::GNTTABOP_SWAP_GRANT_REF, "swap_grant_ref", swap_grant_ref),
        refused(abi::GNTTABOP_CACHE_FLUSH, "cache_flush"),
    ],
};

/// Frames of the other domain: its grant table, what it grants.
const TABLE: u64 = SPARE + 8;
const GRANTED: u64 = SPARE;
/// References that it grants by: the page, the same to read only.
const REFERENCE: u32 = 8;
const READ_ONLY: u32 = 9;
/// What is in the page.
const WORDS: u64 = 0x7061_6765_2031_3233;

/// One operation of one structure.
fn one<T>(operation: u32, argument: &mut T) -> Outcome {
    grant(operation, core::slice::from_mut(argument))?;
    Ok(())
}

/// The other domain's table is where it can write it, with two entries.
fn setup_table(twin: &Twin) -> Outcome {
    let mut setup =
        SetupTable { dom: xen::DOMID_SELF, nr_frames: 1, frame_list: Twin::structure() + 64, ..SetupTable::default() };
    twin.place(&mut setup);
    let operation = abi::GNTTABOP_SETUP_TABLE;
    let arguments = [u64::from(operation), Twin::structure(), 1, 0, 0];
    twin.hyper(hypercall::GRANT_TABLE_OP, operation, arguments)??;
    let status = twin.read(Twin::structure() + 8)? as i16;
    same("status", status, abi::GNTST_OKAY)?;
    let mut add = AddToPhysmap {
        domid: xen::DOMID_SELF,
        space: XENMAPSPACE_GRANT_TABLE,
        idx: 0,
        gpfn: TABLE,
        ..AddToPhysmap::default()
    };
    twin.operate(hypercall::MEMORY_OP, XENMEM_ADD_TO_PHYSMAP, &mut add)??;
    // An entry is flags, domain 0 and frame.
    let entry = u64::from(abi::GTF_PERMIT_ACCESS) | GRANTED << 32;
    twin.write(entry_at(REFERENCE), entry)?;
    twin.write(entry_at(READ_ONLY), entry | u64::from(abi::GTF_READONLY))?;
    twin.write(GRANTED * 4096, WORDS)
}

/// Where the other domain has an entry of its table.
pub(crate) fn entry_at(reference: u32) -> u64 {
    TABLE * 4096 + u64::from(reference) * abi::GRANT_ENTRY_V1_SIZE
}

/// Maps what the other domain grants.
fn map(twin: &Twin, reference: u32, flags: u32) -> Result<MapGrantRef, Differs> {
    let mut map = MapGrantRef {
        host_addr: HOLE.gfn() * 4096,
        flags: abi::GNTMAP_HOST_MAP | flags,
        gref: reference,
        dom: twin.domain,
        ..MapGrantRef::default()
    };
    one(abi::GNTTABOP_MAP_GRANT_REF, &mut map)?;
    Ok(map)
}

fn unmap(map: MapGrantRef) -> Result<i16, Differs> {
    let mut unmap = UnmapGrantRef { host_addr: map.host_addr, handle: map.handle, ..UnmapGrantRef::default() };
    one(abi::GNTTABOP_UNMAP_GRANT_REF, &mut unmap)?;
    Ok(unmap.status)
}

fn map_grant_ref(twin: &Twin) -> Outcome {
    let mapped = map(twin, REFERENCE, 0)?;
    same("status", mapped.status, abi::GNTST_OKAY)?;
    let seen = HOLE.0[0].load(Ordering::Acquire);
    HOLE.0[1].store(WORDS + 1, Ordering::Release);
    let written = twin.read(GRANTED * 4096 + 8)?;
    let in_use = twin.read(entry_at(REFERENCE))? as u16;
    same("status of unmapping", unmap(mapped)?, abi::GNTST_OKAY)?;
    same("what the page has", seen, WORDS)?;
    same("what was written to it", written, WORDS + 1)?;
    let bits = abi::GTF_READING | abi::GTF_WRITING;
    same("the entry's marks of use", in_use & bits, bits)?;
    same("status of a grant to read", map(twin, READ_ONLY, 0)?.status, abi::GNTST_GENERAL_ERROR)?;
    let status = map(twin, REFERENCE + 20, 0)?.status;
    same("status of what is not granted", status, abi::GNTST_GENERAL_ERROR)?;
    same("status of a reference that cannot be", map(twin, u32::MAX, 0)?.status, abi::GNTST_BAD_GNTREF)
}

fn unmap_grant_ref(twin: &Twin) -> Outcome {
    let mapped = map(twin, READ_ONLY, abi::GNTMAP_READONLY)?;
    same("status of mapping", mapped.status, abi::GNTST_OKAY)?;
    same("status", unmap(mapped)?, abi::GNTST_OKAY)?;
    let in_use = twin.read(entry_at(READ_ONLY))? as u16;
    same("the entry's marks of use", in_use & (abi::GTF_READING | abi::GTF_WRITING), 0)?;
    same("status of the same again", unmap(mapped)?, abi::GNTST_BAD_HANDLE)
}

fn copy(twin: &Twin) -> Outcome {
    static TARGET: Page = Page::new();
    let here = |offset| CopyPtr { frame: TARGET.gfn(), domid: xen::DOMID_SELF, offset, _pad: 0 };
    let there = |reference: u32, offset| CopyPtr { frame: u64::from(reference), domid: twin.domain, offset, _pad: 0 };
    let from_there = GrantCopy {
        source: there(READ_ONLY, 0),
        dest: here(16),
        len: 8,
        flags: abi::GNTCOPY_SOURCE_GREF,
        ..FromZeros::new_zeroed()
    };
    let to_there = GrantCopy {
        source: here(16),
        dest: there(REFERENCE, 800),
        len: 8,
        flags: abi::GNTCOPY_DEST_GREF,
        ..FromZeros::new_zeroed()
    };
    let forbidden = GrantCopy { dest: there(READ_ONLY, 0), ..to_there };
    let too_long = GrantCopy { len: 4096, ..from_there };
    let mut copies = [from_there, to_there, forbidden, too_long];
    grant(abi::GNTTABOP_COPY, &mut copies)?;
    let results = copies.map(|copy| copy.status);
    let expected = [abi::GNTST_OKAY, abi::GNTST_OKAY, abi::GNTST_GENERAL_ERROR, abi::GNTST_BAD_COPY_ARG];
    same("results", results, expected)?;
    same("what was copied here", TARGET.0[2].load(Ordering::Acquire), WORDS)?;
    same("what was copied there", twin.read(GRANTED * 4096 + 800)?, WORDS)
}

fn query_size(twin: &Twin) -> Outcome {
    let mut size = QuerySize { dom: twin.domain, ..QuerySize::default() };
    one(abi::GNTTABOP_QUERY_SIZE, &mut size)?;
    same("status and frames", (size.status, size.nr_frames, size.max_nr_frames), (abi::GNTST_OKAY, 1, 64))?;
    size.dom = 77;
    one(abi::GNTTABOP_QUERY_SIZE, &mut size)?;
    same("status of a domain that is not there", size.status, abi::GNTST_BAD_DOMAIN)
}

/// The version of a domain's table.
fn version(domain: u16) -> Result<u32, Differs> {
    let mut get = GetVersion { dom: domain, ..GetVersion::default() };
    one(abi::GNTTABOP_GET_VERSION, &mut get)?;
    Ok(get.version)
}

/// This domain's, whose table nobody uses.
fn set_version(_: &Twin) -> Outcome {
    let was = version(xen::DOMID_SELF)?;
    same("version", was, 1)?;
    let mut set = SetVersion { version: 2 };
    one(abi::GNTTABOP_SET_VERSION, &mut set)?;
    same("version", version(xen::DOMID_SELF)?, 2)?;
    set.version = 1;
    one(abi::GNTTABOP_SET_VERSION, &mut set)?;
    same("version", version(xen::DOMID_SELF)?, 1)?;
    set.version = 3;
    refuses(
        "a version that is not there",
        grant(abi::GNTTABOP_SET_VERSION, core::slice::from_mut(&mut set)),
        Errno::EINVAL,
    )
}

fn get_version(twin: &Twin) -> Outcome {
    same("the other domain's", version(twin.domain)?, 1)
}

/// The other domain exchanges an entry for an empty one, and back.
fn swap_grant_ref(twin: &Twin) -> Outcome {
    const EMPTY: u32 = 20;
    let operation = abi::GNTTABOP_SWAP_GRANT_REF;
    let entry = twin.read(entry_at(REFERENCE))?;
    let swap = || -> Outcome {
        twin.place(&mut SwapGrantRef { ref_a: REFERENCE, ref_b: EMPTY, ..SwapGrantRef::default() });
        let arguments = [u64::from(operation), Twin::structure(), 1, 0, 0];
        twin.hyper(hypercall::GRANT_TABLE_OP, operation, arguments)??;
        same("status", twin.read(Twin::structure() + 8)? as i16, abi::GNTST_OKAY)
    };
    holds("there is an entry", entry != 0)?;
    swap()?;
    same("both entries", (twin.read(entry_at(REFERENCE))?, twin.read(entry_at(EMPTY))?), (0, entry))?;
    swap()?;
    same("both entries", (twin.read(entry_at(REFERENCE))?, twin.read(entry_at(EMPTY))?), (entry, 0))
}
