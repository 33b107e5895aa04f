//! The ring on real files with direct I/O: both backends, every alignment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Dice, at_once, disk, path_of, scratch};
use futago_disk::{
    BackendKind, BufferPool, Completion, Disk, Durability, ErrorKind, OpenOptions, PoolLimits, Readiness,
    Returned, Ring, RingConfig, Space, ZeroMode,
};
use std::collections::BTreeMap;
use std::ops::Range;

fn backends() -> [RingConfig; 2] {
    [RingConfig::default(), RingConfig { force_threads: true, ..RingConfig::default() }]
}

fn drain(ring: &mut Ring) -> Vec<Completion> {
    let mut all = Vec::new();
    while let Some(completion) = ring.wait().unwrap() {
        all.push(completion);
    }
    all
}

fn read_all(ring: &mut Ring, pool: &BufferPool, space: &Space) -> Vec<u8> {
    let len = usize::try_from(space.len().0).unwrap();
    ring.read(0, space, 0, pool.take(len).unwrap());
    let done = ring.wait().unwrap().unwrap();
    done.result.unwrap();
    let Returned::Read(buffer) = done.buffer else { panic!("a read gives its buffer back") };
    buffer.as_slice().to_vec()
}

/// What a random request in flight touches, and what it must find or leave.
enum Expect {
    Read(Range<usize>),
    Write(Range<usize>, u8),
    Zero(Range<usize>),
    Flush,
}

impl Expect {
    fn range(&self) -> Range<usize> {
        match self {
            Self::Read(range) | Self::Write(range, _) | Self::Zero(range) => range.clone(),
            Self::Flush => 0..0,
        }
    }
}

/// Random requests that never overlap byte-wise while in flight (the caller's duty, S18) but share blocks all the
/// time, compared with a plain array.
fn compare_with_model(mut ring: Ring, disk: &Disk, unit: u64, seed: u64) {
    const SPAN: u64 = 256 << 10;
    let pool = BufferPool::default();
    let space = Space::of_disk(disk);
    let mut model = vec![0u8; usize::try_from(SPAN).unwrap()];
    let mut in_flight: BTreeMap<u64, Expect> = BTreeMap::new();
    let mut dice = Dice(seed);
    let settle = |completion: Completion, in_flight: &mut BTreeMap<u64, Expect>, model: &mut Vec<u8>| {
        completion.result.unwrap();
        match (in_flight.remove(&completion.token).unwrap(), completion.buffer) {
            (Expect::Read(range), Returned::Read(buffer)) => assert!(buffer.as_slice() == &model[range]),
            (Expect::Write(range, byte), Returned::Write(_)) => model[range].fill(byte),
            (Expect::Zero(range), Returned::None) => model[range].fill(0),
            (Expect::Flush, Returned::None) => {}
            _ => panic!("the wrong buffer came back"),
        }
    };
    for token in 0..3000 {
        let start = dice.roll(SPAN / unit) * unit;
        let len = (1 + dice.roll(24 * 512 / unit)) * unit;
        let range = usize::try_from(start).unwrap()..usize::try_from((start + len).min(SPAN)).unwrap();
        let overlaps = |other: &Expect| other.range().start < range.end && range.start < other.range().end;
        while in_flight.len() >= 32 || in_flight.values().any(overlaps) {
            let completion = ring.wait().unwrap().unwrap();
            settle(completion, &mut in_flight, &mut model);
        }
        let skew = if dice.roll(4) == 0 { usize::try_from(dice.roll(700)).unwrap() } else { 0 };
        let expect = match dice.roll(10) {
            0..4 => {
                let mut whole = pool.take(range.len() + skew).unwrap();
                let buffer = whole.split_off(skew);
                ring.read(token, &space, start, buffer);
                Expect::Read(range)
            }
            4..8 => {
                let byte = u8::try_from(1 + dice.roll(255)).unwrap();
                let mut buffer = pool.take(range.len() + skew).unwrap();
                buffer.as_mut_slice()[skew..].fill(byte);
                let buffer = buffer.freeze().slice(skew..skew + range.len()).unwrap();
                let durability = if dice.roll(4) == 0 { Durability::Durable } else { Durability::Cached };
                ring.write(token, &space, start, buffer, durability);
                Expect::Write(range, byte)
            }
            8 => {
                let mode = if dice.roll(2) == 0 { ZeroMode::Keep } else { ZeroMode::Deallocate };
                ring.zero(token, &space, start, range.len() as u64, mode, Durability::Cached);
                Expect::Zero(range)
            }
            _ => {
                ring.flush(token, &space);
                Expect::Flush
            }
        };
        in_flight.insert(token, expect);
        if dice.roll(3) == 0 {
            ring.submit().unwrap();
        }
    }
    for completion in drain(&mut ring) {
        settle(completion, &mut in_flight, &mut model);
    }
    assert!(in_flight.is_empty());
    let content = read_all(&mut ring, &pool, &space);
    assert!(content[..model.len()] == model[..], "seed {seed}");
    assert_eq!(ring.open_requests(), 0);
}

