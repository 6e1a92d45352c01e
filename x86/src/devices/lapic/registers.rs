//! Register numbers and bits of the local APIC. A register's number is its xAPIC offset divided by 16 and its x2APIC MSR
//! less 0x800 (AMD APM vol. 2, table 16-2 and 16-6; Intel SDM vol. 3, tables 10-1 and 10-6).

pub(super) const ID: u32 = 0x02;
pub(super) const VERSION: u32 = 0x03;
pub(super) const TPR: u32 = 0x08;
pub(super) const APR: u32 = 0x09;
pub(super) const PPR: u32 = 0x0a;
pub(super) const EOI: u32 = 0x0b;
pub(super) const RRD: u32 = 0x0c;
pub(super) const LDR: u32 = 0x0d;
pub(super) const DFR: u32 = 0x0e;
pub(super) const SVR: u32 = 0x0f;
pub(super) const ISR: u32 = 0x10;
pub(super) const ISR_LAST: u32 = 0x17;
pub(super) const TMR: u32 = 0x18;
pub(super) const TMR_LAST: u32 = 0x1f;
pub(super) const IRR: u32 = 0x20;
pub(super) const IRR_LAST: u32 = 0x27;
pub(super) const ESR: u32 = 0x28;
pub(super) const ICR_LOW: u32 = 0x30;
pub(super) const ICR_HIGH: u32 = 0x31;
pub(super) const LVT: u32 = 0x32;
pub(super) const LVT_LAST: u32 = 0x37;
pub(super) const TIMER_INITIAL: u32 = 0x38;
pub(super) const TIMER_CURRENT: u32 = 0x39;
pub(super) const TIMER_DIVIDE: u32 = 0x3e;
pub(super) const SELF_IPI: u32 = 0x3f;

/// Version 0x14 (an integrated APIC), six LVT entries, no directed EOI.
pub(super) const VERSION_VALUE: u32 = 0x0005_0014;

pub(super) const SVR_ENABLE: u32 = 1 << 8;
/// Vector, enable, focus check.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;
pub(super) const SVR_RESET: u32 = 0xff;

pub(super) const LVT_MASKED: u32 = 1 << 16;
pub(super) const LVT_TIMER_MODE_SHIFT: u32 = 17;
const LVT_VECTOR: u32 = 0xff;
const LVT_DELIVERY_MODE: u32 = 7 << 8;
const LVT_POLARITY: u32 = 1 << 13;
const LVT_TRIGGER: u32 = 1 << 15;
const LVT_TIMER_MODE: u32 = 3 << LVT_TIMER_MODE_SHIFT;
/// Delivery status and remote IRR: read as 0 here, and may be written with anything.
pub(super) const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// A local interrupt source: an entry of the local vector table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalSource {
    /// The APIC timer.
    Timer,
    /// Thermal sensor.
    Thermal,
    /// Performance counter overflow.
    Performance,
    /// LINT0: the 8259's INTR on a PC.
    Lint0,
    /// LINT1: NMI on a PC.
    Lint1,
    /// An APIC error.
    Error,
}

impl LocalSource {
    /// The source's place in the table.
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// The bits that software may set in LVT entry `index`.
pub(super) const fn lvt_writable(index: usize) -> u32 {
    let common = LVT_VECTOR | LVT_MASKED;
    match index {
        0 => common | LVT_TIMER_MODE,
        1 | 2 => common | LVT_DELIVERY_MODE,
        3 | 4 => common | LVT_DELIVERY_MODE | LVT_POLARITY | LVT_TRIGGER,
        _ => common,
    }
}

pub(super) const ICR_BUSY: u64 = 1 << 12;
/// All of an ICR that can be written: destination (in its x2APIC width), shorthand, trigger, level, destination mode,
/// delivery mode, vector.
pub(super) const ICR_WRITABLE: u64 = 0xffff_ffff_000c_cfff;
pub(super) const ICR_LOGICAL: u64 = 1 << 11;
pub(super) const ICR_ASSERT: u64 = 1 << 14;
pub(super) const ICR_LEVEL: u64 = 1 << 15;

/// ESR: the guest sent an illegal vector.
pub(super) const ERROR_SEND_VECTOR: u32 = 1 << 5;
/// ESR: an illegal vector was received or generated.
pub(super) const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
/// ESR: a register that does not exist was accessed (xAPIC only).
pub(super) const ERROR_REGISTER: u32 = 1 << 7;

/// APIC base MSR: this is the boot processor.
pub(super) const BASE_BOOT_CPU: u64 = 1 << 8;
/// APIC base MSR: x2APIC mode.
pub(super) const BASE_X2APIC: u64 = 1 << 10;
/// APIC base MSR: enabled.
pub(super) const BASE_ENABLE: u64 = 1 << 11;
