//! The SCSI device server: CDBs in, backend operations and responses out. It never does I/O.
//!
//! Flow: the transport asks [`expected_transfer`] how much data a CDB moves, collects data-out, and calls
//! [`Target::execute`]. That answers a [`Response`], or an [`Operation`] with a [`Continuation`]; the caller runs the
//! operation and passes the [`Outcome`] to [`Target::resume`], which answers likewise.
//!
//! Invariants
//! - Any CDB with any parameter bytes gets a valid status; nothing panics.
//! - An operation's extent is not empty and lies within the capacity.
//! - Identity (serial, NAA, port names) is a pure function of committed ids: every node answers the same.
//! - A LUN that is configured never answers 5/25/00; one that is not served answers 2/04/0A.
//! - A command without parameter data allocates nothing (READ and WRITE in particular).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod identity;
pub mod lun;
mod sense;
mod target;
mod unit;
mod unit_attention;

pub use command::{
    Command, Continuation, DataIn, Direction, Extent, Fault, NexusId, Operation, Outcome, Response, Status,
    Step, Transfer,
};
pub use identity::{InitiatorPort, TargetPort, naa, serial};
pub use sense::{Asc, FieldPointer, MAX_SENSE_BYTES, Sense, SenseBytes, SenseKey};
pub use target::Target;
pub use unit::{LogicalUnit, UnitConfig};

/// What a CDB says about its data. Unknown commands move none.
#[must_use]
pub fn expected_transfer(cdb: &[u8]) -> Transfer {
    let _ = cdb;
    Transfer::NONE
}
