//! Disk labels and allocation tables: any bytes in their places, sealed again or not, on a real (sparse) file.
//!
//! Checked: inspection and assembly end in a pool or an error; a refused disk is not changed; a pool that came of it can
//! tell its volumes, and its tables are whole when it is opened again.

use arbitrary::{Arbitrary, Unstructured};
use base::{ByteCount, ClusterId, NodeId, ReplicaId, VolumeId, crc32c};
use disk::{AreaKind, Disk, EXTENT_BYTES, Force, Identity, OpenOptions, Pool, Preallocate, inspect};
use std::cell::RefCell;

const OWNER: Identity = Identity { cluster: ClusterId(1), node: NodeId(2) };
const BLOCK: usize = 4096;
/// Label, label, table, table (docs/ondisk.md), with the table's first runs.
const PLACES: [(u64, usize); 4] = [(0, BLOCK), (1 << 20, BLOCK), (2 << 20, 2 * BLOCK), (8 << 20, 2 * BLOCK)];

#[derive(Arbitrary, Debug)]
struct Edit {
    place: u8,
    both: bool,
    at: u16,
    bytes: [u8; 8],
    len: u8,
    seal: bool,
}

/// A disk that holds a pool with two volumes, and what its places hold then.
struct Bench {
    disk: Disk,
    intact: [Vec<u8>; 4],
    _dir: tempfile::TempDir,
}

thread_local! {
    static BENCH: RefCell<Option<Bench>> = const { RefCell::new(None) };
}

impl Bench {
    fn new() -> Self {
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let path = dir.path().join("disk0.img");
        let size = ByteCount((16 << 20) + 12 * EXTENT_BYTES);
        drop(Disk::create_file(&path, size, Preallocate::Sparse).unwrap());
        let disk = Disk::open(&path, &OpenOptions::default()).unwrap();
        let mut pool = Pool::open(Vec::new(), OWNER).unwrap();
        pool.add(disk.clone(), Force::No).unwrap();
        for (volume, kind, extents) in
            [(1, AreaKind::Meta, 1), (1, AreaKind::Data, 3), (2, AreaKind::Meta, 1), (2, AreaKind::Data, 2)]
        {
            let len = ByteCount(extents * EXTENT_BYTES);
            pool.allocate(VolumeId(volume), ReplicaId(volume + 10), kind, len).unwrap();
        }
        drop(pool);
        let intact = PLACES.map(|place| read(&disk, place));
        Self { disk, intact, _dir: dir }
    }
}

fn read(disk: &Disk, (offset, len): (u64, usize)) -> Vec<u8> {
    let mut bytes = disk::BufferPool::default().take(len).unwrap();
    disk.read_blocking(offset, bytes.as_mut_slice()).unwrap();
    bytes.as_slice().to_vec()
}

fn write(disk: &Disk, offset: u64, bytes: &[u8]) {
    let mut buffer = disk::BufferPool::default().take(bytes.len()).unwrap();
    buffer.as_mut_slice().copy_from_slice(bytes);
    disk.write_blocking(offset, buffer.as_slice()).unwrap();
}

/// One disk at one start.
pub fn target(data: &[u8]) {
    BENCH.with_borrow_mut(|bench| run(bench.get_or_insert_with(Bench::new), data));
}

fn run(bench: &Bench, data: &[u8]) {
    let mut places = bench.intact.clone();
    let mut input = Unstructured::new(data);
    while !input.is_empty() {
        let Ok(edit) = input.arbitrary::<Edit>() else { break };
        let first = usize::from(edit.place) % 4;
        apply(&mut places[first], &edit);
        if edit.both {
            apply(&mut places[first ^ 1], &edit);
        }
    }
    for ((offset, _), bytes) in PLACES.iter().zip(&places) {
        write(&bench.disk, *offset, bytes);
    }
    let looked = inspect(&bench.disk);
    let opened = Pool::open(vec![bench.disk.clone()], OWNER);
    if let Ok(pool) = &opened {
        assert!(looked.is_ok(), "opened, but not inspected: {looked:?}");
        let volumes = pool.volumes();
        for volume in &volumes {
            assert!(!pool.lookup(volume.volume).is_empty(), "{volume:?} without a run");
        }
        assert!(pool.free_space().0 <= pool.total().0);
        drop(opened);
        let again = Pool::open(vec![bench.disk.clone()], OWNER).expect("a pool that was opened is not whole");
        assert_eq!(again.volumes().len(), volumes.len());
    } else {
        for (place, bytes) in PLACES.iter().zip(&places) {
            assert!(read(&bench.disk, *place) == *bytes, "a refused disk was changed at {}", place.0);
        }
    }
}

fn apply(place: &mut [u8], edit: &Edit) {
    let at = usize::from(if edit.at & 1 == 0 { edit.at / 2 % 96 } else { edit.at / 2 }) % (place.len() - 8);
    let bytes = &edit.bytes[..usize::from(edit.len % 9)];
    place[at..at + bytes.len()].copy_from_slice(bytes);
    if edit.seal {
        if place.len() > BLOCK {
            // The table's header holds the checksum of its runs.
            let count = u32::from_le_bytes(place[32..36].try_into().unwrap()) as usize;
            if let Some(runs) = place[BLOCK..].get(..count.saturating_mul(64)) {
                let crc = crc32c(runs);
                place[36..40].copy_from_slice(&crc.to_le_bytes());
            }
        }
        let crc = crc32c(&place[..BLOCK - 4]);
        place[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
    }
}
