//! `XEN_DOMCTL_shadow_op`: which frames of a domain were written to, for saving it while it runs.
//!
//! Starting, collecting and ending go over all of the domain's memory in steps. How far an operation is stands in
//! [`Progress`], with the name of its caller; another one comes in between only to end logging. The domain runs.

use alloc::sync::Arc;

use radon_abi::domctl as abi;
use radon_abi::domctl::ShadowOp;
use radon_abi::errno::Errno;

use super::write;
use crate::domain::Domain;
use crate::hypercall::{Args, Caller, OpResult, Outcome, SUCCESS};
use crate::p2m::dirty::WORD_FRAMES;
use crate::types::GuestVirtAddr;

/// Bytes of the bitmap that are handled in one step.
const STEP: usize = 64;
const STEP_WORDS: usize = STEP / 8;
/// Flag of CLEAN and PEEK: this is the last time (nothing is kept back, so it makes no difference).
const FINAL: u32 = 1 << 0;

/// How far an operation on the log is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Progress {
    /// `XEN_DOMCTL_SHADOW_OP_*`.
    op: u32,
    /// Where the caller's structure is, and its bitmap.
    caller: (u64, u64),
    /// The next word of the bitmap.
    word: u64,
    /// Frames told so far.
    told: u32,
}

/// Begins an operation, or goes on with it. Ending logging takes the place of what is under way.
///
/// # Errors
/// `EBUSY`: another one is under way.
fn begin(domain: &Domain, args: Args, r: &ShadowOp) -> Result<Progress, Errno> {
    let fresh = Progress { op: r.op, caller: (args.get(0), r.dirty_bitmap), word: 0, told: 0 };
    let mut state = domain.control.state.lock();
    match state.logging {
        Some(p) if (p.op, p.caller) == (fresh.op, fresh.caller) => Ok(p),
        Some(_) if r.op != abi::XEN_DOMCTL_SHADOW_OP_OFF => Err(Errno::EBUSY),
        _ => {
            state.logging = Some(fresh);
            Ok(fresh)
        }
    }
}

/// The operation is over, or has come so far.
fn set_progress(domain: &Domain, progress: Option<Progress>) {
    domain.control.state.lock().logging = progress;
}

/// Starts to log: nothing was written to yet.
///
/// Work: the mappings of the domain's memory, continued. Errors: `EINVAL`: it is logged already. `EBUSY`: another operation
/// on the log is under way. `ENOMEM`.
pub(super) fn enable(caller: &Caller<'_>, args: Args, domain: &Arc<Domain>, r: &ShadowOp) -> OpResult {
    let fresh = domain.control.state.lock().logging.is_none();
    if fresh && domain.p2m.is_logging() {
        return Err(Errno::EINVAL);
    }
    begin(domain, args, r)?;
    match domain.p2m.start_logging(caller.hv, &mut || caller.spend()) {
        Ok(false) => Ok(Outcome::Continue(args)),
        Ok(true) => {
            set_progress(domain, None);
            SUCCESS
        }
        Err(errno) => {
            // What is protected already becomes writable when it is written to.
            let _ = domain.p2m.stop_logging(caller.hv, &mut || false);
            set_progress(domain, None);
            Err(errno)
        }
    }
}

/// Ends logging, and whatever is under way with the log.
///
/// Work: the mappings of the domain's memory, continued.
pub(super) fn disable(caller: &Caller<'_>, args: Args, domain: &Arc<Domain>, r: &ShadowOp) -> OpResult {
    begin(domain, args, r)?;
    if !domain.p2m.stop_logging(caller.hv, &mut || caller.spend()) {
        return Ok(Outcome::Continue(args));
    }
    set_progress(domain, None);
    SUCCESS
}

