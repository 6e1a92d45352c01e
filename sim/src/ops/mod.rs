//! What guests do. [`choose`] draws a hypercall, [`instruction`] another reason to stop.
//!
//! To add an operation: a line in [`guest`] (any domain) or [`control`] (dom0) that fills its structure with values that
//! mostly mean something. Nonsense is added here, to one call of some: another pointer, another word in the structure.

mod control;
mod guest;

use std::sync::Arc;

use radon_abi::hypercall as number;
use radon_core::domain::Domain;
use radon_core::hypercall::HYPERCALLS;
use radon_core::vcpu::Vcpu;
use radon_x86::virt::{Exit, NestedFault, PortAccess, gpr};
use zerocopy::{Immutable, IntoBytes};

pub use control::{Task, ending};

use crate::machine::Action;
use crate::model::{ARGUMENTS, CONTROL, FIRST, LARGE, LISTS, WINDOW};
use crate::rng::Rng;
use crate::world::{Failure, World};

/// What is to be learned from a call's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    #[default]
    Nothing,
    /// A port is at this offset of the structure.
    Port(u64),
    /// An event was sent through this port.
    Sent(u32),
    /// A grant was perhaps mapped.
    Mapped,
    /// Perhaps the version of the grant table changed.
    Version,
    /// The guest has its callback.
    Callback,
    /// A domain was made.
    Created,
    /// A domain may be gone.
    Destroyed,
}

/// A hypercall.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its number.
    pub number: u32,
    /// Its operation, for the report.
    pub operation: u32,
    /// Arguments.
    pub args: [u64; 6],
    /// What to learn.
    pub after: After,
    /// It was made nonsense of, so an error may come when some of it is done (a result that cannot be copied out).
    pub hostile: bool,
}

impl Call {
    /// A name for people.
    #[must_use]
    pub fn name(&self) -> String {
        let call = HYPERCALLS.iter().find(|c| c.number == self.number);
        let operation = call.and_then(|c| c.operations.iter().find(|o| o.number == self.operation));
        match (call, operation) {
            (_, Some(operation)) => operation.name.to_owned(),
            (Some(call), None) => format!("{} {}", call.name, self.operation),
            _ => format!("hypercall {}", self.number),
        }
    }

    /// Whether a failure of this operation leaves everything as it was. Those that work on lists stop where they fail, and
    /// results that cannot be copied out are lost, as the operations' documentation says.
    #[must_use]
    pub fn undoes(&self) -> bool {
        use radon_abi::{domctl, event_channel, memory, sched};
        let list = match self.number {
            number::MEMORY_OP => matches!(
                self.operation,
                memory::XENMEM_ADD_TO_PHYSMAP_BATCH | memory::XENMEM_ACQUIRE_RESOURCE | memory::XENMEM_ADD_TO_PHYSMAP
            ),
            number::DOMCTL => matches!(
                self.operation,
                // Records before the bad one have been taken over; the dead are buried first.
                domctl::XEN_DOMCTL_SETHVMCONTEXT
                    | domctl::XEN_DOMCTL_CREATEDOMAIN
                    | domctl::XEN_DOMCTL_GETDOMAININFO
                    | domctl::XEN_DOMCTL_SHADOW_OP
            ),
            number::SCHED_OP => self.operation == sched::SCHEDOP_POLL,
            number::EVENT_CHANNEL_OP => self.operation == event_channel::EVTCHNOP_RESET,
            number::MULTICALL | number::GRANT_TABLE_OP | number::SYSCTL => true,
            _ => false,
        };
        !list && !self.hostile
    }
}

/// Makes the calls of one vCPU.
pub(crate) struct Maker<'a> {
    pub(crate) world: &'a mut World,
    pub(crate) domain: &'a Arc<Domain>,
    pub(crate) vcpu: &'a Arc<Vcpu>,
    pub(crate) rng: &'a mut Rng,
}

