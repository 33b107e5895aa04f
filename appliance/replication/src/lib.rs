//! One volume's replica on one node, as a pure state machine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod api;
pub mod frame;
mod layout;
mod recover;
mod replica;
mod sabotage;

pub use api::{
    Answer, BlockRange, Buffer, Command, DiskOp, DiskResult, DiskToken, Identity, MAX_REQUEST_BYTES, Op,
    Options, Problem, Request, RequestError, RequestId, ResyncStatus, Status, Timing,
};
pub use layout::{EXTENT_BYTES, Layout, RECORD_BYTES};
pub use recover::{MetaRead, OpenError, Recovery, format};
pub use replica::Replica;
pub use sabotage::Sabotage;
