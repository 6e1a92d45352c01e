//! Floating-point state as a process sees it: registers hold what they were given across context switches and exits to
//! the hypervisor, and arithmetic gives the same bits each time.
//!
//! A round loads the eight x87 registers, all SSE or AVX registers, and both control words, with values that depend on
//! the process; then it yields the CPU, leaves guest mode (CPUID always does) and spins for a while; then it stores
//! everything and compares. Another process's or guest's values, or zeros, show at once.
// Unsafe: the registers can be reached in assembly only.
#![allow(unsafe_code)]

use std::arch::asm;
use std::time::{Duration, Instant};

/// Bytes of an x87 register in memory.
const X87: usize = 10;
/// Rounding modes and masks that differ from the usual ones: x87 rounds up with 53 bits, SSE rounds down.
const X87_CONTROL: u16 = 0x0a7f;
const MXCSR: u32 = 0x3f80;

/// What the registers are loaded with, or what was found in them.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(32))]
struct Image {
    vectors: [[u64; 4]; 16],
    x87: [u8; 8 * X87],
    mxcsr: u32,
    control: u16,
}

impl Image {
    const EMPTY: Image = Image { vectors: [[0; 4]; 16], x87: [0; 8 * X87], mxcsr: 0, control: 0 };

    /// Values of one round.
    fn new(random: &mut Random) -> Image {
        let mut image = Image { mxcsr: MXCSR, control: X87_CONTROL, ..Image::EMPTY };
        image.vectors.iter_mut().flatten().for_each(|word| *word = random.next());
        for register in image.x87.chunks_exact_mut(X87) {
            // A normal number: the leading bit of the fraction is set, the exponent is neither 0 nor the largest.
            register[..8].copy_from_slice(&(random.next() | 1 << 63).to_le_bytes());
            let exponent = 1 + (random.next() % 0x7ffd) as u16;
            register[8..].copy_from_slice(&(exponent | (random.next() as u16 & 0x8000)).to_le_bytes());
        }
        image
    }

    /// What differs from `expected`, in words.
    fn difference(&self, expected: &Image) -> Option<String> {
        for (n, (found, given)) in self.vectors.iter().zip(&expected.vectors).enumerate() {
            if found != given {
                return Some(format!("vector register {n} holds {found:016x?}, was given {given:016x?}"));
            }
        }
        for (n, (found, given)) in self.x87.chunks(X87).zip(expected.x87.chunks(X87)).enumerate() {
            if found != given {
                return Some(format!("x87 register {n} holds {found:02x?}, was given {given:02x?}"));
            }
        }
        // Status bits of MXCSR are not compared: nothing here raises them, but nothing forbids it.
        if self.mxcsr & !0x3f != expected.mxcsr || self.control != expected.control {
            return Some(format!("control words are {:#x} and {:#x}", self.mxcsr, self.control));
        }
        None
    }
}

