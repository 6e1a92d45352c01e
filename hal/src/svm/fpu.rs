//! The guest's FPU, SSE and extended state: its image in memory, and the switch between that and the processor.
//!
//! Invariant: an image is always one that the processor accepts, so restoring it cannot fault. The hypervisor itself is
//! compiled without FPU and SSE, so the registers of a loaded vCPU stay in the processor. Takes no locks.
// Unsafe: FPU instructions, and the area that they read and write.
#![allow(unsafe_code)]

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use alloc::vec::Vec;
use core::arch::asm;
use core::ptr::NonNull;

use super::common;
use crate::cpu::registers::cpuid;

/// Places in the XSAVE area (APM volume 2, 11.5.9): XMM registers, header, upper halves of YMM registers.
const XMM_OFFSET: usize = 160;
const XSTATE_BV_OFFSET: usize = 512;
const MXCSR_OFFSET: usize = 24;
const YMM_UPPER_OFFSET: usize = 576;
const XCR0_AVX: u64 = 1 << 2;

/// The memory image of FPU, SSE and extended state.
pub(super) struct FpuArea {
    area: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the area is plain memory owned by this value alone.
unsafe impl Send for FpuArea {}

impl FpuArea {
    /// The state after RESET.
    pub(super) fn new() -> FpuArea {
        let size = if cpuid(1, 0).ecx & (1 << 26) != 0 { cpuid(0xd, 0).ecx.max(576) } else { 512 } as usize;
        let layout = Layout::from_size_align(size, 64).unwrap_or(Layout::new::<[u64; 512]>());
        // SAFETY: the layout's size is not zero.
        let area = unsafe { alloc_zeroed(layout) };
        let Some(area) = NonNull::new(area) else { handle_alloc_error(layout) };
        let mut fpu = FpuArea { area, layout };
        fpu.reset();
        fpu
    }

    /// Two words at `offset`; zeros beyond the area's end.
    fn read_pair(&self, offset: usize) -> [u64; 2] {
        if offset + 16 > self.layout.size() {
            return [0; 2];
        }
        // SAFETY: within the allocation, which is initialised; the processor writes it only in `save`.
        unsafe { self.area.as_ptr().add(offset).cast::<[u64; 2]>().read_unaligned() }
    }

    /// Writes two words at `offset`; nothing beyond the area's end.
    fn write_pair(&mut self, offset: usize, value: [u64; 2]) {
        if offset + 16 <= self.layout.size() {
            // SAFETY: within the allocation, which this value owns.
            unsafe { self.area.as_ptr().add(offset).cast::<[u64; 2]>().write_unaligned(value) };
        }
    }

    /// All of it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let pairs = (0..self.layout.size()).step_by(16).map(|at| self.read_pair(at));
        pairs.flatten().flat_map(u64::to_le_bytes).collect()
    }

    /// Takes an image over that somebody else made: what the processor would refuse to load is left out. `components` are
    /// those that it has, `mask` the bits of MXCSR.
    pub(super) fn set_bytes(&mut self, area: &[u8], components: u64, mask: u32) {
        self.reset();
        for (at, bytes) in (0..self.layout.size()).step_by(16).zip(area.chunks(16)) {
            let mut pair = [0; 16];
            pair[..bytes.len()].copy_from_slice(bytes);
            let value = u128::from_le_bytes(pair);
            self.write_pair(at, [value as u64, (value >> 64) as u64]);
        }
        // Reserved bits of MXCSR fault; its mask is not loaded.
        let [mxcsr, registers] = self.read_pair(MXCSR_OFFSET);
        self.write_pair(MXCSR_OFFSET, [mxcsr & u64::from(mask), registers]);
        // So do reserved fields of the header, and components that do not exist.
        let [present, _] = self.read_pair(XSTATE_BV_OFFSET);
        self.write_pair(XSTATE_BV_OFFSET, [present & components, 0]);
        for at in (XSTATE_BV_OFFSET + 16..YMM_UPPER_OFFSET).step_by(16) {
            self.write_pair(at, [0, 0]);
        }
    }

    /// State after RESET, in the format of FXSAVE (and an XSAVE header that says x87 and SSE are given, all others are
    /// in their initial state).
    pub(super) fn reset(&mut self) {
        // SAFETY: exactly the allocation.
        unsafe { self.area.as_ptr().write_bytes(0, self.layout.size()) };
        self.write_pair(0, [0x0040, 0]);
        self.write_pair(24, [0x1f80, 0]);
        self.write_pair(XSTATE_BV_OFFSET, [3, 0]);
    }

