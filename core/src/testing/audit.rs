//! Looks at everything a hypervisor keeps, between two steps of a test, and says what does not fit together.
//!
//! - Each frame has one use: free, the hypervisor's, a domain's, or provided to a domain; free blocks do not overlap, and
//!   nothing is in none of them.
//! - A domain's frame is mapped as RAM at one place of its owner's map, and its count is the owner's claim and the number
//!   of mappings and pins: none without a reference, no reference without one.
//! - Accounts, promises, grants in use, handles, ports and their peers say what is there.
//! - No CPU has two vCPUs.
//!
//! Takes locks of all kinds, one after the other: nothing may be under way.

#![allow(clippy::arithmetic_side_effects, reason = "counts of what is in memory")]

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use radon_abi::xen::DOMID_FIRST_RESERVED;

use crate::domain::Domain;
use crate::frames::Kind as FrameKind;
use crate::hypervisor::Hypervisor;
use crate::p2m::Kind;
use crate::types::{DomainId, Gfn, Mfn};

/// What the audit has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Free frames.
    pub free: u64,
    /// Frames of the hypervisor.
    pub hypervisor: u64,
    /// Of these, those in page tables of domains.
    pub tables: u64,
    /// Whether page tables of domains that are gone wait to be freed: then the number of tables says less.
    pub unburied: bool,
}

/// References to one frame that were found.
#[derive(Clone, Copy, Default)]
struct Found {
    references: u64,
    /// Where its owner's map has it as RAM.
    home: Option<(DomainId, Gfn)>,
    /// The hypervisor provides it to its owner.
    provided: bool,
}

/// All domains.
fn domains(hv: &Hypervisor) -> Vec<Arc<Domain>> {
    let mut all = Vec::new();
    let mut next = Some(DomainId(0));
    while let Some(domain) = next.and_then(|from| hv.domains.next_from(from)) {
        next = domain.id.0.checked_add(1).map(DomainId);
        all.push(domain);
    }
    all
}

/// Calls `f` with each entry that is not a hole: first gfn, number of frames, entry.
fn for_entries(
    hv: &Hypervisor,
    domain: &Domain,
    mut f: impl FnMut(Gfn, u64, crate::p2m::Entry) -> Result<(), String>,
) -> Result<(), String> {
    let limit = domain.p2m.max_gfn().0.saturating_add(1).min(domain.p2m.limit().0);
    let mut at = 0;
    while at < limit {
        let found = domain.p2m.query(hv, Gfn(at));
        if found.entry.kind != Kind::Hole {
            f(Gfn(at), found.order.frames(), found.entry)?;
        }
        at = (at | found.order.mask()).saturating_add(1);
    }
    Ok(())
}

/// Checks everything.
///
/// # Errors
/// The first thing that does not fit.
pub fn audit(hv: &Hypervisor) -> Result<Totals, String> {
    let all = domains(hv);
    let mut frames = vec![Found::default(); hv.frames.end().0 as usize];
    let mut totals = Totals { unburied: hv.control.has_graves(), ..Totals::default() };
    for domain in &all {
        count_mappings(hv, domain, &mut frames)?;
        count_pins(hv, domain, &mut frames)?;
        check_grants(hv, domain, &all)?;
        domain.events.check(domain)?;
        totals.tables = totals.tables.saturating_add(domain.p2m.table().pages());
    }
    check_cpus(&all)?;
    check_frames(hv, &all, &frames, &mut totals)?;
    Ok(totals)
}

fn found(frames: &mut [Found], mfn: Mfn) -> Result<&mut Found, String> {
    frames.get_mut(mfn.0 as usize).ok_or_else(|| format!("{mfn} is beyond the end of memory"))
}