impl Maker<'_> {
    /// Where this vCPU's structure goes.
    pub(crate) fn at(&self) -> u64 {
        ARGUMENTS + u64::from(self.vcpu.id.0 % 4) * 512
    }

    /// Where this vCPU's list goes.
    pub(crate) fn list(&self) -> u64 {
        LISTS + u64::from(self.vcpu.id.0 % 4) * 4096
    }

    /// Puts the structure in its place.
    pub(crate) fn put<T: IntoBytes + Immutable>(&mut self, value: &T) -> u64 {
        let at = self.at();
        self.world.store(self.domain, at, value);
        at
    }

    /// Fills the list.
    pub(crate) fn put_list<T: IntoBytes + Immutable>(&mut self, values: &[T]) -> u64 {
        let at = self.list();
        let mut to = at;
        for value in values {
            self.world.store(self.domain, to, value);
            to += size_of::<T>() as u64;
        }
        at
    }

    /// A call whose first argument is the operation and whose second is the structure.
    pub(crate) fn call<T: IntoBytes + Immutable>(&mut self, number: u32, operation: u32, value: &T) -> Call {
        let at = self.put(value);
        Call { args: [operation.into(), at, 0, 0, 0, 0], ..plain(number, operation) }
    }

    /// A domain's number: mostly one that exists.
    pub(crate) fn some_domain(&mut self) -> u16 {
        match self.rng.below(16) {
            0 => radon_abi::xen::DOMID_SELF,
            1 => self.rng.hostile() as u16,
            2..8 => self.domain.id.0,
            _ => self.rng.pick(&self.world.ids),
        }
    }

    /// Another domain's number, if there is one.
    pub(crate) fn another_domain(&mut self) -> u16 {
        if self.rng.one_in(32) {
            return self.rng.hostile() as u16;
        }
        self.rng.pick(&self.world.ids)
    }

    /// One of its ports, mostly.
    pub(crate) fn some_port(&mut self) -> u32 {
        if self.rng.one_in(16) {
            return self.rng.hostile() as u32;
        }
        self.world.models.get(&self.domain.id.0).map_or(1, |m| m.ports.pick(self.rng))
    }

    /// One of its vCPUs, mostly.
    pub(crate) fn some_vcpu(&mut self) -> u32 {
        if self.rng.one_in(16) {
            return self.rng.hostile() as u32;
        }
        self.rng.below(self.domain.vcpus().len() as u64) as u32
    }

    /// One of its guest frames, mostly.
    pub(crate) fn some_gfn(&mut self) -> u64 {
        some_gfn(self.world, self.domain, self.rng)
    }

    /// Ordinary memory or the window of others' pages.
    pub(crate) fn ram_gfn(&mut self) -> u64 {
        let ram = self.world.models.get(&self.domain.id.0).map_or(48, |m| m.ram);
        FIRST + self.rng.below(ram.saturating_sub(FIRST).max(1))
    }

    /// A place for others' pages.
    pub(crate) fn window_gfn(&mut self) -> u64 {
        WINDOW.start + 8 + self.rng.below(WINDOW.end - WINDOW.start - 8)
    }

    /// A frame for what the hypervisor writes by itself.
    pub(crate) fn control_gfn(&mut self) -> u64 {
        CONTROL.start + self.rng.below(CONTROL.end - CONTROL.start)
    }
}

/// A call without arguments.
pub(crate) fn plain(number: u32, operation: u32) -> Call {
    Call { number, operation, args: [operation.into(), 0, 0, 0, 0, 0], after: After::Nothing, hostile: false }
}

/// A guest frame of a domain that may be worth touching.
pub(crate) fn some_gfn(world: &World, domain: &Domain, rng: &mut Rng) -> u64 {
    let ram = world.models.get(&domain.id.0).map_or(48, |m| m.ram);
    match rng.below(32) {
        0 => WINDOW.start + rng.below(WINDOW.end - WINDOW.start),
        1..4 => LARGE + rng.below(512),
        4 => match rng.hostile() & ((1 << 40) - 1) {
            // No guest hands these to anybody.
            gfn if gfn < FIRST => FIRST,
            gfn => gfn,
        },
        _ => FIRST + rng.below(ram.saturating_sub(FIRST).max(1)),
    }
}

/// A pointer as guests get them wrong. Never to what the hypervisor writes to by itself.
fn bad_pointer(rng: &mut Rng) -> u64 {
    match rng.below(6) {
        0 => 0,
        1 => FIRST << 12 | 0xff8,
        2 => (WINDOW.start + rng.below(256)) << 12,
        3 => 1 << 47 | rng.next() & 0xfff,
        4 => u64::MAX - rng.below(64),
        _ => rng.next() | 1 << 30,
    }
}

/// The next hypercall of a vCPU.
pub(crate) fn choose(world: &mut World, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>, rng: &mut Rng) -> Call {
    let mut maker = Maker { world, domain, vcpu, rng };
    let control = domain.is_hardware() && (maker.rng.one_in(2) || maker.world.ending);
    let mut call = if control { control::choose(&mut maker) } else { guest::choose(&mut maker) };
    spoil(&mut maker, &mut call);
    call
}

