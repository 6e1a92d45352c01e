//! The 16550 serial port: polled output, input by interrupt or polling.
// Unsafe: port access.
#![allow(unsafe_code)]

use crate::cpu::registers::{inb, outb, relax};

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

const LINE_STATUS_DATA_READY: u8 = 1;
const LINE_STATUS_TRANSMIT_EMPTY: u8 = 0x20;
/// Polls before a byte is given up: a port that is not there must not stop the hypervisor.
const PATIENCE: u32 = 200_000;
/// Input clock divided by 16.
const BASE_BAUD: u32 = 115_200;

/// How a byte is framed on the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Framing {
    /// Data bits, 5 to 8.
    pub data_bits: u8,
    /// None, odd, even, mark, space: the three parity bits of the line control register.
    pub parity: u8,
    /// Stop bits, 1 or 2.
    pub stop_bits: u8,
}

/// A serial port.
#[derive(Debug)]
pub struct Uart {
    base: u16,
    working: bool,
}

impl Uart {
    /// A port that was set up by firmware or not at all. Nothing is written to it yet.
    #[must_use]
    pub const fn new(base: u16) -> Uart {
        Uart { base, working: true }
    }

    /// The first of its eight I/O ports.
    #[must_use]
    pub fn base(&self) -> u16 {
        self.base
    }

    fn read(&self, register: u16) -> u8 {
        // SAFETY: `base` is a serial port's by the PC's convention or the command line; no other driver uses it.
        unsafe { inb(self.base.wrapping_add(register)) }
    }

    fn write(&self, register: u16, value: u8) {
        // SAFETY: as for `read`; a 16550 cannot write memory.
        unsafe { outb(self.base.wrapping_add(register), value) };
    }

    /// Sets speed and framing (`None`: as firmware left them). Returns whether a port answers.
    pub fn init(&mut self, baud: Option<u32>, framing: Framing) -> bool {
        self.write(SCRATCH, 0x5a);
        let present = self.read(SCRATCH) == 0x5a;
        self.write(SCRATCH, 0xa5);
        self.working = present && self.read(SCRATCH) == 0xa5;
        if !self.working {
            return false;
        }
        self.write(INTERRUPT_ENABLE, 0);
        let line =
            (framing.data_bits.clamp(5, 8) - 5) | u8::from(framing.stop_bits == 2) << 2 | (framing.parity & 7) << 3;
        if let Some(baud) = baud {
            let divisor = (BASE_BAUD / baud.max(2)).clamp(1, 0xffff) as u16;
            self.write(LINE_CONTROL, line | 0x80);
            self.write(0, divisor as u8);
            self.write(1, (divisor >> 8) as u8);
            self.write(LINE_CONTROL, line);
        }
        self.write(FIFO_CONTROL, 0x07); // enable and clear the FIFOs, interrupt at one byte
        self.write(MODEM_CONTROL, 0x0b); // DTR, RTS, OUT2 (interrupt line on)
        true
    }

    /// Makes the port interrupt when a byte arrives. If one is there already it interrupts at once: its line is an edge,
    /// which enabling again makes anew.
    pub fn enable_receive_interrupt(&mut self) {
        self.write(INTERRUPT_ENABLE, 0);
        self.write(INTERRUPT_ENABLE, 1);
    }

    /// Sends a byte, waiting until there is room.
    pub fn put(&mut self, byte: u8) {
        if !self.working {
            return;
        }
        for _ in 0..PATIENCE {
            if self.read(LINE_STATUS) & LINE_STATUS_TRANSMIT_EMPTY != 0 {
                self.write(DATA, byte);
                return;
            }
            relax();
        }
        self.working = false;
    }

    /// Sends bytes, with a carriage return before each line feed.
    pub fn put_all(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.put(b'\r');
            }
            self.put(byte);
        }
    }

    /// The next received byte, if there is one.
    pub fn get(&mut self) -> Option<u8> {
        // All ones: no port there.
        let status = self.read(LINE_STATUS);
        (self.working && status != 0xff && status & LINE_STATUS_DATA_READY != 0).then(|| self.read(DATA))
    }
}
