//! Hostile bytes: one target per decoder and machine that meets bytes from outside.
//!
//! A target is an ordinary function from bytes to nothing that panics on a fault. `cargo test -p futago-fuzz` runs each
//! over its committed corpus (`corpus/TARGET/`) and over seeded random and mutated inputs; `ci/fuzz` runs one under
//! libFuzzer with coverage. docs/testing.md says how.
//!
//! - [`pdu`]: every iSCSI PDU's header. [`login`]: login text, CHAP and the login machine.
//! - [`session`]: the connection machine, an initiator that keeps the rules, breaks them, or sends noise.
//! - [`device`]: CDBs and parameter lists at the SCSI device server, with its units in every state.
//! - [`frames`]: replication frames. [`metadata`]: a replica's records on disk. [`disks`]: labels and pool tables.
//! - [`messages`]: storage link, cluster messages, committed commands, settings. [`pairing`]: pairing, both halves.
//! - [`updates`]: an update's header.
//! - [`network`]: the DHCP client, answers of DNS servers.
//!
//! Test code only: it may unwrap, and a panic is the report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

pub mod device;
pub mod disks;
pub mod frames;
pub mod login;
pub mod messages;
pub mod metadata;
pub mod network;
pub mod pairing;
pub mod pdu;
pub mod session;
pub mod updates;

/// A target: panics on a fault.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("pdu", pdu::target),
    ("login", login::target),
    ("session", session::target),
    ("device", device::target),
    ("frames", frames::target),
    ("metadata", metadata::target),
    ("disks", disks::target),
    ("messages", messages::target),
    ("pairing", pairing::target),
    ("updates", updates::target),
    ("network", network::target),
];

/// The target named `name`.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
}
