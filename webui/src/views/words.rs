//! One word, one tone and one mark for every state, the same on pages and on the command line. A state is never
//! told by colour alone.

use control::api::{MemberStatus, VolumeState};
use control::service::ServiceState;
use control::settings::Role;

/// How a state looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    /// The word, capitalised.
    pub(crate) word: &'static str,
    /// `good`, `busy`, `warn`, `bad` or `quiet`: the colour.
    pub(crate) tone: &'static str,
    /// What it means, in a sentence.
    pub(crate) meaning: &'static str,
}

/// A LUN's.
pub(crate) fn access(read_only: bool) -> &'static str {
    if read_only { "read-only" } else { "writable" }
}

/// A volume's.
pub(crate) fn volume(state: VolumeState) -> State {
    match state {
        VolumeState::Healthy => {
            State { word: "Healthy", tone: "good", meaning: "Every copy holds every acknowledged write." }
        }
        VolumeState::Degraded => State {
            word: "Degraded",
            tone: "warn",
            meaning: "Served from fewer copies than there should be. Another failure may stop it.",
        },
        VolumeState::Resyncing => State {
            word: "Resyncing",
            tone: "busy",
            meaning: "Served while a returned copy is brought up to date. It protects nothing until that is done.",
        },
        VolumeState::Suspended => State {
            word: "Suspended",
            tone: "bad",
            meaning: "Reads and writes wait; none fails and none is guessed. It goes on once a majority and an \
                      up-to-date copy are back.",
        },
        VolumeState::Offline => {
            State { word: "Offline", tone: "bad", meaning: "Not served, and no node tries to." }
        }
    }
}

/// A service's.
pub(crate) fn service(state: ServiceState) -> State {
    let (word, tone, meaning) = match state {
        ServiceState::Starting => ("Starting", "busy", "Started, not ready yet."),
        ServiceState::Running => ("Running", "good", "Running."),
        ServiceState::BackingOff => ("Restarting", "bad", "Ended by itself; waits for its restart."),
        ServiceState::Stopping => ("Stopping", "warn", "Told to end."),
        ServiceState::Stopped => ("Stopped", "quiet", "Ended, as it was told."),
    };
    State { word, tone, meaning }
}

/// What a service does, for people.
pub(crate) fn service_title(name: &str) -> &str {
    match name {
        "storage" => "Replication engine and iSCSI target",
        "cluster" => "Cluster manager",
        "web" => "Web console",
        "console" => "Screen console",
        "time" => "Time synchronisation",
        other => other,
    }
}

/// Members as they are listed: data nodes first, then by name.
pub(crate) fn in_order(members: &[MemberStatus]) -> Vec<&MemberStatus> {
    let mut sorted: Vec<&MemberStatus> = members.iter().collect();
    sorted.sort_by_key(|m| (m.role == Role::Witness, m.name.as_str()));
    sorted
}

/// A node's.
pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Data => "data",
        Role::Witness => "witness",
    }
}