fn count_mappings(hv: &Hypervisor, domain: &Domain, frames: &mut [Found]) -> Result<(), String> {
    let id = domain.id;
    let mut demand = 0u64;
    for_entries(hv, domain, |gfn, count, entry| {
        for n in 0..count {
            let (gfn, mfn) = (Gfn(gfn.0.wrapping_add(n)), Mfn(entry.mfn.0.wrapping_add(n)));
            match entry.kind {
                Kind::RamRw | Kind::RamRo | Kind::RamLogDirty => {
                    let frame = found(frames, mfn)?;
                    if let Some((other, at)) = frame.home.replace((id, gfn)) {
                        return Err(format!("{mfn} is RAM of {id} at {gfn} and of {other} at {at}"));
                    }
                    if hv.frames.gfn(mfn) != Some(gfn) {
                        return Err(format!("{mfn} is at {gfn} of {id}, but noted at {:?}", hv.frames.gfn(mfn)));
                    }
                }
                Kind::Special | Kind::Foreign | Kind::GrantRw | Kind::GrantRo => {
                    let frame = found(frames, mfn)?;
                    frame.references = frame.references.saturating_add(1);
                    let owner = hv.frames.owner(mfn);
                    if owner.is_none() || (entry.kind == Kind::Special && owner != Some(id)) {
                        return Err(format!("{gfn} of {id} is {:?} {mfn}, which is {owner:?}'s", entry.kind));
                    }
                }
                Kind::OnDemand => demand = demand.saturating_add(1),
                Kind::Hole | Kind::Mmio | Kind::Firmware => {}
            }
        }
        Ok(())
    })?;
    if demand == domain.p2m.demand() {
        Ok(())
    } else {
        Err(format!("{id}: {demand} frames are on demand, {} were counted", domain.p2m.demand()))
    }
}

fn count_pins(hv: &Hypervisor, domain: &Domain, frames: &mut [Found]) -> Result<(), String> {
    let mut pins = domain.events.pins();
    for vcpu in domain.vcpus() {
        pins.extend(vcpu.events.pin());
        pins.extend(vcpu.time.pins());
    }
    for mfn in pins {
        let frame = found(frames, mfn)?;
        frame.references = frame.references.saturating_add(1);
        if hv.frames.owner(mfn) != Some(domain.id) {
            return Err(format!("{} has a pin on {mfn}, which is not its own", domain.id));
        }
    }
    let mut provided = domain.grants.table_frames();
    provided.push(domain.shared_info);
    for mfn in provided {
        let frame = found(frames, mfn)?;
        if core::mem::replace(&mut frame.provided, true) {
            return Err(format!("{mfn} is provided twice"));
        }
        if hv.frames.owner(mfn) != Some(domain.id) || hv.frames.kind(mfn) != FrameKind::Special {
            return Err(format!("{mfn}, provided to {}, is {:?}", domain.id, hv.frames.kind(mfn)));
        }
    }
    Ok(())
}

/// Handles, entries of the map, and grants in use.
fn check_grants(hv: &Hypervisor, domain: &Arc<Domain>, all: &[Arc<Domain>]) -> Result<(), String> {
    let mapped = domain.grants.mapped();
    for m in &mapped {
        let entry = domain.p2m.query(hv, m.gfn).entry;
        let kind = if m.write { Kind::GrantRw } else { Kind::GrantRo };
        if entry.kind != kind {
            return Err(format!("handle {} of {} is for {}, which is {:?}", m.handle, domain.id, m.gfn, entry.kind));
        }
    }
    let mut entries = 0;
    for_entries(hv, domain, |_, count, entry| {
        entries += if matches!(entry.kind, Kind::GrantRw | Kind::GrantRo) { count as usize } else { 0 };
        Ok(())
    })?;
    if entries != mapped.len() {
        return Err(format!("{} has {entries} grants mapped and {} handles", domain.id, mapped.len()));
    }
    // The other way round: who uses the grants of this domain.
    let mut used: BTreeMap<(u32, DomainId), (u32, u32)> = BTreeMap::new();
    for user in all {
        for m in user.grants.mapped().iter().filter(|m| Arc::ptr_eq(&m.granter, domain)) {
            let (readers, writers) = used.entry((m.gref, user.id)).or_default();
            *(if m.write { writers } else { readers }) += 1;
        }
    }
    if domain.control.is_dying() {
        // Its table may be gone while others have its frames.
        return Ok(());
    }
    let pinned: BTreeMap<_, _> =
        domain.grants.pinned().into_iter().map(|p| ((p.gref, p.user), (p.readers, p.writers))).collect();
    if pinned == used { Ok(()) } else { Err(format!("grants of {} in use: {pinned:?}; mapped: {used:?}", domain.id)) }
}

