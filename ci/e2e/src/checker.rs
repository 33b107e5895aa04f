//! Remembers every acknowledged block and tells a lost one.
//!
//! Writers own disjoint ranges. A block's content is its number and a counter, so a read tells which write it sees.
//! After a write whose outcome is unknown, the block may hold the old value or the new one, and once read it stays.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::initiator::{BLOCK, Session};
use crate::tools::Random;

/// Bytes of one checked write.
pub const UNIT: usize = 4096;

/// One writer thread's memory and figures.
#[derive(Debug)]
pub struct Ledger {
    first_unit: u64,
    /// Per unit: the acknowledged counter, and a newer one whose outcome is unknown.
    units: Vec<(u64, Option<u64>)>,
    counter: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
    /// The longest time between two acknowledgements.
    pub longest_pause: Duration,
}

fn content(unit: u64, counter: u64) -> Vec<u8> {
    let mut out = vec![0_u8; UNIT];
    for (index, chunk) in out.chunks_exact_mut(16).enumerate() {
        chunk[..8].copy_from_slice(&(unit ^ (index as u64) << 48).to_le_bytes());
        chunk[8..].copy_from_slice(&counter.to_le_bytes());
    }
    out
}

fn lba(unit: u64) -> u64 {
    unit * (UNIT / BLOCK) as u64
}

impl Ledger {
    pub fn new(first_unit: u64, units: usize) -> Self {
        let empty = Self {
            first_unit,
            units: vec![(0, None); units],
            counter: 0,
            acknowledged: 0,
            longest_pause: Duration::ZERO,
        };
        Self { counter: 1, ..empty }
    }

    fn write_one(&mut self, session: &mut Session, random: &mut Random) -> Result<()> {
        let index = usize::try_from(random.below(self.units.len() as u64))?;
        let unit = self.first_unit + index as u64;
        let counter = self.counter;
        self.counter += 1;
        // Until answered, the outcome is unknown; an older unknown one can't land any more once this one is acknowledged.
        let before = self.units[index];
        if before.1.is_some() {
            self.settle(session, index)?;
        }
        self.units[index].1 = Some(counter);
        session.write(lba(unit), &content(unit, counter))?;
        self.units[index] = (counter, None);
        self.acknowledged += 1;
        Ok(())
    }

    /// Reads a unit of unknown outcome and keeps what it holds.
    fn settle(&mut self, session: &mut Session, index: usize) -> Result<()> {
        let unit = self.first_unit + index as u64;
        let found = session.read(lba(unit), UNIT)?;
        let (acknowledged, unknown) = self.units[index];
        let held = [Some(acknowledged), unknown]
            .into_iter()
            .flatten()
            .find(|&counter| found == if counter == 0 { vec![0; UNIT] } else { content(unit, counter) });
        match held {
            Some(counter) => self.units[index] = (counter, None),
            None => lost(unit, self.units[index], &found),
        }
        Ok(())
    }

    /// Reads everything back. Any block that holds neither its acknowledged value nor a newer unanswered one is lost:
    /// the process ends the test with its number.
    pub fn verify(&mut self, session: &mut Session) -> Result<u64> {
        for index in 0..self.units.len() {
            self.settle(session, index)?;
        }
        Ok(self.units.len() as u64)
    }
}

fn lost(unit: u64, (acknowledged, unknown): (u64, Option<u64>), found: &[u8]) -> ! {
    let holds = u64::from_le_bytes(found[8..16].try_into().unwrap());
    panic!(
        "LOST WRITE: unit {unit} acknowledged {acknowledged}, unanswered {unknown:?}, but holds {holds} (first bytes {:02x?})",
        &found[..16]
    );
}

/// Connects again and again until the portal serves.
pub fn reconnect(
    portal: SocketAddr,
    iqn: &str,
    name: &str,
    qualifier: u16,
    limit: Duration,
) -> Result<Session> {
    let deadline = Instant::now() + limit;
    loop {
        match Session::open(portal, iqn, name, qualifier, Duration::from_secs(5)) {
            Ok(session) => return Ok(session),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("no login within {} s", limit.as_secs()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Writers that go on through every break of their session until told to stop.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Ledger>>>,
}

impl Load {
    /// Starts `writers` threads with ranges of `units` blocks each.
    pub fn start(portal: SocketAddr, iqn: &str, writers: u16, units: usize, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..writers)
            .map(|writer| {
                let (stop, iqn) = (Arc::clone(&stop), iqn.to_owned());
                let ledger = Ledger::new(u64::from(writer) * units as u64, units);
                let random = Random(seed ^ u64::from(writer) << 32);
                std::thread::spawn(move || write_until(portal, &iqn, writer, ledger, random, &stop))
            })
            .collect();
        Self { stop, threads }
    }

    /// Ends the load and answers every writer's memory.
    pub fn finish(self) -> Result<Vec<Ledger>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }
}

fn write_until(
    portal: SocketAddr,
    iqn: &str,
    writer: u16,
    mut ledger: Ledger,
    mut random: Random,
    stop: &AtomicBool,
) -> Result<Ledger> {
    let name = format!("iqn.2026-11.local.futago:checker-{writer}");
    let limit = Duration::from_secs(60);
    let mut session = reconnect(portal, iqn, &name, writer, limit)?;
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = ledger.write_one(&mut session, &mut random) {
            if last.elapsed() > limit {
                bail!("no write acknowledged for {} s: {error:#}", limit.as_secs());
            }
            session = reconnect(portal, iqn, &name, writer, limit)?;
            continue;
        }
        ledger.longest_pause = ledger.longest_pause.max(last.elapsed());
        last = Instant::now();
    }
    Ok(ledger)
}
