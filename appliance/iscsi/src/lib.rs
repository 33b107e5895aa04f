//! iSCSI target protocol (RFC 7143), error recovery level 0, one connection per session.
//!
//! Owns: the PDUs ([`pdu`]), login ([`login`], [`keys`], [`chap`]), and the connection machine ([`Connection`]):
//! sequence numbers, the command window, immediate, unsolicited and solicited data, digests, task management, text,
//! pings, logout. Never does I/O: the driver moves bytes between [`Connection`] and a socket, answers its calls
//! ([`Host`]), and reports completions.
//!
//! Flow: `receive` (framing) → `command` (order, memory, data) → [`Host::execute`] → [`Connection::complete`] →
//! `respond` → `transmit`.
//!
//! Invariants
//! - Any byte stream is met with a defined answer or the connection's end; nothing panics.
//! - Memory is bounded per connection ([`Limits`]) whatever the peer sends, and nothing is allocated per command in
//!   steady state.
//! - Data is held as handles ([`Host::Filling`], [`Host::Shared`]); a byte of a large segment is written once, by the
//!   socket, into the buffer that goes to the disk.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod chap;
mod connection;
pub mod keys;
pub mod login;
pub mod pdu;
mod serial;
pub mod text;

pub use connection::{CloseReason, CommandView, Completion, Connection, Host, Limits, Scope, TaskId};