fn check_cpus(all: &[Arc<Domain>]) -> Result<(), String> {
    let mut loaded = BTreeMap::new();
    for vcpu in all.iter().flat_map(|d| d.vcpus()) {
        let unit = &vcpu.sched.unit;
        if let Some(cpu) = unit.loaded_on()
            && let Some(other) = loaded.insert(cpu, unit.clone())
        {
            return Err(format!("{cpu} has {unit} and {other}"));
        }
    }
    Ok(())
}

fn check_frames(hv: &Hypervisor, all: &[Arc<Domain>], found: &[Found], totals: &mut Totals) -> Result<(), String> {
    let mut pages: BTreeMap<DomainId, u64> = BTreeMap::new();
    // Frames that the block before reaches up to.
    let mut block_end = 0u64;
    for (n, found) in found.iter().enumerate() {
        let mfn = Mfn(n as u64);
        let view = hv.frames.inspect(mfn);
        let wrong = |what: &str| {
            Err(format!("{mfn}: {what}: {view:?}, {} references found, RAM {:?}", found.references, found.home))
        };
        let inside = mfn.0 < block_end;
        if inside != (view.kind == FrameKind::Tail) {
            return wrong("blocks overlap, or it is in none");
        }
        let counted = matches!(view.kind, FrameKind::Domain | FrameKind::Special);
        if !counted && (found.references != 0 || found.home.is_some() || found.provided) {
            return wrong("mapped, but nobody's");
        }
        match view.kind {
            FrameKind::Absent | FrameKind::Tail => {}
            FrameKind::Free | FrameKind::Hypervisor => {
                let frames = 1u64.wrapping_shl(view.order);
                block_end = mfn.0.saturating_add(frames);
                let total = if view.kind == FrameKind::Free { &mut totals.free } else { &mut totals.hypervisor };
                *total = total.saturating_add(frames);
            }
            FrameKind::Domain | FrameKind::Special => {
                let own = u64::from(view.owned);
                if view.count != found.references.saturating_add(own) {
                    return wrong("the count is not the number of references");
                }
                if view.count == 0 {
                    return wrong("nobody refers to it, and it is not free");
                }
                let special = view.kind == FrameKind::Special;
                let at_home = found.home.is_some_and(|(owner, _)| owner == view.owner);
                // What has a reserved owner (trace buffers) is the machine's and stays.
                let stays = view.owner.0 >= DOMID_FIRST_RESERVED;
                if special && (found.home.is_some() || (view.owned != found.provided && !stays)) {
                    return wrong("provided by the hypervisor to nobody");
                }
                if !special && (at_home != (view.owned && !view.parked) || found.home.is_some() != at_home) {
                    return wrong("its owner does not have it, or another does");
                }
                if !special && !view.parked {
                    let pages = pages.entry(view.owner).or_default();
                    *pages = pages.saturating_add(1);
                }
            }
        }
    }
    for id in all.iter().map(|d| d.id).chain(pages.keys().copied()) {
        let (pages, account) = (pages.get(&id).copied().unwrap_or(0), hv.frames.account(id).pages());
        if pages != account {
            return Err(format!("{id} has {pages} frames, and {account} on its account"));
        }
    }
    let (free, claimed, reserved) = hv.frames.totals();
    if free != totals.free {
        return Err(format!("{} frames are free, {free} were counted", totals.free));
    }
    let accounts = || all.iter().map(|d| hv.frames.account(d.id));
    let reserves: u64 = accounts().map(|account| account.reserved()).sum();
    let claims: u64 = accounts().map(|account| account.claimed()).sum();
    if (claimed, reserved) != (claims.saturating_add(reserves), reserves) {
        return Err(format!("{claims} and {reserves} frames are promised, {claimed} with {reserved} were counted"));
    }
    if claimed > free {
        return Err(format!("{claimed} frames are promised and {free} are free"));
    }
    if !totals.unburied && totals.tables > totals.hypervisor {
        return Err(format!("{} table pages, but {} frames are the hypervisor's", totals.tables, totals.hypervisor));
    }
    Ok(())
}

