//! What a seed is about: the size of the volume, how the initiators behave, and which faults are likely.

use crate::rng::{Nanos, Rng};
use base::ByteCount;
use std::ops::Range;

/// What a run dwells on. Each is where one or two rules were once found missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    /// Some of everything.
    Mixed,
    /// Storage processes restart faster than the peer time-out (S6).
    FastRestarts,
    /// Proposals are delayed, their answers lost; peers come and go while they grow (S2, S8).
    LateCommits,
    /// Voters lag, leaders are cut off, primaries keep asking them for their lease (S5).
    StaleVoters,
    /// The peer's disk is slow while connections break (S4).
    SlowPeerDisk,
    /// Power cuts, of one node or of all (S7, S9).
    PowerCuts,
    /// VMs pause, with and without their clocks (S5).
    Pauses,
    /// Hand-overs, wanted and interrupted (S3).
    HandOvers,
    /// Secondaries stop in order, while commits and links are slow (S2).
    Goodbyes,
    /// Who has just become primary starts anew while the one before it may serve (S5).
    Successors,
}

const FOCI: [Focus; 10] = [
    Focus::Mixed,
    Focus::FastRestarts,
    Focus::LateCommits,
    Focus::StaleVoters,
    Focus::SlowPeerDisk,
    Focus::PowerCuts,
    Focus::Pauses,
    Focus::HandOvers,
    Focus::Goodbyes,
    Focus::Successors,
];

impl Focus {
    /// The focus of that name, as `Debug` writes it.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        FOCI.into_iter().find(|focus| format!("{focus:?}") == name)
    }
}

/// A fault, before its details are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    RestartStorage,
    RestartManager,
    PowerCut,
    PowerCutBoth,
    Pause,
    CutOneWay,
    Isolate,
    /// The data nodes hear only the witness.
    CutApart,
    CutMirror,
    BreakConnection,
    SlowDisk,
    /// It answers nothing for a while (S11).
    HungDisk,
    /// Writes fail for a while (S11).
    BadDisk,
    SlowLink,
    NoLeader,
    SlowApply,
    HandOver,
    /// The administrator wants a larger volume, or no longer does (S22).
    Grow,
    Stop,
    /// Of the one that does not serve.
    StopSecondary,
}

/// One seed's parameters.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) focus: Focus,
    pub(crate) size: ByteCount,
    /// Larger sizes that it may get, one after the other.
    larger: Vec<ByteCount>,
    /// First 512-byte blocks of the 4 KiB units that the initiators use.
    hot: Vec<u64>,
    pub(crate) clients: usize,
    pub(crate) think_ms: Range<u64>,
    /// Rounds of faults, each followed by calm.
    pub(crate) rounds: u64,
    pub(crate) chaos_ms: Range<u64>,
    pub(crate) fault_gap_ms: Range<u64>,
    pub(crate) faults: Vec<FaultKind>,
    pub(crate) slow_io_permille: u64,
    pub(crate) slow_frame_permille: u64,
    pub(crate) corrupt_permille: u64,
    /// How often a metadata record goes bad while the process is down.
    pub(crate) rot_percent: u64,
    pub(crate) lost_message_permille: u64,
    pub(crate) late_proposal_permille: u64,
}

impl Scenario {
    pub(crate) fn draw(rng: &mut Rng, focus: Option<Focus>, huge: bool) -> Self {
        let drawn = rng.pick(&FOCI);
        let focus = focus.unwrap_or(drawn);
        // Mostly one extent; now and then more than the activity log has slots.
        let extents = if rng.chance(25) { 10 } else { 1 };
        let size = match extents {
            _ if huge => ByteCount(4 << 40),
            1 => ByteCount::kib(256),
            _ => ByteCount(extents * replication::EXTENT_BYTES),
        };
        let units = rng.within(2..8);
        let mut hot: Vec<u64> = (0..extents)
            .flat_map(|extent| (0..if extents == 1 { units } else { 2 }).map(move |unit| (extent, unit)))
            .map(|(extent, unit)| (extent * replication::EXTENT_BYTES + unit * 4096) / 512)
            .collect();
        hot.dedup();
        // Within the last extent, into another one, and by so many that the activity log gets slots.
        let grown =
            [ByteCount(size.0 + (64 << 10)), ByteCount(size.0 + (5 << 20)), ByteCount(size.0 + (40 << 20))];
        let parts = [size].into_iter().chain(grown);
        hot.extend(parts.take(grown.len()).flat_map(|start| [start.0 / 512, start.0 / 512 + 8]));
        Self {
            focus,
            size,
            larger: grown.to_vec(),
            hot,
            clients: usize::try_from(rng.within(1..5)).unwrap(),
            think_ms: if rng.chance(30) { 0..8 } else { 5..120 },
            rounds: rng.within(1..4),
            chaos_ms: 3_000..9_000,
            fault_gap_ms: if rng.chance(50) { 50..800 } else { 300..2500 },
            faults: likely(focus),
            slow_io_permille: rng.pick(&[2, 20, 100]),
            slow_frame_permille: rng.pick(&[1, 10, 60]),
            corrupt_permille: rng.pick(&[0, 0, 0, 2]),
            rot_percent: rng.pick(&[0, 0, 10]),
            lost_message_permille: rng.pick(&[1, 20, 100]),
            late_proposal_permille: if focus == Focus::LateCommits { 300 } else { rng.pick(&[5, 50]) },
        }
    }

