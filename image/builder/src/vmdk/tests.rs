use super::*;
use std::io::Cursor;

fn encoded(disk: &[u8]) -> (Encoded, Vec<u8>) {
    let mut out = Cursor::new(Vec::new());
    let summary = encode(&mut &disk[..], disk.len() as u64, "x.vmdk", &mut out).unwrap();
    (summary, out.into_inner())
}

fn sector(file: &[u8], number: usize) -> &[u8] {
    &file[number * SECTOR_BYTES..(number + 1) * SECTOR_BYTES]
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A marker's (length, kind) where the stream length is zero.
fn marker(file: &[u8], number: usize) -> (u64, u32) {
    let sector = sector(file, number);
    assert_eq!(u32_at(sector, 8), 0, "sector {number} is a marker");
    (u64_at(sector, 0), u32_at(sector, 12))
}

#[test]
fn a_small_disk_has_the_layout_of_the_specification() {
    let mut disk = vec![0u8; 3 * GRAIN_BYTES];
    disk[GRAIN_BYTES] = 7;
    let (summary, file) = encoded(&disk);
    assert_eq!((summary.grains, summary.stored_grains), (3, 1));
    assert_eq!(summary.file_bytes, file.len() as u64);
    assert_eq!(summary.populated_bytes(), 65536);

    let text = String::from_utf8(file[512..21 * 512].to_vec()).unwrap();
    assert!(text.starts_with("# Disk DescriptorFile\n"), "{text}");
    assert!(text.contains("\nRW 384 SPARSE \"x.vmdk\"\n"), "{text}");
    assert!(file[21 * 512..128 * 512].iter().all(|&b| b == 0), "nothing up to the grains");

    // One grain: its place on the disk, its stream, zeros up to the sector's end.
    let grain = sector(&file, 128);
    assert_eq!(u64_at(grain, 0), 128, "the second grain's first sector");
    let stream = u32_at(grain, 8) as usize;
    assert!(stream > 0 && stream < 500, "{stream}: compressed");
    assert!(grain[12 + stream..].iter().all(|&b| b == 0));

    // Its table: four sectors, the one entry pointing at the grain's marker.
    assert_eq!(marker(&file, 129), (4, 1));
    let table: Vec<u32> = (0..512).map(|entry| u32_at(&file[130 * 512..], 4 * entry)).collect();
    assert_eq!(table[..3], [0, 128, 0]);
    assert!(table[3..].iter().all(|&entry| entry == 0));

    // The directory with that table, the footer with that directory, the end.
    assert_eq!(marker(&file, 134), (1, 2));
    assert_eq!(u32_at(sector(&file, 135), 0), 130);
    assert!(sector(&file, 135)[4..].iter().all(|&b| b == 0));
    assert_eq!(marker(&file, 136), (1, 3));
    let (header, footer) = (sector(&file, 0), sector(&file, 137));
    assert_eq!(u64_at(header, 56), u64::MAX);
    assert_eq!(u64_at(footer, 56), 135);
    assert_eq!((&header[..56], &header[64..]), (&footer[..56], &footer[64..]));
    assert_eq!(marker(&file, 138), (0, 0));
    assert_eq!(file.len(), 139 * 512, "nothing behind the end");
}

#[test]
fn a_disk_of_zeros_stores_no_grain_and_no_table() {
    let (summary, file) = encoded(&vec![0; 70 << 20]);
    assert_eq!((summary.stored_grains, summary.populated_bytes()), (0, 0));
    assert_eq!(marker(&file, 128), (1, 2), "the directory follows the descriptor");
    assert!(sector(&file, 129).iter().all(|&b| b == 0));
    assert_eq!(file.len(), 133 * 512);
}

#[test]
fn a_table_covers_512_grains() {
    let mut disk = vec![0u8; 513 * GRAIN_BYTES];
    disk[511 * GRAIN_BYTES] = 1;
    disk[512 * GRAIN_BYTES] = 2;
    let (_, file) = encoded(&disk);
    assert_eq!(marker(&file, 129), (4, 1));
    assert_eq!(u32_at(&file[130 * 512..], 4 * 511), 128, "the first table's last entry");
    assert_eq!(marker(&file, 135), (4, 1));
    assert_eq!(u32_at(&file[136 * 512..], 0), 134, "the second table's first entry");
    assert_eq!(marker(&file, 140), (1, 2));
    assert_eq!([u32_at(sector(&file, 141), 0), u32_at(sector(&file, 141), 4)], [130, 136]);
}

#[test]
fn an_incompressible_grain_is_stored_whole() {
    let mut disk = vec![0u8; GRAIN_BYTES];
    let mut state = 1u32;
    for byte in &mut disk {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let (_, file) = encoded(&disk);
    assert!(u32_at(sector(&file, 128), 8) as usize > GRAIN_BYTES);
    assert_eq!(file.len() % 512, 0);
}

#[test]
fn the_content_alone_decides_the_content_id() {
    let id = |disk: &[u8], name: &str| {
        let mut out = Cursor::new(Vec::new());
        encode(&mut &disk[..], disk.len() as u64, name, &mut out).unwrap();
        let text = String::from_utf8_lossy(&out.get_ref()[512..21 * 512]).into_owned();
        let cid = text.lines().find_map(|line| line.strip_prefix("CID=")).unwrap().to_owned();
        let long = text.lines().find_map(|line| line.strip_prefix("ddb.longContentID = ")).unwrap();
        assert_eq!(long.len(), 34, "{long}");
        assert!(long.trim_matches('"').ends_with(&cid), "{long} {cid}");
        cid
    };
    let mut disk = vec![0u8; 2 * GRAIN_BYTES];
    disk[0] = 1;
    let first = id(&disk, "a");
    assert_eq!(first, id(&disk, "b"));
    disk.swap(0, GRAIN_BYTES);
    assert_ne!(first, id(&disk, "a"), "the same data at another place");
}

#[test]
fn sizes_that_no_disk_has_are_refused() {
    let refused = |bytes: u64| encode(&mut &[][..], bytes, "x", &mut Cursor::new(Vec::new())).unwrap_err();
    assert!(matches!(refused(0), VmdkError::Empty));
    assert!(matches!(refused(1000), VmdkError::OddSize(1000)));
    assert!(matches!(refused(CAPACITY_LIMIT_BYTES + 512), VmdkError::TooLarge(_)));
    for name in ["a\"b", "a\nb", &"n".repeat(256)] {
        let error = encode(&mut &[0u8; 512][..], 512, name, &mut Cursor::new(Vec::new())).unwrap_err();
        assert!(matches!(error, VmdkError::Name(n) if n == name));
    }
}

#[test]
fn a_disk_that_ends_early_is_an_error_with_its_place() {
    let disk = vec![1u8; GRAIN_BYTES + 100];
    let error =
        encode(&mut &disk[..], 2 * GRAIN_BYTES as u64, "x", &mut Cursor::new(Vec::new())).unwrap_err();
    assert!(error.to_string().contains("65536"), "{error}");
    let VmdkError::Read { offset, source } = error else { panic!("{error}") };
    assert_eq!((offset, source.kind()), (65536, io::ErrorKind::UnexpectedEof));
}

#[test]
fn a_full_file_system_is_an_error() {
    let mut room = [0u8; 140 * 512];
    let disk = vec![1u8; 30 * GRAIN_BYTES];
    let error = encode(&mut &disk[..], disk.len() as u64, "x", &mut Cursor::new(&mut room[..])).unwrap_err();
    assert!(matches!(error, VmdkError::Write(source) if source.kind() == io::ErrorKind::WriteZero));
}

#[test]
fn sector_numbers_that_a_table_cannot_hold_are_refused() {
    let mut out = Cursor::new(Vec::new());
    let mut encoder = Encoder::new(512, &mut out);
    encoder.sector = 1 << 32;
    let error = encoder.store(512, &[1; GRAIN_BYTES]).unwrap_err();
    assert!(matches!(error, VmdkError::Full(512)), "{error}");
}

/// A disk of zeros with one byte of data, which must not be read elsewhere.
struct Sparse {
    data: u64,
    reads: Vec<u64>,
}

impl Disk for Sparse {
    fn data_from(&mut self, offset: u64) -> io::Result<u64> {
        Ok(if offset <= self.data { self.data } else { u64::MAX })
    }

    fn read_from(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.reads.push(offset);
        bytes.fill(0);
        bytes[usize::try_from(self.data - offset).unwrap()] = 1;
        Ok(())
    }
}

#[test]
fn holes_are_not_read() {
    const GRAIN: u64 = GRAIN_BYTES as u64;
    for data in [0, 1, GRAIN - 1, GRAIN, 5 * GRAIN + 1, 600 * GRAIN, 700 * GRAIN - 1] {
        let mut disk = Sparse { data, reads: Vec::new() };
        let mut out = Cursor::new(Vec::new());
        let summary = encode(&mut disk, 700 * GRAIN, "x", &mut out).unwrap();
        assert_eq!(disk.reads, [data / GRAIN * GRAIN]);
        assert_eq!(summary.stored_grains, 1);
        assert_eq!(u64_at(sector(out.get_ref(), 128), 0), data / GRAIN * 128);
    }
}
