//! The instruction decoder against iced-x86 as an oracle: length, validity, operation and operands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

mod oracle;

use oracle::probe;
use proptest::prelude::*;
use radon_x86::emulate::{DecodeError, Mode, decode};

/// Every opcode of every legacy map with many ModRM bytes and prefixes.
#[test]
fn all_opcodes() {
    let prefixes: [&[u8]; 14] = [
        &[],
        &[0x66],
        &[0xf2],
        &[0xf3],
        &[0x67],
        &[0x48],
        &[0x66, 0x48],
        &[0xf0],
        &[0x64],
        &[0x47],
        &[0x41, 0x66],
        &[0x2e, 0x4f],
        &[0x66, 0xf2, 0x67],
        &[0x26, 0x65, 0x3e],
    ];
    let escapes: [&[u8]; 4] = [&[], &[0x0f], &[0x0f, 0x38], &[0x0f, 0x3a]];
    let thorough = std::env::var_os("RADON_THOROUGH").is_some();
    let mut state = 1_u32;
    for prefix in prefixes {
        for escape in escapes {
            for opcode in 0..=255 {
                // One ModRM of each group and form; all 256 when asked to be thorough.
                for modrm in 0..=255_u8 {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if !thorough && state >> 28 != 0 && !(escape == [0x0f] && opcode == 1) {
                        continue;
                    }
                    let tail = state.to_be_bytes();
                    let mut bytes = [0x11; 24];
                    let head: Vec<u8> = [prefix, escape, &[opcode, modrm], &tail[..]].concat();
                    bytes[..head.len()].copy_from_slice(&head);
                    bytes[head.len() + 3] = 0x80;
                    probe(&bytes);
                }
            }
        }
    }
}

/// VEX, EVEX and XOP prefixes.
#[test]
fn vector_prefixes() {
    let mut state = 7_u64;
    for _ in 0..50_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let r = (state >> 16).to_le_bytes();
        let first = [0xc4, 0xc5, 0x62, 0x8f][usize::from(r[5] & 3)];
        let map = if r[5] & 0x10 == 0 { r[0] & 0xe3 } else { r[0] };
        let vvvv = if r[5] & 0x20 == 0 { r[1] | 0x78 } else { r[1] };
        let mut bytes = [0x21_u8; 20];
        bytes[..8].copy_from_slice(&[first, map, vvvv, r[2], r[3], r[4], r[1], r[0]]);
        probe(&bytes);
    }
}

#[test]
fn limits() {
    let mut long = [0x66_u8; 16];
    long[14] = 0x90;
    assert_eq!(decode(&long, Mode::Bits64).map(|i| i.length), Ok(15));
    long[14] = 0x66;
    long[15] = 0x90;
    assert_eq!(decode(&long, Mode::Bits64), Err(DecodeError::TooLong));
    assert_eq!(decode(&long[..14], Mode::Bits64), Err(DecodeError::Incomplete));
    assert_eq!(decode(&[], Mode::Bits32), Err(DecodeError::Incomplete));
    // Every proper prefix of an instruction is incomplete.
    let full = [0x66, 0x42, 0xc7, 0x84, 0x88, 1, 2, 3, 4, 5, 6];
    for n in 0..full.len() {
        assert_eq!(decode(&full[..n], Mode::Bits64), Err(DecodeError::Incomplete), "{n}");
    }
    assert_eq!(decode(&full, Mode::Bits64).unwrap().length, 11);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes without any structure.
    #[test]
    fn random_bytes(bytes: [u8; 16]) {
        probe(&bytes);
    }

    /// Any run of prefixes before a random instruction.
    #[test]
    fn random_prefixes(
        prefixes in prop::collection::vec(prop::sample::select(vec![
            0x66_u8, 0x67, 0xf2, 0xf3, 0xf0, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x40, 0x48, 0x44, 0x41, 0x4f,
        ]), 0..6),
        escape: bool,
        rest: [u8; 12],
    ) {
        let mut bytes = prefixes;
        if escape {
            bytes.push(0x0f);
        }
        bytes.extend(rest);
        probe(&bytes);
    }
}