/// A sequence that the seed decides (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// The part that SSE and AVX have in common: control words, x87 registers, the wait, and all of it back. `$load` and
/// `$store` move the vector registers.
macro_rules! hold {
    ($image:expr, $found:expr, $spins:expr, $load:literal, $store:literal) => {{
        let (image, found, spins): (&Image, &mut Image, u64) = ($image, $found, $spins);
        let (mut usual_mxcsr, mut usual_control) = (0u32, 0u16);
        asm!(
            "stmxcsr [{usual_mxcsr}]",
            "fnstcw [{usual_control}]",
            "ldmxcsr [r12 + 592]",
            "fldcw [r12 + 596]",
            "fld tbyte ptr [r12 + 582]",
            "fld tbyte ptr [r12 + 572]",
            "fld tbyte ptr [r12 + 562]",
            "fld tbyte ptr [r12 + 552]",
            "fld tbyte ptr [r12 + 542]",
            "fld tbyte ptr [r12 + 532]",
            "fld tbyte ptr [r12 + 522]",
            "fld tbyte ptr [r12 + 512]",
            $load,
            // To the hypervisor and back; CPUID overwrites RBX, which is not ours to name as an operand.
            "2:",
            "mov r10, rbx",
            "xor eax, eax",
            "xor ecx, ecx",
            "cpuid",
            "mov rbx, r10",
            "mov rcx, r15",
            "3:",
            "dec rcx",
            "jnz 3b",
            // sched_yield
            "mov eax, 24",
            "syscall",
            "dec r14",
            "jnz 2b",
            $store,
            "fstp tbyte ptr [r13 + 512]",
            "fstp tbyte ptr [r13 + 522]",
            "fstp tbyte ptr [r13 + 532]",
            "fstp tbyte ptr [r13 + 542]",
            "fstp tbyte ptr [r13 + 552]",
            "fstp tbyte ptr [r13 + 562]",
            "fstp tbyte ptr [r13 + 572]",
            "fstp tbyte ptr [r13 + 582]",
            "stmxcsr [r13 + 592]",
            "fnstcw [r13 + 596]",
            "ldmxcsr [{usual_mxcsr}]",
            "fldcw [{usual_control}]",
            usual_mxcsr = in(reg) &raw mut usual_mxcsr,
            usual_control = in(reg) &raw mut usual_control,
            in("r12") image,
            in("r13") found,
            inout("r14") 4u64 => _,
            in("r15") spins,
            out("rax") _, out("rcx") _, out("rdx") _, out("r10") _, out("r11") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }};
}

const _: () = {
    assert!(std::mem::offset_of!(Image, x87) == 512);
    assert!(std::mem::offset_of!(Image, mxcsr) == 592);
    assert!(std::mem::offset_of!(Image, control) == 596);
};

/// Holds `image` in the registers, with SSE. Upper halves of vector registers are left out.
fn hold_sse(image: &Image, spins: u64) -> Image {
    let mut found = Image { vectors: image.vectors, ..Image::EMPTY };
    // SAFETY: reads `image` and writes `found` at the offsets of their fields, which are asserted above; what it
    // changes besides is named; the control words are put back; the system call has no arguments.
    unsafe {
        hold!(
            image,
            &mut found,
            spins,
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa xmm\\n, [r12 + 32 * \\n]\n .endr",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movdqa [r13 + 32 * \\n], xmm\\n\n .endr"
        );
    }
    found
}

/// Holds `image` in the registers, with AVX.
///
/// # Safety
/// The processor must have AVX, enabled by the system.
#[target_feature(enable = "avx")]
unsafe fn hold_avx(image: &Image, spins: u64) -> Image {
    let mut found = Image::EMPTY;
    // SAFETY: as in `hold_sse`; the caller says that AVX is there. Upper halves are zero again at the end.
    unsafe {
        hold!(
            image,
            &mut found,
            spins,
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa ymm\\n, [r12 + 32 * \\n]\n .endr",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovdqa [r13 + 32 * \\n], ymm\\n\n .endr\n vzeroupper"
        );
    }
    found
}

fn has_avx() -> bool {
    std::is_x86_feature_detected!("avx")
}

/// Whether the system has turned protection keys on (CPUID leaf 7, ECX: OSPKE).
fn has_keys() -> bool {
    const OSPKE: u32 = 1 << 4;
    std::arch::x86_64::__cpuid_count(7, 0).ecx & OSPKE != 0
}

/// Sets the rights of the protection keys.
///
/// # Safety
/// There are keys; key 0, which all memory has, stays allowed.
unsafe fn set_keys(rights: u32) {
    // SAFETY: the caller says so.
    unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack)) };
}

/// The rights of the protection keys.
///
/// # Safety
/// There are keys.
unsafe fn keys() -> u32 {
    let rights;
    // SAFETY: the caller says so.
    unsafe { asm!("rdpkru", out("eax") rights, in("ecx") 0, out("edx") _, options(nostack)) };
    rights
}

/// What is checked here, in words.
pub(crate) fn kinds() -> &'static str {
    match (has_avx(), has_keys()) {
        (true, true) => "x87, AVX and protection keys",
        (true, false) => "x87 and AVX",
        (false, _) => "x87 and SSE",
    }
}

