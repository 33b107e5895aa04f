//! The cluster manager of one node, `futago cluster`: the driver of crate `cluster`.
//!
//! - [`raft`]: consensus, durable in `raft.redb`; [`proposals`]: commands to the leader, from any node.
//! - [`server`] and [`peers`]: the cluster port, and connections to the others' ([`messages`], mutual TLS).
//! - [`pairing`]: how a node comes in; [`removal`]: how it goes; [`membership`]: who is let in, and who votes (S19);
//!   [`copies`]: which nodes have room for a copy of a volume.
//! - [`formats`]: what this node's releases understand, promised to the others, and what is in force, for PID 1.
//! - [`heartbeat`]: signs of life, leases, promotions (S3, S5, S6).
//! - [`link`]: the storage process of this node; [`api`], [`status`], [`hand_over`], [`grow`],
//!   [`events`]: the control socket; [`tunnel`]: what the web processes of members say to each other.
//!
//! Flow of a change: storage (or a person) proposes → [`proposals`] finds the leader → Raft commits → every node's
//! state machine applies → [`membership::follow`] tells storage and wakes the heart, which asks for leases anew.
//!
//! Invariants
//! - Nothing here lets storage serve but a lease that a majority of the voters granted (S5), and storage judges it.
//! - What is told to storage is committed; what a voter judges leases by is its whole log.
//! - If Raft stops (full disk, damaged log), the process ends with an error that names the file: a manager without its
//!   log does nothing.
#![forbid(unsafe_code)]

mod api;
mod clock;
mod copies;
mod events;
mod formats;
mod grow;
mod hand_over;
mod heartbeat;
mod link;
mod membership;
mod messages;
mod node;
mod pairing;
mod peers;
mod proposals;
mod raft;
mod removal;
mod restart;
mod server;
mod status;
#[cfg(test)]
mod tests;
mod tunnel;

/// The decoders of what peers send: for fuzzing.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    use crate::messages::{RequestFrame, ResponseFrame};

    /// Decodes `bytes` as a request and as a response; what is one survives being written.
    ///
    /// # Panics
    /// It does not.
    #[allow(clippy::expect_used)]
    pub fn decode(bytes: &[u8]) {
        if let Ok(frame) = serde_json::from_slice::<RequestFrame>(bytes) {
            let written = serde_json::to_vec(&frame).expect("a request that can't be written");
            serde_json::from_slice::<RequestFrame>(&written).expect("a request that can't be read back");
        }
        if let Ok(frame) = serde_json::from_slice::<ResponseFrame>(bytes) {
            let written = serde_json::to_vec(&frame).expect("a response that can't be written");
            serde_json::from_slice::<ResponseFrame>(&written).expect("a response that can't be read back");
        }
    }
}

use anyhow::Context;
use std::path::Path;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the cluster manager of the node whose directory is `dir` until SIGTERM or SIGINT.
///
/// # Errors
/// It can't start, or can't go on: the message names the file, address or port.
pub fn run(dir: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("threads of the cluster manager")?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut manager = node::Manager::start(dir).await?;
        let result = tokio::select! {
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            error = manager.failed() => Err(error),
        };
        manager.stop().await;
        result
    })
}
