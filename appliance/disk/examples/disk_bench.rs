//! What the ring costs: 4 KiB random reads and writes at depth 1 and 32, per operation in time and CPU, beside plain
//! `pread`/`pwrite` with direct I/O on the same file.
//!
//! `cargo run --release -p futago-disk --example disk_bench -- FILE [SECONDS]`; FILE is made (256 MiB) if absent.
#![allow(clippy::print_stdout, reason = "a measuring tool speaks on standard output")]

use base::ByteCount;
use futago_disk::{
    BufferPool, Disk, DiskError, Durability, ErrorKind, OpenOptions, Preallocate, Returned, Ring, RingConfig,
    Space,
};
use rustix::time::{ClockId, clock_gettime};
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK: usize = 4096;
const FILE_BYTES: u64 = 256 << 20;

fn main() -> Result<(), DiskError> {
    let mut arguments = std::env::args().skip(1);
    let usage = || DiskError::new(ErrorKind::Invalid, "usage: disk_bench FILE [SECONDS]");
    let path = arguments.next().ok_or_else(usage)?;
    let seconds = arguments.next().map_or(Ok(2), |text| text.parse().map_err(|_| usage()))?;
    let span = Duration::from_secs(seconds);
    let disk = open(Path::new(&path))?;
    println!("{:<34} {:>10} {:>12} {:>12}", "4 KiB random", "IOPS", "us/op", "CPU us/op");
    for (name, write, durable) in
        [("read", false, false), ("write", true, false), ("durable write", true, true)]
    {
        if !durable {
            report(&format!("{name}, plain syscall, depth 1"), || plain(&disk, write, span))?;
        }
        for force_threads in [false, true] {
            for depth in [1, 32] {
                let mut ring = Ring::new(&RingConfig { force_threads, ..RingConfig::default() })?;
                let label = format!("{name}, {:?}, depth {depth}", ring.backend());
                report(&label, || through(&mut ring, &disk, write, durable, depth, span))?;
            }
        }
    }
    Ok(())
}

/// Opens the file, made and written once: unwritten space is cheaper to read and dearer to write.
fn open(path: &Path) -> Result<Disk, DiskError> {
    if path.exists() {
        return Disk::open(path, &OpenOptions::default());
    }
    let disk = Disk::create_file(path, ByteCount(FILE_BYTES), Preallocate::Full)?;
    let mut chunk = BufferPool::default().take(1 << 20)?;
    chunk.as_mut_slice().fill(0x5a);
    for offset in (0..FILE_BYTES).step_by(1 << 20) {
        disk.write_blocking(offset, chunk.as_slice())?;
    }
    disk.flush_blocking()?;
    Ok(disk)
}

fn report(label: &str, run: impl FnOnce() -> Result<u64, DiskError>) -> Result<(), DiskError> {
    let before = cpu();
    let start = Instant::now();
    let operations = run()?.max(1);
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let each = |span: Duration| span.as_secs_f64() * 1e6 / operations as f64;
    let wall = each(start.elapsed());
    println!("{label:<34} {:>10.0} {wall:>12.1} {:>12.1}", 1e6 / wall, each(cpu().saturating_sub(before)));
    Ok(())
}

/// Processor time of all our threads, in the kernel and outside.
fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Offsets that look random: xorshift.
struct Offsets(u64);

impl Iterator for Offsets {
    type Item = u64;
    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0 % (FILE_BYTES / BLOCK as u64) * BLOCK as u64)
    }
}

fn plain(disk: &Disk, write: bool, span: Duration) -> Result<u64, DiskError> {
    let mut buffer = BufferPool::default().take(BLOCK)?;
    let end = Instant::now() + span;
    let mut operations = 0;
    for offset in Offsets(1) {
        if write {
            disk.write_blocking(offset, buffer.as_slice())?;
        } else {
            disk.read_blocking(offset, buffer.as_mut_slice())?;
        }
        operations += 1;
        if Instant::now() >= end {
            break;
        }
    }
    Ok(operations)
}

fn through(
    ring: &mut Ring,
    disk: &Disk,
    write: bool,
    durable: bool,
    depth: u64,
    span: Duration,
) -> Result<u64, DiskError> {
    let pool = BufferPool::default();
    let space = Space::of_disk(disk);
    let durability = if durable { Durability::Durable } else { Durability::Cached };
    let end = Instant::now() + span;
    let mut operations = 0;
    for (number, offset) in Offsets(1).enumerate() {
        let stop = Instant::now() >= end;
        if !stop && write {
            ring.write(number as u64, &space, offset, pool.take(BLOCK)?.freeze(), durability);
        } else if !stop {
            ring.read(number as u64, &space, offset, pool.take(BLOCK)?);
        }
        if !stop && (ring.open_requests() as u64) < depth {
            continue;
        }
        let Some(done) = ring.wait()? else { break };
        done.result?;
        debug_assert!(!matches!(done.buffer, Returned::None));
        operations += 1;
    }
    Ok(operations)
}
