//! Random hypercalls: of the right form often enough to come past the first checks, of any form now and then.

use radon_abi::{
    domctl, event_channel as evtchn, grant_table as grant, hvm, hypercall, memory, sched, sysctl, vcpu, xen,
};
use radon_guest::{Page, hypercall::call};

use super::hypercall::domain_id;
use super::random::Random;

/// Memory that all arguments lie in and that all frame numbers name: pages of which the hypervisor may take any. One more
/// lies behind them, for structures that reach beyond.
pub(crate) static ARENA: [Page; ARENA_PAGES as usize + 1] = [const { Page::new() }; ARENA_PAGES as usize + 1];
const ARENA_PAGES: u64 = 64;
/// A page for each frame of the grant table.
pub(crate) static GRANTS: [Page; 2] = [const { Page::new() }; 2];

/// A hypercall, which is printed before if that is wished.
fn traced(number: u32, arguments: [u64; 5]) -> i64 {
    super::trace(format_args!("call {number} {arguments:x?}"));
    let result = call(number, arguments);
    super::trace(format_args!("  {result}"));
    result
}

/// Bytes that a call's structures take at most.
const BLOCK: u64 = 512;

/// A field of a structure, or an argument.
#[derive(Clone, Copy)]
enum Field {
    Domain,
    Port,
    Vcpu,
    Reference,
    /// A guest frame, mostly of the arena.
    Gfn,
    /// The address of a guest frame.
    FrameAddress,
    /// The address of something in the arena.
    Pointer,
    Small16,
    Small32,
    Small64,
    Bits16,
    Bits32,
    /// A system time, or a number of nanoseconds.
    Time,
    /// A system time that has passed, or will in a moment: to wait for.
    Soon,
    Any32,
    Any64,
    Pad16,
    Pad32,
    Exactly32(u32),
}

/// What an argument register holds.
#[derive(Clone, Copy)]
enum Argument {
    /// The operation's number.
    Operation,
    /// The address of `fields`, so many times.
    Structures,
    /// How many of them.
    Count,
    Value(Field),
}

/// A hypercall's form.
struct Form {
    number: u32,
    operation: u32,
    arguments: &'static [Argument],
    fields: &'static [Field],
}

const fn form(number: u32, operation: u32, arguments: &'static [Argument], fields: &'static [Field]) -> Form {
    Form { number, operation, arguments, fields }
}

use Argument::{Count, Operation, Structures, Value};
use Field::*;

const ONE: &[Argument] = &[Operation, Structures];
const LIST: &[Argument] = &[Operation, Structures, Count];
const OF_VCPU: &[Argument] = &[Operation, Value(Vcpu), Structures];
const RESERVATION: &[Field] = &[Pointer, Small64, Small32, Bits32, Domain, Pad16, Pad32];

const fn memory_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::MEMORY_OP, operation, ONE, fields)
}

const fn event_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::EVENT_CHANNEL_OP, operation, ONE, fields)
}

const fn grant_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::GRANT_TABLE_OP, operation, LIST, fields)
}

const fn hvm_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::HVM_OP, operation, ONE, fields)
}

const fn vcpu_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::VCPU_OP, operation, OF_VCPU, fields)
}

const fn sched_op(operation: u32, fields: &'static [Field]) -> Form {
    form(hypercall::SCHED_OP, operation, ONE, fields)
}