    /// The next larger size.
    pub(crate) fn larger(&self, size: ByteCount) -> Option<ByteCount> {
        self.larger.iter().copied().find(|larger| *larger > size)
    }

    /// The 4 KiB units that initiators may use, by their first block.
    pub(crate) fn hot(&self) -> &[u64] {
        &self.hot
    }

    /// What a request touches in a volume of `size`: from one block to a little over two units.
    pub(crate) fn blocks(&self, rng: &mut Rng, size: ByteCount) -> Range<u64> {
        let hot = rng.pick(&self.hot);
        // What is not there yet, stand in for by what is.
        let hot = if (hot + 8) * 512 > size.0 { rng.pick(&self.hot[..2]) } else { hot };
        let first = hot + if rng.chance(50) { 0 } else { rng.within(0..8) };
        let count = match rng.within(0..4) {
            0 => 1,
            1 => rng.within(1..8),
            2 => 8,
            _ => rng.within(8..20),
        };
        let end = size.0 / 512;
        first..(first + count).min(end)
    }

    pub(crate) fn fault_gap(&self, rng: &mut Rng) -> Nanos {
        rng.ms(self.fault_gap_ms.clone())
    }
}

/// The faults of a focus; what stands twice comes twice as often.
fn likely(focus: Focus) -> Vec<FaultKind> {
    use FaultKind::*;
    let mut faults = vec![RestartStorage, PowerCut, CutMirror, BreakConnection, CutOneWay, Grow];
    faults.extend_from_slice(match focus {
        Focus::Mixed => &[
            RestartManager,
            PowerCutBoth,
            Pause,
            Isolate,
            SlowDisk,
            HungDisk,
            BadDisk,
            SlowLink,
            NoLeader,
            SlowApply,
            CutApart,
            HandOver,
            Stop,
        ],
        Focus::FastRestarts => &[RestartStorage; 8],
        Focus::LateCommits => &[
            SlowLink,
            NoLeader,
            NoLeader,
            CutMirror,
            CutMirror,
            BreakConnection,
            RestartStorage,
            Isolate,
            SlowLink,
            BadDisk,
            BadDisk,
        ],
        Focus::StaleVoters => {
            &[SlowApply, Isolate, CutApart, SlowApply, NoLeader, CutApart, CutApart, SlowApply, CutOneWay]
        }
        Focus::SlowPeerDisk => &[
            SlowDisk,
            SlowDisk,
            SlowDisk,
            HungDisk,
            BadDisk,
            BreakConnection,
            BreakConnection,
            CutMirror,
            RestartStorage,
        ],
        Focus::PowerCuts => &[PowerCut, PowerCutBoth, PowerCutBoth, PowerCut, RestartStorage, SlowDisk],
        Focus::Pauses => &[Pause, Pause, Pause, Pause, Isolate, NoLeader],
        Focus::HandOvers => &[HandOver, HandOver, HandOver, HandOver, Stop, Stop, SlowLink, NoLeader],
        Focus::Goodbyes => &[
            StopSecondary,
            StopSecondary,
            StopSecondary,
            StopSecondary,
            Stop,
            SlowLink,
            NoLeader,
            CutMirror,
            RestartStorage,
        ],
        Focus::Successors => &[CutApart, CutApart, CutApart, CutApart, Isolate, Isolate],
    });
    faults
}
