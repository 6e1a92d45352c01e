//! The two 8259 interrupt controllers: moved out of the way and masked. All interrupts come through the APICs.
// Unsafe: port access.
#![allow(unsafe_code)]

use crate::cpu::registers::outb;

/// Initialises both controllers to vectors 0x20-0x2f (so that a spurious interrupt is no exception) and masks all lines.
pub(crate) fn disable() {
    const COMMAND: [u16; 2] = [0x20, 0xa0];
    const DATA: [u16; 2] = [0x21, 0xa1];
    // SAFETY: the ports are the 8259s' by the PC architecture; masked controllers signal nothing.
    unsafe {
        for i in 0..2 {
            outb(COMMAND[i], 0x11); // ICW1: edge, cascade, ICW4 follows
            outb(DATA[i], 0x20 + 8 * i as u8); // ICW2: vectors
            outb(DATA[i], if i == 0 { 4 } else { 2 }); // ICW3: cascade on line 2
            outb(DATA[i], 1); // ICW4: 8086 mode
            outb(DATA[i], 0xff); // mask all
        }
    }
}