/// What is known of the hypercalls' forms; all others are called with anything.
static FORMS: &[Form] = &[
    memory_op(memory::XENMEM_INCREASE_RESERVATION, RESERVATION),
    memory_op(memory::XENMEM_DECREASE_RESERVATION, RESERVATION),
    memory_op(memory::XENMEM_POPULATE_PHYSMAP, RESERVATION),
    memory_op(memory::XENMEM_POPULATE_PHYSMAP, RESERVATION),
    memory_op(
        memory::XENMEM_EXCHANGE,
        &[
            Pointer, Small64, Small32, Bits32, Domain, Pad16, Pad32, Pointer, Small64, Small32, Bits32, Domain, Pad16,
            Pad32, Small64,
        ],
    ),
    memory_op(memory::XENMEM_MAXIMUM_RAM_PAGE, &[]),
    memory_op(memory::XENMEM_CURRENT_RESERVATION, &[Domain]),
    memory_op(memory::XENMEM_MAXIMUM_RESERVATION, &[Domain]),
    memory_op(memory::XENMEM_MAXIMUM_GPFN, &[Domain]),
    memory_op(memory::XENMEM_ADD_TO_PHYSMAP, &[Domain, Small16, Small32, Gfn, Gfn]),
    memory_op(memory::XENMEM_ADD_TO_PHYSMAP, &[Domain, Pad16, Exactly32(1), Small64, Gfn]),
    memory_op(memory::XENMEM_ADD_TO_PHYSMAP, &[Domain, Small16, Exactly32(2), Gfn, Gfn]),
    memory_op(memory::XENMEM_ADD_TO_PHYSMAP_BATCH, &[Domain, Small16, Small16, Domain, Pointer, Pointer, Pointer]),
    memory_op(memory::XENMEM_REMOVE_FROM_PHYSMAP, &[Domain, Pad16, Pad32, Gfn]),
    memory_op(memory::XENMEM_MEMORY_MAP, &[Small32, Pad32, Pointer]),
    memory_op(memory::XENMEM_SET_MEMORY_MAP, &[Domain, Pad16, Pad32, Small32, Pad32, Pointer]),
    memory_op(memory::XENMEM_SET_POD_TARGET, &[Any64, Any64, Any64, Any64, Domain, Pad16, Pad32]),
    memory_op(memory::XENMEM_GET_POD_TARGET, &[Any64, Any64, Any64, Any64, Domain, Pad16, Pad32]),
    memory_op(memory::XENMEM_CLAIM_PAGES, RESERVATION),
    memory_op(memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP, &[Bits32, Small32, Pointer, Any32, Pad32]),
    memory_op(memory::XENMEM_ACQUIRE_RESOURCE, &[Domain, Small16, Small32, Small32, Pad32, Small64, Pointer]),
    event_op(evtchn::EVTCHNOP_BIND_INTERDOMAIN, &[Domain, Pad16, Port, Port]),
    event_op(evtchn::EVTCHNOP_BIND_VIRQ, &[Small32, Vcpu, Port]),
    event_op(evtchn::EVTCHNOP_BIND_PIRQ, &[Small32, Bits32, Port]),
    event_op(evtchn::EVTCHNOP_CLOSE, &[Port]),
    event_op(evtchn::EVTCHNOP_SEND, &[Port]),
    event_op(evtchn::EVTCHNOP_SEND, &[Port]),
    event_op(evtchn::EVTCHNOP_STATUS, &[Domain, Pad16, Port, Any64, Any64]),
    event_op(evtchn::EVTCHNOP_ALLOC_UNBOUND, &[Domain, Domain, Port]),
    event_op(evtchn::EVTCHNOP_BIND_IPI, &[Vcpu, Port]),
    event_op(evtchn::EVTCHNOP_BIND_VCPU, &[Port, Vcpu]),
    event_op(evtchn::EVTCHNOP_UNMASK, &[Port]),
    event_op(evtchn::EVTCHNOP_INIT_CONTROL, &[Gfn, Bits32, Vcpu, Any64]),
    event_op(evtchn::EVTCHNOP_EXPAND_ARRAY, &[Gfn]),
    event_op(evtchn::EVTCHNOP_SET_PRIORITY, &[Port, Small32]),
    grant_op(grant::GNTTABOP_MAP_GRANT_REF, &[FrameAddress, Small32, Reference, Domain, Pad16, Any32, Any64]),
    grant_op(
        grant::GNTTABOP_MAP_GRANT_REF,
        &[FrameAddress, Exactly32(grant::GNTMAP_HOST_MAP), Reference, Domain, Pad16, Any32, Any64],
    ),
    grant_op(grant::GNTTABOP_UNMAP_GRANT_REF, &[FrameAddress, Pad32, Pad32, Small32, Any32]),
    grant_op(grant::GNTTABOP_SETUP_TABLE, &[Domain, Pad16, Small32, Any64, Pointer]),
    grant_op(grant::GNTTABOP_TRANSFER, &[Gfn, Domain, Pad16, Reference, Any32]),
    grant_op(grant::GNTTABOP_COPY, &[Gfn, Domain, Bits16, Pad32, Gfn, Domain, Bits16, Pad32, Bits16, Small16, Pad32]),
    grant_op(
        grant::GNTTABOP_COPY,
        &[Reference, Pad32, Domain, Bits16, Pad32, Reference, Pad32, Domain, Bits16, Pad32, Bits16, Small16, Pad32],
    ),
    grant_op(grant::GNTTABOP_QUERY_SIZE, &[Domain, Pad16, Any64, Any32]),
    grant_op(grant::GNTTABOP_UNMAP_AND_REPLACE, &[FrameAddress, FrameAddress, Small32, Any32]),
    grant_op(grant::GNTTABOP_SET_VERSION, &[Small32]),
    grant_op(grant::GNTTABOP_GET_VERSION, &[Domain, Pad16, Any32]),
    grant_op(grant::GNTTABOP_SWAP_GRANT_REF, &[Reference, Reference, Any32]),
    grant_op(grant::GNTTABOP_CACHE_FLUSH, &[FrameAddress, Bits16, Bits16, Bits32]),
    hvm_op(hvm::HVMOP_SET_PARAM, &[Domain, Pad16, Small32, Any64]),
    hvm_op(hvm::HVMOP_SET_PARAM, &[Domain, Pad16, Small32, Gfn]),
    hvm_op(hvm::HVMOP_GET_PARAM, &[Domain, Pad16, Small32, Any64]),
    hvm_op(hvm::HVMOP_FLUSH_TLBS, &[]),
    hvm_op(hvm::HVMOP_GET_TIME, &[Any64]),
    hvm_op(hvm::HVMOP_XENTRACE, &[Small16, Small16, Any64, Any64, Any64, Any32]),
    hvm_op(hvm::HVMOP_PAGETABLE_DYING, &[Domain, Pad16, Pad32, FrameAddress]),
    hvm_op(hvm::HVMOP_GET_MEM_TYPE, &[Domain, Pad16, Pad32, Gfn]),
    hvm_op(hvm::HVMOP_SET_MEM_ACCESS, &[Domain, Small16, Small32, Gfn]),
    hvm_op(hvm::HVMOP_GET_MEM_ACCESS, &[Domain, Small16, Pad32, Gfn]),
    hvm_op(hvm::HVMOP_SET_EVTCHN_UPCALL_VECTOR, &[Vcpu, Any32]),
    hvm_op(hvm::HVMOP_GUEST_REQUEST_VM_EVENT, &[]),
    hvm_op(hvm::HVMOP_ALTP2M, &[Small32, Small32, Domain, Pad16, Pad32, Any64, Any64]),
    vcpu_op(
        vcpu::VCPUOP_INITIALISE,
        &[
            Small32, Any32, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64, Any64,
            Any64, Any64,
        ],
    ),
    vcpu_op(vcpu::VCPUOP_UP, &[]),
    vcpu_op(vcpu::VCPUOP_IS_UP, &[]),
    vcpu_op(vcpu::VCPUOP_GET_RUNSTATE_INFO, &[]),
    vcpu_op(vcpu::VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA, &[Pointer]),
    vcpu_op(vcpu::VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA, &[Pointer]),
    vcpu_op(vcpu::VCPUOP_SET_PERIODIC_TIMER, &[Time]),
    vcpu_op(vcpu::VCPUOP_STOP_PERIODIC_TIMER, &[]),
    vcpu_op(vcpu::VCPUOP_SET_SINGLESHOT_TIMER, &[Time, Bits32, Pad32]),
    vcpu_op(vcpu::VCPUOP_STOP_SINGLESHOT_TIMER, &[]),
    vcpu_op(vcpu::VCPUOP_REGISTER_VCPU_INFO, &[Gfn, Bits16, Pad16, Pad32]),
    vcpu_op(vcpu::VCPUOP_GET_PHYSID, &[]),
    sched_op(sched::SCHEDOP_YIELD, &[]),
    sched_op(sched::SCHEDOP_POLL, &[Pointer, Small32, Pad32, Soon]),
    sched_op(sched::SCHEDOP_REMOTE_SHUTDOWN, &[Domain, Pad16, Small32]),
    sched_op(sched::SCHEDOP_SHUTDOWN_CODE, &[Small32]),
    sched_op(sched::SCHEDOP_WATCHDOG, &[Small32, Exactly32(3600)]),
    sched_op(sched::SCHEDOP_PIN_OVERRIDE, &[Small32]),
    form(hypercall::SET_TIMER_OP, 0, &[Value(Time)], &[]),
    form(hypercall::CONSOLE_IO, xen::CONSOLEIO_WRITE, &[Operation, Value(Small32), Structures], &[Any64]),
    form(hypercall::CONSOLE_IO, xen::CONSOLEIO_READ, &[Operation, Value(Bits32), Structures], &[Any64]),
    form(hypercall::VM_ASSIST, 0, &[Value(Small32), Value(Small32)], &[]),
    form(hypercall::XEN_VERSION, 0, &[Value(Small32), Structures], &[Any64]),
    form(hypercall::PHYSDEV_OP, 0, &[Value(Small32), Structures], &[Small32, Small32, Any64, Small32, Small32]),
    form(
        hypercall::SYSCTL,
        0,
        &[Structures],
        &[Small32, Exactly32(sysctl::XEN_SYSCTL_INTERFACE_VERSION), Any64, Pointer],
    ),
    form(
        hypercall::DOMCTL,
        0,
        &[Structures],
        &[Small32, Exactly32(domctl::XEN_DOMCTL_INTERFACE_VERSION), Domain, Pad16, Pad32, Any64, Pointer],
    ),
    form(hypercall::PLATFORM_OP, 0, &[Structures], &[Small32, Exactly32(0x0300_0000), Any64, Pointer]),
    form(
        hypercall::MULTICALL,
        0,
        &[Structures, Count],
        &[Small64, Any64, Small64, Pointer, Small64, Any64, Any64, Any64],
    ),
    form(
        hypercall::MULTICALL,
        0,
        &[Structures, Count],
        &[Exactly32(hypercall::XEN_VERSION), Pad32, Any64, Small64, Pointer, Any64, Any64, Any64, Any64],
    ),
];

