//! One volume's replica on one node, as a pure state machine: bytes, events and a time go in, commands come out.
//!
//! The storage process and the simulator drive the same [`Replica`]: they execute what [`Replica::poll_command`] says,
//! report every completion by a `handle_*` method, and call [`Replica::handle_timeout`] when
//! [`Replica::poll_timeout`] is due. The engine never sees data, only handles on it ([`Buffer`]).
//!
//! # Invariants
//! - It obeys committed configurations and proposes changes; it never decides who is primary (S3, S21).
//! - Epochs: nothing is answered, to initiators or the peer, below the highest epoch heard of (`epoch.rs`, S4, S6).
//! - Sessions: at most one, in one epoch; frames of any other are dropped (`session.rs`, `handshake.rs`,
//!   S4, S7, S10).
//! - Writes: the extent is in the durable activity log before any disk is touched (`write.rs`, `activity_log.rs`, S9);
//!   an answer needs every in-sync copy (S1) or a committed configuration without the one that is silent (S2).
//! - Ranges: overlapping work runs one after the other, first come first served (`range_lock.rs`, S18).
//! - Answers: only under a valid lease, checked at receipt and again before the answer (`serve.rs`, S5).
//! - Size: acted in only when every bit of it is durable, proposed only when every in-sync copy has room (`resize.rs`,
//!   S22).
//! - A disk that hangs takes its copy out of service, as long as it hangs (`watch.rs`, S11).
//! - Records: two places, checksum, sequence, identity; relied on only when both hold them (`record.rs`, S12).
//! - Versions: records are written in the version in force, and those of an older one are written anew (`rewrite.rs`).
//!
//! # Flow of a write
//! `serve.rs` checks and files it → `range_lock.rs` → `write.rs` has the extents logged, submits it to the local disk and
//! sends it to the peer → `apply.rs` on the peer → both confirmed → `write.rs` settles it → `serve.rs` answers.
//!
//! # Limits
//! Two replicas of a volume; write-through. Other configurations are reported as [`Problem::Unsupported`] and not
//! served.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod activity_log;
mod api;
mod apply;
mod bitmap;
mod epoch;
pub mod frame;
mod handover;
mod handshake;
mod job;
mod layout;
mod range_lock;
mod read;
mod record;
mod recover;
mod replica;
mod resize;
mod resync;
mod rewrite;
mod sabotage;
mod serve;
mod session;
mod slab;
mod superblock;
mod timers;
mod validate;
mod watch;
mod write;

pub use api::{
    Answer, BlockRange, Buffer, Command, DiskOp, DiskResult, DiskToken, Identity, MAX_REQUEST_BYTES, Op,
    Options, Problem, Request, RequestError, RequestId, ResyncStatus, Status, Timing,
};
pub use layout::{EXTENT_BYTES, Layout, RECORD_BYTES, SUPERBLOCK_OFFSETS};
pub use recover::{MetaRead, OpenError, Recovery, format, format_growth};
pub use replica::Replica;
pub use sabotage::Sabotage;
