//! Unpacking of small files made with the usual tools, whole, cut and damaged.

use super::crc32::crc32;
use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const XZ: &[u8] = include_bytes!("testdata/sample.xz");
const XZ_PLAIN: &[u8] = include_bytes!("testdata/sample-plain.xz");
const GZ: &[u8] = include_bytes!("testdata/sample.gz");
const LZ4: &[u8] = include_bytes!("testdata/sample.lz4");
const ZSTD: &[u8] = include_bytes!("testdata/sample.zst");
/// Without a checksum.
const ZSTD_FAST: &[u8] = include_bytes!("testdata/sample-fast.zst");

fn pseudo_random(n: usize, alphabet: &[u8], mut x: u64) -> Vec<u8> {
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let v = (x >> 33) as usize;
            if alphabet.is_empty() { v as u8 } else { alphabet[v % alphabet.len()] }
        })
        .collect()
}

/// What all the sample files contain: branch opcodes with likely and unlikely operands, noise, words and zeros.
pub(in crate::dom0) fn sample() -> Vec<u8> {
    let branches = pseudo_random(6000, &[0xe8, 0xe9, 0, 0xff, 1, 0xe8, 0, 0x90], 1);
    let noise = pseudo_random(700, &[], 2);
    let mut all = branches.clone();
    all.extend_from_slice(&noise);
    for i in 0..3000usize {
        let word: &[u8] = [&b"mov eax, ebx; "[..], b"call printk; ", b"jmp out; ", b"ret; "][(i * i + i / 3) % 4];
        all.extend_from_slice(word);
    }
    all.extend_from_slice(&[0; 20_000]);
    all.extend_from_slice(&noise[..300]);
    all.extend_from_slice(&branches[..2000]);
    all
}

/// Records with fixed, counting and random fields: matches at the same few distances.
fn records() -> Vec<u8> {
    let mut out = Vec::new();
    let mut x = 7u64;
    for n in 0..600u32 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = x >> 33;
        let kind = (random % 5) as u8;
        out.extend_from_slice(&n.to_le_bytes());
        out.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        out.extend_from_slice(&[kind, if kind > 2 { (random >> 8) as u8 } else { 0 }, 0, 0]);
        out.extend_from_slice(if kind & 1 == 1 { b"name" } else { b"next-one" });
        out.extend_from_slice(if kind == 2 { b"/path/to/something" } else { b"" });
    }
    out
}

#[test]
fn repeated_distances_are_followed() {
    let records = records();
    for (compression, packed) in [
        (Compression::Zstd, &include_bytes!("testdata/records.zst")[..]),
        (Compression::Zstd, include_bytes!("testdata/records-9.zst")),
        (Compression::Xz, include_bytes!("testdata/records.xz")),
    ] {
        let mut out = vec![0; records.len() + 16];
        assert_eq!(unpack(compression, packed, &mut out, crc32), Ok(records.len()), "{compression}");
        assert!(out[..records.len()] == records[..], "{compression}");
    }
}

#[test]
fn zstd_frames_follow_each_other_and_others_are_skipped() {
    let sample = sample();
    let mut both = ZSTD.to_vec();
    both.extend_from_slice(&[0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9]);
    both.extend_from_slice(ZSTD_FAST);
    let mut out = vec![0; 2 * sample.len() + 16];
    assert_eq!(unpack(Compression::Zstd, &both, &mut out, crc32), Ok(2 * sample.len()));
    assert!(out[..sample.len()] == sample[..] && out[sample.len()..2 * sample.len()] == sample[..]);
    both.push(0);
    assert_eq!(unpack(Compression::Zstd, &both, &mut out, crc32), Err(UnpackError::Truncated));
}

fn all() -> [(Compression, &'static [u8]); 6] {
    [
        (Compression::Xz, XZ),
        (Compression::Xz, XZ_PLAIN),
        (Compression::Gzip, GZ),
        (Compression::Lz4, LZ4),
        (Compression::Zstd, ZSTD),
        (Compression::Zstd, ZSTD_FAST),
    ]
}

#[test]
fn unpacks_what_the_tools_packed() {
    let sample = sample();
    for (compression, packed) in all() {
        assert_eq!(Compression::detect(packed), Some(compression));
        for slack in [0, 16, 100] {
            let mut out = vec![0xaa; sample.len() + slack];
            assert_eq!(unpack(compression, packed, &mut out, crc32), Ok(sample.len()), "{compression}");
            assert!(out[..sample.len()] == sample[..], "{compression} with {slack} bytes of slack");
        }
    }
}

#[test]
fn cut_files_and_small_buffers_give_errors() {
    let size = sample().len();
    for (compression, packed) in all() {
        let mut out = vec![0; size + 16];
        // The end of an xz file says nothing about the data; stop before it.
        for len in (0..packed.len() - 40).step_by(7) {
            let result = unpack(compression, &packed[..len], &mut out, crc32);
            assert!(result != Ok(size), "{compression} cut to {len}");
        }
        for room in [0, 1, 16, 6000, size - 1] {
            assert!(unpack(compression, packed, &mut vec![0; room], crc32).is_err(), "{compression} into {room} bytes");
        }
    }
}

#[test]
fn a_changed_byte_of_the_data_is_noticed() {
    let sample = sample();
    let mut out = vec![0; sample.len() + 16];
    for (compression, packed) in all() {
        // These have no checksum.
        if compression == Compression::Lz4 || packed == ZSTD_FAST {
            continue;
        }
        for at in (0..packed.len() - 60).step_by(13).filter(|at| !(4..10).contains(at)) {
            let mut damaged = packed.to_vec();
            damaged[at] ^= 0x10;
            // Two codings may mean the same data.
            let noticed = match unpack(compression, &damaged, &mut out, crc32) {
                Ok(len) => out[..len] == sample[..],
                Err(_) => true,
            };
            assert!(noticed, "{compression} with byte {at} changed");
        }
    }
}

#[test]
fn other_data_is_not_taken_for_compressed() {
    assert_eq!(Compression::detect(b"MZ\0\0"), None);
    assert_eq!(Compression::detect(b""), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Decoders meet anything without a panic and without writing outside of the buffer.
    #[test]
    fn damaged_files_never_panic(which in 0usize..6, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), room in 0usize..70_000) {
        let (compression, packed) = all()[which];
        let mut damaged = packed.to_vec();
        for (at, value) in changes {
            let at = at.index(damaged.len());
            damaged[at] = value;
        }
        let _ = unpack(compression, &damaged, &mut vec![0; room], crc32);
    }

    /// The LZMA decoder alone, without checksums in front of it.
    #[test]
    fn random_lzma_never_panics(body in prop::collection::vec(any::<u8>(), 0..600), properties in 0u8..225) {
        let mut stream = vec![0xe0, 0x7f, 0xff, (body.len() >> 8) as u8, body.len() as u8, properties];
        stream.extend_from_slice(&body);
        stream.extend_from_slice(&[1, 0, 3, 1, 2, 3, 4, 0]);
        let _ = lzma::decode(&stream, &mut vec![0; 40_000]);
    }

    /// Copies of matches agree with the definition, byte by byte.
    #[test]
    fn matches_repeat_what_was_written(start in 1usize..80, back in 1usize..80, len in 1usize..300, slack in 0usize..40) {
        let distance = back.min(start);
        let mut out: Vec<u8> = (0..start + len + slack).map(|n| n as u8).collect();
        let mut expected = out.clone();
        for i in start..start + len {
            expected[i] = expected[i - distance];
        }
        copy::copy_match(&mut out, start, distance, len);
        prop_assert_eq!(&out[..start + len], &expected[..start + len]);
    }
}
