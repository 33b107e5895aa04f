//! Links, addresses, routes, the host name, the floating address with its announcement, DHCP and DNS. No policy: who holds
//! the floating address is decided elsewhere.
//!
//! # Flow
//!
//! [`Netlink`] sends one request at a time to the kernel (rtnetlink(7)) and waits for its answer; `message` encodes and
//! decodes these, `arp` builds the announcement (both pure). [`FloatingAddress`] puts them together. [`dhcp`] (pure) is
//! how a machine that nobody has given an address asks for one, [`dns`] (pure) how a name becomes an address.
//!
//! # Invariants
//!
//! - Every change can be asked for again: what is already so is no error, as is taking away what is not there.
//! - Every call answers within milliseconds; only announcements take longer, in a thread of their own.

mod arp;
pub mod dhcp;
pub mod dns;
mod floating;
mod message;
mod netlink;

pub use floating::FloatingAddress;
pub use netlink::{Interface, Netlink};

use rustix::io::Errno;

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{action}")]
pub struct NetError {
    /// What was to be done, with the names of the things.
    action: String,
    /// The kernel's answer.
    #[source]
    source: Errno,
}

impl NetError {
    pub(crate) fn new(action: impl Into<String>, source: Errno) -> Self {
        Self { action: action.into(), source }
    }

    /// The kernel's answer.
    #[must_use]
    pub fn errno(&self) -> Errno {
        self.source
    }
}

/// Sets the host name.
///
/// # Errors
///
/// Not permitted, or a name over 64 bytes.
pub fn set_hostname(name: &str) -> Result<(), NetError> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| NetError::new(format!("set host name {name}"), e))
}