/// Copies out which frames were written to since logging started or they were last cleaned: a bit each, as many as there
/// is room for. CLEAN then forgets them. With a null handle they are counted only.
///
/// Work: 512 frames and each frame told are a unit of budget, continued.
///
/// Errors: `EINVAL`: nothing is logged, or unknown flags. `EBUSY`: another operation on the log is under way. `EFAULT`: what
/// was told before is lost.
pub(super) fn collect(caller: &Caller<'_>, args: Args, domain: &Arc<Domain>, mut r: ShadowOp) -> OpResult {
    if r.mode & !FINAL != 0 || !domain.p2m.is_logging() {
        return Err(Errno::EINVAL);
    }
    let mut progress = begin(domain, args, &r)?;
    if progress.word == 0 && wait_for_the_last(caller, domain).is_err() {
        return Ok(Outcome::Continue(args));
    }
    r.pages = r.pages.min(domain.p2m.limit().0);
    let done = steps(caller, domain, &r, &mut progress);
    set_progress(domain, if done == Ok(false) { Some(progress) } else { None });
    if !done? {
        return Ok(Outcome::Continue(args));
    }
    r.dirty_count = progress.told;
    r.fault_count = progress.told;
    write(caller, args, &r)
}

/// Waits until no vCPU of a domain that has shut down writes any more: dom0 hears of a shutdown, and saves the domain, before
/// all of them are off their CPUs.
///
/// # Errors
/// `EAGAIN`: the caller has to leave its own CPU first.
pub(super) fn wait_for_the_last(caller: &Caller<'_>, domain: &Domain) -> Result<(), Errno> {
    if domain.shutdown_reason().is_some() {
        caller.hv.scheduler.pause_domain_sync(caller.hv, domain, caller.vcpu)?;
        caller.hv.scheduler.unpause_domain(caller.hv, &domain.sched);
    }
    Ok(())
}

