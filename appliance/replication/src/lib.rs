//! One volume's replica on one node, as a pure state machine.
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
mod job;
mod layout;
mod range_lock;
mod read;
mod record;
mod recover;
mod replica;
mod resync;
mod sabotage;
mod serve;
mod session;
mod slab;
mod superblock;
mod timers;
mod validate;
mod write;

pub use api::{
    Answer, BlockRange, Buffer, Command, DiskOp, DiskResult, DiskToken, Identity, MAX_REQUEST_BYTES, Op,
    Options, Problem, Request, RequestError, RequestId, ResyncStatus, Status, Timing,
};
pub use layout::{EXTENT_BYTES, Layout, RECORD_BYTES};
pub use recover::{MetaRead, OpenError, Recovery, format};
pub use replica::Replica;
pub use sabotage::Sabotage;
