//! Machine checks: errors that the hardware reports of itself.
//!
//! Every bank is turned on at each CPU's start, so that an error that cannot be corrected raises #MC rather than going by
//! unseen. A machine check stops the machine with what the banks say, whether it met the hypervisor or a guest: which
//! memory it spoils is not sorted out. Corrected errors are left in the banks for nobody to read.
//!
//! Takes no locks.
// Unsafe: writes the banks' registers.
#![allow(unsafe_code)]

use core::fmt;

use crate::cpu::registers::{cpuid, rdmsr_safe, wrmsr_safe};
use crate::report;

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MCG_CTL: u32 = 0x17b;
/// First bank's registers: control, status, address, miscellaneous; four more for each further bank.
const BANK_CTL: u32 = 0x400;

/// MCG_CAP: number of banks; MCG_CTL exists.
const COUNT: u64 = 0xff;
const HAS_CTL: u64 = 1 << 8;
/// Banks that have registers at these places.
const MOST_BANKS: u64 = 32;
/// Status: an error is recorded; the address is valid; so is the miscellaneous register.
const VALID: u64 = 1 << 63;
const HAS_ADDRESS: u64 = 1 << 58;
const HAS_MISC: u64 = 1 << 59;

/// CPUID 1 EDX: machine check exception and architecture.
const MCE_AND_MCA: u32 = 1 << 7 | 1 << 14;

/// Banks of this CPU: the number of each bank's first register.
fn banks() -> impl Iterator<Item = (u64, u32)> {
    let exist = cpuid(1, 0).edx & MCE_AND_MCA == MCE_AND_MCA;
    let count = if exist { rdmsr_safe(MCG_CAP).unwrap_or(0) & COUNT } else { 0 };
    (0..count.min(MOST_BANKS)).map(|n| (n, BANK_CTL + 4 * n as u32))
}

/// Turns all banks of this CPU on, and says what they recorded before.
pub(crate) fn init_cpu() {
    let mut any = false;
    for (n, first) in banks() {
        any = true;
        if let Ok(status) = rdmsr_safe(first + 1)
            && status & VALID != 0
        {
            log::warn!("Machine check bank {n} holds an error from before the start: status {status:#018x}");
        }
        // SAFETY: the banks are the hypervisor's; a bit in their control registers makes an error that has happened known.
        unsafe {
            let _ = wrmsr_safe(first + 1, 0);
            let _ = wrmsr_safe(first, u64::MAX);
        }
    }
    if any && rdmsr_safe(MCG_CAP).unwrap_or(0) & HAS_CTL != 0 {
        // SAFETY: as above.
        let _ = unsafe { wrmsr_safe(MCG_CTL, u64::MAX) };
    }
}

/// A machine check ended guest mode.
pub(crate) fn in_guest() -> ! {
    report::fatal(None, format_args!("machine check (#MC) while a guest ran: {Banks}"))
}

/// What this CPU's banks say.
pub(crate) struct Banks;

impl fmt::Display for Banks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MCG_STATUS {:#x}", rdmsr_safe(MCG_STATUS).unwrap_or(0))?;
        for (n, first) in banks() {
            let Ok(status) = rdmsr_safe(first + 1) else { continue };
            if status & VALID == 0 {
                continue;
            }
            write!(f, "; bank {n} status {status:#018x}")?;
            for (bit, register, name) in [(HAS_ADDRESS, first + 2, "address"), (HAS_MISC, first + 3, "misc")] {
                if status & bit != 0 {
                    write!(f, " {name} {:#x}", rdmsr_safe(register).unwrap_or(0))?;
                }
            }
        }
        Ok(())
    }
}
