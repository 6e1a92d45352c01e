//! A run: the machine, its guests, and what happens in each step.
//!
//! A step is one thing that one CPU does: it schedules, takes an interrupt, or its guest does something up to its next exit.
//! Which CPU and what are decided by random numbers of the step's own, drawn from the seed. Time passes between steps, but
//! never past a timer that is due.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use radon_core::domain::Domain;
use radon_core::hypervisor::Hypervisor;
use radon_core::p2m::GuestPhys;
use radon_core::testing::audit;
use radon_core::types::{CpuId, DomainId, GuestPhysAddr};
use radon_core::vcpu::Vcpu;
use radon_x86::vcpu::X86Vcpu;
use radon_x86::virt::{Control, Exit, Segment, SegmentName, cr0, efer, gpr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::config::Config;
use crate::coverage::Coverage;
use crate::machine::{Action, RIP, SimMachine};
use crate::model::{FIRST, Model, Models, TABLES};
use crate::ops::{self, Call, Task};
use crate::rng::Rng;
use crate::shared::{self, Shared};

/// What went wrong.
pub type Failure = String;

/// What is known of a vCPU.
#[derive(Default)]
struct VcpuModel {
    /// Its guest has set up its mode.
    started: bool,
    /// A hypercall that is to be continued.
    pending: Option<Call>,
}

/// A run.
pub struct World {
    pub(crate) shared: Rc<Shared>,
    pub(crate) config: Config,
    pub(crate) models: Models,
    vcpus: BTreeMap<(u16, u32), VcpuModel>,
    /// What dom0 is to do next.
    pub(crate) tasks: VecDeque<Task>,
    /// What was reached.
    pub coverage: Coverage,
    /// Domains that exist, as of the last creation or destruction.
    pub(crate) ids: Vec<u16>,
    /// Table pages and frames of the hypervisor at the start.
    start: audit::Totals,
    /// Lines about each step, if wanted.
    pub trace: Option<Vec<String>>,
    step: u64,
    /// No new domains; what there is goes.
    pub(crate) ending: bool,
}

impl World {
    /// A fresh machine.
    ///
    /// # Errors
    /// It is broken from the start.
    pub fn new(config: &Config) -> Result<World, Failure> {
        let shared = Shared::boot(config);
        let start = audit::audit(shared.hv())?;
        let mut world = World {
            shared,
            config: config.clone(),
            models: Models::new(),
            vcpus: BTreeMap::new(),
            tasks: VecDeque::new(),
            coverage: Coverage::default(),
            ids: Vec::new(),
            start,
            trace: None,
            step: 0,
            ending: false,
        };
        world.look_for_domains();
        Ok(world)
    }

    /// The hypervisor.
    pub(crate) fn hv(&self) -> &Hypervisor {
        &self.shared.sys.hv
    }

    pub(crate) fn machine(&self) -> &'static SimMachine {
        self.shared.machine
    }

    fn tell(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = format!("step {:6} at {:>9} µs: {}", self.step, self.shared.machine.time() / 1000, text());
            trace.push(line);
        }
    }

    /// Learns which domains there are.
    pub(crate) fn look_for_domains(&mut self) {
        let mut ids = Vec::new();
        let mut next = Some(DomainId(0));
        while let Some(domain) = next.and_then(|from| self.shared.sys.hv.domains.next_from(from)) {
            next = domain.id.0.checked_add(1).map(DomainId);
            let known = self.models.get(&domain.id.0).is_some_and(|m| m.domain.as_ptr() == Arc::as_ptr(&domain));
            if !known {
                let mut rng = Rng::new(self.config.seed ^ 0x5151, u64::from(domain.id.0));
                let ram = if domain.is_hardware() { self.config.dom0_frames } else { 48 };
                self.models.insert(domain.id.0, Model::new(&domain, rng.one_in(3), ram));
                self.vcpus.retain(|key, _| key.0 != domain.id.0);
                self.coverage.domains += 1;
            }
            ids.push(domain.id.0);
        }
        self.ids = ids;
    }

    /// Does step `step`.
    ///
    /// # Errors
    /// What is wrong after it.
    pub fn step(&mut self, step: u64) -> Result<(), Failure> {
        self.step = step;
        self.coverage.steps += 1;
        shared::begin_step();
        let mut rng = Rng::new(self.config.seed, step);
        let machine = self.machine();
        self.check_timers()?;
        if step.is_multiple_of(512)
            && self.models.get(&shared::DOM0.0).is_some_and(|m| m.paging)
            && let Ok(dom0) = self.hv().domains.get(shared::DOM0)
        {
            // Results of its nonsense may have been written over its tables, and then it could do no more.
            self.write_tables(&dom0);
        }
        if rng.one_in(128) {
            machine.become_cpu(rng.below(u64::from(self.config.cpus)) as u32);
            self.disturb(rng.pick(&self.ids));
        }
        let cpu = match self.choose_cpu(&mut rng) {
            Some(cpu) => cpu,
            None => {
                self.let_time_pass(&mut rng);
                return Ok(());
            }
        };
        machine.become_cpu(cpu);
        let id = CpuId(cpu);
        let idle = self.shared.cpus[cpu as usize].borrow().current().is_none();
        let needs = self.hv().scheduler.needs_schedule(id);
        if needs || (idle && (machine.take_kick(cpu) | machine.take_timer(cpu))) {
            self.schedule(cpu)?;
        } else {
            let current = self.shared.cpus[cpu as usize].borrow().current().cloned();
            if let Some(vcpu) = current {
                self.act(cpu, &vcpu, &mut rng)?;
            }
        }
        if let Some(held) = crate::order::held() {
            return Err(format!("locks are held after the step: {held}"));
        }
        if machine.is_due().is_none() && !self.anybody_kicked() {
            machine.advance_to(self.time_after(200 + rng.below(4000)));
        }
        Ok(())
    }

    fn anybody_kicked(&self) -> bool {
        (0..self.config.cpus).any(|c| self.machine().is_kicked(c))
    }

    /// The time after `by`, but not past a timer.
    fn time_after(&self, by: u64) -> u64 {
        let machine = self.machine();
        let now = machine.time();
        let next = (0..self.config.cpus).filter_map(|c| machine.armed(c)).filter(|&t| t > now).min();
        (now + by).min(next.unwrap_or(u64::MAX))
    }

    /// No timer may be overdue while every CPU has had its interrupts.
    fn check_timers(&self) -> Result<(), Failure> {
        let machine = self.machine();
        let now = machine.time();
        if machine.is_due().is_some() || self.anybody_kicked() {
            return Ok(());
        }
        for cpu in 0..self.config.cpus {
            let timers = &self.hv().timers;
            let first = [timers.next_deadline(CpuId(cpu)), timers.slice_end(CpuId(cpu))];
            let Some(first) = first.into_iter().flatten().map(|t| t.0).min() else { continue };
            let armed = machine.armed(cpu);
            if !self.hv().scheduler.needs_schedule(CpuId(cpu)) && (first < now || armed.is_none_or(|a| a > first)) {
                return Err(format!("CPU {cpu} has to fire a timer at {first}, it is set to {armed:?}, now is {now}"));
            }
        }
        Ok(())
    }

    /// A CPU that has something to do; one with an interrupt before all others.
    fn choose_cpu(&self, rng: &mut Rng) -> Option<u32> {
        let machine = self.machine();
        let cpus = self.config.cpus;
        let first = rng.below(u64::from(cpus)) as u32;
        let all = (0..cpus).map(|c| (first + c) % cpus);
        let urgent = |c: &u32| machine.is_kicked(*c) || machine.armed(*c).is_some_and(|t| t <= machine.time());
        if let Some(cpu) = all.clone().find(urgent) {
            return Some(cpu);
        }
        let busy = |c: &u32| {
            self.hv().scheduler.needs_schedule(CpuId(*c)) || self.shared.cpus[*c as usize].borrow().current().is_some()
        };
        let mut all = all;
        all.find(busy)
    }

    /// All CPUs are idle: until the next timer, or until somebody presses a key.
    fn let_time_pass(&mut self, rng: &mut Rng) {
        let machine = self.machine();
        let next = (0..self.config.cpus).filter_map(|c| machine.armed(c)).min();
        match next {
            // A timer that is far off (dom0's watchdog would be the end of the run) has to wait: other things happen first.
            Some(t) if t.saturating_sub(machine.time()) < 60_000_000_000 && !rng.one_in(8) => {
                machine.advance_to(t.max(machine.time()))
            }
            _ => {
                machine.become_cpu(rng.below(u64::from(self.config.cpus)) as u32);
                let hv = self.hv();
                if let Ok(dom0) = hv.domains.get(shared::DOM0) {
                    for vcpu in dom0.vcpus() {
                        hv.scheduler.bring_up(hv, vcpu);
                    }
                }
                self.disturb(shared::DOM0.0);
                machine.advance_to(self.time_after(1000));
            }
        }
    }

    /// Those of a domain's vCPUs that sleep are woken, as by a device's interrupt that it has set up.
    fn disturb(&self, id: u16) {
        let hv = self.hv();
        let domain = hv.domains.get(DomainId(id)).ok();
        for vcpu in domain.iter().flat_map(|d| d.vcpus()).filter(|v| v.sched.unit.is_blocked()) {
            vcpu.arch.raise_nmi();
            hv.scheduler.wake(hv, vcpu);
        }
    }

    pub(crate) fn schedule(&mut self, cpu: u32) -> Result<(), Failure> {
        let shared = self.shared.clone();
        let mut stepper = shared.cpus[cpu as usize].borrow_mut();
        stepper.schedule(&shared.sys);
        let Some(vcpu) = stepper.current() else {
            self.tell(|| format!("CPU {cpu} idles"));
            return Ok(());
        };
        let unit = &vcpu.sched.unit;
        let allowed = unit.affinity().allowed();
        self.tell(|| format!("CPU {cpu} runs {unit}"));
        if unit.loaded_on() != Some(CpuId(cpu)) || !allowed.contains(CpuId(cpu)) {
            return Err(format!("CPU {cpu} runs {unit}, which is on {:?} and may be on {allowed}", unit.loaded_on()));
        }
        if !unit.is_runnable() && !self.hv().scheduler.needs_schedule(CpuId(cpu)) {
            return Err(format!("CPU {cpu} runs {unit}, which may not run"));
        }
        Ok(())
    }

    /// Enters the guest once. Returns whether it came to that: a vCPU may wait for a start-up message.
    pub(crate) fn enter(&self, cpu: u32, action: Action) -> bool {
        self.machine().set_next(action);
        self.shared.cpus[cpu as usize].borrow_mut().enter(&self.shared.sys);
        !self.machine().take_next()
    }

    /// The guest that runs on a CPU does something.
    fn act(&mut self, cpu: u32, vcpu: &Arc<Vcpu>, rng: &mut Rng) -> Result<(), Failure> {
        let machine = self.machine();
        let Some(domain) = vcpu.domain() else { return Err("a vCPU without a domain runs".into()) };
        let key = (domain.id.0, vcpu.id.0);
        if machine.take_kick(cpu) | machine.take_timer(cpu) {
            self.tell(|| format!("CPU {cpu} is interrupted"));
            self.enter(cpu, Action { gpr: None, exit: Exit::Interrupt });
            return Ok(());
        }
        if self.models.get(&key.0).is_none_or(|m| m.domain.as_ptr() != Arc::as_ptr(&domain)) {
            self.look_for_domains();
        }
        if !self.vcpus.entry(key).or_default().started {
            self.start_guest(&domain, vcpu);
            self.vcpus.entry(key).or_default().started = true;
        }
        if let Some(call) = self.vcpus.get_mut(&key).and_then(|v| v.pending.take()) {
            return self.carry_out(cpu, &domain, vcpu, call, None, rng);
        }
        match rng.below(64) {
            0..24 => self.access(cpu, &domain, vcpu, rng),
            24..54 => {
                let call = ops::choose(self, &domain, vcpu, rng);
                let gpr = ops::registers(&call, self.is_long(vcpu));
                self.carry_out(cpu, &domain, vcpu, call, Some(gpr), rng)
            }
            _ => {
                let action = ops::instruction(&domain, rng);
                self.tell(|| format!("{}{} stops: {:?}", domain.id, vcpu.id, action.exit));
                self.enter(cpu, action);
                Ok(())
            }
        }
    }

    fn is_long(&self, vcpu: &Vcpu) -> bool {
        X86Vcpu::of(vcpu).is_some_and(|arch| {
            let state = arch.state.lock();
            state.cpu.control().efer & efer::LMA != 0 && state.cpu.segment(SegmentName::Cs).is_long()
        })
    }

    /// The guest switches to the mode it uses: 64-bit with tables that map addresses one to one, or none; some 32-bit.
    fn start_guest(&mut self, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) {
        let Some(model) = self.models.get(&domain.id.0) else { return };
        let Some(arch) = X86Vcpu::of(vcpu) else { return };
        let paging = model.paging && self.write_tables(domain);
        let mut state = arch.state.lock();
        let cpu = &mut state.cpu;
        let flat = |attributes| Segment { selector: 8, attributes, limit: u32::MAX, base: 0 };
        if paging {
            let bits = cr0::PE | cr0::PG | cr0::ET;
            let long = efer::LME | efer::LMA | efer::NXE;
            cpu.set_control(&Control { cr0: bits, cr2: 0, cr3: TABLES[0] << 12, cr4: 1 << 5 | 1 << 18, efer: long });
            cpu.set_segment(SegmentName::Cs, &flat(0xa9b));
        } else if domain.is_hardware() || domain.id.0 % 8 != 3 {
            // No processor has this mode: calls with the structures that the simulator makes, but no walks.
            let long = efer::LME | efer::LMA | efer::NXE;
            cpu.set_control(&Control { cr0: cr0::PE | cr0::ET, cr2: 0, cr3: 0, cr4: 0, efer: long });
            cpu.set_segment(SegmentName::Cs, &flat(0xa9b));
        } else {
            // What has two layouts is nonsense from these.
            cpu.set_control(&Control { cr0: cr0::PE | cr0::ET, cr2: 0, cr3: 0, cr4: 0, efer: 0 });
            cpu.set_segment(SegmentName::Cs, &flat(0xc9b));
        }
        cpu.set_segment(SegmentName::Ss, &flat(0xc93));
        cpu.set_segment(SegmentName::Ds, &flat(0xc93));
    }

    /// Writes a guest's page tables. Returns whether it has the memory for them.
    fn write_tables(&self, domain: &Domain) -> bool {
        let mut ok = self.store(domain, TABLES[0] << 12, &(TABLES[1] << 12 | 7));
        for n in 0..4u64 {
            ok &= self.store(domain, (TABLES[1] << 12) + 8 * n, &(n << 30 | 0x87));
        }
        ok
    }

    /// A hypercall, or the next part of one.
    fn carry_out(
        &mut self,
        cpu: u32,
        domain: &Arc<Domain>,
        vcpu: &Arc<Vcpu>,
        call: Call,
        gpr: Option<[u64; 16]>,
        rng: &mut Rng,
    ) -> Result<(), Failure> {
        self.coverage.calls += 1;
        let shared = self.shared.clone();
        let hv = &shared.sys.hv;
        // A call that is continued has changed something already.
        let check = gpr.is_some() && rng.one_in(self.config.check_one_in) && call.undoes();
        let before = if check { audit::facts(hv) } else { Vec::new() };
        let inject = self.config.inject && gpr.is_some() && (if check { !rng.one_in(3) } else { rng.one_in(64) });
        if inject {
            hv.frames.fail_after(rng.below(4));
        }
        let entered = self.enter(cpu, Action { gpr, exit: Exit::Hypercall });
        let refused = inject && hv.frames.fail_after(u64::MAX) == 0;
        let Some(arch) = X86Vcpu::of(vcpu) else { return Ok(()) };
        let (regs, long) = {
            let state = arch.state.lock();
            (*state.cpu.regs(), self.is_long_state(&state))
        };
        if !entered {
            self.tell(|| format!("{}{} waits to be started", domain.id, vcpu.id));
            return Ok(());
        }
        if regs.rip == RIP {
            // To be continued. Guests leave some for good.
            self.tell(|| format!("{}{} {} goes on", domain.id, vcpu.id, call.name()));
            if !rng.one_in(64)
                && let Some(v) = self.vcpus.get_mut(&(domain.id.0, vcpu.id.0))
            {
                v.pending = Some(call);
            }
            return Ok(());
        }
        let rax = regs.get(gpr::RAX);
        let result = if long { rax as i64 } else { i64::from(rax as u32 as i32) };
        let failed = (-4095..0).contains(&result);
        self.tell(|| {
            format!(
                "{}{} {} {:x?} = {result}{}",
                domain.id,
                vcpu.id,
                call.name(),
                call.args,
                if refused { " (refused)" } else { "" }
            )
        });
        self.coverage.note(call.number, call.operation, failed);
        if check {
            self.coverage.checked[0] += 1;
            self.coverage.checked[2] += u64::from(refused);
        }
        if check && failed {
            self.coverage.checked[1] += 1;
            let after = audit::facts(hv);
            if let Some(text) = difference(&before, &after) {
                return Err(format!(
                    "{} of {} failed with {result}, and changed something: {text}",
                    call.name(),
                    domain.id
                ));
            }
        }
        ops::learn(self, domain, vcpu, &call, failed, result)
    }

    fn is_long_state(&self, state: &radon_x86::vcpu::VcpuState) -> bool {
        state.cpu.control().efer & efer::LMA != 0 && state.cpu.segment(SegmentName::Cs).is_long()
    }

    /// The guest reads or writes memory, through the TLB and the nested page table.
    fn access(&mut self, cpu: u32, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, rng: &mut Rng) -> Result<(), Failure> {
        self.coverage.accesses += 1;
        let machine = self.machine();
        let gfn = ops::some_gfn(self, domain, rng);
        let write = rng.one_in(2);
        // Others' pages and what the hypervisor writes are not the guest's to fill with anything.
        let write = write && gfn >= FIRST;
        let hv = self.hv();
        let tag = domain.p2m.tag();
        let found = domain.p2m.query(hv, radon_core::types::Gfn(gfn)).entry;
        let (mfn, writable) = match machine.cached(cpu, tag, gfn) {
            Some(cached) => {
                if !found.kind.present() || found.mfn.0 != cached.mfn || (cached.writable && !found.kind.writable()) {
                    return Err(format!(
                        "CPU {cpu} still has {gfn:#x} of {} as {:#x} (writable {}); the map says {found:?}",
                        domain.id, cached.mfn, cached.writable
                    ));
                }
                (cached.mfn, cached.writable)
            }
            None if found.kind.present() => {
                machine.cache(cpu, tag, gfn, found.mfn.0, found.kind.writable());
                (found.mfn.0, found.kind.writable())
            }
            None => (0, false),
        };
        if mfn == 0 || (write && !writable) {
            let fault = ops::fault(gfn, write, mfn != 0);
            // Mostly only faults that end well: others are instructions for the emulator.
            let quick = found.kind == radon_core::p2m::Kind::OnDemand || mfn != 0;
            if quick || rng.one_in(16) {
                self.tell(|| format!("{}{} faults at {gfn:#x} (write {write}): {found:?}", domain.id, vcpu.id));
                self.enter(cpu, Action { gpr: Some(ops::pointing_at(gfn)), exit: Exit::NestedFault(fault) });
            }
            return Ok(());
        }
        // The frame belongs to the domain, or is mapped with a reference.
        let owner = hv.frames.owner(radon_core::types::Mfn(mfn));
        let own = owner == Some(domain.id);
        if !own && (owner.is_none() || !found.kind.others()) && found.kind.counted() {
            return Err(format!("{gfn:#x} of {} is {found:?}, whose owner is {owner:?}", domain.id));
        }
        let at = radon_core::types::MachineAddr((mfn << 12) + rng.below(500) * 8);
        let memory = radon_core::platform::Platform::memory(&*hv.platform);
        if write && found.kind != radon_core::p2m::Kind::Special {
            memory.store_u64(at, rng.next());
        } else {
            let _ = memory.load_u64(at);
        }
        Ok(())
    }

    /// The guest stores a value in its memory. `false` if it has none there.
    pub(crate) fn store<T: IntoBytes + Immutable>(&self, domain: &Domain, at: u64, value: &T) -> bool {
        GuestPhys::new(self.hv(), &domain.p2m).write(GuestPhysAddr(at), value.as_bytes()).is_ok()
    }

    /// What the guest has at an address.
    pub(crate) fn load<T: FromBytes + IntoBytes>(&self, domain: &Domain, at: u64) -> Option<T> {
        let mut value = T::new_zeroed();
        GuestPhys::new(self.hv(), &domain.p2m).read(GuestPhysAddr(at), value.as_mut_bytes()).ok()?;
        Some(value)
    }

    /// What is cheap to check, and what is not.
    ///
    /// # Errors
    /// What is wrong.
    pub fn audit(&mut self) -> Result<(), Failure> {
        self.coverage.audits += 1;
        let totals = audit::audit(self.hv())?;
        let others = self.start.hypervisor - self.start.tables;
        if !totals.unburied && totals.hypervisor - totals.tables != others {
            return Err(format!("frames of the hypervisor are lost: {totals:?}, at the start {:?}", self.start));
        }
        self.check_events()
    }

    /// No vCPU sleeps while an event is pending for it.
    fn check_events(&self) -> Result<(), Failure> {
        let hv = self.hv();
        let memory = hv.platform.memory();
        for id in &self.ids {
            let Ok(domain) = hv.domains.get(DomainId(*id)) else { continue };
            let chosen = self.models.get(id).is_some_and(|m| m.has_callback);
            if !chosen || domain.control.is_dying() || domain.shutdown_reason().is_some() {
                continue;
            }
            for vcpu in domain.vcpus() {
                let unit = &vcpu.sched.unit;
                // Those with a vector of their own are woken by their local APIC, if they have turned it on.
                if !has_own_vector(vcpu) && unit.is_blocked() && !unit.is_down() && vcpu.events.upcall_pending(memory) {
                    return Err(format!("{unit} sleeps with an event pending"));
                }
            }
        }
        Ok(())
    }

    /// Destroys all guests and checks that nothing is left of them.
    ///
    /// # Errors
    /// What is wrong.
    pub fn finish(&mut self, steps: u64) -> Result<(), Failure> {
        self.ending = true;
        for n in 0..200_000 {
            self.step(steps + n)?;
            if n % 64 == 0 {
                self.look_for_domains();
                // Frames of a grant table live on while dom0 has them mapped, when all else of their domain is gone.
                let left = ops::ending(self);
                if left.is_empty() && self.ids == [0] && !audit::audit(self.hv())?.unburied {
                    break;
                }
                if self.tasks.is_empty() {
                    self.tasks.extend(left);
                }
            }
        }
        self.audit()?;
        let hv = self.hv();
        if self.ids != [0] {
            let left = self.ids.iter().filter_map(|id| hv.domains.get(DomainId(*id)).ok()).map(|d| {
                let (dead, pages) = (d.control.is_dead(), hv.frames.account(d.id).pages());
                format!("{} dead {dead}, {pages} frames, {} holders", d.id, Arc::strong_count(&d) - 2)
            });
            return Err(format!("domains are left: {:?}", left.collect::<Vec<_>>()));
        }
        for mfn in 0..hv.frames.end().0 {
            let gone = |o: &DomainId| *o != shared::DOM0 && o.0 < radon_abi::xen::DOMID_FIRST_RESERVED;
            if let Some(owner) = hv.frames.owner(radon_core::types::Mfn(mfn)).filter(gone) {
                return Err(format!("frame {mfn:#x} is still {owner}'s, which is gone"));
            }
        }
        Ok(())
    }
}

/// Whether a vCPU's upcalls come through its local APIC.
pub(crate) fn has_own_vector(vcpu: &Vcpu) -> bool {
    X86Vcpu::of(vcpu).is_some_and(|a| a.upcall_vector.load(std::sync::atomic::Ordering::Relaxed) != 0)
}

/// The first facts that differ.
fn difference(before: &[audit::Fact], after: &[audit::Fact]) -> Option<String> {
    if before == after {
        return None;
    }
    let gone = before.iter().filter(|f| !after.contains(f)).take(3);
    let new = after.iter().filter(|f| !before.contains(f)).take(3);
    let text = format!("gone: {:x?}; new: {:x?}", gone.collect::<Vec<_>>(), new.collect::<Vec<_>>());
    Some(text)
}
