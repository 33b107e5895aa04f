//! The right to serve (S5).
//!
//! A primary serves only while a majority of the voters has granted it a lease, counted from the *sending* of its
//! requests. A voter whose log names somebody else, committed or not, grants nothing; and to promote somebody else, a
//! majority must have that in its log. So once a promotion is committed the old primary's lease runs out within
//! [`Timing::lease`](control::settings::Timing), however slow its clock may be told: within lease + drift on any other
//! node's clock. The new primary waits that long ([`WaitForOldLease`]). What served on a node before its machine started
//! is gone for certain, so that the same node, promoted again, need not wait for itself (the manager's `restart.rs`).
//!
//! - [`Voter`] answers requests; [`Holder`] sends them and counts; both live in the cluster manager.
//! - [`Guard`] lives in the storage process, which alone judges, on every command. [`WaitForOldLease`] is the rule of the
//!   new primary's wait for whoever is not a replica: the replica keeps it itself, and knows of its machine's starts.
//!
//! Invariants
//! - A grant is void unless asker and voter count by the same voters: so a grant majority and the majority of any
//!   membership that was committed since share a voter, joint consensus included.
//! - A lease that was complete when the voters change runs to its end, though none of its grants counts for another. Whoever
//!   granted it counted by the old voters then, but a majority of those has the change in its log before the new ones
//!   decide anything: so it was asked for before any later promotion was committed, and that waits for it.
//! - Nothing that was sent before a pause or clock step ([`Clocks`]) counts after it.

mod guard;
mod holder;
mod voter;

pub use guard::{Guard, WaitForOldLease};
pub use holder::Holder;
pub use voter::{LogView, Voter};

use crate::voters::Voters;
use alloc::vec::Vec;
use base::{InstanceId, Monotonic, NodeId, VolumeId};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Sent by every node to every member, itself included, each `renew`: a sign of life, and, with volumes, a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseRequest {
    /// Who asks.
    pub from: NodeId,
    /// This start of its cluster manager: an answer to an earlier one counts for nothing.
    pub incarnation: InstanceId,
    /// Counts its requests, from 1.
    pub sequence: u64,
    /// The sequence of the last of its requests that the receiver answered; 0: none yet. A node that hears no answers
    /// counts as dead, though it is heard.
    pub echo: u64,
    /// Its storage process, if that is connected.
    pub instance: Option<InstanceId>,
    /// Whom it counts as voters.
    pub voters: Voters,
    /// Volumes that it wants to serve.
    pub volumes: Vec<VolumeId>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseAnswer {
    /// Who answers.
    pub from: NodeId,
    /// Of the request.
    pub incarnation: InstanceId,
    /// Of the request.
    pub sequence: u64,
    /// The volumes granted.
    pub granted: Vec<VolumeId>,
}

/// Two clocks of one machine, read together. A paused machine may see one of them stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_BOOTTIME`: what leases are counted by.
    pub boot: Monotonic,
    /// Another one, best the host's; where there is none, the wall clock (its steps cost a lease, no more).
    pub host: Monotonic,
}

/// Notices that the machine, or this process, stood still, or that a clock was stepped.
#[derive(Clone, Copy, Debug, Default)]
struct GapDetector {
    last: Option<Clocks>,
}

impl GapDetector {
    /// Whether everything from before is void: since the last call more than `lease` went by on either clock, or the
    /// two went apart by more than `drift`.
    fn gap(&mut self, now: Clocks, lease: Duration, drift: Duration) -> bool {
        let Some(last) = self.last.replace(now) else { return false };
        let (boot, host) = (now.boot.since(last.boot), now.host.since(last.host));
        let backwards = now.boot < last.boot || now.host < last.host;
        backwards || boot > lease || host > lease || boot.abs_diff(host) > drift
    }
}