/// Makes calls.
pub(crate) struct Caller {
    own: u16,
    vcpus: u64,
}

impl Caller {
    pub(crate) fn new(vcpus: u64) -> Caller {
        Caller { own: domain_id(), vcpus }
    }

    /// A random call; returns its result.
    pub(crate) fn attack(&self, random: &mut Random) -> i64 {
        if random.once_in(16) {
            return self.anything(random);
        }
        let form = &FORMS[random.below(FORMS.len() as u64) as usize];
        let block = arena_address(random) & !7;
        let times = if random.once_in(4) { random.below(5) } else { 1 };
        self.fill(random, block, form.fields, times.max(1));
        let mut arguments = [0; 5];
        for (slot, argument) in arguments.iter_mut().zip(form.arguments) {
            *slot = match argument {
                Operation => u64::from(form.operation),
                Structures if random.once_in(50) => self.value(random, Any64),
                Structures => block,
                Count if random.once_in(50) => self.value(random, Any64),
                Count => times,
                Value(field) => self.value(random, *field),
            };
        }
        traced(form.number, arguments)
    }

    /// A call of any number with any arguments. Ending the domain is left out: it would end the attack.
    fn anything(&self, random: &mut Random) -> i64 {
        let number = if random.once_in(8) { random.next() as u32 } else { random.below(64) as u32 };
        let mut arguments = [0; 5];
        for slot in &mut arguments {
            let field = random.pick(&[Small64, Small64, Pointer, Any64]);
            *slot = self.value(random, field);
        }
        let operation = arguments[0] as u32;
        let ends =
            number == hypercall::SCHED_OP && [sched::SCHEDOP_SHUTDOWN, sched::SCHEDOP_BLOCK].contains(&operation);
        let stops = number == hypercall::VCPU_OP && operation == vcpu::VCPUOP_DOWN;
        if ends || stops { 0 } else { traced(number, arguments) }
    }