/// Goes on collecting while the budget lasts. Returns whether everything was collected.
fn steps(caller: &Caller<'_>, domain: &Domain, r: &ShadowOp, progress: &mut Progress) -> Result<bool, Errno> {
    let hv = caller.hv;
    let clean = r.op == abi::XEN_DOMCTL_SHADOW_OP_CLEAN;
    // Flushes when it goes, and so before the caller learns anything.
    let mut batch = domain.p2m.unmapped(hv);
    // A null handle asks for all frames, and to be told only how many.
    let told = r.dirty_bitmap != 0;
    let frames = if told { r.pages } else { domain.p2m.max_gfn().0.saturating_add(1) };
    let bytes = frames.div_ceil(8);
    while progress.word < frames.div_ceil(WORD_FRAMES) {
        if !caller.spend() {
            return Ok(false);
        }
        let mut words = [0_u64; STEP_WORDS];
        for (noted, word) in words.iter_mut().zip(progress.word..) {
            // The bits of this word that are within what is asked for.
            let count = frames.saturating_sub(word.saturating_mul(WORD_FRAMES)).min(WORD_FRAMES) as u32;
            let wanted = u64::MAX.checked_shr(64u32.saturating_sub(count)).unwrap_or(0);
            *noted = domain.p2m.collect_log(hv, word, wanted, clean, &mut batch);
            caller.overdraw(noted.count_ones());
            progress.told = progress.told.saturating_add(noted.count_ones());
        }
        if told {
            let mut part = [0; STEP];
            for (to, word) in part.as_chunks_mut::<8>().0.iter_mut().zip(words) {
                *to = word.to_le_bytes();
            }
            let at = progress.word.saturating_mul(8);
            let left = bytes.saturating_sub(at).min(STEP as u64) as usize;
            let to = r.dirty_bitmap.checked_add(at).ok_or(Errno::EFAULT)?;
            let copied = caller.memory.write(GuestVirtAddr(to), part.get(..left).unwrap_or(&part));
            if let Err(errno) = copied {
                for (noted, word) in words.into_iter().zip(progress.word..) {
                    domain.p2m.note_again(word, noted);
                }
                return Err(errno);
            }
        }
        progress.word = progress.word.saturating_add(STEP_WORDS as u64);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::built;
    use super::Progress;
    use crate::control::testing::{BUFFER, domctl_op, host};
    use crate::domain::Domain;
    use crate::frames::{Order, Placement};
    use crate::hypercall::{OpResult, SUCCESS};
    use crate::p2m::{Access, GuestPhys, Kind};
    use crate::sync::atomic::Ordering;
    use crate::testing::TestHost;
    use crate::types::{DomainId, Gfn, GuestPhysAddr, GuestVirtAddr};
    use alloc::collections::BTreeSet;
    use alloc::sync::Arc;
    use radon_abi::domctl as abi;
    use radon_abi::domctl::ShadowOp;
    use radon_abi::errno::Errno;

    fn call(host: &TestHost, id: u16, op: u32, pages: u64) -> (OpResult, ShadowOp) {
        let dirty_bitmap = if pages == 0 { 0 } else { BUFFER };
        domctl_op(host, abi::XEN_DOMCTL_SHADOW_OP, id, &ShadowOp { op, pages, dirty_bitmap, ..ShadowOp::default() })
    }

    /// The gfns below `pages` that CLEAN (or PEEK) tells.
    fn told(host: &TestHost, id: u16, op: u32, pages: u64) -> BTreeSet<u64> {
        let caller = host.caller(DomainId(0), 0);
        caller.write(GuestVirtAddr(BUFFER), &[0xff_u8; 512]).unwrap();
        let (result, r) = call(host, id, op, pages);
        assert_eq!((result, r.pages), (SUCCESS, pages));
        let bytes: [u8; 512] = caller.read(GuestVirtAddr(BUFFER)).unwrap();
        assert!(bytes[pages.div_ceil(8) as usize..].iter().all(|&b| b == 0xff), "more than there was room for");
        let bits = (0..pages).filter(|&g| bytes[(g / 8) as usize] >> (g % 8) & 1 != 0);
        let set: BTreeSet<u64> = bits.collect();
        assert_eq!(r.dirty_count as usize, set.len());
        set
    }

    const CLEAN: u32 = abi::XEN_DOMCTL_SHADOW_OP_CLEAN;
    const PEEK: u32 = abi::XEN_DOMCTL_SHADOW_OP_PEEK;
    const OFF: u32 = abi::XEN_DOMCTL_SHADOW_OP_OFF;
    const ENABLE: u32 = abi::XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY;

    fn start() -> (TestHost, u16, Arc<Domain>) {
        let host = host();
        let id = built(&host);
        let domain = host.hv.domains.get(DomainId(id)).unwrap();
        assert_eq!(call(&host, id, CLEAN, 64).0, Err(Errno::EINVAL));
        assert_eq!(call(&host, id, ENABLE, 0).0, SUCCESS);
        assert_eq!(call(&host, id, ENABLE, 0).0, Err(Errno::EINVAL));
        (host, id, domain)
    }

    /// As the guest writes: through the map, by a fault if need be.
    fn guest_writes(host: &TestHost, domain: &Domain, gfn: u64) {
        if domain.p2m.query(&host.hv, Gfn(gfn)).entry.kind != Kind::RamRw {
            assert!(domain.p2m.write_faulted(&host.hv, Gfn(gfn)));
        }
        assert_eq!(domain.p2m.query(&host.hv, Gfn(gfn)).entry.kind, Kind::RamRw);
    }

    #[test]
    fn every_write_is_told_once() {
        let (host, id, domain) = start();
        assert_eq!(told(&host, id, CLEAN, 100), BTreeSet::new());
        let mut model = BTreeSet::new();
        let mut random = 12345_u64;
        for _ in 0..500 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let gfn = random >> 40 & 63;
            match random >> 60 {
                0..=5 => {
                    guest_writes(&host, &domain, gfn);
                    model.insert(gfn);
                }
                6..=11 => {
                    GuestPhys::new(&host.hv, &domain.p2m).write(GuestPhysAddr(gfn << 12 | 5), &[1]).unwrap();
                    model.insert(gfn);
                }
                12 => assert_eq!(told(&host, id, PEEK, 100), model),
                _ => assert_eq!(told(&host, id, CLEAN, 100), core::mem::take(&mut model)),
            }
        }
        // Reading is not writing.
        let _ = told(&host, id, CLEAN, 100);
        GuestPhys::new(&host.hv, &domain.p2m).read(GuestPhysAddr(0x3000), &mut [0]).unwrap();
        assert_eq!(told(&host, id, CLEAN, 100), BTreeSet::new());
    }

    #[test]
    fn what_is_not_asked_for_is_not_forgotten() {
        let (host, id, domain) = start();
        for gfn in [3, 9, 10, 63] {
            guest_writes(&host, &domain, gfn);
        }
        assert_eq!(told(&host, id, CLEAN, 10), BTreeSet::from([3, 9]));
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([10, 63]));
        assert_eq!(domain.p2m.query(&host.hv, Gfn(63)).entry.kind, Kind::RamLogDirty);
        // Without a buffer all is forgotten, and counted.
        guest_writes(&host, &domain, 63);
        assert_eq!(call(&host, id, CLEAN, 0).1.dirty_count, 1);
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::new());
    }

    #[test]
    fn memory_that_comes_is_told() {
        let (host, id, domain) = start();
        host.hv.frames.account(domain.id).set_limit(100);
        let memory = host.hv.platform.memory();
        let frame = host.hv.frames.alloc_domain(memory, domain.id, Order::PAGE, Placement::default()).unwrap();
        domain.p2m.add_ram(&host.hv, Gfn(70), frame, &mut domain.p2m.unmapped(&host.hv)).unwrap();
        assert_eq!(told(&host, id, CLEAN, 100), BTreeSet::from([70]));
        guest_writes(&host, &domain, 70);
        assert_eq!(told(&host, id, CLEAN, 100), BTreeSet::from([70]));
    }

    /// Gives the domain 2 MiB in one mapping from gfn 512 on.
    fn large(host: &TestHost, domain: &Domain) {
        host.hv.frames.account(domain.id).set_limit(2000);
        let memory = host.hv.platform.memory();
        let block = host.hv.frames.alloc_domain(memory, domain.id, Order::LARGE, Placement::default()).unwrap();
        domain.p2m.add_ram(&host.hv, Gfn(512), block, &mut domain.p2m.unmapped(&host.hv)).unwrap();
    }

    #[test]
    fn a_large_mapping_is_split_at_the_first_write_and_joined_at_the_end() {
        let host = host();
        let id = built(&host);
        let domain = host.hv.domains.get(DomainId(id)).unwrap();
        large(&host, &domain);
        let before = domain.p2m.query(&host.hv, Gfn(600));
        assert_eq!(call(&host, id, ENABLE, 0).0, SUCCESS);
        assert_eq!(domain.p2m.query(&host.hv, Gfn(512)).order, Order::LARGE);
        let flushes = host.machine.flushes.load(Ordering::SeqCst);
        guest_writes(&host, &domain, 600);
        assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 1, "translations of another size");
        guest_writes(&host, &domain, 601);
        assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 1, "a wider one alone needs none");
        assert_eq!(domain.p2m.query(&host.hv, Gfn(602)).entry.kind, Kind::RamLogDirty);
        assert_eq!(told(&host, id, CLEAN, 2000), BTreeSet::from([600, 601]));
        assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 2);
        assert_eq!(told(&host, id, CLEAN, 2000), BTreeSet::new());
        assert_eq!(host.machine.flushes.load(Ordering::SeqCst), flushes + 2, "nothing was narrowed");
        assert_eq!(call(&host, id, OFF, 0).0, SUCCESS);
        assert_eq!(domain.p2m.query(&host.hv, Gfn(600)), before);
        assert_eq!(domain.p2m.query(&host.hv, Gfn(5)).entry.kind, Kind::RamRw);
    }

    #[test]
    fn without_a_page_table_a_large_mapping_is_written_to_as_a_whole() {
        let mut host = host();
        let id = host.add_domain(1);
        let domain = host.domain(id).clone();
        large(&host, &domain);
        assert_eq!(call(&host, id.0, ENABLE, 0).0, SUCCESS);
        host.table(id).fail_after(0);
        guest_writes(&host, &domain, 600);
        assert_eq!(domain.p2m.query(&host.hv, Gfn(512)).order, Order::LARGE);
        assert_eq!(told(&host, id.0, CLEAN, 1024), (512..1024).collect());
        assert_eq!(domain.p2m.query(&host.hv, Gfn(600)).entry.kind, Kind::RamLogDirty);
        assert_eq!(told(&host, id.0, CLEAN, 1024), BTreeSet::new());
    }

    /// Whoever holds a page may write to it at any time: it is told until the reference ends, and once after.
    #[test]
    fn a_page_that_others_hold_stays_dirty() {
        let host = host();
        let id = built(&host);
        let domain = host.hv.domains.get(DomainId(id)).unwrap();
        let hold = |gfn| domain.p2m.get_page(&host.hv, Gfn(gfn), Access::Write).unwrap();
        let early = hold(3);
        assert_eq!(call(&host, id, ENABLE, 0).0, SUCCESS);
        let late = hold(5);
        for _ in 0..3 {
            assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([3, 5]));
        }
        drop(early);
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([3, 5]));
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([5]));
        drop(late);
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([5]));
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::new());
        // Held for reading only: not dirty by itself.
        let reader = domain.p2m.get_page(&host.hv, Gfn(7), Access::Read).unwrap();
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::new());
        drop(reader);
    }

    #[test]
    fn what_could_not_be_copied_out_is_not_forgotten() {
        let (host, id, domain) = start();
        guest_writes(&host, &domain, 9);
        let bad = ShadowOp { op: CLEAN, pages: 64, dirty_bitmap: u64::MAX - 7, ..ShadowOp::default() };
        assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SHADOW_OP, id, &bad).0, Err(Errno::EFAULT));
        assert_eq!(told(&host, id, CLEAN, 64), BTreeSet::from([9]));
        let flags = ShadowOp { op: CLEAN, mode: 2, ..ShadowOp::default() };
        assert_eq!(domctl_op(&host, abi::XEN_DOMCTL_SHADOW_OP, id, &flags).0, Err(Errno::EINVAL));
    }

    #[test]
    fn one_operation_at_a_time_but_the_end_always_comes() {
        let (host, id, domain) = start();
        let abandoned = Progress { op: CLEAN, caller: (1, 2), word: 64, told: 0 };
        domain.control.state.lock().logging = Some(abandoned);
        for op in [CLEAN, PEEK, ENABLE] {
            assert_eq!(call(&host, id, op, 0).0, Err(Errno::EBUSY));
        }
        assert_eq!(call(&host, id, OFF, 0).0, SUCCESS);
        assert_eq!(call(&host, id, CLEAN, 0).0, Err(Errno::EINVAL));
        assert_eq!(call(&host, id, ENABLE, 0).0, SUCCESS);
    }

    #[test]
    fn after_the_end_nothing_is_told_and_all_can_be_written() {
        let (host, id, domain) = start();
        assert_eq!(call(&host, id, OFF, 0).0, SUCCESS);
        assert_eq!(call(&host, id, OFF, 0).0, SUCCESS);
        guest_writes(&host, &domain, 7);
        assert_eq!(call(&host, id, PEEK, 64).0, Err(Errno::EINVAL));
        assert_eq!(call(&host, id, ENABLE, 0).0, SUCCESS);
        assert_eq!(told(&host, id, PEEK, 64), BTreeSet::new());
        guest_writes(&host, &domain, 7);
        assert_eq!(told(&host, id, PEEK, 64), BTreeSet::from([7]));
    }
}
