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
//! - A change of persistent reservations is in force, and its command answered, only once it is committed (S15).
//! - A command without parameter data allocates nothing (READ and WRITE in particular).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod capacity;
mod cdb;
mod command;
mod compare;
mod diagnostic;
mod identity;
mod inquiry;
mod limits;
pub mod lun;
mod mode;
mod opcode;
mod persistent;
mod persistent_in;
mod persistent_out;
mod provisioning;
mod read_write;
mod report;
mod reservation_scsi2;
#[cfg(test)]
mod robustness_tests;
mod sense;
mod table;
mod target;
#[cfg(test)]
mod testing;
mod transport_id;
mod unit;
mod unit_attention;
mod verify;
mod vpd;

pub use command::{
    Command, Continuation, DataIn, Direction, Extent, Fault, MAX_PARAMETER_BYTES, NexusId, Operation,
    Outcome, Response, Status, Step, Transfer,
};
pub use identity::{InitiatorPort, TargetPort, naa, serial};
pub use sense::{Asc, FieldPointer, MAX_SENSE_BYTES, Sense, SenseBytes, SenseKey};
pub use target::Target;
pub use unit::{LogicalUnit, UnitConfig};

/// What a CDB says about its data. A command that is unknown or too long moves none: [`Target::execute`] refuses it
/// without looking at data, so nothing need be collected for it.
#[must_use]
pub fn expected_transfer(cdb: &[u8]) -> Transfer {
    let Some(cdb) = cdb::Cdb::new(cdb) else { return Transfer::NONE };
    opcode::Opcode::find(&cdb).map_or(Transfer::NONE, |entry| entry.data.transfer(&cdb))
}

/// Name of a CDB's command, for logs.
#[must_use]
pub fn command_name(cdb: &[u8]) -> Option<&'static str> {
    let cdb = cdb::Cdb::new(cdb)?;
    opcode::Opcode::find(&cdb).ok().map(|entry| entry.name)
}