#[test]
fn random_requests_match_a_plain_array() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        for (least_alignment_bytes, unit) in [(512, 512), (4096, 512), (4096, 1), (512, 4096)] {
            let name = format!("{number}-{least_alignment_bytes}-{unit}");
            let path = path_of(&disk(&directory, &name, 1));
            let options = OpenOptions { least_alignment_bytes, ..at_once() };
            let disk = Disk::open(&path, &options).unwrap();
            if !disk.is_direct() {
                println!("the target directory takes no direct I/O: through the page cache instead");
            }
            // Short transfers, so that requests go on where the last piece ended.
            let config = RingConfig { max_transfer_bytes: 8192, entries: 8, ..*config };
            let ring = Ring::new(&config).unwrap();
            compare_with_model(ring, &disk, unit, 0x5eed + u64::from(least_alignment_bytes) + unit);
        }
    }
}

#[test]
fn random_requests_match_where_there_is_no_direct_io() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        let path = path_of(&disk(&directory, &number.to_string(), 1));
        let disk = Disk::open(&path, &OpenOptions { direct: false, ..at_once() }).unwrap();
        assert!(!disk.is_direct());
        compare_with_model(Ring::new(config).unwrap(), &disk, 1, 77);
    }
}

/// A short read of a file in RAM has ended when `submit` returns; a long one goes the usual way.
#[test]
fn a_short_read_from_memory_is_done_at_once() {
    let memory = std::path::Path::new("/dev/shm");
    if !rustix::fs::statfs(memory).is_ok_and(|system| system.f_type == libc::TMPFS_MAGIC) {
        println!("/dev/shm is no tmpfs here");
        return;
    }
    let directory = tempfile::tempdir_in(memory).unwrap();
    for (number, config) in backends().into_iter().enumerate() {
        let disk = disk(&directory, &number.to_string(), 1);
        disk.write_blocking(4096, &[7; 4096]).unwrap();
        let space = Space::of_disk(&disk);
        let pool = BufferPool::default();
        let mut ring = Ring::new(&config).unwrap();
        for len in [4096, 16 << 10] {
            ring.read(1, &space, 4096, pool.take(len).unwrap());
            assert!(ring.next().is_none(), "nothing is done before it is submitted");
            ring.submit().unwrap();
            assert!(ring.is_ready());
            let done = ring.next().unwrap();
            done.result.unwrap();
            let Returned::Read(buffer) = done.buffer else { panic!("a read gives its buffer back") };
            assert_eq!(buffer.as_slice()[..4096], [7; 4096]);
            assert!(buffer.as_slice()[4096..].iter().all(|&byte| byte == 0));
        }
        // Short and long ones, and a read past the end, end once each.
        for token in 0..8 {
            ring.read(token, &space, 0, pool.take(if token % 2 == 0 { 4096 } else { 64 << 10 }).unwrap());
        }
        ring.read(8, &space, 1 << 20, pool.take(4096).unwrap());
        let mut ended: Vec<_> =
            drain(&mut ring).iter().map(|done| (done.token, done.result.is_ok())).collect();
        ended.sort_unstable();
        assert_eq!(ended, (0..9).map(|token| (token, token < 8)).collect::<Vec<_>>());
        assert_eq!(ring.open_requests(), 0);
        let disk = self::disk(&directory, &format!("{number}-model"), 1);
        compare_with_model(ring, &disk, 512, 78);
    }
}

#[test]
fn io_uring_is_what_runs_where_the_system_allows_it() {
    if let Err(error) = io_uring::IoUring::new(2) {
        println!("io_uring is refused here: {error}");
        assert_eq!(Ring::new(&RingConfig::default()).unwrap().backend(), BackendKind::Threads);
        return;
    }
    assert_eq!(Ring::new(&RingConfig::default()).unwrap().backend(), BackendKind::IoUring);
    assert_eq!(Ring::new(&backends()[1]).unwrap().backend(), BackendKind::Threads);
}

#[test]
fn more_requests_than_the_queue_holds_all_end_once() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        let disk = disk(&directory, &number.to_string(), 8);
        let space = Space::of_disk(&disk);
        let pool = BufferPool::default();
        let mut ring = Ring::new(&RingConfig { entries: 2, threads: 3, ..*config }).unwrap();
        for token in 0..1000 {
            let mut buffer = pool.take(4096).unwrap();
            buffer.as_mut_slice().fill(u8::try_from(token % 251).unwrap());
            ring.write(token, &space, token * 4096, buffer.freeze(), Durability::Cached);
        }
        let mut tokens: Vec<u64> = drain(&mut ring)
            .into_iter()
            .map(|completion| {
                completion.result.unwrap();
                completion.token
            })
            .collect();
        tokens.sort_unstable();
        assert_eq!(tokens, (0..1000).collect::<Vec<_>>());
        assert_eq!(pool.in_use_bytes(), 0);
        let content = read_all(&mut ring, &pool, &space);
        for (token, block) in content.chunks(4096).take(1000).enumerate() {
            assert!(block.iter().all(|byte| usize::from(*byte) == token % 251), "block {token}");
        }
    }
}

