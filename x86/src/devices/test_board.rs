//! A board that counts what devices do to it.

use super::bus::Board;
use alloc::vec::Vec;

#[derive(Default)]
pub(crate) struct TestBoard {
    /// Rising edges since the last look, by ISA line and by GSI.
    pub(crate) isa_edges: [u32; 16],
    pub(crate) gsi_edges: [u32; 32],
    pub(crate) isa: [bool; 16],
    pub(crate) gsi: [bool; 32],
    pub(crate) sleeps: Vec<u8>,
}

impl TestBoard {
    /// Rising edges of an ISA line since the last call.
    pub(crate) fn take_isa(&mut self, irq: usize) -> u32 {
        core::mem::take(&mut self.isa_edges[irq])
    }

    /// Rising edges of a GSI since the last call.
    pub(crate) fn take_gsi(&mut self, gsi: usize) -> u32 {
        core::mem::take(&mut self.gsi_edges[gsi])
    }
}

impl Board for TestBoard {
    fn isa_irq(&mut self, irq: u8, asserted: bool) {
        let i = usize::from(irq);
        self.isa_edges[i] += u32::from(asserted && !self.isa[i]);
        self.isa[i] = asserted;
    }
    fn gsi(&mut self, gsi: u32, asserted: bool) {
        let i = gsi as usize;
        self.gsi_edges[i] += u32::from(asserted && !self.gsi[i]);
        self.gsi[i] = asserted;
    }
    fn sleep(&mut self, sleep_type: u8) {
        self.sleeps.push(sleep_type);
    }
}
