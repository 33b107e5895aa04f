//! A decoder for streamOptimized VMDKs, in the two ways in which readers go about it. It panics on whatever the
//! specification ("Virtual Disk Format 5.0") does not allow.

use flate2::read::ZlibDecoder;
use std::io::Read;

const SECTOR: usize = 512;
const GRAIN: usize = 128 * SECTOR;

/// What a pass over the stream found.
pub(crate) struct Stream {
    pub(crate) disk: Vec<u8>,
    pub(crate) grains: usize,
    pub(crate) tables: usize,
}

struct Header {
    capacity: usize,
    directory: u64,
    overhead: usize,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap()
}

fn header(sector: &[u8]) -> Header {
    assert_eq!(&sector[..4], b"KDMV");
    assert_eq!(u32_at(sector, 4), 3, "version");
    assert_eq!(u32_at(sector, 8), 0x3_0001, "newline test, compressed, markers");
    assert_eq!(u64_at(sector, 20), 128, "grain size");
    assert_eq!(u32_at(sector, 44), 512, "entries of a table");
    assert_eq!(&sector[72..79], b"\0\n \r\n\x01\0");
    Header {
        capacity: index(u64_at(sector, 12)) * SECTOR,
        directory: u64_at(sector, 56),
        overhead: index(u64_at(sector, 64)),
    }
}

fn inflate(stream: &[u8]) -> Vec<u8> {
    let mut grain = Vec::new();
    let mut decoder = ZlibDecoder::new(stream);
    decoder.read_to_end(&mut grain).unwrap();
    assert_eq!(decoder.total_in(), stream.len() as u64, "nothing behind the stream");
    assert_eq!(grain.len(), GRAIN);
    grain
}

/// Puts a grain onto a disk that may end within it; what is beyond has to be zeros.
fn put(disk: &mut [u8], lba: u64, grain: &[u8]) {
    let start = index(lba) * SECTOR;
    assert_eq!(start % GRAIN, 0, "grains are aligned");
    let end = disk.len().min(start + GRAIN);
    disk[start..end].copy_from_slice(&grain[..end - start]);
    assert!(grain[end - start..].iter().all(|&b| b == 0));
}

/// From the first sector to the last, as an importer reads while it downloads.
pub(crate) fn by_stream(file: &[u8]) -> Stream {
    assert_eq!(file.len() % SECTOR, 0);
    let head = header(&file[..SECTOR]);
    assert_eq!(head.directory, u64::MAX, "the directory is at the end");
    let mut found = Stream { disk: vec![0; head.capacity], grains: 0, tables: 0 };
    let mut at = head.overhead * SECTOR;
    let mut next_lba = 0;
    let mut kinds = Vec::new();
    loop {
        let (number, bytes) = (u64_at(file, at), u32_at(file, at + 8) as usize);
        if bytes > 0 {
            assert!(kinds.iter().all(|&kind| kind == 1), "grains come before directory and footer");
            assert!(number >= next_lba, "grains come in the disk's order");
            next_lba = number + 128;
            put(&mut found.disk, number, &inflate(&file[at + 12..at + 12 + bytes]));
            found.grains += 1;
            at = (at + 12 + bytes).next_multiple_of(SECTOR);
            continue;
        }
        let kind = u32_at(file, at + 12);
        kinds.push(kind);
        at += SECTOR;
        if kind == 0 {
            break;
        }
        found.tables += usize::from(kind == 1);
        at += index(number) * SECTOR;
    }
    assert_eq!(at, file.len(), "the end-of-stream marker is the last sector");
    assert_eq!(kinds[kinds.len() - 3..], [2, 3, 0], "directory, footer, end");
    found
}

/// From the footer through directory and tables, as a program reads that has the whole file.
pub(crate) fn by_tables(file: &[u8]) -> Vec<u8> {
    let foot = header(&file[file.len() - 2 * SECTOR..][..SECTOR]);
    let mut disk = vec![0; foot.capacity];
    let tables = foot.capacity.div_ceil(512 * GRAIN);
    for table in 0..tables {
        let place = u32_at(file, index(foot.directory) * SECTOR + 4 * table) as usize;
        if place == 0 {
            continue;
        }
        for entry in 0..512 {
            let grain = u32_at(file, place * SECTOR + 4 * entry) as usize;
            if grain == 0 {
                continue;
            }
            let (lba, bytes) = (u64_at(file, grain * SECTOR), u32_at(file, grain * SECTOR + 8) as usize);
            assert_eq!(index(lba), (table * 512 + entry) * 128, "the entry's own grain");
            put(&mut disk, lba, &inflate(&file[grain * SECTOR + 12..][..bytes]));
        }
    }
    disk
}
