//! Identifiers. All are random 64-bit numbers, never zero, drawn by the drivers; zero means "none"
//! on the wire and on disk.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! identifier {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    )+};
}

identifier! {
    /// A node, bound to its key and its Raft log for life (safety.md S20: a voter without its log is a new node).
    NodeId,
    /// One cluster, drawn when it is created.
    ClusterId,
    /// One volume, drawn by the command that creates it.
    VolumeId,
    /// One start of a storage process (S6, S20): drawn at start, never stored as "ours" across starts.
    InstanceId,
    /// One replication connection (S4).
    SessionId,
    /// One physical copy of a volume: changes when a copy is made anew on other space (S12).
    ReplicaId,
}
