//! What was encoded decodes to what it was, by a decoder that shares nothing with the encoder but the specification.

// Helpers outside of test functions may unwrap as tests do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod decoder;

use futago_image::vmdk;
use proptest::prelude::*;
use std::io::Cursor;

const SECTOR: usize = 512;

fn encode(disk: &[u8]) -> (vmdk::Encoded, Vec<u8>) {
    let mut out = Cursor::new(Vec::new());
    let summary = vmdk::encode(&mut &disk[..], disk.len() as u64, "disk.vmdk", &mut out).unwrap();
    (summary, out.into_inner())
}

/// A stretch of a disk that is not zero.
#[derive(Clone, Debug)]
struct Patch {
    /// Where it starts, of a million.
    place_ppm: usize,
    bytes: usize,
    seed: u8,
    compressible: bool,
}

fn patch() -> impl Strategy<Value = Patch> {
    (0..=1_000_000usize, 1..=200_000usize, 1..=255u8, any::<bool>())
        .prop_map(|(place_ppm, bytes, seed, compressible)| Patch { place_ppm, bytes, seed, compressible })
}

/// Disks of any number of sectors: of a few grains, and of a few tables.
fn disk() -> impl Strategy<Value = Vec<u8>> {
    let sectors = prop_oneof![3 => 1..=2_000usize, 1 => 60_000..=150_000usize];
    (sectors, prop::collection::vec(patch(), 0..6)).prop_map(|(sectors, patches)| {
        let mut disk = vec![0; sectors * SECTOR];
        for patch in patches {
            let start = (disk.len() - 1) / 1000 * patch.place_ppm / 1000;
            let end = disk.len().min(start + patch.bytes);
            let mut state = u32::from(patch.seed);
            for byte in &mut disk[start..end] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = if patch.compressible { patch.seed } else { state.to_be_bytes()[0] };
            }
        }
        disk
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn decoding_gives_the_disk_again(disk in disk()) {
        let (summary, file) = encode(&disk);
        prop_assert_eq!(summary.file_bytes, file.len() as u64);
        let stream = decoder::by_stream(&file);
        prop_assert!(stream.disk == disk, "as a stream");
        prop_assert!(decoder::by_tables(&file) == disk, "through the tables");

        let grains: Vec<&[u8]> = disk.chunks(128 * SECTOR).collect();
        let with_data = grains.iter().filter(|grain| grain.iter().any(|&byte| byte != 0)).count();
        prop_assert_eq!(summary.grains, grains.len() as u64);
        prop_assert_eq!(summary.stored_grains, with_data as u64);
        prop_assert_eq!(stream.grains, with_data, "grains of zeros are not stored");
        let tables = grains.chunks(512).filter(|table| table.iter().any(|grain| grain.iter().any(|&b| b != 0)));
        prop_assert_eq!(stream.tables, tables.count(), "tables of such grains neither");
        prop_assert!(encode(&disk).1 == file, "twice the same");
    }
}