/// Makes nonsense of one call of some.
fn spoil(maker: &mut Maker<'_>, call: &mut Call) {
    if maker.world.ending || !maker.rng.one_in(24) {
        return;
    }
    call.hostile = true;
    call.after = match call.after {
        After::Created | After::Destroyed | After::Mapped => call.after,
        _ => After::Nothing,
    };
    let pointer = if matches!(call.number, number::DOMCTL | number::SYSCTL | number::PLATFORM_OP | number::MULTICALL) {
        0
    } else {
        1
    };
    // dom0 keeps the memory that it works with.
    let careful = maker.domain.is_hardware() && matches!(call.number, number::MEMORY_OP | number::SCHED_OP);
    if careful {
        // Not to a place where there is something to read.
        call.args[pointer] = 1 << 47 | maker.rng.next() & 0xfff;
        return;
    }
    match maker.rng.below(4) {
        0 => call.args[pointer] = bad_pointer(maker.rng),
        1 => {
            // The operation of some is in the structure.
            let n = maker.rng.below(4) as usize + usize::from(pointer == 1);
            let value = maker.rng.hostile();
            // A list that goes on over dom0's own page tables would be the end.
            let value = if maker.domain.is_hardware() { value & 7 } else { value };
            call.args[n.min(5)] = if n == pointer { bad_pointer(maker.rng) } else { value };
        }
        _ => {
            let at = maker.at() + 8 + maker.rng.below(12) * 4;
            let value = if maker.rng.one_in(2) { bad_pointer(maker.rng) } else { maker.rng.hostile() };
            // Small numbers could be taken for addresses of what the hypervisor writes to.
            let kept = if maker.domain.is_hardware() { 1 << 12 } else { 8 << 12 };
            let value = if (kept..16 << 12).contains(&value) { 0 } else { value };
            if maker.rng.one_in(2) {
                maker.world.store(maker.domain, at & !7, &value);
            } else {
                maker.world.store(maker.domain, at, &(value as u32));
            }
        }
    }
}

/// The registers of a call.
pub(crate) fn registers(call: &Call, long: bool) -> [u64; 16] {
    let mut gprs = [0; 16];
    gprs[gpr::RAX] = call.number.into();
    let names = if long {
        [gpr::RDI, gpr::RSI, gpr::RDX, gpr::R10, gpr::R8, gpr::R9]
    } else {
        [gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI, gpr::RDI, gpr::RBP]
    };
    for (name, value) in names.into_iter().zip(call.args) {
        gprs[name] = value;
    }
    gprs
}

/// A nested page fault.
pub(crate) fn fault(gfn: u64, write: bool, present: bool) -> NestedFault {
    NestedFault { gpa: gfn << 12, write, fetch: false, present, table_walk: false }
}

/// Registers with RAX (in 16-bit code, BX) pointing at a frame.
pub(crate) fn pointing_at(gfn: u64) -> [u64; 16] {
    let mut gprs = [0; 16];
    gprs[gpr::RAX] = gfn << 12;
    gprs[gpr::RBX] = gfn << 12;
    gprs
}

/// x2APIC MSRs.
const X2APIC: u32 = 0x800;