    /// Writes structures to the arena, and behind them what their pointers may lead to.
    fn fill(&self, random: &mut Random, at: u64, fields: &[Field], times: u64) {
        let mut bytes = [0; BLOCK as usize];
        let mut used = 0;
        for field in (0..times).flat_map(|_| fields) {
            let value = if random.once_in(100) { random.next() } else { self.value(random, *field) };
            let size = size_of_field(*field);
            if used + size > bytes.len() {
                break;
            }
            bytes[used..used + size].copy_from_slice(&value.to_le_bytes()[..size]);
            used += size;
        }
        write_arena(at, &bytes[..used]);
    }

    /// Frames, references and addresses all over a page of the arena, for lists that pointers lead to.
    pub(crate) fn scatter(&self, random: &mut Random) {
        let page = random.below(ARENA_PAGES) as usize;
        let field = random.pick(&[Gfn, Gfn, Port, Small64, Pointer, Any64]);
        for n in 0..64 {
            let value = self.value(random, field);
            write_arena(ARENA[page].gfn() * 4096 + n * 8, &value.to_le_bytes());
        }
    }

    /// Entries of the grant table that grant pages of the arena to anybody, or are nonsense.
    pub(crate) fn grants(&self, random: &mut Random) {
        let page = &GRANTS[random.below(2) as usize];
        for _ in 0..16 {
            let flags = if random.once_in(8) { random.next() & 0xffff } else { random.pick(&[1, 1, 5, 2, 3, 0x101]) };
            let entry = flags | self.value(random, Domain) << 16 | self.value(random, Gfn) << 32;
            page.0[random.below(512) as usize].store(entry, core::sync::atomic::Ordering::Relaxed);
        }
    }

