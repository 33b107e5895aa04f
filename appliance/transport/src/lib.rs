//! Trust and bytes between nodes: who a node is ([`identity`]), mutual TLS 1.3 with pinned certificates ([`tls`]),
//! length-prefixed frames on top of it ([`framing`]), and how two nodes come to trust each other ([`pairing`]). Beside
//! that, the limit on connections that have not proven who they are ([`door`]), and the clocks by which both processes
//! count leases ([`clock`]).
//!
//! Flow: a node makes its [`identity::Identity`] at its first start. Pairing tells two nodes each other's
//! [`pairing::Card`], bound to a short code that a person carried over. From then on every connection is opened with
//! [`tls::Endpoint::connect`] or taken with [`tls::Endpoint::accept`], which let in pinned certificates alone.
//!
//! Invariants
//! - There is no certificate authority and no host name: a certificate is good if and only if the SHA-256 of its
//!   DER is pinned to the node, and the peer proves in the handshake that it holds the key.
//! - Nothing is resumed: every connection does the whole handshake against the pins of that moment.
//! - Before trust exists, only [`pairing`] speaks in the clear, and it reveals nothing that helps to guess the code.
//! - A secret is never logged and never leaves its file or the process's memory.
#![forbid(unsafe_code)]

pub mod clock;
pub mod door;
pub mod framing;
pub mod identity;
pub mod pairing;
pub mod tls;

pub use identity::{Identity, Pin};
pub use tls::{Endpoint, Protocol, TlsStream, protocol_of, version_of};

/// A random 64-bit number, never zero, for identifiers.
///
/// # Errors
/// The kernel's random source failed.
pub fn random_id() -> std::io::Result<u64> {
    loop {
        let id = random_u64()?;
        if id != 0 {
            return Ok(id);
        }
    }
}

fn random_u64() -> std::io::Result<u64> {
    getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))
}