/// Something else that leaves guest mode.
pub(crate) fn instruction(domain: &Domain, rng: &mut Rng) -> Action {
    let mut gprs = [0; 16];
    let mut msr = |number: u32, value: u64| {
        gprs[gpr::RCX] = number.into();
        gprs[gpr::RAX] = value & 0xffff_ffff;
        gprs[gpr::RDX] = value >> 32;
    };
    let exit = match rng.below(32) {
        0..4 => Exit::Halt,
        4..6 => Exit::Pause,
        6 => {
            gprs[gpr::RAX] =
                rng.pick(&[0, 1, 7, 0xd, 0x4000_0000, 0x4000_0003, 0x8000_0001, 0x8000_0008, rng.clone().next()]);
            gprs[gpr::RCX] = rng.below(4);
            Exit::Cpuid
        }
        7..10 => {
            let known = [0x1b, 0x10, 0x277, 0xc000_0080, 0xc000_0082, 0x174, 0x3b, 0x6e0, X2APIC + 2, X2APIC + 0x20];
            msr(if rng.one_in(4) { rng.hostile() as u32 } else { rng.pick(&known) }, 0);
            Exit::Rdmsr
        }
        10..14 => {
            // The end of an interrupt.
            msr(X2APIC + 0xb, 0);
            Exit::Wrmsr
        }
        14..17 => {
            // An interrupt to another vCPU: mostly of fixed vectors, sometimes INIT and start-up messages.
            let vector = 0x30 + rng.below(0xc0);
            let mode = rng.pick(&[0, 0, 0, 0, 1, 4, 5, 6, 6, 6]);
            // dom0 does not end itself, and guests seldom.
            let mode = if mode == 5 && (domain.is_hardware() || !rng.one_in(8)) { 0 } else { mode };
            let shorthand = rng.pick(&[0, 0, 1, 2, 3]);
            let to = rng.below(8);
            msr(X2APIC + 0x30, to << 32 | shorthand << 18 | 1 << 14 | mode << 8 | vector);
            Exit::Wrmsr
        }
        17..20 => {
            // Timer: mode and vector, divider, count, deadline.
            let (number, value) = rng.pick(&[
                (X2APIC + 0x32, 0x0_0040 | (rng.clone().below(3)) << 17),
                (X2APIC + 0x3e, rng.clone().below(12)),
                (X2APIC + 0x38, 1000 + rng.clone().below(1 << 20)),
                (0x6e0, rng.clone().below(1 << 36)),
                (X2APIC + 0xf, 0x1ff),
                (X2APIC + 0x8, rng.clone().below(256)),
            ]);
            msr(number, value);
            Exit::Wrmsr
        }
        // The message could be sent in another mode.
        20 if !domain.is_hardware() => {
            // x2APIC mode.
            msr(0x1b, 0xfee0_0c00 | u64::from(rng.one_in(2)) << 8);
            Exit::Wrmsr
        }
        21 => {
            msr(rng.hostile() as u32, rng.hostile());
            Exit::Wrmsr
        }
        22 => {
            let port = rng.pick(&[0x20, 0x40, 0x43, 0x60, 0x70, 0x71, 0xcf8, 0xcfc, 0x3f8, 0xb2]);
            let port = if rng.one_in(4) { rng.next() as u16 } else { port };
            let access = PortAccess { port, size: rng.pick(&[1, 2, 4]), write: rng.one_in(2), string: rng.one_in(16) };
            gprs[gpr::RAX] = rng.next();
            Exit::Port(access)
        }
        23 => {
            gprs[gpr::RAX] = rng.pick(&[1, 3, 7, 0, u64::MAX]);
            Exit::Xsetbv
        }
        24 => Exit::CacheFlush,
        25 => Exit::Rdtsc { with_aux: rng.one_in(2) },
        26 => rng.pick(&[Exit::Icebp, Exit::Undefined, Exit::Protected, Exit::DebugRegister, Exit::InterruptWindow]),
        // A triple fault, seldom.
        27 if !domain.is_hardware() && rng.one_in(64) => Exit::Shutdown,
        _ => Exit::Interrupt,
    };
    Action { gpr: Some(gprs), exit }
}

/// Learns from a call that is done, and checks what it should have done.
pub(crate) fn learn(
    world: &mut World,
    domain: &Arc<Domain>,
    vcpu: &Arc<Vcpu>,
    call: &Call,
    failed: bool,
    result: i64,
) -> Result<(), Failure> {
    let at = ARGUMENTS + u64::from(vcpu.id.0 % 4) * 512;
    let id = domain.id.0;
    if call.hostile && call.number == number::HVM_OP && call.operation == radon_abi::hvm::HVMOP_SET_PARAM {
        // It may have taken any domain's callback away, while a vCPU slept.
        world.models.values_mut().for_each(|m| m.has_callback = false);
    }
    match call.after {
        After::Created | After::Destroyed => {
            world.look_for_domains();
            if call.after == After::Created && !failed && !call.hostile {
                control::created(world, domain, at);
            }
        }
        After::Sent(port) if !failed => return guest::check_sent(world, domain, port),
        _ if failed => {}
        After::Nothing | After::Sent(_) => {}
        After::Port(offset) => {
            if let (Some(port), Some(model)) = (world.load::<u32>(domain, at + offset), world.models.get_mut(&id)) {
                model.ports.push(port);
            }
        }
        After::Mapped => {
            let request: Option<radon_abi::grant_table::MapGrantRef> = world.load(domain, at);
            if let (Some(r), Some(model)) = (request.filter(|r| r.status == 0), world.models.get_mut(&id)) {
                model.handles.push((r.handle, r.host_addr));
            }
        }
        After::Version => {
            if let (Some(version), Some(model)) = (world.load::<u32>(domain, at), world.models.get_mut(&id)) {
                model.grant_version = version;
            }
        }
        After::Callback => {
            if let Some(model) = world.models.get_mut(&id) {
                model.has_callback = true;
            }
        }
    }
    let _ = result;
    Ok(())
}