    fn value(&self, random: &mut Random, field: Field) -> u64 {
        match field {
            Domain => {
                let known = [
                    xen::DOMID_SELF,
                    xen::DOMID_SELF,
                    self.own,
                    self.own,
                    0,
                    1,
                    2,
                    3,
                    xen::DOMID_IO,
                    xen::DOMID_XEN,
                    xen::DOMID_INVALID,
                ];
                u64::from(random.pick(&known))
            }
            // Not those of xenstore and the console, which this program speaks through.
            Port => 3 + random.mostly_below(40, 5000),
            Vcpu => random.below(self.vcpus + 1),
            Reference => random.mostly_below(300, 2000),
            Gfn => self.frame(random),
            FrameAddress => {
                let offset = if random.once_in(16) { random.below(4096) } else { 0 };
                (self.frame(random) << 12).wrapping_add(offset)
            }
            Pointer => arena_address(random) & !7,
            Small16 | Small32 | Small64 => random.mostly_below(40, 300),
            Bits16 => random.pick(&[0, 0, 8, 64, 1024, 4032, 4095, 4096, 0xffff]),
            Bits32 => random.pick(&[0, 0, 0, 1, 2, 4, 0x20, 1 << 8, 1 << 16, 1 << 17, 1 << 18, 0xffff_ffff]),
            Time => match random.below(4) {
                0 => random.below(2_000_000),
                1 => 0,
                2 => 1 << random.below(64),
                _ => random.next(),
            },
            Soon => 1 + random.below(1 << 22),
            Any32 | Any64 => match random.below(6) {
                0 => random.next(),
                1 => 1 << random.below(64),
                2 => (1u64 << random.below(64)).wrapping_sub(1),
                3 => u64::MAX - random.below(5000),
                4 => arena_address(random),
                _ => random.below(64),
            },
            Pad16 | Pad32 => 0,
            Exactly32(value) => u64::from(value),
        }
    }

    fn frame(&self, random: &mut Random) -> u64 {
        match random.below(16) {
            0 => random.next() & 0xf_ffff_ffff,
            1 => random.pick(&[0, 0xfee00, 0xfec00, 0xf0000, 1 << 20, 1 << 36, u64::MAX, u64::MAX >> 12]),
            2 => 0x7000 + random.below(64),
            _ => random.below(ARENA_PAGES) + ARENA[0].gfn(),
        }
    }
}

/// An address in the arena, sometimes so near to its end that a structure reaches beyond it.
pub(crate) fn arena_address(random: &mut Random) -> u64 {
    let size = ARENA_PAGES * 4096;
    let start = ARENA[0].gfn() * 4096;
    if random.once_in(64) { start + size - random.below(64) } else { start + random.below(size - BLOCK) }
}

fn write_arena(at: u64, bytes: &[u8]) {
    let end = (ARENA[0].gfn() + ARENA_PAGES) * 4096;
    for (n, byte) in bytes.iter().enumerate().take_while(|(n, _)| at + (*n as u64) < end) {
        // SAFETY: the place lies in the arena, which is only ever accessed in such ways.
        unsafe { ((at + n as u64) as *mut u8).write_volatile(*byte) };
    }
}

fn size_of_field(field: Field) -> usize {
    match field {
        Domain | Small16 | Bits16 | Pad16 => 2,
        Port | Vcpu | Reference | Small32 | Bits32 | Any32 | Pad32 | Exactly32(_) => 4,
        Gfn | FrameAddress | Pointer | Small64 | Time | Soon | Any64 => 8,
    }
}
