//! CRC-32 with the processor's carry-less multiplication: checking an unpacked kernel of 66 MB takes a tenth of the
//! instructions that tables need. Takes no locks; to be used while no guest's floating point state is loaded.
//!
//! Source: V. Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction", Intel 2009.
// Unsafe: instructions that the compiler does not know for this target.
#![allow(unsafe_code)]

use core::arch::asm;

use radon_x86::dom0::unpack::crc32;

use crate::cpu::registers::cpuid;

/// Bytes that are folded at a time.
const STEP: usize = 64;

/// For the reflected polynomial: what folds 512 bits, then what folds 128.
static FOLDS: [u64; 4] = [0x1_5444_2bd4, 0x1_c6e4_1596, 0x1_7519_97d0, 0xccaa_009e];

/// The CRC-32 of `data`.
#[must_use]
pub fn crc32(data: &[u8]) -> u32 {
    let has_multiplication = cpuid(1, 0).ecx & 1 << 1 != 0;
    let (whole, rest) = data.split_at(data.len() & !(STEP - 1));
    if !has_multiplication || whole.is_empty() {
        return crc32::crc32(data);
    }
    !crc32::update(crc32::update(0, &fold(u32::MAX, whole)), rest)
}

/// Sixteen bytes that leave the same remainder as `data`, a number of whole steps, does after `crc`.
fn fold(crc: u32, data: &[u8]) -> [u8; 16] {
    debug_assert!(!data.is_empty() && data.len().is_multiple_of(STEP));
    let mut folded = [0u8; 16];
    // SAFETY: reads `data` and `FOLDS` and writes `folded`, each within its bounds: the loop ends when all of `data`, a
    // multiple of 64 bytes and not empty, is read. The target has no SSE, so no XMM register holds anything of the
    // compiler's; CR4 and CR0 enable these instructions since before the boot modules are looked at.
    unsafe {
        asm!(
            "movdqu xmm0, [{at}]",
            "movdqu xmm1, [{at} + 16]",
            "movdqu xmm2, [{at} + 32]",
            "movdqu xmm3, [{at} + 48]",
            "movd xmm4, {crc:e}",
            "pxor xmm0, xmm4",
            "movdqu xmm5, [{folds}]",
            "jmp 3f",
            "2:",
            ".irp n, 0, 1, 2, 3",
            "movdqa xmm6, xmm\\n",
            "pclmulqdq xmm\\n, xmm5, 0x00",
            "pclmulqdq xmm6, xmm5, 0x11",
            "movdqu xmm7, [{at} + 16 * \\n]",
            "pxor xmm\\n, xmm6",
            "pxor xmm\\n, xmm7",
            ".endr",
            "3:",
            "add {at}, 64",
            "cmp {at}, {end}",
            "jb 2b",
            "movdqu xmm5, [{folds} + 16]",
            ".irp n, 1, 2, 3",
            "movdqa xmm6, xmm0",
            "pclmulqdq xmm0, xmm5, 0x00",
            "pclmulqdq xmm6, xmm5, 0x11",
            "pxor xmm0, xmm6",
            "pxor xmm0, xmm\\n",
            ".endr",
            "movdqu [{out}], xmm0",
            at = inout(reg) data.as_ptr() => _,
            end = in(reg) data.as_ptr_range().end,
            crc = in(reg) crc,
            folds = in(reg) FOLDS.as_ptr(),
            out = in(reg) folded.as_mut_ptr(),
            options(nostack),
        );
    }
    folded
}
