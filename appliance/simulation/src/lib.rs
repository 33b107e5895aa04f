//! The deterministic simulator: whole clusters in one thread, out of a seed.
//!
//! Real: the replica (`futago-replication`), what the voters agree on, the lease on all three sides, who is promoted
//! (`futago-cluster`). Simulated: consensus ([`raft`]), messages and connections ([`network`]), disks ([`disk`]), clocks
//! ([`machine`]), processes and their faults ([`fault`]), initiators ([`client`]). What may happen between two steps of
//! any process is what safety.md allows: crash, power cut, loss, delay, reordering, one-way partition, pause, clock drift.
//!
//! A run is rounds of faults, each followed by calm: in the calm the cluster must come back by itself (I5, I6), fall
//! quiet, and its copies must be equal (I3). The other invariants are checked all along ([`check`]).
//!
//! - [`run`]: one seed.
//! - [`Break`]: a rule broken on purpose; the tests show that a checker notices each.
//!
//! Invariant: everything that a run does follows from [`Options`]; the same options make the same run, so a failure is
//! shown by running it again with its trace kept.
// A harness: what it expects of itself it may assert.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![forbid(unsafe_code)]

mod buffer;
mod check;
mod client;
mod disk;
mod fault;
mod machine;
mod manager;
mod network;
mod raft;
mod rng;
mod scenario;
mod storage;
mod world;

pub use check::Violation;
pub use scenario::Focus;

use std::collections::VecDeque;

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Break {
    /// None.
    #[default]
    Nothing,
    /// One that the replica keeps.
    Replica(replication::Sabotage),
    /// S5: voters go by what is applied, not by their whole log.
    IgnoreUncommitted,
    /// S5: nobody looks whether the machine stood still.
    IgnorePauses,
    /// S5: a cluster manager takes each of its starts for one of its machine.
    ForgetBoot,
    /// S5: what stands in the log ended with the machine, committed or not.
    EndUncommitted,
    /// S6: a restarted storage process passes for the one before.
    KeepInstance,
}

impl Break {
    fn in_replica(self) -> Option<replication::Sabotage> {
        match self {
            Self::Replica(sabotage) => Some(sabotage),
            _ => None,
        }
    }
}

/// What becomes of the trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trace {
    /// Not written: runs are several times quicker.
    #[default]
    None,
    /// The last lines are kept.
    Tail(usize),
    /// Printed as it happens.
    Print,
}

impl Trace {
    fn wanted(self) -> bool {
        self != Self::None
    }

    fn keep(self, tail: &mut VecDeque<String>, line: String) {
        match self {
            Self::None => {}
            Self::Print => println!("{line}"),
            Self::Tail(lines) => {
                if tail.len() >= lines {
                    tail.pop_front();
                }
                tail.push_back(line);
            }
        }
    }
}

/// One run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// What the run dwells on; `None`: the seed decides.
    pub focus: Option<Focus>,
    /// A rule to break.
    pub sabotage: Break,
    /// The volume is of 4 TiB: its dirty block doubles when it grows, and its bitmap moves (S22). Slow.
    pub huge: bool,
    /// Judge only what concerns the data (I1–I4, I7, S22), not the replica's own checks, nor whether it comes back.
    pub data_only: bool,
    /// What becomes of the trace.
    pub trace: Trace,
}

impl Options {
    fn keeps_instance(self) -> bool {
        self.sabotage == Break::KeepInstance
    }
    fn forgets_boot(self) -> bool {
        self.sabotage == Break::ForgetBoot
    }
    fn ends_uncommitted(self) -> bool {
        self.sabotage == Break::EndUncommitted
    }
    fn ignores_pauses(self) -> bool {
        self.sabotage == Break::IgnorePauses
    }
    fn ignores_uncommitted(self) -> bool {
        self.sabotage == Break::IgnoreUncommitted
    }
    fn serves_without_lease(self) -> bool {
        self.sabotage == Break::Replica(replication::Sabotage::IgnoreLease)
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// The end of the trace, if it was kept.
    pub trace: Vec<String>,
    /// Events handled.
    pub events: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Requests sent by the initiators.
    pub requests: u64,
    /// Reads and writes answered.
    pub answered: u64,
    /// Faults inflicted.
    pub faults: u64,
    /// Rounds of faults.
    pub rounds: u64,
    /// Problems that replicas reported.
    pub problems: u64,
    /// How often a copy got everything (S7).
    pub full_resyncs: u64,
    /// The last epoch.
    pub epochs: u64,
    /// The volume grew (S22).
    pub grown: bool,
    /// Goodbyes of secondaries that stopped in order, and were heard.
    pub goodbyes: u64,
    /// Its dirty block doubled meanwhile.
    pub doubled: bool,
    /// Longest time from the last fault to all in sync.
    pub recovered_ms: u64,
}

/// Runs one seed.
#[must_use]
pub fn run(options: Options) -> Outcome {
    world::World::new(options).run()
}

/// Runs a seed; if it fails, runs it again to tell how.
///
/// # Errors
/// The broken invariant with the end of the trace.
pub fn explain(options: Options) -> Result<Outcome, String> {
    let outcome = run(options);
    let Some(found) = &outcome.violation else { return Ok(outcome) };
    let again = run(Options { trace: Trace::Tail(120), ..options });
    let mut text = format!("seed {}: {} broken: {}\n", options.seed, found.invariant, found.text);
    for line in &again.trace {
        text.push_str(line);
        text.push('\n');
    }
    text.push_str(&format!(
        "again in full: FUTAGO_SIM_SEED={} cargo nextest run -p futago-simulation --no-capture one_seed\n",
        options.seed
    ));
    Err(text)
}
