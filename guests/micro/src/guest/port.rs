//! The two devices that QEMU gives a measured guest: a byte sink for results and a way to end the machine. No hypervisor
//! keeps their ports from dom0, so using them costs no exit.

use core::arch::asm;
use core::fmt;

/// Where results go (QEMU's `isa-debugcon`).
const RESULT: u16 = 0x5f0;
/// A write ends QEMU (`isa-debug-exit`).
const END: u16 = 0x5f4;

/// Writes a byte to an I/O port.
pub(crate) fn out8(port: u16, value: u8) {
    // SAFETY: this program owns its virtual machine; ports it names are devices that move no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes a 32-bit word to an I/O port.
pub(crate) fn out32(port: u16, value: u32) {
    // SAFETY: as in `out8`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) };
}

/// Reads a byte from an I/O port.
pub(crate) fn in8(port: u16) -> u8 {
    let value: u8;
    // SAFETY: as in `out8`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Reads a 32-bit word from an I/O port.
pub(crate) fn in32(port: u16) -> u32 {
    let value: u32;
    // SAFETY: as in `out8`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Results, as text.
pub(crate) struct Results;

impl fmt::Write for Results {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out8(RESULT, byte));
        Ok(())
    }
}

/// Prints a result: `name value` on a line of its own.
pub(crate) fn result(name: &str, value: u64) {
    use fmt::Write;
    // Writing to a port cannot fail.
    let _ = writeln!(Results, "{name} {value}");
}

/// Ends the machine.
pub(crate) fn end() -> ! {
    loop {
        out8(END, 0);
    }
}
