//! Machine memory for tests: sparse frames, all zero at first.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use radon_core::platform::PhysMemory;
use radon_core::types::{MachineAddr, Mfn, PAGE_SIZE};

/// Sparse memory that covers all addresses.
#[derive(Default)]
pub(crate) struct SparseMemory(spin::Mutex<BTreeMap<u64, Box<[u8; PAGE_SIZE as usize]>>>);

impl SparseMemory {
    fn bytes<R>(&self, at: u64, len: usize, mut each: impl FnMut(usize, &mut [u8]) -> R) {
        let mut frames = self.0.lock();
        let mut done = 0usize;
        while done < len {
            let address = at + done as u64;
            let offset = (address % PAGE_SIZE) as usize;
            let n = (len - done).min(PAGE_SIZE as usize - offset);
            let frame = frames.entry(address / PAGE_SIZE).or_insert_with(|| Box::new([0; PAGE_SIZE as usize]));
            each(done, &mut frame[offset..offset + n]);
            done += n;
        }
    }

    /// Reads a range as a vector.
    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.read(MachineAddr(at), &mut out);
        out
    }

    fn update<const N: usize>(&self, at: MachineAddr, change: impl FnOnce([u8; N]) -> [u8; N]) -> [u8; N] {
        let mut value = [0; N];
        self.read(at, &mut value);
        self.write(at, &change(value));
        value
    }
}

impl PhysMemory for SparseMemory {
    fn read(&self, from: MachineAddr, to: &mut [u8]) {
        self.bytes(from.0, to.len(), |at, frame| to[at..at + frame.len()].copy_from_slice(frame));
    }
    fn write(&self, to: MachineAddr, from: &[u8]) {
        self.bytes(to.0, from.len(), |at, frame| frame.copy_from_slice(&from[at..at + frame.len()]));
    }
    fn copy(&self, to: MachineAddr, from: MachineAddr, len: u64) {
        assert!(to.0 + len <= from.0 || from.0 + len <= to.0, "copy of overlapping ranges");
        self.write(to, &self.get(from.0, len as usize));
    }
    fn zero_frame(&self, frame: Mfn) {
        self.write(frame.addr(), &[0; PAGE_SIZE as usize]);
    }
    fn load_u32(&self, at: MachineAddr) -> u32 {
        u32::from_le_bytes(self.update(at, |v| v))
    }
    fn store_u32(&self, at: MachineAddr, value: u32) {
        self.write(at, &value.to_le_bytes());
    }
    fn load_u64(&self, at: MachineAddr) -> u64 {
        u64::from_le_bytes(self.update(at, |v| v))
    }
    fn store_u64(&self, at: MachineAddr, value: u64) {
        self.write(at, &value.to_le_bytes());
    }
    fn fetch_or_u8(&self, at: MachineAddr, bits: u8) -> u8 {
        self.update(at, |[v]: [u8; 1]| [v | bits])[0]
    }
    fn fetch_or_u32(&self, at: MachineAddr, bits: u32) -> u32 {
        u32::from_le_bytes(self.update(at, |v| (u32::from_le_bytes(v) | bits).to_le_bytes()))
    }
    fn fetch_or_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        u64::from_le_bytes(self.update(at, |v| (u64::from_le_bytes(v) | bits).to_le_bytes()))
    }
    fn fetch_and_u64(&self, at: MachineAddr, bits: u64) -> u64 {
        u64::from_le_bytes(self.update(at, |v| (u64::from_le_bytes(v) & bits).to_le_bytes()))
    }
    fn compare_exchange_u16(&self, at: MachineAddr, old: u16, new: u16) -> u16 {
        let exchange = |v| if u16::from_le_bytes(v) == old { new.to_le_bytes() } else { v };
        u16::from_le_bytes(self.update(at, exchange))
    }
    fn compare_exchange_u32(&self, at: MachineAddr, old: u32, new: u32) -> u32 {
        let exchange = |v| if u32::from_le_bytes(v) == old { new.to_le_bytes() } else { v };
        u32::from_le_bytes(self.update(at, exchange))
    }
    fn compare_exchange_u64(&self, at: MachineAddr, old: u64, new: u64) -> u64 {
        let exchange = |v| if u64::from_le_bytes(v) == old { new.to_le_bytes() } else { v };
        u64::from_le_bytes(self.update(at, exchange))
    }
}
