//! `ci/bench iscsi`: what a block costs through this target, beside others that do the same work.
//!
//! - [`systems`]: starts what is measured, each in a network namespace of its own.
//! - [`load`]: the load generator; one client for every system that speaks iSCSI, and for the raw TCP server.
//! - [`raw`]: a TCP server that answers with as many bytes and does nothing else: what the network alone costs.
//! - [`file_target`]: this target on one file, without replication.
//! - [`bare`]: the file itself, through the ring.
//! - [`cpu`], [`report`]: processor time by process; medians, ratios, the table.
//!
//! All systems are up together and are measured in turn, workload by workload, round by round: what else the machine does
//! hits all of them. Ratios are of one round, then the median over rounds; processor time is a sum over all rounds.
//! Nothing here asserts a figure. Test code: it may unwrap.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(test)]
mod allocations;
mod bare;
mod cpu;
mod file_target;
mod load;
mod perf;
mod raw;
mod report;
mod systems;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use futago_e2e::tools::work_dir;

use crate::report::{Report, Sample};
use crate::systems::System;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure the iSCSI target and the data path below it.
    Iscsi(Options),
    /// (internal) This target on one file.
    #[command(hide = true)]
    FileTarget { file: PathBuf },
    /// (internal) The raw TCP server.
    #[command(hide = true)]
    RawServer,
}

/// What `iscsi` measures and for how long.
#[derive(clap::Args, Debug)]
struct Options {
    /// Seconds of one measurement (0.1 to 10).
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Rounds (1 to 20).
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these systems, separated by commas.
    #[arg(long, value_delimiter = ',')]
    systems: Vec<String>,
    /// Only workloads whose name begins so, separated by commas.
    #[arg(long, value_delimiter = ',')]
    workloads: Vec<String>,
    /// MiB that reads and writes fall into (32 to 4096).
    #[arg(long, default_value_t = 128)]
    span: u64,
    /// An earlier build of this program: its target is measured as `before`.
    #[arg(long)]
    before: Option<PathBuf>,
    /// Where the files are; by default in RAM (/dev/shm), so that the target is measured and not the medium.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Also libiscsi's iscsi-perf (random reads), a client that nobody here wrote.
    #[arg(long)]
    iscsi_perf: bool,
}

impl Options {
    fn check(&self) -> Result<()> {
        if !(0.1..=10.0).contains(&self.seconds) {
            bail!("--seconds {}: from 0.1 to 10", self.seconds);
        }
        if !(1..=20).contains(&self.rounds) {
            bail!("--rounds {}: from 1 to 20", self.rounds);
        }
        if !(32..=4096).contains(&self.span) {
            bail!("--span {}: from 32 to 4096 MiB", self.span);
        }
        for name in &self.systems {
            if !systems::ALL.iter().any(|(known, _)| known == name) {
                let known: Vec<&str> = systems::ALL.iter().map(|(name, _)| *name).collect();
                bail!("--systems {name}: none of {}", known.join(", "));
            }
        }
        if self.workloads().is_empty() {
            bail!("--workloads: none of {}", WORKLOADS.map(|workload| workload.name).join(", "));
        }
        Ok(())
    }

    fn workloads(&self) -> Vec<Workload> {
        let wanted = |name: &str| {
            self.workloads.is_empty() || self.workloads.iter().any(|begin| name.starts_with(begin.as_str()))
        };
        WORKLOADS.into_iter().filter(|workload| wanted(workload.name)).collect()
    }
}

/// One kind of load: random places, aligned to the size.
#[derive(Clone, Copy, Debug)]
struct Workload {
    name: &'static str,
    write: bool,
    bytes: usize,
    depth: usize,
}

const fn workload(name: &'static str, write: bool, bytes: usize, depth: usize) -> Workload {
    Workload { name, write, bytes, depth }
}

const WORKLOADS: [Workload; 8] = [
    workload("4k-read-d1", false, 4 << 10, 1),
    workload("4k-write-d1", true, 4 << 10, 1),
    workload("4k-read-d32", false, 4 << 10, 32),
    workload("4k-write-d32", true, 4 << 10, 32),
    workload("64k-read-d32", false, 64 << 10, 32),
    workload("64k-write-d32", true, 64 << 10, 32),
    workload("1m-read-d32", false, 1 << 20, 32),
    workload("1m-write-d32", true, 1 << 20, 32),
];

fn main() -> Result<()> {
    match Arguments::parse().command {
        Command::Iscsi(options) => iscsi(&options),
        Command::FileTarget { file } => file_target::run(&file, |address| println!("READY {address}")),
        Command::RawServer => raw::serve(),
    }
}

fn iscsi(options: &Options) -> Result<()> {
    options.check()?;
    let dir = options.dir.clone().unwrap_or_else(in_ram).join(format!("futago-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let measured = measure(options, &dir);
    std::fs::remove_dir_all(&dir)?;
    let (report, independent) = measured?;
    print!("{}", report.text());
    print!("{}", report.by_process());
    if options.iscsi_perf {
        print!("\niscsi-perf (libiscsi), random reads, op/s, the median of the rounds:\n{independent}");
        for (workload, depth) in [("4k-read-d1", " 1"), ("4k-read-d32", "32")] {
            if let Some(rate) = report.bare_rate(workload) {
                println!("  depth {depth}  {:<11} {rate:>9.0}  (the same reads, no network)", "bare");
            }
        }
    }
    Ok(())
}

/// The system's RAM disk; where there is none, the repository's disk.
fn in_ram() -> PathBuf {
    let ram = PathBuf::from("/dev/shm");
    if ram.is_dir() { ram } else { work_dir("bench") }
}

fn measure(options: &Options, dir: &std::path::Path) -> Result<(Report, String)> {
    let mut systems = systems::start(options, dir)?;
    let mut report = Report::new(systems.iter().map(|system| (system.name, system.what)).collect());
    let span_bytes = options.span << 20;
    for round in 0..options.rounds {
        for workload in options.workloads() {
            for turn in 0..systems.len() {
                // Each round begins with another system: none always follows the same neighbour's leftovers.
                let index = (turn + round) % systems.len();
                let sample = one(&mut systems[index], &workload, span_bytes, options.seconds)?;
                report.add(index, workload.name, round, sample);
            }
        }
        eprintln!("bench: round {} of {}", round + 1, options.rounds);
    }
    let independent =
        if options.iscsi_perf { perf::table(&mut systems, options.rounds)? } else { String::new() };
    for system in systems {
        system.stop()?;
    }
    Ok((report, independent))
}

fn one(system: &mut System, workload: &Workload, span_bytes: u64, seconds: f64) -> Result<Sample> {
    let limit = Duration::from_secs_f64(seconds);
    let processes = system.processes();
    let mut meter = None;
    let outcome =
        system.run(workload, span_bytes, limit, &mut || meter = Some(cpu::Meter::start(&processes)))?;
    let meter = meter.expect("the load was started");
    Ok(Sample { outcome, cpu: meter.stop() })
}
