//! Vocabulary shared by every room: identifiers, block addresses, time, the byte
//! reader and writer, CRC32C, and the committed configuration of a volume.
//!
//! Invariants
//! - Nothing here does I/O, reads a clock or allocates identifiers: values come in from outside.
//! - Numbers with a unit have a type of their own ([`Lba`], [`ByteCount`], [`Epoch`], …); no `as` between them.
//! - Decoding is total: [`Reader`] answers an error for short input, and decoders finish with
//!   [`Reader::finish`], so trailing bytes are an error too.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod bytes;
pub mod formats;
mod id;
mod repeats;
mod reservations;
mod time;
mod units;
mod version;
mod volume;

pub use bytes::{DecodeError, Reader, Writer, crc32c};
pub use formats::{Format, Formats, Levels};
pub use id::{ClusterId, InstanceId, NodeId, ReplicaId, SessionId, VolumeId};
pub use repeats::Repeats;
pub use reservations::{
    CommittedReservations, InitiatorPort, MAX_ISCSI_NAME_BYTES, MAX_REGISTRATIONS, Registration, Reservation,
    ReservationProposal, ReservationType, Reservations,
};
pub use time::Monotonic;
pub use units::{ByteCount, Epoch, LOGICAL_BLOCK_BYTES, Lba};
pub use version::{Versions, next};
pub use volume::{Change, EpochReason, Proposal, ProposalId, VolumeConfig};