/// The handles of the grants that a domain has mapped, and where.
#[must_use]
pub fn grants_mapped(domain: &Domain) -> Vec<(u32, Gfn)> {
    domain.grants.mapped().into_iter().map(|m| (m.handle, m.gfn)).collect()
}

/// One fact about the state: what it is about, and numbers.
pub type Fact = (&'static str, [u64; 4]);

/// Everything that a failed operation must leave as it was, as a list. Contents of memory, page tables, and what only makes
/// things faster are not part of it.
#[must_use]
pub fn facts(hv: &Hypervisor) -> Vec<Fact> {
    let mut facts = Vec::new();
    for domain in domains(hv) {
        let id = u64::from(domain.id.0);
        let account = hv.frames.account(domain.id);
        facts.push(("account", [id, account.pages(), account.limit(), account.claimed()]));
        facts.push(("reserve", [id, account.reserved(), domain.p2m.demand(), 0]));
        let flags = [domain.control.is_dying(), domain.control.is_dead(), domain.control.is_paused()];
        let flags = flags.iter().fold(0, |all, &f| all << 1 | u64::from(f));
        facts.push(("domain", [id, flags, domain.vcpus().len() as u64, domain.shutdown_reason().map_or(0, u64::from)]));
        let _ = for_entries(hv, &domain, |gfn, count, entry| {
            // A mapping that was split says the same.
            for n in 0..count {
                let mfn = if entry.mfn.0 == 0 { 0 } else { entry.mfn.0.wrapping_add(n) };
                facts.push(("entry", [id, gfn.0.wrapping_add(n), entry.kind as u64, mfn]));
            }
            Ok(())
        });
        facts.extend(domain.events.ports().into_iter().map(|(port, (kind, remote, number), vcpu)| {
            let what = u64::from(kind) << 32 | u64::from(remote.0) << 40 | u64::from(vcpu);
            ("port", [id, u64::from(port.0), what, u64::from(number)])
        }));
        facts.extend(domain.events.pins().into_iter().map(|mfn| ("FIFO", [id, mfn.0, 0, 0])));
        facts.extend(domain.grants.pinned().into_iter().map(|p| {
            ("grant", [id, u64::from(p.gref), u64::from(p.user.0), u64::from(p.readers) << 32 | u64::from(p.writers)])
        }));
        facts.extend(
            domain.grants.mapped().into_iter().map(|m| ("handle", [id, u64::from(m.handle), m.gfn.0, m.gref.into()])),
        );
        let params = *domain.hvm_params.lock();
        facts.extend(params.into_iter().zip(0..).filter(|p| p.0 != 0).map(|(value, n)| ("param", [id, n, value, 0])));
        for vcpu in domain.vcpus() {
            let unit = &vcpu.sched.unit;
            let up = u64::from(unit.is_down()) << 1 | u64::from(unit.is_initialised());
            facts.push(("vcpu", [id, u64::from(vcpu.id.0), up, vcpu.events.pin().map_or(0, |m| m.0)]));
            facts.extend(vcpu.time.pins().into_iter().map(|m| ("area", [id, u64::from(vcpu.id.0), m.0, 0])));
        }
    }
    for mfn in 0..hv.frames.end().0 {
        let view = hv.frames.inspect(Mfn(mfn));
        if view.kind == FrameKind::Domain {
            facts.push(("frame", [mfn, u64::from(view.owner.0), view.count, u64::from(view.parked)]));
        }
    }
    facts
}
