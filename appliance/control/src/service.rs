//! Health of the supervised services.

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// One service as the supervisor sees it; part of `status` (demo contract).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// `storage`, `cluster`, `web`, …
    pub name: String,
    /// What it is doing.
    pub state: ServiceState,
    /// Restarts since the supervisor started.
    pub restarts: u64,
    /// Start of the present state, seconds since the Unix epoch.
    pub since: u64,
}

/// State of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// Started, not yet reported ready.
    Starting,
    /// Running.
    Running,
    /// Ended by itself; waiting for its restart.
    BackingOff,
    /// Told to end, not gone yet.
    Stopping,
    /// Ended and meant to be.
    Stopped,
}
