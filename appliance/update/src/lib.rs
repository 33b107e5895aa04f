//! Updates of the appliance, as far as they decide something: what a bundle is, whether a node may take it, and in which
//! order a cluster's nodes take it.
//!
//! - [`bundle`]: the file `futago-VERSION.update`, its header and signature (docs/update.md).
//! - [`rule`]: whether a bundle may replace the release that runs.
//! - [`rolling`]: in which order a cluster's nodes take it, and when that stops.
//! - [`slots`]: the system disk's slots and what the boot loader is told of them.
//!
//! # Invariants
//!
//! - Nothing of a bundle is believed before its signature: [`bundle::Header`] comes out of [`bundle::verify`] or, unbelieved,
//!   of [`bundle::Claimed::decode`].
//! - A rolling update touches a node only while every other one is well ([`rolling`]).
//! - A release never gets to see state that a newer one has written in a format that it does not know ([`rule`]), and none is
//!   taken that could not talk to the other members of its cluster.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bundle;
pub mod rolling;
pub mod rule;
pub mod slots;

pub use base::{Format, Formats, Levels, Versions};
pub use bundle::{BundleError, Claimed, HEADER_BYTES, Header, Part, PublicKey, Sha256, verify};
pub use rule::{Refusal, judge};
pub use semver::Version;