    /// A vector register: 256 bits where `guest`, the guest's XCR0, has AVX, else 128.
    pub(super) fn vector(&self, n: usize, guest: u64) -> [u64; 4] {
        let [low, high] = self.read_pair(XMM_OFFSET + 16 * (n & 15));
        if guest & XCR0_AVX == 0 || self.read_pair(XSTATE_BV_OFFSET)[0] & XCR0_AVX == 0 {
            return [low, high, 0, 0];
        }
        let [upper_low, upper_high] = self.read_pair(YMM_UPPER_OFFSET + 16 * (n & 15));
        [low, high, upper_low, upper_high]
    }

    /// Sets a vector register; its upper half only where `guest` has AVX.
    pub(super) fn set_vector(&mut self, n: usize, value: [u64; 4], guest: u64) {
        let [low, high, upper_low, upper_high] = value;
        self.write_pair(XMM_OFFSET + 16 * (n & 15), [low, high]);
        let [mut present, compaction] = self.read_pair(XSTATE_BV_OFFSET);
        present |= 2;
        if guest & XCR0_AVX != 0 {
            if present & XCR0_AVX == 0 {
                for other in 0..16 {
                    self.write_pair(YMM_UPPER_OFFSET + 16 * other, [0, 0]);
                }
            }
            present |= XCR0_AVX;
            self.write_pair(YMM_UPPER_OFFSET + 16 * (n & 15), [upper_low, upper_high]);
        }
        self.write_pair(XSTATE_BV_OFFSET, [present, compaction]);
    }

    /// Copies the processor's registers here; `guest` is the XCR0 in force. (By `&self`: the image is reached by raw
    /// pointer only, and has one owner.)
    pub(super) fn save(&self, guest: u64) {
        let host = common().xcr0;
        let area = self.area.as_ptr();
        if host != 0 {
            xsetbv(host);
            // SAFETY: the area has the size that CPUID gives for all components and is 64-byte aligned.
            unsafe {
                asm!("xsave64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags));
            }
            xsetbv(guest);
        } else {
            // SAFETY: the area has 512 bytes and is 16-byte aligned.
            unsafe { asm!("fxsave64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        }
    }

    /// Loads the processor's registers from here, and `guest` as XCR0.
    pub(super) fn restore(&self, guest: u64) {
        let host = common().xcr0;
        let area = self.area.as_ptr();
        if !common().error_pointers {
            // Restoring leaves the pointers of the last x87 instruction as they are unless an exception is pending: an
            // instruction of our own hides the last guest's (APM volume 2, 11.4.4.3).
            let zero = 0u32;
            // SAFETY: the FPU's state is replaced just below; exceptions are cleared first, so none is raised.
            unsafe {
                asm!("fnclex", "emms", "fild dword ptr [{}]", in(reg) &raw const zero, options(nostack, readonly))
            };
        }
        if host != 0 {
            xsetbv(host);
            // SAFETY: the area holds an image that XSAVE or `reset` made, or that `set_bytes` has made valid, so its header
            // is valid.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) area, in("eax") u32::MAX, in("edx") u32::MAX,
                    options(nostack, preserves_flags));
            }
            xsetbv(guest);
        } else {
            // SAFETY: the area holds an image that FXSAVE, `reset` or `set_bytes` made, so MXCSR is valid.
            unsafe { asm!("fxrstor64 [{}]", in(reg) area, options(nostack, preserves_flags)) };
        }
    }
}

impl Drop for FpuArea {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout.
        unsafe { alloc::alloc::dealloc(self.area.as_ptr(), self.layout) };
    }
}

/// XCR0. Only on processors with XSAVE.
pub(super) fn xgetbv() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register, on processors with XSAVE (CR4.OSXSAVE is set there).
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nostack, nomem, preserves_flags));
    }
    u64::from(low) | u64::from(high) << 32
}

/// Sets XCR0, to components that the processor has, x87 among them. Only on processors with XSAVE.
pub(super) fn xsetbv(value: u64) {
    // SAFETY: callers pass masks of components that the processor has (its own mask, or one checked against it), always
    // with x87; the hypervisor uses no extended state itself.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, nomem, preserves_flags));
    }
}
