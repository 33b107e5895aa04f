//! The cluster's decisions, without its messages: what the voters agree on, who may serve, and who steps in.
//!
//! - [`ClusterState`]: what the Raft log adds up to. [`ClusterState::apply`] is a function of the state and the
//!   [`Command`] alone, so that every voter reaches the same state; it is where "who may propose what" is enforced
//!   (S2, S3, S8, S15, S21, S22).
//! - [`Promise`]: what each node's releases understand, and with it the versions in which things are written down.
//! - [`lease`]: the right to serve (S5): the voter's side, the asker's side, and the storage process's guard.
//! - [`liveness`]: who is heard, and who hears.
//! - [`promotion`]: when this node proposes itself as primary (S3, S6), and what a hand-over request means.
//! - [`placement`]: how volumes that are served by different nodes come together again.
//!
//! Flow: storage and console ask → the manager proposes a [`Command`] → Raft commits → `apply` on every voter →
//! [`Outcome`] to whoever asked, the new state to every storage process. Beside it, every `renew`, each node sends a
//! [`lease::LeaseRequest`] to every member, itself included; answers become a [`control::link::Lease`].
//!
//! Invariants
//! - No clock, no randomness, no I/O: time, identifiers and messages come in from outside.
//! - [`ClusterState::validate`] holds after every `apply`; a refused command changes nothing but the record of the
//!   proposal's number (S21).
//! - Nothing here lets a node serve: only [`lease::Guard`], asked by the storage process on every command, together with
//!   the new primary's wait for the old lease, does.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod apply;
mod command;
mod formats;
pub mod lease;
pub mod liveness;
mod members;
pub mod placement;
pub mod promotion;
mod reservations;
mod state;
mod targets;
mod volume;
mod voters;

pub use command::{Command, Note, Outcome, Refusal, RefusalKind, Severity};
pub use formats::Promise;
pub use members::COPIES;
pub use state::{ClusterIdentity, ClusterState, LastNumber, MAX_VOLUME_BYTES, StateError, VolumeEntry};
pub use voters::Voters;

/// The versions of the messages between cluster managers that this build speaks; which of them a connection has is agreed
/// when it is made (docs/wire.md).
pub const MESSAGES: base::Versions = base::Formats::CURRENT.cluster;