#[test]
fn a_dropped_ring_waits_for_the_kernel() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        let disk = disk(&directory, &number.to_string(), 64);
        let space = Space::of_disk(&disk);
        let pool = BufferPool::new(PoolLimits { cached_bytes: 0, ..PoolLimits::default() });
        for _ in 0..10 {
            let mut ring = Ring::new(config).unwrap();
            for token in 0..32 {
                ring.read(token, &space, token << 20, pool.take(1 << 20).unwrap());
                let buffer = pool.take(1 << 20).unwrap().freeze();
                ring.write(100 + token, &space, (32 + token) << 20, buffer, Durability::Durable);
            }
            ring.submit().unwrap();
            assert!(pool.in_use_bytes() > 0);
            drop(ring);
            assert_eq!(pool.in_use_bytes(), 0, "all buffers came back, and none before its transfer ended");
        }
        drop(space);
        let path = path_of(&disk);
        drop(disk);
        Disk::open(&path, &at_once()).expect("nothing in flight keeps the disk");
    }
}

#[test]
fn requests_past_the_end_and_empty_ones_complete_too() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        let disk = disk(&directory, &number.to_string(), 1);
        let space = Space::of_disk(&disk);
        let pool = BufferPool::default();
        let mut ring = Ring::new(config).unwrap();
        ring.read(1, &space, (1 << 20) - 512, pool.take(1024).unwrap());
        ring.write(2, &space, u64::MAX, pool.take(1).unwrap().freeze(), Durability::Cached);
        ring.read(3, &space, 0, pool.take(0).unwrap());
        ring.zero(4, &space, 1 << 20, 0, ZeroMode::Keep, Durability::Durable);
        let kinds: BTreeMap<u64, Option<ErrorKind>> =
            drain(&mut ring).into_iter().map(|c| (c.token, c.result.err().map(|e| e.kind()))).collect();
        let past_end = Some(ErrorKind::OutOfRange);
        assert_eq!(kinds, BTreeMap::from([(1, past_end), (2, past_end), (3, None), (4, None)]));
    }
}

#[test]
fn a_disk_that_shrank_gives_an_error_not_zeroes() {
    let directory = scratch();
    for (number, config) in backends().iter().enumerate() {
        let disk = disk(&directory, &number.to_string(), 1);
        let space = Space::of_disk(&disk);
        std::fs::File::options().write(true).open(disk.path()).unwrap().set_len(512 << 10).unwrap();
        let pool = BufferPool::default();
        let mut ring = Ring::new(config).unwrap();
        ring.read(1, &space, (512 << 10) - 4096, pool.take(8192).unwrap());
        let error = ring.wait().unwrap().unwrap().result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        assert!(error.to_string().contains(&path_of(&disk).display().to_string()));
        assert_eq!(disk.refresh_size().unwrap().0, 512 << 10);
    }
}

/// The loop that the module documents, on a tokio runtime of one thread.
async fn turn_until_done(ring: &mut Ring, requests: u64) -> Vec<u64> {
    let readiness = Readiness::of(ring).unwrap();
    let mut tokens = Vec::new();
    loop {
        while let Some(completion) = ring.next() {
            completion.result.unwrap();
            tokens.push(completion.token);
        }
        ring.submit().unwrap();
        if tokens.len() as u64 == requests {
            return tokens;
        }
        if !ring.is_ready() {
            readiness.wait().await.unwrap();
        }
    }
}

#[test]
fn a_tokio_loop_never_misses_a_completion() {
    let directory = scratch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (number, config) in backends().iter().enumerate() {
        let path = path_of(&disk(&directory, &number.to_string(), 8));
        let disk = Disk::open(&path, &OpenOptions { least_alignment_bytes: 4096, ..at_once() }).unwrap();
        let space = Space::of_disk(&disk);
        let pool = BufferPool::default();
        let mut ring = Ring::new(config).unwrap();
        let mut dice = Dice(9);
        for round in 0..200 {
            let requests = 1 + dice.roll(8);
            for token in 0..requests {
                let offset = token << 20;
                match dice.roll(5) {
                    0 => ring.read(token, &space, offset, pool.take(4096).unwrap()),
                    // A merge: its second half starts from a completion.
                    1 => {
                        let buffer = pool.take(512).unwrap().freeze();
                        ring.write(token, &space, offset + 512, buffer, Durability::Cached);
                    }
                    2 => ring.zero(token, &space, offset + 512, 1 << 16, ZeroMode::Keep, Durability::Durable),
                    3 => ring.flush(token, &space),
                    _ => {
                        let buffer = pool.take(64 << 10).unwrap().freeze();
                        ring.write(token, &space, offset, buffer, Durability::Durable);
                    }
                }
            }
            let limit = std::time::Duration::from_secs(20);
            let done = runtime
                .block_on(async { tokio::time::timeout(limit, turn_until_done(&mut ring, requests)).await });
            let mut tokens = done.unwrap_or_else(|_| panic!("round {round}: a completion was missed"));
            tokens.sort_unstable();
            assert_eq!(tokens, (0..requests).collect::<Vec<_>>());
        }
    }
}
