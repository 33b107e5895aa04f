//! The file itself: O_DIRECT, writes durable (`RWF_DSYNC`), through the same ring as the target's disks.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use base::ByteCount;
use disk::{
    BufferMut, BufferPool, Disk, Durability, OpenOptions, Preallocate, Returned, Ring, RingConfig, Space,
};
use futago_e2e::tools::Random;

use crate::Workload;
use crate::load::Outcome;

/// A file and what moves its bytes.
pub(crate) struct Bare {
    space: Space,
    ring: Ring,
    pool: BufferPool,
    random: Random,
}

impl Bare {
    /// Makes the file, all of it written.
    pub(crate) fn create(path: &Path, size_bytes: u64) -> Result<Self> {
        let disk = Disk::create_file(path, ByteCount(size_bytes), Preallocate::Full)?;
        let mut bare = Self {
            space: Space::of_disk(&disk),
            ring: Ring::new(&RingConfig::default())?,
            pool: BufferPool::default(),
            random: Random(1),
        };
        for offset in (0..size_bytes).step_by(1 << 20) {
            let buffer = bare.pool.take_zeroed(1 << 20)?.freeze();
            bare.ring.write(0, &bare.space, offset, buffer, Durability::Durable);
            while let Some(done) = bare.ring.wait()? {
                done.result?;
            }
        }
        Ok(bare)
    }

    /// As [`crate::load::Client::run`].
    pub(crate) fn run(
        &mut self,
        workload: &Workload,
        span_bytes: u64,
        limit: Duration,
        begin: &mut dyn FnMut(),
    ) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let mut starts = vec![Instant::now(); workload.depth];
        begin();
        let start = Instant::now();
        for slot in &mut starts {
            *slot = Instant::now();
        }
        for slot in 0..workload.depth {
            let buffer = self.pool.take_zeroed(workload.bytes)?;
            self.queue(workload, span_bytes, slot as u64, buffer);
        }
        while let Some(done) = self.ring.wait()? {
            done.result?;
            let now = Instant::now();
            let slot = usize::try_from(done.token)?;
            outcome.add(now - starts[slot]);
            let buffer = match done.buffer {
                Returned::Read(buffer) => buffer,
                Returned::Write(buffer) => buffer.try_into_mut().expect("nobody else holds it"),
                Returned::None => continue,
            };
            if now - start < limit {
                starts[slot] = now;
                self.queue(workload, span_bytes, done.token, buffer);
            }
        }
        outcome.elapsed = start.elapsed();
        Ok(outcome)
    }

    fn queue(&mut self, workload: &Workload, span_bytes: u64, slot: u64, buffer: BufferMut) {
        let size = workload.bytes as u64;
        let offset = self.random.below(span_bytes / size) * size;
        if workload.write {
            self.ring.write(slot, &self.space, offset, buffer.freeze(), Durability::Durable);
        } else {
            self.ring.read(slot, &self.space, offset, buffer);
        }
    }
}

/// Opens a file that is there, for the target on one file.
pub(crate) fn open(path: &Path) -> Result<Disk> {
    Ok(Disk::open(path, &OpenOptions::default())?)
}
