//! The start of the program and of further vCPUs.

use core::arch::global_asm;
use core::ffi::CStr;
use core::sync::atomic::AtomicU64;

use radon_abi::hypercall;
use radon_abi::vcpu::{HvmContext, HvmContext64, VCPU_HVM_MODE_64B, VCPUOP_INITIALISE, VCPUOP_UP};
use zerocopy::{FromZeros, IntoBytes};

use crate::hypercall::call;

global_asm!(include_str!("start.S"), options(att_syntax, raw));

/// A page of memory, shared with everybody by atomic accesses. Memory is mapped one to one.
#[repr(C, align(4096))]
pub struct Page(pub [AtomicU64; 512]);

impl Page {
    /// A page of zeros.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "pages are statics")]
    pub const fn new() -> Page {
        Page([const { AtomicU64::new(0) }; 512])
    }

    /// Its frame number.
    #[must_use]
    pub fn gfn(&self) -> u64 {
        self.0.as_ptr() as u64 / 4096
    }
}

unsafe extern "C" {
    static entry_tsc: u64;
    static tables_pml4: u8;
    fn further_start();
}

/// The counter when the program's first instruction ran.
#[must_use]
pub fn entry_counter() -> u64 {
    // SAFETY: written once, by the entry code.
    unsafe { entry_tsc }
}

/// The command line that the start information at this address points to.
#[must_use]
pub fn command_line(start_info: u32) -> &'static str {
    /// Where `struct hvm_start_info` has the address of the command line.
    const COMMAND_LINE: u64 = 24;
    // SAFETY: by the PVH protocol the loader passes such a structure, and the text ends with a NUL; both stay.
    let text = unsafe {
        let at = *((u64::from(start_info) + COMMAND_LINE) as *const u64);
        if at == 0 { c"" } else { CStr::from_ptr(at as *const _) }
    };
    text.to_str().unwrap_or_default()
}

/// Starts a vCPU with the tables of the first one, and this stack, in `further_main(number)`. Returns what
/// `VCPUOP_initialise`, or after it `VCPUOP_up`, does.
pub fn start_vcpu(number: u64, stack: u64) -> i64 {
    let regs = HvmContext64 {
        rip: further_start as *const () as u64,
        rsp: stack,
        rdi: number,
        rflags: 2,
        // As `start.S` has them: paging, SSE, long mode.
        cr0: 0x8001_0033,
        cr3: &raw const tables_pml4 as u64,
        cr4: 0x620,
        efer: 0x500,
        ..HvmContext64::new_zeroed()
    };
    let mut context = HvmContext { mode: VCPU_HVM_MODE_64B, ..HvmContext::new_zeroed() };
    context.regs[..size_of::<HvmContext64>()].copy_from_slice(regs.as_bytes());
    match call(hypercall::VCPU_OP, [u64::from(VCPUOP_INITIALISE), number, &raw const context as u64]) {
        0 => call(hypercall::VCPU_OP, [u64::from(VCPUOP_UP), number]),
        failed => failed,
    }
}