/// A sequence in which one wrong bit anywhere changes the end (the logistic map, in its chaotic range).
fn chaos() -> u64 {
    let (mut x, factor) = (std::hint::black_box(0.3f64), std::hint::black_box(3.9f64));
    for _ in 0..4000 {
        x = factor * x * (1.0 - x);
    }
    x.to_bits()
}

/// The same in the x87's 80-bit format: the last value's bits.
fn chaos_x87() -> [u8; 16] {
    let mut end = [0u8; 16];
    let start: [f64; 2] = [0.3, 3.9];
    // SAFETY: reads two numbers, writes ten bytes, and leaves the x87 stack as empty as it was.
    unsafe {
        asm!(
            "fld qword ptr [{start} + 8]",
            "fld qword ptr [{start}]",
            "2:",
            "fld1",
            "fsub st(0), st(1)",
            "fmulp st(1), st(0)",
            "fmul st(0), st(1)",
            "dec {count}",
            "jnz 2b",
            "fstp tbyte ptr [{end}]",
            "fstp st(0)",
            start = in(reg) start.as_ptr(),
            end = in(reg) end.as_mut_ptr(),
            count = inout(reg) 4000u64 => _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            options(nostack),
        );
    }
    end
}

/// Checks for `time` with values that `seed` decides. Returns the number of rounds.
pub(crate) fn check(time: Duration, seed: u64) -> Result<u64, String> {
    let mut random = Random(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (scalar, extended) = (chaos(), chaos_x87());
    let (avx, has_keys) = (has_avx(), has_keys());
    let end = Instant::now() + time;
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        rounds += 1;
        let image = Image::new(&mut random);
        let spins = 1 + random.next() % 20_000;
        // No memory has any key but the first.
        let rights = random.next() as u32 & !3;
        if has_keys {
            // SAFETY: there are keys, and the first one's bits are clear.
            unsafe { set_keys(rights) };
        }
        // SAFETY: AVX was asked for.
        let found = if avx { unsafe { hold_avx(&image, spins) } } else { hold_sse(&image, spins) };
        // SAFETY: there are keys.
        if has_keys && unsafe { keys() } != rights {
            return Err(format!("process {seed}, round {rounds}: the rights of protection keys are not {rights:#x}"));
        }
        if let Some(what) = found.difference(&image) {
            return Err(format!("process {seed}, round {rounds}: {what}"));
        }
        if chaos() != scalar {
            return Err(format!("process {seed}, round {rounds}: SSE arithmetic gave another result than before"));
        }
        if chaos_x87() != extended {
            return Err(format!("process {seed}, round {rounds}: x87 arithmetic gave another result than before"));
        }
    }
    Ok(rounds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_hold_what_they_are_given() {
        check(Duration::ZERO, 1).unwrap();
        let image = Image::new(&mut Random(77));
        assert!(hold_sse(&image, 1).difference(&image).is_none());
    }

    #[test]
    fn a_difference_is_found() {
        let image = Image::new(&mut Random(1));
        let mut other = hold_sse(&image, 1);
        other.vectors[9][1] ^= 1 << 40;
        assert!(other.difference(&image).unwrap().contains("vector register 9"));
        let mut other = hold_sse(&image, 1);
        other.x87[X87 * 7 + 9] ^= 0x80;
        assert!(other.difference(&image).unwrap().contains("x87 register 7"));
        let mut other = hold_sse(&image, 1);
        other.control = 0x37f;
        assert!(other.difference(&image).unwrap().contains("control words"));
    }

    #[test]
    fn arithmetic_is_what_it_should_be() {
        // The same in plain Rust, which rounds each step to 64 bits as SSE does.
        let mut x = 0.3f64;
        for _ in 0..4000 {
            x = 3.9 * x * (1.0 - x);
        }
        assert_eq!(chaos(), x.to_bits());
        assert_ne!(chaos_x87()[..10], [0; 10]);
    }
}
