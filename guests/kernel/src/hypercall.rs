//! Hypercalls by VMMCALL, with arguments by value or a structure by address.

use core::arch::asm;
use core::ptr;

use radon_abi::{hypercall, memory, sched, xen};

use crate::Page;

/// A hypercall with up to five arguments.
#[inline(always)]
pub fn call<const N: usize>(number: u32, arguments: [u64; N]) -> i64 {
    let result: i64;
    let argument = |n: usize| arguments.get(n).copied().unwrap_or(0);
    // SAFETY: the program owns its virtual machine. Those that write memory are given the addresses of structures that
    // their callers own, or of memory that the program does not rely on.
    unsafe {
        asm!("vmmcall", inout("rax") u64::from(number) => result, inout("rdi") argument(0) => _,
            inout("rsi") argument(1) => _, inout("rdx") argument(2) => _, inout("r10") argument(3) => _,
            inout("r8") argument(4) => _, options(nostack));
    }
    result
}

/// Ends the program with a message unless a hypercall succeeded.
pub fn must(what: &str, result: i64) -> i64 {
    assert!(result >= 0, "{what}: {result}");
    result
}

/// A hypercall with an operation's number and a structure that the hypervisor may write.
pub fn operate<T>(number: u32, operation: u32, argument: &mut T) -> i64 {
    call(number, [u64::from(operation), ptr::from_mut(argument) as u64])
}

/// Puts a frame of the hypervisor's (`XENMAPSPACE_*` and the number in there) at `page`; returns what the hypercall does.
pub fn map_special(space: u32, idx: u64, page: &Page) -> i64 {
    let mut add = memory::AddToPhysmap { domid: xen::DOMID_SELF, size: 0, space, idx, gpfn: page.gfn() };
    operate(hypercall::MEMORY_OP, memory::XENMEM_ADD_TO_PHYSMAP, &mut add)
}

/// Gives up the CPU to others for now; returns what the hypercall does.
pub fn give_way() -> i64 {
    call(hypercall::SCHED_OP, [u64::from(sched::SCHEDOP_YIELD), 0])
}
